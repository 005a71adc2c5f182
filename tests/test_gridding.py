"""Gridding of tracks, against scipy and against itself in other chunks."""

from __future__ import annotations

import gc
import pickle

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binned_statistic_2d

from lunarray import geo
from lunarray.engine import spilling
from lunarray.errors import BodyMismatchError, GridError, InputError, StoreWriteError
from lunarray.sp import grid_kernels, grid_sums
from lunarray.sp.gridding import grid

R = 1_737_400.0


def make_tracks(rng, n=3000, bands=4, south=False, dtype=np.float32):
    lat = 90.0 - np.abs(rng.normal(0.0, 8.0, n))
    lon = rng.uniform(-180.0, 360.0, n)
    data = rng.normal(0.2, 0.05, (n, bands)).astype(dtype)
    data[rng.random(n) < 0.1] = np.nan
    data[rng.random((n, bands)) < 0.05] = np.nan
    return xr.Dataset(
        {
            "reflectance": (
                ("observation", "wavelength"),
                data,
                {"units": "1", "long_name": "reflectance factor"},
            ),
            "FeO": ("observation", rng.normal(10, 3, n).astype(np.float32), {"units": "wt%"}),
        },
        coords={
            "lat": ("observation", -lat if south else lat),
            "lon": ("observation", lon),
            "wavelength": ("wavelength", np.linspace(520.0, 1500.0, bands), {"units": "nm"}),
            "level": 2,
        },
        attrs={"source": "made up", "history": "made"},
    )


def plane(lon, lat, pole):
    """Polar stereographic coordinates by the formula (Snyder 1987, eqs. 21-5 to 21-12), not by PROJ."""
    sign = 1.0 if pole == "north" else -1.0
    rho = 2 * R * np.tan(np.deg2rad(90.0 - sign * lat) / 2)
    return rho * np.sin(np.deg2rad(lon)), -sign * rho * np.cos(np.deg2rad(lon))


def assert_bit_equal(a, b):
    assert set(a.data_vars) == set(b.data_vars)
    for name in a.data_vars:
        assert a[name].dtype == b[name].dtype
        assert a[name].dims == b[name].dims
        assert np.asarray(a[name].values).tobytes() == np.asarray(b[name].values).tobytes(), name
    coords = [
        obj.coords.to_dataset().drop_attrs(deep=False) for obj in (a, b)
    ]  # history has the time
    xr.testing.assert_identical(*coords)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pole", ["north", "south"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_scipy(rng, pole, dtype):
    ds = make_tracks(rng, south=pole == "south", dtype=dtype)
    out = grid(ds, pole, resolution=40_000.0, latitude=70.0)
    box = geo.polar_grid(pole, 40_000.0, 70.0)
    x, y = plane(ds.lon.values, ds.lat.values, pole)
    edges = (np.arange(box.shape[0] + 1) - box.shape[0] / 2) * 40_000.0
    some = np.isfinite(ds.reflectance.values).any(axis=1)
    count = binned_statistic_2d(y[some], x[some], None, "count", bins=(edges, edges)).statistic[
        ::-1
    ]
    np.testing.assert_array_equal(out["count"], count)
    for band in range(4):
        values = ds.reflectance.values[:, band].astype(np.float64)
        ok = np.isfinite(values)
        for stat, name in (("mean", "reflectance"), ("std", "reflectance_std")):
            wanted = binned_statistic_2d(
                y[ok], x[ok], values[ok], stat, bins=(edges, edges)
            ).statistic[::-1]
            here = (
                binned_statistic_2d(y[ok], x[ok], None, "count", bins=(edges, edges)).statistic[
                    ::-1
                ]
                > 0
            )
            got = out[name].isel(wavelength=band).values
            assert got.dtype == dtype
            np.testing.assert_array_equal(np.isfinite(got), here)
            tolerance = 1e-12 if dtype == np.float64 else 2e-7
            np.testing.assert_allclose(got[here], wanted[here], rtol=tolerance, atol=tolerance)


