"""The passes of a training: loss, learning rate, scores, and the state that a stopped one goes on from."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray.engine.progress import Advance
from lunarray.engine.training import Checkpoint, mixed_seed, seeded
from lunarray.errors import InputError, LunarrayWarning, ModelError, StoreConflictError, needs
from lunarray.fractures.batches import Augment, Batch, Tiles
from lunarray.fractures.company import Company
from lunarray.fractures.loading import batches_of
from lunarray.fractures.losses import loss_of
from lunarray.fractures.metrics import NO_DATA, confusion, pixel_metrics, tile_metrics
from lunarray.fractures.model import architecture_of, build
from lunarray.fractures.normalise import Normalisation, normalise
from lunarray.fractures.settings import TrainSettings
from lunarray.fractures.weights import save_model

with needs("torch", "training on fractures"):
    import torch
    from torch import nn

#: Probability from which a pixel is a detection in the scores, as in the paper.
THRESHOLD = 0.5
#: What a stopped training has reached.
_PROGRESS = ("epoch", "best_epoch", "best", "records", "seconds")
#: Share of the epochs in which the cosine schedule warms up.
_WARM_UP = 0.05
SCORES = (
    "precision", "recall", "F1", "IoU", "precision_pooled", "recall_pooled", "F1_pooled", "IoU_pooled",
)  # fmt: skip


def batch_starts(count: int, size: int) -> list[int]:
    """Where batches begin; a last tile alone joins the batch before it, for one value has no variance."""
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return starts


def _rank(score: float) -> float:
    """An undefined F1 is worse than any."""
    return score if np.isfinite(score) else -1.0


def learning_rate_at(settings: TrainSettings, epoch: float) -> float:
    """Learning rate after so many epochs, a fraction among them."""
    if settings.schedule == "constant":
        return settings.learning_rate
    warm = _WARM_UP * settings.epochs
    if epoch < warm:
        return settings.learning_rate * max(0.01, epoch / warm)
    share = (epoch - warm) / (settings.epochs - warm)
    return settings.learning_rate * 0.5 * (1 + float(np.cos(np.pi * share)))


def layout_of(network: nn.Module, device: torch.device) -> torch.memory_format:
    """How numbers lie in memory: channels last, which is faster.

    But not for convolutions of 4 to 7 channels on a CPU: their backward pass writes beyond its memory there (torch
    2.14, oneDNN, a processor with AVX2 alone: the process ends, or goes on with damaged numbers).
    """
    narrow = any(isinstance(m, nn.Conv2d) and 3 < m.in_channels < 8 for m in network.modules())
    plain = narrow and device.type == "cpu"
    return torch.contiguous_format if plain else torch.channels_last


def logits_of(
    network: nn.Module, images: torch.Tensor, valid: torch.Tensor, rule: Normalisation
) -> torch.Tensor:
    """Logits (batch, h, w) of images as they were stacked."""
    with torch.autocast(images.device.type, enabled=False):
        seen = normalise(images, rule, valid)
    return network(seen.contiguous(memory_format=layout_of(network, seen.device)))[:, 0]


class Score:
    """Loss and scores over the batches of an epoch."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        # Compared as logits: no sigmoid of every pixel.
        self.cut = float(np.log(threshold / (1 - threshold))) if 0 < threshold < 1 else 0.0
        self.counts: list[np.ndarray] = []
        self.losses: list[tuple[float, int]] = []

    def add(self, logits: torch.Tensor, batch: Batch, loss: float) -> None:
        """Count a batch, wherever its logits are."""
        found = (logits.detach() >= self.cut).cpu().numpy()
        _, masks, valid = (t.numpy() for t in batch)
        self.counts.append(confusion(found, masks, valid))
        self.losses.append((loss, int(np.count_nonzero(valid))))

    def values(self) -> dict[str, float]:
        """Loss and scores of all that was added."""
        counts = np.concatenate(self.counts)
        losses, pixels = np.array(self.losses).T
        mean = float((losses * pixels).sum() / pixels.sum()) if pixels.sum() else float("nan")
        scores = {**tile_metrics(counts), **pixel_metrics(counts)}
        return {"loss": mean, **{name: float(scores[name]) for name in SCORES}}


def _check_labels(counts: np.ndarray) -> None:
    """Say what labels are for, where there is nothing to learn from; known once all tiles were read."""
    if not counts.sum():
        raise InputError(
            "no pixel has both data and a label",
            where="tiles",
            remedy=f"Give labels: 1 for fracture, 0 for none; {NO_DATA} and NaN are no data",
        )
    if not counts[:, [0, 2]].sum():
        warnings.warn(
            f"no pixel of the training tiles is labelled as a fracture (1; {NO_DATA} is no data): the model learns to "
            "find none",
            LunarrayWarning,
            stacklevel=2,
        )


