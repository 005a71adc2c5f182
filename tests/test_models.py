"""Models of others: networks and regressors of a user, in ten lines, and those that installed packages bring."""

from __future__ import annotations

import ast
import inspect
import json
import pickle
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import xarray as xr
from dask.base import tokenize

import lunarray as la
from lunarray.engine import ModelSpec, available_models, from_onnx, from_sklearn, from_torch
from lunarray.engine.models import Maps, Spectra, Tiles
from lunarray.engine.registry import GROUP
from lunarray.errors import (
    BandMismatchError,
    InputError,
    LunarrayWarning,
    MissingDependencyError,
    ModelError,
)

WAVES = (600.0, 750.0, 950.0, 1000.0)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNARRAY_MODELS", str(tmp_path / "models"))


@pytest.fixture
def spectra():
    values = np.random.default_rng(1).uniform(0.05, 0.3, (4, 5, 6)).astype(np.float32)
    values[2, 1, 1] = np.nan
    return xr.DataArray(values, {"wavelength": list(WAVES)}, ("wavelength", "y", "x"))


@pytest.fixture
def image():
    values = np.random.default_rng(2).uniform(0, 255, (96, 120)).astype(np.float32)
    values[40:44, 50:60] = np.nan
    return xr.DataArray(values, dims=("y", "x"))


def onnx_dense(path, weight, bias, batch="n", **said):
    """Write a graph of one dense layer: (batch, band) to (batch, output)."""
    onnx = pytest.importorskip("onnx", reason="lunarray[test] brings onnx")
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, weight.shape[1]])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    if said:
        helper.set_model_props(model, {"lunarray": json.dumps(said)})
    onnx.save(model, path)
    return path


