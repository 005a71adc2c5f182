"""A trained 1D-CNN packed for the compiled kernel: checks, folding of layers, and their layout in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lunarray.errors import BandMismatchError, InputError, ModelError
from lunarray.oxides.convolution_code import FILTER, GROUP, POINTS, TARGETS, TILE, register_tile
from lunarray.oxides.kernels import Packed, forward
from lunarray.oxides.vector_code import HEIGHTS, WIDTH, aligned, padded, whole_lines

#: Pixels that are converted at a time where the input is not C-contiguous float32.
BLOCK = 1024


def _spectra(x: ArrayLike, bands: int) -> NDArray:
    """The input as an array, if it is (pixel, bands)."""
    x = np.asarray(x)
    if x.ndim != 2:
        raise InputError(
            f"an array of {x.ndim} dimensions", where="x", remedy="Give (pixel, bands)"
        )
    if x.shape[1] != bands:
        raise BandMismatchError(f"{x.shape[1]} bands", where="x", remedy=f"The model needs {bands}")
    if x.dtype.kind not in "fiu":
        raise InputError(f"data of type {x.dtype}", where="x", remedy="Give real numbers")
    return x


def _blocks(x: NDArray) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Pieces that the kernels take, each with its first pixel.

    That is the whole of a C-contiguous float32 array. Everything else is copied, a block at a time so that the copy
    stays small. Read-only arrays are of another type to Numba: without the copy the kernel would be compiled again.
    """
    if x.dtype == np.float32 and x.flags.carray:
        if len(x):
            yield 0, x
        return
    for start in range(0, len(x), BLOCK):
        yield start, np.array(x[start : start + BLOCK], np.float32, order="C")


