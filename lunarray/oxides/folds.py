"""Training of many folds as one computation, in batches that bound memory, resumable and spread over Dask workers.

All folds begin with the same weights (those of the seed), so that their weights may be averaged afterwards [1]_. Two
formulations give the same numbers as training fold by fold with :func:`lunarray.oxides.training.train`:

* "fused", on the CPU: :mod:`lunarray.oxides.train_kernels`, as many folds side by side as there are threads;
* "stacked", for GPUs: parameters get a leading axis of folds, convolutions are batched matrix products.

One thing differs from plain PyTorch, after the last step: batch-normalisation statistics are taken anew with the final
weights. The running ones have a memory of ten steps, which in full-batch training are ten epochs of moving weights:
with them a network that fits its training samples may be off by several wt% on the very same samples.

References
----------
.. [1] Wortsman et al. (2022), Model soups, PMLR 162, 23965.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lunarray.engine.weights import write_tensors
from lunarray.errors import InputError, StoreConflictError, StoreFormatError
from lunarray.oxides.training import TrainingSettings

Backend = Literal["auto", "fused", "stacked"]
State = dict[str, np.ndarray]
#: Called with fold-epochs done since the last call and their mean loss.
Progress = Callable[[int, float], None]

#: Folds of a batch on the CPU: what a stopped run may lose of each is `CHECKPOINT_EPOCHS`.
FOLD_BATCH = 16
#: Epochs after which the state of a running batch is stored.
CHECKPOINT_EPOCHS = 25
#: Learning rate of polishing as a share of that of the training.
POLISH_RATE = 0.1
#: Share of a GPU's free memory that a batch of folds may take.
_GPU_SHARE = 0.6
_PLAN = "plan.json"


@dataclass(frozen=True)
class Folds:
    """What training folds leaves, for one network.

    Attributes
    ----------
    average : dict of ndarray
        Mean of all folds' weights before polishing, in the names of ``OxideCNN.state_dict``. Of several folds, its
        batch-normalisation statistics are means too, see :func:`recompute_statistics`.
    members : tuple of dict of ndarray
        Networks of some folds, evenly spaced.
    loss : ndarray, shape (fold, epoch)
        Mean square error of standardised oxides before each step, those of polishing included.
    left_out : ndarray, shape (sample, output)
        Abundances (wt%) of each sample by the fold that had not seen it; NaN where none had not.
    left_out_others : ndarray, shape (sample, output)
        The same for the other spectra of each sample; NaN where there are none.
    """

    average: State
    members: tuple[State, ...]
    loss: np.ndarray
    left_out: np.ndarray
    left_out_others: np.ndarray


def initial_state(settings: TrainingSettings, bands: int, outputs: int) -> State:
    """Weights that the seed gives, those that :func:`lunarray.oxides.training.train` begins with."""
    import torch

    from lunarray.oxides.model import OxideCNN

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
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

    Parameters
    ----------
    state : mapping of str to ndarray
        Of an ``OxideCNN``.
    spectra : ndarray, shape (sample, bands)
        The training spectra.

    Returns
    -------
    dict of ndarray
        The state with new ``running_mean`` and ``running_var``.

    References
    ----------
    .. [1] Izmailov et al. (2018), Averaging weights leads to wider optima and better generalization, UAI, section 3.2.
    """
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


def network_of(state: Mapping[str, np.ndarray]) -> Any:
    """The ``OxideCNN`` of a state, in evaluation mode, without gradients."""
    import torch

    from lunarray.oxides.model import OxideCNN

    model = OxideCNN(
        len(state["features.0.0.bias"]), len(state["input_mean"]), len(state["target_mean"])
    )
    model.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
    return model.eval().requires_grad_(False)


def polish(
    state: State,
    spectra: np.ndarray,
    targets: np.ndarray,
    settings: TrainingSettings,
    *,
    backend: Backend = "auto",
    device: str = "auto",
) -> State:
    """Train an average of folds on: full batch, on all samples.

    Parameters
    ----------
    state : dict of ndarray
        The average.
    spectra, targets : ndarray, shape (sample, bands) and (sample, output)
        All samples.
    settings : TrainingSettings
        Epochs and learning rate of this training.
    backend, device
        As of :func:`train_folds`.

    Returns
    -------
    dict of ndarray
        With batch-normalisation statistics of its own.
    """
    backend, place = _choose(backend, device)
    everything = [np.arange(len(spectra))]
    batch: FusedBatch | StackedBatch
    if backend == "fused":
        batch = FusedBatch(spectra, targets, everything, settings, begin=state)
    else:
        batch = StackedBatch(spectra, targets, everything, settings, device=place, begin=state)
    if settings.epochs:
        batch.run(settings.epochs)
    batch.settle()
    return batch.states()[0]


