"""Opening stores, and looking at them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import dask
import dask.array as da
import numpy as np
import xarray as xr

from lunarray.engine.tables import html_table
from lunarray.errors import (
    LunarrayError,
    LunarrayWarning,
    StoreDamagedError,
    StoreError,
    StoreIncompleteError,
)
from lunarray.store import objects, regions
from lunarray.store.conventions import without_conventions
from lunarray.store.guard import REMEDY, Stored, checked_store
from lunarray.store.places import Place, Remote, remote
from lunarray.store.promotion import KEY, current
from lunarray.store.state import damaged_metadata, digest_of, recorded, state_of
from lunarray.typing import typed
from lunarray.units import unit_label

#: Rows of a store that grows from which on what stands beside each row stays on the disk: at ten million, a dozen
#: coordinates are 0.6 GB.
_LONG = 2**21


@typed
def open_zarr(
    path: Any,
    *,
    incomplete: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Open a store written by :func:`to_zarr`, lazily.

    It is looked at whether every object of the store is there, and whether the metadata are those that were written.
    Chunks are held to their checksums when they are read. Arrays are named by the digests of their objects: what is
    computed from the same bytes has the same token wherever these lie, and what is computed from others has another.

    Parameters
    ----------
    path : path, URL, zarr Store or icechunk Session
        The store, wherever :func:`to_zarr` writes one.
    incomplete : bool, default False
        Open it though its writing was interrupted, or objects are missing; what is missing reads as fill values.
    storage_options : mapping, optional
        Of the object store that a URL names, as in :func:`to_zarr`.

    Returns
    -------
    Dataset
        Dask blocks are the store's objects (shards where there are shards), so that it can be processed and saved again
        without rearranging; encodings left from the store are cleared for the same reason. Coordinates that were in
        memory when they were written are so again; those of a store that has grown beyond two million rows come in
        blocks as well. ``encoding["content_id"]`` is the id of the content.

    Raises
    ------
    StoreError
        If nothing is there.
    StoreFormatError
        If it is not a lunarray store, or one of another version.
    StoreIncompleteError
        If its writing was interrupted.
    StoreDamagedError
        If objects are missing, or metadata are not those that were written. Damage within an object is raised when it
        is read, by what computes: :func:`lunarray.store.verify` reads everything.

    Warns
    -----
    LunarrayWarning
        If another program has written objects anew: what it wrote is read.

    Examples
    --------
    >>> import lunarray as la
    >>> store = la.sample("tracks").lunar.to_zarr("tracks.zarr")
    >>> la.open_zarr("tracks.zarr").sizes["footprint"]
    133
    """
    named = absolute(path, storage_options)
    place = _now(named)
    try:
        ds = _open(place, incomplete)
    except StoreError:
        if _now(named) != place:
            return open_zarr(named, incomplete=incomplete)
        raise
    if ds is None or _now(named) != place:
        # Another store took its place meanwhile.
        return open_zarr(named, incomplete=incomplete)
    ds.encoding["source"] = os.fspath(named)
    return ds


def _now(path: Place) -> Place:
    """Where the objects of a store are now."""
    return current(path) if isinstance(path, Remote) else path


def _open(path: Place, incomplete: bool) -> xr.Dataset | None:
    """Open a store where its objects are; None if it was exchanged while it was being opened."""
    state = state_of(path)
    if state is None:
        raise StoreError("no such store", where=path, remedy="Check the path")
    path = path.as_it_is() if isinstance(path, Remote) else path
    if not (state["complete"] or incomplete):
        raise StoreIncompleteError(
            "the writing of this store was interrupted",
            where=path,
            remedy="Run again what wrote it and it is completed, or read what is there with incomplete=True",
        )
    try:
        metadata = arrays_of(path, state)
        cuts = objects.cuts(metadata)
        written = recorded(state) if state["complete"] else {}
        digests = {
            name: objects.digests(path, cut, written.get(name)) for name, cut in cuts.items()
        }
        if state["complete"]:
            _hold_to(path, cuts, digests, written, incomplete)
        ids = {name: objects.array_id(metadata[name], digests[name]) for name in cuts}
        stored = xr.open_dataset(
            cast(Any, checked_store(path, cuts, digests)),
            engine="zarr",
            chunks=None,
            cache=False,
            consolidated=bool(state["complete"]),
            decode_coords="all",
            decode_timedelta=False,
        )
        ds = _lazy(stored, path, state, cuts, ids)
    except LunarrayError as error:
        # xarray before 2026 says which variable it was in an error of the same kind, without where and remedy.
        if error.where is None and isinstance(error.__cause__, LunarrayError):
            raise error.__cause__ from None
        raise
    except MemoryError:
        raise
    except Exception as error:
        raise StoreDamagedError(
            f"the store cannot be opened ({type(error).__name__}: {error})",
            where=path,
            remedy=REMEDY,
        ) from error
    if state_of(path) != state:
        return None
    ds.attrs = without_conventions(ds.attrs)
    ds.attrs.pop(KEY, None)
    if state.get("failed"):
        ds.attrs["missing_regions"] = len(state["failed"])
        for name in {name for gap in state["failed"] for name in state["groups"][gap["group"]]["dims"]}:  # fmt: skip
            if ds[name].dtype.kind in "iu":
                ds[name].attrs["nodata"] = int(regions.no_data(ds[name].dtype))
    ds.encoding = {"content_id": objects.joined(ids)}
    return ds


