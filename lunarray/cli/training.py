"""Commands that make oxide models: of cubes and maps, of pairs, for the bands of another sensor."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from lunarray.cli.console import console, say, tell, wrote
from lunarray.cli.inputs import ReaderName, open_dataset, open_maps
from lunarray.cli.options import Device, LearningRate, TrainDevice, WeightsOutput
from lunarray.cli.oxides import open_spectra, scores_table

if TYPE_CHECKING:
    import xarray as xr

#: Ends of names of tables of text.
_TABLES = (".csv", ".tsv", ".txt")


class Fitted(StrEnum):
    """What is fitted to pairs."""

    cnn = "cnn"
    gp = "gp"
    pls = "pls"


By = Annotated[
    str | None,
    Option(
        help="Column whose values are left out whole, such as specimen, mission or lon. By default specimen, "
        "where some come twice, else lon."
    ),
]
Fitting = Annotated[Fitted, Option(help="Network, Gaussian process, or partial least squares.")]
Tabled = Annotated[
    bool,
    Option("--table", help="Try all methods on what is left out, and print them side by side."),
]
Prospector = Annotated[
    Path | None,
    Option(help="Table of Lunar Prospector, for a row of what it says at the pairs' places."),
]
Prior = Annotated[
    int,
    Option(min=0, help="Simulated soils to learn from besides, where pairs are few (410-1800 nm)."),
]
Paper = Annotated[
    bool,
    Option(
        "--paper",
        help="The procedure of Bian et al. (2025): a network for each oxide, each sample left out in turn, no "
        "polish.",
    ),
]
ReferenceErrors = Annotated[
    list[str] | None,
    Option(
        metavar="OXIDE=WT%",
        help="Error (1 sigma) of the reference, such as FeO=0.3: intervals then are for the true abundance. "
        "May be repeated.",
    ),
]
Screens = Annotated[
    list[str] | None,
    Option(
        metavar="MAP",
        help="A second FeO map: points where both disagree are left out. May be repeated, one for each pole.",
    ),
]


def make_model(
    bands: Annotated[
        str,
        Option(
            help="Table of bands (.csv): centre in nm, and full width at half maximum; or m3, mi, clementine, "
            "clementine-nir.",
            show_default=False,
        ),
    ],
    output: WeightsOutput,
    oxides: Annotated[
        str | None, Option(help="Oxides that it gives, such as FeO,TiO2; all six by default.")
    ] = None,
    soils: Annotated[int, Option(min=100, help="Simulated soils to train on.")] = 40_000,
    epochs: Annotated[int, Option(min=1, help="Passes over them, each in other light.")] = 12,
    seed: Annotated[int, Option(min=0, help="Of soils, light, errors and weights.")] = 20251120,
    device: TrainDevice = Device.cpu,
) -> None:
    """Make an oxide model for the bands of any sensor: simulate soils, train, calibrate, write its card.

    Beside the weights, a card (.md) tells how well it does on soils that it has not seen, by how well the light is
    known. Then: lunarray invert-oxides --model WEIGHTS. Minutes on two cores.
    """
    import time

    import lunarray as la
    from lunarray.engine import progress_bar
    from lunarray.errors import InputError
    from lunarray.oxides.sensors import read_bands
    from lunarray.simulate.recipe import recipe_settings
    from lunarray.simulate.spectra import LONGEST, SHORTEST

    nm, fwhm = read_bands(bands)
    inside = (nm >= SHORTEST) & (nm <= LONGEST)
    if inside.sum() < 2:
        raise InputError(
            f"{int(inside.sum())} bands within {SHORTEST:g}-{LONGEST:g} nm",
            where=bands,
            remedy="No soils are simulated beyond: give two bands within at least",
        )
    if not inside.all():
        beyond = f"beyond {SHORTEST:g}-{LONGEST:g} nm"
        say(f"{int((~inside).sum())} of {nm.size} bands lie {beyond} and are not used")
    names = tuple(word.strip() for word in oxides.split(",")) if oxides else None
    settings = recipe_settings(epochs=epochs, seed=seed)
    begun = time.perf_counter()
    with progress_bar(f"Training on {soils:,} soils", epochs) as step:
        made = la.simulate.make_oxide_model(
            nm[inside], fwhm[inside], oxides=names, samples=soils, settings=settings,
            device=device.value, progress=lambda epoch, loss: step(),
        )  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    made.save(output)
    card = output.with_suffix(".md")
    card.write_text(_card(made, bands, inside, output.stem), encoding="utf-8")
    tell(report=made.report, oxides=made.oxides, bands_nm=nm[inside])
    took, used = time.perf_counter() - begun, nm[inside]
    say(f"{used.size} bands, {used[0]:g}-{used[-1]:g} nm; made in {took:.0f} s")
    wrote("Weights", output)
    wrote("Card", card)


def _card(made: Any, bands: str, inside: Any, name: str) -> str:
    """The card of a model that was made of simulated soils."""
    nm = made.wavelengths
    unused = int((~inside).sum())
    more = f" {unused} more lie where no soils are simulated, and are not used." if unused else ""
    return f"""# {name}: oxides from {nm.size} bands

