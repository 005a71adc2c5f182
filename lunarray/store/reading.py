"""Opening stores, and looking at them."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from lunarray.errors import StoreError, StoreIncompleteError
from lunarray.store import regions
from lunarray.store.state import KEY, state_of
from lunarray.typing import typed


@typed
def open_zarr(path: str | os.PathLike[str], *, incomplete: bool = False) -> xr.Dataset:
    """Open a store written by :func:`to_zarr`, lazily.

    Parameters
    ----------
    path : path
        The store.
    incomplete : bool, default False
        Open it though its writing was interrupted; what is missing reads as fill values.

    Returns
    -------
    Dataset
        Dask blocks are the store's objects (shards where there are shards), so that it can be processed and saved again
        without rearranging; encodings left from the store are cleared for the same reason. Coordinates that were in
        memory when they were written are so again.

    Raises
    ------
    StoreError
        If nothing is there.
    StoreFormatError
        If it is not a lunarray store, or one of another version.
    StoreIncompleteError
        If its writing was interrupted.
    """
    path = Path(path)
    state = state_of(path)
    if state is None:
        raise StoreError("no such store", where=path, remedy="Check the path")
    if not (state["complete"] or incomplete):
        raise StoreIncompleteError(
            "the writing of this store was interrupted",
            where=path,
            remedy="Run again what wrote it and it is completed, or read what is there with incomplete=True",
        )
    blocks: dict[str, int] = {}
    for group in state["groups"]:
        for axis, size in zip(group["axes"], group["sizes"], strict=True):
            blocks[axis] = max(size, blocks.get(axis, 0))
    lazy = {name for group in state["groups"] for name in group["dims"]}
    with warnings.catch_warnings():
        # Coordinates to be loaded lie in other chunks than the data; that is of no matter to them.
        warnings.filterwarnings("ignore", "The specified chunks separate", UserWarning)
        stored = xr.open_dataset(
            path,
            engine="zarr",
            chunks=blocks,
            consolidated=False,
            decode_coords="all",
            decode_timedelta=False,
        )
    # A folder has no order, and selecting variables leaves out the coordinates of none of them.
    ds = stored[state.get("variables", list(stored.data_vars))].assign_coords(
        {
            name: c.variable if name in lazy else c.variable.compute()
            for name, c in stored.coords.items()
        }
    )
    for variable in ds.variables.values():
        for key in ("chunks", "preferred_chunks", "shards", "compressors", "filters", "serializer"):
            variable.encoding.pop(key, None)
    ds.attrs.pop(KEY, None)
    if state.get("failed"):
        ds.attrs["missing_regions"] = len(state["failed"])
    ds.encoding = {"source": os.fspath(path)}
    return ds


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds and how far its writing got.

    Parameters
    ----------
    path : Path
        Where it is.
    version : int
        Of the store convention.
    complete : bool
        Whether its writing came to the end.
    regions_done, regions : int
        How many regions are there, of how many.
    nbytes_stored : int
        Bytes on disk.
    dataset : Dataset
        The content, lazy.
    failed : tuple of dict
        Regions that failed and were left missing: ``group``, ``index``, ``error``.
    manifest : dict
        What it is made from: digests of ``input``, ``models`` and ``parameters``.
    """

    path: Path
    version: int
    complete: bool
    regions_done: int
    regions: int
    nbytes_stored: int
    dataset: xr.Dataset
    failed: tuple[dict[str, Any], ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)


def describe(path: str | os.PathLike[str]) -> StoreInfo:
    """Look at a store, complete or not, without reading its data.

    Parameters
    ----------
    path : path
        The store.

    Returns
    -------
    StoreInfo

    Raises
    ------
    StoreError
        As :func:`open_zarr` does, except that an interrupted store is described too.
    """
    ds = open_zarr(path, incomplete=True)
    path = Path(path)
    state = state_of(path) or {}
    done = sum(
        len(regions.done_regions(path, group["axes"], group["dims"])) for group in state["groups"]
    )
    return StoreInfo(
        path=path,
        version=state["version"],
        complete=state["complete"],
        regions_done=done,
        regions=state["regions"],
        nbytes_stored=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        dataset=ds,
        failed=tuple(state.get("failed", ())),
        manifest=state.get("manifest", {}),
    )
