"""What has been read is kept: blocks in memory up to a limit, overviews of large maps in files up to another."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np

#: Bytes of blocks in memory, and of overviews in files.
MEMORY, FILES = 256 * 2**20, 4 * 2**30


class Blocks:
    """Arrays by key, the least recently used of which go first.

    Parameters
    ----------
    limit : int
        Bytes.
    """

    def __init__(self, limit: int = MEMORY) -> None:
        self.limit, self.size = limit, 0
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What is kept under a key, or made now; two that ask for the same at once wait for one making."""
        found = self._found(key)
        if found is not None:
            return found
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                found = self._found(key)
                if found is None:
                    found = make()
                    self._keep(key, found)
        finally:
            with self._lock:
                self._making.pop(key, None)
        return found

    def _found(self, key: Hashable) -> np.ndarray | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: Hashable, array: np.ndarray) -> None:
        with self._lock:
            self._kept[key] = array
            self.size += array.nbytes
            while self.size > self.limit and len(self._kept) > 1:
                self.size -= self._kept.popitem(last=False)[1].nbytes


class Files:
    """Arrays in files of the user's cache folder, which is kept below a limit; where it cannot be written, in memory.

    Parameters
    ----------
    folder : Path, optional
        By default ``lunarray/overviews`` in the folder that the system has for caches.
    limit : int
        Bytes.
    """

    def __init__(self, folder: Path | None = None, limit: int = FILES) -> None:
        self.folder = _cache_folder() if folder is None else folder
        self.limit = limit

    def read(self, name: str) -> np.ndarray | None:
        """An array, mapped into memory; None where there is none."""
        path = self.folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            os.utime(path)
        except (OSError, ValueError, EOFError):
            return None
        return array

    def write(self, name: str, array: np.ndarray) -> np.ndarray:
        """Keep an array; gives it as it is read from its file."""
        path = self.folder / f"{name}.npy"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, part = tempfile.mkstemp(dir=self.folder, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as stream:
                    np.save(stream, array, allow_pickle=False)
                os.replace(part, path)
            except BaseException:
                Path(part).unlink(missing_ok=True)
                raise
            self._clean(path)
        except OSError:
            return array  # a full disk, or no permission
        found = self.read(name)
        return array if found is None else found

    def _clean(self, newest: Path) -> None:
        """Delete what was not read for longest, down to the limit."""
        told = []
        for path in self.folder.glob("*.npy"):
            with contextlib.suppress(OSError):
                state = path.stat()
                told.append((state.st_mtime, state.st_size, path))
        size = sum(one[1] for one in told)
        for _, own, path in sorted(told):
            if size <= self.limit:
                break
            if path != newest:
                with contextlib.suppress(OSError):  # Windows keeps what is mapped
                    path.unlink()
                    size -= own


def _cache_folder() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lunarray" / "overviews"
