"""The 1D-CNN, its weights on disk, novelty, training, and the default model that comes with lunarray."""

from __future__ import annotations

import itertools
import json
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from lunarray import simulate
from lunarray.errors import InputError, ModelError
from lunarray.oxides import invert_oxides
from lunarray.oxides.constants import OXIDES
from lunarray.oxides.minibatch import predict, train_network
from lunarray.oxides.model import OxideCNN
from lunarray.oxides.novelty import MAX_NOVELTY, _distances_of, fit_novelty, novelty
from lunarray.oxides.predictor import load_with_errors
from lunarray.oxides.settings import MinibatchSettings
from lunarray.oxides.weights import (
    DEFAULT_WEIGHTS,
    load_novelty,
    load_oxide_cnn,
    read_header,
    save_oxide_cnn,
)
from lunarray.simulate.recipe import recipe_settings
from lunarray.sp import light_uncertainty
from lunarray.sp.bands import WAVELENGTHS_150


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------ architecture
@pytest.mark.parametrize(
    ("n", "bands", "outputs"), [(16, 150, 6), (32, 150, 6), (64, 150, 6), (4, 31, 2)]
)
def test_parameters_and_shapes(n, bands, outputs):
    model = OxideCNN(n, bands, outputs).eval()
    channels = [1, n, n, 2 * n, 2 * n, 4 * n]
    expected = sum(3 * a * b + b + 2 * b for a, b in itertools.pairwise(channels))
    expected += 4 * n * bands * outputs + outputs
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model(torch.rand(3, bands)).shape == (3, outputs)


def test_blocks_are_those_of_the_paper():
    model = OxideCNN(32)
    assert len(model.features) == 5
    for block, channels in zip(model.features, [32, 32, 64, 64, 128], strict=True):
        conv, norm, relu = block
        assert (conv.kernel_size, conv.stride, conv.padding, conv.out_channels) == (
            (3,),
            (1,),
            (1,),
            channels,
        )
        assert isinstance(norm, torch.nn.BatchNorm1d)
        assert isinstance(relu, torch.nn.ReLU)


def test_forward_is_plain_numpy():
    torch.manual_seed(0)
    model = OxideCNN(4, 20, 3)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for norm in (block[1] for block in model.features):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-0.5, 0.5)
    statistics = [rng.uniform(0.5, 2, k).astype(np.float32) for k in (20, 20, 3, 3)]
    model.set_standardisation(*map(torch.from_numpy, statistics))
    model.eval()
    x = rng.random((5, 20)).astype(np.float32)
    got = predict(model, x)
    y = ((x - statistics[0]) / statistics[1])[:, None, :].astype(np.float64)
    for conv, norm, _ in model.features:
        w, b = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        padded = np.pad(y, ((0, 0), (0, 0), (1, 1)))
        out = np.stack(
            [np.einsum("pck,ock->po", padded[:, :, i : i + 3], w) for i in range(20)], axis=2
        )
        out = out + b[:, None]
        mean, var, g, s = (
            t.detach().numpy()[:, None]
            for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        y = np.maximum((out - mean) / np.sqrt(var + norm.eps) * g + s, 0)
    flat = (
        y.reshape(5, -1) @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()
    )
    np.testing.assert_allclose(got, flat * statistics[3] + statistics[2], rtol=1e-4)


def test_evaluation_does_not_depend_on_the_batch():
    torch.manual_seed(1)
    model = OxideCNN(8).eval()
    x = torch.rand(40, 150)
    with torch.inference_mode():
        together, before = model(x), [t.clone() for t in model.state_dict().values()]
        alone = torch.cat([model(x[i : i + 1]) for i in range(40)])
        assert all(
            torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True)
        )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    model.train()
    assert not torch.allclose(model(x), together, atol=1e-3)


# ----------------------------------------------------------------------------------------- weights
@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(2)
    model = OxideCNN(4, 12, 2)
    model.set_standardisation(torch.rand(12), torch.rand(12) + 1, torch.rand(2), torch.rand(2) + 1)
    statistics = fit_novelty(np.random.default_rng(0).random((300, 12)) + 1, components=3)
    path = tmp_path / "model.safetensors"
    save_oxide_cnn(
        path,
        model,
        wavelengths=np.linspace(500, 1600, 12),
        oxides=("FeO", "TiO2"),
        novelty=statistics,
        training={"on": "noise"},
    )
    return path, model.eval(), statistics


