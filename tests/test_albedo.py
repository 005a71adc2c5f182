"""Reflectance scaled to an albedo, and rasters around points."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from verbs import native

import lunarray as la
from lunarray import geo, sp
from lunarray.errors import BandMismatchError, InputError
from lunarray.geo.around import Ground, map_around, offset, window_of
from lunarray.sp.albedo import NORMAL_TO_STANDARD


def raster(values, box):
    array = xr.DataArray(values, geo.grid_coords(box), geo.grid_dims(box), "albedo")
    return geo.assign_crs(array, box)


def smooth(box):
    """An albedo without a seam and without a kink at the poles."""
    lon, lat = geo.lonlat(box)
    x, y, z = np.moveaxis(geo.unit_vectors(lon, lat), -1, 0)
    return raster(0.25 + 0.05 * x + 0.03 * y * z, box)


def truth(lon, lat):
    x, y, z = np.moveaxis(geo.unit_vectors(lon, lat), -1, 0)
    return 0.25 + 0.05 * x + 0.03 * y * z


def at_place(ground: Ground, lon, lat):
    return ground.at(lon, lat)[None]


PLACES = [(0.0, 0.0), (179.9, 20.0), (-179.9, -33.0), (180.0, 5.0), (12.0, 89.9), (-50.0, -89.95)]


@pytest.mark.parametrize("grid", ["geographic", "equirectangular"])
@pytest.mark.parametrize("chunks", [None, 20])
def test_values_around_the_seam_and_over_the_poles(grid, chunks):
    box = geo.lunar_grid(grid, 2.0 if grid == "geographic" else np.pi * geo.RADIUS / 90)
    ground = smooth(box)
    ground = ground if chunks is None else ground.chunk(chunks)
    lon, lat = np.array(PLACES).T
    found = map_around(at_place, ground, lon, lat, outputs=1, reach=1000.0, name="here")
    found = np.asarray(found)[0]
    here = np.abs(lat) < 88 if grid == "equirectangular" else np.ones(6, bool)
    np.testing.assert_allclose(found[here], truth(lon, lat)[here], atol=2e-4)


@pytest.mark.parametrize("pole", ["north", "south"])
def test_windows_hold_all_that_is_within_reach(pole):
    """What a window leaves out is farther away than it was asked for, whatever the points."""
    rng = np.random.default_rng(3)
    sign = 1 if pole == "north" else -1
    for box in (geo.polar_grid(pole, 5_000.0, 75.0), geo.lunar_grid("geographic", 1.0)):
        lon_all, lat_all = geo.lonlat(box)
        for width in (0.5, 40.0, 360.0):
            lon = rng.uniform(-180, 180) + rng.uniform(0, width, 20)
            lat = sign * rng.uniform(78, 90, 20)
            window = window_of(box, (lon + 180) % 360 - 180, lat, 50_000.0)
            covered = np.zeros(box.shape, bool)
            columns = np.arange(window.left, window.right) % box.shape[1]
            covered[window.top : window.bottom, columns] = True
            far = np.ones(box.shape, bool)
            for a, b in zip(lon, lat, strict=True):
                d = geo.great_circle_distance(lon_all, lat_all, a, b)
                far &= ~(d < 50_000.0)
            assert covered[~far].all()


def test_offsets_are_arcs_of_great_circles():
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, 50), rng.uniform(-89, 89, 50)
    azimuth, arc = rng.uniform(0, 360, 50), rng.uniform(0, 30, 50)
    there = offset(lon, lat, azimuth, arc)
    distance = geo.great_circle_distance(lon, lat, *there)
    np.testing.assert_allclose(distance, np.deg2rad(arc) * geo.RADIUS, rtol=1e-9, atol=1e-3)
    north = offset(np.zeros(1), np.zeros(1), np.zeros(1), np.full(1, 10.0))
    np.testing.assert_allclose(np.ravel(north), [0.0, 10.0], atol=1e-12)
    east = offset(np.zeros(1), np.zeros(1), np.full(1, 90.0), np.full(1, 10.0))
    np.testing.assert_allclose(np.ravel(east), [10.0, 0.0], atol=1e-12)


def lit(gain, **coords):
    """One soil at places of an albedo map, seen under light of different gain."""
    nm = sp.WAVELENGTHS_160
    shape = 0.6 + 4e-4 * nm.astype(float)
    shape /= np.interp(1064.0, nm, shape)
    lon = np.linspace(-179, 179, len(gain))
    lat = np.linspace(-85, 85, len(gain))
    normal = truth(lon, lat)
    level = np.interp(normal, *np.array(NORMAL_TO_STANDARD).T)
    ds = xr.Dataset(
        {"reflectance": (("observation", "wavelength"), (level * gain)[:, None] * shape)},
        {"lon": ("observation", lon), "lat": ("observation", lat), "wavelength": nm},
    )
    right = level[:, None] * shape
    return ds.astype("f4").assign_coords(coords), right


def test_the_gain_is_found_and_the_shape_kept():
    gain = np.random.default_rng(1).lognormal(0, 0.5, 40)
    ds, right = lit(gain)
    out = ds.lunar.scale_to_albedo(smooth(geo.lunar_grid("geographic", 1.0)))
    np.testing.assert_allclose(out.light_gain, gain, rtol=2e-3)
    np.testing.assert_allclose(out.reflectance, right, rtol=2e-3)
    assert out.reflectance.attrs["light"] == "albedo"
    assert np.all(out.light_quality == 0)
    assert np.all((out.light_uncertainty > 0.07) & (out.light_uncertainty < 0.15))
    with pytest.raises(InputError, match="already"):
        sp.scale_to_albedo(out, smooth(geo.lunar_grid("geographic", 1.0)))


def test_gaps_have_no_gain_and_a_flag():
    ds, _ = lit(np.full(40, 0.5), incidence=("observation", np.full(40, 80.0)))
    albedo = smooth(geo.lunar_grid("geographic", 1.0))
    albedo = albedo.where(albedo.lat < 0)
    out = sp.scale_to_albedo(ds, albedo)
    north = out.lat.values > 1.5
    assert np.isnan(out.light_gain.values[north]).all()
    assert np.all(out.light_quality.values[north] & sp.LIGHT_FLAGS["no_albedo"])
    np.testing.assert_array_equal(out.reflectance.values[north], ds.reflectance.values[north])
    flat = sp.light_uncertainty(ds)
    np.testing.assert_array_equal(out.light_uncertainty.values[north], flat.values[north])
    south = out.lat.values < -1.5
    assert np.isfinite(out.light_gain.values[south]).all()
    assert not np.any(out.light_quality.values[south] & sp.LIGHT_FLAGS["no_albedo"])
    # No spectrum is not no albedo.
    empty = sp.scale_to_albedo(ds.where(ds.lat < -50), smooth(geo.lunar_grid("geographic", 1.0)))
    assert np.isnan(empty.light_gain.values[-5:]).all()
    assert not np.any(empty.light_quality & sp.LIGHT_FLAGS["no_albedo"])
    bare, _ = lit(np.ones(40))
    unknown = sp.scale_to_albedo(bare, albedo).light_uncertainty.values[north]
    assert np.all(unknown == 0.5)


def test_the_albedo_tells_shadow_and_makes_good_for_a_low_sun():
    gain = np.where(np.arange(40) % 4, 0.5, 0.03)
    ds, _ = lit(gain, incidence=("observation", np.full(40, 86.0)))
    assert np.all(sp.condition(ds).light_quality == sp.LIGHT_FLAGS["grazing_light"])
    out = sp.scale_to_albedo(ds, smooth(geo.lunar_grid("geographic", 1.0)))
    np.testing.assert_array_equal(
        out.light_quality, np.where(gain < 0.1, sp.LIGHT_FLAGS["shadow"], 0)
    )


def test_fine_maps_are_averaged_over_the_footprint():
    """A chessboard of pixels much smaller than a footprint has the mean albedo there."""
    box = geo.polar_grid("north", 50.0, 89.8)
    row, column = np.indices(box.shape)
    albedo = raster(np.where((row + column) % 2, 0.2, 0.3), box)
    ds, _ = lit(np.ones(3))
    ds = ds.assign_coords(lat=("observation", np.array([89.9, 89.95, 90.0])))
    out = sp.scale_to_albedo(ds, albedo, footprint=500.0, ratio=2.0)
    brightness = ds.reflectance.sel(wavelength=slice(1039, 1089)).median("wavelength")
    np.testing.assert_allclose(out.light_gain, brightness / 0.125, rtol=0.03)


def test_a_map_as_fine_as_the_footprints_leaves_little_unseen():
    rng = np.random.default_rng(4)
    told = {}
    for pixel in (500.0, 1000.0, 5000.0):
        box = geo.polar_grid("north", pixel, 89.0)
        albedo = raster(0.25 * np.exp(0.1 * rng.standard_normal(box.shape)), box)
        ds, _ = lit(np.ones(300))
        ds = ds.assign_coords(lat=("observation", rng.uniform(89.3, 90, 300)))
        told[pixel] = float(sp.scale_to_albedo(ds, albedo, ratio=2.0).light_uncertainty.median())
    assert told[500.0] < 0.045 < 0.055 < told[1000.0] < 0.9 * told[5000.0]


def test_a_map_and_its_pixels_one_by_one():
    box = geo.polar_grid("south", 30_000.0, 80.0)
    lon, lat = geo.lonlat(box)
    nm = sp.WAVELENGTHS_160
    data = np.full((nm.size, *box.shape), 0.1, "f4")
    cube = xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), data)},
        {"wavelength": nm, **geo.grid_coords(box)},
    )
    cube = geo.assign_crs(cube, "south")
    albedo = smooth(geo.lunar_grid("geographic", 1.0))
    out = sp.scale_to_albedo(cube.chunk(y=7, x=9), albedo).compute()
    again = sp.scale_to_albedo(cube, albedo)
    xr.testing.assert_equal(out.light_gain, again.light_gain)
    level = np.interp(truth(lon, lat), *np.array(NORMAL_TO_STANDARD).T)
    np.testing.assert_allclose(out.light_gain, 0.1 / level, rtol=2e-3)


def test_what_makes_no_sense_is_told():
    albedo = smooth(geo.lunar_grid("geographic", 5.0))
    ds, _ = lit(np.ones(3))
    with pytest.raises(BandMismatchError, match="1064"):
        sp.scale_to_albedo(ds.sel(wavelength=slice(500, 900)), albedo)
    with pytest.raises(InputError, match="ratio"):
        sp.scale_to_albedo(ds, albedo, ratio=-1.0)
    with pytest.raises(InputError, match="lon and lat"):
        sp.scale_to_albedo(ds.drop_vars(["lon", "lat"]), albedo)
    with pytest.raises(InputError, match="path"):
        sp.scale_to_albedo(ds, 0.3)


@pytest.mark.realdata
def test_two_real_orbits_on_lola(real_data):
    """Over the same highlands the laser's albedo moves the brightness by a few per cent."""
    ds = la.open_sp([real_data / "sp"])
    lola = la.maps.open_map(real_data / "maps" / "Albedo_Map.csv.gz")
    out = sp.scale_to_albedo(ds, lola).compute()
    gain = out.light_gain.groupby("orbit").mean()
    np.testing.assert_allclose(gain, [0.986, 0.952], atol=0.01)
    assert np.all(out.light_quality == 0)
    spread = np.log(out.light_gain).groupby("orbit").std()
    told = out.light_uncertainty.groupby("orbit").mean()
    assert np.all(spread / told < 1.5)


def test_the_light_shows_in_native_spectra_too():
    out = sp.scale_to_albedo(native(), smooth(geo.lunar_grid("geographic", 1.0)))
    assert out.sizes["wavelength"] == 296
    assert sp.condition(out).light_gain.dims == ("observation",)


def test_a_map_that_is_no_albedo_is_refused():
    """Per cent, or heights in metres, would make soils brighter than snow."""
    ds, _ = lit(np.ones(40))
    with pytest.raises(InputError, match="as a fraction"):
        sp.scale_to_albedo(ds, 100 * smooth(geo.lunar_grid("geographic", 1.0))).load()
    with pytest.raises(InputError, match="a str"):
        sp.light_uncertainty("a.spc")
