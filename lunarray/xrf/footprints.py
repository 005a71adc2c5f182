"""Footprints as polygons: areas, merging, splitting at ±180°, and export to vector files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import InputError
from lunarray.geo.lon import wrap_longitude
from lunarray.geo.sphere import RADIUS

if TYPE_CHECKING:
    import geopandas
    import xarray as xr

__all__ = [
    "footprint_area",
    "footprint_mean",
    "footprint_polygons",
    "grid_footprints",
    "hull_corners",
    "merge_footprints",
    "to_geodataframe",
    "write_footprints",
]

#: Longest step along an edge where polygons are drawn in degrees (radians).
_STEP = np.deg2rad(0.5)


def unit_vectors(lon: Any, lat: Any) -> np.ndarray:
    """Directions of points on the sphere.

    Parameters
    ----------
    lon, lat : array_like
        Degrees.

    Returns
    -------
    ndarray, (..., 3)
    """
    lam, phi = np.deg2rad(np.asarray(lon, "f8")), np.deg2rad(np.asarray(lat, "f8"))
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)


def lonlat_of(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude (degrees) of directions, of any length.

    Parameters
    ----------
    vectors : ndarray, (..., 3)

    Returns
    -------
    lon, lat : ndarray
        Longitudes in [-180, 180).
    """
    x, y, z = np.moveaxis(vectors, -1, 0)
    return wrap_longitude(np.rad2deg(np.arctan2(y, x))), np.rad2deg(np.arctan2(z, np.hypot(x, y)))


def footprint_area(lon: Any, lat: Any) -> np.ndarray:
    """Area of polygons whose edges are great circles.

    Parameters
    ----------
    lon, lat : array_like, (..., corner)
        Degrees, in order around the polygon, either way. Polygons across ±180° or around a pole need nothing special;
        each must be smaller than a hemisphere.

    Returns
    -------
    ndarray, (...)
        Square kilometres; NaN where a corner is missing.

    References
    ----------
    Van Oosterom, A., & Strackee, J. (1983). The solid angle of a plane triangle. IEEE Trans. Biomed. Eng. 30, 125-126.
    """
    points = unit_vectors(lon, lat)
    first = points[..., :1, :]
    a, b = points[..., 1:-1, :], points[..., 2:, :]
    triple = np.sum(first * np.cross(a, b), axis=-1)
    bottom = 1.0 + np.sum(first * a, -1) + np.sum(a * b, -1) + np.sum(first * b, -1)
    # Signed triangles of a fan: what lies outside of a concave polygon is taken off again.
    angle = np.abs(np.sum(2.0 * np.arctan2(triple, bottom), axis=-1))
    return angle * (RADIUS / 1e3) ** 2