def test_metadata(rng):
    out = grid(make_tracks(rng), "north", resolution=50_000.0, latitude=75.0)
    assert out.reflectance.dims == ("wavelength", "y", "x")
    assert out["count"].dims == ("y", "x")
    assert isinstance(out.reflectance.data, np.ndarray)
    assert geo.geobox_of(out) == geo.polar_grid("north", 50_000.0, 75.0)
    assert out.reflectance.attrs["units"] == out.reflectance_std.attrs["units"] == "1"
    assert out.attrs["source"] == "made up"
    assert out.attrs["history"].startswith("made\n")
    assert "grid: " in out.attrs["history"]
    assert int(out.level) == 2
    assert out.wavelength.attrs["units"] == "nm"
    attrs = out["count"].attrs
    assert attrs["observations_on_grid"] + attrs["observations_outside"] == 3000
    assert attrs["observations_outside"] > 0


def test_several_variables_count_any_finite_value(rng):
    ds = make_tracks(rng)
    both = grid(ds, resolution=50_000.0, variables=["FeO", "reflectance"])
    single = grid(ds, resolution=50_000.0, variables="FeO")
    spectral = grid(ds, resolution=50_000.0)
    assert_bit_equal(both[["FeO", "FeO_std"]], single[["FeO", "FeO_std"]])
    np.testing.assert_array_equal(both.reflectance, spectral.reflectance)
    assert (both["count"] == single["count"]).all()  # FeO is finite throughout
    assert int(spectral["count"].sum()) < int(both["count"].sum())
    for stat, name in (("mean", "reflectance"), ("std", "reflectance_std")):
        alone = grid(ds, resolution=50_000.0, stats=stat)
        assert set(alone.data_vars) == {name}
        np.testing.assert_array_equal(alone[name], spectral[name])
    oxides = grid(ds.drop_vars("reflectance"), resolution=50_000.0)
    assert "FeO" in oxides  # without reflectance, every floating variable
    assert set(grid(ds.FeO, resolution=50_000.0, stats="mean").data_vars) == {"FeO"}


def test_one_observation_and_constant_cells():
    ds = xr.Dataset(
        {"FeO": ("observation", np.full(3, 0.1, np.float32))},
        coords={
            "lat": ("observation", [89.0, 89.0, 80.0]),
            "lon": ("observation", [10.0, 10.0, 20.0]),
        },
    )
    out = grid(ds, resolution=10_000.0, latitude=75.0)
    assert int(out["count"].sum()) == 3
    assert sorted(out["count"].values[out["count"].values > 0].tolist()) == [1, 2]
    assert set(out.FeO.values[np.isfinite(out.FeO.values)].tolist()) == {np.float32(0.1)}
    assert set(out.FeO_std.values[np.isfinite(out.FeO_std.values)].tolist()) == {0.0}
    alone = grid(ds.isel(observation=[2]), resolution=10_000.0, latitude=75.0)
    assert int(alone["count"].sum()) == 1


def test_all_nan_and_infinite_values_leave_no_trace(rng):
    ds = make_tracks(rng)
    ds["reflectance"][:] = np.nan
    ds["reflectance"][::2] = np.inf
    out = grid(ds, resolution=50_000.0)
    assert int(out["count"].sum()) == 0
    assert bool(out.reflectance.isnull().all())
    assert bool(out.reflectance_std.isnull().all())


def test_observations_without_position_are_left_out(rng):
    ds = make_tracks(rng, n=500)
    ds = ds.assign_coords(lat=ds.lat.where(np.arange(500) % 5 != 0))
    out = grid(ds, resolution=50_000.0, variables="FeO", latitude=0.0)
    assert int(out["count"].sum()) == 400


