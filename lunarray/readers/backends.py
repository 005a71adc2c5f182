"""Readers as engines of xarray: ``xr.open_dataset(path, engine="kaguya-sp")``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from lunarray.errors import InputError
from lunarray.readers.files import Errors
from lunarray.readers.protocol import Reader

#: Endings that other engines of xarray open: without ``engine=`` such files stay theirs.
_OF_OTHERS = (
    ".tif", ".tiff", ".geotiff", ".vrt", ".img", ".png", ".jpg", ".jpeg", ".jp2", ".j2k", ".asc",
    ".nc", ".nc4", ".cdf", ".h5", ".hdf5", ".grib", ".grb",
)  # fmt: skip


def backend(reader: Reader) -> type[BackendEntrypoint]:
    """Make an xarray engine of a reader.

    A package announces it as an entry point of the group ``xarray.backends``, beside that of its reader.

    Parameters
    ----------
    reader : Reader
        Which.

    Returns
    -------
    type of xarray.backends.BackendEntrypoint
        Its ``open_dataset`` takes the reader's options, `drop_variables` and, as :func:`lunarray.open` does, `product`
        and `errors`. Variables are read when they are needed: by Dask with ``chunks=``, without Dask otherwise. An
        image becomes a Dataset of one variable.

    Examples
    --------
    >>> import xarray as xr
    >>> from lunarray.readers import available, backend
    >>> engine = backend(available()["kaguya-sp"])
    >>> xr.open_dataset("SP_2C_03_04184_N187_E0053.spc", engine=engine)  # doctest: +SKIP
    """
    return type(
        f"Backend[{reader.name}]",
        (_Backend,),
        {"reader": reader, "description": reader.description, "__module__": __name__},
    )


class _Backend(BackendEntrypoint):
    """The one engine, of whichever reader."""

    reader: ClassVar[Reader]
    # Named, for xarray reads no names from a signature that ends in **options.
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "product", "errors")

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        product: str | None = None,
        errors: Errors = "raise",
        **options: Any,
    ) -> xr.Dataset:
        from lunarray.readers.opening import open

        if hasattr(filename_or_obj, "read"):
            raise InputError(
                "an open file", where="filename_or_obj", remedy="Give its path: readers open files"
            )
        opened = open(
            filename_or_obj, reader=self.reader, product=product, errors=errors, **options
        )
        ds = _as_dataset(opened) if isinstance(opened, xr.DataArray) else opened
        if drop_variables is not None:
            names = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables)
            ds = ds.drop_vars(names, errors="ignore")
        return _read_when_needed(ds)

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        path = os.fspath(filename_or_obj)
        if path.lower().endswith(_OF_OTHERS) or not os.path.exists(path):
            return False
        return self.reader.certain(path)


def _as_dataset(array: xr.DataArray) -> xr.Dataset:
    ds = array.to_dataset(name=array.name or "data")
    ds.attrs = {
        k: array.attrs[k] for k in ("source", "history", "lunarray_version") if k in array.attrs
    }
    return ds


def _read_when_needed(ds: xr.Dataset) -> xr.Dataset:
    """The Dataset with arrays of xarray's own lazy kind in the place of Dask's, cut as these are when chunks are asked
    for."""
    variables = {}
    for name, variable in ds.variables.items():
        if variable.chunks is not None:
            chunks = dict(zip(variable.dims, variable.chunks, strict=True))
            encoding = {**variable.encoding, "preferred_chunks": chunks}
            data = indexing.LazilyIndexedArray(_Blocks(variable.data))
            variable = xr.Variable(variable.dims, data, variable.attrs, encoding)
        elif variable.dtype == object and all(isinstance(v, str) for v in variable.values.flat):
            variable = variable.astype(str)  # of objects nobody knows the size: no chunks="auto"
        variables[name] = variable
    coords = {name: variables.pop(name) for name in list(ds.coords) if name not in ds.xindexes}
    held = {name: ds.coords[name] for name in ds.xindexes}
    return xr.Dataset(
        {name: variables[name] for name in ds.data_vars}, {**held, **coords}, ds.attrs
    )


class _Blocks(BackendArray):
    """Blocks of Dask, which read files, as an array that reads what it is asked for."""

    __slots__ = ("array", "dtype", "shape")

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER_1VECTOR, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        # In this thread: inside a task of a cluster, another scheduler would wait for the place that the task holds.
        return np.asarray(self.array[key].compute(scheduler="synchronous"))
