"""Networks, what they see, and files of weights."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from lunarray import fractures
from lunarray.engine.weights import peek_header, read_tensors, write_tensors
from lunarray.errors import InputError, ModelError
from lunarray.fractures import predictor
from lunarray.fractures.model import ARCHITECTURES, build, default_normalisation
from lunarray.fractures.normalise import Normalisation, imagenet, normalise
from lunarray.fractures.weights import read_model_header


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def randomised(network, seed=0):
    """Weights and statistics that make every layer count."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.2, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def torchvision_model():
    from torchvision.models.segmentation import deeplabv3_resnet50

    torch.manual_seed(1)
    made = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=1, aux_loss=True)
    return randomised(made)


@pytest.fixture(scope="module")
def picture():
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


# --- Networks -------------------------------------------------------------------------------------


def test_deeplab_is_torchvisions(torchvision_model, picture):
    """The same state dict, the same outputs, bit for bit."""
    ours = fractures.deeplabv3("resnet50").eval()
    state = {n: v for n, v in torchvision_model.state_dict().items() if "aux" not in n}
    ours.load_state_dict(state)
    with torch.inference_mode():
        expected = torchvision_model(picture)["out"]
        assert torch.equal(ours(picture), expected)
    assert expected.shape == (1, 1, 64, 64)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("architecture", ["light", "deeplabv3_resnet50"])
def test_packed_network_does_the_same(architecture, monkeypatch):
    torch.manual_seed(0)
    network = randomised(build(architecture))
    channels = default_normalisation(architecture).channels
    x = torch.randn(1, channels, 64, 64).contiguous(memory_format=torch.channels_last)
    fast = predictor.packed(network)
    with torch.inference_mode():
        expected = network(x)
        scale = float(expected.std())
        assert predictor._onednn()
        assert torch.allclose(fast(x), expected, atol=5e-4 * scale)
        # Without the fused operations of oneDNN, the same by PyTorch's own.
        monkeypatch.setattr(predictor, "_available", [False])
        assert torch.allclose(fast(x), expected, atol=1e-4 * scale)
        # The network itself was left as it is.
        assert torch.equal(network(x), expected)


@pytest.mark.parametrize(("dilation", "batch"), [(1, 1), (2, 2), (4, 1), (4, 2)])
def test_wide_convolutions_by_products(dilation, batch):
    """Against float64, as near as float32 allows: the transforms lose a digit."""
    generator = torch.Generator().manual_seed(dilation)
    conv = torch.nn.Conv2d(256, 320, 3, padding=dilation, dilation=dilation)
    conv.requires_grad_(False)
    conv.weight.normal_(0, 1 / 48, generator=generator)
    conv.bias.normal_(generator=generator)
    x = torch.randn(batch, 256, 16, 32, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    for relu in (False, True):
        ours = predictor.PackedConv(conv, relu)
        with torch.inference_mode():
            found = ours(x)
            expected = torch.nn.functional.conv2d(
                x.double(), conv.weight.double(), conv.bias.double(), 1, dilation, dilation
            )
        expected = expected.clamp_min(0) if relu else expected
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (found - expected).abs().max() < 2e-4
        assert expected.std() > 0.5
        assert ours.products


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 12, "dilation": 12},
        {"padding": 1, "stride": 2},
        {"padding": 0},
        {"padding": 1, "groups": 2},
    ],
)
def test_other_convolutions_as_they_are(options):
    conv = torch.nn.Conv2d(256, 256, 3, **options).requires_grad_(False)
    ours = predictor.PackedConv(conv, relu=False)
    x = torch.randn(1, 256, 20, 20).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.allclose(ours(x), conv(x), atol=1e-4)
    assert not ours.products


def test_packed_weights_do_not_pile_up():
    fast = predictor.packed(fractures.light(4).eval())
    with torch.inference_mode():
        for size in (32, 64, 96, 128):
            fast(torch.zeros(1, 1, size, size).contiguous(memory_format=torch.channels_last))
    counts = [len(m.packed) for m in fast.modules() if isinstance(m, predictor.PackedConv)]
    assert counts
    assert max(counts) <= 2


def test_light_network_is_small_and_local():
    network = fractures.light()
    size = sum(v.numel() * v.element_size() for v in network.state_dict().values())
    assert size < 8e6
    torch.manual_seed(0)
    network = randomised(fractures.light(4))
    x = torch.randn(1, 1, 384, 64)
    other = x.clone()
    other[:, :, :64] += 1
    with torch.inference_mode():
        a, b = network(x), network(other)
    assert (a - b).abs()[:, :, :64].max() > 1e-3
    # Nothing that is more than 160 pixels away is seen: no branch pools over the tile.
    assert torch.equal(a[:, :, 64 + 160 :], b[:, :, 64 + 160 :])


