"""``python -m benchmarks.scale``: what a chunk costs on 1, 2, 4 … workers, and what global jobs cost on paper.

Measured on this machine: the scheduler's overhead for a chunk (an empty ``map_blocks``, and the same through
`to_zarr`), the store's throughput, the oxide inversion, the building of a graph of 10⁵ chunks, and with ``--memory`` an
inversion of a cube four times as large as the memory that its worker may use. The arithmetic for jobs that no machine
here can run is printed with every figure that goes into it. The last line is the report as JSON.
"""

from __future__ import annotations

import argparse
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import SEED, cube
from benchmarks.peers import _harness


@dataclass(frozen=True)
class Job:
    """A job to be priced on paper.

    Parameters
    ----------
    name : str
    items : float
        Pixels or spectra that the model or fit runs on.
    read_bytes, write_bytes : float
        For an item, as they lie in the store.
    rate : float
        Items a second on one worker.
    source : str
        Where `rate` is from.
    chunk_items : float
        Items in a block.
    tasks : float
        Dask tasks for a block.
    """

    name: str
    items: float
    read_bytes: float
    write_bytes: float
    rate: float
    source: str
    chunk_items: float
    tasks: float


@dataclass(frozen=True)
class Cost:
    """What a job costs on some workers.

    Parameters
    ----------
    hours : float
        The longest of the three, which overlap.
    compute, store, scheduler : float
        Hours of each.
    """

    hours: float
    compute: float
    store: float
    scheduler: float

    @property
    def bound(self) -> str:
        """What it waits for."""
        return max(("compute", "store", "scheduler"), key=lambda name: getattr(self, name))


def cost(
    job: Job,
    workers: int,
    *,
    task_seconds: float,
    read_rate: float,
    write_rate: float,
    shared_rate: float,
) -> Cost:
    """Price a job.

    Parameters
    ----------
    job : Job
    workers : int
    task_seconds : float
        Of the scheduler, which is one thread, for a task.
    read_rate, write_rate : float
        Stored bytes a second that one worker reads and decompresses, or compresses and writes.
    shared_rate : float
        Bytes a second that the file system gives to all workers together.

    Returns
    -------
    Cost
    """
    compute = job.items / (job.rate * workers) / 3600
    own = job.items * (job.read_bytes / read_rate + job.write_bytes / write_rate) / workers
    shared = job.items * (job.read_bytes + job.write_bytes) / shared_rate
    store = max(own, shared) / 3600
    scheduler = job.items / job.chunk_items * job.tasks * task_seconds / 3600
    return Cost(max(compute, store, scheduler), compute, store, scheduler)


def saturation(
    job: Job, *, task_seconds: float, read_rate: float, write_rate: float, shared_rate: float
) -> int:
    """Count the workers beyond which a job gets no faster.

    Parameters
    ----------
    job, task_seconds, read_rate, write_rate, shared_rate
        As of :func:`cost`.

    Returns
    -------
    int
    """
    floor = max(
        job.items * (job.read_bytes + job.write_bytes) / shared_rate,
        job.items / job.chunk_items * job.tasks * task_seconds,
    )
    own = job.items * (job.read_bytes / read_rate + job.write_bytes / write_rate)
    return max(1, math.ceil(max(job.items / job.rate, own) / floor - 1e-9))


