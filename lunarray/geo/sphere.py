"""The lunar sphere: its radius, distances on it, and longitudes in one range."""

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

    Examples
    --------
    >>> import lunarray as la
    >>> float(la.geo.great_circle_distance(0.0, 0.0, 90.0, 0.0).round())
    2729102.0
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


def wrap_longitude(lon: Any, origin: float = -180.0) -> Any:
    """Wrap longitudes into ``[origin, origin + 360)``.

    Parameters
    ----------
    lon : array_like or xarray object
        Longitudes (degrees, east positive), any range. Floating dtypes are kept; integers become float64.
    origin : float, optional
        Start of the range (degrees).

    Returns
    -------
    same kind as `lon`
        Longitudes in the half-open range, in the dtype of the input: a value that rounding would put on the open
        end comes back as `origin`. NaN stays NaN; infinities become NaN. Dask arrays stay lazy.

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.wrap_longitude(540.0)
    -180.0
    """
    if hasattr(lon, "dims"):  # xarray: keeps coordinates and attributes
        import xarray as xr

        return xr.apply_ufunc(
            _wrap,
            lon,
            kwargs={"origin": origin},
            dask="parallelized",
            output_dtypes=[
                np.result_type(lon.dtype, np.float16 if lon.dtype.kind == "f" else np.float64)
            ],
            keep_attrs=True,
        )
    if hasattr(lon, "dask"):
        dtype = lon.dtype if lon.dtype.kind == "f" else np.dtype(np.float64)
        return lon.map_blocks(
            _wrap, origin=origin, dtype=dtype, meta=np.empty((0,) * lon.ndim, dtype)
        )
    wrapped = _wrap(lon, origin=origin)
    return wrapped if np.ndim(lon) else wrapped[()].item()


def _wrap(lon: Any, origin: float) -> np.ndarray:
    lon = np.asarray(lon)
    if lon.dtype.kind != "f":
        lon = lon.astype(np.float64)
    # In float64, so that float32 input does not lose digits twice; values already in range pass unchanged.
    wide = lon.astype(np.float64)
    with np.errstate(invalid="ignore"):
        inside = (wide >= origin) & (wide < origin + 360.0)
        wide = np.where(inside, wide, np.mod(wide - origin, 360.0) + origin)
        narrow = wide.astype(lon.dtype)
        # np.mod of a tiny negative gives 360 exactly, and narrowing may round up to the open end: both are the
        # origin.
        return np.where(
            narrow.astype(np.float64) >= origin + 360.0, narrow.dtype.type(origin), narrow
        )
