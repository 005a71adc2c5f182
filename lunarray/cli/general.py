"""The demo, and what a store holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from lunarray.cli.bank import bank_table
from lunarray.cli.console import console, say, tell, wrote
from lunarray.cli.inputs import ReaderName, open_dataset, reader_for
from lunarray.cli.options import Pole, folder

if TYPE_CHECKING:
    import xarray as xr


def demo(
    output: Annotated[
        Path, Option("--output", "-o", callback=folder, help="Folder for what the demo writes.")
    ] = Path("lunarray-demo"),
    pole: Annotated[Pole, Option(help="Which pole.")] = Pole.north,
    resolution: Annotated[float, Option(min=100, help="Pixel of the scene in m.")] = 2000.0,
    latitude: Annotated[
        float,
        Option(min=60, max=89, help="The scene reaches down to this latitude (degrees)."),
    ] = 80.0,
    seed: Annotated[int, Option(help="Another number, another Moon.")] = 0,
    slopes: Annotated[
        float,
        Option(
            min=0,
            max=20,
            help="Rough ground: rms slope, degrees. 0 is level ground in known light.",
        ),
    ] = 5.0,
) -> None:
    """Simulate a polar scene with known oxides, invert it, and show truth, result, error and stated error.

    The ground has slopes and shadows, which the reflectance does not know: it is inverted as it is, and once more with
    both taken out by an elevation model. Errors are those of all pixels, and of those that the result does not flag.

    Writes the simulated spectra and the inverted maps as Zarr, the maps as GeoTIFF for QGIS, and a picture.
    """
    import lunarray as la

    scene = la.simulate.polar_scene(
        pole.value, resolution=resolution, latitude=latitude, seed=seed, slope_rms=slopes
    )
    shape = " × ".join(str(scene.sizes[dim]) for dim in ("y", "x"))
    say(f"Simulating {shape} Spectral Profiler pixels around the {pole.value} pole")
    stored = scene.lunar.to_zarr(
        output / "scene.zarr", overwrite=True, description="Simulating the scene"
    )
    truth = stored[[f"{oxide}_true" for oxide in la.oxides.OXIDES]]
    truth = truth.rename({f"{oxide}_true": oxide for oxide in la.oxides.OXIDES})
    if slopes:
        flat = stored.lunar.invert_oxides().compute()
        _table_of_errors(truth, flat, "As if the ground were flat")
        stored = stored.lunar.correct_topography(stored["height"], undo=True, footprint=resolution)
    maps = stored.lunar.invert_oxides(uncertainty=True).lunar.to_zarr(
        output / "oxides.zarr", overwrite=True, description="Inverting the oxides"
    )
    ends = [name for name in maps.data_vars if str(name).endswith(("_lower", "_upper"))]
    files = maps.drop_vars(ends).lunar.to_cog(output / "geotiff")
    la.plot.comparison(
        truth, maps, path=output / "quicklook.png", title="Oxides of a simulated polar scene"
    )
    told = "Slopes and shadows taken out by the elevation model"
    _table_of_errors(truth, maps, told if slopes else "Result against truth")
    wrote("Spectra", output / "scene.zarr")
    wrote("Maps", output / "oxides.zarr", f", and {len(files)} GeoTIFFs in {output / 'geotiff'}")
    wrote("Picture", output / "quicklook.png")


def info(
    inputs: Annotated[
        list[str],
        Argument(
            metavar="INPUT...",
            help="A store, or files that a reader opens (quoted patterns too).",
            show_default=False,
        ),
    ],
    reader: ReaderName = None,
) -> None:
    """Show what a store or a file holds and where it came from, and whether a store is complete."""
    from lunarray.store import describe

    # An interrupted store cannot be opened, and is described.
    name = reader or reader_for(inputs, "lunar-map")
    if name == "lunarray" and len(inputs) == 1:
        found = describe(inputs[0])
        ds = found.dataset
        tell(
            complete=found.complete,
            regions_done=found.regions_done,
            regions=found.regions,
            nbytes_stored=found.nbytes_stored,
        )
        state = (
            "complete"
            if found.complete
            else "[bold red]interrupted: run what wrote it again to complete it[/]"
        )
        say(f"[bold]{inputs[0]}[/]  {state}, {found.regions_done} of {found.regions} regions")
        say(f"{found.nbytes_stored / 1e6:,.1f} MB stored, {ds.nbytes / 1e6:,.1f} MB in memory")
    else:
        ds, name = open_dataset(inputs, name)
        more = f" and {len(inputs) - 1} more" if len(inputs) > 1 else ""
        say(f"[bold]{inputs[0]}[/]{more}, opened by the reader {name}")
        say(f"{ds.nbytes / 1e6:,.1f} MB in memory")
    tell(inputs=inputs, reader=name, nbytes=ds.nbytes, attributes=ds.attrs)
    _contents(ds)
    if name == "lunarray-gib":
        bank_table(ds)
    for key in (
        "title",
        "mission",
        "instrument",
        "source",
        "model",
        "model_sha256",
        "lunarray_version",
        "skipped_files",
    ):
        if key in ds.attrs:
            say(f"{key:<17}{ds.attrs[key]}")
    for line in str(ds.attrs.get("history", "")).splitlines():
        say(f"{'history':<17}{line}")


def readers() -> None:
    """List the readers: which files they open, and their names for --reader."""
    from rich.table import Table

    from lunarray.readers import available

    tell(
        readers=[
            {
                "name": r.name,
                "reads": r.description,
                "files": r.extensions,
                "products": [*r.products],
            }
            for r in available().values()
        ]
    )
    table = Table("reader", "reads", "files", "products")
    for row in available().rows():
        table.add_row(*row)
    console().print(table)


def models() -> None:
    """List the models that commands take by name (--model): lunarray's own, and those of installed packages."""
    from rich.table import Table

    from lunarray.engine import available_models

    table = Table("model", "takes", "gives", "weights")
    found = []
    for name, spec in available_models().items():
        gives = spec.outputs if isinstance(spec.outputs, tuple) else ("a probability",)
        found.append(
            {"model": name, "takes": _takes(spec.inputs), "gives": gives, "weights": spec.weights}
        )
        table.add_row(name, _takes(spec.inputs), ", ".join(gives), spec.weights)
    tell(models=found)
    console().print(table)


