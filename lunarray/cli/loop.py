"""Commands of fractures for people in the loop: what to label, and a model that learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from lunarray.cli.console import Command, say
from lunarray.cli.options import Device, LearningRate, TrainDevice, WeightsOutput

fractures = typer.Typer(
    no_args_is_help=True,
    help="Fractures with a person in the loop: tiles to label, and learning from them.",
)


@fractures.command(cls=Command)
def doubtful(
    store: Annotated[str, Argument(help="Store that map-fractures wrote.", show_default=False)],
    output: Annotated[
        Path,
        Option("--output", "-o", help="GeoPackage to write and to draw in.", show_default=False),
    ],
    tile: Annotated[int, Option(min=32, help="Side of the tiles, pixels.")] = 256,
    count: Annotated[int, Option(min=1, help="Tiles at most.")] = 50,
) -> None:
    """Rank the tiles that the model is least sure of, to label in QGIS.

    Draw fractures in the layer `lines`; where a tile has none, set its `done` to 1. Then `lunarray fractures learn`.
    """
    import lunarray as la
    from lunarray.errors import StoreConflictError
    from lunarray.fractures import doubt

    if output.exists():
        raise StoreConflictError(
            "the file exists, and may hold what somebody drew", where=output, remedy="Choose another name"
        )  # fmt: skip
    tiles = doubt.doubtful(la.open_zarr(store)["probability"], tile=tile, count=count)
    doubt.write_doubtful(tiles, output)
    say(
        f"{len(tiles)} tiles, doubt from {tiles['doubt'].iloc[0]:.3f} to {tiles['doubt'].iloc[-1]:.3f} bits a pixel"
    )
    say(f"Labels     {output}")


@fractures.command(cls=Command)
def learn(
    image: Annotated[str, Argument(help="The image, as map-fractures had it.", show_default=False)],
    labels: Annotated[
        Path, Option(help="GeoPackage of doubtful that was drawn in.", show_default=False)
    ],
    output: WeightsOutput,
    model: Annotated[
        Path | None, Option(help="Weights to begin with (default: the embedded model).")
    ] = None,
    size: Annotated[int, Option(min=32, help="Side of the tiles, a multiple of 32.")] = 256,
    epochs: Annotated[int, Option(min=1, help="Passes over the tiles.")] = 20,
    batch_size: Annotated[int, Option(min=1, help="Tiles in a step.")] = 4,
    learning_rate: LearningRate = 3e-4,
    seed: Annotated[int, Option(min=0, help="Of split, order and augmentation.")] = 0,
    device: TrainDevice = Device.auto,
) -> None:
    """Train a model further on the tiles that were labelled, and on no others.

    Each round is recorded in the weights: how many tiles, what it began with, and how well it did on those kept apart.
    """
    import lunarray as la
    from lunarray.cli.fractures import open_image
    from lunarray.fractures.doubt import drawn_labels
    from lunarray.fractures.weights import DEFAULT_MODEL, read_model_header

    begun = DEFAULT_MODEL if model is None else model
    picture, _ = open_image([image], None, None)
    drawn = drawn_labels(labels, picture)
    cut = la.fractures.tiles(picture, drawn, size=size, overlap=0)
    training, validation = la.fractures.split(cut, "tile", 0.2, seed)
    settings = la.fractures.TrainSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        loss="bce_dice",
        seed=seed,
    )
    fit = la.fractures.train(
        training.with_rotations(), validation, settings=settings, model=begun, device=device.value
    )
    before = ((read_model_header(begun) or {}).get("training") or {}).get("rounds", [])
    score = float(fit.history["F1_pooled"].sel(epoch=fit.best_epoch, split="validation"))
    this = {
        "labels": labels.name,
        "tiles": drawn.attrs["tiles"],
        "from": begun.name,
        "F1": round(score, 4),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    fit.save(output, rounds=[*before, this])
    say(
        f"Round {len(before) + 1}: {this['tiles']} tiles labelled, F1 {score:.3f} on tiles kept apart"
    )
    say(f"Weights    {output}")
