"""The model spectrum of one observation, at the detector and seen through its response."""

from __future__ import annotations

import copy
import functools
from typing import Any, Self

import numpy as np

from lunarray.errors import InputError
from lunarray.xrf.atomic import AtomicTables, atomic_tables
from lunarray.xrf.fit_kernels import template_kernel
from lunarray.xrf.kernels import FluorescenceTables, Surface, fluorescence_tables, intensity_kernel
from lunarray.xrf.response import Response, rebin_kernel
from lunarray.xrf.scattering import scatter_kernel, scatter_tables, scattered_continuum
from lunarray.xrf.settings import Conventions, Geometry


class PhotonModel:
    """The spectrum that the surface sends to the detector; what does not depend on the composition is made once.

    `solar` (energy_lo, energy_hi, flux): edges of the bins in keV, rising; photons/s/cm²/keV at the Moon; `exposure`:
    s; only the scale "x2abund" needs it; `scatter` (energy_lo, energy_hi, photons): a scattered spectrum, photons/s/cm²
    in each bin, in place of one computed from the composition. InputError for arrays that do not fit together.
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
                remedy="Give lower edges, upper edges and flux, one for each bin",
            )
        if not np.all(np.isfinite(flux)) or np.any(flux < 0) or np.any(high <= low):
            raise InputError(
                "the solar spectrum has bins without width, or negative or missing fluxes",
                where="solar",
                remedy="Give a model of the solar spectrum, not a background-subtracted measurement",
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
        self.flux, self.origin = flux, origin
        self.photons = flux[origin] * (self.solar_hi - self.solar_lo)
        self.excitation = self.fluorescence.excitation
        grains = self.conventions.regolith
        if grains is not None and geometry.status() == "fitted":
            self.excitation = self.excitation * grains.share(
                self.fluorescence, self.tables.elements, geometry.incidence, geometry.emission
            )
        excited = self.excitation * self.photons
        self.surface = Surface(excited, self.fluorescence, *geometry.sines)
        self.scale = self._scale(exposure)
        self.given_scatter: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        if scatter is not None:
            low, high, photons = (np.ascontiguousarray(a, np.float64) for a in scatter)
            self.given_scatter = (low, high, photons)

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
            scale *= self.surface.sin_out / self.surface.sin_in
        return scale

    def with_photons(self, photons: np.ndarray) -> Self:
        """The same under another Sun: `photons` in the bins of this one (split at edges), photons/s/cm²."""
        other = copy.copy(self)
        other.photons = photons
        other.surface = Surface(self.excitation * photons, self.fluorescence, *self.geometry.sines)
        return other

    def tilted(self, degrees: float) -> Self:
        """The same with an incidence steeper by some degrees (away from the zenith, short of the horizon)."""
        other = copy.copy(self)
        steeper = min(self.geometry.incidence + degrees, 89.9)
        sine = float(np.cos(np.deg2rad(steeper)))
        other.surface = Surface(self.surface.excited, self.fluorescence, sine, self.surface.sin_out)
        return other

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

        `weights` (element,) float64: wt%. Returns (energy_lo, energy_hi, photons): photons/s/cm² in each bin, for
        Rayleigh and for Compton scattering; empty without a scattered continuum.
        """
        if self.given_scatter is not None:
            return [self.given_scatter]
        if self.conventions.scatter == "none":
            return []
        parts = scattered_continuum(
            self.fractions(weights), self.photons, *self.surface[2:], self._scatter_tables
        )
        return [
            (self.solar_lo * shift, self.solar_hi * shift, photons * self.scale)
            for photons, (_, _, shift) in zip(parts, self._scatter_kinds(), strict=False)
        ]

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
        lines = self.fluorescence.line_energy.size
        intensity = np.zeros(lines)
        intensity_kernel(self.fractions(weights), self.surface, np.ones(lines, np.bool_), intensity)
        return intensity

    def spectrum(
        self, weights: Any, energy_lo: Any, energy_hi: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Photons at the detector in bins of energy.

        `weights` (element,) float64: wt%; `energy_lo`, `energy_hi` (n,) float64: edges of the bins, keV, rising.
        Returns `xrf`, `scatter` (n,) float64: photons/s/cm² in each bin.
        """
        low = np.ascontiguousarray(energy_lo, np.float64)
        high = np.ascontiguousarray(energy_hi, np.float64)
        scatter = np.zeros(low.size)
        for begin, end, photons in self.scattered(weights):
            rebin_kernel(photons, begin, end, low, high, scatter)
        return self.line_spectrum(weights, low, high), scatter

    def _line_templates(self, *response: Any) -> np.ndarray:
        """What one photon/cm² of each line gives through the arrays of a response, (line, channel)."""
        how = self.conventions
        shape = _SHAPES.index(how.line_shape)
        return template_kernel(self.fluorescence.line_energy, shape, how.line_sigma, *response)

    def line_spectrum(self, weights: Any, energy_lo: Any, energy_hi: Any) -> np.ndarray:
        """The fluorescence part of `spectrum`, photons/s/cm² in each bin, (n,)."""
        low = np.ascontiguousarray(energy_lo, np.float64)
        high = np.ascontiguousarray(energy_hi, np.float64)
        each = np.arange(low.size + 1)
        ones = np.ones(low.size)
        shares = self._line_templates(
            low, high, ones, each, each[:-1].astype(np.int32), ones, low.size
        )
        return self.line_intensities(weights) @ shares * self.scale


_SHAPES = ("split", "bin", "gaussian")


class SpectralModel(PhotonModel):
    """A `PhotonModel` seen through a response: count rates in the fitted channels.

    `response`: only its channels `channels` are used; `channels`: indices of the fitted channels; `solar`, `geometry`,
    `exposure`, `tables`, `conventions`, `scatter`: as a `PhotonModel` takes them.
    """

    def __init__(
        self,
        response: Response,
        solar: tuple[Any, Any, Any],
        geometry: Geometry,
        *,
        channels: slice = slice(None),
        **options: Any,
    ) -> None:
        super().__init__(solar, geometry, **options)
        first, stop, step = channels.indices(response.channels)
        if step != 1 or stop <= first:
            raise InputError(
                f"{channels} selects no run of the {response.channels} channels",
                where="channels",
                remedy="Give slice(first, stop)",
            )
        seen = response.channel_hi[stop - 1]
        if self.solar_hi[-1] < seen:
            raise InputError(
                f"the solar model ends at {self.solar_hi[-1]:g} keV and the fitted channels at {seen:g} keV",
                where="solar",
                remedy="Fit fewer channels, or give a model that covers them",
            )
        if self.solar_hi[-1] < self._highest_edge(response.channel_lo[first], seen):
            raise InputError(
                f"the solar model ends at {self.solar_hi[-1]:g} keV, below an edge whose line the fitted channels hold",
                where="solar",
                remedy="Give a model that covers the absorption edges",
            )
        self.full_response = response
        self.first, self.stop = first, stop
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
                    self.full_response.with_channel_gain(slope, offset), self.first, self.stop
                )
            else:
                part = _selected(self.full_response, self.first, self.stop)
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
            templates = self._line_templates(
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
        return self._fold(self.scattered_slopes(weights), slope, offset)

    def scattered_slopes(
        self, weights: Any
    ) -> list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        """Derivatives of `scattered` with respect to the wt%, for each element."""
        fractions = self.fractions(weights)
        spectra: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in fractions]
        if self.given_scatter is not None or self.conventions.scatter == "none":
            return spectra
        for mu_after, sigma, shift in self._scatter_kinds():
            slopes = np.empty((fractions.size, self.photons.size))
            scatter_kernel(
                fractions, self.photons, self._scatter_tables.mu, mu_after, sigma, *self.surface[2:],
                True, np.empty_like(self.photons), slopes,
            )  # fmt: skip
            for own, slope_ in zip(spectra, slopes, strict=True):
                own.append(
                    (self.solar_lo * shift, self.solar_hi * shift, slope_ * self.scale / 100)
                )
        return spectra

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
        return response.fold(photons)

    def counts(
        self,
        weights: Any,
        xrf_norm: float = 1.0,
        scatter_norm: float = 1.0,
        slope: float = 1.0,
        offset: float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts/s in the fitted channels, fluorescence and scattered continuum, for wt%."""
        lines = self.line_intensities(weights) @ self.line_templates(slope, offset)
        scatter = self.scatter_template(weights, slope, offset)
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
