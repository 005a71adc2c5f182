"""The three grids that the viewer draws on, cut into tiles: both poles and the whole Moon."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lunarray.geo import MOON, RADIUS

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

#: Side of a tile, pixels.
SIDE = 256
#: Levels; at the last one a pixel is centimetres wide.
LEVELS = 21


@dataclass(frozen=True)
class TileGrid:
    """A projection cut into tiles, four times as many at each level.

    Attributes
    ----------
    name, title : str
        For addresses, and for people.
    system : str
        Of the Moon, by its short name.
    bounds : tuple of 4 float
        left, bottom, right, top, m.
    columns, rows : int
        Tiles at level 0.
    """

    name: str
    title: str
    system: str
    bounds: tuple[float, float, float, float]
    columns: int
    rows: int

    def resolution(self, level: int) -> float:
        """Side of a pixel at a level, m."""
        return (self.bounds[2] - self.bounds[0]) / (self.columns * SIDE * 2**level)

    def tile(self, level: int, column: int, row: int) -> GeoBox | None:
        """Pixels of a tile, counted from the upper left; None for one that there is not."""
        inside = 0 <= level < LEVELS and 0 <= column < self.columns << level
        if not (inside and 0 <= row < self.rows << level):
            return None
        step = self.resolution(level)
        left, top = self.bounds[0] + column * SIDE * step, self.bounds[3] - row * SIDE * step
        return box(left, top, step, (SIDE, SIDE), MOON.crs(self.system))

    def described(self) -> dict[str, Any]:
        """What the page needs to know of it."""
        return {
            "name": self.name,
            "title": self.title,
            "code": MOON.systems[self.system],
            "bounds": self.bounds,
            "tiles": [self.columns, self.rows],
            "resolutions": [self.resolution(level) for level in range(LEVELS)],
        }


def box(left: float, top: float, step: float, shape: tuple[int, int], crs: Any) -> GeoBox:
    """Square pixels from an upper left corner on."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    return GeoBox(shape, Affine(step, 0.0, left, 0.0, -step, top), crs)


# A polar map ends at the equator, where its scale is twice that at the pole.
_EDGE = 2.0 * RADIUS
_TURN = math.pi * RADIUS
GRIDS = {
    grid.name: grid
    for grid in (
        TileGrid("north", "North pole", "north", (-_EDGE, -_EDGE, _EDGE, _EDGE), 1, 1),
        TileGrid("south", "South pole", "south", (-_EDGE, -_EDGE, _EDGE, _EDGE), 1, 1),
        TileGrid("global", "Whole Moon", "equirectangular", (-_TURN, -_TURN / 2, _TURN, _TURN / 2), 2, 1),
    )
}  # fmt: skip
