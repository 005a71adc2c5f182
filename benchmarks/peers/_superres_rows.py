"""Rows of ``python -m benchmarks.peers superres`` in other units: graphs, surface features, mRMR, a training step.

Each row takes the options and gives keys of the report; `ratio` is the figure that the row is about. All work runs in
one thread. Rows are medians over the rounds, in which the two sides of a ratio take turns. `ratio_cpu` is the same of
the time that the processor was at work for this process, which other processes disturb less.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import SEED
from benchmarks.bench_superres import STEP, basemap, feature_rows, subregion
from benchmarks.peers import Options

#: Features to choose.
CHOSEN = 300


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for BLAS and torch, on both sides."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def take_turns(rounds: int, *work: Callable[[], Any]) -> tuple[np.ndarray, np.ndarray]:
    """Median seconds of each, and processor seconds, in interleaved rounds."""
    spent = np.empty((2, len(work), rounds))
    for number in range(rounds):
        for k in [(number + i) % len(work) for i in range(len(work))]:
            begin = time.perf_counter(), time.process_time()
            work[k]()
            spent[:, k, number] = time.perf_counter() - begin[0], time.process_time() - begin[1]
    wall, cpu = np.median(spent, axis=2)
    return wall, cpu


def figure(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def graph(options: Options) -> dict[str, Any]:
    """The graph of a sub-region, beside the product of matrices and the choice of the largest that it cannot do
    without, the fastest way to each that was found here."""
    import torch

    from lunarray.superres import neighbours

    side, k = (40, 100) if options.quick else (100, 100)
    lat, lon, w = subregion(side)
    n, block = len(w), 128
    out = np.empty((block, n), np.float32)
    tensor, target = torch.from_numpy(w), torch.from_numpy(out)

    def product() -> None:
        for start in range(0, n - block + 1, block):
            np.matmul(w[start : start + block], w.T, out=out)

    def by_torch() -> None:
        for start in range(0, n - block + 1, block):
            torch.mm(tensor[start : start + block], tensor.T, out=target)

    def largest() -> None:
        # Always on the same block: it is in the cache, as it would be after its product.
        for _ in range(0, n - block + 1, block):
            torch.topk(target, k, sorted=False)

    def partition() -> None:
        for _ in range(0, n - block + 1, block):
            np.argpartition(out, k, axis=1)

    def ours() -> None:
        neighbours(lat, lon, w, k, block=block)

    with one_thread():
        neighbours(lat[:300], lon[:300], w[:300], k)
        product()
        times = take_turns(options.rounds, ours, product, by_torch, largest, partition)
    scale = n / (n // block * block)
    (mine, bound), (mine_cpu, bound_cpu) = (
        (t[0], scale * (min(t[1:3]) + min(t[3:]))) for t in times
    )
    return {
        "graph": {
            "nodes": n, "neighbours": k, "features": w.shape[1], "seconds": figure(mine),
            "bound": figure(bound), "bound_gemm": figure(scale * min(times[0][1:3])),
            "bound_top_k": figure(scale * min(times[0][3:])), "ratio": figure(mine / bound),
            "ratio_cpu": figure(mine_cpu / bound_cpu), "unit": "s",
        }
    }  # fmt: skip


def features(options: Options) -> dict[str, Any]:
    """Dense features against patches, per pixel, and their agreement."""
    from lunarray.superres import GIBGrid, surface_features
    from lunarray.superres.features import TILE, feature_agreement, patch_features

    side, few = (16, 4) if options.quick else (min(TILE, 86), 16)
    base = basemap(side * STEP + 3)
    grid = GIBGrid(
        (1, 1), (side, side), (0.5, -side * STEP / 2, 0.5 + side * STEP, side * STEP / 2)
    )
    lat, lon = np.full(few, grid.lat(0)[0]), grid.lon(0)[:few]
    found: list[Any] = []

    def dense() -> None:
        found[:] = [surface_features(base, grid, (0, 0), "random", device="cpu")]

    def patches() -> None:
        patch_features(base, lat, lon, "random", device="cpu")

    with one_thread():
        patch_features(base, lat[:1], lon[:1], "random", device="cpu")
        wall, cpu = take_turns(1 if options.quick else min(options.rounds, 3), dense, patches)
        agreement = feature_agreement(
            base, grid, (0, 0), pixels=16 if options.quick else 48, dense=found[0], device="cpu"
        )
    (dense_wall, patch_wall), (dense_cpu, patch_cpu) = (
        t * (1 / side**2, 1 / few) for t in (wall, cpu)
    )
    return {
        "features": {
            "dense": figure(1e3 * dense_wall), "patch": figure(1e3 * patch_wall), "unit": "ms/pixel",
            "ratio": figure(patch_wall / dense_wall), "ratio_cpu": figure(patch_cpu / dense_cpu),
            "tile": side, "agreement": {k: figure(v) for k, v in agreement.items()},
        }
    }  # fmt: skip


def straightforward(x: np.ndarray, n: int) -> np.ndarray:
    """mRMR as it reads: at each step the correlations of all features with all those chosen, from the data."""
    x = x.astype(np.float64)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    relevance = x.var(axis=0)
    relevance /= relevance.max()
    chosen = [int(relevance.argmax())]
    while len(chosen) < n:
        redundancy = np.abs(z.T @ z[:, chosen] / len(z)).mean(axis=1)
        score = relevance - redundancy
        score[chosen] = -np.inf
        chosen.append(int(score.argmax()))
    return np.array(chosen)


def mrmr(options: Options) -> dict[str, Any]:
    """300 of 2048 features of 200 000 rows; the straightforward way on 5000 of them, its time in proportion."""
    from lunarray.superres import select_features

    rows, part, n = (4000, 2000, 30) if options.quick else (200_000, 5_000, CHOSEN)
    x = feature_rows(rows)
    with one_thread():
        select_features(x[:100, :50], 5)
        wall, cpu = take_turns(1 if options.quick else 2, lambda: select_features(x, n))
        found: list[np.ndarray] = []
        plain_wall, plain_cpu = take_turns(1, lambda: found.append(straightforward(x[:part], n)))
        same = bool(np.array_equal(select_features(x[:part], n), found[0]))
        a, b = np.random.default_rng(0).standard_normal((2, 2048, 2048)).astype(np.float32)
        gemm, _ = take_turns(3, lambda: np.matmul(a, b))
    if not same:
        raise RuntimeError("mRMR chose other features than the straightforward implementation")
    share = rows / part
    return {
        "mrmr": {
            "rows": rows, "features": x.shape[1], "chosen": n, "seconds": figure(wall[0]),
            "straightforward": figure(share * plain_wall[0]), "straightforward_rows": part,
            "ratio": figure(share * plain_wall[0] / wall[0]),
            "ratio_cpu": figure(share * plain_cpu[0] / cpu[0]), "same": same,
            # One half of the product of the features with themselves.
            "bound_syrk": figure(gemm[0] * rows / 2048 / 2), "unit": "s",
        }
    }  # fmt: skip


def training_step(options: Options) -> dict[str, Any]:
    """Peak memory of steps of training on a sub-region, in a process of its own: with the paper's losses, and with
    the defaults."""
    side, k = (30, 20) if options.quick else (100, 100)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers._superres_rows", "--step", str(side), str(k)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    if done.returncode:
        return {"training_step": {"absent": (done.stderr.strip().splitlines() or ["failed"])[-1]}}
    return {"training_step": json.loads(done.stdout.splitlines()[-1])}


def memory(name: str) -> float:
    """VmRSS or VmHWM of this process, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise OSError(f"no {name}")


