"""Pictures of fractures: detections over images at three scales, agreement with a reference, directions, density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError
from lunarray.geo import spatial_dims
from lunarray.plot.drawing import (
    INK,
    LINE_COLOURS,
    Output,
    finish,
    halo,
    new_figure,
    nice_length,
)
from lunarray.plot.views import View, draw_frame, draw_lines, fill_polygons

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Outlines of detections; what both maps have, what only ours has, what only the reference has. All told apart by
#: colour-blind readers and in lightness.
DETECTION = "#E69F00"
AGREEMENT = {
    "both": ("#009E73", "in both (TP)"),
    "map": ("#D55E00", "only detected (FP)"),
    "reference": ("#56B4E9", "only in the reference (FN)"),
}


def detections(
    image: xr.DataArray,
    fractures: Any,
    *,
    windows: Sequence[tuple[float, float, float]] | None = None,
    sizes: tuple[float, float] = (0.25, 0.04),
    max_pixels: int = 800_000,
    **output: Unpack[Output],
) -> Figure:
    """Draw detections over their image at three scales: the mosaic, a complex of fractures, and single pixels.

    After Le Corre et al. (2025), JGR Planets 130, e2025JE009145, figures 8 to 10.

    Parameters
    ----------
    image : DataArray
        (y, x), with or without georeference; lazy or not: only what is drawn is computed.
    fractures : GeoDataFrame or DataArray
        Polygons in the CRS of the image, or a mask on its grid (1 is a fracture).
    windows : sequence of (x, y, width), optional
        Middle and width of the closer views, from wide to narrow, in the coordinates of the image (pixels where it has
        none). By default about the longest fracture (of a mask, where it is densest).
    sizes : tuple of float
        Widths of the default closer views, as shares of the image; never less than 48 pixels.
    max_pixels : int
        Of a panel; larger views are decimated.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure
        Three panels; frames show where the closer views lie.

    Raises
    ------
    GridError
        If a mask is on another grid than the image, or vectors are given for an image without georeference.

    Examples
    --------
    >>> import lunarray as la
    >>> image = la.sample("nac_crop")
    >>> fractures = image.lunar.map_fractures().lunar.vectorize()
    >>> figure = la.plot.detections(image, fractures)
    """
    view = View(image)
    if isinstance(fractures, xr.Dataset) and "mask" in fractures:
        fractures = fractures["mask"]
    mask = _on_view(fractures, view) if isinstance(fractures, xr.DataArray) else None
    if mask is None:
        view.require_place("vectors")
    if windows is None:
        centre = _longest(fractures) if mask is None else view.densest(mask)
        windows = _closer(centre, view, sizes)
    places = list(windows)
    figure = new_figure(4.2 * (1 + len(places)), 4.6)
    axes = figure.subplots(1, 1 + len(places), squeeze=False)[0]
    frames = [view.bounds, *(view.around(*place) for place in places)]
    names = ["mosaic", "complex", "pixels", *(f"view {k}" for k in range(4, len(frames) + 1))]
    colours = [LINE_COLOURS[3], LINE_COLOURS[4], *[LINE_COLOURS[2]] * len(frames)]
    for number, (axis, frame) in enumerate(zip(axes, frames, strict=True)):
        part = view.draw(axis, frame, max_pixels)
        if mask is None:
            shapes = fractures.geometry.to_numpy()
            draw_lines(axis, shapes, frame, DETECTION, 1.4 if number else 0.7)
        else:
            view.draw_mask(axis, mask, frame, part.get_array().shape, {1: DETECTION})
        axis.set_title(names[number], fontsize=10)
        for later in range(number + 1, len(frames)):
            draw_frame(axis, frames[later], colours[later - 1])
        if number:
            for spine in axis.spines.values():
                spine.set_edgecolor(colours[number - 1])
                spine.set_linewidth(2.0)
    return finish(figure, output)


def agreement(
    image: xr.DataArray,
    detected: Any,
    reference: Any = None,
    *,
    window: tuple[float, float, float] | None = None,
    max_pixels: int = 800_000,
    **output: Unpack[Output],
) -> Figure:
    """Colour true and false detections and what was missed, over the image.

    After Le Corre et al. (2025), JGR Planets 130, e2025JE009145, figures 5 and 6.

    Parameters
    ----------
    image : DataArray
        (y, x).
    detected, reference : GeoDataFrame or DataArray
        Both polygons in the CRS of the image, or both masks on its grid; or `detected` alone, a
        :class:`lunarray.fractures.comparison.Comparison` of polygons in that CRS.
    window : (x, y, width), optional
        Part to draw, as in :func:`detections`.
    max_pixels : int
        Larger views are decimated.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure
        The figure, with a legend.

    Raises
    ------
    InputError
        If a mask is given with polygons.
    GridError
        If a mask is on another grid.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.nac_scene((256, 256))
    >>> found = scene.dataset["image"].lunar.map_fractures()
    >>> figure = la.plot.agreement(scene.dataset["image"], found["mask"], scene.dataset["mask"])
    """
    from matplotlib.patches import Patch

    view = View(image)
    frame = view.bounds if window is None else view.around(*window)
    figure = new_figure(6.0, 6.4)
    axis = figure.subplots()
    part = view.draw(axis, frame, max_pixels)
    masks = [isinstance(given, xr.DataArray) for given in (detected, reference)]
    if all(masks):
        colours = {k: colour for k, (colour, _) in enumerate(AGREEMENT.values(), start=1)}
        both = _both(detected, reference, view)
        view.draw_mask(axis, both, frame, part.get_array().shape, colours)
    elif any(masks):
        raise InputError("a mask and polygons", where="agreement", remedy="Give two of a kind")
    else:
        pieces = _pieces(detected, reference)
        view.require_place("polygons")
        for kind, (colour, _) in AGREEMENT.items():
            chosen = pieces[pieces["kind"] == kind]
            fill_polygons(axis, chosen.geometry.to_numpy(), frame, colour)
    axis.legend(
        handles=[Patch(facecolor=c, alpha=0.6, label=text) for c, text in AGREEMENT.values()],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    return finish(figure, output)


def rose(
    fractures: Any,
    *,
    bins: int = 18,
    **output: Unpack[Output],
) -> Figure:
    """Rose of directions, weighted by length.

    Parameters
    ----------
    fractures : GeoDataFrame or Dataset
        Fractures, or their :func:`lunarray.fractures.orientation_rose`.
    bins : int
        Sectors in half a turn.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure
        North is up; each direction is drawn both ways. The mean direction is a line where there is one.

    Examples
    --------
    >>> import lunarray as la
    >>> fractures = la.sample("nac_crop").lunar.map_fractures().lunar.vectorize()
    >>> figure = la.plot.rose(fractures)
    """
    if not isinstance(fractures, xr.Dataset):
        from lunarray.fractures import orientation_rose

        fractures = orientation_rose(fractures, bins)
    share = np.nan_to_num(fractures["share"].values) * 100
    middle = np.deg2rad(fractures["azimuth"].values)
    width = math.pi / middle.size
    figure = new_figure(4.6, 4.8)
    axis: Any = figure.add_subplot(projection="polar")
    axis.set_theta_zero_location("N")
    axis.set_theta_direction(-1)
    # Equal areas for equal lengths: the radius goes with the root of the share.
    radius = np.sqrt(share)
    for turn in (0.0, math.pi):
        style: dict[str, Any] = {"color": LINE_COLOURS[0], "edgecolor": "white", "linewidth": 0.6}
        axis.bar(middle + turn, radius, width=width, **style)
    mean = float(fractures.attrs.get("mean_direction", math.nan))
    top = radius.max() * 1.05 if radius.max() > 0 else 1.0
    if math.isfinite(mean):
        for turn in (0.0, math.pi):
            ends = [math.radians(mean) + turn] * 2
            axis.plot(ends, [0, top], color=LINE_COLOURS[1], linewidth=1.4)
    axis.set_ylim(0, top)
    # Circles at round shares, whose names lie over the bars.
    step = nice_length(top**2 / 2)
    shares = np.arange(1, int(top**2 / step) + 1) * step
    names = [f"{share:g} %" for share in shares]
    axis.set_yticks(np.sqrt(shares), names, fontsize=7, path_effects=halo(), zorder=5)
    axis.set_xticks(np.deg2rad(np.arange(0, 360, 45)), ["N", "NE", "E", "SE", "S", "SW", "W", "NW"])
    total = float(fractures["length"].sum())
    title = f"{total / 1e3:.4g} km of fractures"
    return finish(figure, output, axes=axis, title=title, fontsize=11)


def fracture_density(
    density: xr.DataArray,
    fractures: Any = None,
    *,
    cmap: str = "magma",
    **output: Unpack[Output],
) -> Figure:
    """Draw a density map, with the fractures over it.

    Parameters
    ----------
    density : DataArray
        As :func:`lunarray.fractures.density` returns it.
    fractures : GeoDataFrame, optional
        In its CRS.
    cmap : str
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import lunarray as la
    >>> fractures = la.sample("nac_crop").lunar.map_fractures().lunar.vectorize()
    >>> figure = la.plot.fracture_density(la.fractures.density(fractures, cell=100.0), fractures)
    """
    view = View(density)
    figure = new_figure(6.2, 5.4)
    axis = figure.subplots()
    picture = view.draw(axis, view.bounds, 4_000_000, cmap=cmap, span=(0.0, None))
    if fractures is not None and len(fractures):
        lines = fractures.get("centreline", fractures.geometry)
        draw_lines(axis, lines.to_numpy(), view.bounds, "white", 0.5)
    bar = figure.colorbar(picture, ax=axis, shrink=0.85)
    unit = {"km/km2": "km/km²", "1/km2": "1/km²"}.get(str(density.attrs.get("units")), "")
    bar.set_label(f"{density.attrs.get('long_name', 'density')} ({unit})", fontsize=9)
    return finish(figure, output)


def training_curves(
    history: xr.Dataset,
    *,
    rolling: int = 10,
    **output: Unpack[Output],
) -> Figure:
    """Draw loss and metrics against epochs, for training and validation.

    After Le Corre et al. (2025), JGR Planets 130, e2025JE009145, figure 4.

    Parameters
    ----------
    history : Dataset
        Along ``epoch`` and ``split`` ("training", "validation"), as what
        :func:`lunarray.fractures.train` gives keeps it.
    rolling : int
        Epochs of the running mean that is drawn over the faint values themselves.
    **output : Output

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each of the loss, precision, recall and F1 that the history holds; the best epoch is dotted.

    Raises
    ------
    InputError
        If there is no dimension ``epoch`` or nothing to draw.

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> ground = la.simulate.NacSettings(fractures=200.0, melt=1.0)
    >>> scene = la.simulate.nac_scene((128, 128), settings=ground)
    >>> tiles = la.fractures.tiles(scene.dataset["image"], scene.dataset["mask"], size=64, overlap=0.0)
    >>> settings = la.fractures.TrainSettings(epochs=1, batch_size=2)
    >>> network = la.fractures.light(width=4)
    >>> fit = la.fractures.train(tiles, tiles, settings=settings, model=network, device="cpu", progress=False)
    >>> figure = la.plot.training_curves(fit.history)
    """
    names = [n for n in ("loss", "precision", "recall", "F1") if n in history]
    if "epoch" not in history.dims or not names:
        raise InputError(
            "no training history", where="history", remedy="Give the history of a FractureFit"
        )
    figure = new_figure(3.4 * len(names), 3.2)
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    splits = [str(s) for s in history["split"].values] if "split" in history.dims else [""]
    epochs = history["epoch"].values
    best = history.attrs.get("best_epoch")
    for axis, name in zip(axes, names, strict=True):
        for split, colour in zip(splits, LINE_COLOURS, strict=False):
            values = history[name].sel(split=split) if split else history[name]
            y = values.values.astype(np.float64)
            axis.plot(epochs, y, color=colour, alpha=0.3, linewidth=0.8)
            axis.plot(epochs, _running_mean(y, rolling), color=colour, linewidth=1.6, label=split)
        if best is not None:
            axis.axvline(float(best), color=INK, linestyle=":", linewidth=1.0)
        axis.set_title(name if name != "loss" else "BCE loss", fontsize=10)
        axis.set_xlabel("epoch", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0].legend(fontsize=8, frameon=False)
    return finish(figure, output)


def _running_mean(values: np.ndarray, size: int) -> np.ndarray:
    good = np.isfinite(values)
    kernel = np.ones(max(1, min(size, values.size)))
    total = np.convolve(np.where(good, values, 0.0), kernel)[: values.size]
    count = np.convolve(good.astype(float), kernel)[: values.size]
    with np.errstate(invalid="ignore"):
        return total / count


def _longest(fractures: Any) -> tuple[float, float] | None:
    """A point of the longest fracture."""
    if not len(fractures):
        return None
    import shapely

    length = shapely.length(fractures.geometry.to_numpy())
    middle = fractures.geometry.iloc[int(np.argmax(length))].representative_point()
    return middle.x, middle.y


def _closer(
    centre: tuple[float, float] | None, view: View, sizes: tuple[float, float]
) -> list[tuple[float, float, float]]:
    left, right, bottom, top = view.bounds
    x, y = centre or ((left + right) / 2, (bottom + top) / 2)
    whole = min(right - left, abs(top - bottom))
    return [(x, y, max(share * whole, 48 * view.size)) for share in sizes]


def _pieces(detected: Any, reference: Any) -> Any:
    """Polygons that both have, and that either has alone."""
    whole = hasattr(detected, "pieces") and reference is None
    if not whole:
        from lunarray.fractures import compare

        detected = compare(detected, reference)
    if detected.pieces is None:
        raise InputError(
            "a comparison without polygons" if whole else "lines have no area",
            where="agreement",
            remedy="Compare two sets of polygons" if whole else "Give polygons or masks",
        )
    return detected.pieces


def _on_view(mask: xr.DataArray, view: View) -> xr.DataArray:
    from lunarray.fractures.layers import same_grid

    if spatial_dims(mask) is None:
        raise GridError(f"no mask: the dimensions are {tuple(map(str, mask.dims))}", where="mask")
    return same_grid(mask, view.image, "mask")


def _both(detected: xr.DataArray, reference: xr.DataArray, view: View) -> xr.DataArray:
    """1 where both are 1, 2 where the first is, 3 where the second is; 0 where either has no data."""
    a, b = _on_view(detected, view), _on_view(reference, view)
    known = (a != 255).data & (b != 255).data
    one, two = (a == 1).data & known, (b == 1).data & known
    kinds = (one & two) * np.uint8(1) + (one & ~two) * np.uint8(2) + (~one & two) * np.uint8(3)
    return a.copy(data=kinds)
