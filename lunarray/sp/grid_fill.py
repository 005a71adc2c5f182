"""Filling the gaps of a map from the cells around them, block by block."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lunarray.sp.grid_plan import GridPlan

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

# On grids in longitude, pixels shrink towards the poles and a radius spans ever more columns; this many times the
# depth in rows serves up to 82.8°.
_MAX_COLUMN_DEPTH = 8


class Fill(NamedTuple):
    radius: float
    depth: tuple[int, int]
    turn: bool  # columns go round the whole Moon
    geobox: GeoBox


def fill_plan(geobox: GeoBox, radius: float) -> Fill:
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
    return Fill(
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
        # Snyder 1987, eq. 21-4, sphere, unit scale at the pole.
        scale = 1.0 + (x**2 + y**2) / (4.0 * RADIUS**2)
    else:
        scale = np.ones((y.size, x.size))
    return abs(affine.e) / scale, abs(affine.a) / scale


def fill_block(
    fill: Fill,
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
    window = (values, occupied, depth_y, depth_x)
    fill_gaps(*window, step_y, step_x, fill.radius, depth_y, depth_x, out, filled)
    if means is None:
        return filled
    return np.ascontiguousarray(np.moveaxis(out, -1, 0)).reshape(*extra, height, width)


def fill_window(
    fill: Fill, plan: GridPlan, block: tuple[int, int]
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
