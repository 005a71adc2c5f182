"""Training of a region: what it learns, that it resumes to the same bits, and what it refuses."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from superres_cases import TINY, bank, region

import lunarray.superres as sr
from lunarray.errors import (
    InputError,
    MissingDependencyError,
    ModelError,
    StoreConflictError,
    StoreFormatError,
)
from lunarray.superres.backbone import random_state
from lunarray.superres.grid import starts
from lunarray.superres.prediction import predict_region
from lunarray.superres.regions import RegionData, assemble_region
from lunarray.superres.subgraphs import GraphCache, input_planes
from lunarray.superres.support import Support
from lunarray.superres.trained import load_region_model, read_region_header, save_region_model
from lunarray.superres.training import train_region
from lunarray.superres.trend import fit_scaling, ridge

torch.set_num_threads(1)


def weights(trained):
    return [p for model in trained.models for p in model.state_dict().values()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_the_same_seed_gives_the_same_bits_and_another_others(rng):
    data, *_ = region(rng)
    first = train_region(data, TINY)
    torch.manual_seed(99)  # nothing outside may matter
    assert same(first, train_region(data, TINY))
    assert not same(first, train_region(data, replace(TINY, seed=1)))


@pytest.mark.parametrize(
    "changes",
    [{}, {"members": 2, "diffusion": 0.3}, {"yogi": "text", "point": 1.0, "learning_rate": 1e-3}],
)
def test_a_resumed_training_equals_one_without_interruption(rng, tmp_path, changes):
    data, *_ = region(rng)
    settings = replace(TINY, **changes)
    whole = train_region(data, settings)
    file = tmp_path / "a.checkpoint"
    rounds = 0
    while (trained := train_region(data, settings, checkpoint=file, stop_after=13)) is None:
        rounds += 1
    assert rounds >= 1
    assert same(whole, trained)
    assert whole.history == trained.history
    np.testing.assert_array_equal(whole.residual, trained.residual)


def test_a_checkpoint_of_other_data_or_settings_is_refused(rng, tmp_path):
    data, *_ = region(rng)
    file = tmp_path / "a.checkpoint"
    assert train_region(data, TINY, checkpoint=file, stop_after=3) is None
    with pytest.raises(StoreConflictError, match="another training"):
        train_region(data, replace(TINY, seed=4), checkpoint=file)
    other, *_ = region(np.random.default_rng(3))
    with pytest.raises(StoreConflictError, match="another training"):
        train_region(other, TINY, checkpoint=file)
    file.write_bytes(b"no checkpoint at all")
    with pytest.raises(StoreFormatError, match="checkpoint"):
        train_region(data, TINY, checkpoint=file)


def test_what_follows_from_the_features_is_learned(rng):
    data, truth, *_ = region(rng, number=60)
    settings = replace(TINY, epochs=4, steps=(6, 2), trend="mean", dropout=0.0)
    trained = train_region(data, settings)
    assert np.mean(trained.history[-20:]) < 0.5 * np.mean(trained.history[:20])
    predicted, _ = predict_region(trained, data.lat, data.lon, data.features, data.mare)
    error = np.sqrt(((predicted - truth) ** 2).mean(axis=(1, 2)))
    assert (error < 0.7 * truth.std(axis=(1, 2)))[:2].all()


def test_a_linear_relation_is_the_trends(rng):
    """Means over footprints of a linear function are that function of the mean inputs."""
    data, truth, *_ = region(rng, number=80, noise=1e-4)
    settings = replace(TINY, epochs=1, steps=(1, 0), learning_rate=1e-9, lowest_learning_rate=0.0)
    trained = train_region(data, settings)
    predicted, _ = predict_region(trained, data.lat, data.lon, data.features, data.mare)
    assert np.abs(predicted - truth).max() < 0.1


def test_phases_and_losses(rng):
    data, *_ = region(rng)
    seen = []
    settings = replace(TINY, point=1.0, deviation=1.0)
    train_region(data, settings, report=seen.append)
    first, second = (
        [set(s) for s in seen if s["phase"] == p and "masked_mse" in s] for p in (1, 2)
    )
    frame = {"region", "member", "visit", "visits", "phase", "loss"}
    # Three elements do not make a soil: no deviation from 100.
    assert all(s - frame == {"masked_mse", "footprint_mse"} for s in first)
    more = {"log", "feature_sim", "spatial_sim"}
    assert all(s - frame == {"masked_mse", "footprint_mse", *more} for s in second)
    assert [s["visit"] for s in seen] == list(range(1, len(seen) + 1))
    assert seen[-1]["visits"] == len(seen)
    assert all(
        abs(s["loss"] - sum(v for k, v in s.items() if k not in frame)) < 1e-4 for s in seen if len(s) > 6
    )  # fmt: skip


def test_the_deviation_counts_where_all_elements_are_there(rng):
    data, *_ = region(rng)
    names = ("Fe", "Ti", "Ca", "Si", "Al", "Mg", "Na", "O")
    whole = RegionData(
        data.lat, data.lon, data.features, data.mare,
        np.concatenate([data.abundance, data.abundance, data.abundance[:2]]), names,
    )  # fmt: skip
    seen = []
    shape = ("size", "stride", "k", "hidden", "heads", "channels", "fusion", "epochs", "steps")
    settings = sr.TrainSettings.paper(**{name: getattr(TINY, name) for name in shape})
    train_region(whole, settings, report=seen.append)
    assert {"masked_mse", "deviation"} <= set(seen[-1])


def test_the_papers_settings():
    s = sr.TrainSettings.paper()
    assert (s.size, s.stride, s.k, s.epochs, s.clip) == (100, 50, 100, 3, 1.0)
    assert (s.point, s.footprint, s.scaled, s.trend, s.feature_scale) == (1, 0, False, "mean", 1)
    assert (s.feature_similarity, s.spatial_similarity, s.deviation) == (1, 1, 1)
    assert sr.TrainSettings.from_json(s.to_json()) == s


def test_another_seed_changes_the_seed_alone(rng):
    """What functions train with by default is what the settings' defaults are, and the paper's."""
    default, other = asdict(sr.TrainSettings()), asdict(sr.TrainSettings(seed=1))
    assert {name for name in default if default[name] != other[name]} == {"seed"}
    assert sr.TrainSettings() == sr.TrainSettings.paper()
    data, *_ = region(rng)
    shape = {name: getattr(TINY, name) for name in ("size", "stride", "k", "epochs", "steps")}
    assert train_region(data, stop_after=0) is None
    trained = train_region(data, sr.TrainSettings(**shape))
    assert {"point": 1.0, "footprint": 0.0}.items() <= asdict(trained.settings).items()


@pytest.mark.skipif(torch.cuda.is_available(), reason="without a GPU")
def test_a_device_reaches_everything_that_runs_a_network(rng, tmp_path):
    """Each verb asks for the GPU that it is told to take, and says that there is none."""
    grid = sr.GIBGrid((1, 1), (16, 16), (0.0, 0.0, 1.0, 1.0))
    path, models = tmp_path / "gib.zarr", tmp_path / "models"
    footprints, _ = bank(path, rng, grid)
    sr.populate(path, footprints, progress=False)
    sr.train_gib(path, models, TINY, device="cpu")
    data, *_ = region(rng)
    ds = sr.open_gib(path)
    base = ds["mare"].astype("f4")
    other = tmp_path / "other.zarr"
    sr.create_gib(other, grid, features=3)
    slim = tmp_path / "slim.safetensors"
    save_file(random_state(0, 4), slim)
    for verb in (
        lambda: train_region(data, TINY, device="cuda"),
        lambda: sr.train_gib(path, tmp_path / "new", TINY, device="cuda"),
        lambda: sr.update_gib(path, tmp_path / "new", footprints, TINY, device="cuda"),
        lambda: sr.superresolve(ds, models, device="cuda").compute(),
        lambda: sr.cross_validate(
            grid, ds["feature"].values, ds["mare"].values, footprints.assign_coords(
                track=("footprint", np.arange(footprints.sizes["footprint"]) % 4)
            ), TINY, folds=2, device="cuda",
        ),
        lambda: sr.neighbours([0, 1], [0, 1], np.eye(2), 1, device="cuda"),
        lambda: sr.surface_features(base, grid, (0, 0), slim, device="cuda").compute(),
        lambda: sr.fill_features(other, base, slim, device="cuda"),
    ):  # fmt: skip
        with pytest.raises(MissingDependencyError, match="no CUDA device"):
            verb()


def test_training_by_torchs_operations_is_that_of_the_kernel(rng, monkeypatch):
    """What runs on a GPU, run on the CPU: the same map but for rounding."""
    from functools import partial

    from lunarray.superres import attention

    data, *_ = region(rng)
    settings = replace(TINY, dropout=0.0)
    fields = (data.lat, data.lon, data.features, data.mare)
    mean, variance = predict_region(train_region(data, settings), *fields)
    monkeypatch.setattr(attention, "attend", partial(attention.attend, fused=False, block=50))
    other = predict_region(train_region(data, settings), *fields)
    np.testing.assert_allclose(other[0], mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other[1], variance, rtol=1e-2, atol=1e-4)


def test_order_of_sub_regions_slides(rng):
    assert starts(342, 100, 50) == [0, 50, 100, 150, 200, 242]
    assert len(starts(342, 100, 50)) * len(starts(682, 100, 50)) == 78
    assert starts(60, 100, 50) == [0]


def test_pixels_without_features_are_no_nodes(rng):
    data, *_ = region(rng)
    data.features[:, :5, 3:9] = np.nan
    trained = train_region(data, TINY)
    predicted, variance = predict_region(trained, data.lat, data.lon, data.features, data.mare)
    gone = np.zeros(predicted.shape[1:], bool)
    gone[:5, 3:9] = True
    assert np.isnan(predicted[:, gone]).all()
    assert np.isfinite(predicted[:, ~gone]).all()
    assert np.isfinite(variance[:, ~gone]).all()


@pytest.mark.parametrize("stated", [True, False])
def test_ridge_is_the_likeliest(rng, stated):
    """Against the likelihood of contrasts (REML) written densely, and scikit-learn's ridge at its penalty."""
    from scipy.linalg import null_space
    from sklearn.linear_model import Ridge

    n = 16
    design = rng.standard_normal((n, 5))
    variance = rng.uniform(0.5, 2, n)
    y = design[:, 0] + np.sqrt(variance) * rng.standard_normal(n) + 3
    v = variance if stated else np.ones(n)
    slopes, intercept = ridge(design, y, variance if stated else None)

    contrast = null_space((1 / np.sqrt(v))[None]).T @ np.diag(1 / np.sqrt(v))
    one = (1 / np.sqrt(v)) / np.linalg.norm(1 / np.sqrt(v))
    white = (np.eye(n) - np.outer(one, one)) @ (design / np.sqrt(v)[:, None])
    top = np.linalg.svd(white, compute_uv=False).max() ** 2
    sample = (np.eye(n) - np.outer(one, one)) @ (y / np.sqrt(v))
    grid = np.logspace(0, 3, 25) if stated else sample @ sample / (n - 1) * np.logspace(-4, 0.5, 28)
    ratios = np.concatenate([[0.0], np.logspace(-2, 5, 57)]) / top
    inner = np.diag(v) + ratios[:, None, None] * (design @ design.T)
    covariance = grid[:, None, None, None] * (contrast @ inner @ contrast.T)
    z = contrast @ y
    misfit = np.linalg.solve(covariance, z[:, None])[..., 0] @ z
    likelihood = -np.linalg.slogdet(covariance)[1] - misfit
    chosen = ratios[np.unravel_index(likelihood.argmax(), likelihood.shape)[1]]
    assert chosen > 0
    model = Ridge(1 / chosen).fit(design, y, sample_weight=1 / v)
    np.testing.assert_allclose(slopes, model.coef_, rtol=1e-6, atol=1e-9)
    assert intercept == pytest.approx(model.intercept_)


