"""Blocks that many tasks need, laid down in a file until the last of them has read its rows.

A block that is shared stays in memory for as long as any task still waits for it. Where each of many results needs some
rows of nearly every block, as the cells of a map do of tracks that cross it, that is all of the input at once. A
spilled block lies in a file without a name instead, which the system takes away with the process, however that ends.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import dask
import numpy as np

from lunarray.errors import StoreWriteError

__all__ = ["Spilled", "spill"]

#: Rows that lie apart are read in one piece with what is between them up to so many bytes.
_AT_ONCE = 2**20

_files: weakref.WeakValueDictionary[str, _File] = weakref.WeakValueDictionary()
_lock = threading.Lock()


class _File:
    """A file without a name in Dask's ``temporary-directory``, or the system's; gone when nobody holds it."""

    def __init__(self) -> None:
        folder = dask.config.get("temporary-directory", None)
        self.file: Any = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (open for as long as this)
        self.end = 0

    def put(self, data: np.ndarray) -> int:
        """Write an array, and say where it begins."""
        view = np.ascontiguousarray(data).view(np.uint8).reshape(-1).data
        with _lock:
            begin, self.end = self.end, self.end + len(view)
        done = 0
        while done < len(view):
            done += self._put_at(view[done:], begin + done)
        return begin

    def _put_at(self, view: memoryview, place: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.file.fileno(), view, place)
        with _lock:  # Windows knows no writing at a place: one thread at a time
            self.file.seek(place)
            return self.file.write(view)

    def _get_at(self, view: memoryview, place: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.file.fileno(), [view], place)
        with _lock:
            self.file.seek(place)
            return self.file.readinto(view)

    def get(self, begin: int, into: np.ndarray) -> None:
        """Fill an array with what was written."""
        view, done = into.view(np.uint8).reshape(-1).data, 0
        while done < len(view):
            read = self._get_at(view[done:], begin + done)
            if not read:
                raise EOFError(f"{self.file.name}: the file ends early")
            done += read


class Spilled:
    """Arrays of the same rows in a file; pickled, they are a list of arrays again.

    `file`: where they are; `parts`: where each begins, its shape and type.
    """

    def __init__(
        self, file: _File, parts: Sequence[tuple[int, tuple[int, ...], np.dtype[Any]]]
    ) -> None:
        self._file, self._parts = file, tuple(parts)

    def take(self, rows: np.ndarray) -> list[np.ndarray]:
        """These rows of each array; `rows` int, rising."""
        return [self._rows(*part, rows) for part in self._parts]

    def _rows(
        self, begin: int, shape: tuple[int, ...], dtype: np.dtype[Any], rows: np.ndarray
    ) -> np.ndarray:
        rows = np.asarray(rows, np.int64)
        width = math.prod(shape[1:]) * dtype.itemsize
        out = np.empty((rows.size, *shape[1:]), dtype)
        if not out.size:
            return out
        # Runs are cut where it is cheaper to ask again than to read what lies between.
        gaps = np.flatnonzero(np.diff(rows) * width > max(4096, 2 * width)) + 1
        edges = [0, *gaps.tolist(), rows.size]
        for first, last in itertools.pairwise(edges):
            low, high = int(rows[first]), int(rows[last - 1]) + 1
            step = max(1, _AT_ONCE // width) if high - low > last - first else high - low
            for start in range(low, high, step):
                stop = min(start + step, high)
                a, b = first + np.searchsorted(rows[first:last], [start, stop])
                if b - a == stop - start:
                    self._file.get(begin + start * width, out[a:b])
                elif b > a:
                    piece = np.empty((stop - start, *shape[1:]), dtype)
                    self._file.get(begin + start * width, piece)
                    out[a:b] = piece[rows[a:b] - start]
        return out

    def __reduce__(self) -> Any:
        whole = [self._rows(*part, np.arange(part[1][0])) for part in self._parts]
        return list, (whole,)


def spill(arrays: Sequence[np.ndarray], run: str) -> Spilled:
    """Lay arrays of the same rows down in the file of a run, which all of its blocks share.

    StoreWriteError if there is no folder or no room for them.
    """
    try:
        with _lock:
            file = _files.get(run)
            if file is None:
                file = _files[run] = _File()
        arrays = [np.asarray(array) for array in arrays]
        return Spilled(file, [(file.put(a), a.shape, a.dtype) for a in arrays])
    except OSError as error:
        raise StoreWriteError(
            f"what is needed meanwhile cannot be laid down ({error.strerror or error})",
            where=dask.config.get("temporary-directory", None) or tempfile.gettempdir(),
            remedy="Make room there, or name a folder with room as Dask's 'temporary-directory'",
        ) from error