def onnx_dark(path, side="s", channels=1):
    """Write a graph of images: the logit of a pixel falls with its brightness."""
    onnx = pytest.importorskip("onnx", reason="lunarray[test] brings onnx")
    from onnx import TensorProto, helper, numpy_helper

    shape = ["n", channels, side, side]
    weight = np.full((1, channels, 1, 1), -8.0 / channels, np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        "dark",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, side, side])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32([4.0]), "b")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def lines_of(function) -> int:
    """Statements of a user's script: lines that are neither empty nor comment nor docstring."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    body = tree.body[0].body
    first = body[1:] if isinstance(body[0], ast.Expr) else body
    return len({line for node in first for line in range(node.lineno, node.end_lineno + 1)})


# --- Ten lines ------------------------------------------------------------------------------------


def torch_oxides(spectra):
    """A torch module for oxides."""
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    model = la.engine.from_torch(
        network, wavelengths=(600, 750, 950, 1000), outputs=("FeO", "TiO2")
    )
    return spectra.lunar.invert_oxides(model)


def sklearn_oxides(spectra):
    """A regressor of scikit-learn for oxides."""
    from sklearn.linear_model import LinearRegression

    x = np.random.default_rng(0).uniform(0.05, 0.3, (40, 4))
    fitted = LinearRegression().fit(x, np.stack([20 - 50 * x[:, 1], 9 * x[:, 2]], axis=1))
    model = la.engine.from_sklearn(
        fitted, wavelengths=(600, 750, 950, 1000), outputs=("FeO", "TiO2")
    )
    return spectra.lunar.invert_oxides(model)


def onnx_oxides(spectra, path):
    """An ONNX file for oxides."""
    model = la.engine.from_onnx(
        path, wavelengths=(600, 750, 950, 1000), outputs={"FeO": "wt%", "slope": "1/um"}
    )
    return spectra.lunar.invert_oxides(model)


def torch_fractures(image):
    """A torch module for fractures."""
    import torch

    from lunarray.engine.models import Tiles

    network = torch.nn.Conv2d(3, 1, 3, padding=1)
    torch.nn.init.constant_(network.weight, -0.1)
    rule = Tiles(value_range=(0, 255), mean=(0.4,) * 3, std=(0.2,) * 3, gives="logit", overlap=32)
    model = la.engine.from_torch(network, inputs=rule, outputs=("probability",))
    return image.lunar.map_fractures(model, tile=128)


def onnx_fractures(image, path):
    """An ONNX file for fractures."""
    from lunarray.engine.models import Tiles

    rule = Tiles(value_range=(0, 255), gives="logit", overlap=0)
    model = la.engine.from_onnx(path, inputs=rule, outputs=("probability",))
    return image.lunar.map_fractures(model, tile=64)


@pytest.mark.parametrize(
    "script", [torch_oxides, sklearn_oxides, onnx_oxides, torch_fractures, onnx_fractures]
)
def test_ten_lines_suffice(script):
    assert lines_of(script) <= 10


def same_lazily(run, given, chunks):
    """A script gives the same for chunks, on threads."""
    whole = run(given)
    lazy = run(given.chunk(chunks))
    assert all(dask.is_dask_collection(v.data) for v in lazy.data_vars.values())
    xr.testing.assert_allclose(lazy.compute(scheduler="threads"), whole, rtol=1e-5, atol=1e-6)
    return whole


def test_a_torch_module_for_oxides(spectra):
    torch = pytest.importorskip("torch", reason="lunarray[torch] is not installed")
    maps = same_lazily(torch_oxides, spectra, {"x": 4})
    assert list(maps.data_vars) == ["FeO", "TiO2", "quality"]
    assert np.isnan(maps.FeO.values[1, 1])
    assert maps.quality.values[1, 1] == 1
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    with torch.no_grad():
        expected = network(torch.from_numpy(spectra.values.reshape(4, -1).T.copy())).numpy()
    good = np.isfinite(spectra.values).all(0).ravel()
    np.testing.assert_allclose(maps.TiO2.values.ravel()[good], expected[good, 1], atol=1e-6)


def test_a_regressor_for_oxides(spectra):
    pytest.importorskip("sklearn", reason="lunarray[learn] is not installed")
    maps = same_lazily(sklearn_oxides, spectra, {"y": 2})
    good = spectra.notnull().all("wavelength")
    np.testing.assert_allclose(maps.FeO, 20 - 50 * spectra[1].where(good), rtol=1e-4)
    np.testing.assert_allclose(maps.TiO2, 9 * spectra[2].where(good), rtol=1e-4)
    assert maps.FeO.attrs["units"] == "percent"


@pytest.mark.parametrize("batch", ["n", 7])
def test_an_onnx_file_for_oxides(spectra, tmp_path, batch):
    """Of any batch, or of one size only."""
    weight = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    path = onnx_dense(tmp_path / "mine.onnx", weight, np.float32([1.0, -2.0]), batch)
    maps = same_lazily(lambda s: onnx_oxides(s, path), spectra, {"x": 4})
    expected = np.tensordot(weight, spectra.values, (0, 0)) + np.float32([1, -2])[:, None, None]
    np.testing.assert_allclose(maps.FeO, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(maps.slope, expected[1], rtol=1e-5, atol=1e-6)
    assert maps.slope.attrs["units"] == "1/um"
    # A slope is no abundance: that it is negative is no fault.
    low = (maps.FeO < -0.5).values
    assert np.array_equal((maps.quality.values & 8) > 0, low)


def test_a_torch_module_for_fractures(image):
    torch = pytest.importorskip("torch", reason="lunarray[torch] is not installed")
    torch.manual_seed(0)
    whole = torch_fractures(image)
    torch.manual_seed(0)
    lazy = torch_fractures(image.chunk(x=50))
    xr.testing.assert_allclose(lazy.compute(), whole, atol=1e-6)
    assert np.array_equal(np.isnan(whole.probability), np.isnan(image))
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 1, 3, padding=1)
    torch.nn.init.constant_(network.weight, -0.1)
    seen = np.where(np.isnan(image), 0, (image.values / 255 - 0.4) / 0.2).astype(np.float32)
    with torch.no_grad():
        logit = network(torch.from_numpy(np.stack([seen] * 3))[None])[0, 0].numpy()
    inner = (slice(8, 80), slice(8, 90))
    expected = 1 / (1 + np.exp(-logit[inner]))
    good = np.isfinite(image.values[inner])
    np.testing.assert_allclose(whole.probability.values[inner][good], expected[good], atol=1e-5)


def test_an_onnx_file_for_fractures(image, tmp_path):
    path = onnx_dark(tmp_path / "dark.onnx")
    found = same_lazily(lambda i: onnx_fractures(i, path), image, {"y": 40})
    expected = 1 / (1 + np.exp(8 * image / 255 - 4))
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)
    assert np.array_equal(found.mask == 1, image <= 127.5)
    scaled = (image / 255 * 0.1).lunar.map_fractures(
        from_onnx(path, inputs=Tiles(value_range=(0, 255), gives="logit"), outputs="p"),
        tile=64,
        value_range=(0, 0.1),
    )
    np.testing.assert_allclose(scaled.probability, expected, atol=1e-5)


def test_a_graph_of_one_size_says_its_tile(image, tmp_path):
    path = onnx_dark(tmp_path / "fixed.onnx", side=64)
    model = from_onnx(path, inputs=Tiles(value_range=(0, 255), gives="logit"), outputs="p")
    assert model.inputs.tile == 64
    found = image.lunar.map_fractures(model, overlap=0)
    assert "tiles of 64" in found.attrs["history"]
    with pytest.raises(InputError, match="tiles of 128 pixels for a model of tiles of 64"):
        image.lunar.map_fractures(model, tile=128)


# --- What travels ---------------------------------------------------------------------------------


def test_equal_objects_are_one_model(spectra, tmp_path):
    torch = pytest.importorskip("torch", reason="lunarray[torch] is not installed")

    def made():
        torch.manual_seed(3)
        return torch.nn.Linear(4, 2)

    said = {"wavelengths": WAVES, "outputs": ("FeO", "TiO2")}
    one, two = from_torch(made(), **said), from_torch(made(), **said)
    assert one == two
    assert tokenize(one) == tokenize(two)
    assert len(pickle.dumps(one)) < 1000
    torch.manual_seed(4)
    assert tokenize(from_torch(torch.nn.Linear(4, 2), **said)) != tokenize(one)
    elsewhere = from_torch(made(), folder=tmp_path / "elsewhere", **said)
    assert tokenize(elsewhere) == tokenize(one)
    assert spectra.chunk(x=2).lunar.invert_oxides(one).FeO.data.name == (
        spectra.chunk(x=2).lunar.invert_oxides(elsewhere).FeO.data.name
    )


def test_the_digest_is_that_of_other_processes_too(tmp_path):
    pytest.importorskip("torch", reason="lunarray[torch] is not installed")
    script = (
        "import torch, lunarray as la; torch.manual_seed(3)\n"
        "model = la.engine.from_torch(torch.nn.Linear(4, 2), outputs=('FeO', 'TiO2'))\n"
        "print(model.sha256)"
    )
    found = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }  # fmt: skip
    assert len(found) == 1


def test_what_is_in_a_session_runs_on_workers_in_other_processes(spectra):
    """An object whose class no worker can import."""

    class Mine:
        inputs = Spectra(WAVES)
        outputs = ("FeO",)

        def __init__(self, factor):
            self.factor = factor

        def load(self, device):
            return lambda pixels: self.factor * pixels[:, :1]

    from distributed import Client, LocalCluster

    expected = Mine(7.0)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as own,
        Client(own),
    ):  # fmt: skip
        maps = spectra.chunk(x=3).lunar.invert_oxides(expected).compute()
    np.testing.assert_allclose(maps.FeO, 7 * spectra[0].where(spectra.notnull().all("wavelength")))
    assert list(maps.data_vars) == ["FeO", "quality"]


def test_a_changed_file_is_refused(spectra):
    model = from_sklearn(_Doubling(), wavelengths=WAVES, outputs=("FeO",))
    with open(model.weights, "ab") as file:
        file.write(b"more")
    from lunarray.engine import models

    models._loaded.clear()
    with pytest.raises(ModelError, match="changed since the model was chosen"):
        spectra.lunar.invert_oxides(model)


class _Doubling:
    """A regressor that is none of scikit-learn's."""

    def predict(self, x, return_std=False):
        return (2 * x[:, 0], 0.1 + 0 * x[:, 0]) if return_std else 2 * x[:, 0]


