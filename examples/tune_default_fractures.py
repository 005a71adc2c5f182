"""Second half of the training of the default fracture model: light from the left, worn rilles, and what is none.

    python examples/tune_default_fractures.py --begin FIRST.safetensors --output SECOND.safetensors

`examples/train_default_fractures.py` trains the first weights, on light from anywhere; with these a ridge is a fracture
with the sun on the other side. Here all tiles are turned so that the sun stands at the left, or up to 45° above that
(`Normalisation(sun="left")`). Ground is cratered down to a pixel or two, as the real Moon's is; into it, troughs
of any width from 6 to 27 pixels are pressed, bowls or flat, soft or partly filled, and ridges of the same shapes
raised: labelled fractures, and what must not be taken for one, which weighs three times as much. A second pass adds
ground without any fracture. Everything is simulated. `--offset` lowers the logits at the end: of real ground, a far
smaller share is fractured than of these tiles.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import train_default_fractures as first

from lunarray import fractures, simulate
from lunarray.fractures.sunlight import Turn, light_direction

#: Numbers of the scenes of both passes, besides those of the first training; none is of its test or validation.
SCENES, BARE = (10_000, 10_220), (10_300, 10_380)
#: Labels: a ridge is none, and weighs more.
FRACTURE, RIDGE, NO_DATA = 1, 2, 255
#: Weight of the pixels of ridges, and in the second pass of those farther than 4 pixels from a fracture.
RIDGE_WEIGHT, FAR_WEIGHT = 3.0, 2.0
BATCH = 6


def settings_of(number: int, bare: bool) -> simulate.NacSettings:
    """How a scene looks."""
    rng = np.random.default_rng((number, 6))
    real = first.real_conditions(number)
    if bare:
        return dataclasses.replace(
            real,
            fractures=0.0,
            smallest_crater=float(rng.uniform(1.2, 2.5)),
            craters=float(800 * 6 ** rng.random()),
            boulders=float(30 * 60 ** rng.random()),
            ridges=float(rng.uniform(0, 12)),
            roughness=float(0.8 * 6 ** rng.random()),
            psf=float(rng.uniform(0.4, 1.3)),
            others={
                "wrinkles": 2.0 * rng.random(),
                "massifs": 1.5 * rng.random(),
                "scarps": 4.0 * rng.random(),
                "terraces": 1.5 * rng.random(),
                "tracks": 5.0 * rng.random(),
                "patches": 0.5 * rng.random() * (rng.random() < 0.6),
            },
        )
    if number % 2 == 0:
        ridges = np.random.default_rng((number, 5)).uniform(3, 25)
        return first.conditions(number, ridges=ridges)
    return dataclasses.replace(
        real, smallest_crater=float(rng.uniform(1.2, 3.0)), craters=min(real.craters, 3500.0)
    )


def zoomed(
    image: np.ndarray, labels: np.ndarray, zoom: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A tile from somewhere in a scene at another scale; ridges go along with the labels."""
    made = []
    state = rng.bit_generator.state
    for kind in (FRACTURE, RIDGE):
        rng.bit_generator.state = state
        tile, mask = first.zoomed(image, (labels == kind).astype(np.uint8), zoom, rng)
        made.append(mask)
    label = made[0]
    label[(made[1] == 1) & (label == 0)] = RIDGE
    return tile, label


def pool(numbers: tuple[int, int], bare: bool, say: Any) -> list[tuple[Any, ...]]:
    """Tiles of scenes, lit from the left: image, labels, azimuth and incidence of the sun."""
    tiles = []
    for number in range(*numbers):
        rng, sun = np.random.default_rng((number, 3)), first.training_sun(number)
        side, settings = first.SCENE, settings_of(number, bare)
        made = simulate.nac_scene((side, side), settings=settings, seed=number, **sun).dataset
        turn = Turn.of(sun["azimuth"])
        image, mask, ridge = (turn.apply(made[n].values) for n in ("image", "mask", "ridge"))
        labels = np.where((ridge == 1) & (mask == 0), RIDGE, mask).astype(np.uint8)
        azimuth = turn.azimuth(sun["azimuth"])
        plain, most = (0.6, 3) if bare else (0.7 if number % 2 == 0 else 0.4, 5)
        for top in range(0, side, first.TILE):
            for left in range(0, side, first.TILE):
                if rng.random() < plain:
                    place = (slice(top, top + first.TILE), slice(left, left + first.TILE))
                    tile, label = image[place].copy(), labels[place].copy()
                else:
                    tile, label = zoomed(image, labels, 0.5 * most ** rng.random(), rng)
                if (label != NO_DATA).mean() < 0.25:
                    continue
                if (label == FRACTURE).any() or rng.random() < (0.8 if bare else 0.35):
                    tiles.append((tile, label, azimuth, sun["incidence"], bare))
    say(f"{len(tiles)} tiles of {numbers[1] - numbers[0]} scenes")
    return tiles


