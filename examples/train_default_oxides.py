"""Train the oxide model that comes with lunarray, and write its weights and the numbers of its model card.

    python examples/train_default_oxides.py                        # weights and held-out errors
    python examples/train_default_oxides.py --real-data FOLDER     # the same, and what it says on real spectra
    python examples/train_default_oxides.py --no-train --real-data FOLDER    # for the weights that are there
    python examples/train_default_oxides.py --no-train --calibrate           # the same weights, their errors taken anew

Everything is simulated (`lunarray.simulate`), seeded, and takes about six minutes on one idle core. Weights of another
processor differ from the shipped ones by what float arithmetic leaves, amplified by training. FOLDER holds `sp/*.spc`
(KAGUYA SP L2C), `maps/lpgrs_high1_elem_abundance_5deg.tab` (Lunar Prospector) and
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
from lunarray.oxides.constants import OXIDES
from lunarray.oxides.novelty import fit_novelty, novelty
from lunarray.oxides.uncertainty import Calibration, calibrate, coverage
from lunarray.oxides.weights import (
    DEFAULT_WEIGHTS,
    load_novelty,
    load_oxide_cnn,
    read_header,
    save_oxide_cnn,
)
from lunarray.simulate import instrument
from lunarray.simulate.spectra import SP_ERRORS, smoothed
from lunarray.sp.bands import WAVELENGTHS_150

#: Share of training spectra close to SP's radiometric scale; the others lie anywhere between the laboratory's and SP's.
SP_SHARE = 0.75
HELD_OUT = 10_000
#: Seeds apart from the training seed by this much: no held-out soil is a training soil.
HELD_OUT_SEED = 1_000_003
CALIBRATION_SEED = 2_000_003


def draw_scale(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Radiometric scale of each spectrum: 1 is SP's, 0 the laboratory's."""
    return np.where(
        rng.random(samples) < SP_SHARE,
        rng.normal(1.0, 0.08, samples),
        rng.uniform(-0.05, 1.05, samples),
    )


