"""Both poles side by side: one quantity, all oxides of an atlas, differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.geo import (
    POLES,
    RADIUS,
    Pole,
    assign_crs,
    geobox_of,
    grid_coords,
    lonlat,
    pixel_of,
    polar_grid,
    spatial_dims,
)
from lunarray.plot.drawing import (
    DIVERGING,
    SEQUENTIAL,
    Output,
    chosen,
    colour_bar,
    decimate,
    finish,
    flat_map,
    label_of,
    limits,
    map_dims,
    name_of,
    new_figure,
    no_finer,
    require_pole,
)
from lunarray.plot.mapping import draw_map
from lunarray.units import unit_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def polar_map(
    north: xr.DataArray | xr.Dataset | None = None,
    south: xr.DataArray | xr.Dataset | None = None,
    *,
    variable: str | None = None,
    cmap: str = SEQUENTIAL,
    vmin: float | None = None,
    vmax: float | None = None,
    label: str | None = None,
    latitude: float = 60.0,
    graticule: bool = True,
    scale_bar: bool = True,
    max_pixels: int = 2_000_000,
    **output: Unpack[Output],
) -> Figure:
    """Draw maps of the poles side by side on one colour scale.

    Where a Dataset knows the error of its map (``FeO_std`` of ``FeO``), a map that is flatter than that says so, and is
    drawn nearly in one colour: stretched, it would show noise.

    Parameters
    ----------
    north, south : xarray.DataArray or xarray.Dataset, optional
        Maps in polar stereographic projection (IAU_2015:30130 and 30135), with dimensions (y, x); each is put on the
        side of its own pole. A single map with dimensions (lat, lon) is shown at both poles.
    variable : str, optional
        Which variable of a Dataset. Default: the only one, or the first oxide.
    cmap : str, optional
    vmin, vmax : float, optional
        Limits of the colour scale. Default: the 1st and 99th percentile of both maps together.
    label : str, optional
        Of the colour bar. Default: name and unit of the variable.
    latitude : float, optional
        For a map in (lat, lon): what is poleward of it is shown (degrees).
    graticule, scale_bar : bool, optional
        Whether to draw parallels and meridians, and a scale in km (true at the pole).
    max_pixels : int, optional
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no map, or no such variable.
    GridError
        If a map is not on a polar or geographic lunar grid.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> maps = scene.lunar.invert_oxides()
    >>> figure = la.plot.polar_map(maps["FeO"], path="feo.png")
    """
    panels: dict[str, xr.DataArray] = {}
    errors: list[np.ndarray] = []
    for given in (north, south):
        if given is None:
            continue
        array = decimate(_pick(given, variable), max_pixels)
        if isinstance(given, xr.Dataset) and f"{array.name}_std" in given:
            errors.append(decimate(flat_map(given[f"{array.name}_std"]), max_pixels).values)
        if spatial_dims(array) not in (("y", "x"), None):
            panels.update({pole: _cap(array, pole, latitude) for pole in POLES})
            continue
        pole = require_pole(array)
        if pole in panels:
            raise InputError(
                f"both maps are of the {pole} pole",
                where=str(array.name),
                remedy="Give one of each",
            )
        panels[pole] = array
    if not panels:
        raise InputError(
            "there is nothing to draw", remedy="Give a map of the north or the south pole, or both"
        )
    scale, note = limits([array.values for array in panels.values()], vmin, vmax), ""
    if vmin is None and vmax is None:
        scale, note = no_finer(scale, _joined(errors))
    figure = new_figure(4.6 * len(panels) + 0.4, 5.5)
    all_axes = np.atleast_1d(figure.subplots(1, len(panels)))
    image: Any = None
    style: dict[str, Any] = {"graticule": graticule, "scale_bar": scale_bar, "fontsize": 9.0}
    for axes, pole in zip(all_axes, sorted(panels), strict=True):
        image = draw_map(axes, panels[pole], scale, cmap, circle=True, **style)
        axes.set_title(f"{pole.capitalize()} pole", fontsize=11, pad=16)
    label = label_of(next(iter(panels.values()))) if label is None else label
    label = f"{label}\n{note}" if note else label
    _bar_below(figure, image, all_axes, label, scale[2], ticks=8.5, shrink=0.6, aspect=35)
    return finish(figure, output, fontsize=13)


def polar_atlas(
    atlas: Mapping[str, xr.Dataset],
    *,
    variables: Sequence[str] | None = None,
    cmap: str = SEQUENTIAL,
    percentiles: tuple[float, float] = (1.0, 99.0),
    columns: int = 2,
    max_pixels: int = 500_000,
    **output: Unpack[Output],
) -> Figure:
    """Draw both poles of every oxide, each pair on one colour scale; a pair that is flatter than its own error says so.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figures 5, 8, 9 and 14.

    Parameters
    ----------
    atlas : mapping of str to Dataset
        "north" and "south", or one of them, from :func:`lunarray.oxides.atlas`.
    variables : sequence of str, optional
        By default the oxides and Mg#.
    cmap : str
    percentiles : tuple of float
        Where each colour scale ends.
    columns : int
        Pairs in a row.
    max_pixels : int
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        Nothing to draw.
    GridError
        Maps that are not polar.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> figure = la.plot.polar_atlas(la.oxides.atlas(scene, latitude=86))
    """
    poles = _poles(atlas)
    names = chosen(variables, *poles.values())
    beside = [f"{name}_std" for name in names if all(f"{name}_std" in ds for ds in poles.values())]
    small = {pole: decimate(ds[[*names, *beside]], max_pixels) for pole, ds in poles.items()}
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    # The first row is higher by the names of the poles, which would be cut off.
    heights = [3.25 + 0.25 * (row == 0) for row in range(rows)]
    space = 0.5 if output.get("title") else 0.1
    figure = new_figure(columns * (2.75 * len(small) + 0.3), sum(heights) + space)
    parts = figure.subfigures(rows, columns, squeeze=False, height_ratios=heights)
    for position, (part, name) in enumerate(zip(parts.flat, names, strict=False)):
        arrays = {pole: ds[name] for pole, ds in small.items()}
        scale = limits([a.values for a in arrays.values()], None, None, percentiles)
        errors = [ds[f"{name}_std"].values for ds in small.values() if f"{name}_std" in beside]
        scale, note = no_finer(scale, _joined(errors))
        panels = np.atleast_1d(part.subplots(1, len(arrays)))
        image: Any = None
        first = position == 0
        for axes, (pole, array) in zip(panels, arrays.items(), strict=True):
            image = draw_map(axes, array, scale, cmap, scale_bar=first, circle=True, fontsize=7.0)
            if position < columns:
                axes.set_title(f"{pole.capitalize()} pole", fontsize=9.5, pad=15)
        label = label_of(next(iter(arrays.values())))
        label = f"{label}\n{note}" if note else label
        _bar_below(part, image, panels, label, scale[2], ticks=8.0, shrink=0.62, aspect=32)
    return finish(figure, output, fontsize=13)


def difference_map(
    north: xr.Dataset | xr.DataArray | None = None,
    south: xr.Dataset | xr.DataArray | None = None,
    *,
    variable: str = "FeO",
    limit: float | None = None,
    label: str | None = None,
    **output: Unpack[Output],
) -> Figure:
    """Draw differences at both poles on a scale that is symmetric about zero.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figure 7.

    Parameters
    ----------
    north, south : Dataset or DataArray, optional
        From :func:`lunarray.oxides.difference`.
    variable : str
        Of Datasets.
    limit : float, optional
        End of the colour scale; by default the 98th percentile of the differences without sign.
    label : str, optional
        Of the colour bar.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        Nothing to draw.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> error = la.oxides.difference(scene.lunar.invert_oxides(), la.simulate.truth_maps(scene))
    >>> figure = la.plot.difference_map(error)
    """
    maps = [
        given if given is None else decimate(_pick(given, variable), 2_000_000)
        for given in (north, south)
    ]
    there = [array for array in maps if array is not None]
    if limit is None:
        values = [np.abs(a.values[np.isfinite(a.values)]) for a in there]
        joined = np.concatenate(values) if values else np.empty(0)
        limit = float(np.percentile(joined, 98)) if joined.size else 1.0
    if label is None and there:
        label = f"difference of {name_of(there[0])} ({unit_label(there[0])})"
    end = limit or 1.0
    return polar_map(*maps, cmap=DIVERGING, vmin=-end, vmax=end, label=label, **output)


def _bar_below(
    figure: Any, image: Any, panels: np.ndarray, label: str, extend: str, **style: float
) -> None:
    """Colour bar that all panels share."""
    place: dict[str, Any] = {"orientation": "horizontal", "extend": extend, "pad": 0.03}
    colour_bar(figure, image, list(panels), label, **place, **style)


def _joined(values: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in values] or [np.empty(0)])


def _pick(given: xr.DataArray | xr.Dataset, variable: str | None) -> xr.DataArray:
    if isinstance(given, xr.Dataset):
        given = given[chosen(None if variable is None else [variable], given)[0]]
    return flat_map(given)


def _poles(atlas: Any) -> dict[str, xr.Dataset]:
    given = [atlas] if isinstance(atlas, xr.Dataset) else atlas.values()
    out = {require_pole(ds): ds for ds in given}
    if not out:
        raise InputError("there is nothing to draw", where="atlas", remedy="Give one pole or both")
    return {pole: out[pole] for pole in ("north", "south") if pole in out}


def _cap(array: xr.DataArray, pole: Pole, latitude: float) -> xr.DataArray:
    """Polar view of a map in longitude and latitude: the nearest value at each pixel."""
    source = geobox_of(array)
    pixel = np.pi * RADIUS / 180.0 * abs(source.transform.e)
    cap = polar_grid(pole, max(pixel / 2, 2000.0), latitude)
    rows, columns = pixel_of(source, *lonlat(cap))
    values = np.asarray(array.transpose(*map_dims(array)).values)
    picked = np.where(rows >= 0, values[rows, columns], np.nan)
    out = xr.DataArray(
        picked, dims=("y", "x"), coords=grid_coords(cap), name=array.name, attrs=dict(array.attrs)
    )
    return assign_crs(out, cap)
