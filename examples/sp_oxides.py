"""From KAGUYA SP files to oxides: footprint by footprint, and as a map.

    python examples/sp_oxides.py "data/SP_2C_*.spc" --output out

The same as `lunarray invert-oxides`, written out. Run it on a folder of any size: files are read when their chunk is
computed, and a run that is interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lunarray as la


def main() -> None:
    """Invert, store and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", help="SP L2C files or quoted patterns")
    parser.add_argument(
        "--output", type=Path, default=Path("sp-oxides"), help="folder for the results"
    )
    parser.add_argument("--resolution", type=float, default=0.5, help="pixel of the map in degrees")
    arguments = parser.parse_args()

    # Lazy: labels are read here, spectra when they are needed. A file that cannot be read is recorded and left out.
    sp = la.open_sp(arguments.inputs, errors="skip")

    # The steps of la.sp.condition(sp), one by one, so that each can be changed.
    spectra = (
        sp.lunar.mask_quality()  # what QA calls bad becomes NaN
        .lunar.join_detectors()  # VIS and NIR1 on one axis, their offset removed
        .lunar.despike()
        .lunar.smooth()
        .lunar.resample_bands(la.sp.WAVELENGTHS_150)
    )

    # One value for every footprint.
    tracks = spectra.lunar.invert_oxides()
    tracks["FeO_Lucey2000"] = spectra.lunar.feo_lucey2000()
    tracks = tracks.lunar.to_zarr(arguments.output / "tracks.zarr", overwrite=True)
    print(
        tracks[["FeO", "FeO_Lucey2000", "Al2O3", "TiO2"]]
        .groupby("orbit")
        .mean()
        .to_dataframe()
        .round(1)
    )

    # The same on a map: spectra are averaged in its cells, then inverted.
    cube = spectra.lunar.grid("geographic", resolution=arguments.resolution)
    maps = cube.lunar.invert_oxides().lunar.to_zarr(arguments.output / "maps.zarr", overwrite=True)
    maps.lunar.to_cog(arguments.output / "geotiff")

    spectra.lunar.plot_spectra(path=arguments.output / "spectra.png")
    tracks.lunar.plot_maps(path=arguments.output / "tracks.png")


if __name__ == "__main__":
    main()
