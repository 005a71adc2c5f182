"""Instrument responses: OGIP RMF and ARF files as one value that folds photon spectra into count rates."""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numba import njit

from lunarray.errors import InputError, ProductFormatError

GainConvention = Literal["matrix", "area"]

_LOW = ("ENERG_LO", "E_LOW", "ENERGY_LO", "ENERG_LOW")
_HIGH = ("ENERG_HI", "E_HIGH", "ENERGY_HI", "ENERG_HIGH")


@dataclass(frozen=True, eq=False)
class Response:
    """A redistribution matrix with its effective area.

    Attributes
    ----------
    energy_lo, energy_hi : ndarray of float64, (energy,)
        Bin edges of the photon energies that the matrix expects, keV, rising.
    area : ndarray of float64, (energy,)
        Effective area of each energy bin, cm²; ones where there is no ARF.
    row : ndarray of int64, (energy + 1,)
        Where the entries of each energy begin in `channel` and `value`.
    channel : ndarray of int32, (entry,)
        Index of the channel (from 0, whatever number the file gives it) of each entry.
    value : ndarray of float64, (entry,)
        Probability that a photon of this energy is counted in this channel.
    channel_lo, channel_hi : ndarray of float64, (channel,)
        Nominal energies of the channels, keV.
    area_energy, area_curve : ndarray of float64 or None
        The ARF as its file has it: middles of its bins and areas; kept for gain shifts.
    first_channel : int
        Number that the matrix gives to the first channel.
    """

    energy_lo: np.ndarray
    energy_hi: np.ndarray
    area: np.ndarray
    row: np.ndarray
    channel: np.ndarray
    value: np.ndarray
    channel_lo: np.ndarray
    channel_hi: np.ndarray
    area_energy: np.ndarray | None = None
    area_curve: np.ndarray | None = None
    first_channel: int = 0

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

    def __dask_tokenize__(self) -> tuple[str, str]:
        return (type(self).__qualname__, self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Response) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

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

        Parameters
        ----------
        spectra : array_like of float64, (..., energy)
            Photons/s/cm² in each energy bin.

        Returns
        -------
        ndarray of float64, (..., channel)
            Counts/s.

        Raises
        ------
        InputError
            Where the last axis is not the matrix' number of energies.
        """
        spectra = np.asarray(spectra, np.float64)
        if spectra.shape[-1:] != (self.energies,):
            raise InputError(
                f"a spectrum of {spectra.shape[-1] if spectra.ndim else 1} bins cannot be folded:"
                f" the response has {self.energies} energies",
                remedy="rebin it to the response's energies with `rebin`",
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

        Parameters
        ----------
        slope : float
            Relative gain.
        offset : float
            In keV.
        convention : {"area", "matrix"}
            "area": the effective area stays where it is in energy (it belongs to the optics) and is interpolated at the
            shifted energies. "matrix": it moves along with the matrix.

        Returns
        -------
        Response
            The same channels, shifted energies.
        """
        if convention not in ("area", "matrix"):
            raise InputError(
                f"no gain convention {convention!r}", remedy="choose 'area' or 'matrix'"
            )
        if not slope > 0:
            raise InputError(f"a gain slope of {slope} is impossible", remedy="it must be positive")
        if slope == 1 and offset == 0:
            return self
        low, high = self.energy_lo / slope - offset, self.energy_hi / slope - offset
        area = self.area
        if convention == "area" and self.area_energy is not None and self.area_curve is not None:
            area = np.interp((low + high) / 2, self.area_energy, self.area_curve)
        return replace(self, energy_lo=low, energy_hi=high, area=area)

    def with_channel_gain(self, slope: float = 1.0, offset: float = 0.0) -> Response:
        """Shift the channels instead: what is counted at nominal energy E is counted at slope × (E + offset).

        Parameters
        ----------
        slope, offset : float
            Relative gain, and offset in keV.

        Returns
        -------
        Response
            The same energies; the counts of a channel are shared among those that it now overlaps (sub-channel
            rebinning), so that none are lost but beyond the last channel.
        """
        edges = np.append(self.channel_lo, self.channel_hi[-1])
        low, high = slope * (self.channel_lo + offset), slope * (self.channel_hi + offset)
        row, channel, value = _rebin_rows(
            self.row, self.channel, self.value, low, high, edges, self.energies
        )
        return replace(self, row=row, channel=channel, value=value)

    def group(self, factor: int) -> Response:
        """Join each `factor` neighbouring channels, e.g. 2048 channels to 1024.

        Parameters
        ----------
        factor : int
            A divisor of the number of channels.

        Returns
        -------
        Response
        """
        if factor < 1 or self.channels % factor:
            raise InputError(
                f"{self.channels} channels cannot be joined {factor} at a time",
                remedy="choose a divisor",
            )
        edges = np.append(self.channel_lo[::factor], self.channel_hi[-1])
        row, channel, value = _rebin_rows(
            self.row,
            self.channel,
            self.value,
            self.channel_lo,
            self.channel_hi,
            edges,
            self.energies,
        )
        return replace(
            self, row=row, channel=channel, value=value, channel_lo=edges[:-1], channel_hi=edges[1:]
        )

    def select(self, first: int, stop: int) -> Response:
        """Only the channels with index `first` to `stop` − 1.

        Parameters
        ----------
        first, stop : int
            Indices from 0.

        Returns
        -------
        Response
            All energies, and these channels.
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


def _rebin_rows(row, channel, value, low, high, edges, energies):
    dense = np.zeros((energies, edges.size - 1))
    _rebin_rows_kernel(row, channel, value, low, high, edges, energies, dense)
    return _compressed(dense)


def _compressed(dense: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    where = dense != 0
    row = np.concatenate([[0], np.cumsum(where.sum(axis=1))])
    return row, np.nonzero(where)[1], dense[where]


def rebin(values: Any, low: Any, high: Any, new_low: Any, new_high: Any) -> np.ndarray:
    """Share the contents of bins among other bins in proportion to the overlap.

    Parameters
    ----------
    values : array_like of float64, (n,)
        Contents (photons, counts), not densities.
    low, high : array_like of float64, (n,)
        Edges of the bins, rising.
    new_low, new_high : array_like of float64, (m,)
        Edges of the new bins, rising.

    Returns
    -------
    ndarray of float64, (m,)
        What falls outside all new bins is lost; all else is conserved.
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


