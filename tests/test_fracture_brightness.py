"""The scale of a model and of an image: published networks, checkpoints of others, what is refused."""

from __future__ import annotations

import warnings
import zipfile

import numpy as np
import pytest
import torch
import xarray as xr

from lunarray import fractures
from lunarray.errors import InputError, LunarrayWarning, ModelError
from lunarray.fractures import training
from lunarray.fractures.batches import ArrayTiles, rescaled
from lunarray.fractures.brightness import Scaling, rule_of, scaled, unit_of
from lunarray.fractures.checkpoints import read_foreign
from lunarray.fractures.normalise import Normalisation, imagenet, imfmapper


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def published():
    """torchvision's network as IMFMapper has it: two outputs, and two of the auxiliary branch."""
    from torchvision.models.segmentation import deeplabv3_resnet50

    torch.manual_seed(4)
    network = deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=2, aux_loss=True
    ).eval()
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    # Both classes are found: what stands in the middle of their difference is taken off.
    with torch.inference_mode():
        z = network(torch.rand(1, 3, 96, 96, generator=generator))["out"]
    with torch.no_grad():
        network.classifier[4].bias[1] -= (z[:, 1] - z[:, 0]).median()
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def checkpoint(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("imf") / "IMFMapper_DeepLabV3_ResNet50.pt"
    state = {"epoch": np.int64(47), "best_f1": np.float64(0.694), "losses": np.arange(3.0)}
    torch.save({**state, "model_state_dict": published.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def photo():
    """An 8-bit image that uses all its levels, smooth enough to be one."""
    rng = np.random.default_rng(6)
    coarse = torch.from_numpy(rng.random((1, 1, 14, 14)).astype(np.float32))
    fine = torch.nn.functional.interpolate(coarse, size=(96, 96), mode="bicubic")[0, 0].numpy()
    fine = (fine - fine.min()) / np.ptp(fine) * 255 + rng.normal(0, 3, fine.shape)
    return np.clip(np.rint(fine), 0, 255).astype(np.uint8)


def by_torchvision(network, bytes_):
    """1 where the second of two outputs has the larger sigmoid, as the authors classify."""
    x = torch.from_numpy(bytes_.astype(np.float32) / 255)[None, None].repeat(1, 3, 1, 1)
    with torch.inference_mode():
        return torch.sigmoid(network(x)["out"]).argmax(1)[0].numpy()


# --- The published network ------------------------------------------------------------------------


def test_published_network_finds_what_torchvision_finds(published, checkpoint, photo):
    expected = by_torchvision(published, photo)
    assert 0.1 < expected.mean() < 0.9
    stored = xr.DataArray(photo, dims=("y", "x"))
    opened = (stored / np.float32(255)).astype(np.float32)
    opened.attrs = {"brightness_unit": "0-1", "stored": "uint8, / 255"}
    for image in (stored, opened, opened.chunk(50)):
        mask = fractures.map_fractures(image, checkpoint, tile=96, overlap=0).mask.values
        assert (mask == expected).mean() >= 0.9999


def test_published_networks_input_is_made_as_its_authors_make_it(published, checkpoint, photo):
    """I/F from its own minimum to its maximum, in 8 bits; pixels without data are black and missing."""
    reflectance = 0.017 + photo.astype(np.float32) * (0.13 / 255)
    expected = by_torchvision(published, photo)
    image = xr.DataArray(reflectance, dims=("y", "x"), attrs={"brightness_unit": "I/F"})
    for some in (image, image.chunk({"y": 40, "x": 96}), image.drop_attrs()):
        found = fractures.map_fractures(some, checkpoint, tile=96, overlap=0).compute()
        assert (found.mask == expected).mean() >= 0.9999
    bytes_ = np.rint(scaled(image, None, rule_of(imfmapper())) * 255)
    assert np.array_equal(bytes_, photo)
    holed = photo.copy()
    holed[20:40, 30:70] = 0
    missing = image.where(holed > 0).assign_attrs(image.attrs)
    if not (photo == 0)[holed > 0].any():
        low = float(missing.min())
        holed = np.floor((reflectance - low) / (float(missing.max()) - low) * 255 + 0.5)
        holed = np.where(np.isnan(missing), 0, holed)
    found = fractures.map_fractures(missing, checkpoint, tile=96, overlap=0).mask.values
    good = found != 255
    assert np.array_equal(good, np.isfinite(missing))
    assert (found[good] == by_torchvision(published, holed)[good]).mean() >= 0.9995


def test_published_network_keeps_its_head(published, checkpoint):
    loaded = fractures.load_model(checkpoint)
    assert not loaded.head_replaced
    assert loaded.normalisation == imfmapper()
    head = published.classifier[4]
    assert torch.equal(loaded.network.classifier[4].weight, head.weight[1:] - head.weight[:1])
    assert torch.equal(loaded.network.classifier[4].bias, head.bias[1:] - head.bias[:1])
    # The spec says on which scale it was trained.
    said = fractures.fracture_model(checkpoint).inputs
    assert (said.value_range, said.unit, said.stretch) == ((0.0, 1.0), "0-1", "image")


def test_published_network_begins_a_training(checkpoint, photo, tmp_path):
    network, rule, _ = training._begin(checkpoint, None, 0)
    assert rule == imfmapper()
    saved = fractures.load_model(
        fractures.save_model(tmp_path / "f.safetensors", network, normalisation=rule)
    )
    assert saved.normalisation.stretch == "image"
    images, masks = photo[None, :32, :32], (photo[None, :32, :32] < 90).astype(np.uint8)
    seen = rescaled(ArrayTiles(images, masks), None, rule, False, "tiles")[0][0]
    assert np.allclose(seen, images[0] / 255, atol=1e-6)
    with pytest.raises(InputError, match=r"tiles: nothing tells what the numbers"):
        rescaled(ArrayTiles(images / 7.0, masks), None, rule, False, "tiles")
    ranged = rescaled(ArrayTiles(images / 10.0, masks), (0, 25.5), rule, False, "tiles")[0][0]
    assert np.allclose(ranged, images[0] / 255, atol=1e-6)
    # Of an image, and not of a tile, are least and largest number.
    image = on(photo / 1000 + 0.1, "I/F")
    cut = fractures.tiles(image.chunk(40), on((photo < 90).astype(np.uint8)), size=32)
    for number in (0, len(cut) - 1):
        _, row, column = cut.windows[number]
        seen = rescaled(cut, None, rule, False, "tiles")[number][0]
        assert np.allclose(seen, photo[row : row + 32, column : column + 32] / 255, atol=1e-5)


# --- Checkpoints of others ------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["net.", "module.", "model.net.", "_orig_mod.module."])
def test_names_of_training_programs(tmp_path, prefix):
    state = fractures.light(4).state_dict()
    named = {prefix + n: v for n, v in state.items()}
    named |= {"criterion.pos_weight": torch.ones(1), "loss.weight": torch.ones(1)}
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": named, "lr": np.float32(0.1), "epoch": 3}, path)
    assert read_foreign(path)[0].keys() == state.keys()
    assert fractures.load_model(path).architecture == "light"


def test_old_pickles_of_numpys_numbers(tmp_path):
    """Written by NumPy 1, whose modules had other names; and by torch's old format."""
    path = tmp_path / "old.pt"
    state = {"loss": np.float64(0.5), "state_dict": fractures.light(4).state_dict()}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert fractures.load_model(path).architecture == "light"


def test_objects_in_numpys_arrays_are_not_read(tmp_path):
    path = tmp_path / "object.pt"
    torch.save({"state_dict": {}, "x": np.array([print], dtype=object)}, path)
    with pytest.raises(ModelError, match="more than weights"):
        fractures.load_model(path)


def test_one_channel_is_named_with_the_way_out(tmp_path, photo):
    from torchvision.models.segmentation import deeplabv3_resnet50

    torch.manual_seed(0)
    network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=1).eval()
    network.backbone.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    path = tmp_path / "grey.pth"
    torch.save(network.state_dict(), path)
    with pytest.raises(ModelError, match=r"takes one channel.*Normalisation\('fixed', 1"):
        fractures.load_model(path)
    rule = Normalisation("fixed", 1, mean=(0.5,), std=(0.25,))
    loaded = fractures.load_model(path, normalisation=rule)
    x = (torch.rand(1, 1, 64, 64) - 0.5) / 0.25
    with torch.inference_mode():
        expected, found = network(x)["out"], loaded.network(x.expand(-1, 3, -1, -1))
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.std()))
    image = xr.DataArray(photo, dims=("y", "x"))
    spec = fractures.fracture_model(path, normalisation=rule)
    with torch.inference_mode():
        seen = torch.from_numpy(photo.astype(np.float32) / 255)[None, None]
        logit = network((seen - 0.5) / 0.25)["out"][0, 0]
    found = fractures.map_fractures(image, spec, tile=96, overlap=0).probability
    assert np.allclose(found, torch.sigmoid(logit), atol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # what others still write
def test_files_are_called_what_they_are(tmp_path):
    def refused(content, match, name="weights.pt"):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ModelError, match=match):
            fractures.load_model(path)

    refused(b"\n <!DOCTYPE html><html><body>404</body></html>", "web page.*download=1")
    refused(b"<HTML>login", "web page", "page.safetensors")
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab", "Git LFS")
    refused(b"\x89HDF\r\n\x1a\n", "HDF5.*from_onnx")
    refused(b"\x1f\x8b\x08", "compressed archive.*Unpack")
    script = torch.jit.trace(torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 4, 4))
    torch.jit.save(script, tmp_path / "script.pt")
    refused(None, r"TorchScript.*state_dict\(\)", "script.pt")
    with zipfile.ZipFile(tmp_path / "packed.pt", "w") as archive:
        archive.writestr("weights.pth", b"x")
    refused(None, "zip archive of weights.pth.*Unpack", "packed.pt")
    torch.save(fractures.light(4).state_dict(), tmp_path / "whole.pt")
    refused((tmp_path / "whole.pt").read_bytes()[:-2000], "cut off", "cut.pt")


