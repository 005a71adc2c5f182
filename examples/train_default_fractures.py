"""Train the fracture model that comes with lunarray, and write its weights and the numbers of its model card.

    python examples/train_default_fractures.py                       # weights and scores on held-out scenes
    python examples/train_default_fractures.py --no-train            # scores of the weights that are there
    python examples/train_default_fractures.py --no-train --real-data FOLDER   # and what it finds in real NAC crops

Everything is simulated (`lunarray.simulate.nac_scene`) and seeded; a third of the scenes is ground as in the test, the
others are nearer to the real one and seen at several scales. The scenes of training, of validation and of the test are
different ground; no training scene has a sun within 2 degrees of incidence of a test scene's. The two classical filters
beside the model are tuned on training scenes. Real images are looked at, never trained on: FOLDER holds LROC NAC crops
(`nac/`) and labelled fractures of ice (`fractures_other/`).
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray import fractures, simulate
from lunarray.engine.training import Checkpoint
from lunarray.engine.weights import peek_header
from lunarray.errors import LunarrayWarning
from lunarray.fractures.augmentation import augment
from lunarray.fractures.classical import tune_classical
from lunarray.fractures.detection import measure_overlap
from lunarray.fractures.labels import CLASS_WIDTHS
from lunarray.fractures.metrics import confusion, pixel_metrics, tile_metrics
from lunarray.fractures.weights import DEFAULT_MODEL, FORMAT, read_model_header
from lunarray.simulate.nac_ground import WIDTH_CLASSES

TEST_INCIDENCES = (30.0, 40.0, 50.0, 60.0, 70.0, 78.0)
#: A training sun keeps this far from every test sun, degrees of incidence.
APART = 2.0
#: Numbers that ground is seeded with begin here; each part has its own.
GROUND = {"training": 10_000, "validation": 20_000, "test": 30_000}
#: Pixels that a line of each class is buffered to: of tiny ones, which are 2.2 to 5 wide here, the mean.
WIDTHS = {**CLASS_WIDTHS, "tiny": 3.6}
#: Pixels of a training tile, of a test tile (the paper's), and of a scene.
TILE, TEST_TILE, SCENE = 256, 512, 1024


def conditions(number: int, **changes: Any) -> simulate.NacSettings:
    """How a ground looks, besides its sun: as different as places on the Moon are."""
    rng = np.random.default_rng(number)
    drawn = {
        "fractures": rng.uniform(6, 16),
        "melt": rng.uniform(0.4, 0.95),
        "craters": 150 * 20 ** rng.random(),
        "boulders": 150 * 10 ** rng.random(),
        "ridges": rng.uniform(3, 14),
        "roughness": rng.uniform(0.5, 1.6),
        "noise": 0.5 * 4 ** rng.random(),
        "psf": rng.uniform(0.4, 1.0),
        "strip_width": rng.uniform(400, 1600),
    }
    return simulate.NacSettings(**{**drawn, **changes})


def real_conditions(number: int) -> simulate.NacSettings:
    """Ground nearer to the real one: worn and filled fractures, and all that is taken for them but is none."""
    rng = np.random.default_rng((number, 4))
    bare = rng.random() < 0.15
    shares = dict(
        zip(WIDTH_CLASSES, rng.dirichlet(np.array([1.0, 3.0, 5.0, 2.0, 0.5])), strict=True)
    )
    others = {"wrinkles": 3.0, "massifs": 1.0, "scarps": 3.0, "terraces": 1.0, "tracks": 4.0}
    others = {name: most * rng.random() for name, most in others.items()}
    others["patches"] = 0.4 * rng.random() * (rng.random() < 0.4)
    # Worn fractures lie in ground as rough and cratered as any, not in smooth melt alone: ponds are a third as rough.
    return simulate.NacSettings(
        fractures=0.0 if bare else rng.uniform(4, 14),
        widths=shares,
        wear=rng.uniform(0.4, 1.0),
        melt=rng.uniform(0.9, 1.0),
        craters=500 * 14 ** rng.random(),
        boulders=50 * 20 ** rng.random(),
        ridges=rng.uniform(3, 25),
        others=others,
        light="hapke" if rng.random() < 0.5 else "lunar-lambert",
        roughness=0.8 * 7 ** rng.random(),
        noise=0.3 * 8 ** rng.random(),
        psf=0.4 * 4 ** rng.random(),
        strip_width=rng.uniform(400, 2400),
    )


def scene_of(
    number: int, sun: dict[str, float], side: int = SCENE, **changes: Any
) -> simulate.NacScene:
    """Simulate a ground by its number."""
    settings = conditions(number, **changes)
    return simulate.nac_scene((side, side), settings=settings, seed=number, **sun)


def training_sun(number: int) -> dict[str, float]:
    """A sun away from those of the test."""
    rng = np.random.default_rng((number, 1))
    while True:
        incidence = rng.uniform(20, 82)
        if min(abs(incidence - i) for i in TEST_INCIDENCES) >= APART:
            return {"incidence": incidence, "azimuth": rng.uniform(0, 360)}


def test_sun(number: int, incidence: float) -> dict[str, float]:
    """One of the suns of the test, from a side that the ground sets."""
    return {"incidence": incidence, "azimuth": np.random.default_rng((number, 2)).uniform(0, 360)}


def weak(scene: simulate.NacScene) -> np.ndarray:
    """Labels as a mapper makes them: buffered lines, and pits as polygons."""
    image = scene.dataset["image"]
    pits = scene.pits if len(scene.pits) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LunarrayWarning)  # ground without a fracture is wanted too
        labels = fractures.weak_labels(scene.lines, like=image, polygons=pits, widths=WIDTHS)
    return labels.values


def zoomed(
    image: np.ndarray, mask: np.ndarray, zoom: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A tile from somewhere in a scene at another scale: larger and softer, or smaller; with noise of its own."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    side = TILE / zoom
    top, left = rng.random(2) * (np.array(image.shape) - side - 1)
    axis = (np.arange(TILE) + 0.5) / zoom - 0.5
    places = np.meshgrid(top + axis, left + axis, indexing="ij")
    known = np.isfinite(image)
    values = np.where(known, image, np.nanmean(image))
    there = (mask == 1).astype(np.float32)
    if zoom < 1:
        values, there = (gaussian_filter(a, 0.4 / zoom) for a in (values, there))
    order = int(rng.choice((1, 3)))
    tile = map_coordinates(values, places, order=order, mode="nearest").astype(np.float32)
    label = (map_coordinates(there, places, order=1, mode="nearest") >= 0.5).astype(np.uint8)
    good = map_coordinates(known.astype(np.float32), places, order=1, mode="nearest") > 0.99
    tile += rng.normal(0, 0.003 * 8 ** rng.random() * tile.mean(), tile.shape).astype(np.float32)
    tile[~good], label[~good] = np.nan, 255
    return tile, label


def cut(part: str, scenes: int, say: Any) -> tuple[np.ndarray, np.ndarray]:
    """Tiles and outlines of a part's scenes: all with fractures, and half of the others.

    Every third scene is ground as in the test; of the others half of the tiles are seen at another scale.
    """
    images, masks = [], []
    for number in range(GROUND[part], GROUND[part] + scenes):
        rng, sun = np.random.default_rng((number, 3)), training_sun(number)
        plain = number % 3 == 0
        settings = conditions(number) if plain else real_conditions(number)
        made = simulate.nac_scene((SCENE, SCENE), settings=settings, seed=number, **sun).dataset
        image, mask = made["image"].values, made["mask"].values
        for top in range(0, SCENE, TILE):
            for left in range(0, SCENE, TILE):
                if plain or rng.random() < 0.5:
                    place = (slice(top, top + TILE), slice(left, left + TILE))
                    tile, label = image[place], mask[place]
                else:
                    tile, label = zoomed(image, mask, 0.6 * 4 ** rng.random(), rng)
                if (label != 255).mean() < 0.25:
                    continue
                if (label == 1).any() or rng.random() < 0.5:
                    images.append(tile)
                    masks.append(label)
    say(f"{part}: {len(images)} tiles of {scenes} scenes")
    return np.stack(images), np.stack(masks)


def vary(
    image: np.ndarray, mask: np.ndarray, valid: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The paper's changes, perspective less often, and a turn and a flip."""
    image, mask, valid = augment(image, mask, valid, rng, clahe=0.15, perspective=0.15)
    turns, flip = int(rng.integers(4)), rng.random() < 0.5
    arrays = [np.rot90(a, turns) for a in (image, mask, valid)]
    if flip:
        arrays = [a[:, ::-1] for a in arrays]
    image, mask, valid = (np.ascontiguousarray(a) for a in arrays)
    return image, mask, valid


