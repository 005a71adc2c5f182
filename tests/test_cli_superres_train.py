"""The commands that train and predict."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from superres_cases import TINY, bank
from typer.testing import CliRunner

import lunarray as la
from lunarray import superres as sr
from lunarray.cli import app
from lunarray.superres.trained import load_region_model

torch.set_num_threads(1)


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_train_and_predict(tmp_path, rng, monkeypatch):
    grid = sr.GIBGrid((1, 2), (16, 16), (0.0, 0.0, 2.0, 1.0))
    footprints, _ = bank(tmp_path / "gib.zarr", rng, grid)
    sr.populate(tmp_path / "gib.zarr", footprints, progress=False)
    options = ["--models", tmp_path / "models", "--members", 1, "--epochs", 1, "--steps", 1, 1]
    options += ["--neighbours", 6, "--method", "network"]
    text = run("gib", "train", tmp_path / "gib.zarr", *options[:4], code=1)
    assert "--members" in text
    assert "--method network" in text
    text = run("gib", "train", tmp_path / "gib.zarr", *options, "--region", "0,1")
    assert "loss" in text
    assert "models (1)" in text
    text = run("gib", "train", tmp_path / "gib.zarr", *options)
    assert "(0, 0)" in text
    assert "(0, 1)" not in text  # trained already
    text = run("gib", "train", tmp_path / "gib.zarr", *options, "--seed", 1, code=1)
    assert "overwrite" in text
    run("gib", "train", tmp_path / "gib.zarr", *options, "--losses", "paper", "--overwrite")
    trained = load_region_model(tmp_path / "models" / "region_00_00.safetensors")
    assert trained.settings == sr.TrainSettings.paper(epochs=1, steps=(1, 1), k=6)

    command = ["gib", "predict", tmp_path / "gib.zarr", "-m", tmp_path / "models"]
    command += ["-o", tmp_path / "maps.zarr", "--max-distance"]
    text = run(*command, 500, "--geotiff", tmp_path / "tif", "--quicklook", tmp_path / "map.png")
    run(*command, 500)  # the same map is there
    run(*command, 400, code=1)
    assert "Fe, Al, Mg" in text
    assert (tmp_path / "map.png").stat().st_size > 1000
    maps = la.open_zarr(tmp_path / "maps.zarr")
    want = sr.superresolve(
        sr.open_gib(tmp_path / "gib.zarr"), tmp_path / "models", max_distance=5e5
    )
    np.testing.assert_array_equal(maps["abundance"].values, want["abundance"].values)
    assert list((tmp_path / "tif").glob("*.tif"))
    assert TINY.size < 100

    areal = tmp_path / "areal"
    text = run("gib", "train", tmp_path / "gib.zarr", "--models", areal)
    assert "areal.safetensors" in text
    run("gib", "predict", tmp_path / "gib.zarr", "-m", areal, "-o", tmp_path / "areal.zarr")
    assert np.isfinite(la.open_zarr(tmp_path / "areal.zarr")["abundance"].values).any()


def test_what_cannot_be_done_is_said_in_a_line(tmp_path, rng):
    grid = sr.GIBGrid((1, 1), (16, 16), (0.0, 0.0, 1.0, 1.0))
    bank(tmp_path / "gib.zarr", rng, grid)
    text = run("gib", "train", tmp_path / "gib.zarr", "-m", tmp_path / "models", code=1)
    assert "no region holds" in text
    text = run(
        "gib", "predict", tmp_path / "gib.zarr", "-m", tmp_path / "none", "-o", tmp_path / "x.zarr", code=1
    )  # fmt: skip
    assert "no models: there is no such folder" in text
    assert not (tmp_path / "x.zarr").exists()
    text = run("gib", "train", tmp_path / "gib.zarr", "-m", tmp_path, "--region", "0;0", code=1)
    assert "--region" in text


def test_a_plan_counts_what_is_paid_how_often(tmp_path):
    from lunarray.superres.planning import Costs, plan_region

    whole = plan_region(sr.GIBGrid(), sr.TrainSettings.published(), Costs(2.0, 0.5, 0.1, 1 << 20))
    assert (whole.windows, whole.steps) == (78, 152_100)
    assert whole.training == 76_050
    assert whole.graphs == 2 * 78 * 2.0
    assert whole.hours(64, 8) == pytest.approx(8 * whole.seconds / 3600)
    # Without room for graphs each visit builds its own.
    tight = sr.TrainSettings.published(cache=0)
    assert plan_region(sr.GIBGrid(), tight, Costs(2.0, 0.5, 0.1, 1 << 20)).graphs == 78 * 7 * 2.0


def test_measured_costs_are_of_this_machine():
    from lunarray.superres.planning import measure_costs

    costs = measure_costs(4, 3, TINY, device="cpu")
    assert min(costs.graph, costs.step, costs.prediction) > 0
    assert costs.nbytes > 0


def test_results_as_json(tmp_path, rng):
    """What trains, predicts and plans prints JSON and nothing else, with what it found in it."""
    store, models, maps = (tmp_path / name for name in ("gib.zarr", "models", "maps.zarr"))
    footprints, _ = bank(store, rng, sr.GIBGrid((1, 1), (16, 16), (0.0, 0.0, 1.0, 1.0)))
    sr.populate(store, footprints, progress=False)

    def told(*words):
        done = CliRunner().invoke(app, [str(word) for word in (*words, "--json")])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert told("gib", "populate", store)["footprints"] == footprints.sizes["footprint"]
    trained = told("gib", "train", store, "--models", models)
    assert [one["path"] for one in trained["written"]] == [str(models / "areal.safetensors")]
    found = told("gib", "predict", store, "-m", models, "-o", maps)
    assert {"what": "store", "path": str(maps)} in found["written"]
    assert told("gib", "plan", store)["command"] == "gib plan"
