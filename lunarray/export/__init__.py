"""Maps and vectors for other programs: GeoTIFF, netCDF, GeoPackage and shapefile, with styles for QGIS."""

from __future__ import annotations

from lunarray.export.geotiff import to_cog
from lunarray.export.netcdf import to_netcdf
from lunarray.export.styles import raster_style
from lunarray.export.vector import to_vector

__all__ = ["raster_style", "to_cog", "to_netcdf", "to_vector"]
