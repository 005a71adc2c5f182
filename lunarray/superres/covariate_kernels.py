"""Numba kernel of covariates: means, slopes and spreads of a lattice around pixels."""

from __future__ import annotations

import math

import numpy as np

from lunarray.engine.compiling import njit


@njit(nogil=True, cache=True)
def around(lattice, share, places, frame, stencil, out):
    """Weigh a lattice around pixels.

    The `lattice` holds, by cell, the mean and the mean square of what is known, and `share` how much that is. Its
    `frame` are the latitude and longitude (degrees) of its corner, the step of its cells, and whether it goes all
    around (0 or 1). `places` are latitudes of the rows and longitudes of the columns of pixels. The `stencil` are the
    samples: their latitudes (row, sample) and degrees of longitude from the pixel's own (row, sample), distances
    eastward and northward (sample,) in scales, and weights (sample,). `out` (3, row, column) gets the mean, the slope
    (change over one scale) and the standard deviation; NaN where less than half of the weight is known.
    """
    mean, square = lattice
    lat, lon = places
    north, west, step, whole = frame
    lats, turns, east, up, weights = stencil
    out[:] = np.nan
    height, width = mean.shape
    full = weights.sum()
    for i in range(lat.size):
        for j in range(lon.size):
            total = 0.0
            first = 0.0
            second = 0.0
            sx = sy = sxx = syy = sxy = sxv = syv = 0.0
            for n in range(weights.size):
                r = (north - lats[i, n]) / step - 0.5
                c = (lon[j] + turns[i, n] - west) / step - 0.5
                # Beyond the last row, which is at a pole, the nearest cell goes on.
                r = min(max(r, 0.0), height - 1.0)
                r0 = min(int(r), max(height - 2, 0))
                r1 = min(r0 + 1, height - 1)
                fr = r - r0
                c0 = math.floor(c)
                fc = c - c0
                c1 = c0 + 1
                if whole > 0:
                    c0 %= width
                    c1 %= width
                elif c0 < 0 or c1 >= width:
                    c0 = min(max(c0, 0), width - 1)
                    c1 = min(max(c1, 0), width - 1)
                a = (1 - fr) * (1 - fc) * share[r0, c0]
                b = (1 - fr) * fc * share[r0, c1]
                d = fr * (1 - fc) * share[r1, c0]
                e = fr * fc * share[r1, c1]
                known = a + b + d + e
                if known <= 0.0:
                    continue
                v = (
                    a * mean[r0, c0] + b * mean[r0, c1] + d * mean[r1, c0] + e * mean[r1, c1]
                ) / known
                q = (
                    a * square[r0, c0]
                    + b * square[r0, c1]
                    + d * square[r1, c0]
                    + e * square[r1, c1]
                ) / known
                w = weights[n] * known
                x = east[n]
                y = up[n]
                total += w
                first += w * v
                second += w * q
                sx += w * x
                sy += w * y
                sxx += w * x * x
                syy += w * y * y
                sxy += w * x * y
                sxv += w * x * v
                syv += w * y * v
            if total < 0.5 * full:
                continue
            m = first / total
            out[0, i, j] = m
            # A plane fitted to the samples, about their own middle.
            mx = sx / total
            my = sy / total
            cxx = sxx / total - mx * mx
            cyy = syy / total - my * my
            cxy = sxy / total - mx * my
            cxv = sxv / total - mx * m
            cyv = syv / total - my * m
            determinant = cxx * cyy - cxy * cxy
            if determinant > 1e-6:
                gx = (cyy * cxv - cxy * cyv) / determinant
                gy = (cxx * cyv - cxy * cxv) / determinant
                out[1, i, j] = math.sqrt(gx * gx + gy * gy)
            out[2, i, j] = math.sqrt(max(second / total - m * m, 0.0))
