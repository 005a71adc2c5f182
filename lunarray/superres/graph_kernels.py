"""Numba kernels of the graphs: candidates by float32 with a margin, the nearest among them by float64."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from lunarray.engine.compiling import njit

#: Columns that are computed before one test tells whether any of them is a candidate.
_STRIP = 64
#: No `ninf`: infinity marks an empty place.
_FAST = {"reassoc", "contract", "nsz", "nnan", "arcp"}
_HALF_PI = np.float32(np.pi / 2)
# asin(x)/x − 1 over x² for x ≤ 1/2, to 2e-7 (Cephes, asinf).
_C0, _C1, _C2, _C3, _C4 = (
    np.float32(c)
    for c in (1.6666752422e-1, 7.4953002686e-2, 4.5470025998e-2, 2.4181311049e-2, 4.2163199048e-2)
)


class Exact(NamedTuple):
    """What exact scores are made of: a·asin(chord/2) + b·‖W_i − W_j‖², in float64.

    Attributes
    ----------
    w : ndarray of float32, shape (node, feature)
        Features.
    place : ndarray of float64, shape (node, 3)
        Places, in units of the radius.
    a, b : float
        Factors of the half angle and of the squared feature distance.
    """

    w: np.ndarray
    place: np.ndarray
    a: float
    b: float


class Screen(NamedTuple):
    """What scores in float32 are made of, which tell what can be among the nearest at all.

    Attributes
    ----------
    norm : ndarray of float32, shape (node,)
        ‖x_j‖².
    place : ndarray of float32, shape (3, node)
        Places around a common point, in units of the radius.
    a : float32
        Factor of the half angle.
    near : bool
        All chords are at most 1.
    error : ndarray of float32, shape (node,)
        What the scores of a row may be off.
    """

    norm: np.ndarray
    place: np.ndarray
    a: np.float32
    near: bool
    error: np.ndarray


@njit(nogil=True, cache=True, fastmath=_FAST)
def _least_features(first, width, product, norm):
    """The least that the scores of some columns can be, from features alone: distances only add."""
    least = np.float32(np.inf)
    for c in range(width):
        least = min(least, product[first + c] + norm[first + c])
    return least


@njit(nogil=True, cache=True, fastmath=_FAST)
def _strip_near(out, first, width, product, norm, place, px, py, pz, a):
    """Scores of some columns, less the node's own norm, where half chords are 1/2 at most; their least."""
    least = np.float32(np.inf)
    quarter = np.float32(0.25)
    for c in range(width):
        j = first + c
        dx, dy, dz = place[0, j] - px, place[1, j] - py, place[2, j] - pz
        h = quarter * (dx * dx + dy * dy + dz * dz)
        series = h * (_C0 + h * (_C1 + h * (_C2 + h * (_C3 + h * _C4))))
        x = math.sqrt(h)
        value = product[j] + norm[j] + a * (x + x * series)
        out[c] = value
        least = min(least, value)
    return least


@njit(nogil=True, cache=True, fastmath=_FAST)
def _strip_far(out, first, width, product, norm, place, px, py, pz, a):
    """The same for places anywhere."""
    least = np.float32(np.inf)
    quarter, half, one, two = np.float32(0.25), np.float32(0.5), np.float32(1), np.float32(2)
    for c in range(width):
        j = first + c
        dx, dy, dz = place[0, j] - px, place[1, j] - py, place[2, j] - pz
        h = min(quarter * (dx * dx + dy * dy + dz * dz), one)
        far = h > quarter
        h = half * (one - math.sqrt(h)) if far else h
        series = h * (_C0 + h * (_C1 + h * (_C2 + h * (_C3 + h * _C4))))
        x = math.sqrt(h)
        angle = x + x * series
        angle = _HALF_PI - two * angle if far else angle
        value = product[j] + norm[j] + a * angle
        out[c] = value
        least = min(least, value)
    return least