def _local_frame(centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two directions that span the plane tangent to the sphere at `centre`."""
    axis = np.eye(3)[np.argmin(np.abs(centre))]
    east = np.cross(axis, centre)
    east /= np.linalg.norm(east)
    return east, np.cross(centre, east)


def _to_plane(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Gnomonic projection: great circles become straight lines, so that unions and hulls are those on the sphere."""
    east, north = _local_frame(centre)
    depth = points @ centre
    if np.any(depth <= 0.05):
        raise InputError(
            "footprints more than 87 degrees apart cannot be merged into one",
            where="merge_footprints",
            remedy="Merge neighbours",
        )
    return np.stack([points @ east, points @ north], axis=-1) / depth[..., None]


def _from_plane(xy: np.ndarray, centre: np.ndarray) -> np.ndarray:
    east, north = _local_frame(centre)
    vectors = centre + xy[..., :1] * east + xy[..., 1:2] * north
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def hull_corners(lon: Any, lat: Any) -> tuple[np.ndarray, np.ndarray]:
    """Convex hull on the sphere of a set of points.

    Parameters
    ----------
    lon, lat : array_like, (point,)
        Degrees; within 87° of their mean. Missing ones are left out.

    Returns
    -------
    lon, lat : ndarray, (corner,)
        Corners of the hull, counter-clockwise seen from above.
    """
    import shapely

    points = unit_vectors(lon, lat).reshape(-1, 3)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 3:
        raise InputError("fewer than three points", where="hull_corners", remedy="Pass more")
    centre = points.mean(axis=0)
    centre /= np.linalg.norm(centre)
    hull = shapely.convex_hull(shapely.multipoints(_to_plane(points, centre)))
    ring = np.asarray(shapely.get_coordinates(shapely.orient_polygons(hull))[:-1])
    return lonlat_of(_from_plane(ring, centre))


def merge_footprints(lon: Any, lat: Any) -> Any:
    """Union of footprints on the sphere.

    Parameters
    ----------
    lon, lat : array_like, (footprint, corner)
        Degrees; within 87° of their mean. Those with missing corners are left out.

    Returns
    -------
    shapely Polygon or MultiPolygon
        In degrees, split at ±180°, and closed over the pole where it holds one.
    """
    import shapely

    points = unit_vectors(lon, lat)
    points = points[np.isfinite(points).all(axis=(1, 2))]
    if not len(points):
        return shapely.Polygon()
    centre = points.reshape(-1, 3).mean(axis=0)
    centre /= np.linalg.norm(centre)
    quads = shapely.polygons(_to_plane(points, centre))
    union = shapely.union_all(shapely.make_valid(quads))
    parts = []
    for part in shapely.get_parts(union):
        if part.geom_type != "Polygon":
            continue
        rings = [part.exterior, *part.interiors]
        drawn = [
            _ring_in_degrees(_from_plane(np.asarray(ring.coords)[:-1], centre)) for ring in rings
        ]
        shape = drawn[0]
        for hole in drawn[1:]:
            shape = shapely.difference(shape, hole)
        parts.append(shape)
    return shapely.union_all(parts)


def _densify(points: np.ndarray) -> np.ndarray:
    """Points along the great circles of a closed ring, so close that straight lines in degrees follow them."""
    nodes = []
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        angle = np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)
        # Near a pole a great circle bends most in degrees.
        nearest = max(min(np.hypot(a[0], a[1]), np.hypot(b[0], b[1])), 1e-3)
        count = max(1, int(np.ceil(angle / min(_STEP, 0.1 * nearest))))
        share = np.arange(count)[:, None] / count
        nodes.append(a + (b - a) * share)
    ring = np.concatenate(nodes)
    return ring / np.linalg.norm(ring, axis=1, keepdims=True)


def _ring_in_degrees(points: np.ndarray) -> Any:
    """Polygon in degrees of a ring of directions, split at ±180°, closed over the pole where it holds one."""
    import shapely

    points = _densify(points)
    lon, lat = lonlat_of(points)
    steps = np.diff(np.append(lon, lon[0]))
    steps = steps - 360.0 * np.round(steps / 360.0)
    turn = round(float(steps.sum()) / 360.0)
    unrolled = lon[0] + np.concatenate([[0.0], np.cumsum(steps)])
    lat = np.append(lat, lat[0])
    if turn:
        pole = 90.0 if points[:, 2].mean() > 0 else -90.0
        unrolled = np.concatenate([unrolled, [unrolled[-1], unrolled[0]]])
        lat = np.concatenate([lat, [pole, pole]])
    polygon = shapely.make_valid(shapely.polygons(np.column_stack([unrolled, lat])))
    low, high = polygon.bounds[0], polygon.bounds[2]
    pieces = []
    for k in range(int(np.floor((low + 180.0) / 360.0)), int(np.ceil((high + 180.0) / 360.0))):
        cut = shapely.intersection(polygon, shapely.box(-180 + 360 * k, -90, 180 + 360 * k, 90))
        pieces.append(shapely.transform(cut, lambda xy, k=k: xy - [360.0 * k, 0.0]))
    pieces = [
        p
        for piece in pieces
        for p in shapely.get_parts(piece)
        if p.geom_type in ("Polygon", "MultiPolygon")
    ]
    return (
        shapely.union_all(pieces)
        if len(pieces) > 1
        else (pieces[0] if pieces else shapely.Polygon())
    )


