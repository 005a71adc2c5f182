"""How far off an inverted abundance may be: standard deviations and conformal intervals (NumPy only)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist

import numpy as np

from lunarray.errors import InputError, require_number

#: Fewest calibration samples for each step of the scale along the predicted abundance, and most steps.
_SAMPLES_A_STEP = 50
_STEPS = 8
#: Shares of the ensemble's spread in the scale that are tried, in units of its mean square.
_SHARES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
#: Least share of the variance of left-out errors that is the model's own, whatever the reference's is said to be: what
#: is said of a reference's errors is uncertain itself, and a model meets other ground than that of its calibration.
_OWN_SHARE = 0.5
#: Conformal scores that are kept of a larger calibration, at evenly spaced ranks.
_SCORES = 2000
#: The same, of each class of light.
_LIGHT_SCORES = 500


@dataclass(frozen=True)
class Calibration:
    """Errors of a model on samples that it had not seen, summed up for use on others.

    The scale of the error of oxide o at a pixel is ``s = a(f) * sqrt(1 + share * v / mean_square)``: `a`, a function of
    the predicted abundance f (linear between steps, constant beyond), times what the spread v (variance) of the
    ensemble of folds adds. s is the standard deviation, and ``f ± q(level) * s`` the conformal interval, where q is
    that quantile of |error| / s of the calibration samples.

    Attributes
    ----------
    centres, scales : ndarray, shape (oxide, step), float32
        Predicted abundances (wt%) and `a` at them (wt%).
    share, mean_square : ndarray, shape (oxide,), float32
        Weight of the spread, and its mean square in the calibration (wt%²). Zero and one without an ensemble.
    scores : ndarray, shape (oxide, score), float32
        |error| / s, sorted; at most 2000, evenly spaced by rank.
    count : ndarray, shape (1,), int64
        Calibration samples.
    """

    centres: np.ndarray
    scales: np.ndarray
    share: np.ndarray
    mean_square: np.ndarray
    scores: np.ndarray
    count: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays by name, as they are stored with the weights."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def calibrate(
    predicted: np.ndarray,
    measured: np.ndarray,
    spread: np.ndarray | None = None,
    *,
    measured_std: np.ndarray | None = None,
) -> Calibration:
    """Sum up errors on samples that the model had not seen.

    What is measured has errors too, and the difference from it those of both. Where these are known, `measured_std`,
    their variance is taken off that of the difference, step by step, and the interval is one for the true abundance
    instead of for another measurement of it. The distribution of the scaled errors is taken to be that of the scaled
    differences, which is so where both are of one shape.

    `predicted`, `measured` (sample, oxide): abundances in wt%; rows with a NaN are left out; `spread` (sample, oxide):
    standard deviation of the ensemble at the samples, wt%; `measured_std` (sample, oxide): standard deviation of the
    error of `measured`, wt%; 0, or none, for abundances that are exact. At least half of the variance of the difference
    is left to the model. InputError with fewer than two samples, shapes that differ, or a negative or infinite
    standard deviation.
    """
    f, y = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    v = np.zeros_like(f) if spread is None else np.asarray(spread, np.float64) ** 2
    w = np.zeros_like(f) if measured_std is None else np.asarray(measured_std, np.float64)
    if f.ndim != 2 or not f.shape == y.shape == v.shape == w.shape:
        raise InputError(
            f"predicted {f.shape}, measured {y.shape}, spread {v.shape}, measured_std {w.shape}",
            where="calibrate",
            remedy="Give arrays (sample, oxide) of one shape",
        )
    if not (np.isfinite(w) & (w >= 0)).all():
        raise InputError(
            "standard deviations of the reference that are negative or not finite",
            where="measured_std",
            remedy="Give wt%, 0 where the reference is exact",
        )
    good = np.isfinite(f).all(axis=1) & np.isfinite(y).all(axis=1) & np.isfinite(v).all(axis=1)
    f, y, v, w = f[good], y[good], v[good], w[good] ** 2
    count = len(f)
    if count < 2:
        raise InputError(
            f"{count} samples with predictions while left out",
            where="calibrate",
            remedy="Leave out, and so predict, at least two samples",
        )
    error = np.abs(f - y)
    # Errors of exactly zero everywhere would give a scale of zero and scores of 0/0.
    floor = 1e-6
    steps = int(np.clip(count // _SAMPLES_A_STEP, 1, _STEPS))
    centres, scales = np.zeros((2, f.shape[1], steps))
    share, mean_square = np.zeros(f.shape[1]), np.ones(f.shape[1])
    scores = np.empty(f.shape)
    for o in range(f.shape[1]):
        if v[:, o].mean() > 0:
            mean_square[o] = v[:, o].mean()
        best = np.inf
        for tried in _SHARES if spread is not None else (0.0,):
            grow = np.sqrt(1 + tried * v[:, o] / mean_square[o])
            at, a = _steps(f[:, o], error[:, o] / grow, steps, floor)
            s = np.interp(f[:, o], at, a) * grow
            # Of a normal error: the likelihood of the scale.
            loss = float(np.mean(np.log(s) + 0.5 * (error[:, o] / s) ** 2))
            if loss < best:
                best = loss
                # So that the mean square of the scaled errors is one exactly.
                a = a * math.sqrt(np.mean((error[:, o] / s) ** 2)) if error[:, o].any() else a
                share[o] = tried
                scores[:, o] = error[:, o] / (np.interp(f[:, o], at, a) * grow)
                theirs = np.array([w[part, o].mean() for part in _ranges(f[:, o], steps)])
                centres[o], scales[o] = at, np.sqrt(np.maximum(a**2 - theirs, _OWN_SHARE * a**2))
    scores = np.sort(scores, axis=0).T
    if count > _SCORES:
        scores = scores[:, np.round(np.linspace(0, count - 1, _SCORES)).astype(int)]
    return Calibration(
        centres.astype(np.float32),
        scales.astype(np.float32),
        share.astype(np.float32),
        mean_square.astype(np.float32),
        np.ascontiguousarray(scores, np.float32),
        np.array([count], np.int64),
    )


def _steps(
    f: np.ndarray, error: np.ndarray, steps: int, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square error in equally filled ranges of the predicted abundance, at their means, which rise."""
    order = _ranges(f, steps)
    centres = np.array([f[part].mean() for part in order])
    scales = np.array([math.sqrt(np.mean(error[part] ** 2)) for part in order])
    # np.interp wants centres that rise; equal ones are as good in any order.
    return np.maximum.accumulate(centres), np.maximum(scales, floor)


