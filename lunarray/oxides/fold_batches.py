"""Folds in training, many at a time: on the CPU one to a thread, on a GPU stacked.

Both formulations give the same numbers as the plain loop in PyTorch, fold by fold:

* "fused", on the CPU: :mod:`lunarray.oxides.training_kernels`, as many folds side by side as there are threads;
* "stacked", for GPUs: parameters get a leading axis of folds, convolutions are batched matrix products.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from lunarray.errors import needs
from lunarray.oxides.networks import State, initial_state, standardisation
from lunarray.oxides.settings import TrainSettings

#: Called with fold-epochs done since the last call and their mean loss.
Progress = Callable[[int, float], None]

#: Share of a GPU's free memory that a batch of folds may take.
_GPU_SHARE = 0.6


class FusedBatch:
    """Folds on the CPU, one to a thread.

    `kept` are the training samples of each fold, and `begin` the network that each begins with, but for its
    standardisation; by default that of the seed. `weights` (sample, output): what each sample counts.
    """

    def __init__(
        self,
        spectra: np.ndarray,
        targets: np.ndarray,
        kept: Sequence[np.ndarray],
        settings: TrainSettings,
        *,
        workers: int = 1,
        begin: State | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        from lunarray.oxides.fold_state import FoldState

        if begin is None:
            begin = initial_state(settings, spectra.shape[1], targets.shape[1])
        self.workers = max(1, min(workers, len(kept)))
        self._local = threading.local()
        self._folds = []
        for index in kept:
            x, y = spectra[index], targets[index]
            state = {**begin, **standardisation(x, y)}
            fold = FoldState(
                state, x, y, settings.n, settings.learning_rate, settings.weight_decay,
                None if weights is None else weights[index],
            )  # fmt: skip
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
        from lunarray.oxides.fold_state import Memory

        if not hasattr(self._local, "memory"):
            self._local.memory = Memory()
        return self._local.memory

    def _each(self, work: Callable[[Any], Any]) -> list[Any]:
        if self.workers == 1:
            return [work(fold) for fold in self._folds]
        with ThreadPoolExecutor(self.workers) as pool:
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

    As :class:`FusedBatch`, with as many training samples in each fold.
    """

    def __init__(
        self,
        spectra: np.ndarray,
        targets: np.ndarray,
        kept: Sequence[np.ndarray],
        settings: TrainSettings,
        *,
        device: str = "cpu",
        begin: State | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        with needs("torch", "training on oxides on a GPU"):
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
        w = np.ones_like(y) if weights is None else np.stack([weights[i] for i in kept])
        self._x, self._y, self._w = (
            torch.from_numpy(a.astype(np.float32)).to(device) for a in (x, y, w)
        )
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
            losses = (self._w * (self._forward() - self._y) ** 2).mean(dim=(1, 2))
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

    def _tensors(self) -> dict[str, Any]:
        """All that training goes on from, by name, but for the number of epochs."""
        tensors = {**self._parameters, **self._running}
        for name, parameter in self._parameters.items():
            for part in ("exp_avg", "exp_avg_sq"):
                tensors[f"{part}/{name}"] = self._optimiser.state[parameter][part]
        return tensors

    def snapshot(self) -> State:
        """All that training goes on from."""
        arrays = {name: value.detach().cpu().numpy() for name, value in self._tensors().items()}
        return {**arrays, "number": np.array([[self._number]] * self._folds, np.int64)}

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """Go on from a :meth:`snapshot`."""
        import torch

        self._number = int(snapshot["number"][0, 0])
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(torch.from_numpy(snapshot[name]))
        for state in self._optimiser.state.values():
            state["step"].fill_(self._number)


def folds_that_fit(shape: tuple[int, ...], n: int) -> int:
    """Folds that fit a GPU's memory: what autograd keeps of an epoch, and its gradients."""
    with needs("torch", "training on oxides on a GPU"):
        import torch

    from lunarray.oxides.model import CHANNEL_FACTORS

    channels = [1, *(f * n for f in CHANNEL_FACTORS)]
    # Of a layer: unfolded input, convolution, normalised, rectified, and as much again on the way back.
    a_position = sum(2 * 3 * before + 6 * after for before, after in pairwise(channels))
    free, _ = torch.cuda.mem_get_info()
    return max(1, int(_GPU_SHARE * free / (4 * a_position * shape[0] * shape[1])))
