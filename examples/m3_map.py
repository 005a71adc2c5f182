"""Oxides of a scene of M3, by how well its light is taken to be known, beside what the card says of it.

    python examples/m3_map.py M3_4030seg_L2_aristcrater.tif --output m3

The scene is inverted twice: as if its light were known to a tenth, and as if it were hardly known, so that brightness
or the shape of the bands decides. Where the two differ by more than their errors, the errors do not cover the sensor,
and no number is to be believed as an abundance; the card of the model (``lunarray/oxides/data/m3.md``) says so of the
one that is named here. The crop has no reference system, so it is drawn as the image that it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr

import lunarray as la

matplotlib.use("agg")


def draw(reflectance: xr.DataArray, maps: xr.Dataset, path: Path) -> None:
    """The scene at 750 nm, its oxides and how novel its spectra are."""
    from matplotlib import pyplot

    shown = {"reflectance, 750 nm": reflectance.sel(wavelength=750, method="nearest")}
    shown |= {f"{name}, wt%": maps[name] for name in la.oxides.OXIDES} | {
        "novelty": maps["novelty"]
    }
    figure, grid = pyplot.subplots(2, 4, figsize=(13, 6.5), layout="constrained")
    for axes, (title, values) in zip(grid.flat, shown.items(), strict=True):
        image = axes.imshow(values)
        axes.set(title=title, xticks=[], yticks=[])
        figure.colorbar(image, ax=axes, shrink=0.7)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Invert twice, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("scene", help="reflectance of M3: a cube, or a product of Level 2")
    parser.add_argument("--output", type=Path, default=Path("m3-oxides"), help="folder")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    reflectance = la.open(options.scene)["reflectance"]
    found = {}
    for light in (0.1, 0.5):
        maps = reflectance.lunar.invert_oxides(
            "oxides-m3", uncertainty=True, light_uncertainty=light
        ).compute()
        found[light] = maps
        print(f"light known to {light} (ln-sd): 5th, 50th, 95th percentile, and median error, wt%")
        for oxide in la.oxides.OXIDES:
            low, middle, high = np.nanquantile(maps[oxide], [0.05, 0.5, 0.95])
            error = float(maps[f"{oxide}_std"].median())
            print(f"  {oxide:6s} {low:5.1f} {middle:5.1f} {high:5.1f}   {error:4.1f}")
        draw(reflectance, maps, options.output / f"oxides_light_{light}.png")
    apart = abs(found[0.1]["FeO"] - found[0.5]["FeO"])
    stated = np.hypot(found[0.1]["FeO_std"], found[0.5]["FeO_std"])
    share = float((apart > 2 * stated).mean())
    print(f"the two FeO maps are more than two errors apart in {share:.0%} of the pixels")
    print(f"pictures: {options.output}; the card: {la.oxides.DEFAULT_WEIGHTS.with_name('m3.md')}")


if __name__ == "__main__":
    main()
