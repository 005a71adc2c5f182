"""X-rays in a bed of grains: how much of a line leaves it, beside a smooth surface of the same stuff.

Rays are traced through spheres of one size, packed at random, that fill half-space as a box repeated sideways and down;
those whose centre would be above the surface are not there. A photon comes in, is absorbed after a length of grain
that is exponentially distributed, and what it excites leaves towards the detector through what grain is in its way.
Everything is in units of the radius of a grain, so that a table over the attenuation of one radius, in and out, over
incidence and over packing serves all lines, compositions and sizes.
"""

from __future__ import annotations

import numpy as np

from lunarray.engine.compiling import njit
from lunarray.errors import require_number

#: Sides of the box, and of the cells by which spheres near a ray are found (radii).
_SIDE, _CELL = 24.0, 2.0
_CELLS = int(_SIDE / _CELL)
#: Lengths in grain at which photons are absorbed: so many strata between these, on a logarithmic scale.
_SHORTEST, _LONGEST, _STRATA = 1e-4, 200.0, 64
#: The detector stands so far from the zenith (degrees), across the plane of incidence: a ray that went straight up
#: would see the same column in each repetition of the box.
_EMISSION = 6.0


def packed_grains(packing: float, seed: int = 0) -> np.ndarray:
    """Centres of spheres of radius 1 that do not overlap, in a box that repeats.

    Parameters
    ----------
    packing : float
        Share of the volume in grains, to 0.36: beyond that spheres put down one by one find no place.
    seed : int
        Another number, another bed.

    Returns
    -------
    ndarray (grain, 3) float64
        Between 0 and 24 radii.

    Raises
    ------
    InputError
        For a packing that cannot be made.

    Examples
    --------
    >>> from lunarray.simulate.regolith import packed_grains
    >>> len(packed_grains(0.2)) * 4 / 3 * 3.14159 / 24**3
    0.19998...
    """
    require_number("packing", packing, 0.01, 0.36)
    count = round(packing * _SIDE**3 / (4 / 3 * np.pi))
    rng = np.random.default_rng((seed, count))
    centres = np.empty((count, 3))
    placed = 0
    while placed < count:
        placed = _place(centres, placed, rng.uniform(0, _SIDE, (20_000, 3)))
    return centres


@njit(nogil=True, cache=True, error_model="numpy")
def _place(centres, placed, tries):
    for k in range(len(tries)):
        if placed == len(centres):
            break
        free = True
        for j in range(placed):
            near = 0.0
            for axis in range(3):
                d = abs(tries[k, axis] - centres[j, axis])
                d = min(d, _SIDE - d)
                near += d * d
            if near < 4.0:
                free = False
                break
        if free:
            centres[placed] = tries[k]
            placed += 1
    return placed


