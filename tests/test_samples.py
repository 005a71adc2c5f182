"""Training samples from maps: windows, screening, counts, laziness, and the correlation of bands with oxides."""

from __future__ import annotations

import itertools

import dask
import dask.array as da
import numpy as np
import pyproj
import pytest
import scipy.stats
import xarray as xr

from lunarray import geo
from lunarray.errors import BandMismatchError, BodyMismatchError, GridError, InputError
from lunarray.oxides import OXIDES, Screen, band_correlation, build_samples, select_samples
from lunarray.oxides import lattice as places
from lunarray.oxides import samples as module

R = 1_737_400.0
NM = np.array([550.0, 750.0, 900.0, 1000.0], np.float32)
STEPS = module.STATUS[1:]


# --- Maps, and windows on them by a way of their own ----------------------------------------------


def on_grid(geobox, values, names=None, wavelength=NM):
    """A cube (wavelength, row, column), or with names a Dataset of maps."""
    coords = geo.grid_coords(geobox)
    dims = tuple(coords)
    if names is None:
        ds = xr.Dataset(
            {"reflectance": (("wavelength", *dims), values)}, {"wavelength": wavelength, **coords}
        )
    else:
        ds = xr.Dataset({n: (dims, v) for n, v in zip(names, values, strict=True)}, coords)
    return geo.assign_crs(ds, geobox)


def polar_cube(pole, rng, resolution=40_000.0, latitude=50.0):
    box = geo.polar_grid(pole, resolution, latitude)
    values = rng.uniform(0.02, 0.3, (NM.size, *box.shape)).astype(np.float32)
    return on_grid(box, values)


def oxide_maps(rng, columns=720, band=65.0, names=OXIDES):
    """Maps of the whole turn between two latitudes."""
    step = 360.0 / columns
    box = geo.lunar_grid("geographic", step, (-180.0, -band, 180.0, band))
    assert box.shape == (round(2 * band / step), columns)
    values = rng.uniform(5.0, 20.0, (len(names), *box.shape)).astype(np.float32)
    return on_grid(box, values, names)


def lattice(lon, lat):
    both = list(itertools.product([*lat, *(-v for v in lat)], lon))
    return np.array([p[1] for p in both], float), np.array([p[0] for p in both], float)


def stereographic(lon, lat, pole):
    """Snyder's equations 21-5 to 21-8 on the sphere, scale 1 at the pole."""
    sign = 1.0 if pole == "north" else -1.0
    rho = 2 * R * np.tan(np.radians(90.0 - sign * lat) / 2)
    return rho * np.sin(np.radians(lon)), -sign * rho * np.cos(np.radians(lon))


def nearest(centres, at, window, turn=None):
    """Indices of the `window` pixels nearest along one axis, the later one on a tie; -1 beyond the edge."""
    step = centres[1] - centres[0]
    index = np.arange(-window - 1, centres.size + window + 1)
    if turn is not None:
        index = np.arange(-centres.size, 2 * centres.size)
    distance = np.round(np.abs(centres[0] + step * index - at) / abs(step), 5)
    chosen = np.sort(index[np.lexsort((-index, distance))[:window]])
    if turn is not None:
        return chosen % centres.size
    return np.where((chosen >= 0) & (chosen < centres.size), chosen, -1)


def window_mean(values, rows, columns):
    """Mean over pixels valid in all bands and their share, pixel by pixel."""
    spectra = [
        values[:, r, c].astype(float)
        for r, c in itertools.product(rows, columns)
        if r >= 0 and c >= 0 and np.isfinite(values[:, r, c]).all()
    ]
    share = len(spectra) / (len(rows) * len(columns))
    mean = np.mean(spectra, axis=0) if spectra else np.full(len(values), np.nan)
    return mean, share


def polar_mean(cube, pole, lon, lat, window):
    x, y = stereographic(lon, lat, pole)
    return window_mean(
        cube["reflectance"].values,
        nearest(cube["y"].values, y, window),
        nearest(cube["x"].values, x, window),
    )


def map_mean(ds, oxide, lon, lat, window):
    mean, share = window_mean(
        ds[oxide].values[None],
        nearest(ds["lat"].values, lat, window),
        nearest(ds["lon"].values, lon, window, turn=360),
    )
    return mean[0], share


@pytest.fixture
def north(rng):
    return polar_cube("north", rng)


@pytest.fixture
def south(rng):
    return polar_cube("south", rng)


@pytest.fixture
def reference(rng):
    return oxide_maps(rng)


def chunked(obj, size):
    return obj.chunk({dim: size for dim in obj.dims if dim != "wavelength"})


# --- The lattice and the windows ------------------------------------------------------------------


def test_default_lattice_is_the_papers(north, south, reference):
    found = build_samples([north, south], reference)
    assert found.sizes["sample"] == found.attrs["lattice_points"] == 69 * 28
    assert np.array_equal(np.unique(found.lon), np.arange(-170, 171, 5.0))
    assert np.array_equal(np.unique(np.abs(found.lat)), np.arange(51, 65, 1.0))
    assert (found.lat > 0).sum() == 69 * 14
    assert found["reflectance"].dims == ("sample", "wavelength")
    assert {v.dtype for v in found.data_vars.values()} == {np.dtype("f4"), np.dtype("u1")}
    assert found["FeO"].attrs["units"] == "percent"
    assert "lunarray_version" in found.attrs


