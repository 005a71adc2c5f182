"""Random soils with known oxides, and what the Spectral Profiler makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lunarray.errors import InputError, require_number
from lunarray.oxides.constants import OXIDES
from lunarray.simulate import instrument, kernels, priors
from lunarray.simulate.minerals import MINERALS
from lunarray.sp.bands import WAVELENGTHS_150
from lunarray.typing import typed
from lunarray.units import WEIGHT

if TYPE_CHECKING:
    import xarray as xr

#: Standard deviations of SP's relative errors. Gain, slope and curvature: what instruments at the Moon differ by
#: after their scales have been matched (Ohtake et al. 2013; Pieters et al. 2013). Broad, step, pattern and noise:
#: of the size of what is left of SP spectra after a smooth curve is taken off, see the model card.
SP_ERRORS = {
    "gain": 0.06,
    "slope": 0.03,
    "curvature": 0.015,
    "broad": 0.006,
    "step": 0.010,
    "pattern": 0.006,
    "noise": 0.004,
}
#: Wavelengths (nm) between which the constants hold: of iron from 413 nm on, of the absorption bands to 1800 nm.
SHORTEST, LONGEST = 410.0, 1800.0
#: Window (nm) and degree of the smoothing of :func:`lunarray.sp.condition`.
SMOOTHING = (50.0, 2)


@typed
def soils(
    n: int, seed: int, wavelengths: np.ndarray | None = None, fwhm: np.ndarray | None = None
) -> xr.Dataset:
    """Simulate random lunar soils: their error-free reflectance, oxides and minerals.

    Parameters
    ----------
    n : int
        Number of soils.
    seed : int
        The same seed gives the same soils.
    wavelengths : array-like, shape (wavelength,), optional
        Channel centres in nm; :data:`lunarray.sp.WAVELENGTHS_150` by default.
    fwhm : array-like, shape (wavelength,), optional
        Full widths of the channels at half maximum, nm; SP's by default.

    Returns
    -------
    xarray.Dataset
        ``reflectance`` (sample, wavelength) at 30°/0°/30° as a laboratory would measure it, the six oxides (sample)
        in wt%, ``modes`` (sample, mineral) as weight fractions, and the other parameters of
        :func:`lunarray.simulate.mix_reflectance` by name; float32.

    Raises
    ------
    InputError
        ``n`` is not positive, or wavelengths beyond 410-1800 nm. Below 450 nm the ultraviolet wings are extrapolated.

    See Also
    --------
    add_sp_errors : SP's scale, errors and smoothing.

    Examples
    --------
    >>> import lunarray as la
    >>> la.simulate.soils(10, seed=1)["reflectance"].shape
    (10, 150)
    """
    import xarray as xr

    require_number("n", n, 1, whole=True)
    nm = np.asarray(WAVELENGTHS_150 if wavelengths is None else wavelengths, np.float32).reshape(-1)
    if nm.size == 0 or nm.min() < SHORTEST or nm.max() > LONGEST:
        raise InputError(
            f"wavelengths beyond {SHORTEST:g}-{LONGEST:g} nm",
            where="wavelengths",
            remedy="Give nm within the range of the absorption bands' constants",
        )
    widths = instrument.sp_fwhm(nm) if fwhm is None else np.asarray(fwhm, np.float64).reshape(-1)
    if widths.shape != nm.shape or not (widths > 0).all():
        raise InputError(
            f"{widths.size} widths for {nm.size} channels",
            where="fwhm",
            remedy="Give one positive width (nm) for each channel",
        )
    drawn = priors.draw_soils(int(n), np.random.default_rng(seed))
    parameters = {
        k: drawn[k] for k in ("anorthite", "mg_number", "wollastonite", "plagioclase_feo")
    }
    weathering = {k: drawn[k] for k in ("glass", "smfe", "opaque_iron", "grain_size")}
    oxides = kernels.oxide_abundances(drawn["modes"], **parameters)
    reflectance = sampled_reflectance(drawn["modes"], nm, widths, **parameters, **weathering)

    def variable(values: np.ndarray, long_name: str, units: str) -> tuple:
        return ("sample", values, {"long_name": long_name, "units": units})

    result = xr.Dataset(
        {
            "reflectance": (
                ("sample", "wavelength"),
                reflectance,
                {"long_name": "bidirectional reflectance at 30°/0°/30°", "units": "1"},
            ),
            **{o: variable(oxides[:, i], f"{o} abundance", WEIGHT) for i, o in enumerate(OXIDES)},
            "modes": (
                ("sample", "mineral"),
                drawn["modes"],
                {"long_name": "weight fraction of the crystallised soil", "units": "1"},
            ),
            "anorthite": variable(drawn["anorthite"], "An of plagioclase", "mol%"),
            "mg_number": variable(drawn["mg_number"], "Mg# of mafic minerals", "mol%"),
            "wollastonite": variable(drawn["wollastonite"], "Wo of clinopyroxene", "mol%"),
            "plagioclase_feo": variable(drawn["plagioclase_feo"], "FeO in plagioclase", WEIGHT),
            "glass": variable(drawn["glass"], "weight fraction of glass and agglutinates", "1"),
            "smfe": variable(drawn["smfe"], "submicroscopic iron", WEIGHT),
            "opaque_iron": variable(drawn["opaque_iron"], "opaque share of cross section", "1"),
            "grain_size": variable(drawn["grain_size"], "effective grain diameter", "um"),
            "maturity": variable(drawn["maturity"], "maturity", "1"),
            "terrain": (
                "sample",
                drawn["terrain"],
                {
                    "long_name": "main terrain",
                    "flag_values": np.arange(len(priors.TERRAINS), dtype=np.int8),
                    "flag_meanings": " ".join(t.replace(" ", "_") for t in priors.TERRAINS),
                },
            ),
        },
        coords={
            "wavelength": ("wavelength", nm, {"long_name": "wavelength", "units": "nm"}),
            "mineral": ("mineral", list(MINERALS)),
        },
    )
    result.attrs["source"] = f"lunarray.simulate.soils(n={n}, seed={seed})"
    return result


def sampled_reflectance(
    modes: np.ndarray, nm: np.ndarray, fwhm: np.ndarray, **parameters: np.ndarray
) -> np.ndarray:
    """:func:`lunarray.simulate.mix_reflectance` seen through channels, shape (sample, bands), float32."""
    margin = max(12.0, 1.4 * fwhm.max())
    fine = np.arange(nm.min() - margin, nm.max() + margin + 2.5, 2.5)
    first, weights = instrument.band_weights(nm, fine, fwhm)
    out = np.empty((len(modes), nm.size), np.float32)
    # Some at a time: the fine spectra are never all in memory.
    for start in range(0, len(modes), 1024):
        part = slice(start, start + 1024)
        spectra = kernels.mix_reflectance(
            modes[part], fine, **{k: v[part] for k, v in parameters.items()}
        )
        out[part] = instrument.weighted_windows(spectra, first, weights)
    return out


def smoothed(values: np.ndarray, nm: np.ndarray) -> np.ndarray:
    """Spectra (sample, bands) without gaps, smoothed as :func:`lunarray.sp.condition` does by default."""
    first, weights = instrument.smoothing_weights(nm, *SMOOTHING)
    return instrument.weighted_windows(values, first, weights)


@typed
def add_sp_errors(
    reflectance: xr.DataArray,
    seed: int,
    *,
    scale: float | np.ndarray = 1.0,
    smooth: bool = True,
    common_pattern: bool = False,
    **errors: float,
) -> xr.DataArray:
    """Turn laboratory spectra into what SP would report.

    Radiometric scale, calibration errors, noise, and the smoothing of conditioned data.

    Parameters
    ----------
    reflectance : xarray.DataArray, dims (sample, wavelength)
        Laboratory reflectance, held in memory.
    seed : int
        The same seed gives the same errors.
    scale : float or ndarray, shape (sample,), optional
        1 for SP's radiometric scale, 0 for the laboratory's, between for between.
    smooth : bool, optional
        Smooth as :func:`lunarray.sp.condition` does.
    common_pattern : bool, optional
        Whether all spectra share slope, curvature, broad errors, step and channel pattern, as within one
        calibration, or each has its own, as a training set should.
    **errors : float
        Standard deviations of relative errors, by default those of ``SP_ERRORS``: ``gain`` (a factor per spectrum),
        ``slope`` (linear, at the ends of the range), ``curvature`` (quadratic), ``broad`` (correlation length 100
        nm), ``step`` (between VIS and NIR1, fading within 150 nm), ``pattern`` (per channel), ``noise`` (per
        channel and spectrum, of the spectrum's mean).

    Returns
    -------
    xarray.DataArray
        As the input, float32.

    Raises
    ------
    InputError
        An unknown error name, or dimensions other than (sample, wavelength).

    Examples
    --------
    >>> import lunarray as la
    >>> soils = la.simulate.soils(10, seed=1)
    >>> la.simulate.add_sp_errors(soils["reflectance"], seed=2).shape
    (10, 150)
    """
    if reflectance.ndim != 2 or reflectance.dims[1] != "wavelength":
        raise InputError(
            f"dims {reflectance.dims}",
            where="reflectance",
            remedy='Give (sample, "wavelength"), for instance soils(...).reflectance',
        )
    unknown = set(errors) - set(SP_ERRORS)
    if unknown:
        raise InputError(
            f"unknown errors {sorted(unknown)}",
            where="errors",
            remedy=f"Choose from {', '.join(SP_ERRORS)}",
        )
    nm = reflectance["wavelength"].values
    values = instrument.measure(
        np.asarray(reflectance.values, np.float32),
        nm,
        np.random.default_rng(seed),
        scale=scale,
        common_pattern=common_pattern,
        **{**SP_ERRORS, **errors},
    )
    if smooth:
        values = smoothed(values, nm)
    return reflectance.copy(data=values)