def test_a_regressor_that_knows_its_errors(spectra):
    model = from_sklearn(_Doubling(), wavelengths=WAVES, outputs={"FeO": "wt%"}, uncertainty=True)
    assert model.uncertain == ("FeO",)
    plain = spectra.lunar.invert_oxides(model)
    assert list(plain.data_vars) == ["FeO", "quality"]
    maps = same_lazily(
        lambda s: s.lunar.invert_oxides(model, uncertainty=True, level=0.9), spectra, {"y": 2}
    )
    assert list(maps.data_vars) == ["FeO", "quality", "FeO_std", "FeO_lower", "FeO_upper"]
    good = np.isfinite(maps.FeO.values)
    np.testing.assert_allclose(maps.FeO_std.values[good], 0.1, rtol=1e-6)
    np.testing.assert_allclose((maps.FeO_upper - maps.FeO).values[good], 0.164485, rtol=1e-4)
    assert maps.FeO_std.attrs["units"] == "percent"


# --- Files ----------------------------------------------------------------------------------------


def test_exported_networks_are_read(spectra, tmp_path):
    torch = pytest.importorskip("torch", reason="lunarray[torch] is not installed")
    network = torch.nn.Linear(4, 2).eval()
    said = {"wavelengths": WAVES, "outputs": ("FeO", "TiO2")}
    expected = spectra.lunar.invert_oxides(from_torch(network, **said))
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(network, (torch.zeros(3, 4),), dynamic_shapes=(batch,))
    torch.export.save(program, tmp_path / "mine.pt2")
    found = spectra.lunar.invert_oxides(from_torch(tmp_path / "mine.pt2", **said))
    xr.testing.assert_allclose(found, expected, atol=1e-6)
    torch.save(network.state_dict(), tmp_path / "state.pt")
    with pytest.raises(ModelError, match="not an exported network"):
        spectra.lunar.invert_oxides(from_torch(tmp_path / "state.pt", **said))