@pytest.mark.parametrize(("spectra_window", "reference_window"), [(2, 17), (1, 4), (3, 5)])
def test_samples_are_means_of_the_nearest_pixels(
    north, south, reference, spectra_window, reference_window
):
    lons, lats = (-179.9, -90.0, -42.5, 0.0, 33.3, 178.0), (51.0, 57.3, 63.0)
    found = build_samples(
        [north, south],
        reference,
        lon=list(lons),
        lat=list(lats),
        spectra_window=spectra_window,
        reference_window=reference_window,
    )
    at_lon, at_lat = lattice(lons, lats)
    assert np.allclose(found.lon, at_lon)
    assert np.allclose(found.lat, at_lat)
    for i, (lon, lat) in enumerate(zip(at_lon, at_lat, strict=True)):
        cube, pole = (north, "north") if lat > 0 else (south, "south")
        wanted, _ = polar_mean(cube, pole, lon, lat, spectra_window)
        assert np.allclose(found["reflectance"][i], wanted, rtol=1e-6)
        for oxide in OXIDES:
            wanted, _ = map_mean(reference, oxide, lon, lat, reference_window)
            assert np.isclose(found[oxide][i], wanted, rtol=1e-6)
    assert (found["status"] == 0).all()


def test_nearest_two_by_two_at_the_pole_are_the_four_around_it(north, rng):
    maps = on_grid(
        geo.polar_grid("north", 25_000.0, 50.0),
        rng.uniform(1, 20, (1, *geo.polar_grid("north", 25_000.0, 50.0).shape)).astype("f4"),
        ["FeO"],
    )
    found = build_samples(
        north, maps, lon=[0.0], lat=[90.0], mirror=False, oxides=["FeO"], reference_window=4
    )
    r = north.sizes["y"] // 2
    around = north["reflectance"].values[:, r - 1 : r + 1, r - 1 : r + 1]
    assert np.allclose(found["reflectance"][0], around.mean(axis=(1, 2)), rtol=1e-6)
    r = maps.sizes["y"] // 2
    assert np.isclose(
        found["FeO"][0], maps["FeO"].values[r - 2 : r + 2, r - 2 : r + 2].mean(), rtol=1e-6
    )


def test_windows_run_on_across_the_seam(north, reference):
    at = {"lon": [-180.0, 179.9, -179.9], "lat": [55.2], "mirror": False}
    found = build_samples(north, reference, **at)
    rows = nearest(reference["lat"].values, 55.2, 17)
    # The seam is at column 0: the 17 columns about it are the last 8 and the first 9.
    columns = np.r_[-8:0, 0:9]
    wanted = reference["FeO"].values[np.ix_(rows, columns)].mean()
    assert np.isclose(found["FeO"][0], wanted, rtol=1e-6)
    # A map counted from 0 to 360° has its seam elsewhere and says the same.
    turned = reference.roll(lon=360).assign_coords(lon=reference["lon"].values + 180.0)
    turned = geo.assign_crs(turned.drop_vars("spatial_ref"), "geographic")
    assert turned["lon"].values[0] == 0.25
    again = build_samples(north, turned, **at)
    for oxide in OXIDES:
        assert np.array_equal(found[oxide], again[oxide])


def test_windows_stop_at_the_edge_of_a_part_of_the_turn(north, reference):
    half = geo.assign_crs(reference.isel(lon=slice(0, 360)).drop_vars("spatial_ref"), "geographic")
    at = {"lon": [-180.0], "lat": [55.2], "mirror": False, "reference_window": 4}
    found = build_samples(north, half, **at)
    rows = nearest(reference["lat"].values, 55.2, 4)
    assert np.isclose(found["FeO"][0], half["FeO"].values[rows, :2].mean(), rtol=1e-6)
    assert found["status"].item() == 0  # just half of the window is there
    found = build_samples(north, half, **at, min_reference=0.51)
    assert module.STATUS[found["status"].item()] == "no_reference"


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("lat", [90.0, -90.0, 89.2])
def test_windows_run_on_across_a_pole(rng, lat, flip):
    box = geo.lunar_grid("geographic", 1.0)
    values = rng.uniform(1, 20, (1, *box.shape)).astype(np.float32)
    maps = on_grid(box, values, ["FeO"])
    cube = on_grid(box, np.repeat(values, NM.size, axis=0))
    if flip:
        maps, cube = (
            geo.assign_crs(o.isel(lat=slice(None, None, -1)).drop_vars("spatial_ref"), "geographic")
            for o in (maps, cube)
        )
    found = build_samples(
        cube, maps, lon=[30.4], lat=[lat], mirror=False, oxides=["FeO"], reference_window=5
    )
    # Rows counted from the pole: -1 is the first beyond it, on the opposite meridian. On the pole itself three rows on
    # one side and two on the other are as near as the reverse; those later in the array are taken.
    from_pole = int(90 - abs(lat)) + np.arange(-2, 3) - (abs(lat) == 90 and (lat == 90) == flip)
    total = []
    for k, column in itertools.product(from_pole, np.arange(208, 213)):  # about 30.5°
        beyond = k < 0
        row = -1 - k if beyond else k
        total.append(values[0, row if lat > 0 else 179 - row, (column + 180 * beyond) % 360])
    assert np.isclose(found["FeO"].item(), np.mean(total), rtol=1e-6)
    assert found["status"].item() == 0


