"""Element maps: abundances as colours over a base map, and as surfaces in three dimensions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.geo import (
    RADIUS,
    assign_crs,
    footprint_polygons,
    geobox_of,
    reproject,
    spatial_dims,
)
from lunarray.plot.drawing import (
    SEQUENTIAL,
    Output,
    colormap,
    decimate,
    finish,
    limits,
    new_figure,
    no_finer,
)
from lunarray.plot.mapping import draw_base, draw_map, frame_of
from lunarray.units import WEIGHT, unit_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Share of the weight of the nearest measurement from which a heat map of sparse values is drawn.
_NEAR = 0.25


def _one_map(maps: xr.Dataset | xr.DataArray, element: str | None) -> xr.DataArray:
    """The one map that a picture shows, named after the element, with its unit; InputError if there is none."""
    if isinstance(maps, xr.DataArray):
        array = maps
    else:
        name = "abundance" if "abundance" in maps.data_vars else element
        if name not in maps.data_vars:
            raise InputError(
                f"no variable {name}",
                where="maps",
                remedy=f"Give one of {', '.join(map(str, maps.data_vars))}",
            )
        array = maps[name]
    if "element" in array.dims:
        known = [str(e) for e in array["element"].values]
        if element is None:
            element = known[0]
        if element not in known:
            raise InputError(
                f"no map of {element}", where="element", remedy=f"Give one of {', '.join(known)}"
            )
        units = array.attrs.get("units", WEIGHT)
        array = array.sel(element=element, drop=True).rename(element)
        array.attrs = {"long_name": element, "units": units}
    if array.ndim != 2 or spatial_dims(array) is None:
        raise InputError(
            f"dimensions {tuple(map(str, array.dims))}",
            where="maps",
            remedy="Give a map with dimensions (lat, lon) or (y, x)",
        )
    return array


def heat_map(
    maps: xr.Dataset | xr.DataArray,
    element: str | None = None,
    *,
    base: xr.DataArray | None = None,
    footprints: xr.Dataset | None = None,
    radius: float = 0.0,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = SEQUENTIAL,
    max_pixels: int = 500_000,
    **output: Unpack[Output],
) -> Figure:
    """Draw abundances as colours over a base map, with their uncertainty beside them.

    After Lunar elemental analysis and mapping of CLASS data, section V (heat maps on the lunar albedo map).

    Parameters
    ----------
    maps : Dataset or DataArray
        A Global Information Bank, predicted maps, or one map; with dimension ``element`` or not. Of predicted maps the
        errors, ``abundance_std``, and the ``distance`` from what was measured are drawn beside.
    element : str, optional
        Which; by default the first.
    base : DataArray, optional
        Map drawn in grey where nothing is known, an albedo say, on any lunar grid; where something is, lines follow its
        middle value.
    footprints : Dataset, optional
        Footprints whose outlines are drawn, with ``corner_lat`` and ``corner_lon``, for a map on (lat, lon).
    radius : float
        Kilometres. More than 0 spreads sparse values by a Gaussian of this standard deviation: the mean of what is
        near, drawn as far as measurements are. 0 shows values as they are.
    vmin, vmax : float, optional
        By default percentiles, and no closer together than the errors are large: a map that says nothing is of one
        colour, and its bar says so.
    cmap : str
    max_pixels : int
        Larger maps are averaged (with `radius`) or decimated to about this many pixels.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure
        Every colour of the map is on its bar: nothing shines through.

    Raises
    ------
    InputError
        If there is no such map, or `radius` is negative, or not 0 for a map that is not on (lat, lon).

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.track_scene(la.superres.GIBGrid((1, 1), (30, 45), (-70, 5, -40, 25)))
    >>> figure = la.plot.heat_map(scene.truth, "Fe", base=scene.basemap, footprints=scene.footprints)
    """
    array = _one_map(maps, element)
    if radius < 0 or (radius > 0 and spatial_dims(array) != ("lat", "lon")):
        raise InputError(
            f"radius {radius} on {tuple(map(str, array.dims))}",
            where="radius",
            remedy="Give 0 or more, and a map on (lat, lon)",
        )
    sides: list[xr.DataArray] = []
    if radius > 0:
        shown, weight = spread(array, radius, max_pixels)
        there = weight >= _NEAR
    else:
        shown = decimate(array, max_pixels)
        there = np.isfinite(shown.values)
        sides = [decimate(side, max_pixels) for side in _sides(maps, str(array.name))]
    scale = limits([shown.values[there]], vmin, vmax)
    note = ""
    if sides and sides[0].name == "error" and vmin is None and vmax is None:
        scale, note = no_finer(scale, sides[0].values)
    frame = frame_of(geobox_of(shown), spatial_dims(shown) == ("lat", "lon"))
    aspect = (frame.top - frame.bottom) / (frame.right - frame.left)
    columns = 1 + len(sides)
    high = float(np.clip((8.0 if columns == 1 else 5.0) * aspect, 2.4, 8.0)) + 0.6
    wide = 8.4 if columns == 1 else float(np.clip((high - 0.6) / aspect, 2.4, 8.0)) + 1.4
    figure = new_figure(wide * columns, high)
    panels = figure.subplots(1, columns, squeeze=False)[0]
    image = draw_map(panels[0], shown, scale, cmap, graticule=base is None)
    if base is not None or radius > 0:
        image.set_alpha(there.astype(float))
    if base is not None:
        _under(panels[0], base, shown, there)
        image.set_zorder(2)
    if footprints is not None:
        _draw_outlines(panels[0], footprints)
    _colour_bar(figure, panels[0], array, scale, cmap, note)
    for axes, side in zip(panels[1:], sides, strict=True):
        own = limits([side.values], 0.0, None)
        colours = "magma" if side.name == "error" else "cividis"
        draw_map(axes, side, own, colours, graticule=base is None)
        _colour_bar(figure, axes, side, own, colours)
    return finish(figure, output, axes=panels[0])


def _sides(maps: xr.Dataset | xr.DataArray, element: str) -> list[xr.DataArray]:
    """What is drawn beside predicted maps: their error, and how far they are from what was measured."""
    if not isinstance(maps, xr.Dataset) or "distance" not in maps.data_vars:
        return []
    sides = []
    if "abundance_std" in maps.data_vars and "element" in maps["abundance_std"].dims:
        error = maps["abundance_std"].sel(element=element, drop=True).rename("error")
        units = error.attrs.get("units", WEIGHT)
        error.attrs = {"long_name": f"{element}: error of the abundance", "units": units}
        sides.append(error)
    away = maps["distance"].where(maps["distance"] >= 0)
    away.attrs = {
        "long_name": "distance to a populated pixel",
        "units": maps["distance"].attrs.get("units", "km"),
    }
    return [*sides, away.rename("distance")]


def _under(axes: Any, base: xr.DataArray, shown: xr.DataArray, there: np.ndarray) -> None:
    """A base map in grey, and lines along its middle value where it is covered."""
    from scipy.ndimage import gaussian_filter

    grid = geobox_of(shown)
    frame = frame_of(grid, spatial_dims(shown) == ("lat", "lon"))
    draw_base(axes, base, grid, frame)
    values = np.asarray(reproject(base, grid).compute().values, float)
    known = np.isfinite(values)
    if values.ndim != 2 or min(values.shape) < 8 or not (known & there).any():
        return
    smooth = gaussian_filter(np.where(known, values, np.nanmean(values)), max(values.shape) / 150)
    rows, columns = values.shape
    x = frame.left + (np.arange(columns) + 0.5) * (frame.right - frame.left) / columns
    y = frame.top - (np.arange(rows) + 0.5) * (frame.top - frame.bottom) / rows
    if grid.transform.e > 0:
        y = y[::-1]
    middle = float(np.median(smooth[known & there]))
    if float(np.ptp(smooth)) > 0:
        hidden = np.where(there, smooth, np.nan)
        axes.contour(x, y, hidden, [middle], colors="white", linewidths=0.6, zorder=3)


def _draw_outlines(axes: Any, footprints: xr.Dataset) -> None:
    """Outlines of footprints on axes in degrees."""
    import shapely
    from matplotlib.collections import LineCollection

    lon, lat = (footprints[f"corner_{n}"].transpose(..., "corner").values for n in ("lon", "lat"))
    rings = [
        np.asarray(part.exterior.coords)
        for shape in footprint_polygons(lon, lat)
        for part in shapely.get_parts(shape)
        if part.geom_type == "Polygon" and not part.is_empty
    ]
    box = axes.get_xlim(), axes.get_ylim()
    axes.add_collection(LineCollection(rings, colors="black", linewidths=0.35, zorder=4))
    axes.set_xlim(box[0])
    axes.set_ylim(box[1])


def _colour_bar(
    figure: Figure,
    axes: Any,
    array: xr.DataArray,
    scale: tuple[float, float, str],
    cmap: str,
    note: str = "",
) -> None:
    """Of its own colours: those of an image that is partly transparent would be so too."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    low, high, extend = scale
    label = f"{array.attrs.get('long_name', array.name)} ({unit_label(array, 'wt%')})"
    label = "\n".join(filter(None, (label, note)))
    colours = ScalarMappable(Normalize(low, high), colormap(cmap))
    figure.colorbar(colours, ax=axes, label=label, shrink=0.8, extend=extend)


