"""A view of an image in its own coordinates, and what is laid over it: masks, lines, polygons, a scale bar."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError
from lunarray.plot.drawing import INK, decimate, limits, map_dims, nice_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: left, right, bottom, top as drawn.
Extent = tuple[float, float, float, float]


class View:
    """An image and the coordinates it is drawn in: those of its CRS, or pixels with the first row on top."""

    def __init__(self, image: xr.DataArray) -> None:
        dims = map_dims(image)
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
                remedy="Give a mask on the pixels of the image",
            )

    def around(self, x: float, y: float, width: float) -> Extent:
        """Square about a place, moved into the image where it can be."""
        left, right, bottom, top = self.bounds
        low, high = min(bottom, top), max(bottom, top)
        width = min(width, right - left, high - low)
        x = min(max(x, left + width / 2), right - width / 2)
        y = min(max(y, low + width / 2), high - width / 2)
        pair = (y - width / 2, y + width / 2)
        return (x - width / 2, x + width / 2, *(pair if bottom < top else pair[::-1]))

    def window(self, frame: Extent) -> tuple[slice, slice]:
        """Rows and columns that a frame shows."""
        rows, columns = self.image.shape
        c = sorted((frame[k] - self.x0) / self.dx for k in (0, 1))
        r = sorted((frame[k] - self.y0) / self.dy for k in (2, 3))
        return (
            slice(max(0, math.floor(r[0] + 1e-6)), min(rows, math.ceil(r[1] - 1e-6))),
            slice(max(0, math.floor(c[0] + 1e-6)), min(columns, math.ceil(c[1] - 1e-6))),
        )

    def extent(self, rows: slice, columns: slice) -> Extent:
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
        frame: Extent,
        max_pixels: int,
        cmap: str = "gray",
        span: tuple[float | None, float | None] = (None, None),
    ) -> Any:
        """The image in a frame, with a scale bar."""
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
        self._bar(axis, frame)
        return picture

    def draw_mask(
        self,
        axis: Axes,
        mask: xr.DataArray,
        frame: Extent,
        shape: tuple[int, int],
        colours: Mapping[int, str],
    ) -> None:
        """Classes of a mask in a frame, at about the `shape` of the picture under it."""
        from matplotlib.colors import to_rgba

        rows, columns = self.window(frame)
        values = _thinned(mask.isel({self.dims[0]: rows, self.dims[1]: columns}), shape)
        shade = np.zeros((*values.shape, 4))
        for number, colour in colours.items():
            shade[values == number] = to_rgba(colour, 0.6)
        axis.imshow(
            shade,
            extent=self.extent(rows, columns),
            interpolation="nearest",
            aspect="equal",
            zorder=3,
        )
        axis.set_xlim(frame[0], frame[1])
        axis.set_ylim(frame[2], frame[3])

    def densest(self, mask: xr.DataArray) -> tuple[float, float] | None:
        """Where most of a mask is, of 32 × 32 parts of the image."""
        step = max(1, math.ceil(max(mask.shape) / 32))
        ones = (mask == 1).astype(np.float32)
        counts = ones.coarsen(dict.fromkeys(self.dims, step), boundary="pad").sum().values
        if not np.nansum(counts):
            return None
        i, j = np.unravel_index(int(np.nanargmax(counts)), counts.shape)
        return self.x0 + (j + 0.5) * step * self.dx, self.y0 + (i + 0.5) * step * self.dy

    def _bar(self, axis: Axes, frame: Extent) -> None:
        """Scale bar in m or km, or in pixels where the image has no scale."""
        width, height = frame[1] - frame[0], abs(frame[3] - frame[2])
        length = nice_length(width / 4)
        up = 1.0 if frame[3] > frame[2] else -1.0
        x, y = frame[0] + 0.05 * width, frame[2] + up * 0.06 * height
        for colour, thick in (("white", 4.0), (INK, 2.0)):
            style: dict[str, Any] = {"linewidth": thick, "solid_capstyle": "butt", "zorder": 7}
            axis.plot([x, x + length], [y, y], color=colour, **style)
        if not self.placed:
            text = f"{length:g} px"
        elif self.dims != ("y", "x"):
            text = f"{length:g}°"
        else:
            text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
        axis.text(
            x + length / 2,
            y + up * 0.02 * height,
            text,
            color="white",
            fontsize=8,
            ha="center",
            va="bottom",
            zorder=7,
            bbox={"facecolor": INK, "alpha": 0.6, "edgecolor": "none", "pad": 1.0},
        )


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


def draw_frame(axis: Axes, frame: Extent, colour: str) -> None:
    """Where a closer view lies."""
    from matplotlib.patches import Rectangle

    low, high = min(frame[2:]), max(frame[2:])
    style: dict[str, Any] = {"fill": False, "edgecolor": colour, "linewidth": 1.6, "zorder": 6}
    axis.add_patch(Rectangle((frame[0], low), frame[1] - frame[0], high - low, **style))


def draw_lines(axis: Axes, shapes: np.ndarray, frame: Extent, colour: str, width: float) -> None:
    """Lines and outlines of polygons, as far as a frame shows them."""
    import shapely
    from matplotlib.collections import LineCollection

    lines = _clipped(shapes, frame)
    lines = np.where(shapely.get_dimensions(lines) == 2, shapely.boundary(lines), lines)
    parts = shapely.get_parts(shapely.get_parts(lines))
    parts = parts[shapely.get_dimensions(parts) == 1]
    paths = [shapely.get_coordinates(p) for p in parts]
    axis.add_collection(LineCollection(paths, colors=colour, linewidths=width, zorder=4))


def fill_polygons(axis: Axes, shapes: np.ndarray, frame: Extent, colour: str) -> None:
    """Polygons with their holes, as far as a frame shows them."""
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


def _clipped(shapes: np.ndarray, frame: Extent) -> np.ndarray:
    import shapely

    box = shapely.box(frame[0], min(frame[2:]), frame[1], max(frame[2:]))
    tree = shapely.STRtree(np.asarray(shapes, dtype=object))
    at = np.sort(tree.query(box, predicate="intersects"))
    return np.asarray(shapes, dtype=object)[at]
