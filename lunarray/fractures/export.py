"""Fractures to files that QGIS and ArcGIS open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import GridError
from lunarray.export.layers import driver_of, write_layer
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

    Examples
    --------
    >>> import lunarray as la
    >>> fractures = la.sample("nac_crop").lunar.map_fractures().lunar.vectorize()
    >>> [path.name for path in la.fractures.write_fractures(fractures, "fractures.gpkg")]
    ['fractures.gpkg', 'fractures.qml']
    """
    path = Path(path)
    driver = driver_of(path)
    if fractures.crs is None:
        raise GridError("fractures without a CRS", where=path, remedy="Assign one, frame.set_crs(...)")  # fmt: skip
    require_body(fractures.crs, BODIES, where=str(path))
    shapes = fractures.geometry
    table = fractures.drop(columns=[shapes.name, "centreline"], errors="ignore")
    table = _of_one_kind(table, shapes)
    layer = layer or path.stem
    files = write_layer(
        table, path, layer=layer, style=style or "", cmap=cmap, abbreviations=_SHORT
    )
    if centrelines and "centreline" in fractures.columns:
        keep = [c for c in ("id", "length", "probability") if c in fractures.columns]
        beside = path if driver == "GPKG" else path.with_name(f"{path.stem}_centrelines{path.suffix}")  # fmt: skip
        files += write_layer(
            _of_one_kind(fractures[keep], fractures["centreline"]),
            beside,
            layer=f"{layer}_centrelines",
            style="",
            abbreviations=_SHORT,
        )
    return list(dict.fromkeys(files))


def _of_one_kind(frame: Any, shapes: Any) -> geopandas.GeoDataFrame:
    """A table whose geometry is collections only: writers know one kind of geometry a layer."""
    import geopandas

    return geopandas.GeoDataFrame(frame, geometry=_multi(shapes.to_numpy()), crs=shapes.crs)


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
