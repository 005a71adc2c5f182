"""What a run tells: its report, its bar, its log."""

from __future__ import annotations

import io
import json
import logging
import os
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import lunarray
from lunarray import engine, errors
from lunarray.engine import accounts, last_report
from lunarray.store import api, regions, to_zarr
from lunarray.store.layout import choose_layout


@pytest.fixture(autouse=True)
def _many_regions(monkeypatch):
    small = partial(choose_layout, chunk_bytes=16 * 16 * 4)
    monkeypatch.setattr(regions, "choose_layout", small)


def load_twice(path, device):
    return lambda pixels: pixels[:, :1] * 2


def maps(folder, kernel=None) -> xr.Dataset:
    """Twelve regions."""
    weights = folder / "weights.txt"
    weights.write_text("2")
    spec = engine.ModelSpec.from_file(f"{__name__}:load_twice", weights, outputs=1, device="cpu")
    array = da.from_array(
        np.random.default_rng(1).random((3, 48, 64), dtype=np.float32), chunks=(-1, 16, 16)
    )
    if kernel is not None:
        array = array.map_blocks(kernel, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    return xr.Dataset({"FeO": (("y", "x"), engine.map_pixels(spec, array)[0])})


def fail_first(block, block_info=None):
    if tuple(block_info[0]["chunk-location"][1:]) == (0, 1):
        raise ValueError("<b>not & valid</b>")
    return block


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "distributed"])
def test_report_counts_what_was_done(tmp_path, client, scheduler):
    if scheduler == "distributed":
        with client(processes=False):
            to_zarr(maps(tmp_path), tmp_path / "a.zarr", report=tmp_path / "report")
    else:
        with dask.config.set(scheduler=scheduler):
            to_zarr(maps(tmp_path), tmp_path / "a.zarr", report=tmp_path / "report")
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report == json.loads(json.dumps(last_report().to_dict(), default=str))
    assert report["status"] == "complete"
    assert report["regions"] == {"total": 12, "there_before": 0, "written": 12, "failed": 0}
    assert report["pixels"] == 48 * 64
    assert report["bytes_written"] == 48 * 64 * 4
    assert report["pixels_per_s"] == pytest.approx(48 * 64 / report["seconds"])
    assert report["scheduler"]["kind"] == scheduler
    assert report["stages"]["model"]["count"] == 12
    assert report["stages"]["write"]["count"] == 12
    assert 0 < report["stages"]["write"]["seconds"] < report["seconds"] * report["scheduler"]["threads"]  # fmt: skip
    assert report["tasks"]["write"]["count"] == 12
    assert 0 < report["busy"] <= 1.01
    assert report["memory"]["peak"] > 50 * 2**20
    (model,) = report["manifest"]["models"]
    assert model["sha256"] == "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"
    assert report["failures"] == []
    page = (tmp_path / "report/report.html").read_text()
    assert "12 written, 0 there before, 0 failed, of 12" in page
    assert model["sha256"] in page


def test_report_of_a_run_that_goes_on(tmp_path):
    path = tmp_path / "a.zarr"
    broken, whole = maps(tmp_path, fail_first), maps(tmp_path)
    with dask.config.set(scheduler="synchronous"), pytest.raises(ValueError, match="not & valid"):
        to_zarr(broken, path, token="t", retries=0, report=tmp_path / "stopped.json")
    stopped = json.loads((tmp_path / "stopped.json").read_text())
    assert stopped["status"] == "stopped"
    assert stopped["error"] == "ValueError: <b>not & valid</b>"
    to_zarr(whole, path, token="t")
    report = last_report()
    assert report.regions["there_before"] == stopped["regions"]["written"]
    assert report.regions["written"] == 12 - stopped["regions"]["written"]


def test_failures_are_listed_and_the_page_escapes(tmp_path):
    with (
        pytest.warns(errors.LunarrayWarning),
        dask.config.set(
            {
                "lunarray.report": tmp_path / "report.html",
                "lunarray.errors": "nan",
                "lunarray.retries": 0,
            }
        ),
    ):
        to_zarr(maps(tmp_path, fail_first), tmp_path / "a.zarr")
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Failures (1)</h2>" in page
    assert "&lt;b&gt;not &amp; valid&lt;/b&gt;" in page
    assert "<b>not" not in page
    assert "y 0–16, x 16–32" in page


def test_report_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StoreError, match="the store is not concerned"):
        to_zarr(maps(tmp_path), tmp_path / "a.zarr", report=tmp_path / "file" / "report.json")
    assert lunarray.store.describe(tmp_path / "a.zarr").complete


@pytest.mark.parametrize("scheduler", ["threads", "processes", "distributed"])
def test_one_bar_for_all_schedulers(tmp_path, client, capsys, monkeypatch, scheduler):
    steps = []

    from contextlib import contextmanager

    @contextmanager
    def bar(description, total, *, show=None):
        assert total == 12
        assert description == "Mapping"
        yield lambda: steps.append(1)

    monkeypatch.setattr(api, "progress_bar", bar)
    if scheduler == "distributed":
        with client(processes=False):
            to_zarr(maps(tmp_path), tmp_path / "a.zarr", description="Mapping")
    else:
        with dask.config.set(scheduler=scheduler, num_workers=1):
            to_zarr(maps(tmp_path), tmp_path / "a.zarr", description="Mapping")
    assert len(steps) == 12


def test_bar_shows_its_count(tmp_path, capsys):
    to_zarr(maps(tmp_path), tmp_path / "a.zarr", progress=True, description="Mapping")
    shown = capsys.readouterr().err
    assert "Mapping" in shown
    assert "12/12" in shown


def test_log_is_lines_of_json(tmp_path):
    file = tmp_path / "run.jsonl"
    with engine.log_to(file), pytest.warns(errors.LunarrayWarning):
        to_zarr(maps(tmp_path, fail_first), tmp_path / "a.zarr", errors="nan", retries=1)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["begin", "retry", "region_failed", "end"]
    assert {line["logger"] for line in lines} == {"lunarray.store"}
    begin, retry, failed, end = lines
    assert begin["regions"] == 12
    assert (retry["level"], retry["attempt"]) == ("WARNING", 1)
    assert failed["error"] == "ValueError"
    assert end["status"] == "complete with gaps"
    assert end["regions"]["failed"] == 1
    assert logging.getLogger("lunarray").handlers == []


def test_log_levels_and_exceptions():
    stream = io.StringIO()
    with engine.log_to(stream, level=logging.ERROR) as logger:
        logger.warning("not shown")
        try:
            raise KeyError("x")
        except KeyError:
            logger.exception("shown %d", 1)
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert found["message"] == "shown 1"
    assert "KeyError" in found["exception"]


def test_accounts_are_taken_once_and_bounded(monkeypatch):
    accounts.take()
    with accounts.stage("a"):
        pass
    accounts.spend("a", 2.0)
    monkeypatch.setattr(accounts, "MAX_EVENTS", 1)
    for number in range(3):
        accounts.event("store", "retry", f"{number}", level=logging.DEBUG)
    taken = accounts.take()
    assert taken["stages"]["a"][0] == 2
    assert taken["stages"]["a"][1] >= 2
    assert [e["message"] for e in taken["events"]] == ["0"]
    assert taken["dropped"] == 2
    assert taken["process"].endswith(f":{os.getpid()}")
    assert taken["peak"] >= taken["rss"] > 0
    empty = accounts.take()
    assert (empty["stages"], empty["events"], empty["dropped"]) == ({}, [], 0)
