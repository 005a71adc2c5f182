"""Fractures to files that QGIS and ArcGIS open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import GridError, InputError
from lunarray.export.vector import DRIVERS, _short_names, _write, _write_text, vector_style
from lunarray.geo import BODIES, require_body

if TYPE_CHECKING:
    import geopandas

__all__ = ["write_fractures"]

# Shapefiles have names of ten characters.
_SHORT = {
    "width_mean": "width",
    "orientation": "orient",
    "probability": "prob",
    "intersections": "crossings",
}


def write_fractures(
    fractures: geopandas.GeoDataFrame,
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    style: str | None = "length",
    cmap: str = "viridis",
    centrelines: bool = True,
) -> list[Path]:
    """Write fractures as GeoPackage, shapefile or GeoJSON, with a QGIS style beside them.

    Parameters
    ----------
    fractures : GeoDataFrame
        As :func:`lunarray.fractures.vectorize` returns it.
    path : path
        ``.gpkg``, ``.shp`` or ``.geojson``. A GeoPackage keeps its other layers.
    layer : str, optional
        Name of the layer in a GeoPackage; by default that of the file.
    style : str or None
        Column that colours the polygons; None writes no style.
    cmap : str
        A matplotlib colormap for it.
    centrelines : bool
        Write the centre lines too: a second layer ``<layer>_centrelines`` of a GeoPackage, else a second file.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        An ending that is none of these, or no column of that name.
    GridError
        Fractures without a CRS.

    Notes
    -----
    A map without fractures is written as an empty layer, with its columns: that nothing was found is a result too.
    """
    import geopandas

    path = Path(path)
    driver = DRIVERS.get(path.suffix.lower())
    if driver is None:
        raise InputError(
            f"vectors are not written as {path.suffix or 'files without suffix'}",
            where=path,
            remedy=f"use {', '.join(DRIVERS)}",
        )
    if fractures.crs is None:
        raise GridError("fractures without a CRS", where=path, remedy="assign one, frame.set_crs(...)")  # fmt: skip
    require_body(fractures.crs, BODIES, where=str(path))
    table = fractures.drop(columns=[c for c in ("centreline",) if c in fractures.columns])
    # Writers know one kind of geometry a layer.
    table = table.set_geometry(
        geopandas.GeoSeries(_multi(table.geometry.to_numpy()), index=table.index, crs=fractures.crs)
    )
    lines = None
    if centrelines and "centreline" in fractures.columns:
        keep = [c for c in ("id", "length", "probability") if c in fractures.columns]
        lines = geopandas.GeoDataFrame(
            fractures[keep].copy(),
            geometry=_multi(fractures["centreline"].to_numpy()),
            crs=fractures.crs,
        )
    short: dict[str, str] = {}
    if driver == "ESRI Shapefile":
        names = list(table.columns.drop(table.geometry.name))
        short = dict(
            zip(names, _short_names([_SHORT.get(n, n) for n in names]).values(), strict=True)
        )
        table = table.rename(columns=short)
        lines = None if lines is None else lines.rename(columns=short)
    text = None
    if style is not None:
        column = short.get(style, style)
        if column not in table.columns or table[column].dtype.kind not in "fiu":
            numbers = [c for c in table.columns if table[c].dtype.kind in "fiu"]
            raise InputError(
                f"no column {style!r} of numbers", where="style", remedy=f"choose among {', '.join(numbers)}"
            )  # fmt: skip
        text = vector_style(column, table[column].to_numpy(float), "Polygon", cmap=cmap)
    layer = layer or path.stem
    # All that can be wrong with the request is known by now: nothing has been written yet.
    files = _write(table, path, driver, layer, text)
    if lines is not None:
        name = f"{layer}_centrelines"
        beside = path if driver == "GPKG" else path.with_name(f"{path.stem}_centrelines{path.suffix}")  # fmt: skip
        files += _write(lines, beside, driver, name)
    if text is not None:
        stem = path.stem if layer == path.stem else f"{path.stem}_{layer}"
        files.append(_write_text(path.with_name(f"{stem}.qml"), text))
    return list(dict.fromkeys(files))


def _multi(geometry: np.ndarray) -> Any:
    """Collections only: a layer has one type."""
    import shapely

    shapes = np.asarray(geometry, dtype=object)
    out = shapes.copy()
    for kind, join in (
        (shapely.GeometryType.POLYGON, shapely.multipolygons),
        (shapely.GeometryType.LINESTRING, shapely.multilinestrings),
    ):
        at = np.flatnonzero(shapely.get_type_id(shapes) == kind)
        if at.size:
            out[at] = join(shapes[at], indices=np.arange(at.size))
    return out
