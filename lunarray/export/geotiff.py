"""Maps to cloud-optimised GeoTIFF, for QGIS and ArcGIS."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import xarray as xr

from lunarray.engine.files import local_path
from lunarray.errors import GridError, InputError


def to_cog(
    obj: xr.Dataset | xr.DataArray,
    path: str | os.PathLike[str],
    *,
    compress: str = "DEFLATE",
) -> list[Path]:
    """Write gridded variables as cloud-optimised GeoTIFF, one file a variable.

    Lazy variables are computed block by block, so the map need not fit in memory.

    Parameters
    ----------
    obj : Dataset or DataArray
        Variables with dims (y, x) or (band, y, x), in m, or (lat, lon); others are left out.
    path : path
        The file for a DataArray; for a Dataset, the folder that gets a file ``<variable>.tif`` each.
    compress : str, default "DEFLATE"
        A compression of GDAL's COG driver.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    InputError
        If there is no gridded variable.
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
    path = local_path(path)
    if isinstance(obj, xr.DataArray):
        path.parent.mkdir(parents=True, exist_ok=True)
        return [_write(obj, path, compress)]
    maps = {str(name): da for name, da in obj.data_vars.items() if _is_map(da)}
    if not maps:
        raise InputError(
            "no gridded variable to write",
            remedy="Grid the observations first: ds.lunar.grid('north')",
        )
    path.mkdir(parents=True, exist_ok=True)
    return [_write(da, path / f"{name}.tif", compress) for name, da in maps.items()]


def _is_map(da: xr.DataArray) -> bool:
    return da.dims[-2:] in (("y", "x"), ("lat", "lon")) and da.ndim <= 3 and da.dtype.kind in "fiub"


def _write(da: xr.DataArray, path: Path, compress: str) -> Path:
    import rasterio.shutil
    import rioxarray  # noqa: F401  registers `.rio`

    if not _is_map(da):
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
        rasterio.shutil.copy(plain, cog, driver="COG", compress=compress, predictor="YES")
        os.replace(cog, path)
    return path
