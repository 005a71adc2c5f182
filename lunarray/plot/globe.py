"""The globe seen from afar: what lies under footprints, parallels and meridians with their degrees, and names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.plot.drawing import INK, degrees, halo, minus
from lunarray.plot.mapping import degree_step, longitude_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Names that help to find one's way, with the longitude and latitude of their middles (IAU gazetteer, whole degrees).
_NAMES = (
    ("Imbrium", -16, 33), ("Serenitatis", 18, 27), ("Tranquillitatis", 31, 9), ("Crisium", 59, 16),
    ("Fecunditatis", 54, -8), ("Nectaris", 35, -15), ("Nubium", -17, -21), ("Humorum", -39, -24),
    ("Procellarum", -57, 21), ("Frigoris", 0, 58), ("Orientale", -95, -20),
    ("Moscoviense", 148, 27), ("Ingenii", 165, -33), ("Humboldtianum", 82, 57), ("Smythii", 87, -2),
    ("Australe", 92, -48), ("Tycho", -11, -43), ("Tsiolkovskiy", 129, -20), ("Korolev", -157, -4),
    ("Hertzsprung", -129, 1), ("Apollo", -152, -36),
)  # fmt: skip
_LINE: dict[str, Any] = {"color": "#7a7a7a", "lw": 0.4, "alpha": 0.7, "zorder": 1}


def project_points(
    points: np.ndarray, centre: tuple[float, float], projection: str
) -> np.ndarray | None:
    """Points (n, 2) in degrees as drawn; None where all are behind the limb, on it what lies behind."""
    if projection == "equirectangular":
        return points
    x, y, depth = _orthographic(points, centre)
    if np.all(depth <= 0):
        return None
    behind, size = depth < 0, np.maximum(np.hypot(x, y), 1e-12)
    return np.stack([np.where(behind, v / size, v) for v in (x, y)], axis=-1)


def _orthographic(
    points: np.ndarray, centre: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right, up and towards the eye, in radii of the globe."""
    lam, phi = np.deg2rad(points[:, 0] - centre[0]), np.deg2rad(points[:, 1])
    at = np.deg2rad(centre[1])
    x = np.cos(phi) * np.sin(lam)
    y = np.cos(at) * np.sin(phi) - np.sin(at) * np.cos(phi) * np.cos(lam)
    return x, y, np.sin(at) * np.sin(phi) + np.cos(at) * np.cos(phi) * np.cos(lam)


def draw_globe(
    axes: Axes, centre: tuple[float, float], rings: list[np.ndarray], zoom: bool
) -> None:
    """Limb, parallels and meridians with their degrees, and names where they hide no footprint.

    `rings` are footprints as drawn; `zoom` shows their surroundings alone.
    """
    points = np.concatenate(rings) if rings else np.empty((0, 2))
    box = np.array([[-1.04, -1.04], [1.04, 1.04]])
    if zoom:
        box = np.array([points.min(axis=0), points.max(axis=0)])
        pad = 0.15 * max(*(box[1] - box[0]), 1e-3)
        box += np.array([[-pad], [pad]])
    turn = np.linspace(0, 2 * np.pi, 361)
    axes.plot(np.cos(turn), np.sin(turn), color=INK, lw=0.8, zorder=4)
    axes.set_aspect("equal")
    axes.set_xlim(*box[:, 0])
    axes.set_ylim(*box[:, 1])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_frame_on(zoom)
    if zoom:
        span = math.degrees(float((box[1] - box[0]).max()))
        step = min(degree_step(span, 5), 30.0)
        lines = math.cos(math.radians(centre[1])) if abs(centre[1]) < 85 else 0.1
        labels = _graticule(
            axes, centre, box, step, min(degree_step(span / max(lines, 0.1), 5), 30.0)
        )
    else:
        labels = _graticule(axes, centre, box, 30.0, 30.0)
    _names(axes, centre, box, np.concatenate([points, labels]))


def _graticule(
    axes: Axes, centre: tuple[float, float], box: np.ndarray, north: float, east: float
) -> np.ndarray:
    """Lines every so many degrees; where (n, 2) their labels are: at the edges of a part, on the globe along lines."""
    labels = []
    whole = bool(box[1, 0] > 1)
    top = math.floor(89.9 / north) * north
    fine = np.linspace(-180, 180, 3601)
    parallels = np.arange(-top, top + 1e-9, north)
    meridians = np.arange(-180.0, 180.0 - 1e-9, east)
    # On the globe the meridians are named along a parallel below the middle, where the footprints are not.
    named = float(np.clip(30 * round((centre[1] - 35) / 30), -60, 60))
    for latitude in parallels:
        x, y = _seen(np.column_stack([fine, np.full(fine.size, latitude)]), centre, box)
        if np.isfinite(x).any():
            axes.plot(x, y, **_LINE)
            at = int(np.nanargmin(x))
            label = degrees(latitude, "NS") if latitude else "0°"
            if whole and abs(centre[1]) > 60:  # circles around the pole have no left end
                at = int(np.nanargmin(np.abs(fine - centre[0] - 45)))
            _label(axes, x[at], y[at], label, "left")
            labels.append((x[at], y[at]))
    for longitude in meridians:
        x, y = _seen(np.column_stack([np.full(fine.size, longitude), fine / 2]), centre, box)
        if not np.isfinite(x).any():
            continue
        axes.plot(x, y, **_LINE)
        at = int(np.nanargmin(y))
        if whole:
            at = int(np.argmin(np.abs(fine / 2 - named)))
            if not np.isfinite(x[at]) or math.hypot(x[at], y[at]) > 0.97:
                continue
        _label(axes, x[at], y[at], longitude_label(longitude), "on" if whole else "below")
        labels.append((x[at], y[at]))
    return np.array(labels, float).reshape(-1, 2)


