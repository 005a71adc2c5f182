"""What fits are told not to know: errors by source that hold where everything is drawn from what is believed."""

from __future__ import annotations

import numpy as np
import pytest

from lunarray import simulate, xrf
from lunarray.xrf.constants import ELEMENTS, HIGHLAND
from lunarray.xrf.diagnosis import line_misfit, particle_excess
from lunarray.xrf.fit import fit_spectrum
from lunarray.xrf.ground import prior_spread
from lunarray.xrf.model import SpectralModel
from lunarray.xrf.nuisance import ATOMIC, Nuisances, ShapePrior, Unknowns
from lunarray.xrf.settings import ERROR_SOURCES, FitSettings, Geometry, Observation
from lunarray.xrf.unknowns import DEFAULT_MODES, default_modes

SEEN = ("Mg", "Al", "Si", "Ca")
SPREAD = {"Fe": 1.5, "Ti": 0.05, "Ca": 1.5, "Al": 1.5, "Mg": 1.0, "Na": 0.1}


@pytest.fixture(scope="module")
def parts():
    response = simulate.class_response(1024, fwhm=0.14)
    sun = simulate.thermal_spectrum(1.2, 1e-5)
    solar = tuple(sun[k].values for k in ("energy_lo", "energy_hi", "photon_flux"))
    energy = response.channel_energy()
    first, stop = np.searchsorted(energy, [0.9, 4.2])
    model = SpectralModel(response, solar, Geometry(30.0), channels=slice(int(first), int(stop)))
    shape = ShapePrior((0.14, 1.0, 0.0), ((0.012**2, 0, 0), (0, 0.003**2, 0), (0, 0, 0.005**2)))
    # Its lines are there or not: what is told of a Sun is drawn, so only the temperature is.
    modes = default_modes(*solar)[:1]
    return model, Unknowns(modes, DEFAULT_MODES[:1], shape, oxygen=0.0, incidence=0.0)


def spectrum(model, unknowns, weights, values, norm, total, rng, atomic):
    """Counts of a surface whose Sun, response and so on are `values` standard deviations from what is believed."""
    made = Nuisances(model, unknowns, np.zeros(model.channels))
    lines, scatter, _, _ = made.renew(weights, values, 1.0)
    intensity = made.now.line_intensities(weights) * atomic[np.asarray(model.tables.line_element)]
    rate = norm * (intensity @ lines + scatter)
    exposure = total / rate.sum()
    counts = np.zeros(model.full_response.channels)
    counts[model.first : model.stop] = rng.poisson(rate * exposure)
    return Observation(counts, exposure)


@pytest.mark.parametrize("total", [1e4, 1e6])
def test_total_errors_are_those_of_all_that_is_unknown(parts, total):
    """Ground, norm, Sun, response and atomic data are drawn: pulls of unit width without bias."""
    model, unknowns = parts
    rng = np.random.default_rng(int(total))
    settings = FitSettings(start=dict(HIGHLAND), prior_sigma=SPREAD, statistic="cstat")
    pulls = []
    for _ in range(100):
        truth = {
            e: max(HIGHLAND[e] + SPREAD.get(e, 0.0) * rng.standard_normal(), 0.02) for e in ELEMENTS
        }
        truth["Si"] = 100 - sum(v for e, v in truth.items() if e != "Si")
        weights = np.array([truth[e] for e in ELEMENTS])
        values = rng.standard_normal(
            len(Nuisances(model, unknowns, np.zeros(model.channels)).names)
        )
        atomic = 1 + np.array([ATOMIC[e] for e in ELEMENTS]) * rng.standard_normal(8)
        norm = max(0.37 + 0.11 * rng.standard_normal(), 0.08)
        data = spectrum(model, unknowns, weights, values, norm, total, rng, atomic)
        result = fit_spectrum(data, model, settings, unknowns=unknowns)
        assert result.status == "fitted"
        pulls.append((result.weights - weights) / result.weight_errors)
    of = [ELEMENTS.index(e) for e in SEEN]
    mean, width = np.mean(pulls, axis=0)[of], np.std(pulls, axis=0)[of]
    print(
        f"{total:g} counts: {dict(zip(SEEN, zip(mean.round(2), width.round(2), strict=True), strict=True))}"
    )
    assert np.all(np.abs(mean) < 0.3)
    assert np.all((width > 0.75) & (width < 1.25))


def test_parts_sum_to_the_total(parts):
    model, unknowns = parts
    rng = np.random.default_rng(5)
    weights = np.array([HIGHLAND[e] for e in ELEMENTS])
    nothing = np.zeros(len(Nuisances(model, unknowns, np.zeros(model.channels)).names))
    data = spectrum(model, unknowns, weights, nothing, 0.37, 1e5, rng, np.ones(8))
    result = fit_spectrum(data, model, FitSettings(statistic="cstat"), unknowns=unknowns)
    assert result.parts.shape == (len(ERROR_SOURCES), 8)
    known = np.isfinite(result.weight_errors)
    np.testing.assert_allclose(
        np.sqrt((result.parts**2).sum(axis=0))[known], result.weight_errors[known], rtol=1e-6
    )
    alone = fit_spectrum(data, model, FitSettings(statistic="cstat"))
    assert np.all(result.weight_errors[known] > 0.99 * alone.weight_errors[known])
    assert result.misfit < 3


def test_a_wrong_width_raises_the_flag_where_it_may_not_be_fitted(parts):
    model, unknowns = parts
    rng = np.random.default_rng(6)
    weights = np.array([HIGHLAND[e] for e in ELEMENTS])
    wide = Unknowns(unknowns.sun, unknowns.sun_names, unknowns.shape)
    values = np.zeros(len(Nuisances(model, wide, np.zeros(model.channels)).names))
    values[1] = 2.5
    data = spectrum(model, wide, weights, values, 0.37, 1e6, rng, np.ones(8))
    fitted = fit_spectrum(data, model, FitSettings(statistic="cstat"), unknowns=wide)
    assert fitted.line_width == pytest.approx(0.17, abs=0.002)
    assert fitted.misfit < 4
    held = fit_spectrum(data, model, FitSettings(statistic="cstat"))
    assert line_misfit(data, model, held.model) > 20


def test_particles_are_told_by_energies_without_sun(parts):
    model, _ = parts
    channels = model.full_response.channels
    rng = np.random.default_rng(7)
    back = np.full(channels, 4000.0)
    quiet = Observation(rng.poisson(back / 100.0), 10.0, back, 1000.0)
    assert not particle_excess(quiet, model).any()
    storm = Observation(rng.poisson(back + 5000.0), 1000.0, back, 1000.0)
    np.testing.assert_allclose(particle_excess(storm, model), 5.0, rtol=0.05)
    # Counts that fall off with energy go on so below what is seen; noisy channels are none of theirs.
    energy = model.full_response.channel_energy()
    falling = 5.0 * np.exp(-0.05 * energy)
    counts = rng.poisson(back + 1000.0 * falling)
    counts[np.searchsorted(energy, [10.0, 14.0, 16.0])] += 20_000
    steep = particle_excess(Observation(counts, 1000.0, back, 1000.0), model)
    np.testing.assert_allclose(steep, falling[model.first : model.stop], rtol=0.1)
    fewer = Observation(rng.poisson(back / 200.0), 10.0, back, 1000.0)
    np.testing.assert_allclose(particle_excess(fewer, model), -2.0, rtol=0.05)


@pytest.mark.realdata
def test_bright_frames_are_described(real_data):
    """What no fit could with lines of 183 eV and a Sun without error: no iron at its bound, chi-squared near 1."""
    folder = real_data / "class"
    response = xrf.read_response(
        folder / "response" / "class_rmf_v1.rmf", folder / "response" / "class_arf_v1.arf"
    )
    background = xrf.read_background(folder / "background" / "background_allevents.fits")
    frames = xrf.open_class(sorted((folder / "bright").glob("*.fits")))
    fit = xrf.fit_elements(frames, simulate.thermal_spectrum(1.1, 5e-5), response, background)
    reduced = (fit["statistic"] / fit["dof"]).values
    print("chi-squared", reduced.round(2), fit["abundance"].mean("time").values.round(1))
    assert reduced.max() < 2
    assert np.all((fit["line_width"].values > 0.138) & (fit["line_width"].values < 0.152))
    # Lunar Prospector there; its own errors are about 1 wt%.
    for name, there in (("Fe", 5.2), ("Ca", 12.8), ("Si", 19.2), ("Al", 12.5), ("Mg", 6.4)):
        own = fit.sel(element=name)
        assert not np.any(own["element_flags"].values & 3), name
        error = np.hypot(float(own["abundance_std"].mean()), 1.0)
        apart = float(own["abundance"].mean()) - there
        print(
            f"{name} {apart:+.1f} wt%, {apart / float(own['abundance_std'].mean()):+.2f} of our own errors"
        )
        assert abs(apart) < 2 * error, name


