"""Kernels of the spectral fit: templates of lines, statistics, and a bounded Levenberg–Marquardt."""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
from numba import njit

from lunarray.xrf.kernels import intensity_kernel, jacobian_kernel

STATISTICS = MappingProxyType({"chi2": 0, "cstat": 1, "wstat": 2})


@njit(nogil=True, cache=True, error_model="numpy")
def evaluate_kernel(
    fractions, excited, mu, begin, mu_line, secondary, line_element, base, base_ratio, parent, parent_ratio,
    sin_in, sin_out, wanted, intensity,
):  # fmt: skip
    """`kernels.intensity_kernel`, compiled together with the fit."""
    intensity_kernel(
        fractions, excited, mu, begin, mu_line, secondary, line_element, base, base_ratio, parent,
        parent_ratio, sin_in, sin_out, wanted, intensity,
    )  # fmt: skip


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
def _rates(
    theta, elements, tie, scatter_start, intensity, templates, scatter, scatter_slopes, composition, ds, do, gain,
    rate,
):  # fmt: skip
    norm, other = theta[elements], theta[elements + 1]
    if tie:
        other = scatter_start * norm
    for c in range(rate.size):
        rate[c] = other * scatter[0, c]
        if gain:
            rate[c] += other * (ds * scatter[1, c] + do * scatter[2, c])
    for j in range(scatter_slopes.shape[0]):
        factor = other * (theta[j] - composition[j])
        if factor != 0.0:
            for c in range(rate.size):
                rate[c] += factor * scatter_slopes[j, c]
    for p in range(intensity.size):
        factor = norm * intensity[p]
        if factor != 0.0:
            for c in range(rate.size):
                rate[c] += factor * templates[0, p, c]
            if gain:
                for c in range(rate.size):
                    rate[c] += factor * (ds * templates[1, p, c] + do * templates[2, p, c])


@njit(nogil=True, cache=True, error_model="numpy")
def penalty_kernel(theta, elements, mean, weight, balance, low, high):
    """The prior, and a steep wall at the bounds of the balance element."""
    total = 0.0
    for j in range(elements):
        total += weight[j] * (theta[j] - mean[j]) ** 2
    total += (
        _WALL * min(theta[balance] - low, 0.0) ** 2 + _WALL * max(theta[balance] - high, 0.0) ** 2
    )
    return total


_WALL = 1e6