def test_ridge_of_noise_is_the_mean(rng):
    design, variance = rng.standard_normal((30, 50)), np.full(30, 4.0)
    slopes, intercept = ridge(design, np.full(30, 7.0) + 0.1 * rng.standard_normal(30), variance)
    assert not slopes.any()
    assert intercept == pytest.approx(7, abs=0.2)


def test_unknown_elements_are_left_to_those_who_measured_them(rng):
    """A footprint without aluminium still teaches iron."""
    data, _, footprints, grid = region(rng)
    footprints["abundance"][::2, 1] = np.nan
    partly = assemble_region(grid, data.features, data.mare, footprints)
    trained = train_region(partly, TINY)
    assert np.isfinite(trained.history).all()
    assert np.isfinite(trained.scaling.trend).all()


def test_nothing_known(rng):
    data, *_ = region(rng)
    data.abundance[:] = np.nan
    data.support = Support.empty(3)
    with pytest.raises(InputError, match="nothing to train on"):
        train_region(data, TINY)
    data, *_ = region(rng)
    data.features[:] = np.nan
    with pytest.raises(InputError, match="no pixel has surface features"):
        train_region(data, TINY)
    data, *_ = region(rng)
    with pytest.raises(InputError, match="trend='cubic'"):
        train_region(data, replace(TINY, trend="cubic"))


