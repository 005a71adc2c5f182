"""Make the oxide model that comes with lunarray, and write the numbers of its model card.

    python examples/train_default_oxides.py                        # weights and held-out errors
    python examples/train_default_oxides.py --real-data FOLDER     # the same, and what it says on real spectra
    python examples/train_default_oxides.py --no-train --real-data FOLDER    # for the weights that are there

Everything is simulated (`lunarray.simulate.make_oxide_model`), seeded, and takes about four minutes on one idle core
that has bfloat16, eight on others. Weights of another processor differ from the shipped ones by what float arithmetic
leaves, amplified by training. FOLDER holds `sp/*.spc` (KAGUYA SP L2C), `maps/lpgrs_high1_elem_abundance_5deg.tab` and
`maps/LPFe_Map.csv.gz` (Lunar Prospector), `maps/Albedo_Map.csv.gz` (LOLA), `spectra/sp_photometry/*_sel.txt` and
`spectra/62231_avg_scaled_std_text.txt` (RELAB).
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

import numpy as np

from lunarray import simulate
from lunarray.maps import cells_at, open_lunar_prospector
from lunarray.oxides.constants import MOLAR_MASS, OXIDES
from lunarray.oxides.weights import DEFAULT_WEIGHTS
from lunarray.simulate.spectra import smoothed
from lunarray.sp.bands import WAVELENGTHS_150, sp_scale

#: Soils of the table by incidence, slopes (degrees rms), and incidence angles.
SLOPED_SOILS, SLOPES, INCIDENCES = 3000, 5.0, (60.0, 70.0, 80.0, 85.0)
#: ln-sd at which spectra are looked at whose light nobody states: known, by shape mostly, by shape alone.
LIGHTS = (0.05, 0.25, 1.0)


def table(header: list[str], rows: list[list[object]]) -> str:
    """A Markdown table; floats with two decimals."""

    def cell(value: object) -> str:
        return f"{value:.2f}" if isinstance(value, (float, np.floating)) else str(value)

    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def array_of(spectra: np.ndarray):
    """Spectra (observation, band) as a DataArray."""
    import xarray as xr

    dims = ("observation", "wavelength")
    return xr.DataArray(spectra, {"wavelength": WAVELENGTHS_150}, dims, "reflectance")


def sloped_report(path: Path) -> str:
    """Errors and coverage where the Sun is low and slopes are unknown: light by its angles alone."""
    from lunarray.oxides import invert_oxides
    from lunarray.sp import light_uncertainty
    from lunarray.sp.photometry import lunar_lambert

    soils = simulate.soils(SLOPED_SOILS, 31)
    seen = simulate.add_sp_errors(soils.reflectance, 32).values
    rows = []
    for number, incidence in enumerate(INCIDENCES):
        rng = np.random.default_rng(number)
        slope = rng.normal(0, SLOPES, SLOPED_SOILS)
        lit = incidence - slope < 89.5
        local = np.where(lit, incidence - slope, 0.0)
        flat = lunar_lambert(incidence, 0.0, incidence)
        gain = lunar_lambert(np.abs(local), np.abs(slope), incidence) / flat
        spectra = array_of((seen * gain[:, None]).astype(np.float32))
        spectra = spectra.assign_coords(incidence=("observation", np.full(SLOPED_SOILS, incidence)))
        maps = invert_oxides(spectra, path, uncertainty=True)
        s = float(light_uncertainty(spectra)[0])
        for what in ("RMSE", "in 90 % interval, %"):
            row: list[object] = [f"{incidence:g}° ({s:.2f})", what]
            for oxide in OXIDES:
                truth = soils[oxide].values[lit]
                found, low, high = (
                    maps[oxide + end].values[lit] for end in ("", "_lower", "_upper")
                )
                inside = 100 * np.mean((low <= truth) & (truth <= high))
                row.append(np.sqrt(np.mean((found - truth) ** 2)) if what == "RMSE" else inside)
            rows.append(row)
    return (
        f"{SLOPED_SOILS} held-out soils on slopes of {SLOPES:g}° rms that nobody knows, those that are lit; in brackets"
        " what `lunarray.sp.light_uncertainty` says of the light:\n\n"
        + table(["incidence", "measure", *OXIDES], rows)
    )


def feo_lucey(spectra: np.ndarray) -> float:
    """Mean FeO in wt% by the band ratio of Lucey et al. (2000)."""
    import xarray as xr

    from lunarray.oxides import feo_lucey2000

    array = xr.DataArray(
        spectra, dims=("observation", "wavelength"), coords={"wavelength": WAVELENGTHS_150}
    )
    return float(feo_lucey2000(array).mean())


def lunar_prospector(folder: Path, lat: float, lon: float) -> list[float]:
    """Oxides in wt% of the Lunar Prospector cell that holds a point."""
    cells = open_lunar_prospector(folder / "maps" / "lpgrs_high1_elem_abundance_5deg.tab")
    here = cells_at(cells, lon, lat)
    return [float(here[oxide]) for oxide in OXIDES]


def prospector_feo(folder: Path, lat: np.ndarray, lon: np.ndarray) -> float:
    """Mean FeO in wt% of Lunar Prospector's 0.5° map of iron at some points."""
    iron = np.loadtxt(folder / "maps" / "LPFe_Map.csv.gz", delimiter=",")
    row = ((90 - lat) / 0.5).astype(int).clip(0, 359)
    column = (((lon + 180) % 360) / 0.5).astype(int) % 720
    return float(np.nanmean(iron[row, column]) * MOLAR_MASS["FeO"] / 55.845)


