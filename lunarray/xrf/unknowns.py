"""What fits are told not to know by default: the Sun's temperature and lines, the shape of the response at its time."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, LunarrayError, require_choice
from lunarray.xrf.frames import require_variables
from lunarray.xrf.nuisance import SHAPE_PARAMETERS, ShapePrior
from lunarray.xrf.response import Response
from lunarray.xrf.suns import (
    MIXTURE,
    continuum_temperature,
    flare_photons,
    mixture_changes,
    temperature_change,
)

#: Width, slope and offset of the lines in bright frames of 2020 to 2024; ``examples/make_response_table.py`` measures
#: them. All are of sixteen detectors, as all lit frames at hand are: of other sets nothing was measured.
SHAPE_TABLE = Path(__file__).parent / "data" / "response_shapes.csv"
#: How far a spectrum's own may be from the mean of its time (standard deviations): the detectors' temperature changes.
_SPREAD = (0.012, 0.006, 0.010)
#: And from what was measured in frames of its own day.
_DRIFT = (0.002, 0.001, 0.002)
#: Seconds that are longer than any mission: another set of detectors is asked only where there is no row of the own.
_ANY_TIME = 1e10
#: Days over which what was measured at another time counts less.
_MEMORY = 365.0
#: Relative error of the Sun's temperature where a solar spectrum says nothing of its errors.
TEMPERATURE_ERROR = 0.2
#: Ions whose lines a Sun may have in other strength, element by element.
LINE_MODES = (("Si",), ("S",), ("Ar", "Ca"))
DEFAULT_MODES: tuple[str, ...] = ("temperature", *MIXTURE, "Si lines", "S lines", "Ca lines")


def default_modes(low: np.ndarray, high: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Changes of a solar flux (energy,), photons/s/cm²/keV, for `DEFAULT_MODES`: its temperature, plasma
    of other temperatures, and its lines.

    A Sun without lines may lack all of them; where there are some, abundances are known to a half.
    """
    from lunarray.xrf.plasma import plasma_table

    out = np.zeros((len(DEFAULT_MODES), flux.size))
    middle, width = (low + high) / 2, high - low
    try:
        kt = continuum_temperature(middle, flux)
    except InputError:
        return out
    out[0] = TEMPERATURE_ERROR * temperature_change(low, high, flux[None], np.array([kt]))[0]
    table = plasma_table(np.append(low, high[-1]), engine="chianti")
    kt = float(np.clip(kt, table.temperature[0], table.temperature[-1]))
    spectra = table.at(kt)
    band = (middle > 2.0) & (middle < 6.0)
    whole = flare_photons(table, kt)[band].sum()
    if not whole > 0:
        return out
    scale = (flux * width)[band].sum() / whole
    line = int(np.searchsorted(high, 2.006))
    around = (np.abs(middle - 2.0) > 0.04) & (np.abs(middle - 2.0) < 0.09)
    smooth = not around.any() or flux[max(line - 1, 0) : line + 2].max() < 1.3 * np.median(
        flux[around]
    )
    first = 1 + len(MIXTURE)
    out[1:first] = mixture_changes(table, kt, scale) / width
    for row, elements in zip(out[first:], LINE_MODES, strict=True):
        for element in elements:
            if element in table.elements:
                row += scale * spectra[table.elements.index(element)] / width
    out[first:] *= 0.5 if smooth else 0.25
    return out


