"""Posterior sampling of single fits: a check of errors that :func:`lunarray.xrf.fit_elements` takes from a curvature.

The density is that of the fit: the same parameters, bounds, priors and likelihood, the model computed anew at each
point instead of to first order. Where a posterior is a bell, away from bounds, its spread is the fit's error; at a
bound, or where a norm and an abundance trade places, quantiles say what one number cannot. Atomic data and slopes of
the ground are not parameters of a fit: they widen its total errors afterwards, and are in neither of the two spreads.

Chains are drawn by emcee (Foreman-Mackey et al., 2013, PASP 125, 306). Half of the moves are proposed from the bell
that the fit found, with long tails, which mixes within a few steps where the posterior is one; the others are short
steps of that bell, and differences between walkers (ter Braak, 2006), which need none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import gammaln

from lunarray.errors import LunarrayWarning, needs, require_number
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.xrf.api import FIT_BAND, columns_of, specification
from lunarray.xrf.fit import Solver, Task, prepare, rate_variance, solve
from lunarray.xrf.fit_kernels import penalty_kernel, statistic_kernel
from lunarray.xrf.frames import described, flag_attrs
from lunarray.xrf.response import Response
from lunarray.xrf.settings import FIT_FLAGS
from lunarray.xrf.unknowns import shape_priors
from lunarray.xrf.windows import (
    COLUMNS,
    LEFT_OUT,
    FitSpec,
    ModelCache,
    observation,
    own_settings,
    refusal,
    status_bit,
    without_channels,
)

__all__ = ["Chains", "sample_density", "sample_posterior"]

#: Shares that lie below the quantiles that are given: the median, one and two standard deviations of a bell.
QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)
#: Chains are long enough from so many autocorrelation times on (emcee's rule), and walkers agree below such a ratio of
#: spreads (Gelman & Rubin, 1992; Vehtari et al., 2021, Bayesian Analysis 16, 667).
_LONG_ENOUGH, _AGREE = 50.0, 1.05
#: Degrees of freedom of the proposals from the bell, and steps, as a share of the kept ones, of each of the two rounds
#: in which walkers forget where they began and proposals follow them.
_TAILS, _WARM_UP = 10.0, 0.25


@dataclass(frozen=True, eq=False)
class Chains:
    """What was drawn of one density."""

    draws: np.ndarray  # (walker, draw, parameter)
    acceptance: float  # share of accepted moves
    autocorrelation: (
        np.ndarray
    )  # (parameter,): integrated autocorrelation time in steps; NaN where it has no measure
    agreement: (
        np.ndarray
    )  # (parameter,): spread of all by that within halves of walkers; 1 where they agree

    @property
    def converged(self) -> bool:
        """Whether chains are 50 autocorrelation times long, and walkers agree."""
        long_enough = self.draws.shape[1] >= _LONG_ENOUGH * self.autocorrelation
        return bool(np.all(long_enough) and np.all(self.agreement < _AGREE))


def sample_density(
    log_density: Callable[[np.ndarray], float],
    mode: np.ndarray,
    covariance: np.ndarray,
    *,
    lower: np.ndarray | None = None,
    upper: np.ndarray | None = None,
    steps: int = 1500,
    seed: int = 0,
) -> Chains:
    """Draw from a density, near which a bell of a mode and a covariance lies.

    `log_density`: of parameters (n,), up to a constant; minus infinity beyond what is possible; `lower`, `upper` (n,):
    beyond them it need not be asked; `steps`: kept ones of each walker. MissingDependencyError without emcee.
    """
    with needs("emcee", "sampling a posterior"):
        import emcee
    n = mode.size
    low = np.full(n, -np.inf) if lower is None else lower
    high = np.full(n, np.inf) if upper is None else upper
    root = np.linalg.cholesky(_positive(covariance))
    walkers, warm_up = 2 * max(n + 1, 12), int(np.ceil(_WARM_UP * steps))
    random = np.random.default_rng(seed)

    def density(theta: np.ndarray) -> float:
        if np.any(theta < low) or np.any(theta > high):
            return -np.inf
        value = log_density(theta)
        return value if np.isfinite(value) else -np.inf

    begin = _beginnings(density, mode, root, low, high, walkers, random)
    state = emcee.State(begin, random_state=np.random.RandomState(seed).get_state())
    centre = mode
    for number in (warm_up, warm_up, steps):
        moves = [
            (emcee.moves.MHMove(_proposals(centre, root)), 0.5),
            (emcee.moves.GaussianMove(root @ root.T * (1.4 / n)), 0.3),
            (emcee.moves.DEMove(), 0.2),
        ]
        sampler = emcee.EnsembleSampler(walkers, n, density, moves=moves)
        state = sampler.run_mcmc(state, number, skip_initial_state_check=True)
        if number == warm_up:
            # Proposals from where the walkers are by now: what is kept is drawn with proposals that stand still.
            seen = sampler.get_chain(flat=True, discard=number // 2)
            centre, root = (
                seen.mean(axis=0),
                np.linalg.cholesky(_positive(np.cov(seen.T, ddof=1).reshape(n, n))),
            )
    draws = sampler.get_chain()  # (draw, walker, parameter)
    with np.errstate(invalid="ignore", divide="ignore"):
        times = emcee.autocorr.integrated_time(draws, quiet=True, has_walkers=True, tol=0)
    return Chains(
        np.ascontiguousarray(draws.transpose(1, 0, 2)),
        float(np.mean(sampler.acceptance_fraction)),
        np.asarray(times),
        _agreement(draws),
    )


def _positive(covariance: np.ndarray) -> np.ndarray:
    """A covariance whose square root exists: directions that nothing tells get a finite spread."""
    scale = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    values = np.maximum(values, 1e-10)
    return np.asarray((vectors * values) @ vectors.T * np.outer(scale, scale))


def _beginnings(
    density: Callable[[np.ndarray], float], mode: np.ndarray, root: np.ndarray, low: np.ndarray, high: np.ndarray,
    walkers: int, random: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Where walkers begin: drawn from the bell; what would be outside is nearer to the mode."""
    begin = np.empty((walkers, mode.size))
    for walker in begin:
        step, far = root @ random.standard_normal(mode.size), 1.0
        inside = np.clip(mode, low, high)
        # At a bound itself half of all directions lead out of it.
        step = np.where((inside <= low) & (step < 0) | (inside >= high) & (step > 0), -step, step)
        for _ in range(60):
            walker[:] = np.clip(inside + far * step, low, high)
            if np.isfinite(density(walker)):
                break
            far *= 0.7
    return begin


