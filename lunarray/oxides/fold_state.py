"""A network in training on the CPU: its parameters in one vector, and the memory that an epoch needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lunarray.oxides.convolution_code import GROUP, POINTS, TILE, register_tile
from lunarray.oxides.training_kernels import LAYERS, MOMENTUM, Network, Work, epoch
from lunarray.oxides.vector_code import HEIGHTS, WIDTH, aligned, padded


class FoldState:
    """One network in training: its parameters, Adam's moments, and the memory that an epoch needs.

    It begins with `state`, of an `OxideCNN` with its standardisation set and `n` channels in the first block;
    `spectra` are (sample, bands), `targets` (sample, output) in wt%; `rate` and `decay` are Adam's; `weights` are what
    each sample counts for each output, by default all the same.
    """

    def __init__(
        self,
        state: Mapping[str, Any],
        spectra: NDArray[np.float32],
        targets: NDArray[np.float32],
        n: int,
        rate: float,
        decay: float,
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        from lunarray.oxides.model import CHANNEL_FACTORS

        samples, bands = spectra.shape
        outputs = targets.shape[1]
        self.bands, self.outputs, self.rate, self.decay = bands, outputs, rate, decay
        channels = [factor * n for factor in CHANNEL_FACTORS]
        widths = [padded(c) for c in channels]
        self.plan = np.array([channels, widths], np.int64).T.copy()
        self.tiles = -(-bands // TILE)
        wide = max(widths)

        self.at = np.zeros((LAYERS + 1, 4), np.int64)
        size = 0
        before = 1
        for layer, width in enumerate(widths):
            for part, length in enumerate((3 * before * width, width, width, width)):
                self.at[layer, part] = size
                size += length
            before = width
        self.at[LAYERS, 0] = size
        size += outputs * bands * widths[-1]
        self.at[LAYERS, 1] = size
        size += -(-outputs // 16) * 16
        self.theta, self.grad, self.m, self.v = (aligned(size) for _ in range(4))
        for array in (self.theta, self.grad, self.m, self.v):
            array[:] = 0
        self.running = np.zeros((LAYERS, 2, wide), np.float32)
        self.number = 0
        self.fixed = {
            k: np.asarray(state[k], np.float32)
            for k in ("input_mean", "input_std", "target_mean", "target_std")
        }
        for name, view in self._views().items():
            view[...] = np.asarray(state[name]).reshape(view.shape)

        self.x = np.zeros((samples, bands + 2), np.float32)
        self.x[:, 1:-1] = (spectra - self.fixed["input_mean"]) / self.fixed["input_std"]
        self.y = (targets - self.fixed["target_mean"]) / self.fixed["target_std"]
        self.y = np.ascontiguousarray(self.y, np.float32)
        self.weight = np.ones_like(self.y) if weights is None else weights.astype(np.float32)

    def _views(self) -> dict[str, NDArray[np.float32]]:
        """Where each parameter and statistic of `OxideCNN.state_dict` lies; the last layer's weights by band."""
        views: dict[str, NDArray[np.float32]] = {}
        before, below = 1, 1
        for layer, (channels, width) in enumerate(self.plan):
            name, at = f"features.{layer}.", self.at[layer]
            kernel = self.theta[at[0] : at[0] + 3 * below * width].reshape(3, below, width)
            views[name + "0.weight"] = kernel[:, :before, :channels].transpose(2, 1, 0)
            for part, key in ((1, "0.bias"), (2, "1.weight"), (3, "1.bias")):
                views[name + key] = self.theta[at[part] : at[part] + channels]
            for part, key in ((0, "1.running_mean"), (1, "1.running_var")):
                views[name + key] = self.running[layer, part, :channels]
            before, below = channels, width
        head, bias = self.at[LAYERS, :2]
        weight = self.theta[head : head + self.outputs * self.bands * below]
        weight = weight.reshape(self.outputs, self.bands, below)
        views["head.weight"] = weight[..., :before].transpose(0, 2, 1)
        views["head.bias"] = self.theta[bias : bias + self.outputs]
        return views

    def state(self) -> dict[str, NDArray]:
        """The network as `OxideCNN.state_dict` has it."""
        result: dict[str, NDArray] = {name: view.copy() for name, view in self._views().items()}
        result["head.weight"] = result["head.weight"].reshape(self.outputs, -1)
        number = np.array(self.number, np.int64)
        result |= {f"features.{layer}.1.num_batches_tracked": number for layer in range(LAYERS)}
        return result | {k: a.copy() for k, a in self.fixed.items()}

    def snapshot(self) -> dict[str, NDArray]:
        """All that training goes on from."""
        number = np.array([self.number], np.int64)
        return {
            "theta": self.theta, "m": self.m, "v": self.v, "running": self.running, "number": number
        }  # fmt: skip

    def restore(self, snapshot: Mapping[str, NDArray]) -> None:
        """Go on from a :meth:`snapshot`."""
        self.theta[:] = snapshot["theta"]
        self.m[:] = snapshot["m"]
        self.v[:] = snapshot["v"]
        self.running[:] = snapshot["running"]
        self.number = int(snapshot["number"][0])

    def _epoch(self, memory: Memory, momentum: float, number: int) -> float:
        memory.fit(self)
        network = Network(
            self.theta, self.grad, self.m, self.v, self.running, self.plan, self.at, self.x, self.y,
            self.weight,
        )  # fmt: skip
        return epoch(network, memory.work, self.rate, self.decay, momentum, number)

    def run(self, epochs: int, memory: Memory) -> NDArray[np.float64]:
        """Train some epochs more; the loss before each step."""
        losses = np.empty(epochs)
        for i in range(epochs):
            self.number += 1
            losses[i] = self._epoch(memory, MOMENTUM, self.number)
        return losses

    def settle(self, memory: Memory) -> None:
        """Put the statistics of the final weights' own activations in place of the running ones, which lag behind."""
        self._epoch(memory, 1.0, 0)


class Memory:
    """Working memory of an epoch: about 0.35 MB a spectrum at n = 32. One for each thread, used fold after fold."""

    def __init__(self) -> None:
        self.key: tuple | None = None

    def fit(self, fold: FoldState) -> None:
        """Make it large enough for a fold."""
        samples = len(fold.x)
        widths = fold.plan[:, 1]
        key = (samples, fold.tiles, tuple(widths))
        if key == self.key:
            return
        self.key = key
        tiles, wide = fold.tiles, int(widths.max())
        rows = samples * tiles * TILE
        z_at = np.concatenate([[0], np.cumsum(rows * widths)])
        buffer_at = np.concatenate([[0], np.cumsum(GROUP * (tiles * TILE + 2) * widths)])
        choice = register_tile(tiles)
        height = HEIGHTS[choice]
        largest = int((widths[:-1] * widths[1:]).max())
        sizes = {
            "z": int(z_at[-1]),
            "d": 2 * rows * wide,
            "buffers": int(buffer_at[-1]),
            "packed": POINTS * largest,
            "turned": 3 * largest,
            "points": POINTS * height * wide,
            "products": POINTS * height * WIDTH,
            "points_in": POINTS * GROUP * tiles * wide,
            "points_out": POINTS * GROUP * tiles * wide,
            "sums": POINTS * largest,
        }
        parts = {name: aligned(size) for name, size in sizes.items()}
        # Rows about a spectrum are zero and never written.
        for array in parts.values():
            array[:] = 0
        self.work = Work(
            **parts,
            z_at=z_at.astype(np.int64),
            buffer_at=buffer_at.astype(np.int64),
            choice=choice,
        )
