"""One map on one axes: pixels where they lie, parallels and meridians, a scale bar, a grey map underneath."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from lunarray.geo import RADIUS, geobox_of, reproject, spatial_dims
from lunarray.plot.drawing import (
    INK,
    SEQUENTIAL,
    colormap,
    degrees,
    halo,
    map_dims,
    minus,
    nice_length,
    pole_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from odc.geo.geobox import GeoBox


class Frame(NamedTuple):
    """Outline of a map (km, or degrees): a rectangle, or about a pole a circle."""

    left: float
    right: float
    bottom: float
    top: float
    radius: float | None = None

    def holds(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Which points lie in it."""
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

    @property
    def inscribed(self) -> float:
        """Radius of the largest circle about the pole that the rectangle holds; 0 or less: none."""
        return min(-self.left, self.right, -self.bottom, self.top)


def frame_of(geobox: GeoBox, geographic: bool) -> Frame:
    """Rectangle that a map is drawn in: km, or degrees if geographic."""
    box, unit = geobox.boundingbox, 1.0 if geographic else 1e-3
    return Frame(*(value * unit for value in (box.left, box.right, box.bottom, box.top)))


def draw_map(
    axes: Axes,
    array: xr.DataArray,
    scale: tuple[float, float, str],
    cmap: str = SEQUENTIAL,
    *,
    graticule: bool = True,
    labels: bool = True,
    scale_bar: bool = True,
    circle: bool = False,
    fontsize: float = 8.0,
) -> Any:
    """One map, in memory, on one axes, in km (polar, equirectangular) or degrees; the image, for its colour bar.

    `scale` is what :func:`lunarray.plot.drawing.limits` gives; `circle` cuts a polar map to the largest circle about
    the pole that it fills; `fontsize` (points) is of the labels.
    """
    geobox = geobox_of(array)
    pole = pole_of(geobox)
    geographic = spatial_dims(array) != ("y", "x")
    frame = frame_of(geobox, geographic)
    values = np.asarray(array.transpose(*map_dims(array)).values, dtype=np.float64)
    image = _show(axes, np.ma.masked_invalid(values), geobox, frame, scale, colormap(cmap))
    axes.set_xlim(frame.left, frame.right)
    axes.set_ylim(frame.bottom, frame.top)
    circle = circle and frame.inscribed > 0.9 * max(
        -frame.left, frame.right, -frame.bottom, frame.top
    )
    if pole is None:
        circle = False
        _plain_axes(axes, geographic, graticule, labels, fontsize)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
        if circle:
            frame = frame._replace(radius=frame.inscribed)
            image.set_clip_path(_round_axes(axes, frame.inscribed))
        if graticule:
            draw_graticule(axes, frame, 1.0 if pole == "north" else -1.0, labels, fontsize)
    if scale_bar and not geographic:
        draw_scale_bar(axes, frame.right - frame.left, fontsize, outside=circle)
    return image


def draw_base(axes: Axes, base: xr.DataArray, like: GeoBox, frame: Frame) -> None:
    """A map in grey under others, brought onto their grid."""
    under = reproject(base, like).compute()
    finite = under.values[np.isfinite(under.values)]
    low, high = np.percentile(finite, [1, 99]) if finite.size else (0.0, 1.0)
    values = under.transpose(*map_dims(under)).values
    _show(axes, values, like, frame, (low, high if high > low else low + 1, ""), "gray", zorder=0)


def _show(
    axes: Axes,
    values: np.ndarray,
    geobox: GeoBox,
    frame: Frame,
    scale: tuple[float, float, str],
    cmap: Any,
    **more: Any,
) -> Any:
    """Pixels of a grid where they lie: first row on top, first column on the left, whichever way the grid runs."""
    rows, columns = (-1 if geobox.transform.e > 0 else 1), (-1 if geobox.transform.a < 0 else 1)
    return axes.imshow(
        values[::rows, ::columns],
        extent=frame[:4],
        cmap=cmap,
        vmin=scale[0],
        vmax=scale[1],
        interpolation="nearest",
        aspect="equal",
        **more,
    )


def _round_axes(axes: Axes, radius: float) -> Any:
    from matplotlib.patches import Circle

    outline = Circle((0, 0), radius, facecolor="none", edgecolor=INK, linewidth=0.8, zorder=4)
    axes.add_patch(outline)
    axes.set_frame_on(False)
    axes.set_xlim(-radius, radius)
    axes.set_ylim(-radius, radius)
    return outline


