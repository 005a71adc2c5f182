"""Reading XSM products, solar models and good time intervals."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import InputError, ProductFormatError, require_choice
from lunarray.readers import reads
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.xrf.fits import damaged, find_table, open_fits
from lunarray.xrf.frames import described

__all__ = [
    "goes_flux",
    "read_gti",
    "read_light_curve",
    "read_solar_model",
    "read_xsm_spectrum",
]

_SOLAR_TEXT = "A solar model is text of three columns: energy (keV), half width, photon flux"
#: Joules in a keV.
_KEV = 1.602176634e-16


def _seconds_to_time(seconds: Any, header: Any, path: Any) -> np.ndarray:
    """UTC of seconds since MJDREF."""
    mjd = header.get("MJDREF", header.get("MJDREFI"))
    if mjd is None:
        raise damaged("it does not say what its times count from (MJDREF)", path)
    days = float(mjd) + (float(header.get("MJDREFF", 0.0)) if "MJDREFI" in header else 0.0)
    epoch = np.datetime64("1858-11-17T00:00:00", "ns") + np.timedelta64(round(days * 86400e9), "ns")
    if str(header.get("TIMEUNIT", "s")).strip().lower() not in ("s", "sec", "second", "seconds"):
        raise ProductFormatError(
            f"times in {header['TIMEUNIT']}", where=path, remedy="Times must be in seconds"
        )
    seconds = np.asarray(seconds, "f8")
    whole = np.floor(seconds)
    time = epoch + whole.astype("m8[s]") + np.round((seconds - whole) * 1e9).astype("m8[ns]")
    return time.astype("M8[ns]")


def _column(hdu: Any, name: str, default: np.ndarray) -> np.ndarray:
    """A column of a table, or what stands for it where there is none."""
    there = name in {c.upper() for c in hdu.columns.names}
    return np.asarray(hdu.data[name], "f8") if there else default


@reads
def read_xsm_spectrum(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a PHA spectrum of the Chandrayaan-2 Solar X-ray Monitor.

    Parameters
    ----------
    path : path
        A PHA file as xsmgenspec writes it, or such a member of a zip (``day.zip/xsm/data/…/name.pha``): type I, one
        spectrum, or type II, one for each interval of time. Its ARF and
        RMF are read by :func:`lunarray.xrf.read_response`; :func:`lunarray.xrf.xsm_response.xsm_response` needs no RMF.

    Returns
    -------
    xarray.Dataset
        ``counts``, ``stat_error`` (counts) and ``sys_error`` (fraction), each (channel,), float64, and scalars
        ``exposure`` (s), ``start``, ``end`` (UTC); attributes ``response_file``, ``ancillary_file`` where it names
        them. Of type II all have ``time`` first, whose coordinate is the middle of each interval (UTC). Channels that
        the file marks as bad (QUALITY) are NaN.

    Raises
    ------
    ProductFormatError
        If it is no spectrum in counts.
    """
    with open_fits(path) as hdus:
        hdu = find_table(hdus, path, ("SPECTRUM",), ("COUNTS",))
        header, data = hdu.header, hdu.data
        instrument = str(header.get("INSTRUME", "")).strip()
        if "XSM" not in instrument.upper():
            raise ProductFormatError(
                f"a spectrum of {instrument or 'an unknown instrument'}, not of XSM",
                where=path,
                remedy="CLASS spectra are read by lunarray.open_class",
            )
        counts = np.asarray(data["COUNTS"], "f8")
        columns = _spectrum_columns(hdu, counts, path)
        files = {
            key: os.path.basename(str(header[card]).strip())
            for key, card in (("response_file", "RESPFILE"), ("ancillary_file", "ANCRFILE"))
            if str(header.get(card, "NONE")).strip().upper() not in ("NONE", "")
        }
    exposure, start, end = (columns.pop(key) for key in ("exposure", "start", "end"))
    channel = columns.pop("channel")
    along: tuple[str, ...] = ("time",) if counts.ndim == 2 else ()
    spectrum = (*along, "channel")
    ds = xr.Dataset(
        {
            "counts": described(spectrum, columns["counts"], "1", "counts"),
            "stat_error": described(
                spectrum, columns["stat_error"], "1", "statistical error of the counts"
            ),
            "sys_error": described(
                spectrum, columns["sys_error"], "1", "systematic error, a fraction of the counts"
            ),
            "exposure": described(along, exposure, "s", "exposure"),
        },
        {
            "channel": ("channel", channel, {"long_name": "pulse invariant channel"}),
            "start": (along, start, {"long_name": "start (UTC)"}),
            "end": (along, end, {"long_name": "end (UTC)"}),
        },
        {"instrument": instrument, **files},
    )
    if along:
        middle = start + (end - start) // 2
        ds = ds.assign_coords(
            time=("time", middle, {"standard_name": "time", "long_name": "time (UTC)"})
        )
    return stamp(ds, "read_xsm_spectrum", source=os.path.basename(os.fspath(path)))