# --- Scales ---------------------------------------------------------------------------------------


def on(values, unit=None, **attrs):
    told = {} if unit is None else {"brightness_unit": unit}
    return xr.DataArray(np.asarray(values), dims=("y", "x"), attrs={**told, **attrs})


@pytest.mark.parametrize(
    ("image", "rule", "expected"),
    [
        (on(np.full((2, 2), 51, np.uint8)), imagenet(), 0.2),
        (on(np.full((2, 2), 13107, np.uint16)), imagenet(), 0.2),
        (on(np.full((2, 2), 0.2, np.float32), "0-1"), imagenet(), 0.2),
        (on(np.full((2, 2), 0.2, np.float32), "0-1"), imagenet(0, 255), 51),
        (on(np.full((2, 2), 51.0), "8-bit"), imagenet(0, 65535), 13107),
        (on(np.full((2, 2), 0.2), "I/F"), Normalisation("fixed", unit="I/F", scale=0.2), 0.2),
        (on(np.full((2, 2), 0.2), long_name="radiance factor (I/F)"),
         Normalisation("fixed", unit="I/F", scale=0.2), 0.2),
        (on(np.full((2, 2), 7.0)), Normalisation("fixed", offset=3, scale=9), 7.0),
        (on(np.full((2, 2), 7.0)), Normalisation(), 7.0),
    ],
)  # fmt: skip
def test_images_are_brought_to_the_models_scale(image, rule, expected):
    for some in (image, image.chunk(1)):
        found = np.asarray(scaled(some, None, rule_of(rule)))
        assert found.dtype == np.float32
        assert np.allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("image", "rule", "message"),
    [
        (on(np.ones((2, 2))), imagenet(), "nothing tells.*trained on 0-1.*value_range.*--unit"),
        (on(np.ones((2, 2), np.int16)), imagenet(), "nothing tells"),
        (on(np.ones((2, 2)), "I/F"), imagenet(), "an image of I/F for a model.*value_range"),
        (on(np.ones((2, 2)), "0-1"), Normalisation("fixed", unit="I/F"), "image of 0-1.*on I/F"),
        (on(np.ones((2, 2)), "grey"), imagenet(), "grey"),
    ],
)
def test_what_cannot_be_told_is_refused(image, rule, message):
    with pytest.raises(InputError, match=message):
        scaled(image, None, rule_of(rule))


