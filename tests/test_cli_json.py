"""What every command has: -h, --json, and an end within seconds of Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

import lunarray as la
from lunarray.cli import app
from lunarray.cli.interruption import GRACE, how_to_go_on


def commands(group=None, names=()):
    """Every command of the app, as the words that call it."""
    group = typer.main.get_command(app) if group is None else group
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*names, name))
        else:
            yield (*names, name)


def call(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


def told(*words, code=0):
    """What a command prints on standard output with --json, which must be JSON and nothing else."""
    return json.loads(call(*words, "--json", code=code).stdout)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A cube in a store, the same by xarray in Zarr and netCDF, and a bank."""
    place = tmp_path_factory.mktemp("json")
    cube = la.simulate.polar_scene("south", resolution=24000, latitude=86, seed=3).load()
    cube[["reflectance"]].lunar.to_zarr(place / "cube.zarr", progress=False)
    cube[["reflectance"]].to_zarr(place / "plain.zarr", consolidated=False)
    cube[["reflectance"]].to_netcdf(place / "plain.nc", engine="h5netcdf")
    small = ("--extent=-1,-1,1,1", "--regions", "1x1", "--shape", "64x64")
    call("gib", "create", place / "bank.zarr", *small)
    return place


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_has_json_and_a_short_help(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    short = call(*words, "-h").output
    assert short == call(*words, "--help").output
    assert "--json" in short
    assert call(words[0], "-h").output


def test_lists_as_json():
    found = told("readers")
    assert found["command"] == "readers"
    assert [r["name"] for r in found["readers"]] == [
        r.name for r in la.readers.available().values()
    ]
    assert all(isinstance(r["files"], list) for r in found["readers"])
    models = {m["model"]: m for m in told("models")["models"]}
    assert set(la.oxides.OXIDES) <= set(models["oxides"]["gives"])


@pytest.mark.parametrize(
    ("name", "reader"),
    [("cube.zarr", "lunarray"), ("plain.zarr", "zarr"), ("plain.nc", "netcdf"), ("bank.zarr", "lunarray-gib")],
)  # fmt: skip
def test_info_as_json(place, name, reader):
    found = told("info", place / name)
    assert found["reader"] == reader
    if name == "bank.zarr":
        assert found["bank"]["regions"] == 1
        assert found["bank"]["abundance"] == 0
        return
    with la.open(place / name) as ds:
        assert found["axes"] == dict(ds.sizes)
        assert found["variables"]["reflectance"]["type"] == str(ds["reflectance"].dtype)
    assert found["crs"] == "IAU_2015:30135"
    assert found.get("complete", True) is True


def test_a_check_as_json_whether_it_finds_faults_or_not(place, tmp_path):
    store = tmp_path / "store.zarr"
    la.open(place / "cube.zarr").lunar.to_zarr(store, progress=False)
    assert told("verify", store)["ok"] is True
    damaged = max((f for f in store.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-9])
    found = told("verify", store, code=1)
    assert found["ok"] is False
    assert found["faults"][0]["problem"] == "damaged"


def test_maps_as_json(place, tmp_path):
    maps = tmp_path / "maps.zarr"
    found = told("invert-oxides", place / "cube.zarr", "-o", maps)
    assert found["written"] == [{"what": "store", "path": str(maps)}]
    stored = la.open_zarr(maps)
    summary = found["summary"]["all"]
    assert summary["mean"]["FeO"] == pytest.approx(float(stored["FeO"].mean()), rel=1e-5)
    assert summary["inverted"] == int(stored["FeO"].notnull().sum())
    scores = {row["oxide"]: row for row in told("compare", maps, maps)["scores"]}
    assert scores["FeO"]["RMSE"] == 0
    assert scores["FeO"]["count"] == summary["inverted"]


def test_standard_output_stays_empty_where_a_command_fails(tmp_path):
    failed = call("info", tmp_path / "absent.zarr", "--json", code=1)
    assert failed.stdout == ""
    assert "no such file" in failed.stderr


def test_any_zarr_and_any_pattern_is_compared(place, tmp_path):
    """Maps that xarray wrote, in folders of any name, and one that a pattern names."""
    maps = la.open(place / "cube.zarr").lunar.invert_oxides().compute()
    maps[["FeO"]].to_zarr(tmp_path / "theirs", consolidated=False)
    maps[["FeO"]].to_netcdf(tmp_path / "ours.nc", engine="h5netcdf")
    for theirs in ("theirs", "thei*"):
        found = told("compare", tmp_path / "ours.nc", tmp_path / theirs)
        assert found["scores"][0]["RMSE"] == 0


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("invert-oxides", {"output": "o.zarr"}, "What is done stays in o.zarr"),
        ("map-elements", {"output": "m", "overwrite": True}, "without --overwrite"),
        ("train-oxides", {"checkpoint": None, "output": "w.pt"}, "with --checkpoint"),
        ("train-oxides", {"checkpoint": "c", "output": "w.pt"}, "goes on from c"),
        ("make-model", {"output": "w.safetensors"}, "begins anew"),
        ("populate", {"store": "bank.zarr"}, "goes on where it stopped"),
        ("verify", {"store": "a.zarr"}, "begins anew"),
    ],
)
def test_how_to_go_on(name, given, words):
    context = SimpleNamespace(params=given, command=SimpleNamespace(name=name))
    assert words in how_to_go_on(context)


#: A command whose blocks listen to nothing for a minute.
DEAF = """
import sys, time
from types import SimpleNamespace
import dask.array as da, numpy as np, xarray as xr
from lunarray.cli import app, oxides

def deaf(block):
    print("begun", file=sys.stderr, flush=True)
    time.sleep(60)
    return block

def invert(**_):
    blocks = da.zeros((8, 8), chunks=4).map_blocks(deaf, meta=np.empty((0, 0)))
    return xr.Dataset({"FeO": (("y", "x"), blocks)})

oxides._lit = lambda *_: SimpleNamespace(lunar=SimpleNamespace(invert_oxides=invert))
app()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_within_seconds_and_says_how_to_go_on(place, tmp_path):
    out = tmp_path / "o.zarr"
    words = ["invert-oxides", str(place / "cube.zarr"), "-o", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF, *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    early = ""
    while "begun" not in early:
        line = process.stderr.readline()
        assert line, early
        early += line
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - begun < GRACE + 2
    assert process.returncode == 130, said
    assert "Interrupted" in said
    assert f"What is done stays in {out}: the same command goes on where it stopped." in said
    assert "Traceback" not in said
