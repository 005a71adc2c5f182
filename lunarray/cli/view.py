"""The map in the browser."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from lunarray.cli.console import say, tell


def serve(
    inputs: Annotated[
        list[str],
        Argument(
            metavar="STORE...",
            help="Stores, GeoTIFFs, GeoPackages, GeoParquet, folders of these, or files that a reader opens.",
            show_default=False,
        ),
    ],
    port: Annotated[
        int, Option(min=0, max=65535, help="Port of the page; 0 takes one that is free.")
    ] = 8642,
    host: Annotated[
        str,
        Option(
            help="Address to listen at. By default this machine's own; with another one, whoever reaches it can look."
        ),
    ] = "127.0.0.1",
    crs: Annotated[
        str | None,
        Option(
            help='Reference system of vectors that do not say theirs, such as "geographic" or 30130.'
        ),
    ] = None,
    browser: Annotated[
        bool, Option("--browser/--no-browser", help="Show the page in the web browser.")
    ] = True,
) -> None:
    """Look at maps in the browser: both poles and the whole Moon, values, spectra, differences, vectors.

    Only this machine can open the page, which needs no network. It shows what is named here and nothing else. End it
    with Ctrl-C.
    """
    from lunarray.view import serve as serve_maps

    with serve_maps(inputs, host=host, port=port, crs=crs) as viewer:
        tell(url=viewer.url, layers=len(viewer.layers))
        say(f"Map        [bold]{viewer.url}[/]  ({len(viewer.layers)} layers)")
        if host not in ("127.0.0.1", "::1", "localhost"):
            say(f"Whoever reaches {host} can look at it.")
        say("End it with Ctrl-C.")
        if browser:
            viewer.open()
        try:
            viewer.wait()
        except KeyboardInterrupt:
            say("\nEnded.")
