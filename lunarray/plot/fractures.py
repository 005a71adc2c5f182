"""Pictures of fractures: detections over images at three scales, agreement with a reference, directions, density."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError
from lunarray.geo import spatial_dims
from lunarray.plot.drawing import (
    _INK,
    _dims_of,
    _nice_length,
    decimate,
    limits,
    new_figure,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["agreement", "detections", "fracture_density", "rose", "training_curves"]

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
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    dpi: float = 150.0,
    max_pixels: int = 800_000,
) -> Figure:
    """Draw detections over their image at three scales: the mosaic, a complex of fractures, and single pixels.

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
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture; the suffix tells the format.
    dpi : float
        Of the saved picture.
    max_pixels : int
        Of a panel; larger views are decimated.

    Returns
    -------
    matplotlib.figure.Figure
        Three panels; frames show where the closer views lie.

    Raises
    ------
    GridError
        If a mask is on another grid than the image, or vectors are given for an image without georeference.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, figures 8 to 10.
    """
    view = _View(image)
    layers = _layer(fractures, view)
    places = list(windows) if windows is not None else _closer(layers, view, sizes)
    figure = new_figure(4.2 * (1 + len(places)), 4.6)
    axes = figure.subplots(1, 1 + len(places), squeeze=False)[0]
    frames = [view.bounds, *(view.around(*place) for place in places)]
    names = ["mosaic", "complex", "pixels", *(f"view {k}" for k in range(4, len(frames) + 1))]
    colours = ["#CC79A7", "#56B4E9", *["#009E73"] * len(frames)]
    for number, (axis, frame) in enumerate(zip(axes, frames, strict=True)):
        part = view.draw(axis, frame, max_pixels)
        for layer in layers:
            layer.draw(axis, frame, part, {1: (DETECTION, "fracture")}, 1.4 if number else 0.7)
        axis.set_title(names[number], fontsize=10)
        for later in range(number + 1, len(frames)):
            _frame(axis, frames[later], colours[later - 1])
        if number:
            for spine in axis.spines.values():
                spine.set_edgecolor(colours[number - 1])
                spine.set_linewidth(2.0)
    if title:
        figure.suptitle(title, fontsize=12)
    save(figure, path, dpi)
    return figure


def agreement(
    image: xr.DataArray,
    detected: Any,
    reference: Any = None,
    *,
    window: tuple[float, float, float] | None = None,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    dpi: float = 150.0,
    max_pixels: int = 800_000,
) -> Figure:
    """Colour true and false detections and what was missed, over the image.

    Parameters
    ----------
    image : DataArray
        (y, x).
    detected, reference : GeoDataFrame or DataArray
        Both polygons in the CRS of the image, or both masks on its grid; or `detected` alone, a
        :class:`lunarray.fractures.Comparison` of polygons in that CRS.
    window : (x, y, width), optional
        Part to draw, as in :func:`detections`.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture.
    dpi : float
        Of the saved picture.
    max_pixels : int
        Larger views are decimated.

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

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, figures 5 and 6.
    """
    from matplotlib.patches import Patch

    view = _View(image)
    frame = view.bounds if window is None else view.around(*window)
    figure = new_figure(6.0, 6.4)
    axis = figure.subplots()
    part = view.draw(axis, frame, max_pixels)
    if hasattr(detected, "pieces") and reference is None:
        pieces = detected.pieces
        if pieces is None:
            raise InputError(
                "a comparison without polygons", where="detected", remedy="compare two sets of polygons"
            )  # fmt: skip
    elif isinstance(detected, xr.DataArray) and isinstance(reference, xr.DataArray):
        pieces = None
        _MaskLayer(_both(detected, reference, view), view).draw(
            axis, frame, part, dict(enumerate(AGREEMENT.values(), start=1)), 1.0
        )
    elif isinstance(detected, xr.DataArray) or isinstance(reference, xr.DataArray):
        raise InputError("a mask and polygons", where="agreement", remedy="give two of a kind")
    else:
        from lunarray.fractures import compare

        pieces = compare(detected, reference).pieces
        if pieces is None:
            raise InputError("lines have no area", where="agreement", remedy="give polygons or masks")  # fmt: skip
    if pieces is not None:
        view.require_place("polygons")
        for kind, (colour, _) in AGREEMENT.items():
            chosen = pieces[pieces["kind"] == kind]
            _fill(axis, chosen.geometry.to_numpy(), frame, view, colour)
    axis.legend(
        handles=[Patch(facecolor=c, alpha=0.6, label=text) for c, text in AGREEMENT.values()],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    if title:
        figure.suptitle(title, fontsize=12)
    save(figure, path, dpi)
    return figure


def rose(
    fractures: Any,
    *,
    bins: int = 18,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    dpi: float = 150.0,
) -> Figure:
    """Rose of directions, weighted by length.

    Parameters
    ----------
    fractures : GeoDataFrame or Dataset
        Fractures, or their :func:`lunarray.fractures.orientation_rose`.
    bins : int
        Sectors in half a turn.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture.
    dpi : float
        Of the saved picture.

    Returns
    -------
    matplotlib.figure.Figure
        North is up; each direction is drawn both ways. The mean direction is a line where there is one.
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
        axis.bar(middle + turn, radius, width=width, color="#0072B2", edgecolor="white", linewidth=0.6)  # fmt: skip
    mean = float(fractures.attrs.get("mean_direction", math.nan))
    top = radius.max() * 1.05 if radius.max() > 0 else 1.0
    if math.isfinite(mean):
        for turn in (0.0, math.pi):
            axis.plot([math.radians(mean) + turn] * 2, [0, top], color="#D55E00", linewidth=1.4)
    axis.set_ylim(0, top)
    ticks = np.unique(np.linspace(0, top, 4)[1:])
    axis.set_yticks(ticks, [f"{t * t:.0f} %" for t in ticks], fontsize=7)
    axis.set_xticks(np.deg2rad(np.arange(0, 360, 45)), ["N", "NE", "E", "SE", "S", "SW", "W", "NW"])
    total = float(fractures["length"].sum())
    axis.set_title(title or f"{total / 1e3:.4g} km of fractures", fontsize=11)
    save(figure, path, dpi)
    return figure


