"""Commands of super-resolved element maps: the Global Information Bank."""

from __future__ import annotations

import math
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from lunarray.cli.bank import bank_table
from lunarray.cli.console import Command, console, picture, say, tell, wrote
from lunarray.cli.inputs import ReaderName, open_dataset, open_map, open_maps
from lunarray.cli.options import Device, Output, Overwrite, Quicklook, RunDevice, TrainDevice
from lunarray.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

gib = typer.Typer(
    no_args_is_help=True,
    help="Element maps at two kilometres from X-ray footprints, by way of a Global Information Bank.",
)

Store = Annotated[
    Path, Argument(help="The Global Information Bank, a Zarr store.", show_default=False)
]


_MODELS = ("--models", "-m")
Models = Annotated[
    Path,
    Option(*_MODELS, help="Folder of the model, or of the regions' networks.", show_default=False),
]
GeoTiffs = Annotated[
    Path | None, Option(help="Folder for GeoTIFFs of the elements, with QGIS styles.")
]


BaseMap = Annotated[
    str | None,
    Option(
        metavar="MAP",
        help="Image of the surface (GeoTIFF, its tiles in a folder or by a pattern, Zarr, .csv): features are made of "
        "it where a region has none.",
    ),
]
MareRaster = Annotated[
    str | None, Option(metavar="MAP", help="Map of classes, as of --albedo; 1 is mare.")
]
MareAlbedo = Annotated[
    str | None,
    Option(
        metavar="MAP",
        help="Albedo (GeoTIFF, its tiles in a folder or by a pattern, Zarr, .csv): dark ground is mare.",
    ),
]
Weights = Annotated[
    str | None,
    Option(
        help='ResNet50 weights: a file, "torchvision" to fetch them, or "random"; without, means, slopes and spreads '
        "of the map."
    ),
]
Regions = Annotated[
    list[str] | None,
    Option(help="Region as row,column from 0,0 in the north-west. May be repeated."),
]


class Division(StrEnum):
    """How a footprint divides over its cells."""

    contrast = "contrast"
    exact = "exact"
    lagrangian = "lagrangian"


