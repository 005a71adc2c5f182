"""The Zarr convention: write, resume, open, describe, verify."""

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