Made by `lunarray make-model --bands {Path(bands).name}` (seed {made.training["seed"]}, {made.training["soils"]:,}
simulated soils). It gives {", ".join(made.oxides)} in wt% of reflectance at 30°/0°/30°, and takes with it how well the
light is known (`light_uncertainty`): brightness counts as far as it is.

Bands (nm): {", ".join(f"{w:g}" for w in nm)}.{more}

## What it is made of, and what it is not

Simulated soils alone (`lunarray.simulate.soils`), seen through Gaussian bands, with errors of calibration of the size
of the Spectral Profiler's. No spectrum of this sensor was in its training, so what is peculiar to it (stray light,
thermal emission, steps between detectors, a photometric normalisation of its own) is not known to it: compare with
Lunar Prospector where you can, and look at `novelty`. Fresh mineral exposures are not soil.

## Soils that it has not seen

{made.report}
"""


def train_oxides(
    inputs: Annotated[
        list[str],
        Argument(
            metavar="INPUT...",
            help="Reflectance cubes (Zarr stores or mosaics), for instance of both poles; or one table (.csv) or "
            "store of pairs of spectra and oxides.",
            show_default=False,
        ),
    ],
    output: WeightsOutput,
    reader: ReaderName = None,
    reference: Annotated[
        str | None,
        Option(
            metavar="MAPS",
            help="Maps of the six oxides: a Zarr store, or a folder or pattern of FeO.tif, TiO2.tif, …",
        ),
    ] = None,
    screen: Screens = None,
    reference_window: Annotated[
        int, Option(min=1, help="Pixels of the reference along a side that are averaged.")
    ] = 17,
    reference_std: ReferenceErrors = None,
    folds: Annotated[
        int,
        Option(min=0, help="Parts left out in turn; 0 for each sample (or value of --by) in turn."),
    ] = 10,
    by: By = None,
    method: Fitting = Fitted.cnn,
    table: Tabled = False,
    prospector: Prospector = None,
    prior: Prior = 0,
    paper: Paper = False,
    width: Annotated[
        int, Option("--channels", "-n", min=1, help="Channels of the first block.")
    ] = 32,
    learning_rate: LearningRate = 1e-3,
    epochs: Annotated[int, Option(min=1, help="Steps on all samples.")] = 100,
    separate: Annotated[
        bool, Option("--separate", help="A network for each oxide instead of one for all.")
    ] = False,
    seed: Annotated[int, Option(help="Of the weights to begin with.")] = 0,
    device: TrainDevice = Device.auto,
    checkpoint: Annotated[
        Path | None, Option(help="Folder from which a stopped run goes on.")
    ] = None,
    samples_output: Annotated[
        Path | None, Option("--samples", help="Keep the samples in this Zarr store.")
    ] = None,
    figures: Annotated[
        Path | None, Option(help="Folder for pictures: correlation and scatter.")
    ] = None,
) -> None:
    """Train an oxide model on a cube and reference maps, or on pairs of spectra and oxides.

    Spectra and maps are paired on the lattice of Bian et al. (2025), 51°-64° north and south. A table of pairs has a
    line of names and a row for each pair: wavelengths in nm, FeO, TiO2, …, FeO_error, …, and what else tells about the
    pair. The model has the mean of the weights of all folds, and brings uncertainties with it.
    """
    import lunarray as la

    errors = _assignments(reference_std or [], "--reference-std")
    samples, pixels = _samples(inputs, reference, screen or [], reference_window, errors, reader)
    samples = la.oxides.select_samples(samples)
    _say_samples(samples)
    if samples_output is not None:
        samples.lunar.to_zarr(samples_output, overwrite=True, progress=False)
    given: dict[str, Any] = {"n": width, "learning_rate": learning_rate, "epochs": epochs}
    settings = (
        la.oxides.TrainSettings.paper(**given, seed=seed)
        if paper
        else la.oxides.TrainSettings(**given, joint=not separate, seed=seed)
    )
    dealt: dict[str, Any] = {
        "folds": "leave-one-out" if paper else folds or "leave-one-out",
        "by": None if paper else by or _grouped(samples),
        "prior": _simulated(samples, prior, seed),
    }
    if table:
        _methods(samples, settings, prospector, dealt)
    fit = la.oxides.train(
        samples,
        settings,
        **dealt,
        method=method.value,
        pixels=pixels,
        device=device.value,
        checkpoint=checkpoint,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    fit.save(output)
    scores_table(fit.metrics(), "Left-out predictions against the reference")
    _pictures(fit, figures)
    wrote("Weights", output)


def _samples(
    inputs: list[str],
    reference: str | None,
    screen: list[str],
    window: int,
    reference_std: dict[str, float],
    reader: str | None,
) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Build samples, and those of single pixels, from cubes and maps; or open a table or store of samples."""
    import lunarray as la
    from lunarray.errors import InputError

    if reference is None:
        if len(inputs) == 1 and reader is None and Path(inputs[0]).suffix.lower() in _TABLES:
            return la.oxides.open_pairs(inputs[0]), None
        if len(inputs) == 1:
            opened, _ = open_dataset(inputs, reader, otherwise="cube")
            if "sample" in opened.dims:
                # A store of pairs may have errors by another name, as tables do.
                local = Path(inputs[0]).is_dir()
                return (la.oxides.open_pairs(inputs[0]) if local else opened), None
        raise InputError(
            "no reference maps",
            where="--reference",
            remedy="Give maps of the six oxides; or, in place of the cubes, a table (.csv) or store of pairs",
        )
    cubes = [open_spectra([name], reader) for name in inputs]
    maps = []
    for path in screen:
        found = open_maps(path)
        only = [str(name) for name in found.data_vars]
        # A single map is the one meant, whatever its file is called.
        maps.append(found if "FeO" in found or len(only) != 1 else found.rename({only[0]: "FeO"}))
    # Maps are made of single pixels: how far off these are is seen on single pixels.
    windows: tuple[dict[str, Any], ...] = ({}, {"spectra_window": 1})
    samples, pixels = (
        la.oxides.build_samples(
            cubes,
            open_maps(reference),
            screen=maps or None,
            reference_window=window,
            reference_std=reference_std,
            **window_of,
        )
        for window_of in windows
    )
    return samples, pixels


