"""Values of a raster at positions in it: nearest, bilinear, averaged.

Positions come in two kinds. A cell is a square of target pixels (of their parts, in an average) over which the position
is a polynomial of second degree along each axis, given by its values at 3 × 3 nodes; a point is one with a position of
its own. Cells are counted from the origin of the whole target, so that a block of it gets what the whole gets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lunarray.engine.compiling import njit

#: A position this close (pixels) to an edge is on it: PROJ and the polynomials round.
_EDGE = 1e-7


class Part(NamedTuple):
    """Where a part of a source lies in it, and how the source closes on itself."""

    top: int
    """First row of the part."""
    left: int
    """First column of the part, 0 to before `width`; where the source goes around, the part may run over its end."""
    height: int
    """Rows of the source."""
    width: int
    """Columns of the source."""
    # As in lunarray.geo.grid.Closure.
    turn: float
    start: float
    around: bool
    over_top: bool
    over_bottom: bool


class Places(NamedTuple):
    """Positions in a source of the pixels of a block of the target."""

    cells: np.ndarray
    """First row, first column and side of each cell, (cell, 3)."""
    nodes: np.ndarray
    """Rows and columns of the source at its corners, the middles of its sides and its middle, (cell, 2, 3, 3)."""
    points: np.ndarray
    """Row and column of each pixel with a position of its own, (point, 2)."""
    places: np.ndarray
    """That position, (point, 2)."""


@njit(nogil=True, cache=True)
def _row_of_cell(nodes, u):
    """Coefficients along a row of a cell, at `u` of its height: position = p[0] + v (p[1] + v p[2])."""
    a, b, c = 2 * (u - 0.5) * (u - 1), 4 * u * (1 - u), 2 * u * (u - 0.5)
    r0 = a * nodes[0, 0, 0] + b * nodes[0, 1, 0] + c * nodes[0, 2, 0]
    r1 = a * nodes[0, 0, 1] + b * nodes[0, 1, 1] + c * nodes[0, 2, 1]
    r2 = a * nodes[0, 0, 2] + b * nodes[0, 1, 2] + c * nodes[0, 2, 2]
    c0 = a * nodes[1, 0, 0] + b * nodes[1, 1, 0] + c * nodes[1, 2, 0]
    c1 = a * nodes[1, 0, 1] + b * nodes[1, 1, 1] + c * nodes[1, 2, 1]
    c2 = a * nodes[1, 0, 2] + b * nodes[1, 1, 2] + c * nodes[1, 2, 2]
    return (
        r0, 4 * r1 - 3 * r0 - r2, 2 * (r0 + r2) - 4 * r1,
        c0, 4 * c1 - 3 * c0 - c2, 2 * (c0 + c2) - 4 * c1,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def _turned(c, part):
    """A column on the turn that the source is on."""
    if part.turn > 0 and (c < part.start or c >= part.start + part.turn):
        c -= part.turn * np.floor((c - part.start) / part.turn)
    return c


@njit(nogil=True, cache=True)
def _holder(part, rows, columns, r, c):
    """Row and column, in the part, of the pixel that holds a position; -1 where none does."""
    # A NaN fails every comparison.
    if not (-_EDGE <= r <= part.height + _EDGE):
        return -1, -1
    c = _turned(c + _EDGE, part)
    if not (0 <= c <= part.width + 2 * _EDGE):
        return -1, -1
    # The outer edge belongs to the last pixel.
    p, q = min(int(r + _EDGE), part.height - 1), int(c)
    if q >= part.width:
        q = 0 if part.around else part.width - 1
    y, x = p - part.top, q - part.left
    if x < 0 and part.around:
        x += part.width
    if 0 <= y < rows and 0 <= x < columns:
        return y, x
    return -1, -1


@njit(nogil=True, cache=True)
def _bilinear(source, part, r, c, min_valid):
    """Weighted mean of the four pixels around a position; NaN where too little of the weight is finite."""
    rows, columns = source.shape
    if not (-_EDGE <= r <= part.height + _EDGE):
        return np.nan
    c = _turned(c, part)
    if not (part.around or -_EDGE <= c <= part.width + _EDGE):
        return np.nan
    r -= 0.5
    c -= 0.5
    p, q = int(np.floor(r)), int(np.floor(c))
    u, v = r - p, c - q
    y, x = p - part.top, q - part.left
    if 0 <= y < rows - 1 and 0 <= x < columns - 1 and p + 1 < part.height and q + 1 < part.width:
        # Most often all four are at hand; the same sums in the same order as below.
        w0, w1, w2, w3 = (1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v
        total = (
            w0 * source[y, x]
            + w1 * source[y, x + 1]
            + w2 * source[y + 1, x]
            + w3 * source[y + 1, x + 1]
        )
        if np.isfinite(total):
            return total / (w0 + w1 + w2 + w3)
    total = weight = 0.0
    for a in range(2):
        for b in range(2):
            row, column = p + a, q + b
            # Over the pole lies the other side, half a turn on.
            if row == -1 and part.over_top:
                row = 0
                column += part.width // 2
            elif row == part.height and part.over_bottom:
                row -= 1
                column += part.width // 2
            if part.around:
                if column < 0:
                    column += part.width
                while column >= part.width:
                    column -= part.width
            elif not 0 <= column < part.width:
                continue
            y, x = row - part.top, column - part.left
            if x < 0 and part.around:
                x += part.width
            if 0 <= y < rows and 0 <= x < columns and np.isfinite(source[y, x]):
                w = (u if a else 1 - u) * (v if b else 1 - v)
                total += w * source[y, x]
                weight += w
    if weight > 0 and weight >= min_valid - 1e-9:
        return total / weight
    return np.nan


@njit(nogil=True, cache=True)
def sample_nearest(source, part, where, origin, out):
    """Pixel of the source that holds the middle of each target pixel.

    `source` (rows, columns): a part, that lies where `part` says; `where`: positions; `origin`: first row and column of
    the block; `out` (rows, columns), of the source's type: the block, filled with what stands for no data; written to.
    """
    rows, columns = source.shape
    for k in range(len(where.cells)):
        first, left, size = where.cells[k]
        low, high = max(left, origin[1]), min(left + size, origin[1] + out.shape[1])
        for i in range(max(first, origin[0]), min(first + size, origin[0] + out.shape[0])):
            r0, r1, r2, c0, c1, c2 = _row_of_cell(where.nodes[k], (i + 0.5 - first) / size)
            for j in range(low, high):
                v = (j + 0.5 - left) / size
                y, x = _holder(part, rows, columns, r0 + v * (r1 + v * r2), c0 + v * (c1 + v * c2))
                if y >= 0:
                    out[i - origin[0], j - origin[1]] = source[y, x]
    for k in range(len(where.points)):
        y, x = _holder(part, rows, columns, where.places[k, 0], where.places[k, 1])
        if y >= 0:
            out[where.points[k, 0] - origin[0], where.points[k, 1] - origin[1]] = source[y, x]


@njit(nogil=True, cache=True)
def sample_bilinear(source, part, where, origin, min_valid, out):
    """Weighted mean of the four source pixels around the middle of each target pixel; arguments as above.

    NaN where less than `min_valid` of the weight is on finite pixels, or outside the source.
    """
    for k in range(len(where.cells)):
        first, left, size = where.cells[k]
        low, high = max(left, origin[1]), min(left + size, origin[1] + out.shape[1])
        for i in range(max(first, origin[0]), min(first + size, origin[0] + out.shape[0])):
            r0, r1, r2, c0, c1, c2 = _row_of_cell(where.nodes[k], (i + 0.5 - first) / size)
            for j in range(low, high):
                v = (j + 0.5 - left) / size
                out[i - origin[0], j - origin[1]] = _bilinear(
                    source, part, r0 + v * (r1 + v * r2), c0 + v * (c1 + v * c2), min_valid
                )
    for k in range(len(where.points)):
        out[where.points[k, 0] - origin[0], where.points[k, 1] - origin[1]] = _bilinear(
            source, part, where.places[k, 0], where.places[k, 1], min_valid
        )


@njit(nogil=True, cache=True)
def sample_average(source, part, where, origin, parts, total, count):
    """Add up the source over each target pixel, by `parts` × `parts` points in it; cells are of such parts.

    The sums of what is finite, and how many there are, are added to `total` (float64) and `count` (int64).
    """
    rows, columns = source.shape
    first_row, first_column = origin[0] * parts, origin[1] * parts
    last_row, last_column = first_row + total.shape[0] * parts, first_column + total.shape[1] * parts  # fmt: skip
    for k in range(len(where.cells)):
        first, left, size = where.cells[k]
        low, high = max(left, first_column), min(left + size, last_column)
        for i in range(max(first, first_row), min(first + size, last_row)):
            r0, r1, r2, c0, c1, c2 = _row_of_cell(where.nodes[k], (i + 0.5 - first) / size)
            row = (i - first_row) // parts
            column = (low - first_column) // parts
            end = first_column + (column + 1) * parts
            value = 0.0
            number = 0
            for j in range(low, high):
                if j == end:
                    total[row, column] += value
                    count[row, column] += number
                    value = 0.0
                    number = 0
                    column += 1
                    end += parts
                v = (j + 0.5 - left) / size
                y, x = _holder(part, rows, columns, r0 + v * (r1 + v * r2), c0 + v * (c1 + v * c2))
                if y >= 0 and np.isfinite(source[y, x]):
                    value += source[y, x]
                    number += 1
            if number:
                total[row, column] += value
                count[row, column] += number
    for k in range(len(where.points)):
        y, x = _holder(part, rows, columns, where.places[k, 0], where.places[k, 1])
        if y >= 0 and np.isfinite(source[y, x]):
            row = (where.points[k, 0] - first_row) // parts
            column = (where.points[k, 1] - first_column) // parts
            total[row, column] += source[y, x]
            count[row, column] += 1


@njit(nogil=True, cache=True)
def take_bilinear(source, part, rows, columns, min_valid):
    """Weighted mean of the four source pixels around positions of their own.

    `source`, `part`: as above; `rows`, `columns` (n,) float64: positions; `min_valid`: share of the weight that must be
    on finite pixels. Returns (n,) float64, NaN where it is not, and outside the source.
    """
    out = np.empty(rows.size)
    for n in range(rows.size):
        out[n] = _bilinear(source, part, rows[n], columns[n], min_valid)
    return out
