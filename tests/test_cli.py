"""The lunarray command."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 (writes the mosaics)
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from typer.testing import CliRunner

import lunarray as la
from lunarray.cli import app
from lunarray.cli.options import a_picture


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments, code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result.output

    return call


@pytest.fixture(scope="module")
def cube():
    return la.simulate.polar_scene("south", resolution=12000, latitude=85, seed=3)


def test_help_names_every_command_and_option(run):
    text = run("--help")
    assert {"demo", "invert-oxides", "info"} <= set(re.findall(r"[a-z-]+", text))
    for command in ("demo", "invert-oxides", "info"):
        assert len(run(command, "--help")) > 200
    assert run("--version").startswith("lunarray: ")


def test_demo(run, tmp_path):
    small = ("--resolution", 12000, "--latitude", 85)
    text = run("demo", "-o", tmp_path / "demo", *small, "--slopes", 0)
    errors = dict(re.findall(r"│ (\w+)\s+│ [\d.–]+ +│ ([\d.]+)", text))
    assert set(errors) == set(la.oxides.OXIDES)
    maps = la.open_zarr(tmp_path / "demo/oxides.zarr")
    scene = la.open_zarr(tmp_path / "demo/scene.zarr")
    error = (maps.FeO - scene.FeO_true).values
    assert float(errors["FeO"]) == pytest.approx(np.sqrt(np.nanmean(error**2)), abs=0.006)
    assert float(errors["FeO"]) < 1
    with rasterio.open(tmp_path / "demo/geotiff/FeO.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), maps.FeO.values)
    assert (tmp_path / "demo/quicklook.png").stat().st_size > 50_000
    text = run("demo", "-o", tmp_path / "demo", *small)  # again, on rough ground
    flagged, pixels = map(int, re.search(r"Flagged +(\d+) of (\d+) pixels", text).groups())
    assert 0 < flagged <= pixels
    scene = la.open_zarr(tmp_path / "demo/scene.zarr").load()
    assert np.log(scene.light_gain_true).std() > 0.5
    assert (scene.light_uncertainty > 0.3).mean() > 0.5


def test_store_in_store_out(run, tmp_path, cube):
    cube[["reflectance", "light_uncertainty"]].lunar.to_zarr(tmp_path / "in.zarr")
    picture = tmp_path / "q.png"
    text = run(
        "invert-oxides", tmp_path / "in.zarr", "-o", tmp_path / "out.zarr", "--quicklook", picture
    )
    assert "FeO, wt%" in text
    assert picture.read_bytes()[:4] == b"\x89PNG"
    expected = cube.lunar.invert_oxides().compute()
    xr.testing.assert_equal(la.open_zarr(tmp_path / "out.zarr"), expected)
    before = (tmp_path / "out.zarr/FeO/zarr.json").stat().st_mtime_ns
    run("invert-oxides", tmp_path / "in.zarr", "-o", tmp_path / "out.zarr")  # nothing left to do
    assert (tmp_path / "out.zarr/FeO/zarr.json").stat().st_mtime_ns == before
    shown = run("info", tmp_path / "out.zarr")
    for word in (
        "complete",
        "IAU_2015:30135",
        "silicon dioxide",
        "invert_oxides",
        "default.safetensors",
    ):
        assert word in shown


def test_mosaic_on_other_wavelengths(run, tmp_path, cube):
    other = np.linspace(515, 1580, 180)
    fine = la.simulate.polar_scene(
        "south", resolution=12000, latitude=85, seed=3, wavelengths=other
    )
    file = tmp_path / "mosaic.tif"
    data = fine.reflectance.compute()
    data.rio.to_raster(file)
    with rasterio.open(file, "r+") as raster:
        for band, wavelength in enumerate(other, start=1):
            raster.set_band_description(band, f"{wavelength:.3f} nm")
    # A mosaic says nothing of its light; that of level ground is known.
    run("invert-oxides", file, "-o", tmp_path / "out.zarr", "--light-uncertainty", "0.02")
    found, expected = la.open_zarr(tmp_path / "out.zarr"), cube.lunar.invert_oxides().compute()
    np.testing.assert_allclose(found.FeO, expected.FeO, atol=1.5)


def test_mosaic_that_does_not_say_its_wavelengths(run, tmp_path, cube):
    cube.reflectance.compute().rio.to_raster(tmp_path / "mosaic.tif")
    arguments = ("invert-oxides", tmp_path / "mosaic.tif", "-o", tmp_path / "out.zarr")
    assert "no wavelengths" in run(*arguments, code=1)
    listed = tmp_path / "nm.txt"
    listed.write_text("\n".join(f"{nm:.2f}" for nm in la.sp.WAVELENGTHS_150))
    run(*arguments, "--wavelengths", listed)
    expected = cube[["reflectance"]].lunar.invert_oxides().compute()
    np.testing.assert_allclose(la.open_zarr(tmp_path / "out.zarr").FeO, expected.FeO, atol=1e-3)
    listed.write_text("visible, infrared")
    assert "no list of numbers" in run(*arguments, "--wavelengths", listed, "--overwrite", code=1)


def test_notes_are_one_line(run, tmp_path, cube):
    bare = cube.reflectance.compute().drop_vars("spatial_ref")
    bare.attrs = {}
    bare.rio.to_raster(tmp_path / "mosaic.tif")
    listed = tmp_path / "nm.txt"
    listed.write_text(" ".join(map(str, la.sp.WAVELENGTHS_150)))
    text = run(
        "invert-oxides", tmp_path / "mosaic.tif", "-o", tmp_path / "o.zarr", "--wavelengths", listed
    )
    assert "Note" in text
    assert "no coordinate reference system" in text
    assert "LunarrayWarning" not in text


def test_what_other_programs_wrote(run, tmp_path, cube):
    """A cube in Zarr or netCDF of xarray's own, and one that only a reader named by the user opens."""
    cube[["reflectance"]].to_zarr(tmp_path / "plain.zarr", consolidated=False)
    cube[["reflectance"]].to_netcdf(tmp_path / "plain.nc", engine="h5netcdf")
    expected = cube[["reflectance"]].lunar.invert_oxides().compute()
    for number, name in enumerate(("plain.zarr", "plain.nc")):
        out = tmp_path / f"{number}.zarr"
        run("invert-oxides", tmp_path / name, "-o", out)
        xr.testing.assert_allclose(la.open_zarr(out)["FeO"], expected["FeO"])
    (tmp_path / "plain.zarr").rename(tmp_path / "odd")
    shown = run("info", tmp_path / "odd")
    assert "opened by the reader zarr" in shown
    assert "IAU_2015:30135" in shown


