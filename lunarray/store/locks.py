"""One writer at a time: a lock beside the store that says whose it is and whether its owner is alive."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lunarray.engine.accounts import log
from lunarray.errors import StoreLockedError, store_errors
from lunarray.store.transaction import real

#: Seconds between two signs of life of a writer.
HEARTBEAT = 10.0

#: A writer on another machine that gave no sign for so long (s) is taken to be dead.
STALE = 120.0


class WriteLock:
    """Exclusive right to write to the store `path`, as a context manager.

    The lock is a file ``.<name>.lock`` beside the store, where it really is and not where a link to it lies, so that it
    holds before the store exists. It carries the
    owner's host and process; its time of modification is the owner's sign of life. A lock whose owner is dead is taken
    over: on the same machine that is known from the process table at once, elsewhere by the silence.

    On entering, StoreLockedError if another writer holds it, StoreError if the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path = real(path)
        self.file = path.with_name(f".{path.name}.lock")
        self.owner = uuid.uuid4().hex
        self._stop = threading.Event()
        self._lost = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> WriteLock:
        remedy = "Check the free space and the permissions of the folder"
        with store_errors("the store cannot be written", self.path, remedy):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while not self._place():
                self._break_or_refuse()
            self._sweep()
        self._thread = threading.Thread(target=self._beat, name="lunarray-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            if _owner(self.file).get("owner") == self.owner:
                self.file.unlink()
        except OSError:
            pass  # the folder is gone, or read-only by now: then the lock is stale, and is seen to be

    def check(self) -> None:
        """Make sure that the lock is still ours: StoreLockedError if another writer took it, believing us dead."""
        if self._lost:
            raise StoreLockedError(
                f"another writer has taken the store over: {in_words(_owner(self.file))}",
                where=self.path,
                remedy="Let that one finish; this run gave no sign of life for too long (a suspended machine?)",
            )

    def _place(self) -> bool:
        """Put the lock there with its content in one step; False where there is one already."""
        content = json.dumps(card(self.owner))
        mine = self.file.with_name(f"{self.file.name}.{self.owner}")
        try:
            mine.write_text(content)
            try:
                os.link(mine, self.file)
            except FileExistsError:
                raise
            except OSError:
                # No hard links on this file system. Creation alone is exclusive; the content follows at once.
                with self.file.open("x") as file:
                    file.write(content)
            return True
        except FileExistsError:
            return False
        finally:
            mine.unlink(missing_ok=True)

    def _break_or_refuse(self) -> None:
        """Take away the lock of a dead writer; raise where it lives."""
        holder = _owner(self.file)
        if alive(holder, self._silence()):
            raise StoreLockedError(
                f"the store is being written by {in_words(holder)}",
                where=self.path,
                remedy=f"Wait for it to finish or stop it; if you are sure that it is gone, delete {self.file}",
            )
        log(
            "store", "stale_lock", f"taking over {self.path} from {in_words(holder)}, which is gone"
        )
        aside = self.file.with_name(f"{self.file.name}.{self.owner}.stale")
        try:
            os.rename(self.file, aside)
        except FileNotFoundError:
            return  # another one was quicker
        taken = _owner(aside)
        if taken and taken != holder:
            # Another writer broke the stale lock before us and what we hold is its own: give it back.
            try:
                os.link(aside, self.file)
            except OSError:
                os.replace(aside, self.file)
        aside.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Delete what writers that died while they were about to take the lock have left."""
        left = re.compile(rf"{re.escape(self.file.name)}\.[0-9a-f]{{32}}(\.stale)?")
        for name in os.listdir(self.file.parent):
            file = self.file.with_name(name)
            if left.fullmatch(name):
                with contextlib.suppress(OSError):
                    if not alive(_owner(file), self.file.stat().st_mtime - file.stat().st_mtime):
                        file.unlink()

    def _silence(self) -> float:
        """Seconds since the last sign of life, by the clock of the file system alone."""
        probe = self.file.with_name(f"{self.file.name}.{self.owner}.now")
        try:
            probe.touch()
            return probe.stat().st_mtime - self.file.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            holder = _owner(self.file)
            if holder and holder.get("owner") != self.owner:
                self._lost = True
                return
            try:
                os.utime(self.file)
            except OSError:
                continue  # perhaps it passes; a deleted folder is noticed by the writes


def card(owner: str) -> dict[str, Any]:
    """Say who is writing."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {
        "owner": owner,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "user": user,
        "program": Path(sys.argv[0]).name if sys.argv else "",
        "since": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }


def _owner(file: Path) -> dict[str, Any]:
    for _ in range(3):
        try:
            found = json.loads(file.read_text())
            return found if isinstance(found, dict) else {}
        except ValueError:
            time.sleep(0.05)  # where there are no hard links, its content may be on its way
        except OSError:
            break
    return {}


def in_words(holder: dict[str, Any]) -> str:
    """Say of a card who is writing."""
    if not holder:
        return "a writer that does not say who it is"
    return (
        f"process {holder.get('pid')} ({holder.get('program') or 'Python'}) of {holder.get('user')} "
        f"on {holder.get('host')}, since {holder.get('since')}"
    )


def alive(holder: dict[str, Any], silence: float) -> bool:
    """Tell whether the writer of a card lives; `silence`: seconds since its last sign of life."""
    machine = _machine()
    if machine is not None and holder.get("machine") == machine:
        # The same table of processes: no waiting. Numbers are used again, so the time of the start is compared too.
        start = _process_start(int(holder.get("pid", -1)))
        return start is not None and start == holder.get("process_start")
    return silence < STALE


def _machine() -> str | None:
    """Name what process numbers refer to: this boot of this kernel, and the name space of processes in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def _process_start(pid: int) -> int | None:
    """Tell when a process began (kernel ticks); None where there is no such living process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
