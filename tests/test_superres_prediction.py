"""Maps from trained networks: no seams, the same in chunks, masked where nothing is known."""

from __future__ import annotations

import shutil
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import torch
from superres_cases import ELEMENTS, TINY, bank, fields, region

import lunarray.superres as sr
from lunarray.engine import ModelSpec, from_sklearn
from lunarray.engine.models import Maps, Spectra
from lunarray.errors import InputError, LunarrayWarning, ModelError, WrongKindError
from lunarray.geo import great_circle_distance
from lunarray.superres.architecture import Scaling
from lunarray.superres.model import HybridModel
from lunarray.superres.prediction import predict_region
from lunarray.superres.trained import TrainedRegion, region_models, save_region_model

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small Moon all around the equator, all of its regions trained."""
    rng = np.random.default_rng(20261121)
    folder = tmp_path_factory.mktemp("study")
    grid = sr.GIBGrid((2, 2), (14, 20), (-180.0, -42.0, 180.0, 42.0))
    footprints, truth = bank(folder / "gib.zarr", rng, grid, 100)
    sr.populate(folder / "gib.zarr", footprints, progress=False)
    sr.train_gib(folder / "gib.zarr", folder / "models", TINY)
    return folder, grid, truth


@pytest.fixture
def ds(study):
    return sr.open_gib(study[0] / "gib.zarr")


def test_chunked_is_whole(study, ds):
    folder = study[0]
    lazy = ds.lunar.superresolve(folder / "models", max_distance=None)
    assert isinstance(lazy["abundance"].data, da.Array)
    whole = ds.compute().lunar.superresolve(folder / "models", max_distance=None)
    assert isinstance(whole["abundance"].data, np.ndarray)
    chunked = ds.chunk(lat=9, lon=13, feature=2).lunar.superresolve(folder / "models", max_distance=None)  # fmt: skip
    lazy, chunked = lazy.compute(), chunked.compute()
    for name in ("abundance", "abundance_std", "distance"):
        np.testing.assert_array_equal(lazy[name].values, whole[name].values)
        np.testing.assert_array_equal(chunked[name].values, whole[name].values)
    assert np.isfinite(whole["abundance"]).all()
    assert (whole["abundance_std"] > 0).all()
    assert whole["abundance"].dims == ("element", "lat", "lon")
    assert list(whole["element"].values) == list(ELEMENTS)
    assert whole["abundance"].attrs["units"] == "percent"
    assert "superresolve" in whole.attrs["history"]
    assert whole["lon"].equals(ds["lon"])


def level(elements, values, settings=TINY, features=6, region=(0, 0), **changes):
    """A network that says the same everywhere, or what the trend says."""
    model = HybridModel(settings.architecture(features, len(elements))).eval()
    for p in model.parameters():
        torch.nn.init.zeros_(p)
    count = len(elements)
    options = {
        "trend": np.zeros((features + 3, count), np.float32),
        "mean": np.array(values, np.float32),
    } | changes
    scaling = Scaling(
        np.zeros(features, np.float32), np.ones(features, np.float32), (0.0, 90.0), (0.0, 180.0),
        std=np.ones(count, np.float32), **options,
    )  # fmt: skip
    return TrainedRegion(
        [model], scaling, tuple(elements), settings, region, np.zeros(count, np.float32), [], ""
    )


@pytest.mark.parametrize("regions", [(2, 3), (1, 1), (2, 1), (1, 2)])
def test_networks_that_disagree_meet_without_a_step(tmp_path, rng, regions):
    """Also where the last column touches the first, and where a region touches itself there."""
    grid = sr.GIBGrid(regions, (16, 20), (-180.0, -60.0, 180.0, 60.0))
    bank(tmp_path / "gib.zarr", rng, grid)
    gap = 0.0
    for number, own in enumerate(grid.all_regions()):
        trained = level(ELEMENTS, [10.0 + 6 * (number % 2) + number, 20.0, 30.0], region=own)
        trained.feature_model = sr.open_gib(tmp_path / "gib.zarr").attrs["feature_model"]
        gap = 6.0 + len(list(grid.all_regions()))
        save_region_model(tmp_path / f"region_{own[0]:02d}_{own[1]:02d}.safetensors", trained)
    ds = sr.open_gib(tmp_path / "gib.zarr").compute()
    for margin in (4, None):
        iron = ds.lunar.superresolve(tmp_path, max_distance=None, margin=margin)["abundance"]
        # The taper falls over twice the margin; in a corner both ways at once.
        steepest = 2 * gap / (2 * (margin or TINY.stride)) + 1e-4
        across = np.diff(np.concatenate([iron[0], iron[0, :, :1]], axis=1), axis=1)
        assert np.abs(across).max() <= steepest
        assert np.abs(np.diff(iron[0], axis=0)).max() <= steepest
        np.testing.assert_allclose(iron[1], 20.0, rtol=1e-6)
        if len(list(grid.all_regions())) > 1:
            middle = iron[0].isel(lat=slice(7, 9), lon=slice(9, 11))
            np.testing.assert_allclose(middle, 10.0, rtol=1e-6)
    if len(list(grid.all_regions())) > 1:
        cut = ds.lunar.superresolve(tmp_path, max_distance=None, margin=0)["abundance"][0]
        assert np.abs(np.diff(cut, axis=0)).max() + np.abs(np.diff(cut, axis=1)).max() > 6.9


def test_overlapping_sub_regions_share_to_one(rng):
    """A network that is a linear function of its pixel comes out as that, whatever the overlaps."""
    data, *_ = region(rng)
    trend = rng.standard_normal((9, 3)).astype(np.float32)
    trained = level(ELEMENTS, [50.0, 60.0, 70.0], trend=trend)
    mean, variance = predict_region(trained, data.lat, data.lon, data.features, data.mare)
    flat = data.features.reshape(6, -1).T
    lat, lon = (v.ravel() for v in np.meshgrid(data.lat, data.lon, indexing="ij"))
    x = trained.scaling.inputs(flat, data.mare.ravel(), lat, lon)
    want = (np.array([50.0, 60.0, 70.0]) + x @ trend).T.reshape(3, *data.mare.shape)
    np.testing.assert_allclose(mean, want, rtol=1e-5)
    assert variance.max() < 1e-2  # of float32 rounding only


def test_members_that_disagree_are_the_uncertainty(rng):
    data, *_ = region(rng)
    one = level(ELEMENTS, [10.0, 20.0, 30.0])
    for shift in (-1.0, 3.0):
        model = level(ELEMENTS, [0.0, 0.0, 0.0]).models[0]
        torch.nn.init.constant_(model.output.bias, shift)
        one.models.append(model)
    mean, variance = predict_region(one, data.lat, data.lon, data.features, data.mare)
    shifts = np.array([0.0, -1.0, 3.0])
    np.testing.assert_allclose(mean[0], 10 + shifts.mean(), rtol=1e-5)
    np.testing.assert_allclose(variance[0], shifts.var(), rtol=1e-4)


def test_no_network_means_no_map(study, ds):
    folder, grid, _ = study
    models = region_models(folder / "models")
    del models[0, 1]
    result = ds.lunar.superresolve(models, max_distance=None)["abundance"].compute()
    rows, columns = grid.slices(0, 1)
    hole = result.isel(lat=rows, lon=columns)
    assert hole.isnull().all()
    assert int(result.isnull().sum()) == hole.size


def test_networks_that_are_older_than_their_bank_say_so(study, tmp_path):
    own = shutil.copytree(study[0] / "gib.zarr", tmp_path / "gib.zarr")
    sr.superresolve(sr.open_gib(own), study[0] / "models")
    more = sr.gib_footprints(own).isel(footprint=[0])
    changed = sr.populate(own, more.assign(abundance=1.01 * more["abundance"]), progress=False)
    with pytest.warns(LunarrayWarning, match="trained on other footprints") as told:
        sr.superresolve(sr.open_gib(own), study[0] / "models")
    assert str(changed.regions[0]) in str(told[0].message)


def test_far_from_all_that_is_known_nothing_is_said(study, ds):
    folder, grid, _ = study
    known = np.isfinite(ds["abundance"].values).any(axis=0)
    lat, lon = np.meshgrid(grid.lat(), grid.lon(), indexing="ij")
    distance = great_circle_distance(
        lon[..., None], lat[..., None], lon[known][None, None], lat[known][None, None]
    ).min(axis=-1)
    limit = float(np.quantile(distance, 0.7))
    result = ds.lunar.superresolve(folder / "models", max_distance=limit).compute()
    np.testing.assert_allclose(result["distance"], distance / 1e3, rtol=1e-4, atol=1e-3)
    near = distance <= limit
    # Both sides of a rounding of the limit itself are right.
    sure = np.abs(distance - limit) > 1
    assert np.array_equal(np.isfinite(result["abundance"][0].values)[sure], near[sure])
    assert np.array_equal(np.isfinite(result["abundance_std"][2].values)[sure], near[sure])


def test_models_that_do_not_fit(study, ds, tmp_path, rng):
    folder, *_ = study
    with pytest.raises(ModelError, match="no models"):
        ds.lunar.superresolve(tmp_path)
    other = ds.assign_attrs(feature_model='{"network": "another"}')
    with pytest.raises(ModelError, match="another feature model"):
        other.lunar.superresolve(folder / "models")
    with pytest.raises(ModelError, match="surface features"):
        ds.isel(feature=slice(0, 4)).lunar.superresolve(folder / "models")
    for closed in ("bank.zarr", Path("bank.zarr"), None):
        with pytest.raises(WrongKindError, match="open_gib"):
            sr.superresolve(closed, "models")
    with pytest.raises(InputError, match="no variable feature"):
        ds.drop_vars("feature").lunar.superresolve(folder / "models")
    with pytest.raises(InputError, match="on a grid of"):
        ds.isel(lat=slice(0, 20)).lunar.superresolve(folder / "models")
    with pytest.raises(InputError, match="margin"):
        ds.lunar.superresolve(folder / "models", margin=-1)
    data, *_ = region(rng)
    with pytest.raises(ModelError, match="features for a network"):
        predict_region(
            level(ELEMENTS, [1, 1, 1], features=4), data.lat, data.lon, data.features, data.mare
        )
    models = region_models(folder / "models")
    with pytest.raises(ModelError, match="made for region"):
        ds.lunar.superresolve({(0, 0): models[1, 1]})


def test_fields_have_no_seam(rng):
    """The test's own ground: what the networks see must not jump at ±180° either."""
    grid = sr.GIBGrid((1, 1), (20, 60), (-180.0, -60.0, 180.0, 60.0))
    x = fields(rng, grid)
    inside = np.abs(np.diff(x, axis=2)).max()
    assert np.abs(x[:, :, 0] - x[:, :, -1]).max() <= 1.5 * inside


