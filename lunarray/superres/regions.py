"""What is known of a region, as plain arrays: what networks are trained on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lunarray.errors import InputError
from lunarray.superres.support import Support, support_of
from lunarray.superres.tracks import track_numbers

if TYPE_CHECKING:
    import xarray as xr

    from lunarray.superres.grid import GIBGrid


@dataclass
class RegionData:
    """What is known of a region, as plain arrays.

    Latitudes (row,) descend, longitudes (column,) ascend without a jump at ±180°, degrees. `features` (feature, row,
    column) float32 are NaN where the base map has none; `mare` (row, column) uint8 is 0 for unknown, 1 for mare, 2 for
    highland; `abundance` (element, row, column) float32 is that of populated pixels, wt%, NaN elsewhere, of the
    `elements` by name. `support` says which pixels each footprint covers, and what was measured; `region` (int, int)
    which one it is in the grid. `tracks` (footprint,) are the tracks of the support's footprints, where they are known.
    """

    lat: np.ndarray
    lon: np.ndarray
    features: np.ndarray
    mare: np.ndarray
    abundance: np.ndarray
    elements: tuple[str, ...]
    support: Support = field(default_factory=Support.empty)
    region: tuple[int, int] = (0, 0)
    tracks: np.ndarray | None = None

    def __post_init__(self) -> None:
        rows, columns = len(self.lat), len(self.lon)
        for name in ("features", "mare", "abundance"):
            shape = getattr(self, name).shape
            if shape[-2:] != (rows, columns):
                raise InputError(
                    f"{name} has shape {shape} on a grid of {rows} × {columns}",
                    where=f"region {self.region}",
                    remedy="Give arrays whose last axes are the latitudes and longitudes",
                )
        if len(self.abundance) != len(self.elements):
            raise InputError(
                f"{len(self.abundance)} layers of abundance for {len(self.elements)} elements",
                where=f"region {self.region}",
                remedy="Give one layer an element",
            )

    def digest(self) -> str:
        """SHA-256 over everything that training depends on."""
        sha = hashlib.sha256(json.dumps([self.elements, self.region]).encode())
        arrays = [self.lat, self.lon, self.features, self.mare, self.abundance]
        tracks = () if self.tracks is None else (self.tracks,)
        for array in (*arrays, *self.support.arrays(), *tracks):
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


def region_data(
    ds: xr.Dataset, region: tuple[int, int], footprints: xr.Dataset | None = None
) -> RegionData:
    """Read what a Global Information Bank, opened, knows of a region: features, mare class and abundances, in memory.

    Elements that no pixel of the region knows are left out; InputError if nothing is known there. The table of
    `footprints` is by default that of the store that `ds` was opened from.
    """
    from lunarray.superres.gib import gib_grid
    from lunarray.superres.gib_table import gib_footprints

    grid = gib_grid(ds)
    rows, columns = grid.slices(*region)
    part = ds[["feature", "mare", "abundance"]].isel(lat=rows, lon=columns).compute()
    abundance = part["abundance"].transpose("element", "lat", "lon").values
    there = np.isfinite(abundance).any(axis=(1, 2))
    if not there.any():
        raise InputError(
            "no populated pixel", where=f"region {region}", remedy="Populate the store first"
        )
    if footprints is None and "source" in ds.encoding:
        footprints = gib_footprints(ds.encoding["source"])
    lat, lon = grid.lat(region[0]), grid.lon(region[1])
    names = tuple(str(e) for e in part["element"].values[there])
    support, tracks = Support.empty(len(names)), None
    if footprints is not None and footprints.sizes["footprint"]:
        table = footprints.sel(element=list(names))
        support = support_of(table, lat, lon)
        tracks = track_numbers(footprints)[support.number]
    return RegionData(
        lat,
        lon,
        np.ascontiguousarray(part["feature"].transpose("feature", "lat", "lon").values),
        part["mare"].transpose("lat", "lon").values,
        np.ascontiguousarray(abundance[there]),
        names,
        support,
        region,
        tracks,
    )


def assemble_region(
    grid: GIBGrid,
    features: np.ndarray,
    mare: np.ndarray,
    footprints: xr.Dataset,
    *,
    region: tuple[int, int] = (0, 0),
) -> RegionData:
    """Populate one region in memory, from some footprints only: what cross-validation needs.

    `features` (feature, row, column) and `mare` (row, column; 0 unknown, 1 mare, 2 highland) are of the region,
    `footprints` as :func:`lunarray.superres.as_footprints` gives them. It is populated as
    :func:`lunarray.superres.populate` would.
    """
    from lunarray.superres.footprints import cell_pixels
    from lunarray.superres.population import divide_footprints, populate_pixels
    from lunarray.xrf import HIGHLAND, MARE

    elements = [str(e) for e in footprints["element"].values]
    abundance, error = (
        np.ascontiguousarray(footprints[n].transpose("footprint", "element").values, np.float64)
        for n in ("abundance", "abundance_std")
    )
    rows, columns = grid.slices(*region)
    width = grid.size[1]
    pixel = cell_pixels(footprints, grid)
    row, column = pixel // width, pixel % width
    inside = (pixel >= 0) & (row >= rows.start) & (row < rows.stop)
    inside &= (column >= columns.start) & (column < columns.stop)
    classes = np.zeros(pixel.shape, np.uint8)
    classes[inside] = mare[row[inside] - rows.start, column[inside] - columns.start]
    expected = [[kind[e] for e in elements] for kind in (MARE, HIGHLAND)]
    division = divide_footprints(abundance, error, classes, elements, expected=expected)
    hits = populate_pixels(np.where(inside, pixel, -1), division)
    lat, lon = grid.lat(region[0]), grid.lon(region[1])
    dense = np.full((len(elements), len(lat), len(lon)), np.nan, np.float32)
    dense[:, hits["pixel"] // width - rows.start, hits["pixel"] % width - columns.start] = hits[
        "abundance"
    ].T
    support = support_of(footprints, lat, lon)
    return RegionData(
        lat,
        lon,
        features,
        mare,
        dense,
        tuple(elements),
        support,
        region,
        track_numbers(footprints)[support.number],
    )
