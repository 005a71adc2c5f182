"""``python -m benchmarks.gpu``: every path that a GPU takes against the CPU's, and how fast both are.

Each check does the same work twice, as lunarray does it on the CPU and as it does it on a GPU, and holds both results
against each other; then it times both. Without a GPU the second is the GPU's code on the CPU, on a small problem: the
results are compared, and the GPU's figures are "not run: no GPU". The last line on standard output is the report as
JSON; the exit status is 1 where a result is off by more than it may be. A few minutes on a machine with a GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import SEED, spectra
from benchmarks.bench_superres import subregion
from benchmarks.peers._harness import Options, emit, machine

#: The CPU by another name: rooms that ask for "cpu" then take the code that they run on a GPU.
STAND_IN = "cpu:0"
ABSENT = "not run: no GPU"


@dataclass
class Check:
    """One kind of work, done by the CPU and by a GPU."""

    #: What the deviation is of, and how large it may be.
    what: str
    tolerance: float
    #: Gives the result of the CPU, and of the other device.
    cpu: Callable[[], Any]
    other: Callable[[], Any]
    #: How far two results are apart.
    apart: Callable[[Any, Any], float]
    #: How much work one call is, and in what unit.
    amount: float
    unit: str
    #: How much it is on the CPU, where that does less of it.
    cpu_amount: float | None = None
    #: Without a GPU both run the same code: there is nothing to compare.
    same_code: bool = False


@dataclass(frozen=True)
class Place:
    """Where the GPU's code runs, and how large the problems are."""

    device: str
    small: bool

    def size(self, small: int, large: int) -> int:
        """The size of a problem."""
        return small if self.small else large


