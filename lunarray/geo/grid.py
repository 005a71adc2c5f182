"""Grids: an odc-geo GeoBox is the value that says where the pixels of a map lie.

Pixels are half-open, ``[left, right)`` by ``(bottom, top]``, and the last row and column also own the outer edge, so
that -90° has a row. Positions are computed here with PROJ on the whole array: odc-geo's tile logic goes through
Earth's lat/lon and loses pixels at the poles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import GridError
from lunarray.geo.crs import crs_of, moon_crs, require_moon, spatial_dims
from lunarray.geo.lon import wrap_longitude
from lunarray.geo.sphere import RADIUS

if TYPE_CHECKING:
    import xarray as xr
    from affine import Affine
    from odc.geo.geobox import GeoBox

#: Resolution of grids for which none is given: metres, or degrees on the geographic grid.
DEFAULT_RESOLUTION = {"north": 500.0, "south": 500.0, "equirectangular": 500.0, "geographic": 0.5}

# Rounding of pixel positions (fraction of a pixel). sin(180°) is not 0 in floating point, so that a point on the
# ±180° meridian or at the pole would fall on either side of a pixel edge by its rounding error.
_DECIMALS = 8


def polar_grid(pole: str, resolution: float = 500.0, latitude: float = 65.0) -> GeoBox:
    """Square polar stereographic grid, centred on a pole.

    Parameters
    ----------
    pole : {"north", "south"}
        Which pole; IAU_2015:30130 or 30135.
    resolution : float, optional
        Pixel size (m), true at the pole.
    latitude : float, optional
        The grid covers everything poleward of this latitude (degrees, sign ignored) and, in its corners, a little
        more.

    Returns
    -------
    odc.geo.geobox.GeoBox
        With an even number of rows and columns and the pole on a pixel corner: grids whose resolutions are multiples
        of each other nest.

    Raises
    ------
    GridError
        If the resolution is not positive or the latitude not between 0 and 90.
    """
    if pole not in ("north", "south"):
        raise GridError(f"{pole!r} is not a pole", where="pole", remedy='use "north" or "south"')
    resolution = _check_resolution(resolution)
    latitude = abs(float(latitude))
    if not 0.0 <= latitude < 90.0:
        raise GridError(
            f"a polar grid cannot begin at latitude {latitude}",
            where="latitude",
            remedy="give 0 or more and less than 90 degrees",
        )
    edge = 2.0 * RADIUS * math.tan(math.radians(90.0 - latitude) / 2.0)
    return _geobox((-edge, -edge, edge, edge), resolution, moon_crs(pole))


def lunar_grid(
    spec: Any = "north",
    resolution: float | None = None,
    bounds: Sequence[float] | None = None,
    *,
    latitude: float = 65.0,
) -> GeoBox:
    """Lunar grid by name, or the grid that something lies on.

    Parameters
    ----------
    spec : str, GeoBox, or xarray object
        "north", "south", "equirectangular" or "geographic" (or their IAU_2015 codes); a GeoBox; a Dataset or
        DataArray on a grid.
    resolution : float, optional
        Pixel size in the units of the CRS: metres (default 500) or degrees (default 0.5). With a GeoBox or an xarray
        object, that grid is covered anew at this resolution.
    bounds : sequence of 4 floats, optional
        left, bottom, right, top in the units of the CRS, snapped outward to whole pixels counted from the CRS origin.
        Default: poleward of `latitude`, or the whole Moon.
    latitude : float, optional
        For polar grids without `bounds`; see `polar_grid`.

    Returns
    -------
    odc.geo.geobox.GeoBox
        The grid.

    Raises
    ------
    GridError
        If the specification does not make a grid.
    BodyMismatchError
        If it is of another body.
    """
    from odc.geo.geobox import GeoBox

    if not isinstance(spec, (str, int, np.integer)) and (
        isinstance(spec, GeoBox) or hasattr(spec, "dims")
    ):
        geobox = spec if isinstance(spec, GeoBox) else geobox_of(spec)
        require_moon(geobox.crs, where="grid")
        if resolution is None and bounds is None:
            return geobox
        if not geobox.axis_aligned:
            raise GridError(
                "a rotated grid cannot be cut or resampled",
                where="grid",
                remedy="give resolution and bounds by name",
            )
        box = geobox.boundingbox
        return _geobox(
            (box.left, box.bottom, box.right, box.top) if bounds is None else bounds,
            _check_resolution(abs(geobox.transform.a) if resolution is None else resolution),
            moon_crs(geobox.crs),
        )
    crs = moon_crs(spec)
    name = _name_of(crs)
    if resolution is None:
        resolution = DEFAULT_RESOLUTION.get(name, 0.5 if crs.is_geographic else 500.0)
    resolution = _check_resolution(resolution)
    if bounds is None:
        if name in ("north", "south"):
            return polar_grid(name, resolution, latitude)
        if crs.is_geographic:
            bounds = (-180.0, -90.0, 180.0, 90.0)
        elif (period := _period(crs)) is not None:
            half = period / 2.0
            bounds = (-half, -math.pi * RADIUS / 2.0, half, math.pi * RADIUS / 2.0)
        else:
            raise GridError(
                f"the extent of a grid in {crs.name!r} is not known",
                where="bounds",
                remedy="give bounds=(left, bottom, right, top)",
            )
    return _geobox(bounds, resolution, crs)


def grid_coords(geobox: GeoBox) -> dict[str, xr.Variable]:
    """Coordinates of the pixel centres of a grid.

    Parameters
    ----------
    geobox : odc.geo.geobox.GeoBox
        An axis-aligned grid.

    Returns
    -------
    dict of str to xarray.Variable
        "y" and "x" (m), or "lat" and "lon" (degrees), float64, with CF attributes, in the order of the array's axes.
    """
    import xarray as xr

    from lunarray.geo.crs import _COORD_ATTRS

    _require_aligned(geobox)
    rows, columns = geobox.shape
    affine = geobox.transform
    values = (
        affine.f + (np.arange(rows) + 0.5) * affine.e,
        affine.c + (np.arange(columns) + 0.5) * affine.a,
    )
    return {
        dim: xr.Variable((dim,), value, dict(_COORD_ATTRS[dim]))
        for dim, value in zip(grid_dims(geobox), values, strict=True)
    }


def grid_dims(geobox: GeoBox) -> tuple[str, str]:
    """Name the dimensions of arrays on a grid.

    Parameters
    ----------
    geobox : GeoBox
        The grid.

    Returns
    -------
    tuple of str
        ("y", "x"), or ("lat", "lon") of a geographic grid.
    """
    return ("lat", "lon") if moon_crs(geobox.crs).is_geographic else ("y", "x")


def geobox_of(obj: xr.Dataset | xr.DataArray) -> GeoBox:
    """Grid that an xarray object lies on.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        With dimensions (y, x) or (lat, lon), coordinates at the pixel centres, and a lunar CRS. Without a CRS,
        degrees are taken for IAU_2015:30100.

    Returns
    -------
    odc.geo.geobox.GeoBox
        The grid; for a part cut out of a grid, on that grid's own lattice to the last bit.

    Raises
    ------
    GridError
        If dimensions, coordinates or CRS are missing, or the coordinates are not regular.
    BodyMismatchError
        If the CRS is of another body.
    """
    from odc.geo.geobox import GeoBox

    dims = spatial_dims(obj)
    if dims is None:
        raise GridError(
            f"there is no grid: the dimensions are {tuple(map(str, obj.dims))}",
            remedy="give a map with dimensions (y, x) or (lat, lon); tracks become one with .lunar.grid",
        )
    crs = crs_of(obj)
    if crs is None and dims != ("y", "x"):
        crs = moon_crs("geographic")
    crs = require_moon(crs, where=None if not getattr(obj, "name", None) else str(obj.name))
    return GeoBox((obj.sizes[dims[0]], obj.sizes[dims[1]]), affine_of_coords(obj, dims), crs)


def affine_of_coords(obj: xr.Dataset | xr.DataArray, dims: tuple[str, str]) -> Affine:
    """Transform from pixel corners to coordinates, from coordinates at the pixel centres.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        With a coordinate for each of `dims`; a ``GeoTransform`` in ``spatial_ref`` is used where it agrees with them.
    dims : tuple of str
        The dimensions of rows and of columns.

    Returns
    -------
    affine.Affine
        The transform.

    Raises
    ------
    GridError
        If coordinates are missing or irregular.
    """
    from affine import Affine

    hint = _geotransform(obj)
    pairs = []
    for dim, offset, step in (
        (dims[0], None if hint is None else hint.f, None if hint is None else hint.e),
        (dims[1], None if hint is None else hint.c, None if hint is None else hint.a),
    ):
        if dim not in obj.coords:
            raise GridError(
                f"dimension {dim!r} has no coordinate",
                where=dim,
                remedy="assign the coordinates of the pixel centres",
            )
        values = np.asarray(obj.coords[dim].values, dtype=np.float64)
        pairs.append(_regular_axis(values, dim, offset, step))
    (top, dy), (left, dx) = pairs
    return Affine(dx, 0.0, left, 0.0, dy, top)


def lonlat(geobox: GeoBox, chunks: int | tuple[int, int] | None = None) -> tuple[Any, Any]:
    """Longitude and latitude of every pixel centre.

    Parameters
    ----------
    geobox : odc.geo.geobox.GeoBox
        The grid.
    chunks : int or tuple of int, optional
        Make Dask arrays with these chunks; default: NumPy arrays.

    Returns
    -------
    lon, lat : array
        Degrees, float64, of the shape of the grid; lon in [-180, 180). NaN outside the projection.
    """
    if chunks is None:
        both = _lonlat_block(geobox, (0, geobox.shape[0]), (0, geobox.shape[1]))
        return both[0], both[1]
    import dask.array as da

    sizes = da.core.normalize_chunks(chunks, shape=tuple(geobox.shape), dtype=np.float64)
    both = da.map_blocks(
        _lonlat_task,
        geobox=geobox,
        chunks=((2,), *sizes),
        dtype=np.float64,
        meta=np.empty((0, 0, 0)),
        name="lonlat-" + _token(geobox, sizes),
    )
    return both[0], both[1]


def project(geobox: GeoBox, lon: Any, lat: Any) -> tuple[np.ndarray, np.ndarray]:
    """Project positions to fractional pixel positions of a grid.

    Parameters
    ----------
    geobox : odc.geo.geobox.GeoBox
        The grid, of R rows and C columns.
    lon, lat : array_like
        Degrees, any longitude range.

    Returns
    -------
    row, column : numpy.ndarray
        float64; pixel (i, j) spans [i, i + 1) by [j, j + 1). NaN where the position is not finite or not projectable.
        On grids in longitude, columns are counted from the turn that the grid covers.
    """
    import pyproj

    crs = moon_crs(geobox.crs)
    lon = np.atleast_1d(np.asarray(lon, dtype=np.float64))
    lat = np.atleast_1d(np.asarray(lat, dtype=np.float64))
    lon, lat = np.broadcast_arrays(lon, lat)
    good = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90.0)
    lon = wrap_longitude(np.where(good, lon, 0.0))
    lat = np.where(good, lat, 0.0)
    if crs.is_geographic:
        x, y = lon, lat
    else:
        # From the sphere that the projection is defined on: no datum shift between the Moon's many equal spheres.
        transformer = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
        x, y = transformer.transform(lon, lat)
    period = _period(crs)
    if period is not None:
        left, right = geobox.boundingbox.left, geobox.boundingbox.right
        # A grid that only overhangs ±180° by a fraction of a pixel counts from -180°; any other from its own left
        # edge.
        overhang = abs(geobox.transform.a)
        symmetric = (
            left <= -period / 2.0
            and right <= period / 2.0 + overhang
            and left > -period / 2.0 - overhang
        )
        start = -period / 2.0 if symmetric else left
        x = start + np.mod(np.round((x - start) / period, 15), 1.0) * period
    inverse = ~geobox.transform
    with np.errstate(invalid="ignore"):  # PROJ gives inf where the projection has no image
        column = np.round(inverse.a * x + inverse.b * y + inverse.c, _DECIMALS)
        row = np.round(inverse.d * x + inverse.e * y + inverse.f, _DECIMALS)
    good &= np.isfinite(row) & np.isfinite(column)
    return np.where(good, row, np.nan), np.where(good, column, np.nan)


def pixel_of(geobox: GeoBox, lon: Any, lat: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pixel of a grid that holds each position.

    Parameters
    ----------
    geobox : odc.geo.geobox.GeoBox
        The grid.
    lon, lat : array_like
        Degrees, any longitude range; they broadcast together.

    Returns
    -------
    row, column : numpy.ndarray of int64
        Indices; -1 for both where the position is outside the grid or not finite. A pole has one pixel whatever the
        longitude given with it, and +180° is the same place as -180°.
    """
    row, column = project(geobox, lon, lat)
    inside = np.ones(row.shape, dtype=bool)
    indices = []
    for position, size in ((row, geobox.shape[0]), (column, geobox.shape[1])):
        with np.errstate(invalid="ignore"):
            ok = (position >= 0.0) & (position <= size)
        index = np.where(ok, position, 0.0).astype(np.int64)
        indices.append(np.minimum(index, size - 1))  # the outer edge belongs to the last pixel
        inside &= ok
    return np.where(inside, indices[0], -1), np.where(inside, indices[1], -1)


