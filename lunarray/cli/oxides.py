"""Commands of the oxides: invert, map, compare."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from lunarray.cli.console import console, picture, tell, wrote
from lunarray.cli.inputs import ReaderName, open_dataset, open_map, open_maps
from lunarray.cli.options import (
    Device,
    Grid,
    Output,
    Overwrite,
    OwnWeights,
    Quicklook,
    RunDevice,
    SkipBadFiles,
    folder,
)
from lunarray.units import unit_label

if TYPE_CHECKING:
    import xarray as xr


class Reflectance(StrEnum):
    """The two reflectances of an SP product."""

    REF1 = "REF1"
    REF2 = "REF2"


class Method(StrEnum):
    """How a map is resampled."""

    auto = "auto"
    nearest = "nearest"
    bilinear = "bilinear"
    average = "average"


#: Orbits that a summary shows apart.
MAX_COLUMNS = 6


def invert_oxides(
    inputs: Annotated[
        list[str],
        Argument(
            metavar="INPUT...",
            help="KAGUYA SP L2C files (.spc, .lbl; quoted patterns too), one Zarr store, one reflectance mosaic "
            "(GeoTIFF, ISIS cube, ENVI), or spectra that another reader opens.",
            show_default=False,
        ),
    ],
    output: Output,
    grid: Annotated[
        Grid | None,
        Option(help="Grid the tracks to a map first; otherwise footprint by footprint."),
    ] = None,
    resolution: Annotated[
        float | None,
        Option(help="Pixel of that map: m (default 500), or degrees if geographic (0.5)."),
    ] = None,
    latitude: Annotated[
        float, Option(help="A polar map reaches down to this latitude (degrees).")
    ] = 65.0,
    fill_radius: Annotated[
        float | None, Option(help="Fill gaps of the map from cells within (m).")
    ] = None,
    reflectance: Annotated[
        Reflectance,
        Option(help="SP reflectance: REF1 (photometry of highlands) or REF2 (of maria)."),
    ] = Reflectance.REF1,
    wavelengths: Annotated[
        Path | None,
        Option(help="Text file with a mosaic's wavelengths (nm), if it does not say them."),
    ] = None,
    albedo: Annotated[
        str | None,
        Option(
            metavar="MAP",
            help="Map of normal albedo at 1064 nm (LOLA): every spectrum is scaled to it, which takes slopes out of "
            "the light.",
        ),
    ] = None,
    dem: Annotated[
        str | None,
        Option(
            metavar="MAP",
            help="Elevation model, m (LOLA, SLDEM), or its tiles in a folder or by a pattern: angles and shadows are "
            "those of the ground, and what the product did for flat ground is undone.",
        ),
    ] = None,
    max_incidence: Annotated[
        float | None,
        Option(
            min=0, max=90, help="Leave out spectra under a lower Sun: largest incidence, degrees."
        ),
    ] = None,
    light_uncertainty: Annotated[
        float | None,
        Option(
            min=0,
            help="How well the light is known everywhere: standard deviation of the logarithm of an unknown gain "
            "(0.02: well; 1: not at all). By default what spectra and angles say, else 0.5.",
        ),
    ] = None,
    reader: ReaderName = None,
    model: OwnWeights = None,
    device: RunDevice = Device.auto,
    skip_bad_files: SkipBadFiles = False,
    quicklook: Quicklook = None,
    overwrite: Overwrite = False,
) -> None:
    """Invert reflectance spectra to FeO, TiO2, Al2O3, CaO, MgO, SiO2 and Mg#.

    The embedded model was trained on simulated soils only. Read its card before you believe a map:
    `python -c "import lunarray.oxides as o; print(o.DEFAULT_WEIGHTS.with_suffix('.md'))"`
    """
    spectra = open_spectra(inputs, reader, reflectance, skip_bad_files, wavelengths, model)
    spectra = _lit(spectra, albedo, dem, max_incidence)
    if grid is not None:
        options: dict[str, Any] = {"fill_radius": fill_radius, "latitude": latitude}
        if resolution is not None:
            options["resolution"] = resolution
        spectra = spectra.lunar.grid(grid.value, **options)
    result = spectra.lunar.invert_oxides(
        model=model, device=device.value, light_uncertainty=light_uncertainty
    )
    result = result.lunar.to_zarr(output, overwrite=overwrite, description="Inverting oxides")
    _summary(result)
    picture(result.lunar.plot_maps, path=quicklook)
    wrote("Store", output)


def _lit(
    spectra: xr.Dataset, albedo: str | None, dem: str | None, max_incidence: float | None
) -> xr.Dataset:
    """Spectra with slopes and shadows taken out of their light, as far as there is something to do it with."""
    from lunarray.errors import InputError

    if max_incidence is not None:
        spectra = spectra.lunar.mask_quality(max_incidence=max_incidence)
        least = float(spectra["incidence"].min())
        if not least <= max_incidence:
            raise InputError(
                f"no spectrum is left: every incidence angle is {least:.1f}° or more",
                where="--max-incidence",
                remedy="Give a larger one, or leave it out and look at the flags of quality",
            )
    if dem is not None:
        undo = "photometric_geometry" in spectra["reflectance"].attrs
        spectra = spectra.lunar.correct_topography(open_map(dem), undo=undo)
    if albedo is not None:
        spectra = spectra.lunar.scale_to_albedo(open_map(albedo))
    return spectra


def atlas(
    inputs: Annotated[
        list[str],
        Argument(
            metavar="CUBE...",
            help="Reflectance cubes of the north pole, the south pole, or both (Zarr stores or mosaics).",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        Option(
            "--output",
            "-o",
            callback=folder,
            help="Folder for maps, GeoTIFFs and tables.",
            show_default=False,
        ),
    ],
    reader: ReaderName = None,
    model: OwnWeights = None,
    latitude: Annotated[
        float, Option(min=0, max=89.9, help="Map what is poleward of this (degrees).")
    ] = 65.0,
    uncertainty: Annotated[
        bool, Option("--uncertainty", help="With standard deviations and 90 % intervals.")
    ] = False,
    regions: Annotated[
        Path | None,
        Option(
            help="Polygons to tabulate (.gpkg, .shp); in the south, by default the nine of Artemis III."
        ),
    ] = None,
    radius: Annotated[
        float, Option(min=1, help="Radius of the regions of Artemis III, m.")
    ] = 7500.0,
    geotiff: Annotated[bool, Option(help="Export maps as GeoTIFF with styles for QGIS.")] = True,
    device: RunDevice = Device.auto,
    quicklook: Quicklook = None,
    overwrite: Overwrite = False,
) -> None:
    """Map the oxides of the polar regions and tabulate them in regions.

    Writes atlas_north.zarr and atlas_south.zarr, GeoTIFFs, and for each pole that has regions a table (.csv) and a
    GeoPackage with a style for QGIS.
    """
    import lunarray as la
    from lunarray.errors import InputError
    from lunarray.geo import as_regions
    from lunarray.plot.drawing import limits

    cubes: dict[str, Any] = {}
    for name in inputs:
        cube = open_spectra([name], reader, model=model)
        pole = _pole(cube, name)
        if pole in cubes:
            raise InputError(
                f"a second cube of the {pole} pole", where=name, remedy="Give one of each pole"
            )
        cubes[pole] = cube
    own = None if regions is None else as_regions(regions)
    maps = la.oxides.atlas(
        cubes.get("north"),
        cubes.get("south"),
        model,
        latitude=latitude,
        uncertainty=uncertainty,
        device=device.value,
    )
    for pole, lazy in maps.items():
        store = output / f"atlas_{pole}.zarr"
        stored = lazy.lunar.to_zarr(store, overwrite=overwrite, description=f"Mapping {pole}")
        maps[pole], names = stored, _inverted(stored)
        _summary(stored)
        wrote("Store", store)
        if geotiff:
            files = stored[names].lunar.to_cog(output / f"geotiff_{pole}", cmap=None)
            for variable, file in zip(names, files, strict=True):
                low, high, _ = limits([stored[variable].values], None, None)
                unit = unit_label(stored[variable], "")
                la.export.raster_style(file, low, high, label=unit)
            wrote("GeoTIFF", output / f"geotiff_{pole}")
        wanted = own or (la.oxides.artemis3_regions(radius) if pole == "south" else [])
        sign = 1 if pole == "north" else -1
        wanted = [r for r in wanted if sign * r.cap()[1] > 0]
        if wanted:
            statistics = la.geo.region_statistics(stored[names], wanted).compute()
            table = la.oxides.region_table(statistics, pixels=True)
            table.to_csv(output / f"regions_{pole}.csv")
            la.export.to_vector(statistics, output / f"regions_{pole}.gpkg", regions=wanted)
            _regions(statistics)
            wrote("Regions", output / f"regions_{pole}.csv", " and .gpkg")
    picture(la.plot.polar_atlas, maps, path=quicklook)


def compare(
    result: Annotated[
        str,
        Argument(
            help="Maps: a Zarr store, a GeoTIFF, a folder or pattern of such, or what another reader opens.",
            show_default=False,
        ),
    ],
    reference: Annotated[
        str,
        Argument(
            help="Maps of the same quantities, by the same names, on any lunar grid.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        Option("--output", "-o", help="Zarr store for the differences."),
    ] = None,
    reader: ReaderName = None,
    method: Annotated[Method, Option(help="How the reference is resampled.")] = Method.auto,
    regions: Annotated[
        Path | None,
        Option(help="Polygons in which to tabulate the difference (.gpkg, .shp)."),
    ] = None,
    quicklook: Quicklook = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare maps with those of others: scores, and a map of the difference.

    The reference is brought onto the grid of the result. R² is the squared correlation; the coefficient of
    determination counts offsets too.
    """
    import lunarray as la
    from lunarray.oxides.comparison import matched

    mine, theirs = matched(
        open_maps(result, reader),
        open_maps(reference, reader),
        method=method.value,
    )
    oxides = [name for name in la.oxides.OXIDES if name in mine]
    names = oxides or [str(name) for name in mine.data_vars]
    scores_table(la.oxides.metrics(mine, theirs, oxides=names), "Result against reference")
    off = la.oxides.difference(mine, theirs)
    if output is not None:
        off = off.lunar.to_zarr(output, overwrite=overwrite, description="Comparing")
        wrote("Store", output)
    if regions is not None:
        _regions(la.geo.region_statistics(off, regions).compute())
    picture(la.plot.comparison, theirs, mine, path=quicklook)


