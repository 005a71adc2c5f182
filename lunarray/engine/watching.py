"""A plugin of the `distributed` scheduler that counts retries, lost workers and the seconds of each kind of task."""

from __future__ import annotations

import uuid
from typing import Any

from dask.utils import key_split
from distributed.diagnostics.plugin import SchedulerPlugin


class Watch(SchedulerPlugin):
    """Counts while it is installed."""

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
    """Read the counts; runs on the scheduler.

    `name`: of the plugin; `dask_scheduler`: given by `distributed`.
    """
    watch = dask_scheduler.plugins[name]
    return {
        "retries": watch.retries,
        "lost_workers": watch.lost_workers,
        "spent": [(*key, seconds, count) for key, (seconds, count) in watch.spent.items()],
    }
