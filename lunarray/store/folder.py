"""What Zarr writes the objects of a store to: an object store, or a folder, on whose disk they then are."""

from __future__ import annotations

import asyncio
from typing import Any

from zarr.storage import LocalStore

from lunarray.store.buckets import Within
from lunarray.store.places import Place, Remote
from lunarray.store.transaction import write_file


def target(path: Place, *, read_only: bool = False) -> Any:
    """What Zarr reads and writes the objects of a store by."""
    if isinstance(path, Remote):
        return Within(path.bucket.zarr(read_only=read_only), path.prefix, str(path))
    return LocalStore(path, read_only=True) if read_only else Folder(path)


class Folder(LocalStore):
    """The objects of a store in a folder.

    What is written is on the disk before it has its name, by the process that writes it: a machine that loses power has
    whole objects or none.
    """

    async def set(self, key: str, value: Any) -> None:
        if not self._is_open:
            await self._open()
        self._check_writable()
        await asyncio.to_thread(self._put, key, value)

    def set_sync(self, key: str, value: Any) -> None:
        self._check_writable()
        self._put(key, value)

    def _put(self, key: str, value: Any) -> None:
        file = self.root / key
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, value.as_buffer_like())
