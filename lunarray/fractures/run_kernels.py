"""Masks as runs: the connected components of a mosaic, their outlines and their skeletons, from nothing but runs.

A run is a piece of a row that a mask covers, [start, stop). Runs of all blocks of a mosaic, joined where blocks meet,
are those of the whole mosaic: everything below is therefore the same for any chunks, and takes memory as the features
do, not as the pixels.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = [
    "PROBABILITY_UNIT",
    "extract_runs",
    "inscribed_radius",
    "join_runs",
    "label_runs",
    "outline",
    "run_areas",
    "run_moments",
    "skeletonise",
]

#: Probabilities are summed as whole multiples of this, so that a sum does not depend on its order.
PROBABILITY_UNIT = 2.0**-30

# Neighbours of a pixel, clockwise from north: row, column.
_DROW = np.array([-1, -1, 0, 1, 1, 1, 0, -1], np.int64)
_DCOL = np.array([0, 1, 1, 1, 0, -1, -1, -1], np.int64)


def _simple_table() -> np.ndarray:
    """For each of the 256 neighbourhoods: whether the pixel in it can go without changing the topology.

    Foreground 8-connected, background 4-connected: exactly one 8-component of neighbours, and a 4-neighbour that is
    background.
    """
    table = np.zeros(256, np.uint8)
    for code in range(256):
        on = [(code >> k) & 1 for k in range(8)]
        # Yokoi's connectivity number for 8-connected foreground.
        count = 0
        for k in (0, 2, 4, 6):
            a, b, c = 1 - on[k], 1 - on[(k + 1) % 8], 1 - on[(k + 2) % 8]
            count += a - a * b * c
        table[code] = count == 1
    return table


SIMPLE = _simple_table()


@njit(nogil=True, cache=True)
def extract_runs(mask, probability, near, row0, column0):
    """Runs of ones in a block.

    Parameters
    ----------
    mask : ndarray (rows, columns), uint8
        1 is the feature.
    probability : ndarray of the same shape, float32, or (0, 0)
        Summed over each run; what is not finite is left out.
    near : ndarray of the same shape, uint8, or (0, 0)
        Pixels to count in each run.
    row0, column0 : int
        Place of the block's first pixel.

    Returns
    -------
    spans : ndarray (run, 3), int32
        Row, start, stop.
    sums : ndarray (run, 3), int64
        Probability in units of 2^-30, number of finite probabilities, pixels that are near.
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

    Parameters
    ----------
    spans : ndarray (run, 3)
        In each group in order of row and start.
    offsets : ndarray (group + 1), int64
        Runs of different groups are never joined.
    reach : int
        1 joins over corners (8-connected), 0 does not.

    Returns
    -------
    labels : ndarray (run), int64
        Numbers from 0 in order of the first run of each component.
    count : int
        How many.
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
def _metric(tensor, step, row, column):
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

    Parameters
    ----------
    spans : ndarray (run, 3)
        Row, start, stop.
    tensor, step : ndarray, float
        Of :class:`lunarray.fractures.ground.Metric`.

    Returns
    -------
    ndarray (run), float64
        m².
    """
    out = np.empty(spans.shape[0])
    for i in range(spans.shape[0]):
        row = spans[i, 0] + 0.5
        length = float(spans[i, 2] - spans[i, 1])
        middle = 0.5 * (spans[i, 1] + spans[i, 2])
        total = 0.0
        for sign in (-1.0, 1.0):
            gxx, gyy, gxy = _metric(tensor, step, row, middle + sign * 0.28867513459481287 * length)
            total += np.sqrt(max(gxx * gyy - gxy * gxy, 0.0))
        out[i] = 0.5 * length * total
    return out


@njit(nogil=True, cache=True)
def run_moments(spans, offsets):
    """Pixels, centroid and second central moments of components.

    Parameters
    ----------
    spans : ndarray (run, 3)
        Sorted by component.
    offsets : ndarray (component + 1), int64
        Where the runs of each begin.

    Returns
    -------
    ndarray (component, 6), float64
        Pixels; row and column of the centroid (pixel corners are whole numbers); variances along rows (y) and columns
        (x), and covariance, of the pixels as squares.
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


