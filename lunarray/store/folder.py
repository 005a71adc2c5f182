"""A folder that Zarr writes objects to: they are on the disk when they are there."""

from __future__ import annotations

import asyncio
from typing import Any

from zarr.storage import LocalStore

from lunarray.store.transaction import write_file


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
