"""Layers of vectors in files: written whole or not at all, with a style beside them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lunarray.errors import InputError, needs
from lunarray.export.styles import vector_style, write_text
from lunarray.store.provenance import now

#: Driver of each ending.
DRIVERS = {
    ".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".geojson": "GeoJSON", ".parquet": "Parquet",
}  # fmt: skip
_SHORT = {"Mg_number": "Mg", "abbreviation": "abbrev", "coverage": "cover", "count": "n"}


def driver_of(path: Path) -> str:
    """Give the driver for the ending of a file.

    InputError if vectors are not written so; MissingDependencyError where GeoParquet lacks pyarrow.
    """
    driver = DRIVERS.get(path.suffix.lower())
    if driver is None:
        raise InputError(
            f"vectors are not written as {path.suffix or 'files without suffix'}",
            where=path,
            remedy=f"Use {', '.join(DRIVERS)}",
        )
    if driver == "Parquet":
        with needs("pyarrow", f"{path}: GeoParquet"):
            import pyarrow.parquet  # noqa: F401
    return driver


def write_layer(
    frame: Any,
    path: Path,
    *,
    layer: str | None = None,
    style: str | None = None,
    cmap: str = "viridis",
    abbreviations: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write vectors as they are, with a style beside them.

    `frame`: with a CRS, and one kind of geometry; `path`, `layer`, `style`, `cmap`: as of
    :func:`lunarray.export.to_vector`; `abbreviations`: for the names of columns in a shapefile, which have ten
    characters. Returns what was written: the vectors, and the style (.qml). InputError for an ending that is none, or
    no such column of numbers.
    """
    driver = driver_of(path)
    names = list(frame.columns.drop(frame.geometry.name))
    numbers = [c for c in names if frame[c].dtype.kind in "fiu"]
    short = {name: name for name in names}
    if driver == "ESRI Shapefile":
        short = _short_names(names, {**_SHORT, **(abbreviations or {})})
        frame = frame.rename(columns=short)
        # Shapefiles have dates and no times of day: pyogrio before 0.12 cuts them off, later ones write this text.
        for name in frame.columns:
            if frame[name].dtype.kind == "M":
                frame[name] = (
                    frame[name]
                    .dt.strftime("%Y/%m/%d %H:%M:%S.%f")
                    .str[:-3]
                    .str.removesuffix(".000")
                )
    layer = layer or path.stem
    text = None
    if style != "" and (style or numbers):
        column = style or numbers[0]
        if column not in numbers:
            raise InputError(
                f"no column {column!r} of numbers",
                where="style",
                remedy=f"Choose among {', '.join(numbers) or 'none'}",
            )
        kind = "Polygon" if frame.empty else frame.geom_type.iloc[0]
        column = short[column]
        text = vector_style(column, frame[column].to_numpy(float), kind, cmap=cmap)
    # All that can be wrong with the request is known by now: nothing has been written yet.
    files = _write(frame, path, driver, layer, text)
    if text is not None:
        # A GeoPackage holds the style of each layer, where QGIS looks first; the .qml serves other programs.
        stem = path.stem if layer == path.stem else f"{path.stem}_{layer}"
        files.append(write_text(path.with_name(f"{stem}.qml"), text))
    return files


def _short_names(names: list[str], abbreviations: Mapping[str, str]) -> dict[str, str]:
    """Names of at most ten characters, as shapefiles have them, each once."""
    out: dict[str, str] = {}
    for name in names:
        short = name
        for long, brief in abbreviations.items():
            short = short.replace(long, brief)
        short = short[:10]
        number = 1
        while short in out.values():
            number += 1
            short = f"{short[: 10 - len(str(number))]}{number}"
        out[name] = short
    return out


def _write(frame: Any, path: Path, driver: str, layer: str, style: str | None = None) -> list[Path]:
    import shutil

    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target and then under its name: what is there is whole. A GeoPackage is copied, to keep other layers.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        work = Path(folder) / path.name
        if driver == "GPKG" and path.exists():
            shutil.copyfile(path, work)
        if driver == "Parquet":
            frame.to_parquet(work)
        else:
            layers = {"GPKG": layer, "ESRI Shapefile": path.stem}
            options = {"layer": layers[driver]} if driver in layers else {}
            frame.to_file(work, driver=driver, engine="pyogrio", **options)
        if driver == "GPKG" and style is not None:
            _style_in_geopackage(work, layer, style)
        written = []
        for file in sorted(Path(folder).iterdir()):
            if file.name.startswith(path.stem) and not file.name.endswith(("-wal", "-shm")):
                os.replace(file, path.parent / file.name)
                written.append(path.parent / file.name)
    return [path, *(f for f in written if f != path)]


def _style_in_geopackage(path: Path, layer: str, text: str) -> None:
    import sqlite3
    from contextlib import closing

    # The inner one commits, the outer one closes.
    with closing(sqlite3.connect(path)) as base, base:
        base.execute(
            "CREATE TABLE IF NOT EXISTS layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT, "
            "f_table_catalog TEXT, f_table_schema TEXT, f_table_name TEXT, f_geometry_column TEXT, "
            "styleName TEXT, styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, "
            "owner TEXT, ui TEXT, update_time DATETIME)"
        )
        moment = now().strftime("%Y-%m-%dT%H:%M:%S.000Z")
        base.execute(
            "INSERT OR REPLACE INTO gpkg_contents (table_name, data_type, identifier, last_change) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles', ?)",
            (moment,),
        )
        base.execute("DELETE FROM layer_styles WHERE f_table_name = ?", (layer,))
        column = base.execute(
            "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (layer,)
        ).fetchone()[0]
        base.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, "
            "styleName, styleQML, styleSLD, useAsDefault, description, owner, update_time) "
            "VALUES ('', '', ?, ?, 'lunarray', ?, '', 1, ?, '', ?)",
            (layer, column, text, "by lunarray", moment),
        )