def _lonlat_task(geobox: GeoBox, block_info: Any = None) -> np.ndarray:
    location = block_info[None]["array-location"]
    return _lonlat_block(geobox, location[1], location[2])


def _lonlat_block(geobox: GeoBox, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    import pyproj

    crs = moon_crs(geobox.crs)
    row, column = np.meshgrid(np.arange(*rows) + 0.5, np.arange(*columns) + 0.5, indexing="ij")
    affine = geobox.transform
    x = affine.a * column + affine.b * row + affine.c
    y = affine.d * column + affine.e * row + affine.f
    if crs.is_geographic:
        lon, lat = x, np.where(np.abs(y) <= 90.0, y, np.nan)
    else:
        lon, lat = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(
            x, y
        )
    bad = ~(np.isfinite(lon) & np.isfinite(lat))
    return np.stack(
        [np.where(bad, np.nan, wrap_longitude(np.where(bad, 0.0, lon))), np.where(bad, np.nan, lat)]
    )


def _geobox(bounds: Sequence[float], resolution: float, crs: Any) -> GeoBox:
    from affine import Affine
    from odc.geo.geobox import GeoBox

    try:
        left, bottom, right, top = (float(value) for value in bounds)
    except (TypeError, ValueError):
        raise GridError(
            f"{bounds!r} are not bounds", where="bounds", remedy="give (left, bottom, right, top)"
        ) from None
    if not (left < right and bottom < top and all(map(math.isfinite, (left, bottom, right, top)))):
        raise GridError(
            f"bounds {left}, {bottom}, {right}, {top} enclose nothing",
            where="bounds",
            remedy="give left < right and bottom < top, in the units of the CRS",
        )
    # Whole pixels counted from the CRS origin; a thousandth of a pixel of overhang is rounding, not coverage.
    first_column, last_column = (
        math.floor(left / resolution + 1e-3),
        math.ceil(right / resolution - 1e-3),
    )
    first_row, last_row = math.floor(bottom / resolution + 1e-3), math.ceil(top / resolution - 1e-3)
    shape = (last_row - first_row, last_column - first_column)
    affine = Affine(
        resolution, 0.0, first_column * resolution, 0.0, -resolution, last_row * resolution
    )
    return GeoBox(shape, affine, crs)


def _check_resolution(resolution: Any) -> float:
    try:
        value = float(resolution)
    except (TypeError, ValueError):
        raise GridError(
            f"{resolution!r} is not a resolution",
            where="resolution",
            remedy="give a positive number",
        ) from None
    if not (value > 0.0 and math.isfinite(value)):
        raise GridError(
            f"the resolution must be positive, not {resolution!r}",
            where="resolution",
            remedy="give the pixel size in metres (degrees on the geographic grid)",
        )
    return value


def _require_aligned(geobox: Any) -> None:
    if not geobox.axis_aligned:
        raise GridError(
            "the grid is rotated or sheared", where="grid", remedy="give an axis-aligned grid"
        )


def _name_of(crs: Any) -> str:
    from lunarray.geo.crs import NAMED_CRS, crs_code

    code = crs_code(crs)
    return next((name for name, known in NAMED_CRS.items() if known == code), "")


def _period(crs: Any) -> float | None:
    """Length of one turn of longitude along x, where x repeats: degrees, or metres in cylindrical projections."""
    if crs.is_geographic:
        return 360.0
    operation = crs.coordinate_operation
    if operation is None or "cylindrical" not in operation.method_name.lower():
        return None
    parallel = next(
        (p.value for p in operation.params if "standard parallel" in p.name.lower()), 0.0
    )
    return 2.0 * math.pi * float(crs.ellipsoid.semi_major_metre) * math.cos(math.radians(parallel))


def _geotransform(obj: Any) -> Affine | None:
    from affine import Affine

    from lunarray.geo.crs import CRS_COORD

    text = obj.coords[CRS_COORD].attrs.get("GeoTransform") if CRS_COORD in obj.coords else None
    if text is None:
        return None
    try:
        values = [float(value) for value in (text.split() if isinstance(text, str) else text)]
        return Affine.from_gdal(*values)
    except (TypeError, ValueError, AttributeError):
        return None


def _regular_axis(
    values: np.ndarray, dim: str, offset: float | None, step: float | None
) -> tuple[float, float]:
    """(edge, step) of regularly spaced pixel centres, on the lattice (offset, step) where they lie on it."""
    if values.size and offset is not None and step:
        positions = (values - offset) / step - 0.5
        first = np.round(positions[0])
        if np.allclose(positions, first + np.arange(values.size), rtol=0.0, atol=1e-3):
            return float(offset + first * step), float(step)
    if values.size < 2:
        raise GridError(
            f"{values.size} pixel along {dim!r} does not tell the resolution",
            where=dim,
            remedy="keep spatial_ref with its GeoTransform (lunarray.geo.assign_crs on the whole map), "
            "or give two pixels",
        )
    spacing = (values[-1] - values[0]) / (values.size - 1)
    # float32 coordinates are good to some 1e-7 of their largest value.
    tolerance = max(1e-3 * abs(spacing), 2e-7 * float(np.max(np.abs(values))))
    expected = values[0] + np.arange(values.size) * spacing
    if not np.isfinite(spacing) or spacing == 0.0 or np.max(np.abs(values - expected)) > tolerance:
        steps = np.diff(values)
        raise GridError(
            f"the coordinate is not regular: its steps lie between {steps.min():g} and {steps.max():g}",
            where=dim,
            remedy="regrid the data on a regular grid first",
        )
    return float(values[0] - spacing / 2.0), float(spacing)


def _token(*parts: Any) -> str:
    from dask.base import tokenize

    return tokenize(*parts)


__all__ = [
    "DEFAULT_RESOLUTION",
    "affine_of_coords",
    "geobox_of",
    "grid_coords",
    "grid_dims",
    "lonlat",
    "lunar_grid",
    "pixel_of",
    "polar_grid",
    "project",
]
