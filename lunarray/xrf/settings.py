"""What goes into a spectral fit and what comes out of it: geometry, conventions, settings, spectrum, result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from lunarray.errors import InputError, require_choice
from lunarray.xrf.constants import (
    CLASS_FIELD_DEG,
    HIGHLAND,
    MARE,
    PYXSPEC_BOUNDS,
    PYXSPEC_START,
)
from lunarray.xrf.regolith import Regolith

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
#: What errors come from; their squares sum to that of the total.
ERROR_SOURCES = (
    "statistics",
    "prior",
    "sun",
    "response",
    "norm",
    "background",
    "atomic",
    "geometry",
    "misfit",
)
#: Bits of the variable `quality` of fitted windows. Without one of the first nine there are abundances.
FIT_FLAGS = {
    "night": 1,
    "no_geometry": 2,
    "no_frames": 4,
    "no_counts": 8,
    "no_signal": 16,
    "bad_data": 32,
    "no_solar_model": 64,
    "too_few_channels": 128,
    "fit_failed": 256,
    "not_converged": 512,
    "at_bound": 1024,
    "not_constrained": 2048,
    "poor_fit": 4096,
    "response_misfit": 8192,
    "implausible": 16384,
}
#: Bits that mean that there is no result.
FATAL = 511


@dataclass(frozen=True)
class Geometry:
    """Angles (degrees) and distance of one observation."""

    incidence: float  # between the surface normal and the Sun; Φ = 90 − incidence
    emission: float = 0.0  # between the surface normal and the detector; Ψ = 90 − emission
    phase: float | None = None  # between Sun and detector; by default the incidence, as from nadir
    altitude: float = 100.0  # km; only the scale "x2abund" needs it

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
    regolith : lunarray.xrf.regolith.Regolith, optional
        Grains of the ground, by which lines are corrected for phase and grain size. By default the surface is smooth,
        and what grains take is in the norm and its error.

    Examples
    --------
    >>> import lunarray as la
    >>> from lunarray.xrf.settings import Conventions
    >>> Conventions(secondary=False).secondary
    False
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
    regolith: Regolith | None = None

    def __post_init__(self) -> None:
        if self.regolith is not None and not isinstance(self.regolith, Regolith):
            raise InputError(
                f"regolith={self.regolith!r} describes no grains",
                where="conventions",
                remedy="Give lunarray.xrf.regolith.Regolith(grain_radius=35, packing=0.2)",
            )
        for name, allowed in (
            ("line_shape", ("split", "bin", "gaussian")),
            ("secondary_jump", ("own", "exciting")), ("solar_energy", ("middle", "low")),
            ("beam", ("emergent", "incident")), ("scatter", ("continuum", "none")),
            ("gain", ("area", "matrix", "channel")),
        ):  # fmt: skip
            require_choice(name, getattr(self, name), allowed)
        if isinstance(self.scale, str):
            require_choice("scale", self.scale, ("solid_angle", "x2abund"))

    @classmethod
    def published(cls, **changes: Any) -> Conventions:
        """Those of ISSDC's X2ABUND local model for PyXspec.

        With them go FFAST text tables, linearly interpolated, and a response read with ``first_channel=1`` and
        ``area_at="rows"``.

        Parameters
        ----------
        **changes : Any
            Attributes that differ.
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
    prior_line : mapping of str to float
        A line in composition along which the prior is wider: wt% of each element for one standard deviation. Elements
        without a `prior_sigma` are not on it. Iron, hardly seen, is told by calcium and aluminium, which are.
    xrf_norm, scatter_norm : float
        Starting values; where norms are tied, `scatter_norm` is their ratio. An XRF norm of 1 is a flat surface whose
        photons are all counted; real spectra have about 0.37, for ground is rough and events are selected.
    norm_sigma : float
        Standard deviation of a normal prior of the XRF norm around `xrf_norm`; 0 is none. Without it the norm trades
        places with iron, whose lines the band does not hold.
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
    systematics : bool
        Whether `fit_elements` fits what is not known of Sun, response, background and ground within its errors, and
        gives total errors; else, and with `fit_gain`, Sun and response are right as they are.

    Examples
    --------
    >>> import lunarray as la
    >>> from lunarray.xrf.settings import FitSettings
    >>> FitSettings(statistic="chi2").statistic
    'chi2'
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
    prior_line: Mapping[str, float] = field(default_factory=dict)
    xrf_norm: float = 0.37
    scatter_norm: float = 1.0
    norm_sigma: float = 0.11
    norm_bounds: tuple[float, float] = (0.0, 1e20)
    fit_xrf_norm: bool = True
    fit_scatter_norm: bool = True
    tie_norms: bool = True
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
    systematics: bool = True

    @classmethod
    def published(cls, **changes: Any) -> FitSettings:
        """Start, bounds, closure and gain of the published PyXspec fit.

        Parameters
        ----------
        **changes : Any
            Attributes that differ.
        """
        own: dict[str, Any] = {
            "start": dict(PYXSPEC_START), "bounds": dict(PYXSPEC_BOUNDS), "balance_bounds": None, "prior_sigma": {},
            "slope": 1.0043, "offset": 0.0316,
            "xrf_norm": 1.0, "norm_sigma": 0.0, "tie_norms": False, "systematics": False,
        }  # fmt: skip
        return cls(**(own | changes))