# --- outlines -------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def outline(spans, offsets, parts):
    """Rings around components.

    Every run has a left and a right edge; at each level between two rows the ends of the edges above and below are
    linked along the borders between covered and not. Rings that touch themselves at a corner are cut there.

    Parameters
    ----------
    spans : ndarray (run, 3)
        Sorted by component, each in order of row and start.
    offsets : ndarray (component + 1), int64
        Where the runs of each begin.
    parts : ndarray (run), int64
        4-connected part that each run belongs to.

    Returns
    -------
    corners : ndarray (corner, 2), int32
        Column and row of the corners of all rings, not closed.
    rings : ndarray (ring + 1), int64
        Where the corners of each ring begin.
    ring_part : ndarray (ring), int64
        4-connected part that it bounds.
    ring_outer : ndarray (ring), uint8
        1 for the outer ring of a part, 0 for a hole.
    """
    n = spans.shape[0]
    # Edge 2i is the left, 2i + 1 the right of run i; link[e, 0] of its top, link[e, 1] of its bottom end.
    link = np.empty((2 * n, 2), np.int64)
    touch = np.zeros((2 * n, 2), np.uint8)
    for k in range(offsets.size - 1):
        a0 = a1 = b1 = offsets[k]
        end = offsets[k + 1]
        row = np.int64(spans[a0, 0])
        last_row = np.int64(spans[end - 1, 0]) + 1
        while row <= last_row:
            # Above: [a0, a1), in row - 1; below: [b0, b1), in this row.
            b0 = b1
            while b1 < end and spans[b1, 0] == row:
                b1 += 1
            i, j = 2 * a0, 2 * b0
            pending = np.int64(-1)
            while i < 2 * a1 or j < 2 * b1:
                if i >= 2 * a1:
                    upper = False
                elif j >= 2 * b1:
                    upper = True
                else:
                    xi = spans[i >> 1, 1 + (i & 1)]
                    xj = spans[j >> 1, 1 + (j & 1)]
                    if xi != xj:
                        upper = xi < xj
                    elif pending >= 0:
                        # Two pixels touch at this corner: the one that ends here closes, then the other begins.
                        upper = (i & 1) == 1
                        touch[i, 1] = 1
                        touch[j, 0] = 1
                    else:
                        upper = True
                if upper:
                    one = np.int64(2 * i + 1)
                    i += 1
                else:
                    one = np.int64(2 * j)
                    j += 1
                if pending < 0:
                    pending = one
                else:
                    link[pending >> 1, pending & 1] = one
                    link[one >> 1, one & 1] = pending
                    pending = np.int64(-1)
            a0, a1 = b0, b1
            row += 1

    corners = np.empty((4 * n + 4, 2), np.int32)
    rings = np.empty(2 * n + 2, np.int64)
    ring_part = np.empty(2 * n + 1, np.int64)
    ring_outer = np.empty(2 * n + 1, np.uint8)
    seen = np.zeros(2 * n, np.uint8)
    filled = 0
    count = 0
    rings[0] = 0
    for start in range(0, 2 * n, 2):
        if seen[start]:
            continue
        first = filled
        touching = False
        edge, at_bottom = np.int64(start), 1
        while True:
            seen[edge] = 1
            run = edge >> 1
            partner = link[edge, at_bottom]
            other = partner >> 1
            x1 = spans[run, 1 + (edge & 1)]
            x2 = spans[other >> 1, 1 + (other & 1)]
            if touch[edge, at_bottom] or touch[other, partner & 1]:
                touching = True
            if x1 != x2:
                y = spans[run, 0] + at_bottom
                corners[filled, 0], corners[filled, 1] = x1, y
                corners[filled + 1, 0], corners[filled + 1, 1] = x2, y
                filled += 2
            # Come to a bottom end: up this edge to its top; to a top end: down to its bottom.
            at_bottom = 1 - (partner & 1)
            edge = other
            if edge == start:
                break
        if touching:
            cuts = _cut_at_touches(corners[first:filled])
        else:
            cuts = np.empty(1, np.int64)
            cuts[0] = filled - first
        begin = first
        for size in cuts:
            twice = np.int64(0)
            for p in range(begin, begin + size):
                q = begin if p + 1 == begin + size else p + 1
                twice += np.int64(corners[p, 0]) * np.int64(corners[q, 1]) - np.int64(
                    corners[q, 0]
                ) * np.int64(corners[p, 1])
            ring_part[count] = parts[start >> 1]
            ring_outer[count] = 1 if twice < 0 else 0
            count += 1
            begin += size
            rings[count] = begin
    return corners[:filled], rings[: count + 1], ring_part[:count], ring_outer[:count]


