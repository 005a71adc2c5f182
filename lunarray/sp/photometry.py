"""Photometric normalisation with the SP model of lunar reflectance."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import BandMismatchError, InputError, ProductFormatError
from lunarray.readers import reads
from lunarray.sp.spectra import T, rebuild, spectra_of
from lunarray.store.provenance import stamp
from lunarray.typing import typed

__all__ = ["normalize_photometry", "radiance_factor", "read_photometric_parameters"]

_REMEDY = "Give one of the *_albedo_sel.txt of Kouyama et al. (2016)"
_COLUMNS = ("b0", "b0_std", "h", "h_std", "c", "c_std", "g", "g_std", "mean")
_LONG_NAMES = {
    "b0": "amplitude of the opposition effect",
    "h": "width of the opposition effect",
    "c": "share of forward and backward lobe",
    "g": "asymmetry of the lobes",
    "mean": "mean reflectance of the albedo group at 30/0/30 degrees",
}
#: Lunar-Lambert mixing as a polynomial of the phase angle in degrees (McEwen 1996).
LIMB = (1.0, -0.019, 0.242e-3, -1.46e-6)
#: Less gain than this against flat ground is that of light scattered into shadow.
LEAST_GAIN = 0.02


@typed
@reads
def read_photometric_parameters(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a table of SP photometric parameters (``High_albedo_sel.txt``, ``Mid_...``, ``Low_...`` of Kouyama et
    al. 2016).

    Parameters
    ----------
    path : path
        Text with one comment line and eleven columns: channel, wavelength (nm), b0, its uncertainty, h, its
        uncertainty, c, its uncertainty, g, its uncertainty, mean reflectance.

    Returns
    -------
    xarray.Dataset
        ``b0, h, c, g``, their ``*_std``, and ``mean`` over ``wavelength`` (nm), float64. Zero uncertainties and
        means, which the table has at an interpolated channel, are NaN.

    Raises
    ------
    InputError
        If there is no such file.
    ProductFormatError
        If it is not such a table.

    References
    ----------
    Kouyama, T., et al., 2016. Development of an application scheme for the SELENE/SP lunar reflectance model for
    radiometric calibration of hyperspectral and multispectral sensors. Planetary and Space Science 124, 76-83.

    Examples
    --------
    >>> import lunarray as la
    >>> parameters = la.sp.read_photometric_parameters("High_albedo_sel.txt")  # doctest: +SKIP
    """
    path = os.path.expanduser(os.fspath(path))
    try:
        table = np.loadtxt(path, comments="#", ndmin=2)
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror or error})", where=path, remedy="Check the path"
        ) from error
    except ValueError as error:
        raise ProductFormatError(
            f"not a table of numbers ({error})", where=path, remedy=_REMEDY
        ) from error
    if table.shape[1] != 11 or table.shape[0] < 2 or np.any(np.diff(table[:, 1]) <= 0):
        what = "not eleven columns with rising wavelengths in the second"
        raise ProductFormatError(f"{what} ({table.shape[1]} columns)", where=path, remedy=_REMEDY)
    variables: dict[str, Any] = {}
    for i, name in enumerate(_COLUMNS):
        values = table[:, 2 + i].copy()
        if name.endswith("_std") or name == "mean":
            values[values == 0] = np.nan
        long_name = _LONG_NAMES.get(name, f"uncertainty of {name.removesuffix('_std')}")
        variables[name] = ("wavelength", values, {"units": "1", "long_name": long_name})
    coords = {"wavelength": ("wavelength", table[:, 1], {"units": "nm", "long_name": "wavelength"})}
    return xr.Dataset(variables, coords, {"source": os.path.basename(path)})


def lunar_lambert(incidence: Any, emission: Any, phase: Any) -> Any:
    """Lunar-Lambert disk function of McEwen (1996) with the mixing used by Yokota et al. (2011); angles in degrees."""
    mu0 = np.cos(np.deg2rad(incidence))
    mu = np.cos(np.deg2rad(emission))
    c0, c1, c2, c3 = LIMB
    limb = np.maximum(c0 + phase * (c1 + phase * (c2 + phase * c3)), 0.0)
    return 2.0 * limb * mu0 / (mu0 + mu) + (1.0 - limb) * mu0


def phase_function(phase: Any, b0: Any, h: Any, c: Any, g: Any) -> Any:
    """Phase function (1 + B) P of the SP model: opposition effect and two Henyey-Greenstein lobes; phase in degrees."""
    alpha = np.deg2rad(phase)
    cosine = np.cos(alpha)
    opposition = b0 / (1.0 + np.tan(alpha / 2.0) / h)
    back = (1.0 - g**2) / (1.0 + g**2 - 2.0 * g * cosine) ** 1.5
    forward = (1.0 - g**2) / (1.0 + g**2 + 2.0 * g * cosine) ** 1.5
    return (1.0 + opposition) * (0.5 * (1.0 - c) * back + 0.5 * (1.0 + c) * forward)


