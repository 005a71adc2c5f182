"""GOES flare lists and X-ray fluxes, by which frames are chosen."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, ProductFormatError
from lunarray.readers import find_files, open_guarded, reads
from lunarray.store.provenance import stamp
from lunarray.xrf.fits import damaged

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FLARE_CLASSES", "flare_flux", "open_goes_xrs", "read_goes_flares"]

#: Flux (W/m², 1-8 Å) at which each class of flares begins.
FLARE_CLASSES = {"A": 1e-8, "B": 1e-7, "C": 1e-6, "M": 1e-5, "X": 1e-4}

#: Columns of the lists of the Heliophysics Event Knowledgebase, as SunPy gives them: start, peak, end (ISO), class.
_HEK = ("event_starttime", "event_peaktime", "event_endtime", "fl_goescls")
_COLUMNS = ("date", "start_time", "max_time", "end_time", "goes_class")


def flare_flux(name: str) -> float:
    """Peak flux of a flare class such as ``C2.6`` (W/m²); NaN where there is no such class."""
    match = re.fullmatch(r"\s*([ABCMX])\s*(\d+\.?\d*)?\s*", str(name))
    if match is None:
        return float("nan")
    return FLARE_CLASSES[match.group(1)] * float(match.group(2) or 1.0)


@reads
def read_goes_flares(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a flare list of the Space Weather Prediction Center, or of the Heliophysics Event Knowledgebase (SunPy).

    Parameters
    ----------
    path : path
        CSV with the columns ``date`` (YYYYMMDD), ``start_time``, ``max_time``, ``end_time`` (HHMM) and ``goes_class``;
        or ``event_starttime``, ``event_peaktime``, ``event_endtime`` (ISO) and ``fl_goescls``.

    Returns
    -------
    pandas.DataFrame
        ``start``, ``peak``, ``end`` (UTC), ``goes_class`` (text such as C2.6), ``flare_class`` (its letter),
        ``peak_flux`` (W/m²), in order of start; flares that pass midnight end on the next day. Rows without times or
        class are left out; how many is in ``attrs["rows_left_out"]``.

    Raises
    ------
    InputError
        If the file is missing.
    ProductFormatError
        If it is no such list, or no row of it is whole.

    Examples
    --------
    >>> import lunarray as la
    >>> flares = la.xrf.read_goes_flares("flares.csv")  # doctest: +SKIP
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, skipinitialspace=True)
    except FileNotFoundError as error:
        raise InputError("no such file", where=path, remedy="Check the path") from error
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise damaged(f"not a CSV file ({error})", path) from error
    hek = set(_HEK) <= set(table.columns)
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing and not hek:
        raise ProductFormatError(
            f"no column {', '.join(missing)}",
            where=path,
            remedy=f"A flare list has {', '.join(_COLUMNS)}; one of HEK {', '.join(_HEK)}",
        )
    start, peak, end = _hek_moments(table) if hek else _swpc_moments(table)
    letter = table["fl_goescls" if hek else "goes_class"].str.strip().str.upper()
    flux = letter.map(flare_flux, na_action="ignore").astype("f8")
    flares = pd.DataFrame(
        {
            "start": start,
            "peak": peak,
            "end": end,
            "goes_class": letter,
            "flare_class": letter.str[:1],
            "peak_flux": flux,
        }
    )
    whole = flares[["start", "end", "peak_flux"]].notna().all(axis=1)
    if not whole.any():
        raise damaged("no row is whole", path)
    flares = flares[whole].sort_values("start", kind="stable").reset_index(drop=True)
    for column in ("start", "peak", "end"):
        flares[column] = flares[column].astype("datetime64[ns]")
    flares.attrs["rows_left_out"] = int((~whole).sum())
    return flares


def _hek_moments(table: pd.DataFrame) -> list[pd.Series]:
    """Start, peak and end of flares that have ISO times (UTC)."""
    import pandas as pd

    return [
        pd.to_datetime(
            table[name].str.strip(), format="ISO8601", errors="coerce", utc=True
        ).dt.tz_localize(None)
        for name in _HEK[:3]
    ]


def _swpc_moments(table: pd.DataFrame) -> list[pd.Series]:
    """Start, peak and end of flares that have a day and hours."""
    import pandas as pd

    day = pd.to_datetime(table["date"].str.strip(), format="%Y%m%d", errors="coerce")
    # Days beyond those that nanoseconds reach are slips of the list, which newer versions of pandas accept.
    day = day.where(day < pd.Timestamp("2262-01-01"))
    moments = []
    for column in ("start_time", "max_time", "end_time"):
        digits = pd.to_numeric(table[column].str.extract(r"(\d{3,4})")[0], errors="coerce")
        hours, minutes = digits // 100, digits % 100
        inside = (hours <= 24) & (minutes < 60)
        moments.append((day + pd.to_timedelta(hours * 60 + minutes, unit="min")).where(inside))
    start, peak, end = moments
    midnight = pd.Timedelta(days=1)
    peak = peak.where(~(peak < start), peak + midnight)
    end = end.where(~(end < start), end + midnight)
    return [start, peak, end]


@reads
def open_goes_xrs(
    path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, chunks: Any = "auto"
) -> xr.Dataset:
    """Open GOES-R XRS Level 2 netCDF files: 1 s fluxes or 1 min averages.

    Parameters
    ----------
    path : path, folder, glob pattern, or iterable of these
        ``sci_xrsf-l2-flx1s_*`` or ``sci_xrsf-l2-avg1m_*``, of a day (``_dYYYYMMDD_``), a year or more, their
        operational siblings ``dn_xrsf-l2-...``, and those of GOES 8 to 15, ``sci_gxrs-l2-irrad_*``. Of several only the
        two fluxes are kept, in order of time; where two tell of one moment, the first by name counts.
    chunks : int, mapping, "auto" or None
        Dask chunks, as in :func:`xarray.open_dataset`.

    Returns
    -------
    xarray.Dataset
        ``xrsa_flux`` (0.5-4 Å) and ``xrsb_flux`` (1-8 Å), (time,), W/m², with the flags that the file has. Fluxes
        that it marks as bad, or that are not positive, are NaN.

    Raises
    ------
    InputError
        If the file is missing.
    ProductFormatError
        If it is no XRS file.
    """
    files = find_files(path, (".nc",), "files of GOES XRS (.nc)")
    if len(files) == 1:
        return _open_fluxes(files[0], chunks)
    parts = [_open_fluxes(file, chunks)[["xrsa_flux", "xrsb_flux"]] for file in files]
    ds = xr.concat(parts, "time", combine_attrs="override").drop_attrs(deep=False)
    _, first = np.unique(ds["time"].values, return_index=True)
    ds = ds.isel(time=first)
    names = f"{len(files)} files, {files[0].name} ... {files[-1].name}"
    return stamp(ds, f"open_goes_xrs, {len(files)} files", source=names)


def _open_fluxes(path: Path, chunks: Any) -> xr.Dataset:
    """The two fluxes of one file, those that it marks as bad left out."""
    ds = open_guarded(path, engine="h5netcdf", chunks=chunks)
    names: dict[str, str] = {}
    for band in ("a", "b"):
        for candidate in (f"xrs{band}_flux", f"{band}_flux"):
            if candidate in ds:
                names[candidate] = f"xrs{band}_flux"
                break
    if len(names) != 2 or "time" not in ds.coords:
        ds.close()
        raise ProductFormatError(
            "no fluxes of the two XRS bands in time",
            where=path,
            remedy="Give XRS Level 2 files (sci_ or dn_xrsf-l2-flx1s or -avg1m)",
        )
    ds = ds.rename({old: new for old, new in names.items() if old != new})
    for band, angstrom in (("a", "0.5-4"), ("b", "1-8")):
        name = f"xrs{band}_flux"
        flux = ds[name]
        good = flux > 0
        # 1 s fluxes: any bit is a fault. Averages: eclipse and bad data are the two lowest bits, the others tell of
        # corrections.
        of_seconds = [k for k in (f"xrs{band}_flags", f"{band}_flags") if k in ds]
        if of_seconds:
            good = good & (ds[of_seconds[0]] == 0)
        elif f"xrs{band}_flag" in ds:
            good = good & (ds[f"xrs{band}_flag"] % 4 == 0)
        attrs = {
            **flux.attrs,
            "units": "W m-2",
            "long_name": f"solar X-ray flux, {angstrom} Angstrom",
        }
        ds[name] = flux.where(good).assign_attrs(attrs)
    return stamp(ds, "open_goes_xrs", source=os.path.basename(os.fspath(path)))
