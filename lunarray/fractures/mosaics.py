"""Many images on one grid: mosaics with their seams, and images at another resolution."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import BodyMismatchError, GridError, InputError, LunarrayWarning
from lunarray.fractures.ground import box_of
from lunarray.geo import (
    BODIES,
    assign_grid,
    covering_box,
    from_lonlat,
    grid_token,
    is_moon,
    period_of,
    pixel_size,
    require_body,
    spatial_dims,
    to_lonlat,
)
from lunarray.store.provenance import stamp

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["mosaic", "resample"]

#: Metres of a pixel of a mosaic, unless told otherwise (Le Corre et al. 2025, section 2).
RESOLUTION = 1.5
#: Side of the chunks of a mosaic.
CHUNK = 2048
METHODS = ("auto", "nearest", "bilinear", "average")
OVERLAPS = ("first", "last", "mean")
# Target pixels between positions that PROJ computes; those between are interpolated.
_STEPS = (64, 32, 16, 8, 4, 2, 1)
# The most that interpolated positions may be off, in source pixels.
_TOLERANCE = 0.005
_MAX_PARTS = 32


def mosaic(
    images: Sequence[xr.DataArray | str | os.PathLike[str]],
    *,
    resolution: float | None = None,
    crs: Any = None,
    grid: Any = None,
    order: str | Sequence[int] = "given",
    overlap: str = "first",
    method: str = "auto",
    min_valid: float = 0.5,
    chunks: int | tuple[int, int] = CHUNK,
) -> xr.Dataset:
    """Lay images on one common grid, lazily.

    Parameters
    ----------
    images : sequence of DataArray or path
        Georeferenced images of one body, of any CRS and resolution; paths are opened with
        :func:`lunarray.fractures.open_nac`.
    resolution : float, optional
        Pixel of the mosaic in the units of its CRS; 1.5 m by default.
    crs : optional
        Of the mosaic; by default that of the first image.
    grid : GeoBox, Dataset or DataArray, optional
        The grid itself, in place of `resolution` and `crs`; by default the smallest that holds all images, of whole
        pixels counted from the origin of the CRS.
    order : "given", "finest", or sequence of int
        Which image lies on top: the first that is given, the one of the finest resolution, or the one of the lowest
        number.
    overlap : {"first", "last", "mean"}
        Where images overlap: the uppermost that has data, the lowest, or the mean of all (the source is then the
        uppermost).
    method : {"auto", "nearest", "bilinear", "average"}
        Resampling. "auto" averages an image that is finer than the mosaic by a third or more, and is bilinear for
        others; an image on the very lattice of the mosaic is copied.
    min_valid : float
        A pixel has data where this share of what it is made from has.
    chunks : int or (int, int)
        Of the mosaic.

    Returns
    -------
    Dataset
        ``image`` (y, x) float32, NaN where no image has data; ``source`` int16, the number of the image that each pixel
        came from (in the order of `images`), -1 none: its borders are the seams; ``valid`` bool. All lazy. The names of
        the images are in ``source.attrs["images"]``, their resolutions in ``source.attrs["resolutions"]``.

    Raises
    ------
    InputError
        If there is no image, or a rule is unknown.
    GridError
        If an image is not georeferenced, or lies outside the projection.
    BodyMismatchError
        If images are of different bodies.

    Warns
    -----
    LunarrayWarning
        If an image is coarser than the mosaic by half or more: it is interpolated there, and has no finer detail.

    Notes
    -----
    Positions are computed by PROJ on a lattice and interpolated between, as closely as 0.005 source pixels; the lattice
    is counted from the origin of the whole grid, so that chunks do not change the result.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, section 2.
    """
    from lunarray.fractures.io import open_nac

    if isinstance(images, (xr.DataArray, str, os.PathLike)):
        images = [images]
    pictures = [
        image if isinstance(image, xr.DataArray) else open_nac(image, chunks=CHUNK)
        for image in images
    ]
    if not pictures:
        raise InputError("no images", where="mosaic", remedy="give one image at least")
    if len(pictures) > np.iinfo(np.int16).max:
        raise InputError(f"{len(pictures)} images", where="mosaic", remedy="give 32767 at most")
    _check_rules(overlap, method, min_valid)
    boxes = [box_of(image, "a mosaic") for image in pictures]
    bodies = {is_moon(require_body(box.crs, BODIES)) for box in boxes}
    if len(bodies) > 1:
        raise BodyMismatchError(
            "images of the Moon and of Mercury", where="mosaic", remedy="give images of one body"
        )
    if grid is not None:
        if crs is not None or resolution is not None:
            raise InputError(
                "a grid and a resolution or CRS", where="grid", remedy="give one or the other"
            )
        target = box_of(grid) if isinstance(grid, (xr.Dataset, xr.DataArray)) else grid
        require_body(target.crs, BODIES, where="grid")
    else:
        target = _common_box(
            boxes, boxes[0].crs if crs is None else crs, RESOLUTION if resolution is None else resolution
        )  # fmt: skip
    names = [str(p.attrs.get("source", f"image {k}")) for k, p in enumerate(pictures)]
    fine = pixel_size(target)
    for name, box in zip(names, boxes, strict=True):
        if pixel_size(box) >= 1.5 * fine:
            warnings.warn(
                f"{name} has {pixel_size(box):g} m a pixel and is interpolated to {fine:g} m",
                LunarrayWarning,
                stacklevel=2,
            )
    ranks = _ranks(order, boxes)
    data, source = _compose(pictures, boxes, target, ranks, overlap, method, min_valid, chunks)
    dims = ("lat", "lon") if require_body(target.crs, BODIES).is_geographic else ("y", "x")
    first = pictures[ranks[0]]
    ds = xr.Dataset(
        {
            "image": (
                dims,
                data,
                {k: first.attrs[k] for k in ("long_name", "units") if k in first.attrs},
            ),
            "source": (
                dims,
                source,
                {
                    "long_name": "number of the image that a pixel came from, -1 none",
                    "images": names,
                    "resolutions": [round(pixel_size(box), 6) for box in boxes],
                },
            ),
            "valid": (dims, source >= 0, {"long_name": "pixels with data"}),
        }
    )
    ds = stamp(ds, f"mosaic of {len(pictures)} images, overlap {overlap!r}, {method!r} resampling")
    return assign_grid(ds, target)


def resample(
    image: xr.DataArray,
    resolution: float | None = None,
    *,
    like: Any = None,
    method: str = "auto",
    min_valid: float = 0.5,
    chunks: int | tuple[int, int] = CHUNK,
) -> xr.DataArray:
    """Bring an image to another resolution or onto another grid.

    Parameters
    ----------
    image : DataArray
        (y, x), georeferenced. Whole numbers and booleans (masks, labels, sources) keep their type and are not mixed:
        "auto" takes the nearest.
    resolution : float, optional
        Pixel in the units of its CRS, for instance 6.0 m for SIMBIO-SYS.
    like : GeoBox, Dataset or DataArray, optional
        The grid, in place of `resolution`.
    method : {"auto", "nearest", "bilinear", "average"}
        As of :func:`mosaic`.
    min_valid : float
        A pixel has data where this share of what it is made from has.
    chunks : int or (int, int)
        Of a lazy result.

    Returns
    -------
    DataArray
        On the new grid, of the same name and attributes; lazy where `image` is.

    Raises
    ------
    InputError
        If neither or both of resolution and grid are given.
    GridError
        If the image is not georeferenced.
    """
    if (resolution is None) == (like is None):
        raise InputError(
            "neither or both of resolution and like", where="resample", remedy="give one of them"
        )
    _check_rules("first", method, min_valid)
    box = box_of(image, "resampling")
    if like is None:
        target = _common_box([box], box.crs, resolution)
    else:
        target = box_of(like) if isinstance(like, (xr.Dataset, xr.DataArray)) else like
    dims = spatial_dims(image)
    sampler = _sampler(image.dtype, box, target, method, min_valid)
    data = image.transpose(*(dims or ())).data
    if hasattr(data, "dask"):
        out = _lazy([data], [sampler], target, "first", chunks, data.dtype)[0]
    else:
        rows, columns = target.shape
        out = np.empty((rows, columns), sampler.dtype)
        for start in range(0, rows, CHUNK):
            stop = min(rows, start + CHUNK)
            out[start:stop] = sampler.block(
                (start, stop), (0, columns), [(0, 0)], [np.asarray(data)]
            )
    names = ("lat", "lon") if require_body(target.crs, BODIES).is_geographic else ("y", "x")
    attrs = {k: v for k, v in image.attrs.items() if k not in ("grid_mapping", "crs")}
    result = xr.DataArray(out, dims=names, name=image.name, attrs=attrs)
    return assign_grid(stamp(result, f"resample, {method!r}"), target)


def _check_rules(overlap: str, method: str, min_valid: float) -> None:
    if overlap not in OVERLAPS:
        raise InputError(
            f"{overlap!r} is no rule", where="overlap", remedy=f"give one of {', '.join(OVERLAPS)}"
        )
    if method not in METHODS:
        raise InputError(
            f"{method!r} is no method", where="method", remedy=f"give one of {', '.join(METHODS)}"
        )
    if not 0 < min_valid <= 1:
        raise InputError(
            f"{min_valid} is no share", where="min_valid", remedy="give more than 0, at most 1"
        )


def _ranks(order: Any, boxes: list[GeoBox]) -> list[int]:
    """Numbers of the images from the uppermost to the lowest."""
    count = len(boxes)
    if isinstance(order, str):
        if order == "given":
            return list(range(count))
        if order == "finest":
            return sorted(range(count), key=lambda k: (pixel_size(boxes[k]), k))
        raise InputError(
            f"order={order!r}", where="order", remedy='give "given", "finest" or a number for each image'
        )  # fmt: skip
    numbers = list(order)
    if len(numbers) != count:
        raise InputError(
            f"{len(numbers)} numbers for {count} images", where="order", remedy="give one for each image"
        )  # fmt: skip
    return sorted(range(count), key=lambda k: (numbers[k], k))


def _common_box(boxes: list[GeoBox], crs: Any, resolution: Any) -> GeoBox:
    """Smallest grid around all of some grids."""
    target = require_body(crs, BODIES)
    try:
        size = float(resolution)
    except (TypeError, ValueError):
        size = math.nan
    if not (size > 0 and math.isfinite(size)):
        raise GridError(
            f"a resolution of {resolution!r}", where="resolution", remedy="give metres, more than 0"
        )
    lefts, bottoms, rights, tops = [], [], [], []
    period = period_of(target)
    centre = None
    for box in boxes:
        x, y = _outline(box, target)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise GridError(
                f"an image lies outside of the projection {target.name!r}",
                where="crs",
                remedy="give another crs for the mosaic",
            )
        if period is not None:
            x = np.unwrap(x, period=period)
            middle = (x.min() + x.max()) / 2
            centre = middle if centre is None else centre
            x = x + period * np.round((centre - middle) / period)
        lefts.append(x.min())
        rights.append(x.max())
        bottoms.append(y.min())
        tops.append(y.max())
    return covering_box((min(lefts), min(bottoms), max(rights), max(tops)), size, target)


def _outline(box: GeoBox, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Border of a grid, in order, in the coordinates of a CRS."""
    rows, columns = box.shape
    r = np.linspace(0, rows, 33)
    c = np.linspace(0, columns, 33)
    row = np.concatenate([np.zeros(33), r, np.full(33, rows), r[::-1]])
    column = np.concatenate([c, np.full(33, columns), c[::-1], np.zeros(33)])
    x, y = box.transform.a * column + box.transform.c, box.transform.e * row + box.transform.f
    source = require_body(box.crs, BODIES)
    return (x, y) if source == target else from_lonlat(target, *to_lonlat(source, x, y))


