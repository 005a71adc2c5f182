"""Ctrl-C: a command ends within seconds, and says how to go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import typer

#: Seconds that a command has to end by itself, for what it had begun to write.
GRACE = 3.0
#: Exit code of what Ctrl-C has ended, as shells have it.
INTERRUPTED = 130
#: Commands that write into the store that they are given.
_IN_PLACE = ("features", "populate", "train")
#: Endings of outputs that are written in one go at the end.
_WHOLE = (".safetensors", ".pt", ".png", ".pdf", ".svg")


@contextmanager
def interruptible(context: Any) -> Iterator[None]:
    """End with exit code 130 soon after Ctrl-C, at once after a second one.

    Threads that are in the midst of a block, or a library that does not listen, would otherwise hold the process for as
    long as the block takes. Stores stay whole however a process ends.
    """
    words = threading.Lock()  # taken by whoever says the last word

    def leave() -> None:
        if words.acquire(blocking=False):
            os.write(2, f"{_last_words(context)}\n".encode())  # no lock that the end could wait for
        os._exit(INTERRUPTED)

    def on_signal(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: leave())
        timer = threading.Timer(GRACE, leave)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, on_signal) if main else None
    try:
        yield
    except KeyboardInterrupt:
        if words.acquire(blocking=False):
            print(_last_words(context), file=sys.stderr, flush=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        if main and signal.getsignal(signal.SIGINT) is on_signal:
            signal.signal(signal.SIGINT, before)


def _last_words(context: Any) -> str:
    return f"\nInterrupted. {how_to_go_on(context)}"


def how_to_go_on(context: Any) -> str:
    """What becomes of an interrupted command."""
    given = context.params
    if "checkpoint" in given:
        if given["checkpoint"] is not None:
            return f"The same command goes on from {given['checkpoint']}."
        return "Nothing is kept; with --checkpoint the same command would go on where it stopped."
    output = given.get("output")
    store = given.get("store") if context.command.name in _IN_PLACE else None
    if output is not None and Path(output).suffix.lower() not in _WHOLE:
        store = output
    if store is None:
        return "Nothing was half written; the same command begins anew."
    if given.get("overwrite") and context.command.name == "map-elements":
        return f"What is done stays in {store}: the same command without --overwrite goes on where it stopped."
    return f"What is done stays in {store}: the same command goes on where it stopped."
