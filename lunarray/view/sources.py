"""What the viewer is given, opened: maps, cubes, vectors, footprints and tracks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError, LunarrayError
from lunarray.geo import (
    MOON,
    footprint_polygons,
    geobox_of,
    open_raster,
    raster_info,
    read_vectors,
    require_body,
    spatial_dims,
)

if TYPE_CHECKING:
    import geopandas
    from odc.geo.geobox import GeoBox

VECTORS = (".gpkg", ".shp", ".geojson", ".json", ".parquet", ".geoparquet", ".fgb")
RASTERS = (".tif", ".tiff")
#: Points and footprints of one source that are drawn at most; of more, every so-manieth.
MOST = 200_000


@dataclass(frozen=True)
class Source:
    """Something to look at.

    Attributes
    ----------
    name : str
        As the page calls it.
    maps : Dataset or None
        What lies on a grid.
    box : GeoBox or None
        That grid.
    shapes : GeoDataFrame or None
        Vectors; the column ``place`` is where each has its spectra in `along`.
    along : Dataset or None
        What lies along an axis of observations.
    token : str or None
        Names what the maps hold, where their bytes tell.
    note : str
        What was left out.
    smaller : tuple of DataArray
        Overviews that the one variable of the maps has.
    """

    name: str
    maps: xr.Dataset | None = None
    box: GeoBox | None = None
    shapes: geopandas.GeoDataFrame | None = None
    along: xr.Dataset | None = None
    token: str | None = None
    note: str = ""
    smaller: tuple[xr.DataArray, ...] = ()


def open_sources(given: Iterable[Any], crs: Any = None) -> list[Source]:
    """Open stores, rasters, vectors, or take what is open already; InputError where nothing can be looked at.

    `crs`: of vectors that do not say theirs.
    """
    found: list[Source] = []
    paths: list[str] = []
    for one in given:
        path = os.path.expanduser(os.fspath(one)) if isinstance(one, (str, os.PathLike)) else ""
        opened = _from_path(path, crs) if path else from_object(one, crs=crs)
        found += opened
        paths += [path] * len(opened)
    if not found:
        raise InputError("nothing to look at", remedy="Give stores, GeoTIFFs, or vectors")
    return _told_apart(found, paths)


def _told_apart(found: list[Source], paths: list[str]) -> list[Source]:
    """The same, where several have one name with the folders before it: demo/oxides.zarr, mine/oxides.zarr."""
    of: dict[str, set[str]] = {}
    for source, path in zip(found, paths, strict=True):
        of.setdefault(source.name, set()).add(path)
    return [
        replace(source, name=f"{Path(path).absolute().parent.name}/{source.name}")
        if path and len(of[source.name]) > 1
        else source
        for source, path in zip(found, paths, strict=True)
    ]


def from_object(obj: Any, name: str | None = None, crs: Any = None) -> list[Source]:
    """What an object of xarray, or vectors, have to look at."""
    if hasattr(obj, "geometry") and hasattr(obj, "crs"):
        return [Source(name or "vectors", shapes=read_vectors(obj, crs, body=MOON))]
    if isinstance(obj, xr.DataArray):
        own = str(obj.name or "map")
        obj = obj.to_dataset(name=f"{own} map" if own in obj.coords else own)
    if not isinstance(obj, xr.Dataset):
        raise InputError(
            f"{type(obj).__name__} is nothing to look at",
            remedy="Give a Dataset or DataArray, vectors, or the path of a store",
        )
    return _from_dataset(obj, name or "data")


def _from_path(path: str, crs: Any) -> list[Source]:
    plain = path.rstrip("/\\")
    name, ending = os.path.basename(plain), os.path.splitext(plain)[1].lower()
    remote = "://" in path or path.startswith("/vsi")
    if not remote and not os.path.exists(path):
        raise InputError("no such file, store or folder", where=path, remedy="Check the path")
    if ending in VECTORS:
        return _vectors(path, name, crs)
    if ending in RASTERS:
        return [_raster(path, name)]
    folder = Path(path)
    if not remote and folder.is_dir() and not _is_zarr(folder):
        inside = [one for one in sorted(folder.iterdir()) if _can_be_seen(one)]
        if inside:
            return [one for file in inside for one in _from_path(str(file), crs)]
    from lunarray.readers import open as open_any

    ds = open_any([path])
    if isinstance(ds, xr.DataArray):
        ds = ds.to_dataset(name=ds.name or "data")
    # Arrays of a store of ours, and of rasters, are named by what they hold.
    return _from_dataset(ds, name, token=ds.encoding.get("content_id"), where=path)


def _is_zarr(folder: Path) -> bool:
    return any(
        (folder / name).exists() for name in ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
    )


def _can_be_seen(path: Path) -> bool:
    """Whether a part of a folder is a store, a raster, vectors, or a folder of rasters or vectors."""
    known = (*RASTERS, *VECTORS)
    if not path.is_dir():
        return path.suffix.lower() in known
    return _is_zarr(path) or any(file.suffix.lower() in known for file in path.iterdir())


def _raster(path: str, name: str) -> Source:
    info = raster_info(path)
    if info.crs is None or info.transform is None:
        raise GridError(
            "the raster has no coordinate reference system",
            where=path,
            remedy="Give it one, for instance with gdal_edit.py -a_srs IAU_2015:30130",
        )
    array = open_raster(info, body=MOON)
    stem = name.rsplit(".", 1)[0]
    if array.sizes["band"] == 1:
        array = array.isel(band=0, drop=True)
        long_name = info.tags.get("long_name") or info.descriptions[0]
        told = {"units": info.units[0], "long_name": long_name}
        array.attrs = {**array.attrs, **{k: v for k, v in told.items() if v}}
    token = "-".join(f"{known.size}-{known.digest}" for _, known in info.files) or None
    smaller = [open_raster(raster_info(path, overview=k), body=MOON) for k in range(info.overviews)]
    if "band" not in array.dims:
        smaller = [one.isel(band=0, drop=True) for one in smaller]
    return Source(
        name,
        array.to_dataset(name=stem),
        geobox_of(array),
        token=token and f"{token}-{stem}",
        smaller=tuple(smaller),
    )


def _vectors(path: str, name: str, crs: Any) -> list[Source]:
    first = read_vectors(path, crs, body=MOON)  # says what is wrong
    if path.lower().endswith("parquet"):
        return [Source(name, shapes=first)]
    import geopandas
    import pyogrio

    layers = [str(layer) for layer, kind in pyogrio.list_layers(path) if kind is not None]
    found = [Source(name if len(layers) < 2 else f"{name} {layers[0]}", shapes=first)]
    for layer in layers[1:]:
        frame = geopandas.read_file(path, layer=layer)
        shapes = read_vectors(frame, crs, where=f"{path} {layer}", body=MOON)
        found.append(Source(f"{name} {layer}", shapes=shapes))
    return found


def _from_dataset(
    ds: xr.Dataset, name: str, *, token: str | None = None, where: str | None = None
) -> list[Source]:
    """Maps of a Dataset, its footprints, or its points."""
    dims = spatial_dims(ds)
    if dims is not None:
        kept = [n for n, v in ds.data_vars.items() if _is_map(v, dims)]
        if kept:
            maps = ds[kept].transpose(..., *dims)
            try:
                box = geobox_of(maps)
                require_body(box.crs, MOON)
            except LunarrayError as error:
                raise type(error)(
                    error.problem, where=where or error.where or name, remedy=error.remedy
                ) from None
            left = len(ds.data_vars) - len(kept)
            note = f"{left} variables are no maps" if left else ""
            return [Source(name, maps, box, token=token, note=note)]
    shapes = _shapes_of(ds)
    if shapes is None:
        raise InputError(
            "neither maps, nor footprints, nor places",
            where=where or name,
            remedy="Give variables on (y, x) or (lat, lon), corner_lon and corner_lat, or lon and lat",
        )
    frame, step = shapes
    note = "" if step == 1 else f"one in {step} of its places is drawn"
    return [Source(name, shapes=frame, along=ds, note=note)]


def _is_map(array: xr.DataArray, dims: tuple[str, str]) -> bool:
    plain = array.ndim <= 3 and array.dtype.kind in "fiub"
    return set(dims) <= set(array.dims) and plain and array.size > 0


def _shapes_of(ds: xr.Dataset) -> tuple[geopandas.GeoDataFrame, int] | None:
    """Footprints by their corners, or places by longitude and latitude, with the numbers that belong to each."""
    import dask
    import geopandas
    import shapely

    names = set(map(str, ds.variables))
    corners = {"corner_lon", "corner_lat"} <= names
    if not corners and not ({"lon", "lat"} <= names and ds["lon"].ndim == 1 == ds["lat"].ndim):
        return None
    pair = ("corner_lon", "corner_lat") if corners else ("lon", "lat")
    own = [d for d in ds[pair[0]].dims if d != "corner"]
    if len(own) != 1 or ds[pair[0]].dims != ds[pair[1]].dims:
        return None
    (dim,) = own
    step = max(1, -(-ds.sizes[dim] // MOST))
    some = ds.isel({dim: slice(None, None, step)})
    columns = _columns(some, dim, pair)
    (lon, lat), *values = dask.compute((some[pair[0]].values, some[pair[1]].values), columns)
    geometry = footprint_polygons(lon, lat) if corners else shapely.points(lon, lat)
    good = np.isfinite(lon).all(axis=tuple(range(1, lon.ndim)))
    good &= np.isfinite(lat).all(axis=tuple(range(1, lat.ndim)))
    frame = geopandas.GeoDataFrame(
        {"place": np.arange(len(lon)) * step, **values[0]},
        geometry=np.asarray(geometry, object),
        crs=MOON.crs("geographic").to_wkt(),
    )
    return frame[good & ~frame.geometry.is_empty], step


def _columns(ds: xr.Dataset, dim: Any, pair: tuple[str, str]) -> dict[str, Any]:
    """Numbers, one for each place: variables along its axis, and of those with names beside it, each."""
    found: dict[str, Any] = {}
    for name, array in {**ds.data_vars, **ds.coords}.items():
        if array.dtype.kind not in "fiub" or name in ("lon", "lat", dim, *pair):
            continue
        if array.dims == (dim,):
            found[str(name)] = array.data
        elif array.ndim == 2 and dim in array.dims:
            (other,) = (d for d in array.dims if d != dim)
            if other in ds.coords and ds[other].dtype.kind in "OUST" and ds.sizes[other] <= 16:
                for k, label in enumerate(ds[other].values):
                    found[f"{name} {label}"] = array.isel({other: k}).data
    return dict(list(found.items())[:40])
