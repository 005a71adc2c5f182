"""CLASS X-ray spectra to elemental abundances, on real files.

    python examples/class_elements.py [folder of data] [folder for results]

Consecutive 8 s frames of days that have a solar model are co-added and fitted; what is found is printed beside the
gamma-ray spectrometer of Lunar Prospector, whose cells are 150 km wide: a check of plausibility, not a truth. Frames
that cannot be fitted say why.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import lunarray.xrf as xrf
from lunarray.maps import cells_at, open_lunar_prospector, open_map
from lunarray.plot import footprints, light_curve, xrf_spectrum
from lunarray.xrf.settings import FIT_FLAGS, FitSettings

SHOWN = ("Fe", "Ca", "Si", "Al", "Mg")


def main(data: Path, out: Path) -> None:
    """Run the chain."""
    out.mkdir(parents=True, exist_ok=True)
    frames = xrf.open_class(data / "class" / "l1")
    response = xrf.read_response(
        data / "class/response/class_rmf_v1.rmf", data / "class/response/class_arf_v1.arf"
    )
    background = xrf.read_background(data / "class/background/background_allevents.fits")
    # These files hold photons/s/cm² in each bin of 10 eV, not per keV: folded with the ARF of XSM they give the count
    # rates of the days' XSM spectra that way only.
    solar = xrf.open_solar_models(data / "xsm/model", per="bin")

    frames = xrf.flag_frames(frames)
    windows = xrf.coadd(frames, "sliding", window=12, min_frames=1)
    # The gain has drifted since the response was made: the brightest spectrum tells how much, and all are fitted with
    # that.
    first = xrf.fit_elements(windows, solar, response, background).compute()
    usable = np.flatnonzero((first["quality"].values & 511) == 0)
    brightest = windows.isel(time=[usable[np.argmax(first["net_counts"].values[usable])]])
    free = FitSettings(statistic="wstat", fit_gain=True)
    gain = xrf.fit_elements(brightest, solar, response, background, settings=free).compute()
    slope, offset = float(gain["gain_slope"][0]), float(gain["gain_offset"][0])
    settings = FitSettings(statistic="wstat", slope=slope, offset=offset)
    result = xrf.fit_elements(windows, solar, response, background, settings=settings).compute()
    print(
        f"gain of {str(gain['time'].values[0])[:19]}: slope {slope:.4f}, offset {1e3 * offset:.1f} eV"
    )

    quality = result["quality"].values
    fitted = (quality & 511) == 0
    print(
        f"{frames.sizes['time']} frames, {windows.sizes['time']} windows, {fitted.sum()} fitted. The others:"
    )
    for name, bit in list(FIT_FLAGS.items())[:9]:
        print(f"  {name:18s} {int(((quality & bit) > 0).sum())}")

    cells = open_lunar_prospector(data / "maps/lpgrs_high1_elem_abundance_5deg.tab")
    print("\nwt% of CLASS ± statistical error | Lunar Prospector's cell")
    print(
        f"{'time':19s} {'n':>2s} {'lon':>6s} {'lat':>5s} {'χ/dof':>7s} "
        + " ".join(f"{e:^17s}" for e in SHOWN)
    )
    for i in np.flatnonzero(fitted):
        row = result.isel(time=i)
        here = xrf.oxides_to_elements(cells_at(cells, float(row["lon"]), float(row["lat"])))[
            "abundance"
        ]
        parts = [
            f"{float(row['abundance'].sel(element=e)):5.1f}±{float(row['abundance_std'].sel(element=e)):4.1f} |"
            f"{float(here.sel(element=e)):5.1f}"
            for e in SHOWN
        ]
        print(
            f"{str(row['time'].values)[:19]} {int(row['n_frames']):2d} "
            f"{float(row['lon']):6.1f} {float(row['lat']):5.1f} "
            f"{float(row['statistic'] / row['dof']):7.2f} " + " ".join(parts)
        )

    print(
        "\nThe solar models are means of whole days, the frames are of moments of them. Where the two differ, norms"
        "\nare far from 1; a model that is too hard makes Mg too high and Ca too low (2023-08-29, 2023-11-02), one that"
        "\nis too soft the reverse (2022-08-28). Statistical errors do not hold that: what the method needs is a model"
        "\nof the frame's own minute."
    )
    best = int(np.flatnonzero(fitted)[np.argmax(result["net_counts"].values[fitted])])
    parts = xrf.spectrum_components(windows, result, solar, response, background, index=best)
    xrf_spectrum(parts, rebin=2, path=out / "class_spectrum.png")
    light_curve(frames.sel(time="2023-09-02"), path=out / "class_light_curve.png")
    moon = open_map(data / "maps/Albedo_Map.csv.gz", chunks=None)
    footprints(
        result.isel(time=fitted),
        "Al",
        projection="equirectangular",
        base=moon,
        path=out / "class_footprints.png",
    )
    xrf.write_footprints(result, out / "class_elements.gpkg", overwrite=True)
    result.lunar.to_zarr(out / "class_elements.zarr", overwrite=True)
    print(f"\nresults and pictures: {out}")


if __name__ == "__main__":
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else beside,
        Path(sys.argv[2]) if len(sys.argv) > 2 else Path("class_results"),
    )
