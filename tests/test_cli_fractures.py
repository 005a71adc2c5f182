"""The commands `lunarray map-fractures` and `lunarray train-fractures`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rioxarray  # noqa: F401
from typer.testing import CliRunner

import lunarray as la
from lunarray.cli import app
from lunarray.fractures import light, save_model
from lunarray.fractures.normalise import RULES
from lunarray.fractures.weights import read_model_header
from lunarray.simulate import NacSettings, nac_scene

SIZE = (64, 96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two overlapping images, the lines on them, a store, and weights."""
    import torch
    from PIL import Image

    folder = tmp_path_factory.mktemp("nac")
    for number in range(2):
        settings = NacSettings(
            fractures=300, melt=1.0, nodata=False, strip_width=None, patterns={"curvilinear": 1.0}
        )
        scene = nac_scene(SIZE, settings=settings, seed=40 + number, origin=(number * 96.0, 0.0))
        scene.dataset["image"].rio.to_raster(folder / f"image{number}.tif")
        scene.lines.to_file(folder / f"lines{number}.gpkg")
    scene.dataset[["image"]].lunar.to_zarr(folder / "scene.zarr")
    other = scene.dataset[["image"]].rename(image="brightness")
    other.lunar.to_zarr(folder / "empty.zarr")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "plain.png")
    torch.manual_seed(1)
    network = light(4)
    # Random weights that detect about half of the pixels.
    torch.nn.init.normal_(network.head.weight, std=0.5)
    save_model(folder / "weights.safetensors", network)
    return folder


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_map_a_mosaic(folder, tmp_path):
    out, vectors, picture = tmp_path / "o.zarr", tmp_path / "v.gpkg", tmp_path / "q.png"
    code, said, _ = run(
        "map-fractures", folder / "image0.tif", folder / "image1.tif", "-o", out, "--model",
        folder / "weights.safetensors", "--vectors", vectors, "--min-area", "10", "--quicklook", picture,
    )  # fmt: skip
    assert code == 0
    store = la.open_zarr(out)
    assert set(store.data_vars) >= {"probability", "mask", "source"}
    # 96 pixels of 1.5 m and another 96 m further right.
    assert store["mask"].shape == (64, 160)
    assert set(np.unique(store["source"].values)) >= {0, 1}
    polygons = gpd.read_file(vectors)
    assert len(polygons) > 0
    assert (polygons["area"] >= 10).all()
    assert vectors.with_suffix(".qml").exists()
    assert picture.stat().st_size > 10_000
    assert "64 × 160 pixels" in said
    assert f"{len(polygons):,} fractures on" in said
    assert "km/km²" in said


@pytest.mark.parametrize("scales", [None, (1, 1 / 3)])
def test_map_equals_the_function(folder, tmp_path, scales):
    out = tmp_path / "o.zarr"
    weights = folder / "weights.safetensors"
    code, *_ = run(
        "map-fractures", folder / "scene.zarr", "-o", out, "--model", weights, "--threshold", "0.6",
        *(("--scales", "1, 1/3") if scales else ()),
    )  # fmt: skip
    assert code == 0
    expected = la.fractures.map_fractures(
        la.open_zarr(folder / "scene.zarr")["image"], weights, 0.6, scales=scales
    )
    found = la.open_zarr(out)
    np.testing.assert_array_equal(found["mask"], expected["mask"])
    assert ("scales 1/1, 1/3" in str(found.attrs)) == (scales is not None)


def test_map_at_another_resolution(folder, tmp_path):
    out = tmp_path / "o.zarr"
    code, *_ = run(
        "map-fractures", folder / "image0.tif", "-o", out, "--model", folder / "weights.safetensors",
        "--resolution", "6",
    )  # fmt: skip
    assert code == 0
    x = la.open_zarr(out)["x"].values
    np.testing.assert_allclose(np.diff(x), 6.0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{none}.tif"], "no such file"),
        (["{folder}/image0.tif", "--vectors", "{folder}/v.txt"], "vectors are not written as .txt"),
        (["{folder}/image0.tif", "--vectors", "{folder}/lines0.gpkg"], "the file exists"),
        (["{folder}/plain.png", "--vectors", "{folder}/new.gpkg"], "no place on the ground"),
        (["{folder}/empty.zarr"], "no variable 'image'"),
        (["{folder}/image0.tif", "--model", "{none}.pt"], "cannot be read"),
        (["{folder}/image0.tif", "--scales", "1,third"], "are no numbers"),
        (["{folder}/image0.tif", "--scales", "1,0.7"], "scales"),
    ],
)
def test_map_faults(folder, tmp_path, arguments, text):
    """One line on standard error, exit code 1, and no store."""
    out = tmp_path / "o.zarr"
    given = [a.format(folder=folder, none=tmp_path / "none") for a in arguments]
    if "--model" not in given:
        given += ["--model", str(folder / "weights.safetensors")]
    code, _, error = run("map-fractures", *given, "-o", out)
    assert code == 1
    assert error.startswith("Error")
    assert text in flat(error)
    assert "Traceback" not in error
    assert not out.exists()


