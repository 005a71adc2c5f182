"""Opening maps of the Moon that others made: LOLA, WAC, Clementine and their like."""

from __future__ import annotations

import math
import os
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import GridError, InputError, LunarrayWarning, ProductFormatError
from lunarray.geo import (
    MOON,
    RADIUS,
    RasterInfo,
    assign_crs,
    assign_grid,
    geobox_of,
    grid_coords,
    moon_crs,
    open_raster,
    raster_info,
    spatial_dims,
    to_lonlat,
)
from lunarray.geo.crs import period_of
from lunarray.readers import head
from lunarray.readers.labels import LabelObject, number_value, read_label, text_value
from lunarray.store.provenance import stamp
from lunarray.typing import typed

if TYPE_CHECKING:
    import xarray as xr
    from affine import Affine

__all__ = ["open_map"]

#: Units of labels as UDUNITS reads them.
_UNITS = {
    **dict.fromkeys(("METER", "METERS", "M"), "m"),
    **dict.fromkeys(("KILOMETER", "KILOMETERS", "KM"), "km"),
    **dict.fromkeys(("DEGREE", "DEGREES", "DEG"), "degree"),
    **dict.fromkeys(("K", "KELVIN"), "K"),
    **dict.fromkeys(("N/A", "NONE", "UNITLESS", "DIMENSIONLESS", "1"), "1"),
}
#: An offset between these (m) is the radius of a reference sphere: what is stored are heights above it.
_RADII = (1_730_000.0, 1_745_000.0)
_TABLES = (".csv", ".csv.gz")
# Fraction of a pixel within which a label's latitudes and its resolution say the same.
_EXACT = 0.02


@typed
def open_map(
    path: str | os.PathLike[str],
    *,
    bands: int | Sequence[int] | None = None,
    bounds: Sequence[float] | None = None,
    crs: Any = None,
    nodata: float | None = None,
    chunks: str | int | tuple[int, int] | None = "auto",
    name: str | None = None,
) -> xr.DataArray:
    """Open a map of the Moon or a part of it, as LOLA, WAC, Clementine, Kaguya and Lunar Prospector have made them.

    Parameters
    ----------
    path : path
        A PDS3 image (its label, attached or detached, or the ``.IMG`` beside one), a cube of ISIS, a GeoTIFF with a
        lunar reference system in any dialect, a picture (with `bounds`), and what else
        :func:`lunarray.geo.open_raster` reads; or a table of numbers, ``.csv`` or ``.csv.gz``, of the whole Moon, row 0
        at 90° N and column 0 at 180° W.
    bands : int or sequence of int, optional
        Counted from 1; by default all. Of a file of one band there is no dimension ``band``.
    bounds : sequence of 4 floats, optional
        left, bottom, right, top of the outer edges, for a picture or table without a place: degrees, or in the units
        of `crs`.
    crs : optional
        What :func:`lunarray.geo.moon_crs` takes; it wins over the file's. With `bounds`, by default degrees.
    nodata : float, optional
        Stored number that means no data, beside those that the file names.
    chunks : "auto", int, (int, int) or None
        Chunk (y, x) of the lazy result; None loads everything now.
    name : str, optional
        Of the result; by default what the label calls it, else the file's.

    Returns
    -------
    xarray.DataArray
        (lat, lon), or (y, x) in metres, with ``band`` in front where there are several; float32 (float64 where the file
        holds that); NaN where there are no data. A map that goes once around the Moon in whole pixels, parallels and
        meridians straight, comes in degrees, longitudes from -180 on, however it is stored. Heights are those above
        the sphere whose radius is in ``attrs["reference_radius"]`` (m), also where the file says radii. ``units`` and
        ``long_name`` are the label's.

    Raises
    ------
    InputError
        If there is no such file or band, or `bounds` are none.
    ProductFormatError
        If it is neither a raster nor a table that is read.
    BodyMismatchError
        If it is of another body.
    GridError
        If it has no place and no `bounds` are given, or its grid is rotated.

    Notes
    -----
    Labels round: LOLA's say metres per pixel to the centimetre, which over half the Moon is up to 0.4 pixels. Where a
    label's latitudes and its pixels per degree agree, the grid is made of these; polar maps have the pole in their
    middle. All else is as GDAL reads it.

    Examples
    --------
    >>> heights = open_map("LDEM_4.LBL")  # doctest: +SKIP
    >>> colour = open_map("lroc_color_poles_1k.jpg", bounds=(-180, -90, 180, 90))  # doctest: +SKIP
    """
    path = Path(os.path.expanduser(os.fspath(path))) if "://" not in os.fspath(path) else path
    if os.fspath(path).lower().endswith(_TABLES):
        array = _table(Path(path), bounds, chunks)
    else:
        array = _raster(path, bands, bounds, crs, nodata, chunks)
    if spatial_dims(array) is not None and array.attrs.get("georeference") != "none":
        array = _in_degrees(array)
    array = array.rename(name or array.name)
    array.attrs.setdefault("long_name", str(array.name).replace("_", " "))
    source = f"{array.attrs.pop('product', None) or os.path.basename(os.fspath(path))}"
    return stamp(array, "open_map", source=source)