def test_an_onnx_file_that_says_what_it_eats(spectra, tmp_path):
    weight, bias = np.ones((4, 1), np.float32), np.zeros(1, np.float32)
    path = onnx_dense(
        tmp_path / "mine.onnx", weight, bias, outputs={"FeO": "wt%"}, wavelengths=list(WAVES)
    )
    for given in (path, str(path)):
        maps = spectra.lunar.invert_oxides(given)
        np.testing.assert_allclose(maps.FeO, spectra.sum("wavelength", skipna=False), rtol=1e-5)
    with pytest.raises(BandMismatchError):
        spectra[:3].lunar.invert_oxides(path)
    rule = {"mean": [0, 0, 0], "std": [1, 1, 1]}
    tiles = onnx_dense(tmp_path / "t.onnx", weight, bias, outputs=["p"], tiles=rule)
    assert from_onnx(tiles).inputs == Tiles(mean=(0, 0, 0), std=(1, 1, 1), tile=4)
    silent = onnx_dense(tmp_path / "silent.onnx", weight, bias)
    with pytest.raises(ModelError, match=r"does not say what it takes.*from_onnx\("):
        spectra.lunar.invert_oxides(silent)
    odd = onnx_dense(tmp_path / "odd.onnx", weight, bias, outputs=["p"], tiles={"side": 3})
    with pytest.raises(ModelError, match="is not understood"):
        spectra.lunar.invert_oxides(odd)
    with pytest.raises(ModelError, match="from_torch"):
        spectra.lunar.invert_oxides(tmp_path / "mine.pt2")


