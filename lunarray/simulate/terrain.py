"""Kernels of simulated ground: relief, shadows, photometry and noise of a window of an endless plane.

Every value depends on the pixel's row and column on the plane and the seed only, and is summed in an order that no
window changes: two windows that overlap agree to the last bit. Places are in pixels, heights in units of the pixel.
"""

from __future__ import annotations

import math

import numpy as np

from lunarray.engine.compiling import njit

#: Columns of a table of line segments: column, row and half-width of one end and of the other, depth (or height) over
#: width, profile (0 V-shaped, 1 U-shaped, 2 worn to a soft bowl, 3 filled to a flat floor), class.
SEGMENT_COLUMNS = 9
#: A crater's rim and ejecta end at this many radii.
CRATER_REACH = 2.5
_RIM = 0.2


@njit(nogil=True, cache=True)
def hash_uniform(seed: int, row: int, column: int) -> float:  # pragma: no cover - compiled
    """Uniform number in (0, 1) that depends on the arguments only (splitmix64)."""
    z = (
        np.uint64(row) * np.uint64(0x9E3779B97F4A7C15)
        + np.uint64(column) * np.uint64(0xD1B54A32D192ED03)
        + np.uint64(seed) * np.uint64(0x8CB92BA72F3D8DD7)
    )
    for _ in range(2):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (float(z >> np.uint64(11)) + 0.5) * 2.0**-53


@njit(nogil=True, cache=True)
def _fade(t: float) -> float:  # pragma: no cover - compiled
    return t * t * t * (t * (6.0 * t - 15.0) + 10.0)


@njit(nogil=True, cache=True)
def _turn(seed: int) -> tuple[float, float]:  # pragma: no cover - compiled
    """Cosine and sine of an octave's angle: lattices that lie askew show no common grid."""
    angle = 2.0 * math.pi * hash_uniform(seed, -1, -1)
    return math.cos(angle), math.sin(angle)


@njit(nogil=True, cache=True)
def gradient_noise(
    seed: int, rows: np.ndarray, columns: np.ndarray, wavelength: float
) -> np.ndarray:  # pragma: no cover - compiled
    """Gradient noise (Perlin 1985) at points, about -0.7 to 0.7.

    `seed`: of the lattice's gradients and angle; `rows`, `columns` (point,): places; `wavelength`: spacing of the
    lattice, pixels. Returns (point,) float64.
    """
    out = np.empty(rows.size)
    c, s = _turn(seed)
    for n in range(rows.size):
        u = (c * columns[n] + s * rows[n]) / wavelength
        v = (c * rows[n] - s * columns[n]) / wavelength
        i, j = math.floor(v), math.floor(u)
        fv, fu = v - i, u - j
        total = 0.0
        for di in range(2):
            wv = _fade(fv) if di else 1.0 - _fade(fv)
            for dj in range(2):
                angle = 2.0 * math.pi * hash_uniform(seed, i + di, j + dj)
                slope = math.cos(angle) * (fu - dj) + math.sin(angle) * (fv - di)
                total += wv * (_fade(fu) if dj else 1.0 - _fade(fu)) * slope
        out[n] = total
    return out


