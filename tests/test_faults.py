"""Faults: killed workers and clients, corrupt chunks, full disks, deleted and locked stores, memory that runs out."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import WorkerPlugin
from fresh import FRESH, forked_workers, stop

import lunarray
from lunarray import engine, errors
from lunarray.engine import last_report
from lunarray.store import describe, locks, regions, to_zarr
from lunarray.store.layout import choose_layout
from lunarray.store.state import set_state

META = np.empty((0, 0, 0), np.float32)


def small_objects(chunk_bytes: int = 4 * 16 * 16 * 4) -> None:
    """Cut stores into many small regions, as large data are cut into large ones."""
    regions.choose_layout = partial(choose_layout, chunk_bytes=chunk_bytes)


@pytest.fixture(autouse=True)
def _many_regions(monkeypatch):
    monkeypatch.setattr(regions, "choose_layout", regions.choose_layout)
    small_objects()


@pytest.fixture(autouse=True, scope="module")
def _cheap_processes():
    with forked_workers():
        yield
    stop()


def values() -> np.ndarray:
    return np.random.default_rng(20261121).random((4, 96, 96), dtype=np.float32)


def cube(array=None) -> xr.Dataset:
    """36 regions."""
    array = da.from_array(values(), chunks=(-1, 16, 16)) if array is None else array
    return xr.Dataset(
        {
            "spectra": (("wavelength", "y", "x"), array),
            "sum": (("y", "x"), array.sum(axis=0)),
        },
        coords={"wavelength": np.arange(4.0)},
    )


def fails_at(where: tuple[int, int], error: type[Exception] = RuntimeError, times: int = 10**9):
    """A kernel that fails at one block, for the first `times` times."""
    left = [times]

    def kernel(block, block_info=None):
        if tuple(block_info[0]["chunk-location"][1:]) == where and left[0] > 0:
            left[0] -= 1
            raise error("cosmic ray")
        return block

    return kernel


def broken(kernel) -> xr.Dataset:
    array = da.from_array(values(), chunks=(-1, 16, 16))
    return cube(array.map_blocks(kernel, dtype=np.float32, meta=META))


def files(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def chunks(path: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(path).items() if not name.endswith("zarr.json")}


# ------------------------------------------------------------------ chunks that fail


def test_a_block_that_fails_takes_only_its_region_along(tmp_path):
    path = tmp_path / "a.zarr"
    with pytest.warns(errors.LunarrayWarning, match=r"1 of 36 regions failed.*cosmic ray"):
        opened = to_zarr(broken(fails_at((2, 3))), path, token="t", errors="nan", retries=1)
    expected = values()
    expected[:, 32:48, 48:64] = np.nan
    np.testing.assert_array_equal(opened.spectra, expected)
    np.testing.assert_array_equal(np.isnan(opened["sum"]), np.isnan(expected[0]))
    assert opened.attrs["missing_regions"] == 1
    report = last_report()
    assert report.status == "complete with gaps"
    assert report.regions == {"total": 36, "there_before": 0, "written": 35, "failed": 1}
    assert report.retries == 1
    (row,) = report.failures
    assert row["index"] == [2, 3]
    assert row["extent"] == {"y": (32, 48), "x": (48, 64)}
    assert row["variables"] == ["spectra", "sum"]
    assert (row["error"], row["message"], row["attempts"]) == ("RuntimeError", "cosmic ray", 2)
    assert describe(path).failed == ({"group": 0, "index": [2, 3], "error": "RuntimeError"},)

    # The same call tries again; once nothing fails, the store is that of an undisturbed run, to the byte.
    opened = to_zarr(cube(), path, token="t")
    assert last_report().regions["written"] == 1
    assert "missing_regions" not in opened.attrs
    to_zarr(cube(), tmp_path / "b.zarr", token="t")
    assert files(path) == files(tmp_path / "b.zarr")


@pytest.mark.parametrize("scheduler", ["threads", "distributed"])
def test_only_the_block_is_missing_where_a_region_has_several(tmp_path, client, scheduler):
    small_objects(4 * 48 * 48 * 4)  # sixteen blocks in a region
    path = tmp_path / "a.zarr"
    context = client(processes=False) if scheduler == "distributed" else contextlib.nullcontext()
    with dask.config.set(scheduler=scheduler), context:
        with pytest.warns(errors.LunarrayWarning, match=r"1 of 4 regions failed .* in part"):
            opened = to_zarr(broken(fails_at((2, 3))), path, token="t", errors="nan", retries=0)
        expected = values()
        expected[:, 32:48, 48:64] = np.nan
        np.testing.assert_array_equal(opened.spectra, expected)
        np.testing.assert_array_equal(np.isnan(opened["sum"]), np.isnan(expected[0]))
        report = last_report()
        assert report.regions == {"total": 4, "there_before": 0, "written": 4, "failed": 1}
        (row,) = report.failures
        assert row["index"] == [0, 0]
        assert row["extent"] == {"y": (32, 48), "x": (48, 64)}
        # The region's objects are there, and yet the next call makes them anew.
        to_zarr(cube(), path, token="t")
        assert last_report().regions == {"total": 4, "there_before": 3, "written": 1, "failed": 0}
    assert describe(path).failed == ()
    to_zarr(cube(), tmp_path / "b.zarr", token="t")
    assert files(path) == files(tmp_path / "b.zarr")


def test_a_block_that_fails_once_is_tried_again(tmp_path):
    to_zarr(broken(fails_at((1, 1), OSError, times=2)), tmp_path / "a.zarr", token="t")
    report = last_report()
    assert report.retries == 2
    assert report.status == "complete"
    assert [e["event"] for e in report.events] == ["retry", "retry"]
    with pytest.raises(RuntimeError, match="cosmic ray"):
        to_zarr(broken(fails_at((1, 1), times=1)), tmp_path / "b.zarr", token="t", retries=0)


def test_wrong_input_is_not_tried_again(tmp_path):
    ds = broken(fails_at((0, 0), errors.InputError))
    with pytest.raises(errors.InputError, match="cosmic ray"):
        to_zarr(ds, tmp_path / "a.zarr", token="t")
    assert last_report().retries == 0
    assert last_report().status == "stopped"


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "distributed"])
def test_corrupt_input_chunk(tmp_path, client, scheduler):
    source = tmp_path / "input.zarr"
    to_zarr(cube(), source)
    chunk = source / "spectra/c/0/4/5"
    intact = chunk.read_bytes()
    chunk.write_bytes(intact[:-100] + bytes(100))
    lazy = lunarray.open_zarr(source)[["spectra"]] * 2
    cluster = client(processes=False) if scheduler == "distributed" else contextlib.nullcontext()
    with dask.config.set(scheduler=scheduler), cluster:
        stopped = tmp_path / "stopped.zarr"
        with pytest.raises(Exception, match=r"(?i)decompress|blosc|checksum|corrupt"):
            to_zarr(lazy, stopped, retries=0)
        with pytest.raises(errors.StoreIncompleteError):
            lunarray.open_zarr(stopped)
        with pytest.warns(errors.LunarrayWarning, match="1 of 36 regions failed"):
            out = to_zarr(lazy, tmp_path / "gap.zarr", errors="nan", retries=1)
        missing = np.isnan(out.spectra.compute().values)
        assert missing[:, 64:80, 80:96].all()
        assert missing.sum() == 4 * 16 * 16
        (row,) = last_report().failures
        assert row["index"] == [4, 5]
        assert row["attempts"] == 2
        chunk.write_bytes(intact)
        again = to_zarr(lazy, tmp_path / "gap.zarr")
        np.testing.assert_array_equal(again.spectra, values() * 2)


@pytest.mark.parametrize("errors_", ["sometimes", "nan "])
def test_unknown_policies_are_refused_before_anything_is_written(tmp_path, errors_):
    for wrong in ({"errors": errors_}, {"retries": -1}, {"report": tmp_path / "report.pdf"}):
        with pytest.raises(errors.InputError):
            to_zarr(cube(), tmp_path / "a.zarr", **wrong)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ memory


class OutOfMemoryError(RuntimeError):
    """As torch.OutOfMemoryError is named; that one is not to be had without torch (seconds)."""


@pytest.mark.parametrize("error", [OutOfMemoryError, MemoryError])
def test_batches_shrink_where_memory_runs_out(tmp_path, error):
    sizes = []

    def kernel(pixels):
        sizes.append(len(pixels))
        if len(pixels) > 40:
            raise error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return pixels[:, :1] * 2

    array = da.from_array(values(), chunks=(-1, 16, 16))
    out = engine.map_pixels(kernel, array, outputs=1, batch_size=256)
    ds = xr.Dataset({"twice": (("y", "x"), out[0])})
    with dask.config.set(scheduler="synchronous"):
        stored = to_zarr(ds, tmp_path / "a.zarr", token="t")
    np.testing.assert_array_equal(stored.twice, values()[0] * 2)
    assert sizes[:4] == [256, 128, 64, 32]
    report = last_report()
    assert {e["batch_size"] for e in report.events} == {128, 64, 32}
    assert report.retries == 0


def test_a_batch_that_cannot_shrink_fails():
    calls = []

    def call(begin, end):
        calls.append(end - begin)
        raise MemoryError("no")

    with pytest.raises(MemoryError):
        engine.in_batches(call, 100, 64, least=16)
    assert calls == [64, 32, 16]

    def other(begin, end):
        calls.append(-1)
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        engine.in_batches(other, 100, 64)
    assert calls.count(-1) == 1


def filled(block: np.ndarray) -> np.ndarray:
    return np.full(block.shape, 0.5, np.float32)


def scaled(block: np.ndarray) -> np.ndarray:
    return (block.mean(axis=0) * 2).astype(np.float32)


def test_cube_of_four_times_the_memory_limit(tmp_path):
    limit = 300 * 2**20
    side, block = 1536, 128  # 150 bands x 1536² float32: 1.4 GB
    array = da.zeros((150, side, side), chunks=(-1, block, block), dtype=np.float32)
    assert array.nbytes > 4 * limit
    # Zeros of Dask take no memory: these do.
    array = array.map_blocks(filled, dtype=np.float32, meta=META)
    maps = array.map_blocks(scaled, drop_axis=0, dtype=np.float32)
    small_objects(4 * block**2)
    ds = xr.Dataset({"brightness": (("y", "x"), maps)})
    with lunarray.cluster("local", workers=1, memory_limit=limit):
        to_zarr(ds, tmp_path / "a.zarr")
        report = last_report()
    assert report.regions["written"] == 144
    assert report.lost_workers == 0
    (worker,) = [p for p in report.memory["processes"].values() if p["regions"]]
    assert worker["peak"] < limit
    # Flat: the last region leaves no more behind than the first, within a few blocks.
    assert worker["largest"] - worker["first"] < 6 * 150 * block**2 * 4


# ------------------------------------------------------------------ killed


def slow(block: np.ndarray) -> np.ndarray:
    # Not an argument: with another pause it is the same work, and goes on where that one stopped.
    time.sleep(float(os.environ.get("LUNARRAY_TEST_PAUSE", 0)))
    return np.sqrt(block)


def slow_cube() -> xr.Dataset:
    array = da.from_array(values(), chunks=(-1, 16, 16))
    return cube(array.map_blocks(slow, dtype=np.float32, meta=META))


class InGroup(WorkerPlugin):
    """Puts workers into the client's group of processes, as where they are its children."""

    def __init__(self, group: int) -> None:
        self.group = group

    def setup(self, worker) -> None:
        os.setpgid(0, self.group)


