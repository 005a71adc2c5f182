"""Training of fracture models: loss, scores, checkpoints, resumption."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from lunarray import fractures
from lunarray.errors import (
    InputError,
    LunarrayWarning,
    ModelError,
    StoreConflictError,
    StoreFormatError,
)
from lunarray.fractures.batches import ArrayTiles, balanced_weight
from lunarray.fractures.epochs import learning_rate_at
from lunarray.fractures.losses import loss_of
from lunarray.fractures.metrics import confusion, tile_metrics
from lunarray.fractures.model import default_normalisation
from lunarray.fractures.normalise import imagenet
from lunarray.fractures.predictor import predictor_of
from lunarray.fractures.settings import TrainSettings
from lunarray.fractures.weights import read_model_header


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scenes(count, seed, size=64):
    """Dark lines on noise; every fourth tile has none."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0.05, 0.004, (count, size, size)).astype(np.float32)
    masks = np.zeros((count, size, size), np.uint8)
    y, x = np.mgrid[:size, :size] - size / 2
    for i in range(count):
        angle = rng.uniform(0, np.pi)
        line = np.abs(x * np.cos(angle) + y * np.sin(angle) - rng.uniform(-15, 15)) < 2.5
        if i % 4:
            images[i][line] *= 0.6
            masks[i][line] = 1
    images[0, :10] = np.nan
    return images, masks


SETTINGS = {f.name for f in dataclasses.fields(TrainSettings)}


def run(**changes):
    """Train on little; changes are of settings or arguments."""
    settings = {"epochs": 4, "batch_size": 8, "learning_rate": 3e-3, "seed": 3}
    settings |= {n: changes.pop(n) for n in SETTINGS & changes.keys()}
    arguments = {"augment": None, "progress": False, "device": "cpu"} | changes
    arguments.setdefault("model", fractures.light(4))
    tiles = arguments.pop("tiles", None) or (scenes(16, 0), scenes(8, 1))
    return fractures.train(*tiles, settings=TrainSettings(**settings), **arguments)


def small(**changes):
    """As :func:`run`, on a quarter of the pixels: where it matters what is alike, not what is learned."""
    return run(tiles=(scenes(16, 0, 32), scenes(8, 1, 32)), **changes)


def initial(seed=0, width=4):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return fractures.light(width)


def noisy(image, mask, valid, rng):
    return image + rng.normal(0, 0.002, image.shape).astype(np.float32), mask, valid


