"""Kernels of relief under a Sun: slopes of a stencil, and the horizon along a ray; plain arrays, compiled."""

from __future__ import annotations

import math

import numpy as np

from lunarray.engine.compiling import njit


@njit(nogil=True, cache=True)
def fit_planes(heights, east, north):
    """Slopes of the planes that fit heights best.

    `heights` (n, m): m; `east`, `north` (m,): places of the heights about their middle, m, with no trend against one
    another. Returns (2, n) float64: rise towards east and towards north, m/m; NaN where a height is missing.
    """
    out = np.empty((2, heights.shape[0]))
    long, wide = 0.0, 0.0
    for k in range(east.size):
        long += east[k] * east[k]
        wide += north[k] * north[k]
    for n in range(heights.shape[0]):
        a, b = 0.0, 0.0
        for k in range(east.size):
            a += east[k] * heights[n, k]
            b += north[k] * heights[n, k]
        out[0, n], out[1, n] = a / long, b / wide
    return out


@njit(nogil=True, cache=True)
def highest(height, heights, arcs, radius):
    """Elevation of the horizon along rays over a sphere.

    `height` (n,): m above the sphere, where the eyes are; `heights` (n, k): of the ground along each ray, m; missing
    ground hides nothing; `arcs` (k,): how far along, radians; `radius`: of the sphere, m. Returns (n,) float64: radians
    above the horizontal; -pi/2 where there is no ground.
    """
    out = np.empty(height.size)
    for n in range(height.size):
        eye = radius + height[n]
        best = -np.inf
        for k in range(arcs.size):
            top = radius + heights[n, k]
            # The tangent of the elevation, as the ground at the eye has its horizontal.
            tangent = (top * math.cos(arcs[k]) - eye) / (top * math.sin(arcs[k]))
            if tangent > best:
                best = tangent
        out[n] = math.atan(best) if best > -np.inf else -0.5 * math.pi
    return out