def slow_job(path: Path, pids: Path, pause: float) -> None:
    """Write the cube on two workers, whose process numbers go to a file."""
    os.setpgid(0, 0)
    small_objects()
    env = {"LUNARRAY_TEST_PAUSE": str(pause)}
    with forked_workers(), lunarray.cluster("local", workers=2, env=env) as client:
        client.register_plugin(InGroup(os.getpid()))
        partial_ = pids.with_suffix(".partial")
        partial_.write_text(" ".join(map(str, client.run(os.getpid).values())))
        partial_.rename(pids)
        to_zarr(slow_cube(), path, progress=False)


def start_job(tmp_path: Path, store: Path, pause: float) -> tuple[Any, Path]:
    pids = tmp_path / f"pids-{time.monotonic_ns()}"
    process = FRESH.Process(target=slow_job, args=(store, pids, pause))
    process.start()
    return process, pids


def wait_for(condition, process: Any = None, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.is_alive(), "the job ended"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def no_chunk_is_torn(store: Path) -> None:
    """Every region that counts as done reads, and holds what it should."""
    if not store.exists():
        return
    ds = lunarray.open_zarr(store, incomplete=True)
    expected = np.sqrt(values())
    (group,) = regions.plan(slow_cube())
    for y, x in regions.done_regions(store, group.axes, group.dims):
        where = {"y": slice(16 * y, 16 * y + 16), "x": slice(16 * x, 16 * x + 16)}
        np.testing.assert_array_equal(ds.spectra.isel(where), expected[:, where["y"], where["x"]])


#: Ten times in `LUNARRAY_KILLS=10 pytest tests/test_faults.py -k sigkill`.
KILLS = {"few": 1, "each": 1, "all": 10}.get(os.environ.get("LUNARRAY_KILLS", "few")) or int(
    os.environ["LUNARRAY_KILLS"]
)


def kill_and_resume(tmp_path: Path, seed: int) -> dict[str, int]:
    """Kill a worker, then the client, at random moments; then let the job run to its end."""
    rng = np.random.default_rng(seed)
    store = tmp_path / f"killed-{seed}.zarr"
    process, pids = start_job(tmp_path, store, 0.6)
    counted = {}
    try:
        wait_for(pids.exists, process)
        workers = [int(pid) for pid in pids.read_text().split()]
        wait_for(store.exists, process)
        if rng.random() < 0.8:
            wait_for(lambda: any((store / "sum").glob("c/*/*")), process)
        time.sleep(rng.uniform(0, 1.5))
        with contextlib.suppress(ProcessLookupError):
            os.kill(workers[rng.integers(2)], signal.SIGKILL)
        time.sleep(rng.uniform(0, 1.5))
    finally:
        # The client, and its workers and nannies with it, as a machine that loses power.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    counted["done"] = describe(store).regions_done
    counted["complete"] = describe(store).complete
    no_chunk_is_torn(store)
    if not counted["complete"]:
        with pytest.raises(errors.StoreIncompleteError):
            lunarray.open_zarr(store)
    if KILLS > 1:
        process, _ = start_job(tmp_path, store, 0)
        process.join(120)
        assert process.exitcode == 0
    else:  # quicker; the rerun on workers is for the script
        to_zarr(slow_cube(), store)
    return counted


@pytest.mark.parametrize("seed", range(KILLS))
def test_sigkill_of_worker_and_client(tmp_path, seed):
    counted = kill_and_resume(tmp_path, seed)
    print(f"seed {seed}: {counted}")
    store = tmp_path / f"killed-{seed}.zarr"
    to_zarr(slow_cube(), tmp_path / "whole.zarr")
    assert files(store) == files(tmp_path / "whole.zarr")
    assert not list(tmp_path.glob(".*"))  # no locks, no beginnings


def suicidal(block: np.ndarray, block_info=None) -> np.ndarray:
    if tuple(block_info[0]["chunk-location"][1:]) == (3, 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return block


def test_a_block_that_kills_its_workers_is_recorded(tmp_path):
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        lunarray.cluster("local", workers=2, errors="nan"),
        pytest.warns(errors.LunarrayWarning, match="KilledWorker"),
    ):
        out = to_zarr(broken(suicidal), tmp_path / "a.zarr", token="t")
    report = last_report()
    assert report.lost_workers == 1
    assert {row["error"] for row in report.failures} == {"KilledWorker"}
    failed = {tuple(row["index"]) for row in report.failures}
    # Dask blames what else the worker had in hand too; the next call mends that.
    assert (3, 3) in failed
    assert len(failed) < 6
    expected, found = values(), out.spectra.values
    for y in range(6):
        for x in range(6):
            block = (slice(None), slice(16 * y, 16 * y + 16), slice(16 * x, 16 * x + 16))
            # A bystander may have been written just before its worker died: whole, or not at all.
            missing = (y, x) == (3, 3) or ((y, x) in failed and np.isnan(found[block]).all())
            wanted = np.full_like(expected[block], np.nan) if missing else expected[block]
            np.testing.assert_array_equal(found[block], wanted)
    to_zarr(cube(), tmp_path / "a.zarr", token="t")
    assert last_report().regions["written"] == len(failed)


def test_schedulers_are_bit_equal(tmp_path):
    ds = slow_cube()
    with dask.config.set(scheduler="threads"):
        to_zarr(ds, tmp_path / "threads.zarr")
    with lunarray.cluster("local", workers=1):
        to_zarr(ds, tmp_path / "distributed.zarr")
    assert last_report().scheduler["kind"] == "distributed"
    fresh = {"multiprocessing.context": "forkserver"}
    with dask.config.set(fresh, scheduler="processes", num_workers=1):
        to_zarr(ds, tmp_path / "processes.zarr")
    assert last_report().scheduler["kind"] == "processes"
    expected = files(tmp_path / "threads.zarr")
    assert len(expected) > 72
    assert files(tmp_path / "distributed.zarr") == expected
    assert files(tmp_path / "processes.zarr") == expected


# ------------------------------------------------------------------ disks


def write(pipe: Any, store: Path, setup: Callable[[], object]) -> None:
    os.environ["LUNARRAY_TEST_PAUSE"] = "0.005"
    small_objects()
    setup()
    try:
        to_zarr(slow_cube(), store)
        pipe.send("")
    except errors.LunarrayError as error:
        pipe.send(f"{type(error).__name__} {error}")


def start_write(store: Path, setup: Callable[[], object] = bool) -> Any:
    """Write in a process; gives where to receive its error, or nothing."""
    ours, theirs = FRESH.Pipe(duplex=False)
    FRESH.Process(target=write, args=(theirs, store, setup)).start()
    theirs.close()  # so that nothing is waited for when the process has died
    return ours


@pytest.fixture
def tmpfs(tmp_path):
    """A small disk of its own, where mounting is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk(tmp_path, tmpfs):
    # 36 regions of 5 KB need more than the 256 KB that are there, with a ballast beside them.
    store = tmpfs / "a.zarr"
    ballast = tmpfs / "ballast"
    ballast.write_bytes(bytes(120_000))
    text = start_write(store).recv()
    assert "StoreWriteError" in text
    assert "No space left on device" in text
    assert "goes on where it stopped" in text
    info = describe(store)
    assert not info.complete
    assert 0 < info.regions_done < 36
    no_chunk_is_torn(store)
    before = chunks(store)
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(tmpfs)], check=True)
    to_zarr(slow_cube(), store)
    after = chunks(store)
    assert after.items() >= {n: d for n, d in before.items() if not n.endswith(".partial")}.items()
    to_zarr(slow_cube(), tmp_path / "whole.zarr")
    assert files(store) == files(tmp_path / "whole.zarr")


def small_files_only() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def test_file_size_limit(tmp_path):
    # Another way to be out of space, which needs no right to mount.
    store = tmp_path / "a.zarr"
    text = start_write(store, small_files_only).recv()
    assert "StoreWriteError" in text or "StoreError" in text
    assert "File too large" in text


@pytest.fixture
def shown():
    """A folder that other users can look into, as they cannot into pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def test_read_only_place(shown):
    if os.geteuid() != 0:
        pytest.skip("needs to become another user")
    store = shown / "a.zarr"
    to_zarr(slow_cube(), store)
    (store / "sum/c/5/5").unlink()
    set_state(store, complete=False)
    before = files(store)
    text = start_write(store, become_nobody).recv()
    assert "cannot be written (Permission denied)" in text
    assert files(store) == before


def test_complete_store_needs_no_right_to_write(tmp_path, tmpfs):
    store = tmpfs / "a.zarr"
    subprocess.run(["mount", "-o", "remount,size=8m", str(tmpfs)], check=True)
    to_zarr(cube(), store)
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    xr.testing.assert_equal(to_zarr(cube(), store), lunarray.open_zarr(store))
    with pytest.raises(errors.StoreError, match="Read-only file system"):
        to_zarr(cube(), store, overwrite=True)
    assert lunarray.open_zarr(store).spectra.shape == (4, 96, 96)


@pytest.mark.parametrize("policy", ["raise", "nan"])
def test_store_deleted_under_way(tmp_path, policy):
    path = tmp_path / "a.zarr"
    moved = tmp_path / "moved.zarr"
    seen = []

    def kernel(block):
        seen.append(1)
        if len(seen) == 12:
            path.rename(moved)
        return block

    gone = pytest.raises(errors.StoreWriteError, match="deleted or moved away")
    with dask.config.set(scheduler="synchronous"), gone:
        to_zarr(broken(kernel), path, token="t", errors=policy)
    assert not path.exists()  # nor what was written after the move
    assert not list(tmp_path.glob(".*"))
    assert last_report().status == "stopped"
    info = describe(moved)
    assert not info.complete
    assert 10 <= info.regions_done <= 12
    to_zarr(cube(), moved, token="t")
    assert last_report().regions["written"] == 36 - info.regions_done


# ------------------------------------------------------------------ two writers


def test_second_writer_is_refused_while_the_first_lives(tmp_path):
    path = tmp_path / "a.zarr"
    started, go_on = threading.Event(), threading.Event()

    def kernel(block):
        started.set()
        assert go_on.wait(30)
        return block

    first = threading.Thread(target=to_zarr, args=(broken(kernel), path), kwargs={"token": "t"})
    first.start()
    try:
        assert started.wait(30)
        for overwrite in (False, True):
            who = rf"process {os.getpid()} .* on {socket.gethostname()}"
            with pytest.raises(errors.StoreLockedError, match=who):
                to_zarr(cube(), path, token="t", overwrite=overwrite)
    finally:
        go_on.set()
        first.join()
    np.testing.assert_array_equal(to_zarr(cube(), path, token="t").spectra, values())
    assert not list(tmp_path.glob(".*"))


def test_two_processes_at_once(tmp_path):
    store = tmp_path / "a.zarr"
    texts = [pipe.recv() for pipe in [start_write(store) for _ in range(2)]]
    failed = [text for text in texts if text]
    assert len(failed) < 2  # none, if one was done before the other began
    assert all("StoreLockedError" in text for text in failed)
    np.testing.assert_array_equal(lunarray.open_zarr(store).spectra, np.sqrt(values()))
    assert not list(tmp_path.glob(".*"))


def lock_of(path: Path, **changes) -> Path:
    file = locks.WriteLock(path).file
    file.write_text(json.dumps(locks.card("someone else") | changes))
    return file


def test_lock_of_a_dead_process_is_taken_over_at_once(tmp_path):
    path = tmp_path / "a.zarr"
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    file = lock_of(path, pid=dead.pid)
    to_zarr(cube(), path)
    assert not file.exists()
    # The same number, but another process: it is used again after a while.
    lock_of(path, process_start=1)
    to_zarr(cube(), path, overwrite=True)
    assert not file.exists()


def test_lock_of_another_machine_holds_until_it_is_silent(tmp_path):
    path = tmp_path / "a.zarr"
    file = lock_of(path, machine="another boot", host="node7")
    with pytest.raises(errors.StoreLockedError, match="node7"):
        to_zarr(cube(), path)
    assert not path.exists()
    past = time.time() - locks.STALE - 60
    os.utime(file, (past, past))
    to_zarr(cube(), path)
    assert not list(tmp_path.glob(".*"))


def test_lock_gives_signs_of_life_and_notices_its_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.02)
    path = tmp_path / "a.zarr"
    with locks.WriteLock(path) as lock:
        os.utime(lock.file, (1, 1))
        wait_for(lambda: lock.file.stat().st_mtime > 1)
        lock.check()
        lock_of(path)
        wait_for(lambda: lock._lost)
        with pytest.raises(errors.StoreLockedError, match="taken the store over"):
            lock.check()
    assert lock.file.exists()  # it is another's


