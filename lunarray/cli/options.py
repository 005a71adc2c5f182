"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Grid(StrEnum):
    """Grids by name."""

    north = "north"
    south = "south"
    equirectangular = "equirectangular"
    geographic = "geographic"


class Device(StrEnum):
    """Where a model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="Zarr store to write. An interrupted one is completed.",
        show_default=False,
    ),
]
Quicklook = Annotated[
    Path | None, typer.Option(help="Picture of the result to write (.png, .pdf, .svg).")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write a store anew that holds something else.")
]
SkipBadFiles = Annotated[
    bool,
    typer.Option(
        "--skip-bad-files", help="Go on without files that cannot be read, and record them."
    ),
]
OwnWeights = Annotated[
    Path | None,
    typer.Option(help="Your own weights (.safetensors) in place of the embedded model."),
]
WeightsOutput = Annotated[
    Path,
    typer.Option("--output", "-o", help="Weights to write (.safetensors).", show_default=False),
]
RunDevice = Annotated[Device, typer.Option(help="Where to run the model.")]
TrainDevice = Annotated[Device, typer.Option(help="Where to train.")]
LearningRate = Annotated[float, typer.Option(help="Of Adam.")]
