"""Kernels of the population: centres of a footprint's cells, their weights, and the mean of what falls on a pixel.

Plain arrays in and out. Numba releases the interpreter's lock and runs one thread.
"""

from __future__ import annotations

import math

import numpy as np

from lunarray.engine.compiling import njit

__all__ = [
    "cell_centres",
    "close",
    "combine_cells",
    "contrasts",
    "exact_weights",
    "lagrangian_weights",
    "pixels_of",
    "sort_cells",
]


@njit(nogil=True, cache=True)
def _unit(lat: float, lon: float) -> tuple[float, float, float]:
    phi, lam = math.radians(lat), math.radians(lon)
    c = math.cos(phi)
    return c * math.cos(lam), c * math.sin(lam), math.sin(phi)


@njit(nogil=True, cache=True)
def cell_centres(
    corner_lat: np.ndarray, corner_lon: np.ndarray, cells: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the cells into which footprints divide along their longer axis, latitude and longitude (footprint,
    cells).

    Corners (footprint, 4) are in degrees, in order around each footprint, either way. Centres lie on the great circle
    between the middles of the two shorter sides; longitudes in [-180, 180).
    """
    n = corner_lat.shape[0]
    lat, lon = np.empty((n, cells)), np.empty((n, cells))
    v = np.empty((4, 3))
    side = np.empty(4)
    for f in range(n):
        for k in range(4):
            v[k, 0], v[k, 1], v[k, 2] = _unit(corner_lat[f, k], corner_lon[f, k])
        for k in range(4):
            m = (k + 1) % 4
            side[k] = math.sqrt(
                (v[k, 0] - v[m, 0]) ** 2 + (v[k, 1] - v[m, 1]) ** 2 + (v[k, 2] - v[m, 2]) ** 2
            )
        # The track runs from the middle of one short side to that of the other.
        first = 3 if side[0] + side[2] >= side[1] + side[3] else 0
        second = (first + 1) % 4
        ax, ay, az = v[first, 0] + v[second, 0], v[first, 1] + v[second, 1], v[first, 2] + v[second, 2]  # fmt: skip
        third, fourth = (first + 2) % 4, (first + 3) % 4
        bx, by, bz = v[third, 0] + v[fourth, 0], v[third, 1] + v[fourth, 1], v[third, 2] + v[fourth, 2]  # fmt: skip
        na, nb = math.sqrt(ax * ax + ay * ay + az * az), math.sqrt(bx * bx + by * by + bz * bz)
        ax, ay, az, bx, by, bz = ax / na, ay / na, az / na, bx / nb, by / nb, bz / nb
        dot = ax * bx + ay * by + az * bz
        # What of b is perpendicular to a spans with a the plane of the great circle.
        wx, wy, wz = bx - dot * ax, by - dot * ay, bz - dot * az
        nw = math.sqrt(wx * wx + wy * wy + wz * wz)
        angle = math.atan2(nw, dot)
        if nw > 0.0:
            wx, wy, wz = wx / nw, wy / nw, wz / nw
        for k in range(cells):
            t = angle * (k + 0.5) / cells
            c, s = math.cos(t), math.sin(t)
            x, y, z = ax * c + wx * s, ay * c + wy * s, az * c + wz * s
            lat[f, k] = math.degrees(math.atan2(z, math.sqrt(x * x + y * y)))
            east = math.degrees(math.atan2(y, x))
            lon[f, k] = -180.0 if east >= 180.0 else east
    return lat, lon


@njit(nogil=True, cache=True)
def pixels_of(
    lat: np.ndarray,
    lon: np.ndarray,
    west: float,
    south: float,
    east: float,
    north: float,
    rows: int,
    columns: int,
) -> np.ndarray:
    """Pixels of a regular grid that hold points, as row times columns plus column; -1 outside.

    Points are in degrees, lon in [-180, 180), as are the grid's edges; it has so many `rows` and `columns`.
    """
    height, width = (north - south) / rows, (east - west) / columns
    out = np.empty(lat.shape, np.int64)
    for f in range(lat.shape[0]):
        for k in range(lat.shape[1]):
            x, y = lon[f, k], lat[f, k]
            if not (x >= west and x <= east and y >= south and y <= north):
                out[f, k] = -1
                continue
            row = min(int((north - y) / height), rows - 1)
            column = min(int((x - west) / width), columns - 1)
            out[f, k] = row * columns + column
    return out


@njit(nogil=True, cache=True)
def _targets(
    abundance: np.ndarray, classes: np.ndarray, expected: np.ndarray, target: np.ndarray
) -> float:
    """The multiples of A that come nearest to what is expected of each cell; returns A·A over the known elements."""
    square = 0.0
    for e in range(abundance.size):
        if not math.isnan(abundance[e]):
            square += abundance[e] * abundance[e]
    for k in range(classes.size):
        if classes[k] == 0 or square == 0.0:
            target[k] = 1.0
            continue
        dot = 0.0
        for e in range(abundance.size):
            if not math.isnan(abundance[e]):
                dot += abundance[e] * expected[classes[k] - 1, e]
        target[k] = dot / square
    return square


@njit(nogil=True, cache=True)
def exact_weights(abundance: np.ndarray, classes: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Weights of the cells (footprint, cell) that minimise Loss(B) under mean(C) = A and C ≥ 0, in closed form.

    With C_i = A b_i the loss is |A|² Σ (b_i − t_i)² plus a constant, t_i = A·Ã_i / A·A; the constraints are Σ b_i = n
    and b_i ≥ 0. That is the projection of t on a simplex: Held, M., Wolfe, P., & Crowder, H. P. (1974). Validation of
    subgradient optimization. Math. Program. 6, 62-88.

    `abundance` (footprint, element) is not negative, and NaN for elements that are not known, over which neither loss
    nor constraint runs. `classes` (footprint, cell) are 1 mare, 2 highland, or 0 where nothing is expected (t is 1);
    `expected` (2, element) the mean abundances of mare and highland.
    """
    n, cells = classes.shape
    out = np.empty((n, cells))
    target, falling = np.empty(cells), np.empty(cells)
    for f in range(n):
        _targets(abundance[f], classes[f], expected, target)
        # Insertion sort: the cells are few.
        for k in range(cells):
            value, m = target[k], k
            while m > 0 and falling[m - 1] < value:
                falling[m] = falling[m - 1]
                m -= 1
            falling[m] = value
        total, shift = 0.0, 0.0
        for k in range(cells):
            total += falling[k]
            own = (total - cells) / (k + 1)
            if falling[k] - own <= 0.0:
                break
            shift = own
        for k in range(cells):
            out[f, k] = max(target[k] - shift, 0.0)
    return out


@njit(nogil=True, cache=True)
def contrasts(
    abundance: np.ndarray, classes: np.ndarray, contrast: np.ndarray, balanced: bool
) -> tuple[np.ndarray, np.ndarray]:
    """How cells differ from their footprint, for it holds both mare and highland: places and directions.

    A cell holds A + p D. Its place p, (footprint, cell), is 1 − f in mare, −f in highland and 0 where the class is not
    known, f being mare's share of the others, so that the mean over cells is A. The direction D, (footprint, element),
    is the `contrast` (element,) of mare to highland, of each element as far as no cell becomes negative; if `balanced`,
    and all elements are known, less of those of one sign, so that D sums to nothing.

    `abundance` (footprint, element), NaN where not known; `classes` (footprint, cell): 1 mare, 2 highland, or 0.
    """
    n, cells = classes.shape
    elements = abundance.shape[1]
    place, direction = np.zeros((n, cells)), np.zeros((n, elements))
    for f in range(n):
        mare, highland = 0, 0
        for k in range(cells):
            mare += classes[f, k] == 1
            highland += classes[f, k] == 2
        if mare == 0 or highland == 0:
            continue
        share = mare / (mare + highland)
        for k in range(cells):
            if classes[f, k] > 0:
                place[f, k] = 1.0 - share if classes[f, k] == 1 else -share
        up, down, known = 0.0, 0.0, True
        for e in range(elements):
            a, d = abundance[f, e], contrast[e]
            if math.isnan(a):
                known = False
                continue
            if d > 0.0:
                direction[f, e] = min(d, a / share)
                up += direction[f, e]
            else:
                direction[f, e] = -min(-d, a / (1.0 - share))
                down -= direction[f, e]
        if balanced and known:
            for e in range(elements):
                if direction[f, e] > 0.0 and up > down:
                    direction[f, e] *= down / up
                elif direction[f, e] < 0.0 and down > up:
                    direction[f, e] *= up / down
    return place, direction


@njit(nogil=True, cache=True)
def close(values: np.ndarray, std: np.ndarray, total: float) -> None:
    """Make rows (row, element) sum to a `total` where all is known, in place: values and their errors.

    What lacks goes to the elements by the squares of their errors, as it should where these are normal; where an error
    is not known, or something would become negative, in proportion to the values.
    """
    for r in range(values.shape[0]):
        found, square, plain = 0.0, 0.0, False
        for e in range(values.shape[1]):
            found += values[r, e]
            square += std[r, e] ** 2
            plain = plain or not std[r, e] > 0.0
        if math.isnan(found) or found <= 0.0:
            continue
        lack = total - found
        if not plain:
            for e in range(values.shape[1]):
                plain = plain or values[r, e] + lack * std[r, e] ** 2 / square < 0.0
        for e in range(values.shape[1]):
            if plain:
                values[r, e] *= total / found
            else:
                part = std[r, e] ** 2 / square
                values[r, e] += lack * part
                std[r, e] *= math.sqrt(max(1.0 - part, 0.0))


@njit(nogil=True, cache=True)
def lagrangian_weights(
    abundance: np.ndarray,
    classes: np.ndarray,
    expected: np.ndarray,
    epochs: int,
    lam: float,
    mu: float,
    rate: float,
) -> np.ndarray:
    """The same by the descent on the Lagrangian, as the paper has it (section IV.B, step 2: ∂L/∂B, ∂L/∂λ, ∂L/∂μ).

    From B = 1, all of B, λ and μ go down their gradients at a `rate` for some `epochs`, with sign(−B) where max(0, −B)
    has its derivative; the result meets the constraints only about. All λ begin with `lam`, all μ with `mu`.
    """
    n, cells = classes.shape
    elements = abundance.shape[1]
    out = np.empty((n, cells))
    b, new, multiplier, penalty = np.empty(cells), np.empty(cells), np.empty(elements), np.empty(cells)  # fmt: skip
    a, d = np.empty(elements), np.empty((elements, cells))
    for f in range(n):
        for e in range(elements):
            known = not math.isnan(abundance[f, e])
            a[e] = abundance[f, e] if known else 0.0
            multiplier[e] = lam
            for k in range(cells):
                own = expected[classes[f, k] - 1, e] if classes[f, k] > 0 else a[e]
                d[e, k] = own if known else 0.0
        b[:] = 1.0
        penalty[:] = mu
        for _ in range(epochs):
            total, common = 0.0, 0.0
            for k in range(cells):
                total += b[k]
            for e in range(elements):
                common += multiplier[e] * a[e]
            for k in range(cells):
                slope = common
                for e in range(elements):
                    slope += 2.0 * a[e] * (a[e] * b[k] - d[e, k])
                slope += penalty[k] * (-1.0 if b[k] > 0.0 else 1.0 if b[k] < 0.0 else 0.0)
                new[k] = b[k] - rate * slope
            for e in range(elements):
                multiplier[e] -= rate * a[e] * (total - cells)
            for k in range(cells):
                penalty[k] -= rate * max(0.0, -b[k])
                b[k] = new[k]
        out[f] = b
    return out


@njit(nogil=True, cache=True)
def sort_cells(pixel: np.ndarray) -> np.ndarray:
    """Cells that lie on the grid, sorted by pixel (-1 outside), those of a pixel in their order: indices into `pixel`.

    Radix sort: pixels are integers of few bits, and a comparison sort took half of the time of a population.
    """
    bits = 12
    inside, largest = 0, 0
    for k in range(pixel.size):
        if pixel[k] >= 0:
            inside += 1
            largest = max(largest, pixel[k])
    order, other = np.empty(inside, np.int64), np.empty(inside, np.int64)
    m = 0
    for k in range(pixel.size):
        if pixel[k] >= 0:
            order[m] = k
            m += 1
    shift = 0
    while largest >> shift > 0:
        begin = np.zeros((1 << bits) + 1, np.int64)
        for k in range(inside):
            begin[((pixel[order[k]] >> shift) & ((1 << bits) - 1)) + 1] += 1
        for k in range(1 << bits):
            begin[k + 1] += begin[k]
        for k in range(inside):
            digit = (pixel[order[k]] >> shift) & ((1 << bits) - 1)
            other[begin[digit]] = order[k]
            begin[digit] += 1
        order, other = other, order
        shift += bits
    return order


@njit(nogil=True, cache=True)
def _inverse_variances(abundance: np.ndarray, std: np.ndarray) -> np.ndarray:
    """1/σ² of each value, or −1 without an error, or 0 without a value: divisions once a footprint, not once a cell."""
    inverse = np.zeros(abundance.shape)
    for f in range(abundance.shape[0]):
        for e in range(abundance.shape[1]):
            if not math.isnan(abundance[f, e]):
                s = std[f, e]
                inverse[f, e] = 1.0 / (s * s) if s > 0.0 else -1.0
    return inverse


@njit(nogil=True, cache=True)
def _heaviest(
    hits: np.ndarray, cells: int, inverse: np.ndarray, bottom: np.ndarray, number: np.ndarray
) -> int:
    """The footprint of the largest share of the weight, averaged over elements; the first of equals."""
    heaviest, last, best = -1.0, -1, -1
    for hit in hits:
        f = hit // cells
        if f == last:
            continue
        last = f
        part = 0.0
        for e in range(bottom.size):
            w = inverse[f, e]
            if w > 0.0:
                part += w / bottom[e]
            elif w < 0.0 and bottom[e] == 0.0:
                part += 1.0 / number[e]
        if part > heaviest:
            heaviest, best = part, f
    return best


@njit(nogil=True, cache=True)
def combine_cells(
    pixel: np.ndarray,
    order: np.ndarray,
    weights: np.ndarray,
    abundance: np.ndarray,
    std: np.ndarray,
    direction: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean of the cells that fall on each pixel, weighted by the inverse variances of their footprints.

    Cells of one footprint on one pixel count as one measurement, with their mean. For each element, footprints with an
    error outweigh those without; where none has one all count alike and the error is NaN.

    `pixel` (footprint × cell,) is the pixel of each cell; `order` (entry,) the cells that take part, sorted by pixel,
    those of a pixel in the footprints' order; a cell holds A + (b − 1) D: `weights` (footprint, cell) are b,
    `abundance` and `std` (footprint, element) A and its error, NaN where not known, `direction` (footprint, element) D,
    which in the paper is A itself. Gives the pixels that are hit, rising, (m,); mean and error (m, element) float32;
    the number of footprints, and the one that weighs most (m,).
    """
    cells, elements = weights.shape[1], abundance.shape[1]
    m = 0
    for k in range(order.size):
        if k == 0 or pixel[order[k]] != pixel[order[k - 1]]:
            m += 1
    pixels, count, best = np.empty(m, np.int64), np.zeros(m, np.uint16), np.full(m, -1, np.int32)
    mean, error = np.full((m, elements), np.nan, np.float32), np.full((m, elements), np.nan, np.float32)  # fmt: skip
    inverse = _inverse_variances(abundance, std)
    top, bottom = np.empty(elements), np.empty(elements)
    plain, number = np.empty(elements), np.empty(elements)
    begin = 0
    for p in range(m):
        own = pixel[order[begin]]
        pixels[p] = own
        first = order[begin] // cells
        if begin + 1 == order.size or pixel[order[begin + 1]] != own:
            # One cell alone, which is the common case.
            share = weights[first, order[begin] % cells]
            count[p], best[p] = 1, first
            for e in range(elements):
                if inverse[first, e] != 0.0:
                    mean[p, e] = abundance[first, e] + (share - 1.0) * direction[first, e]
                    if inverse[first, e] > 0.0:
                        error[p, e] = std[first, e]
            begin += 1
            continue
        end = begin
        top[:] = 0.0
        bottom[:] = 0.0
        plain[:] = 0.0
        number[:] = 0.0
        hits = 0
        while end < order.size and pixel[order[end]] == own:
            f = order[end] // cells
            share, several = 0.0, 0
            while end < order.size and pixel[order[end]] == own and order[end] // cells == f:
                share += weights[f, order[end] % cells]
                several += 1
                end += 1
            share /= several
            hits += 1
            for e in range(elements):
                w = inverse[f, e]
                if w != 0.0:
                    value = abundance[f, e] + (share - 1.0) * direction[f, e]
                if w > 0.0:
                    top[e] += w * value
                    bottom[e] += w
                elif w < 0.0:
                    plain[e] += value
                    number[e] += 1.0
        count[p] = min(hits, 65535)
        for e in range(elements):
            if bottom[e] > 0.0:
                mean[p, e] = top[e] / bottom[e]
                error[p, e] = math.sqrt(1.0 / bottom[e])
            elif number[e] > 0.0:
                mean[p, e] = plain[e] / number[e]
        best[p] = _heaviest(order[begin:end], cells, inverse, bottom, number)
        begin = end
    return pixels, mean, error, count, best
