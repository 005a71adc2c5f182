"""Detection over mosaics: tiles on a lattice of their own, whatever the chunks."""

from __future__ import annotations

import pickle

import dask
import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import lunarray  # noqa: F401
from lunarray import fractures
from lunarray.engine import ModelSpec
from lunarray.errors import GridError, InputError, ModelError
from lunarray.fractures import runtime
from lunarray.fractures.detection import measure_overlap
from lunarray.fractures.lattice import ALIGN, Axis, check_lattice
from lunarray.fractures.normalise import Normalisation, imagenet, normalise
from lunarray.geo import assign_crs, crs_of, moon_crs

SHAPE = (300, 340)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with dask.config.set(scheduler="threads", num_workers=2):
        yield
    torch.set_num_threads(before)


def strong(width=4, seed=0, architecture="light"):
    """A network whose probabilities vary: of random weights they are all about a half."""
    torch.manual_seed(seed)
    network = fractures.light(width)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.6)
                module.bias.normal_(0, 0.3)
        network.head.weight *= 4
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "strong.safetensors"
    return fractures.save_model(path, strong(), overlap=64)


def scene(shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(0.05, 0.01, shape).astype(np.float32)
    coords = {"y": 1000 - 1.5 * np.arange(shape[0]), "x": 1.5 * np.arange(shape[1])}
    return xr.DataArray(
        image, dims=("y", "x"), coords=coords, name="image", attrs={"source": "noise"}
    )


@pytest.fixture(scope="module")
def image():
    made = scene()
    made[:100, :70] = np.nan  # a corner
    made[260, :] = np.nan  # a line
    made[200:203, 200:203] = np.inf  # an island
    return made


@pytest.fixture(scope="module")
def whole(image, model):
    return fractures.map_fractures(image, model, tile=128)


# --- The lattice ----------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 4000), st.sampled_from([64, 128, 256, 512]), st.sampled_from([0, 32, 64, 128])
)
def test_lattice_covers_and_weights_sum_to_one(length, tile, overlap):
    if 2 * overlap > tile:
        with pytest.raises(InputError, match="overlap"):
            check_lattice(tile, overlap)
        return
    axis = Axis(length, tile, overlap)
    assert axis.starts[0] == 0
    assert all(start % ALIGN == 0 for start in axis.starts)
    assert length <= axis.starts[-1] + axis.size < length + ALIGN
    total = np.zeros(axis.starts[-1] + axis.size)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        assert weight.min() >= 0
        total[start : start + axis.size] += weight
    assert np.allclose(total, 1, atol=1e-6)
    for one, other in zip(axis.starts, axis.starts[1:], strict=False):
        assert one + axis.size - other >= overlap
    assert [t for group in axis.groups for t in group] == list(range(len(axis.starts)))
    # Every pixel's groups are those that cover it.
    for pixel in {0, length // 2, length - 1}:
        covering = [g for g in range(len(axis.groups)) if axis.extent(g)[0] <= pixel < axis.extent(g)[1]]  # fmt: skip
        assert list(axis.groups_over(pixel, pixel + 1)) == covering


def test_border_pixels_of_tiles_are_not_used():
    axis = Axis(2000, 512, 128)
    assert (axis.weights[1][:48] == 0).all()
    assert (axis.weights[1][-48:] == 0).all()
    assert axis.weights[1][80:-80].min() == 1
    # But at the image's border there is nothing else.
    assert (axis.weights[0][:300] == 1).all()


# --- Tiled is whole -------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [(300, 340), (128, 128), (97, 210), (50, 340)])
def test_chunks_change_no_bit(image, model, whole, chunks):
    lazy = fractures.map_fractures(image.chunk({"y": chunks[0], "x": chunks[1]}), model, tile=128)
    assert lazy.probability.data.chunks == image.chunk({"y": chunks[0], "x": chunks[1]}).chunks
    found = lazy.compute()
    assert np.array_equal(found.probability, whole.probability, equal_nan=True)
    assert np.array_equal(found.mask, whole.mask)
    assert found.probability.dtype == np.float32
    assert found.mask.dtype == np.uint8


def test_vectors_are_the_same_for_any_chunks(image, model, whole):
    """From the map to polygons: what is tiled, chunked and blended ends in the same outlines."""
    threshold = float(np.nanquantile(whole.probability, 0.97))
    placed = assign_crs(image, moon_crs("south"))
    frames, masks = [], []
    for chunks in (None, (128, 150), (61, 340)):
        given = placed if chunks is None else placed.chunk({"y": chunks[0], "x": chunks[1]})
        found = fractures.map_fractures(given, model, threshold, tile=128)
        found = found.persist()
        masks.append(found.mask.values)
        frames.append(fractures.vectorize(found, min_area=0.0))
    assert len(frames[0]) > 10
    for other, mask in zip(frames[1:], masks[1:], strict=True):
        assert np.array_equal(mask, masks[0])
        assert frames[0].geometry.geom_equals_exact(other.geometry, 0).all()
        # The mean probability is summed block by block.
        assert np.allclose(frames[0]["probability"], other["probability"], rtol=1e-6)
        assert (frames[0]["pixels"] == other["pixels"]).all()
    assert np.allclose(frames[0].geometry.area, frames[0]["pixels"] * 1.5**2, rtol=1e-12)
    assert frames[0]["pixels"].sum() == (masks[0] == 1).sum()
    assert (frames[0]["probability"] >= threshold - 1e-6).all()


def test_seams_of_a_mosaic_travel_along(image, model):
    source = xr.full_like(image, 0).astype(np.int16).rename("source")
    mosaic = xr.Dataset({"image": image, "source": source})
    found = fractures.map_fractures(mosaic.chunk(200), model, tile=128)
    assert set(found.data_vars) == {"probability", "mask", "source"}
    assert "model" not in found["source"].attrs
    xr.testing.assert_equal(found["source"], source)


def test_tile_borders_do_not_show(tmp_path):
    """With the overlap that was measured, tiles agree with the network run on the image in one piece."""
    path = fractures.save_model(tmp_path / "m.safetensors", strong(8))
    image = scene((640, 672), seed=3)
    overlap, difference = measure_overlap(path, image, tile=512, tolerance=5e-3, quantile=1.0)
    assert 32 < overlap <= 256
    assert difference[0] > 1e-2
    assert difference[180:].max() < 1e-5
    tiled = fractures.map_fractures(image, path, tile=512, overlap=overlap).probability.values
    predict = runtime.load_predictor(path, "cpu")
    one = predict(image.values[None])[0]
    assert one.std() > 0.05
    assert np.abs(tiled - one).max() < 5e-3
    # Without overlap they do show.
    cut = fractures.map_fractures(image, path, tile=512, overlap=0).probability.values
    assert np.abs(cut - one).max() > 2e-2


def test_every_tile_is_run_once_and_empty_ones_never(image, model, monkeypatch):
    calls = []

    def fake(self):
        def predict(tiles):
            calls.append(len(tiles))
            return np.full(tiles.shape, 0.75, np.float32)

        return predict

    monkeypatch.setattr(ModelSpec, "load", fake)
    empty = image.copy()
    empty[:, 224:] = np.nan
    lazy = empty.chunk({"y": 60, "x": 70})
    found = fractures.map_fractures(lazy, model, tile=128, overlap=0, batch_size=3).compute()
    # 300 × 224 pixels hold 3 × 2 tiles of 128, which begin at 0, 128 and 192 (a multiple of 32).
    assert sum(calls) == 6
    assert max(calls) == 3
    good = np.isfinite(empty.values)
    assert np.allclose(found.probability.values[good], 0.75)
    assert np.isnan(found.probability.values[~good]).all()


def test_batches_change_next_to_nothing(image, model, whole):
    found = fractures.map_fractures(image, model, tile=128, batch_size=5)
    assert np.nanmax(np.abs(found.probability - whole.probability)) < 1e-5


def test_threads_change_next_to_nothing(image, model):
    part = image[:64, 100:164]
    one, two = (fractures.map_fractures(part, model, threads=n).probability for n in (1, 2))
    assert np.nanmax(np.abs(one - two)) < 1e-5
    assert torch.get_num_threads() == 1


# --- Laziness and models as values ----------------------------------------------------------------


def test_large_graphs_stay_small(model):
    mosaic = xr.DataArray(da.zeros((40_000, 30_000), np.float32, chunks=4096), dims=("y", "x"))
    lazy = fractures.map_fractures(mosaic, model)
    tasks = dict(lazy.probability.data.__dask_graph__())
    # 90 × 67 tiles, four to a task that gathers and one that runs them; and the blocks of mosaic and result.
    assert len(tasks) < 2 * 45 * 34 + 2 * 10 * 8 + 100
    assert len(pickle.dumps(lazy.probability.data.dask)) < 3e6
    assert fractures.map_fractures(mosaic, model).probability.data.name == (
        lazy.probability.data.name
    )
    assert fractures.map_fractures(mosaic, model, overlap=32).probability.data.name != (
        lazy.probability.data.name
    )


def test_the_graph_tells_its_model(model):
    """One layer carries the spec and the options, for a store's manifest and a cluster's placement."""
    mosaic = xr.DataArray(da.zeros((2000, 2000), np.float32, chunks=512), dims=("y", "x"))
    lazy = fractures.map_fractures(mosaic, model, device="auto")
    layers = lazy.probability.data.dask.layers
    carrying = [
        name
        for name, layer in layers.items()
        if any(isinstance(v, ModelSpec) for v, i in getattr(layer, "indices", ()) if i is None)
        or any(isinstance(v, ModelSpec) for v in getattr(getattr(layer, "task", None), "args", ()))
    ]
    assert [name.rsplit("-", 1)[0] for name in carrying] == ["fracture-tiles"]


def test_models_are_specs(model, whole, image, tmp_path):
    spec = fractures.fracture_model(model)
    assert isinstance(spec, ModelSpec)
    assert spec.outputs == 1
    elsewhere = tmp_path / "copy.safetensors"
    elsewhere.write_bytes(model.read_bytes())
    assert dask.base.tokenize(fractures.fracture_model(elsewhere)) == dask.base.tokenize(spec)
    assert whole.attrs["model_sha256"] == spec.sha256
    assert whole.probability.attrs["model_sha256"] == spec.sha256
    assert fractures.fracture_model(spec) is spec
    again = fractures.map_fractures(image, spec, tile=128)
    assert np.array_equal(again.probability, whole.probability, equal_nan=True)


# --- Values and metadata --------------------------------------------------------------------------


def test_mask_is_the_thresholded_probability(image, model, whole):
    good = np.isfinite(image.values)
    p = whole.probability.values
    assert np.isfinite(p[good]).all()
    assert ((p[good] >= 0) & (p[good] <= 1)).all()
    assert np.isnan(p[~good]).all()
    assert np.array_equal(whole.mask.values, np.where(good, p >= 0.5, 255))
    assert 0.02 < (whole.mask == 1).mean() < 0.98
    few = fractures.map_fractures(image[150:250], model, 0.6, tile=128)
    found = few.mask.values
    assert 0 < (found == 1).sum() < (few.probability.values >= 0.5).sum()
    assert few.mask.attrs["threshold"] == 0.6


def test_grid_and_provenance_are_kept(model):
    mosaic = assign_crs(scene((100, 90)), moon_crs("south"))
    found = mosaic.lunar.map_fractures(model)
    assert crs_of(found).equals(moon_crs("south"))
    assert crs_of(found["mask"]).equals(moon_crs("south"))
    assert found.mask.attrs["grid_mapping"] == "spatial_ref"
    xr.testing.assert_equal(found["x"], mosaic["x"])
    assert found.attrs["source"] == "noise"
    assert "map_fractures (tiles of 512, overlap 64" in found.attrs["history"]
    assert found.mask.attrs["flag_meanings"] == "none fracture no_data"
    # A mosaic, and an image that is read with its band; transposed, it is the same.
    as_dataset = fractures.map_fractures(mosaic.to_dataset(name="image"), model)
    xr.testing.assert_equal(as_dataset["probability"], found["probability"])
    turned = fractures.map_fractures(mosaic.expand_dims("band").transpose("x", "band", "y"), model)
    assert np.array_equal(turned.probability, found.probability)
    assert turned.probability.dims == ("y", "x")


def test_result_goes_to_zarr_and_back(image, model, whole, tmp_path):
    lazy = fractures.map_fractures(image.chunk({"y": 150, "x": 170}), model, tile=128)
    lazy.to_zarr(tmp_path / "map.zarr", zarr_format=3, consolidated=False)
    back = xr.open_zarr(tmp_path / "map.zarr", consolidated=False, mask_and_scale=False)
    assert np.array_equal(back.mask, whole.mask)
    assert np.array_equal(back.probability, whole.probability, equal_nan=True)


def test_unprojected_images_are_taken(model):
    bare = xr.DataArray(scene((70, 80)).values, dims=("line", "sample"))
    found = fractures.map_fractures(bare, model)
    assert found.probability.dims == ("line", "sample")
    assert not found.coords


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (33, 64)])
def test_images_smaller_than_a_tile(model, shape):
    found = fractures.map_fractures(scene(shape), model)
    assert found.probability.shape == shape
    assert np.isfinite(found.probability).all()


