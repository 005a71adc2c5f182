"""The embedded fracture network without torch: by ONNX Runtime, with the numbers that torch gives."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import xarray as xr

from lunarray import fractures
from lunarray.engine.batches import model_threads
from lunarray.engine.weights import WeightsFormat
from lunarray.errors import ModelError
from lunarray.fractures import runtime
from lunarray.fractures.light_graph import GRAPH, build_graph
from lunarray.fractures.normalise import Normalisation
from lunarray.fractures.weights import DEFAULT_MODEL, FORMAT
from lunarray.simulate import NacSettings, nac_scene


@pytest.fixture(scope="module")
def image():
    """Fractured ground with a hole, an infinite pixel, and an edge that no tile ends at."""
    settings = NacSettings(fractures=15, melt=0.9, craters=200)
    made = nac_scene((420, 390), settings=settings, seed=5, incidence=65, azimuth=150)
    image = made.dataset["image"].astype(np.float32).reset_coords(drop=True).copy()
    image[100:140, 30:60] = np.nan
    image[7, 7] = np.inf
    return image


def tiles_of(image: xr.DataArray) -> np.ndarray:
    values = image.values
    return np.stack([values[a : a + 256, b : b + 256] for a, b in ((0, 0), (64, 128), (160, 96))])


def test_the_graph_is_what_its_script_writes():
    pytest.importorskip("onnx", reason="lunarray[test] brings onnx, which writes the graph")
    assert GRAPH.read_bytes() == build_graph()
    assert GRAPH.stat().st_size < 20_000, "weights are in the one file of weights"


@pytest.mark.parametrize("factor", [1, 255.0, 30_000.0])
def test_probabilities_are_those_of_torch(image, factor):
    pytest.importorskip("torch", reason="lunarray[torch] is not installed")
    from lunarray.fractures.predictor import predictor_of

    tiles = tiles_of(image) * np.float32(factor)
    loaded = fractures.load_model(DEFAULT_MODEL)
    theirs = predictor_of(loaded.network, loaded.normalisation)(tiles)
    ours = runtime.load_predictor(DEFAULT_MODEL, "cpu")(tiles)
    good = np.isfinite(tiles)
    assert ours.dtype == np.float32
    assert theirs[good].max() > 0.9
    assert np.abs(ours - theirs)[good].max() < 1e-5
    assert np.array_equal((ours >= 0.5)[good], (theirs >= 0.5)[good])


def test_numbers_do_not_depend_on_threads_or_batches(image):
    predict = runtime.load_predictor(DEFAULT_MODEL, "cpu")
    tiles = tiles_of(image)
    with model_threads(1):
        one = predict(tiles)
    with model_threads(2):
        assert np.array_equal(predict(tiles), one)
    assert np.array_equal(np.concatenate([predict(tile[None]) for tile in tiles]), one)
    found = {}
    workers = [
        threading.Thread(target=lambda i=i: found.update({i: predict(tiles[i : i + 1])}))
        for i in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert np.array_equal(np.concatenate([found[i] for i in range(3)]), one)


def test_chunks_change_nothing(image):
    whole = fractures.map_fractures(image, tile=256, overlap=96)
    for chunks in ({"y": 100}, {"y": 64, "x": 390}):
        lazy = fractures.map_fractures(image.chunk(chunks), tile=256, overlap=96).compute()
        xr.testing.assert_equal(lazy, whole)


def test_torch_is_never_imported():
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Absent())
import numpy as np, xarray as xr
import lunarray as la
image = np.random.default_rng(0).normal(0.05, 0.01, (64, 96)).astype("f4")
image = xr.DataArray(image, dims=("y", "x"))
for some in (image, image.chunk({"y": 32})):
    found = some.lunar.map_fractures(tile=64, overlap=0).compute()
    assert found.probability.notnull().all()
try:
    fractures = la.fractures.load_model(la.fractures.weights.DEFAULT_MODEL)
except la.errors.MissingDependencyError as error:
    assert "lunarray[torch]" in str(error), error
else:
    raise AssertionError("torch was there")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_other_networks_are_not_taken_for_it():
    header = FORMAT.read_header(DEFAULT_MODEL)
    assert runtime.fits(header)
    assert not runtime.fits({**header, "sizes": {"width": 8, "channels": 1}})
    assert not runtime.fits({**header, "architecture": "deeplabv3_resnet50"})
    other = Normalisation(clip=4.0).to_json()
    assert not runtime.fits({**header, "normalisation": other})


def test_weights_that_do_not_fit(tmp_path):
    header, tensors = FORMAT.read(DEFAULT_MODEL)
    kept = {k: v for k, v in header.items() if k not in ("digest", "format", "format_version")}
    writer: WeightsFormat = FORMAT
    lacking = {n: a for n, a in tensors.items() if not n.startswith("head.")}
    with pytest.raises(ModelError, match=r"do not fit the light network.*head\.weight"):
        runtime.load_predictor(writer.write(tmp_path / "a.safetensors", lacking, kept), "cpu")
    wrong = {**tensors, "head.weight": tensors["head.weight"][:3]}
    with pytest.raises(ModelError, match="do not fit the light network"):
        fractures.fracture_model(writer.write(tmp_path / "b.safetensors", wrong, kept)).load()
