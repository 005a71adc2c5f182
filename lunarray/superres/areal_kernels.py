"""Covariances between means over footprints, and between footprints and pixels: what a change of support needs.

A footprint is a lattice of points, which stands for the area: fine where another footprint or pixel is near, coarse
where it is far. Distances are chords through the Moon, under which a Matérn covariance is one on the sphere; neither
±180° nor a pole is anything special.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from lunarray.geo import RADIUS, unit_vectors

#: Points of a footprint: along and across, fine and coarse.
FINE, COARSE = (16, 3), (6, 1)
#: Beyond so many lengths over √3 a Matérn covariance of order 3/2 is less than 2e-5 and counts as nothing.
_NOTHING = 14.0
#: Footprints are far from what is so many times their own length away.
_FAR = 1.5


def lattice(
    corner_lat: np.ndarray, corner_lon: np.ndarray, counts: tuple[int, int] = FINE
) -> np.ndarray:
    """Points of footprints, (footprint, along × across, 3) float64, km from the centre of the Moon.

    Corners (footprint, 4) are in order around each, degrees; `counts` are points along the longer and the shorter side.
    """
    v = unit_vectors(np.asarray(corner_lon, np.float64), np.asarray(corner_lat, np.float64))
    first = np.linalg.norm(v[:, 1] - v[:, 0], axis=1) + np.linalg.norm(v[:, 2] - v[:, 3], axis=1)
    second = np.linalg.norm(v[:, 2] - v[:, 1], axis=1) + np.linalg.norm(v[:, 3] - v[:, 0], axis=1)
    # The first side is the longer one after a turn by one corner.
    v = np.where((second > first)[:, None, None], np.roll(v, -1, axis=1), v)
    a, b = ((np.arange(n) + 0.5) / n for n in counts)
    a, b = (w.ravel() for w in np.meshgrid(a, b, indexing="ij"))
    weights = np.stack([(1 - a) * (1 - b), a * (1 - b), a * b, (1 - a) * b])
    points = np.einsum("kp,nkd->npd", weights, v)
    return points * (RADIUS / 1e3 / np.linalg.norm(points, axis=2, keepdims=True))


def places(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Points of pixels, (pixel, 3) float64, km from the centre of the Moon, of degrees."""
    return unit_vectors(np.asarray(lon, np.float64), np.asarray(lat, np.float64)) * (RADIUS / 1e3)


@numba.njit(cache=True, nogil=True)
def _between(a: np.ndarray, b: np.ndarray, scale: float) -> float:
    """Mean Matérn covariance of order 3/2 over all pairs of two sets of points (point, 3)."""
    total = 0.0
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            x, y, z = a[i, 0] - b[j, 0], a[i, 1] - b[j, 1], a[i, 2] - b[j, 2]
            s = scale * math.sqrt(x * x + y * y + z * z)
            total += (1.0 + s) * math.exp(-s)
    return total / (a.shape[0] * b.shape[0])


@numba.njit(cache=True, nogil=True)
def _grams(
    fine: np.ndarray,
    coarse: np.ndarray,
    other_fine: np.ndarray,
    other_coarse: np.ndarray,
    lengths: np.ndarray,
    same: bool,
    out: np.ndarray,
) -> None:
    count, others = fine.shape[0], other_fine.shape[0]
    for i in range(count):
        size = 0.0
        for k in range(3):
            size += (coarse[i, 0, k] - coarse[i, -1, k]) ** 2
        size = math.sqrt(size)
        for j in range(i if same else 0, others):
            gap = 0.0
            for k in range(3):
                here = there = 0.0
                for p in range(coarse.shape[1]):
                    here += coarse[i, p, k]
                for p in range(other_coarse.shape[1]):
                    there += other_coarse[j, p, k]
                gap += (here / coarse.shape[1] - there / other_coarse.shape[1]) ** 2
            gap = math.sqrt(gap)
            for q in range(lengths.size):
                scale = math.sqrt(3.0) / lengths[q]
                if scale * (gap - 2 * size) > _NOTHING:
                    value = 0.0
                elif gap > _FAR * size:
                    value = _between(coarse[i], other_coarse[j], scale)
                else:
                    value = _between(fine[i], other_fine[j], scale)
                out[q, i, j] = value
                if same:
                    out[q, j, i] = value


def gram(
    fine: np.ndarray, coarse: np.ndarray, lengths: np.ndarray, other: tuple | None = None
) -> np.ndarray:
    """Covariances of unit variance between the means over footprints, (length, footprint, other) float64.

    `fine` and `coarse` (footprint, point, 3) are lattices of footprints, km; `lengths` (length,) km; `other` are fine
    and coarse lattices of others, or None for the same.
    """
    theirs = (fine, coarse) if other is None else other
    out = np.empty((len(lengths), len(fine), len(theirs[0])))
    _grams(fine, coarse, theirs[0], theirs[1], np.asarray(lengths, np.float64), other is None, out)
    return out


@numba.njit(cache=True, nogil=True)
def _crosses(
    pixels: np.ndarray, fine: np.ndarray, coarse: np.ndarray, lengths: np.ndarray, out: np.ndarray
) -> None:
    middle = np.zeros((fine.shape[0], 3))
    size = np.zeros(fine.shape[0])
    for j in range(fine.shape[0]):
        for k in range(3):
            for p in range(coarse.shape[1]):
                middle[j, k] += coarse[j, p, k] / coarse.shape[1]
            size[j] += (coarse[j, 0, k] - coarse[j, -1, k]) ** 2
        size[j] = math.sqrt(size[j])
    for i in range(pixels.shape[0]):
        for j in range(fine.shape[0]):
            gap = 0.0
            for k in range(3):
                gap += (pixels[i, k] - middle[j, k]) ** 2
            gap = math.sqrt(gap)
            for q in range(lengths.size):
                scale = math.sqrt(3.0) / lengths[q]
                if scale * (gap - size[j]) > _NOTHING:
                    out[q, i, j] = 0.0
                elif gap > _FAR * size[j]:
                    out[q, i, j] = _between(pixels[i : i + 1], coarse[j], scale)
                else:
                    out[q, i, j] = _between(pixels[i : i + 1], fine[j], scale)


def cross(
    pixels: np.ndarray, fine: np.ndarray, coarse: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Covariances of unit variance between pixels (pixel, 3) and the means over footprints, (length, pixel, footprint)
    float32; the rest is as in :func:`gram`.
    """
    out = np.empty((len(lengths), len(pixels), len(fine)), np.float32)
    _crosses(pixels, fine, coarse, np.asarray(lengths, np.float64), out)
    return out


def root_of(matrix: np.ndarray) -> np.ndarray:
    """Lower Cholesky factor of a covariance, with as little added to its diagonal as rounding makes necessary."""
    size = float(np.trace(matrix)) / len(matrix)
    for share in (0.0, 1e-12, 1e-10, 1e-8, 1e-6):
        try:
            return np.linalg.cholesky(matrix + share * size * np.eye(len(matrix)))
        except np.linalg.LinAlgError:
            continue
    return np.linalg.cholesky(matrix + 1e-3 * size * np.eye(len(matrix)))