@pytest.mark.parametrize("chunked", [False, True])
def test_nothing_but_no_data(model, chunked, monkeypatch):
    def refuse(self):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(ModelSpec, "load", refuse)
    empty = xr.full_like(scene((200, 210)), np.nan)
    found = fractures.map_fractures(
        empty.chunk(50) if chunked else empty, model, tile=64, overlap=0
    )
    assert np.isnan(found.probability).all()
    assert (found.mask == 255).all()


def test_islands_without_data_are_left_out_of_the_surroundings(model):
    """What stands in pixels without data changes nothing."""
    image = scene((128, 128))
    holes = image.copy()
    holes[60:64, 60:64] = np.nan
    other = image.copy()
    other[60:64, 60:64] = np.inf
    one, two = (fractures.map_fractures(i, model) for i in (holes, other))
    assert np.array_equal(one.probability, two.probability, equal_nan=True)
    assert np.isnan(one.probability).sum() == 16


def test_integers_with_a_fill_value(model):
    counts = (scene((96, 96)) * 1e5).round().astype(np.int16)
    counts[:10] = -32768
    counts.attrs["_FillValue"] = -32768
    expected = fractures.map_fractures(counts.where(counts != -32768).drop_attrs(), model)
    found = fractures.map_fractures(counts, model)
    assert np.array_equal(found.probability, expected.probability, equal_nan=True)
    assert (found.mask[:10] == 255).all()


