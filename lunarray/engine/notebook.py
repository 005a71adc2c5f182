"""Notebooks: whether this is one, and bars in it that need no widgets."""

from __future__ import annotations

import html
import sys
import threading
import time
from typing import Any

# Seconds between two pictures of a bar.
_PAUSE = 0.2


def shell() -> Any:
    """IPython's shell where there is one, else None; IPython itself is not imported for it."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def in_notebook() -> bool:
    """Whether what is displayed goes to a notebook: Jupyter's kernel, which VS Code and others run too."""
    return getattr(shell(), "kernel", None) is not None


class NotebookBar:
    """A bar under the cell that runs.

    Parameters
    ----------
    description : str
        What is being done.
    total : int
        Steps.
    """

    def __init__(self, description: str, total: int) -> None:
        self.description, self.total, self.done, self.state = description, max(total, 1), 0, ""
        self._lock, self._begun, self._last = threading.Lock(), time.monotonic(), 0.0
        self._handle: Any = None

    def __enter__(self) -> NotebookBar:
        from IPython.display import HTML, display

        self._handle = display(HTML(self._html()), display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._show(always=True)

    def advance(self, done: int = 1, state: str = "") -> None:
        """Take the bar some steps on; from any thread."""
        with self._lock:
            self.done, self.state = self.done + done, state or self.state
        self._show()

    def _show(self, always: bool = False) -> None:
        from IPython.display import HTML

        with self._lock:
            now = time.monotonic()
            if self._handle is None or (now - self._last < _PAUSE and not always):
                return
            self._last = now
            self._handle.update(HTML(self._html()))

    def _html(self) -> str:
        spent = time.monotonic() - self._begun
        left = spent / self.done * (self.total - self.done) if self.done else None
        told = f"{self.done}/{self.total}"
        if self.done < self.total:
            told += "" if left is None else f", {_clock(left)} left"
        else:
            told += f" in {_clock(spent)}"
        state = f", {self.state}" if self.state else ""
        return (
            f'<div>{html.escape(self.description)} <progress value="{self.done}" max="{self.total}" '
            f'style="width:300px;vertical-align:middle"></progress> {told}{html.escape(state)}</div>'
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
