"""Which pixels a footprint covers: the mean over them is what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lunarray.geo import unit_vectors

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Support:
    """Footprints over a grid of pixels, as a sparse matrix of shares.

    `pixel` and `footprint` (entry,) int64 are the flat index of a pixel, and the footprint that covers it; entries of
    one footprint follow each other, and their `share` (entry,) float32 sums to 1. `measured` and `error` (footprint,
    element) float32 are abundance and its standard deviation, wt%, NaN where missing; `number` (footprint,) int64 is
    which footprints these are, in the table that they come from.
    """

    pixel: np.ndarray
    footprint: np.ndarray
    share: np.ndarray
    measured: np.ndarray
    error: np.ndarray
    number: np.ndarray

    @classmethod
    def empty(cls, elements: int = 0) -> Support:
        """No footprints, which have measured none of so many elements."""
        none = np.zeros(0, np.int64)
        table = np.zeros((0, elements), np.float32)
        return cls(none, none, np.zeros(0, np.float32), table, table, none)

    @property
    def count(self) -> int:
        """How many footprints there are."""
        return len(self.measured)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All arrays, in a fixed order."""
        return self.pixel, self.footprint, self.share, self.measured, self.error, self.number

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over each footprint, (footprint, value) float64, of `values` (pixel, value) by flat index."""
        import scipy.sparse

        shape = (self.count, len(values))
        matrix = scipy.sparse.csr_matrix(
            (self.share.astype(np.float64), (self.footprint, self.pixel)), shape=shape
        )
        return np.asarray(matrix @ values)

    def relative_weights(self) -> np.ndarray:
        """Weights by inverse variance with a median of 1, (footprint, element) float32.

        Between 0.1 and 10, so that one footprint of a small stated error does not outweigh all others; 1 where no error
        is known.
        """
        variance = self.error.astype(np.float64) ** 2
        good = np.isfinite(variance) & (variance > 0)
        result = np.ones(self.error.shape, np.float32)
        for e in range(self.error.shape[1]):
            if good[:, e].any():
                own = variance[good[:, e], e]
                result[good[:, e], e] = np.clip(np.median(own) / own, 0.1, 10)
        return result

    def restricted(self, valid: np.ndarray, least: float = 0.5) -> Support:
        """Only the pixels that are `valid` (pixel,); footprints go of which less than `least` of their area stays."""
        inside = valid[self.pixel]
        if inside.all():
            return self
        node = np.where(valid, np.arange(len(valid)), -1)
        pixel, footprint, share, chosen = self.within(node, least)
        return Support(
            pixel, footprint, share, self.measured[chosen], self.error[chosen], self.number[chosen]
        )

    def within(
        self, node: np.ndarray, least: float = 0.9
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Footprints of which the share `least` or more lies within a part of the pixels.

        `node` (pixel,) is the new number of each pixel, -1 for those outside. Gives entries as in the class in new
        numbers, with shares that sum to 1 again, and which footprints these are.
        """
        there = node[self.pixel]
        inside = there >= 0
        covered = np.bincount(
            self.footprint[inside], self.share[inside].astype(np.float64), self.count
        )
        chosen = np.flatnonzero(covered >= least)
        renumbered = np.full(self.count, -1, np.int64)
        renumbered[chosen] = np.arange(len(chosen))
        entry = inside & (renumbered[self.footprint] >= 0) if len(chosen) else np.zeros_like(inside)
        old = self.footprint[entry]
        share = (self.share[entry] / covered[old]).astype(np.float32)
        return there[entry], renumbered[old], share, chosen


