"""Simulated CLASS frames as files, in the tree in which the real ones are handed out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import xarray as xr

from lunarray.engine.files import local_path
from lunarray.errors import InputError
from lunarray.xrf.frames import require_variables

__all__ = ["write_class_frames"]

_BLOCK = 2880
_NEEDED = (
    "counts", "start", "end", "exposure", "gain", "lat", "lon", "corner_lat", "corner_lon", "incidence", "emission",
    "phase", "altitude",
)  # fmt: skip


def write_class_frames(ds: xr.Dataset, folder: str | os.PathLike[str]) -> list[Path]:
    """Write frames as CLASS Level 1 files, in PRADAN's tree ``cla/data/calibrated/YYYY/MM/DD``.

    Parameters
    ----------
    ds : Dataset
        Of :func:`class_counts`, or of :func:`lunarray.open_class`.
    folder : path
        Under which the tree is made. Files that are there are written anew.

    Returns
    -------
    list of Path
        The files, in order.

    Raises
    ------
    InputError
        If `ds` has no frames with times, angles and corners, or `folder` is a URL.

    Examples
    --------
    >>> import lunarray as la
    >>> from lunarray.simulate import class_counts, class_orbit, class_response, thermal_spectrum
    >>> made = class_counts(la.xrf.HIGHLAND, class_orbit(frames=2), thermal_spectrum(), class_response(1024))
    >>> files = la.simulate.write_class_frames(made, "archive")
    >>> files[0].relative_to("archive").parts[:4], la.open_class("archive").sizes["time"]
    (('cla', 'data', 'calibrated', '2021'), 2)
    """
    require_variables(ds, _NEEDED, "write_class_frames", "Give what class_counts gives")
    if set(ds["counts"].dims) != {"time", "channel"}:
        raise InputError(
            "no counts(time, channel)", where="write_class_frames", remedy="Give what class_counts gives"
        )  # fmt: skip
    root = local_path(folder) / "cla" / "data" / "calibrated"
    ds = ds[
        [*_NEEDED, *(n for n in ("n_detectors", "detectors", "temperature") if n in ds.variables)]
    ]
    ds = ds.transpose("time", ...).compute()
    columns = {str(name): v.values for name, v in ds.variables.items()}
    written = []
    for i in range(ds.sizes["time"]):
        row = {name: v[i] for name, v in columns.items() if ds[name].dims[:1] == ("time",)}
        moments = [np.datetime_as_string(row[k].astype("M8[ms]")) for k in ("start", "end")]
        stamps = [text.translate(_MARKS) for text in moments]
        day = root / moments[0][:4] / moments[0][5:7] / moments[0][8:10]
        day.mkdir(parents=True, exist_ok=True)
        path = day / f"ch2_cla_l1_{stamps[0]}_{stamps[1]}.fits"
        path.write_bytes(_file(row, moments, int(columns["channel"][0])))
        written.append(path)
    return written


_MARKS = str.maketrans("", "", "-:.")


def _file(row: dict[str, np.ndarray], moments: list[str], first: int) -> bytes:
    """A whole file of one frame."""
    counts = row["counts"]
    if "detectors" in row:
        used = [k for k in range(16) if int(row["detectors"]) >> k & 1]
    else:
        number = float(row.get("n_detectors", np.float64(16)))
        used = list(range(int(number) if np.isfinite(number) else 16))
    cards: dict[str, object] = {
        "XTENSION": "BINTABLE", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 6, "NAXIS2": counts.size, "PCOUNT": 0, "GCOUNT": 1,
        "TFIELDS": 2, "TTYPE1": "CHANNEL", "TFORM1": "1I", "TTYPE2": "COUNTS", "TFORM2": "1E", "EXTNAME": "SPECTRUM",
        "INSTRUME": "CLASS", "MISSION": "CH-2", "EXPOSURE": float(row["exposure"]), "DETCHANS": counts.size,
        "TLMIN1": first, "STARTIME": moments[0], "ENDTIME": moments[1], "GAIN": 1e3 * float(row["gain"]),
        "SCD_USED": ",".join(map(str, used)), "SAT_ALT": float(row["altitude"]), "BORE_LAT": float(row["lat"]),
        "BORE_LON": float(row["lon"]), "SOLARANG": float(row["incidence"]), "EMISNANG": float(row["emission"]),
        "PHASEANG": float(row["phase"]), "TEMP": float(row.get("temperature", np.float64(-40.0))),
    }  # fmt: skip
    for k in range(4):
        cards[f"V{k}_LAT"], cards[f"V{k}_LON"] = (float(row[f"corner_{a}"][k]) for a in ("lat", "lon"))  # fmt: skip
    table = np.empty(counts.size, [("channel", ">i2"), ("counts", ">f4")])
    table["channel"], table["counts"] = np.arange(first, first + counts.size), counts
    data = table.tobytes()
    primary = _header({"SIMPLE": True, "BITPIX": 8, "NAXIS": 0, "EXTEND": True})
    return primary + _header(cards) + data + bytes(-len(data) % _BLOCK)


def _header(cards: dict[str, object]) -> bytes:
    """Cards of the FITS standard, in whole blocks; what is not known is left out."""
    lines = []
    for name, value in cards.items():
        if isinstance(value, float) and not np.isfinite(value):
            continue
        if isinstance(value, bool):
            text = "T" if value else "F"
        elif isinstance(value, str):
            text = f"'{value:<8}'"
        else:
            text = f"{value:.12G}" if isinstance(value, float) else str(value)
            text = f"{text}." if isinstance(value, float) and text.lstrip("-").isdigit() else text
        line = f"{name:<8}= {text:<20}" if isinstance(value, str) else f"{name:<8}= {text:>20}"
        lines.append(f"{line:<80}")
    whole = "".join([*lines, f"{'END':<80}"]).encode("ascii")
    return whole + b" " * (-len(whole) % _BLOCK)