def test_value_range_brings_brightness_to_the_models_scale(tmp_path):
    rule = Normalisation("fixed", 1, offset=0, scale=255)
    path = fractures.save_model(tmp_path / "fixed.safetensors", strong(), normalisation=rule)
    brightness = scene((96, 96))
    bytes_ = ((brightness - 0.01) * (255 / 0.11)).assign_attrs(brightness_unit="8-bit")
    expected = fractures.map_fractures(bytes_, path)
    found = fractures.map_fractures(brightness, path, value_range=(0.01, 0.12))
    assert np.allclose(found.probability, expected.probability, atol=1e-4)
    with pytest.raises(InputError, match=r"nothing tells what the image's numbers are"):
        fractures.map_fractures(brightness, path)
    for wrong in ((1, 0), (0, np.nan)):
        with pytest.raises(InputError, match="value_range"):
            fractures.map_fractures(brightness, path, value_range=wrong)


def test_within_limits_the_result(image, model, whole):
    within = xr.zeros_like(image, bool)
    within[50:150, 90:200] = True
    for chunked in (False, True):
        given = image.chunk({"y": 100, "x": 90}) if chunked else image
        found = fractures.map_fractures(given, model, tile=128, within=within).compute()
        expected = whole.probability.where(within)
        assert np.array_equal(found.probability, expected, equal_nan=True)
        assert (found.mask.values[~within.values] == 255).all()
    with pytest.raises(GridError, match="within: shape"):
        fractures.map_fractures(image, model, within=within[1:])
    with pytest.raises(GridError, match="within: y from"):
        fractures.map_fractures(image, model, within=within.assign_coords(y=within.y + 0.75))
    with pytest.raises(InputError, match="ndarray"):
        fractures.map_fractures(image, model, within=within.values)


