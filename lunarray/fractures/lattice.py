"""Where tiles lie on an image and how they are blended: a lattice anchored to the image, whatever its chunks are.

Two chunkings of one image then run the same network on the same tiles and add the same numbers in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lunarray.errors import InputError

#: Tiles begin, and their sides are, at multiples of this: a network of stride 8 or 16 sees the same phase everywhere.
ALIGN = 32
#: Pixels over which a tile gives way to the next.
RAMP = 32


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis.

    Parameters
    ----------
    length : int
        Pixels of the image.
    tile : int
        Pixels of a tile, a multiple of 32; an image smaller than that gets one that it just fits in.
    overlap : int
        Pixels that neighbouring tiles share at least.
    group : int
        Tiles to a side of a group, which is what one task runs.
    """

    length: int
    tile: int
    overlap: int
    group: int = 2

    @cached_property
    def size(self) -> int:
        """Pixels of a tile."""
        return min(self.tile, _up(self.length))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First pixel of each tile; the last tile may reach over the image's end by less than 32 pixels."""
        last = _up(max(0, self.length - self.size))
        stride = self.tile - self.overlap
        return tuple(dict.fromkeys([*range(0, last, stride), last]))

    @cached_property
    def weights(self) -> np.ndarray:
        """Share of each tile in each of its pixels, shape (tile, size), float32; those of a pixel sum to 1."""
        ramp = max(1, min(RAMP, self.overlap))
        edge = (self.overlap - ramp) / 2
        # Zero by the border, where the network lacks surroundings; then a ramp up, in the middle of the overlap.
        inward = np.clip((np.arange(self.size) + 0.5 - edge) / ramp, 0, 1)
        single = np.tile(np.minimum(inward, inward[::-1]), (len(self.starts), 1))
        half = self.size // 2
        single[0, :half] = 1
        single[-1, self.size - half :] = 1
        total = np.zeros(self.starts[-1] + self.size)
        for start, weight in zip(self.starts, single, strict=True):
            total[start : start + self.size] += weight
        for start, weight in zip(self.starts, single, strict=True):
            weight /= total[start : start + self.size]
        return single.astype(np.float32)

    @cached_property
    def groups(self) -> tuple[range, ...]:
        """Tiles of each group."""
        count = len(self.starts)
        return tuple(range(i, min(i + self.group, count)) for i in range(0, count, self.group))

    def extent(self, group: int) -> tuple[int, int]:
        """First pixel of a group, and the one after its last; within the image."""
        tiles = self.groups[group]
        return self.starts[tiles[0]], min(self.starts[tiles[-1]] + self.size, self.length)

    def groups_over(self, start: int, stop: int) -> Iterator[int]:
        """Groups that cover some of the pixels from `start` to before `stop`, in order."""
        for group in range(len(self.groups)):
            first, after = self.extent(group)
            if first < stop and start < after:
                yield group


def _up(value: int) -> int:
    """The next multiple of 32."""
    return -(-value // ALIGN) * ALIGN


def check_lattice(tile: int, overlap: int) -> None:
    """Raise where tile and overlap make no lattice.

    `tile`, `overlap`: pixels. InputError if they are no multiples of 32, or tiles would overlap by more than half.
    """
    if tile < 2 * ALIGN or tile % ALIGN:
        raise InputError(
            f"tiles of {tile} pixels",
            where="tile",
            remedy=f"Give a multiple of {ALIGN}, 64 at least",
        )
    if overlap < 0 or overlap % ALIGN or 2 * overlap > tile:
        raise InputError(
            f"an overlap of {overlap} pixels for tiles of {tile}",
            where="overlap",
            remedy=f"Give a multiple of {ALIGN}, half a tile at most",
        )
