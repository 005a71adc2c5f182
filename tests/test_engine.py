"""The engine: model specs, and mapping a kernel over the pixels of arrays."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from dask.base import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st

from lunarray import engine
from lunarray.errors import InputError, MissingDependencyError, ModelError

loads: list[tuple[str, str]] = []


def load_gain(path, device):
    """A loader of models for these tests: the weights file holds a number."""
    time.sleep(0.05)
    loads.append((str(path), device))
    gain = np.float32(path.read_text())
    return lambda pixels: np.stack([gain * pixels.sum(axis=1), pixels[:, 0]], axis=1)


@pytest.fixture
def spec(tmp_path):
    loads.clear()
    weights = tmp_path / "gain.txt"
    weights.write_text(
        f"2.5{np.random.default_rng().integers(10**9)}"
    )  # another model in each test
    return engine.ModelSpec.from_file(f"{__name__}:load_gain", weights, outputs=2, device="cpu")


def gain_of(spec: engine.ModelSpec) -> np.float32:
    return np.float32(Path(spec.weights).read_text())


def sums(pixels):
    """A kernel that counts on its input being clean and contiguous."""
    if not (np.isfinite(pixels).all() and pixels.flags.c_contiguous and pixels.dtype == np.float32):
        raise AssertionError("a missing pixel reached the kernel")
    return np.stack([pixels.sum(axis=1, dtype=np.float64), pixels.max(axis=1)], axis=1)


def test_spec_travels_small_and_tokenises_by_weights(spec, tmp_path):
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert len(pickle.dumps(spec)) < 1000
    elsewhere = tmp_path / "copy.txt"
    elsewhere.write_text(Path(spec.weights).read_text())
    copy = engine.ModelSpec.from_file(spec.loader, elsewhere, outputs=2, device="cpu")
    assert tokenize(copy) == tokenize(spec)
    assert tokenize(spec.on("auto")) != tokenize(spec)
    elsewhere.write_text("3.0")
    other = engine.ModelSpec.from_file(spec.loader, elsewhere, outputs=2, device="cpu")
    assert tokenize(other) != tokenize(spec)


def test_model_is_loaded_once_by_a_process(spec):
    threads = [threading.Thread(target=spec.load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert spec.load() is spec.load()


def test_changed_and_missing_weights_are_refused(spec, tmp_path):
    Path(spec.weights).write_text("9.0")
    with pytest.raises(ModelError, match=r"gain\.txt.*changed"):
        spec.load()
    with pytest.raises(ModelError, match=r"absent\.txt.*cannot be read"):
        engine.ModelSpec.from_file("a:b", tmp_path / "absent.txt", outputs=1)
    with pytest.raises(InputError, match="auto, cpu, cuda"):
        engine.ModelSpec.from_file("a:b", spec.weights, outputs=1, device="gpu")


def test_devices():
    import torch

    assert engine.resolve_device("cpu") == "cpu"
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert engine.resolve_device("auto") == expected
    if expected == "cpu":
        with pytest.raises(MissingDependencyError, match="CUDA"):
            engine.resolve_device("cuda")


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(0, 9), st.integers(0, 9)),
    axis=st.integers(-3, 2),
    chunk=st.integers(1, 9),
    batch=st.integers(1, 50),
    missing=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_any_chunking_any_axis_any_batch_is_the_same(shape, axis, chunk, batch, missing, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.random(shape, dtype=np.float32)
    vectors[rng.random(shape) < missing / 3] = rng.choice([np.nan, np.inf, -np.inf])
    data = np.moveaxis(vectors, 0, axis)
    expected = np.where(
        np.isfinite(vectors).all(axis=0),
        [vectors.sum(axis=0, dtype=np.float64), vectors.max(axis=0)],
        np.nan,
    ).astype(np.float32)
    expected = np.moveaxis(expected, 0, axis)
    options = {"axis": axis, "outputs": 2, "batch_size": batch}
    whole = engine.map_pixels(sums, data, **options)
    np.testing.assert_array_equal(whole, expected)
    chunked = engine.map_pixels(sums, da.from_array(data, chunks=chunk), **options)
    assert chunked.shape == whole.shape
    assert chunked.dtype == whole.dtype == np.float32
    np.testing.assert_array_equal(chunked.compute(scheduler="synchronous"), expected)


def test_batches_are_bounded():
    sizes = []

    def kernel(pixels):
        sizes.append(len(pixels))
        return pixels[:, :1]

    engine.map_pixels(kernel, np.ones((3, 50, 50)), outputs=1, batch_size=999)
    assert sizes == [999, 999, 502]


def test_lazy_with_equal_tokens_and_constant_graph(spec, no_compute):
    def graph_of(n):
        data = da.zeros((4, n, n), chunks=(4, 10, 10), dtype=np.float32)
        return engine.map_pixels(spec, data)

    assert graph_of(40).name == graph_of(40).name
    small, large = graph_of(20), graph_of(200)
    tasks = [len(dict(g.__dask_graph__())) / g.npartitions for g in (small, large)]
    assert tasks[0] == pytest.approx(tasks[1], rel=0.05)
    size = [len(pickle.dumps(dict(g.__dask_graph__()))) / g.npartitions for g in (small, large)]
    assert size[1] <= size[0]
    assert loads == []


def test_split_vectors_are_brought_together(spec):
    data = np.random.default_rng(0).random((6, 8, 8), dtype=np.float32)
    whole = engine.map_pixels(spec, data)
    split = engine.map_pixels(spec, da.from_array(data, chunks=(2, 4, 8)))
    np.testing.assert_array_equal(split.compute(), whole)


@pytest.mark.parametrize("processes", [False, True])
def test_distributed_equals_numpy(spec, client, processes):
    data = np.random.default_rng(1).random((5, 30, 20), dtype=np.float32)
    data[2, 3, 4] = np.nan
    expected = engine.map_pixels(spec, data)
    lazy = engine.map_pixels(spec, da.from_array(data, chunks=(5, 7, 9)))
    with client(processes=processes):
        np.testing.assert_array_equal(lazy.compute(), expected)


def test_callable_needs_to_say_its_outputs():
    with pytest.raises(TypeError, match="outputs"):
        engine.map_pixels(sums, np.zeros((3, 2)))


def test_schedulers_agree(spec):
    data = np.random.default_rng(2).random((5, 30, 20), dtype=np.float32)
    lazy = engine.map_pixels(spec, da.from_array(data, chunks=(5, 8, 8)))
    results = [lazy.compute(scheduler=s) for s in ("synchronous", "threads")]
    np.testing.assert_array_equal(*results)
    gain = gain_of(spec)
    np.testing.assert_allclose(results[0][0], gain * data.sum(axis=0), rtol=1e-6)
    assert dask.is_dask_collection(lazy)


# --- graphs built by hand -------------------------------------------------------------------------


def _gather(number, blocks, scale=1):
    return scale * sum(b.sum() for b in blocks) + np.full((2, 2), number)


def _assembled(data, token=None, scale=1):
    """Block (i, j) sums the blocks of row i, and those of the last column twice, by a task of their own."""

    def needs(index):
        i, j = index
        row = [engine.Block(data, (i, k)) for k in range(data.numblocks[1])]
        if j == 1:
            twice = engine.Call(np.multiply, [engine.Block(data, (i, 1)), 2])
            return [10 * i + j, [*row, twice]]
        return engine.Call(_gather, [-1, row[:1]]) if i else [0, row]

    sizes = ((2, 2), (2, 2))
    return engine.assemble(
        _gather, sizes, needs=needs, dtype=float, token=token, kwargs={"scale": scale}
    )


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_assemble(scheduler):
    data = da.from_array(np.arange(16.0).reshape(4, 4), chunks=2)
    out = _assembled(data)
    assert out.chunks == ((2, 2), (2, 2))
    assert out.name.startswith("gather-")
    with dask.config.set(scheduler=scheduler):
        values = out.compute()
    top, bottom = (data[rows].sum().compute() for rows in (slice(0, 2), slice(2, 4)))
    assert values[0, 0] == top
    assert values[0, 2] == 1 + top + 2 * data[:2, 2:].sum().compute()
    assert values[2, 0] == -1 + data[2:, :2].sum().compute()
    assert values[2, 2] == 11 + bottom + 2 * data[2:, 2:].sum().compute()


def test_assembled_arrays_are_named_by_content_and_take_part_in_graphs():
    data = da.from_array(np.arange(16.0).reshape(4, 4), chunks=2)
    other = da.from_array(np.arange(1.0, 17).reshape(4, 4), chunks=2)
    assert _assembled(data).name == _assembled(data).name
    names = {_assembled(data).name, _assembled(other).name, _assembled(data, scale=2).name}
    assert len(names | {_assembled(data, token="a").name, _assembled(data, token="b").name}) == 5
    lazy = _assembled(data + 1)[2:, :2].sum()
    assert lazy.compute() == 4 * (-1 + (data + 1)[2:, :2].sum().compute())
