"""Baselines against brute force, scores against scikit-learn, and tracks held out whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from superres_cases import ELEMENTS, TINY, region

import lunarray.superres as sr
import lunarray.superres.baselines as bl
from lunarray.errors import InputError
from lunarray.geo.footprints import unit_vectors
from lunarray.superres.baselines import BASELINES
from lunarray.superres.evaluation import (
    format_table,
    score,
    score_table,
    track_folds,
    track_numbers,
)
from lunarray.superres.support import footprint_support

torch.set_num_threads(1)


@pytest.fixture
def points(rng):
    lat, lon = rng.uniform(-3, 3, 40), rng.uniform(-183, -177, 40)
    known = unit_vectors(lon, lat)
    values = rng.uniform(1, 20, (40, 2))
    lat, lon = rng.uniform(-3, 3, 25), rng.uniform(177, 183, 25)
    wanted = unit_vectors(lon, lat)
    return known, values, wanted


def angle(a, b):
    return np.arccos(np.clip(a @ b.T, -1, 1))


def test_nearest(points):
    known, values, wanted = points
    want = values[np.argmin(angle(wanted, known), axis=1)]
    np.testing.assert_array_equal(bl.nearest(known, values, wanted), want)


def test_inverse_distance(points):
    known, values, wanted = points
    distance = np.linalg.norm(wanted[:, None] - known[None], axis=-1)
    weight = 1 / distance**2
    want = weight @ values / weight.sum(axis=1, keepdims=True)
    got = bl.inverse_distance(known, values, wanted, neighbours=40)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(bl.inverse_distance(known, values, known), values, rtol=1e-6)


def test_ordinary_kriging_in_the_variogram_form(points):
    """The same weights from the system of Cressie (1993, eq. 3.2.16), with variograms in place of covariances."""
    known, values, wanted = points
    nugget, sill, length = bl.fit_variogram(known, values[:, 0])
    km = 1737.4

    def gamma(h):
        return sill * (1 - np.exp(-h / length)) + nugget * (h > 0)

    system = np.ones((41, 41))
    system[:40, :40] = gamma(angle(known, known) * km * (1 - np.eye(40)))
    system[40, 40] = 0
    # An error of measurement is not predicted: the variogram to the target has the nugget at all distances.
    right = np.ones((41, 25))
    right[:40] = sill * (1 - np.exp(-angle(known, wanted) * km / length)) + nugget
    want = np.linalg.solve(system, right)[:40].T @ values[:, 0]
    got = bl.ordinary_kriging(known, values, wanted, neighbours=40)[:, 0]
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_variogram_of_a_known_process(rng):
    lat, lon = rng.uniform(-4, 4, 500), rng.uniform(0, 8, 500)
    known = unit_vectors(lon, lat)
    covariance = 4.0 * np.exp(-angle(known, known) * 1737.4 / 30.0)
    values = np.linalg.cholesky(covariance + 1e-9 * np.eye(500)) @ rng.standard_normal(500)
    nugget, sill, length = bl.fit_variogram(known, values + 0.7 * rng.standard_normal(500))
    assert 0 <= nugget < 1.5
    assert 2.5 < sill < 6
    assert 12 < length < 70


def test_kriging_takes_a_subset(points):
    known, values, wanted = points
    a = bl.ordinary_kriging(known, values, wanted, subset=15, seed=1)
    np.testing.assert_array_equal(a, bl.ordinary_kriging(known, values, wanted, subset=15, seed=1))
    assert not np.array_equal(a, bl.ordinary_kriging(known, values, wanted, subset=15, seed=2))


def test_class_mean():
    values = np.array([[1.0], [3.0], [10.0]])
    got = bl.class_mean(np.array([1, 1, 2]), values, np.array([0, 1, 2]))
    np.testing.assert_allclose(got[:, 0], [14 / 3, 2, 10])
    np.testing.assert_allclose(bl.class_mean(np.array([1, 1, 1]), values, np.array([2])), 14 / 3)


def test_all_of_them_on_a_region(rng):
    data, truth, *_ = region(rng, number=60)
    maps = sr.baseline_maps(data)
    assert tuple(maps) == BASELINES
    for name, values in maps.items():
        assert values.shape == truth.shape, name
        assert np.isfinite(values).all(), name
    # The truth is linear in the features, and footprints are means of it: only one of them knows.
    error = {n: np.sqrt(((m - truth) ** 2).mean(axis=(1, 2))) for n, m in maps.items()}
    assert all((error["footprint ridge"] < e).all() for n, e in error.items() if n != "footprint ridge")  # fmt: skip
    x, y = rng.standard_normal((40, 5)), rng.standard_normal((40, 1))
    np.testing.assert_array_equal(bl.boosted_trees(x, y, x), bl.boosted_trees(x, y, x))
    with pytest.raises(InputError, match="no baseline"):
        sr.baseline_maps(data, ["oracle"])
    data.abundance[:] = np.nan
    with pytest.raises(InputError, match="no populated pixel"):
        sr.baseline_maps(data)


# ------------------------------------------------------------------------------------------ scores
def test_scores_are_scikit_learns(rng):
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    known = rng.uniform(1, 20, (30, 2))
    predicted = known + rng.standard_normal((30, 2))
    missing = predicted.copy()
    missing[3, 1] = np.nan
    got = score(missing, known)
    keep = np.arange(30) != 3
    for e, rows in ((0, slice(None)), (1, keep)):
        p, k = predicted[rows, e], known[rows, e]
        assert got["rmse"][e] == pytest.approx(root_mean_squared_error(k, p))
        assert got["mae"][e] == pytest.approx(mean_absolute_error(k, p))
        assert got["skill"][e] == pytest.approx(r2_score(k, p))
        assert got["r"][e] == pytest.approx(np.corrcoef(k, p)[0, 1])
        assert got["bias"][e] == pytest.approx((p - k).mean())
    nothing = score(np.full((3, 1), np.nan), np.ones((3, 1)))
    assert np.isnan(nothing["rmse"]).all()


def test_a_table_ranks_methods(rng):
    known = rng.uniform(1, 20, (30, 2))
    table = score_table({"bad": known + 5, "good": known + 0.1}, known, ["Fe", "Al"])
    assert table["relative"].values[1] < table["relative"].values[0]
    lines = format_table(table).splitlines()
    assert lines[0] == "| rmse | Fe | Al | relative |"
    assert lines[2].startswith("| good | 0.100 | 0.100 |")


# ------------------------------------------------------------------------------------------ tracks
def strip(lon, lat, height=3.0, width=0.5):
    corner_lat = np.asarray(lat)[:, None] + height / 2 * np.array([-1, 1, 1, -1])
    corner_lon = np.asarray(lon)[:, None] + width / 2 * np.array([-1, -1, 1, 1])
    dims = ("footprint", "corner")
    return xr.Dataset({"corner_lat": (dims, corner_lat), "corner_lon": (dims, corner_lon)})


def test_tracks_are_chains_of_footprints():
    lon = [10, 10.1, 10.2, 50, 50, 179.9, -179.9, 30]
    lat = [0, 3, 6, 0, 20, 0, 3, 3]
    assert track_numbers(strip(lon, lat)).tolist() == [0, 0, 0, 1, 2, 3, 3, 4]
    assert track_numbers(strip([0], [0])).tolist() == [0]
    assert track_numbers(strip([], [])).size == 0
    named = strip([0, 0, 0], [0, 0, 0]).assign_coords(track=("footprint", [7, 3, 7]))
    assert track_numbers(named).tolist() == [1, 0, 1]


def test_folds_hold_whole_tracks(rng):
    tracks = np.repeat(np.arange(12), rng.integers(1, 8, 12))
    folds = track_folds(tracks, 4, seed=1)
    assert all(len(np.unique(folds[tracks == t])) == 1 for t in range(12))
    counts = np.bincount(folds)
    assert len(counts) == 4
    assert counts.max() - counts.min() <= 7
    with pytest.raises(InputError, match="folds"):
        track_folds(tracks, 13)


def test_cross_validation_holds_out_whole_tracks(rng, monkeypatch):
    from lunarray.superres import evaluation

    data, _, footprints, grid = region(rng, number=30)
    track = np.arange(footprints.sizes["footprint"]) // 4
    footprints = footprints.assign_coords(track=("footprint", track))
    used = []
    assemble = evaluation.assemble_region

    def spy(grid, features, mare, table, **options):
        used.append(set(table["track"].values.tolist()))
        return assemble(grid, features, mare, table, **options)

    monkeypatch.setattr(evaluation, "assemble_region", spy)
    table = sr.cross_validate(
        grid, data.features, data.mare, footprints, TINY, folds=2,
        methods=["mare/highland mean", "nearest footprint"],
    )  # fmt: skip
    assert list(table["method"].values) == ["network", "mare/highland mean", "nearest footprint"]
    rows = table["row"].values
    assert sorted(rows) == list(range(footprints.sizes["footprint"]))
    start = 0
    for tracks in used:
        held = [r for r in rows[start:] if footprints["track"].values[r] not in tracks]
        own = rows[start : start + len(held)]
        assert not tracks & set(footprints["track"].values[own].tolist())
        start += len(own)
    np.testing.assert_allclose(table["measured"], footprints["abundance"].values[rows], rtol=1e-6)
    want = score(table["predicted"].values[1], table["measured"].values)["rmse"]
    np.testing.assert_allclose(table["rmse"].values[1], want)


# ------------------------------------------------------------------------------------------ support
def test_support_is_shapelys(rng):
    import shapely

    lat, lon = 2 - 0.02 * np.arange(100), 0.02 * np.arange(120)
    quads = []
    for _ in range(12):
        x, y, turn = rng.uniform(0.7, 1.7), rng.uniform(0.7, 1.4), rng.uniform(0, 3)
        box = np.array([[-0.5, -0.1], [0.5, -0.1], [0.5, 0.1], [-0.5, 0.1]])
        spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        quads.append(box @ spin.T + [x, y])
    quads = np.array(quads)
    blank = np.ones((12, 1))
    support = footprint_support(quads[..., 1], quads[..., 0], blank, blank, lat, lon)
    assert support.count == 12
    x, y = np.meshgrid(lon, lat)
    for f in range(12):
        own = np.zeros(x.size, bool)
        own[support.pixel[support.footprint == f]] = True
        inside = shapely.contains_xy(shapely.Polygon(quads[f]), x.ravel(), y.ravel())
        # Edges are great circles, not lines in degrees: at the equator they differ by less than a pixel here and there.
        assert (own != inside).sum() <= 2
        share = support.share[support.footprint == f]
        assert share.sum() == pytest.approx(1, abs=1e-5)


def test_support_across_the_seam_and_over_the_pole():
    blank = np.ones((1, 1))
    lat, lon = 5.5 - np.arange(12.0), -179.5 + np.arange(360.0)
    box = np.array([[-3.0, -2.0], [3.0, -2.0], [3.0, 2.0], [-3.0, 2.0]])
    here = footprint_support(box[None, :, 1], box[None, :, 0], blank, blank, lat, lon)
    there = footprint_support(box[None, :, 1], box[None, :, 0] + 180, blank, blank, lat, lon)
    assert len(here.pixel) == len(there.pixel) == 24
    assert sorted((there.pixel % 360 + 180) % 360) == sorted(here.pixel % 360)
    polar = 89.75 - 0.5 * np.arange(20)
    cap_lat, cap_lon = np.full((1, 4), 88.0), np.array([[0.0, 90.0, 180.0, 270.0]])
    cap = footprint_support(cap_lat, cap_lon, blank, blank, polar, lon)
    assert set(range(720)) <= set(cap.pixel.tolist())  # both rows around the pole


def test_support_at_the_edge_of_a_region():
    blank = np.ones((2, 1))
    lat, lon = 9.5 - np.arange(10.0), 0.5 + np.arange(10.0)
    x = np.array([[-1.0, 3.0, 3.0, -1.0], [-3.0, 1.0, 1.0, -3.0]])
    y = np.array([[2.0, 2.0, 5.0, 5.0]] * 2)
    support = footprint_support(y, x, blank, blank, lat, lon)
    assert support.number.tolist() == [0]  # three quarters of it, and a quarter of the other
    assert footprint_support(y, x, blank, blank, lat, lon, least=0.2).count == 2
    gone = footprint_support(y, x, np.full((2, 1), np.nan), blank, lat, lon)
    assert gone.count == 0


def test_restricted_support_keeps_shares(rng):
    data, *_ = region(rng)
    valid = np.ones(data.mare.size, bool)
    valid[: data.mare.size // 2] = False
    part = data.support.restricted(valid)
    assert 0 < part.count < data.support.count
    assert valid[part.pixel].all()
    np.testing.assert_allclose(np.bincount(part.footprint, part.share), 1, rtol=1e-5)
    same = np.isin(data.support.number, part.number)
    np.testing.assert_array_equal(part.measured, data.support.measured[same])
    assert data.support.restricted(np.ones_like(valid)) is data.support
    assert len(ELEMENTS) == part.measured.shape[1]
