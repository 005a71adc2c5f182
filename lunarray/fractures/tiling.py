"""Tiles of images and their labels for training, and splits that keep the same ground on one side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError, require_choice, require_number
from lunarray.fractures.ground import box_of
from lunarray.fractures.layers import each_block, same_grid
from lunarray.geo import BODIES, crs_of, from_lonlat, require_body, spatial_dims, to_lonlat

__all__ = ["TileSet", "split", "tiles"]


@dataclass(frozen=True)
class TileSet:
    """Windows of images, read when they are asked for.

    ``len(tiles)`` of them; ``tiles[i]`` is ``(image, mask, valid)``: float32 (size, size) with NaN where there are no
    data, uint8 0 or 1, and bool. Without labels the mask is 0.

    Attributes
    ----------
    images : tuple of DataArray
        The images, lazy or not.
    labels : tuple of DataArray or None
        The labels of each.
    windows : ndarray (tile, 3), int64
        Image, first row and first column of each tile.
    size : int
        Side of the tiles, pixels.
    rotation : ndarray (tile), int8
        Quarter turns, clockwise.
    has_fracture : ndarray (tile), bool
        Whether a label in the tile is 1.
    valid_share : ndarray (tile), float32
        Share of its pixels with data.
    names : tuple of str
        What the images are called.
    """

    images: tuple[xr.DataArray, ...]
    labels: tuple[xr.DataArray | None, ...]
    windows: np.ndarray
    size: int
    rotation: np.ndarray
    has_fracture: np.ndarray
    valid_share: np.ndarray
    names: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One tile: image float32, mask uint8, valid bool, each (size, size)."""
        number = range(len(self))[index]  # negative indices, and IndexError, as of a list
        which, row, column = (int(v) for v in self.windows[number])
        image = _read(self.images[which], row, column, self.size, np.float32, np.nan)
        valid = np.isfinite(image)
        layer = self.labels[which]
        if layer is None:
            mask = np.zeros(image.shape, np.uint8)
        else:
            stored = _read(layer, row, column, self.size, np.uint8, 255)
            valid &= stored != 255
            mask = ((stored == 1) & valid).astype(np.uint8)
        turns = -int(self.rotation[number])  # numpy turns the other way round
        if turns:
            image, mask, valid = (
                np.ascontiguousarray(np.rot90(a, turns)) for a in (image, mask, valid)
            )
        return image, mask, valid

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return (self[i] for i in range(len(self)))

    def select(self, which: Any) -> TileSet:
        """Some of the tiles.

        Parameters
        ----------
        which : array of bool or int
            Which.

        Returns
        -------
        TileSet
            In that order.
        """
        which = np.asarray(which)
        which = np.flatnonzero(which) if which.dtype == bool else which.astype(np.int64)
        return dataclasses.replace(
            self,
            windows=self.windows[which],
            rotation=self.rotation[which],
            has_fracture=self.has_fracture[which],
            valid_share=self.valid_share[which],
        )

    def with_rotations(self) -> TileSet:
        """Add copies turned by 90°, 180° and 270° of the tiles with fractures, and only of them.

        Returns
        -------
        TileSet
            The tiles, followed by the copies.
        """
        upright = np.flatnonzero(self.has_fracture & (self.rotation == 0))
        which = np.concatenate([np.arange(len(self)), np.repeat(upright, 3)])
        out = self.select(which)
        rotation = out.rotation.copy()
        rotation[len(self) :] = np.tile([1, 2, 3], upright.size)
        return dataclasses.replace(out, rotation=rotation)

    def stack(self, which: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tiles in memory.

        Parameters
        ----------
        which : array of int, optional
            Which; by default all.

        Returns
        -------
        image, mask, valid : ndarray (tile, size, size)
            float32, uint8, bool.
        """
        indices = range(len(self)) if which is None else [int(i) for i in which]
        shape = (len(indices), self.size, self.size)
        image, mask, valid = np.empty(shape, np.float32), np.empty(shape, np.uint8), np.empty(shape, bool)  # fmt: skip
        for k, i in enumerate(indices):
            image[k], mask[k], valid[k] = self[i]
        return image, mask, valid


def _read(
    array: xr.DataArray, row: int, column: int, size: int, dtype: Any, fill: Any
) -> np.ndarray:
    block = np.asarray(array.data[row : row + size, column : column + size], dtype=dtype)
    if block.shape == (size, size):
        return block
    out = np.full((size, size), fill, dtype)
    out[: block.shape[0], : block.shape[1]] = block
    return out


def tiles(
    images: xr.DataArray | Sequence[xr.DataArray],
    labels: xr.DataArray | Sequence[xr.DataArray | None] | None = None,
    *,
    size: int = 512,
    overlap: float = 0.1,
    min_valid: float = 0.0,
) -> TileSet:
    """Cut images into tiles.

    Parameters
    ----------
    images : DataArray or sequence of DataArray
        (y, x) float32, NaN where there are no data.
    labels : DataArray or sequence, optional
        Of each image, on its grid: 1 fracture, 0 background, 255 no data.
    size : int
        Side of the tiles, pixels.
    overlap : float
        Share that neighbouring tiles have in common: 0.1 for training, 0 for testing.
    min_valid : float
        Tiles with no more than this share of pixels with data are left out.

    Returns
    -------
    TileSet
        From every image, row by row. The last tile of a row and of a column is moved back, so that it ends with the
        image; an image smaller than a tile is one tile, filled up with NaN.

    Raises
    ------
    InputError
        If a size or share is out of range, or no tile holds data.
    GridError
        If labels are not on the grid of their image.

    Notes
    -----
    Images and labels are read once, chunk by chunk, to count what is valid and labelled in each tile; the tiles
    themselves are read when they are asked for.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, section 3.1.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.nac_scene((256, 256))
    >>> len(la.fractures.tiles(scene.dataset["image"], scene.dataset["mask"], size=128, overlap=0.0))
    4
    """
    pictures, layers = _pairs(images, labels)
    require_number("size", size, 1, whole=True)
    for name, value in (("overlap", overlap), ("min_valid", min_valid)):
        if not 0 <= value < 1:
            raise InputError(
                f"{value!r}", where=name, remedy="Give a share, 0 or more and less than 1"
            )
    step = max(1, round(size * (1 - overlap)))
    windows, has, share = [], [], []
    for number, (picture, layer) in enumerate(zip(pictures, layers, strict=True)):
        starts = [_starts(length, size, step) for length in picture.shape]
        valid, marked = _counts(picture.data, None if layer is None else layer.data, starts, size)
        keep = valid > min_valid * size * size
        row, column = np.meshgrid(*starts, indexing="ij")
        windows.append(
            np.column_stack([np.full(keep.sum(), number), row[keep], column[keep]]).astype(np.int64)
        )
        has.append(marked[keep] > 0)
        share.append((valid[keep] / (size * size)).astype(np.float32))
    where = np.concatenate(windows)
    if not len(where):
        raise InputError(
            f"no tile of {len(pictures)} images holds data in more than {min_valid:.0%} of its pixels",
            where="tiles",
            remedy="Check the valid data of the images, or give a smaller min_valid",
        )
    names = tuple(str(p.attrs.get("source", f"image {k}")) for k, p in enumerate(pictures))
    return TileSet(
        images=tuple(pictures),
        labels=tuple(layers),
        windows=where,
        size=int(size),
        rotation=np.zeros(len(where), np.int8),
        has_fracture=np.concatenate(has),
        valid_share=np.concatenate(share),
        names=names,
    )


def _pairs(images: Any, labels: Any) -> tuple[list[xr.DataArray], list[xr.DataArray | None]]:
    """Images (y, x), and the labels of each on its grid."""
    pictures = [images] if isinstance(images, xr.DataArray) else list(images)
    if labels is None or isinstance(labels, xr.DataArray):
        layers: list[xr.DataArray | None] = [labels] * (1 if labels is not None else len(pictures))
    else:
        layers = list(labels)
    if not pictures or len(layers) != len(pictures):
        raise InputError(
            f"{len(pictures)} images and {len(layers)} labels", where="labels", remedy="Give one of each"
        )  # fmt: skip
    for number, (picture, layer) in enumerate(zip(pictures, layers, strict=True)):
        dims = spatial_dims(picture)
        if dims is None or picture.ndim != 2:
            raise GridError(
                f"no image: the dimensions are {tuple(map(str, picture.dims))}",
                where=f"image {number}",
                remedy="Give dimensions (y, x)",
            )
        pictures[number] = picture.transpose(*dims)
        if layer is not None:
            layers[number] = same_grid(layer, pictures[number], f"labels of image {number}")
    return pictures, layers


def _starts(length: int, size: int, step: int) -> np.ndarray:
    if length <= size:
        return np.zeros(1, np.int64)
    regular = np.arange(0, length - size + 1, step)
    last = length - size
    return np.append(regular, last) if regular[-1] != last else regular


def _counts(
    image: Any, labels: Any, starts: list[np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels with data, and labelled pixels among them, in each window."""
    valid = np.zeros((len(starts[0]), len(starts[1])), np.int64)
    marked = np.zeros_like(valid)
    for rows, columns, a, b in each_block(_count_block, image, labels, starts=starts, size=size):
        valid[rows, columns] += a
        marked[rows, columns] += b
    return valid, marked


def _span(any_: np.ndarray) -> tuple[int, int]:
    at = np.flatnonzero(any_)
    return (int(at[0]), int(at[-1]) + 1) if at.size else (0, 0)


def _count_block(
    row: int, column: int, image: np.ndarray, labels: np.ndarray | None, *, starts: Any, size: int
) -> tuple[slice, slice, np.ndarray, np.ndarray]:
    """The same in one block, for the windows that it is part of."""
    good = np.isfinite(image)
    if labels is not None:
        good &= labels != 255
    edges = [
        (np.clip(s - first, 0, length), np.clip(s + size - first, 0, length))
        for s, first, length in zip(starts, (row, column), image.shape, strict=True)
    ]
    valid = _count(good, edges)
    rows, columns = (slice(*_span(np.asarray(valid.any(axis=axis)))) for axis in (1, 0))
    marked = np.zeros_like(valid) if labels is None else _count(good & (labels == 1), edges)
    return rows, columns, valid[rows, columns], marked[rows, columns]


def _count(layer: np.ndarray, edges: Any) -> np.ndarray:
    """Pixels in rectangles, by differences of running sums."""
    total = np.zeros((layer.shape[0] + 1, layer.shape[1] + 1), np.int64)
    total[1:, 1:] = layer.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    (top, bottom), (left, right) = edges
    return (
        total[np.ix_(bottom, right)]
        - total[np.ix_(top, right)]
        - total[np.ix_(bottom, left)]
        + total[np.ix_(top, left)]
    )


def split(
    tile_set: TileSet,
    by: Literal["image", "area", "tile"] = "image",
    fraction: float = 0.2,
    seed: int = 0,
) -> tuple[TileSet, TileSet]:
    """Split tiles into those to train on and those to validate with.

    Parameters
    ----------
    tile_set : TileSet
        All tiles, as :func:`tiles` returns them, without rotated copies.
    by : {"image", "area", "tile"}
        "image", the default, puts all tiles of an image on one side, and with them those of all images that show some
        of the same ground. "area" cuts every image by a straight line and drops the tiles across it: for a single
        mosaic. "tile" deals out single tiles as the paper does, so that overlapping ones may land on both sides.
    fraction : float
        Share of the tiles to validate with; by image, as near to it as whole images allow.
    seed : int
        The same seed, the same split.

    Returns
    -------
    training, validation : TileSet
        Neither of them empty.

    Raises
    ------
    InputError
        If a side would be empty, as with one image split by image.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, section 3.1 (4:1, by tile), and section 4.1 on images that
    overlap between training and validation.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.nac_scene((256, 256))
    >>> tiles = la.fractures.tiles(scene.dataset["image"], scene.dataset["mask"], size=64, overlap=0.0)
    >>> train, validation = la.fractures.split(tiles, by="tile", fraction=0.25)
    >>> len(train), len(validation)
    (12, 4)
    """
    require_choice("by", by, ("image", "area", "tile"))
    require_number("fraction", fraction, 0, 1, strictly=True)
    rng = np.random.default_rng(seed)
    count = len(tile_set)
    if by == "tile":
        chosen = np.zeros(count, bool)
        chosen[rng.permutation(count)[: round(fraction * count)]] = True
        kept = np.ones(count, bool)
    elif by == "image":
        groups = _ground_groups(tile_set)
        chosen = _pick_groups(groups, fraction, rng)
        kept = np.ones(count, bool)
    else:
        chosen, kept = _by_area(tile_set, fraction, rng)
    training, validation = tile_set.select(kept & ~chosen), tile_set.select(kept & chosen)
    if not len(training) or not len(validation):
        remedy = {
            "image": 'Give images of different ground, or by="area"',
            "area": "Give a larger image or smaller tiles",
            "tile": "Give more tiles",
        }[by]
        raise InputError(
            f"{count} tiles of {len(np.unique(tile_set.windows[:, 0]))} images do not split by {by}: "
            f"{len(training)} to train on, {len(validation)} to validate with",
            where="split",
            remedy=remedy,
        )
    return training, validation


def _pick_groups(groups: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    names, sizes = np.unique(groups, return_counts=True)
    if names.size < 2:
        return np.zeros(groups.size, bool)
    wanted = fraction * groups.size
    picked: list[int] = []
    total = 0
    for k in rng.permutation(names.size):
        # A group goes in where that brings the total nearer to what is wanted; one group stays out.
        if len(picked) < names.size - 1 and abs(total + sizes[k] - wanted) < abs(total - wanted):
            picked.append(k)
            total += sizes[k]
    if not picked:
        picked = [int(np.argmin(sizes))]
    return np.isin(groups, names[picked])


def _ground_groups(tile_set: TileSet) -> np.ndarray:
    """Number of a group for each tile: images that share ground are in one."""
    import shapely

    count = len(tile_set.images)
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    placed = [k for k, image in enumerate(tile_set.images) if crs_of(image) is not None]
    if len(placed) > 1:
        outlines, owners = [], []
        target = None
        for k in placed:
            geobox = box_of(tile_set.images[k])
            target = geobox.crs if target is None else target
            mine = tile_set.windows[tile_set.windows[:, 0] == k]
            outlines.append(_outlines(mine[:, 1:], tile_set.size, geobox, target))
            owners.append(np.full(len(mine), k))
        shapes, owner = np.concatenate(outlines), np.concatenate(owners)
        tree = shapely.STRtree(shapes)
        a, b = tree.query(shapes, predicate="intersects")
        pairs = np.unique(np.column_stack([owner[a], owner[b]])[owner[a] < owner[b]], axis=0)
        for i, j in pairs:
            ri, rj = root(int(i)), root(int(j))
            parent[max(ri, rj)] = min(ri, rj)
    groups = np.array([root(k) for k in range(count)])
    return groups[tile_set.windows[:, 0]]


def _outlines(corners: np.ndarray, size: int, geobox: Any, target: Any) -> np.ndarray:
    """Outlines of windows in the CRS of the first image."""
    import shapely

    affine, source, crs = (
        geobox.transform,
        require_body(geobox.crs, BODIES),
        require_body(target, BODIES),
    )
    rows, columns = geobox.shape
    r0, c0 = corners[:, 0], corners[:, 1]
    r1, c1 = np.minimum(r0 + size, rows), np.minimum(c0 + size, columns)
    # A hair smaller, so that windows side by side do not touch.
    r0, c0, r1, c1 = r0 + 0.01, c0 + 0.01, r1 - 0.01, c1 - 0.01
    x = affine.c + affine.a * np.stack([c0, c1, c1, c0], 1)
    y = affine.f + affine.e * np.stack([r0, r0, r1, r1], 1)
    if source != crs:
        x, y = from_lonlat(crs, *to_lonlat(source, x, y))
    good = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
    return shapely.polygons(np.stack([x[good], y[good]], axis=-1))


def _by_area(
    tile_set: TileSet, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    chosen, kept = np.zeros(len(tile_set), bool), np.ones(len(tile_set), bool)
    for k in np.unique(tile_set.windows[:, 0]):
        mine = np.flatnonzero(tile_set.windows[:, 0] == k)
        rows, columns = tile_set.windows[mine, 1], tile_set.windows[mine, 2]
        # Across the longer side, from a side that chance picks.
        first = rows if np.ptp(rows) >= np.ptp(columns) else columns
        low, high = int(first.min()), int(first.max()) + tile_set.size
        if rng.random() < 0.5:
            border = low + round((high - low) * fraction)
            inside, outside = first + tile_set.size <= border, first >= border
        else:
            border = high - math.floor((high - low) * fraction)
            inside, outside = first >= border, first + tile_set.size <= border
        if not inside.any():
            # Narrower than a tile: the outermost row of tiles.
            edge = first.min() if border - low < high - border else first.max()
            inside = first == edge
            outside = (
                first >= edge + tile_set.size
                if edge == first.min()
                else first + tile_set.size <= edge
            )
        chosen[mine[inside]] = True
        kept[mine] = inside | outside
    return chosen, kept
