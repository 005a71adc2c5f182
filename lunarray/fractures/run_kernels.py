"""Masks as runs: the connected components of a mosaic, their areas and moments, from nothing but runs.

A run is a piece of a row that a mask covers, [start, stop). Runs of all blocks of a mosaic, joined where blocks meet,
are those of the whole mosaic: everything below is therefore the same for any chunks, and takes memory as the features
do, not as the pixels. (Libraries label, outline and thin images that are in memory as a whole, each in one piece.)
"""

from __future__ import annotations

import numpy as np

from lunarray.engine.compiling import njit

__all__ = [
    "PROBABILITY_UNIT",
    "extract_runs",
    "join_runs",
    "label_runs",
    "metric_at",
    "run_areas",
    "run_moments",
]

#: Probabilities are summed as whole multiples of this, so that a sum does not depend on its order.
PROBABILITY_UNIT = 2.0**-30


@njit(nogil=True, cache=True)
def extract_runs(mask, probability, near, row0, column0):
    """Runs of ones in a block.

    `mask` (rows, columns) uint8: 1 is the feature; `probability` float32, of the same shape or (0, 0): summed over each
    run; what is not finite is left out; `near` uint8, of the same shape or (0, 0): pixels to count in each run; `row0`,
    `column0`: place of the block's first pixel. Returns `spans` (run, 3) int32: row, start, stop; `sums` (run, 3)
    int64: probability in units of 2^-30, number of finite probabilities, pixels that are near.
    """
    rows, columns = mask.shape
    count = 0
    for i in range(rows):
        before = False
        for j in range(columns):
            here = mask[i, j] == 1
            if here and not before:
                count += 1
            before = here
    spans = np.empty((count, 3), np.int32)
    sums = np.zeros((count, 3), np.int64)
    if count == 0:
        return spans, sums
    with_probability, with_near = probability.size > 0, near.size > 0
    k = -1
    for i in range(rows):
        before = False
        for j in range(columns):
            here = mask[i, j] == 1
            if here:
                if not before:
                    k += 1
                    spans[k, 0] = row0 + i
                    spans[k, 1] = column0 + j
                spans[k, 2] = column0 + j + 1
                if with_probability:
                    p = probability[i, j]
                    if np.isfinite(p):
                        sums[k, 0] += np.int64(np.round(np.float64(p) * 1073741824.0))
                        sums[k, 1] += 1
                if with_near and near[i, j]:
                    sums[k, 2] += 1
            before = here
    return spans, sums


@njit(nogil=True, cache=True)
def join_runs(spans, sums):
    """Join the runs, in order of row and start, that touch within a row: how many are left, in place."""
    n = spans.shape[0]
    if n == 0:
        return 0
    k = 0
    for i in range(1, n):
        if spans[i, 0] == spans[k, 0] and spans[i, 1] == spans[k, 2]:
            spans[k, 2] = spans[i, 2]
            for m in range(3):
                sums[k, m] += sums[i, m]
        else:
            k += 1
            for m in range(3):
                spans[k, m] = spans[i, m]
                sums[k, m] = sums[i, m]
    return k + 1


@njit(nogil=True, cache=True)
def _root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def label_runs(spans, offsets, reach):
    """Components of runs.

    `spans` (run, 3): in each group in order of row and start; `offsets` int64: runs of different groups are never
    joined; `reach`: 1 joins over corners (8-connected), 0 does not. Returns `labels` (run) int64: numbers from 0 in
    order of the first run of each component; `count`: how many.
    """
    n = spans.shape[0]
    parent = np.arange(n)
    for g in range(offsets.size - 1):
        above = offsets[g]  # first run of the row above that can still touch
        first = offsets[g]  # first run of this row
        for i in range(offsets[g], offsets[g + 1]):
            if i > offsets[g] and spans[i, 0] != spans[i - 1, 0]:
                above = first
                first = i
            if above == first or spans[above, 0] < spans[i, 0] - 1:
                continue
            j = above
            while j < first and spans[j, 2] + reach <= spans[i, 1]:
                j += 1
            above = j
            while j < first and spans[j, 1] < spans[i, 2] + reach:
                a, b = _root(parent, i), _root(parent, j)
                if a < b:
                    parent[b] = a
                elif b < a:
                    parent[a] = b
                j += 1
    labels = np.empty(n, np.int64)
    count = 0
    for i in range(n):
        root = _root(parent, i)
        if root == i:
            labels[i] = count
            count += 1
        else:
            labels[i] = labels[root]
    return labels, count


