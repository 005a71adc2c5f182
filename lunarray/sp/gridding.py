"""Tracks to maps: mean, count and standard deviation of the observations in each cell of a lunar grid.

Where an observation falls is known from the coordinates alone, so the graph says exactly which input chunks each
output block needs. A block that needs many is a chain of links, each holding a bounded part of the input and handing
on the sums of the occupied cells; observations are always added in their own order, so that the result is the same to
the last bit however input and output are chunked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

STATS = ("mean", "count", "std")

# Input that one link of a chain may hold (bytes), and the size of an output block with all its bands.
_LINK_BYTES = 256 * 2**20
_BLOCK_BYTES = 64 * 2**20
# On grids in longitude, pixels shrink towards the poles and a radius spans ever more columns; this many times the
# depth in rows serves up to 82.8°.
_MAX_COLUMN_DEPTH = 8


def grid(
    ds: xr.Dataset | xr.DataArray,
    grid: Any = "north",
    *,
    resolution: float | None = None,
    latitude: float = 65.0,
    bounds: Sequence[float] | None = None,
    variables: Sequence[str] | str | None = None,
    stats: Sequence[str] = STATS,
    fill_radius: float | None = None,
    chunks: int | tuple[int, int] | Mapping[str, int] | None = None,
) -> xr.Dataset:
    """Grid tracks onto a lunar map.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Tracks with dimension ``observation`` and coordinates ``lon`` and ``lat`` (degrees) on it. Spectra of the
        Spectral Profiler as they were read (296 channels) pass through `lunarray.sp.condition` first.
    grid : str, GeoBox or xarray object, optional
        "north", "south", "equirectangular", "geographic"; a GeoBox; or a map whose grid is taken. See
        `lunarray.geo.lunar_grid`.
    resolution : float, optional
        Pixel size in m (default 500), in degrees on the geographic grid (default 0.5).
    latitude : float, optional
        Polar grids cover everything poleward of it (degrees).
    bounds : sequence of 4 floats, optional
        left, bottom, right, top in the units of the grid, instead of `latitude`.
    variables : sequence of str, optional
        What to grid: any numeric variables along ``observation``, with or without further dimensions. Default:
        ``reflectance``, or where there is none every floating variable along ``observation``.
    stats : sequence of {"mean", "count", "std"}, optional
        Which statistics to return.
    fill_radius : float, optional
        Fill empty cells from cells with data within this distance on the ground (m), by inverse squared distance. On
        cylindrical grids poleward of 83° the search along a parallel is narrower; use a polar grid there.
    chunks : int, tuple or mapping, optional
        Spatial chunks of the result, (y, x). Default: blocks of up to 64 MiB. If given, the result is lazy also for
        NumPy input.

    Returns
    -------
    xarray.Dataset
        Each variable under its own name with dimensions (..., y, x) or (..., lat, lon), NaN where nothing was
        observed: the mean of the finite values of the cell, for each band; ``<name>_std``, their standard deviation
        (of the population: 0 for one value); ``count`` (int32), the observations in the cell with a finite value in
        any band of any gridded variable; with `fill_radius`, ``filled`` (bool), true where the mean comes from
        neighbours (count is 0 there). Lazy if a variable is chunked, else in memory. Variables of float64 stay
        float64, all others become float32.

    Raises
    ------
    InputError
        If positions, variables or statistics are not there.
    GridError
        If the grid cannot be made, or no observation falls on it.
    BodyMismatchError
        If the grid is of another body.

    Notes
    -----
    A cell is half-open towards east and south on the map; a pole and the ±180° meridian each belong to one cell,
    whatever longitude the observation was given. Observations outside the grid are left out and counted in the
    attribute ``observations_outside`` of ``count``.

    Building the graph computes nothing where the positions are in memory, as `lunarray.open_sp` has them. Positions
    that are themselves lazy, as in a store opened with chunks, are read then, since they decide which input each
    block needs.
    """
    from lunarray.geo import lunar_grid

    if isinstance(ds, xr.DataArray):
        ds = ds.to_dataset(name=ds.name if ds.name is not None else "data")
        variables = [str(name) for name in ds.data_vars] if variables is None else variables
    stats = _check_stats(stats, fill_radius)
    names = _check_variables(ds, variables)
    if "reflectance" in names:
        from lunarray.sp.api import condition, is_native

        if is_native(ds):
            # Its wavelength axis is another one, so that what stays beside it is only what has no such axis.
            beside = [name for name in names if name != "reflectance"]
            spectral = [name for name in beside if "wavelength" in ds[name].dims]
            if spectral:
                raise InputError(
                    f"{', '.join(spectral)} have the native channels, reflectance after conditioning has others",
                    where="variables",
                    remedy="grid them in another call",
                )
            ds = condition(
                ds[["reflectance"]] if "qa" not in ds else ds[["reflectance", "qa"]]
            ).assign({name: ds[name] for name in beside})
    lon, lat = _positions(ds)
    geobox = lunar_grid(grid, resolution, bounds, latitude=latitude)
    arrays = {name: ds[name].transpose("observation", ...) for name in names}
    lazy = chunks is not None or any(array.chunks is not None for array in arrays.values())
    pixel_bytes = max(
        math.prod(array.shape[1:]) * _float_of(array.dtype).itemsize for array in arrays.values()
    )
    blocks = _block_chunks(geobox, chunks, pixel_bytes if lazy else 0)
    plan = _plan(geobox, lon, lat, _observation_chunks(arrays), blocks)
    fill = None if fill_radius is None else _fill_plan(geobox, fill_radius)
    computed = _lazy(arrays, plan, stats, fill) if lazy else _eager(arrays, plan, stats, fill)
    return _assemble(ds, arrays, computed, plan, geobox, fill_radius)


# --- checks ---------------------------------------------------------------------------------------


def _check_stats(stats: Sequence[str], fill_radius: float | None) -> tuple[str, ...]:
    stats = (stats,) if isinstance(stats, str) else tuple(stats)
    unknown = [name for name in stats if name not in STATS]
    if unknown or not stats:
        raise InputError(
            f"unknown statistics {unknown or stats}",
            where="stats",
            remedy=f"choose among {', '.join(STATS)}",
        )
    if fill_radius is not None:
        if not (fill_radius > 0 and math.isfinite(fill_radius)):
            raise GridError(
                f"a fill radius of {fill_radius} m fills nothing",
                where="fill_radius",
                remedy="give metres, or None",
            )
        if "mean" not in stats:
            raise InputError(
                "gaps are filled in the mean, which is not asked for",
                where="stats",
                remedy='add "mean"',
            )
    return tuple(name for name in STATS if name in stats)


def _check_variables(ds: xr.Dataset, variables: Sequence[str] | str | None) -> list[str]:
    if "observation" not in ds.dims:
        raise InputError(
            f"there are no tracks: the dimensions are {tuple(map(str, ds.dims))}",
            remedy="grid needs a dimension 'observation'; a map is reprojected, not gridded",
        )
    along = [str(name) for name, variable in ds.data_vars.items() if "observation" in variable.dims]
    if variables is None:
        names = (
            ["reflectance"]
            if "reflectance" in along
            else [n for n in along if ds[n].dtype.kind == "f"]
        )
    else:
        names = [variables] if isinstance(variables, str) else list(dict.fromkeys(variables))
    missing = [name for name in names if name not in ds or "observation" not in ds[name].dims]
    if missing or not names:
        raise InputError(
            f"no variable {', '.join(map(repr, missing))} along observation"
            if missing
            else "there is no variable to grid",
            where="variables",
            remedy=f"choose among {', '.join(along) or 'none: the dataset has no variable along observation'}",
        )
    for name in names:
        if ds[name].dtype.kind not in "fiub":
            raise InputError(
                f"values of type {ds[name].dtype} have no mean",
                where=name,
                remedy="grid numeric variables",
            )
        if ds[name].size == 0 and ds.sizes["observation"]:
            raise InputError("the variable is empty", where=name, remedy="select at least one band")
    clashes = {"count", "filled"} & set(names) | {f"{name}_std" for name in names} & set(names)
    if clashes:
        raise InputError(
            f"the names of the results would clash: {', '.join(sorted(clashes))}",
            where="variables",
            remedy="rename the variable, or grid it by itself",
        )
    return names


def _positions(ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    positions = []
    for name in ("lon", "lat"):
        if name not in ds.variables or ds[name].dims != ("observation",):
            raise InputError(
                f"the tracks have no {name!r} along observation",
                where=name,
                remedy="assign coordinates lon and lat (degrees) for each observation",
            )
        positions.append(ds[name])
    known = [
        position if position.chunks is None else _literal(position.data) for position in positions
    ]
    if any(values is None for values in known):
        import dask

        known = list(dask.compute(*positions))
    return np.asarray(known[0], dtype=np.float64), np.asarray(known[1], dtype=np.float64)


def _literal(array: Any) -> np.ndarray | None:
    """Values of a Dask array that was made by chunking NumPy, read from its graph without computing; else None."""
    graph = array.__dask_graph__()
    parts = []
    for block in range(array.numblocks[0]):
        node = graph.get((array.name, block))
        node = getattr(node, "value", node)  # a DataNode, in newer versions of Dask
        if not isinstance(node, np.ndarray):
            return None
        parts.append(node)
    return np.concatenate(parts) if parts else np.empty(0)


def _float_of(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


# --- plan: which observation goes where -----------------------------------------------------------


class _Piece(NamedTuple):
    """Observations of one input chunk that fall into one output block, in order."""

    chunk: int
    rows: np.ndarray
    slots: np.ndarray


class _Block(NamedTuple):
    """What falls into one output block."""

    shape: tuple[int, int]
    cells: np.ndarray  # flat index of the occupied cells; the slots of the pieces index it
    pieces: list[_Piece]


class _Plan(NamedTuple):
    shape: tuple[int, int]
    chunks: tuple[tuple[int, ...], tuple[int, ...]]
    observations: tuple[int, ...]  # input chunks
    blocks: dict[tuple[int, int], _Block]  # only the blocks with observations
    gridded: int
    outside: int
    token: str


def _observation_chunks(arrays: Mapping[str, xr.DataArray]) -> tuple[int, ...]:
    """Chunks along observation that suit every variable: the union of their boundaries."""
    size = next(iter(arrays.values())).sizes["observation"]
    edges = {0, size}
    for array in arrays.values():
        if array.chunks is not None:
            edges.update(np.cumsum(array.chunks[0]).tolist())
    return tuple(np.diff(sorted(edges)).tolist()) or (0,)


def _block_chunks(
    geobox: GeoBox, chunks: Any, pixel_bytes: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    import dask.array as da

    from lunarray.geo import grid_dims

    shape = tuple(geobox.shape)
    if chunks is None:
        # A power of two, so that chunks nest in shards; one block if the result is to be in memory.
        side = (
            max(shape)
            if not pixel_bytes
            else 2 ** int(math.log2(max(16.0, min(2048.0, math.sqrt(_BLOCK_BYTES / pixel_bytes)))))
        )
        chunks = (side, side)
    elif isinstance(chunks, Mapping):
        chunks = tuple(chunks.get(dim, -1) for dim in grid_dims(geobox))
    try:
        return da.core.normalize_chunks(chunks, shape=shape, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"chunks {chunks!r} do not fit a grid of {shape}: {error}",
            where="chunks",
            remedy="give (y, x)",
        ) from None


def _plan(
    geobox: GeoBox,
    lon: np.ndarray,
    lat: np.ndarray,
    observations: tuple[int, ...],
    chunks: tuple[tuple[int, ...], tuple[int, ...]],
) -> _Plan:
    from dask.base import tokenize

    from lunarray.geo import pixel_of

    rows, columns = np.empty(lon.size, np.int64), np.empty(lon.size, np.int64)
    for first in range(0, lon.size, 2**20):  # projecting makes a dozen temporaries: bound them
        part = slice(first, first + 2**20)
        rows[part], columns[part] = pixel_of(geobox, lon[part], lat[part])
    kept = np.flatnonzero(rows >= 0)
    finite = np.isfinite(lon) & np.isfinite(lat)
    if not kept.size:
        raise GridError(
            _nothing_falls(geobox, lon[finite], lat[finite]),
            where="grid",
            remedy=_remedy(lat[finite]),
        )

    row_edges, column_edges = (np.concatenate([[0], np.cumsum(sizes)]) for sizes in chunks)
    observation_edges = np.concatenate([[0], np.cumsum(observations)])
    rows, columns = rows[kept], columns[kept]
    block_row = np.searchsorted(row_edges, rows, side="right") - 1
    block_column = np.searchsorted(column_edges, columns, side="right") - 1
    block = block_row * len(chunks[1]) + block_column
    widths = np.asarray(chunks[1])
    cell = (rows - row_edges[block_row]) * widths[block_column] + (
        columns - column_edges[block_column]
    )
    order = np.argsort(
        block, kind="stable"
    )  # stable: within a block, observations keep their order
    block, cell, kept = block[order], cell[order], kept[order]

    blocks = {}
    starts = np.flatnonzero(np.concatenate([[True], block[1:] != block[:-1]]))
    for start, stop in zip(starts, [*starts[1:], block.size], strict=True):
        row, column = divmod(int(block[start]), len(chunks[1]))
        cells, slots = np.unique(cell[start:stop], return_inverse=True)
        members = kept[start:stop]
        chunk = np.searchsorted(observation_edges, members, side="right") - 1
        cuts = np.flatnonzero(np.concatenate([[True], chunk[1:] != chunk[:-1]]))
        pieces = []
        for begin, end in zip(cuts, [*cuts[1:], chunk.size], strict=True):
            number = int(chunk[begin])
            pieces.append(
                _Piece(
                    number,
                    _compact(members[begin:end] - observation_edges[number], observations[number]),
                    _compact(slots[begin:end], cells.size),
                )
            )
        shape = (chunks[0][row], chunks[1][column])
        blocks[row, column] = _Block(shape, _compact(cells, shape[0] * shape[1]), pieces)
    return _Plan(
        (geobox.shape[0], geobox.shape[1]),
        chunks,
        observations,
        blocks,
        gridded=int(kept.size),
        outside=int(finite.sum() - kept.size),
        token=tokenize(lon, lat, geobox, chunks, observations),
    )


def _compact(indices: np.ndarray, size: int) -> np.ndarray:
    """Indices below `size` in the smallest type: they travel in the graph."""
    return indices.astype(np.min_scalar_type(max(int(size) - 1, 0)))


def _nothing_falls(geobox: GeoBox, lon: np.ndarray, lat: np.ndarray) -> str:
    from lunarray.geo import lonlat

    if not lat.size:
        return "no observation has a finite position"
    height, width = geobox.shape
    # The edge and the middle tell the range of latitudes well enough for a message.
    step = max(1, math.ceil(max(height, width) / 256))
    _, grid_lat = lonlat(geobox.zoom_out(step) if step > 1 else geobox)
    return (
        f"none of {lat.size} observations falls on the grid: they lie at latitudes {lat.min():.2f} to "
        f"{lat.max():.2f} and longitudes {lon.min():.2f} to {lon.max():.2f}, the grid ({geobox.crs}) at latitudes "
        f"{np.nanmin(grid_lat):.2f} to {np.nanmax(grid_lat):.2f}"
    )


def _remedy(lat: np.ndarray) -> str:
    if not lat.size:
        return "check lon and lat"
    if np.abs(lat).max() > 60.0:
        return 'grid="north" or "south", with latitude= or bounds= that reach the data'
    return 'use grid="geographic" or "equirectangular", or latitude= or bounds= that reach the data'


# --- tasks: plain arrays in and out ---------------------------------------------------------------


def _accumulate(
    state: dict | None,
    cells: int,
    spread: bool,
    data: list[list[np.ndarray]],
    rows: list[np.ndarray],
    slots: list[np.ndarray],
) -> dict:
    """One link: sums of the occupied cells, after adding the observations of some input chunks.

    `data` holds, for each variable, the chunks; `rows` and `slots` tell for each chunk what to add to which cell.
    Without `spread`, sums of squares are left out.
    """
    from lunarray.sp.grid_kernels import accumulate, count_observations

    if state is None:
        state = {"count": np.zeros(cells, np.int32), "sums": []}
        for chunks in data:
            width = math.prod(chunks[0].shape[1:])
            state["sums"].append(
                (
                    np.zeros((cells, width), _exact(chunks[0].dtype)),
                    np.zeros((cells, width)),
                    np.zeros((cells if spread else 0, width)),
                    np.zeros((cells, width), np.int32),
                )
            )
    else:  # what another task made must not change under it
        state = {
            "count": state["count"].copy(),
            "sums": [tuple(part.copy() for part in sums) for sums in state["sums"]],
        }
    for number, (chunk_rows, chunk_slots) in enumerate(zip(rows, slots, strict=True)):
        chunk_rows, chunk_slots = chunk_rows.astype(np.int64), chunk_slots.astype(np.int64)
        valid = np.zeros(chunk_rows.size, bool)
        for chunks, sums in zip(data, state["sums"], strict=True):
            chunk = np.asarray(chunks[number])
            chunk = np.ascontiguousarray(chunk.reshape(chunk.shape[0], -1), _exact(chunk.dtype))
            shift, total, squares, counted = sums
            accumulate(chunk, chunk_rows, chunk_slots, shift, total, squares, counted, valid)
        count_observations(chunk_slots, valid, state["count"])
    return state


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


def _constant(value: float, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.full(shape, value, dtype)


class _Fill(NamedTuple):
    radius: float
    depth: tuple[int, int]
    turn: bool  # columns go round the whole Moon
    geobox: GeoBox


def _fill_plan(geobox: GeoBox, radius: float) -> _Fill:
    from lunarray.geo import moon_crs, period_of

    crs = moon_crs(geobox.crs)
    rows, columns = geobox.shape
    corners = [
        _ground_steps(geobox, (row, row + 1), (column, column + 1))
        for row in (0, rows - 1)
        for column in (0, columns - 1)
    ]
    depth_y = math.ceil(radius / min(float(step_y[0, 0]) for step_y, _ in corners))
    depth_x = math.ceil(radius / min(max(float(step_x[0, 0]), 1e-6) for _, step_x in corners))
    period = period_of(crs)
    if period is None:
        turn = False
    else:
        depth_x = min(depth_x, _MAX_COLUMN_DEPTH * depth_y)
        turn = abs(columns * abs(geobox.transform.a) - period) < 1e-6 * period
    return _Fill(
        float(radius),
        (min(depth_y, rows), min(depth_x, columns // 2 if turn else columns)),
        turn,
        geobox,
    )


def _ground_steps(
    geobox: GeoBox, rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Size of pixels on the ground (m) along y and x."""
    from lunarray.geo import RADIUS, moon_crs, period_of

    crs = moon_crs(geobox.crs)
    affine = geobox.transform
    y = affine.f + (np.arange(*rows) + 0.5)[:, None] * affine.e
    x = affine.c + (np.arange(*columns) + 0.5)[None, :] * affine.a
    if period_of(crs) is not None:
        per_unit = RADIUS * math.pi / 180.0 if crs.is_geographic else 1.0
        angle = np.deg2rad(y) if crs.is_geographic else y / RADIUS
        shrink = np.broadcast_to(
            np.cos(np.clip(angle, -math.pi / 2, math.pi / 2)), (y.size, x.size)
        )
        step_x = np.maximum(abs(affine.a) * per_unit * shrink, 1e-6)
        return np.full((y.size, x.size), abs(affine.e) * per_unit), np.ascontiguousarray(step_x)
    operation = crs.coordinate_operation
    if operation is not None and "polar stereographic" in operation.method_name.lower():
        scale = 1.0 + (x**2 + y**2) / (
            4.0 * RADIUS**2
        )  # Snyder 1987, eq. 21-4, sphere, unit scale at the pole
    else:
        scale = np.ones((y.size, x.size))
    return abs(affine.e) / scale, abs(affine.a) / scale


