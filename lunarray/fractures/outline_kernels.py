"""Outlines of components that are given as runs."""

from __future__ import annotations

import numpy as np

from lunarray.engine.compiling import njit

__all__ = ["outline"]


@njit(nogil=True, cache=True)
def outline(spans, offsets, parts):
    """Rings around components.

    Every run has a left and a right edge; at each level between two rows the ends of the edges above and below are
    linked along the borders between covered and not. Rings that touch themselves at a corner are cut there.

    `spans` (run, 3): sorted by component, each in order of row and start; `offsets` int64: where the runs of each
    begin; `parts` (run) int64: 4-connected part that each run belongs to. Returns `corners` (corner, 2) int32: column
    and row of the corners of all rings, not closed; `rings` int64: where the corners of each ring begin; `ring_part`
    (ring) int64: 4-connected part that it bounds; `ring_outer` (ring) uint8: 1 for the outer ring of a part, 0 for a
    hole.
    """
    n = spans.shape[0]
    link, touch = _linked(spans, offsets)
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
            ring_part[count] = parts[start >> 1]
            ring_outer[count] = _is_outer(corners[begin : begin + size])
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
    for i in range(n):  # an assignment of the whole takes seconds to compile
        corners[i, 0], corners[i, 1] = out[i, 0], out[i, 1]
    return sizes[:count]


@njit(nogil=True, cache=True)
def _linked(spans, offsets):
    """Which ends of edges are linked, and which of them meet another pair at a corner.

    Edge 2i is the left, 2i + 1 the right of run i; ``link[e, 0]`` is of its top, ``link[e, 1]`` of its bottom end.
    """
    n = spans.shape[0]
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
    return link, touch


@njit(nogil=True, cache=True)
def _is_outer(ring):
    """Whether the corners of a ring go round it as those of outer rings do."""
    twice = np.int64(0)
    before = ring.shape[0] - 1
    for p in range(ring.shape[0]):
        twice += np.int64(ring[before, 0]) * np.int64(ring[p, 1])
        twice -= np.int64(ring[p, 0]) * np.int64(ring[before, 1])
        before = p
    return twice < 0
