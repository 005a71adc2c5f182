"""What is fitted, within which limits and priors, and what is then to be said of the weights."""

from __future__ import annotations

import numpy as np

from lunarray.errors import InputError
from lunarray.xrf.fit_kernels import FitPlan
from lunarray.xrf.nuisance import LIMIT
from lunarray.xrf.settings import ELEMENT_FLAGS, FitSettings


def plan_fit(elements: tuple[str, ...], settings: FitSettings, unknowns: int = 0) -> FitPlan:
    """Arrays of what `settings` say of these elements, and of a number of unknowns."""
    missing = [e for e in elements if e not in settings.start]
    if missing or settings.balance not in elements or settings.balance in settings.frozen:
        raise InputError(
            f"no start for {missing}"
            if missing
            else f"{settings.balance!r} cannot close the sum to 100 %",
            where="settings",
            remedy="Give `start` a value for each element; `balance` is an element that is not frozen",
        )
    n = len(elements)
    balance = elements.index(settings.balance)
    theta = np.array(
        [*(settings.start[e] for e in elements), settings.xrf_norm, settings.scatter_norm, settings.slope,
         settings.offset, *[0.0] * unknowns], np.float64,
    )  # fmt: skip
    limits = [settings.bounds.get(e, (0.0, 100.0)) for e in elements]
    limits += [settings.norm_bounds] * 2 + [settings.slope_bounds, settings.offset_bounds]
    limits += [(-LIMIT, LIMIT)] * unknowns
    lower, upper = np.array(limits, np.float64).T.copy()
    free = np.array(
        [
            *(e not in settings.frozen and e != settings.balance for e in elements),
            settings.fit_xrf_norm,
            settings.fit_scatter_norm and not settings.tie_norms,
            settings.fit_gain,
            settings.fit_gain,
            *[True] * unknowns,
        ]
    )
    if np.any(lower[free] >= upper[free]):
        raise InputError("a lower bound is not below its upper bound", where="settings")
    prior_mean, prior_weight = theta.copy(), np.zeros(theta.size)
    for name, sigma in settings.prior_sigma.items():
        prior_weight[elements.index(name)] = 1 / sigma**2
    # The covariance is that of the sigmas and a line; its inverse that of the sigmas less a line (Sherman-Morrison).
    line = np.array([settings.prior_line.get(e, 0.0) for e in elements])
    line = np.where(free[:n], line, 0.0) * prior_weight[:n]
    prior_mode = line / np.sqrt(
        1
        + np.sum(np.divide(line**2, prior_weight[:n], out=np.zeros(n), where=prior_weight[:n] > 0))
    )
    if settings.norm_sigma > 0 and settings.fit_xrf_norm:
        prior_weight[n] = 1 / settings.norm_sigma**2
    prior_weight[n + 4 :] = 1.0
    theta = np.where(free, np.clip(theta, lower, upper), theta)
    others = np.arange(n) != balance
    theta[balance] = 100 - theta[:n][others].sum()
    low, high = settings.balance_bounds or (-np.inf, np.inf)
    return FitPlan(
        n, theta, lower, upper, free, balance, float(low), float(high), prior_mean, prior_weight, prior_mode,
        settings.tie_norms, float(settings.scatter_norm),
    )  # fmt: skip


def parameter_names(elements: tuple[str, ...], plan: FitPlan) -> tuple[str, ...]:
    """Names of the free parameters."""
    names = [*elements, "xrf_norm", "scatter_norm", "slope", "offset"]
    names += [f"unknown {k}" for k in range(plan.free.size - len(names))]
    return tuple(np.array(names)[plan.free])


def judge_weights(
    plan: FitPlan,
    weights: np.ndarray,
    covariance: np.ndarray,
    margin: float = 1e-6,
    held: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of all weights from the covariance of the free parameters, and their flags.

    A weight is at a bound if it is nearer to it than `margin` times the distance of the bounds. `held` (element,):
    those that keep their value but for its error; by default those that are not free.
    """
    n = weights.size
    held = ~plan.free[:n] if held is None else held
    free = np.flatnonzero(plan.free)
    of_elements = free < n
    errors, flags = np.full(n, np.nan), np.zeros(n, np.uint8)
    errors[free[of_elements]] = np.sqrt(np.diag(covariance))[of_elements]
    block = covariance[np.ix_(of_elements, of_elements)]
    errors[plan.balance] = np.sqrt(max(np.nansum(block), 0.0)) if block.size else np.nan
    flags[plan.balance] |= ELEMENT_FLAGS["from_closure"]
    prior_width = prior_widths(plan)
    for i in range(n):
        low, high = plan.lower[i], plan.upper[i]
        if i == plan.balance:
            low, high = plan.balance_lower, plan.balance_upper
        elif held[i]:
            flags[i] |= ELEMENT_FLAGS["frozen"]
            continue
        bounded = np.isfinite(high - low)
        near = margin * max(high - low, 1e-3) if bounded else 0.0
        if weights[i] <= low + near:
            flags[i] |= ELEMENT_FLAGS["at_lower_bound"]
        if weights[i] >= high - near:
            flags[i] |= ELEMENT_FLAGS["at_upper_bound"]
        width = (high - low if bounded else 100.0) / np.sqrt(12)
        width = min(width, 0.8 * prior_width[i])
        if not errors[i] < width:
            # The data say no more than the bounds or the prior do.
            flags[i] |= ELEMENT_FLAGS["not_constrained"]
    return errors, flags


def prior_widths(plan: FitPlan) -> np.ndarray:
    """Standard deviation of the prior of each element; infinite where there is none."""
    weight, mode = plan.prior_weight[: plan.elements], plan.prior_mode
    variance = np.divide(1.0, weight, out=np.full(weight.shape, np.inf), where=weight > 0)
    own = np.where(weight > 0, mode, 0.0) * np.where(np.isfinite(variance), variance, 0.0)
    return np.sqrt(variance + own**2 / (1 - own @ mode))


def weight_spread(plan: FitPlan) -> np.ndarray:
    """How the weights of all elements, the closing one among them, follow the free parameters, (element, parameter)."""
    free = np.flatnonzero(plan.free)
    spread = (np.arange(plan.elements)[:, None] == free[None, :]).astype(float)
    spread[plan.balance] = -spread.sum(axis=0)
    return spread
