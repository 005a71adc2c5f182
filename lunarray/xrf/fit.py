"""Spectral fit: composition, two norms and gain from one X-ray spectrum. Plain arrays in, a frozen result out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lunarray.errors import InputError
from lunarray.xrf.diagnosis import line_misfit, particle_excess
from lunarray.xrf.fit_kernels import (
    STATISTICS,
    Counts,
    FitPlan,
    LinearModel,
    fit_kernel,
    penalty_kernel,
    precision_kernel,
    statistic_kernel,
)
from lunarray.xrf.model import SpectralModel
from lunarray.xrf.nuisance import Nuisances, Unknowns, error_parts, inverse_of
from lunarray.xrf.plan import judge_weights, parameter_names, plan_fit, weight_spread
from lunarray.xrf.settings import ELEMENT_FLAGS, FitResult, FitSettings, Observation


def check_observation(data: Observation, model: SpectralModel) -> str:
    """What stands against a fit whatever the settings are: "fitted" if nothing does.

    Raises
    ------
    InputError
        For a spectrum or a background of other channels than those of the model's response.
    """
    response = model.full_response
    counts = np.asarray(data.counts)
    if counts.shape != (response.channels,):
        raise InputError(
            f"a spectrum of {counts.size} channels and a response of {response.channels}",
            where="counts",
            remedy="Use the response made for this binning, or Response.group",
        )
    if data.background is not None and np.shape(data.background) != counts.shape:
        raise InputError(
            f"a spectrum of {counts.size} channels and a background of {np.size(data.background)}",
            where="background",
            remedy="Rebin one to the other's channels",
        )
    if not (np.isfinite(data.exposure) and data.exposure > 0):
        return "bad_data"
    if data.background is not None and not data.background_exposure > 0:
        return "bad_data"
    return model.geometry.status()


def rate_variance(
    how: str, counts: np.ndarray, back: np.ndarray, data: Observation, model: np.ndarray | None
) -> np.ndarray:
    """Variance of the background-subtracted rate; 0 marks a channel to be left out."""
    t, tb = data.exposure, data.background_exposure
    own = back / tb**2 if data.background is not None else np.zeros_like(counts)
    if how == "gehrels":
        return (1 + np.sqrt(counts + 0.75)) ** 2 / t**2 + own
    if how == "model" and model is not None:
        expected = model + (back / tb if data.background is not None else 0.0)
        return np.maximum(expected, 1e-12) / t + own
    return counts / t**2 + own


def spectrum_statistic(
    data: Observation, model: Any, channels: slice, settings: FitSettings | None = None
) -> float:
    """Compute the χ² or the likelihood of a model spectrum.

    `model` (fitted channel,) float64: counts/s; `channels`: which channels of the data the model covers; `settings`:
    its `statistic` and `variance` are used.
    """
    settings = settings if settings is not None else FitSettings()
    model = np.ascontiguousarray(model, np.float64)
    first, stop, _ = channels.indices(np.size(data.counts))
    counts, back = data.arrays(first, stop)
    if counts.shape != model.shape:
        raise InputError(f"a model of {model.size} channels for {counts.size}", where="model")
    variance = rate_variance(settings.variance, counts, back, data, model)
    tb = data.background_exposure if data.background is not None else 0.0
    return statistic_kernel(
        STATISTICS[settings.statistic], model, counts, back, data.exposure, tb, variance
    )


def fit_spectrum(
    data: Observation,
    model: SpectralModel,
    settings: FitSettings | None = None,
    *,
    warm_start: FitResult | None = None,
    unknowns: Unknowns | None = None,
) -> FitResult:
    """Fit composition, norms and gain to one spectrum.

    `data`: all channels of the model's response; `warm_start`: begin from what this one found; a fit that failed is
    ignored; `unknowns`: what is not known of Sun, response and ground: it is fitted within its errors, or enters those
    of the weights, which are then total ones; without it they are statistical. Returns what cannot be fitted (night, no
    counts, missing geometry) says so in `status` and is NaN. InputError for spectrum, background, response or settings
    that do not fit together.
    """
    task = prepare(data, model, settings, unknowns)
    if task.status != "fitted":
        return failed_fit(task.plan, model, task.status)
    solver, theta, iterations, converged = solve(task, warm_start)
    settings, plan, elements = task.settings, task.plan, model.tables.elements
    free = np.flatnonzero(plan.free)
    if settings.tie_norms:
        theta[len(elements) + 1] = theta[len(elements)] * settings.scatter_norm
    chi2 = settings.statistic == "chi2"
    points = int(np.count_nonzero(solver.counts.variance > 0)) if chi2 else model.channels
    # Unknowns with a prior are as many data as parameters.
    dof = points - int(np.count_nonzero(free < len(elements) + 4))
    more: dict[str, Any] = {}
    if task.nuisances is None:
        covariance = solver.covariance()
    else:
        covariance, more = solver.totals(theta)
    return fit_result(
        model,
        plan,
        theta,
        covariance,
        solver.rate,
        statistic=float(solver.value),
        dof=dof,
        iterations=iterations,
        status="fitted" if converged else "not_converged",
        held=task.held,
        **more,
    )


class Task(NamedTuple):
    """One spectrum, and all that is to be found from it; `status` is what stands against it, "fitted" if nothing."""

    data: Observation
    model: SpectralModel
    settings: FitSettings
    plan: FitPlan
    nuisances: Nuisances | None
    held: np.ndarray  # (element,): those that keep their value but for its error
    status: str


def prepare(
    data: Observation,
    model: SpectralModel,
    settings: FitSettings | None = None,
    unknowns: Unknowns | None = None,
) -> Task:
    """What is fitted to a spectrum, within which limits and priors; arguments and errors as of `fit_spectrum`."""
    settings = settings if settings is not None else FitSettings()
    status = check_observation(data, model)
    elements = model.tables.elements
    nuisances = None
    if unknowns is not None and status == "fitted":
        nuisances = Nuisances(model, unknowns, particle_excess(data, model))
    held = np.isin(elements, settings.frozen)
    if (
        unknowns is not None
        and nuisances is not None
        and unknowns.oxygen > 0
        and "O" in settings.frozen
    ):
        # It is not seen, but what it is off the closing element is, and along the ground's line it goes with others.
        sigma = {"O": unknowns.oxygen} | dict(settings.prior_sigma)
        others_frozen = tuple(e for e in settings.frozen if e != "O")
        settings = replace(settings, frozen=others_frozen, prior_sigma=sigma)
    plan = plan_fit(elements, settings, 0 if nuisances is None else nuisances.size)
    counts, back = data.arrays(model.first, model.stop)
    if status == "fitted":
        if not (np.all(np.isfinite(counts)) and np.all(np.isfinite(back))) or counts.min() < 0:
            status = "bad_data"
        elif counts.sum() == 0:
            status = "no_counts"
        elif not model.surface.excited.any():
            status = "no_solar_flux"
    if status == "fitted" and settings.statistic == "chi2" and settings.variance == "data":
        used = np.count_nonzero(counts + back > 0)
        if used <= np.count_nonzero(plan.free):
            status = "too_few_channels"
    return Task(data, model, settings, plan, nuisances, held, status)


def solve(task: Task, warm_start: FitResult | None = None) -> tuple[Solver, np.ndarray, int, bool]:
    """Find the best parameters; the solver that did, all parameters, its steps and whether these converged."""
    settings, plan, n = task.settings, task.plan, len(task.model.tables.elements)
    theta = plan.start.copy()
    if warm_start is not None and warm_start.status in ("fitted", "not_converged"):
        theta[:n] = warm_start.weights
        theta[n : n + 4] = (
            warm_start.xrf_norm, warm_start.scatter_norm, warm_start.slope, warm_start.offset,
        )  # fmt: skip
        if warm_start.unknowns.size == theta.size - n - 4:
            theta[n + 4 :] = warm_start.unknowns
        frozen = ~plan.free
        frozen[plan.balance] = False
        theta[frozen] = plan.start[frozen]
        theta = np.clip(theta, plan.lower, plan.upper)
        others = np.arange(n) != plan.balance
        theta[plan.balance] = 100 - theta[:n][others].sum()
    solver = Solver(task.data, task.model, settings, plan, task.nuisances)
    if task.nuisances is not None:
        iterations, converged = solver.with_unknowns(theta)
    elif settings.fit_gain:
        iterations, converged = solver.with_gain(theta)
    else:
        iterations, converged = solver.without_gain(theta)
    return solver, theta, iterations, converged


#: Rounds of a fit whose model is made again between them, and the finest gain steps (slope, keV) that are still tried.
_ROUNDS, _FINEST = 20, (1e-5, 2e-5)
#: Change of the statistic between rounds that is none.
_SETTLED = 0.05
#: Rounds in which unknowns are followed, and how far in each (standard deviations).
_RENEWALS, _STRIDE = 12, 1.0
#: How much coarser than asked for the steps between rounds may end: the next round goes on from there.
_COARSER = 100.0
#: Derivatives stay as they are where unknowns have moved by less than so many standard deviations since.
_NEAR = 0.3


class Solver:
    """Repeats the fit kernel around what it takes as given: the scattered continuum, the gain, the variances."""

    def __init__(
        self, data: Observation, model: SpectralModel, settings: FitSettings, plan: FitPlan,
        nuisances: Nuisances | None = None,
    ) -> None:  # fmt: skip
        self.data, self.model, self.settings, self.plan = data, model, settings, plan
        counts, back = data.arrays(model.first, model.stop)
        lines, size = model.fluorescence.line_energy.size, plan.start.size
        self.n = len(model.tables.elements)
        self.recomputed = model.conventions.scatter == "continuum" and model.given_scatter is None
        self.templates = np.zeros((3, lines, model.channels))
        self.scatter = np.zeros((3, model.channels))
        self.scatter_slopes = np.zeros((0, model.channels))
        self.centre = plan.start[: self.n].copy()
        self.hessian = np.zeros((size, size))
        self.jacobian = np.zeros((size, model.channels))
        self.rate = np.zeros(model.channels)
        self.nuisances, self.surface = nuisances, model.surface
        self.derivatives = np.zeros((0 if nuisances is None else nuisances.size, model.channels))
        self.reference = np.zeros(len(self.derivatives))
        self.fixed = np.zeros(model.channels)
        self.inflation = 1.0
        self.counts = Counts(
            STATISTICS[settings.statistic],
            counts,
            back,
            float(data.exposure),
            float(data.background_exposure) if data.background is not None else 0.0,
            rate_variance(settings.variance, counts, back, data, None),
        )
        self.value = np.nan
        self.wanted = np.ones(lines, np.bool_)

    def without_gain(self, theta: np.ndarray) -> tuple[int, bool]:
        """Fit, and compute the scattered continuum (and the variances, where they are the model's) again in between."""
        settings, n = self.settings, self.n
        slope, offset = theta[n + 2], theta[n + 3]
        self.templates[0] = self.model.line_templates(slope, offset)
        renewals = max(1, settings.scatter_iterations) if self.recomputed else 1
        by_model = settings.statistic == "chi2" and settings.variance == "model"
        iterations, converged = 0, False
        for number in range(_ROUNDS if by_model else renewals):
            if number < renewals:
                self._renew_scatter(theta, slope, offset)
            before = theta.copy()
            steps, converged = self._run(theta, self.plan, slope, offset)
            iterations += steps
            if by_model:
                settled = np.all(np.abs(theta - before) <= 1e-4 * (1e-3 + np.abs(theta)))
                if number >= renewals and settled:
                    break
                self._renew_variance(self.rate)
        return iterations, converged

    def with_unknowns(self, theta: np.ndarray) -> tuple[int, bool]:
        """Fit, and make the model again around the unknowns and the composition that were found, until these stay."""
        assert self.nuisances is not None
        n, plan = self.n, self.plan
        own = slice(n + 4, None)
        iterations, converged, before = 0, False, np.inf
        lower, upper = plan.lower.copy(), plan.upper.copy()
        derived = theta[own].copy()
        for number in range(_RENEWALS):
            self.reference = theta[own].copy()
            ratio = plan.scatter_ratio
            if not plan.tie_norms:
                ratio = theta[n + 1] / max(theta[n], 1e-300)
            self.centre = theta[:n].copy()
            moved = np.abs(self.reference - derived).max(initial=0.0)
            derive = number == 0 or bool(moved > _NEAR)
            derived = self.reference if derive else derived
            self.templates[0], self.scatter[0], slopes, self.derivatives = self.nuisances.renew(
                self.centre, self.reference, ratio, derive
            )
            self.surface = self.nuisances.now.surface
            self.fixed = self.nuisances.fixed(self.reference)
            if self.settings.scatter_slopes and self.recomputed:
                self.scatter_slopes = slopes
            if self.settings.statistic == "chi2" and self.settings.variance == "model" and number:
                self._renew_variance(self.rate)
            # No farther in one go than the model, made at the reference, can be trusted.
            lower[own] = np.maximum(plan.lower[own], self.reference - _STRIDE)
            suns = slice(n + 4, n + 4 + self.nuisances.lowest.size)
            lower[suns] = np.maximum(lower[suns], self.nuisances.lowest)
            upper[own] = np.minimum(plan.upper[own], self.reference + _STRIDE)
            near = plan._replace(
                lower=lower,
                upper=upper,
                prior_weight=plan.prior_weight * self.inflation,
                prior_mode=plan.prior_mode * np.sqrt(self.inflation),
            )
            steps, converged = self._run(theta, near, theta[n + 2], theta[n + 3], _COARSER)
            iterations += steps
            value = self.value + penalty_kernel(theta, near)
            moved = np.abs(theta[own] - self.reference).max(initial=0.0)
            # What the model does not describe is no evidence against the priors: the data count so much less.
            dof = self.rate.size - int(np.count_nonzero(plan.free[: n + 4]))
            self.inflation = max(1.0, self.value / dof - np.sqrt(2 / dof))
            if number and converged and (moved < 0.05 or abs(before - value) < _SETTLED):
                break
            before = value
        return iterations, converged

    def covariance(self) -> np.ndarray:
        """Of the free parameters, from the curvature of statistic and priors at the minimum."""
        free = np.flatnonzero(self.plan.free)
        return inverse_of(self.hessian[np.ix_(free, free)] / (2 * self.inflation))

    def totals(self, theta: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Covariance of the free parameters with all that is not known, and what else a result says of it."""
        assert self.nuisances is not None
        plan, n, nuisances = self.plan, self.n, self.nuisances
        norm = theta[n]
        ratio = plan.scatter_ratio if plan.tie_norms else theta[n + 1] / max(norm, 1e-300)
        intensity, lines = nuisances.now.line_intensities(theta[:n]), self.templates[0]
        changes = nuisances.unfitted(theta[:n], intensity, lines, ratio)
        parts, covariance = error_parts(
            plan, nuisances.sources, self.jacobian, precision_kernel(self.counts, self.rate), self.inflation,
            [(source, norm * change) for source, change in changes],
        )  # fmt: skip
        spread = weight_spread(plan)
        width, _, _ = nuisances.shape(theta[n + 4 :])
        return covariance, {
            "parts": np.sqrt(np.maximum(np.einsum("ei,sij,ej->se", spread, parts, spread), 0.0)),
            "unknowns": theta[n + 4 :].copy(),
            "unknown_names": nuisances.names,
            "line_width": float(width),
            "misfit": line_misfit(self.data, self.model, self.rate),
            "intensity": intensity,
            "templates": lines,
        }

    def with_gain(self, theta: np.ndarray) -> tuple[int, bool]:
        """Fit with a model linear in the gain, within a region that grows and shrinks as that proves right or wrong."""
        settings, plan, model, n = self.settings, self.plan, self.model, self.n
        # Templates bend where a line passes from one energy bin to the next: differences over such a bin.
        width = float(np.median(model.full_response.energy_hi - model.full_response.energy_lo))
        do, ds = width / 2, width / 4
        radius = np.array([0.01, 2 * width])
        best, best_rate = theta.copy(), self._true_rate(theta)
        if settings.variance == "model":
            self._renew_variance(best_rate)
        objective = self._objective(theta, best_rate)
        iterations, converged = 0, False
        lower, upper = plan.lower.copy(), plan.upper.copy()
        for _ in range(_ROUNDS):
            slope, offset = best[n + 2], best[n + 3]
            self.templates[0] = model.line_templates(slope, offset)
            self._renew_scatter(best, slope, offset)
            for i, (a, b) in enumerate(((ds, 0.0), (0.0, do)), start=1):
                above, below = (slope + a, offset + b), (slope - a, offset - b)
                step = 2 * (a + b)
                self.templates[i] = (
                    model.line_templates(*above) - model.line_templates(*below)
                ) / step
                self.scatter[i] = (
                    model.scatter_template(best[:n], *above)
                    - model.scatter_template(best[:n], *below)
                ) / step
            at = best[n + 2 : n + 4]
            lower[n + 2 : n + 4] = np.maximum(plan.lower[n + 2 : n + 4], at - radius)
            upper[n + 2 : n + 4] = np.minimum(plan.upper[n + 2 : n + 4], at + radius)
            theta[:] = best
            near = plan._replace(lower=lower, upper=upper)
            steps, ended = self._run(theta, near, slope, offset)
            iterations += steps
            rate = self._true_rate(theta)
            value = self._objective(theta, rate)
            if value <= objective:
                gained, objective = objective - value, value
                best, best_rate = theta.copy(), rate
                radius = np.minimum(radius * 2, (0.02, 4 * width))
                if gained < 100 * settings.tolerance and ended:
                    converged = True
                    break
            else:
                radius = radius / 4
                if np.all(radius < _FINEST):
                    converged = True
                    break
        theta[:] = best
        self.rate[:] = best_rate
        self.value = self._objective(theta, best_rate) - self._penalty(theta)
        return iterations, converged

    def _renew_scatter(self, theta: np.ndarray, slope: float, offset: float) -> None:
        self.centre = theta[: self.n].copy()
        self.scatter[0] = self.model.scatter_template(self.centre, slope, offset)
        if self.recomputed and self.settings.scatter_slopes:
            self.scatter_slopes = self.model.scatter_slopes(self.centre, slope, offset)

    def _renew_variance(self, rate: np.ndarray) -> None:
        held = self.counts
        variance = rate_variance(self.settings.variance, held.counts, held.back, self.data, rate)
        self.counts = held._replace(variance=variance)

    def _true_rate(self, theta: np.ndarray) -> np.ndarray:
        n = self.n
        norm = theta[n]
        other = norm * self.settings.scatter_norm if self.settings.tie_norms else theta[n + 1]
        xrf, scatter = self.model.counts(theta[:n], norm, other, theta[n + 2], theta[n + 3])
        return xrf + scatter

    def _penalty(self, theta: np.ndarray) -> float:
        return penalty_kernel(theta, self.plan)

    def _objective(self, theta: np.ndarray, rate: np.ndarray) -> float:
        statistic, *rest = self.counts
        return statistic_kernel(statistic, rate, *rest) + self._penalty(theta)

    def _run(
        self, theta: np.ndarray, plan: FitPlan, slope: float, offset: float, coarser: float = 1.0
    ) -> tuple[int, bool]:
        settings = self.settings
        # Lines that the fitted channels do not see need not be computed.
        reach = self.templates[0].sum(axis=1)
        self.wanted[:] = reach > 1e-9 * reach.max()
        linear = LinearModel(
            self.templates, self.scatter, self.scatter_slopes, self.centre, float(slope), float(offset),
            settings.fit_gain, self.derivatives, self.reference,
            self.fixed,
        )  # fmt: skip
        self.value, steps, converged = fit_kernel(
            theta, plan, self.counts, linear, self.surface, self.wanted, settings.max_iterations,
            coarser * float(settings.tolerance), self.hessian, self.jacobian, self.rate,
        )  # fmt: skip
        return steps, converged


def failed_fit(plan: FitPlan, model: SpectralModel, status: str) -> FitResult:
    """The result of a fit that was not made."""
    tables = model.tables
    n, names = len(tables.elements), parameter_names(tables.elements, plan)
    weights, weight_errors = np.full((2, n), np.nan)
    values, errors = np.full((2, len(names)), np.nan)
    rate, xrf, scatter = np.full((3, model.channels), np.nan)
    return FitResult(
        elements=tables.elements,
        weights=weights,
        weight_errors=weight_errors,
        element_flags=np.full(n, ELEMENT_FLAGS["not_constrained"], np.uint8),
        parameters=names,
        values=values,
        errors=errors,
        covariance=np.full((len(names), len(names)), np.nan),
        model=rate,
        xrf=xrf,
        scatter=scatter,
        line_names=tables.line_names,
        line_fluxes=np.full(model.fluorescence.line_energy.size, np.nan),
        channels=model.channels,
        status=status,
    )


def fit_result(
    model: SpectralModel,
    plan: FitPlan,
    theta: np.ndarray,
    covariance: np.ndarray,
    rate: np.ndarray,
    *,
    margin: float = 1e-6,
    held: np.ndarray | None = None,
    intensity: np.ndarray | None = None,
    templates: np.ndarray | None = None,
    **numbers: Any,
) -> FitResult:
    """The result of a fit that was made.

    `theta`: all parameters, tied ones too; `covariance`: of the free ones; `rate` (channel,): the model, counts/s;
    `margin`, `held`: as of `judge_weights`; `intensity`, `templates`: of the lines, where they are not the model's own;
    `numbers`: what else `FitResult` holds.
    """
    elements, n = model.tables.elements, len(model.tables.elements)
    weights = theta[:n].copy()
    xrf_norm, scatter_norm, slope, offset = map(float, theta[n : n + 4])
    weight_errors, flags = judge_weights(plan, weights, covariance, margin, held)
    intensity = model.line_intensities(weights) if intensity is None else intensity
    templates = model.line_templates(slope, offset) if templates is None else templates
    xrf = xrf_norm * intensity @ templates
    return FitResult(
        elements=elements,
        weights=weights,
        weight_errors=weight_errors,
        element_flags=flags,
        parameters=parameter_names(elements, plan),
        values=theta[plan.free],
        errors=np.sqrt(np.diag(covariance)),
        covariance=covariance,
        model=rate,
        xrf=xrf,
        scatter=rate - xrf,
        line_names=model.tables.line_names,
        line_fluxes=xrf_norm * intensity * model.scale,
        channels=model.channels,
        xrf_norm=xrf_norm,
        scatter_norm=scatter_norm,
        slope=slope,
        offset=offset,
        **numbers,
    )
