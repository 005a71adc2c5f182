"""Regions of the Moon: circles, boxes in longitude and latitude, polygons; and what share of each pixel they cover."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import GridError, InputError
from lunarray.geo.crs import moon_crs, require_moon
from lunarray.geo.grid import _lonlat_block, grid_dims, lunar_grid, project
from lunarray.geo.lon import wrap_longitude
from lunarray.geo.sphere import RADIUS, great_circle_distance

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox
    from shapely.geometry.base import BaseGeometry

#: Sub-pixels along a side of a pixel that a border crosses.
SUBPIXELS = 8
#: Step along an outline (degrees of arc, or of the turn of a circle).
_STEP = 2.0


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
                f"a radius of {self.radius} m", where=self.name or "circle", remedy="give metres, more than 0"
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

    def rings(self, step: float = _STEP) -> list[tuple[np.ndarray, np.ndarray]]:
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
                f"latitudes from {self.south} to {self.north}", where=where, remedy="give south below north"
            )  # fmt: skip
        if self.west == self.east:
            raise InputError(
                f"longitudes from {self.west} to {self.east}",
                where=where,
                remedy="give a width; all around is -180, 180",
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

    def rings(self, step: float = _STEP) -> list[tuple[np.ndarray, np.ndarray]]:
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
    """All places inside of a ring of points, or of several.

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
    """

    geometry: BaseGeometry
    crs: Any = "geographic"
    name: str = ""
    abbreviation: str = ""
    _flat: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        where = self.name or "polygon"
        crs = require_moon(self.crs, where=where)
        geometry = self.geometry
        if geometry.is_empty or geometry.geom_type not in ("Polygon", "MultiPolygon"):
            raise InputError(
                f"an empty or unsuitable geometry ({geometry.geom_type})",
                where=where,
                remedy="give a polygon",
            )
        object.__setattr__(self, "crs", crs)
        flat = _unrolled(geometry, where) if crs.is_geographic else geometry
        if not flat.is_valid:
            raise InputError(
                "the outline crosses itself", where=where, remedy="mend it, for instance shapely.make_valid"
            )  # fmt: skip
        object.__setattr__(self, "_flat", flat)

    @classmethod
    def from_points(
        cls, points: Iterable[Sequence[float]], crs: Any = "geographic", name: str = "", abbreviation: str = ""
    ) -> Polygon:  # fmt: skip
        """Polygon from its corners.

        Parameters
        ----------
        points : iterable of (x, y)
            In the coordinates of `crs`, in order.
        crs : str or CRS, optional
            Degrees by default.
        name, abbreviation : str
            What it is called.

        Returns
        -------
        Polygon
        """
        import shapely

        points = list(points)
        if len(points) < 3:
            raise InputError(f"{len(points)} points", where=name or "polygon", remedy="give 3 or more")  # fmt: skip
        return cls(shapely.Polygon(points), crs, name, abbreviation)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__qualname__, self._flat.wkb, self.crs.to_wkt(), self.name)

    def contains(self, lon: Any, lat: Any) -> np.ndarray:
        """Which places lie inside, as booleans."""
        import pyproj
        import shapely

        lon, lat = np.broadcast_arrays(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
        flat = self._flat
        if not self.crs.is_geographic:
            transformer = pyproj.Transformer.from_crs(self.crs.geodetic_crs, self.crs, always_xy=True)  # fmt: skip
            x, y = transformer.transform(lon, lat)
            return np.asarray(shapely.contains_xy(flat, x, y))
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
            inverse = _to_lonlat(self.crs)
            # Triangles fill it, so that no part of the inside is far from a point.
            for part in shapely.get_parts(self._flat):
                px, py = inverse(*np.array(part.representative_point().coords).T)
                lon, lat = np.append(lon, px), np.append(lat, py)
        return _cap_of(lon, lat)

    def seeds(self) -> tuple[np.ndarray, np.ndarray]:
        """Longitudes and latitudes of places inside, one at least in each part."""
        import shapely

        points = [p.representative_point().coords[0] for p in shapely.get_parts(self._flat)]
        x, y = np.array(points).T
        if self.crs.is_geographic:
            return x, y
        lon, lat = _to_lonlat(self.crs)(x, y)
        return np.asarray(lon), np.asarray(lat)

    def rings(self, step: float = _STEP) -> list[tuple[np.ndarray, np.ndarray]]:
        """Outlines as longitudes and latitudes, closed, with corners at most `step` degrees apart."""
        import shapely

        length = step if self.crs.is_geographic else math.radians(step) * RADIUS
        dense = shapely.segmentize(self._flat, length)
        out = []
        for part in shapely.get_parts(dense):
            for ring in (part.exterior, *part.interiors):
                x, y = np.array(ring.coords).T
                lon, lat = (x, y) if self.crs.is_geographic else _to_lonlat(self.crs)(x, y)
                out.append((wrap_longitude(np.asarray(lon, np.float64)), np.asarray(lat)))
        return out


Region = Circle | Box | Polygon


def as_regions(obj: Any) -> list[Region]:
    """Regions from whatever names them.

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
    """
    if isinstance(obj, (Circle, Box, Polygon)):
        return [obj]
    if isinstance(obj, (str, os.PathLike)):
        import geopandas
        import pyogrio

        try:
            # The first layer with geometry: GeoPackages keep styles in a layer without.
            layers = [str(name) for name, kind in pyogrio.list_layers(obj) if kind is not None]
            frame = geopandas.read_file(obj, layer=layers[0] if layers else None)
        except Exception as error:
            raise InputError(
                f"cannot be read as vectors ({error})",
                where=os.fspath(obj),
                remedy="give a GeoPackage or a shapefile of polygons",
            ) from error
        return _from_frame(frame, os.fspath(obj))
    if hasattr(obj, "geometry") and hasattr(obj, "crs") and hasattr(obj, "iterrows"):
        return _from_frame(obj, "regions")
    regions = list(obj) if isinstance(obj, Iterable) else [obj]
    wrong = [r for r in regions if not isinstance(r, (Circle, Box, Polygon))]
    if wrong or not regions:
        raise InputError(
            f"{type(wrong[0]).__name__} is no region" if wrong else "there is no region",
            where="regions",
            remedy="give lunarray.geo.Circle, Box or Polygon, a GeoDataFrame, or a vector file",
        )
    return regions


def _from_frame(frame: Any, where: str) -> list[Region]:
    crs = require_moon(frame.crs, where=where)
    column = next((c for c in ("name", "Name", "region", "Region") if c in frame.columns), None)
    short = next((c for c in ("abbreviation", "abbrev") if c in frame.columns), None)
    out: list[Region] = []
    for number, (_, row) in enumerate(frame.iterrows()):
        name = str(row[column]) if column else f"region {number + 1}"
        out.append(Polygon(row.geometry, crs, name, str(row[short]) if short else ""))
    if not out:
        raise InputError("there is no region", where=where, remedy="give polygons")
    return out


def region_name(region: Region, number: int) -> str:
    """What a region is called: its name, or its number counted from 0."""
    return region.name or f"region {number + 1}"


def region_grid(region: Region, resolution: float, crs: Any = "geographic") -> GeoBox:
    """Smallest grid around a region.

    Parameters
    ----------
    region : Circle, Box or Polygon
        Where.
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
    """
    import pyproj

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
        x, y = pyproj.Transformer.from_crs(target.geodetic_crs, target, always_xy=True).transform(lon, lat)  # fmt: skip
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise GridError(
            "the region does not fit in this projection", where=region.name or "region", remedy="choose another CRS"
        )  # fmt: skip
    return lunar_grid(target, resolution, (x.min(), y.min(), x.max(), y.max()))


def region_window(region: Region, geobox: GeoBox) -> tuple[slice, slice]:
    """Rows and columns of a grid outside of which a region has no pixel; empty slices where it is not on the grid.

    Parameters
    ----------
    region : Circle, Box or Polygon
        Which.
    geobox : odc.geo.geobox.GeoBox
        The grid.

    Returns
    -------
    rows, columns : slice
        Around the region, with a pixel to spare; never too small.
    """
    rows, columns = geobox.shape
    # Outline and inside: circles around the middle, to the edge.
    lon0, lat0, radius = region.cap()
    count = 24
    lons, lats = [np.array([lon0])], [np.array([lat0])]
    for k in range(1, count + 1):
        ring = Circle(lon0, lat0, max(radius * k / count, 1.0)).rings()[0]
        lons.append(ring[0])
        lats.append(ring[1])
    r, c = project(geobox, np.concatenate(lons), np.concatenate(lats))
    good = np.isfinite(r)
    if not good.any():
        return slice(0, 0), slice(0, 0)
    # Between two of the points lies at most this much of the ground.
    from lunarray.geo.resample import pixel_size

    gap = max(radius / count, 2 * math.pi * radius * _STEP / 360.0) / pixel_size(geobox)
    polar = "polar" in getattr(moon_crs(geobox.crs).coordinate_operation, "method_name", "").lower()
    gap = math.ceil(2 * gap) + 2
    if not polar:
        # Near the poles of a cylindrical grid, and across its seam, columns mean little: all of them.
        reach = math.degrees(radius / RADIUS)
        squeezed = abs(lat0) + reach > 85.0 or np.ptp(c[good]) > columns / 2
        first_c, last_c = (0, columns) if squeezed else (c[good].min(), c[good].max())
        gap_c = gap / max(math.cos(math.radians(min(abs(lat0) + reach, 85.0))), 0.05)
    else:
        first_c, last_c, gap_c = c[good].min(), c[good].max(), float(gap)
    low_r, high_r = r[good].min() - gap, r[good].max() + gap
    return (
        slice(int(np.clip(low_r, 0, rows)), int(np.clip(math.ceil(high_r), 0, rows))),
        slice(
            int(np.clip(first_c - gap_c, 0, columns)),
            int(np.clip(math.ceil(last_c + gap_c), 0, columns)),
        ),
    )


def coverage(
    region: Region, geobox: GeoBox, rows: tuple[int, int], columns: tuple[int, int]
) -> np.ndarray:
    """Share of each pixel that lies in a region.

    Parameters
    ----------
    region : Circle, Box or Polygon
        Which.
    geobox : odc.geo.geobox.GeoBox
        The grid.
    rows, columns : tuple of 2 int
        The part of the grid, [first, last).

    Returns
    -------
    ndarray, shape (rows, columns), float32
        0 to 1; 1 or 0 where no border is near, else the share, by area, of 8 × 8 sub-pixels whose centre is inside.
    """
    # One pixel more on each side, so that borders between parts are found in both.
    wide = (rows[0] - 1, rows[1] + 1), (columns[0] - 1, columns[1] + 1)
    lon, lat = _lonlat_block(geobox, *wide)
    known = np.isfinite(lon)
    inside = np.zeros(lon.shape, bool)
    inside[known] = region.contains(lon[known], lat[known])
    share = inside[1:-1, 1:-1].astype(np.float32)
    border = np.zeros_like(share, dtype=bool)
    height, width = share.shape
    for i in (0, 1, 2):
        for j in (0, 1, 2):
            border |= inside[i : i + height, j : j + width] != inside[1:-1, 1:-1]
    # What is narrower than a pixel may hold no pixel's centre: all pixels on the outline are of the border.
    step = _outline_step(region, geobox)
    for ring in region.rings(step):
        r, c = project(geobox, *ring)
        i, j = np.floor(r) - rows[0], np.floor(c) - columns[0]
        here = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        border[i[here].astype(np.intp), j[here].astype(np.intp)] = True
    r, c = project(geobox, *region.seeds())
    for row, column in zip(r, c, strict=True):
        if np.isfinite(row) and np.isfinite(column):
            i, j = int(row) - rows[0], int(column) - columns[0]
            border[max(i - 1, 0) : max(i + 2, 0), max(j - 1, 0) : max(j + 2, 0)] = True
    at = np.flatnonzero(border)
    if at.size:
        import pyproj

        crs, affine = moon_crs(geobox.crs), geobox.transform
        offset = (np.arange(SUBPIXELS) + 0.5) / SUBPIXELS
        row, column = rows[0] + at // width, columns[0] + at % width
        sub_r = (row[:, None, None] + offset[:, None]) + 0 * offset
        sub_c = (column[:, None, None] + offset) + 0 * offset[:, None]
        x, y = affine.a * sub_c + affine.c, affine.e * sub_r + affine.f
        if not crs.is_geographic:
            x, y = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(x, y)  # fmt: skip
        ok = np.isfinite(x) & np.isfinite(y) & (np.abs(np.where(np.isfinite(y), y, 99)) <= 90)
        found = region.contains(np.where(ok, x, 0.0), np.where(ok, y, 0.0)) & ok
        if crs.is_geographic:
            # Towards a pole the parts of a pixel are ever smaller.
            weight = np.where(ok, np.cos(np.deg2rad(np.where(ok, y, 0.0))), 0.0)
            total = weight.sum(axis=(1, 2))
            covered = (found * weight).sum(axis=(1, 2)) / np.where(total > 0, total, 1.0)
        else:
            covered = found.mean(axis=(1, 2))
        share.ravel()[at] = covered
    # One smaller than a sub-pixel is the sub-pixel it lies in.
    for row, column in zip(r, c, strict=True):
        if np.isfinite(row) and rows[0] <= row < rows[1] and columns[0] <= column < columns[1]:
            pixel = int(row) - rows[0], int(column) - columns[0]
            share[pixel] = max(share[pixel], np.float32(1 / SUBPIXELS**2))
    return share


def _outline_step(region: Region, geobox: GeoBox) -> float:
    """Degrees between the corners of an outline that leave out no pixel on it that matters."""
    from lunarray.geo.resample import pixel_size

    # Half a pixel, but no more than 100 000 corners: those of a large region's thin parts are 100 m apart.
    pixel = math.degrees(pixel_size(geobox) / RADIUS)
    step = max(pixel / 2, 360.0 / 100_000)
    if isinstance(region, Circle):
        # Degrees of its turn; of the smallest still some, for its pixels may be much narrower than high.
        step = min(step / max(math.sin(region.radius / RADIUS), 1e-6), _STEP)
        step = max(step, 360.0 / 100_000)
    return step


def pixel_area(geobox: GeoBox, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Area of pixels on the ground.

    Parameters
    ----------
    geobox : odc.geo.geobox.GeoBox
        The grid.
    rows, columns : tuple of 2 int
        The part of the grid, [first, last).

    Returns
    -------
    ndarray, shape (rows, columns), float64
        m², on the sphere; NaN outside of the projection.
    """
    crs, affine = moon_crs(geobox.crs), geobox.transform
    shape = rows[1] - rows[0], columns[1] - columns[0]
    if crs.is_geographic:
        edges = np.clip(affine.f + np.arange(rows[0], rows[1] + 1) * affine.e, -90, 90)
        strip = np.abs(np.diff(np.sin(np.deg2rad(edges)))) * RADIUS**2 * math.radians(abs(affine.a))
        return np.repeat(strip[:, None], shape[1], axis=1)
    import pyproj

    lon, lat = _lonlat_block(geobox, rows, columns)
    flat = abs(affine.a * affine.e)
    factors = pyproj.Proj(crs).get_factors(
        np.where(np.isfinite(lon), lon, 0.0), np.clip(np.where(np.isfinite(lat), lat, 0.0), -89.999999, 89.999999)
    )  # fmt: skip
    return np.where(np.isfinite(lon), flat / np.asarray(factors.areal_scale), np.nan)


