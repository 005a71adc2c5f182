"""Surface features: what ResNet50 sees in the 12.5 km around each pixel of two kilometres.

Two ways, one result. ``patch`` is the reference: the square around each pixel, on the plane that touches the Moon
there, goes through the network and its output is averaged. ``dense`` runs the network once over whole tiles of the base
map, resampled so that the network's stride is the spacing of the pixels, and averages the output over each pixel's
square. Nearly all that neighbouring patches compute, they compute alike: dense does it once.

The two differ by what the network makes of an image's border: a patch ends in zeros, a tile goes on. Their agreement
is measured by :func:`feature_agreement`.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lunarray.errors import InputError
from lunarray.geo import RADIUS
from lunarray.superres.backbone import (
    DEVIATION,
    FEATURES,
    MEAN,
    STRIDE,
    Backbone,
    resnet50_backbone,
)
from lunarray.superres.basemap import BaseMap, PercentileRange, project_plane, unproject

if TYPE_CHECKING:
    import xarray as xr

    from lunarray.engine.models import Device
    from lunarray.superres.grid import GIBGrid

Mode = Literal["dense", "patch"]

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
#: Meridians that a tile spans at most (degrees): its image is turned against north by half of that at its sides.
_SPAN = 30.0
#: Least ratio of a pixel's sides on the ground with which the dense mode's images are the grid itself.
_ASPECT = 0.35
#: Pixels of the image between two exactly computed positions.
_STEP = 32
#: Most samples along a side of a pixel of the image.
_MAX_SUB = 16
_KM = math.radians(1) * RADIUS / 1e3


def surface_features(
    basemap: xr.DataArray,
    grid: GIBGrid,
    region: tuple[int, int],
    weights: str | os.PathLike[str] | Backbone | None = None,
    mode: Mode = "dense",
    window_km: float = WINDOW,
    *,
    select: Sequence[int] | np.ndarray | None = None,
    value_range: tuple[float, float] | None = None,
    max_missing: float = MISSING,
    tile: int = TILE,
    context: int = CONTEXT,
    batch: int = BATCH,
    seed: int = 0,
    device: Device = "auto",
) -> xr.DataArray:
    """Compute the features of the surroundings of every pixel of a region.

    Parameters
    ----------
    basemap : DataArray
        Image of the surface, (y, x) or (lat, lon) with a lunar CRS; three bands before these dimensions are taken for
        red, green and blue, one band is given thrice. A global map in longitude goes on across ±180°; at its other
        edges the nearest pixel goes on, and the poles are in the middle of the images that hold them.
    grid : GIBGrid
        The grid whose pixels are meant.
    region : (int, int)
        Region (i, j) of it.
    weights : path, "torchvision", Backbone or None
        Of the network, as :func:`resnet50_backbone` takes them; None for random ones, drawn from `seed`.
    mode : {"dense", "patch"}
        One pass over each tile, or one over each pixel's own image; see Notes.
    window_km : float
        Side of the square around a pixel (km).
    select : sequence of int, optional
        Features to keep, in this order, such as those of :func:`select_features`; all 2048 by default.
    value_range : (float, float), optional
        Values of the base map that are black and white. By default its attribute ``valid_range``, or for 8 bit
        0–255, or the half and 99.5 percentiles of a sample of the whole map.
    max_missing : float
        Share of a window that may be missing (NaN) in the base map; pixels with more have NaN features. What is
        missing is grey.
    tile, context : int
        Of the dense mode: pixels along the sides of a tile, and cells around the windows that are computed as well,
        so that features do not show the borders of tiles. Memory goes with the square of ``tile``: some 2 GB for 96.
    batch : int
        Of the patch mode: patches that go through the network together.
    seed : int
        For random weights.
    device : {"auto", "cpu", "cuda"}
        Where the network runs.

    Returns
    -------
    DataArray
        (feature, lat, lon) float32; lazy where `basemap` is, with a task for each tile. Coordinate ``feature`` is the
        number among the 2048; attributes name network, weights, their sha256, mode and window.

    Raises
    ------
    CoverageError
        The centre of a pixel lies outside of the base map.
    GridError
        The base map has no grid, or no such region is in `grid`.
    ModelError
        The weights are missing or of another network.
    InputError
        An option or the number of bands makes no sense.

    Notes
    -----
    A patch is a square of `window_km` on the plane that touches the Moon at the pixel, north up, sampled at 1/32 of the
    pixels' height.

    A tile is the base map resampled to 32 × 32 samples in each pixel of the grid, so that the network's stride is the
    spacing of the pixels; a pixel's window is `window_km` wide and high on the ground. Features are then the same in
    any tiling. Where pixels are less than 0.35 as wide as high (beyond 69.5° on the paper's grid), tiles lie on the
    plane that touches the Moon at their middle, north up there, and windows are parallel to its axes; the network's
    cells fall between pixels, and features of one pixel differ a little from tiling to tiling.

    :func:`feature_agreement` measures how the two modes compare.

    References
    ----------
    Lunar elemental analysis and mapping of Chandrayaan-2 CLASS data (paper 002), section IV.B.1.
    """
    import xarray as xr

    setup = _setup(
        basemap, grid, weights, mode, window_km, select, value_range, max_missing, tile, context,
        batch, seed, device,
    )  # fmt: skip
    lat, lon = grid.lat(region[0]), grid.lon(region[1])
    setup.source.require(
        np.repeat(lat, lon.size), np.tile(lon, lat.size), f"region {tuple(region)}"
    )
    data = _lazily(setup, lat, lon) if setup.source.lazy else _at_once(setup, lat, lon)
    coords = {"feature": setup.kept, "lat": lat, "lon": lon}
    result = xr.DataArray(data, coords, ("feature", "lat", "lon"), "feature")
    result["lat"].attrs = {"units": "degrees_north", "standard_name": "latitude"}
    result["lon"].attrs = {"units": "degrees_east", "standard_name": "longitude"}
    return _finished(result, setup, basemap, "surface_features")


def patch_features(
    basemap: xr.DataArray,
    lat: Any,
    lon: Any,
    weights: str | os.PathLike[str] | Backbone | None = None,
    window_km: float = WINDOW,
    *,
    pixel_km: float | None = None,
    select: Sequence[int] | np.ndarray | None = None,
    value_range: tuple[float, float] | None = None,
    max_missing: float = MISSING,
    batch: int = BATCH,
    seed: int = 0,
    device: Device = "auto",
) -> xr.DataArray:
    """Compute the features of the surroundings of single places, each by its own image.

    Parameters
    ----------
    basemap : DataArray
        Image of the surface, as in :func:`surface_features`.
    lat, lon : array_like, shape (place,)
        Degrees, any longitude range.
    weights : path, "torchvision", Backbone or None
        Of the network, as there.
    window_km : float
        Side of the square around a place (km).
    pixel_km : float, optional
        Height of the pixels meant (km); the image has 32 pixels in it. By default that of the paper's grid.
    select : sequence of int, optional
        Features to keep.
    value_range : (float, float), optional
        Values of the base map that are black and white.
    max_missing : float
        Share of a window that may be missing in the base map.
    batch : int
        Patches that go through the network together.
    seed : int
        For random weights.
    device : {"auto", "cpu", "cuda"}
        Where the network runs.

    Returns
    -------
    DataArray
        (feature, place) float32, in memory.

    Raises
    ------
    CoverageError
        A place lies outside of the base map.
    ModelError, GridError, InputError
        As in :func:`surface_features`.
    """
    import xarray as xr

    from lunarray.superres.grid import GIBGrid

    lat, lon = np.atleast_1d(np.asarray(lat, "f8")), np.atleast_1d(np.asarray(lon, "f8"))
    if lat.ndim != 1 or lat.shape != lon.shape:
        raise InputError(
            f"lat {lat.shape} and lon {lon.shape}", where="lat", remedy="give one of each a place"
        )
    setup = _setup(
        basemap, GIBGrid(), weights, "patch", window_km, select, value_range, max_missing, TILE,
        CONTEXT, batch, seed, device, pixel_km,
    )  # fmt: skip
    setup.source.require(lat, lon, "the places")
    data = np.ascontiguousarray(_patches(setup, setup.source.data, lat, lon, setup.grey()).T)
    coords = {"feature": setup.kept, "lat": ("place", lat), "lon": ("place", lon)}
    result = xr.DataArray(data, coords, ("feature", "place"), "feature")
    return _finished(result, setup, basemap, "patch_features")


def feature_agreement(
    basemap: xr.DataArray,
    grid: GIBGrid,
    region: tuple[int, int],
    weights: str | os.PathLike[str] | Backbone | None = None,
    window_km: float = WINDOW,
    *,
    pixels: int = 64,
    dense: xr.DataArray | None = None,
    seed: int = 0,
    **options: Any,
) -> dict[str, float]:
    """Measure how well the dense mode agrees with the reference.

    Parameters
    ----------
    basemap : DataArray
        Image of the surface, as in :func:`surface_features`.
    grid : GIBGrid
        The grid whose pixels are meant.
    region : (int, int)
        Region (i, j) of it.
    weights : path, "torchvision", Backbone or None
        Of the network, as there.
    window_km : float
        Side of the square around a pixel (km).
    pixels : int
        Pixels of the region, drawn by `seed`, that are computed by their own patches.
    dense : DataArray, optional
        Features of the region that :func:`surface_features` gave; computed where they are not given.
    seed : int
        Of the draw, and of random weights.
    **options : Any
        Further options of :func:`surface_features`.

    Returns
    -------
    dict of str to float
        ``pixels``: that were compared; ``correlation`` over the pixels, median over the features that vary, and
        ``correlation_p10``, its tenth percentile; ``distance_correlation``: of the squared distances of all pairs of
        pixels in standardised features, which graphs are made of; ``relative_difference``: root mean square of the
        difference, over that of the patches' deviations from their means.

    Raises
    ------
    InputError
        Fewer than three pixels with features in both.
    """
    if dense is None:
        dense = surface_features(
            basemap, grid, region, weights, "dense", window_km, seed=seed, **options
        )
    rng = np.random.default_rng(seed)
    lat, lon = grid.lat(region[0]), grid.lon(region[1])
    number = min(pixels, lat.size * lon.size)
    where = np.sort(rng.choice(lat.size * lon.size, number, replace=False))
    row, column = np.divmod(where, lon.size)
    one = np.asarray(dense.data[:, row, :][:, np.arange(number), column], "f8").T
    kept = {k: v for k, v in options.items() if k not in ("tile", "context")}
    other = patch_features(
        basemap, lat[row], lon[column], weights, window_km, seed=seed,
        pixel_km=grid.step[0] * _KM, **{**kept, "select": dense["feature"].values},
    ).values.astype("f8").T  # fmt: skip
    good = np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1)
    if good.sum() < 3:
        raise InputError(
            f"{int(good.sum())} pixels with features",
            where="pixels",
            remedy="compare three at least",
        )
    return {"pixels": float(good.sum()), **_agreement(one[good], other[good])}


def _agreement(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    a, b = one - one.mean(axis=0), other - other.mean(axis=0)
    sa, sb = a.std(axis=0), b.std(axis=0)
    varies = (sa > 1e-7 * np.abs(one).max()) & (sb > 1e-7 * np.abs(other).max())
    correlation = (a * b).mean(axis=0)[varies] / (sa * sb)[varies]
    first, second = np.triu_indices(len(a), 1)
    distances = [
        np.square(z[first] - z[second]).sum(axis=1)
        for z in (a[:, varies] / sa[varies], b[:, varies] / sb[varies])
    ]
    return {
        "correlation": float(np.median(correlation)),
        "correlation_p10": float(np.quantile(correlation, 0.1)),
        "distance_correlation": float(np.corrcoef(*distances)[0, 1]),
        "relative_difference": float(np.sqrt(np.square(one - other).mean() / np.square(b).mean())),
    }


def fill_features(
    path: str | os.PathLike[str],
    basemap: xr.DataArray,
    weights: str | os.PathLike[str] | Backbone | None = None,
    *,
    regions: Iterable[tuple[int, int]] | None = None,
    select: Sequence[int] | np.ndarray | None = None,
    mode: Mode = "dense",
    window_km: float = WINDOW,
    value_range: tuple[float, float] | None = None,
    seed: int = 0,
    progress: Callable[[tuple[int, int]], None] | None = None,
    **options: Any,
) -> list[tuple[int, int]]:
    """Fill the surface features of a Global Information Bank, region by region; go on where it was interrupted.

    Parameters
    ----------
    path : path
        The store that :func:`lunarray.superres.create_gib` made.
    basemap : DataArray
        Image of the surface, as in :func:`surface_features`.
    weights : path, "torchvision", Backbone or None
        Of the network, as there.
    regions : iterable of (int, int), optional
        Regions to fill; all by default. Those that have features are passed over.
    select : sequence of int, optional
        The features to keep, as many as the store has. By default those that :func:`select_features` chooses by
        variance on the first region to be filled; a store begun earlier keeps its own.
    mode : {"dense", "patch"}
        As there.
    window_km : float
        Side of the square around a pixel (km).
    value_range : (float, float), optional
        Values of the base map that are black and white; by default those of a store begun earlier, else as there, of
        the whole map.
    seed : int
        For random weights.
    progress : callable, optional
        Called with each region once it is written.
    **options : Any
        Further options of :func:`surface_features`.

    Returns
    -------
    list of (int, int)
        Regions that were filled now.

    Raises
    ------
    ModelError
        The store's features come from other weights, another mode or selection.
    CoverageError
        The base map does not cover a region; nothing has been written then.
    InputError
        `select` is not as long as the store's features.

    Notes
    -----
    Values are scaled by `value_range` of the whole base map, so that all regions see the same grey; it is recorded in
    the store with network, weights, mode, window and selection, and must be the same when more regions are filled.
    """
    import json

    from lunarray.superres.gib import STATE_FLAGS, gib_grid, meta_of, open_gib, write_region

    ds = open_gib(path)
    grid, meta = gib_grid(ds), meta_of(path)
    known = meta["feature_model"] or {}
    if value_range is None and "value_range" in known:
        value_range = tuple(known["value_range"])
    setup = _setup(
        basemap, grid, weights, mode, window_km, None, value_range, MISSING, TILE, CONTEXT, BATCH,
        seed, options.pop("device", "auto"),
    )  # fmt: skip
    low, high = setup.grey()
    wanted = [(int(i), int(j)) for i, j in (grid.all_regions() if regions is None else regions)]
    there = ds["state"].values & STATE_FLAGS["features"]
    todo = [region for region in dict.fromkeys(wanted) if not there[region]]
    for region in todo:
        lat, lon = grid.lat(region[0]), grid.lon(region[1])
        setup.source.require(np.repeat(lat, lon.size), np.tile(lon, lat.size), f"region {region}")
    model = {**setup.backbone.description, "mode": mode, "window_km": float(window_km)}
    model["sha256"] = model.pop("weights_sha256")
    model["value_range"] = [low, high]
    if select is None and "selection" in known:
        select = known["selection"]
    done = []
    for region in todo:
        features = surface_features(
            basemap, grid, region, setup.backbone, mode, window_km, select=select,
            value_range=(low, high), **options,
        ).compute()  # fmt: skip
        if select is None:
            from lunarray.superres.mrmr import select_features

            select = (
                np.arange(FEATURES)
                if meta["features"] == FEATURES
                else select_features(features, meta["features"])
            )
            features = features.isel(feature=select)
        model["selection"] = [int(f) for f in np.asarray(select)]
        if len(model["selection"]) != meta["features"]:
            raise InputError(
                f"{len(model['selection'])} features for a store of {meta['features']}",
                where="select",
                remedy="give as many as the store was made for",
            )
        write_region(
            path, region, feature=features.values, feature_model=json.loads(json.dumps(model))
        )
        done.append(region)
        if progress is not None:
            progress(region)
    return done


def _finished(
    result: xr.DataArray, setup: _Setup, basemap: xr.DataArray, event: str
) -> xr.DataArray:
    from lunarray.geo import assign_crs, moon_crs
    from lunarray.store.provenance import stamp

    result.attrs = {
        "long_name": "surface feature",
        "units": "1",
        **setup.backbone.description,
        "mode": setup.mode,
        "window_km": setup.window,
    }
    if not callable(setup.range_):
        result.attrs["value_range"] = list(setup.range_)
    if "lat" in result.dims:
        result = assign_crs(result, moon_crs("geographic"))
    return stamp(result, event, source=basemap.attrs.get("source"))


@dataclass(frozen=True)
class _Setup:
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
    batch: int

    def grey(self) -> tuple[float, float]:
        """Values that are black and white."""
        return self.range_() if callable(self.range_) else self.range_


def _setup(
    basemap: xr.DataArray,
    grid: GIBGrid,
    weights: Any,
    mode: str,
    window: float,
    select: Any,
    value_range: tuple[float, float] | None,
    missing: float,
    tile: int,
    context: int,
    batch: int,
    seed: int,
    device: Any,
    pixel_km: float | None = None,
) -> _Setup:
    if mode not in ("dense", "patch"):
        raise InputError(f"{mode!r} is unknown", where="mode", remedy="give 'dense' or 'patch'")
    pixel = grid.step[0] * _KM if pixel_km is None else float(pixel_km)
    for name, value, least in (
        ("window_km", window, pixel / STRIDE), ("tile", tile, 1), ("batch", batch, 1),
        ("context", context, 0), ("pixel_km", pixel, 1e-9),
    ):  # fmt: skip
        if not (np.isfinite(value) and value >= least):
            raise InputError(f"{value} is too small", where=name, remedy=f"give {least:g} or more")
    if not 0 <= missing < 1:
        raise InputError(
            f"{missing} is no share", where="max_missing", remedy="give 0 or more, less than 1"
        )
    kept = np.arange(FEATURES) if select is None else np.asarray(select, np.int64)
    if kept.ndim != 1 or not kept.size or kept.min() < 0 or kept.max() >= FEATURES:
        raise InputError(
            f"features beyond 0 … {FEATURES - 1}", where="select", remedy="give a list of numbers"
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
                remedy="give two values of the base map, the first less",
            )
        value_range = (low, high)
    return _Setup(
        source, resnet50_backbone(weights, seed=seed, device=device), mode, float(window), pixel,
        grid.step[1], kept, value_range, float(missing), int(tile), int(context), int(batch),
    )  # fmt: skip


def _tiles(
    setup: _Setup, lat: np.ndarray, lon: np.ndarray
) -> tuple[list[slice], list[list[slice]]]:
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


def _aspect(setup: _Setup, lat: np.ndarray) -> np.ndarray:
    """Width over height of the grid's pixels on the ground."""
    return setup.width * _KM * np.cos(np.deg2rad(lat)) / setup.pixel


def _on_grid(setup: _Setup, lat: np.ndarray) -> bool:
    """Whether a tile's image is the grid itself."""
    aspect = _aspect(setup, lat)
    return bool(aspect.min() >= _ASPECT and aspect.max() <= 1 / _ASPECT)


def _split(n: int, most: int) -> list[slice]:
    """Nearly equal parts of at most `most`."""
    bounds = np.linspace(0, n, -(-n // most) + 1).round().astype(int)
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(bounds)]


def _at_once(setup: _Setup, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    out = np.empty((setup.kept.size, lat.size, lon.size), np.float32)
    grey = setup.grey()
    rows, columns = _tiles(setup, lat, lon)
    for part, cuts in zip(rows, columns, strict=True):
        for cut in cuts:
            origin = _reach(setup, _frame(setup, lat[part], lon[cut]))
            values = setup.source.cut(setup.source.data, origin)
            out[:, part, cut] = _tile(values, setup, lat[part], lon[cut], grey)
    return out


def _lazily(setup: _Setup, lat: np.ndarray, lon: np.ndarray) -> Any:
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
            origin = _reach(setup, _frame(setup, lat[part], lon[cut]))
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


def _bare(setup: _Setup) -> _Setup:
    return replace(setup, source=setup.source.placed(), range_=None)


def _tile_alone(*arguments: Any) -> np.ndarray:
    """In a Dask task: one thread for torch, whose threads are the caller's own."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return _tile(*arguments)


def _tile(
    values: np.ndarray, setup: _Setup, lat: np.ndarray, lon: np.ndarray, grey: tuple[float, float]
) -> np.ndarray:
    """Features of the pixels of a tile from the values of the map around it."""
    frame = _frame(setup, lat, lon)
    origin = _reach(setup, frame)
    phi, lam = (a.ravel() for a in np.meshgrid(lat, lon, indexing="ij"))
    if setup.mode == "dense":
        found = _dense(setup, values, frame, phi, lam, grey, origin)
    else:
        found = _patches(setup, values, phi, lam, grey, origin)
    return np.ascontiguousarray(found.T).reshape(setup.kept.size, lat.size, lon.size)


def _reach(setup: _Setup, frame: _Frame) -> tuple[int, int, int, int]:
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
class _Frame:
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
        return high, window / 2 / (self.degrees[1] * _KM * np.cos(np.deg2rad(lat)))


def _frame(setup: _Setup, lat: np.ndarray, lon: np.ndarray) -> _Frame:
    # On a pixel: the network's cells then lie on pixels.
    middle = (float(lat[lat.size // 2]), float(lon[lon.size // 2]))
    degrees = (setup.pixel / _KM, setup.width) if _on_grid(setup, lat) else None
    frame = _Frame(middle, 1, 1, setup.pixel, degrees)
    phi, lam = np.meshgrid(lat, lon, indexing="ij")
    sides = [
        2 * math.ceil(float((np.abs(place) + half).max()) + 0.5 + setup.context) + 1
        for place, half in zip(frame.cells(phi, lam), frame.halves(phi, setup.window), strict=True)
    ]
    return replace(frame, rows=sides[0], columns=sides[1])


def _dense(
    setup: _Setup,
    values: np.ndarray,
    frame: _Frame,
    lat: np.ndarray,
    lon: np.ndarray,
    grey: tuple[float, float],
    origin: tuple[int, int, int, int],
) -> np.ndarray:
    """(pixel, feature) from one image of all of them."""
    from lunarray.superres.feature_kernels import pool

    image, gaps = _image(setup, values, frame.middle, frame.places, frame.shape, grey, origin)
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


def _patches(
    setup: _Setup,
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
    images = np.empty((setup.batch, 3, side, side), np.float32)
    waiting: list[int] = []

    def flush() -> None:
        if waiting:
            cells = network(images[: len(waiting)])
            out[waiting] = cells.mean(axis=(1, 2), dtype=np.float64)[:, setup.kept]
            waiting.clear()

    for k in range(lat.size):
        middle = (float(lat[k]), float(lon[k]))
        places = functools.partial(_around, middle, side, setup.pixel)
        image, gaps = _image(setup, values, middle, places, (side, side), grey, origin)
        if gaps is not None and gaps.mean() > setup.missing:
            continue
        images[len(waiting)] = image
        waiting.append(k)
        if len(waiting) == setup.batch:
            flush()
    flush()
    return out


def _around(
    middle: tuple[float, float], side: int, pixel: float, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude of every `step`-th pixel of a square image around a place."""
    along = (np.arange(0, side + step, step) - (side - 1) / 2) / STRIDE * pixel
    return unproject(middle, *np.meshgrid(along, -along))


def _image(
    setup: _Setup,
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
