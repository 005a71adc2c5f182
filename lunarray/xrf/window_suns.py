"""A Sun for every window: of its own spectrum, of the day's and a light curve, of the flare's class, or assumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, require_number
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.xrf.class_files import CLASS_DETECTORS
from lunarray.xrf.emission import TEMPERATURES
from lunarray.xrf.frames import described, flag_attrs, require_variables
from lunarray.xrf.plasma import PlasmaTable, plasma_table
from lunarray.xrf.response import Response
from lunarray.xrf.solar import CALIBRATION, fit_solar, fold_matrix
from lunarray.xrf.suns import (
    ABUNDANCES,
    MIXTURE,
    attach_modes,
    flare_photons,
    mixture_changes,
    temperature_change,
)
from lunarray.xrf.xsm import goes_flux, solar_dataset
from lunarray.xrf.xsm_response import xsm_response

__all__ = ["SUN_SOURCES", "window_suns"]

#: Where the Sun of a window comes from.
SUN_SOURCES = {
    "own_spectrum": 1, "light_curve": 2, "longer_spectrum": 4, "flare_class": 8, "own_counts": 16, "assumed": 32,
}  # fmt: skip
#: A flare's temperature goes with this power of its flux. 32 daily spectra of XSM of 5e-8 to 4e-6 W/m² have a power of
#: 0.21 and 0.52 keV at 1e-6 W/m², with a scatter of 13 %; beyond them it is extrapolated.
_TEMPERATURE_POWER = 0.2
#: Temperature (keV) at a flux (W/m²). Of the two flares at hand that of 2021-08-27 is hotter by 40 %; CLASS spectra of
#: that of 2024-01-23 ask for 10 % less, and were seen when this line of the days was taken, not one through the first.
_FLARE_TEMPERATURE, _FLARE_FLUX, _FLARE_SPREAD = 0.55, 1e-6, 0.3
#: What a Sun scaled by a light curve, and one that is only assumed, may be wrong by: temperature, emission measure.
_SCALED, _ASSUMED = (0.15, 0.1), (0.35, 1.5)
#: What the flux at 1-8 Å may be wrong by that CLASS' own counts tell, as a share of it: W/m² for one count/s of the
#: lines of Mg, Al and Si with all detectors and the Sun overhead, of the flare of 2021-08-27 (C4.7); the flare of
#: 2024-01-23, M5.1, comes out as M5.2 to M5.5.
_COUNTED, _FLUX_OF_RATE = 0.4, 1.55e-8
_LINES, _DARK = (1.15, 1.95), (5.0, 6.0)
#: And what a spectrum may be wrong by that is longer than the window: for a few minutes, and for a day.
_MINUTES, _LONGER, _DAY = np.timedelta64(300, "s"), (0.05, 0.1), (0.3, 1.0)
_ASSUMED_SUN = (1.0, 5e-6)
#: Ways in which a Sun may be wrong; which of them one has hangs on where it comes from.
SUN_MODES = ("fit_1", "fit_2", "fit_3", "calibration", "temperature", "emission_measure", *MIXTURE)


@typed
def window_suns(
    ds: xr.Dataset,
    spectra: xr.Dataset | None = None,
    response: Response | None = None,
    *,
    light_curve: xr.Dataset | None = None,
    goes: xr.Dataset | None = None,
    plasma: PlasmaTable | None = None,
    share: float = 0.5,
    systematic: float = 0.03,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Give each window of CLASS the best solar spectrum available for it, and how wrong that may be.

    Of what covers a window the first of these counts: its own seconds in `spectra`; the plasma of the spectrum that
    holds it, a day's say, made hotter and brighter as `light_curve` tells; that plasma as it is, if the spectrum is one
    of a few minutes; the flare's flux in `goes`; that of a longer spectrum; the flux that the window's own lines of
    Mg, Al and Si amount to. Where the Sun is not of the window itself, temperature and brightness are so uncertain that
    the fit of the elements finds them, from the scattered continuum and lines of the Sun in CLASS.

    Parameters
    ----------
    ds : Dataset
        Frames or windows, with ``time`` and, where it has them, ``start`` and ``end``.
    spectra : Dataset, optional
        Of :func:`lunarray.xrf.xsm.read_xsm_spectrum`: (time, channel), or one (channel,).
    response : Response, optional
        Of XSM; by default :func:`lunarray.xrf.xsm_response.xsm_response`.
    light_curve : Dataset, optional
        Of :func:`lunarray.xrf.xsm.read_light_curve`.
    goes : Dataset, optional
        Of :func:`lunarray.xrf.goes.open_goes_xrs`.
    plasma : PlasmaTable, optional
        By default that of :func:`lunarray.xrf.plasma.plasma_table`.
    share : float
        A spectrum is a window's own where so much of its time lies within the window.
    systematic : float
        As in :func:`fit_solar`.
    progress : callable, optional
        Called with the number of windows done, and of all.

    Returns
    -------
    Dataset
        ``photon_flux`` (time, energy), photons/s/cm²/keV, and ``flux_mode`` (mode, time, energy) as
        :func:`fit_solar` gives them, for :func:`fit_elements`; ``sun_source`` (time,), uint8, bits of
        `xrf.window_suns.SUN_SOURCES`; ``sun_temperature`` (time,), keV; ``sun_goes_flux`` (time,), W/m².

    Raises
    ------
    InputError
        If `ds` has no times, or spectra and response do not fit together.

    Examples
    --------
    >>> from lunarray.simulate import class_orbit
    >>> from lunarray.xrf import window_suns
    >>> suns = window_suns(class_orbit(frames=2))
    >>> dict(suns["photon_flux"].sizes), suns["sun_source"].values.tolist()
    ({'time': 2, 'energy': 3000}, [32, 32])
    """
    require_variables(ds, ("time",), "window_suns", "Give frames or windows of CLASS")
    if ds["time"].ndim != 1:
        raise InputError(
            "time has no dimension", where="window_suns", remedy="Give one window as isel(time=[0])"
        )
    require_number("share", share, 0, 1)
    require_number("systematic", systematic, 0)
    if spectra is not None:
        require_variables(
            spectra, ("counts", "exposure", "start", "end"), "window_suns", "Give spectra of XSM"
        )
        spectra = spectra if "time" in spectra["counts"].dims else spectra.expand_dims("time")
    table = plasma_table() if plasma is None else plasma
    maker = _Maker(table, xsm_response() if response is None else response, spectra, systematic)
    start, end = _spans(ds)
    counted = _flux_of_counts(ds)
    rate = _Averages(light_curve, "rate")
    classes = _Averages(goes, "xrsb_flux")
    suns, sources = [], np.empty(start.size, "u1")
    for i, span in enumerate(zip(start, end, strict=True)):
        found, source = maker.best(*span, share, rate, classes, float(counted[i]))
        suns.append(found)
        sources[i] = SUN_SOURCES[source]
        if progress is not None:
            progress(i + 1, start.size)
    return _joined(ds, table.edges, suns, sources)


