"""The fit of elements on blocks of windows: plain arrays in, packed rows of results out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import LunarrayError
from lunarray.xrf.class_files import CLASS_DETECTORS
from lunarray.xrf.fit import fit_spectrum
from lunarray.xrf.model import SpectralModel
from lunarray.xrf.selection import FRAME_FLAGS
from lunarray.xrf.settings import (
    ELEMENT_FLAGS,
    FATAL,
    FIT_FLAGS,
    Conventions,
    FitSettings,
    Geometry,
    Observation,
    prior_composition,
)

if TYPE_CHECKING:
    from lunarray.xrf.atomic import AtomicTables
    from lunarray.xrf.response import Response

#: A fit with a smaller chance than this is flagged as poor.
_POOR = 1e-4

#: Windows that are fitted one after the other, each from where the last ended. Fixed, so that results do not depend
#: on chunks.
BATCH = 128

_STATUS = {
    "not_converged": "not_converged",
    "night": "night",
    "bad_geometry": "no_geometry",
    "no_counts": "no_counts",
    "bad_data": "bad_data",
    "no_solar_flux": "no_solar_model",
    "too_few_channels": "too_few_channels",
}
COLUMNS = (
    "exposure", "n_detectors", "incidence", "emission", "phase", "altitude", "solar", "mare", "flags", "n_frames",
)  # fmt: skip
SCALARS = (
    "quality", "statistic", "dof", "goodness", "xrf_norm", "xrf_norm_std", "scatter_norm", "scatter_norm_std",
    "gain_slope", "gain_offset", "net_counts",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FitSpec:
    """All that a block of windows needs to be fitted, beside their counts: it is in the graph once.

    Parameters
    ----------
    response : Response
    solar : tuple of ndarray
        Lower and upper edges of the solar bins (energy,), keV, and fluxes (model, energy), photons/s/cm²/keV.
    background : ndarray or None
        Counts, (channel,).
    background_exposure : float
        Seconds with all detectors.
    channels : tuple of int
        First and last + 1 of those that are fitted.
    settings, conventions, tables
        Of the fit.
    min_significance : float
        Of the counts above the background.
    engine : str
    """

    response: Response
    solar: tuple[np.ndarray, np.ndarray, np.ndarray]
    background: Any
    background_exposure: float
    channels: tuple[int, int]
    settings: FitSettings
    conventions: Conventions
    tables: AtomicTables
    min_significance: float
    engine: str
    mare: Any = None
    highland: Any = None


def whole_batches(chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks of whole batches, about as long as these; those that are so already stay, as co-added ones do."""
    if not any(size % BATCH for size in chunks[:-1]):
        return chunks
    n, step = sum(chunks), max(max(chunks) // BATCH, 1) * BATCH
    return tuple(min(step, n - at) for at in range(0, n, step)) or (0,)


def packed_width(spec: FitSpec) -> int:
    """Columns of the packed rows of results."""
    e = len(spec.tables.elements)
    return len(SCALARS) + 3 * e + e * e + spec.tables.line_energy.size


def fit_block(counts: Any, table: Any, *, spec: FitSpec) -> np.ndarray:
    """Fit windows, (window, channel) and (window, column), batch by batch, into packed rows of results."""
    out = np.full((len(table), packed_width(spec)), np.nan)
    for at in range(0, len(table), BATCH):
        own = slice(at, at + BATCH)
        _fit_batch(np.asarray(counts[own], "f8"), np.asarray(table[own], "f8"), spec, out[own])
    return out


def _fit_batch(counts: np.ndarray, table: np.ndarray, spec: FitSpec, out: np.ndarray) -> None:
    """Fit windows one after the other, each from where the last ended."""

    models = ModelCache(spec)
    last = None
    jobs = []
    for i, row in enumerate(table):
        column = dict(zip(COLUMNS, row, strict=True))
        quality, net = _refusal(counts[i], column, spec)
        out[i, SCALARS.index("net_counts")] = net
        out[i, 0] = quality
        if quality:
            continue
        used = column["n_detectors"]
        exposure = column["exposure"] * (used / CLASS_DETECTORS if used > 0 else 1.0)
        jobs.append(
            (i, column, Observation(counts[i], exposure, spec.background, spec.background_exposure))
        )
    if spec.engine == "pyxspec":
        _fit_jobs_pyxspec(jobs, models, spec, out)
        return
    for i, column, observation in jobs:
        try:
            result = fit_spectrum(
                observation, models(column), _own_settings(spec, column), warm_start=last
            )
        except (LunarrayError, ValueError, ArithmeticError, np.linalg.LinAlgError):
            # One spectrum that cannot be fitted does not stop the others; what is wrong with all was found before.
            out[i, 0] = FIT_FLAGS["fit_failed"]
            continue
        if result.status == "fitted" and spec.mare is None:
            last = result
        _pack(out[i], result)


def _refusal(counts: np.ndarray, column: dict[str, float], spec: FitSpec) -> tuple[int, float]:
    """Why a window is not fitted (0: it is), and its counts above the background."""
    first, stop = spec.channels
    own = counts[first:stop]
    if not column["exposure"] > 0 or column["n_frames"] == 0:
        quality = FIT_FLAGS["no_frames"]
        # Of a window without a single frame to be used, the frames' own reasons are the window's.
        flags = int(column["flags"]) if np.isfinite(column["flags"]) else 0
        for name in ("night", "no_geometry"):
            quality |= FIT_FLAGS[name] if flags & FRAME_FLAGS[name] else 0
        return quality, np.nan
    if not np.all(np.isfinite(own)) or np.any(own < 0):
        return FIT_FLAGS["bad_data"], np.nan
    angles = [column[name] for name in ("incidence", "emission")]
    quality = 0
    if not np.all(np.isfinite(angles)):
        quality |= FIT_FLAGS["no_geometry"]
    elif column["incidence"] >= 90.0:
        quality |= FIT_FLAGS["night"]
    if column["solar"] < 0:
        quality |= FIT_FLAGS["no_solar_model"]
    used = column["n_detectors"]
    exposure = column["exposure"] * (used / CLASS_DETECTORS if used > 0 else 1.0)
    total = own.sum()
    net, variance = total, max(total, 1.0)
    if spec.background is not None:
        scale = exposure / spec.background_exposure
        back = spec.background[first:stop].sum()
        net, variance = total - scale * back, variance + scale**2 * back
    if total == 0:
        quality |= FIT_FLAGS["no_counts"]
    elif net < spec.min_significance * np.sqrt(variance):
        quality |= FIT_FLAGS["no_signal"]
    return quality, net


class ModelCache:
    """Spectral models by what they depend on: windows of the same Sun and angles share one."""

    def __init__(self, spec: FitSpec) -> None:
        self.spec = spec
        self.held: dict[tuple[float, ...], Any] = {}

    def __call__(self, column: dict[str, float]) -> Any:

        spec = self.spec
        names = ("solar", "incidence", "emission", "phase", "altitude", "exposure")
        key = tuple(np.float64(column[name]).item() for name in names)
        if key not in self.held:
            if len(self.held) > 4:
                self.held.clear()
            low, high, flux = spec.solar
            phase = column["phase"] if np.isfinite(column["phase"]) else None
            altitude = column["altitude"] if column["altitude"] > 0 else 100.0
            self.held[key] = SpectralModel(
                spec.response,
                (low, high, flux[int(column["solar"])]),
                Geometry(column["incidence"], column["emission"], phase, altitude),
                exposure=column["exposure"],
                tables=spec.tables,
                conventions=spec.conventions,
                channels=slice(*spec.channels),
            )
        return self.held[key]


def _own_settings(spec: FitSpec, column: dict[str, float]) -> FitSettings:
    if spec.mare is None or not np.isfinite(column["mare"]):
        return spec.settings
    share = float(np.clip(column["mare"], 0.0, 1.0))
    return replace(
        spec.settings, start=prior_composition(share, highland=spec.highland, mare=spec.mare)
    )


def _pack(row: np.ndarray, result: Any) -> None:
    quality = FIT_FLAGS[_STATUS[result.status]] if result.status != "fitted" else 0
    row[0] = quality
    if quality & FATAL:
        return
    flags = np.asarray(result.element_flags)
    bounded = ELEMENT_FLAGS["at_lower_bound"] | ELEMENT_FLAGS["at_upper_bound"]
    quality |= FIT_FLAGS["at_bound"] if np.any(flags & bounded) else 0
    quality |= (
        FIT_FLAGS["not_constrained"] if np.any(flags & ELEMENT_FLAGS["not_constrained"]) else 0
    )
    quality |= FIT_FLAGS["poor_fit"] if result.goodness < _POOR else 0
    values = {
        "quality": quality,
        "statistic": result.statistic,
        "dof": result.dof,
        "goodness": result.goodness,
        "xrf_norm": result.xrf_norm,
        "xrf_norm_std": result.xrf_norm_error,
        "scatter_norm": result.scatter_norm,
        "scatter_norm_std": result.scatter_norm_error,
        "gain_slope": result.slope,
        "gain_offset": result.offset,
        "net_counts": row[SCALARS.index("net_counts")],
    }
    at = len(SCALARS)
    row[:at] = [values[name] for name in SCALARS]
    for part in (
        result.weights,
        result.weight_errors,
        flags,
        element_covariance(result).ravel(),
        result.line_fluxes,
    ):
        part = np.asarray(part, "f8")
        row[at : at + part.size] = part
        at += part.size


def element_covariance(result: Any) -> np.ndarray:
    """Covariance of the weights of all elements, the closing one among them, from that of the fitted parameters.

    Returns
    -------
    ndarray, (element, element)
        wt%²; frozen elements have 0.
    """
    e = len(result.elements)
    spread = np.zeros((e, len(result.parameters)))
    for k, name in enumerate(result.parameters):
        if name in result.elements:
            spread[result.elements.index(name), k] = 1.0
    balance = (np.asarray(result.element_flags) & ELEMENT_FLAGS["from_closure"]) > 0
    spread[balance] = -spread.sum(axis=0)
    return spread @ result.covariance @ spread.T


def _fit_jobs_pyxspec(jobs: list[Any], models: ModelCache, spec: FitSpec, out: np.ndarray) -> None:
    from lunarray.xrf import xspec

    for i, column, observation in jobs:
        try:
            result = xspec.fit_spectrum(observation, models(column), _own_settings(spec, column))
        except (LunarrayError, ValueError, ArithmeticError, np.linalg.LinAlgError):
            out[i, 0] = FIT_FLAGS["fit_failed"]
            continue
        _pack(out[i], result)