# ------------------------------------------------------------------ changed parameters


def test_what_differs_is_explained(tmp_path):
    path = tmp_path / "a.zarr"
    weights = tmp_path / "model.txt"
    source = tmp_path / "input.zarr"
    to_zarr(cube(), source)

    def maps(gain="2", batch=64):
        weights.write_text(gain)
        spec = engine.ModelSpec.from_file(f"{__name__}:load_gain", weights, outputs=1, device="cpu")
        data = lunarray.open_zarr(source).spectra.data
        return xr.Dataset({"m": (("y", "x"), engine.map_pixels(spec, data, batch_size=batch)[0])})

    to_zarr(maps(), path)
    manifest = describe(path).manifest
    assert [m["loader"] for m in manifest["models"]] == [f"{__name__}:load_gain"]
    assert len(manifest["input"]) == 32
    (step,) = [s for s in manifest["parameters"] if s["step"] == "map_block"]
    assert step["values"] == ["0", "1", "64"]

    with pytest.raises(errors.StoreConflictError) as caught:
        to_zarr(maps(batch=32), path)
    assert "step 'map_block' differ (0, 1, 64 there, 0, 1, 32 here)" in str(caught.value)
    assert "input" not in str(caught.value).split("differ")[0].split(":")[-1]
    with pytest.raises(errors.StoreConflictError, match=r"the model differs \(load_gain"):
        to_zarr(maps(gain="3"), path)
    to_zarr(cube() * 3, source, overwrite=True)
    with pytest.raises(errors.StoreConflictError, match="the input differs") as caught:
        to_zarr(maps(), path)
    assert "model differs" not in str(caught.value)
    assert "parameters" not in str(caught.value).split("now:")[1]
    np.testing.assert_allclose(to_zarr(maps(), path, overwrite=True).m, values()[0] * 6, rtol=1e-6)


def load_gain(path, device):
    gain = np.float32(path.read_text())
    return lambda pixels: gain * pixels[:, :1]


@pytest.mark.parametrize("kind", [str, Path])
def test_files_at_urls_are_refused_and_make_no_folder(kind, tmp_path, monkeypatch):
    """What only stores can do: a path that is made of a URL would be a folder ``s3:``."""
    monkeypatch.chdir(tmp_path)
    ds = lunarray.simulate.polar_scene("north", resolution=40000.0, latitude=86.0)
    band = ds["reflectance"][0]
    calls = [
        lambda: band.lunar.to_cog(kind("s3://bucket/x.tif")),
        lambda: lunarray.export.to_vector(band, kind("gs://bucket/x.gpkg"), levels=[0.1]),
        lambda: to_zarr(ds, "a.zarr", report=kind("s3://bucket/r.json")),
        lambda: lunarray.plot.polar_map(band, path=kind("s3://bucket/x.png")),
    ]
    for call in calls:
        with pytest.raises(errors.InputError, match="this is a URL"):
            call()
    assert not any(f.name.endswith(":") for f in tmp_path.iterdir())
