"""Relief under a Sun: slopes of footprints, the horizon, and how much of the Sun stands above it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lunarray.geo.around import Ground, batches, offset

#: Angular radius of the Sun, degrees.
SUN_RADIUS = 0.267
#: Highest that ground stands above other ground from which it hides the Sun, m.
RELIEF = 10_000.0

# Steps along a ray of one pixel each; then they grow by this much, and so does what they may miss.
_STEPS, _GROWTH = 64, 0.01
# Samples taken at a time.
_SAMPLES = 1 << 22


def slopes(ground: Ground, lon: np.ndarray, lat: np.ndarray, side: float) -> np.ndarray:
    """Mean slopes of squares of ground, by the planes that fit best.

    Parameters
    ----------
    ground : Ground
        Heights, m.
    lon, lat : numpy.ndarray, shape (n,)
        Middles, degrees.
    side : float
        Side of the squares, m; at least two pixels are taken.

    Returns
    -------
    numpy.ndarray, shape (2, n)
        Rise towards east and north, m/m; NaN beside gaps.
    """
    from lunarray.geo.relief_kernels import fit_planes

    side = max(side, 2 * ground.pixel)
    parts = min(9, max(3, math.ceil(side / ground.pixel)))
    steps = (np.arange(parts) / (parts - 1) - 0.5) * side
    east, north = (v.ravel() for v in np.meshgrid(steps, steps))
    azimuth = np.rad2deg(np.arctan2(east, north))
    arc = np.rad2deg(np.hypot(east, north) / ground.radius)
    out = np.empty((2, lon.size))
    for some in batches(lon.size, _SAMPLES // east.size):
        places = offset(lon[some, None], lat[some, None], azimuth, arc)
        out[:, some] = fit_planes(ground.at(*places), east, north)
    return out


def horizon(
    ground: Ground,
    lon: np.ndarray,
    lat: np.ndarray,
    azimuth: np.ndarray,
    *,
    start: float,
    reach: float,
) -> np.ndarray:
    """Elevation of the horizon as seen from the ground in a direction.

    Parameters
    ----------
    ground : Ground
        Heights above the sphere, m.
    lon, lat, azimuth : numpy.ndarray, shape (n,)
        Eyes, and where they look, clockwise from north; degrees.
    start, reach : float
        Ground between these distances (m) counts; the first pixel never does.

    Returns
    -------
    numpy.ndarray, shape (n,)
        Degrees above the horizontal of the sphere; NaN where there is no ground at the eye.
    """
    from lunarray.geo.relief_kernels import highest

    distance = _distances(max(start, ground.pixel), max(reach, 2 * ground.pixel), ground.pixel)
    arcs = distance / ground.radius
    out = np.empty(lon.size)
    for some in batches(lon.size, _SAMPLES // arcs.size):
        places = offset(
            lon[some, None], lat[some, None], azimuth[some, None], np.rad2deg(arcs)[None]
        )
        eyes = ground.at(lon[some], lat[some])
        found = highest(eyes, ground.at(*places), arcs, ground.radius)
        out[some] = np.where(np.isfinite(eyes), np.rad2deg(found), np.nan)
    return out


def _distances(start: float, reach: float, pixel: float) -> np.ndarray:
    near = start + pixel * np.arange(_STEPS)
    count = max(0, math.ceil(math.log(max(reach / near[-1], 1.0)) / math.log1p(_GROWTH)))
    far = near[-1] * (1 + _GROWTH) ** np.arange(1, count + 1)
    # Growth from the first pixels on would be less than a pixel.
    step = np.maximum(np.diff(np.concatenate([near[-1:], far])), pixel)
    far = near[-1] + np.cumsum(step)
    distance = np.concatenate([near, far])
    return distance[distance <= max(reach, near[0])]


def reach_of(incidence: float) -> float:
    """How far ground may stand that hides a Sun at an incidence angle (degrees), m."""
    low = math.tan(math.radians(max(90.0 - incidence, 0.0)))
    # A rise of RELIEF, less what the sphere falls away by.
    radius = 1_737_400.0
    return radius * (math.sqrt(low * low + 2 * RELIEF / radius) - low)


def sun_share(elevation: np.ndarray, horizon: np.ndarray) -> np.ndarray:
    """Share of the Sun's disk above a level horizon: elevations of its middle and of the horizon, degrees."""
    high = np.clip((np.asarray(elevation) - horizon) / SUN_RADIUS, -1.0, 1.0)
    return 0.5 + (np.arcsin(high) + high * np.sqrt(1 - high * high)) / math.pi


def towards(
    lon: np.ndarray, lat: np.ndarray, there_lon: Any, there_lat: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Azimuth (clockwise from north) and arc, degrees, from places towards another."""
    turn = np.deg2rad(np.asarray(there_lon) - np.asarray(lon))
    a, b = np.deg2rad(lat), np.deg2rad(there_lat)
    east = np.cos(b) * np.sin(turn)
    north = np.cos(a) * np.sin(b) - np.sin(a) * np.cos(b) * np.cos(turn)
    up = np.sin(a) * np.sin(b) + np.cos(a) * np.cos(b) * np.cos(turn)
    azimuth = np.rad2deg(np.arctan2(east, north)) % 360.0
    return azimuth, np.rad2deg(np.arctan2(np.hypot(east, north), up))