def test_round_trip_is_bit_equal(saved, tmp_path):
    path, model, statistics = saved
    loaded = load_oxide_cnn(path)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert model.state_dict().keys() == loaded.state_dict().keys()
    for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    x = torch.rand(7, 12)
    assert torch.equal(model(x), loaded(x))
    for name, array in load_novelty(path).tensors().items():
        np.testing.assert_array_equal(array, getattr(statistics, name))
    again = tmp_path / "again.safetensors"
    header = read_header(path)
    save_oxide_cnn(
        again,
        loaded,
        wavelengths=header["wavelengths"],
        oxides=tuple(header["oxides"]),
        novelty=statistics,
        training={"on": "noise"},
    )
    assert again.read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_header(saved):
    header = read_header(saved[0])
    assert (header["n"], header["bands"], header["oxides"]) == (4, 12, ["FeO", "TiO2"])
    assert header["architecture"] == "lunarray.oxides.OxideCNN"
    assert header["training"] == {"on": "noise"}
    np.testing.assert_allclose(header["wavelengths"], np.linspace(500, 1600, 12), atol=1e-4)


def test_without_novelty(saved, tmp_path):
    path = tmp_path / "plain.safetensors"
    save_oxide_cnn(path, saved[1], wavelengths=range(12), oxides=("FeO", "TiO2"))
    assert load_novelty(path) is None
    load_oxide_cnn(path)


