"""The oxide model as the engine runs it: spectra in, oxides and novelty out, on the CPU or a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from lunarray.errors import ModelError
from lunarray.oxides.constants import OXIDES
from lunarray.oxides.novelty import novelty
from lunarray.oxides.weights import load_novelty, networks_of, read_weights, states_of

#: What a predictor returns for a pixel: the oxides in wt%, then the novelty.
OUTPUTS = (*OXIDES, "novelty")
#: What one with the ensemble returns besides: the standard deviation of its members for each oxide, in wt%.
SPREAD = tuple(f"{oxide}_spread" for oxide in OXIDES)

_Network = Callable[[np.ndarray], np.ndarray]


def load_predictor(path: str | os.PathLike[str], device: str) -> _Network:
    """Load an oxide model for :class:`lunarray.engine.ModelSpec`.

    On the CPU the compiled kernel runs, and torch is not imported. The function takes (pixel, band) float32 to
    (pixel, 7) float32: :data:`OUTPUTS`; novelty is NaN where the file has no statistics.
    """
    header, tensors = read_weights(path)
    invert = _networks(header, tensors, path, device)
    statistics = load_novelty(path)

    def predict(pixels: np.ndarray) -> np.ndarray:
        result = np.empty((len(pixels), len(OUTPUTS)), np.float32)
        _fill(invert, pixels, result[:, :-1])
        result[:, -1] = np.nan if statistics is None else novelty(pixels, statistics)
        return result

    return predict


def load_ensemble(path: str | os.PathLike[str], device: str) -> _Network:
    """Load an oxide model with its ensemble: (pixel, 13) float32, :data:`OUTPUTS` and then :data:`SPREAD`."""
    predictor = load_predictor(path, device)
    header, tensors = read_weights(path)
    count = header.get("members", 0)
    if count < 2:
        raise ModelError(
            f"an ensemble of {count}",
            where=path,
            remedy="Train with folds and members=2 or more",
        )
    members = [_networks(header, tensors, path, device, member) for member in range(count)]

    def predict(pixels: np.ndarray) -> np.ndarray:
        oxides = len(OXIDES)
        result = np.empty((len(pixels), len(OUTPUTS) + oxides), np.float32)
        result[:, : len(OUTPUTS)] = predictor(pixels)
        one = np.empty((len(pixels), oxides), np.float32)
        mean, square = np.zeros((2, len(pixels), oxides))
        for number, member in enumerate(members, start=1):
            _fill(member, pixels, one)
            # Welford's update, member by member: the members' outputs are never all in memory.
            off = one - mean
            mean += off / number
            square += off * (one - mean)
        result[:, len(OUTPUTS) :] = np.sqrt(square / (count - 1))
        return result

    return predict


def _fill(networks: list[_Network], pixels: np.ndarray, out: np.ndarray) -> None:
    """Put the oxides of networks beside each other."""
    at = 0
    for network in networks:
        values = network(pixels)
        out[:, at : at + values.shape[1]] = values
        at += values.shape[1]


def _networks(
    header: dict[str, Any],
    tensors: dict[str, np.ndarray],
    path: str | os.PathLike[str],
    device: str,
    member: int | None = None,
) -> list[_Network]:
    if device == "cpu":
        from lunarray.oxides.fused import FusedCNN

        return [FusedCNN.from_state(state) for state in states_of(header, tensors, member)]
    return [
        _on_gpu(model.to(device), device) for model in networks_of(header, tensors, path, member)
    ]


def _on_gpu(model: Any, device: str) -> _Network:
    import torch

    def invert(pixels: np.ndarray) -> np.ndarray:
        # TF32 rounds to 10 bits and would cost more than the 1e-3 wt% that devices may differ by.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return model(torch.from_numpy(pixels).to(device)).cpu().numpy()

    return invert
