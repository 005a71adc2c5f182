"""Training of fracture models on labelled tiles."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.nn import functional as F

from lunarray.engine import resolve_device
from lunarray.engine.models import Device
from lunarray.engine.progress import step_bar
from lunarray.errors import InputError, ModelError, StoreConflictError
from lunarray.fractures.metrics import NO_DATA, confusion, pixel_metrics, tile_metrics
from lunarray.fractures.model import (
    ARCHITECTURES,
    STRIDE,
    architecture_of,
    build,
    default_normalisation,
)
from lunarray.fractures.normalise import Normalisation, normalise
from lunarray.fractures.weights import load_model, save_model

Loss = Literal["bce", "focal", "bce_dice"]
Schedule = Literal["constant", "cosine"]

#: (image, mask, valid, generator) to the same three, changed.
Augment = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]

#: Probability from which a pixel is a detection in the scores, as in the paper.
THRESHOLD = 0.5
#: Exponent of the focal loss.
_GAMMA = 2.0
#: Share of the epochs in which the cosine schedule warms up.
_WARM_UP = 0.05
#: Weight of "balanced", at most: beyond it, a few pixels outweigh all others.
_MOST_WEIGHT = 50.0
_SCORES = (
    "precision", "recall", "F1", "IoU", "precision_pooled", "recall_pooled", "F1_pooled", "IoU_pooled",
)  # fmt: skip


class Tiles(Protocol):
    """What is trained on: a sequence of (image, mask, valid)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class ArrayTiles:
    """Tiles that are in memory.

    Parameters
    ----------
    images : ndarray, shape (tile, h, w), float32
        NaN where there are no data.
    masks : ndarray, shape (tile, h, w), uint8
        1 for fracture, 0 for none, 255 where there are no data.
    valid : ndarray, shape (tile, h, w), bool, optional
        Where there are data besides.

    Raises
    ------
    InputError
        If the shapes differ.
    """

    images: np.ndarray
    masks: np.ndarray
    valid: np.ndarray | None = None

    def __post_init__(self) -> None:
        shapes = {a.shape for a in (self.images, self.masks, self.valid) if a is not None}
        if len(shapes) != 1 or len(self.images.shape) != 3:
            raise InputError(
                f"arrays of shapes {', '.join(map(str, sorted(shapes)))}",
                where="tiles",
                remedy="Give images, masks (and valid), each (tile, h, w)",
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, mask = self.images[index], self.masks[index]
        valid = np.isfinite(image) & (mask != NO_DATA)
        return image, mask, valid if self.valid is None else valid & self.valid[index]


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. The defaults are the paper's, section 3.2.

    Attributes
    ----------
    epochs : int
        Passes over the training tiles.
    batch_size : int
        Tiles in a step.
    learning_rate : float
        Adam's; the peak where `schedule` is "cosine".
    weight_decay : float
        Decoupled (AdamW), 0 for plain Adam.
    loss : {"bce", "focal", "bce_dice"}
        Binary cross-entropy; the same with well-classified pixels weighted down; or with the Dice loss added, which
        does not see how few pixels are fractures.
    class_weight : float or None
        Weight of fracture pixels in the cross-entropy, that of others being 1.
    schedule : {"constant", "cosine"}
        Course of the learning rate.
    seed : int
        Of the weights, the order of tiles, the augmentation and dropout.
    """

    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    loss: Loss = "bce"
    class_weight: float | None = None
    schedule: Schedule = "constant"
    seed: int = 0


@dataclass(frozen=True)
class FractureFit:
    """A trained fracture model, and how it did along the way.

    Attributes
    ----------
    network : Module
        With the weights of the best epoch, on the CPU, in evaluation mode.
    normalisation : Normalisation
        What it was trained with.
    settings : TrainingSettings
        How it was trained.
    history : Dataset
        On `epoch`, beginning with 1, and `split` ("training", "validation"): ``loss``; ``precision``, ``recall``,
        ``F1`` and ``IoU`` averaged over tiles as in the paper; the same ``…_pooled`` over all pixels. Those of the
        training are taken as it goes, on augmented tiles. Attribute ``best_epoch``.
    path : Path or None
        Where the best weights were written.
    """

    network: nn.Module
    normalisation: Normalisation
    settings: TrainingSettings
    history: xr.Dataset
    path: Path | None

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
            Pixels by which tiles must overlap (:func:`lunarray.fractures.measure_overlap`).
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
            training={**_summary(self.settings, self.history), **training},
        )


def train(
    tiles: Tiles | tuple[np.ndarray, ...],
    validation: Tiles | tuple[np.ndarray, ...],
    *,
    model: str | os.PathLike[str] | nn.Module = "light",
    epochs: int = 100,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.0,
    loss: Loss = "bce",
    class_weight: float | Literal["balanced"] | None = None,
    schedule: Schedule = "constant",
    normalisation: Normalisation | None = None,
    augment: Augment | Literal["default"] | None = "default",
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    device: Device = "auto",
    mixed_precision: bool | None = None,
    progress: bool | None = None,
) -> FractureFit:
    """Train a fracture model.

    Parameters
    ----------
    tiles : sequence of (image, mask, valid), or tuple of arrays
        What to train on, as of :func:`lunarray.fractures.tiles`: image (h, w) float32, NaN without data; mask (h, w)
        uint8, 1 for fracture, 0 for none, 255 without data; valid (h, w) bool. Or arrays (tile, h, w) of these. All of
        one size, a multiple of 8.
    validation : the same
        Other ground, on which the best epoch is chosen.
    model : {"light", "deeplabv3_resnet50", "deeplabv3_resnet101"}, path or Module
        What to train: an architecture with random weights; a file of weights to begin with
        (:func:`lunarray.fractures.load_model`: torchvision's own get a new last layer); or a network, which is
        changed.
    epochs : int
        Passes over `tiles`.
    batch_size : int
        Tiles in a step. The paper has 32 for ResNet50 and 16 for ResNet101.
    learning_rate : float
        Adam's.
    weight_decay : float
        Decoupled weight decay.
    loss : {"bce", "focal", "bce_dice"}
        See :class:`TrainingSettings`. All are taken over valid pixels only.
    class_weight : float or "balanced", optional
        Weight of fracture pixels; "balanced" gives fractures as much weight together as all else, 50 at most. The paper
        has none.
    schedule : {"constant", "cosine"}
        Course of the learning rate: constant as in the paper, or warmed up and then lowered to nothing.
    normalisation : Normalisation, optional
        What brightness is brought to; by default that of the file, or local contrast.
    augment : callable, "default" or None
        Changes a training tile: ``augment(image, mask, valid, rng)``, where `rng` depends on seed, epoch and tile only.
        "default" is :func:`lunarray.fractures.augment`.
    seed : int
        Same seed, same numbers on the same device and number of threads.
    checkpoint : path, optional
        File for the best weights (safetensors), rewritten whenever the validation F1 is higher than before; beside it,
        ending in ``.resume``, the state from which a stopped run goes on to the same numbers. A run that is complete is
        not run again.
    device : {"auto", "cpu", "cuda"}
        Where to train.
    mixed_precision : bool, optional
        Half precision where it does no harm; by default on a GPU.
    progress : bool, optional
        Show a bar with loss and F1; by default where standard error is a terminal.

    Returns
    -------
    FractureFit

    Raises
    ------
    InputError
        If there is no tile or no valid pixel, tiles have no common size, or a setting makes no sense.
    ModelError
        If the model cannot be read or does not fit the normalisation.
    StoreConflictError
        If the checkpoint is of another training.

    References
    ----------
    .. [1] Le Corre et al. (2025), doi:10.1029/2025JE009145, section 3.2, whose settings are the defaults.
    """
    some, other = _tiles(tiles, "tiles"), _tiles(validation, "validation")
    settings = TrainingSettings(
        epochs, batch_size, learning_rate, weight_decay, loss, None, schedule, seed
    )
    _check_settings(settings)
    if class_weight == "balanced":
        settings = replace(settings, class_weight=balanced_weight(some))
    elif class_weight is not None:
        if isinstance(class_weight, str) or not class_weight > 0:
            raise InputError(
                f"class_weight={class_weight!r}",
                where="class_weight",
                remedy="Give a positive number, 'balanced' or None",
            )
        settings = replace(settings, class_weight=float(class_weight))
    where = torch.device(resolve_device(device))
    half = where.type == "cuda" if mixed_precision is None else mixed_precision
    network, rule, origin = _begin(model, normalisation, seed)
    changed = _augmentation(augment)
    run = _Run(network, rule, settings, where, half, changed, some, other)
    stamp = {
        "settings": asdict(settings),
        "normalisation": rule.to_json(),
        "model": origin,
        "mixed_precision": half,
        "augment": _name_of(augment),
        "tiles": [len(some), len(other)],
        "sizes": [list(some[0][0].shape), list(other[0][0].shape)],
    }
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        run.resume(path, stamp)
    steps = len(_starts(len(some), batch_size))
    with step_bar("training", epochs * steps, width=10, show=progress) as shown:
        bar = shown or (lambda done, state: None)
        bar(run.epoch * steps, "")
        while run.epoch < epochs:
            run.run_epoch(bar)
            if path is not None:
                run.save(path, stamp)
            bar(0, run.latest)
    return FractureFit(run.best_network(), rule, settings, run.history(), path)


def validate(
    network: nn.Module,
    tiles: Tiles | tuple[np.ndarray, ...],
    *,
    normalisation: Normalisation,
    threshold: float = THRESHOLD,
    batch_size: int = 8,
    device: Device = "auto",
) -> dict[str, float]:
    """Score a network on labelled tiles.

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
    batch_size : int
        Tiles at once.
    device : {"auto", "cpu", "cuda"}
        Where to run.

    Returns
    -------
    dict of float
        ``precision``, ``recall``, ``F1``, ``IoU`` averaged over tiles as in the paper
        (:func:`lunarray.fractures.metrics.tile_metrics`), and ``…_pooled`` over all pixels; ``loss``, the plain binary
        cross-entropy of valid pixels.
    """
    some = _tiles(tiles, "tiles")
    where = torch.device(resolve_device(device))
    network = network.to(where).eval()
    score = _Score(threshold)
    plain = TrainingSettings()
    for start in range(0, len(some), batch_size):
        images, masks, valid = _batch(some, range(start, min(start + batch_size, len(some))))
        with torch.inference_mode():
            logits = _logits(network, images.to(where), valid.to(where), normalisation)
            cost = loss_of(logits, masks.to(where), valid.to(where), plain)
        score.add(logits, masks, valid, float(cost))
    return score.values()


def loss_of(
    logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, settings: TrainingSettings
) -> torch.Tensor:
    """Loss over valid pixels.

    Parameters
    ----------
    logits : Tensor, shape (batch, h, w)
    masks : Tensor, shape (batch, h, w)
        1 for fracture.
    valid : Tensor of bool, shape (batch, h, w)
        Where there are data and a label.
    settings : TrainingSettings
        Of which `loss` and `class_weight` count.

    Returns
    -------
    Tensor, scalar
        Mean over valid pixels; 0, with zero gradient, where there are none.
    """
    target = (masks == 1).to(logits.dtype)
    weight = valid.to(logits.dtype)
    pixels = weight.sum().clamp_min(1)
    balance = None
    if settings.class_weight is not None:
        balance = torch.tensor(settings.class_weight, dtype=logits.dtype, device=logits.device)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=balance)
    probability = torch.sigmoid(logits)
    if settings.loss == "focal":
        each = each * (target - probability).abs() ** _GAMMA
    value = (each * weight).sum() / pixels
    if settings.loss == "bce_dice":
        # Over the batch: a tile without fractures has no Dice of its own. One pixel each keeps an empty batch defined.
        both = (probability * target * weight).sum()
        either = ((probability + target) * weight).sum()
        value = value + 1 - (2 * both + 1) / (either + 1)
    return value


def balanced_weight(tiles: Tiles) -> float:
    """Weight of fracture pixels that gives them as much weight together as all other valid pixels.

    Parameters
    ----------
    tiles : sequence of (image, mask, valid)
        All are read.

    Returns
    -------
    float
        Between 1 and 50.

    Raises
    ------
    InputError
        If no valid pixel is a fracture.
    """
    there = everything = 0
    for index in range(len(tiles)):
        _, mask, valid = tiles[index]
        good = np.asarray(valid, bool) & (mask != NO_DATA)
        there += int(np.count_nonzero(good & (mask == 1)))
        everything += int(np.count_nonzero(good))
    if there == 0:
        raise InputError(
            "no valid pixel is labelled as a fracture",
            where="tiles",
            remedy="Give tiles with fractures, or class_weight=None",
        )
    return float(np.clip((everything - there) / there, 1, _MOST_WEIGHT))


class _Score:
    """Loss and scores over the batches of an epoch."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        # Compared as logits: no sigmoid of every pixel.
        self.cut = float(np.log(threshold / (1 - threshold))) if 0 < threshold < 1 else 0.0
        self.counts: list[np.ndarray] = []
        self.losses: list[tuple[float, int]] = []

    def add(
        self, logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, loss: float
    ) -> None:
        found = (logits.detach() >= self.cut).cpu().numpy()
        good = valid.cpu().numpy()
        self.counts.append(confusion(found, masks.cpu().numpy(), good))
        self.losses.append((loss, int(np.count_nonzero(good))))

    def values(self) -> dict[str, float]:
        counts = np.concatenate(self.counts)
        losses, pixels = np.array(self.losses).T
        mean = float((losses * pixels).sum() / pixels.sum()) if pixels.sum() else float("nan")
        scores = {**tile_metrics(counts), **pixel_metrics(counts)}
        return {"loss": mean, **{name: float(scores[name]) for name in _SCORES}}


class _Run:
    """A training under way: everything that a resumed one must have again."""

    def __init__(
        self,
        network: nn.Module,
        rule: Normalisation,
        settings: TrainingSettings,
        device: torch.device,
        half: bool,
        augment: Augment | None,
        tiles: Tiles,
        validation: Tiles,
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.requires_grad_(True)
        self.rule, self.settings, self.device, self.half = rule, settings, device, half
        self.augment, self.tiles, self.validation = augment, tiles, validation
        kind = torch.optim.AdamW if settings.weight_decay else torch.optim.Adam
        self.optimiser = kind(
            self.network.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        # bfloat16 needs no scaling of the loss; float16 underflows without.
        self.type = (
            torch.bfloat16
            if device.type == "cpu" or torch.cuda.is_bf16_supported()
            else torch.float16
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=half and self.type is torch.float16)
        self.epoch = 0
        self.records: list[dict[str, dict[str, float]]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.best_epoch = 0
        self.seconds = 0.0

    def run_epoch(self, tell: Callable[[int, str], None]) -> None:
        begin = time.perf_counter()
        training = self._pass_over_training(tell)
        validation = self._pass_over_validation()
        self.records.append({"training": training, "validation": validation})
        self.epoch += 1
        if self.epoch == 1 or _rank(validation["F1"]) > _rank(self._best_score()):
            self.best_epoch = self.epoch
            self.best = {n: v.detach().cpu().clone() for n, v in self.network.state_dict().items()}
        self.seconds += time.perf_counter() - begin

    def _best_score(self) -> float:
        return self.records[self.best_epoch - 1]["validation"]["F1"]

    @property
    def latest(self) -> str:
        loss, score = (self.records[-1]["validation"][name] for name in ("loss", "F1"))
        return (
            f"epoch {self.epoch}: loss {loss:.4f}, F1 {score:.3f} (best {self._best_score():.3f})"
        )

    def _pass_over_training(self, tell: Callable[[int, str], None]) -> dict[str, float]:
        settings = self.settings
        order = np.random.default_rng([settings.seed, 1, self.epoch]).permutation(len(self.tiles))
        size, starts = settings.batch_size, _starts(len(order), settings.batch_size)
        score = _Score()
        self.network.train()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(_mixed(settings.seed, 2, self.epoch))  # for dropout
            for number, start in enumerate(starts):
                stop = len(order) if number == len(starts) - 1 else start + size
                images, masks, valid = _batch(
                    self.tiles, order[start:stop], self.augment, (settings.seed, 3, self.epoch)
                )
                rate = _rate(settings, self.epoch + number / len(starts))
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                logits, cost = self._step(images, masks, valid)
                score.add(logits, masks, valid, cost)
                tell(1, f"epoch {self.epoch + 1}: loss {cost:.4f}")
        return score.values()

    def _step(
        self, images: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        images, there, good = (t.to(self.device, non_blocking=True) for t in (images, masks, valid))
        with torch.autocast(self.device.type, dtype=self.type, enabled=self.half):
            logits = _logits(self.network, images, good, self.rule)
        cost = loss_of(logits.float(), there, good, self.settings)
        if not torch.isfinite(cost):
            raise ModelError(
                f"the loss is no longer finite in epoch {self.epoch + 1}",
                where="train",
                remedy="Lower the learning rate, or turn mixed_precision off",
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(cost).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return logits, float(cost.detach())

    def _pass_over_validation(self) -> dict[str, float]:
        score = _Score()
        self.network.eval()
        size = self.settings.batch_size
        for start in range(0, len(self.validation), size):
            images, masks, valid = _batch(
                self.validation, range(start, min(start + size, len(self.validation)))
            )
            there, good = masks.to(self.device), valid.to(self.device)
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, dtype=self.type, enabled=self.half),
            ):
                logits = _logits(self.network, images.to(self.device), good, self.rule)
                cost = loss_of(logits.float(), there, good, self.settings)
            score.add(logits, masks, valid, float(cost))
        return score.values()

    def best_network(self) -> nn.Module:
        network = self.network.cpu()
        network.load_state_dict(self.best)
        return network.eval().requires_grad_(False)

    def history(self) -> xr.Dataset:
        parts = ("training", "validation")
        attrs = {"units": "1"}
        result = xr.Dataset(
            {
                name: (
                    ("epoch", "split"),
                    np.array([[r[part][name] for part in parts] for r in self.records]),
                    attrs,
                )
                for name in ("loss", *_SCORES)
            },
            coords={"epoch": np.arange(1, len(self.records) + 1), "split": list(parts)},
        )
        result.attrs = {"best_epoch": self.best_epoch, "seconds": round(self.seconds, 1)}
        return result

    def save(self, path: Path, stamp: dict[str, Any]) -> None:
        if self.best_epoch == self.epoch:
            architecture, sizes = architecture_of(self.network)
            network = build(architecture, **sizes)  # on the CPU, beside the one in training
            network.load_state_dict(self.best)
            save_model(
                path,
                network,
                normalisation=self.rule,
                training=_summary(self.settings, self.history()),
            )
        state = {
            "stamp": json.dumps(stamp, sort_keys=True),
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "records": json.dumps(self.records),
            "seconds": self.seconds,
        }
        target = _resume_path(path)
        partial = target.with_name(target.name + ".partial")
        torch.save(state, partial)
        partial.replace(target)

    def resume(self, path: Path, stamp: dict[str, Any]) -> None:
        source = _resume_path(path)
        if not source.exists():
            return
        try:
            state = torch.load(source, map_location=self.device, weights_only=True)
            before = json.loads(state["stamp"])
        except Exception as error:
            raise ModelError(
                f"the state of a stopped training cannot be read ({type(error).__name__})",
                where=source,
                remedy="Delete it to begin anew",
            ) from error
        now = json.loads(json.dumps(stamp))
        if (
            now["settings"]["schedule"] == "constant"
            and state["epoch"] <= now["settings"]["epochs"]
        ):
            # Then an epoch does not know how many there will be: more may follow.
            before["settings"]["epochs"] = now["settings"]["epochs"]
        different = sorted(key for key in {*now, *before} if now.get(key) != before.get(key))
        if different:
            raise StoreConflictError(
                f"the checkpoint is of a training with other {', '.join(different)}",
                where=source,
                remedy="Give another path, delete it, or give the former arguments",
            )
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.best_epoch = state["epoch"], state["best_epoch"]
        self.best = {n: v.cpu() for n, v in state["best"].items()}
        self.records = json.loads(state["records"])
        self.seconds = state["seconds"]


def _resume_path(path: Path) -> Path:
    return path.with_name(path.name + ".resume")


def _starts(count: int, size: int) -> list[int]:
    """Where batches begin; a last tile alone joins the batch before it, for one value has no variance."""
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return starts


def _rank(score: float) -> float:
    """An undefined F1 is worse than any."""
    return score if np.isfinite(score) else -1.0


def _rate(settings: TrainingSettings, epoch: float) -> float:
    if settings.schedule == "constant":
        return settings.learning_rate
    warm = _WARM_UP * settings.epochs
    if epoch < warm:
        return settings.learning_rate * max(0.01, epoch / warm)
    share = (epoch - warm) / (settings.epochs - warm)
    return settings.learning_rate * 0.5 * (1 + float(np.cos(np.pi * share)))


def _mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _logits(
    network: nn.Module, images: torch.Tensor, valid: torch.Tensor, rule: Normalisation
) -> torch.Tensor:
    with torch.autocast(images.device.type, enabled=False):
        seen = normalise(images, rule, valid)
    return network(seen.contiguous(memory_format=torch.channels_last))[:, 0]


def _batch(
    tiles: Tiles,
    indices: Sequence[int] | np.ndarray,
    augment: Augment | None = None,
    seed: tuple[int, ...] = (),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stack tiles: images float32, masks uint8, valid bool, each (batch, h, w)."""
    parts = []
    for index in indices:
        image, mask, valid = tiles[int(index)]
        valid = np.asarray(valid, bool) & (mask != NO_DATA)
        if augment is not None:
            rng = np.random.default_rng([*seed, int(index)])
            image, mask, valid = augment(image, mask, valid, rng)
        parts.append((np.asarray(image, np.float32), np.asarray(mask, np.uint8), valid))
    shapes = {a.shape for part in parts for a in part}
    if len(shapes) != 1 or any(n % STRIDE for shape in shapes for n in shape):
        raise InputError(
            f"tiles of {', '.join(map(str, sorted(shapes)))}",
            where="tiles",
            remedy=f"All must have one size, a multiple of {STRIDE}",
        )
    images, masks, valid = (np.stack(arrays) for arrays in zip(*parts, strict=True))
    valid = valid.astype(bool) & np.isfinite(images) & (masks != NO_DATA)
    return torch.from_numpy(images), torch.from_numpy(masks), torch.from_numpy(valid)


def _tiles(tiles: Any, name: str) -> Tiles:
    if isinstance(tiles, tuple) and all(isinstance(a, np.ndarray) for a in tiles):
        if len(tiles) not in (2, 3):
            raise InputError(
                f"{len(tiles)} arrays", where=name, remedy="Give images, masks (and valid)"
            )
        tiles = ArrayTiles(*tiles)
    if not hasattr(tiles, "__getitem__") or not hasattr(tiles, "__len__"):
        raise InputError(
            f"a {type(tiles).__name__}",
            where=name,
            remedy="Give what lunarray.fractures.tiles makes, or arrays (images, masks)",
        )
    if len(tiles) == 0:
        raise InputError("no tile", where=name, remedy="Give one at least")
    return tiles


def _check_settings(settings: TrainingSettings) -> None:
    faults = [
        f"{name}={value!r}"
        for name, value, good in (
            ("epochs", settings.epochs, settings.epochs >= 1),
            ("batch_size", settings.batch_size, settings.batch_size >= 1),
            ("learning_rate", settings.learning_rate, settings.learning_rate > 0),
            ("weight_decay", settings.weight_decay, settings.weight_decay >= 0),
            ("loss", settings.loss, settings.loss in get_args(Loss)),
            ("schedule", settings.schedule, settings.schedule in get_args(Schedule)),
            ("seed", settings.seed, settings.seed >= 0),
        )
        if not good
    ]
    if faults:
        raise InputError(
            f"settings that make no sense: {', '.join(faults)}",
            where="train",
            remedy=f"Losses: {', '.join(get_args(Loss))}; schedules: {', '.join(get_args(Schedule))}",
        )


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
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
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


def _summary(settings: TrainingSettings, history: xr.Dataset) -> dict[str, Any]:
    best = int(history.attrs["best_epoch"])
    scores = history.sel(epoch=best, split="validation")
    return {
        **asdict(settings),
        "best_epoch": best,
        "seconds": history.attrs["seconds"],
        "validation": {
            name: None if not np.isfinite(scores[name]) else round(float(scores[name]), 5)
            for name in ("loss", *_SCORES)
        },
    }