def step(side: int, k: int) -> dict[str, Any]:
    """Train on one sub-region, one step in each phase, and see how far memory rises above what it was before.

    Before, there are the region's data and the graph; the rise is inputs, network, activations, gradients and the
    optimiser's state.
    """
    from lunarray.superres import TrainSettings
    from lunarray.superres.regions import RegionData
    from lunarray.superres.subgraphs import GraphCache
    from lunarray.superres.training import train_region
    from lunarray.xrf import ELEMENTS, HIGHLAND

    lat, lon, w = subregion(side)
    rng = np.random.default_rng(SEED)
    abundance = np.full((len(ELEMENTS), side, side), np.nan, np.float32)
    known = rng.random((side, side)) < 0.2
    values = np.array([HIGHLAND[e] for e in ELEMENTS], np.float32)[:, None]
    abundance[:, known] = values * rng.uniform(0.8, 1.2, (len(ELEMENTS), int(known.sum())))
    data = RegionData(
        lat.reshape(side, side)[:, 0], lon.reshape(side, side)[0],
        np.ascontiguousarray(w.T).reshape(-1, side, side),
        np.full((side, side), 2, np.uint8), abundance, tuple(ELEMENTS),
    )  # fmt: skip
    result: dict[str, Any] = {"nodes": side * side, "neighbours": k, "unit": "MB"}
    common = {"size": side, "stride": side, "k": k, "epochs": 1, "steps": (1, 1)}
    for name, settings in (
        ("paper", TrainSettings(**common)),
        ("footprint", TrainSettings.footprint_aware(**common, point=1.0, footprint=0.0)),
    ):
        cache = GraphCache(2 << 30)
        train_region(data, settings, cache=cache, device="cpu")  # compiles, and builds the graph
        gc.collect()
        # Since Linux 4.0: the peak begins anew.
        Path("/proc/self/clear_refs").write_text("5")
        before, begin = memory("VmRSS"), time.perf_counter()
        train_region(data, settings, cache=cache, device="cpu")
        result[f"{name}_rise"] = round(memory("VmHWM") - before, 1)
        result[f"{name}_peak"] = round(memory("VmHWM"), 1)
        result[f"{name}_seconds"] = round(time.perf_counter() - begin, 3)
    return result


ROWS: list[Callable[[Options], dict[str, Any]]] = [graph, features, mrmr, training_step]


if __name__ == "__main__":
    if "--step" in sys.argv:
        print(json.dumps(step(*(int(v) for v in sys.argv[sys.argv.index("--step") + 1 :]))))
        sys.exit()
    given = Options(rounds=3, quick="--quick" in sys.argv)
    names = [a for a in sys.argv[1:] if not a.startswith("-")]
    for row in ROWS:
        if not names or row.__name__ in names:
            print(json.dumps(row(given)), flush=True)
