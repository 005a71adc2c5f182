"""Maps on another grid, chunk by chunk.

Which chunks of the source a chunk of the target needs is decided on the sphere, from points spread over both: neither
the poles nor the ±180° meridian are special there. The pixels themselves are placed by PROJ, as in `grid`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from lunarray.errors import GridError, InputError
from lunarray.geo.crs import moon_crs, period_of
from lunarray.geo.georeference import (
    assign_crs,
    geobox_of,
    grid_coords,
    grid_dims,
    spatial_dims,
)
from lunarray.geo.grid import grid_token, lonlat_block, lunar_grid, pixel_size, project

if TYPE_CHECKING:
    import xarray as xr
    from odc.geo.geobox import GeoBox

T = TypeVar("T", "xr.Dataset", "xr.DataArray")
Method = Literal["auto", "nearest", "bilinear", "average"]

METHODS = ("auto", "nearest", "bilinear", "average")
#: Side of the target's chunks where the source is chunked and none is given.
CHUNK = 512
#: Points along the longer and at least along the shorter side of a chunk by which its place on the sphere is known.
_LATTICE, _LEAST = 33, 5
#: What a parallel bulges beyond the great circle between two of these points, and projections stretch between them.
_SLACK = 1.15
#: Most sub-pixels along a side of a target pixel in an average.
_MAX_SUBPIXELS = 32


def reproject(
    obj: T,
    grid: Any,
    *,
    method: Method = "auto",
    min_valid: float = 0.5,
    chunks: int | tuple[int, int] | None = None,
) -> T:
    """Bring maps onto another lunar grid.

    Parameters
    ----------
    obj : Dataset or DataArray
        Maps with dimensions (y, x) or (lat, lon) and any others before them; of a Dataset, the variables that have
        them. Lunar data with a CRS.
    grid : GeoBox, Dataset, DataArray or str
        Where to: what :func:`lunarray.geo.lunar_grid` takes.
    method : {"auto", "nearest", "bilinear", "average"}
        "nearest" takes the pixel that holds the place; "bilinear" weighs the four around it; "average" is the mean of
        the source over the target pixel, by sub-pixels no coarser than half a source pixel (at most 32 × 32 of them).
        "auto" averages where the source is finer than the target, else is bilinear.
    min_valid : float
        A bilinear or averaged value is NaN where less than this share of its weight was finite; the rest is weighed
        up.
    chunks : int or tuple of int, optional
        Chunks of the result where the source is lazy; 512 by default.

    Returns
    -------
    same type as `obj`
        On the new grid with its CRS, floats (integers and booleans become float32), NaN outside of the source; lazy
        where the source is. The same for any chunks, across the poles and the ±180° meridian.

    Raises
    ------
    InputError
        An unknown method or no map.
    GridError
        A grid that does not describe a place on the Moon.

    Notes
    -----
    Longitudes repeat: a source around the whole Moon has no edge at ±180°, nor, where it reaches ±90° in longitude
    and latitude, at the pole.
    """
    import xarray as xr

    if method not in METHODS:
        raise InputError(
            f"{method!r} is no method", where="method", remedy=f"give one of {', '.join(METHODS)}"
        )
    if not 0 < min_valid <= 1:
        raise InputError(
            f"{min_valid} is no share", where="min_valid", remedy="give more than 0, at most 1"
        )
    source: GeoBox = geobox_of(obj)
    target: GeoBox = lunar_grid(grid)
    for box in (source, target):
        if not box.axis_aligned:
            raise GridError("the grid is rotated", where="grid", remedy="give an axis-aligned grid")
    sampler = _Sampler(source, target, _method_of(method, source, target), float(min_valid))
    spatial = spatial_dims(obj) or ("y", "x")
    coords = grid_coords(target)

    def one(array: xr.DataArray) -> xr.DataArray:
        lead: list[Any] = [dim for dim in array.dims if dim not in spatial]
        array = array.transpose(*lead, *spatial)
        data = array.data
        if data.dtype.kind not in "fiub":
            raise InputError(
                f"values of type {data.dtype}", where=str(array.name), remedy="give numbers"
            )
        if data.dtype.kind != "f":
            data = data.astype(np.float32)
        values = (
            _lazy(sampler, data, chunks)
            if array.chunks is not None
            else sampler.whole(np.asarray(data))
        )
        kept = {
            name: c
            for name, c in array.coords.items()
            if not set(c.dims) & set(spatial) and name != "spatial_ref"
        }
        attrs = {k: v for k, v in array.attrs.items() if k not in ("grid_mapping", "crs")}
        return xr.DataArray(
            values, dims=(*lead, *grid_dims(target)), coords=kept, name=array.name, attrs=attrs
        )

    if isinstance(obj, xr.DataArray):
        result: Any = one(obj).assign_coords(coords)
    else:
        maps = {
            name: one(variable)
            for name, variable in obj.data_vars.items()
            if set(spatial) <= set(variable.dims)
        }
        if not maps:
            raise InputError("no map to reproject", remedy="give variables on (y, x) or (lat, lon)")
        result = xr.Dataset(maps, attrs=dict(obj.attrs)).assign_coords(coords)
    return assign_crs(result, target)


def _method_of(method: Method, source: GeoBox, target: GeoBox) -> str:
    if method != "auto":
        return method
    return "average" if pixel_size(source) < 0.75 * pixel_size(target) else "bilinear"


class _Sampler:
    """Values of a source grid at the pixels of a target grid."""

    def __init__(self, source: GeoBox, target: GeoBox, method: str, min_valid: float) -> None:
        self.source, self.target, self.method, self.min_valid = source, target, method, min_valid
        period = period_of(moon_crs(source.crs))
        width = source.shape[1] * abs(source.transform.a)
        #: Columns of the source in one turn, if it goes around and they are whole.
        self.around = (
            source.shape[1]
            if period is not None and abs(width - period) < 0.01 * abs(source.transform.a)
            else None
        )
        # Sub-pixels are half a source pixel at most: a quarter of it is then the most that an edge can be off.
        ratio = pixel_size(target) / pixel_size(source)
        self.subpixels = (
            min(_MAX_SUBPIXELS, max(1, math.ceil(2 * ratio))) if method == "average" else 1
        )

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (
            type(self).__qualname__,
            grid_token(self.source),
            grid_token(self.target),
            self.method,
            self.min_valid,
        )

    def whole(self, data: np.ndarray) -> np.ndarray:
        """All of the target from all of the source."""
        rows, columns = self.target.shape
        out = np.empty((*data.shape[:-2], rows, columns), data.dtype)
        # In bands of rows, for memory.
        step = max(1, 262_144 // (max(columns, 1) * self.subpixels**2))
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            out[..., start:stop, :] = self.block((start, stop), (0, columns), [(0, 0)], [data])
        return out

    def block(
        self,
        rows: tuple[int, int],
        columns: tuple[int, int],
        corners: list[tuple[int, int]],
        blocks: list[np.ndarray],
    ) -> np.ndarray:
        """Some of the target from the blocks of the source that it needs, whose first pixels are at `corners`."""
        shape = (rows[1] - rows[0], columns[1] - columns[0])
        lead, dtype = blocks[0].shape[:-2], blocks[0].dtype
        n = self.subpixels
        if n == 1:
            lon, lat = lonlat_block(self.target, rows, columns)
            r, c = project(self.source, lon.ravel(), lat.ravel())
            found = (
                self._nearest(r, c, corners, blocks, lead, dtype)
                if self.method != "bilinear"
                else self._bilinear(r, c, corners, blocks, lead, dtype)
            )
            return found.reshape(*lead, *shape)
        total = np.zeros((*lead, shape[0] * shape[1]))
        count = np.zeros((*lead, shape[0] * shape[1]), np.int32)
        # The target cut n times finer, one shifted picture of it after the other.
        from affine import Affine
        from odc.geo.geobox import GeoBox

        for i in range(n):
            for j in range(n):
                shift = Affine.translation((j + 0.5) / n - 0.5, (i + 0.5) / n - 0.5)
                box = GeoBox(self.target.shape, self.target.transform * shift, self.target.crs)
                lon, lat = lonlat_block(box, rows, columns)
                r, c = project(self.source, lon.ravel(), lat.ravel())
                values = self._nearest(r, c, corners, blocks, lead, dtype)
                good = np.isfinite(values)
                total += np.where(good, values, 0)
                count += good
        with np.errstate(invalid="ignore"):
            mean = total / count
        mean[count < self.min_valid * n * n - 1e-9] = np.nan
        return mean.astype(dtype).reshape(*lead, *shape)

    def _gather(
        self,
        r: np.ndarray,
        c: np.ndarray,
        corners: list[tuple[int, int]],
        blocks: list[np.ndarray],
        lead: tuple[int, ...],
        dtype: Any,
    ) -> np.ndarray:
        """Pixels by whole row and column; NaN where there is none."""
        height, width = self.source.shape
        if self.around is not None:
            # Over the pole lies the other side of the Moon, a half turn on.
            over = (r == -1) | (r == height)
            if over.any() and width % 2 == 0:
                edge = np.where(r == -1, 0, height - 1)
                polar = self._polar_rows()
                swap = over & np.where(r == -1, polar[0], polar[1])
                r, c = np.where(swap, edge, r), np.where(swap, c + width // 2, c)
            c = np.mod(c, width)
        out = np.full((*lead, r.size), np.nan, dtype)
        for (row, column), block in zip(corners, blocks, strict=True):
            inside = (r >= row) & (r < row + block.shape[-2])
            inside &= (c >= column) & (c < column + block.shape[-1])
            at = np.flatnonzero(inside)
            if at.size:
                out[..., at] = block[..., r[at] - row, c[at] - column]
        return out

    def _polar_rows(self) -> tuple[bool, bool]:
        """Whether the first and the last row end at a pole."""
        if not moon_crs(self.source.crs).is_geographic:
            return False, False
        box = self.source.boundingbox
        top, bottom = (
            (box.top, box.bottom) if self.source.transform.e < 0 else (box.bottom, box.top)
        )
        return abs(abs(top) - 90) < 1e-6, abs(abs(bottom) - 90) < 1e-6

    def _nearest(self, r: np.ndarray, c: np.ndarray, *rest: Any) -> np.ndarray:
        height, width = self.source.shape
        known = np.isfinite(r) & (r >= 0) & (r <= height) & (c >= 0) & (c <= width)
        row = np.where(known, np.minimum(np.floor(np.where(known, r, 0)), height - 1), -9)
        column = np.where(known, np.minimum(np.floor(np.where(known, c, 0)), width - 1), -9)
        found = self._gather(row.astype(np.int64), column.astype(np.int64), *rest)
        found[..., ~known] = np.nan
        return found

    def _bilinear(self, r: np.ndarray, c: np.ndarray, *rest: Any) -> np.ndarray:
        height, width = self.source.shape
        known = np.isfinite(r) & (r >= 0) & (r <= height) & (c >= 0) & (c <= width)
        r, c = np.where(known, r, 0.0) - 0.5, np.where(known, c, 0.0) - 0.5
        row, column = np.floor(r).astype(np.int64), np.floor(c).astype(np.int64)
        down, right = r - row, c - column
        total: Any = 0.0
        weight: Any = 0.0
        for i, share_r in ((0, 1 - down), (1, down)):
            for j, share_c in ((0, 1 - right), (1, right)):
                values = self._gather(row + i, column + j, *rest)
                share = share_r * share_c * np.isfinite(values)
                total = total + np.where(share > 0, values, 0) * share
                weight = weight + share
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / weight
        mean[(weight < self.min_valid - 1e-9) | ~np.broadcast_to(known, mean.shape)] = np.nan
        return mean.astype(rest[-1])


def _lazy(sampler: _Sampler, data: Any, chunks: Any) -> Any:
    import dask.array as da
    from dask._task_spec import List, Task, TaskRef
    from dask.base import tokenize
    from dask.highlevelgraph import HighLevelGraph

    shape = tuple(sampler.target.shape)
    sizes = da.core.normalize_chunks(
        (CHUNK, CHUNK) if chunks is None else chunks, shape=shape, dtype=data.dtype
    )
    needed = _dependencies(sampler, data.chunks[-2:], sizes)
    token = tokenize(sampler, data.name, sizes)
    name = f"reproject-{token}"
    edges = [np.concatenate([[0], np.cumsum(s)]).astype(int).tolist() for s in sizes]
    origins = [np.concatenate([[0], np.cumsum(s)]).astype(int).tolist() for s in data.chunks[-2:]]
    graph: dict[Any, Any] = {}
    for lead in np.ndindex(*data.numblocks[:-2]):
        extra = tuple(data.chunks[axis][index] for axis, index in enumerate(lead))
        for (i, j), blocks in needed.items():
            key = (name, *lead, i, j)
            rows, columns = (edges[0][i], edges[0][i + 1]), (edges[1][j], edges[1][j + 1])
            if not blocks:
                empty = (*extra, rows[1] - rows[0], columns[1] - columns[0])
                graph[key] = Task(key, np.full, empty, np.nan, data.dtype)
                continue
            graph[key] = Task(
                key,
                _run_block,
                sampler,
                rows,
                columns,
                [(origins[0][a], origins[1][b]) for a, b in blocks],
                List(*(TaskRef((data.name, *lead, a, b)) for a, b in blocks)),
            )
    return da.Array(
        HighLevelGraph.from_collections(name, graph, dependencies=[data]),
        name,
        chunks=(*data.chunks[:-2], *sizes),
        dtype=data.dtype,
        meta=np.empty((0,) * data.ndim, data.dtype),
    )


def _run_block(
    sampler: _Sampler,
    rows: tuple[int, int],
    columns: tuple[int, int],
    corners: list[tuple[int, int]],
    blocks: list[np.ndarray],
) -> np.ndarray:
    return sampler.block(rows, columns, corners, list(blocks))


def _dependencies(
    sampler: _Sampler, source: tuple[Any, Any], target: tuple[Any, Any]
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Blocks of the source that each block of the target may need: never too few.

    Each block is known by points spread over it and by how far its pixels can be from the nearest of them. Two blocks
    belong together if points of theirs are as near as these reaches and the width of interpolation allow.
    """
    from scipy.spatial import cKDTree

    here = _places(sampler.target, target)
    there = _places(sampler.source, source)
    result: dict[tuple[int, int], list[tuple[int, int]]] = {index: [] for index in here}
    # Interpolation looks at most one pixel further.
    margin = max((pixel for _, _, pixel in there.values()), default=0.0)
    trees = {
        index: (cKDTree(points), reach)
        for index, (points, reach, _) in there.items()
        if len(points)
    }
    for index, (points, reach, _) in here.items():
        if not len(points):
            continue
        for other, (tree, other_reach) in trees.items():
            limit = 2 * math.sin(min(reach + other_reach + margin, math.pi) / 2)
            # The nearest pair only has to be found if it is near enough.
            nearest, _ = tree.query(points, k=1, distance_upper_bound=limit + 1e-9)
            if np.isfinite(nearest).any():
                result[index].append(other)
    return result


