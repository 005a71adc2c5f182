"""Footprints of instruments as polygons on the sphere: areas, and splitting at ±180°."""

from __future__ import annotations

from typing import Any

import numpy as np

from lunarray.errors import InputError
from lunarray.geo.sphere import RADIUS, wrap_longitude

#: Longest step along an edge where polygons are drawn in degrees (radians).
_STEP = np.deg2rad(0.5)


def unit_vectors(lon: Any, lat: Any) -> np.ndarray:
    """Directions (..., 3) of points on the sphere, given in degrees."""
    lam, phi = np.deg2rad(np.asarray(lon, "f8")), np.deg2rad(np.asarray(lat, "f8"))
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)


def lonlat_of(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longitude, in [-180, 180), and latitude (degrees) of directions (..., 3) of any length."""
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

    Examples
    --------
    >>> import lunarray as la
    >>> import numpy as np
    >>> area = la.geo.footprint_area(np.array([[0, 1, 1, 0]]), np.array([[0, 0, 1, 1]]))
    >>> (area / 1e6).round(1)
    array([0.])
    """
    points = unit_vectors(lon, lat)
    first = points[..., :1, :]
    a, b = points[..., 1:-1, :], points[..., 2:, :]
    triple = np.sum(first * np.cross(a, b), axis=-1)
    bottom = 1.0 + np.sum(first * a, -1) + np.sum(a * b, -1) + np.sum(first * b, -1)
    # Signed triangles of a fan: what lies outside of a concave polygon is taken off again.
    angle = np.abs(np.sum(2.0 * np.arctan2(triple, bottom), axis=-1))
    return angle * (RADIUS / 1e3) ** 2


def densify(points: np.ndarray) -> np.ndarray:
    """Points (n, 3) along the great circles of a closed ring (corner, 3): straight lines in degrees follow them."""
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


def ring_in_degrees(points: np.ndarray) -> Any:
    """Polygon in degrees of a ring of directions, split at ±180°, closed over the pole where it holds one."""
    import shapely

    points = densify(points)
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
    """Turn the corners of footprints into shapely geometries, in degrees.

    Parameters
    ----------
    lon, lat : array_like, (footprint, corner)
        Degrees, in order around each footprint.

    Returns
    -------
    ndarray of shapely geometries, (footprint,)
        Polygons, MultiPolygons where ±180° cuts one, closed over the pole where one holds it; empty where a corner is
        missing.

    Raises
    ------
    InputError
        For fewer than three corners, or longitudes and latitudes that do not belong together.

    Examples
    --------
    >>> import lunarray as la
    >>> import numpy as np
    >>> la.geo.footprint_polygons(np.array([[0, 1, 1, 0]]), np.array([[0, 0, 1, 1]]))[0].geom_type
    'Polygon'
    """
    import shapely

    lon, lat = np.atleast_2d(np.asarray(lon, "f8")), np.atleast_2d(np.asarray(lat, "f8"))
    lon = wrap_longitude(lon)
    if lon.shape != lat.shape or lon.ndim != 2 or lon.shape[1] < 3:
        raise InputError(
            f"longitudes {lon.shape} and latitudes {lat.shape} are no footprints",
            where="corners",
            remedy="Give three corners or more of each, (footprint, corner)",
        )
    out = np.full(len(lon), shapely.Polygon(), object)
    whole = np.isfinite(lon).all(axis=1) & np.isfinite(lat).all(axis=1)
    plain = whole & (np.ptp(lon, axis=1) < 180.0) & (np.abs(lat).max(axis=1, initial=0.0) < 80.0)
    if plain.any():
        out[plain] = shapely.polygons(np.stack([lon[plain], lat[plain]], axis=-1))
        odd = np.flatnonzero(plain)[~shapely.is_valid(out[plain])]
        out[odd] = shapely.make_valid(out[odd])
    for i in np.flatnonzero(whole & ~plain):
        out[i] = ring_in_degrees(unit_vectors(lon[i], lat[i]))
    return out
