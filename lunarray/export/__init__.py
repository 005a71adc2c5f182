"""Maps and vectors for other programs: GeoTIFF, netCDF, GeoPackage and shapefile, PDS4, styles for QGIS,
and STAC items."""

from __future__ import annotations

from lunarray.export.geotiff import to_cog
from lunarray.export.netcdf import to_netcdf
from lunarray.export.pds4 import to_pds4
from lunarray.export.stac import stac_item
from lunarray.export.styles import raster_style
from lunarray.export.vector import to_vector

__all__ = ["raster_style", "stac_item", "to_cog", "to_netcdf", "to_pds4", "to_vector"]
