"""What catalogues know of results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, BadParameter, Option

from lunarray.cli.console import tell, wrote
from lunarray.cli.inputs import ReaderName, open_dataset
from lunarray.cli.options import folder

if TYPE_CHECKING:
    import geopandas
    import xarray as xr


def stac(
    inputs: Annotated[
        list[Path],
        Argument(
            metavar="RESULT...",
            help="Stores, GeoTIFFs, netCDF files, GeoPackages, GeoParquet or other vectors.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            callback=folder,
            help="Folder for a catalogue (catalog.json) of them all; by default each item lies beside its file.",
        ),
    ] = None,
    time: Annotated[
        str | None,
        Option(
            help="When it was observed (UTC): 2024-01-23T12:00, or a range START/END; by default what the result says."
        ),
    ] = None,
    collection: Annotated[
        str | None, Option(help="Id of the collection that they belong to.")
    ] = None,
    identifier: Annotated[
        str, Option("--id", help="Id of the catalogue of --output.")
    ] = "lunarray-results",
    reader: ReaderName = None,
) -> None:
    """Describe results as STAC items, for catalogues and the tools that search them.

    The items carry the lunar reference system, place and time, variables with units, and how the result was made.
    Places are in degrees on the Moon.
    """
    from lunarray.export import stac_item

    when = None if time is None else [part for part in time.split("/") if part]
    items: list[tuple[Path, dict[str, Any]]] = []
    for path in inputs:
        item = stac_item(_result(path, reader), path.resolve(), time=when, collection=collection)
        items.append((path, item))
    names = [item["id"] for _, item in items]
    twice = sorted({name for name in names if names.count(name) > 1})
    if output is not None and twice:
        raise BadParameter(f"several results are called {twice[0]}. Catalogue them one by one")
    written = []
    for path, item in items:
        place = path.resolve().parent if output is None else output.resolve()
        file = place / f"{item['id']}.stac.json"
        href = os.path.relpath(path.resolve(), place)
        item["assets"]["data"]["href"] = Path(href).as_posix()
        if output is not None:
            item["links"] = [
                {"rel": rel, "href": "./catalog.json", "type": "application/json"}
                for rel in ("root", "parent")
            ]
        _write(file, item)
        written.append(file)
        wrote("Item", file)
    if output is not None:
        catalogue = {
            "type": "Catalog",
            "stac_version": items[0][1]["stac_version"],
            "id": identifier,
            "description": "Results of lunarray, on the Moon",
            "links": [
                {"rel": "root", "href": "./catalog.json", "type": "application/json"},
                *(
                    {"rel": "item", "href": f"./{file.name}", "type": "application/geo+json"}
                    for file in written
                ),
            ],
        }
        _write(output / "catalog.json", catalogue)
        wrote("Catalogue", output / "catalog.json")
    tell(items=[item for _, item in items])


def _result(path: Path, reader: str | None) -> xr.Dataset | geopandas.GeoDataFrame:
    from lunarray.geo import MOON, read_vectors

    suffix = path.suffix.lower()
    if reader is None and suffix in (".gpkg", ".shp", ".geojson", ".parquet", ".geoparquet"):
        return read_vectors(path, body=MOON)
    return open_dataset([path], reader, otherwise="lunar-map")[0]


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