def _choose(backend: Backend, device: str) -> tuple[Backend, str]:
    """The formulation and the device, where either is left open."""
    from lunarray.engine.models import resolve_device

    if backend not in ("auto", "fused", "stacked"):
        raise InputError(f"{backend!r}", where="backend", remedy='use "auto", "fused" or "stacked"')
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"unknown device {device!r}", where="device", remedy="use auto, cpu or cuda"
        )
    place = "cpu" if backend == "fused" and device == "auto" else resolve_device(device)  # type: ignore[arg-type]
    if backend == "auto":
        backend = "stacked" if place == "cuda" else "fused"
    if backend == "fused" and place == "cuda":
        raise InputError(
            "the fused kernel runs on the CPU", where="backend", remedy='use "stacked"'
        )
    return backend, place


# --- Batches of folds ------------------------------------------------------------------------------


class FusedBatch:
    """Folds on the CPU, one to a thread.

    Parameters
    ----------
    spectra, targets : ndarray, shape (sample, bands) and (sample, output)
    kept : sequence of ndarray
        Training samples of each fold.
    settings : TrainingSettings
    threads : int
    begin : dict of ndarray, optional
        The network that each fold begins with, but for its standardisation; by default that of the seed.
    """

    def __init__(
        self,
        spectra: np.ndarray,
        targets: np.ndarray,
        kept: Sequence[np.ndarray],
        settings: TrainingSettings,
        *,
        threads: int = 1,
        begin: State | None = None,
    ) -> None:
        from lunarray.oxides.train_kernels import FoldState

        if begin is None:
            begin = initial_state(settings, spectra.shape[1], targets.shape[1])
        self.threads = max(1, min(threads, len(kept)))
        self._local = threading.local()
        self._folds = []
        for index in kept:
            x, y = spectra[index], targets[index]
            state = {**begin, **standardisation(x, y)}
            fold = FoldState(state, x, y, settings.n, settings.learning_rate, settings.weight_decay)
            self._folds.append(fold)

    def run(self, epochs: int, progress: Progress | None = None) -> np.ndarray:
        """Train some epochs more; losses of shape (fold, epoch)."""

        def train(fold: Any) -> np.ndarray:
            losses = fold.run(epochs, self._memory())
            if progress is not None:
                progress(epochs, float(losses[-1]))
            return losses

        return np.stack(self._each(train))

    def set_rate(self, rate: float) -> None:
        """Go on at another learning rate."""
        for fold in self._folds:
            fold.rate = rate

    def settle(self) -> None:
        """Take the statistics of batch normalisation anew, with the weights as they are now."""
        self._each(lambda fold: fold.settle(self._memory()))

    def _memory(self) -> Any:
        from lunarray.oxides.train_kernels import Memory

        if not hasattr(self._local, "memory"):
            self._local.memory = Memory()
        return self._local.memory

    def _each(self, work: Callable[[Any], Any]) -> list[Any]:
        if self.threads == 1:
            return [work(fold) for fold in self._folds]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(work, self._folds))

    def states(self) -> list[State]:
        """The networks of the folds."""
        return [fold.state() for fold in self._folds]

    def snapshot(self) -> State:
        """All that training goes on from."""
        parts = [fold.snapshot() for fold in self._folds]
        return {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """Go on from a :meth:`snapshot`."""
        for i, fold in enumerate(self._folds):
            fold.restore({name: array[i] for name, array in snapshot.items()})


class StackedBatch:
    """Folds stacked along a leading axis of every parameter: batched matrix products in PyTorch, on any device.

    Parameters
    ----------
    spectra, targets : ndarray, shape (sample, bands) and (sample, output)
    kept : sequence of ndarray
        Training samples of each fold, as many in each.
    settings : TrainingSettings
    device : str
    begin : dict of ndarray, optional
        As of :class:`FusedBatch`.
    """

    def __init__(
        self,
        spectra: np.ndarray,
        targets: np.ndarray,
        kept: Sequence[np.ndarray],
        settings: TrainingSettings,
        *,
        device: str = "cpu",
        begin: State | None = None,
    ) -> None:
        import torch

        self._folds, self._device = len(kept), device
        if begin is None:
            begin = initial_state(settings, spectra.shape[1], targets.shape[1])
        fixed = [standardisation(spectra[i], targets[i]) for i in kept]
        self._fixed = {name: np.stack([f[name] for f in fixed]) for name in fixed[0]}
        x = np.stack([spectra[i] for i in kept])
        y = np.stack([targets[i] for i in kept])
        x = (x - self._fixed["input_mean"][:, None]) / self._fixed["input_std"][:, None]
        y = (y - self._fixed["target_mean"][:, None]) / self._fixed["target_std"][:, None]
        self._x, self._y = (torch.from_numpy(a.astype(np.float32)).to(device) for a in (x, y))
        self._parameters: dict[str, Any] = {}
        self._running: dict[str, Any] = {}
        for name, value in begin.items():
            if name in self._fixed or name.endswith("num_batches_tracked"):
                continue
            stacked = torch.from_numpy(np.stack([value] * self._folds)).to(device)
            if "running" in name:
                self._running[name] = stacked
            else:
                self._parameters[name] = stacked.requires_grad_()
        self._number = 0
        self._optimiser = torch.optim.Adam(
            list(self._parameters.values()),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        # All states exist from the start, so that a snapshot can be put in.
        for parameter in self._parameters.values():
            self._optimiser.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def _forward(self, momentum: float = 0.1) -> Any:
        import torch
        from torch.nn.functional import pad, relu

        from lunarray.oxides.model import CHANNEL_FACTORS

        p = self._parameters
        folds, samples, bands = self._x.shape
        positions = samples * bands
        a = self._x.unsqueeze(-1)
        for layer in range(len(CHANNEL_FACTORS)):
            name = f"features.{layer}."
            weight = p[name + "0.weight"]
            columns = pad(a, (0, 0, 1, 1)).unfold(2, 3, 1).reshape(folds, positions, -1)
            z = torch.baddbmm(
                p[name + "0.bias"].unsqueeze(1), columns, weight.flatten(2).transpose(1, 2)
            )
            variance, mean = torch.var_mean(z, dim=1, correction=0)
            with torch.no_grad():
                unbiased = variance * (positions / (positions - 1))
                self._running[name + "1.running_mean"].lerp_(mean, momentum)
                self._running[name + "1.running_var"].lerp_(unbiased, momentum)
            scale = p[name + "1.weight"] * torch.rsqrt(variance + 1e-5)
            shift = p[name + "1.bias"] - mean * scale
            a = relu(torch.addcmul(shift.unsqueeze(1), z, scale.unsqueeze(1)))
            a = a.view(folds, samples, bands, -1)
        flat = a.transpose(2, 3).flatten(2)
        return torch.baddbmm(p["head.bias"].unsqueeze(1), flat, p["head.weight"].transpose(1, 2))

    def run(self, epochs: int, progress: Progress | None = None) -> np.ndarray:
        """Train some epochs more; losses of shape (fold, epoch)."""
        import torch

        history = []
        for _ in range(epochs):
            losses = ((self._forward() - self._y) ** 2).mean(dim=(1, 2))
            self._optimiser.zero_grad(set_to_none=True)
            losses.sum().backward()
            for name, parameter in self._parameters.items():
                if name.endswith("0.bias"):
                    # Without effect before batch normalisation: what autograd gives is rounding error, not gradient.
                    parameter.grad.zero_()
            self._optimiser.step()
            self._number += 1
            history.append(losses.detach())
            if progress is not None and self._device == "cpu":
                progress(self._folds, float(history[-1].mean()))
        result = torch.stack(history, dim=1).double().cpu().numpy()
        if progress is not None and self._device != "cpu":
            progress(self._folds * epochs, float(result[:, -1].mean()))
        return result

    def set_rate(self, rate: float) -> None:
        """Go on at another learning rate."""
        for group in self._optimiser.param_groups:
            group["lr"] = rate

    def settle(self) -> None:
        """Take the statistics of batch normalisation anew, with the weights as they are now."""
        import torch

        with torch.no_grad():
            self._forward(momentum=1.0)

    def states(self) -> list[State]:
        """The networks of the folds."""
        tensors = {**self._parameters, **self._running}
        arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        arrays |= self._fixed
        number = np.array(self._number, np.int64)
        result = []
        for fold in range(self._folds):
            state = {name: array[fold].copy() for name, array in arrays.items()}
            for name in list(state):
                if name.endswith("running_var"):
                    state[name.replace("running_var", "num_batches_tracked")] = number
            result.append(state)
        return result

    def snapshot(self) -> State:
        """All that training goes on from."""
        tensors = {**self._parameters, **self._running}
        for name, parameter in self._parameters.items():
            for part in ("exp_avg", "exp_avg_sq"):
                tensors[f"{part}/{name}"] = self._optimiser.state[parameter][part]
        arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        return {**arrays, "number": np.array([[self._number]] * self._folds, np.int64)}

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """Go on from a :meth:`snapshot`."""
        import torch

        def put(target: Any, name: str) -> None:
            target.copy_(torch.from_numpy(snapshot[name]))

        self._number = int(snapshot["number"][0, 0])
        with torch.no_grad():
            for name, tensor in {**self._parameters, **self._running}.items():
                put(tensor, name)
            for name, parameter in self._parameters.items():
                state = self._optimiser.state[parameter]
                state["step"].fill_(self._number)
                for part in ("exp_avg", "exp_avg_sq"):
                    put(state[part], f"{part}/{name}")


# --- All folds -------------------------------------------------------------------------------------


def train_folds(
    spectra: np.ndarray,
    targets: np.ndarray,
    left_out: Sequence[np.ndarray],
    settings: TrainingSettings | None = None,
    *,
    others: np.ndarray | None = None,
    polish_epochs: int = 0,
    members: int = 0,
    backend: Backend = "auto",
    device: str = "auto",
    fold_batch: int | None = None,
    threads: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Folds:
    """Train one network for each fold, on all samples but those that the fold leaves out.

    Parameters
    ----------
    spectra : ndarray, shape (sample, bands)
        Reflectance.
    targets : ndarray, shape (sample, output)
        Abundances in wt%.
    left_out : sequence of int arrays
        Samples that each fold leaves out; an empty one trains on everything.
    settings : TrainingSettings, optional
        Full batch and a constant learning rate only.
    others : ndarray, shape (sample, bands), optional
        Other spectra of the samples, such as single pixels where `spectra` are means: not trained on, but predicted
        where left out. Rows with a NaN have no prediction.
    polish_epochs : int
        Epochs more of each fold at a tenth of the rate, after its weights were taken for the average and before it
        predicts what it left out.
    members : int
        Folds, evenly spaced, whose networks are kept.
    backend : {"auto", "fused", "stacked"}
        The formulation; "auto" takes "stacked" on a GPU and "fused" elsewhere.
    device : {"auto", "cpu", "cuda"}
        Where to train.
    fold_batch : int, optional
        Folds that are in memory at once. By default 16, or what fits a GPU. It changes no result beyond rounding.
    threads : int, optional
        Folds trained side by side on the CPU; by default one to a core. Ignored on a Dask client, whose workers train
        one batch in each of their threads.
    checkpoint : path, optional
        Folder for the state of the training. A stopped run that is started again with the same arguments goes on
        where it was; a finished one is read. On a cluster it must be one that all workers see.
    progress : callable, optional
        See :data:`Progress`.

    Returns
    -------
    Folds

    Raises
    ------
    InputError
        Arrays that do not fit each other or are not finite, a fold without training samples, settings other than full
        batch.
    StoreConflictError
        If the checkpoint is of another training.
    """
    from lunarray.oxides.training import _float32

    settings = settings or TrainingSettings()
    spectra, targets = _float32(spectra, "spectra"), _float32(targets, "targets")
    if len(spectra) != len(targets):
        raise InputError(
            f"{len(spectra)} spectra and {len(targets)} targets",
            where="targets",
            remedy="give one row of oxides per spectrum",
        )
    if settings.schedule != "constant" or (settings.batch_size or len(spectra)) < len(spectra):
        raise InputError(
            f"schedule {settings.schedule!r} and batches of {settings.batch_size}",
            where="settings",
            remedy="folds are trained full batch at a constant rate; lunarray.oxides.training.train does the others",
        )
    if settings.epochs < 1:
        raise InputError(f"{settings.epochs} epochs", where="settings", remedy="give 1 or more")
    left_out = [np.unique(np.asarray(index, np.int64)) for index in left_out]
    for i, index in enumerate(left_out):
        if index.size and (index[0] < 0 or index[-1] >= len(spectra)):
            raise InputError("samples that are not there", where=f"fold {i}", remedy="give indices")
        if len(spectra) - index.size < 2:
            raise InputError(
                f"{len(spectra) - index.size} training samples of {len(spectra)}",
                where=f"fold {i}",
                remedy="batch normalisation needs at least 2: give more samples or smaller folds",
            )
    others = np.empty((0, 0), np.float32) if others is None else np.asarray(others, np.float32)
    if others.size and others.shape != spectra.shape:
        raise InputError(
            f"shape {others.shape}, beside spectra {spectra.shape}",
            where="others",
            remedy="give as many spectra on the same bands",
        )
    if not left_out:
        raise InputError("no fold", where="left_out", remedy="give one or more")
    backend, place = _choose(backend, device)
    count = min(members, len(left_out))
    chosen = np.unique(np.round(np.linspace(0, len(left_out) - 1, count)).astype(np.int64))
    size = fold_batch
    if size is None:
        size = _fit_gpu(spectra.shape, settings.n) if place == "cuda" else FOLD_BATCH
    folder = None if checkpoint is None else Path(checkpoint)
    if folder is not None:
        _begin(folder, spectra, targets, others, left_out, settings, polish_epochs, chosen, backend)

    batches = _batches(left_out, size)
    client = _client()
    common: dict[str, Any] = {
        "settings": settings, "polish_epochs": polish_epochs, "backend": backend, "device": place,
        "folder": None if folder is None else os.fspath(folder.resolve()),
    }  # fmt: skip
    if client is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        common["threads"] = threads or cores or 1
        results = [
            _run_batch(
                spectra, targets, others, [left_out[i] for i in batch], batch, chosen, progress=progress, **common
            )
            for batch in batches
        ]  # fmt: skip
    else:
        # Those with the most folds first would change nothing: the order of results is that of the batches.
        data = client.scatter([spectra, targets, others], broadcast=True, hash=True)
        futures = [
            client.submit(
                _run_batch, *data, [left_out[i] for i in batch], batch, chosen, threads=1, pure=False, **common
            )
            for batch in batches
        ]  # fmt: skip
        try:
            if progress is not None:
                from distributed import as_completed

                for future in as_completed(futures):
                    done = future.result()["loss"]
                    progress(done.size, float(done[:, -1].mean()))
            results = client.gather(futures)
        except BaseException:
            client.cancel(futures)
            raise
    return _collect(results, batches, left_out, targets.shape, settings.epochs + polish_epochs)


def _client() -> Any:
    from lunarray.engine import current_client

    return current_client()


def _batches(left_out: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    """Folds of equal size together, at most `size` at a time, in their order."""
    if size < 1:
        raise InputError(f"batches of {size} folds", where="fold_batch", remedy="give 1 or more")
    counts = np.array([len(index) for index in left_out])
    result = []
    for count in np.unique(counts):
        same = np.flatnonzero(counts == count)
        result += [same[i : i + size] for i in range(0, len(same), size)]
    return result


def _fit_gpu(shape: tuple[int, ...], n: int) -> int:
    """Folds that fit a GPU's memory: what autograd keeps of an epoch, and its gradients."""
    import torch

    from lunarray.oxides.model import CHANNEL_FACTORS

    channels = [1, *(f * n for f in CHANNEL_FACTORS)]
    # Of a layer: unfolded input, convolution, normalised, rectified, and as much again on the way back.
    a_position = sum(2 * 3 * before + 6 * after for before, after in pairwise(channels))
    free, _ = torch.cuda.mem_get_info()
    return max(1, int(_GPU_SHARE * free / (4 * a_position * shape[0] * shape[1])))


def _run_batch(
    spectra: np.ndarray,
    targets: np.ndarray,
    others: np.ndarray,
    left_out: Sequence[np.ndarray],
    numbers: np.ndarray,
    chosen: np.ndarray,
    *,
    settings: TrainingSettings,
    polish_epochs: int,
    backend: str,
    device: str,
    threads: int,
    folder: str | None,
    progress: Progress | None = None,
) -> State:
    """Train one batch of folds, or go on with it; the sum of weights, those of chosen folds, losses, predictions."""
    done = running = None
    if folder is not None:
        name = f"folds-{numbers[0]:05d}-{numbers[-1]:05d}-{len(numbers)}"
        done, running = (
            Path(folder) / f"{name}.safetensors",
            Path(folder) / f"{name}.running.safetensors",
        )
        if done.exists():
            finished = _read(done)
            if progress is not None:
                progress(finished["loss"].size, float(finished["loss"][:, -1].mean()))
            return finished
    everything = np.arange(len(spectra))
    kept = [np.setdiff1d(everything, index, assume_unique=True) for index in left_out]
    batch: FusedBatch | StackedBatch
    if backend == "fused":
        batch = FusedBatch(spectra, targets, kept, settings, threads=threads)
    else:
        batch = StackedBatch(spectra, targets, kept, settings, device=device)
    losses = np.empty((len(kept), 0))
    result: State = {}
    if running is not None and running.exists():
        snapshot = _read(running)
        losses = snapshot.pop("loss")
        result = {name: snapshot.pop(name) for name in list(snapshot) if name.startswith("sum/")}
        batch.restore(snapshot)
        if progress is not None:
            progress(losses.size, float(losses[:, -1].mean()))
    # The same steps with and without a checkpoint.
    for end, rate in (
        (settings.epochs, settings.learning_rate),
        (settings.epochs + polish_epochs, POLISH_RATE * settings.learning_rate),
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
            if running is not None and losses.shape[1] < settings.epochs + polish_epochs:
                write_tensors(running, _contiguous({**batch.snapshot(), **result, "loss": losses}))
    batch.settle()
    states = batch.states()
    result["loss"] = losses
    if len(numbers) == 1 and not left_out[0].size:
        # A network that leaves nothing out is no average: it keeps its statistics.
        result |= {f"sum/{key}": np.asarray(value, np.float64) for key, value in states[0].items()}
    for number, state in zip(numbers, states, strict=True):
        if number in chosen:
            result |= {f"{number}/{key}": value for key, value in state.items()}
    predictions = [predict_state(s, spectra[i]) for s, i in zip(states, left_out, strict=True)]
    result["left_out"] = np.concatenate(predictions)
    if others.size:
        predictions = [predict_state(s, others[i]) for s, i in zip(states, left_out, strict=True)]
        result["left_out_others"] = np.concatenate(predictions)
    if done is not None and running is not None:
        write_tensors(done, _contiguous(result))
        running.unlink(missing_ok=True)
    return result


def predict_state(state: Mapping[str, np.ndarray], spectra: np.ndarray) -> np.ndarray:
    """Abundances (wt%) by a network, shape (sample, output), float32."""
    from lunarray.oxides.kernels import FusedCNN

    if len(spectra) == 0:
        return np.empty((0, len(state["target_mean"])), np.float32)
    return FusedCNN.from_state(state)(np.ascontiguousarray(spectra, np.float32))


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


# --- Checkpoints -----------------------------------------------------------------------------------


def _begin(
    folder: Path,
    spectra: np.ndarray,
    targets: np.ndarray,
    others: np.ndarray,
    left_out: Sequence[np.ndarray],
    settings: TrainingSettings,
    polish_epochs: int,
    chosen: np.ndarray,
    backend: str,
) -> None:
    """Make the folder, or see that it is of the same training."""
    sha = hashlib.sha256()
    for array in (spectra, targets, others, chosen, *left_out):
        sha.update(f"{array.dtype.str}{array.shape};".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    plan = {
        "format": "lunarray.oxides.folds",
        "version": 1,
        "settings": asdict(settings),
        "polish_epochs": polish_epochs,
        "backend": backend,
        "folds": len(left_out),
        "data_sha256": sha.hexdigest(),
    }
    path = folder / _PLAN
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(plan, indent=1, sort_keys=True), encoding="utf-8")
        partial.replace(path)
        return
    except (OSError, ValueError) as error:
        raise StoreFormatError(
            f"cannot be read ({error})", where=path, remedy="delete the folder and start again"
        ) from error
    if there != plan:
        differ = [key for key in plan if there.get(key) != plan[key]]
        raise StoreConflictError(
            f"the checkpoint is of another training ({', '.join(differ)} differ)",
            where=folder,
            remedy="give the arguments and samples that it was begun with, or another folder",
        )


def _contiguous(arrays: Mapping[str, np.ndarray]) -> State:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _read(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise StoreFormatError(
            f"a broken checkpoint ({error})", where=path, remedy="delete this file and start again"
        ) from error
