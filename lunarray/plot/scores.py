"""How well oxides are predicted: correlation of bands, prediction against reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.plot.drawing import (
    INK,
    LINE_COLOURS,
    RED,
    SEQUENTIAL,
    Output,
    all_variables,
    chosen,
    colour_bar,
    decimate,
    fill,
    finish,
    halo,
    label_of,
    name_of,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def correlation_curves(
    correlation: xr.DataArray,
    **output: Unpack[Output],
) -> Figure:
    """Draw the correlation of every band with every oxide.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figure 2.

    Parameters
    ----------
    correlation : DataArray
        (oxide, wavelength), from :func:`lunarray.oxides.band_correlation`.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure
        Wavelength below, number of the band above.

    Raises
    ------
    InputError
        Other dimensions.

    Examples
    --------
    >>> import lunarray as la
    >>> globe, where = la.simulate.moon(resolution=30_000), {"lat": (51, 64, 3), "lon": (-170, 170, 20)}
    >>> samples = la.oxides.build_samples([globe.north, globe.south], globe.reference, **where)
    >>> figure = la.plot.correlation_curves(la.oxides.band_correlation(samples))
    """
    if set(correlation.dims) != {"oxide", "wavelength"}:
        raise InputError(
            f"the dimensions are {tuple(map(str, correlation.dims))}",
            where="correlation",
            remedy="Give the result of band_correlation",
        )
    values = correlation.transpose("oxide", "wavelength").compute()
    nm = values["wavelength"].values
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    axes.axhline(0.0, color=INK, linewidth=0.6)
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
    _number_bands(axes, nm)
    axes.spines["right"].set_visible(False)
    return finish(figure, output)


def _number_bands(axes: Any, nm: np.ndarray) -> None:
    """Numbers of the bands above, where wavelengths rise."""
    if nm.size <= 2 or not (np.diff(nm) > 0).all():
        return
    bands = np.arange(1, nm.size + 1)
    above = axes.secondary_xaxis(
        "top",
        functions=(
            lambda v: np.interp(np.asarray(v), nm, bands),
            lambda v: np.interp(np.asarray(v), bands, nm),
        ),
    )
    step = max(1, int(round(nm.size / 8, -1 if nm.size >= 80 else 0)))
    above.set_ticks([1, *range(step, nm.size, step), nm.size])
    above.set_xlabel("band", fontsize=9)
    above.tick_params(labelsize=8)


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
    max_points: int = 2_000_000,
    **output: Unpack[Output],
) -> Figure:
    """Draw predicted against true abundances, a panel for each oxide, coloured by the density of points.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figure 4.

    Parameters
    ----------
    reference, predicted : Dataset
        Samples or maps with the same dimensions and variables of the same names.
    variables : sequence of str, optional
        By default the oxides and Mg# that both have, else all that both have.
    reference_label, predicted_label : str
        What the axes are called.
    cmap : str
    columns : int
    max_points : int
        Maps of more pixels are decimated to this many.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure
        Each panel with the 1:1 line and, of the points drawn, their number, R² (squared correlation, eq. 2), RMSE and
        MAE (eqs. 3 and 4).

    Raises
    ------
    InputError
        No common variable, or other dimensions.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> truth, maps = la.simulate.truth_maps(scene), scene.lunar.invert_oxides()
    >>> figure = la.plot.prediction_scatter(truth, maps, variables=["FeO"])
    """
    names = chosen(variables, reference, predicted, default=all_variables)
    if dict(reference[names].sizes) != dict(predicted[names].sizes):
        raise InputError(
            f"sizes {dict(reference[names].sizes)} and {dict(predicted[names].sizes)}",
            where="predicted",
            remedy="Give both on the same samples or grid",
        )
    reference = decimate(reference[names], max_points)
    predicted = decimate(predicted[names], max_points)
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(3.1 * columns + 0.5, 3.15 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False)
    drawn = None
    for axes, name in fill(grid, names):
        array = reference[name]
        axes.set_title(label_of(array), fontsize=11)
        axes.set_xlabel(reference_label, fontsize=9)
        axes.set_ylabel(predicted_label, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_box_aspect(1)
        x = np.asarray(array.values, np.float64).ravel()
        y = np.asarray(predicted[name].transpose(*array.dims).values, np.float64).ravel()
        both = np.isfinite(x) & np.isfinite(y)
        if both.any():
            drawn = _scatter(axes, x[both], y[both], cmap)
        else:
            axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes)
    if drawn is not None:
        label = "density of points, relative to the densest"
        colour_bar(figure, drawn, grid, label, fontsize=9, shrink=0.55, aspect=30, pad=0.015)
    return finish(figure, output)


def _scatter(axes: Any, x: np.ndarray, y: np.ndarray, cmap: str) -> Any:
    """Points about the 1:1 line, with their numbers."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    if x.size > 500:  # a few far points must not make the cloud small
        q = np.percentile(np.concatenate([x, y]), (0.05, 99.95))
        low, high = max(low, q[0] - 0.1 * (q[1] - q[0])), min(high, q[1] + 0.1 * (q[1] - q[0]))
    pad = 0.04 * (high - low) or 0.5
    low, high = low - pad, high + pad
    drawn = _density(axes, x, y, low, high, cmap)
    axes.plot([low, high], [low, high], color=RED, linewidth=1.0, zorder=3)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
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
        0.04,
        0.96,
        text,
        transform=axes.transAxes,
        va="top",
        fontsize=8,
        zorder=5,
        path_effects=halo(),
        linespacing=1.25,
    )
    return drawn


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
