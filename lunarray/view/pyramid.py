"""A map at every scale: read where it is looked at, in the size in which it is looked at.

Each level halves the one before it. The first ones are made of the pixels in view, whenever these are looked at. From
the third on, all of a map would have to be read for a look at it from afar: that is done once, in the background where
the map is large, and what was read so far is shown meanwhile.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.view.cache import Blocks, Files
from lunarray.view.kernels import add_up, pick

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

# Pyramids are told apart by number: an id is given again when its object is gone, and blocks outlive their pyramid.
_numbers = itertools.count()
#: The first level that is made of the whole map.
FIRST = 3
#: Pixels of a map whose overviews are made while one waits.
SMALL = 2**24
# Pixels of a block of the array that is read whole, and the side of others.
_WHOLE, _SIDE = 2**25, 2048
# Pixels along the longer side of the last level, and of the blocks of the first ones.
_LAST, _COARSE = 32, 512


class Pyramid:
    """A map and its overviews.

    Parameters
    ----------
    data : array (rows, columns)
        NumPy or Dask.
    box : GeoBox
        Its grid.
    flags : bool
        Whether values are names of something, of which there is no mean.
    blocks : Blocks
        Where blocks are kept.
    files : Files
        Where overviews of large maps are kept.
    token : str, optional
        Names what the map holds, for overviews that are kept from one session to the next.
    smaller : sequence of (array, GeoBox)
        Overviews that a large map has already, each half of the one before.
    """

    def __init__(
        self,
        data: Any,
        box: GeoBox,
        *,
        flags: bool,
        blocks: Blocks,
        files: Files,
        token: str | None = None,
        smaller: Sequence[tuple[Any, GeoBox]] = (),
    ) -> None:
        self.data, self.box, self.flags, self.token = data, box, flags, token
        self._blocks, self._files, self._number = blocks, files, next(_numbers)
        rows, columns = (int(n) for n in box.shape)
        self.shape = rows, columns
        self.levels = max(0, math.ceil(math.log2(max(rows, columns) / _LAST)))
        self._edges = _edges(data, self.shape)
        self._overviews: list[np.ndarray] = []
        self._sums: tuple[np.ndarray, np.ndarray] | None = None
        self._lock = threading.Lock()
        self._begun, self._done, self._closed = False, 0, False
        #: Why overviews could not be made.
        self.fault: Exception | None = None
        self._smaller: Pyramid | None = None
        if smaller and rows * columns > SMALL:
            (first, half), *others = smaller
            self._smaller = Pyramid(
                first, half, flags=flags, blocks=blocks, files=files, smaller=others
            )

    # --- scale ------------------------------------------------------------------------------------

    def level_box(self, level: int) -> GeoBox:
        """The grid of a level; its last row and column may reach over the edge of the map."""
        from affine import Affine
        from odc.geo.geobox import GeoBox

        if level and self._smaller is not None:
            return self._smaller.level_box(level - 1)
        factor = 2**level
        shape = tuple(-(-n // factor) for n in self.shape)
        return GeoBox(shape, self.box.transform * Affine.scale(factor), self.box.crs)

    @property
    def unfinished(self) -> bool:
        """Whether what is seen from afar is not all there yet."""
        if self._smaller is not None:
            return self._smaller.unfinished
        return self._begun and self._sums is not None

    @property
    def progress(self) -> float:
        """Share of the map that overviews are made of: 1 where they are made, or none are needed yet."""
        if self._smaller is not None:
            return self._smaller.progress
        if not self.unfinished:
            return 1.0
        total = (len(self._edges[0]) - 1) * (len(self._edges[1]) - 1)
        return min(self._done / total, 0.999)

    # --- reading ----------------------------------------------------------------------------------

    def read(self, level: int, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """Pixels (rows, columns) float32 of a level; beyond its last column the first follow."""
        if level and self._smaller is not None:
            return self._smaller.read(level - 1, top, bottom, left, right)
        width = -(-self.shape[1] // 2**level)
        if right > width:
            parts = [(left, width), (0, right - width)]
            return np.concatenate([self._part(level, top, bottom, a, b) for a, b in parts], axis=1)
        return self._part(level, top, bottom, left, right)

    def _part(self, level: int, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        if level >= FIRST:
            return self._overview(level, top, bottom, left, right)
        edges = self._edges if level == 0 else tuple(_regular(n, 2**level) for n in self.shape)
        out = np.full((bottom - top, right - left), np.nan, np.float32)
        spans = []
        for low, high, edge in ((top, bottom, edges[0]), (left, right, edges[1])):
            first = int(np.searchsorted(edge, low, side="right")) - 1
            spans.append(range(max(first, 0), int(np.searchsorted(edge, high, side="left"))))
        for i in spans[0]:
            for j in spans[1]:
                block = self._block(level, i, j, edges)
                row, column = int(edges[0][i]), int(edges[1][j])
                a, b = max(row, top), min(row + block.shape[0], bottom)
                c, d = max(column, left), min(column + block.shape[1], right)
                if a < b and c < d:
                    out[a - top : b - top, c - left : d - left] = block[
                        a - row : b - row, c - column : d - column
                    ]
        return out

    def _block(self, level: int, i: int, j: int, edges: Any) -> np.ndarray:
        rows = int(edges[0][i]), int(edges[0][i + 1])
        columns = int(edges[1][j]), int(edges[1][j + 1])
        if level == 0:
            return self._blocks.get((self._number, 0, i, j), lambda: self._load(rows, columns))

        def make() -> np.ndarray:
            factor = 2**level
            window = (
                rows[0] * factor, min(rows[1] * factor, self.shape[0]),
                columns[0] * factor, min(columns[1] * factor, self.shape[1]),
            )  # fmt: skip
            return coarsened(self._part(0, *window), factor, self.flags)

        return self._blocks.get((self._number, level, i, j), make)

    def _load(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        part = self.data[rows[0] : rows[1], columns[0] : columns[1]]
        if hasattr(part, "compute"):
            # Here and now: the server has threads of its own.
            part = part.compute(scheduler="synchronous")
        return np.ascontiguousarray(part, np.float32)

    # --- overviews --------------------------------------------------------------------------------

    def _overview(self, level: int, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        self.prepare()
        if self.fault is not None:
            raise self.fault
        sums = self._sums  # until there are overviews
        if sums is None:
            found = self._overviews[level - FIRST]
            return np.ascontiguousarray(found[top:bottom, left:right], np.float32)
        factor = 2 ** (level - FIRST)
        window = (
            slice(top * factor, bottom * factor),
            slice(left * factor, right * factor),
        )
        return coarsened(_mean(sums[0][window], sums[1][window], self.flags), factor, self.flags)

    def prepare(self, wait: bool = False) -> None:
        """Begin to make overviews where there are none; wait for those of a small map, or if told to."""
        if self._smaller is not None:
            return self._smaller.prepare(wait)
        with self._lock:
            begin, self._begun = not self._begun, True
            if begin and not self._kept():
                shape = tuple(-(-n // 2**FIRST) for n in self.shape)
                start = np.nan if self.flags else 0.0
                self._sums = np.full(shape, start, np.float32), np.zeros(shape, np.float32)
                self._making = threading.Thread(target=self._make, daemon=True, name="overviews")
                self._making.start()
        if self._sums is not None and (wait or self.shape[0] * self.shape[1] <= SMALL):
            self._making.join()
            if self.fault is not None:
                raise self.fault

    def close(self) -> None:
        """Stop making overviews."""
        self._closed = True

    def _kept(self) -> bool:
        if self.token is None:
            return False
        found = [self._files.read(self._name(k)) for k in range(FIRST, self.levels + 1)]
        whole = [
            one
            for k, one in enumerate(found, FIRST)
            if one is not None and one.shape == tuple(self.level_box(k).shape)
        ]
        self._overviews = whole if len(whole) == len(found) else []
        return bool(self._overviews)

    def _name(self, level: int) -> str:
        return f"{self.token}-{level}"

    def _make(self) -> None:
        try:
            self._sum_up()
            if not self._closed:
                self._finish()
        except Exception as error:
            self.fault = error

    def _sum_up(self) -> None:
        assert self._sums is not None
        total, count = self._sums
        adding = threading.Lock()
        down, across = (list(itertools.pairwise(map(int, edge))) for edge in self._edges)

        def one(rows: Any, columns: Any) -> None:
            if self._closed:
                return
            block = self._load(rows, columns)
            with adding:
                if self.flags:
                    pick(block, rows[0], columns[0], 2**FIRST, total)
                else:
                    add_up(block, rows[0], columns[0], 2**FIRST, total, count)
                self._done += 1

        # Of a large map, first some blocks all over it: a picture comes soon, and then becomes finer.
        todo = [(r, c) for r in down for c in across]
        order = np.argsort((np.arange(len(todo)) * 0.6180339887) % 1.0, kind="stable")
        with ThreadPoolExecutor(2, thread_name_prefix="overviews") as pool:
            for future in [pool.submit(one, *todo[k]) for k in order]:
                future.result()

    def _finish(self) -> None:
        assert self._sums is not None
        made = [_mean(*self._sums, self.flags)]
        for _ in range(FIRST, self.levels):
            made.append(coarsened(made[-1], 2, self.flags))
        if self.token is not None and self.shape[0] * self.shape[1] > SMALL:
            made = [self._files.write(self._name(k), one) for k, one in enumerate(made, FIRST)]
        self._overviews = made
        self._sums = None


def coarsened(block: np.ndarray, factor: int, flags: bool = False) -> np.ndarray:
    """Means of what is finite in squares of `factor` × `factor` pixels, or of flags the pixel in the middle."""
    if factor == 1:
        return block
    shape = tuple(-(-n // factor) for n in block.shape)
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    block = np.ascontiguousarray(block, np.float32)
    if flags:
        total[:] = np.nan
        pick(block, 0, 0, factor, total)
        return total
    add_up(block, 0, 0, factor, total, count)
    return _mean(total, count, False)


def _mean(total: np.ndarray, count: np.ndarray, flags: bool) -> np.ndarray:
    if flags:
        return total.copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan).astype(np.float32)


def _regular(size: int, factor: int) -> np.ndarray:
    coarse = -(-size // factor)
    return np.append(np.arange(0, coarse, _COARSE), coarse)


def _edges(data: Any, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where the blocks begin that are read at a time: those of the array, unless these are very large."""
    chunks = getattr(data, "chunks", None)
    if chunks is not None and max(chunks[0]) * max(chunks[1]) <= _WHOLE:
        rows, columns = (np.concatenate([[0], np.cumsum(sizes)]) for sizes in chunks)
        return rows, columns
    rows, columns = (np.append(np.arange(0, size, _SIDE), size) for size in shape)
    return rows, columns