@njit(nogil=True, cache=True)
def add_noise(
    out: np.ndarray,
    row0: int,
    column0: int,
    seed: int,
    wavelength: float,
    amplitude: float,
    weight: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Add one octave of gradient noise to a window.

    `out` (y, x) float32: changed in place; `row0`, `column0`: where the window lies on the plane; `seed`: of the
    octave; `wavelength`, `amplitude`: of the octave; pixels, and the unit of `out`; `weight` (y, x) or (0, 0) float32:
    factor of each pixel; one everywhere if empty.
    """
    height, width = out.shape
    weighted = weight.shape[0] > 0
    c, s = _turn(seed)
    g = np.empty((2, 2, 2))
    last_i, last_j = -(2**62), -(2**62)
    for y in range(height):
        for x in range(width):
            u = (c * (column0 + x) + s * (row0 + y)) / wavelength
            v = (c * (row0 + y) - s * (column0 + x)) / wavelength
            i, j = math.floor(v), math.floor(u)
            if i != last_i or j != last_j:
                # The four gradients hold for a whole cell of the lattice.
                for di in range(2):
                    for dj in range(2):
                        angle = 2.0 * math.pi * hash_uniform(seed, i + di, j + dj)
                        g[di, dj, 0], g[di, dj, 1] = math.cos(angle), math.sin(angle)
                last_i, last_j = i, j
            fu, fv = u - j, v - i
            wu, wv = _fade(fu), _fade(fv)
            top = (1.0 - wu) * (g[0, 0, 0] * fu + g[0, 0, 1] * fv)
            top += wu * (g[0, 1, 0] * (fu - 1.0) + g[0, 1, 1] * fv)
            low = (1.0 - wu) * (g[1, 0, 0] * fu + g[1, 0, 1] * (fv - 1.0))
            low += wu * (g[1, 1, 0] * (fu - 1.0) + g[1, 1, 1] * (fv - 1.0))
            value = amplitude * ((1.0 - wv) * top + wv * low)
            if weighted:
                value *= weight[y, x]
            out[y, x] += np.float32(value)


@njit(nogil=True, cache=True)
def add_craters(
    height: np.ndarray, albedo: np.ndarray, row0: int, column0: int, craters: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Add craters to the heights of a window, and their fresh ejecta to its albedo.

    Inside a paraboloid, the softer the shallower; outside a rim that falls off as the cube of the distance (McGetchin
    et al. 1973, Earth Planet. Sci. Lett. 20, 226), is nothing at 2.5 radii, and is worn down first.

    `height`, `albedo` (y, x) float32: changed in place; albedo is a factor; `row0`, `column0`: where the window lies on
    the plane; `craters` (crater, 4) float64: column, row, radius, depth over diameter (0.2 is fresh).
    """
    rows, columns = height.shape
    floor = CRATER_REACH**-3
    for n in range(craters.shape[0]):
        cx, cy, radius, ratio = craters[n, 0], craters[n, 1], craters[n, 2], craters[n, 3]
        depth = 2.0 * radius * ratio
        fresh = min(ratio / 0.2, 1.0)
        rim = _RIM * depth * fresh
        reach = CRATER_REACH * radius
        y0 = max(math.ceil(cy - reach) - row0, 0)
        y1 = min(math.floor(cy + reach) - row0, rows - 1)
        x0 = max(math.ceil(cx - reach) - column0, 0)
        x1 = min(math.floor(cx + reach) - column0, columns - 1)
        for y in range(y0, y1 + 1):
            dy = (row0 + y - cy) / radius
            for x in range(x0, x1 + 1):
                dx = (column0 + x - cx) / radius
                r2 = dx * dx + dy * dy
                if r2 < 1.0:
                    height[y, x] += np.float32(
                        rim - depth * (1.0 - r2) * (1.0 - (1.0 - fresh) * r2)
                    )
                    albedo[y, x] *= np.float32(1.0 + ratio)
                elif r2 < CRATER_REACH * CRATER_REACH:
                    fall = (r2**-1.5 - floor) / (1.0 - floor)
                    height[y, x] += np.float32(rim * fall)
                    albedo[y, x] *= np.float32(1.0 + ratio * fall)


@njit(nogil=True, cache=True)
def add_boulders(
    height: np.ndarray, albedo: np.ndarray, row0: int, column0: int, boulders: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Put boulders, upper halves of ellipsoids, on a window.

    `height`, `albedo` (y, x) float32: changed in place; albedo is a factor; `row0`, `column0`: where the window lies on
    the plane; `boulders` (boulder, 4) float64: column, row, radius, height over radius.
    """
    rows, columns = height.shape
    for n in range(boulders.shape[0]):
        cx, cy, radius, ratio = boulders[n, 0], boulders[n, 1], boulders[n, 2], boulders[n, 3]
        y0 = max(math.ceil(cy - radius) - row0, 0)
        y1 = min(math.floor(cy + radius) - row0, rows - 1)
        x0 = max(math.ceil(cx - radius) - column0, 0)
        x1 = min(math.floor(cx + radius) - column0, columns - 1)
        for y in range(y0, y1 + 1):
            dy = (row0 + y - cy) / radius
            for x in range(x0, x1 + 1):
                dx = (column0 + x - cx) / radius
                r2 = dx * dx + dy * dy
                if r2 < 1.0:
                    height[y, x] += np.float32(ratio * radius * math.sqrt(1.0 - r2))
                    albedo[y, x] *= np.float32(1.15)


@njit(nogil=True, cache=True)
def _profile(t: float, kind: float) -> float:  # pragma: no cover - compiled
    """Depth over greatest depth at a distance from the middle of t half-widths."""
    if kind < 0.5:
        return 1.0 - t
    if kind > 1.5 and kind < 2.5:
        return 0.5 + 0.5 * math.cos(math.pi * t)
    floor = 0.45 if kind < 1.5 else 0.65
    if t < floor:
        return 1.0
    s = (1.0 - t) / (1.0 - floor)
    return s * s * (3.0 - 2.0 * s)


@njit(nogil=True, cache=True)
def trace_segments(
    relief: np.ndarray, label: np.ndarray, row0: int, column0: int, segments: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Greatest depth (or height) of crossing segments in each pixel of a window, and the class of the widest.

    A pixel belongs to a segment where its centre is closer to the segment than the half-width at the foot of the
    perpendicular (at the nearer end, beyond the ends).

    `relief` (y, x) float32: changed in place to the greater of what it was and the segments' relief; `label` (y, x)
    uint8: changed in place to the greater of what it was and the class of the segments that cover the pixel; `row0`,
    `column0`: where the window lies on the plane; `segments` (segment, 9) float64: as :data:`SEGMENT_COLUMNS` says.
    """
    rows, columns = relief.shape
    for n in range(segments.shape[0]):
        ax, ay, aw = segments[n, 0], segments[n, 1], segments[n, 2]
        bx, by, bw = segments[n, 3], segments[n, 4], segments[n, 5]
        ratio, kind, value = segments[n, 6], segments[n, 7], np.uint8(segments[n, 8])
        reach = max(aw, bw)
        y0 = max(math.ceil(min(ay, by) - reach) - row0, 0)
        y1 = min(math.floor(max(ay, by) + reach) - row0, rows - 1)
        x0 = max(math.ceil(min(ax, bx) - reach) - column0, 0)
        x1 = min(math.floor(max(ax, bx) + reach) - column0, columns - 1)
        ux, uy = bx - ax, by - ay
        length2 = ux * ux + uy * uy
        for y in range(y0, y1 + 1):
            py = row0 + y - ay
            for x in range(x0, x1 + 1):
                px = column0 + x - ax
                s = 0.0
                if length2 > 0.0:
                    s = min(max((px * ux + py * uy) / length2, 0.0), 1.0)
                dx, dy = px - s * ux, py - s * uy
                half = aw + s * (bw - aw)
                d2 = dx * dx + dy * dy
                if d2 < half * half:
                    depth = np.float32(ratio * 2.0 * half * _profile(math.sqrt(d2) / half, kind))
                    if depth > relief[y, x]:
                        relief[y, x] = depth
                    if value > label[y, x]:
                        label[y, x] = value


@njit(nogil=True, cache=True)
def add_scarps(
    height: np.ndarray, row0: int, column0: int, scarps: np.ndarray
) -> None:  # pragma: no cover - compiled
    """Add one-sided steps to the heights of a window: a steep front, and a back that sinks slowly to the plain.

    A pixel takes the height of the scarp whose line is nearest, so that a bend leaves no seam; segments of one scarp
    follow each other and have its number.

    `height` (y, x) float32: changed in place; `row0`, `column0`: where the window lies on the plane; `scarps` (segment,
    8) float64: column and row of both ends, width of the front, height over that width, length of the back over it,
    number of the scarp. The front lies to the right of the way from the first end to the second.
    """
    rows, columns = height.shape
    nearest = np.empty((rows, columns), np.float32)
    value = np.empty((rows, columns), np.float32)
    first = 0
    while first < scarps.shape[0]:
        last = first
        while last < scarps.shape[0] and scarps[last, 7] == scarps[first, 7]:
            last += 1
        width, ratio, back = scarps[first, 4], scarps[first, 5], scarps[first, 6]
        reach = width * max(back, 1.0)
        xs, ys = scarps[first:last, 0:3:2], scarps[first:last, 1:4:2]
        y0 = max(math.ceil(ys.min() - reach) - row0, 0)
        y1 = min(math.floor(ys.max() + reach) - row0, rows - 1)
        x0 = max(math.ceil(xs.min() - reach) - column0, 0)
        x1 = min(math.floor(xs.max() + reach) - column0, columns - 1)
        if y1 >= y0 and x1 >= x0:
            nearest[y0 : y1 + 1, x0 : x1 + 1] = reach
            value[y0 : y1 + 1, x0 : x1 + 1] = 0.0
        length = last - first
        for n in range(first, last):
            ax, ay, bx, by = scarps[n, 0], scarps[n, 1], scarps[n, 2], scarps[n, 3]
            ux, uy = bx - ax, by - ay
            size = math.hypot(ux, uy)
            v0 = max(math.ceil(min(ay, by) - reach) - row0, 0)
            v1 = min(math.floor(max(ay, by) + reach) - row0, rows - 1)
            u0 = max(math.ceil(min(ax, bx) - reach) - column0, 0)
            u1 = min(math.floor(max(ax, bx) + reach) - column0, columns - 1)
            for y in range(v0, v1 + 1):
                py = row0 + y - ay
                for x in range(u0, u1 + 1):
                    px = column0 + x - ax
                    s = min(max((px * ux + py * uy) / (size * size), 0.0), 1.0)
                    d = math.hypot(px - s * ux, py - s * uy)
                    if d >= nearest[y, x]:
                        continue
                    nearest[y, x] = d
                    # Towards both ends the step dies out.
                    along = (n - first + s) / length
                    end = min(min(along, 1.0 - along) * 5.0, 1.0)
                    side = (px * uy - py * ux) / size
                    t = 0.0
                    if side < 0.0:
                        if d < width:
                            t = 1.0 - d / width
                            t = t * t * (3.0 - 2.0 * t)
                    else:
                        t = (1.0 - d / reach) * (1.0 - d / reach)
                    value[y, x] = ratio * width * t * end
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                height[y, x] += value[y, x]
        first = last


@njit(nogil=True, cache=True)
def _shadow_rays(
    height: np.ndarray,
    major0: int,
    minor0: int,
    sign: int,
    slope: float,
    descent: float,
    window: int,
) -> np.ndarray:  # pragma: no cover - compiled
    """Lit share of pixels; the first axis is the one along which the sun's azimuth advances faster."""
    majors, minors = height.shape
    lit = np.ones((majors, minors), np.float32)
    first_shift = math.floor(major0 * slope + 0.5)
    last_shift = math.floor((major0 + majors - 1) * slope + 0.5)
    low = minor0 - max(first_shift, last_shift)
    high = minor0 + minors - 1 - min(first_shift, last_shift)
    queue_at = np.empty(majors, np.int64)
    queue_value = np.empty(majors)
    for ray in range(low, high + 1):
        head, tail = 0, 0
        for step in range(majors):
            # From the sun's side to the other.
            m = majors - 1 - step if sign > 0 else step
            at = major0 + m
            x = ray + math.floor(at * slope + 0.5) - minor0
            if x < 0 or x >= minors:
                continue
            # Distances along the ray by the place on the plane: rounded alike in every window.
            along = -sign * at
            value = height[m, x] + descent * along
            while head < tail and along - queue_at[head] > window:
                head += 1
            if head < tail and queue_value[head] > value:
                lit[m, x] = np.float32(1.0 - min((queue_value[head] - value) / descent, 1.0))
            while head < tail and queue_value[tail - 1] <= value:
                tail -= 1
            queue_at[tail] = along
            queue_value[tail] = value
            tail += 1
    return lit


def lit_share(
    height: np.ndarray, row0: int, column0: int, incidence: float, azimuth: float, window: int
) -> np.ndarray:
    """Share of each pixel that the sun reaches past the ground between them.

    Rays follow the nearest pixels towards the sun; the highest ground within `window` steps counts, found in one pass
    by a queue of falling values.

    `height` (y, x) float32: in pixels; `row0`, `column0`: where the window lies on the plane; `incidence`, `azimuth`:
    of the sun, degrees; azimuth towards the sun, clockwise from the top of the image; `window`: steps (pixels along the
    faster axis) over which ground can cast a shadow. Pixels closer to the sunward edges miss what lies beyond. Returns
    (y, x) float32: between 0 and 1.
    """
    east, south = math.sin(math.radians(azimuth)), -math.cos(math.radians(azimuth))
    if incidence <= 0:
        return np.ones(height.shape, np.float32)
    swap = abs(east) > abs(south)
    major, minor = (east, south) if swap else (south, east)
    slope = minor / major
    descent = math.hypot(1.0, slope) / math.tan(math.radians(incidence))
    ground = np.ascontiguousarray(height.T) if swap else height
    lit = _shadow_rays(
        ground,
        column0 if swap else row0,
        row0 if swap else column0,
        1 if major > 0 else -1,
        slope,
        descent,
        window,
    )
    return np.ascontiguousarray(lit.T) if swap else lit


@njit(nogil=True, cache=True)
def shade(
    height: np.ndarray,
    albedo: np.ndarray,
    lit: np.ndarray,
    sun: np.ndarray,
    share: float,
    ambient: float,
    single: float = 0.0,
    phase: float = 1.0,
) -> np.ndarray:  # pragma: no cover - compiled
    """Radiance factor by the Lunar-Lambert law, or by one like Hapke's, seen from straight above.

    `height` (y, x) float32: in pixels; `albedo`, `lit` (y, x) float32: normal albedo; share of the pixel that the sun
    reaches; `sun` (3,) float64: unit vector to the sun: right, down, up; `share`: share of Lommel-Seeliger in the law;
    `ambient`: light from lit ground around, as a share of level ground's; `single`, `phase`: single-scattering albedo
    of level ground's mean, and the phase function times the opposition surge, which are the same all over an image:
    where `single` is not 0, Hapke's law takes the place of the other, scaled so that the mean albedo means the same.
    Returns (y, x) float32: edge pixels take the slope of their one neighbour.

    References: McEwen (1991), Icarus 92, 298, equation 1: I/F = A (2 L mu0 / (mu0 + mu) + (1 - L) mu0). Hapke (1981),
    J. Geophys. Res. 86, 3039, equation 16: w/4 mu0/(mu0 + mu) (P (1 + B) + H(mu0) H(mu) - 1), H(x) = (1 + 2x) / (1 +
    2x sqrt(1 - w)).
    """
    rows, columns = height.shape
    out = np.empty((rows, columns), np.float32)
    level = 2.0 * share * sun[2] / (sun[2] + 1.0) + (1.0 - share) * sun[2]
    gamma = math.sqrt(1.0 - single)
    hapke = single > 0.0
    if hapke:
        high = 3.0 / (1.0 + 2.0 * gamma) * (1.0 + 2.0 * sun[2]) / (1.0 + 2.0 * gamma * sun[2])
        unit = level / (sun[2] / (1.0 + sun[2]) * (phase + high - 1.0))
    for y in range(rows):
        up, down = max(y - 1, 0), min(y + 1, rows - 1)
        for x in range(columns):
            left, right = max(x - 1, 0), min(x + 1, columns - 1)
            gx = (height[y, right] - height[y, left]) / max(right - left, 1)
            gy = (height[down, x] - height[up, x]) / max(down - up, 1)
            mu = 1.0 / math.sqrt(1.0 + gx * gx + gy * gy)
            mu0 = (sun[2] - gx * sun[0] - gy * sun[1]) * mu
            direct = 0.0
            if mu0 > 0.0:
                if hapke:
                    many = (1.0 + 2.0 * mu0) / (1.0 + 2.0 * gamma * mu0)
                    many *= (1.0 + 2.0 * mu) / (1.0 + 2.0 * gamma * mu)
                    direct = unit * mu0 / (mu0 + mu) * (phase + many - 1.0)
                else:
                    direct = 2.0 * share * mu0 / (mu0 + mu) + (1.0 - share) * mu0
            out[y, x] = np.float32(albedo[y, x] * (direct * lit[y, x] + ambient * level))
    return out


@njit(nogil=True, cache=True)
def add_sensor_noise(
    image: np.ndarray, row0: int, column0: int, seed: int, read: float, shot: float
) -> None:  # pragma: no cover - compiled
    """Add Gaussian noise of variance read² + shot² · signal to a window.

    `image` (y, x) float32: radiance factor, changed in place; `row0`, `column0`: where the window lies on the plane;
    `seed`: of the noise; `read`, `shot`: standard deviation of the dark, and of the signal at radiance factor 1.
    """
    rows, columns = image.shape
    for y in range(rows):
        for x in range(columns):
            a = hash_uniform(seed, row0 + y, column0 + x)
            b = hash_uniform(seed + 1, row0 + y, column0 + x)
            normal = math.sqrt(-2.0 * math.log(a)) * math.cos(2.0 * math.pi * b)
            sigma = math.sqrt(read * read + shot * shot * max(image[y, x], 0.0))
            image[y, x] += np.float32(sigma * normal)
