"""The same model inside PyXspec: a local model for the lines, a table model for the scattered continuum.

XSPEC has one global state and survives neither threads nor forks, so each process of ours that needs it keeps one
spawned process for it. PyXspec comes with HEASoft and from no package index; `require_pyxspec` explains that where it
is missing.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import tempfile
from collections.abc import Callable, MutableSequence, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lunarray.errors import LunarrayError, MissingDependencyError
from lunarray.xrf.fit import (
    check_observation,
    failed_fit,
    fit_result,
)
from lunarray.xrf.fit_kernels import FitPlan
from lunarray.xrf.model import PhotonModel, SpectralModel
from lunarray.xrf.plan import parameter_names, plan_fit, prior_widths
from lunarray.xrf.settings import FitResult, FitSettings, Observation

#: Steps by which XSPEC varies the gain, and fits after one another that it may take to come to an end.
_GAIN_STEPS, _FITS = {"slope": 0.002, "offset": 0.002}, 4
#: Name of the local model; components and parameters in XSPEC carry it.
MODEL_NAME = "lunarxrf"


def pyxspec_available() -> bool:
    """Whether PyXspec can be imported."""
    return importlib.util.find_spec("xspec") is not None


def require_pyxspec() -> None:
    """Raise an error that explains how to get PyXspec, where it is missing."""
    if not pyxspec_available():
        raise MissingDependencyError(
            "PyXspec, the Python interface of XSPEC, is not installed",
            remedy=(
                "It comes with HEASoft (https://heasarc.gsfc.nasa.gov/lheasoft), not from PyPI: install HEASoft,"
                " run its headas-init, and start Python from that shell; or use engine='numba', which needs none"
                " of it"
            ),
        )


def model_function(
    model: PhotonModel,
) -> Callable[[Sequence[float], Sequence[float], MutableSequence[float]], None]:
    """The fluorescence lines as a PyXspec model function.

    `model`: Sun, geometry, atomic tables and conventions. Returns ``function(engs, params, flux)``: `engs` are the n +
    1 energies (keV) that bound n bins, `params` the weights in wt% (PyXspec applies the norm itself), and `flux` is
    filled in place with photons/s/cm² in each bin.
    """
    count = len(model.tables.elements)

    def lunarxrf(
        engs: Sequence[float], params: Sequence[float], flux: MutableSequence[float]
    ) -> None:
        edges = np.asarray(engs, np.float64)
        weights = np.asarray(params, np.float64)[:count]
        lines = model.line_spectrum(weights, edges[:-1], edges[1:])
        for i, photons in enumerate(lines):
            flux[i] = float(photons)

    lunarxrf.__name__ = MODEL_NAME
    return lunarxrf


def parameter_info(elements: Sequence[str], settings: FitSettings) -> tuple[str, ...]:
    """Parameters of the local model as ``AllModels.addPyMod`` wants them.

    Returns name, unit, start, hard and soft limits, and step of the weight of each element.
    """
    out = []
    for name in elements:
        low, high = settings.bounds.get(name, (0.0, 100.0))
        if name == settings.balance:
            # Its value is linked; limits would only be warned about.
            low, high = 0.0, 100.0
        start = min(max(settings.start[name], low), high)
        out.append(f'Wt_{name} "wt%" {start:.10g} {low:g} {low:g} {high:g} {high:g} 0.01')
    return tuple(out)


def write_pha(
    path: Path, counts: np.ndarray, exposure: float, *, files: dict[str, str] | None = None
) -> None:
    """Write an OGIP spectrum of counts, channels numbered from 1.

    `counts` (channel,); `exposure`: s; `files`: values of BACKFILE, RESPFILE and ANCRFILE.
    """
    from astropy.io import fits

    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("CHANNEL", "J", array=np.arange(1, counts.size + 1)),
            fits.Column("COUNTS", "D", unit="count", array=np.asarray(counts, np.float64)),
        ],
        name="SPECTRUM",
    )
    table.header.update(
        {
            "TELESCOP": "Chandrayaan-2", "INSTRUME": "CLASS", "FILTER": "none", "EXPOSURE": float(exposure),
            "BACKFILE": "none", "RESPFILE": "none", "ANCRFILE": "none", "CORRFILE": "none", "CORRSCAL": 1.0,
            "BACKSCAL": 1.0, "AREASCAL": 1.0, "HDUCLASS": "OGIP", "HDUCLAS1": "SPECTRUM", "HDUVERS": "1.2.1",
            "POISSERR": True, "CHANTYPE": "PHA", "DETCHANS": int(counts.size), "TLMIN1": 1,
            "TLMAX1": int(counts.size), "GROUPING": 0, "QUALITY": 0, "SYS_ERR": 0,
        }
        | (files or {})
    )  # fmt: skip
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)


@dataclass(frozen=True)
class _Answer:
    weights: np.ndarray
    xrf_norm: float
    scatter_norm: float
    slope: float
    offset: float
    covariance: np.ndarray
    order: tuple[str, ...]
    statistic: float
    folded: np.ndarray
    status: str


_POOL: ProcessPoolExecutor | None = None


def _pool() -> ProcessPoolExecutor:
    global _POOL
    if _POOL is None:
        _POOL = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    return _POOL


def close() -> None:
    """End the process that holds XSPEC."""
    global _POOL
    if _POOL is not None:
        _POOL.shutdown()
        _POOL = None


def fit_spectrum(
    data: Observation, model: SpectralModel, settings: FitSettings | None = None
) -> FitResult:
    """Fit one spectrum with PyXspec: what `lunarray.xrf.fit.fit_spectrum` does, by XSPEC's own means.

    `model`: its "channel" gain convention is not XSPEC's, which moves the matrix' energies; `settings`: "cstat" becomes
    XSPEC's W-stat where there is a background. MissingDependencyError without PyXspec. LunarrayError where XSPEC itself
    fails.
    """
    require_pyxspec()
    settings = settings if settings is not None else FitSettings()
    plan = plan_fit(model.tables.elements, settings)
    status = check_observation(data, model)
    if status == "fitted" and data.arrays(model.first, model.stop)[0].sum() == 0:
        status = "no_counts"
    if status != "fitted":
        return failed_fit(plan, model, status)
    with tempfile.TemporaryDirectory(prefix="lunarray-xspec-") as folder:
        try:
            answer = _pool().submit(_run, data, model, settings, Path(folder)).result()
        except LunarrayError:
            raise
        except Exception as error:  # whatever XSPEC throws, or its process dying
            close()
            raise LunarrayError(
                f"XSPEC failed: {type(error).__name__}: {error}",
                where="engine='pyxspec'",
                remedy="Fit this spectrum with engine='numba' to see whether the data are at fault",
            ) from error
    return _result(model, plan, answer)


def _result(model: SpectralModel, plan: FitPlan, answer: _Answer) -> FitResult:
    n = len(model.tables.elements)
    parameters = parameter_names(model.tables.elements, plan)
    index = [answer.order.index(name) if name in answer.order else -1 for name in parameters]
    covariance = np.full((len(parameters), len(parameters)), np.nan)
    known = [i for i, k in enumerate(index) if k >= 0]
    covariance[np.ix_(known, known)] = answer.covariance[
        np.ix_([index[i] for i in known], [index[i] for i in known])
    ]
    theta = np.array(
        [*answer.weights, answer.xrf_norm, answer.scatter_norm, answer.slope, answer.offset]
    )
    # XSPEC's priors are each of one parameter: the line of ours is part of their widths.
    pulls = (theta[:n] - plan.prior_mean[:n]) / prior_widths(plan)
    penalty = float(np.nansum(pulls**2))
    penalty += float(plan.prior_weight[n] * (theta[n] - plan.prior_mean[n]) ** 2)
    return fit_result(
        model,
        plan,
        theta,
        covariance,
        answer.folded,
        margin=1e-4,  # XSPEC stops short of a limit
        statistic=answer.statistic - penalty,
        dof=model.channels - len(parameters),
        status=answer.status,
    )


# --- In the process of XSPEC ------------------------------------------------------------------------


def _run(data: Observation, model: SpectralModel, settings: FitSettings, folder: Path) -> _Answer:
    """Everything that touches XSPEC; what travels to its process are plain values."""
    import xspec

    from lunarray.xrf.response_files import write_response

    elements = model.tables.elements
    xspec.Xset.chatter = 0
    xspec.Xset.logChatter = 0
    xspec.Xset.allowPrompting = False
    xspec.AllData.clear()
    xspec.AllModels.clear()

    rmf, arf = folder / "response.rmf", folder / "response.arf"
    write_response(model.full_response, rmf, arf, overwrite=True)
    files = {"RESPFILE": str(rmf), "ANCRFILE": str(arf)}
    if data.background is not None:
        write_pha(folder / "back.pha", data.background, data.background_exposure)
        files["BACKFILE"] = str(folder / "back.pha")
    write_pha(folder / "data.pha", data.counts, data.exposure)
    spectrum = xspec.Spectrum(
        str(folder / "data.pha"),
        backFile=files.get("BACKFILE"),
        respFile=files["RESPFILE"],
        arfFile=files["ANCRFILE"],
    )
    last = model.full_response.channels
    outside = [(1, model.first), (model.stop + 1, last)]
    ranges = ",".join(f"{low}-{high}" for low, high in outside if high >= low)
    if ranges:
        spectrum.ignore(ranges)

    xspec.AllModels.addPyMod(model_function(model), parameter_info(elements, settings), "add")
    xspec.Fit.statMethod = "chi" if settings.statistic == "chi2" else "cstat"
    xspec.Fit.weight = {"data": "standard", "gehrels": "gehrels", "model": "model"}[
        settings.variance
    ]
    xspec.Fit.nIterations = settings.max_iterations
    xspec.Fit.query = "no"

    weights = np.array([settings.start[name] for name in elements], np.float64)
    start, answer = settings, None
    scattered = bool(model.scattered(weights))
    rounds = max(1, settings.scatter_iterations) if model.given_scatter is None else 1
    for number in range(rounds if scattered else 1):
        expression = MODEL_NAME
        if scattered:
            table = folder / f"scatter{number}.fits"
            _write_scatter(model, weights, table)
            expression = f"atable{{{table}}}+{MODEL_NAME}"
        answer = _fit_once(xspec, spectrum, expression, elements, start, settings, scattered)
        weights = answer.weights
        start = replace(
            settings,
            start=dict(zip(elements, weights, strict=True))
            | {e: settings.start[e] for e in settings.frozen},
            xrf_norm=answer.xrf_norm,
            scatter_norm=answer.scatter_norm,
            slope=answer.slope,
            offset=answer.offset,
        )
    assert answer is not None
    return answer


def _write_scatter(model: SpectralModel, weights: np.ndarray, path: Path) -> None:
    import xarray as xr

    from lunarray.xrf.response import rebin_kernel
    from lunarray.xrf.table_models import write_table_model

    low, high = model.solar_lo, model.solar_hi
    flux = np.zeros(low.size)
    for begin, end, photons in model.scattered(weights):
        rebin_kernel(photons, begin, end, low, high, flux)
    table = xr.Dataset(
        {"flux": ("energy", flux)},
        {
            "energy": ("energy", (low + high) / 2),
            "energy_lo": ("energy", low),
            "energy_hi": ("energy", high),
        },
    )
    write_table_model(table, path, name="scatter", overwrite=True)


def _fit_once(
    xspec: Any,
    spectrum: Any,
    expression: str,
    elements: tuple[str, ...],
    settings: FitSettings,
    first: FitSettings,
    scattered: bool,
) -> _Answer:
    # `settings` begin where the round before ended; the prior and the ratio of tied norms stay those of `first`.
    prior, ratio = first.start, first.scatter_norm
    model = xspec.Model(expression)
    names = list(model.componentNames)
    lines = getattr(model, next(name for name in names if name.startswith(MODEL_NAME)))
    parameters: dict[str, Any] = {e: getattr(lines, f"Wt_{e}") for e in elements}
    parameters["xrf_norm"] = lines.norm
    low, high = settings.norm_bounds
    bounded = {"xrf_norm": (settings.xrf_norm, settings.fit_xrf_norm)}
    if scattered:
        table = getattr(model, next(name for name in names if not name.startswith(MODEL_NAME)))
        for name in table.parameterNames:
            if name != "norm":  # the parameter that XSPEC wants and that changes nothing
                getattr(table, name).frozen = True
        parameters["scatter_norm"] = table.norm
        bounded["scatter_norm"] = (
            settings.scatter_norm,
            settings.fit_scatter_norm and not settings.tie_norms,
        )
    for name, (first_value, fitted) in bounded.items():
        parameters[name].values = [first_value, 0.01, low, low, high, high]
        parameters[name].frozen = not fitted
    for name in elements:
        parameter = parameters[name]
        if name != settings.balance:
            parameter.values = float(settings.start[name])
            parameter.frozen = name in settings.frozen
    others = " + ".join(f"p{parameters[e].index}" for e in elements if e != settings.balance)
    parameters[settings.balance].link = f"100 - ({others})"
    if settings.tie_norms and scattered:
        parameters["scatter_norm"].link = f"{float(ratio)!r} * p{parameters['xrf_norm'].index}"
    for name, width in zip(elements, prior_widths(plan_fit(elements, first)), strict=True):
        if np.isfinite(width) and name not in settings.frozen and name != settings.balance:
            parameters[name].prior = ("gauss", float(prior[name]), float(width))
    if settings.norm_sigma > 0 and settings.fit_xrf_norm:
        parameters["xrf_norm"].prior = ("gauss", float(first.xrf_norm), float(settings.norm_sigma))
    xspec.Fit.bayes = "on" if settings.prior_sigma or settings.norm_sigma > 0 else "off"
    if settings.fit_gain or settings.slope != 1 or settings.offset != 0:
        gain = spectrum.response.gain
        gain.slope, gain.offset = settings.slope, settings.offset
        # Assigning to either of them turns the gain on; its parameters are there from then on.
        parameters["slope"], parameters["offset"] = gain.slope, gain.offset
        for name, first_gain in (("slope", settings.slope), ("offset", settings.offset)):
            bottom, top = getattr(settings, f"{name}_bounds")
            if settings.fit_gain:
                parameters[name].values = [first_gain, _GAIN_STEPS[name], bottom, bottom, top, top]
            parameters[name].frozen = not settings.fit_gain
    status = _perform(xspec)

    value = {name: float(parameter.values[0]) for name, parameter in parameters.items()}
    free = [
        name
        for name, parameter in parameters.items()
        if not parameter.frozen and not parameter.link
    ]
    # Covariances come as the lower triangle, in XSPEC's order: model parameters by index, then those of responses.
    order = sorted(free, key=lambda n: (n in ("slope", "offset"), parameters[n].index))
    triangle = np.asarray(xspec.Fit.covariance, np.float64)
    covariance = np.full((len(order), len(order)), np.nan)
    if triangle.size == len(order) * (len(order) + 1) // 2:
        covariance[np.tril_indices(len(order))] = triangle
        covariance = np.where(np.isnan(covariance), covariance.T, covariance)
    else:
        # XSPEC gives none where the matrix of second derivatives is singular.
        status = "not_converged"
    return _Answer(
        weights=np.array([value[e] for e in elements]),
        xrf_norm=value["xrf_norm"],
        scatter_norm=value.get("scatter_norm", settings.scatter_norm),
        slope=value.get("slope", 1.0),
        offset=value.get("offset", 0.0),
        covariance=covariance,
        order=tuple(order),
        statistic=float(xspec.Fit.statistic),
        folded=np.asarray(model.folded(1), np.float64),
        status=status,
    )


def _perform(xspec: Any) -> str:
    """Fit, and find out whether XSPEC came to an end: it says so nowhere but in that another fit changes nothing."""
    if int(xspec.Fit.nVarPars) == 0:
        return "fitted"
    before = np.inf
    for _ in range(_FITS):
        xspec.Fit.perform()
        now = float(xspec.Fit.statistic)
        if not np.isfinite(now):
            return "not_converged"
        if abs(before - now) <= float(xspec.Fit.criticalDelta) * max(1.0, 1e-3 * abs(now)):
            return "fitted"
        before = now
    return "not_converged"