def _plain_axes(
    axes: Axes, geographic: bool, graticule: bool, labels: bool, fontsize: float
) -> None:
    from matplotlib.ticker import MaxNLocator

    if not geographic:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
    axes.tick_params(
        labelsize=fontsize * 0.85, length=2.5, color=INK, labelbottom=labels, labelleft=labels
    )
    if geographic:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        label_degrees(axes, left, bottom, right, top)
    elif labels:
        axes.set_xlabel("x (km)", fontsize=fontsize)
        axes.set_ylabel("y (km)", fontsize=fontsize)
    if graticule:
        axes.grid(True, color="white", linewidth=0.5, alpha=0.6)


def label_degrees(axes: Axes, west: float, south: float, east: float, north: float) -> None:
    """Round degrees with the letters of their sides along axes that show such a part of the Moon."""
    from matplotlib.ticker import MultipleLocator

    axes.xaxis.set_major_locator(MultipleLocator(degree_step(abs(east - west), 6)))
    axes.yaxis.set_major_locator(MultipleLocator(degree_step(abs(north - south), 6)))
    axes.xaxis.set_major_formatter(lambda value, _: longitude_label(value))
    axes.yaxis.set_major_formatter(lambda value, _: degrees(value, "NS") if value else "0°")


# --- parallels and meridians ----------------------------------------------------------------------

_LINE: dict[str, Any] = {"color": "white", "linewidth": 0.6, "alpha": 0.75, "zorder": 3}


def distance_of_latitude(latitude: float) -> float:
    """Distance from the pole on the map (km) of a colatitude's complement, in polar stereographic projection."""
    return 2e-3 * RADIUS * math.tan(math.radians(90.0 - abs(latitude)) / 2.0)


def _latitude_of_distance(rho: float) -> float:
    return 90.0 - 2.0 * math.degrees(math.atan(rho / (2e-3 * RADIUS)))


def draw_graticule(
    axes: Axes, frame: Frame, sign: float, labels: bool = True, fontsize: float = 8.0
) -> None:
    """Parallels and meridians of a polar map.

    On the north map (`sign` 1) 0° E points down, on the south map (-1) up; east is right on both at 90°.
    """
    inside = bool(frame.holds(np.zeros(1), np.zeros(1))[0])
    first = _parallels(axes, frame, sign, inside, fontsize if labels else None)
    nearest, farthest = frame.distances()
    diagonal = math.hypot(frame.right - frame.left, frame.top - frame.bottom)
    width = 2 * math.degrees(math.atan2(0.5 * diagonal, max(nearest, 1e-9)))
    spacing = (
        30.0 if inside else _nice_step(min(width, 180.0), 5, (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30))
    )
    along = np.linspace(0.0, farthest, 2001)
    for k in range(round(360.0 / spacing)):
        lon = -180.0 + k * spacing
        angle = math.radians(lon)
        x, y = along * math.sin(angle), -sign * along * math.cos(angle)
        # Only the quarter meridians run to the pole: thirty degrees make a knot there.
        keep = frame.holds(x, y) & (along >= (0.0 if lon % 90 == 0 else first))
        if not keep.any():
            continue
        axes.plot(x[keep], y[keep], **_LINE)
        if labels:
            last = np.flatnonzero(keep)[-1]
            away = (math.sin(angle), -sign * math.cos(angle))
            _label_meridian(axes, frame, (x[last], y[last]), away, longitude_label(lon), fontsize)