def lola_albedo(folder: Path):
    """LOLA's normal albedo on 0.5°."""
    import xarray as xr

    from lunarray.geo import assign_crs

    values = np.loadtxt(folder / "maps" / "Albedo_Map.csv.gz", delimiter=",").astype(np.float32)
    coords = {"lat": 89.75 - 0.5 * np.arange(360), "lon": -179.75 + 0.5 * np.arange(720)}
    return assign_crs(xr.DataArray(values, coords, ("lat", "lon")), "geographic")


def real_report(path: Path, folder: Path) -> str:
    """What the model says on real spectra, beside what is known about them."""
    import lunarray
    from lunarray.oxides import invert_oxides
    from lunarray.sp import condition, read_photometric_parameters, scale_to_albedo

    rows, lines = [], []

    def add(name: str, what: str, spectra, light: float | None = None):
        maps = invert_oxides(spectra, path, uncertainty=True, light_uncertainty=light)
        rows.append([name, what, *(float(maps[o].mean()) for o in OXIDES)])
        return maps

    albedo = lola_albedo(folder)
    for file in sorted((folder / "sp").glob("*.spc")):
        track = condition(lunarray.open_sp(file))
        orbit = file.stem.split("_")[3]
        bright = track.reflectance.transpose("observation", "wavelength").values
        maps = add(f"SP orbit {orbit}", "model, light by its angles", track)
        scaled = scale_to_albedo(track, albedo)
        add("", "model, scaled to LOLA's albedo", scaled)
        add("", "model, brightness not used", track, 1.0)
        rows.append(
            [
                "",
                "model, stated standard deviation",
                *(float(maps[f"{o}_std"].mean()) for o in OXIDES),
            ]
        )
        cells = open_lunar_prospector(folder / "maps" / "lpgrs_high1_elem_abundance_5deg.tab")
        here = cells_at(cells, float(track.lon.mean()), float(track.lat.mean()))
        rows.append(["", "Lunar Prospector, 5° cell", *(float(here[o]) for o in OXIDES)])
        feo = prospector_feo(folder, track.lat.values, track.lon.values)
        rows.append(["", "Lunar Prospector, 0.5° map of iron", feo, "", "", "", "", ""])
        total = sum(maps[o] for o in OXIDES)
        lines.append(
            f"Orbit {orbit}: gain by LOLA {float(scaled.light_gain.mean()):.2f}; six oxides sum to"
            f" {float(total.min()):.1f}-{float(total.max()):.1f} wt%; novelty {float(maps.novelty.min()):.2f}-"
            f"{float(maps.novelty.max()):.2f}; FeO by Lucey et al. (2000) on the laboratory's scale"
            f" {feo_lucey(bright / sp_scale(WAVELENGTHS_150)):.1f}"
            " wt%."
        )
    for group in ("High", "Mid", "Low"):
        file = folder / "spectra" / "sp_photometry" / f"{group}_albedo_sel.txt"
        mean = read_photometric_parameters(file)["mean"].interpolate_na(
            "wavelength", fill_value="extrapolate"
        )
        spectrum = np.interp(WAVELENGTHS_150, mean.wavelength, mean.values).astype(np.float32)[None]
        for light in LIGHTS:
            name = f"SP, {group.lower()} albedo group" if light == LIGHTS[0] else ""
            add(
                name,
                f"model, ln-sd of the light {light:g}",
                array_of(smoothed(spectrum, WAVELENGTHS_150)),
                light,
            )
    soil = np.loadtxt(folder / "spectra" / "62231_avg_scaled_std_text.txt", skiprows=1)
    spectrum = np.interp(WAVELENGTHS_150, soil[:, 0], soil[:, 1]).astype(np.float32)[None]
    for light in LIGHTS:
        name = "Apollo 16 soil 62231 (RELAB)" if light == LIGHTS[0] else ""
        add(
            name,
            f"model, ln-sd of the light {light:g}",
            array_of(smoothed(spectrum, WAVELENGTHS_150)),
            light,
        )
    bulk = [5.4, 0.6, 26.8, 15.6, 5.7, 45.1]
    rows.append(["", "bulk soils of Apollo 16 (Lunar Sourcebook, table 7.15, 16c)", *bulk])
    return (
        table(["spectra", "from", *OXIDES], rows)
        + "\n\n"
        + "\n".join(f"- {line}" for line in lines)
    )


