"""Labelled tiles, as they are trained on: one by one, and in batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xarray as xr

from lunarray.errors import InputError, needs
from lunarray.fractures.brightness import UNIT, Scaling, rule_of, scaled, step_to, unit_of
from lunarray.fractures.metrics import NO_DATA
from lunarray.fractures.model import STRIDE
from lunarray.fractures.normalise import Normalisation
from lunarray.fractures.sunlight import AZIMUTH, Turn, azimuth_of
from lunarray.fractures.tiling import TileSet

with needs("torch", "training on fractures"):
    import torch

#: (image, mask, valid, generator) to the same three, changed.
Augment = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]
#: Images float32, masks uint8, valid bool, each (batch, h, w), on the CPU.
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

#: Weight of "balanced", at most: beyond it, a few pixels outweigh all others.
_MOST_WEIGHT = 50.0


class Tiles(Protocol):
    """What is trained on: a sequence of (image, mask, valid)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class ArrayTiles:
    """Tiles that are in memory.

    Parameters
    ----------
    images : ndarray, shape (tile, h, w), float32
        NaN where there are no data.
    masks : ndarray, shape (tile, h, w), uint8
        1 for fracture, 0 for none, 255 where there are no data.
    valid : ndarray, shape (tile, h, w), bool, optional
        Where there are data besides.

    Raises
    ------
    InputError
        If the shapes differ.
    """

    images: np.ndarray
    masks: np.ndarray
    valid: np.ndarray | None = None

    def __post_init__(self) -> None:
        shapes = {a.shape for a in (self.images, self.masks, self.valid) if a is not None}
        if len(shapes) != 1 or len(self.images.shape) != 3:
            raise InputError(
                f"arrays of shapes {', '.join(map(str, sorted(shapes)))}",
                where="tiles",
                remedy="Give images, masks (and valid), each (tile, h, w)",
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, mask = self.images[index], self.masks[index]
        valid = np.isfinite(image) & (mask != NO_DATA)
        return image, mask, valid if self.valid is None else valid & self.valid[index]


def as_tiles(tiles: Any, name: str) -> Tiles:
    """Insist on tiles, one at least; arrays become :class:`ArrayTiles`."""
    if isinstance(tiles, tuple) and all(isinstance(a, np.ndarray) for a in tiles):
        if len(tiles) not in (2, 3):
            raise InputError(
                f"{len(tiles)} arrays", where=name, remedy="Give images, masks (and valid)"
            )
        tiles = ArrayTiles(*tiles)
    if not hasattr(tiles, "__getitem__") or not hasattr(tiles, "__len__"):
        raise InputError(
            f"a {type(tiles).__name__}",
            where=name,
            remedy="Give what lunarray.fractures.tiles makes, or arrays (images, masks)",
        )
    if len(tiles) == 0:
        raise InputError("no tile", where=name, remedy="Give one at least")
    image, mask, _ = _three(tiles[0], name)
    if np.asarray(image).dtype.kind not in "iuf":
        raise InputError(
            f"an image of type {image.dtype}", where=name, remedy="Give numbers: brightness"
        )
    labels_of(mask, name)
    return tiles


def _three(tile: Any, where: str) -> tuple[Any, Any, Any]:
    """Insist on what a tile is: (image, mask, valid)."""
    good = isinstance(tile, (tuple, list, np.ndarray)) and len(tile) == 3
    if not good or any(np.ndim(part) != 2 for part in tile):
        raise InputError(
            f"a tile that is a {type(tile).__name__}, not (image, mask, valid), each (h, w)",
            where=where,
            remedy="Give what lunarray.fractures.tiles makes, or a tuple of arrays (images, masks)",
        )
    image, mask, valid = tile
    return image, mask, valid


def labels_of(mask: Any, where: str = "tiles") -> np.ndarray:
    """Labels as uint8: 1 for fracture, 0 for none, 255 without data, as NaN is. InputError where others are."""
    given = np.asarray(mask)
    if given.dtype.kind == "b":
        return given.astype(np.uint8)
    if given.dtype.kind == "f":
        given = np.where(np.isnan(given), NO_DATA, given)
    if given.dtype.kind not in "iuf" or ((given != 0) & (given != 1) & (given != NO_DATA)).any():
        raise InputError(
            f"a mask of {given.dtype} that holds more than labels",
            where=where,
            remedy=f"Give 1 for fracture, 0 for none and {NO_DATA} where there are no data",
        )
    return given.astype(np.uint8, copy=False)


def rescaled(
    tiles: Tiles,
    value_range: tuple[float, float] | None,
    rule: Normalisation,
    sure: bool,
    name: str,
) -> Tiles:
    """Tiles on the scale that a network takes.

    `sure`: whether the rule was given along with the tiles, so that it is meant for numbers of which nothing else tells
    what they are. InputError where nothing does.
    """
    wanted = rule_of(rule)
    if wanted.value_range is None and value_range is None:
        return tiles
    if isinstance(tiles, TileSet):
        images = []
        for image in tiles.images:
            if sure and value_range is None and unit_of(image) is None and rule.stretch == "none":
                images.append(image)
                continue
            data = scaled(image, value_range, wanted, now=True)
            kept = {k: v for k, v in image.attrs.items() if k == AZIMUTH}
            images.append(image.copy(data=data).drop_attrs().assign_attrs(kept))
        return dataclasses.replace(tiles, images=tuple(images))
    unit = getattr(tiles, UNIT, None)
    if isinstance(tiles, ArrayTiles) and tiles.images.dtype == np.uint8:
        unit = "8-bit"
    if unit is None and value_range is None:
        if sure:
            return tiles
        raise InputError(
            "nothing tells what the numbers of the tiles are, and the network was trained on "
            + ("images stretched each by itself" if rule.stretch == "image" else str(rule.unit)),
            where=name,
            remedy="Give their black and white as value_range, the normalisation that they need, 8-bit numbers, or "
            f"tiles with an attribute {UNIT} = '0-1'",
        )
    told = xr.DataArray(np.zeros((1, 1), np.float32), attrs={} if unit is None else {UNIT: unit})
    # Tiles alone do not show the image's least and largest number: what is known to be 0 to 1 or 8 bits stays.
    step = step_to(told, value_range, dataclasses.replace(wanted, stretch="none"))
    return tiles if step.idle and not isinstance(tiles, ArrayTiles) else _Rescaled(tiles, step)


@dataclass(frozen=True)
class _Rescaled:
    """Tiles of others on another scale."""

    tiles: Tiles
    step: Scaling

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, mask, valid = self.tiles[index]
        return self.step(image), mask, valid


def stacked(
    tiles: Tiles,
    indices: Sequence[int] | np.ndarray,
    augment: Augment | None = None,
    seed: tuple[int, ...] = (),
) -> Batch:
    """Stack the tiles of these numbers."""
    return collated([prepared(tiles, int(index), augment, seed) for index in indices])


def prepared(
    tiles: Tiles, index: int, augment: Augment | None = None, seed: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A tile as it is trained on, changed by chance that depends on the seed and its number alone."""
    image, mask, valid = tiles[index]
    mask = labels_of(mask)
    valid = np.asarray(valid, bool) & (mask != NO_DATA)
    if augment is not None:
        rng = np.random.default_rng([*seed, index])
        image, mask, valid = _three(augment(image, mask, valid, rng), "augment")
    return np.asarray(image, np.float32), np.asarray(mask, np.uint8), valid


def collated(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Batch:
    """Stack tiles. InputError if they have no common size, a multiple of 8."""
    shapes = {a.shape for part in parts for a in part}
    if len(shapes) != 1 or any(n % STRIDE for shape in shapes for n in shape):
        raise InputError(
            f"tiles of {', '.join(map(str, sorted(shapes)))}",
            where="tiles",
            remedy=f"All must have one size, a multiple of {STRIDE}",
        )
    images, masks, valid = (np.stack(arrays) for arrays in zip(*parts, strict=True))
    valid = valid.astype(bool) & np.isfinite(images) & (masks != NO_DATA)
    return torch.from_numpy(images), torch.from_numpy(masks), torch.from_numpy(valid)


def balanced_weight(tiles: Tiles) -> float:
    """Weight of fracture pixels that gives them as much weight together as all other valid pixels.

    `tiles` (image, mask, valid): all are read. Returns between 1 and 50. InputError if no valid pixel is a fracture.
    """
    there = everything = 0
    for index in range(len(tiles)):
        _, mask, valid = tiles[index]
        good = np.asarray(valid, bool) & (mask != NO_DATA)
        there += int(np.count_nonzero(good & (mask == 1)))
        everything += int(np.count_nonzero(good))
    if there == 0:
        raise InputError(
            "no valid pixel is labelled as a fracture",
            where="tiles",
            remedy="Give tiles with fractures, or class_weight=None",
        )
    return float(np.clip((everything - there) / there, 1, _MOST_WEIGHT))


def lit_from_left(tiles: Tiles, rule: Normalisation) -> Tiles:
    """Tiles turned so that their light is where a network wants it; the same where it takes any.

    Windows of an image are turned as the image is, by what it says of its sun or shows of it; tiles of others all
    alike, by the light that most of them show.
    """
    if rule.sun == "any":
        return tiles
    if isinstance(tiles, TileSet):
        turns = [Turn.of(azimuth_of(image)[0]) for image in tiles.images]
        upright = dataclasses.replace(tiles, rotation=np.zeros_like(tiles.rotation))
        return _Turned(upright, tuple(turns), tiles.windows[:, 0])
    some = [np.asarray(tiles[int(i)][0]) for i in np.linspace(0, len(tiles) - 1, 25).astype(int)]
    some = [image for image in some if image.shape == some[0].shape]
    azimuth, _ = azimuth_of(xr.DataArray(np.hstack(some), dims=("y", "x")))
    return _Turned(tiles, (Turn.of(azimuth),), np.zeros(len(tiles), np.intp))


@dataclass(frozen=True)
class _Turned:
    """Tiles, each turned as the image that it is of."""

    tiles: Tiles
    turns: tuple[Turn, ...]
    image: np.ndarray

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        turn = self.turns[int(self.image[index])]
        image, mask, valid = (np.ascontiguousarray(turn.apply(a)) for a in self.tiles[index])
        return image, mask, valid
