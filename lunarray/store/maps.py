"""Maps of others: Zarr stores, GeoTIFFs, and folders of them."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError, ProductFormatError
from lunarray.geo import MOON, open_raster, raster_info
from lunarray.store.places import is_elsewhere
from lunarray.store.reading import open_zarr
from lunarray.typing import typed
from lunarray.units import WEIGHT

#: Side of the chunks of a raster.
CHUNK = 1024


@typed
def open_maps(path: str | os.PathLike[str], *, chunks: int = CHUNK) -> xr.Dataset:
    """Open maps by name, lazily.

    Parameters
    ----------
    path : path or URL
        A Zarr store; a GeoTIFF of one band, whose name is that of its variable; or a folder or pattern of such
        (``FeO.tif``, ``TiO2.tif``, …; ``maps/*.tif``), as :func:`lunarray.export.to_cog` writes it.
    chunks : int
        Side of the chunks of rasters.

    Returns
    -------
    Dataset
        On (y, x) or (lat, lon) with a lunar CRS; floats with NaN where missing.

    Raises
    ------
    InputError
        If there is nothing, or rasters of a folder lie on different grids.
    ProductFormatError
        If a raster cannot be read, or has several bands.
    BodyMismatchError, GridError
        If a raster is of another body, or has no CRS.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> maps = scene.lunar.invert_oxides()
    >>> paths = maps[["FeO", "MgO"]].lunar.to_cog("maps")
    >>> sorted(la.store.open_maps("maps").data_vars)
    ['FeO', 'MgO']
    """
    if is_elsewhere(path):
        return open_zarr(path)
    path = Path(path)
    if path.suffix.lower() == ".zarr" or (path / "zarr.json").exists():
        return open_zarr(path)
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in (".tif", ".tiff"))
        remedy = "Give a Zarr store, or a folder of GeoTIFFs such as FeO.tif"
    else:
        files = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True)))
        remedy = "Give a Zarr store, a GeoTIFF, or a folder or pattern of GeoTIFFs"
    if not files:
        raise InputError("there are no maps", where=path, remedy=remedy)
    maps = {file.stem: _open(file, chunks) for file in files}
    first = next(iter(maps.values()))
    for name, array in maps.items():
        if array.dims != first.dims or any(
            array.sizes[d] != first.sizes[d] or not np.allclose(array[d], first[d])
            for d in first.dims
        ):
            raise InputError(
                f"{name} and {first.name} lie on different grids",
                where=path,
                remedy="Open them one by one",
            )
    same = {d: first[d] for d in first.dims}
    ds = xr.Dataset({name: array.assign_coords(same) for name, array in maps.items()})
    ds.attrs["source"] = str(path)
    return ds


def _open(file: Path, chunks: int) -> xr.DataArray:
    info = raster_info(file)
    if info.count != 1:
        raise ProductFormatError(
            "not a raster of one band", where=file, remedy="Give one file for each map"
        )
    if info.crs is None or info.transform is None:
        raise GridError(
            "the raster has no coordinate reference system",
            where=file,
            remedy="Give it one, for instance with gdal_edit.py -a_srs IAU_2015:30130",
        )
    array = open_raster(info, bands=1, chunks=chunks, body=MOON).rename(file.stem)
    told = {"units": info.units[0], "long_name": info.tags.get("long_name")}
    array.attrs = {
        "units": WEIGHT if file.stem in _OXIDES else "1",
        **array.attrs,
        **{k: v for k, v in told.items() if v},
    }
    return array


_OXIDES = ("FeO", "TiO2", "Al2O3", "CaO", "MgO", "SiO2")
