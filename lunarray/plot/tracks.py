"""Quantities along tracks: profiles of a few orbits, coloured positions of many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.geo import RADIUS
from lunarray.plot.drawing import (
    LINE_COLOURS,
    colormap,
    degrees,
    fill,
    label_of,
    lay_grid,
    limits,
    new_figure,
    panel_bar,
)
from lunarray.plot.mapping import Frame, distance_of_latitude, draw_graticule, draw_scale_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Beyond this many orbits profiles side by side become too narrow to read.
_MAX_PROFILES = 5
_MAX_POINTS = 200_000


def draw_tracks(
    ds: xr.Dataset, names: list[str], cmap: str, percentiles: tuple[float, float], columns: int
) -> Figure:
    """Panels of quantities along ``observation``: up to five orbits as profiles, more as positions.

    Of the Dataset ``lon``, ``lat`` and what is named are drawn, with ``orbit``, ``novelty``, ``quality`` and deviations
    ``<name>_std`` where they are there. InputError without places, or for a quantity of more dimensions.
    """
    for name in ("lon", "lat"):
        if name not in ds.variables:
            raise InputError(
                f"the tracks have no {name!r}",
                where=name,
                remedy="Assign lon and lat along observation",
            )
    for name in names:
        if ds[name].dims != ("observation",):
            raise InputError(
                f"a profile has the dimension observation alone, not {tuple(map(str, ds[name].dims))}",
                where=name,
                remedy="Select one band, or use lunarray.plot.spectra",
            )
    extras = [
        name
        for name in ("novelty", "quality", *(f"{name}_std" for name in names))
        if name in ds and ds[name].dims == ("observation",)
    ]
    step = max(1, -(-ds.sizes["observation"] // _MAX_POINTS))
    kept = ds[[*names, *extras]].isel(observation=slice(None, None, step)).compute()
    count = kept.sizes["observation"]
    orbits = kept["orbit"].values if "orbit" in kept.coords else np.zeros(count, int)
    if np.unique(orbits).size <= _MAX_PROFILES:
        return _profiles(kept, names, orbits)
    return _positions(kept, names, cmap, percentiles, columns)


def _flagged(ds: xr.Dataset) -> np.ndarray:
    """Observations that the inversion warns of."""
    flags = np.zeros(ds.sizes["observation"], bool)
    if "quality" in ds:
        flags |= ds["quality"].values != 0
    if "novelty" in ds:
        flags |= ds["novelty"].values > 1.0
    return flags


def _profiles(ds: xr.Dataset, names: list[str], orbits: np.ndarray) -> Figure:
    """Each quantity along latitude, a column for each orbit; the scatter of neighbours shows the uncertainty."""
    found = np.unique(orbits)
    figure = new_figure(max(6.4, 3.6 * found.size + 1.2), 1.35 * len(names) + 1.4)
    grid = figure.subplots(len(names), found.size, squeeze=False, sharex="col", sharey="row")
    flagged = _flagged(ds)
    for column, orbit in enumerate(found):
        part = ds.isel(observation=orbits == orbit)
        order = np.argsort(part["lat"].values, kind="stable")
        lat, flags = part["lat"].values[order], flagged[orbits == orbit][order]
        colour = LINE_COLOURS[column % len(LINE_COLOURS)]
        for row, name in enumerate(names):
            spread = part[f"{name}_std"].values[order] if f"{name}_std" in part else None
            values = part[name].values[order].astype(np.float64)
            _profile(grid[row, column], lat, values, spread, flags, colour)
            if column == 0:
                label = label_of(ds[name]).replace(" (", "\n(")
                grid[row, column].set_ylabel(label, fontsize=9.5)
        longitude = _mean_longitude(part["lon"].values)
        where = f"{degrees(float(np.mean(lat)), 'NS', '.1f')}, {degrees(longitude, 'EW', '.1f')}"
        label = f"orbit {int(orbit)}" if "orbit" in ds.coords else "tracks"
        grid[0, column].set_title(f"{label} · {where} · {lat.size} footprints", fontsize=9.5)
        grid[-1, column].set_xlabel("latitude (°)", fontsize=9.5)
    known = np.isfinite([ds[name].values for name in names]).any(axis=0)
    _explain_profiles(figure, bool((flagged & known).any()))
    figure.align_ylabels(grid[:, 0])
    return figure


def _profile(
    axes: Any,
    lat: np.ndarray,
    values: np.ndarray,
    spread: np.ndarray | None,
    flags: np.ndarray,
    colour: str,
) -> None:
    """Values with their errors, hollow where they are flagged, and the running median with its band."""
    flag = flags & np.isfinite(values)
    good = np.isfinite(values) & ~flag
    if spread is not None:
        axes.errorbar(
            lat[good],
            values[good],
            spread[good],
            fmt="none",
            ecolor=colour,
            alpha=0.3,
            linewidth=0.8,
        )
    axes.plot(
        lat[good], values[good], "o", color=colour, markersize=3, alpha=0.55, markeredgewidth=0
    )
    hollow: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": "0.45"}
    axes.plot(lat[flag], values[flag], "o", markersize=3.5, markeredgewidth=0.7, **hollow)
    at, middle, low, high = running_percentiles(lat, values)
    axes.plot(at, middle, color=colour, linewidth=1.4)
    axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    lay_grid(axes, hide=("top", "right"))
    axes.margins(y=0.15)


def _explain_profiles(figure: Figure, flagged: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    point: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 4}
    keys: list[Any] = [
        Line2D([], [], color="0.3", alpha=0.55, label="footprint", **point),
        Line2D([], [], color="0.3", linewidth=1.4, label="running median"),
        Patch(color="0.3", alpha=0.18, label="16th to 84th percentile of neighbours"),
    ]
    if flagged:
        label = "flagged: unlike the training spectra, or bad quality"
        keys.append(Line2D([], [], markerfacecolor="none", color="0.45", label=label, **point))
    figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=2 if flagged else 3,
        frameon=False,
        fontsize=8.5,
    )


def running_percentiles(
    at: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Running median, 16th and 84th percentile over a fifth of the sorted points, in 200 windows at most."""
    good = np.isfinite(values) & np.isfinite(at)
    at, values = at[good], values[good]
    size = max(5, at.size // 5)
    if at.size < size:
        return (np.empty(0),) * 4
    starts = np.unique(
        np.linspace(0, at.size - size, min(200, at.size - size + 1)).round().astype(int)
    )
    windows = np.stack([values[start : start + size] for start in starts])
    low, middle, high = np.percentile(windows, (16, 50, 84), axis=1)
    return np.array([at[start : start + size].mean() for start in starts]), middle, low, high


def _positions(
    ds: xr.Dataset, names: list[str], cmap: str, percentiles: tuple[float, float], columns: int
) -> Figure:
    """Each quantity as coloured footprints: about the pole if all lie near one, else in longitude and latitude."""
    lat, lon = ds["lat"].values, ds["lon"].values
    finite = np.isfinite(lat) & np.isfinite(lon)
    sign = 1.0 if np.nanmean(lat) > 0 else -1.0
    polar = bool(finite.any()) and float(np.min(sign * lat[finite])) > 50.0
    x, y = lon, lat
    if polar:
        rho = 2e-3 * RADIUS * np.tan(np.deg2rad(90.0 - sign * lat) / 2.0)
        x, y = rho * np.sin(np.deg2rad(lon)), -sign * rho * np.cos(np.deg2rad(lon))
    rows = -(-len(names) // columns)
    columns = -(-len(names) // rows)
    figure = new_figure(3.3 * columns + 0.3, rows * (4.0 if polar else 3.0) + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    size = float(np.clip(3e4 / max(finite.sum(), 1), 0.3, 12.0))
    for axes, name in fill(grid, names):
        array = ds[name]
        low, high, extend = limits([array.values], None, None, percentiles)
        shown = finite & np.isfinite(array.values)
        image = axes.scatter(
            x[shown],
            y[shown],
            c=array.values[shown],
            s=size,
            vmin=low,
            vmax=high,
            cmap=colormap(cmap),
            linewidths=0,
            rasterized=True,
        )
        if polar:
            radius = distance_of_latitude(float(np.min(sign * lat[finite]))) * 1.03
            _polar_axes(axes, radius, sign, scale_bar=axes is grid[0, 0])
        else:
            axes.set_xlabel("longitude (°)", fontsize=8.5)
            axes.set_ylabel("latitude (°)", fontsize=8.5)
            lay_grid(axes)
        panel_bar(figure, axes, image, array, extend, pad=14 if polar else 6)
    return figure


def _polar_axes(axes: Any, radius: float, sign: float, *, scale_bar: bool) -> None:
    """Grey disc about the pole with its parallels and meridians."""
    from matplotlib.patches import Circle

    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(-radius, radius)
    axes.set_ylim(-radius, radius)
    axes.set_frame_on(False)
    axes.set_facecolor("0.93")
    disc = Circle((0, 0), radius, facecolor="0.9", edgecolor="0.2", linewidth=0.8, zorder=0)
    axes.add_patch(disc)
    draw_graticule(axes, Frame(-radius, radius, -radius, radius, radius), sign, fontsize=7.5)
    if scale_bar:
        draw_scale_bar(axes, 2 * radius, 7.5, outside=True)


def _mean_longitude(lon: np.ndarray) -> float:
    angle = np.deg2rad(lon[np.isfinite(lon)])
    if not angle.size:
        return float("nan")
    return float(np.rad2deg(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())))
