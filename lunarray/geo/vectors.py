"""Vectors: reading them from files, and bringing them into another projection."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import BodyMismatchError, GridError, InputError, needs
from lunarray.geo.crs import (
    BODIES,
    Bodies,
    body_of,
    from_lonlat,
    period_of,
    require_body,
    to_lonlat,
)

if TYPE_CHECKING:
    import geopandas


def read_vectors(
    vectors: Any, crs: Any = None, *, where: str = "vectors", body: Bodies = BODIES
) -> geopandas.GeoDataFrame:
    """Read vectors from a GeoDataFrame or any file that OGR reads, and check their CRS.

    Parameters
    ----------
    vectors : GeoDataFrame or path
        What to read; of a file with several layers, the first with geometry.
    crs : optional
        What :func:`lunarray.geo.moon_crs` takes, for a file that does not say; it wins over the file's.
    where : str
        What they are, for messages.
    body : Body or sequence of Body
        Which they may be of.

    Returns
    -------
    geopandas.GeoDataFrame
        Without empty geometries.

    Raises
    ------
    InputError
        If they cannot be read.
    GridError
        If they have no CRS and none is given.
    BodyMismatchError
        If they are of another body.

    Examples
    --------
    >>> import lunarray as la
    >>> import geopandas, shapely
    >>> table = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs="IAU_2015:30100")
    >>> len(la.geo.read_vectors(table))
    1
    """
    if isinstance(vectors, (str, os.PathLike)):
        import geopandas
        import pyogrio

        path = os.path.expanduser(os.fspath(vectors))
        where = path
        if not os.path.exists(path):
            raise InputError("no such file", where=path, remedy="Give the path of one to read")
        if path.lower().endswith("parquet"):
            with needs("pyarrow", "reading GeoParquet"):
                frame = geopandas.read_parquet(path)
            return read_vectors(frame, crs, where=path, body=body)
        try:
            # GeoPackages keep styles in a layer without geometry.
            layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
            frame = geopandas.read_file(path, layer=layers[0] if layers else None)
        except Exception as error:
            raise InputError(
                f"cannot be read as vectors ({error})",
                where=path,
                remedy="Give a GeoPackage, a shapefile or another file that OGR reads",
            ) from error
    elif hasattr(vectors, "geometry") and hasattr(vectors, "crs"):
        frame = vectors
    else:
        raise InputError(
            f"{type(vectors).__name__} is no set of vectors",
            where=where,
            remedy="Give a GeoDataFrame or a vector file",
        )
    if frame.crs is None and crs is None:
        beside = (
            "; a shapefile keeps it in a .prj, which is absent"
            if where.lower().endswith(".shp")
            else ""
        )
        raise GridError(
            f"the vectors have no coordinate reference system{beside}",
            where=where,
            remedy="Give crs=, for instance crs='geographic' for lunar longitudes and latitudes",
        )
    known = require_body(frame.crs if crs is None else crs, body, where)
    frame = frame.set_crs(known.to_wkt(), allow_override=True)
    good = ~(frame.geometry.isna() | frame.geometry.is_empty)
    return frame[good]


def transform_geometry(
    geometries: Any, source: Any, target: Any, *, centre: float = 0.0, step: float | None = None
) -> np.ndarray:
    """Bring geometries into another projection of the same body.

    Parameters
    ----------
    geometries : array of shapely geometries
        In the coordinates of `source`.
    source, target : CRS
        Of the Moon or of Mercury. Between spheres of slightly different radius, longitude and latitude are kept.
    centre : float
        Where x repeats with longitude: the x that results lie around.
    step : float, optional
        Longest side (units of `source`) before transformation, so that straight lines become the curves that they are.

    Returns
    -------
    ndarray of shapely geometries
        In the coordinates of `target`.

    Raises
    ------
    BodyMismatchError
        If one CRS is of the Moon and the other of Mercury.

    Examples
    --------
    >>> import lunarray as la
    >>> import shapely
    >>> moved = la.geo.transform_geometry([shapely.Point(0, 89)], "geographic", "north")
    >>> round(moved[0].y)
    -30324
    """
    import shapely

    source, target = require_body(source, BODIES), require_body(target, BODIES)
    if body_of(source) != body_of(target):
        raise BodyMismatchError(
            f"{source.name!r} and {target.name!r} are of different bodies",
            where="crs",
            remedy="Give vectors of the body that the image is of",
        )
    shapes = np.asarray(geometries, dtype=object)
    period = period_of(target)
    same = source == target
    if same and period is None:
        return shapes
    if step is not None and not same:
        shapes = shapely.segmentize(shapes, step)
    shapes = shapely.force_2d(shapes)

    def move(points: np.ndarray) -> np.ndarray:
        if same:
            return points.copy()
        lon, lat = to_lonlat(source, points[:, 0], points[:, 1])
        return np.column_stack(from_lonlat(target, lon, lat))

    moved = shapely.transform(shapes, move)
    return moved if period is None else _unrolled(moved, period, centre)


def _unrolled(shapes: np.ndarray, period: float, centre: float) -> np.ndarray:
    """Geometries without jumps of a whole turn of longitude, on the turn that holds `centre`."""
    import shapely

    coords, index = shapely.get_coordinates(shapes, return_index=True)
    if not len(coords):
        return shapes
    # Rings and parts of one geometry are unrolled together: the first point of each near its neighbour's last.
    x = coords[:, 0].copy()
    starts = np.flatnonzero(np.diff(index, prepend=-1))
    jumps = np.diff(x, prepend=x[0])
    jumps[starts] = 0.0
    with np.errstate(invalid="ignore"):
        turns = np.where(np.isfinite(jumps), -np.round(jumps / period), 0.0)
    turns = np.cumsum(turns)
    turns -= np.repeat(turns[starts], np.diff(np.append(starts, len(x))))
    x += turns * period
    counts = np.diff(np.append(starts, len(x)))
    lowest, highest = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
    middle = (lowest + highest) / 2
    with np.errstate(invalid="ignore"):
        shift = np.where(np.isfinite(middle), np.round((centre - middle) / period), 0.0) * period
    coords = np.column_stack([x + np.repeat(shift, counts), coords[:, 1]])
    return shapely.set_coordinates(shapes.copy(), coords)