def test_the_command_takes_a_model_by_name_and_by_file(package, spectra, tmp_path):
    from typer.testing import CliRunner

    from lunarray.cli import app

    cube = tmp_path / "cube.zarr"
    spectra.rename("reflectance").to_dataset().lunar.to_zarr(cube)
    weight, bias = np.ones((4, 1), np.float32), np.zeros(1, np.float32)
    said = {"outputs": ["CaO"], "wavelengths": list(WAVES)}
    path = onnx_dense(tmp_path / "mine.onnx", weight, bias, **said)
    for model, names in (("twice", {"FeO", "TiO2"}), (str(path), {"CaO"})):
        out = tmp_path / f"{len(names)}.zarr"
        done = CliRunner().invoke(
            app, ["invert-oxides", str(cube), "-o", str(out), "--model", model]
        )
        assert done.exit_code == 0, done.output
        assert names < set(la.open_zarr(out).data_vars)
        assert min(names) in done.output


def test_pickles_of_others_are_refused(tmp_path, spectra):
    joblib = pytest.importorskip("joblib", reason="lunarray[learn] is not installed")
    path = tmp_path / "mine.joblib"
    joblib.dump(_Doubling(), path)
    said = {"wavelengths": WAVES, "outputs": ("FeO",)}
    with pytest.raises(ModelError, match=r"can run any code.*trusted=True"):
        from_sklearn(path, **said)
    maps = spectra.lunar.invert_oxides(from_sklearn(path, trusted=True, **said))
    np.testing.assert_allclose(maps.FeO, 2 * spectra[0].where(spectra.notnull().all("wavelength")))
    (tmp_path / "broken.joblib").write_bytes(b"no pickle")
    with pytest.raises(ModelError, match="no regressor can be read"):
        from_sklearn(tmp_path / "broken.joblib", trusted=True, **said)


def test_faults_are_told_when_the_model_is_made(tmp_path):
    pytest.importorskip("sklearn", reason="lunarray[learn] is not installed")
    from sklearn.linear_model import LinearRegression

    fitted = LinearRegression().fit([[0.1, 0.2], [0.2, 0.3], [0.2, 0.5]], [16.0, 8.0, 5.0])
    with pytest.raises(ModelError, match="takes 2 values a pixel and 4 are named"):
        from_sklearn(fitted, wavelengths=WAVES, outputs=("FeO",))
    with pytest.raises(ModelError, match="gives 1 values a pixel and 2 are named"):
        from_sklearn(fitted, wavelengths=WAVES[:2], outputs=("FeO", "TiO2"))
    path = onnx_dense(tmp_path / "mine.onnx", np.ones((4, 2), np.float32), np.zeros(2, np.float32))
    with pytest.raises(ModelError, match="gives 2 values a pixel and 1 are named"):
        from_onnx(path, wavelengths=WAVES, outputs=("FeO",))
    path.write_bytes(b"no graph")
    with pytest.raises(ModelError, match="ONNX Runtime cannot read it"):
        from_onnx(path, wavelengths=WAVES, outputs=("FeO",))
    with pytest.raises(ModelError, match="once"):
        ModelSpec.from_file("a:b", path, outputs=("FeO", "FeO"))
    with pytest.raises(ModelError, match="cannot be pickled"):
        from_sklearn(
            SimpleNamespace(predict=len, rows=(i for i in ())), wavelengths=WAVES, outputs=("FeO",)
        )


