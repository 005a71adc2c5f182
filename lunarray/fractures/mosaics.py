"""Many images on one grid: mosaics with their seams."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import xarray as xr

from lunarray.engine.graph import assemble
from lunarray.errors import BodyMismatchError, GridError, InputError, LunarrayWarning
from lunarray.fractures.brightness import UNIT, unit_of
from lunarray.fractures.ground import box_of
from lunarray.fractures.io import open_nac
from lunarray.geo import (
    BODIES,
    Method,
    assign_grid,
    body_of,
    covering_box,
    from_lonlat,
    grid_dims,
    period_of,
    pixel_size,
    require_body,
    spatial_dims,
    to_lonlat,
)
from lunarray.geo.resample import blocks_of, check_method
from lunarray.geo.sampling import Sampler, sampler_of
from lunarray.store.provenance import stamp
from lunarray.typing import typed

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["mosaic"]

#: Metres of a pixel of a mosaic, unless told otherwise (Le Corre et al. 2025, section 2).
RESOLUTION = 1.5
#: Side of the chunks of a mosaic.
CHUNK = 2048
Overlap = Literal["first", "last", "mean"]
OVERLAPS = get_args(Overlap)


@typed
def mosaic(
    images: Sequence[xr.DataArray | str | os.PathLike[str]],
    *,
    resolution: float | None = None,
    crs: Any = None,
    grid: Any = None,
    order: str | Sequence[int] = "given",
    overlap: Overlap = "first",
    method: Method = "auto",
    min_valid: float = 0.5,
    chunks: int | tuple[int, int] = CHUNK,
) -> xr.Dataset:
    """Lay images together on one grid, lazily.

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
    Images are resampled as :func:`lunarray.geo.reproject` does it; chunks do not change the result.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, section 2.

    Examples
    --------
    >>> import lunarray as la
    >>> image = la.sample("nac_crop")
    >>> la.fractures.mosaic([image[:, :400], image[:, 300:]])["image"].shape
    (640, 640)
    """
    if isinstance(images, (xr.DataArray, str, os.PathLike)):
        images = [images]
    _check_rules(images, overlap, method, min_valid)
    pictures = [_opened(image, number) for number, image in enumerate(images)]
    boxes = [box_of(image, "a mosaic") for image in pictures]
    target = _grid(boxes, grid, resolution, crs)
    _check_size(target, "resolution" if grid is None else "grid")
    names = [str(p.attrs.get("source", f"image {k}")) for k, p in enumerate(pictures)]
    sizes = [pixel_size(box) for box in boxes]
    _tell_coarse(names, sizes, pixel_size(target))
    ranks = _ranks(order, boxes)
    samplers = [sampler_of(box, target, method, min_valid) for box in boxes]
    data, source, valid = _compose(pictures, samplers, target, ranks, overlap, chunks)
    dims = grid_dims(target)
    first = pictures[ranks[0]].attrs
    origin = {
        "long_name": "number of the image that a pixel came from, -1 none",
        "images": names,
        "resolutions": [round(size, 6) for size in sizes],
    }
    ds = xr.Dataset(
        {
            "image": (dims, data, _about(pictures, first)),
            "source": (dims, source, origin),
            "valid": (dims, valid, {"long_name": "pixels with data"}),
        }
    )
    ds = stamp(ds, f"mosaic of {len(pictures)} images, overlap {overlap!r}, {method!r} resampling")
    return assign_grid(ds, target)


def _about(pictures: Sequence[xr.DataArray], first: dict[Any, Any]) -> dict[str, Any]:
    """What the mosaic's numbers are: of its uppermost image, and the scale where that is the same for all."""
    own = {k: first[k] for k in ("long_name", "units") if k in first}
    units = {unit_of(picture) for picture in pictures}
    if len(units) > 1:
        warnings.warn(
            f"images of {', '.join(sorted(str(u) for u in units))} in one mosaic: its brightness has steps",
            LunarrayWarning,
            stacklevel=3,
        )
        return own | {"long_name": "brightness"}
    (unit,) = units
    stored = {str(picture.attrs.get("stored", "")).split(",")[0] for picture in pictures}
    own |= {} if unit is None else {UNIT: unit}
    return own | ({"stored": "uint8"} if stored == {"uint8"} else {})


def _opened(image: Any, number: int) -> xr.DataArray:
    """An image, read where it is a path."""
    if isinstance(image, xr.DataArray):
        return image
    if not isinstance(image, (str, os.PathLike)):
        raise InputError(
            f"image {number} is a {type(image).__name__}",
            where="images",
            remedy="Give DataArrays with a place on the ground, or paths",
        )
    return open_nac(image, chunks=CHUNK)


def _check_size(target: GeoBox, where: str) -> None:
    if 0 in target.shape:
        raise GridError(
            f"a grid of {target.shape[0]} × {target.shape[1]} pixels",
            where=where,
            remedy="Give pixels smaller than the images, in the unit of the CRS",
        )


def _check_rules(images: Sequence[Any], overlap: str, method: str, min_valid: float) -> None:
    if not len(images):
        raise InputError("no images", where="mosaic", remedy="Give one image at least")
    if len(images) > np.iinfo(np.int16).max:
        raise InputError(f"{len(images)} images", where="mosaic", remedy="Give 32767 at most")
    if overlap not in OVERLAPS:
        raise InputError(
            f"{overlap!r} is no rule", where="overlap", remedy=f"Give one of {', '.join(OVERLAPS)}"
        )
    check_method(method, min_valid)


