"""STAC items: what catalogues and their search tools know of a result, beside the file that holds it."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError, WrongKindError
from lunarray.geo import MOON, crs_code, crs_of, geobox_of, spatial_dims, to_lonlat
from lunarray.units import unit_label
from lunarray.versions import __version__

if TYPE_CHECKING:
    import geopandas

_VERSION = "1.1.0"
_EXTENSIONS = {
    "proj": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "ssys": "https://stac-extensions.github.io/ssys/v1.1.1/schema.json",
    "processing": "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
}
#: Media types by ending.
_TYPES = {
    ".zarr": "application/vnd.zarr; version=3",
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".tiff": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".nc": "application/netcdf",
    ".gpkg": "application/geopackage+sqlite3",
    ".parquet": "application/vnd.apache.parquet",
    ".geojson": "application/geo+json",
}
#: Points of each side of a grid by which its place on the sphere is found.
_SIDE = 65


def stac_item(
    obj: xr.Dataset | xr.DataArray | geopandas.GeoDataFrame,
    path: str | os.PathLike[str],
    *,
    id: str | None = None,
    time: Any = None,
    collection: str | None = None,
) -> dict[str, Any]:
    """Describe a result as an item of a SpatioTemporal Asset Catalog (STAC).

    Parameters
    ----------
    obj : Dataset, DataArray or GeoDataFrame
        What the file holds: a map on a grid, tracks or footprints with ``lon`` and ``lat``, or vectors.
    path : path or URL
        Where it is; the item names it, relative to the item's own folder where it is a path.
    id : str, optional
        By default the name of the file, and of a layer where `obj` is one variable.
    time : datetime-like or pair of these, optional
        When the observations were made, UTC. By default the range of ``time``, else of ``time_coverage_start`` and
        ``time_coverage_end`` in the attributes, else the moment that ``history`` says the result was made.
    collection : str, optional
        Id of the collection that it belongs to.

    Returns
    -------
    dict
        The item, of version 1.1.0 with the extensions projection, ssys and processing, for ``json.dump``. Its geometry
        is a rectangle of longitudes and latitudes (degrees, planetocentric, east positive, −180 to 180) around the
        result, **on the Moon**, which ``ssys:targets`` says; two rectangles where it crosses ±180°. It has no clock in
        it: the same result has the same item.

    Raises
    ------
    WrongKindError
        If `obj` is of another kind.
    GridError
        If it has no place on the Moon.
    InputError
        If nothing says when it was observed or made, or `time` is none.

    References
    ----------
    .. [1] STAC Item Specification 1.1.0, https://github.com/radiantearth/stac-spec

    Examples
    --------
    >>> import lunarray as la
    >>> maps = la.simulate.polar_scene(resolution=20_000, latitude=85).lunar.invert_oxides()
    >>> item = la.export.stac_item(maps, "oxides.zarr")
    >>> item["id"], item["bbox"][1] < 85, item["properties"]["ssys:targets"]
    ('oxides', True, ['Moon'])
    """
    name = os.fspath(path)
    extensions = ["ssys", "processing"]
    whole = False
    properties: dict[str, Any] = {}
    if isinstance(obj, xr.Dataset | xr.DataArray):
        attrs = dict(obj.attrs)
        ds = obj.to_dataset(name=obj.name or "values") if isinstance(obj, xr.DataArray) else obj
        lon, lat, placed = _place(ds)
        asset = {"bands": _bands(ds)}
        if placed:
            extensions.insert(0, "proj")
            properties |= placed
            # Of the corners of a grid -180 and 180 degrees are two places; of observations they are one.
            whole = float(np.ptp(lon)) >= 360 - 1e-9
    elif hasattr(obj, "geometry") and hasattr(obj, "crs"):
        import shapely

        attrs, asset = dict(obj.attrs), {}
        if obj.crs is None or not len(obj):
            raise GridError(
                "vectors without a reference system, or none at all, have no place on the Moon",
                where=name,
                remedy="Give them a CRS, or leave them out",
            )
        x, y = shapely.get_coordinates(obj.geometry.values).T
        lon, lat = to_lonlat(obj.crs.to_wkt(), x, y)
    else:
        raise WrongKindError(
            f"a {type(obj).__name__} is no result that a catalogue could list",
            where=name,
            remedy="Give a Dataset, a DataArray or a GeoDataFrame",
        )
    geometry, bbox = _rectangle(
        *_span(np.asarray(lon, np.float64), np.asarray(lat, np.float64), whole)
    )
    stem = re.sub(r"(\.zarr|\.tiff?|\.nc|\.gpkg|\.parquet|\.geojson)$", "", Path(name).name)
    properties |= _times(obj, attrs, time, name)
    properties |= {"title": str(attrs.get("title") or id or stem)}
    for key in ("instrument", "mission"):
        if attrs.get(key):
            properties |= (
                {"instruments": [str(attrs[key])]}
                if key == "instrument"
                else {"mission": str(attrs[key])}
            )
    properties |= {
        "ssys:targets": ["Moon"],
        "ssys:target_class": "satellite",
        "processing:software": {"lunarray": str(attrs.get("lunarray_version", __version__))},
    }
    if attrs.get("history"):
        properties["processing:lineage"] = str(attrs["history"])
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": _VERSION,
        "stac_extensions": [_EXTENSIONS[one] for one in extensions],
        "id": id or stem,
        "geometry": geometry,
        "bbox": bbox,
        "properties": properties,
        "links": [],
        "assets": {
            "data": {
                "href": name if "://" in name else f"./{Path(name).name}",
                "type": _TYPES.get(Path(name).suffix.lower(), "application/octet-stream"),
                "roles": ["data"],
                **asset,
            }
        },
    }
    if collection is not None:
        item["collection"] = collection
    return item


def _place(ds: xr.Dataset) -> tuple[Any, Any, dict[str, Any]]:
    """Longitudes and latitudes that a Dataset reaches, and what the extension `projection` says of its grid."""
    if spatial_dims(ds) is not None and crs_of(ds) is not None:
        box = geobox_of(ds, MOON)
        crs = crs_of(ds)
        assert crs is not None
        rows, columns = box.shape
        across, down = np.linspace(0, columns, _SIDE), np.linspace(0, rows, _SIDE)
        # The outline, and the inside coarsely: a pole within is no corner of anything.
        c, r = (a.ravel() for a in np.meshgrid(across, down))
        x, y = box.transform * (c, r)
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
    from lunarray.geo import from_lonlat

    x, y = (np.asarray(v) for v in from_lonlat(crs, np.array([0.0, 90.0]), np.array([pole, pole])))
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) > 1 or np.ptp(y) > 1:
        return False
    column, row = ~box.transform * (float(x[0]), float(y[0]))
    return bool(0 <= column <= box.shape[1] and 0 <= row <= box.shape[0])


def _span(lon: np.ndarray, lat: np.ndarray, whole: bool) -> tuple[float, float, float, float]:
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


def _rectangle(
    west: float, south: float, east: float, north: float
) -> tuple[dict[str, Any], list[float]]:
    """GeoJSON of a rectangle, cut at ±180° (RFC 7946), and its bbox."""

    def ring(a: float, b: float) -> list[list[list[float]]]:
        return [[[a, south], [b, south], [b, north], [a, north], [a, south]]]

    if east <= 180.0:
        return {"type": "Polygon", "coordinates": ring(west, east)}, [west, south, east, north]
    parts = [ring(west, 180.0), ring(-180.0, east - 360.0)]
    return (
        {"type": "MultiPolygon", "coordinates": parts},
        [west, south, east - 360.0, north],
    )


def _times(obj: Any, attrs: dict[str, Any], time: Any, where: str) -> dict[str, Any]:
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


def _bands(ds: xr.Dataset) -> list[dict[str, Any]]:
    """Variables as STAC lists bands."""
    bands = []
    for name, array in ds.data_vars.items():
        if array.dtype.kind not in "fiub" or name == "spatial_ref":
            continue
        band: dict[str, Any] = {"name": str(name)}
        if array.attrs.get("long_name"):
            band["description"] = str(array.attrs["long_name"])
        band["data_type"] = "uint8" if array.dtype.kind == "b" else array.dtype.name
        unit = unit_label(array, "")
        if unit:
            band["unit"] = unit
        if array.dtype.kind == "f":
            band["nodata"] = "nan"
        elif "nodata" in array.attrs:
            band["nodata"] = int(array.attrs["nodata"])
        bands.append(band)
    return bands
