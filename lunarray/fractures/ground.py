"""Images on the ground: their grids, and true lengths, areas and directions on them, of the Moon and of Mercury."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import GridError
from lunarray.geo import (
    BODIES,
    crs_of,
    geobox_of,
    pixel_size,
    radius_of,
    require_body,
    spatial_dims,
    to_lonlat,
    unit_vectors,
)

if TYPE_CHECKING:
    import xarray as xr
    from affine import Affine
    from odc.geo.geobox import GeoBox

__all__ = ["Metric", "box_of", "metric_of", "north_of"]

_UNPROJECTED = (
    "Map-project it first (ISIS: cam2map, or lunarray.fractures.process_edr); where the coordinates are known, assign "
    "them with lunarray.geo.assign_crs"
)
#: Ground between the nodes of the metric (m): linear interpolation is then good to a millionth.
_NODES = 4_000.0


def box_of(obj: xr.Dataset | xr.DataArray, purpose: str = "") -> GeoBox:
    """Grid that an image lies on.

    `obj`: with dimensions (y, x) or (lat, lon), coordinates of the pixel centres and a CRS; `purpose`: what the grid is
    needed for, for the message. Returns the grid. GridError if the image is not georeferenced. BodyMismatchError if it
    is of a body other than the Moon and Mercury.
    """
    dims = spatial_dims(obj)
    name = str(getattr(obj, "name", None) or "image")
    if dims is None:
        raise GridError(
            f"no image: the dimensions are {tuple(map(str, obj.dims))}",
            where=name,
            remedy="Give dimensions (y, x)",
        )
    crs = crs_of(obj)
    if crs is None or any(dim not in obj.coords for dim in dims):
        need = f"; {purpose} needs its place and scale on the ground" if purpose else ""
        raise GridError(f"the image is not georeferenced{need}", where=name, remedy=_UNPROJECTED)
    return geobox_of(obj, BODIES)


@dataclass(frozen=True)
class Metric:
    """True lengths and areas on the ground of what is small on a grid, by interpolation in a coarse lattice.

    Attributes
    ----------
    tensor : ndarray, shape (rows, columns, 3), float64
        Metric tensor (m²) at the nodes: squared lengths of one step along a column's direction (x) and a row's (y),
        and their inner product.
    step : float
        Pixels between nodes.
    radius : float
        Of the body, m.
    """

    tensor: np.ndarray
    step: float
    radius: float

    def at(self, row: Any, column: Any) -> np.ndarray:
        """Metric tensor (…, 3) at fractional pixel positions."""
        row = np.asarray(row, np.float64) / self.step
        column = np.asarray(column, np.float64) / self.step
        rows, columns = self.tensor.shape[:2]
        i = np.clip(row.astype(np.int64), 0, max(rows - 2, 0))
        j = np.clip(column.astype(np.int64), 0, max(columns - 2, 0))
        u, v = (row - i)[..., None], (column - j)[..., None]
        t = self.tensor
        return (t[i, j] * (1 - v) + t[i, j + 1] * v) * (1 - u) + (
            t[i + 1, j] * (1 - v) + t[i + 1, j + 1] * v
        ) * u

    def area(self, row: Any, column: Any) -> np.ndarray:
        """Area on the ground (m²) of a pixel at a position."""
        t = self.at(row, column)
        return np.sqrt(np.maximum(t[..., 0] * t[..., 1] - t[..., 2] ** 2, 0.0))


def metric_of(geobox: GeoBox) -> Metric:
    """True lengths and areas on a grid.

    From the positions in space of pixels around each node, so that neither poles nor the ±180° meridian are special,
    and any projection will do.

    `geobox`: the grid, of the Moon or of Mercury. Returns the metric. GridError if the grid is rotated.
    """
    affine: Affine = geobox.transform
    if affine.b or affine.d:
        raise GridError("the grid is rotated", where="grid", remedy="Give an axis-aligned grid")
    radius = radius_of(geobox.crs)
    step = max(1.0, _NODES / max(pixel_size(geobox), 1e-6))
    rows, columns = (max(math.ceil(size / step) + 1, 2) for size in geobox.shape)
    row, column = np.meshgrid(np.arange(rows) * step, np.arange(columns) * step, indexing="ij")
    along_x, along_y = _steps(geobox, row, column)
    tensor = np.stack(
        [(along_x**2).sum(-1), (along_y**2).sum(-1), (along_x * along_y).sum(-1)], axis=-1
    )
    return Metric(np.where(np.isfinite(tensor), tensor, np.nan), step, radius)


def north_of(geobox: GeoBox, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, ...]:
    """Longitude, latitude, and how one pixel along x and y moves east and north (m), at pixel positions."""
    affine = geobox.transform
    lon, lat = to_lonlat(geobox.crs, affine.a * column + affine.c, affine.e * row + affine.f)
    lam, phi = np.deg2rad(lon), np.deg2rad(lat)
    east = np.stack([-np.sin(lam), np.cos(lam), np.zeros_like(lam)], -1)
    north = np.stack([-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)], -1)
    moves = [(step * way).sum(-1) for step in _steps(geobox, row, column) for way in (east, north)]
    return np.mod(lon + 180.0, 360.0) - 180.0, lat, *moves


def _steps(geobox: GeoBox, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How one pixel along x and one along y moves in space (m), at pixel positions."""
    crs, affine = require_body(geobox.crs, BODIES), geobox.transform
    radius = radius_of(crs)
    # Some metres: far above rounding, far below the curvature.
    delta = max(1e-6 * radius / max(pixel_size(geobox), 1e-12), 1e-6)

    def place(r: np.ndarray, c: np.ndarray) -> np.ndarray:
        lon, lat = to_lonlat(crs, affine.a * c + affine.c, affine.e * r + affine.f)
        return unit_vectors(lon, np.clip(lat, -90.0, 90.0) if crs.is_geographic else lat)

    scale = radius / (2 * delta)
    return (
        (place(row, column + delta) - place(row, column - delta)) * scale,
        (place(row + delta, column) - place(row - delta, column)) * scale,
    )
