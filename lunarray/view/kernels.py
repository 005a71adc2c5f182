"""Kernels of overviews: sums of squares of pixels, and one pixel out of each."""

from __future__ import annotations

import numpy as np

from lunarray.engine.compiling import njit


@njit(nogil=True, cache=True)
def add_up(block, top, left, factor, total, count):
    """Add what is finite in a block to the cells of `factor` × `factor` pixels that it lies in.

    `block` (rows, columns) float32 lies at row `top` and column `left` of the map; `total` and `count`
    (cells, cells) float32 are those of the whole map, and are written to.
    """
    rows, columns = block.shape
    for i in range(rows):
        a = (top + i) // factor
        for j in range(columns):
            value = block[i, j]
            if np.isfinite(value):
                b = (left + j) // factor
                total[a, b] += value
                count[a, b] += 1.0


@njit(nogil=True, cache=True)
def pick(block, top, left, factor, out):
    """Take from a block the pixels in the middle of cells of `factor` × `factor`: of flags there is no mean.

    Arguments as of :func:`add_up`; `out` (cells, cells) float32 is written to.
    """
    rows, columns = block.shape
    half = factor // 2
    first_row = -(-(top - half) // factor)
    first_column = -(-(left - half) // factor)
    for a in range(max(first_row, 0), out.shape[0]):
        i = a * factor + half - top
        if i >= rows:
            break
        for b in range(max(first_column, 0), out.shape[1]):
            j = b * factor + half - left
            if j >= columns:
                break
            out[a, b] = block[i, j]
