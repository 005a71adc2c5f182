"""Products of the Spectral Profiler in a store that grows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import InputError, StoreConflictError
from lunarray.sp.io import find_products, open_sp
from lunarray.typing import typed

__all__ = ["sp_to_zarr"]

#: What a product has, and a store may have.
_VARIABLES = ("reflectance", "radiance", "qa")


@typed
def sp_to_zarr(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    store: Any,
    *,
    reflectance: Literal["REF1", "REF2"] = "REF1",
    variables: Sequence[str] = _VARIABLES,
    errors: Literal["raise", "skip"] = "raise",
    max_workers: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Write products of the Spectral Profiler to a Zarr store, or append those that it does not hold yet.

    Products are known by their names: those that the store holds are not even opened, so the same call with the same
    folder takes in what is new. An interrupted call loses at most the batch it was writing, and the next one goes on.

    Parameters
    ----------
    paths : path, folder, glob pattern, or iterable of these
        As in :func:`open_sp`. Appended observations come after those that are there.
    store : path, URL, zarr Store or icechunk Session
        A new store, or one that this function wrote. Rows are appended in an object store to a copy of the store.
    reflectance : {"REF1", "REF2"}
        As in :func:`open_sp`; one store holds one of the two.
    variables : sequence of str
        What is kept of "reflectance", "radiance" and "qa": the spectra alone are 0.4 of the whole.
    errors : {"raise", "skip"}
        As in :func:`open_sp`; runs with the lamp and other calibrations are files that cannot be read.
    max_workers : int, optional
        Threads that read labels.
    progress : bool, optional
        Show a progress bar; by default where standard error is a terminal.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily, as :func:`open_sp` gives products.

    Raises
    ------
    InputError, ProductFormatError
        As :func:`open_sp` does; nothing is written of the batch at fault.
    StoreError
        If `store` is something else, holds the other reflectance or other variables, or cannot be written.

    Examples
    --------
    >>> ds = sp_to_zarr("SP_2C_*.spc", "sp.zarr", errors="skip")  # doctest: +SKIP
    """
    from lunarray.store import open_zarr
    from lunarray.store.append import appending, held

    kept = [name for name in _VARIABLES if name in variables]
    if "reflectance" not in kept or len(kept) != len(set(variables)):
        raise InputError(
            f"variables {', '.join(map(str, variables)) or 'none'}",
            where="sp_to_zarr",
            remedy=f"Give 'reflectance', and what else is wanted of {', '.join(_VARIABLES)}",
        )
    files = find_products(paths)
    if not _new(files, held(store, "file", complete=True)):
        return _checked(open_zarr(store), reflectance, store)
    # Asked again under the lock: another writer may have been appending the same files.
    with appending(store, "observation") as end:
        have = end.held("file")
        new = _new(files, have)
        if have:
            place = end.place if end.place.exists() else end.path
            _checked(open_zarr(place, incomplete=True), reflectance, store)
        if new:
            ds = open_sp(new, reflectance=reflectance, errors=errors, max_workers=max_workers)
            # A label may have another name than the data that it describes.
            fresh = ~np.isin(ds["file"].values.astype(str), list(have))
            ds = ds if fresh.all() else ds.isel(observation=fresh)
            if ds.sizes["observation"]:
                # As objects: Zarr has no agreed form for text of one width.
                detector = ds["detector"].astype(object)
                end.append(ds[kept].assign_coords(detector=detector), progress=progress)
    return open_zarr(store)


def _new(files: Sequence[Path], have: set[str]) -> list[Path]:
    """Files of products that are not there yet; the label and the data of one have one stem."""
    stems = {Path(name).stem for name in have}
    return [path for path in files if path.stem not in stems]


def _checked(there: xr.Dataset, reflectance: str, store: Any) -> xr.Dataset:
    """The store, if it is of the same reflectance."""
    held = there["reflectance"].attrs.get("sp_reflectance") if "reflectance" in there else None
    if held != reflectance:
        raise StoreConflictError(
            f"it holds {held or 'no reflectance of SP'}, and {reflectance} is to be appended",
            where=store,
            remedy=f"Write {reflectance} to a store of its own",
        )
    return there
