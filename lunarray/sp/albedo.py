"""Light taken out by what does not know it: reflectance scaled to the albedo that a laser saw.

LOLA brings its own light, straight back along its own path: its normal albedo knows neither slopes nor shadows. It has
one wavelength, which gives each spectrum its brightness; the shape of the spectrum stays as it was measured.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.engine.graph import known_values
from lunarray.errors import BandMismatchError, InputError, require_number
from lunarray.geo import (
    Ground,
    crs_of,
    geobox_of,
    lonlat,
    map_around,
    offset,
    open_raster,
    pixel_size,
)
from lunarray.sp.light import (
    LIGHT_FLAGS,
    UNKNOWN_LIGHT,
    beside,
    described,
    flagged,
    has_geometry,
    light_quality,
    light_uncertainty,
)
from lunarray.sp.spectra import T, rebuild, spectra_of
from lunarray.typing import typed

__all__ = ["NORMAL_TO_STANDARD", "scale_to_albedo"]

#: Reflectance at 30°/0°/30° of ground of a normal albedo (at phase 0), both at 1064 nm: the means of SP's three albedo
#: groups (Kouyama et al. 2016) beside LOLA's mean on the same ground. The form of the SP photometric model gives ratios
#: of 1.80, 2.09 and 2.37 instead of these 2.05, 2.27 and 2.34, but from phases below 5° that SP hardly saw.
NORMAL_TO_STANDARD = ((0.0, 0.0), (0.1639, 0.0700), (0.2324, 0.1025), (0.3097, 0.1511))
#: Uncertainty (ln-sd) of that ratio: how far both ways of getting it are apart.
RATIO_SPREAD = 0.07
#: Nothing on the Moon sends back so much light; a map that says so is in per cent, or of something else.
_MOST = 1.5
#: Noise (ln-sd) of LOLA's gridded albedo.
MAP_NOISE = 0.03
#: Side of a footprint of SP on the ground, m.
FOOTPRINT = 500.0

#: Of a map whose pixels are wider than a footprint: how much more albedo varies in a pixel than its neighbours are
#: apart, and how far apart these are at least (ln). Of two orbits on a map of 0.5°, under high Suns, the first is 1 and
#: 2.5 times, the second 0.04.
_UNSEEN, _LEAST = 1.5, 0.04
#: Ground that looks so much darker than its albedo lies in shadow: its light comes from other ground, not from the Sun.
_SHADOW_GAIN = 0.1
#: Points along a side of a footprint at most.
_PARTS = 9


@typed
def scale_to_albedo(
    ds: T,
    albedo: str | os.PathLike[str] | xr.DataArray,
    *,
    wavelength: float = 1064.0,
    width: float = 25.0,
    ratio: float | Sequence[tuple[float, float]] | Literal["sp"] = "sp",
    footprint: float | None = None,
    map_uncertainty: float = MAP_NOISE,
) -> T:
    """Scale each spectrum to the normal albedo that a map, such as LOLA's, has at one wavelength.

    The light, and with it slopes and shadows, is taken out but for its colour. What the map does not show, albedo that
    changes within its pixels, is lost with it.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Tracks with ``lon`` and ``lat`` (degrees), or a map with its reference system; with ``reflectance`` (or itself)
        at 30°/0°/30°.
    albedo : path or DataArray
        Normal albedo (at phase 0) of the Moon, two dimensions: a raster, or what :func:`lunarray.maps.open_map` opens.
    wavelength, width : float
        Wavelength of the albedo, nm; the median of the bands within `width` of it is compared (the nearest band where
        there is one alone).
    ratio : "sp", float or pairs
        Reflectance at 30°/0°/30° that ground of a normal albedo has: "sp", as SP's three albedo groups have it; a
        number, normal albedo over reflectance; or pairs (normal albedo, reflectance), interpolated between.
    footprint : float, optional
        Side of the footprints, m: the map is averaged over it where it is finer. By default 500, and of maps with
        wider pixels the side of a pixel.
    map_uncertainty : float
        Noise of the map (ln-sd).

    Returns
    -------
    same as `ds`
        Reflectance divided by ``light_gain``; ``light_uncertainty`` is of what is left: noise of the map, albedo that
        changes within its pixels, the ratio of phases. The attribute ``light`` says "albedo". Where the map has a gap
        ``light_quality`` has the bit ``no_albedo``, the gain is NaN, and the spectrum and its uncertainty stay as they
        were. The bit ``shadow`` is raised where the gain is below 0.1; ``grazing_light`` goes where there is a gain.

    Raises
    ------
    InputError
        If positions, map or arguments make no sense, or the light was taken out before.
    BandMismatchError
        If there is no band near the wavelength.
    GridError
        If the map, or a cube, has no reference system.
    BodyMismatchError
        If the map is of another body.

    References
    ----------
    Lemelin, M., et al., 2016. Improved calibration of reflectance data from the LRO Lunar Orbiter Laser Altimeter and
    implications for space weathering. Icarus 273, 315-328. Lemelin, M., et al., 2022. The compositions of the lunar
    crust and upper mantle: Spectral analysis of the inner rings of lunar impact basins. Planetary and Space Science.

    Examples
    --------
    >>> import lunarray as la
    >>> import numpy as np
    >>> import xarray as xr
    >>> spectra = la.sample("sp_orbit").lunar.condition()
    >>> places = {"lat": 89.5 - np.arange(180.0), "lon": -179.5 + np.arange(360.0)}
    >>> lola = xr.DataArray(np.full((180, 360), 0.2), places, ("lat", "lon"))
    >>> scaled = spectra.lunar.scale_to_albedo(la.geo.assign_crs(lola, "geographic"))
    >>> scaled["reflectance"].attrs["light"]
    'albedo'
    """
    step = "scale_to_albedo"
    spectra = spectra_of(ds, step)
    if spectra.attrs.get("light") == "albedo":
        raise InputError("scaled to an albedo already", where=step, remedy="Scale once")
    for name, value in (("wavelength", wavelength), ("width", width)):
        require_number(name, value, 0, strictly=True)
    side = footprint_of(ds, footprint)
    require_number("map_uncertainty", map_uncertainty, 0, 1)
    bands = _bands(spectra, float(wavelength), float(width))
    pairs = _pairs(ratio)
    brightness = _brightness(spectra.isel(wavelength=bands))
    ground, told = _albedo_beside(brightness, spectra, ds, albedo, side, step)
    target = xr.apply_ufunc(
        _standard, ground, kwargs={"pairs": pairs}, dask="parallelized", output_dtypes=[np.float32]
    )
    known = target > 0
    gain = (brightness / target).where(known & (brightness > 0)).astype(np.float32)
    factor = gain.fillna(np.float32(1)).variable
    data = (spectra.variable / factor).transpose(*spectra.dims).astype(np.float32).data
    note = f"scale_to_albedo(wavelength={wavelength:g} nm, footprint={side:g} m)"
    result = rebuild(ds, spectra, data, None, note)
    array = result["reflectance"] if hasattr(result, "data_vars") else result
    array.attrs["light"] = "albedo"
    noise = np.hypot(map_uncertainty, RATIO_SPREAD if ratio == "sp" else 0.0)
    return typed(beside(result, _light_left(ds, gain, known, told, noise)))


def _brightness(seen: xr.DataArray) -> xr.DataArray:
    """Median of bands."""
    if seen.chunks:
        seen = seen.chunk({"wavelength": -1})
    return xr.apply_ufunc(
        _median,
        seen.reset_coords(drop=True),
        input_core_dims=[["wavelength"]],
        dask="parallelized",
        output_dtypes=[np.float32],
    )


def _light_left(
    ds: Any, gain: xr.DataArray, known: xr.DataArray, told: xr.DataArray, noise: float
) -> dict[str, xr.DataArray]:
    """Gain, uncertainty of what is left of it, and flags; where there is no gain, as it was."""
    scaled = gain.notnull().variable
    before = light_uncertainty(ds).variable if has_geometry(ds) else np.float32(UNKNOWN_LIGHT)
    spread = np.sqrt(told.variable**2 + np.float32(noise**2))
    left = xr.where(scaled, spread, before).astype(np.float32)
    quality = light_quality_of(ds, gain)
    if quality is not None:
        # The albedo has brought to light what a low Sun had left unknown.
        low = np.uint8(LIGHT_FLAGS["grazing_light"])
        quality = quality & ~(scaled.transpose(*quality.dims).data * low)
    raised = {"no_albedo": (~known).data, "shadow": (gain < _SHADOW_GAIN).data}
    return {
        "light_uncertainty": _like(left.transpose(*gain.dims), gain, "light_uncertainty"),
        "light_quality": flagged(quality, gain, raised),
        "light_gain": _like(gain.variable, gain, "light_gain"),
    }


def light_quality_of(ds: Any, like: xr.DataArray) -> xr.DataArray | None:
    """Flags that spectra have, or that follow from their angles, on the dimensions of `like`."""
    holder = ds.variables if isinstance(ds, xr.Dataset) else ds.coords
    if "light_quality" in holder:
        return ds["light_quality"].transpose(*like.dims)
    return light_quality(ds).transpose(*like.dims) if "incidence" in holder else None


def _like(values: Any, like: xr.DataArray, name: str) -> xr.DataArray:
    data = getattr(values, "data", values)
    return xr.DataArray(data, dims=like.dims, name=name, attrs=described(name))


def _bands(spectra: xr.DataArray, wavelength: float, width: float) -> np.ndarray:
    """Bands to compare: those near the wavelength, of the detector that is made for it where two saw it."""
    nm = np.asarray(spectra["wavelength"].values, np.float64)
    away = np.abs(nm - wavelength)
    near = np.flatnonzero(away <= width)
    if not near.size and nm.size and away.min() <= 2 * width:
        near = np.array([int(away.argmin())])
    if not near.size:
        has = f"{nm.min():.1f}-{nm.max():.1f} nm" if nm.size else "no bands"
        raise BandMismatchError(
            f"no band within {width:g} nm of {wavelength:g} nm (they have {has})",
            where="scale_to_albedo",
            remedy="Scale before bands are left out, or give the albedo's wavelength",
        )
    return near


def _median(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN")
        return np.nanmedian(values, axis=-1).astype(np.float32)


def _pairs(ratio: Any) -> tuple[tuple[float, float], ...]:
    if isinstance(ratio, str) and ratio == "sp":
        return NORMAL_TO_STANDARD
    values = np.asarray(ratio, np.float64)
    if values.ndim == 0 and values > 0:
        return ((0.0, 0.0), (1.0, 1.0 / float(values)))
    good = values.ndim == 2 and values.shape[1] == 2 and len(values) > 1
    if not good or not np.isfinite(values).all() or np.any(np.diff(values, axis=0) <= 0):
        raise InputError(
            f"ratio={ratio!r}",
            where="scale_to_albedo",
            remedy='Give "sp", a number such as 2.2, or rising pairs (normal albedo, reflectance)',
        )
    return tuple((float(a), float(b)) for a, b in values)


def _standard(normal: np.ndarray, *, pairs: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Reflectance at 30°/0°/30° of normal albedo, continued beyond the last pair by its ratio."""
    x, y = np.array(pairs).T
    out = np.interp(normal, x, y, left=np.nan)
    return np.where(normal > x[-1], normal * (y[-1] / x[-1]), out).astype(np.float32)