def test_equirectangular_map_that_overhangs_the_seam(north):
    box = geo.lunar_grid("equirectangular", 50_000.0)
    turn = 2 * np.pi * R / 50_000.0
    assert box.shape[1] > turn  # whole pixels do not divide the turn
    rows = np.broadcast_to(np.arange(box.shape[0], dtype="f4")[:, None], box.shape)
    x = geo.grid_coords(box)["x"].values
    inside = np.abs(x) <= np.pi * R
    maps = on_grid(box, [np.where(inside, rows, np.nan).astype("f4")], ["FeO"])
    found = build_samples(
        north,
        maps,
        lon=[-180.0, 0.0],
        lat=[55.0],
        mirror=False,
        oxides=["FeO"],
        reference_window=5,
        min_reference=0.75,
    )
    # Four of five columns at least have their centre within ±180°; a window cut at the seam had three.
    assert found["status"].values.tolist() == [0, 0]
    assert found["FeO"].values[0] == found["FeO"].values[1]


def test_orientation_and_names_of_dimensions_do_not_matter(north, reference):
    at = {"lon": [-33.1, 120.3], "lat": [55.2, 61.1], "mirror": False}  # no two equally near
    wanted = build_samples(north, reference, **at)
    plain = reference.drop_vars("spatial_ref")
    variants = {
        "rising": plain.isel(lat=slice(None, None, -1)),
        "transposed": plain.transpose("lon", "lat"),
        "long names": plain.rename(lat="latitude", lon="longitude"),
        "as rioxarray": plain.rename(lat="y", lon="x"),
    }
    for name, variant in variants.items():
        found = build_samples(
            north.transpose("x", "wavelength", "y"), geo.assign_crs(variant, "geographic"), **at
        )
        for oxide in OXIDES:
            assert np.allclose(found[oxide], wanted[oxide], rtol=1e-6), name
        assert np.array_equal(found["reflectance"], wanted["reflectance"])


def test_a_place_named_twice_is_one_sample(rng):
    box = geo.lunar_grid("geographic", 2.0)
    cube = on_grid(box, rng.random((NM.size, *box.shape)).astype("f4"))
    maps = on_grid(box, rng.random((1, *box.shape)).astype("f4"), ["FeO"])
    found = build_samples(
        cube,
        maps,
        lon=(-180, 180, 90),
        lat=[0.0, 90.0],
        oxides=["FeO"],
        reference_window=3,
    )
    places = list(zip(found.lon.values, found.lat.values, strict=True))
    assert places == [(-180, 0), (-90, 0), (0, 0), (90, 0), (-180, 90), (-180, -90)]
    assert found.attrs["lattice_points"] == 6


def test_first_cube_that_holds_a_point_gives_it(north, reference):
    other = north.assign(reflectance=north["reflectance"] + 1)
    at = {"lon": [10.0], "lat": [60.0], "mirror": False}
    one = build_samples({"a": north, "b": other}, reference, **at)
    two = build_samples((other, north), reference, **at)
    assert np.allclose(two["reflectance"], one["reflectance"] + 1)


def test_reference_in_several_maps_and_as_an_array(north, south, reference):
    wanted = build_samples([north, south], reference)
    parts = {
        "north": reference.sel(lat=slice(65, 0)),
        "south": reference.sel(lat=slice(0, -65)),
    }
    assert parts["north"].sizes["lat"] == parts["south"].sizes["lat"] == 130
    found = build_samples([north, south], parts)
    array = geo.assign_crs(reference.to_dataarray("oxide"), "geographic")
    also = build_samples([north, south], array)
    for oxide in OXIDES:
        assert np.array_equal(found[oxide], wanted[oxide])
        assert np.array_equal(also[oxide], wanted[oxide])


def test_resampled_spectra(north, reference):
    nm = [710.0, 740.0, 785.0]
    native_nm = np.array([700.0, 740.0, 780.0, 820.0])
    north = north.assign_coords(wavelength=native_nm)
    at = {"lon": [10.0], "lat": [60.0], "mirror": False}
    found = build_samples(north.lunar.resample_bands(nm), reference, **at)
    native = build_samples(north, reference, **at)["reflectance"].values[0]
    assert np.array_equal(found["wavelength"], np.float32(nm))
    assert np.allclose(found["reflectance"][0], np.interp(nm, native_nm, native), rtol=1e-5)


# --- Missing data, screening and counts -----------------------------------------------------------


