"""Log records of ``lunarray.*`` as lines of JSON."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any


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
