"""States of networks: plain arrays by the names of `OxideCNN.state_dict`, as trainings and weights files hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lunarray.engine.training import seeded
from lunarray.errors import InputError, needs
from lunarray.oxides.regressors import State, is_regressor, predict

if TYPE_CHECKING:
    from lunarray.oxides.model import OxideCNN
    from lunarray.oxides.settings import MinibatchSettings, TrainSettings


def initial_state(settings: TrainSettings | MinibatchSettings, bands: int, outputs: int) -> State:
    """Weights that the seed gives, with which all trainings begin."""
    from lunarray.oxides.model import OxideCNN

    with seeded(settings.seed):
        model = OxideCNN(settings.n, bands, outputs)
    return {name: value.numpy() for name, value in model.state_dict().items()}


def standardisation(spectra: np.ndarray, targets: np.ndarray) -> State:
    """Mean and standard deviation per band and oxide; a constant one counts as of unit spread."""
    spread = [np.where(s > 0, s, 1) for s in (_std(spectra), _std(targets))]
    return {
        "input_mean": spectra.mean(axis=0, dtype=np.float64).astype(np.float32),
        "input_std": spread[0].astype(np.float32),
        "target_mean": targets.mean(axis=0, dtype=np.float64).astype(np.float32),
        "target_std": spread[1].astype(np.float32),
    }


def _std(values: np.ndarray) -> np.ndarray:
    # A constant has to come out as exactly zero, which rounding in the mean would spoil.
    return np.where(np.ptp(values, axis=0) > 0, values.std(axis=0, dtype=np.float64), 0.0)


def recompute_statistics(state: Mapping[str, np.ndarray], spectra: np.ndarray) -> State:
    """Give a network the batch-normalisation statistics of its own activations on the training spectra.

    Averaged weights give other activations than any of the networks averaged, so the mean of these networks' running
    statistics belongs to no network. As after stochastic weight averaging [1]_, the statistics are taken anew: one
    forward pass over the whole training set, each layer normalised by its own.

    References
    ----------
    .. [1] Izmailov et al. (2018), Averaging weights leads to wider optima and better generalization, UAI, section 3.2.
    """
    with needs("torch", "training on oxides"):
        import torch

    model = network_of(state)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.reset_running_stats()
            module.momentum = None  # the mean over batches, of which there is one
    model.train()
    with torch.no_grad():
        model.forward_standardised(torch.from_numpy(np.ascontiguousarray(spectra, np.float32)))
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def network_of(state: Mapping[str, np.ndarray]) -> OxideCNN:
    """The ``OxideCNN`` of a state, in evaluation mode, without gradients."""
    with needs("torch", "the network of oxides as a torch module"):
        import torch

    from lunarray.oxides.model import OxideCNN

    model = OxideCNN(
        len(state["features.0.0.bias"]), len(state["input_mean"]), len(state["target_mean"])
    )
    model.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
    return model.eval().requires_grad_(False)


def predict_state(state: State, spectra: np.ndarray) -> np.ndarray:
    """Abundances (wt%) by a network, or by the state of a regression, shape (sample, output), float32."""
    from lunarray.oxides.fused import FusedCNN

    if is_regressor(state):
        return predict(state, spectra)

    if len(spectra) == 0:
        return np.empty((0, len(state["target_mean"])), np.float32)
    return FusedCNN.from_state(state)(np.ascontiguousarray(spectra, np.float32))


def finite_rows(array: np.ndarray, name: str) -> np.ndarray:
    """Rows of finite numbers (sample, column) as float32."""
    array = np.ascontiguousarray(array, np.float32)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise InputError(
            f"shape {array.shape}, or values that are not finite",
            where=name,
            remedy="Give a finite array (sample, column)",
        )
    return array
