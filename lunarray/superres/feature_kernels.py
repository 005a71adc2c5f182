"""Numba kernels of the surface features: sampling a base map, and pooling the network's cells over windows."""

from __future__ import annotations

import math

import numpy as np

from lunarray.engine.compiling import njit


@njit(nogil=True, cache=True)
def sample(source, rows, columns, step, sub, out):
    """Sample images (band, row, column), NaN where there is nothing, at places that a lattice of positions gives.

    The lattice `rows`, `columns` (m, n) holds positions in the source at every `step`-th pixel of the result; the
    centre of pixel (i, j) is (i, j), and beyond the edges the nearest pixel goes on. Each pixel of `out` (band, y, x)
    is the mean of sub × sub samples, NaN where most of what they rest on is missing.
    """
    bands, height, width = source.shape
    total = np.empty(bands)
    weight = np.empty(bands)
    for y in range(out.shape[1]):
        for x in range(out.shape[2]):
            total[:] = 0.0
            weight[:] = 0.0
            for sy in range(sub):
                # Offset of the sample from the pixel's centre, in lattice steps.
                v = (y + (sy + 0.5) / sub - 0.5) / step
                i = min(max(math.floor(v), 0), rows.shape[0] - 2)
                v -= i
                for sx in range(sub):
                    u = (x + (sx + 0.5) / sub - 0.5) / step
                    j = min(max(math.floor(u), 0), rows.shape[1] - 2)
                    u -= j
                    r = (1 - v) * ((1 - u) * rows[i, j] + u * rows[i, j + 1]) + v * (
                        (1 - u) * rows[i + 1, j] + u * rows[i + 1, j + 1]
                    )
                    c = (1 - v) * ((1 - u) * columns[i, j] + u * columns[i, j + 1]) + v * (
                        (1 - u) * columns[i + 1, j] + u * columns[i + 1, j + 1]
                    )
                    if not (math.isfinite(r) and math.isfinite(c)):
                        continue
                    r, c = min(max(r, 0.0), height - 1.0), min(max(c, 0.0), width - 1.0)
                    r0, c0 = int(r), int(c)
                    r1, c1 = min(r0 + 1, height - 1), min(c0 + 1, width - 1)
                    fr, fc = r - r0, c - c0
                    for band in range(bands):
                        for value, share in (
                            (source[band, r0, c0], (1 - fr) * (1 - fc)),
                            (source[band, r0, c1], (1 - fr) * fc),
                            (source[band, r1, c0], fr * (1 - fc)),
                            (source[band, r1, c1], fr * fc),
                        ):
                            if math.isfinite(value):
                                total[band] += share * value
                                weight[band] += share
            for band in range(bands):
                if weight[band] > 0.5 * sub * sub:
                    out[band, y, x] = total[band] / weight[band]
                else:
                    out[band, y, x] = np.nan


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def pool(cells, rows, columns, high, wide, out):
    """Average cells (row, column, feature) over rectangular windows into `out` (window, feature).

    Cell (i, j) covers [i − 1/2, i + 1/2] × [j − 1/2, j + 1/2]; each counts by its part inside of the window. `rows` and
    `columns` (window,) are the windows' centres, `high` and `wide` half of their sides.
    """
    features = cells.shape[2]
    total = np.empty(features, np.float32)
    for p in range(rows.size):
        total[:] = np.float32(0)
        weights = 0.0
        top, bottom = rows[p] - high[p], rows[p] + high[p]
        left, right = columns[p] - wide[p], columns[p] + wide[p]
        for i in range(
            max(math.floor(top + 0.5), 0), min(math.floor(bottom + 0.5), cells.shape[0] - 1) + 1
        ):
            tall = min(bottom, i + 0.5) - max(top, i - 0.5)
            for j in range(
                max(math.floor(left + 0.5), 0), min(math.floor(right + 0.5), cells.shape[1] - 1) + 1
            ):
                broad = min(right, j + 0.5) - max(left, j - 0.5)
                share = np.float32(max(tall * broad, 0.0))
                weights += float(share)
                cell = cells[i, j]
                for f in range(features):
                    total[f] += share * cell[f]
        scale = np.float32(1.0 / weights) if weights > 0 else np.float32(np.nan)
        for f in range(features):
            out[p, f] = total[f] * scale
