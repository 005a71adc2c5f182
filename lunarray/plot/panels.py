"""All quantities of a Dataset at a glance, and results beside a truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError
from lunarray.geo import spatial_dims
from lunarray.plot.drawing import (
    DIVERGING,
    LINE_COLOURS,
    SEQUENTIAL,
    decimate,
    draw_map,
    label_of,
    limits,
    name_of,
    new_figure,
    save,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OXIDES = ("FeO", "TiO2", "Al2O3", "CaO", "MgO", "SiO2", "Mg_number")
# Beyond this many orbits profiles side by side become too narrow to read.
_MAX_PROFILES = 5
_MAX_POINTS = 200_000


def maps(
    ds: xr.Dataset | xr.DataArray,
    *,
    variables: Sequence[str] | None = None,
    cmap: str = SEQUENTIAL,
    percentiles: tuple[float, float] = (1.0, 99.0),
    columns: int = 4,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    dpi: float = 150.0,
    max_pixels: int = 500_000,
) -> Figure:
    """Draw every oxide of a Dataset, one panel each: maps, or profiles and positions of tracks.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Maps with dimensions (y, x) or (lat, lon); or tracks with dimension ``observation`` and coordinates ``lon`` and
        ``lat``. Tracks of up to five orbits are drawn as profiles along latitude, more as coloured positions.
    variables : sequence of str, optional
        What to draw. Default: the oxides and Mg#, or where there are none every two-dimensional variable (for tracks,
        every variable along ``observation``) up to twelve.
    cmap : str, optional
        Name of a matplotlib colormap.
    percentiles : tuple of float, optional
        Where the colour scale of each panel ends.
    columns : int, optional
        Most panels in a row.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture; the suffix tells the format.
    dpi : float, optional
        Resolution of the saved picture.
    max_pixels : int, optional
        Larger maps are decimated to this many pixels for each panel, and only then read.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    InputError
        If there is nothing to draw.
    """
    if isinstance(ds, xr.DataArray):
        ds = ds.to_dataset(name=ds.name if ds.name is not None else "value")
    names = list(variables) if variables is not None else map_variables(ds)
    missing = [name for name in names if name not in ds]
    if missing or not names:
        raise InputError(
            f"there is no variable {', '.join(map(repr, missing))}"
            if missing
            else "there is nothing to draw",
            where="variables",
            remedy=f"choose among {', '.join(map(str, ds.data_vars)) or 'none'}",
        )
    if spatial_dims(ds) is not None:
        figure = _map_panels(ds[names], cmap, percentiles, columns, max_pixels)
    elif "observation" in ds.dims:
        figure = _track_panels(ds, names, cmap, percentiles, columns)
    else:
        raise InputError(
            f"neither maps nor tracks: the dimensions are {tuple(map(str, ds.dims))}",
            remedy="give dimensions (y, x), (lat, lon) or observation",
        )
    if title:
        figure.suptitle(title, fontsize=13)
    save(figure, path, dpi)
    return figure


def comparison(
    truth: xr.Dataset,
    result: xr.Dataset,
    *,
    variables: Sequence[str] | None = None,
    cmap: str = SEQUENTIAL,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    dpi: float = 130.0,
    max_pixels: int = 250_000,
) -> Figure:
    """Draw truth, result and error of maps below each other, with the errors in numbers.

    Parameters
    ----------
    truth, result : xarray.Dataset
        Maps on the same grid, with variables of the same names.
    variables : sequence of str, optional
        What to compare. Default: the oxides that both have, or every map that both have.
    cmap : str, optional
        Name of a matplotlib colormap; truth and result share one scale.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture; the suffix tells the format.
    dpi : float, optional
        Resolution of the saved picture.
    max_pixels : int, optional
        Larger maps are decimated to this many pixels for each panel; the numbers then are of the decimated maps.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. Bias is the mean of result − truth, RMSE its root mean square.

    Raises
    ------
    InputError
        If they have no variable in common.
    GridError
        If they are not on the same grid.
    """
    common = (
        [name for name in map_variables(result) if name in truth]
        if variables is None
        else list(variables)
    )
    lacking = [name for name in common if name not in truth or name not in result]
    if lacking or not common:
        raise InputError(
            f"not in both datasets: {', '.join(lacking)}"
            if lacking
            else "truth and result have no map in common",
            where="variables",
            remedy=f"truth has {', '.join(map(str, truth.data_vars))}; "
            f"result has {', '.join(map(str, result.data_vars))}",
        )
    _require_same_grid(truth, result)
    truth, result = decimate(truth[common], max_pixels), decimate(result[common], max_pixels)

    figure = new_figure(2.3 * len(common) + 0.6, 8.4)
    grid = figure.subplots(3, len(common), squeeze=False)
    for column, name in enumerate(common):
        expected, found = truth[name], result[name]
        found = found.transpose(*expected.dims)
        error = found.copy(data=found.values.astype(np.float64) - expected.values)
        low, high, extend = limits([expected.values, found.values], None, None)
        span = (
            max(abs(value) for value in limits([error.values], None, None, (2.0, 98.0))[:2]) or 1.0
        )
        first = column == 0
        for row, (array, scale) in enumerate(
            (
                (expected, (low, high, cmap)),
                (found, (low, high, cmap)),
                (error, (-span, span, DIVERGING)),
            )
        ):
            image = draw_map(
                grid[row, column],
                array,
                vmin=scale[0],
                vmax=scale[1],
                cmap=scale[2],
                labels=False,
                graticule=row < 2,
                scale_bar=first and row == 0,
            )
            if row:
                bar = figure.colorbar(
                    image,
                    ax=grid[row, column] if row == 2 else list(grid[:2, column]),
                    orientation="horizontal",
                    extend=extend if row == 1 else "both",
                    pad=0.02,
                    aspect=18,
                    shrink=0.92,
                )
                bar.ax.tick_params(labelsize=7.5)
                bar.outline.set_linewidth(0.6)
                unit = array.attrs.get("units", "")
                bar.set_label(
                    f"{name_of(array)}{' error' if row == 2 else ''} ({unit})", fontsize=8.5
                )
        finite = error.values[np.isfinite(error.values)]
        bias, rmse = (
            (finite.mean(), np.sqrt(np.mean(finite**2))) if finite.size else (np.nan, np.nan)
        )
        numbers = f"bias {round(bias, 2) + 0.0:+.2f}\nRMSE {rmse:.2f}" if finite.size else "no data"
        grid[2, column].set_title(numbers.replace("-", "−"), fontsize=8)
        grid[0, column].set_title(name_of(expected), fontsize=12)
    for row, text in enumerate(("truth", "result", "result − truth")):
        grid[row, 0].set_ylabel(text, fontsize=11, labelpad=8)
    if title:
        figure.suptitle(title, fontsize=13)
    save(figure, path, dpi)
    return figure


def map_variables(ds: xr.Dataset) -> list[str]:
    """Variables worth a panel: the oxides that are there, else every floating map or track, up to twelve."""
    oxides = [name for name in _OXIDES if name in ds]
    if oxides:
        return oxides
    dims = spatial_dims(ds) or ("observation",)
    names = [
        str(name)
        for name, variable in ds.data_vars.items()
        if set(variable.dims) == set(dims)
        and variable.dtype.kind in "fiu"
        and not str(name).endswith("_std")
    ]
    return ([name for name in names if name not in ("count", "quality")] or names)[:12]


def _require_same_grid(truth: xr.Dataset, result: xr.Dataset) -> None:
    dims = spatial_dims(result)
    if dims is None or spatial_dims(truth) != dims:
        raise GridError(
            "truth and result are not maps with the same dimensions", remedy="grid both alike first"
        )
    for dim in dims:
        if truth.sizes[dim] != result.sizes[dim] or not np.allclose(truth[dim], result[dim]):
            raise GridError(
                "truth and result are not on the same grid",
                where=dim,
                remedy="grid both alike first",
            )


def _map_panels(
    ds: xr.Dataset, cmap: str, percentiles: tuple[float, float], columns: int, max_pixels: int
) -> Figure:
    from lunarray.geo import geobox_of
    from lunarray.plot.drawing import pole_of

    flat = {name: ds[name].squeeze(drop=True) for name in ds.data_vars}
    wrong = [name for name, array in flat.items() if array.ndim != 2]
    if wrong:
        raise InputError(
            f"a map has two dimensions, not {tuple(map(str, flat[wrong[0]].dims))}",
            where=str(wrong[0]),
            remedy="select one wavelength or layer, .isel(wavelength=0)",
        )
    ds = decimate(xr.Dataset(flat), max_pixels)
    geobox = geobox_of(ds)
    rows = -(-len(flat) // columns)
    columns = -(-len(flat) // rows)
    aspect = float(
        np.clip(
            geobox.shape[0] * abs(geobox.transform.e) / (geobox.shape[1] * abs(geobox.transform.a)),
            0.4,
            2.5,
        )
    )
    figure = new_figure(3.3 * columns + 0.3, rows * (3.0 * aspect + 1.0) + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    for position, axes in enumerate(grid.flat):
        if position >= len(flat):
            axes.set_axis_off()
            continue
        array = ds[list(flat)[position]]
        low, high, extend = limits([array.values], None, None, percentiles)
        image = draw_map(
            axes,
            array,
            vmin=low,
            vmax=high,
            cmap=cmap,
            scale_bar=position == 0,
            circle=True,
            fontsize=7.5,
        )
        axes.set_title(name_of(array), fontsize=11, pad=14 if pole_of(geobox) else 6)
        bar = figure.colorbar(
            image, ax=axes, orientation="horizontal", extend=extend, shrink=0.8, aspect=25, pad=0.04
        )
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_linewidth(0.6)
        bar.set_label(label_of(array), fontsize=8.5)
    return figure


# --- tracks ---------------------------------------------------------------------------------------


def _track_panels(
    ds: xr.Dataset, names: list[str], cmap: str, percentiles: tuple[float, float], columns: int
) -> Figure:
    for name in ("lon", "lat"):
        if name not in ds.variables:
            raise InputError(
                f"the tracks have no {name!r}",
                where=name,
                remedy="assign lon and lat along observation",
            )
    extras = [
        name for name in ("novelty", "quality", *(f"{name}_std" for name in names)) if name in ds
    ]
    kept = ds[[*names, *(name for name in extras if ds[name].dims == ("observation",))]]
    for name in names:
        if kept[name].dims != ("observation",):
            raise InputError(
                f"a profile has the dimension observation alone, not {tuple(map(str, kept[name].dims))}",
                where=name,
                remedy="select one band, or use lunarray.plot.spectra",
            )
    step = -(-ds.sizes["observation"] // _MAX_POINTS)
    kept = kept.isel(observation=slice(None, None, max(step, 1))).compute()
    orbits = (
        kept["orbit"].values if "orbit" in kept.coords else np.zeros(kept.sizes["observation"], int)
    )
    found = np.unique(orbits)
    if found.size <= _MAX_PROFILES:
        return _profiles(kept, names, orbits, found)
    return _positions(kept, names, cmap, percentiles, columns)


def _flagged(ds: xr.Dataset) -> np.ndarray:
    """Observations that the inversion warns of."""
    flags = np.zeros(ds.sizes["observation"], bool)
    if "quality" in ds:
        flags |= ds["quality"].values != 0
    if "novelty" in ds:
        flags |= ds["novelty"].values > 1.0
    return flags


def _profiles(ds: xr.Dataset, names: list[str], orbits: np.ndarray, found: np.ndarray) -> Figure:
    """Each quantity along latitude, a column for each orbit; the scatter of neighbours shows the uncertainty."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = new_figure(max(6.4, 3.6 * found.size + 1.2), 1.35 * len(names) + 1.4)
    grid = figure.subplots(len(names), found.size, squeeze=False, sharex="col", sharey="row")
    flagged = _flagged(ds)
    any_flag = False
    for column, orbit in enumerate(found):
        member = orbits == orbit
        colour = LINE_COLOURS[column % len(LINE_COLOURS)]
        lat = ds["lat"].values[member]
        order = np.argsort(lat, kind="stable")
        lat = lat[order]
        for row, name in enumerate(names):
            axes = grid[row, column]
            values = ds[name].values[member][order].astype(np.float64)
            flag = flagged[member][order] & np.isfinite(values)
            any_flag |= bool(flag.any())
            good = np.isfinite(values) & ~flag
            spread = ds[f"{name}_std"].values[member][order] if f"{name}_std" in ds else None
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
                lat[good],
                values[good],
                "o",
                color=colour,
                markersize=3,
                alpha=0.55,
                markeredgewidth=0,
            )
            axes.plot(
                lat[flag],
                values[flag],
                "o",
                markerfacecolor="none",
                markeredgecolor="0.45",
                markersize=3.5,
                markeredgewidth=0.7,
            )
            at, middle, low, high = _running(lat, values)
            axes.plot(at, middle, color=colour, linewidth=1.4)
            axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.tick_params(labelsize=8)
            axes.grid(True, color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.margins(y=0.15)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            if column == 0:
                axes.set_ylabel(label_of(ds[name]).replace(" (", "\n("), fontsize=9.5)
        longitude = _mean_longitude(ds["lon"].values[member])
        where = f"{_degrees(float(np.mean(lat)), 'N', 'S')}, {_degrees(longitude, 'E', 'W')}"
        label = f"orbit {int(orbit)}" if "orbit" in ds.coords else "tracks"
        grid[0, column].set_title(
            f"{label} · {where} · {int(member.sum())} footprints", fontsize=9.5
        )
        grid[-1, column].set_xlabel("latitude (°)", fontsize=9.5)
    keys: list[Any] = [
        Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            color="0.3",
            alpha=0.55,
            markersize=4,
            label="footprint",
        ),
        Line2D([], [], color="0.3", linewidth=1.4, label="running median"),
        Patch(color="0.3", alpha=0.18, label="16th to 84th percentile of neighbours"),
    ]
    if any_flag:
        keys.append(
            Line2D(
                [],
                [],
                marker="o",
                linestyle="",
                markerfacecolor="none",
                color="0.45",
                markersize=4,
                label="flagged: unlike the training spectra, or bad quality",
            )
        )
    figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=2 if any_flag else 3,
        frameon=False,
        fontsize=8.5,
    )
    figure.align_ylabels(grid[:, 0])
    return figure


