"""Local angles and shadows from elevation models, and reflectance corrected with them."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from verbs import photometry

from lunarray import geo, simulate, sp
from lunarray.errors import InputError
from lunarray.geo.around import Ground, map_around
from lunarray.geo.relief import horizon, reach_of, slopes, sun_share, towards
from lunarray.sp.photometry import lunar_lambert

R = geo.RADIUS


def raster(values, box):
    array = xr.DataArray(values, geo.grid_coords(box), geo.grid_dims(box), "height")
    return geo.assign_crs(array, box)


def from_centre(lon, lat, lon0, lat0):
    """Distance (m) and azimuth (degrees) from a place."""
    azimuth, arc = towards(np.full_like(lon, lon0), np.full_like(lon, lat0), lon, lat)
    return np.deg2rad(arc) * R, azimuth


def crater(lon, lat, lon0=30.0, lat0=85.0, radius=10_000.0, depth=2_000.0, rim=600.0):
    """Height of an analytic crater: a paraboloid with a rim that falls off as the cube."""
    r = geo.great_circle_distance(lon, lat, lon0, lat0) / radius
    return np.where(r < 1, rim - depth * (1 - r**2), rim / np.maximum(r, 1) ** 3)


def ground_of(array):
    """The whole of a raster, as functions of points see it."""
    found = []

    def keep(ground, lon, lat):
        found.append(ground)
        return np.zeros((1, lon.size))

    map_around(keep, array, np.zeros(1), np.array([85.0]), outputs=1, reach=1.0, name="keep")
    return found[0]


@pytest.fixture(scope="module")
def bowl() -> Ground:
    box = geo.polar_grid("north", 250.0, 83.5)
    return ground_of(raster(crater(*geo.lonlat(box)), box))


def seen_through_space(height, lon, lat, azimuth, elevation, reach=80_000.0, step=25.0):
    """Whether a ray towards the Sun, a straight line in space, meets ground: a reference without any horizon."""
    up = geo.unit_vectors(lon, lat)
    east = np.array([-np.sin(np.deg2rad(lon)), np.cos(np.deg2rad(lon)), 0.0])
    north = np.cross(up, east)
    a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
    way = np.cos(e) * (np.sin(a) * east + np.cos(a) * north) + np.sin(e) * up
    start = (R + height(lon, lat)) * up
    points = start + way * np.arange(400.0, reach, step)[:, None]
    there_lon, there_lat = geo.lonlat_of(points)
    return not np.any(np.linalg.norm(points, axis=1) < R + height(there_lon, there_lat))


def test_shadows_of_a_crater_are_those_of_rays_through_space(bowl):
    rng = np.random.default_rng(5)
    n = 250
    turn, share = rng.uniform(0, 2 * np.pi, n), np.sqrt(rng.uniform(0, 1, n))
    lon, lat = geo.around.offset(30.0, 85.0, np.rad2deg(turn), np.rad2deg(share * 16_000.0 / R))
    azimuth, elevation = rng.uniform(0, 360, n), rng.uniform(0.5, 25.0, n)
    hidden = horizon(bowl, lon, lat, azimuth, start=400.0, reach=80_000.0)
    lit = elevation > hidden
    reference = [
        seen_through_space(crater, *place)
        for place in zip(lon, lat, azimuth, elevation, strict=True)
    ]
    clear = np.abs(elevation - hidden) > 0.3
    assert 0.2 < np.mean(reference) < 0.9
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(lit[clear], np.array(reference)[clear])


def test_the_horizon_of_a_rim_seen_from_the_floor(bowl):
    """From the middle of the crater the rim stands all around at an angle that can be written down."""
    azimuth = np.linspace(0, 350, 36)
    found = horizon(
        bowl, np.full(36, 30.0), np.full(36, 85.0), azimuth, start=250.0, reach=60_000.0
    )
    arc = 10_000.0 / R
    rim, floor = R + 600.0, R + 600.0 - 2_000.0
    exact = np.rad2deg(np.arctan2(rim * np.cos(arc) - floor, rim * np.sin(arc)))
    # Between two pixels a sharp rim is cut off by as much as it falls in half of one: 50 m at most.
    assert np.all(found < exact + 0.02)
    assert np.all(found > exact - np.rad2deg(50.0 / 10_000.0))


def test_the_sphere_falls_away():
    """A flat Moon has its horizon below the horizontal of high ground only, and far peaks sink."""
    box = geo.polar_grid("north", 1000.0, 80.0)
    lon, lat = geo.lonlat(box)
    level = ground_of(raster(np.zeros(box.shape), box))
    place = np.array([30.0]), np.array([85.0]), np.array([180.0])
    assert -0.05 < horizon(level, *place, start=0.0, reach=100_000.0)[0] < 0.0
    distance, _ = from_centre(lon, lat, 30.0, 85.0)
    wall = np.where(np.abs(distance - 100_000.0) < 3_000.0, 4_000.0, 0.0)
    wall = ground_of(raster(wall, box))
    found = horizon(wall, *place, start=0.0, reach=150_000.0)[0]
    arc = 98_000.0 / R
    exact = np.rad2deg(np.arctan2((R + 4_000) * np.cos(arc) - R, (R + 4_000) * np.sin(arc)))
    assert found == pytest.approx(exact, abs=0.08)
    assert exact < np.rad2deg(np.arctan(4_000.0 / 98_000.0)) - 1.5
    assert reach_of(90.0) == pytest.approx(np.sqrt(2 * R * 10_000.0), rel=1e-6)
    assert reach_of(45.0) == pytest.approx(10_000.0, rel=0.01)


@pytest.mark.parametrize(("lon0", "lat0"), [(0.0, 0.0), (180.0, 10.0), (-120.0, -88.0)])
def test_slopes_are_those_of_a_plane(lon0, lat0):
    box = (
        geo.polar_grid("south", 200.0, 87.0)
        if lat0 < -80
        else geo.lunar_grid("geographic", 0.02, (lon0 - 1, lat0 - 1, lon0 + 1, lat0 + 1))
    )
    lon, lat = geo.lonlat(box)
    distance, azimuth = from_centre(lon, lat, lon0, lat0)
    turn = np.deg2rad(azimuth)
    height = distance * (0.10 * np.sin(turn) - 0.05 * np.cos(turn))
    found = slopes(ground_of(raster(height, box)), np.array([lon0]), np.array([lat0]), 2000.0)
    np.testing.assert_allclose(found.ravel(), [0.10, -0.05], atol=2e-3)


def test_the_sun_is_a_disk():
    np.testing.assert_allclose(sun_share([5.0, 4.7, 4.3, 5.3], 5.0), [0.5, 0.0, 0.0, 1.0])
    share = sun_share(np.linspace(4.7, 5.3, 50), 5.0)
    assert np.all(np.diff(share) >= 0)


# --- spectra ---------------------------------------------------------------------------------------


def scene(n=400, incidence=78.0, seed=0):
    """Footprints in and around the crater, their true reflectance 0.15, under a Sun in the south-east."""
    rng = np.random.default_rng(seed)
    share, turn = np.sqrt(rng.uniform(0, 1, n)), rng.uniform(0, 360, n)
    lon, lat = geo.around.offset(30.0, 85.0, turn, np.rad2deg(share * 20_000.0 / R))
    along = ("observation",)
    coords = {
        "lon": (along, lon),
        "lat": (along, lat),
        "incidence": (along, np.full(n, incidence)),
        "emission": (along, np.zeros(n)),
        "phase": (along, np.full(n, incidence)),
        "solar_azimuth": (along, np.full(n, 135.0)),
        "wavelength": sp.WAVELENGTHS_150,
    }
    return xr.Dataset(coords=coords)


def observed(ds, dem_slope=crater):
    """Gain by the crater's own analytic slopes, without a raster, and whether the Sun is seen through space."""
    lon, lat = ds.lon.values, ds.lat.values
    step = 50.0
    height = {
        turn: dem_slope(*geo.around.offset(lon, lat, float(turn), np.rad2deg(step / R)))
        for turn in (0, 90, 180, 270)
    }
    north, east = (height[0] - height[180]) / (2 * step), (height[90] - height[270]) / (2 * step)
    up = 1 / np.sqrt(1 + north**2 + east**2)
    i, a = np.deg2rad(ds.incidence.values), np.deg2rad(ds.solar_azimuth.values)
    mu0 = up * (np.cos(i) - np.sin(i) * (east * np.sin(a) + north * np.cos(a)))
    local = np.rad2deg(np.arccos(mu0)), np.rad2deg(np.arccos(up))
    gain = lunar_lambert(*local, ds.phase.values) / lunar_lambert(
        ds.incidence.values, 0.0, ds.phase.values
    )
    sun = zip(lon, lat, ds.solar_azimuth.values, 90 - ds.incidence.values, strict=True)
    lit = np.array([seen_through_space(dem_slope, *one) for one in sun]) & (mu0 > 0)
    return gain, lit


