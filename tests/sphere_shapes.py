"""Unions and hulls of footprints on the sphere, to hold results against."""

from __future__ import annotations

from typing import Any

import numpy as np

from lunarray.geo.footprints import lonlat_of, ring_in_degrees, unit_vectors


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
        raise ValueError("footprints more than 87 degrees apart")
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
        raise ValueError("fewer than three points")
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
            ring_in_degrees(_from_plane(np.asarray(ring.coords)[:-1], centre)) for ring in rings
        ]
        shape = drawn[0]
        for hole in drawn[1:]:
            shape = shapely.difference(shape, hole)
        parts.append(shape)
    return shapely.union_all(parts)