def test_std_has_no_cancellation():
    values = 1e6 + np.array([0.0, 1.0, 2.0, 3.0])
    ds = xr.Dataset(
        {"v": ("observation", values)},
        coords={"lat": ("observation", np.full(4, 85.0)), "lon": ("observation", np.full(4, 1.0))},
    )
    out = grid(ds, resolution=1000.0, latitude=84.0)
    cell = np.isfinite(out.v.values)
    assert out.v.values[cell] == pytest.approx(values.mean(), rel=1e-15)
    assert out.v_std.values[cell] == pytest.approx(values.std(), rel=1e-9)


# --- pole and seam --------------------------------------------------------------------------------


def test_pole_and_antimeridian_each_fall_into_one_cell():
    lon = np.array([-180.0, 0.0, 77.0, 180.0, 359.0])
    for pole, lat in (("north", 90.0), ("south", -90.0)):
        ds = xr.Dataset(
            {"v": ("observation", np.arange(5.0))},
            coords={"lat": ("observation", np.full(5, lat)), "lon": ("observation", lon)},
        )
        out = grid(ds, pole, resolution=1000.0, latitude=85.0)
        assert int(out["count"].max()) == 5
        row, column = np.argwhere(out["count"].values == 5)[0]
        assert abs(float(out.x[column])) <= 500.0
        assert abs(float(out.y[row])) <= 500.0
        glob = grid(ds, "geographic", resolution=1.0)
        assert int(glob["count"].sum()) == 5  # -90° has a row, +180° is -180°
        assert int(glob["count"].sel(lon=-179.5).sum()) == 2


def test_seam_is_no_seam_on_the_polar_grid(rng):
    ds = make_tracks(rng, n=4000)
    for turn in (-360.0, 360.0):
        moved = ds.assign_coords(lon=ds.lon + turn)
        assert_bit_equal(
            grid(ds, resolution=30_000.0, stats=("mean", "count")),
            grid(moved, resolution=30_000.0, stats=("mean", "count")),
        )
    near = ds.assign_coords(
        lon=180.0 + 0.1 * ds.FeO.astype(float), lat=("observation", np.full(4000, 80.0))
    )
    out = grid(near, resolution=30_000.0, variables="FeO")
    assert int(out["count"].sum()) == 4000


def test_geographic_grid_names_and_counts(rng):
    ds = make_tracks(rng)
    out = grid(ds, "geographic", resolution=5.0, variables="FeO")
    assert out.FeO.dims == ("lat", "lon")
    assert int(out["count"].sum()) == 3000
    wrapped = geo.wrap_longitude(ds.lon.values)
    wanted = np.histogram2d(
        ds.lat.values, wrapped, bins=(np.arange(-90, 91, 5), np.arange(-180, 181, 5))
    )[0][::-1]
    np.testing.assert_array_equal(out["count"], wanted)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_every_point_lands_in_a_cell_that_holds_it(data):
    n = data.draw(st.integers(1, 12))
    lon = np.array(data.draw(st.lists(st.floats(-720, 720, width=32), min_size=n, max_size=n)))
    lat = np.array(data.draw(st.lists(st.floats(-90, 90, width=32), min_size=n, max_size=n)))
    name = data.draw(st.sampled_from(["north", "south", "geographic", "equirectangular"]))
    resolution = 10.0 if name == "geographic" else 200_000.0
    ds = xr.Dataset(
        {"v": ("observation", np.ones(n))},
        coords={"lon": ("observation", lon), "lat": ("observation", lat)},
    )
    try:
        out = grid(ds, name, resolution=resolution, stats=("count",), latitude=0.0)
    except GridError:
        assert name in ("north", "south")
        assert ((lat < 0) if name == "north" else (lat > 0)).all()
        return
    if name in ("geographic", "equirectangular"):
        assert int(out["count"].sum()) == n
    box = geo.geobox_of(out)
    rows, columns = np.nonzero(out["count"].values)
    grid_lon, grid_lat = geo.lonlat(box)
    size = np.deg2rad(10.0) * R if name == "geographic" else 200_000.0
    for row, column in zip(rows, columns, strict=True):
        if np.isfinite(grid_lon[row, column]):
            distance = geo.great_circle_distance(
                grid_lon[row, column], grid_lat[row, column], lon, lat
            )
            assert distance.min() <= size * 0.7072


