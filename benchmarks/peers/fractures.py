"""DeepLabV3-ResNet50 on 512² tiles: tiles/s of the whole way from Zarr to vectors, and of networks alone.

Ours reads a mosaic from Zarr, runs overlapping tiles, blends them and outlines what is found. The others have their
tiles in memory, normalised, and give probabilities; they must agree with eager PyTorch within 1e-3. Ours must give the
components that a plain loop over the tiles, blended and labelled by SciPy, gives. All have the same random weights
(scaled so that probabilities vary), compute in float32, and use all cores.

The limit is the bare network as ``torch.compile`` makes it, the fastest of: as it is, with channels last, and with
frozen weights.
"""

from __future__ import annotations

import copy
import shutil
import time
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import Absent, Comparison, Contender, Options
from benchmarks.peers.oxides import SEED
from lunarray.engine.batches import torch_threads

TILE, OVERLAP = 512, 128
#: Tiles to a side of the mosaic that ours maps; and those that the others run.
SIDE, TILES = 4, 2
#: What a probability may differ from eager fp32.
TOLERANCE = 1e-3
#: Tiles/s of the paper on an A100, 3332 in 1.01 minutes, and what ours should reach on a GPU.
PAPER, WANTED = 55, 300


def prepare(options: Options) -> Comparison:
    """Set up the contenders."""
    tile, side = (256, 2) if options.quick else (TILE, SIDE)
    image = _image(side * (tile - OVERLAP) + OVERLAP)
    network, rule = _network(image[:tile, :tile])
    tiles = image[:tile, :tile][None].repeat(TILES, axis=0)
    tiles[1:] += np.float32(10)
    seen = _normalised(tiles, rule)
    with torch_threads(options.threads):
        reference = _probabilities(network, seen)
    if reference.std() < 0.05:
        raise RuntimeError(
            "the network's outputs hardly vary: agreement with it would mean nothing"
        )
    threshold = float(np.quantile(reference[0], 0.97))
    components = _components(network, rule, image, tile, threshold, options)

    def check(output: Any) -> float:
        if isinstance(output, np.ndarray):
            deviation = float(np.abs(output - reference[: len(output)]).max())
            assert deviation <= TOLERANCE, f"differs from eager fp32 by {deviation:.1e}"
            return deviation
        pixels = np.sort(output["pixels"].to_numpy())
        # A pixel at the very threshold may go either way.
        deviation = float(abs(pixels.sum() - components.sum()) / components.sum())
        assert deviation <= TOLERANCE, f"{pixels.sum()} pixels found, not {components.sum()}"
        assert abs(len(pixels) - len(components)) <= 0.02 * len(components) + 1, (
            f"{len(pixels)} components, not {len(components)}"
        )
        return deviation

    weights = _save(options.folder / "deeplab.safetensors", network, rule)
    return Comparison(
        unit="tiles/s",
        ours=_ours(weights, image, tile, threshold, options),
        peers={
            "torch_eager": _torch(network, seen, options),
            "torch_channels_last": _torch(network, seen, options, last=True),
            "openvino": _openvino(network, seen, options),
        },
        limit=("torch.compile, the network alone", _compiled(network, seen, options)),
        check=check,
        extras={"network_alone": _alone(network, rule, tiles, options)},
        finish=partial(_finish, network=network, rule=rule, tile=tiles[0]),
        notes=(
            f"Ours maps a mosaic of {len(image)} × {len(image)} pixels, {side**2} tiles of {tile} with an overlap of"
            f" {OVERLAP}, threshold {threshold:.3f}: {len(components)} components.",
        ),
    )


