"""Spectral fit: composition, two norms and gain from one X-ray spectrum. Plain arrays in, a frozen result out."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from lunarray.errors import InputError
from lunarray.xrf.atomic import AtomicTables, atomic_tables
from lunarray.xrf.constants import CLASS_FIELD_DEG, HIGHLAND, PYXSPEC_BOUNDS, PYXSPEC_START
from lunarray.xrf.fit_kernels import (
    STATISTICS,
    evaluate_kernel,
    fit_kernel,
    penalty_kernel,
    statistic_kernel,
    template_kernel,
)
from lunarray.xrf.kernels import (
    FluorescenceTables,
    fluorescence_tables,
    scatter_kernel,
    scatter_tables,
)
from lunarray.xrf.response import Response, fold_kernel, rebin_kernel

#: Bits of `FitResult.element_flags`.
ELEMENT_FLAGS = MappingProxyType(
    {
        "at_lower_bound": 1,
        "at_upper_bound": 2,
        "not_constrained": 4,
        "frozen": 8,
        "from_closure": 16,
    }
)
#: Values of `FitResult.status`; 0 is a fit that converged.
STATUS = MappingProxyType(
    {
        "fitted": 0,
        "not_converged": 1,
        "night": 2,
        "bad_geometry": 3,
        "no_counts": 4,
        "bad_data": 5,
        "no_solar_flux": 6,
        "too_few_channels": 7,
    }
)


@dataclass(frozen=True)
class Geometry:
    """Angles and distance of one observation.

    Attributes
    ----------
    incidence : float
        Angle between the surface normal and the Sun, degrees; Φ = 90 − incidence.
    emission : float
        Angle between the surface normal and the detector, degrees; Ψ = 90 − emission.
    phase : float, optional
        Angle between the directions to Sun and detector, degrees; by default the incidence, as it is for a nadir view.
    altitude : float
        km; only the scale "x2abund" needs it.
    """

    incidence: float
    emission: float = 0.0
    phase: float | None = None
    altitude: float = 100.0

    @property
    def sines(self) -> tuple[float, float]:
        """sin Φ and sin Ψ."""
        return float(np.cos(np.deg2rad(self.incidence))), float(np.cos(np.deg2rad(self.emission)))

    @property
    def scattering_angle(self) -> float:
        """180 − phase, degrees."""
        return 180.0 - (self.incidence if self.phase is None else self.phase)

    def status(self) -> str:
        """What is wrong with it: "fitted" (nothing), "night" or "bad_geometry"."""
        values = (self.incidence, self.emission, self.scattering_angle, self.altitude)
        if not np.all(np.isfinite(values)) or not 0 <= self.emission < 90 or self.incidence < 0:
            return "bad_geometry"
        if not 0 <= self.scattering_angle <= 180 or self.altitude <= 0:
            return "bad_geometry"
        return "night" if self.incidence >= 90 else "fitted"


@dataclass(frozen=True)
class Conventions:
    """How the model spectrum is made. The defaults are right; the others are what published software does.

    Attributes
    ----------
    secondary : bool
        Fluorescence excited by fluorescence (eq. 2).
    secondary_jump : {"own", "exciting"}
        Element whose jump factor stands in eq. 4; "exciting" is a mistake of published software.
    line_shape : {"split", "bin", "gaussian"}
        "split": the photons of a line go to the two energy bins beside it so that their mean energy is the line's.
        "bin": to the bin that holds the line. "gaussian": a normal distribution of `line_sigma` keV.
    line_sigma : float
        keV; for "gaussian".
    solar_energy : {"middle", "low"}
        Energy of a solar bin at which cross sections are taken.
    split_edges : bool
        Divide solar bins at absorption edges.
    beam : {"emergent", "incident"}
        Whose sine stands before the integral of eq. 1; "incident" is a mistake of published software.
    scale : {"solid_angle", "x2abund"} or float
        Factor from intensity to flux at the detector. "solid_angle": the field of view in steradian / 4π. "x2abund":
        12.5e4² (round(t/8) + 1) / (t · 4π (altitude · 1e4)²), as that software has it.
    field : (float, float)
        Full widths at half maximum of the field of view, degrees.
    scatter : {"continuum", "none"}
        Whether there is a scattered continuum, computed from the composition (an explicit spectrum is given to the fit
        itself).
    compton : bool
        Compton scattering in it.
    theta_range : (float, float), optional
        Integrate the scattering cross section over these angles (eq. 8) instead of taking it at the scattering angle.
    gain : {"area", "matrix", "channel"}
        See `Response.with_gain` and `Response.with_channel_gain`.
    normalise : bool
        Divide weights by their sum (which only differs from 100 where it is not fitted).
    """

    secondary: bool = True
    secondary_jump: Literal["own", "exciting"] = "own"
    line_shape: Literal["split", "bin", "gaussian"] = "split"
    line_sigma: float = 0.0
    solar_energy: Literal["middle", "low"] = "middle"
    split_edges: bool = True
    beam: Literal["emergent", "incident"] = "emergent"
    scale: Literal["solid_angle", "x2abund"] | float = "solid_angle"
    field: tuple[float, float] = CLASS_FIELD_DEG
    scatter: Literal["continuum", "none"] = "continuum"
    compton: bool = True
    theta_range: tuple[float, float] | None = None
    gain: Literal["area", "matrix", "channel"] = "area"
    normalise: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (
            ("line_shape", ("split", "bin", "gaussian")),
            ("secondary_jump", ("own", "exciting")), ("solar_energy", ("middle", "low")),
            ("beam", ("emergent", "incident")), ("scatter", ("continuum", "none")),
            ("gain", ("area", "matrix", "channel")),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"no {name} {getattr(self, name)!r}", remedy=f"choose from {', '.join(allowed)}"
                )
        if isinstance(self.scale, str) and self.scale not in ("solid_angle", "x2abund"):
            raise InputError(
                f"no scale {self.scale!r}", remedy="choose 'solid_angle', 'x2abund' or a number"
            )

    @classmethod
    def published(cls, **changes: Any) -> Conventions:
        """Those of ISSDC's X2ABUND local model for PyXspec.

        With them go FFAST text tables, linearly interpolated, and a response read with ``first_channel=1`` and
        ``area_at="rows"``.

        Parameters
        ----------
        **changes : Any
            Attributes that differ.

        Returns
        -------
        Conventions
        """
        own: dict[str, Any] = {
            "secondary_jump": "exciting",
            "line_shape": "bin", "solar_energy": "low", "split_edges": False, "beam": "incident", "scale": "x2abund",
        }  # fmt: skip
        return cls(**(own | changes))


@dataclass(frozen=True)
class FitSettings:
    """What is fitted, from where, and within which bounds.

    Attributes
    ----------
    start : mapping of str to float
        Composition to start from, wt%; also the prior's mean, and the value of frozen elements.
    bounds : mapping of str to (float, float)
        Limits of the fitted elements, wt%.
    frozen : tuple of str
        Elements that keep their value. The CLASS window does not see oxygen, the bulk of the surface.
    balance : str
        The element that makes the sum 100 %.
    balance_bounds : (float, float), optional
        Limits of that element, wt%.
    prior_sigma : mapping of str to float
        Standard deviations of a normal prior around `start`, wt%; elements without one have none. By default what most
        flares do not excite has one as wide as the surface varies: without it iron and the norm trade places freely,
        and with them all abundances. ``{}`` is no prior at all.
    xrf_norm, scatter_norm : float
        Starting values.
    norm_bounds : (float, float)
        Limits of both.
    fit_xrf_norm, fit_scatter_norm : bool
    tie_norms : bool
        Keep the scatter norm at `scatter_norm` times the XRF norm: the surface scatters the photons that excite it.
    slope, offset : float
        Gain: E' = E / slope − offset (keV).
    fit_gain : bool
    slope_bounds, offset_bounds : (float, float)
    statistic : {"chi2", "cstat", "wstat"}
        χ²; Poisson likelihood with the background taken as known; Poisson likelihood of data and background (W-stat).
    variance : {"data", "gehrels", "model"}
        Of χ²: counts (with background, both added, as PyXspec does; channels without either are left out), (1 + √(n +
        ¾))², or the model's counts.
    scatter_iterations : int
        How often the scattered continuum is computed from the composition fitted before.
    scatter_slopes : bool
        Whether, between two of these, the continuum follows the weights to first order; else it stands still, as in the
        published procedure.
    max_iterations : int
        Of the least-squares steps between two of these.
    tolerance : float
        The fit has converged when a step is expected to lower the statistic by less.
    """

    start: Mapping[str, float] = field(default_factory=lambda: dict(HIGHLAND))
    bounds: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: {
            "Fe": (0.0, 30.0), "Ti": (0.0, 15.0), "Ca": (0.0, 25.0), "Si": (5.0, 40.0), "Al": (0.0, 25.0),
            "Mg": (0.0, 30.0), "Na": (0.0, 8.0), "O": (30.0, 60.0),
        }
    )  # fmt: skip
    frozen: tuple[str, ...] = ("O",)
    balance: str = "Si"
    balance_bounds: tuple[float, float] | None = (0.0, 60.0)
    prior_sigma: Mapping[str, float] = field(
        default_factory=lambda: {"Fe": 6.0, "Ti": 2.0, "Na": 0.3}
    )
    xrf_norm: float = 1.0
    scatter_norm: float = 1.0
    norm_bounds: tuple[float, float] = (0.0, 1e20)
    fit_xrf_norm: bool = True
    fit_scatter_norm: bool = True
    tie_norms: bool = False
    slope: float = 1.0
    offset: float = 0.0
    fit_gain: bool = False
    slope_bounds: tuple[float, float] = (0.95, 1.05)
    offset_bounds: tuple[float, float] = (-0.1, 0.1)
    statistic: Literal["chi2", "cstat", "wstat"] = "chi2"
    variance: Literal["data", "gehrels", "model"] = "data"
    scatter_iterations: int = 2
    scatter_slopes: bool = True
    max_iterations: int = 100
    tolerance: float = 1e-4

    @classmethod
    def published(cls, **changes: Any) -> FitSettings:
        """Start, bounds, closure and gain of the published PyXspec fit.

        Parameters
        ----------
        **changes : Any
            Attributes that differ.

        Returns
        -------
        FitSettings
        """
        own: dict[str, Any] = {
            "start": dict(PYXSPEC_START), "bounds": dict(PYXSPEC_BOUNDS), "balance_bounds": None, "prior_sigma": {},
            "slope": 1.0043, "offset": 0.0316,
        }  # fmt: skip
        return cls(**(own | changes))


@dataclass(frozen=True)
class FitResult:
    """What a fit found.

    Attributes
    ----------
    elements : tuple of str
    weights, weight_errors : ndarray of float64, (element,)
        wt%; errors are one standard deviation from the curvature of the statistic, NaN for frozen elements.
    element_flags : ndarray of uint8, (element,)
        Bits of `ELEMENT_FLAGS`.
    parameters : tuple of str
        Names of the fitted parameters, in the order of `covariance`.
    values, errors : ndarray of float64, (parameter,)
    covariance, correlation : ndarray of float64, (parameter, parameter)
    xrf_norm, scatter_norm, slope, offset : float
    xrf_norm_error, scatter_norm_error : float
    statistic : float
        Of the data alone (no prior).
    dof, channels : int
    goodness : float
        Probability of a larger χ² by chance; for the Poisson statistics an approximation that is good for many counts.
    iterations : int
    status : str
        A key of `STATUS`.
    model, xrf, scatter : ndarray of float64, (channel,)
        Counts/s in the fitted channels: sum, fluorescence, scattered continuum.
    line_names : tuple of str
    line_fluxes : ndarray of float64, (line,)
        Photons/s/cm² at the detector, norm included.
    """

    elements: tuple[str, ...]
    weights: np.ndarray
    weight_errors: np.ndarray
    element_flags: np.ndarray
    parameters: tuple[str, ...]
    values: np.ndarray
    errors: np.ndarray
    covariance: np.ndarray
    xrf_norm: float
    scatter_norm: float
    slope: float
    offset: float
    statistic: float
    dof: int
    channels: int
    iterations: int
    status: str
    model: np.ndarray
    xrf: np.ndarray
    scatter: np.ndarray
    line_names: tuple[str, ...] = ()
    line_fluxes: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def correlation(self) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.covariance / np.outer(self.errors, self.errors)

    @property
    def goodness(self) -> float:
        from scipy.stats import chi2

        return float(chi2.sf(self.statistic, self.dof)) if self.dof > 0 else float("nan")

    @property
    def xrf_norm_error(self) -> float:
        return self._error("xrf_norm")

    @property
    def scatter_norm_error(self) -> float:
        return self._error("scatter_norm")

    def _error(self, name: str) -> float:
        return (
            float(self.errors[self.parameters.index(name)]) if name in self.parameters else np.nan
        )

    def flags(self, element: str) -> tuple[str, ...]:
        """Names of the flags of an element."""
        bits = int(self.element_flags[self.elements.index(element)])
        return tuple(name for name, bit in ELEMENT_FLAGS.items() if bits & bit)


# --- The model of one observation -------------------------------------------------------------------


class PhotonModel:
    """The spectrum that the surface sends to the detector; what does not depend on the composition is made once.

    Parameters
    ----------
    solar : (energy_lo, energy_hi, flux)
        Edges of the bins in keV, rising; photons/s/cm²/keV at the Moon.
    geometry : Geometry
    exposure : float
        s; only the scale "x2abund" needs it.
    tables : AtomicTables, optional
    conventions : Conventions, optional
    scatter : (energy_lo, energy_hi, photons), optional
        A scattered spectrum, photons/s/cm² in each bin, in place of one computed from the composition.

    Raises
    ------
    InputError
        For arrays that do not fit together.
    """

    def __init__(
        self,
        solar: tuple[Any, Any, Any],
        geometry: Geometry,
        *,
        exposure: float = 8.0,
        tables: AtomicTables | None = None,
        conventions: Conventions | None = None,
        scatter: tuple[Any, Any, Any] | None = None,
    ) -> None:
        self.tables = tables if tables is not None else atomic_tables()
        self.conventions = conventions if conventions is not None else Conventions()
        self.geometry = geometry
        low, high, flux = (np.ascontiguousarray(a, np.float64) for a in solar)
        if not low.shape == high.shape == flux.shape or low.ndim != 1 or low.size < 2:
            raise InputError(
                f"a solar spectrum of shapes {low.shape}, {high.shape}, {flux.shape}",
                where="solar",
                remedy="give lower edges, upper edges and flux, one for each bin",
            )
        if not np.all(np.isfinite(flux)) or np.any(flux < 0) or np.any(high <= low):
            raise InputError(
                "the solar spectrum has bins without width, or negative or missing fluxes",
                where="solar",
                remedy="give a model of the solar spectrum, not a background-subtracted measurement",
            )
        setup = _setup(
            self.tables,
            low.tobytes(),
            high.tobytes(),
            self.conventions.solar_energy,
            self.conventions.split_edges,
            self.conventions.secondary,
            self.conventions.secondary_jump,
        )
        self.fluorescence, self.solar_lo, self.solar_hi, origin = setup
        self.photons = flux[origin] * (self.solar_hi - self.solar_lo)
        self.excited = self.fluorescence.excitation * self.photons
        self.sin_in, self.sin_out = geometry.sines
        self.scale = self._scale(exposure)
        self._given_scatter: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        if scatter is not None:
            low, high, photons = (np.ascontiguousarray(a, np.float64) for a in scatter)
            self._given_scatter = (low, high, photons)

    def _scale(self, exposure: float) -> float:
        conventions = self.conventions
        if conventions.scale == "solid_angle":
            scale = float(np.prod(np.deg2rad(conventions.field))) / (4 * np.pi)
        elif conventions.scale == "x2abund":
            area = 12.5e4 * 12.5e4 * (round(exposure / 8.0) + 1)
            scale = area / (exposure * 4 * np.pi * (self.geometry.altitude * 1e4) ** 2)
        else:
            scale = float(conventions.scale)
        if conventions.beam == "incident":
            scale *= self.sin_out / self.sin_in
        return scale

    @functools.cached_property
    def _scatter_tables(self) -> Any:
        return _scatter_setup(
            self.tables,
            self.fluorescence.energy.tobytes(),
            round(self.geometry.scattering_angle, 2),
            self.conventions.compton,
            self.conventions.theta_range,
        )

    def _scatter_kinds(self) -> list[tuple[np.ndarray, np.ndarray, Any]]:
        tables = self._scatter_tables
        kinds: list[tuple[np.ndarray, np.ndarray, Any]] = [(tables.mu, tables.rayleigh, 1.0)]
        if self.conventions.compton:
            kinds.append((tables.mu_shifted, tables.compton, tables.shift))
        return kinds

    def scattered(self, weights: Any) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Scattered spectra at the detector for a composition.

        Parameters
        ----------
        weights : array_like of float64, (element,)
            wt%.

        Returns
        -------
        list of (energy_lo, energy_hi, photons)
            Photons/s/cm² in each bin, for Rayleigh and for Compton scattering; empty without a scattered continuum.
        """
        if self._given_scatter is not None:
            return [self._given_scatter]
        if self.conventions.scatter == "none":
            return []
        fractions = self.fractions(weights)
        tables = self._scatter_tables
        out = []
        for mu_after, sigma, shift in self._scatter_kinds():
            photons = np.empty_like(self.photons)
            scatter_kernel(
                fractions, self.photons, tables.mu, mu_after, sigma, self.sin_in, self.sin_out, False,
                photons, np.empty((0, 0)),
            )  # fmt: skip
            out.append((self.solar_lo * shift, self.solar_hi * shift, photons * self.scale))
        return out

    def fractions(self, weights: Any) -> np.ndarray:
        """Weight fractions of wt%."""
        weights = np.ascontiguousarray(weights, np.float64)
        if weights.shape != (len(self.tables.elements),):
            raise InputError(
                f"{weights.shape} weights for {len(self.tables.elements)} elements", where="weights"
            )
        return weights / (weights.sum() if self.conventions.normalise else 100.0)

    def line_intensities(self, weights: Any) -> np.ndarray:
        """Intensities of the lines for a composition in wt%, photons/s/cm² (× scale gives the flux at the detector)."""
        tables = self.fluorescence
        intensity = np.zeros(tables.line_energy.size)
        evaluate_kernel(
            self.fractions(weights), self.excited, tables.mu, tables.begin, tables.mu_line, tables.secondary,
            tables.line_element, tables.base, tables.base_ratio, tables.parent, tables.parent_ratio,
            self.sin_in, self.sin_out, np.ones(intensity.size, np.bool_), intensity,
        )  # fmt: skip
        return intensity

    def spectrum(
        self, weights: Any, energy_lo: Any, energy_hi: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Photons at the detector in bins of energy.

        Parameters
        ----------
        weights : array_like of float64, (element,)
            wt%.
        energy_lo, energy_hi : array_like of float64, (n,)
            Edges of the bins, keV, rising.

        Returns
        -------
        xrf, scatter : ndarray of float64, (n,)
            Photons/s/cm² in each bin.
        """
        low = np.ascontiguousarray(energy_lo, np.float64)
        high = np.ascontiguousarray(energy_hi, np.float64)
        scatter = np.zeros(low.size)
        for begin, end, photons in self.scattered(weights):
            rebin_kernel(photons, begin, end, low, high, scatter)
        return self.line_spectrum(weights, low, high), scatter

    def line_spectrum(self, weights: Any, energy_lo: Any, energy_hi: Any) -> np.ndarray:
        """The fluorescence part of `spectrum`, photons/s/cm² in each bin, (n,)."""
        low = np.ascontiguousarray(energy_lo, np.float64)
        high = np.ascontiguousarray(energy_hi, np.float64)
        each = np.arange(low.size + 1)
        shares = template_kernel(
            self.fluorescence.line_energy,
            _SHAPES.index(self.conventions.line_shape),
            self.conventions.line_sigma,
            low,
            high,
            np.ones(low.size),
            each,
            each[:-1].astype(np.int32),
            np.ones(low.size),
            low.size,
        )
        return self.line_intensities(weights) @ shares * self.scale


_SHAPES = ("split", "bin", "gaussian")


class SpectralModel(PhotonModel):
    """A `PhotonModel` seen through a response: count rates in the fitted channels.

    Parameters
    ----------
    response : Response
        Only its channels `channels` are used.
    solar : (energy_lo, energy_hi, flux)
        Edges of the bins in keV, rising; photons/s/cm²/keV at the Moon.
    geometry : Geometry
    exposure : float
        s; only the scale "x2abund" needs it.
    tables : AtomicTables, optional
    conventions : Conventions, optional
    channels : slice
        Indices of the fitted channels.
    scatter : (energy_lo, energy_hi, photons), optional
        A scattered spectrum, photons/s/cm² in each bin, in place of one computed from the composition.
    """

    def __init__(
        self,
        response: Response,
        solar: tuple[Any, Any, Any],
        geometry: Geometry,
        *,
        exposure: float = 8.0,
        tables: AtomicTables | None = None,
        conventions: Conventions | None = None,
        channels: slice = slice(None),
        scatter: tuple[Any, Any, Any] | None = None,
    ) -> None:
        super().__init__(
            solar,
            geometry,
            exposure=exposure,
            tables=tables,
            conventions=conventions,
            scatter=scatter,
        )
        first, stop, step = channels.indices(response.channels)
        if step != 1 or stop <= first:
            raise InputError(
                f"{channels} selects no run of the {response.channels} channels",
                where="channels",
                remedy="give slice(first, stop)",
            )
        seen = response.channel_hi[stop - 1]
        if self.solar_hi[-1] < seen:
            raise InputError(
                f"the solar model ends at {self.solar_hi[-1]:g} keV and the fitted channels at {seen:g} keV",
                where="solar",
                remedy="fit fewer channels, or give a model that covers them",
            )
        if self.solar_hi[-1] < self._highest_edge(response.channel_lo[first], seen):
            raise InputError(
                f"the solar model ends at {self.solar_hi[-1]:g} keV, below an edge whose line the fitted channels hold",
                where="solar",
                remedy="give a model that covers the absorption edges",
            )
        self._full = response
        self._first, self._stop = first, stop
        self.channels = stop - first
        self._templates: dict[tuple[float, float], np.ndarray] = {}
        self._shifted: dict[tuple[float, float], Response] = {}

    def _highest_edge(self, low: float, high: float) -> float:
        line, edge = self.fluorescence.line_energy, self.tables.line_edge
        return float(edge[(line >= low) & (line <= high)].max(initial=0.0))

    def response(self, slope: float = 1.0, offset: float = 0.0) -> Response:
        """The response of the fitted channels at a gain."""
        key = (slope, offset)
        if key not in self._shifted:
            if self.conventions.gain == "channel":
                # E' = E/slope − offset is the photon's energy; the channels move the other way.
                shifted = _selected(
                    self._full.with_channel_gain(slope, offset), self._first, self._stop
                )
            else:
                part = _selected(self._full, self._first, self._stop)
                shifted = part.with_gain(slope, offset, convention=self.conventions.gain)
            if len(self._shifted) > 8:
                self._shifted.clear()
            self._shifted[key] = shifted
        return self._shifted[key]

    def line_templates(self, slope: float = 1.0, offset: float = 0.0) -> np.ndarray:
        """Counts/s that a unit intensity of each line gives, (line, channel)."""
        key = (slope, offset)
        if key not in self._templates:
            response = self.response(slope, offset)
            templates = template_kernel(
                self.fluorescence.line_energy,
                _SHAPES.index(self.conventions.line_shape),
                self.conventions.line_sigma,
                response.energy_lo,
                response.energy_hi,
                response.area,
                response.row,
                response.channel,
                response.value,
                self.channels,
            )
            if len(self._templates) > 8:
                self._templates.clear()
            self._templates[key] = templates * self.scale
        return self._templates[key]

    def scatter_template(self, weights: Any, slope: float = 1.0, offset: float = 0.0) -> np.ndarray:
        """Counts/s of the scattered continuum for norm 1, (channel,)."""
        return self._fold([self.scattered(weights)], slope, offset)[0]

    def scatter_slopes(self, weights: Any, slope: float = 1.0, offset: float = 0.0) -> np.ndarray:
        """Derivatives of `scatter_template` with respect to the wt%, whose sum does not change, (element, channel)."""
        fractions = self.fractions(weights)
        spectra: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in fractions]
        for mu_after, sigma, shift in self._scatter_kinds():
            slopes = np.empty((fractions.size, self.photons.size))
            scatter_kernel(
                fractions, self.photons, self._scatter_tables.mu, mu_after, sigma, self.sin_in, self.sin_out,
                True, np.empty_like(self.photons), slopes,
            )  # fmt: skip
            for own, slope_ in zip(spectra, slopes, strict=True):
                own.append(
                    (self.solar_lo * shift, self.solar_hi * shift, slope_ * self.scale / 100)
                )
        return self._fold(spectra, slope, offset)

    def _fold(
        self,
        spectra: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]],
        slope: float,
        offset: float,
    ) -> np.ndarray:
        response = self.response(slope, offset)
        photons = np.zeros((len(spectra), response.energies))
        for parts, out in zip(spectra, photons, strict=True):
            for low, high, values in parts:
                rebin_kernel(values, low, high, response.energy_lo, response.energy_hi, out)
        return fold_kernel(
            photons, response.area, response.row, response.channel, response.value, self.channels
        )

    def counts(
        self,
        weights: Any,
        xrf_norm: float = 1.0,
        scatter_norm: float = 1.0,
        slope: float = 1.0,
        offset: float = 0.0,
        *,
        scatter_weights: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts/s in the fitted channels.

        Parameters
        ----------
        weights : array_like of float64, (element,)
            wt%.
        xrf_norm, scatter_norm, slope, offset : float
        scatter_weights : array_like of float64, (element,), optional
            Another composition for the scattered continuum.

        Returns
        -------
        xrf, scatter : ndarray of float64, (channel,)
        """
        lines = self.line_intensities(weights) @ self.line_templates(slope, offset)
        scatter = self.scatter_template(
            weights if scatter_weights is None else scatter_weights, slope, offset
        )
        return xrf_norm * lines, scatter_norm * scatter


@functools.lru_cache(maxsize=8)
def _selected(response: Response, first: int, stop: int) -> Response:
    return response.select(first, stop)


@functools.lru_cache(maxsize=16)
def _setup(
    tables: AtomicTables, low: bytes, high: bytes, at: str, split: bool, secondary: bool, jump: Any
) -> tuple[FluorescenceTables, np.ndarray, np.ndarray, np.ndarray]:
    """Cross sections on the solar bins, their edges, and which bin each of them was part of."""
    lo, hi = np.frombuffer(low), np.frombuffer(high)
    origin = np.arange(lo.size)
    if split:
        edges = np.unique(tables.edge[tables.edge > 0])
        inside = np.searchsorted(hi, edges, side="right")
        ok = inside < hi.size
        edges, inside = edges[ok], inside[ok]
        # Bins of files in single precision overlap a little: no cut within a thousandth of a bin's ends.
        margin = 1e-3 * (hi - lo)[inside]
        ok = (edges > lo[inside] + margin) & (edges < hi[inside] - margin)
        cuts, bins = edges[ok], inside[ok]
        begin = np.concatenate([lo, cuts])
        origin = np.concatenate([origin, bins])
        order = np.argsort(begin, kind="stable")
        begin, origin = begin[order], origin[order]
        # A piece ends where the next piece of the same bin begins, else where its bin does.
        end = hi[origin].copy()
        same = np.flatnonzero(origin[1:] == origin[:-1])
        end[same] = begin[same + 1]
        lo, hi = begin, end
    energy = lo if at == "low" else (lo + hi) / 2
    cross_sections = fluorescence_tables(tables, energy, secondary=secondary, secondary_jump=jump)
    return cross_sections, lo, hi, origin


@functools.lru_cache(maxsize=32)
def _scatter_setup(
    tables: AtomicTables,
    energy: bytes,
    angle: float,
    compton: bool,
    theta_range: tuple[float, float] | None,
) -> Any:
    return scatter_tables(
        tables, np.frombuffer(energy), angle, compton=compton, theta_range=theta_range
    )


# --- Statistic and fit ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observation:
    """Counts of one spectrum and of its background.

    Attributes
    ----------
    counts : ndarray of float64, (channel,)
        All channels of the response.
    exposure : float
        s.
    background : ndarray of float64, (channel,), optional
        Counts of the background spectrum.
    background_exposure : float
        s, already multiplied with whatever else (area, detectors) makes it comparable.
    """

    counts: np.ndarray
    exposure: float
    background: np.ndarray | None = None
    background_exposure: float = 1.0

    def arrays(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Counts and background counts of some channels."""
        counts = np.ascontiguousarray(self.counts, np.float64)[first:stop]
        if self.background is None:
            return counts, np.zeros_like(counts)
        return counts, np.ascontiguousarray(self.background, np.float64)[first:stop]


def _check_observation(data: Observation, response: Response) -> str:
    counts = np.asarray(data.counts)
    if counts.shape != (response.channels,):
        raise InputError(
            f"a spectrum of {counts.size} channels and a response of {response.channels}",
            where="counts",
            remedy="use the response made for this binning, or Response.group",
        )
    if data.background is not None and np.shape(data.background) != counts.shape:
        raise InputError(
            f"a spectrum of {counts.size} channels and a background of {np.size(data.background)}",
            where="background",
            remedy="rebin one to the other's channels",
        )
    if not (np.isfinite(data.exposure) and data.exposure > 0):
        return "bad_data"
    if data.background is not None and not data.background_exposure > 0:
        return "bad_data"
    return "fitted"


def _variance(
    how: str, counts: np.ndarray, back: np.ndarray, data: Observation, model: np.ndarray | None
) -> np.ndarray:
    """Of the background-subtracted rate; 0 marks a channel to be left out."""
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

    Parameters
    ----------
    data : Observation
    model : array_like of float64, (fitted channel,)
        Counts/s.
    channels : slice
        Which channels of the data the model covers.
    settings : FitSettings, optional
        Its `statistic` and `variance` are used.

    Returns
    -------
    float
    """
    settings = settings if settings is not None else FitSettings()
    model = np.ascontiguousarray(model, np.float64)
    first, stop, _ = channels.indices(np.size(data.counts))
    counts, back = data.arrays(first, stop)
    if counts.shape != model.shape:
        raise InputError(f"a model of {model.size} channels for {counts.size}", where="model")
    variance = _variance(settings.variance, counts, back, data, model)
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
) -> FitResult:
    """Fit composition, norms and gain to one spectrum.

    Parameters
    ----------
    data : Observation
        All channels of the model's response.
    model : SpectralModel
    settings : FitSettings, optional
    warm_start : FitResult, optional
        Begin from what this one found; a fit that failed is ignored.

    Returns
    -------
    FitResult
        What cannot be fitted (night, no counts, missing geometry) says so in `status` and is NaN.

    Raises
    ------
    InputError
        For spectrum, background, response or settings that do not fit together.
    """
    settings = settings if settings is not None else FitSettings()
    status = _check_observation(data, model._full)
    elements = model.tables.elements
    plan = _plan(elements, settings)
    if status == "fitted":
        status = model.geometry.status()
    counts, back = data.arrays(model._first, model._stop)
    if status == "fitted":
        if not (np.all(np.isfinite(counts)) and np.all(np.isfinite(back))) or counts.min() < 0:
            status = "bad_data"
        elif counts.sum() == 0:
            status = "no_counts"
        elif not model.excited.any():
            status = "no_solar_flux"
    if status == "fitted" and settings.statistic == "chi2" and settings.variance == "data":
        used = np.count_nonzero(counts + back > 0)
        if used <= np.count_nonzero(plan.free):
            status = "too_few_channels"
    if status != "fitted":
        return _failed(elements, plan, model, status)

    theta = plan.theta.copy()
    if warm_start is not None and warm_start.status in ("fitted", "not_converged"):
        theta[: len(elements)] = warm_start.weights
        theta[len(elements) :] = (
            warm_start.xrf_norm, warm_start.scatter_norm, warm_start.slope, warm_start.offset,
        )  # fmt: skip
        frozen = ~plan.free
        frozen[plan.balance] = False
        theta[frozen] = plan.theta[frozen]
        theta = np.clip(theta, plan.lower, plan.upper)
        others = np.arange(len(elements)) != plan.balance
        theta[plan.balance] = 100 - theta[: len(elements)][others].sum()

    solver = _Solver(data, model, settings, plan, counts, back)
    if settings.fit_gain:
        iterations, converged = solver.with_gain(theta)
    else:
        iterations, converged = solver.without_gain(theta)
    return _result(model, settings, plan, theta, solver, iterations, converged)


#: Rounds of a fit whose model is made again between them, and the finest gain steps (slope, keV) that are still tried.
_ROUNDS, _FINEST = 20, (1e-5, 2e-5)


class _Solver:
    """Repeats the fit kernel around what it takes as given: the scattered continuum, the gain, the variances."""

    def __init__(
        self, data: Observation, model: SpectralModel, settings: FitSettings, plan: _Plan, counts: np.ndarray,
        back: np.ndarray,
    ) -> None:  # fmt: skip
        self.data, self.model, self.settings, self.plan = data, model, settings, plan
        self.counts, self.back = counts, back
        self.tb = data.background_exposure if data.background is not None else 0.0
        lines, size = model.fluorescence.line_energy.size, plan.theta.size
        self.n = len(model.tables.elements)
        self.recomputed = model.conventions.scatter == "continuum" and model._given_scatter is None
        self.templates = np.zeros((3, lines, model.channels))
        self.scatter = np.zeros((3, model.channels))
        self.scatter_slopes = np.zeros((0, model.channels))
        self.centre = plan.theta[: self.n].copy()
        self.hessian = np.zeros((size, size))
        self.rate = np.zeros(model.channels)
        self.variance = _variance(settings.variance, counts, back, data, None)
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
            steps, converged = self._run(theta, self.plan.lower, self.plan.upper, slope, offset)
            iterations += steps
            if by_model:
                settled = np.all(np.abs(theta - before) <= 1e-4 * (1e-3 + np.abs(theta)))
                if number >= renewals and settled:
                    break
                self._renew_variance(self.rate)
        return iterations, converged

    def with_gain(self, theta: np.ndarray) -> tuple[int, bool]:
        """Fit with a model linear in the gain, within a region that grows and shrinks as that proves right or wrong."""
        settings, plan, model, n = self.settings, self.plan, self.model, self.n
        # Templates bend where a line passes from one energy bin to the next: differences over such a bin.
        width = float(np.median(model._full.energy_hi - model._full.energy_lo))
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
            steps, ended = self._run(theta, lower, upper, slope, offset)
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
        how = self.settings.variance
        self.variance = _variance(how, self.counts, self.back, self.data, rate)

    def _true_rate(self, theta: np.ndarray) -> np.ndarray:
        n = self.n
        norm = theta[n]
        other = norm * self.settings.scatter_norm if self.settings.tie_norms else theta[n + 1]
        xrf, scatter = self.model.counts(theta[:n], norm, other, theta[n + 2], theta[n + 3])
        return xrf + scatter

    def _penalty(self, theta: np.ndarray) -> float:
        plan = self.plan
        return penalty_kernel(
            theta, self.n, plan.prior_mean, plan.prior_weight, plan.balance, plan.balance_lower, plan.balance_upper
        )  # fmt: skip

    def _objective(self, theta: np.ndarray, rate: np.ndarray) -> float:
        value = statistic_kernel(
            STATISTICS[self.settings.statistic], rate, self.counts, self.back, self.data.exposure, self.tb,
            self.variance,
        )  # fmt: skip
        return value + self._penalty(theta)

    def _run(
        self, theta: np.ndarray, lower: np.ndarray, upper: np.ndarray, slope: float, offset: float
    ) -> tuple[int, bool]:
        settings, plan, model, tables = (
            self.settings,
            self.plan,
            self.model,
            self.model.fluorescence,
        )
        # Lines that the fitted channels do not see need not be computed.
        reach = self.templates[0].sum(axis=1)
        self.wanted[:] = reach > 1e-9 * reach.max()
        self.value, steps, converged = fit_kernel(
            theta, lower, upper, plan.free, plan.balance, plan.balance_lower, plan.balance_upper,
            plan.prior_mean, plan.prior_weight, settings.tie_norms, settings.scatter_norm,
            STATISTICS[settings.statistic], self.counts, self.back, self.data.exposure, self.tb, self.variance,
            self.templates, self.scatter, self.scatter_slopes, self.centre, slope, offset, settings.fit_gain,
            model.excited, tables.mu, tables.begin, tables.mu_line, tables.secondary, tables.line_element,
            tables.base, tables.base_ratio, tables.parent, tables.parent_ratio, model.sin_in, model.sin_out,
            self.wanted, settings.max_iterations, settings.tolerance, self.hessian, self.rate,
        )  # fmt: skip
        return steps, converged


@dataclass(frozen=True)
class _Plan:
    theta: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    free: np.ndarray
    balance: int
    balance_lower: float
    balance_upper: float
    prior_mean: np.ndarray
    prior_weight: np.ndarray


def _plan(elements: tuple[str, ...], settings: FitSettings) -> _Plan:
    missing = [e for e in elements if e not in settings.start]
    if missing or settings.balance not in elements or settings.balance in settings.frozen:
        raise InputError(
            f"no start for {missing}"
            if missing
            else f"{settings.balance!r} cannot close the sum to 100 %",
            where="settings",
            remedy="start holds a value for each element; balance is an element that is not frozen",
        )
    n = len(elements)
    balance = elements.index(settings.balance)
    theta = np.array(
        [*(settings.start[e] for e in elements), settings.xrf_norm, settings.scatter_norm, settings.slope,
         settings.offset], np.float64,
    )  # fmt: skip
    limits = [settings.bounds.get(e, (0.0, 100.0)) for e in elements]
    limits += [settings.norm_bounds] * 2 + [settings.slope_bounds, settings.offset_bounds]
    lower, upper = np.array(limits, np.float64).T.copy()
    free = np.array(
        [
            *(e not in settings.frozen and e != settings.balance for e in elements),
            settings.fit_xrf_norm,
            settings.fit_scatter_norm and not settings.tie_norms,
            settings.fit_gain,
            settings.fit_gain,
        ]
    )
    if np.any(lower[free] >= upper[free]):
        raise InputError("a lower bound is not below its upper bound", where="settings")
    prior_mean, prior_weight = theta[:n].copy(), np.zeros(n)
    for name, sigma in settings.prior_sigma.items():
        prior_weight[elements.index(name)] = 1 / sigma**2
    theta = np.where(free, np.clip(theta, lower, upper), theta)
    others = np.arange(n) != balance
    theta[balance] = 100 - theta[:n][others].sum()
    low, high = settings.balance_bounds or (-np.inf, np.inf)
    return _Plan(
        theta, lower, upper, free, balance, float(low), float(high), prior_mean, prior_weight
    )


def _names(elements: tuple[str, ...]) -> tuple[str, ...]:
    return (*elements, "xrf_norm", "scatter_norm", "slope", "offset")


def _failed(elements: tuple[str, ...], plan: _Plan, model: SpectralModel, status: str) -> FitResult:
    names = tuple(np.array(_names(elements))[plan.free])
    nothing = np.full(len(names), np.nan)
    blank = np.full(model.channels, np.nan)
    return FitResult(
        elements=elements,
        weights=np.full(len(elements), np.nan),
        weight_errors=np.full(len(elements), np.nan),
        element_flags=np.full(len(elements), ELEMENT_FLAGS["not_constrained"], np.uint8),
        parameters=names,
        values=nothing,
        errors=nothing,
        covariance=np.full((len(names), len(names)), np.nan),
        xrf_norm=np.nan,
        scatter_norm=np.nan,
        slope=np.nan,
        offset=np.nan,
        statistic=np.nan,
        dof=0,
        channels=model.channels,
        iterations=0,
        status=status,
        model=blank,
        xrf=blank,
        scatter=blank,
        line_names=model.tables.line_names,
        line_fluxes=np.full(model.fluorescence.line_energy.size, np.nan),
    )


def _result(
    model: SpectralModel, settings: FitSettings, plan: _Plan, theta: np.ndarray, solver: _Solver,
    iterations: int, converged: bool,
) -> FitResult:  # fmt: skip
    hessian, value, rate, variance = solver.hessian, solver.value, solver.rate, solver.variance
    elements = model.tables.elements
    n = len(elements)
    free = np.flatnonzero(plan.free)
    curvature = hessian[np.ix_(free, free)] / 2
    covariance = _inverse(curvature)
    errors = np.sqrt(np.diag(covariance))
    weights = theta[:n].copy()
    weight_errors = np.full(n, np.nan)
    flags = np.zeros(n, np.uint8)
    of_elements = free < n
    weight_errors[free[of_elements]] = errors[of_elements]
    block = covariance[np.ix_(of_elements, of_elements)]
    weight_errors[plan.balance] = np.sqrt(max(block.sum(), 0.0)) if block.size else np.nan
    flags[plan.balance] |= ELEMENT_FLAGS["from_closure"]
    for i in range(n):
        low, high = plan.lower[i], plan.upper[i]
        if i == plan.balance:
            low, high = plan.balance_lower, plan.balance_upper
        elif not plan.free[i]:
            flags[i] |= ELEMENT_FLAGS["frozen"]
            continue
        margin = 1e-6 * max(high - low, 1e-3) if np.isfinite(high - low) else 0.0
        if weights[i] <= low + margin:
            flags[i] |= ELEMENT_FLAGS["at_lower_bound"]
        if weights[i] >= high - margin:
            flags[i] |= ELEMENT_FLAGS["at_upper_bound"]
        width = (high - low if np.isfinite(high - low) else 100.0) / np.sqrt(12)
        if plan.prior_weight[i] > 0:
            width = min(width, 0.8 / np.sqrt(plan.prior_weight[i]))
        if not weight_errors[i] < width:
            # The data say no more than the bounds or the prior do.
            flags[i] |= ELEMENT_FLAGS["not_constrained"]
    xrf_norm, scatter_norm = theta[n], theta[n + 1]
    if settings.tie_norms:
        scatter_norm = xrf_norm * settings.scatter_norm
    intensity = model.line_intensities(weights)
    xrf = xrf_norm * intensity @ model.line_templates(theta[n + 2], theta[n + 3])
    chi2 = settings.statistic == "chi2"
    used = int(np.count_nonzero(variance > 0)) if chi2 else model.channels
    return FitResult(
        elements=elements,
        weights=weights,
        weight_errors=weight_errors,
        element_flags=flags,
        parameters=tuple(np.array(_names(elements))[free]),
        values=theta[free].copy(),
        errors=errors,
        covariance=covariance,
        xrf_norm=float(xrf_norm),
        scatter_norm=float(scatter_norm),
        slope=float(theta[n + 2]),
        offset=float(theta[n + 3]),
        statistic=float(value),
        dof=used - free.size,
        channels=model.channels,
        iterations=iterations,
        status="fitted" if converged else "not_converged",
        model=rate.copy(),
        xrf=xrf,
        scatter=rate - xrf,
        line_names=model.tables.line_names,
        line_fluxes=xrf_norm * intensity * model.scale,
    )


def _inverse(curvature: np.ndarray) -> np.ndarray:
    """Inverse of a curvature matrix; directions that the data do not see get a variance of 1e12 of their scale."""
    diagonal = np.sqrt(np.diag(curvature))
    scale = np.where(diagonal > 0, diagonal, 1.0)
    values, vectors = np.linalg.eigh(curvature / np.outer(scale, scale))
    values = np.maximum(values, 1e-12)
    return (vectors / values) @ vectors.T / np.outer(scale, scale)


def fit_many(
    data: Sequence[Observation],
    models: Sequence[SpectralModel],
    settings: FitSettings | Sequence[FitSettings] | None = None,
    *,
    warm_start: bool = True,
    threads: int = 1,
) -> list[FitResult]:
    """Fit many spectra.

    Parameters
    ----------
    data : sequence of Observation
    models : sequence of SpectralModel
        One for each spectrum.
    settings : FitSettings or sequence of these, optional
    warm_start : bool
        Begin each fit where that of the spectrum before ended; a run of neighbours stays in one thread.
    threads : int
        The kernels release the interpreter's lock.

    Returns
    -------
    list of FitResult
        A spectrum on which the fit itself fails gets a status; it does not stop the others.
    """
    each = (
        [settings] * len(data)
        if settings is None or isinstance(settings, FitSettings)
        else list(settings)
    )
    if not len(data) == len(models) == len(each):
        raise InputError(
            f"{len(data)} spectra, {len(models)} models and {len(each)} settings", where="fit_many"
        )

    def run(indices: np.ndarray) -> list[FitResult]:
        out: list[FitResult] = []
        last: FitResult | None = None
        for i in indices:
            result = fit_spectrum(data[i], models[i], each[i], warm_start=last)
            if warm_start and result.status == "fitted":
                last = result
            out.append(result)
        return out

    parts = np.array_split(np.arange(len(data)), max(1, min(threads, len(data) or 1)))
    if len(parts) == 1:
        return run(parts[0])
    with ThreadPoolExecutor(len(parts)) as pool:
        return [result for part in pool.map(run, parts) for result in part]


def prior_composition(
    mare_fraction: float,
    *,
    highland: Mapping[str, float] = HIGHLAND,
    mare: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Composition to start from: highlands and mare mixed by area.

    Parameters
    ----------
    mare_fraction : float
        Area fraction of mare in the footprint, 0 to 1.
    highland, mare : mapping of str to float
        wt% of each.

    Returns
    -------
    dict of str to float
        wt%.
    """
    from lunarray.xrf.constants import MARE

    if not 0 <= mare_fraction <= 1:
        raise InputError(f"a mare fraction of {mare_fraction}", remedy="it lies between 0 and 1")
    other = MARE if mare is None else mare
    return {e: (1 - mare_fraction) * highland[e] + mare_fraction * other[e] for e in highland}
