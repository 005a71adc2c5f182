"""What the commands say of bad input: one line in the words of the command line, exit code 1 or 2, no traceback."""

from __future__ import annotations

import re

import click
import dask
import numpy as np
import pytest
import rasterio
import typer
from typer.testing import CliRunner

import lunarray as la
from lunarray import errors
from lunarray.cli import app
from lunarray.cli.words import in_words_of

#: Words of Python that a user of the command line can do nothing with.
PYTHON = re.compile(r"\b\w+=(True|False|None|['\"])|\b(lunarray|la|ds|obj)\.\w+|\.lunar\.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Inputs, good ones and bad."""
    place = tmp_path_factory.mktemp("words")
    cube = la.simulate.polar_scene("south", resolution=24000, latitude=86, seed=3).load()
    for name, part in {
        "cube": cube[["reflectance"]],
        "short": cube[["reflectance"]].isel(wavelength=slice(40)),
        "maps": cube[["FeO_true"]].rename(FeO_true="FeO"),
    }.items():
        part.lunar.to_zarr(place / f"{name}.zarr", progress=False)
    (place / "empty.zarr").mkdir()
    for name in ("spc", "fits", "tif", "txt", "csv", "safetensors", "gpkg", "rmf", "pt"):
        (place / f"bad.{name}").write_bytes(b"a,b\nno, such thing\n" * 300)
    profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 1, "dtype": "float32"}
    with rasterio.open(place / "image.tif", "w", **profile) as file:
        file.write(np.random.default_rng(0).random((1, 64, 64), "f4"))
    bank = la.superres.GIBGrid((1, 1), (16, 16), (-45.0, -22.5, 0.0, 0.0))
    la.superres.create_gib(place / "bank.zarr", bank, ["Mg", "Al"], 4)
    return place


