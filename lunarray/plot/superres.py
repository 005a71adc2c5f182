"""Element maps: heat maps and graduated footprints over a base map, and surfaces in three dimensions."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.geo import RADIUS, geobox_of, spatial_dims
from lunarray.plot.drawing import SEQUENTIAL, colormap, decimate, draw_map, limits, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]

#: Half of the weight of the nearest measurements makes a heat map opaque.
_OPAQUE = 0.5
#: Opacity of colours over a base map.
_ALPHA = 0.75


def element_map(
    maps: xr.Dataset | xr.DataArray, element: str | None, variable: str | None = None
) -> xr.DataArray:
    """The one map that a picture shows.

    Parameters
    ----------
    maps : Dataset or DataArray
        With dimensions (lat, lon) or (y, x), and ``element`` or not.
    element : str or None
        Which.
    variable : str, optional
        Of a Dataset; by default ``abundance``.

    Returns
    -------
    DataArray
        Two-dimensional, named after the element, with its unit.

    Raises
    ------
    InputError
        If there is no such map.
    """
    if isinstance(maps, xr.DataArray):
        array = maps
    else:
        name = variable or ("abundance" if "abundance" in maps.data_vars else element)
        if name not in maps.data_vars:
            raise InputError(
                f"no variable {name}",
                where="element_map",
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
        units = array.attrs.get("units", "wt%")
        array = array.sel(element=element, drop=True).rename(element)
        array.attrs = {"long_name": element, "units": units}
    if array.ndim != 2 or spatial_dims(array) is None:
        raise InputError(
            f"dimensions {tuple(map(str, array.dims))}",
            where="element_map",
            remedy="Give a map with dimensions (lat, lon) or (y, x)",
        )
    return array


def heat_map(
    maps: xr.Dataset | xr.DataArray,
    element: str | None = None,
    *,
    base: xr.DataArray | None = None,
    radius: float = 0.0,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = SEQUENTIAL,
    title: str | None = None,
    path: Path | None = None,
    dpi: float = 150.0,
    max_pixels: int = 500_000,
) -> Figure:
    """Draw abundances as colours over a base map.

    Parameters
    ----------
    maps : Dataset or DataArray
        A Global Information Bank, predicted maps, or one map; with dimension ``element`` or not.
    element : str, optional
        Which; by default the first.
    base : DataArray, optional
        Map drawn in grey underneath, an albedo say, on any lunar grid.
    radius : float
        Kilometres. More than 0 spreads sparse values by a Gaussian of this standard deviation: the mean of what is
        near, more transparent the farther the measurements are. 0 shows values as they are.
    vmin, vmax : float, optional
        Ends of the colour scale; by default the 1st and 99th percentiles.
    cmap : str
        Name of a matplotlib colormap.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture; the suffix tells the format.
    dpi : float
        Resolution of the saved picture.
    max_pixels : int
        Larger maps are averaged (with `radius`) or decimated to about this many pixels.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    InputError
        If there is no such map, or `radius` is negative, or not 0 for a map that is not on (lat, lon).

    References
    ----------
    Lunar elemental analysis and mapping of CLASS data, section V (heat maps on the lunar albedo map).
    """
    array = element_map(maps, element)
    if radius < 0 or (radius > 0 and spatial_dims(array) != ("lat", "lon")):
        raise InputError(
            f"radius {radius} on {tuple(map(str, array.dims))}",
            where="radius",
            remedy="Give 0 or more, and a map on (lat, lon)",
        )
    if radius > 0:
        shown, weight = _spread(array, radius, max_pixels)
    else:
        shown = decimate(array, max_pixels)
        weight = np.isfinite(shown.values).astype(float)
    low, high, extend = limits([shown.values[weight > 0.05]], vmin, vmax)
    aspect = shown.sizes[shown.dims[0]] / shown.sizes[shown.dims[1]]
    figure = new_figure(8.4, float(np.clip(8.0 * aspect, 2.4, 8.0)) + 0.6)
    axes = figure.subplots()
    image = draw_map(axes, shown, vmin=low, vmax=high, cmap=cmap, graticule=base is None)
    if base is not None:
        _draw_base(axes, base, shown)
        image.set_alpha(_ALPHA * np.clip(weight / _OPAQUE, 0, 1))
        image.set_zorder(2)
    elif radius > 0:
        image.set_alpha(np.clip(weight / _OPAQUE, 0, 1))
    label = f"{array.attrs.get('long_name', array.name)} ({array.attrs.get('units', 'wt%')})"
    _colour_bar(figure, axes, low, high, cmap, label, extend)
    if title:
        axes.set_title(title)
    save(figure, path, dpi)
    return figure


def _colour_bar(
    figure: Any, axes: Any, low: float, high: float, cmap: str, label: str, extend: str
) -> None:
    """Of its own colours: those of an image that is partly transparent would be so too."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(low, high), colormap(cmap))
    figure.colorbar(colours, ax=axes, label=label, shrink=0.8, extend=extend)


