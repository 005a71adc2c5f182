"""Stores planned in tasks of one region each: what they compute, how often, and where they stop."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager, nullcontext
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import lunarray
from lunarray import engine, errors
from lunarray.engine import last_report
from lunarray.store import api, describe, layout, regions, to_zarr

runs: Counter[str] = Counter()
_lock = threading.Lock()


def counted(block, *others, name):
    with _lock:
        runs[name] += 1
    return block + np.float32(1) + sum(np.float32(np.mean(other)) for other in others)


def named(array, name, *others):
    return da.blockwise(
        partial(counted, name=name),
        "ij",
        array,
        "ij",
        *(part for other in others for part in (other, "ij")),
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
    )


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    runs.clear()
    cut = partial(layout.choose_layout, chunk_bytes=16 * 16 * 4)
    monkeypatch.setattr(regions, "choose_layout", cut)


def base(chunks=8, shape=(64, 48)):
    values = np.random.default_rng(7).random(shape, dtype=np.float32)
    return da.from_array(values, chunks=chunks)


def chain():
    a = named(base(), "a")
    b, c = named(a, "b"), named(a, "c")
    return {"b": b, "c": c, "both": named(b, "d", c)}


def broadcast():
    a, row = named(base(), "a"), named(base()[:, :1], "row")
    return {"sum": a + row}


def reduction():
    a = named(base(), "a")
    return {"a": a, "less": a - a.mean(axis=0)}


def transposed():
    a = named(base(8, (48, 48)), "a")
    return {"a": a + a.T}


def sliced():
    a = named(base(), "a")
    return {"part": named(a[5:53, 3:], "b")}


def rechunked():
    a = named(base((64, 48)), "a")
    return {"fine": named(a.rechunk(8), "b")}


def coarse():
    return {"a": named(base(40), "a")}


def misaligned():
    return {"a": named(base(7), "a"), "b": named(base(16), "b")}


def overlapping():
    a = named(base(), "a")
    smooth = a.map_overlap(
        lambda x: (x[:-2] + x[1:-1] + x[2:]) / 3,
        depth={0: 1},
        boundary="reflect",
        trim=False,
        chunks=a.chunks,
        dtype="f4",
    )
    return {"smooth": named(smooth, "b")}


def assembled():
    a = named(base(), "a")
    turned = engine.assemble(
        lambda block: block[::-1],
        tuple(sizes[::-1] for sizes in a.chunks),
        needs=lambda at: [engine.Block(a, (7 - at[0], 5 - at[1]))],
        dtype=np.float32,
        token=a.name,
    )
    return {"turned": named(turned, "b")}


def picked():
    cube = da.stack([named(base(), "a"), named(base(8), "b")]).rechunk({0: -1})
    return {
        "first": engine.take(cube, 0),
        "last": engine.take(cube, slice(1, 2))[0],
    }


CASES = [chain, broadcast, reduction, transposed, sliced, rechunked, coarse, misaligned]
CASES += [overlapping, assembled, picked]


@pytest.mark.parametrize("gathered", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_values_and_every_block_once(tmp_path, monkeypatch, case, gathered):
    ds = xr.Dataset({name: (("y", "x"), array) for name, array in case().items()})
    expected = ds.compute(scheduler="synchronous")
    counts = dict(runs)  # as Dask itself does it
    runs.clear()
    monkeypatch.setattr(regions, "REGIONS_PER_THREAD", 0 if gathered else 10**6)
    out = to_zarr(ds, tmp_path / "a.zarr")
    xr.testing.assert_equal(out.drop_attrs(), expected.drop_attrs())
    assert dict(runs) == counts
    assert last_report().regions["written"] == describe(tmp_path / "a.zarr").regions > 4


@pytest.mark.parametrize("steps", [1, 2])
def test_a_single_number_made_of_numbers(tmp_path, monkeypatch, steps):
    """An array without axes that is computed block by block, alone or beside a map that takes it."""
    monkeypatch.setattr(regions, "REGIONS_PER_THREAD", 0)
    number = da.from_array(np.float32(3))
    for _ in range(steps):
        number = number + np.float32(1)
    ds = xr.Dataset({"number": number * 2, "map": (("y", "x"), named(base(), "a") + number)})
    for part in (ds[["number"]], ds):
        out = to_zarr(part, tmp_path / f"{len(part)}.zarr")
        xr.testing.assert_equal(out.drop_attrs(), part.compute().drop_attrs())


def test_what_groups_share_is_computed_once(tmp_path):
    a = named(base(), "a")
    ds = xr.Dataset({"map": (("y", "x"), a), "profile": (("y",), named(a, "b").sum(axis=1))})
    expected = ds.compute(scheduler="synchronous")
    runs.clear()
    out = to_zarr(ds, tmp_path / "a.zarr")
    xr.testing.assert_equal(out.drop_attrs(), expected.drop_attrs())
    assert dict(runs) == {"a": 48, "b": 48}


@pytest.mark.parametrize("scheduler", ["processes", "distributed"])
def test_schedulers_that_leave_the_process(tmp_path, client, scheduler):
    ds = xr.Dataset({n: (("y", "x"), a) for n, a in {**chain(), **overlapping()}.items()})
    expected = ds.compute(scheduler="synchronous")
    if scheduler == "distributed":
        with client(processes=False):
            out = to_zarr(ds, tmp_path / "a.zarr")
    else:
        with dask.config.set(scheduler=scheduler, num_workers=1):
            out = to_zarr(ds, tmp_path / "a.zarr")
    xr.testing.assert_equal(out.drop_attrs(), expected.drop_attrs())
    tasks = last_report().tasks
    # The table names what ran inside of the regions' tasks too.
    assert sum(task["count"] for task in tasks.values()) > tasks["write"]["count"]
    assert all(task["compute"] >= 0 for task in tasks.values())


def test_a_region_is_one_task_however_many_blocks_and_outputs():
    a = da.zeros((4, 640, 640), chunks=(4, 8, 8), dtype=np.float32)
    many = engine.map_pixels(lambda p: p, a, outputs=4)
    ds = xr.Dataset({f"v{i}": (("y", "x"), engine.take(many, i)) for i in range(4)})
    groups = regions.plan(ds)
    work = regions.writes(ds, groups, "nowhere.zarr").work
    assert len(work.graph) == len(work.keys) == 40**2


def broken(block):
    runs["broken"] += 1
    if runs["broken"] == 3:
        raise OSError("a hiccup")
    return block


def test_what_fails_in_a_region_is_tried_again_by_itself(tmp_path):
    a = named(base(), "a").map_blocks(broken, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    ds = xr.Dataset({"a": (("y", "x"), a)})
    with dask.config.set(scheduler="synchronous"):
        out = to_zarr(ds, tmp_path / "a.zarr")
    assert last_report().retries == 1
    assert runs["broken"] == 49
    np.testing.assert_array_equal(out.a, base().compute() + 1)


class Stop:
    """Interrupts the run when its bar has come so far."""

    def __init__(self, monkeypatch, after):
        self.steps, self.totals = 0, []

        @contextmanager
        def bar(description, total, *, show=None):
            self.totals.append(total)

            def advance():
                self.steps += 1
                if self.steps == after:
                    raise KeyboardInterrupt

            yield advance

        monkeypatch.setattr(api, "progress_bar", bar)


@pytest.mark.parametrize("scheduler", ["threads", "distributed"])
def test_a_map_of_1280_pixels_moves_its_bar_and_keeps_what_is_done(
    tmp_path, client, monkeypatch, scheduler
):
    """The user's own spectra in one block; a model that is quick, for this is about regions."""
    monkeypatch.setattr(regions, "choose_layout", layout.choose_layout)
    values = np.random.default_rng(3).random((3, 1280, 1280), dtype=np.float32)
    out = engine.map_pixels(lambda p: p[:, :2] * 2, da.from_array(values, chunks=-1), outputs=2)
    ds = xr.Dataset({n: (("y", "x"), engine.take(out, i)) for i, n in enumerate(("FeO", "MgO"))})
    path = tmp_path / "a.zarr"
    context = client(processes=False) if scheduler == "distributed" else nullcontext()
    with context, dask.config.set(scheduler=scheduler):
        stop = Stop(monkeypatch, after=7)
        with pytest.raises(KeyboardInterrupt):
            to_zarr(ds, path, token="t")
        assert stop.totals == [16]
        done = describe(path).regions_done
        assert 7 <= done < 16
        assert last_report().status == "stopped"
        with pytest.raises(errors.StoreIncompleteError):
            lunarray.open_zarr(path)
        rest = Stop(monkeypatch, after=-1)
        opened = to_zarr(ds, path, token="t")
    # A thread may have ended the region in its hands after the bar was last told.
    assert rest.steps == rest.totals[0] == last_report().regions["written"]
    assert 16 - 7 - 4 <= rest.steps <= 16 - 7
    np.testing.assert_array_equal(opened.FeO, values[0] * 2)
    whole = to_zarr(ds, tmp_path / "b.zarr", token="t")
    for name in whole.data_vars:
        for file in (tmp_path / "b.zarr" / name / "c").rglob("*"):
            if file.is_file():
                twin = path / file.relative_to(tmp_path / "b.zarr")
                assert twin.read_bytes() == file.read_bytes()


def test_invert_oxides_plans_tens_of_regions(monkeypatch):
    monkeypatch.setattr(regions, "choose_layout", layout.choose_layout)
    cube = xr.DataArray(
        da.zeros((150, 1280, 1280), chunks=(150, 1280, 1280), dtype=np.float32),
        dims=("wavelength", "y", "x"),
        coords={"wavelength": lunarray.sp.WAVELENGTHS_150},
        name="reflectance",
    )
    maps = cube.lunar.invert_oxides()
    (group,) = regions.plan(maps)
    assert group.sizes == (320, 320)
    # The block of the source, its sixteen parts for each model's task, and the regions, which hold all outputs.
    work = regions.writes(maps, [group], "nowhere.zarr", threads=4).work
    assert len(work.keys) == 16
    assert len(work.graph) <= 1 + 32 + 16