def test_dim_images_are_warned_of():
    rng = np.random.default_rng(0)
    dim = on((0.02 + 0.01 * rng.random((96, 96))).astype(np.float32), "0-1")
    with pytest.warns(LunarrayWarning, match=r"between 0.0201 and 0.029.*value_range"):
        scaled(dim, None, rule_of(imagenet()))
    with pytest.warns(LunarrayWarning, match="nearly even grey"):
        scaled(dim.chunk(64), None, rule_of(imagenet())).compute()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled(dim, (0.02, 0.03), rule_of(imagenet()))
        scaled(dim, None, rule_of(imfmapper()))
        scaled(dim, None, rule_of(Normalisation()))


def test_stretch_of_a_lazy_image_does_not_keep_it(tmp_path):
    """Blocks are read once for the limits and once for the network, and the second time after the first."""
    import dask
    import dask.array as da

    order = []

    def read(block_id):
        order.append(block_id)
        return np.full((8, 8), float(sum(block_id)), np.float32)

    data = da.map_blocks(
        lambda block_info=None: read(block_info[None]["chunk-location"]),
        chunks=((8,) * 4, (8,) * 4), dtype=np.float32, meta=np.empty((0, 0), np.float32),
    )  # fmt: skip
    image = on(np.zeros((32, 32))).copy(data=data)
    found = scaled(image, None, rule_of(imfmapper()))
    with dask.config.set(scheduler="sync"):
        values = found.compute()
    assert len(order) == 32
    assert sorted(order[:16]) == sorted(order[16:])
    assert (values[0, 0], values[-1, -1]) == (0, 1)
    assert found.name == scaled(image, None, rule_of(imfmapper())).name


