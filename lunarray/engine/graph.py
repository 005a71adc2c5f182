"""Dask graphs built and read: the only module that knows how Dask keeps them.

Most of what runs over blocks is :func:`dask.array.map_blocks`. Where a block needs others than its own (a reprojected
block, a mosaic, a window of frames) :func:`assemble` makes one task for it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
from dask._task_spec import List, Task, TaskRef, convert_legacy_graph
from dask.base import clone_key
from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.utils import key_split


class Block(NamedTuple):
    """A block of a Dask array, as an argument of a task.

    Parameters
    ----------
    array : dask Array
    index : tuple of int
        Number of the block along each axis.
    """

    array: da.Array
    index: tuple[int, ...]


class Call(NamedTuple):
    """A function to be called in a task, with its own arguments.

    Parameters
    ----------
    function : callable
    arguments : sequence
        As :func:`assemble` takes them.
    """

    function: Callable[..., Any]
    arguments: Sequence[Any]


def assemble(
    function: Callable[..., Any],
    chunks: tuple[tuple[int, ...], ...],
    *,
    needs: Callable[[tuple[int, ...]], Sequence[Any] | Call],
    dtype: Any,
    meta: Any = None,
    name: str | None = None,
    token: Any = None,
    kwargs: Mapping[str, Any] | None = None,
) -> da.Array:
    """Make a Dask array of which each block is one task over any blocks of other arrays.

    Parameters
    ----------
    function : callable
        Gives the block; takes the arguments of `needs` and `kwargs`. It must be picklable.
    chunks : tuple of tuple of int
        Sizes of the blocks along each axis.
    needs : callable
        Takes the number of a block along each axis and gives the list of its arguments. A :class:`Block` among them
        stands for that block of an array, a :class:`Call` for what another task gives; lists of them nest. Everything
        else is passed as it is. Where it gives a Call instead of a list, that is the task of the block, in place of
        `function`.
    dtype : dtype
        Of the array.
    meta : array, optional
        An empty array of its kind; by default one of NumPy.
    name : str, optional
        Kind of the tasks, as reports show it; by default the name of the function.
    token : any, optional
        What tells this array from others of the same name: everything that its values depend on. By default the
        function and all arguments of all blocks.
    kwargs : mapping, optional
        Further arguments, the same for every block.

    Returns
    -------
    dask Array
        Lazy; named by its content.
    """
    chunks = tuple(tuple(int(size) for size in sizes) for sizes in chunks)
    kwargs = dict(kwargs or {})
    given = {index: needs(index) for index in np.ndindex(*map(len, chunks))}
    if token is None:
        token = (function, kwargs, [_named(own) for own in given.values()])
    kind = name or getattr(function, "__name__", "assemble").strip("_")
    name = f"{kind}-{dask.base.tokenize(token, chunks, str(dtype))}"
    graph = _Tasks(name)
    for index, own in given.items():
        if isinstance(own, Call):
            graph.add((name, *index), own.function, own.arguments, {})
        else:
            graph.add((name, *index), function, own, kwargs)
    if meta is None:
        meta = np.empty((0,) * len(chunks), dtype)
    whole = HighLevelGraph.from_collections(
        name, graph.tasks, dependencies=list(graph.sources.values())
    )
    return da.Array(whole, name, chunks=chunks, dtype=dtype, meta=meta)


class _Tasks:
    """Tasks of one layer, and the arrays that they take blocks of."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tasks: dict[Any, Any] = {}
        self.sources: dict[str, Any] = {}

    def add(
        self, key: Hashable, function: Any, arguments: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        self.tasks[key] = Task(key, function, *map(self._argument, arguments), **kwargs)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Block):
            self.sources.setdefault(value.array.name, value.array)
            return TaskRef((value.array.name, *map(int, value.index)))
        if isinstance(value, Call):
            key = (f"{self.name}-part", len(self.tasks))
            self.tasks[key] = None  # its place: its own arguments may be calls too
            self.add(key, value.function, value.arguments, {})
            return TaskRef(key)
        if isinstance(value, list) and any(map(_refers, value)):
            return List(*map(self._argument, value))
        return value


def _refers(value: Any) -> bool:
    return isinstance(value, Block | Call) or (isinstance(value, list) and any(map(_refers, value)))


def _named(value: Any) -> Any:
    """Arguments with the names of arrays in place of these."""
    if isinstance(value, Block):
        return (value.array.name, value.index)
    if isinstance(value, Call):
        return (value.function, _named(list(value.arguments)))
    return [_named(v) for v in value] if isinstance(value, list) else value


