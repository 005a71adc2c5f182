"""The oxide model as the engine runs it: spectra in, oxides and novelty out, on the CPU or a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from lunarray.oxides.constants import OXIDES
from lunarray.oxides.novelty import novelty
from lunarray.oxides.weights import load_novelty, load_oxide_cnn, read_weights

#: What a predictor returns for a pixel: the oxides in wt%, then the novelty.
OUTPUTS = (*OXIDES, "novelty")


def load_predictor(path: str | os.PathLike[str], device: str) -> Callable[[np.ndarray], np.ndarray]:
    """Load an oxide model for :class:`lunarray.engine.ModelSpec`.

    Parameters
    ----------
    path : path
        Weights written by :func:`lunarray.oxides.save_oxide_cnn`.
    device : {"cpu", "cuda"}
        On the CPU the compiled kernel runs, and torch is not imported.

    Returns
    -------
    callable
        (pixel, band) float32 to (pixel, 7) float32: :data:`OUTPUTS`; novelty is NaN where the file has no statistics.

    Raises
    ------
    ModelError
        If the file is missing, altered, or made for another architecture.
    """
    invert = _on_cpu(path) if device == "cpu" else _on_gpu(path, device)
    statistics = load_novelty(path)

    def predict(pixels: np.ndarray) -> np.ndarray:
        result = np.empty((len(pixels), len(OUTPUTS)), np.float32)
        result[:, :-1] = invert(pixels)
        result[:, -1] = np.nan if statistics is None else novelty(pixels, statistics)
        return result

    return predict


def _on_cpu(path: str | os.PathLike[str]) -> Callable[[np.ndarray], np.ndarray]:
    from lunarray.oxides.kernels import FusedCNN

    return FusedCNN.from_state(read_weights(path)[1])


def _on_gpu(path: str | os.PathLike[str], device: str) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    model = load_oxide_cnn(path).to(device)

    def invert(pixels: np.ndarray) -> np.ndarray:
        # TF32 rounds to 10 bits and would cost more than the 1e-3 wt% that devices may differ by.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return model(torch.from_numpy(pixels).to(device)).cpu().numpy()

    return invert
