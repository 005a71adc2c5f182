"""The Global Information Bank: its grid, its store, and the mare class."""

from __future__ import annotations

import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import lunarray as la
from lunarray import superres as sr
from lunarray.errors import (
    GridError,
    InputError,
    LunarrayWarning,
    ModelError,
    StoreConflictError,
    StoreFormatError,
)
from lunarray.superres.gib import set_feature_model
from lunarray.superres.gib_layout import inner_chunk
from lunarray.superres.grid import starts
from lunarray.superres.mare import albedo_threshold

SMALL = sr.GIBGrid(regions=(2, 3), shape=(6, 8))
MODEL = {"sha256": "ab" * 32, "mode": "dense", "selection": [3, 1, 2]}


def features(seed: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 6, 8)).astype("f4")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A bank without any data, which tests only copy."""
    path = tmp_path_factory.mktemp("empty") / "gib.zarr"
    sr.create_gib(path, SMALL, ("Mg", "Fe"), features=3)
    return path


@pytest.fixture
def store(tmp_path, empty):
    return shutil.copytree(empty, tmp_path / "gib.zarr")


class TestGrid:
    def test_that_of_the_paper(self):
        grid = sr.GIBGrid()
        assert grid.size == (2736, 5456)
        assert grid.step == pytest.approx((22.5 / 342, 45 / 682))
        # "approximately 2 km at the equator"
        assert np.deg2rad(grid.step[0]) * 1737.4 == pytest.approx(2.0, abs=0.01)
        corners = list(itertools.product(*(starts(n, 100, 50) for n in grid.shape)))
        assert len(corners) == 78
        covered = np.zeros(grid.shape, int)
        for row, column in corners:
            covered[row : row + 100, column : column + 100] += 1
        assert covered.min() >= 1
        assert grid.lat(0)[0] > 89.9
        assert grid.lon(0)[0] < -179.9
        assert grid.region_of(90.0, -180.0) == (0, 0)
        # Region (0, 2) of the paper's figure 11: 90..67.5 N, 90..45 W
        assert grid.lat(0).min() > 67.5 > grid.lat(1).max()
        assert -90 < grid.lon(2).min() < grid.lon(2).max() < -45

    def test_neighbours_wrap(self):
        grid = sr.GIBGrid()
        assert (3, 7) in grid.neighbours(3, 0)
        assert len(grid.neighbours(3, 0)) == 8
        assert len(grid.neighbours(0, 0)) == 5
        part = sr.GIBGrid((2, 2), (4, 4), (10, -5, 20, 5))
        assert set(part.neighbours(0, 0)) == {(0, 1), (1, 0), (1, 1)}
        # Two columns around the Moon: the other one is the neighbour on both sides, once.
        assert sr.GIBGrid((1, 2), (4, 4)).neighbours(0, 0) == [(0, 1)]

    @settings(max_examples=50, deadline=None)
    @given(st.floats(-90, 90), st.floats(-400, 400))
    def test_pixel_holds_its_point(self, lat, lon):
        row, column = SMALL.pixel_of(lat, lon)
        height, width = SMALL.step
        assert abs(SMALL.lat()[row] - lat) <= height / 2 + 1e-9
        gap = (SMALL.lon()[column] - lon + 180) % 360 - 180
        assert abs(gap) <= width / 2 + 1e-9

    def test_edges(self):
        row, column = SMALL.pixel_of([90, -90, 0, np.nan], [180, -180, 179.999, 0])
        assert row.tolist() == [0, 11, 6, -1]
        assert column.tolist() == [0, 0, 23, -1]
        part = sr.GIBGrid((1, 1), (10, 10), (10, -5, 20, 5))
        row, column = part.pixel_of([5, -5, 5.1, 0], [20, 10, 15, 375])
        assert row.tolist() == [0, 9, -1, 5]
        assert column.tolist() == [9, 0, -1, 5]
        assert [v.tolist() for v in part.region_of([0.0, 0.0], [15.0, 21.0])] == [[0, -1], [0, -1]]

    def test_geobox_agrees(self):
        grid = sr.GIBGrid((2, 2), (5, 7), (10, -30, 80, 20))
        coords = la.geo.grid_coords(grid.region_geobox(1, 0))
        np.testing.assert_allclose(coords["lat"].values, grid.lat(1), atol=1e-9)
        np.testing.assert_allclose(coords["lon"].values, grid.lon(0), atol=1e-9)

    def test_small_region_is_one_square(self):
        assert [starts(n, 100, 50) for n in (60, 130)] == [[0], [0, 30]]

    def test_text_keeps_it(self):
        grid = sr.GIBGrid((2, 2), (5, 7), (10, -30, 80, 20.5))
        assert sr.GIBGrid.from_json(grid.to_json()) == grid

    @pytest.mark.parametrize(
        "bad",
        [
            {"regions": (0, 2)},
            {"shape": (2.5, 2)},
            {"extent": (10, -5, 5, 5)},
            {"extent": (0, -95, 5, 5)},
        ],
    )
    def test_nonsense(self, bad):
        with pytest.raises(GridError):
            sr.GIBGrid(**bad)


class TestStore:
    def test_lazy_and_small(self, tmp_path):
        ds = sr.create_gib(tmp_path / "gib.zarr", features=300)
        assert ds.sizes["lat"] == 2736
        assert ds["feature"].shape == (300, 2736, 5456)
        # Only metadata and coordinates: 19 GB would be there otherwise.
        assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < 200_000
        assert ds["feature"].data.chunksize == (300, 342, 682)
        assert ds.state.values.sum() == 0
        assert la.geo.crs_code(la.geo.crs_of(ds)) == "IAU_2015:30100"

    def test_fills_region_by_region(self, store):
        x = features(1)
        sr.write_region(store, (0, 1), feature=x, feature_model=MODEL)
        mare = np.ones((6, 8), "u1")
        sr.write_region(store, (1, 2), mare=mare)
        ds = sr.open_gib(store)
        assert ds.state.values.tolist() == [[0, 1, 0], [0, 0, 2]]
        rows, columns = SMALL.slices(0, 1)
        np.testing.assert_array_equal(ds["feature"][:, rows, columns].values, x)
        assert np.isnan(ds["feature"].values).sum() == x.size * 5
        assert (ds["mare"].values == 1).sum() == 48
        assert json.loads(ds.attrs["feature_model"]) == MODEL

    def test_reads_while_it_grows(self, store):
        early = sr.open_gib(store)
        assert np.isnan(early["feature"].values).all()
        sr.write_region(store, (1, 1), feature=features(4), feature_model=MODEL)
        # Opened before, and sees it.
        rows, columns = SMALL.slices(1, 1)
        np.testing.assert_array_equal(early["feature"][:, rows, columns].values, features(4))
        assert early.state.values.sum() == 0
        assert sr.open_gib(store).state.values[1, 1] == 1

    def test_one_object_a_region(self, store):
        for region in SMALL.all_regions():
            sr.write_region(store, region, feature=features(2), feature_model=MODEL)
        assert sum(f.is_file() for f in (store / "feature" / "c").rglob("*")) == 6

    def test_large_regions_are_shards(self):
        assert inner_chunk((300, 342, 682), 4) == (300, 114, 341)
        assert inner_chunk((8, 342, 682), 4) == (8, 342, 682)
        # A prime number of rows and columns divides only into pixels.
        assert inner_chunk((2048, 101, 103), 4) in {(2048, 101, 1), (2048, 1, 103)}

    def test_plain_xarray_reads_it(self, store):
        sr.write_region(store, (0, 0), mare=np.full((6, 8), 2))
        with xr.open_zarr(store, consolidated=False) as ds:
            np.testing.assert_array_equal(ds.lat.values, SMALL.lat())
            assert ds.element.values.tolist() == ["Mg", "Fe"]
            assert ds.mare.values[:6, :8].tolist() == np.full((6, 8), 2).tolist()
            assert np.isnan(ds.abundance.values).all()

    def test_goes_on_and_conflicts(self, store):
        sr.write_region(store, (0, 0), mare=np.ones((6, 8)))
        again = sr.create_gib(store, SMALL, ("Mg", "Fe"), features=3)
        assert again.state.values[0, 0] == 2
        with pytest.raises(StoreConflictError, match="another elements"):
            sr.create_gib(store, SMALL, ("Mg", "Al"), features=3)
        assert sr.create_gib(store, SMALL, ("Al",), features=3, overwrite=True).state.sum() == 0

    def test_other_things_stay(self, tmp_path):
        (tmp_path / "mine").mkdir()
        for overwrite in (False, True):
            with pytest.raises(StoreConflictError, match="something else"):
                sr.create_gib(tmp_path / "mine", SMALL, overwrite=overwrite)
        with pytest.raises(StoreFormatError, match="no such store"):
            sr.open_gib(tmp_path / "none")

    def test_done_is_done(self, store):
        sr.write_region(store, (0, 0), feature=features(1), feature_model=MODEL)
        with pytest.raises(StoreConflictError, match=r"\(0, 0\) has features already"):
            sr.write_region(store, (0, 0), feature=features(2), feature_model=MODEL)
        sr.write_region(store, (0, 0), feature=features(2), feature_model=MODEL, overwrite=True)
        got = sr.read_region(sr.open_gib(store), (0, 0))["feature"].values
        np.testing.assert_array_equal(got, features(2))

    def test_features_of_other_weights(self, store):
        sr.write_region(store, (0, 0), feature=features(1), feature_model=MODEL)
        other = {**MODEL, "sha256": "cd" * 32}
        with pytest.raises(ModelError, match="differ in sha256"):
            sr.write_region(store, (0, 1), feature=features(1), feature_model=other)
        with pytest.raises(ModelError, match="differ in selection"):
            set_feature_model(store, {**MODEL, "selection": [1, 2, 3]})
        with pytest.raises(ModelError, match="without a word"):
            sr.write_region(store, (0, 1), feature=features(1))
        with pytest.raises(InputError, match="sha256"):
            set_feature_model(store, {"mode": "dense"})
        ds = sr.open_gib(store)
        assert ds.state.values.tolist() == [[1, 0, 0], [0, 0, 0]]
        assert np.isnan(ds["feature"].values).sum() == 5 * features(1).size

    def test_wrong_arrays_change_nothing(self, store):
        before = {f: f.stat().st_mtime_ns for f in store.rglob("*") if f.is_file()}
        good = np.ones((6, 8))
        for match, arrays in (
            ("no variable", {"ferature": features(1)}),
            ("nothing to write", {}),
            ("a region of this store", {"mare": np.ones((6, 9))}),
            ("a region of this store", {"mare": good, "feature": features(1, 4)}),
            ("other than", {"mare": good * 3}),
            ("negative", {"abundance": np.full((2, 6, 8), -1.0)}),
            ("without abundances", {"count": good}),
        ):
            with pytest.raises(InputError, match=match):
                sr.write_region(store, (0, 0), feature_model=MODEL, **arrays)
        with pytest.raises(GridError, match="no region row 2"):
            sr.write_region(store, (2, 0), mare=good)
        assert {f: f.stat().st_mtime_ns for f in store.rglob("*") if f.is_file()} == before

    def test_interrupted_region_is_missing(self, store, monkeypatch):
        import zarr

        real = zarr.Array.__setitem__

        def failing(self, key, value):
            if self.basename == "feature":
                raise OSError(28, "No space left on device")
            real(self, key, value)

        monkeypatch.setattr(zarr.Array, "__setitem__", failing)
        with pytest.raises(la.errors.StoreError, match="No space left"):
            sr.write_region(store, (0, 0), feature=features(1), feature_model=MODEL)
        assert sr.open_gib(store).state.values[0, 0] == 0
        monkeypatch.undo()
        sr.write_region(store, (0, 0), feature=features(1), feature_model=MODEL)
        assert sr.open_gib(store).state.values[0, 0] == 1

    def test_written_by_many_at_a_time(self, store):
        def write(task):
            number, region = task
            sr.write_region(store, region, feature=features(number), feature_model=MODEL)

        # Each call opens the store for itself, as another process would.
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(write, enumerate(SMALL.all_regions())))
        ds = sr.open_gib(store)
        assert (ds.state.values == 1).all()
        for k, region in enumerate(SMALL.all_regions()):
            got = sr.read_region(ds, region)["feature"].values
            np.testing.assert_array_equal(got, features(k))

    def test_opening_computes_nothing(self, store, no_compute):
        region = sr.read_region(sr.open_gib(store), (1, 0), margin=2)
        assert region["feature"].chunks is not None

    def test_margin_wraps(self, store):
        ds = sr.open_gib(store)
        lon = xr.broadcast(ds.lon, ds.lat)[0].transpose("lat", "lon")
        ds = ds.assign(here=lon)
        left = sr.read_region(ds, (0, 0), margin=3)
        assert left.sizes["lon"] == 14
        assert left.sizes["lat"] == 9  # nothing beyond the pole
        assert (np.diff(left.lon.values) > 0).all()
        assert left.lon.values[0] == pytest.approx(SMALL.lon()[-3] - 360)
        np.testing.assert_allclose(la.geo.wrap_longitude(left.lon.values), left.here.values[0])
        right = sr.read_region(ds, (1, 2), margin=3)
        assert right.lon.values[-1] == pytest.approx(SMALL.lon()[2] + 360)
        np.testing.assert_allclose(la.geo.wrap_longitude(right.lon.values), right.here.values[0])
        inner = sr.read_region(ds, (0, 1), margin=3)
        np.testing.assert_array_equal(inner.lon.values, SMALL.lon()[5:19])
        assert sr.read_region(ds, (0, 1), margin=50).sizes["lon"] == 24
        for bad in ({"margin": -1}, {"margin": 0, "region": (0, 3)}):
            with pytest.raises(GridError):
                sr.read_region(ds, **{"region": (0, 0), **bad})
        with pytest.raises(GridError, match="on a grid of"):
            sr.read_region(ds.isel(lat=slice(3)), (0, 0))
        with pytest.raises(GridError, match="no attribute"):
            sr.read_region(xr.Dataset(), (0, 0))

    def test_margin_ends_at_an_edge(self, tmp_path):
        grid = sr.GIBGrid((2, 2), (6, 8), (10, -5, 20, 5))
        ds = sr.create_gib(tmp_path / "g.zarr", grid, features=1)
        assert sr.read_region(ds, (0, 0), margin=3).sizes["lon"] == 11

    def test_version(self, store):
        file = store / "zarr.json"
        text = json.loads(file.read_text())
        text["attributes"]["lunarray_gib"]["version"] = 99
        file.write_text(json.dumps(text))
        with pytest.raises(StoreFormatError, match="version 99"):
            sr.open_gib(store)
        shutil.rmtree(store)


class TestMare:
    def test_polygons_and_seam(self):
        # Across ±180°, 20° × 20° on pixels of 1°.
        geobox = sr.GIBGrid((2, 2), (90, 180)).geobox
        box = la.geo.Polygon.from_points([(170, -10), (190, -10), (190, 10), (170, 10)])
        cap = la.geo.Circle(0.0, 90.0, np.deg2rad(5.0) * la.geo.RADIUS)
        got = sr.mare_class(geobox, polygons=[box, cap])
        expected = np.full((180, 360), 2)
        expected[80:100, :10] = expected[80:100, 350:] = 1
        expected[:5] = 1
        np.testing.assert_array_equal(got.values, expected)

    def test_raster(self):
        geobox = sr.GIBGrid((1, 1), (4, 8)).geobox
        coarse = xr.DataArray(
            [[7.0, 0.0, np.nan, 3.0], [7.0, 7.0, 0.0, 0.0]],
            {"lat": [45.0, -45.0], "lon": [-135.0, -45.0, 45.0, 135.0]},
            ("lat", "lon"),
        )
        got = sr.mare_class(geobox, raster=coarse, mare_values=(7, 3))
        expected = np.array([[1, 2, 0, 1], [1, 1, 2, 2]]).repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(got.values, expected)

    def test_albedo(self, rng):
        geobox = sr.GIBGrid((1, 1), (18, 36)).geobox
        lat, lon = 90 - (np.arange(18) + 0.5) * 10, -180 + (np.arange(36) + 0.5) * 10
        dark = rng.random((18, 36)) < 0.3
        values = np.where(dark, 0.1, 0.3) + rng.normal(0, 0.01, (18, 36))
        albedo = xr.DataArray(values, {"lat": lat, "lon": lon}, ("lat", "lon"))
        cut = albedo_threshold(albedo)
        assert 0.13 < cut < 0.27
        for threshold in ("otsu", 0.2):
            got = sr.mare_class(geobox, albedo=albedo, threshold=threshold)
            np.testing.assert_array_equal(got.values, np.where(dark, 1, 2))
        assert got.attrs["threshold"] == 0.2
        albedo[3, 4] = np.nan
        assert sr.mare_class(geobox, albedo=albedo).values[3, 4] == 0
        with pytest.raises(InputError, match="no bright and dark"):
            albedo_threshold(xr.full_like(albedo, 0.2))

    def test_otsu_against_brute_force(self, rng):
        values = np.concatenate([rng.normal(1, 0.3, 300), rng.normal(3, 0.5, 700)]).reshape(20, 50)
        flat = xr.DataArray(values, {"y": np.arange(20.0), "x": np.arange(50.0)}, ("y", "x"))
        flat = la.geo.assign_crs(flat, "north")
        cuts = np.linspace(values.min(), values.max(), 2000)[1:-1]
        v = values.ravel()
        within = [v[v < c].var() * (v < c).sum() + v[v >= c].var() * (v >= c).sum() for c in cuts]
        assert albedo_threshold(flat) == pytest.approx(cuts[np.argmin(within)], abs=0.1)

    def test_classify(self, store):
        box = la.geo.Box(-180, -90, 0, 90)
        ds = sr.classify_mare(store, polygons=box, regions=[(0, 0), (0, 1)])
        assert ds.state.values.tolist() == [[2, 2, 0], [0, 0, 0]]
        other = la.geo.Box(0, -90, 180, 90)
        with pytest.warns(LunarrayWarning, match="keep the mare classes that they have"):
            ds = sr.classify_mare(store, polygons=other)
        # Those that were there stayed.
        assert (ds.mare.values[:6, :12] == 1).all()
        assert (ds.mare.values[6:, :12] == 2).all()

    def test_map_that_does_not_cover(self, store):
        part = xr.DataArray(
            np.ones((10, 36)),
            {"lat": np.arange(85.0, -15, -10), "lon": np.arange(-175.0, 180, 10)},
            ("lat", "lon"),
        )
        for kind in ("raster", "albedo"):
            with pytest.raises(GridError, match="does not cover"):
                sr.classify_mare(store, **{kind: part}, threshold=0.5)
        # Not even the regions that it covers.
        assert sr.open_gib(store).state.values.sum() == 0
        with pytest.raises(GridError, match="does not cover"):
            sr.mare_class(SMALL.geobox, raster=part)

    def test_one_source(self):
        for given_ in ({}, {"polygons": la.geo.Box(0, 0, 1, 1), "albedo": 3}):
            with pytest.raises(InputError, match="Give one of"):
                sr.mare_class(SMALL.geobox, **given_)
        with pytest.raises(InputError, match="Give one map"):
            sr.mare_class(SMALL.geobox, albedo=xr.DataArray([1.0, 2.0]), threshold=1)

    @pytest.mark.realdata
    def test_real_maria(self, real_data):
        albedo = la.maps.open_map(real_data / "maps" / "Albedo_Map.csv.gz", chunks=None)
        grid = sr.GIBGrid((4, 8), (45, 45))
        got = sr.mare_class(grid.geobox, albedo=albedo)
        places = {(35, -16): 1, (27, 18): 1, (17, 59): 1, (8, 31): 1, (-43, -11): 2, (10, 160): 2}
        for (lat, lon), expected in places.items():
            assert got.values[grid.pixel_of(lat, lon)] == expected