def pressed(
    image: np.ndarray, labels: np.ndarray, azimuth: float, incidence: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """A tile with none to two rilles or ridges more, on whatever ground it shows, shaded by its sun."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    image, labels = image.copy(), labels.copy()
    steep = math.tan(math.radians(min(incidence, 75.0)))
    along, down = light_direction(azimuth)
    for _ in range(int(rng.choice((0, 0, 1, 1, 2)))):
        raised, half = rng.random() < 0.4, 3.0 * 4.5 ** rng.random()
        on = course(image.shape, rng)
        if on.sum() < 20:
            continue
        away = gaussian_filter(distance_transform_edt(~on), 0.7)
        slope, kind = math.tan(math.radians(rng.uniform(7, 28))), int(rng.integers(3))
        if kind == 0:
            height = -half * slope / 2 * np.clip(1 - (away / half) ** 2, 0, None)
        elif kind == 1:
            wall = half * rng.uniform(0.3, 0.8)
            height = -wall * slope * np.clip((half - away) / wall, 0, 1)
        else:
            height = -half * slope * 0.6 * np.exp(-0.5 * (away / (0.5 * half)) ** 2)
        height = gaussian_filter(height, rng.uniform(0.5, 2.5))
        if rng.random() < 0.5:  # partly filled
            waves = 40 * gaussian_filter(rng.normal(0, 1, height.shape), 12)
            height *= np.clip(1 + rng.uniform(0.2, 0.6) * waves, 0.1, 2)
        dy, dx = np.gradient(-height if raised else height)
        shade = (1 + steep * (dx * along + dy * down)) / np.sqrt(1 + dx**2 + dy**2)
        image *= np.clip(shade, 0.02, None).astype(np.float32)
        new = (away <= half * (0.9 if kind < 2 else 0.8)) & (labels != NO_DATA)
        labels[new & (labels == 0) if raised else new] = RIDGE if raised else FRACTURE
    return image, labels


def course(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Pixels of a line that winds through a tile, or ends in it."""
    t = np.arange(400.0)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.006, t.size))
    heading += rng.uniform(0, 0.4) * np.sin(t / rng.uniform(30, 140))
    x, y = np.cumsum(np.cos(heading)), np.cumsum(np.sin(heading))
    k = int(rng.integers(100, 300))
    middle = rng.uniform(30, min(shape) - 30, 2) if min(shape) > 60 else np.array(shape) / 2
    x, y = x + middle[0] - x[k], y + middle[1] - y[k]
    if rng.random() < 0.3:
        x, y = x[:k], y[:k]
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    on = np.zeros(shape, bool)
    on[row[inside], column[inside]] = True
    return on


