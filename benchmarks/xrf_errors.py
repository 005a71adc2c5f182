"""Whether the errors of abundances are true: on simulations, on bright frames, on ground seen more than once.

    python -m benchmarks.xrf_errors simulations [--draws 150]
    python -m benchmarks.xrf_errors bright ../shared/data [--grains 35]
    python -m benchmarks.xrf_errors windows ../shared/data
    python -m benchmarks.xrf_errors response ../shared/data
    python -m benchmarks.xrf_errors repeated ../shared/data [--distance 300]

"simulations" draws ground, norm, Sun (its temperature, plasma of other temperatures, lines), width and gain of the
lines, filter, share of scattered light and atomic data from what is believed of them, and sets one of them far off;
pulls should have a mean of 0 and a width of 1.

"bright" fits frames of a flare over highlands, one by one and summed, beside Lunar Prospector; with lines corrected for
grains of a radius (µm) where one is given.

"windows" fits all sliding windows beside Lunar Prospector, first with Suns of their own, then with the models of whole
days, which are not those of a flare's minutes.

"response" fits the same frames with the makers' response and with the one that comes with lunarray.

"repeated" fits all windows of a folder and compares pairs of other orbits, or of one track without a common frame, over
about the same ground. What Lunar Prospector sees between the two places is taken off. The rms of differences by
total errors is 1 where these are true; errors that all spectra share (atomic data, say) make it smaller.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray import simulate, xrf
from lunarray.maps import cells_at, open_lunar_prospector
from lunarray.xrf.api import FIT_BAND
from lunarray.xrf.class_response import class_response
from lunarray.xrf.constants import ELEMENTS
from lunarray.xrf.fit import fit_spectrum
from lunarray.xrf.ground import prior_spread
from lunarray.xrf.model import SpectralModel
from lunarray.xrf.nuisance import ATOMIC, Nuisances, ShapePrior, Unknowns
from lunarray.xrf.regolith import Regolith
from lunarray.xrf.settings import (
    FATAL,
    FIT_FLAGS,
    Conventions,
    FitResult,
    FitSettings,
    Geometry,
    Observation,
    prior_composition,
)
from lunarray.xrf.unknowns import DEFAULT_MODES, default_modes

SHOWN = ("Mg", "Al", "Si", "Ca", "Ti", "Fe")
WIDTH, SHAPE_SPREAD = 0.14, (0.012, 0.006, 0.010)
#: Of a flare: temperature, keV, and flux, W/m².
FLARE = (1.2, 1e-5)
#: What is set, by name: relative error of the Sun's temperature, error of the width (keV), share of mare; None is
#: drawn.
CASES: dict[str, tuple[float | None, float | None, float]] = {
    "as believed": (None, None, 0.0),
    "Sun 20 % hotter": (0.2, None, 0.0),
    "Sun 20 % colder": (-0.2, None, 0.0),
    "lines 30 eV wider": (None, 0.03, 0.0),
    "lines 30 eV narrower": (None, -0.03, 0.0),
    "mare": (None, None, 1.0),
}


# ---------- simulations
class Simulation:
    """Spectra of which everything is known, and fits that are told what is usually believed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.response = simulate.class_response(1024, fwhm=WIDTH)
        energy = self.response.channel_energy()
        first, stop = np.searchsorted(energy, FIT_BAND)
        self.channels = slice(int(first), int(stop))
        self.sun = simulate.thermal_spectrum(*FLARE)
        self.believed = self._model(self.sun)
        covariance = tuple(map(tuple, np.diag(np.square(SHAPE_SPREAD)).tolist()))
        self.shape = ShapePrior((WIDTH, 1.0, 0.0), covariance)
        self.unknowns = Unknowns(default_modes(*_solar(self.sun)), DEFAULT_MODES, self.shape)

    def _model(self, sun: xr.Dataset) -> SpectralModel:
        return SpectralModel(self.response, _solar(sun), Geometry(30.0), channels=self.channels)

    def draw(self, case: str, total: float) -> tuple[np.ndarray, FitResult]:
        """The truth (element,), wt%, and what a fit finds of it, of one spectrum of so many counts."""
        hotter, wider, share = CASES[case]
        rng = self.rng
        hotter = (
            float(np.clip(0.2 * rng.standard_normal(), -0.5, 0.6)) if hotter is None else hotter
        )
        true = simulate.mistaken_sun(self.sun, hotter)
        model = self._model(true)
        made = Nuisances(model, self.unknowns, np.zeros(model.channels))
        values = rng.standard_normal(made.size)
        # The temperature is that of the Sun already; what is added to it is never less than nothing.
        values[0] = 0.0
        suns = slice(0, len(made.lowest))
        values[suns] = np.where(made.adds, np.abs(values[suns]), values[suns])
        if wider is not None:
            values[made.names.index("width")] = wider / SHAPE_SPREAD[0]
        weights = self._ground(share)
        lines, scatter, _, _ = made.renew(weights, values, 1.0)
        atomic = 1 + np.array([ATOMIC[e] for e in ELEMENTS]) * rng.standard_normal(len(ELEMENTS))
        intensity = (
            made.now.line_intensities(weights) * atomic[np.asarray(model.tables.line_element)]
        )
        norm = max(0.37 + 0.11 * rng.standard_normal(), 0.08)
        rate = norm * (intensity @ lines + scatter)
        exposure = total / rate.sum()
        counts = np.zeros(self.response.channels)
        counts[self.channels] = rng.poisson(rate * exposure)
        about, along = prior_spread(share)
        settings = FitSettings(
            start=prior_composition(share), prior_sigma=about, prior_line=along, statistic="cstat"
        )
        found = fit_spectrum(
            Observation(counts, exposure), self.believed, settings, unknowns=self.unknowns
        )
        return weights, found

    def _ground(self, share: float) -> np.ndarray:
        """A composition of what the prior takes for possible, within its bounds."""
        about, along = prior_spread(share)
        mean, bounds = prior_composition(share), FitSettings().bounds
        while True:
            moved = self.rng.standard_normal()
            truth = {
                e: mean[e] + along[e] * moved + about[e] * self.rng.standard_normal()
                for e in ELEMENTS
            }
            truth["Si"] = 100.0 - sum(v for e, v in truth.items() if e != "Si")
            # What closes the sum has a prior, too.
            likely = np.exp(-0.5 * ((truth["Si"] - mean["Si"]) / about["Si"]) ** 2)
            inside = all(low < truth[e] < high for e, (low, high) in bounds.items())
            if inside and self.rng.random() < likely:
                return np.array([truth[e] for e in ELEMENTS])


