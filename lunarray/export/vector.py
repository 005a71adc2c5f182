"""Regions, points and classes of maps to GeoPackage or shapefile, with styles for QGIS."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.geo import moon_crs, require_body, spatial_dims
from lunarray.store.provenance import now

if TYPE_CHECKING:
    import geopandas

#: Driver of each ending.
DRIVERS = {".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".geojson": "GeoJSON"}
#: Classes of a graduated style.
CLASSES = 7
_SHORT = {"Mg_number": "Mg", "abbreviation": "abbrev", "coverage": "cover", "count": "n"}


def to_vector(
    obj: xr.Dataset | xr.DataArray | geopandas.GeoDataFrame,
    path: str | os.PathLike[str],
    *,
    regions: Any = None,
    levels: Sequence[float] | None = None,
    crs: Any = None,
    layer: str | None = None,
    style: str | None = None,
    cmap: str = "viridis",
) -> list[Path]:
    """Write vectors that QGIS and ArcGIS open, with a style beside them.

    Parameters
    ----------
    obj : Dataset, DataArray or GeoDataFrame
        One of: statistics of regions (:func:`lunarray.geo.region_statistics`), written as polygons; samples or tracks
        with coordinates ``lon`` and ``lat`` along one dimension, written as points with their one-dimensional
        variables; a map with `levels`, written as one polygon for each class of values; vectors with a lunar CRS.
    path : path
        ``.gpkg``, ``.shp`` or ``.geojson``. A GeoPackage keeps its other layers.
    regions : region, sequence of regions, GeoDataFrame or path, optional
        For statistics: the regions that they are of, in the same order.
    levels : sequence of float, optional
        For a map: borders of the classes, rising.
    crs : str or CRS, optional
        Of the file; by default that of the map, or for regions and points the polar one where all lie poleward of 60°
        on one side, else longitude and latitude.
    layer : str, optional
        Name of the layer; by default that of the file.
    style : str, optional
        Column that colours the features; by default the first number. "" writes no style.
    cmap : str
        A matplotlib colormap for it.

    Returns
    -------
    list of Path
        What was written: the vectors, and the style (.qml).

    Raises
    ------
    InputError
        An ending that is none of these, or an object that is none of those.
    """
    path = Path(path)
    driver_of(path)
    frame: Any
    if not isinstance(obj, (xr.Dataset, xr.DataArray)):
        require_body(obj.crs, where=path.name)
        frame = obj if crs is None else obj.to_crs(moon_crs(crs).to_wkt())
    elif isinstance(obj, xr.Dataset) and set(obj.dims) == {"region", "statistic"}:
        frame = _statistics_frame(obj, regions, crs)
    elif levels is not None:
        frame = _class_frame(obj, levels, crs)
    else:
        frame = _point_frame(obj, crs)
    if frame.empty:
        raise InputError(
            "there is nothing to write", where=path, remedy="give one feature at least"
        )
    return write_layer(frame, path, layer=layer, style=style, cmap=cmap)


def driver_of(path: Path) -> str:
    """GDAL's driver by a file's ending; InputError where there is none."""
    driver = DRIVERS.get(path.suffix.lower())
    if driver is None:
        raise InputError(
            f"vectors are not written as {path.suffix or 'files without suffix'}",
            where=path,
            remedy=f"use {', '.join(DRIVERS)}",
        )
    return driver


def write_layer(
    frame: geopandas.GeoDataFrame,
    path: Path,
    *,
    layer: str | None = None,
    style: str | None = None,
    cmap: str = "viridis",
    abbreviations: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write vectors as they are, with a style beside them.

    Parameters
    ----------
    frame : GeoDataFrame
        With a CRS, and one kind of geometry.
    path, layer, style, cmap
        As of :func:`to_vector`.
    abbreviations : mapping of str to str, optional
        For the names of columns in a shapefile, which have ten characters.

    Returns
    -------
    list of Path
        What was written: the vectors, and the style (.qml).

    Raises
    ------
    InputError
        An ending that is none, or no such column of numbers.
    """
    driver = driver_of(path)
    names = list(frame.columns.drop(frame.geometry.name))
    numbers = [c for c in names if frame[c].dtype.kind in "fiu"]
    short = {name: name for name in names}
    if driver == "ESRI Shapefile":
        short = _short_names(names, {**_SHORT, **(abbreviations or {})})
        frame = frame.rename(columns=short)
    layer = layer or path.stem
    text = None
    if style != "" and (style or numbers):
        column = style or numbers[0]
        if column not in numbers:
            raise InputError(
                f"no column {column!r} of numbers",
                where="style",
                remedy=f"choose among {', '.join(numbers) or 'none'}",
            )
        kind = "Polygon" if frame.empty else frame.geom_type.iloc[0]
        column = short[column]
        text = vector_style(column, frame[column].to_numpy(float), kind, cmap=cmap)
    # All that can be wrong with the request is known by now: nothing has been written yet.
    files = _write(frame, path, driver, layer, text)
    if text is not None:
        # A GeoPackage holds the style of each layer, where QGIS looks first; the .qml serves other programs.
        stem = path.stem if layer == path.stem else f"{path.stem}_{layer}"
        files.append(_write_text(path.with_name(f"{stem}.qml"), text))
    return files