def _spectrum_columns(hdu: Any, counts: np.ndarray, path: Any) -> dict[str, Any]:
    """What a PHA says of its counts, be it in columns or, for one spectrum or all of them, in the header."""
    header = hdu.header
    shape = counts.shape

    def spectrum(name: str, default: Any) -> np.ndarray:
        return np.broadcast_to(_column(hdu, name, np.asarray(default, "f8")), shape).copy()

    def interval(name: str, default: float) -> Any:
        """One number of a type I file, or one for each row of type II."""
        if counts.ndim == 1:
            return float(header.get(name, default))
        return np.broadcast_to(
            _column(hdu, name, np.asarray(float(header.get(name, default)))), shape[:1]
        ).copy()

    stat = spectrum("STAT_ERR", np.sqrt(np.maximum(counts, 0.0)))
    syst = spectrum("SYS_ERR", float(header.get("SYS_ERR") or 0.0))
    bad = spectrum("QUALITY", float(header.get("QUALITY") or 0.0)) != 0
    exposure = interval("EXPOSURE", np.nan)
    if not np.all(np.asarray(exposure) > 0):
        raise damaged(f"EXPOSURE is {exposure}", path)
    begin = interval("TSTART", np.nan)
    finish = begin + interval("TELAPSE", np.nan)
    stop = interval("TSTOP", np.nan)
    # A TSTOP of the header is that of the whole file, not of its rows.
    if counts.ndim == 1 or "TSTOP" in {c.upper() for c in hdu.columns.names}:
        finish = np.where(np.isfinite(stop), stop, finish)
    finish = np.where(np.isfinite(finish), finish, begin + exposure)
    if not np.all(np.isfinite(begin)):
        raise damaged("it does not say when it was taken (TSTART)", path)
    start, end = _seconds_to_time([begin, finish], header, path)
    first = float(header.get("TLMIN1", 0))
    own = _column(hdu, "CHANNEL", first + np.arange(shape[-1]))
    channel = np.asarray(own if own.ndim == 1 else own[0], "i4")
    return {
        "counts": np.where(bad, np.nan, counts), "stat_error": stat, "sys_error": syst, "exposure": exposure,
        "start": start, "end": end, "channel": channel,
    }  # fmt: skip