def _tell_coarse(names: list[str], sizes: list[float], fine: float) -> None:
    for name, size in zip(names, sizes, strict=True):
        if size >= 1.5 * fine:
            warnings.warn(
                f"{name} has {size:g} m a pixel and is interpolated to {fine:g} m",
                LunarrayWarning,
                stacklevel=3,
            )


def _grid(boxes: list[GeoBox], grid: Any, resolution: float | None, crs: Any) -> GeoBox:
    """Grid of the mosaic of images of one body."""
    bodies = {body_of(box.crs) for box in boxes}
    if len(bodies) > 1:
        raise BodyMismatchError(
            "images of the Moon and of Mercury", where="mosaic", remedy="Give images of one body"
        )
    if grid is None:
        return _common_box(
            boxes,
            boxes[0].crs if crs is None else crs,
            RESOLUTION if resolution is None else resolution,
        )
    if crs is not None or resolution is not None:
        raise InputError(
            "a grid and a resolution or CRS", where="grid", remedy="Give one or the other"
        )
    target = box_of(grid) if isinstance(grid, (xr.Dataset, xr.DataArray)) else grid
    require_body(target.crs, [body for body in bodies if body], where="grid")
    return target


def _ranks(order: Any, boxes: list[GeoBox]) -> list[int]:
    """Numbers of the images from the uppermost to the lowest."""
    count = len(boxes)
    if isinstance(order, str):
        if order == "given":
            return list(range(count))
        if order == "finest":
            return sorted(range(count), key=lambda k: (pixel_size(boxes[k]), k))
        raise InputError(
            f"order={order!r}", where="order", remedy='Give "given", "finest" or a number for each image'
        )  # fmt: skip
    numbers = list(order)
    if len(numbers) != count:
        raise InputError(
            f"{len(numbers)} numbers for {count} images", where="order", remedy="Give one for each image"
        )  # fmt: skip
    return sorted(range(count), key=lambda k: (numbers[k], k))


def _common_box(boxes: list[GeoBox], crs: Any, resolution: Any) -> GeoBox:
    """Smallest grid around all of some grids."""
    target = require_body(crs, BODIES)
    lefts, bottoms, rights, tops = [], [], [], []
    period = period_of(target)
    centre = None
    for box in boxes:
        x, y = _outline(box, target)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise GridError(
                f"an image lies outside of the projection {target.name!r}",
                where="crs",
                remedy="Give another crs for the mosaic",
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
    return covering_box((min(lefts), min(bottoms), max(rights), max(tops)), resolution, target)


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


def _compose(
    pictures: list[xr.DataArray],
    samplers: list[Sampler],
    target: GeoBox,
    ranks: list[int],
    overlap: str,
    chunks: Any,
) -> tuple[Any, Any, Any]:
    """Image, number of the source and validity, lazily: one task a block makes all."""
    import dask.array as da

    sizes = da.core.normalize_chunks(
        (chunks, chunks) if isinstance(chunks, int) else chunks,
        shape=tuple(target.shape),
        dtype=np.float32,
    )
    edges = [np.concatenate([[0], np.cumsum(s)]).tolist() for s in sizes]
    layers: dict[tuple[int, int], list[Any]] = {}
    arrays = []
    for number in ranks:
        picture = pictures[number].transpose(*(spatial_dims(pictures[number]) or ()))
        data = picture.data
        if data.dtype.kind != "f":
            data = data.astype(np.float32)
        if not hasattr(data, "dask"):
            data = da.from_array(np.asarray(data), chunks=CHUNK)
        arrays.append(data.name)
        for index, window in samplers[number].windows(*edges):
            found = blocks_of(data, window)
            layer = [number, window, [c for c, _ in found], [block for _, block in found]]
            layers.setdefault(index, []).append(layer)

    def needs(index: tuple[int, ...]) -> list[Any]:
        _, i, j = index
        rows, columns = (edges[0][i], edges[0][i + 1]), (edges[1][j], edges[1][j + 1])
        return [rows, columns, layers.get((i, j), [])]

    both = assemble(
        _block,
        ((2,), *sizes),
        needs=needs,
        dtype=np.float32,
        name="mosaic",
        token=(arrays, samplers, ranks, overlap),
        kwargs={"samplers": samplers, "overlap": overlap},
    )
    # `valid` is not made from `source`: on a cluster Dask (2026.8) loses a variable that another one is made from.
    return both[0], both[1].astype(np.int16), both[1] >= 0


def _block(
    rows: tuple[int, int],
    columns: tuple[int, int],
    layers: list[Any],
    *,
    samplers: list[Sampler],
    overlap: str,
) -> np.ndarray:
    """Image, and the number of the source of each pixel, -1 none: whole numbers that float32 holds."""
    shape = (rows[1] - rows[0], columns[1] - columns[0])
    image = np.full(shape, np.nan, np.float32)
    source = np.full(shape, -1, np.float32)
    total, count = np.zeros(shape if overlap == "mean" else (0, 0)), np.zeros(shape, np.int16)
    for number, window, corners, blocks in layers[:: -1 if overlap == "last" else 1]:
        if overlap != "mean" and not (source < 0).any():
            break
        sampler = samplers[number]
        part = sampler.part(window, [(*at, b) for at, b in zip(corners, blocks, strict=True)])
        values = sampler.sample(part, window, rows, columns)
        good = np.isfinite(values)
        new = good & (source < 0)
        image[new] = values[new]
        source[new] = number
        if overlap == "mean":
            total[good] += values[good]
            count += good
    if overlap == "mean":
        several = count > 1
        image[several] = total[several] / count[several]
    return np.stack([image, source])
