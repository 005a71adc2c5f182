"""Scale: graphs of many chunks, the arithmetic on paper, the benchmark's command, the examples for clusters."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from fresh import forked_workers, stop

import lunarray
from lunarray.engine import accounts
from lunarray.store import manifest, regions, to_zarr

ROOT = Path(__file__).parents[1]


@pytest.fixture
def scale(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.syspath_prepend(str(ROOT))
    import benchmarks.scale as module

    return module


def lazy_cube(blocks: int, size: int = 128) -> xr.Dataset:
    side = round(blocks**0.5) * size
    data = da.zeros((4, side, side), chunks=(4, size, size), dtype=np.float32)
    return xr.Dataset({"spectra": (("wavelength", "y", "x"), data)})


@contextmanager
def counting_calls():
    """The calls of functions: work that is the same on a busy machine as on a quiet one."""
    counts, before = Counter(), sys.getprofile()
    sys.setprofile(lambda frame, event, arg: counts.update((event,)))
    try:
        yield counts
    finally:
        sys.setprofile(before)


def test_graph_of_many_chunks_is_built_in_seconds_and_nothing_is_computed(no_compute):
    """A quarter of 10⁵ chunks, so that the test is quick; `benchmarks.scale` states the figures of the whole."""
    ds = lazy_cube(25_000)
    before = accounts.memory()[0]
    with counting_calls() as counts:
        groups = regions.plan(ds)
        contents = manifest.contents(ds)
        writes = regions.writes(ds, groups, "nowhere.zarr")
    assert len(ds.spectra.data.dask) >= 24_964
    assert counts["call"] < 200 * 25_000  # 78 a chunk, in less than a second
    assert accounts.memory()[0] - before < 600 * 2**20
    # Objects stay few whatever the number of chunks, so do the regions that are kept count of.
    assert len(writes.places) <= 10_000
    assert len(json.dumps(contents)) < 2000


def test_manifest_does_not_grow_with_the_chunks(tmp_path):
    small, large = (manifest.contents(lazy_cube(n)) for n in (16, 10_000))
    assert len(json.dumps(small)) == len(json.dumps(large))
    assert small["input"] != large["input"]


def test_window_bounds_what_a_scheduler_gets_at_once(tmp_path, client, monkeypatch):
    from lunarray.engine import execution

    monkeypatch.setattr(execution, "MAX_TASKS", 40)
    monkeypatch.setattr(
        regions, "choose_layout", lambda dims, shape, size, blocks: regions.Layout(blocks, None)
    )
    ds = lazy_cube(144, size=4) + 1
    sizes = []
    with client(processes=False) as own:
        plain = own.get

        def get(graph, keys, **kwargs):
            sizes.append(len(graph))
            return plain(graph, keys, **kwargs)

        monkeypatch.setattr(own, "get", get)
        out = to_zarr(ds, tmp_path / "a.zarr")
    assert len(sizes) > 3
    assert max(sizes) <= 40 + 4
    assert (out.spectra == 1).all()


def test_cost_is_the_longest_of_what_overlaps(scale):
    job = scale.Job("j", 3.6e9, 100, 10, 1e6, "", 1e5, 2)
    options = {"task_seconds": 1e-3, "read_rate": 1e8, "write_rate": 1e8, "shared_rate": 1e9}
    one = scale.cost(job, 1, **options)
    assert one.compute == pytest.approx(1.0)
    assert one.store == pytest.approx(1.1)  # 396 GB at 100 MB/s
    assert one.scheduler == pytest.approx(0.02)
    assert (one.hours, one.bound) == (one.store, "store")
    assert scale.cost(job, 10, **options).store == pytest.approx(0.11)
    assert scale.cost(job, 1000, **options).store == pytest.approx(
        0.11
    )  # the file system's own limit
    # 0.11 h is as short as it gets, and ten workers reach it.
    assert scale.saturation(job, **options) == 10
    faster = options | {"shared_rate": 1e12}
    assert scale.saturation(job, **faster) == 55  # then the scheduler's 0.02 h
    for n in (54, 55, 56):
        at = scale.cost(job, n, **faster)
        assert at.hours >= 0.02
        assert (at.hours == pytest.approx(0.02)) == (n >= 55)


def test_paper_names_the_three_jobs_with_their_arithmetic(scale):
    measured = {"task_seconds": 2e-4, "read_rate": 2e8, "write_rate": 1e8, "compression": 0.7}
    rows = scale.paper(measured, (1, 8))
    assert [row["job"].split()[0] for row in rows] == ["global", "full", "NAC"]
    mosaic = rows[0]
    assert mosaic["hours"][1] == pytest.approx(6e8 * (150 * 4 * 0.7 / 2e8 + 33 / 1e8) / 3600)
    assert "not measured" in mosaic["source"]
    for row in rows:
        assert len(row["arithmetic"]) == 3
        assert row["hours"][8] <= row["hours"][1]
        assert row["stops_scaling_at"] >= 1


def test_command_measures_and_reports(scale, capsys, monkeypatch, request):
    monkeypatch.chdir(ROOT)
    request.addfinalizer(stop)
    with forked_workers():
        assert scale.main(["--quick", "--workers", "1"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    one = report["workers"]["1"]
    assert one["overhead"]["to_zarr_ms"] > one["overhead"]["of_which_writing_ms"] > 0
    assert one["overhead"]["empty_map_blocks_ms"] > 0
    assert one["store"]["write_mb_s"] > 1
    assert 0.05 < one["store"]["compression"] < 1.05
    assert one["oxides"]["pixels"] == 128 * 128
    for found in report["graph"].values():
        assert found["tasks"] == found["regions"] > 10  # a region is one task, whatever it computes
    assert report["graph"]["invert"]["mib"] > 0
    assert len(report["paper"]) == 3


EXAMPLES = ("laptop", "gpus", "slurm")


def test_examples_differ_in_one_line():
    bodies = [(ROOT / f"examples/cluster_{name}.py").read_text().splitlines() for name in EXAMPLES]
    for other in bodies[1:]:
        assert len(other) == len(bodies[0])
        changed = [a for a, b in zip(bodies[0], other, strict=True) if a != b]
        assert len(changed) == 1
        assert changed[0].startswith("WHERE = ")
    # What the line says are arguments that there are.
    import inspect

    known = inspect.signature(lunarray.cluster).parameters
    for body in bodies:
        (line,) = [line for line in body if line.startswith("WHERE = ")]
        options = ast.literal_eval(line.removeprefix("WHERE = "))
        assert set(options) - {"queue"} <= set(known)


def test_example_runs(tmp_path):
    wavelengths = lunarray.sp.WAVELENGTHS_150
    rng = np.random.default_rng(1)
    data = (0.1 + 0.01 * rng.random((150, 24, 24))).astype(np.float32)
    ds = xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), data)}, coords={"wavelength": wavelengths}
    )
    to_zarr(ds, tmp_path / "cube.zarr")
    command = [sys.executable, str(ROOT / "examples/cluster_laptop.py"), "cube.zarr", "maps.zarr"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    one_core = partial(os.sched_setaffinity, 0, [min(os.sched_getaffinity(0))])  # and one worker
    subprocess.run(
        command,
        cwd=tmp_path,
        env=env,
        check=True,
        timeout=240,
        capture_output=True,
        preexec_fn=one_core,
    )
    maps = lunarray.open_zarr(tmp_path / "maps.zarr")
    expected = ds.lunar.invert_oxides()
    np.testing.assert_array_equal(maps.FeO, expected.FeO)
    page = (tmp_path / "maps.zarr.report.html").read_text()
    assert "0 failed" in page
    assert "distributed" in page


def test_asv_suites_of_store_and_engine_have_time_and_memory(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    for name in ("bench_store", "bench_engine", "bench_verbs"):
        spec = importlib.util.find_spec(f"benchmarks.{name}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        classes = [v for v in vars(module).values() if isinstance(v, type)]
        suites = [v for v in classes if v.__module__ == module.__name__]
        methods = {m for suite in suites for m in vars(suite)}
        assert any(m.startswith("time_") for m in methods)
        assert any(m.startswith("peakmem_") for m in methods)
        assert all(getattr(suite, "timeout", 0) > 0 for suite in suites)
