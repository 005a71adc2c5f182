"""Plugins of `distributed`: one counts at the scheduler, one limits the threads of workers that are not ours."""

from __future__ import annotations

import os
import sys
import uuid
from typing import Any

from dask.utils import key_split
from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin


class OneThread(WorkerPlugin):
    """Lets torch, OpenMP, BLAS and Numba of a worker take one thread in each of its threads."""

    idempotent = True

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def setup(self, worker: Any) -> None:
        """Limit what is loaded, and by the environment what is not yet."""
        os.environ.update(self.environment)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        try:
            import threadpoolctl
        except ImportError:
            return
        threadpoolctl.threadpool_limits(1)


class Watch(SchedulerPlugin):
    """Counts retries, lost workers and the seconds of each kind of task while it is installed."""

    def __init__(self) -> None:
        self.name = f"lunarray-watch-{uuid.uuid4().hex}"
        self.retries = 0
        self.lost_workers = 0
        self.spent: dict[tuple[str, str], list[float]] = {}

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Count a change of a task's state."""
        if start == "processing" and finish == "waiting":
            self.retries += 1  # a lost worker's tasks go by way of "released"
        elif start == "processing" and finish == "memory":
            for each in kwargs.get("startstops") or ():
                entry = self.spent.setdefault((key_split(key), each["action"]), [0.0, 0])
                entry[0] += each["stop"] - each["start"]
                entry[1] += 1

    def remove_worker(self, scheduler: Any, worker: str, **kwargs: Any) -> None:
        """Count a worker that left."""
        self.lost_workers += 1


def read_watch(name: str, dask_scheduler: Any = None) -> dict[str, Any]:
    """Read the counts of the plugin of this name; runs on the scheduler, which `distributed` gives."""
    watch = dask_scheduler.plugins[name]
    return {
        "retries": watch.retries,
        "lost_workers": watch.lost_workers,
        "spent": [(*key, seconds, count) for key, (seconds, count) in watch.spent.items()],
    }
