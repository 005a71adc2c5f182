"""Relief of a simulated pole, and what it does to the light of spectra that were normalised for flat ground."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lunarray.errors import require_number
from lunarray.geo import RADIUS, sun_share
from lunarray.simulate.cubes import Source, Tokenized, layers_of
from lunarray.sp.light import UNKNOWN_LIGHT, described, light_quality, light_uncertainty
from lunarray.sp.photometry import LEAST_GAIN, lunar_lambert

#: Latitude of the Sun over a pole's equator at its highest, degrees.
SUN_LATITUDE = 1.5

#: Uncertainty of the light of level ground: that of the brightness scale.
LEVEL_LIGHT = 0.02

# Wavelengths of the relief's octaves, pixels, and how their heights grow with them (a Hurst exponent).
_OCTAVES, _HURST = (8.0, 16.0, 32.0, 64.0), 0.8
# Root mean square slope along one direction of gradient noise of unit height, times its wavelength.
_SLOPE_OF_NOISE = 0.622
# Pixels along a ray at which ground may stand before the Sun.
_RAY = np.array([1.0, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 27, 33, 40, 50, 64])


@dataclass(frozen=True)
class Relief(Tokenized):
    """Rough ground around a pole, as a function of the place on its map: heights, tilts and shadows.

    `pole_at` is the row and column of the pole, in pixels (whole numbers are the middles of pixels), `sign` 1 in the
    north and -1 in the south, `resolution` the side of a pixel (m), `slope_rms` (degrees) the standard deviation of
    slopes along a direction. The Sun stands over each meridian in turn: every place is seen at its noon.
    """

    seed: int
    pole_at: tuple[float, float]
    sign: int
    resolution: float
    slope_rms: float

    def heights(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Heights of points, m."""
        from lunarray.simulate.terrain import gradient_noise

        shares = [_SLOPE_OF_NOISE * wave ** (_HURST - 1) for wave in _OCTAVES]
        scale = math.tan(math.radians(self.slope_rms)) / math.hypot(*shares) * self.resolution
        r, c = (np.ascontiguousarray(v, np.float64) for v in (row, column))
        total = np.zeros(r.size)
        for number, wave in enumerate(_OCTAVES):
            noise = gradient_noise(self.seed * 8191 + number, r, c, wave)
            total += scale * wave**_HURST * noise
        return total

    def light(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Incidence and azimuth of the Sun (degrees), gain of the light, height (m) of points, (4, n).

        The gain is that of the reflectance after it was normalised for flat ground.
        """
        r, c = (np.asarray(v, np.float64) for v in (row, column))
        down, right = r - self.pole_at[0], c - self.pole_at[1]
        away = np.hypot(down, right)
        colatitude = np.rad2deg(2 * np.arctan(away * self.resolution / (2 * RADIUS)))
        elevation = np.maximum(colatitude + SUN_LATITUDE, 0.0)
        # Towards the equator, that is away from the pole; at the pole itself anywhere.
        with np.errstate(invalid="ignore", divide="ignore"):
            south, east = np.where(away > 0, [down / away, right / away], [[1.0], [0.0]])
        height = self.heights(r, c)
        towards = (
            self.heights(r + 0.5 * south, c + 0.5 * east)
            - self.heights(r - 0.5 * south, c - 0.5 * east)
        ) / self.resolution
        across = (
            self.heights(r - 0.5 * east, c + 0.5 * south)
            - self.heights(r + 0.5 * east, c - 0.5 * south)
        ) / self.resolution
        hidden = np.full(r.shape, -90.0)
        for step in _RAY:
            distance = step * self.resolution
            rise = self.heights(r + step * south, c + step * east) - height
            fall = distance**2 / (2 * RADIUS)
            hidden = np.maximum(hidden, np.rad2deg(np.arctan2(rise - fall, distance)))
        gain = gain_of(90.0 - elevation, towards, across) * sun_share(elevation, hidden)
        # At its noon the Sun stands in the south of the north pole, and in the north of the south pole.
        azimuth = np.full(r.shape, 180.0 if self.sign > 0 else 0.0)
        return np.stack([90.0 - elevation, azimuth, np.maximum(gain, LEAST_GAIN), height])


def relief_of(geobox: Any, pole: str, seed: int, slope_rms: float) -> Relief:
    """Relief of a polar grid."""
    affine = geobox.transform
    at = -affine.f / affine.e - 0.5, -affine.c / affine.a - 0.5
    sign = 1 if pole == "north" else -1
    return Relief(seed, at, sign, abs(float(affine.a)), slope_rms)


def gain_of(incidence: Any, towards: Any, across: Any) -> np.ndarray:
    """Gain of flat-ground reflectance where ground rises towards the Sun and across it (m/m), seen from above."""
    i = np.deg2rad(incidence)
    up = 1 / np.sqrt(1 + np.square(towards) + np.square(across))
    mu0 = (np.cos(i) - np.sin(i) * towards) * up
    local = np.rad2deg(np.arccos(np.clip(mu0, -1, 1)))
    gain = lunar_lambert(local, np.rad2deg(np.arccos(up)), incidence) / lunar_lambert(
        incidence, 0.0, incidence
    )
    return np.where(mu0 > 0, gain, 0.0)


def light_gains(
    incidence: Any, slope_rms: float = 6.0, *, rng: np.random.Generator | int = 0
) -> np.ndarray:
    """Draw random gains of the light on rough ground: how reflectance normalised for flat ground differs from albedo.

    Parameters
    ----------
    incidence : array-like
        Incidence angles on flat ground, degrees, below 90; the ground is seen from straight above.
    slope_rms : float
        Standard deviation of slopes along one direction, degrees.
    rng : Generator or int
        Random numbers, or their seed.

    Returns
    -------
    numpy.ndarray
        One gain for each angle, float64; ground in shadow of its own has 0.02, what is scattered into it.

    Raises
    ------
    InputError
        Slopes that make no sense.

    Examples
    --------
    >>> import numpy as np
    >>> from lunarray.simulate import light_gains
    >>> gains = light_gains(np.full(10_000, 75.0), 5.0)
    >>> round(float(np.log(gains).std()), 1)
    0.4
    """
    require_number("slope_rms", slope_rms, 0, 45)
    rng = np.random.default_rng(rng)
    incidence = np.asarray(incidence, np.float64)
    towards, across = math.tan(math.radians(slope_rms)) * rng.standard_normal((2, *incidence.shape))
    return np.maximum(gain_of(incidence, towards, across), LEAST_GAIN)


def light_variables(
    source: Source, geobox: Any, chunks: int | None, slope_rms: float
) -> dict[str, Any]:
    """Variables of a cube from the layers "light" of a source: angles, what they tell, and the truth."""
    import xarray as xr

    dims = ("y", "x")
    if slope_rms <= 0:
        known = np.full(tuple(geobox.shape), LEVEL_LIGHT, np.float32)
        if chunks is not None:
            import dask.array as da

            known = da.full(tuple(geobox.shape), LEVEL_LIGHT, dtype=np.float32, chunks=chunks)
        return {"light_uncertainty": (dims, known, described("light_uncertainty"))}
    layers = layers_of(source, geobox.shape, "light", 4, chunks)
    incidence, azimuth, gain, height = (layers[k] for k in range(4))
    about = {
        "incidence": ("incidence angle on flat ground", "degree"),
        "emission": ("emission angle on flat ground", "degree"),
        "phase": ("phase angle", "degree"),
        "solar_azimuth": ("azimuth of the Sun, clockwise from north", "degree"),
        "light_gain_true": ("gain of the light that slopes and shadows make", "1"),
        "height": ("height of the ground", "m"),
    }
    values = (incidence, 0 * incidence, incidence, azimuth, gain, height)
    out = {
        name: (dims, data, {"long_name": text, "units": units})
        for (name, (text, units)), data in zip(about.items(), values, strict=True)
    }
    angles = xr.Dataset({name: (dims, out[name][1]) for name in ("incidence", "emission", "phase")})
    # Under a Sun at the horizon of flat ground nothing is known of the light.
    told = light_uncertainty(angles, slope_rms=slope_rms).fillna(2 * UNKNOWN_LIGHT)
    out["light_uncertainty"] = (dims, told.data, described("light_uncertainty"))
    quality = light_quality(angles, slope_rms=slope_rms)
    out["light_quality"] = (dims, quality.data, described("light_quality"))
    return out