def _fill_block(
    fill: _Fill,
    rows: tuple[int, int],
    columns: tuple[int, int],
    places: list[tuple],
    counts: list[np.ndarray],
    means: list[np.ndarray] | None,
) -> np.ndarray:
    """Fill one block from itself and its neighbours: the means, or the mask of filled cells if `means` is None."""
    from lunarray.sp.grid_kernels import fill_gaps

    depth_y, depth_x = fill.depth
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    extra = () if means is None else means[0].shape[:-2]
    bands = 0 if means is None else int(np.prod(extra, dtype=np.int64))
    dtype = np.dtype(np.float32) if means is None else means[0].dtype
    values = np.full((height + 2 * depth_y, width + 2 * depth_x, bands), np.nan, dtype)
    occupied = np.zeros(values.shape[:2], bool)
    for number, (into, source) in enumerate(places):
        occupied[into] = counts[number][source] > 0
        if means is not None:
            part = means[number][(..., *source)]
            values[into] = np.moveaxis(part.reshape(bands, *part.shape[-2:]), 0, -1)
    centre = (slice(depth_y, depth_y + height), slice(depth_x, depth_x + width))
    out = np.ascontiguousarray(values[centre])
    filled = np.zeros((height, width), bool)
    step_y, step_x = _ground_steps(fill.geobox, rows, columns)
    fill_gaps(
        values,
        occupied,
        depth_y,
        depth_x,
        step_y,
        step_x,
        fill.radius,
        depth_y,
        depth_x,
        out,
        filled,
    )
    if means is None:
        return filled
    return np.ascontiguousarray(np.moveaxis(out, -1, 0)).reshape(*extra, height, width)


