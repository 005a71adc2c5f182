"""Reading the objects of a Global Information Bank: those that were there when it was opened, or an error."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from zarr.storage import LocalStore

from lunarray.errors import LunarrayError, StoreChangedError, StoreDamagedError

#: The array that holds the ids of the content of each variable's regions.
IDS = {
    "feature": "id_feature",
    "mare": "id_mare",
    "abundance": "id_population",
    "abundance_std": "id_population",
    "count": "id_population",
    "provenance": "id_population",
}

_REMEDY = "Write the region again with overwrite=True, or populate the bank again"


def content_id(*arrays: np.ndarray) -> int:
    """Id of the content of a region: 64 bits, never 0, which stands for none."""
    known = hashlib.blake2b(digest_size=8)
    for array in arrays:
        known.update(np.ascontiguousarray(array).data)
    return int.from_bytes(known.digest(), "little") or 1


class Watched(LocalStore):
    """The objects of a bank, for Zarr, each held to the id that its region had when the bank was opened.

    The id is looked at after the object was read, and taken away before anything of a region is written, so that what
    is read is whole. A region of which there was nothing may have been written since: it is still growing. But of a
    population, of several objects, there is nothing then: those that lie there are being written, or are out of date
    since the mare class is another.
    """

    def __init__(
        self, root: Path | str, *, read_only: bool = True, ids: Mapping[str, np.ndarray]
    ) -> None:
        super().__init__(root, read_only=read_only)
        self.ids = ids

    def with_read_only(self, read_only: bool = False) -> Watched:
        return type(self)(self.root, read_only=read_only, ids=self.ids)

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        own = self._region(key)
        if self._unpopulated(own):
            return None
        found = await super().get(key, *args, **options)
        self._check(own, key, found)
        return found

    def get_sync(self, key: str, **options: Any) -> Any:
        own = self._region(key)
        if self._unpopulated(own):
            return None
        found = super().get_sync(key, **options)
        self._check(own, key, found)
        return found

    def _region(self, key: str) -> tuple[str, tuple[int, int], int] | None:
        """Variable and region of an object, and the id that the region had; None for what belongs to no region."""
        name, _, rest = key.partition("/c/")
        if not rest or name not in IDS:
            return None
        i, j = map(int, rest.split("/")[-2:])
        return name, (i, j), int(self.ids[IDS[name]][i, j])

    def _unpopulated(self, own: tuple[str, tuple[int, int], int] | None) -> bool:
        return own is not None and IDS[own[0]] == "id_population" and own[2] == 0

    def _check(self, own: tuple[str, tuple[int, int], int] | None, key: str, found: Any) -> None:
        if own is None or not own[2]:
            return
        name, (i, j), known = own
        try:
            now = int.from_bytes((self.root / IDS[name] / "c" / f"{i}/{j}").read_bytes()[:8], "little")  # fmt: skip
        except OSError:
            now = 0
        if now != known:
            raise StoreChangedError(
                f"{name} of region {(i, j)} was written anew, or is being written, since the bank was opened",
                where=self.root,
                remedy="Open it again",
            )
        if found is None:
            raise StoreDamagedError(
                f"{name} of region {(i, j)} is missing", where=self.root / key, remedy=_REMEDY
            )


class Part:
    """A variable of a bank as an array that reads what it is asked for; whatever fails is an error of lunarray.

    `array`: of Zarr, on a :class:`Watched` store.
    """

    def __init__(self, array: Any, where: Path) -> None:
        self.array, self.where = array, where
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, key: Any) -> np.ndarray:
        try:
            return np.asarray(self.array[key])
        except (LunarrayError, MemoryError, IndexError):
            raise
        except Exception as error:
            raise StoreDamagedError(
                f"it cannot be read ({type(error).__name__}: {error})",
                where=self.where,
                remedy=_REMEDY,
            ) from error
