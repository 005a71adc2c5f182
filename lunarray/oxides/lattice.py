"""The points of a lattice on several maps: which map holds each, and the mean of the pixels about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np

from lunarray.errors import InputError
from lunarray.geo import geobox_of, moon_crs, period_of, pixel_of, project, wrap_longitude

#: Samples whose pixels are gathered by one task.
_SAMPLES_A_TASK = 4096


def lattice_points(lon: Any, lat: Any, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes (degrees) of a lattice's points, each place once; see :func:`build_samples`."""
    lons, lats = wrap_longitude(_lattice(lon, "lon")), _lattice(lat, "lat")
    lons, lats = _once(lons), _once(np.concatenate([lats, -lats]) if mirror else lats)
    at_lat, at_lon = (axis.ravel() for axis in np.meshgrid(lats, lons, indexing="ij"))
    distinct = (np.abs(at_lat) < 90) | (at_lon == lons[0])
    return at_lon[distinct], at_lat[distinct]


def _lattice(given: Any, name: str) -> np.ndarray:
    if isinstance(given, tuple) and len(given) == 3:
        first, last, step = map(float, given)
        if not (np.isfinite([first, last, step]).all() and step > 0 and last >= first):
            raise InputError(f"{given}", where=name, remedy="Give (first, last, step)")
        values = first + step * np.arange(int(np.floor((last - first) / step + 1e-9)) + 1)
    else:
        values = np.atleast_1d(np.asarray(given, np.float64)).ravel()
    if (
        values.size == 0
        or not np.isfinite(values).all()
        or (name == "lat" and np.abs(values).max() > 90)
    ):
        raise InputError(
            f"{values.size} values that do not make sense", where=name, remedy="Give degrees"
        )
    return values


def _once(values: np.ndarray) -> np.ndarray:
    """Each value where it comes first."""
    return values[np.sort(np.unique(values, return_index=True)[1])]


class Places:
    """The pixels of one or several maps that make up the window about each point.

    Attributes
    ----------
    which : ndarray, shape (sample,)
        Map that holds the point; -1 for none.
    rows, columns : ndarray, shape (sample, pixel)
        Pixels of that map; -1 where the window is beyond its edge.
    """

    def __init__(self, maps: Sequence[Any], lon: np.ndarray, lat: np.ndarray, window: int) -> None:
        self.which = np.full(lon.size, -1)
        self.rows = np.full((lon.size, window * window), -1)
        self.columns = self.rows.copy()
        for index, obj in enumerate(maps):
            geobox = geobox_of(obj)
            open_ = self.which < 0
            held = open_ & (pixel_of(geobox, lon, lat)[0] >= 0)
            if held.any():
                self.which[held] = index
                self.rows[held], self.columns[held] = _window(geobox, lon[held], lat[held], window)

    def mean(self, arrays: Sequence[Any]) -> tuple[Any, Any]:
        """Mean of the valid pixels, shape (band, sample), float32, and their share (sample)."""
        flat = [a if a.ndim == 3 else a[None] for a in arrays]
        if any(map(dask.is_dask_collection, flat)):
            result: Any = self._mean_lazy([da.asarray(a) for a in flat])
        else:
            parts, slots = [], []
            for index, array in enumerate(flat):
                slot = np.flatnonzero(((self.which == index)[:, None] & (self.rows >= 0)).ravel())
                slots.append(slot)
                parts.append(_pick(array, self.rows.ravel()[slot], self.columns.ravel()[slot]))
            result = _mean(self.rows.shape, flat[0].shape[0], slots, parts)
        return result[:-1], result[-1]

    def _mean_lazy(self, arrays: Sequence[da.Array]) -> da.Array:
        """One small task a block that is touched, so that a block is let go before the next is read."""
        pick, mean = dask.delayed(_pick, pure=True), dask.delayed(_mean, pure=True)
        bands = arrays[0].shape[0]
        blocks = []
        for array in arrays:
            whole = array.rechunk({0: -1})
            edges = [np.concatenate([[0], np.cumsum(c)]) for c in whole.chunks[1:]]
            blocks.append((whole.to_delayed(optimize_graph=False)[0], edges))
        results = []
        for start in range(0, len(self.which), _SAMPLES_A_TASK):
            part = slice(start, start + _SAMPLES_A_TASK)
            rows, columns = self.rows[part].ravel(), self.columns[part].ravel()
            which = np.repeat(self.which[part], self.rows.shape[1])
            parts, slots = [], []
            for index, (delayed, (y, x)) in enumerate(blocks):
                slot = np.flatnonzero((which == index) & (rows >= 0))
                i = np.searchsorted(y, rows[slot], "right") - 1
                j = np.searchsorted(x, columns[slot], "right") - 1
                block = i * (len(x) - 1) + j
                order = np.argsort(block, kind="stable")
                for group in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
                    if group.size:
                        a, b = i[group[0]], j[group[0]]
                        here = slot[group]
                        parts.append(pick(delayed[a, b], rows[here] - y[a], columns[here] - x[b]))
                        slots.append(here)
            size = len(self.which[part])
            shape = (size, self.rows.shape[1])
            results.append(
                da.from_delayed(
                    mean(shape, bands, slots, parts),
                    (bands + 1, size),
                    dtype=np.float32,
                    meta=np.empty((0, 0), np.float32),
                )
            )
        return da.concatenate(results, axis=1)