def with_errors(spectra: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One draw of scale, calibration errors, noise, and smoothing."""
    measured = instrument.measure(
        spectra,
        WAVELENGTHS_150,
        rng,
        scale=draw_scale(len(spectra), rng),
        common_pattern=False,
        **SP_ERRORS,
    )
    return smoothed(measured, WAVELENGTHS_150)


def targets(soils) -> np.ndarray:
    """Oxides (sample, oxide) of simulated soils."""
    return np.stack([soils[oxide].values for oxide in OXIDES], axis=1)


def calibration_of(model, seed: int) -> Calibration:
    """Errors on soils of their own, neither trained on nor reported on, seen as those of the training."""
    from lunarray.oxides.minibatch import predict

    soils = simulate.soils(HELD_OUT, seed + CALIBRATION_SEED)
    rng = np.random.default_rng(seed + CALIBRATION_SEED + 1)
    return calibrate(predict(model, with_errors(soils.reflectance.values, rng)), targets(soils))


def table(header: list[str], rows: list[list[object]]) -> str:
    """A Markdown table; floats with two decimals."""

    def cell(value: object) -> str:
        return f"{value:.2f}" if isinstance(value, (float, np.floating)) else str(value)

    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def held_out_report(model, statistics, seed: int, path: Path) -> str:
    """Errors on soils that the model has not seen."""
    import xarray as xr

    from lunarray.oxides import invert_oxides, metrics
    from lunarray.oxides.minibatch import predict

    soils = simulate.soils(HELD_OUT, seed + HELD_OUT_SEED)
    truth = targets(soils)
    cases = {
        "SP scale, all errors": {},
        "SP scale, noise only": {k: 0.0 for k in SP_ERRORS if k != "noise"},
        "laboratory scale, all errors": {"scale": 0.0},
    }
    rows, unusual = [], []
    for name, options in cases.items():
        spectra = simulate.add_sp_errors(
            soils.reflectance, seed + HELD_OUT_SEED + 1, **options
        ).values
        found = {o: ("sample", v) for o, v in zip(OXIDES, predict(model, spectra).T, strict=True)}
        result = metrics(xr.Dataset(found), soils[list(OXIDES)])
        rows += [
            [name, label, *result[measure].values]
            for label, measure in (
                ("RMSE", "RMSE"),
                ("MAE", "MAE"),
                ("bias", "bias"),
                ("R2", "r2_correlation"),
            )
        ]
        unusual.append(f"{name}: {100 * (novelty(spectra, statistics) > 1).mean():.2f} %")
        maps = invert_oxides(soils.reflectance.copy(data=spectra), path, uncertainty=True)
        held = [100 * coverage(maps[f"{o}_lower"], maps[f"{o}_upper"], soils[o]) for o in OXIDES]
        rows.append([name, "in 90 % interval, %", *held])
    rows.append(["(spread of the truth)", "standard deviation", *truth.std(axis=0)])
    return (
        f"{HELD_OUT} held-out soils, wt% (R2 without unit; shares in %):\n\n"
        + table(["spectra", "measure", *OXIDES], rows)
        + "\n\nHeld-out spectra with novelty above 1: "
        + "; ".join(unusual)
        + "."
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


def real_report(model, statistics, folder: Path) -> str:
    """What the model says on real spectra, beside what is known about them."""
    import lunarray
    from lunarray.oxides.minibatch import predict

    rows, lines = [], []
    to_laboratory = 1 / instrument.sp_scale(WAVELENGTHS_150)
    for path in sorted((folder / "sp").glob("*.spc")):
        track = lunarray.sp.condition(lunarray.open_sp(path))
        spectra = track.reflectance.transpose("observation", "wavelength").values
        spectra = spectra[np.isfinite(spectra).all(axis=1)]
        result = predict(model, spectra)
        orbit = path.stem.split("_")[3]
        prospector = lunar_prospector(folder, float(track.lat.mean()), float(track.lon.mean()))
        rows.append(
            [f"SP orbit {orbit}", f"model, mean of {len(result)} footprints", *result.mean(axis=0)]
        )
        rows.append(["", "model, standard deviation", *result.std(axis=0)])
        rows.append(["", "Lunar Prospector, 150 km cell", *prospector])
        total = result.sum(axis=1)
        unlike = novelty(spectra, statistics)
        lines.append(
            f"Orbit {orbit}: six oxides sum to {total.min():.1f}-{total.max():.1f} wt%; "
            f"novelty {unlike.min():.2f}-{unlike.max():.2f}; "
            f"FeO by Lucey et al. (2000) {feo_lucey(spectra):.1f} wt% on the spectra as they are, "
            f"{feo_lucey(spectra * to_laboratory):.1f} wt% on the laboratory's scale."
        )
    soil = np.loadtxt(folder / "spectra" / "62231_avg_scaled_std_text.txt", skiprows=1)
    spectrum = np.interp(WAVELENGTHS_150, soil[:, 0], soil[:, 1]).astype(np.float32)[None]
    spectrum = smoothed(spectrum, WAVELENGTHS_150)
    result = predict(model, spectrum)[0]
    rows.append(["Apollo 16 soil 62231 (RELAB)", "model", *result])
    rows.append(
        [
            "",
            "bulk soils of Apollo 16 (Lunar Sourcebook, table 7.15, 16c)",
            5.4,
            0.6,
            26.8,
            15.6,
            5.7,
            45.1,
        ]
    )
    lines.append(
        f"62231: sum {result.sum():.1f} wt%; novelty {novelty(spectrum, statistics)[0]:.2f}; "
        f"FeO by Lucey et al. (2000) {feo_lucey(spectrum):.1f} wt%."
    )
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
    parser.add_argument("--soils", type=int, default=50_000, help="simulated soils")
    parser.add_argument("--epochs", type=int, default=14, help="passes, each with new errors drawn")
    parser.add_argument("--batch-size", type=int, default=128, help="spectra per step")
    parser.add_argument(
        "--learning-rate", type=float, default=2e-3, help="peak of the one-cycle schedule"
    )
    parser.add_argument("--weight-decay", type=float, default=1e-4, help="Adam's L2 penalty")
    parser.add_argument("--seed", type=int, default=20251120, help="of soils, errors and weights")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads of torch; more help only on an otherwise idle machine",
    )
    parser.add_argument(
        "--real-data",
        type=Path,
        metavar="FOLDER",
        help="also report on the real spectra in this folder",
    )
    parser.add_argument(
        "--no-train", action="store_true", help="report on the weights in --output as they are"
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="with --no-train: take the errors behind the intervals anew",
    )
    options = parser.parse_args(argv)

    import torch

    from lunarray.oxides.minibatch import train_network
    from lunarray.oxides.settings import MinibatchSettings

    torch.set_num_threads(options.threads)
    if not options.no_train:
        settings = MinibatchSettings(
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            batch_size=options.batch_size,
            schedule="one-cycle",
            seed=options.seed,
        )
        start = time.perf_counter()
        soils = simulate.soils(options.soils, options.seed)
        spectra = soils.reflectance.values
        statistics = fit_novelty(with_errors(spectra, np.random.default_rng(options.seed + 1)))

        def progress(epoch: int, loss: float) -> None:
            print(
                f"epoch {epoch:3d}  loss {loss:.4f}  {time.perf_counter() - start:5.0f} s",
                file=sys.stderr,
                flush=True,
            )

        model = train_network(
            spectra, targets(soils), settings, augment=with_errors, progress=progress
        )
        save_oxide_cnn(
            options.output,
            model,
            wavelengths=WAVELENGTHS_150,
            oxides=OXIDES,
            novelty=statistics,
            calibration=calibration_of(model, options.seed),
            training={
                "data": "lunarray.simulate.soils, simulations only",
                "soils": options.soils,
                **settings.to_dict(),
                "errors": SP_ERRORS,
                "sp_scale_share": SP_SHARE,
                "script": "examples/train_default_oxides.py",
            },
        )
    elif options.calibrate:
        model = load_oxide_cnn(options.output)
        save_oxide_cnn(
            options.output,
            model,
            wavelengths=read_header(options.output)["wavelengths"],
            oxides=OXIDES,
            novelty=load_novelty(options.output),
            calibration=calibration_of(model, options.seed),
            training=read_header(options.output)["training"],
        )
    # What is reported is what the file holds.
    model, statistics = load_oxide_cnn(options.output), load_novelty(options.output)
    report = held_out_report(model, statistics, options.seed, options.output)
    print(report)
    card = options.card
    if card is None and options.output == DEFAULT_WEIGHTS:
        card = DEFAULT_WEIGHTS.with_suffix(".md")
    if card is not None:
        write_section(card, "held-out", report)
    if options.real_data is not None:
        report = real_report(model, statistics, options.real_data)
        print("\n" + report)
        if card is not None:
            write_section(card, "real", report)


if __name__ == "__main__":
    main()
