"""Train an oxide model on the public cube of the Spectral Profiler and Lunar Prospector's oxides.

    python examples/train_on_prospector.py CUBE.img lpgrs_high1_elem_abundance_5deg.tab -o prospector.safetensors

CUBE is the global 0.5° cube (avg_cube_1000s-7000s_selected_ip110225.img, in
https://archive.jlpeda.isas.jaxa.jp/pub/product/moon-selene-sp/sp_cube_ver2011/). Each cell of Lunar Prospector, which
saw some 150 km at once, is paired with the mean spectrum of the cube's cells within it; its errors weigh the pairs.
Cells are left out by ranges of longitude, so that the scores tell about ground that the model has not seen. The cube
was not at hand when this was written: the pairing was tried on a simulated one of its form.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import xarray as xr

import lunarray as la
from lunarray.oxides import OXIDES

#: Least cells of the cube within one of Lunar Prospector, and largest latitude, beyond which the cube is badly lit.
LEAST, LATITUDE = 10, 60.0


def pairs_of(cube: xr.Dataset, cells: xr.Dataset) -> xr.Dataset:
    """Mean spectrum of the cube within each cell of Lunar Prospector, with the cell's oxides and their errors."""
    spectra = cube["reflectance"].transpose("lat", "lon", "wavelength").load()
    lat, lon = spectra["lat"].values, (spectra["lon"].values + 180) % 360 - 180
    kept, means = [], []
    for cell in range(cells.sizes["cell"]):
        south, north = np.sort(cells["lat_bounds"].values[cell])
        west, east = cells["lon_bounds"].values[cell]
        width = (east - west) % 360 or 360.0
        rows = np.flatnonzero((lat >= south) & (lat < north))
        columns = np.flatnonzero((lon - west) % 360 < width)
        if max(abs(south), abs(north)) > LATITUDE or not rows.size or not columns.size:
            continue
        here = spectra.values[np.ix_(rows, columns)].reshape(-1, spectra.sizes["wavelength"])
        here = here[np.isfinite(here).all(axis=1) & (here > 0).all(axis=1)]
        if len(here) >= LEAST:
            kept.append(cell)
            means.append(here.mean(axis=0))
    if not kept:
        raise SystemExit("no cell of Lunar Prospector holds spectra of the cube")
    part = cells.isel(cell=kept).rename(cell="sample")
    names = [n for o in OXIDES for n in (o, f"{o}_std") if n in part]
    pairs = xr.Dataset(
        {"reflectance": (("sample", "wavelength"), np.array(means, np.float32), {"units": "1"})},
        {"wavelength": spectra["wavelength"]},
        {"source": "Spectral Profiler's global cube, Lunar Prospector"},
    )
    for name in names:
        pairs[name] = ("sample", part[name].values.astype(np.float32), {"units": "wt%"})
    return pairs.assign_coords({n: ("sample", part[n].values) for n in ("lon", "lat")})


def main() -> None:
    """Pair, compare, train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("cube", type=Path)
    parser.add_argument("prospector", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("prospector.safetensors"))
    parser.add_argument("--method", default="cnn", choices=("cnn", "gp", "pls"))
    parser.add_argument("--folds", type=int, default=10, help="ranges of longitude")
    parser.add_argument("--epochs", type=int, default=100)
    given = parser.parse_args()
    cells = la.maps.open_lunar_prospector(given.prospector)
    cube = la.sp.resample_bands(la.open_sp_cube(given.cube), la.sp.WAVELENGTHS_150)
    pairs = pairs_of(cube, cells)
    print(f"{pairs.sizes['sample']} pairs")
    settings = la.oxides.TrainSettings(epochs=given.epochs)
    table = la.oxides.compare_methods(pairs, settings, folds=given.folds, by="lon")
    print(table.RMSE.to_pandas().round(2).to_string())
    fit = la.oxides.train(pairs, settings, folds=given.folds, by="lon", method=given.method)
    print(f"Weights {fit.save(given.output)}")


if __name__ == "__main__":
    main()