def table(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; floats with three decimals."""

    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, (float, np.floating)) else str(value)

    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def tuned(scenes: int, say: Any) -> dict[str, Any]:
    """Both classical filters with the parameters that do best on training scenes, against the true outlines."""
    pairs = []
    for number in range(GROUND["training"], GROUND["training"] + scenes):
        scene = scene_of(number, training_sun(number), 512)
        pairs.append((scene.dataset["image"].values, scene.dataset["mask"].values))
    result = {}
    for kind in ("frangi", "canny"):
        images, masks = zip(*pairs, strict=True)
        result[kind], scores = tune_classical(kind, images, masks)
        say(f"{result[kind]}, F1 on the training scenes {scores['F1_pooled']:.3f}")
    return result


def counts_of(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts of each test tile (tile, 4)."""
    shape = (SCENE // TEST_TILE, TEST_TILE, SCENE // TEST_TILE, TEST_TILE)
    a, b = (
        x.reshape(shape).swapaxes(1, 2).reshape(-1, TEST_TILE, TEST_TILE) for x in (found, truth)
    )
    return confusion(a, b)


def calibrate(network: Any, rule: fractures.Normalisation, tiles: tuple[np.ndarray, ...]) -> None:
    """Make the last layer's logits those of probabilities that are right on average, on some tiles (Platt 1999)."""
    import torch
    from scipy.optimize import minimize

    from lunarray.fractures.batches import as_tiles, stacked
    from lunarray.fractures.epochs import logits_of

    some, logits, truth = as_tiles(tiles, "tiles"), [], []
    for start in range(0, len(some), 8):
        images, masks, valid = stacked(some, range(start, min(start + 8, len(some))))
        with torch.inference_mode():
            found = logits_of(network, images, valid, rule)
        logits.append(found[valid].numpy()[::5].astype(np.float64))
        truth.append((masks[valid] == 1).numpy()[::5].astype(np.float64))
    x, y = np.concatenate(logits), np.concatenate(truth)

    def cost(line: np.ndarray) -> float:
        z = line[0] * x + line[1]
        return float(np.mean(np.logaddexp(0, z) - y * z))

    factor, summand = minimize(cost, (1.0, 0.0), method="Nelder-Mead").x
    with torch.no_grad():
        network.head.weight *= factor
        network.head.bias.mul_(factor).add_(summand)


def halved(path: Path) -> None:
    """Keep the weights of the convolutions in half precision: half the file, the same detections."""
    header, tensors = FORMAT.read(path)
    small = {n: a.astype(np.float16) if a.ndim == 4 else a for n, a in tensors.items()}
    own = (
        "architecture", "sizes", "normalisation", "overlap", "scales", "scale_margin", "training",
    )  # fmt: skip
    FORMAT.write(path, small, {name: header[name] for name in own})


def held_out_report(model: Path, grounds: int, tuning: int, say: Any) -> str:
    """Scores of the model and of the filters on ground and suns that none of them has seen."""
    methods = tuned(tuning, say)
    names = {"light": "light default", "frangi": "Frangi + threshold", "canny": "Canny, closed"}
    counts: dict[tuple[str, float], list[np.ndarray]] = {}
    weakly: list[np.ndarray] = []
    classes = (*WIDTH_CLASSES, "pit")
    recalled = {name: np.zeros((len(classes), 2)) for name in names}
    ridges = {name: np.zeros(2) for name in names}
    for number in range(GROUND["test"], GROUND["test"] + grounds):
        for incidence in TEST_INCIDENCES:
            scene = scene_of(number, test_sun(number, incidence))
            ds = scene.dataset
            truth, kind = ds["mask"].values, ds["width_class"].values
            for name in names:
                if name == "light":
                    found = fractures.map_fractures(ds["image"], model, scales=(1,))["mask"].values
                    weakly.append(counts_of(found, weak(scene)))
                else:
                    found = fractures.classical_fractures(ds["image"], methods[name]).values
                counts.setdefault((name, incidence), []).append(counts_of(found, truth))
                hit, known = found == 1, truth != 255
                for n in range(len(classes)):
                    here = known & (kind == n + 1)
                    recalled[name][n] += (hit & here).sum(), here.sum()
                here = known & (ds["ridge"].values == 1)
                ridges[name] += (hit & here).sum(), here.sum()
        say(f"ground {number} scored")

    def pooled(some: list[np.ndarray]) -> list[float]:
        scores = pixel_metrics(np.concatenate(some))
        return [scores[f"{s}_pooled"] for s in ("precision", "recall", "F1", "IoU")]

    def averaged(some: list[np.ndarray]) -> list[float]:
        scores = tile_metrics(np.concatenate(some))
        return [scores[s] for s in ("precision", "recall", "F1", "IoU")]

    every = {
        name: [c for (which, _), some in counts.items() if which == name for c in some]
        for name in names
    }
    rows = [[names[n], *averaged(every[n]), *pooled(every[n])] for n in names]
    rows.append(["light default, against weak labels", *averaged(weakly), *pooled(weakly)])
    text = (
        f"{grounds} test grounds of {SCENE} × {SCENE} pixels, each under {len(TEST_INCIDENCES)} suns. P, R: means over "
        f"tiles of {TEST_TILE} pixels, F1 of these, IoU as the paper takes them; pooled: over all pixels.\n\n"
    )
    text += table(
        ["method", "P", "R", "F1", "IoU", "P pooled", "R pooled", "F1 pooled", "IoU pooled"], rows
    )
    text += "\n\nBy incidence angle of the sun (pooled over pixels, against the true outlines):\n\n"
    text += table(
        ["incidence", "method", "P", "R", "F1", "IoU"],
        [
            [f"{incidence:.0f}°", names[n], *pooled(counts[n, incidence])]
            for incidence in TEST_INCIDENCES
            for n in names
        ],
    )
    text += "\n\nBy class of width: share of the true pixels that is found (recall), all suns together:\n\n"
    pixels = recalled["light"][:, 1].astype(int)
    text += table(
        ["class", "pixels", *names.values()],
        [
            [c, f"{pixels[n]:,}", *(float(recalled[m][n, 0] / max(pixels[n], 1)) for m in names)]
            for n, c in enumerate(classes)
            if pixels[n]
        ],
    )
    text += "\n\nRidges, the paper's commonest false positives: share of their pixels that is taken for fractures: "
    text += ", ".join(f"{names[n]} {a / max(b, 1):.3f}" for n, (a, b) in ridges.items()) + "."
    text += "\n\nThe filters, tuned on training scenes: "
    return text + "; ".join(f"`{m}`" for m in methods.values()) + "."


def about(options: argparse.Namespace, tiles: int, epochs_run: int) -> dict[str, Any]:
    """What the weights file says beside the settings."""
    return {
        "data": "lunarray.simulate.nac_scene, simulations only; true outlines",
        "begun_with": None if options.begin is None else options.begin.name,
        "scenes": options.scenes,
        "tiles": tiles,
        "tile": TILE,
        "epochs_run": epochs_run,
        "script": "examples/train_default_fractures.py",
    }


def adopt(
    checkpoint: Path,
    output: Path,
    validation: tuple[np.ndarray, ...],
    options: argparse.Namespace,
) -> None:
    """Take the best weights so far of a training that was stopped."""
    resume = checkpoint.with_name(checkpoint.name + ".resume")
    stamp = peek_header(resume)["stamp"]
    state = Checkpoint(resume, stamp).load()
    loaded = fractures.load_model(checkpoint)
    calibrate(loaded.network, loaded.normalisation, validation)
    fractures.save_model(
        output,
        loaded.network,
        normalisation=loaded.normalisation,
        training={
            **loaded.header["training"],
            "seconds": state["seconds"],
            **about(options, stamp["tiles"][0], state["epoch"]),
        },
    )


def set_overlap(
    path: Path, overlap: int | None, scales: list[float] | None, margin: float = 0.0
) -> int:
    """Write into a weights file by how much tiles must overlap, measured unless given, and the scales to look at."""
    if overlap is None:
        measured = []
        for number in (GROUND["validation"], GROUND["validation"] + 1):
            scene = scene_of(number, training_sun(number), 1024, fractures=14.0)
            measured.append(measure_overlap(path, scene.dataset["image"])[0])
        overlap = max(measured)
    loaded = fractures.load_model(path)
    fractures.save_model(
        path,
        loaded.network,
        normalisation=loaded.normalisation,
        overlap=overlap,
        scales=scales,
        scale_margin=margin,
        training=loaded.header["training"],
    )
    return overlap


def training_report(model: Path) -> str:
    """What the file says of its training."""
    header = read_model_header(model)
    said = header["training"]
    scores = said["validation"]
    begun = said.get("begun_with")
    lines = f" and {said['lines_weight']:g} × {said['lines']}" if said.get("lines") else ""
    labels = "weak labels" if "weak" in said["data"] else "the true outlines, before calibration"
    return (
        f"{'Random weights to begin with' if begun is None else f'Begun with the weights `{begun}`'}; "
        f"{said['scenes']} scenes, {said['tiles']} tiles of {said['tile']} × {said['tile']} pixels; "
        f"{said['epochs_run']} of at most {said['epochs']} epochs, the best was number {said['best_epoch']}; "
        f"batches of {said['batch_size']}, AdamW with a rate up to {said['learning_rate']:g} and weight decay "
        f"{said['weight_decay']:g}, {said['schedule']} schedule, loss {said['loss']}{lines}, "
        f"seed {said['seed']}; {said['seconds'] / 60:.0f} minutes by the clock of a shared machine. "
        f"Validation, against {labels}: F1 {scores['F1']:.3f} by the paper's average over tiles, "
        f"{scores['F1_pooled']:.3f} over all pixels. In detection tiles overlap by {header['overlap']} pixels, as "
        "measured: a border changes what is used by less than 0.02 in 99.9 % of the pixels."
    )


def real_report(model: Path, folder: Path, picture: Path | None) -> str:
    """What the model finds in real crops: shown, for there is no truth to judge it by."""
    import rasterio
    from scipy.ndimage import label

    rows, shown = [], []
    for path in sorted((folder / "nac").glob("M*")):
        with rasterio.open(path) as source:
            values = source.read(1).astype(np.float32)
        values[(values < -1e30) | (values == (source.nodata or np.nan))] = np.nan
        image = xr.DataArray(values, dims=("y", "x"))
        found = fractures.map_fractures(image, model)
        mask = found["mask"].values
        labels, number = label(mask == 1, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())[1:]
        rows.append(
            [
                f"`{path.name}`",
                f"{values.shape[1]} × {values.shape[0]}",
                f"{100 * (mask == 1).sum() / max((mask != 255).sum(), 1):.2f} %",
                number,
                int((sizes >= 67).sum()),
            ]
        )
        shown.append((path.name, values, mask))
    if picture is not None:
        draw_real(shown, picture)
    return table(
        ["crop", "pixels", "detected", "detections", "of 67 pixels (150 m² at 1.5 m) or more"], rows
    )


def draw_real(shown: list[tuple[str, np.ndarray, np.ndarray]], path: Path) -> None:
    """Crops with what was found in them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(shown), 12), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False)
    for column, (name, values, mask) in enumerate(shown):
        low, high = np.nanpercentile(values, (1, 99))
        for row in range(2):
            axes[row, column].imshow(values, cmap="gray", vmin=low, vmax=high)
            axes[row, column].set_axis_off()
        over = np.zeros((*mask.shape, 4), np.float32)
        over[mask == 1] = (0.84, 0.37, 0.0, 0.8)
        axes[1, column].imshow(over)
        axes[0, column].set_title(name)
    figure.savefig(path, dpi=100)


def write_section(card: Path, name: str, text: str) -> None:
    """Replace what stands between a section's two markers in the card."""
    begin, end = (
        f"<!-- {name}: begin, written by examples/train_default_fractures.py -->",
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
    parser.add_argument("--output", type=Path, default=DEFAULT_MODEL, help="weights file")
    parser.add_argument(
        "--card",
        type=Path,
        help="model card whose numbers are rewritten; by default that of the shipped weights where they are the output",
    )
    parser.add_argument("--begin", type=Path, help="weights to begin with, instead of random ones")
    parser.add_argument("--scenes", type=int, default=90, help="training scenes")
    parser.add_argument("--validation", type=int, default=9, help="validation scenes")
    parser.add_argument("--grounds", type=int, default=4, help="test grounds, each under six suns")
    parser.add_argument(
        "--tuning", type=int, default=6, help="scenes that the filters are tuned on"
    )
    parser.add_argument("--epochs", type=int, default=9, help="passes over the training tiles")
    parser.add_argument("--batch-size", type=int, default=8, help="tiles in a step")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="peak of the schedule")
    parser.add_argument("--weight-decay", type=float, default=1e-4, help="of AdamW")
    parser.add_argument("--seed", type=int, default=20261121, help="of weights and augmentation")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument(
        "--half", action="store_true", help="bfloat16: twice as fast where the processor has it"
    )
    parser.add_argument("--work", type=Path, help="checkpoint of the training, to go on from")
    parser.add_argument(
        "--real-data", type=Path, metavar="FOLDER", help="also report on real crops"
    )
    parser.add_argument("--picture", type=Path, help="picture of the real crops to write")
    parser.add_argument(
        "--adopt",
        type=Path,
        metavar="CHECKPOINT",
        help="with --no-train: best weights of a stopped training",
    )
    parser.add_argument("--overlap", type=int, help="of tiles in detection; measured by default")
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        help="of detection, unless it is told others; 1 by default",
    )
    parser.add_argument(
        "--scale-margin",
        type=float,
        default=0.0,
        help="what logits at coarser scales are lowered by",
    )
    parser.add_argument("--no-train", action="store_true", help="report on the weights in --output")
    parser.add_argument("--no-test", action="store_true", help="leave the held-out scores alone")
    options = parser.parse_args(argv)

    import torch

    torch.set_num_threads(options.threads)
    start = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - start:6.0f} s  {text}", file=sys.stderr, flush=True)

    options.output.parent.mkdir(parents=True, exist_ok=True)
    if not options.no_train or options.adopt:
        validation = cut("validation", options.validation, say)
    if not options.no_train:
        tiles = cut("training", options.scenes, say)
        fit = fractures.train(
            tiles,
            validation,
            settings=fractures.TrainSettings(
                epochs=options.epochs,
                batch_size=options.batch_size,
                learning_rate=options.learning_rate,
                weight_decay=options.weight_decay,
                loss="bce_dice",
                lines="cldice",
                lines_weight=0.2,
                schedule="cosine",
                seed=options.seed,
            ),
            model=options.begin or "light",
            augment=vary,
            checkpoint=options.work,
            device="cpu",
            mixed_precision=options.half,
            progress=False if options.work is None else None,
        )
        calibrate(fit.network, fit.normalisation, validation)
        fit.save(
            options.output,
            **about(options, len(tiles[0]), options.epochs),
        )
        say(f"best epoch {fit.best_epoch} of {options.epochs}")
    elif options.adopt:
        adopt(options.adopt, options.output, validation, options)
    if not options.no_train or options.adopt:
        overlap = set_overlap(options.output, options.overlap, options.scales, options.scale_margin)
        say(f"tiles overlap by {overlap} pixels")
        halved(options.output)
    card = options.card
    if card is None and options.output == DEFAULT_MODEL:
        card = DEFAULT_MODEL.with_suffix(".md")
    if card is not None and card.exists():
        write_section(card, "training", training_report(options.output))
    if not options.no_test:
        report = held_out_report(options.output, options.grounds, options.tuning, say)
        print(report)
        if card is not None:
            write_section(card, "held-out", report)
    if options.real_data is not None:
        report = real_report(options.output, options.real_data, options.picture)
        print("\n" + report)
        if card is not None:
            write_section(card, "real", report)


if __name__ == "__main__":
    main()