def _draw_base(axes: Any, base: xr.DataArray, like: xr.DataArray) -> None:
    from lunarray.geo import reproject

    under = reproject(base, geobox_of(like)).compute()
    finite = under.values[np.isfinite(under.values)]
    low, high = np.percentile(finite, [1, 99]) if finite.size else (0.0, 1.0)
    box = geobox_of(like).boundingbox
    unit = 1.0 if spatial_dims(like) == ("lat", "lon") else 1e-3
    axes.imshow(
        under.transpose(*like.dims).values,
        extent=tuple(v * unit for v in (box.left, box.right, box.bottom, box.top)),
        cmap="gray",
        vmin=low,
        vmax=high if high > low else low + 1,
        zorder=0,
        interpolation="nearest",
        aspect="equal",
    )


def _spread(array: xr.DataArray, radius: float, max_pixels: int) -> tuple[xr.DataArray, np.ndarray]:
    """Weighted mean of what is near on the sphere, and how near it is: 1 at a measurement."""
    from lunarray.geo import assign_crs

    values = array.transpose("lat", "lon").sortby("lat", ascending=False).compute()
    rows, columns = values.shape
    step = max(1, math.ceil(math.sqrt(rows * columns / max_pixels)))
    known = values.notnull()
    parts = [
        p.coarsen(lat=step, lon=step, boundary="trim").sum()
        for p in (values.fillna(0.0).astype("f8"), known.astype("f8"))
    ]
    lat, lon = parts[0]["lat"].values, parts[0]["lon"].values
    top, bottom = (_gaussian(p.values, lat, lon, radius) for p in parts)
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


def _gaussian(values: np.ndarray, lat: np.ndarray, lon: np.ndarray, radius: float) -> np.ndarray:
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