def test_arrays_that_do_not_fit(rng):
    data, *_ = region(rng)
    with pytest.raises(InputError, match="on a grid of"):
        replace(data, mare=data.mare[1:])
    with pytest.raises(InputError, match="layers of abundance"):
        replace(data, elements=("Fe",))


def test_a_model_file_says_all(rng, tmp_path):
    data, *_ = region(rng)
    trained = train_region(data, replace(TINY, members=2))
    file = tmp_path / "region_00_00.safetensors"
    save_region_model(file, trained)
    back = load_region_model(file)
    assert same(trained, back)
    assert back.settings == trained.settings
    assert (back.elements, back.region, back.digest) == (trained.elements, (0, 0), data.digest())
    fields = (data.lat, data.lon, data.features, data.mare)
    for a, b in zip(predict_region(trained, *fields), predict_region(back, *fields), strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)
    assert read_region_header(file)["members"] == 2
    with pytest.raises(ModelError, match="cannot be read"):
        load_region_model(tmp_path / "none.safetensors")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ModelError, match="broken"):
        load_region_model(file)


def test_graphs_that_do_not_fit_the_cache_are_built_again(rng):
    data, *_ = region(rng)
    kept = train_region(data, TINY)
    assert same(kept, train_region(data, replace(TINY, cache=0)))
    cache = GraphCache(1 << 30)
    assert same(kept, train_region(data, TINY, cache=cache))
    assert cache.held > 0
    assert same(kept, train_region(data, TINY, cache=cache))