@njit(nogil=True, cache=True)
def _cut_at_touches(corners):
    """Reorder, in place, a ring that comes to a corner twice into simple rings: their sizes."""
    n = corners.shape[0]
    keys = np.empty(n, np.int64)
    for i in range(n):
        keys[i] = (np.int64(corners[i, 1]) << 32) + np.int64(corners[i, 0])
    order = np.argsort(keys)
    name = np.empty(n, np.int64)
    k = -1
    for m in range(n):
        if m == 0 or keys[order[m]] != keys[order[m - 1]]:
            k += 1
        name[order[m]] = k
    place = np.full(k + 1, -1, np.int64)
    stack = np.empty(n, np.int64)
    out = np.empty((n, 2), np.int32)
    sizes = np.empty(n, np.int64)
    depth = filled = count = 0
    for i in range(n):
        back = place[name[i]]
        if back >= 0:
            sizes[count] = depth - back
            for m in range(back, depth):
                out[filled, 0], out[filled, 1] = corners[stack[m], 0], corners[stack[m], 1]
                filled += 1
                place[name[stack[m]]] = -1
            count += 1
            depth = back
        place[name[i]] = depth
        stack[depth] = i
        depth += 1
    sizes[count] = depth
    for m in range(depth):
        out[filled, 0], out[filled, 1] = corners[stack[m], 0], corners[stack[m], 1]
        filled += 1
    count += 1
    corners[:] = out
    return sizes[:count]


# --- skeletons ------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _neighbours(spans, offsets, first_pixel, pixels):
    """Index of each of the eight neighbours of each pixel, or -1."""
    table = np.full((pixels, 8), -1, np.int32)
    for k in range(offsets.size - 1):
        above = first = offsets[k]
        for i in range(offsets[k], offsets[k + 1]):
            if i > offsets[k] and spans[i, 0] != spans[i - 1, 0]:
                above = first
                first = i
            start, stop = np.int64(spans[i, 1]), np.int64(spans[i, 2])
            base = first_pixel[i] - start
            for c in range(start, stop - 1):
                table[base + c, 2] = base + c + 1
                table[base + c + 1, 6] = base + c
            if above == first or spans[above, 0] < spans[i, 0] - 1:
                continue
            j = above
            while j < first and spans[j, 2] < start:
                j += 1
            above = j
            while j < first and spans[j, 1] <= stop:
                up = first_pixel[j] - np.int64(spans[j, 1])
                low = max(np.int64(spans[j, 1]), start - 1)
                high = min(np.int64(spans[j, 2]), stop + 1)
                for c in range(low, high):
                    for shift in (-1, 0, 1):
                        d = c + shift  # column of the pixel in this row
                        if start <= d < stop:
                            # From below: north-east for shift -1, north for 0, north-west for 1.
                            if shift == 0:
                                table[base + d, 0] = up + c
                                table[up + c, 4] = base + d
                            elif shift < 0:
                                table[base + d, 1] = up + c
                                table[up + c, 5] = base + d
                            else:
                                table[base + d, 7] = up + c
                                table[up + c, 3] = base + d
                j += 1
    return table