def _places(
    geobox: GeoBox, chunks: tuple[Any, Any]
) -> dict[tuple[int, int], tuple[np.ndarray, float, float]]:
    """For each block: points in it (unit vectors), the reach around them, and the diagonal of its pixels.

    The reach is how far a place in the block can be from the nearest of the points.

    Angles in radians.
    """
    import pyproj

    crs = moon_crs(geobox.crs)
    edges = [np.concatenate([[0], np.cumsum(s)]) for s in chunks]
    affine = geobox.transform
    transformer = (
        None
        if crs.is_geographic
        else pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    )
    out = {}
    for i in range(len(chunks[0])):
        for j in range(len(chunks[1])):
            height, width = chunks[0][i], chunks[1][j]
            longer = max(height, width, 1)
            counts = [max(_LEAST, math.ceil(_LATTICE * side / longer)) for side in (height, width)]
            row = np.linspace(edges[0][i], edges[0][i + 1], counts[0])
            column = np.linspace(edges[1][j], edges[1][j + 1], counts[1])
            r, c = np.meshgrid(row, column, indexing="ij")
            x, y = affine.a * c + affine.c, affine.e * r + affine.f
            if transformer is None:
                lon, lat = x, np.where(np.abs(y) <= 90 + 1e-9, np.clip(y, -90, 90), np.nan)
            else:
                lon, lat = transformer.transform(x, y)
            good = np.isfinite(lon) & np.isfinite(lat)
            phi = np.deg2rad(np.where(good, lat, np.nan))
            lam = np.deg2rad(np.where(good, lon, np.nan))
            p = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], -1)
            down, along = _longest(p[1:] - p[:-1]), _longest(p[:, 1:] - p[:, :-1])
            # From any place in a cell, half of both sides lead to one of its corners; to one that is known, where the
            # projection ends within the cell, at most all of both.
            reach = _SLACK * (down + along) * (0.5 if good.all() else 1.0)
            pixel = _SLACK * (
                down * (counts[0] - 1) / max(height, 1) + along * (counts[1] - 1) / max(width, 1)
            )
            out[i, j] = (p[good], min(reach, math.pi), min(pixel, math.pi))
    return out


def _longest(chords: np.ndarray) -> float:
    length = np.sqrt((chords**2).sum(-1))
    if not np.isfinite(length).any():
        return math.pi
    return 2 * math.asin(min(1.0, float(np.nanmax(length)) / 2))
