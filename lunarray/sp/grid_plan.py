"""Which observation falls into which block of a map: known from the positions alone, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lunarray.errors import GridError, InputError

if TYPE_CHECKING:
    import xarray as xr
    from odc.geo.geobox import GeoBox

# Size of an output block with all its bands (bytes).
_BLOCK_BYTES = 64 * 2**20


class Piece(NamedTuple):
    """Observations of one input chunk that fall into one output block, in order."""

    chunk: int
    rows: np.ndarray
    slots: np.ndarray


class BlockPlan(NamedTuple):
    """What falls into one output block."""

    shape: tuple[int, int]
    cells: np.ndarray  # flat index of the occupied cells; the slots of the pieces index it
    pieces: list[Piece]


class GridPlan(NamedTuple):
    shape: tuple[int, int]
    chunks: tuple[tuple[int, ...], tuple[int, ...]]
    observations: tuple[int, ...]  # input chunks
    blocks: dict[tuple[int, int], BlockPlan]  # only the blocks with observations
    gridded: int
    outside: int
    token: str

    def shape_of(self, index: tuple[int, ...]) -> tuple[int, int]:
        """Shape of the output block at the end of an index."""
        return self.chunks[0][index[-2]], self.chunks[1][index[-1]]


def observation_chunks(arrays: Mapping[str, xr.DataArray]) -> tuple[int, ...]:
    """Chunks along observation that suit every variable: the union of their boundaries."""
    size = next(iter(arrays.values())).sizes["observation"]
    edges = {0, size}
    for array in arrays.values():
        if array.chunks is not None:
            edges.update(np.cumsum(array.chunks[0]).tolist())
    return tuple(np.diff(sorted(edges)).tolist()) or (0,)


def block_chunks(
    geobox: GeoBox, chunks: Any, pixel_bytes: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    import dask.array as da

    from lunarray.geo import grid_dims

    shape = tuple(geobox.shape)
    if chunks is None:
        # A power of two, so that chunks nest in shards; one block if the result is to be in memory.
        side = (
            max(shape)
            if not pixel_bytes
            else 2 ** int(math.log2(max(16.0, min(2048.0, math.sqrt(_BLOCK_BYTES / pixel_bytes)))))
        )
        chunks = (side, side)
    elif isinstance(chunks, Mapping):
        chunks = tuple(chunks.get(dim, -1) for dim in grid_dims(geobox))
    try:
        return da.core.normalize_chunks(chunks, shape=shape, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"chunks {chunks!r} do not fit a grid of {shape}: {error}",
            where="chunks",
            remedy="Give (y, x)",
        ) from None


def plan_grid(
    geobox: GeoBox,
    lon: np.ndarray,
    lat: np.ndarray,
    observations: tuple[int, ...],
    chunks: tuple[tuple[int, ...], tuple[int, ...]],
) -> GridPlan:
    from dask.base import tokenize

    from lunarray.geo import pixel_of

    rows, columns = np.empty(lon.size, np.int32), np.empty(lon.size, np.int32)
    for first in range(0, lon.size, 2**20):  # projecting makes a dozen temporaries: bound them
        part = slice(first, first + 2**20)
        rows[part], columns[part] = pixel_of(geobox, lon[part], lat[part])
    kept = np.flatnonzero(rows >= 0)
    finite = np.isfinite(lon) & np.isfinite(lat)
    if not kept.size:
        raise GridError(
            _nothing_falls(geobox, lon[finite], lat[finite]),
            where="grid",
            remedy=_remedy(lat[finite]),
        )

    row_edges, column_edges = (np.concatenate([[0], np.cumsum(sizes)]) for sizes in chunks)
    observation_edges = np.concatenate([[0], np.cumsum(observations)])
    rows, columns = rows[kept], columns[kept]
    block, cell = np.empty(kept.size, np.int32), np.empty(kept.size, np.int64)
    widths = np.asarray(chunks[1])
    for first in range(0, kept.size, 2**20):
        part = slice(first, first + 2**20)
        down = np.searchsorted(row_edges, rows[part], side="right") - 1
        right = np.searchsorted(column_edges, columns[part], side="right") - 1
        block[part] = down * len(widths) + right
        cell[part] = (rows[part] - row_edges[down]) * widths[right]
        cell[part] += columns[part] - column_edges[right]
    del rows, columns
    order = np.argsort(block, kind="stable")  # within a block, observations keep their order
    block, cell, kept = block[order], cell[order], kept[order]

    blocks = {}
    starts = np.flatnonzero(np.concatenate([[True], block[1:] != block[:-1]]))
    for start, stop in zip(starts, [*starts[1:], block.size], strict=True):
        row, column = divmod(int(block[start]), len(chunks[1]))
        cells, slots = np.unique(cell[start:stop], return_inverse=True)
        members = kept[start:stop]
        chunk = np.searchsorted(observation_edges, members, side="right") - 1
        cuts = np.flatnonzero(np.concatenate([[True], chunk[1:] != chunk[:-1]]))
        pieces = []
        for begin, end in zip(cuts, [*cuts[1:], chunk.size], strict=True):
            number = int(chunk[begin])
            pieces.append(
                Piece(
                    number,
                    _compact(members[begin:end] - observation_edges[number], observations[number]),
                    _compact(slots[begin:end], cells.size),
                )
            )
        shape = (chunks[0][row], chunks[1][column])
        blocks[row, column] = BlockPlan(shape, _compact(cells, shape[0] * shape[1]), pieces)
    return GridPlan(
        (geobox.shape[0], geobox.shape[1]),
        chunks,
        observations,
        blocks,
        gridded=int(kept.size),
        outside=int(finite.sum() - kept.size),
        token=tokenize(lon, lat, geobox, chunks, observations),
    )


def _compact(indices: np.ndarray, size: int) -> np.ndarray:
    """Indices below `size` in the smallest type: they travel in the graph."""
    return indices.astype(np.min_scalar_type(max(int(size) - 1, 0)))


def _nothing_falls(geobox: GeoBox, lon: np.ndarray, lat: np.ndarray) -> str:
    from lunarray.geo import lonlat

    if not lat.size:
        return "no observation has a finite position"
    height, width = geobox.shape
    # The edge and the middle tell the range of latitudes well enough for a message.
    step = max(1, math.ceil(max(height, width) / 256))
    _, grid_lat = lonlat(geobox.zoom_out(step) if step > 1 else geobox)
    return (
        f"none of {lat.size} observations falls on the grid: they lie at latitudes {lat.min():.2f} to "
        f"{lat.max():.2f} and longitudes {lon.min():.2f} to {lon.max():.2f}, the grid ({geobox.crs}) at latitudes "
        f"{np.nanmin(grid_lat):.2f} to {np.nanmax(grid_lat):.2f}"
    )


def _remedy(lat: np.ndarray) -> str:
    if not lat.size:
        return "Check lon and lat"
    if np.abs(lat).max() > 60.0:
        return 'Grid="north" or "south", with latitude= or bounds= that reach the data'
    return 'Use grid="geographic" or "equirectangular", or latitude= or bounds= that reach the data'