def test_train_on_two_images(folder, tmp_path):
    weights, curves = tmp_path / "w.safetensors", tmp_path / "c.png"
    code, said, _ = run(
        "train-fractures", folder / "image0.tif", folder / "image1.tif", "--lines", folder / "lines0.gpkg",
        "--lines", folder / "lines1.gpkg", "-o", weights, "--size", "32", "--epochs", "1", "--batch-size", "8",
        "--split", "tile", "--class-weight", "balanced", "--curves", curves, "--device", "cpu",
        "--line-loss", "cldice",
    )  # fmt: skip
    assert code == 0
    header = read_model_header(weights)
    assert header["training"]["epochs"] == 1
    assert header["training"]["class_weight"] >= 1
    assert header["training"]["lines"] == "cldice"
    assert curves.stat().st_size > 5000
    assert "tiles to train on" in said
    assert "epoch 1 of 1" in said
    found = la.fractures.map_fractures(la.open_nac(folder / "image0.tif"), weights)
    assert found["mask"].shape == SIZE


def test_training_and_maps_as_json(folder, tmp_path):
    weights, store = tmp_path / "w.safetensors", tmp_path / "f.zarr"

    def told(*words):
        code, said, error = run(*words, "--device", "cpu", "--json")
        assert code == 0, error
        return json.loads(said)

    found = told(
        "train-fractures", folder / "image0.tif", "--lines", folder / "lines0.gpkg", "-o", weights,
        "--size", "32", "--epochs", "1", "--batch-size", "8", "--split", "tile",
    )  # fmt: skip
    assert {"what": "weights", "path": str(weights)} in found["written"]
    found = told("map-fractures", folder / "image0.tif", "-o", store, "--model", weights)
    assert {"what": "store", "path": str(store)} in found["written"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--lines", "{folder}/none.shp"], "none.shp"),
        (["--lines", "{folder}/lines0.gpkg"] * 3, "3 files of lines for 1 images"),
        (["--lines", "{folder}/lines0.gpkg", "--width", "thickness"], "thickness"),
        (["--lines", "{folder}/lines0.gpkg", "--model", "unet"], "unet"),
        (["--lines", "{folder}/lines0.gpkg", "--class-weight", "heavy"], "heavy"),
    ],
)
def test_train_faults(folder, tmp_path, arguments, text):
    weights = tmp_path / "w.safetensors"
    code, _, error = run(
        "train-fractures", folder / "image0.tif", *(a.format(folder=folder) for a in arguments), "-o",
        weights, "--size", "32", "--epochs", "1", "--split", "tile",
    )  # fmt: skip
    assert code == 1
    assert error.startswith("Error")
    assert text in flat(error)
    assert not weights.exists()


def test_help_names_the_card():
    code, said, _ = run("map-fractures", "--help")
    assert code == 0
    assert "simulated scenes only" in flat(said)


def test_the_scale_of_a_network_of_others(folder, tmp_path):
    """Weights that say nothing, trained on 0 to 1: of the image's unit a person tells, or what is black and white."""
    import torch

    weights = tmp_path / "other.pth"
    wide = light(4, 3)
    torch.nn.init.normal_(wide.head.weight, std=0.5)
    torch.save(wide.state_dict(), weights)
    given = ["map-fractures", folder / "image0.tif", "--model", weights, "--trained-on", "0-1"]
    code, _, error = run(*given, "-o", tmp_path / "a.zarr")
    assert code == 1
    assert "nothing tells what the image's numbers are" in flat(error)
    assert "--unit" in error
    code, *_ = run(*given, "-o", tmp_path / "b.zarr", "--unit", "0-1")
    assert code == 0
    code, *_ = run(*given, "-o", tmp_path / "c.zarr", "--value-range", "0", "0.2")
    assert code == 0
    image = la.open_nac(folder / "image0.tif")
    spec = la.fractures.fracture_model(weights, normalisation=RULES["0-1"])
    for name, options in (("b", {}), ("c", {"value_range": (0, 0.2)})):
        expected = la.fractures.map_fractures(
            image.assign_attrs(brightness_unit="0-1"), spec, **options
        )
        np.testing.assert_allclose(
            la.open_zarr(tmp_path / f"{name}.zarr")["probability"],
            expected["probability"],
            atol=1e-5,
        )


def test_a_round_with_a_person(folder, tmp_path):
    """Map, rank, draw, learn, and learn again: rounds are recorded."""
    import geopandas

    weights, store, drawn = folder / "weights.safetensors", tmp_path / "m.zarr", tmp_path / "d.gpkg"
    assert run("map-fractures", folder / "image0.tif", "-o", store, "--model", weights)[0] == 0
    code, said, _ = run("fractures", "doubtful", store, "-o", drawn, "--tile", "32")
    assert code == 0
    assert "6 tiles, doubt from" in said
    code, _, error = run("fractures", "doubtful", store, "-o", drawn)
    assert code == 1
    assert "the file exists" in flat(error)
    lines = geopandas.read_file(folder / "lines0.gpkg")[["width", "geometry"]]
    lines.to_file(drawn, layer="lines", driver="GPKG")
    for begun, round_ in ((weights, 1), (tmp_path / "r1.safetensors", 2)):
        out = tmp_path / f"r{round_}.safetensors"
        code, said, error = run(
            "fractures", "learn", folder / "image0.tif", "--labels", drawn, "-o", out, "--model", begun,
            "--size", "32", "--epochs", "1", "--device", "cpu",
        )  # fmt: skip
        assert code == 0, error
        assert f"Round {round_}" in said
    rounds = read_model_header(tmp_path / "r2.safetensors")["training"]["rounds"]
    assert [r["from"] for r in rounds] == ["weights.safetensors", "r1.safetensors"]
    assert rounds[0]["tiles"] >= 1