def fracture_density(
    density: xr.DataArray,
    fractures: Any = None,
    *,
    cmap: str = "magma",
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    dpi: float = 150.0,
) -> Figure:
    """Draw a density map, with the fractures over it.

    Parameters
    ----------
    density : DataArray
        As :func:`lunarray.fractures.density` returns it.
    fractures : GeoDataFrame, optional
        In its CRS.
    cmap : str
        A matplotlib colormap.
    title : str, optional
        Above the figure.
    path : path-like, optional
        Where to save the picture.
    dpi : float
        Of the saved picture.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    view = _View(density)
    figure = new_figure(6.2, 5.4)
    axis = figure.subplots()
    picture = view.draw(axis, view.bounds, 4_000_000, cmap=cmap, span=(0.0, None))
    if fractures is not None and len(fractures):
        lines = fractures.get("centreline", fractures.geometry)
        _strokes(axis, lines.to_numpy(), view.bounds, view, "white", 0.5)
    bar = figure.colorbar(picture, ax=axis, shrink=0.85)
    unit = {"km/km2": "km/km²", "1/km2": "1/km²"}.get(str(density.attrs.get("units")), "")
    bar.set_label(f"{density.attrs.get('long_name', 'density')} ({unit})", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=12)
    save(figure, path, dpi)
    return figure


def training_curves(
    history: xr.Dataset,
    *,
    rolling: int = 10,
    path: str | os.PathLike[str] | None = None,
    dpi: float = 150.0,
) -> Figure:
    """Draw loss and metrics against epochs, for training and validation.

    Parameters
    ----------
    history : Dataset
        Along ``epoch`` and ``split`` ("training", "validation"), as a :class:`lunarray.fractures.FractureFit` keeps it.
    rolling : int
        Epochs of the running mean that is drawn over the faint values themselves.
    path : path-like, optional
        Where to save the picture.
    dpi : float
        Of the saved picture.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each of the loss, precision, recall and F1 that the history holds; the best epoch is dotted.

    Raises
    ------
    InputError
        If there is no dimension ``epoch`` or nothing to draw.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, figure 4.
    """
    names = [n for n in ("loss", "precision", "recall", "F1") if n in history]
    if "epoch" not in history.dims or not names:
        raise InputError(
            "no training history", where="history", remedy="give the history of a FractureFit"
        )
    figure = new_figure(3.4 * len(names), 3.2)
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    splits = [str(s) for s in history["split"].values] if "split" in history.dims else [""]
    epochs = history["epoch"].values
    best = history.attrs.get("best_epoch")
    for axis, name in zip(axes, names, strict=True):
        for split, colour in zip(splits, ("#0072B2", "#D55E00"), strict=False):
            values = history[name].sel(split=split) if split else history[name]
            y = values.values.astype(np.float64)
            axis.plot(epochs, y, color=colour, alpha=0.3, linewidth=0.8)
            axis.plot(epochs, _running(y, rolling), color=colour, linewidth=1.6, label=split)
        if best is not None:
            axis.axvline(float(best), color=_INK, linestyle=":", linewidth=1.0)
        axis.set_title(name if name != "loss" else "BCE loss", fontsize=10)
        axis.set_xlabel("epoch", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0].legend(fontsize=8, frameon=False)
    save(figure, path, dpi)
    return figure


def _running(values: np.ndarray, size: int) -> np.ndarray:
    good = np.isfinite(values)
    kernel = np.ones(max(1, min(size, values.size)))
    total = np.convolve(np.where(good, values, 0.0), kernel)[: values.size]
    count = np.convolve(good.astype(float), kernel)[: values.size]
    with np.errstate(invalid="ignore"):
        return total / count


# --- views ----------------------------------------------------------------------------------------


class _View:
    """An image and the coordinates it is drawn in: those of its CRS, or pixels with the first row on top."""

    def __init__(self, image: xr.DataArray) -> None:
        dims = _dims_of(image)
        self.image = image.transpose(*dims)
        self.dims = dims
        rows, columns = self.image.shape
        self.placed = all(d in image.coords for d in dims) and rows > 1 and columns > 1
        if self.placed:
            y, x = (self.image[d].values.astype(np.float64) for d in dims)
            self.dy, self.dx = (y[-1] - y[0]) / (rows - 1), (x[-1] - x[0]) / (columns - 1)
            self.y0, self.x0 = y[0] - self.dy / 2, x[0] - self.dx / 2
        else:
            self.dy, self.dx, self.y0, self.x0 = 1.0, 1.0, 0.0, 0.0
        ends = (
            (self.x0, self.x0 + columns * self.dx),
            (self.y0, self.y0 + rows * self.dy),
        )
        #: left, right, bottom, top as drawn: rows run down, whatever their coordinates do.
        self.bounds = (
            min(ends[0]), max(ends[0]), *((min(ends[1]), max(ends[1])) if self.placed else (float(rows), 0.0)),
        )  # fmt: skip
        self.size = abs(self.dx)

    def require_place(self, what: str) -> None:
        if not self.placed:
            raise GridError(
                f"{what} cannot be laid over an image without coordinates",
                where="image",
                remedy="give a mask on the pixels of the image",
            )

    def around(self, x: float, y: float, width: float) -> tuple[float, float, float, float]:
        """Square about a place, moved into the image where it can be."""
        left, right, bottom, top = self.bounds
        low, high = min(bottom, top), max(bottom, top)
        width = min(width, right - left, high - low)
        x = min(max(x, left + width / 2), right - width / 2)
        y = min(max(y, low + width / 2), high - width / 2)
        pair = (y - width / 2, y + width / 2)
        return (x - width / 2, x + width / 2, *(pair if bottom < top else pair[::-1]))

    def window(self, frame: tuple[float, float, float, float]) -> tuple[slice, slice]:
        """Rows and columns that a frame shows."""
        rows, columns = self.image.shape
        c = sorted((frame[k] - self.x0) / self.dx for k in (0, 1))
        r = sorted((frame[k] - self.y0) / self.dy for k in (2, 3))
        return (
            slice(max(0, math.floor(r[0] + 1e-6)), min(rows, math.ceil(r[1] - 1e-6))),
            slice(max(0, math.floor(c[0] + 1e-6)), min(columns, math.ceil(c[1] - 1e-6))),
        )

    def extent(self, rows: slice, columns: slice) -> tuple[float, float, float, float]:
        """For imshow: left, right, bottom, top of the part, its first row on top."""
        return (
            self.x0 + columns.start * self.dx,
            self.x0 + columns.stop * self.dx,
            self.y0 + rows.stop * self.dy,
            self.y0 + rows.start * self.dy,
        )

    def draw(
        self,
        axis: Axes,
        frame: tuple[float, float, float, float],
        max_pixels: int,
        cmap: str = "gray",
        span: tuple[float | None, float | None] = (None, None),
    ) -> Any:
        import matplotlib

        rows, columns = self.window(frame)
        part = decimate(
            self.image.isel({self.dims[0]: rows, self.dims[1]: columns}), max_pixels
        ).values.astype(np.float64)
        vmin, vmax, _ = limits([part], *span)
        picture = axis.imshow(
            np.ma.masked_invalid(part),
            extent=self.extent(rows, columns),
            cmap=matplotlib.colormaps[cmap].with_extremes(bad="#3b3048"),
            vmin=vmin,
            vmax=vmax,
            interpolation="nearest",
            aspect="equal",
        )
        axis.set_xlim(frame[0], frame[1])
        axis.set_ylim(frame[2], frame[3])
        axis.set_xticks([])
        axis.set_yticks([])
        _bar(axis, frame, self)
        return picture


def _bar(axis: Axes, frame: tuple[float, float, float, float], view: _View) -> None:
    """Scale bar in m or km, or in pixels where the image has no scale."""
    width = frame[1] - frame[0]
    length = _nice_length(width / 4)
    height = abs(frame[3] - frame[2])
    up = 1.0 if frame[3] > frame[2] else -1.0
    x, y = frame[0] + 0.05 * width, frame[2] + up * 0.06 * height
    axis.plot(
        [x, x + length], [y, y], color="white", linewidth=4.0, solid_capstyle="butt", zorder=7
    )
    axis.plot([x, x + length], [y, y], color=_INK, linewidth=2.0, solid_capstyle="butt", zorder=7)
    if not view.placed:
        text = f"{length:g} px"
    elif view.dims != ("y", "x"):
        text = f"{length:g}°"
    else:
        text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axis.text(
        x + length / 2, y + up * 0.02 * height, text, color="white", fontsize=8, ha="center", va="bottom",
        zorder=7, bbox={"facecolor": _INK, "alpha": 0.6, "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip


def _frame(axis: Axes, frame: tuple[float, float, float, float], colour: str) -> None:
    from matplotlib.patches import Rectangle

    low, high = min(frame[2:]), max(frame[2:])
    axis.add_patch(
        Rectangle(
            (frame[0], low), frame[1] - frame[0], high - low, fill=False, edgecolor=colour, linewidth=1.6, zorder=6
        )
    )  # fmt: skip


class _MaskLayer:
    def __init__(self, mask: xr.DataArray, view: _View) -> None:
        self.mask, self.view = mask, view

    def draw(
        self,
        axis: Axes,
        frame: tuple[float, float, float, float],
        picture: Any,
        classes: dict[int, tuple[str, str]],
        width: float,
    ) -> None:
        from matplotlib.colors import to_rgba

        rows, columns = self.view.window(frame)
        part = self.mask.isel({self.view.dims[0]: rows, self.view.dims[1]: columns})
        values = _thinned(part, picture.get_array().shape)
        shade = np.zeros((*values.shape, 4))
        for number, (colour, _) in classes.items():
            shade[values == number] = to_rgba(colour, 0.6)
        axis.imshow(
            shade,
            extent=self.view.extent(rows, columns),
            interpolation="nearest",
            aspect="equal",
            zorder=3,
        )
        axis.set_xlim(frame[0], frame[1])
        axis.set_ylim(frame[2], frame[3])

    def centre(self) -> tuple[float, float] | None:
        """Where most of it is, of 32 × 32 parts of the image."""
        rows, columns = self.mask.shape
        step = max(1, math.ceil(max(rows, columns) / 32))
        ones = (self.mask == 1).astype(np.float32)
        counts = ones.coarsen(dict.fromkeys(self.view.dims, step), boundary="pad").sum().values
        if not np.nansum(counts):
            return None
        i, j = np.unravel_index(int(np.nanargmax(counts)), counts.shape)
        return (
            self.view.x0 + (j + 0.5) * step * self.view.dx,
            self.view.y0 + (i + 0.5) * step * self.view.dy,
        )


class _VectorLayer:
    def __init__(self, frame: Any, view: _View) -> None:
        self.frame, self.view = frame, view

    def draw(
        self,
        axis: Axes,
        frame: tuple[float, float, float, float],
        picture: Any,
        classes: dict[int, tuple[str, str]],
        width: float,
    ) -> None:
        _strokes(axis, self.frame.geometry.to_numpy(), frame, self.view, classes[1][0], width)

    def centre(self) -> tuple[float, float] | None:
        if not len(self.frame):
            return None
        import shapely

        length = shapely.length(self.frame.geometry.to_numpy())
        middle = self.frame.geometry.iloc[int(np.argmax(length))].representative_point()
        return middle.x, middle.y


def _thinned(mask: xr.DataArray, shape: tuple[int, int]) -> np.ndarray:
    """Mask at the size of a decimated picture: of the classes that lie in a cell the one of most pixels.

    Where a fracture is found a pixel too wide, its rim must not hide that it is found.
    """
    rows, columns = mask.shape
    step = max(1, round(rows / shape[0])) if shape[0] else 1
    if step == 1:
        return np.asarray(mask.values)
    # Whole cells only; the rest of a cell at the edge is left out.
    rows, columns = rows // step * step, columns // step * step
    part = mask[:rows, :columns]
    layers = []
    for number in (1, 2, 3):
        data = (part == number).data
        layers.append(data.reshape(rows // step, step, columns // step, step).sum(axis=(1, 3)))
    import dask

    counts = np.stack(dask.compute(*layers))
    return np.where(counts.any(axis=0), counts.argmax(axis=0) + 1, 0)


def _layer(fractures: Any, view: _View) -> list[Any]:
    if isinstance(fractures, xr.Dataset) and "mask" in fractures:
        fractures = fractures["mask"]
    if isinstance(fractures, xr.DataArray):
        return [_MaskLayer(_on_view(fractures, view), view)]
    view.require_place("vectors")
    return [_VectorLayer(fractures, view)]


def _on_view(mask: xr.DataArray, view: _View) -> xr.DataArray:
    from lunarray.fractures.vectors import same_grid

    if spatial_dims(mask) is None:
        raise GridError(f"no mask: the dimensions are {tuple(map(str, mask.dims))}", where="mask")
    return same_grid(mask, view.image, "mask")


def _both(detected: xr.DataArray, reference: xr.DataArray, view: _View) -> xr.DataArray:
    """1 where both are 1, 2 where the first is, 3 where the second is; 0 where either has no data."""
    a, b = _on_view(detected, view), _on_view(reference, view)
    known = (a != 255).data & (b != 255).data
    one, two = (a == 1).data & known, (b == 1).data & known
    kinds = (one & two) * np.uint8(1) + (one & ~two) * np.uint8(2) + (~one & two) * np.uint8(3)
    return a.copy(data=kinds)


def _closer(
    layers: list[Any], view: _View, sizes: tuple[float, float]
) -> list[tuple[float, float, float]]:
    left, right, bottom, top = view.bounds
    centre = layers[0].centre() or ((left + right) / 2, (bottom + top) / 2)
    whole = min(right - left, abs(top - bottom))
    return [(*centre, max(share * whole, 48 * view.size)) for share in sizes]


def _strokes(
    axis: Axes, shapes: np.ndarray, frame: Any, view: _View, colour: str, width: float
) -> None:
    import shapely
    from matplotlib.collections import LineCollection

    lines = _clipped(shapes, frame)
    lines = np.where(shapely.get_dimensions(lines) == 2, shapely.boundary(lines), lines)
    parts = shapely.get_parts(shapely.get_parts(lines))
    parts = parts[shapely.get_dimensions(parts) == 1]
    paths = [shapely.get_coordinates(p) for p in parts]
    axis.add_collection(LineCollection(paths, colors=colour, linewidths=width, zorder=4))


def _fill(axis: Axes, shapes: np.ndarray, frame: Any, view: _View, colour: str) -> None:
    import shapely
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path

    parts = shapely.get_parts(_clipped(shapes, frame))
    parts = parts[shapely.get_dimensions(parts) == 2]
    paths = []
    for part in parts:
        rings = [shapely.get_coordinates(r) for r in (part.exterior, *part.interiors)]
        codes = [
            np.r_[Path.MOVETO, np.full(len(r) - 2, Path.LINETO), Path.CLOSEPOLY] for r in rings
        ]
        paths.append(Path(np.concatenate(rings), np.concatenate(codes)))
    axis.add_collection(
        PathCollection(paths, facecolors=colour, alpha=0.6, edgecolors="none", zorder=3)
    )


def _clipped(shapes: np.ndarray, frame: Any) -> np.ndarray:
    import shapely

    box = shapely.box(frame[0], min(frame[2:]), frame[1], max(frame[2:]))
    tree = shapely.STRtree(np.asarray(shapes, dtype=object))
    at = np.sort(tree.query(box, predicate="intersects"))
    return np.asarray(shapes, dtype=object)[at]
