"""Bars on standard error, or under a notebook's cell: for steps that are counted, and for steps that have something to
say, such as a loss."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lunarray.engine.notebook import NotebookBar, in_notebook

#: Told how many steps were done and what to show beside the bar.
Advance = Callable[[int, str], None]


@contextmanager
def progress_bar(
    description: str, total: int, *, show: bool | None = None
) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error that counts up to `total`.

    Parameters
    ----------
    description : str
        What is being done.
    total : int
        Steps.
    show : bool, optional
        By default where standard error is a terminal, and in notebooks.

    Yields
    ------
    callable
        Takes the bar one step on; it may be called from any thread.

    Examples
    --------
    >>> import lunarray as la
    >>> with la.engine.progress_bar("Counting", 3, show=False) as advance:
    ...     for _ in range(3):
    ...         advance()
    """
    if not _shown(show):
        yield lambda: None
        return
    if in_notebook():
        with NotebookBar(description, total) as drawn:
            yield drawn.advance
        return
    from rich.progress import TextColumn, TimeElapsedColumn

    with _bar(None, TimeElapsedColumn(), TextColumn("left")) as bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)  # which locks


@contextmanager
def step_bar(
    description: str,
    total: int,
    *,
    show: bool | None = None,
    text: str = "{task.fields[state]}, left",
    width: int = 40,
) -> Iterator[Advance | None]:
    """Show a bar on standard error while steps are done.

    Parameters
    ----------
    description, total, show : str, int, bool
        As of :func:`progress_bar`.
    text : str
        What stands between the count and the time left; ``{task.fields[state]}`` is what was told last.
    width : int
        Of the bar, characters.

    Yields
    ------
    callable or None
        To be called with the steps done since the last call and the state, from any thread; None without a bar.

    Examples
    --------
    >>> import lunarray as la
    >>> with la.engine.step_bar("Training", 3, show=False) as advance:
    ...     advance is None
    True
    """
    if not _shown(show):
        yield None
        return
    if in_notebook():
        with NotebookBar(description, total) as drawn:
            yield drawn.advance
        return
    from rich.progress import TextColumn

    with _bar(width, TextColumn(text)) as bar:
        task = bar.add_task(description, total=total, state="–")

        def advance(done: int, state: str) -> None:
            bar.update(task, advance=done, state=state)  # which locks

        yield advance


def _shown(show: bool | None) -> bool:
    return sys.stderr.isatty() or in_notebook() if show is None else show


def _bar(width: int | None, *between: Any) -> Any:
    """Description, bar, count, what is `between`, time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    first = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=width or 40),
        MofNCompleteColumn(),
    )
    return Progress(*first, *between, TimeRemainingColumn(), console=Console(stderr=True))