@njit(nogil=True, cache=True)
def _thin(table, alive, simple):
    """Peel the pixels from north, south, east and west in turn until lines of one pixel are left (Rosenfeld 1975)."""
    active = np.flatnonzero(alive)
    count = active.size
    chosen = np.empty(count, np.int64)
    changed = True
    while changed:
        changed = False
        for direction in (0, 4, 2, 6):
            found = 0
            for m in range(count):
                p = active[m]
                towards = table[p, direction]
                if towards >= 0 and alive[towards]:
                    continue
                code = 0
                total = 0
                for d in range(8):
                    q = table[p, d]
                    if q >= 0 and alive[q]:
                        code |= 1 << d
                        total += 1
                if total >= 2 and simple[code]:
                    chosen[found] = p
                    found += 1
            if found:
                changed = True
                for m in range(found):
                    alive[chosen[m]] = 0
                kept = 0
                for m in range(count):
                    if alive[active[m]]:
                        active[kept] = active[m]
                        kept += 1
                count = kept


@njit(nogil=True, cache=True)
def _edges(table, alive):
    """Edges of the skeleton as a graph, a bit for each direction: diagonals only where no corner leads around them."""
    n = table.shape[0]
    edges = np.zeros(n, np.uint8)
    for p in range(n):
        if not alive[p]:
            continue
        code = 0
        for d in (0, 2, 4, 6):
            q = table[p, d]
            if q >= 0 and alive[q]:
                code |= 1 << d
        for d in (1, 3, 5, 7):
            q = table[p, d]
            if (
                q >= 0
                and alive[q]
                and not code & (1 << (d - 1))
                and not code & (1 << ((d + 1) % 8))
            ):
                code |= 1 << d
        edges[p] = code
    return edges


@njit(nogil=True, cache=True)
def _degree(code):
    count = 0
    for d in range(8):
        count += (code >> d) & 1
    return count


@njit(nogil=True, cache=True)
def _trace(table, edges, alive):
    """Branches of the skeleton: pixel indices of all, and where each begins."""
    n = table.shape[0]
    total = 0
    points = 0
    for p in range(n):
        if alive[p]:
            points += 1
            total += _degree(edges[p])
    # An edge once, and one point more for every branch.
    path = np.empty(total + points + 1, np.int64)
    begins = np.empty(total + points + 2, np.int64)
    done = np.zeros(n, np.uint8)
    filled = count = 0
    begins[0] = 0
    # First from ends and crossings, then the closed rings that are left.
    for rings in (False, True):
        for p in range(n):
            if not alive[p]:
                continue
            degree = _degree(edges[p])
            if degree == 0:
                if not rings:
                    path[filled] = p
                    filled += 1
                    count += 1
                    begins[count] = filled
                continue
            if degree == 2 and not rings:
                continue
            for d in range(8):
                if not (edges[p] >> d) & 1 or (done[p] >> d) & 1:
                    continue
                path[filled] = p
                filled += 1
                here, direction = p, d
                while True:
                    done[here] |= np.uint8(1 << direction)
                    ahead = table[here, direction]
                    back = (direction + 4) % 8
                    done[ahead] |= np.uint8(1 << back)
                    path[filled] = ahead
                    filled += 1
                    here = ahead
                    if _degree(edges[here]) != 2 or here == p:
                        break
                    direction = -1
                    for e in range(8):
                        if (edges[here] >> e) & 1 and e != back:
                            direction = e
                    if direction < 0 or (done[here] >> direction) & 1:
                        break
                count += 1
                begins[count] = filled
    return path[:filled], begins[: count + 1]


