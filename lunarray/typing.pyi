from collections.abc import Callable, Hashable, Iterable
from typing import Any, ParamSpec, Self, TypeVar, overload

import xarray as xr
from odc.geo.xr import ODCExtensionDa, ODCExtensionDs
from rioxarray.raster_array import RasterArray
from rioxarray.raster_dataset import RasterDataset

from lunarray.accessor import LunarDataArrayAccessor, LunarDatasetAccessor

__all__ = ["DataArray", "Dataset", "T", "typed", "typed_either"]

class Dataset(xr.Dataset):
    @property
    def lunar(self) -> LunarDatasetAccessor: ...
    @property
    def rio(self) -> RasterDataset: ...
    @property
    def odc(self) -> ODCExtensionDs: ...
    # Accessors of others, whose types are theirs to tell.
    cf: Any
    hvplot: Any
    pint: Any
    @overload
    def __getitem__(self, key: Hashable) -> DataArray: ...
    @overload
    def __getitem__(self, key: Iterable[Hashable]) -> Self: ...
    # A name that is none of the above is that of a variable.
    def __getattr__(self, name: str) -> DataArray: ...
    def to_dataarray(self, dim: Hashable = ..., name: Hashable | None = ...) -> DataArray: ...

class DataArray(xr.DataArray):
    @property
    def lunar(self) -> LunarDataArrayAccessor: ...
    @property
    def rio(self) -> RasterArray: ...
    @property
    def odc(self) -> ODCExtensionDa: ...
    cf: Any
    hvplot: Any
    pint: Any
    # A name that is none of the above is that of a coordinate.
    def __getattr__(self, name: str) -> DataArray: ...
    def to_dataset(
        self,
        dim: Hashable | None = ...,
        *,
        name: Hashable | None = ...,
        promote_attrs: bool = ...,
    ) -> Dataset: ...

# xarray's own steps keep a subclass, so the first of these that fits is the narrowest.
T = TypeVar("T", xr.Dataset, xr.DataArray, Dataset, DataArray)

_P = ParamSpec("_P")

@overload
def typed(obj: xr.Dataset) -> Dataset: ...
@overload
def typed(obj: xr.DataArray) -> DataArray: ...
@overload
def typed(obj: Callable[_P, xr.Dataset]) -> Callable[_P, Dataset]: ...
@overload
def typed(obj: Callable[_P, xr.DataArray]) -> Callable[_P, DataArray]: ...
@overload
def typed(obj: Callable[_P, dict[str, xr.Dataset]]) -> Callable[_P, dict[str, Dataset]]: ...

# Apart from the others: beside them mypy would find two that fit where a parameter is Any, and give up.
def typed_either(
    obj: Callable[_P, xr.Dataset | xr.DataArray],
) -> Callable[_P, Dataset | DataArray]: ...