def _reach(source: GeoBox, target: GeoBox) -> tuple[float, float, float, float]:
    """Rows and columns of the target outside of which a source has no pixel; never too few."""
    height, width = source.shape
    row, column = np.meshgrid(np.linspace(0, height, 17), np.linspace(0, width, 17), indexing="ij")
    r, c = _source_positions(target, source, row, column)
    if not (np.isfinite(r).all() and np.isfinite(c).all()):
        return (-math.inf, math.inf, -math.inf, math.inf)
    out: list[float] = []
    for places in (r, c):
        # Between these points it bulges by less than they are apart; a jump over the seam makes that everything.
        apart = max(float(np.abs(np.diff(places, axis=axis)).max()) for axis in (0, 1)) + 2
        out += [float(places.min()) - apart, float(places.max()) + apart]
    return out[0], out[1], out[2], out[3]


# --- sampling -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sampler:
    """Values of one image at the pixels of the target grid."""

    source: GeoBox
    target: GeoBox
    method: str
    min_valid: float
    step: int
    parts: int
    dtype: Any

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (
            type(self).__qualname__,
            grid_token(self.source),
            grid_token(self.target),
            self.method,
            self.min_valid,
            self.step,
            self.parts,
            str(self.dtype),
        )

    def lattice(
        self, rows: tuple[int, int], columns: tuple[int, int]
    ) -> tuple[np.ndarray, int, int]:
        """Source positions at the nodes around a block, and how far the block's corner lies within the first cell."""
        step = self.step
        r0, c0 = rows[0] // step * step, columns[0] // step * step
        r = np.arange(r0, max(rows[1], r0 + step) + step, step, dtype=np.float64)
        c = np.arange(c0, max(columns[1], c0 + step) + step, step, dtype=np.float64)
        row, column = np.meshgrid(r, c, indexing="ij")
        places = np.stack(_source_positions(self.source, self.target, row, column), -1)
        period = period_of(require_body(self.source.crs, BODIES))
        if period is not None:
            # Behind the Moon, a cell would reach from one edge of the turn to the other, right over the source.
            half = 0.5 * period / abs(self.source.transform.a)
            for axis in (0, 1):
                with np.errstate(invalid="ignore"):
                    jump = np.abs(np.diff(places[..., 1], axis=axis)) > half
                later = places[1:] if axis == 0 else places[:, 1:]
                later[jump] = np.nan
        return places, r0, c0

    def window(
        self, rows: tuple[int, int], columns: tuple[int, int]
    ) -> tuple[int, int, int, int] | None:
        """Part of the source that a block needs, [first, last) of rows and columns; None where there is none."""
        places, _, _ = self.lattice(rows, columns)
        good = np.isfinite(places).all(axis=-1)
        if not good.any():
            return None
        height, width = self.source.shape
        r, c = places[..., 0][good], places[..., 1][good]
        low_r, high_r = math.floor(r.min()) - 2, math.ceil(r.max()) + 2
        low_c, high_c = math.floor(c.min()) - 2, math.ceil(c.max()) + 2
        low_r, high_r = max(low_r, 0), min(high_r, height)
        low_c, high_c = max(low_c, 0), min(high_c, width)
        return None if low_r >= high_r or low_c >= high_c else (low_r, high_r, low_c, high_c)

    def block(
        self,
        rows: tuple[int, int],
        columns: tuple[int, int],
        corners: list[tuple[int, int]],
        blocks: list[np.ndarray],
    ) -> np.ndarray:
        """Some of the target from the source blocks that it needs, whose first pixels are at `corners`."""
        from lunarray.fractures import sample_kernels as kernels

        shape = (rows[1] - rows[0], columns[1] - columns[0])
        fill = np.nan if self.dtype.kind == "f" else (-1 if self.dtype.kind == "i" else 255)
        window = self.window(rows, columns)
        if window is None or not blocks:
            if self.dtype.kind == "b":
                return np.zeros(shape, bool)
            return np.full(shape, fill, self.dtype)
        top, bottom, left, right = window
        part = np.full((bottom - top, right - left), fill, blocks[0].dtype)
        for (row, column), block in zip(corners, blocks, strict=True):
            a, b = max(row, top), min(row + block.shape[0], bottom)
            c, d = max(column, left), min(column + block.shape[1], right)
            if a < b and c < d:
                part[a - top : b - top, c - left : d - left] = block[
                    a - row : b - row, c - column : d - column
                ]
        places, r0, c0 = self.lattice(rows, columns)
        # The block's corner need not be a node: count positions from the first cell's.
        nodes, step = _shifted(places, self.step, rows[0] - r0, columns[0] - c0, shape)
        if self.method == "nearest":
            if self.dtype.kind == "b":
                byte = kernels.sample_nearest(
                    part.astype(np.uint8), top, left, nodes, step, shape, np.uint8(0)
                )
                return byte.astype(bool)
            return kernels.sample_nearest(
                part, top, left, nodes, step, shape, part.dtype.type(fill)
            ).astype(self.dtype, copy=False)
        part = part.astype(np.float32, copy=False)
        if self.method == "bilinear":
            return kernels.sample_bilinear(part, top, left, nodes, step, shape, self.min_valid)
        return kernels.sample_average(
            part, top, left, nodes, step, shape, self.min_valid, self.parts
        )


