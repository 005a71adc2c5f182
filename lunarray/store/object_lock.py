"""One writer at a time in an object store: a lock that is put only if there is none."""

from __future__ import annotations

import json
import threading
import uuid
from typing import Any

from lunarray.engine.accounts import log
from lunarray.errors import StoreLockedError, store_errors
from lunarray.store.locks import HEARTBEAT, STALE, WriteLock, alive, card, in_words
from lunarray.store.places import ASIDE, Place, Remote
from lunarray.store.promotion import REMEDY


class ObjectLock:
    """Exclusive right to write to the store `path`, as a context manager, as :class:`WriteLock` in a folder.

    The lock is an object ``.lunarray/lock`` in the store, put only if there is none. It carries the owner's host and
    process. The owner puts it again, if it is still its own, as its sign of life; the time since then is by the clock
    of the object store. One whose owner is dead is replaced, if it is still the same.

    On entering, StoreLockedError if another writer holds it, StoreError if the store cannot be reached.
    """

    def __init__(self, path: Remote) -> None:
        self.path = path
        self.key = (path / ASIDE / "lock").key
        self.card = card(uuid.uuid4().hex)
        self._tag: Any = None
        self._stop = threading.Event()
        self._lost = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> ObjectLock:
        with store_errors("the store cannot be written", self.path, REMEDY):
            while not self._place():
                pass
        self._thread = threading.Thread(target=self._beat, name="lunarray-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            # A sign of life just now: nobody takes it over between this and the deletion.
            if not self._lost and self._renew():
                self.path.bucket.delete(self.key)
        except OSError:
            pass  # out of reach by now: then the lock is stale, and is seen to be

    def check(self) -> None:
        """Make sure that the lock is still ours: StoreLockedError if another writer took it, believing us dead."""
        if self._lost:
            try:
                holder = self._holder()[0]
            except OSError:
                holder = {}  # somebody deleted it
            raise StoreLockedError(
                f"another writer has taken the store over: {in_words(holder)}",
                where=self.path,
                remedy="Let that one finish; this run gave no sign of life for too long (a suspended machine?)",
            )

    def _place(self) -> bool:
        """Put the lock, or replace that of a dead writer; False where both must be tried again."""
        if self.path.bucket.create(self.key, self._text()):
            return True
        try:
            holder, tag = self._holder()
            silence = self.path.bucket.age(self.key, f"{self.key}.{self.card['owner']}")
        except FileNotFoundError:
            return False
        if alive(holder, silence):
            raise StoreLockedError(
                f"the store is being written by {in_words(holder)}",
                where=self.path,
                remedy="Wait for it to finish or stop it; if you are sure that it is gone, delete the object "
                f"{self.path / ASIDE / 'lock'}, or wait for {STALE:.0f} s from its last sign of life",
            )
        log(
            "store", "stale_lock", f"taking over {self.path} from {in_words(holder)}, which is gone"
        )
        return self.path.bucket.replace(self.key, self._text(), tag)

    def _text(self) -> bytes:
        """The card, other bytes each time, so that an answer that was lost can be told from another's put."""
        self.card["beat"] = self.card.get("beat", 0) + 1
        return json.dumps(self.card).encode()

    def _holder(self) -> tuple[dict[str, Any], Any]:
        text, tag = self.path.bucket.tagged(self.key)
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        return (found if isinstance(found, dict) else {}), tag

    def _renew(self) -> bool:
        try:
            holder, tag = self._holder()
        except FileNotFoundError:
            holder, tag = {}, None
        ours = holder.get("owner") == self.card["owner"]
        return ours and self.path.bucket.replace(self.key, self._text(), tag)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            try:
                if not self._renew():
                    self._lost = True
                    return
            except OSError:
                continue  # perhaps it passes


class _NoLock:
    """Where an icechunk session keeps writers apart, by refusing the second commit."""

    def __enter__(self) -> _NoLock:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def check(self) -> None:
        pass


def write_lock(path: Place) -> Any:
    """The lock of the store at `path`, wherever that is, as a context manager that can be asked to ``check()``."""
    if not isinstance(path, Remote):
        return WriteLock(path)
    return _NoLock() if path.bucket.transactional else ObjectLock(path)
