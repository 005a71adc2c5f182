"""From pixels to the ground: grids of the Moon and of Mercury, true lengths and areas, geometries between projections.

The rooms that make maps hold to the Moon; the images of this one may also be of Mercury, so the few things that it
needs of a grid are here, for either body.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import BodyMismatchError, GridError
from lunarray.geo.crs import CRS_COORD, assign_crs, crs_of, is_moon, require_moon, spatial_dims
from lunarray.geo.grid import affine_of_coords

if TYPE_CHECKING:
    import pyproj
    import xarray as xr
    from affine import Affine
    from odc.geo.geobox import GeoBox

__all__ = ["Metric", "assign_grid", "box_of", "metric_of", "planet_crs", "transform_geometry"]

# Spheres and ellipsoids in use for Mercury (m).
_MERCURY_RADII = (2_437_000.0, 2_441_500.0)
_UNPROJECTED = (
    "map-project it first (ISIS: cam2map, or lunarray.fractures.process_edr); where the coordinates are known, assign "
    "them with lunarray.geo.assign_crs"
)


def planet_crs(crs: Any, where: str | None = None) -> pyproj.CRS:
    """Insist that a CRS is of the Moon or of Mercury.

    Parameters
    ----------
    crs : str, int or CRS object
        What :func:`lunarray.geo.moon_crs` takes.
    where : str, optional
        The file or variable, for the message.

    Returns
    -------
    pyproj.CRS
        The CRS.

    Raises
    ------
    GridError
        If there is none.
    BodyMismatchError
        If it is of another body.
    """
    wkt = crs.to_wkt() if hasattr(crs, "to_wkt") else None
    known = None if wkt is None else _PLANETS.get(wkt)
    if known is None:
        known = _recognised(crs, where)
        if wkt is not None and len(_PLANETS) < 256:
            _PLANETS[wkt] = known
    return known


#: Systems recognised so far, by their WKT: to recognise one costs milliseconds, and each block of a mosaic asks.
_PLANETS: dict[str, Any] = {}


def _recognised(crs: Any, where: str | None) -> pyproj.CRS:
    try:
        return require_moon(crs, where=where)
    except BodyMismatchError as error:
        from lunarray.geo.crs import _to_pyproj

        parsed: pyproj.CRS = _to_pyproj(crs)
        ellipsoid = parsed.ellipsoid
        radius = 0.0 if ellipsoid is None else float(ellipsoid.semi_major_metre)
        if _MERCURY_RADII[0] <= radius <= _MERCURY_RADII[1]:
            return parsed
        raise BodyMismatchError(
            error.problem.replace("not of the Moon", "neither of the Moon nor of Mercury"),
            where=error.where,
            remedy=error.remedy,
        ) from None


def box_of(obj: xr.Dataset | xr.DataArray, purpose: str = "") -> GeoBox:
    """Grid that an image lies on.

    Parameters
    ----------
    obj : Dataset or DataArray
        With dimensions (y, x) or (lat, lon), coordinates of the pixel centres and a CRS.
    purpose : str, optional
        What the grid is needed for, for the message.

    Returns
    -------
    odc.geo.geobox.GeoBox
        The grid.

    Raises
    ------
    GridError
        If the image is not georeferenced.
    BodyMismatchError
        If it is of a body other than the Moon and Mercury.
    """
    from odc.geo.geobox import GeoBox

    dims = spatial_dims(obj)
    name = str(getattr(obj, "name", None) or "image")
    if dims is None:
        raise GridError(
            f"no image: the dimensions are {tuple(map(str, obj.dims))}",
            where=name,
            remedy="give dimensions (y, x)",
        )
    crs = crs_of(obj)
    if crs is None or any(dim not in obj.coords for dim in dims):
        need = f"; {purpose} needs its place and scale on the ground" if purpose else ""
        raise GridError(f"the image is not georeferenced{need}", where=name, remedy=_UNPROJECTED)
    crs = planet_crs(crs, where=name)
    return GeoBox((obj.sizes[dims[0]], obj.sizes[dims[1]]), affine_of_coords(obj, dims), crs)


def assign_grid(obj: Any, geobox: GeoBox) -> Any:
    """Give an image the coordinates and the CRS of a grid.

    Parameters
    ----------
    obj : Dataset or DataArray
        With the dimensions of the grid.
    geobox : odc.geo.geobox.GeoBox
        Of the Moon or of Mercury.

    Returns
    -------
    same type as `obj`
        With coordinates of the pixel centres and ``spatial_ref``.
    """
    import xarray as xr

    from lunarray.geo.crs import _COORD_ATTRS

    crs = planet_crs(geobox.crs)
    dims = ("lat", "lon") if crs.is_geographic else ("y", "x")
    affine = geobox.transform
    rows, columns = geobox.shape
    obj = obj.assign_coords(
        {
            dims[0]: (
                dims[0],
                affine.f + (np.arange(rows) + 0.5) * affine.e,
                dict(_COORD_ATTRS[dims[0]]),
            ),
            dims[1]: (
                dims[1],
                affine.c + (np.arange(columns) + 0.5) * affine.a,
                dict(_COORD_ATTRS[dims[1]]),
            ),
        }
    )
    if is_moon(crs):
        return assign_crs(obj, geobox)
    attrs = {key: value for key, value in crs.to_cf().items() if value is not None}
    attrs["crs_wkt"] = attrs["spatial_ref"] = crs.to_wkt("WKT2_2019")
    attrs["GeoTransform"] = " ".join(repr(float(value)) for value in affine.to_gdal())
    obj = obj.assign_coords({CRS_COORD: xr.Variable((), np.int64(0), attrs)})
    if isinstance(obj, xr.DataArray):
        obj.attrs["grid_mapping"] = CRS_COORD
    else:
        for variable in obj.data_vars.values():
            if set(dims) <= set(variable.dims):
                variable.attrs["grid_mapping"] = CRS_COORD
    return obj


def covering_box(
    bounds: Sequence[float], resolution: float | tuple[float, float], crs: Any
) -> GeoBox:
    """Grid of whole pixels, counted from the origin of the CRS, that covers bounds."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    dx, dy = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    if not (dx > 0 and dy > 0 and math.isfinite(dx) and math.isfinite(dy)):
        raise GridError(
            f"a resolution of {resolution}", where="resolution", remedy="give metres, more than 0"
        )
    left, bottom, right, top = (float(value) for value in bounds)
    if not (left < right and bottom < top and all(map(math.isfinite, (left, bottom, right, top)))):
        raise GridError(
            f"bounds {left}, {bottom}, {right}, {top} enclose nothing",
            where="bounds",
            remedy="give (left, bottom, right, top)",
        )
    # A thousandth of a pixel of overhang is rounding, not ground.
    x0, x1 = math.floor(left / dx + 1e-3), math.ceil(right / dx - 1e-3)
    y0, y1 = math.floor(bottom / dy + 1e-3), math.ceil(top / dy - 1e-3)
    return GeoBox((y1 - y0, x1 - x0), Affine(dx, 0.0, x0 * dx, 0.0, -dy, y1 * dy), crs)


