"""What ground is made of before it is measured: the share of mare from a map that comes with lunarray, and the prior.

The map is ``data/mare.npz``, 0.5°, in steps of a per cent. ``examples/make_mare_map.py`` derives it from two maps in
the public domain, the iron of Lunar Prospector (Lawrence et al., 2002) and the normal albedo of LOLA (Lucey et al.,
2014): ground is mare as far as it is both dark and rich in iron. So it is a coordinate of composition and no geological
outline: the floor of South Pole-Aitken, mafic highlands, counts as half mare.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.units import WEIGHT
from lunarray.xrf.constants import ELEMENTS, HIGHLAND, MARE
from lunarray.xrf.frames import described, is_lazy

__all__ = ["MARE_MAP", "footprint_mare", "ground_prior", "mare_map", "prior_spread"]

MARE_MAP = Path(__file__).parent / "data" / "mare.npz"

#: How much ground differs from the mixture of highlands and maria, wt%, one standard deviation: one and a half to two
#: times the spread of the 5° cells of Lunar Prospector about it (Fe 0.7 Ca 1.0 Si 0.9 Al 1.6 Mg 1.3 in highlands; 2.8,
#: 2.7, 3.3, 2.0, 1.2 in maria), for ground varies more over a footprint than over a cell of 150 km.
_HIGHLAND_SPREAD = MappingProxyType(
    {"Fe": 1.5, "Ti": 0.5, "Ca": 2.0, "Si": 2.0, "Al": 2.5, "Mg": 2.5, "Na": 0.3, "O": 1.0}
)
_MARE_SPREAD = MappingProxyType(
    {"Fe": 3.0, "Ti": 2.0, "Ca": 2.5, "Si": 2.0, "Al": 2.5, "Mg": 2.5, "Na": 0.3, "O": 1.0}
)
#: Error of the share of mare. Wide, for the map knows iron and albedo at 50 km and nothing of the minerals: what a
#: spectrum says of calcium and aluminium, and so of its iron, goes before the map.
SHARE_ERROR = 0.5

_SHARE = {"units": "1", "long_name": "area fraction of mare"}


def mare_map() -> xr.DataArray:
    """The map of the share of mare that comes with lunarray.

    Returns
    -------
    DataArray
        ``mare_fraction`` (lat, lon), float32, 0 to 1, on 360 × 720 pixels of 0.5°, in memory.
    """
    values = _values()
    lat = 90.0 - (np.arange(values.shape[0]) + 0.5) * (180.0 / values.shape[0])
    lon = -180.0 + (np.arange(values.shape[1]) + 0.5) * (360.0 / values.shape[1])
    return xr.DataArray(
        values.astype("f4") / np.float32(100),
        {
            "lat": ("lat", lat, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", lon, {"units": "degrees_east", "standard_name": "longitude"}),
        },
        ("lat", "lon"),
        "mare_fraction",
        {**_SHARE, "source": "lunarray: Lunar Prospector iron and LOLA albedo"},
    )


@functools.cache
def _values() -> np.ndarray:
    with np.load(MARE_MAP) as held:
        values: np.ndarray = held["percent"]
    return values


@typed
def ground_prior(lat: Any, lon: Any) -> xr.Dataset:
    """Give the composition expected of the ground before it is measured, mixed from means of highlands and maria.

    Parameters
    ----------
    lat, lon : float, array_like or DataArray
        Degrees; any range of longitudes. They are broadcast against one another.

    Returns
    -------
    Dataset
        ``mean`` and ``std`` (..., element), float64, wt%, of the eight elements, and ``mare_fraction`` (...), the share
        of mare by the map that comes with lunarray (``lunarray.xrf.ground.mare_map``). NaN where a place is missing.
        The dimensions before ``element`` are those of `lat` and `lon` (``point`` for plain arrays). The spread is that
        about the mixture, up to twice what Lunar Prospector sees, and that along it, of a share that is 0.5 off. Lazy
        where they are.

    Raises
    ------
    InputError
        If latitudes lie beyond the poles, or the two do not fit together.

    Examples
    --------
    >>> from lunarray.xrf import ground_prior
    >>> prior = ground_prior([20.2, -43.3], [30.8, -11.2])  # Apollo 17, Tycho
    >>> prior["mean"].sel(element="Fe").round(1).values
    array([9.8, 3.4])
    """
    places = [_places(name, value) for name, value in (("lat", lat), ("lon", lon))]
    try:
        there, across = xr.broadcast(*places)
    except ValueError as error:
        raise InputError(
            f"{places[0].shape} latitudes and {places[1].shape} longitudes",
            where="ground_prior",
            remedy="Give one longitude for each latitude",
        ) from error
    share = xr.apply_ufunc(
        _share_kernel, there, across, dask="parallelized", output_dtypes=["f8"]
    ).assign_attrs(_SHARE)
    of_element = {"element": ("element", np.array(ELEMENTS, object), {"long_name": "element"})}
    pair = xr.apply_ufunc(
        _prior_kernel,
        share,
        output_core_dims=[["which", "element"]],
        dask="parallelized",
        output_dtypes=["f8"],
        dask_gufunc_kwargs={"output_sizes": {"which": 4, "element": len(ELEMENTS)}},
    )
    mean, std = (pair.isel(which=i).variable for i in (0, 1))
    result = xr.Dataset(
        {
            "mean": described(mean.dims, mean.data, WEIGHT, "mean abundance before it is measured"),
            "std": described(std.dims, std.data, WEIGHT, "spread of the abundance about it"),
            "mare_fraction": share.variable,
        },
        {**share.coords, **of_element},
    )
    return stamp(result, "ground_prior", source="lunarray: mare map and mean compositions")


def _places(name: str, value: Any) -> xr.DataArray:
    if not isinstance(value, xr.DataArray):
        try:
            array = np.asarray(value, "f8")
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{name} of type {type(value).__name__}",
                where="ground_prior",
                remedy="Give degrees",
            ) from error
        dims = ("point", *(f"point_{k}" for k in range(1, array.ndim)))[: array.ndim]
        value = xr.DataArray(array, dims=dims)
    if name == "lat" and not is_lazy(value) and bool((abs(value) > 90.0).any()):
        raise InputError(
            "latitudes beyond 90°", where="ground_prior", remedy="Give latitude first, in degrees"
        )
    return value


def _share_kernel(lat: Any, lon: Any) -> np.ndarray:
    """Share of mare at the nearest pixel; NaN where a place is none."""
    values = _values()
    lat, lon = np.asarray(lat, "f8"), np.asarray(lon, "f8")
    good = np.isfinite(lat) & np.isfinite(lon) & (np.abs(lat) <= 90.0)
    rows, columns = values.shape
    i = np.floor((90.0 - np.where(good, lat, 0.0)) * (rows / 180.0)).astype("i8")
    j = np.floor(np.mod(np.where(good, lon, 0.0) + 180.0, 360.0) * (columns / 360.0)).astype("i8")
    own = values[np.clip(i, 0, rows - 1), np.clip(j, 0, columns - 1)] / 100.0
    return np.where(good, own, np.nan)


def _prior_kernel(share: Any) -> np.ndarray:
    """Mean, spread, and its parts about the mixture and along it, (..., 4, element), of ground of a share of mare."""
    f = np.asarray(share, "f8")[..., None]
    highland, mare = (np.array([kind[e] for e in ELEMENTS]) for kind in (HIGHLAND, MARE))
    own, other = (
        np.array([kind[e] for e in ELEMENTS]) for kind in (_HIGHLAND_SPREAD, _MARE_SPREAD)
    )
    mean = (1 - f) * highland + f * mare
    spread = np.sqrt((1 - f) * own**2 + f * other**2)
    line = np.broadcast_to(SHARE_ERROR * (mare - highland), mean.shape)
    return np.stack([mean, np.hypot(spread, line), spread, line], axis=-2)


def prior_spread(mare_fraction: float) -> tuple[dict[str, float], dict[str, float]]:
    """Spread of the elements about the mixture of highlands and maria, and along it, wt%, at a share of mare."""
    _, _, spread, line = _prior_kernel(mare_fraction).tolist()
    return dict(zip(ELEMENTS, spread, strict=True)), dict(zip(ELEMENTS, line, strict=True))


def footprint_mare(ds: xr.Dataset) -> Any:
    """Share of mare in each footprint, (time,): over its corners, else at its middle; None where `ds` has neither."""
    from lunarray.xrf.footprints import footprint_mean

    if {"corner_lon", "corner_lat"} <= set(ds.variables):
        share = footprint_mean(ds, mare_map())
        if not {"lat", "lon"} <= set(ds.variables):
            return share.data
        middle = xr.apply_ufunc(
            _share_kernel, ds["lat"], ds["lon"], dask="parallelized", output_dtypes=["f8"]
        )
        return share.fillna(middle.drop_vars([*middle.coords])).data
    if {"lat", "lon"} <= set(ds.variables):
        return xr.apply_ufunc(
            _share_kernel, ds["lat"], ds["lon"], dask="parallelized", output_dtypes=["f8"]
        ).data
    return None
