"""Training that fills the machine: processes that load ahead, processes that train together, calibration."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lunarray as la
from lunarray import fractures
from lunarray.errors import InputError
from lunarray.fractures.calibration import calibration_error, temperature_of
from lunarray.fractures.company import Company
from lunarray.fractures.loading import batches_of, default_workers


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scenes(count, seed, size=32):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), np.uint8)
    for mask, column in zip(masks, rng.integers(4, size - 4, count), strict=True):
        mask[:, column : column + 3] = 1
    images = (0.06 - 0.02 * masks + rng.normal(0, 0.004, masks.shape)).astype(np.float32)
    images[0, :5] = np.nan
    return images, masks


def noisy(image, mask, valid, rng):
    return image + rng.normal(0, 0.001, image.shape).astype(np.float32), mask, valid


def trained(workers=0, **options):
    torch.manual_seed(0)
    settings = fractures.TrainSettings(
        epochs=2, batch_size=4, learning_rate=1e-3, loss="bce_dice", seed=3
    )
    return fractures.train(
        scenes(9, 0), scenes(5, 1), settings=settings, model=fractures.light(4), augment=noisy,
        device="cpu", progress=False, workers=workers, **options,
    )  # fmt: skip


def test_processes_that_load_change_no_number(tmp_path):
    alone, helped = trained(), trained(workers=2)
    for name in ("loss", "F1"):
        assert np.array_equal(alone.history[name], helped.history[name], equal_nan=True)
    for a, b in zip(alone.network.parameters(), helped.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert default_workers(torch.device("cpu")) == 0
    assert default_workers(torch.device("cuda")) >= 1


def test_loading_reads_lazy_images_in_its_processes(rng):
    import xarray as xr

    values = rng.random((96, 96)).astype(np.float32)
    image = xr.DataArray(values, dims=("y", "x")).chunk(50)
    label = xr.DataArray((values > 0.9).astype(np.uint8), dims=("y", "x")).chunk(40)
    cut = fractures.tiles(image, label, size=32, overlap=0)
    order = [[(True, 0, 0), (True, 0, 1)], [(False, 0, 8)]]
    first, last = batches_of(cut, cut, order, augment=None, seed=0, workers=2)
    assert np.array_equal(first[0][1], values[:32, 32:64])
    assert np.array_equal(last[0][0], values[64:, 64:])


_TOGETHER = """
import sys; sys.path.insert(0, "tests")
import torch; torch.set_num_threads(1)
from test_fracture_loading import trained
fit = trained(checkpoint=sys.argv[1])
import os
if os.environ["RANK"] == "1":
    torch.save({"loss": fit.history.loss.values.tolist(), "state": fit.network.state_dict()}, sys.argv[2])
"""


def test_two_processes_train_as_one(tmp_path):
    """By gloo, as torchrun sets the environment; also with parts of a batch of unlike size."""
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    root = Path(__file__).resolve().parents[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _TOGETHER, tmp_path / "best.safetensors", tmp_path / "found.pt"],
            cwd=root,
            env={
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": "",
                "PYTHONPATH": str(root),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    found, alone = torch.load(tmp_path / "found.pt"), trained()
    assert np.allclose(found["loss"], alone.history.loss.values, rtol=1e-3)
    for name, value in alone.network.state_dict().items():
        assert torch.allclose(found["state"][name].float(), value.float(), atol=2e-3), name
    saved = fractures.load_model(tmp_path / "best.safetensors").network.state_dict()
    assert saved.keys() == alone.network.state_dict().keys()


def test_a_cluster_trains_as_one_process(tmp_path):
    """The workers of `la.cluster` do what torchrun's processes do; what fails there is told here, and nothing waits."""
    alone = trained()
    with la.cluster("local", workers=2):
        fit = trained(checkpoint=tmp_path / "best.safetensors")
        with pytest.raises(InputError, match="a multiple of 8"):
            fractures.train(scenes(4, 0, 30), scenes(4, 1, 30), device="cpu", progress=False)
    assert (tmp_path / "best.safetensors.resume").exists()
    assert np.allclose(fit.history.loss, alone.history.loss, rtol=1e-3)
    for name, value in alone.network.state_dict().items():
        assert torch.allclose(fit.network.state_dict()[name].float(), value.float(), atol=2e-3), (
            name
        )


def test_shares_of_a_batch():
    company = Company()
    assert company.size == 1
    company.rank, company.size = 1, 2
    assert company.share([1, 2, 3, 4, 5]) == [3, 4, 5]
    with pytest.raises(InputError, match="batches of 3 for 2 processes"):
        company.check(3)


def test_temperature_makes_probabilities_true(rng):
    truth = rng.normal(-1, 2, 40_000)
    there = rng.random(truth.size) < 1 / (1 + np.exp(-truth))
    overdone = 3 * truth
    assert temperature_of(overdone, there) == pytest.approx(3, rel=0.03)
    before, after = (calibration_error(1 / (1 + np.exp(-z)), there) for z in (overdone, truth))
    assert before > 0.08
    assert after < 0.01
    assert temperature_of(overdone, np.zeros(truth.size, bool)) == 1
    assert np.isnan(calibration_error([], []))


def test_trained_models_are_calibrated(tmp_path):
    fit = trained()
    assert fit.temperature != 1
    assert fractures.load_model(fit.save(tmp_path / "m.safetensors")).temperature == fit.temperature
    options = {"normalisation": fit.normalisation, "device": "cpu"}
    loss = {
        t: fractures.validate(fit.network, scenes(5, 1), temperature=t, **options)["loss"]
        for t in (0.5 * fit.temperature, fit.temperature, 2 * fit.temperature)
    }
    assert loss[fit.temperature] == min(loss.values())
    scores = fractures.validate(fit.network, scenes(5, 1), **options)
    assert 0 <= scores["calibration_error"] <= 1
