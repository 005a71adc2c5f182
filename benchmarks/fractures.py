"""What labels, their choice and the loss of lines do for fractures: on ice that people mapped, and on simulation.

    python -m benchmarks.fractures labels --data FOLDER      # F1 by number of labelled tiles, ranked and at random
    python -m benchmarks.fractures lines --data FOLDER       # clDice and broken lines by the loss of lines
    python -m benchmarks.fractures calibrated --data FOLDER  # expected calibration error of the embedded model
    python -m benchmarks.fractures memory            # seconds and peak memory of a mosaic of 10 000 x 10 000 pixels
    python -m benchmarks.fractures loading           # CPU time of a tile: to load, and to train on
    python -m benchmarks.fractures table FILE        # means and standard errors over seeds; --picture FILE besides

A figure is a line of JSON in a file (the second argument), and what stands there is not measured again. FOLDER holds
`fracture_*.tif` and `fracture_*_mask.tif`, 1000 x 1000 pixels each: tiles of 200 pixels, half of the images to label,
half left out, drawn anew by each seed. A training begins with the embedded weights, and sees as many tiles however few
are labelled.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

#: Pixels of a tile, labelled tiles by the way they are chosen, and tiles that a training sees in each of its passes.
TILE, SEEN, PASSES = 200, 48, 2
LABELLED = {"random": (23, 10, 5, 2), "ranked": (10, 5)}
#: Ground that is neither trained on, nor validated or tested with, when the embedded model is made.
GROUND = 70_000
#: What tables have of `validate`.
SCORES = (
    "precision_pooled", "recall_pooled", "F1_pooled", "clDice", "F1_tolerance", "lines", "lines_found",
    "lines_broken", "breaks", "calibration_error",
)  # fmt: skip
Pictures = list[tuple[np.ndarray, np.ndarray]]


# --- ground ---------------------------------------------------------------------------------------


def ice(folder: Path) -> Pictures:
    """Images (0 to 1) and masks of ice that people mapped."""
    import rasterio

    made = []
    for path in sorted(folder.glob("fracture_*_mask.tif")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with (
                rasterio.open(str(path).replace("_mask", "")) as image,
                rasterio.open(path) as mask,
            ):
                made.append((image.read(1).astype(np.float32) / 65535, mask.read(1) // 255))
    return made


def simulated(count: int) -> Pictures:
    """Worn ground of a kind that the embedded model does not see: narrow suns, tracks and ridges in plenty."""
    from lunarray.simulate import NacSettings, nac_scene

    made = []
    for number in range(GROUND, GROUND + count):
        rng = np.random.default_rng(number)
        settings = NacSettings(
            fractures=10, wear=rng.uniform(0.3, 1), melt=0.9, craters=1500, ridges=15, light="hapke",
            others={"tracks": 3.0, "wrinkles": 2.0}, roughness=2.0, noise=1.0, psf=0.8,
        )  # fmt: skip
        sun = {"incidence": float(rng.uniform(55, 80)), "azimuth": float(rng.uniform(0, 360))}
        scene = nac_scene((1000, 1000), settings=settings, seed=number, **sun).dataset
        made.append((scene["image"].values, scene["mask"].values))
    return made


@cache
def ground(kind: str, folder: Path) -> Pictures:
    """Eight images of a kind."""
    return ice(folder) if kind == "ice" else simulated(8)


def cut(pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
    """Tiles of images and masks, row by row."""
    layers = []
    for which in (0, 1):
        whole = np.stack([p[which] for p in pictures])
        n = whole.shape[1] // TILE
        parts = whole.reshape(-1, n, TILE, n, TILE).swapaxes(2, 3)
        layers.append(np.ascontiguousarray(parts.reshape(-1, TILE, TILE)))
    return layers[0], layers[1]


def halves(pictures: Pictures, seed: int) -> tuple[Pictures, Pictures]:
    """Images to label, and others to score with."""
    order = np.random.default_rng(seed).permutation(len(pictures))
    half = len(pictures) // 2
    return [pictures[k] for k in order[:half]], [pictures[k] for k in order[half:]]


def ranked(pictures: Pictures) -> list[int]:
    """Numbers of all tiles, the most doubtful to the embedded model first."""
    import pandas as pd
    from odc.geo.geobox import GeoBox

    from lunarray.fractures import map_fractures
    from lunarray.fractures.doubt import doubtful
    from lunarray.geo import assign_grid, moon_crs

    tables = []
    for number, (image, _) in enumerate(pictures):
        side = len(image)
        box = GeoBox.from_bbox((0, 0, side, side), moon_crs("equirectangular"), resolution=1)
        found = map_fractures(assign_grid(xr.DataArray(image, dims=("y", "x")), box), device="cpu")
        table = doubtful(found["probability"], tile=TILE, count=10_000)
        n = side // TILE
        table["number"] = number * n * n + table["row"] // TILE * n + table["column"] // TILE
        tables.append(table[["doubt", "number"]])
    return list(pd.concat(tables).sort_values("doubt", ascending=False)["number"])


# --- training and scores --------------------------------------------------------------------------


def learned(tiles: tuple[np.ndarray, np.ndarray], seed: int, lines: str | None, rate: float) -> Any:
    """The embedded model after some steps on tiles, of which it sees as many whatever their number."""
    from lunarray.fractures import TrainSettings, train
    from lunarray.fractures.weights import DEFAULT_MODEL

    some = np.resize(np.random.default_rng((seed, 1)).permutation(len(tiles[0])), SEEN)
    settings = TrainSettings(
        epochs=PASSES, batch_size=4, learning_rate=rate, loss="bce_dice", lines=lines, seed=seed
    )  # type: ignore[arg-type]
    return train(
        (tiles[0][some], tiles[1][some]), tiles, settings=settings, model=DEFAULT_MODEL, device="cpu",
        progress=False,
    )  # fmt: skip


def score(network: Any, rule: Any, temperature: float, pictures: Pictures) -> dict[str, float]:
    """Scores on images that were left out."""
    from lunarray.fractures import validate

    found = validate(
        network, cut(pictures), normalisation=rule, temperature=temperature, device="cpu"
    )
    return {name: round(float(found[name]), 5) for name in SCORES}


def embedded(pictures: Pictures) -> dict[str, float]:
    """Scores of the embedded model as it is, at the images' own scale."""
    from lunarray.fractures import load_model
    from lunarray.fractures.weights import DEFAULT_MODEL

    model = load_model(DEFAULT_MODEL)
    return score(model.network, model.normalisation, model.temperature, pictures)