def test_gaps_and_the_least_number_of_valid_pixels(north, reference):
    lon, lat = 20.0, 57.0
    at = {"lon": [lon], "lat": [lat], "mirror": False}
    x, y = stereographic(lon, lat, "north")
    rows, columns = nearest(north["y"].values, y, 2), nearest(north["x"].values, x, 2)
    cube = north.copy(deep=True)
    values = cube["reflectance"].values
    # One band missing takes the pixel out of all bands.
    values[1, rows[0], columns[0]] = np.nan
    values[:, rows[0], columns[1]] = np.nan
    values[2, rows[1], columns[0]] = np.inf
    left = values[:, rows[1], columns[1]].copy()
    found = build_samples(cube, reference, **at)
    assert np.array_equal(found["reflectance"][0], left)
    assert found["status"].item() == 0  # one of four
    found = build_samples(cube, reference, **at, min_spectra=0.26)
    assert module.STATUS[found["status"].item()] == "no_spectrum"
    values[:, rows[1], columns[1]] = np.nan
    for least in (0.0, 0.25):
        found = build_samples(cube, reference, **at, min_spectra=least)
        assert module.STATUS[found["status"].item()] == "no_spectrum"
        assert np.isnan(found["reflectance"]).all()

    maps = reference.copy(deep=True)
    rows = nearest(maps["lat"].values, lat, 10)
    columns = nearest(maps["lon"].values, lon, 10, turn=360)
    holes = np.zeros(100, bool)
    holes[:30] = True
    window = maps["MgO"].values[np.ix_(rows, columns)].astype(float)
    window[holes.reshape(10, 10)] = np.nan
    maps["MgO"].values[np.ix_(rows, columns)] = window
    # At the share itself a sample is in, however the share is typed: float32(0.7) < 0.7.
    for share, status in ((0.7, 0), (np.float64(0.7), 0), (0.71, 5)):
        found = build_samples(north, maps, **at, reference_window=10, min_reference=share)
        assert found["status"].item() == status
        assert np.isclose(found["MgO"].item(), np.nanmean(window), rtol=1e-6)


def test_screening_by_a_second_map(north, south, reference, rng):
    box = geo.lunar_grid("geographic", 1.0, (-180.0, -70.0, 180.0, 70.0))
    base = reference["FeO"].coarsen(lat=2, lon=2).mean().values
    values = np.full(box.shape, np.nan, "f4")
    values[5:-5] = 12.5 * rng.uniform(0.85, 1.15, base.shape)
    values[:, 100:110] = np.nan
    values[:, 200] = -1.0
    values[:, 201] = -1.0
    screen = on_grid(box, [values], ["FeO"])
    lons = np.r_[-160:160:20, -129.5, -79.6, -78.7]  # some by the stripes
    found = build_samples([north, south], reference, screen=screen, lon=lons)
    status = found["status"].values
    expected = []
    for i in range(found.sizes["sample"]):
        lon, lat = found["lon"].values[i], found["lat"].values[i]
        second, share = map_mean(screen, "FeO", lon, lat, 2)
        first, _ = map_mean(reference, "FeO", lon, lat, 17)
        assert np.isclose(found["FeO_screen"][i], second, rtol=1e-5, equal_nan=True)
        if share < 0.25:
            expected.append("no_screen")
        elif min(first, second) > 0 and abs(first - second) / min(first, second) < 0.1:
            expected.append("used")
        else:
            expected.append("screened_out")
    assert [module.STATUS[s] for s in status] == expected
    assert len(set(expected)) == 3

    chosen = select_samples(found)
    assert chosen.attrs["samples"] == chosen.sizes["sample"] == expected.count("used")
    assert chosen.attrs["lattice_points"] == 19 * 28
    for step in STEPS:
        assert chosen.attrs[f"lost_{step}"] == expected.count(step)
    assert np.isfinite(chosen["reflectance"]).all()
    assert np.array_equal(chosen["lon"], found["lon"].values[status == 0])


@pytest.mark.parametrize(
    ("second", "used"), [(11.0, False), (10.99, True), (9.0, False), (9.2, True)]
)
def test_at_the_tolerance_a_point_is_out(north, reference, second, used):
    flat = reference.assign(FeO=xr.full_like(reference["FeO"], 10.0))
    screen = xr.full_like(reference["FeO"], second)
    at = {"lon": [20.0], "lat": [57.0], "mirror": False}
    found = build_samples(north, flat, screen=screen, **at)
    assert module.STATUS[found["status"].item()] == ("used" if used else "screened_out")
    loose = build_samples(north, flat, screen=Screen(screen, tolerance=0.2), **at)
    assert loose["status"].item() == 0


