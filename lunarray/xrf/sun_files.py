"""Files that tell of the Sun, of many days: spectra, areas and light curves of XSM, and fluxes of GOES."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, LunarrayError, LunarrayWarning
from lunarray.readers import find_files, is_zip, members
from lunarray.xrf.xsm import read_light_curve, read_xsm_spectrum
from lunarray.xrf.xsm_response import xsm_response

__all__ = ["SunFiles", "day_of", "xsm_by_day"]

_DAY = re.compile(r"(?<!\d)(20\d\d)(\d\d)(\d\d)(?:T\d{6}|(?!\d))")
_XSM = (".pha", ".lc", ".arf")


def day_of(name: str) -> str | None:
    """Day that a file's name tells, as 2024-01-23."""
    found = _DAY.search(name)
    return None if found is None else "-".join(found.groups())


@dataclass(frozen=True)
class SunFiles:
    """What is known of the Sun: files of XSM by day and ending, fluxes of GOES, and what to do about damaged files."""

    files: Mapping[str, Mapping[str, list[Path]]]
    goes: xr.Dataset | None = None
    errors: str = "raise"

    def of_days(self, days: Iterable[str]) -> dict[str, Any]:
        """Arguments of `window_suns` by name; where several areas are there, the first is that of all spectra."""
        days = sorted(set(days))
        spectra, areas, curves = (
            [path for day in days for path in self.files.get(day, {}).get(ending, ())]
            for ending in (".pha", ".arf", ".lc")
        )
        out: dict[str, Any] = {}
        if rows := self._read(read_xsm_spectrum, spectra):
            out["spectra"] = _one_after_another(rows)
        if responses := self._read(xsm_response, areas[:1]):
            out["response"] = responses[0]
        if rates := self._read(read_light_curve, curves):
            out["light_curve"] = xr.concat(
                [ds[["rate"]] for ds in rates], "time", combine_attrs="drop"
            )
        if self.goes is not None and days:
            begin, end = np.datetime64(days[0]), np.datetime64(days[-1]) + np.timedelta64(1, "D")
            time = self.goes["time"].values
            out["goes"] = self.goes.isel(time=(time >= begin) & (time < end)).compute()
        return out

    def _read(self, reader: Any, paths: list[Path]) -> list[Any]:
        found = []
        for path in paths:
            try:
                found.append(reader(path))
            except LunarrayError as error:
                if self.errors == "raise":
                    raise
                warnings.warn(f"left out: {error}", LunarrayWarning, stacklevel=4)
        return found


def _one_after_another(spectra: list[xr.Dataset]) -> xr.Dataset:
    """Spectra of several files along time, of as many channels as the first has."""
    rows = [ds if "time" in ds["counts"].dims else ds.expand_dims("time") for ds in spectra]
    rows = [ds for ds in rows if ds.sizes["channel"] == rows[0].sizes["channel"]]
    names = ("counts", "stat_error", "sys_error", "exposure", "start", "end")
    rows = [xr.Dataset({k: (ds[k].dims, ds[k].values) for k in names}) for ds in rows]
    return xr.concat(rows, "time")


def xsm_by_day(paths: Any) -> dict[str, dict[str, list[Path]]]:
    """Files of XSM, those in zips among them, by day and ending; InputError where no name tells a day."""
    out: dict[str, dict[str, list[Path]]] = {}
    found: dict[str, Path] = {}
    for path in find_files(paths, (*_XSM, ".zip"), "files of XSM (.pha, .arf, .lc, .zip)"):
        # One that lies beside its zip is taken once.
        for file in members(path, _XSM) if is_zip(path) else [path]:
            found.setdefault(file.name, file)
    for path in found.values():
        day = day_of(path.name)
        if day is not None:
            out.setdefault(day, {}).setdefault(path.suffix.lower(), []).append(path)
    if not out:
        raise InputError(
            "no file of XSM has a day in its name",
            where="xsm",
            remedy="Keep the names that they were handed out with, such as ch2_xsm_20210827_v1_level2.pha",
        )
    return out
