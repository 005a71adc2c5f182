"""Arrays in regions: one task for each, from reading to writing.

A graph of all blocks of all arrays costs time and memory at the client, and the scheduler more. So what only one region
needs does not become tasks of its own: the region's one task makes them where it runs, and runs them one after another.
What several regions need (a block that is larger than a region, a neighbour's edge, sums over tracks) stays an ordinary
task, computed once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.utils import key_split

from lunarray.engine import graph
from lunarray.engine.failures import Failure, attempt

Index = tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """Arrays that are cut alike.

    `name`: of the tasks, whose keys are this and the number of the region along each axis; `axes`: for each array and
    each of its dimensions, the axis of the regions that cuts it, None where it is whole; `edges`: borders of the
    regions along each axis, rising; `finish`: takes the region's part of each array (list of ndarray) and its beginning
    along each axis (tuple of int), gives the result of the task, and must be picklable; `wanted`: the regions to make
    tasks for.
    """

    name: str
    arrays: tuple[da.Array, ...]
    axes: tuple[tuple[int | None, ...], ...]
    edges: tuple[tuple[int, ...], ...]
    finish: Callable[[list[np.ndarray], Index], Any]
    wanted: Sequence[Index]


@dataclass(frozen=True)
class Work:
    """Tasks to run.

    `graph`: low-level Dask graph; `keys`: those wanted, the result of each is a dict of its account; `resources`:
    workers that some tasks need, by label.
    """

    graph: Mapping[Any, Any]
    keys: Sequence[Any]
    resources: Mapping[Any, Mapping[str, float]] = field(default_factory=dict)


def plan(
    targets: Sequence[Target], *, gather: bool = True, labels: Mapping[str, int] | None = None
) -> Work:
    """Make one task for every region that is wanted; what targets have in common is computed once.

    `gather`: put into a region's task what only that region needs; without it each block stays a task of its own, which
    keeps more threads at work where regions are few; `labels`: resource labels of the cluster's workers. With "GPU"
    among them, tasks that run a model are bound to those workers; with "CPU" too, the others to these; and nothing is
    gathered.
    """
    targets = [target for target in targets if target.wanted]
    gpus = "GPU" in (labels or {})
    arrays = [array for target in targets for array in target.arrays]
    if not arrays:
        return Work({}, [])
    merged = graph.merged(arrays, gpus)
    own: dict[str, _Own] = {}
    if gather and not gpus:
        merged = graph.fused(merged, {array.name for array in arrays})
        own = _own_layers(merged, targets)
    regions = {}
    for number, target in enumerate(targets):
        recipe = _Recipe(
            target.finish,
            tuple((array.name, array.chunks, array.dtype) for array in target.arrays),
            tuple(each.layer for each in own.values() if each.target == number),
        )
        for index in target.wanted:
            regions[(target.name, *index)] = _region(recipe, target, index, own)
    keys = list(regions)
    needs = dict.fromkeys(itertools.chain.from_iterable(r.needs for r in regions.values()))
    shared = _without(merged, own)
    resources: dict[Any, Mapping[str, float]] = {}
    if gpus:
        tasks, resources = graph.lowered_for_workers(shared, list(needs))
    else:
        tasks = graph.lowered(shared, list(needs))
        if gather:
            _gather(tasks, regions)
    for key, region in regions.items():
        tasks[key] = graph.task(key, region, region.needs)
    if gpus and "CPU" in (labels or {}):
        rest = {"CPU": 1}
        resources |= {
            key: rest
            for key, node in tasks.items()
            if key not in resources and not graph.plain(node)
        }
    return Work(tasks, keys, resources)


# --- which layers belong to regions ---------------------------------------------------------------

#: Blocks of a layer along one of its axes that regions need: the axis of the regions, and for each the first and the
#: one behind the last. None for all of them.
_Ranges = tuple[int, np.ndarray, np.ndarray] | None


@dataclass
class _Own:
    """A block-wise layer of which no block is needed by two regions."""

    layer: Any
    target: int
    ranges: list[_Ranges]
    counts: tuple[int, ...]

    def blocks(self, index: Index) -> list[range]:
        """Blocks along each axis that a region needs."""
        return [
            range(count) if own is None else range(int(own[1][index[own[0]]]), int(own[2][index[own[0]]]))
            for own, count in zip(self.ranges, self.counts, strict=True)
        ]  # fmt: skip


def _own_layers(whole: Any, targets: Sequence[Target]) -> dict[str, _Own]:
    """Find them, consumers first."""
    demands: dict[str, list[tuple[int, list[_Ranges]]]] = {}
    counts: dict[str, tuple[int, ...]] = {}
    for number, target in enumerate(targets):
        for array, axes in zip(target.arrays, target.axes, strict=True):
            demands.setdefault(array.name, []).append((number, _overlaps(array, axes, target)))
            counts[array.name] = array.numblocks
    own: dict[str, _Own] = {}
    shared: set[str] = set()
    for name in graph.consumers_first(whole):
        layer = graph.blockwise(whole.layers[name])
        asked = demands.get(name, [])
        mine = None
        if layer is not None and name not in shared and asked and layer.output == name:
            mine = _one(asked, targets)
        if layer is None or mine is None:
            shared |= whole.dependencies[name]
            continue
        own[name] = _Own(layer, mine[0], mine[1], counts[name])
        shared |= {key[0] if isinstance(key, tuple) else key for key in graph.task_inputs(layer)}
        for source, axes, blocks in graph.block_inputs(layer):
            ranges = [None if axis is None else mine[1][axis] for axis in axes]
            demands.setdefault(source, []).append((mine[0], ranges))
            counts[source] = blocks
    return own


def _overlaps(array: da.Array, axes: Sequence[int | None], target: Target) -> list[_Ranges]:
    found: list[_Ranges] = []
    for sizes, axis in zip(array.chunks, axes, strict=True):
        if axis is None:
            found.append(None)
            continue
        bounds, edges = np.cumsum((0, *sizes)), np.asarray(target.edges[axis])
        first = np.searchsorted(bounds, edges[:-1], side="right") - 1
        last = np.searchsorted(bounds, edges[1:], side="left")
        found.append((axis, first, last))
    return found


def _one(
    asked: Sequence[tuple[int, list[_Ranges]]], targets: Sequence[Target]
) -> tuple[int, list[_Ranges]] | None:
    """Join what several layers ask of one, if all of it is for one region block by block."""
    number, joined = asked[0]
    for other, ranges in asked[1:]:
        if other != number:
            return None
        both = zip(joined, ranges, strict=True)
        if any((a is None) != (b is None) or (a and b and a[0] != b[0]) for a, b in both):
            return None
        joined = [
            (a[0], np.minimum(a[1], b[1]), np.maximum(a[2], b[2])) if a and b else None
            for a, b in zip(joined, ranges, strict=True)
        ]
    alone = {own[0] for own in joined if own is not None and (own[1][1:] >= own[2][:-1]).all()}
    several = {axis for axis, edges in enumerate(targets[number].edges) if len(edges) > 2}
    return (number, joined) if several <= alone else None


def _without(whole: Any, own: Mapping[str, Any]) -> Any:
    """The graph of the other layers."""
    layers = {name: layer for name, layer in whole.layers.items() if name not in own}
    return type(whole)(layers, {name: whole.dependencies[name] - own.keys() for name in layers})


# --- tasks of regions -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Recipe:
    """What the regions of a target have in common."""

    finish: Callable[[list[np.ndarray], Index], Any]
    arrays: tuple[tuple[str, tuple[tuple[int, ...], ...], np.dtype], ...]
    layers: tuple[Any, ...]


@dataclass(slots=True, eq=False, repr=False)
class Region:
    """The task of a region: makes the tasks that only it needs, runs them, and hands over its arrays.

    `begin`: of the region along each axis; `spans`: begin and end in each array along each dimension; `blocks`: of each
    layer of the recipe; `needs`: keys that it takes from ordinary tasks, in the order of its arguments.
    """

    recipe: _Recipe
    begin: Index
    spans: list[Any]
    blocks: dict[str, Any]
    needs: tuple[Any, ...] = ()
    extra: graph.Tasks = field(default_factory=dict)

    def __call__(self, *values: Any) -> Any:
        for value in values:
            if isinstance(value, Failure):
                return value
        return self.run(values)

    def run(
        self,
        values: Sequence[Any],
        stage: str | None = None,
        *,
        retries: int = 0,
        keep: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Any:
        """Run it on `values`, the results of what it needs.

        `stage`: what `finish` counts as, None where a cluster counts the region; `retries`: how often one of its tasks
        is tried again; `keep`: give the failure of one of its tasks instead of raising it; `stopped`: tells whether the
        run is over, so that nothing more is to be done. Returns what `finish` gives, or a Failure.
        """
        tried = partial(attempt, retries=retries, keep=keep, stopped=stopped)
        tasks = dict(self.extra)
        for layer in self.recipe.layers:
            if (blocks := self.blocks.get(layer.output)) is not None:
                tasks |= graph.expand(layer, list(itertools.product(*blocks)))
        held = dict(zip(self.needs, values, strict=True))
        pasted = [
            _Paste(span, dtype)
            for span, (_, _, dtype) in zip(self.spans, self.recipe.arrays, strict=True)
        ]
        leaves = list(self._leaves())
        users = Counter(key for key, *_ in leaves)
        users.update(itertools.chain.from_iterable(node.dependencies for node in tasks.values()))
        for key, number, place in leaves:
            for step in _in_turn(tasks, key, held):
                if stopped():
                    raise RuntimeError("the run was stopped")
                node = tasks.pop(step)
                call = partial(node, {dep: held[dep] for dep in node.dependencies})
                if graph.plain(node):
                    held[step] = call()
                else:
                    result = tried(call, key_split(step))
                    if isinstance(result, Failure):
                        return result
                    held[step] = result
                del call
                for dep in node.dependencies:
                    _release(dep, users, held)
            pasted[number].put(held[key], place)
            _release(key, users, held)
        if stopped():
            raise RuntimeError("the run was stopped")
        finish = partial(self.recipe.finish, [paste.array for paste in pasted], self.begin)
        return finish() if stage is None else tried(finish, stage)

    def _leaves(self) -> Iterator[tuple[Any, int, list[tuple[int, int]]]]:
        """Blocks of all arrays that the region overlaps: key, number of the array, and where the block lies in it."""
        found = []
        for number, ((name, chunks, _), spans) in enumerate(
            zip(self.recipe.arrays, self.spans, strict=True)
        ):
            axes = []
            for sizes, (low, high) in zip(chunks, spans, strict=True):
                bounds = np.cumsum((0, *sizes)).tolist()
                first = int(np.searchsorted(bounds, low, side="right")) - 1
                last = int(np.searchsorted(bounds, high, side="left"))
                axes.append([(i, (bounds[i], bounds[i + 1])) for i in range(first, last)])
            for order, each in enumerate(itertools.product(*axes)):
                key = (name, *(i for i, _ in each))
                found.append((order, number, key, [where for _, where in each]))
        # Block by block, not array by array: what arrays have in common is soon done with.
        found.sort(key=lambda leaf: leaf[:2])
        for _, number, key, where in found:
            yield key, number, where


def _region(recipe: _Recipe, target: Target, index: Index, own: Mapping[str, _Own]) -> Region:
    spans: list[Any] = []
    needs: dict[Any, None] = {}
    for array, axes in zip(target.arrays, target.axes, strict=True):
        spans.append(
            [
                (0, length) if axis is None else target.edges[axis][index[axis] : index[axis] + 2]
                for length, axis in zip(array.shape, axes, strict=True)
            ]
        )
    blocks = {layer.output: own[layer.output].blocks(index) for layer in recipe.layers}
    for layer in recipe.layers:
        mine = blocks[layer.output]
        if not all(mine):
            continue
        needs.update(dict.fromkeys(graph.task_inputs(layer)))
        for source, axes, counts in graph.block_inputs(layer):
            if source not in own:
                wanted = [
                    range(count) if axis is None else mine[axis]
                    for axis, count in zip(axes, counts, strict=True)
                ]
                needs.update(dict.fromkeys((source, *at) for at in itertools.product(*wanted)))
    begin = tuple(edges[i] for edges, i in zip(target.edges, index, strict=True))
    region = Region(recipe, begin, spans, blocks)
    needs.update({key: None for key, *_ in region._leaves() if key[0] not in own})
    region.needs = tuple(needs)
    return region


def _gather(tasks: graph.Tasks, regions: Mapping[Any, Region]) -> None:
    """Move the tasks that only one region needs into that region."""
    users: dict[Any, Any] = {}
    several = object()

    def use(key: Any, user: Any) -> None:
        users[key] = user if users.get(key, user) is user else several

    for region in regions.values():
        for key in region.needs:
            use(key, region)
    waiting = Counter(dep for node in tasks.values() for dep in node.dependencies)
    ready = [key for key in tasks if not waiting[key]]
    while ready:
        key = ready.pop()
        node, user = tasks[key], users.get(key, several)
        for dep in node.dependencies:
            use(dep, user)
            waiting[dep] -= 1
            if not waiting[dep] and dep in tasks:
                ready.append(dep)
        if user is not several:
            user.extra[key] = tasks.pop(key)
    for region in regions.values():
        if region.extra:
            needs = dict.fromkeys(region.needs)
            for node in region.extra.values():
                needs.update(dict.fromkeys(node.dependencies))
            region.needs = tuple(key for key in needs if key not in region.extra)


def _in_turn(tasks: graph.Tasks, key: Any, held: Mapping[Any, Any]) -> list[Any]:
    """What has to be run for a key, what it needs first."""
    found: dict[Any, None] = {}
    stack = [(key, False)]
    while stack:
        key, seen = stack.pop()
        if key in held or key in found:
            continue
        if seen:
            found[key] = None
            continue
        stack.append((key, True))
        stack.extend((dep, False) for dep in tasks[key].dependencies)
    return list(found)


def _release(key: Any, users: Counter[Any], held: dict[Any, Any]) -> None:
    users[key] -= 1
    if not users[key]:
        held.pop(key, None)


class _Paste:
    """A region's part of one array, put together from blocks."""

    def __init__(self, span: Sequence[tuple[int, int]], dtype: np.dtype) -> None:
        self._span, self._dtype = span, dtype
        self.array: Any = None

    def put(self, block: Any, place: Sequence[tuple[int, int]]) -> None:
        cut, into = [], []
        for (low, high), (first, last) in zip(self._span, place, strict=True):
            begin, end = max(low, first), min(high, last)
            cut.append(slice(begin - first, end - first))
            into.append(slice(begin - low, end - low))
        part = np.asarray(block)[tuple(cut)]
        shape = tuple(high - low for low, high in self._span)
        if part.shape == shape:
            self.array = part
            return
        if self.array is None:
            self.array = np.empty(shape, self._dtype)
        self.array[tuple(into)] = part
