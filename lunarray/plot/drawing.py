"""What all pictures share: decimation, colour scales, one map on one axes, and saving."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.geo import RADIUS, geobox_of, spatial_dims

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from odc.geo.geobox import GeoBox

#: Colour-blind safe colours for lines (Okabe and Ito 2008), without the yellow that vanishes on white.
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
#: Perceptually uniform and safe for colour-blind readers; the diverging one is symmetric about white.
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
NAN_COLOUR = "#d4d4d4"
_INK = "#222222"


def new_figure(width: float, height: float) -> Figure:
    """Figure of a size in inches that no global state knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save(figure: Figure, path: str | os.PathLike[str] | None, dpi: float) -> None:
    """Write a figure under its name at once: a reader never sees half a picture.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What to write.
    path : path-like or None
        Where; the suffix tells the format. None writes nothing.
    dpi : float
        Pixels to the inch, in formats of pixels.

    Raises
    ------
    InputError
        If the suffix is none that matplotlib writes.
    """
    if path is None:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    known = FigureCanvasAgg(figure).get_supported_filetypes()
    kind = path.suffix.lower().lstrip(".")
    if kind not in known:
        raise InputError(
            f"pictures are not written as {path.suffix or 'files without suffix'}",
            where=path,
            remedy="use .png, .pdf or .svg",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        figure.savefig(name, format=kind, dpi=dpi)
        os.chmod(name, 0o644)  # mkstemp gives the file to its owner only
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def decimate(obj: xr.Dataset | xr.DataArray, max_pixels: int) -> Any:
    """Every n-th pixel of a map, in memory, so that no more than `max_pixels` are left.

    Picking, not averaging: what is shown are values of the map, and of a lazy map only one block at a time is read.
    """
    dims = spatial_dims(obj)
    if dims is not None:
        rows, columns = obj.sizes[dims[0]], obj.sizes[dims[1]]
        step = max(1, math.ceil(math.sqrt(rows * columns / max_pixels)))
        if step > 1:
            obj = obj.isel(
                {dims[0]: slice(step // 2, None, step), dims[1]: slice(step // 2, None, step)}
            )
    return obj.compute()


def limits(
    values: Sequence[np.ndarray],
    vmin: float | None,
    vmax: float | None,
    percentiles: tuple[float, float] = (1.0, 99.0),
) -> tuple[float, float, str]:
    """Colour limits from robust percentiles, and which ends of the colour bar are open.

    Parameters
    ----------
    values : sequence of arrays
        All that share the scale; what is not finite is left out.
    vmin, vmax : float or None
        Limits that are given.
    percentiles : tuple of float
        Where limits are taken that are not given.

    Returns
    -------
    vmin, vmax : float
        The limits, never equal.
    extend : {"neither", "min", "max", "both"}
        For the colour bar.
    """
    finite = np.concatenate(
        [np.asarray(v, dtype=np.float64)[np.isfinite(v)].ravel() for v in values] or [np.empty(0)]
    )
    if not finite.size:
        return (0.0 if vmin is None else vmin), (1.0 if vmax is None else vmax), "neither"
    low, high = np.percentile(finite, percentiles)
    low, high = (low if vmin is None else float(vmin)), (high if vmax is None else float(vmax))
    if not high > low:
        pad = max(abs(low) * 1e-3, 1e-6)
        low, high = low - pad, high + pad
    below, above = bool((finite < low).any()), bool((finite > high).any())
    return (
        float(low),
        float(high),
        {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above],
    )


def colormap(name: str) -> Any:
    """Colormap with grey for missing values."""
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=NAN_COLOUR)


def name_of(array: xr.DataArray) -> str:
    """Name of a quantity as print has it: FeO with its 2 of TiO2 below the line."""
    raw = str(array.name) if array.name is not None else ""
    if raw in ("FeO", "TiO2", "Al2O3", "CaO", "MgO", "SiO2"):
        return "".join(f"$_{letter}$" if letter.isdigit() else letter for letter in raw)
    if raw == "Mg_number":
        return "Mg#"
    return str(array.attrs.get("long_name", raw)) or "value"


def label_of(array: xr.DataArray) -> str:
    """Name and unit."""
    units = str(array.attrs.get("units", "1"))
    return (
        name_of(array)
        if units in ("1", "", "%") and name_of(array) != "Mg#"
        else f"{name_of(array)} ({units})"
    )


def pole_of(geobox: GeoBox) -> str | None:
    """Pole of a grid, "north" or "south", if it is in polar stereographic projection, else None."""
    from lunarray.geo import moon_crs

    crs = moon_crs(geobox.crs)
    operation = crs.coordinate_operation
    if operation is None or "polar stereographic" not in operation.method_name.lower():
        return None
    latitude = next(float(p.value) for p in operation.params if "latitude" in p.name.lower())
    return "north" if latitude > 0 else "south"


def _dims_of(array: xr.DataArray) -> tuple[str, str]:
    dims = spatial_dims(array)
    if dims is None:
        raise InputError(
            f"this is no map: its dimensions are {tuple(map(str, array.dims))}",
            where=str(array.name),
            remedy="give dimensions (y, x) or (lat, lon)",
        )
    return dims


def draw_map(
    axes: Axes,
    array: xr.DataArray,
    *,
    vmin: float,
    vmax: float,
    cmap: str = SEQUENTIAL,
    graticule: bool = True,
    labels: bool = True,
    scale_bar: bool = True,
    circle: bool = False,
    fontsize: float = 8.0,
) -> Any:
    """One map on one axes, in km (polar, equirectangular) or degrees.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where.
    array : xarray.DataArray
        Two-dimensional, on a lunar grid, in memory.
    vmin, vmax : float
        Colour limits.
    cmap : str
        Name of the colormap.
    graticule, labels, scale_bar : bool
        What to draw over it.
    circle : bool
        Cut a polar map to the largest circle about the pole that it fills.
    fontsize : float
        Of the labels (points).

    Returns
    -------
    matplotlib.image.AxesImage
        For the colour bar.
    """
    geobox = geobox_of(array)
    box = geobox.boundingbox
    pole = pole_of(geobox)
    geographic = spatial_dims(array) != ("y", "x")
    unit = 1.0 if geographic else 1e-3
    left, right, bottom, top = (
        value * unit for value in (box.left, box.right, box.bottom, box.top)
    )
    values = np.ma.masked_invalid(
        np.asarray(array.transpose(*_dims_of(array)).values, dtype=np.float64)
    )
    if geobox.transform.e > 0:
        values = values[::-1]
    if geobox.transform.a < 0:
        values = values[:, ::-1]
    image = axes.imshow(
        values,
        extent=(left, right, bottom, top),
        origin="upper",
        cmap=colormap(cmap),
        vmin=vmin,
        vmax=vmax,
        interpolation="nearest",
        aspect="equal",
    )
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    if pole is None:
        _plain_axes(axes, geographic, graticule, labels, fontsize)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        radius = min(-left, right, -bottom, top)
        circle = circle and radius > 0.9 * max(-left, right, -bottom, top)
        if circle:
            _cut_to_circle(axes, image, radius)
        frame = _Frame(left, right, bottom, top, radius if circle else None)
        if graticule:
            _polar_graticule(axes, frame, 1.0 if pole == "north" else -1.0, labels, fontsize)
    if scale_bar and not geographic:
        _scale_bar(axes, right - left, fontsize, outside=circle)
    return image


class _Frame:
    """Outline of a polar map (km): a rectangle, or a circle about the pole."""

    def __init__(
        self, left: float, right: float, bottom: float, top: float, radius: float | None
    ) -> None:
        self.left, self.right, self.bottom, self.top, self.radius = left, right, bottom, top, radius

    def holds(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if self.radius is not None:
            return np.hypot(x, y) <= self.radius * (1 + 1e-9)
        return (x >= self.left) & (x <= self.right) & (y >= self.bottom) & (y <= self.top)

    def distances(self) -> tuple[float, float]:
        """Smallest and largest distance from the pole."""
        if self.radius is not None:
            return 0.0, self.radius
        nearest = math.hypot(max(self.left, 0.0, -self.right), max(self.bottom, 0.0, -self.top))
        farthest = math.hypot(
            max(abs(self.left), abs(self.right)), max(abs(self.bottom), abs(self.top))
        )
        return nearest, farthest


def _cut_to_circle(axes: Axes, image: Any, radius: float) -> None:
    from matplotlib.patches import Circle

    outline = Circle((0, 0), radius, facecolor="none", edgecolor=_INK, linewidth=0.8, zorder=4)
    axes.add_patch(outline)
    image.set_clip_path(outline)
    axes.set_frame_on(False)
    axes.set_xlim(-radius, radius)
    axes.set_ylim(-radius, radius)


def distance_of_latitude(latitude: float) -> float:
    """Distance from the pole on the map (km) of a colatitude's complement, in polar stereographic projection."""
    return 2e-3 * RADIUS * math.tan(math.radians(90.0 - abs(latitude)) / 2.0)


def _polar_graticule(axes: Axes, frame: _Frame, sign: float, labels: bool, fontsize: float) -> None:
    """Parallels and meridians. On the north map 0° E points down, on the south map up; east is right on both at 90°."""
    nearest, farthest = frame.distances()
    style: dict[str, Any] = {"color": "white", "linewidth": 0.6, "alpha": 0.75, "zorder": 3}
    halo = _halo()

    def latitude_of(rho: float) -> float:
        return 90.0 - 2.0 * math.degrees(math.atan(rho / (2e-3 * RADIUS)))

    inscribed = (
        frame.radius
        or max(min(-frame.left, frame.right, -frame.bottom, frame.top), 0.0)
        or farthest
    )
    low, high = latitude_of(inscribed), latitude_of(nearest)
    step = _nice_step(high - low, 4, (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30))
    lowest = latitude_of(farthest)
    parallels = [
        k * step
        for k in range(math.ceil(lowest / step), math.ceil(90.0 / step))
        if k * step < high - 1e-9
    ]
    turn = np.linspace(0.0, 2 * np.pi, 721)
    # The labels stand along the meridian through the frame's middle, or 22.5° E where the pole is inside.
    inside_pole = bool(frame.holds(np.zeros(1), np.zeros(1))[0])
    middle = math.radians(22.5 if inside_pole else _bearing(frame, sign))
    for latitude in parallels:
        rho = distance_of_latitude(latitude)
        x, y = rho * np.sin(turn), -sign * rho * np.cos(turn)
        keep = frame.holds(x, y)
        if not keep.any() or (frame.radius is not None and rho > frame.radius * 0.995):
            continue
        axes.plot(np.where(keep, x, np.nan), np.where(keep, y, np.nan), **style)
        at = rho * math.sin(middle), -sign * rho * math.cos(middle)
        if labels and frame.holds(*map(np.atleast_1d, at))[0] and rho < 0.93 * farthest:
            text = f"{sign * latitude:g}°"
            axes.text(
                *at,
                text.replace("-", "−"),
                fontsize=fontsize * 0.85,
                color=_INK,
                ha="center",
                va="center",
                zorder=5,
                path_effects=halo,
            )
    width = (
        360.0
        if inside_pole
        else 2
        * math.degrees(
            math.atan2(
                0.5 * math.hypot(frame.right - frame.left, frame.top - frame.bottom),
                max(nearest, 1e-9),
            )
        )
    )
    spacing = (
        30.0
        if width >= 360.0
        else _nice_step(min(width, 180.0), 5, (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30))
    )
    along = np.linspace(0.0, farthest, 2001)
    first = distance_of_latitude(parallels[-1]) if parallels else 0.0
    for k in range(round(360.0 / spacing)):
        lon = -180.0 + k * spacing
        angle = math.radians(lon)
        x, y = along * math.sin(angle), -sign * along * math.cos(angle)
        # Only the quarter meridians run to the pole: thirty degrees make a knot there.
        begin = 0.0 if lon % 90 == 0 else first
        keep = frame.holds(x, y) & (along >= begin)
        if not keep.any():
            continue
        axes.plot(x[keep], y[keep], **style)
        if labels:
            last = np.flatnonzero(keep)[-1]
            _outer_label(
                axes, frame, x[last], y[last], angle, sign, _longitude_label(lon), fontsize
            )


def _bearing(frame: _Frame, sign: float) -> float:
    return math.degrees(
        math.atan2((frame.left + frame.right) / 2, -sign * (frame.bottom + frame.top) / 2)
    )


def _outer_label(
    axes: Axes,
    frame: _Frame,
    x: float,
    y: float,
    angle: float,
    sign: float,
    text: str,
    fontsize: float,
) -> None:
    """Label just outside the outline, on the side where the meridian leaves it."""
    if frame.radius is not None:
        dx, dy = math.sin(angle), -sign * math.cos(angle)
    else:
        distances = {
            (-1, 0): x - frame.left,
            (1, 0): frame.right - x,
            (0, -1): y - frame.bottom,
            (0, 1): frame.top - y,
        }
        dx, dy = min(distances, key=lambda side: abs(distances[side]))
    axes.annotate(
        text,
        (x, y),
        xytext=(3.0 * dx, 3.0 * dy),
        textcoords="offset points",
        fontsize=fontsize * 0.85,
        color=_INK,
        ha="center" if abs(dx) < 0.35 else "left" if dx > 0 else "right",
        va="center" if abs(dy) < 0.35 else "bottom" if dy > 0 else "top",
        annotation_clip=False,
    )


def _longitude_label(lon: float) -> str:
    if lon == -180.0:
        return "180°"
    return "0°" if lon == 0 else f"{abs(lon):g}° {'E' if lon > 0 else 'W'}"


def _plain_axes(
    axes: Axes, geographic: bool, graticule: bool, labels: bool, fontsize: float
) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(
            MaxNLocator(5, steps=[1, 1.5, 3, 4.5, 6, 9, 10] if geographic else None)
        )
    axes.tick_params(
        labelsize=fontsize * 0.85, length=2.5, color=_INK, labelbottom=labels, labelleft=labels
    )
    if geographic:
        axes.xaxis.set_major_formatter(
            lambda value, _: _longitude_label(-180.0 if value == 180.0 else value)
        )
        axes.yaxis.set_major_formatter(
            lambda value, _: "0°" if value == 0 else f"{abs(value):g}° {'N' if value > 0 else 'S'}"
        )
    elif labels:
        axes.set_xlabel("x (km)", fontsize=fontsize)
        axes.set_ylabel("y (km)", fontsize=fontsize)
    if graticule:
        axes.grid(True, color="white", linewidth=0.5, alpha=0.6)


def _scale_bar(axes: Axes, width: float, fontsize: float, *, outside: bool) -> None:
    # Outside a circle the corner is free up to the label of the meridian 30° from the axis.
    length = _nice_length(width / (7.0 if outside else 4.0))
    fraction = length / width
    height = 0.012
    x, y = (0.0, -0.03) if outside else (0.05, 0.05)
    from matplotlib.patches import Rectangle

    if not outside:
        axes.add_patch(
            Rectangle(
                (x - 0.02, y - 0.025),
                fraction + 0.04,
                0.115,
                transform=axes.transAxes,
                facecolor="white",
                alpha=0.8,
                edgecolor="none",
                zorder=6,
            )
        )
    for half, colour in ((0, _INK), (1, "white")):
        axes.add_patch(
            Rectangle(
                (x + half * fraction / 2, y),
                fraction / 2,
                height,
                transform=axes.transAxes,
                facecolor=colour,
                edgecolor=_INK,
                linewidth=0.6,
                clip_on=False,
                zorder=7,
            )
        )
    text = f"{length:g} km" if length >= 1 else f"{length * 1000:g} m"
    axes.text(
        x + fraction / 2,
        y + height * 1.6,
        text,
        transform=axes.transAxes,
        ha="center",
        va="bottom",
        fontsize=fontsize * 0.85,
        color=_INK,
        zorder=7,
    )


def _nice_length(wanted: float) -> float:
    power = 10.0 ** math.floor(math.log10(wanted))
    return max(factor * power for factor in (1.0, 2.0, 5.0) if factor * power <= wanted * 1.0001)


def _nice_step(span: float, count: int, steps: Sequence[float]) -> float:
    return next((step for step in steps if span / step <= count), steps[-1])


def _halo() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.0, foreground="white", alpha=0.85)]
