"""Regions: reference beside result, means and spreads, outlines on a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError
from lunarray.geo import as_regions, geobox_of, lunar_grid, region_shape, spatial_dims
from lunarray.plot.drawing import (
    DIVERGING,
    INK,
    LINE_COLOURS,
    RED,
    SEQUENTIAL,
    Output,
    all_variables,
    chosen,
    colour_bar,
    decimate,
    fill,
    finish,
    halo,
    label_of,
    lay_grid,
    limits,
    minus,
    name_of,
    new_figure,
    require_pole,
)
from lunarray.plot.mapping import draw_map
from lunarray.units import unit_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def region_triptychs(
    regions: Sequence[xr.Dataset] | xr.Dataset,
    *,
    variable: str = "FeO",
    cmap: str = SEQUENTIAL,
    titles: tuple[str, str, str] = ("reference", "result", "result − reference"),
    **output: Unpack[Output],
) -> Figure:
    """Draw reference, result and difference of regions, a row for each.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figures 10 to 13.

    Parameters
    ----------
    regions : Dataset or sequence of Dataset
        From :func:`lunarray.oxides.region_maps`.
    variable : str
        Which oxide.
    cmap : str
    titles : tuple of 3 str
        Of the columns.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure
        Reference and result of a row share a scale; that of all differences is one, symmetric about zero.

    Raises
    ------
    InputError
        Nothing to draw, or no such variable.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> box = la.geo.Box(-30.0, 86.0, 30.0, 88.0, name="a box")
    >>> pair = la.oxides.region_maps(scene.lunar.invert_oxides(), la.simulate.truth_maps(scene), box, resolution=1.0)
    >>> figure = la.plot.region_triptychs(pair)
    """
    sets = [regions] if isinstance(regions, xr.Dataset) else list(regions)
    if not sets or any(variable not in ds or "panel" not in ds[variable].dims for ds in sets):
        raise InputError(
            f"there is no {variable!r} with reference, result and difference",
            where="variable",
            remedy="Give results of region_maps",
        )
    arrays = [ds[variable].compute() for ds in sets]
    differences = [array.sel(panel="difference").values for array in arrays]
    known = np.concatenate([d[np.isfinite(d)] for d in differences])
    span = float(np.percentile(np.abs(known), 98)) if known.size else 1.0
    heights = []
    for array in arrays:
        rows, columns = lunar_grid(array.isel(panel=0)).shape
        heights.append(float(np.clip(rows / columns * _stretch(array), 0.4, 2.5)))
    figure = new_figure(9.6, sum(2.15 * h for h in heights) + 1.0)
    grid = figure.subplots(len(sets), 3, squeeze=False, height_ratios=heights)
    for panels, array, ds in zip(grid, arrays, sets, strict=True):
        _triptych(figure, panels, array, cmap, span or 1.0)
        if name := str(ds.attrs.get("region", "")):
            panels[0].set_ylabel(name.replace(" (", "\n("), fontsize=10, labelpad=8)
    for axes, text in zip(grid[0], titles, strict=True):
        axes.set_title(text, fontsize=10.5)
    return finish(figure, output)


def _triptych(
    figure: Figure, panels: np.ndarray, array: xr.DataArray, cmap: str, span: float
) -> None:
    """Reference and result on one scale, and their difference with its numbers."""
    there, found, off = (array.sel(panel=p) for p in ("reference", "result", "difference"))
    scale = limits([there.values, found.values], None, None)
    images = []
    for axes, panel in zip(panels, (there, found, off), strict=True):
        own = ((-span, span, "both"), DIVERGING) if panel is off else (scale, cmap)
        images.append(draw_map(axes, panel, *own, scale_bar=False, fontsize=8.5))
        if spatial_dims(panel) != ("y", "x"):
            axes.set_aspect(_stretch(panel))  # as wide as the ground is at the middle parallel
    panels[1].tick_params(labelleft=False)
    style: dict[str, Any] = {"fontsize": 9, "shrink": 0.85, "aspect": 24}
    label = f"{name_of(array)} ({unit_label(array)})"
    colour_bar(figure, images[1], list(panels[:2]), label, extend=scale[2], pad=0.015, **style)
    colour_bar(figure, images[2], panels[2], "difference", extend="both", pad=0.03, **style)
    finite = off.values[np.isfinite(off.values)]
    if finite.size:
        rmse = np.sqrt(np.mean(finite.astype(np.float64) ** 2))
        panels[2].text(
            0.5,
            0.02,
            minus(f"bias {round(float(finite.mean()), 2) + 0.0:+.2f}, RMSE {rmse:.2f}"),
            transform=panels[2].transAxes,
            ha="center",
            va="bottom",
            fontsize=8,
            path_effects=halo(),
            zorder=6,
        )


def _stretch(array: xr.DataArray) -> float:
    """How much higher a degree of latitude is than one of longitude; 1 for maps in metres."""
    dims = spatial_dims(array)
    if dims is None or dims == ("y", "x"):
        return 1.0
    return float(1 / np.cos(np.deg2rad(float(np.abs(array[dims[0]]).mean()))))


def region_bars(
    statistics: xr.Dataset,
    *,
    variables: Sequence[str] | None = None,
    truth: xr.Dataset | None = None,
    columns: int = 2,
    **output: Unpack[Output],
) -> Figure:
    """Draw mean and spread of every oxide in every region.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, table 5.

    Parameters
    ----------
    statistics : Dataset
        From :func:`lunarray.geo.region_statistics`.
    variables : sequence of str, optional
        By default the oxides and Mg#.
    truth : Dataset, optional
        Statistics of the same regions that are true, drawn as crosses.
    columns : int
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure
        A bar from mean − std to mean + std, a line from the 5th to the 95th percentile where they are there, a dot at
        the mean. Axes do not begin at zero: the regions differ by a few per cent.

    Raises
    ------
    InputError
        No statistics of regions, or no such variable.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> maps = scene.lunar.invert_oxides()
    >>> pole = la.geo.Circle(0.0, 90.0, 60_000, name="pole")
    >>> figure = la.plot.region_bars(la.geo.region_statistics(maps, pole, variables=["FeO", "MgO"]))
    """
    if not {"region", "statistic"} <= set(statistics.dims):
        raise InputError(
            "these are no statistics of regions", where="statistics", remedy="Give the result of region_statistics"
        )  # fmt: skip
    names = chosen(variables, statistics, default=all_variables)
    stats = statistics[names].compute()
    real = None if truth is None else truth.compute()
    labels = [str(a) for a in stats["abbreviation"].values]
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(max(3.6, 0.48 * len(labels) + 1.2) * columns, 1.75 * rows + 1.1)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, name in fill(grid.T, names):
        _bars(axes, stats[name], None if real is None else real.get(name))
    for column in range(columns):
        used = [r for r in range(rows) if column * rows + r < len(names)]
        bottom = grid[used[-1], column]
        bottom.tick_params(labelbottom=True)
        bottom.set_xticks(
            np.arange(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor"
        )
        if used[-1] < rows - 1:  # below there is room: the names must not move the rows apart
            for text in bottom.get_xticklabels():
                text.set_in_layout(False)
    if real is not None:
        grid[0, 0].legend(
            fontsize=8,
            frameon=False,
            ncols=2,
            loc="upper left",
            borderaxespad=0.0,
            bbox_to_anchor=(0, 1.16),
        )
    return finish(figure, output)


def _bars(axes: Any, array: xr.DataArray, truth: xr.DataArray | None) -> None:
    """Mean, deviation and percentiles of one quantity, region by region."""
    x = np.arange(array.sizes["region"])
    mean, std = (array.sel(statistic=s).values for s in ("mean", "std"))
    if {"p5", "p95"} <= set(map(str, array["statistic"].values)):
        low, high = (array.sel(statistic=s) for s in ("p5", "p95"))
        axes.vlines(x, low, high, color=INK, linewidth=0.8, zorder=2)
    blue: dict[str, Any] = {"color": "#9ecae1", "edgecolor": "#3a7ca5", "linewidth": 0.7}
    axes.bar(x, 2 * std, bottom=mean - std, width=0.62, zorder=3, **blue)
    axes.plot(x, mean, "o", color=LINE_COLOURS[0], markersize=4.5, zorder=4, label="mean")
    if truth is not None:
        cross: dict[str, Any] = {"color": LINE_COLOURS[1], "markersize": 6, "markeredgewidth": 1.6}
        axes.plot(x, truth.sel(statistic="mean"), "x", zorder=5, label="truth", **cross)
    axes.set_ylabel(label_of(array), fontsize=9.5)
    lay_grid(axes, ticks=8.5, hide=("top", "right"), axis="y")
    axes.use_sticky_edges = False  # the feet of bars would lie on the frame
    axes.margins(x=0.03, y=0.1)


def region_map(
    array: xr.DataArray,
    regions: Any,
    *,
    cmap: str = SEQUENTIAL,
    vmin: float | None = None,
    vmax: float | None = None,
    labels: bool = True,
    max_pixels: int = 1_000_000,
    **output: Unpack[Output],
) -> Figure:
    """Draw regions on a polar map, with their names.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figure 15.

    Parameters
    ----------
    array : DataArray
        A map in polar stereographic projection.
    regions : region, sequence of regions, GeoDataFrame or path
        What :func:`lunarray.geo.as_regions` takes; the map is cut to what is around them.
    cmap : str
    vmin, vmax : float, optional
    labels : bool
        Write the abbreviations.
    max_pixels : int
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GridError
        A map that is not polar, or that none of the regions lies on.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> maps = scene.lunar.invert_oxides()
    >>> figure = la.plot.region_map(maps["FeO"], la.geo.Circle(0.0, 90.0, 60_000, name="pole"))
    """
    geobox = geobox_of(array)
    require_pole(array)
    found = as_regions(regions)
    shapes = [region_shape(r, geobox.crs) for r in found]
    bounds = np.array([s.bounds for s in shapes])
    left, bottom = bounds[:, :2].min(axis=0)
    right, top = bounds[:, 2:].max(axis=0)
    half = 0.5 * max(right - left, top - bottom) * 1.25
    inside_x = np.abs(array["x"].values - (left + right) / 2) <= half
    inside_y = np.abs(array["y"].values - (bottom + top) / 2) <= half
    if not inside_x.any() or not inside_y.any():
        raise GridError(
            "none of the regions lies on the map",
            where=str(array.name),
            remedy="Give a map of their pole",
        )
    part = decimate(array.isel(x=np.flatnonzero(inside_x), y=np.flatnonzero(inside_y)), max_pixels)
    scale = limits([part.values], vmin, vmax)
    figure = new_figure(7.2, 6.4)
    axes = figure.subplots()
    image = draw_map(axes, part, scale, cmap, fontsize=8.5)
    latitudes = [text for text in axes.texts if text.get_transform() == axes.transData]
    names = [
        _outline(axes, shape, (region.abbreviation or region.name) if labels else "")
        for shape, region in zip(shapes, found, strict=True)
    ]
    style: dict[str, Any] = {"ticks": 8.5, "shrink": 0.75, "aspect": 30, "pad": 0.04}
    colour_bar(figure, image, axes, label_of(array), extend=scale[2], **style)
    _apart(figure, [name for name in names if name is not None], latitudes)
    return finish(figure, output)


def _apart(figure: Figure, names: list[Any], latitudes: list[Any]) -> None:
    """Move names of regions until none hides another, and leave out the latitudes under them."""
    figure.draw_without_rendering()
    placed: list[Any] = []
    for name in names:
        west, south, east, north = name.bounds
        places = (
            ((west + east) / 2, north, 0, 3, "center", "bottom"),
            ((west + east) / 2, south, 0, -3, "center", "top"),
            (east, (south + north) / 2, 3, 0, "left", "center"),
            (west, (south + north) / 2, -3, 0, "right", "center"),
            (east, north, 3, 3, "left", "bottom"),
            (west, south, -3, -3, "right", "top"),
            (east, south, 3, -3, "left", "top"),
            (west, north, -3, 3, "right", "bottom"),
        )
        crowds = []
        for x, y, right, up, across, along in places:
            name.xy = (x, y)
            name.set_position((right, up))
            name.set(ha=across, va=along)
            box = name.get_window_extent()
            crowds.append(sum(box.overlaps(other) for other in placed))
            if not crowds[-1]:
                break
        else:  # there is no free place: the least crowded one
            x, y, right, up, across, along = places[int(np.argmin(crowds))]
            name.xy = (x, y)
            name.set_position((right, up))
            name.set(ha=across, va=along)
        placed.append(name.get_window_extent())
    for text in latitudes:
        if any(text.get_window_extent().overlaps(box) for box in placed):
            text.remove()


def _outline(axes: Any, shape: Any, label: str) -> Any:
    """Outline of a region (m) on a map in km; its name above, which knows the region's bounds, or None."""
    for piece in getattr(shape, "geoms", [shape]):
        x, y = np.array(piece.exterior.coords).T * 1e-3
        axes.plot(x, y, color="white", linewidth=2.6, zorder=5)
        axes.plot(x, y, color=RED, linewidth=1.3, zorder=6)
    if not label:
        return None
    west, _, east, top = bounds = [v * 1e-3 for v in shape.bounds]
    name = axes.annotate(
        label,
        ((west + east) / 2, top),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8.5,
        fontweight="bold",
        color=INK,
        path_effects=halo(),
        zorder=7,
    )
    name.bounds = bounds
    return name
