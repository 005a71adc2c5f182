"""How well the light on the ground is known: the gain that stands between reflectance and albedo.

Reflectance that was normalised for flat ground is the albedo's times an unknown gain where the ground is not flat. Its
spread follows from geometry and slopes alone, so it travels beside the spectra like the angles that it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, require_number
from lunarray.sp.spectra import T
from lunarray.typing import typed

__all__ = ["LIGHT_FLAGS", "SLOPE_RMS", "light_uncertainty"]

#: Bits of the variable ``light_quality``: the ground lies in shadow; the Sun is so low that a tenth of all slopes
#: would lie in shadow of their own; there is no albedo to scale to.
LIGHT_FLAGS: dict[str, int] = {"shadow": 1, "grazing_light": 2, "no_albedo": 4}

#: Standard deviation (degrees) of slopes along one direction on the baseline of a footprint (500 m): between that of
#: maria (1-2) and of rough highlands (7-9), after Rosenburg et al. (2011), J. Geophys. Res. 116, E02001, whose median
#: bidirectional slopes at 17 m are 2.0 and 7.5 degrees and fall with the baseline to the power of 0.05-0.24.
SLOPE_RMS = 6.0

#: What stands for the uncertainty of light of which nothing is known, not even the angles.
UNKNOWN_LIGHT = 0.5

#: Share of ground in shadow of its own from which the light counts as grazing.
_GRAZING = 0.1
#: Relative error of the brightness scale from orbit to orbit.
_SCALE = 0.02
#: Spread (ln-sd) of the ratio of the phase function at 30° to that at other phases (degrees) among the three albedo
#: groups of Kouyama et al. (2016), about the largest of 750, 1064 and 1500 nm.
_PHASES = (0.0, 1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 60.0, 70.0, 80.0, 90.0, 100.0, 120.0)
_PHASE_SPREAD = (0.13, 0.11, 0.055, 0.028, 0.010, 0.0, 0.007, 0.010, 0.012, 0.015, 0.03, 0.05, 0.12)

#: Slopes along the Sun's azimuth that the spread is taken over.
_NODES = 49
_NAMES = ("light_uncertainty", "light_quality", "light_gain")
_ATTRS: dict[str, Any] = {
    "light_uncertainty": {
        "long_name": "standard deviation of the natural logarithm of the unknown gain of the light",
        "units": "1",
    },
    "local_incidence": {
        "long_name": "incidence angle on the ground as it is tilted",
        "units": "degree",
    },
    "local_emission": {
        "long_name": "emission angle on the ground as it is tilted",
        "units": "degree",
    },
    "light_gain": {
        "long_name": "gain of the light that the reflectance was divided by",
        "units": "1",
    },
    "light_quality": {
        "long_name": "what is wrong with the light, 0 where nothing is known to be",
        "units": "1",
        "flag_masks": np.array(list(LIGHT_FLAGS.values()), np.uint8),
        "flag_meanings": " ".join(LIGHT_FLAGS),
    },
}


@typed
def light_uncertainty(
    ds: xr.Dataset | xr.DataArray, *, slope_rms: float = SLOPE_RMS
) -> xr.DataArray:
    """Estimate how uncertain the light is under which spectra were taken.

    Reflectance that was normalised for flat ground holds the gain X(i', e') / X(i, e) of the disk function X where the
    ground is tilted: at 80° incidence slopes of 5° make it uncertain by a factor of 1.6. The result is its standard
    deviation in logarithms over normal slopes that are lit, with that of the phase function among albedo groups and
    that of the brightness scale (0.02).

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        With ``incidence`` (degrees), and ``emission`` and ``phase`` where they are known (else nadir view). Where it
        has a variable ``light_uncertainty``, that is the result.
    slope_rms : float, optional
        Standard deviation of slopes along one direction on the baseline of a footprint, degrees; 6 by default, of
        highlands (maria have about 2).

    Returns
    -------
    xarray.DataArray
        ``light_uncertainty``, float32, dimensions of ``incidence``, units 1; lazy where that is. NaN where the angles
        are missing or the Sun is below the horizon of flat ground.

    Raises
    ------
    InputError
        If there is no ``incidence``, or the slopes are none.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> import lunarray as la
    >>> ds = xr.Dataset(coords={"incidence": ("observation", np.array([30.0, 60.0, 80.0]))})
    >>> la.sp.light_uncertainty(ds).values.round(2)
    array([0.05, 0.16, 0.79], dtype=float32)
    """
    require_number("slope_rms", slope_rms, 0, 45)
    if not isinstance(ds, xr.Dataset | xr.DataArray):
        raise InputError(
            f"a {type(ds).__name__}",
            where="light_uncertainty",
            remedy="Give a Dataset or DataArray",
        )
    given = _beside(ds, "light_uncertainty")
    if given is not None:
        return typed(given)
    angles = _angles(ds, "light_uncertainty")
    values = _apply(_spread_block, angles, np.float32, slope=float(slope_rms))
    return typed(_array("light_uncertainty", values, angles[0]))


def has_geometry(ds: xr.Dataset | xr.DataArray) -> bool:
    """Whether there is an incidence angle, or an uncertainty of the light, for each spectrum."""
    return any(_beside(ds, name) is not None for name in ("incidence", "light_uncertainty"))


def with_light(ds: T, *, slope_rms: float = SLOPE_RMS) -> T:
    """The same spectra with ``light_uncertainty`` and ``light_quality`` beside them, as far as there are angles."""
    if isinstance(ds, xr.DataArray) and _beside(ds, "incidence") is None:
        return ds
    if not has_geometry(ds):
        return ds
    new: dict[str, xr.DataArray] = {}
    if _beside(ds, "light_uncertainty") is None:
        new["light_uncertainty"] = light_uncertainty(ds, slope_rms=slope_rms)
    if _beside(ds, "light_quality") is None and _beside(ds, "incidence") is not None:
        new["light_quality"] = light_quality(ds, slope_rms=slope_rms)
    return beside(ds, new)


def beside(ds: T, new: Mapping[str, xr.DataArray]) -> T:
    """Spectra with what is known of their light: coordinates where the angles are, variables else."""
    variables = {name: array.variable for name, array in new.items()}
    if isinstance(ds, xr.DataArray) or "incidence" in ds.coords:
        return typed(ds.assign_coords(variables))
    return typed(ds.assign(variables))


def light_quality(ds: xr.Dataset | xr.DataArray, *, slope_rms: float = SLOPE_RMS) -> xr.DataArray:
    """Flags `LIGHT_FLAGS` that follow from the angles alone, uint8."""
    angles = _angles(ds, "light_quality")
    values = _apply(_grazing_block, angles, np.uint8, slope=float(slope_rms))
    return _array("light_quality", values, angles[0])


def flagged(
    quality: xr.DataArray | None, like: xr.DataArray, flags: Mapping[str, Any]
) -> xr.DataArray:
    """Flags with others raised where masks (arrays as `like`) are true."""
    total: Any = np.uint8(0) if quality is None else quality.data
    for name, mask in flags.items():
        total = total | (mask * np.uint8(LIGHT_FLAGS[name])).astype(np.uint8)
    return _array("light_quality", total, like)


def light_of(spectra: xr.DataArray) -> str:
    """What the light of spectra was taken out by: "flat", "albedo" or "topography"."""
    return str(spectra.attrs.get("light", "flat"))


def _beside(ds: xr.Dataset | xr.DataArray, name: str) -> xr.DataArray | None:
    holder = ds.variables if isinstance(ds, xr.Dataset) else ds.coords
    return ds[name] if name in holder else None


def _angles(ds: xr.Dataset | xr.DataArray, step: str) -> list[xr.DataArray]:
    """Incidence, emission and phase; seen from above where it is not said."""
    incidence = _beside(ds, "incidence")
    if incidence is None:
        raise InputError(
            "no incidence angles beside the spectra",
            where=step,
            remedy="Give tracks as open_sp reads them, or assign incidence (degrees)",
        )
    emission, phase = _beside(ds, "emission"), _beside(ds, "phase")
    if emission is None:
        emission, phase = xr.zeros_like(incidence), incidence
    if phase is None:
        phase = incidence
    return [incidence, emission, phase]


def _apply(block: Any, angles: Iterable[xr.DataArray], dtype: Any, **options: Any) -> Any:
    first, *rest = (array.variable for array in angles)
    arrays = [first, *(array.transpose(*first.dims) for array in rest)]
    chunks = next((array.chunksizes for array in arrays if array.chunks), None)
    if chunks is not None:
        arrays = [array.chunk(chunks) for array in arrays]
    return xr.apply_ufunc(
        block, *arrays, kwargs=options, dask="parallelized", output_dtypes=[dtype]
    ).data


def described(name: str) -> dict[str, Any]:
    """Attributes of ``light_uncertainty`` or ``light_quality``."""
    return dict(_ATTRS[name])


def _array(name: str, values: Any, like: xr.DataArray) -> xr.DataArray:
    coords = {k: v for k, v in like.coords.items() if k not in _NAMES}
    return xr.DataArray(values, coords, like.dims, name, described(name))


def grazing(incidence: xr.DataArray, slope: xr.DataArray) -> xr.DataArray:
    """Where a tenth of slopes of such a spread (degrees) lies in shadow of its own."""
    return xr.apply_ufunc(
        lambda i, spread: _grazing_block(i, i, i, slope=spread),
        incidence,
        slope,
        dask="parallelized",
        output_dtypes=[np.uint8],
    )


def spread_of(
    incidence: np.ndarray, emission: np.ndarray, phase: np.ndarray, slope: float
) -> np.ndarray:
    """Uncertainty of the light at angles (degrees) of ground whose slopes vary by so much (degrees), float32."""
    return _spread_block(incidence, emission, phase, slope=slope)


def _spread_block(
    incidence: np.ndarray, emission: np.ndarray, phase: np.ndarray, *, slope: float
) -> np.ndarray:
    from lunarray.sp.light_kernels import gain_spread

    normal = np.linspace(-3.6, 3.6, _NODES)
    tangent = math.tan(math.radians(slope))
    # Across the Sun three slopes do: the gain hardly depends on them.
    across = tangent * math.sqrt(1.5) * np.array([-1.0, 0.0, 1.0])
    i, e, a = (np.asarray(v, np.float64) for v in (incidence, emission, phase))
    weight = np.exp(-0.5 * normal**2)
    spread = gain_spread(i.ravel(), e.ravel(), a.ravel(), tangent * normal, weight, across)
    other = np.interp(a, _PHASES, _PHASE_SPREAD)
    return np.sqrt(spread.reshape(i.shape) ** 2 + other**2 + _SCALE**2).astype(np.float32)


def _grazing_block(
    incidence: np.ndarray, emission: np.ndarray, phase: np.ndarray, *, slope: float | np.ndarray
) -> np.ndarray:
    from scipy.stats import norm

    grazing = np.asarray(incidence) > 90.0 + slope * norm.ppf(_GRAZING)
    return np.where(grazing, np.uint8(LIGHT_FLAGS["grazing_light"]), np.uint8(0))