def test_every_step_that_loses_is_counted_first_come(north, rng):
    """One point for each step; nothing but the first step counts."""
    names = ["FeO"]
    maps = oxide_maps(rng, columns=180, band=66.0, names=names)
    maps["FeO"][:] = 10.0
    screen = geo.assign_crs(
        maps.isel(lon=slice(0, 150)).copy(deep=True).drop_vars("spatial_ref"), "geographic"
    )
    cube = north.copy(deep=True)
    lons = {"used": 0.0, "no_spectrum": 20.0, "no_reference": 40.0, "no_screen": 60.0}
    lons |= {"screened_out": 80.0, "outside_screen": 140.0}
    x, y = stereographic(lons["no_spectrum"], 60.0, "north")
    for r in nearest(cube["y"].values, y, 2):
        cube["reflectance"].values[:, r, nearest(cube["x"].values, x, 2)] = np.nan

    def spoil(ds, step, value):
        near = nearest(maps["lon"].values, lons[step], 5, turn=360)
        ds["FeO"].values[:, near] = value

    spoil(maps, "no_reference", np.nan)
    spoil(screen, "no_screen", np.nan)
    spoil(screen, "screened_out", 20.0)
    found = build_samples(
        cube,
        maps,
        screen=screen,
        lon=list(lons.values()),
        lat=[20.0, 60.0, 70.0],
        mirror=False,
        oxides=names,
        reference_window=3,
    )
    by_row = found["status"].values.reshape(3, -1)
    assert [module.STATUS[s] for s in by_row[1]] == list(lons)
    assert {module.STATUS[s] for s in by_row[0]} == {"outside_spectra"}
    # 70° is beyond the reference, and its spectra are there.
    assert {module.STATUS[s] for s in by_row[2]} == {"outside_reference"}
    chosen = select_samples(found)
    wanted = {f"lost_{s}": by_row.ravel().tolist().count(i + 1) for i, s in enumerate(STEPS)}
    assert {k: v for k, v in chosen.attrs.items() if k.startswith("lost_")} == wanted
    assert chosen.attrs["samples"] == 1
    assert chosen.attrs["lattice_points"] == 18
    assert sum(wanted.values()) + 1 == 18


# --- Selecting ------------------------------------------------------------------------------------


def test_the_error_of_the_reference_goes_with_the_samples(north, reference):
    given = {"FeO": 0.3, "MgO": 0}
    built = build_samples(north, reference, reference_std=given, mirror=False)
    found = select_samples(built)
    assert {name for name in found if name.endswith("_std")} == {"FeO_std", "MgO_std"}
    np.testing.assert_array_equal(found.FeO_std, np.float32(0.3))
    assert found.FeO_std.attrs["units"] == "percent"
    for wrong in ({"K2O": 0.1}, {"FeO": -1}, {"FeO": np.nan}):
        with pytest.raises(InputError, match="reference_std"):
            build_samples(north, reference, reference_std=wrong)


def some_samples(rng, n=40, bands=5, names=("FeO", "MgO")):
    return xr.Dataset(
        {
            "reflectance": (("sample", "wavelength"), rng.random((n, bands)).astype("f4")),
            **{name: ("sample", rng.uniform(1, 20, n).astype("f4")) for name in names},
        },
        {"wavelength": np.linspace(500, 1500, bands)},
    )


def test_select_drops_what_is_not_finite(rng):
    ds = some_samples(rng)
    ds["reflectance"][3, 2] = np.nan
    ds["FeO"][[3, 5]] = np.nan
    ds["MgO"][7] = np.inf
    before = dict(ds.attrs)
    found = select_samples(ds)
    assert ds.attrs == before  # the argument stays as it was
    assert found.sizes["sample"] == 37
    assert found.attrs == {"lattice_points": 40, "lost_not_finite": 3, "samples": 37}
    keep = np.setdiff1d(np.arange(40), [3, 5, 7])
    assert np.array_equal(found["reflectance"], ds["reflectance"][keep])


def test_selecting_again_changes_nothing(north, reference):
    found = build_samples(north, reference)
    once = select_samples(found)
    assert once.attrs["lost_outside_spectra"] == 966
    twice = select_samples(once)
    xr.testing.assert_identical(once, twice)
    assert "samples" not in found.attrs
    # A NaN that came later is found all the same.
    spoiled = once.copy(deep=True)
    spoiled["FeO"][0] = np.nan
    again = select_samples(spoiled)
    assert again.attrs["lost_not_finite"] == 1
    assert again.attrs["samples"] == once.attrs["samples"] - 1
    assert select_samples(again).attrs == again.attrs


def test_select_orders_dimensions_and_computes(rng):
    ds = some_samples(rng)
    found = select_samples(ds.transpose("wavelength", "sample").chunk(sample=7))
    assert found["reflectance"].dims == ("sample", "wavelength")
    assert not dask.is_dask_collection(found)
    assert np.array_equal(found["reflectance"], ds["reflectance"])


def test_one_sample_is_selected(rng):
    found = select_samples(some_samples(rng, n=1))
    assert found.sizes["sample"] == 1
    assert np.isnan(band_correlation(found)).all()


def test_none_left_is_an_error_that_says_why(north, reference):
    empty = north.assign(reflectance=north["reflectance"] * np.nan)
    found = build_samples(empty, reference)
    with pytest.raises(InputError, match="no usable sample is left of 1932") as caught:
        select_samples(found)
    assert "966 outside_spectra" in str(caught.value)
    assert "966 no_spectrum" in str(caught.value)
    assert "0 " not in caught.value.problem.split("(")[1]


