"""OGIP response files, RMF and ARF, read and written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lunarray.errors import InputError, ProductFormatError, require_choice
from lunarray.readers import reads
from lunarray.xrf.fits import damaged, find_table, open_fits
from lunarray.xrf.response import Response

_LOW = ("ENERG_LO", "E_LOW", "ENERGY_LO", "ENERG_LOW")
_HIGH = ("ENERG_HI", "E_HIGH", "ENERGY_HI", "ENERG_HIGH")
_REMEDY = "Give an OGIP response file"


@reads
def read_response(
    rmf: str | os.PathLike[str],
    arf: str | os.PathLike[str] | None = None,
    *,
    first_channel: int | None = None,
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

    Examples
    --------
    >>> import lunarray as la
    >>> response = la.xrf.read_response("class_rmf_v1.rmf", "class_arf_v1.arf")  # doctest: +SKIP
    """
    with open_fits(rmf) as hdus:
        matrix = find_table(
            hdus, rmf, ("MATRIX", "SPECRESP MATRIX", "SPECRESP"), ("F_CHAN", "MATRIX"), _REMEDY
        )
        bounds = find_table(hdus, rmf, ("EBOUNDS",), ("CHANNEL", "E_MIN", "E_MAX"), _REMEDY)
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
            "the energies of the matrix do not rise", where=rmf, remedy="Sort its rows"
        )
    response = Response(
        energy_lo=low,
        energy_hi=high,
        area=np.ones(low.size),
        row=row,
        channel=channel,
        value=value,
        channel_lo=channel_lo,
        channel_hi=channel_hi,
        first_channel=int(first_channel),
    )
    if arf is None:
        return response
    require_choice("area_at", area_at, ("energies", "rows"))
    middle = (low + high) / 2
    arf_lo, arf_hi, curve = _arf_columns(arf)
    if area_at == "rows":
        if curve.size != middle.size:
            raise ProductFormatError(
                f"{curve.size} areas for a matrix of {middle.size} rows",
                where=arf,
                remedy="Use area_at='energies'",
            )
        energy = middle
    else:
        keep = arf_hi > arf_lo
        energy, curve = ((arf_lo + arf_hi) / 2)[keep], curve[keep]
    return replace(
        response, area=np.interp(middle, energy, curve), area_energy=energy, area_curve=curve
    )


@reads
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
    with open_fits(path) as hdus:
        table = find_table(hdus, path, ("SPECRESP",), ("SPECRESP",), _REMEDY)
        low, high = _energy_columns(table, path)
        area = np.asarray(table.data["SPECRESP"], np.float64)
    if not np.all(np.isfinite(area)) or area.ndim != 1:
        raise damaged("areas are missing", path)
    return low, high, area


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
            raise damaged(
                f"row {e + 1} of the matrix announces {total} entries in {count} groups and holds fewer",
                path,
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
                "is there already", where=path, remedy="Give overwrite=True to replace it"
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
