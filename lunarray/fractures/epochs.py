"""The passes of a training: loss, learning rate, scores, and the state that a stopped one goes on from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray.engine.progress import Advance
from lunarray.engine.training import Checkpoint, mixed_seed, seeded
from lunarray.errors import ModelError, StoreConflictError, needs
from lunarray.fractures.batches import Augment, Batch, Tiles, stacked
from lunarray.fractures.losses import loss_of
from lunarray.fractures.metrics import confusion, pixel_metrics, tile_metrics
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


def logits_of(
    network: nn.Module, images: torch.Tensor, valid: torch.Tensor, rule: Normalisation
) -> torch.Tensor:
    """Logits (batch, h, w) of images as they were stacked."""
    with torch.autocast(images.device.type, enabled=False):
        seen = normalise(images, rule, valid)
    return network(seen.contiguous(memory_format=torch.channels_last))[:, 0]


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

    def run_epoch(self, tell: Advance) -> None:
        """Pass over all tiles once, training tiles first."""
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
        """The last epoch in words."""
        loss, score = (self.records[-1]["validation"][name] for name in ("loss", "F1"))
        return (
            f"epoch {self.epoch}: loss {loss:.4f}, F1 {score:.3f} (best {self._best_score():.3f})"
        )

    def _pass_over_training(self, tell: Advance) -> dict[str, float]:
        settings = self.settings
        order = np.random.default_rng([settings.seed, 1, self.epoch]).permutation(len(self.tiles))
        size, starts = settings.batch_size, batch_starts(len(order), settings.batch_size)
        score = Score()
        self.network.train()
        with seeded(mixed_seed(settings.seed, 2, self.epoch), self.device):  # for dropout
            for number, start in enumerate(starts):
                stop = len(order) if number == len(starts) - 1 else start + size
                batch = stacked(
                    self.tiles, order[start:stop], self.augment, (settings.seed, 3, self.epoch)
                )
                rate = learning_rate_at(settings, self.epoch + number / len(starts))
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                logits, cost = self._forward(batch)
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
        return score.values()

    def _pass_over_validation(self) -> dict[str, float]:
        score, size = Score(), self.settings.batch_size
        self.network.eval()
        for start in range(0, len(self.validation), size):
            batch = stacked(self.validation, range(start, min(start + size, len(self.validation))))
            with torch.inference_mode():
                logits, cost = self._forward(batch)
            score.add(logits, batch, float(cost))
        return score.values()

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits, and the loss."""
        images, masks, valid = (t.to(self.device, non_blocking=True) for t in batch)
        with torch.autocast(self.device.type, dtype=self.type, enabled=self.half):
            logits = logits_of(self.network, images, valid, self.rule)
        return logits, loss_of(logits.float(), masks, valid, self.settings)

    def best_network(self) -> nn.Module:
        """The network of the best epoch, on the CPU."""
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
        """Write the best weights where they are new, and the state to go on from."""
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