def _solar(sun: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(sun[k].values for k in ("energy_lo", "energy_hi", "photon_flux"))  # type: ignore[return-value]


def simulations(draws: int) -> None:
    of = [ELEMENTS.index(e) for e in SHOWN]
    print(
        f"{draws} spectra each: mean of pulls / their width; by the number of draws these are known to "
        f"{draws**-0.5:.2f} and {(2 * draws) ** -0.5:.2f}"
    )
    print(f"{'':22s} {'counts':>7s} " + " ".join(f"{e:>12s}" for e in SHOWN))
    for case in CASES:
        for total in (1e4, 1e6):
            simulation = Simulation(int(total))
            pulls = np.empty((draws, len(of)))
            for row in pulls:
                truth, found = simulation.draw(case, total)
                row[:] = ((found.weights - truth) / found.weight_errors)[of]
            cells = [
                f"{m:+5.2f} / {w:4.2f}" for m, w in zip(pulls.mean(0), pulls.std(0), strict=True)
            ]
            print(
                f"{case:22s} {total:7.0e} " + " ".join(f"{cell:>12s}" for cell in cells), flush=True
            )


# ---------- real spectra
def _instrument(folder: Path) -> tuple[Any, xr.Dataset]:
    here = folder / "class"
    response = xrf.read_response(
        here / "response" / "class_rmf_v1.rmf", here / "response" / "class_arf_v1.arf"
    )
    return response, xrf.read_background(here / "background" / "background_allevents.fits")


def _prospector(folder: Path, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Lunar Prospector's weight per cent at some places, (place, element of `SHOWN`)."""
    cells = open_lunar_prospector(folder / "maps" / "lpgrs_high1_elem_abundance_5deg.tab")
    there = [
        xrf.oxides_to_elements(cells_at(cells, float(x), float(y)))
        for x, y in zip(lon, lat, strict=True)
    ]
    return np.array([[float(one["abundance"].sel(element=e)) for e in SHOWN] for one in there])


def summed(frames: xr.Dataset) -> xr.Dataset:
    """One spectrum of all frames, at the mean of their angles."""
    total = frames.isel(time=[0]).copy(deep=True)
    total["counts"].values[0] = frames["counts"].sum("time").values
    means = {
        k: ("time", [float(frames[k].mean())])
        for k in ("incidence", "emission", "phase", "altitude", "lat", "lon")
    }
    return total.assign_coords(exposure=("time", [float(frames["exposure"].sum())]), **means)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def bright(folder: Path, grains: float | None = None) -> None:
    conventions = None if grains is None else Conventions(regolith=Regolith(grain_radius=grains))
    response, background = _instrument(folder)
    frames = xrf.open_class(folder / "class" / "bright").compute()
    total = summed(frames)
    truth = _prospector(folder, total["lat"].values, total["lon"].values)[0]
    for name, ds in (("each frame", frames), ("sum", total)):
        suns = xrf.window_suns(ds)
        fit = xrf.fit_elements(ds, suns, response, background, conventions=conventions)
        own = fit.sel(element=list(SHOWN))
        reduced = (fit["statistic"] / fit["dof"]).values
        bounds = int((fit["element_flags"].values & 3 > 0).sum())
        print(
            f"{name}: chi2/dof {reduced.min():.2f} ... {reduced.max():.2f}, {bounds} elements at a bound"
        )
        value, error = own["abundance"].values, own["abundance_std"].values
        for k, element in enumerate(SHOWN):
            z = (value[:, k] - truth[k]) / error[:, k]
            print(
                f"  {element}: {value[:, k].mean():5.1f} ± {error[:, k].mean():.1f} (Lunar Prospector "
                f"{truth[k]:4.1f}), apart {z.mean():+.2f} total errors, rms {_rms(z):.2f}"
            )


def windows(folder: Path) -> None:
    response, background = _instrument(folder)
    frames = xrf.flag_frames(xrf.open_class(folder / "class" / "l1"))
    ds = xrf.coadd(frames, "sliding", window=12, min_frames=1).compute()
    ds = ds.isel(time=np.flatnonzero(ds["incidence"].values < 89))
    truth = _prospector(folder, ds["lat"].values, ds["lon"].values)
    days = xrf.open_solar_models(folder / "xsm" / "model", per="bin")
    for name, suns in (("Suns of their own", xrf.window_suns(ds)), ("models of days", days)):
        fit = xrf.fit_elements(ds, suns, response, background).sel(element=list(SHOWN))
        quality = fit["quality"].values
        doubtful = (quality & FIT_FLAGS["implausible"]) > 0
        for kind, chosen in (("all", True), ("plausible", ~doubtful), ("implausible", doubtful)):
            of = np.flatnonzero(((quality & FATAL) == 0) & chosen)
            print(f"{name}: {of.size} fitted ({kind})")
            value, error = fit["abundance"].values[of], fit["abundance_std"].values[of]
            for k, element in enumerate(SHOWN if of.size else ()):
                apart = value[:, k] - truth[of, k]
                z = apart / error[:, k]
                print(
                    f"  {element}: rms {_rms(apart):.1f} wt%, z {z.mean():+.2f}, rms {_rms(z):.2f} ± "
                    f"{_rms(z) / np.sqrt(2 * of.size):.2f}"
                )


def responses(folder: Path) -> None:
    """The bright frames with the makers' response and with the one that is built in."""
    real, background = _instrument(folder)
    frames = xrf.open_class(folder / "class" / "bright").compute()
    for name, ds in (("each frame", frames), ("sum", summed(frames))):
        suns = xrf.window_suns(ds)
        fits = [
            xrf.fit_elements(ds, suns, response, background).sel(element=list(SHOWN))
            for response in (real, class_response(real.channels))
        ]
        reduced = [float((fit["statistic"] / fit["dof"]).mean()) for fit in fits]
        print(f"{name}: chi2/dof {reduced[0]:.2f} with the RMF, {reduced[1]:.2f} built in")
        first, second = (fit["abundance"].values for fit in fits)
        error = fits[0]["abundance_std"].values
        for k, element in enumerate(SHOWN):
            apart = second[:, k] - first[:, k]
            print(
                f"  {element}: {first[:, k].mean():5.2f} and {second[:, k].mean():5.2f} wt%, apart at most "
                f"{np.abs(apart).max():.2f} wt%, {np.abs(apart / error[:, k]).max():.2f} total errors"
            )


def repeated(folder: Path, distance: float) -> None:
    response, background = _instrument(folder)
    frames = xrf.flag_frames(xrf.open_class(folder / "class" / "l1"))
    windows = [
        xrf.coadd(frames, "sliding", window=12, min_frames=1).compute(),
        xrf.open_class(folder / "class" / "coadd_96s").compute(),
        xrf.open_class(folder / "class" / "bright").compute(),
    ]
    found = []
    for ds in windows:
        ds = ds.isel(time=np.flatnonzero(ds["incidence"].values < 89))
        fit = xrf.fit_elements(ds, xrf.window_suns(ds), response, background)
        good = np.flatnonzero((fit["quality"].values & 511) == 0)
        found.append(
            fit.isel(time=good).reset_coords()[
                ["abundance", "abundance_std", "start", "end", "lat", "lon"]
            ]
        )
    fit = xr.concat(found, "time").sel(element=list(SHOWN))
    print(f"{fit.sizes['time']} spectra with abundances")
    start, end = fit["start"].values, fit["end"].values
    lat, lon = np.deg2rad(fit["lat"].values), np.deg2rad(fit["lon"].values)
    there = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    apart = 1737.4 * np.arccos(np.clip(there @ there.T, -1, 1))
    gap = np.maximum(start[:, None] - end[None, :], start[None, :] - end[:, None])
    expected = _prospector(folder, fit["lat"].values, fit["lon"].values)
    value, error = fit["abundance"].values - expected, fit["abundance_std"].values
    orbit = np.timedelta64(90, "m")
    nearest = apart[gap > orbit].min()
    print(
        f"the nearest two of other orbits are {nearest:.0f} km apart, a footprint is 12.5 km wide"
    )
    # Spectra of one stretch share frames, or ground and Sun: pairs of the same two stretches count once.
    stretch = np.cumsum(np.diff(np.sort(start), prepend=start.min()) > orbit)[
        np.argsort(np.argsort(start))
    ]
    for name, apt in (
        ("other orbits", gap > orbit),
        ("one track, no frame in common", (gap >= np.timedelta64(0, "s")) & (gap < orbit)),
    ):
        i, j = np.nonzero(np.triu(apt & (apart < distance), 1))
        number = np.unique(np.sort([stretch[i], stretch[j]], axis=0), axis=1).shape[1]
        print(f"{name}: {i.size} pairs within {distance:g} km, of {number} pairs of stretches")
        for k, element in enumerate(SHOWN if i.size else ()):
            difference = value[i, k] - value[j, k]
            z = _rms(difference / np.hypot(error[i, k], error[j, k]))
            print(
                f"  {element}: rms difference {_rms(difference):5.2f} wt%, rms z {z:.2f} ± "
                f"{z / np.sqrt(2 * number):.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("simulations").add_argument("--draws", type=int, default=150)
    frames = commands.add_parser("bright")
    frames.add_argument("folder", type=Path)
    frames.add_argument("--grains", type=float)
    commands.add_parser("windows").add_argument("folder", type=Path)
    commands.add_parser("response").add_argument("folder", type=Path)
    pairs = commands.add_parser("repeated")
    pairs.add_argument("folder", type=Path)
    pairs.add_argument("--distance", type=float, default=300.0)
    given = vars(parser.parse_args())
    run = {
        "simulations": simulations, "bright": bright, "windows": windows, "response": responses, "repeated": repeated,
    }  # fmt: skip
    run[given.pop("command")](**given)


if __name__ == "__main__":
    main()