@pytest.mark.parametrize("chunks", [None, 150])
def test_gain_of_a_crater_is_taken_out(chunks):
    box = geo.polar_grid("north", 250.0, 83.0)
    dem = raster(crater(*geo.lonlat(box)), box)
    ds = scene()
    gain, lit = observed(ds)
    spectra = 0.15 * np.where(lit, gain, 0.001)[:, None] * np.ones(150)
    attrs = {"units": "1", "photometric_geometry": "30 0 30", "light": "flat"}
    ds["reflectance"] = (("observation", "wavelength"), spectra.astype("f4"), attrs)
    if chunks:
        ds, dem = ds.chunk(observation=chunks), dem.chunk(90)
    out = ds.lunar.correct_topography(dem, undo=True)
    assert (out.light_gain.chunks is None) == (chunks is None)
    out = out.compute()
    level = out.reflectance.mean("wavelength").values
    kept = np.isfinite(level)
    assert 0.3 < kept.mean() < 0.95
    # What is left out is dark, but for the rim, where a footprint has half of either.
    assert np.mean(lit[kept]) > 0.97
    assert np.mean(kept[lit]) > 0.93
    good = kept & lit
    before = np.log(gain[good])
    after = np.log(level[good] / 0.15)
    assert np.std(before) > 0.25
    assert np.median(np.abs(after)) < 0.03
    assert np.mean(np.abs(after) < 2 * out.light_uncertainty.values[good]) > 0.9
    shadow = (out.light_quality.values & sp.LIGHT_FLAGS["shadow"]) > 0
    np.testing.assert_array_equal(shadow, ~kept)
    assert out.reflectance.attrs["light"] == "topography"


