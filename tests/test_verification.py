"""Damage to stores: seen when they are opened or read, named by verify, mended by the call that wrote them.

``LUNARRAY_FLIPS=10000`` tries so many seeded bit flips, truncations and losses, instead of a few.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import warnings
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import lunarray
from lunarray import errors
from lunarray.cli import app
from lunarray.store import describe, regions, to_zarr, verify
from lunarray.store.append import append_zarr
from lunarray.store.layout import choose_layout

FLIPS = int(os.environ.get("LUNARRAY_FLIPS", "240"))


def maps(gain=1.0) -> xr.Dataset:
    rng = np.random.default_rng(7)
    values = gain * rng.normal(size=(3, 48, 64)).astype("f4")
    mask = values[0] > 0
    return xr.Dataset(
        {
            "abundance": (
                ("element", "y", "x"),
                da.from_array(values, chunks=(-1, 16, 16)),
                {"units": "wt%"},
            ),
            "mask": (("y", "x"), da.from_array(mask.astype("u1"), chunks=16)),
            "zero": (("y", "x"), da.zeros((48, 64), chunks=16, dtype="f4")),
            "name": (("element",), np.array(["Fe", "Ti", "titanium"], dtype=object)),
        },
        {
            "x": np.arange(64) * 500.0,
            "y": np.zeros(48),
            "time": ("x", np.datetime64("2008-04-19T09:39:37.436807", "ns") + np.arange(64)),
            "spatial_ref": ((), 0, {"crs_code": "IAU_2015:30130"}),
        },
    )


@pytest.fixture(params=["chunks", "shards"])
def layout(request, monkeypatch):
    if request.param == "chunks":
        cut = partial(choose_layout, chunk_bytes=3 * 16 * 16 * 4)
    else:
        cut = partial(choose_layout, chunk_bytes=3 * 8 * 8 * 4, max_objects=6)
    monkeypatch.setattr(regions, "choose_layout", cut)
    return request.param


def read(path: Path) -> xr.Dataset:
    with dask.config.set(scheduler="synchronous"):
        return lunarray.open_zarr(path).compute()


def files(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def harm(file: Path, rng: np.random.Generator) -> str:
    """Flip a bit of a file, cut it short, or take it away."""
    data = bytearray(file.read_bytes())
    kind = rng.choice(["flip", "flip", "flip", "cut", "empty", "gone", "zeros"])
    place = int(rng.integers(len(data)))
    if kind == "gone":
        file.unlink()
        return kind
    if kind == "flip":
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del data[place:]
    elif kind == "empty":
        data.clear()
    else:
        data[:] = bytes(len(data))
    file.write_bytes(data)
    return kind


def test_damage_is_seen_on_reading_and_by_verify(tmp_path, layout):
    path = tmp_path / "a.zarr"
    to_zarr(maps(), path)
    assert verify(path).ok
    intact = files(path)
    names = sorted(intact)
    # As many of the objects of the data as of everything else together.
    objects = [n for n in names if "/c/" in n and n.startswith(("abundance", "mask"))]
    unread, unverified, foreign = [], [], []
    for seed in range(FLIPS // 2):
        rng = np.random.default_rng(seed)
        name = str(rng.choice(objects if seed % 2 else names))
        kind = harm(path / name, rng)
        what = (seed, name, kind)
        for sees, missed in ((read, unread), (lambda p: _raise(verify(p)), unverified)):
            try:
                sees(path)
                missed.append(what)
            except errors.LunarrayError as error:
                if not (error.where and error.remedy):
                    foreign.append((what, error))
            except Exception as error:
                foreign.append((what, error))
        (path / name).write_bytes(intact[name])
    print(
        f"{layout}: {FLIPS // 2} damages, {len(unread)} not seen on reading, {len(unverified)} by verify"
    )
    assert not foreign
    assert not unverified
    assert len(unread) <= FLIPS // 2 // 1000
    assert verify(path).ok


def _raise(check):
    if not check.ok:
        raise errors.StoreDamagedError("seen", where=check.path, remedy="mend it")


def test_an_error_on_reading_names_the_object_at_compute_time(tmp_path, layout):
    path = tmp_path / "a.zarr"
    to_zarr(maps(), path)
    opened = lunarray.open_zarr(path)
    file = sorted(f for f in (path / "abundance" / "c").rglob("*") if f.is_file())[1]
    data = file.read_bytes()
    file.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    for scheduler in ("synchronous", "threads", "processes"):
        with (
            dask.config.set(scheduler=scheduler),
            pytest.raises(errors.StoreDamagedError, match=r"c/0/\d+/\d+: .*checksum.*--repair"),
        ):
            (lunarray.open_zarr(path).abundance.max() + 1).compute()
    file.unlink()
    with pytest.raises(errors.StoreDamagedError, match=r"c/0/\d+/\d+: .*missing"):
        opened.abundance.compute()
    with pytest.raises(errors.StoreDamagedError, match=r"1 of \d+ objects are missing"):
        lunarray.open_zarr(path)
    assert not describe(path).complete
    assert np.isnan(lunarray.open_zarr(path, incomplete=True).abundance).any()
    shutil.rmtree(path)
    with pytest.raises(errors.StoreError, match=r"deleted|missing"):
        opened.mask.compute()


def test_a_reader_gets_no_mixture_of_two_stores(tmp_path, layout):
    path = tmp_path / "a.zarr"
    old = to_zarr(maps(), path)
    part = old.abundance[:, :9, :9]
    np.testing.assert_array_equal(part, maps().abundance[:, :9, :9])
    to_zarr(maps(gain=2.0), path, overwrite=True)
    for lazy in (old.abundance, part):
        with pytest.raises(errors.StoreChangedError, match="after the store had been opened"):
            lazy.compute()
    np.testing.assert_array_equal(lunarray.open_zarr(path).abundance, maps(gain=2.0).abundance)


@pytest.mark.parametrize("repair", [False, True])
def test_only_what_is_damaged_is_written_anew(tmp_path, layout, repair):
    path = tmp_path / "a.zarr"
    to_zarr(maps(), path)
    intact = files(path)
    data = sorted(n for n in intact if n.startswith("abundance/c/"))
    (path / data[0]).unlink()
    (path / data[2]).write_bytes(b"")
    (path / data[3]).write_bytes(intact[data[3]][:-40])
    (path / data[4]).unlink()
    (path / data[4]).mkdir()
    (path / "x/c/0").write_bytes(intact["x/c/0"][::-1])
    (path / "name/c/0").unlink()
    (path / "mask/zarr.json").write_text("{}")
    hurt = {data[0], data[2], data[3], data[4], "x/c/0", "name/c/0", "mask/zarr.json"}
    check = verify(path, repair=repair)
    assert {fault.name for fault in check.faults} == hurt
    assert check.repaired == repair
    if repair:
        with pytest.raises(errors.StoreIncompleteError):
            lunarray.open_zarr(path)
    kept = {n: (path / n).stat().st_mtime_ns for n in data if n not in hurt}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.LunarrayWarning)
        again = to_zarr(maps(), path)
    xr.testing.assert_equal(again.compute(), maps().compute())
    assert verify(path).ok
    assert {n: (path / n).stat().st_mtime_ns for n in kept} == kept
    healed = files(path)
    assert healed.keys() == intact.keys()
    assert all(healed[n] == intact[n] for n in intact if n != "zarr.json")


def test_a_resumed_write_keeps_nothing_that_is_damaged(tmp_path, layout):
    path = tmp_path / "a.zarr"
    calls = iter(range(1000))

    def stops(block):
        if next(calls) > 8:
            raise RuntimeError("power")
        return block

    ds = maps()
    ds["abundance"] = ds.abundance.copy(data=ds.abundance.data.map_blocks(stops, dtype="f4"))
    with dask.config.set(scheduler="synchronous"), pytest.raises(RuntimeError):
        to_zarr(ds, path, token="t", retries=0)
    there = sorted(f for f in (path / "abundance/c").rglob("*") if f.is_file())
    assert there
    there[0].write_bytes(bytes(len(there[0].read_bytes())))
    assert {f.problem for f in verify(path).faults} == {"damaged"}
    with pytest.warns(errors.LunarrayWarning, match="written anew"):
        xr.testing.assert_equal(to_zarr(maps(), path, token="t").compute(), maps().compute())


def test_metadata_are_covered(tmp_path):
    path = tmp_path / "a.zarr"
    to_zarr(maps(), path)
    intact = files(path)
    for name in ("zarr.json", "abundance/zarr.json"):
        changed = intact[name].replace(b'"wt%"', b'"wt."')
        assert changed != intact[name]
        (path / name).write_bytes(changed)
        with pytest.raises(errors.StoreDamagedError, match="--accept"):
            lunarray.open_zarr(path)
        assert [f.name for f in verify(path).faults] == [name]
        (path / name).write_bytes(intact[name])
    # The change is meant.
    (path / "abundance/zarr.json").write_bytes(changed)
    before = describe_id(tmp_path, path, intact)
    verify(path, accept=True)
    assert verify(path).ok
    assert lunarray.open_zarr(path).abundance.attrs["units"] == "wt."
    assert describe(path).content_id != before


def describe_id(tmp_path: Path, path: Path, intact: dict[str, bytes]) -> str:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(path, copy)
    (copy / "abundance/zarr.json").write_bytes(intact["abundance/zarr.json"])
    return describe(copy).content_id


def test_rows_that_are_lost_are_appended_again(tmp_path):
    def rows(begin, end):
        values = np.random.default_rng(3).normal(size=(end, 2048)).astype("f4")[begin:]
        names = np.array([f"f{i}" for i in range(begin, end)], dtype=object)
        ds = xr.Dataset({"counts": (("time", "channel"), values), "file": ("time", names)})
        return ds.assign_coords(channel=np.arange(2048))

    path = tmp_path / "a.zarr"
    append_zarr(rows(0, 5000), path, dim="time", progress=False)
    append_zarr(rows(5000, 6000), path, dim="time", progress=False)
    assert verify(path).ok
    files_ = sorted((path / "counts/c").rglob("*"), key=lambda f: f.parent.name)
    victim = [f for f in files_ if f.is_file()][-1]
    victim.write_bytes(victim.read_bytes()[:-9])
    with pytest.raises(errors.StoreDamagedError):
        lunarray.open_zarr(path).counts.compute()
    assert verify(path, repair=True).repaired
    from lunarray.store.append import held

    begin = len(held(path, "file"))
    assert 0 < begin < 6000
    again = append_zarr(rows(begin, 6000), path, dim="time", progress=False)
    np.testing.assert_array_equal(again.counts, rows(0, 6000).counts)
    assert verify(path).ok


def test_the_command(tmp_path):
    path = tmp_path / "a.zarr"
    to_zarr(maps(), path)
    run = CliRunner().invoke
    result = run(app, ["verify", str(path)])
    assert result.exit_code == 0
    assert "All is as it was written" in result.output
    (path / "zero/c/0/0").unlink()
    result = run(app, ["verify", str(path)])
    assert result.exit_code == 1
    assert "missing    zero/c/0/0" in result.output
    assert run(app, ["verify", str(path), "--repair"]).exit_code == 0
    to_zarr(maps(), path)
    assert run(app, ["verify", str(path)]).exit_code == 0
    assert run(app, ["verify", str(path), "--repair", "--accept"]).exit_code == 1


def test_other_programs_open_it_without_a_warning(tmp_path, layout):
    path = tmp_path / "a.zarr"
    to_zarr(maps(), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_dataset(path, engine="zarr", chunks=None) as ds:
            np.testing.assert_array_equal(ds.abundance, maps().abundance)
        import zarr

        assert zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None
        assert len(list(zarr.open_group(path, mode="r", use_consolidated=False).arrays())) == 8


def test_a_store_whose_name_for_itself_is_damaged_is_no_other_programs(tmp_path):
    path = tmp_path / "a.zarr"
    to_zarr(maps(), path)
    file = path / "zarr.json"
    file.write_bytes(file.read_bytes().replace(b'"lunarray_store"', b'"lunarray_stose"'))
    with pytest.raises(errors.StoreFormatError, match="damaged"):
        lunarray.open(path)


@pytest.mark.parametrize("name", ["zarr.json", "abundance/zarr.json"])
def test_metadata_of_any_kind_are_an_error_of_ours_in_bounded_time(tmp_path, name):
    path = tmp_path / "a.zarr"
    to_zarr(maps(), path)
    intact = (path / name).read_bytes()
    texts = [
        b"", b"{", b"[]", b"null", b"1", b'"a"', b"\xff\xfe", b"{}", b"[" * 100_000, b'{"attributes": 3}',
        b'{"attributes": {"lunarray_store": 1}}', b'{"attributes": {"lunarray_store": {"version": 2}}}',
        b'{"attributes": {"lunarray_store": {"version": [2], "seal": "open", "complete": false}}}',
        b'{"attributes": {"lunarray_store": {"version": 2, "seal": "open", "complete": false}}}',
        b'{"attributes": {"lunarray_store": {"version": 2, "seal": "open", "complete": false, "groups": 1}}}',
        intact.replace(b"48", b"9999999999999999"), intact.replace(b"48", b"-48"), intact.replace(b"16", b"0"),
        intact.replace(b"f4", b"f9"), intact.replace(b"zstd", b"zstp"), intact + b"}", b"1" * 10_000,
    ]  # fmt: skip
    for seed in range(60):
        rng = np.random.default_rng(seed)
        data = bytearray(intact)
        for place in rng.integers(len(data), size=int(rng.integers(1, 20))):
            data[place] = int(rng.integers(256))
        texts.append(bytes(data))
    for text in texts:
        if text == intact:
            continue
        (path / name).write_bytes(text)
        for look in (lunarray.open_zarr, partial(lunarray.open_zarr, incomplete=True), describe):
            begin = time.perf_counter()
            with pytest.raises(errors.LunarrayError):
                look(path)
            assert time.perf_counter() - begin < 5
        with contextlib.suppress(errors.LunarrayError):
            assert not verify(path).ok
        with pytest.raises(errors.LunarrayError):
            to_zarr(maps(gain=3.0), path)
    (path / name).unlink()
    os.mkfifo(path / name)  # reading it would wait for ever
    with pytest.raises(errors.LunarrayError):
        lunarray.open_zarr(path)
