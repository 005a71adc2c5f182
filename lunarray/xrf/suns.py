"""How wrong a Sun may be, as changes of its spectrum that fits and errors can take up."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, require_number
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.xrf.frames import require_variables

if TYPE_CHECKING:
    from lunarray.xrf.plasma import PlasmaTable

__all__ = ["sun_modes"]

#: Energies (keV) over which a continuum tells its temperature, and those of the GOES band, 1-8 Å.
_SLOPE_BAND = (2.0, 6.0)
_GOES_BAND = (1.5498, 12.3984)
#: Abundances of flares, of Feldman's coronal ones (medians of 40 days of XSM); others as silicon.
ABUNDANCES = MappingProxyType(
    {"Mg": 0.33, "Si": 0.42, "S": 0.49, "Ar": 0.56, "Ca": 0.71, "Fe": 0.46}
)
#: Plasma that a flare has beside that of its mean temperature: at how many times that, and its share of the emission
#: measure, up to which there may be more or less. Hotter than the mean by half to twice is what the XSM spectrum of
#: 2021-08-27 asks for; a few per cent at twice the temperature are usual (Caspi et al., 2014, ApJ 781, 43).
MIXTURE: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"hotter plasma": (2.0, 0.05), "cooler plasma": (0.5, 0.5)}
)
#: Temperatures (keV) that the solar corona has, from quiet to the hottest flare.
_TEMPERATURES = (0.1, 5.0)


@typed
def sun_modes(
    solar: xr.Dataset, *, temperature_error: float = 0.1, emission_error: float = 0.1
) -> xr.Dataset:
    """Describe how wrong a solar spectrum may be when only the relative error of its temperature is known.

    Parameters
    ----------
    solar : Dataset
        With ``photon_flux`` (energy), (model, energy) or (time, energy), photons/s/cm²/keV.
    temperature_error : float
        Standard deviation of the temperature, as a share of it.
    emission_error : float
        Standard deviation of the emission measure, as a share of it.

    Returns
    -------
    Dataset
        `solar` with ``flux_mode`` (mode, ..., energy), float64, in the unit of the flux: how the flux changes for one
        standard deviation of each of two independent errors, ``mode`` being "temperature" and "emission_measure". The
        change of temperature leaves the energy flux at 1-8 Å as it is, for that is how a Sun is scaled. Modes that
        `solar` has already are replaced. ``slope_temperature`` (keV) is what the continuum's slope at 2-6 keV says.

    Raises
    ------
    InputError
        If there is no flux, or an error is negative.

    Examples
    --------
    >>> from lunarray.simulate import thermal_spectrum
    >>> from lunarray.xrf.suns import sun_modes
    >>> sun = sun_modes(thermal_spectrum(1.2), temperature_error=0.2)
    >>> sun["flux_mode"].sizes["mode"], round(float(sun["slope_temperature"]), 2)
    (2, 1.2)
    """
    require_variables(
        solar, ("photon_flux", "energy_lo", "energy_hi"), "sun_modes", "Give a solar spectrum"
    )
    require_number("temperature_error", temperature_error, 0)
    require_number("emission_error", emission_error, 0)
    low, high = (np.asarray(solar[key].values, "f8") for key in ("energy_lo", "energy_hi"))
    dims = [d for d in solar["photon_flux"].dims if d != "energy"]
    flux = solar["photon_flux"].transpose(*dims, "energy")
    values = np.asarray(flux.values, "f8")
    rows = np.atleast_2d(values)
    kt = np.array([continuum_temperature((low + high) / 2, row) for row in rows])
    hotter = temperature_error * temperature_change(low, high, rows, kt)
    modes = np.stack([hotter, emission_error * rows]).reshape(2, *values.shape)
    return stamp(
        attach_modes(solar, ("temperature", "emission_measure"), modes).assign(
            slope_temperature=(
                dims,
                kt.reshape(values.shape[:-1]),
                {"units": "keV", "long_name": "temperature of the continuum's slope"},
            )
        ),
        f"sun_modes({temperature_error:g}, {emission_error:g})",
        source=solar.attrs.get("source"),
    )


def attach_modes(solar: xr.Dataset, names: Any, modes: np.ndarray) -> xr.Dataset:
    """`solar` with ``flux_mode``: `modes` (mode, ..., energy), in the order of the dimensions of its flux."""
    dims = [d for d in solar["photon_flux"].dims if d != "energy"]
    attrs = {
        **solar["photon_flux"].attrs,
        "long_name": "change of the solar photon flux for one standard deviation",
    }
    solar = solar.drop_vars(["flux_mode", "mode"], errors="ignore")
    return solar.assign(flux_mode=(("mode", *dims, "energy"), modes, attrs)).assign_coords(
        mode=("mode", np.array(names, object), {"long_name": "what may be wrong with the Sun"})
    )


def continuum_temperature(energy: np.ndarray, flux: np.ndarray) -> float:
    """Temperature (keV) whose bremsstrahlung falls off between 2 and 6 keV as a spectrum does."""
    inside = (energy >= _SLOPE_BAND[0]) & (energy <= _SLOPE_BAND[1]) & (flux > 0)
    if inside.sum() < 3:
        raise InputError(
            "no flux at 2-6 keV",
            where="sun_modes",
            remedy="Give a solar spectrum that reaches 6 keV",
        )
    # Free-free photons, with a Gaunt factor of (kT/E)^0.4 (Dennis, 1985): E^-1.4 exp(-E/kT).
    # The lower half of narrow bins: lines stand out above the continuum.
    x, y = energy[inside], np.log(flux[inside] * energy[inside] ** 1.4)
    for _ in range(4):
        slope, offset = np.polyfit(x, y, 1)
        above = y - (slope * x + offset)
        keep = above <= max(2.5 * np.median(np.abs(above)), 1e-9)
        if keep.all() or keep.sum() < 3:
            break
        x, y = x[keep], y[keep]
    return float(np.clip(-1.0 / min(slope, -1e-3), *_TEMPERATURES))


def heated(solar: xr.Dataset, share: float) -> xr.DataArray:
    """The flux of a Sun hotter by a share of its temperature, with the energy flux at 1-8 Å that it had."""
    low, high = (np.asarray(solar[key].values, "f8") for key in ("energy_lo", "energy_hi"))
    middle, true = (low + high) / 2, solar["photon_flux"]
    dims = [d for d in true.dims if d != "energy"]
    rows = np.asarray(true.transpose(*dims, "energy").values, "f8")
    flat = rows.reshape(-1, middle.size)
    kt = np.array([continuum_temperature(middle, row) for row in flat])[:, None]
    out = flat * np.exp(middle / kt * (share / (1.0 + share)))
    power = (np.clip(high, *_GOES_BAND) ** 2 - np.clip(low, *_GOES_BAND) ** 2) / 2
    out *= (flat @ power / np.maximum(out @ power, 1e-300))[:, None]
    return true.transpose(*dims, "energy").copy(data=out.reshape(rows.shape))


def temperature_change(
    low: np.ndarray, high: np.ndarray, flux: np.ndarray, temperature: np.ndarray
) -> np.ndarray:
    """d flux / d ln T of bremsstrahlung at a constant energy flux at 1-8 Å, (..., energy)."""
    middle = (low + high) / 2
    begin, end = np.clip(low, *_GOES_BAND), np.clip(high, *_GOES_BAND)
    power = flux * (end**2 - begin**2) / 2
    change = middle / np.asarray(temperature)[..., None]
    mean = np.sum(power * change, -1, keepdims=True) / np.maximum(
        np.sum(power, -1, keepdims=True), 1e-300
    )
    return flux * (change - mean)


def flare_photons(plasma: PlasmaTable, temperature: float) -> np.ndarray:
    """Photons/s/cm² in each bin of a plasma with the abundances of flares, for XSPEC's norm of 1; kT in keV."""
    abundance = [ABUNDANCES.get(name, ABUNDANCES["Si"]) for name in plasma.elements[1:]]
    grid = plasma.temperature
    return np.array([1.0, *abundance]) @ plasma.at(float(np.clip(temperature, grid[0], grid[-1])))


def mixture_changes(plasma: PlasmaTable, temperature: float, measure: float) -> np.ndarray:
    """Photons/s/cm² in each bin that plasma of other temperatures adds to one of a mean temperature, (kind, energy).

    `measure`: emission measure of the whole, in XSPEC's norm. The kinds are those of `MIXTURE`.
    """
    return np.stack(
        [
            share * measure * flare_photons(plasma, factor * temperature)
            for factor, share in MIXTURE.values()
        ]
    )
