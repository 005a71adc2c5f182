"""Applying a model or kernel to every pixel of an array, block by block, on the workers that run models."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import dask
import dask.array as da
import numpy as np

from lunarray.engine.batches import in_batches
from lunarray.engine.execution import current_client, labels
from lunarray.engine.models import ModelSpec, Predictor
from lunarray.errors import ModelError

#: Pixels that a model gets at once: enough to amortise a call, few enough that its activations stay small.
BATCH_SIZE = 4096

#: Pixels of a task, at most: larger blocks are cut, so that all threads have work and one sees how far it is.
BLOCK_PIXELS = 2**16

#: Resource label of the workers that have a GPU, one unit for each GPU; and of those that leave it to them.
GPU, CPU = "GPU", "CPU"


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
        float32, with `axis` of length `outputs`; lazy where `data` is, with one task for each block. Blocks of more
        than 65 536 pixels are cut. On a cluster with GPU workers the tasks of a ModelSpec are bound to these
        (:func:`lunarray.engine.placed`).

    Examples
    --------
    >>> import lunarray as la
    >>> import numpy as np
    >>> la.engine.map_pixels(lambda rows: rows.mean(axis=1, keepdims=True), np.ones((3, 2, 2)), outputs=1).shape
    (1, 2, 2)
    """
    if outputs is None:
        if not isinstance(kernel, ModelSpec):
            raise TypeError("outputs must be given for a kernel that is no ModelSpec")
        outputs = kernel.width
    axis %= data.ndim
    if not isinstance(data, da.Array):
        return _map_block(np.asarray(data), kernel, axis, outputs, batch_size)
    whole: da.Array = _finer(data.rechunk({axis: -1}), axis)
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


def _finer(data: da.Array, axis: int) -> da.Array:
    """Cut blocks of too many pixels, each by itself."""
    sizes = [1 if a == axis else max(1, *own) for a, own in enumerate(data.chunks)]
    while math.prod(sizes) > BLOCK_PIXELS:
        longest = max(range(len(sizes)), key=sizes.__getitem__)
        sizes[longest] = math.ceil(sizes[longest] / 2)
    chunks = tuple(
        own
        if a == axis
        else tuple(min(size, n - at) for n in own for at in range(0, n, size) or (0,))
        for a, (own, size) in enumerate(zip(data.chunks, sizes, strict=True))
    )
    return data if chunks == data.chunks else data.rechunk(chunks)


def take(data: Any, index: int | slice, axis: int = 0) -> Any:
    """Take one entry or several along an axis that blocks do not cut.

    The same as indexing, but block by block, so that Dask need not keep a task for every block of every entry.

    Parameters
    ----------
    data : ndarray or dask Array
    index : int or slice
        An int drops the axis.
    axis : int, default 0
        Counted from the front.

    Returns
    -------
    ndarray or dask Array
        A view of an ndarray; lazy where `data` is.

    Examples
    --------
    >>> import lunarray as la
    >>> import numpy as np
    >>> la.engine.take(np.arange(6).reshape(2, 3), 1, axis=1)
    array([1, 4])
    """
    cut = (slice(None),) * axis + (index,)
    if not isinstance(data, da.Array) or data.numblocks[axis] != 1:
        return data[cut]
    chunks, options = list(data.chunks), {}
    if isinstance(index, slice):
        chunks[axis] = (len(range(*index.indices(data.shape[axis]))),)
    else:
        del chunks[axis]
        options = {"drop_axis": axis}
    meta = np.empty((0,) * len(chunks), data.dtype)
    return da.map_blocks(
        operator.getitem, data, cut, chunks=tuple(chunks), dtype=data.dtype, meta=meta, **options
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
            values = np.asarray(predictor(pixels))
            if values.shape != (len(pixels), outputs):
                raise ModelError(
                    f"the model gave an array {values.shape} for pixels {pixels.shape}",
                    where=kernel.loader if isinstance(kernel, ModelSpec) else "kernel",
                    remedy=f"It must return (pixel, output), here {(len(pixels), outputs)}",
                )
            result[:, batch] = values.T

        known = kernel.sha256 if isinstance(kernel, ModelSpec) else None
        in_batches(call, valid.size, batch_size, remember=known)
    return np.moveaxis(result.reshape(outputs, *shape), 0, axis)


def placed(kernel: Any) -> AbstractContextManager[Any]:
    """Bind the Dask layers built in this context to GPU workers, if they run a model and there are such workers.

    `to_zarr` looks again when it writes, at the cluster that is there then, and recognises layers that carry a
    ModelSpec among their arguments. So this matters for results that are computed without being stored.

    Parameters
    ----------
    kernel : ModelSpec or anything
        What the layers run. Only a ModelSpec that may use a GPU is bound.

    Returns
    -------
    context manager

    Examples
    --------
    >>> import lunarray as la
    >>> with la.engine.placed(la.oxides.oxide_model()):
    ...     iron = la.sample("sp_orbit").lunar.condition().lunar.invert_oxides()["FeO"]
    """
    if (
        not isinstance(kernel, ModelSpec)
        or kernel.device == "cpu"
        or "distributed" not in sys.modules
    ):
        return nullcontext()
    if GPU not in labels(current_client()):
        return nullcontext()
    return dask.annotate(resources={GPU: 1})