def test_not_samples(north, rng):
    for function in (select_samples, band_correlation):
        with pytest.raises(InputError, match="reflectance"):
            function(xr.Dataset({"FeO": ("sample", [1.0])}))
        with pytest.raises(InputError, match="dimensions"):
            function(north)
        with pytest.raises(InputError, match="not a Dataset"):
            function(some_samples(rng)["reflectance"])


# --- Lazy -----------------------------------------------------------------------------------------


def lazy_inputs(north, south, reference, size):
    screen = reference[["FeO"]] * 1.05
    return (
        [chunked(north, size), chunked(south, size)],
        chunked(reference, size * 3),
        chunked(geo.assign_crs(screen, "geographic"), size * 2),
    )


@pytest.mark.parametrize("size", [23, 1000])
def test_chunked_is_whole(north, south, reference, size, monkeypatch):
    screen = geo.assign_crs(reference[["FeO"]] * 1.05, "geographic")
    wanted = build_samples([north, south], reference, screen=screen)
    assert not dask.is_dask_collection(wanted)
    monkeypatch.setattr(places, "_SAMPLES_A_TASK", 500)
    cubes, maps, second = lazy_inputs(north, south, reference, size)
    cubes = [c.chunk(wavelength=3) for c in cubes]
    found = build_samples(cubes, maps, screen=second)
    assert all(dask.is_dask_collection(v.data) for v in found.data_vars.values())
    assert found["reflectance"].data.chunks[0] == (500, 500, 500, 432)
    (whole,) = dask.compute(found)
    for name in wanted.data_vars:
        assert found[name].dtype == whole[name].dtype == wanted[name].dtype
        assert np.array_equal(whole[name], wanted[name], equal_nan=True)
    one, two = select_samples(found), select_samples(wanted)
    xr.testing.assert_equal(one, two)
    assert {**one.attrs, "history": ""} == {**two.attrs, "history": ""}


def test_lazy_beside_in_memory(north, south, reference):
    wanted = build_samples([north, south], reference, screen=reference["FeO"])
    for cubes, maps, second in (
        ([chunked(north, 20), south], reference, reference["FeO"]),
        ([north, south], chunked(reference, 100), reference["FeO"]),
        ([north, south], reference, chunked(reference["FeO"], 100)),
    ):
        found = build_samples(cubes, maps, screen=second)
        assert dask.is_dask_collection(found["status"].data)
        (found,) = dask.compute(found)
        for name in wanted.data_vars:
            assert np.array_equal(found[name], wanted[name], equal_nan=True)


def test_same_names_for_the_same_call(north, south, reference):
    made = []
    for _ in range(2):
        cubes, maps, second = lazy_inputs(north, south, reference, 60)
        found = build_samples(cubes, maps, screen=second)
        found["R"] = band_correlation(found)
        made.append({name: v.data.name for name, v in found.data_vars.items()})
    assert made[0] == made[1]
    found = build_samples(cubes, maps, screen=second, reference_window=15)
    assert found["FeO"].data.name != made[0]["FeO"]


class Counted:
    """An array that writes down which chunk was read."""

    def __init__(self, values, log):
        self.values, self.log = values, log
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, key):
        self.log.append(tuple((s.start, s.stop) for s in key[-2:]))
        return self.values[key]


def counted(values, log, chunks):
    meta = np.empty((0,) * values.ndim, values.dtype)
    return da.from_array(Counted(values, log), chunks=chunks, name=f"counted-{id(log)}", meta=meta)