def _proposals(mode: np.ndarray, root: np.ndarray) -> Any:
    """Proposals from a multivariate t about the mode, and the logarithm of how much likelier the way back is."""
    inverse = np.linalg.inv(root)
    n, nu = mode.size, _TAILS
    constant = float(gammaln((nu + n) / 2) - gammaln(nu / 2))

    def log_t(at: np.ndarray) -> np.ndarray:
        distance = np.sum(((at - mode) @ inverse.T) ** 2, axis=1)
        return np.asarray(constant - (nu + n) / 2 * np.log1p(distance / nu))

    def propose(at: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        normal = random.standard_normal(at.shape) @ root.T
        new = mode + normal / np.sqrt(random.chisquare(nu, len(at)) / nu)[:, None]
        return new, log_t(at) - log_t(new)

    return propose


def _agreement(draws: np.ndarray) -> np.ndarray:
    """Spread of all draws (draw, walker, parameter) by that within first and second halves of each walker."""
    half = len(draws) // 2
    parts = np.concatenate([draws[:half], draws[half : 2 * half]], axis=1)
    within = parts.var(axis=0, ddof=1).mean(axis=0)
    between = parts.mean(axis=0).var(axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt((half - 1) / half + between / within))


class _Density:
    """Logarithm of the posterior of one fit over its free parameters."""

    def __init__(self, task: Task, solver: Solver, theta: np.ndarray) -> None:
        self.task, self.solver = task, solver
        self.theta = theta.copy()
        self.n = len(task.model.tables.elements)
        self.free = np.flatnonzero(task.plan.free)
        self.lower, self.upper = task.plan.lower.copy(), task.plan.upper.copy()
        if task.nuisances is not None:
            first = self.n + 4
            own = slice(first, first + task.nuisances.lowest.size)
            self.lower[own] = np.maximum(self.lower[own], task.nuisances.lowest)

    def whole(self, free: np.ndarray) -> np.ndarray:
        """All parameters, the closing element and the tied norm among them."""
        task, n = self.task, self.n
        theta = self.theta.copy()
        theta[self.free] = free
        others = np.arange(n) != task.plan.balance
        theta[task.plan.balance] = 100.0 - theta[:n][others].sum()
        if task.settings.tie_norms:
            theta[n + 1] = theta[n] * task.plan.scatter_ratio
        return theta

    def __call__(self, free: np.ndarray) -> float:
        task, n, plan = self.task, self.n, self.task.plan
        theta = self.whole(free)
        closing = theta[plan.balance]
        if closing < max(plan.balance_lower, 0.0) or closing > plan.balance_upper:
            return -np.inf
        if task.nuisances is None:
            rate = np.sum(task.model.counts(theta[:n], *theta[n : n + 4]), axis=0)
        else:
            rate = task.nuisances.rate(theta[:n], theta[n], theta[n + 1], theta[n + 4 :])
        counts = self.solver.counts
        if task.settings.statistic == "chi2" and task.settings.variance == "model":
            variance = rate_variance("model", counts.counts, counts.back, task.data, rate)
            counts = counts._replace(variance=variance)
        statistic, *rest = counts
        value = statistic_kernel(statistic, rate, *rest) / self.solver.inflation
        return -0.5 * float(value + penalty_kernel(theta, plan))


@typed
def sample_posterior(
    ds: xr.Dataset,
    solar: xr.Dataset,
    response: Response,
    background: xr.Dataset | None = None,
    *,
    steps: int = 1500,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """Draw compositions, norms and unknowns of a spectrum, or a few, from the posterior of their fits.

    It checks what :func:`lunarray.xrf.fit_elements` says of errors: same parameters, bounds, priors and likelihood. It
    is computed at once, spectrum by spectrum: a millisecond an evaluation, two minutes a spectrum.

    Parameters
    ----------
    ds, solar, response, background
        As `fit_elements` takes them; choose spectra by ``ds.isel(time=[3])``.
    steps : int
        Draws of each walker that are kept, 100 or more, after half as many to forget the start. There are twice
        as many walkers as parameters, and 24 or more.
    seed : int
        The same seed gives the same draws.
    **options : Any
        ``band``, ``settings``, ``conventions``, ``tables``, ``mare_fraction``, ``calibration`` and
        ``min_significance`` as of `fit_elements`.

    Returns
    -------
    Dataset
        In memory, with ``parameter``: elements (wt%), ``xrf_norm``, ``scatter_norm``, ``slope``, ``offset`` (keV) of
        the gain and, in standard deviations of what was known of them, the unknowns.

        - ``draws`` (time, walker, draw, parameter), float32;
        - ``mean``, ``std`` (time, parameter), and ``quantiles`` (time, quantile, parameter);
        - ``fit``, ``fit_std`` (time, parameter): what the fit has, with errors from the curvature of the same density;
        - ``autocorrelation`` (time, parameter), steps; ``effective_draws``; ``agreement``, the spread of all draws by
          that within walkers; ``acceptance`` (time);
        - ``converged`` (time): chains are 50 autocorrelation times long and agreement is below 1.05;
        - ``quality`` (time): bits of `xrf.settings.FIT_FLAGS`; spectra that cannot be fitted are NaN.

    Warns
    -----
    LunarrayWarning
        If chains have not converged: draws are too few to be trusted.

    Raises
    ------
    MissingDependencyError
        Without emcee: ``pip install 'lunarray[posterior]'``.
    InputError
        If spectra, response, background, solar spectrum and options do not fit together.

    References
    ----------
    Foreman-Mackey, D., et al., 2013. PASP 125, 306. Goodman, J., & Weare, J., 2010. CAMCoS 5, 65.

    Examples
    --------
    >>> import lunarray as la
    >>> from lunarray.xrf.posterior import sample_posterior
    >>> windows = la.sample("class_flare").lunar.flag_frames().lunar.coadd("sliding", window=12)
    >>> sun, response = la.simulate.thermal_spectrum(1.1, 3e-5), la.simulate.class_response(2048)
    >>> plain = la.xrf.FitSettings(systematics=False, statistic="cstat", frozen=("Fe", "Ti", "Na", "O"))
    >>> drawn = sample_posterior(windows.isel(time=[0]), sun, response, steps=200, settings=plain)
    >>> drawn["quantiles"].sel(parameter="Si", quantile=0.5).round().values
    array([21.])
    """
    require_number("steps", steps, 100, whole=True)
    require_number("seed", seed, 0, whole=True)
    known = (
        "band",
        "settings",
        "conventions",
        "tables",
        "mare_fraction",
        "calibration",
        "min_significance",
    )
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(
            f"sample_posterior has no argument {unknown[0]!r}; it has {', '.join(known)}"
        )
    spec, columns = _specified(ds, solar, response, background, dict(options))
    models = ModelCache(spec)
    table = np.stack([np.asarray(c, "f8") for c in columns], axis=1)
    own = ds["counts"].transpose("time", "channel")
    if "bad_channel" in ds.variables:
        own = own.where(~ds["bad_channel"].variable, LEFT_OUT).transpose("time", "channel")
    counts = np.asarray(own.values, "f8")
    rows = [
        _sampled(one, dict(zip(COLUMNS, row, strict=True)), spec, models, steps, seed + i)
        for i, (one, row) in enumerate(zip(counts, table, strict=True))
    ]
    slow = [row.chains for row in rows if row.chains is not None and not row.chains.converged]
    if slow:
        longest = max(float(np.nanmax(chains.autocorrelation)) for chains in slow)
        enough = int(np.ceil(1.2 * _LONG_ENOUGH * longest / 100) * 100)
        warnings.warn(
            f"chains of {len(slow)} of {len(rows)} spectra have not converged: {steps} steps, and autocorrelation "
            f"times up to {longest:.0f} steps. Take {enough} steps or more",
            LunarrayWarning,
            stacklevel=2,
        )
    return _packed(ds, rows, spec, steps, seed)


def _specified(
    ds: xr.Dataset, solar: xr.Dataset, response: Response, background: xr.Dataset | None, options: dict[str, Any]
) -> tuple[FitSpec, list[Any]]:  # fmt: skip
    """What `fit_elements` would fit, and the columns of each spectrum."""
    calibration = options.pop("calibration", "auto")
    wanted: dict[str, Any] = {
        "band": FIT_BAND, "settings": None, "conventions": None, "tables": None, "mare_fraction": "map",
        "min_significance": 5.0,
    }  # fmt: skip
    given = wanted | options
    spec = specification(ds, solar, response, background, engine="numba", **given)
    shapes, own_shape, _ = shape_priors(ds, response, calibration)
    return replace(spec, shapes=shapes), columns_of(ds, solar, given["mare_fraction"], own_shape)


@dataclass(frozen=True, eq=False)
class _Row:
    """What was found of one spectrum; without a fit there is its quality alone."""

    quality: int
    names: tuple[str, ...] = ()
    fit: Any = None  # (parameter,)
    fit_std: Any = None
    chains: Chains | None = None  # of all parameters, closing element and tied norm among them


def _sampled(
    counts: np.ndarray, column: dict[str, float], spec: FitSpec, models: ModelCache, steps: int, seed: int
) -> _Row:  # fmt: skip
    bad = np.flatnonzero(counts == LEFT_OUT)
    if bad.size:
        counts, spec = without_channels(bad, counts, spec)
        models = ModelCache(spec)
    quality, _ = refusal(counts, column, spec)
    if quality:
        return _Row(quality)
    data, model = observation(counts, column, spec), models(column)
    task = prepare(data, model, own_settings(spec, column), models.unknowns(column))
    if task.status != "fitted":
        return _Row(status_bit(task.status))
    solver, theta, _, converged = solve(task)
    density = _Density(task, solver, theta)
    free, covariance = density.free, solver.covariance()
    drawn = sample_density(
        density, theta[free], covariance, lower=density.lower[free], upper=density.upper[free], steps=steps, seed=seed,
    )  # fmt: skip
    n, unknowns = density.n, () if task.nuisances is None else task.nuisances.names
    names = (*model.tables.elements, "xrf_norm", "scatter_norm", "slope", "offset", *unknowns)
    # How all parameters follow the free ones: the closing element and the tied norm do.
    spread = (np.arange(theta.size)[:, None] == free[None, :]).astype(float)
    spread[task.plan.balance] = -(free < n).astype(float)
    if task.settings.tie_norms:
        spread[n + 1] = task.plan.scatter_ratio * spread[n]
    best = density.whole(theta[free])
    std = np.sqrt(np.maximum(np.einsum("pi,ij,pj->p", spread, covariance, spread), 0.0))
    draws = (drawn.draws - theta[free]) @ spread.T + best
    with np.errstate(invalid="ignore"):
        of_all = replace(
            drawn,
            draws=draws,
            autocorrelation=_over(spread, drawn.autocorrelation),
            agreement=_over(spread, drawn.agreement),
        )
    return _Row(0 if converged else status_bit("not_converged"), names, best, std, of_all)


def _over(spread: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The largest value of those free parameters that each parameter follows; 0 of what stands still."""
    return np.asarray(np.max(np.where(spread != 0, values, 0.0), axis=1))


def _packed(ds: xr.Dataset, rows: list[_Row], spec: FitSpec, steps: int, seed: int) -> xr.Dataset:
    """Rows as a Dataset; those without a fit are NaN."""
    fitted = [row for row in rows if row.chains is not None]
    elements = tuple(spec.tables.elements)
    names = fitted[0].names if fitted else elements
    walkers = max((row.chains.draws.shape[0] for row in fitted if row.chains), default=1)
    n, p = len(rows), len(names)
    draws = np.full((n, walkers, steps, p), np.nan, "f4")
    numbers = {
        name: np.full((n, p), np.nan)
        for name in ("mean", "std", "fit", "fit_std", "autocorrelation", "effective_draws", "agreement")
    }  # fmt: skip
    quantiles = np.full((n, len(QUANTILES), p), np.nan)
    acceptance, good = np.full(n, np.nan), np.zeros(n, bool)
    for i, row in enumerate(rows):
        if row.chains is None:
            continue
        chains = row.chains
        draws[i] = chains.draws
        every = chains.draws.reshape(-1, p)
        times = chains.autocorrelation
        of_row = (
            every.mean(axis=0), every.std(axis=0), row.fit, row.fit_std, times,
            len(every) / np.where(times > 0, times, np.nan), chains.agreement,
        )  # fmt: skip
        for name, values in zip(numbers, of_row, strict=True):
            numbers[name][i] = values
        quantiles[i] = np.quantile(every, QUANTILES, axis=0)
        acceptance[i], good[i] = chains.acceptance, chains.converged
    quality = np.array([row.quality for row in rows], "u2")
    units = ["wt%" if name in elements else "keV" if name == "offset" else "1" for name in names]
    words = {
        "mean": "mean of the draws", "std": "standard deviation of the draws", "fit": "best fit",
        "fit_std": "error of the fit from the curvature of the same density",
        "autocorrelation": "integrated autocorrelation time (steps)",
        "effective_draws": "independent draws that these are worth",
        "agreement": "spread of all draws by that within walkers",
    }  # fmt: skip
    per = ("time", "parameter")
    variables = {
        "draws": (("time", "walker", "draw", "parameter"), draws, {"long_name": "draws"}),
        **{name: (per, values, {"long_name": words[name]}) for name, values in numbers.items()},
        "quantiles": (
            ("time", "quantile", "parameter"), quantiles, {"long_name": "quantiles of the draws"},
        ),
        "acceptance": described("time", acceptance, "1", "share of accepted moves"),
        "converged": ("time", good, {"long_name": "chains are long enough and agree"}),
        "quality": ("time", quality, flag_attrs("quality of the fit", FIT_FLAGS, "u2")),
    }  # fmt: skip
    coords = {
        name: variable
        for name, variable in ds.coords.items()
        if "channel" not in variable.dims and set(variable.dims) <= {"time", "corner"}
    }
    coords |= {
        "parameter": ("parameter", np.array(names, object), {"long_name": "parameter"}),
        "unit": ("parameter", np.array(units, object), {"long_name": "unit of the parameter"}),
        "quantile": ("quantile", np.array(QUANTILES), {"long_name": "share of draws below"}),
    }
    result = xr.Dataset(variables, coords)
    statistic = spec.settings.statistic
    return stamp(
        result, f"sample_posterior({statistic}, {steps} steps, seed {seed})", source=ds.attrs.get("source")
    )  # fmt: skip
