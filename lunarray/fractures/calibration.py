"""Whether probabilities are what they say: calibration of logits by a temperature, and its error."""

from __future__ import annotations

import numpy as np

#: Bins of probability.
_BINS = 15
#: Temperatures that are looked at, and how finely.
_RANGE, _STEPS = (0.05, 20.0), 60


def temperature_of(logits: np.ndarray, there: np.ndarray) -> float:
    """The temperature by which logits become the probabilities most likely given the labels.

    `logits`, `there` (n,): of valid pixels, and whether they are labelled. 1 where all labels are the same, for then
    there is nothing to calibrate by. One number does not change which probabilities are above 0.5, nor their order
    (Guo et al. 2017, ICML, arXiv:1706.04599).
    """
    z, y = np.asarray(logits, np.float64), np.asarray(there, bool)
    if not z.size or y.all() or not y.any():
        return 1.0
    signed = np.where(y, -z, z)

    def cost(log_t: float) -> float:
        return float(np.logaddexp(0, signed / np.exp(log_t)).mean())

    # The mean is convex in 1/T: one valley.
    low, high = np.log(_RANGE)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(_STEPS):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if cost(a) < cost(b) else (a, high)
    return round(float(np.exp((low + high) / 2)), 6)


def calibration_error(probability: np.ndarray, there: np.ndarray) -> float:
    """Expected calibration error of probabilities of a fracture.

    `probability`, `there` (n,): of valid pixels, and whether they are labelled. Returns the mean difference between
    probability and share of labelled pixels in 15 bins of equal width, weighted by their pixels; NaN without pixels.
    """
    p, y = np.asarray(probability, np.float64), np.asarray(there, np.float64)
    if not p.size:
        return float("nan")
    which = np.minimum((p * _BINS).astype(np.int64), _BINS - 1)
    said, seen = (np.bincount(which, weights=w, minlength=_BINS) for w in (p, y))
    return float(np.abs(said - seen).sum() / p.size)