def _pick(block: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.asarray(block)[:, rows, columns].astype(np.float32)


def _mean(
    shape: tuple[int, int], bands: int, slots: Sequence[np.ndarray], parts: Sequence[np.ndarray]
) -> np.ndarray:
    """Means of the pixels of each window that are valid in all bands, then the share of these, (band + 1, sample)."""
    pixels = np.full((bands, shape[0] * shape[1]), np.nan, np.float32)
    for slot, part in zip(slots, parts, strict=True):
        pixels[:, slot] = part
    valid = np.isfinite(pixels).all(axis=0)
    pixels[:, ~valid] = 0
    count = valid.reshape(shape).sum(axis=1)
    result = np.empty((bands + 1, shape[0]), np.float32)
    total = pixels.reshape(bands, *shape).sum(axis=2, dtype=np.float64)
    result[:-1] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    result[-1] = count / shape[1]
    return result


def _window(
    geobox: Any, lon: np.ndarray, lat: np.ndarray, window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the `window` × `window` pixels nearest to each point, -1 beyond the map's edge."""
    row, column = project(geobox, lon, lat)
    height, width = geobox.shape
    offsets = np.arange(window)
    first = [np.floor(p - window / 2 + 0.5).astype(np.int64) for p in (row, column)]
    rows, columns = np.broadcast_arrays(
        (first[0][:, None] + offsets)[:, :, None], (first[1][:, None] + offsets)[:, None, :]
    )
    rows, columns = rows.reshape(lon.size, -1).copy(), columns.reshape(lon.size, -1).copy()
    # Pixels in a turn of longitude; a map may overhang it by parts of pixels.
    period = period_of(moon_crs(geobox.crs))
    turn = 0 if period is None else round(period / abs(geobox.transform.a))
    if 0 < turn <= width:
        for pole in (90.0, -90.0):
            # Beyond a pole the meridian goes on as that at 180° from it.
            at = project(geobox, 0.0, pole)[0][0]
            if -0.5 < at < 1.5:
                over = rows + 0.5 < at
            elif height - 1.5 < at < height + 0.5:
                over = rows + 0.5 > at
            else:  # not on the map, or at infinity
                continue
            rows[over] = round(2 * at) - 1 - rows[over]
            columns[over] += turn // 2
        columns[columns < 0] += turn
        columns[columns >= width] -= turn
    bad = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
    rows[bad] = columns[bad] = -1
    return rows, columns
