"""Options of the command itself: where a run takes place, what follows a failure, and its report."""

from __future__ import annotations

import json

import dask
import pytest
import xarray as xr
from typer.testing import CliRunner

import lunarray as la
from lunarray.cli import app


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    path = tmp_path_factory.mktemp("cube") / "cube.zarr"
    la.simulate.polar_scene("north", resolution=20_000, latitude=86).lunar.to_zarr(path)
    return str(path)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_report_and_policy_hold_for_what_the_command_stores(cube, tmp_path):
    report = tmp_path / "run.json"
    done = run("--on-error", "nan", "--retries", 0, "--report", report,
               "invert-oxides", cube, "-o", tmp_path / "maps.zarr")  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(report.read_text())
    assert said["status"] == "complete"
    assert said["regions"]
    # The setting ends with the command.
    assert dask.config.get("lunarray.report", None) is None
    assert dask.config.get("lunarray.errors", None) is None


def test_a_cluster_gives_the_same(cube, tmp_path):
    plain = run("invert-oxides", cube, "-o", tmp_path / "a.zarr")
    spread = run("--cluster", "local", "--workers", 1, "invert-oxides", cube, "-o", tmp_path / "b.zarr")  # fmt: skip
    assert plain.exit_code == 0, plain.output
    assert spread.exit_code == 0, spread.output
    a, b = (la.open_zarr(tmp_path / name).compute() for name in ("a.zarr", "b.zarr"))
    xr.testing.assert_equal(a, b)


def test_no_such_cluster(cube, tmp_path):
    failed = run("--cluster", "nowhere", "invert-oxides", cube, "-o", tmp_path / "maps.zarr")
    assert failed.exit_code == 1
    assert "nowhere" in failed.output
    assert not (tmp_path / "maps.zarr").exists()
