"""The fused CPU kernel of the 1D-CNN against PyTorch, against float64, and against itself."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lunarray.errors import BandMismatchError, InputError, ModelError
from lunarray.oxides.convolution_code import FILTER, GROUP, POINTS, TILE
from lunarray.oxides.fused import ConvBlock, FusedCNN

#: wt%: what a result may differ from PyTorch's eager fp32.
TOLERANCE = 1e-3


def random_state(n: int, bands: int, seed: int, *, outputs: int = 6, scale: float = 1.0) -> dict:
    """A model with statistics unlike the defaults, whose outputs vary by several wt%."""
    rng = np.random.default_rng(seed)
    state: dict[str, np.ndarray] = {}
    channels = [1, n, n, 2 * n, 2 * n, 4 * n]
    for i in range(5):
        cin, cout = channels[i], channels[i + 1]
        state |= {
            f"features.{i}.0.weight": rng.normal(0, (3 * cin) ** -0.5, (cout, cin, 3)),
            f"features.{i}.0.bias": rng.normal(0, 0.3, cout),
            # Negative scales too: the folding must not assume a sign.
            f"features.{i}.1.weight": rng.uniform(0.5, 2, cout) * rng.choice([-1, 1], cout),
            f"features.{i}.1.bias": rng.normal(0, 0.5, cout),
            f"features.{i}.1.running_mean": rng.normal(0, 0.7, cout),
            f"features.{i}.1.running_var": rng.uniform(0.05, 4, cout),
        }
    state |= {
        "head.weight": rng.normal(0, (4 * n * bands) ** -0.5, (outputs, 4 * n * bands)),
        "head.bias": rng.normal(0, 0.1, outputs),
        "input_mean": scale * rng.uniform(0.05, 0.3, bands),
        "input_std": scale * rng.uniform(0.01, 0.06, bands),
        "target_mean": rng.uniform(1, 45, outputs),
        "target_std": rng.uniform(1, 6, outputs),
    }
    return {name: array.astype(np.float32) for name, array in state.items()}


def spectra(count: int, state: dict, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mean, std = state["input_mean"], state["input_std"]
    return (mean + std * rng.normal(0, 1.5, (count, mean.size))).astype(np.float32)


def eager(state: dict, x: np.ndarray, *, double: bool = False) -> np.ndarray:
    import torch

    from lunarray.oxides.model import OxideCNN

    outputs, features = state["head.weight"].shape
    n = state["features.0.0.weight"].shape[0]
    model = OxideCNN(n=n, bands=features // (4 * n), outputs=outputs).eval()
    missing, unexpected = model.load_state_dict(
        {name: torch.from_numpy(array) for name, array in state.items()}, strict=False
    )
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    batch = torch.from_numpy(np.ascontiguousarray(x))
    with torch.no_grad():
        return (model.double()(batch.double()) if double else model(batch)).numpy()


@pytest.mark.parametrize("n", [16, 32, 64, 5])
@pytest.mark.parametrize("bands", [150, 83, 7, 1])
def test_equals_eager_torch(n, bands):
    state = random_state(n, bands, seed=n + bands)
    x = spectra(GROUP + 3, state, seed=1)
    expected = eager(state, x)
    if bands > 1:
        assert (expected.std(axis=0) > 0.1).all()  # the comparison means something
    result = FusedCNN.from_state(state)(x)
    assert result.dtype == np.float32
    assert result.shape == (x.shape[0], 6)
    np.testing.assert_allclose(result, expected, rtol=0, atol=TOLERANCE)


def test_is_as_accurate_as_eager_fp32():
    """Against float64 the Toom-Cook form may lose a little to the direct one, not an order of magnitude."""
    state = random_state(32, 150, seed=3)
    x = spectra(200, state, seed=4)
    truth = eager(state, x, double=True)
    assert truth.std() > 1
    ours = np.abs(FusedCNN.from_state(state)(x) - truth).max()
    theirs = np.abs(eager(state, x) - truth).max()
    assert ours < 1e-4
    assert ours < 10 * theirs


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_magnitude_of_the_input_does_not_matter(scale):
    state = random_state(16, 150, seed=5, scale=scale)
    x = spectra(9, state, seed=6)
    np.testing.assert_allclose(
        FusedCNN.from_state(state)(x), eager(state, x), rtol=0, atol=TOLERANCE
    )


def test_spectra_far_from_the_training_set():
    state = random_state(32, 150, seed=7)
    x = state["input_mean"] + 1000 * state["input_std"] * spectra(8, state, seed=8)
    x = x.astype(np.float32)
    expected = eager(state, x)
    assert np.abs(expected).max() > 100
    result = FusedCNN.from_state(state)(x)
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_zero_padding_applies_to_the_standardised_spectrum():
    """A spectrum equal to the mean is zero after standardisation, up to the edges; one far from it is not."""
    state = random_state(16, 12, seed=9)
    x = np.stack([state["input_mean"], state["input_mean"] + 5 * state["input_std"]])
    np.testing.assert_allclose(
        FusedCNN.from_state(state)(x), eager(state, x), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("outputs", [1, 6, 7])
def test_any_number_of_targets(outputs):
    state = random_state(16, 20, seed=10, outputs=outputs)
    x = spectra(5, state, seed=11)
    result = FusedCNN.from_state(state)(x)
    assert result.shape == (5, outputs)
    np.testing.assert_allclose(result, eager(state, x), rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def cnn():
    return FusedCNN.from_state(random_state(32, 150, seed=12))


@pytest.fixture(scope="module")
def many():
    return spectra(61, random_state(32, 150, seed=12), seed=13)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 60])
def test_splitting_a_batch_changes_no_bit(cnn, many, size):
    parts = [cnn(many[i : i + size]) for i in range(0, len(many), size)]
    np.testing.assert_array_equal(np.concatenate(parts), cnn(many))


def test_a_pixel_does_not_depend_on_its_place_or_neighbours(cnn, many):
    order = np.random.default_rng(14).permutation(len(many))
    np.testing.assert_array_equal(cnn(many[order]), cnn(many)[order])


def test_nan_stays_in_its_pixel(cnn, many):
    spoilt = many.copy()
    spoilt[5, 75] = np.nan
    spoilt[20] = np.nan
    spoilt[60, 0] = np.nan
    result, clean = cnn(spoilt), cnn(many)
    bad = np.isin(np.arange(len(many)), [5, 20, 60])
    assert np.isnan(result[bad]).all()
    np.testing.assert_array_equal(result[~bad], clean[~bad])


def test_empty(cnn):
    result = cnn(np.empty((0, 150), np.float32))
    assert result.shape == (0, 6)
    assert result.dtype == np.float32


def test_layout_and_type_of_the_input(cnn, many):
    expected = cnn(many)
    np.testing.assert_array_equal(cnn(np.asfortranarray(many)), expected)
    np.testing.assert_array_equal(cnn(np.repeat(many, 2, axis=0)[::2]), expected)
    np.testing.assert_array_equal(cnn(many[::-1])[::-1], expected)
    np.testing.assert_array_equal(cnn(many.astype(">f4")), expected)
    np.testing.assert_array_equal(cnn(many.astype(np.float64)), expected)
    frozen = many.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(cnn(frozen), expected)
    np.testing.assert_array_equal(frozen, many)


def test_converted_input_longer_than_a_block(cnn, many):
    tall = np.tile(many, (20, 1))
    expected = cnn(tall)
    np.testing.assert_array_equal(cnn(np.asfortranarray(tall)), expected)
    np.testing.assert_array_equal(expected[: len(many)], expected[-len(many) :])


def test_threads_share_one_instance(cnn, many):
    expected = cnn(many)
    with ThreadPoolExecutor(2) as pool:
        for result in pool.map(cnn, [many] * 8):
            np.testing.assert_array_equal(result, expected)


def test_pickles(cnn, many):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cnn))(many), cnn(many))


def test_filter_transform_belongs_to_the_kernel_transforms():
    """F(6, 3) is exact: with one channel and unit weights the tile is a plain correlation."""
    from lunarray.oxides.convolution_code import WIDTH, transform_in, transform_out

    numba = pytest.importorskip("numba")

    @numba.njit
    def tile(data, gain, bias, points, out):
        transform_in(data, 0, WIDTH, points, 0, WIDTH, WIDTH)
        for p in range(8):
            for c in range(WIDTH):
                points[p * WIDTH + c] *= gain[p * WIDTH + c]
        transform_out(points, 0, WIDTH, bias, 0, out, 0, WIDTH)

    rng = np.random.default_rng(15)
    taps = rng.normal(size=(3, WIDTH))
    data = rng.normal(size=(POINTS, WIDTH)).astype(np.float32)
    bias = rng.normal(size=WIDTH).astype(np.float32)
    gain = (FILTER @ taps).astype(np.float32)
    out = np.empty((TILE, WIDTH), np.float32)
    tile(data.ravel(), gain.ravel(), bias, np.empty(POINTS * WIDTH, np.float32), out.reshape(-1))
    direct = sum(taps[k] * data[k : k + TILE].astype(np.float64) for k in range(3)) + bias
    np.testing.assert_allclose(out, np.maximum(direct, 0), atol=2e-5)


def test_folding_is_batch_normalisation():
    rng = np.random.default_rng(16)
    block = ConvBlock(
        rng.normal(size=(4, 2, 3)), None, *rng.normal(size=(3, 4)), rng.uniform(0.1, 2, 4), 1e-3
    )
    weight, bias = block.folded()
    z = rng.normal(size=(2, 3))
    convolved = np.einsum("oik,ik->o", block.weight, z)
    normal = (convolved - block.mean) / np.sqrt(block.var + 1e-3) * block.gamma + block.beta
    np.testing.assert_allclose(np.einsum("oik,ik->o", weight, z) + bias, normal)


def test_wrong_input(cnn):
    with pytest.raises(BandMismatchError, match=r"149 bands.*needs 150"):
        cnn(np.zeros((2, 149), np.float32))
    with pytest.raises(InputError, match="1 dimensions"):
        cnn(np.zeros(150, np.float32))
    with pytest.raises(InputError, match="complex64"):
        cnn(np.zeros((2, 150), np.complex64))


def test_wrong_parameters():
    good = random_state(8, 10, seed=17)
    with pytest.raises(ModelError, match="input_std"):
        FusedCNN.from_state({k: v for k, v in good.items() if k != "input_std"})
    with pytest.raises(ModelError, match="block 3"):
        FusedCNN.from_state(good | {"features.2.0.weight": np.zeros((16, 9, 3))})
    with pytest.raises(ModelError, match="not positive"):
        FusedCNN.from_state(good | {"input_std": np.zeros(10)})
    with pytest.raises(ModelError, match="not finite"):
        FusedCNN.from_state(good | {"head.bias": np.full(6, np.nan)})
    with pytest.raises(ModelError, match="fc_weight"):
        FusedCNN.from_state(good | {"head.weight": np.zeros((6, 11))})
    with pytest.raises(ModelError, match=r"no tensor 'head.weight'"):
        FusedCNN.from_state({})
    with pytest.raises(ModelError, match="without convolution blocks"):
        FusedCNN([], *[np.ones(1)] * 6)


_OTHER_PROCESSOR = """
import sys
import numpy as np
from lunarray.oxides import fused, vector_code
data = np.load(sys.argv[1])
state = {k: data[k] for k in data.files if k not in ("x", "y")}
result = fused.FusedCNN.from_state(state)(data["x"])
assert vector_code.LANES == int(sys.argv[2]), vector_code.LANES
assert "torch" not in sys.modules
print(np.abs(result - data["y"]).max())
"""


@pytest.mark.parametrize(
    ("name", "features", "lanes"), [("generic", "", 4), ("haswell", "+avx,+avx2,+fma", 8)]
)
def test_processors_without_avx512(tmp_path, name, features, lanes):
    """The same numbers, up to rounding, from the code made for narrower vectors; and torch stays out."""
    import platform

    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("sets x86 features")
    if lanes == 8 and "avx2" not in _host_features():
        pytest.skip("this processor has no AVX2")
    state = random_state(16, 31, seed=18)
    x = spectra(7, state, seed=19)
    np.savez(tmp_path / "case.npz", x=x, y=eager(state, x), **state)
    environment = os.environ | {
        "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    run = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESSOR, str(tmp_path / "case.npz"), str(lanes)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < TOLERANCE


def _host_features() -> set[str]:
    from llvmlite import binding

    return {name for name, on in binding.get_host_cpu_features().items() if on}
