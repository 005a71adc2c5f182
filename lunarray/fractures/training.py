"""Training of fracture models on labelled tiles."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.engine import resolve_device
from lunarray.engine.models import Device
from lunarray.engine.progress import step_bar
from lunarray.engine.training import seeded
from lunarray.errors import InputError, ModelError, needs, require_number
from lunarray.fractures.batches import (
    Augment,
    Tiles,
    as_tiles,
    balanced_weight,
    lit_from_left,
    rescaled,
    stacked,
)
from lunarray.fractures.calibration import calibration_error, temperature_of
from lunarray.fractures.company import with_a_cluster
from lunarray.fractures.epochs import (
    THRESHOLD,
    Run,
    Score,
    batch_starts,
    logits_of,
    summary,
)
from lunarray.fractures.lines import line_counts, line_metrics
from lunarray.fractures.loading import default_workers
from lunarray.fractures.losses import loss_of
from lunarray.fractures.model import ARCHITECTURES, architecture_of, build, default_normalisation
from lunarray.fractures.normalise import Normalisation
from lunarray.fractures.settings import TrainSettings
from lunarray.fractures.weights import load_model, save_model

with needs("torch", "training on fractures"):
    import torch
    from torch import nn

#: Pixels of a tile that probabilities are calibrated on.
_CALIBRATED = 4096

__all__ = ["FractureFit", "TrainSettings", "train", "validate"]


@dataclass(frozen=True)
class FractureFit:
    """A trained fracture model, and how it did along the way.

    Attributes
    ----------
    network : Module
        With the weights of the best epoch, on the CPU, in evaluation mode.
    normalisation : Normalisation
        What it was trained with.
    settings : TrainSettings
        How it was trained.
    history : Dataset
        On `epoch`, beginning with 1, and `split` ("training", "validation"): ``loss``; ``precision``, ``recall``,
        ``F1`` and ``IoU`` averaged over tiles as in the paper; the same ``…_pooled`` over all pixels. Those of the
        training are taken as it goes, on augmented tiles. Attribute ``best_epoch``.
    path : Path or None
        Where the best weights were written.
    temperature : float
        What logits are divided by, that probabilities are calibrated on the validation tiles; :meth:`save` writes it.
    """

    network: nn.Module
    normalisation: Normalisation
    settings: TrainSettings
    history: xr.Dataset
    path: Path | None
    temperature: float = 1.0

    @property
    def best_epoch(self) -> int:
        """The epoch, counted from 1, whose validation F1 was highest."""
        return int(self.history.attrs["best_epoch"])

    def save(
        self, path: str | os.PathLike[str], *, overlap: int | None = None, **training: Any
    ) -> Path:
        """Write a weights file for ``map_fractures(model=...)``.

        Parameters
        ----------
        path : path
            File to write.
        overlap : int, optional
            Pixels by which tiles must overlap (:func:`lunarray.fractures.detection.measure_overlap`).
        **training
            What else it shall say about the training; JSON types.

        Returns
        -------
        Path
        """
        return save_model(
            path,
            self.network,
            normalisation=self.normalisation,
            overlap=overlap,
            training={**summary(self.settings, self.history), **training},
            temperature=self.temperature,
        )


@with_a_cluster
def train(
    tiles: Tiles | tuple[np.ndarray, ...],
    validation: Tiles | tuple[np.ndarray, ...],
    *,
    settings: TrainSettings | None = None,
    model: str | os.PathLike[str] | nn.Module = "light",
    normalisation: Normalisation | None = None,
    value_range: tuple[float, float] | None = None,
    augment: Augment | Literal["default"] | None = "default",
    checkpoint: str | os.PathLike[str] | None = None,
    device: Device = "auto",
    mixed_precision: bool | None = None,
    workers: int | None = None,
    progress: bool | None = None,
) -> FractureFit:
    """Train a fracture model; of processes that torchrun started, or in :func:`lunarray.cluster`, all train one.

    Parameters
    ----------
    tiles : sequence of (image, mask, valid), or tuple of arrays
        What to train on, as of :func:`lunarray.fractures.tiles`: image (h, w) float32, NaN without data; mask (h, w)
        uint8, 1 for fracture, 0 for none, 255 without data; valid (h, w) bool. Or arrays (tile, h, w) of these. All of
        one size, a multiple of 8.
    validation : the same
        Other ground, on which the best epoch is chosen.
    settings : TrainSettings, optional
        Loss, learning rate, epochs and so on; the paper's by default. Same seed, same numbers on the same device and
        number of threads.
    model : {"light", "deeplabv3_resnet50", "deeplabv3_resnet101"}, path or Module
        What to train: an architecture with random weights; a file of weights to begin with
        (:func:`lunarray.fractures.load_model`: torchvision's own get a new last layer); or a network, which is
        changed, but on a cluster, where its copies are.
    normalisation : Normalisation, optional
        What brightness is brought to; by default that of the file, or local contrast.
    value_range : (float, float), optional
        Brightness of the tiles for the black and white of a network with a fixed scale, where they do not say theirs.
    augment : callable, "default" or None
        Changes a training tile: ``augment(image, mask, valid, rng)``, where `rng` depends on seed, epoch and tile only.
        "default" is :func:`lunarray.fractures.augmentation.augment`.
    checkpoint : path, optional
        File for the best weights (safetensors), rewritten whenever the validation F1 is higher than before; beside it,
        ending in ``.resume``, the state from which a stopped run goes on to the same numbers. A run that is complete is
        not run again.
    device : {"auto", "cpu", "cuda"}
        Where to train.
    mixed_precision : bool, optional
        Half precision where it does no harm; by default on a GPU.
    workers : int, optional
        Processes that read tiles and change them at random ahead of the network, with the same numbers for any; by
        default one less than there are cores, 8 at most, for a GPU, and none for a CPU.
    progress : bool, optional
        Show a bar with loss and F1; by default where standard error is a terminal.

    Returns
    -------
    FractureFit

    Raises
    ------
    InputError
        If there is no tile or no valid pixel, or tiles have no common size; or nothing tells what brightness they hold
        for a network with a fixed scale.
    ModelError
        If the model cannot be read or does not fit the normalisation.
    StoreConflictError
        If the checkpoint is of another training.

    References
    ----------
    .. [1] Le Corre et al. (2025), doi:10.1029/2025JE009145, section 3.2, whose settings are the defaults.

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> ground = la.simulate.NacSettings(fractures=200.0, melt=1.0)
    >>> scene = la.simulate.nac_scene((128, 128), settings=ground)
    >>> tiles = la.fractures.tiles(scene.dataset["image"], scene.dataset["mask"], size=64, overlap=0.0)
    >>> settings = la.fractures.TrainSettings(epochs=1, batch_size=2)
    >>> network = la.fractures.light(width=4)
    >>> fit = la.fractures.train(tiles, tiles, settings=settings, model=network, device="cpu", progress=False)
    >>> fit.history.sizes["epoch"]
    1
    """
    some, other = as_tiles(tiles, "tiles"), as_tiles(validation, "validation")
    settings, path = _checked(settings, workers, checkpoint)
    if settings.class_weight == "balanced":
        settings = replace(settings, class_weight=balanced_weight(some))
    where = torch.device(resolve_device(device))
    half = where.type == "cuda" if mixed_precision is None else mixed_precision
    network, rule, origin = _begin(model, normalisation, settings.seed)
    some, other = (
        lit_from_left(rescaled(part, value_range, rule, normalisation is not None, name), rule)
        for part, name in ((some, "tiles"), (other, "validation"))
    )
    processes = default_workers(where) if workers is None else workers
    run = Run(network, rule, settings, where, half, _augmentation(augment), some, other, processes)
    stamp = {
        "settings": settings.to_dict(),
        "normalisation": rule.to_json(),
        **({} if value_range is None else {"value_range": list(value_range)}),
        "model": origin,
        "mixed_precision": half,
        "augment": _name_of(augment),
        **_counted(some, other),
    }
    if path is not None:
        run.resume(path, stamp)
    _finish(run, path, stamp, progress)
    best = run.best_network()
    tempered = _temperature(best, other, rule, settings.batch_size)
    return FractureFit(best, rule, settings, run.history(), path, tempered)


def _checked(
    settings: TrainSettings | None,
    workers: int | None,
    checkpoint: str | os.PathLike[str] | None,
) -> tuple[TrainSettings, Path | None]:
    """Settings, and a file that can be written: seen before the training, not after its first epoch."""
    if not isinstance(settings, TrainSettings | None):
        raise InputError(
            f"a {type(settings).__name__}", where="settings", remedy="Give TrainSettings(...)"
        )
    if workers is not None:
        require_number("workers", workers, 0, whole=True)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        if path.is_dir():
            raise InputError("a folder", where=path, remedy="Give the name of a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
    return settings or TrainSettings(), path


def _finish(run: Run, path: Path | None, stamp: dict[str, Any], progress: bool | None) -> None:
    """Pass over the tiles as often as is left to do."""
    epochs = run.settings.epochs
    steps = len(batch_starts(len(run.tiles), run.settings.batch_size))
    with step_bar("training", epochs * steps, width=10, show=progress) as shown:
        bar = shown or (lambda done, state: None)
        bar(run.epoch * steps, "")
        while run.epoch < epochs:
            run.run_epoch(bar)
            if path is not None:
                run.save(path, stamp)
            bar(0, run.latest)


def validate(
    network: nn.Module,
    tiles: Tiles | tuple[np.ndarray, ...],
    *,
    normalisation: Normalisation,
    threshold: float = THRESHOLD,
    tolerance: float = 3.0,
    batch_size: int = 8,
    temperature: float = 1.0,
    device: Device = "auto",
) -> dict[str, float]:
    """Score a network on labelled tiles: its pixels, and its lines.

    Parameters
    ----------
    network : Module
        As of :func:`train` or :func:`lunarray.fractures.load_model`.
    tiles : sequence of (image, mask, valid), or tuple of arrays
        As of :func:`train`.
    normalisation : Normalisation
        What the network was trained with.
    threshold : float
        Probability from which a pixel is a detection.
    tolerance : float
        Pixels by which a line may lie beside the labelled one.
    batch_size : int
        Tiles at once.
    temperature : float
        What logits are divided by before they become probabilities.
    device : {"auto", "cpu", "cuda"}
        Where to run.

    Returns
    -------
    dict of float
        ``precision``, ``recall``, ``F1``, ``IoU`` averaged over tiles as in the paper
        (:func:`lunarray.fractures.metrics.tile_metrics`), and ``…_pooled`` over all pixels; ``clDice`` and
        ``F1_tolerance`` of skeletons, and how many labelled ``lines`` there are, ``lines_found``, ``lines_broken``, and
        ``breaks`` in them (:func:`lunarray.fractures.lines.line_metrics`); ``loss``, the plain binary cross-entropy of
        valid pixels; ``calibration_error``, the expected one of probabilities, in 15 bins.

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> ground = la.simulate.NacSettings(fractures=200.0, melt=1.0)
    >>> scene = la.simulate.nac_scene((128, 128), settings=ground)
    >>> tiles = la.fractures.tiles(scene.dataset["image"], scene.dataset["mask"], size=64, overlap=0.0)
    >>> settings = la.fractures.TrainSettings(epochs=1, batch_size=2)
    >>> network = la.fractures.light(width=4)
    >>> fit = la.fractures.train(tiles, tiles, settings=settings, model=network, device="cpu", progress=False)
    >>> scores = la.fractures.validate(fit.network, tiles, normalisation=fit.normalisation, device="cpu")
    >>> "F1" in scores
    True
    """
    require_number("threshold", threshold, 0, 1, strictly=True)
    require_number("tolerance", tolerance, 0)
    require_number("batch_size", batch_size, 1, whole=True)
    require_number("temperature", temperature, 0, strictly=True)
    for name, value, kind in (
        ("network", network, nn.Module), ("normalisation", normalisation, Normalisation),
    ):  # fmt: skip
        if not isinstance(value, kind):
            raise InputError(
                f"a {type(value).__name__}",
                where=name,
                remedy="Give what train or load_model gives",
            )
    some = rescaled(as_tiles(tiles, "tiles"), None, normalisation, True, "tiles")
    some = lit_from_left(some, normalisation)
    where = torch.device(resolve_device(device))
    network = network.to(where).eval()
    score, lines, said = Score(threshold), [], []
    plain = TrainSettings()
    for start in range(0, len(some), batch_size):
        batch = stacked(some, range(start, min(start + batch_size, len(some))))
        images, masks, valid = (t.to(where) for t in batch)
        with torch.inference_mode():
            logits = logits_of(network, images, valid, normalisation) / temperature
            cost = loss_of(logits, masks, valid, plain)
            said.append(torch.stack([torch.sigmoid(logits), (masks == 1).float()])[:, valid].cpu())
        score.add(logits, batch, float(cost))
        found = (logits >= score.cut).cpu().numpy()
        lines += [
            line_counts(
                *(t.numpy() if torch.is_tensor(t) else t for t in tile), tolerance=tolerance
            )
            for tile in zip(found, batch[1], batch[2], strict=True)
        ]
    off = calibration_error(*torch.cat(said, dim=1).numpy())
    return {**score.values(), **line_metrics(np.stack(lines)), "calibration_error": off}


def _temperature(network: nn.Module, tiles: Tiles, rule: Normalisation, batch_size: int) -> float:
    """By which the network's logits become calibrated probabilities, on tiles that it was not trained on."""
    found, there = [], []
    for start in range(0, len(tiles), batch_size):
        images, masks, valid = stacked(tiles, range(start, min(start + batch_size, len(tiles))))
        with torch.inference_mode():
            logits = logits_of(network, images, valid, rule)
        # Neighbours say the same: of a tile, some thousand pixels are enough.
        step = max(1, valid[0].numel() // _CALIBRATED)
        some = valid.flatten(1)[:, ::step]
        found.append(logits.flatten(1)[:, ::step][some].numpy())
        there.append((masks.flatten(1)[:, ::step] == 1)[some].numpy())
    return temperature_of(np.concatenate(found), np.concatenate(there))


def _counted(*parts: Tiles) -> dict[str, Any]:
    """Numbers and sizes of tiles, that a checkpoint is known by."""
    return {
        "tiles": [len(part) for part in parts],
        "sizes": [list(part[0][0].shape) for part in parts],
    }


def _begin(
    model: str | os.PathLike[str] | nn.Module, rule: Normalisation | None, seed: int
) -> tuple[nn.Module, Normalisation, str]:
    """Network to begin with, its normalisation, and what to call it in a checkpoint."""
    if isinstance(model, nn.Module):
        architecture, _ = architecture_of(model)
        digest = hashlib.sha256()
        for value in model.state_dict().values():
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        chosen = default_normalisation(architecture) if rule is None else rule
        return model, chosen, f"{architecture}:{digest.hexdigest()}"
    if str(model) in ARCHITECTURES:
        architecture = str(model)
        chosen = default_normalisation(architecture) if rule is None else rule
        with seeded(seed):
            network = build(architecture, channels=chosen.channels)
        return network, chosen, architecture
    if not Path(model).exists():
        raise ModelError(
            "neither an architecture nor a file",
            where=model,
            remedy=f"Choose from {', '.join(ARCHITECTURES)}, or give a file of weights",
        )
    loaded = load_model(model, normalisation=rule, seed=seed)
    digest = hashlib.sha256(Path(model).read_bytes())
    return loaded.network, loaded.normalisation, f"{loaded.architecture}:{digest.hexdigest()}"


def _augmentation(augment: Augment | str | None) -> Augment | None:
    if augment is None or callable(augment):
        return augment
    if augment != "default":
        raise InputError(
            f"augment={augment!r}", where="augment", remedy="Give 'default', a function or None"
        )
    from lunarray.fractures.augmentation import augment as default

    return default


def _name_of(augment: Any) -> str | None:
    if augment is None or isinstance(augment, str):
        return augment
    return f"{getattr(augment, '__module__', '')}:{getattr(augment, '__qualname__', type(augment).__name__)}"