def _statistics_frame(stats: xr.Dataset, regions: Any, crs: Any) -> geopandas.GeoDataFrame:
    import geopandas

    from lunarray.geo import as_regions, region_name, region_shape

    if regions is None:
        raise InputError(
            "the outlines of the regions are not in the statistics",
            where="regions",
            remedy="give the regions that the statistics are of",
        )
    found = as_regions(regions)
    names = [region_name(r, i) for i, r in enumerate(found)]
    if names != [str(n) for n in stats["region"].values]:
        raise InputError(
            f"{len(found)} regions ({', '.join(names[:3])}, …) and statistics of {stats.sizes['region']}",
            where="regions",
            remedy="give the regions that the statistics are of, in the same order",
        )
    target = (
        _common_crs(*(np.array([r.cap()[k] for r in found]) for k in (0, 1)))
        if crs is None
        else moon_crs(crs)
    )
    stats = stats.compute()
    columns: dict[str, Any] = {
        "name": names,
        "abbreviation": [str(a) for a in stats["abbreviation"].values],
    }
    for name in stats.data_vars:
        for statistic in stats["statistic"].values:
            columns[f"{name}_{statistic}"] = stats[name].sel(statistic=statistic).values
    # What colours the regions comes first: a mean, not a count.
    first = [c for c in columns if c.endswith("_mean")]
    order = ["name", "abbreviation", *first, *(c for c in list(columns)[2:] if c not in first)]
    frame = geopandas.GeoDataFrame(
        {c: columns[c] for c in order}, geometry=[region_shape(r, target) for r in found]
    )
    return frame.set_crs(target.to_wkt())


def _point_frame(obj: Any, crs: Any) -> geopandas.GeoDataFrame:
    import geopandas
    import pyproj

    ds = obj.to_dataset(name=obj.name or "value") if isinstance(obj, xr.DataArray) else obj
    if (
        "lon" not in ds.variables
        or "lat" not in ds.variables
        or ds["lon"].ndim != 1
        or ds["lon"].dims != ds["lat"].dims
    ):
        hint = "give `levels` to write a map as classes; " if spatial_dims(ds) is not None else ""
        raise InputError(
            f"neither statistics of regions nor points: the dimensions are {tuple(map(str, ds.dims))}",
            where="to_vector",
            remedy=f"{hint}points need coordinates lon and lat along one dimension",
        )
    dim = ds["lon"].dims
    flat = ds[[n for n, v in ds.data_vars.items() if v.dims == dim and v.dtype.kind in "fiubM"]].compute()  # fmt: skip
    lon, lat = (np.asarray(ds[n].values, np.float64) for n in ("lon", "lat"))
    target = _common_crs(lon, lat) if crs is None else moon_crs(crs)
    x, y = lon, lat
    if not target.is_geographic:
        x, y = pyproj.Transformer.from_crs(target.geodetic_crs, target, always_xy=True).transform(lon, lat)  # fmt: skip
    columns = {"lon": lon, "lat": lat}
    values = {str(n): flat[n].values for n in flat.data_vars if n not in columns}
    frame = geopandas.GeoDataFrame(
        {**values, **columns}, geometry=geopandas.points_from_xy(x, y)
    ).set_crs(target.to_wkt())
    return frame


