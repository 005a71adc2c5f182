"""The Zarr convention: write, resume, open, describe, verify.

A store is a Zarr 3 group, whose chunks are compressed by blosc and end with their crc32c, and whose metadata are
consolidated: what reads these (xarray and zarr-python without a warning) needs no lunarray. GDAL does so far not: 3.10
lists the variables and reads none of them ("Unsupported codec: bytes"); for QGIS and the like there is
:func:`lunarray.export.to_cog`.
"""

from __future__ import annotations

from lunarray.store.api import to_zarr
from lunarray.store.maps import open_maps
from lunarray.store.provenance import stamp
from lunarray.store.reading import StoreInfo, describe, open_zarr
from lunarray.store.verification import Fault, StoreCheck, verify

__all__ = [
    "Fault",
    "StoreCheck",
    "StoreInfo",
    "describe",
    "open_maps",
    "open_zarr",
    "stamp",
    "to_zarr",
    "verify",
]