def spread(array: xr.DataArray, radius: float, max_pixels: int) -> tuple[xr.DataArray, np.ndarray]:
    """Weighted mean of what is near on the sphere, and how near it is: 1 at a measurement."""
    values = array.transpose("lat", "lon").sortby("lat", ascending=False).compute()
    rows, columns = values.shape
    step = max(1, math.ceil(math.sqrt(rows * columns / max_pixels)))
    known = values.notnull()
    parts = [
        p.coarsen(lat=step, lon=step, boundary="trim").sum()
        for p in (values.fillna(0.0).astype("f8"), known.astype("f8"))
    ]
    lat, lon = parts[0]["lat"].values, parts[0]["lon"].values
    top, bottom = (spread_sum(p.values, lat, lon, radius) for p in parts)
    here = bottom > 1e-9 * max(float(bottom.max(initial=0.0)), 1e-30)
    mean = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=here)
    # One lone measurement has this weight at its place.
    degree = math.radians(1.0) * RADIUS / 1e3
    height, width = abs(lat[1] - lat[0]) * degree, abs(lon[1] - lon[0]) * degree
    alone = height * width * np.cos(np.deg2rad(lat)) / (2 * math.pi * radius**2)
    out = xr.DataArray(
        mean.astype("f4"), {"lat": lat, "lon": lon}, ("lat", "lon"), array.name, dict(array.attrs)
    )
    weight = np.clip(bottom / np.maximum(np.minimum(alone, 1.0), 1e-12)[:, None], 0, 1)
    return assign_crs(out, "geographic"), weight * here


