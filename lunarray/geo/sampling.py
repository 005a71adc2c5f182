"""Where the pixels of one grid lie in another, and the values there: what the resampler and mosaics share.

PROJ gives positions at few places; between them they are polynomials, where these are checked to be as close as a
thousandth of a source pixel. Where they are not, around poles and seams, PROJ places every pixel. All of it is counted
from the origin of the target: the chunks of a result do not change it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lunarray.geo.crs import BODIES, from_lonlat, radius_of, require_body, to_lonlat
from lunarray.geo.grid import closure_of, grid_token, pixel_size

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

#: Most points along a side of a target pixel in an average.
MAX_PARTS = 32
# Sides of cells; the largest first.
_SIZES = (256, 64, 16)
# The most that a polynomial may be off where it is checked, in source pixels.
_TOLERANCE = 1e-3
# Points of the target placed at a time, along a side.
_TILE = 1024
# Points along each side of a block by which its place in the source is known.
_SPREAD = 9

# The middle of a cell, the other eight nodes, and the four places where the polynomial is checked.
_NODES = np.array([(r, c) for r in (0, 0.5, 1) for c in (0, 0.5, 1)])
_CHECKS = np.array([(r, c) for r in (0.25, 0.75) for c in (0.25, 0.75)])


def _basis(u: np.ndarray) -> np.ndarray:
    return np.stack([2 * (u - 0.5) * (u - 1), 4 * u * (1 - u), 2 * u * (u - 0.5)], -1)


_WEIGHTS = np.stack(
    [np.outer(a, b).ravel() for a, b in zip(*map(_basis, _CHECKS.T), strict=True)], axis=1
)


class Window(NamedTuple):
    """A part of a source: rows from `top` to before `bottom`, columns likewise, counted on over the seam."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class Sampler:
    """Values of a `source` grid at the pixels of a `target` grid of the same body, by one of three methods.

    They are "nearest", "bilinear" and "average"; of what a value is made from, a share of `min_valid` must be finite.
    """

    source: GeoBox
    target: GeoBox
    method: str
    min_valid: float

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        grids = grid_token(self.source), grid_token(self.target)
        return (type(self).__qualname__, *grids, self.method, self.min_valid)

    @cached_property
    def parts(self) -> int:
        """Points along a side of a target pixel: half a source pixel apart at most, an edge is off by a quarter."""
        if self.method != "average":
            return 1
        ratio = pixel_size(self.target) / pixel_size(self.source)
        return min(MAX_PARTS, max(1, math.ceil(2 * ratio)))

    @cached_property
    def _crs(self) -> tuple[Any, Any]:
        return require_body(self.target.crs, BODIES), require_body(self.source.crs, BODIES)

    @cached_property
    def _whole(self) -> Any:
        """All of the source, and how it closes on itself."""
        from lunarray.geo.resample_kernels import Part

        return Part(0, 0, *self.source.shape, **closure_of(self.source)._asdict())

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        """Sides of cells; none is larger than 45°, so that its nodes are less than half a turn apart."""
        limit = math.pi / 4 * radius_of(self.target.crs) / pixel_size(self.target) * self.parts
        return tuple(size for size in _SIZES if size <= limit)

    # --- positions --------------------------------------------------------------------------------

    def positions(
        self, row: np.ndarray, column: np.ndarray, through_places: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fractional pixel positions in the source of those in the target, on any turn; NaN where there are none."""
        (a, b), affine, inverse = self._crs, self.target.transform, ~self.source.transform
        x, y = affine.a * column + affine.c, affine.e * row + affine.f
        if a != b or through_places:
            lon, lat = to_lonlat(a, x, y)
            if a.is_geographic:
                # Rounding may put the pole a little beyond itself.
                lat = np.where(np.abs(lat) <= 90 + 1e-9, np.clip(lat, -90, 90), np.nan)
            x, y = from_lonlat(b, lon, lat)
        with np.errstate(invalid="ignore"):
            r, c = inverse.e * y + inverse.f, inverse.a * x + inverse.c
        good = np.isfinite(r) & np.isfinite(c)
        return np.where(good, r, np.nan), np.where(good, c, np.nan)

    def _near(self, column: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Columns on the turn on which they are nearest to another."""
        turn = self._whole.turn
        return column - turn * np.round((column - reference) / turn) if turn else column

    def places(self, rows: tuple[int, int], columns: tuple[int, int]) -> Any:
        """Positions of a block of the target: cells, and points where no polynomial will do."""
        from lunarray.geo.resample_kernels import Places

        n = self.parts
        low = np.array([rows[0], columns[0]]) * n
        high = np.array([rows[1], columns[1]]) * n
        cells, nodes = [np.empty((0, 3), np.int64)], [np.empty((0, 2, 3, 3))]
        if not self._sizes:
            return Places(cells[0], nodes[0], *self._points(_mesh(low, high, 1), n))
        todo = _mesh(low // self._sizes[0] * self._sizes[0], high, self._sizes[0])
        for size in self._sizes:
            at = (todo[:, None] + size * np.concatenate([_NODES, _CHECKS])) / n
            r, c = self.positions(at[..., 0], at[..., 1])
            values = np.stack([r, self._near(c, c[:, 4:5])], axis=1)
            error = np.abs(values[..., :9] @ _WEIGHTS - values[..., 9:]).max(axis=(1, 2))
            good = error <= _TOLERANCE
            kept = good & ~self._far(values)
            cells.append(np.column_stack([todo[kept], np.full(kept.sum(), size)]))
            nodes.append(values[kept, :, :9].reshape(-1, 2, 3, 3))
            # Where the projection ends, a part of what has no position at any node may have one.
            lost = np.isnan(values).all(axis=(1, 2)) if size == _SIZES[-1] else False
            todo = todo[~good & ~self._far(values) & ~np.asarray(lost)]
            finer = size // 4 if size > _SIZES[-1] else 1
            children = _mesh((0, 0), (size, size), finer)
            todo = (todo[:, None] + children).reshape(-1, 2)
            todo = todo[((todo < high) & (todo + finer > low)).all(axis=1)]
        return Places(np.concatenate(cells), np.concatenate(nodes), *self._points(todo, n))

    def _points(self, at: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        places = self.positions((at[:, 0] + 0.5) / n, (at[:, 1] + 0.5) / n)
        return at, np.stack(places, axis=1)

    def _far(self, values: np.ndarray) -> np.ndarray:
        """Cells that lie nowhere near the source, by as much again as they reach."""
        out = np.zeros(len(values), bool)
        for axis, size in enumerate(self.source.shape):
            if axis and self._whole.turn:
                continue
            known = np.isfinite(values[:, axis])
            least = np.where(known, values[:, axis], np.inf).min(axis=1)
            most = np.where(known, values[:, axis], -np.inf).max(axis=1)
            with np.errstate(invalid="ignore"):
                reach = most - least + 2
                out |= known.any(axis=1) & ((least - reach > size) | (most + reach < 0))
        return out

    # --- what is needed ---------------------------------------------------------------------------

    def windows(
        self, rows: Sequence[int], columns: Sequence[int]
    ) -> Iterator[tuple[tuple[int, int], Window]]:
        """Number of each block of the target that needs any, and the part of the source that it may need; never less.

        `rows` and `columns` are where the blocks begin, and where the last ends.
        """
        (low_r, high_r), (low_c, high_c) = self._reach()
        i = [k for k in range(len(rows) - 1) if rows[k] <= high_r and rows[k + 1] >= low_r]
        j = [k for k in range(len(columns) - 1) if columns[k] <= high_c and columns[k + 1] >= low_c]
        blocks = np.array([(a, b) for a in i for b in j], np.int64).reshape(-1, 2)
        edges = np.asarray(rows), np.asarray(columns)
        share = np.linspace(0.0, 1.0, _SPREAD)
        for some in np.array_split(blocks, max(1, math.ceil(len(blocks) / 4096))):
            spread = []
            for axis in (0, 1):
                first, last = edges[axis][some[:, axis]], edges[axis][some[:, axis] + 1]
                spread.append(first[:, None] + (last - first)[:, None] * share)
            r = np.repeat(spread[0][:, :, None], _SPREAD, axis=2)
            c = np.repeat(spread[1][:, None, :], _SPREAD, axis=1)
            for index, row, column in zip(some, *self.positions(r, c), strict=True):
                window = self._window(row, column)
                if window is not None:
                    yield (int(index[0]), int(index[1])), window

    def _window(self, row: np.ndarray, column: np.ndarray) -> Window | None:
        known = np.isfinite(row)
        if not known.any():
            return None
        whole = self._whole
        height, width = self.source.shape
        least, most = _range(row, known)
        top, bottom = max(math.floor(least) - 2, 0), min(math.ceil(most) + 2, height)
        if top >= bottom:
            return None
        pole = (whole.over_top and top == 0) or (whole.over_bottom and bottom == height)
        middle = column[known][known.sum() // 2]
        column = self._near(column, middle)
        least, most = _range(column, known)
        if whole.turn and (pole or most - least > 0.45 * whole.turn):
            return Window(top, bottom, 0, width)
        left, right = math.floor(least) - 2, math.ceil(most) + 2
        if whole.around:
            if right - left >= width:
                return Window(top, bottom, 0, width)
            shift = left // width * width
            return Window(top, bottom, left - shift, right - shift)
        # A source of less than a turn may hold the end of the window, or its beginning a turn on.
        first = whole.turn * (left // whole.turn) if whole.turn else 0.0
        ends = [
            (max(math.floor(left - back), 0), min(math.ceil(right - back), width))
            for back in ((first, first + whole.turn) if whole.turn else (0.0,))
        ]
        ends = [(a, b) for a, b in ends if a < b]
        if not ends:
            return None
        return Window(top, bottom, min(a for a, _ in ends), max(b for _, b in ends))

    def _reach(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Rows and columns of the target outside of which the source has no pixel; never too few."""
        other = Sampler(self.target, self.source, "nearest", 1.0)
        itself = Sampler(self.target, self.target, "nearest", 1.0)
        everything = ((-math.inf, math.inf),) * 2
        # Where the target reaches beyond its projection, PROJ gives places a second time.
        row, column = _lattice(self.target.shape)
        r, c = itself.positions(row, column, through_places=True)
        if not np.allclose([r, itself._near(c, column)], [row, column], rtol=0.0, atol=1e-3):
            return everything
        r, c = other.positions(*_lattice(self.source.shape))
        known = np.isfinite(r)
        turn = other._whole.turn
        if not known.all() or (turn and self._whole.around):
            return everything
        c = other._near(c, c[8, 8])
        rows, columns = _range(r, known), _range(c, known)
        if turn:
            # On whichever turn the target has it.
            if columns[1] - columns[0] > 0.45 * turn:
                return rows, everything[1]
            last = self.target.shape[1] + 2
            turns = [
                k
                for k in range(-2, 3)
                if columns[1] + k * turn >= -2 and columns[0] + k * turn <= last
            ]
            if not turns:
                return rows, (math.inf, -math.inf)
            columns = columns[0] + turns[0] * turn, columns[1] + turns[-1] * turn
        return rows, columns

    # --- values -----------------------------------------------------------------------------------

    def part(self, window: Window, blocks: Sequence[tuple[int, int, np.ndarray]]) -> np.ndarray:
        """A part of the source put together from blocks, each with its first row and column."""
        top, bottom, left, right = window
        width = self.source.shape[1]
        first = blocks[0][2]
        if len(blocks) == 1 and self._covers(window, blocks[0]):
            row, column, block = blocks[0]
            return block[..., top - row : bottom - row, left - column : right - column]
        out = np.zeros((*first.shape[:-2], bottom - top, right - left), first.dtype)
        for row, column, block in blocks:
            a, b = max(row, top), min(row + block.shape[-2], bottom)
            for start in (column, column + width) if right > width else (column,):
                c, d = max(start, left), min(start + block.shape[-1], right)
                if a < b and c < d:
                    out[..., a - top : b - top, c - left : d - left] = block[
                        ..., a - row : b - row, c - start : d - start
                    ]
        return out

    @staticmethod
    def _covers(window: Window, block: tuple[int, int, np.ndarray]) -> bool:
        row, column, data = block
        return (
            row <= window.top
            and column <= window.left
            and row + data.shape[-2] >= window.bottom
            and column + data.shape[-1] >= window.right
        )

    def sample(
        self,
        data: np.ndarray,
        window: Window | None,
        rows: tuple[int, int],
        columns: tuple[int, int],
    ) -> np.ndarray:
        """Some of the target, rows and columns [first, last), from a part (..., rows, columns) of the source.

        `window` is where that lies; by default it is all. Of the type of `data` (whole numbers by the nearest pixel
        only), with :func:`fill_of` where there is none.
        """
        shape = (rows[1] - rows[0], columns[1] - columns[0])
        fill = fill_of(data.dtype)
        out = np.empty((*data.shape[:-2], *shape), data.dtype.newbyteorder("="))
        # One kind of array for each type: each kind more is compiled anew.
        data = np.ascontiguousarray(data, data.dtype.newbyteorder("="))
        part = self._whole
        if window is not None:
            part = part._replace(top=window.top, left=window.left)
        side = max(16, _TILE // self.parts)
        for row in range(rows[0], rows[1], side):
            for column in range(columns[0], columns[1], side):
                last = min(row + side, rows[1]), min(column + side, columns[1])
                where = self.places((row, last[0]), (column, last[1]))
                there = (
                    slice(row - rows[0], last[0] - rows[0]),
                    slice(column - columns[0], last[1] - columns[0]),
                )
                for lead in np.ndindex(*data.shape[:-2]):
                    tile = np.full((last[0] - row, last[1] - column), out.dtype.type(fill))
                    self._fill(data[lead], part, where, (row, column), tile)
                    out[lead][there] = tile
        return out

    def _fill(self, source: np.ndarray, part: Any, where: Any, origin: Any, out: Any) -> None:
        from lunarray.geo import resample_kernels as kernels

        if self.method == "nearest":
            kernels.sample_nearest(source, part, where, origin, out)
        elif self.method == "bilinear":
            kernels.sample_bilinear(source, part, where, origin, self.min_valid, out)
        else:
            total, count = np.zeros(out.shape), np.zeros(out.shape, np.int64)
            kernels.sample_average(source, part, where, origin, self.parts, total, count)
            enough = (count > 0) & (count >= self.min_valid * self.parts**2 - 1e-9)
            out[enough] = total[enough] / count[enough]


def fill_of(dtype: Any) -> Any:
    """What stands for no data: NaN, of unsigned numbers the largest, of others -1, False."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return np.nan
    return {"b": False, "i": -1}.get(dtype.kind) if dtype.kind in "bi" else np.iinfo(dtype).max


def sampler_of(source: GeoBox, target: GeoBox, method: str, min_valid: float) -> Sampler:
    """Sampler for a method, of which "auto" averages what is finer than the target by a third or more."""
    ratio = pixel_size(target) / pixel_size(source)
    if method == "auto":
        method = "average" if ratio >= 4 / 3 else "bilinear"
    if method == "bilinear" and _same_lattice(source, target):
        method = "nearest"
    return Sampler(source, target, method, float(min_valid))


def _same_lattice(source: GeoBox, target: GeoBox) -> bool:
    if require_body(source.crs, BODIES) != require_body(target.crs, BODIES):
        return False
    relative = ~source.transform * target.transform
    offsets = (relative.c, relative.f)
    return (
        abs(relative.a - 1) * max(target.shape) < 1e-3
        and abs(relative.e - 1) * max(target.shape) < 1e-3
        and all(abs(v - round(v)) < 1e-3 for v in offsets)
    )


def _mesh(low: Any, high: Any, step: int) -> np.ndarray:
    """Rows and columns from `low` to before `high`, (number, 2)."""
    r, c = np.arange(low[0], high[0], step), np.arange(low[1], high[1], step)
    return np.stack(np.meshgrid(r, c, indexing="ij"), -1).reshape(-1, 2)


def _lattice(shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of places spread over a grid, its edges among them."""
    row, column = np.meshgrid(*(np.linspace(0, size, 17) for size in shape), indexing="ij")
    return row, column


def _range(values: np.ndarray, known: np.ndarray) -> tuple[float, float]:
    """Least and most that values on a lattice reach, with what they may bulge between its nodes."""
    order = 2 if known.all() else 1
    with np.errstate(invalid="ignore"):
        bulge = max(
            float(np.nanmax(np.abs(np.diff(values, order, axis=axis)), initial=0.0))
            for axis in (0, 1)
        )
    if not known.all() and bulge == 0.0:
        bulge = math.inf
    return float(values[known].min()) - bulge, float(values[known].max()) + bulge