def test_observed_radiance_factors_come_out_like_undone_ones():
    box = geo.polar_grid("north", 500.0, 83.0)
    dem = raster(crater(*geo.lonlat(box)), box)
    ds = scene(60, 70.0)
    model = photometry()
    ds = ds.isel(wavelength=slice(5, 140, 20))
    flat = xr.DataArray(np.full((60, 7), 0.12, "f4"), dims=("observation", "wavelength"))
    product = ds.assign(reflectance=flat.assign_attrs(photometric_geometry="30 0 30"))
    seen = sp.normalize_photometry(product, model, (70.0, 0.0, 70.0))
    del seen.reflectance.attrs["photometric_geometry"]
    a = sp.correct_topography(product, dem, undo=True)
    b = sp.correct_topography(seen, dem, model)
    assert np.isfinite(a.reflectance).any()
    np.testing.assert_allclose(a.reflectance, b.reflectance, rtol=2e-4)


def test_a_sun_over_a_place_is_the_sun_of_its_angles():
    box = geo.polar_grid("north", 500.0, 83.0)
    dem = raster(crater(*geo.lonlat(box)), box)
    ds = scene(50)
    azimuth, incidence = towards(ds.lon.values, ds.lat.values, 100.0, 6.0)
    along = "observation"
    level = xr.DataArray(np.full((50, 150), 0.1, "f4"), dims=(along, "wavelength"))
    level.attrs["photometric_geometry"] = "30 0 30"
    angles = ds.assign(reflectance=level).assign_coords(
        incidence=(along, incidence), phase=(along, incidence), solar_azimuth=(along, azimuth)
    )
    bare = angles.drop_vars(["incidence", "emission", "phase", "solar_azimuth"])
    a = sp.correct_topography(angles, dem, undo=True)
    b = sp.correct_topography(bare, dem, undo=True, subsolar=(100.0, 6.0))
    np.testing.assert_allclose(a.light_gain, b.light_gain, rtol=1e-4)


def test_what_was_normalised_for_flat_ground_is_refused():
    box = geo.polar_grid("north", 2000.0, 83.0)
    dem = raster(np.zeros(box.shape), box)
    ds = scene(5)
    flat = xr.DataArray(np.full((5, 150), 0.1, "f4"), dims=("observation", "wavelength"))
    product = ds.assign(reflectance=flat.assign_attrs(photometric_geometry="30 0 30"))
    with pytest.raises(InputError, match="flat ground"):
        sp.correct_topography(product, dem)
    with pytest.raises(InputError, match="parameters"):
        sp.correct_topography(ds.assign(reflectance=flat), dem)
    with pytest.raises(InputError, match="solar_azimuth"):
        sp.correct_topography(product.drop_vars("solar_azimuth"), dem, undo=True)
    product.reflectance.attrs["light"] = "albedo"
    with pytest.raises(InputError, match="albedo"):
        sp.correct_topography(product, dem, undo=True)


def test_level_ground_changes_nothing_and_gaps_are_no_shadow():
    box = geo.polar_grid("north", 500.0, 83.0)
    dem = raster(np.zeros(box.shape), box)
    dem = dem.where(dem.x > -20_000.0)
    ds = scene(40, 60.0)
    flat = xr.DataArray(np.full((40, 150), 0.1, "f4"), dims=("observation", "wavelength"))
    product = ds.assign(reflectance=flat.assign_attrs(photometric_geometry="30 0 30"))
    lon = np.where(np.arange(40) < 20, 30.0, -90.0)
    out = sp.correct_topography(product.assign_coords(lon=("observation", lon)), dem, undo=True)
    np.testing.assert_allclose(out.light_gain[:20], 1.0, atol=2e-3)
    assert np.isnan(out.reflectance[20:]).all()
    assert not (out.light_quality & sp.LIGHT_FLAGS["shadow"]).any()