def _ranges(f: np.ndarray, steps: int) -> list[np.ndarray]:
    """Samples in equally filled ranges of the predicted abundance."""
    return np.array_split(np.argsort(f, kind="stable"), steps)


def quantile(calibration: Calibration, level: float) -> np.ndarray:
    """Half-width of the conformal interval in units of the scale, shape (oxide,): the ceil((N + 1) · level)-th score.

    References
    ----------
    .. [1] Lei et al. (2018), Distribution-free predictive inference for regression, JASA 113, 1094 (split conformal,
       locally weighted); Barber et al. (2021), Predictive inference with the jackknife+, Ann. Stat. 49, 486 (that
       left-out predictions may take the place of a split).
    """
    require_number("level", level, 0, 1, strictly=True)
    count = int(calibration.count[0])
    rank = math.ceil((count + 1) * level)
    if rank > count:
        raise InputError(
            f"an interval of level {level:g} needs at least {math.ceil(level / (1 - level))} calibration samples "
            f"and the model has {count}",
            where="level",
            remedy="Ask for a lower level, or train with more samples",
        )
    kept = calibration.scores.shape[1]
    # Of thinned scores the next higher one: the interval is never narrower for it.
    index = rank - 1 if kept == count else math.ceil((rank - 1) / (count - 1) * (kept - 1))
    return calibration.scores[:, index]