# --- the map ---------------------------------------------------------------------------------------


def raster_of(raster: Any, what: str, step: str) -> xr.DataArray:
    """A raster of one band, opened where it is a path."""
    if isinstance(raster, xr.DataArray):
        return raster.isel(band=0, drop=True) if raster.sizes.get("band") == 1 else raster
    if isinstance(raster, str | os.PathLike):
        return open_raster(raster, bands=1)
    raise InputError(
        f"{what} is a {type(raster).__name__}",
        where=step,
        remedy="Give a path, or the map that lunarray.maps.open_map opens",
    )


def places_of(ds: Any, like: xr.DataArray, step: str) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude (degrees) of each spectrum, on the dimensions of `like`."""
    if {"lon", "lat"} <= set(ds.coords) and "lat" not in like.dims:
        found = [ds[name].transpose(*like.dims).variable for name in ("lon", "lat")]
        values = [known_values(array.data) for array in found]
        if any(v is None for v in values):
            import dask

            values = [np.asarray(v) for v in dask.compute(*found)]
        lon, lat = (np.asarray(v, np.float64) for v in values)
        return lon, lat
    if crs_of(ds) is None:
        raise InputError(
            "the spectra have no lon and lat, nor a reference system",
            where=step,
            remedy="Assign coordinates lon and lat (degrees), or a CRS (lunarray.geo.assign_crs)",
        )
    return lonlat(geobox_of(ds))


def footprint_of(ds: Any, given: float | None) -> float:
    """Side of the footprints (m): what is given, or SP's, or the pixels' where spectra are a map of wider ones."""
    if given is not None:
        require_number("footprint", given, 0, strictly=True)
        return float(given)
    if {"lon", "lat"} <= set(ds.coords) or crs_of(ds) is None:
        return FOOTPRINT
    return max(FOOTPRINT, pixel_size(geobox_of(ds)))


def _albedo_beside(
    like: xr.DataArray, spectra: xr.DataArray, ds: Any, albedo: Any, footprint: float, step: str
) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean of the map over each footprint, and how much its logarithm varies there."""
    raster = raster_of(albedo, "the albedo", step)
    lon, lat = places_of(ds, like, step)
    found = map_around(
        _footprint_mean,
        raster,
        lon,
        lat,
        [like.data],
        outputs=2,
        reach=3 * max(footprint, 30_000.0),
        name="footprint-albedo",
        footprint=footprint,
    )
    return tuple(xr.DataArray(layer, dims=like.dims) for layer in found)  # type: ignore[return-value]