def jobs(compression: float, oxide_rate: float, oxide_source: str, class_rate: float) -> list[Job]:
    """List the jobs that the table prices.

    Parameters
    ----------
    compression : float
        Stored bytes for a byte of reflectance, measured.
    oxide_rate : float
        Pixels a second of one GPU worker.
    oxide_source : str
    class_rate : float
        Frames a second of one core.

    Returns
    -------
    list of Job
    """
    return [
        Job(
            "global 100 m SP-like mosaic: 6e8 pixels x 150 bands",
            6e8,
            150 * 4 * compression,
            8 * 4 + 1,
            oxide_rate,
            oxide_source,
            256**2,
            10,
        ),
        Job(
            "full CLASS archive: 10 800 frames a day for 5 years, windows of 12",
            10_800 * 365 * 5,
            1024 * 4 * 0.3,
            9 * 4,
            class_rate,
            f"{class_rate:.3g} frames/s on one core (a day of 10 800 in 113 s of CPU time, benchmarks/RESULTS.md, "
            "xrf, unless --class-rate says otherwise); a worker is a core",
            1024,
            6,
        ),
        Job(
            "NAC mosaic of 1e12 pixels, DeepLabV3 on 512² tiles that advance by 448",
            1e12,
            1.0,
            0.25,
            55 * 448**2,
            "55 tiles a second on an A100 (3332 tiles in 60.6 s, paper of issue 6)",
            4096**2,
            8,
        ),
    ]


#: CLASS frames a second of one core, co-adding and fitting: benchmarks/RESULTS.md, xrf, "A day".
CLASS_RATE = 10_800 / 113
#: Bytes a second that the file system gives to all workers together: that of a small cluster, assumed.
SHARED_RATE = 10e9
#: Pixels a second of one H100, on paper: 14.08 MFLOP a pixel at a third of 67 TFLOP/s in fp32.
GPU_RATE = 67e12 / 3 / 14.08e6


def empty(block: np.ndarray) -> np.ndarray:
    """Do nothing."""
    return block


def overhead(client: Any, chunks: int, folder: Path) -> dict[str, float]:
    """Measure what a chunk costs without any work: Dask's own map_blocks, and through the store.

    Parameters
    ----------
    client : distributed.Client
    chunks : int
    folder : Path

    Returns
    -------
    dict
        Milliseconds for a chunk: wall time and the CPU time of the client and scheduler (one process here).
    """
    import dask.array as da
    import xarray as xr
    from distributed import wait

    from lunarray.engine import last_report
    from lunarray.store import layout, regions, to_zarr

    side = math.isqrt(chunks)
    array = da.zeros((side * 8, side * 8), chunks=8, dtype=np.float32).map_blocks(
        empty, dtype=np.float32, meta=np.empty((0, 0), np.float32)
    )
    wait(client.compute(array[:8, :8]))
    begin, cpu = time.perf_counter(), time.process_time()
    persisted = client.persist(array)
    wait(persisted)
    plain, plain_cpu = time.perf_counter() - begin, time.process_time() - cpu
    del persisted

    before = regions.choose_layout
    # Objects of a few bytes, and as many of them as chunks: the worst that a store can be.
    regions.choose_layout = lambda dims, shape, itemsize, blocks: layout.Layout(blocks, None)  # type: ignore[assignment]
    try:
        ds = xr.Dataset({"a": (("y", "x"), array)})
        path = folder / "overhead.zarr"
        begin, cpu = time.perf_counter(), time.process_time()
        to_zarr(ds, path, progress=False)
        stored, stored_cpu = time.perf_counter() - begin, time.process_time() - cpu
        shutil.rmtree(path)
    finally:
        regions.choose_layout = before
    report = last_report()
    assert report is not None
    count = side**2
    return {
        "chunks": count,
        "empty_map_blocks_ms": 1e3 * plain / count,
        "empty_map_blocks_cpu_ms": 1e3 * plain_cpu / count,
        "to_zarr_ms": 1e3 * stored / count,
        "to_zarr_cpu_ms": 1e3 * stored_cpu / count,
        "of_which_writing_ms": 1e3
        * report.stages["write"]["seconds"]
        / count
        / report.scheduler["threads"],
    }