# ---- rasters
def _raster(
    path: Any, bands: Any, bounds: Any, crs: Any, nodata: float | None, chunks: Any
) -> xr.DataArray:
    info = raster_info(path)
    labelled = info.driver in ("PDS", "ISIS2") and head(info.path, 14) == b"PDS_VERSION_ID"
    label = read_label(info.path) if labelled else None
    if label is not None and bounds is None and crs is None:
        info = _placed(info, label)
    if bounds is not None:
        info = replace(
            info,
            transform=_transform_of(bounds, info.shape, info.path),
            crs=moon_crs(crs or "geographic"),
        )
    elif info.transform is None or (info.crs is None and crs is None):
        raise GridError(
            "a picture without a place",
            where=info.path,
            remedy="Give bounds=(left, bottom, right, top), for instance (-180, -90, 180, 90)",
        )
    image = None if label is None else label.find("IMAGE") or label.find("QUBE")
    if image is not None and nodata is None:
        nodata = number_value(image.keywords.get("MISSING_CONSTANT"))
    scale, reference = _scale(info, image)
    if bands is None and info.count == 1:
        bands = 1
    array = open_raster(
        info, bands=bands, chunks=chunks, crs=crs, body=MOON, nodata=nodata, scale=scale
    )
    array.attrs |= _described(info, image)
    if set(info.dtypes) == {"uint8"} and set(info.scales) == {1.0} and set(info.offsets) == {0.0}:
        # Black and white of a picture, for those who look at it as one.
        array.attrs["valid_range"] = [0.0, 255.0]
    if label is not None:
        product = text_value(label.keywords.get("PRODUCT_ID"))
        dataset = text_value(label.keywords.get("DATA_SET_ID"))
        array.attrs |= {"product": ", ".join(v for v in (dataset, product) if v)}
    if reference is not None:
        array.attrs |= {"reference_radius": reference, "standard_name": "height"}
        array.attrs["long_name"] = f"height above the sphere of {reference / 1e3:g} km"
        if "units" not in array.attrs:
            array.attrs["units"] = "m"
        return array.rename("height")
    own = None if image is None else text_value(image.keywords.get("NAME"))
    return array.rename(_plain(own)) if own else array


def _scale(info: RasterInfo, image: LabelObject | None) -> tuple[Any, float | None]:
    """How stored numbers become values, and the radius (m) above which they are heights."""
    if len(set(zip(info.scales, info.offsets, strict=True))) != 1:
        return "auto", None
    factor, offset = info.scales[0], info.offsets[0]
    unit = None if image is None else text_value(image.keywords.get("UNIT"))
    metres = 1000.0 if _UNITS.get((unit or "").upper()) == "km" else 1.0
    if not _RADII[0] <= offset * metres <= _RADII[1]:
        return "auto", None
    return (factor, 0.0), offset * metres


