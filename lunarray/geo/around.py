"""A raster around points: what functions see that need the ground near a place, not a map of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import InputError
from lunarray.geo.crs import radius_of
from lunarray.geo.georeference import geobox_of
from lunarray.geo.grid import grid_token, pixel_size, project
from lunarray.geo.resample import blocks_of
from lunarray.geo.sampling import Sampler, Window

if TYPE_CHECKING:
    import xarray as xr
    from odc.geo.geobox import GeoBox

#: Points for which a function is called at a time.
_BATCH = 1 << 14
#: Side (degrees) of the cells of points whose surroundings are looked up in the raster.
_CELL = 0.5


@dataclass(frozen=True)
class Ground:
    """A part of a raster with its place.

    Attributes
    ----------
    values : numpy.ndarray
        Rows and columns of the part.
    geobox : GeoBox
        Of the whole raster.
    part : Part
        Where the part lies.
    """

    values: np.ndarray
    geobox: GeoBox
    part: Any

    @property
    def pixel(self) -> float:
        """Side of a pixel, m."""
        return pixel_size(self.geobox)

    @property
    def radius(self) -> float:
        """Radius of the body, m."""
        return radius_of(self.geobox.crs)

    def at(self, lon: np.ndarray, lat: np.ndarray, min_valid: float = 1.0) -> np.ndarray:
        """Values at places (degrees, any shape), bilinear, float64; NaN outside, and beside gaps of the raster."""
        from lunarray.geo.resample_kernels import take_bilinear

        row, column = project(self.geobox, np.ravel(lon), np.ravel(lat))
        return take_bilinear(self.values, self.part, row, column, min_valid).reshape(np.shape(lon))


def offset(
    lon: np.ndarray, lat: np.ndarray, azimuth: np.ndarray, angle: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places at the end of arcs of great circles: azimuth clockwise from north, everything in degrees; they broadcast.

    At a pole the longitude given with it says where north is.
    """
    phi, turn, arc = (np.deg2rad(v) for v in (lat, azimuth, angle))
    sine = np.sin(phi) * np.cos(arc) + np.cos(phi) * np.sin(arc) * np.cos(turn)
    east = np.sin(turn) * np.sin(arc)
    north = np.cos(phi) * np.cos(arc) - np.sin(phi) * np.sin(arc) * np.cos(turn)
    level = np.hypot(east, north)
    return lon + np.rad2deg(np.arctan2(east, north)), np.rad2deg(np.arctan2(sine, level))


def map_around(
    function: Callable[..., np.ndarray],
    raster: xr.DataArray,
    lon: np.ndarray,
    lat: np.ndarray,
    arrays: Sequence[Any] = (),
    *,
    outputs: int,
    reach: float,
    name: str,
    chunks: Any = None,
    **options: Any,
) -> Any:
    """Call a function on points and the ground around them.

    Parameters
    ----------
    function : callable
        ``function(ground, lon, lat, *arrays, **options)`` with a `Ground` and points (n,); returns (outputs, n).
    raster : DataArray
        Two dimensions, with a CRS.
    lon, lat : numpy.ndarray
        Degrees, of any shape, all known.
    arrays : sequence of arrays
        Of the shape of the points; Dask arrays among them, or a chunked raster, make the result lazy.
    outputs : int
        Layers of the result.
    reach : float
        How far from a point the function looks, m.
    name : str
        What the tasks are called.
    chunks : optional
        Of a lazy result, as of the points.

    Returns
    -------
    array, shape (outputs, *points)
        float32.

    Raises
    ------
    InputError
        If the raster has not two dimensions.
    GridError
        If it has no CRS.
    """
    if raster.ndim != 2:
        raise InputError(
            f"a raster of {raster.ndim} dimensions ({', '.join(map(str, raster.dims))})",
            where=name,
            remedy="Give one band, (y, x) or (lat, lon)",
        )
    geobox = geobox_of(raster)
    options = {"geobox": geobox, "function": function, "outputs": outputs, "options": options}
    lazy = raster.chunks is not None or any(hasattr(a, "dask") for a in arrays)
    if not lazy:
        window = Window(0, geobox.shape[0], 0, geobox.shape[1])
        values = np.asarray(raster.values)
        return _run(window, [(0, 0)], [values], lon, lat, *map(np.asarray, arrays), **options)
    return _lazily(raster, geobox, lon, lat, arrays, reach, name, chunks, options)


