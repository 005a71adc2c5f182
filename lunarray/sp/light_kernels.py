"""Kernels of the light: the gain of tilted ground, and its spread over slopes. Plain arrays, compiled, one thread."""

from __future__ import annotations

import math

import numpy as np

from lunarray.engine.compiling import njit
from lunarray.sp.photometry import LEAST_GAIN, LIMB

_C0, _C1, _C2, _C3 = LIMB


@njit(nogil=True, cache=True)
def disk_share(phase):  # pragma: no cover - compiled
    """Share of Lommel-Seeliger in the disk function at a phase angle (degrees)."""
    return max(_C0 + phase * (_C1 + phase * (_C2 + phase * _C3)), 0.0)


@njit(nogil=True, cache=True)
def disk(mu0, mu, share):  # pragma: no cover - compiled
    """Disk function of cosines of incidence and emission, of the form of `photometry.lunar_lambert`."""
    return 2.0 * share * mu0 / (mu0 + mu) + (1.0 - share) * mu0


@njit(nogil=True, cache=True)
def gain_spread(incidence, emission, phase, along, weight, across):
    """Root mean square of the logarithm of the gain of tilted ground that is lit.

    `incidence`, `emission`, `phase` (n,) float64: degrees, of flat ground; `along`, `weight` (k,): tangents of slopes
    towards the Sun, and how probable they are; `across` (m,): tangents of slopes across it, all as probable. Returns
    (n,) float64; NaN where an angle is none of lit and visible ground.
    """
    out = np.empty(incidence.size)
    for n in range(incidence.size):
        i, e = math.radians(incidence[n]), math.radians(emission[n])
        out[n] = np.nan
        if not (0.0 <= i < 0.5 * math.pi and 0.0 <= e < 0.5 * math.pi and phase[n] >= 0.0):
            continue
        c_i, s_i, c_e, s_e = math.cos(i), math.sin(i), math.cos(e), math.sin(e)
        # Where the spacecraft stands from the Sun, seen from the ground.
        turn = 1.0
        if s_i * s_e > 1e-9:
            turn = (math.cos(math.radians(phase[n])) - c_i * c_e) / (s_i * s_e)
            turn = min(max(turn, -1.0), 1.0)
        aside = math.sqrt(1.0 - turn * turn)
        share = disk_share(phase[n])
        flat = disk(c_i, c_e, share)
        total, squares = 0.0, 0.0
        for k in range(along.size):
            a = along[k]
            for b in across:
                norm = 1.0 / math.sqrt(1.0 + a * a + b * b)
                mu0 = (c_i + s_i * a) * norm
                mu = (c_e + s_e * (turn * a + aside * b)) * norm
                if mu0 <= 0.0 or mu <= 0.0:
                    continue
                value = math.log(max(disk(mu0, mu, share) / flat, LEAST_GAIN))
                total += weight[k]
                squares += weight[k] * value * value
        if total > 0.0:
            out[n] = math.sqrt(squares / total)
    return out
