"""Processes that have nothing of the tests' own in them, and yet are cheap: forked from one that only imports."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver

import distributed.nanny
import distributed.process

#: Start processes and Dask's workers by it; whoever does so ends with :func:`stop`.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["distributed", "lunarray.store", "zarr", "pytest"])


def fork_workers(setattr=setattr) -> None:
    """Let nannies start their workers so; lunarray and Dask spawn them, which takes seconds of importing each."""
    for module in (distributed.nanny, distributed.process):
        setattr(module, "get_mp_context", lambda: FRESH)


def stop() -> None:
    """End the process that imports, and wait for it: what it took is then in this one's account."""
    forkserver._forkserver._stop()