def region_mask(obj: Any, region: Region) -> Any:
    """Share of each pixel of a map that lies in a region.

    Parameters
    ----------
    obj : Dataset, DataArray or GeoBox
        The map, or its grid.
    region : Circle, Box or Polygon
        Which.

    Returns
    -------
    xarray.DataArray
        ``coverage`` (y, x) or (lat, lon), float32, 0 to 1, in memory.
    """
    import xarray as xr

    from lunarray.geo.crs import assign_crs
    from lunarray.geo.grid import grid_coords

    geobox = lunar_grid(obj)
    rows, columns = region_window(region, geobox)
    values = np.zeros(tuple(geobox.shape), np.float32)
    if rows.stop > rows.start and columns.stop > columns.start:
        values[rows, columns] = coverage(
            region, geobox, (rows.start, rows.stop), (columns.start, columns.stop)
        )
    out = xr.DataArray(
        values,
        dims=grid_dims(geobox),
        coords=grid_coords(geobox),
        name="coverage",
        attrs={"long_name": f"share of the pixel in {region.name or 'the region'}", "units": "1"},
    )
    return assign_crs(out, geobox)


def region_shape(region: Region, crs: Any) -> BaseGeometry:
    """Outline of a region in a CRS.

    Parameters
    ----------
    region : Circle, Box or Polygon
        Which.
    crs : str or CRS
        What :func:`lunarray.geo.moon_crs` takes. In longitudes and latitudes, regions across ±180° run beyond it.

    Returns
    -------
    shapely Polygon or MultiPolygon
        With corners every 2° at most along what is curved.
    """
    import pyproj
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
            transformer = pyproj.Transformer.from_crs(target.geodetic_crs, target, always_xy=True)
            x, y = transformer.transform(lon, lat)
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
            f"longitude {lon}, latitude {lat}", where=where, remedy="give degrees, latitudes within ±90"
        )  # fmt: skip


def _cap_of(lon: np.ndarray, lat: np.ndarray) -> tuple[float, float, float]:
    """A circle around points: not the smallest, never too small for them."""
    lam, phi = np.deg2rad(lon), np.deg2rad(lat)
    p = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])
    middle = p.mean(axis=1)
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
            raise InputError("latitudes beyond ±90°", where=where, remedy="give degrees (lon, lat)")
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


def _to_lonlat(crs: Any) -> Any:
    import pyproj

    return pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform
