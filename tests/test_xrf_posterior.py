"""Posteriors of fits: closed forms, the errors of fits where they are bells, and what they say of themselves."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from lunarray import simulate, xrf
from lunarray.errors import InputError, LunarrayWarning

pytest.importorskip("emcee", reason="needs emcee (extra posterior)")

from lunarray.xrf.posterior import QUANTILES, sample_density, sample_posterior

FROZEN = ("Fe", "Ti", "Ca", "Al", "Mg", "Na", "O")


@pytest.fixture(scope="module")
def scene():
    """A simulated spectrum of highlands, its Sun and its response."""
    response = simulate.class_response(1024, fwhm=0.14)
    sun = simulate.thermal_spectrum(1.2, 1e-5)
    orbit = simulate.class_orbit(frames=3)
    frames = simulate.class_counts(xrf.HIGHLAND, orbit, sun, response, seed=3)
    return frames, sun, response


def test_a_bell_is_drawn_as_a_bell():
    """Means, covariance and quantiles of a Gaussian of three parameters, correlated and of very different scales."""
    mean = np.array([3.0, -200.0, 1e-3])
    root = np.array([[1.0, 0.0, 0.0], [30.0, 40.0, 0.0], [-2e-4, 1e-4, 3e-4]])
    covariance, inverse = root @ root.T, np.linalg.inv(root)

    def log_density(at: np.ndarray) -> float:
        return -0.5 * float(np.sum((inverse @ (at - mean)) ** 2))

    # The bell that is told is off by one standard deviation, and half as wide.
    chains = sample_density(
        log_density, mean + np.sqrt(np.diag(covariance)), covariance / 4, steps=1500, seed=1
    )
    assert chains.converged
    assert 0.2 < chains.acceptance < 0.9
    every = chains.draws.reshape(-1, 3)
    std = np.sqrt(np.diag(covariance))
    effective = len(every) / chains.autocorrelation.max()
    assert np.all(np.abs(every.mean(axis=0) - mean) < 4 * std / np.sqrt(effective))
    np.testing.assert_allclose(
        np.cov(every.T) / np.outer(std, std), covariance / np.outer(std, std), atol=0.06
    )


def test_a_half_bell_at_a_bound_has_the_quantiles_of_one():
    from scipy.stats import halfnorm

    chains = sample_density(
        lambda at: -0.5 * float(at[0] ** 2), np.zeros(1), np.eye(1), lower=np.zeros(1), steps=2000, seed=2,
    )  # fmt: skip
    every = chains.draws.ravel()
    assert every.min() >= 0
    np.testing.assert_allclose(np.quantile(every, QUANTILES), halfnorm.ppf(QUANTILES), atol=0.05)


def test_the_same_seed_draws_the_same():
    of = [
        sample_density(
            lambda at: -0.5 * float(at @ at), np.zeros(2), np.eye(2), steps=100, seed=seed
        )
        for seed in (4, 4, 5)
    ]
    np.testing.assert_array_equal(of[0].draws, of[1].draws)
    assert np.any(of[0].draws != of[2].draws)


def test_a_linear_gaussian_fit_has_its_closed_form(scene):
    """With the composition frozen the model is linear in its two norms, and χ² with a normal prior a quadratic form."""
    frames, sun, response = scene
    settings = xrf.FitSettings(
        statistic="chi2", variance="data", frozen=FROZEN, prior_sigma={}, tie_norms=False, norm_sigma=0.002,
        scatter_norm=0.37, systematics=False,
    )  # fmt: skip
    one = frames.isel(time=[0])
    drawn = sample_posterior(one, sun, response, settings=settings, mare_fraction=None, steps=300)
    assert bool(drawn["converged"].all())
    # The parts of the model for norms of 1, and what the data and the prior say of the norms.
    fit = xrf.fit_elements(one, sun, response, settings=settings, mare_fraction=None)
    parts = xrf.spectrum_components(one, fit, sun, response, index=0)
    width = np.diff(response.channel_energy()).mean()
    norms = np.array([float(fit["xrf_norm"][0]), float(fit["scatter_norm"][0])])
    design = (
        np.stack([parts["fluorescence"].values, parts["scatter"].values]) * width / norms[:, None]
    )
    first = int(np.searchsorted(one["channel"].values, parts["channel"].values[0]))
    counts = one["counts"].values[0, first : first + design.shape[1]].astype("f8")
    seconds = float(one["exposure"][0])
    weight = np.divide(seconds**2, counts, out=np.zeros(counts.size), where=counts > 0)
    precision = (design * weight) @ design.T + np.diag([1 / 0.002**2, 0.0])
    covariance = np.linalg.inv(precision)
    mean = covariance @ (design @ (weight * counts / seconds) + [0.37 / 0.002**2, 0.0])
    std = np.sqrt(np.diag(covariance))
    names = ["xrf_norm", "scatter_norm"]
    found = drawn.sel(parameter=names).isel(time=0)
    np.testing.assert_allclose(found["mean"], mean, atol=0.1 * std.max())
    np.testing.assert_allclose(found["std"], std, rtol=0.05)
    np.testing.assert_allclose(found["fit"], mean, atol=0.02 * std.max())
    np.testing.assert_allclose(found["fit_std"], std, rtol=0.01)


@pytest.fixture(scope="module")
def plain(scene):
    frames, sun, response = scene
    settings = xrf.FitSettings(statistic="cstat", systematics=False)
    return sample_posterior(frames.isel(time=[0]), sun, response, settings=settings, steps=600)


def test_errors_of_a_fit_are_those_of_its_posterior(plain):
    assert bool(plain["converged"][0])
    assert int(plain["quality"][0]) == 0
    one = plain.isel(time=0)
    away = []
    for name in ("Fe", "Ca", "Si", "Al", "Mg", "Na", "xrf_norm"):
        own = one.sel(parameter=name)
        if name == "xrf_norm" or own["fit"] > 3 * own["fit_std"]:
            away.append(name)
            assert abs(float(own["std"] / own["fit_std"]) - 1) < 0.2, name
            assert abs(float(own["mean"] - own["fit"])) < 0.5 * float(own["fit_std"]), name
    assert {"Ca", "Si", "Al", "Mg"} <= set(away)


def test_at_a_bound_a_posterior_has_one_side(plain):
    titanium = plain.isel(time=0).sel(parameter="Ti")
    assert float(titanium["draws"].min()) >= 0
    low, middle, high = titanium["quantiles"].sel(quantile=[0.025, 0.5, 0.975]).values
    if float(titanium["fit"]) < float(titanium["fit_std"]):
        assert high - middle > 1.3 * (middle - low)


def test_the_closing_element_closes_in_every_draw(plain):
    total = plain["draws"].sel(parameter=list(xrf.ELEMENTS)).sum("parameter")
    np.testing.assert_allclose(total, 100.0, atol=1e-3)


def test_with_unknowns_too_and_chains_that_are_short_say_so(scene):
    frames, sun, response = scene
    with pytest.warns(LunarrayWarning, match="have not converged"):
        drawn = sample_posterior(frames.isel(time=[1]), sun, response, steps=100, seed=7)
    assert not drawn["converged"].any()
    assert {"sun:temperature", "width", "xrf_norm", "Ca"} <= set(drawn["parameter"].values)
    assert np.all(np.isfinite(drawn["draws"]))
    assert np.all(np.isfinite(drawn["fit_std"]))
    spectrum = drawn.isel(time=0)
    mode = spectrum.sel(parameter="sun:hotter plasma")
    # Plasma that is added is never less than nothing.
    assert float(mode["draws"].min()) >= -0.8


def test_night_has_no_posterior(scene):
    frames, sun, response = scene
    night = frames.isel(time=[0]).assign_coords(incidence=("time", [95.0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = sample_posterior(night, sun, response, steps=100)
    assert int(drawn["quality"][0]) & 1
    assert np.all(np.isnan(drawn["mean"]))
    assert not drawn["converged"].any()


def test_arguments_are_checked(scene):
    frames, sun, response = scene
    with pytest.raises(InputError, match="steps"):
        sample_posterior(frames, sun, response, steps=3)
    with pytest.raises(TypeError, match="engine"):
        sample_posterior(frames, sun, response, engine="pyxspec")


def test_the_example_runs():
    import doctest

    from lunarray.xrf import posterior

    assert doctest.testmod(posterior).failed == 0
