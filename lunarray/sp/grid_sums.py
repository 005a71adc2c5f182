"""Running a plan of a map: sums of its cells, and from them mean, count and deviation; at once, or as a graph.

A block that needs many input chunks is a chain of links, each holding a bounded part of the input and handing on the
sums of the occupied cells; observations are always added in their own order. Input that is more than memory should hold
is computed once and laid down in a file, from which each block reads its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.engine.spilling import Spilled, spill
from lunarray.sp.grid_fill import Fill, fill_block, fill_window
from lunarray.sp.grid_plan import BlockPlan, GridPlan, Piece

if TYPE_CHECKING:
    import xarray as xr

#: For each of the last variables whether it is of counted observations alone.
Beside = tuple[bool, ...]

# Input that one link of a chain may hold (bytes).
_LINK_BYTES = 256 * 2**20

# Lazy input of all blocks together that is kept in memory for them (bytes); more is laid down in a file.
_HELD_BYTES = 512 * 2**20


def float_of(dtype: np.dtype) -> np.dtype:
    """Type of the statistics of values of a type."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _accumulate(
    state: dict | None,
    cells: int,
    spread: bool,
    data: Sequence[list[np.ndarray] | Spilled],
    rows: list[np.ndarray],
    slots: list[np.ndarray],
    beside: Beside,
    layout: list[tuple[int, np.dtype]],
) -> dict:
    """One link: sums of the occupied cells, after adding the observations of some input chunks.

    `data` holds, for each chunk, the variables; `rows` and `slots` tell for each chunk what to add to which cell;
    `layout`: values in a row of each variable, and their type.
    Without `spread`, sums of squares are left out. The last variables, for each of which `beside` holds whether it is
    of counted observations alone, have no part in the counts.
    """
    from lunarray.sp.grid_kernels import accumulate, count_observations

    counted_ones = len(layout) - len(beside)
    if state is None:
        state = {"count": np.zeros(cells, np.int32), "sums": []}
        for place, (width, dtype) in enumerate(layout):
            squared = cells if spread and place < counted_ones else 0
            state["sums"].append(
                (
                    np.zeros((cells, width), _exact(dtype)),
                    np.zeros((cells, width)),
                    np.zeros((squared, width)),
                    np.zeros((cells, width), np.int32),
                )
            )
    else:  # what another task made must not change under it
        state = {
            "count": state["count"].copy(),
            "sums": [tuple(part.copy() for part in sums) for sums in state["sums"]],
        }
    for own, chunk_rows, chunk_slots in zip(data, rows, slots, strict=True):
        chunk_rows, chunk_slots = chunk_rows.astype(np.int64), chunk_slots.astype(np.int64)
        if isinstance(own, Spilled):
            own, chunk_rows = own.take(chunk_rows), np.arange(chunk_rows.size)
        valid = np.zeros(chunk_rows.size, bool)
        for place, (chunk, sums) in enumerate(zip(own, state["sums"], strict=True)):
            chunk = np.asarray(chunk)
            chunk = np.ascontiguousarray(chunk.reshape(chunk.shape[0], -1), _exact(chunk.dtype))
            own_rows, own_slots, seen = chunk_rows, chunk_slots, valid
            if place >= counted_ones:
                if beside[place - counted_ones]:
                    own_rows, own_slots = chunk_rows[valid], chunk_slots[valid]
                seen = np.zeros(own_rows.size, bool)
            shift, total, squares, counted = sums
            accumulate(chunk, own_rows, own_slots, shift, total, squares, counted, seen)
        count_observations(chunk_slots, valid, state["count"])
    return state


def _stats_of(stats: tuple[str, ...], number: int, arrays: int, beside: Beside) -> tuple[str, ...]:
    """What is wanted of a variable: of one that stands beside the others the mean."""
    return ("mean",) if number >= arrays - len(beside) else stats


def _layout(arrays: Iterable[Any]) -> list[tuple[int, np.dtype]]:
    """Values in a row of each array, and their type."""
    return [(math.prod(array.shape[1:]), np.dtype(array.dtype)) for array in arrays]


def _exact(dtype: np.dtype) -> np.dtype:
    """The floating type that holds the values of another to the last digit."""
    return np.dtype(np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64)