# --- chunks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("input_chunks", [7, 100, 1000, 5000])
@pytest.mark.parametrize("output_chunks", [None, 5, (64, 3)])
def test_any_chunking_gives_the_same_bits(rng, input_chunks, output_chunks):
    ds = make_tracks(rng)
    kwargs = {
        "resolution": 30_000.0,
        "latitude": 72.0,
        "variables": ["reflectance", "FeO"],
        "fill_radius": 70_000.0,
    }
    whole = grid(ds, **kwargs)
    lazy = grid(ds.chunk(observation=input_chunks), chunks=output_chunks, **kwargs)
    assert lazy.reflectance.chunks is not None
    assert lazy.reflectance.chunks[0] == (4,)
    assert_bit_equal(lazy.compute(scheduler="synchronous"), whole)
    assert bool((whole["filled"] & (whole["count"] == 0)).any())


def test_chains_of_links_give_the_same_bits(rng, monkeypatch):
    ds = make_tracks(rng)
    whole = grid(ds, resolution=30_000.0)
    monkeypatch.setattr(grid_sums, "_LINK_BYTES", 5000)
    lazy = grid(ds.chunk(observation=50), resolution=30_000.0)
    links = [key for key in dict(lazy.__dask_graph__()) if str(key[0]).startswith("grid-sums")]
    assert max(key[-1] for key in links) > 5
    assert_bit_equal(lazy.compute(scheduler="threads"), whole)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_input_that_is_laid_down_in_a_file_gives_the_same_bits(
    rng, monkeypatch, tmp_path, scheduler
):
    ds = make_tracks(rng)
    names = ["reflectance", "FeO"]
    whole = grid(ds, resolution=30_000.0, variables=names)
    monkeypatch.setattr(grid_sums, "_HELD_BYTES", 1000)
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        lazy = grid(
            ds.chunk(observation=150), resolution=30_000.0, variables=names, chunks=(40, 50)
        )
        keys = dict(lazy.__dask_graph__())
        assert any(str(key[0]).startswith("grid-spill") for key in keys)
        # Each chunk once, whatever number of blocks it reaches.
        assert_bit_equal(lazy.compute(scheduler=scheduler, num_workers=2), whole)
    assert not list(tmp_path.iterdir())


def test_input_is_laid_down_once_and_gone_when_the_map_is_there(rng, monkeypatch):
    ds = make_tracks(rng)
    monkeypatch.setattr(grid_sums, "_HELD_BYTES", 1000)
    seen = []

    def counted(values):
        seen.append(len(values))
        return values

    data = ds.reflectance.chunk(observation=150).data
    ds = ds.assign(
        reflectance=(
            ds.reflectance.dims,
            data.map_blocks(counted, meta=data._meta, dtype=data.dtype),
        )
    )
    grid(ds, resolution=30_000.0, chunks=(40, 50)).reflectance.compute(scheduler="threads")
    assert seen
    assert len(seen) == data.numblocks[0]
    gc.collect()
    assert not spilling._files


@pytest.mark.parametrize("windows", [False, True])
def test_rows_of_a_spilled_block(rng, monkeypatch, windows):
    if windows:  # which knows no reading and writing at a place
        monkeypatch.delattr("os.pwrite")
        monkeypatch.delattr("os.preadv")
    wide, narrow = rng.normal(size=(700, 3, 400)), rng.integers(0, 9, 700).astype(np.int16)
    laid = spilling.spill([wide, narrow], "a run")
    some = np.sort(rng.choice(700, 90, replace=False))
    for rows in (some, np.arange(700), np.arange(100, 130), np.r_[0:5, 300, 600:700], some[:0]):
        for there, own in zip(laid.take(rows), (wide, narrow), strict=True):
            np.testing.assert_array_equal(there, own[rows])
            assert there.dtype == own.dtype
    again = pickle.loads(pickle.dumps(laid))
    np.testing.assert_array_equal(again[0], wide)
    np.testing.assert_array_equal(again[1], narrow)
    with dask.config.set({"temporary-directory": "/nowhere"}), pytest.raises(StoreWriteError) as e:
        spilling.spill([wide], "another run")
    assert "temporary-directory" in str(e.value)