# --- Models of pixels -----------------------------------------------------------------------------


class _Sum:
    """A regressor: the sum and the first of the features, and that it is off by a tenth."""

    def predict(self, x, return_std=False):
        values = np.stack([x.sum(axis=1), x[:, 0]], axis=1)
        return (values, np.full_like(values, 0.1)) if return_std else values


@pytest.mark.parametrize("errors", [False, True])
def test_a_users_regressor_predicts_pixel_by_pixel(ds, tmp_path, errors):
    model = from_sklearn(
        _Sum(), inputs=Maps(), outputs=("Fe", "Ti"), uncertainty=errors, folder=tmp_path
    )
    lazy = ds.lunar.superresolve(model, max_distance=None)
    assert isinstance(lazy["abundance"].data, da.Array)
    whole = ds.compute().lunar.superresolve(model, max_distance=None)
    assert list(whole["element"].values) == ["Fe", "Ti"]
    feature = ds["feature"].transpose("feature", "lat", "lon").values
    np.testing.assert_allclose(whole["abundance"][0], feature.sum(axis=0), atol=1e-5)
    np.testing.assert_allclose(whole["abundance"][1], feature[0], atol=1e-6)
    for name in ("abundance", "abundance_std", "distance"):
        np.testing.assert_array_equal(lazy[name].values, whole[name].values)
    if errors:
        np.testing.assert_allclose(whole["abundance_std"], 0.1, rtol=1e-3)
    else:
        assert np.isnan(whole["abundance_std"]).all()
    # What is masked for networks is masked for it.
    near = ds.compute().lunar.superresolve(model, max_distance=1.0)
    assert 0 < np.isnan(near["abundance"][0]).mean() < 1


def test_models_of_pixels_that_do_not_fit(ds, tmp_path):
    def model(**said):
        return from_sklearn(_Sum(), folder=tmp_path, **said)

    with pytest.raises(ModelError, match=r"2 features, the store has \d"):
        ds.lunar.superresolve(model(inputs=Maps(("a", "b")), outputs=("Fe", "Ti")))
    with pytest.raises(ModelError, match="spectra where named maps are given"):
        ds.lunar.superresolve(ModelSpec("a:b", "w", "0", ("Fe",), inputs=Spectra()))
    with pytest.raises(ModelError, match="does not name what it gives"):
        ds.lunar.superresolve(ModelSpec("a:b", "w", "0", 2, inputs=Maps()))
    with pytest.raises(ModelError, match="it gives Fe, Ti, Ti_std"):
        ds.lunar.superresolve(ModelSpec("a:b", "w", "0", ("Fe", "Ti", "Ti_std"), inputs=Maps()))
    with pytest.raises(ModelError, match="from_sklearn"):
        ds.lunar.superresolve(_Sum())
