"""The store: layout, writing, resuming, opening, refusing."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from fresh import FRESH, forked_workers, stop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lunarray
from lunarray import errors
from lunarray.store import describe, to_zarr
from lunarray.store.layout import (
    CHUNK_BYTES,
    CHUNKS,
    MAX_CHUNK_BYTES,
    MIN_CHUNK_BYTES,
    choose_layout,
)
from lunarray.store.state import FORMAT_VERSION


def cube(shape=(150, 70, 90), chunks=(-1, 32, 32), seed=0) -> xr.Dataset:
    values = np.random.default_rng(seed).random(shape, dtype=np.float32)
    values[:, 3, 4] = np.nan
    y, x = np.arange(shape[1]) * -500.0, np.arange(shape[2]) * 500.0
    return xr.Dataset(
        {
            "reflectance": (("wavelength", "y", "x"), da.from_array(values, chunks=chunks)),
            "count": (
                ("y", "x"),
                da.from_array(np.nan_to_num(values[0] * 9).astype(np.int32), chunks=chunks[1:]),
            ),
            "filled": (("y", "x"), values[1] > 0.5),
        },
        coords={"wavelength": np.arange(shape[0]) + 500.0, "y": y, "x": x},
    )


@pytest.fixture(scope="module")
def processes_end():
    yield
    stop()


@given(
    shape=st.tuples(st.integers(1, 300), st.integers(0, 200_000), st.integers(1, 200_000)),
    block=st.integers(1, 5000),
    itemsize=st.sampled_from([1, 2, 4, 8]),
)
def test_layout_keeps_spectra_whole_and_objects_few(shape, block, itemsize):
    layout = choose_layout(("wavelength", "y", "x"), shape, itemsize, (shape[0], block, block))
    assert layout.chunks[0] == shape[0]
    nbytes = np.prod(layout.chunks, dtype=float) * itemsize
    assert nbytes <= MAX_CHUNK_BYTES
    covers = all(c >= s for c, s in zip(layout.chunks[1:], shape[1:], strict=True))
    share = math.prod(max(size, 1) for size in shape) * itemsize / CHUNKS
    assert nbytes >= min(max(share, MIN_CHUNK_BYTES), CHUNK_BYTES) / 4 or covers
    if (
        share > 4 * MIN_CHUNK_BYTES
    ):  # enough to see a job move, and to keep most of it when it is stopped
        chunks = [-(-s // c) for s, c in zip(shape[1:], layout.chunks[1:], strict=True)]
        assert np.prod(chunks) >= min(8, shape[1] * shape[2])
    objects = np.prod([-(-max(s, 1) // r) for s, r in zip(shape, layout.region, strict=True)])
    assert objects <= 10_000
    assert all(r % c == 0 for r, c in zip(layout.region, layout.chunks, strict=True))


def test_round_trip_keeps_values_names_and_attributes(tmp_path):
    ds = cube()
    ds.reflectance.attrs = {"units": "1", "long_name": "reflectance"}
    ds = ds.assign_coords(file=("x", np.array([f"f{i}" for i in range(90)], dtype=object)))
    ds = ds.assign_coords(
        time=("x", np.datetime64("2008-04-19T09:39:37.436807", "ns") + np.arange(90))
    )
    opened = to_zarr(ds, tmp_path / "a.zarr")
    xr.testing.assert_equal(opened, ds)
    assert opened.reflectance.chunks is not None
    assert opened.filled.dtype == bool
    assert opened.time.chunks is None
    assert opened["count"].dtype == np.int32
    assert opened.time.dtype == ds.time.dtype
    assert opened.reflectance.attrs.items() >= ds.reflectance.attrs.items()
    assert opened.attrs["lunarray_version"] == lunarray.__version__
    assert "to_zarr" in opened.attrs["history"]


@st.composite
def datasets(draw):
    """Datasets with every mixture of lazy and loaded variables and coordinates, on shared and on own axes."""
    sizes = {dim: draw(st.integers(1, 5)) for dim in ("time", "channel", "corner", "y")}
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    variables = {}
    for index in range(draw(st.integers(1, 6))):
        dims = draw(st.lists(st.sampled_from(sorted(sizes)), unique=True, max_size=3))
        kind = draw(st.sampled_from(["f4", "f8", "i4", "u1", "bool", "M8[ns]", "O"]))
        values = rng.integers(0, 2 if kind == "bool" else 100, [sizes[dim] for dim in dims])
        values = values.astype(str).astype(object) if kind == "O" else values.astype(kind)
        variable = xr.Variable(dims, values, {"units": "1"} if kind[0] in "fiu" else {})
        if draw(st.booleans()) and kind != "O":
            variable = variable.chunk(dict.fromkeys(dims, draw(st.integers(1, 3))))
        variables[f"v{index}"] = variable
    ds = xr.Dataset(variables)
    coords = draw(st.lists(st.sampled_from(sorted(variables)), unique=True))
    ds = ds.set_coords(coords)
    if draw(st.booleans()):
        ds = ds.assign_coords(time=("time", np.arange(sizes["time"]) * 8.0))
    return ds


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ds=datasets())
def test_nothing_is_lost_or_changed_whatever_is_lazy(tmp_path_factory, ds):
    path = tmp_path_factory.mktemp("any") / "a.zarr"
    opened = to_zarr(ds, path)
    xr.testing.assert_identical(opened.compute().drop_attrs(deep=False), ds.compute())
    assert list(opened.data_vars) == list(ds.data_vars)
    again = to_zarr(opened, path.with_name("b.zarr"))
    xr.testing.assert_identical(again.compute().drop_attrs(deep=False), ds.compute())


def test_missing_floats_are_nan_on_disk(tmp_path):
    to_zarr(cube(), tmp_path / "a.zarr")
    metadata = json.loads((tmp_path / "a.zarr/reflectance/zarr.json").read_text())
    assert metadata["zarr_format"] == 3
    assert metadata["fill_value"] == "NaN"
    assert np.isnan(
        xr.open_zarr(tmp_path / "a.zarr", consolidated=False).reflectance[:, 3, 4]
    ).all()


def test_stored_again_after_slice_and_rechunk(tmp_path):
    # Stale encodings make xarray refuse or, with safe_chunks=False, lose data (zarr-python#3514).
    first = to_zarr(cube(), tmp_path / "a.zarr")
    part = first.isel(y=slice(5, 61), x=slice(1, None)).chunk(y=13, x=50)
    second = to_zarr(part, tmp_path / "b.zarr")
    xr.testing.assert_equal(second, part)


def test_shards_open_as_blocks(tmp_path, monkeypatch):
    from lunarray.store import regions

    def many_small(dims, shape, itemsize, blocks):
        return choose_layout(
            dims, shape, itemsize, blocks, chunk_bytes=150 * 16 * 16 * 4, max_objects=9
        )

    monkeypatch.setattr(regions, "choose_layout", many_small)
    ds = cube(chunks=(-1, 16, 16))
    opened = to_zarr(ds, tmp_path / "a.zarr")
    metadata = json.loads((tmp_path / "a.zarr/reflectance/zarr.json").read_text())
    assert metadata["codecs"][0]["name"] == "sharding_indexed"
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    assert opened.reflectance.data.chunksize == tuple(np.minimum(shard, ds.reflectance.shape))
    xr.testing.assert_equal(opened, ds)
    xr.testing.assert_equal(to_zarr(opened, tmp_path / "b.zarr"), ds)


def test_nothing_is_computed_before_it_is_written(tmp_path, no_compute):
    with pytest.raises(AssertionError, match="computed"):
        to_zarr(cube(), tmp_path / "a.zarr")
    assert not describe(tmp_path / "a.zarr").complete


def test_complete_store_is_left_alone_and_other_data_are_refused(tmp_path):
    path = tmp_path / "a.zarr"
    to_zarr(cube(), path)
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    to_zarr(cube(), path)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
    with pytest.raises(errors.StoreConflictError, match=r"a\.zarr.*overwrite=True"):
        to_zarr(cube(seed=1), path)
    xr.testing.assert_equal(to_zarr(cube(seed=1), path, overwrite=True), cube(seed=1))


def fail_after(n: int):
    """A function that passes blocks on and fails from the n-th on."""
    calls = iter(range(10**6))

    def kernel(block):
        if next(calls) >= n:
            raise RuntimeError("cosmic ray")
        return block

    return kernel


def sixteen_regions() -> xr.Dataset:
    """Sixteen regions of more than a megabyte."""
    values = da.random.default_rng(5).random((150, 192, 192), chunks=(-1, 48, 48), dtype=np.float32)
    mask = (values[0] > 0.5).astype(np.uint8)
    return xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), values), "mask": (("y", "x"), mask)}
    )


def digests(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def test_failure_leaves_a_resumable_store(tmp_path):
    ds = sixteen_regions()
    broken = ds.copy()
    broken["reflectance"] = ds.reflectance.copy(
        data=ds.reflectance.data.map_blocks(fail_after(5), dtype="f4")
    )
    path = tmp_path / "a.zarr"
    with pytest.raises(RuntimeError, match="cosmic ray"):
        to_zarr(broken, path, token="same")
    info = describe(path)
    assert not info.complete
    assert 0 < info.regions_done < info.regions
    with pytest.raises(errors.StoreIncompleteError, match="interrupted"):
        lunarray.open_zarr(path)
    with pytest.raises(errors.StoreConflictError, match="begun with other"):
        to_zarr(ds, path, token="another")

    written = {f: f.stat().st_mtime_ns for f in path.rglob("*") if f.is_file() and f.name.isdigit()}
    to_zarr(ds, path, token="same")
    kept = sum(f.stat().st_mtime_ns == t for f, t in written.items())
    assert kept >= 2 * info.regions_done  # what was done was not done again
    to_zarr(ds, tmp_path / "b.zarr", token="same")
    assert digests(path) == digests(tmp_path / "b.zarr")


def write_with_tickets(store: Path, tickets: Path) -> None:
    """Write a store; while there is a folder of tickets, each block takes one of them or waits for one."""

    def with_a_ticket(block):
        while tickets.exists():
            for ticket in tickets.iterdir():
                try:
                    ticket.unlink()
                    return block
                except FileNotFoundError:
                    pass
            time.sleep(0.02)
        return block

    ds = sixteen_regions()
    slow = ds.reflectance.data.map_blocks(with_a_ticket, dtype="f4", name="slow-reflectance")
    ds["reflectance"] = ds.reflectance.copy(data=slow)
    to_zarr(ds, store)


def test_killed_again_and_again_and_resumed_is_bit_equal(tmp_path, processes_end):
    killed, tickets = tmp_path / "killed.zarr", tmp_path / "tickets"
    done = [0]
    for turn in range(2):
        # Each turn may work on four blocks and then stands still, so that it is never too late for killing it.
        tickets.mkdir(exist_ok=True)
        for number in range(4):
            (tickets / f"{turn}-{number}").touch()
        process = FRESH.Process(target=write_with_tickets, args=(killed, tickets))
        process.start()
        while not killed.exists() or describe(killed).regions_done <= done[-1]:
            assert process.is_alive()
            time.sleep(0.02)
        process.kill()
        process.join()
        done.append(describe(killed).regions_done)
    assert not describe(killed).complete
    assert 0 < done[1] < done[2] < describe(killed).regions
    shutil.rmtree(tickets)
    process = FRESH.Process(target=write_with_tickets, args=(killed, tickets))
    process.start()
    process.join()
    assert process.exitcode == 0
    whole = to_zarr(sixteen_regions(), tmp_path / "whole.zarr", token="whole")
    xr.testing.assert_equal(lunarray.open_zarr(killed), whole)
    chunks = {name: data for name, data in digests(killed).items() if Path(name).name.isdigit()}
    expected = digests(tmp_path / "whole.zarr")
    assert chunks == {name: data for name, data in expected.items() if Path(name).name.isdigit()}


@pytest.mark.parametrize("processes", [False, True])
def test_distributed_equals_local(tmp_path, client, processes, processes_end):
    local = to_zarr(cube(), tmp_path / "local.zarr")
    with forked_workers(), client(processes=processes):
        remote = to_zarr(cube(), tmp_path / "remote.zarr", progress=True)
        xr.testing.assert_identical(remote.compute(), local.compute().assign_attrs(remote.attrs))


def test_empty_and_scalar_variables(tmp_path):
    ds = xr.Dataset(
        {
            "none": (
                ("observation", "wavelength"),
                da.zeros((0, 150), chunks=(10, -1), dtype="f4"),
            ),
            "one": ((), da.asarray(np.float32(3))),
        }
    )
    opened = to_zarr(ds, tmp_path / "a.zarr")
    xr.testing.assert_equal(opened, ds)
    info = describe(tmp_path / "a.zarr")
    assert info.complete
    assert info.regions == info.regions_done == 1


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(errors.StoreError, match="no such store"):
        lunarray.open_zarr(tmp_path / "absent.zarr")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "precious.txt").write_text("mine")
    with pytest.raises(errors.StoreFormatError, match=r"xarray\.open_zarr"):
        lunarray.open_zarr(folder)
    for overwrite in (False, True):
        with pytest.raises(errors.StoreError):
            to_zarr(cube(), folder, overwrite=overwrite)
    assert (folder / "precious.txt").read_text() == "mine"
    with pytest.raises(errors.InputError, match="ndarray"):
        to_zarr(np.zeros(3), tmp_path / "b.zarr")


def test_store_of_another_version_is_refused(tmp_path):
    path = tmp_path / "a.zarr"
    to_zarr(cube(), path)
    file = path / "zarr.json"
    file.write_text(file.read_text().replace(f'"version": {FORMAT_VERSION}', '"version": 99'))
    with pytest.raises(errors.StoreFormatError, match=r"version 99.*lunarray_version"):
        lunarray.open_zarr(path)
    with pytest.raises(errors.StoreFormatError, match="version 99"):
        to_zarr(cube(), path)
    to_zarr(cube(), path, overwrite=True)


def test_unwritable_place_is_a_store_error(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(errors.StoreError, match="cannot be written"):
        to_zarr(cube(), file / "a.zarr")
    assert file.read_text() == ""


def test_same_calls_have_the_sameidentity(tmp_path):
    from lunarray.store.content import identity

    assert identity(cube()) == identity(cube())
    assert identity(cube()) != identity(cube(seed=1))


@pytest.fixture
def polar_maps():
    ds = cube(shape=(3, 70, 90)).isel(wavelength=0)
    return lunarray.geo.assign_crs(ds.drop_vars("wavelength"), "north")


@pytest.mark.parametrize("stored", [False, True])
def test_geotiff_reads_back_the_same(tmp_path, polar_maps, stored):
    import rioxarray

    maps = to_zarr(polar_maps, tmp_path / "a.zarr") if stored else polar_maps
    files = maps.lunar.to_cog(tmp_path / "tif")
    assert {file.stem for file in files} == set(polar_maps.data_vars)
    for file in files:
        back = rioxarray.open_rasterio(file).squeeze("band")
        np.testing.assert_array_equal(back.values, polar_maps[file.stem].values)
        np.testing.assert_allclose(back.x, polar_maps.x)
        np.testing.assert_allclose(back.y, polar_maps.y)
        assert lunarray.geo.crs_code(back.rio.crs) == "IAU_2015:30130"
        with rasterio.open(file) as raster:
            assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    there = sorted(p.name for p in (tmp_path / "tif").iterdir() if p.suffix != ".qml")
    assert there == sorted(f.name for f in files)


def test_geotiff_of_what_is_no_map_is_refused(tmp_path, polar_maps):
    with pytest.raises(errors.InputError, match="grid"):
        xr.Dataset({"FeO": ("observation", np.zeros(3))}).lunar.to_cog(tmp_path / "a")
    with pytest.raises(errors.GridError, match="assign_crs"):
        cube().filled.lunar.to_cog(tmp_path / "a.tif")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "a.tif").exists()


def test_writers_at_once_leave_zarr_as_it_was():
    """The setting is the process's: the first sets it, the last sets it back, whoever ends between."""
    import zarr

    from lunarray.store.layout import every_chunk

    before = zarr.config.get("array.write_empty_chunks")
    one, two = every_chunk(), every_chunk()
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert zarr.config.get("array.write_empty_chunks") is True
    two.__exit__(None, None, None)
    assert zarr.config.get("array.write_empty_chunks") is before
