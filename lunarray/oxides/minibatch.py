"""Training of one network in minibatches, with inputs drawn anew each epoch: how the embedded default was made.

Of users' samples, which are few, :func:`lunarray.oxides.train` trains many folds at once, full batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lunarray.engine.models import Device, resolve_device
from lunarray.engine.training import seeded
from lunarray.errors import InputError, needs
from lunarray.oxides.model import LightCNN, OxideCNN
from lunarray.oxides.networks import finite_rows
from lunarray.oxides.settings import MinibatchSettings

with needs("torch", "training on oxides"):
    import torch
    from torch import nn

#: Weight of the errors' likelihood in the loss, beside the oxides' mean square error.
LIKELIHOOD = 0.1

#: Makes one epoch's inputs of the training spectra: (spectra, generator) -> spectra, shape (sample, bands), float32.
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _paired(spectra: np.ndarray, targets: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Spectra, called `name`, and their oxides, checked; InputError if they are no pairs."""
    spectra, targets = finite_rows(spectra, name), finite_rows(targets, "targets")
    if len(targets) != len(spectra) or len(spectra) < 2:
        raise InputError(
            f"{len(spectra)} spectra and {len(targets)} targets",
            where="targets",
            remedy="Give one row of oxides per spectrum, and at least 2",
        )
    return spectra, targets


def train_network(
    spectra: np.ndarray,
    targets: np.ndarray,
    settings: MinibatchSettings | None = None,
    *,
    augment: Augment | None = None,
    device: Device = "auto",
    progress: Callable[[int, float], None] | None = None,
) -> OxideCNN:
    """Train an :class:`OxideCNN` with Adam on the mean square error of standardised oxides.

    `spectra` (sample, bands) float32: reflectance; `targets` (sample, oxide) float32: abundances in wt%; `settings`: by
    default the paper's; `augment`: draws each epoch's version of the spectra, for instance with new measurement errors;
    `device` {"auto", "cpu", "cuda"}: where to train; `progress`: called after each epoch with its number and mean loss.
    Returns on the CPU, in evaluation mode, without gradients.
    """
    settings = settings or MinibatchSettings()
    place = resolve_device(device)
    spectra, targets = _paired(spectra, targets, "spectra")
    samples = len(spectra)
    rng = np.random.default_rng(settings.seed)

    def inputs() -> torch.Tensor:
        drawn = spectra if augment is None else augment(spectra, rng)
        return torch.from_numpy(np.ascontiguousarray(drawn, np.float32)).to(place)

    x = inputs()
    y = torch.from_numpy(targets).to(place)
    with seeded(settings.seed):
        model = OxideCNN(settings.n, spectra.shape[1], targets.shape[1]).to(place)
    # A constant column would divide by zero; it then counts as of unit spread.
    spread = [np.where(s > 0, s, 1.0) for s in (x.cpu().numpy().std(axis=0), targets.std(axis=0))]
    model.set_standardisation(
        x.mean(dim=0), torch.as_tensor(spread[0]), y.mean(dim=0), torch.as_tensor(spread[1])
    )
    standard = (y - model.target_mean) / model.target_std
    batch = min(settings.batch_size or samples, samples)
    # What is left over is spread over the batches: batch normalisation wants no batch of one.
    steps = samples // batch
    optimiser, schedule = _optimiser(model, settings, steps)
    loss_of = nn.MSELoss()
    model.train()
    for epoch in range(settings.epochs):
        if epoch and augment is not None:
            x = inputs()
        total = 0.0
        for chosen in np.array_split(rng.permutation(samples), steps):
            index = torch.from_numpy(chosen).to(place)
            loss = loss_of(model.forward_standardised(x[index]), standard[index])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            if schedule is not None:
                schedule.step()
            total += loss.item()
        if progress is not None:
            progress(epoch + 1, total / steps)
    return model.cpu().eval().requires_grad_(False)


def predict(model: OxideCNN | LightCNN, spectra: np.ndarray, batch_size: int = 512) -> np.ndarray:
    """Abundances in wt% of spectra in memory, or what else a model takes, shape (sample, oxide), float32."""
    spectra = np.ascontiguousarray(spectra, np.float32)
    with torch.inference_mode():
        parts = [
            model(torch.from_numpy(spectra[i : i + batch_size])).numpy()
            for i in range(0, len(spectra), batch_size)
        ]
    return np.concatenate(parts)


def train_light_network(
    targets: np.ndarray,
    settings: MinibatchSettings | None = None,
    *,
    draw: Callable[[np.random.Generator], np.ndarray],
    level: np.ndarray,
    device: Device = "auto",
    progress: Callable[[int, float], None] | None = None,
) -> LightCNN:
    """Train a :class:`LightCNN` on spectra in light that is known more or less.

    Oxides are trained on the mean square error of standardised ones; the standard deviations of their errors, beside
    them, on the likelihood of the errors, which has no part in the oxides themselves.

    `targets` (sample, oxide) float32: abundances in wt%; `draw`: one epoch's inputs, (sample, bands + 1) float32, the
    last the ln-sd of the light; `level` (sample, bands): spectra in known light, whose statistics standardise. The rest
    is as of :func:`train_network`.
    """
    settings = settings or MinibatchSettings()
    place = resolve_device(device)
    level, targets = _paired(level, targets, "level")
    samples = len(targets)
    rng = np.random.default_rng(settings.seed)
    with seeded(settings.seed):
        model = LightCNN(settings.n, level.shape[1], targets.shape[1]).to(place)
    y = torch.from_numpy(targets).to(place)
    model.set_standardisation(torch.from_numpy(level).to(place), y)
    standard = (y - model.target_mean) / model.target_std
    batch = min(settings.batch_size or samples, samples)
    steps = samples // batch
    optimiser, schedule = _optimiser(model, settings, steps)
    model.train()
    for epoch in range(settings.epochs):
        x = torch.from_numpy(np.ascontiguousarray(draw(rng), np.float32)).to(place)
        total = 0.0
        for chosen in np.array_split(rng.permutation(samples), steps):
            index = torch.from_numpy(chosen).to(place)
            with torch.autocast(place, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                found, log_std = (a.float() for a in model.forward_standardised(x[index]))
            error = (found - standard[index]) ** 2
            mean = error.mean()
            likelihood = (log_std + 0.5 * error.detach() * torch.exp(-2 * log_std)).mean()
            optimiser.zero_grad(set_to_none=True)
            (mean + LIKELIHOOD * likelihood).backward()
            optimiser.step()
            if schedule is not None:
                schedule.step()
            total += mean.item()
        if progress is not None:
            progress(epoch + 1, total / steps)
    return model.cpu().eval().requires_grad_(False)


def _optimiser(model: nn.Module, settings: MinibatchSettings, steps: int) -> tuple[Any, Any]:
    """Adam, and the course of its rate where it has one."""
    optimiser = torch.optim.Adam(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    if settings.schedule != "one-cycle":
        return optimiser, None
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.epochs * steps, pct_start=0.15
    )
