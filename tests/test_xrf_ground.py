"""The map of mare that comes with lunarray, and the prior by ground."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr

from lunarray import xrf
from lunarray.errors import InputError
from lunarray.simulate import class_counts, class_orbit, class_response, thermal_spectrum
from lunarray.xrf.constants import ELEMENTS, HIGHLAND, MARE
from lunarray.xrf.ground import MARE_MAP, footprint_mare, mare_map

PLACES = {  # latitude, longitude, least and most share of mare
    "Mare Imbrium": (35.0, -16.0, 0.9, 1.0),
    "Mare Serenitatis": (28.0, 18.0, 0.9, 1.0),
    "Mare Crisium": (17.0, 59.0, 0.8, 1.0),
    "Apollo 12": (-3.0, -23.4, 0.9, 1.0),
    "Apollo 11": (0.7, 23.5, 0.6, 1.0),
    "Apollo 16": (-9.0, 15.5, 0.0, 0.2),
    "Tycho": (-43.3, -11.2, 0.0, 0.1),
    "far side": (20.0, 180.0, 0.0, 0.1),
    "South Pole-Aitken": (-55.0, -170.0, 0.2, 0.7),
    "north pole": (90.0, 0.0, 0.0, 0.1),
    "south pole": (-90.0, 0.0, 0.0, 0.1),
}


def test_map():
    share = mare_map()
    assert MARE_MAP.stat().st_size < 100_000
    assert share.shape == (360, 720)
    assert share.dtype == "f4"
    assert (float(share.min()), float(share.max())) == (0.0, 1.0)
    whole = float(share.weighted(np.cos(np.deg2rad(share["lat"]))).mean())
    assert 0.16 < whole < 0.24  # 17 % by outlines, and half of South Pole-Aitken's floor
    share[:] = 0.0
    assert float(mare_map().max()) == 1  # nobody's changes reach the next


@pytest.mark.parametrize("name", PLACES)
def test_known_places(name):
    lat, lon, least, most = PLACES[name]
    for turn in (0.0, 360.0, -360.0):
        prior = xrf.ground_prior(lat, lon + turn)
        assert least <= float(prior["mare_fraction"]) <= most


def test_prior():
    prior = xrf.ground_prior([35.0, -43.3, np.nan], [-16.0, -11.2, 0.0])
    assert list(prior["element"].values) == list(ELEMENTS)
    assert prior["mean"].dims == ("point", "element")
    for row, kind in ((0, MARE), (1, HIGHLAND)):
        np.testing.assert_allclose(prior["mean"][row], [kind[e] for e in ELEMENTS])
    assert prior.sel(point=2, drop=True)[["mean", "std"]].isnull().all().to_array().all()
    # Wider than what Lunar Prospector sees.
    wide = {"Fe": 4.5, "Ca": 2.5, "Al": 4.0, "Mg": 2.0}
    for element, least in wide.items():
        assert (prior["std"].sel(element=element)[:2] > least).all()


def test_prior_of_maps_and_lazily():
    grid = (
        xr.DataArray(np.linspace(-80, 80, 9), dims="lat"),
        xr.DataArray(np.arange(0.0, 360, 40), dims="lon"),
    )
    here = xrf.ground_prior(*grid)
    assert here["mean"].dims == ("lat", "lon", "element")
    lazy = xrf.ground_prior(*(g.chunk() for g in grid))
    assert lazy.chunks
    assert not here.chunks
    xr.testing.assert_equal(lazy.compute(), here)


@pytest.mark.parametrize(
    ("lat", "lon"), [(120.0, 10.0), ([0.0, 1.0], [0.0, 1.0, 2.0]), ("here", 0.0)]
)
def test_places_that_are_none(lat, lon):
    with pytest.raises(InputError):
        xrf.ground_prior(lat, lon)


def test_share_of_footprints():
    orbit = class_orbit(frames=4, node_longitude=-16.0)
    share = footprint_mare(orbit)
    assert share.shape == (4,)
    assert np.isfinite(share).all()
    middle = footprint_mare(orbit.drop_vars(["corner_lon", "corner_lat"]))
    np.testing.assert_allclose(share, middle, atol=0.35)
    assert footprint_mare(orbit.drop_vars(["corner_lon", "corner_lat", "lat", "lon"])) is None


@pytest.fixture(scope="module")
def seen():
    """Mare below the maria, and highlands below the highlands, under one flare."""
    response, solar = class_response(), thermal_spectrum(1.2, 1e-5)
    counts = np.round(4000 * np.exp(-np.arange(1024) / 400))
    background = xr.Dataset(
        {"counts": ("channel", counts), "exposure": 40_000.0, "n_detectors": 16.0}
    )
    out = {}
    for name, kind, node in (("mare", MARE, -16.0), ("highland", HIGHLAND, 150.0)):
        first = {"mare": 25.0, "highland": -10.0}[name]
        sun = {"subsolar_longitude": node, "first_latitude": first}
        orbit = class_orbit(frames=12, node_longitude=node, **sun)
        out[name] = class_counts(kind, orbit, solar, response, background=background, seed=11)
    return out, solar, response, background


@pytest.mark.parametrize("name", ["mare", "highland"])
def test_fit_takes_the_prior_of_the_ground(seen, name):
    spectra, solar, response, background = seen
    truth = {"mare": MARE, "highland": HIGHLAND}[name]
    fitted = xrf.fit_elements(spectra[name], solar, response, background)
    pull = ((fitted["abundance"] - xr.DataArray([truth[e] for e in ELEMENTS], dims="element"))
            / fitted["abundance_std"]).sel(element=["Fe", "Mg", "Al"])  # fmt: skip
    assert (abs(pull.mean("time")) < 1.0).all()
    plain = xrf.fit_elements(spectra[name], solar, response, background, mare_fraction=None)
    iron = [
        abs(float(r["abundance"].sel(element="Fe").mean()) - truth["Fe"]) for r in (fitted, plain)
    ]
    if name == "mare":
        assert iron[0] < iron[1] / 2


def test_settings_of_ones_own_stay(seen):
    spectra, solar, response, background = seen
    frames = spectra["mare"].isel(time=slice(0, 2))
    own = xrf.FitSettings(statistic="wstat", start={**HIGHLAND, "Fe": 4.0, "O": 44.81})
    given = xrf.fit_elements(frames, solar, response, background, settings=own)
    without = xrf.fit_elements(
        frames, solar, response, background, settings=own, mare_fraction=None
    )
    xr.testing.assert_allclose(given["abundance"], without["abundance"])
    # A prior of one's own about the ground's mean.
    narrow = dataclasses.replace(xrf.FitSettings(statistic="wstat"), prior_sigma={"Fe": 0.01})
    held = xrf.fit_elements(frames, solar, response, background, settings=narrow)
    share = footprint_mare(frames)
    expected = HIGHLAND["Fe"] + share * (MARE["Fe"] - HIGHLAND["Fe"])
    np.testing.assert_allclose(held["abundance"].sel(element="Fe"), expected, atol=0.05)
    with pytest.raises(InputError):
        xrf.fit_elements(frames, solar, response, background, mare_fraction="maria")
