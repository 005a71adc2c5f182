"""Layers of one grid: whether they are, and block after block of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError


def same_grid(layer: Any, like: Any, name: str, of: str = "the mask or image") -> Any:
    """Insist that a layer lies on the grid of another.

    `layer`, `like`: what to compare: shapes, and coordinates where both have them; `name`, `of`: what to call them.
    Returns `layer`, its dimensions in the order of the other. GridError if it does not.
    """
    remedy = (
        "Give layers on one grid: rasterise with like=image, or resample with like=image "
        "(lunarray.geo.reproject)"
    )
    if isinstance(layer, xr.DataArray) and isinstance(like, xr.DataArray):
        for dim in like.dims:
            if dim not in layer.dims:
                present = ", ".join(map(str, layer.dims))
                raise GridError(f"no dimension {dim}, but {present}", where=name, remedy=remedy)
        layer = layer.transpose(*like.dims, ...)
    if layer.shape != like.shape:
        raise GridError(
            f"shape {tuple(layer.shape)}, while {of} has {tuple(like.shape)}",
            where=name,
            remedy=remedy,
        )
    if not (isinstance(layer, xr.DataArray) and isinstance(like, xr.DataArray)):
        return layer
    for dim in like.dims:
        if dim not in layer.coords or dim not in like.coords or not like.sizes[dim]:
            continue
        a, b = like[dim].values, layer[dim].values
        step = abs(a[-1] - a[0]) / max(a.size - 1, 1) or 1.0
        if np.abs(a - b).max() > 1e-3 * step:
            raise GridError(
                f"{dim} from {b[0]:g} to {b[-1]:g}, while {of} has {a[0]:g} to {a[-1]:g}",
                where=name,
                remedy=remedy,
            )
    return layer


def each_block(function: Callable[..., Any], *layers: Any, **options: Any) -> list[Any]:
    """Call a function with every block of some layers, and keep what it gives.

    `function`: takes row and column of a block's first pixel, the block of each layer, and `options`; `*layers`: of one
    shape, lazy or not; all are cut as the first lazy one is. None is passed on; `**options`: the same for every block.
    Returns row by row of the blocks; of arrays in memory, one. What layers share is computed once.
    """
    lazy = next((a for a in layers if hasattr(a, "dask")), None)
    if lazy is None:
        return [function(0, 0, *(None if a is None else np.asarray(a) for a in layers), **options)]
    import dask.array as da

    arrays = [
        a.rechunk(lazy.chunks) if hasattr(a, "dask") else da.from_array(np.asarray(a), lazy.chunks)
        for a in layers
        if a is not None
    ]
    results = da.map_blocks(
        _one,
        *arrays,
        function=function,
        given=tuple(a is not None for a in layers),
        options=options,
        dtype=object,
        meta=np.empty((0, 0), dtype=object),
        chunks=tuple((1,) * len(sizes) for sizes in lazy.chunks),
    )
    return list(results.compute().ravel())


def _one(
    *blocks: np.ndarray,
    function: Callable[..., Any],
    given: tuple[bool, ...],
    options: dict[str, Any],
    block_info: Any = None,
) -> np.ndarray:
    (row, _), (column, _) = block_info[0]["array-location"]
    rest = iter(blocks)
    out = np.empty((1, 1), dtype=object)
    out[0, 0] = function(row, column, *(next(rest) if g else None for g in given), **options)
    return out