def test_scaling_ignores_what_is_not_there(rng):
    data, *_ = region(rng)
    data.features[:, 0, 0] = np.nan
    scaling, spread = fit_scaling(data, TINY)
    x, valid = input_planes(data, scaling)
    assert not valid[0, 0]
    assert np.isfinite(x).all()
    assert (spread > 0).all()


# ------------------------------------------------------------------------------------------ banks
def test_regions_are_trained_from_a_bank_and_on_workers(rng, tmp_path, client):
    grid = sr.GIBGrid((1, 2), (16, 16), (0.0, 0.0, 2.0, 1.0))
    footprints, _ = bank(tmp_path / "gib.zarr", rng, grid)
    sr.populate(tmp_path / "gib.zarr", footprints, progress=False)
    files = sr.train_gib(tmp_path / "gib.zarr", tmp_path / "one", TINY)
    assert [f.name for f in files] == ["region_00_00.safetensors", "region_00_01.safetensors"]
    assert not list((tmp_path / "one").glob("*.checkpoint"))
    before = [f.stat().st_mtime_ns for f in files]
    sr.train_gib(tmp_path / "gib.zarr", tmp_path / "one", TINY)  # all there: nothing to do
    assert [f.stat().st_mtime_ns for f in files] == before
    with client():
        others = sr.train_gib(tmp_path / "gib.zarr", tmp_path / "two", TINY)
    assert [a.read_bytes() for a in files] == [b.read_bytes() for b in others]
    with pytest.raises(StoreConflictError, match="other data or settings"):
        sr.train_gib(tmp_path / "gib.zarr", tmp_path / "one", replace(TINY, seed=1))
    lazy = sr.train_gib(tmp_path / "gib.zarr", tmp_path / "three", TINY, compute=False)
    assert len(lazy) == 2
    assert not list((tmp_path / "three").iterdir())


