"""Writing region by region, so that an interrupted write can go on where it stopped.

A region is one object of the store (a chunk, or a shard where there are shards) of every variable that shares its
axes. Zarr writes an object whole or not at all, so the objects that exist are the record of what is done: there is no
second book to keep in step with the data.
"""

from __future__ import annotations

import copy
import itertools
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import (
    Alias,
    DataNode,
    Task,
    TaskRef,
    convert_legacy_graph,
    fuse_linear_task_spec,
)
from dask.array.optimization import optimize
from dask.highlevelgraph import HighLevelGraph
from dask.utils import ensure_dict

from lunarray.engine import accounts, execution
from lunarray.errors import StoreWriteError
from lunarray.store.layout import WHOLE_AXES, Layout, choose_layout


@dataclass(frozen=True)
class Group:
    """Variables that are cut alike and so are written together.

    Parameters
    ----------
    axes : tuple of str
        The axes along which they are cut.
    sizes : tuple of int
        Length of a region along each of these.
    dims : mapping of str to tuple of str
        Dimensions of each variable.
    layouts : mapping of str to Layout
        Cut of each variable.
    """

    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    dims: Mapping[str, tuple[str, ...]]
    layouts: Mapping[str, Layout]


def plan(ds: xr.Dataset) -> list[Group]:
    """Cut the lazy variables of a Dataset into groups of regions.

    The heaviest variable of a group decides the cut, and the others follow it, so that what is computed together is
    written together.

    Parameters
    ----------
    ds : Dataset

    Returns
    -------
    list of Group
        Variables of which an axis is empty are in none: their metadata are all there is to write.
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

    Parameters
    ----------
    work : execution.Work
        All of them.
    places : mapping
        From the key of each task to ``group`` (its number), ``index``, ``extent`` (begin and end along each axis) and
        ``variables`` of its region.
    """

    work: execution.Work
    places: Mapping[Any, Mapping[str, Any]]


def writes(
    ds: xr.Dataset,
    groups: Sequence[Group],
    path: str,
    done: Sequence[set[tuple[int, ...]]] | None = None,
    *,
    labels: Mapping[str, int] | None = None,
) -> Writes:
    """Make one task for every region of every group that is not there yet.

    Parameters
    ----------
    ds : Dataset
    groups : sequence of Group
        From :func:`plan`.
    path : str
        The store, with the metadata of all variables in place.
    done : sequence of set of tuple of int, optional
        Regions of each group to leave out.
    labels : mapping, optional
        Resource labels of the cluster's workers (:func:`lunarray.engine.execution.labels`). With "GPU" among them,
        tasks that run a model are bound to those workers; with "CPU" too, the others to these.

    Returns
    -------
    Writes
    """
    places = {}
    arrays = []
    for number, group in enumerate(groups):
        array = _write_array(ds, group, path)
        arrays.append(array)
        there = set() if done is None else done[number]
        for index in np.ndindex(*array.numblocks):
            if index not in there:
                begins = [i * size for i, size in zip(index, group.sizes, strict=True)]
                places[(array.name, *index)] = {
                    "group": number,
                    "index": list(index),
                    "extent": {
                        axis: (begin, min(begin + size, ds.sizes[axis]))
                        for axis, size, begin in zip(group.axes, group.sizes, begins, strict=True)
                    },
                    "variables": list(group.dims),
                }
    if not places:
        return Writes(execution.Work({}, []), {})
    # Optimised together, so that what groups have in common is computed once.
    graph, resources = _optimized(arrays, list(places), labels or {})
    return Writes(execution.Work(graph, list(places), resources), places)


def _optimized(
    arrays: Sequence[da.Array], keys: list[Any], labels: Mapping[str, int]
) -> tuple[Mapping[Any, Any], Mapping[Any, Mapping[str, float]]]:
    """Fuse tasks, but not a model's with those before and after it where these are to run on other workers."""
    graph = HighLevelGraph.merge(*(array.__dask_graph__() for array in arrays))
    mixed = "GPU" in labels
    graph = _with_needs(graph, mixed)
    if not mixed:
        with dask.config.set({"optimization.fuse.active": None}):
            return ensure_dict(optimize(graph, keys)), {}
    settings = {"optimization.annotations.fuse": False, "optimization.fuse.active": False}
    with dask.config.set(settings):
        graph = optimize(graph, keys)
    resources = {
        key: layer.annotations["resources"]
        for layer in graph.layers.values()
        if layer.annotations and "resources" in layer.annotations
        for key in layer
    }
    tasks = convert_legacy_graph(ensure_dict(graph))
    resources = {key: need for key, need in resources.items() if key in tasks}
    # A chain must not be fused across the border between workers.
    borders = {dep for key in resources for dep in tasks[key].dependencies}
    tasks = fuse_linear_task_spec(tasks, {*keys, *resources, *borders})
    if "CPU" in labels:
        rest = {"CPU": 1}
        resources |= {
            key: rest
            for key, task in tasks.items()
            if key not in resources and not isinstance(task, Alias | DataNode)
        }
    return tasks, resources


