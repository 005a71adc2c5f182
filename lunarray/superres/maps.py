"""Element maps and footprints as files for QGIS and ArcGIS: rasters and vectors with their styles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.superres.footprints import as_footprints
from lunarray.units import unit_label

if TYPE_CHECKING:
    import geopandas

__all__ = ["footprint_frame", "write_element_maps", "write_element_vectors"]


def write_element_maps(
    maps: xr.Dataset | xr.DataArray,
    folder: str | os.PathLike[str],
    *,
    elements: Sequence[str] | None = None,
    std: bool = True,
    cmap: str = "viridis",
    percentiles: tuple[float, float] = (1.0, 99.0),
) -> list[Path]:
    """Write a cloud-optimised GeoTIFF of each element, with a QGIS style beside it.

    Parameters
    ----------
    maps : Dataset or DataArray
        A Global Information Bank or predicted maps: ``abundance`` (element, lat, lon) and, if there, ``abundance_std``
        and ``count``. Lazy ones are computed block by block.
    folder : path
        Gets ``Mg.tif`` and ``Mg.qml``, ``Mg_std.tif`` and ``Mg_std.qml``, …, and ``count.tif``.
    elements : sequence of str, optional
        By default all of which something is known.
    std : bool
        Write errors and counts too.
    cmap : str
        A matplotlib colormap.
    percentiles : (float, float)
        Where the colour scale of each map ends.

    Returns
    -------
    list of Path
        The GeoTIFFs and styles.

    Raises
    ------
    InputError
        If `maps` holds no abundances, or not of these elements.

    References
    ----------
    Lunar elemental analysis and mapping of CLASS data, section V (maps as GeoTIFF from PyQGIS scripts).

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.track_scene(la.superres.GIBGrid((1, 1), (30, 45), (-70, 5, -40, 25)))
    >>> paths = la.superres.write_element_maps(scene.truth, "maps", elements=["Fe"], std=False)
    >>> [path.name for path in paths]
    ['Fe.tif', 'Fe.qml']
    """
    from lunarray.export import raster_style, to_cog

    ds = maps.to_dataset(name="abundance") if isinstance(maps, xr.DataArray) else maps
    if "abundance" not in ds.data_vars or "element" not in ds["abundance"].dims:
        raise InputError(
            "no abundance with dimension element",
            where="write_element_maps",
            remedy="Give what open_gib or superresolve gives",
        )
    there = [str(e) for e in ds["element"].values]
    odd = [e for e in elements or () if e not in there]
    if odd:
        raise InputError(
            f"no map of {', '.join(odd)}",
            where="elements",
            remedy=f"Give some of {', '.join(there)}",
        )
    folder = Path(folder)
    written: list[Path] = []
    for element in elements or there:
        layers = {element: ds["abundance"].sel(element=element, drop=True)}
        scale = _scale(layers[element], percentiles)
        if scale is None:
            if elements:
                raise InputError(
                    f"nothing is known of {element}", where="elements", remedy="Leave it out"
                )
            continue
        if std and "abundance_std" in ds.data_vars:
            layers[f"{element}_std"] = ds["abundance_std"].sel(element=element, drop=True)
        for name, layer in layers.items():
            own = scale if name == element else _scale(layer, percentiles)
            if own is None:
                continue
            units = unit_label(layer, "wt%")
            files = to_cog(layer.rename(name).astype("f4"), folder / f"{name}.tif", cmap=None)
            written += [*files, raster_style(files[0], *own, cmap=cmap, label=str(units))]
    if std and "count" in ds.data_vars:
        files = to_cog(ds["count"], folder / "count.tif", cmap=None)
        high = max(1.0, float(ds["count"].max()))
        written += [
            *files,
            raster_style(files[0], 0.0, high, cmap=cmap, steps=int(min(high, 10)) + 1),
        ]
    if not written:
        raise InputError(
            "nothing is known of any element",
            where="write_element_maps",
            remedy="Populate it first",
        )
    return written


def _scale(layer: xr.DataArray, percentiles: tuple[float, float]) -> tuple[float, float] | None:
    """Ends of a colour scale; None where nothing is known. Blocks are read one after the other."""
    finite = []
    blocks: Any = [layer.data] if layer.chunks is None else layer.data.to_delayed().ravel()
    for block in blocks:
        values = np.asarray(block if layer.chunks is None else block.compute())
        values = values[np.isfinite(values)]
        # Enough of each block for percentiles, few enough for all of the Moon.
        finite.append(values[:: max(1, values.size // 20_000)])
    known = np.concatenate(finite) if finite else np.empty(0)
    if not known.size:
        return None
    low, high = (float(v) for v in np.percentile(known, percentiles))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def footprint_frame(footprints: xr.Dataset) -> geopandas.GeoDataFrame:
    """Footprints with their abundances as polygons in IAU_2015:30100, split at ±180°.

    A column for each element (``Mg``, wt%) and its error (``Mg_std``), the number of the footprint, and its time where
    it is known.
    """
    import geopandas

    from lunarray.geo import footprint_polygons, moon_crs

    rows = as_footprints(footprints)
    columns: dict[str, Any] = {}
    for k, element in enumerate(map(str, rows["element"].values)):
        values, errors = rows["abundance"].values[:, k], rows["abundance_std"].values[:, k]
        if np.isfinite(values).any():
            columns[element] = values
            if np.isfinite(errors).any():
                columns[f"{element}_std"] = errors
    columns["footprint"] = np.arange(rows.sizes["footprint"])
    if "time" in rows.coords and np.isfinite(rows["time"].values.astype("i8")).all():
        columns["time"] = np.datetime_as_string(rows["time"].values.astype("M8[ns]"), unit="s")
    shapes = footprint_polygons(rows["corner_lon"].values, rows["corner_lat"].values)
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=moon_crs("geographic").to_wkt())


def write_element_vectors(
    obj: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    element: str | None = None,
    layer: str | None = None,
    cmap: str = "viridis",
) -> list[Path]:
    """Write footprints, or the populated pixels of a Global Information Bank, for QGIS, with a graduated style.

    Parameters
    ----------
    obj : Dataset
        Footprints as :func:`lunarray.superres.as_footprints` takes them, written as polygons; or maps with
        ``abundance`` (element, lat, lon), whose known pixels are written as points.
    path : path
        ``.gpkg``, ``.shp`` or ``.geojson``. A GeoPackage keeps its other layers.
    element : str, optional
        Which colours the features; by default the first of which something is known.
    layer : str, optional
        Name of the layer; by default that of the file.
    cmap : str
        A matplotlib colormap.

    Returns
    -------
    list of Path
        The vectors and the style (.qml).

    Raises
    ------
    InputError
        If `obj` is neither, or nothing is known of `element`.

    References
    ----------
    Lunar elemental analysis and mapping of CLASS data, section V (graduated maps as shapefiles from PyQGIS scripts).

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.track_scene(la.superres.GIBGrid((1, 1), (30, 45), (-70, 5, -40, 25)))
    >>> paths = la.superres.write_element_vectors(scene.footprints, "tracks.gpkg", element="Fe")
    >>> paths[0].name
    'tracks.gpkg'
    """
    from lunarray.export import to_vector

    if {"corner_lat", "corner_lon"} <= set(obj.variables):
        table: Any = footprint_frame(obj)
        known = [c for c in table.columns if f"{c}_std" in table or c in map(str, obj["element"].values)]  # fmt: skip
    elif "abundance" in obj.data_vars and {"element", "lat", "lon"} == set(obj["abundance"].dims):
        table, known = _points(obj)
    else:
        raise InputError(
            f"dimensions {tuple(map(str, obj.dims))}",
            where="write_element_vectors",
            remedy="Give footprints with corners, or maps on (element, lat, lon)",
        )
    if not known or (element is not None and element not in known):
        raise InputError(
            f"nothing is known of {element or 'any element'}",
            where="element",
            remedy=f"Give one of {', '.join(known)}" if known else "Populate it first",
        )
    return to_vector(table, path, layer=layer, style=element or known[0], cmap=cmap)


def _points(ds: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """Known pixels of maps as points, block row by block row."""
    ds = ds.transpose("element", "lat", "lon", ..., missing_dims="ignore")
    values = ds["abundance"]
    names = [str(e) for e in ds["element"].values]
    extra = [n for n in ("abundance_std", "count") if n in ds.data_vars]
    columns: dict[str, list[np.ndarray]] = {}
    heights = values.chunks[1] if values.chunks else (values.sizes["lat"],)
    top = 0
    for height in heights:
        part = ds[["abundance", *extra]].isel(lat=slice(top, top + height)).compute()
        top += height
        row, column = np.nonzero(np.isfinite(part["abundance"].values).any(axis=0))
        found = {"lat": part["lat"].values[row], "lon": part["lon"].values[column]}
        for k, name in enumerate(names):
            found[name] = part["abundance"].values[k, row, column]
            if "abundance_std" in extra:
                found[f"{name}_std"] = part["abundance_std"].values[k, row, column]
        if "count" in extra:
            found["count"] = part["count"].values[row, column].astype("i4")
        for name, v in found.items():
            columns.setdefault(name, []).append(v)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    known = [name for name in names if np.isfinite(joined[name]).any()]
    keep = [n for n in joined if joined[n].dtype.kind != "f" or np.isfinite(joined[n]).any()]
    table = xr.Dataset({n: ("pixel", joined[n]) for n in keep if n not in ("lat", "lon")})
    return table.assign_coords({n: ("pixel", joined[n]) for n in ("lat", "lon")}), known