def spread_sum(values: np.ndarray, lat: np.ndarray, lon: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian of a width in km on a regular grid, around the Moon where the grid goes around, and over its poles."""
    from scipy.ndimage import gaussian_filter1d

    degree = math.radians(1.0) * RADIUS / 1e3
    height, width = abs(lat[1] - lat[0]), abs(lon[1] - lon[0])
    n = values.shape[1]
    around = abs(n * width - 360.0) < 0.5 * width
    sigma = radius / degree / width / np.maximum(np.cos(np.deg2rad(lat)), 1e-3)
    pad = 0 if around else min(n, math.ceil(4 * float(np.median(sigma))))
    wide = np.pad(values, ((0, 0), (pad, pad)))
    waves = np.fft.rfftfreq(wide.shape[1])
    blurred = np.fft.irfft(
        np.fft.rfft(wide, axis=1) * np.exp(-2 * (np.pi * waves * sigma[:, None]) ** 2),
        wide.shape[1],
        axis=1,
    )
    blurred = np.maximum(blurred[:, pad : pad + n], 0.0)
    reach = min(len(lat), math.ceil(4 * radius / degree / height))
    north, south = np.zeros((2, reach, n))
    if around and n % 2 == 0:
        # Beyond a pole the rows go on on the other side of the Moon.
        if lat[0] + height > 90:
            north = np.roll(blurred[:reach][::-1], n // 2, axis=1)
        if lat[-1] - height < -90:
            south = np.roll(blurred[-reach:][::-1], n // 2, axis=1)
    tall = np.concatenate([north, blurred, south])
    out = gaussian_filter1d(tall, radius / degree / height, axis=0, mode="constant", truncate=4.0)
    return out[reach : reach + len(lat)]


def surface_3d(
    maps: xr.Dataset | xr.DataArray,
    element: str | None = None,
    *,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = SEQUENTIAL,
    elevation: float = 35.0,
    azimuth: float = -60.0,
    points: int = 200,
    **output: Unpack[Output],
) -> Figure:
    """Draw abundances as a surface in three dimensions.

    After Lunar elemental analysis and mapping of CLASS data, section V (3-D surface plot of Mg abundance).

    Parameters
    ----------
    maps : Dataset or DataArray
        A Global Information Bank, predicted maps, or one map; with dimension ``element`` or not.
    element : str, optional
        Which; by default the first.
    vmin, vmax : float, optional
        Ends of the colour scale and of the vertical axis; by default the 1st and 99th percentiles.
    cmap : str
    elevation, azimuth : float
        Where it is seen from, degrees.
    points : int
        Most points along a side; larger maps are averaged over blocks.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If there is no such map, or none of it is known.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.track_scene(la.superres.GIBGrid((1, 1), (30, 45), (-70, 5, -40, 25)))
    >>> figure = la.plot.surface_3d(scene.truth, "Fe")
    """
    from matplotlib.colors import Normalize
    from mpl_toolkits.mplot3d import Axes3D  # noqa: F401  registers the projection

    array = _one_map(maps, element)
    dims = spatial_dims(array) or ("lat", "lon")
    step = max(1, math.ceil(max(array.sizes[d] for d in dims) / points))
    few = array.transpose(*dims).coarsen(dict.fromkeys(dims, step), boundary="trim")
    shown = few.mean().compute()
    values = np.asarray(shown.values, float)
    if not np.isfinite(values).any():
        raise InputError("nothing is known", where=str(array.name), remedy="Give a map with values")
    low, high, extend = limits([values], vmin, vmax)
    unit = 1.0 if dims == ("lat", "lon") else 1e-3
    x, y = np.meshgrid(shown[dims[1]].values * unit, shown[dims[0]].values * unit)
    figure = new_figure(7.6, 5.8)
    axes: Any = figure.add_subplot(projection="3d")
    norm = Normalize(low, high)
    colours = colormap(cmap)(norm(np.nan_to_num(values, nan=low)))
    axes.plot_surface(
        x, y, np.clip(values, low, high), facecolors=colours, rstride=1, cstride=1, linewidth=0,
        antialiased=False, shade=False,
    )  # fmt: skip
    axes.set_xlim(float(x.min()), float(x.max()))
    axes.set_ylim(float(y.min()), float(y.max()))
    axes.set_zlim(low, high)
    axes.set_box_aspect((np.ptp(x) or 1.0, np.ptp(y) or 1.0, 0.35 * max(np.ptp(x), np.ptp(y))))
    axes.view_init(elevation, azimuth)
    axes.set_xlabel("longitude (°E)" if unit == 1.0 else "x (km)")
    axes.set_ylabel("latitude (°N)" if unit == 1.0 else "y (km)")
    _colour_bar(figure, axes, array, (low, high, extend), cmap)
    return finish(figure, output, axes=axes)