INVERT = "invert-oxides {0}/cube.zarr -o {0}/o.zarr"
MAP = "map-fractures {0}/image.tif -o {0}/m.zarr"
TRAIN = "train-oxides {0}/cube.zarr -o {0}/w.safetensors"
FIT = "fit-elements {0}/bad.fits -o {0}/e.zarr --solar {0}/bad.txt --rmf {0}/bad.rmf"
BANK = "gib {1} {0}/bank.zarr"
#: What is given, and what must be said.
CASES = {
    "invert-oxides {0}/absent.spc -o {0}/o.zarr": "absent.spc: no such file",
    "invert-oxides {0}/bad.spc -o {0}/o.zarr": "bad.spc",
    "invert-oxides {0}/bad.tif -o {0}/o.zarr": "bad.tif: not a raster",
    "invert-oxides {0}/empty.zarr -o {0}/o.zarr": "not a lunarray store",
    "invert-oxides {0}/short.zarr -o {0}/o.zarr": "the model needs 150 bands",
    "invert-oxides {0}/maps.zarr -o {0}/o.zarr": "no variable 'reflectance'",
    f"{INVERT} --model {{0}}/absent.safetensors": "absent.safetensors",
    f"{INVERT} --model {{0}}/bad.safetensors": "or leave out --model",
    f"{INVERT} --grid north": "there are no tracks",
    f"{INVERT} --reader nix": "--reader: 'nix'",
    f"{INVERT} --quicklook {{0}}/q.xyz": "Use .png, .pdf or .svg",
    f"{INVERT} --device nix": "--device",
    "invert-oxides {0}/cube.zarr -o {0}/maps.zarr": "the store holds other data",
    f"{TRAIN}": "--reference: no reference maps",
    f"{TRAIN} --reference {{0}}/absent": "there are no maps",
    f"{TRAIN} --reference {{0}}/maps.zarr --reference-std FeO": "--reference-std: FeO. Give name=number",
    "atlas {0}/cube.zarr {0}/cube.zarr -o {0}/a": "a second cube of the south pole",
    "atlas {0}/cube.zarr -o {0}/a --regions {0}/bad.gpkg": "bad.gpkg",
    "compare {0}/maps.zarr {0}/absent.zarr": "absent.zarr",
    "compare {0}/maps.zarr {0}/cube.zarr": "no variable is in both",
    "compare {0}/maps.zarr {0}/image.tif": "gdal_edit.py -a_srs IAU_2015:30130",
    "compare {0}/maps.zarr {0}/maps.zarr --method cubic": "--method",
    FIT: "bad.fits",
    f"{MAP} --vectors {{0}}/v.gpkg": "Leave out --vectors",
    f"{MAP} --vectors {{0}}/v.xyz": "Use .gpkg, .shp or .geojson",
    f"{MAP} --model {{0}}/bad.pt": "bad.pt",
    f"{MAP} --resolution 2": "gdal_edit.py -a_srs IAU_2015:30130",
    f"{MAP} --value-range 1 0": "--value-range: from 1.0 to 0.0",
    "map-fractures {0}/image.tif {0}/image.tif -o {0}/m.zarr": "not georeferenced",
    "train-fractures {0}/image.tif -o {0}/w.safetensors --lines {0}/bad.gpkg": "not georeferenced",
    "train-fractures {0}/image.tif -o {0}/w.safetensors": "--lines",
    "gib create {0}/b.zarr --extent 0,0": "--extent: '0,0'",
    "gib create {0}/bank.zarr --regions 1x1 --elements Mg": "or give --overwrite to begin anew",
    "gib populate {0}/absent.zarr": "that `lunarray gib create` made",
    "gib populate {0}/bank.zarr {0}/bad.csv": "bad.csv: no columns",
    "gib populate {0}/bank.zarr --albedo {0}/absent.tif": "no such file",
    "gib features {0}/bank.zarr": "Give --map, or a base map",
    "gib train {0}/bank.zarr -m {0}/models": "no region holds features",
    "gib train {0}/bank.zarr -m {0}/models --region 3,3": "no region row 3",
    "gib predict {0}/bank.zarr -m {0}/models -o {0}/p.zarr": "lunarray gib train",
    "info {0}/absent.zarr": "no such",
    "info {0}/bad.tif": "bad.tif",
    "info {0}/bad.pt": "Name the reader, --reader ",
    "demo -o {0}/d --pole geographic": "--pole",
    "--cluster nix info {0}/cube.zarr": "--cluster: unknown cluster 'nix'",
    "--cluster tcp://127.0.0.1:1 info {0}/cube.zarr": "no scheduler answers",
    "--report {0}/r.xyz invert-oxides {0}/cube.zarr -o {0}/o.zarr": "r.xyz",
}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c, marks=[pytest.mark.needs("torch")] * ("--model {0}/bad.pt" in c))
        for c in CASES
    ],
)
def test_bad_input_is_one_line_in_the_words_of_the_command(command, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    arguments = [word.format(folder) for word in command.split()]
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in (1, 2), done.output
    assert CASES[command] in done.output
    if done.exit_code == 2:  # refused by the parser, which shows how to use the command
        return
    (line,) = [line for line in done.output.splitlines() if line.startswith("Error")]
    assert done.output.strip().endswith(line)
    # What comes with a file's format is its name, wherever the user is.
    said = (
        line.split("In Python:")[0].replace(str(folder), "").replace("lunarray.oxides.OxideCNN", "")
    )
    assert not PYTHON.search(said), line
    assert re.search(r"\. [A-Z`][^.].*\.$", line), line


def _told(remedy, where=None, **options):
    """The remedy in the words of a command with options of these names."""
    command = click.Command("verb", params=[click.Option([o]) for o in options.values()])
    for parameter, name in zip(command.params, options, strict=True):
        parameter.name = name
    context = typer.Context(command)
    error = errors.InputError("wrong", where=where, remedy=remedy)
    return in_words_of(error, context).removeprefix("wrong. ")


def test_parameters_become_options_of_the_command():
    assert _told("Give device='auto' or 'cpu'", device="--device") == "Give --device auto or cpu."
    assert _told("Give overwrite=True to begin anew", overwrite="--overwrite") == (
        "Give --overwrite to begin anew."
    )
    assert (
        _told("Leave uncertainty=False", uncertainty="--uncertainty") == "Leave out --uncertainty."
    )
    assert _told("Give latitude= that fits", latitude="--latitude") == "Give --latitude that fits."
    assert _told("Give metres, or None", "fill_radius", fill_radius="--fill-radius") == (
        "--fill-radius: wrong. Give metres, or leave it out."
    )
    assert _told(
        "Correct them, or leave them out with errors='skip'", skip_bad_files="--skip-bad-files"
    ) == ("Correct them, or leave them out with --skip-bad-files.")


def test_what_a_command_has_no_option_for_is_said_to_be_python():
    assert _told("Give device='auto'") == "In Python: give device='auto'."
    assert _told("Use lunarray.sp.resample_bands") == "In Python: use lunarray.sp.resample_bands."
    assert _told("Check the path") == "Check the path."
