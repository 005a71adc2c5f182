"""Stores in object stores, in Zarr's own store objects, and in icechunk sessions."""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import time
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from buckets import WHO, Stopped, Stops, by_a_signal, by_leaving, s3_server
from fresh import FRESH, forked_workers, stop

import lunarray as la
from lunarray import errors
from lunarray.store import describe, object_lock, open_zarr, promotion, regions, to_zarr, verify
from lunarray.store.append import append_zarr, appending, held
from lunarray.store.layout import choose_layout
from lunarray.store.transaction import located

#: All points of the kill suites, or some of them.
ALL = os.environ.get("LUNARRAY_KILLS") == "all"


@pytest.fixture(scope="module")
def server():
    with s3_server() as url:
        yield url
    stop()


@pytest.fixture
def s3(server, monkeypatch, request):
    """A URL in a bucket on the loopback at which nothing is."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    for name, value in WHO.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{abs(hash(request.node.nodeid)):x}/x.zarr"


@pytest.fixture(params=["memory", "s3"])
def url(request):
    """The same, or one in memory."""
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return f"memory://{abs(hash(request.node.nodeid)):x}/x.zarr"


@pytest.fixture(autouse=True)
def _small_regions(monkeypatch):
    monkeypatch.setattr(regions, "choose_layout", partial(choose_layout, chunk_bytes=16 * 16 * 4))


def field(factor: float = 1.0, size: int = 32) -> xr.Dataset:
    values = np.random.default_rng(7).random((size, size), dtype=np.float32) * np.float32(factor)
    array = da.from_array(values, chunks=16)
    return xr.Dataset(
        {"a": (("y", "x"), array), "q": (("y", "x"), (array > 0.5).astype("u1"))},
        {"y": np.arange(float(size))},
    )


def stopping_at(ds: xr.Dataset, where: tuple[int, int]) -> xr.Dataset:
    def kernel(block, block_info=None):
        if block_info[0]["chunk-location"] == where:
            raise RuntimeError("cosmic ray")
        return block

    array = ds["a"].data.map_blocks(kernel, dtype="f4", meta=np.empty((0, 0), "f4"))
    return ds.assign(a=(("y", "x"), array))


def names(place) -> list[str]:
    """All objects that are there, those aside too."""
    place = located(place)
    return sorted(name.removeprefix(place.prefix) for name in place.bucket.sizes(place.prefix))


def objects(place) -> dict[str, bytes]:
    place = located(place)
    return {name: (place / name).read_bytes() for name in names(place)}


def rows(begin: int, end: int) -> xr.Dataset:
    index = np.arange(begin, end)
    return xr.Dataset(
        {
            "file": ("time", np.array([f"f{i}" for i in index], dtype=object)),
            "counts": (("time", "channel"), np.outer(index, np.arange(4.0)).astype("f4")),
        },
        {"time": np.datetime64("2020-01-01", "ns") + index * np.timedelta64(1, "s")},
    )


class TestStores:
    def test_to_and_fro(self, url):
        assert "source" in to_zarr(field(), url).encoding
        out = open_zarr(url)
        xr.testing.assert_equal(out.load(), field().load())
        assert out.encoding["source"] == url
        assert describe(url).complete
        assert describe(url).nbytes_stored == sum(map(len, objects(url).values()))
        assert not [name for name in names(url) if name.startswith(".")]
        xr.testing.assert_equal(la.open(url).load(), field().load())
        assert not Path("s3:").exists()
        assert not Path("memory:").exists()

    def test_the_objects_are_those_of_a_folder(self, url, tmp_path):
        to_zarr(field(), url)
        to_zarr(field(), tmp_path / "x.zarr")
        folder = tmp_path / "x.zarr"
        files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
        assert {name: file.read_bytes() for name, file in files.items()} == objects(url)
        assert open_zarr(url).encoding["content_id"] == open_zarr(folder).encoding["content_id"]
        assert dask.base.tokenize(open_zarr(url)["a"].data) == dask.base.tokenize(
            open_zarr(folder)["a"].data
        )

    def test_other_programs_read_it(self, url):
        to_zarr(field(), url)
        if url.startswith("s3"):
            from obstore.store import from_url

            store = from_url(url, client_options={"allow_http": True})
            ds = xr.open_zarr(zarr.storage.ObjectStore(store, read_only=True), chunks=None)
        else:
            ds = xr.open_zarr(url, chunks=None)
        np.testing.assert_array_equal(ds["a"], field()["a"])

    def test_a_path_that_was_made_of_a_url(self, url):
        to_zarr(field(), Path(url))
        assert open_zarr(Path(url)).encoding["source"] == url

    def test_goes_on_where_it_stopped(self, url):
        with dask.config.set(scheduler="synchronous"), pytest.raises(RuntimeError, match="ray"):
            to_zarr(stopping_at(field(), (1, 0)), url, token="t", retries=0)
        with pytest.raises(errors.StoreIncompleteError):
            open_zarr(url)
        there = describe(url).regions_done
        assert 0 < there < 4
        seen = []

        def counting(block):
            seen.append(1)
            return block

        other = field()
        lazy = other["a"].data.map_blocks(counting, dtype="f4", meta=np.empty((0, 0), "f4"))
        out = to_zarr(other.assign(a=(("y", "x"), lazy)), url, token="t")
        assert len(seen) == 4 - there
        np.testing.assert_array_equal(out["a"], field()["a"])

    def test_what_fails_is_missing_and_tried_again(self, url):
        with pytest.warns(errors.LunarrayWarning, match="regions failed"):
            out = to_zarr(stopping_at(field(), (1, 0)), url, token="t", errors="nan", retries=0)
        assert int(np.isnan(out["a"]).sum()) == 256
        out = to_zarr(field(), url, token="t")
        np.testing.assert_array_equal(out["a"], field()["a"])

    def test_other_data_is_refused(self, url):
        to_zarr(field(), url)
        with pytest.raises(errors.StoreConflictError, match="the input differs"):
            to_zarr(field(2), url)

    def test_what_is_no_store_is_left_alone(self, url):
        place = located(url)
        (place / "precious.txt").write_bytes(b"mine")
        for overwrite in (False, True):
            with pytest.raises(errors.StoreError):
                to_zarr(field(), url, overwrite=overwrite)
        assert names(url) == ["precious.txt"]
        with pytest.raises(errors.StoreFormatError, match="not a lunarray store"):
            open_zarr(url)
        with pytest.raises(errors.StoreError, match="no such store"):
            open_zarr(url + "2")

    def test_damage_is_found_and_mended(self, url):
        to_zarr(field(), url)
        place = located(url)
        whole = objects(url)
        data = bytearray(whole["a/c/0/1"])
        data[40] ^= 1
        (place / "a/c/0/1").write_bytes(bytes(data))
        (place / "q/c/1/1").unlink()
        found = {(fault.name, fault.problem) for fault in verify(url).faults}
        assert found == {("a/c/0/1", "damaged"), ("q/c/1/1", "missing")}
        with pytest.raises(errors.StoreDamagedError, match=r"q/c/1/1"):
            open_zarr(url)
        with pytest.raises(errors.StoreDamagedError, match=r"a/c/0/1"):
            open_zarr(url, incomplete=True)["a"].load()
        assert verify(url, repair=True).repaired
        to_zarr(field(), url)
        assert objects(url) == whole


class TestOverwrite:
    def test_by_what_is_read_from_it(self, url):
        to_zarr(field(), url)
        old = open_zarr(url)
        out = to_zarr(open_zarr(url) * 2, url, overwrite=True)
        np.testing.assert_array_equal(out["a"], field(2)["a"])
        with pytest.raises(errors.StoreChangedError):
            old["a"].load()
        assert not [name for name in names(url) if name.startswith(".")]

    def test_what_was_there_stays_until_all_is_there(self, url):
        to_zarr(field(), url)
        old = open_zarr(url)
        with dask.config.set(scheduler="synchronous"), pytest.raises(RuntimeError, match="ray"):
            to_zarr(stopping_at(field(3), (1, 0)), url, overwrite=True, token="new", retries=0)
        np.testing.assert_array_equal(old["a"], field()["a"])
        np.testing.assert_array_equal(open_zarr(url)["a"], field()["a"])
        np.testing.assert_array_equal(
            to_zarr(field(3), url, overwrite=True, token="new")["a"], field(3)["a"]
        )

    def test_what_dead_writers_left_is_swept(self, url):
        to_zarr(field(), url)
        (located(url) / ".lunarray/next/a/c/0/0").write_bytes(b"debris")
        with dask.config.set(scheduler="synchronous"), pytest.raises(RuntimeError, match="ray"):
            to_zarr(stopping_at(field(3), (1, 0)), url, overwrite=True, retries=0)
        to_zarr(field(2), url, overwrite=True)
        assert not [name for name in names(url) if name.startswith(".")]

    def test_another_shape_leaves_nothing_of_the_old(self, url):
        to_zarr(field(size=64).assign(more=("z", np.arange(3))), url)
        to_zarr(field(), url, overwrite=True)
        first = objects(url)
        located(url).clear()
        to_zarr(field(), url)
        assert objects(url) == first


class TestAppend:
    def test_rows_behind_rows(self, url):
        append_zarr(rows(0, 5), url, dim="time")
        out = append_zarr(rows(5, 9), url, dim="time")
        np.testing.assert_array_equal(out["counts"], rows(0, 9)["counts"])
        assert held(url, "file") == {f"f{i}" for i in range(9)}
        assert not [name for name in names(url) if name.startswith(".")]


# ---- one writer at a time
class TestLock:
    def test_a_second_writer_is_refused(self, url):
        with (
            object_lock.write_lock(located(url)),
            pytest.raises(errors.StoreLockedError, match=rf"process {os.getpid()} "),
        ):
            to_zarr(field(), url)
        assert names(url) == []
        to_zarr(field(), url)

    def test_threads_at_once(self, url):
        outcomes = []

        def write():
            try:
                to_zarr(field(), url)
                outcomes.append("done")
            except errors.StoreLockedError:
                outcomes.append("locked")

        threads = [threading.Thread(target=write) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert "done" in outcomes
        assert set(outcomes) <= {"done", "locked"}
        np.testing.assert_array_equal(open_zarr(url)["a"], field()["a"])

    def test_that_of_a_dead_one_is_taken_over(self, url):
        place = located(url)
        dead = {**object_lock.card("them"), "pid": 2**22 + 1}
        place.bucket.put((place / ".lunarray/lock").key, json.dumps(dead).encode())
        to_zarr(field(), url)
        assert not [name for name in names(url) if name.startswith(".")]

    def test_one_elsewhere_is_known_by_its_silence(self, s3, monkeypatch):
        place = located(s3)
        far = {**object_lock.card("them"), "machine": "another"}
        place.bucket.put((place / ".lunarray/lock").key, json.dumps(far).encode())
        with pytest.raises(errors.StoreLockedError, match=r"delete the object s3://"):
            to_zarr(field(), s3)
        monkeypatch.setattr("lunarray.store.locks.STALE", 1.0)
        time.sleep(2.5)
        to_zarr(field(), s3)

    def test_who_loses_it_stops(self, url, monkeypatch):
        monkeypatch.setattr(object_lock, "HEARTBEAT", 0.05)
        place = located(url)
        with object_lock.write_lock(place) as lock:
            time.sleep(0.3)
            lock.check()
            place.bucket.delete(lock.key)
            lock._thread.join(5)
            with pytest.raises(errors.StoreLockedError, match="taken the store over"):
                lock.check()
        assert names(url) == []

    def test_who_was_taken_for_dead_cannot_complete(self, url):
        """Its lock was taken over, and the store is another's by now: its root is refused."""
        place = located(url)
        with object_lock.write_lock(place) as lock:
            place.bucket.put(lock.key, json.dumps(object_lock.card("another")).encode())
            assert not lock._renew()
        assert (place / ".lunarray/lock").is_file()
        place.bucket.delete(lock.key)
        to_zarr(field(), url)
        text, tag = place.bucket.tagged((place / "zarr.json").key)
        to_zarr(field(2), url, overwrite=True)
        with pytest.raises(errors.StoreLockedError, match="changed the store meanwhile"):
            promotion.exchange_root(place, text, tag)


