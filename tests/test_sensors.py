"""Bands of any sensor: tables of them, models made for them, spectra that have more bands than a model takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import lunarray as la
from lunarray import simulate
from lunarray.cli import app
from lunarray.errors import BandMismatchError, InputError
from lunarray.oxides.novelty import fit_novelty, novelty
from lunarray.oxides.sensors import SENSORS, read_bands


@pytest.mark.parametrize("name", SENSORS)
def test_sensors_that_come_along(name):
    nm, fwhm = read_bands(name)
    assert {"m3": 83, "mi": 9, "clementine": 5, "clementine-nir": 8}[name] == nm.size == fwhm.size
    assert (np.diff(nm) > 0).all()
    assert (fwhm > 0).all()


@pytest.mark.parametrize(
    ("text", "widths"),
    [
        ("750\n950\n1000\n", [200, 125, 50]),
        ("750 10\n950 20\n1000 30\n", [10, 20, 30]),
        ("# Clementine\nband,center_wavelength,band_width\n1,750,10\n3,1000,30\n2,950,20\n", [10, 20, 30]),
        ("FWHM;wavelength (nm)\n10;750\n20;950\n30;1000\n", [10, 20, 30]),
    ],
)  # fmt: skip
def test_tables_of_bands(tmp_path, text, widths):
    path = tmp_path / "b.csv"
    path.write_text(text)
    nm, fwhm = read_bands(path)
    np.testing.assert_allclose(nm, [750, 950, 1000])
    np.testing.assert_allclose(fwhm, widths)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no bands"),
        ("wavelength\n", "no bands"),
        ("750\n", "one band"),
        ("0.75\n0.95\n", "no nm"),
        ("750\n750\n", "750 nm comes twice"),
        ("750\nred\n", "'red'"),
        ("750,10\n950\n", "'950'"),
        ("750,10\n950,0\n", "not positive"),
    ],
)
def test_what_is_no_table_of_bands_is_told(tmp_path, text, match):
    path = tmp_path / "b.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=match):
        read_bands(path)
    with pytest.raises(InputError, match="no table of bands"):
        read_bands(tmp_path / "none.csv")


@pytest.mark.parametrize("bands", [2, 3, 5, 9])
def test_novelty_of_few_bands(bands):
    rng = np.random.default_rng(0)
    shapes = 1 + 0.1 * rng.standard_normal((500, bands))
    x = (shapes * rng.uniform(0.05, 0.3, (500, 1))).astype("f4")
    model = fit_novelty(x)
    found = novelty(x, model)
    assert np.isfinite(found).all()
    assert (found <= 1).mean() > 0.97
    odd = np.full((1, bands), 0.1, "f4")
    odd[0, 0] = 1.0
    assert novelty(odd, model)[0] > 1


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small model for Clementine, by the command."""
    from typer.testing import CliRunner

    from lunarray.cli import app

    path = tmp_path_factory.mktemp("made") / "clementine.safetensors"
    arguments = ["--bands", "clementine", "-o", str(path), "--soils", "400", "--epochs", "2"]
    words = ["make-model", *arguments, "--oxides", "FeO,TiO2", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "5 bands, 415-1000 nm" in result.stderr
    told = json.loads(result.stdout)
    assert told["oxides"] == ["FeO", "TiO2"]
    assert told["bands_nm"] == [415, 750, 900, 950, 1000]
    assert "RMSE" in told["report"]
    assert told["written"] == [
        {"what": "weights", "path": str(path)},
        {"what": "card", "path": str(path.with_suffix(".md"))},
    ]
    return path


@pytest.mark.needs("torch")
def test_a_model_is_made_with_its_card(made):
    card = made.with_suffix(".md").read_text()
    assert "415, 750, 900, 950, 1000" in card
    assert "FeO, TiO2 in wt%" in card
    assert "in 90 % interval" in card
    nm, fwhm = read_bands("clementine")
    soils = simulate.soils(20, 3, nm, fwhm)
    maps = soils.reflectance.lunar.invert_oxides(made, uncertainty=True)
    assert set(maps.data_vars) >= {"FeO", "TiO2", "FeO_std", "novelty", "quality"}
    assert "CaO" not in maps
    assert np.isfinite(maps.FeO).all()


@pytest.mark.needs("torch")
def test_a_model_takes_its_bands_of_more(made):
    """Of a cube with more bands, in another order, those that the model takes."""
    nm = np.array([750.0, 415.3, 600.0, 900.0, 1000.0, 949.8, 1250.0])
    soils = simulate.soils(20, 3, np.sort(nm))
    spectra = soils.reflectance.sel(wavelength=nm.astype("f4"))
    few = soils.reflectance.sel(wavelength=[415.3, 750, 900, 949.8, 1000], method="nearest")
    for chunked in (False, True):
        given = spectra.chunk(sample=7) if chunked else spectra
        found = given.lunar.invert_oxides(made)
        xr.testing.assert_allclose(found.FeO.compute(), few.lunar.invert_oxides(made).FeO)
    for wrong in (spectra.isel(wavelength=[0, 1, 2]), few.assign_coords(wavelength=few.wavelength + 3)):  # fmt: skip
        with pytest.raises(BandMismatchError):
            wrong.lunar.invert_oxides(made)


@pytest.mark.needs("torch")
def test_bands_without_soils_are_left_out_or_refused(tmp_path):
    from typer.testing import CliRunner

    from lunarray.cli import app

    path = tmp_path / "b.csv"
    path.write_text("750\n950\n1000\n2000\n2500\n")
    options = ["--bands", str(path), "-o", str(tmp_path / "m.safetensors")]
    small = ["--soils", "100", "--epochs", "1"]
    result = CliRunner().invoke(app, ["make-model", *options, *small])
    assert result.exit_code == 0, result.output
    assert "2 of 5 bands lie beyond 410-1800 nm" in result.output
    assert "2 more lie" in (tmp_path / "m.md").read_text()
    path.write_text("2000\n2500\n")
    result = CliRunner().invoke(app, ["make-model", *options, *small])
    assert result.exit_code == 1
    assert "0 bands within" in " ".join(result.output.split())


def test_pictures_of_the_method(tmp_path):
    figure = la.plot.network_diagram(32, 150, path=tmp_path / "n.png")
    assert (tmp_path / "n.png").stat().st_size > 1000
    texts = " ".join(t.get_text() for t in figure.axes[0].texts)
    assert "150 × 128" in texts
    assert "19,200" in texts
    with pytest.raises(InputError):
        la.plot.network_diagram(0)
    with pytest.raises(InputError):
        la.plot.network_diagram(outputs=())
    with pytest.raises(InputError, match="lon and lat"):
        la.plot.sample_map(xr.Dataset(), xr.DataArray(0.0))


def test_models_that_come_along():
    """They run by their names, on their own bands, and hold what their cards say on soils of their own."""
    nm, fwhm = read_bands("mi")
    soils = simulate.soils(400, 99, nm, fwhm)
    found = soils.reflectance.lunar.invert_oxides("oxides-mi", light_uncertainty=0.0)
    assert float(np.sqrt(((found.FeO - soils.FeO) ** 2).mean())) < 2.0
    # In the order of the product, where VIS 1001 stands before NIR 1000.
    other = soils.reflectance.isel(wavelength=[0, 1, 2, 3, 5, 4, 6, 7, 8])
    again = other.lunar.invert_oxides("oxides-mi", light_uncertainty=0.0)
    np.testing.assert_array_equal(again.FeO, found.FeO)


@pytest.mark.realdata
def test_a_cube_of_m3_is_inverted_by_the_model_of_its_bands(real_data):
    """83 bands, of which the model takes 53; the numbers are no abundances to believe, see the card."""
    with pytest.warns(UserWarning, match="no coordinate reference system"):
        cube = la.open(real_data / "m3" / "M3_4030seg_L2_aristcrater.tif")
    maps = cube.lunar.invert_oxides("oxides-m3", uncertainty=True).compute()
    assert maps.FeO.shape == (50, 50)
    assert np.isfinite(maps.FeO).mean() > 0.99
    assert float(maps.novelty.median()) < 1


@pytest.mark.realdata
def test_the_command_inverts_a_cube_of_m3_by_the_model_of_its_bands(real_data, tmp_path):
    """It brought every mosaic to the bands of the default model, which those of M3 do not reach."""
    cube, store = real_data / "m3" / "M3_4030seg_L2_aristcrater.tif", tmp_path / "m3.zarr"
    command = ["invert-oxides", str(cube), "--model", "oxides-m3", "-o", str(store)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    with pytest.warns(UserWarning, match="no coordinate reference system"):
        direct = la.open(cube).lunar.invert_oxides("oxides-m3").compute()
    np.testing.assert_allclose(xr.open_zarr(store).FeO, direct.FeO, rtol=1e-5)
