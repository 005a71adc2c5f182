"""Footprints coloured by the abundance of an element: on the globe, and in classes over a base map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

import dask
import numpy as np
import xarray as xr

from lunarray.errors import InputError, require_choice
from lunarray.geo import footprint_polygons, lonlat_of, lunar_grid, unit_vectors
from lunarray.plot.drawing import (
    GREY,
    SEQUENTIAL,
    Output,
    colormap,
    finish,
    limits,
    new_figure,
)
from lunarray.plot.globe import draw_globe, grey_map, project_points
from lunarray.plot.mapping import draw_base, frame_of, label_degrees
from lunarray.units import unit_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def footprints(
    result: xr.Dataset,
    element: str = "Mg",
    *,
    projection: Literal["orthographic", "equirectangular"] = "orthographic",
    centre: tuple[float, float] | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = SEQUENTIAL,
    base: xr.DataArray | None = None,
    zoom: bool = False,
    **output: Unpack[Output],
) -> Figure:
    """Draw footprints coloured by the abundance of an element, on the globe.

    Parameters
    ----------
    result : xarray.Dataset
        Of :func:`lunarray.xrf.fit_elements`. Later footprints lie on top of earlier ones; those without a result are
        outlined.
    element : str, optional
        Which.
    projection : {"orthographic", "equirectangular"}
        The globe from afar, or a map of all of it.
    centre : (lon, lat), optional
        Degrees; by default the middle of the footprints.
    vmin, vmax : float, optional
        Ends of the scale, wt%; by default the 2nd and 98th percentiles.
    cmap : str, optional
    base : xarray.DataArray, optional
        Map on ``lat`` and ``lon`` (degrees) drawn in grey underneath, an albedo say. Default: the share of mare that
        comes with lunarray (:func:`lunarray.xrf.ground.mare_map`), maria dark.
    zoom : bool, optional
        Show the surroundings of the footprints alone.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there are no abundances of that element, or no footprints.

    Examples
    --------
    >>> import lunarray as la
    >>> figure = la.plot.footprints(la.sample("tracks"), "Fe")
    """
    from matplotlib.collections import PolyCollection

    needed = {"abundance", "corner_lon", "corner_lat"}
    if not needed <= set(result.variables) or element not in result["element"].values:
        raise InputError(
            f"no abundance of {element} with corners",
            where="footprints",
            remedy="Give what lunarray.xrf.fit_elements gives",
        )
    require_choice("projection", projection, ("orthographic", "equirectangular"))
    lon, lat, values = dask.compute(
        result["corner_lon"].values,
        result["corner_lat"].values,
        result["abundance"].sel(element=element).values,
    )
    centre = _middle(lon, lat) if centre is None else centre
    outlines = _rings(lon, lat, values, step=1.0)
    drawn_as = [(project_points(ring, centre, projection), value) for ring, value in outlines]
    rings = [ring for ring, _ in drawn_as if ring is not None]
    colours = np.array([value for ring, value in drawn_as if ring is not None], float)
    figure = new_figure(6.4, 6.0) if projection == "orthographic" else new_figure(8.6, 4.8)
    axes = figure.subplots()
    grey_map(axes, base, centre, projection)
    known = np.isfinite(colours)
    finite = colours[known]
    low, high, _ = limits([finite], vmin, vmax, (2.0, 98.0))
    drawn = PolyCollection(
        [r for r, k in zip(rings, known, strict=True) if k], cmap=colormap(cmap), lw=0.0, zorder=3
    )
    drawn.set_array(finite)
    drawn.set_clim(low, high)
    axes.add_collection(drawn)
    empty = [r for r, k in zip(rings, known, strict=True) if not k]
    axes.add_collection(PolyCollection(empty, facecolor="none", edgecolor=GREY, lw=0.4, zorder=2))
    units = unit_label(result["abundance"], "wt%")
    figure.colorbar(drawn, ax=axes, label=f"{element} ({units})", shrink=0.8, extend="both")
    if projection == "equirectangular":
        west, south, east, north = _around(rings) if zoom and rings else (-180, -90, 180, 90)
        _degree_axes(axes, west, south, east, north)
        axes.grid(color=GREY, linewidth=0.4, alpha=0.7, zorder=1)
    else:
        draw_globe(axes, centre, rings, zoom and bool(rings))
    return finish(figure, output)


def _rings(
    lon: np.ndarray, lat: np.ndarray, values: np.ndarray, step: float | None = None
) -> list[tuple[np.ndarray, float]]:
    """Outlines of footprints (n, 2) in degrees, with points every `step` degrees, and their values."""
    import shapely

    out = []
    for shape, value in zip(footprint_polygons(lon, lat), values, strict=True):
        for part in shapely.get_parts(shape):
            if part.geom_type == "Polygon" and not part.is_empty:
                dense = part if step is None else shapely.segmentize(part, step)
                out.append((np.asarray(dense.exterior.coords), float(value)))
    return out


def _around(rings: list[np.ndarray]) -> tuple[float, float, float, float]:
    """West, south, east, north of a little more than the footprints."""
    points = np.concatenate(rings)
    low, high = points.min(axis=0), points.max(axis=0)
    pad = max(1.0, 0.03 * float((high - low).max()))
    west, south = np.maximum(low - pad, [-180.0, -90.0])
    east, north = np.minimum(high + pad, [180.0, 90.0])
    return west, south, east, north


def _middle(lon: np.ndarray, lat: np.ndarray) -> tuple[float, float]:
    vectors = unit_vectors(lon, lat).reshape(-1, 3)
    vectors = vectors[np.isfinite(vectors).all(axis=1)]
    if not len(vectors):
        return 0.0, 0.0
    x, y = lonlat_of(vectors.mean(axis=0)[None])
    return float(x[0]), float(y[0])


def _degree_axes(axes: Any, west: float, south: float, east: float, north: float) -> None:
    axes.set_xlim(west, east)
    axes.set_ylim(south, north)
    axes.set_aspect("equal")
    label_degrees(axes, west, south, east, north)


def graduated_map(
    footprints: xr.Dataset,
    element: str | None = None,
    *,
    base: xr.DataArray | None = None,
    classes: int = 6,
    breaks: Sequence[float] | None = None,
    zoom: bool = True,
    cmap: str = SEQUENTIAL,
    **output: Unpack[Output],
) -> Figure:
    """Draw footprints over a base map, coloured by classes of an element's abundance.

    After Lunar elemental analysis and mapping of CLASS data, section V (graduated maps on the lunar albedo map).

    Parameters
    ----------
    footprints : Dataset
        ``corner_lat``, ``corner_lon``, ``abundance`` of footprints, as :func:`lunarray.superres.as_footprints` takes
        them. Later ones lie on top of earlier ones.
    element : str, optional
        Which; by default the first.
    base : DataArray, optional
        Map drawn in grey underneath, an albedo say, on any lunar grid.
    classes : int
        Classes that hold about as many footprints each.
    breaks : sequence of float, optional
        Borders between classes instead, rising, wt%; with the lowest and the highest.
    zoom : bool
        Show where the footprints are; else the whole Moon.
    cmap : str
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no such element, or the classes make no sense.

    Examples
    --------
    >>> import lunarray as la
    >>> figure = la.plot.graduated_map(la.sample("tracks"), "Fe", base=la.sample("albedo"))
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import BoundaryNorm

    from lunarray.superres import as_footprints

    rows = as_footprints(footprints)
    known = [str(e) for e in rows["element"].values]
    element = known[0] if element is None else element
    if element not in known:
        raise InputError(
            f"no abundance of {element}", where="element", remedy=f"Give one of {', '.join(known)}"
        )
    values = rows["abundance"].sel(element=element).values
    edges = class_breaks(values, classes) if breaks is None else np.asarray(list(breaks), float)
    if edges.size < 2 or not (np.diff(edges) > 0).all():
        raise InputError(
            f"borders {edges.tolist()}", where="breaks", remedy="Give two or more, rising"
        )
    outlines = _rings(rows["corner_lon"].values, rows["corner_lat"].values, values)
    outlines = [(ring, value) for ring, value in outlines if np.isfinite(value)]
    rings = [ring for ring, _ in outlines]
    colours = np.array([value for _, value in outlines], float)
    west, south, east, north = _around(rings) if zoom and rings else (-180.0, -90.0, 180.0, 90.0)
    aspect = (north - south) / (east - west)
    figure = new_figure(9.0, float(np.clip(7.4 * aspect, 2.6, 9.0)) + 0.6)
    axes = figure.subplots()
    if base is not None:
        step = max((east - west) / 900, 0.02)
        grid = lunar_grid("geographic", step, (west, south, east, north))
        draw_base(axes, base, grid, frame_of(grid, geographic=True))
    count = edges.size - 1
    ramp = colormap(cmap).resampled(count)
    drawn = PolyCollection(
        rings, cmap=ramp, norm=BoundaryNorm(edges, count, clip=True), lw=0.0, alpha=0.85, zorder=2
    )
    drawn.set_array(colours)
    axes.add_collection(drawn)
    _degree_axes(axes, west, south, east, north)
    units = unit_label(rows["abundance"], "wt%")
    _class_legend(figure, ramp, edges, colours, f"{element} ({units})")
    return finish(figure, output, axes=axes)


def _class_legend(
    figure: Figure, ramp: Any, edges: np.ndarray, values: np.ndarray, title: str
) -> None:
    """Borders of the classes and how many lie in each."""
    from matplotlib.patches import Patch

    numbers = np.histogram(values, edges)[0]
    handles = [
        Patch(color=ramp(k), label=f"{edges[k]:.3g} – {edges[k + 1]:.3g}  ({number})")
        for k, number in enumerate(numbers)
    ]
    place: dict[str, Any] = {"loc": "outside right center", "frameon": False}
    figure.legend(handles=handles, title=title, fontsize=8, title_fontsize=9, **place)


def class_breaks(values: np.ndarray, classes: int) -> np.ndarray:
    """Borders (rising, one more than classes) of at most so many classes of about equal size; NaN does not count."""
    finite = np.asarray(values, float)[np.isfinite(values)]
    if not finite.size or classes < 1:
        raise InputError(
            f"{classes} classes of {finite.size} values",
            where="classes",
            remedy="Give one class and one value at least",
        )
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, classes + 1)))
    return edges if edges.size > 1 else np.array([edges[0] - 0.5, edges[0] + 0.5])
