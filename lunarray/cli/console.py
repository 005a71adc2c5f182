"""What the commands say, and how they fail."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand


@contextmanager
def friendly(context: typer.Context) -> Iterator[None]:
    """Turn the errors that a user can mend into one line, in the words of the command, and exit code 1."""
    from rich.markup import escape

    from lunarray.cli.words import in_words_of
    from lunarray.errors import LunarrayError, LunarrayWarning

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, LunarrayWarning):
            complain(f"[bold yellow]Note[/] {escape(str(message))}")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", LunarrayWarning)
            warnings.showwarning = show  # what other libraries warn of concerns programmers
            yield
    except LunarrayError as error:
        text = in_words_of(error, context)
        complain(f"[bold red]Error[/] {escape(text)}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        print("\nInterrupted. The store can be completed by the same command.", file=sys.stderr)
        raise typer.Exit(130) from None


class Command(TyperCommand):
    """A command that fails with a line."""

    def invoke(self, ctx: Any) -> Any:
        with friendly(ctx):
            return super().invoke(ctx)


def complain(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


def say(text: str) -> None:
    console().print(text, soft_wrap=True)


def picture(draw: Callable[..., Any], *what: Any, path: Path | None) -> None:
    """Draw a picture and say so, where one is asked for."""
    if path is not None:
        draw(*what, path=path)
        say(f"Picture    {path}")
