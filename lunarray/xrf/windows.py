"""The fit of elements on blocks of windows: plain arrays in, packed rows of results out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import chi2

from lunarray.errors import LunarrayError
from lunarray.xrf import xspec
from lunarray.xrf.class_files import CLASS_DETECTORS
from lunarray.xrf.diagnosis import distrusted, is_implausible
from lunarray.xrf.fit import fit_spectrum
from lunarray.xrf.ground import prior_spread
from lunarray.xrf.model import SpectralModel
from lunarray.xrf.nuisance import ShapePrior, Unknowns
from lunarray.xrf.selection import FRAME_FLAGS
from lunarray.xrf.settings import (
    ELEMENT_FLAGS,
    ERROR_SOURCES,
    FATAL,
    FIT_FLAGS,
    Conventions,
    FitSettings,
    Geometry,
    Observation,
    prior_composition,
)
from lunarray.xrf.suns import continuum_temperature
from lunarray.xrf.unknowns import DEFAULT_MODES, default_modes

if TYPE_CHECKING:
    from lunarray.xrf.atomic import AtomicTables
    from lunarray.xrf.response import Response

#: A fit with a smaller chance than this is flagged as poor.
_POOR = 1e-4
#: Residuals shaped as lines of another width or place, in standard deviations, from which the response is wrong.
_MISFIT = 4.0
#: An abundance so many times its total error is detected; elsewhere there is a limit of 95 % (one side).
_DETECTED, _ONE_SIDED = 3.0, 1.645

#: Stands for the counts of a channel that is marked as bad and left out of the fit.
LEFT_OUT = -np.inf

#: Windows that are fitted one after the other, each from where the last ended. Fixed, so that results do not depend
#: on chunks.
BATCH = 128

#: Bits of fits that were not made, where these are not called as the fit says it.
_BITS = {"bad_geometry": "no_geometry", "no_solar_flux": "no_solar_model"}
COLUMNS = (
    "exposure", "n_detectors", "incidence", "emission", "phase", "altitude", "solar", "mare", "flags", "n_frames",
    "shape", "background_scale",
)  # fmt: skip
SCALARS = (
    "quality", "statistic", "dof", "goodness", "xrf_norm", "xrf_norm_std", "scatter_norm", "scatter_norm_std",
    "gain_slope", "gain_offset", "line_width", "net_counts",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FitSpec:
    """All that a block of windows needs to be fitted, beside their counts: it is in the graph once."""

    response: Response
    solar: tuple[
        np.ndarray, np.ndarray, np.ndarray
    ]  # edges, keV, and (model, energy) photons/s/cm²/keV
    background: Any  # counts (channel,), or None
    background_exposure: float  # s, with all detectors
    channels: tuple[int, int]  # first and last + 1 of those that are fitted
    settings: FitSettings
    conventions: Conventions
    tables: AtomicTables
    min_significance: float  # of the counts above the background
    engine: str
    # Whether the prior's means, and its spreads, are those of the ground.
    by_ground: tuple[bool, bool]
    # (mode, model, energy): changes of the solar flux for one standard deviation; None: the default ones
    modes: np.ndarray | None = None
    mode_names: tuple[str, ...] = DEFAULT_MODES
    shapes: tuple[ShapePrior, ...] = ()  # what is known of the response; none: it is right as it is

    @property
    def nuisances(self) -> tuple[str, ...]:
        """Names of the unknowns that are fitted; none where errors are statistical only."""
        if not self.settings.systematics or self.settings.fit_gain or self.engine == "pyxspec":
            return ()
        shape = ("width", "slope", "offset") if self.shapes else ()
        suns = tuple(f"sun:{name}" for name in self.mode_names)
        return (*suns, *shape, "area", "ratio", "background")


def whole_batches(chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks of whole batches, about as long as these; those that are so already stay, as co-added ones do."""
    if not any(size % BATCH for size in chunks[:-1]):
        return chunks
    n, step = sum(chunks), max(max(chunks) // BATCH, 1) * BATCH
    return tuple(min(step, n - at) for at in range(0, n, step)) or (0,)


def packed_width(spec: FitSpec) -> int:
    """Columns of the packed rows of results."""
    e = len(spec.tables.elements)
    parts = (5 + len(ERROR_SOURCES)) * e
    return len(SCALARS) + parts + e * e + spec.tables.line_energy.size + len(spec.nuisances)


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
    for i, row in enumerate(table):
        column = dict(zip(COLUMNS, row, strict=True))
        bad = np.flatnonzero(counts[i] == LEFT_OUT)
        if bad.size:
            _fit_without(bad, counts[i], row, spec, out[i])
            continue
        out[i, 0], out[i, SCALARS.index("net_counts")] = refusal(counts[i], column, spec)
        if out[i, 0]:
            continue
        data = observation(counts[i], column, spec)
        try:
            settings = own_settings(spec, column)
            model = models(column)
            if spec.engine == "pyxspec":
                result = xspec.fit_spectrum(data, model, settings)
            else:
                unknowns = models.unknowns(column)
                result = fit_spectrum(data, model, settings, warm_start=last, unknowns=unknowns)
        except (LunarrayError, ValueError, ArithmeticError, np.linalg.LinAlgError):
            # One spectrum that cannot be fitted does not stop the others; what is wrong with all was found before.
            out[i, 0] = FIT_FLAGS["fit_failed"]
            continue
        if result.status == "fitted":
            last = result
        doubtful = (
            bool(spec.nuisances)
            and result.status in ("fitted", "not_converged")
            and is_implausible(result, settings, model.geometry, models.temperature(column))
        )
        _pack(out[i], distrusted(result, settings) if doubtful else result)
        if doubtful:
            out[i, 0] = int(out[i, 0]) | FIT_FLAGS["implausible"]


def _fit_without(
    bad: np.ndarray, counts: np.ndarray, row: np.ndarray, spec: FitSpec, out: np.ndarray
) -> None:
    """Fit a window in which channels are bad: neither counts, background nor model are in them."""
    first, stop = spec.channels
    seen = int(np.count_nonzero((bad >= first) & (bad < stop)))
    if stop - first - seen < 10:
        out[0] = FIT_FLAGS["too_few_channels"]
        return
    counts, own = without_channels(bad, counts, spec)
    _fit_batch(counts[None], row[None], own, out[None])
    if not int(out[0]) & FATAL and spec.settings.statistic != "chi2":
        # Empty channels are no part of a likelihood, but they were counted.
        dof = SCALARS.index("dof")
        out[dof] -= seen
        out[SCALARS.index("goodness")] = chi2.sf(out[SCALARS.index("statistic")], out[dof])


def without_channels(
    bad: np.ndarray, counts: np.ndarray, spec: FitSpec
) -> tuple[np.ndarray, FitSpec]:
    """Counts of one window and what it is fitted with, without those channels."""
    response, background = spec.response, spec.background
    value = np.where(np.isin(response.channel, bad), 0.0, response.value)
    if background is not None:
        background = np.where(np.isin(np.arange(background.size), bad), 0.0, background)
    own = replace(spec, response=replace(response, value=value, shape=None), background=background)
    counts = counts.copy()
    counts[bad] = 0.0
    return counts, own


def _exposure(column: dict[str, float]) -> float:
    """Seconds of a window as if all detectors had been used."""
    used = column["n_detectors"]
    return column["exposure"] * (used / CLASS_DETECTORS if used > 0 else 1.0)


def observation(counts: np.ndarray, column: dict[str, float], spec: FitSpec) -> Observation:
    """Counts of a window and of the background."""
    back = spec.background_exposure / _background_scale(column)
    return Observation(np.asarray(counts, "f8"), _exposure(column), spec.background, back)


def _background_scale(column: dict[str, float]) -> float:
    """BACKSCAL of a window: how much of the background it has, beside its exposure."""
    scale = column["background_scale"]
    return scale if scale > 0 else 1.0


def refusal(counts: np.ndarray, column: dict[str, float], spec: FitSpec) -> tuple[int, float]:
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
    total = own.sum()
    net, variance = total, max(total, 1.0)
    if spec.background is not None:
        scale = _exposure(column) * _background_scale(column) / spec.background_exposure
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
        self.known: dict[tuple[float, ...], Unknowns] = {}
        self.hot: dict[int, float] = {}

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

    def temperature(self, column: dict[str, float]) -> float:
        """What the slope of the Sun of a window tells of its plasma, keV; 0 where it tells nothing."""
        own = int(column["solar"])
        if own not in self.hot:
            low, high, flux = self.spec.solar
            try:
                self.hot[own] = continuum_temperature((low + high) / 2, flux[own])
            except LunarrayError:
                self.hot[own] = 0.0
        return self.hot[own]

    def unknowns(self, column: dict[str, float]) -> Unknowns | None:
        """What is not known of the Sun and the response of a window."""
        spec = self.spec
        if not spec.nuisances:
            return None
        key = column["solar"], column["shape"]
        if key not in self.known:
            if len(self.known) > 64:
                self.known.clear()
            low, high, flux = spec.solar
            own = int(column["solar"])
            modes = (
                default_modes(low, high, flux[own]) if spec.modes is None else spec.modes[:, own]
            )
            shape = spec.shapes[int(column["shape"])] if spec.shapes else None
            self.known[key] = Unknowns(modes, spec.mode_names, shape)
        return self.known[key]


def own_settings(spec: FitSpec, column: dict[str, float]) -> FitSettings:
    """Settings with the prior of the ground of one window."""
    settings, (mean, spread) = spec.settings, spec.by_ground
    if not (mean or spread) or not np.isfinite(column["mare"]):
        return settings
    share = float(np.clip(column["mare"], 0.0, 1.0))
    if mean:
        settings = replace(settings, start=prior_composition(share))
    if spread:
        about, along = prior_spread(share)
        settings = replace(settings, prior_sigma=about, prior_line=along)
    return settings


def status_bit(status: str) -> int:
    """The bit of `FIT_FLAGS` of what a fit says of itself; 0 of one that is as it should be."""
    return 0 if status == "fitted" else FIT_FLAGS[_BITS.get(status, status)]


def _pack(row: np.ndarray, result: Any) -> None:
    quality = status_bit(result.status)
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
    quality |= FIT_FLAGS["response_misfit"] if result.misfit > _MISFIT else 0
    at = len(SCALARS)
    row[: at - 1] = (
        quality,
        result.statistic,
        result.dof,
        result.goodness,
        result.xrf_norm,
        result.xrf_norm_error,
        result.scatter_norm,
        result.scatter_norm_error,
        result.slope,
        result.offset,
        result.line_width,
    )
    weights, errors = np.asarray(result.weights), np.asarray(result.weight_errors)
    unseen = (
        ELEMENT_FLAGS["not_constrained"] | ELEMENT_FLAGS["at_lower_bound"] | ELEMENT_FLAGS["frozen"]
    )
    detected = (weights >= _DETECTED * errors) & ((flags & unseen) == 0)
    limit = np.where(detected, np.nan, weights + _ONE_SIDED * errors)
    parts = np.full((len(ERROR_SOURCES), weights.size), np.nan)
    parts[0] = errors
    if result.parts is not None:
        parts = result.parts
    for part in (
        weights,
        errors,
        flags,
        detected,
        limit,
        parts.ravel(),
        element_covariance(result).ravel(),
        result.line_fluxes,
        result.unknowns,
    ):
        part = np.asarray(part, "f8")
        row[at : at + part.size] = part
        at += part.size


def element_covariance(result: Any) -> np.ndarray:
    """Covariance of the weights of all elements, the closing one among them, from that of the fitted parameters.

    Returns (element, element): wt%²; frozen elements have 0.
    """
    e = len(result.elements)
    spread = np.zeros((e, len(result.parameters)))
    for k, name in enumerate(result.parameters):
        if name in result.elements:
            spread[result.elements.index(name), k] = 1.0
    balance = (np.asarray(result.element_flags) & ELEMENT_FLAGS["from_closure"]) > 0
    spread[balance] = -spread.sum(axis=0)
    return spread @ result.covariance @ spread.T
