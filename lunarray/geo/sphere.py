"""The lunar sphere: its radius and distances on it."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Radius of the IAU 2015 sphere of the Moon (m), the one body that lunarray knows.
RADIUS = 1_737_400.0


def great_circle_distance(
    lon1: Any, lat1: Any, lon2: Any, lat2: Any, *, radius: float = RADIUS
) -> Any:
    """Distance along the great circle between points on the sphere.

    Parameters
    ----------
    lon1, lat1, lon2, lat2 : array_like
        Longitudes and latitudes (degrees) that broadcast together; xarray objects stay xarray objects.
    radius : float, optional
        Radius of the sphere (m).

    Returns
    -------
    array_like
        Distance (m), float64. Accurate at small distances and at antipodes (haversine form).
    """
    if not any(
        hasattr(value, "dims") or hasattr(value, "dask") for value in (lon1, lat1, lon2, lat2)
    ):
        lon1, lat1, lon2, lat2 = (
            np.asarray(value, dtype=np.float64) for value in (lon1, lat1, lon2, lat2)
        )
    phi1, phi2 = np.deg2rad(lat1), np.deg2rad(lat2)
    half_dphi = (phi2 - phi1) / 2.0
    half_dlambda = np.deg2rad(lon2 - lon1) / 2.0
    h = np.sin(half_dphi) ** 2 + np.cos(phi1) * np.cos(phi2) * np.sin(half_dlambda) ** 2
    # Rounding can lift h just above 1 at antipodes, where arcsin would give NaN.
    return 2.0 * radius * np.arcsin(np.sqrt(np.minimum(h, 1.0)))
