"""How surface features are made: the images of tiles and patches, and the network's cells over each pixel's window."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.engine.batches import torch_threads
from lunarray.engine.models import resolve_device
from lunarray.errors import InputError, needs, require_choice
from lunarray.geo import RADIUS
from lunarray.superres.backbone import DEVIATION, FEATURES, MEAN, STRIDE, Backbone
from lunarray.superres.basemap import BaseMap, PercentileRange, project_plane, unproject

if TYPE_CHECKING:
    import xarray as xr

    from lunarray.superres.grid import GIBGrid

#: Side of the square around a pixel (km).
WINDOW = 12.5
#: Pixels along the sides of a tile of the dense mode.
TILE = 96
#: Cells that a tile has around its windows: half of what the network sees from its centre is within.
CONTEXT = 4
#: Share of a window that may be missing in the base map.
MISSING = 0.05
#: Patches that go through the network together.
BATCH = 8
#: A degree of latitude.
KM = math.radians(1) * RADIUS / 1e3
#: Meridians that a tile spans at most (degrees): its image is turned against north by half of that at its sides.
_SPAN = 30.0
#: Least ratio of a pixel's sides on the ground with which the dense mode's images are the grid itself.
_ASPECT = 0.35
#: Pixels of the image between two exactly computed positions.
_STEP = 32
#: Most samples along a side of a pixel of the image.
_MAX_SUB = 16


@dataclass(frozen=True)
class Setup:
    """All that the work on a tile or patch needs but the base map's values; a value, so that tasks have names."""

    source: BaseMap
    backbone: Backbone
    mode: str
    window: float
    pixel: float
    #: Width of a pixel of the grid, degrees.
    width: float
    kept: np.ndarray
    range_: Any
    missing: float
    tile: int
    context: int

    def require(self, lat: np.ndarray, lon: np.ndarray, what: str) -> None:
        """Raise where the base map does not reach over the pixels of some rows and columns."""
        self.source.require(np.repeat(lat, lon.size), np.tile(lon, lat.size), what)

    def grey(self) -> tuple[float, float]:
        """Values that are black and white."""
        return self.range_() if callable(self.range_) else self.range_


def prepare(
    basemap: xr.DataArray,
    grid: GIBGrid,
    backbone: Backbone,
    *,
    mode: str = "dense",
    window: float = WINDOW,
    select: Any = None,
    value_range: tuple[float, float] | None = None,
    missing: float = MISSING,
    tile: int = TILE,
    context: int = CONTEXT,
    pixel_km: float | None = None,
) -> Setup:
    """Check the options of :func:`lunarray.superres.surface_features`, and put them into one value.

    `window` and `missing` are ``window_km`` and ``max_missing`` there; `pixel_km` is by default the grid's. Raises
    InputError if one makes no sense.
    """
    require_choice("mode", mode, ("dense", "patch"))
    pixel = grid.step[0] * KM if pixel_km is None else float(pixel_km)
    for name, value, least in (
        ("window_km", window, pixel / STRIDE), ("tile", tile, 1), ("context", context, 0),
        ("pixel_km", pixel, 1e-9),
    ):  # fmt: skip
        if not (np.isfinite(value) and value >= least):
            raise InputError(f"{value} is too small", where=name, remedy=f"Give {least:g} or more")
    if not 0 <= missing < 1:
        raise InputError(
            f"{missing} is no share", where="max_missing", remedy="Give 0 or more, less than 1"
        )
    kept = np.arange(FEATURES) if select is None else np.asarray(select, np.int64)
    if kept.ndim != 1 or not kept.size or kept.min() < 0 or kept.max() >= FEATURES:
        raise InputError(
            f"features beyond 0 … {FEATURES - 1}", where="select", remedy="Give a list of numbers"
        )
    source = BaseMap(basemap)
    if value_range is None:
        value_range = source.default_range()
    if not callable(value_range):
        low, high = (float(v) for v in value_range)
        if not (np.isfinite([low, high]).all() and low < high):
            raise InputError(
                f"black at {low} and white at {high}",
                where="value_range",
                remedy="Give two values of the base map, the first less",
            )
        value_range = (low, high)
    return Setup(
        source, backbone, mode, float(window), pixel, grid.step[1], kept, value_range,
        float(missing), int(tile), int(context),
    )  # fmt: skip


