"""Training of many folds as one computation, in batches that bound memory, resumable and spread over Dask workers.

All folds begin with the same weights (those of the seed), so that their weights may be averaged afterwards [1]_.

One thing differs from plain PyTorch, after the last step: batch-normalisation statistics are taken anew with the final
weights. The running ones have a memory of ten steps, which in full-batch training are ten epochs of moving weights:
with them a network that fits its training samples may be off by several wt% on the very same samples.

References
----------
.. [1] Wortsman et al. (2022), Model soups, PMLR 162, 23965.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from lunarray.engine import current_client
from lunarray.engine.models import Device, resolve_device
from lunarray.engine.training import Checkpoint
from lunarray.engine.weights import tensors_digest
from lunarray.errors import InputError, require_choice, require_number
from lunarray.oxides.fold_batches import FusedBatch, Progress, StackedBatch, folds_that_fit
from lunarray.oxides.networks import State, finite_rows, predict_state
from lunarray.oxides.settings import TrainSettings

Backend = Literal["auto", "fused", "stacked"]

#: Folds of a batch on the CPU: what a stopped run may lose of each is `CHECKPOINT_EPOCHS`.
FOLD_BATCH = 16
#: Epochs after which the state of a running batch is stored.
CHECKPOINT_EPOCHS = 25
#: Learning rate of polishing as a share of that of the training.
POLISH_RATE = 0.1


class FoldData(NamedTuple):
    """What folds are trained on: reflectance (sample, bands) and abundances in wt% (sample, output), float32.

    `others` are other spectra of the samples, such as single pixels where `spectra` are means: not trained on, but
    predicted where left out. Rows with a NaN have no prediction. `weights` (sample, output) are what each sample counts
    for each output; all the same where there are none.
    """

    spectra: np.ndarray
    targets: np.ndarray
    others: np.ndarray | None = None
    weights: np.ndarray | None = None

    def checked(self) -> FoldData:
        """The same, if the arrays fit each other."""
        spectra, targets = (
            finite_rows(self.spectra, "spectra"),
            finite_rows(self.targets, "targets"),
        )
        if len(spectra) != len(targets):
            raise InputError(
                f"{len(spectra)} spectra and {len(targets)} targets",
                where="targets",
                remedy="Give one row of oxides per spectrum",
            )
        others = None if self.others is None else np.asarray(self.others, np.float32)
        if others is not None and others.shape != spectra.shape:
            raise InputError(
                f"shape {others.shape}, beside spectra {spectra.shape}",
                where="others",
                remedy="Give as many spectra on the same bands",
            )
        weights = None if self.weights is None else finite_rows(self.weights, "weights")
        if weights is not None and (weights.shape != targets.shape or (weights < 0).any()):
            raise InputError(
                f"shape {weights.shape}, beside targets {targets.shape}, or negative ones",
                where="weights",
                remedy="Give one for each sample and output, 0 or more",
            )
        return FoldData(spectra, targets, others, weights)


@dataclass(frozen=True)
class Folds:
    """What training folds leaves, for one network.

    `average` is the mean of all folds' weights before polishing, in the names of ``OxideCNN.state_dict`` (of several
    folds its batch-normalisation statistics are means too, see
    :func:`lunarray.oxides.networks.recompute_statistics`); `members` are networks of some folds, evenly spaced; `loss`
    (fold, epoch) is the mean square error of standardised oxides before each step, those of polishing included;
    `left_out` (sample, output) are abundances (wt%) by the fold that had not seen the sample, NaN where none had not,
    and `left_out_others` the same for its other spectra.
    """

    average: State
    members: tuple[State, ...]
    loss: np.ndarray
    left_out: np.ndarray
    left_out_others: np.ndarray


@dataclass(frozen=True)
class _Job:
    """What is the same for all batches of a training."""

    settings: TrainSettings
    polish_epochs: int
    chosen: np.ndarray
    backend: Backend
    device: str
    workers: int
    folder: str | None
    stamp: dict[str, Any]

    def checkpoint(self, name: str) -> Checkpoint | None:
        """The file of that name, where the training has files."""
        if self.folder is None:
            return None
        return Checkpoint(Path(self.folder) / f"{name}.safetensors", self.stamp)


def train_folds(
    data: FoldData,
    left_out: Sequence[np.ndarray],
    settings: TrainSettings | None = None,
    *,
    polish_epochs: int = 0,
    members: int = 0,
    backend: Backend = "auto",
    device: Device = "auto",
    fold_batch: int | None = None,
    workers: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Folds:
    """Train one network for each fold, on all samples but those that the fold leaves out.

    `data`: spectra and abundances; `left_out`: samples that each fold leaves out; an empty one trains on everything;
    `settings`: how each is trained; the defaults if None; `polish_epochs`: epochs more of each fold at a tenth of the
    rate, after its weights were taken for the average and before it predicts what it left out; `members`: folds, evenly
    spaced, whose networks are kept; `backend` {"auto", "fused", "stacked"}: the formulation, see
    :mod:`lunarray.oxides.fold_batches`; "auto" takes "stacked" on a GPU and "fused" elsewhere; `device` {"auto", "cpu",
    "cuda"}: where to train; `fold_batch`: folds that are in memory at once. By default 16, or what fits a GPU. It
    changes no result beyond rounding; `workers`: folds trained side by side on the CPU; by default one to a core.
    Ignored on a Dask client, whose workers train one batch in each of their threads; `checkpoint`: folder for the state
    of the training. A stopped run that is started again with the same arguments goes on where it was; a finished one is
    read. On a cluster it must be one that all workers see; `progress`: see
    :data:`lunarray.oxides.fold_batches.Progress`. InputError for arrays that do not fit each other or are not finite,
    or a fold without training samples. StoreConflictError if the checkpoint is of another training.
    """
    settings = settings or TrainSettings()
    data = data.checked()
    left_out = _checked_folds(left_out, len(data.spectra))
    backend, place = choose_backend(backend, device)
    count = min(members, len(left_out))
    chosen = np.unique(np.round(np.linspace(0, len(left_out) - 1, count)).astype(np.int64))
    size = fold_batch
    if size is None:
        on_gpu = place == "cuda"
        size = folds_that_fit(data.spectra.shape, settings.n) if on_gpu else FOLD_BATCH
    batches = _batches(left_out, size)
    client = current_client()
    stamp: dict[str, Any] = {}
    folder = None if checkpoint is None else os.fspath(Path(checkpoint).resolve())
    if folder is not None:
        arrays = {n: a for n, a in data._asdict().items() if a is not None}
        arrays |= {f"fold {i}": index for i, index in enumerate(left_out)}
        stamp = {
            "settings": settings.to_dict(),
            "polish_epochs": polish_epochs,
            "members": chosen.tolist(),
            "backend": backend,
            "samples": tensors_digest(arrays),
        }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = (workers or cores or 1) if client is None else 1
    job = _Job(settings, polish_epochs, chosen, backend, place, workers, folder, stamp)
    plan = job.checkpoint("plan")
    if plan is not None and plan.load() is None:
        plan.save({"folds": len(left_out)})

    work = [([left_out[i] for i in batch], batch) for batch in batches]
    if client is None:
        results = [_run_batch(data, *part, job, progress) for part in work]
    else:
        results = _run_on(client, data, work, job, progress)
    return _collect(results, batches, left_out, data.targets.shape, settings.epochs + polish_epochs)


def _checked_folds(left_out: Sequence[np.ndarray], samples: int) -> list[np.ndarray]:
    folds = [np.unique(np.asarray(index, np.int64)) for index in left_out]
    if not folds:
        raise InputError("no fold", where="left_out", remedy="Give one or more")
    for i, index in enumerate(folds):
        if index.size and (index[0] < 0 or index[-1] >= samples):
            raise InputError("samples that are not there", where=f"fold {i}", remedy="Give indices")
        if samples - index.size < 2:
            raise InputError(
                f"{samples - index.size} training samples of {samples}",
                where=f"fold {i}",
                remedy="Batch normalisation needs at least 2: give more samples or smaller folds",
            )
    return folds


def choose_backend(backend: Backend, device: Device) -> tuple[Backend, str]:
    """The formulation and the device, where either is left open."""
    require_choice("backend", backend, get_args(Backend))
    place = "cpu" if backend == "fused" and device == "auto" else resolve_device(device)
    if backend == "auto":
        backend = "stacked" if place == "cuda" else "fused"
    if backend == "fused" and place == "cuda":
        raise InputError(
            "the fused kernel runs on the CPU", where="backend", remedy='Use "stacked"'
        )
    return backend, place


def polish(
    state: State,
    data: FoldData,
    settings: TrainSettings,
    *,
    backend: Backend = "auto",
    device: Device = "auto",
) -> State:
    """Train an average of folds on: full batch, on all samples, with batch-normalisation statistics of its own.

    `settings` are those of this training; `backend` and `device` as of :func:`train_folds`.
    """
    backend, place = choose_backend(backend, device)
    batch = _batch(data, [np.arange(len(data.spectra))], settings, backend, place, begin=state)
    batch.run(settings.epochs)
    batch.settle()
    return batch.states()[0]


def _batch(
    data: FoldData,
    kept: Sequence[np.ndarray],
    settings: TrainSettings,
    backend: Backend,
    device: str,
    *,
    workers: int = 1,
    begin: State | None = None,
) -> FusedBatch | StackedBatch:
    arrays, weights = (data.spectra, data.targets), data.weights
    if backend == "fused":
        return FusedBatch(*arrays, kept, settings, workers=workers, begin=begin, weights=weights)
    return StackedBatch(*arrays, kept, settings, device=device, begin=begin, weights=weights)


def _run_on(
    client: Any, data: FoldData, work: Sequence[tuple], job: _Job, progress: Progress | None
) -> list[State]:
    """Train batches on the workers of a Dask client; results in the order of the batches."""
    (there,) = client.scatter([data], broadcast=True, hash=True)
    futures = [client.submit(_run_batch, there, *part, job, pure=False) for part in work]
    try:
        if progress is not None:
            from distributed import as_completed

            for future in as_completed(futures):
                done = future.result()["loss"]
                progress(done.size, float(done[:, -1].mean()))
        return client.gather(futures)
    except BaseException:
        client.cancel(futures)
        raise


def _batches(left_out: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    """Folds of equal size together, at most `size` at a time, in their order."""
    require_number("fold_batch", size, 1)
    counts = np.array([len(index) for index in left_out])
    result = []
    for count in np.unique(counts):
        same = np.flatnonzero(counts == count)
        result += [same[i : i + size] for i in range(0, len(same), size)]
    return result


def _run_batch(
    data: FoldData,
    left_out: Sequence[np.ndarray],
    numbers: np.ndarray,
    job: _Job,
    progress: Progress | None = None,
) -> State:
    """Train one batch of folds, or go on with it; the sum of weights, those of chosen folds, losses, predictions."""
    settings = job.settings
    name = f"folds-{numbers[0]:05d}-{numbers[-1]:05d}-{len(numbers)}"
    finished, running = job.checkpoint(name), job.checkpoint(f"{name}.running")
    if finished is not None and (done := finished.load()) is not None:
        if progress is not None:
            progress(done["loss"].size, float(done["loss"][:, -1].mean()))
        return done
    everything = np.arange(len(data.spectra))
    kept = [np.setdiff1d(everything, index, assume_unique=True) for index in left_out]
    batch = _batch(data, kept, settings, job.backend, job.device, workers=job.workers)
    losses = np.empty((len(kept), 0))
    result: State = {}
    if running is not None and (state := running.load()) is not None:
        batch.restore(state["batch"])
        losses, result = state["loss"], state["sums"]
        if progress is not None:
            progress(losses.size, float(losses[:, -1].mean()))
    # The same steps with and without a checkpoint.
    last = settings.epochs + job.polish_epochs
    for end, rate in (
        (settings.epochs, settings.learning_rate),
        (last, POLISH_RATE * settings.learning_rate),
    ):
        batch.set_rate(rate)
        while losses.shape[1] < end:
            more = min(end - losses.shape[1], CHECKPOINT_EPOCHS)
            losses = np.concatenate([losses, batch.run(more, progress)], axis=1)
            if losses.shape[1] == settings.epochs:
                states = batch.states()
                for key in states[0]:
                    stack = np.stack([state[key] for state in states])
                    result[f"sum/{key}"] = np.asarray(stack.sum(axis=0, dtype=np.float64))
            if running is not None and losses.shape[1] < last:
                running.save({"batch": batch.snapshot(), "sums": result, "loss": losses})
    batch.settle()
    states = batch.states()
    result["loss"] = losses
    if len(numbers) == 1 and not left_out[0].size:
        # A network that leaves nothing out is no average: it keeps its statistics.
        result |= {f"sum/{key}": np.asarray(value, np.float64) for key, value in states[0].items()}
    for number, state in zip(numbers, states, strict=True):
        if number in job.chosen:
            result |= {f"{number}/{key}": value for key, value in state.items()}
    result["left_out"] = _predicted(states, data.spectra, left_out)
    if data.others is not None:
        result["left_out_others"] = _predicted(states, data.others, left_out)
    if finished is not None and running is not None:
        finished.save(result)
        running.remove()
    return result


def _predicted(
    states: Sequence[State], spectra: np.ndarray, left_out: Sequence[np.ndarray]
) -> np.ndarray:
    parts = [predict_state(s, spectra[i]) for s, i in zip(states, left_out, strict=True)]
    return np.concatenate(parts)


def _collect(
    results: Sequence[State],
    batches: Sequence[np.ndarray],
    left_out: Sequence[np.ndarray],
    shape: tuple[int, ...],
    epochs: int,
) -> Folds:
    loss = np.empty((len(left_out), epochs))
    predicted = np.full(shape, np.nan, np.float32)
    times = np.zeros(shape[0])
    total, total_others = np.zeros((2, *shape))
    sums: State = {}
    members: dict[int, State] = {}
    for result, batch in zip(results, batches, strict=True):
        loss[batch] = result["loss"]
        rows = np.concatenate([left_out[i] for i in batch])
        np.add.at(total, rows, result["left_out"])
        np.add.at(total_others, rows, result.get("left_out_others", np.nan))
        np.add.at(times, rows, 1)
        for key, value in result.items():
            kind, _, name = key.partition("/")
            if kind == "sum":
                sums[name] = sums[name] + value if name in sums else value
            elif name:
                members.setdefault(int(kind), {})[name] = value
    seen = times > 0
    predicted[seen] = total[seen] / times[seen, None]
    others = np.full(shape, np.nan, np.float32)
    others[seen] = total_others[seen] / times[seen, None]
    average = {
        name: np.asarray(
            value / len(left_out), np.int64 if name.endswith("num_batches_tracked") else np.float32
        )
        for name, value in sums.items()
    }
    return Folds(average, tuple(members[i] for i in sorted(members)), loss, predicted, others)
