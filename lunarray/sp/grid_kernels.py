"""Kernels that put observations into cells: plain arrays, compiled, one thread.

The statistics of a cell are running sums about its first value, in float64 and in the order of the observations. Sums
about a member of the set lose no digits to cancellation as raw sums of squares do, need no division in the loop, and
do not depend on how the observations came in chunks.
"""

from __future__ import annotations

import numpy as np

from lunarray.engine.compiling import njit


@njit(nogil=True, cache=True)
def accumulate(data, rows, slots, shift, total, squares, number, valid):
    """Add observations to the sums of their cells, in place.

    `data` (n, bands) float32: observations of one input chunk; what is not finite is left out; `rows`, `slots` (m,)
    int64: which rows of `data` to add, and the cell slot of each; `shift` (cells, bands): first value of the cell;
    `total`, `squares` (cells, bands) float64: sums of the differences from it, and of their squares; `squares` with 0
    cells is left alone; `number` (cells, bands) int32: finite values so far; `valid` (m,) bool: set where the
    observation has a finite value in any band.
    """
    bands = data.shape[1]
    spread = squares.shape[0] > 0
    for i in range(rows.size):
        row = rows[i]
        slot = slots[i]
        some = False
        for k in range(bands):
            value = np.float64(data[row, k])
            if np.isfinite(value):
                if number[slot, k] == 0:
                    shift[slot, k] = value
                difference = value - shift[slot, k]
                total[slot, k] += difference
                if spread:
                    squares[slot, k] += difference * difference
                number[slot, k] += 1
                some = True
        if some:
            valid[i] = True


@njit(nogil=True, cache=True)
def count_observations(slots, valid, count):
    """Add the valid observations to the counts of their cells, in place.

    `slots` (m,) int64: cell slot of each observation; `valid` (m,) bool: whether it counts; `count` (cells,) int32:
    observations so far.
    """
    for i in range(slots.size):
        if valid[i]:
            count[slots[i]] += 1


@njit(nogil=True, cache=True)
def fill_gaps(
    values, occupied, first_row, first_column, step_y, step_x, radius, depth_y, depth_x, out, filled
):
    """Fill empty cells from the cells with data within a radius, weighted by inverse squared distance, in place.

    `values` (rows, columns, bands) float32: cell means of a window; bands may be 0, when only `filled` is wanted;
    `occupied` (rows, columns) bool: cells of the window with observations; `first_row`, `first_column`: where in the
    window the cells of `out` begin; `step_y`, `step_x` (ny, nx) float64: size of a pixel on the ground (m) at each cell
    of `out`; `radius`: search radius on the ground (m); `depth_y`, `depth_x`: largest search distances in pixels; the
    window reaches as far beyond `out` except at the edges of the grid; `out` (ny, nx, bands) float32: means; empty
    cells are changed; `filled` (ny, nx) bool: set where an empty cell has a cell with data within the radius.
    """
    rows, columns, bands = values.shape
    ny, nx = filled.shape
    sums = np.zeros(bands, np.float64)
    weights = np.zeros(bands, np.float64)
    limit = radius * radius * (1.0 + 1e-9)
    for i in range(ny):
        for j in range(nx):
            centre_row = first_row + i
            centre_column = first_column + j
            if occupied[centre_row, centre_column]:
                continue
            reach_y = min(depth_y, int(radius / step_y[i, j] + 1e-6))
            reach_x = min(depth_x, int(radius / step_x[i, j] + 1e-6))
            found = False
            for di in range(-reach_y, reach_y + 1):
                row = centre_row + di
                if row < 0 or row >= rows:
                    continue
                for dj in range(-reach_x, reach_x + 1):
                    column = centre_column + dj
                    if column < 0 or column >= columns or not occupied[row, column]:
                        continue
                    distance2 = (di * step_y[i, j]) ** 2 + (dj * step_x[i, j]) ** 2
                    if distance2 > limit:
                        continue
                    if not found:
                        found = True
                        sums[:] = 0.0
                        weights[:] = 0.0
                    weight = 1.0 / distance2
                    for k in range(bands):
                        value = np.float64(values[row, column, k])
                        if np.isfinite(value):
                            sums[k] += weight * value
                            weights[k] += weight
            if found:
                filled[i, j] = True
                for k in range(bands):
                    if weights[k] > 0.0:
                        out[i, j, k] = sums[k] / weights[k]