def test_reading_needs_no_torch(saved):
    code = (
        "import sys; from lunarray.oxides.weights import read_header, load_novelty; "
        f"read_header({str(saved[0])!r}); slow = 'numba' in sys.modules; "
        f"load_novelty({str(saved[0])!r}); sys.exit(slow or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def rewrite(path, change):
    """Change the header's description of the model."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    description = json.loads(header["__metadata__"]["lunarray"])
    # A file as an earlier version wrote it: the header's own digest is checked before what it says.
    description.pop("header_digest", None)
    change(description)
    header["__metadata__"]["lunarray"] = json.dumps(description)
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + length :])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-7] + b"\0\1\2\3\4\5\6"), "SHA-256"),
        (lambda p: p.write_bytes(p.read_bytes()[:-40]), "broken"),
        (lambda p: p.write_bytes(b"not weights at all"), "not a safetensors file"),
        (lambda p: p.write_bytes(b""), "not a safetensors file"),
        (lambda p: p.unlink(), "cannot be read"),
        (lambda p: rewrite(p, lambda d: d.update(n=5)), "do not fit"),
        (lambda p: rewrite(p, lambda d: d.update(architecture="other.Net")), "other.Net"),
        (lambda p: rewrite(p, lambda d: d.update(format_version=99)), "version 99"),
        (lambda p: rewrite(p, lambda d: d.pop("oxides")), "lacks oxides"),
        (lambda p: rewrite(p, lambda d: d["wavelengths"].pop()), "11 wavelengths"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(saved, damage, message):
    path = saved[0]
    damage(path)
    with pytest.raises(ModelError, match=message) as caught:
        load_oxide_cnn(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_other_safetensors_are_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(ModelError, match="not a safetensors file of lunarray"):
        read_header(path)


def test_saving_checks_the_names(saved, tmp_path):
    with pytest.raises(ModelError, match="11 wavelengths"):
        save_oxide_cnn(tmp_path / "x", saved[1], wavelengths=range(11), oxides=("FeO", "TiO2"))
    assert not list(tmp_path.glob("x*"))


# ----------------------------------------------------------------------------------------- novelty
def slow_novelty(x, model):
    """Novelty of one spectrum in float64, step by step."""
    b = float(np.mean(x.astype(np.float64)))
    d = x / b - model.mean.astype(np.float64)
    scores_ = [float(d @ c) for c in model.components.astype(np.float64)]
    rest = d - sum(s * c for s, c in zip(scores_, model.components.astype(np.float64), strict=True))
    t = np.sqrt(sum(s**2 / v for s, v in zip(scores_, model.variance, strict=True)))
    q = np.sqrt(np.mean((rest / model.residual_scale) ** 2))
    light = abs(np.log(b) - model.log_brightness[0]) / model.log_brightness[1]
    return max(np.array([t, q, light]) / model.thresholds)


def test_novelty_of_its_own_training_set():
    x = simulate.add_sp_errors(simulate.soils(4000, 5).reflectance, 6).values
    model = fit_novelty(x, quantile=0.99)
    got = novelty(x, model)
    assert got.dtype == np.float32
    assert (got > 1).mean() == pytest.approx(0.01, abs=0.002)
    np.testing.assert_allclose(got[:50], [slow_novelty(s, model) for s in x[:50]], rtol=2e-3)
    np.testing.assert_array_equal(fit_novelty(x, quantile=0.99).components, model.components)


def test_novelty_kernel_is_its_python_and_the_batch_does_not_matter():
    model = load_novelty()
    x = simulate.add_sp_errors(simulate.soils(12, 5).reflectance, 6).values
    centre, half_width = map(float, model.log_brightness)
    statistics = (model.mean, np.ascontiguousarray(model.components.T), model.components)
    statistics += (model.variance, model.residual_scale, centre, np.full(12, half_width))
    slow, fast = np.empty((2, 12, 3), np.float32)
    _distances_of.py_func(x, *statistics, slow)
    _distances_of(x, *statistics, fast)
    np.testing.assert_allclose(fast, slow, rtol=1e-4)
    alone = np.concatenate([novelty(x[i : i + 1], model) for i in range(12)])
    np.testing.assert_array_equal(alone, novelty(x, model))


def strange_spectra() -> dict[str, np.ndarray]:
    nm = WAVELENGTHS_150.astype(np.float64)
    soil = simulate.add_sp_errors(simulate.soils(1, 1).reflectance, 2).values[0].astype(np.float64)
    spiky = soil.copy()
    spiky[60] *= 1.6
    return {
        "vegetation": 0.05
        + 0.4 / (1 + np.exp(-(nm - 715) / 12))
        - 0.12 * np.exp(-(((nm - 1450) / 50) ** 2)),
        "flat and bright": np.full(150, 0.85),
        "water ice": 0.9
        - 0.5 * np.exp(-(((nm - 1500) / 60) ** 2))
        - 0.2 * np.exp(-(((nm - 1250) / 40) ** 2)),
        "inverted": soil.max() + soil.min() - soil,
        "reversed": soil[::-1],
        "spiky": spiky,
        "noise": np.random.default_rng(0).uniform(0.05, 0.2, 150),
        "negative": -soil,
        "zero": np.zeros(150),
        "dark": soil * 1e-3,
    }


@pytest.mark.parametrize("name", strange_spectra())
def test_strange_spectra_are_novel(name):
    spectrum = strange_spectra()[name].astype(np.float32)[None]
    assert novelty(spectrum, load_novelty())[0] > 1.2


def test_novelty_of_nothing():
    model = load_novelty()
    x = np.full((3, 150), 0.1, np.float32)
    x[0, 7] = np.nan
    x[1] = 0
    got = novelty(x, model)
    assert np.isnan(got[0])
    assert got[1] == MAX_NOVELTY
    assert np.isfinite(got[2])
    assert novelty(np.empty((0, 150), np.float32), model).shape == (0,)


# ---------------------------------------------------------------------------------------- training
def linear_problem(samples=200, bands=20):
    rng = np.random.default_rng(3)
    x = rng.random((samples, bands)).astype(np.float32)
    y = np.stack([x[:, 3] * 5 + 1, x[:, 10] - x[:, 12]], axis=1).astype(np.float32)
    return x, y


def test_training_learns_and_is_deterministic():
    x, y = linear_problem()
    settings = MinibatchSettings(
        n=4, epochs=60, learning_rate=1e-2, batch_size=40, schedule="one-cycle", seed=5
    )
    losses = []
    state = torch.get_rng_state()
    model = train_network(x, y, settings, progress=lambda epoch, loss: losses.append(loss))
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert losses[-1] < 0.05 < losses[0]
    correlation = [np.corrcoef(y[:, o], predict(model, x)[:, o])[0, 1] for o in range(2)]
    assert (np.square(correlation) > 0.95).all()
    again = train_network(x, y, settings)
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    other = train_network(x, y, MinibatchSettings(n=4, epochs=1, seed=6))
    assert not torch.equal(other.head.weight, again.head.weight)


def test_full_batch_is_the_default_and_augmentation_is_used():
    x, y = linear_problem(50)
    calls = []

    def augment(spectra, rng):
        calls.append(spectra.shape)
        return spectra + rng.normal(0, 0.01, spectra.shape)

    train_network(x, y, MinibatchSettings(n=2, epochs=3), augment=augment)
    assert calls == [(50, 20)] * 3


@pytest.mark.parametrize(
    ("x", "y", "settings"),
    [
        (np.full((4, 9), np.nan), np.ones((4, 1)), {}),
        (np.ones((4, 9)), np.ones((3, 1)), {}),
        (np.ones((1, 9)), np.ones((1, 1)), {}),
        (np.ones((4, 9)), np.ones((4, 1)), {"schedule": "fast"}),
    ],
)
def test_training_input_errors(x, y, settings):
    with pytest.raises(InputError):
        train_network(x, y, MinibatchSettings(n=2, epochs=1, **settings))


# ------------------------------------------------------------------------------- the default model
def card() -> str:
    return DEFAULT_WEIGHTS.with_suffix(".md").read_text(encoding="utf-8")


def stated(light: str, measure: str) -> np.ndarray:
    row = re.search(rf"\| {re.escape(light)} \| {re.escape(measure)} \|(.*)\|", card())
    return np.array([float(v) for v in row.group(1).split("|")])


def test_default_file():
    assert DEFAULT_WEIGHTS.stat().st_size <= 1_000_000
    header = read_header(DEFAULT_WEIGHTS)
    assert (header["n"], header["bands"], tuple(header["oxides"])) == (32, 150, OXIDES)
    np.testing.assert_allclose(header["wavelengths"], WAVELENGTHS_150, atol=1e-3)
    assert "simulations only" in card()


@pytest.fixture(scope="module")
def held_out():
    """Soils that nothing was trained on, as SP sees them in known light, and their oxides."""
    soils = simulate.soils(1500, 424242)
    spectra = simulate.add_sp_errors(soils.reflectance, 434343)
    return spectra.rename(sample="observation"), np.stack([soils[o].values for o in OXIDES], axis=1)


def gained(spectra, sigma, seed):
    gain = np.exp(sigma * np.random.default_rng(seed).standard_normal(spectra.sizes["observation"]))
    return spectra * gain[:, None].astype(np.float32)


@pytest.mark.parametrize(
    ("light", "least", "most"),
    [(0.0, 1.0, 1.75), (0.1, 1.3, 2.2), (0.5, 2.5, 3.8), (1.0, 3.0, 4.5)],
)
def test_default_model_knows_how_well_it_knows_the_light(held_out, light, least, most):
    """Errors in each class of light, and what the intervals hold; `most` is what is promised, with sampling error."""
    spectra, truth = held_out
    maps = invert_oxides(gained(spectra, light, 7), uncertainty=True, light_uncertainty=light)
    error = np.stack([maps[o].values for o in OXIDES], axis=1) - truth
    assert least < np.sqrt(np.mean(error[:, 0] ** 2)) < most
    assert (np.sqrt((error**2).mean(axis=0)) < truth.std(axis=0)).all()
    for index, oxide in enumerate(OXIDES):
        low, high = maps[f"{oxide}_lower"].values, maps[f"{oxide}_upper"].values
        held = np.mean((low <= truth[:, index]) & (truth[:, index] <= high))
        assert 0.86 <= held <= 0.96, (oxide, held)
    # A grey shade is not novel where the light is unknown.
    assert (maps.novelty < 1).mean() > 0.98


def test_default_model_is_as_its_card_says(held_out):
    spectra, truth = held_out
    maps = invert_oxides(spectra, light_uncertainty=0.0)
    rmse = [
        np.sqrt(np.mean((maps[o].values - t) ** 2)) for o, t in zip(OXIDES, truth.T, strict=True)
    ]
    # The card's spectra have a ripple more; sampling error of an RMSE of 1500 heavy-tailed errors: some per cent.
    np.testing.assert_allclose(rmse, stated("known", "RMSE"), rtol=0.2)


def test_shade_of_unknown_light_changes_nothing(held_out):
    spectra = held_out[0][:50]
    whole, shaded = (
        invert_oxides(spectra * factor, light_uncertainty=1.0, uncertainty=True)
        for factor in (1.0, 0.3)
    )
    for name in (*OXIDES, "FeO_lower", "SiO2_upper"):
        np.testing.assert_allclose(shaded[name], whole[name], atol=2e-3)
    bright, dark = (invert_oxides(spectra * f, light_uncertainty=0.0).FeO for f in (1.0, 0.6))
    assert (dark - bright).mean() > 3  # where it is known, brightness counts


def test_light_beside_the_spectra_is_taken(held_out):
    spectra = held_out[0][:40]
    low = spectra.assign_coords(incidence=("observation", np.linspace(20, 84, 40)))
    maps = invert_oxides(low, uncertainty=True)
    assert maps.FeO_std[-1] > 1.5 * maps.FeO_std[0]
    by_hand = invert_oxides(spectra, light_uncertainty=light_uncertainty(low), uncertainty=True)
    for name in maps.data_vars:
        np.testing.assert_array_equal(maps[name], by_hand[name])
    given = low.assign_coords(light_uncertainty=("observation", np.full(40, 0.05, np.float32)))
    np.testing.assert_array_equal(
        invert_oxides(given).FeO, invert_oxides(spectra, light_uncertainty=0.05).FeO
    )
    nothing = invert_oxides(spectra)
    np.testing.assert_array_equal(nothing.FeO, invert_oxides(spectra, light_uncertainty=0.5).FeO)
    shadowed = given.assign_coords(
        light_quality=("observation", np.r_[np.uint8([1, 2, 4]), np.zeros(37, np.uint8)])
    )
    assert list(invert_oxides(shadowed).quality.values[:4] & 0b11100000) == [32, 64, 128, 0]
    with pytest.raises(InputError, match="light_uncertainty"):
        invert_oxides(spectra, light_uncertainty=-0.1)
    with pytest.raises(InputError, match="light_uncertainty on"):
        invert_oxides(spectra, light_uncertainty=light_uncertainty(low)[:5])


def test_light_network_as_torch_and_compiled(held_out):
    pixels = np.c_[held_out[0].values[:60], np.linspace(0, 1.2, 60)].astype(np.float32)
    network = load_oxide_cnn()
    predictor = load_with_errors(DEFAULT_WEIGHTS, "cpu")
    np.testing.assert_allclose(predictor(pixels)[:, :6], predict(network, pixels), atol=1e-3)
    alone = np.concatenate([predictor(pixels[i : i + 1]) for i in range(60)])
    np.testing.assert_array_equal(alone, predictor(pixels))
    assert np.isnan(predictor(-pixels)[:, :6]).all()


def test_recipe_makes_a_model_of_other_bands(tmp_path):
    """Four wide bands, two oxides: what it gives is a model like any other."""
    made = simulate.make_oxide_model(
        [415.0 + 50, 750.0, 900.0, 1000.0],
        [30.0, 10.0, 30.0, 30.0],
        oxides=("FeO", "TiO2"),
        samples=400,
        settings=recipe_settings(epochs=2, n=4),
        held_out=200,
    )
    assert "| known | RMSE |" in made.report
    path = made.save(tmp_path / "four.safetensors")
    soils = simulate.soils(30, 5, made.wavelengths, [30.0, 10.0, 30.0, 30.0])
    maps = invert_oxides(soils.reflectance, path, uncertainty=True)
    assert {"FeO", "TiO2", "FeO_std", "TiO2_upper", "novelty", "quality"} <= set(maps.data_vars)
    assert "Al2O3" not in maps
    assert np.isfinite(maps.FeO).all()
    assert (maps.FeO_std > 0).all()
    for bad in ({"wavelengths": [900.0, 750.0]}, {"wavelengths": [300.0, 750.0]}):
        with pytest.raises(InputError):
            simulate.make_oxide_model(**bad, samples=10)


@pytest.mark.realdata
def test_default_model_on_real_orbits(real_data):
    import lunarray
    from lunarray.sp import condition

    result = {}
    for orbit, path in (
        (name, next((real_data / "sp").glob(f"*{name}*.spc"))) for name in ("02358", "04184")
    ):
        track = condition(lunarray.open_sp(path))
        spectra = track.reflectance.transpose("observation", "wavelength").values
        assert spectra.shape == (38, 150)
        oxides = predict(load_oxide_cnn(), spectra)
        assert np.isfinite(oxides).all()
        assert ((oxides.sum(axis=1) > 95) & (oxides.sum(axis=1) < 105)).all()
        assert (novelty(spectra, load_novelty()) < 1).all()
        result[orbit] = dict(zip(OXIDES, oxides.mean(axis=0), strict=True))
    highland, mare = result["02358"], result["04184"]
    assert mare["FeO"] > highland["FeO"] + 2
    assert mare["TiO2"] > highland["TiO2"]
    assert mare["Al2O3"] < highland["Al2O3"]
    assert highland["FeO"] == pytest.approx(10.1, abs=4)
    assert mare["FeO"] == pytest.approx(13.9, abs=4)


@pytest.mark.realdata
def test_default_model_on_soil_62231(real_data):
    soil = np.loadtxt(real_data / "spectra" / "62231_avg_scaled_std_text.txt", skiprows=1)
    spectrum = np.interp(WAVELENGTHS_150, soil[:, 0], soil[:, 1]).astype(np.float32)[None]
    oxides = dict(zip(OXIDES, predict(load_oxide_cnn(), spectrum)[0], strict=True))
    assert oxides["FeO"] == pytest.approx(5.4, abs=2)
    assert oxides["Al2O3"] == pytest.approx(26.8, abs=3)
    assert novelty(spectrum, load_novelty())[0] < 1
