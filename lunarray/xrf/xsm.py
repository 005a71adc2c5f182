"""Reading XSM products, solar models and good time intervals."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lunarray.errors import InputError, ProductFormatError
from lunarray.xrf.fits import find_table, open_fits

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "goes_flux",
    "read_gti",
    "read_light_curve",
    "read_solar_model",
    "read_xsm_spectrum",
]

#: Joules in a keV.
_KEV = 1.602176634e-16


def _seconds_to_time(seconds: Any, header: Any, path: Any) -> np.ndarray:
    """UTC of seconds since MJDREF."""
    mjd = header.get("MJDREF", header.get("MJDREFI"))
    if mjd is None:
        raise ProductFormatError(
            "it does not say what its times count from (MJDREF)",
            where=path,
            remedy="Fetch it again",
        )
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


def read_xsm_spectrum(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a PHA spectrum of the Chandrayaan-2 Solar X-ray Monitor.

    Parameters
    ----------
    path : path
        A type I PHA file, as xsmgenspec writes it. Its ARF and RMF are read by :class:`lunarray.xrf.response.Response`.

    Returns
    -------
    xarray.Dataset
        ``counts``, ``stat_error`` (counts) and ``sys_error`` (fraction), each (channel,), float64, and scalars
        ``exposure`` (s), ``start``, ``end`` (UTC); attributes ``response_file``, ``ancillary_file`` where it names
        them.

    Raises
    ------
    ProductFormatError
        If it is no spectrum in counts.
    """
    import xarray as xr

    from lunarray.store.provenance import stamp

    with open_fits(path) as hdus:
        hdu = find_table(hdus, path, ("SPECTRUM",), ("CHANNEL", "COUNTS"))
        header, data, names = hdu.header, hdu.data, {c.upper() for c in hdu.columns.names}
        instrument = str(header.get("INSTRUME", "")).strip()
        if "XSM" not in instrument.upper():
            raise ProductFormatError(
                f"a spectrum of {instrument or 'an unknown instrument'}, not of XSM",
                where=path,
                remedy="CLASS spectra are read by lunarray.open_class",
            )
        if np.ndim(data["COUNTS"]) != 1:
            raise ProductFormatError(
                "a type II PHA file (many spectra)",
                where=path,
                remedy="Give type I, one spectrum a file",
            )
        counts = np.asarray(data["COUNTS"], "f8")
        stat = np.asarray(data["STAT_ERR"], "f8") if "STAT_ERR" in names else np.sqrt(counts)
        syst = (
            np.asarray(data["SYS_ERR"], "f8")
            if "SYS_ERR" in names
            else np.full(counts.size, float(header.get("SYS_ERR", 0.0) or 0.0))
        )
        channel = np.asarray(data["CHANNEL"], "i4")
        exposure = float(header["EXPOSURE"])
        start, end = _seconds_to_time([header["TSTART"], header["TSTOP"]], header, path)
        files = {
            key: os.path.basename(str(header[card]).strip())
            for key, card in (("response_file", "RESPFILE"), ("ancillary_file", "ANCRFILE"))
            if str(header.get(card, "NONE")).strip().upper() not in ("NONE", "")
        }
    if not exposure > 0:
        raise ProductFormatError(f"EXPOSURE is {exposure}", where=path, remedy="Fetch it again")
    ds = xr.Dataset(
        {
            "counts": ("channel", counts, {"units": "1", "long_name": "counts"}),
            "stat_error": (
                "channel",
                stat,
                {"units": "1", "long_name": "statistical error of the counts"},
            ),
            "sys_error": (
                "channel",
                syst,
                {"units": "1", "long_name": "systematic error, a fraction of the counts"},
            ),
            "exposure": ((), exposure, {"units": "s", "long_name": "exposure"}),
        },
        {
            "channel": ("channel", channel, {"long_name": "pulse invariant channel"}),
            "start": ((), start, {"long_name": "start (UTC)"}),
            "end": ((), end, {"long_name": "end (UTC)"}),
        },
        {"instrument": instrument, **files},
    )
    return stamp(ds, "read_xsm_spectrum", source=os.path.basename(os.fspath(path)))