@dataclass(frozen=True)
class FitResult:
    """What a fit found; `status` is "fitted", "not_converged", or why there is nothing.

    Errors are one standard deviation: statistical ones, from the curvature of the statistic, or total ones.
    """

    elements: tuple[str, ...]
    weights: np.ndarray  # (element,): wt%
    weight_errors: np.ndarray  # (element,): NaN for frozen elements
    element_flags: np.ndarray  # (element,) uint8: bits of `ELEMENT_FLAGS`
    parameters: tuple[str, ...]  # names of the fitted ones, in the order of `covariance`
    values: np.ndarray  # (parameter,)
    errors: np.ndarray
    covariance: np.ndarray  # (parameter, parameter)
    model: np.ndarray  # (channel,): counts/s in the fitted channels
    xrf: np.ndarray  # its fluorescence
    scatter: np.ndarray  # its scattered continuum
    line_names: tuple[str, ...]
    line_fluxes: np.ndarray  # (line,): photons/s/cm² at the detector, norm included
    channels: int
    status: str
    xrf_norm: float = np.nan
    scatter_norm: float = np.nan
    slope: float = np.nan
    offset: float = np.nan
    statistic: float = np.nan  # of the data alone (no prior)
    dof: int = 0
    iterations: int = 0
    # Of fits that know what they do not know:
    parts: np.ndarray | None = None  # (source, element): errors by `ERROR_SOURCES`, wt%
    unknowns: np.ndarray = field(default_factory=lambda: np.zeros(0))  # in standard deviations
    unknown_names: tuple[str, ...] = ()
    line_width: float = np.nan  # full at half maximum at 1.5 keV, keV
    misfit: float = np.nan  # of the lines' shape, see `lunarray.xrf.fit.line_misfit`

    @property
    def correlation(self) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.covariance / np.outer(self.errors, self.errors)

    @property
    def goodness(self) -> float:
        """Probability of a larger χ² by chance; for the Poisson statistics good for many counts."""
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


@dataclass(frozen=True)
class Observation:
    """Counts of one spectrum and of its background, in all channels of the response."""

    counts: np.ndarray  # (channel,)
    exposure: float  # s
    background: np.ndarray | None = None  # (channel,): counts of the background spectrum
    background_exposure: float = 1.0  # s, times what else (area, detectors) makes it comparable

    def arrays(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Counts and background counts of some channels."""
        counts = np.ascontiguousarray(self.counts, np.float64)[first:stop]
        if self.background is None:
            return counts, np.zeros_like(counts)
        return counts, np.ascontiguousarray(self.background, np.float64)[first:stop]


def prior_composition(mare_fraction: float) -> dict[str, float]:
    """Composition to start from, wt%: highlands and mare mixed by area (`mare_fraction` of mare, 0 to 1)."""
    if not 0 <= mare_fraction <= 1:
        raise InputError(f"a mare fraction of {mare_fraction}", remedy="It lies between 0 and 1")
    return {e: (1 - mare_fraction) * HIGHLAND[e] + mare_fraction * MARE[e] for e in HIGHLAND}
