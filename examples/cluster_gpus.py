"""A map of oxides from a cube of spectra: on a laptop, on the GPUs of one machine, or on a cluster with Slurm.

    python examples/cluster_laptop.py cube.zarr oxides.zarr

cluster_laptop.py, cluster_gpus.py and cluster_slurm.py differ in one line, the one that says where the work is done.
Stopped at any moment, the same command goes on. A block that cannot be read leaves a gap, which the report lists and
the next run tries to fill.
"""

from __future__ import annotations

import sys

import lunarray as la

WHERE = {"where": "gpus"}


def main(source: str, target: str) -> None:
    """Invert a cube of reflectance (wavelength, y, x), store to store."""
    with la.cluster(**WHERE, errors="nan", report=f"{target}.report.html") as client:
        print(client)
        maps = la.open_zarr(source).lunar.invert_oxides()
        print(maps.lunar.to_zarr(target))


if __name__ == "__main__":  # the workers import this file
    main(*sys.argv[1:3])
