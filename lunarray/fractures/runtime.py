"""Fracture models as the engine runs them: tiles of brightness in, probabilities out.

The light network runs on the CPU by ONNX Runtime: without torch, and with the same numbers whether that is installed or
not. What is larger or other, and whatever runs on a GPU, is torch's (:mod:`lunarray.fractures.predictor`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lunarray.engine.adapters import Sessions, session_options
from lunarray.engine.models import Predictor
from lunarray.errors import ModelError
from lunarray.fractures.light_graph import GRAPH, convolutions
from lunarray.fractures.normalise import Normalisation
from lunarray.fractures.weights import FORMAT, REMEDY, load_model, read_model_header

#: Of batch normalisation, torch's own.
_EPSILON = 1e-5
#: What the graph was made for.
_SIZES = {"width": 24, "channels": 1}


def load_predictor(
    path: str | os.PathLike[str], device: str, normalisation: Normalisation | None = None
) -> Predictor:
    """Load a fracture model for :class:`lunarray.engine.ModelSpec`.

    Parameters
    ----------
    path : path
        What :func:`lunarray.fractures.load_model` reads, with one output or two.
    device : {"cpu", "cuda"}
        Where to run.
    normalisation : Normalisation, optional
        What it was trained on, in place of what the file says.

    Returns
    -------
    callable
        (tile, h, w) float32 brightness, NaN without data, h and w multiples of 32, to probabilities (tile, h, w)
        float32; meaningless where there are no data.

    Raises
    ------
    ModelError
        If the file cannot be read, does not fit, or has other than one or two outputs.
    """
    header = read_model_header(path)
    if device == "cpu" and header is not None and normalisation is None and fits(header):
        try:
            return tempered(_of_graph(folded(FORMAT.read(path)[1])), header.get("temperature", 1.0))
        except ModelError:
            raise
        except Exception as error:  # ONNX Runtime's own have no common base that it shows
            raise ModelError(
                f"the weights do not fit the light network ({error})", where=path, remedy=REMEDY
            ) from error
    loaded = load_model(path, normalisation=normalisation, replace_head=False)
    from lunarray.fractures.predictor import predictor_of

    predict = predictor_of(loaded.network, loaded.normalisation, device)
    return tempered(predict, loaded.temperature)


def tempered(predict: Predictor, temperature: float) -> Predictor:
    """The predictor whose logits are divided by a temperature."""
    if temperature == 1:
        return predict

    def calibrated(tiles: np.ndarray) -> np.ndarray:
        # p^(1/T) against (1 - p)^(1/T) is the logit over T, and finite at 0 and 1.
        found = predict(tiles)
        yes, no = found ** np.float32(1 / temperature), (1 - found) ** np.float32(1 / temperature)
        return yes / (yes + no)

    return calibrated


def fits(header: Mapping[str, Any]) -> bool:
    """Whether the graph is that of a model, by what its file says of itself."""
    return (
        header["architecture"] == "light"
        and header["sizes"] == _SIZES
        # How an image is turned is no matter of the graph.
        and replace(Normalisation.from_json(header["normalisation"]), sun="any") == Normalisation()
    )


def folded(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights as the graph wants them: each batch normalisation within the convolution before it."""
    found = {}
    for name, (conv, norm) in convolutions().items():
        weight = tensors[f"{conv}.weight"].astype(np.float64)
        if norm is None:
            bias = tensors[f"{conv}.bias"].astype(np.float64)
        else:
            scale = tensors[f"{norm}.weight"] / np.sqrt(
                tensors[f"{norm}.running_var"].astype(np.float64) + _EPSILON
            )
            weight = weight * scale[:, None, None, None]
            bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
        found[f"{name}.weight"], found[f"{name}.bias"] = weight, bias
    return {name: np.ascontiguousarray(a, np.float32) for name, a in found.items()}


def _of_graph(weights: Mapping[str, np.ndarray]) -> Predictor:
    import onnxruntime

    graph = GRAPH.read_bytes()
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(a) for a in weights.values()]

    def session(threads: int) -> Any:
        options = session_options(threads)
        options.add_external_initializers(list(weights), values)
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    sessions = Sessions(session)
    sessions.here()  # a graph that cannot be read is better known now

    def predict(tiles: np.ndarray) -> np.ndarray:
        return sessions.here().run(None, {"tiles": np.ascontiguousarray(tiles, np.float32)})[0]

    return predict