class Run:
    """A training under way: everything that a resumed one must have again."""

    def __init__(
        self,
        network: nn.Module,
        rule: Normalisation,
        settings: TrainSettings,
        device: torch.device,
        half: bool,
        augment: Augment | None,
        tiles: Tiles,
        validation: Tiles,
        workers: int = 0,
    ) -> None:
        self.company = Company()
        if self.company.size > 1:
            self.company.check(settings.batch_size)
        self.workers = workers
        self.coming: Iterator[Batch] | None = None
        layout = layout_of(network, device)
        self.network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.network.requires_grad_(True)
        self.model = self.company.joined(self.network)
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

    def run_epoch(self, tell: Advance) -> None:
        """Pass over all tiles once, training tiles first."""
        begin = time.perf_counter()
        if self.coming is None:
            self.coming = self._batches()
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
        """The last epoch in words."""
        loss, score = (self.records[-1]["validation"][name] for name in ("loss", "F1"))
        return (
            f"epoch {self.epoch}: loss {loss:.4f}, F1 {score:.3f} (best {self._best_score():.3f})"
        )

    def _batches(self) -> Iterator[Batch]:
        """This process's part of all batches that are still to come, those of validation after each epoch's."""
        settings, order = self.settings, []
        size, count = settings.batch_size, len(self.tiles)
        for epoch in range(self.epoch, settings.epochs):
            tiles = np.random.default_rng([settings.seed, 1, epoch]).permutation(count).tolist()
            starts = batch_starts(count, size)
            for start, stop in zip(starts, [*starts[1:], count], strict=True):
                order.append([(True, epoch, k) for k in tiles[start:stop]])
            for start in range(0, len(self.validation), size):
                some = range(start, min(start + size, len(self.validation)))
                order.append([(False, epoch, k) for k in some])
        return batches_of(
            self.tiles,
            self.validation,
            [list(self.company.share(batch)) for batch in order],
            augment=self.augment,
            seed=settings.seed,
            workers=self.workers,
            pinned=self.device.type == "cuda",
        )

    def _pass_over_training(self, tell: Advance) -> dict[str, float]:
        settings = self.settings
        steps = len(batch_starts(len(self.tiles), settings.batch_size))
        score = Score()
        self.model.train()
        with seeded(mixed_seed(settings.seed, 2, self.epoch), self.device):  # for dropout
            for number in range(steps):
                rate = learning_rate_at(settings, self.epoch + number / steps)
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                logits, cost, batch = self._forward(self.model)
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
                score.add(logits, batch, float(cost.detach()))
                tell(1, f"epoch {self.epoch + 1}: loss {float(cost.detach()):.4f}")
        if self.epoch == 0:
            _check_labels(np.concatenate(score.counts))
        return score.values()

    def _pass_over_validation(self) -> dict[str, float]:
        score = Score()
        self.network.eval()
        for _ in range(0, len(self.validation), self.settings.batch_size):
            with torch.inference_mode():
                logits, cost, batch = self._forward(self.network)
            score.add(logits, batch, float(cost))
        return score.values()

    def _forward(self, network: nn.Module) -> tuple[torch.Tensor, torch.Tensor, Batch]:
        """Logits of the next batch, the loss, and the batch: of all processes."""
        assert self.coming is not None
        images, *labels = next(self.coming)
        images, masks, valid = (t.to(self.device, non_blocking=True) for t in (images, *labels))
        with torch.autocast(self.device.type, dtype=self.type, enabled=self.half):
            logits = logits_of(network, images, valid, self.rule)
        logits, masks, valid = self.company.whole(logits.float(), masks, valid)
        cost = loss_of(logits, masks, valid, self.settings)
        return logits, cost, (images, masks.cpu(), valid.cpu())

    def best_network(self) -> nn.Module:
        """The network of the best epoch, on the CPU."""
        self.company.close()
        network = self.network.cpu()
        network.load_state_dict(self.best)
        return network.eval().requires_grad_(False)

    def history(self) -> xr.Dataset:
        """Loss and scores by epoch and split."""
        parts = ("training", "validation")
        attrs = {"units": "1"}
        result = xr.Dataset(
            {
                name: (
                    ("epoch", "split"),
                    np.array([[r[part][name] for part in parts] for r in self.records]),
                    attrs,
                )
                for name in ("loss", *SCORES)
            },
            coords={"epoch": np.arange(1, len(self.records) + 1), "split": list(parts)},
        )
        result.attrs = {"best_epoch": self.best_epoch, "seconds": round(self.seconds, 1)}
        return result

    def save(self, path: Path, stamp: dict[str, Any]) -> None:
        """Write the best weights where they are new, and the state to go on from; one process does."""
        self.company.wait()
        if self.company.rank:
            return
        if self.best_epoch == self.epoch:
            architecture, sizes = architecture_of(self.network)
            network = build(architecture, **sizes)  # on the CPU, beside the one in training
            network.load_state_dict(self.best)
            training = summary(self.settings, self.history())
            save_model(path, network, normalisation=self.rule, training=training)
        _resume_file(path, stamp).save(
            {
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                **{name: getattr(self, name) for name in _PROGRESS},
            }
        )

    def resume(self, path: Path, stamp: dict[str, Any]) -> None:
        """Go on from the state of a stopped training, if there is one."""
        file = _resume_file(path, stamp)
        state = file.load()
        if state is None:
            return
        if state["epoch"] > self.settings.epochs:
            raise StoreConflictError(
                f"the checkpoint is of another training: other settings.epochs, {state['epoch']} at least",
                where=file.path,
                remedy="Give as many epochs, delete it, or give another path",
            )
        for name in ("network", "optimiser", "scaler"):
            getattr(self, name).load_state_dict(state[name])
        for name in _PROGRESS:
            setattr(self, name, state[name])


def _resume_file(path: Path, stamp: dict[str, Any]) -> Checkpoint:
    # Where the rate is constant an epoch does not know how many there will be: more may follow.
    free = ("settings.epochs",) if stamp["settings"]["schedule"] == "constant" else ()
    return Checkpoint(path.with_name(path.name + ".resume"), stamp, free)


def summary(settings: TrainSettings, history: xr.Dataset) -> dict[str, Any]:
    """What a weights file says of its training."""
    best = int(history.attrs["best_epoch"])
    scores = history.sel(epoch=best, split="validation")
    return {
        **settings.to_dict(),
        "best_epoch": best,
        "seconds": history.attrs["seconds"],
        "validation": {
            name: None if not np.isfinite(scores[name]) else round(float(scores[name]), 5)
            for name in ("loss", *SCORES)
        },
    }
