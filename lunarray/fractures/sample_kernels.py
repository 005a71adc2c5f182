"""Sampling of an image at the pixels of another grid, from positions known on a lattice."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["sample_average", "sample_bilinear", "sample_nearest"]


@njit(nogil=True, cache=True)
def _position(lattice, step, r, c):
    """Fractional source position (row, column) of a fractional pixel position of the block."""
    u, v = r / step, c / step
    i = min(max(int(u), 0), lattice.shape[0] - 2)
    j = min(max(int(v), 0), lattice.shape[1] - 2)
    u -= i
    v -= j
    a, b, cc, d = (1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v
    row = (
        a * lattice[i, j, 0]
        + b * lattice[i, j + 1, 0]
        + cc * lattice[i + 1, j, 0]
        + d * lattice[i + 1, j + 1, 0]
    )
    column = (
        a * lattice[i, j, 1]
        + b * lattice[i, j + 1, 1]
        + cc * lattice[i + 1, j, 1]
        + d * lattice[i + 1, j + 1, 1]
    )
    return row, column


@njit(nogil=True, cache=True)
def sample_nearest(source, row0, column0, lattice, step, shape, fill):
    """Pixel of the source that holds the middle of each target pixel.

    Parameters
    ----------
    source : ndarray (rows, columns)
        Part of the source.
    row0, column0 : int
        Its first pixel, in the source.
    lattice : ndarray (nodes, nodes, 2), float64
        Fractional source positions, every `step` pixels of the target block from its corner.
    step : float
        Target pixels between nodes.
    shape : tuple of int
        Of the block.
    fill : scalar
        Where there is no source.

    Returns
    -------
    ndarray of `shape`
        Of the source's type.
    """
    out = np.empty(shape, source.dtype)
    rows, columns = source.shape
    for i in range(shape[0]):
        for j in range(shape[1]):
            r, c = _position(lattice, step, i + 0.5, j + 0.5)
            out[i, j] = fill
            if np.isfinite(r) and np.isfinite(c):
                p, q = np.int64(np.floor(r)) - row0, np.int64(np.floor(c)) - column0
                if 0 <= p < rows and 0 <= q < columns:
                    out[i, j] = source[p, q]
    return out


@njit(nogil=True, cache=True)
def sample_bilinear(source, row0, column0, lattice, step, shape, min_valid):
    """Weighted mean of the four source pixels around the middle of each target pixel; arguments as above.

    NaN where less than `min_valid` of the weight is on finite pixels, or outside the source.
    """
    out = np.full(shape, np.nan, np.float32)
    rows, columns = source.shape
    for i in range(shape[0]):
        for j in range(shape[1]):
            r, c = _position(lattice, step, i + 0.5, j + 0.5)
            if not (np.isfinite(r) and np.isfinite(c)):
                continue
            r -= 0.5
            c -= 0.5
            p, q = np.int64(np.floor(r)), np.int64(np.floor(c))
            u, v = r - p, c - q
            total = weight = 0.0
            for a in range(2):
                for b in range(2):
                    y, x = p + a - row0, q + b - column0
                    if 0 <= y < rows and 0 <= x < columns and np.isfinite(source[y, x]):
                        w = (u if a else 1 - u) * (v if b else 1 - v)
                        total += w * source[y, x]
                        weight += w
            if weight > 0 and weight >= min_valid - 1e-9:
                out[i, j] = total / weight
    return out


@njit(nogil=True, cache=True)
def sample_average(source, row0, column0, lattice, step, shape, min_valid, parts):
    """Mean of the source over each target pixel, by `parts` × `parts` points in it; arguments as above.

    NaN where less than `min_valid` of the points lie on finite pixels.
    """
    out = np.full(shape, np.nan, np.float32)
    rows, columns = source.shape
    for i in range(shape[0]):
        for j in range(shape[1]):
            total = 0.0
            count = 0
            for a in range(parts):
                for b in range(parts):
                    r, c = _position(lattice, step, i + (a + 0.5) / parts, j + (b + 0.5) / parts)
                    if np.isfinite(r) and np.isfinite(c):
                        y, x = np.int64(np.floor(r)) - row0, np.int64(np.floor(c)) - column0
                        if 0 <= y < rows and 0 <= x < columns and np.isfinite(source[y, x]):
                            total += source[y, x]
                            count += 1
            if count > 0 and count >= min_valid * parts * parts - 1e-9:
                out[i, j] = total / count
    return out
