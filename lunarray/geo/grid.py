"""Grids: an odc-geo GeoBox is the value that says where the pixels of a map lie.

Pixels are half-open, ``[left, right)`` by ``(bottom, top]``, and the last row and column also own the outer edge, so
that -90° has a row. Positions are computed here with PROJ on the whole array: odc-geo's tile logic goes through
Earth's lat/lon and loses pixels at the poles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lunarray.errors import GridError
from lunarray.geo.crs import (
    BODIES,
    as_crs,
    crs_name,
    from_lonlat,
    moon_crs,
    period_of,
    radius_of,
    require_body,
    to_lonlat,
)
from lunarray.geo.georeference import geobox_of, require_aligned
from lunarray.geo.sphere import RADIUS, wrap_longitude

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

#: Resolution of grids for which none is given: metres, or degrees on the geographic grid.
DEFAULT_RESOLUTION = {"north": 500.0, "south": 500.0, "equirectangular": 500.0, "geographic": 0.5}

# Rounding of pixel positions (fraction of a pixel). sin(180°) is not 0 in floating point, so that a point on the
# ±180° meridian or at the pole would fall on either side of a pixel edge by its rounding error.
_DECIMALS = 8


Pole = Literal["north", "south"]
POLES: tuple[Pole, ...] = ("north", "south")


def polar_grid(pole: Pole, resolution: float = 500.0, latitude: float = 65.0) -> GeoBox:
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

    Examples
    --------
    >>> import lunarray as la
    >>> tuple(la.geo.polar_grid("south", resolution=500.0, latitude=80).shape)
    (1218, 1218)
    """
    if pole not in ("north", "south"):
        raise GridError(f"{pole!r} is not a pole", where="pole", remedy='Use "north" or "south"')
    resolution = _check_resolution(resolution)
    latitude = abs(float(latitude))
    if not 0.0 <= latitude < 90.0:
        raise GridError(
            f"a polar grid cannot begin at latitude {latitude}",
            where="latitude",
            remedy="Give 0 or more and less than 90 degrees",
        )
    edge = 2.0 * RADIUS * math.tan(math.radians(90.0 - latitude) / 2.0)
    return covering_box((-edge, -edge, edge, edge), resolution, moon_crs(pole))


def lunar_grid(
    spec: Any = "north",
    resolution: float | None = None,
    bounds: Sequence[float] | None = None,
    *,
    latitude: float = 65.0,
) -> GeoBox:
    """Make a lunar grid by name, or take the grid of an xarray object.

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

    Raises
    ------
    GridError
        If the specification does not make a grid.
    BodyMismatchError
        If it is of another body.

    Examples
    --------
    >>> import lunarray as la
    >>> tuple(la.geo.lunar_grid("geographic", resolution=0.5).shape)
    (360, 720)
    """
    from odc.geo.geobox import GeoBox

    if not isinstance(spec, (str, int, np.integer)) and (
        isinstance(spec, GeoBox) or hasattr(spec, "dims")
    ):
        geobox = spec if isinstance(spec, GeoBox) else geobox_of(spec)
        require_body(geobox.crs, where="grid")
        if resolution is None and bounds is None:
            return geobox
        require_aligned(geobox)
        box = geobox.boundingbox
        return covering_box(
            (box.left, box.bottom, box.right, box.top) if bounds is None else bounds,
            _check_resolution(abs(geobox.transform.a) if resolution is None else resolution),
            moon_crs(geobox.crs),
        )
    crs = moon_crs(spec)
    name = crs_name(crs)
    if resolution is None:
        resolution = DEFAULT_RESOLUTION.get(name, 0.5 if crs.is_geographic else 500.0)
    resolution = _check_resolution(resolution)
    if bounds is None:
        for pole in POLES:
            if name == pole:
                return polar_grid(pole, resolution, latitude)
        if crs.is_geographic:
            bounds = (-180.0, -90.0, 180.0, 90.0)
        elif (period := period_of(crs)) is not None:
            half = period / 2.0
            bounds = (-half, -math.pi * RADIUS / 2.0, half, math.pi * RADIUS / 2.0)
        else:
            raise GridError(
                f"the extent of a grid in {crs.name!r} is not known",
                where="bounds",
                remedy="Give bounds=(left, bottom, right, top)",
            )
    return covering_box(bounds, resolution, crs)