@njit(nogil=True, cache=True, error_model="numpy")
def fit_kernel(
    theta, lower, upper, free, balance, balance_lower, balance_upper, prior_mean, prior_weight, tie, scatter_start,
    statistic,
    counts, back, t, tb, variance, templates, scatter, scatter_slopes, composition, slope, offset, gain,
    excited, mu, begin, mu_line, secondary, line_element, base, base_ratio, parent, parent_ratio, sin_in, sin_out,
    wanted, max_iterations, tolerance, hessian, rate,
):  # fmt: skip
    """Minimise a statistic over `theta` = (weights in wt%, XRF norm, scatter norm, slope, offset), in place.

    Levenberg–Marquardt on the free parameters; a parameter whose bound stands in the way is held there for that step.
    The weight of the balance element is 100 − the others. The model is linear in the gain around (slope, offset), where
    `templates` and `scatter`, (3, ..., channel), hold value and derivatives, and the scattered continuum is linear in
    the weights around `composition`, with derivatives `scatter_slopes`, (element or 0, channel). On return `hessian`
    holds the expected second derivatives of statistic + prior, `rate` the model in counts/s.

    Returns
    -------
    statistic without prior, number of steps, whether it converged.
    """
    elements = prior_mean.size
    size = theta.size
    lines, channels = excited.shape[0], rate.size
    intensity, slopes = np.zeros(lines), np.zeros((lines, elements))
    gradient, step = np.zeros(size), np.zeros(size)
    jacobian = np.zeros((size, channels))
    trial, trial_rate = theta.copy(), np.zeros(channels)
    damped, moving = np.zeros((size, size)), np.zeros(size, np.bool_)
    fractions = np.empty(elements)
    damping, converged, iterations = 1e-3, False, 0
    value = np.inf
    fresh = True
    while iterations < max_iterations:
        if fresh:
            fractions[:] = theta[:elements] / 100.0
            jacobian_kernel(
                fractions, excited, mu, begin, mu_line, secondary, line_element, base, base_ratio, sin_in,
                sin_out, wanted, intensity, slopes,
            )  # fmt: skip
            ds, do = theta[elements + 2] - slope, theta[elements + 3] - offset
            _rates(
                theta, elements, tie, scatter_start, intensity, templates, scatter, scatter_slopes, composition,
                ds, do, gain, rate,
            )  # fmt: skip
            norm, other = theta[elements], theta[elements + 1]
            if tie:
                other = scatter_start * norm
            for j in range(size):
                if not free[j]:
                    continue
                for c in range(channels):
                    jacobian[j, c] = 0.0
                if j <= elements:
                    for p in range(lines):
                        if not wanted[p]:
                            continue
                        factor = intensity[p]
                        if j < elements:
                            factor = norm * (slopes[p, j] - slopes[p, balance]) / 100.0
                        for c in range(channels):
                            jacobian[j, c] += factor * templates[0, p, c]
                        if gain:
                            for c in range(channels):
                                jacobian[j, c] += factor * (
                                    ds * templates[1, p, c] + do * templates[2, p, c]
                                )
                if j < elements and j < scatter_slopes.shape[0]:
                    for c in range(channels):
                        jacobian[j, c] += other * (
                            scatter_slopes[j, c] - scatter_slopes[balance, c]
                        )
                if j == elements + 1 or (j == elements and tie):
                    factor = scatter_start if j == elements else 1.0
                    for i in range(scatter_slopes.shape[0]):
                        moved = theta[i] - composition[i]
                        if moved != 0.0:
                            for c in range(channels):
                                jacobian[j, c] += factor * moved * scatter_slopes[i, c]
                    for c in range(channels):
                        jacobian[j, c] += factor * scatter[0, c]
                        if gain:
                            jacobian[j, c] += factor * (ds * scatter[1, c] + do * scatter[2, c])
                if j > elements + 1:
                    i = j - elements - 1
                    for p in range(lines):
                        factor = norm * intensity[p]
                        for c in range(channels):
                            jacobian[j, c] += factor * templates[i, p, c]
                    for c in range(channels):
                        jacobian[j, c] += other * scatter[i, c]
            value = 0.0
            gradient[:] = 0.0
            hessian[:] = 0.0
            for c in range(channels):
                part, first, second = _point(
                    statistic, rate[c], counts[c], back[c], t, tb, variance[c]
                )
                value += part
                for i in range(size):
                    if free[i]:
                        gradient[i] += first * jacobian[i, c]
                        weighted = second * jacobian[i, c]
                        for j in range(i + 1):
                            if free[j]:
                                hessian[i, j] += weighted * jacobian[j, c]
            for i in range(elements):
                if prior_weight[i] > 0.0 and (free[i] or i == balance):
                    pull = 2.0 * prior_weight[i] * (theta[i] - prior_mean[i])
                    _add_quadratic(
                        gradient, hessian, i, balance, pull, 2.0 * prior_weight[i], free, elements
                    )
            outside = min(theta[balance] - balance_lower, 0.0) + max(
                theta[balance] - balance_upper, 0.0
            )
            if outside != 0.0:
                _add_quadratic(
                    gradient,
                    hessian,
                    balance,
                    balance,
                    2.0 * _WALL * outside,
                    2.0 * _WALL,
                    free,
                    elements,
                )
            for i in range(size):
                for j in range(i):
                    hessian[j, i] = hessian[i, j]
            fresh = False
        objective = value + penalty_kernel(
            theta, elements, prior_mean, prior_weight, balance, balance_lower, balance_upper
        )
        # Parameters that would leave through their bound stay; so do those that a step throws against it.
        for i in range(size):
            moving[i] = free[i] and hessian[i, i] > 0.0
            if moving[i] and theta[i] <= lower[i] and gradient[i] > 0.0:
                moving[i] = False
            if moving[i] and theta[i] >= upper[i] and gradient[i] < 0.0:
                moving[i] = False
        fixed_step = np.zeros(size)
        solved = True
        for _ in range(size + 1):
            right = -gradient - hessian @ fixed_step
            damped[:] = hessian
            for i in range(size):
                damped[i, i] += damping * hessian[i, i]
            solved = _solve(damped, right, moving, step)
            if not solved:
                break
            hit = False
            for i in range(size):
                if moving[i]:
                    if theta[i] + step[i] < lower[i]:
                        fixed_step[i] = lower[i] - theta[i]
                        moving[i] = False
                        hit = True
                    elif theta[i] + step[i] > upper[i]:
                        fixed_step[i] = upper[i] - theta[i]
                        moving[i] = False
                        hit = True
            if not hit:
                break
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
            move = fixed_step[i] + (step[i] if moving[i] else 0.0)
            if move != 0.0:
                trial[i] = min(max(theta[i] + move, lower[i]), upper[i])
            step[i] = move
        for i in range(size):
            expected -= gradient[i] * step[i]
            for j in range(size):
                expected -= 0.5 * step[i] * hessian[i, j] * step[j]
        for j in range(elements):
            if j != balance:
                total += trial[j]
        trial[balance] = 100.0 - total
        if abs(expected) < tolerance * 1e-3 and damping < 1.0:
            converged = True
            break
        fractions[:] = trial[:elements] / 100.0
        usable = True
        for j in range(elements):
            usable = usable and (fractions[j] >= 0.0 or j == balance)
        if fractions[balance] < 0.0:
            usable = fractions[balance] > -0.05
            fractions[balance] = 0.0 if usable else fractions[balance]
        candidate = np.inf
        if usable:
            intensity_kernel(
                fractions, excited, mu, begin, mu_line, secondary, line_element, base, base_ratio, parent,
                parent_ratio, sin_in, sin_out, wanted, intensity,
            )  # fmt: skip
            _rates(
                trial, elements, tie, scatter_start, intensity, templates, scatter, scatter_slopes,
                composition, trial[elements + 2] - slope, trial[elements + 3] - offset, gain, trial_rate,
            )  # fmt: skip
            candidate = statistic_kernel(statistic, trial_rate, counts, back, t, tb, variance)
            candidate += penalty_kernel(
                trial, elements, prior_mean, prior_weight, balance, balance_lower, balance_upper
            )
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
def _add_quadratic(gradient, hessian, i, balance, first, second, free, elements):
    # A term in the weight of element i alone; that of the balance element is 100 − the others.
    if i != balance:
        gradient[i] += first
        hessian[i, i] += second
        return
    for a in range(elements):
        if a != balance and free[a]:
            gradient[a] -= first
            for b in range(a + 1):
                if b != balance and free[b]:
                    hessian[a, b] += second
