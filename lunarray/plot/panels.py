"""All quantities of a Dataset at a glance, and results beside a truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError
from lunarray.geo import geobox_of, spatial_dims
from lunarray.plot.drawing import (
    DIVERGING,
    SEQUENTIAL,
    Output,
    chosen,
    colour_bar,
    decimate,
    fill,
    finish,
    flat_map,
    limits,
    minus,
    name_of,
    new_figure,
    no_finer,
    panel_bar,
    pole_of,
)
from lunarray.plot.framing import framed
from lunarray.plot.mapping import draw_map
from lunarray.plot.tracks import draw_tracks
from lunarray.units import unit_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def maps(
    ds: xr.Dataset | xr.DataArray,
    *,
    variables: Sequence[str] | None = None,
    cmap: str = SEQUENTIAL,
    percentiles: tuple[float, float] = (1.0, 99.0),
    columns: int = 4,
    max_pixels: int = 500_000,
    **output: Unpack[Output],
) -> Figure:
    """Draw every oxide of a Dataset, one panel each: maps, or profiles and positions of tracks.

    Maps are cut to where they hold anything. A map that is flatter than its own error (``FeO_std`` of ``FeO``) says so,
    and its colours are not stretched.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Maps with dimensions (y, x) or (lat, lon); or tracks with dimension ``observation`` and coordinates ``lon`` and
        ``lat``. Tracks of up to five orbits are drawn as profiles along latitude, more as coloured positions.
    variables : sequence of str, optional
        What to draw. Default: the oxides and Mg#, or where there are none every two-dimensional variable (for tracks,
        every variable along ``observation``) up to twelve.
    cmap : str, optional
    percentiles : tuple of float, optional
        Where the colour scale of each panel ends.
    columns : int, optional
    max_pixels : int, optional
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is nothing to draw.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> figure = la.plot.maps(scene.lunar.invert_oxides(), variables=["FeO", "TiO2"])
    """
    if isinstance(ds, xr.DataArray):
        ds = ds.to_dataset(name=ds.name if ds.name is not None else "value")
    names = chosen(variables, ds)
    if spatial_dims(ds) is not None:
        figure = _map_panels(ds, names, cmap, percentiles, columns, max_pixels)
    elif "observation" in ds.dims:
        figure = draw_tracks(ds, names, cmap, percentiles, columns)
    else:
        raise InputError(
            f"neither maps nor tracks: the dimensions are {tuple(map(str, ds.dims))}",
            remedy="Give dimensions (y, x), (lat, lon) or observation",
        )
    return finish(figure, output, fontsize=13)


def element_comparison(
    maps: xr.Dataset,
    others: Mapping[str, xr.Dataset | xr.DataArray] | None = None,
    *,
    grid: Any = None,
    elements: Sequence[str] | None = None,
    cmap: str = SEQUENTIAL,
    max_pixels: int = 250_000,
    **output: Unpack[Output],
) -> Figure:
    """Draw element maps of several sources side by side, a row for each element, with how well they agree.

    Parameters
    ----------
    maps : xarray.Dataset
        Element maps, or what :func:`lunarray.maps.compare_elements` gave.
    others : mapping of str to Dataset or DataArray, optional
        Other sources by name, such as Lunar Prospector's maps of Fe and Ti and oxides of the Spectral Profiler, as that
        function takes them.
    grid : GeoBox, Dataset, DataArray, str or float, optional
        Where they are compared, as there.
    elements : sequence of str, optional
        Which; as there.
    cmap : str, optional
    max_pixels : int, optional
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure
        Maps of a row share a scale; above each is its correlation with the first, and its mean difference from it.

    Raises
    ------
    InputError
        If there are no sources to compare, or nothing is common to them.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.track_scene(la.superres.GIBGrid((1, 1), (30, 45), (-70, 5, -40, 25)))
    >>> figure = la.plot.element_comparison(scene.truth, {"again": scene.truth}, elements=["Fe"])
    """
    if others is not None:
        from lunarray.maps import compare_elements

        maps = compare_elements(maps, others, grid=grid, elements=elements)
    if not {"source", "element"} <= set(maps.dims) or "abundance" not in maps:
        raise InputError(
            "there are no maps of several sources",
            where="element_comparison",
            remedy="Give the others, {'Lunar Prospector': ...}, or the result of compare_elements",
        )
    names = [str(e) for e in maps["element"].values] if elements is None else list(elements)
    few = maps[["r", "bias"]].compute()
    shown = decimate(maps["abundance"], max_pixels)
    sources = [str(s) for s in shown["source"].values]
    dims = spatial_dims(shown) or ("y", "x")
    aspect = float(np.clip(shown.sizes[dims[0]] / shown.sizes[dims[1]], 0.4, 1.6))
    figure = new_figure(3.4 * len(sources) + 0.8, (3.0 * aspect + 0.5) * len(names) + 0.4)
    grids = figure.subplots(len(names), len(sources), squeeze=False)
    for panels, element in zip(grids, names, strict=True):
        row = shown.sel(element=element, drop=True)
        scale = limits([row.values], None, None)
        image = None
        for axes, source in zip(panels, sources, strict=True):
            own = row.sel(source=source, drop=True)
            if not np.isfinite(own.values).any():
                axes.set_axis_off()
                continue
            image = draw_map(axes, own, scale, cmap, scale_bar=False, fontsize=7.5)
            text = source
            if source != sources[0]:
                numbers = few.sel(source=source, element=element)
                text += f": r {float(numbers.r):.2f}, bias {float(numbers.bias):+.1f}"
            axes.set_title(minus(text), fontsize=9.5)
        if image is not None:
            label = f"{element} (wt%)"
            colour_bar(figure, image, list(panels), label, extend=scale[2], pad=0.015, fontsize=9)
    return finish(figure, output)


def comparison(
    truth: xr.Dataset,
    result: xr.Dataset,
    *,
    variables: Sequence[str] | None = None,
    cmap: str = SEQUENTIAL,
    max_pixels: int = 250_000,
    **output: Unpack[Output],
) -> Figure:
    """Draw truth, result, error and stated error of maps one below the other, with the errors in numbers.

    Parameters
    ----------
    truth, result : xarray.Dataset
        Maps on the same grid, with variables of the same names.
    variables : sequence of str, optional
        What to compare. Default: the oxides that both have, or every map that both have.
    cmap : str, optional
        Name of a matplotlib colormap; truth and result share one scale.
    max_pixels : int, optional
        Larger maps are decimated to this many pixels for each panel; the numbers then are of the decimated maps.
    **output : Output
        ``title``, ``path`` to save the picture, ``dpi`` (130 by default).

    Returns
    -------
    matplotlib.figure.Figure
        The figure. Bias is the mean of result − truth, RMSE its root mean square. Below are the errors that the result
        states of itself (``FeO_std`` of ``FeO``), where it does, and how much of the truth lies within them.

    Raises
    ------
    InputError
        If they have no variable in common.
    GridError
        If they are not on the same grid.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> figure = la.plot.comparison(la.simulate.truth_maps(scene), scene.lunar.invert_oxides(), variables=["FeO"])
    """
    common = chosen(variables, result, truth)
    _require_same_grid(truth, result)
    stated = [f"{name}_std" for name in common if f"{name}_std" in result]
    truth = decimate(truth[common], max_pixels)
    result = decimate(result[[*common, *stated]], max_pixels)
    rows = ("truth", "result", "result − truth", "stated error (1 σ)")[: 4 if stated else 3]
    figure = new_figure(2.3 * len(common) + 0.6, 8.4 + 2.7 * (len(rows) - 3))
    grid = figure.subplots(len(rows), len(common), squeeze=False)
    for column, name in enumerate(common):
        panels = grid[:, column]
        _compare(figure, panels[:3], truth[name], result[name], cmap, first=column == 0)
        if f"{name}_std" in stated:
            _stated(figure, panels[3], truth[name], result[name], result[f"{name}_std"])
        elif stated:
            panels[3].set_axis_off()
    for row, text in enumerate(rows):
        grid[row, 0].set_ylabel(text, fontsize=11, labelpad=8)
    output.setdefault("dpi", 130.0)
    return finish(figure, output, fontsize=13)


def _compare(
    figure: Figure,
    panels: np.ndarray,
    expected: xr.DataArray,
    found: xr.DataArray,
    cmap: str,
    *,
    first: bool,
) -> None:
    """A column of a comparison."""
    found = found.transpose(*expected.dims)
    error = found.copy(data=found.values.astype(np.float64) - expected.values)
    scale = limits([expected.values, found.values], None, None)
    span = max(abs(value) for value in limits([error.values], None, None, (2.0, 98.0))[:2]) or 1.0
    draw_map(panels[0], expected, scale, cmap, labels=False, scale_bar=first)
    image = draw_map(panels[1], found, scale, cmap, labels=False, scale_bar=False)
    bare: dict[str, Any] = {"labels": False, "graticule": False, "scale_bar": False}
    off = draw_map(panels[2], error, (-span, span, "both"), DIVERGING, **bare)
    name, unit = name_of(found), unit_label(found, "")
    style: dict[str, Any] = {"fontsize": 8.5, "ticks": 7.5, "orientation": "horizontal"}
    style |= {"pad": 0.02, "aspect": 18, "shrink": 0.92}
    colour_bar(figure, image, list(panels[:2]), f"{name} ({unit})", extend=scale[2], **style)
    colour_bar(figure, off, panels[2], f"{name} error ({unit})", extend="both", **style)
    finite = error.values[np.isfinite(error.values)]
    numbers = "no data"
    if finite.size:
        bias, rmse = round(finite.mean(), 2) + 0.0, np.sqrt(np.mean(finite**2))
        numbers = f"bias {bias:+.2f}\nRMSE {rmse:.2f}"
    panels[2].set_title(minus(numbers), fontsize=8)
    panels[0].set_title(name_of(expected), fontsize=12)


def _stated(
    figure: Figure, axes: Any, expected: xr.DataArray, found: xr.DataArray, std: xr.DataArray
) -> None:
    """The error that a result states of itself, and how much of the truth lies within it."""
    std, found = std.transpose(*expected.dims), found.transpose(*expected.dims)
    scale = limits([std.values], None, None)
    bare: dict[str, Any] = {"labels": False, "graticule": False, "scale_bar": False}
    image = draw_map(axes, std, scale, "magma", **bare)
    style: dict[str, Any] = {"fontsize": 8.5, "ticks": 7.5, "orientation": "horizontal"}
    style |= {"pad": 0.02, "aspect": 18, "shrink": 0.92, "extend": scale[2]}
    colour_bar(figure, image, axes, f"{name_of(found)} σ ({unit_label(found, '')})", **style)
    off = np.abs(found.values.astype(np.float64) - expected.values)
    known = np.isfinite(off) & np.isfinite(std.values)
    if known.any():
        share = float((off[known] <= std.values[known]).mean())
        axes.set_title(f"truth within σ: {share:.0%}", fontsize=8)


def _require_same_grid(truth: xr.Dataset, result: xr.Dataset) -> None:
    dims = spatial_dims(result)
    if dims is None or spatial_dims(truth) != dims:
        raise GridError(
            "truth and result are not maps with the same dimensions", remedy="Grid both alike first"
        )
    for dim in dims:
        if truth.sizes[dim] != result.sizes[dim] or not np.allclose(truth[dim], result[dim]):
            raise GridError(
                "truth and result are not on the same grid",
                where=dim,
                remedy="Grid both alike first",
            )


def _map_panels(
    ds: xr.Dataset,
    names: list[str],
    cmap: str,
    percentiles: tuple[float, float],
    columns: int,
    max_pixels: int,
) -> Figure:
    flat = xr.Dataset({name: flat_map(ds[name]) for name in names})
    errors = {f"{name}_std": ds[f"{name}_std"] for name in names if f"{name}_std" in ds}
    ds = framed(flat.assign(errors), max_pixels)
    geobox = geobox_of(ds)
    rows = -(-len(flat) // columns)
    columns = -(-len(flat) // rows)
    (height, width), transform = geobox.shape, geobox.transform
    aspect = float(np.clip(height * abs(transform.e) / (width * abs(transform.a)), 0.4, 2.5))
    figure = new_figure(3.3 * columns + 0.3, rows * (3.0 * aspect + 1.0) + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, name in fill(grid, list(map(str, flat))):
        array = ds[name]
        scale, note = limits([array.values], None, None, percentiles), ""
        if f"{name}_std" in ds:
            scale, note = no_finer(scale, ds[f"{name}_std"].values)
        first = axes is grid[0, 0]
        image = draw_map(axes, array, scale, cmap, scale_bar=first, circle=True, fontsize=7.5)
        pad = 14 if pole_of(geobox) else 6
        panel_bar(figure, axes, image, array, scale[2], pad=pad, note=note)
    return figure
