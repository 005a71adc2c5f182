"""Regions, points and classes of maps to GeoPackage, GeoParquet or shapefile, with styles for QGIS."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.engine.files import local_path
from lunarray.errors import InputError
from lunarray.export.layers import driver_of, write_layer
from lunarray.geo import moon_crs, require_body, spatial_dims

if TYPE_CHECKING:
    import geopandas


def to_vector(
    obj: xr.Dataset | xr.DataArray | geopandas.GeoDataFrame,
    path: str | os.PathLike[str],
    *,
    regions: Any = None,
    levels: Sequence[float] | None = None,
    crs: Any = None,
    layer: str | None = None,
    style: str | None = None,
    cmap: str = "viridis",
) -> list[Path]:
    """Write vectors that QGIS and ArcGIS open, with a style beside them.

    Parameters
    ----------
    obj : Dataset, DataArray or GeoDataFrame
        One of: statistics of regions (:func:`lunarray.geo.region_statistics`), written as polygons; samples or tracks
        with coordinates ``lon`` and ``lat`` along one dimension, written as points with their one-dimensional
        variables; a map with `levels`, written as one polygon for each class of values; vectors with a lunar CRS.
    path : path
        ``.gpkg``, ``.parquet`` (GeoParquet), ``.shp`` or ``.geojson``. A GeoPackage keeps its other layers.
    regions : region, sequence of regions, GeoDataFrame or path, optional
        For statistics: the regions that they are of, in the same order.
    levels : sequence of float, optional
        For a map: borders of the classes, rising.
    crs : str or CRS, optional
        Of the file; by default that of the map, or for regions and points the polar one where all lie poleward of 60°
        on one side, else longitude and latitude.
    layer : str, optional
        Name of the layer; by default that of the file.
    style : str, optional
        Column that colours the features; by default the first number. "" writes no style.
    cmap : str
        A matplotlib colormap for it.

    Returns
    -------
    list of Path
        What was written: the vectors, and the style (.qml).

    Raises
    ------
    InputError
        An ending that is none of these, or an object that is none of those.
    MissingDependencyError
        If GeoParquet lacks pyarrow.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> maps = scene.lunar.invert_oxides()
    >>> [path.name for path in la.export.to_vector(maps["FeO"], "feo.gpkg", levels=[0.0, 8.0, 30.0])]
    ['feo.gpkg', 'feo.qml']
    """
    path = local_path(path)
    driver_of(path)
    frame: Any
    if not isinstance(obj, (xr.Dataset, xr.DataArray)):
        require_body(obj.crs, where=path.name)
        frame = obj if crs is None else obj.to_crs(moon_crs(crs).to_wkt())
    elif isinstance(obj, xr.Dataset) and set(obj.dims) == {"region", "statistic"}:
        frame = _statistics_frame(obj, regions, crs)
    elif levels is not None:
        frame = _class_frame(obj, levels, crs)
    else:
        frame = _point_frame(obj, crs)
    if frame.empty:
        raise InputError(
            "there is nothing to write", where=path, remedy="Give one feature at least"
        )
    return write_layer(frame, path, layer=layer, style=style, cmap=cmap)


def _statistics_frame(stats: xr.Dataset, regions: Any, crs: Any) -> geopandas.GeoDataFrame:
    import geopandas

    from lunarray.geo import as_regions, region_name, region_shape

    if regions is None:
        raise InputError(
            "the outlines of the regions are not in the statistics",
            where="regions",
            remedy="Give the regions that the statistics are of",
        )
    found = as_regions(regions)
    names = [region_name(r, i) for i, r in enumerate(found)]
    if names != [str(n) for n in stats["region"].values]:
        raise InputError(
            f"{len(found)} regions ({', '.join(names[:3])}, …) and statistics of {stats.sizes['region']}",
            where="regions",
            remedy="Give the regions that the statistics are of, in the same order",
        )
    target = (
        _common_crs(*(np.array([r.cap()[k] for r in found]) for k in (0, 1)))
        if crs is None
        else moon_crs(crs)
    )
    stats = stats.compute()
    columns = {
        f"{name}_{statistic}": stats[name].sel(statistic=statistic).values
        for name in stats.data_vars
        for statistic in stats["statistic"].values
    }
    # What colours the regions comes first: a mean, not a count.
    means = {name: values for name, values in columns.items() if name.endswith("_mean")}
    called = {"name": names, "abbreviation": [str(a) for a in stats["abbreviation"].values]}
    shapes = [region_shape(r, target) for r in found]
    frame = geopandas.GeoDataFrame({**called, **means, **columns}, geometry=shapes)
    return frame.set_crs(target.to_wkt())


def _point_frame(obj: Any, crs: Any) -> geopandas.GeoDataFrame:
    import geopandas
    import pyproj

    ds = obj.to_dataset(name=obj.name or "value") if isinstance(obj, xr.DataArray) else obj
    if (
        "lon" not in ds.variables
        or "lat" not in ds.variables
        or ds["lon"].ndim != 1
        or ds["lon"].dims != ds["lat"].dims
    ):
        hint = (
            "Give `levels` to write a map as classes; points"
            if spatial_dims(ds) is not None
            else "Points"
        )
        raise InputError(
            f"neither statistics of regions nor points: the dimensions are {tuple(map(str, ds.dims))}",
            where="to_vector",
            remedy=f"{hint} need coordinates lon and lat along one dimension",
        )
    dim = ds["lon"].dims
    flat = ds[[n for n, v in ds.data_vars.items() if v.dims == dim and v.dtype.kind in "fiubM"]].compute()  # fmt: skip
    lon, lat = (np.asarray(ds[n].values, np.float64) for n in ("lon", "lat"))
    target = _common_crs(lon, lat) if crs is None else moon_crs(crs)
    x, y = lon, lat
    if not target.is_geographic:
        x, y = pyproj.Transformer.from_crs(target.geodetic_crs, target, always_xy=True).transform(lon, lat)  # fmt: skip
    columns = {"lon": lon, "lat": lat}
    values = {str(n): flat[n].values for n in flat.data_vars if n not in columns}
    frame = geopandas.GeoDataFrame(
        {**values, **columns}, geometry=geopandas.points_from_xy(x, y)
    ).set_crs(target.to_wkt())
    return frame


def _class_frame(obj: Any, levels: Sequence[float], crs: Any) -> geopandas.GeoDataFrame:
    import geopandas
    import shapely
    from rasterio.features import shapes

    from lunarray.geo import geobox_of

    if isinstance(obj, xr.Dataset) or spatial_dims(obj) is None or obj.ndim != 2:
        raise InputError(
            "classes are of one map", where="to_vector", remedy="Give one variable on (y, x) or (lat, lon)"
        )  # fmt: skip
    borders = np.asarray(list(levels), np.float64)
    if not 2 <= borders.size <= 255 or not (np.diff(borders) > 0).all():
        raise InputError(
            f"levels {list(levels)}", where="levels", remedy="Give 2 to 255 rising numbers"
        )
    geobox = geobox_of(obj)
    if crs is not None and moon_crs(crs) != moon_crs(geobox.crs):
        raise InputError(
            "classes are written in the CRS of their map", where="crs", remedy="Reproject the map first"
        )  # fmt: skip
    array = obj.transpose(*(spatial_dims(obj) or ()))

    def classify(block: np.ndarray) -> np.ndarray:
        inside = (block >= borders[0]) & (block < borders[-1])
        return np.where(inside, np.digitize(block, borders), 0).astype(np.uint8)

    data = array.data
    # Blocks give a byte a pixel; polygons are drawn around the whole of it, so that none breaks at a block's edge.
    classes = (
        data.map_blocks(classify, dtype=np.uint8, meta=np.empty((0, 0), np.uint8)).compute()
        if array.chunks is not None
        else classify(np.asarray(data))
    )
    parts: dict[int, list[Any]] = {}
    for shape, value in shapes(
        classes, mask=classes > 0, connectivity=4, transform=geobox.transform
    ):
        parts.setdefault(int(value), []).append(shapely.geometry.shape(shape))
    if not parts:
        raise InputError("no value lies within the levels", where="levels", remedy="Give others")
    rows = sorted(parts)
    middle = [(borders[k - 1] + borders[k]) / 2 for k in rows]
    return geopandas.GeoDataFrame(
        {
            "middle": middle,
            "lower": [borders[k - 1] for k in rows],
            "upper": [borders[k] for k in rows],
        },
        geometry=[shapely.MultiPolygon(parts[k]) for k in rows],
    ).set_crs(moon_crs(geobox.crs).to_wkt())


def _common_crs(lon: np.ndarray, lat: np.ndarray) -> Any:
    if lat.size and (lat > 60).all():
        return moon_crs("north")
    if lat.size and (lat < -60).all():
        return moon_crs("south")
    return moon_crs("geographic")
