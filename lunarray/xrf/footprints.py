"""Footprints of X-ray spectra: maps sampled by them, maps made of them, and export to vector files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.engine.files import local_path
from lunarray.errors import InputError, needs
from lunarray.geo import densify, footprint_polygons, lonlat_of, unit_vectors
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.units import WEIGHT
from lunarray.xrf.frames import described, require_variables

if TYPE_CHECKING:
    import geopandas

__all__ = [
    "footprint_mean",
    "grid_footprints",
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


@typed
def grid_footprints(
    ds: xr.Dataset, grid: Any = "geographic", resolution: float | None = None
) -> xr.Dataset:
    """Map abundances: on each pixel the mean of the footprints that cover its centre, weighted by their errors.

    Parameters
    ----------
    ds : Dataset
        Of :func:`lunarray.xrf.fit_elements`: ``abundance``, ``abundance_std`` (time, element) with corners.
    grid : str, GeoBox or xarray object
        As in :func:`lunarray.geo.lunar_grid`; pass an oxide map to get the elements on its pixels.
    resolution : float, optional
        Pixel size, metres or degrees.

    Returns
    -------
    Dataset
        ``abundance`` and ``abundance_std`` (element, y, x), float32, wt%, and ``n_footprints`` (y, x). Where an
        abundance has no error (frozen elements) footprints count alike and the error is NaN. The error is that of the
        weighted mean as if footprints were independent, which windows that share frames are not. Lazy where `ds` is,
        in one piece.

    Raises
    ------
    InputError
        If `ds` has no abundances or no corners.
    """
    from lunarray.geo import assign_crs, grid_coords, grid_dims, lunar_grid

    require_variables(
        ds, ("abundance", "abundance_std", *_CORNERS), "grid_footprints", "Give what lunarray.xrf.fit_elements gives"
    )  # fmt: skip
    geobox = lunar_grid(grid, resolution)
    n = ds.sizes["element"]
    arrays = [
        ds[name].transpose("time", other).data
        for name, other in (
            ("corner_lon", "corner"), ("corner_lat", "corner"), ("abundance", "element"), ("abundance_std", "element"),
        )
    ]  # fmt: skip
    shape = (2 * n + 1, *geobox.shape)
    if any(hasattr(a, "dask") for a in arrays):
        import dask
        import dask.array as da

        task = dask.delayed(_grid_kernel, pure=True)(*arrays, geobox)
        out: Any = da.from_delayed(task, shape, "f4", meta=np.empty((0, 0, 0), "f4"))
    else:
        lon, lat, values, errors = arrays
        out = _grid_kernel(lon, lat, values, errors, geobox)
    dims = grid_dims(geobox)
    bands, number = ("element", *dims), out[2 * n].astype("i4")
    result = xr.Dataset(
        {
            "abundance": described(bands, out[:n], WEIGHT, "abundance of the element"),
            "abundance_std": described(bands, out[n : 2 * n], WEIGHT, "error of the abundance"),
            "n_footprints": described(dims, number, "1", "number of footprints"),
        },
        {**grid_coords(geobox), "element": ds["element"]},
    )
    return stamp(assign_crs(result, geobox.crs), "grid_footprints", source=ds.attrs.get("source"))


def _grid_kernel(lon: Any, lat: Any, values: Any, errors: Any, geobox: Any) -> np.ndarray:
    from lunarray.geo import lonlat, project

    lon, lat = np.asarray(lon, "f8"), np.asarray(lat, "f8")
    values, errors = np.asarray(values, "f8"), np.asarray(errors, "f8")
    n = values.shape[1]
    rows, columns = geobox.shape
    top, weight = np.zeros((2, n, rows, columns))
    count = np.zeros((rows, columns))
    known = np.isfinite(values)
    # Frozen elements have no error: there every footprint weighs the same.
    with_error = np.isfinite(errors) & (errors > 0)
    w = np.where(with_error, 1.0 / np.where(with_error, errors, 1.0) ** 2, 1.0)
    for k in np.flatnonzero(
        known.any(axis=1) & np.isfinite(lon).all(axis=1) & np.isfinite(lat).all(axis=1)
    ):
        corners = unit_vectors(lon[k], lat[k])
        normals = np.cross(corners, np.roll(corners, -1, axis=0))
        # Whichever way around the corners go, the inside is where their mean is; the antipodes are not.
        normals *= np.sign(normals @ corners.sum(axis=0))[:, None]
        ring_lon, ring_lat = lonlat_of(densify(corners))
        poles = [p for p in (90.0, -90.0) if _inside(unit_vectors(0.0, p)[None], normals)[0]]
        ring_lon = np.append(ring_lon, [0.0] * len(poles))
        ring_lat = np.append(ring_lat, poles)
        i, j = project(geobox, ring_lon, ring_lat)
        if not np.isfinite(i).any():
            continue
        r0, r1 = max(int(np.nanmin(i)) - 1, 0), min(int(np.nanmax(i)) + 2, rows)
        c0, c1 = int(np.nanmin(j)) - 1, int(np.nanmax(j)) + 2
        if poles or c1 - c0 > columns // 2:
            # Around a pole or across the seam of the grid: any column may be in it.
            c0, c1 = 0, columns
        c0, c1 = max(c0, 0), min(c1, columns)
        if r1 <= r0 or c1 <= c0:
            continue
        x, y = lonlat(geobox[r0:r1, c0:c1])
        hit = _inside(unit_vectors(np.asarray(x), np.asarray(y)), normals)
        if not hit.any():
            continue
        own = hit[None] & known[k][:, None, None]
        here = (slice(None), slice(r0, r1), slice(c0, c1))
        top[here] += np.where(own, (w[k] * np.nan_to_num(values[k]))[:, None, None], 0.0)
        weight[here] += np.where(own, w[k][:, None, None], 0.0)
        count[r0:r1, c0:c1] += hit
    mean = np.divide(top, weight, out=np.full(top.shape, np.nan), where=weight > 0)
    measured = (with_error.any(axis=0) if len(with_error) else np.zeros(n, bool))[:, None, None]
    std = np.sqrt(
        np.divide(1.0, weight, out=np.full(top.shape, np.nan), where=(weight > 0) & measured)
    )
    return np.concatenate([mean, std, count[None]]).astype("f4")


def _inside(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Whether points lie in a convex polygon on the sphere, given by the normals of its edges that point inwards."""
    return (points @ normals.T >= 0).all(axis=-1)


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
    if kind == ".parquet":
        with needs("pyarrow", f"{path}: GeoParquet"):
            import pyarrow.parquet  # noqa: F401
    return path


def write_footprints(
    ds: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write rows with their footprints to GeoParquet or GeoPackage.

    Parameters
    ----------
    ds : Dataset
        As in :func:`to_geodataframe`.
    path : path
        Ending in ``.parquet`` (needs pyarrow) or ``.gpkg``.
    overwrite : bool
        Replace a file that is there.

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
    """
    path = check_footprints_path(path, overwrite=overwrite)
    frame = to_geodataframe(ds)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        if path.suffix.lower() == ".parquet":
            frame.to_parquet(temporary)
        else:
            frame.to_file(temporary, driver="GPKG", layer=path.stem)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
