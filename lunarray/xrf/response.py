"""Instrument responses: OGIP RMF and ARF files as one value that folds photon spectra into count rates."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lunarray.engine.compiling import njit
from lunarray.errors import InputError, require_choice, require_number
from lunarray.xrf.constants import Digested
from lunarray.xrf.line_shape import FWHM, REFERENCE, LineShape, Peaks, find_peaks, reshape_kernel

GainConvention = Literal["matrix", "area"]


@dataclass(frozen=True, eq=False)
class Response(Digested):
    """A redistribution matrix with its effective area.

    Energies are in keV. `area_energy` and `area_curve` are the ARF as its file has it, kept for gain shifts.
    """

    energy_lo: np.ndarray  # (energy,) float64: bins of the photon energies, rising
    energy_hi: np.ndarray
    area: np.ndarray  # (energy,) float64: effective area, cm²; ones where there is no ARF
    row: np.ndarray  # (energy + 1,) int64: where the entries of each energy begin
    channel: np.ndarray  # (entry,) int32: index of the channel, from 0 whatever the file says
    value: np.ndarray  # (entry,) float64: probability that a photon is counted in this channel
    channel_lo: np.ndarray  # (channel,) float64: nominal energies
    channel_hi: np.ndarray
    area_energy: np.ndarray | None = None  # middles of its bins
    area_curve: np.ndarray | None = None  # cm²
    first_channel: int = 0  # number that the matrix gives to the first channel
    shape: LineShape | None = (
        None  # what `with_shape` built the matrix from; None for one as its file has it
    )

    def __post_init__(self) -> None:
        for name, kind in (
            ("energy_lo", np.float64), ("energy_hi", np.float64), ("area", np.float64), ("row", np.int64),
            ("channel", np.int32), ("value", np.float64), ("channel_lo", np.float64), ("channel_hi", np.float64),
        ):  # fmt: skip
            array = np.ascontiguousarray(getattr(self, name), kind)
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @functools.cached_property
    def digest(self) -> str:
        """Hash of all numbers; what Dask and the stores know it by."""
        state = hashlib.sha256()
        for array in (
            self.energy_lo, self.energy_hi, self.area, self.row, self.channel, self.value,
            self.channel_lo, self.channel_hi,
        ):  # fmt: skip
            state.update(array.tobytes())
        return state.hexdigest()

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.channel_lo.size

    @property
    def energies(self) -> int:
        """Number of photon energy bins."""
        return self.energy_lo.size

    def fold(self, spectra: Any) -> np.ndarray:
        """Count rates that photon spectra give.

        `spectra` (..., energy) float64: photons/s/cm² in each energy bin. Returns (..., channel) float64: counts/s.
        InputError where the last axis is not the matrix' number of energies.
        """
        spectra = np.asarray(spectra, np.float64)
        if spectra.shape[-1:] != (self.energies,):
            raise InputError(
                f"a spectrum of {spectra.shape[-1] if spectra.ndim else 1} bins cannot be folded:"
                f" the response has {self.energies} energies",
                remedy="Rebin it to the response's energies with `rebin`",
            )
        flat = np.ascontiguousarray(spectra.reshape(-1, self.energies))
        out = fold_kernel(flat, self.area, self.row, self.channel, self.value, self.channels)
        return out.reshape(*spectra.shape[:-1], self.channels)

    def matrix(self) -> np.ndarray:
        """The response as a dense array, (energy, channel): area × probability, cm²."""
        return self.fold(np.eye(self.energies))

    def with_gain(
        self, slope: float = 1.0, offset: float = 0.0, *, convention: GainConvention = "area"
    ) -> Response:
        """Shift the photon energies of the matrix: E' = E / slope − offset, as XSPEC's ``gain`` does.

        `slope`: relative gain; `offset`: in keV; `convention` {"area", "matrix"}: "area": the effective area stays
        where it is in energy (it belongs to the optics) and is interpolated at the shifted energies. "matrix": it moves
        along with the matrix. Returns the same channels, shifted energies.
        """
        require_choice("convention", convention, ("area", "matrix"))
        require_number("slope", slope, 0, strictly=True)
        if slope == 1 and offset == 0:
            return self
        low, high = self.energy_lo / slope - offset, self.energy_hi / slope - offset
        area = self.area
        if convention == "area" and self.area_energy is not None and self.area_curve is not None:
            area = np.interp((low + high) / 2, self.area_energy, self.area_curve)
        return replace(self, energy_lo=low, energy_hi=high, area=area)

    def with_channel_gain(self, slope: float = 1.0, offset: float = 0.0) -> Response:
        """Shift the channels instead: what is counted at nominal energy E is counted at slope × (E + offset).

        `slope`, `offset`: relative gain, and offset in keV. Returns the same energies; the counts of a channel are
        shared among those that it now overlaps (sub-channel rebinning), so that none are lost but beyond the last
        channel.
        """
        edges = np.append(self.channel_lo, self.channel_hi[-1])
        low, high = slope * (self.channel_lo + offset), slope * (self.channel_hi + offset)
        return replace(self, **_rebin_rows(self, low, high, edges))

    @functools.cached_property
    def peaks(self) -> Peaks:
        """The photopeak of each energy: its area, place and width."""
        edges = self.row, self.channel, self.value, self.channel_lo, self.channel_hi
        return find_peaks((self.energy_lo + self.energy_hi) / 2, *edges)

    def line_width(self, energy: float = REFERENCE) -> float:
        """Full width at half maximum (keV) of a line at `energy` (keV), tail and shelf left out."""
        found = self.peaks.area > 0
        if not found.any():
            raise InputError(
                "no row of the matrix has a photopeak",
                where="response",
                remedy="Give a redistribution matrix with lines narrower than 0.7 keV",
            )
        middle = (self.energy_lo + self.energy_hi)[found] / 2
        return float(FWHM * np.interp(energy, middle, self.peaks.sigma[found]))

    def with_shape(self, shape: LineShape) -> Response:
        """Give the lines another width, gain, tail and shelf: the photopeaks are taken out and put in anew.

        `shape`: parameters; tail and shelf are factors on those of this matrix. A row keeps its sum, that is its
        efficiency. Returns the same energies and channels. InputError where no row has a photopeak.
        """
        self.line_width()  # refuses a matrix without peaks
        energy = (self.energy_lo + self.energy_hi) / 2
        edges = np.append(self.channel_lo, self.channel_hi[-1])
        peaks = self.peaks
        dense = np.zeros((self.energies, self.channels))
        reshape_kernel(
            energy, self.row, self.channel, self.value, edges, (peaks.area, peaks.shift, peaks.sigma),
            shape.sigma(energy), (float(shape.slope), float(shape.offset)),
            (float(shape.tail), float(shape.shelf)), dense,
        )  # fmt: skip
        return replace(self, **_sparse(np.where(dense > 1e-9, dense, 0.0)), shape=shape)

    def group(self, factor: int) -> Response:
        """Join each `factor` neighbouring channels, e.g. 2048 channels to 1024.

        `factor`: a divisor of the number of channels.
        """
        if factor < 1 or self.channels % factor:
            raise InputError(
                f"{self.channels} channels cannot be joined {factor} at a time",
                remedy="Choose a divisor",
            )
        edges = np.append(self.channel_lo[::factor], self.channel_hi[-1])
        entries = _rebin_rows(self, self.channel_lo, self.channel_hi, edges)
        return replace(self, **entries, channel_lo=edges[:-1], channel_hi=edges[1:])

    def select(self, first: int, stop: int) -> Response:
        """Only the channels with index `first` to `stop` − 1.

        `first`, `stop`: indices from 0. Returns all energies, and these channels.
        """
        keep = (self.channel >= first) & (self.channel < stop)
        counts = np.concatenate([[0], np.cumsum(keep)])
        return replace(
            self,
            row=counts[self.row],
            channel=self.channel[keep] - first,
            value=self.value[keep],
            channel_lo=self.channel_lo[first:stop],
            channel_hi=self.channel_hi[first:stop],
            first_channel=self.first_channel + first,
        )

    def below(self, energy: float) -> Response:
        """Only the rows of photons below an energy (keV)."""
        return self.rows(np.arange(max(int(np.searchsorted(self.energy_lo, energy)), 1)))

    def rows(self, which: np.ndarray) -> Response:
        """Only some rows, by their rising indices."""
        sizes = np.diff(self.row)
        keep = np.zeros(self.energies, bool)
        keep[which] = True
        entries = np.repeat(keep, sizes)
        return replace(
            self,
            energy_lo=self.energy_lo[which],
            energy_hi=self.energy_hi[which],
            area=self.area[which],
            row=np.concatenate([[0], np.cumsum(sizes[which])]),
            channel=self.channel[entries],
            value=self.value[entries],
        )

    def channel_energy(self) -> np.ndarray:
        """Nominal middle of each channel, keV, (channel,)."""
        return (self.channel_lo + self.channel_hi) / 2


# --- Kernels --------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def fold_kernel(spectra, area, row, channel, value, channels):
    """Σ_E spectrum × area × matrix; see `Response` for the arrays. Returns (spectrum, channel)."""
    out = np.zeros((spectra.shape[0], channels))
    for s in range(spectra.shape[0]):
        for e in range(area.size):
            photons = spectra[s, e] * area[e]
            if photons != 0.0:
                for k in range(row[e], row[e + 1]):
                    out[s, channel[k]] += photons * value[k]
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def rebin_kernel(values, low, high, new_low, new_high, out):
    """Add `values` of bins [low, high) to the bins [new_low, new_high) by overlap. All edges rise."""
    begin = 0
    for i in range(values.size):
        width = high[i] - low[i]
        if width <= 0.0 or values[i] == 0.0:
            continue
        while begin < new_low.size and new_high[begin] <= low[i]:
            begin += 1
        j = begin
        while j < new_low.size and new_low[j] < high[i]:
            overlap = min(high[i], new_high[j]) - max(low[i], new_low[j])
            if overlap > 0.0:
                out[j] += values[i] * overlap / width
            j += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _rebin_rows_kernel(row, channel, value, low, high, edges, energies, out):
    for e in range(energies):
        for k in range(row[e], row[e + 1]):
            a, b = low[channel[k]], high[channel[k]]
            j = np.searchsorted(edges, a, side="right") - 1
            if j < 0:
                j = 0
            while j < edges.size - 1 and edges[j] < b:
                overlap = min(b, edges[j + 1]) - max(a, edges[j])
                if overlap > 0.0:
                    out[e, j] += value[k] * overlap / (b - a)
                j += 1


def _rebin_rows(response: Response, low: Any, high: Any, edges: Any) -> dict[str, Any]:
    """Entries of the matrix where what was counted between `low` and `high` goes to channels between `edges`."""
    dense = np.zeros((response.energies, edges.size - 1))
    entries = response.row, response.channel, response.value
    _rebin_rows_kernel(*entries, low, high, edges, response.energies, dense)
    return _sparse(dense)


def _sparse(dense: np.ndarray) -> dict[str, Any]:
    """A matrix (energy, channel) by the entries that are not 0."""
    where = dense != 0
    row = np.concatenate([[0], np.cumsum(where.sum(axis=1))])
    return {"row": row, "channel": np.nonzero(where)[1], "value": dense[where]}


def rebin(values: Any, low: Any, high: Any, new_low: Any, new_high: Any) -> np.ndarray:
    """Share the contents of bins among other bins in proportion to the overlap.

    `values` (n,) float64: contents (photons, counts), not densities; `low`, `high` (n,) float64: edges of the bins,
    rising; `new_low`, `new_high` (m,) float64: edges of the new bins, rising. Returns (m,) float64: what falls outside
    all new bins is lost; all else is conserved.
    """
    new_low = np.ascontiguousarray(new_low, np.float64)
    out = np.zeros(new_low.size)
    rebin_kernel(
        np.ascontiguousarray(values, np.float64),
        np.ascontiguousarray(low, np.float64),
        np.ascontiguousarray(high, np.float64),
        new_low,
        np.ascontiguousarray(new_high, np.float64),
        out,
    )
    return out