def normalize_photometry(
    ds: T,
    parameters: xr.Dataset,
    geometry: tuple[float, float, float] = (30.0, 0.0, 30.0),
    *,
    observed: tuple[float, float, float] | None = None,
) -> T:
    """Normalise reflectance from the geometry of observation to a standard one by the photometric model of SP.

    The spectra are multiplied by X(geometry) f(geometry) / (X(observed) f(observed)), with the disk function X of
    McEwen (1996), 2 L(a) cos i / (cos i + cos e) + (1 - L(a)) cos i, and the phase function f = (1 + b0 / (1 +
    tan(a/2) / h)) P(a; c, g).

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Reflectance with ``wavelength``, and ``incidence``, ``emission``, ``phase`` (degrees) as coordinates (or
        variables), unless `observed` is given.
    parameters : xarray.Dataset
        ``b0, h, c, g`` over ``wavelength``, as by `read_photometric_parameters`; interpolated to the spectra's
        channels.
    geometry : (float, float, float)
        Incidence, emission and phase angle (degrees) of the result.
    observed : (float, float, float), optional
        Geometry that the reflectance has now. By default that which its attribute ``photometric_geometry`` names
        (Level 2C reflectance REF1 and REF2 is normalised to 30/0/30 already), and without the attribute the angles
        of each footprint.

    Returns
    -------
    same as `ds`
        ``attrs["photometric_geometry"]`` says what it refers to. NaN where an angle is missing or the Sun or the
        spacecraft below the horizon.

    Raises
    ------
    InputError
        If the angles are missing, or the reflectance has the geometry asked for already.
    BandMismatchError
        If the parameters do not cover the spectra's wavelengths.

    References
    ----------
    Yokota, Y., et al., 2011. Lunar photometric properties at wavelengths 0.5-1.6 um acquired by SELENE Spectral
    Profiler and their dependency on local albedo and latitudinal zones. Icarus 215, 639-660. Kouyama, T., et al.,
    2016. Planetary and Space Science 124, 76-83 (and the authors' program lunar_map_plot.pro). McEwen, A. S., 1996.
    A precise lunar photometric function. Lunar and Planetary Science 27, 841.

    Examples
    --------
    >>> import lunarray as la
    >>> spectra = la.sample("sp_orbit").lunar.condition()
    >>> parameters = la.sp.read_photometric_parameters("High_albedo_sel.txt")  # doctest: +SKIP
    >>> spectra.lunar.normalize_photometry(parameters)  # doctest: +SKIP
    """
    step = "normalize_photometry"
    spectra = spectra_of(ds, step)
    incidence, emission, phase = _check_angles(geometry, "geometry")
    model = model_of(spectra, parameters, step)
    stated = spectra.attrs.get("photometric_geometry")
    now = " ".join(f"{v:g}" for v in (incidence, emission, phase))
    if observed is None and stated == now:
        raise InputError(
            f"the reflectance is normalised to {now} degrees already",
            where=step,
            remedy="Ask for another geometry, or give the present one as observed=(i, e, phase)",
        )
    if observed is None and stated is not None:
        i, e, a = (float(v) for v in stated.split())
        observed = (i, e, a)

    standard = lunar_lambert(incidence, emission, phase) * phase_function(phase, **model)
    if observed is not None:
        i, e, a = _check_angles(observed, "observed")
        factor = standard / (lunar_lambert(i, e, a) * phase_function(a, **model))
        data = (spectra.variable * _along_wavelength(factor.astype(np.float32))).data
    else:
        data = _normalize_each(spectra, standard, model)
    result = rebuild(ds, spectra, data, None, f"normalize_photometry({now} degrees)")
    array = result["reflectance"] if hasattr(result, "data_vars") else result
    array.attrs["photometric_geometry"] = now
    array.attrs["comment"] = "incidence, emission, phase (degrees) that the reflectance refers to"
    return result