def test_overlap_by_default_is_the_models(image, model, whole, tmp_path):
    assert "overlap 64" in whole.attrs["history"]
    other = fractures.save_model(tmp_path / "other.safetensors", strong())
    assert "overlap 192" in fractures.map_fractures(image[:64, :64], other).attrs["history"]
    few = fractures.map_fractures(image[:64, :64], other, tile=128)
    assert "overlap 64" in few.attrs["history"]


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0}, "threshold"),
        ({"threshold": 1.5}, "threshold"),
        ({"tile": 100}, "tiles of 100"),
        ({"tile": 32}, "tiles of 32"),
        ({"tile": 128, "overlap": 96}, "overlap of 96"),
        ({"overlap": -32}, "overlap of -32"),
        ({"overlap": 50}, "overlap of 50"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"tile": "128"}, "tile"),
        ({"tile": 64.5}, "tile"),
        ({"threads": 0}, "threads"),
        ({"value_range": (1,)}, "value_range"),
        ({"value_range": "dark"}, "value_range"),
        ({"value_range": (0, 1)}, "local contrast"),
    ],
)
def test_arguments_that_make_no_sense(image, model, changes, message):
    with pytest.raises(InputError, match=message):
        fractures.map_fractures(image, model, **changes)


def test_what_is_no_image(image, model):
    for other in (image.values, None):
        with pytest.raises(InputError, match="Give a DataArray"):
            fractures.map_fractures(other, model)
    with pytest.raises(InputError, match="no data are said to be 'none'"):
        fractures.map_fractures(image.assign_attrs(_FillValue="none"), model)
    written = fractures.map_fractures(image.assign_attrs(_FillValue="-9999"), model)
    assert "mask" in written
    with pytest.raises(InputError, match="no variable 'image' among albedo"):
        fractures.map_fractures(image.to_dataset(name="albedo"), model)
    with pytest.raises(InputError, match="band: 3"):
        fractures.map_fractures(xr.concat([image] * 3, "band"), model)
    with pytest.raises(InputError, match="with a pixel at least"):
        fractures.map_fractures(image[:0], model)
    with pytest.raises(InputError, match="of type bool"):
        fractures.map_fractures(image > 0, model)


