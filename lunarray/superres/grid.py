"""The grid of the Global Information Bank: pixels of two kilometres, gathered in regions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import GridError
from lunarray.geo import wrap_longitude

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["GIBGrid"]


def starts(count: int, size: int, stride: int) -> list[int]:
    """First rows (or columns) of sub-regions that cover so many pixels; the last is moved back to end with them."""
    last = max(count - size, 0)
    own = list(range(0, last + 1, stride))
    return own if own[-1] == last else [*own, last]


def turns(start: int, stop: int, width: int) -> Iterator[tuple[slice, int]]:
    """Cut columns that go on past those of a map all around the Moon: slices of the map's own, and which turn it is."""
    while start < stop:
        turn = start // width
        end = min(stop, (turn + 1) * width)
        yield slice(start - turn * width, end - turn * width), turn
        start = end


def joined(parts: list[Any], axis: int) -> Any:
    """Put NumPy or Dask arrays one behind the other."""
    if len(parts) == 1:
        return parts[0]
    if hasattr(parts[0], "dask"):
        import dask.array as da

        return da.concatenate(parts, axis=axis)
    return np.concatenate(parts, axis=axis)


@dataclass(frozen=True)
class GIBGrid:
    """Regular grid in longitude and latitude, divided into regions.

    Region (i, j) is counted from the north-western corner: i southwards, j eastwards, both from 0. Global indices of
    pixels are counted likewise.

    Parameters
    ----------
    regions : (int, int)
        Regions from north to south and from west to east.
    shape : (int, int)
        Rows and columns of pixels of each region.
    extent : (float, float, float, float)
        West, south, east, north (degrees, west < east, in [-180, 180]). A grid of 360° wraps around.

    Raises
    ------
    GridError
        If a number is not positive, or the extent is empty or not on the globe.

    References
    ----------
    Lunar elemental analysis and mapping of CLASS data, section IV.B: 8 × 8 regions of 22.5° × 45°, each of 342 × 682
    pixels, which are about two kilometres at the equator.

    Examples
    --------
    >>> import lunarray as la
    >>> la.superres.GIBGrid().size
    (2736, 5456)
    """

    regions: tuple[int, int] = (8, 8)
    shape: tuple[int, int] = (342, 682)
    extent: tuple[float, float, float, float] = (-180.0, -90.0, 180.0, 90.0)

    def __post_init__(self) -> None:
        for name in ("regions", "shape"):
            pair = tuple(getattr(self, name))
            if len(pair) != 2 or any(int(v) != v or v < 1 for v in pair):
                raise GridError(
                    f"{name} is {pair}", where="GIBGrid", remedy="Give two positive whole numbers"
                )
            object.__setattr__(self, name, tuple(int(v) for v in pair))
        extent = tuple(float(v) for v in self.extent)
        object.__setattr__(self, "extent", extent)
        good = len(extent) == 4 and -180 <= extent[0] < extent[2] <= 180
        if not (good and -90 <= extent[1] < extent[3] <= 90):
            raise GridError(
                f"the extent is {extent}",
                where="GIBGrid",
                remedy="Give west < east in [-180, 180] and south < north in [-90, 90], in degrees; a grid across "
                "±180° goes all around",
            )

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the whole grid."""
        return self.regions[0] * self.shape[0], self.regions[1] * self.shape[1]

    @property
    def step(self) -> tuple[float, float]:
        """Height and width of a pixel (degrees)."""
        west, south, east, north = self.extent
        return (north - south) / self.size[0], (east - west) / self.size[1]

    @property
    def periodic(self) -> bool:
        """Whether the grid goes all around, so that its last column touches its first."""
        return self.extent[2] - self.extent[0] == 360.0

    @property
    def geobox(self) -> GeoBox:
        """The whole grid as a GeoBox (IAU_2015:30100)."""
        return self._geobox(0, 0, *self.size)

    def region_geobox(self, i: int, j: int) -> GeoBox:
        """Region (i, j) as a GeoBox (IAU_2015:30100)."""
        rows, columns = self.slices(i, j)
        return self._geobox(rows.start, columns.start, *self.shape)

    def _geobox(self, row: int, column: int, rows: int, columns: int) -> GeoBox:
        from affine import Affine
        from odc.geo.geobox import GeoBox

        from lunarray.geo import moon_crs

        height, width = self.step
        west, _, _, north = self.extent
        transform = Affine(width, 0.0, west + column * width, 0.0, -height, north - row * height)
        return GeoBox((rows, columns), transform, moon_crs("geographic"))

    def lat(self, i: int | None = None) -> np.ndarray:
        """Latitudes of the pixels' centres (degrees, float64, descending), of region row i or of the whole grid."""
        rows = np.arange(self.size[0]) if i is None else self._range(i, 0)
        return self.extent[3] - (rows + 0.5) * self.step[0]

    def lon(self, j: int | None = None) -> np.ndarray:
        """Longitudes of the pixels' centres (degrees, float64, ascending), of region column j or of the whole grid."""
        columns = np.arange(self.size[1]) if j is None else self._range(j, 1)
        return self.extent[0] + (columns + 0.5) * self.step[1]

    def _range(self, k: int, axis: int) -> np.ndarray:
        self._check(k, axis)
        return np.arange(k * self.shape[axis], (k + 1) * self.shape[axis])

    def _check(self, k: int, axis: int) -> None:
        if not 0 <= k < self.regions[axis]:
            raise GridError(
                f"no region {'row' if axis == 0 else 'column'} {k}",
                where="GIBGrid",
                remedy=f"Give 0 to {self.regions[axis] - 1}",
            )

    def existing(self, regions: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Regions as pairs of int; GridError names the first that the grid does not have."""
        found = [(int(i), int(j)) for i, j in regions]
        for i, j in found:
            self._check(i, 0)
            self._check(j, 1)
        return found

    def slices(self, i: int, j: int) -> tuple[slice, slice]:
        """Rows and columns of region (i, j) in the whole grid."""
        self._check(i, 0)
        self._check(j, 1)
        rows, columns = self.shape
        return slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns)

    def pixel_of(self, lat: Any, lon: Any) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (row, column) int64 that hold points, in degrees of any range of longitudes.

        Indices are global; both -1 outside of the grid and where a coordinate is missing. The southern edge, and the
        eastern edge of a grid that does not wrap, belong to the last pixel.
        """
        lat, lon = np.broadcast_arrays(np.asarray(lat, "f8"), np.asarray(lon, "f8"))
        west, south, east, north = self.extent
        height, width = self.step
        x = np.asarray(wrap_longitude(lon, origin=west), "f8")
        inside = np.isfinite(x) & (lat <= north) & (lat >= south) & (x <= east)
        row = np.floor(np.where(inside, north - lat, 0.0) / height).astype(np.int64)
        column = np.floor(np.where(inside, x - west, 0.0) / width).astype(np.int64)
        rows, columns = self.size
        row, column = np.minimum(row, rows - 1), np.minimum(column, columns - 1)
        return np.where(inside, row, -1), np.where(inside, column, -1)

    def region_of(self, lat: Any, lon: Any) -> tuple[np.ndarray, np.ndarray]:
        """Regions (i, j) that hold points (degrees, any range of longitudes); -1 outside of the grid."""
        row, column = self.pixel_of(lat, lon)
        # Floor division keeps -1 at -1.
        return row // self.shape[0], column // self.shape[1]

    def region_index(self, pixel: np.ndarray) -> np.ndarray:
        """Numbers of the regions, counted row by row, that hold pixels, by their flat index in the whole grid."""
        row, column = pixel // self.size[1], pixel % self.size[1]
        return row // self.shape[0] * self.regions[1] + column // self.shape[1]

    def regions_at(self, index: np.ndarray) -> list[tuple[int, int]]:
        """Regions (i, j) by their numbers."""
        return [(int(k // self.regions[1]), int(k % self.regions[1])) for k in index]

    def neighbours(self, i: int, j: int) -> list[tuple[int, int]]:
        """Regions that share a border or a corner with region (i, j), across ±180° too where the grid wraps.

        Regions that meet only in a pole are not counted as neighbours.
        """
        self._check(i, 0)
        self._check(j, 1)
        found: dict[tuple[int, int], None] = {}
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                k, m = i + di, j + dj
                if self.periodic:
                    m %= self.regions[1]
                if 0 <= k < self.regions[0] and 0 <= m < self.regions[1] and (k, m) != (i, j):
                    found[k, m] = None
        return list(found)

    def all_regions(self) -> Iterator[tuple[int, int]]:
        """Every region, row by row."""
        return ((i, j) for i in range(self.regions[0]) for j in range(self.regions[1]))

    def to_json(self) -> str:
        """The grid as text, for the attributes of a store."""
        return json.dumps(
            {"regions": self.regions, "shape": self.shape, "extent": self.extent}, sort_keys=True
        )

    @classmethod
    def from_json(cls, text: str) -> GIBGrid:
        """The grid that :meth:`to_json` wrote."""
        parts = json.loads(text)
        return cls(tuple(parts["regions"]), tuple(parts["shape"]), tuple(parts["extent"]))
