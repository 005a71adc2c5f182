"""Make the table of what leaves a bed of grains that comes with lunarray, by tracing rays, and write its card.

    python examples/make_regolith_table.py            # some minutes; lunarray/xrf/data/regolith.npz and .md

It is a model and no measurement: spheres of one size, packed at random, seen by a detector overhead. What it has in
common with the experiments on powders (Maruyama et al. 2008, Earth Planets Space 60, 293; Weider et al. 2011, Planet.
Space Sci. 59, 1393) is how it goes: lines weaken with phase angle and with the size of grains.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from lunarray.simulate.regolith import escaping_share
from lunarray.xrf.regolith import TABLE

PACKING = np.array([0.1, 0.2, 0.35])
INCIDENCE = np.array([0.0, 15.0, 30.0, 45.0, 60.0, 70.0, 80.0, 85.0])
ATTENUATION = np.array([0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0])

CARD = """# Lines from a bed of grains

`regolith.npz`: by how much grains that shade one another weaken a line, beside a smooth surface of the same stuff: axes
packing ({packing}), incidence ({incidence}°, detector 6° off the zenith, across the plane of incidence), and the
attenuation over the radius of a grain, μ ρ r, of what comes in and of the line ({attenuation}).

`python examples/make_regolith_table.py` made it ({rays} rays in each of {beds} beds; {seconds:.0f} s): rays are traced
through spheres of one size, packed at random (`lunarray.simulate.regolith`). The table's own noise is {noise:.1%} (rms,
from two halves of the rays).

**It is a model.** No measurement went in. Exact by construction: 1 for a Sun behind the detector, and for grains that
neither radiation notices; tested: these two, and that way in and way out may be exchanged. Not in it: grains of many
sizes and shapes, slopes larger than grains (the error `norm and roughness` has those), minerals that differ from grain
to grain, the scattered continuum. Maruyama et al. (2008) and Weider et al. (2011) measured the same kind of weakening
on powders; their formulas could not be had in full, and are not what is here.

At incidence 60°, packing 0.35: {shown}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rays", type=int, default=2000, help="incoming rays for each bed")
    parser.add_argument("--beds", type=int, default=4, help="beds for each half of the rays")
    parser.add_argument("--output", type=Path, default=TABLE)
    options = parser.parse_args()
    begin = time.perf_counter()
    shape = (PACKING.size, INCIDENCE.size, ATTENUATION.size, ATTENUATION.size)
    halves = np.ones((2, *shape))
    for p, packing in enumerate(PACKING):
        for i, incidence in enumerate(INCIDENCE):
            for half in range(2):
                halves[half, p, i] = escaping_share(
                    ATTENUATION, ATTENUATION, incidence, packing,
                    emission=6.0 if incidence else 0.0, rays=options.rays, beds=options.beds, seed=half,
                )  # fmt: skip
            passed = time.perf_counter() - begin
            print(f"{passed:5.0f} s  packing {packing}, {incidence}°", file=sys.stderr, flush=True)
    table = halves.mean(0)
    noise = float(np.sqrt(np.mean(((halves[1] - halves[0]) / table) ** 2) / 4))
    np.savez_compressed(
        options.output,
        packing=PACKING, incidence=INCIDENCE, attenuation=ATTENUATION, share=table.astype(np.float32),
    )  # fmt: skip
    places = ((1.0, 1.0), (5.0, 5.0), (50.0, 5.0), (50.0, 50.0))
    shown = ", ".join(
        f"{table[2, 4, list(ATTENUATION).index(a), list(ATTENUATION).index(b)]:.2f} (in {a:g}, out {b:g})"
        for a, b in places
    )
    options.output.with_suffix(".md").write_text(
        CARD.format(
            packing=", ".join(f"{v:g}" for v in PACKING),
            incidence=", ".join(f"{v:g}" for v in INCIDENCE),
            attenuation=", ".join(f"{v:g}" for v in ATTENUATION),
            rays=options.rays, beds=2 * options.beds, seconds=time.perf_counter() - begin, noise=noise, shown=shown,
        ),
        encoding="utf-8",
    )  # fmt: skip


if __name__ == "__main__":
    main()
