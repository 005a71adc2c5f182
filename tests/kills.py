"""Processes that stop before or after a chosen change of the file system, cheap enough to stop at every one.

A template process imports what a job needs and then forks, for each stop, one that does the job and counts its calls
that change files: renames, links, deletions, syncs, new folders, files opened for writing, and the exchange of two
folders. At the chosen one it stops, by ``os._exit`` or by SIGKILL.
"""

from __future__ import annotations

import builtins
import io
import itertools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fresh import FRESH

#: Calls that change what lies in folders, or make it last.
CALLS = ("rename", "replace", "link", "unlink", "remove", "rmdir", "mkdir", "fsync")


_LOCK = threading.Lock()


class Stops:
    """Counts calls that change files, and stops the process at one of them.

    `at`: twice the number of the call, and one more to stop after it; None counts only. `how`: "exit" or "kill".
    """

    def __init__(self, at: int | None = None, how: str = "exit") -> None:
        self.at, self.how = at, how
        self.count = 0

    def wrapped(self, call: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def stopping(*args: Any, **options: Any) -> Any:
            if not counts(*args, **options):
                return call(*args, **options)
            with _LOCK:
                number, self.count = self.count, self.count + 1
            if self.at == 2 * number:
                self.stop()
            try:
                return call(*args, **options)
            finally:  # also after one that failed: a folder that was there
                if self.at == 2 * number + 1:
                    self.stop()

        return stopping

    def stop(self) -> None:
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        os._exit(99)

    def arm(self) -> None:
        """Put the counting calls in place of the system's, for as long as this process lives."""
        from lunarray.store import transaction

        for name in CALLS:
            setattr(os, name, self.wrapped(getattr(os, name), lambda *_, **__: True))
        opening = self.wrapped(io.open, writes)
        io.open = builtins.open = opening
        if transaction._exchange is not None:
            transaction._exchange = self.wrapped(transaction._exchange, lambda *_: True)


def writes(file: Any, mode: str = "r", *_: Any, **__: Any) -> bool:
    return not isinstance(file, int) and any(letter in mode for letter in "wax+")


def _serve(pipe: Any, modules: tuple[str, ...]) -> None:
    sys.dont_write_bytecode = True  # the files of modules are no files of a job
    for name in modules:
        __import__(name)
    while True:
        job = pipe.recv()
        if job is None:
            return
        act, folder, stops, result = job
        pid = os.fork()
        if not pid:
            code = 1
            try:
                stops.arm()
                act(folder)
                code = 0
            except BaseException:
                result.write_text(traceback.format_exc())
            finally:
                with os.fdopen(os.open(f"{result}.count", os.O_WRONLY | os.O_CREAT), "w") as out:
                    out.write(str(stops.count))
                os._exit(code)
        pipe.send(os.waitpid(pid, 0)[1])


class Template:
    """The process that forks those that are stopped.

    `modules`: what it imports before.
    """

    def __init__(self, pipe: Any, notes: Path) -> None:
        self.pipe, self.notes = pipe, notes
        self.number = itertools.count()

    def run(self, act: Callable[[Path], Any], folder: Path, stops: Stops) -> int | None:
        """Do a job in a process of its own; give the number of calls that it made, or None where it was stopped."""
        result = self.notes / f"{next(self.number)}"
        self.pipe.send((act, folder, stops, result))
        status = self.pipe.recv()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return None
        if os.WEXITSTATUS(status) == 99:
            return None
        if result.exists():
            raise AssertionError(result.read_text())
        return int(Path(f"{result}.count").read_text())


@contextmanager
def template(notes: Path, *modules: str) -> Iterator[Template]:
    """Give a :class:`Template`; it ends with the context."""
    ours, theirs = FRESH.Pipe()
    process = FRESH.Process(target=_serve, args=(theirs, modules))
    process.start()
    theirs.close()
    try:
        yield Template(ours, notes)
    finally:
        ours.send(None)
        process.join(10)
        process.kill()
        process.join()