def _class_frame(obj: Any, levels: Sequence[float], crs: Any) -> geopandas.GeoDataFrame:
    import geopandas
    import shapely
    from rasterio.features import shapes

    from lunarray.geo import geobox_of

    if isinstance(obj, xr.Dataset) or spatial_dims(obj) is None or obj.ndim != 2:
        raise InputError(
            "classes are of one map", where="to_vector", remedy="give one variable on (y, x) or (lat, lon)"
        )  # fmt: skip
    borders = np.asarray(list(levels), np.float64)
    if not 2 <= borders.size <= 255 or not (np.diff(borders) > 0).all():
        raise InputError(
            f"levels {list(levels)}", where="levels", remedy="give 2 to 255 rising numbers"
        )
    geobox = geobox_of(obj)
    if crs is not None and moon_crs(crs) != moon_crs(geobox.crs):
        raise InputError(
            "classes are written in the CRS of their map", where="crs", remedy="reproject the map first"
        )  # fmt: skip
    array = obj.transpose(*(spatial_dims(obj) or ()))

    def classify(block: np.ndarray) -> np.ndarray:
        inside = (block >= borders[0]) & (block < borders[-1])
        return np.where(inside, np.digitize(block, borders), 0).astype(np.uint8)

    data = array.data
    # Blocks give a byte a pixel; polygons are drawn around the whole of it, so that none breaks at a block's edge.
    classes = (
        data.map_blocks(classify, dtype=np.uint8, meta=np.empty((0, 0), np.uint8)).compute()
        if array.chunks is not None
        else classify(np.asarray(data))
    )
    parts: dict[int, list[Any]] = {}
    for shape, value in shapes(
        classes, mask=classes > 0, connectivity=4, transform=geobox.transform
    ):
        parts.setdefault(int(value), []).append(shapely.geometry.shape(shape))
    if not parts:
        raise InputError("no value lies within the levels", where="levels", remedy="give others")
    rows = sorted(parts)
    middle = [(borders[k - 1] + borders[k]) / 2 for k in rows]
    return geopandas.GeoDataFrame(
        {
            "middle": middle,
            "lower": [borders[k - 1] for k in rows],
            "upper": [borders[k] for k in rows],
        },
        geometry=[shapely.MultiPolygon(parts[k]) for k in rows],
    ).set_crs(moon_crs(geobox.crs).to_wkt())


def _common_crs(lon: np.ndarray, lat: np.ndarray) -> Any:
    if lat.size and (lat > 60).all():
        return moon_crs("north")
    if lat.size and (lat < -60).all():
        return moon_crs("south")
    return moon_crs("geographic")


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
        options = {} if driver == "GeoJSON" else {"layer": layer if driver == "GPKG" else path.stem}
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


def _write_text(path: Path, text: str) -> Path:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path


def _colours(cmap: str, count: int) -> list[tuple[int, int, int]]:
    import matplotlib

    try:
        ramp = matplotlib.colormaps[cmap]
    except KeyError:
        raise InputError(
            f"{cmap!r} is no colormap", where="cmap", remedy="give a name that matplotlib knows"
        ) from None
    return [tuple(round(255 * c) for c in ramp(t)[:3]) for t in np.linspace(0, 1, count)]