def test_an_update_equals_starting_over(rng, tmp_path):
    grid = sr.GIBGrid((1, 2), (16, 16), (0.0, 0.0, 2.0, 1.0))
    path, models = tmp_path / "gib.zarr", tmp_path / "models"
    footprints, _ = bank(path, rng, grid, 60)
    lon = footprints["corner_lon"].mean("corner")
    new = footprints.isel(footprint=np.flatnonzero(lon.values > 1.2)[:8])
    old = footprints.isel(footprint=np.flatnonzero(~np.isin(lon.values, new["corner_lon"].mean("corner"))))  # fmt: skip
    sr.populate(path, old, progress=False)
    sr.train_gib(path, models, TINY)
    before = {f.name: f.read_bytes() for f in models.iterdir()}
    done = sr.update_gib(path, models, new, TINY, progress=None)
    assert done.added == 8
    assert done.regions == ((0, 1),)
    after = {f.name: f.read_bytes() for f in models.iterdir()}
    assert [n for n in after if after[n] != before[n]] == ["region_00_01.safetensors"]

    bank(tmp_path / "again.zarr", np.random.default_rng(20261121), grid, 60)
    import xarray as xr

    sr.populate(tmp_path / "again.zarr", xr.concat([old, new], "footprint"), progress=False)
    sr.train_gib(tmp_path / "again.zarr", tmp_path / "again", TINY)
    assert {f.name: f.read_bytes() for f in (tmp_path / "again").iterdir()} == after
    # The same once more changes nothing, and settings are found in the files.
    assert sr.update_gib(path, models, new).added == 0
    assert {f.name: f.read_bytes() for f in models.iterdir()} == after


def test_a_bank_without_footprints_is_not_trained(rng, tmp_path):
    grid = sr.GIBGrid((1, 1), (16, 16), (0.0, 0.0, 1.0, 1.0))
    bank(tmp_path / "gib.zarr", rng, grid)
    with pytest.raises(InputError, match="no region holds"):
        sr.train_gib(tmp_path / "gib.zarr", tmp_path / "models", TINY)


def tracks_of(rng, noise=0.02, **changes):
    """A region whose footprints are of ten tracks, and settings that hold some out."""
    data, *_ = region(rng, number=60, noise=noise)
    data.tracks = np.arange(data.support.count) % 10
    return data, replace(TINY, held_out=0.2, dropout=0.0, trend="mean", **changes)


