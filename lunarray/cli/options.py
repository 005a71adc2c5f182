"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer import Option


class Grid(StrEnum):
    """Grids by name."""

    north = "north"
    south = "south"
    equirectangular = "equirectangular"
    geographic = "geographic"


class Pole(StrEnum):
    """Poles by name."""

    north = "north"
    south = "south"


class Device(StrEnum):
    """Where a model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


#: Endings of files that people expect, and that no store is.
_NO_STORES = (".nc", ".nc4", ".cdf", ".h5", ".hdf5", ".tif", ".tiff", ".img", ".cub", ".csv", ".txt",
              ".parquet", ".gpkg", ".shp", ".geojson", ".json", ".png", ".pdf", ".svg", ".zip")  # fmt: skip
#: Endings of pictures, by matplotlib.
_PICTURES = (".png", ".pdf", ".svg", ".svgz", ".eps", ".ps", ".pgf", ".jpg", ".jpeg", ".tif", ".tiff",
             ".webp", ".gif", ".avif", ".raw", ".rgba")  # fmt: skip


def _store(name: str) -> str:
    """Refuse names of other kinds of files before the work, rather than make a folder called result.nc."""
    path = Path(name)
    if path.suffix.lower() in _NO_STORES and not path.is_dir():
        named = path.with_suffix(".zarr").name
        raise typer.BadParameter(
            f"what is written is a Zarr store, and {path.name} would be none. Name it {named}; la.open({named!r}) then "
            "gives a Dataset, whose .to_netcdf() and .lunar.to_cog() write netCDF and GeoTIFF"
        )
    return name


def folder(path: Path) -> Path:
    """Refuse URLs where other files than a store are written too, rather than make a folder called s3:."""
    from lunarray.store.places import is_elsewhere

    if is_elsewhere(path):
        raise typer.BadParameter(
            "pictures and GeoTIFFs are written to folders of this machine. Name one"
        )
    return path


def a_picture(path: Path | None) -> Path | None:
    """Refuse what no picture is written as, and where, before the work, not after it."""
    if path is not None:
        folder(path)
    if path is not None and path.suffix.lower() not in _PICTURES:
        raise typer.BadParameter(
            f"pictures are not written as {path.suffix or 'files without suffix'}. Use .png, .pdf or .svg"
        )
    return path


Output = Annotated[
    str,
    Option(
        "--output",
        "-o",
        callback=_store,
        help="Zarr store to write, or its URL (s3://, gs://, az://). An interrupted one is completed.",
        show_default=False,
    ),
]
Quicklook = Annotated[
    Path | None,
    Option(callback=a_picture, help="Picture of the result to write (.png, .pdf, .svg)."),
]
Overwrite = Annotated[
    bool, Option("--overwrite", help="Write a store anew that holds something else.")
]
SkipBadFiles = Annotated[
    bool,
    Option("--skip-bad-files", help="Go on without files that cannot be read, and record them."),
]
OwnWeights = Annotated[
    str | None,
    Option(help="Your own weights (.safetensors), or the name of an installed model."),
]
WeightsOutput = Annotated[
    Path,
    Option("--output", "-o", help="Weights to write (.safetensors).", show_default=False),
]
RunDevice = Annotated[Device, Option(help="Where to run the model.")]
TrainDevice = Annotated[Device, Option(help="Where to train.")]
LearningRate = Annotated[float, Option(help="Of Adam.")]