def read_light_curve(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read an XSM level-2 light curve.

    Parameters
    ----------
    path : path

    Returns
    -------
    xarray.Dataset
        ``rate``, ``rate_error`` (counts/s) and ``fractional_exposure``, each (time,), float32, with ``time`` in UTC.

    Raises
    ------
    ProductFormatError
        If it is no light curve.
    """
    import xarray as xr

    from lunarray.store.provenance import stamp

    with open_fits(path) as hdus:
        hdu = find_table(hdus, path, ("RATE",), ("TIME", "RATE"))
        names = {c.upper() for c in hdu.columns.names}
        time = _seconds_to_time(hdu.data["TIME"], hdu.header, path)
        size = time.size
        rate = np.asarray(hdu.data["RATE"], "f4")
        error = (
            np.asarray(hdu.data["ERROR"], "f4") if "ERROR" in names else np.full(size, np.nan, "f4")
        )
        fraction = (
            np.asarray(hdu.data["FRACEXP"], "f4") if "FRACEXP" in names else np.ones(size, "f4")
        )
        step = float(hdu.header.get("TIMEDEL", np.nan))
    ds = xr.Dataset(
        {
            "rate": ("time", rate, {"units": "s-1", "long_name": "count rate"}),
            "rate_error": ("time", error, {"units": "s-1", "long_name": "error of the count rate"}),
            "fractional_exposure": (
                "time",
                fraction,
                {"units": "1", "long_name": "exposed fraction of the bin"},
            ),
        },
        {"time": ("time", time, {"standard_name": "time", "long_name": "time (UTC)"})},
        {"time_bin": step},
    )
    return stamp(ds, "read_light_curve", source=os.path.basename(os.fspath(path)))


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
    import xarray as xr

    from lunarray.store.provenance import stamp

    with open_fits(path) as hdus:
        hdu = find_table(hdus, path, ("GTI", "STDGTI"), ("START", "STOP"))
        start = _seconds_to_time(hdu.data["START"], hdu.header, path)
        end = _seconds_to_time(hdu.data["STOP"], hdu.header, path)
    if np.any(end < start):
        raise ProductFormatError(
            "an interval ends before it starts", where=path, remedy="Fetch it again"
        )
    start, end = merge_intervals(start, end)
    ds = xr.Dataset({"start": ("interval", start), "end": ("interval", end)})
    return stamp(ds, "read_gti", source=os.path.basename(os.fspath(path)))


def merge_intervals(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort intervals and join those that touch or overlap.

    Parameters
    ----------
    start, end : ndarray

    Returns
    -------
    start, end : ndarray
    """
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
    """

    from lunarray.store.provenance import stamp

    if per not in ("keV", "bin"):
        raise InputError(f"per={per!r}", where=path, remedy="Give 'keV' or 'bin'")
    try:
        table = np.loadtxt(path, dtype="f8", ndmin=2)
    except FileNotFoundError as error:
        raise InputError("no such file", where=path, remedy="Check the path") from error
    except (OSError, ValueError) as error:
        raise ProductFormatError(
            f"not a table of numbers ({error})",
            where=path,
            remedy="A solar model is text of three columns: energy (keV), half width, photon flux",
        ) from error
    if table.shape[1] != 3 or table.shape[0] < 2:
        raise ProductFormatError(
            f"{table.shape[0]} rows of {table.shape[1]} columns",
            where=path,
            remedy="A solar model is text of three columns: energy (keV), half width, photon flux",
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

    Parameters
    ----------
    edges : ndarray, (energy + 1,)
        keV.
    flux : ndarray, (energy,)
        photons/s/cm²/keV.

    Returns
    -------
    xarray.Dataset
    """
    import xarray as xr

    lo, hi = edges[:-1], edges[1:]
    kev = {"units": "keV"}
    return xr.Dataset(
        {
            "photon_flux": (
                "energy",
                np.asarray(flux, "f8"),
                {"units": "s-1 cm-2 keV-1", "long_name": "solar photon flux"},
            )
        },
        {
            "energy": ("energy", (lo + hi) / 2, {**kev, "long_name": "photon energy"}),
            "energy_lo": ("energy", lo, {**kev, "long_name": "lower edge of the energy bin"}),
            "energy_hi": ("energy", hi, {**kev, "long_name": "upper edge of the energy bin"}),
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

    Returns
    -------
    float
    """
    lo, hi = np.clip(edges[:-1], 1.5498, 12.3984), np.clip(edges[1:], 1.5498, 12.3984)
    return float(np.sum(np.asarray(flux) * (hi**2 - lo**2) / 2) * _KEV * 1e4)