def test_info_of_any_file(run, tmp_path):
    from test_sp_io import write_product

    path = write_product(tmp_path, "SP_2C_02_1")
    shown = run("info", path)
    assert "opened by the reader kaguya-sp" in shown
    assert "observation 5, wavelength 296" in shown
    assert re.search(r"radiance .*float32 .*W m-2 um-1 sr-1", shown)
    run(
        "gib",
        "create",
        tmp_path / "bank.zarr",
        "--extent=-1,-1,1,1",
        "--regions",
        "1x1",
        "--shape",
        "64x64",
    )
    shown = run("info", tmp_path / "bank.zarr")
    assert "reader lunarray-gib" in shown
    assert "0 of 1" in shown
    (tmp_path / "a.bin").write_bytes(b"?")
    assert "no reader knows it" in run("info", tmp_path / "a.bin", code=1)
    assert "Give 'kaguya-sp'" in run("info", path, "--reader", "no", code=1)


def test_models_are_listed(run):
    shown = run("models")
    for words in ("oxides", "150 bands", "FeO", "fractures", "images"):
        assert words in shown


def test_readers_are_listed(run):
    shown = run("readers")
    for name in la.readers.available():
        assert name in shown


@pytest.mark.parametrize("name", ["result.nc", "result.tif", "maps.png", "o.CSV"])
def test_what_is_no_store_is_not_written(run, tmp_path, name):
    """A folder called result.nc helps nobody, and it is said before the work."""
    text = run("invert-oxides", tmp_path / "absent.spc", "-o", tmp_path / name, code=2)
    assert ".zarr" in text
    assert not list(tmp_path.iterdir())