def test_light_network_moves_with_the_image():
    torch.manual_seed(0)
    network = randomised(fractures.light(4)).double()
    x = torch.randn(1, 1, 448, 64).double()
    with torch.inference_mode():
        a, b = network(x)[:, :, 168:-168], network(x[:, :, 8:])[:, :, 160:-168]
    assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "unet"}, "unet"),
        ({"architecture": "deeplabv3_resnet50", "channels": 1}, "takes 3|It takes 3"),
    ],
)
def test_unknown_networks_are_refused(arguments, message):
    with pytest.raises(ModelError, match=message):
        build(**arguments)


def test_unknown_backbones_are_refused():
    with pytest.raises(InputError, match="resnet18"):
        fractures.deeplabv3("resnet18")
    with pytest.raises(InputError, match="width"):
        fractures.light(0)
    assert set(ARCHITECTURES) == {"light", "deeplabv3_resnet50", "deeplabv3_resnet101"}


# --- Normalisation --------------------------------------------------------------------------------


def local_contrast(image, rule):
    """Brute force: cell means, two box passes with zeros outside, bilinear back; in float64."""

    def cells(field):
        h, w = field.shape
        return field.reshape(h // 4, 4, w // 4, 4).mean(axis=(1, 3))

    def blur(field):
        r = rule.window // 8
        for _ in range(2):
            padded = np.pad(field, r)
            h, w = field.shape
            windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * r + 1, 2 * r + 1))
            assert windows.shape[:2] == (h, w)
            field = windows.mean(axis=(2, 3))
        return field

    def up(field):
        def one(a):
            at = (np.arange(4 * len(a)) + 0.5) / 4 - 0.5
            return np.array([np.interp(at, np.arange(len(a)), c) for c in a.T]).T

        return one(one(field).T).T

    good = np.isfinite(image)
    x = np.where(good, image, 0).astype(float)
    count = blur(cells(good.astype(float)))
    mean = up(blur(cells(x)) / count)
    off = (x - mean) * good
    deviation = np.sqrt(up(blur(cells(off**2)) / count))
    return np.clip(off / (deviation + rule.floor * np.abs(mean)), -rule.clip, rule.clip)


def test_local_contrast_against_brute_force(rng):
    image = rng.normal(0.05, 0.01, (64, 96)).astype(np.float32)
    image[10:20, 30:50] = np.nan
    rule = Normalisation("local", window=16)
    seen = normalise(torch.from_numpy(image)[None], rule)[0, 0].numpy()
    assert np.allclose(seen, local_contrast(image, rule), atol=2e-4)
    assert (seen[np.isnan(image)] == 0).all()
    assert 0.5 < seen.std() < 1.5


@pytest.mark.parametrize("scale", [1e-4, 255.0, 65535.0])
def test_local_contrast_does_not_know_the_unit(rng, scale):
    image = torch.from_numpy(rng.normal(0.05, 0.01, (1, 64, 64)).astype(np.float32))
    one, other = (normalise(image * s, Normalisation()) for s in (1.0, scale))
    assert torch.allclose(one, other, atol=1e-3)


def test_local_contrast_of_16_bits_on_a_large_offset(rng):
    """The variance is of differences: squares of 40 000 would leave float32 no digits for ± 20."""
    image = rng.normal(40_000, 20, (1, 64, 64)).astype(np.float32)
    rule = Normalisation(floor=0.0)
    seen = normalise(torch.from_numpy(image), rule)[0, 0].numpy()
    assert np.allclose(seen, local_contrast(image[0].astype(float), rule), atol=5e-3)


def test_normalisation_is_the_same_in_every_tile(rng):
    rule = Normalisation()
    image = torch.from_numpy(rng.normal(0.05, 0.01, (1, 256, 256)).astype(np.float32))
    whole = normalise(image, rule)[..., 96:160, 96:160]
    tile = normalise(image[:, 16:240, 16:240], rule)[..., 80:-80, 80:-80]
    assert rule.reach == 80
    assert torch.allclose(whole, tile, atol=1e-5)
    nearer = normalise(image[:, 80:176, 80:176], rule)[..., 16:-16, 16:-16]
    assert not torch.allclose(whole, nearer, atol=1e-3)


