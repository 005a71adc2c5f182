"""Light taken out by what the ground looks like: local angles and shadows from a digital elevation model."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import xarray as xr

from lunarray.engine.graph import known_values
from lunarray.errors import InputError, require_number
from lunarray.geo import (
    Ground,
    geobox_of,
    horizon,
    map_around,
    offset,
    pixel_size,
    reach_of,
    slopes,
    sun_share,
    towards,
)
from lunarray.sp.albedo import footprint_of, light_quality_of, places_of, raster_of
from lunarray.sp.light import (
    LIGHT_FLAGS,
    SLOPE_RMS,
    beside,
    described,
    flagged,
    grazing,
    spread_of,
)
from lunarray.sp.photometry import LEAST_GAIN, lunar_lambert, model_of, phase_function
from lunarray.sp.spectra import T, rebuild, spectra_of
from lunarray.typing import typed

__all__ = ["correct_topography"]

_STANDARD = (30.0, 0.0, 30.0)
#: Less of the Sun than this is shadow.
_LIT = 0.5
#: Largest local incidence (degrees) of ground that counts as lit.
_STEEPEST = 89.0
#: How slopes between the baseline of a footprint and a wider one add up: variance as the baseline to this power less
#: than at the footprint's (a Hurst exponent of 0.8).
_FALL = 0.4
#: How many slopes the spread of ordinary ground counts for beside those that a model has around a place.
_USUAL_PLACES = 4
#: Slopes of elevation models are wrong by this much at best, degrees.
_SLOPE_ERROR = 1.0


@typed
def correct_topography(
    ds: T,
    dem: str | os.PathLike[str] | xr.DataArray,
    parameters: xr.Dataset | None = None,
    *,
    undo: bool = False,
    subsolar: tuple[float, float] | None = None,
    footprint: float | None = None,
    reach: float = 170_000.0,
    slope_error: float | None = None,
) -> T:
    """Normalise reflectance to 30°/0°/30° by the true angles of the ground, and leave out what lies in shadow.

    Local incidence and emission follow from the plane that fits the ground in a footprint, shadows of its own and those
    that other ground casts from the horizon towards the Sun, over the sphere, with the Sun's disk as wide as it is.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Tracks with ``lon`` and ``lat`` (degrees), or a map with its reference system. The Sun: ``incidence`` and
        ``solar_azimuth`` (degrees, clockwise from north) beside the spectra, or `subsolar`. The eye: ``emission``,
        ``phase`` and ``sensor_azimuth`` as far as there are; straight above by default.
    dem : path or DataArray
        Heights above the sphere, m: LOLA, SLDEM, or any other raster of two dimensions; it has to reach as far beyond
        the spectra as a shadow may come from.
    parameters : xarray.Dataset, optional
        Of the phase function, as :func:`lunarray.sp.read_photometric_parameters` reads them: needed where the
        reflectance is the radiance factor at the angles of the observation (:func:`lunarray.sp.radiance_factor`).
    undo : bool
        Take out first the disk function of flat ground, where the reflectance was normalised with it as REF1 and REF2
        are. Refused by default: what a product was normalised with is for its user to know.
    subsolar : (float, float), optional
        Longitude and latitude (degrees) over which the Sun stands, instead of the angles beside the spectra.
    footprint : float, optional
        Side of the footprints, m; by default 500, and of maps with wider pixels the side of a pixel.
    reach : float
        How far ground may stand that casts a shadow, m.
    slope_error : float, optional
        Standard deviation of slopes in one direction that the elevation model does not know, degrees; by default 1, and
        more where half a footprint is narrower than its pixels: as much more as the ground around is rough at those.

    Returns
    -------
    same as `ds`
        Reflectance at 30°/0°/30°, NaN in shadow and where the model has a gap. Beside it ``local_incidence``,
        ``local_emission`` (degrees), ``light_gain`` (what tilt and shadow changed against flat ground), and
        ``light_uncertainty``; ``light_quality`` has the bits ``shadow`` and ``grazing_light``. The attribute ``light``
        says "topography".

    Raises
    ------
    InputError
        If angles are missing, the reflectance was normalised for flat ground and `undo` is not set, or was scaled to an
        albedo, or `parameters` are needed.
    BandMismatchError
        If the parameters do not cover the wavelengths.
    GridError
        If the elevation model, or a cube, has no reference system.
    BodyMismatchError
        If the model is of another body.

    Examples
    --------
    >>> import lunarray as la
    >>> rough = la.simulate.polar_scene(resolution=20_000, latitude=84, slope_rms=8.0)
    >>> rough = rough.drop_vars(["light_uncertainty", "light_quality"])
    >>> lit = rough.lunar.correct_topography(rough["height"], undo=True)
    >>> lit["reflectance"].attrs["light"]
    'topography'
    """
    step = "correct_topography"
    spectra = spectra_of(ds, step)
    stated = _stated(spectra, undo, parameters)
    side = footprint_of(ds, footprint)
    if slope_error is not None:
        require_number("slope_error", slope_error, 0, 45)
    require_number("reach", reach, 0, strictly=True)
    raster = raster_of(dem, "the elevation model", step)
    like = spectra.isel(wavelength=0, drop=True).reset_coords(drop=True)
    lon, lat = places_of(ds, like, step)
    angles: list[Any] = _angles(ds, like, lon, lat, subsolar)
    found = _terrain_light(raster, lon, lat, like, angles, float(reach), side, slope_error)
    local_i, local_e, gain, spread, lacking = found
    if stated is not None:
        data = (spectra.variable / gain.variable).transpose(*spectra.dims).astype(np.float32).data
    else:
        data = _from_observed(spectra, gain, angles, parameters)
    result = rebuild(ds, spectra, data, None, f"correct_topography(undo={undo})")
    layers = {
        "local_incidence": local_i,
        "local_emission": local_e,
        "light_gain": gain,
        "light_uncertainty": spread,
    }
    extra = {name: layer.assign_attrs(described(name)) for name, layer in layers.items()}
    extra["light_quality"] = _quality(ds, like, local_i, gain, lacking)
    return typed(beside(_said(result), extra))


def _terrain_light(
    raster: xr.DataArray,
    lon: np.ndarray,
    lat: np.ndarray,
    like: xr.DataArray,
    angles: list[Any],
    reach: float,
    side: float,
    slope_error: float | None,
) -> list[xr.DataArray]:
    """The layers of :func:`_terrain` for each spectrum."""
    far = _reach(angles[0], reach)
    found = map_around(
        _terrain,
        raster,
        lon,
        lat,
        [like.data, *angles],
        outputs=5,
        reach=max(far, 2 * side, 5 * pixel_size(geobox_of(raster))),
        name="terrain-light",
        footprint=side,
        far=far,
        slope_error=slope_error,
    )
    return [xr.DataArray(layer, dims=like.dims) for layer in found]


def _said(result: Any) -> Any:
    """The spectra with what they refer to now."""
    array = result["reflectance"] if hasattr(result, "data_vars") else result
    array.attrs.update(
        photometric_geometry="30 0 30",
        light="topography",
        comment="incidence, emission, phase (degrees) that the reflectance refers to",
    )
    return result


def _quality(
    ds: Any,
    like: xr.DataArray,
    incidence: xr.DataArray,
    gain: xr.DataArray,
    slope: xr.DataArray,
) -> xr.DataArray:
    """Flags: shadow where the ground is known and not lit, and grazing light by its own angles."""
    quality = light_quality_of(ds, like)
    if quality is not None:
        # What the angles of flat ground said of the light is known better now.
        quality = quality & np.uint8(0xFF - LIGHT_FLAGS["grazing_light"])
    raised = {
        "shadow": (gain.isnull() & incidence.notnull()).data,
        "grazing_light": (grazing(incidence, slope) > 0).data,
    }
    return flagged(quality, like, raised)


def _stated(spectra: xr.DataArray, undo: bool, parameters: Any) -> str | None:
    """The geometry that flat ground was normalised to; None where the reflectance is as it was observed."""
    stated = spectra.attrs.get("photometric_geometry")
    if spectra.attrs.get("light", "flat") != "flat":
        raise InputError(
            f"the light was taken out already, by {spectra.attrs['light']}",
            where="correct_topography",
            remedy="Correct for topography first, then scale to an albedo",
        )
    if stated is None and parameters is None:
        raise InputError(
            "reflectance at the angles of observation needs the parameters of the phase function",
            where="correct_topography",
            remedy="Give parameters=lunarray.sp.read_photometric_parameters(...)",
        )
    if stated is not None and not undo:
        raise InputError(
            f"the reflectance was normalised to {stated} degrees for flat ground",
            where="correct_topography",
            remedy="Give undo=True to take that out by the disk function of SP's model, or the radiance factor of "
            "lunarray.sp.radiance_factor",
        )
    if stated not in (None, "30 0 30"):
        raise InputError(
            f"the reflectance refers to {stated} degrees",
            where="correct_topography",
            remedy="Bring it to 30 0 30 by lunarray.sp.normalize_photometry",
        )
    return None if stated is None else str(stated)


def _angles(
    ds: Any, like: xr.DataArray, lon: np.ndarray, lat: np.ndarray, subsolar: Any
) -> list[Any]:
    """Incidence, emission, phase, azimuths of Sun and eye (NaN where it is not known), as arrays like the points."""
    holder = ds.variables if isinstance(ds, xr.Dataset) else ds.coords

    def taken(name: str) -> Any:
        return ds[name].variable.transpose(*like.dims).data if name in holder else None

    if subsolar is not None:
        there_lon, there_lat = (float(v) for v in subsolar)
        require_number("latitude of subsolar", there_lat, -90, 90)
        azimuth, incidence = towards(lon, lat, there_lon, there_lat)
    else:
        incidence, azimuth = taken("incidence"), taken("solar_azimuth")
        lacking = [
            name
            for name, value in (("incidence", incidence), ("solar_azimuth", azimuth))
            if value is None
        ]
        if lacking:
            raise InputError(
                f"no {' and '.join(lacking)} beside the spectra",
                where="correct_topography",
                remedy="Assign them (degrees; the azimuth clockwise from north), or give subsolar=(lon, lat)",
            )
    emission, phase, eye = (taken(n) for n in ("emission", "phase", "sensor_azimuth"))
    if emission is None:
        emission, phase, eye = np.zeros(lon.shape, np.float32), incidence, None
    if phase is None:
        phase = incidence
    return [
        incidence,
        emission,
        phase,
        azimuth,
        np.full(lon.shape, np.nan, np.float32) if eye is None else eye,
    ]


def _reach(incidence: Any, reach: float) -> float:
    """How far shadows may come from under the lowest Sun, if that is known."""
    known = known_values(incidence)
    if known is None or not np.isfinite(known).any():
        return reach
    return min(reach, reach_of(float(min(np.nanmax(known), 90.0))))


def _terrain(
    ground: Ground,
    lon: np.ndarray,
    lat: np.ndarray,
    _: np.ndarray,
    incidence: np.ndarray,
    emission: np.ndarray,
    phase: np.ndarray,
    azimuth: np.ndarray,
    eye: np.ndarray,
    *,
    footprint: float,
    far: float,
    slope_error: float | None,
) -> np.ndarray:
    """Local incidence and emission (degrees), gain against flat ground, its uncertainty, slopes unknown (5, n)."""
    east, north = slopes(ground, lon, lat, footprint)
    i, e, a, sun, seen = (
        np.asarray(v, np.float64) for v in (incidence, emission, phase, azimuth, eye)
    )
    up = 1 / np.sqrt(1 + east**2 + north**2)

    def cosine(zenith: np.ndarray, turn: np.ndarray) -> np.ndarray:
        z, t = np.deg2rad(zenith), np.deg2rad(turn)
        return (np.cos(z) - np.sin(z) * (east * np.sin(t) + north * np.cos(t))) * up

    mu0 = cosine(i, sun)
    # Without an azimuth of the eye the phase says how far from the Sun's it is, but not on which side.
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (np.cos(np.deg2rad(a)) - np.cos(np.deg2rad(i)) * np.cos(np.deg2rad(e))) / (
            np.sin(np.deg2rad(i)) * np.sin(np.deg2rad(e))
        )
    aside = np.rad2deg(np.arccos(np.clip(np.nan_to_num(between, nan=1.0), -1, 1)))
    sides = [np.where(np.isfinite(seen), seen, sun + way * aside) for way in (1, -1)]
    mu = [cosine(e, side) for side in sides]
    above = 90.0 - i
    hidden = horizon(ground, lon, lat, sun, start=0.5 * footprint, reach=far)
    share = sun_share(above, hidden)
    local_i = np.rad2deg(np.arccos(np.clip(mu0, -1, 1)))
    local = [np.rad2deg(np.arccos(np.clip(m, -1, 1))) for m in mu]
    flat = lunar_lambert(i, e, a)
    with np.errstate(invalid="ignore", divide="ignore"):
        tilted = np.mean(
            [
                np.where(m > 0, lunar_lambert(local_i, own, a), np.nan)
                for m, own in zip(mu, local, strict=True)
            ],
            axis=0,
        )
        gain = tilted / flat * share
    lit = (local_i < _STEEPEST) & (i < 90.0) & (e < 90.0) & (share >= _LIT) & (gain > LEAST_GAIN)
    gain = np.where(lit, gain, np.nan)
    if slope_error is None:
        lacking = _slopes_lacking(ground, lon, lat, east, north, footprint)
    else:
        lacking = np.full(lon.shape, slope_error)
    spread = _spread(local_i, np.mean(local, axis=0), a, lacking)
    spread = np.where(lit, np.hypot(spread, (1 - share) / np.maximum(share, _LIT)), np.nan)
    layers = [local_i, np.mean(local, axis=0), gain, spread, lacking]
    return np.stack(layers).astype(np.float32)


def _slopes_lacking(
    ground: Ground,
    lon: np.ndarray,
    lat: np.ndarray,
    east: np.ndarray,
    north: np.ndarray,
    footprint: float,
) -> np.ndarray:
    """Slopes (degrees, rms along a direction) on the baseline of a footprint that an elevation model lacks, (n,).

    As rough as the model is around at its finest: slopes at eight places about each are spread by what lies between
    their own baseline and that of the nine together, and by the same law what lies between a footprint and the model's
    baseline is more. Few places tell a spread poorly, so it is drawn towards that of ordinary ground.
    """
    wide = max(2 * ground.pixel / footprint, 1.0)
    if wide == 1.0:
        return np.full(lon.shape, _SLOPE_ERROR)
    arc = np.rad2deg(2 * ground.pixel / ground.radius)
    far, high = offset(lon[:, None], lat[:, None], np.arange(0.0, 360.0, 45.0), np.full(8, arc))
    around = slopes(ground, far.ravel(), high.ravel(), footprint).reshape(2, -1, 8)
    within = 1 - 3.0**-_FALL
    usual = math.tan(math.radians(SLOPE_RMS)) ** 2 * wide**-_FALL * within
    total, count = np.zeros(lon.shape), np.zeros(lon.shape)
    for own, others in zip((east, north), around, strict=True):
        all_nine = np.column_stack([own, others])
        known = np.isfinite(all_nine).sum(axis=1)
        middle = np.nansum(all_nine, axis=1) / np.maximum(known, 1)
        total += np.nansum((all_nine - middle[:, None]) ** 2, axis=1)
        count += np.maximum(known - 1, 0)
    square = (total + _USUAL_PLACES * usual) / (count + _USUAL_PLACES)
    finer = np.sqrt(square / within * (wide**_FALL - 1))
    return np.hypot(_SLOPE_ERROR, np.rad2deg(np.arctan(finer)))


def _spread(
    incidence: np.ndarray, emission: np.ndarray, phase: np.ndarray, slope: np.ndarray
) -> np.ndarray:
    """Uncertainty of the light at angles of ground with slopes that differ, each to a quarter of a degree up."""
    out = np.full(incidence.shape, np.nan)
    step = np.ceil(slope * 4)
    for level in np.unique(step[np.isfinite(step)]):
        here = step == level
        out[here] = spread_of(incidence[here], emission[here], phase[here], level / 4)
    return out


def _from_observed(spectra: xr.DataArray, gain: xr.DataArray, angles: list[Any], table: Any) -> Any:
    """Reflectance at 30°/0°/30° of radiance factors at the angles of observation."""
    model = {
        name: xr.Variable("wavelength", values)
        for name, values in model_of(spectra, table, "correct_topography").items()
    }
    standard = lunar_lambert(*_STANDARD) * phase_function(_STANDARD[2], **model)
    observed = [xr.Variable(gain.dims, values) for values in angles[:3]]
    flat = xr.apply_ufunc(
        lunar_lambert,
        *observed,
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    seen = flat * gain.variable * phase_function(observed[2], **model)
    return (spectra.variable * standard / seen).transpose(*spectra.dims).astype(np.float32).data
