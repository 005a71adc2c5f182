"""The ``lunarray`` command: each module holds the commands of one room."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from lunarray.cli import catalog, fractures, general, loop, oxides, superres, training, view, xrf
from lunarray.cli.console import Command, friendly
from lunarray.cli.interruption import interruptible
from lunarray.versions import extras


def _extras() -> str:
    here = extras()
    lacking = [name for name, there in here.items() if not there]
    told = f"Extras installed: {', '.join(n for n in here if n not in lacking) or 'none'}."
    if lacking:
        told += f" Not installed: {', '.join(lacking)} (pip install 'lunarray[{lacking[0]}]')."
    return told


app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="Array-native tools for lunar science data.\n\nStart with **lunarray demo**.",
    epilog=_extras(),
)


def _version(show: bool) -> None:
    if show:
        from lunarray import show_versions

        show_versions()
        raise typer.Exit


class OnError(StrEnum):
    """What becomes of a block that fails."""

    stop = "raise"
    nan = "nan"


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool,
        Option("--version", callback=_version, is_eager=True, help="Show versions of everything."),
    ] = False,
    cluster: Annotated[
        str | None,
        Option(
            help='Where to compute: "local" (a process for each core), "gpus" (one for each), or the address of a Dask '
            "scheduler. By default threads of this process."
        ),
    ] = None,
    workers: Annotated[
        int | None, Option(min=1, help="Workers of a cluster that is started here.")
    ] = None,
    on_error: Annotated[
        OnError | None,
        Option(
            help="After all retries a block that fails stops the run (raise), or stays missing and is reported (nan)."
        ),
    ] = None,
    retries: Annotated[
        int | None, Option(min=0, help="How often a block that fails is tried again.")
    ] = None,
    report: Annotated[
        Path | None,
        Option(help="Report of the run to write: .html, .json, or a folder for both."),
    ] = None,
) -> None:
    """Array-native tools for lunar science data.

    Start with **lunarray demo**: it simulates a polar scene, inverts it and shows how well that went. Then bring your
    own spectra: **lunarray invert-oxides SP_2C_*.spc -o oxides.zarr --quicklook oxides.png**. The options here stand
    before the command and hold for what it stores: **lunarray --cluster local --report run.html invert-oxides ...**
    """
    given = {
        "lunarray.errors": None if on_error is None else on_error.value,
        "lunarray.retries": retries,
        "lunarray.report": report,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not given and cluster is None and workers is None:
        return
    import dask

    import lunarray as la

    with interruptible(context), friendly(context):
        context.with_resource(dask.config.set(given))
        if cluster is not None or workers is not None:
            context.with_resource(la.cluster(cluster or "local", workers=workers))


#: Commands by what one wants to do, in the order in which one would do it.
TASKS = {
    "First steps": (general.demo, general.info, view.serve, general.readers, general.models),
    "Oxides from reflectance spectra": (
        oxides.invert_oxides, oxides.atlas, training.train_oxides, training.make_model,
    ),
    "Elements from X-ray spectra": (xrf.fit_elements, xrf.map_elements),
    "Fractures in images": (fractures.map_fractures, fractures.train_fractures),
    "Checks and catalogues": (oxides.compare, general.verify, catalog.stac),
}  # fmt: skip
for task, commands in TASKS.items():
    for command in commands:
        app.command(cls=Command, rich_help_panel=task)(command)
app.add_typer(superres.gib, name="gib", rich_help_panel="Elements from X-ray spectra")
app.add_typer(loop.fractures, name="fractures", rich_help_panel="Fractures in images")