def _with_needs(graph: HighLevelGraph, mixed: bool) -> HighLevelGraph:
    """Bind the layers that run a model to GPU workers where there are any, and free them where there are none.

    A graph may have been built while another cluster was in force.
    """
    layers = {}
    for name, layer in graph.layers.items():
        annotations = dict(layer.annotations or {})
        needs = dict(annotations.get("resources") or {})
        if not mixed:
            needs.pop("GPU", None)
        elif _runs_model(layer):
            needs["GPU"] = 1
        if needs != (annotations.get("resources") or {}):
            layer = copy.copy(layer)
            annotations.pop("resources", None)
            layer.annotations = {**annotations, **({"resources": needs} if needs else {})} or None
        layers[name] = layer
    return HighLevelGraph(layers, graph.dependencies)


def _runs_model(layer: Any) -> bool:
    """Tell whether a layer carries a model's spec that may run on a GPU."""
    task = getattr(layer, "task", None)
    if task is None:
        return False
    literals = [value for value, indices in layer.indices if indices is None]
    return any(
        getattr(getattr(value, "value", value), "device", "cpu") in ("auto", "cuda")
        and hasattr(value, "sha256")
        for value in (*literals, *task.args, *task.kwargs.values())
    )


def _write_array(ds: xr.Dataset, group: Group, path: str) -> da.Array:
    cut = dict(zip(group.axes, group.sizes, strict=True))
    arguments: list[Any] = []
    for name, dims in group.dims.items():
        blocks = ds[name].variable.chunk({dim: cut.get(dim, -1) for dim in dims})
        arguments += [blocks.data, dims]
    for axis, size in cut.items():
        # A block that says where the region begins: Blockwise keeps graphs small, and knows no block numbers.
        arguments += [da.from_array(np.arange(0, ds.sizes[axis], size), chunks=1), (axis,)]
    return da.blockwise(
        _write_region,
        group.axes,
        *arguments,
        # A name of its own for each run: a scheduler that remembers an earlier failure must not answer with it.
        name=f"write-{uuid.uuid4().hex}",
        path=path,
        dims=dict(group.dims),
        axes=group.axes,
        dtype=np.uint8,
        meta=np.empty((0,) * len(group.axes), np.uint8),
        align_arrays=False,
        concatenate=True,
        adjust_chunks=dict.fromkeys(group.axes, 1),
    )


def _write_region(
    *arguments: Any, path: str, dims: Mapping[str, tuple[str, ...]], axes: tuple[str, ...]
) -> dict[str, Any]:
    import zarr

    blocks, starts = arguments[: len(dims)], arguments[len(dims) :]
    begin = {axis: int(start[0]) for axis, start in zip(axes, starts, strict=True)}
    # An object that exists is a region that is done, so objects that hold only fill values are written as well.
    with accounts.stage("write"), zarr.config.set({"array.write_empty_chunks": True}):
        try:
            group = zarr.open_group(path, mode="r+", use_consolidated=False)
            for (name, own), block in zip(dims.items(), blocks, strict=True):
                array: Any = group[name]
                array[
                    tuple(
                        slice(begin.get(dim, 0), begin.get(dim, 0) + length)
                        for dim, length in zip(own, block.shape, strict=True)
                    )
                ] = block
        except (OSError, KeyError) as error:
            raise _write_error(path, error) from error
        if not Path(path, "zarr.json").exists():
            raise _write_error(path, FileNotFoundError())
    return {
        **accounts.take(),
        "region": begin,
        "nbytes": sum(block.nbytes for block in blocks),
        "pixels": math.prod(
            size
            for size, dim in zip(blocks[0].shape, next(iter(dims.values())), strict=True)
            if dim in axes
        ),
    }


def _write_error(path: str, error: Exception) -> StoreWriteError:
    if not Path(path, "zarr.json").exists():
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


def sweep(path: Path, groups: Sequence[Mapping[str, Any]]) -> None:
    """Delete what interrupted writes of objects have left beside these: files that no reader looks at.

    Parameters
    ----------
    path : Path
        The store.
    groups : sequence of mapping
        As its state describes them.
    """
    for group in groups:
        for name in group["dims"]:
            for file in (path / name / "c").rglob("*.partial"):
                file.unlink(missing_ok=True)


