"""What a fit does not know beside composition and norms, Sun and response above all, and what that does to errors.

Each unknown is a number of standard deviations with a normal prior of its own. The model is made anew around the values
that the data prefer, so that a Sun far off is followed beyond first order. Errors are divided by source: with the
curvature JᵀWJ of the data and the prior precisions P_s of the sources, the covariance C = (JᵀWJ + Σ P_s)⁻¹ is the sum
of C JᵀWJ C and of C P_s C.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from lunarray.xrf.constants import Digested
from lunarray.xrf.fit_kernels import FitPlan, template_kernel
from lunarray.xrf.line_shape import FWHM, LineShape
from lunarray.xrf.model import SpectralModel
from lunarray.xrf.response import Response, rebin_kernel
from lunarray.xrf.settings import ERROR_SOURCES

#: Parameters of a `LineShape` that are fitted, and the steps by which templates are differentiated.
SHAPE_PARAMETERS = ("width", "slope", "offset")
_STEPS = (0.008, 0.004, 0.010)
#: Relative errors of the lines of an element: above all those of the fluorescence yields, 10 % for light and 3 to 5 %
#: for heavier elements (Krause, 1979, J. Phys. Chem. Ref. Data 8, 307).
ATOMIC = MappingProxyType(
    {"Fe": 0.05, "Ti": 0.05, "Ca": 0.05, "Si": 0.1, "Al": 0.1, "Mg": 0.1, "Na": 0.1, "O": 0.2}
)
#: A change of the Sun by more than so many times its flux in a bin is that of a line.
LINE_CHANGE = 2.0
#: Lowest and highest value of an unknown, in standard deviations.
LIMIT = 4.0


@dataclass(frozen=True, eq=False)
class ShapePrior(Digested):
    """Width (keV), slope and offset (keV) of the lines, as far as they are known."""

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    source: str = ""

    @property
    def digest(self) -> Any:
        return (self.mean, self.covariance)

    @property
    def root(self) -> np.ndarray:
        """Lower triangle whose product with unit normal numbers has the covariance."""
        return np.linalg.cholesky(np.array(self.covariance))


@dataclass(frozen=True, eq=False)
class Unknowns:
    """Standard deviations of what a fit does not know."""

    # (mode, energy): change of the solar flux for one standard deviation of each of independent errors, in its unit
    sun: np.ndarray
    sun_names: tuple[str, ...]
    shape: ShapePrior | None = None  # None: the response is right as it is
    ratio: float = 0.3  # of scattered to fluorescent light, relative: rough ground
    excess: float = 0.2  # of what the particles send beyond the background, relative
    area: float = 0.1  # of the effective area at 1.25 keV beside that at 1.74, relative
    incidence: float = 1.5  # slopes within the footprint, degrees
    oxygen: float = 1.0  # wt%, where it is frozen and no prior tells
    atomic: Mapping[str, float] = field(default_factory=lambda: dict(ATOMIC))


@dataclass(frozen=True, eq=False)
class _Tables:
    """The response at one shape of the lines, and their templates there and a step to either side of each parameter."""

    response: Response
    near: Response  # of photons of the fitted energies alone: what others leave in them is little, its changes less
    shape: LineShape | None
    lines: np.ndarray  # (1 + 2 · parameters, line, channel)

    def bends(self, spectrum: np.ndarray) -> np.ndarray:
        """How a smooth spectrum (channel,) changes by a step of width, slope and offset, (3, channel).

        It is spread already: a wider line adds to its variance, so that the change is half of that times the second
        derivative.
        """
        assert self.shape is not None
        energy = self.response.channel_energy()
        first = np.gradient(spectrum, energy)
        second = np.gradient(first, energy)
        shape = self.shape
        wider = shape.width * (shape.slope / FWHM) ** 2 * second
        stretched = -(spectrum + energy * first) / shape.slope
        return np.array(_STEPS)[:, None] * np.stack([wider, stretched, -shape.slope * first])


class Nuisances:
    """Makes the model of one spectrum, and its derivatives, for given values of the unknowns.

    `model`: as it is believed; `unknowns`; `excess` (channel,): counts/s of particles beyond the background.
    """

    def __init__(self, model: SpectralModel, unknowns: Unknowns, excess: np.ndarray) -> None:
        self.excess = excess
        self.model, self.unknowns = model, unknowns
        modes = np.zeros((0, model.flux.size))
        if unknowns.sun_names:
            modes = np.where(model.flux > 0, unknowns.sun / np.maximum(model.flux, 1e-300), 0.0)
        # A temperature changes all energies by a factor, lines come on top of what is there.
        seen = (model.solar_lo > 0.8) & (model.solar_hi < 8.0)
        tops = np.abs(modes[:, model.origin][:, seen]).max(axis=1, initial=0.0)
        self.adds = tops > LINE_CHANGE
        self.modes = np.where(self.adds[:, None], modes, np.clip(modes, -2, 2))[:, model.origin]
        self.lowest = np.full(len(self.modes), -LIMIT)
        for k in np.flatnonzero(self.adds):
            # A line cannot take more away than there is.
            self.lowest[k] = -max(0.8 / self.modes[k].max(initial=0.0), 0.02)
        self.names = tuple(f"sun:{name}" for name in unknowns.sun_names)
        self.sources = ["sun"] * len(self.names)
        if unknowns.shape is not None:
            self.names += SHAPE_PARAMETERS
            self.sources += ["response"] * len(SHAPE_PARAMETERS)
        self.names += ("area", "ratio", "background")
        self.sources += ["response", "norm", "background"]
        # The thickness of a filter: the absorption of light metals falls off with the cube of the energy.
        energy = model.full_response.channel_energy()[model.first : model.stop]
        change = ((1.74 / energy) ** 3 - 1) / ((1.74 / 1.25) ** 3 - 1)
        self.thicker = -unknowns.area * np.clip(change, -2, 3)
        self.base: tuple[float, ...] | None = None
        self.still = False  # whether templates stay where they are
        self._derived: tuple[np.ndarray, np.ndarray] | None = None
        self.now = model

    @property
    def size(self) -> int:
        """Number of unknowns that are fitted."""
        return len(self.names)

    def fixed(self, values: np.ndarray) -> np.ndarray:
        """Counts/s of particles beyond the background, (channel,)."""
        return self.excess * (1 + self.unknowns.excess * values[-1])

    def shape(self, values: np.ndarray) -> np.ndarray:
        """Width, slope and offset at values of the unknowns; NaN where the response is taken as it is."""
        prior = self.unknowns.shape
        if prior is None:
            return np.full(3, np.nan)
        first = len(self.unknowns.sun_names)
        return np.array(prior.mean) + prior.root @ values[first : first + 3]

    def renew(
        self, weights: np.ndarray, values: np.ndarray, ratio: float, derive: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The model at values of the unknowns, for norms of 1 and `ratio`.

        Returns line templates (line, channel), the scattered continuum (channel,), its slopes (element, channel) and
        the derivatives with respect to the unknowns (unknown, channel). Where the model was made nearby before, the
        last two can stay: `derive`.
        """
        model, changes = self._lit(values)
        self.now = model
        tables, moved = self._tables(values)
        lines = tables.lines[0]
        parts = model.scattered(weights)
        scatter = tables.response.fold(self._binned(parts))
        bends = np.zeros((0, self.model.channels))
        if self.unknowns.shape is not None:
            first, second = _differences(tables.lines)
            lines = lines + np.tensordot(moved, first, 1) + np.tensordot(moved**2, second, 1) / 2
            bends = tables.bends(scatter)
            scatter = scatter + moved @ bends
        thicker = np.exp(self.thicker * values[-3])
        lines = lines * (model.scale * thicker)
        scatter = scatter * thicker
        if derive or self._derived is None:
            intensity = model.line_intensities(weights)
            derivatives = np.zeros((self.size, self.model.channels))
            suns = len(changes)
            derivatives[:suns] = self._of_suns(weights, changes, parts, lines, ratio * thicker)
            if self.unknowns.shape is not None:
                slopes = np.stack([intensity @ (first[i] + moved[i] * second[i]) for i in range(3)])
                slopes = (slopes * model.scale + ratio * bends) * thicker
                root = self.unknowns.shape.root / np.array(_STEPS)[:, None]
                derivatives[suns : suns + 3] = root.T @ slopes
            derivatives[-3] = self.thicker * (intensity @ lines + ratio * scatter)
            derivatives[-2] = ratio * self.unknowns.ratio * scatter
            derivatives[-1] = self.unknowns.excess * self.excess
            self._derived = self._slopes(weights, tables) * thicker, derivatives
        by_weight, derivatives = self._derived
        # The unknown ratio itself: the derivative is that at any of its values.
        stronger = max(1 + self.unknowns.ratio * values[-2], 0.05)
        return lines, scatter * stronger, by_weight * stronger, derivatives

    def rate(
        self, weights: np.ndarray, norm: float, other: float, values: np.ndarray
    ) -> np.ndarray:
        """Counts/s of the model for weights, norms of fluorescence and scattering, and unknowns, (channel,).

        All of it beyond first order, but for the shape of the lines, which is followed to second order from where the
        model was last made: so the same values have the same rate, whatever came before.
        """
        self.still = True
        lines, scatter, _, _ = self.renew(weights, values, other / max(norm, 1e-300), False)
        fluorescence: np.ndarray = norm * (self.now.line_intensities(weights) @ lines)
        return fluorescence + other * scatter + self.fixed(values)

    def _lit(self, values: np.ndarray) -> tuple[SpectralModel, np.ndarray]:
        """The model under the Sun of `values`, and the changes of its photons by each of them, (mode, energy)."""
        suns = len(self.unknowns.sun_names)
        if not suns:
            return self.model, np.zeros((0, self.model.photons.size))
        smooth = np.exp(np.where(self.adds, 0.0, values[:suns]) @ self.modes)
        lines = np.where(self.adds, values[:suns], 0.0) @ self.modes
        model = self.model.with_photons(self.model.photons * smooth * np.maximum(1 + lines, 0.02))
        added = self.model.photons * smooth
        return model, np.where(self.adds[:, None], added, model.photons) * self.modes

    def _of_suns(
        self, weights: np.ndarray, changes: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
        lines: np.ndarray, ratio: Any,
    ) -> np.ndarray:  # fmt: skip
        """Derivatives of the model with respect to the Sun, (mode, channel); `parts`: what is scattered."""
        model, out = self.now, np.zeros((len(changes), self.model.channels))
        photons = np.zeros((len(changes), self._tables_now.response.energies))
        for k, change in enumerate(changes):
            out[k] = model.with_photons(change).line_intensities(weights) @ lines
            if model.given_scatter is None and parts:
                # What is scattered of a photon does not depend on the others.
                share = np.divide(
                    change, model.photons, out=np.zeros_like(change), where=model.photons > 0
                )
                photons[k] = self._binned(
                    [(low, high, scattered * share) for low, high, scattered in parts]
                )
        near = self._tables_now.near
        return out + ratio * near.fold(photons[:, : near.energies])

    def unfitted(
        self,
        weights: np.ndarray,
        intensity: np.ndarray,
        lines: np.ndarray,
        ratio: float,
    ) -> list[tuple[str, np.ndarray]]:
        """Changes of the model (channel,) by what is not fitted but enters the errors, each with its source.

        For norms of 1 and `ratio`; `intensity`, `lines`: of the lines.
        """
        model, unknowns = self.now, self.unknowns
        elements = model.tables.elements
        changes: list[tuple[str, np.ndarray]] = []
        own = np.asarray(model.tables.line_element)
        for e, name in enumerate(elements):
            error = unknowns.atomic.get(name, 0.0)
            if error > 0:
                part = own == e
                changes.append(("atomic", error * (intensity[part] @ lines[part])))
        steeper = model.tilted(0.5)
        moved = steeper.line_intensities(weights) @ lines - intensity @ lines
        photons = self._binned(steeper.scattered(weights)) - self._binned(model.scattered(weights))
        moved = moved + ratio * self._tables_now.response.fold(photons)
        changes.append(("geometry", moved * (unknowns.incidence / 0.5)))
        return changes

    def _binned(self, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
        low, high = self._edges
        photons = np.zeros(low.size)
        for begin, end, values in parts:
            if np.any(values < 0):
                # The kernel passes over empty bins only; negative ones are as good.
                rebin_kernel(np.minimum(values, 0.0), begin, end, low, high, photons)
                rebin_kernel(np.maximum(values, 0.0), begin, end, low, high, photons)
            else:
                rebin_kernel(values, begin, end, low, high, photons)
        return photons

    def _slopes(self, weights: np.ndarray, tables: _Tables) -> np.ndarray:
        spectra = self.now.scattered_slopes(weights)
        near = tables.near
        return near.fold(np.stack([self._binned(parts)[: near.energies] for parts in spectra]))

    @functools.cached_property
    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        response = self._tables(np.zeros(self.size))[0].response
        return response.energy_lo, response.energy_hi

    def _tables(self, values: np.ndarray) -> tuple[_Tables, np.ndarray]:
        """Responses around the shape, and how far it is from theirs, in steps."""
        model = self.model
        how = model.conventions
        lines = np.asarray(model.fluorescence.line_energy).tobytes()
        shape = self.shape(values)
        if self.unknowns.shape is None:
            base: tuple[float, ...] = ()
        else:
            base = self.base or tuple(self.unknowns.shape.mean)
            # Far from where the templates are, they are made anew: on a lattice, which spectra share.
            if not self.still and np.any(np.abs(shape - base) > 0.8 * np.array(_STEPS)):
                near = np.round((shape - self.unknowns.shape.mean) / _STEPS) * _STEPS
                base = tuple((np.array(self.unknowns.shape.mean) + near).tolist())
            self.base = base
        tables = _shape_tables(
            model.full_response,
            base,
            (model.first, model.stop),
            lines,
            how.line_shape,
            how.line_sigma,
        )
        self._tables_now = tables
        moved = (shape - np.array(base)) / _STEPS if base else np.zeros(3)
        return tables, moved


def _differences(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and second differences of what is given at 0 and at ±1 of each parameter."""
    above, below = values[1::2], values[2::2]
    first, second = (above - below) / 2, above + below - 2 * values[0]
    return first, second


@functools.lru_cache(maxsize=32)
def _shape_tables(
    response: Response, base: tuple[float, ...], channels: tuple[int, int], line_energy: bytes, how: str, sigma: float
) -> _Tables:  # fmt: skip
    first, stop = channels
    top = response.channel_hi[stop - 1]
    energy = response.channel_energy()
    low = int(np.searchsorted(energy, response.channel_lo[first] - 0.4))
    high = int(np.searchsorted(energy, top + 0.4))
    part = _cut(response, low, high, float(top))
    moves = [
        np.zeros(3),
        *(s * _STEPS[i] * np.eye(3)[i] for i in range(len(base)) for s in (1, -1)),
    ]
    shapes = [LineShape(*(np.array(base) + move).tolist()) if base else None for move in moves]
    lines = np.frombuffer(line_energy)
    kind = ("split", "bin", "gaussian").index(how)
    of_lines = _cut_to_lines(part, line_energy, 7.0 * sigma if how == "gaussian" else 0.0)
    responses = []
    for number, shape in enumerate(shapes):
        # The neighbours are for derivatives of lines alone: rows that no line is in are not made anew.
        own = of_lines if number else part
        own = own if shape is None else own.with_shape(shape)
        responses.append(own.select(first - low, stop - low))
    templates = [
        template_kernel(
            lines,
            kind,
            sigma,
            r.energy_lo,
            r.energy_hi,
            r.area,
            r.row,
            r.channel,
            r.value,
            r.channels,
        )
        for r in responses
    ]
    near = responses[0].below(float(top) + 0.6)
    return _Tables(responses[0], near, shapes[0], np.stack(templates))


@functools.lru_cache(maxsize=4)
def _cut(response: Response, low: int, high: int, top: float) -> Response:
    return response.select(low, high).below(top + 8.0)


@functools.lru_cache(maxsize=4)
def _cut_to_lines(response: Response, line_energy: bytes, reach: float) -> Response:
    """The rows that templates of lines are made of: within `reach` (keV) of each, and one to either side."""
    lines = np.frombuffer(line_energy)
    begin = np.searchsorted(response.energy_hi, lines - reach) - 1
    stop = np.searchsorted(response.energy_hi, lines + reach) + 2
    wanted = np.zeros(response.energies, bool)
    for a, b in zip(begin, stop, strict=True):
        wanted[max(a, 0) : b] = True
    return response.rows(np.flatnonzero(wanted))


def error_parts(
    plan: FitPlan, sources: list[str], jacobian: np.ndarray, precision: np.ndarray, inflation: float,
    changes: list[tuple[str, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Covariances of the free parameters by source.

    `sources`: of the unknowns; `jacobian` (parameter, channel): derivatives of the rates; `precision` (channel,): of
    the data; `inflation`: of their variances, by what the model does not describe; `changes`: what
    `Nuisances.unfitted` gives. Returns the covariances (source, parameter, parameter) of `ERROR_SOURCES` and their sum.
    """
    free = np.flatnonzero(plan.free)
    own = jacobian[free]
    weighted = own * (precision / inflation)
    data = weighted @ own.T
    priors = {name: np.zeros_like(data) for name in ERROR_SOURCES}
    for k, i in enumerate(free):
        if i < plan.elements:
            source = "prior"
        elif i < plan.elements + 4:
            source = "norm"
        else:
            source = sources[i - plan.elements - 4]
        priors[source][k, k] += plan.prior_weight[i]
    if plan.prior_weight[plan.balance] > 0:
        closing = (free < plan.elements).astype(float)
        priors["prior"] += plan.prior_weight[plan.balance] * np.outer(closing, closing)
    mode = np.where(free < plan.elements, plan.prior_mode[np.minimum(free, plan.elements - 1)], 0.0)
    priors["prior"] -= np.outer(mode, mode)
    inverse = inverse_of(data + sum(priors.values()))
    parts = np.stack([inverse @ priors[name] @ inverse for name in ERROR_SOURCES])
    statistics = inverse @ data @ inverse
    parts[ERROR_SOURCES.index("statistics")] = statistics / inflation
    parts[ERROR_SOURCES.index("misfit")] = statistics * (1 - 1 / inflation)
    for source, change in changes:
        shift = inverse @ (weighted @ change)
        parts[ERROR_SOURCES.index(source)] += np.outer(shift, shift)
    return parts, parts.sum(axis=0)


def inverse_of(curvature: np.ndarray) -> np.ndarray:
    """Inverse of a curvature matrix; directions that the data do not see get a variance of 1e12 of their scale."""
    diagonal = np.sqrt(np.diag(curvature))
    scale = np.where(diagonal > 0, diagonal, 1.0)
    values, vectors = np.linalg.eigh(curvature / np.outer(scale, scale))
    values = np.maximum(values, 1e-12)
    return (vectors / values) @ vectors.T / np.outer(scale, scale)
