"""Base maps as the network looks at them: where their pixels are, and their values around any place of the Moon.

Images lie on the plane that touches the Moon at their middle, so that neither the poles nor ±180° are special.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import CoverageError, InputError
from lunarray.geo import RADIUS, geobox_of, grid_token, pixel_size, project, spatial_dims
from lunarray.geo.grid import closure_of
from lunarray.superres.grid import joined, turns

if TYPE_CHECKING:
    import xarray as xr

#: Latitude (degrees) from which positions in a map in longitude are computed for each pixel.
_NEAR_POLE = 85.0


class BaseMap:
    """A base map: where its pixels are, and its values as they are needed."""

    def __init__(self, basemap: xr.DataArray) -> None:
        self.geobox = geobox_of(basemap)
        dims = spatial_dims(basemap) or ("y", "x")
        lead = [d for d in basemap.dims if d not in dims]
        data = basemap.transpose(*lead, *dims).data
        data = data.reshape(-1, *data.shape[-2:])
        if data.shape[0] not in (1, 3) or data.dtype.kind not in "fiub":
            raise InputError(
                f"{data.shape[0]} bands of type {data.dtype}",
                where=str(basemap.name or "basemap"),
                remedy="Give one band, or red, green and blue, as numbers",
            )
        self.data, self.lazy = data, basemap.chunks is not None
        self.valid_range = basemap.attrs.get("valid_range")
        self.pixel = pixel_size(self.geobox) / 1e3
        closure = closure_of(self.geobox)
        #: Columns in one turn of longitude, and whether the map goes all around in whole pixels.
        self.turn, self.around = closure.turn or None, closure.around
        #: Whether the first and the last row touch a pole, beyond which the map goes on half a turn away.
        self.poles = closure.over_top, closure.over_bottom

    def __dask_tokenize__(self) -> Any:
        return grid_token(self.geobox)

    def placed(self) -> BaseMap:
        """The same without values, for tasks that get theirs by themselves."""
        bare = copy.copy(self)
        bare.data = None
        return bare

    def require(self, lat: np.ndarray, lon: np.ndarray, what: str) -> None:
        """Raise where places lie outside of the map."""
        row, column = project(self.geobox, lon, lat)
        with np.errstate(invalid="ignore"):
            inside = (row >= 0) & (row <= self.geobox.shape[0])
            inside &= self.around | ((column >= 0) & (column <= self.geobox.shape[1]))
        if not inside.all():
            k = int(np.argmin(inside))
            raise CoverageError(
                f"the base map covers {100 * inside.mean():.3g} % of {what}; "
                f"the first pixel outside is at {lat[k]:.3f}° N, {lon[k]:.3f}° E",
                where="basemap",
                remedy="Give a base map that covers the pixels' centres, and half a window more on each side",
            )

    def positions(
        self, lat: np.ndarray, lon: np.ndarray, middle: tuple[float, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of places, at pixels' centres whole numbers; columns within half a turn of the middle's
        and beyond the map's edges where need be."""
        row, column = project(self.geobox, lon.ravel(), lat.ravel())
        if self.turn is not None:
            _, centre = project(self.geobox, np.array([middle[1]]), np.array([middle[0]]))
            column = (column - centre + self.turn / 2) % self.turn + centre - self.turn / 2
        return row.reshape(lat.shape) - 0.5, column.reshape(lat.shape) - 0.5

    def near_pole(self, lat: np.ndarray) -> bool:
        """Whether longitude, and the column with it, changes too fast for interpolation."""
        return self.turn is not None and bool(np.abs(lat).max() > _NEAR_POLE)

    def window(self, row: np.ndarray, column: np.ndarray) -> tuple[int, int, int, int]:
        """Rows and columns of the map that samples at these positions touch; columns may count beyond the map where
        it goes around."""
        with np.errstate(invalid="ignore"):
            top, bottom = np.nanmin(row), np.nanmax(row)
            left, right = np.nanmin(column), np.nanmax(column)
        height, width = self.geobox.shape
        first, last = -int(self.poles[0]), height + int(self.poles[1])
        r0 = min(max(math.floor(top) - 1, first), height - 1)
        r1 = min(max(math.ceil(bottom) + 2, r0 + 1, 1), last)
        c0, c1 = math.floor(left) - 1, math.ceil(right) + 2
        if not self.around:
            c0 = min(max(c0, 0), width - 1)
            c1 = min(max(c1, c0 + 1), width)
        return r0, r1, c0, c1

    def cut(self, data: Any, window: tuple[int, int, int, int]) -> Any:
        """Values of a window, of a NumPy or Dask array."""
        r0, r1, c0, c1 = window
        height, width = self.geobox.shape
        if r0 < 0 or r1 > height:
            across = (c0 + width // 2, c1 + width // 2)
            bands = [self.cut(data, (max(r0, 0), min(r1, height), c0, c1))]
            if r0 < 0:
                bands.insert(0, self.cut(data, (0, 1, *across)))
            if r1 > height:
                bands.append(self.cut(data, (height - 1, height, *across)))
            return joined(bands, 1)
        if not self.around:
            return data[:, r0:r1, c0:c1]
        return joined([data[:, r0:r1, own] for own, _ in turns(c0, c1, width)], 2)

    def default_range(self) -> Any:
        """Black and white: two numbers, or for a lazy map a function that computes them."""
        if self.valid_range is not None:
            return tuple(self.valid_range)
        if self.data.dtype == np.uint8:
            return 0.0, 255.0
        part = self.data[
            :, :: max(1, self.data.shape[1] // 512), :: max(1, self.data.shape[2] // 1024)
        ]
        return PercentileRange(part) if self.lazy else _percentiles(np.asarray(part))


class PercentileRange:
    """Percentiles of a lazy sample, once they are asked for."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def __call__(self) -> tuple[float, float]:
        return _percentiles(np.asarray(self.part.compute()))

    def delayed(self) -> Any:
        import dask

        whole = self.part.rechunk(-1).to_delayed().ravel()[0]
        return dask.delayed(_percentiles, pure=True)(whole)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values)].astype(np.float64)
    if not values.size:
        return 0.0, 1.0
    low, high = np.quantile(values, (0.005, 0.995))
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def project_plane(middle: tuple[float, float], lat: Any, lon: Any) -> tuple[np.ndarray, np.ndarray]:
    """Azimuthal equidistant projection around a place (lat, lon; degrees): kilometres eastwards and northwards."""
    phi, lam = np.deg2rad(lat), np.deg2rad(np.asarray(lon) - middle[1])
    phi0 = math.radians(middle[0])
    east = np.cos(phi) * np.sin(lam)
    north = math.cos(phi0) * np.sin(phi) - math.sin(phi0) * np.cos(phi) * np.cos(lam)
    up = math.sin(phi0) * np.sin(phi) + math.cos(phi0) * np.cos(phi) * np.cos(lam)
    sine = np.hypot(east, north)
    angle = np.arctan2(sine, up)
    scale = np.where(sine > 0, angle / np.where(sine > 0, sine, 1.0), 1.0) * RADIUS / 1e3
    return east * scale, north * scale


def unproject(
    middle: tuple[float, float], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude (degrees) of places on the plane of :func:`project_plane`."""
    phi0 = math.radians(middle[0])
    distance = np.hypot(x, y)
    angle = distance / (RADIUS / 1e3)
    ratio = np.where(distance > 0, np.sin(angle) / np.where(distance > 0, distance, 1.0), 0.0)
    east, north, up = x * ratio, y * ratio, np.cos(angle)
    sine = np.clip(up * math.sin(phi0) + north * math.cos(phi0), -1.0, 1.0)
    lam = np.arctan2(east, up * math.cos(phi0) - north * math.sin(phi0))
    return np.rad2deg(np.arcsin(sine)), middle[1] + np.rad2deg(lam)