def open_spectra(
    inputs: list[str],
    reader: str | None,
    reflectance: Reflectance = Reflectance.REF1,
    skip_bad_files: bool = False,
    wavelengths: Path | None = None,
    model: str | None = None,
) -> xr.Dataset:
    """Spectra, those of mosaics on the bands of the model; as they are where it is made for such a sensor."""
    import lunarray as la

    if wavelengths is not None and reader is None:
        reader = "cube"
    spectra, reader = open_dataset(
        inputs,
        reader,
        otherwise="cube",
        skip=skip_bad_files,
        kaguya_sp={"reflectance": reflectance.value},
        cube={} if wavelengths is None else {"wavelengths": _numbers(wavelengths)},
    )
    if reader != "cube":
        return spectra
    bands = None if model is None else la.oxides.oxide_model(model, device="cpu").bands
    if bands is None or len(bands) == len(la.sp.WAVELENGTHS_150):
        return spectra.lunar.resample_bands(la.sp.WAVELENGTHS_150)
    return spectra


def _numbers(path: Path) -> list[float]:
    """Read a text file of numbers."""
    from lunarray.errors import InputError

    try:
        return [float(word) for word in path.read_text().replace(",", " ").split()]
    except (OSError, ValueError) as error:
        raise InputError(
            f"no list of numbers ({error})", where=path, remedy="Give one wavelength in nm a line"
        ) from error