# ---- stopped anywhere
def _first(url):
    to_zarr(field(), url)


def _overwrite(url):
    to_zarr(field(2), url, overwrite=True)


def _append(url):
    new = {f"f{i}" for i in range(5, 9)}
    if not new <= held(url, "file", complete=True):
        with appending(url, "time") as end:
            if not new <= end.held("file"):
                end.append(rows(5, 9))


def _repair(url):
    verify(url, repair=True)
    to_zarr(field(), url)


def _damaged(url):
    to_zarr(field(), url)
    located(url / "a/c/0/1" if not isinstance(url, str) else f"{url}/a/c/0/1").unlink()


def _old_rows(url):
    append_zarr(rows(0, 5), url, dim="time")


#: Each verb with what is there before, and what must be read before and after.
VERBS = {
    "first": (lambda url: None, _first, None, lambda: field()["a"]),
    "overwrite": (_first, _overwrite, lambda: field()["a"], lambda: field(2)["a"]),
    "append": (
        _old_rows,
        _append,
        lambda: rows(0, 5)["counts"],
        lambda: rows(0, 9)["counts"],
    ),
    "repair": (_damaged, _repair, None, lambda: field()["a"]),
}


def _read(url) -> np.ndarray | None:
    try:
        ds = open_zarr(url)
        return np.asarray(ds["counts" if "counts" in ds else "a"])
    except errors.StoreError:
        return None