def test_a_network_that_fails_is_told_so(spectra, tmp_path):
    weight, bias = np.ones((3, 1), np.float32), np.zeros(1, np.float32)
    path = onnx_dense(tmp_path / "three.onnx", weight, bias)
    with pytest.raises(ModelError, match=r"three\.onnx: the model fails on an array \(\d+, 4\)"):
        spectra.lunar.invert_oxides(from_onnx(path, outputs=("FeO",)))


def test_a_gpu_that_is_asked_for_is_not_replaced_by_the_cpu(tmp_path):
    from lunarray.engine.adapters import load_onnx

    path = onnx_dense(tmp_path / "mine.onnx", np.ones((4, 1), np.float32), np.zeros(1, np.float32))
    said = {"wavelengths": WAVES, "outputs": ("FeO",)}
    options = dict(from_onnx(path, device="cuda", **said).options)
    assert dict(from_onnx(path, device="auto", **said).options) == {}
    with pytest.raises(MissingDependencyError, match="onnxruntime-gpu"):
        load_onnx(path, "cpu", **options)
    assert load_onnx(path, "cpu")(np.ones((2, 4), np.float32)).tolist() == [[4.0], [4.0]]


@pytest.mark.parametrize("thing", [3, len, dict])
@pytest.mark.parametrize("make", [from_torch, from_sklearn])
def test_what_is_no_model_is_refused_when_it_is_made_one(make, thing):
    with pytest.raises(ModelError, match=rf"{make.__name__}: .* has no (state_dict|predict)\(\)"):
        make(thing, wavelengths=WAVES, outputs=("FeO",))


@pytest.mark.parametrize(
    ("fitted", "uncertainty", "words"), [(False, False, "not fitted"), (True, True, "return_std")]
)
def test_a_regressor_that_cannot_do_it_is_told_so(fitted, uncertainty, words):
    linear = pytest.importorskip(
        "sklearn.linear_model", reason="lunarray[test] brings scikit-learn"
    )
    regressor = linear.LinearRegression()
    if fitted:
        regressor.fit(np.eye(4), np.arange(4.0))
    with pytest.raises(ModelError, match=words):
        from_sklearn(regressor, wavelengths=WAVES, outputs=("FeO",), uncertainty=uncertainty)


def test_a_torch_network_that_fails_is_told_so(spectra):
    import torch

    network = torch.nn.Linear(3, 1)
    with pytest.raises(ModelError, match=r"the model fails on an array \(\d+, 4\)"):
        spectra.chunk(x=2).lunar.invert_oxides(from_torch(network, outputs=("FeO",))).compute()


def test_a_model_of_something_else_is_refused(spectra, image):
    tiles = from_sklearn(_Doubling(), inputs=Tiles(), outputs=("p",))
    with pytest.raises(ModelError, match="tiles of an image where spectra are given"):
        spectra.lunar.invert_oxides(tiles)
    bands = from_sklearn(_Doubling(), wavelengths=WAVES, outputs=("p",))
    with pytest.raises(ModelError, match="spectra where tiles of an image are given"):
        image.lunar.map_fractures(bands)
    with pytest.raises(ModelError, match="from_sklearn"):
        spectra.lunar.invert_oxides(_Doubling())
    three = from_sklearn(_Doubling(), wavelengths=[w - 40 for w in WAVES[:3]], outputs=("FeO",))
    with pytest.raises(BandMismatchError, match="needs 3 bands"):
        spectra.lunar.invert_oxides(three)
    for names in (("quality",), ("TiO2_std", "FeO"), ("novelty",)):
        odd = ModelSpec("a:b", "w", "0", names, inputs=Maps())
        with pytest.raises(ModelError):
            la.oxides.oxide_model(odd)
        with pytest.raises(ModelError, match="Name its outputs"):
            la.oxides.oxide_model(ModelSpec("a:b", "w", "0", names))


