"""Fit what the simulator takes soils to be made of to a table of chemical analyses.

    python examples/fit_soil_priors.py TABLE.csv [CELLS.tab]

TABLE.csv has columns FeO, TiO2, Al2O3, CaO, MgO, SiO2 (wt%), and `is_soil` (1 for soils) where other rocks are in it
too, such as RELAB's table of chemical analyses of Apollo and Luna samples. Each soil is turned into a norm: minerals,
An, Mg# and Wo that give its oxides by `lunarray.simulate.oxide_abundances`. What comes out are their means and spreads
by ground, behind `lunarray.simulate.TERRAINS`, and how far simulated soils are off the table in CaO, MgO and SiO2 at
equal FeO, TiO2 and Al2O3. With CELLS.tab, Lunar Prospector's 5° cells of all elements, also how these stand to
simulated soils of equal FeO, and what their six oxides sum to.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial import cKDTree

from lunarray import simulate
from lunarray.maps import open_lunar_prospector
from lunarray.oxides import OXIDES

#: Parameters of a norm: logarithms of five mineral weights, An, Mg#, Wo; where it tends to, and how hard.
USUAL = np.array([*np.log((0.4, 0.15, 0.3, 0.08, 0.03)), 93.0, 60.0, 27.0])
FREE = np.array([1.0, 0.8, 0.8, 0.6, 1.5, 3.0, 12.0, 8.0])
#: Errors of the oxides, wt%.
ERRORS = np.array([0.15, 0.1, 0.3, 0.2, 0.2, 0.6])


def oxides_of(norm: np.ndarray) -> np.ndarray:
    """Oxides in wt% of a norm."""
    modes = np.exp(norm[:5])[None]
    return simulate.oxide_abundances(
        modes, anorthite=norm[5], mg_number=norm[6], wollastonite=norm[7]
    )[0]


def norm_of(oxides: np.ndarray) -> np.ndarray:
    """The norm that gives some oxides: mineral weights of sum 1, An, Mg# and Wo."""

    def off(norm: np.ndarray) -> np.ndarray:
        return np.r_[(oxides_of(norm) - oxides) / ERRORS, 0.15 * (norm - USUAL) / FREE]

    # The forward model is float32: steps must be larger than its rounding.
    bounds = (np.r_[[-9] * 5, 80, 30, 6], np.r_[[1] * 5, 98, 90, 44])
    found = least_squares(off, USUAL, bounds=bounds, diff_step=1e-3, x_scale=FREE).x
    weights = np.exp(found[:5])
    return np.r_[weights / weights.sum(), found[5:]]


def beside_prospector(path: Path, known: np.ndarray) -> None:
    """Print what Lunar Prospector's cells hold by classes of FeO, beside simulated soils (n, 6)."""
    table = open_lunar_prospector(path)
    cells = np.stack([table[oxide].values for oxide in OXIDES], axis=1)
    print("Lunar Prospector, six oxides of a cell sum to (5, 50, 95 %):", end=" ")
    print(*np.percentile(cells.sum(axis=1), (5, 50, 95)).round(1))
    print("FeO: means of cells (n), of simulated soils:", *OXIDES)
    for low, high in ((3, 5), (5, 7), (7, 9), (9, 11), (11, 13), (13, 15), (15, 18)):
        mine, theirs = (v[(v[:, 0] >= low) & (v[:, 0] < high)] for v in (known, cells))
        means = [v.mean(axis=0).round(1) for v in (theirs, mine)]
        print(f"  {low}-{high}: ({len(theirs)})", *means[0], "|", *means[1])


def main(path: Path, cells: Path | None = None) -> None:
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("is_soil", "1") == "1"]
    table = np.array([[float(row[oxide]) for oxide in OXIDES] for row in rows])
    iron, titanium = table[:, 0], table[:, 1]
    mare = iron >= 12.5
    grounds = {
        "feldspathic highland": iron < 7,
        "mafic highland": ~mare & (iron >= 7),
        "low-Ti mare": mare & (titanium < 4),
        "high-Ti mare": mare & (titanium >= 4),
    }
    drawn = simulate.soils(30_000, 5)
    known = np.stack([drawn[oxide].values for oxide in OXIDES], axis=1)
    tree = cKDTree(known[:, :3])
    print("plagioclase orthopyroxene clinopyroxene olivine ilmenite | An Mg# Wo")
    for name, chosen in grounds.items():
        if not chosen.any():
            continue
        norms = np.array([norm_of(oxides) for oxides in table[chosen]])
        near = tree.query(table[chosen, :3], k=20)[1]
        off = (known[near].mean(axis=1) - table[chosen])[:, 3:].mean(axis=0)
        print(f"{name}, {chosen.sum()} soils:", *np.round(norms.mean(axis=0), 3))
        spread = np.r_[np.log(norms[:, :5]).std(axis=0), norms[:, 5:].std(axis=0)]
        print("  spread (of logarithms for minerals):", *np.round(spread, 2))
        print("  simulated less real, CaO MgO SiO2:", *np.round(off, 2))
    if cells is not None:
        beside_prospector(cells, known)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
