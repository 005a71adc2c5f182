"""A bar for work that counts steps and has something to say at each, such as a loss."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Told how many steps were done and what to show beside the bar.
Advance = Callable[[int, str], None]


@contextmanager
def step_bar(
    description: str,
    total: int,
    *,
    text: str = "{task.fields[state]}, left",
    width: int = 40,
    show: bool | None = None,
) -> Iterator[Advance | None]:
    """Show a bar on standard error while steps are done.

    Parameters
    ----------
    description : str
        What is being done.
    total : int
        Steps.
    text : str
        What stands between the count and the time left; ``{task.fields[state]}`` is what was told last.
    width : int
        Of the bar, characters.
    show : bool, optional
        By default where standard error is a terminal.

    Yields
    ------
    callable or None
        To be called with the steps done since the last call and the state, from any thread; None without a bar.
    """
    if show is None:
        show = sys.stderr.isatty()
    if not show:
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=width),
        MofNCompleteColumn(),
        TextColumn(text),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, state="–")

        def advance(done: int, state: str) -> None:
            bar.update(task, advance=done, state=state)  # which locks

        yield advance
