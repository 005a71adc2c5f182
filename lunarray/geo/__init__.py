"""Lunar coordinate systems, longitudes, and grids."""

from __future__ import annotations

from lunarray.geo.crs import (
    NAMED_CRS,
    assign_crs,
    crs_code,
    crs_of,
    is_moon,
    moon_crs,
    require_moon,
    spatial_dims,
)
from lunarray.geo.footprints import (
    footprint_area,
    footprint_polygons,
    hull_corners,
    merge_footprints,
)
from lunarray.geo.grid import (
    geobox_of,
    grid_coords,
    grid_dims,
    lonlat,
    lunar_grid,
    pixel_of,
    polar_grid,
    project,
)
from lunarray.geo.lon import wrap_longitude
from lunarray.geo.regions import (
    Box,
    Circle,
    Polygon,
    as_regions,
    pixel_area,
    region_grid,
    region_mask,
    region_shape,
)
from lunarray.geo.resample import reproject
from lunarray.geo.sphere import RADIUS, great_circle_distance
from lunarray.geo.zonal import region_statistics

__all__ = [
    "NAMED_CRS",
    "RADIUS",
    "Box",
    "Circle",
    "Polygon",
    "as_regions",
    "assign_crs",
    "crs_code",
    "crs_of",
    "footprint_area",
    "footprint_polygons",
    "geobox_of",
    "great_circle_distance",
    "grid_coords",
    "grid_dims",
    "hull_corners",
    "is_moon",
    "lonlat",
    "lunar_grid",
    "merge_footprints",
    "moon_crs",
    "pixel_area",
    "pixel_of",
    "polar_grid",
    "project",
    "region_grid",
    "region_mask",
    "region_shape",
    "region_statistics",
    "reproject",
    "require_moon",
    "spatial_dims",
    "wrap_longitude",
]
