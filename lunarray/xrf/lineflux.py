"""The route of x2abundance: line fluxes from Gaussians on a continuum, then the composition that gives them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lunarray.errors import InputError
from lunarray.xrf.atomic import AtomicTables, atomic_tables
from lunarray.xrf.constants import HIGHLAND
from lunarray.xrf.fit_kernels import template_kernel
from lunarray.xrf.model import PhotonModel
from lunarray.xrf.response import Response, rebin
from lunarray.xrf.settings import FitSettings, Observation

#: Lines between the instrument's threshold and the end of most flares' spectra.
LINES = ("Mg Ka", "Al Ka", "Si Ka", "Ca Ka")
RATIOS = (("Mg", "Si"), ("Al", "Si"), ("Ca", "Si"), ("Mg", "Al"))


@dataclass(frozen=True)
class LineFluxes:
    """Fluxes of lines at the detector, photons/s/cm²."""

    lines: tuple[str, ...]  # "Si Ka" and so on
    fluxes: np.ndarray  # (line,)
    errors: np.ndarray
    covariance: np.ndarray  # (line, line)
    scatter_norm: float  # NaN without a continuum
    scatter_norm_error: float
    statistic: float  # χ²
    dof: int
    model: np.ndarray  # (channel,): counts/s

    def ratio(self, above: str, below: str) -> tuple[float, float]:
        """Ratio of two fluxes and its error, the covariance of the two included.

        `above`, `below`: lines, or elements for their Kα. Returns `value`, `error`: NaN where the flux below is not
        positive.
        """
        i, j = (self._index(name) for name in (above, below))
        a, b = self.fluxes[i], self.fluxes[j]
        if not b > 0:
            return float("nan"), float("nan")
        slope = np.array([1 / b, -a / b**2])
        part = self.covariance[np.ix_([i, j], [i, j])]
        return float(a / b), float(np.sqrt(slope @ part @ slope))

    def ratios(self, pairs: Sequence[tuple[str, str]] = RATIOS) -> dict[str, tuple[float, float]]:
        """Several ratios: "Mg/Si" and so on, with errors."""
        return {f"{a}/{b}": self.ratio(a, b) for a, b in pairs}

    def _index(self, name: str) -> int:
        full = name if " " in name else f"{name} Ka"
        if full not in self.lines:
            raise InputError(
                f"no flux of {full}",
                where="LineFluxes",
                remedy=f"There are {', '.join(self.lines)}",
            )
        return self.lines.index(full)


def fit_line_fluxes(
    data: Observation,
    response: Response,
    lines: Sequence[str] = LINES,
    *,
    channels: slice = slice(None),
    scatter: tuple[Any, Any, Any] | Sequence[tuple[Any, Any, Any]] | None = None,
    sigma: float = 0.0,
    with_kb: bool | Mapping[str, float] = True,
    tables: AtomicTables | None = None,
) -> LineFluxes:
    """Fluxes of lines from Gaussians on a scattered continuum.

    The model is linear in the fluxes and the norm of the continuum; χ² with the model's own variances is minimised,
    none of them being negative.

    `response`: with its gain applied (`Response.with_gain`); `lines`: names as in `AtomicTables.line_names`;
    `channels`: fitted channels; `scatter` (energy_lo, energy_hi, photons): the continuum at the detector, photons/s/cm²
    in each bin, as `PhotonModel.scattered` gives it; `sigma`: width of the lines before the response, keV; `with_kb`
    bool: let the Kβ line go with each Kα, at the ratio of their rates, or at given ratios Kβ/Kα of fluxes by element
    (they are some per cent larger, for Kβ is absorbed less on its way out). InputError for unknown lines, or channels
    that are not the response's.
    """
    from scipy.optimize import nnls

    tables = tables if tables is not None else atomic_tables()
    if unknown := [name for name in lines if name not in tables.line_names]:
        raise InputError(
            f"no line {unknown}",
            where="lines",
            remedy=f"Choose from {', '.join(tables.line_names)}",
        )
    if np.shape(data.counts) != (response.channels,):
        raise InputError(
            f"a spectrum of {np.size(data.counts)} channels and a response of {response.channels}",
            where="counts",
            remedy="Use the response made for this binning",
        )
    first, stop, _ = channels.indices(response.channels)
    part = response.select(first, stop)
    templates = template_kernel(
        tables.line_energy, 2 if sigma > 0 else 0, sigma, part.energy_lo, part.energy_hi, part.area, part.row,
        part.channel, part.value, part.channels,
    )  # fmt: skip
    rows = [_line_row(name, templates, tables, with_kb) for name in lines]
    if scatter is not None:
        several = [scatter] if isinstance(scatter[0], np.ndarray | list) else list(scatter)
        photons = np.zeros(part.energies)
        for low, high, values in several:
            photons += rebin(values, low, high, part.energy_lo, part.energy_hi)
        rows.append(part.fold(photons))
    design = np.array(rows).T

    counts, back = data.arrays(first, stop)
    t, tb = data.exposure, data.background_exposure
    known = back / tb if data.background is not None else np.zeros_like(counts)
    net = counts / t - known
    own = back / tb**2 if data.background is not None else np.zeros_like(counts)
    variance = np.maximum(counts, 1) / t**2 + own
    scale = np.where(design.sum(axis=0) > 0, design.sum(axis=0), 1.0)
    for _ in range(4):  # the variance of the model before, which has no bias towards low counts
        weight = 1 / np.sqrt(variance)
        solution, _ = nnls(design / scale * weight[:, None], net * weight)
        model = design / scale @ solution
        variance = np.maximum(model + known, 0.1 / t) / t + own
    weight = 1 / np.sqrt(variance)
    whitened = design * weight[:, None]
    covariance = np.linalg.pinv(whitened.T @ whitened, hermitian=True)
    errors = np.sqrt(np.diag(covariance))
    values = solution / scale
    n = len(lines)
    return LineFluxes(
        lines=tuple(lines),
        fluxes=values[:n],
        errors=errors[:n],
        covariance=covariance[:n, :n],
        scatter_norm=float(values[n]) if scatter is not None else float("nan"),
        scatter_norm_error=float(errors[n]) if scatter is not None else float("nan"),
        statistic=float(np.sum(((net - model) * weight) ** 2)),
        dof=net.size - design.shape[1],
        model=model,
    )


def _line_row(
    name: str, templates: np.ndarray, tables: AtomicTables, with_kb: bool | Mapping[str, float]
) -> np.ndarray:
    """Counts/s of a line, its Kβ with it."""
    i = tables.line_names.index(name)
    beta = name[:-2] + "Kb"
    if not (with_kb and name.endswith("Ka") and beta in tables.line_names):
        return templates[i]
    j = tables.line_names.index(beta)
    ratio = tables.line_rate[j] / tables.line_rate[i]
    if isinstance(with_kb, Mapping):
        ratio = with_kb.get(name.split()[0], ratio)
    return templates[i] + templates[j] * ratio


@dataclass(frozen=True)
class Composition:
    """Composition found by search, wt%."""

    elements: tuple[str, ...]
    weights: np.ndarray  # (element,)
    errors: np.ndarray  # from those of the fluxes; NaN for elements held
    statistic: float  # of the measured against the computed fluxes
    evaluated: int  # compositions tried


def search_composition(
    measured: LineFluxes,
    model: PhotonModel,
    *,
    start: Mapping[str, float] = HIGHLAND,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    free: Sequence[str] | None = None,
    balance: str = "Si",
    absolute: bool = False,
    points: int = 5,
    levels: int = 12,
) -> Composition:
    """Composition whose line fluxes are the measured ones, by search over combinations that sum to 100 %.

    A lattice over the bounds, then finer ones around the best combination.

    `model`: Sun, geometry and atomic tables; `start`: wt%; what elements that are not searched keep; `bounds` (float,
    float): constraints, wt%; by default those of `FitSettings`; `free`: elements to search; by default those with a
    measured line, without `balance`; `balance`: the element that makes the sum 100 %; `absolute` bool: compare fluxes
    themselves; by default fractions of their sum, which need no absolute calibration; `points`: lattice points along
    each element on the first level; `levels`: each finer level has three points along each element, and six tenths of
    the extent. InputError where no combination within the bounds sums to 100 %.
    """
    elements = model.tables.elements
    limits = dict(FitSettings().bounds) | dict(bounds or {})
    if free is None:
        seen = {name.split()[0] for name in measured.lines}
        free = [e for e in elements if e in seen and e != balance]
    where = [elements.index(e) for e in free]
    closing = elements.index(balance)
    rows = [model.tables.line_names.index(name) for name in measured.lines]
    base = np.array([start[e] for e in elements], np.float64)

    jacobian = np.eye(len(rows))
    observed = measured.fluxes
    if not absolute:
        total = observed.sum()
        if not total > 0:
            raise InputError(
                "no measured flux", where="measured", remedy="Search where lines are seen"
            )
        jacobian = (np.eye(len(rows)) - (observed / total)[:, None]) / total
        observed = observed / total
    spread = jacobian @ measured.covariance @ jacobian.T
    inverse = np.linalg.pinv(spread, rcond=1e-9, hermitian=True)

    def computed(weights: np.ndarray) -> np.ndarray:
        fluxes = (model.line_intensities(weights) * model.scale)[rows]
        return fluxes if absolute else fluxes / fluxes.sum()

    def combine(values: Sequence[float]) -> np.ndarray | None:
        weights = base.copy()
        weights[where] = values
        weights[closing] = 0.0
        weights[closing] = 100 - weights.sum()
        low, high = limits.get(balance, (0.0, 100.0))
        return weights if low <= weights[closing] <= high else None

    low, high = np.array([limits[e] for e in free], np.float64).T
    centre, extent = (low + high) / 2, high - low
    best, best_value, evaluated = None, np.inf, 0
    for level in range(levels + 1):
        offsets = np.linspace(-0.5, 0.5, points if level == 0 else 3)
        axes = [
            np.unique(np.clip(c + offsets * e, a, b))
            for c, e, a, b in zip(centre, extent, low, high, strict=True)
        ]
        for values in itertools.product(*axes):
            weights = combine(values)
            if weights is not None:
                residual = computed(weights) - observed
                value = float(residual @ inverse @ residual)
                evaluated += 1
                if value < best_value:
                    best, best_value = weights, value
        if best is None:
            what = "no combination within the bounds sums to 100 %"
            raise InputError(what, where="bounds", remedy="Widen them")
        centre = best[where]
        extent = extent * (0.5 if level == 0 else 0.6)
    assert best is not None
    errors = _composition_errors(best, where, closing, inverse, computed)
    return Composition(elements, best, errors, best_value, evaluated)


def _composition_errors(
    best: np.ndarray, where: list[int], closing: int, inverse: np.ndarray, computed: Any
) -> np.ndarray:
    """Errors of the fluxes through the slopes of the computed ones."""
    slopes = np.empty((len(inverse), len(where)))
    for column, i in enumerate(where):
        step = max(1e-3 * best[i], 1e-3)
        above, below = best.copy(), best.copy()
        above[[i, closing]] += step, -step
        below[[i, closing]] += -step, step
        slopes[:, column] = (computed(above) - computed(below)) / (2 * step)
    covariance = np.linalg.pinv(slopes.T @ inverse @ slopes, hermitian=True)
    errors = np.full(best.size, np.nan)
    errors[where] = np.sqrt(np.diag(covariance))
    errors[closing] = np.sqrt(covariance.sum())
    return errors