def _grouped(samples: xr.Dataset) -> str | None:
    """What samples are left out by where nobody says it."""
    import numpy as np

    if "specimen" in samples.coords and np.unique(samples["specimen"]).size < samples.sizes["sample"]:  # fmt: skip
        return "specimen"
    return "lon" if "lon" in samples.coords else None


def _simulated(samples: xr.Dataset, count: int, seed: int) -> xr.Dataset | None:
    """Simulated soils on the bands of the samples, as a laboratory sees them."""
    import lunarray as la

    if not count:
        return None
    made = la.simulate.soils(count, seed, samples["wavelength"].values)
    return made.assign_coords(wavelength=samples["wavelength"])


def _methods(
    samples: xr.Dataset, settings: Any, prospector: Path | None, dealt: dict[str, Any]
) -> None:
    """Try all methods, and print the error of each for each oxide."""
    from rich.table import Table

    import lunarray as la

    cells = None if prospector is None else la.maps.open_lunar_prospector(prospector)
    table = la.oxides.compare_methods(samples, settings, prospector=cells, **dealt)
    tell(methods=table, left_out=table.attrs["left_out"])
    shown = Table(
        "RMSE, wt%", *map(str, table["oxide"].values), "pairs",
        title=f"Methods on what they had not seen: {table.attrs['left_out']}",
    )  # fmt: skip
    for name in table["model"].values:
        row = table.sel(model=name)
        errors = [f"{v:.2f}" if v == v else "–" for v in map(float, row["RMSE"].values)]
        shown.add_row(str(name), *errors, f"{int(row['count'].max()):,}")
    console().print(shown)


def _pictures(fit: Any, folder: Path | None) -> None:
    """Draw how bands go with oxides, and what was left out against the reference."""
    import lunarray as la

    if folder is None or fit.left_out is None:
        return
    correlation = la.oxides.band_correlation(fit.samples)
    la.plot.correlation_curves(correlation, path=folder / "correlation.png")
    la.plot.prediction_scatter(fit.reference, fit.left_out, path=folder / "scatter.png")
    wrote("Pictures", folder)


def _say_samples(samples: xr.Dataset) -> None:
    """Print how many samples there are, and where the others were lost."""
    lost = ", ".join(
        f"{count} {str(name).removeprefix('lost_').replace('_', ' ')}"
        for name, count in samples.attrs.items()
        if str(name).startswith("lost_") and count
    )
    tell(samples=samples.attrs["samples"], lattice_points=samples.attrs["lattice_points"])
    say(
        f"{samples.attrs['samples']:,} samples of {samples.attrs['lattice_points']:,} points"
        + (f"; lost: {lost}" if lost else "")
    )


def _assignments(given: list[str], where: str) -> dict[str, float]:
    """Read NAME=NUMBER."""
    from lunarray.errors import InputError

    try:
        pairs = [text.split("=") for text in given]
        return {name: float(value) for name, value in pairs}
    except ValueError as error:
        raise InputError(
            f"{', '.join(given)}", where=where, remedy="Give name=number, such as FeO=0.3"
        ) from error