def widths(calibration: Calibration | None, level: float, count: int) -> np.ndarray:
    """Half-widths of intervals in units of the standard deviation, shape (count,): conformal, or of normal errors."""
    if calibration is not None:
        return quantile(calibration, level)
    require_number("level", level, 0, 1, strictly=True)
    return np.full(count, NormalDist().inv_cdf((1 + level) / 2), np.float32)


def scale(predicted: np.ndarray, spread: np.ndarray | None, calibration: Calibration) -> np.ndarray:
    """Standard deviation (wt%) of the error of abundances (oxide, ...) predicted with a spread of the ensemble.

    The spread must be there where the calibration had one. NaN where `predicted` is.
    """
    result = np.empty(predicted.shape, np.float32)
    for o in range(predicted.shape[0]):
        s = np.interp(predicted[o], calibration.centres[o], calibration.scales[o])
        if calibration.share[o] > 0 and spread is not None:
            s = s * np.sqrt(
                1
                + calibration.share[o]
                * spread[o].astype(np.float64) ** 2
                / calibration.mean_square[o]
            )
        result[o] = np.where(np.isnan(predicted[o]), np.nan, s)
    return result


@dataclass(frozen=True)
class LightCalibration:
    """Errors of a model that gives their standard deviations itself, in classes of how well the light is known.

    Attributes
    ----------
    light : ndarray, shape (class,), float32
        ln-sd of the light's gain in each class, rising. Between two classes both factors are interpolated.
    factor : ndarray, shape (class, oxide), float32
        What the model's standard deviations are to be multiplied by.
    scores : ndarray, shape (class, oxide, score), float32
        |error| over standard deviation, sorted, evenly spaced by rank.
    count : ndarray, shape (1,), int64
        Calibration samples of each class.
    """

    light: np.ndarray
    factor: np.ndarray
    scores: np.ndarray
    count: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays by name, as they are stored with the weights."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def of_class(self, index: int) -> Calibration:
        """Conformal scores of one class, as :func:`quantile` takes them."""
        none = np.zeros((self.factor.shape[1], 1), np.float32)
        return Calibration(none, none, none[:, 0], none[:, 0] + 1, self.scores[index], self.count)


def calibrate_light(
    light: Sequence[float],
    predicted: Sequence[np.ndarray],
    std: Sequence[np.ndarray],
    measured: np.ndarray,
) -> LightCalibration:
    """Sum up errors, on samples that the model had not seen, for some classes of how well the light is known.

    `light` (class,) rises; `predicted` and `std` hold (sample, oxide) for each class, abundances and the model's own
    standard deviations of them in wt%; `measured` (sample, oxide) is the truth.
    """
    kept = np.round(np.linspace(0, len(measured) - 1, min(len(measured), _LIGHT_SCORES)))
    factors, scores = [], []
    for found, own in zip(predicted, std, strict=True):
        scaled = np.abs(np.asarray(found, np.float64) - measured) / own
        factor = np.sqrt((scaled**2).mean(axis=0))
        factors.append(factor)
        scores.append(np.sort(scaled / factor, axis=0).T[:, kept.astype(int)])
    return LightCalibration(
        np.asarray(light, np.float32),
        np.asarray(factors, np.float32),
        np.asarray(scores, np.float32),
        np.array([len(measured)], np.int64),
    )


def light_widths(calibration: LightCalibration, level: float) -> np.ndarray:
    """Half-widths of conformal intervals in units of the standard deviation, shape (class, oxide)."""
    classes = range(len(calibration.light))
    return np.stack([quantile(calibration.of_class(index), level) for index in classes])


def by_light(light: np.ndarray | np.float32, classes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values (class,) of a calibration at some ln-sd of the light."""
    return np.asarray(np.interp(light, classes, values), np.float32)


def coverage(lower: np.ndarray, upper: np.ndarray, truth: np.ndarray) -> float:
    """Share of true values within an interval, of those where all three are finite; NaN where none is."""
    lower, upper, truth = (np.asarray(a, np.float64) for a in (lower, upper, truth))
    good = np.isfinite(lower) & np.isfinite(upper) & np.isfinite(truth)
    return (
        float(np.mean((lower <= truth) & (truth <= upper), where=good)) if good.any() else math.nan
    )