def largest(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference of two arrays; infinite where only one has a number."""
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        return float("inf")
    return float(np.nanmax(np.abs(np.asarray(one, np.float64) - other)))


def relative(one: np.ndarray, other: np.ndarray) -> float:
    """The same, over the largest number of the first."""
    return largest(one, other) / float(np.nanmax(np.abs(one)))


def oxide_inference(place: Place) -> Check:
    """Oxides of spectra by the embedded networks: the compiled kernel, and PyTorch."""
    from lunarray.oxides.api import oxide_model
    from lunarray.oxides.predictor import load_predictor

    pixels = spectra(place.size(256, 65_536))
    # The embedded model takes how well the light is known, behind the bands.
    light = np.random.default_rng(SEED).uniform(0, 1, (len(pixels), 1)).astype(np.float32)
    pixels = np.concatenate([pixels, light], axis=1)
    spec = oxide_model()
    cpu, other = (load_predictor(spec.weights, d) for d in ("cpu", place.device))
    return Check(
        "oxides, wt%", 1e-3, lambda: cpu(pixels)[:, :6], lambda: other(pixels)[:, :6], largest,
        len(pixels), "spectra",
    )  # fmt: skip


def oxide_folds(place: Place) -> Check:
    """Folds that leave a sample out: one after another by the compiled kernel, and stacked in PyTorch."""
    from lunarray.oxides.folds import FoldData, train_folds
    from lunarray.oxides.settings import TrainSettings

    samples, folds, epochs = place.size(16, 128), place.size(2, 32), place.size(2, 10)
    rng = np.random.default_rng(SEED)
    targets = rng.uniform(1, 20, (samples, 6)).astype(np.float32)
    data = FoldData(spectra(samples), targets)
    left_out = [np.array([i]) for i in range(folds)]
    settings = TrainSettings(n=place.size(16, 32), epochs=epochs, seed=SEED)
    device = "cuda" if place.device == "cuda" else "cpu"
    run = partial(train_folds, data, left_out, settings)
    return Check(
        "loss, relative", 1e-2, lambda: run(backend="fused", device="cpu").loss,
        lambda: run(backend="stacked", device=device).loss, relative, folds * epochs, "epochs of a fold",
    )  # fmt: skip


def surface_features(place: Place) -> Check:
    """ResNet50 over a tile of the base map."""
    from lunarray.superres import resnet50_backbone

    side = place.size(64, 1024)
    image = np.random.default_rng(SEED).standard_normal((1, 3, side, side)).astype(np.float32)
    backbone = resnet50_backbone("random", device="cpu")
    cpu = backbone.load()
    other = replace(backbone, device="cuda").load() if place.device == "cuda" else cpu
    return Check(
        "cells, relative", 1e-3, lambda: cpu(image), lambda: other(image), relative,
        side * side / 1e6, "megapixels", same_code=True,
    )  # fmt: skip


def graphs(place: Place) -> Check:
    """The nearest neighbours of the nodes of a sub-region."""
    from lunarray.superres.graph import Search

    side, k = place.size(16, 100), place.size(10, 100)
    search = Search(*subregion(side, place.size(20, 300)), k)

    def differ(one: Any, other: Any) -> float:
        return float((one[0] != other[0]).mean())

    return Check(
        "neighbours, share that differ", 1e-4, search.on_cpu, lambda: search.on_torch(place.device),
        differ, side * side, "nodes",
    )  # fmt: skip


def attention(place: Place) -> Check:
    """A layer of graph attention and the gradients of its weights: the compiled pass, and torch's operations."""
    import torch

    from lunarray.superres.architecture import Architecture
    from lunarray.superres.attention import attend
    from lunarray.superres.model import HybridModel

    nodes, k, features = place.size(200, 10_000), place.size(8, 101), place.size(20, 300)
    torch.manual_seed(SEED)
    layer = HybridModel(Architecture(features)).attention[0]
    on_device = HybridModel(Architecture(features)).attention[0]
    on_device.load_state_dict(layer.state_dict())
    rng = np.random.default_rng(SEED)
    x = torch.from_numpy(rng.standard_normal((nodes, features + 3)).astype(np.float32))
    index = torch.from_numpy(rng.integers(0, nodes, (nodes, k)).astype(np.int32))
    edge = torch.from_numpy(rng.random((nodes, k, 2)).astype(np.float32))

    def run(net: torch.nn.Module, device: str, fused: bool) -> np.ndarray:
        net.to(device).zero_grad()
        out = attend(net, *(t.to(device) for t in (x, index, edge)), fused=fused)
        out.square().mean().backward()
        parts = [p.grad.ravel() / p.grad.abs().max() for p in net.parameters()]
        return torch.cat([out.detach().ravel(), *parts]).cpu().numpy()

    return Check(
        "outputs and gradients, relative", 1e-3, lambda: run(layer, "cpu", True),
        lambda: run(on_device, place.device, False), relative, nodes * k, "edges",
    )  # fmt: skip


def network_training(place: Place) -> Check:
    """A region's network from the first step to its map: graphs, training, prediction."""
    from lunarray.superres import TrainSettings
    from lunarray.superres.attention import attend
    from lunarray.superres.prediction import predict_region
    from lunarray.superres.regions import RegionData
    from lunarray.superres.training import train_region

    side, features = place.size(16, 100), place.size(10, 300)
    lat, lon, w = subregion(side, features)
    rng = np.random.default_rng(SEED)
    abundance = np.full((3, side, side), np.nan, np.float32)
    known = rng.random((side, side)) < 0.3
    abundance[:, known] = 10 + w[known.ravel(), :3].T
    planes = np.ascontiguousarray(w.T).reshape(-1, side, side)
    data = RegionData(
        lat.reshape(side, side)[:, 0], lon.reshape(side, side)[0], planes,
        np.full((side, side), 2, np.uint8), abundance, ("Fe", "Al", "Mg"),
    )  # fmt: skip
    steps = place.size(2, 5)
    settings = TrainSettings(size=side, stride=side, k=place.size(8, 100), epochs=1, steps=(steps, steps))  # fmt: skip

    def run(device: Any, by_torch: bool) -> np.ndarray:
        own = partial(attend, fused=False)
        with patch("lunarray.superres.attention.attend", own) if by_torch else nullcontext():
            trained = train_region(data, settings, device=device, progress=False)
            assert trained is not None
            return predict_region(trained, data.lat, data.lon, planes, data.mare)[0]

    device = "cuda" if place.device == "cuda" else "cpu"
    return Check(
        "map, wt%", 0.02, lambda: run("cpu", False), lambda: run(device, True), largest,
        2 * steps, "steps",
    )  # fmt: skip


def fracture_inference(place: Place) -> Check:
    """DeepLabV3 with ResNet50 over tiles."""
    import torch

    from lunarray.fractures.model import build, default_normalisation
    from lunarray.fractures.predictor import predictor_of

    count, side = place.size(1, 16), place.size(64, 512)
    torch.manual_seed(SEED)
    network = build("deeplabv3_resnet50").eval()
    rule = default_normalisation("deeplabv3_resnet50")
    tiles = np.random.default_rng(SEED).random((count, side, side)).astype(np.float32)
    cpu, other = (predictor_of(network, rule, d) for d in ("cpu", place.device))
    # On the CPU a few of them: one takes seconds.
    some = tiles[:2]

    def apart(one: np.ndarray, two: np.ndarray) -> float:
        return largest(one, two[: len(one)])

    return Check(
        "probability", 1e-2, lambda: cpu(some), lambda: other(tiles), apart, count,
        f"tiles of {side}²",
        cpu_amount=len(some),
    )  # fmt: skip


def fracture_training(place: Place) -> Check:
    """An epoch of DeepLabV3 as users train it: in half precision on a GPU."""
    from lunarray.fractures.settings import TrainSettings
    from lunarray.fractures.training import train

    count, side = place.size(2, 8), place.size(32, 256)
    rng = np.random.default_rng(SEED)
    images = rng.random((count, side, side)).astype(np.float32)
    masks = (images > 0.9).astype(np.uint8)
    tiles = images, masks, np.ones(masks.shape, bool)
    settings = TrainSettings(epochs=1, batch_size=2, seed=SEED)
    name = "light" if place.small else "deeplabv3_resnet50"

    def run(device: Any) -> np.ndarray:
        fit = train(
            tiles, tiles, settings=settings, model=name, augment=None, device=device, progress=False
        )
        return fit.history["loss"].sel(split="training").values

    device = "cuda" if place.device == "cuda" else "cpu"
    return Check(
        "loss, relative", 0.05, lambda: run("cpu"), lambda: run(device), relative, count,
        f"tiles of {side}²", same_code=True,
    )  # fmt: skip


CHECKS: tuple[Callable[[Place], Check], ...] = (
    oxide_inference, oxide_folds, surface_features, graphs, attention, network_training,
    fracture_inference, fracture_training,
)  # fmt: skip


def timed(work: Callable[[], Any], least: float, device: str) -> float:
    """Seconds of one call, the median of as many as fit."""
    import torch

    spent: list[float] = []
    while sum(spent) < least or not spent:
        begin = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - begin)
    return float(np.median(spent))