# --- Files ----------------------------------------------------------------------------------------


def read_response(
    rmf: str | os.PathLike[str],
    arf: str | os.PathLike[str] | None = None,
    *,
    first_channel: int | None = None,
    area_scale: float = 1.0,
    area_at: Literal["energies", "rows"] = "energies",
) -> Response:
    """Read an OGIP redistribution matrix and, if given, its effective area.

    Parameters
    ----------
    rmf : path
        File with the extensions MATRIX (or SPECRESP MATRIX) and EBOUNDS.
    arf : path, optional
        File with the extension SPECRESP. Energy columns may be named ENERG_LO/ENERG_HI or E_LOW/E_HIGH. Without it the
        area is 1 cm² everywhere.
    first_channel : int, optional
        Number of the first channel in the matrix' F_CHAN. By default the keyword TLMIN of the F_CHAN column (a bare
        TLMIN, which is not standard, is not one), else the smallest of the channel numbers in EBOUNDS and of F_CHAN.
        XSPEC assumes 1 where the keyword is absent, and drops what then lies before the first channel: give
        ``first_channel=1`` for that.
    area_scale : float
        Factor on the area, e.g. detectors used / detectors in the ARF.
    area_at : {"energies", "rows"}
        Where the areas belong: at the energies in the ARF, or, as XSPEC has it, at those of the matrix' row with the
        same number. They differ for CLASS, whose ARF begins with a bin of no width: the aluminium and silicon edges in
        it are where they should be by its own energies, and 13.5 eV too high by rows.

    Returns
    -------
    Response

    Raises
    ------
    ProductFormatError
        For a file that cannot be read or is no RMF or ARF.
    """
    with _fits(rmf) as hdus:
        matrix = _extension(
            hdus, rmf, ("MATRIX", "SPECRESP MATRIX", "SPECRESP"), ("F_CHAN", "MATRIX")
        )
        bounds = _extension(hdus, rmf, ("EBOUNDS",), ("CHANNEL", "E_MIN", "E_MAX"))
        low, high = _energy_columns(matrix, rmf)
        channel_lo = np.asarray(bounds.data["E_MIN"], np.float64)
        channel_hi = np.asarray(bounds.data["E_MAX"], np.float64)
        numbers = np.asarray(bounds.data["CHANNEL"], np.int64)
        names = [name.upper() for name in matrix.columns.names]
        groups = np.asarray(matrix.data["N_GRP"], np.int64)
        f_chan, n_chan, entries = (matrix.data[name] for name in ("F_CHAN", "N_CHAN", "MATRIX"))
        if first_channel is None:
            first_channel = matrix.header.get(f"TLMIN{names.index('F_CHAN') + 1}")
        if first_channel is None:
            used = [int(np.min(np.atleast_1d(f))) for f, g in zip(f_chan, groups, strict=True) if g]
            first_channel = min([int(numbers.min()), *used])
        row, channel, value = _rows(
            groups, f_chan, n_chan, entries, int(first_channel), channel_lo.size, Path(rmf)
        )
    if np.any(np.diff(low) < 0):
        raise ProductFormatError(
            "the energies of the matrix do not rise", where=rmf, remedy="sort its rows"
        )
    response = Response(
        energy_lo=low,
        energy_hi=high,
        area=np.full(low.size, float(area_scale)),
        row=row,
        channel=channel,
        value=value,
        channel_lo=channel_lo,
        channel_hi=channel_hi,
        first_channel=int(first_channel),
    )
    if arf is None:
        return response
    if area_at not in ("energies", "rows"):
        raise InputError(f"no area_at {area_at!r}", remedy="choose 'energies' or 'rows'")
    middle = (low + high) / 2
    arf_lo, arf_hi, curve = _arf_columns(arf)
    curve = curve * area_scale
    if area_at == "rows":
        if curve.size != middle.size:
            raise ProductFormatError(
                f"{curve.size} areas for a matrix of {middle.size} rows",
                where=arf,
                remedy="use area_at='energies'",
            )
        energy = middle
    else:
        keep = arf_hi > arf_lo
        energy, curve = ((arf_lo + arf_hi) / 2)[keep], curve[keep]
    return replace(
        response, area=np.interp(middle, energy, curve), area_energy=energy, area_curve=curve
    )