@njit(nogil=True, cache=True)
def metric_at(tensor, step, row, column):
    """Metric tensor (xx, yy, xy) at a place in pixels; arguments as :func:`run_areas`."""
    u, v = row / step, column / step
    i = min(max(int(u), 0), tensor.shape[0] - 2)
    j = min(max(int(v), 0), tensor.shape[1] - 2)
    u -= i
    v -= j
    a, b, c, d = (1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v
    gxx = (
        a * tensor[i, j, 0]
        + b * tensor[i, j + 1, 0]
        + c * tensor[i + 1, j, 0]
        + d * tensor[i + 1, j + 1, 0]
    )
    gyy = (
        a * tensor[i, j, 1]
        + b * tensor[i, j + 1, 1]
        + c * tensor[i + 1, j, 1]
        + d * tensor[i + 1, j + 1, 1]
    )
    gxy = (
        a * tensor[i, j, 2]
        + b * tensor[i, j + 1, 2]
        + c * tensor[i + 1, j, 2]
        + d * tensor[i + 1, j + 1, 2]
    )
    return gxx, gyy, gxy


@njit(nogil=True, cache=True)
def run_areas(spans, tensor, step):
    """Area on the ground (m²) of each run, by Gauss' rule of two points along it.

    `spans` (run, 3): row, start, stop; `tensor`, `step`: of :class:`lunarray.fractures.ground.Metric`. Returns (run)
    float64: m².
    """
    out = np.empty(spans.shape[0])
    for i in range(spans.shape[0]):
        row = spans[i, 0] + 0.5
        length = float(spans[i, 2] - spans[i, 1])
        middle = 0.5 * (spans[i, 1] + spans[i, 2])
        total = 0.0
        for sign in (-1.0, 1.0):
            gxx, gyy, gxy = metric_at(
                tensor, step, row, middle + sign * 0.28867513459481287 * length
            )
            total += np.sqrt(max(gxx * gyy - gxy * gxy, 0.0))
        out[i] = 0.5 * length * total
    return out


@njit(nogil=True, cache=True)
def run_moments(spans, offsets):
    """Pixels, centroid and second central moments of components.

    `spans` (run, 3): sorted by component; `offsets` int64: where the runs of each begin. Returns (component, 6)
    float64: pixels; row and column of the centroid (pixel corners are whole numbers); variances along rows (y) and
    columns (x), and covariance, of the pixels as squares.
    """
    n = offsets.size - 1
    out = np.empty((n, 6))
    for k in range(n):
        # Counted from the first run, in whole numbers: no digits are lost far from the origin.
        row0, column0 = np.int64(spans[offsets[k], 0]), np.int64(spans[offsets[k], 1])
        pixels = np.int64(0)
        sr = sc = 0.0
        srr = scc = src = 0.0
        for i in range(offsets[k], offsets[k + 1]):
            r = float(np.int64(spans[i, 0]) - row0)
            a, b = float(spans[i, 1] - column0), float(spans[i, 2] - column0)
            m = b - a
            pixels += np.int64(spans[i, 2]) - np.int64(spans[i, 1])
            mean = 0.5 * (a + b)
            sr += m * (r + 0.5)
            sc += m * mean
            srr += m * ((r + 0.5) ** 2 + 1.0 / 12.0)
            scc += m * (mean * mean + m * m / 12.0)
            src += m * (r + 0.5) * mean
        area = float(pixels)
        r, c = sr / area, sc / area
        out[k, 0] = area
        out[k, 1] = r + row0
        out[k, 2] = c + column0
        out[k, 3] = srr / area - r * r
        out[k, 4] = scc / area - c * c
        out[k, 5] = src / area - r * c
    return out