#: Flux and modes in photons/s/cm² in each bin, modes by name, and the temperature (keV).
_Sun = tuple[np.ndarray, dict[str, np.ndarray], float]


class _Maker:
    """Makes Suns of a plasma; what was fitted once is kept."""

    def __init__(
        self, plasma: PlasmaTable, response: Response, spectra: xr.Dataset | None, systematic: float
    ) -> None:
        self.plasma, self.response, self.spectra = plasma, response, spectra
        self.systematic = systematic
        self.width = np.diff(plasma.edges)
        self.fits: dict[tuple[int, ...], xr.Dataset | None] = {}
        if spectra is not None:
            self.start, self.end = (np.atleast_1d(spectra[k].values) for k in ("start", "end"))

    def best(
        self,
        start: Any,
        end: Any,
        share: float,
        rate: _Averages,
        classes: _Averages,
        counted: float,
    ) -> tuple[_Sun, str]:
        """The best Sun that there is for a window, and where it comes from."""
        if (found := self.own(start, end, share)) is not None:
            return found, "own_spectrum"
        around = self._around(start + (end - start) // 2)
        now = rate.mean(start, end)
        if around is not None and now > 0:
            usual = rate.mean(self.start[around], self.end[around])
            found = self.scaled(around, now / usual) if usual > 0 else None
            if found is not None:
                return found, "light_curve"
        short = around is not None and self.end[around] - self.start[around] <= _MINUTES
        flux = classes.mean(start, end)
        if flux > 0 and not short:
            return self.of_class(flux), "flare_class"
        found = None if around is None else self.longer(around, *(_LONGER if short else _DAY))
        if found is not None:
            return found, "longer_spectrum"
        if counted > 0:
            return self.of_class(counted, _COUNTED), "own_counts"
        return self.assumed(), "assumed"

    def _around(self, moment: Any) -> int | None:
        """The shortest spectrum that holds a moment."""
        if self.spectra is None:
            return None
        around = np.flatnonzero((self.start <= moment) & (moment < self.end))
        return int(around[np.argmin((self.end - self.start)[around])]) if around.size else None

    def longer(self, row: int, hotter: float, brighter: float) -> _Sun | None:
        """The plasma of a spectrum that is longer than the window."""
        fit = self._fit((row,))
        if fit is None:
            return None
        kt = float(fit["parameter_value"].values[0])
        return self._with(fit["photon_flux"].values * self.width, kt, hotter, brighter)

    def own(self, start: Any, end: Any, share: float) -> _Sun | None:
        """From the spectra of which a share lies within the window."""
        if self.spectra is None:
            return None
        common = np.minimum(self.end, end) - np.maximum(self.start, start)
        zero = np.timedelta64(0, "ns")
        inside = np.flatnonzero((common > zero) & (common >= share * (self.end - self.start)))
        fit = self._fit(tuple(inside.tolist())) if inside.size else None
        if fit is None:
            return None
        modes = fit["flux_mode"].values * self.width
        names = [str(name) for name in fit["mode"].values]
        kt = float(fit["parameter_value"].values[0])
        return (fit["photon_flux"].values * self.width, dict(zip(names, modes, strict=True)), kt)

    def _fit(self, rows: tuple[int, ...]) -> xr.Dataset | None:
        if rows not in self.fits:
            some = self.spectra.isel(time=list(rows))  # type: ignore[union-attr]
            errors = np.sqrt((some["stat_error"] ** 2).sum("time"))
            one = xr.Dataset(
                {
                    "counts": some["counts"].sum("time", skipna=False),
                    "stat_error": errors,
                    "sys_error": some["sys_error"].max("time"),
                    "exposure": some["exposure"].sum(),
                }
            )
            try:
                self.fits[rows] = fit_solar(
                    one, self.response, plasma=self.plasma, systematic=self.systematic
                )
            except InputError as error:
                # Too few counts are no fault of the files: the next best Sun is taken.
                if "counts in" not in str(error):
                    raise
                self.fits[rows] = None
        return self.fits[rows]

    def scaled(self, row: int, ratio: float) -> _Sun | None:
        """The plasma of a spectrum, as hot and bright as a ratio of count rates tells."""
        fit = self._fit((row,))
        if fit is None:
            return None
        hotter = ratio**_TEMPERATURE_POWER
        abundance = np.full(len(self.plasma.elements), ABUNDANCES["Si"])
        abundance[0] = 1.0
        for name, value in zip(fit["parameter"].values, fit["parameter_value"].values, strict=True):
            if name in self.plasma.elements:
                abundance[self.plasma.elements.index(str(name))] = value
        grid = self.plasma.temperature
        measures = fit["emission_measure"].values
        flux = np.zeros(self.width.size)
        for kt, measure in zip(fit["temperature"].values, measures, strict=True):
            if measure > 0:
                flux += measure * (
                    abundance @ self.plasma.at(float(np.clip(kt * hotter, grid[0], grid[-1])))
                )
        matrix = fold_matrix(self.response, self.plasma.edges)
        before = fit["photon_flux"].values * self.width
        flux *= ratio * (before @ matrix).sum() / max((flux @ matrix).sum(), 1e-300)
        kt = float(fit["parameter_value"].values[0]) * hotter
        # The further from what was fitted, the less is known.
        away = 1.0 + abs(np.log(ratio)) / 3.0
        return self._with(flux, kt, _SCALED[0] * away, _SCALED[1])

    def of_class(self, flux: float, brighter: float = _SCALED[1]) -> _Sun:
        """A flare of a flux at 1-8 Å (W/m²), known to a share of it."""
        kt = _FLARE_TEMPERATURE * (flux / _FLARE_FLUX) ** _TEMPERATURE_POWER
        return self._flare(kt, flux, _FLARE_SPREAD, brighter)

    def assumed(self) -> _Sun:
        """A flare of which nothing is known."""
        kt, flux = _ASSUMED_SUN
        return self._flare(kt, flux, *_ASSUMED)

    def _flare(self, kt: float, flux: float, hotter: float, brighter: float) -> _Sun:
        """A flare of a temperature and a flux: more than half of its plasma is at 0.7 of its temperature."""
        own = float(np.clip(kt, TEMPERATURES[0], TEMPERATURES[-1]))
        photons = flare_photons(self.plasma, 1.15 * own) + 1.5 * flare_photons(
            self.plasma, 0.7 * own
        )
        measure = flux / goes_flux(self.plasma.edges, photons / self.width)
        found, modes, kt = self._with(photons * measure, kt, hotter, brighter)
        changes = mixture_changes(self.plasma, own, 2.5 * measure)
        return found, modes | dict(zip(MIXTURE, changes, strict=True)), kt

    def _with(self, flux: np.ndarray, kt: float, hotter: float, brighter: float) -> _Sun:
        low, high = self.plasma.edges[:-1], self.plasma.edges[1:]
        tilt = CALIBRATION * np.clip(np.log((low + high) / 5.0), -3, 3)
        change = temperature_change(low, high, flux, np.asarray(kt))
        modes = {
            "calibration": tilt * flux,
            "temperature": hotter * change,
            "emission_measure": brighter * flux,
        }
        return flux, modes, kt


def _flux_of_counts(ds: xr.Dataset) -> np.ndarray:
    """Solar flux at 1-8 Å (W/m²) that the lines of each spectrum of CLASS amount to; NaN where they tell nothing."""
    needed = ("counts", "gain", "exposure", "incidence")
    if any(name not in ds.variables for name in needed):
        return np.full(ds.sizes["time"], np.nan)
    gain = np.asarray(ds["gain"].values, "f8")[:, None]
    energy = (np.asarray(ds["channel"].values, "f8") + 0.5)[None] * gain
    totals = []
    for low, high in (_LINES, _DARK):
        inside = xr.DataArray((energy > low) & (energy < high), dims=("time", "channel"))
        counts = ds["counts"].where(inside).sum("channel").compute()
        totals.append((counts.values, inside.values.sum(1)))
    (lines, width), (dark, dark_width) = totals
    level = dark * width / np.maximum(dark_width, 1)
    net, noise = lines - level, np.sqrt(np.maximum(lines + level, 1.0))
    seen = np.cos(np.deg2rad(ds["incidence"].values))
    detectors = np.asarray(ds["n_detectors"].values if "n_detectors" in ds else 16.0, "f8")
    share = np.where(detectors > 0, detectors, CLASS_DETECTORS) / CLASS_DETECTORS
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = _FLUX_OF_RATE * net / (ds["exposure"].values * share * seen)
        told = (net > 3 * noise) & (seen > 0.05) & np.isfinite(flux)
    return np.where(told, np.clip(flux, 1e-8, 1e-3), np.nan)


class _Averages:
    """Means of a series of numbers over spans of time."""

    def __init__(self, ds: xr.Dataset | None, name: str) -> None:
        self.time = np.empty(0, "M8[ns]")
        self.values = np.empty(0)
        if ds is None:
            return
        require_variables(ds, (name, "time"), "window_suns", f"Give a series of {name}")
        order = np.argsort(ds["time"].values, kind="stable")
        self.time = ds["time"].values[order].astype("M8[ns]")
        self.values = np.asarray(ds[name].values, "f8")[order]

    def mean(self, start: Any, end: Any) -> float:
        """NaN where there is nothing; the nearest number within two minutes where the span lies between two."""
        a, b = np.searchsorted(self.time, [start, end])
        inside = self.values[a:b]
        inside = inside[np.isfinite(inside)]
        if inside.size:
            return float(inside.mean())
        near = [k for k in (a - 1, a) if 0 <= k < self.time.size and np.isfinite(self.values[k])]
        near = [k for k in near if abs(self.time[k] - start) <= np.timedelta64(120, "s")]
        return float(self.values[near[0]]) if near else float("nan")


def _spans(ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Beginning and end of each window."""
    if "start" in ds.variables and "end" in ds.variables:
        return ds["start"].values.astype("M8[ns]"), ds["end"].values.astype("M8[ns]")
    half = np.timedelta64(4, "s")
    time = ds["time"].values.astype("M8[ns]")
    return time - half, time + half


def _joined(ds: xr.Dataset, edges: np.ndarray, suns: list[_Sun], sources: np.ndarray) -> xr.Dataset:
    width = np.diff(edges)
    flux = np.stack([own[0] for own in suns]) / width if suns else np.empty((0, width.size))
    used = [name for name in SUN_MODES if any(name in own[1] for own in suns)]
    modes = np.zeros((len(used), len(suns), width.size), "f4")
    for i, (_, own, _) in enumerate(suns):
        for k, name in enumerate(used):
            if name in own:
                modes[k, i] = own[name] / width
    one = solar_dataset(edges, np.zeros(width.size)).drop_attrs(deep=False)
    out = one.assign(photon_flux=(("time", "energy"), flux, one["photon_flux"].attrs))
    keep = {k: ds[k] for k in ("time", "start", "end") if k in ds.variables}
    out = attach_modes(out, used, modes).assign_coords(keep)
    out = out.assign(
        sun_source=("time", sources, flag_attrs("where the Sun comes from", SUN_SOURCES, "u1")),
        sun_temperature=described(
            "time", np.array([kt for *_, kt in suns]), "keV", "mean temperature of the Sun's plasma"
        ),
        sun_goes_flux=described(
            "time",
            np.array([goes_flux(edges, row) for row in flux]),
            "W m-2",
            "solar flux, 1-8 Angstrom",
        ),
    )
    return stamp(out, f"window_suns({len(suns)} windows)", source="solar spectra")
