"""The shape of a line: width, gain, tail and shelf as numbers, and the matrix that is built from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lunarray.engine.compiling import njit
from lunarray.errors import require_number

#: Full width at half maximum of a normal distribution over its standard deviation.
FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))
#: Energy at which widths are given, keV, and that of an electron-hole pair in silicon.
REFERENCE, PAIR = 1.5, 0.00365


@dataclass(frozen=True)
class LineShape:
    """How a line is spread over channels.

    A photon of energy E is counted around ``slope · (E + offset)`` with the variance of the electronics' noise and of
    the statistics of charge, Fano factor · 3.65 eV · E. Part of the charge of some is lost: their tail and shelf below
    the line are those of the matrix that is reshaped, times a factor.
    """

    width: float  # full width at half maximum at 1.5 keV, keV
    slope: float = 1.0  # relative gain
    offset: float = 0.0  # keV
    tail: float = 1.0  # factor on what is counted up to about 0.5 keV below the line
    shelf: float = 1.0  # and on what is counted farther below, escape peak included
    fano: float = 0.115

    def __post_init__(self) -> None:
        for name in ("width", "slope"):
            require_number(name, getattr(self, name), 0, strictly=True)
        for name in ("tail", "shelf", "fano"):
            require_number(name, getattr(self, name), 0)

    def sigma(self, energy: Any) -> np.ndarray:
        """Standard deviation of a line, keV, at energies in keV."""
        energy = np.asarray(energy, np.float64)
        variance = (self.width / FWHM) ** 2 + self.fano * PAIR * (energy - REFERENCE)
        return np.sqrt(np.maximum(variance, 1e-6))

    @property
    def noise(self) -> float:
        """Electronic noise (standard deviation, keV): what is left of the width without the Fano term."""
        return float(np.sqrt(max((self.width / FWHM) ** 2 - self.fano * PAIR * REFERENCE, 0.0)))


@dataclass(frozen=True)
class Peaks:
    """The photopeak in each row of a matrix; what is not in it is tail and shelf."""

    area: np.ndarray  # (energy,): probability to be counted in it
    shift: np.ndarray  # its place relative to the energy, keV
    sigma: np.ndarray  # keV


def find_peaks(
    energy: np.ndarray, row: np.ndarray, channel: np.ndarray, value: np.ndarray, low: np.ndarray,
    high: np.ndarray,
) -> Peaks:  # fmt: skip
    """Normal distributions through the upper half of each row's highest peak.

    `energy` (energy,): middles, keV; `row`, `channel`, `value`: as of `Response`; `low`, `high` (channel,): edges of
    the channels. Rows whose peak lies outside of the channels get an area of 0.
    """
    area, shift, sigma = np.zeros((3, energy.size))
    middle, step = (low + high) / 2, high - low
    for e in range(energy.size):
        part = slice(row[e], row[e + 1])
        own, density = middle[channel[part]], value[part] / step[channel[part]]
        near = np.abs(own - energy[e]) < 0.3
        if not np.any(density[near] > 0):
            continue
        top = density[near].max()
        upper = near & (density > 0.4 * top)
        if upper.sum() < 3:
            continue
        x = own[upper] - energy[e]
        a, b, c = np.polyfit(x, np.log(density[upper]), 2)
        if not a < 0:
            continue
        s = math.sqrt(-0.5 / a)
        mu = b * s * s
        total = math.exp(c + 0.5 * mu * mu / (s * s)) * s * math.sqrt(2 * math.pi)
        if abs(mu) < 0.15 and 0.01 < s < 0.3 and total < 1.3 * value[part].sum():
            # The distribution was averaged over each channel: that is no width of the line.
            width = float(np.median(step[channel[part]][upper]))
            s = math.sqrt(max(s * s - width * width / 12, 1e-6))
            area[e], shift[e], sigma[e] = min(total, value[part].sum()), mu, s
    return Peaks(area, shift, sigma)


@njit(nogil=True, cache=True, error_model="numpy")
def reshape_kernel(energy, row, channel, value, edges, peaks, new, moved, factors, dense):
    """Rows of a matrix with other photopeaks, tails and gain, (energy, channel), into `dense`.

    `peaks`: area, shift and sigma of the old ones; `new` (energy,): sigma; `moved`: slope and offset; `factors`: on
    tail and shelf.

    What is not in the old peak is moved with the gain; within about 0.5 keV of the line it is broadened as the peak is.
    Probabilities of a row keep their sum.
    """
    area, shift, old = peaks
    slope, offset = moved
    tail, shelf = factors
    root = math.sqrt(2.0)
    last = edges.size - 2
    for e in range(energy.size):
        out = dense[e]
        before = 0.0
        for k in range(row[e], row[e + 1]):
            before += value[k]
        if area[e] <= 0.0:
            for k in range(row[e], row[e + 1]):
                c = channel[k]
                _spread(
                    out,
                    edges,
                    slope * (edges[c] + offset),
                    slope * (edges[c + 1] + offset),
                    value[k],
                )
            continue
        centre = energy[e] + shift[e]
        # Remainders, and the mean and the spread of those near to the line.
        total, mean, spread = 0.0, 0.0, 0.0
        for k in range(row[e], row[e + 1]):
            c = channel[k]
            rest = value[k] - _peak(edges[c], edges[c + 1], centre, old[e] * root) * area[e]
            middle = 0.5 * (edges[c] + edges[c + 1])
            rest *= _nearness(middle - energy[e])
            if rest > 0.0:
                total += rest
                mean += rest * middle
                spread += rest * middle * middle
        ratio = 1.0
        if total > 0.0:
            mean /= total
            spread = max(spread / total - mean * mean, 1e-8)
            ratio = math.sqrt(max(spread + new[e] ** 2 - old[e] ** 2, 0.1 * spread) / spread)
        after = 0.0
        for k in range(row[e], row[e + 1]):
            c = channel[k]
            low, high = edges[c], edges[c + 1]
            rest = value[k] - _peak(low, high, centre, old[e] * root) * area[e]
            middle = 0.5 * (low + high)
            # Beyond the line there is no lost charge: differences of the peak from a normal distribution.
            if rest <= 0.0 or middle >= energy[e]:
                continue
            near = _nearness(middle - energy[e])
            far = rest * (1.0 - near) * shelf
            near *= rest * tail
            after += near + far
            _spread(out, edges, slope * (low + offset), slope * (high + offset), far)
            low, high = mean + ratio * (low - mean), mean + ratio * (high - mean)
            _spread(out, edges, slope * (low + offset), slope * (high + offset), near)
        peak = max(before - after, 0.0)
        place = slope * (centre + offset)
        sigma = new[e] * slope
        first = max(np.searchsorted(edges, place - 6.0 * sigma) - 1, 0)
        for c in range(first, last + 1):
            if edges[c] > place + 6.0 * sigma:
                break
            out[c] += peak * _peak(edges[c], edges[c + 1], place, sigma * root)


@njit(nogil=True, cache=True, error_model="numpy")
def _nearness(distance):
    # How much of what is counted at a distance (keV) from the line belongs to its tail; the rest is shelf.
    if distance >= 0.0:
        return 0.0
    return min(max((distance + 0.6) / 0.25, 0.0), 1.0)


@njit(nogil=True, cache=True, error_model="numpy")
def _peak(low, high, centre, scale):
    return 0.5 * (math.erf((high - centre) / scale) - math.erf((low - centre) / scale))


@njit(nogil=True, cache=True, error_model="numpy")
def _spread(out, edges, low, high, value):
    # Shares `value` among the bins that [low, high) overlaps.
    if high <= low or value == 0.0:
        return
    j = max(np.searchsorted(edges, low, side="right") - 1, 0)
    while j < edges.size - 1 and edges[j] < high:
        overlap = min(high, edges[j + 1]) - max(low, edges[j])
        if overlap > 0.0:
            out[j] += value * overlap / (high - low)
        j += 1