def throughput(client: Any, megabytes: int, folder: Path) -> dict[str, float]:
    """Measure how fast the store takes and gives spectra.

    Parameters
    ----------
    client : distributed.Client
    megabytes : int
    folder : Path

    Returns
    -------
    dict
        MB/s before compression, and the stored bytes for each.
    """
    import dask.array as da
    import xarray as xr

    import lunarray as la
    from lunarray.store import describe, to_zarr

    side = max(1, round(math.sqrt(megabytes / (150 * 128**2 * 4 / 1e6)))) * 128
    tile = cube(128, 128).reflectance.values
    data = da.zeros((150, side, side), chunks=(-1, 128, 128), dtype=np.float32).map_blocks(
        _textured, tile, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)
    )
    ds = xr.Dataset({"reflectance": (("wavelength", "y", "x"), data)})
    path = folder / "throughput.zarr"
    begin = time.perf_counter()
    to_zarr(ds, path, progress=False)
    wrote = time.perf_counter() - begin
    nbytes = ds.reflectance.nbytes
    stored = describe(path).nbytes_stored
    begin = time.perf_counter()
    float(la.open_zarr(path).reflectance.data.max().compute())
    read = time.perf_counter() - begin
    shutil.rmtree(path)
    return {
        "megabytes": nbytes / 1e6,
        "write_mb_s": nbytes / 1e6 / wrote,
        "read_mb_s": nbytes / 1e6 / read,
        "compression": stored / nbytes,
    }


def _textured(block: np.ndarray, tile: np.ndarray, block_info: Any = None) -> np.ndarray:
    # No two blocks alike: compression would find them.
    place = sum(block_info[0]["chunk-location"][1:]) if block_info else 0
    return tile * np.float32(1 + 1e-3 * place)


def inversion(client: Any, side: int, folder: Path) -> dict[str, float]:
    """Measure the oxide inversion from store to store.

    Parameters
    ----------
    client : distributed.Client
    side : int
        Of the map, in pixels.
    folder : Path

    Returns
    -------
    dict
    """
    import dask

    import lunarray as la
    from lunarray.engine import last_report
    from lunarray.store import to_zarr

    source = folder / f"cube-{side}.zarr"
    if not source.exists():
        with dask.config.set(scheduler="threads"):  # the client has the cube in its memory
            to_zarr(cube(side, side, chunk=128), source, progress=False)
    path = folder / "maps.zarr"
    maps = la.open_zarr(source).chunk(y=128, x=128).lunar.invert_oxides(device="cpu")
    warm = maps.isel(y=slice(0, 128), x=slice(0, 128 * len(client.ncores())))
    warm.compute()  # models loaded, kernels compiled
    to_zarr(maps, path, progress=False)
    shutil.rmtree(path)
    report = last_report()
    assert report is not None
    return {
        "pixels": float(report.pixels),
        "pixels_s": report.pixels_per_s,
        "busy": report.busy or 0.0,
        "model_share": report.stages["model"]["seconds"]
        / (report.scheduler["threads"] * report.seconds),
        "peak_mib": report.memory["peak"] / 2**20,
    }


GRAPH = """
import sys, time
import numpy as np, dask.array as da, xarray as xr
import lunarray as la
from lunarray.engine import accounts
from lunarray.store import manifest, regions
side = int(sys.argv[1])
la.oxides.invert_oxides, la.oxides.oxide_model()  # what importing takes is not the graph's
base = accounts.memory()[0]
begin = time.perf_counter()
data = da.zeros((150, 128 * side, 128 * side), chunks=(150, 128, 128), dtype="f4")
ds = xr.Dataset({"reflectance": (("wavelength", "y", "x"), data)}, coords={"wavelength": la.sp.WAVELENGTHS_150})
maps = ds.lunar.invert_oxides() if sys.argv[2] == "invert" else ds[["reflectance"]]
lazy = time.perf_counter() - begin
begin = time.perf_counter()
groups = regions.plan(maps)
manifest.contents(maps)
writes = regions.writes(maps, groups, "/nowhere.zarr")
planned = time.perf_counter() - begin
print(lazy, planned, len(writes.work.graph), len(writes.places), (accounts.memory()[1] - base) / 2**20)
"""