def _lazily(
    raster: xr.DataArray,
    geobox: GeoBox,
    lon: np.ndarray,
    lat: np.ndarray,
    arrays: Sequence[Any],
    reach: float,
    name: str,
    chunks: Any,
    options: dict[str, Any],
) -> Any:
    import dask.array as da
    from dask.base import tokenize

    from lunarray.engine.graph import Block, assemble

    chunked = next((a.chunks for a in arrays if hasattr(a, "dask")), None)
    sizes = da.core.normalize_chunks(
        (chunked or (-1,) * lon.ndim) if chunks is None else chunks, shape=lon.shape, dtype="f4"
    )
    data = raster.chunk().data if raster.chunks is None else raster.data
    given: list[Any] = [a.rechunk(sizes) if hasattr(a, "dask") else np.asarray(a) for a in arrays]
    edges = [np.concatenate([[0], np.cumsum(s)]).tolist() for s in sizes]

    def needs(index: tuple[int, ...]) -> list[Any]:
        _, *own = index
        here = tuple(slice(e[k], e[k + 1]) for e, k in zip(edges, own, strict=True))
        window = window_of(geobox, lon[here], lat[here], reach)
        blocks = [] if window is None else blocks_of(data, window)
        others = [Block(a, tuple(own)) if hasattr(a, "dask") else a[here] for a in given]
        corners, parts = [c for c, _ in blocks], [b for _, b in blocks]
        return [window, corners, parts, lon[here], lat[here], *others]

    names = [a.name if hasattr(a, "dask") else a for a in given]
    return assemble(
        _run,
        ((options["outputs"],), *sizes),
        needs=needs,
        dtype=np.float32,
        meta=np.empty((0,) * (lon.ndim + 1), np.float32),
        name=name,
        token=tokenize(
            *(options["function"].__qualname__, options["options"], grid_token(geobox), data.name),
            *(lon, lat, names, reach, sizes),
        ),
        kwargs=options,
    )


def _run(
    window: Window | None,
    corners: list[tuple[int, int]],
    blocks: list[np.ndarray],
    lon: np.ndarray,
    lat: np.ndarray,
    *arrays: np.ndarray,
    geobox: GeoBox,
    function: Callable[..., np.ndarray],
    outputs: int,
    options: dict[str, Any],
) -> np.ndarray:
    out = np.full((outputs, lon.size), np.nan, np.float32)
    if window is not None and blocks:
        sampler = _sampler(geobox)
        values = sampler.part(window, [(*at, b) for at, b in zip(corners, blocks, strict=True)])
        part = sampler._whole._replace(top=window.top, left=window.left)
        # One kind of array: each kind more is compiled anew.
        kind = np.float64 if values.dtype.itemsize > 4 else np.float32
        ground = Ground(np.ascontiguousarray(values, kind), geobox, part)
        flat = [np.ravel(a) for a in (lon, lat, *arrays)]
        for start in range(0, lon.size, _BATCH):
            some = slice(start, start + _BATCH)
            out[:, some] = function(ground, *(a[some] for a in flat), **options)
    return out.reshape(outputs, *lon.shape)


def _sampler(geobox: GeoBox) -> Sampler:
    return Sampler(geobox, geobox, "bilinear", 1.0)


def window_of(geobox: GeoBox, lon: np.ndarray, lat: np.ndarray, reach: float) -> Window | None:
    """The part of a raster within a distance (m) of any of some points; never less. None where there is nothing."""
    good = np.isfinite(lon) & np.isfinite(lat)
    if not good.any():
        return None
    # Points by cells of some size: around each of these a ring, far enough for all in it.
    cells = np.unique(
        np.floor(np.stack([lon[good], lat[good]], axis=1) / _CELL).astype(np.int64), axis=0
    )
    x, y = (cells.T + 0.5) * _CELL
    y = np.clip(y, -90.0, 90.0)
    far = _CELL + math.degrees(reach / radius_of(geobox.crs))
    turns, shares = np.linspace(0, 360, 17)[:-1], np.linspace(0.0, 1.0, max(2, math.ceil(far)))
    turns, shares = (v.ravel() for v in np.meshgrid(turns, shares))
    places = offset(x[:, None], y[:, None], turns, far * shares)
    row, column = project(geobox, *(v.ravel() for v in places))
    known = np.isfinite(row)
    if not known.any():
        return None
    row, column = row[known], column[known]
    # The ring has corners between its points.
    slack = 0.05 * math.radians(far) * radius_of(geobox.crs) / pixel_size(geobox) + 2
    (height, width), whole = geobox.shape, _sampler(geobox)._whole
    top, bottom = max(math.floor(row.min() - slack), 0), min(math.ceil(row.max() + slack), height)
    if top >= bottom:
        return None
    if whole.turn:
        highest = np.abs(y).max() + far
        if highest >= 89.0:
            return Window(top, bottom, 0, width)
        slack /= math.cos(math.radians(highest))
    if not whole.around:
        left, right = math.floor(column.min() - slack), math.ceil(column.max() + slack)
        left, right = max(left, 0), min(right, width)
        return Window(top, bottom, left, right) if left < right else None
    column = column - whole.turn * np.round((column - column[0]) / whole.turn)
    left, right = math.floor(column.min() - slack), math.ceil(column.max() + slack)
    if right - left >= width:
        return Window(top, bottom, 0, width)
    shift = left // width * width
    return Window(top, bottom, left - shift, right - shift)


def batches(total: int, size: int) -> Iterator[slice]:
    """Slices of some size that together are `total`."""
    for start in range(0, total, max(1, size)):
        yield slice(start, min(start + max(1, size), total))
