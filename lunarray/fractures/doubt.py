"""People in the loop: the tiles that a model is least sure of, to label in QGIS, and the labels read back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError, require_number
from lunarray.fractures.ground import box_of
from lunarray.fractures.labels import weak_labels
from lunarray.fractures.layers import each_block
from lunarray.geo import BODIES, read_vectors, require_body, spatial_dims

if TYPE_CHECKING:
    import geopandas

#: Layers of the file: what to look at, and what is drawn.
TILES, LINES = "tiles", "lines"


def doubtful(
    probability: xr.DataArray, *, tile: int = 512, count: int = 50
) -> geopandas.GeoDataFrame:
    """Rank the tiles of a map of probabilities by how unsure they are.

    `probability` (y, x): of a georeferenced image, NaN without data; `tile`: side in pixels; `count`: tiles at most.
    Returns in the map's CRS, the most doubtful first: ``rank``; ``doubt``, the entropy of its pixels together over
    the pixels of a whole tile (bits a pixel); ``found``, the share of pixels at 0.5 or more; ``row``, ``column`` of
    its first pixel, ``size``; ``done``, 0, to be set to 1 where a tile is labelled that has no fracture. InputError
    if there is no tile with data.
    """
    import geopandas as gpd
    import shapely

    require_number("tile", tile, 1, whole=True)
    require_number("count", count, 1, whole=True)
    if not isinstance(probability, xr.DataArray):
        raise InputError(
            f"a {type(probability).__name__}",
            where="probability",
            remedy="Give the variable probability of what map_fractures gives",
        )
    if probability.ndim != 2 or probability.dtype.kind != "f":
        raise InputError(
            f"{probability.dtype} on {', '.join(map(str, probability.dims))}",
            where="probability",
            remedy="Give real numbers from 0 to 1 on (y, x), of one map",
        )
    box = box_of(probability, "tiles to label")
    data = probability.transpose(*(spatial_dims(probability) or ())).data
    shape = tuple(-(-n // tile) for n in data.shape)
    sums = np.zeros((3, *shape))
    for part, (rows, columns) in each_block(_doubt_of_block, data, tile=tile):
        sums[:, rows, columns] += part
    doubt, found, valid = (a.ravel() for a in sums)
    order = np.argsort(-doubt, kind="stable")
    order = order[valid[order] > 0][:count]
    if not order.size:
        raise InputError("no pixel has data", where="probability", remedy="Give a map with data")
    row, column = (a * tile for a in np.unravel_index(order, shape))
    left, top = (row_column * 1.0 for row_column in (column, row))
    right, bottom = np.minimum(left + tile, data.shape[1]), np.minimum(top + tile, data.shape[0])
    at = box.transform
    x0, x1, y0, y1 = (
        at.a * left + at.c,
        at.a * right + at.c,
        at.e * top + at.f,
        at.e * bottom + at.f,
    )
    return gpd.GeoDataFrame(
        {
            "rank": np.arange(1, order.size + 1),
            "doubt": doubt[order] / tile**2,
            "found": found[order] / valid[order],
            "row": row,
            "column": column,
            "size": tile,
            "done": 0,
        },
        geometry=shapely.box(np.minimum(x0, x1), np.minimum(y0, y1), np.maximum(x0, x1), np.maximum(y0, y1)),
        crs=require_body(box.crs, BODIES).to_wkt(),
    )  # fmt: skip


def _doubt_of_block(row: int, column: int, block: np.ndarray, *, tile: int) -> Any:
    """Entropy, detections and pixels of a block by tile, and which tiles these are."""
    p = np.asarray(block, np.float64)
    good = np.isfinite(p)
    if ((p < 0) | (p > 1))[good].any():
        raise InputError(
            "numbers below 0 or above 1",
            where="probability",
            remedy="Give probabilities: the variable probability of what map_fractures gives",
        )
    p = np.where(good, np.clip(p, 1e-9, 1 - 1e-9), 0.5)
    entropy = np.where(good, -(p * np.log2(p) + (1 - p) * np.log2(1 - p)), 0.0)
    spans, starts = [], []
    for first, length in zip((row, column), block.shape, strict=True):
        begin, end = first // tile, (first + length - 1) // tile + 1
        spans.append(slice(begin, end))
        starts.append(np.maximum(np.arange(begin, end) * tile - first, 0))
    layers = np.stack([entropy, (good & (p >= 0.5)).astype(float), good.astype(float)])
    part = np.add.reduceat(np.add.reduceat(layers, starts[0], axis=1), starts[1], axis=2)
    return part, tuple(spans)


def write_doubtful(tiles: geopandas.GeoDataFrame, path: str | os.PathLike[str]) -> Path:
    """Write tiles to label as a GeoPackage: ``tiles``, and ``lines``, empty, to draw fractures in.

    A line's ``width`` is a class (tiny, small, medium, large, huge), as :func:`weak_labels` takes it.
    """
    import geopandas as gpd

    path = Path(path)
    if path.suffix.lower() != ".gpkg":
        raise InputError(
            f"layers to draw in are not written as {path.suffix or 'a file without suffix'}",
            where=path,
            remedy="Use .gpkg",
        )
    tiles.to_file(path, layer=TILES, driver="GPKG")
    lines = gpd.GeoDataFrame({"width": np.array([], str)}, geometry=[], crs=tiles.crs)
    lines.to_file(path, layer=LINES, driver="GPKG", geometry_type="LineString")
    return path


def _layers(path: str | os.PathLike[str]) -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]:
    """Tiles and lines of a file; tiles that people added are not known by row and column, and left out."""
    import geopandas as gpd
    import pyogrio

    try:
        there = {name for name, _ in pyogrio.list_layers(path)}
        if not {TILES, LINES} <= there:
            raise InputError(
                f"layers {', '.join(sorted(there)) or 'none'}, not {TILES} and {LINES}",
                where=os.fspath(path),
                remedy="Give what write_doubtful or `lunarray fractures doubtful` wrote",
            )
        tiles, lines = (gpd.read_file(path, layer=layer) for layer in (TILES, LINES))
    except pyogrio.errors.DataSourceError as error:
        raise InputError(
            f"the file cannot be read ({error})", where=os.fspath(path), remedy="Check the path"
        ) from error
    wanted = ["row", "column", "size", "done"]
    if missing := [name for name in wanted if name not in tiles]:
        raise InputError(
            f"no column {', '.join(missing)} in the layer {TILES}",
            where=os.fspath(path),
            remedy="Give what write_doubtful wrote, with its columns",
        )
    if lines.crs is None and len(lines):
        lines = lines.set_crs(tiles.crs)
    return tiles[tiles[wanted[:3]].notna().all(axis=1)], lines


def _check_grid(tiles: geopandas.GeoDataFrame, image: xr.DataArray, path: str) -> None:
    """GridError unless tiles lie on an image where their rows and columns say."""
    box = box_of(image, "placing labels")
    at = box.transform
    x, y = at.a * tiles["column"] + at.c, at.e * tiles["row"] + at.f
    bounds = tiles.to_crs(require_body(box.crs, BODIES).to_wkt()).bounds
    off = [
        np.minimum(abs(bounds[f"min{name}"] - value), abs(bounds[f"max{name}"] - value)) / abs(step)
        for name, value, step in (("x", x, at.a), ("y", y, at.e))
    ]
    rows, columns = (image.sizes[d] for d in spatial_dims(image) or image.dims)
    beyond = (tiles["row"] >= rows) | (tiles["column"] >= columns)
    if beyond.any() or (np.maximum(*off) > 0.5).any():
        raise GridError(
            "the tiles lie elsewhere on this image than on the map that they are of",
            where=path,
            remedy="Give the image that map_fractures had, on the same grid",
        )


def drawn_labels(path: str | os.PathLike[str], image: xr.DataArray) -> xr.DataArray:
    """Read back what was drawn: labels on the grid of an image, in touched tiles only.

    `path`: what :func:`write_doubtful` wrote, and a person drew in; `image` (y, x). A tile counts where a line lies in
    it or its ``done`` is 1. Returns labels as of :func:`weak_labels`, 255 elsewhere; attribute ``tiles``, how many
    count. InputError if none does, or the file is another; GridError if the image is on another grid than the map was;
    BodyMismatchError if lines lie on another body.
    """
    import pandas as pd

    if not isinstance(image, xr.DataArray):
        raise InputError(f"a {type(image).__name__}", where="image", remedy="Give a DataArray")
    tiles, lines = _layers(path)
    _check_grid(tiles, image, os.fspath(path))
    drawn = lines[lines.geometry.notna() & ~lines.geometry.is_empty]
    here = pd.to_numeric(tiles["done"], errors="coerce").fillna(0).to_numpy() == 1
    if len(drawn):
        drawn = read_vectors(drawn, where=os.fspath(path))
        if "width" not in drawn:
            drawn = drawn.assign(width="")
        drawn = drawn.assign(width=drawn["width"].fillna("tiny").replace("", "tiny"))
        here |= tiles.geometry.intersects(drawn.to_crs(tiles.crs).geometry.union_all()).to_numpy()
    if not here.any():
        raise InputError(
            "no tile is touched: no line lies in one, and none is done",
            where=path,
            remedy=f"Draw in the layer {LINES}, or set done to 1 in the layer {TILES} where there is no fracture",
        )
    labels: xr.DataArray
    if len(drawn):
        labels = weak_labels(drawn, image)
    else:
        empty = xr.zeros_like(image, dtype=np.uint8)
        labels = empty.where(np.isfinite(image), 255).astype(np.uint8).rename("label")
    touched = np.zeros(image.shape, bool)
    for row, column, size in tiles.loc[here, ["row", "column", "size"]].to_numpy(int):
        touched[row : row + size, column : column + size] = True
    told = xr.DataArray(touched, dims=labels.dims)
    if labels.chunks is not None:
        told = told.chunk(dict(zip(labels.dims, labels.chunks, strict=True)))
    kept = labels.where(told, 255).astype(np.uint8)
    return kept.assign_attrs(labels.attrs, tiles=int(here.sum()))
