"""The model of one fitted spectrum, part by part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.typing import typed
from lunarray.xrf.api import FIT_BAND, columns_of, specification
from lunarray.xrf.atomic import AtomicTables
from lunarray.xrf.class_files import CLASS_DETECTORS
from lunarray.xrf.diagnosis import particle_excess
from lunarray.xrf.frames import require_variables
from lunarray.xrf.nuisance import Nuisances
from lunarray.xrf.response import Response
from lunarray.xrf.settings import FATAL, FIT_FLAGS, Conventions, Observation
from lunarray.xrf.unknowns import shape_priors
from lunarray.xrf.windows import COLUMNS, FitSpec, ModelCache, observation

__all__ = ["spectrum_components"]


@typed
def spectrum_components(
    ds: xr.Dataset,
    result: xr.Dataset,
    solar: xr.Dataset,
    response: Response,
    background: xr.Dataset | None = None,
    *,
    index: int = 0,
    band: tuple[float, float] = FIT_BAND,
    conventions: Conventions | None = None,
    tables: AtomicTables | None = None,
    calibration: xr.Dataset | Literal["auto", "none"] = "auto",
) -> xr.Dataset:
    """Compute the model of one fitted spectrum part by part, for pictures and checks.

    Parameters
    ----------
    ds : Dataset
        Spectra, as they were given to :func:`fit_elements`.
    result : Dataset
        What it gave.
    solar : Dataset
    response : Response
    background : Dataset, optional
        As they were given to it.
    index : int
        Which spectrum, along ``time``.
    band : tuple of float
        Energies that were fitted (keV).
    conventions : Conventions, optional
    tables : AtomicTables, optional
    calibration : Dataset or {"auto", "none"}
        As they were given to it.

    Returns
    -------
    Dataset
        (channel,), of the fitted channels, in counts/s/keV with the detectors used: ``data``, ``data_std``, ``model``,
        ``fluorescence``, ``scatter``, ``background``; ``residual`` (in standard deviations); ``energy`` (keV).

    Raises
    ------
    InputError
        If that spectrum was not fitted.

    Examples
    --------
    >>> import lunarray as la
    >>> windows = la.sample("class_flare").lunar.flag_frames().lunar.coadd("sliding", window=12)
    >>> sun, response = la.simulate.thermal_spectrum(1.1, 3e-5), la.simulate.class_response(2048)
    >>> fit = windows.lunar.fit_elements(sun, response)
    >>> parts = la.xrf.spectrum_components(windows, fit, sun, response, index=0)
    >>> "energy" in parts.coords
    True
    """
    spec = specification(
        ds, solar, response, background, band=band, settings=None, conventions=conventions, tables=tables,
        mare_fraction=None, min_significance=0.0, engine="numba",
    )  # fmt: skip
    require_variables(
        result, ("abundance", "quality"), "spectrum_components", "Give what fit_elements gave"
    )
    row = result.isel(time=index).compute()
    if int(row["quality"]) & FATAL:
        names = [name for name, bit in FIT_FLAGS.items() if int(row["quality"]) & bit]
        raise InputError(
            f"spectrum {index} was not fitted: {', '.join(names)}",
            where="spectrum_components",
            remedy="Choose another",
        )
    own = ds.isel(time=[index])
    shapes, own_shape, _ = shape_priors(own, response, calibration)
    spec = replace(spec, shapes=shapes)
    values = _columns_of_one(own, ds, solar, index, own_shape)
    column = {name: float(np.asarray(v)[0]) for name, v in zip(COLUMNS, values, strict=True)}
    data = observation(own["counts"].values[0], column, spec)
    xrf, scatter, excess = _components(ModelCache(spec), column, row, data)
    variables = _densities(own["counts"].values[0], column, spec, (xrf, scatter, excess))
    first, stop = spec.channels
    energy = response.channel_energy()[first:stop]
    lines = np.asarray(spec.tables.line_energy).tolist()
    return xr.Dataset(
        variables,
        {
            "channel": ds["channel"].values[first:stop],
            "energy": ("channel", energy, {"units": "keV", "long_name": "energy"}),
            "time": ds["time"].values[index],
        },
        {"lines": dict(zip(spec.tables.line_names, lines, strict=True))},
    )


def _densities(
    counts: np.ndarray, column: dict[str, float], spec: FitSpec, rates: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> dict[str, Any]:  # fmt: skip
    """Variables of `spectrum_components`, of the counts of all channels and the rates of the fitted ones."""
    xrf, scatter, excess = rates
    first, stop = spec.channels
    share = column["n_detectors"] / CLASS_DETECTORS if column["n_detectors"] > 0 else 1.0
    own = counts[first:stop].astype("f8")
    width = (spec.response.channel_hi - spec.response.channel_lo)[first:stop]
    unit = 1.0 / (column["exposure"] * width)
    back = excess * share / width
    if spec.background is not None:
        back = back + spec.background[first:stop] / spec.background_exposure * share / width
    parts = {
        "fluorescence": xrf * share / width,
        "scatter": scatter * share / width,
        "background": back,
    }
    total = sum(parts.values())
    std = np.sqrt(np.maximum(total / unit, 1.0)) * unit
    variables = {
        "data": own * unit,
        "data_std": np.sqrt(np.maximum(own, 1.0)) * unit,
        "model": total,
        **parts,
    }
    densities: dict[str, Any] = {
        k: ("channel", v, {"units": "s-1 keV-1"}) for k, v in variables.items()
    }
    return densities | {"residual": ("channel", (own * unit - total) / std, {"units": "1"})}


def _components(
    models: ModelCache, column: dict[str, float], row: xr.Dataset, data: Observation
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts/s of the fluorescence, the scattered continuum and the particles beyond the background of a fit."""
    model = models(column)
    weights = row["abundance"].sel(element=list(models.spec.tables.elements)).values.astype("f8")
    xrf_norm, scatter_norm = float(row["xrf_norm"]), float(row["scatter_norm"])
    if not row.sizes.get("nuisance"):
        gain = float(row["gain_slope"]), float(row["gain_offset"])
        return *model.counts(weights, xrf_norm, scatter_norm, *gain), np.zeros(model.channels)
    unknowns = models.unknowns(column)
    values = row["nuisance"].values.astype("f8")
    if unknowns is None or values.size != len(models.spec.nuisances):
        raise InputError(
            "the fit has other unknowns than this Sun, response and calibration have",
            where="spectrum_components",
            remedy="Give what fit_elements was given",
        )
    made = Nuisances(model, unknowns, particle_excess(data, model))
    lines, scatter, _, _ = made.renew(weights, values, scatter_norm / xrf_norm)
    intensity = made.now.line_intensities(weights)
    return xrf_norm * intensity @ lines, scatter_norm * scatter, made.fixed(values)


def _columns_of_one(
    own: xr.Dataset, ds: xr.Dataset, solar: xr.Dataset, index: int, shape: np.ndarray
) -> list[Any]:
    if "time" in solar["photon_flux"].dims:
        columns = columns_of(own, solar.isel(time=[index]), None, shape)
        columns[COLUMNS.index("solar")] = np.array([index])
        return columns
    return columns_of(own, solar, None, shape)
