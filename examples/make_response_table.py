"""Measure the widths and the gain of CLASS's lines that come with lunarray, from folders of frames of bright flares.

    python examples/make_response_table.py RMF ARF lunarray/xrf/data/response_shapes.csv FOLDER [FOLDER …]

Each day whose bright frames hold at least 2000 counts in 0.95-4.3 keV gets a row: the result of
`lunarray.xrf.calibrate_response`. The table that is shipped comes from 149 public frames of level 1, 2019 to 2024.
All lit frames among them are of all sixteen detectors; those of other sets (7 to 12 detectors) are of the night,
without lines. Whether such sets have other widths is therefore not known.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import lunarray
from lunarray import xrf


def main(rmf: str, arf: str, table: str, *folders: str) -> None:
    response = xrf.read_response(rmf, arf)
    rows = []
    for folder in folders:
        frames = lunarray.open_class(sorted(Path(folder).glob("*.fits")), errors="skip")
        found = xrf.calibrate_response(frames, response, min_counts=2000).compute()
        for i in range(found.sizes["epoch"]):
            one = found.isel(epoch=i)
            error = np.sqrt(np.diag(one["covariance"].values))
            if not np.isfinite(error).all():
                continue
            numbers = [v for pair in zip(one["value"].values, error, strict=True) for v in pair]
            rows.append(
                [str(one["start"].values)[:10], *(f"{v:.5f}" for v in numbers)]
                + [f"{float(one[k]):.3g}" for k in ("reduced_chi2", "frames", "n_detectors")]
                + [f"{float(one['counts']):.0f}"]
            )
    names = [v for name in found["parameter"].values for v in (name, f"{name}_error")]
    head = ["start", *names, "reduced_chi2", "frames", "n_detectors", "counts"]
    lines = [",".join(row) for row in (head, *sorted(rows))]
    Path(table).write_text("\n".join(lines) + "\n")
    print(f"{len(rows)} days in {table}")


if __name__ == "__main__":
    main(*sys.argv[1:])