def test_a_network_that_lacks_torch_names_the_extra(spectra, monkeypatch, tmp_path):
    (tmp_path / "mine.pt2").write_bytes(b"")
    model = from_torch(tmp_path / "mine.pt2", wavelengths=WAVES, outputs=("FeO",), device="cpu")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"lunarray\[torch\]"):
        spectra.lunar.invert_oxides(model)


def test_an_image_of_other_pixels_is_told(image):
    here = la.geo.assign_crs(
        image.assign_coords(y=-np.arange(96) * 2.0, x=np.arange(120) * 2.0), "IAU_2015:30110"
    )
    model = from_sklearn(_Bright(), inputs=Tiles(resolution=(0.5, 1.5)), outputs=("p",))
    with pytest.warns(LunarrayWarning, match=r"pixels of 2 m .* 0\.5 to 1\.5 m"):
        here.lunar.map_fractures(model, tile=64)


class _Bright:
    def predict(self, tiles):
        return (tiles > 127).astype(np.float32)


# --- Installed models -----------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package that brings models, as far as Python's metadata go."""
    (tmp_path / "brought.py").write_text(
        "import numpy as np\n"
        "from lunarray.engine.models import Spectra\n"
        "class Twice:\n"
        "    inputs = Spectra((600.0, 750.0, 950.0, 1000.0))\n"
        "    outputs = ('FeO', 'TiO2')\n"
        "    def load(self, device):\n"
        "        return lambda pixels: 2 * pixels[:, :2]\n"
        "def make():\n"
        "    return Twice()\n"
    )
    info = tmp_path / "brought-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\ntwice = brought:Twice\nmade = brought:make\nbroken = brought:Absent\n"
        "oxides = brought:Twice\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("brought", None)


def test_a_model_is_found_by_name(package, spectra):
    for name in ("twice", "made"):
        maps = spectra.chunk(x=2).lunar.invert_oxides(name).compute()
        np.testing.assert_allclose(
            maps.TiO2, 2 * spectra[1].where(spectra.notnull().all("wavelength"))
        )
    with pytest.raises(ModelError, match=r"called 'absent'.*fractures, made, oxides, .*twice"):
        spectra.lunar.invert_oxides("absent")


def test_models_are_listed(package):
    with pytest.warns(LunarrayWarning, match="'broken' is left out"):
        found = available_models()
    ours = {name for name in found if name.startswith("oxides-")}
    assert "oxides-mi" in ours
    assert set(found) - ours == {"oxides", "fractures", "twice", "made"}
    # Nobody takes the name of an embedded one.
    assert found["oxides"] == la.oxides.oxide_model()
    assert found["oxides"].inputs.wavelengths == tuple(la.sp.WAVELENGTHS_150)
    assert found["oxides"].outputs[:6] == la.oxides.OXIDES
    assert isinstance(found["fractures"].inputs, Tiles)
    assert found["twice"].outputs == ("FeO", "TiO2")


def test_embedded_models_go_by_name(spectra):
    assert la.oxides.oxide_model("oxides") == la.oxides.oxide_model()
    assert la.fractures.fracture_model("fractures", device="cpu").device == "cpu"
    with pytest.raises(ModelError, match="tiles of an image where spectra"):
        spectra.lunar.invert_oxides("fractures")


class Broken:
    """Of the protocol, and fails when it is used."""

    inputs, outputs = Spectra((750.0, 950.0)), ("FeO",)

    def __init__(self, predictor=None):
        self.predictor = predictor

    def load(self, device):
        return self.predictor if self.predictor is not None else lambda pixels: 1 / 0


@pytest.mark.parametrize("model", [Broken(), Broken(3)])
def test_a_class_of_ones_own_that_fails_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setenv("LUNARRAY_MODELS", str(tmp_path))
    ds = xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), np.full((2, 3, 3), 0.2, "f4"))},
        {"wavelength": [750.0, 950.0]},
    )
    with pytest.raises(ModelError, match=r"Broken: "):
        ds.lunar.invert_oxides(model)
