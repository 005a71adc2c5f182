"""Applying a model or kernel to every pixel of an array, block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np

from lunarray.engine.batches import in_batches
from lunarray.engine.models import ModelSpec, Predictor
from lunarray.engine.placement import placed

#: Pixels that a model gets at once: enough to amortise a call, few enough that its activations stay small.
BATCH_SIZE = 4096


def map_pixels(
    kernel: ModelSpec | Predictor,
    data: np.ndarray | da.Array,
    *,
    axis: int = 0,
    outputs: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> Any:
    """Apply a model or kernel to the vector at every pixel.

    A pixel with a NaN or infinity anywhere in its vector never reaches the kernel and comes back NaN. The batch that
    the kernel gets is cut from a block, independent of its size.

    Parameters
    ----------
    kernel : ModelSpec or callable
        A callable takes (pixel, band) float32, C-contiguous, and returns (pixel, output). It must treat each pixel by
        itself, and for a chunked array it must be picklable.
    data : ndarray or dask Array
        Any number of dimensions, float32 after conversion.
    axis : int, default 0
        The axis of the vectors. A chunked array is brought into one chunk along it.
    outputs : int, optional
        Values that the kernel returns for a pixel; known from a ModelSpec.
    batch_size : int
        Pixels that the kernel gets at once, at most. Fewer where memory, the GPU's or the process's, does not suffice.

    Returns
    -------
    ndarray or dask Array
        float32, with `axis` of length `outputs`; lazy where `data` is, with one task for each block. On a cluster with
        GPU workers the tasks of a ModelSpec are bound to these (:func:`lunarray.engine.placed`).
    """
    if outputs is None:
        if not isinstance(kernel, ModelSpec):
            raise TypeError("outputs must be given for a kernel that is no ModelSpec")
        outputs = kernel.outputs
    axis %= data.ndim
    if not isinstance(data, da.Array):
        return _map_block(np.asarray(data), kernel, axis, outputs, batch_size)
    whole: da.Array = data.rechunk({axis: -1})
    chunks = (*whole.chunks[:axis], (outputs,), *whole.chunks[axis + 1 :])
    with placed(kernel):
        return da.map_blocks(
            _map_block,
            whole,
            kernel,
            axis,
            outputs,
            batch_size,
            chunks=chunks,
            dtype=np.float32,
            meta=np.empty((0,) * whole.ndim, np.float32),
        )


def _map_block(
    block: np.ndarray,
    kernel: ModelSpec | Callable[[np.ndarray], np.ndarray],
    axis: int,
    outputs: int,
    batch_size: int,
) -> np.ndarray:
    vectors = np.moveaxis(block, axis, 0)
    shape = vectors.shape[1:]
    vectors = vectors.reshape(vectors.shape[0], -1)
    result = np.full((outputs, vectors.shape[1]), np.nan, np.float32)
    (valid,) = np.isfinite(vectors).all(axis=0).nonzero()
    if valid.size:
        predictor = kernel.load() if isinstance(kernel, ModelSpec) else kernel

        def call(begin: int, end: int) -> None:
            batch = valid[begin:end]
            pixels = np.ascontiguousarray(vectors[:, batch].T, np.float32)
            result[:, batch] = predictor(pixels).T

        known = kernel.sha256 if isinstance(kernel, ModelSpec) else None
        in_batches(call, valid.size, batch_size, remember=known)
    return np.moveaxis(result.reshape(outputs, *shape), 0, axis)
