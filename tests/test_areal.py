"""The areal Gaussian process: kernels against brute force, sums, seams, far footprints, files, what it must beat."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import superres_cases as cases
import xarray as xr
from scipy.optimize import check_grad

import lunarray.superres as sr
from lunarray.errors import InputError, LunarrayWarning, ModelError, StoreConflictError
from lunarray.superres.areal import ArealSettings, Basis
from lunarray.superres.areal_bank import (
    FILE,
    footprint_table,
    ground_of,
    load_areal,
    model_of_ground,
    predict_ground,
)
from lunarray.superres.areal_evidence import Evidence
from lunarray.superres.areal_kernels import COARSE, FINE, cross, gram, lattice, places
from lunarray.superres.areal_mixing import Mixing, known_sums
from lunarray.superres.evaluation import score_table

SMALL = ArealSettings(waves=48, lengths=(150.0, 25.0))
LENGTHS = np.array([150.0, 25.0])


def squares(lat, lon, half=0.3):
    """Corners of small footprints."""
    lat, lon = np.atleast_1d(lat).astype(float), np.atleast_1d(lon).astype(float)
    return (
        lat[:, None] + half * np.array([-1, 1, 1, -1]),
        lon[:, None] + 3 * half * np.array([-1, -1, 1, 1]),
    )


def matern(a, b, length):
    s = np.sqrt(3) * np.linalg.norm(a[:, None] - b[None], axis=-1) / length
    return (1 + s) * np.exp(-s)


def test_covariances_of_means_are_means_of_covariances():
    corners = squares([0, 0.5, 1, 8], [179.6, -179.9, 178, 175])
    fine, coarse = lattice(*corners, FINE), lattice(*corners, COARSE)
    got = gram(fine, coarse, LENGTHS)
    for q, length in enumerate(LENGTHS):
        want = [[matern(a, b, length).mean() for b in fine] for a in fine]
        np.testing.assert_allclose(got[q], want, atol=4e-3)
        assert np.linalg.eigvalsh(got[q]).min() > -1e-3
    pixels = places(np.array([0.0, 3.0]), np.array([180.0, -178.0]))
    want = [
        [[matern(p[None], b, length).mean() for b in fine] for p in pixels] for length in LENGTHS
    ]
    np.testing.assert_allclose(cross(pixels, fine, coarse, LENGTHS), want, atol=4e-3)


def test_points_of_a_footprint_stand_for_its_area_over_a_pole_too():
    corner_lat, corner_lon = np.full((1, 4), 88.0), np.array([[0.0, 90.0, 180.0, 270.0]])
    points = lattice(corner_lat, corner_lon)
    middle = points[0].mean(axis=0)
    assert middle[2] > 1700
    assert np.hypot(*middle[:2]) < 1


def test_gradient_of_the_evidence(rng):
    points = rng.uniform(-1, 1, (12, 2))
    grams = np.stack([points @ points.T, np.exp(-((points[:, :1] - points[:, :1].T) ** 2))])
    track = np.repeat(np.arange(4), 3)
    evidence = Evidence(
        rng.standard_normal((12, 3)) * [3, 1, 0.5], rng.uniform(0.5, 2, 12), grams,
        track, np.full(3, 100.0), (30.0,),
    )  # fmt: skip
    x = 0.3 * rng.standard_normal(2 + 3 + 6 + 2 + 6)
    away = check_grad(lambda v: evidence.loss(v)[0], lambda v: evidence.loss(v)[1], x)
    assert away < 1e-3 * np.linalg.norm(evidence.loss(x)[1])
    logs = evidence.fit()
    assert logs.shape == (3, 4)


def test_independent_elements_with_known_sums_are_conditioned(rng):
    """As a Gaussian distribution under linear constraints, by its textbook formula; shared components are left."""
    sums, totals = np.array([[1.0, 1.0, 1.0], [0.5, -1.0, 0.0]]), np.array([10.0, 0.0])
    mixing = Mixing.of(np.zeros(3), np.ones(3), np.eye(3))
    mean, variance = rng.uniform(1, 5, (7, 3)), rng.uniform(0.1, 2, (7, 3))
    found, kept = mixing.closed(mean, variance, sums, totals)
    for m, v, f, k in zip(mean, variance, found, kept, strict=True):
        gain = np.diag(v) @ sums.T @ np.linalg.inv(sums @ np.diag(v) @ sums.T)
        np.testing.assert_allclose(f, m + gain @ (totals - sums @ m))
        np.testing.assert_allclose(k, np.diag(np.diag(v) - gain @ sums @ np.diag(v)), atol=1e-6)
    np.testing.assert_allclose(found @ sums.T, np.tile(totals, (7, 1)), atol=1e-9)
    shared = Mixing.of(np.zeros(3), np.ones(3), np.eye(3)[:, :2])
    assert shared.closed(mean, variance, sums, totals)[0] is mean


def test_members_are_pooled_by_inverse_variance():
    from lunarray.superres.areal import joined

    ones = np.ones((4, 2))
    mean, variance = joined([(ones, 4 * ones), (3 * ones, 1 * ones)], np.full((2, 2), 0.5))
    np.testing.assert_allclose(mean, 2)
    # Half of 1/4 and half of 1, and one apart from the mean on either side.
    np.testing.assert_allclose(variance, 1 / 0.625 + 1)


def test_known_sums_make_measurements_better(rng):
    from lunarray.xrf import ELEMENTS, HIGHLAND

    true = np.array([HIGHLAND[e] for e in ELEMENTS])
    oxygen = np.array([0.2865, 0.6683, 0.3992, 1.1392, 0.8895, 0.6583, 0.348, 0.0])
    true[-1] = oxygen @ true
    true *= 100 / true.sum()
    error = np.tile([0.8, 0.3, 0.8, 0.8, 0.8, 0.5, 0.1, 1.0], (200, 1))
    measured = true + error * rng.standard_normal(error.shape)
    sums, totals = known_sums(ELEMENTS, measured, error, closure=True, stoichiometry=True)
    assert len(sums) == 2
    mixing = Mixing.found(measured, np.ones(200), error[0], sums, totals)
    values = mixing.components(measured)
    back = mixing.base + mixing.unit * (values @ mixing.loading.T)
    np.testing.assert_allclose(back.sum(axis=1), 100, atol=1e-9)
    better = (back - true).std(axis=0) / error[0]
    np.testing.assert_allclose(better, np.sqrt((mixing.loading**2).sum(axis=1)), rtol=0.2)
    assert better[3] < 0.9  # silicon
    assert better[-1] < 0.6  # oxygen
    # Oxygen that was fixed is none that was measured.
    measured[:, -1] = 45.0
    assert len(known_sums(ELEMENTS, measured, error, closure=True, stoichiometry=True)[0]) == 1
    assert not len(
        known_sums(ELEMENTS[:4], measured[:, :4], error[:, :4], closure=True, stoichiometry=True)[0]
    )


@pytest.fixture(scope="module")
def scene():
    from lunarray.simulate import track_scene

    grid = sr.GIBGrid((1, 1), (60, 90), (-85.0, 12.0, -65.3, 25.2))
    return grid, track_scene(grid, 5, coverage=0.2, finer=1)


def ground(grid, scene):
    from scipy.ndimage import gaussian_filter

    from lunarray.geo import reproject

    image = np.log(reproject(scene.basemap, grid.geobox).values.astype(float))
    features = np.stack([gaussian_filter(image, w) for w in (0.5, 2)]).astype(np.float32)
    mare = sr.mare_class(grid.geobox, albedo=scene.basemap).values
    return grid.lat(0), grid.lon(0), features, mare


def test_better_than_ridge_and_means_closed_and_not_negative(scene):
    grid, made = scene
    area = ground(grid, made)
    model = model_of_ground([area], made.footprints, SMALL)
    mean, variance = predict_ground(model, area)
    np.testing.assert_allclose(mean.sum(axis=0), 100, atol=2e-3)
    assert mean.min() >= 0
    truth, free = made.truth["abundance"].values, ~made.covered.values
    from lunarray.superres.regions import assemble_region

    data = assemble_region(grid, area[2], area[3], made.footprints)
    maps = sr.baseline_maps(data, ("footprint ridge", "mare/highland mean")) | {"areal": mean}
    table = score_table(
        {n: m[:, free].T for n, m in maps.items()}, truth[:, free].T, list(model.elements)
    )
    relative = dict(zip(table["method"].values, table["relative"].values, strict=True))
    assert relative["areal"] < relative["footprint ridge"]
    assert relative["areal"] < 0.85 * relative["mare/highland mean"]
    inside = (np.abs(mean - truth) < np.sqrt(variance))[:, free].mean()
    assert 0.5 < inside < 0.9


def test_cross_validation_names_methods(scene):
    grid, made = scene
    _, _, features, mare = ground(grid, made)
    table = sr.cross_validate(
        grid,
        features,
        mare,
        made.footprints,
        SMALL,
        folds=4,
        only=[0],
        methods=("ridge",),
        progress=False,
    )
    assert list(table["method"].values) == ["areal", "footprint ridge"]
    assert np.isfinite(table["predicted_std"].values[0]).all()
    assert np.isnan(table["predicted_std"].values[1]).all()
    with pytest.raises(InputError, match="no method magic"):
        sr.cross_validate(grid, features, mare, made.footprints, methods=("magic",))
    with pytest.raises(InputError, match="features"):
        sr.cross_validate(grid, features[:, :-1], mare, made.footprints)
    with pytest.raises(InputError, match="mare"):
        sr.cross_validate(grid, features, mare[None], made.footprints)
    with pytest.raises(InputError, match=r"folds \[7\]"):
        sr.cross_validate(grid, features, mare, made.footprints, only=[7])


def test_gaps_and_unknown_errors(scene):
    grid, made = scene
    area = ground(grid, made)
    area[2][:, :8, :8] = np.nan
    some = made.footprints.copy(deep=True)
    some["abundance_std"][:] = np.nan
    some["abundance"][::5, 2] = np.nan
    some["abundance"][:, 6] = np.nan
    mean, variance = predict_ground(model_of_ground([area], some, SMALL), area)
    assert len(mean) == 7
    assert np.isnan(mean[:, :8, :8]).all()
    assert np.isfinite(mean[:, 8:, 8:]).all()
    assert (variance[:, 8:, 8:] > 0).all()


def test_means_over_footprints_are_summed_over_regions(rng):
    whole = sr.GIBGrid((1, 1), (24, 40), (-180.0, -24.0, 180.0, 24.0))
    parts = sr.GIBGrid((2, 2), (12, 20), (-180.0, -24.0, 180.0, 24.0))
    features = cases.fields(rng, whole)
    mare = np.where(features[0] > 0, 1, 2).astype(np.uint8)
    footprints = cases.footprints_of(rng, whole, cases.truth_of(features))
    basis = Basis.drawn(features.mean(axis=(1, 2)), features.std(axis=(1, 2)), SMALL)
    one, rows = footprint_table([(whole.lat(), whole.lon(), features, mare)], footprints, basis)
    pieces = []
    for own in parts.all_regions():
        y, x = parts.slices(*own)
        pieces.append((parts.lat(own[0]), parts.lon(own[1]), features[:, y, x], mare[y, x]))
    many, same = footprint_table(pieces, footprints, basis)
    np.testing.assert_array_equal(rows, same)
    np.testing.assert_allclose(one.design, many.design, atol=1e-9)


def test_far_footprints_tell_of_the_weights(rng):
    """With few footprints taken exactly, maps are about those with all taken so."""
    grid = sr.GIBGrid((1, 1), (45, 90), (-180.0, -45.0, 180.0, 45.0))
    features = cases.fields(rng, grid)
    truth = cases.truth_of(features)
    mare = np.where(features[0] > 0, 1, 2).astype(np.uint8)
    area = grid.lat(), grid.lon(), features, mare
    footprints = cases.footprints_of(rng, grid, truth, 160)
    maps = []
    for near in (40, 1000):
        settings = ArealSettings(waves=24, lengths=(150.0, 25.0), near=near)
        model = model_of_ground([area], footprints, settings, calibrate=False)
        maps.append(predict_ground(model, area))
    (few, few_variance), (every, variance) = maps
    spread = truth.std(axis=(1, 2))
    off = np.sqrt(((few - every) ** 2).mean(axis=(1, 2))) / spread
    assert (off < 0.05).all()
    np.testing.assert_allclose(np.sqrt(few_variance).mean(), np.sqrt(variance).mean(), rtol=0.2)
    # Nothing at ±180°: neighbours across it are as alike as neighbours elsewhere.
    step = np.abs(np.diff(every, axis=2)).mean()
    assert np.abs(every[:, :, 0] - every[:, :, -1]).mean() < 1.5 * step


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("areal")
    grid = sr.GIBGrid((1, 2), (16, 20), (-180.0, -30.0, 180.0, 30.0))
    path = folder / "gib.zarr"
    made, truth = cases.bank(path, np.random.default_rng(3), grid, 80)
    sr.populate(path, made, progress=False)
    files = sr.train_gib(path, folder / "models", SMALL)
    return folder, path, files, truth


def test_a_bank_is_mapped(bank):
    folder, path, files, truth = bank
    assert [f.name for f in files] == [FILE]
    ds = sr.open_gib(path)
    lazy = sr.superresolve(ds, folder / "models", max_distance=None)
    assert lazy["abundance"].chunks is not None
    eager = sr.superresolve(ds.load(), folder / "models", max_distance=None)
    xr.testing.assert_identical(lazy.compute(), eager)
    error = np.sqrt(((eager["abundance"].values - truth) ** 2).mean(axis=(1, 2)))
    assert (error < 0.5 * truth.std(axis=(1, 2))).all()
    assert (eager["abundance_std"] > 0).all()


def test_a_model_is_kept_and_told_from_others(bank, tmp_path):
    folder, path, files, _ = bank
    before = files[0].read_bytes()
    assert sr.train_gib(path, folder / "models", SMALL) == files
    assert files[0].read_bytes() == before
    with pytest.raises(StoreConflictError, match="other data or settings"):
        sr.train_gib(path, folder / "models", ArealSettings(waves=32))
    model = load_areal(files[0])
    assert model.card["tracks"] >= 1
    area = next(ground_of(sr.open_gib(path), [(0, 0)]))
    with pytest.raises(ModelError, match="1 surface features"):
        predict_ground(model, (*area[:2], area[2][:1], area[3]))
    with pytest.raises(InputError, match="TrainSettings for the method 'areal'"):
        sr.train_gib(path, tmp_path, sr.TrainSettings(), method="areal")


def test_a_model_that_is_older_than_its_bank_says_so(bank, tmp_path):
    folder, path, _, _ = bank
    own = shutil.copytree(path, tmp_path / "gib.zarr")
    sr.superresolve(sr.open_gib(own), folder / "models")
    more = sr.gib_footprints(own).isel(footprint=[0])
    sr.populate(own, more.assign(abundance=1.01 * more["abundance"]), progress=False)
    with pytest.warns(LunarrayWarning, match="trained on other footprints"):
        sr.superresolve(sr.open_gib(own), folder / "models")


def test_a_plan_of_maps_is_measured(bank, tmp_path):
    from lunarray.superres.planning import ArealPlan, measure_areal

    folder, path, _, _ = bank
    found = measure_areal(sr.open_gib(path), folder / "models")
    assert found.bands == 1
    assert found.footprints <= 80
    assert found.band > 0
    # Workers share the bands of a region.
    assert ArealPlan(10, 6, 10.0).hours(64, 2) == pytest.approx(64 * 3 * 10 / 3600)
    with pytest.raises(ModelError, match="no areal model"):
        measure_areal(sr.open_gib(path), tmp_path)


def test_settings_that_make_no_sense():
    with pytest.raises(InputError, match="make no sense"):
        ArealSettings(lengths=())
    assert ArealSettings.from_json(SMALL.to_json()) == SMALL


def test_wild_footprints_and_errors_of_another_unit_do_no_harm(rng):
    grid = sr.GIBGrid((1, 1), (24, 40), (-30.0, -24.0, 30.0, 24.0))
    features = cases.fields(rng, grid)
    truth = cases.truth_of(features)
    mare = np.where(features[0] > 0, 1, 2).astype(np.uint8)
    area = grid.lat(), grid.lon(), features, mare
    made = cases.footprints_of(rng, grid, truth, 60)
    wild, wrong = made.copy(deep=True), made.copy(deep=True)
    wild["abundance"][::9] *= 6
    wrong["abundance_std"][:] *= 1e6
    for footprints in (wild, wrong):
        model = model_of_ground([area], footprints, ArealSettings(waves=24, lengths=(150.0,)))
        mean, variance = predict_ground(model, area)
        off = np.sqrt(((mean - truth) ** 2).mean(axis=(1, 2)))
        assert (off < 0.1 * truth.std(axis=(1, 2))).all()
        assert (np.sqrt(variance).mean(axis=(1, 2)) < 0.1 * truth.std(axis=(1, 2))).all()
