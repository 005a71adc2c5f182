"""Training of oxide models on spectra with known oxides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lunarray.errors import InputError
from lunarray.oxides.model import OxideCNN

#: Makes one epoch's inputs of the training spectra: (spectra, generator) -> spectra, shape (sample, bands), float32.
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. The defaults are those of section 2.4 and table 2 of Bian et al. (2025).

    Attributes
    ----------
    n : int
        Channels of the first convolutional block.
    epochs : int
        Passes over the training set.
    learning_rate : float
        Adam's; the peak where ``schedule`` is "one-cycle".
    weight_decay : float
        Adam's L2 penalty.
    batch_size : int or None
        Spectra per step; None for all at once.
    schedule : {"constant", "one-cycle"}
        Course of the learning rate.
    seed : int
        Of the weights, the order of the spectra, and the augmentation.
    """

    n: int = 32
    epochs: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int | None = None
    schedule: str = "constant"
    seed: int = 0


def _float32(array: np.ndarray, name: str) -> np.ndarray:
    array = np.ascontiguousarray(array, np.float32)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise InputError(
            f"shape {array.shape}, or values that are not finite",
            where=name,
            remedy="give a finite array (sample, column)",
        )
    return array


def train(
    spectra: np.ndarray,
    targets: np.ndarray,
    settings: TrainingSettings | None = None,
    *,
    augment: Augment | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> OxideCNN:
    """Train an :class:`OxideCNN` with Adam on the mean square error of standardised oxides.

    Parameters
    ----------
    spectra : ndarray, shape (sample, bands), float32
        Reflectance.
    targets : ndarray, shape (sample, oxide), float32
        Abundances in wt%.
    settings : TrainingSettings, optional
        The paper's by default.
    augment : callable, optional
        Draws each epoch's version of the spectra, for instance with new measurement errors.
    progress : callable, optional
        Called after each epoch with its number and mean loss.

    Returns
    -------
    OxideCNN
        On the CPU, in evaluation mode, without gradients.

    Raises
    ------
    InputError
        Arrays that do not fit each other, are not finite, or too few for batch normalisation.
    """
    settings = settings or TrainingSettings()
    spectra, targets = _float32(spectra, "spectra"), _float32(targets, "targets")
    samples = len(spectra)
    if len(targets) != samples or samples < 2:
        raise InputError(
            f"{samples} spectra and {len(targets)} targets",
            where="targets",
            remedy="give one row of oxides per spectrum, and at least 2",
        )
    if settings.schedule not in ("constant", "one-cycle"):
        raise InputError(
            f"{settings.schedule!r}", where="schedule", remedy='give "constant" or "one-cycle"'
        )
    rng = np.random.default_rng(settings.seed)

    def inputs() -> torch.Tensor:
        drawn = spectra if augment is None else augment(spectra, rng)
        return torch.from_numpy(np.ascontiguousarray(drawn, np.float32))

    x = inputs()
    y = torch.from_numpy(targets)
    # A generator of its own would not reach the layers' initialisation: fork, so that the caller's random state is
    # untouched.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = OxideCNN(settings.n, spectra.shape[1], targets.shape[1])
    # A constant column would divide by zero; it then counts as of unit spread.
    spread = [np.where(s > 0, s, 1.0) for s in (x.numpy().std(axis=0), targets.std(axis=0))]
    model.set_standardisation(
        x.mean(dim=0), torch.as_tensor(spread[0]), y.mean(dim=0), torch.as_tensor(spread[1])
    )
    standard = (y - model.target_mean) / model.target_std
    optimiser = torch.optim.Adam(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    batch = min(settings.batch_size or samples, samples)
    # What is left over is spread over the batches: batch normalisation wants no batch of one.
    steps = samples // batch
    schedule = None
    if settings.schedule == "one-cycle":
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.learning_rate, total_steps=settings.epochs * steps, pct_start=0.15
        )
    loss_of = nn.MSELoss()
    model.train()
    for epoch in range(settings.epochs):
        if epoch and augment is not None:
            x = inputs()
        total = 0.0
        for chosen in np.array_split(rng.permutation(samples), steps):
            index = torch.from_numpy(chosen)
            loss = loss_of(model.forward_standardised(x[index]), standard[index])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            if schedule is not None:
                schedule.step()
            total += loss.item()
        if progress is not None:
            progress(epoch + 1, total / steps)
    return model.eval().requires_grad_(False)


def predict(model: OxideCNN, spectra: np.ndarray, batch_size: int = 512) -> np.ndarray:
    """Abundances in wt% of spectra in memory, shape (sample, oxide), float32."""
    spectra = np.ascontiguousarray(spectra, np.float32)
    with torch.inference_mode():
        parts = [
            model(torch.from_numpy(spectra[i : i + batch_size])).numpy()
            for i in range(0, len(spectra), batch_size)
        ]
    return np.concatenate(parts)


def scores(measured: np.ndarray, inverted: np.ndarray) -> dict[str, np.ndarray]:
    """Squared correlation, root mean square error and mean absolute error per oxide.

    Parameters
    ----------
    measured, inverted : ndarray, shape (sample, oxide)
        Abundances in wt%.

    Returns
    -------
    dict of ndarray, shape (oxide,)
        ``R2``, ``RMSE``, ``MAE`` and ``bias`` (inverted less measured), wt% but for R2.

    References
    ----------
    Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, equations 2-4.
    """
    y, f = np.asarray(measured, np.float64), np.asarray(inverted, np.float64)
    dy, df = y - y.mean(axis=0), f - f.mean(axis=0)
    return {
        "R2": (dy * df).sum(axis=0) ** 2 / ((dy**2).sum(axis=0) * (df**2).sum(axis=0)),
        "RMSE": np.sqrt(((y - f) ** 2).mean(axis=0)),
        "MAE": np.abs(y - f).mean(axis=0),
        "bias": (f - y).mean(axis=0),
    }
