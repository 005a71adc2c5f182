"""The oxide model as the engine runs it: spectra in, oxides and novelty out, on the CPU or a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from lunarray.errors import ModelError
from lunarray.oxides.constants import OXIDES
from lunarray.oxides.light import LightHead, share_of_level, split
from lunarray.oxides.novelty import novelty
from lunarray.oxides.uncertainty import LightCalibration, by_light
from lunarray.oxides.weights import (
    load_calibration,
    load_novelty,
    networks_of,
    read_weights,
    states_of,
)

#: What a predictor of all six returns for a pixel: the oxides in wt%, then the novelty. Of a model of fewer, fewer.
OUTPUTS = (*OXIDES, "novelty")

_Network = Callable[[np.ndarray], np.ndarray]


def load_predictor(path: str | os.PathLike[str], device: str) -> _Network:
    """Load an oxide model for :class:`lunarray.engine.ModelSpec`.

    On the CPU the compiled kernel runs, and torch is not imported. The function takes (pixel, band) float32 to
    (pixel, oxide + 1) float32: the model's oxides, then the novelty, which is NaN where the file has no statistics. A
    model that takes the light's uncertainty has it as one more band, the last.
    """
    header, tensors = read_weights(path)
    if "light" in header:
        full = load_with_errors(path, device)
        return lambda pixels: full(pixels)[:, : len(header["oxides"]) + 1]
    invert = _networks(header, tensors, path, device)
    statistics = load_novelty(path)

    def predict(pixels: np.ndarray) -> np.ndarray:
        result = np.empty((len(pixels), len(header["oxides"]) + 1), np.float32)
        _fill(invert, pixels, result[:, :-1])
        result[:, -1] = np.nan if statistics is None else novelty(pixels, statistics)
        return result

    return predict


def load_with_errors(path: str | os.PathLike[str], device: str) -> _Network:
    """Load a model that takes the light's uncertainty (:class:`lunarray.oxides.model.LightCNN`).

    The function takes (pixel, band + 1) to (pixel, 2 oxides + 2) float32: the oxides, the novelty, the standard
    deviations of the oxides' errors as calibrated, and the light's uncertainty again.
    """
    header, tensors = read_weights(path)
    bands, oxides = header["bands"], len(header["oxides"])
    statistics, calibration = load_novelty(path), load_calibration(path)
    (state,) = states_of(header, tensors)
    if device == "cpu":
        from lunarray.oxides.fused import FusedCNN

        trunk: _Network = FusedCNN.from_state(_within(state, "trunk."))
    else:
        trunk = _on_gpu(networks_of(header, tensors, path)[0].trunk.to(device), device)
    head = LightHead.from_state(state)

    def predict(pixels: np.ndarray) -> np.ndarray:
        light = np.ascontiguousarray(pixels[:, bands], np.float32)
        shapes, level = split(pixels, bands)
        result = np.empty((len(pixels), 2 * oxides + 2), np.float32)
        result[:, :oxides], std = head(trunk(shapes), level, share_of_level(light))
        spectra = pixels[:, :bands]
        result[:, oxides] = np.nan if statistics is None else novelty(spectra, statistics, light)
        for o in range(oxides):
            factor: Any = 1.0
            if isinstance(calibration, LightCalibration):
                factor = by_light(light, calibration.light, calibration.factor[:, o])
            result[:, oxides + 1 + o] = std[:, o] * factor
        result[:, -1] = light
        return result

    return predict


def _within(state: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): a for n, a in state.items() if n.startswith(prefix)}


def load_ensemble(path: str | os.PathLike[str], device: str) -> _Network:
    """Load an oxide model with its ensemble.

    The function gives (pixel, 2 oxides + 1) float32: what that of :func:`load_predictor` gives, and then the standard
    deviation of the members for each oxide, wt%.
    """
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
        oxides = len(header["oxides"])
        result = np.empty((len(pixels), 2 * oxides + 1), np.float32)
        result[:, : oxides + 1] = predictor(pixels)
        one = np.empty((len(pixels), oxides), np.float32)
        mean, square = np.zeros((2, len(pixels), oxides))
        for number, member in enumerate(members, start=1):
            _fill(member, pixels, one)
            # Welford's update, member by member: the members' outputs are never all in memory.
            off = one - mean
            mean += off / number
            square += off * (one - mean)
        result[:, oxides + 1 :] = np.sqrt(square / (count - 1))
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