def _shifted(
    places: np.ndarray, step: int, down: int, right: int, shape: tuple[int, int]
) -> tuple[np.ndarray, float]:
    """Lattice whose first node is the corner of the block itself: one pixel apart where the block begins in a cell."""
    if down == 0 and right == 0:
        return places, float(step)
    # Interpolated once to every pixel corner: bilinear in each cell, so nothing is lost.
    r = (np.arange(shape[0] + 1) + down) / step
    c = (np.arange(shape[1] + 1) + right) / step
    i = np.minimum(r.astype(np.int64), places.shape[0] - 2)
    j = np.minimum(c.astype(np.int64), places.shape[1] - 2)
    u, v = (r - i)[:, None, None], (c - j)[None, :, None]
    i, j = i[:, None], j[None, :]
    return (
        (places[i, j] * (1 - v) + places[i, j + 1] * v) * (1 - u)
        + (places[i + 1, j] * (1 - v) + places[i + 1, j + 1] * v) * u
    ), 1.0


def _source_positions(
    source: GeoBox, target: GeoBox, row: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fractional pixel positions in the source of those in the target."""
    a, b = require_body(target.crs, BODIES), require_body(source.crs, BODIES)
    affine, inverse = target.transform, ~source.transform
    x, y = affine.a * column + affine.c, affine.e * row + affine.f
    if a != b:
        x, y = from_lonlat(b, *to_lonlat(a, x, y))
    period = period_of(b)
    if period is not None:
        box = source.boundingbox
        middle = (box.left + box.right) / 2
        if a == b:
            # The whole grid onto the turn that the source is on: no jump within it.
            there = target.boundingbox
            x = x - period * round(((there.left + there.right) / 2 - middle) / period)
        else:
            with np.errstate(invalid="ignore"):
                x = middle + np.mod(x - middle + period / 2, period) - period / 2
    with np.errstate(invalid="ignore"):
        c = np.round(inverse.a * x + inverse.c, 9)
        r = np.round(inverse.e * y + inverse.f, 9)
    good = np.isfinite(r) & np.isfinite(c)
    return np.where(good, r, np.nan), np.where(good, c, np.nan)


def _sampler(dtype: Any, source: GeoBox, target: GeoBox, method: str, min_valid: float) -> _Sampler:
    dtype = np.dtype(dtype)
    whole = dtype.kind in "biu"
    ratio = pixel_size(target) / pixel_size(source)
    if method == "auto":
        method = "nearest" if whole else "average" if ratio >= 4 / 3 else "bilinear"
    elif method != "nearest" and whole:
        raise InputError(
            f"{method!r} of whole numbers",
            where="method",
            remedy='give "nearest", or a floating-point image',
        )
    if method == "bilinear" and _same_lattice(source, target):
        method = "nearest"
    # Points no further apart than half a source pixel.
    parts = min(_MAX_PARTS, max(1, math.ceil(2 * ratio))) if method == "average" else 1
    return _Sampler(
        source,
        target,
        method,
        float(min_valid),
        _lattice_step(source, target),
        parts,
        dtype if whole else np.dtype(np.float32),
    )


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


def _lattice_step(source: GeoBox, target: GeoBox) -> int:
    """Widest lattice between whose nodes positions are interpolated well enough, tried all over the overlap."""
    if require_body(source.crs, BODIES) == require_body(target.crs, BODIES):
        return _STEPS[0]
    rows, columns = target.shape
    for step in _STEPS[:-1]:
        # Cells spread over the grid: the middle of each against the mean of its corners.
        r = np.linspace(0, max(rows - step, 0), 17)[:, None] + np.zeros(17)
        c = np.zeros((17, 1)) + np.linspace(0, max(columns - step, 0), 17)
        nodes = [
            np.stack(_source_positions(source, target, r + a * step, c + b * step))
            for a, b in ((0, 0), (0, 1), (1, 0), (1, 1))
        ]
        middle = np.stack(_source_positions(source, target, r + step / 2, c + step / 2))
        error = np.abs(sum(nodes) / 4 - middle)
        height, width = source.shape
        margin = 2 * step
        near = (
            (middle[0] > -margin)
            & (middle[0] < height + margin)
            & (middle[1] > -margin)
            & (middle[1] < width + margin)
        )
        if not near.any():
            # The image is small on this grid: all that is finite.
            near = np.isfinite(middle).all(axis=0)
        worst = np.nanmax(np.where(near, error, 0.0)) if near.any() else 0.0
        if worst <= _TOLERANCE:
            return step
    return 1


# --- composition ----------------------------------------------------------------------------------


def _compose(
    pictures: list[xr.DataArray],
    boxes: list[GeoBox],
    target: GeoBox,
    ranks: list[int],
    overlap: str,
    method: str,
    min_valid: float,
    chunks: Any,
) -> tuple[Any, Any]:
    import dask.array as da

    samplers, arrays = [], []
    for k in ranks:
        picture = pictures[k].transpose(*(spatial_dims(pictures[k]) or ()))
        data = picture.data
        if data.dtype.kind != "f":
            data = data.astype(np.float32)
        if not hasattr(data, "dask"):
            data = da.from_array(np.asarray(data), chunks=CHUNK)
        samplers.append(_sampler(np.float32, boxes[k], target, method, min_valid))
        arrays.append(data)
    both = _lazy(arrays, samplers, target, overlap, chunks, np.float32, ranks)
    return both


def _lazy(
    arrays: list[Any],
    samplers: list[_Sampler],
    target: GeoBox,
    overlap: str,
    chunks: Any,
    dtype: Any,
    ranks: list[int] | None = None,
) -> tuple[Any, Any]:
    import dask.array as da
    from dask._task_spec import List, Task, TaskRef
    from dask.base import tokenize
    from dask.highlevelgraph import HighLevelGraph

    shape = tuple(target.shape)
    sizes = da.core.normalize_chunks(
        (chunks, chunks) if isinstance(chunks, int) else chunks, shape=shape, dtype=dtype
    )
    numbers = list(range(len(arrays))) if ranks is None else ranks
    token = tokenize([a.name for a in arrays], samplers, overlap, sizes, numbers)
    name = f"mosaic-{token}"
    edges = [np.concatenate([[0], np.cumsum(s)]).astype(int).tolist() for s in sizes]
    origins = [
        [np.concatenate([[0], np.cumsum(s)]).astype(int) for s in array.chunks] for array in arrays
    ]
    reaches = [_reach(sampler.source, target) for sampler in samplers]
    graph: dict[Any, Any] = {}
    for i, j in np.ndindex(len(sizes[0]), len(sizes[1])):
        rows, columns = (edges[0][i], edges[0][i + 1]), (edges[1][j], edges[1][j + 1])
        layers = []
        for array, sampler, starts, number, reach in zip(
            arrays, samplers, origins, numbers, reaches, strict=True
        ):
            # Most images are nowhere near most blocks: no positions are needed to see that.
            if not (reach[0] < rows[1] and rows[0] < reach[1]):
                continue
            if not (reach[2] < columns[1] and columns[0] < reach[3]):
                continue
            window = sampler.window(rows, columns)
            if window is None:
                continue
            refs, corners = [], []
            spans = []
            for axis, (low, high) in enumerate((window[:2], window[2:])):
                first = int(np.searchsorted(starts[axis], low, side="right")) - 1
                last = int(np.searchsorted(starts[axis], high, side="left"))
                spans.append(range(first, last))
            for a in spans[0]:
                for b in spans[1]:
                    refs.append(TaskRef((array.name, a, b)))
                    corners.append((int(starts[0][a]), int(starts[1][b])))
            layers.append(List(number, sampler, corners, List(*refs)))
        key = (name, i, j)
        graph[key] = Task(
            key,
            _mosaic_block,
            List(*layers),
            rows,
            columns,
            overlap,
            np.dtype(dtype),
            ranks is not None,
        )
    whole = HighLevelGraph.from_collections(name, graph, dependencies=arrays)
    if ranks is None:
        single = da.Array(
            whole, name, chunks=sizes, dtype=dtype, meta=np.empty((0, 0), dtype)
        )  # fmt: skip
        return single, None
    pair = da.Array(whole, name, chunks=sizes, dtype=object, meta=np.empty((0, 0), object))
    return (
        da.map_blocks(_image_of, pair, dtype=np.float32, meta=np.empty((0, 0), np.float32)),
        da.map_blocks(_source_of, pair, dtype=np.int16, meta=np.empty((0, 0), np.int16)),
    )


def _image_of(pair: Any) -> np.ndarray:
    return pair[0]


def _source_of(pair: Any) -> np.ndarray:
    return pair[1]


def _mosaic_block(
    layers: list[Any],
    rows: tuple[int, int],
    columns: tuple[int, int],
    overlap: str,
    dtype: np.dtype,
    with_source: bool,
) -> Any:
    shape = (rows[1] - rows[0], columns[1] - columns[0])
    if not with_source:
        for _, sampler, corners, blocks in layers:
            return sampler.block(rows, columns, corners, list(blocks))
        fill: Any = np.nan if dtype.kind == "f" else (-1 if dtype.kind == "i" else 255)
        return np.full(shape, 0 if dtype.kind == "b" else fill, dtype)
    image = np.full(shape, np.nan, np.float32)
    source = np.full(shape, -1, np.int16)
    total = count = None
    if overlap == "mean":
        total, count = np.zeros(shape, np.float64), np.zeros(shape, np.int16)
    for number, sampler, corners, blocks in layers[:: -1 if overlap == "last" else 1]:
        if overlap != "mean" and not (source < 0).any():
            break
        values = sampler.block(rows, columns, corners, list(blocks))
        good = np.isfinite(values)
        new = good & (source < 0)
        image[new] = values[new]
        source[new] = number
        if total is not None and count is not None:
            total[good] += values[good]
            count += good
    if total is not None and count is not None:
        several = count > 1
        image[several] = total[several] / count[several]
    return image, source