def _same(one, other) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def _check(name: str, url: str, whole: dict[str, bytes], held_before: xr.Dataset | None) -> None:
    """What is read after a stop is what was there or what was to be there; the same call brings the rest."""
    _, verb, before, after = VERBS[name]
    found = _read(url)
    known = [np.asarray(get()) for get in (before, after) if get is not None]
    if found is not None:
        assert any(_same(found, value) for value in known)
    else:
        assert before is None  # nothing that could be read before is lost
    if held_before is not None:
        try:
            kept = np.asarray(held_before["counts" if "counts" in held_before else "a"])
        except errors.StoreError:
            kept = None
        assert kept is None or _same(kept, known[0])
    verb(url)
    assert _content(objects(url)) == _content(whole)


def _content(found: dict[str, bytes]) -> dict[str, bytes]:
    """All that must be equal: not what a dead writer left aside, which the next one sweeps."""
    return {name: data for name, data in found.items() if not name.startswith(".lunarray/")}


def _reference(name: str, url: str) -> tuple[dict[str, bytes], int]:
    prepare, verb, _, _ = VERBS[name]
    prepare(url)
    with Stops().watching() as stops, dask.config.set(scheduler="synchronous"):
        verb(url)
    return objects(url), stops.points


@pytest.mark.parametrize("name", list(VERBS))
def test_stopped_at_any_change(name, monkeypatch, capsys):
    """In memory, where a process need not end: nothing that it would have done has an effect any more."""
    whole, points = _reference(name, f"memory://stops/{name}/reference.zarr")
    monkeypatch.setattr(object_lock, "alive", lambda holder, silence: False)
    assert points > 20
    chosen = range(points) if ALL else range(len(name), points, 9)
    for at in chosen:
        url = f"memory://stops/{name}/{at}.zarr"
        prepare, verb, before, _ = VERBS[name]
        prepare(url)
        old = open_zarr(url) if before is not None else None
        with Stops(at).watching(), dask.config.set(scheduler="synchronous"), pytest.raises(Stopped):
            verb(url)
        _check(name, url, whole, old)
    if ALL:
        with capsys.disabled():
            print(f"\n{name}: stopped at {len(chosen)} points, all recovered", end=" ")


