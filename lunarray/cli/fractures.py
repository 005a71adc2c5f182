"""Commands of fractures: map, train."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from lunarray.cli.console import console, picture, say, tell, wrote
from lunarray.cli.inputs import ReaderName, open_inputs
from lunarray.cli.options import (
    Device,
    LearningRate,
    Output,
    Overwrite,
    Quicklook,
    RunDevice,
    TrainDevice,
    WeightsOutput,
    a_picture,
)

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr


class Split(StrEnum):
    """What is kept apart for validation."""

    image = "image"
    area = "area"
    tile = "tile"


class Loss(StrEnum):
    """What training lowers."""

    bce = "bce"
    focal = "focal"
    bce_dice = "bce_dice"


class LineLoss(StrEnum):
    """What a break in a line adds to the loss."""

    cldice = "cldice"
    recall = "recall"


class Schedule(StrEnum):
    """Course of the learning rate."""

    constant = "constant"
    cosine = "cosine"


class Unit(StrEnum):
    """What the numbers of an image are."""

    share = "0-1"
    bits8 = "8-bit"
    bits16 = "16-bit"
    reflectance = "I/F"


class TrainedOn(StrEnum):
    """What networks of others see of an image."""

    imfmapper = "imfmapper"
    imagenet = "imagenet"
    share = "0-1"
    local = "local"


ValueRange = Annotated[
    tuple[float, float] | None,
    Option(
        help="Brightness of black and white, for models with a scale of their own (I/F: 0.01 0.12, say)."
    ),
]
ImageUnit = Annotated[
    Unit | None,
    Option("--unit", help="What the numbers of the images are, where files do not say it."),
]
Trained = Annotated[
    TrainedOn | None,
    Option(
        help="What weights of others were trained on: imfmapper (each image stretched to 8 bits), imagenet (its means "
        "and deviations), 0-1, or local contrast. Of two outputs imfmapper is assumed, else imagenet."
    ),
]
TrainImages = Annotated[
    list[str],
    Argument(
        metavar="IMAGE...",
        help="Map-projected images (GeoTIFF, ISIS cube) or Zarr stores with an image.",
        show_default=False,
    ),
]
Lines = Annotated[
    list[Path],
    Option(
        help="Lines along the fractures (any OGR file): one file for all images, or one for each, in order.",
        show_default=False,
    ),
]
Outlines = Annotated[Path | None, Option(help="Outlines that are labelled as they are: pits.")]
Width = Annotated[
    str,
    Option(
        help="Column with each line's class (tiny, small, medium, large, huge) or width in pixels; or one class "
        "or number for all."
    ),
]
Begin = Annotated[
    str,
    Option(
        help="light, deeplabv3_resnet50, deeplabv3_resnet101, or a file of weights to begin with."
    ),
]
SplitBy = Annotated[
    Split | None,
    Option(
        help="Keep images, an area or single tiles for validation (default: images; of one image an area)."
    ),
]


def map_fractures(
    inputs: Annotated[
        list[str],
        Argument(
            metavar="IMAGE...",
            help="LROC NAC images (GeoTIFF, ISIS cube; map-projected, or any single one), or one Zarr store with an "
            "image. Several become one mosaic.",
            show_default=False,
        ),
    ],
    output: Output,
    model: Annotated[
        str | None,
        Option(
            help="Weights in place of the embedded model: from train-fractures, the published IMFMapper checkpoint, "
            "or any DeepLabV3 with one output. Or the name of an installed model."
        ),
    ] = None,
    threshold: Annotated[
        float, Option(min=0, max=1, help="Probability from which a pixel is a fracture.")
    ] = 0.5,
    resolution: Annotated[
        float | None,
        Option(help="Resample to this pixel size (m); several images: 1.5 by default."),
    ] = None,
    scales: Annotated[
        str | None,
        Option(
            metavar="SCALE,...",
            help="Scales of the image to look at, the first 1: 1,1/3 say (default: what the model says of itself).",
        ),
    ] = None,
    sun_azimuth: Annotated[
        float | None,
        Option(
            help="Where the sun is, degrees clockwise from the image's top (default: what the image says, or its "
            "craters show)."
        ),
    ] = None,
    value_range: ValueRange = None,
    unit: ImageUnit = None,
    trained_on: Trained = None,
    vectors: Annotated[
        Path | None,
        Option(help="Fractures as polygons to write (.gpkg, .shp or .geojson), with a style."),
    ] = None,
    min_area: Annotated[
        float, Option(min=0, help="Smallest fracture among the polygons (m²).")
    ] = 150.0,
    within: Annotated[
        Path | None,
        Option(help="Units (any OGR file) outside of which polygons are dropped."),
    ] = None,
    reader: ReaderName = None,
    device: RunDevice = Device.auto,
    quicklook: Quicklook = None,
    overwrite: Overwrite = False,
) -> None:
    """Map impact melt fractures, or other thin lines, in LROC NAC images.

    The embedded model was trained on simulated scenes only. Read its card before you believe a map:
    `python -c "from lunarray.fractures.weights import DEFAULT_MODEL as m; print(m.with_suffix('.md'))"`
    """
    import lunarray as la
    from lunarray.errors import GridError

    if vectors is not None:
        _check_vectors(vectors, overwrite)
    looked_at = _scales(scales)
    image, source = open_image(inputs, resolution, reader, unit)
    if vectors is not None and "spatial_ref" not in image.coords:
        raise GridError(
            "the image has no place on the ground, so that polygons would have no area",
            where=inputs[0],
            remedy="Leave out --vectors, or map-project the image first (ISIS: cam2map)",
        )
    chosen = la.fractures.fracture_model(
        model, device=device.value, normalisation=_rule(trained_on)
    )
    found = la.fractures.map_fractures(
        image, chosen, threshold, value_range=value_range, scales=looked_at, sun_azimuth=sun_azimuth
    )
    if source is not None:
        found["source"] = source
    result = found.lunar.to_zarr(output, overwrite=overwrite, description="Finding fractures")
    _mask_summary(result)
    polygons = None
    if vectors is not None:
        polygons = la.fractures.vectorize(result, min_area=min_area, within=within)
        _vector_summary(polygons, la.fractures.mapped_area(result))
        if overwrite:
            vectors.unlink(missing_ok=True)
        files = la.fractures.write_fractures(polygons, vectors)
        for file in files:
            wrote("Vectors", file)
    picture(
        la.plot.detections, image, result["mask"] if polygons is None else polygons, path=quicklook
    )
    wrote("Store", output)


def train_fractures(
    images: TrainImages,
    lines: Lines,
    output: WeightsOutput,
    reader: ReaderName = None,
    polygons: Outlines = None,
    width: Width = "width",
    model: Begin = "light",
    value_range: ValueRange = None,
    unit: ImageUnit = None,
    trained_on: Trained = None,
    size: Annotated[int, Option(min=32, help="Side of the tiles, a multiple of 32.")] = 512,
    overlap: Annotated[float, Option(min=0, max=0.9, help="Overlap of the tiles.")] = 0.1,
    split: SplitBy = None,
    share: Annotated[
        float, Option("--validation-share", help="Share of the tiles to validate with.")
    ] = 0.2,
    epochs: Annotated[int, Option(min=1, help="Passes over the tiles.")] = 100,
    batch_size: Annotated[int, Option(min=1, help="Tiles in a step.")] = 32,
    learning_rate: LearningRate = 1e-4,
    schedule: Annotated[Schedule, Option(help="Course of the learning rate.")] = Schedule.constant,
    loss: Annotated[Loss, Option(help="What training lowers.")] = Loss.bce,
    line_loss: Annotated[
        LineLoss | None,
        Option(
            help="Loss that sees breaks in lines, added to the other: cldice, or recall, which costs less."
        ),
    ] = None,
    class_weight: Annotated[
        str | None, Option(help="Weight of fracture pixels: a number, or balanced.")
    ] = None,
    augment: Annotated[
        bool, Option("--augment/--no-augment", help="Change tiles at random.")
    ] = True,
    seed: Annotated[int, Option(min=0, help="Of weights, order and augmentation.")] = 0,
    device: TrainDevice = Device.auto,
    workers: Annotated[
        int | None,
        Option(
            min=0, help="Processes that prepare tiles ahead (default: cores less one for a GPU)."
        ),
    ] = None,
    mixed_precision: Annotated[
        bool | None,
        Option(
            "--mixed-precision/--full-precision",
            help="Half precision where it does no harm (default: on a GPU).",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, Option(help="File from which a stopped training goes on.")
    ] = None,
    curves: Annotated[
        Path | None,
        Option(callback=a_picture, help="Picture of losses and scores by epoch to write."),
    ] = None,
) -> None:
    """Train a fracture model on images and lines drawn along the fractures.

    Lines become weak labels, as wide as their class says. The epoch with the best F1 on the validation tiles is kept.
    """
    import lunarray as la

    pictures, labels = _labelled(images, lines, reader, unit, width, polygons)
    chosen = split or (Split.image if len(pictures) > 1 else Split.area)
    cut = la.fractures.tiles(pictures, labels, size=size, overlap=overlap)
    training, validation = _parted(cut, chosen, share, seed)
    fit = la.fractures.train(
        training.with_rotations(),
        validation,
        settings=la.fractures.TrainSettings(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule.value,
            loss=loss.value,
            lines=None if line_loss is None else line_loss.value,
            class_weight=_number(class_weight),
            seed=seed,
        ),
        model=model,
        normalisation=_rule(trained_on),
        value_range=value_range,
        augment="default" if augment else None,
        checkpoint=checkpoint,
        device=device.value,
        workers=workers,
        mixed_precision=mixed_precision,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    fit.save(output, images=[str(name) for name in images])
    _training_summary(fit)
    picture(la.plot.training_curves, fit.history, path=curves)
    wrote("Weights", output)


def _labelled(
    images: list[str],
    lines: list[Path],
    reader: str | None,
    unit: Any,
    width: str,
    polygons: Path | None,
) -> tuple[list[Any], list[Any]]:
    """Images, and the weak labels of each."""
    import lunarray as la
    from lunarray.errors import InputError

    if len(lines) not in (1, len(images)):
        raise InputError(
            f"{len(lines)} files of lines for {len(images)} images",
            where="--lines",
            remedy="Give one for all, or one for each in the order of the images",
        )
    pictures = [open_image([name], None, reader, unit)[0] for name in images]
    by_image = lines if len(lines) > 1 else lines * len(images)
    labels = [
        la.fractures.weak_labels(file, picture, width=_number(width), polygons=polygons)
        for file, picture in zip(by_image, pictures, strict=True)
    ]
    return pictures, labels


def _parted(cut: Any, split: Split, share: float, seed: int) -> tuple[Any, Any]:
    """Tiles to train on and to validate with, and how many there are."""
    import lunarray as la
    from lunarray.errors import InputError

    training, validation = la.fractures.split(cut, split.value, share, seed)
    if not training.has_fracture.any():
        raise InputError(
            "no training tile has a fracture",
            where="--lines",
            remedy="Check that the lines lie on the images, or split by tile",
        )
    tell(tiles={"training": len(training), "validation": len(validation)})
    say(
        f"{len(training)} tiles to train on, {int(training.has_fracture.sum())} with fractures; "
        f"{len(validation)} to validate with, {int(validation.has_fracture.sum())} with fractures"
    )
    return training, validation


def _rule(trained_on: TrainedOn | None) -> Any:
    """What a network sees, by name."""
    from lunarray.fractures.normalise import RULES

    return None if trained_on is None else RULES[trained_on.value]


def open_image(
    names: list[str], resolution: float | None, reader: str | None, unit: Unit | None = None
) -> tuple[xr.DataArray, xr.DataArray | None]:
    """One image, or a mosaic and the numbers of the images that its pixels came from."""
    import lunarray as la

    opened = []
    for name in names:
        # An image is an image here, though its file may be a map as well.
        known = la.readers.available()["lroc-nac"].extensions
        own = "lroc-nac" if reader is None and name.lower().endswith(known) else reader
        found, own = open_inputs([name], own, otherwise="lroc-nac")
        if hasattr(found, "data_vars"):
            if len(names) == 1 and resolution is None and "image" in found:
                return _told(found["image"], unit), found.get("source")
            found = _image_of(found, name)
        opened.append(_told(found, unit))
    if len(opened) == 1:
        if resolution is None:
            return opened[0], None
        return la.geo.reproject(opened[0], resolution), None
    laid = la.fractures.mosaic(opened, resolution=1.5 if resolution is None else resolution)
    return laid["image"], laid["source"]


def _told(image: xr.DataArray, unit: Unit | None) -> xr.DataArray:
    """The image, its numbers said to be what the user says."""
    return image if unit is None else image.assign_attrs(brightness_unit=unit.value)


def _image_of(ds: xr.Dataset, name: str) -> xr.DataArray:
    """The image of a Dataset."""
    from lunarray.errors import InputError

    if "image" in ds:
        return ds["image"]
    raise InputError(
        f"no variable 'image' among {', '.join(map(str, ds.data_vars)) or 'none'}",
        where=name,
        remedy="Give a store or a file with an image (y, x)",
    )


def _check_vectors(path: Path, overwrite: bool) -> None:
    """Complain before the work rather than after it."""
    from lunarray.errors import InputError, StoreConflictError

    if path.suffix.lower() not in (".gpkg", ".shp", ".geojson"):
        raise InputError(
            f"vectors are not written as {path.suffix or 'files without suffix'}",
            where=path,
            remedy="Use .gpkg, .shp or .geojson",
        )
    if path.exists() and not overwrite:
        raise StoreConflictError(
            "the file exists", where=path, remedy="Choose another name, or use --overwrite"
        )


def _number(text: str | None) -> Any:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _scales(text: str | None) -> tuple[float, ...] | None:
    """Scales as people write them, thirds among them."""
    from fractions import Fraction

    from lunarray.errors import InputError

    if text is None:
        return None
    try:
        return tuple(float(Fraction(part.strip())) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise InputError(
            f"{text!r} are no numbers",
            where="--scales",
            remedy="Give numbers or fractions with commas between: 1,1/2,1/4",
        ) from None


def _mask_summary(result: xr.Dataset) -> None:
    """Print how much of the image is fracture."""
    mask = result["mask"]
    found, known = int((mask == 1).sum()), int((mask != 255).sum())
    size = " × ".join(f"{n:,}" for n in mask.shape)
    tell(shape=mask.shape, pixels_with_data=known, pixels_of_fractures=found)
    share = f"{100 * found / known:.2f} %" if known else "none"
    say(f"{size} pixels, {known:,} with data, {found:,} of them fracture ({share})")


def _vector_summary(fractures: gpd.GeoDataFrame, area: float) -> None:
    """Print the numbers of the network."""
    from rich.table import Table

    import lunarray as la

    say(f"{len(fractures):,} fractures on {area / 1e6:,.2f} km²")
    tell(fractures=len(fractures), mapped_area_m2=area)
    if not len(fractures):
        return
    numbers = la.fractures.network(fractures, area)
    tell(network=numbers)
    table = Table("of the fractures", "")
    for text, name, factor, unit in (
        ("length together", "length", 1e-3, "km"),
        ("median length", "length_median", 1, "m"),
        ("longest", "length_max", 1, "m"),
        ("mean width", "width_mean", 1, "m"),
        ("area together", "area", 1e-6, "km²"),
        ("share of the ground", "area_share", 100, "%"),
        ("length by area", "length_density", 1, "km/km²"),
        ("crossings", "intersections", 1, ""),
    ):
        value = numbers[name] * factor
        table.add_row(text, f"{value:,.0f}" if not unit else f"{value:,.2f} {unit}")
    console().print(table)


def _training_summary(fit: Any) -> None:
    """Print the scores of the best epoch."""
    from rich.table import Table

    best = fit.history.sel(epoch=fit.best_epoch)
    tell(epoch=fit.best_epoch, scores=best)
    table = Table(f"epoch {fit.best_epoch} of {fit.settings.epochs}", "training", "validation")
    for name in ("loss", "precision", "recall", "F1", "IoU", "F1_pooled", "IoU_pooled"):
        table.add_row(
            name.replace("_", ", ").replace("pooled", "all pixels"),
            *(f"{float(best[name].sel(split=part)):.3f}" for part in ("training", "validation")),
        )
    console().print(table)