def test_flat_and_empty_images_are_neutral():
    for value in (0.0, 0.07, np.nan, np.inf):
        image = torch.full((1, 32, 32), value)
        assert normalise(image, Normalisation()).abs().max() < 1e-4
    assert not normalise(torch.full((1, 32, 32), np.nan), imagenet()).any()


def test_fixed_scale_is_imagenets():
    image = torch.tensor([[[0.0, 255.0], [51.0, np.nan]]])
    seen = normalise(image, imagenet(0, 255))
    assert torch.allclose(seen, normalise(image / 255, imagenet()), atol=1e-6)
    assert seen.shape == (1, 3, 2, 2)
    assert seen[0, 0, 0, 1] == pytest.approx((1 - 0.485) / 0.229, abs=1e-6)
    assert seen[0, 2, 1, 0] == pytest.approx((0.2 - 0.406) / 0.225, abs=1e-6)
    assert (seen[0, :, 1, 1] == 0).all()


def test_rules_that_make_no_sense():
    for faulty in (
        {"kind": "tile"},
        {"channels": 2},
        {"window": 30},
        {"kind": "fixed", "channels": 3},
        {"scale": 0},
    ):
        with pytest.raises(ModelError):
            Normalisation(**faulty)
    with pytest.raises(InputError, match="multiples of 4"):
        normalise(torch.zeros(1, 30, 32), Normalisation())
    rule = imagenet(10, 200)
    assert Normalisation.from_json(json.loads(json.dumps(rule.to_json()))) == rule
    with pytest.raises(ModelError, match="no normalisation"):
        Normalisation.from_json({"mood": "good"})


# --- Files ----------------------------------------------------------------------------------------


def test_our_files_come_back(tmp_path):
    torch.manual_seed(0)
    network = randomised(fractures.light(4))
    rule = Normalisation(window=16)
    path = fractures.save_model(
        tmp_path / "m.safetensors", network, normalisation=rule, overlap=96, training={"epochs": 3}
    )
    loaded = fractures.load_model(path)
    assert loaded.kind == "lunarray"
    assert (loaded.architecture, loaded.normalisation) == ("light", rule)
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value)
    header = read_model_header(path)
    assert (header["overlap"], header["training"], header["sizes"]["width"]) == (
        96, {"epochs": 3}, 4,
    )  # fmt: skip
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    # Written again, the same to the byte.
    again = fractures.save_model(
        tmp_path / "n.safetensors", network, normalisation=rule, overlap=96, training={"epochs": 3}
    )
    assert path.read_bytes() == again.read_bytes()


def test_altered_weights_are_noticed(tmp_path):
    path = fractures.save_model(tmp_path / "m.safetensors", fractures.light(4))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="SHA-256"):
        fractures.load_model(path)


def wrap_plain(state):
    return state


def wrap_parallel(state):
    return {f"module.{n}": v for n, v in state.items()}


def wrap_dict(state):
    return {"epoch": 47, "model_state_dict": wrap_parallel(state), "best_f1": 0.694}


def wrap_deeper(state):
    return {"checkpoint": {"weights": state, "epoch": 1}, "optimizer": {"lr": 1e-4}}


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (wrap_plain, "state dict"),
        (wrap_parallel, "state dict"),
        (wrap_dict, "wrapped state dict"),
        (wrap_deeper, "wrapped state dict"),
    ],
)
def test_state_dicts_however_wrapped(tmp_path, wrap, kind):
    state = randomised(fractures.light(4)).state_dict()
    path = tmp_path / "other.pth"
    torch.save(wrap(state), path)
    loaded = fractures.load_model(path)
    assert (loaded.kind, loaded.architecture) == (kind, "light")
    assert not loaded.head_replaced
    found = loaded.network.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[n], v) for n, v in state.items())


def test_checkpoints_of_others(tmp_path, torchvision_model, picture):
    """The published layout, with the auxiliary classifier, which is left out."""
    path = tmp_path / "imfmapper.pth"
    state = torchvision_model.state_dict()
    # Neither does older torch write how many batches were seen.
    torch.save(wrap_dict({n: v for n, v in state.items() if "num_batches" not in n}), path)
    loaded = fractures.load_model(path)
    assert (loaded.kind, loaded.architecture) == ("wrapped state dict", "deeplabv3_resnet50")
    assert not loaded.head_replaced
    assert not any(v.any() for n, v in loaded.network.named_buffers() if "num_batches" in n)
    assert loaded.normalisation == imagenet()
    with torch.inference_mode():
        assert torch.equal(loaded.network(picture), torchvision_model(picture)["out"])


