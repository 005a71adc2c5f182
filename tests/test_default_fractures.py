"""The fracture model that comes with lunarray: small, described, better than filters on ground that it has not seen."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import lunarray as la
from lunarray.fractures import classical_fractures, map_fractures, segmentation_metrics
from lunarray.fractures.classical import Canny, Frangi
from lunarray.fractures.weights import DEFAULT_MODEL, read_model_header
from lunarray.simulate import NacSettings, nac_scene

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "train_default_fractures.py"


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return module_of(SCRIPT)


@pytest.fixture(scope="module")
def scene():
    """Ground that is neither the training's nor the card's."""
    settings = NacSettings(fractures=20, melt=0.9, craters=600)
    return nac_scene((512, 512), settings=settings, seed=77_001, incidence=60, azimuth=200).dataset


@pytest.fixture(scope="module")
def found(scene):
    return map_fractures(scene["image"])


def test_weights_are_small_and_say_what_they_are():
    assert DEFAULT_MODEL.stat().st_size <= 8e6
    header = read_model_header(DEFAULT_MODEL)
    assert header is not None
    assert header["architecture"] == "light"
    assert "simulations only" in header["training"]["data"]
    assert header["overlap"] % 32 == 0
    assert 128 <= header["overlap"] <= 256
    assert header["training"]["script"] == "examples/train_default_fractures.py"


def test_card_has_numbers_and_says_what_the_model_is_not():
    card = DEFAULT_MODEL.with_suffix(".md").read_text(encoding="utf-8")
    assert "trained on simulations only" in card
    assert "No real NAC image" in card
    for section in ("training", "held-out", "real"):
        body = re.search(
            rf"<!-- {section}: begin.*?-->(.*?)<!-- {section}: end -->", card, re.DOTALL
        )
        assert body is not None
        assert len(body[1].strip()) > 100, f"section {section} is empty"
    assert f"{read_model_header(DEFAULT_MODEL)['training']['validation']['F1_pooled']:.3f}" in card
    for name in ("light default", "Frangi + threshold", "Canny, closed"):
        rows = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
        assert rows, f"no row of {name}"
        assert all(0 <= float(x) <= 1 for x in rows[0].split("|")[2:-1])


def test_detection_works_out_of_the_box_and_better_than_filters(scene, found):
    f1 = segmentation_metrics(found["mask"], scene["mask"])["F1_pooled"]
    filters = [
        segmentation_metrics(classical_fractures(scene["image"], method), scene["mask"])[
            "F1_pooled"
        ]
        for method in (Frangi(), Canny())
    ]
    assert f1 > 0.45
    assert f1 > max(filters)


def test_brightness_may_be_in_any_unit(scene, found):
    eight_bit = (scene["image"] / 0.15 * 255).astype(np.float32)
    other = map_fractures(eight_bit)["probability"]
    assert float(np.abs(other - found["probability"]).max()) < 0.01


def test_no_data_stay_no_data(scene, found):
    missing = np.isnan(scene["image"].values)
    assert missing.any()
    np.testing.assert_array_equal(found["mask"].values == 255, missing)
    np.testing.assert_array_equal(np.isnan(found["probability"].values), missing)


def test_ground_without_fractures():
    """Craters, boulders and a mosaic's seams are no fractures, or little of the ground."""
    settings = NacSettings(fractures=0, ridges=0, craters=600, strip_width=150)
    ds = nac_scene((384, 384), settings=settings, seed=77_002, incidence=55).dataset
    mask = map_fractures(ds["image"])["mask"].values
    assert (mask == 1).sum() < 0.02 * (mask != 255).sum()


def test_training_and_test_are_apart(script):
    grounds = {part: range(first, first + 1000) for part, first in script.GROUND.items()}
    assert len({n for numbers in grounds.values() for n in numbers}) == 3000
    for number in range(10_000, 10_200):
        incidence = script.training_sun(number)["incidence"]
        assert min(abs(incidence - i) for i in script.TEST_INCIDENCES) >= script.APART
    assert script.conditions(10_000) == script.conditions(10_000) != script.conditions(10_001)