def test_whole_tracks_are_held_out_and_judge(rng):
    from lunarray.superres.holdout import hold_out

    data, settings = tracks_of(rng, epochs=4, steps=(6, 2), patience=10)
    part, held = hold_out(data, 0.2, 0)
    assert held.tracks == 2
    assert (
        set(part.tracks) & set(data.tracks[np.isin(data.support.number, held.support.number)])
        == set()
    )
    assert np.isnan(part.abundance.reshape(3, -1)[:, held.support.pixel]).all()
    assert part.support.count + held.support.count == data.support.count
    seen = []
    trained = train_region(data, settings, report=seen.append)
    verdict = trained.held_out
    assert verdict["learnt"]
    assert verdict["relative"] < 0.8 * verdict["mare_mean"]
    scores = [s["held_out"] for s in seen if "held_out" in s]
    assert verdict["relative"] == pytest.approx(min(scores), rel=1e-5)
    # Those of the best check, and not of the last.
    assert verdict["members"][0]["step"] <= verdict["members"][0]["steps"] == len(trained.history)


def test_a_training_that_learns_nothing_stops_early_and_says_so(rng, tmp_path):
    data, settings = tracks_of(rng, epochs=30, steps=(6, 2), patience=2)
    # Measured values in another order: nothing in the features tells of them.
    order = np.random.default_rng(5).permutation(data.support.count)
    shuffled = replace(data, support=replace(data.support, measured=data.support.measured[order]))
    trained = train_region(shuffled, settings)
    assert len(trained.history) < settings.step_count(15)
    assert not trained.held_out["learnt"]
    save_region_model(tmp_path / "region_00_00.safetensors", trained)
    again = load_region_model(tmp_path / "region_00_00.safetensors")
    assert (
        again.held_out
        == trained.held_out
        == read_region_header(tmp_path / "region_00_00.safetensors")["held_out"]
    )


def test_a_training_that_is_checked_resumes_to_the_same_bits(rng, tmp_path):
    data, settings = tracks_of(rng, epochs=2)
    whole = train_region(data, settings)
    file = tmp_path / "a.checkpoint"
    while (trained := train_region(data, settings, checkpoint=file, stop_after=7)) is None:
        pass
    assert same(whole, trained)
    assert whole.held_out == trained.held_out


def test_the_published_program_on_a_small_region(rng):
    data, *_ = region(rng)
    small = {"size": 12, "stride": 6, "k": 6, "steps": (2, 2), "later_steps": (1, 1), "epochs": 2}
    settings = sr.TrainSettings.published(**small)
    seen = []
    trained = train_region(data, settings, report=seen.append)
    windows = len(starts(24, 12, 6)) * len(starts(30, 12, 6))
    assert len(trained.history) == settings.step_count(windows)
    # Both phases at each visit, and predictions that are carried on.
    assert [s["phase"] for s in seen[:4]] == [1, 2, 1, 2]
    assert any("carried" in s for s in seen)
    model = trained.models[0]
    assert [a.att.shape[-1] for a in model.attention] == [128, 36]
    assert [c.out_channels for c in model.convolutions] == [16, 32, 36]
    values, _ = predict_region(trained, data.lat, data.lon, data.features, data.mare)
    assert (values >= 0).all()
    assert sr.TrainSettings.published().step_count(78) == 152_100


def test_published_edges_are_those_of_all_pairs(rng):
    from lunarray.superres.subgraphs import published_neighbours

    n, k = 40, 5
    lat, lon = rng.uniform(0, 3, n), rng.uniform(10, 13, n)
    features, mare = (
        rng.standard_normal((n, 4)).astype("f4"),
        rng.choice([-1.0, 1.0], n).astype("f4"),
    )
    near, weight = published_neighbours(lat, lon, features, mare, k)
    from lunarray.geo import unit_vectors

    v = unit_vectors(lon, lat)
    d, f = (np.linalg.norm(a[:, None] - a, axis=2) for a in (v, features.astype("f8")))
    full = np.exp(-d / d.max() - 1.2 * f / f.max() - (mare[:, None] != mare))
    np.fill_diagonal(full, 0)
    np.testing.assert_allclose(weight, -np.sort(-full, axis=1)[:, :k], rtol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(full, near, axis=1), weight, rtol=1e-4)