@njit(nogil=True, cache=True, error_model="numpy")
def _listed(centres):
    """Spheres by cell, of the cell and its neighbours: where those of each begin, and which they are."""
    first = np.zeros(_CELLS**3 + 1, np.int64)
    members = np.empty(27 * len(centres), np.int64)
    for turn in range(2):
        place = first.copy()
        for s in range(len(centres)):
            x, y, z = int(centres[s, 0] // _CELL), int(centres[s, 1] // _CELL), int(centres[s, 2] // _CELL)  # fmt: skip
            for n in range(27):
                i, j, k = x + n // 9 - 1, y + n // 3 % 3 - 1, z + n % 3 - 1
                c = (i % _CELLS * _CELLS + j % _CELLS) * _CELLS + k % _CELLS
                if turn == 0:
                    first[c + 1] += 1
                else:
                    members[place[c]] = s
                    place[c] += 1
        if turn == 0:
            for c in range(_CELLS**3):
                first[c + 1] += first[c]
    return first, members


@njit(nogil=True, cache=True, error_model="numpy")
def _chords(centres, first, members, origin, way, until, out):
    """Pieces of a ray in grain, between 0 and `until`; how many there are. `out` (piece, 2): where they begin and end.

    Depth, the last coordinate, is 0 at the surface and rises downward. Each sphere is met once, in the step in which
    the ray is nearest to its centre.
    """
    count = 0
    t = -1.0
    while t < until + 1.0 and count < len(out):
        x, y, z = origin[0] + t * way[0], origin[1] + t * way[1], origin[2] + t * way[2]
        i = int(np.floor((x + 0.5 * way[0]) / _CELL)) % _CELLS
        j = int(np.floor((y + 0.5 * way[1]) / _CELL)) % _CELLS
        k = int(np.floor((z + 0.5 * way[2]) / _CELL)) % _CELLS
        c = (i * _CELLS + j) * _CELLS + k
        for m in range(first[c], first[c + 1]):
            s = members[m]
            dx, dy, dz = centres[s, 0] - x, centres[s, 1] - y, centres[s, 2] - z
            dx -= _SIDE * np.rint(dx / _SIDE)
            dy -= _SIDE * np.rint(dy / _SIDE)
            dz -= _SIDE * np.rint(dz / _SIDE)
            if z + dz < 0.0:
                continue
            along = dx * way[0] + dy * way[1] + dz * way[2]
            if along < 0.0 or along >= 1.0:
                continue
            half = 1.0 - (dx * dx + dy * dy + dz * dz - along * along)
            if half <= 0.0:
                continue
            half = np.sqrt(half)
            begin, end = max(t + along - half, 0.0), min(t + along + half, until)
            if end > begin:
                out[count, 0], out[count, 1] = begin, end
                count += 1
                if count == len(out):
                    break
        t += 1.0
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def _escape(
    centres, first, members, packing, sun, detector, places, strata, inward, outward, total
):
    """Add up what leaves the bed, over incoming rays and the lengths in grain at which they are absorbed.

    `sun`, `detector` (3,): ways of the rays, in and out; `places` (ray, 2): where they enter; `strata` (ray, stratum):
    lengths in grain; `inward`, `outward` (attenuation,): per radius; `total` (inward, outward): sums over the rays.
    """
    path, way_out = np.empty((8192, 2)), np.empty((8192, 2))
    origin, point = np.zeros(3), np.zeros(3)
    width = np.log(_LONGEST / _SHORTEST) / strata.shape[1]
    far = 1.6 * _LONGEST / packing + 20.0
    for ray in range(len(places)):
        origin[0], origin[1], origin[2] = places[ray, 0], places[ray, 1], -1.0
        count = _chords(centres, first, members, origin, sun, far, path)
        order = np.argsort(path[:count, 0])
        piece, before = 0, 0.0
        for n in range(strata.shape[1]):
            length = strata[ray, n]
            while piece < count and before + path[order[piece], 1] - path[order[piece], 0] < length:
                before += path[order[piece], 1] - path[order[piece], 0]
                piece += 1
            if piece == count:
                break
            t = path[order[piece], 0] + length - before
            for axis in range(3):
                point[axis] = origin[axis] + t * sun[axis]
            until = max((point[2] + 1.0) / -detector[2], 0.0)
            found = _chords(centres, first, members, point, detector, until, way_out)
            left = 0.0
            for m in range(found):
                left += way_out[m, 1] - way_out[m, 0]
            for a in range(len(inward)):
                share = inward[a] * np.exp(-inward[a] * length) * length * width
                if share > 1e-12:
                    for b in range(len(outward)):
                        total[a, b] += share * np.exp(-outward[b] * left)


def escaping_share(
    inward: np.ndarray,
    outward: np.ndarray,
    incidence: float,
    packing: float,
    *,
    emission: float = _EMISSION,
    rays: int = 2000,
    beds: int = 2,
    seed: int = 0,
) -> np.ndarray:
    """How much of a line leaves a bed of grains, beside a smooth surface of the same stuff.

    Parameters
    ----------
    inward, outward : array_like (in,), (out,)
        Attenuation over the radius of a grain, μ ρ r, of what comes in and of the line; above 0.05.
    incidence : float
        Of the Sun, degrees.
    packing : float
        Share of the volume in grains, to 0.36.
    emission : float
        Of the detector, degrees, across the plane of incidence.
    rays, beds : int
        Incoming rays for each bed, and beds; the error falls as the root of both.
    seed : int
        Of beds and rays.

    Returns
    -------
    ndarray (in, out) float64
        1 for grains much finer than what either radiation passes through, and for a Sun right behind the detector; less
        where grains shade what they excite in one another.

    Examples
    --------
    >>> from lunarray.simulate.regolith import escaping_share
    >>> coarse = escaping_share([10.0], [10.0], 60.0, 0.3, rays=300, beds=1)
    >>> bool(0.3 < coarse[0, 0] < 0.9)
    True
    """
    inward, outward = (np.ascontiguousarray(a, np.float64) for a in (inward, outward))
    i, e = np.deg2rad([incidence, emission])
    sun = np.array([np.sin(i), 0.0, np.cos(i)])
    detector = np.array([0.0, np.sin(e), -np.cos(e)])
    total = np.zeros((inward.size, outward.size))
    for bed in range(beds):
        rng = np.random.default_rng((seed, bed))
        turn = rng.uniform(0, 2 * np.pi)
        turned = [
            np.array([v[0] * np.cos(turn) - v[1] * np.sin(turn), v[0] * np.sin(turn) + v[1] * np.cos(turn), v[2]])
            for v in (sun, detector)
        ]  # fmt: skip
        centres = packed_grains(packing, seed * 1000 + bed)
        first, members = _listed(centres)
        places = rng.uniform(0, _SIDE, (rays, 2))
        stratum = (np.arange(_STRATA) + rng.random((rays, _STRATA))) / _STRATA
        strata = _SHORTEST * (_LONGEST / _SHORTEST) ** stratum
        _escape(centres, first, members, packing, *turned, places, strata, inward, outward, total)
    # What is absorbed before the shortest length leaves as it would at once.
    smooth = inward[:, None] / (inward[:, None] + outward[None, :] * np.cos(i) / np.cos(e))
    return (total / (rays * beds) + 1 - np.exp(-inward[:, None] * _SHORTEST)) / smooth