def graph(chunks: int) -> dict[str, dict[str, float]]:
    """Measure the building of a graph, in a process of its own.

    Parameters
    ----------
    chunks : int

    Returns
    -------
    dict
        For a plain write and for the inversion: seconds, tasks, regions, MiB.
    """
    found = {}
    for verb in ("write", "invert"):
        done = subprocess.run(
            [sys.executable, "-c", GRAPH, str(math.isqrt(chunks)), verb],
            capture_output=True,
            text=True,
            check=True,
        )
        lazy, planned, tasks, count, mib = map(float, done.stdout.split())
        found[verb] = {
            "chunks": math.isqrt(chunks) ** 2,
            "lazy_s": lazy,
            "plan_s": planned,
            "tasks": tasks,
            "regions": count,
            "mib": mib,
        }
    return found


def larger_than_memory(limit_mib: int, times: float, folder: Path) -> dict[str, Any]:
    """Invert a cube that is larger than the memory that its worker may use.

    Parameters
    ----------
    limit_mib : int
    times : float
        How many times as large.
    folder : Path

    Returns
    -------
    dict
    """
    import dask.array as da
    import xarray as xr

    import lunarray as la
    from lunarray.engine import last_report
    from lunarray.store import to_zarr

    side = math.ceil(math.sqrt(times * limit_mib * 2**20 / 600) / 128) * 128
    tile = cube(128, 128).reflectance.values
    data = da.zeros((150, side, side), chunks=(-1, 128, 128), dtype=np.float32).map_blocks(
        _textured, tile, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)
    )
    ds = xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), data)},
        coords={"wavelength": la.sp.WAVELENGTHS_150},
    )
    with la.cluster("local", workers=1, memory_limit=f"{limit_mib}MiB"):
        source = to_zarr(ds, folder / "large.zarr", progress=False)
        to_zarr(source.lunar.invert_oxides(), folder / "large-maps.zarr", progress=False)
    report = last_report()
    assert report is not None
    (worker,) = [p for p in report.memory["processes"].values() if p["regions"]]
    return {
        "limit_mib": limit_mib,
        "cube_mib": ds.nbytes / 2**20,
        "regions": report.regions,
        "lost_workers": report.lost_workers,
        "peak_mib": worker["peak"] / 2**20,
        "after_first_region_mib": worker["first"] / 2**20,
        "after_last_region_mib": worker["last"] / 2**20,
        "pixels_s": report.pixels_per_s,
    }