def vector_style(
    column: str,
    values: np.ndarray,
    geometry: str,
    *,
    classes: int = CLASSES,
    cmap: str = "viridis",
) -> str:
    """QGIS style (.qml) that colours features by a column.

    Parameters
    ----------
    column : str
        Which.
    values : ndarray
        Its values, for the classes: equal steps from the least to the greatest.
    geometry : str
        "Point", "Polygon" or the like.
    classes : int
        How many, at most; no more than there are different values.
    cmap : str
        A matplotlib colormap.

    Returns
    -------
    str
        XML.
    """
    finite = np.unique(np.asarray(values, np.float64)[np.isfinite(values)])
    count = max(1, min(classes, finite.size))
    low, high = (float(finite[0]), float(finite[-1])) if finite.size else (0.0, 1.0)
    edges = np.linspace(low, high, count + 1)
    kind = "marker" if "Point" in geometry else "fill"
    ranges, symbols = [], []
    for k, (r, g, b) in enumerate(_colours(cmap, count)):
        label = f"{edges[k]:.3g} – {edges[k + 1]:.3g}"
        ranges.append(
            f'   <range symbol="{k}" lower="{edges[k]:.10g}" upper="{edges[k + 1]:.10g}" '
            f'label={quoteattr(label)} render="true"/>'
        )
        options = {"color": f"{r},{g},{b},255", "outline_color": "35,35,35,255", "outline_width": "0.2"}  # fmt: skip
        if kind == "marker":
            options |= {"name": "circle", "size": "2"}
        both = "".join(
            f'<Option name="{n}" value="{v}" type="QString"/>' for n, v in options.items()
        )
        older = "".join(f'<prop k="{n}" v="{v}"/>' for n, v in options.items())
        symbols.append(
            f'   <symbol type="{kind}" name="{k}" alpha="1" clip_to_extent="1" force_rhr="0">'
            f'<layer class="Simple{kind.capitalize()}" enabled="1" locked="0" pass="0">'
            f'<Option type="Map">{both}</Option>{older}</layer></symbol>'
        )
    lines = [
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>",
        '<qgis version="3.28.0" styleCategories="Symbology">',
        f' <renderer-v2 type="graduatedSymbol" attr={quoteattr(column)} graduatedMethod="GraduatedColor" '
        'symbollevels="0" enableorderby="0" forceraster="0">',
        "  <ranges>",
        *ranges,
        "  </ranges>",
        "  <symbols>",
        *symbols,
        "  </symbols>",
        " </renderer-v2>",
        "</qgis>",
        "",
    ]
    return "\n".join(lines)


def raster_style(
    path: str | os.PathLike[str],
    vmin: float,
    vmax: float,
    *,
    cmap: str = "viridis",
    label: str = "",
    steps: int = 11,
) -> Path:
    """Write the QGIS style (.qml) of a GeoTIFF: the colours of our pictures.

    Parameters
    ----------
    path : path
        The GeoTIFF; the style goes beside it, under its name, where QGIS finds it.
    vmin, vmax : float
        Ends of the colour scale.
    cmap : str
        A matplotlib colormap.
    label : str
        Unit, for the legend.
    steps : int
        Colours between which QGIS interpolates.

    Returns
    -------
    Path
        The style.

    Raises
    ------
    InputError
        An empty colour scale, or no such colormap.
    """
    if not vmin < vmax:
        raise InputError(
            f"a colour scale from {vmin} to {vmax}", where="vmin", remedy="give vmin < vmax"
        )
    unit = f" {label}" if label else ""
    items = [
        f'     <item value="{value:.10g}" label={quoteattr(f"{value:.3g}{unit}")} '
        f'color="#{r:02x}{g:02x}{b:02x}" alpha="255"/>'
        for value, (r, g, b) in zip(
            np.linspace(vmin, vmax, steps), _colours(cmap, steps), strict=True
        )
    ]
    lines = [
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>",
        '<qgis version="3.28.0" styleCategories="Symbology">',
        " <pipe>",
        f'  <rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" '
        f'classificationMin="{vmin:.10g}" classificationMax="{vmax:.10g}">',
        "   <rastershader>",
        f'    <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" '
        f'minimumValue="{vmin:.10g}" maximumValue="{vmax:.10g}">',
        *items,
        "    </colorrampshader>",
        "   </rastershader>",
        "  </rasterrenderer>",
        " </pipe>",
        "</qgis>",
        "",
    ]
    return _write_text(Path(path).with_suffix(".qml"), "\n".join(lines))