def _tiles(setup: Setup, lat: np.ndarray, lon: np.ndarray) -> tuple[list[slice], list[list[slice]]]:
    """Rows of tiles, and for each its columns: as many where the image is the grid, else about as wide as high on the
    ground and of 30° of longitude at most."""
    rows = _split(lat.size, setup.tile)
    columns = []
    for part in rows:
        most = setup.tile
        if not _on_grid(setup, lat[part]):
            wide = max(float(_aspect(setup, lat[part]).max()), 1e-6)
            most = max(1, min(int(setup.tile / wide), int(_SPAN / setup.width)))
        columns.append(_split(lon.size, most))
    return rows, columns


def _aspect(setup: Setup, lat: np.ndarray) -> np.ndarray:
    """Width over height of the grid's pixels on the ground."""
    return setup.width * KM * np.cos(np.deg2rad(lat)) / setup.pixel


def _on_grid(setup: Setup, lat: np.ndarray) -> bool:
    """Whether a tile's image is the grid itself."""
    aspect = _aspect(setup, lat)
    return bool(aspect.min() >= _ASPECT and aspect.max() <= 1 / _ASPECT)


def _split(n: int, most: int) -> list[slice]:
    """Nearly equal parts of at most `most`."""
    bounds = np.linspace(0, n, -(-n // most) + 1).round().astype(int)
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(bounds)]


def at_once(setup: Setup, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    with needs("torch", "features of images by a network"):
        import torch

    out = np.empty((setup.kept.size, lat.size, lon.size), np.float32)
    grey = setup.grey()

    def fill(place: tuple[slice, slice]) -> None:
        part, cut = place
        origin = _reach(setup, frame_of(setup, lat[part], lon[cut]))
        values = setup.source.cut(setup.source.data, origin)
        out[:, part, cut] = _tile_alone(values, setup, lat[part], lon[cut], grey)

    rows, columns = _tiles(setup, lat, lon)
    places = [(part, cut) for part, cuts in zip(rows, columns, strict=True) for cut in cuts]
    # Tiles side by side, a thread each: with several threads torch sums in another order than in a Dask task. A GPU
    # gets one at a time.
    on_gpu = resolve_device(setup.backbone.device) == "cuda"
    with ThreadPoolExecutor(1 if on_gpu else torch.get_num_threads()) as pool:
        list(pool.map(fill, places))
    return out


def lazily(setup: Setup, lat: np.ndarray, lon: np.ndarray) -> Any:
    import dask
    import dask.array as da
    from dask.base import tokenize

    grey = setup.range_.delayed() if isinstance(setup.range_, PercentileRange) else setup.range_
    bare = _bare(setup)
    rows, columns = _tiles(setup, lat, lon)
    bands = []
    for part, cuts in zip(rows, columns, strict=True):
        blocks = []
        for cut in cuts:
            origin = _reach(setup, frame_of(setup, lat[part], lon[cut]))
            values = setup.source.cut(setup.source.data, origin)
            whole = values.rechunk(-1).to_delayed().ravel()[0]
            shape = (setup.kept.size, part.stop - part.start, cut.stop - cut.start)
            name = "surface-features-" + tokenize(values.name, bare, lat[part], lon[cut], grey)
            task = dask.delayed(_tile_alone)(
                whole, bare, lat[part], lon[cut], grey, dask_key_name=name
            )
            blocks.append(da.from_delayed(task, shape, np.float32, meta=np.empty((0, 0, 0), "f4")))
        bands.append(da.concatenate(blocks, axis=2))
    return da.concatenate(bands, axis=1)


def _bare(setup: Setup) -> Setup:
    return replace(setup, source=setup.source.placed(), range_=None)


def _tile_alone(*arguments: Any) -> np.ndarray:
    """One thread for torch: several tiles are worked on side by side."""
    # Not threadpoolctl's limits, which are the process' where BLAS is concerned: one tile's end would lift another's.
    with torch_threads(1):
        return _tile(*arguments)


def _tile(
    values: np.ndarray, setup: Setup, lat: np.ndarray, lon: np.ndarray, grey: tuple[float, float]
) -> np.ndarray:
    """Features of the pixels of a tile from the values of the map around it."""
    frame = frame_of(setup, lat, lon)
    origin = _reach(setup, frame)
    phi, lam = (a.ravel() for a in np.meshgrid(lat, lon, indexing="ij"))
    if setup.mode == "dense":
        found = _dense(setup, values, frame, phi, lam, grey, origin)
    else:
        found = patches(setup, values, phi, lam, grey, origin)
    return np.ascontiguousarray(found.T).reshape(setup.kept.size, lat.size, lon.size)


def _reach(setup: Setup, frame: Frame) -> tuple[int, int, int, int]:
    """Window of the base map that an image needs."""
    source = setup.source
    lat, lon = frame.places(_STEP)
    if not source.near_pole(lat):
        return source.window(*source.positions(lat, lon, frame.middle))
    # Latitude and longitude have their extremes on the image's edge, unless the pole is inside.
    lat, lon = (np.concatenate([a[0], a[-1], a[:, 0], a[:, -1]]) for a in frame.places(1))
    north = 90.0 if frame.middle[0] > 0 else -90.0
    row, column = frame.cells(np.array([north]), np.array([frame.middle[1]]))
    inside = -1 < row[0] < frame.rows + 1 and -1 < column[0] < frame.columns + 1
    if inside:
        lat, lon = np.append(lat, north), np.append(lon, frame.middle[1])
    r0, r1, c0, c1 = source.window(*source.positions(lat, lon, frame.middle))
    if inside:
        width = source.geobox.shape[1]
        c0, c1 = (c0, c0 + width + 4) if source.around else (0, width)
    return r0, r1, c0, c1


@dataclass(frozen=True)
class Frame:
    """The image of a tile, and the network's cells in it.

    Where pixels are about as wide as high on the ground, the image is the grid itself, and each cell a pixel: then
    features are alike in every tile. Elsewhere it lies on the plane that touches the Moon at `middle`, north up there.
    """

    middle: tuple[float, float]
    rows: int
    columns: int
    #: Side of a cell, km.
    cell: float
    #: Height and width of a cell, degrees, where the image is the grid; none on the plane.
    degrees: tuple[float, float] | None

    @property
    def shape(self) -> tuple[int, int]:
        return STRIDE * self.rows, STRIDE * self.columns

    def places(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Latitude and longitude of every `step`-th pixel of the image, and of one beyond its end."""
        rows, columns = (np.arange(0, n + step, step) / STRIDE for n in self.shape)
        up, right = (self.rows - 1) / 2 - rows, columns - (self.columns - 1) / 2
        if self.degrees is None:
            return unproject(self.middle, *np.meshgrid(right * self.cell, up * self.cell))
        lon, lat = np.meshgrid(right * self.degrees[1], up * self.degrees[0])
        return np.clip(self.middle[0] + lat, -90, 90), self.middle[1] + lon

    def cells(self, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cell positions of places: the network's cell i looks at pixel 32 i."""
        if self.degrees is None:
            x, y = project_plane(self.middle, lat, lon)
            up, right = y / self.cell, x / self.cell
        else:
            up = (lat - self.middle[0]) / self.degrees[0]
            right = (lon - self.middle[1]) / self.degrees[1]
        return (self.rows - 1) / 2 - up, right + (self.columns - 1) / 2

    def halves(self, lat: np.ndarray, window: float) -> tuple[np.ndarray, np.ndarray]:
        """Half the height and width, in cells, of the windows (km) at some latitudes."""
        high = np.full(lat.shape, window / 2 / self.cell)
        if self.degrees is None:
            return high, high
        return high, window / 2 / (self.degrees[1] * KM * np.cos(np.deg2rad(lat)))


def frame_of(setup: Setup, lat: np.ndarray, lon: np.ndarray) -> Frame:
    # On a pixel: the network's cells then lie on pixels.
    middle = (float(lat[lat.size // 2]), float(lon[lon.size // 2]))
    degrees = (setup.pixel / KM, setup.width) if _on_grid(setup, lat) else None
    frame = Frame(middle, 1, 1, setup.pixel, degrees)
    phi, lam = np.meshgrid(lat, lon, indexing="ij")
    sides = [
        2 * math.ceil(float((np.abs(place) + half).max()) + 0.5 + setup.context) + 1
        for place, half in zip(frame.cells(phi, lam), frame.halves(phi, setup.window), strict=True)
    ]
    return replace(frame, rows=sides[0], columns=sides[1])


def _dense(
    setup: Setup,
    values: np.ndarray,
    frame: Frame,
    lat: np.ndarray,
    lon: np.ndarray,
    grey: tuple[float, float],
    origin: tuple[int, int, int, int],
) -> np.ndarray:
    """(pixel, feature) from one image of all of them."""
    from lunarray.superres.feature_kernels import pool

    image, gaps = image_around(setup, values, frame.middle, frame.places, frame.shape, grey, origin)
    place = (*frame.cells(lat, lon), *frame.halves(lat, setup.window))
    out = np.empty((lat.size, setup.kept.size), np.float32)
    if gaps is not None:
        # The share of gaps in each cell's own pixels, which lie around pixel 32 i.
        padded = np.pad(gaps, ((STRIDE // 2, 0), (STRIDE // 2, 0)), mode="edge")[
            : gaps.shape[0], : gaps.shape[1]
        ]
        share = padded.reshape(frame.rows, STRIDE, frame.columns, STRIDE).mean(axis=(1, 3))
        lost = np.empty((lat.size, 1), np.float32)
        pool(share[..., None].astype(np.float32), *place, lost)
        if (lost > setup.missing).all():
            return np.full_like(out, np.nan)
    cells = setup.backbone.load()(image[None])[0]
    if setup.kept.size < FEATURES:
        cells = np.ascontiguousarray(cells[..., setup.kept])
    elif not np.array_equal(setup.kept, np.arange(FEATURES)):
        cells = cells[..., setup.kept]
    pool(np.ascontiguousarray(cells), *place, out)
    if gaps is not None:
        out[lost[:, 0] > setup.missing] = np.nan
    return out


def patches(
    setup: Setup,
    values: np.ndarray,
    lat: np.ndarray,
    lon: np.ndarray,
    grey: tuple[float, float],
    origin: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """(pixel, feature) from an image of each."""
    network = setup.backbone.load()
    side = max(1, round(setup.window / setup.pixel * STRIDE))

    out = np.full((lat.size, setup.kept.size), np.nan, np.float32)
    images = np.empty((BATCH, 3, side, side), np.float32)
    waiting: list[int] = []

    def flush() -> None:
        if waiting:
            cells = network(images[: len(waiting)])
            out[waiting] = cells.mean(axis=(1, 2), dtype=np.float64)[:, setup.kept]
            waiting.clear()

    for k in range(lat.size):
        middle = (float(lat[k]), float(lon[k]))
        places = functools.partial(around, middle, side, setup.pixel)
        image, gaps = image_around(setup, values, middle, places, (side, side), grey, origin)
        if gaps is not None and gaps.mean() > setup.missing:
            continue
        images[len(waiting)] = image
        waiting.append(k)
        if len(waiting) == BATCH:
            flush()
    flush()
    return out


def around(
    middle: tuple[float, float], side: int, pixel: float, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude of every `step`-th pixel of a square image around a place."""
    along = (np.arange(0, side + step, step) - (side - 1) / 2) / STRIDE * pixel
    return unproject(middle, *np.meshgrid(along, -along))


def image_around(
    setup: Setup,
    values: Any,
    middle: tuple[float, float],
    places: Callable[[int], tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, int],
    grey: tuple[float, float],
    origin: tuple[int, int, int, int] | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The network's input around a place, (3, y, x), and where the base map has nothing (None: nowhere).

    `values` are those of the window `origin` of the base map, or all of them.
    """
    from lunarray.superres.feature_kernels import sample

    step = _STEP
    phi, lam = places(step)
    if setup.source.near_pole(phi):
        step = 1
        phi, lam = places(step)
    row, column = setup.source.positions(phi, lam, middle)
    if origin is None:
        origin = setup.source.window(row, column)
        values = np.asarray(setup.source.cut(values, origin))
    shifted = column - origin[2]
    if setup.source.around:
        # A patch's middle and its tile's may be on two sides of the seam; at a pole, the window goes all around.
        width = setup.source.geobox.shape[1]
        if step == 1:
            shifted = np.mod(shifted, width)
        else:
            middle_of_window = (origin[3] - origin[2]) / 2
            shifted -= width * np.round((np.nanmean(shifted) - middle_of_window) / width)
    sub = min(_MAX_SUB, max(1, math.ceil(setup.pixel / STRIDE / setup.source.pixel - 0.25)))
    out = np.empty((values.shape[0], *shape), np.float32)
    sample(
        np.ascontiguousarray(values, np.float32), np.ascontiguousarray(row - origin[0]),
        np.ascontiguousarray(shifted), step, sub, out,
    )  # fmt: skip
    low, high = grey
    out -= np.float32(low)
    out *= np.float32(1 / (high - low))
    np.clip(out, 0, 1, out=out)
    missing = np.asarray(np.isnan(out).any(axis=0))
    gaps = missing if missing.any() else None
    if gaps is not None:
        out[:, gaps] = np.float32(np.mean(MEAN))
    image = np.broadcast_to(out, (3, *shape)) if out.shape[0] == 1 else out
    shift, scale = (np.array(v, np.float32)[:, None, None] for v in (MEAN, DEVIATION))
    return (image - shift) / scale, gaps
