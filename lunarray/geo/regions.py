"""Regions of the Moon: circles, boxes in longitude and latitude, polygons."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import GridError, InputError
from lunarray.geo.crs import MOON, from_lonlat, moon_crs, require_body, to_lonlat
from lunarray.geo.footprints import unit_vectors
from lunarray.geo.grid import lunar_grid
from lunarray.geo.sphere import RADIUS, great_circle_distance, wrap_longitude
from lunarray.geo.vectors import read_vectors

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox
    from shapely.geometry.base import BaseGeometry

#: Step along an outline (degrees of arc, or of the turn of a circle).
OUTLINE_STEP = 2.0


@dataclass(frozen=True)
class Circle:
    """All places within a distance of a centre.

    Attributes
    ----------
    lon, lat : float
        Centre, degrees.
    radius : float
        Along the ground, m.
    name, abbreviation : str
        What it is called.

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.Circle(-47.5, 23.7, 40_000, name="Aristarchus").radius
    40000
    """

    lon: float
    lat: float
    radius: float
    name: str = ""
    abbreviation: str = ""

    def __post_init__(self) -> None:
        _check_place(self.lon, self.lat, self.name or "circle")
        if not 0 < self.radius <= math.pi * RADIUS:
            raise InputError(
                f"a radius of {self.radius} m", where=self.name or "circle", remedy="Give metres, more than 0"
            )  # fmt: skip

    def contains(self, lon: Any, lat: Any) -> np.ndarray:
        """Which places lie inside, as booleans."""
        return np.asarray(great_circle_distance(self.lon, self.lat, lon, lat) <= self.radius)

    def cap(self) -> tuple[float, float, float]:
        """Longitude, latitude (degrees) and radius (m) of a circle around all of it."""
        return self.lon, self.lat, self.radius

    def seeds(self) -> tuple[np.ndarray, np.ndarray]:
        """Longitudes and latitudes of places inside, one at least in each part."""
        return np.array([self.lon]), np.array([self.lat])

    def rings(self, step: float = OUTLINE_STEP) -> list[tuple[np.ndarray, np.ndarray]]:
        """Outline as longitudes and latitudes, closed, with a corner every `step` degrees of the turn."""
        turn = np.linspace(0.0, 2 * math.pi, math.ceil(360.0 / step) + 1)
        phi, lam, d = math.radians(self.lat), math.radians(self.lon), self.radius / RADIUS
        lat = np.arcsin(
            np.clip(math.sin(phi) * math.cos(d) + math.cos(phi) * math.sin(d) * np.cos(turn), -1, 1)
        )
        # This form keeps its digits at the poles, where that with sin(lat) is 0 / 0.
        lon = lam + np.arctan2(
            np.sin(turn) * math.sin(d),
            math.cos(phi) * math.cos(d) - math.sin(phi) * math.sin(d) * np.cos(turn),
        )
        return [(wrap_longitude(np.rad2deg(lon)), np.rad2deg(lat))]


@dataclass(frozen=True)
class Box:
    """All places between two meridians and two parallels.

    Attributes
    ----------
    west, south, east, north : float
        Degrees. From west to east eastward: 170 to -170 crosses the ±180° meridian; -180 to 180 is all around.
    name, abbreviation : str
        What it is called.

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.Box(-60.0, 10.0, -50.0, 20.0, name="Aristarchus").name
    'Aristarchus'
    """

    west: float
    south: float
    east: float
    north: float
    name: str = ""
    abbreviation: str = ""

    def __post_init__(self) -> None:
        where = self.name or "box"
        _check_place(self.west, self.south, where)
        _check_place(self.east, self.north, where)
        if not self.south < self.north:
            raise InputError(
                f"latitudes from {self.south} to {self.north}", where=where, remedy="Give south below north"
            )  # fmt: skip
        if self.west == self.east:
            raise InputError(
                f"longitudes from {self.west} to {self.east}",
                where=where,
                remedy="Give a width; all around is -180, 180",
            )

    @property
    def width(self) -> float:
        """Degrees of longitude, up to 360."""
        width = (self.east - self.west) % 360.0
        return width if width else 360.0

    def contains(self, lon: Any, lat: Any) -> np.ndarray:
        """Which places lie inside, as booleans; the eastern and the northern border do not, but for the pole."""
        lon, lat = np.asarray(lon, np.float64), np.asarray(lat, np.float64)
        inside = np.mod(lon - self.west, 360.0) < self.width
        top = lat <= 90.0 if self.north == 90.0 else lat < self.north
        return inside & (lat >= self.south) & top

    def cap(self) -> tuple[float, float, float]:
        """Longitude, latitude (degrees) and radius (m) of a circle around all of it."""
        return _cap_of(*self._points())

    def seeds(self) -> tuple[np.ndarray, np.ndarray]:
        """Longitudes and latitudes of places inside, one at least in each part."""
        return np.array([self.west + self.width / 2]), np.array([(self.south + self.north) / 2])

    def rings(self, step: float = OUTLINE_STEP) -> list[tuple[np.ndarray, np.ndarray]]:
        """Outline as longitudes and latitudes, closed, with corners at most `step` degrees apart.

        Two circles where it is all around.
        """
        lon = self.west + np.linspace(0, self.width, max(2, math.ceil(self.width / step) + 1))
        lat = np.linspace(
            self.south, self.north, max(2, math.ceil((self.north - self.south) / step) + 1)
        )
        if self.width == 360.0:
            return [
                (wrap_longitude(lon), np.full(lon.size, edge))
                for edge in (self.south, self.north)
                if abs(edge) < 90.0
            ]
        ring_lon = np.concatenate(
            [lon, np.full(lat.size, lon[-1]), lon[::-1], np.full(lat.size, lon[0])]
        )
        ring_lat = np.concatenate(
            [np.full(lon.size, self.south), lat, np.full(lon.size, self.north), lat[::-1]]
        )
        return [(wrap_longitude(ring_lon), ring_lat)]

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        lon, lat = np.meshgrid(
            self.west + np.linspace(0, self.width, 37), np.linspace(self.south, self.north, 19)
        )
        return lon.ravel(), lat.ravel()


@dataclass(frozen=True)
class Polygon:
    """All places inside a ring of points, or inside several.

    Attributes
    ----------
    geometry : shapely Polygon or MultiPolygon
        In the coordinates of `crs`; its sides are straight there. In longitudes and latitudes it may cross the ±180°
        meridian either by running beyond it (170 to 190) or by jumping over it (170 to -170), and one that runs all
        around the Moon holds the pole on its side.
    crs : CRS
        What :func:`lunarray.geo.moon_crs` takes; degrees by default.
    name, abbreviation : str
        What it is called.

    Examples
    --------
    >>> import lunarray as la
    >>> import shapely
    >>> la.geo.Polygon(shapely.box(-60, 10, -50, 20)).geometry.area
    100.0
    """

    geometry: BaseGeometry
    crs: Any = "geographic"
    name: str = ""
    abbreviation: str = ""
    _flat: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        where = self.name or "polygon"
        crs = require_body(self.crs, where=where)
        geometry = self.geometry
        if geometry.is_empty or geometry.geom_type not in ("Polygon", "MultiPolygon"):
            raise InputError(
                f"an empty or unsuitable geometry ({geometry.geom_type})",
                where=where,
                remedy="Give a polygon",
            )
        object.__setattr__(self, "crs", crs)
        flat = _unrolled(geometry, where) if crs.is_geographic else geometry
        if not flat.is_valid:
            raise InputError(
                "the outline crosses itself", where=where, remedy="Mend it, for instance shapely.make_valid"
            )  # fmt: skip
        object.__setattr__(self, "_flat", flat)

    @classmethod
    def from_points(
        cls, points: Iterable[Sequence[float]], crs: Any = "geographic", name: str = "", abbreviation: str = ""
    ) -> Polygon:  # fmt: skip
        """Polygon of three or more corners (x, y) in order, in the coordinates of `crs`."""
        import shapely

        points = list(points)
        if len(points) < 3:
            raise InputError(f"{len(points)} points", where=name or "polygon", remedy="Give 3 or more")  # fmt: skip
        return cls(shapely.Polygon(points), crs, name, abbreviation)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__qualname__, self._flat.wkb, self.crs.to_wkt(), self.name)

    def contains(self, lon: Any, lat: Any) -> np.ndarray:
        """Which places lie inside, as booleans."""
        import shapely

        lon, lat = np.broadcast_arrays(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
        flat = self._flat
        if not self.crs.is_geographic:
            return np.asarray(shapely.contains_xy(flat, *from_lonlat(self.crs, lon, lat)))
        left = flat.bounds[0]
        # The first turn that the polygon is on, and the next.
        lon = left + np.mod(lon - left, 360.0)
        inside = np.asarray(shapely.contains_xy(flat, lon, lat))
        return inside | np.asarray(shapely.contains_xy(flat, lon + 360.0, lat))

    def cap(self) -> tuple[float, float, float]:
        """Longitude, latitude (degrees) and radius (m) of a circle around all of it."""
        import shapely

        lons, lats = [], []
        for lon, lat in self.rings():
            lons.append(lon)
            lats.append(lat)
        inside = self.seeds()
        lon, lat = np.concatenate([*lons, inside[0]]), np.concatenate([*lats, inside[1]])
        if self.crs.is_geographic:
            # The flat polygon may hold a pole, that no ring comes near.
            low, high = self._flat.bounds[1], self._flat.bounds[3]
            for pole in (low, high):
                if abs(pole) == 90.0:
                    lon, lat = np.append(lon, 0.0), np.append(lat, pole)
        else:
            # Triangles fill it, so that no part of the inside is far from a point.
            for part in shapely.get_parts(self._flat):
                px, py = to_lonlat(self.crs, *np.array(part.representative_point().coords).T)
                lon, lat = np.append(lon, px), np.append(lat, py)
        return _cap_of(lon, lat)

    def seeds(self) -> tuple[np.ndarray, np.ndarray]:
        """Longitudes and latitudes of places inside, one at least in each part."""
        import shapely

        points = [p.representative_point().coords[0] for p in shapely.get_parts(self._flat)]
        x, y = np.array(points).T
        return to_lonlat(self.crs, x, y)

    def rings(self, step: float = OUTLINE_STEP) -> list[tuple[np.ndarray, np.ndarray]]:
        """Outlines as longitudes and latitudes, closed, with corners at most `step` degrees apart."""
        import shapely

        length = step if self.crs.is_geographic else math.radians(step) * RADIUS
        dense = shapely.segmentize(self._flat, length)
        out = []
        for part in shapely.get_parts(dense):
            for ring in (part.exterior, *part.interiors):
                x, y = np.array(ring.coords).T
                lon, lat = to_lonlat(self.crs, x, y)
                out.append((wrap_longitude(lon), lat))
        return out


Region = Circle | Box | Polygon


def as_regions(obj: Any) -> list[Region]:
    """Make regions of names, outlines, files, or regions.

    Parameters
    ----------
    obj : region, sequence of regions, GeoDataFrame or path
        Circles, boxes, polygons; a GeoDataFrame with a lunar CRS, or a vector file (GeoPackage, shapefile, …) of
        polygons, whose column "name" (or "Name", "region") names them.

    Returns
    -------
    list of Circle, Box or Polygon
        At least one.

    Raises
    ------
    InputError
        No regions, or things that are none.
    BodyMismatchError
        Vectors of another body.

    Examples
    --------
    >>> import lunarray as la
    >>> [r.name for r in la.geo.as_regions(la.geo.Circle(0.0, 90.0, 60_000, name="pole"))]
    ['pole']
    """
    if isinstance(obj, (Circle, Box, Polygon)):
        return [obj]
    if isinstance(obj, (str, os.PathLike)):
        return _from_frame(read_vectors(obj, body=MOON), os.fspath(obj))
    if hasattr(obj, "geometry") and hasattr(obj, "crs") and hasattr(obj, "iterrows"):
        return _from_frame(read_vectors(obj, where="regions", body=MOON), "regions")
    regions = list(obj) if isinstance(obj, Iterable) else [obj]
    wrong = [r for r in regions if not isinstance(r, (Circle, Box, Polygon))]
    if wrong or not regions:
        raise InputError(
            f"{type(wrong[0]).__name__} is no region" if wrong else "there is no region",
            where="regions",
            remedy="Give lunarray.geo.Circle, Box or Polygon, a GeoDataFrame, or a vector file",
        )
    return regions


def _from_frame(frame: Any, where: str) -> list[Region]:
    column = next((c for c in ("name", "Name", "region", "Region") if c in frame.columns), None)
    short = next((c for c in ("abbreviation", "abbrev") if c in frame.columns), None)
    out: list[Region] = []
    for number, (_, row) in enumerate(frame.iterrows()):
        name = str(row[column]) if column else f"region {number + 1}"
        out.append(Polygon(row.geometry, frame.crs, name, str(row[short]) if short else ""))
    if not out:
        raise InputError("there is no region", where=where, remedy="Give polygons")
    return out


def region_name(region: Region, number: int) -> str:
    """Name of a region; of one without, its number counted from 1."""
    return region.name or f"region {number + 1}"


def region_grid(region: Region, resolution: float, crs: Any = "geographic") -> GeoBox:
    """Smallest grid around a region.

    Parameters
    ----------
    region : Circle, Box or Polygon
    resolution : float
        Pixel in the units of `crs`: degrees or m.
    crs : str or CRS, optional
        "geographic", "north", "south", …

    Returns
    -------
    odc.geo.geobox.GeoBox
        Whole pixels counted from the origin of the CRS; of a region across ±180° in degrees, its longitudes run
        beyond 180.

    Raises
    ------
    GridError
        If the region has no extent in that CRS.

    Examples
    --------
    >>> import lunarray as la
    >>> tuple(la.geo.region_grid(la.geo.Box(-60.0, 10.0, -50.0, 20.0), 0.5).shape)
    (20, 20)
    """
    target = moon_crs(crs)
    if target.is_geographic and isinstance(region, Box):
        return lunar_grid(
            target, resolution, (region.west, region.south, region.west + region.width, region.north)
        )  # fmt: skip
    rings = region.rings()
    lon, lat = np.concatenate([r[0] for r in rings]), np.concatenate([r[1] for r in rings])
    if target.is_geographic:
        middle = region.cap()[0]
        x, y = middle + np.mod(lon - middle + 180.0, 360.0) - 180.0, lat
    else:
        x, y = from_lonlat(target, lon, lat)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise GridError(
            "the region does not fit in this projection", where=region.name or "region", remedy="Choose another CRS"
        )  # fmt: skip
    return lunar_grid(target, resolution, (x.min(), y.min(), x.max(), y.max()))


def region_shape(region: Region, crs: Any) -> BaseGeometry:
    """Outline of a region in a CRS.

    Parameters
    ----------
    region : Circle, Box or Polygon
    crs : str or CRS
        What :func:`lunarray.geo.moon_crs` takes. In longitudes and latitudes, regions across ±180° run beyond it.

    Returns
    -------
    shapely Polygon or MultiPolygon
        With corners every 2° at most along what is curved.

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.region_shape(la.geo.Box(-60.0, 10.0, -50.0, 20.0), "IAU_2015:30100").bounds
    (-60.0, 10.0, -50.0, 20.0)
    """
    import shapely

    target = moon_crs(crs)
    if isinstance(region, Polygon) and region.crs == target:
        return region._flat
    middle = region.cap()[0]
    shapes = []
    for lon, lat in region.rings():
        if target.is_geographic:
            lon = middle + np.mod(lon - middle + 180.0, 360.0) - 180.0
            shapes.append(_unrolled(shapely.Polygon(np.column_stack([lon, lat])), region.name))
        else:
            x, y = from_lonlat(target, lon, lat)
            shapes.append(shapely.Polygon(np.column_stack([x, y])))
    # Rings inside of others are their holes.
    shapes = sorted((s.buffer(0) for s in shapes), key=lambda s: -s.area)
    result = shapes[0]
    for shape in shapes[1:]:
        result = result.symmetric_difference(shape)
    return result


def _check_place(lon: float, lat: float, where: str) -> None:
    if not (math.isfinite(lon) and -90 <= lat <= 90):
        raise InputError(
            f"longitude {lon}, latitude {lat}", where=where, remedy="Give degrees, latitudes within ±90"
        )  # fmt: skip


def _cap_of(lon: np.ndarray, lat: np.ndarray) -> tuple[float, float, float]:
    """A circle around points: not the smallest, never too small for them."""
    middle = unit_vectors(lon, lat).mean(axis=0)
    length = np.linalg.norm(middle)
    if length < 1e-3:
        return 0.0, 90.0, math.pi * RADIUS
    x, y, z = middle / length
    lon0, lat0 = math.degrees(math.atan2(y, x)), math.degrees(math.asin(max(-1.0, min(1.0, z))))
    far = float(np.max(great_circle_distance(lon0, lat0, lon, lat)))
    # Between neighbouring points of an outline the ground may bulge.
    return lon0, lat0, min(far * 1.05 + 1.0, math.pi * RADIUS)


def _unrolled(geometry: BaseGeometry, where: str) -> BaseGeometry:
    """A polygon in degrees without jumps over ±180°; one all around is closed over the pole of its side."""
    import shapely

    parts = []
    for part in shapely.get_parts(geometry):
        shell = _unrolled_ring(np.array(part.exterior.coords)[:, :2])
        middle = shell[:, 0].mean()
        holes = []
        for ring in part.interiors:
            hole = _unrolled_ring(np.array(ring.coords)[:, :2])
            hole[:, 0] += 360.0 * round((middle - hole[:, 0].mean()) / 360.0)
            holes.append(hole)
        if np.abs(shell[:, 1]).max() > 90:
            raise InputError("latitudes beyond ±90°", where=where, remedy="Give degrees (lon, lat)")
        parts.append(shapely.Polygon(shell, holes))
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _unrolled_ring(points: np.ndarray) -> np.ndarray:
    lon = points[:, 0].copy()
    # Only a jump of more than half a turn is one: a box of 200° of longitude has sides of 200°, so cut long sides of
    # constant latitude count as drawn where they are within one turn.
    step = np.diff(lon)
    jump = np.where(np.abs(step) > 180.0, -360.0 * np.round(step / 360.0), 0.0)
    if np.ptp(lon) >= 360.0 or (lon.min() < -180.0) or (lon.max() > 180.0):
        jump[:] = 0.0  # drawn beyond ±180° on purpose
    lon[1:] += np.cumsum(jump)
    turn = lon[-1] - lon[0]
    points = np.column_stack([lon, points[:, 1]])
    if abs(turn) > 180.0:
        pole = 90.0 if points[:, 1].mean() > 0 else -90.0
        points = np.vstack([points, [lon[-1], pole], [lon[0], pole], points[0]])
    return points
