"""Writing region by region, so that an interrupted write can go on where it stopped.

A region is one object of the store (a chunk, or a shard where there are shards) of every variable that shares its
axes. Zarr writes an object whole or not at all, so the objects that exist are the record of what is done: there is no
second book to keep in step with the data.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
import numpy as np
import xarray as xr

from lunarray.engine import accounts, planning
from lunarray.errors import StoreWriteError
from lunarray.store.folder import target
from lunarray.store.layout import WHOLE_AXES, Layout, choose_layout, every_chunk
from lunarray.store.places import Place, Remote

#: Regions for each thread from which on a region is one task.
REGIONS_PER_THREAD = 4


@dataclass(frozen=True)
class Group:
    """Variables that are cut alike and so are written together.

    `axes`: those along which they are cut; `sizes`: length of a region along each of these; `dims`: dimensions of each
    variable; `layouts`: cut of each variable.
    """

    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    dims: Mapping[str, tuple[str, ...]]
    layouts: Mapping[str, Layout]


def plan(ds: xr.Dataset) -> list[Group]:
    """Cut the lazy variables of a Dataset into groups of regions.

    The heaviest variable of a group decides the cut, and the others follow it, so that what is computed together is
    written together.

    Returns variables of which an axis is empty are in none: their metadata are all there is to write.
    """
    members: dict[tuple[str, ...], list[str]] = {}
    for name, variable in ds.variables.items():
        if dask.is_dask_collection(variable.data) and variable.size:
            axes = tuple(str(dim) for dim in variable.dims if dim not in WHOLE_AXES)
            members.setdefault(axes, []).append(str(name))
    groups = []
    for axes, names in members.items():
        heaviest = ds[max(names, key=lambda name: (ds[name].nbytes, name))].variable
        lead = _layout(heaviest)
        chunk = dict(zip(heaviest.dims, lead.chunks, strict=True))
        region = dict(zip(heaviest.dims, lead.region, strict=True))
        layouts = {}
        for name in names:
            sizes = ds[name].sizes
            chunks = tuple(chunk[dim] if dim in axes else size for dim, size in sizes.items())
            shards = tuple(region[dim] if dim in axes else size for dim, size in sizes.items())
            layouts[name] = Layout(chunks, shards if lead.shards else None)
        dims = {name: tuple(str(dim) for dim in ds[name].dims) for name in names}
        groups.append(Group(axes, tuple(region[axis] for axis in axes), dims, layouts))
    return groups


def _layout(variable: xr.Variable) -> Layout:
    blocks = tuple(max(sizes) for sizes in variable.data.chunks)
    dims = tuple(str(dim) for dim in variable.dims)
    return choose_layout(dims, variable.shape, variable.dtype.itemsize, blocks)


@dataclass(frozen=True)
class Writes:
    """The tasks that write the regions of a store.

    `places`: from the key of each task to ``group`` (its number), ``index``, ``extent`` (begin and end along each axis)
    and ``variables`` of its region.
    """

    work: planning.Work
    places: Mapping[Any, Mapping[str, Any]]


def writes(
    ds: xr.Dataset,
    groups: Sequence[Group],
    path: Place,
    done: Sequence[set[tuple[int, ...]]] | None = None,
    *,
    labels: Mapping[str, int] | None = None,
    threads: int | None = None,
) -> Writes:
    """Make one task for every region of every group that is not there yet.

    `groups`: from :func:`plan`; `path`: the store, with the metadata of all variables in place; `done`: regions of each
    group to leave out; `labels`: as of :func:`lunarray.engine.planning.plan`; `threads`: where there are fewer than
    :data:`REGIONS_PER_THREAD` regions for each of them, the blocks of a region stay tasks of their own, so that no
    thread is idle.
    """
    places = {}
    targets = []
    for number, group in enumerate(groups):
        edges = [
            (*range(0, ds.sizes[axis], size), ds.sizes[axis])
            for axis, size in zip(group.axes, group.sizes, strict=True)
        ]
        finish = partial(write_region, path=path, dims=dict(group.dims), axes=group.axes)
        there = set() if done is None else done[number]
        targets.append(_target("write", ds, group, edges, finish, there))
        for key, extent in extents(targets[-1], group).items():
            places[key] = {
                "group": number,
                "index": list(key[1:]),
                "extent": extent,
                "variables": list(group.dims),
            }
    gather = len(places) >= REGIONS_PER_THREAD * (threads or 1)
    return Writes(planning.plan(targets, gather=gather, labels=labels), places)


def write_region(
    parts: Sequence[np.ndarray],
    begin: Sequence[int],
    *,
    path: Place,
    dims: Mapping[str, tuple[str, ...]],
    axes: tuple[str, ...],
) -> dict[str, Any]:
    """Write one region, and give the account of the write.

    `parts`: of each variable; `begin`: of the region along each of its axes; `path`: the store; `dims`: dimensions of
    each variable; `axes`: those along which the variables are cut.
    """
    import zarr

    start = dict(zip(axes, map(int, begin), strict=True))
    # An object that exists is a region that is done, so objects that hold only fill values are written as well.
    with accounts.stage("write"), every_chunk():
        try:
            group = zarr.open_group(target(path), mode="r+", use_consolidated=False)
            for (name, own), part in zip(dims.items(), parts, strict=True):
                array: Any = group[name]
                array[
                    tuple(
                        slice(start.get(dim, 0), start.get(dim, 0) + length)
                        for dim, length in zip(own, part.shape, strict=True)
                    )
                ] = part
        except (OSError, KeyError) as error:
            raise write_error(path, error) from error
        if not (path / "zarr.json").is_file():
            raise write_error(path, FileNotFoundError())
    return {
        **accounts.take(),
        "region": start,
        "nbytes": sum(part.nbytes for part in parts),
        "pixels": math.prod(
            size
            for size, dim in zip(parts[0].shape, next(iter(dims.values())), strict=True)
            if dim in axes
        ),
    }


def write_error(path: Place, error: Exception) -> StoreWriteError:
    """Say, after an error, that the store cannot be written any more."""
    if not (path / "zarr.json").is_file():
        return StoreWriteError(
            "the store was deleted or moved away while it was being written",
            where=path,
            remedy="Write it anew; nothing of it is left to go on from",
        )
    return StoreWriteError(
        f"writing stopped ({getattr(error, 'strerror', None) or error})",
        where=path,
        remedy="Mend the cause and call to_zarr again with the same data: it goes on where it stopped",
    )


def sweep(path: Place) -> None:
    """Delete what interrupted writes of files have left in the store `path`: files that no reader looks at."""
    if isinstance(path, Remote):
        return  # which has whole objects only
    for file in path.rglob("*.partial"):
        file.unlink(missing_ok=True)


def pieces(ds: xr.Dataset, group: Group, extent: Mapping[str, tuple[int, int]]) -> planning.Target:
    """Cut a region along the Dask blocks of its heaviest variable, into tasks that give the values of all variables.

    `extent`: begin and end of the region along each axis.
    """
    heaviest = ds[max(group.dims, key=lambda name: (ds[name].nbytes, name))].variable
    edges = []
    for axis in group.axes:
        begin, end = extent[axis]
        borders = np.cumsum(heaviest.data.chunks[heaviest.dims.index(axis)])
        edges.append((begin, *(int(b) for b in borders if begin < b < end), end))
    return _target("piece", ds, group, edges, _piece)


def no_data(dtype: np.dtype[Any]) -> Any:
    """What stands for values that could not be computed: NaN, or the integer that is farthest out.

    That is 255 in a mask of bytes, where 0 says that there is nothing. Booleans have no value to spare: False.
    """
    if dtype.kind == "f":
        return dtype.type(np.nan)
    if dtype.kind in "iu":
        return np.iinfo(dtype).max if dtype.kind == "u" else np.iinfo(dtype).min
    return dtype.type(0)


def _piece(parts: Sequence[np.ndarray], begin: Sequence[int]) -> dict[str, Any]:
    return {**accounts.take(), "blocks": parts}


def _target(
    kind: str,
    ds: xr.Dataset,
    group: Group,
    edges: Sequence[tuple[int, ...]],
    finish: Any,
    there: Collection[tuple[int, ...]] = (),
) -> planning.Target:
    place = {axis: number for number, axis in enumerate(group.axes)}
    return planning.Target(
        # A name of its own for each run: a scheduler that remembers an earlier failure must not answer with it.
        f"{kind}-{uuid.uuid4().hex}",
        tuple(ds[name].variable.data for name in group.dims),
        tuple(tuple(map(place.get, dims)) for dims in group.dims.values()),
        tuple(edges),
        finish,
        [index for index in np.ndindex(*(len(own) - 1 for own in edges)) if index not in there],
    )


def extents(target: planning.Target, group: Group) -> dict[Any, dict[str, tuple[int, int]]]:
    """Begin and end along each axis of each region that is wanted, by the key of its task."""
    return {
        (target.name, *index): {
            axis: (own[i], own[i + 1])
            for axis, own, i in zip(group.axes, target.edges, index, strict=True)
        }
        for index in target.wanted
    }


def write_pieces(
    ds: xr.Dataset,
    group: Group,
    extent: Mapping[str, tuple[int, int]],
    found: Iterable[tuple[Mapping[str, tuple[int, int]], Sequence[np.ndarray]]],
    path: Place,
) -> dict[str, Any]:
    """Write a region from those of its pieces that could be computed; the others are left missing.

    `extent`: of the region; `found` (mapping, sequence of ndarray): extent and values of each piece; `path`: the store.
    Returns the account of the write.
    """
    arrays = []
    for name, dims in group.dims.items():
        variable = ds[name].variable
        spans = [extent.get(dim, (0, variable.sizes[dim])) for dim in dims]
        shape = [end - begin for begin, end in spans]
        arrays.append(np.full(shape, no_data(variable.dtype), variable.dtype))
    for part, blocks in found:
        for array, block, dims in zip(arrays, blocks, group.dims.values(), strict=True):
            where = (
                slice(part[dim][0] - extent[dim][0], part[dim][1] - extent[dim][0])
                if dim in part
                else slice(None)
                for dim in dims
            )
            array[tuple(where)] = block
    begin = [extent[axis][0] for axis in group.axes]
    return write_region(arrays, begin, path=path, dims=group.dims, axes=group.axes)


def done_regions(
    path: Place, axes: Sequence[str], dims: Mapping[str, Sequence[str]]
) -> set[tuple[int, ...]]:
    """Find the regions of a group of which every variable's object exists in the store.

    `path`: the store; `axes`, `dims`: as in :class:`Group`. Returns indices of regions along the axes.
    """
    done = [
        {
            tuple(i for i, dim in zip(index, own, strict=True) if dim in axes)
            for index in _objects(path, name, len(own))
        }
        for name, own in dims.items()
    ]
    return set.intersection(*done)


def _objects(path: Place, name: str, depth: int) -> Iterator[tuple[int, ...]]:
    if isinstance(path, Remote):
        for key in path.sizes(name):
            mark, *parts = key.removeprefix(f"{name}/").split("/")
            if mark == "c" and len(parts) == depth and all(map(str.isdigit, parts)):
                yield tuple(map(int, parts))
        return
    folder = path / name / "c"
    for file in folder.glob("/".join("*" * depth)) if depth else (folder,):
        index = file.relative_to(folder).parts
        if all(map(str.isdigit, index)) and file.is_file():
            yield tuple(map(int, index))
