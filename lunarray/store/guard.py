"""Reading what is stored so that damage is an error, which names the object and the remedy, at whatever time it is met.

Zarr takes an object that is missing for fill values. A store that was written by lunarray has all of its objects, so
here one that is missing is an error; so is one that is not the one that was there when the store was opened.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.storage import WrapperStore

from lunarray.errors import LunarrayError, StoreChangedError, StoreDamagedError, StoreError
from lunarray.store.folder import target
from lunarray.store.objects import Cut, digest, sound
from lunarray.store.places import Place

#: What to do about damage.
REMEDY = (
    "Run again what wrote the store, which writes anew what is damaged; or 'lunarray verify STORE --repair', which "
    "takes the damaged objects away, and then the same"
)

BAD_CHECKSUM = "its checksum is not that of its bytes"


class CheckedStore(WrapperStore[Any]):
    """The Zarr store of one of ours, which gives objects only as they were when it was opened.

    `path`: the store; `cuts`: of its arrays; `digests`: of their objects when it was opened, by array; 0 for an object
    that need not be there.
    """

    def __init__(
        self,
        store: Any,
        cuts: Mapping[str, Cut] | None = None,
        digests: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        super().__init__(store)
        self.cuts = dict(cuts or {})
        self.digests = dict(digests or {})

    def _with_store(self, store: Any) -> CheckedStore:
        return type(self)(store, self.cuts, self.digests)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        value = await self._store.get(key, prototype, byte_range)
        name = key.rpartition("/c")[0] if key.endswith("/c") else key.partition("/c/")[0]
        cut = self.cuts.get(name)
        number = None if cut is None else cut.number(key)
        if cut is None or number is None:
            return value
        expected = int(self.digests[name][number])
        if value is None:
            if expected:
                raise missing(self._where(key))
            return None
        if isinstance(byte_range, RangeByteRequest):
            return value  # a chunk of a shard, whose index was looked at just now
        if isinstance(byte_range, SuffixByteRequest):
            found, data = await self._digest_of_shard(key, prototype, cut), None
        else:
            data = value.to_bytes() if len(value) < 4 else None
            array = value.as_numpy_array()
            found = digest(lambda begin, n: array[begin : begin + n].tobytes(), len(array), cut)
        if not found:
            raise damaged(self._where(key), "it is empty")
        if expected and found != expected:
            if data is None:
                data = (await self._store.get(key, prototype)).to_bytes()
            if sound(data, cut):
                raise StoreChangedError(
                    "this object was written anew after the store had been opened",
                    where=self._where(key),
                    remedy="Open the store again, and compute again from what it holds now",
                )
            raise damaged(self._where(key), BAD_CHECKSUM)
        return value

    async def _digest_of_shard(self, key: str, prototype: Any, cut: Cut) -> int:
        """Digest of a shard of which a part is to be read."""
        size = await self._store.getsize(key)
        wanted: list[tuple[int, int]] = []

        def note(begin: int, n: int) -> bytes:
            wanted.append((begin, n))
            return parts.get((begin, n), bytes(n))

        parts: dict[tuple[int, int], bytes] = {}
        # First the index, then the ends of the chunks, whose places it tells.
        for _ in range(2):
            wanted.clear()
            found = digest(note, size, cut)
            for begin, n in {*wanted} - parts.keys():
                part = await self._store.get(key, prototype, RangeByteRequest(begin, begin + n))
                parts[begin, n] = b"" if part is None else part.to_bytes()
        wanted.clear()
        found = digest(note, size, cut)
        return found

    def _where(self, key: str) -> str:
        return os.path.join(str(getattr(self._store, "root", self._store)), key)


def missing(where: str | os.PathLike[str]) -> StoreDamagedError:
    """Say that an object is missing."""
    return StoreDamagedError("an object of the store is missing", where=where, remedy=REMEDY)


def damaged(where: str | os.PathLike[str], how: str) -> StoreDamagedError:
    """Say that an object is not what was written."""
    return StoreDamagedError(
        f"an object of the store is damaged: {how}", where=where, remedy=REMEDY
    )


def checked_store(
    path: Place, cuts: Mapping[str, Cut], digests: Mapping[str, np.ndarray]
) -> CheckedStore:
    """Open the Zarr store at `path` for reading."""
    return CheckedStore(target(path, read_only=True), cuts, digests)


class Stored:
    """A variable of a store as an array that reads what it is asked for; whatever fails is an error of lunarray.

    `variable`: as xarray opens it, not in memory; `path`: the store; `cut`: of its array; `seal`: of the
    store as it was opened.
    """

    def __init__(self, variable: xr.Variable, path: Place, cut: Cut, seal: str) -> None:
        self.variable = variable
        self.path = path
        self.cut = cut
        self.seal = seal
        self.shape = variable.shape
        self.dtype = variable.dtype
        self.ndim = variable.ndim

    def __getitem__(self, key: Any) -> np.ndarray:
        try:
            return np.asarray(self.variable[key].values)
        except StoreDamagedError as error:
            if self._is_another():
                raise StoreChangedError(
                    "the store was written anew after it had been opened",
                    where=error.where,
                    remedy="Open the store again, and compute again from what it holds now",
                ) from error
            raise
        except LunarrayError:
            raise
        except MemoryError:
            raise
        except Exception as error:
            raise self._why(key, error) from error

    def _is_another(self) -> bool:
        """Whether another store has taken the place of the one that was opened."""
        try:
            text = (self.path / "zarr.json").read_bytes()
        except OSError:
            return False
        return f'"seal": "{self.seal}"'.encode() not in text

    def _why(self, key: Any, error: Exception) -> StoreError:
        """Find the object that cannot be read."""
        if not self.path.exists():
            return StoreChangedError(
                "the store was deleted or moved away after it had been opened",
                where=self.path,
                remedy="Open it where it is now",
            )
        for name in self._objects(key):
            try:
                data = (self.path / name).read_bytes()
            except FileNotFoundError:
                return missing(self.path / name)
            except OSError as reason:
                return StoreError(
                    f"an object of the store cannot be read ({reason.strerror or reason})",
                    where=self.path / name,
                    remedy="Check the disk and the permissions",
                )
            if not sound(data, self.cut):
                return damaged(self.path / name, BAD_CHECKSUM)
        return StoreDamagedError(
            f"the variable cannot be decoded ({type(error).__name__}: {error})",
            where=self.path / self.cut.name,
            remedy=REMEDY,
        )

    def _objects(self, key: Any) -> list[str]:
        """The objects that a selection takes of, or all where it is no plain one."""
        key = key if isinstance(key, tuple) else (key,)
        if len(key) != self.ndim or not all(isinstance(part, slice) for part in key):
            return list(self.cut.keys())
        spans = []
        for part, size, step in zip(key, self.cut.shape, self.cut.region, strict=True):
            there = range(size)[part]
            if not there:
                return []
            low, high = sorted((there[0], there[-1]))
            spans.append(range(low // step, high // step + 1))
        grid = np.stack(np.meshgrid(*spans, indexing="ij"), -1).reshape(-1, self.ndim)
        return [self.cut.key(tuple(map(int, index))) for index in grid]
