"""Styles of QGIS for vectors and maps."""

from __future__ import annotations

import os
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from lunarray.errors import InputError

#: Classes of a graduated style.
CLASSES = 7


def colours(cmap: str, count: int) -> list[tuple[int, int, int]]:
    """Colours of a matplotlib colormap, from end to end."""
    import matplotlib

    try:
        ramp = matplotlib.colormaps[cmap]
    except KeyError:
        raise InputError(
            f"{cmap!r} is no colormap", where="cmap", remedy="Give a name that matplotlib knows"
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

    `column`: which; `values`: its values, for the classes: equal steps from the least to the greatest; `geometry`:
    "Point", "Polygon" or the like; `classes`: how many, at most; no more than there are different values; `cmap`: a
    matplotlib colormap. Returns XML.
    """
    finite = np.unique(np.asarray(values, np.float64)[np.isfinite(values)])
    count = max(1, min(classes, finite.size))
    low, high = (float(finite[0]), float(finite[-1])) if finite.size else (0.0, 1.0)
    edges = np.linspace(low, high, count + 1)
    kind = "marker" if "Point" in geometry else "fill"
    ranges, symbols = [], []
    for k, (r, g, b) in enumerate(colours(cmap, count)):
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
    return _qgis(
        f' <renderer-v2 type="graduatedSymbol" attr={quoteattr(column)} graduatedMethod="GraduatedColor" '
        'symbollevels="0" enableorderby="0" forceraster="0">',
        "  <ranges>",
        *ranges,
        "  </ranges>",
        "  <symbols>",
        *symbols,
        "  </symbols>",
        " </renderer-v2>",
    )


def _qgis(*lines: str) -> str:
    """A style with these lines in it."""
    head = (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>",
        '<qgis version="3.28.0" styleCategories="Symbology">',
    )
    return "\n".join((*head, *lines, "</qgis>", ""))


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

    Examples
    --------
    >>> import lunarray as la
    >>> la.export.raster_style("FeO.tif", 2.0, 20.0, label="FeO (wt%)").name
    'FeO.qml'
    """
    if not vmin < vmax:
        raise InputError(
            f"a colour scale from {vmin} to {vmax}", where="vmin", remedy="Give vmin < vmax"
        )
    unit = f" {label}" if label else ""
    items = [
        f'     <item value="{value:.10g}" label={quoteattr(f"{value:.3g}{unit}")} '
        f'color="#{r:02x}{g:02x}{b:02x}" alpha="255"/>'
        for value, (r, g, b) in zip(
            np.linspace(vmin, vmax, steps), colours(cmap, steps), strict=True
        )
    ]
    text = _qgis(
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
    )
    return write_text(Path(path).with_suffix(".qml"), text)


def write_text(path: Path, text: str) -> Path:
    """Write a file that is there only when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path