def pieces(
    ds: xr.Dataset, group: Group, extent: Mapping[str, tuple[int, int]]
) -> list[dict[str, Any]]:
    """Cut a region along the Dask blocks of its heaviest variable.

    Parameters
    ----------
    ds : Dataset
    group : Group
    extent : mapping
        Begin and end of the region along each axis.

    Returns
    -------
    list of dict
        Extents.
    """
    heaviest = ds[max(group.dims, key=lambda name: (ds[name].nbytes, name))].variable
    spans = []
    for axis in group.axes:
        begin, end = extent[axis]
        borders = np.cumsum(heaviest.data.chunks[heaviest.dims.index(axis)])
        inner = [int(border) for border in borders if begin < border < end]
        spans.append(list(zip([begin, *inner], [*inner, end], strict=True)))
    return [dict(zip(group.axes, span, strict=True)) for span in itertools.product(*spans)]


def piece_tasks(
    ds: xr.Dataset, group: Group, extents: Sequence[Mapping[str, Any]]
) -> execution.Work:
    """Make one task for each piece of a region, which gives the values of all of its variables.

    Parameters
    ----------
    ds : Dataset
    group : Group
    extents : sequence of mapping
        From :func:`pieces`.

    Returns
    -------
    execution.Work
        Keys in the order of the extents.
    """
    run = f"piece-{uuid.uuid4().hex}"
    layers: list[Any] = []
    wanted: list[Any] = []
    tasks: dict[Any, Any] = {}
    for number, extent in enumerate(extents):
        where = {axis: slice(*span) for axis, span in extent.items()}
        leaves = []
        for name, dims in group.dims.items():
            cut = tuple(where.get(dim, slice(None)) for dim in dims)
            data = ds[name].variable.data[cut].rechunk(-1)
            layers.append(data.__dask_graph__())
            leaves.append((data.name, *(0,) * data.ndim))
        tasks[(run, number)] = Task((run, number), _piece, *map(TaskRef, leaves))
        wanted += leaves
    with dask.config.set({"optimization.fuse.active": None}):
        graph = ensure_dict(optimize(_with_needs(HighLevelGraph.merge(*layers), False), wanted))
    return execution.Work({**graph, **tasks}, list(tasks))


def _piece(*blocks: np.ndarray) -> dict[str, Any]:
    return {**accounts.take(), "blocks": blocks}


def write_pieces(
    ds: xr.Dataset,
    group: Group,
    extent: Mapping[str, tuple[int, int]],
    found: Iterable[tuple[Mapping[str, tuple[int, int]], Sequence[np.ndarray]]],
    path: str,
) -> dict[str, Any]:
    """Write a region from those of its pieces that could be computed; the others are left missing.

    Parameters
    ----------
    ds : Dataset
    group : Group
    extent : mapping
        Of the region.
    found : iterable of (mapping, sequence of ndarray)
        Extent and values of each piece.
    path : str
        The store.

    Returns
    -------
    dict
        The account of the write.
    """
    arrays = []
    for name, dims in group.dims.items():
        variable = ds[name].variable
        spans = [extent.get(dim, (0, variable.sizes[dim])) for dim in dims]
        missing = np.nan if variable.dtype.kind == "f" else 0
        arrays.append(np.full([end - begin for begin, end in spans], missing, variable.dtype))
    for part, blocks in found:
        for array, block, dims in zip(arrays, blocks, group.dims.values(), strict=True):
            where = (
                slice(part[dim][0] - extent[dim][0], part[dim][1] - extent[dim][0])
                if dim in part
                else slice(None)
                for dim in dims
            )
            array[tuple(where)] = block
    starts = [np.array([extent[axis][0]]) for axis in group.axes]
    return _write_region(*arrays, *starts, path=path, dims=group.dims, axes=group.axes)


def done_regions(
    path: Path, axes: Sequence[str], dims: Mapping[str, Sequence[str]]
) -> set[tuple[int, ...]]:
    """Find the regions of a group of which every variable's object exists in the store.

    Parameters
    ----------
    path : Path
        The store.
    axes, dims
        As in :class:`Group`.

    Returns
    -------
    set of tuple of int
        Indices of regions along the axes.
    """
    done = [
        {
            tuple(i for i, dim in zip(index, own, strict=True) if dim in axes)
            for index in _objects(path / name / "c", len(own))
        }
        for name, own in dims.items()
    ]
    return set.intersection(*done)


def _objects(folder: Path, depth: int) -> Iterator[tuple[int, ...]]:
    if depth == 0:
        if folder.is_file():
            yield ()
        return
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.name.isdigit():
            for rest in _objects(entry, depth - 1):
                yield (int(entry.name), *rest)