def test_only_the_chunks_with_samples_are_read_once(north, reference):
    size, log, map_log = 8, [], []
    cube = north.copy()
    values = north["reflectance"].values
    cube["reflectance"] = (
        north["reflectance"].dims,
        counted(values, log, (-1, size, size)),
        north["reflectance"].attrs,
    )
    maps = reference[["FeO"]].copy()
    maps["FeO"] = (
        ("lat", "lon"),
        counted(reference["FeO"].values, map_log, (13, 40)),
        maps["FeO"].attrs,
    )
    lons, lats = [-30.0, 0.0, 45.0], [55.0, 60.0]
    found = build_samples(cube, maps, lon=lons, lat=lats, mirror=False, oxides=["FeO"])
    assert log == map_log == []
    (chosen,) = dask.compute(found, scheduler="sync")
    wanted, wanted_maps = set(), set()
    for lat, lon in itertools.product(lats, lons):
        x, y = stereographic(lon, lat, "north")
        rows, columns = nearest(cube["y"].values, y, 2), nearest(cube["x"].values, x, 2)
        wanted |= set(itertools.product(rows // size, columns // size))
        rows = nearest(maps["lat"].values, lat, 17)
        columns = nearest(maps["lon"].values, lon, 17, turn=360)
        wanted_maps |= set(itertools.product(rows // 13, columns // 40))
    assert (chosen["status"] == 0).all()
    assert sorted((r[0] // size, c[0] // size) for r, c in log) == sorted(wanted)
    assert sorted((r[0] // 13, c[0] // 40) for r, c in map_log) == sorted(wanted_maps)
    assert len(wanted) < da.asarray(cube["reflectance"].data).npartitions / 4


# --- Bad input ------------------------------------------------------------------------------------


def test_maps_that_do_not_overlap(south, reference):
    north_only = reference.sel(lat=slice(65, 40))
    with pytest.raises(InputError, match="no point of the lattice lies on all maps") as caught:
        build_samples(south, north_only)
    assert "966 in the spectra and 966 in the reference" in str(caught.value)
    with pytest.raises(InputError, match="0 in the spectra"):
        build_samples(south, reference, lat=(51, 64, 1), mirror=False)


def test_missing_oxides(north, reference):
    with pytest.raises(InputError, match="TiO2") as caught:
        build_samples(north, reference.drop_vars("TiO2"))
    assert caught.value.where == "reference"
    found = build_samples(north, reference.drop_vars("TiO2"), oxides=["FeO", "MgO"])
    assert {"FeO", "MgO"} == set(found.data_vars) - {"reflectance", "status"}
    with pytest.raises(InputError, match="FeO") as caught:
        build_samples(north, reference, screen=reference[["MgO"]])
    assert caught.value.where == "screen"
    with pytest.raises(InputError, match="not among the oxides"):
        build_samples(north, reference, screen=reference[["FeO"]], oxides=["MgO"])


def test_maps_without_a_crs_or_of_another_body(north, reference):
    bare = north.drop_vars("spatial_ref")
    bare["reflectance"].attrs.clear()
    with pytest.raises(GridError, match="no coordinate reference system"):
        build_samples(bare, reference)
    mars = reference.copy()
    mars["spatial_ref"] = ((), 0, {"crs_wkt": pyproj.CRS("IAU_2015:49900").to_wkt()})
    with pytest.raises(BodyMismatchError, match="Mars"):
        build_samples(north, mars)
    with pytest.raises(GridError, match="there is no grid"):
        build_samples(some_samples(np.random.default_rng(1)), reference)


def test_maps_with_further_dimensions(north, reference):
    with pytest.raises(GridError, match="dimensions"):
        build_samples(north.expand_dims(time=2), reference)
    with pytest.raises(GridError, match="dimensions"):
        build_samples(north, reference.expand_dims(time=2))


def test_arguments_of_the_wrong_kind(north, reference):
    with pytest.raises(InputError, match="ndarray"):
        build_samples(north["reflectance"].values, reference)
    with pytest.raises(InputError, match="NoneType"):
        build_samples(north, None)
    with pytest.raises(InputError, match="no cube"):
        build_samples([], reference)
    with pytest.raises(InputError, match="no map"):
        build_samples(north, [])
    with pytest.raises(InputError, match="does not tell the oxides"):
        build_samples(north, reference["FeO"])


def test_cubes_of_other_wavelengths(north, south, reference):
    other = south.assign_coords(wavelength=NM + 5)
    with pytest.raises(BandMismatchError, match="other wavelengths"):
        build_samples([north, other], reference)
    with pytest.raises(BandMismatchError, match="4 and 3 bands"):
        build_samples([north, south.isel(wavelength=slice(3))], reference)
    same = [cube.lunar.resample_bands([600.0, 700.0]) for cube in (north, other)]
    build_samples(same, reference)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"spectra_window": 0}, "spectra_window"),
        ({"reference_window": 2.5}, "reference_window"),
        ({"min_spectra": 1.1}, "min_spectra"),
        ({"min_reference": np.nan}, "min_reference"),
        ({"lon": (0, 10, 0)}, "lon"),
        ({"lon": (np.nan, 10, 1)}, "lon"),
        ({"lon": (0, np.inf, 1)}, "lon"),
        ({"lon": []}, "lon"),
        ({"lat": (64, 51, 1)}, "lat"),
        ({"lat": [95.0]}, "lat"),
        ({"lat": [np.nan]}, "lat"),
    ],
)
def test_parameters_that_make_no_sense(north, reference, wrong, where):
    with pytest.raises(InputError) as caught:
        build_samples(north, reference, **wrong)
    assert caught.value.where == where
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("wrong", "where"),
    [({"window": np.nan}, "window"), ({"tolerance": -0.1}, "tolerance"), ({"tolerance": np.nan}, "tolerance")],
)  # fmt: skip
def test_screens_that_make_no_sense(reference, wrong, where):
    with pytest.raises(InputError) as caught:
        Screen(reference, **wrong)
    assert caught.value.where == where


# --- Correlation of bands with oxides -------------------------------------------------------------


def by_pairs(ds, oxides):
    """SciPy's R of the pairs that are finite, one band and oxide after another."""
    result = np.full((len(oxides), ds.sizes["wavelength"]), np.nan)
    for (i, oxide), j in itertools.product(enumerate(oxides), range(ds.sizes["wavelength"])):
        x, y = ds["reflectance"].values[:, j].astype(float), ds[oxide].values.astype(float)
        both = np.isfinite(x) & np.isfinite(y)
        x, y = x[both], y[both]
        if x.size > 1 and np.ptp(x) > 0 and np.ptp(y) > 0:
            result[i, j] = scipy.stats.pearsonr(x, y).statistic
    return result


def test_correlation_is_numpys(rng):
    ds = some_samples(rng, n=200, bands=7)
    slopes = xr.DataArray(np.linspace(-0.02, 0.02, 7), dims="wavelength")
    ds["reflectance"] = ds["reflectance"] + slopes * ds["FeO"]
    found = band_correlation(ds)
    assert found.dims == ("oxide", "wavelength")
    assert found["oxide"].values.tolist() == ["FeO", "MgO"]
    assert found.dtype == np.float32
    assert np.array_equal(found["wavelength"], ds["wavelength"])
    for oxide in ("FeO", "MgO"):
        wanted = np.corrcoef(ds["reflectance"].values.T.astype(float), ds[oxide].values)[-1, :-1]
        assert np.allclose(found.sel(oxide=oxide), wanted, atol=1e-6)
    assert abs(found.sel(oxide="FeO")[0]) > 0.1


def test_correlation_with_missing_values_is_of_the_pairs(rng):
    ds = some_samples(rng, n=60, bands=8)
    # Large means: what a sum of squares would cancel.
    ds["reflectance"] += np.linspace(0, 300, 8).astype("f4")
    gaps = rng.random(ds["reflectance"].shape) < 0.2
    ds["reflectance"] = ds["reflectance"].where(~gaps)
    ds["reflectance"][4, 1] = np.inf
    ds["FeO"][rng.random(60) < 0.3] = np.nan
    ds["MgO"][5] = -np.inf
    assert np.allclose(band_correlation(ds), by_pairs(ds, ["FeO", "MgO"]), atol=1e-6)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_correlation_of_constants_is_nan(rng, dtype):
    """In float64 the mean of 0.1 is not 0.1, which would leave a constant some variance."""
    ds = some_samples(rng, n=50, bands=6, names=("FeO", "MgO", "CaO")).astype(dtype)
    ds["reflectance"][:, 0] = 0.1
    ds["reflectance"][:, 1] = np.nan
    ds["MgO"][:] = 7.7
    # Varying as a whole, but the same wherever FeO is there; and one pair, and none.
    ds["FeO"][:20] = np.nan
    ds["reflectance"][20:, 2] = 0.3
    ds["reflectance"][21:, 3] = np.nan
    ds["reflectance"][20:, 4] = np.nan
    found = band_correlation(ds)
    assert np.isnan(found.sel(oxide="MgO")).all()
    assert np.isnan(found.sel(oxide="FeO")).values.tolist() == [True] * 5 + [False]
    assert np.isnan(found.sel(oxide="CaO")).values.tolist() == [True] * 2 + [False] * 4
    assert found["oxide"].values.tolist() == ["FeO", "CaO", "MgO"]  # the order of OXIDES
    assert np.allclose(found, by_pairs(ds, ["FeO", "CaO", "MgO"]), atol=1e-6, equal_nan=True)


def test_correlation_of_straight_lines_is_one(rng):
    ds = some_samples(rng, n=30, bands=2, names=("FeO",))
    ds["reflectance"][:, 0] = 0.5 - 0.01 * ds["FeO"]
    ds["reflectance"][:, 1] = 0.1 + 0.01 * ds["FeO"]
    assert np.allclose(band_correlation(ds).values, [[-1, 1]], atol=1e-6)
    assert (np.abs(band_correlation(ds)) <= 1).all()


def test_correlation_leaves_out_what_was_lost(rng):
    ds = some_samples(rng)
    status = np.zeros(40, np.uint8)
    status[::3] = 7
    found = band_correlation(ds.assign(status=("sample", status)))
    assert np.array_equal(found, band_correlation(ds.isel(sample=status == 0)))
    assert not np.allclose(found, band_correlation(ds))
    none = band_correlation(ds.assign(status=("sample", np.ones(40, np.uint8))))
    assert none.shape == (2, 5)
    assert np.isnan(none).all()


@pytest.mark.parametrize("size", [1, 7, 40])
def test_correlation_chunked_is_whole(rng, size, no_compute):
    ds = some_samples(rng)
    ds["reflectance"][3, 2] = np.nan
    lazy = ds.chunk(sample=size, wavelength=2)
    found = band_correlation(lazy.transpose("wavelength", "sample"), oxides=["MgO", "FeO"])
    assert dask.is_dask_collection(found)
    assert found.shape == (2, 5)
    with dask.config.set(scheduler="sync"):
        wanted = band_correlation(ds, oxides=["MgO", "FeO"])
        xr.testing.assert_equal(found.compute(), wanted)


def test_correlation_needs_oxides(rng):
    ds = some_samples(rng)
    with pytest.raises(InputError, match="TiO2"):
        band_correlation(ds, oxides=["FeO", "TiO2"])
    with pytest.raises(InputError, match=r"no oxide.*FeO, TiO2"):
        band_correlation(ds.drop_vars(["FeO", "MgO"]))
