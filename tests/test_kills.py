"""Every writing verb, stopped before and after every change that it makes to the file system.

Whatever the moment, a reader sees what was there, or what was to be there, or an error of lunarray that says why; and
the same call again makes what an undisturbed one makes, to the byte. A few moments of each verb by default; every one,
by exit and by SIGKILL in turn, with ``LUNARRAY_KILLS=each pytest tests/test_kills.py -s``, and by both with ``all``; a
number tries as many.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from fresh import stop
from kills import Stops, template

import lunarray as la
from lunarray import errors
from lunarray.store import append, regions, to_zarr
from lunarray.store.layout import choose_layout

KILLS = os.environ.get("LUNARRAY_KILLS", "few")
pytestmark = pytest.mark.timeout(300 if KILLS == "few" else 0)

#: Moments of each verb that are tried by default.
FEW = 6


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with template(tmp_path_factory.mktemp("notes"), "lunarray.store", "test_kills") as made:
        yield made
    stop()


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """As `processes`, with what banks and their networks need."""
    pytest.importorskip("torch")
    modules = (
        "torch",
        "lunarray.superres.prediction",
        "lunarray.superres.population",
        "test_kills",
    )
    with template(tmp_path_factory.mktemp("notes"), *modules) as made:
        yield made
    stop()


# ------------------------------------------------------------------ what is done


def small() -> None:
    """Many small objects and batches, one thread: the calls come in the same order.

    Zarr's own threads too: two that make one folder at once call one more time than one after the other.
    """
    zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1})
    regions.choose_layout = partial(choose_layout, chunk_bytes=16 * 16 * 4)
    append.CHUNK_BYTES, append._BATCH_CHUNKS = 4 * 8 * 3, 1
    dask.config.set(scheduler="synchronous")


def field(factor: float = 1.0) -> xr.Dataset:
    values = np.random.default_rng(7).random((32, 32), dtype=np.float32) * np.float32(factor)
    array = da.from_array(values, chunks=16)
    return xr.Dataset({"a": (("y", "x"), array), "q": (("y", "x"), (array > 0.5).astype("u1"))})


def rows(begin: int, end: int) -> xr.Dataset:
    number = np.arange(begin, end)
    return xr.Dataset(
        {"counts": (("time", "channel"), (number[:, None] * 10.0 + np.arange(8)).astype("f4"))},
        {
            "time": np.datetime64("2021-08-01", "ns") + number * np.timedelta64(8, "s"),
            "channel": np.arange(8),
            "file": ("time", np.array([f"f{n:03d}" for n in number], object)),
        },
    )


def write(folder: Path, factor: float = 1.0, **options: Any) -> None:
    small()
    to_zarr(field(factor), folder / "a.zarr", **options)


def broken(block, block_info=None):
    if block_info[0]["chunk-location"] == (1, 1):
        raise RuntimeError("cosmic ray")
    return block


def write_with_gaps(folder: Path) -> None:
    """One region of four blocks, of which one fails: its pieces are written."""
    small()
    regions.choose_layout = partial(choose_layout, chunk_bytes=32 * 32 * 4)
    ds = field()
    ds["a"] = (("y", "x"), ds["a"].data.map_blocks(broken, dtype="f4", meta=np.empty((0, 0), "f4")))
    with pytest.warns(errors.LunarrayWarning):
        to_zarr(ds, folder / "a.zarr", token="t", errors="nan", retries=0)


def write_without_gaps(folder: Path) -> None:
    small()
    regions.choose_layout = partial(choose_layout, chunk_bytes=32 * 32 * 4)
    to_zarr(field(), folder / "a.zarr", token="t")


def append_new(folder: Path, end: int) -> None:
    """Append those of the rows that the store does not hold, as `class_to_zarr` does."""
    small()
    wanted = rows(0, end)
    with append.appending(folder / "a.zarr", "time") as place:
        have = place.held("file")
        new = wanted.isel(time=[name not in have for name in wanted["file"].values])
        if new.sizes["time"]:
            place.append(new, progress=False)


def damage(folder: Path) -> None:
    write(folder)
    for name in ("a/c/0/1", "q/c/1/0"):
        file = folder / "a.zarr" / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 8
        file.write_bytes(content)
    (folder / "a.zarr/a/c/1/1").unlink()


def repair(folder: Path) -> None:
    small()
    la.store.verify(folder / "a.zarr", repair=True, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is written anew
        to_zarr(field(), folder / "a.zarr")


def read(folder: Path) -> Any:
    """Open the store, and give what reads it."""
    ds = la.open_zarr(folder / "a.zarr")
    return lambda: {str(k): v.values for k, v in ds.variables.items()}


# ------------------------------------------------------------------ banks


def grid():
    from lunarray.superres import GIBGrid

    return GIBGrid((1, 2), (14, 20), (-20.0, -10.0, 20.0, 10.0))


def make_bank(folder: Path) -> xr.Dataset:
    """Make a bank with a few footprints and its networks; give all footprints."""
    from superres_cases import TINY, bank

    import lunarray.superres as sr

    table, _ = bank(folder / "gib.zarr", np.random.default_rng(3), grid(), 60)
    sr.populate(folder / "gib.zarr", table.isel(footprint=slice(0, 20)), progress=False)
    sr.train_gib(folder / "gib.zarr", folder / "models", TINY, progress=False)
    return table


def populate(folder: Path, table: xr.Dataset) -> None:
    import lunarray.superres as sr

    small()
    sr.populate(folder / "gib.zarr", table, progress=False)


def classify(folder: Path) -> None:
    """Write another mare class, and populate again."""
    import lunarray.superres as sr

    small()
    mare = np.tile(np.array([1, 2], "u1"), (14, 10))
    sr.write_region(folder / "gib.zarr", (0, 0), mare=mare, overwrite=True)
    sr.populate(folder / "gib.zarr", progress=False)


def begin_anew(folder: Path) -> None:
    import lunarray.superres as sr

    small()
    sr.create_gib(folder / "gib.zarr", grid(), ("Fe",), 2, overwrite=True)


def predict(folder: Path) -> None:
    import torch

    import lunarray.superres as sr

    small()
    torch.set_num_threads(1)
    maps = sr.superresolve(sr.open_gib(folder / "gib.zarr"), folder / "models", device="cpu")
    to_zarr(maps, folder / "a.zarr", progress=False)


def read_bank(folder: Path) -> Any:
    import lunarray.superres as sr

    ds = sr.open_gib(folder / "gib.zarr")
    table = sr.gib_footprints(folder / "gib.zarr").sizes["footprint"]
    return lambda: {"table": np.array(table)} | {str(k): v.values for k, v in ds.variables.items()}


# ------------------------------------------------------------------ the harness


@dataclass(frozen=True)
class Verb:
    """`prepare` makes what is there before, `act` is stopped and done again (as `again`, if that differs), `read` opens
    what a reader reads and gives what reads it, `fine` tells whether that is any of what is allowed."""

    prepare: Callable[[Path], Any]
    act: Callable[[Path], Any]
    read: Callable[[Path], Any] = read
    again: Callable[[Path], Any] | None = None
    fine: Callable[[Any, list[Any]], bool] | None = None


def nothing(folder: Path) -> None:
    pass


STORES = {
    "first write": Verb(nothing, write),
    "overwrite": Verb(write, partial(write, factor=3.0, overwrite=True)),
    "first write with overwrite": Verb(nothing, partial(write, overwrite=True)),
    "gaps": Verb(nothing, write_with_gaps, again=write_without_gaps),
    "first append": Verb(nothing, partial(append_new, end=8)),
    "append": Verb(partial(append_new, end=5), partial(append_new, end=14)),
    "repair": Verb(damage, repair),
}


def files(folder: Path) -> dict[str, bytes]:
    """All that is there, but for the lock of a dead writer, which the next one takes over."""
    locks = (".zarr.lock", ".zarr.meta.lock")
    found = [f for f in folder.rglob("*") if f.is_file() and not any(k in f.name for k in locks)]
    return {str(f.relative_to(folder)): f.read_bytes() for f in found}


def seen(opened: Callable[[], Any]) -> Any:
    """What a reader gets, or the error that says why it gets nothing."""
    try:
        return opened()
    except errors.LunarrayError as error:
        return error


def one_of(got: Any, allowed: list[Any]) -> bool:
    if isinstance(got, errors.LunarrayError):
        return True
    return any(
        not isinstance(values, errors.LunarrayError)
        and got.keys() == values.keys()
        and all(np.array_equal(got[k], values[k], equal_nan=got[k].dtype.kind == "f") for k in got)
        for values in allowed
    )


def region_by_region(got: Any, allowed: list[Any]) -> bool:
    """Two verbs, of which the first takes away what the second makes: old, new or nothing in each region.

    Abundances are there where the state says so, and then those of the mare class that is there.
    """
    if one_of(got, allowed):
        return True
    old, new = allowed
    if got.keys() != old.keys() or not np.array_equal(got["feature"], old["feature"]):
        return False
    for i, j in grid().all_regions():
        rows, columns = grid().slices(i, j)

        def same(name: str, other: dict[str, np.ndarray], at: Any = (..., rows, columns)) -> bool:
            return np.array_equal(got[name][at], other[name][at], equal_nan=True)

        populated = bool(got["state"][i, j] & 4)
        if not populated and not np.isnan(got["abundance"][..., rows, columns]).all():
            return False
        if populated and not any(same("mare", s) and same("abundance", s) for s in (old, new)):
            return False
        gone = not got["mare"][rows, columns].any()
        if not (gone or same("mare", old) or same("mare", new)):
            return False
    return True


def wrong(
    verb: Verb, folder: Path, holding: Any, allowed: list[Any], whole: dict[str, bytes]
) -> list[str]:
    """What is not as it should be after a stop."""
    faults = []
    fine = verb.fine or one_of
    if not fine(seen(lambda: verb.read(folder)()), allowed):
        faults.append("a reader sees something else")
    if callable(holding) and not fine(seen(holding), allowed):
        faults.append("a reader that had opened it sees something else")
    try:
        (verb.again or verb.act)(folder)
    except Exception as error:
        return [*faults, f"again: {type(error).__name__}: {error}"]
    got = files(folder)
    if got != whole:
        odd = sorted(k for k in {*got, *whole} if got.get(k) != whole.get(k))
        faults.append(f"other files: {odd[:5]}")
    return faults


def check(verb: Verb, processes: Any, tmp_path: Path, few: int = FEW) -> tuple[int, int]:
    """Stop a verb at its moments; give how many calls it makes and how many moments were tried."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    verb.prepare(before)
    shutil.copytree(before, after, symlinks=True)
    # Once for nothing: what is compiled is kept, and is no file of a job.
    shutil.copytree(before, tmp_path / "warm", symlinks=True)
    processes.run(verb.act, tmp_path / "warm", Stops())
    old = seen(lambda: verb.read(after)())
    calls = processes.run(verb.act, after, Stops())
    new = seen(lambda: verb.read(after)())
    if verb.again is not None:
        # What is stopped, and what completes it, are not the same: neither is what they make.
        allowed = [old, new]
        verb.again(after)
        allowed.append(seen(lambda: verb.read(after)()))
    else:
        allowed = [old, new]
    whole = files(after)
    moments = range(2 * calls)
    ways = ("exit", "kill")
    if KILLS == "all":
        points = [(at, how) for at in moments for how in ways]
    elif KILLS == "each":
        points = [(at, ways[at // 2 % 2]) for at in moments]
    else:
        few = int(KILLS) if KILLS.isdecimal() else few
        # The last ones too: there the places are taken.
        some = {*np.linspace(0, 2 * calls - 1, few).astype(int), 2 * calls - 9, 2 * calls - 14}
        points = [(int(at), ways[i % 2]) for i, at in enumerate(sorted(some)) if at >= 0]
    faults, beyond = [], []
    for at, how in points:
        folder = tmp_path / f"{at}-{how}"
        shutil.copytree(before, folder, symlinks=True)
        holding = seen(partial(verb.read, folder))
        if processes.run(verb.act, folder, Stops(at, how)) is not None:
            beyond.append(at)
        faults += [f"{at} {how}: {fault}" for fault in wrong(verb, folder, holding, allowed, whole)]
        shutil.rmtree(folder)
    assert not faults, "\n".join(faults)
    assert not beyond, f"{calls} calls were counted, but none was at the points {beyond}"
    return calls, len(points)


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    monkeypatch.setattr(regions, "choose_layout", regions.choose_layout)
    for name in ("CHUNK_BYTES", "_BATCH_CHUNKS"):
        monkeypatch.setattr(append, name, getattr(append, name))
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.mark.parametrize("name", STORES)
def test_stores(name, processes, tmp_path):
    calls, points = check(STORES[name], processes, tmp_path)
    print(f"{name}: {calls} calls, stopped at {points} points, none wrong")
    assert calls > 20


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """A bank with a few footprints, its networks, and the table of all footprints."""
    folder = tmp_path_factory.mktemp("bank")
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(regions, "choose_layout", regions.choose_layout)
        return folder, make_bank(folder)


@pytest.mark.parametrize("name", ["populate", "classify and populate", "create anew", "predict"])
def test_banks(name, networks, tmp_path, bank):
    made, table = bank

    def prepare(folder: Path) -> None:
        shutil.copytree(made, folder, dirs_exist_ok=True)

    verb = {
        "populate": Verb(prepare, partial(populate, table=table), read_bank),
        "classify and populate": Verb(prepare, classify, read_bank, fine=region_by_region),
        "create anew": Verb(prepare, begin_anew, read_bank),
        "predict": Verb(prepare, predict),
    }[name]
    calls, points = check(verb, networks, tmp_path, few=3)
    print(f"{name}: {calls} calls, stopped at {points} points, none wrong")
    assert calls > 20
