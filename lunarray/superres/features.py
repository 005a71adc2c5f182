"""Surface features: what ResNet50 sees in the 12.5 km around each pixel of two kilometres.

Two ways, one result. ``patch`` is the reference: the square around each pixel, on the plane that touches the Moon
there, goes through the network and its output is averaged. ``dense`` runs the network once over whole tiles of the base
map, resampled so that the network's stride is the spacing of the pixels, and averages the output over each pixel's
square. Nearly all that neighbouring patches compute, they compute alike: dense does it once.

The two differ by what the network makes of an image's border: a patch ends in zeros, a tile goes on. Their agreement
is measured by :func:`feature_agreement`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lunarray.errors import InputError
from lunarray.superres.backbone import Backbone, resnet50_backbone
from lunarray.superres.feature_tiles import (
    CONTEXT,
    KM,
    MISSING,
    TILE,
    WINDOW,
    Setup,
    at_once,
    lazily,
    patches,
    prepare,
)
from lunarray.superres.grid import GIBGrid
from lunarray.typing import typed

if TYPE_CHECKING:
    import xarray as xr

    from lunarray.engine.models import Device

Mode = Literal["dense", "patch"]


@typed
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
    device: Device = "auto",
) -> xr.DataArray:
    """Compute features of the surroundings of every pixel of a region.

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
    weights : path, "torchvision", "random" or Backbone
        Of the network, as :func:`resnet50_backbone` takes them.
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

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> features = sr.surface_features(la.sample("albedo"), grid, (0, 0), "random")  # doctest: +SKIP
    """
    import xarray as xr

    setup = prepare(
        basemap, grid, resnet50_backbone(weights, device=device), mode=mode, window=window_km,
        select=select, value_range=value_range, missing=max_missing, tile=tile, context=context,
    )  # fmt: skip
    lat, lon = grid.lat(region[0]), grid.lon(region[1])
    setup.require(lat, lon, f"region {tuple(region)}")
    data = lazily(setup, lat, lon) if setup.source.lazy else at_once(setup, lat, lon)
    coords = {"feature": setup.kept, "lat": lat, "lon": lon}
    result = xr.DataArray(data, coords, ("feature", "lat", "lon"), "feature")
    result["lat"].attrs = {"units": "degrees_north", "standard_name": "latitude"}
    result["lon"].attrs = {"units": "degrees_east", "standard_name": "longitude"}
    return finished(result, setup, basemap, "surface_features")


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
    device: Device = "auto",
) -> xr.DataArray:
    """Compute the features of the surroundings of single places, each by its own image: (feature, place) float32, in
    memory.

    Places are in degrees, of any longitude range; the other arguments are those of
    :func:`lunarray.superres.surface_features`. An image has 32 pixels in `pixel_km`, the height of the pixels that are
    meant, by default that of the paper's grid. Raises what that function does.
    """
    import xarray as xr

    lat, lon = np.atleast_1d(np.asarray(lat, "f8")), np.atleast_1d(np.asarray(lon, "f8"))
    if lat.ndim != 1 or lat.shape != lon.shape:
        raise InputError(
            f"lat {lat.shape} and lon {lon.shape}", where="lat", remedy="Give one of each a place"
        )
    setup = prepare(
        basemap, GIBGrid(), resnet50_backbone(weights, device=device), mode="patch", window=window_km,
        select=select, value_range=value_range, missing=max_missing, pixel_km=pixel_km,
    )  # fmt: skip
    setup.source.require(lat, lon, "the places")
    data = np.ascontiguousarray(patches(setup, setup.source.data, lat, lon, setup.grey()).T)
    coords = {"feature": setup.kept, "lat": ("place", lat), "lon": ("place", lon)}
    result = xr.DataArray(data, coords, ("feature", "place"), "feature")
    return finished(result, setup, basemap, "patch_features")


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

    So many `pixels` of a region, drawn by `seed`, are computed by their own patches, and held against `dense`, the
    features that :func:`lunarray.superres.surface_features` gave, or that it gives now by these arguments and
    `options`.

    Gives the number of ``pixels`` compared; ``correlation`` over them, median over the features that vary, and
    ``correlation_p10``, its tenth percentile; ``distance_correlation``, of the squared distances of all pairs of pixels
    in standardised features, which graphs are made of; ``relative_difference``, the root mean square of the difference
    over that of the patches' deviations from their means. Raises InputError with fewer than three pixels with features
    in both.
    """
    if dense is None:
        dense = surface_features(basemap, grid, region, weights, "dense", window_km, **options)
    rng = np.random.default_rng(seed)
    lat, lon = grid.lat(region[0]), grid.lon(region[1])
    number = min(pixels, lat.size * lon.size)
    where = np.sort(rng.choice(lat.size * lon.size, number, replace=False))
    row, column = np.divmod(where, lon.size)
    one = np.asarray(dense.data[:, row, :][:, np.arange(number), column], "f8").T
    kept = {k: v for k, v in options.items() if k not in ("tile", "context")}
    other = patch_features(
        basemap, lat[row], lon[column], weights, window_km,
        pixel_km=grid.step[0] * KM, **{**kept, "select": dense["feature"].values},
    ).values.astype("f8").T  # fmt: skip
    good = np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1)
    if good.sum() < 3:
        raise InputError(
            f"{int(good.sum())} pixels with features",
            where="pixels",
            remedy="Compare three at least",
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


def finished(result: xr.DataArray, setup: Setup, basemap: xr.DataArray, event: str) -> xr.DataArray:
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