def shape_priors(
    ds: xr.Dataset, response: Response, calibration: Any
) -> tuple[tuple[ShapePrior, ...], np.ndarray, str]:
    """What is known of the response at the time of each spectrum.

    `calibration` {"auto", "none"} or what `calibrate_response` gives. Returns priors, which of them is that of each
    spectrum (time,), and what they come from in words; no priors where the response is taken as it is.
    """
    n = ds.sizes["time"]
    nothing = (), np.zeros(n), "the response as it is"
    if isinstance(calibration, str):
        require_choice("calibration", calibration, ("auto", "none"))
        if calibration == "none":
            return nothing
        try:
            width = response.line_width()
        except LunarrayError:
            return nothing
        if "simulated" in str(ds.attrs.get("instrument", "")):
            words = "the response's own width and gain, then the spectrum's own"
            return (_prior((width, 1.0, 0.0), _diagonal(_SPREAD)),), np.zeros(n), words
        months = ds["time"].values.astype("M8[M]")
        unique, own = np.unique(months, return_inverse=True)
        priors = tuple(_prior(_from_table(month), _diagonal(_SPREAD)) for month in unique)
        return (
            priors,
            own.astype("f8"),
            "lunarray's table of 2020-2024, then the spectrum's own width and gain",
        )
    require_variables(
        calibration, ("value", "covariance", "start", "end"), "calibration", "Give what calibrate_response gives"
    )  # fmt: skip
    values = np.asarray(calibration["value"].values, "f8")
    covariances = np.asarray(calibration["covariance"].values, "f8")
    good = np.isfinite(values).all(axis=1) & np.isfinite(covariances).all(axis=(1, 2))
    if not good.any():
        raise InputError(
            "no epoch has a width",
            where="calibration",
            remedy="Calibrate with brighter frames or fewer min_counts, or leave it at 'auto'",
        )
    middle = (
        calibration["start"].values + (calibration["end"].values - calibration["start"].values) / 2
    )
    apart = np.abs(ds["time"].values[:, None] - middle[good][None, :])
    apart = apart / np.timedelta64(1, "s") + np.where(
        _same_set(ds, calibration, good), 0.0, _ANY_TIME
    )
    priors = tuple(
        _prior(value, covariance + np.array(_diagonal(_DRIFT)))
        for value, covariance in zip(values[good], covariances[good], strict=True)
    )
    return (
        priors,
        np.argmin(apart, axis=1).astype("f8"),
        "calibrate_response, then the spectrum's own",
    )


def _same_set(ds: xr.Dataset, calibration: xr.Dataset, good: np.ndarray) -> np.ndarray:
    """Whether the rows of a calibration are of the set of detectors of each spectrum, (time, row)."""
    from lunarray.xrf.calibration import detector_sets

    for name in ("detectors", "n_detectors"):
        if name in calibration.variables and name in ds.variables:
            rows = np.nan_to_num(np.asarray(calibration[name].values, "f8"))[good]
            own = detector_sets(ds[[name]])
            if rows.any() and own.any():
                return np.asarray(own[:, None] == np.round(rows)[None, :])
    return np.ones((ds.sizes["time"], int(good.sum())), bool)


def _prior(mean: Any, covariance: Any) -> ShapePrior:
    rows = tuple(tuple(float(v) for v in row) for row in np.asarray(covariance))
    return ShapePrior(tuple(float(v) for v in mean), rows)


def _diagonal(sigma: tuple[float, ...]) -> np.ndarray:
    return np.diag(np.square(sigma))


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dates, values and errors (row, parameter) of the table that comes with lunarray."""
    rows = np.genfromtxt(SHAPE_TABLE, delimiter=",", names=True, dtype=None, encoding="utf-8")
    values = np.stack([rows[name] for name in SHAPE_PARAMETERS], axis=1)
    errors = np.stack([rows[f"{name}_error"] for name in SHAPE_PARAMETERS], axis=1)
    return rows["start"].astype("M8[D]"), values, errors


def _from_table(month: np.datetime64) -> np.ndarray:
    """Width, slope and offset about a month: the mean of what was measured, by its errors and its distance in time."""
    dates, values, errors = _table()
    days = np.abs((dates - month.astype("M8[D]")) / np.timedelta64(1, "D"))
    weight = np.exp(-days / _MEMORY)[:, None] / (errors**2 + np.square(_SPREAD))
    return (weight * values).sum(axis=0) / weight.sum(axis=0)
