"""Write a Dataset to Zarr so that it can be interrupted, and open what was written."""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from lunarray.errors import (
    InputError,
    StoreConflictError,
    StoreError,
    StoreFormatError,
    StoreIncompleteError,
)
from lunarray.store import regions
from lunarray.store.provenance import stamp

#: Version of the convention below. A store of another major version is refused.
FORMAT_VERSION = 1

#: Attribute of the root group that makes a Zarr group a lunarray store.
KEY = "lunarray_store"

#: A plain DataArray without a name is stored under this one.
UNNAMED = "data"


def to_zarr(
    obj: xr.Dataset | xr.DataArray,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    token: str | None = None,
    progress: bool | None = None,
    description: str | None = None,
) -> xr.Dataset:
    """Write to a Zarr store, region by region; go on where an interrupted write stopped.

    The store is Zarr v3. Chunks hold 16–64 MB and never split the spectral, element or feature axis; where there
    would be more than 10 000 of them they are gathered in shards. Missing floats are NaN. Nothing that is written is
    readable as complete before all of it is there: :func:`open_zarr` refuses a store whose writing was interrupted,
    and calling `to_zarr` again with the same data completes it, to the same bytes. A complete store of the same data
    is left as it is.

    Parameters
    ----------
    obj : Dataset or DataArray
        What to write; lazy variables are computed region by region on the Dask scheduler in force, with bounded memory.
    path : path
        A folder on a local or shared file system.
    overwrite : bool, default False
        Delete what is there first, if that is a lunarray store.
    token : str, optional
        The identity of the data, by which an interrupted write is recognised. By default it is that of the Dask graph
        and the arrays in memory, which is the same again for the same calls on the same input.
    progress : bool, optional
        Show a progress bar; by default where standard error is a terminal.
    description : str, optional
        Text beside the bar.

    Returns
    -------
    Dataset
        The store, opened by :func:`open_zarr`.

    Raises
    ------
    StoreConflictError
        If `path` holds something else, or the beginning of something else.
    StoreFormatError
        If `path` holds a store of another version of this convention.
    StoreError
        If `path` cannot be written.
    InputError
        If `obj` is no xarray object, or has axes or data that Zarr cannot hold.
    """
    ds = _as_dataset(obj)
    path = Path(path)
    identity = token or _identity(ds)
    ds = _storable(ds)
    groups = regions.plan(ds)
    state = None if overwrite else _state(path)
    if overwrite:
        _remove(path)
    if state is None:
        _create(ds, groups, path, identity)
    elif state["token"] != identity:
        raise StoreConflictError(
            "the store holds other data than those to be written"
            if state["complete"]
            else "the store was begun with other data or parameters than those to be written now",
            where=path,
            remedy="Choose another path, or pass overwrite=True to write it anew",
        )
    elif state["complete"]:
        return open_zarr(path)

    tasks = []
    for group, writes in zip(groups, regions.writes(ds, groups, os.fspath(path)), strict=True):
        done = regions.done_regions(path, group.axes, group.dims)
        tasks += [write for index, write in np.ndenumerate(writes) if index not in done]
    try:
        regions.execute(tasks, description or f"Writing {path.name}", progress=progress)
        _set_state(path, complete=True)
    except OSError as error:
        raise StoreError(
            f"writing stopped ({error.strerror or error})",
            where=path,
            remedy="Mend the cause and call to_zarr again with the same data: it goes on where it stopped",
        ) from error
    return open_zarr(path)


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
    state = _state(path)
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
    """

    path: Path
    version: int
    complete: bool
    regions_done: int
    regions: int
    nbytes_stored: int
    dataset: xr.Dataset


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
    state = _state(path) or {}
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
    )


def _as_dataset(obj: xr.Dataset | xr.DataArray) -> xr.Dataset:
    if isinstance(obj, xr.DataArray):
        return obj.to_dataset(name=obj.name or UNNAMED)
    if isinstance(obj, xr.Dataset):
        return obj
    raise InputError(
        f"cannot store a {type(obj).__name__}", remedy="Pass an xarray Dataset or DataArray"
    )


def _identity(ds: xr.Dataset) -> str:
    """Name the content by what it is computed from; times of day in `history` do not count."""
    content = [
        (str(name), v.dims, str(v.dtype), v.data)
        for name, v in sorted(ds.variables.items(), key=str)
    ]
    return dask.base.tokenize(FORMAT_VERSION, content)


def _storable(ds: xr.Dataset) -> xr.Dataset:
    """Drop the encodings of other stores, load what cannot be written by region, and put large arrays in blocks."""
    ds = ds.drop_encoding()
    changed = {}
    for name, variable in ds.variables.items():
        lazy, plain = dask.is_dask_collection(variable.data), variable.dtype.kind in "fiub"
        if lazy and not plain:
            changed[name] = variable.compute()
        elif not lazy and plain and name not in ds.coords and variable.ndim:
            # Blocks make data in memory resumable and parallel too; its identity is already taken from the values.
            data = dask.array.from_array(variable.data, name=False)
            changed[name] = xr.Variable(variable.dims, data, variable.attrs)
    ds = _with_variables(ds, changed)
    return stamp(ds, "to_zarr", variables=[])


def _with_variables(ds: xr.Dataset, variables: dict[Any, xr.Variable]) -> xr.Dataset:
    """Exchange variables, each for itself: DataArrays would bring their coordinates along."""
    coords = {name: variable for name, variable in variables.items() if name in ds.coords}
    data = {name: variable for name, variable in variables.items() if name not in ds.coords}
    return ds.assign(data).assign_coords(coords)


def _create(ds: xr.Dataset, groups: list[regions.Group], path: Path, identity: str) -> None:
    """Lay out the store, without the lazy data, such that it appears all at once."""
    from zarr.codecs import BloscCodec

    if path.exists():
        raise StoreConflictError(
            "something else than a lunarray store is there",
            where=path,
            remedy="Choose another path",
        )
    encoding: dict[Any, dict[str, Any]] = {}
    chunked = {}
    for group in groups:
        for name, layout in group.layouts.items():
            variable = ds.variables[name]
            encoding[name] = {
                "chunks": layout.chunks,
                "compressors": BloscCodec(cname="zstd", clevel=3),
            }
            if layout.shards:
                encoding[name]["shards"] = layout.shards
            if variable.dtype.kind == "f":
                encoding[name]["_FillValue"] = variable.dtype.type(np.nan)
            chunked[name] = variable.chunk(dict(zip(variable.dims, layout.region, strict=True)))
    template = _with_variables(ds, chunked)
    begun = path.with_name(f".{path.name}.{os.getpid()}.begun")
    shutil.rmtree(begun, ignore_errors=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        template.to_zarr(
            begun, mode="w-", compute=False, zarr_format=3, consolidated=False, encoding=encoding
        )
        _set_state(
            begun,
            version=FORMAT_VERSION,
            token=identity,
            complete=False,
            regions=sum(
                math.prod(
                    math.ceil(ds.sizes[axis] / size)
                    for axis, size in zip(group.axes, group.sizes, strict=True)
                )
                for group in groups
            ),
            variables=[str(name) for name in ds.data_vars],
            groups=[
                {"axes": group.axes, "sizes": group.sizes, "dims": dict(group.dims)}
                for group in groups
            ],
        )
        os.rename(begun, path)
    except OSError as error:
        raise StoreError(
            f"the store cannot be written ({error.strerror or error})",
            where=path,
            remedy="Check the free space and the permissions of the folder",
        ) from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _state(path: Path) -> dict[str, Any] | None:
    """Read the state of the store at `path`; None where nothing is there."""
    state = _any_state(path)
    if state is not None and state["version"] != FORMAT_VERSION:
        raise StoreFormatError(
            f"the store has version {state['version']} of the convention, and this lunarray reads {FORMAT_VERSION}",
            where=path,
            remedy="Open it with the lunarray that wrote it (attribute lunarray_version), or write it anew",
        )
    return state


def _any_state(path: Path) -> dict[str, Any] | None:
    """Read the state of a store of whatever version."""
    if not path.exists():
        return None
    try:
        state = json.loads((path / "zarr.json").read_text())["attributes"][KEY]
        return {**state, "version": state["version"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreFormatError(
            "not a lunarray store",
            where=path,
            remedy="Pass a store that lunarray wrote; other Zarr stores open with xarray.open_zarr",
        ) from error


def _set_state(path: Path, **state: Any) -> None:
    """Change the state of the store in one step."""
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    attributes = metadata.setdefault("attributes", {})
    attributes[KEY] = {**attributes.get(KEY, {}), **state}
    new = file.with_name(f".zarr.json.{os.getpid()}")
    new.write_text(json.dumps(metadata, indent=2))
    os.replace(new, file)


def _remove(path: Path) -> None:
    """Delete the lunarray store at `path`, of whatever version, if there is one."""
    try:
        state = _any_state(path)
    except StoreFormatError as error:
        raise StoreConflictError(
            "it is no lunarray store, so it is not overwritten",
            where=path,
            remedy="Delete it yourself or choose another path",
        ) from error
    if state is not None:
        shutil.rmtree(path)