def _inverted(ds: xr.Dataset) -> list[str]:
    """What a model gave, and Mg#: not what is said of it."""
    about = ("quality", "novelty", "spatial_ref")
    return [
        str(name)
        for name in ds.data_vars
        if name not in about and not str(name).endswith(("_std", "_lower", "_upper"))
    ]


def _summary(ds: xr.Dataset) -> None:
    """Print mean and spread of every oxide, for each orbit where there are a few."""
    import numpy as np
    from rich.table import Table

    from lunarray.oxides import OXIDES
    from lunarray.oxides.inversion import QUALITY_FLAGS

    names = _inverted(ds)
    loaded = ds[[*names, "quality"]].load()
    parts = {"all": loaded}
    if "orbit" in loaded.coords and 1 < np.unique(loaded["orbit"]).size <= MAX_COLUMNS:
        parts = {f"orbit {orbit}": part for orbit, part in loaded.groupby("orbit")}
    table = Table("mean ± spread", *parts)
    for name in names:
        label = "Mg#, %" if name == "Mg_number" else f"{name}, {unit_label(ds[name])}"
        cells = [
            f"{float(p[name].mean()):.1f} ± {float(p[name].std()):.1f}" for p in parts.values()
        ]
        table.add_row(label, *cells)
    if set(OXIDES) <= set(names):
        totals = [
            float(part[list(OXIDES)].to_dataarray("oxide").sum("oxide", skipna=False).mean())
            for part in parts.values()
        ]
        table.add_row("sum of the six, wt%", *[f"{total:.1f}" for total in totals])
    first = names[0]
    counts = [(int(np.isfinite(part[first]).sum()), part[first].size) for part in parts.values()]
    table.add_row("spectra inverted", *[f"{valid:,} of {size:,}" for valid, size in counts])
    for flag, bit in QUALITY_FLAGS.items():
        raised = [int(((part["quality"] & np.uint8(bit)) > 0).sum()) for part in parts.values()]
        table.add_row(f"flagged {flag}", *[f"{count:,}" for count in raised])
    tell(summary={part: _numbers_of(parts[part], names, QUALITY_FLAGS) for part in parts})
    console().print(table)


