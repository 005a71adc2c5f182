"""Where on the Moon a result is, and when it was observed: what catalogues and archives ask of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError
from lunarray.geo import MOON, crs_code, crs_of, from_lonlat, geobox_of, spatial_dims, to_lonlat

#: Points of each side of a grid by which its place on the sphere is found.
_SIDE = 65


def place_of(ds: xr.Dataset) -> tuple[Any, Any, dict[str, Any]]:
    """Longitudes and latitudes that a Dataset reaches, and what the extension `projection` says of its grid."""
    if spatial_dims(ds) is not None and crs_of(ds) is not None:
        box = geobox_of(ds, MOON)
        crs = crs_of(ds)
        assert crs is not None
        rows, columns = box.shape
        across, down = np.linspace(0, columns, _SIDE), np.linspace(0, rows, _SIDE)
        # The outline, and the inside coarsely: a pole within is no corner of anything.
        c, r = (a.ravel() for a in np.meshgrid(across, down))
        t = box.transform
        x, y = t.a * c + t.b * r + t.c, t.d * c + t.e * r + t.f
        lon, lat = (np.asarray(a) for a in to_lonlat(crs, x, y))
        if not crs.is_geographic:
            for pole in (90.0, -90.0):
                if _holds_pole(box, crs, pole):
                    lon, lat = np.append(lon, [-180.0, 180.0]), np.append(lat, [pole, pole])
        code = crs_code(crs)
        return (
            lon,
            lat,
            {
                **({"proj:code": code} if code else {}),
                "proj:wkt2": crs.to_wkt("WKT2_2019"),
                "proj:shape": [int(rows), int(columns)],
                "proj:transform": [float(v) for v in tuple(box.transform)[:6]],
                "proj:bbox": [float(v) for v in box.boundingbox.bbox],
            },
        )
    names = next(
        (p for p in (("corner_lon", "corner_lat"), ("lon", "lat")) if set(p) <= set(ds.variables)),
        None,
    )
    if names is None:
        raise GridError(
            "it has neither a grid with a reference system nor lon and lat",
            remedy="Attach a reference system with lunarray.geo.assign_crs(ds, 'north')",
        )
    return ds[names[0]].values.ravel(), ds[names[1]].values.ravel(), {}


def _holds_pole(box: Any, crs: Any, pole: float) -> bool:
    """Tell whether a pole lies in a grid of a projection that has it at one point."""
    x, y = (np.asarray(v) for v in from_lonlat(crs, np.array([0.0, 90.0]), np.array([pole, pole])))
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) > 1 or np.ptp(y) > 1:
        return False
    column, row = ~box.transform * (float(x[0]), float(y[0]))
    return bool(0 <= column <= box.shape[1] and 0 <= row <= box.shape[0])


def span(lon: np.ndarray, lat: np.ndarray, whole: bool) -> tuple[float, float, float, float]:
    """West, south, east (west to west + 360) and north of the narrowest box around points; `whole`: all around."""
    known = np.isfinite(lon) & np.isfinite(lat)
    lon, lat = lon[known], lat[known]
    if not lon.size:
        raise GridError("no part of it has a place on the Moon", remedy="Give what has coordinates")
    south, north = float(lat.min()), float(lat.max())
    if whole:
        return -180.0, south, 180.0, north
    turned = np.unique(np.mod(lon, 360.0))
    gaps = np.diff(np.append(turned, turned[0] + 360.0))
    widest = int(gaps.argmax())
    west = float(turned[(widest + 1) % len(turned)])
    width = 360.0 - float(gaps[widest])
    west = (west + 180.0) % 360.0 - 180.0
    # Of turning by 360 degrees nothing is left to see: 1e-9 degrees are 30 micrometres.
    return round(west, 9), south, round(west + width, 9), north


def times_of(obj: Any, attrs: dict[str, Any], time: Any, where: str) -> dict[str, Any]:
    """When: a moment, or a range."""
    stamps = None
    if time is not None:
        try:
            stamps = np.asarray(time, dtype="datetime64[ns]").ravel()
        except (ValueError, TypeError) as error:
            raise InputError(
                f"time={time!r} is no time", where=where, remedy="Give such as 2024-01-23T12:00"
            ) from error
    elif isinstance(obj, xr.Dataset | xr.DataArray) and "time" in getattr(obj, "coords", {}):
        stamps = obj["time"].values.ravel() if obj["time"].dtype.kind == "M" else None
    elif isinstance(obj, xr.Dataset) and "time" in obj and obj["time"].dtype.kind == "M":
        stamps = obj["time"].values.ravel()
    if stamps is None and attrs.get("time_coverage_start"):
        ends = (attrs.get(f"time_coverage_{end}") for end in ("start", "end"))
        texts = [str(end).rstrip("Z") for end in ends if end]
        stamps = np.array(texts, dtype="datetime64[ns]")
    if stamps is not None:
        stamps = stamps[~np.isnat(stamps)]
    if stamps is None or not stamps.size:
        made = re.findall(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", str(attrs.get("history", ""))
        )
        if not made:
            raise InputError(
                "nothing says when it was observed or made",
                where=where,
                remedy="Give time=, for instance time=('2008-01-01', '2009-06-10')",
            )
        return {"datetime": max(made), "created": max(made)}
    first, last = (_utc(v) for v in (stamps.min(), stamps.max()))
    if first == last:
        return {"datetime": first}
    return {"datetime": None, "start_datetime": first, "end_datetime": last}


def _utc(value: np.datetime64) -> str:
    seconds = int(value.astype("datetime64[us]").astype(np.int64)) / 1e6
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