def footprint_support(
    corner_lat: np.ndarray,
    corner_lon: np.ndarray,
    measured: np.ndarray,
    error: np.ndarray,
    lat: np.ndarray,
    lon: np.ndarray,
    *,
    least: float = 0.5,
) -> Support:
    """Find the pixels of a grid, centred at `lat` (row,) and `lon` (column,), whose centre footprints cover.

    Corners (footprint, corner) are in order around each footprint, degrees of any range of longitudes; `measured` and
    `error` (footprint, element) are the abundance and its standard deviation, wt%. Footprints with no pixel, with a
    missing corner or nothing measured are left out, and those of which less than the share `least` of the area lies on
    the grid; of those that reach beyond it by less, the part on the grid stands for the whole.

    Edges are great circles: the test is made in the gnomonic projection around each footprint, where they are straight,
    so that neither ±180° nor a pole is special.
    """
    points = unit_vectors(corner_lon, corner_lat)
    centre = points.mean(axis=1)
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    reach = np.linalg.norm(points - centre[:, None], axis=2).max(axis=1)
    height = float(np.mean(np.abs(np.diff(lat)))) if len(lat) > 1 else 1.0
    width = float(np.mean(np.abs(np.diff(lon)))) if len(lon) > 1 else height
    area = np.deg2rad(height) * np.deg2rad(width) * np.cos(np.deg2rad(lat))
    pixels: list[np.ndarray] = []
    shares: list[np.ndarray] = []
    numbers: list[int] = []
    usable = np.isfinite(points).all(axis=(1, 2)) & np.isfinite(measured).any(axis=1)
    columns = np.arange(len(lon))
    for n in np.flatnonzero(usable):
        c = centre[n]
        phi = np.rad2deg(np.arcsin(np.clip(c[2], -1, 1)))
        angle = np.rad2deg(2 * np.arcsin(min(reach[n] / 2, 1.0)))
        rows = np.flatnonzero(np.abs(lat - phi) <= angle)
        if not len(rows):
            continue
        near = columns
        if abs(phi) + angle < 85:
            middle = np.rad2deg(np.arctan2(c[1], c[0]))
            gap = np.abs((lon - middle + 180) % 360 - 180)
            near = np.flatnonzero(gap <= angle / np.cos(np.deg2rad(abs(phi) + angle)))
        if not len(near):
            continue
        p = unit_vectors(np.tile(lon[near], len(rows)), np.repeat(lat[rows], len(near)))
        east = np.cross([0.0, 0.0, 1.0] if abs(c[2]) < 0.9 else [1.0, 0.0, 0.0], c)
        east /= np.linalg.norm(east)
        frame = np.column_stack([east, np.cross(c, east)])
        depth = p @ c
        xy = (p @ frame) / np.where(depth > 0.05, depth, np.nan)[:, None]
        quad = (points[n] @ frame) / (points[n] @ c)[:, None]
        following = np.roll(quad, -1, axis=0)
        size = 0.5 * abs(np.sum(quad[:, 0] * following[:, 1] - following[:, 0] * quad[:, 1]))
        inside = np.flatnonzero(_in_polygon(xy, quad))
        if not len(inside):
            continue
        row, column = rows[inside // len(near)], near[inside % len(near)]
        own = area[row]
        if own.sum() < least * size:
            continue
        pixels.append(row * len(lon) + column)
        shares.append((own / own.sum()).astype(np.float32))
        numbers.append(int(n))
    if not numbers:
        return Support.empty(measured.shape[1])
    number = np.array(numbers, np.int64)
    return Support(
        np.concatenate(pixels).astype(np.int64),
        np.repeat(np.arange(len(numbers)), [len(p) for p in pixels]),
        np.concatenate(shares),
        np.asarray(measured, np.float32)[number],
        np.asarray(error, np.float32)[number],
        number,
    )


def _in_polygon(xy: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Whether points lie in a polygon of any shape: how often a ray crosses its edges."""
    inside = np.zeros(len(xy), bool)
    x, y = xy[:, 0], xy[:, 1]
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def support_of(
    footprints: xr.Dataset, lat: np.ndarray, lon: np.ndarray, *, least: float = 0.5
) -> Support:
    """Pixels of a grid that a table of footprints covers, of which the share `least` or more lies on it."""
    return footprint_support(
        footprints["corner_lat"].values,
        footprints["corner_lon"].values,
        footprints["abundance"].transpose("footprint", "element").values,
        footprints["abundance_std"].transpose("footprint", "element").values,
        lat,
        lon,
        least=least,
    )
