"""What is written takes its place in one step: overwriting, appending, links to stores, debris."""

from __future__ import annotations

import os
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import lunarray
from lunarray import errors
from lunarray.store import describe, regions, to_zarr, transaction
from lunarray.store.layout import choose_layout


@pytest.fixture(autouse=True)
def _sixteen_regions(monkeypatch):
    small = partial(choose_layout, chunk_bytes=16 * 16 * 4)
    monkeypatch.setattr(regions, "choose_layout", small)


def field(factor: float = 1.0) -> xr.Dataset:
    values = np.random.default_rng(7).random((64, 64), dtype=np.float32) * np.float32(factor)
    array = da.from_array(values, chunks=16)
    return xr.Dataset({"a": (("y", "x"), array), "q": (("y", "x"), (array > 0.5).astype("u1"))})


def stopping_at(ds: xr.Dataset, where: tuple[int, int]) -> xr.Dataset:
    def kernel(block, block_info=None):
        if block_info[0]["chunk-location"] == where:
            raise RuntimeError("cosmic ray")
        return block

    array = ds["a"].data.map_blocks(kernel, dtype="f4", meta=np.empty((0, 0), "f4"))
    return ds.assign(a=(("y", "x"), array))


class TestOverwrite:
    @pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
    def test_by_what_is_read_from_it(self, tmp_path, scheduler):
        path = tmp_path / "a.zarr"
        to_zarr(field(), path)
        with dask.config.set(scheduler=scheduler):
            out = to_zarr(lunarray.open_zarr(path) * 2, path, overwrite=True)
        np.testing.assert_array_equal(out["a"], field()["a"] * 2)
        np.testing.assert_array_equal(out["q"], field()["q"] * 2)
        assert os.listdir(tmp_path) == ["a.zarr"]

    def test_by_a_link_to_it(self, tmp_path, monkeypatch):
        path = tmp_path / "real" / "a.zarr"
        to_zarr(field(), path)
        (tmp_path / "link.zarr").symlink_to("real/a.zarr")
        monkeypatch.chdir(tmp_path)
        to_zarr(lunarray.open_zarr("link.zarr") * 2, path, overwrite=True)
        out = to_zarr(lunarray.open_zarr(path) * 2, "real/../link.zarr", overwrite=True)
        np.testing.assert_array_equal(out["a"], field()["a"] * 4)
        assert (tmp_path / "link.zarr").is_symlink()
        assert not path.is_symlink()
        assert os.listdir(tmp_path / "real") == ["a.zarr"]

    def test_what_was_there_stays_until_all_is_there(self, tmp_path):
        path = tmp_path / "a.zarr"
        to_zarr(field(), path)
        old = lunarray.open_zarr(path)
        with dask.config.set(scheduler="synchronous"), pytest.raises(RuntimeError, match="ray"):
            to_zarr(stopping_at(field(3), (2, 2)), path, overwrite=True, token="new", retries=0)
        np.testing.assert_array_equal(old["a"], field()["a"])
        np.testing.assert_array_equal(lunarray.open_zarr(path)["a"], field()["a"])
        begun = describe(transaction.beside(path))
        assert 0 < begun.regions_done < begun.regions
        # The same call goes on with it, another one does not.
        seen = []
        other = field(3)
        other["a"] = other["a"].copy(data=other["a"].data.map_blocks(counting, seen, dtype="f4"))
        out = to_zarr(other, path, overwrite=True, token="new")
        assert 0 < len(seen) < 16
        np.testing.assert_array_equal(out["a"], field(3)["a"])
        assert os.listdir(tmp_path) == ["a.zarr"]

    def test_the_beginning_of_something_else_is_not_gone_on_with(self, tmp_path):
        path = tmp_path / "a.zarr"
        to_zarr(field(), path)
        with dask.config.set(scheduler="synchronous"), pytest.raises(RuntimeError, match="ray"):
            to_zarr(stopping_at(field(3), (2, 2)), path, overwrite=True, retries=0)
        out = to_zarr(field(5), path, overwrite=True)
        np.testing.assert_array_equal(out["a"], field(5)["a"])
        assert os.listdir(tmp_path) == ["a.zarr"]

    @pytest.mark.parametrize("step", [0, 1])
    def test_without_an_exchange_by_the_system(self, tmp_path, monkeypatch, step):
        """Two renames instead; stopped between them, the same call completes the change."""
        monkeypatch.setattr(transaction, "_exchange", None)
        path = tmp_path / "a.zarr"
        to_zarr(field(), path)
        with monkeypatch.context() as patch:
            rename, calls = os.rename, []

            def stopping(a, b):
                if str(a).endswith((".next", "a.zarr")) and len(calls) == step:
                    raise KeyboardInterrupt
                calls.append(b)
                rename(a, b)

            # Only the two renames that change places are counted: those of the beginning are past by then.
            take = transaction.take_place
            from lunarray.store import api

            def stopped(place):
                patch.setattr(os, "rename", stopping)
                take(place)

            patch.setattr(api, "take_place", stopped)
            with pytest.raises(KeyboardInterrupt):
                to_zarr(field(3), path, overwrite=True)
        if step == 0:
            np.testing.assert_array_equal(lunarray.open_zarr(path)["a"], field()["a"])
        else:
            with pytest.raises(errors.StoreError, match="no such store"):
                lunarray.open_zarr(path)
        out = to_zarr(field(3), path, overwrite=True)
        np.testing.assert_array_equal(out["a"], field(3)["a"])
        assert os.listdir(tmp_path) == ["a.zarr"]

    def test_what_is_no_store_is_left_alone(self, tmp_path):
        folder = tmp_path / "a.zarr"
        folder.mkdir()
        (folder / "precious.txt").write_text("mine")
        with pytest.raises(errors.StoreConflictError, match="not overwritten"):
            to_zarr(field(), folder, overwrite=True)
        assert [p.name for p in tmp_path.rglob("*")] == ["a.zarr", "precious.txt"]


