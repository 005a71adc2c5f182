"""STAC items: what catalogues and their search tools know of a result, beside the file that holds it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError, WrongKindError
from lunarray.export.places import place_of, span, times_of
from lunarray.geo import to_lonlat
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
    attrs = dict(getattr(obj, "attrs", {}))
    stem = re.sub(r"(\.zarr|\.tiff?|\.nc|\.gpkg|\.parquet|\.geojson)$", "", Path(name).name)
    lon, lat, placed, bands = _found(obj, name)
    # Of the corners of a grid -180 and 180 degrees are two places; of observations they are one.
    whole = bool(placed) and float(np.ptp(lon)) >= 360 - 1e-9
    geometry, bbox = _rectangle(*span(lon, lat, whole))
    asset = {
        "href": name if "://" in name else f"./{Path(name).name}",
        "type": _TYPES.get(Path(name).suffix.lower(), "application/octet-stream"),
        "roles": ["data"],
    }
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": _VERSION,
        "stac_extensions": [url for one, url in _EXTENSIONS.items() if one != "proj" or placed],
        "id": id or stem,
        "geometry": geometry,
        "bbox": bbox,
        "properties": {
            **placed,
            **times_of(obj, attrs, time, name),
            "title": str(attrs.get("title") or id or stem),
            **_made(attrs),
        },
        "links": [],
        "assets": {"data": {**asset, **({"bands": bands} if bands else {})}},
    }
    if collection is not None:
        item["collection"] = collection
    return item


def _found(
    obj: Any, where: str
) -> tuple[np.ndarray, np.ndarray, dict[str, Any], list[dict[str, Any]]]:
    """Places (degrees) that a result reaches, what `projection` says of its grid, and its variables."""
    if isinstance(obj, xr.Dataset | xr.DataArray):
        ds = obj.to_dataset(name=obj.name or "values") if isinstance(obj, xr.DataArray) else obj
        lon, lat, placed = place_of(ds)
        return np.asarray(lon, np.float64), np.asarray(lat, np.float64), placed, _bands(ds)
    if not (hasattr(obj, "geometry") and hasattr(obj, "crs")):
        raise WrongKindError(
            f"a {type(obj).__name__} is no result that a catalogue could list",
            where=where,
            remedy="Give a Dataset, a DataArray or a GeoDataFrame",
        )
    if obj.crs is None or not len(obj):
        raise GridError(
            "vectors without a reference system, or none at all, have no place on the Moon",
            where=where,
            remedy="Give them a CRS, or leave them out",
        )
    import shapely

    x, y = shapely.get_coordinates(obj.geometry.values).T
    lon, lat = to_lonlat(obj.crs.to_wkt(), x, y)
    return lon, lat, {}, []


def _made(attrs: dict[str, Any]) -> dict[str, Any]:
    """What a result says of where it comes from."""
    found: dict[str, Any] = {
        "ssys:targets": ["Moon"],
        "ssys:target_class": "satellite",
        "processing:software": {"lunarray": str(attrs.get("lunarray_version", __version__))},
    }
    if attrs.get("instrument"):
        found["instruments"] = [str(attrs["instrument"])]
    if attrs.get("mission"):
        found["mission"] = str(attrs["mission"])
    if attrs.get("history"):
        found["processing:lineage"] = str(attrs["history"])
    return found


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
