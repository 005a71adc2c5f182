"""Regions on a grid: the rows and columns around one, and the share of each pixel that it covers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.geo.crs import moon_crs, to_lonlat
from lunarray.geo.georeference import assign_grid, grid_dims
from lunarray.geo.grid import lonlat_block, lunar_grid, pixel_size, project
from lunarray.geo.regions import OUTLINE_STEP, Circle, Region
from lunarray.geo.sphere import RADIUS

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

#: Sub-pixels along a side of a pixel that a border crosses.
SUBPIXELS = 8


def region_window(region: Region, geobox: GeoBox) -> tuple[slice, slice]:
    """Rows and columns of a grid outside of which a region has no pixel, with a pixel to spare; never too small.

    Empty slices where it is not on the grid.
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
    gap = max(radius / count, 2 * math.pi * radius * OUTLINE_STEP / 360.0) / pixel_size(geobox)
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
    """Share of each pixel of a part of a grid, rows and columns [first, last), that lies in a region; float32.

    0 to 1; 1 or 0 where no border is near, else the share, by area, of 8 × 8 sub-pixels whose centre is inside.
    """
    # One pixel more on each side, so that borders between parts are found in both.
    wide = (rows[0] - 1, rows[1] + 1), (columns[0] - 1, columns[1] + 1)
    lon, lat = lonlat_block(geobox, *wide)
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
        crs, affine = moon_crs(geobox.crs), geobox.transform
        offset = (np.arange(SUBPIXELS) + 0.5) / SUBPIXELS
        row, column = rows[0] + at // width, columns[0] + at % width
        sub_r = (row[:, None, None] + offset[:, None]) + 0 * offset
        sub_c = (column[:, None, None] + offset) + 0 * offset[:, None]
        x, y = affine.a * sub_c + affine.c, affine.e * sub_r + affine.f
        x, y = to_lonlat(crs, x, y)
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
    # Half a pixel, but no more than 100 000 corners: those of a large region's thin parts are 100 m apart.
    pixel = math.degrees(pixel_size(geobox) / RADIUS)
    step = max(pixel / 2, 360.0 / 100_000)
    if isinstance(region, Circle):
        # Degrees of its turn; of the smallest still some, for its pixels may be much narrower than high.
        step = min(step / max(math.sin(region.radius / RADIUS), 1e-6), OUTLINE_STEP)
        step = max(step, 360.0 / 100_000)
    return step


def pixel_area(geobox: GeoBox, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Area of pixels on the ground.

    Parameters
    ----------
    geobox : odc.geo.geobox.GeoBox
    rows, columns : tuple of 2 int
        The part of the grid, [first, last).

    Returns
    -------
    ndarray, shape (rows, columns), float64
        m², on the sphere; NaN outside of the projection.

    Examples
    --------
    >>> import lunarray as la
    >>> grid = la.geo.polar_grid("north", resolution=1000.0, latitude=80)
    >>> (la.geo.pixel_area(grid, (0, 1), (0, 1)) / 1e6).round(3)
    array([[0.97]])
    """
    crs, affine = moon_crs(geobox.crs), geobox.transform
    shape = rows[1] - rows[0], columns[1] - columns[0]
    if crs.is_geographic:
        edges = np.clip(affine.f + np.arange(rows[0], rows[1] + 1) * affine.e, -90, 90)
        strip = np.abs(np.diff(np.sin(np.deg2rad(edges)))) * RADIUS**2 * math.radians(abs(affine.a))
        return np.repeat(strip[:, None], shape[1], axis=1)
    import pyproj

    lon, lat = lonlat_block(geobox, rows, columns)
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

    Returns
    -------
    xarray.DataArray
        ``coverage`` (y, x) or (lat, lon), float32, 0 to 1, in memory.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> mask = la.geo.region_mask(scene, la.geo.Circle(0.0, 90.0, 60_000))
    >>> int(mask.sum())
    28
    """
    import xarray as xr

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
        name="coverage",
        attrs={"long_name": f"share of the pixel in {region.name or 'the region'}", "units": "1"},
    )
    return assign_grid(out, geobox)
