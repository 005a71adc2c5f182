"""Derive the map of the share of mare that comes with lunarray from a map of iron and a map of albedo.

    python examples/make_mare_map.py IRON ALBEDO            # writes lunarray/xrf/data/mare.npz
    python examples/make_mare_map.py IRON ALBEDO -o OTHER

IRON and ALBEDO are global grids of numbers as text (``.csv`` or ``.csv.gz``), 360 rows from 90° N of 720 columns from
180° W: the iron of Lunar Prospector's gamma-ray spectrometer at 0.5° (wt%; Lawrence et al., 2002, PDS) and LOLA's
normal albedo at 1064 nm (Lucey et al., 2014, PDS), both in the public domain.

Of each map Otsu's threshold divides the Moon into two kinds; a pixel has a share of each kind by where its value lies
between half a distance of their means below and above that threshold. Iron is smoothed first by 1.5°, for the noise of
its pixels is finer than the instrument saw. The share of mare is the geometric mean of the two: dark and rich in iron.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter

from lunarray.superres.mare import albedo_threshold
from lunarray.xrf.ground import MARE_MAP

#: Standard deviation by which iron is smoothed (pixels of 0.5°).
SMOOTHING = 3.0


def read_grid(path: Path) -> xr.DataArray:
    """A global grid of numbers as text."""
    values = np.loadtxt(path, delimiter=",")
    if values.shape != (360, 720):
        raise SystemExit(f"{path}: {values.shape[0]} × {values.shape[1]} numbers, not 360 × 720")
    lat, lon = 89.75 - 0.5 * np.arange(360), -179.75 + 0.5 * np.arange(720)
    return xr.DataArray(values, {"lat": lat, "lon": lon}, ("lat", "lon"), path.name)


def smoothed(grid: xr.DataArray) -> xr.DataArray:
    """The grid, smoothed; east and west of the map are neighbours, the ends beyond the poles are not."""
    return grid.copy(data=gaussian_filter(grid.values, SMOOTHING, mode=("nearest", "wrap")))


def share_of(grid: xr.DataArray, *, dark: bool) -> xr.DataArray:
    """Share of the kind of ground that is darker (`dark`), or richer, than Otsu's threshold."""
    cut = albedo_threshold(grid)
    area = np.cos(np.deg2rad(grid["lat"])) * xr.ones_like(grid)
    inside = (grid < cut) == dark
    there = float(grid.where(inside).weighted(area).mean())
    other = float(grid.where(~inside).weighted(area).mean())
    print(f"{grid.name}: threshold {cut:.4g}, means {other:.4g} and {there:.4g}")
    return (0.5 + (grid - cut) / (there - other)).clip(0.0, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("iron", type=Path)
    parser.add_argument("albedo", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=MARE_MAP)
    args = parser.parse_args()
    rich = share_of(smoothed(read_grid(args.iron)), dark=False)
    dark = share_of(read_grid(args.albedo), dark=True)
    share = np.sqrt(rich * dark)
    mean = float(share.weighted(np.cos(np.deg2rad(share["lat"]))).mean())
    args.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.output, percent=np.round(100 * share.values).astype("u1"))
    print(
        f"{args.output}: {args.output.stat().st_size / 1e3:.0f} kB, mare {100 * mean:.1f} % of the Moon"
    )


if __name__ == "__main__":
    main()
