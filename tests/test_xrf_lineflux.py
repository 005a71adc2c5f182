"""Line fluxes, their ratios, and the composition searched for them."""

from __future__ import annotations

import numpy as np
import pytest

from lunarray.errors import InputError
from lunarray.xrf.constants import ELEMENTS, HIGHLAND
from lunarray.xrf.lineflux import LineFluxes, fit_line_fluxes, search_composition
from lunarray.xrf.model import SpectralModel
from lunarray.xrf.response import Response
from lunarray.xrf.settings import Geometry, Observation

CHANNELS = slice(30, 200)
WEIGHTS = np.array([5.0, 0.5, 10.0, 21.5, 13.0, 4.5, 0.5, 45.0])


@pytest.fixture(scope="module")
def model():
    edges, bounds = np.linspace(0.02, 8.7, 641), np.linspace(0.0, 8.64, 321)
    middle, centre = (edges[1:] + edges[:-1]) / 2, (bounds[1:] + bounds[:-1]) / 2
    dense = (
        np.exp(-0.5 * ((centre - middle[:, None]) / 0.055) ** 2)
        * 0.027
        / (0.055 * np.sqrt(2 * np.pi))
    )
    dense[dense < 1e-7] = 0
    where = dense != 0
    row = np.concatenate([[0], np.cumsum(where.sum(1))])
    area = 45 * np.exp(-((0.9 / middle) ** 3))
    response = Response(
        edges[:-1],
        edges[1:],
        area,
        row,
        np.nonzero(where)[1],
        dense[where],
        bounds[:-1],
        bounds[1:],
    )
    low = 0.4 + 0.02 * np.arange(900)
    solar = (low, low + 0.02, 3e6 * np.exp(-low / 0.8) / low**1.5)
    return SpectralModel(response, solar, Geometry(40.0), channels=CHANNELS)


def simulate(model, counts, rng=None):
    xrf, scatter = model.counts(WEIGHTS, 1.0, 1.0)
    rate = xrf + scatter
    exposure = counts / rate.sum()
    full = np.zeros(320)
    full[CHANNELS] = rate * exposure if rng is None else rng.poisson(rate * exposure)
    return Observation(full, exposure)


def kb_ratios(model):
    flux = dict(zip(model.tables.line_names, model.line_intensities(WEIGHTS), strict=True))
    return {e: flux[f"{e} Kb"] / flux[f"{e} Ka"] for e in ELEMENTS if f"{e} Kb" in flux}


LINES = ("Na Ka", "Mg Ka", "Al Ka", "Si Ka", "Ca Ka", "Ti Ka")


def test_fluxes_without_noise(model):
    found = fit_line_fluxes(
        simulate(model, 1e7), model.full_response, LINES, channels=CHANNELS, scatter=model.scattered(WEIGHTS),
        with_kb=kb_ratios(model),
    )  # fmt: skip
    names = model.tables.line_names
    truth = (model.line_intensities(WEIGHTS) * model.scale)[[names.index(n) for n in LINES]]
    np.testing.assert_allclose(found.fluxes, truth, rtol=0.02)  # Fe L reaches into the window
    np.testing.assert_allclose(found.fluxes[1:5], truth[1:5], rtol=0.004)
    assert found.scatter_norm == pytest.approx(1, rel=0.02)
    assert found.dof == 170 - 7


def test_errors_are_what_they_say(model, rng):
    names = model.tables.line_names
    truth = (model.line_intensities(WEIGHTS) * model.scale)[[names.index(n) for n in LINES]]
    scatter, ratios_kb = model.scattered(WEIGHTS), kb_ratios(model)
    pulls, ratios = [], []
    for _ in range(150):
        found = fit_line_fluxes(
            simulate(model, 3e4, rng), model.full_response, LINES, channels=CHANNELS, scatter=scatter,
            with_kb=ratios_kb,
        )  # fmt: skip
        pulls.append((found.fluxes - truth) / found.errors)
        value, error = found.ratio("Mg", "Si")
        ratios.append((value - truth[1] / truth[3]) / error)
    strong = [1, 2, 3, 4]
    pulls = np.array(pulls)[:, strong]
    assert np.all(np.abs(pulls.mean(axis=0)) < 0.3)
    assert np.all(np.abs(pulls.std(axis=0) - 1) < 0.2)
    assert np.std(ratios) == pytest.approx(1, abs=0.2)


def test_ratio_uses_the_covariance():
    covariance = np.array([[0.04, 0.03], [0.03, 0.09]])
    fluxes = LineFluxes(
        ("Mg Ka", "Si Ka"), np.array([2.0, 4.0]), np.sqrt(np.diag(covariance)), covariance, 1.0, 0.1, 0.0, 1,
        np.zeros(1),
    )  # fmt: skip
    draws = np.random.default_rng(0).multivariate_normal(fluxes.fluxes, covariance / 100, 200_000)
    value, error = fluxes.ratio("Mg", "Si")
    assert value == 0.5
    assert error == pytest.approx(10 * (draws[:, 0] / draws[:, 1]).std(), rel=0.02)
    assert fluxes.ratios((("Mg", "Si"),)) == {"Mg/Si": (value, error)}
    with pytest.raises(InputError, match="no flux of Fe Ka"):
        fluxes.ratio("Fe", "Si")


@pytest.mark.parametrize("absolute", [False, True])
def test_search_finds_the_composition(model, absolute):
    found = fit_line_fluxes(
        simulate(model, 1e8), model.full_response, LINES, channels=CHANNELS, scatter=model.scattered(WEIGHTS),
        with_kb=kb_ratios(model),
    )  # fmt: skip
    start = dict(zip(ELEMENTS, WEIGHTS, strict=True)) | {"Ca": 12.0, "Al": 15.0, "Mg": 3.0}
    result = search_composition(
        found, model, start=start, free=("Ca", "Al", "Mg"), absolute=absolute
    )
    np.testing.assert_allclose(result.weights, WEIGHTS, rtol=0.03)
    assert result.weights.sum() == pytest.approx(100)
    assert result.evaluated < 1000
    assert np.isnan(result.errors[0])
    assert 0 < result.errors[4] < 1


def test_impossible_constraints(model):
    found = fit_line_fluxes(simulate(model, 1e5), model.full_response, channels=CHANNELS)
    with pytest.raises(InputError, match="sums to 100"):
        search_composition(found, model, start=HIGHLAND, bounds={"Si": (90.0, 95.0)})
    with pytest.raises(InputError, match="no line"):
        fit_line_fluxes(simulate(model, 1e5), model.full_response, ("Xx Ka",))


def test_beta_lines_by_rates_cost_little(model):
    data, scatter = simulate(model, 1e7), model.scattered(WEIGHTS)
    exact, rates = (
        fit_line_fluxes(
            data, model.full_response, LINES, channels=CHANNELS, scatter=scatter, with_kb=kb
        )
        for kb in (kb_ratios(model), True)
    )
    np.testing.assert_allclose(rates.fluxes[1:5], exact.fluxes[1:5], rtol=0.02)
    assert rates.statistic > exact.statistic
