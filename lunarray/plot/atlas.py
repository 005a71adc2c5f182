"""The figures of a study of the poles: correlations, scatter, both poles of every oxide, regions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError
from lunarray.geo import as_regions, geobox_of, lunar_grid, region_shape, spatial_dims
from lunarray.plot.drawing import (
    _INK,
    DIVERGING,
    LINE_COLOURS,
    SEQUENTIAL,
    _halo,
    decimate,
    draw_map,
    label_of,
    limits,
    name_of,
    new_figure,
    pole_of,
    save,
)
from lunarray.plot.panels import _OXIDES, map_variables
from lunarray.plot.polar import polar_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]


def correlation_curves(
    correlation: xr.DataArray,
    *,
    title: str | None = None,
    path: Path | None = None,
    dpi: float = 150.0,
) -> Figure:
    """Draw the correlation of every band with every oxide.

    Parameters
    ----------
    correlation : DataArray
        (oxide, wavelength), from :func:`lunarray.oxides.band_correlation`.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture; the suffix tells the format.
    dpi : float
        Resolution of the saved picture.

    Returns
    -------
    matplotlib.figure.Figure
        Wavelength below, number of the band above.

    Raises
    ------
    InputError
        Other dimensions.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figure 2.
    """
    if set(correlation.dims) != {"oxide", "wavelength"}:
        raise InputError(
            f"the dimensions are {tuple(map(str, correlation.dims))}",
            where="correlation",
            remedy="give the result of band_correlation",
        )
    values = correlation.transpose("oxide", "wavelength").compute()
    nm = values["wavelength"].values
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    axes.axhline(0.0, color=_INK, linewidth=0.6)
    ends = []
    for index, oxide in enumerate(values["oxide"].values):
        row = values.values[index]
        label = name_of(xr.DataArray(name=str(oxide)))
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        # Lines that run together are told apart by their dashes as well.
        dash = ("-", "--", "-", "--", "-.", ":")[index % 6]
        axes.plot(nm, row, color=colour, linestyle=dash, linewidth=1.6, label=label)
        finite = np.flatnonzero(np.isfinite(row))
        if finite.size:
            ends.append((float(row[finite[-1]]), label, colour))
    _label_ends(axes, ends, float(nm[-1]))
    axes.set_xlim(nm[0], nm[-1])
    axes.set_ylim(-1.05, 1.05)
    axes.set_xlabel("wavelength (nm)")
    axes.set_ylabel("correlation coefficient R")
    axes.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    bands = np.arange(1, nm.size + 1)
    if nm.size > 2 and (np.diff(nm) > 0).all():
        above = axes.secondary_xaxis(
            "top",
            functions=(
                lambda v: np.interp(np.asarray(v), nm, bands),
                lambda v: np.interp(np.asarray(v), bands, nm),
            ),
        )
        step = max(1, int(round(nm.size / 8, -1 if nm.size >= 80 else 0)))
        above.set_ticks([1, *(k for k in range(step, nm.size, step)), nm.size])
        above.set_xlabel("band", fontsize=9)
        above.tick_params(labelsize=8)
    axes.spines["right"].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=12)
    save(figure, path, dpi)
    return figure


def _label_ends(axes: Any, ends: list[tuple[float, str, str]], x: float) -> None:
    """Names at the ends of the lines, moved apart where they would overlap."""
    ends = sorted(ends)
    places = [y for y, _, _ in ends]
    gap = 0.095
    for _ in range(60):
        moved = False
        for k in range(len(places) - 1):
            short = gap - (places[k + 1] - places[k])
            if short > 1e-9:
                places[k] -= short / 2
                places[k + 1] += short / 2
                moved = True
        if not moved:
            break
    for place, (y, label, colour) in zip(places, ends, strict=True):
        axes.annotate(
            label,
            (x, y),
            xytext=(1.035, place),
            textcoords=axes.get_yaxis_transform(),
            color=colour,
            va="center",
            fontsize=10,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def prediction_scatter(
    reference: xr.Dataset,
    predicted: xr.Dataset,
    *,
    variables: Sequence[str] | None = None,
    reference_label: str = "reference",
    predicted_label: str = "predicted",
    cmap: str = SEQUENTIAL,
    columns: int = 3,
    title: str | None = None,
    path: Path | None = None,
    dpi: float = 150.0,
    max_points: int = 2_000_000,
) -> Figure:
    """Draw what was predicted against what it should be, one panel for each oxide, coloured by the density of points.

    Parameters
    ----------
    reference, predicted : Dataset
        Samples or maps with the same dimensions and variables of the same names.
    variables : sequence of str, optional
        By default the oxides and Mg# that both have, else all that both have.
    reference_label, predicted_label : str
        What the axes are called.
    cmap : str
        Name of a matplotlib colormap.
    columns : int
        Most panels in a row.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture.
    dpi : float
        Resolution of the saved picture.
    max_points : int
        Maps of more pixels are decimated to this many.

    Returns
    -------
    matplotlib.figure.Figure
        Each panel with the 1:1 line and, of the points drawn, their number, R² (squared correlation, eq. 2), RMSE and
        MAE (eqs. 3 and 4).

    Raises
    ------
    InputError
        No common variable, or other dimensions.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figure 4.
    """
    names = _common(reference, predicted, variables)
    if dict(reference[names].sizes) != dict(predicted[names].sizes):
        raise InputError(
            f"sizes {dict(reference[names].sizes)} and {dict(predicted[names].sizes)}",
            where="predicted",
            remedy="give both on the same samples or grid",
        )
    reference, predicted = (
        decimate(reference[names], max_points),
        decimate(predicted[names], max_points),
    )
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(3.1 * columns + 0.5, 3.15 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False)
    drawn = None
    for position, axes in enumerate(grid.flat):
        if position >= len(names):
            axes.set_axis_off()
            continue
        array = reference[names[position]]
        x = np.asarray(array.values, np.float64).ravel()
        y = np.asarray(predicted[names[position]].transpose(*array.dims).values, np.float64).ravel()
        both = np.isfinite(x) & np.isfinite(y)
        x, y = x[both], y[both]
        label = label_of(array)
        axes.set_title(label, fontsize=11)
        axes.set_xlabel(reference_label, fontsize=9)
        axes.set_ylabel(predicted_label, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_box_aspect(1)
        if not x.size:
            axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes)
            continue
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        if x.size > 500:  # a few far points must not make the cloud small
            q = np.percentile(np.concatenate([x, y]), (0.05, 99.95))
            low, high = max(low, q[0] - 0.1 * (q[1] - q[0])), min(high, q[1] + 0.1 * (q[1] - q[0]))
        pad = 0.04 * (high - low) or 0.5
        low, high = low - pad, high + pad
        drawn = _density(axes, x, y, low, high, cmap)
        axes.plot([low, high], [low, high], color="#c1121f", linewidth=1.0, zorder=3)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        from matplotlib.ticker import MaxNLocator

        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
        error = y - x
        spread = x.std() * y.std()
        r2 = (np.mean((x - x.mean()) * (y - y.mean())) / spread) ** 2 if spread > 0 else np.nan
        text = (
            f"R² = {r2:.3f}\nRMSE = {np.sqrt(np.mean(error**2)):.3f}\n"
            f"MAE = {np.mean(np.abs(error)):.3f}\nN = {x.size:,}"
        )
        axes.text(
            0.04, 0.96, text, transform=axes.transAxes, va="top", fontsize=8, zorder=5,
            path_effects=_halo(), linespacing=1.25,
        )  # fmt: skip
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=grid, shrink=0.55, aspect=30, pad=0.015)
        bar.set_label("density of points, relative to the densest", fontsize=9)
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_linewidth(0.6)
    if title:
        figure.suptitle(title, fontsize=12)
    save(figure, path, dpi)
    return figure


def _density(axes: Any, x: np.ndarray, y: np.ndarray, low: float, high: float, cmap: str) -> Any:
    """Points coloured by how many lie around them; of many, the picture of the density itself."""
    from scipy.ndimage import gaussian_filter

    count = 160
    counts, _, _ = np.histogram2d(x, y, bins=count, range=[[low, high], [low, high]])
    if x.size > 20_000:
        shown = np.ma.masked_equal(counts.T / counts.max(), 0)
        from matplotlib.colors import LogNorm

        return axes.imshow(
            shown, extent=(low, high, low, high), origin="lower", cmap=cmap, aspect="auto",
            norm=LogNorm(max(1e-4, 1 / counts.max()), 1.0), interpolation="nearest", zorder=2,
        )  # fmt: skip
    smooth = gaussian_filter(counts, 3.0)
    cell = ((np.stack([x, y]) - low) / (high - low) * count).astype(int).clip(0, count - 1)
    density = smooth[cell[0], cell[1]] / smooth.max()
    order = np.argsort(density)
    size = float(np.clip(4000 / x.size, 3, 14))
    return axes.scatter(
        x[order], y[order], c=density[order], s=size, cmap=cmap, vmin=0, vmax=1, linewidths=0, zorder=2
    )  # fmt: skip


def polar_atlas(
    atlas: Mapping[str, xr.Dataset],
    *,
    variables: Sequence[str] | None = None,
    cmap: str = SEQUENTIAL,
    percentiles: tuple[float, float] = (1.0, 99.0),
    columns: int = 2,
    title: str | None = None,
    path: Path | None = None,
    dpi: float = 150.0,
    max_pixels: int = 500_000,
) -> Figure:
    """Draw both poles of every oxide, each pair on one colour scale.

    Parameters
    ----------
    atlas : mapping of str to Dataset
        "north" and "south", or one of them, from :func:`lunarray.oxides.atlas`.
    variables : sequence of str, optional
        By default the oxides and Mg#.
    cmap : str
        Name of a matplotlib colormap.
    percentiles : tuple of float
        Where each colour scale ends.
    columns : int
        Pairs in a row.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture.
    dpi : float
        Resolution of the saved picture.
    max_pixels : int
        Larger maps are decimated to this many pixels.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    InputError
        Nothing to draw.
    GridError
        Maps that are not polar.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figures 5, 8, 9 and 14.
    """
    poles = _poles(atlas)
    first = next(iter(poles.values()))
    names = list(variables) if variables is not None else map_variables(first)
    lacking = [n for n in names for ds in poles.values() if n not in ds]
    if lacking or not names:
        raise InputError(
            f"there is no variable {lacking[0]!r}" if lacking else "there is nothing to draw",
            where="variables",
            remedy=f"choose among {', '.join(map(str, first.data_vars))}",
        )
    small = {pole: decimate(ds[names], max_pixels) for pole, ds in poles.items()}
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(columns * (2.75 * len(small) + 0.3), rows * 3.25 + (0.5 if title else 0.2))
    parts = np.atleast_2d(figure.subfigures(rows, columns, squeeze=False))
    for position, part in enumerate(parts.flat):
        if position >= len(names):
            continue
        arrays = {pole: ds[names[position]] for pole, ds in small.items()}
        low, high, extend = limits([a.values for a in arrays.values()], None, None, percentiles)
        panels = np.atleast_1d(part.subplots(1, len(arrays)))
        image: Any = None
        for axes, (pole, array) in zip(panels, arrays.items(), strict=True):
            image = draw_map(
                axes, array, vmin=low, vmax=high, cmap=cmap, scale_bar=position == 0, circle=True, fontsize=7.0
            )  # fmt: skip
            if position < columns:
                axes.set_title(f"{pole.capitalize()} pole", fontsize=9.5, pad=15)
        bar = part.colorbar(
            image, ax=list(panels), orientation="horizontal", extend=extend, shrink=0.62, aspect=32, pad=0.03
        )  # fmt: skip
        bar.set_label(label_of(next(iter(arrays.values()))), fontsize=10)
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_linewidth(0.6)
    if title:
        figure.suptitle(title, fontsize=13)
    save(figure, path, dpi)
    return figure


def difference_map(
    north: xr.Dataset | xr.DataArray | None = None,
    south: xr.Dataset | xr.DataArray | None = None,
    *,
    variable: str = "FeO",
    limit: float | None = None,
    label: str | None = None,
    title: str | None = None,
    path: Path | None = None,
    dpi: float = 150.0,
) -> Figure:
    """Draw differences at both poles on a scale that is symmetric about zero.

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
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture.
    dpi : float
        Resolution of the saved picture.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    InputError
        Nothing to draw.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figure 7.
    """
    arrays: list[Any] = []
    for given in (north, south):
        if given is None:
            arrays.append(None)
            continue
        if isinstance(given, xr.Dataset):
            if variable not in given:
                raise InputError(
                    f"there is no variable {variable!r}", where="variable",
                    remedy=f"choose among {', '.join(map(str, given.data_vars))}",
                )  # fmt: skip
            given = given[variable]
        arrays.append(decimate(given, 2_000_000))
    if limit is None:
        values = [np.abs(a.values[np.isfinite(a.values)]) for a in arrays if a is not None]
        joined = np.concatenate(values) if values else np.empty(0)
        limit = float(np.percentile(joined, 98)) if joined.size else 1.0
    some = next((a for a in arrays if a is not None), None)
    if label is None and some is not None:
        label = f"difference of {name_of(xr.DataArray(name=some.name))} ({some.attrs.get('units', '1')})"  # fmt: skip
    return polar_map(
        *arrays, cmap=DIVERGING, vmin=-(limit or 1.0), vmax=limit or 1.0, label=label, title=title, path=path, dpi=dpi
    )  # fmt: skip


def region_triptychs(
    regions: Sequence[xr.Dataset] | xr.Dataset,
    *,
    variable: str = "FeO",
    cmap: str = SEQUENTIAL,
    titles: tuple[str, str, str] = ("reference", "result", "result − reference"),
    title: str | None = None,
    path: Path | None = None,
    dpi: float = 150.0,
) -> Figure:
    """Draw reference, result and difference of regions, a row for each.

    Parameters
    ----------
    regions : Dataset or sequence of Dataset
        From :func:`lunarray.oxides.region_maps`.
    variable : str
        Which oxide.
    cmap : str
        Name of a matplotlib colormap.
    titles : tuple of 3 str
        Of the columns.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture.
    dpi : float
        Resolution of the saved picture.

    Returns
    -------
    matplotlib.figure.Figure
        Reference and result of a row share a scale; that of all differences is one, symmetric about zero.

    Raises
    ------
    InputError
        Nothing to draw, or no such variable.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figures 10 to 13.
    """
    sets = [regions] if isinstance(regions, xr.Dataset) else list(regions)
    if not sets or any(variable not in ds or "panel" not in ds[variable].dims for ds in sets):
        raise InputError(
            f"there is no {variable!r} with reference, result and difference",
            where="variable",
            remedy="give results of region_maps",
        )
    arrays = [ds[variable].compute() for ds in sets]
    differences = np.concatenate(
        [a.sel(panel="difference").values[np.isfinite(a.sel(panel="difference").values)] for a in arrays]
    )  # fmt: skip
    span = float(np.percentile(np.abs(differences), 98)) if differences.size else 1.0
    span = span or 1.0
    heights = []
    for array in arrays:
        rows, columns = lunar_grid(array.isel(panel=0)).shape
        aspect = rows / columns
        if spatial_dims(array) != ("y", "x"):
            middle = float(np.abs(array[spatial_dims(array)[0]]).mean())  # type: ignore[index]
            aspect /= np.cos(np.deg2rad(middle))
        heights.append(float(np.clip(aspect, 0.4, 2.5)))
    figure = new_figure(9.6, sum(2.15 * h for h in heights) + 1.0)
    grid = figure.subplots(len(sets), 3, squeeze=False, height_ratios=heights)
    for row, array in enumerate(arrays):
        there, found, off = (array.sel(panel=p) for p in ("reference", "result", "difference"))
        low, high, extend = limits([there.values, found.values], None, None)
        for column, (panel, scale) in enumerate(
            (
                (there, (low, high, cmap)),
                (found, (low, high, cmap)),
                (off, (-span, span, DIVERGING)),
            )
        ):
            axes = grid[row, column]
            image = draw_map(
                axes, panel, vmin=scale[0], vmax=scale[1], cmap=scale[2], scale_bar=False, fontsize=8.5
            )  # fmt: skip
            if spatial_dims(panel) != ("y", "x"):
                # As wide as the ground is at the middle parallel.
                middle = float(np.deg2rad(np.abs(panel[spatial_dims(panel)[0]]).mean()))  # type: ignore[index]
                axes.set_aspect(1 / np.cos(middle))
            if column == 1:
                axes.tick_params(labelleft=False)
            if row == 0:
                axes.set_title(titles[column], fontsize=10.5)
            if column == 1:
                bar = figure.colorbar(
                    image, ax=list(grid[row, :2]), extend=extend, shrink=0.85, aspect=24, pad=0.015
                )
            elif column == 2:
                bar = figure.colorbar(image, ax=axes, extend="both", shrink=0.85, aspect=24, pad=0.03)  # fmt: skip
            else:
                continue
            bar.ax.tick_params(labelsize=8)
            bar.outline.set_linewidth(0.6)
            bar.set_label(
                f"{name_of(array)} ({array.attrs.get('units', '1')})" if column == 1 else "difference",
                fontsize=9,
            )  # fmt: skip
        finite = off.values[np.isfinite(off.values)]
        if finite.size:
            rmse = np.sqrt(np.mean(finite.astype(np.float64) ** 2))
            text = f"bias {round(float(finite.mean()), 2) + 0.0:+.2f}, RMSE {rmse:.2f}"
            grid[row, 2].text(
                0.5, 0.02, text.replace("-", "−"), transform=grid[row, 2].transAxes, ha="center", va="bottom",
                fontsize=8, path_effects=_halo(), zorder=6,
            )  # fmt: skip
        name = str(sets[row].attrs.get("region", ""))
        if name:
            grid[row, 0].set_ylabel(name.replace(" (", "\n("), fontsize=10, labelpad=8)
    if title:
        figure.suptitle(title, fontsize=12)
    save(figure, path, dpi)
    return figure


def region_bars(
    statistics: xr.Dataset,
    *,
    variables: Sequence[str] | None = None,
    truth: xr.Dataset | None = None,
    columns: int = 2,
    title: str | None = None,
    path: Path | None = None,
    dpi: float = 150.0,
) -> Figure:
    """Draw mean and spread of every oxide in every region.

    Parameters
    ----------
    statistics : Dataset
        From :func:`lunarray.oxides.region_statistics`.
    variables : sequence of str, optional
        By default the oxides and Mg#.
    truth : Dataset, optional
        Statistics of the same regions that are true, drawn as crosses.
    columns : int
        Panels in a row.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture.
    dpi : float
        Resolution of the saved picture.

    Returns
    -------
    matplotlib.figure.Figure
        A bar from mean − std to mean + std, a line from the 5th to the 95th percentile where they are there, a dot at
        the mean. Axes do not begin at zero: the regions differ by a few per cent.

    Raises
    ------
    InputError
        No statistics of regions, or no such variable.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, table 5.
    """
    if not {"region", "statistic"} <= set(statistics.dims):
        raise InputError(
            "these are no statistics of regions", where="statistics", remedy="give the result of region_statistics"
        )  # fmt: skip
    names = list(variables) if variables is not None else (
        [n for n in _OXIDES if n in statistics] or [str(n) for n in statistics.data_vars]
    )  # fmt: skip
    lacking = [n for n in names if n not in statistics]
    if lacking or not names:
        raise InputError(
            f"there is no variable {', '.join(map(repr, lacking))}" if lacking else "there is nothing to draw",
            where="variables",
            remedy=f"choose among {', '.join(map(str, statistics.data_vars))}",
        )  # fmt: skip
    stats = statistics[names].compute()
    real = None if truth is None else truth.compute()
    known = [str(s) for s in stats["statistic"].values]
    labels = [str(a) for a in stats["abbreviation"].values]
    x = np.arange(len(labels))
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(max(3.6, 0.48 * len(labels) + 1.2) * columns, 1.75 * rows + 1.1)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for position, axes in enumerate(grid.T.flat):
        if position >= len(names):
            axes.set_axis_off()
            continue
        array = stats[names[position]]
        mean, std = (array.sel(statistic=s).values for s in ("mean", "std"))
        if {"p5", "p95"} <= set(known):
            axes.vlines(
                x, array.sel(statistic="p5"), array.sel(statistic="p95"), color=_INK, linewidth=0.8, zorder=2
            )  # fmt: skip
        axes.bar(
            x, 2 * std, bottom=mean - std, width=0.62, color="#9ecae1", edgecolor="#3a7ca5", linewidth=0.7, zorder=3
        )  # fmt: skip
        axes.plot(x, mean, "o", color=LINE_COLOURS[0], markersize=4.5, zorder=4, label="mean")
        if real is not None and names[position] in real:
            axes.plot(
                x, real[names[position]].sel(statistic="mean"), "x", color=LINE_COLOURS[1], markersize=6,
                markeredgewidth=1.6, zorder=5, label="truth",
            )  # fmt: skip
        axes.set_ylabel(label_of(array), fontsize=9.5)
        axes.tick_params(labelsize=8.5)
        axes.grid(True, axis="y", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.use_sticky_edges = False  # the feet of bars would lie on the frame
        axes.margins(x=0.03, y=0.1)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for column in range(columns):
        used = [r for r in range(rows) if column * rows + r < len(names)]
        bottom = grid[used[-1], column]
        bottom.tick_params(labelbottom=True)
        bottom.set_xticks(x, labels, rotation=45, ha="right", rotation_mode="anchor")
        if used[-1] < rows - 1:  # below there is room: the names must not move the rows apart
            for text in bottom.get_xticklabels():
                text.set_in_layout(False)
    if real is not None:
        grid[0, 0].legend(
            fontsize=8, frameon=False, ncols=2, loc="upper left", borderaxespad=0.0, bbox_to_anchor=(0, 1.16)
        )  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=12)
    save(figure, path, dpi)
    return figure


def region_map(
    array: xr.DataArray,
    regions: Any,
    *,
    cmap: str = SEQUENTIAL,
    vmin: float | None = None,
    vmax: float | None = None,
    labels: bool = True,
    title: str | None = None,
    path: Path | None = None,
    dpi: float = 150.0,
    max_pixels: int = 1_000_000,
) -> Figure:
    """Draw regions on a polar map, with their names.

    Parameters
    ----------
    array : DataArray
        A map in polar stereographic projection.
    regions : region, sequence of regions, GeoDataFrame or path
        What :func:`lunarray.geo.as_regions` takes; the map is cut to what is around them.
    cmap : str
        Name of a matplotlib colormap.
    vmin, vmax : float, optional
        Limits of the colour scale; by default the 1st and 99th percentile of what is shown.
    labels : bool
        Write the abbreviations.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture.
    dpi : float
        Resolution of the saved picture.
    max_pixels : int
        A larger map is decimated to this many pixels.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    GridError
        A map that is not polar, or that none of the regions lies on.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figure 15.
    """
    geobox = geobox_of(array)
    if pole_of(geobox) is None:
        raise GridError(
            "the map is not in polar stereographic projection", where=str(array.name), remedy="give a polar map"
        )  # fmt: skip
    found = as_regions(regions)
    shapes = [region_shape(r, geobox.crs) for r in found]
    bounds = np.array([s.bounds for s in shapes])
    # The pole is on the picture where it is not far: it says where one is.
    left, bottom = bounds[:, :2].min(axis=0)
    right, top = bounds[:, 2:].max(axis=0)
    middle, half = (
        ((left + right) / 2, (bottom + top) / 2),
        0.5 * max(right - left, top - bottom) * 1.25,
    )
    inside_x = np.abs(array["x"].values - middle[0]) <= half
    inside_y = np.abs(array["y"].values - middle[1]) <= half
    if not inside_x.any() or not inside_y.any():
        raise GridError(
            "none of the regions lies on the map", where=str(array.name), remedy="give a map of their pole"
        )  # fmt: skip
    part = decimate(array.isel(x=np.flatnonzero(inside_x), y=np.flatnonzero(inside_y)), max_pixels)
    low, high, extend = limits([part.values], vmin, vmax)
    figure = new_figure(7.2, 6.4)
    axes = figure.subplots()
    image = draw_map(axes, part, vmin=low, vmax=high, cmap=cmap, fontsize=8.5)
    for shape, region in zip(shapes, found, strict=True):
        for piece in getattr(shape, "geoms", [shape]):
            x, y = np.array(piece.exterior.coords).T * 1e-3
            axes.plot(x, y, color="white", linewidth=2.6, zorder=5)
            axes.plot(x, y, color="#c1121f", linewidth=1.3, zorder=6)
        if labels:
            x0, _, x1, y1 = (v * 1e-3 for v in shape.bounds)
            axes.annotate(
                region.abbreviation or region.name,
                ((x0 + x1) / 2, y1),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8.5,
                fontweight="bold",
                color=_INK,
                path_effects=_halo(),
                zorder=7,
            )
    bar = figure.colorbar(image, ax=axes, extend=extend, shrink=0.75, aspect=30, pad=0.04)
    bar.set_label(label_of(array), fontsize=10)
    bar.ax.tick_params(labelsize=8.5)
    bar.outline.set_linewidth(0.6)
    if title:
        figure.suptitle(title, fontsize=12)
    save(figure, path, dpi)
    return figure


def _poles(atlas: Any) -> dict[str, xr.Dataset]:
    given = atlas if isinstance(atlas, Mapping) and not isinstance(atlas, xr.Dataset) else {"": atlas}  # fmt: skip
    out: dict[str, xr.Dataset] = {}
    for ds in given.values():
        pole = pole_of(geobox_of(ds))
        if pole is None:
            raise GridError(
                "a map is not in polar stereographic projection",
                where="atlas",
                remedy="give the result of oxides.atlas",
            )
        out[pole] = ds
    if not out:
        raise InputError("there is nothing to draw", where="atlas", remedy="give one pole or both")
    return {pole: out[pole] for pole in ("north", "south") if pole in out}


def _common(first: xr.Dataset, second: xr.Dataset, variables: Sequence[str] | None) -> list[str]:
    if variables is None:
        both = [str(n) for n in first.data_vars if n in second]
        names = [n for n in _OXIDES if n in both] or both
    else:
        names = list(variables)
    lacking = [n for n in names if n not in first or n not in second]
    if lacking or not names:
        raise InputError(
            f"not in both: {', '.join(lacking)}" if lacking else "no variable is in both",
            where="variables",
            remedy="give Datasets with variables of the same names",
        )
    return names
