"""The fit engine: statistics, recovery of known compositions, conventions, and spectra that cannot be fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from lunarray.errors import InputError
from lunarray.xrf import fit_kernels
from lunarray.xrf.atomic import atomic_tables
from lunarray.xrf.constants import ELEMENTS, HIGHLAND, MARE
from lunarray.xrf.fit import fit_spectrum, spectrum_statistic
from lunarray.xrf.model import PhotonModel, SpectralModel
from lunarray.xrf.response import Response
from lunarray.xrf.settings import (
    ELEMENT_FLAGS,
    Conventions,
    FitSettings,
    Geometry,
    Observation,
    prior_composition,
)

CHANNELS = slice(30, 300)
TRUTH = dict(zip(ELEMENTS, (7.0, 1.2, 10.0, 20.6, 11.0, 5.5, 0.6, 44.1), strict=True))


def settings_of(**changes):
    """Settings of a fit without what real spectra need: norms apart and without a prior."""
    return FitSettings(**({"xrf_norm": 1.0, "norm_sigma": 0.0, "tie_norms": False} | changes))


def make_response(channels=320, energies=640, sigma=0.055):
    edges = np.linspace(0.02, 8.7, energies + 1)
    bounds = np.linspace(0.0, 8.64, channels + 1)
    middle, centre = (edges[1:] + edges[:-1]) / 2, (bounds[1:] + bounds[:-1]) / 2
    dense = np.exp(-0.5 * ((centre - middle[:, None]) / sigma) ** 2) * (bounds[1] - bounds[0])
    dense /= sigma * np.sqrt(2 * np.pi)
    dense[dense < 1e-7] = 0
    area = 45 * np.exp(-((0.9 / middle) ** 3))
    where = dense != 0
    return Response(
        edges[:-1], edges[1:], area, np.concatenate([[0], np.cumsum(where.sum(1))]), np.nonzero(where)[1],
        dense[where], bounds[:-1], bounds[1:], area_energy=middle, area_curve=area,
    )  # fmt: skip


def solar_spectrum(temperature=1.1, norm=3e6):
    low = 0.4 + 0.02 * np.arange(900)
    middle = low + 0.01
    return low, low + 0.02, norm * np.exp(-middle / temperature) / middle**1.5


@pytest.fixture(scope="module")
def response():
    return make_response()


@pytest.fixture(scope="module")
def model(response):
    return SpectralModel(response, solar_spectrum(), Geometry(40.0, 0.0, 40.0), channels=CHANNELS)


def simulate(
    model, counts, rng=None, *, truth=TRUTH, norms=(0.8, 0.7), background=0.02, gain=(1.0, 0.0)
):
    xrf, scatter = model.counts(list(truth.values()), *norms, *gain)
    rate, back = xrf + scatter, np.full(xrf.size, background * (xrf + scatter).sum() / xrf.size)
    exposure = counts / rate.sum()
    full, full_back = np.zeros((2, 320))
    draw = rng.poisson if rng is not None else lambda x: x
    full[CHANNELS] = draw((rate + back) * exposure)
    full_back[CHANNELS] = draw(back * exposure * 20)
    return Observation(full, exposure, full_back, 20 * exposure)


def test_noiseless_spectra_give_the_truth_back(model):
    data = simulate(model, 1e7)
    for statistic in ("chi2", "wstat", "cstat"):
        settings = settings_of(
            statistic=statistic, frozen=("O",), start=HIGHLAND | {"O": 44.1}, prior_sigma={}
        )
        result = fit_spectrum(data, model, replace(settings, scatter_iterations=4))
        assert result.status == "fitted"
        assert result.statistic == pytest.approx(0, abs=0.1)
        np.testing.assert_allclose(result.weights, list(TRUTH.values()), rtol=0.02, atol=0.02)
        assert result.weights.sum() == pytest.approx(100)
        assert result.xrf_norm == pytest.approx(0.8, rel=0.01)
        assert result.scatter_norm == pytest.approx(0.7, rel=0.01)


@pytest.mark.parametrize("counts", [1e4, 1e6])
def test_pulls(model, counts):
    """Abundances without bias, errors that are what they say, for elements that the data constrain."""
    rng = np.random.default_rng(int(counts))
    sigma = {"Fe": 1.0, "Ti": 0.3, "Na": 0.15}
    pulls, ratios = [], []
    for _ in range(220):
        # Truths drawn from the prior: else a fit with a prior is biased by design.
        truth = dict(TRUTH)
        for name, width in sigma.items():
            truth[name] += width * rng.standard_normal()
        truth = {name: max(value, 0.05) for name, value in truth.items()}
        truth["Si"] += 100 - sum(truth.values())
        result = fit_spectrum(
            simulate(model, counts, rng, truth=truth),
            model,
            settings_of(start=TRUTH, prior_sigma=sigma, statistic="wstat", frozen=("O",)),
        )
        assert result.status == "fitted"
        pulls.append((result.weights - list(truth.values())) / result.weight_errors)
        ratios.append(result.statistic / result.dof)
    pulls = np.array(pulls)
    constrained = [ELEMENTS.index(name) for name in ("Ca", "Si", "Al", "Mg")]
    # 220 draws: the mean is known to 0.067, the width to 0.048.
    assert np.all(np.abs(pulls[:, constrained].mean(axis=0)) < 0.2)
    assert np.all(np.abs(pulls[:, constrained].std(axis=0) - 1) < 0.15)
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


def test_the_minimum_is_scipys(model):
    data = simulate(model, 2e4, np.random.default_rng(3))
    settings = settings_of(start=TRUTH, scatter_iterations=1, scatter_slopes=False, tolerance=1e-8)
    result = fit_spectrum(data, model, settings)
    template = model.scatter_template(list(TRUTH.values()))

    def objective(x):
        weights = np.array([*x[:3], 0.0, *x[3:6], TRUTH["O"]])
        weights[3] = 100 - weights.sum()
        xrf = x[6] * model.line_intensities(weights) @ model.line_templates()
        value = spectrum_statistic(data, xrf + x[7] * template, CHANNELS, settings)
        for name, sigma in settings.prior_sigma.items():
            value += ((weights[ELEMENTS.index(name)] - TRUTH[name]) / sigma) ** 2
        return value

    x0 = np.array([*result.weights[:3], *result.weights[4:7], result.xrf_norm, result.scatter_norm])
    best = objective(x0)
    other = minimize(
        objective, x0 * 1.02, method="Nelder-Mead", options={"maxfev": 4000, "fatol": 1e-7}
    )
    assert best <= other.fun + 1e-3


def test_covariance_is_the_curvature(model):
    data = simulate(model, 1e5)
    settings = settings_of(start=TRUTH, prior_sigma={"Fe": 2.0, "Ti": 1.0, "Na": 0.3})
    result = fit_spectrum(data, model, settings)
    i = ELEMENTS.index("Mg")
    # Mg held one error away, all else refitted: the statistic (with prior) must rise by 1.
    held = settings_of(
        start=TRUTH | {"Mg": result.weights[i] + result.weight_errors[i]}, frozen=("O", "Mg"),
        prior_sigma=settings.prior_sigma,
    )  # fmt: skip
    other = fit_spectrum(data, model, held)

    def total(r):
        prior = sum(
            ((r.weights[ELEMENTS.index(n)] - TRUTH[n]) / s) ** 2
            for n, s in settings.prior_sigma.items()
        )
        return r.statistic + prior

    assert total(other) - total(result) == pytest.approx(1, abs=0.1)
    assert result.correlation[0, 0] == pytest.approx(1)
    assert np.all(np.abs(result.correlation) <= 1 + 1e-9)
    # The balance element's error follows from the others' covariance.
    free = [p in ELEMENTS for p in result.parameters]
    assert result.weight_errors[3] == pytest.approx(
        np.sqrt(result.covariance[np.ix_(free, free)].sum())
    )


@pytest.mark.parametrize("gain", ["area", "matrix", "channel"])
def test_gain_is_found(response, gain):
    model = SpectralModel(
        response,
        solar_spectrum(),
        Geometry(40.0),
        channels=CHANNELS,
        conventions=Conventions(gain=gain),
    )
    data = simulate(model, 3e6, gain=(1.006, -0.012))
    result = fit_spectrum(
        data, model, settings_of(start=TRUTH, fit_gain=True, prior_sigma={"Fe": 1.0})
    )
    assert result.status == "fitted"
    assert result.slope == pytest.approx(1.006, abs=5e-4)
    assert result.offset == pytest.approx(-0.012, abs=1e-3)
    assert result.weights[5] == pytest.approx(TRUTH["Mg"], rel=0.03)


def test_scatter_iterations_and_first_order_agree(model):
    data = simulate(model, 1e6)
    known = {"Fe": 1.0, "Ti": 1.0, "Na": 0.3}
    start = dict(HIGHLAND | {"O": 44.1, "Fe": 7.0})
    settings = settings_of(start=start, prior_sigma=known)
    slow = fit_spectrum(data, model, replace(settings, scatter_slopes=False, scatter_iterations=25))
    fast = fit_spectrum(data, model, replace(settings, scatter_iterations=3))
    once = fit_spectrum(data, model, replace(settings, scatter_slopes=False, scatter_iterations=1))
    assert fast.statistic <= slow.statistic + 1e-3
    assert fast.statistic < once.statistic
    shift = np.abs(fast.weights - list(TRUTH.values())).max()
    assert shift < np.abs(once.weights - list(TRUTH.values())).max()


def test_bounds_and_flags(model):
    data = simulate(model, 1e5)
    bounds = FitSettings().bounds | {"Mg": (0.0, 3.0), "Ca": (12.0, 20.0)}
    result = fit_spectrum(data, model, settings_of(start=HIGHLAND | {"O": 44.1}, bounds=bounds))
    assert result.weights[ELEMENTS.index("Mg")] == 3.0
    assert "at_upper_bound" in result.flags("Mg")
    assert "at_lower_bound" in result.flags("Ca")
    assert result.flags("O") == ("frozen",)
    assert "from_closure" in result.flags("Si")
    # A window without iron lines, and a prior: iron is the prior's.
    narrow = SpectralModel(
        make_response(), solar_spectrum(0.25), Geometry(40.0), channels=slice(35, 70)
    )
    xrf, scatter = narrow.counts(list(TRUTH.values()))
    counts = np.zeros(320)
    counts[35:70] = (xrf + scatter) * 2e3 / (xrf + scatter).sum()
    poor = fit_spectrum(Observation(counts, 1.0), narrow, settings_of(start=TRUTH))
    assert "not_constrained" in poor.flags("Fe")
    assert poor.element_flags.dtype == np.uint8
    assert set(ELEMENT_FLAGS.values()) == {1, 2, 4, 8, 16}


def test_statistics_against_their_definitions(rng):
    counts, back = rng.poisson(4.0, 40).astype(float), rng.poisson(9.0, 40).astype(float)
    counts[:5], back[3:8] = 0, 0
    t, tb = 3.0, 7.0
    model = rng.uniform(0.1, 3, 40)
    ones = np.ones(40)
    got = fit_kernels.statistic_kernel(
        fit_kernels.STATISTICS["wstat"], model, counts, back, t, tb, ones
    )
    # The profile likelihood by brute force: the best background rate of each channel, twice −log L against saturation.
    rates = np.concatenate([[1e-12], np.geomspace(1e-6, 30, 200_001)])
    expected = 0.0
    for m, s, b in zip(model, counts, back, strict=True):
        part = t * (m + rates) + tb * rates
        part = (
            part - (s * np.log(t * (m + rates)) if s else 0) - (b * np.log(tb * rates) if b else 0)
        )
        saturated = sum(n - n * np.log(n) for n in (s, b) if n)
        expected += 2 * (part.min() - saturated)
    assert got == pytest.approx(expected, rel=1e-6)
    chi2 = fit_kernels.statistic_kernel(0, model, counts, back, t, tb, 0.5 * ones)
    assert chi2 == pytest.approx(np.sum((counts / t - back / tb - model) ** 2 / 0.5))
    for code in (0, 1, 2):  # the slopes that the fit uses
        for c in range(40):
            arguments = (counts[c], back[c], t, tb, 0.5)
            h = 1e-6
            above, below = (
                fit_kernels._point.py_func(code, model[c] + d, *arguments)[0] for d in (h, -h)
            )
            slope = fit_kernels._point(code, model[c], *arguments)[1]
            assert slope == pytest.approx((above - below) / (2 * h), rel=1e-5, abs=1e-5)


def test_variance_conventions(model):
    data = simulate(model, 3e3, np.random.default_rng(5))
    xrf, scatter = model.counts(list(TRUTH.values()), 0.8, 0.7)
    total = xrf + scatter
    n, b = data.counts[CHANNELS], data.background[CHANNELS]
    t, tb = data.exposure, data.background_exposure
    net = n / t - b / tb
    used = n + b > 0
    got = spectrum_statistic(data, total, CHANNELS, FitSettings())
    assert got == pytest.approx(np.sum(((net - total) ** 2)[used] / (n / t**2 + b / tb**2)[used]))
    got = spectrum_statistic(data, total, CHANNELS, settings_of(variance="gehrels"))
    assert got == pytest.approx(
        np.sum((net - total) ** 2 / ((1 + np.sqrt(n + 0.75)) ** 2 / t**2 + b / tb**2))
    )


def test_line_shapes_agree_where_they_should(response):
    energy = np.array([1.2536, 3.6905])
    each = [
        fit_kernels.template_kernel(
            energy, shape, 0.02, response.energy_lo, response.energy_hi, response.area, response.row,
            response.channel, response.value, response.channels,
        )
        for shape in (0, 1, 2)
    ]  # fmt: skip
    centre = response.channel_energy()
    for split, single, gaussian in zip(*each, strict=True):
        assert split.sum() == pytest.approx(single.sum(), rel=0.02)
        assert gaussian.sum() == pytest.approx(split.sum(), rel=0.01)
    for line, split, gaussian in zip(energy, each[0], each[2], strict=True):
        assert split @ centre / split.sum() == pytest.approx(line, abs=2e-3)
        spread = [np.sqrt(x @ (centre - line) ** 2 / x.sum()) for x in (split, gaussian)]
        assert spread[1] ** 2 - spread[0] ** 2 == pytest.approx(0.02**2, rel=0.3)


def test_conventions_change_what_they_say(response, model):
    weights = list(TRUTH.values())
    geometry = Geometry(40.0, 0.0, 40.0, 120.0)

    def other(**changes):
        return SpectralModel(
            response, solar_spectrum(), geometry, exposure=16.0, channels=CHANNELS,
            conventions=Conventions(**changes),
        )  # fmt: skip

    xrf, scatter = model.counts(weights)
    assert other(scatter="none").counts(weights)[1].sum() == 0
    primary = other(secondary=False).counts(weights)[0]
    assert 0.97 < primary.sum() / xrf.sum() < 0.9999
    assert other(beam="incident").scale == pytest.approx(model.scale / np.cos(np.deg2rad(40)))
    expected = 12.5e4 * 12.5e4 * 3 / (16 * 4 * np.pi * (120e4) ** 2)
    assert other(scale="x2abund").scale == pytest.approx(expected)
    assert other(scale=2.5).counts(weights)[0].sum() == pytest.approx(2.5 / model.scale * xrf.sum())
    rayleigh = other(compton=False).counts(weights)[1]
    assert np.all(rayleigh <= scatter * (1 + 1e-9))
    given = (np.array([1.0]), np.array([2.0]), np.array([3.0]))
    fixed = SpectralModel(response, solar_spectrum(), geometry, channels=CHANNELS, scatter=given)
    photons = np.zeros(response.energies)
    inside = (response.energy_lo >= 1) & (response.energy_hi <= 2)
    photons[inside] = 3.0 * (response.energy_hi - response.energy_lo)[inside]
    np.testing.assert_allclose(
        fixed.scatter_template(weights).sum(), response.fold(photons)[CHANNELS].sum(), rtol=0.03
    )
    own = model.counts(weights)[0].sum()
    mistaken = other(secondary_jump="exciting").counts(weights)[0].sum()
    assert 1e-6 < abs(mistaken / own - 1) < 5e-3
    with pytest.raises(InputError, match="line_shape"):
        Conventions(line_shape="square")


def test_photon_model_puts_all_photons_somewhere():
    photons = PhotonModel(solar_spectrum(), Geometry(40.0))
    low = np.arange(0.2, 9.0, 0.01)
    xrf, scatter = photons.spectrum(list(TRUTH.values()), low, low + 0.01)
    assert xrf.sum() == pytest.approx(
        photons.line_intensities(list(TRUTH.values())).sum() * photons.scale, rel=1e-9
    )
    assert scatter.min() >= 0
    assert scatter.sum() > 0


def test_splitting_bins_at_edges_converges_faster(response):
    fine = solar_spectrum()
    weights = list(TRUTH.values())
    # Each ten bins joined: edges then fall deep inside bins.
    coarse = (fine[0][::10], fine[1][9::10], fine[2].reshape(-1, 10).mean(1))
    exact = PhotonModel(fine, Geometry(40.0)).line_intensities(weights)
    error = {
        split: np.abs(
            PhotonModel(coarse, Geometry(40.0), conventions=Conventions(split_edges=split)).line_intensities(weights)
            / exact - 1
        )
        for split in (True, False)
    }  # fmt: skip
    k_lines = PhotonModel(fine, Geometry(40.0)).fluorescence.line_energy > 1
    assert error[True][k_lines].max() < 0.05
    assert error[True][k_lines].max() < 0.5 * error[False][k_lines].max()


def test_a_fit_from_the_one_before_finds_the_same_minimum(model):
    rng = np.random.default_rng(11)
    settings, last = settings_of(start=TRUTH), None
    for data in [simulate(model, 2e4, rng) for _ in range(6)]:
        cold = fit_spectrum(data, model, settings)
        last = fit_spectrum(data, model, settings, warm_start=last)
        assert last.statistic == pytest.approx(cold.statistic, abs=0.5)


def test_spectra_that_cannot_be_fitted_say_why(response, model):
    data = simulate(model, 1e4)
    cases = {
        "night": (data, Geometry(95.0)),
        "bad_geometry": (data, Geometry(np.nan)),
        "no_counts": (replace(data, counts=np.zeros(320)), Geometry(40.0)),
        "bad_data": (replace(data, counts=np.full(320, np.nan)), Geometry(40.0)),
    }
    results = [
        fit_spectrum(
            spectrum,
            SpectralModel(response, solar_spectrum(), geometry, channels=CHANNELS),
            settings_of(start=TRUTH),
        )
        for spectrum, geometry in cases.values()
    ]
    assert [r.status for r in results] == list(cases)
    assert all(np.isnan(r.weights).all() for r in results)
    assert fit_spectrum(replace(data, exposure=0.0), model).status == "bad_data"
    low, high, flux = solar_spectrum()
    dark = SpectralModel(response, (low, high, 0 * flux), Geometry(40.0), channels=CHANNELS)
    assert fit_spectrum(data, dark).status == "no_solar_flux"


def test_arrays_that_do_not_fit_together(response, model):
    data = simulate(model, 1e4)
    with pytest.raises(InputError, match="1024 channels and a response of 320"):
        fit_spectrum(replace(data, counts=np.ones(1024), background=None), model)
    with pytest.raises(InputError, match="background of"):
        fit_spectrum(replace(data, background=np.ones(640)), model)
    low, high, flux = solar_spectrum()
    short = slice(0, 100)
    with pytest.raises(InputError, match=r"solar model ends at 2\.4 keV"):
        SpectralModel(
            response, (low[short], high[short], flux[short]), Geometry(40.0), channels=CHANNELS
        )
    with pytest.raises(InputError, match="shapes"):
        SpectralModel(response, (low, high, flux[:-1]), Geometry(40.0))
    with pytest.raises(InputError, match="selects no run"):
        SpectralModel(response, (low, high, flux), Geometry(40.0), channels=slice(5, 5))
    with pytest.raises(InputError, match="close the sum"):
        fit_spectrum(data, model, FitSettings(balance="O"))
    with pytest.raises(InputError, match="no start for"):
        fit_spectrum(data, model, FitSettings(start={"Fe": 1.0}))


def test_other_sets_of_elements(response):
    elements = ("Ca", "Si", "Al", "Mg", "O")
    tables = atomic_tables(elements)
    model = SpectralModel(
        response, solar_spectrum(), Geometry(40.0), tables=tables, channels=CHANNELS
    )
    truth = np.array([12.0, 22.0, 15.0, 6.0, 45.0])
    xrf, scatter = model.counts(truth)
    counts = np.zeros(320)
    counts[CHANNELS] = (xrf + scatter) * 1e6 / (xrf + scatter).sum()
    exposure = 1e6 / (xrf + scatter).sum()
    start = dict(zip(elements, (9.0, 20.0, 17.0, 9.0, 45.0), strict=True))
    result = fit_spectrum(
        Observation(counts, exposure), model, settings_of(start=start, prior_sigma={})
    )
    np.testing.assert_allclose(result.weights, truth, rtol=0.01)


def test_prior_composition():
    assert prior_composition(0.0) == dict(HIGHLAND)
    assert prior_composition(1.0) == pytest.approx(dict(MARE))
    assert prior_composition(0.25)["Fe"] == pytest.approx(0.75 * HIGHLAND["Fe"] + 0.25 * MARE["Fe"])
    with pytest.raises(InputError, match="fraction"):
        prior_composition(1.5)