def absolute(path: Any, options: Mapping[str, Any] | None = None) -> Any:
    """Give the absolute path that is meant now, which it stays when work goes to processes in other folders."""
    elsewhere = remote(path, options)
    if isinstance(elsewhere, Remote):
        return elsewhere
    return Path(os.path.abspath(os.path.expanduser(elsewhere or os.fspath(path))))


def arrays_of(path: Place, state: Mapping[str, Any]) -> dict[str, bytes]:
    """The ``zarr.json`` of each array of a store; StoreDamagedError if one is not the one that was written."""
    metadata = objects.arrays(path)
    if state.get("append_dim") and not state["complete"]:
        return metadata  # it is being changed; what appends sets it back
    for name, known in state["metadata"].items():
        if name not in metadata or digest_of(metadata[name]) != known:
            raise damaged_metadata(path / name / "zarr.json")
    return {name: metadata[name] for name in state["metadata"]}


def _hold_to(
    path: Place,
    cuts: Mapping[str, objects.Cut],
    digests: dict[str, np.ndarray],
    written: Mapping[str, np.ndarray],
    incomplete: bool,
) -> None:
    """Name what is missing of a complete store, and warn of what was written anew since.

    `digests` of damaged objects become those that were written, so that reading them is an error, and nothing else
    changes by it.
    """
    gone, anew = [], []
    for name, cut in cuts.items():
        keys = list(cut.keys())
        gone += [keys[i] for i in np.flatnonzero((digests[name] == 0) & (written[name] != 0))]
        for i in np.flatnonzero(
            (digests[name] != written[name]) & (digests[name] != 0) & (written[name] != 0)
        ):
            if objects.sound((path / keys[i]).read_bytes(), cut):
                anew.append(keys[i])
            else:
                digests[name][i] = written[name][i]
    if gone and not incomplete:
        total = sum(map(len, digests.values()))
        names = ", ".join(gone[:3]) + (", …" if len(gone) > 3 else "")
        raise StoreDamagedError(
            f"{len(gone)} of {total} objects are missing or empty: {names}",
            where=path,
            remedy=f"{REMEDY}. What is there can be read with incomplete=True",
        )
    if anew:
        warnings.warn(
            f"{path}: another program has written {len(anew)} objects of this store anew (first: {anew[0]}); what they "
            "hold now is read. If the change is meant, 'lunarray verify STORE --accept' takes it as it is",
            LunarrayWarning,
            stacklevel=3,
        )