def test_weak_labels_of_the_training(script):
    scene = script.scene_of(10_001, {"incidence": 50.0}, 256, fractures=30.0)
    labels, truth = script.weak(scene), scene.dataset["mask"].values
    np.testing.assert_array_equal(labels == 255, truth == 255)
    both = ((labels == 1) & (truth == 1)).sum()
    assert both > 0.75 * (truth == 1).sum() > 0


def test_changes_of_the_training_move_the_mask_along(script, scene):
    image, mask = scene["image"].values[:64, :96], scene["mask"].values[:64, :96]
    sizes = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        a, b, c = script.vary(image, mask, mask != 255, rng)
        assert a.shape == b.shape == c.shape
        np.testing.assert_array_equal(np.isfinite(a), c)
        sizes.add(a.shape)
    assert sizes == {(64, 96), (96, 64)}


def test_a_small_tuning_from_end_to_end(script, tmp_path, monkeypatch):
    """Two passes of a step over a scene each: weights that want light from the left, and detect."""
    monkeypatch.setitem(sys.modules, "train_default_fractures", script)
    tune = module_of(SCRIPT.with_name("tune_default_fractures.py"))
    monkeypatch.setattr(script, "SCENE", 256)
    monkeypatch.setattr(script, "TILE", 64)
    output = tmp_path / "w.safetensors"
    tune.main(
        [
            "--begin", str(DEFAULT_MODEL), "--output", str(output), "--steps", "1", "1", "--scenes", "1", "2",
            "--overlap", "96", "--threads", "1", "--offset", "0.4",
        ]
    )  # fmt: skip
    loaded = la.fractures.load_model(output)
    assert loaded.normalisation.sun == "left"
    assert loaded.header["training"]["tuned"]["steps"] == [1, 1]
    image = nac_scene((128, 128), seed=5).dataset["image"]
    assert np.isfinite(map_fractures(image, output, tile=96)["probability"]).any()


def test_ridges_are_told_from_fractures_by_the_light(scene):
    """With the sun on the other side what was found is not: it is a ridge."""
    found = map_fractures(scene["image"])["mask"].values == 1
    other = map_fractures(scene["image"], sun_azimuth=20.0)["mask"].values == 1
    truth = scene["mask"].values == 1
    assert found[truth].mean() > 0.6
    assert other[truth].mean() < 0.25 * found[truth].mean()
    ridge = (scene["ridge"].values == 1) & (scene["mask"].values == 0)
    assert found[ridge].mean() < 0.2


def test_a_small_training_from_end_to_end(script, tmp_path):
    """One scene, one epoch: the script writes weights that detect, and takes over those of a stopped training."""
    output, work = tmp_path / "w.safetensors", tmp_path / "work.safetensors"
    script.SCENE, script.TILE = 256, 64
    script.main(
        [
            "--output", str(output), "--scenes", "2", "--validation", "2", "--epochs", "1", "--no-test",
            "--work", str(work), "--batch-size", "8", "--overlap", "96",
        ]
    )  # fmt: skip
    assert read_model_header(output)["training"]["epochs_run"] == 1
    assert read_model_header(output)["overlap"] == 96
    image = nac_scene((64, 64), settings=NacSettings(nodata=False), seed=1).dataset["image"]
    assert map_fractures(image, output)["mask"].shape == (64, 64)
    again = tmp_path / "again.safetensors"
    script.main(
        [
            "--output", str(again), "--no-train", "--adopt", str(work), "--no-test", "--overlap", "96",
            "--validation", "2",
        ]
    )  # fmt: skip
    assert read_model_header(again)["digest"] == read_model_header(output)["digest"]


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["M115143943RE_cal_echo_2_2.png", "M143947267L.cal.echo.crop.cub"])
def test_real_images(real_data, name):
    """They run, unprojected and in 8 bits; what is found there is not judged."""
    image = la.open_nac(real_data / "nac" / name)[:400, :400]
    found = map_fractures(image).compute()
    mask = found["mask"].values
    np.testing.assert_array_equal(mask == 255, np.isnan(image.values))
    assert (mask == 1).mean() < 0.2