def test_bare_safetensors_and_another_normalisation(tmp_path):
    from safetensors.torch import save_file

    network = fractures.light(4)
    path = tmp_path / "bare.safetensors"
    save_file(network.state_dict(), path)
    assert read_model_header(path) is None
    rule = Normalisation("fixed", 1, offset=5, scale=100)
    loaded = fractures.load_model(path, normalisation=rule)
    assert (loaded.architecture, loaded.normalisation) == ("light", rule)
    with pytest.raises(ModelError, match="1 channels, its normalisation gives 3"):
        fractures.load_model(path, normalisation=imagenet())


def test_head_of_coco_is_replaced(tmp_path, torchvision_model):
    """torchvision's own weights have 21 outputs: something to begin training with, nothing to detect with."""
    state = dict(torchvision_model.state_dict())
    generator = torch.Generator().manual_seed(3)
    state["classifier.4.weight"] = torch.randn(21, 256, 1, 1, generator=generator)
    state["classifier.4.bias"] = torch.randn(21, generator=generator)
    path = tmp_path / "coco.pth"
    torch.save(state, path)
    one = fractures.load_model(path, seed=5)
    assert one.head_replaced
    new = torch.empty(1, 256, 1, 1).normal_(0, 0.01, generator=torch.Generator().manual_seed(5))
    assert torch.equal(one.network.classifier[4].weight, new)
    name = "backbone.layer4.2.conv2.weight"
    assert torch.equal(one.network.state_dict()[name], state[name])
    with pytest.raises(ModelError, match="21 outputs, not 1"):
        fractures.fracture_model(path)


def test_wrong_files_say_what_differs(tmp_path, torchvision_model):
    state = {n: v for n, v in torchvision_model.state_dict().items() if "aux" not in n}
    del state["backbone.layer1.0.conv1.weight"]
    state["decoder.weight"] = torch.zeros(3)
    state["backbone.conv1.weight"] = torch.zeros(64, 1, 7, 7)
    path = tmp_path / "wrong.pth"
    torch.save(state, path)
    with pytest.raises(ModelError) as caught:
        fractures.load_model(path)
    message = str(caught.value)
    assert "1 missing: backbone.layer1.0.conv1.weight" in message
    assert "1 unexpected: decoder.weight" in message
    assert "1 of another shape: backbone.conv1.weight (64, 1, 7, 7) instead of (64, 3, 7, 7)" in (
        message
    )
    assert "wrong.pth" in message


def test_weights_of_another_network_name_some_keys(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(torch.nn.Linear(3, 3).state_dict(), path)
    with pytest.raises(ModelError, match=r"missing: backbone\.conv1\.weight.* and \d+ more") as e:
        fractures.load_model(path)
    assert "2 unexpected: weight, bias" in str(e.value)
    assert len(str(e.value)) < 1500


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    sign = tmp_path / "executed"
    path = tmp_path / "trap.pth"
    torch.save({"state_dict": _Trap(str(sign))}, path)
    with pytest.raises(ModelError, match="more than weights"):
        fractures.load_model(path)
    assert not sign.exists()
    # The trap works where it is let.
    torch.load(path, weights_only=False)["state_dict"].close()
    assert sign.exists()


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(ModelError, match=r"cannot be read"):
        fractures.load_model(tmp_path / "absent.pth")
    text = tmp_path / "text.pth"
    text.write_text("x" * 100)
    with pytest.raises(ModelError, match=r"text\.pth"):
        fractures.load_model(text)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00" * 20)
    with pytest.raises(ModelError, match="broken safetensors"):
        fractures.load_model(broken)
    numbers = tmp_path / "numbers.pth"
    torch.save({"epoch": 3, "loss": 0.1}, numbers)
    with pytest.raises(ModelError, match="no state dict in the file, but a dict of epoch, loss"):
        fractures.load_model(numbers)


def test_newer_files_are_refused(tmp_path):
    path = fractures.save_model(tmp_path / "new.safetensors", fractures.light(4))
    header = {**peek_header(path), "format_version": 99}
    write_tensors(path, read_tensors(path), header)
    with pytest.raises(ModelError, match="version 99"):
        read_model_header(path)
    with pytest.raises(ModelError, match="Linear"):
        fractures.save_model(path, torch.nn.Linear(2, 2))


def test_checkpoints_hold_plain_pickles_only(tmp_path):
    """The restricted reader is what guards: a class of ours in a file is refused too."""
    path = tmp_path / "object.pth"
    torch.save(fractures.light(4), path)
    with pytest.raises(ModelError, match="more than weights"):
        fractures.load_model(path)
    raw = tmp_path / "raw.pkl"
    raw.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(ModelError):
        fractures.load_model(raw)