def _window(
    fill: _Fill, plan: _Plan, block: tuple[int, int]
) -> list[tuple[tuple[int, int], tuple]]:
    """Blocks that the window of a block overlaps: (block index, (slices into the window, slices of the block))."""
    axes: list[list[tuple[int, slice, slice]]] = []
    for axis, (sizes, depth) in enumerate(zip(plan.chunks, fill.depth, strict=True)):
        edges = np.concatenate([[0], np.cumsum(sizes)])
        low, high = int(edges[block[axis]]) - depth, int(edges[block[axis] + 1]) + depth
        total = int(edges[-1])
        turns = (-total, 0, total) if axis == 1 and fill.turn else (0,)
        found = []
        for turn in turns:
            for number, size in enumerate(sizes):
                start = int(edges[number]) + turn
                first, last = max(low, start), min(high, start + size)
                if first < last:
                    found.append(
                        (number, slice(first - low, last - low), slice(first - start, last - start))
                    )
        axes.append(found)
    return [
        ((i, j), ((into_i, into_j), (from_i, from_j)))
        for i, into_i, from_i in axes[0]
        for j, into_j, from_j in axes[1]
    ]


# --- running the plan: at once, or as a graph -----------------------------------------------------


def _eager(
    arrays: Mapping[str, xr.DataArray], plan: _Plan, stats: tuple[str, ...], fill: _Fill | None
) -> dict[str, np.ndarray]:
    """The whole grid as one block. The same tasks as in the graph, called."""
    ((index, block),) = plan.blocks.items()
    pieces = block.pieces
    data = [[array.values] for array in arrays.values()]
    state = _accumulate(
        None,
        block.cells.size,
        "std" in stats,
        data,
        [piece.rows for piece in pieces],
        [piece.slots for piece in pieces],
    )
    count = _finish_count(state, block.cells, block.shape)
    out = {"count": count} if "count" in stats else {}
    span = ((0, plan.shape[0]), (0, plan.shape[1]))
    window = [] if fill is None else _window(fill, plan, index)
    places = [place for _, place in window]
    for number, (name, array) in enumerate(arrays.items()):
        for stat in ("mean", "std"):
            if stat in stats:
                dtype = _float_of(array.dtype)
                values = _finish(
                    state, number, stat, block.cells, array.shape[1:], block.shape, dtype
                )
                if stat == "mean" and fill is not None:
                    values = _fill_block(
                        fill, *span, places, [count] * len(places), [values] * len(places)
                    )
                out[name if stat == "mean" else f"{name}_std"] = values
    if fill is not None:
        out["filled"] = _fill_block(fill, *span, places, [count] * len(places), None)
    return out