def footprint_polygons(lon: Any, lat: Any) -> np.ndarray:
    """Footprints as shapely geometries in degrees.

    Parameters
    ----------
    lon, lat : array_like, (footprint, corner)
        Degrees, in order around each footprint.

    Returns
    -------
    ndarray of shapely geometries, (footprint,)
        Polygons, MultiPolygons where ±180° cuts one, closed over the pole where one holds it; empty where a corner is
        missing.
    """
    import shapely

    lon, lat = np.atleast_2d(np.asarray(lon, "f8")), np.atleast_2d(np.asarray(lat, "f8"))
    lon = wrap_longitude(lon)
    out = np.full(len(lon), shapely.Polygon(), object)
    whole = np.isfinite(lon).all(axis=1) & np.isfinite(lat).all(axis=1)
    plain = whole & (np.ptp(lon, axis=1) < 180.0) & (np.abs(lat).max(axis=1, initial=0.0) < 80.0)
    if plain.any():
        out[plain] = shapely.polygons(np.stack([lon[plain], lat[plain]], axis=-1))
        odd = np.flatnonzero(plain)[~shapely.is_valid(out[plain])]
        out[odd] = shapely.make_valid(out[odd])
    for i in np.flatnonzero(whole & ~plain):
        out[i] = _ring_in_degrees(unit_vectors(lon[i], lat[i]))
    return out


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
    import xarray as xr

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
    import xarray as xr

    from lunarray.geo import assign_crs, grid_coords, grid_dims, lunar_grid
    from lunarray.store.provenance import stamp

    needed = {"abundance", "abundance_std", "corner_lon", "corner_lat"}
    if not needed <= set(ds.variables):
        raise InputError(
            f"no {', '.join(sorted(needed - set(ds.variables)))}",
            where="grid_footprints",
            remedy="Pass what lunarray.xrf.fit_elements gives",
        )
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
    attrs = {"units": "wt%", "long_name": "abundance of the element"}
    result = xr.Dataset(
        {
            "abundance": (("element", *dims), out[:n], attrs),
            "abundance_std": (
                ("element", *dims),
                out[n : 2 * n],
                {**attrs, "long_name": "error of the abundance"},
            ),
            "n_footprints": (
                dims,
                out[2 * n].astype("i4"),
                {"units": "1", "long_name": "number of footprints"},
            ),
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
    top, weight, count = (
        np.zeros((n, rows, columns)),
        np.zeros((n, rows, columns)),
        np.zeros((rows, columns)),
    )
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
        ring_lon, ring_lat = lonlat_of(_densify(corners))
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
    import dask
    import geopandas

    from lunarray.geo.crs import moon_crs

    if not {"corner_lon", "corner_lat"} <= set(ds.variables):
        raise InputError(
            "no corner_lon and corner_lat",
            where="to_geodataframe",
            remedy="Pass CLASS spectra or results",
        )
    keep = [
        name
        for name, v in ds.variables.items()
        if "time" in v.dims and set(v.dims) <= {"time", "element", "corner"}
    ]
    (ds,) = dask.compute(ds[keep])
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

    Parameters
    ----------
    path : path
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If the ending is neither ``.parquet`` nor ``.gpkg``, or the file is there.
    MissingDependencyError
        If pyarrow is needed and not installed.
    """
    import importlib.util

    from lunarray.errors import MissingDependencyError

    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".parquet", ".gpkg"):
        raise InputError(
            f"cannot write {kind or 'a file without an ending'}",
            where=path,
            remedy="Give a path that ends in .parquet or .gpkg",
        )
    if path.exists() and not overwrite:
        raise InputError("the file is there", where=path, remedy="Pass overwrite=True")
    if kind == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingDependencyError(
            "GeoParquet needs pyarrow, which is not installed",
            where=path,
            remedy="pip install pyarrow, or write a .gpkg",
        )
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
