"""Both poles side by side."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError
from lunarray.geo import geobox_of, lonlat, pixel_of, polar_grid, spatial_dims
from lunarray.plot.drawing import (
    SEQUENTIAL,
    _dims_of,
    decimate,
    draw_map,
    label_of,
    limits,
    new_figure,
    pole_of,
    save,
)

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
    title: str | None = None,
    latitude: float = 60.0,
    graticule: bool = True,
    scale_bar: bool = True,
    path: str | os.PathLike[str] | None = None,
    dpi: float = 150.0,
    max_pixels: int = 2_000_000,
) -> Figure:
    """Draw maps of the poles side by side on one colour scale.

    Parameters
    ----------
    north, south : xarray.DataArray or xarray.Dataset, optional
        Maps in polar stereographic projection (IAU_2015:30130 and 30135), with dimensions (y, x); each is put on the
        side of its own pole. A single map with dimensions (lat, lon) is shown at both poles.
    variable : str, optional
        Which variable of a Dataset. Default: the only one, or the first oxide.
    cmap : str, optional
        Name of a matplotlib colormap.
    vmin, vmax : float, optional
        Limits of the colour scale. Default: the 1st and 99th percentile of both maps together.
    label : str, optional
        Of the colour bar. Default: name and unit of the variable.
    title : str, optional
        Above the figure.
    latitude : float, optional
        For a map in (lat, lon): what is poleward of it is shown (degrees).
    graticule, scale_bar : bool, optional
        Whether to draw parallels and meridians, and a scale in km (true at the pole).
    path : path-like, optional
        Where to save the picture; the suffix tells the format.
    dpi : float, optional
        Resolution of the saved picture.
    max_pixels : int, optional
        Larger maps are decimated to this many pixels, and only then read.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    InputError
        If there is no map, or no such variable.
    GridError
        If a map is not on a polar or geographic lunar grid.
    """
    panels: dict[str, xr.DataArray] = {}
    for given in (north, south):
        if given is None:
            continue
        array = decimate(_pick(given, variable), max_pixels)
        if spatial_dims(array) not in (("y", "x"), None):
            panels.update({pole: _cap(array, pole, latitude) for pole in ("north", "south")})
            continue
        pole = pole_of(geobox_of(array))
        if pole is None:
            raise GridError(
                "the map is not in polar stereographic projection",
                where=str(array.name),
                remedy="use lunarray.plot.maps, or a map in IAU_2015:30130 or 30135",
            )
        if pole in panels:
            raise InputError(
                f"both maps are of the {pole} pole",
                where=str(array.name),
                remedy="give one of each",
            )
        panels[pole] = array
    if not panels:
        raise InputError(
            "there is nothing to draw", remedy="give a map of the north or the south pole, or both"
        )

    low, high, extend = limits([array.values for array in panels.values()], vmin, vmax)
    figure = new_figure(4.6 * len(panels) + 0.4, 5.5)
    all_axes = np.atleast_1d(figure.subplots(1, len(panels)))
    image: Any = None
    for axes, pole in zip(all_axes, sorted(panels), strict=True):
        image = draw_map(
            axes,
            panels[pole],
            vmin=low,
            vmax=high,
            cmap=cmap,
            graticule=graticule,
            scale_bar=scale_bar,
            circle=True,
            fontsize=9.0,
        )
        axes.set_title(f"{pole.capitalize()} pole", fontsize=11, pad=16)
    bar = figure.colorbar(
        image,
        ax=list(all_axes),
        orientation="horizontal",
        extend=extend,
        shrink=0.6,
        aspect=35,
        pad=0.03,
    )
    bar.set_label(label_of(next(iter(panels.values()))) if label is None else label, fontsize=10)
    bar.ax.tick_params(labelsize=8.5)
    bar.outline.set_linewidth(0.6)
    if title:
        figure.suptitle(title, fontsize=13)
    save(figure, path, dpi)
    return figure


def _pick(given: xr.DataArray | xr.Dataset, variable: str | None) -> xr.DataArray:
    if isinstance(given, xr.DataArray):
        array = given
    else:
        from lunarray.plot.panels import map_variables

        name = variable if variable is not None else next(iter(map_variables(given)), None)
        if name is None or name not in given:
            raise InputError(
                f"there is no variable {name!r} to draw",
                where="variable",
                remedy=f"choose among {', '.join(map(str, given.data_vars)) or 'none'}",
            )
        array = given[name]
    array = array.squeeze(drop=True) if array.ndim > 2 else array
    if array.ndim != 2:
        raise InputError(
            f"a map has two dimensions, not {tuple(map(str, array.dims))}",
            where=str(array.name),
            remedy="select one wavelength or layer, .isel(wavelength=0)",
        )
    return array


def _cap(array: xr.DataArray, pole: str, latitude: float) -> xr.DataArray:
    """Polar view of a map in longitude and latitude: the nearest value at each pixel."""
    from lunarray.geo import assign_crs, grid_coords

    source = geobox_of(array)
    pixel = np.pi * 1_737_400.0 / 180.0 * abs(source.transform.e)
    cap = polar_grid(pole, max(pixel / 2, 2000.0), latitude)
    rows, columns = pixel_of(source, *lonlat(cap))
    values = np.asarray(array.transpose(*_dims_of(array)).values)
    picked = np.where(rows >= 0, values[rows, columns], np.nan)
    out = xr.DataArray(
        picked, dims=("y", "x"), coords=grid_coords(cap), name=array.name, attrs=dict(array.attrs)
    )
    return assign_crs(out, cap)