def _lazy(
    arrays: Mapping[str, xr.DataArray], plan: _Plan, stats: tuple[str, ...], fill: _Fill | None
) -> dict[str, Any]:
    import dask.array as da
    from dask._task_spec import List, Task, TaskRef
    from dask.base import tokenize
    from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

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
    token = tokenize(plan.token, "std" in stats, [data.name for data in inputs])
    row_bytes = sum(
        int(np.prod(data.shape[1:], dtype=np.int64)) * data.dtype.itemsize for data in inputs
    )
    zeros = [tuple(0 for _ in data.shape[1:]) for data in inputs]

    sums = f"grid-sums-{token}"
    graph: dict[Any, Any] = {}
    last: dict[tuple[int, int], Any] = {}
    for index, block in plan.blocks.items():
        previous = None
        for link, pieces in enumerate(_links(block.pieces, plan.observations, row_bytes)):
            key = (sums, *index, link)
            chunks = List(
                *(
                    List(*(TaskRef((data.name, piece.chunk, *zero)) for piece in pieces))
                    for data, zero in zip(inputs, zeros, strict=True)
                )
            )
            graph[key] = Task(
                key,
                _accumulate,
                None if previous is None else TaskRef(previous),
                int(block.cells.size),
                "std" in stats,
                chunks,
                [piece.rows for piece in pieces],
                [piece.slots for piece in pieces],
            )
            previous = key
        last[index] = previous
    base = HighLevelGraph.from_collections(sums, graph, dependencies=inputs)

    def collection(
        name: str, tasks: dict, above: list, extra: tuple[int, ...], dtype: Any
    ) -> da.Array:
        layers, needs = (
            dict(base.layers),
            {layer: set(deps) for layer, deps in base.dependencies.items()},
        )
        for other in above:
            layers.update(other.dask.layers)
            needs.update({layer: set(deps) for layer, deps in other.dask.dependencies.items()})
        layers[name] = MaterializedLayer(tasks)
        needs[name] = {sums, *(other.name for other in above)}
        return da.Array(
            HighLevelGraph(layers, needs),
            name,
            chunks=(*((size,) for size in extra), *plan.chunks),
            dtype=dtype,
            meta=np.empty((0,) * (len(extra) + 2), dtype),
        )

    indices = [(i, j) for i in range(len(plan.chunks[0])) for j in range(len(plan.chunks[1]))]

    def shape_of(index: tuple[int, int]) -> tuple[int, int]:
        return plan.chunks[0][index[0]], plan.chunks[1][index[1]]

    def count_array() -> da.Array:
        name = f"grid-count-{token}"
        tasks = {}
        for index in indices:
            key = (name, *index)
            if index in last:
                block = plan.blocks[index]
                tasks[key] = Task(
                    key, _finish_count, TaskRef(last[index]), block.cells, block.shape
                )
            else:
                tasks[key] = Task(key, _constant, 0, shape_of(index), np.dtype(np.int32))
        return collection(name, tasks, [], (), np.int32)

    def stat_array(number: int, stat: str) -> da.Array:
        data = inputs[number]
        dtype, extra = _float_of(data.dtype), data.shape[1:]
        name = f"grid-{stat}-{tokenize(token, number)}"
        tasks = {}
        for index in indices:
            key = (name, *(0 for _ in extra), *index)
            if index in last:
                block = plan.blocks[index]
                tasks[key] = Task(
                    key,
                    _finish,
                    TaskRef(last[index]),
                    number,
                    stat,
                    block.cells,
                    extra,
                    block.shape,
                    dtype,
                )
            else:
                tasks[key] = Task(key, _constant, np.nan, (*extra, *shape_of(index)), dtype)
        return collection(name, tasks, [], extra, dtype)

    def filled_array(fill: _Fill, count: da.Array, mean: da.Array | None) -> da.Array:
        extra = () if mean is None else mean.shape[:-2]
        zero = tuple(0 for _ in extra)
        name = f"grid-fill-{tokenize(token, fill, None if mean is None else mean.name)}"
        edges = [np.concatenate([[0], np.cumsum(sizes)]).tolist() for sizes in plan.chunks]
        tasks = {}
        for index in indices:
            key = (name, *zero, *index)
            # Blocks without observations fill nothing: neighbours among them are left out.
            window = [
                (source, place) for source, place in _window(fill, plan, index) if source in last
            ]
            if not window:
                empty = (*extra, *shape_of(index))
                value, kind = (False, np.dtype(bool)) if mean is None else (np.nan, mean.dtype)
                tasks[key] = Task(key, _constant, value, empty, kind)
                continue
            spans = [(edges[axis][index[axis]], edges[axis][index[axis] + 1]) for axis in (0, 1)]
            tasks[key] = Task(
                key,
                _fill_block,
                fill,
                *spans,
                [place for _, place in window],
                List(*(TaskRef((count.name, *source)) for source, _ in window)),
                None
                if mean is None
                else List(*(TaskRef((mean.name, *zero, *source)) for source, _ in window)),
            )
        above = [count] if mean is None else [count, mean]
        return collection(name, tasks, above, extra, bool if mean is None else mean.dtype)

    count = count_array()
    out: dict[str, Any] = {"count": count} if "count" in stats else {}
    for number, name in enumerate(arrays):
        if "mean" in stats:
            mean = stat_array(number, "mean")
            out[name] = mean if fill is None else filled_array(fill, count, mean)
        if "std" in stats:
            out[f"{name}_std"] = stat_array(number, "std")
    if fill is not None:
        out["filled"] = filled_array(fill, count, None)
    return out


