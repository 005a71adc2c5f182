"""What part of a map is drawn: where there is something, with a margin."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from lunarray.geo import geobox_of
from lunarray.plot.drawing import decimate, map_dims, pole_of

XarrayT = TypeVar("XarrayT", xr.Dataset, xr.DataArray)

#: A map is cut where its values leave more than this share of a side free; a polar one only if they do on both sides
#: and much more of it, for there the pole tells where one is.
_FILLED, _FILLED_POLAR = 0.6, 0.3
#: Margin around what is there, as a share of it, and the least ratio of the sides.
_MARGIN, _NARROWEST = 0.15, 0.4


def framed(obj: XarrayT, max_pixels: int) -> XarrayT:
    """A map in memory, of no more than `max_pixels`, cut to where it holds anything, across 180° too.

    A map that is mostly filled stays whole. Of one that is not, all pixels are looked at once more where it is larger
    than `max_pixels`: few that are known must not fall between those that are picked.
    """
    first = next(iter(obj.data_vars.values())) if isinstance(obj, xr.Dataset) else obj
    dims = map_dims(first)
    shown: XarrayT = decimate(obj, max_pixels)
    thinned = any(shown.sizes[d] != obj.sizes[d] for d in dims)
    known = _known(shown, dims)
    if thinned and float(known.mean()) > 0.5:
        return shown
    rows, columns = _sides(obj if thinned else shown, dims)
    box = geobox_of(obj)
    pole = pole_of(box)
    around = pole is None and dims != ("y", "x") and _closes(box)
    if not rows.any():
        return shown
    spans = _run(rows, False), _run(columns, around)
    shares = [
        (stop - start) / size
        for (start, stop), size in zip(spans, (rows.size, columns.size), strict=True)
    ]
    if max(shares) > _FILLED_POLAR if pole else min(shares) > _FILLED:
        return shown
    high, wide = (stop - start for start, stop in spans)
    tall, broad = abs(box.transform.e), abs(box.transform.a)
    (top, bottom), (left, right) = (
        _wider(span, max(own, math.ceil(_NARROWEST * other * theirs / mine)))
        for span, own, other, mine, theirs in (
            (spans[0], high, wide, tall, broad), (spans[1], wide, high, broad, tall)
        )
    )  # fmt: skip
    cut = obj.isel({dims[0]: slice(max(top, 0), min(bottom, rows.size))})
    if around and right - left >= columns.size:
        return decimate(cut, max_pixels)
    return decimate(_columns(cut, dims[1], left, right, around), max_pixels)


def _known(obj: Any, dims: tuple[str, str]) -> xr.DataArray:
    """Where any of the maps has a value."""
    arrays = list(obj.data_vars.values()) if isinstance(obj, xr.Dataset) else [obj]
    out = arrays[0].notnull()
    for array in arrays[1:]:
        out = out | array.notnull()
    return out.any([d for d in out.dims if d not in dims])


def _sides(obj: Any, dims: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns that hold a value, read block by block."""
    import dask

    known = _known(obj, dims)
    rows, columns = dask.compute(known.any(dims[1]).data, known.any(dims[0]).data)
    return np.asarray(rows), np.asarray(columns)


def _closes(box: Any) -> bool:
    """Whether a grid in degrees goes all around the Moon."""
    return abs(abs(box.transform.a) * box.shape[1] - 360.0) < 0.5 * abs(box.transform.a)


def _run(there: np.ndarray, around: bool) -> tuple[int, int]:
    """Start and stop of what is there; on a closed row of pixels the shortest run, which may pass its end."""
    at = np.flatnonzero(there)
    if not around:
        return int(at[0]), int(at[-1]) + 1
    gaps = np.diff(np.append(at, at[0] + there.size))
    k = int(gaps.argmax())
    if k == at.size - 1:
        return int(at[0]), int(at[-1]) + 1
    return int(at[k + 1]), int(at[k]) + 1 + there.size


def _wider(span: tuple[int, int], size: int) -> tuple[int, int]:
    """A run of pixels with its margin, and at least of a size without it."""
    start, stop = span
    more = max(2, math.ceil(_MARGIN * size)) + max(0, size - (stop - start)) // 2
    return start - more, stop + more


def _columns(obj: XarrayT, dim: str, left: int, right: int, around: bool) -> XarrayT:
    """Columns of a map; where it goes around the Moon they may pass its edge, and longitudes go on there."""
    size = obj.sizes[dim]
    if not around:
        return obj.isel({dim: slice(max(left, 0), min(right, size))})
    at = np.arange(left, right)
    part = obj.isel({dim: at % size})
    if left >= 0 and right <= size:
        return part
    # Longitudes beyond the edge go on as they did; a stored transform would be that of the whole map.
    lon = obj[dim].values.astype("f8")
    step = (lon[-1] - lon[0]) / (size - 1)
    return part.assign_coords({dim: (dim, lon[0] + at * step, obj[dim].attrs)})