def graduated_map(
    footprints: xr.Dataset,
    element: str | None = None,
    *,
    base: xr.DataArray | None = None,
    classes: int = 6,
    breaks: Sequence[float] | None = None,
    zoom: bool = True,
    cmap: str = SEQUENTIAL,
    title: str | None = None,
    path: Path | None = None,
    dpi: float = 150.0,
) -> Figure:
    """Draw footprints over a base map, coloured by classes of an element's abundance.

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
        Name of a matplotlib colormap.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture; the suffix tells the format.
    dpi : float
        Resolution of the saved picture.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    InputError
        If there is no such element, or the classes make no sense.

    References
    ----------
    Lunar elemental analysis and mapping of CLASS data, section V (graduated maps on the lunar albedo map).
    """
    import shapely
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import BoundaryNorm
    from matplotlib.patches import Patch

    from lunarray.geo import footprint_polygons, lunar_grid
    from lunarray.superres.footprints import as_footprints

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
    rings, colours = [], []
    shapes = footprint_polygons(rows["corner_lon"].values, rows["corner_lat"].values)
    for shape, value in zip(shapes, values, strict=True):
        for part in shapely.get_parts(shape):
            if part.geom_type == "Polygon" and not part.is_empty and np.isfinite(value):
                rings.append(np.asarray(part.exterior.coords))
                colours.append(value)
    west, south, east, north = -180.0, -90.0, 180.0, 90.0
    if zoom and rings:
        points = np.concatenate(rings)
        low, high = points.min(axis=0), points.max(axis=0)
        pad = max(1.0, 0.03 * float((high - low).max()))
        west, south = np.maximum(low - pad, [west, south])
        east, north = np.minimum(high + pad, [east, north])
    aspect = (north - south) / (east - west)
    figure = new_figure(9.0, float(np.clip(7.4 * aspect, 2.6, 9.0)) + 0.6)
    axes = figure.subplots()
    if base is not None:
        step = max((east - west) / 900, 0.02)
        _draw_base(axes, base, _empty(lunar_grid("geographic", step, (west, south, east, north))))
    count = edges.size - 1
    ramp = colormap(cmap).resampled(count)
    drawn = PolyCollection(
        rings, cmap=ramp, norm=BoundaryNorm(edges, count, clip=True), lw=0.0, alpha=0.85, zorder=2
    )
    drawn.set_array(np.asarray(colours, float))
    axes.add_collection(drawn)
    axes.set_xlim(west, east)
    axes.set_ylim(south, north)
    axes.set_aspect("equal")
    axes.set_xlabel("longitude (°E)")
    axes.set_ylabel("latitude (°N)")
    units = rows["abundance"].attrs.get("units", "wt%")
    last = np.asarray(colours, float)
    handles = []
    for k in range(count):
        upper = last <= edges[k + 1] if k == count - 1 else last < edges[k + 1]
        number = int(((last >= edges[k]) & upper).sum())
        label = f"{edges[k]:.3g} – {edges[k + 1]:.3g}  ({number})"
        handles.append(Patch(color=ramp(k), label=label))
    figure.legend(
        handles=handles, title=f"{element} ({units})", loc="outside right center", frameon=False,
        fontsize=8, title_fontsize=9,
    )  # fmt: skip
    if title:
        axes.set_title(title)
    save(figure, path, dpi)
    return figure


def class_breaks(values: np.ndarray, classes: int) -> np.ndarray:
    """Borders between classes of about equal size.

    Parameters
    ----------
    values : ndarray
        What is divided; NaN does not count.
    classes : int
        How many, at most: equal values make fewer.

    Returns
    -------
    ndarray
        Rising, one more than there are classes.

    Raises
    ------
    InputError
        If there is no value, or no class.
    """
    finite = np.asarray(values, float)[np.isfinite(values)]
    if not finite.size or classes < 1:
        raise InputError(
            f"{classes} classes of {finite.size} values",
            where="classes",
            remedy="Give one class and one value at least",
        )
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, classes + 1)))
    return edges if edges.size > 1 else np.array([edges[0] - 0.5, edges[0] + 0.5])


def _empty(geobox: Any) -> xr.DataArray:
    from lunarray.geo import assign_crs, grid_coords, grid_dims

    out = xr.DataArray(
        np.zeros(tuple(geobox.shape), "f4"), dims=grid_dims(geobox), coords=grid_coords(geobox)
    )
    return assign_crs(out, geobox)


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
    title: str | None = None,
    path: Path | None = None,
    dpi: float = 150.0,
) -> Figure:
    """Draw abundances as a surface in three dimensions.

    Parameters
    ----------
    maps : Dataset or DataArray
        A Global Information Bank, predicted maps, or one map; with dimension ``element`` or not.
    element : str, optional
        Which; by default the first.
    vmin, vmax : float, optional
        Ends of the colour scale and of the vertical axis; by default the 1st and 99th percentiles.
    cmap : str
        Name of a matplotlib colormap.
    elevation, azimuth : float
        Where it is seen from, degrees.
    points : int
        Most points along a side; larger maps are averaged over blocks.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture; the suffix tells the format.
    dpi : float
        Resolution of the saved picture.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    InputError
        If there is no such map, or none of it is known.

    References
    ----------
    Lunar elemental analysis and mapping of CLASS data, section V (3-D surface plot of Mg abundance).
    """
    from matplotlib.colors import Normalize
    from mpl_toolkits.mplot3d import Axes3D  # noqa: F401  registers the projection

    array = element_map(maps, element)
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
    label = f"{array.attrs.get('long_name', array.name)} ({array.attrs.get('units', 'wt%')})"
    _colour_bar(figure, axes, low, high, cmap, label, extend)
    if title:
        axes.set_title(title)
    save(figure, path, dpi)
    return figure