def test_variables_in_different_chunks(rng):
    ds = make_tracks(rng)
    mixed = ds.assign(
        reflectance=ds.reflectance.chunk(observation=400, wavelength=2),
        FeO=ds.FeO.chunk(observation=700),
    )
    kwargs = {"resolution": 30_000.0, "variables": ["reflectance", "FeO"]}
    assert_bit_equal(grid(mixed, **kwargs).compute(scheduler="synchronous"), grid(ds, **kwargs))
    half = ds.assign(reflectance=ds.reflectance.chunk(observation=400))
    assert_bit_equal(grid(half, **kwargs).compute(scheduler="synchronous"), grid(ds, **kwargs))


def test_positions_from_a_store_are_read(rng, tmp_path):
    ds = make_tracks(rng)
    ds.chunk(observation=700).to_zarr(tmp_path / "t.zarr", consolidated=False)
    stored = xr.open_zarr(tmp_path / "t.zarr", consolidated=False)
    assert stored.lon.chunks is not None
    assert_bit_equal(
        grid(stored, resolution=30_000.0).compute(scheduler="synchronous"),
        grid(ds, resolution=30_000.0),
    )


def test_equal_calls_have_equal_tokens(rng):
    ds = make_tracks(rng).chunk(observation=500)
    first, second = (grid(ds, resolution=30_000.0, fill_radius=40_000.0) for _ in range(2))
    for name in first.data_vars:
        assert first[name].data.name == second[name].data.name
    assert dask.base.tokenize(first.reflectance.data) == dask.base.tokenize(second.reflectance.data)
    for other in (
        grid(ds, resolution=31_000.0, fill_radius=40_000.0),
        grid(ds, resolution=30_000.0, fill_radius=50_000.0),
        grid(ds.assign_coords(lon=ds.lon.load() + 1.0), resolution=30_000.0, fill_radius=40_000.0),
        grid(ds + 1.0, resolution=30_000.0, fill_radius=40_000.0),
    ):
        assert other.reflectance.data.name != first.reflectance.data.name


def test_graph_grows_with_chunks_only(rng):
    """Tasks for each output block and input chunk stay the same when there is ten times more of both."""

    def tasks(tracks):
        n = 100 * tracks
        lat = np.tile(np.linspace(84.9, 85.1, 100), tracks)
        lon = np.repeat(np.linspace(-170, 170, tracks), 100)
        ds = xr.Dataset(
            {"v": ("observation", np.zeros(n, np.float32))},
            coords={"lat": ("observation", lat), "lon": ("observation", lon)},
        ).chunk(observation=100)
        out = grid(ds, resolution=10_000.0, latitude=80.0, chunks=8, stats=("mean", "count"))
        graph = dict(out.v.data.__dask_graph__())
        return len(graph) / (tracks + out.v.data.npartitions)

    few, many = tasks(10), tasks(100)
    assert many <= 1.5 * few
    assert many < 5


