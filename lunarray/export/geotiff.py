"""Maps to cloud-optimised GeoTIFF, for QGIS and ArcGIS."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

from lunarray.engine.files import local_path
from lunarray.errors import GridError, InputError
from lunarray.export.styles import colours, raster_style
from lunarray.units import unit_label


def to_cog(
    obj: xr.Dataset | xr.DataArray,
    path: str | os.PathLike[str],
    *,
    compress: str = "DEFLATE",
    cmap: str | None = "viridis",
) -> list[Path]:
    """Write gridded variables as cloud-optimised GeoTIFF, one file a variable, each with a QGIS style.

    Lazy variables are computed block by block, so the map need not fit in memory.

    Parameters
    ----------
    obj : Dataset or DataArray
        Variables with dims (y, x) or (band, y, x), in m, or (lat, lon); others are left out.
    path : path
        The file for a DataArray; for a Dataset, the folder that gets a file ``<variable>.tif`` each.
    compress : str, default "DEFLATE"
        A compression of GDAL's COG driver.
    cmap : str or None
        Matplotlib's colormap of the styles (``.qml``), from the 2nd to the 98th percentile of the first band; None
        writes none, and a map without two values gets none.

    Returns
    -------
    list of Path
        The rasters written.

    Raises
    ------
    InputError
        If there is no gridded variable, or no such colormap.
    GridError
        If the grid has no coordinate reference system.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> maps = scene.lunar.invert_oxides()
    >>> paths = la.export.to_cog(maps[["FeO"]], "geotiff")
    >>> [path.name for path in paths]
    ['FeO.tif']
    """
    if cmap is not None:
        colours(cmap, 2)  # known before anything is written
    path = local_path(path)
    if isinstance(obj, xr.DataArray):
        path.parent.mkdir(parents=True, exist_ok=True)
        return [_write(obj, path, compress, cmap)]
    maps = {str(name): da for name, da in obj.data_vars.items() if is_map(da)}
    if not maps:
        raise InputError(
            "no gridded variable to write",
            remedy="Grid the observations first: ds.lunar.grid('north')",
        )
    path.mkdir(parents=True, exist_ok=True)
    return [_write(da, path / f"{name}.tif", compress, cmap) for name, da in maps.items()]


def is_map(da: xr.DataArray) -> bool:
    return da.dims[-2:] in (("y", "x"), ("lat", "lon")) and da.ndim <= 3 and da.dtype.kind in "fiub"


def _write(da: xr.DataArray, path: Path, compress: str, cmap: str | None) -> Path:
    import rasterio
    import rasterio.shutil
    import rioxarray  # noqa: F401  registers `.rio`

    if not is_map(da):
        raise InputError(
            f"dims {da.dims} are no map", where=str(da.name), remedy="Give dims (y, x)"
        )
    y, x = da.dims[-2:]
    da = da.drop_encoding().rio.set_spatial_dims(x_dim=x, y_dim=y)
    if da.rio.crs is None:
        raise GridError(
            "the map has no coordinate reference system",
            where=str(da.name),
            remedy="Attach one with lunarray.geo.assign_crs(da, 'north')",
        )
    if da.dtype.kind == "b":
        da = da.astype("uint8")
    if da.dtype.kind == "f":
        da = da.rio.write_nodata(float("nan"), encoded=False)
    # GDAL makes a COG from a finished raster only; that one is written in windows beside the target.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        plain, cog = Path(folder) / "plain.tif", Path(folder) / "cog.tif"
        da.rio.to_raster(
            plain, tiled=True, lock=True if da.chunks else None, windowed=bool(da.chunks)
        )
        unit = da.attrs.get("units")
        if isinstance(unit, str) and unit:
            with rasterio.open(plain, "r+") as raster:
                raster.units = [unit] * raster.count
        rasterio.shutil.copy(plain, cog, driver="COG", compress=compress, predictor="YES")
        os.replace(cog, path)
    if cmap is not None:
        _write_style(path, cmap, unit_label(da, ""))
    return path


def _write_style(path: Path, cmap: str, unit: str) -> None:
    """The style of a raster, by its overviews, so that a large map is not read again."""
    import rasterio

    with rasterio.open(path) as raster:
        step = max(1, max(raster.shape) / 1024)
        shape = tuple(max(1, round(n / step)) for n in raster.shape)
        values = raster.read(1, out_shape=shape, masked=True).astype("f8").filled(np.nan)
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [2, 98]) if values.size else (0.0, 0.0)
    if not low < high and values.size:
        low, high = values.min(), values.max()
    if low < high:
        raster_style(path, float(low), float(high), cmap=cmap, label="" if unit == "1" else unit)
    else:
        path.with_suffix(".qml").unlink(missing_ok=True)  # of another map that lay there