def frangi(labelled: tuple[np.ndarray, np.ndarray], pictures: Pictures) -> dict[str, float]:
    """Scores of Frangi's filter, dark or bright, tuned on labelled tiles."""
    from lunarray.fractures.classical import detect, tune_classical
    from lunarray.fractures.lines import line_counts, line_metrics
    from lunarray.fractures.metrics import confusion, pixel_metrics

    method, _ = tune_classical("frangi", labelled[0], labelled[1])
    images, masks = cut(pictures)
    found = np.stack([detect(image, method) for image in images])
    lines = line_metrics(np.stack([line_counts(f, m) for f, m in zip(found, masks, strict=True)]))
    both = {**pixel_metrics(confusion(found, masks)), **lines}
    return {name: round(float(both[name]), 5) for name in SCORES if name in both}


# --- commands -------------------------------------------------------------------------------------


class Results:
    """Figures by what they are of, one a line; what is there is not made again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.there = set()
        if path.exists():
            for line in path.read_text().splitlines():
                self.there.add(self.key(json.loads(line)))

    @staticmethod
    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in ("of", "ground", "way", "tiles", "seed"))

    def add(self, row: dict[str, Any], make: Any) -> None:
        """Measure and write, unless it is there."""
        if self.key(row) in self.there:
            return
        begin, cpu = time.perf_counter(), time.process_time()
        row = {**row, **make()}
        row["seconds"] = round(time.perf_counter() - begin, 1)
        row["cpu_seconds"] = round(time.process_time() - cpu, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def cases(options: argparse.Namespace) -> Iterator[tuple[str, int, Pictures, Pictures]]:
    """Kinds of ground and seeds, with images to label and images left out."""
    for seed in options.seeds:
        for kind in options.ground:
            yield kind, seed, *halves(ground(kind, options.data), seed)


def labels(options: argparse.Namespace, results: Results) -> None:
    """F1 by the number of labelled tiles, chosen by doubt and at random; Frangi tuned on the most tiles beside it."""
    for kind, seed, pool, left in cases(options):
        row = {"of": "labels", "ground": kind, "seed": seed}
        images, masks = cut(pool)
        by_chance = np.random.default_rng((seed, 2)).permutation(len(images))
        order = {"random": list(by_chance), "ranked": ranked(pool)}
        results.add({**row, "way": "embedded", "tiles": 0}, lambda left=left: embedded(left))
        for way, numbers in order.items():
            for count in LABELLED[way]:
                some = numbers[:count]
                tiles = images[some], masks[some]

                def make(tiles: Any = tiles, seed: int = seed, left: Pictures = left) -> Any:
                    fit = learned(tiles, seed, None, 3e-4)
                    return score(fit.network, fit.normalisation, fit.temperature, left)

                results.add({**row, "way": way, "tiles": count}, make)
        most = by_chance[: LABELLED["random"][0]]
        tiles = images[most], masks[most]
        results.add(
            {**row, "way": "Frangi", "tiles": len(most)}, lambda t=tiles, p=left: frangi(t, p)
        )


def lines(options: argparse.Namespace, results: Results) -> None:
    """Scores of lines with each loss, on the tiles with fractures of the images to label, 23 at most."""
    for kind, seed, pool, left in cases(options):
        row = {"of": "lines", "ground": kind, "seed": seed}
        results.add({**row, "way": "embedded", "tiles": 0}, lambda left=left: embedded(left))
        images, masks = cut(pool)
        order = np.random.default_rng((seed, 2)).permutation(len(images))
        some = [k for k in order if (masks[k] == 1).any()][: LABELLED["random"][0]]
        for loss in (None, "cldice", "recall"):

            def make(loss: Any = loss, seed: int = seed, left: Pictures = left) -> Any:
                fit = learned((images[some], masks[some]), seed, loss, 1e-3)  # noqa: B023 (called at once)
                return score(fit.network, fit.normalisation, fit.temperature, left)

            results.add({**row, "way": loss or "none", "tiles": len(some)}, make)


def calibrated(options: argparse.Namespace, results: Results) -> None:
    """Expected calibration error of the embedded model on all images."""
    for kind in options.ground:
        pictures = ground(kind, options.data)
        row = {"of": "calibrated", "ground": kind, "way": "embedded", "tiles": 0, "seed": 0}
        results.add(row, lambda pictures=pictures: embedded(pictures))


def memory(options: argparse.Namespace, results: Results) -> None:
    """A mosaic in Zarr to a store of probabilities and to polygons, in a process of its own."""
    import resource
    import tempfile

    import lunarray as la

    side = options.side
    with tempfile.TemporaryDirectory(prefix="lunarray-fractures-") as folder:
        scene = la.simulate.nac_scene((1000, 1000), seed=GROUND).dataset["image"].values
        values = np.tile(scene, (side // 1000, side // 1000))
        coords = {"y": 1.5 * np.arange(side)[::-1], "x": 1.5 * np.arange(side)}
        image = xr.DataArray(values, dims=("y", "x"), coords=coords, name="image")
        image = la.geo.assign_crs(image, la.geo.moon_crs("equirectangular")).chunk(1024)
        image.to_dataset().lunar.to_zarr(f"{folder}/i.zarr", progress=False)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        del image, values, scene

        def make() -> dict[str, float]:
            begin = time.perf_counter()
            found = la.fractures.map_fractures(la.open_zarr(f"{folder}/i.zarr"), device="cpu")
            stored = found.lunar.to_zarr(f"{folder}/m.zarr", progress=False)
            mapped = time.perf_counter() - begin
            count = len(la.fractures.vectorize(stored))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            return {
                "map_s": round(mapped, 1), "vectors_s": round(time.perf_counter() - begin - mapped, 1),
                "features": count, "peak_gib": round(peak, 2), "before_gib": round(before, 2),
            }  # fmt: skip

        results.add(
            {"of": "memory", "ground": "simulation", "way": "embedded", "tiles": side, "seed": 0},
            make,
        )


def loading(options: argparse.Namespace, results: Results) -> None:
    """CPU seconds of a tile of 512 pixels: read and changed at random, and trained on by the light network."""
    import torch

    from lunarray.fractures import TrainSettings, light, tiles
    from lunarray.fractures.augmentation import augment
    from lunarray.fractures.batches import stacked
    from lunarray.fractures.epochs import logits_of
    from lunarray.fractures.losses import loss_of
    from lunarray.fractures.model import default_normalisation

    torch.set_num_threads(1)
    image, mask = simulated(1)[0]
    pair = [xr.DataArray(a[:, :], dims=("y", "x")) for a in (image, mask)]
    some = tiles(*pair, size=512, overlap=0.1)
    network, rule = light().train(), default_normalisation("light")
    settings = TrainSettings(loss="bce_dice")

    def load() -> Any:
        return stacked(some, range(len(some)), augment, (0, 3, 0))

    batch = load()

    def step() -> None:
        images, masks, valid = batch
        loss_of(logits_of(network, images, valid, rule), masks, valid, settings).backward()

    def make() -> dict[str, float]:
        spent = {}
        for name, work in (("load", load), ("train", step)):
            work()
            begin = time.process_time()
            for _ in range(3):
                work()
            spent[f"{name}_ms"] = round((time.process_time() - begin) / 3 / len(some) * 1e3, 1)
        return {**spent, "ratio": round(spent["train_ms"] / spent["load_ms"], 2)}

    results.add(
        {"of": "loading", "ground": "simulation", "way": "light", "tiles": 512, "seed": 0}, make
    )


# --- tables ---------------------------------------------------------------------------------------


def table(options: argparse.Namespace, results: Results) -> None:
    """Means over seeds, and the standard error of each."""
    import pandas as pd

    rows = pd.DataFrame([json.loads(line) for line in results.path.read_text().splitlines()])
    shown = [name for name in SCORES if name in rows]
    for of, part in rows[rows["of"].isin(["labels", "lines", "calibrated"])].groupby("of"):
        print(f"\n{of}\n| ground | way | tiles | seeds | {' | '.join(shown)} |")
        print("| --- " * (4 + len(shown)) + "|")
        for key, some in part.groupby(["ground", "way", "tiles"]):
            mean, n = some[shown].mean(), len(some)
            error = some[shown].std() / np.sqrt(n)
            cells = [
                f"{m:.3f} ± {e:.3f}" if abs(m) < 2 else f"{m:.0f} ± {e:.0f}"
                for m, e in zip(mean, error, strict=True)
            ]
            print(f"| {' | '.join(map(str, key))} | {n} | {' | '.join(cells)} |")
    if options.picture:
        draw(rows[rows["of"] == "labels"], options.picture)


def draw(rows: Any, path: Path) -> None:
    """F1 by the number of labelled tiles, a panel for each kind of ground."""
    from matplotlib.figure import Figure

    kinds = sorted(rows["ground"].unique())
    figure = Figure(figsize=(4.2 * len(kinds), 3.2), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        here = rows[rows["ground"] == kind]
        start = here[here["way"] == "embedded"]
        for way, colour in (("random", "0.45"), ("ranked", "#d55e00")):
            some = [start, here[here["way"] == way]]
            scores = [s.groupby("tiles")["F1_pooled"] for s in some]
            mean = np.concatenate([g.mean() for g in scores])
            error = np.concatenate([g.std() / np.sqrt(g.count()) for g in scores])
            count = np.concatenate([list(g.groups) for g in scores])
            axis.errorbar(count, mean, error, color=colour, marker="o", capsize=2, label=way)
        filtered = here.loc[here["way"] == "Frangi", "F1_pooled"].mean()
        axis.axhline(filtered, color="#0072b2", linestyle="--", label="Frangi, tuned")
        axis.set(title=kind, xlabel="labelled tiles", ylabel="F1, images left out", ylim=(0, None))
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


COMMANDS = {f.__name__: f for f in (labels, lines, calibrated, memory, loading, table)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "fractures_other"
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("results", type=Path, nargs="?", default=Path("fractures.jsonl"))
    parser.add_argument(
        "--data", type=Path, default=beside, help="folder of ice that people mapped"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--ground", nargs="+", default=["ice", "simulation"])
    parser.add_argument("--side", type=int, default=10_000, help="of the mosaic, pixels")
    parser.add_argument("--picture", type=Path, help="of a table: F1 by labelled tiles")
    options = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)
    COMMANDS[options.command](options, Results(options.results))


if __name__ == "__main__":
    main()
