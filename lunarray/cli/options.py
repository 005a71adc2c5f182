"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Option


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
    Option(
        "--output",
        "-o",
        help="Zarr store to write. An interrupted one is completed.",
        show_default=False,
    ),
]
Quicklook = Annotated[
    Path | None, Option(help="Picture of the result to write (.png, .pdf, .svg).")
]
Overwrite = Annotated[
    bool, Option("--overwrite", help="Write a store anew that holds something else.")
]
SkipBadFiles = Annotated[
    bool,
    Option("--skip-bad-files", help="Go on without files that cannot be read, and record them."),
]
OwnWeights = Annotated[
    Path | None,
    Option(help="Your own weights (.safetensors) in place of the embedded model."),
]
WeightsOutput = Annotated[
    Path,
    Option("--output", "-o", help="Weights to write (.safetensors).", show_default=False),
]
RunDevice = Annotated[Device, Option(help="Where to run the model.")]
TrainDevice = Annotated[Device, Option(help="Where to train.")]
LearningRate = Annotated[float, Option(help="Of Adam.")]
