"""lunarray: array-native tools for lunar science data.

Importing the package registers the ``.lunar`` accessor on :class:`xarray.Dataset` and :class:`xarray.DataArray`.
Readers and rooms load when they are first used, so the import costs little more than that of xarray itself.

>>> import lunarray as la
>>> sp = la.open_sp("SP_2C_*.spc")
>>> maps = sp.lunar.grid("north", resolution=500).lunar.invert_oxides()
>>> maps.lunar.to_zarr("north_oxides.zarr")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lunarray import (
    accessor as accessor,
)  # registers `.lunar`: a test sees to it that this import stays
from lunarray.versions import __version__

if TYPE_CHECKING:
    from lunarray.engine.clusters import cluster
    from lunarray.fractures.io import open_nac
    from lunarray.sp.cubes import open_cube, open_sp_cube
    from lunarray.sp.io import open_sp
    from lunarray.store.api import open_zarr
    from lunarray.versions import show_versions
    from lunarray.xrf.io import open_class

_VERBS = {
    "cluster": "lunarray.engine",
    "open_sp": "lunarray.sp",
    "open_sp_cube": "lunarray.sp",
    "open_class": "lunarray.xrf",
    "open_cube": "lunarray.sp",
    "open_nac": "lunarray.fractures",
    "open_zarr": "lunarray.store",
    "show_versions": "lunarray.versions",
}
_ROOMS = (
    "engine", "errors", "export", "fractures", "geo", "oxides", "plot", "simulate", "sp", "store", "superres", "xrf",
)  # fmt: skip

__all__ = [
    "__version__",
    "cluster",
    "open_class",
    "open_cube",
    "open_nac",
    "open_sp",
    "open_sp_cube",
    "open_zarr",
    "show_versions",
]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(importlib.import_module(_VERBS[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"lunarray.{name}")
    raise AttributeError(f"module 'lunarray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