@njit(nogil=True, cache=True)
def inscribed_radius(spans, row_first, first_row, last_row, y, x):
    """Radius of the largest circle about a point within a component: exact distance to the nearest square outside.

    Parameters
    ----------
    spans : ndarray (run, 3)
        Runs of the component.
    row_first : ndarray
        Index of the first run of each of its rows, and one past the last.
    first_row, last_row : int
        Its rows, [first, last).
    y, x : float
        The point, in multiples of half a pixel; corners of pixels are whole numbers.

    Returns
    -------
    float
        Pixels.
    """
    best = 1e18
    reach = 0
    while True:
        nearest = 1e18
        for side in range(2):
            # Rows whose distance in y grows with `reach`, up and down.
            if y == np.floor(y):
                row = np.int64(y) - 1 - reach if side == 0 else np.int64(y) + reach
                dy = float(reach)
            else:
                row = np.int64(np.floor(y)) - reach if side == 0 else np.int64(np.floor(y)) + reach
                dy = 0.0 if reach == 0 else reach - 0.5
            nearest = min(nearest, dy)
            if dy >= best:
                continue
            dx = 0.0
            if first_row <= row < last_row:
                low, high = row_first[row - first_row], row_first[row - first_row + 1]
                while low < high:  # first run that ends beyond x
                    middle = (low + high) // 2
                    if spans[middle, 2] > x:
                        high = middle
                    else:
                        low = middle + 1
                if low < row_first[row - first_row + 1] and spans[low, 1] < x:
                    dx = min(x - spans[low, 1], spans[low, 2] - x)
            distance = np.sqrt(dx * dx + dy * dy)
            best = min(best, distance)
        if nearest >= best:
            return best
        reach += 1


@njit(nogil=True, cache=True)
def _widest(spans, row_first, first_row, last_row, row, column):
    """Largest inscribed radius about the pixel: its middle, the middles of its sides, its corners."""
    best = 0.0
    for i in range(3):
        for j in range(3):
            best = max(
                best,
                inscribed_radius(
                    spans, row_first, first_row, last_row, row + 0.5 * i, column + 0.5 * j
                ),
            )
    return best