def read_arf(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read an OGIP effective area.

    Parameters
    ----------
    path : path
        File with the extension SPECRESP.

    Returns
    -------
    energy, area : ndarray of float64, (energy,)
        Middles of the bins (keV), rising, and areas (cm²). Bins of no width, as CLASS's files begin with, are left out.
    """
    low, high, area = _arf_columns(path)
    keep = high > low
    return ((low + high) / 2)[keep], area[keep]


def _arf_columns(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with _fits(path) as hdus:
        table = _extension(hdus, path, ("SPECRESP",), ("SPECRESP",))
        low, high = _energy_columns(table, path)
        area = np.asarray(table.data["SPECRESP"], np.float64)
    if not np.all(np.isfinite(area)) or area.ndim != 1:
        raise ProductFormatError(
            "areas are missing", where=path, remedy="the file is damaged: get it again"
        )
    return low, high, area


class _fits:
    """Open a FITS file although its cards may break the standard."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path

    def __enter__(self) -> Any:
        from astropy.io import fits
        from astropy.utils.exceptions import AstropyWarning

        self._quiet = warnings.catch_warnings()
        self._quiet.__enter__()
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            self._hdus = fits.open(self.path, memmap=False, ignore_missing_end=True)
            len(self._hdus)  # reads all headers now, with their faults
        except (OSError, ValueError, TypeError) as error:
            self._quiet.__exit__(None, None, None)
            raise ProductFormatError(
                f"cannot be read as FITS ({error})", where=self.path, remedy="give an OGIP file"
            ) from error
        return self._hdus

    def __exit__(self, *details: Any) -> None:
        self._hdus.close()
        self._quiet.__exit__(*details)


def _extension(hdus: Any, path: Any, names: tuple[str, ...], columns: tuple[str, ...]) -> Any:
    def fits_in(hdu: Any) -> bool:
        have = {name.upper() for name in getattr(getattr(hdu, "columns", None), "names", ())}
        return have >= set(columns)

    for name in names:
        for hdu in hdus[1:]:
            if hdu.name.upper().strip() == name and fits_in(hdu):
                return hdu
    for hdu in hdus[1:]:
        if fits_in(hdu):
            return hdu
    raise ProductFormatError(
        f"has no table {names[0]} with the columns {', '.join(columns)}",
        where=path,
        remedy="give an OGIP response file",
    )


def _energy_columns(table: Any, path: Any) -> tuple[np.ndarray, np.ndarray]:
    names = {name.upper(): name for name in table.columns.names}
    out = []
    for spellings in (_LOW, _HIGH):
        found = next((names[name] for name in spellings if name in names), None)
        if found is None:
            raise ProductFormatError(
                f"has no column {' or '.join(spellings[:2])}",
                where=path,
                remedy="OGIP tables give the energy bins in them",
            )
        out.append(np.asarray(table.data[found], np.float64))
    return out[0], out[1]


def _rows(
    groups: np.ndarray,
    f_chan: Any,
    n_chan: Any,
    entries: Any,
    first: int,
    channels: int,
    path: Path,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row = np.zeros(groups.size + 1, np.int64)
    all_channels, all_values = [], []
    for e, count in enumerate(groups):
        begins = np.atleast_1d(f_chan[e])[:count].astype(np.int64)
        lengths = np.atleast_1d(n_chan[e])[:count].astype(np.int64)
        values = np.asarray(entries[e], np.float64).ravel()
        total = int(lengths.sum())
        if begins.size < count or lengths.size < count or values.size < total:
            raise ProductFormatError(
                f"row {e + 1} of the matrix announces {total} entries in {count} groups and holds fewer",
                where=path,
                remedy="the file is damaged: get it again",
            )
        where = [np.arange(b - first, b - first + n) for b, n in zip(begins, lengths, strict=True)]
        channel = np.concatenate([np.empty(0, np.int64), *where])
        inside = (channel >= 0) & (channel < channels)
        all_channels.append(channel[inside])
        all_values.append(values[:total][inside])
        row[e + 1] = row[e] + inside.sum()
    return row, np.concatenate(all_channels), np.concatenate(all_values)


def write_response(
    response: Response,
    rmf: str | os.PathLike[str],
    arf: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a response as OGIP files that XSPEC reads the same way.

    Parameters
    ----------
    response : Response
        Channels are numbered from 1, and TLMIN says so.
    rmf : path
        Redistribution matrix: MATRIX and EBOUNDS.
    arf : path, optional
        Effective area. Without it the areas are multiplied into the matrix.
    overwrite : bool
        Replace files that are there.

    Raises
    ------
    InputError
        Where a file is there already.
    """
    from astropy.io import fits

    for path in (rmf, arf):
        if path is not None and Path(path).exists() and not overwrite:
            raise InputError(
                "is there already", where=path, remedy="give overwrite=True to replace it"
            )
    area = np.ones(response.energies) if arf is not None else response.area
    groups, starts, lengths, rows = [], [], [], []
    for e in range(response.energies):
        part = slice(response.row[e], response.row[e + 1])
        order = np.argsort(response.channel[part], kind="stable")
        channel, value = response.channel[part][order], response.value[part][order] * area[e]
        begin = np.flatnonzero(np.diff(channel, prepend=-2) != 1)
        groups.append(begin.size)
        starts.append(channel[begin] + 1)
        lengths.append(np.diff(np.append(begin, channel.size)))
        rows.append(value.astype("f4"))

    def ragged(parts: list[np.ndarray], kind: str) -> np.ndarray:
        out = np.empty(len(parts), dtype=object)
        out[:] = [part.astype(kind) for part in parts]
        return out

    most, longest = max(groups), max(row.size for row in rows)
    keywords = {
        "TELESCOP": "Chandrayaan-2", "INSTRUME": "CLASS", "HDUCLASS": "OGIP", "HDUCLAS1": "RESPONSE",
        "CHANTYPE": "PHA", "DETCHANS": response.channels,
    }  # fmt: skip
    matrix = fits.BinTableHDU.from_columns(
        [
            fits.Column("ENERG_LO", "D", unit="keV", array=response.energy_lo),
            fits.Column("ENERG_HI", "D", unit="keV", array=response.energy_hi),
            fits.Column("N_GRP", "I", array=groups),
            fits.Column("F_CHAN", f"PI({most})", array=ragged(starts, "i2")),
            fits.Column("N_CHAN", f"PI({most})", array=ragged(lengths, "i2")),
            fits.Column("MATRIX", f"PE({longest})", array=ragged(rows, "f4")),
        ],
        name="MATRIX",
    )
    bounds = fits.BinTableHDU.from_columns(
        [
            fits.Column("CHANNEL", "I", array=np.arange(1, response.channels + 1)),
            fits.Column("E_MIN", "D", unit="keV", array=response.channel_lo),
            fits.Column("E_MAX", "D", unit="keV", array=response.channel_hi),
        ],
        name="EBOUNDS",
    )
    matrix.header.update(
        keywords | {"HDUCLAS2": "RSP_MATRIX", "TLMIN4": 1, "TLMAX4": response.channels}
    )
    bounds.header.update(
        keywords | {"HDUCLAS2": "EBOUNDS", "TLMIN1": 1, "TLMAX1": response.channels}
    )
    fits.HDUList([fits.PrimaryHDU(), bounds, matrix]).writeto(rmf, overwrite=overwrite)
    if arf is not None:
        table = fits.BinTableHDU.from_columns(
            [
                fits.Column("ENERG_LO", "D", unit="keV", array=response.energy_lo),
                fits.Column("ENERG_HI", "D", unit="keV", array=response.energy_hi),
                fits.Column("SPECRESP", "D", unit="cm**2", array=response.area),
            ],
            name="SPECRESP",
        )
        table.header.update(keywords | {"HDUCLAS2": "SPECRESP"})
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(arf, overwrite=overwrite)