def test_only_the_needed_input_is_touched(rng):
    ds = make_tracks(rng).sortby("lon")
    touched = []

    def note(block, block_info=None):
        touched.append(block_info[0]["chunk-location"][0])
        return block

    data = da.from_array(ds.reflectance.values, chunks=(100, 4)).map_blocks(
        note, dtype=np.float32, meta=np.empty((0, 0), np.float32)
    )
    out = grid(
        ds.assign(reflectance=(("observation", "wavelength"), data)), resolution=30_000.0, chunks=13
    )
    part = out.reflectance.isel(y=slice(0, 13), x=slice(0, 13))
    part.compute(scheduler="synchronous")
    x, y = plane(ds.lon.values, ds.lat.values, "north")
    inside = (x < float(part.x[-1]) + 15_000) & (y > float(part.y[-1]) - 15_000)
    assert set(touched) == set((np.flatnonzero(inside) // 100).tolist())
    assert len(touched) == len(set(touched))


# --- filling --------------------------------------------------------------------------------------


def test_filling_by_brute_force(rng):
    ds = make_tracks(rng, n=60)
    radius, resolution = 90_000.0, 25_000.0
    plain = grid(ds, resolution=resolution, latitude=70.0)
    out = grid(ds, resolution=resolution, latitude=70.0, fill_radius=radius)
    observed = plain["count"].values > 0
    np.testing.assert_array_equal(out["count"], plain["count"])
    np.testing.assert_array_equal(out.reflectance_std, plain.reflectance_std)
    x, y = np.meshgrid(plain.x.values, plain.y.values)
    scale = 1 + (x**2 + y**2) / (4 * R**2)
    wanted, filled = plain.reflectance.values.copy(), np.zeros(observed.shape, bool)
    for i, j in np.argwhere(~observed):
        distance = np.hypot(x - x[i, j], y - y[i, j]) / scale[i, j]
        near = observed & (distance <= radius)
        filled[i, j] = near.any()
        for band in range(4):
            use = near & np.isfinite(plain.reflectance.values[band])
            if use.any():
                wanted[band, i, j] = np.average(
                    plain.reflectance.values[band][use].astype(float), weights=distance[use] ** -2.0
                )
    np.testing.assert_array_equal(out["filled"], filled)
    assert filled.any()
    np.testing.assert_allclose(out.reflectance, wanted, rtol=2e-7)


def test_filling_crosses_the_seam():
    ds = xr.Dataset(
        {"v": ("observation", [5.0])},
        coords={"lat": ("observation", [0.5]), "lon": ("observation", [179.5])},
    )
    radius = 1.1 * np.deg2rad(1.0) * R
    for kwargs in ({}, {"chunks": 50}):
        out = grid(ds, "geographic", resolution=1.0, fill_radius=radius, **kwargs)
        assert float(out.v.sel(lat=0.5, lon=-179.5)) == 5.0
        assert bool(out.filled.sel(lat=0.5, lon=-179.5))
        assert int(out.filled.sum()) == 4


# --- kernels --------------------------------------------------------------------------------------


def test_accumulate_against_numpy_and_uncompiled(rng):
    data = rng.normal(size=(50, 3)).astype(np.float32)
    data[rng.random((50, 3)) < 0.3] = np.nan
    rows, slots = np.sort(rng.choice(50, 30, replace=False)), rng.integers(0, 5, 30)
    results = []
    for function in (grid_kernels.accumulate, grid_kernels.accumulate.py_func):
        shift, total, squares = (np.zeros((5, 3)) for _ in range(3))
        number, valid = np.zeros((5, 3), np.int32), np.zeros(30, bool)
        function(data, rows, slots, shift, total, squares, number, valid)
        results.append((shift, total, squares, number, valid))
    for compiled, plain in zip(*results, strict=True):
        np.testing.assert_array_equal(compiled, plain)
    shift, total, squares, number, valid = results[0]
    np.testing.assert_array_equal(valid, np.isfinite(data[rows]).any(axis=1))
    for slot in range(5):
        chosen = data[rows[slots == slot]].astype(np.float64)
        np.testing.assert_array_equal(number[slot], np.isfinite(chosen).sum(axis=0))
        for band in range(3):
            values = chosen[:, band][np.isfinite(chosen[:, band])]
            if values.size:
                assert shift[slot, band] + total[slot, band] / values.size == pytest.approx(
                    values.mean(), abs=1e-12
                )
                variance = (
                    squares[slot, band] / values.size - (total[slot, band] / values.size) ** 2
                )
                assert variance == pytest.approx(values.var(), abs=1e-12)
    counts = [np.zeros(5, np.int32) for _ in range(2)]
    grid_kernels.count_observations(slots, valid, counts[0])
    grid_kernels.count_observations.py_func(slots, valid, counts[1])
    np.testing.assert_array_equal(counts[0], np.bincount(slots[valid], minlength=5))
    np.testing.assert_array_equal(*counts)


def test_fill_kernel_uncompiled(rng):
    values = rng.normal(size=(12, 14, 2)).astype(np.float32)
    occupied = rng.random((12, 14)) < 0.2
    values[~occupied] = np.nan
    steps = np.full((8, 10), 1.0)
    results = []
    for function in (grid_kernels.fill_gaps, grid_kernels.fill_gaps.py_func):
        out, filled = np.ascontiguousarray(values[2:10, 2:12]), np.zeros((8, 10), bool)
        function(values, occupied, 2, 2, steps, steps, 2.0, 2, 2, out, filled)
        results.append((out, filled))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert results[0][1].any()
    assert np.isfinite(results[0][0][results[0][1]]).all()


# --- bad input ------------------------------------------------------------------------------------


def test_errors(rng):
    ds = make_tracks(rng, n=200)
    with pytest.raises(InputError, match="'lat'"):
        grid(ds.drop_vars("lat"))
    with pytest.raises(GridError, match="resolution"):
        grid(ds, resolution=0)
    with pytest.raises(GridError, match="resolution"):
        grid(ds, resolution=-500)
    with pytest.raises(InputError, match="median"):
        grid(ds, stats=("mean", "median"))
    with pytest.raises(InputError, match="radiance"):
        grid(ds, variables=["radiance"])
    with pytest.raises(InputError, match="observation"):
        grid(ds.rename(observation="time"))
    with pytest.raises(InputError, match="no mean"):
        grid(ds.assign(when=("observation", np.zeros(200, "datetime64[ns]"))), variables=["when"])
    with pytest.raises(InputError, match="clash"):
        grid(ds.assign(FeO_std=ds.FeO), variables=["FeO", "FeO_std"])
    with pytest.raises(InputError, match="mean"):
        grid(ds, stats=("count",), fill_radius=1000.0)
    with pytest.raises(GridError, match="fills nothing"):
        grid(ds, fill_radius=-1.0)
    with pytest.raises(InputError, match="chunks"):
        grid(ds, chunks=(3, 3, 3))
    with pytest.raises(BodyMismatchError, match="Mars"):
        grid(ds, "IAU_2015:49930")


def test_nothing_on_the_grid_says_where_the_data_are(rng):
    ds = make_tracks(rng, n=200)
    with pytest.raises(GridError) as caught:
        grid(ds, "south", resolution=5000.0)
    message = str(caught.value)
    assert f"{float(ds.lat.min()):.2f} to {float(ds.lat.max()):.2f}" in message
    assert "-90.00" in message
    with pytest.raises(GridError, match="finite position"):
        grid(ds.isel(observation=slice(0, 0)))
    with pytest.raises(GridError, match="finite position"):
        grid(ds.assign_coords(lat=ds.lat * np.nan))


# --- native spectra -------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_spectra_are_conditioned_first(real_data):
    import lunarray as la

    ds = la.open_sp(str(real_data / "sp" / "*.spc"))
    out = grid(ds, "geographic", resolution=0.1, bounds=(-5, -20, 10, 20))
    np.testing.assert_array_equal(out.wavelength, la.sp.WAVELENGTHS_150)
    computed = out.compute(scheduler="synchronous")
    assert int(computed["count"].sum()) == 76
    assert 0.02 < float(computed.reflectance.sel(wavelength=750, method="nearest").mean()) < 0.3
    by_hand = grid(la.sp.condition(ds), "geographic", resolution=0.1, bounds=(-5, -20, 10, 20))
    assert_bit_equal(by_hand.compute(scheduler="synchronous"), computed)
    raw = grid(
        ds,
        "geographic",
        resolution=0.1,
        bounds=(-5, -20, 10, 20),
        variables="radiance",
        stats="mean",
    )
    assert raw.radiance.sizes["wavelength"] == 296
