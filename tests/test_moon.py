"""The simulated Moon: one surface under all its maps."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

import lunarray as la
from lunarray import geo
from lunarray.errors import GridError, InputError
from lunarray.oxides import OXIDES
from lunarray.simulate.globe import REFERENCE_NOISE
from lunarray.simulate.surface import Surface, random_fields, unit_vector

SIZE = {"resolution": 64_000.0, "seed": 3}


@pytest.fixture(scope="module")
def whole():
    return la.simulate.moon(**SIZE, chunks=None)


@pytest.fixture(scope="module")
def surface():
    return Surface.random(3)


def test_chunks_do_not_matter_and_nothing_is_computed_early(whole, no_compute):
    lazy = la.simulate.moon(**SIZE, chunks=17)
    again = la.simulate.moon(**SIZE, chunks=17)
    assert lazy.north.reflectance.data.name == again.north.reflectance.data.name
    other = la.simulate.moon(64_000.0, 4, chunks=17)
    assert lazy.north.reflectance.data.name != other.north.reflectance.data.name
    with dask.config.set(scheduler="sync"):
        for name in ("north", "south", "reference", "second_north", "second_south"):
            a, b = getattr(lazy, name), getattr(whole, name)
            xr.testing.assert_identical(a.compute(), b)


def test_truth_is_the_surface_at_the_pixel(whole, surface):
    for pole in ("north", "south"):
        cube = getattr(whole, pole)
        lon, lat = geo.lonlat(geo.geobox_of(cube))
        expected = surface.oxides(lon.ravel(), lat.ravel())
        for index, oxide in enumerate(OXIDES):
            np.testing.assert_array_equal(cube[f"{oxide}_true"].values.ravel(), expected[:, index])


def test_oxides_sum_to_a_soil_and_span_highlands_and_maria(surface):
    lon, lat = np.meshgrid(np.arange(-180.0, 180.0, 5), np.arange(-85.0, 86.0, 5))
    oxides = surface.oxides(lon.ravel(), lat.ravel())
    assert oxides.sum(axis=1) == pytest.approx(99.6, abs=0.6)
    feo = oxides[:, 0]
    assert np.percentile(feo, 10) < 7
    assert feo.max() > 15
    # What is at home where on the Moon: Frigoris and Imbrium mare, SPA norite, the far side's highlands.
    places = {"frigoris": (0.0, 57.0), "spa": (-169.0, -50.0), "far": (170.0, 30.0)}
    at = {
        name: surface.oxides(np.array([lon]), np.array([lat]))[0]
        for name, (lon, lat) in places.items()
    }
    assert at["frigoris"][0] > 14
    assert 9 < at["spa"][0] < 15
    assert at["spa"][4] > at["far"][4]  # MgO: orthopyroxene
    assert at["far"][2] > 22  # Al2O3


def test_no_seam_and_no_pole(surface):
    """The same place by two names, and neighbours across the seam and the pole, are alike."""
    lat = np.linspace(-89.0, 89.0, 60)
    np.testing.assert_allclose(
        surface.oxides(np.full(60, -180.0), lat), surface.oxides(np.full(60, 180.0), lat), atol=2e-4
    )
    at_pole = surface.oxides(np.arange(0.0, 360.0, 30.0), np.full(12, 90.0))
    np.testing.assert_allclose(at_pole, np.broadcast_to(at_pole[0], at_pole.shape), atol=2e-4)
    across = surface.oxides(np.array([-179.999, 179.999]), np.array([-60.0, -60.0]))
    np.testing.assert_allclose(across[0], across[1], atol=0.02)


def test_random_fields_have_unit_variance_all_over(surface):
    rng = np.random.default_rng(1)
    p = rng.standard_normal((3, 40_000))
    p /= np.linalg.norm(p, axis=0)
    fields = random_fields(surface.waves, tuple(p))
    assert fields.std(axis=1) == pytest.approx(1.0, abs=0.2)
    # A field's phase after one wavelength along a great circle comes back: unit_vector and waves agree on the scale.
    assert np.hypot(*unit_vector(10.0, 20.0)[:2]) == pytest.approx(np.cos(np.deg2rad(20.0)))


def test_reference_is_the_surface_with_the_errors_it_says(whole, surface):
    reference = whole.reference
    assert dict(reference.sizes) == {
        "lat": 278,
        "lon": 768,
    }  # 2/9 of a pixel of 2.111°, whole around
    assert float(np.abs(reference.lat).max()) < 65
    part = reference.sel(lat=slice(64.5, 58))
    lon, lat = np.meshgrid(part.lon.values, part.lat.values)
    truth = surface.oxides(lon.ravel(), lat.ravel())
    for index, oxide in enumerate(OXIDES):
        error = part[oxide].values.ravel() - truth[:, index]
        assert error.std() == pytest.approx(REFERENCE_NOISE[oxide], rel=0.15), oxide
        assert abs(error.mean()) < 0.15
        # Neighbours' errors are nearly independent: averaging a window takes most of them away.
        grid = error.reshape(part.sizes["lat"], -1)
        assert abs(np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]) < 0.2


def test_second_map_lies_on_another_grid_with_other_errors(whole, surface):
    second = whole.second_north
    assert geo.geobox_of(second).shape != geo.geobox_of(whole.north).shape
    lon, lat = geo.lonlat(geo.geobox_of(second))
    truth = surface.oxides(lon.ravel(), lat.ravel())[:, 0]
    ratio = second.values.ravel() / truth
    assert np.median(ratio) == pytest.approx(1.03, abs=0.03)
    assert 0.03 < ratio.std() < 0.15


def test_spectra_follow_composition_and_are_dark_where_no_one_looked(whole):
    cube = whole.south
    seen = np.isfinite(cube.reflectance.values).all(axis=0)
    np.testing.assert_array_equal(seen, np.isfinite(cube.reflectance.values).any(axis=0))
    assert 0.01 < 1 - seen.mean() < 0.15
    brightness = cube.reflectance.values[:, seen].mean(axis=0)
    assert np.corrcoef(brightness, cube.FeO_true.values[seen])[0, 1] < -0.85
    # Noise grows as the Sun gets low: residuals of neighbouring bands, relative to the spectrum.
    lat = geo.lonlat(geo.geobox_of(cube))[1]
    rough = np.abs(np.diff(cube.reflectance.values, 2, axis=0)).mean(
        axis=0
    ) / cube.reflectance.values.mean(axis=0)
    assert np.nanmedian(rough[lat < -88.5]) > 1.3 * np.nanmedian(rough[lat > -70])


def test_truth_maps(whole):
    truth = la.simulate.truth_maps(whole.north)
    np.testing.assert_array_equal(truth.FeO, whole.north.FeO_true)
    moles = {"MgO": 40.304, "FeO": 71.844}
    expected = 100 / (1 + (truth.FeO / moles["FeO"]) / (truth.MgO / moles["MgO"]))
    np.testing.assert_allclose(truth.Mg_number, expected, rtol=1e-5)
    with pytest.raises(InputError, match="FeO_true"):
        la.simulate.truth_maps(whole.north[["reflectance"]])


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (InputError, {"chunks": 0}),
        (InputError, {"wavelengths": [900.0, 800.0]}),
        (InputError, {"latitude": 95.0}),
        (InputError, {"reference_latitude": 0.0}),
        (GridError, {"resolution": -1.0}),
    ],
)
def test_input_errors(error, options):
    with pytest.raises(error):
        la.simulate.moon(**{**SIZE, **options})
