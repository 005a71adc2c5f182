"""CLASS and XSM together: the Sun that both agree on, and how far a Sun is from what XSM counted.

A joint fit minimises the sum of two statistics over composition and Sun. What XSM says of the Sun is a fit of its own
(:func:`lunarray.xrf.fit_solar`), and where its statistic is quadratic around its optimum it is, but for a constant, the
sum of squares of the Sun's modes in standard deviations. Those squares are what :func:`lunarray.xrf.fit_elements` adds
to the statistic of CLASS, so a fit with such a Sun is the joint fit. Two things are left out: changes of the flux by
less than half a per cent, which `fit_solar` drops, and what is beyond second order. :func:`sun_misfit` shows both: a
mode of one standard deviation raises the statistic of XSM by 1, less what abundances were known by before.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from lunarray.errors import InputError, require_number
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.xrf.frames import described, require_variables
from lunarray.xrf.nuisance import LINE_CHANGE
from lunarray.xrf.response import Response
from lunarray.xrf.solar import FIT_BAND, fold_matrix, net_counts

__all__ = ["joint_sun", "sun_misfit"]


@typed
def joint_sun(solar: xr.Dataset, fit: xr.Dataset) -> xr.Dataset:
    """Estimate the solar spectrum from CLASS itself, together with what was known of the Sun before.

    Parameters
    ----------
    solar : Dataset
        With ``flux_mode``, as :func:`lunarray.xrf.fit_elements` was given it: of :func:`lunarray.xrf.fit_solar` or
        :func:`lunarray.xrf.window_suns`; one for all, or with the times of `fit`.
    fit : Dataset
        Of :func:`lunarray.xrf.fit_elements`.

    Returns
    -------
    Dataset
        ``photon_flux`` (time, energy), float64, photons/s/cm²/keV; NaN where nothing was fitted. It is computed.

    Raises
    ------
    InputError
        If `solar` has no modes, or `fit` was made with others.

    Examples
    --------
    >>> from lunarray import simulate, xrf
    >>> from lunarray.xrf.joint import joint_sun
    >>> from lunarray.xrf.suns import sun_modes
    >>> sun, response = simulate.thermal_spectrum(1.2, 1e-5), simulate.class_response(1024)
    >>> frames = simulate.class_counts(xrf.HIGHLAND, simulate.class_orbit(frames=1), sun, response)
    >>> hotter = sun_modes(simulate.mistaken_sun(sun, 0.1))
    >>> fit = xrf.fit_elements(frames, hotter, response)
    >>> joint_sun(hotter, fit)["photon_flux"].dims
    ('time', 'energy')
    """
    require_variables(
        solar,
        ("photon_flux", "flux_mode", "energy_lo", "energy_hi"),
        "joint_sun",
        "Give a Sun with modes",
    )
    require_variables(
        fit, ("nuisance", "nuisance_name"), "joint_sun", "Give what fit_elements gives"
    )
    names = [str(name) for name in fit["nuisance_name"].values]
    wanted = [f"sun:{name}" for name in solar["mode"].values]
    if missing := [name for name in wanted if name not in names]:
        raise InputError(
            f"the fit has no {', '.join(missing)}",
            where="fit",
            remedy="Give the Sun that it was made with",
        )
    z = np.asarray(fit["nuisance"].values, "f8")[:, [names.index(name) for name in wanted]]
    flux, modes = solar["photon_flux"], solar["flux_mode"]
    over_time = "time" in flux.dims
    if "model" in flux.dims or (over_time and not np.array_equal(solar["time"], fit["time"])):
        raise InputError(
            "its rows are not those of the fit", where="solar", remedy="Give the Sun of each window"
        )
    base = np.asarray(flux.values, "f8")
    base = np.broadcast_to(base, (len(z), base.shape[-1]))
    order = ("mode", "time", "energy") if over_time else ("mode", "energy")
    change = np.asarray(modes.transpose(*order).values, "f8")
    change = change if over_time else change[:, None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(base > 0, change / base, 0.0)
    # As the fit does it: what changes a flux smoothly multiplies it, lines are added.
    low, high = (np.asarray(solar[k].values, "f8") for k in ("energy_lo", "energy_hi"))
    seen = (low > 0.8) & (high < 8.0)
    line = np.abs(share[..., seen]).max(axis=2, initial=0.0)[..., None] > LINE_CHANGE
    smooth = np.einsum("tm,mte->te", z, np.where(line, 0.0, np.clip(share, -2.0, 2.0)) + 0.0 * base)
    lines = np.einsum("tm,mte->te", z, np.where(line, share, 0.0) + 0.0 * base)
    found = base * np.exp(smooth) * np.maximum(1.0 + lines, 0.02)
    out = solar.drop_vars(["flux_mode", "mode", "photon_flux"], errors="ignore")
    out = out.drop_dims([d for d in out.dims if d not in ("time", "energy")])
    out = out.assign(photon_flux=(("time", "energy"), found, flux.attrs))
    return stamp(out.assign_coords(time=fit["time"]), "joint_sun", source=fit.attrs.get("source"))


@typed
def sun_misfit(
    solar: xr.Dataset,
    spectrum: xr.Dataset,
    response: Response,
    *,
    band: tuple[float, float] = FIT_BAND,
    systematic: float = 0.03,
) -> xr.DataArray:
    """Measure how far solar spectra are from one of XSM.

    Parameters
    ----------
    solar : Dataset
        ``photon_flux`` (..., energy), photons/s/cm²/keV, with ``energy_lo`` and ``energy_hi``.
    spectrum : Dataset
        Of :func:`lunarray.xrf.xsm.read_xsm_spectrum`, one spectrum.
    response : Response
        Of XSM.
    band : tuple of float
        Energies that count (keV).
    systematic : float
        As of :func:`lunarray.xrf.fit_solar`.

    Returns
    -------
    DataArray
        χ² of each Sun, float64; a level that is the same in all channels, of particles, is fitted along.

    Raises
    ------
    InputError
        If `solar` has no flux, or spectrum and response do not fit together.

    Examples
    --------
    >>> from lunarray import simulate
    >>> from lunarray.xrf.joint import sun_misfit
    >>> from lunarray.xrf.xsm_response import xsm_response
    >>> response, sun = xsm_response(), simulate.thermal_spectrum(1.0, 1e-6)
    >>> counts = response.fold(sun["photon_flux"].values[:2000] * 0.01) * 16.0
    >>> spectrum = xr.Dataset({"counts": ("channel", counts), "exposure": 16.0,
    ...                        "stat_error": ("channel", counts**0.5), "sys_error": ("channel", 0 * counts)})
    >>> bool(sun_misfit(sun, spectrum, response) < 1.0)
    True
    """
    require_number("systematic", systematic, 0)
    require_variables(
        solar, ("photon_flux", "energy_lo", "energy_hi"), "sun_misfit", "Give a solar spectrum"
    )
    require_variables(spectrum, ("counts", "exposure"), "sun_misfit", "Give a spectrum of XSM")
    if spectrum["counts"].dims != ("channel",) or spectrum.sizes["channel"] != response.channels:
        raise InputError(
            f"counts of {dict(spectrum['counts'].sizes)} for {response.channels} channels",
            where="sun_misfit",
            remedy="Give one spectrum, and the response of its channels",
        )
    counts, variance = net_counts(spectrum, None, systematic)
    energy = response.channel_energy()
    inside = (energy >= band[0]) & (energy < band[1]) & np.isfinite(counts)
    low, high = (np.asarray(solar[k].values, "f8") for k in ("energy_lo", "energy_hi"))
    matrix = fold_matrix(response, np.append(low, high[-1]))[:, inside]
    dims = [d for d in solar["photon_flux"].dims if d != "energy"]
    flux = np.asarray(solar["photon_flux"].transpose(*dims, "energy").values, "f8")
    model = (flux * (high - low)) @ matrix * float(spectrum["exposure"])
    weight = 1.0 / variance[inside]
    apart = counts[inside] - model
    level = (apart * weight).sum(-1, keepdims=True) / weight.sum()
    chi2 = ((apart - level) ** 2 * weight).sum(-1)
    coords = {d: solar[d] for d in dims if d in solar.coords}
    dims_, values, attrs = described(dims, chi2, "1", "chi-square beside the spectrum of XSM")
    return xr.DataArray(values, coords, dims_, "sun_misfit", attrs)
