"""Mare or highland: the class of a pixel, from outlines, from a map of classes, or from albedo."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError, LunarrayWarning
from lunarray.geo import (
    as_regions,
    assign_grid,
    geobox_of,
    grid_dims,
    lonlat,
    lunar_grid,
    pixel_of,
    region_window,
    reproject,
    spatial_dims,
)
from lunarray.superres.gib import open_gib, write_region
from lunarray.superres.gib_layout import (
    HIGHLAND_CLASS,
    MARE_CLASS,
    STATE_FLAGS,
    UNKNOWN,
    grid_of,
    meta_of,
    update_meta,
)
from lunarray.typing import typed

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["albedo_threshold", "classify_mare", "mare_class"]


@typed
def mare_class(
    grid: Any,
    *,
    polygons: Any = None,
    raster: xr.DataArray | None = None,
    mare_values: Sequence[float] = (1,),
    albedo: xr.DataArray | None = None,
    threshold: float | Literal["otsu"] = "otsu",
) -> xr.DataArray:
    """Tell mare from highland at each pixel of a grid, from one source.

    Parameters
    ----------
    grid : GeoBox, Dataset, DataArray or str
        What :func:`lunarray.geo.lunar_grid` takes.
    polygons : regions, GeoDataFrame or path, optional
        Outlines of the maria, as :func:`lunarray.geo.as_regions` takes them. Pixels whose centre lies in one are mare,
        the others highland.
    raster : DataArray, optional
        A map of classes on a lunar grid. A pixel has the class at its centre.
    mare_values : sequence of float
        Values of `raster` that mean mare; other finite ones mean highland, NaN means unknown.
    albedo : DataArray, optional
        A map of albedo or reflectance on a lunar grid, averaged over the pixel or interpolated. Below `threshold` is
        mare, NaN is unknown.
    threshold : float or "otsu"
        In the unit of `albedo`; "otsu" is :func:`albedo_threshold` of all of `albedo`.

    Returns
    -------
    DataArray
        uint8, in memory: 0 unknown, 1 mare, 2 highland; ``attrs["source"]`` says from what, and for albedo
        ``attrs["threshold"]``.

    Raises
    ------
    InputError
        If not exactly one of the sources is given.
    GridError
        If a map does not cover the grid.

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> sr.mare_class(grid.geobox, albedo=la.sample("albedo")).shape
    (20, 30)
    """
    given = [
        name
        for name, v in (("polygons", polygons), ("raster", raster), ("albedo", albedo))
        if v is not None
    ]
    if len(given) != 1:
        raise InputError(
            f"{' and '.join(given) or 'no source'}",
            where="mare_class",
            remedy="Give one of polygons, raster and albedo",
        )
    geobox = lunar_grid(grid)
    attrs: dict[str, Any] = {
        "long_name": "mare or highland",
        "units": "1",
        "flag_values": [UNKNOWN, MARE_CLASS, HIGHLAND_CLASS],
        "flag_meanings": "unknown mare highland",
        "source": given[0],
    }
    if polygons is not None:
        values = _from_polygons(geobox, polygons)
    elif raster is not None:
        raster = _map(raster, "raster")
        require_cover(raster, geobox)
        own = reproject(raster, geobox, method="nearest").values.astype(np.float64)
        values = _classes(own, np.isin(own, np.asarray(mare_values, np.float64)))
    else:
        albedo = _map(albedo, "albedo")
        require_cover(albedo, geobox)
        cut = albedo_threshold(albedo) if threshold == "otsu" else float(threshold)
        if not np.isfinite(cut):
            raise InputError(f"threshold {cut}", where="threshold", remedy="Give a finite number")
        attrs["threshold"] = cut
        own = np.asarray(reproject(albedo, geobox).values, np.float64)
        values = _classes(own, own < cut)
    out = xr.DataArray(
        values.astype(np.uint8),
        dims=grid_dims(geobox),
        name="mare",
        attrs=attrs,
    )
    return assign_grid(out, geobox)


def _classes(values: np.ndarray, mare: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), UNKNOWN, np.where(mare, MARE_CLASS, HIGHLAND_CLASS))


def _map(obj: Any, name: str) -> xr.DataArray:
    if isinstance(obj, xr.DataArray) and obj.ndim == 3 and obj.sizes.get("band") == 1:
        obj = obj.isel(band=0, drop=True)
    if not isinstance(obj, xr.DataArray) or obj.ndim != 2 or spatial_dims(obj) is None:
        raise InputError(
            f"a {type(obj).__name__} with dimensions {getattr(obj, 'dims', None)}",
            where=name,
            remedy="Give one map, a DataArray on (lat, lon) or (y, x)",
        )
    return obj


def require_cover(raster: Any, geobox: GeoBox, where: str | None = None) -> None:
    """Raise where a map does not reach over all of a grid.

    `raster`: the map; `geobox`: the grid; the centres of its pixels must lie on the map; `where`: what to call the map.
    GridError for saying how much is missing.
    """
    name = where or str(getattr(raster, "name", None) or "map")
    source = geobox_of(_map(raster, name))
    lon, lat = lonlat(geobox)
    row, _ = pixel_of(source, lon, lat)
    outside = row < 0
    if outside.any():
        first = np.argwhere(outside)[0]
        raise GridError(
            f"the map does not cover {100 * outside.mean():.1f} % of the grid, nor longitude "
            f"{lon[tuple(first)]:.2f}, latitude {lat[tuple(first)]:.2f}",
            where=name,
            remedy="Give a map that covers all of it, or a smaller grid",
        )


def _from_polygons(geobox: GeoBox, polygons: Any) -> np.ndarray:
    values = np.full(tuple(geobox.shape), HIGHLAND_CLASS, np.uint8)
    lon, lat = lonlat(geobox)
    for region in as_regions(polygons):
        window = region_window(region, geobox)
        if lon[window].size:
            values[window][region.contains(lon[window], lat[window])] = MARE_CLASS
    return values


def albedo_threshold(albedo: xr.DataArray, bins: int = 256) -> float:
    """Albedo that divides dark from bright ground best, by Otsu's method (1979, IEEE Trans. SMC 9, 62-66).

    Pixels on (lat, lon) count by their area, on (y, x) alike. The histogram has so many `bins` between the 0.1th and
    99.9th percentiles; where several divide equally well, it is their middle. InputError if all is alike, or missing.
    """
    albedo = _map(albedo, "albedo")
    dims = spatial_dims(albedo) or ("lat", "lon")
    values = np.asarray(albedo.transpose(*dims).values, np.float64)
    area = np.ones(values.shape)
    if dims[0] == "lat":
        area *= np.cos(np.deg2rad(np.asarray(albedo["lat"].values, np.float64)))[:, None]
    good = np.isfinite(values)
    low, high = np.percentile(values[good], [0.1, 99.9]) if good.any() else (0.0, 0.0)
    if not high > low:
        raise InputError(
            "no bright and dark ground to divide",
            where=str(albedo.name or "albedo"),
            remedy="Give a map with both, or a threshold",
        )
    mass, edges = np.histogram(
        np.clip(values[good], low, high), bins, (low, high), weights=area[good]
    )
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(mass)[:-1] / mass.sum()
    moment = np.cumsum(mass * middle)[:-1] / mass.sum()
    mean = np.sum(mass * middle) / mass.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num((mean * below - moment) ** 2 / (below * (1 - below)))
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[1:-1][best].mean())


@typed
def classify_mare(
    path: str | os.PathLike[str],
    *,
    polygons: Any = None,
    raster: xr.DataArray | None = None,
    mare_values: Sequence[float] = (1,),
    albedo: xr.DataArray | None = None,
    threshold: float | Literal["otsu"] = "otsu",
    regions: Iterable[tuple[int, int]] | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> xr.Dataset:
    """Classify every pixel of a Global Information Bank as mare or highland; regions already classified are left alone.

    Parameters
    ----------
    path : path
        Of :func:`lunarray.superres.create_gib`.
    polygons, raster, mare_values, albedo, threshold : optional
        The one source of classes, as in :func:`mare_class`. The threshold is found once, from the whole map, and
        recorded in the store.
    regions : iterable of (int, int), optional
        By default all.
    overwrite : bool
        Write regions again that have their class. If not, LunarrayWarning where what they have is another one.
    progress : bool, optional
        Show a progress bar; by default where standard error is a terminal.

    Returns
    -------
    Dataset
        The store, opened by :func:`lunarray.superres.open_gib`.

    Raises
    ------
    GridError
        If a map does not cover a region; found out before anything is written.
    InputError
        As :func:`mare_class` does.

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid)
    >>> done = sr.classify_mare("bank.zarr", albedo=la.sample("albedo"))
    >>> 0 < float((sr.open_gib("bank.zarr")["mare"] == 1).mean()) < 1
    True
    """
    from lunarray.engine import progress_bar

    path = Path(path)
    grid = grid_of(meta_of(path))
    wanted = grid.existing(grid.all_regions() if regions is None else regions)
    kept: list[tuple[int, int]] = []
    if not overwrite:
        state = open_gib(path, incomplete=True)["state"].values
        kept = [r for r in wanted if state[r] & STATE_FLAGS["mare"]]
        wanted = [r for r in wanted if r not in kept]
    if albedo is not None:
        if threshold == "otsu":
            threshold = albedo_threshold(albedo)
        # Once read, not once a region.
        albedo = _map(albedo, "albedo").load()
    for source, name in ((raster, "raster"), (albedo, "albedo")):
        for region in [*kept[:1], *wanted] if source is not None else ():
            require_cover(source, grid.region_geobox(*region), name)
    recipe: dict[str, Any] = {}
    sources: dict[str, Any] = {"polygons": polygons, "raster": raster, "albedo": albedo}
    sources |= {"mare_values": mare_values, "threshold": threshold}
    for region in kept[:1]:
        _warn_of_others(path, region, mare_class(grid.region_geobox(*region), **sources))
    with progress_bar(f"Mare class of {path.name}", len(wanted), show=progress) as step:
        for region in wanted:
            classes = mare_class(grid.region_geobox(*region), **sources)
            recipe = {k: classes.attrs[k] for k in ("source", "threshold") if k in classes.attrs}
            write_region(path, region, mare=classes.values, overwrite=overwrite)
            step()
    if recipe:
        update_meta(path, mare=recipe)
    return open_gib(path, incomplete=True)


def _warn_of_others(path: Path, region: tuple[int, int], classes: xr.DataArray) -> None:
    """LunarrayWarning where a region keeps classes that are not those of the source that was given."""
    i, j = region
    rows, columns = grid_of(meta_of(path)).slices(i, j)
    there = np.asarray(open_gib(path, incomplete=True)["mare"][rows, columns])
    odd = float(np.mean(there != classes.values))
    if odd:
        warnings.warn(
            LunarrayWarning(
                f"region {region} and others keep the mare classes that they have, of another source: it differs in "
                f"{100 * odd:.3g} % of that region. Give overwrite=True (--reclassify) to write them anew"
            ),
            stacklevel=3,
        )
