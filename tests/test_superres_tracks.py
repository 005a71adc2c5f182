"""The simulated study: closed compositions, footprints that are means, no way from truth to image but light."""

from __future__ import annotations

import numpy as np
import pytest

from lunarray.errors import InputError
from lunarray.simulate import track_scene
from lunarray.superres import GIBGrid
from lunarray.superres.support import footprint_support

NO_ERROR = dict.fromkeys(("Fe", "Ti", "Ca", "Si", "Al", "Mg", "Na", "O"), 0.0)


@pytest.fixture(scope="module")
def grid():
    return GIBGrid((1, 1), (80, 120), (12.0, 2.0, 19.9, 7.28))


@pytest.fixture(scope="module")
def scene(grid):
    return track_scene(grid, 3, coverage=0.25)


def test_elements_make_a_soil(scene):
    truth = scene.truth["abundance"]
    np.testing.assert_allclose(truth.sum("element"), 100, atol=1e-4)
    assert (truth > 0).all()
    limits = {"Fe": (2, 18), "Al": (3, 19), "O": (38, 48), "Si": (16, 26), "Ti": (0, 8)}
    for element, (low, high) in limits.items():
        values = truth.sel(element=element)
        assert low < float(values.min()) < float(values.max()) < high


def test_there_is_structure_at_a_few_pixels(scene):
    iron = scene.truth["abundance"].sel(element="Fe").values
    smooth = iron.reshape(16, 5, 24, 5).mean(axis=(1, 3)).repeat(5, 0).repeat(5, 1)
    assert 0.05 < (iron - smooth).std() < iron.std()


def test_coverage_is_what_was_asked_for(scene, grid):
    weight = np.cos(np.deg2rad(grid.lat()))[:, None]
    share = float((scene.covered * weight).sum() / (weight * np.ones((80, 120))).sum())
    assert 0.25 <= share < 0.36


def test_the_image_goes_with_the_composition_and_does_not_tell_it(scene):
    image = scene.basemap.interp(lat=scene.truth["lat"], lon=scene.truth["lon"]).values.ravel()
    r = np.corrcoef(image, scene.truth["abundance"].sel(element="Fe").values.ravel())[0, 1]
    assert -0.98 < r < -0.5
    assert scene.basemap.attrs["source"] == "simulated"
    step = np.abs(np.diff(scene.basemap["lat"])).mean()
    assert step == pytest.approx(np.abs(np.diff(scene.truth["lat"])).mean() / 2)
    assert float(scene.basemap["lat"].max()) > float(scene.truth["lat"].max()) + 0.9


def test_footprints_are_means_of_the_truth(grid):
    clean = track_scene(grid, 3, coverage=0.15, random_error=NO_ERROR, track_error=NO_ERROR)
    f = clean.footprints
    blank = np.zeros((f.sizes["footprint"], 8))
    support = footprint_support(
        f["corner_lat"].values, f["corner_lon"].values, blank, blank, grid.lat(), grid.lon()
    )
    flat = clean.truth["abundance"].values.reshape(8, -1).T
    np.testing.assert_allclose(support.mean(flat), f["abundance"], rtol=1e-5)
    # 100 km by 12.5 km.
    height = np.ptp(f["corner_lat"].values, axis=1)
    np.testing.assert_allclose(height * np.pi / 180 * 1737.4, 100, rtol=1e-6)


def test_errors_are_what_is_stated(grid):
    noisy = track_scene(grid, 3, coverage=0.3)
    clean = track_scene(grid, 3, coverage=0.3, random_error=NO_ERROR, track_error=NO_ERROR)
    np.testing.assert_array_equal(noisy.footprints["corner_lat"], clean.footprints["corner_lat"])
    error = noisy.footprints["abundance"] - clean.footprints["abundance"]
    pull = error / noisy.footprints["abundance_std"]
    pull = pull.sel(element=["Fe", "Si", "Al", "Ca", "O"]).values
    assert 0.6 < pull.std() < 1.4
    assert (noisy.footprints["abundance"] > 0).all()


def test_nothing_leaks_from_measurements_or_truth_into_the_image(scene, grid):
    other = track_scene(grid, 3, coverage=0.1, random_error={"Fe": 5.0})
    np.testing.assert_array_equal(other.basemap, scene.basemap)
    np.testing.assert_array_equal(other.truth["abundance"], scene.truth["abundance"])
    another = track_scene(grid, 4, coverage=0.1)
    assert not np.array_equal(another.basemap, scene.basemap)
    # Soils of one reflectance differ in composition: the image cannot be turned back.
    image = scene.basemap.interp(lat=scene.truth["lat"], lon=scene.truth["lon"]).values.ravel()
    iron = scene.truth["abundance"].sel(element="Fe").values.ravel()
    order = np.argsort(image)
    within = np.array([iron[part].std() for part in np.array_split(order, 50)])
    assert np.median(within) > 0.1 * iron.std()


def test_all_around_the_moon_there_is_no_seam():
    whole = GIBGrid((1, 2), (20, 60), (-180.0, -20.0, 180.0, 20.0))
    scene = track_scene(whole, 1, coverage=0.02, finer=1)
    lon = scene.basemap["lon"].values
    assert lon.size == 120
    assert (np.diff(lon) > 0).all()
    iron = scene.truth["abundance"].sel(element="Fe").values
    inside = np.quantile(np.abs(np.diff(iron, axis=1)), 0.99)
    assert np.median(np.abs(iron[:, 0] - iron[:, -1])) <= inside


def test_coverage_that_cannot_be():
    with pytest.raises(InputError, match="coverage"):
        track_scene(GIBGrid((1, 1), (10, 10), (0, 0, 1, 1)), coverage=1.5)