@gib.command(cls=Command)
def create(
    store: Store,
    regions: Annotated[str, Option(help="Regions: rows x columns.")] = "8x8",
    shape: Annotated[str, Option(help="Pixels of a region: rows x columns.")] = "342x682",
    extent: Annotated[str, Option(help="West, south, east, north in degrees.")] = "-180,-90,180,90",
    elements: Annotated[str, Option(help="Elements, with commas.")] = "Fe,Ti,Ca,Si,Al,Mg,Na,O",
    features: Annotated[
        int | None,
        Option(
            min=1,
            help="Surface features of a pixel; by default as many as `gib features` makes.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Lay out a Global Information Bank: the Moon in 8 × 8 regions of 342 × 682 pixels, without data yet."""
    from lunarray import superres

    west, south, east, north = _numbers(extent, 4, ",", "--extent")
    rows, columns = _numbers(regions, 2, "x", "--regions")
    height, width = _numbers(shape, 2, "x", "--shape")
    grid = superres.GIBGrid(
        (int(rows), int(columns)), (int(height), int(width)), (west, south, east, north)
    )
    names = [e.strip() for e in elements.split(",") if e.strip()]
    ds = superres.create_gib(store, grid, names, features, overwrite=overwrite)
    say(f"Grid       {grid.size[0]:,} × {grid.size[1]:,} pixels in {regions} regions")
    bank_table(ds)
    wrote("Store", store)


@gib.command(cls=Command)
def features(
    store: Store,
    maps: Annotated[
        list[str] | None,
        Option(
            "--map",
            help="Raster as name=file (GeoTIFF, its tiles in a folder or by a pattern, Zarr, .csv); its means, slopes "
            "and spreads are features. May be repeated.",
            show_default=False,
        ),
    ] = None,
    basemap: BaseMap = None,
    weights: Weights = None,
    region: Regions = None,
    device: RunDevice = Device.auto,
) -> None:
    """Fill the features of every pixel: of maps of any kind, or what a ResNet50 sees in a base map.

    An interrupted run is completed by the same command.
    """
    from lunarray import superres

    named = {}
    for text in maps or []:
        name, separator, file = text.partition("=")
        if not separator or not name or not file:
            raise InputError(f"{text!r}", where="--map", remedy="Give name=file, as albedo=wac.tif")
        named[name] = open_map(file)
    filled = superres.fill_features(
        store,
        None if basemap is None else open_map(basemap),
        weights,
        maps=named or None,
        regions=None if region is None else [_region(r) for r in region],
        device=device.value,
    )
    say(f"Features   of {len(filled)} regions")
    ds = superres.open_gib(store, incomplete=True)
    bank_table(ds)
    wrote("Store", store)


@gib.command(cls=Command)
def populate(
    store: Store,
    footprints: Annotated[
        list[Path] | None,
        Argument(
            help="Tables of CLASS tracks (.csv) or results of fit-elements (.zarr); none completes an interrupted run.",
            show_default=False,
        ),
    ] = None,
    mare_polygons: Annotated[
        Path | None, Option(help="Outlines of the maria (GeoPackage, shapefile).")
    ] = None,
    mare_raster: MareRaster = None,
    albedo: MareAlbedo = None,
    threshold: Annotated[
        float | None, Option(help="Albedo below which ground is mare; by default Otsu's.")
    ] = None,
    reclassify: Annotated[
        bool,
        Option("--reclassify", help="Write the class of regions anew that have one."),
    ] = False,
    method: Annotated[
        Division | None,
        Option(
            help="How a footprint divides over its cells: mare and highland differ by a part of what is expected, or "
            "as in the paper; by default as before in this store, or by contrast.",
            show_default=False,
        ),
    ] = None,
    cells: Annotated[int, Option(min=1, help="Cells of a footprint.")] = 8,
    reader: ReaderName = None,
    skip_bad: Annotated[
        bool, Option("--skip-bad", help="Go on without footprints that are none.")
    ] = False,
    skip_outside: Annotated[
        bool, Option("--skip-outside", help="Go on without footprints outside of the grid.")
    ] = False,
    quicklook: Quicklook = None,
    geotiff: GeoTiffs = None,
    vectors: Annotated[
        Path | None, Option(help="Footprints to write (.gpkg, .shp), with a QGIS style.")
    ] = None,
) -> None:
    """Put the abundances of footprints on the pixels of a Global Information Bank.

    Footprints divide over the mare and highland that they cover. Later footprints are added to earlier ones, and only
    the regions that they touch are done anew; footprints that are there already are left out.
    """
    from lunarray import plot, superres

    sources = _mare_sources(mare_polygons, mare_raster, albedo, reclassify)
    tables: list[xr.Dataset | None] = [
        open_dataset([path], reader, otherwise="ch2-class-tracks", skip=skip_bad)[0]
        for path in footprints or []
    ]
    if sources:
        superres.classify_mare(
            store,
            **sources,
            threshold="otsu" if threshold is None else threshold,
            overwrite=reclassify,
        )
    regions: set[tuple[int, int]] = set()
    for table in tables or [None]:
        done = superres.populate(
            store,
            table,
            method=None if method is None else method.value,
            cells=cells,
            errors="skip" if skip_bad else "raise",
            outside="skip" if skip_outside else "raise",
        )
        regions |= set(done.regions)
        tell(footprints=done.footprints, regions=sorted(regions))
        say(
            f"Footprints {done.added:,} added, {done.known:,} known, {done.outside:,} outside; "
            f"{done.footprints:,} in all"
        )
    say(f"Regions    {len(regions)} populated anew")
    ds = superres.open_gib(store)
    bank_table(ds)
    if quicklook is not None:
        first = _known_elements(ds)[0]
        plot.heat_map(
            ds, first, base=sources.get("albedo"), footprints=superres.gib_footprints(store),
            radius=40.0, path=quicklook,
        )  # fmt: skip
        wrote("Picture", quicklook)
    if geotiff is not None:
        files = superres.write_element_maps(ds, geotiff)
        wrote("GeoTIFF", geotiff, f" ({sum(f.suffix == '.tif' for f in files)})")
    if vectors is not None:
        superres.write_element_vectors(superres.gib_footprints(store), vectors)
        wrote("Vectors", vectors)
    wrote("Store", store)


def _mare_sources(
    polygons: Path | None, raster: str | None, albedo: str | None, needed: bool
) -> dict[str, Any]:
    """Of what classes are made, opened; InputError where it is needed and missing."""
    sources: dict[str, Any] = {} if polygons is None else {"polygons": polygons}
    for name, file in (("raster", raster), ("albedo", albedo)):
        if file is not None:
            sources[name] = open_map(file)
    if needed and not sources:
        raise InputError(
            "no source of classes",
            where="--reclassify",
            remedy="Give --albedo, --mare-raster or --mare-polygons",
        )
    return sources


class Way(StrEnum):
    """What predicts the maps."""

    areal = "areal"
    network = "network"


class Losses(StrEnum):
    """What a network is trained on."""

    paper = "paper"
    footprint = "footprint"


@gib.command(cls=Command)
def train(
    context: typer.Context,
    store: Store,
    models: Models,
    basemap: BaseMap = None,
    weights: Weights = None,
    region: Regions = None,
    method: Annotated[
        Way,
        Option(
            help="An areal Gaussian process of all footprints, or the paper's networks, to which the options of "
            "networks belong."
        ),
    ] = Way.areal,
    losses: Annotated[
        Losses,
        Option(
            help="The paper's losses at points alone, or errors of the means over footprints with a linear trend."
        ),
    ] = Losses.paper,
    members: Annotated[
        int, Option(min=1, help="Networks in the ensemble that tells the uncertainty.")
    ] = 3,
    epochs: Annotated[int, Option(min=1, help="Passes over all sub-regions, in each phase.")] = 3,
    steps: Annotated[
        tuple[int, int], Option(help="Gradient steps at each visit, in each phase.")
    ] = (4, 4),
    neighbours: Annotated[int, Option(min=1, help="Neighbours of a node.")] = 100,
    seed: Annotated[int, Option(help="Another number, other networks.")] = 0,
    device: TrainDevice = Device.auto,
    overwrite: Annotated[
        bool,
        Option("--overwrite", help="Train regions anew whose data or settings have changed since."),
    ] = False,
) -> None:
    """Train the predictor of the maps on the regions that hold features, mare class and abundances.

    An interrupted training is completed by the same command. After more footprints were populated, --overwrite trains
    the regions that they touched, and no others.
    """
    from lunarray import superres

    if basemap is not None:
        wanted = None if region is None else [_region(r) for r in region]
        filled = superres.fill_features(
            store, open_map(basemap), weights, regions=wanted, device=device.value
        )
        say(f"Features   of {len(filled)} regions")
    wanted = None if region is None else [_region(r) for r in region]
    if method is Way.areal:
        _refuse_options_of_networks(context)
        files = superres.train_gib(
            store, models, superres.ArealSettings(seed=seed), regions=wanted, overwrite=overwrite
        )
        wrote("Model", files[0])
        for line in _repeats(superres.repeatability(superres.gib_footprints(store))):
            say(f"Repeats    {line}")
        return
    kind = superres.TrainSettings
    make = kind.paper if losses is Losses.paper else kind.footprint_aware
    settings = make(members=members, epochs=epochs, steps=tuple(steps), k=neighbours, seed=seed)

    def report(state: dict[str, Any]) -> None:
        if state["visit"] == state["visits"] or state["visit"] % 20 == 0:
            say(
                f"Region     {state['region']} network {state['member'] + 1}/{members}, phase {state['phase']}, "
                f"{state['visit']}/{state['visits']} sub-regions, loss {state['loss']:.4g}"
            )

    files = superres.train_gib(
        store,
        models,
        settings,
        regions=wanted,
        overwrite=overwrite,
        device=device.value,
        progress=False,
        report=report,
    )
    wrote("Models", models, f" ({len(files)})")


def _refuse_options_of_networks(context: typer.Context) -> None:
    """InputError where the user gave an option to which a Gaussian process does not listen."""
    for name in ("losses", "members", "epochs", "steps", "neighbours"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InputError(
                "an option of networks, which the areal model does not have",
                where=f"--{name}",
                remedy="Leave it out, or give --method network",
            )


@gib.command(cls=Command)
def predict(
    store: Store,
    output: Output,
    models: Models,
    max_distance: Annotated[
        float, Option(min=0, help="Mask pixels farther from any populated one (km).")
    ] = 150.0,
    device: RunDevice = Device.auto,
    quicklook: Quicklook = None,
    geotiff: GeoTiffs = None,
    overwrite: Overwrite = False,
) -> None:
    """Predict the elements of every pixel, with their uncertainty."""
    from lunarray import plot, superres
    from lunarray.store import open_zarr, to_zarr

    ds = superres.open_gib(store)
    maps = superres.superresolve(
        ds, models.absolute(), max_distance=1e3 * max_distance, device=device.value
    )
    to_zarr(maps, output, overwrite=overwrite)
    done = open_zarr(output)
    elements = [str(e) for e in done["element"].values]
    table = superres.gib_footprints(store)
    picture(partial(plot.heat_map, footprints=table), done, elements[0], path=quicklook)
    if geotiff is not None:
        files = superres.write_element_maps(done, geotiff)
        wrote("GeoTIFF", geotiff, f" ({sum(f.suffix == '.tif' for f in files)})")
    tell(elements=elements)
    say(f"Elements   {', '.join(elements)}")
    wrote("Store", output)


@gib.command(cls=Command)
def plan(
    store: Store,
    models: Annotated[
        Path | None,
        Option(
            *_MODELS,
            help="Folder of an areal model: what its maps will take. Without, networks.",
            show_default=False,
        ),
    ] = None,
    published: Annotated[
        bool, Option("--published", help="With the settings of the published program.")
    ] = False,
    members: Annotated[int, Option(min=1, help="Networks in the ensemble.")] = 3,
    regions: Annotated[
        int | None, Option(min=1, help="Regions to count; by default all of the bank.")
    ] = None,
    workers: Annotated[int, Option(min=1, help="Workers, of a core each.")] = 1,
    device: TrainDevice = Device.auto,
) -> None:
    """Estimate how long it will take to map the regions, or to train networks, by trying a part on this machine."""
    from lunarray import superres
    from lunarray.superres.gib import gib_grid
    from lunarray.superres.planning import measure_areal, measure_costs, plan_region

    ds = superres.open_gib(store, incomplete=True)
    grid = gib_grid(ds)
    count = grid.regions[0] * grid.regions[1] if regions is None else regions
    if models is not None:
        areal = measure_areal(ds, models)
        tell(footprints=areal.footprints, bands=areal.bands, regions=count, workers=workers)
        tell(hours_of_a_region=areal.hours(1), hours=areal.hours(count, workers))
        say(f"Areal      {areal.footprints:,} footprints, {areal.band:.2f} s a band")
        say(f"Region     {areal.bands} bands: {areal.hours(1):.3f} h on one core")
        say(f"All        {count} regions on {workers} workers: {areal.hours(count, workers):.2f} h")
        return
    settings = superres.TrainSettings(members=members)
    if published:
        settings = superres.TrainSettings.published(members=members)
    costs = measure_costs(
        ds.sizes["feature"] or 8, ds.sizes["element"], settings, device=device.value
    )
    one = plan_region(grid, settings, costs)
    tell(windows=one.windows, steps=one.steps, regions=count, workers=workers)
    tell(hours_of_a_region=one.seconds / 3600, hours=one.hours(count, workers))
    say(
        f"Sub-region graph {costs.graph:.2f} s, step {costs.step:.3f} s, prediction {costs.prediction:.3f} s"
    )
    say(
        f"Region     {one.windows} sub-regions, {one.steps:,} steps: {one.seconds / 3600:.2f} h, "
        "less where it stops early"
    )
    say(f"All        {count} regions on {workers} workers: {one.hours(count, workers):.1f} h")


@gib.command(cls=Command)
def compare(
    maps: Annotated[
        Path, Argument(help="Predicted element maps, or a bank (.zarr).", show_default=False)
    ],
    others: Annotated[
        list[str],
        Option(
            "--with",
            help="Another source as name=file: Lunar Prospector's table (.tab), element or oxide maps (Zarr, .nc, a "
            "folder or pattern of GeoTIFFs); or name:Fe=file for a map of one element (GeoTIFF, .csv). May "
            "be repeated.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, Option("--output", "-o", help="Picture to write (.png, .pdf).", show_default=False)
    ],
    resolution: Annotated[
        float | None,
        Option(help="Pixel to compare at, in the maps' unit; by default the coarsest raster's."),
    ] = None,
    elements: Annotated[
        str | None, Option(help="Elements, with commas; by default all in common.")
    ] = None,
) -> None:
    """Draw element maps beside Lunar Prospector's, or oxides turned into elements, on one grid, with their numbers."""
    import xarray as xr
    from rich.table import Table

    from lunarray import plot
    from lunarray.maps import compare_elements

    sources: dict[str, Any] = {}
    for text in others:
        label, separator, file = text.partition("=")
        name, _, element = label.partition(":")
        if not separator or not name or not file:
            raise InputError(
                f"{text!r}",
                where="--with",
                remedy="Give name=file, or name:Fe=file for one element",
            )
        if element:
            own = open_map(file).rename(element)
            sources[name] = xr.Dataset({**sources.get(name, {}), element: own})
        else:
            sources[name] = open_maps(file)
    found = compare_elements(
        open_dataset([maps], None)[0],
        sources,
        grid=resolution,
        elements=None if elements is None else [e.strip() for e in elements.split(",")],
    ).compute()
    tell(scores=found[["r", "bias", "rmse", "pixels"]])
    table = Table("source", "element", "r", "bias", "rmse", "pixels")
    for source in found["source"].values[1:]:
        for e in found["element"].values:
            pair = found.sel(source=source, element=e)
            if int(pair["pixels"]):
                numbers = (f"{float(pair[n]):.2f}" for n in ("r", "bias", "rmse"))
                table.add_row(str(source), str(e), *numbers, f"{int(pair['pixels']):,}")
    console().print(table)
    plot.element_comparison(found, path=output)
    wrote("Picture", output)


def _repeats(found: xr.Dataset) -> list[str]:
    """What is told of how footprints repeat: nothing where too few of them overlap."""
    lines = []
    for e in found["element"].values:
        own = found.sel(element=e)
        pairs, r, ratio = int(own["pairs"]), float(own["r"]), float(own["error_ratio"])
        if math.isnan(r):
            continue
        line = f"{e}: ±{float(own['scatter']):.2f} wt% by {pairs} pairs that overlap, r {r:.2f}"
        if math.isfinite(ratio):
            line += f", {ratio:.1f} times the stated errors"
        # Said only where pairs are enough to tell: two standard errors above what is found, little is left of a signal.
        noise = max(r, 0.0) + 2 / math.sqrt(pairs) < 0.3
        lines.append(line + ("; it is noise for the most part" if noise else ""))
    return lines


def _region(text: str) -> tuple[int, int]:
    i, j = _numbers(text, 2, ",", "--region")
    return int(i), int(j)


def _numbers(text: str, count: int, separator: str, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.lower().split(separator)]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InputError(
            f"{text!r}", where=option, remedy=f"Give {count} numbers with {separator!r} between"
        )
    return numbers


def _known_elements(ds: xr.Dataset) -> list[str]:
    import numpy as np

    flat = np.isfinite(ds["abundance"].data).any(axis=(1, 2)).compute()
    known = [str(e) for e, k in zip(ds["element"].values, flat, strict=True) if k]
    if not known:
        raise InputError("nothing is populated", where="populate", remedy="Give footprints")
    return known