def _finish_count(state: dict, cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    out = np.zeros(shape[0] * shape[1], np.int32)
    out[cells] = state["count"]
    return out.reshape(shape)


def _finish(
    state: dict,
    variable: int,
    stat: str,
    cells: np.ndarray,
    extra: tuple[int, ...],
    shape: tuple[int, int],
    dtype: np.dtype,
) -> np.ndarray:
    shift, total, squares, number = state["sums"][variable]
    out = np.full((shift.shape[1], shape[0] * shape[1]), np.nan, dtype)
    step = 1024  # cells at a time: intermediate results take no memory worth naming
    for start in range(0, cells.size, step):
        part = slice(start, start + step)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total[part] / number[part]
            if stat == "mean":
                values = shift[part] + mean
            else:
                values = np.sqrt(np.maximum(squares[part] / number[part] - mean * mean, 0.0))
        out[:, cells[part]] = values.T
    return out.reshape(*extra, *shape)


def grid_at_once(
    arrays: Mapping[str, xr.DataArray],
    plan: GridPlan,
    stats: tuple[str, ...],
    fill: Fill | None,
    beside: Beside = (),
) -> dict[str, np.ndarray]:
    """The whole grid as one block. The same tasks as in the graph, called."""
    ((index, block),) = plan.blocks.items()
    data = [[array.values for array in arrays.values()]] * len(block.pieces)
    layout = _layout(arrays.values())
    rows, slots = ([getattr(piece, name) for piece in block.pieces] for name in ("rows", "slots"))
    state = _accumulate(None, block.cells.size, "std" in stats, data, rows, slots, beside, layout)
    count = _finish_count(state, block.cells, block.shape)
    out = {"count": count} if "count" in stats else {}
    span = ((0, plan.shape[0]), (0, plan.shape[1]))
    window = [] if fill is None else fill_window(fill, plan, index)
    places = [place for _, place in window]
    for number, (name, array) in enumerate(arrays.items()):
        for stat in ("mean", "std"):
            if stat in _stats_of(stats, number, len(arrays), beside):
                dtype = float_of(array.dtype)
                values = _finish(
                    state, number, stat, block.cells, array.shape[1:], block.shape, dtype
                )
                if stat == "mean" and fill is not None:
                    values = fill_block(
                        fill, *span, places, [count] * len(places), [values] * len(places)
                    )
                out[name if stat == "mean" else f"{name}_std"] = values
    if fill is not None:
        out["filled"] = fill_block(fill, *span, places, [count] * len(places), None)
    return out


def grid_lazily(
    arrays: Mapping[str, xr.DataArray],
    plan: GridPlan,
    stats: tuple[str, ...],
    fill: Fill | None,
    beside: Beside = (),
) -> dict[str, Any]:
    """The grid as a graph: sums of each block from the input chunks that it needs, and from these everything else."""
    import dask.array as da
    from dask.base import tokenize

    from lunarray.engine.graph import Block, Call, assemble

    inputs = _inputs(arrays, plan)
    spread = "std" in stats
    token = tokenize(plan.token, spread, beside, [data.name for data in inputs])

    layout = _layout(inputs)
    row_bytes = sum(width * dtype.itemsize for width, dtype in layout)
    large = row_bytes * sum(plan.observations) > _HELD_BYTES
    spilled = None
    if large and len(plan.blocks) > 1 and any(array.chunks for array in arrays.values()):
        spilled = assemble(
            spill,
            (plan.observations,),
            needs=lambda at: [[_of_chunk(data, at[0]) for data in inputs], token],
            dtype=object,
            name="grid-spill",
            token=token,
        )

    def block_of(index: tuple[int, ...]) -> BlockPlan | None:
        return plan.blocks.get((index[-2], index[-1]))

    def sums_of(index: tuple[int, ...]) -> Call:
        block = block_of(index)
        sums: Call | None = None
        # What is spilled is read row by row: one task holds no more than its sums.
        held = row_bytes if spilled is None else 0
        for pieces in _links(block.pieces, plan.observations, held) if block else []:
            chunks: list[Any] = [
                [_of_chunk(data, piece.chunk) for data in inputs]
                if spilled is None
                else Block(spilled, (piece.chunk,))
                for piece in pieces
            ]
            rows, slots = [piece.rows for piece in pieces], [piece.slots for piece in pieces]
            cells = block.cells.size if block else 0
            sums = Call(_accumulate, [sums, cells, spread, chunks, rows, slots, beside, layout])
        return sums or Call(np.full, [(0, 0), 0, np.dtype(object)])

    sums = assemble(
        _accumulate, plan.chunks, needs=sums_of, dtype=object, name="grid-sums", token=token
    )

    def count_of(index: tuple[int, ...]) -> Any:
        block = block_of(index)
        if block is None:
            return Call(np.full, [plan.shape_of(index), 0, np.dtype(np.int32)])
        return [Block(sums, index), block.cells, block.shape]

    def stat_array(number: int, stat: str) -> da.Array:
        extra, dtype = inputs[number].shape[1:], float_of(inputs[number].dtype)

        def needs(index: tuple[int, ...]) -> Any:
            block = block_of(index)
            if block is None:
                return Call(np.full, [(*extra, *plan.shape_of(index)), np.nan, dtype])
            own = Block(sums, index[-2:])
            return [own, number, stat, block.cells, extra, block.shape, dtype]

        chunks = (*((size,) for size in extra), *plan.chunks)
        return assemble(
            _finish,
            chunks,
            needs=needs,
            dtype=dtype,
            name=f"grid-{stat}",
            token=(token, number, stat),
        )

    count = assemble(
        _finish_count, plan.chunks, needs=count_of, dtype=np.int32, name="grid-count", token=token
    )

    out: dict[str, Any] = {"count": count} if "count" in stats else {}
    for number, name in enumerate(arrays):
        these = _stats_of(stats, number, len(arrays), beside)
        if "mean" in these:
            mean = stat_array(number, "mean")
            out[name] = mean if fill is None else _fill_lazily(plan, fill, count, mean, token)
        if "std" in these:
            out[f"{name}_std"] = stat_array(number, "std")
    if fill is not None:
        out["filled"] = _fill_lazily(plan, fill, count, None, token)
    return out


def _inputs(arrays: Mapping[str, xr.DataArray], plan: GridPlan) -> list[Any]:
    """Each variable in the chunks of the plan, lazily."""
    import dask.array as da

    inputs = []
    for array in arrays.values():
        wanted = (plan.observations, *((size,) for size in array.shape[1:]))
        # Slicing NumPy keeps only a chunk's rows in its task; the name tells of the content.
        data = (
            array.data
            if array.chunks is not None
            else da.from_array(np.asarray(array.values), chunks=wanted)
        )
        inputs.append(data.rechunk(wanted))
    return inputs


def _of_chunk(data: Any, chunk: int) -> Any:
    """A chunk of observations as an argument of a task."""
    from lunarray.engine.graph import Block

    return Block(data, (chunk, *(0 for _ in data.shape[1:])))


def _fill_lazily(plan: GridPlan, fill: Fill, count: Any, mean: Any, token: str) -> Any:
    """The means with their gaps filled; without these, which cells were filled."""
    from lunarray.engine.graph import Block, Call, assemble

    extra = () if mean is None else mean.shape[:-2]
    zero = tuple(0 for _ in extra)
    dtype: Any = np.dtype(bool) if mean is None else mean.dtype
    edges = [np.concatenate([[0], np.cumsum(sizes)]).tolist() for sizes in plan.chunks]

    def needs(index: tuple[int, ...]) -> Any:
        own = (index[-2], index[-1])
        # Blocks without observations fill nothing: neighbours among them are left out.
        window = [(at, place) for at, place in fill_window(fill, plan, own) if at in plan.blocks]
        if not window:
            empty = False if mean is None else np.nan
            return Call(np.full, [(*extra, *plan.shape_of(own)), empty, dtype])
        spans = [(edges[axis][own[axis]], edges[axis][own[axis] + 1]) for axis in (0, 1)]
        counts = [Block(count, at) for at, _ in window]
        means = None if mean is None else [Block(mean, (*zero, *at)) for at, _ in window]
        return [fill, *spans, [place for _, place in window], counts, means]

    chunks = (*((size,) for size in extra), *plan.chunks)
    name = None if mean is None else mean.name
    return assemble(
        fill_block,
        chunks,
        needs=needs,
        dtype=dtype,
        name="grid-fill",
        token=(token, fill, name),
    )


def _links(pieces: list[Piece], observations: tuple[int, ...], row_bytes: int) -> list[list[Piece]]:
    """Cut the pieces of a block into runs whose input chunks fit into the memory of one link, or into 200 runs."""
    links: list[list[Piece]] = []
    held = math.inf
    whole = sum(observations[piece.chunk] for piece in pieces) * row_bytes
    limit = max(_LINK_BYTES, whole // 200)
    for piece in pieces:
        size = observations[piece.chunk] * row_bytes
        if held + size > limit:
            links.append([])
            held = 0
        links[-1].append(piece)
        held += size
    return links
