"""What the commands say, and how they fail."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from lunarray.cli.interruption import interruptible

#: What the command that runs has told so far, where it was asked for JSON.
_told: ContextVar[dict[str, Any] | None] = ContextVar("told", default=None)


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


def _json_option() -> Any:
    """The option --json as typer would make it of a signature, whichever typer that is."""
    probe = typer.Typer()

    @probe.command()
    def command(
        as_json: Annotated[
            bool,
            typer.Option(
                "--json",
                help="Print the results as JSON; what else there is to say goes to standard error.",
            ),
        ] = False,
    ) -> None:
        """A command that has this option."""

    return next(p for p in typer.main.get_command(probe).params if p.name == "as_json")


class Command(TyperCommand):
    """A command that fails with a line, ends soon when it is interrupted, and gives JSON where that is wanted."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params.append(_json_option())

    def invoke(self, ctx: Any) -> Any:
        wanted = ctx.params.pop("as_json")
        with interruptible(ctx), friendly(ctx):
            return self._as_json(ctx) if wanted else super().invoke(ctx)

    def _as_json(self, ctx: Any) -> Any:
        """Run; then print what was told, of a check that found faults too."""
        told: dict[str, Any] = {}
        token = _told.set(told)
        try:
            with redirect_stdout(sys.stderr):
                done = super().invoke(ctx)
        except typer.Exit:
            _print_json(ctx, told)
            raise
        finally:
            _told.reset(token)
        _print_json(ctx, told)
        return done


def _print_json(context: Any, told: dict[str, Any]) -> None:
    names: list[str] = []
    while context.parent is not None:  # the outermost is the program
        names.insert(0, context.info_name)
        context = context.parent
    found = {"command": " ".join(names), **told}
    print(json.dumps(_plain(found), ensure_ascii=False, indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """What JSON can say of a value: no NaN, moments and paths as text, tables as a list of rows."""
    if isinstance(value, Mapping) and not hasattr(value, "to_dataframe"):
        return {str(name): _plain(part) for name, part in value.items()}
    if hasattr(value, "to_dataframe"):
        value = value.to_dataframe().reset_index().to_dict("records")
    if hasattr(value, "dtype"):
        value = value.astype(str).tolist() if value.dtype.kind in "mM" else value.tolist()
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def tell(**found: Any) -> None:
    """Tell results by name, for those who asked for JSON; they stand in the text in their own way."""
    told = _told.get()
    if told is not None:
        told.update(found)


def wrote(what: str, path: str | PathLike[str], more: str = "") -> None:
    """Say what was written, and where."""
    say(f"{what:<11}{path}{more}")
    told = _told.get()
    if told is not None:
        told.setdefault("written", []).append({"what": what.lower(), "path": str(path)})


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
        wrote("Picture", path)
