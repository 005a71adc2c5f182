"""Dask graphs built, read and optimised: the only module that knows how Dask keeps them.

Most of what runs over blocks is :func:`dask.array.map_blocks`. Where a block needs others than its own (a reprojected
block, a mosaic, a window of frames) :func:`assemble` makes one task for it. The rest serves the planning of stores
(:mod:`lunarray.engine.planning`) and the running of tasks (:mod:`lunarray.engine.execution`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask._task_spec import (
    Alias,
    DataNode,
    List,
    Task,
    TaskRef,
    convert_legacy_graph,
    fuse_linear_task_spec,
)
from dask.array.optimization import optimize
from dask.base import clone_key
from dask.blockwise import Blockwise, BlockwiseDepDict, optimize_blockwise
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.layers import ArrayValuesDep
from dask.utils import ensure_dict, key_split

#: Low-level tasks by key.
Tasks = dict[Any, Any]


@dataclass(frozen=True, eq=False)
class Block:
    """A block of a Dask array, as an argument of a task.

    Parameters
    ----------
    array : dask Array
    index : tuple of int
        Number of the block along each axis.
    """

    array: da.Array
    index: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Call:
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

    Returns with a name that is always the same for the same array.
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
    """Values of an array in memory, or made by chunking one along its first axis; None if they need computing."""
    if not hasattr(array, "dask"):
        return np.asarray(array)
    if any(n != 1 for n in array.numblocks[1:]):
        return None
    graph = array.__dask_graph__()
    parts = []
    for block in range(array.numblocks[0]):
        node = graph.get((array.name, block, *(0,) * (array.ndim - 1)))
        node = getattr(node, "value", node)
        if not isinstance(node, np.ndarray):
            return None
        parts.append(node)
    return np.concatenate(parts) if parts else np.empty(array.shape, array.dtype)


@dataclass(frozen=True)
class Step:
    """What one layer of lazy arrays does.

    `kind`: its name without the digest; `root`: whether it takes nothing from other layers, a source; `function`: what
    a block-wise layer calls, None where the layer is of another kind; `literals`: its plain arguments, with their names
    where they have any.
    """

    name: str
    kind: str
    root: bool
    function: Any
    literals: list[tuple[str, Any]]


def steps(arrays: Sequence[Any]) -> list[Step]:
    """Read off what lazy arrays are computed by, layer by layer; nothing is computed."""
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


def rooms_of(arrays: Sequence[Any]) -> set[str]:
    """Name the rooms of lunarray whose functions, or models, lazy arrays are computed by; nothing is computed."""
    layers: dict[str, Any] = {}
    for array in arrays:
        graph = array.__dask_graph__()
        layers.update(getattr(graph, "layers", None) or {"": graph})
    modules: set[str] = set()
    seen: set[int] = set()
    for layer in layers.values():
        if isinstance(layer, Blockwise):
            for value in (layer.task, *(v for v, labels in layer.indices if labels is None)):
                _collect(value, modules, seen)
        else:
            for node in layer.values():
                _collect(node, modules, seen)
    return {name.split(".")[1] for name in modules if name.startswith("lunarray.")}


def _collect(value: Any, modules: set[str], seen: set[int]) -> None:
    """Gather the modules of the functions and models in a node of a graph, wherever they are in it."""
    if isinstance(value, str | bytes | int | float | np.ndarray | TaskRef | None):
        return
    if isinstance(value, DataNode):
        _collect(value.value, modules, seen)
    elif isinstance(value, Task):
        for part in (value.func, *value.args, *value.kwargs.values()):
            _collect(part, modules, seen)
    elif isinstance(value, list | tuple | set):
        for part in value:
            _collect(part, modules, seen)
    elif isinstance(value, Mapping):
        for part in value.values():
            _collect(part, modules, seen)
    elif id(value) not in seen:
        seen.add(id(value))
        if isinstance(value, partial):
            _collect((value.func, *value.args, *value.keywords.values()), modules, seen)
        modules.add(str(getattr(value, "loader", "")).partition(":")[0])
        modules.add(getattr(value, "__module__", None) or type(value).__module__)


def literals(layer: Any) -> Iterator[tuple[str, Any]]:
    """Give the plain arguments of a block-wise layer.

    `layer`: one of another kind has none. Yields (str, object): name (where it has one, else "") and value.
    """
    task = getattr(layer, "task", None)
    if task is None:
        return
    given = [("", value) for value, indices in layer.indices if indices is None]
    given += [("", value) for value in task.args]
    given += list(task.kwargs.items())
    for name, value in given:
        # Data nodes hold a value; references and tasks stand for what comes from upstream.
        value = value.value if isinstance(value, DataNode) else value
        if not (isinstance(value, TaskRef) or hasattr(value, "dependencies")):
            yield name, value


# --- graphs of stores: merged, bound to workers, optimised ----------------------------------------


def merged(arrays: Sequence[da.Array], gpus: bool) -> HighLevelGraph:
    """Give the graph of several arrays, with the layers that run a model bound to GPU workers.

    `gpus`: whether there are such workers. A graph may have been built while another cluster was in force: its layers
    are freed where there are none.
    """
    graph = HighLevelGraph.merge(*(array.__dask_graph__() for array in arrays))
    layers = {}
    for name, layer in graph.layers.items():
        annotations = dict(layer.annotations or {})
        needs = dict(annotations.get("resources") or {})
        if not gpus:
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
    return any(
        getattr(value, "device", "cpu") in ("auto", "cuda") and hasattr(value, "sha256")
        for _, value in literals(layer)
    )


def fused(graph: HighLevelGraph, names: Iterable[str]) -> HighLevelGraph:
    """Join block-wise layers that follow one another, without making a task, and keep those of `names`."""
    return optimize_blockwise(graph, [(name,) for name in names])


def lowered(graph: HighLevelGraph, keys: Sequence[Any]) -> Tasks:
    """Make the tasks that `keys` need, and fuse chains of them."""
    if not keys:
        return {}
    with dask.config.set({"optimization.fuse.active": None}):
        return dict(ensure_dict(optimize(graph, list(keys))))


def lowered_for_workers(
    graph: HighLevelGraph, keys: Sequence[Any]
) -> tuple[Tasks, dict[Any, Mapping[str, float]]]:
    """Do as :func:`lowered`, but fuse nothing across the border between tasks bound to workers and others.

    Returns the tasks; and for those that are bound, what they need of their worker.
    """
    settings = {"optimization.annotations.fuse": False, "optimization.fuse.active": False}
    with dask.config.set(settings):
        graph = optimize(graph, list(keys))
    resources = {
        key: layer.annotations["resources"]
        for layer in graph.layers.values()
        if layer.annotations and "resources" in layer.annotations
        for key in layer
    }
    tasks = convert_legacy_graph(ensure_dict(graph))
    resources = {key: need for key, need in resources.items() if key in tasks}
    borders = {dep for key in resources for dep in tasks[key].dependencies}
    return dict(fuse_linear_task_spec(tasks, {*keys, *resources, *borders})), resources


def layered(tasks: Tasks, resources: Mapping[Any, Mapping[str, float]]) -> Any:
    """Give tasks in layers by what they need of their worker (`resources`, by key), as a client takes them."""
    if not resources:
        return tasks
    by_need: dict[tuple[tuple[str, float], ...], Tasks] = {}
    for key, node in tasks.items():
        need = tuple(sorted(resources.get(key, {}).items()))
        by_need.setdefault(need, {})[key] = node
    layers = {
        repr(need): MaterializedLayer(part, annotations={"resources": dict(need)} if need else None)
        for need, part in by_need.items()
    }
    return HighLevelGraph(layers, {name: set() for name in layers})


# --- single layers and tasks ----------------------------------------------------------------------


def blockwise(layer: Any) -> Blockwise | None:
    """Give a layer without what it has cached if its tasks can be made for any of its blocks alone.

    None where it is of another kind, is bound to workers, or carries something for each of its blocks.
    """
    if not isinstance(layer, Blockwise) or (layer.annotations or {}).get("resources"):
        return None
    if any(isinstance(dep, BlockwiseDepDict | ArrayValuesDep) for dep in layer.io_deps.values()):
        return None
    return layer._cull(None)


def block_inputs(layer: Blockwise) -> list[tuple[str, tuple[int | None, ...], tuple[int, ...]]]:
    """Tell which blocks of other layers a block of a block-wise layer takes.

    Returns for each input: its name; for each of its axes the axis of the layer that gives the number of the block,
    None where all of its blocks along that axis are taken; and the number of its blocks along each axis.
    """
    place = {label: axis for axis, label in enumerate(layer.output_indices)}
    found: list[tuple[str, tuple[int | None, ...], tuple[int, ...]]] = []
    for name, labels in layer.indices:
        if labels is not None and name not in layer.io_deps:
            counts = tuple(layer.numblocks[str(name)])
            axes = tuple(
                None if count == 1 else place.get(label)
                for label, count in zip(labels, counts, strict=True)
            )
            found.append((str(name), axes, counts))
    return found


def task_inputs(layer: Blockwise) -> list[Any]:
    """Give the keys that every block of a block-wise layer takes, beside the blocks of other layers."""
    found: list[Any] = []
    for value, labels in layer.indices:
        if labels is None:
            found += (
                [value.key] if isinstance(value, TaskRef) else getattr(value, "dependencies", ())
            )
    return found


def consumers_first(graph: HighLevelGraph) -> list[str]:
    """Put the layers of a graph in an order in which each comes after all that take of it."""
    return list(reversed(graph._toposort_layers()))


def expand(layer: Blockwise, blocks: list[tuple[int, ...]]) -> Tasks:
    """Make the tasks of some blocks, one at least, of a block-wise layer."""
    return dict(layer._cull(blocks))


def plain(node: Any) -> bool:
    """Tell whether a node of a graph is a value or another name of one, and so nothing to run."""
    return isinstance(node, Alias | DataNode)


def task(key: Hashable, function: Callable[..., Any], needs: Iterable[Any]) -> Task:
    """Make a task that calls a function with the results of others."""
    return Task(key, function, *map(TaskRef, needs))