def busy() -> int | None:
    """Share of the last second in which the GPU was at work (%), where the driver tells."""
    import torch

    try:
        return int(torch.cuda.utilization())
    except Exception:  # without NVIDIA's Python package
        return None


def measured(check: Check, place: Place, least: float) -> dict[str, Any]:
    """Do both, compare, and time them."""
    import torch

    row: dict[str, Any] = {"of": check.what, "tolerance": check.tolerance, "unit": check.unit}
    on_gpu = place.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    one = check.cpu()
    seconds = time.perf_counter() - begin
    off = check.apart(one, check.other())
    row |= {"deviation": off, "right": off <= check.tolerance}
    if check.same_code and not on_gpu:
        row["deviation"] = "the same code"
    if on_gpu:
        seconds = timed(check.cpu, least, "cpu")
    row["cpu"] = (check.cpu_amount or check.amount) / seconds
    if on_gpu:
        row["gpu"] = check.amount / timed(check.other, least, "cuda")
        row["ratio"] = row["gpu"] / row["cpu"]
        row["gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
        row["gpu_busy_percent"] = busy()
    else:
        row["gpu"] = ABSENT
    return row


def report(rows: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(
        "check", "deviation", "may be", "of", "CPU, 1/s", "GPU, 1/s", "unit", "GPU memory"
    )

    def number(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    for name, row in rows.items():
        if "failed" in row:
            table.add_row(name, "failed", "", row["failed"], *[""] * 4)
            continue
        memory = f"{row['gpu_memory_mb']} MB" if "gpu_memory_mb" in row else ""
        mark = "" if row["right"] else " !"
        cells = (f"{number(row['deviation'])}{mark}", number(row["tolerance"]), row["of"])
        table.add_row(name, *cells, number(row["cpu"]), number(row["gpu"]), row["unit"], memory)
    Console(width=150).print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; the exit status is 1 where one is off or fails."""
    import torch

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checks", nargs="*", help=f"of {', '.join(c.__name__ for c in CHECKS)}")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="small problems: does it all run?")
    given = parser.parse_args(arguments)
    known = {check.__name__: check for check in CHECKS}
    unknown = set(given.checks) - set(known)
    if unknown:
        parser.error(f"unknown checks {', '.join(sorted(unknown))}")
    from lunarray.engine import resolve_device

    on_gpu = resolve_device(given.device) == "cuda"
    place = Place("cuda" if on_gpu else STAND_IN, given.quick or not on_gpu)
    gpu = torch.cuda.get_device_name() if on_gpu else ABSENT
    rows: dict[str, dict[str, Any]] = {}
    begin = time.perf_counter()
    for name in given.checks or known:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            rows[name] = measured(known[name](place), place, 0.2 if place.small else 2.0)
        except Exception as error:  # the other checks still say something
            rows[name] = {"failed": f"{type(error).__name__}: {error}", "right": False}
    report(rows)
    right = all(row["right"] for row in rows.values())
    emit(
        {
            "topic": "gpu",
            "machine": machine(Options()),
            "torch": torch.__version__,
            "gpu": gpu,
            "seconds": round(time.perf_counter() - begin, 1),
            "right": right,
            "checks": rows,
        }
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
