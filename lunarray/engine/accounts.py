"""What a process did for a run: seconds of each stage, events worth telling, memory; and log records of these.

Blocks run in threads, processes and on other machines. Each process keeps one account; a region that is written takes
along what has come together since, so that the run's report can add it all up wherever the work was done.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

#: Events that one process keeps until they are taken; more are counted, not kept.
MAX_EVENTS = 1000

_lock = threading.Lock()
_stages: dict[str, list[float]] = {}
_events: list[dict[str, Any]] = []
_dropped = 0


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the time of a stage of the work, in whichever thread and process it runs.

    Parameters
    ----------
    name : str
        As the run report shows it, such as "model" or "write".

    Yields
    ------
    None

    Examples
    --------
    >>> import lunarray as la
    >>> with la.engine.stage("reading"):
    ...     image = la.sample("nac_crop").compute()
    """
    begin = time.perf_counter()
    try:
        yield
    finally:
        spend(name, time.perf_counter() - begin)


def spend(name: str, seconds: float) -> None:
    """Add one piece of work to a stage."""
    with _lock:
        entry = _stages.setdefault(name, [0, 0.0])
        entry[0] += 1
        entry[1] += seconds


def event(
    logger: str, name: str, message: str, *, level: int = logging.WARNING, **fields: Any
) -> None:
    """Log something, and keep it for the run report.

    `logger`: name below ``lunarray``; `name`: kind of event, one word for programs: "retry", "smaller_batch";
    `message`: the same for people; `level`: of the log record; `**fields`: what belongs to it; plain values.
    """
    global _dropped
    log(logger, name, message, level=level, **fields)
    entry = {"event": name, "message": message, "time": time.time(), "process": process(), **fields}
    with _lock:
        if len(_events) < MAX_EVENTS:
            _events.append(entry)
        else:
            _dropped += 1


def log(logger: str, name: str, message: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Write a structured log record below ``lunarray``: a message, and fields in ``record.lunarray``.

    `logger`, `name`, `message`, `level`: as in :func:`event`; `**fields`: plain values.
    """
    logging.getLogger(f"lunarray.{logger}").log(
        level, message, extra={"lunarray": {"event": name, **fields}}
    )


def take() -> dict[str, Any]:
    """Give what this process has done since the last call, and begin anew.

    Returns ``process``, ``stages`` (name to [count, seconds]), ``events``, ``dropped`` (events too many to keep),
    ``rss`` and ``peak`` (bytes).
    """
    global _dropped
    with _lock:
        stages, events, dropped = dict(_stages), list(_events), _dropped
        _stages.clear()
        _events.clear()
        _dropped = 0
    rss, peak = memory()
    return {
        "process": process(),
        "stages": stages,
        "events": events,
        "dropped": dropped,
        "rss": rss,
        "peak": peak,
    }


def process() -> str:
    """Name this process: host and number."""
    return f"{socket.gethostname()}:{os.getpid()}"


def memory() -> tuple[int, int]:
    """Tell the resident memory of this process and its peak so far, in bytes; 0 where the system does not say."""
    try:
        fields = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0, 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 0, peak if sys.platform == "darwin" else peak * 1024


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time (UTC), level, logger, message, and the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "lunarray", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


@contextmanager
def log_to(
    target: str | os.PathLike[str] | IO[str], *, level: int = logging.INFO
) -> Iterator[logging.Logger]:
    """Write what lunarray logs as lines of JSON, for as long as the context lasts.

    Parameters
    ----------
    target : path or text stream
        A file is appended to.
    level : int
        Least level.

    Yields
    ------
    logging.Logger
        ``lunarray``.

    Examples
    --------
    >>> import lunarray as la
    >>> with la.engine.log_to("run.log"):
    ...     store = la.sample("tracks").lunar.to_zarr("tracks.zarr")
    """
    logger = logging.getLogger("lunarray")
    handler: logging.Handler
    if isinstance(target, str | os.PathLike):
        handler = logging.FileHandler(target, encoding="utf-8")
    else:
        handler = logging.StreamHandler(target)
    handler.setFormatter(JsonLines())
    handler.setLevel(level)
    before = logger.level
    logger.addHandler(handler)
    if before == logging.NOTSET or before > level:
        logger.setLevel(level)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()