def _image(size: int) -> np.ndarray:
    """Smoothed noise of 8-bit brightness."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(SEED)
    rough = sum(
        gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), s) * s
        for s in (1, 4, 16)
    )
    return (120 + 40 * rough / np.std(rough)).clip(0, 255).astype(np.float32)


def _network(tile: np.ndarray) -> tuple[Any, Any]:
    """DeepLabV3-ResNet50 of random weights, with batch statistics and a head that make its outputs vary."""
    import torch
    from torch import nn

    from lunarray.fractures import deeplabv3
    from lunarray.fractures.normalise import imagenet

    torch.manual_seed(SEED)
    network, rule = deeplabv3("resnet50").eval().requires_grad_(False), imagenet()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
    with torch.inference_mode():
        logits = network(_normalised(tile[None, :256, :256], rule))
    head: Any = network.classifier[4]
    head.weight *= 1 / float(logits.std())
    head.bias -= float(logits.mean() / logits.std())
    return network, rule


def _normalised(tiles: np.ndarray, rule: Any) -> Any:
    import torch

    from lunarray.fractures.normalise import normalise

    return normalise(torch.from_numpy(tiles), rule)


def _probabilities(network: Any, seen: Any) -> np.ndarray:
    """A plain loop over tiles."""
    import torch

    with torch.inference_mode():
        return np.concatenate([torch.sigmoid(network(x[None]))[:, 0].numpy() for x in seen])


def _components(
    network: Any, rule: Any, image: np.ndarray, tile: int, threshold: float, options: Options
) -> np.ndarray:
    """Pixels of each component, by a plain loop."""
    from scipy.ndimage import label

    from lunarray.fractures.lattice import Axis

    axis = Axis(len(image), tile, OVERLAP)
    result = np.zeros_like(image)
    with torch_threads(options.threads):
        for y, down in zip(axis.starts, axis.weights, strict=True):
            for x, across in zip(axis.starts, axis.weights, strict=True):
                part = image[None, y : y + tile, x : x + tile]
                found = _probabilities(network, _normalised(part, rule))[0]
                result[y : y + tile, x : x + tile] += found * down[:, None] * across
    labels, _ = label(result >= threshold, np.ones((3, 3)))
    return np.sort(np.bincount(labels.ravel())[1:])


def _save(path: Path, network: Any, rule: Any) -> Path:
    from lunarray.fractures import save_model

    return save_model(path, network, normalisation=rule)


# --- Contenders -----------------------------------------------------------------------------------


def _ours(
    weights: Path, image: np.ndarray, tile: int, threshold: float, options: Options
) -> Contender:
    """Zarr to vectors."""
    import dask
    import xarray as xr

    import lunarray
    from lunarray.fractures import map_fractures, vectorize
    from lunarray.geo import assign_crs, moon_crs

    store = options.folder / "mosaic.zarr"
    coords = {name: 1.5 * np.arange(len(image)) for name in ("y", "x")}
    mosaic = xr.DataArray(image, dims=("y", "x"), coords=coords, name="image")
    mosaic = assign_crs(mosaic.isel(y=slice(None, None, -1)), moon_crs("south"))
    mosaic.data = image
    mosaic.to_dataset().chunk({"y": 512, "x": 512}).lunar.to_zarr(store, progress=False)

    def run(workers: int, threads: int) -> Any:
        with dask.config.set(scheduler="threads", num_workers=workers):
            opened = lunarray.open_zarr(store)
            found = map_fractures(
                opened,
                weights,
                threshold,
                tile=tile,
                overlap=OVERLAP,
                device="cpu",
                threads=threads,
            )
            return vectorize(found, min_area=0.0)

    variants = {f"{options.threads} Dask threads": partial(run, options.threads, 1)}
    if options.threads > 1:
        variants[f"1 Dask thread, {options.threads} of torch"] = partial(run, 1, options.threads)
    from lunarray.fractures.lattice import Axis

    return Contender(len(Axis(len(image), tile, OVERLAP).starts) ** 2, variants)


def _torch(network: Any, seen: Any, options: Options, *, last: bool = False) -> Contender:
    import torch

    layout = torch.channels_last if last else torch.contiguous_format
    model = copy.deepcopy(network).to(memory_format=layout)
    tiles = seen.contiguous(memory_format=layout)

    def run() -> np.ndarray:
        with torch_threads(options.threads):
            return _probabilities(model, tiles)

    return Contender(len(seen), {"tile by tile": run})


def _compiled(network: Any, seen: Any, options: Options) -> Contender:
    import torch
    import torch._inductor.config as inductor

    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise RuntimeError("torch.compile, the limit here, needs a C++ compiler")
    torch._dynamo.reset()
    variants: dict[str, Callable[[], np.ndarray]] = {}
    for label, layout, freeze in (
        ("as it is", torch.contiguous_format, False),
        ("channels last", torch.channels_last, False),
        ("channels last, frozen", torch.channels_last, True),
    ):
        model = _distinct(copy.deepcopy(network).to(memory_format=layout), len(variants))
        compiled = torch.compile(model)
        tiles = seen.contiguous(memory_format=layout)

        def run(compiled: Any = compiled, tiles: Any = tiles, freeze: bool = freeze) -> np.ndarray:
            # Weights are frozen under no_grad only, and only where asked for when it compiles.
            with (
                torch_threads(options.threads),
                warnings.catch_warnings(),
                inductor.patch(freezing=freeze),
                torch.no_grad(),
            ):
                warnings.simplefilter("ignore")
                results = [torch.sigmoid(compiled(x[None]))[:, 0].numpy() for x in tiles]
                return np.concatenate(results)

        variants[label] = run
    return Contender(len(seen), variants)


def _distinct(model: Any, number: int) -> Callable[[Any], Any]:
    """A function that calls the model, with code of its own.

    torch.compile remembers by code: a second network of one class would run what was compiled for the first.
    """

    def call(x: Any) -> Any:
        return model(x)

    code = call.__code__.replace(co_name=f"call_{number}")
    return types.FunctionType(code, globals(), code.co_name, None, call.__closure__)


def _openvino(network: Any, seen: Any, options: Options) -> Contender | Absent:
    try:
        import openvino
    except ImportError as error:
        return Absent(str(error))
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(network, example_input=seen[:1])
    converted.reshape(list(seen[:1].shape))
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # else it computes in bf16 where the processor can
        "INFERENCE_NUM_THREADS": options.threads,
    }
    compiled = openvino.Core().compile_model(converted, "CPU", settings)
    inputs = [x[None].numpy() for x in seen]

    def run() -> np.ndarray:
        logits = np.concatenate([compiled(x)[0] for x in inputs])
        return torch.sigmoid(torch.from_numpy(logits))[:, 0].numpy()

    return Contender(len(seen), {"tile by tile": run})


def _alone(network: Any, rule: Any, tiles: np.ndarray, options: Options) -> Contender:
    """Our network without the way there and back."""
    from concurrent.futures import ThreadPoolExecutor

    from lunarray.fractures.predictor import predictor_of

    predict = predictor_of(network, rule)
    pool = ThreadPoolExecutor(options.threads)

    def one(tile: np.ndarray) -> np.ndarray:
        with torch_threads(1):
            return predict(tile[None])

    def apart() -> np.ndarray:
        return np.concatenate(list(pool.map(one, tiles)))

    def together() -> np.ndarray:
        with torch_threads(options.threads):
            return np.concatenate([predict(tile[None]) for tile in tiles])

    return Contender(len(tiles), {"a thread a tile": apart, "all threads a tile": together})


def _finish(report: dict[str, Any], *, network: Any, rule: Any, tile: np.ndarray) -> dict[str, Any]:
    """On a GPU, tiles/s against the paper's."""
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None}
    from lunarray.fractures.detection import BATCH
    from lunarray.fractures.predictor import predictor_of

    predict = predictor_of(network, rule, "cuda")
    batch = tile[None].repeat(BATCH["cuda"], axis=0)
    for _ in range(3):
        predict(batch)
    calls, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < 5:
        predict(batch)
        calls += 1
    rate = calls * len(batch) / (time.perf_counter() - begin)
    name = torch.cuda.get_device_name()
    print(f"{name}: {rate:.0f} tiles/s from memory to memory; the paper, on an A100: {PAPER}")
    return {"gpu": {"name": name, "tiles_per_s": round(rate, 1), "paper": PAPER, "wanted": WANTED}}