def _links(
    pieces: list[_Piece], observations: tuple[int, ...], row_bytes: int
) -> list[list[_Piece]]:
    """Cut the pieces of a block into runs whose input chunks fit into the memory of one link."""
    links: list[list[_Piece]] = []
    held = math.inf
    for piece in pieces:
        size = observations[piece.chunk] * row_bytes
        if held + size > _LINK_BYTES:
            links.append([])
            held = 0
        links[-1].append(piece)
        held += size
    return links


# --- metadata -------------------------------------------------------------------------------------


def _assemble(
    ds: xr.Dataset,
    arrays: Mapping[str, xr.DataArray],
    computed: Mapping[str, Any],
    plan: _Plan,
    geobox: GeoBox,
    fill_radius: float | None,
) -> xr.Dataset:
    from lunarray.geo import assign_crs, grid_coords, grid_dims
    from lunarray.store.provenance import stamp

    dims = grid_dims(geobox)
    variables: dict[str, tuple] = {}
    for name, array in arrays.items():
        attrs = {
            key: value
            for key, value in array.attrs.items()
            if key not in ("grid_mapping", "coordinates")
        }
        label = attrs.get("long_name", name)
        if name in computed:
            mean_attrs = {**attrs, "cell_methods": "area: mean"}
            variables[name] = ((*array.dims[1:], *dims), computed[name], mean_attrs)
        if f"{name}_std" in computed:
            std_attrs = {
                key: value
                for key, value in attrs.items()
                if key not in ("standard_name", "valid_range", "valid_min")
            }
            std_attrs.update(
                long_name=f"standard deviation of {label} in the cell",
                cell_methods="area: standard_deviation",
            )
            variables[f"{name}_std"] = (
                (*array.dims[1:], *dims),
                computed[f"{name}_std"],
                std_attrs,
            )
    if "count" in computed:
        variables["count"] = (
            dims,
            computed["count"],
            {
                "long_name": "observations in the cell with a finite value",
                "units": "1",
                "observations_on_grid": plan.gridded,
                "observations_outside": plan.outside,
            },
        )
    if "filled" in computed:
        variables["filled"] = (
            dims,
            computed["filled"],
            {"long_name": f"mean filled from cells within {fill_radius:g} m", "units": "1"},
        )
    kept = {
        str(name): coordinate.variable
        for array in arrays.values()
        for name, coordinate in array.coords.items()
        if "observation" not in coordinate.dims and str(name) not in ("spatial_ref", *dims)
    }
    out = xr.Dataset(variables, coords={**kept, **grid_coords(geobox)}, attrs=dict(ds.attrs))
    rows, columns = plan.shape
    unit = "deg" if dims[0] == "lat" else "m"
    step = abs(geobox.transform.a)
    event = f"grid: {plan.gridded} observations onto {rows} x {columns} cells of {step:g} {unit}, {geobox.crs}"
    if fill_radius is not None:
        event += f", gaps filled within {fill_radius:g} m"
    return assign_crs(stamp(out, event), geobox)
