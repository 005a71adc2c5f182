"""Skeletons of components that are given as runs, and their lengths and widths on the ground."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lunarray.engine.compiling import njit
from lunarray.fractures.run_kernels import metric_at

__all__ = ["inscribed_radius", "skeletonise"]


class Pixels(NamedTuple):
    """Pixels of components, in order of the runs."""

    first: np.ndarray
    """Number of the first pixel of each run, and one past the last."""
    row: np.ndarray
    column: np.ndarray
    component: np.ndarray


class Skeleton(NamedTuple):
    """Skeletons as graphs."""

    edges: np.ndarray
    """For each pixel, a bit for each direction (clockwise from north) in which the line goes on."""
    path: np.ndarray
    """Pixels of all branches."""
    begins: np.ndarray
    """Where each begins in `path`."""


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
def skeletonise(spans, offsets, tensor, step, along, spur):
    """Skeletons of components, their lengths and widths on the ground.

    `spans` (run, 3): sorted by component, each in order of row and start; `offsets` int64: where the runs of each
    begin; `tensor`, `step`: of :class:`lunarray.fractures.ground.Metric`; `along` (component, 2) float64: direction (x,
    y) of the component, in pixels, for those whose skeleton is a point; `spur`: branches with a free end that are no
    longer than this times the inscribed radius where they begin, and a pixel, are none. Returns `numbers` (component,
    5) float64: length (m), largest width (m) apart from crossings, largest width anywhere (m), crossings, branches;
    `lines` (point, 2) float64: column and row of the points of all branches, smoothed; `begins` int64: where the points
    of each begin; `owner` (branch) int64: component of each.
    """
    components = offsets.size - 1
    pixels = _pixels_of(spans, offsets)
    count = pixels.row.size
    table = _neighbours(spans, offsets, pixels.first, count)
    alive = np.ones(count, np.uint8)
    _thin(table, alive)
    radius = _radii(spans, offsets, pixels, alive)
    skeleton = _pruned(table, alive, pixels, radius, spur)
    path, begins = skeleton.path, skeleton.begins
    crossing, inner = _crossings(skeleton, alive, radius)
    numbers = np.zeros((components, 5))
    for p in range(count):
        if crossing[p] == p:
            numbers[pixels.component[p], 3] += 1.0

    branches = begins.size - 1
    lines = np.empty((path.size + 2 * branches, 2))
    line_begins = np.empty(branches + 1, np.int64)
    line_begins[0] = 0
    owner = np.empty(branches, np.int64)
    filled = 0
    for b in range(branches):
        k = pixels.component[path[begins[b]]]
        owner[b] = k
        if not inner[b]:
            numbers[k, 4] += 1.0
        first = filled
        filled = _draw(lines, first, b, skeleton, pixels, radius, along[k])
        line_begins[b + 1] = filled
        for m in range(first, filled - 1):
            numbers[k, 0] += _stretch(
                tensor,
                step,
                0.5 * (lines[m, 1] + lines[m + 1, 1]),
                0.5 * (lines[m, 0] + lines[m + 1, 0]),
                lines[m + 1, 0] - lines[m, 0],
                lines[m + 1, 1] - lines[m, 1],
                0.0,
            )
        apart, anywhere = _widths(b, skeleton, pixels, radius, along[k], tensor, step)
        numbers[k, 1] = max(numbers[k, 1], apart)
        numbers[k, 2] = max(numbers[k, 2], anywhere)
    return numbers, lines[:filled], line_begins, owner


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
def _thin(table, alive):
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
                if total >= 2 and SIMPLE[code]:
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

    `spans` (run, 3): runs of the component; `row_first`: index of the first run of each of its rows, and one past the
    last; `first_row`, `last_row`: its rows, [first, last); `y`, `x`: the point, in multiples of half a pixel; corners
    of pixels are whole numbers. Returns pixels.
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
def _pixels_of(spans, offsets):
    runs = spans.shape[0]
    first = np.empty(runs + 1, np.int64)
    first[0] = 0
    for i in range(runs):
        first[i + 1] = first[i] + spans[i, 2] - spans[i, 1]
    count = first[runs]
    row = np.empty(count, np.int32)
    column = np.empty(count, np.int32)
    component = np.empty(count, np.int32)
    for k in range(offsets.size - 1):
        for i in range(offsets[k], offsets[k + 1]):
            for c in range(spans[i, 2] - spans[i, 1]):
                row[first[i] + c] = spans[i, 0]
                column[first[i] + c] = spans[i, 1] + c
                component[first[i] + c] = k
    return Pixels(first, row, column, component)


@njit(nogil=True, cache=True)
def _radii(spans, offsets, pixels, alive):
    """Largest inscribed radius about each pixel that is alive, -1 about others."""
    radius = np.full(alive.size, -1.0, np.float32)
    p = 0
    for k in range(offsets.size - 1):
        # Where the runs of each row begin.
        low, high = offsets[k], offsets[k + 1]
        first, last = spans[low, 0], spans[high - 1, 0] + 1
        row_first = np.empty(last - first + 1, np.int64)
        i = low
        for row in range(first, last):
            while i < high and spans[i, 0] < row:
                i += 1
            row_first[row - first] = i
        row_first[last - first] = high
        while p < alive.size and pixels.component[p] == k:
            if alive[p]:
                radius[p] = _widest(spans, row_first, first, last, pixels.row[p], pixels.column[p])
            p += 1
    return radius


@njit(nogil=True, cache=True)
def _pruned(table, alive, pixels, radius, spur):
    """The skeleton as branches, without those that are no more than a roughness of the border."""
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
                    float(pixels.row[path[m]] - pixels.row[path[m + 1]]) ** 2
                    + float(pixels.column[path[m]] - pixels.column[path[m + 1]]) ** 2
                )
            if length <= spur * radius[junction] + 1.0:
                removed = True
                for m in range(low, high + 1):
                    if path[m] != junction:
                        alive[path[m]] = 0
        if not removed:
            break
        # What was a crossing may now be a corner that can go.
        _thin(table, alive)
        edges = _edges(table, alive)
        path, begins = _trace(table, edges, alive)
    return Skeleton(edges, path, begins)


@njit(nogil=True, cache=True)
def _crossings(skeleton, alive, radius):
    """Crossings, those whose circles overlap being one, and the branches within one.

    The pixel that stands for the crossing of each pixel, or -1; for each branch, 1 where it lies within a crossing.
    """
    edges, path, begins = skeleton
    parent = np.full(alive.size, -1, np.int32)
    inner = np.zeros(begins.size - 1, np.uint8)
    for p in range(alive.size):
        if alive[p] and _degree(edges[p]) >= 3:
            parent[p] = p
    for b in range(begins.size - 1):
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
    return parent, inner


@njit(nogil=True, cache=True)
def _draw(lines, first, b, skeleton, pixels, radius, along):
    """Write the points of a branch into `lines` from `first` on: where they end."""
    edges, path, begins = skeleton
    low, count = begins[b], begins[b + 1] - begins[b]
    head, tail = path[low], path[low + count - 1]
    filled = first
    if count == 1:
        r = float(radius[head])
        x, y = pixels.column[head] + 0.5, pixels.row[head] + 0.5
        for sign in (-1.0, 1.0):
            lines[filled, 0] = x + sign * r * along[0]
            lines[filled, 1] = y + sign * r * along[1]
            filled += 1
        return filled
    extend_head, extend_tail = _degree(edges[head]) == 1, _degree(edges[tail]) == 1
    if extend_head:
        filled += 1
    for m in range(count):
        # A mean over two points on each side, fewer towards the ends: without the steps of the raster.
        h = min(2, min(m, count - 1 - m))
        sx = sy = 0.0
        for q in range(m - h, m + h + 1):
            sx += pixels.column[path[low + q]] + 0.5
            sy += pixels.row[path[low + q]] + 0.5
        lines[filled, 0], lines[filled, 1] = sx / (2 * h + 1), sy / (2 * h + 1)
        filled += 1
    last = filled
    if extend_head:
        # The skeleton of an end stops a radius short of it.
        _extend(lines, first, first + 1, first + min(5, count), float(radius[head]))
    if extend_tail:
        filled += 1
        _extend(lines, last, last - 1, last - min(5, count), float(radius[tail]))
    return filled


@njit(nogil=True, cache=True)
def _extend(lines, target, end, inner, radius):
    dx, dy = lines[end, 0] - lines[inner, 0], lines[end, 1] - lines[inner, 1]
    norm = np.sqrt(dx * dx + dy * dy)
    if norm == 0.0:
        dx, dy, norm = 1.0, 0.0, 1.0
    lines[target, 0] = lines[end, 0] + radius * dx / norm
    lines[target, 1] = lines[end, 1] + radius * dy / norm


@njit(nogil=True, cache=True)
def _stretch(tensor, step, row, column, dx, dy, least):
    """Length on the ground (m) of a step (dx, dy) in pixels, the root of `least` at least."""
    gxx, gyy, gxy = metric_at(tensor, step, row, column)
    return np.sqrt(max(gxx * dx * dx + gyy * dy * dy + 2 * gxy * dx * dy, least))


@njit(nogil=True, cache=True)
def _widths(b, skeleton, pixels, radius, along, tensor, step):
    """Largest width (m) of a branch apart from crossings, and anywhere."""
    edges, path, begins = skeleton
    low, count = begins[b], begins[b + 1] - begins[b]
    head, tail = path[low], path[low + count - 1]
    joint_head, joint_tail = _degree(edges[head]) >= 3, _degree(edges[tail]) >= 3
    apart = anywhere = 0.0
    for m in range(count):
        p = path[low + m]
        before, after = path[low + max(m - 3, 0)], path[low + min(m + 3, count - 1)]
        dx = float(pixels.column[after] - pixels.column[before])
        dy = float(pixels.row[after] - pixels.row[before])
        if dx == 0.0 and dy == 0.0:
            dx, dy = along[0], along[1]
        norm = np.sqrt(dx * dx + dy * dy)
        y, x = pixels.row[p] + 0.5, pixels.column[p] + 0.5
        stretch = _stretch(tensor, step, y, x, dx / norm, dy / norm, 1e-300)
        gxx, gyy, gxy = metric_at(tensor, step, y, x)
        # What lies between two lines along (dx, dy) is as wide as areas grow more than lengths along them.
        width = 2.0 * radius[p] * np.sqrt(max(gxx * gyy - gxy * gxy, 0.0)) / stretch
        crossing = (joint_head and m <= radius[head]) or (
            joint_tail and count - 1 - m <= radius[tail]
        )
        anywhere = max(anywhere, width)
        if not crossing:
            apart = max(apart, width)
    return apart, anywhere