def apart(array: da.Array) -> da.Array:
    """The same array from tasks of its own, which share none with those of `array`.

    What is wanted of a whole array early, a sum or a column of it, would else keep all its blocks in memory until they
    are used again. They are made twice instead. (:func:`dask.graph_manipulation.clone` gives tasks of sliced arrays new
    names that still depend on the old ones.)

    Parameters
    ----------
    array : dask Array

    Returns
    -------
    dask Array
        With a name that is always the same for the same array.
    """
    graph: Any = array.__dask_graph__()
    seed = dask.base.tokenize(array.name)
    keys = graph.get_all_external_keys()
    names: dict[Any, Any] = {}

    def other(key: Any) -> Any:
        first = key[0] if isinstance(key, tuple) else key
        if first not in names:
            names[first] = clone_key(first, seed)
        return (names[first], *key[1:]) if isinstance(key, tuple) else names[first]

    layers: dict[str, Any] = {}
    for name, layer in graph.layers.items():
        if isinstance(layer, Blockwise):
            layers[other(name)] = layer.clone(keys, seed)[0]
            continue
        layers[other(name)] = MaterializedLayer(
            {
                other(key): task.substitute(
                    {k: other(k) for k in task.dependencies}, key=other(key)
                )
                for key, task in convert_legacy_graph(layer, keys).items()
            }
        )
    needs = {other(name): set(map(other, own)) for name, own in graph.dependencies.items()}
    whole = HighLevelGraph(layers, needs)
    return da.Array(whole, other(array.name), array.chunks, dtype=array.dtype, meta=array._meta)


def known_values(array: Any) -> np.ndarray | None:
    """Values along one axis that need no computation: of an array in memory, or of a Dask array made by chunking one.

    Parameters
    ----------
    array : array_like, (n,)

    Returns
    -------
    ndarray or None
        None where something would have to be computed.
    """
    if not hasattr(array, "dask"):
        return np.asarray(array)
    graph = array.__dask_graph__()
    parts = []
    for block in range(array.numblocks[0]):
        node = graph.get((array.name, block))
        node = getattr(node, "value", node)
        if not isinstance(node, np.ndarray):
            return None
        parts.append(node)
    return np.concatenate(parts) if parts else np.empty(0, array.dtype)


@dataclass(frozen=True)
class Step:
    """What one layer of lazy arrays does.

    Parameters
    ----------
    name : str
        Of the layer.
    kind : str
        The same without its digest.
    root : bool
        Whether it takes nothing from other layers: a source.
    function : callable or None
        What a block-wise layer calls; None where the layer is of another kind.
    literals : list of (str, object)
        Its plain arguments, with their names where they have any.
    """

    name: str
    kind: str
    root: bool
    function: Any
    literals: list[tuple[str, Any]]


def steps(arrays: Sequence[Any]) -> list[Step]:
    """Read off what lazy arrays are computed by, layer by layer.

    Parameters
    ----------
    arrays : sequence of dask collections
        Nothing is computed.

    Returns
    -------
    list of Step
    """
    layers: dict[str, Any] = {}
    parents: dict[str, set[str]] = {}
    for array in arrays:
        graph = array.__dask_graph__()
        layers.update(getattr(graph, "layers", {}))
        parents.update(getattr(graph, "dependencies", {}))
    return [
        Step(
            name,
            key_split(name).lstrip("_"),
            not parents.get(name),
            getattr(getattr(layer, "task", None), "func", None),
            list(literals(layer)),
        )
        for name, layer in layers.items()
    ]


def literals(layer: Any) -> Iterator[tuple[str, Any]]:
    """Give the plain arguments of a block-wise layer.

    Parameters
    ----------
    layer : dask Layer
        One of another kind has none.

    Yields
    ------
    (str, object)
        Name (where it has one, else "") and value.
    """
    task = getattr(layer, "task", None)
    if task is None:
        return
    given = [("", value) for value, indices in layer.indices if indices is None]
    given += [("", value) for value in task.args]
    given += list(task.kwargs.items())
    for name, value in given:
        # Data nodes hold a value; references and tasks stand for what comes from upstream.
        value = getattr(value, "value", value) if type(value).__name__ == "DataNode" else value
        if not (isinstance(value, TaskRef) or hasattr(value, "dependencies")):
            yield name, value
