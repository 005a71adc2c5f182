"""Which cell of a table holds a place."""

from __future__ import annotations

from typing import Any

import numpy as np

from lunarray.geo import wrap_longitude

# Between the keys of neighbouring bands of latitude: more than a turn of longitude.
_BAND = 1000.0


def find_cells(lon: Any, lat: Any, lon_bounds: np.ndarray, lat_bounds: np.ndarray) -> np.ndarray:
    """Cell that holds each place.

    `lon`, `lat`: degrees, of any one shape; `lon_bounds`, `lat_bounds`: (cell, 2), low and high, in bands of latitude
    that do not overlap. A cell owns its western and southern edge, and the north pole. Returns indices of the shape of
    `lon`, int64, -1 where no cell is.
    """
    lon, lat = np.asarray(lon, np.float64), np.asarray(lat, np.float64)
    known = np.isfinite(lon_bounds).all(axis=1) & np.isfinite(lat_bounds).all(axis=1)
    cell = np.flatnonzero(known)
    if not cell.size:
        return np.full(lon.shape, -1, np.int64)
    low, high = lat_bounds[cell].T
    width = np.minimum(lon_bounds[cell, 1] - lon_bounds[cell, 0], 360.0)
    west = np.asarray(wrap_longitude(lon_bounds[cell, 0]))
    # What goes beyond 180° begins again at -180°.
    over = west + width > 180.0
    cell = np.concatenate([cell, cell[over]])
    low, high = np.concatenate([low, low[over]]), np.concatenate([high, high[over]])
    east = np.concatenate([np.minimum(west + width, 180.0), (west + width)[over] - 360.0])
    west = np.concatenate([west, np.full(int(over.sum()), -180.0)])

    bands = np.unique(low)
    key = np.searchsorted(bands, low) * _BAND + west
    order = np.argsort(key, kind="stable")
    good = np.isfinite(lon) & np.isfinite(lat)
    own_lon = np.asarray(wrap_longitude(np.where(good, lon, 0.0)))
    own_lat = np.where(good, lat, np.nan)
    band = np.searchsorted(bands, own_lat, side="right") - 1
    position = np.searchsorted(key[order], band * _BAND + own_lon, side="right") - 1
    entry = order[np.maximum(position, 0)]
    inside = good & (position >= 0) & (own_lat >= low[entry])
    inside &= (own_lat < high[entry]) | ((own_lat == 90.0) & (high[entry] == 90.0))
    inside &= (own_lon >= west[entry]) & (own_lon < east[entry])
    return np.where(inside, cell[entry], -1)


def take_cells(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values (..., cell) at the cells of an index, (..., \\*index.shape); NaN where there is none."""
    if not values.shape[-1]:
        return np.full((*values.shape[:-1], *index.shape), np.nan, values.dtype)
    return np.where(index >= 0, values[..., np.maximum(index, 0)], values.dtype.type(np.nan))