def test_a_picture_of_no_known_kind_is_refused_before_the_work(run, tmp_path):
    text = run(
        "invert-oxides", tmp_path / "absent.spc", "-o", tmp_path / "o.zarr", "--quicklook", "o.xyz", code=2
    )  # fmt: skip
    assert "not written as .xyz" in text
    assert ".png" in text
    # What matplotlib writes is not refused, whichever it is that is installed.
    for kind in FigureCanvasAgg.filetypes:
        assert a_picture(Path(f"o.{kind}")) is not None


def test_faults_are_one_line_and_exit_code_1(run, tmp_path):
    for arguments, words in {
        ("invert-oxides", tmp_path / "absent.spc", "-o", tmp_path / "o.zarr"): "absent.spc",
        (
            "invert-oxides",
            tmp_path / "a.tif",
            tmp_path / "b.tif",
            "-o",
            tmp_path / "o.zarr",
        ): "a.tif: no such file",
        ("info", tmp_path / "absent.zarr"): "absent.zarr: no such file",
    }.items():
        text = run(*arguments, code=1)
        assert words in text
        assert "Traceback" not in text
    assert not (tmp_path / "o.zarr").exists()


@pytest.mark.realdata
def test_real_orbits_with_picture_and_map(run, tmp_path, real_data):
    files = sorted((real_data / "sp").glob("*.spc"))
    text = run(
        "invert-oxides", *files, "-o", tmp_path / "t.zarr", "--quicklook", tmp_path / "q.png"
    )
    assert text.count("38 of 38") == 2
    result = la.open_zarr(tmp_path / "t.zarr")
    assert result.sizes["observation"] == 76
    assert set(result.orbit.values) == {2358, 4184}
    assert (tmp_path / "q.png").stat().st_size > 50_000
    run(
        "invert-oxides",
        real_data / "sp/*.spc",
        "-o",
        tmp_path / "m.zarr",
        "--grid",
        "geographic",
        "--resolution",
        2,
    )
    maps = la.open_zarr(tmp_path / "m.zarr")
    assert maps.FeO.dims == ("lat", "lon")
    seen = maps.FeO.load().where(maps.FeO.notnull(), drop=True)
    assert set(seen.lat.values) <= {-15.0, -13.0, 17.0, 19.0}
    run(
        *("invert-oxides", *files, "-o", tmp_path / "l.zarr"),
        *("--albedo", real_data / "maps" / "Albedo_Map.csv.gz"),
        *("--dem", real_data / "context" / "LDEM_4.LBL", "--max-incidence", 25),
    )
    lit = la.open_zarr(tmp_path / "l.zarr").load()
    assert np.isfinite(lit.FeO[lit.incidence < 25]).all()
    assert np.isnan(lit.FeO[lit.incidence > 25]).all()
    assert np.all(abs(lit.local_incidence - lit.incidence) < 5)
    assert not np.allclose(lit.FeO[:38], result.FeO[:38], atol=0.02)
    assert "falls on the grid" in run(
        "invert-oxides", *files, "-o", tmp_path / "n.zarr", "--grid", "north", code=1
    )
    assert not (tmp_path / "n.zarr").exists()
    dark = ("invert-oxides", *files, "-o", tmp_path / "d.zarr", "--max-incidence", 3)
    assert "no spectrum is left" in run(*dark, code=1)
    assert not (tmp_path / "d.zarr").exists()