def lonlat(geobox: GeoBox, chunks: int | tuple[int, int] | None = None) -> tuple[Any, Any]:
    """Longitude and latitude of every pixel centre.

    Parameters
    ----------
    geobox : odc.geo.geobox.GeoBox
    chunks : int or tuple of int, optional
        Make Dask arrays with these chunks; default: NumPy arrays.

    Returns
    -------
    lon, lat : array
        Degrees, float64, of the shape of the grid; lon in [-180, 180). NaN outside the projection.

    Examples
    --------
    >>> import lunarray as la
    >>> lon, lat = la.geo.lonlat(la.geo.polar_grid("north", resolution=10_000, latitude=85))
    >>> round(float(lat.max()), 2)
    89.77
    """
    if chunks is None:
        both = lonlat_block(geobox, (0, geobox.shape[0]), (0, geobox.shape[1]))
        return both[0], both[1]
    import dask.array as da
    from dask.base import tokenize

    sizes = da.core.normalize_chunks(chunks, shape=tuple(geobox.shape), dtype=np.float64)
    both = da.map_blocks(
        _lonlat_task,
        geobox=geobox,
        chunks=((2,), *sizes),
        dtype=np.float64,
        meta=np.empty((0, 0, 0)),
        name="lonlat-" + tokenize(grid_token(geobox), sizes),
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

    Examples
    --------
    >>> import lunarray as la
    >>> x, y = la.geo.project(la.geo.polar_grid("north"), [0.0], [89.0])
    >>> y.round()
    array([1541.])
    """
    crs = require_body(geobox.crs, BODIES)
    lon = np.atleast_1d(np.asarray(lon, dtype=np.float64))
    lat = np.atleast_1d(np.asarray(lat, dtype=np.float64))
    lon, lat = np.broadcast_arrays(lon, lat)
    good = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90.0)
    lon = wrap_longitude(np.where(good, lon, 0.0))
    lat = np.where(good, lat, 0.0)
    x, y = from_lonlat(crs, lon, lat)
    period = period_of(crs)
    if period is not None:
        start = turn_start(geobox, period)
        x = start + np.mod(np.round((x - start) / period, 15), 1.0) * period
    inverse = ~geobox.transform
    with np.errstate(invalid="ignore"):  # PROJ gives inf where the projection has no image
        column = np.round(inverse.a * x + inverse.b * y + inverse.c, _DECIMALS)
        row = np.round(inverse.d * x + inverse.e * y + inverse.f, _DECIMALS)
    good &= np.isfinite(row) & np.isfinite(column)
    return np.where(good, row, np.nan), np.where(good, column, np.nan)


def turn_start(geobox: GeoBox, period: float) -> float:
    """Coordinate x from which the turn of longitude is counted that a grid covers."""
    left, right = geobox.boundingbox.left, geobox.boundingbox.right
    # A grid that only overhangs ±180° by a fraction of a pixel counts from -180°; any other from its own left edge.
    half, overhang = period / 2.0, abs(geobox.transform.a)
    return -half if -half - overhang < left <= -half and right <= half + overhang else left


class Closure(NamedTuple):
    """How a grid in longitude closes on itself."""

    turn: float
    """Columns in one turn; 0 where x does not repeat."""
    start: float
    """Column from which the turn is counted that the grid covers."""
    around: bool
    """Whether the last column is the neighbour of the first."""
    over_top: bool
    """Whether the first row ends at a pole, beyond which the other side begins, half a turn on."""
    over_bottom: bool
    """Whether the last row does."""


def closure_of(geobox: GeoBox) -> Closure:
    """How a grid closes on itself: around the body, and over its poles."""
    crs, affine = require_body(geobox.crs, BODIES), geobox.transform
    (height, width), period = geobox.shape, period_of(crs)
    if period is None:
        return Closure(0.0, 0.0, False, False, False)
    step = abs(affine.a)
    if abs(width * step - period) >= 0.01 * step:
        start = (turn_start(geobox, period) - affine.c) / affine.a
        start -= period / step if affine.a < 0 else 0.0
        return Closure(period / step, start, False, False, False)
    ends = np.array([affine.f, affine.f + height * affine.e])
    poles = from_lonlat(crs, np.zeros(2), np.array([90.0, -90.0]))[1]
    near = (np.abs(ends[:, None] - poles) <= 1e-3 * abs(affine.e)).any(axis=1)
    return Closure(float(width), 0.0, True, bool(near[0]), bool(near[1]))


def pixel_of(geobox: GeoBox, lon: Any, lat: Any) -> tuple[np.ndarray, np.ndarray]:
    """Find the pixel of a grid that each position lies in.

    Parameters
    ----------
    geobox : odc.geo.geobox.GeoBox
    lon, lat : array_like
        Degrees, any longitude range; they broadcast together.

    Returns
    -------
    row, column : numpy.ndarray of int64
        Indices; -1 for both where the position is outside the grid or not finite. A pole has one pixel whatever the
        longitude given with it, and +180° is the same place as -180°.

    Examples
    --------
    >>> import lunarray as la
    >>> grid = la.geo.lunar_grid("geographic", resolution=0.5)
    >>> la.geo.pixel_of(grid, [0.1], [89.9])
    (array([0]), array([360]))
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
    return lonlat_block(geobox, location[1], location[2])


def lonlat_block(geobox: GeoBox, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Longitude and latitude (2, rows, columns) of the pixel centres of a part of a grid, as :func:`lonlat`."""
    crs = require_body(geobox.crs, BODIES)
    row, column = np.meshgrid(np.arange(*rows) + 0.5, np.arange(*columns) + 0.5, indexing="ij")
    affine = geobox.transform
    x = affine.a * column + affine.b * row + affine.c
    y = affine.d * column + affine.e * row + affine.f
    lon, lat = to_lonlat(crs, x, y)
    if crs.is_geographic:
        lat = np.where(np.abs(lat) <= 90.0, lat, np.nan)
    bad = ~(np.isfinite(lon) & np.isfinite(lat))
    return np.stack(
        [np.where(bad, np.nan, wrap_longitude(np.where(bad, 0.0, lon))), np.where(bad, np.nan, lat)]
    )


def covering_box(
    bounds: Sequence[float], resolution: float | tuple[float, float], crs: Any
) -> GeoBox:
    """Smallest grid of whole pixels, counted from the origin of the CRS, that covers bounds.

    Parameters
    ----------
    bounds : sequence of 4 float
        left, bottom, right, top in the units of the CRS.
    resolution : float or (float, float)
        Pixel along x and y, in the same units.
    crs : CRS
        Of whatever body.

    Returns
    -------
    odc.geo.geobox.GeoBox
        Rows from the top.

    Examples
    --------
    >>> import lunarray as la
    >>> tuple(la.geo.covering_box((0, 0, 2, 1), 0.5, "IAU_2015:30100").shape)
    (2, 4)
    """
    from affine import Affine
    from odc.geo.geobox import GeoBox

    dx, dy = map(
        _check_resolution, resolution if isinstance(resolution, tuple) else (resolution,) * 2
    )
    try:
        left, bottom, right, top = (float(value) for value in bounds)
    except (TypeError, ValueError):
        raise GridError(
            f"{bounds!r} are not bounds", where="bounds", remedy="Give (left, bottom, right, top)"
        ) from None
    if not (left < right and bottom < top and all(map(math.isfinite, (left, bottom, right, top)))):
        raise GridError(
            f"bounds {left}, {bottom}, {right}, {top} enclose nothing",
            where="bounds",
            remedy="Give left < right and bottom < top, in the units of the CRS",
        )
    # A thousandth of a pixel of overhang is rounding, not coverage.
    x0, x1 = math.floor(left / dx + 1e-3), math.ceil(right / dx - 1e-3)
    y0, y1 = math.floor(bottom / dy + 1e-3), math.ceil(top / dy - 1e-3)
    return GeoBox((y1 - y0, x1 - x0), Affine(dx, 0.0, x0 * dx, 0.0, -dy, y1 * dy), crs)


def pixel_size(geobox: GeoBox) -> float:
    """Side of a pixel (m) by the map's own scale: of the square root of its nominal area."""
    side = math.sqrt(abs(geobox.transform.a * geobox.transform.e))
    crs = as_crs(geobox.crs)
    return side * math.radians(1.0) * radius_of(crs) if crs.is_geographic else side


def grid_token(geobox: GeoBox) -> Any:
    """Token of a grid for ``__dask_tokenize__``, the same for equal grids."""
    from dask.base import normalize_token

    return normalize_token((tuple(geobox.shape), tuple(geobox.transform), str(geobox.crs)))


def _check_resolution(resolution: Any) -> float:
    try:
        value = float(resolution)
    except (TypeError, ValueError):
        value = math.nan
    if not (value > 0.0 and math.isfinite(value)):
        raise GridError(
            f"a resolution of {resolution!r}",
            where="resolution",
            remedy="Give the pixel size in metres (degrees on the geographic grid), more than 0",
        )
    return value
