"""Regressions on disk, and as the engine runs them: one safetensors file, as of a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lunarray.engine import ModelSpec
from lunarray.engine.weights import WeightsFormat, peek_header
from lunarray.oxides import uncertainty
from lunarray.oxides.novelty import NoveltyModel, novelty
from lunarray.oxides.regressors import State, predict

FORMAT = WeightsFormat(
    "lunarray.oxides.Regressor",
    "Give a file that the save of a fit with method='gp' or 'pls' wrote",
    key="architecture",
    required=("method", "wavelengths", "oxides", "digest"),
)
LOADER = "lunarray.oxides.regressor_files:load_regressor"
_STATE, _NOVELTY, _CALIBRATION = "state.", "novelty.", "calibration."


def save_regressor(
    path: str | os.PathLike[str],
    method: str,
    state: State,
    *,
    wavelengths: np.ndarray,
    oxides: Sequence[str],
    statistics: NoveltyModel | None,
    calibration: uncertainty.Calibration | None,
    training: dict[str, Any],
) -> Path:
    """Write a regression with all that is needed to use it."""
    tensors = {_STATE + name: value for name, value in state.items()}
    if statistics is not None:
        tensors |= {_NOVELTY + name: value for name, value in statistics.tensors().items()}
    if calibration is not None:
        tensors |= {_CALIBRATION + name: value for name, value in calibration.tensors().items()}
    header = {
        "method": method,
        "wavelengths": [round(float(w), 4) for w in wavelengths],
        "oxides": list(oxides),
        "novelty": statistics is not None,
        "calibration": calibration is not None,
        "training": training,
    }
    return FORMAT.write(path, tensors, header)


def regressor_spec(path: str | os.PathLike[str], device: Any) -> ModelSpec | None:
    """The regression that a file holds, as a model; None where it holds something else."""
    header = peek_header(path)
    if header is None or header.get(FORMAT.key) != FORMAT.name:
        return None
    header = FORMAT.read_header(path)
    errors = [f"{oxide}_std" for oxide in header["oxides"]] if header["calibration"] else []
    return ModelSpec.from_file(
        LOADER,
        path,
        outputs=(*header["oxides"], "novelty", *errors),
        bands=header["wavelengths"],
        device=device,
    )


def load_regressor(path: str | os.PathLike[str], device: str) -> Callable[[np.ndarray], np.ndarray]:
    """Load a regression for :class:`lunarray.engine.ModelSpec`; it runs on the CPU, whatever `device` says.

    The function gives (pixel, output) float32: the oxides, the novelty (NaN where the file has no statistics), and,
    where it has a calibration, the standard deviation of each oxide's error.
    """
    header, tensors = FORMAT.read(Path(path))

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {n.removeprefix(prefix): a for n, a in tensors.items() if n.startswith(prefix)}

    state = part(_STATE)
    statistics = NoveltyModel(**part(_NOVELTY)) if header["novelty"] else None
    calibration = uncertainty.Calibration(**part(_CALIBRATION)) if header["calibration"] else None

    def run(pixels: np.ndarray) -> np.ndarray:
        found = predict(state, pixels)
        far = np.full(len(pixels), np.nan, np.float32)
        if statistics is not None:
            far = novelty(np.ascontiguousarray(pixels, np.float32), statistics)
        columns = [found, far[:, None]]
        if calibration is not None:
            columns.append(uncertainty.scale(found.T, None, calibration).T)
        return np.concatenate(columns, axis=1).astype(np.float32)

    return run