def _killed(name: str, url: str, at: int, how: str) -> None:
    from test_object_stores import VERBS, _small

    _small()
    kill = by_a_signal if how == "SIGKILL" else by_leaving
    with Stops(at, kill).watching(), dask.config.set(scheduler="synchronous"):
        VERBS[name][1](url)
    os._exit(0)


def _small() -> None:
    regions.choose_layout = partial(choose_layout, chunk_bytes=16 * 16 * 4)


@pytest.mark.parametrize("name", list(VERBS))
def test_killed_at_any_request(name, s3, request, capsys):
    """On S3, by SIGKILL and by os._exit; all points with LUNARRAY_KILLS=all."""
    whole, points = _reference(name, s3)
    step = 1 if ALL else max(1, points // 4)
    chosen = list(range(points))[step // 2 :: step]
    for number, at in enumerate(chosen):
        url = f"{s3}{at}"
        prepare, _, before, _ = VERBS[name]
        prepare(url)
        old = open_zarr(url) if before is not None else None
        how = ("SIGKILL", "os._exit")[number % 2]
        process = FRESH.Process(target=_killed, args=(name, url, at, how))
        process.start()
        process.join(60)
        assert process.exitcode in (-9, 9)
        _check(name, url, whole, old)
    if ALL:
        with capsys.disabled():
            print(f"\n{name}: killed at {len(chosen)} of {points} points, all recovered", end=" ")


# ---- clusters
class TestClusters:
    def test_workers_in_other_processes(self, s3):
        from distributed import Client, LocalCluster

        with (
            forked_workers(),
            LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=None, protocol="tcp"
            ) as cluster,
            Client(cluster),
        ):
            out = to_zarr(field(size=64), s3)
            np.testing.assert_array_equal(out["a"], field(size=64)["a"])
            out = to_zarr(open_zarr(s3) * 2, s3, overwrite=True)
            np.testing.assert_array_equal(out["a"], field(2, size=64)["a"])
            with pytest.raises(errors.InputError, match="other processes cannot write"):
                to_zarr(field(), "memory://of/this/process.zarr")

    def test_other_processes_do_not_find_what_is_in_memory(self):
        place = located("memory://of/this/process.zarr")
        assert pickle.loads(pickle.dumps(place)) == place
        rebuild, (*told, process) = place.bucket.__reduce__()
        with pytest.raises(errors.InputError, match="is not there in another"):
            rebuild(*told, process + 1)


# ---- what users give
class TestPlaces:
    def test_store_objects_of_zarr(self, tmp_path):
        memory: dict = {}
        for store in (zarr.storage.MemoryStore(), memory, zarr.storage.LocalStore(tmp_path / "l")):
            to_zarr(field(), store)
            np.testing.assert_array_equal(open_zarr(store)["a"], field()["a"])
            out = to_zarr(open_zarr(store) * 2, store, overwrite=True)
            np.testing.assert_array_equal(out["a"], field(2)["a"])
            assert verify(store).ok
        assert "zarr.json" in memory
        assert (tmp_path / "l" / "zarr.json").is_file()
        within = zarr.storage.StorePath(zarr.storage.MemoryStore(), "a/b")
        to_zarr(field(), within)
        np.testing.assert_array_equal(open_zarr(within)["a"], field()["a"])

    def test_files_by_url(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        to_zarr(field(), f"file://{tmp_path}/a.zarr")
        to_zarr(field(), "file://b/c.zarr")
        to_zarr(field(), Path(f"file://{tmp_path}/d.zarr"))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "b", "d.zarr"]
        np.testing.assert_array_equal(open_zarr("file://b/c.zarr")["a"], field()["a"])

    def test_store_objects_of_obstore(self, s3):
        from obstore.store import MemoryStore, from_url

        for store in (MemoryStore(), from_url(s3, client_options={"allow_http": True})):
            given = zarr.storage.ObjectStore(store)
            to_zarr(field(), given)
            with (
                object_lock.write_lock(located(given)),
                pytest.raises(errors.StoreLockedError),
            ):
                to_zarr(field(2), given, overwrite=True)
            out = to_zarr(open_zarr(given) * 2, given, overwrite=True)
            np.testing.assert_array_equal(out["a"], field(2)["a"])
            assert "hush" not in str(located(given))
        np.testing.assert_array_equal(open_zarr(s3)["a"], field(2)["a"])

    def test_by_la_open(self, url):
        given = zarr.storage.MemoryStore()
        for place in (given, url, url.removesuffix(".zarr")):
            to_zarr(field(), place)
            np.testing.assert_array_equal(la.open(place)["a"], field()["a"])
        np.testing.assert_array_equal(la.store.open_maps(url)["a"], field()["a"])

    def test_by_commands(self, s3, tmp_path, monkeypatch):
        from typer.testing import CliRunner

        from lunarray.cli import app

        monkeypatch.chdir(tmp_path)
        run = partial(CliRunner().invoke, app)
        scene = la.simulate.polar_scene("north", resolution=20000.0, latitude=88.0)
        to_zarr(scene, "scene.zarr")
        written = run(["invert-oxides", "scene.zarr", "-o", s3])
        assert written.exit_code == 0, written.output
        assert s3 in written.output.replace("\n", "")
        assert "FeO" in open_zarr(s3)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["scene.zarr"]
        told = run(["info", s3])
        assert told.exit_code == 0
        assert "complete" in told.output
        assert "All is as it was written" in run(["verify", s3]).output
        refused = run(["demo", "-o", "s3://bucket/demo"])
        assert refused.exit_code == 2
        assert sorted(p.name for p in tmp_path.iterdir()) == ["scene.zarr"]

    @pytest.mark.parametrize("url", ["https://example.org/x.zarr", "ftp://a/x.zarr", "foo://a"])
    def test_what_no_store_can_be_at(self, url, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for path in (url, Path(url)) if not url.startswith("foo") else (url,):
            with pytest.raises(errors.InputError, match="no store can be at"):
                to_zarr(field(), path)
            with pytest.raises(errors.InputError, match="no store can be at"):
                open_zarr(path)
        assert not any(tmp_path.iterdir())

    def test_what_is_no_place(self, tmp_path):
        for wrong in (7, None, field(), zarr.storage.ZipStore(tmp_path / "x.zip", mode="w")):
            with pytest.raises(errors.InputError):
                to_zarr(field(), wrong)

    def test_a_bucket_that_is_not_there(self, s3):
        url = s3.replace("bucket", "no-such-bucket", 1)
        with pytest.raises(errors.StoreError, match="no-such-bucket"):
            to_zarr(field(), url)
        with pytest.raises(errors.StoreError, match="no-such-bucket"):
            open_zarr(url)

    def test_a_bank_is_in_a_folder(self):
        with pytest.raises(errors.InputError, match="lies in a folder"):
            la.superres.create_gib("s3://bucket/bank.zarr")
        with pytest.raises(errors.InputError, match="lies in a folder"):
            la.superres.open_gib("s3://bucket/bank.zarr")

    def test_a_missing_backend_is_named_with_its_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "obstore", None)
        monkeypatch.setitem(sys.modules, "obstore.store", None)
        monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
        with pytest.raises(errors.MissingDependencyError, match=r"lunarray\[cloud\]"):
            to_zarr(field(), "s3://elsewhere/x.zarr")


# ---- secrets
class TestSecrets:
    def test_options_are_written_nowhere(self, server, monkeypatch, tmp_path):
        for name in (*WHO, "AWS_ENDPOINT_URL"):
            monkeypatch.delenv(name, raising=False)
        url = "s3://bucket/secrets/x.zarr"
        options = {"key": "testing", "secret": "hush-hush", "client_kwargs": {"endpoint_url": server}}  # fmt: skip
        out = to_zarr(field(), url, storage_options=options, report=tmp_path / "r.json")
        np.testing.assert_array_equal(out["a"], field()["a"])
        assert describe(url, storage_options=options).complete
        assert verify(url, storage_options=options).ok
        place = located(url, options)
        written = b"".join(objects(place).values()) + (tmp_path / "r.json").read_bytes()
        told = repr((out, out.attrs, out.encoding, out["a"].encoding, place)).encode()
        for text in (written, told):
            assert b"hush-hush" not in text
            assert b"testing" not in text

    def test_in_urls_they_are_refused(self):
        with pytest.raises(errors.InputError, match="a URL with credentials") as caught:
            to_zarr(field(), "s3://me:hush-hush@bucket/x.zarr")
        assert "hush" not in str(caught.value)


# ---- icechunk
class TestIcechunk:
    @pytest.fixture
    def repository(self, tmp_path):
        icechunk = pytest.importorskip("icechunk", reason="needs icechunk (extra cloud)")
        storage = icechunk.local_filesystem_storage(str(tmp_path / "repository"))
        return icechunk.Repository.create(storage)

    def test_a_session_is_committed(self, repository):
        session = repository.writable_session("main")
        out = to_zarr(field(), session)
        np.testing.assert_array_equal(out["a"], field()["a"])
        assert session.read_only
        session = repository.writable_session("main")
        out = to_zarr(open_zarr(session) * 2, session, overwrite=True)
        np.testing.assert_array_equal(out["a"], field(2)["a"])
        told = [s.message for s in repository.ancestry(branch="main")]
        assert told[:2] == ["to_zarr: a, q", "to_zarr: a, q"]
        first = list(repository.ancestry(branch="main"))[1].id
        then = open_zarr(repository.readonly_session(snapshot_id=first))
        np.testing.assert_array_equal(then["a"], field()["a"])
        assert verify(repository.readonly_session("main")).ok
        with pytest.raises(errors.StoreConflictError, match="holds other data"):
            to_zarr(field(5), repository.writable_session("main"))

    def test_nothing_is_seen_of_what_stopped(self, repository):
        session = repository.writable_session("main")
        with dask.config.set(scheduler="synchronous"), pytest.raises(RuntimeError, match="ray"):
            to_zarr(stopping_at(field(), (1, 0)), session, token="t", retries=0)
        with pytest.raises(errors.StoreError, match="no such store"):
            open_zarr(repository.readonly_session("main"))
        to_zarr(field(), session, token="t")
        np.testing.assert_array_equal(
            open_zarr(repository.readonly_session("main"))["a"], field()["a"]
        )

    def test_the_second_of_two_sessions_is_refused(self, repository):
        one, other = (repository.writable_session("main") for _ in range(2))
        to_zarr(field(), one)
        with pytest.raises(errors.StoreConflictError, match="another session has committed"):
            to_zarr(field(2), other)

    def test_rows_are_appended(self, repository):
        append_zarr(rows(0, 5), repository.writable_session("main"), dim="time")
        append_zarr(rows(5, 9), repository.writable_session("main"), dim="time")
        out = open_zarr(repository.readonly_session("main"))
        np.testing.assert_array_equal(out["counts"], rows(0, 9)["counts"])