@reads
def read_light_curve(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read an XSM level-2 light curve.

    Returns
    -------
    xarray.Dataset
        ``rate``, ``rate_error`` (counts/s) and ``fractional_exposure``, each (time,), float32, with ``time`` in UTC.

    Raises
    ------
    ProductFormatError
        If it is no light curve.
    """
    with open_fits(path) as hdus:
        hdu = find_table(hdus, path, ("RATE",), ("TIME", "RATE"))
        time = _seconds_to_time(hdu.data["TIME"], hdu.header, path)
        rate = np.asarray(hdu.data["RATE"], "f4")
        error = _column(hdu, "ERROR", np.full(time.size, np.nan)).astype("f4")
        fraction = _column(hdu, "FRACEXP", np.ones(time.size)).astype("f4")
        step = float(hdu.header.get("TIMEDEL", np.nan))
    ds = xr.Dataset(
        {
            "rate": described("time", rate, "s-1", "count rate"),
            "rate_error": described("time", error, "s-1", "error of the count rate"),
            "fractional_exposure": described("time", fraction, "1", "exposed fraction of the bin"),
        },
        {"time": ("time", time, {"standard_name": "time", "long_name": "time (UTC)"})},
        {"time_bin": step},
    )
    return stamp(ds, "read_light_curve", source=os.path.basename(os.fspath(path)))


@reads
def read_gti(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read good time intervals.

    Parameters
    ----------
    path : path
        A FITS file with a GTI table of START and STOP, such as the ``.gti`` of XSM level 2.

    Returns
    -------
    xarray.Dataset
        ``start`` and ``end`` (interval,), UTC, in order and merged where they touch.

    Raises
    ------
    ProductFormatError
        If it has no such table, or an interval ends before it starts.
    """
    with open_fits(path) as hdus:
        hdu = find_table(hdus, path, ("GTI", "STDGTI"), ("START", "STOP"))
        start = _seconds_to_time(hdu.data["START"], hdu.header, path)
        end = _seconds_to_time(hdu.data["STOP"], hdu.header, path)
    if np.any(end < start):
        raise damaged("an interval ends before it starts", path)
    start, end = merge_intervals(start, end)
    ds = xr.Dataset({"start": ("interval", start), "end": ("interval", end)})
    return stamp(ds, "read_gti", source=os.path.basename(os.fspath(path)))


def merge_intervals(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort intervals and join those that touch or overlap."""
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    if not start.size:
        return start, end
    reach = np.maximum.accumulate(end)
    new = np.concatenate([[True], start[1:] > reach[:-1]])
    last = np.concatenate([np.flatnonzero(new)[1:] - 1, [start.size - 1]])
    return start[new], reach[last]


# ---------- solar
# models
@typed
@reads
def read_solar_model(
    path: str | os.PathLike[str], *, per: Literal["keV", "bin"] = "keV"
) -> xr.Dataset:
    """Read a solar spectrum from three-column text: energy, half width (unused), photon flux.

    Parameters
    ----------
    path : path
        Energies (keV) are the lower edges of equal bins, as X2ABUND writes and reads them.
    per : {"keV", "bin"}
        What the flux is per. X2ABUND's own files hold photons/s/cm² per keV; files saved from PyXspec's
        ``Model.values`` hold photons/s/cm² in each bin, a hundredth of that where bins are 10 eV. The file does not
        say: the attribute ``goes_flux`` of the result (W/m²) lets it be told, for it should be that of the flare's
        class.

    Returns
    -------
    xarray.Dataset
        ``photon_flux`` (energy,), float64, photons/s/cm²/keV, on ``energy`` (keV, centre of the bin) with
        ``energy_lo`` and ``energy_hi``.

    Raises
    ------
    ProductFormatError
        If it is not such a text, or energies do not increase in equal steps, or a flux is negative or missing.
    InputError
        If the file is missing, or `per` is something else.

    Examples
    --------
    >>> import lunarray as la
    >>> solar = la.xrf.read_solar_model("model.txt")  # doctest: +SKIP
    """
    require_choice("per", per, ("keV", "bin"))
    try:
        table = np.loadtxt(path, dtype="f8", ndmin=2)
    except FileNotFoundError as error:
        raise InputError("no such file", where=path, remedy="Check the path") from error
    except (OSError, ValueError) as error:
        raise ProductFormatError(
            f"not a table of numbers ({error})", where=path, remedy=_SOLAR_TEXT
        ) from error
    if table.shape[1] != 3 or table.shape[0] < 2:
        raise ProductFormatError(
            f"{table.shape[0]} rows of {table.shape[1]} columns", where=path, remedy=_SOLAR_TEXT
        )
    low, _, flux = table.T
    steps = np.diff(low)
    width = float(np.median(steps))
    # Some writers keep single precision: 0.1000000015.
    if not width > 0 or np.any(np.abs(steps - width) > 1e-3 * width + 4e-7 * low[1:]):
        raise ProductFormatError(
            "energies do not increase in equal steps", where=path, remedy="Write equal bins"
        )
    if not np.all(np.isfinite(flux)) or np.any(flux < 0):
        raise ProductFormatError(
            "a flux is negative or missing", where=path, remedy="Write the model again"
        )
    # Edges of exact spacing, so that models of two precisions have one and the same axis.
    width = round(width, 6)
    edges = round(low[0], 6) + width * np.arange(low.size + 1)
    if per == "bin":
        flux = flux / width
    ds = solar_dataset(edges, flux)
    return stamp(ds, f"read_solar_model, per {per}", source=os.path.basename(os.fspath(path)))


def solar_dataset(edges: np.ndarray, flux: np.ndarray) -> xr.Dataset:
    """Solar spectrum as a Dataset.

    `edges` (energy + 1,): keV; `flux` (energy,): photons/s/cm²/keV.
    """
    lo, hi = edges[:-1], edges[1:]
    return xr.Dataset(
        {
            "photon_flux": described(
                "energy", np.asarray(flux, "f8"), "s-1 cm-2 keV-1", "solar photon flux"
            )
        },
        {
            "energy": described("energy", (lo + hi) / 2, "keV", "photon energy"),
            "energy_lo": described("energy", lo, "keV", "lower edge of the energy bin"),
            "energy_hi": described("energy", hi, "keV", "upper edge of the energy bin"),
        },
        {"goes_flux": goes_flux(edges, flux)},
    )


def goes_flux(edges: np.ndarray, flux: np.ndarray) -> float:
    """Energy flux in the GOES band, 1-8 Å (W/m²), by which flares are classed.

    Parameters
    ----------
    edges : ndarray, (energy + 1,)
        keV.
    flux : ndarray, (energy,)
        photons/s/cm²/keV.
    """
    lo, hi = np.clip(edges[:-1], 1.5498, 12.3984), np.clip(edges[1:], 1.5498, 12.3984)
    return float(np.sum(np.asarray(flux) * (hi**2 - lo**2) / 2) * _KEV * 1e4)