def _takes(inputs: object) -> str:
    """What a model takes, in words."""
    from lunarray.engine.models import Maps, Spectra, Tiles

    match inputs:
        case Spectra(wavelengths=bands) if bands:
            return f"spectra, {len(bands)} bands, {bands[0]:g}-{bands[-1]:g} nm"
        case Spectra():
            return "spectra"
        case Tiles(tile=tile):
            return f"images, in tiles of {tile} pixels" if tile else "images"
        case Maps(names=names):
            return f"maps: {', '.join(names)}" if names else "maps"
    return "what its command has"


def _contents(ds: xr.Dataset) -> None:
    """Print axes, reference system, variables."""
    from rich.markup import escape
    from rich.table import Table

    say("Axes       " + ", ".join(f"{dim} {size}" for dim, size in ds.sizes.items()))
    crs = ds.coords["spatial_ref"].attrs.get("crs_code") if "spatial_ref" in ds.coords else None
    if crs:
        say(f"CRS        {crs}")
    table = Table("variable", "axes", "type", "unit", "chunks", "what")
    variables = {}
    for name, variable in ds.data_vars.items():
        chunks = "×".join(str(max(sizes)) for sizes in variable.chunks or ())
        axes, unit = " ".join(map(str, variable.dims)), variable.attrs.get("units", "")
        what = variable.attrs.get("long_name", "")
        cells = (name, axes, variable.dtype, unit, chunks, what)
        variables[name] = {
            "axes": variable.dims,
            "type": str(variable.dtype),
            "unit": unit,
            "chunks": [max(sizes) for sizes in variable.chunks or ()],
            "long_name": what,
        }
        table.add_row(*(escape(str(cell)) for cell in cells))
    tell(axes=dict(ds.sizes), crs=crs, variables=variables)
    console().print(table)


def verify(
    store: Annotated[str, Argument(help="A store that lunarray wrote.", show_default=False)],
    repair: Annotated[
        bool,
        Option(
            "--repair",
            help="Take away what is at fault; the command that wrote the store then computes that part anew.",
        ),
    ] = False,
    accept: Annotated[
        bool,
        Option("--accept", help="Take the store as another program has changed it."),
    ] = False,
) -> None:
    """Check every byte of a store against its checksums; exit code 1 if anything has changed since."""
    from typer import Exit

    from lunarray.store import verify as verify_store

    found = verify_store(store, repair=repair, accept=accept)
    rate = found.nbytes / 1e9 / max(found.seconds, 1e-9)
    say(
        f"Verified   {found.objects} objects, {found.nbytes / 1e6:,.1f} MB in {found.seconds:.1f} s "
        f"({rate:.1f} GB/s)"
    )
    tell(ok=found.ok, repaired=found.repaired, accepted=accept, objects=found.objects)
    tell(nbytes=found.nbytes, seconds=found.seconds, faults=[asdict(f) for f in found.faults])
    for fault in found.faults[:20]:
        say(f"{fault.problem:<11}{fault.name}")
    if len(found.faults) > 20:
        say(f"           and {len(found.faults) - 20} more")
    if found.ok:
        say("All is as it was written.")
    elif found.repaired:
        say("Taken away: run again what wrote the store, and that part is computed anew.")
    elif accept:
        say("Taken as it is.")
    else:
        raise Exit(1)


def _table_of_errors(truth: xr.Dataset, maps: xr.Dataset, title: str) -> None:
    import numpy as np
    from rich.table import Table

    table = Table(
        *("oxide", "truth, wt%", "RMSE, wt%", "bias, wt%", "R", "RMSE unflagged"),
        title=title,
    )
    clear = np.asarray(maps["quality"]).ravel() == 0
    errors = {}
    for oxide in truth.data_vars:
        expected, found = (np.asarray(ds[oxide], np.float64).ravel() for ds in (truth, maps))
        both = np.isfinite(expected) & np.isfinite(found)
        error = (found - expected)[both & clear]
        unflagged = f"{np.sqrt(np.mean(error**2)):.2f}" if error.size else "none"
        expected, found = expected[both], found[both]
        error = found - expected
        errors[str(oxide)] = {"RMSE": np.sqrt(np.mean(error**2)), "bias": error.mean()}
        table.add_row(
            str(oxide),
            f"{expected.min():.1f}–{expected.max():.1f}",
            f"{np.sqrt(np.mean(error**2)):.2f}",
            f"{error.mean():+.2f}",
            f"{np.corrcoef(expected, found)[0, 1]:.3f}",
            unflagged,
        )
    tell(errors=errors)
    some = np.isfinite(np.asarray(maps["FeO"])).ravel()
    console().print(table)
    say(f"Flagged    {(some & ~clear).sum()} of {some.sum()} pixels")