def test_stretch_rounds_as_gdal_does():
    image = on(np.array([[0.0, 1.0], [0.5, 0.25]], np.float32))
    assert np.allclose(scaled(image, None, rule_of(imfmapper())) * 255, [[0, 255], [128, 64]])
    even = on(np.full((2, 2), 3.0, np.float32))
    assert (scaled(even, None, rule_of(imfmapper())) == 0).all()
    filled = on(np.array([[-9, 10], [20, 30]], np.int16), _FillValue=-9)
    assert np.allclose(
        scaled(filled, None, rule_of(imfmapper())) * 255, [[np.nan, 0], [128, 255]], equal_nan=True
    )
    assert Scaling().idle


@pytest.mark.realdata
def test_opened_images_say_what_they_are(real_data):
    png = fractures.open_nac(real_data / "nac" / "M115143943RE_cal_echo_2_2.png")
    cube = fractures.open_nac(real_data / "nac" / "M143947267L.cal.echo.crop.cub")
    raw = fractures.open_nac(real_data / "nac" / "M115143943RE_cal_echo_2_2.png", scale=None)
    assert [unit_of(image) for image in (png, cube, raw)] == ["0-1", "I/F", "8-bit"]
    seen = [np.asarray(scaled(image, None, rule_of(imagenet()))) for image in (png, raw)]
    assert np.allclose(*seen, atol=1e-6)
    assert 0.1 < seen[0].std() < 0.3
    with pytest.raises(InputError, match="I/F"):
        scaled(cube, None, rule_of(imagenet()))


def test_mosaics_keep_the_scale():
    from odc.geo.geobox import GeoBox

    from lunarray.geo import assign_grid, moon_crs

    box = GeoBox.from_bbox((0, 0, 64, 64), moon_crs("equirectangular"), resolution=2)
    image = assign_grid(on(np.ones((32, 32), np.float32), "0-1", stored="uint8, / 255"), box)
    laid = fractures.mosaic([image, image], resolution=2).image
    assert (laid.attrs["brightness_unit"], laid.attrs["stored"]) == ("0-1", "uint8")
    other = image.assign_attrs(brightness_unit="I/F", stored="float32, as stored")
    with pytest.warns(LunarrayWarning, match="0-1, I/F|I/F, 0-1"):
        mixed = fractures.mosaic([image, other], resolution=2).image
    assert "brightness_unit" not in mixed.attrs


def test_calibrated_probabilities(tmp_path):
    torch.manual_seed(0)
    network = fractures.light(24).eval()
    plain = fractures.save_model(tmp_path / "plain.safetensors", network)
    tempered = fractures.save_model(tmp_path / "t.safetensors", network, temperature=2.0)
    assert fractures.load_model(tempered).temperature == 2
    image = on(np.random.default_rng(1).random((64, 64), np.float32))
    p, q = (fractures.map_fractures(image, m).probability.values for m in (plain, tempered))
    logit = np.log(p / (1 - p))
    assert np.allclose(np.log(q / (1 - q)), logit / 2, atol=1e-4)
    assert np.array_equal(p >= 0.5, q >= 0.5)
    with pytest.raises(InputError, match="temperature"):
        fractures.save_model(tmp_path / "z.safetensors", network, temperature=0)