def test_models_that_cannot_be_used(image, tmp_path, model):
    with pytest.raises(ModelError, match="Save it with"):
        fractures.map_fractures(image, fractures.light(4))
    with pytest.raises(ModelError, match="cannot be read"):
        fractures.map_fractures(image, tmp_path / "absent.pth")
    spec = ModelSpec("lunarray.oxides.predictor:load_predictor", str(model), "0", 7)
    with pytest.raises(ModelError, match=r"a model of lunarray\.oxides"):
        fractures.map_fractures(image, spec)
    changed = fractures.save_model(tmp_path / "changed.safetensors", strong(seed=7))
    lazy = fractures.map_fractures(image.chunk(), changed)
    fractures.save_model(changed, strong(seed=1))
    with pytest.raises(ModelError, match="changed since the model was chosen"):
        lazy.compute()


def test_a_model_of_ones_own(tmp_path, monkeypatch):
    """A loader in a module of the user's: what it gives for tiles is checked, and errors say what to implement."""
    (tmp_path / "own_network.py").write_text(
        "import numpy as np\n"
        "def bright(path, device):\n"
        "    return lambda tiles: (tiles > 0.05).astype(np.float32)\n"
        "def pixels(path, device):\n"
        "    return lambda tiles: tiles.mean(axis=(1, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    weights = tmp_path / "own.bin"
    weights.write_bytes(b"mine")
    image = scene((100, 130))
    spec = ModelSpec.from_file("own_network:bright", weights, outputs=1, device="cpu")
    for some in (image, image.chunk(64)):
        found = some.lunar.map_fractures(spec, tile=64, overlap=32)
        assert np.array_equal(found.mask, image > 0.05)
        assert "own.bin" in found.attrs["model"]
    with pytest.raises(InputError, match="a model of your own"):
        fractures.map_fractures(image, spec, value_range=(0, 1))
    wrong = ModelSpec.from_file("own_network:pixels", weights, outputs=1, device="cpu")
    with pytest.raises(ModelError, match=r"it gives an array \(1,\).*probabilities \(tile, h, w\)"):
        fractures.map_fractures(image, wrong)


def test_measuring_needs_surroundings(model):
    with pytest.raises(InputError, match="576 pixels or more"):
        measure_overlap(model, scene((512, 600)))


# --- DeepLab, and real images ---------------------------------------------------------------------


def test_deeplab_from_a_state_dict(tmp_path):
    torch.manual_seed(0)
    network = fractures.deeplabv3("resnet50").eval()
    path = tmp_path / "imfmapper.pth"
    torch.save({"state_dict": {f"module.{n}": v for n, v in network.state_dict().items()}}, path)
    image = (scene((96, 130)) * 8).clip(0, 1).assign_attrs(brightness_unit="0-1")
    found = fractures.map_fractures(image.chunk({"y": 50}), path, tile=64, overlap=32).compute()
    # The same by hand: the first tile alone, where no other is.
    tile = torch.from_numpy(image.values[:64, :64])[None]
    with torch.inference_mode():
        expected = torch.sigmoid(network(normalise(tile, imagenet())))[0, 0]
    assert np.allclose(found.probability[:32, :32], expected[:32, :32], atol=1e-4)


@pytest.mark.realdata
def test_real_crops_run_through(real_data, model):
    rasterio = pytest.importorskip("rasterio")
    import warnings

    crops = sorted((real_data / "nac").glob("*.cub")) + sorted((real_data / "nac").glob("*.png"))
    assert len(crops) >= 3
    for crop in crops:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # none is georeferenced
            with rasterio.open(crop) as source:
                values, fill = source.read(1), source.nodata
        attrs = {} if fill is None else {"_FillValue": fill}
        image = xr.DataArray(values, dims=("y", "x"), attrs=attrs)
        found = fractures.map_fractures(image.chunk({"y": 300, "x": 400}), model)
        assert found.probability.shape == values.shape
        p = found.probability.values
        assert np.isfinite(p).mean() > 0.9
        assert p[np.isfinite(p)].std() > 1e-3
        # Without a reference system areas are unknown.
        with pytest.raises(GridError, match=r"georeference|reference system"):
            fractures.vectorize(found)