def metres_per_pixel(geobox: GeoBox) -> float:
    """Side of a pixel (m) by the map's own scale: of the square root of its nominal area."""
    crs = planet_crs(geobox.crs)
    side = math.sqrt(abs(geobox.transform.a * geobox.transform.e))
    return side * math.radians(1.0) * radius_of(crs) if crs.is_geographic else side


def radius_of(crs: pyproj.CRS) -> float:
    """Radius (m) of the sphere, or the longer one of the ellipsoid, of a CRS."""
    ellipsoid = crs.ellipsoid
    if ellipsoid is None:
        raise GridError(
            "a CRS without a body", where="crs", remedy="give one of the Moon or of Mercury"
        )
    return float(ellipsoid.semi_major_metre)


@functools.lru_cache(maxsize=64)
def _transformer(wkt: str, forward: bool) -> pyproj.Transformer:
    """Between a projection and longitudes and latitudes; kept, since making one costs milliseconds.

    On the projection's own sphere: no datum shift between a body's many equal spheres. pyproj sees to it that each
    thread has one of its own.
    """
    import pyproj

    crs = pyproj.CRS.from_wkt(wkt)
    source, target = (crs.geodetic_crs, crs) if forward else (crs, crs.geodetic_crs)
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def lonlat_of(crs: pyproj.CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes (degrees) on the sphere that a projection is defined on."""
    if crs.is_geographic:
        return np.asarray(x, np.float64), np.asarray(y, np.float64)
    lon, lat = _transformer(crs.to_wkt(), False).transform(x, y)
    return np.asarray(lon), np.asarray(lat)


def xy_of(crs: pyproj.CRS, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in a CRS of longitudes and latitudes (degrees); infinite where it has no image."""
    if crs.is_geographic:
        return np.asarray(lon, np.float64), np.asarray(lat, np.float64)
    x, y = _transformer(crs.to_wkt(), True).transform(lon, lat)
    return np.asarray(x), np.asarray(y)


def period_of(crs: pyproj.CRS) -> float | None:
    """Length of one turn of longitude along x, where x repeats."""
    if crs.is_geographic:
        return 360.0
    operation = crs.coordinate_operation
    if operation is None or "cylindrical" not in operation.method_name.lower():
        return None
    parallel = next(
        (p.value for p in operation.params if "standard parallel" in p.name.lower()), 0.0
    )
    return 2.0 * math.pi * radius_of(crs) * math.cos(math.radians(float(parallel)))


def transform_geometry(
    geometries: Any, source: Any, target: Any, *, centre: float = 0.0, step: float | None = None
) -> np.ndarray:
    """Bring geometries into another projection of the same body.

    Parameters
    ----------
    geometries : array of shapely geometries
        In the coordinates of `source`.
    source, target : CRS
        Of the Moon or of Mercury. Between spheres of slightly different radius, longitude and latitude are kept.
    centre : float
        Where x repeats with longitude: the x that results lie around.
    step : float, optional
        Longest side (units of `source`) before transformation, so that straight lines become the curves that they are.

    Returns
    -------
    ndarray of shapely geometries
        In the coordinates of `target`.

    Raises
    ------
    BodyMismatchError
        If one CRS is of the Moon and the other of Mercury.
    """
    import shapely

    source, target = planet_crs(source), planet_crs(target)
    if is_moon(source) != is_moon(target):
        raise BodyMismatchError(
            f"{source.name!r} and {target.name!r} are of different bodies",
            where="crs",
            remedy="give vectors of the body that the image is of",
        )
    shapes = np.asarray(geometries, dtype=object)
    period = period_of(target)
    same = source == target
    if same and period is None:
        return shapes
    if step is not None and not same:
        shapes = shapely.segmentize(shapes, step)
    shapes = shapely.force_2d(shapes)

    def move(points: np.ndarray) -> np.ndarray:
        if same:
            return points.copy()
        lon, lat = lonlat_of(source, points[:, 0], points[:, 1])
        return np.column_stack(xy_of(target, lon, lat))

    moved = shapely.transform(shapes, move)
    return moved if period is None else _unrolled(moved, period, centre)


def _unrolled(shapes: np.ndarray, period: float, centre: float) -> np.ndarray:
    """Geometries without jumps of a whole turn of longitude, on the turn that holds `centre`."""
    import shapely

    coords, index = shapely.get_coordinates(shapes, return_index=True)
    if not len(coords):
        return shapes
    # Rings and parts of one geometry are unrolled together: the first point of each near its neighbour's last.
    x = coords[:, 0].copy()
    starts = np.flatnonzero(np.diff(index, prepend=-1))
    jumps = np.diff(x, prepend=x[0])
    jumps[starts] = 0.0
    with np.errstate(invalid="ignore"):
        turns = np.where(np.isfinite(jumps), -np.round(jumps / period), 0.0)
    turns = np.cumsum(turns)
    turns -= np.repeat(turns[starts], np.diff(np.append(starts, len(x))))
    x += turns * period
    counts = np.diff(np.append(starts, len(x)))
    lowest, highest = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
    middle = (lowest + highest) / 2
    with np.errstate(invalid="ignore"):
        shift = np.where(np.isfinite(middle), np.round((centre - middle) / period), 0.0) * period
    coords = np.column_stack([x + np.repeat(shift, counts), coords[:, 1]])
    return shapely.set_coordinates(shapes.copy(), coords)


@dataclass(frozen=True)
class Metric:
    """True lengths and areas on the ground of what is small on a grid, by interpolation in a coarse lattice.

    Attributes
    ----------
    tensor : ndarray, shape (rows, columns, 3), float64
        Metric tensor (m²) at the nodes: squared lengths of one step along a column's direction (x) and a row's (y),
        and their inner product.
    step : float
        Pixels between nodes.
    radius : float
        Of the body, m.
    """

    tensor: np.ndarray
    step: float
    radius: float

    def at(self, row: Any, column: Any) -> np.ndarray:
        """Metric tensor (…, 3) at fractional pixel positions."""
        row = np.asarray(row, np.float64) / self.step
        column = np.asarray(column, np.float64) / self.step
        rows, columns = self.tensor.shape[:2]
        i = np.clip(row.astype(np.int64), 0, max(rows - 2, 0))
        j = np.clip(column.astype(np.int64), 0, max(columns - 2, 0))
        u, v = (row - i)[..., None], (column - j)[..., None]
        t = self.tensor
        return (t[i, j] * (1 - v) + t[i, j + 1] * v) * (1 - u) + (
            t[i + 1, j] * (1 - v) + t[i + 1, j + 1] * v
        ) * u

    def area(self, row: Any, column: Any) -> np.ndarray:
        """Area on the ground (m²) of a pixel at a position."""
        t = self.at(row, column)
        return np.sqrt(np.maximum(t[..., 0] * t[..., 1] - t[..., 2] ** 2, 0.0))


#: Ground between the nodes of the metric (m): linear interpolation is then good to a millionth.
_NODES = 4_000.0


def metric_of(geobox: GeoBox) -> Metric:
    """True lengths and areas on a grid.

    From the positions in space of pixels around each node, so that neither poles nor the ±180° meridian are special,
    and any projection will do.

    Parameters
    ----------
    geobox : odc.geo.geobox.GeoBox
        The grid, of the Moon or of Mercury.

    Returns
    -------
    Metric
        The metric.

    Raises
    ------
    GridError
        If the grid is rotated.
    """
    affine: Affine = geobox.transform
    if affine.b or affine.d:
        raise GridError("the grid is rotated", where="grid", remedy="give an axis-aligned grid")
    crs = planet_crs(geobox.crs)
    radius = radius_of(crs)
    step = max(1.0, _NODES / max(metres_per_pixel(geobox), 1e-6))
    rows, columns = (math.ceil(size / step) + 1 for size in geobox.shape)
    rows, columns = max(rows, 2), max(columns, 2)
    row, column = np.meshgrid(np.arange(rows) * step, np.arange(columns) * step, indexing="ij")
    # Steps of some metres: far above rounding, far below the curvature.
    delta = max(1e-6 * radius / max(metres_per_pixel(geobox), 1e-12), 1e-6)

    def place(r: np.ndarray, c: np.ndarray) -> np.ndarray:
        lon, lat = lonlat_of(crs, affine.a * c + affine.c, affine.e * r + affine.f)
        if crs.is_geographic:
            lat = np.clip(lat, -90.0, 90.0)
        lam, phi = np.deg2rad(lon), np.deg2rad(lat)
        return np.stack(
            [np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1
        )

    along_x = (place(row, column + delta) - place(row, column - delta)) * (radius / (2 * delta))
    along_y = (place(row + delta, column) - place(row - delta, column)) * (radius / (2 * delta))
    tensor = np.stack(
        [(along_x**2).sum(-1), (along_y**2).sum(-1), (along_x * along_y).sum(-1)], axis=-1
    )
    return Metric(np.where(np.isfinite(tensor), tensor, np.nan), step, radius)


def north_of(
    geobox: GeoBox, row: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Longitude, latitude, and how one pixel along x and y moves east and north (m), at pixel positions."""
    crs, affine = planet_crs(geobox.crs), geobox.transform
    radius = radius_of(crs)
    delta = max(1e-6 * radius / max(metres_per_pixel(geobox), 1e-12), 1e-6)

    def at(r: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return lonlat_of(crs, affine.a * c + affine.c, affine.e * r + affine.f)

    lon, lat = at(row, column)
    lam, phi = np.deg2rad(lon), np.deg2rad(lat)
    east = np.stack([-np.sin(lam), np.cos(lam), np.zeros_like(lam)], -1)
    north = np.stack([-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)], -1)
    out = []
    for dr, dc in ((0.0, delta), (delta, 0.0)):
        ends = []
        for sign in (1.0, -1.0):
            lo, la = np.deg2rad(at(row + sign * dr, column + sign * dc))
            ends.append(
                np.stack([np.cos(la) * np.cos(lo), np.cos(la) * np.sin(lo), np.sin(la)], -1)
            )
        chord = (ends[0] - ends[1]) * (radius / (2 * delta))
        out += [(chord * east).sum(-1), (chord * north).sum(-1)]
    return (np.mod(lon + 180.0, 360.0) - 180.0, lat, *out)
