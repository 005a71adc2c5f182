"""Training of many folds at once: the same as one after another, resumable, spread over workers, and what comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import lunarray as la
from lunarray import errors, oxides
from lunarray.oxides import OXIDES, fold_batches, folds, minibatch, networks, search, train
from lunarray.oxides.model import OxideCNN
from lunarray.oxides.settings import MinibatchSettings, TrainSettings
from lunarray.oxides.weights import load_networks, read_header

BANDS = 20
NM = np.linspace(520.0, 1560.0, BANDS)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(count=11, outputs=3, bands=BANDS, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (count, 4)) @ rng.normal(0, 1, (4, bands)) + rng.normal(
        0, 0.3, (count, bands)
    )
    x = (0.1 + 0.01 * x).astype(np.float32)
    y = (10 + 100 * (x[:, :outputs] - 0.1) + rng.normal(0, 0.3, (count, outputs))).astype(
        np.float32
    )
    return x, y


def samples(count=24, seed=1, names=OXIDES) -> xr.Dataset:
    x, y = problem(count, len(names), seed=seed)
    ds = xr.Dataset({"reflectance": (("sample", "wavelength"), x)}, {"wavelength": NM})
    for i, name in enumerate(names):
        ds[name] = ("sample", y[:, i])
    return ds.assign_coords(lon=("sample", np.linspace(-170, 170, count)))


def one_at_a_time(x, y, settings, dtype=torch.float64):
    """The plain PyTorch loop."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = OxideCNN(settings.n, x.shape[1], y.shape[1])
    model = model.to(dtype)
    x, y = (torch.from_numpy(a.astype(np.float64)).to(dtype) for a in (x, y))
    spread = [a.std(dim=0, correction=0) for a in (x, y)]
    spread = [torch.where(s > 0, s, 1.0) for s in spread]
    model.set_standardisation(x.mean(dim=0), spread[0], y.mean(dim=0), spread[1])
    standard = (y - model.target_mean) / model.target_std
    optimiser = torch.optim.Adam(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    losses = []
    for _ in range(settings.epochs):
        loss = ((model.forward_standardised(x) - standard) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return {name: value.numpy() for name, value in model.state_dict().items()}, losses


BATCHES = {"fused": fold_batches.FusedBatch, "stacked": fold_batches.StackedBatch}


# --- One fold ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BATCHES)
@pytest.mark.parametrize(
    ("n", "count", "bands", "outputs"),
    [(4, 9, 20, 6), (16, 5, 31, 1), (8, 10, 18, 7), (32, 6, 150, 2)],
)
def test_a_fold_is_the_plain_loop(backend, n, count, bands, outputs):
    """Weights to 1e-4 after 5 epochs, and the running statistics, of the loop in float64."""
    x, y = problem(count, outputs, bands)
    settings = TrainSettings(n=n, epochs=5, seed=3)
    expected, losses = one_at_a_time(x, y, settings)
    batch = BATCHES[backend](x, y, [np.arange(count)], settings)
    np.testing.assert_allclose(batch.run(5)[0], losses, rtol=2e-4, atol=1e-6)
    state = batch.states()[0]
    assert set(state) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, atol=1e-4, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("backend", BATCHES)
def test_a_fold_is_the_plain_trainer(backend):
    """In float32 as well, but for the biases before batch normalisation, whose gradient there is rounding error."""
    x, y = problem()
    settings = TrainSettings(n=4, epochs=5, seed=3)
    model = minibatch.train_network(x, y, MinibatchSettings(n=4, epochs=5, seed=3))
    batch = BATCHES[backend](x, y, [np.arange(len(x))], settings)
    batch.run(5)
    state = batch.states()[0]
    for name, value in model.named_parameters():
        if not name.endswith("0.bias"):
            np.testing.assert_allclose(state[name], value.numpy(), atol=1e-4, err_msg=name)


def test_gradient_kernels_are_their_definitions(rng):
    """The transposed F(6, 3) against sums over positions, and what calls it in Python."""
    from lunarray.oxides import training_kernels as kernels
    from lunarray.oxides.convolution_code import GROUP, POINTS, TILE
    from lunarray.oxides.vector_code import aligned
    from lunarray.oxides.vector_code import padded as widened

    tiles, below, above = 3, widened(5), widened(7)
    length = tiles * TILE + 2

    def padded(width, channels):
        flat = aligned(GROUP * length * width)
        flat[:] = 0
        array = flat.reshape(GROUP, length, width)
        array[:, 1:-1, :channels] = rng.normal(size=(GROUP, length - 2, channels))
        return flat, array

    under, a = padded(below, 5)
    over, g = padded(above, 7)
    rows = GROUP * tiles
    points = [aligned(POINTS * rows * width) for width in (below, above)]
    sums, grad = aligned(POINTS * below * above), aligned(3 * below * above)
    sums[:] = 0
    none, nowhere = np.zeros(1, np.float32), np.zeros(1, np.int64)
    parts = [none, nowhere, none, none, nowhere, none, none, none, none]
    work = kernels.Work(*parts, *points, sums, 0)
    kernels._weights_gradient(under, below, over, above, GROUP, tiles, work)
    kernels._from_points(sums, below, above, grad, 0)
    expected = [np.einsum("spi,spo->io", a[:, k : k + length - 2], g[:, 1:-1]) for k in range(3)]
    np.testing.assert_allclose(grad.reshape(3, below, above), expected, atol=2e-4)
    again = np.empty_like(grad)
    kernels._from_points.py_func(sums, below, above, again, 0)
    np.testing.assert_allclose(again, grad, atol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_sample_counts_beside_the_kernels_groups(count):
    x, y = problem(count)
    settings = TrainSettings(n=4, epochs=3)
    expected, _ = one_at_a_time(x, y, settings)
    batch = fold_batches.FusedBatch(x, y, [np.arange(count)], settings)
    batch.run(3)
    np.testing.assert_allclose(batch.states()[0]["head.weight"], expected["head.weight"], atol=1e-4)


# --- Many folds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "size", "workers"), [("fused", 4, 2), ("fused", 100, 1), ("stacked", 5, 1)]
)
def test_folds_at_once_are_folds_one_by_one(backend, size, workers):
    x, y = problem()
    settings = TrainSettings(n=4, epochs=5, seed=3)
    left_out = [np.array([i]) for i in range(len(x))]
    got = folds.train_folds(
        folds.FoldData(x, y),
        left_out,
        settings,
        members=3,
        backend=backend,
        fold_batch=size,
        workers=workers,
    )
    states, losses, predicted = [], [], np.empty_like(y)
    for i in range(len(x)):
        keep = np.delete(np.arange(len(x)), i)
        alone = folds.train_folds(
            folds.FoldData(x, y), [left_out[i]], settings, backend=backend, members=1
        )
        plainly, loss = one_at_a_time(x[keep], y[keep], settings)
        for name, value in plainly.items():
            if "running" not in name:  # these are taken anew after training
                np.testing.assert_allclose(alone.average[name], value, atol=1e-4, err_msg=name)
        states.append(plainly)
        losses.append(loss)
        predicted[i] = alone.left_out[i]
    for name in states[0]:
        if "running" not in name:
            mean = np.mean([state[name] for state in states], axis=0)
            np.testing.assert_allclose(got.average[name], mean, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(got.loss, losses, atol=1e-5)
    np.testing.assert_allclose(got.left_out, predicted, atol=1e-4)
    assert len(got.members) == 3
    for member, i in zip(got.members, (0, 5, 10), strict=True):
        np.testing.assert_allclose(member["head.weight"], states[i]["head.weight"], atol=1e-4)


def test_batches_and_threads_change_nothing():
    x, y = problem()
    settings = TrainSettings(n=4, epochs=4)
    left_out = np.array_split(
        np.arange(len(x)), 4
    )  # of three sizes of training sets, so of several batches
    first = folds.train_folds(
        folds.FoldData(x, y), left_out, settings, polish_epochs=2, fold_batch=1, workers=1
    )
    second = folds.train_folds(
        folds.FoldData(x, y), left_out, settings, polish_epochs=2, fold_batch=9, workers=3
    )
    np.testing.assert_array_equal(first.left_out, second.left_out)
    np.testing.assert_array_equal(first.loss, second.loss)
    for name, value in first.average.items():
        np.testing.assert_array_equal(second.average[name], value)


@pytest.mark.parametrize("backend", BATCHES)
def test_statistics_are_those_of_the_final_weights(backend):
    """In training mode on its own training samples the network gives the same as in evaluation mode."""
    x, y = problem()
    result = folds.train_folds(
        folds.FoldData(x, y),
        [np.array([2])],
        TrainSettings(n=4, epochs=6),
        backend=backend,
        members=1,
    )
    keep = np.delete(np.arange(len(x)), 2)
    model = networks.network_of(result.members[0])
    with torch.no_grad():
        evaluated = model(torch.from_numpy(x[keep]))
        trained = model.train()(torch.from_numpy(x[keep]))
    # Evaluation divides by the unbiased variance, training by the other.
    np.testing.assert_allclose(evaluated, trained, atol=0.03)


def test_average_gets_statistics_of_its_own():
    x, y = problem()
    left_out = [np.array([i]) for i in range(len(x))]
    # A large rate: the folds' weights, and so their averages' activations, differ well.
    result = folds.train_folds(
        folds.FoldData(x, y), left_out, TrainSettings(n=4, epochs=30, learning_rate=1e-2)
    )
    state = networks.recompute_statistics(result.average, x)
    assert any(
        not np.allclose(state[k], result.average[k], rtol=0.02) for k in state if "running" in k
    )
    for name, value in result.average.items():
        if "running" not in name and "tracked" not in name:
            np.testing.assert_array_equal(state[name], value)
    model = networks.network_of(state)
    with torch.no_grad():
        evaluated = model.forward_standardised(torch.from_numpy(x))
        stale = networks.network_of(result.average).forward_standardised(torch.from_numpy(x))
        trained = model.train().forward_standardised(torch.from_numpy(x))
    own, averaged = (float((a - trained).abs().max()) for a in (evaluated, stale))
    assert own < 0.05
    assert averaged > 3 * own


# --- Stopped and spread -----------------------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.mark.parametrize("backend", BATCHES)
@pytest.mark.parametrize("after", [2, 5, 7])
def test_a_stopped_run_goes_on_to_the_same_result(tmp_path, monkeypatch, backend, after):
    monkeypatch.setattr(folds, "CHECKPOINT_EPOCHS", 2)
    x, y = problem(8)
    left_out = [np.array([i]) for i in range(4)]
    arguments = (folds.FoldData(x, y), left_out, TrainSettings(n=2, epochs=5))
    options = {"polish_epochs": 3, "members": 2, "backend": backend, "fold_batch": 2, "workers": 1}
    whole = folds.train_folds(*arguments, **options)
    steps = []

    def stop(done, loss):
        steps.append(done)
        if sum(steps) >= 16 + 2 * after:
            raise Stop

    with pytest.raises(Stop):
        folds.train_folds(*arguments, **options, checkpoint=tmp_path, progress=stop)
    assert not list(tmp_path.glob("*.partial"))
    assert len(list(tmp_path.glob("folds-*-2.safetensors"))) == 1  # one batch of two
    done = []
    resumed = folds.train_folds(
        *arguments, **options, checkpoint=tmp_path, progress=lambda n, _: done.append(n)
    )
    assert sum(done) == 4 * 8
    again = folds.train_folds(*arguments, **options, checkpoint=tmp_path)
    for other in (resumed, again):
        np.testing.assert_array_equal(other.loss, whole.loss)
        np.testing.assert_array_equal(other.left_out, whole.left_out)
        for a, b in zip(
            (other.average, *other.members), (whole.average, *whole.members), strict=True
        ):
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    x, y = problem(8)
    left_out = [np.array([0]), np.array([1])]
    folds.train_folds(
        folds.FoldData(x, y), left_out, TrainSettings(n=2, epochs=1), checkpoint=tmp_path
    )
    with pytest.raises(errors.StoreConflictError, match=r"other settings\.epochs"):
        folds.train_folds(
            folds.FoldData(x, y), left_out, TrainSettings(n=2, epochs=2), checkpoint=tmp_path
        )
    with pytest.raises(errors.StoreConflictError, match="other samples"):
        folds.train_folds(
            folds.FoldData(x + 1, y), left_out, TrainSettings(n=2, epochs=1), checkpoint=tmp_path
        )
    (part,) = tmp_path.glob("folds-*.safetensors")
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(errors.StoreFormatError, match="broken checkpoint"):
        folds.train_folds(
            folds.FoldData(x, y), left_out, TrainSettings(n=2, epochs=1), checkpoint=tmp_path
        )
    (tmp_path / "plan.safetensors").write_text("{")
    with pytest.raises(errors.StoreFormatError, match=r"plan\.safetensors"):
        folds.train_folds(
            folds.FoldData(x, y), left_out, TrainSettings(n=2, epochs=1), checkpoint=tmp_path
        )


def test_workers_give_the_same(client, tmp_path):
    x, y = problem(8)
    left_out = [np.array([i]) for i in range(5)]
    arguments = (folds.FoldData(x, y), left_out, TrainSettings(n=2, epochs=3))
    here = folds.train_folds(*arguments, members=2, fold_batch=2)
    done = []
    with client():
        there = folds.train_folds(
            *arguments,
            members=2,
            fold_batch=2,
            checkpoint=tmp_path,
            progress=lambda n, _: done.append(n),
        )
    assert sum(done) == 15
    np.testing.assert_array_equal(here.left_out, there.left_out)
    np.testing.assert_array_equal(here.loss, there.loss)
    for name, value in here.average.items():
        np.testing.assert_array_equal(there.average[name], value)


# --- The verbs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [True, False])
def test_loocv_from_samples_to_maps(tmp_path, joint):
    ds = samples(16)
    fit = train(ds, TrainSettings(n=2, epochs=8, joint=joint, members=3), folds="leave-one-out")
    assert len(fit.folds) == 16
    assert len(fit.models) == (1 if joint else 6)
    assert fit.loss.shape == (1 if joint else 6, 16, 12)
    assert list(fit.loss.network.values) == (["joint"] if joint else list(OXIDES))
    assert np.isfinite(fit.left_out.FeO).all()
    np.testing.assert_array_equal(fit.left_out.fold, np.arange(16))
    assert fit.metrics().attrs["of"] == "left-out predictions"
    xr.testing.assert_allclose(fit.metrics(), oxides.metrics(fit.left_out, fit.reference))
    path = fit.save(tmp_path / "fit.safetensors")
    header = read_header(path)
    assert header["networks"] == ([6] if joint else [1] * 6)
    assert header["members"] == 3
    assert header["training"]["samples"] == 16
    maps = la.oxides.invert_oxides(ds.reflectance, path)
    predicted = fit.predict(ds)
    with torch.no_grad():
        eager = [m(torch.from_numpy(ds.reflectance.values)).numpy() for m in load_networks(path)]
    eager = np.concatenate(eager, axis=1)
    for i, oxide in enumerate(OXIDES):
        np.testing.assert_array_equal(maps[oxide], predicted[oxide])
        np.testing.assert_allclose(maps[oxide], eager[:, i], atol=1e-3)
    assert np.isfinite(maps.novelty).all()
    if not joint:
        with pytest.raises(errors.ModelError, match="6 networks"):
            la.oxides.load_oxide_cnn(path)


def test_per_oxide_networks_are_those_of_one_oxide():
    ds = samples(9)
    several = train(ds, TrainSettings(n=2, epochs=3, joint=False), folds=3)
    alone = train(ds, TrainSettings(n=2, epochs=3), folds=3, oxides=["MgO"])
    np.testing.assert_array_equal(several.left_out.MgO, alone.left_out.MgO)
    np.testing.assert_array_equal(several.predict(ds).MgO, alone.predict(ds).MgO)


def test_train_is_the_plain_trainer_with_its_own_statistics():
    ds = samples(12)
    fit = train(ds, TrainSettings(n=4, epochs=5, seed=3))
    x = ds.reflectance.values
    y = np.stack([ds[o].values for o in OXIDES], axis=1)
    plainly, _ = one_at_a_time(x, y, TrainSettings(n=4, epochs=5, seed=3))
    for name, value in plainly.items():
        if "running" not in name:
            np.testing.assert_allclose(fit.states[0][name], value, atol=1e-4, rtol=1e-5)
    assert fit.left_out is None
    assert fit.calibration is None
    assert fit.metrics().attrs["of"] == "training samples"


def test_the_seed_decides():
    ds = samples(9)
    a, b, c = (
        train(ds, TrainSettings(n=2, epochs=2, seed=s)).states[0]["head.weight"] for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_the_average_is_as_good_as_a_single_fold():
    """On soils that no fold has seen; without polishing it is the paper's plain average."""

    def soils(count, seed):
        drawn = la.simulate.soils(count, seed, wavelengths=NM)
        return xr.Dataset({"reflectance": drawn.reflectance, **{o: drawn[o] for o in OXIDES}})

    training, unseen = soils(48, 1), soils(400, 2)
    fit = train(training, TrainSettings(n=8, epochs=60, learning_rate=3e-3), folds=8)
    scores = oxides.metrics(fit.predict(unseen), unseen).RMSE
    truth = np.stack([unseen[o].values for o in OXIDES], axis=1)
    x = unseen.reflectance.values
    single = np.array(
        [
            np.sqrt(np.mean((networks.predict_state(member[0], x) - truth) ** 2, axis=0))
            for member in fit.members
        ]
    )
    spread = truth.std(axis=0)
    assert (scores / spread).mean() <= (single / spread).mean()
    assert float(scores.sel(oxide="FeO")) < 0.5 * unseen.FeO.std()


def test_folds_by_longitude_are_sectors():
    fit = train(samples(12), TrainSettings(n=2, epochs=1), folds=3, by="lon")
    np.testing.assert_array_equal(fit.left_out.fold, np.repeat([0, 1, 2], 4))
    at_random = train(samples(12), TrainSettings(n=2, epochs=1, seed=5), folds=3)
    assert len(np.unique(at_random.left_out.fold)) == 3
    assert not np.array_equal(at_random.left_out.fold, fit.left_out.fold)


def test_search_is_a_table_of_trainings():
    ds = samples(10)
    table = search(ds, TrainSettings(epochs=2), n=(2, 3), learning_rate=(1e-2, 1e-3), folds=2)
    assert dict(table.sizes) == {"n": 2, "learning_rate": 2, "oxide": 6}
    one = train(
        ds, TrainSettings(n=3, learning_rate=1e-2, epochs=2, polish_epochs=0, members=0), folds=2
    )
    xr.testing.assert_allclose(table.sel(n=3, learning_rate=1e-2, drop=True), one.metrics())
    left_out = search(
        ds, TrainSettings(epochs=1), n=(2,), learning_rate=(1e-3,), folds="leave-one-out"
    )
    assert left_out.attrs["folds"] == "leave-one-out"


def test_unusable_samples_are_dropped():
    ds = samples(12)
    ds["status"] = ("sample", np.r_[np.zeros(10, np.uint8), [1, 7]].astype(np.uint8))
    fit = train(ds, TrainSettings(n=2, epochs=1))
    assert fit.samples.sizes["sample"] == 10
    ds = samples(12)
    ds.reflectance[3, 2] = np.nan
    ds.FeO[5] = np.nan
    assert train(ds.chunk(sample=5), TrainSettings(n=2, epochs=1)).samples.sizes["sample"] == 10


def test_constant_bands_and_oxides_are_learnt_as_constants():
    ds = samples(12)
    ds.reflectance[:, 4] = 0.2
    ds["SiO2"] = ("sample", np.full(12, 45.0, np.float32))
    fit = train(ds, TrainSettings(n=2, epochs=40, learning_rate=1e-2), folds=3)
    assert np.isfinite(fit.left_out.to_dataarray()).all()
    np.testing.assert_allclose(fit.left_out.SiO2, 45.0, atol=1.0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda ds: train(ds.isel(sample=[0]), TrainSettings(n=2, epochs=1)),
            "1 usable sample.*at least two",
        ),
        (
            lambda ds: train(ds.isel(sample=[0]), TrainSettings(n=2), folds="leave-one-out"),
            "1 usable sample.*needs three",
        ),
        (
            lambda ds: train(ds.isel(sample=[0, 1]), TrainSettings(n=2), folds="leave-one-out"),
            "2 usable samples.*needs three",
        ),
        (lambda ds: train(ds.where(False), TrainSettings(n=2)), "no usable sample"),
        (lambda ds: train(ds.drop_vars(OXIDES), TrainSettings(n=2)), "no oxide"),
        (lambda ds: train(ds, TrainSettings(n=2), oxides=["FeO", "K2O"]), "K2O"),
        (lambda ds: train(ds.drop_vars("reflectance"), TrainSettings(n=2)), "reflectance"),
        (lambda ds: train(ds, TrainSettings(n=0)), "n=0"),
        (lambda ds: train(ds, TrainSettings(learning_rate=-1)), "learning_rate=-1"),
        (lambda ds: train(ds, TrainSettings(epochs=0)), "epochs"),
        (lambda ds: train(ds, TrainSettings(n=2), device="tpu"), "tpu"),
        (lambda ds: train(ds, folds=1), "1 folds"),
        (lambda ds: train(ds, folds=13), "13 folds of 12"),
        (lambda ds: train(ds, folds=2, by="lat"), "lat"),
        (lambda ds: TrainSettings(members=-1), "members"),
        (lambda ds: TrainSettings(polish_epochs=-1), "polish_epochs"),
        (lambda ds: search(ds, n=()), "nothing to try"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(errors.InputError, match=match):
        call(samples(12))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"left_out": []}, "no fold"),
        ({"left_out": [[9]]}, "not there"),
        ({"left_out": [range(7)]}, "1 training samples of 8"),
        ({"backend": "fast"}, "fast"),
        ({"others": np.ones((8, 3))}, "same bands"),
        ({"fold_batch": 0}, "fold_batch: 0"),
    ],
)
def test_folds_that_make_no_sense(options, match):
    x, y = problem(8)
    options = {"left_out": [[0]], "settings": TrainSettings(n=2, epochs=1), **options}
    data = folds.FoldData(x, y, options.pop("others", None))
    with pytest.raises(errors.InputError, match=match):
        folds.train_folds(data, **options)
    with pytest.raises(errors.InputError, match="one row of oxides"):
        folds.train_folds(folds.FoldData(x, y[:-1]), [[0]])


def test_progress_shows_the_loss(capsys):
    train(samples(9), TrainSettings(n=2, epochs=2), progress=True)
    assert "loss" in capsys.readouterr().err
    train(samples(9), TrainSettings(n=2, epochs=2))
    assert capsys.readouterr().err == ""