def state_of(fit):
    return {n: v.clone() for n, v in fit.network.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_training_learns_lines():
    fit = run(model=initial(width=8), epochs=8, learning_rate=1e-2, loss="bce_dice")
    history = fit.history
    assert history["loss"].dims == ("epoch", "split")
    assert (
        history["loss"].sel(split="training")[-1] < 0.6 * history["loss"].sel(split="training")[0]
    )
    assert history["F1"].sel(split="validation").max() > 0.5
    best = int(history["F1"].sel(split="validation").fillna(-1).values.argmax()) + 1
    assert fit.best_epoch == best
    # The network is that of the best epoch: it scores the same again, by another path.
    scores = fractures.validate(
        fit.network, scenes(8, 1), normalisation=fit.normalisation, device="cpu", batch_size=3
    )
    for name in ("precision", "recall", "F1", "IoU", "F1_pooled"):
        expected = float(history[name].sel(epoch=best, split="validation"))
        assert scores[name] == pytest.approx(expected, abs=2e-3)


def test_scores_are_of_thresholded_probabilities():
    images, masks = scenes(5, 2)
    network = initial()
    rule = fractures.Normalisation()
    scores = fractures.validate(
        network, (images, masks), normalisation=rule, threshold=0.45, device="cpu"
    )
    predict = predictor_of(network, rule)
    found = (predict(images) >= 0.45).astype(np.uint8)
    found[~np.isfinite(images)] = 255
    expected = tile_metrics(confusion(found, masks))
    assert scores["recall"] == pytest.approx(expected["recall"], abs=1e-3)
    assert scores["precision"] == pytest.approx(expected["precision"], abs=1e-3)


@pytest.mark.parametrize("loss", ["bce", "focal", "bce_dice"])
@pytest.mark.parametrize("weight", [None, 7.0])
def test_loss_against_its_formula(rng, loss, weight):
    logits = rng.normal(0, 2, (3, 8, 8))
    masks = rng.choice([0, 1, 255], (3, 8, 8), p=[0.6, 0.3, 0.1]).astype(np.uint8)
    valid = rng.random((3, 8, 8)) < 0.8
    valid &= masks != 255
    settings = TrainSettings(loss=loss, class_weight=weight)
    value = float(
        loss_of(
            torch.from_numpy(logits), torch.from_numpy(masks), torch.from_numpy(valid), settings
        )
    )
    p, t = 1 / (1 + np.exp(-logits[valid])), masks[valid].astype(float)
    each = -((weight or 1) * t * np.log(p) + (1 - t) * np.log(1 - p))
    if loss == "focal":
        each *= np.where(t == 1, 1 - p, p) ** 2
    expected = each.mean()
    if loss == "bce_dice":
        expected += 1 - (2 * (p * t).sum() + 1) / ((p + t).sum() + 1)
    assert value == pytest.approx(expected, rel=1e-9)


def test_loss_does_not_see_invalid_pixels():
    logits = torch.zeros(1, 4, 4, requires_grad=True)
    valid = torch.zeros(1, 4, 4, dtype=torch.bool)
    valid[0, 0] = True
    masks = torch.ones(1, 4, 4, dtype=torch.uint8)
    for loss in ("bce", "focal", "bce_dice"):
        settings = TrainSettings(loss=loss)
        (gradient,) = torch.autograd.grad(loss_of(logits, masks, valid, settings), logits)
        assert gradient[0, 0].abs().min() > 0
        assert not gradient[0, 1:].any()
        (gradient,) = torch.autograd.grad(loss_of(logits, masks, valid & False, settings), logits)
        assert not gradient.any()


def test_training_does_not_see_what_is_invalid():
    images, masks = scenes(8, 0)
    other, labels = images.copy(), masks.copy()
    valid = np.ones(images.shape, bool)
    valid[:, 40:] = False
    other[:, 40:] *= 3
    labels[:, 40:] = 1
    fits = [
        run(tiles=((i, m, valid), (i, m, valid)), model=initial(), epochs=1, batch_size=4)
        for i, m in ((images, masks), (other, labels))
    ]
    assert_same(state_of(fits[0]), state_of(fits[1]))


def test_same_seed_same_numbers():
    one, other = (small(model="light", epochs=1, augment=noisy) for _ in range(2))
    assert_same(state_of(one), state_of(other))
    third = small(model="light", epochs=1, augment=noisy, seed=4)
    assert any(not torch.equal(v, third.network.state_dict()[n]) for n, v in state_of(one).items())


def test_half_precision_trains_too():
    whole, half = (run(model=initial(), epochs=2, mixed_precision=m) for m in (False, True))
    assert np.isfinite(half.history["loss"]).all()
    one, other = (f.history["loss"].sel(split="training").values for f in (whole, half))
    assert np.allclose(one, other, rtol=0.02)
    assert not np.array_equal(one, other)
    assert all(v.dtype != torch.bfloat16 for v in state_of(half).values())


class _Stopped(Exception):
    pass


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_stopped_training_goes_on_to_the_same_bits(tmp_path, schedule):
    straight = small(model=initial(), augment=noisy, schedule=schedule)
    calls = 0

    def stopping(image, mask, valid, rng):
        nonlocal calls
        calls += 1
        if calls > 2.5 * 16:
            raise _Stopped
        return noisy(image, mask, valid, rng)

    # One name: a checkpoint knows its augmentation by it.
    stopping.__qualname__, stopping.__module__ = noisy.__qualname__, noisy.__module__
    path = tmp_path / "best.safetensors"
    with pytest.raises(_Stopped):
        small(model=initial(), augment=stopping, schedule=schedule, checkpoint=path)
    assert path.exists()
    resumed = small(model=initial(), augment=noisy, schedule=schedule, checkpoint=path)
    assert_same(state_of(straight), state_of(resumed))
    for name in straight.history.data_vars:
        assert np.array_equal(straight.history[name], resumed.history[name], equal_nan=True)
    assert straight.best_epoch == resumed.best_epoch
    # The file has the best epoch's weights.
    assert_same(state_of(resumed), fractures.load_model(path).network.state_dict())
    header = read_model_header(path)
    assert header["training"]["best_epoch"] == resumed.best_epoch
    assert header["training"]["schedule"] == schedule

    # What is complete is not run again.
    def never(*_):
        raise AssertionError("trained again")

    never.__qualname__, never.__module__ = noisy.__qualname__, noisy.__module__
    again = small(model=initial(), augment=never, schedule=schedule, checkpoint=path)
    assert_same(state_of(resumed), state_of(again))


def test_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "best.safetensors"
    small(model=initial(), epochs=1, checkpoint=path)
    with pytest.raises(StoreConflictError, match="other settings"):
        small(model=initial(), epochs=1, checkpoint=path, learning_rate=1e-5)
    # But more epochs may follow where the learning rate is constant, and give what one run would have given.
    longer = small(model=initial(), epochs=2, checkpoint=path)
    assert_same(state_of(longer), state_of(small(model=initial(), epochs=2)))
    with pytest.raises(StoreConflictError, match="other settings"):
        small(model=initial(), epochs=1, checkpoint=path)
    with pytest.raises(StoreConflictError, match="other augment"):
        small(model=initial(), epochs=2, checkpoint=path, augment=noisy)
    with pytest.raises(StoreConflictError, match="other model"):
        small(model=initial(seed=1), epochs=2, checkpoint=path)
    state = path.with_name("best.safetensors.resume")
    state.write_bytes(b"nothing")
    with pytest.raises(StoreFormatError, match="Delete it to start again"):
        small(model=initial(), epochs=1, checkpoint=path)


def test_fit_is_saved_and_read(tmp_path):
    fit = small(model=initial(), epochs=1)
    path = fit.save(tmp_path / "fit.safetensors", overlap=96, ground="lines")
    loaded = fractures.load_model(path)
    assert_same(state_of(fit), loaded.network.state_dict())
    header = read_model_header(path)
    assert header["overlap"] == 96
    assert header["training"]["ground"] == "lines"
    assert header["training"]["epochs"] == 1
    # Training goes on from a file.
    further = small(model=path, epochs=1)
    assert any(not torch.equal(v, state_of(fit)[n]) for n, v in state_of(further).items())


def test_a_last_tile_alone_joins_the_batch_before_it():
    sizes = []
    network = initial()
    hook = network.stem.register_forward_pre_hook(
        lambda module, inputs: sizes.append(len(inputs[0])) if module.training else None
    )
    images, masks = scenes(9, 0, 32)
    run(tiles=((images, masks), (images, masks)), model=network, epochs=1, batch_size=4)
    hook.remove()
    assert sizes == [4, 5]


def test_tiles_of_images_are_trained_on():
    """What `fractures.tiles` gives, read lazily, with turned copies of tiles with fractures."""
    import xarray as xr

    images, masks = scenes(4, 5, 64)
    arrays = [
        xr.DataArray(a, dims=("y", "x"), name=f"image {i}").chunk(32) for i, a in enumerate(images)
    ]
    labels = [xr.DataArray(m, dims=("y", "x")).chunk(32) for m in masks]
    tiles = fractures.tiles(arrays, labels, size=32)
    learning, validation = fractures.split(tiles, seed=1)
    both = (learning.with_rotations(), validation)
    fit = run(tiles=both, model=initial(), epochs=1, batch_size=4)
    assert np.isfinite(fit.history["loss"]).all()
    stacked = fractures.validate(
        fit.network, validation.stack(), normalisation=fit.normalisation, device="cpu"
    )
    lazy = fractures.validate(
        fit.network, validation, normalisation=fit.normalisation, device="cpu"
    )
    assert stacked == pytest.approx(lazy, nan_ok=True)


def test_curves_of_the_training_are_drawn(tmp_path):
    from lunarray import plot

    fit = small(model=initial(), epochs=2)
    figure = plot.training_curves(fit.history, path=tmp_path / "curves.png")
    assert len(figure.axes) == 4
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_balanced_weight_is_the_ratio_of_pixels():
    images, masks = scenes(6, 0)
    good = np.isfinite(images)
    expected = (good & (masks == 0)).sum() / (good & (masks == 1)).sum()
    assert balanced_weight(ArrayTiles(images, masks)) == pytest.approx(expected)
    with pytest.raises(InputError, match="no valid pixel"):
        balanced_weight(ArrayTiles(images, np.zeros_like(masks)))


def test_cosine_warms_up_and_ends_at_nothing():
    settings = TrainSettings(epochs=100, learning_rate=1e-3, schedule="cosine")
    rates = [learning_rate_at(settings, e) for e in np.linspace(0, 100, 1001)[:-1]]
    assert max(rates) == pytest.approx(1e-3, rel=1e-3)
    assert rates[0] < 2e-5
    assert rates[-1] < 1e-6
    assert (np.diff(rates[60:]) < 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1"),
        ({"loss": "hinge"}, "hinge"),
        ({"schedule": "step"}, "step"),
        ({"class_weight": -2.0}, "class_weight=-2"),
        ({"class_weight": "heavy"}, "class_weight='heavy'"),
        ({"augment": "strong"}, "augment='strong'"),
        ({"model": "unet"}, "neither an architecture nor a file"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises((InputError, ModelError), match=message):
        run(**changes)


def test_tiles_that_cannot_be_trained_on():
    images, masks = scenes(4, 0, 32)
    good = (images, masks)
    with pytest.raises(InputError, match="tiles: no tile"):
        run(tiles=((images[:0], masks[:0]), good), model=initial(), epochs=1)
    with pytest.raises(InputError, match="shapes"):
        run(tiles=((images, masks[:, 1:]), good), model=initial(), epochs=1)
    with pytest.raises(InputError, match="multiple of 8"):
        run(tiles=((images[:, :30], masks[:, :30]), good), model=initial(), epochs=1)
    with pytest.raises(InputError, match="validation: a int"):
        run(tiles=(good, 3), model=initial(), epochs=1)
    with pytest.raises(InputError, match="1 arrays"):
        run(tiles=((images,), good), model=initial(), epochs=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tiles": "abc"}, "not .image, mask, valid."),
        ({"tiles": "pairs"}, "not .image, mask, valid."),
        ({"tiles": "complex"}, "an image of type complex64"),
        ({"tiles": "brightness"}, "holds more than labels"),
        ({"tiles": "nothing"}, "no pixel has both data and a label"),
        ({"augment": lambda image, mask, valid, rng: image}, "augment: a tile that is a ndarray"),
        ({"workers": -1}, "workers"),
        ({"checkpoint": "."}, "a folder"),
    ],
)
def test_arguments_of_a_training_that_make_no_sense(changes, message):
    images, masks = scenes(4, 0, 32)
    kinds = {
        "abc": "abc",
        "pairs": list(zip(images, masks, strict=True)),
        "complex": (images.astype(np.complex64), masks),
        "brightness": (images, images),
        "nothing": (images * np.nan, masks),
    }
    some = kinds.get(changes.get("tiles"), (images, masks))
    with pytest.raises(InputError, match=message):
        run(model=initial(), epochs=1, **(changes | {"tiles": (some, some)}))


def test_labels_of_any_type_are_the_same_labels(tmp_path):
    """Boolean, and real with NaN for no data; and 0 and 255, with which nothing is learned, are told of."""
    images, masks = scenes(4, 0, 32)
    masks[:, :8] = 255
    real = np.where(masks == 255, np.nan, masks).astype(np.float32)
    fits = [run(tiles=((images, m),) * 2, model=initial(), epochs=1) for m in (masks, real)]
    assert_same(*map(state_of, fits))
    other = (masks == 1).astype(np.uint8) * 255
    with pytest.warns(LunarrayWarning, match="no pixel of the training tiles is labelled"):
        run(tiles=((images, other),) * 2, model=initial(), epochs=1)
    run(
        tiles=((images, masks == 1),) * 2, model=initial(), epochs=1, checkpoint=tmp_path / "a/b.st"
    )
    assert (tmp_path / "a/b.st").exists()


def test_progress_shows_loss_and_score(capsys):
    small(model=initial(), epochs=1, progress=True)
    shown = capsys.readouterr().err
    assert "2/2 epoch 1: loss" in " ".join(shown.split())
    assert "F1" in shown


def test_deeplab_trains_from_torchvisions_weights(tmp_path):
    """One step of the paper's network with dropout, from a state dict with 21 classes."""
    from torchvision.models.segmentation import deeplabv3_resnet50

    torch.manual_seed(0)
    coco = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=False)
    path = tmp_path / "coco.pth"
    torch.save(coco.state_dict(), path)
    images, masks = scenes(2, 0, 32)
    bright = (np.nan_to_num(images * 2550).clip(0, 255).astype(np.uint8), masks)
    fit = run(tiles=(bright, bright), model=path, epochs=1, batch_size=2)
    assert fit.normalisation == imagenet()
    assert np.isfinite(fit.history["loss"]).all()
    name = "backbone.layer4.2.conv2.weight"
    assert not torch.equal(fit.network.state_dict()[name], coco.state_dict()[name])


@pytest.mark.parametrize("width", [4, 5, 6, 7, 8])
def test_narrow_networks_do_not_damage_memory(width):
    """In a process of its own, which torch's backward pass of narrow convolutions, channels last, would end."""
    code = (
        "import numpy as np; from lunarray import fractures as f\n"
        "m = np.zeros((4, 64, 64), np.uint8); m[:, 20:23] = 1\n"
        f"f.train(((1.0 - m).astype('f4'), m), ((1.0 - m).astype('f4'), m), model=f.light({width}), device='cpu',"
        " settings=f.TrainSettings(epochs=3, batch_size=2), augment=None, progress=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 1}, "threshold"),
        ({"tolerance": np.nan}, "tolerance"),
        ({"batch_size": 0}, "batch_size"),
        ({"temperature": 0}, "temperature"),
        ({"normalisation": None}, "normalisation: a NoneType"),
        ({"network": "light"}, "network: a str"),
    ],
)
def test_scores_that_make_no_sense(changes, message):
    given = {"network": initial(), "normalisation": default_normalisation("light")} | changes
    with pytest.raises(InputError, match=message):
        fractures.validate(given.pop("network"), scenes(2, 0, 32), device="cpu", **given)