def _lazy(
    stored: xr.Dataset,
    path: Place,
    state: Mapping[str, Any],
    cuts: Mapping[str, objects.Cut],
    ids: Mapping[str, str],
) -> xr.Dataset:
    """Give the variables of a store in blocks, and in memory those that were so."""
    blocks: dict[str, int] = {}
    for group in state["groups"]:
        for axis, size in zip(group["axes"], group["sizes"], strict=True):
            blocks[axis] = max(size, blocks.get(axis, 0))
    lazy = {name for group in state["groups"] for name in group["dims"]}
    grown = state.get("append_dim")
    long = stored.sizes.get(grown, 0) > _LONG
    variables = {}
    for name, variable in stored.variables.items():
        key = str(name)
        array: Any = Stored(variable, path, cuts[key], state["seal"])
        beside = key in stored.coords and not (long and grown in variable.dims and key != grown)
        if variable.ndim and (key in lazy or not beside):
            chunks = tuple(blocks.get(str(dim), -1) for dim in variable.dims)
            array = da.from_array(
                array,
                chunks=chunks,
                name=f"open_zarr-{key}-{dask.base.tokenize(ids[key], chunks)}",
                meta=np.empty((0,) * variable.ndim, variable.dtype),
            )
        else:
            array = array[(slice(None),) * variable.ndim]
        variables[key] = xr.Variable(variable.dims, array, variable.attrs, variable.encoding)
    # A folder has no order, and selecting variables leaves out the coordinates of none of them.
    data = state.get("variables") or [str(name) for name in stored.data_vars]
    ds = xr.Dataset(
        {name: variables[name] for name in data},
        {str(name): variables[str(name)] for name in stored.coords},
        stored.attrs,
    )
    for variable in ds.variables.values():
        for key in ("chunks", "preferred_chunks", "shards", "compressors", "filters", "serializer"):
            variable.encoding.pop(key, None)
    return ds


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds and how far its writing got.

    Parameters
    ----------
    path : Path or Remote
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
    content_id : str
        Id of what it holds now: that of its bytes, wherever it lies and whenever it was written.

    Examples
    --------
    >>> import lunarray as la
    >>> store = la.sample("tracks").lunar.to_zarr("tracks.zarr")
    >>> info = la.store.describe("tracks.zarr")
    >>> info.regions_done == info.regions
    True
    """

    path: Place
    version: int
    complete: bool
    regions_done: int
    regions: int
    nbytes_stored: int
    dataset: xr.Dataset
    failed: tuple[dict[str, Any], ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)
    content_id: str = ""

    def _repr_html_(self) -> str:
        state = "complete" if self.complete else "interrupted: what wrote it completes it"
        ds = self.dataset
        rows = [
            ("Store", str(self.path)),
            ("State", f"{state}; {self.regions_done:,} of {self.regions:,} regions"),
            ("Size", f"{self.nbytes_stored / 1e6:,.1f} MB stored, {ds.nbytes / 1e6:,.1f} MB in memory"),
            ("Axes", ", ".join(f"{dim} {size:,}" for dim, size in ds.sizes.items())),
            ("Content", self.content_id),
        ]  # fmt: skip
        variables = [
            (
                str(name),
                " ".join(map(str, array.dims)),
                str(array.dtype),
                unit_label(array, ""),
                str(array.attrs.get("long_name", "")),
            )
            for name, array in ds.data_vars.items()
        ]
        head = ("variable", "axes", "type", "unit", "what")
        found = html_table((), rows, caption=Path(str(self.path)).name)
        return found + html_table(head, variables, most=40)


def nbytes(path: Place) -> int:
    """Bytes of all that a store consists of."""
    if isinstance(path, Remote):
        return sum(path.sizes().values())
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def describe(path: Any, *, storage_options: Mapping[str, Any] | None = None) -> StoreInfo:
    """Look at a store, complete or not, without reading its data.

    Parameters
    ----------
    path : path, URL, zarr Store or icechunk Session
        The store.
    storage_options : mapping, optional
        Of the object store that a URL names, as in :func:`to_zarr`.

    Returns
    -------
    StoreInfo

    Raises
    ------
    StoreError
        As :func:`open_zarr` does, except that an interrupted store is described too.

    Examples
    --------
    >>> import lunarray as la
    >>> store = la.sample("tracks").lunar.to_zarr("tracks.zarr")
    >>> la.store.describe("tracks.zarr").complete
    True
    """
    named = absolute(path, storage_options)
    ds = open_zarr(named, incomplete=True)
    path = _now(named)
    state = state_of(path) or {}
    there = [regions.done_regions(path, g["axes"], g["dims"]) for g in state["groups"]]
    done = sum(map(len, there))
    for gap in state.get("failed", ()):
        there[gap["group"]].add(tuple(gap["index"]))
    return StoreInfo(
        path=named,
        version=state["version"],
        complete=state["complete"] and sum(map(len, there)) == state["regions"],
        regions_done=done,
        regions=state["regions"],
        nbytes_stored=nbytes(path),
        dataset=ds,
        failed=tuple(state.get("failed", ())),
        manifest=state.get("manifest", {}),
        content_id=ds.encoding["content_id"],
    )