def batches(tiles: list[tuple[Any, ...]], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches without end: images with NaN where there are no data, and labels."""
    rng = np.random.default_rng(seed)
    size = min(BATCH, len(tiles))
    while True:
        order = rng.permutation(len(tiles))
        for start in range(0, len(order) - size + 1, size):
            images, labels = [], []
            for number in order[start : start + size]:
                image, label, azimuth, incidence, bare = tiles[number]
                if not bare or rng.random() < 0.45:
                    image, label = pressed(image, label, azimuth, incidence, rng)
                if rng.random() < 0.3:
                    noise = rng.normal(0, 0.01 * np.nanmean(image), image.shape)
                    image = (image + noise).astype(np.float32)
                images.append(image)
                labels.append(label)
            yield np.stack(images), np.stack(labels)


def tuned(
    network: Any,
    rule: fractures.Normalisation,
    tiles: list[tuple[Any, ...]],
    steps: int,
    rate: float,
    far: float,
    seed: int,
    say: Any,
) -> Any:
    """Train a network for some steps, and give back the running mean of its weights."""
    import torch
    from torch.nn import functional as F

    from lunarray.fractures.losses import line_loss
    from lunarray.fractures.normalise import normalise

    network.float().requires_grad_(True).train().to(memory_format=torch.channels_last)
    mean = {k: v.detach().clone() for k, v in network.state_dict().items()}
    adam = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)
    source = batches(tiles, seed)
    for step in range(steps):
        share = step / steps
        for group in adam.param_groups:
            group["lr"] = rate * min(1.0, (share + 1e-3) / 0.03) * 0.5 * (1 + math.cos(math.pi * share))  # fmt: skip
        image, label = (torch.from_numpy(a) for a in next(source))
        valid = torch.isfinite(image) & (label != NO_DATA)
        seen = normalise(torch.nan_to_num(image), rule, valid)
        logits = network(seen.contiguous(memory_format=torch.channels_last))[:, 0]
        there, known = (label == FRACTURE).float(), valid.float()
        weight = 1 + (RIDGE_WEIGHT - 1) * (label == RIDGE).float()
        weight += (far - 1) * (1 - F.max_pool2d(there[:, None], 9, 1, 4)[:, 0])
        weight *= known
        found = torch.sigmoid(logits)
        cost = F.binary_cross_entropy_with_logits(logits, there, weight, reduction="sum")
        cost = cost / known.sum().clamp_min(1)
        overlap = 2 * (found * there * known).sum() + 1
        cost = cost + 1 - overlap / (((found + there) * weight).sum() + 1)
        if step % 3 == 0:
            cost = cost + 0.2 * line_loss(found * known, there * known, precise=False)
        adam.zero_grad(set_to_none=True)
        cost.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        adam.step()
        decay = min(0.995, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                if value.dtype.is_floating_point:
                    mean[name].mul_(decay).add_(value, alpha=1 - decay)
                else:
                    mean[name].copy_(value)
        if step % 50 == 0:
            say(f"step {step} of {steps}, loss {float(cost.detach()):.3f}")
    network.load_state_dict(mean)
    return network.eval()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--begin", type=Path, required=True, help="weights of the first training")
    parser.add_argument("--output", type=Path, required=True, help="weights file to write")
    parser.add_argument("--steps", type=int, nargs=2, default=(1500, 900), help="of both passes")
    parser.add_argument("--learning-rate", type=float, nargs=2, default=(1.5e-3, 8e-4))
    parser.add_argument("--scenes", type=int, nargs=2, help="of both passes; all by default")
    parser.add_argument("--offset", type=float, default=0.0, help="what logits are lowered by")
    parser.add_argument("--overlap", type=int, help="of tiles in detection; measured by default")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(argv)

    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    start = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - start:6.0f} s  {text}", file=sys.stderr, flush=True)

    counts = options.scenes or (SCENES[1] - SCENES[0], BARE[1] - BARE[0])
    loaded = fractures.load_model(options.begin)
    rule = dataclasses.replace(loaded.normalisation, sun="left")
    tiles = pool((SCENES[0], SCENES[0] + counts[0]), False, say)
    network = loaded.network
    for number, (steps, rate, far) in enumerate(
        zip(options.steps, options.learning_rate, (1.0, FAR_WEIGHT), strict=True)
    ):
        if number == 1:
            tiles += pool((BARE[0], BARE[0] + counts[1]), True, say)
        network = tuned(network, rule, tiles, steps, rate, far, options.seed + number, say)
    finish(options, network, rule, loaded.header["training"], len(tiles))


def finish(options: argparse.Namespace, network: Any, rule: Any, before: Any, tiles: int) -> None:
    """Write the weights, with what they are of."""
    import torch

    with torch.no_grad():
        network.head.bias.sub_(options.offset)
    training = {
        **before,
        "tuned": {
            "script": "examples/tune_default_fractures.py",
            "tiles": tiles,
            "steps": list(options.steps),
            "learning_rate": list(options.learning_rate),
            "offset": options.offset,
            "seed": options.seed,
        },
    }
    fractures.save_model(options.output, network, normalisation=rule, scales=[1.0], training=training)  # fmt: skip
    first.set_overlap(options.output, options.overlap, [1.0])
    first.halved(options.output)


if __name__ == "__main__":
    main()