@pytest.mark.realdata
def test_the_sum_of_bright_frames_agrees_with_lunar_prospector(real_data):
    """Without a spectrum of the Sun: each element within two total errors, whatever temperature flares are given."""
    folder = real_data / "class"
    response = xrf.read_response(
        folder / "response" / "class_rmf_v1.rmf", folder / "response" / "class_arf_v1.arf"
    )
    background = xrf.read_background(folder / "background" / "background_allevents.fits")
    frames = xrf.open_class(sorted((folder / "bright").glob("*.fits"))).compute()
    total = frames.isel(time=[0]).copy(deep=True)
    total["counts"].values[0] = frames["counts"].sum("time").values
    total = total.assign_coords(exposure=("time", [float(frames["exposure"].sum())]))
    for sun in (xrf.window_suns(total), simulate.thermal_spectrum(1.1, 5e-5)):
        fit = xrf.fit_elements(total, sun, response, background).isel(time=0)
        assert float(fit["statistic"] / fit["dof"]) < 3.5
        assert not np.any(fit["element_flags"].values & 3)
        for name, there in (("Fe", 5.2), ("Ca", 12.8), ("Si", 19.2), ("Al", 12.5), ("Mg", 6.4)):
            own = fit.sel(element=name)
            apart = (float(own["abundance"]) - there) / float(own["abundance_std"])
            print(f"{name} {float(own['abundance']):.1f}, {apart:+.2f} of its total error")
            assert abs(apart) < 2, name


def test_what_cannot_be_true_is_not_known_better_than_before():
    """Under a Sun that is not its own a spectrum tells nothing: errors reach back to the prior, and parts still sum."""
    response = simulate.class_response(1024, fwhm=0.14)
    sun = simulate.thermal_spectrum(1.2, 3e-5)
    orbit = simulate.class_orbit(frames=2)
    frames = simulate.class_counts(HIGHLAND, orbit, sun, response, samples=1)
    bit = xrf.settings.FIT_FLAGS["implausible"]
    for solar, wide in ((sun, False), (simulate.thermal_spectrum(0.35, 3e-5), True)):
        fit = xrf.fit_elements(frames, solar, response, mare_fraction=np.zeros(2))
        assert np.all(((fit["quality"].values & bit) > 0) == wide)
        of = [e for e in ELEMENTS if e not in ("O", "Si")]
        own = fit.sel(element=of)
        std, value = own["abundance_std"].values, own["abundance"].values
        about, along = prior_spread(0.0)
        width = np.hypot([about[e] for e in of], [along[e] for e in of])
        apart = value - [HIGHLAND[e] for e in of]
        assert np.all(std >= np.hypot(width, apart)) == wide
        assert np.any(std < width) != wide
        parts = fit["abundance_parts"].values.astype("f8")
        np.testing.assert_allclose(
            np.sqrt((parts**2).sum(axis=-1)), fit["abundance_std"], rtol=1e-3
        )
        diagonal = np.diagonal(fit["covariance"].values, axis1=1, axis2=2)
        np.testing.assert_allclose(np.sqrt(diagonal), fit["abundance_std"], rtol=2e-3)


def test_what_cannot_be_true_raises_a_flag():
    """A Sun in another unit, angles in radians, a Sun without a plasma's slope; and none where all is right."""
    response = simulate.class_response(1024, fwhm=0.14)
    sun = simulate.thermal_spectrum(1.2, 3e-5)
    frames = simulate.class_counts(
        HIGHLAND, simulate.class_orbit(frames=2), sun, response, samples=1
    )
    bit = xrf.settings.FIT_FLAGS["implausible"]

    def raised(ds, solar):
        return (xrf.fit_elements(ds, solar, response)["quality"].values & bit) > 0

    assert not raised(frames, sun).any()
    assert raised(frames, sun.assign(photon_flux=sun["photon_flux"] * 1e4)).all()
    radians = frames.assign_coords(incidence=np.deg2rad(frames["incidence"]))
    assert raised(radians, sun).all()
    energy = (sun["energy_lo"] + sun["energy_hi"]) / 2
    flat = sun.assign(photon_flux=1e6 * energy**-1.0 + 0 * sun["photon_flux"])
    assert raised(frames, flat).all()
