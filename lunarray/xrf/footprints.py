"""Footprints of X-ray spectra: maps sampled by them, and export to vector files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.engine.files import local_path
from lunarray.errors import InputError
from lunarray.export.layers import driver_of, write_layer
from lunarray.geo import footprint_polygons, lonlat_of, unit_vectors
from lunarray.typing import typed
from lunarray.xrf.frames import require_variables

if TYPE_CHECKING:
    import geopandas

__all__ = [
    "footprint_mean",
    "to_geodataframe",
    "write_footprints",
]

_CORNERS = ("corner_lon", "corner_lat")


@typed
def footprint_mean(ds: xr.Dataset, raster: xr.DataArray, *, samples: int = 7) -> xr.DataArray:
    """Mean of a map over each footprint, such as the fraction of mare.

    Parameters
    ----------
    ds : Dataset
        With ``corner_lon`` and ``corner_lat`` (time, corner).
    raster : DataArray
        On ``lat`` and ``lon`` (degrees, regular; any range of longitudes), such as a map that is 1 in maria and 0
        elsewhere. It is read into memory.
    samples : int
        Points along each side of a footprint at which the nearest pixel is taken.

    Returns
    -------
    DataArray
        (time,), float64; NaN without corners. Missing pixels do not count. Lazy where the corners are.

    Raises
    ------
    InputError
        If `raster` is not on ``lat`` and ``lon``.
    """
    require_variables(ds, _CORNERS, "footprint_mean", "Give CLASS spectra or results")
    if set(raster.dims) != {"lat", "lon"}:
        raise InputError(
            f"a map with dimensions {raster.dims}",
            where="raster",
            remedy="Give a map on (lat, lon), in degrees",
        )
    values = raster.transpose("lat", "lon")
    options = {
        "values": np.asarray(values.values, "f8"),
        "rows": np.asarray(raster["lat"].values, "f8"),
        "columns": np.asarray(raster["lon"].values, "f8"),
        "samples": samples,
    }
    mean = xr.apply_ufunc(
        _mean_kernel,
        ds["corner_lon"],
        ds["corner_lat"],
        input_core_dims=[["corner"], ["corner"]],
        kwargs=options,
        dask="parallelized",
        output_dtypes=["f8"],
    )
    return mean.rename(raster.name or "footprint_mean").assign_attrs(raster.attrs)


def _mean_kernel(
    lon: np.ndarray,
    lat: np.ndarray,
    *,
    values: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    samples: int,
) -> np.ndarray:
    share = (np.arange(samples) + 0.5) / samples
    p, q = np.meshgrid(share, share, indexing="ij")
    mix = np.stack([(1 - p) * (1 - q), p * (1 - q), p * q, (1 - p) * q], axis=-1).reshape(-1, 4)
    points = np.einsum("sc,...cx->...sx", mix, unit_vectors(lon, lat))
    lon, lat = lonlat_of(points)
    good = np.isfinite(lon)
    i = _nearest(rows, np.where(good, lat, 0.0))
    start = columns.min() - abs(columns[1] - columns[0]) / 2 if columns.size > 1 else columns[0]
    j = _nearest(columns, start + np.mod(np.where(good, lon, 0.0) - start, 360.0))
    own = np.where(good, values[i, j], np.nan)
    count = np.isfinite(own).sum(axis=-1)
    return np.divide(
        np.nansum(own, axis=-1), count, out=np.full(count.shape, np.nan), where=count > 0
    )


def _nearest(axis: np.ndarray, x: np.ndarray) -> np.ndarray:
    order = np.argsort(axis)
    middles = (axis[order][1:] + axis[order][:-1]) / 2
    return order[np.searchsorted(middles, x)]


def to_geodataframe(ds: xr.Dataset) -> geopandas.GeoDataFrame:
    """Rows of a result with their footprints, as a GeoDataFrame.

    Parameters
    ----------
    ds : Dataset
        With ``corner_lon`` and ``corner_lat`` (time, corner), such as coadd and fit_elements give it. It is computed.
        Variables along ``time`` become columns, those along ``element`` too one for each element (``Mg``,
        ``Mg_std``); those of other dimensions (spectra) are left out.

    Returns
    -------
    geopandas.GeoDataFrame
        In IAU_2015:30100, a row for each time.

    Raises
    ------
    InputError
        If `ds` has no footprints.
    """
    import geopandas

    from lunarray.geo import moon_crs

    require_variables(ds, _CORNERS, "to_geodataframe", "Give CLASS spectra or results")
    keep = [
        name
        for name, v in ds.variables.items()
        if "time" in v.dims and set(v.dims) <= {"time", "element", "corner"}
    ]
    ds = ds[keep].compute()
    columns: dict[str, Any] = {"time": ds["time"].values}
    for name, variable in ds.variables.items():
        if name in ("time", "corner_lon", "corner_lat") or "corner" in variable.dims:
            continue
        if variable.dims == ("time",):
            columns[str(name)] = variable.values
        elif variable.dims == ("time", "element"):
            stem = str(name)
            for i, element in enumerate(ds["element"].values):
                key = (
                    stem.replace("abundance", str(element))
                    if "abundance" in stem
                    else f"{stem}_{element}"
                )
                columns[key] = variable.values[:, i]
    shapes = footprint_polygons(ds["corner_lon"].values, ds["corner_lat"].values)
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=moon_crs("geographic").to_wkt())


def check_footprints_path(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Find out whether :func:`write_footprints` will write there: it comes after a long computation.

    `overwrite` bool: replace a file that is there. InputError if the ending is neither ``.parquet`` nor ``.gpkg``, or
    the file is there. MissingDependencyError if pyarrow is needed and not installed.
    """
    path = local_path(path)
    kind = path.suffix.lower()
    if kind not in (".parquet", ".gpkg"):
        raise InputError(
            f"cannot write {kind or 'a file without an ending'}",
            where=path,
            remedy="Give a path that ends in .parquet or .gpkg",
        )
    if path.exists() and not overwrite:
        raise InputError("the file is there", where=path, remedy="Give overwrite=True")
    driver_of(path)
    return path


def write_footprints(
    ds: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write rows with their footprints to GeoParquet or GeoPackage, with a QGIS style (.qml) beside it.

    Parameters
    ----------
    ds : Dataset
        As in :func:`to_geodataframe`.
    path : path
        Ending in ``.parquet`` (needs pyarrow) or ``.gpkg``.
    overwrite : bool
        Replace a file that is there; a GeoPackage keeps its other layers.

    Returns
    -------
    Path
        What was written; it appears whole or not at all.

    Raises
    ------
    InputError
        If the ending is another, or the file is there.
    MissingDependencyError
        If pyarrow is needed and not installed.

    Examples
    --------
    >>> import lunarray as la
    >>> windows = la.sample("class_flare").lunar.flag_frames().lunar.coadd("sliding", window=12)
    >>> sun, response = la.simulate.thermal_spectrum(1.1, 3e-5), la.simulate.class_response(2048)
    >>> fit = windows.lunar.fit_elements(sun, response)
    >>> la.xrf.write_footprints(fit, "elements.gpkg").name
    'elements.gpkg'
    """
    path = check_footprints_path(path, overwrite=overwrite)
    return write_layer(to_geodataframe(ds), path)[0]