@typed
def radiance_factor(
    ds: xr.Dataset, solar_flux: xr.DataArray, *, distance: float | xr.DataArray = 1.0
) -> xr.Dataset:
    """Compute the radiance factor (I/F): pi times the radiance over the flux of the Sun.

    Parameters
    ----------
    ds : xarray.Dataset
        With ``radiance`` (W m-2 um-1 sr-1) over ``wavelength`` (nm).
    solar_flux : xarray.DataArray
        Flux of the Sun at 1 au (W m-2 um-1) over ``wavelength`` (nm); interpolated to the channels, for which it should
        have their resolution.
    distance : float or DataArray
        From the Sun, au.

    Returns
    -------
    xarray.Dataset
        The same with ``reflectance`` as the radiance factor at the angles of the observation, float32.

    Raises
    ------
    InputError
        If there is no radiance, or the flux or the distance is none.
    BandMismatchError
        If the flux does not cover the wavelengths.

    Examples
    --------
    >>> import lunarray as la
    >>> import xarray as xr
    >>> sp = la.sample("sp_orbit")
    >>> bands, units = {"wavelength": [500.0, 2600.0]}, {"units": "W m-2 um-1"}
    >>> flux = xr.DataArray([1800.0, 300.0], bands, attrs=units)
    >>> la.sp.radiance_factor(sp, flux)["reflectance"].shape
    (240, 296)
    """
    step = "radiance_factor"
    if not isinstance(ds, xr.Dataset) or "radiance" not in ds:
        raise InputError(
            "no variable 'radiance'",
            where=step,
            remedy="Give tracks as lunarray.open_sp opens them",
        )
    if not isinstance(solar_flux, xr.DataArray) or solar_flux.dims != ("wavelength",):
        raise InputError(
            "solar_flux is no DataArray over wavelength",
            where=step,
            remedy="Give W m-2 um-1 with the coordinate wavelength (nm)",
        )
    flux = solar_flux.sortby("wavelength")
    source = np.asarray(flux["wavelength"].values, np.float64)
    target = np.asarray(ds["wavelength"].values, np.float64)
    if not source.size or target.min() < source[0] - 0.05 or target.max() > source[-1] + 0.05:
        raise BandMismatchError(
            f"the solar flux does not cover {target.min():.1f}-{target.max():.1f} nm",
            where=step,
            remedy="Leave out channels, or give a solar spectrum that does",
        )
    values = np.interp(target, source, np.asarray(flux.values, np.float64))
    if not np.all(values > 0) or not np.all(np.asarray(distance) > 0):
        raise InputError(
            "a solar flux or distance of none", where=step, remedy="Give positive ones"
        )
    factor = xr.DataArray(np.pi / values, dims="wavelength") * distance**2
    radiance = ds["radiance"]
    data = (radiance * factor).transpose(*radiance.dims).astype(np.float32)
    attrs = {"units": "1", "long_name": "radiance factor (I/F) at the angles of observation"}
    return stamp(ds.assign(reflectance=data.assign_attrs(attrs)), step, variables=["reflectance"])


def model_of(spectra: xr.DataArray, parameters: xr.Dataset, step: str) -> dict[str, np.ndarray]:
    """Parameters of the phase function at the channels of spectra; errors as of `normalize_photometry`."""
    missing = [n for n in ("b0", "h", "c", "g") if n not in parameters]
    if missing:
        raise InputError(
            f"the parameters have no {', '.join(missing)}",
            where=step,
            remedy="Give what lunarray.sp.read_photometric_parameters returns",
        )
    source = parameters["wavelength"].values.astype(np.float64)
    target = spectra["wavelength"].values.astype(np.float64)
    if target.size and (target.min() < source[0] - 0.05 or target.max() > source[-1] + 0.05):
        raise BandMismatchError(
            f"the spectra have wavelengths {target.min():.1f}-{target.max():.1f} nm, "
            f"the parameters {source[0]:.1f}-{source[-1]:.1f} nm",
            where=step,
            remedy="Join the detectors or resample the spectra to that range first",
        )
    return {n: np.interp(target, source, parameters[n].values) for n in ("b0", "h", "c", "g")}


def _along_wavelength(values: np.ndarray) -> xr.Variable:
    return xr.Variable("wavelength", values)


def _normalize_each(
    spectra: xr.DataArray, standard: np.ndarray, model: dict[str, np.ndarray]
) -> Any:
    """Spectra brought from the angles of each footprint to those that `standard` is of."""
    names = ("incidence", "emission", "phase")
    absent = [n for n in names if n not in spectra.coords]
    if absent:
        raise InputError(
            f"no coordinates {', '.join(absent)}",
            where="normalize_photometry",
            remedy="Give observed=(incidence, emission, phase), or the angles as coordinates",
        )
    return xr.apply_ufunc(
        _normalize_block,
        spectra.variable,
        *(spectra[n].variable for n in names),
        *map(_along_wavelength, (standard, *(model[n] for n in ("b0", "h", "c", "g")))),
        dask="parallelized",
        output_dtypes=[np.float32],
    ).data


def _normalize_block(
    block: np.ndarray,
    incidence: np.ndarray,
    emission: np.ndarray,
    phase: np.ndarray,
    standard: np.ndarray,
    *model: np.ndarray,
) -> np.ndarray:
    """A block of spectra; everything else broadcasts to it."""
    lit = (incidence < 90.0) & (emission < 90.0)
    i, e, a = (np.where(lit, x, np.nan).astype(np.float64) for x in (incidence, emission, phase))
    observed = lunar_lambert(i, e, a) * phase_function(a, *model)
    return (block * (standard / observed)).astype(np.float32)


def _check_angles(angles: tuple[float, float, float], name: str) -> tuple[float, float, float]:
    try:
        i, e, a = (float(v) for v in angles)
    except (TypeError, ValueError):
        i = e = a = np.nan
    possible = 0 <= i < 90 and 0 <= e < 90 and abs(i - e) - 1e-6 <= a <= i + e + 1e-6
    if not possible:
        raise InputError(
            f"{name}={angles!r} is no geometry of a lit and visible surface",
            where="normalize_photometry",
            remedy="Give (incidence, emission, phase) in degrees, phase between |i - e| and i + e",
        )
    return i, e, a