def _numbers_of(part: xr.Dataset, names: list[str], flags: dict[str, int]) -> dict[str, Any]:
    """What a summary says of a part, as numbers."""
    import numpy as np

    return {
        "spectra": part[names[0]].size,
        "inverted": int(part[names[0]].notnull().sum()),
        "mean": {name: float(part[name].mean()) for name in names},
        "spread": {name: float(part[name].std()) for name in names},
        "units": {name: unit_label(part[name], "") for name in names},
        "flagged": {
            f: int(((part["quality"] & np.uint8(bit)) > 0).sum()) for f, bit in flags.items()
        },
    }


def _pole(cube: xr.Dataset, name: str) -> str:
    from lunarray.errors import GridError
    from lunarray.geo import geobox_of
    from lunarray.plot.drawing import pole_of

    pole = pole_of(geobox_of(cube))
    if pole is None:
        raise GridError(
            "the cube is not in polar stereographic projection",
            where=name,
            remedy="Grid it first: lunarray invert-oxides --grid, or .lunar.grid('north')",
        )
    return pole


def scores_table(scores: xr.Dataset, title: str) -> None:
    """Print the scores of every oxide."""
    from rich.table import Table

    loaded = scores.compute()
    tell(scores=loaded)
    columns = {
        "R²": "r2_correlation", "coefficient of determination": "r2_determination", "RMSE": "RMSE",
        "MAE": "MAE", "bias": "bias",
    }  # fmt: skip
    table = Table("", *columns, "pairs", title=title)
    for oxide in loaded["oxide"].values:
        row = loaded.sel(oxide=oxide)
        cells = [
            f"{float(row[name]):{'+' if name == 'bias' else ''}.3f}" for name in columns.values()
        ]
        table.add_row(str(oxide), *cells, f"{int(row['count']):,}")
    console().print(table)


def _regions(statistics: xr.Dataset) -> None:
    """Print mean and deviation of every variable in every region."""
    from rich.table import Table

    names = list(map(str, statistics.data_vars))
    tell(regions=statistics[names])
    table = Table("region", "pixels", *names, title="Mean ± deviation in regions")
    for index, name in enumerate(statistics["abbreviation"].values):
        part = statistics.isel(region=index)
        cells = []
        for variable in part.data_vars.values():
            mean, std = (float(variable.sel(statistic=s)) for s in ("mean", "std"))
            cells.append(f"{mean:.2f} ± {std:.2f}" if mean == mean else "–")
        known = min(float(v.sel(statistic="count")) for v in part.data_vars.values())
        table.add_row(str(name), f"{known:,.0f}", *cells)
    console().print(table)