def _seen(
    points: np.ndarray, centre: tuple[float, float], box: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points as drawn; NaN behind the limb and outside the frame."""
    x, y, depth = _orthographic(points, centre)
    inside = (x >= box[0, 0]) & (x <= box[1, 0]) & (y >= box[0, 1]) & (y <= box[1, 1])
    seen = (depth > 0) & inside
    return np.where(seen, x, np.nan), np.where(seen, y, np.nan)


def _label(axes: Axes, x: float, y: float, text: str, side: str) -> None:
    place = {
        "left": ((-3, 0), "right", "center"),
        "below": ((0, -3), "center", "top"),
        "on": ((0, 0), "center", "center"),
    }
    shift, across, along = place[side]
    axes.annotate(
        minus(text), (x, y), xytext=shift, textcoords="offset points", fontsize=7, color=INK,
        ha=across, va=along, zorder=5, path_effects=halo(), annotation_clip=False,
    )  # fmt: skip


def _names(axes: Axes, centre: tuple[float, float], box: np.ndarray, points: np.ndarray) -> None:
    """Names on the side that is seen, of those that lie on no footprint and no label (`points`)."""
    size = float(box[1, 0] - box[0, 0])
    for name, lon, lat in _NAMES:
        x, y, depth = (float(v[0]) for v in _orthographic(np.array([[lon, lat]], float), centre))
        half, high = 0.0085 * size * len(name), 0.018 * size
        fits = box[0, 0] + half < x < box[1, 0] - half and box[0, 1] + high < y < box[1, 1] - high
        near = (np.abs(points[:, 0] - x) < 1.6 * half) & (np.abs(points[:, 1] - y) < 1.6 * high)
        if depth > 0.4 and fits and not near.any():
            axes.text(
                x, y, name, fontsize=7, style="italic", color="#3f3f3f", ha="center", va="center",
                zorder=5, path_effects=halo(),
            )  # fmt: skip


def grey_map(
    axes: Axes, raster: xr.DataArray | None, centre: tuple[float, float], projection: str
) -> None:
    """A map in grey, or None: the share of mare that comes with lunarray, maria dark."""
    ends: tuple[float, float] | None = None
    if raster is None:
        from lunarray.xrf.ground import mare_map

        raster, ends = 1.0 - mare_map(), (-1.2, 1.15)  # pale: the footprints' colours go before it
    values = raster.transpose("lat", "lon").sortby("lat").sortby("lon")
    data = np.asarray(values.values, "f8")
    lat, lon = values["lat"].values, values["lon"].values
    options: dict[str, Any] = {"cmap": "gray", "zorder": 0, "origin": "lower"}
    options["interpolation"] = "bilinear"
    low, high = np.nanpercentile(data, [1, 99]) if ends is None else ends
    if projection == "equirectangular":
        half = 0.5 * (lon[1] - lon[0])
        tall = 0.5 * (lat[1] - lat[0])
        extent = (lon[0] - half, lon[-1] + half, lat[0] - tall, lat[-1] + tall)
        axes.imshow(data, extent=extent, vmin=low, vmax=high, **options)
        return
    # The globe is resampled point by point: its inverse projection is closed.
    x, y = np.meshgrid(np.linspace(-1, 1, 900), np.linspace(-1, 1, 900))
    r2 = x**2 + y**2
    with np.errstate(invalid="ignore"):
        depth = np.sqrt(1 - r2)
        at = np.deg2rad(centre[1])
        phi = np.arcsin(y * np.cos(at) + depth * np.sin(at))
        lam = np.deg2rad(centre[0]) + np.arctan2(x, depth * np.cos(at) - y * np.sin(at))
    seen = r2 <= 1
    columns = lon[0] + np.mod(np.rad2deg(np.where(seen, lam, 0.0)) - lon[0], 360.0)
    i = np.clip(np.searchsorted(lat, np.rad2deg(np.where(seen, phi, 0.0))), 0, lat.size - 1)
    j = np.clip(np.searchsorted(lon, columns), 0, lon.size - 1)
    # A map of a part of the Moon ends where it ends.
    tall, wide = abs(lat[1] - lat[0]), abs(lon[1] - lon[0])
    below = np.rad2deg(np.where(seen, phi, 0.0))
    seen &= (below >= lat[0] - tall) & (below <= lat[-1] + tall) & (columns <= lon[-1] + wide)
    image = np.where(seen, data[i, j], np.nan)
    axes.imshow(image, extent=(-1, 1, -1, 1), vmin=low, vmax=high, **options)
