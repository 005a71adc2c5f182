"""How arrays are cut up on disk: chunks, shards, and the regions that are written at once."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: Axes that are read whole, wherever a pixel is read: they are never split.
WHOLE_AXES = frozenset({"wavelength", "channel", "energy", "element", "oxide", "corner", "feature"})

#: A variable is cut into about this many chunks, as far as these bounds allow: enough that a job of some seconds shows
#: how far it is, and that a stop loses little of it.
CHUNKS = 64
MIN_CHUNK_BYTES = 2**18
CHUNK_BYTES = 16 * 2**20
MAX_CHUNK_BYTES = 64 * 2**20
MAX_OBJECTS = 10_000


@dataclass(frozen=True)
class Layout:
    """Cut of one array.

    `chunks`: shape of a chunk, the unit of compression and reading; `shards`: shape of a shard, the unit of storage,
    None where each chunk is an object of its own.
    """

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None

    @property
    def region(self) -> tuple[int, ...]:
        """Shape of the unit of writing: one object of the store."""
        return self.shards or self.chunks


def choose_layout(
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    itemsize: int,
    blocks: tuple[int, ...],
    *,
    chunk_bytes: int | None = None,
    max_objects: int = MAX_OBJECTS,
) -> Layout:
    """Choose chunks and shards for an array.

    `dims`, `shape`, `itemsize`: of the array; `blocks`: shape of the array's Dask blocks. Chunks are whole multiples or
    whole parts of it, so that writing rearranges as little as possible; `chunk_bytes`: the least size of a chunk, where
    the array is as large; at most four times that. By default a sixty-fourth of the array, between 256 KiB and 16 MiB;
    `max_objects`: more chunks than this are gathered into shards.
    """
    shape = tuple(max(size, 1) for size in shape)
    if chunk_bytes is None:
        share = math.prod(shape) * itemsize // CHUNKS
        chunk_bytes = min(max(share, MIN_CHUNK_BYTES), CHUNK_BYTES)
    fixed = tuple(dim in WHOLE_AXES for dim in dims)
    chunk = [
        size if whole else min(block, size)
        for size, block, whole in zip(shape, blocks, fixed, strict=True)
    ]
    free = [axis for axis in range(len(dims)) if not fixed[axis]]

    def nbytes() -> int:
        return math.prod(chunk) * itemsize

    while nbytes() < chunk_bytes and any(chunk[axis] < shape[axis] for axis in free):
        # Grow the axis that is cut into most pieces: chunks stay as square as the blocks allow.
        axis = max(free, key=lambda axis: (math.ceil(shape[axis] / chunk[axis]), -axis))
        chunk[axis] = min(2 * chunk[axis], shape[axis])
    while nbytes() > 4 * chunk_bytes and any(chunk[axis] > 1 for axis in free):
        axis = max(free, key=lambda axis: (chunk[axis], -axis))
        chunk[axis] = math.ceil(chunk[axis] / 2)

    counts = [math.ceil(size / part) for size, part in zip(shape, chunk, strict=True)]
    if math.prod(counts) <= max_objects:
        return Layout(tuple(chunk), None)
    factor = [1] * len(dims)
    while math.prod(math.ceil(n / k) for n, k in zip(counts, factor, strict=True)) > max_objects:
        axis = max(free, key=lambda axis: (math.ceil(counts[axis] / factor[axis]), -axis))
        factor[axis] *= 2
    return Layout(tuple(chunk), tuple(c * k for c, k in zip(chunk, factor, strict=True)))


_lock = threading.Lock()
_writers: list[object] = []
_setting: list[Any] = []


@contextmanager
def every_chunk() -> Iterator[None]:
    """Have Zarr write chunks that hold fill values alone too: what exists is done, and what is missing is lost.

    Zarr's setting is one for the process: the first of the threads that write sets it, and the last sets it back. One
    that set it back while another wrote would leave out chunks of that one.
    """
    import zarr

    mine = object()
    with _lock:
        if not _writers:
            _setting.append(zarr.config.set({"array.write_empty_chunks": True}))
            _setting[-1].__enter__()
        _writers.append(mine)
    try:
        yield
    finally:
        with _lock:
            _writers.remove(mine)
            if not _writers:
                _setting.pop().__exit__(None, None, None)