def _parallels(
    axes: Axes, frame: Frame, sign: float, inside: bool, fontsize: float | None
) -> float:
    """Draw and label the parallels; the distance of the innermost from the pole."""
    nearest, farthest = frame.distances()
    reach = frame.radius or max(frame.inscribed, 0.0) or farthest
    low, high, lowest = (_latitude_of_distance(rho) for rho in (reach, nearest, farthest))
    step = _nice_step(high - low, 4, (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30))
    steps = range(math.ceil(lowest / step), math.ceil(90.0 / step))
    parallels = [k * step for k in steps if k * step < high - 1e-9]
    turn = np.linspace(0.0, 2 * np.pi, 721)
    # The labels stand along the meridian through the frame's middle, or 22.5° E where the pole is inside.
    middle = math.atan2((frame.left + frame.right) / 2, -sign * (frame.bottom + frame.top) / 2)
    middle = math.radians(22.5 if inside else math.degrees(middle))
    for latitude in parallels:
        rho = distance_of_latitude(latitude)
        x, y = rho * np.sin(turn), -sign * rho * np.cos(turn)
        keep = frame.holds(x, y)
        if not keep.any() or (frame.radius is not None and rho > frame.radius * 0.995):
            continue
        axes.plot(np.where(keep, x, np.nan), np.where(keep, y, np.nan), **_LINE)
        at = rho * math.sin(middle), -sign * rho * math.cos(middle)
        if fontsize and frame.holds(*map(np.atleast_1d, at))[0] and rho < 0.93 * farthest:
            axes.text(
                *at,
                minus(f"{sign * latitude:g}°"),
                fontsize=fontsize * 0.85,
                color=INK,
                ha="center",
                va="center",
                zorder=5,
                path_effects=halo(),
            )
    return distance_of_latitude(parallels[-1]) if parallels else 0.0


def _label_meridian(
    axes: Axes,
    frame: Frame,
    at: tuple[float, float],
    away: tuple[float, float],
    text: str,
    fontsize: float,
) -> None:
    """Label just outside the outline, on the side where the meridian leaves it."""
    (x, y), (dx, dy) = at, away
    if frame.radius is None:
        distances = {
            (-1.0, 0.0): x - frame.left,
            (1.0, 0.0): frame.right - x,
            (0.0, -1.0): y - frame.bottom,
            (0.0, 1.0): frame.top - y,
        }
        dx, dy = min(distances, key=lambda side: abs(distances[side]))
    axes.annotate(
        text,
        at,
        xytext=(3.0 * dx, 3.0 * dy),
        textcoords="offset points",
        fontsize=fontsize * 0.85,
        color=INK,
        ha="center" if abs(dx) < 0.35 else "left" if dx > 0 else "right",
        va="center" if abs(dy) < 0.35 else "bottom" if dy > 0 else "top",
        annotation_clip=False,
    )


def longitude_label(lon: float) -> str:
    """A longitude with the letter of its side, from whatever turn."""
    lon = (lon + 180.0) % 360.0 - 180.0 if abs(lon) > 180.0 else lon
    if abs(lon) == 180.0:
        return "180°"
    return degrees(lon, "EW") if lon else "0°"


#: Steps between labelled parallels and meridians: round numbers, and parts of a right angle.
_DEGREES = (
    *(factor * 10.0**power for power in range(-6, 1) for factor in (1.0, 2.0, 5.0)),
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0,
)  # fmt: skip


def degree_step(span: float, count: int) -> float:
    """Smallest round step that lays no more than so many lines over a span."""
    return _nice_step(span, count, _DEGREES)


def _nice_step(span: float, count: int, steps: Sequence[float]) -> float:
    return next((step for step in steps if span / step <= count), steps[-1])


# --- scale bar ------------------------------------------------------------------------------------


def draw_scale_bar(axes: Axes, width: float, fontsize: float, *, outside: bool = False) -> None:
    """Scale bar in a corner of a map `width` km wide; `outside`, in the corner that a round map leaves free."""
    from matplotlib.patches import Rectangle

    # Outside a circle the corner is free up to the label of the meridian 30° from the axis.
    length = nice_length(width / (7.0 if outside else 4.0))
    share, height = length / width, 0.012
    x, y = (0.0, -0.03) if outside else (0.05, 0.05)

    def box(left: float, bottom: float, wide: float, high: float, **style: Any) -> None:
        axes.add_patch(Rectangle((left, bottom), wide, high, transform=axes.transAxes, **style))

    if not outside:
        white: dict[str, Any] = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none"}
        box(x - 0.02, y - 0.025, share + 0.04, 0.115, zorder=6, **white)
    line: dict[str, Any] = {"edgecolor": INK, "linewidth": 0.6, "clip_on": False, "zorder": 7}
    box(x, y, share / 2, height, facecolor=INK, **line)
    box(x + share / 2, y, share / 2, height, facecolor="white", **line)
    axes.text(
        x + share / 2,
        y + height * 1.6,
        f"{length:g} km" if length >= 1 else f"{length * 1000:g} m",
        transform=axes.transAxes,
        ha="center",
        va="bottom",
        fontsize=fontsize * 0.85,
        color=INK,
        zorder=7,
    )
