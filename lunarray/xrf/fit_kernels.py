"""Kernels of the spectral fit: templates of lines, statistics, and a bounded Levenberg–Marquardt."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from lunarray.engine.compiling import njit
from lunarray.xrf.kernels import intensity_kernel, jacobian_kernel

STATISTICS = MappingProxyType({"chi2": 0, "cstat": 1, "wstat": 2})


class FitPlan(NamedTuple):
    """What is fitted, from where, and within which limits; (parameter,) unless said otherwise.

    The parameters are the weights of the elements (wt%), the XRF norm, the scatter norm, the gain's slope and offset,
    and nuisances in units of their standard deviations. The weight of the element number `balance` is 100 − the others.
    """

    elements: int
    start: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    free: np.ndarray
    balance: int
    balance_lower: float
    balance_upper: float
    prior_mean: np.ndarray
    prior_weight: np.ndarray  # 1 / variance; 0 without a prior
    # (element,): what the prior's curvature loses along the line on which the ground's composition lies
    prior_mode: np.ndarray
    tie_norms: bool
    scatter_ratio: float  # of tied norms


class Counts(NamedTuple):
    """The fitted channels of a spectrum, and the statistic by which a model is compared to them."""

    statistic: int  # of STATISTICS
    counts: np.ndarray
    back: np.ndarray
    exposure: float
    back_exposure: float  # 0 without a background
    variance: np.ndarray


class LinearModel(NamedTuple):
    """A model that is linear in the gain around (`slope`, `offset`), and whose scattered continuum is linear in the
    weights around the composition `centre`."""

    # (3, line, channel): value, and derivatives with respect to slope and offset
    templates: np.ndarray
    scatter: np.ndarray  # (3, channel): the same
    scatter_slopes: np.ndarray  # (element, or 0 for a continuum that stands still, channel)
    centre: np.ndarray  # (element,)
    slope: float
    offset: float
    gain: bool  # whether the gain is fitted
    nuisance: (
        np.ndarray
    )  # (nuisance, channel): derivatives with respect to the nuisances, for an XRF norm of 1
    reference: np.ndarray  # (nuisance,): where the templates are made
    fixed: (
        np.ndarray
    )  # (channel,): counts/s beside the model, whatever its norms; the last nuisance is their share


@njit(nogil=True, cache=True, error_model="numpy")
def template_kernel(
    line_energy, shape, sigma, energy_lo, energy_hi, area, row, channel, value, channels
):
    """Counts that one photon/cm² of each line gives; `shape` 0 split, 1 bin, 2 gaussian. Returns (line, channel)."""
    out = np.zeros((line_energy.size, channels))
    last = energy_lo.size - 1
    for p in range(line_energy.size):
        energy = line_energy[p]
        if energy < energy_lo[0] or energy > energy_hi[last]:
            continue
        i = min(np.searchsorted(energy_hi, energy), last)
        if shape == 2 and sigma > 0.0:
            first = min(np.searchsorted(energy_hi, energy - 7.0 * sigma), last)
            stop = min(np.searchsorted(energy_hi, energy + 7.0 * sigma), last) + 1
            for e in range(first, stop):
                low = (energy_lo[e] - energy) / (sigma * math.sqrt(2.0))
                high = (energy_hi[e] - energy) / (sigma * math.sqrt(2.0))
                _add_row(
                    out[p], 0.5 * (math.erf(high) - math.erf(low)) * area[e], e, row, channel, value
                )
        elif shape == 0:
            middle = 0.5 * (energy_lo[i] + energy_hi[i])
            j = i + 1 if energy >= middle else i - 1
            if j < 0 or j > last:
                _add_row(out[p], area[i], i, row, channel, value)
                continue
            share = abs(energy - middle) / abs(0.5 * (energy_lo[j] + energy_hi[j]) - middle)
            _add_row(out[p], (1.0 - share) * area[i], i, row, channel, value)
            _add_row(out[p], share * area[j], j, row, channel, value)
        else:
            _add_row(out[p], area[i], i, row, channel, value)
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def _add_row(out, factor, e, row, channel, value):
    for k in range(row[e], row[e + 1]):
        out[channel[k]] += factor * value[k]


@njit(nogil=True, cache=True, error_model="numpy")
def _point(statistic, model, counts, back, t, tb, variance):
    """One channel: its part of the statistic, the slope with respect to the model, and an expected curvature."""
    if statistic == 0:
        if variance <= 0.0:
            return 0.0, 0.0, 0.0
        net = counts / t - (back / tb if tb > 0.0 else 0.0)
        return (net - model) ** 2 / variance, -2.0 * (net - model) / variance, 2.0 / variance
    tiny = 1e-12 / t
    if statistic == 1 or tb <= 0.0:
        known = back / tb if tb > 0.0 else 0.0
        mean = max(model + known, tiny)
        part = t * mean - counts
        if counts > 0.0:
            part -= counts * math.log(t * mean / counts)
        return 2.0 * part, 2.0 * (t - counts / mean), 2.0 * t / mean
    m = max(model, 0.0)
    both = t + tb
    # The background rate f that maximises the likelihood given the model.
    if back == 0.0:
        f = max(counts / both - m, 0.0)
    else:
        half = both * m - counts - back
        d = math.sqrt(half * half + 4.0 * both * back * m)
        f = (d - half) / (2.0 * both) if half <= 0.0 else 2.0 * back * m / (d + half)
    mean = max(m + f, tiny)
    part = t * m + both * f - counts - back
    if counts > 0.0:
        part -= counts * math.log(t * mean / counts)
    if back > 0.0:
        part -= back * math.log(tb * max(f, tiny) / back)
    spread = mean / t + max(f, 0.0) / tb
    return 2.0 * part, 2.0 * (t - counts / mean), 2.0 / spread


@njit(nogil=True, cache=True, error_model="numpy")
def statistic_kernel(statistic, model, counts, back, t, tb, variance):
    """Sum of a statistic (`STATISTICS`) over channels; t and tb are exposures, tb = 0 without a background."""
    total = 0.0
    for c in range(model.size):
        total += _point(statistic, model[c], counts[c], back[c], t, tb, variance[c])[0]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def precision_kernel(data, rate):
    """What a channel tells of its rate: half of the expected curvature of the statistic, (channel,)."""
    out = np.zeros(rate.size)
    for c in range(rate.size):
        out[c] = 0.5 * _point(
            data.statistic, rate[c], data.counts[c], data.back[c], data.exposure, data.back_exposure,
            data.variance[c],
        )[2]  # fmt: skip
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def _solve(matrix, right, free, out):
    # Cholesky on the free rows; returns whether the matrix was positive definite.
    n = right.size
    index = np.flatnonzero(free)
    k = index.size
    lower = np.zeros((k, k))
    for i in range(k):
        for j in range(i + 1):
            total = matrix[index[i], index[j]]
            for m in range(j):
                total -= lower[i, m] * lower[j, m]
            if i == j:
                if not total > 0.0:
                    return False
                lower[i, i] = math.sqrt(total)
            else:
                lower[i, j] = total / lower[j, j]
    y = np.empty(k)
    for i in range(k):
        total = right[index[i]]
        for m in range(i):
            total -= lower[i, m] * y[m]
        y[i] = total / lower[i, i]
    for i in range(n):
        out[i] = 0.0
    for i in range(k - 1, -1, -1):
        total = y[i]
        for m in range(i + 1, k):
            total -= lower[m, i] * out[index[m]]
        out[index[i]] = total / lower[i, i]
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def _norms(theta, plan):
    elements = plan.elements
    norm = theta[elements]
    return norm, plan.scatter_ratio * norm if plan.tie_norms else theta[elements + 1]


@njit(nogil=True, cache=True, error_model="numpy")
def _gain_change(theta, plan, linear):
    return theta[plan.elements + 2] - linear.slope, theta[plan.elements + 3] - linear.offset


@njit(nogil=True, cache=True, error_model="numpy")
def _rates(theta, plan, linear, intensity, rate):
    norm, other = _norms(theta, plan)
    ds, do = _gain_change(theta, plan, linear)
    templates, scatter, scatter_slopes = linear.templates, linear.scatter, linear.scatter_slopes
    for c in range(rate.size):
        rate[c] = other * scatter[0, c] + linear.fixed[c]
        if linear.gain:
            rate[c] += other * (ds * scatter[1, c] + do * scatter[2, c])
    for j in range(scatter_slopes.shape[0]):
        factor = other * (theta[j] - linear.centre[j])
        if factor != 0.0:
            for c in range(rate.size):
                rate[c] += factor * scatter_slopes[j, c]
    for p in range(intensity.size):
        factor = norm * intensity[p]
        if factor != 0.0:
            for c in range(rate.size):
                rate[c] += factor * templates[0, p, c]
            if linear.gain:
                for c in range(rate.size):
                    rate[c] += factor * (ds * templates[1, p, c] + do * templates[2, p, c])
    last = linear.reference.size - 1
    for k in range(linear.reference.size):
        factor = (theta[plan.elements + 4 + k] - linear.reference[k]) * (norm if k < last else 1.0)
        if factor != 0.0:
            for c in range(rate.size):
                rate[c] += factor * linear.nuisance[k, c]


@njit(nogil=True, cache=True, error_model="numpy")
def _fill_jacobian(theta, plan, linear, wanted, intensity, slopes, jacobian):
    """Derivatives of the rates with respect to the free parameters, (parameter, channel)."""
    elements = plan.elements
    lines, channels = intensity.size, jacobian.shape[1]
    norm, other = _norms(theta, plan)
    ds, do = _gain_change(theta, plan, linear)
    templates, scatter, scatter_slopes = linear.templates, linear.scatter, linear.scatter_slopes
    for j in range(theta.size):
        if not plan.free[j]:
            continue
        row = jacobian[j]
        row[:] = 0.0
        if j <= elements:
            for p in range(lines):
                if not wanted[p]:
                    continue
                factor = intensity[p]
                if j < elements:
                    factor = norm * (slopes[p, j] - slopes[p, plan.balance]) / 100.0
                for c in range(channels):
                    row[c] += factor * templates[0, p, c]
                if linear.gain:
                    for c in range(channels):
                        row[c] += factor * (ds * templates[1, p, c] + do * templates[2, p, c])
        if j < elements and j < scatter_slopes.shape[0]:
            for c in range(channels):
                row[c] += other * (scatter_slopes[j, c] - scatter_slopes[plan.balance, c])
        if j == elements + 1 or (j == elements and plan.tie_norms):
            factor = plan.scatter_ratio if j == elements else 1.0
            for i in range(scatter_slopes.shape[0]):
                moved = theta[i] - linear.centre[i]
                if moved != 0.0:
                    for c in range(channels):
                        row[c] += factor * moved * scatter_slopes[i, c]
            for c in range(channels):
                row[c] += factor * scatter[0, c]
                if linear.gain:
                    row[c] += factor * (ds * scatter[1, c] + do * scatter[2, c])
        if j == elements:
            for k in range(linear.reference.size - 1):
                moved = theta[elements + 4 + k] - linear.reference[k]
                for c in range(channels):
                    row[c] += moved * linear.nuisance[k, c]
        if j > elements + 3:
            factor = norm if j < theta.size - 1 else 1.0
            for c in range(channels):
                row[c] = factor * linear.nuisance[j - elements - 4, c]
        elif j > elements + 1:
            i = j - elements - 1
            for p in range(lines):
                factor = norm * intensity[p]
                for c in range(channels):
                    row[c] += factor * templates[i, p, c]
            for c in range(channels):
                row[c] += other * scatter[i, c]


@njit(nogil=True, cache=True, error_model="numpy")
def _along_mode(theta, plan):
    """How far the weights are from the prior's mean along its line, in units of that line's curvature."""
    total = 0.0
    for i in range(plan.elements):
        total += plan.prior_mode[i] * (theta[i] - plan.prior_mean[i])
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _curvature(theta, plan, data, rate, jacobian, gradient, hessian):
    """The statistic; gradient and expected second derivatives of statistic + prior go into the last two."""
    size = theta.size
    free = plan.free
    value = 0.0
    gradient[:] = 0.0
    hessian[:] = 0.0
    for c in range(rate.size):
        part, first, second = _point(
            data.statistic, rate[c], data.counts[c], data.back[c], data.exposure, data.back_exposure,
            data.variance[c],
        )  # fmt: skip
        value += part
        for i in range(size):
            if free[i]:
                gradient[i] += first * jacobian[i, c]
                weighted = second * jacobian[i, c]
                for j in range(i + 1):
                    if free[j]:
                        hessian[i, j] += weighted * jacobian[j, c]
    for i in range(size):
        weight = 2.0 * plan.prior_weight[i]
        if weight > 0.0 and (free[i] or i == plan.balance):
            pull = weight * (theta[i] - plan.prior_mean[i])
            _add_quadratic(gradient, hessian, i, plan, pull, weight)
    along = _along_mode(theta, plan)
    for i in range(plan.elements):
        if free[i] and plan.prior_mode[i] != 0.0:
            gradient[i] -= 2.0 * plan.prior_mode[i] * along
            for j in range(i + 1):
                if free[j]:
                    hessian[i, j] -= 2.0 * plan.prior_mode[i] * plan.prior_mode[j]
    outside = min(theta[plan.balance] - plan.balance_lower, 0.0)
    outside += max(theta[plan.balance] - plan.balance_upper, 0.0)
    if outside != 0.0:
        _add_quadratic(gradient, hessian, plan.balance, plan, 2.0 * _WALL * outside, 2.0 * _WALL)
    for i in range(size):
        for j in range(i):
            hessian[j, i] = hessian[i, j]
    return value


@njit(nogil=True, cache=True, error_model="numpy")
def _bounded_step(theta, plan, gradient, hessian, damping, step):
    """A damped step within the bounds, into `step`; whether there is one.

    Parameters that would leave through their bound stay; those that the step throws against it are held there, and the
    others are solved for again.
    """
    size = theta.size
    lower, upper = plan.lower, plan.upper
    moving = np.zeros(size, np.bool_)
    for i in range(size):
        moving[i] = plan.free[i] and hessian[i, i] > 0.0
        if moving[i] and theta[i] <= lower[i] and gradient[i] > 0.0:
            moving[i] = False
        if moving[i] and theta[i] >= upper[i] and gradient[i] < 0.0:
            moving[i] = False
    damped = hessian.copy()
    for i in range(size):
        damped[i, i] += damping * hessian[i, i]
    held = np.zeros(size)
    for _ in range(size + 1):
        if not _solve(damped, -gradient - hessian @ held, moving, step):
            return False
        hit = False
        for i in range(size):
            if not moving[i]:
                continue
            end = theta[i] + step[i]
            if end < lower[i] or end > upper[i]:
                held[i] = (lower[i] if end < lower[i] else upper[i]) - theta[i]
                moving[i] = False
                hit = True
        if not hit:
            break
    for i in range(size):
        step[i] = held[i] + (step[i] if moving[i] else 0.0)
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def penalty_kernel(theta, plan):
    """The priors, and a steep wall at the bounds of the balance element."""
    total = 0.0
    for j in range(theta.size):
        total += plan.prior_weight[j] * (theta[j] - plan.prior_mean[j]) ** 2
    total -= _along_mode(theta, plan) ** 2
    below = min(theta[plan.balance] - plan.balance_lower, 0.0)
    above = max(theta[plan.balance] - plan.balance_upper, 0.0)
    return total + (_WALL * below**2 + _WALL * above**2)


_WALL = 1e6


@njit(nogil=True, cache=True, error_model="numpy")
def _evaluate(theta, plan, data, linear, surface, wanted, intensity, rate):
    """Statistic + prior at `theta`, whose rates go into `rate`; infinite where a weight is out of the question."""
    elements, balance = plan.elements, plan.balance
    fractions = theta[:elements] / 100.0
    for j in range(elements):
        if not fractions[j] >= 0.0 and j != balance:
            return np.inf
    if fractions[balance] < 0.0:
        if fractions[balance] <= -0.05:
            return np.inf
        fractions[balance] = 0.0
    intensity_kernel(fractions, surface, wanted, intensity)
    _rates(theta, plan, linear, intensity, rate)
    value = statistic_kernel(
        data.statistic, rate, data.counts, data.back, data.exposure, data.back_exposure, data.variance
    )  # fmt: skip
    return value + penalty_kernel(theta, plan)


@njit(nogil=True, cache=True, error_model="numpy")
def fit_kernel(
    theta, plan, data, linear, surface, wanted, max_iterations, tolerance, hessian, jacobian, rate
):
    """Minimise a statistic over `theta` = (weights in wt%, XRF norm, scatter norm, slope, offset), in place.

    Levenberg–Marquardt on the free parameters of a `FitPlan`, with `Counts`, a `LinearModel` and a `Surface`; a
    parameter whose bound stands in the way is held there for that step. On return `hessian` holds the expected second
    derivatives of statistic + prior, `jacobian` the derivatives of the rates, `rate` the model in counts/s.
    """
    elements, size = plan.elements, theta.size
    lines, channels = surface.excited.shape[0], rate.size
    intensity, slopes = np.zeros(lines), np.zeros((lines, elements))
    gradient, step = np.zeros(size), np.zeros(size)
    trial, trial_rate = theta.copy(), np.zeros(channels)
    damping, converged, iterations = 1e-3, False, 0
    value = np.inf
    fresh = True
    while iterations < max_iterations:
        if fresh:
            jacobian_kernel(theta[:elements] / 100.0, surface, wanted, intensity, slopes)
            _rates(theta, plan, linear, intensity, rate)
            _fill_jacobian(theta, plan, linear, wanted, intensity, slopes, jacobian)
            value = _curvature(theta, plan, data, rate, jacobian, gradient, hessian)
            fresh = False
        objective = value + penalty_kernel(theta, plan)
        solved = _bounded_step(theta, plan, gradient, hessian, damping, step)
        iterations += 1
        if not solved:
            damping = max(damping * 10.0, 1e-6)
            if damping > 1e12:
                break
            continue
        expected = 0.0
        total = 0.0
        for i in range(size):
            trial[i] = theta[i]
            if step[i] != 0.0:
                trial[i] = min(max(theta[i] + step[i], plan.lower[i]), plan.upper[i])
            expected -= gradient[i] * step[i]
            for j in range(size):
                expected -= 0.5 * step[i] * hessian[i, j] * step[j]
        for j in range(elements):
            if j != plan.balance:
                total += trial[j]
        trial[plan.balance] = 100.0 - total
        if abs(expected) < tolerance * 1e-3 and damping < 1.0:
            converged = True
            break
        candidate = _evaluate(trial, plan, data, linear, surface, wanted, intensity, trial_rate)
        if candidate <= objective:
            gained = objective - candidate
            theta[:] = trial
            fresh = True
            ratio = gained / expected if expected > 0.0 else 0.0
            damping = max(damping * (0.1 if ratio > 0.5 else 0.5 if ratio > 0.25 else 2.0), 1e-12)
            if gained < tolerance and expected < tolerance and damping < 10.0:
                converged = True
                # One more pass for derivatives and model at the minimum.
                if iterations < max_iterations:
                    max_iterations = iterations + 1
                    tolerance = np.inf
        else:
            damping = max(damping * 4.0, 1e-8)
            if damping > 1e12:
                converged = abs(expected) < tolerance
                break
    return value, iterations, converged


@njit(nogil=True, cache=True, error_model="numpy")
def _add_quadratic(gradient, hessian, i, plan, first, second):
    # A term in parameter i alone; the weight of the balance element is 100 − the others.
    if i != plan.balance:
        gradient[i] += first
        hessian[i, i] += second
        return
    for a in range(plan.elements):
        if a != plan.balance and plan.free[a]:
            gradient[a] -= first
            for b in range(a + 1):
                if b != plan.balance and plan.free[b]:
                    hessian[a, b] += second