def write_section(card: Path, name: str, text: str) -> None:
    """Replace what stands between a section's two markers in the card."""
    begin, end = (
        f"<!-- {name}: begin, written by examples/train_default_oxides.py -->",
        f"<!-- {name}: end -->",
    )
    content = card.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(content):
        raise SystemExit(f"{card} lacks the markers of section {name!r}")
    card.write_text(pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", content), encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_WEIGHTS, help="weights file")
    parser.add_argument(
        "--card",
        type=Path,
        help="model card whose numbers are rewritten; by default that of the shipped weights where they are the output",
    )
    parser.add_argument("--soils", type=int, default=36_000, help="simulated soils")
    parser.add_argument("--epochs", type=int, default=12, help="passes, each with new errors drawn")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument(
        "--real-data",
        type=Path,
        metavar="FOLDER",
        help="also report on the real spectra in this folder",
    )
    parser.add_argument(
        "--no-train", action="store_true", help="report on the weights in --output as they are"
    )
    options = parser.parse_args(argv)
    card = options.card
    if card is None and options.output == DEFAULT_WEIGHTS:
        card = DEFAULT_WEIGHTS.with_suffix(".md")

    def report(name: str, text: str) -> None:
        print(text + "\n")
        if card is not None:
            write_section(card, name, text)

    if not options.no_train:
        import torch

        from lunarray.simulate.recipe import recipe_settings

        torch.set_num_threads(options.threads)
        start = time.perf_counter()

        def progress(epoch: int, loss: float) -> None:
            passed = time.perf_counter() - start
            print(
                f"epoch {epoch:3d}  loss {loss:.4f}  {passed:5.0f} s", file=sys.stderr, flush=True
            )

        settings = recipe_settings(epochs=options.epochs)
        made = simulate.make_oxide_model(
            samples=options.soils, settings=settings, progress=progress
        )
        made.save(options.output)
        report("held-out", made.report)
    report("slopes", sloped_report(options.output))
    if options.real_data is not None:
        report("real", real_report(options.output, options.real_data))


if __name__ == "__main__":
    main()
