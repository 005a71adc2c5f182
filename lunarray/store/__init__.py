"""The Zarr convention: write, resume, open, describe; and export to GeoTIFF."""

from __future__ import annotations

from lunarray.store.api import StoreInfo, describe, open_zarr, to_zarr
from lunarray.store.geotiff import to_cog
from lunarray.store.maps import open_maps
from lunarray.store.provenance import stamp
from lunarray.store.regions import execute
from lunarray.store.report import RunReport, last_report
from lunarray.store.vector import raster_style, to_vector

__all__ = [
    "RunReport",
    "StoreInfo",
    "describe",
    "execute",
    "last_report",
    "open_maps",
    "open_zarr",
    "raster_style",
    "stamp",
    "to_cog",
    "to_vector",
    "to_zarr",
]