class ConvBlock(NamedTuple):
    """Trained parameters of one block, Conv1d(k = 3) -> BatchNorm1d.

    `weight` (channels out, channels in, 3) and `bias` (channels out,); scale `gamma`, shift `beta` and running
    statistics of the batch normalisation (channels out,), and `eps`, what it adds to the variance.
    """

    weight: ArrayLike
    bias: ArrayLike | None
    gamma: ArrayLike
    beta: ArrayLike
    mean: ArrayLike
    var: ArrayLike
    eps: float = 1e-5

    def folded(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights and bias of the one convolution that does the work of both layers (float64)."""
        weight = np.asarray(self.weight, np.float64)
        scale = np.asarray(self.gamma, np.float64) / np.sqrt(
            np.asarray(self.var, np.float64) + self.eps
        )
        bias = 0.0 if self.bias is None else np.asarray(self.bias, np.float64)
        shift = np.asarray(self.beta, np.float64) + scale * (
            bias - np.asarray(self.mean, np.float64)
        )
        return weight * scale[:, None, None], shift


class FusedCNN:
    """The trained 1D-CNN as a function from spectra to oxides, on the CPU.

    `blocks` are in order, the first one of one channel. `fc_weight` (targets, channels * bands) has its inputs channel
    by channel, as PyTorch's `flatten` leaves them. Spectra are standardised as ``(x - x_mean) / x_std``, (bands,), and
    targets in wt% are ``y * y_std + y_mean``, (targets,). ModelError when these do not fit together or are not finite.

    Instances hold arrays only; they may be called from several threads at once and pickle. The code is compiled for the
    processor at the first call (a few seconds) and cached on disk by Numba.
    """

    def __init__(
        self,
        blocks: Sequence[ConvBlock],
        fc_weight: ArrayLike,
        fc_bias: ArrayLike,
        x_mean: ArrayLike,
        x_std: ArrayLike,
        y_mean: ArrayLike,
        y_std: ArrayLike,
    ) -> None:
        x_mean, x_std, y_mean, y_std, fc_weight, fc_bias = (
            np.asarray(a, np.float64) for a in (x_mean, x_std, y_mean, y_std, fc_weight, fc_bias)
        )
        if not blocks:
            raise ModelError("a 1D-CNN without convolution blocks", where="blocks")
        folded = [ConvBlock(*block).folded() for block in blocks]
        widths = [1] + [w.shape[0] for w, _ in folded]
        for n, (weight, _) in enumerate(folded):
            if weight.shape[1:] != (widths[n], 3):
                raise ModelError(
                    f"convolution weights of shape {weight.shape}",
                    where=f"block {n + 1}",
                    remedy=f"It must be (channels, {widths[n]}, 3)",
                )
        bands, targets = x_mean.size, y_mean.size
        shapes = {
            "fc_weight": (fc_weight, (targets, widths[-1] * bands)),
            "fc_bias": (fc_bias, (targets,)),
            "x_mean": (x_mean, (bands,)),
            "x_std": (x_std, (bands,)),
            "y_mean": (y_mean, (targets,)),
            "y_std": (y_std, (targets,)),
        }
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ModelError(f"shape {array.shape}", where=name, remedy=f"It must be {shape}")
        if not bands or not targets:
            raise ModelError(f"a model of {bands} bands and {targets} targets", where="x_mean")
        if not (x_std > 0).all():
            raise ModelError("standard deviations that are not positive", where="x_std")
        everything = [a for a, _ in shapes.values()] + [a for pair in folded for a in pair]
        if not all(np.isfinite(a).all() for a in everything):
            raise ModelError("parameters that are not finite", where="weights")

        #: Bands of the input and oxides of the output.
        self.bands, self.targets = bands, targets
        first, layers, weights, biases = _pack_blocks(folded, widths)
        scaled = (fc_weight * y_std[:, None]).reshape(targets, widths[-1], bands)
        last, last_bias = _pack_last(scaled, fc_bias * y_std + y_mean)
        sizes, choice = _plan(bands, int(layers[:, 2].max()), last_bias.size)
        self._packed = Packed(
            x_mean.astype(np.float32), x_std.astype(np.float32), layers, first, weights, biases,
            last, last_bias, sizes, choice,
        )  # fmt: skip

    @classmethod
    def from_state(cls, state: Mapping[str, ArrayLike], *, eps: float = 1e-5) -> FusedCNN:
        """Build the kernel from ``OxideCNN.state_dict()`` as arrays, or the tensors of its safetensors file.

        Other names are ignored. `eps` is what the batch normalisations add to the variance, which the state does not
        say. ModelError when a tensor is missing or does not fit.
        """
        try:
            blocks: list[ConvBlock] = []
            while f"features.{len(blocks)}.0.weight" in state:
                conv, norm = (f"features.{len(blocks)}.{part}." for part in (0, 1))
                blocks.append(
                    ConvBlock(
                        state[conv + "weight"],
                        state.get(conv + "bias"),
                        state[norm + "weight"],
                        state[norm + "bias"],
                        state[norm + "running_mean"],
                        state[norm + "running_var"],
                        eps,
                    )
                )
            return cls(
                blocks,
                state["head.weight"],
                state["head.bias"],
                state["input_mean"],
                state["input_std"],
                state["target_mean"],
                state["target_std"],
            )
        except KeyError as error:
            raise ModelError(
                f"no tensor {error}", where="state", remedy="Give the state of an OxideCNN"
            ) from error

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """Oxides (pixel, targets) in wt%, float32, of spectra (pixel, bands); one with NaN comes back as NaN."""
        x = _spectra(x, self.bands)
        out = np.empty((x.shape[0], self.targets), np.float32)
        work = aligned(int(self._packed.sizes.sum()))
        work[:] = 0
        for start, part in _blocks(x):
            forward(part, out[start : start + len(part)], self._packed, work)
        return out


def _pack_blocks(
    folded: Sequence[tuple[NDArray, NDArray]], widths: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Lay the convolution weights out in the order in which the kernel reads them."""
    weight, bias = folded[0]
    width = padded(widths[1])
    flat = aligned(4 * width)
    first = flat.reshape(4, width)
    first[:] = 0
    first[:3, : widths[1]] = weight[:, 0].T
    first[3, : widths[1]] = bias

    layers = [[1, 1, width, 0, 0]]
    packed: list[NDArray] = []
    biases: list[NDArray] = []
    weight_at = bias_at = 0
    for n, (weight, bias) in enumerate(folded[1:], start=1):
        channels, width = widths[n], padded(widths[n + 1])
        layers.append([channels, padded(channels), width, weight_at, bias_at])
        # (point, column of tiles, channel in, channel out), the column first.
        points = np.zeros((POINTS, channels, width))
        points[..., : widths[n + 1]] = np.einsum("pk,oik->pio", FILTER, weight)
        columns = points.reshape(POINTS, channels, width // WIDTH, WIDTH)
        packed.append(columns.transpose(2, 0, 1, 3).ravel())
        biases.append(np.pad(bias, (0, width - bias.size)))
        weight_at += packed[-1].size
        bias_at += width
    weights, shifts = aligned(weight_at), aligned(bias_at)
    if packed:
        weights[:] = np.concatenate(packed)
        shifts[:] = np.concatenate(biases)
    return flat, np.array(layers, np.int64), weights, shifts


def _pack_last(weight: NDArray, bias: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lay the weights (target, channel, band) out as (target, band, channel), zero in all padding."""
    targets, channels, bands = weight.shape
    rows = -(-bands // TILE) * TILE
    whole = -(-targets // TARGETS) * TARGETS
    width = padded(channels)
    flat = aligned(whole * rows * width)
    last = flat.reshape(whole, rows, width)
    last[:] = 0
    last[:targets, :bands, :channels] = weight.transpose(0, 2, 1)
    last_bias = np.zeros(whole, np.float32)
    last_bias[:targets] = bias
    return flat, last_bias


def _plan(bands: int, width: int, targets: int) -> tuple[NDArray[np.int64], int]:
    """Sizes of the parts of the working memory, and the register tile."""
    tiles = -(-bands // TILE)
    choice = register_tile(tiles)
    height = HEIGHTS[choice]
    length = tiles * TILE + 2
    sizes = [
        whole_lines(length),
        POINTS * height * width,
        POINTS * height * WIDTH,
        GROUP * length * width,
        GROUP * length * width,
        whole_lines(GROUP * targets),
    ]
    return np.array(sizes, np.int64), choice