def counting(block, seen):
    seen.append(1)
    return block


@pytest.mark.parametrize("whole", [True, False])
def test_a_gap_in_integers_is_told_from_nothing(tmp_path, monkeypatch, whole):
    if not whole:  # several blocks to a region, so that it is written with the gap in it
        larger = partial(choose_layout, chunk_bytes=32 * 32 * 4)
        monkeypatch.setattr(regions, "choose_layout", larger)
    ds = stopping_at(field(), (1, 1))
    ds["q"] = (ds["a"] > 0.5).astype("u1")
    ds["n"] = (ds["a"] * 100).astype("i2")
    with pytest.warns(errors.LunarrayWarning, match="1 of"):
        out = to_zarr(ds, tmp_path / "a.zarr", token="t", errors="nan", retries=0)
    gap = np.zeros((64, 64), bool)
    gap[16:32, 16:32] = True
    q, n = field()["a"].values > 0.5, (field()["a"].values * 100).astype("i2")
    np.testing.assert_array_equal(out["q"], np.where(gap, 255, q))
    np.testing.assert_array_equal(out["n"], np.where(gap, -32768, n))
    assert out["q"].dtype == np.uint8
    assert (out["q"].attrs["nodata"], out["n"].attrs["nodata"]) == (255, -32768)
    assert "nodata" not in out["a"].attrs
    mended = field()
    mended["q"] = (mended["a"] > 0.5).astype("u1")
    mended["n"] = (mended["a"] * 100).astype("i2")
    out = to_zarr(mended, tmp_path / "a.zarr", token="t")
    np.testing.assert_array_equal(out["n"], n)
    assert "nodata" not in out["q"].attrs


def test_debris_of_dead_writers_is_swept_and_that_of_others_is_not(tmp_path):
    path = tmp_path / "a.zarr"
    hex_ = "0123456789abcdef" * 2
    ours = [f".a.zarr.{hex_}.begun", f".a.zarr.{hex_}.gone"]
    others = [f".a.zarr.b.{hex_}.begun", ".a.zarr.begun", f".b.zarr.{hex_}.gone", "a.zarr.gone"]
    for name in [*ours, *others]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text("{}")
    to_zarr(field(), path)
    assert sorted(os.listdir(tmp_path)) == sorted(["a.zarr", *others])


def test_a_link_does_not_get_around_the_lock(tmp_path):
    path = tmp_path / "real" / "a.zarr"
    to_zarr(field(), path)
    (tmp_path / "link.zarr").symlink_to(path)

    from lunarray.store.locks import WriteLock

    with WriteLock(path), pytest.raises(errors.StoreLockedError):
        to_zarr(field(2), tmp_path / "link.zarr", overwrite=True)
    # One that leads nowhere yet leads to the store afterwards.
    (tmp_path / "new.zarr").symlink_to(tmp_path / "elsewhere" / "b.zarr")
    to_zarr(field(2), tmp_path / "new.zarr")
    assert (tmp_path / "new.zarr").is_symlink()
    np.testing.assert_array_equal(
        lunarray.open_zarr(tmp_path / "elsewhere" / "b.zarr")["a"], field(2)["a"]
    )