def _footprint_mean(
    ground: Ground, lon: np.ndarray, lat: np.ndarray, _: np.ndarray, *, footprint: float
) -> np.ndarray:
    """Mean of a map over footprints, and the spread of its logarithm in them, (2, n).

    A map coarser than the footprint knows nothing within its pixels: its spread is that among neighbours.
    """
    fine = ground.pixel < footprint
    parts = min(_PARTS, max(3, int(np.ceil(footprint / ground.pixel)))) if fine else 3
    spacing = footprint / parts if fine else ground.pixel
    steps = (np.arange(parts) - (parts - 1) / 2) * spacing
    east, north = (v.ravel() for v in np.meshgrid(steps, steps))
    azimuth = np.rad2deg(np.arctan2(east, north))
    arc = np.rad2deg(np.hypot(east, north) / ground.radius)
    values = ground.at(*offset(lon[:, None], lat[:, None], azimuth, arc), min_valid=0.5)
    if values.size and np.nanmax(values, initial=0) > _MOST:
        raise InputError(
            f"an albedo of {np.nanmax(values):.4g}",
            where="scale_to_albedo: albedo",
            remedy="Give normal albedo as a fraction (divide per cent by 100), and no elevation model",
        )
    values[values <= 0] = np.nan
    with np.errstate(invalid="ignore"):
        count = np.isfinite(values).sum(axis=1)
        total = np.nansum(values, axis=1)
        logs = np.log(values)
        middle = np.nansum(logs, axis=1) / np.maximum(count, 1)
        spread = np.sqrt(np.nansum((logs - middle[:, None]) ** 2, axis=1) / np.maximum(count, 1))
        mean = np.where(count >= (parts * parts + 1) // 2, total / np.maximum(count, 1), np.nan)
        if not fine:
            mean = values[:, parts * parts // 2]
            # Of a pixel no wider than the footprint nothing is unseen, but for where in it the footprint lies.
            share = footprint / ground.pixel
            unseen = _UNSEEN * math.sqrt(1 - share) * np.maximum(spread, _LEAST)
            spread = np.hypot(unseen, 0.25 * share * spread)
        else:
            # A footprint is known to lie where it is to about half its side.
            spread = 0.5 * spread
    return np.stack([mean, np.where(np.isfinite(mean), spread, np.nan)]).astype(np.float32)
