"""The ``lunarray`` command: each module holds the commands of one room."""

from __future__ import annotations

from typing import Annotated

import typer

from lunarray.cli import general, oxides, xrf

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="Array-native tools for lunar science data.\n\nStart with **lunarray demo**.",
)


def _version(show: bool) -> None:
    if show:
        from lunarray import show_versions

        show_versions()
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show versions of everything."
        ),
    ] = False,
) -> None:
    """Array-native tools for lunar science data.

    Start with **lunarray demo**: it simulates a polar scene, inverts it and shows how well that went. Then bring your
    own spectra: **lunarray invert-oxides SP_2C_*.spc -o oxides.zarr --quicklook oxides.png**.
    """


for module in (general, oxides, xrf):
    module.register(app)
