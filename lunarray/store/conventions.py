"""The conventions of Zarr by which other programs find where a map lies (GeoZarr): ``proj:`` and ``spatial:``.

They stand in the attributes of the store's root and hold for the arrays in it. Nothing here reads them: the grid of an
opened store is that of its coordinates and its CF grid mapping, of which these are a copy, made anew at each writing.
So they are taken off on opening, for a part of the map or another grid would carry the old ones along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from lunarray.errors import GridError
from lunarray.geo import BODIES, crs_of, geobox_of, spatial_dims

#: What `zarr_conventions` says of each: as the schemas of their versions 0.1 have it, to the letter.
_CONVENTIONS = tuple(
    {
        "uuid": uuid,
        "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
        "name": name,
        "description": description,
    }
    for name, uuid, description in (
        (
            "proj",
            "f17cb550-5864-4468-aeb7-f3180cfb622f",
            "Coordinate reference system information for geospatial data",
        ),
        ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
    )
)
_KEYS = ("zarr_conventions", "proj:", "spatial:")


def conventions(ds: xr.Dataset) -> dict[str, Any]:
    """Attributes of a store's root that say where its map lies; none where `ds` is no map on a regular grid.

    The reference system is told as WKT 2: the conventions' pattern of codes has no place for ``IAU_2015:30100``.
    """
    dims = spatial_dims(ds)
    crs = crs_of(ds)
    if dims is None or crs is None or not all(ds.sizes[dim] > 1 for dim in dims):
        return {}
    try:
        box = geobox_of(ds, BODIES)
    except GridError:
        return {}
    return {
        "zarr_conventions": [dict(one) for one in _CONVENTIONS],
        "proj:wkt2": crs.to_wkt("WKT2_2019"),
        "spatial:dimensions": list(dims),
        "spatial:transform": [float(number) for number in tuple(box.transform)[:6]],
        "spatial:shape": [int(size) for size in box.shape],
        "spatial:bbox": [float(edge) for edge in box.boundingbox.bbox],
        "spatial:registration": "pixel",
    }


def without_conventions(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a root without those of the conventions."""
    return {name: value for name, value in attrs.items() if not str(name).startswith(_KEYS)}
