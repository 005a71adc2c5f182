"""Detection at several scales: what is too wide and too soft at an image's own is seen when it is smaller."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import dask.array as da
import numpy as np

from lunarray.errors import InputError

#: Coarsest scale: one pixel of it is as wide as this many.
_COARSEST = 16


def check_scales(scales: Sequence[float]) -> tuple[int, ...]:
    """Pixels of the image to a pixel of each scale, finest first: (1, 2, 4) of (1, 0.5, 0.25)."""
    try:
        given = tuple(float(s) for s in scales)
        factors = tuple(sorted({round(1 / s) for s in given}))
        good = bool(given) and all(
            abs(round(1 / s) * s - 1) < 0.02 and 1 <= round(1 / s) <= _COARSEST for s in given
        )
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        good = False
    if not good:
        raise InputError(
            f"scales {scales!r}",
            where="scales",
            remedy=f"Give some of 1, 1/2, 1/3 … 1/{_COARSEST}, such as (1, 0.5, 0.25)",
        )
    return factors


def at_scales(
    values: Any, factors: Sequence[int], detect: Callable[[Any], Any], margin: float = 0.0
) -> Any:
    """Largest probability that is found for each pixel at any scale.

    `values` (y, x) float32: brightness, NaN without data; lazy or not; `factors`: of :func:`check_scales`; `detect`:
    from brightness to probabilities; `margin`: what the logits of coarser scales than 1 are lowered by, for at these
    more of what is found is none. Pixels of a coarse scale are means of the valid pixels in them; its probabilities
    are interpolated between their middles. Returns (y, x) float32, lazy where `values` is, NaN without data.
    """

    def at(factor: int) -> Any:
        if factor == 1:
            return detect(values)
        return _finer(_lowered(detect(_coarser(values, factor)), margin), values, factor)

    return largest(at(factor) for factor in factors)


def largest(found: Iterable[Any]) -> Any:
    """Largest of some probabilities (y, x), pixel by pixel; NaN only where all are."""
    return functools.reduce(_larger, found)


def _lowered(found: Any, margin: float) -> Any:
    """Probabilities whose logits are less by a margin."""
    return found if margin == 0 else found / (found + (1 - found) * np.float32(np.exp(margin)))


def _larger(a: Any, b: Any) -> Any:
    if isinstance(a, da.Array):
        return da.map_blocks(np.fmax, a, b, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    return np.fmax(a, b)


def _coarser(values: Any, factor: int) -> Any:
    if not isinstance(values, da.Array):
        return _means(np.asarray(values), factor)
    # Blocks that hold whole coarse pixels; the last ones may end within one.
    chunks = tuple(_multiples(sizes, factor) for sizes in values.chunks)
    return da.map_blocks(
        _means,
        values.rechunk(chunks),
        factor,
        chunks=tuple(tuple(-(-n // factor) for n in sizes) for sizes in chunks),
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
    )


def _multiples(sizes: Sequence[int], factor: int) -> tuple[int, ...]:
    """Chunks of about the same sizes whose borders are multiples of a number."""
    ends = np.cumsum(sizes)
    borders = np.unique([0, *(np.round(ends[:-1] / factor).astype(int) * factor), ends[-1]])
    return tuple(int(n) for n in np.diff(borders[borders <= ends[-1]]))


def _means(block: np.ndarray, factor: int) -> np.ndarray:
    """Means of the valid pixels of squares, NaN where there are none."""
    rows, columns = (-(-n // factor) for n in block.shape)
    padded = np.full((rows * factor, columns * factor), np.nan, np.float32)
    padded[: block.shape[0], : block.shape[1]] = block
    squares = padded.reshape(rows, factor, columns, factor)
    good = np.isfinite(squares)
    count = good.sum(axis=(1, 3))
    total = np.where(good, squares, 0).sum(axis=(1, 3), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return (total / np.where(count, count, np.nan)).astype(np.float32)


def _finer(found: Any, values: Any, factor: int) -> Any:
    """Probabilities of a coarse scale for each pixel of the image that has data."""
    if not isinstance(values, da.Array):
        return _interpolated(np.asarray(found), (0, 0), np.asarray(values), (0, 0), factor)
    from lunarray.engine.graph import Block, assemble

    below = [np.concatenate([[0], np.cumsum(c)]).astype(int).tolist() for c in found.chunks]
    above = [np.concatenate([[0], np.cumsum(c)]).astype(int).tolist() for c in values.chunks]

    def under(index: tuple[int, ...]) -> list[Any]:
        spans, numbers = [], []
        for axis, n in enumerate(index):
            # A coarse pixel more to each side, to interpolate with.
            start = max(above[axis][n] // factor - 1, 0)
            stop = min(-(-above[axis][n + 1] // factor) + 1, below[axis][-1])
            spans.append((start, stop))
            edges = below[axis]
            numbers.append([k for k in range(len(edges) - 1) if edges[k] < stop and edges[k + 1] > start])  # fmt: skip
        places = [(p, q) for p in numbers[0] for q in numbers[1]]
        origins = [(below[0][p], below[1][q]) for p, q in places]
        return [
            spans, origins, [Block(found, place) for place in places],
            Block(values, index), (above[0][index[0]], above[1][index[1]]), factor,
        ]  # fmt: skip

    return assemble(
        _from_blocks,
        values.chunks,
        needs=under,
        dtype=np.float32,
        name="fracture-finer",
        token=(found.name, values.name, factor),
    )


def _from_blocks(
    spans: Sequence[tuple[int, int]],
    origins: Sequence[tuple[int, int]],
    blocks: Sequence[np.ndarray],
    values: np.ndarray,
    origin: tuple[int, int],
    factor: int,
) -> np.ndarray:
    (top, low), (left, right) = spans
    coarse = np.full((low - top, right - left), np.nan, np.float32)
    for (row, column), block in zip(origins, blocks, strict=True):
        a0, a1 = max(row, top), min(row + block.shape[0], low)
        b0, b1 = max(column, left), min(column + block.shape[1], right)
        coarse[a0 - top : a1 - top, b0 - left : b1 - left] = block[
            a0 - row : a1 - row, b0 - column : b1 - column
        ]
    return _interpolated(coarse, (top, left), values, origin, factor)


def _interpolated(
    coarse: np.ndarray,
    coarse_origin: tuple[int, int],
    values: np.ndarray,
    origin: tuple[int, int],
    factor: int,
) -> np.ndarray:
    """Bilinear between the middles of coarse pixels that are valid; those beyond the edge are their neighbours."""
    good = np.isfinite(coarse)
    layers = [np.where(good, coarse, 0).astype(np.float64), good.astype(np.float64)]
    for axis in (0, 1):
        at = (np.arange(values.shape[axis]) + origin[axis] + 0.5) / factor - 0.5 - coarse_origin[axis]  # fmt: skip
        low = np.floor(at).astype(int)
        share = at - low
        last = coarse.shape[axis] - 1
        first, second = np.clip(low, 0, last), np.clip(low + 1, 0, last)
        shape = (-1, 1) if axis == 0 else (1, -1)
        layers = [
            np.take(a, first, axis) * (1 - share).reshape(shape)
            + np.take(a, second, axis) * share.reshape(shape)
            for a in layers
        ]
    with np.errstate(invalid="ignore", divide="ignore"):
        result = (layers[0] / layers[1]).astype(np.float32)
    result[~np.isfinite(values)] = np.nan
    return result
