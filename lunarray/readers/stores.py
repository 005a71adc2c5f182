"""Readers of what is no instrument's: stores of lunarray, and files that xarray opens by itself."""

from __future__ import annotations

import os
from typing import Any

import xarray as xr

from lunarray.errors import ProductFormatError
from lunarray.readers.backends import backend
from lunarray.readers.netcdf import open_guarded
from lunarray.readers.protocol import Reader, head
from lunarray.store.places import is_elsewhere

#: Attributes of the root by which stores of ours are known.
_OURS = (b'"lunarray_store"', b'"lunarray_gib"')
#: What else such a store says of itself: where the attribute's name is damaged, it is no store of another program.
_TRACES = (b'"seal"', b'"token"', b'"groups"', b'"metadata"')
_METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")


def _root(path: str) -> bytes:
    """What the root group of a Zarr store says of itself; nothing where there is none."""
    return head(os.path.join(path, "zarr.json"), 1 << 20)


def _is_store(path: str) -> bool:
    root = _root(path)
    return _OURS[0] in root or all(word in root for word in _TRACES)


def _is_zarr(path: str) -> bool:
    return os.path.isdir(path) and any(
        os.path.isfile(os.path.join(path, name)) for name in _METADATA
    )


def _is_foreign_zarr(path: str) -> bool:
    return _is_zarr(path) and not _is_store(path) and _OURS[1] not in _root(path)


def _is_netcdf(path: str) -> bool:
    return path.lower().endswith(NETCDF.extensions) and head(path, 8).startswith(
        (b"CDF", b"\x89HDF\r\n\x1a\n")
    )


def open_xarray(
    path: str | os.PathLike[str], *, chunks: Any = "auto", engine: str | None = None
) -> xr.Dataset:
    """Open a Zarr store or a netCDF file that is nobody's in particular, lazily.

    Parameters
    ----------
    path : path
        A folder, a file, or a URL.
    chunks : int, mapping, "auto" or None
        Dask chunks, as in :func:`xarray.open_dataset`; "auto" takes those of the file. None leaves Dask out.
    engine : str, optional
        Of xarray.

    Returns
    -------
    xarray.Dataset
        Grid mappings and bounds are coordinates.

    Raises
    ------
    ProductFormatError
        If it has no variables.
    """
    ds = open_guarded(
        path,
        engine=engine,
        chunks={} if isinstance(chunks, str) and chunks == "auto" else chunks,
        decode_coords="all",
        decode_timedelta=False,
    )
    if not ds.variables:
        ds.close()
        raise ProductFormatError(
            "nothing is in it", where=path, remedy="Give a store or file with variables"
        )
    return ds


def open_foreign_zarr(path: str | os.PathLike[str], *, chunks: Any = "auto") -> xr.Dataset:
    """Open a Zarr store that another program wrote: see :func:`open_xarray`."""
    return open_xarray(path, chunks=chunks, engine="zarr")


STORE = Reader(
    name="lunarray",
    description="Stores that lunarray wrote",
    opens="lunarray.store:open_zarr",
    guess=_is_store,
    extensions=(".zarr",),
    # A name that ends so and holds nothing, or is far away: the store says what is wrong with it.
    could=lambda path: (
        (path.rstrip("/").endswith(".zarr") and not _is_zarr(path))
        or (is_elsewhere(path) and not os.path.splitext(path)[1])
    ),
)
ZARR = Reader(
    name="zarr",
    description="Zarr stores of other programs, xarray's among them",
    opens=open_foreign_zarr,
    guess=_is_foreign_zarr,
    extensions=(".zarr",),
    could=lambda path: False,
)
NETCDF = Reader(
    name="netcdf",
    description="netCDF files",
    opens=open_xarray,
    guess=lambda path: False,
    extensions=(".nc", ".nc4", ".cdf"),
    could=_is_netcdf,
)

StoreBackend = backend(STORE)
