"""Scales of a region and its linear trend: what the network adds to, fitted in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lunarray.errors import InputError
from lunarray.superres.architecture import EXTRA_INPUTS, Scaling
from lunarray.superres.regions import RegionData
from lunarray.superres.settings import TrainSettings
from lunarray.superres.subgraphs import input_planes


def ridge(
    design: np.ndarray, values: np.ndarray, variance: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Ridge regression with the penalty of the largest marginal likelihood.

    Slopes are taken as drawn from one normal distribution, and values as off by normal errors. How wide both are is
    what makes the values likeliest, with a free intercept. Where the values hardly say more than their errors, slopes
    become zero: leaving one out cannot tell so with some tens of footprints.

    Inputs `design` are (sample, input), outputs `values` (sample,). The `variance` (sample,) of their errors may turn
    out larger, by one factor for all, but not smaller; without it all are of one unknown variance. Gives the slopes
    (input,) and the intercept.

    References
    ----------
    MacKay, D. (1992). Bayesian interpolation. Neural Comput. 4, 415-447. Patterson, H., & Thompson, R. (1971).
    Biometrika 58, 545-554 (the likelihood without the intercept).
    """
    count = len(values)
    weight = np.ones(count) if variance is None else 1 / np.sqrt(variance)
    one = weight / np.linalg.norm(weight)
    x, y = design * weight[:, None], values * weight
    left, right = x - np.outer(one, one @ x), y - one * (one @ y)
    u, s, vt = np.linalg.svd(left, full_matrices=False)
    u, s, vt = u[:, : count - 1], s[: count - 1], vt[: count - 1]
    z = u.T @ right
    total = float(right @ right)
    rest, beyond = max(total - float(z @ z), 0.0), count - 1 - len(z)
    top = max(float(s.max(initial=0.0)) ** 2, 1e-300)
    if variance is None:
        errors = max(total / max(count - 1, 1), 1e-12) * np.logspace(-4, 0.5, 28)
    else:
        errors = np.logspace(0, 3, 25)
    # Width of slopes over that of errors, in units of the largest direction; the likelihood is cheap in this frame.
    ratios = np.concatenate([[0.0], np.logspace(-2, 5, 57)]) / top
    spread = errors[:, None, None] * (1 + ratios[:, None] * s**2)
    likelihood = -(np.log(spread) + z**2 / spread).sum(axis=2)
    likelihood -= (beyond * np.log(errors) + rest / errors)[:, None]
    ratio = ratios[np.unravel_index(np.argmax(likelihood), likelihood.shape)[1]]
    slopes = vt.T @ (ratio * s / (1 + ratio * s**2) * z)
    return slopes, float((one @ y - one @ x @ slopes) / (one @ weight))


def fit_scaling(data: RegionData, settings: TrainSettings) -> tuple[Scaling, np.ndarray]:
    """Means, spreads and trend of a region, of which at least three footprints or populated pixels must be known.

    Gives besides the standard deviation of what is known of each element, (element,) float32 in wt%: the unit of the
    losses. Raises InputError if too little is known of an element.
    """
    flat = data.features.reshape(len(data.features), -1)
    valid = np.isfinite(flat).all(axis=0)
    if not valid.any():
        raise InputError(
            "no pixel has surface features",
            where=f"region {data.region}",
            remedy="Write the region's features first",
        )
    mean = flat[:, valid].mean(axis=1, dtype=np.float64).astype(np.float32)
    std = flat[:, valid].std(axis=1, dtype=np.float64).astype(np.float32)
    half = (abs(data.lat[0] - data.lat[-1]) / 2 or 1.0, abs(data.lon[-1] - data.lon[0]) / 2 or 1.0)
    count = len(data.elements)
    zero = np.zeros((len(flat) + EXTRA_INPUTS, count), np.float32)
    scaling = Scaling(
        mean,
        np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1.0).astype(np.float32),
        (float(data.lat[0] + data.lat[-1]) / 2, half[0]),
        (float(data.lon[0] + data.lon[-1]) / 2, half[1]),
        np.zeros(count, np.float32),
        np.ones(count, np.float32),
        zero,
    )
    x, there = input_planes(data, scaling)
    inputs = x.reshape(-1, x.shape[-1])
    if settings.footprint > 0 and data.support.count:
        support = data.support.restricted(there.ravel())
        design = support.mean(inputs)
        values, weights = support.measured, support.relative_weights()
        errors = support.error.astype(np.float64) ** 2
    else:
        known = there.ravel() & np.isfinite(data.abundance.reshape(count, -1)).all(axis=0)
        design = inputs[known]
        values = data.abundance.reshape(count, -1).T[known]
        weights = np.ones_like(values)
        errors = np.full_like(values, np.nan)
    means, residuals = np.zeros(count, np.float32), np.ones(count, np.float32)
    spread = np.ones(count, np.float32)
    trend = zero.copy()
    for e, name in enumerate(data.elements):
        known = np.isfinite(values[:, e])
        if known.sum() < 3:
            raise InputError(
                f"{int(known.sum())} known values of {name}",
                where=f"region {data.region}",
                remedy="Populate the region with more footprints, or leave the element out",
            )
        y, w = values[known, e].astype(np.float64), weights[known, e].astype(np.float64)
        level = w @ y / w.sum()
        width = math.sqrt(w @ (y - level) ** 2 / w.sum())
        # All alike (one footprint's cells): the size of the value stands for its spread.
        spread[e] = width if width > 1e-6 * abs(level) else max(0.1 * abs(level), 1e-3)
        means[e] = level
        residuals[e] = spread[e]
        if settings.trend == "linear":
            own = errors[known, e]
            stated = np.isfinite(own) & (own > 0)
            own = np.where(stated, own, np.median(own[stated])) if stated.any() else None
            slopes, intercept = ridge(design[known].astype(np.float64), y, own)
            trend[:, e], means[e] = slopes, intercept
            rest = y - intercept - design[known] @ slopes
            residuals[e] = max(math.sqrt(w @ rest**2 / w.sum()), 0.05 * spread[e])
    return replace(scaling, mean=means, std=residuals, trend=trend), spread