@njit(nogil=True, cache=True)
def skeletonise(spans, offsets, simple, tensor, step, along, drow, dcol, spur):
    """Skeletons of components, their lengths and widths on the ground.

    Parameters
    ----------
    spans : ndarray (run, 3)
        Sorted by component, each in order of row and start.
    offsets : ndarray (component + 1), int64
        Where the runs of each begin.
    simple : ndarray (256), uint8
        ``SIMPLE``.
    tensor, step : ndarray, float
        Of :class:`lunarray.fractures.ground.Metric`.
    along : ndarray (component, 2), float64
        Direction (x, y) of the component, in pixels, for those whose skeleton is a point.
    drow, dcol : ndarray (8)
        Steps to the neighbours.
    spur : float
        Branches with a free end that are no longer than this times the inscribed radius where they begin, and a
        pixel, are none.

    Returns
    -------
    numbers : ndarray (component, 5), float64
        Length (m), largest width (m) apart from crossings, largest width anywhere (m), crossings, branches.
    lines : ndarray (point, 2), float64
        Column and row of the points of all branches, smoothed.
    begins : ndarray (branch + 1), int64
        Where the points of each begin.
    owner : ndarray (branch), int64
        Component of each.
    """
    components = offsets.size - 1
    runs = spans.shape[0]
    first_pixel = np.empty(runs + 1, np.int64)
    first_pixel[0] = 0
    for i in range(runs):
        first_pixel[i + 1] = first_pixel[i] + spans[i, 2] - spans[i, 1]
    pixels = first_pixel[runs]
    row_of = np.empty(pixels, np.int32)
    column_of = np.empty(pixels, np.int32)
    component_of = np.empty(pixels, np.int32)
    for k in range(components):
        for i in range(offsets[k], offsets[k + 1]):
            for c in range(spans[i, 2] - spans[i, 1]):
                row_of[first_pixel[i] + c] = spans[i, 0]
                column_of[first_pixel[i] + c] = spans[i, 1] + c
                component_of[first_pixel[i] + c] = k
    # Where the runs of each row begin, for each component.
    first_row = np.empty(components, np.int64)
    last_row = np.empty(components, np.int64)
    row_offset = np.empty(components + 1, np.int64)
    row_offset[0] = 0
    for k in range(components):
        first_row[k] = spans[offsets[k], 0]
        last_row[k] = spans[offsets[k + 1] - 1, 0] + 1
        row_offset[k + 1] = row_offset[k] + last_row[k] - first_row[k] + 1
    row_first = np.empty(row_offset[components], np.int64)
    for k in range(components):
        i = offsets[k]
        for row in range(first_row[k], last_row[k]):
            while i < offsets[k + 1] and spans[i, 0] < row:
                i += 1
            row_first[row_offset[k] + row - first_row[k]] = i
        row_first[row_offset[k + 1] - 1] = offsets[k + 1]

    table = _neighbours(spans, offsets, first_pixel, pixels)
    alive = np.ones(pixels, np.uint8)
    _thin(table, alive, simple)

    radius = np.full(pixels, -1.0, np.float32)
    for p in range(pixels):
        if alive[p]:
            k = component_of[p]
            radius[p] = _widest(
                spans,
                row_first[row_offset[k] : row_offset[k + 1]],
                first_row[k],
                last_row[k],
                row_of[p],
                column_of[p],
            )
    edges = _edges(table, alive)
    path, begins = _trace(table, edges, alive)
    for _ in range(4):
        removed = False
        for b in range(begins.size - 1):
            low, high = begins[b], begins[b + 1] - 1
            if high == low:
                continue
            head, tail = path[low], path[high]
            free_head, free_tail = _degree(edges[head]) == 1, _degree(edges[tail]) == 1
            if free_head == free_tail:
                continue  # the whole of a line, or between two crossings
            junction = tail if free_head else head
            length = 0.0
            for m in range(low, high):
                length += np.sqrt(
                    float(row_of[path[m]] - row_of[path[m + 1]]) ** 2
                    + float(column_of[path[m]] - column_of[path[m + 1]]) ** 2
                )
            if length <= spur * radius[junction] + 1.0:
                removed = True
                for m in range(low, high + 1):
                    if path[m] != junction:
                        alive[path[m]] = 0
        if not removed:
            break
        # What was a crossing may now be a corner that can go.
        _thin(table, alive, simple)
        edges = _edges(table, alive)
        path, begins = _trace(table, edges, alive)

    # Crossings: those whose circles overlap are one.
    branches = begins.size - 1
    parent = np.full(pixels, -1, np.int32)
    inner = np.zeros(branches, np.uint8)
    for p in range(pixels):
        if alive[p] and _degree(edges[p]) >= 3:
            parent[p] = p
    for b in range(branches):
        head, tail = path[begins[b]], path[begins[b + 1] - 1]
        if parent[head] < 0 or parent[tail] < 0 or head == tail:
            continue
        if begins[b + 1] - 1 - begins[b] <= radius[head] + radius[tail]:
            inner[b] = 1
            i, j = head, tail
            while parent[i] != i:
                i = parent[i]
            while parent[j] != j:
                j = parent[j]
            if i < j:
                parent[j] = i
            elif j < i:
                parent[i] = j
    numbers = np.zeros((components, 5))
    for p in range(pixels):
        if parent[p] == p:
            numbers[component_of[p], 3] += 1.0

    lines = np.empty((path.size + 2 * branches, 2))
    line_begins = np.empty(branches + 1, np.int64)
    line_begins[0] = 0
    owner = np.empty(branches, np.int64)
    filled = 0
    for b in range(branches):
        low, high = begins[b], begins[b + 1]
        count = high - low
        head, tail = path[low], path[high - 1]
        k = component_of[head]
        owner[b] = k
        if not inner[b]:
            numbers[k, 4] += 1.0
        first = filled
        if count == 1:
            r = float(radius[head])
            x, y = column_of[head] + 0.5, row_of[head] + 0.5
            for sign in (-1.0, 1.0):
                lines[filled, 0] = x + sign * r * along[k, 0]
                lines[filled, 1] = y + sign * r * along[k, 1]
                filled += 1
        else:
            extend_head, extend_tail = _degree(edges[head]) == 1, _degree(edges[tail]) == 1
            if extend_head:
                filled += 1
            for m in range(count):
                # A mean over two points on each side, fewer towards the ends: without the steps of the raster.
                h = min(2, min(m, count - 1 - m))
                sx = sy = 0.0
                for q in range(m - h, m + h + 1):
                    sx += column_of[path[low + q]] + 0.5
                    sy += row_of[path[low + q]] + 0.5
                lines[filled, 0], lines[filled, 1] = sx / (2 * h + 1), sy / (2 * h + 1)
                filled += 1
            last = filled
            if extend_head:
                # The skeleton of an end stops a radius short of it.
                q = first + min(5, count)
                _extend(lines, first, first + 1, q, float(radius[head]))
            if extend_tail:
                filled += 1
                q = last - min(5, count)
                _extend(lines, last, last - 1, q, float(radius[tail]))
        line_begins[b + 1] = filled
        for m in range(first, filled - 1):
            dx, dy = lines[m + 1, 0] - lines[m, 0], lines[m + 1, 1] - lines[m, 1]
            gxx, gyy, gxy = _metric(
                tensor,
                step,
                0.5 * (lines[m, 1] + lines[m + 1, 1]),
                0.5 * (lines[m, 0] + lines[m + 1, 0]),
            )
            numbers[k, 0] += np.sqrt(max(gxx * dx * dx + gyy * dy * dy + 2 * gxy * dx * dy, 0.0))
        joint_head, joint_tail = _degree(edges[head]) >= 3, _degree(edges[tail]) >= 3
        for m in range(count):
            p = path[low + m]
            before, after = path[low + max(m - 3, 0)], path[low + min(m + 3, count - 1)]
            dx = float(column_of[after] - column_of[before])
            dy = float(row_of[after] - row_of[before])
            if dx == 0.0 and dy == 0.0:
                dx, dy = along[k, 0], along[k, 1]
            norm = np.sqrt(dx * dx + dy * dy)
            dx /= norm
            dy /= norm
            gxx, gyy, gxy = _metric(tensor, step, row_of[p] + 0.5, column_of[p] + 0.5)
            stretch = np.sqrt(max(gxx * dx * dx + gyy * dy * dy + 2 * gxy * dx * dy, 1e-300))
            # What lies between two lines along (dx, dy) is as wide as areas grow more than lengths along them.
            width = 2.0 * radius[p] * np.sqrt(max(gxx * gyy - gxy * gxy, 0.0)) / stretch
            crossing = (joint_head and m <= radius[head]) or (
                joint_tail and count - 1 - m <= radius[tail]
            )
            numbers[k, 2] = max(numbers[k, 2], width)
            if not crossing:
                numbers[k, 1] = max(numbers[k, 1], width)
    return numbers, lines[:filled], line_begins, owner


@njit(nogil=True, cache=True)
def _extend(lines, target, end, inner, radius):
    dx, dy = lines[end, 0] - lines[inner, 0], lines[end, 1] - lines[inner, 1]
    norm = np.sqrt(dx * dx + dy * dy)
    if norm == 0.0:
        dx, dy, norm = 1.0, 0.0, 1.0
    lines[target, 0] = lines[end, 0] + radius * dx / norm
    lines[target, 1] = lines[end, 1] + radius * dy / norm