def paper(
    measured: Mapping[str, Any],
    workers: Sequence[int],
    gpu_rate: float = GPU_RATE,
    shared_rate: float = SHARED_RATE,
    class_rate: float = CLASS_RATE,
) -> list[dict[str, Any]]:
    """Price the jobs from what was measured.

    Parameters
    ----------
    measured : mapping
        ``task_seconds``, ``read_rate`` and ``write_rate`` (stored bytes/s of a worker), ``compression``.
    workers : sequence of int
    gpu_rate, shared_rate, class_rate : float

    Returns
    -------
    list of dict
    """
    rows = []
    source = f"{gpu_rate:.3g} pixels/s a GPU: 14.08 MFLOP a pixel at a third of an H100's 67 TFLOP/s, not measured"
    if gpu_rate != GPU_RATE:
        source = f"{gpu_rate:.3g} pixels/s a GPU, given by --gpu-rate"
    names = ("task_seconds", "read_rate", "write_rate")
    common = {name: measured[name] for name in names} | {"shared_rate": shared_rate}
    for job in jobs(measured["compression"], gpu_rate, source, class_rate):
        chunks = job.items / job.chunk_items
        rows.append(
            {
                "job": job.name,
                "source": job.source,
                "arithmetic": [
                    f"compute on N workers: {job.items:.3g} items / ({job.rate:.3g}/s x N) = "
                    f"{job.items / job.rate / 3600:.4g} h / N",
                    f"store on N workers: {job.items:.3g} x "
                    f"({job.read_bytes:.4g} B / {common['read_rate'] / 1e6:.0f} MB/s + "
                    f"{job.write_bytes:.4g} B / {common['write_rate'] / 1e6:.0f} MB/s) / N, and no less than "
                    f"{job.items * (job.read_bytes + job.write_bytes) / 1e12:.3g} TB / {shared_rate / 1e9:g} GB/s",
                    f"scheduler: {chunks:.3g} blocks x {job.tasks:g} tasks x {1e3 * common['task_seconds']:.3g} ms = "
                    f"{chunks * job.tasks * common['task_seconds'] / 3600:.3g} h",
                ],
                "hours": {n: cost(job, n, **common).hours for n in workers},
                "bound": {n: cost(job, n, **common).bound for n in workers},
                "stops_scaling_at": saturation(job, **common),
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print tables and the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--quick", action="store_true", help="small problems: does it all run?")
    for name, kind, default, text in (
        ("--gpu-rate", float, GPU_RATE, "pixels/s of the oxide model on one GPU"),
        ("--class-rate", float, CLASS_RATE, "CLASS frames a second of one core"),
        ("--shared-rate", float, SHARED_RATE, "bytes/s of the file system for all workers"),
    ):
        parser.add_argument(
            name, type=kind, default=default, help=f"{text} (default {default:.3g})"
        )
    parser.add_argument(
        "--memory", action="store_true", help="also invert a cube of four times the memory limit"
    )
    given = parser.parse_args(arguments)
    import lunarray as la

    chunks, megabytes, side, large = (64, 20, 128, 1024) if given.quick else (2500, 600, 512, 100_000)  # fmt: skip
    report: dict[str, Any] = {
        "topic": "scale",
        "machine": _harness.machine(_harness.Options()),
        "seed": SEED,
        "workers": {},
    }
    busy = _harness._busy_seconds()
    begin, own = time.perf_counter(), _children_seconds()
    with tempfile.TemporaryDirectory(prefix="lunarray-scale-") as name:
        folder = Path(name)
        for count in given.workers:
            with la.cluster("local", workers=count) as client:
                report["workers"][count] = {
                    "overhead": overhead(client, chunks, folder),
                    "store": throughput(client, megabytes, folder),
                    "oxides": inversion(client, side, folder),
                }
            print(f"{count} workers: {_line(report['workers'][count])}", flush=True)
        report["graph"] = graph(large)
        for verb, found in report["graph"].items():
            print(f"graph of {verb}: {_line({'': found})}", flush=True)
        if given.memory:
            report["memory"] = larger_than_memory(400, 4, folder)
            print(f"larger than memory: {report['memory']}", flush=True)
    passed = time.perf_counter() - begin
    others = (_harness._busy_seconds() - busy - (_children_seconds() - own)) / passed
    report["cores_of_others"] = round(max(0.0, others), 2)
    one = report["workers"][min(given.workers)]
    measured = {
        # The scheduler is one thread, so its CPU time is what a task costs however many workers there are.
        "task_seconds": one["overhead"]["empty_map_blocks_cpu_ms"] / 1e3,
        "read_rate": 1e6 * one["store"]["read_mb_s"] * one["store"]["compression"],
        "write_rate": 1e6 * one["store"]["write_mb_s"] * one["store"]["compression"],
        "compression": one["store"]["compression"],
    }  # fmt: skip
    report["measured"] = measured
    report["paper"] = paper(
        measured, (1, 4, 16, 64, 256), given.gpu_rate, given.shared_rate, given.class_rate
    )
    for row in report["paper"]:
        print(f"\n{row['job']}\n  rate: {row['source']}")
        print("\n".join(f"  {line}" for line in row["arithmetic"]))
        hours = ", ".join(f"{n}: {h:.3g} h ({row['bound'][n]})" for n, h in row["hours"].items())
        print(f"  N workers: {hours}; no faster beyond {row['stops_scaling_at']}")
    _harness.emit(report)
    return 0


def _line(found: Mapping[str, Mapping[str, float]]) -> str:
    return "; ".join(
        f"{topic} " + ", ".join(f"{k} {v:.4g}" for k, v in values.items())
        for topic, values in found.items()
    )


def _children_seconds() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


if __name__ == "__main__":
    sys.exit(main())