def _described(info: RasterInfo, image: LabelObject | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    unit = info.units[0] if image is None else text_value(image.keywords.get("UNIT"))
    if unit:
        found["units"] = _UNITS.get(unit.upper(), unit)
    text = None if image is None else text_value(image.keywords.get("DESCRIPTION"))
    if text:
        found["comment"] = " ".join(text.split())
    name = None if image is None else text_value(image.keywords.get("NAME"))
    if name:
        found["long_name"] = name.replace("_", " ").lower()
    return found


def _plain(text: str) -> str:
    return "_".join(text.lower().replace("/", " ").split())


def _transform_of(bounds: Any, shape: tuple[int, int], where: Any) -> Affine:
    from affine import Affine

    try:
        left, bottom, right, top = (float(v) for v in bounds)
    except (TypeError, ValueError):
        left = bottom = right = top = math.nan
    if not (left < right and bottom < top):
        raise InputError(
            f"bounds={bounds!r}", where=os.fspath(where), remedy="Give (left, bottom, right, top)"
        )
    rows, columns = shape
    return Affine((right - left) / columns, 0.0, left, 0.0, (bottom - top) / rows, top)


# ---- where PDS3 images are
def _placed(info: RasterInfo, label: LabelObject) -> RasterInfo:
    """What GDAL found, or what the label says better."""
    from affine import Affine

    projection = label.find("IMAGE_MAP_PROJECTION")
    if projection is None:
        return info

    def number(key: str) -> float:
        value = number_value(projection.keywords.get(key))
        return math.nan if value is None else value

    kind = (text_value(projection.keywords.get("MAP_PROJECTION_TYPE")) or "").upper()
    if kind == "SINUSOIDAL":
        info = _sinusoidal(info, projection)
    if info.transform is None:
        return info
    affine, (rows, columns) = info.transform, info.shape
    if "STEREOGRAPHIC" in kind and rows == columns and abs(number("CENTER_LATITUDE")) == 90.0:
        edge = affine.a * columns / 2
        if max(abs(affine.c + edge), abs(affine.f - edge)) <= 1.01 * affine.a:
            return replace(info, transform=Affine(affine.a, 0.0, -edge, 0.0, affine.e, edge))
    if kind not in ("SIMPLE CYLINDRICAL", "SIMPLE_CYLINDRICAL", "EQUIRECTANGULAR"):
        north = number("MAXIMUM_LATITUDE") if kind == "SINUSOIDAL" else math.nan
        return replace(info, transform=_checked_top(info, north))
    top, bottom = number("MAXIMUM_LATITUDE"), number("MINIMUM_LATITUDE")
    west, east = number("WESTERNMOST_LONGITUDE"), number("EASTERNMOST_LONGITUDE")
    if east <= west:
        east += 360.0
    east_positive = (
        text_value(projection.keywords.get("POSITIVE_LONGITUDE_DIRECTION")) or "EAST"
    ).upper() == "EAST"
    flat = number("CENTER_LATITUDE") == 0.0 and east_positive
    resolution = number("MAP_RESOLUTION")
    for half in (0.0, 0.5):
        # The outermost latitudes are those of edges, or of centres.
        tall, wide = rows - 2 * half, columns - 2 * half
        if (
            flat
            and abs(resolution * (top - bottom) - tall) < _EXACT
            and abs(resolution * (east - west) - wide) < _EXACT
        ):
            dx, dy = (east - west) / wide, (top - bottom) / tall
            exact = Affine(dx, 0.0, west - half * dx, 0.0, -dy, top + half * dy)
            return replace(info, transform=exact, crs=moon_crs("geographic"))
    return replace(info, transform=_checked_top(info, top))


def _sinusoidal(info: RasterInfo, projection: LabelObject) -> RasterInfo:
    """As Clementine's data set says: the offsets are those of the projection's origin from the first pixel's centre.

    GDAL takes what is a QUBE for a cube of ISIS2, whose offsets have the other sign, or finds no place.
    """
    from affine import Affine

    def number(key: str) -> float:
        value = number_value(projection.keywords.get(key))
        return math.nan if value is None else value

    text = (projection.keywords.get("MAP_SCALE") or "").upper()
    size = number("MAP_SCALE") * (1000.0 if "KM" in text or "KILOMET" in text else 1.0)
    line, sample = number("LINE_PROJECTION_OFFSET"), number("SAMPLE_PROJECTION_OFFSET")
    east = (text_value(projection.keywords.get("POSITIVE_LONGITUDE_DIRECTION")) or "EAST").upper()
    if not all(map(math.isfinite, (size, line, sample))) or size <= 0 or east != "EAST":
        return info
    affine = Affine(size, 0.0, -(sample + 0.5) * size, 0.0, -size, (line + 0.5) * size)
    centre = number("CENTER_LONGITUDE")
    crs = f"+proj=sinu +lon_0={centre if math.isfinite(centre) else 0} +R={RADIUS} +units=m"
    return replace(info, transform=affine, crs=moon_crs(crs))


def _checked_top(info: RasterInfo, top: float) -> Affine:
    """Labels of some count lines to the equator with the other sign: the latitude says which was meant."""
    from affine import Affine

    affine = info.transform
    if not math.isfinite(top) or info.crs is None:
        return affine
    own = math.degrees(affine.f / RADIUS)
    step = math.degrees(abs(affine.e) / RADIUS)
    if abs(own - top) <= 2 * step:
        return affine
    turned = -affine.f - affine.e
    if abs(math.degrees(turned / RADIUS) - top) <= 2 * step:
        return Affine(affine.a, 0.0, affine.c, 0.0, affine.e, turned)
    warnings.warn(
        f"{info.path}: its label puts the first line at {own:.3f}° N by its offset and at {top:g}° N by its latitude; "
        "the offset is taken",
        LunarrayWarning,
        stacklevel=5,
    )
    return affine


# ---- whole turns
def _in_degrees(array: xr.DataArray) -> xr.DataArray:
    """A map that goes once around in whole pixels, its parallels and meridians straight, in degrees from -180 on."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    geobox = geobox_of(array, MOON)
    crs, affine, (rows, columns) = moon_crs(geobox.crs), geobox.transform, geobox.shape
    period = period_of(crs)
    if period is None or affine.a <= 0 or affine.e >= 0:
        return array
    around = abs(columns * affine.a - period) <= _EXACT * affine.a
    ends = affine.f + affine.e * rows * np.array([0.0, 0.25, 0.5, 1.0])
    zero, lat = to_lonlat(crs, np.zeros(4), ends)
    straight = crs.is_geographic or abs(lat[1] - (3 * lat[0] + lat[3]) / 4) < 1e-9
    if not around or not straight:
        return _shifted(array, geobox) if crs.is_geographic else array
    step = 360.0 / columns
    left = float(affine.c if crs.is_geographic else zero[0] + affine.c / period * 360.0)
    # The first column whose centre is at -180° or east of it.
    first = math.ceil(round((-180.0 - (left + step / 2)) / step, 6)) % columns
    start = left + first * step
    start -= 360.0 * round((start + 180.0) / 360.0)
    top, bottom = (float(round(v / 90.0, 9) * 90.0) for v in (lat[0], lat[3]))
    if abs(start + 180.0) < 1e-6 * step * columns:
        start = -180.0
    grid = GeoBox(
        (rows, columns),
        Affine(step, 0.0, start, 0.0, (bottom - top) / rows, top),
        moon_crs("geographic"),
    )
    return assign_grid(_bare(_rolled(array, first)), grid)


def _shifted(array: xr.DataArray, geobox: Any) -> xr.DataArray:
    """A part of the Moon counted beyond 180° E, counted from west of the meridian."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    affine = geobox.transform
    turns = math.floor((affine.c + affine.a / 2 + 180.0) / 360.0 + 1e-12)
    if not turns:
        return array
    moved = Affine(affine.a, 0.0, affine.c - 360.0 * turns, 0.0, affine.e, affine.f)
    return assign_grid(_bare(array), GeoBox(geobox.shape, moved, geobox.crs))


def _bare(array: xr.DataArray) -> xr.DataArray:
    """Without its place, on plain dimensions."""
    dims = spatial_dims(array)
    assert dims is not None
    array = array.drop_vars([*dims, "spatial_ref"], errors="ignore")
    array.attrs.pop("grid_mapping", None)
    return array.rename({dims[0]: "lat", dims[1]: "lon"})


def _rolled(array: xr.DataArray, first: int) -> xr.DataArray:
    """Columns from `first` on, and then those before it."""
    if not first:
        return array
    import xarray as xr

    dims = spatial_dims(array)
    assert dims is not None
    axis = array.get_axis_num(dims[1])
    front, back = (slice(None),) * axis, (slice(first, None), slice(None, first))
    parts = [array.variable.data[(*front, part)] for part in back]
    if array.chunks is None:
        data = np.concatenate(parts, axis=axis)
    else:
        import dask.array as da

        data = da.concatenate(parts, axis=axis)
    return xr.DataArray(
        data,
        {k: v for k, v in array.coords.items() if dims[1] not in v.dims},
        array.dims,
        array.name,
        dict(array.attrs),
    )


# ---- tables
def _table(path: Path, bounds: Any, chunks: Any) -> xr.DataArray:
    import pandas as pd
    import xarray as xr

    if not path.exists():
        raise InputError("no such file", where=path, remedy="Check the path")
    try:
        values = pd.read_csv(path, header=None).to_numpy(np.float64)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise ProductFormatError(
            f"no table of numbers ({error})", where=path, remedy="Give a map as .csv or .csv.gz"
        ) from error
    rows, columns = values.shape
    if bounds is None and (columns != 2 * rows or rows < 2):
        raise ProductFormatError(
            f"{rows} rows and {columns} columns",
            where=path,
            remedy="Give a map of the whole Moon, twice as wide as high, or its bounds",
        )
    from odc.geo.geobox import GeoBox

    affine = _transform_of((-180, -90, 180, 90) if bounds is None else bounds, values.shape, path)
    grid = GeoBox(values.shape, affine, moon_crs("geographic"))
    array = xr.DataArray(
        values, grid_coords(grid), ("lat", "lon"), path.name.split(".")[0], {"source": path.name}
    )
    array = assign_crs(array, grid)
    return (
        array
        if chunks is None
        else array.chunk(
            dict(
                zip(
                    ("lat", "lon"),
                    (chunks,) * 2 if isinstance(chunks, int | str) else chunks,
                    strict=True,
                )
            )
        )
    )