@njit(nogil=True, cache=True)
def _smallest(values, work, count, k):
    """The k-th smallest of the first `count` values (quickselect on a copy)."""
    work[:count] = values[:count]
    low, high, target = 0, count - 1, k - 1
    while low < high:
        pivot = work[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while work[i] < pivot:
                i += 1
            while pivot < work[j]:
                j -= 1
            if i <= j:
                work[i], work[j] = work[j], work[i]
                i += 1
                j -= 1
        if target <= j:
            high = j
        elif target >= i:
            low = i
        else:
            break
    return work[target]


@njit(nogil=True, cache=True, fastmath=_FAST)
def _squared(one, other):
    total = 0.0
    for f in range(one.shape[0]):
        difference = np.float64(one[f]) - np.float64(other[f])
        total += difference * difference
    return total


@njit(nogil=True, cache=True)
def _score(i, j, exact):
    w, place, a, b = exact
    dx, dy, dz = place[i, 0] - place[j, 0], place[i, 1] - place[j, 1], place[i, 2] - place[j, 2]
    angle = math.asin(min(1.0, 0.5 * math.sqrt(dx * dx + dy * dy + dz * dz)))
    return a * angle + b * _squared(w[i], w[j])


@njit(nogil=True, cache=True)
def _rank(i, columns, count, k, exact, scores, keys, bits, index, weight):
    """Order candidates by their score in float32, then by index; `bits` is `scores32` seen as integers."""
    scores32 = bits.view(np.float32)
    for c in range(count):
        scores[c] = _score(i, columns[c], exact)
        scores32[c] = scores[c]
    for c in range(count):
        # Not negative: as integers they have the order that they have as numbers.
        keys[c] = (np.uint64(bits[c]) << np.uint64(32)) | np.uint64(columns[c])
    order = np.argsort(keys[:count])
    for c in range(k):
        index[c] = columns[order[c]]
        weight[c] = math.exp(-scores[order[c]])


@njit(nogil=True, cache=True)
def nearest_rows(start, products, screen, exact, k, skip_self, index, weight):
    """The k nearest of the nodes from `start` on, from `products` (row, node) with all others, −2 x_i·x_j in float32.

    Fills `index` and `weight` (row, k). Gives the rows that could not be decided: more ties than there is room for.
    """
    norm, place32, a32, near, error = screen
    nodes = norm.size
    room = min(4 * k + 256, nodes) + _STRIP
    values, work = np.empty(room, np.float32), np.empty(room, np.float32)
    columns = np.empty(room, np.int32)
    strip = np.empty(_STRIP, np.float32)
    scores, keys = np.empty(room, np.float64), np.empty(room, np.uint64)
    bits = np.empty(room, np.uint32)
    undecided = np.empty(products.shape[0], np.int64)
    number = 0
    for r in range(products.shape[0]):
        i = start + r
        px, py, pz = place32[0, i], place32[1, i], place32[2, i]
        product = products[r]
        margin = np.float32(2) * error[i]
        limit, count, full = np.float32(np.inf), 0, False
        for first in range(0, nodes, _STRIP):
            width = min(_STRIP, nodes - first)
            if _least_features(first, width, product, norm) > limit:
                continue
            if near:
                least = _strip_near(strip, first, width, product, norm, place32, px, py, pz, a32)
            else:
                least = _strip_far(strip, first, width, product, norm, place32, px, py, pz, a32)
            if least > limit:
                continue
            for c in range(width):
                if strip[c] <= limit and not (skip_self and first + c == i):
                    values[count], columns[count] = strip[c], first + c
                    count += 1
            if count > room - _STRIP:
                limit, count = _reduce(values, columns, work, count, k, margin)
                if count > room - _STRIP:
                    full = True
                    break
        if full:
            undecided[number] = r
            number += 1
            continue
        limit, count = _reduce(values, columns, work, count, k, margin)
        _rank(i, columns, count, k, exact, scores, keys, bits, index[r], weight[r])
    return undecided[:number]


@njit(nogil=True, cache=True)
def _reduce(values, columns, work, count, k, margin):
    """Keep what could be among the k nearest."""
    limit = _smallest(values, work, count, k) + margin
    kept = 0
    for c in range(count):
        if values[c] <= limit:
            values[kept], columns[kept] = values[c], columns[c]
            kept += 1
    return limit, kept


@njit(nogil=True, cache=True)
def exact_rows(rows, exact, k, skip_self, index, weight):
    """The k nearest of some nodes by float64 alone."""
    nodes = exact.w.shape[0]
    columns = np.empty(nodes, np.int32)
    scores, keys = np.empty(nodes, np.float64), np.empty(nodes, np.uint64)
    bits = np.empty(nodes, np.uint32)
    for i in rows:
        count = 0
        for j in range(nodes):
            if not (skip_self and j == i):
                columns[count] = j
                count += 1
        _rank(i, columns, count, k, exact, scores, keys, bits, index[i], weight[i])
