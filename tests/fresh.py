"""Processes that have nothing of the tests' own in them, and yet are cheap: forked from one that only imports."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver

import distributed.nanny
import distributed.process
import pytest

#: Starts such processes; a file that does so ends with :func:`stop`.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["distributed", "lunarray.store", "zarr", "pytest"])


@contextmanager
def forked_workers() -> Iterator[None]:
    """Let nannies start their workers so; lunarray and Dask spawn them, which takes seconds of importing each."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (distributed.nanny, distributed.process):
            patch.setattr(module, "get_mp_context", lambda: FRESH)
        yield


def stop() -> None:
    """End the process that imports, and wait for it: what it took is then in this one's account."""
    server = forkserver._forkserver
    if server._forkserver_pid is None or server._forkserver_alive_fd is None:
        return
    # Not asked to end: where something that it has imported waits at its end, so would all tests after these.
    with suppress(ProcessLookupError):
        os.kill(server._forkserver_pid, signal.SIGKILL)
    server._stop()
