"""The ground: bodies and their reference systems, grids, rasters, vectors, regions.

BodyMismatchError says that something is of another body than it must be, GridError that it lies on no grid, or has no
reference system, or a wrong one, and InputError that an argument or a file is not what it should be. Names that are
imported and not in ``__all__`` are what other rooms build on.
"""
# ruff: noqa: F401

from __future__ import annotations

from lunarray.geo.around import Ground, batches, map_around, offset
from lunarray.geo.coverage import coverage, pixel_area, region_mask, region_window
from lunarray.geo.crs import (
    BODIES,
    MERCURY,
    MOON,
    NAMED_CRS,
    Body,
    body_of,
    crs_code,
    crs_name,
    from_lonlat,
    moon_crs,
    period_of,
    radius_of,
    require_body,
    to_lonlat,
)
from lunarray.geo.footprints import (
    densify,
    footprint_area,
    footprint_polygons,
    lonlat_of,
    unit_vectors,
)
from lunarray.geo.georeference import (
    affine_of_coords,
    assign_crs,
    assign_grid,
    crs_of,
    geobox_of,
    grid_coords,
    grid_dims,
    spatial_dims,
)
from lunarray.geo.grid import (
    POLES,
    Pole,
    covering_box,
    grid_token,
    lonlat,
    lunar_grid,
    pixel_of,
    pixel_size,
    polar_grid,
    project,
)
from lunarray.geo.rasters import RasterInfo, open_raster, raster_info
from lunarray.geo.regions import (
    Box,
    Circle,
    Polygon,
    as_regions,
    region_grid,
    region_name,
    region_shape,
)
from lunarray.geo.relief import horizon, reach_of, slopes, sun_share, towards
from lunarray.geo.resample import Method, reproject
from lunarray.geo.sampling import Sampler
from lunarray.geo.shown import grid_html, register
from lunarray.geo.sphere import RADIUS, great_circle_distance, wrap_longitude
from lunarray.geo.vectors import read_vectors, transform_geometry
from lunarray.geo.zonal import region_statistics

register()

__all__ = [
    "BODIES",
    "MERCURY",
    "MOON",
    "NAMED_CRS",
    "RADIUS",
    "Body",
    "Box",
    "Circle",
    "Polygon",
    "as_regions",
    "assign_crs",
    "assign_grid",
    "body_of",
    "covering_box",
    "crs_code",
    "crs_of",
    "footprint_area",
    "footprint_polygons",
    "geobox_of",
    "great_circle_distance",
    "grid_coords",
    "grid_dims",
    "lonlat",
    "lunar_grid",
    "moon_crs",
    "open_raster",
    "pixel_area",
    "pixel_of",
    "polar_grid",
    "project",
    "read_vectors",
    "region_grid",
    "region_mask",
    "region_shape",
    "region_statistics",
    "reproject",
    "require_body",
    "spatial_dims",
    "transform_geometry",
    "wrap_longitude",
]