def test_radiance_becomes_the_radiance_factor():
    nm = np.array([600.0, 1000.0, 1500.0])
    ds = xr.Dataset(
        {"radiance": (("observation", "wavelength"), np.full((2, 3), 40.0, "f4"))},
        {"wavelength": nm},
    )
    flux = xr.DataArray([1800.0, 700.0, 280.0], {"wavelength": nm}, ("wavelength",))
    out = ds.lunar.radiance_factor(flux, distance=1.01)
    np.testing.assert_allclose(out.reflectance[0], np.pi * 40 * 1.01**2 / flux, rtol=1e-5)
    assert "photometric_geometry" not in out.reflectance.attrs
    with pytest.raises(InputError, match="radiance"):
        sp.radiance_factor(out.drop_vars("radiance"), flux)


# --- simulated ground ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rough():
    return simulate.polar_scene("south", 4000.0, 83.0, 2, slope_rms=5.0, chunks=None)


def test_simulated_slopes_are_those_asked_for(rough):
    south, east = np.gradient(rough.height.values, 4000.0)
    for slope in (south, east):
        assert np.rad2deg(np.arctan(slope.std())) == pytest.approx(5.0, rel=0.25)
    lazy = simulate.polar_scene("south", 4000.0, 83.0, 2, slope_rms=5.0, chunks=37)
    xr.testing.assert_identical(lazy.compute(), rough)
    level = simulate.polar_scene("south", 4000.0, 83.0, 2, chunks=None)
    assert "incidence" not in level
    np.testing.assert_array_equal(level.light_uncertainty, np.float32(0.02))
    for oxide in ("FeO_true", "MgO_true"):
        xr.testing.assert_identical(level[oxide], rough[oxide])
    ratio = (rough.reflectance / level.reflectance).median("wavelength") / rough.light_gain_true
    lit = rough.light_gain_true > 0.3
    assert float(abs(np.log(ratio.where(lit))).quantile(0.9)) < 0.06


def test_simulated_light_is_taken_out_by_its_heights(rough):
    """The corrected reflectance is the level scene's, and what is in shadow is told."""
    out = sp.correct_topography(rough, rough.height, undo=True, footprint=4000.0)
    inner = (slice(3, -3), slice(3, -3))
    gain, found = (a.values[inner] for a in (rough.light_gain_true, out.light_gain))
    kept = np.isfinite(found)
    off = np.log(gain[kept] / found[kept])
    assert np.std(np.log(gain)) > 0.8
    assert np.std(off) < 0.2
    assert np.mean(np.abs(off) < 1.645 * out.light_uncertainty.values[inner][kept]) > 0.9
    dark = gain < 0.05
    shadow = (out.light_quality.values[inner] & sp.LIGHT_FLAGS["shadow"]) > 0
    assert 0.02 < dark.mean() < 0.6
    assert np.mean(shadow[dark]) > 0.97
    assert np.mean(kept[gain > 0.3]) > 0.93


def test_what_a_model_lacks_is_as_rough_as_the_model(rough):
    """Slopes finer than its pixels follow from those that it shows: of a mare less than of a highland."""
    told = {}
    for name, factor in {"smooth": 0.1, "as it is": 1.0, "steep": 2.0}.items():
        ground = rough.assign(height=rough.height * factor)
        out = sp.correct_topography(ground, ground.height, undo=True)
        told[name] = float(out.light_uncertainty.median())
        again = sp.correct_topography(ground, ground.height, undo=True, footprint=4000.0)
        xr.testing.assert_equal(out.light_gain, again.light_gain)  # a map's footprint is its pixel
    assert told["smooth"] < 0.8 * told["as it is"] < 0.8 * told["steep"]
    given = [
        sp.correct_topography(rough, rough.height, undo=True, slope_error=s).light_uncertainty
        for s in (1.0, 4.0)
    ]
    assert float(given[0].median()) < 0.6 * float(given[1].median())


def test_drawn_gains_are_those_of_the_ground():
    gains = simulate.light_gains(np.full(50_000, 70.0), 4.0, rng=3)
    told = sp.light_uncertainty(
        xr.Dataset(coords={"incidence": ("observation", [70.0])}), slope_rms=4.0
    ).item()
    assert np.sqrt(np.mean(np.log(gains) ** 2)) == pytest.approx(told, rel=0.05)
    np.testing.assert_array_equal(simulate.light_gains([30.0, 80.0], 0.0), 1.0)
    with pytest.raises(InputError, match="slope_rms"):
        simulate.light_gains([30.0], -1.0)