def _running(
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
    from lunarray.plot.drawing import (
        _Frame,
        _polar_graticule,
        _scale_bar,
        colormap,
        distance_of_latitude,
    )

    lat, lon = ds["lat"].values, ds["lon"].values
    finite = np.isfinite(lat) & np.isfinite(lon)
    sign = 1.0 if np.nanmean(lat) > 0 else -1.0
    polar = bool(finite.any()) and float(np.min(sign * lat[finite])) > 50.0
    if polar:
        rho = 2e-3 * 1_737_400.0 * np.tan(np.deg2rad(90.0 - sign * lat) / 2.0)
        x, y = rho * np.sin(np.deg2rad(lon)), -sign * rho * np.cos(np.deg2rad(lon))
        radius = distance_of_latitude(float(np.min(sign * lat[finite]))) * 1.03
    else:
        x, y = lon, lat
    rows = -(-len(names) // columns)
    columns = -(-len(names) // rows)
    figure = new_figure(3.3 * columns + 0.3, rows * (4.0 if polar else 3.0) + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    size = float(np.clip(3e4 / max(finite.sum(), 1), 0.3, 12.0))
    for position, axes in enumerate(grid.flat):
        if position >= len(names):
            axes.set_axis_off()
            continue
        array = ds[names[position]]
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
            axes.set_aspect("equal")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlim(-radius, radius)
            axes.set_ylim(-radius, radius)
            axes.set_frame_on(False)
            axes.set_facecolor("0.93")
            from matplotlib.patches import Circle

            axes.add_patch(
                Circle((0, 0), radius, facecolor="0.9", edgecolor="0.2", linewidth=0.8, zorder=0)
            )
            _polar_graticule(
                axes, _Frame(-radius, radius, -radius, radius, radius), sign, True, 7.5
            )
            if position == 0:
                _scale_bar(axes, 2 * radius, 7.5, outside=True)
        else:
            axes.set_xlabel("longitude (°)", fontsize=8.5)
            axes.set_ylabel("latitude (°)", fontsize=8.5)
            axes.tick_params(labelsize=8)
            axes.grid(True, color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
        axes.set_title(name_of(array), fontsize=11, pad=14 if polar else 6)
        bar = figure.colorbar(
            image, ax=axes, orientation="horizontal", extend=extend, shrink=0.8, aspect=25, pad=0.04
        )
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_linewidth(0.6)
        bar.set_label(label_of(array), fontsize=8.5)
    return figure


def _mean_longitude(lon: np.ndarray) -> float:
    angle = np.deg2rad(lon[np.isfinite(lon)])
    return (
        float(np.rad2deg(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())))
        if angle.size
        else float("nan")
    )


def _degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.1f}° {positive if value >= 0 else negative}"
