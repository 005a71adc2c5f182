"""Writing region by region, so that an interrupted write can go on where it stopped.

A region is one object of the store (a chunk, or a shard where there are shards) of every variable that shares its
axes. Zarr writes an object whole or not at all, so the objects that exist are the record of what is done: there is no
second book to keep in step with the data.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

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


def writes(ds: xr.Dataset, groups: Sequence[Group], path: str) -> list[np.ndarray]:
    """Make one lazy write for every region of every group.

    Parameters
    ----------
    ds : Dataset
    groups : sequence of Group
        From :func:`plan`.
    path : str
        The store, with the metadata of all variables in place.

    Returns
    -------
    list of ndarray of Delayed
        For each group, an array with an element for each region.
    """
    # Optimised together, so that what groups have in common is computed once.
    arrays = dask.optimize(*(_write_array(ds, group, path) for group in groups))
    return [array.to_delayed(optimize_graph=False) for array in arrays]


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
) -> np.ndarray:
    import zarr

    blocks, starts = arguments[: len(dims)], arguments[len(dims) :]
    begin = {axis: int(start[0]) for axis, start in zip(axes, starts, strict=True)}
    # An object that exists is a region that is done, so objects that hold only fill values are written as well.
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(path, mode="r+", use_consolidated=False)
        for (name, own), block in zip(dims.items(), blocks, strict=True):
            array: Any = group[name]
            array[
                tuple(
                    slice(begin.get(dim, 0), begin.get(dim, 0) + length)
                    for dim, length in zip(own, block.shape, strict=True)
                )
            ] = block
    return np.ones((1,) * len(axes), np.uint8)


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


def execute(tasks: Sequence[Any], description: str, *, progress: bool | None = None) -> None:
    """Run Delayed tasks to the end, with a progress bar, here or on the current Dask client.

    Parameters
    ----------
    tasks : sequence of Delayed
        Their results are dropped.
    description : str
        Shown beside the bar.
    progress : bool, optional
        Show the bar; by default where standard error is a terminal.

    Raises
    ------
    Exception
        What a task raised; the tasks that have not begun are not run.
    """
    if not tasks:
        return
    with progress_bar(description, len(tasks), show=progress) as advance:
        client = _current_client()
        if client is None:
            keys = {task.key for task in tasks}
            with _Completed(keys, advance):
                dask.compute(*tasks, optimize_graph=False)
        else:
            _run_distributed(client, tasks, advance)


def _current_client() -> Any:
    """Give the Dask client in force, if `distributed` is in use at all."""
    if "distributed" not in sys.modules or dask.config.get("scheduler", None) not in (
        None,
        "distributed",
        "dask.distributed",
    ):
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def _run_distributed(client: Any, tasks: Sequence[Any], advance: Any) -> None:
    from distributed import as_completed

    futures = client.compute(list(tasks), optimize_graph=False)
    try:
        for future in as_completed(futures):
            future.result()
            advance()
    except BaseException:
        client.cancel(futures)
        raise


class _Completed(dask.callbacks.Callback):
    """Calls `advance` whenever one of `keys` has been computed by a local scheduler."""

    def __init__(self, keys: Iterable[Any], advance: Any) -> None:
        super().__init__()
        self._keys = set(keys)
        self._advance = advance

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        if key in self._keys:
            self._advance()


@contextmanager
def progress_bar(description: str, total: int, *, show: bool | None = None) -> Iterator[Any]:
    """Show a bar on standard error that counts up to `total`.

    Parameters
    ----------
    description : str
    total : int
    show : bool, optional
        By default where standard error is a terminal.

    Yields
    ------
    callable
        Takes the bar one step on; it may be called from any thread.
    """
    if show is None:
        show = sys.stderr.isatty()
    if not show:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    lock = threading.Lock()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)

        def advance() -> None:
            with lock:
                bar.advance(task)

        yield advance
