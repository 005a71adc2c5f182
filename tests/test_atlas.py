"""The atlas of both poles, and differences against other grids."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

import lunarray as la
from lunarray import geo
from lunarray.cli import app
from lunarray.errors import GridError, InputError
from lunarray.oxides import OXIDES
from lunarray.oxides.regions import REGIONS


@pytest.fixture(scope="module")
def moon():
    return la.simulate.moon(40_000.0, 2, chunks=None)


@pytest.fixture(scope="module")
def made(moon):
    return la.oxides.atlas(moon.north, moon.south)


# --------------------------------------------------------------------------------------------- atlas
def test_atlas_is_the_inversion_poleward_of_the_latitude(moon, made):
    for pole, maps in made.items():
        cube = getattr(moon, pole)
        whole = la.oxides.invert_oxides(cube)
        lat = np.abs(geo.lonlat(geo.geobox_of(maps))[1])
        same = whole.sel(x=maps.x, y=maps.y)
        for name in (*OXIDES, "Mg_number", "novelty"):
            inside = np.where(lat >= 65, same[name].values, np.nan)
            np.testing.assert_array_equal(maps[name], inside)
        # Nothing of the cap was cut away.
        everywhere = np.abs(geo.lonlat(geo.geobox_of(cube))[1]) >= 65
        assert np.isfinite(whole.FeO.values[everywhere]).sum() == np.isfinite(maps.FeO).sum() > 800
        assert geo.crs_code(geo.crs_of(maps)) == f"IAU_2015:{30130 if pole == 'north' else 30135}"
        assert "atlas" in maps.attrs["history"]


def test_atlas_errors(moon):
    with pytest.raises(InputError, match="no cube"):
        la.oxides.atlas()
    with pytest.raises(GridError, match="north"):
        la.oxides.atlas(south=moon.north)
    with pytest.raises(GridError, match="not polar"):
        la.oxides.polar_cap(moon.reference)
    with pytest.raises(GridError, match="does not reach"):
        la.oxides.polar_cap(moon.north.isel(x=slice(0, 4), y=slice(0, 4)), 80)
    with pytest.raises(InputError, match="latitude"):
        la.oxides.atlas(moon.north, latitude=90)


# ---------------------------------------------------------------------------------------- difference
def test_difference_against_the_same_grid_is_subtraction(made):
    other = made["north"][["FeO", "MgO"]] - 1
    other = geo.assign_crs(other, "north")
    off = la.oxides.difference(made["north"], other)
    assert set(off.data_vars) == {"FeO", "MgO"}
    seen = np.isfinite(made["north"].FeO.values)
    np.testing.assert_allclose(off.FeO.values[seen], 1, atol=1e-5)
    assert off.FeO.attrs["units"] == "percent"


def test_difference_against_other_grids(moon):
    """Truth less a map made of the truth is that map's error, whatever its grid."""
    truth = la.simulate.truth_maps(moon.south)
    off = la.oxides.difference(truth, moon.reference)
    lat = geo.lonlat(geo.geobox_of(truth))[1]
    assert np.isnan(off.FeO.values[lat < -65.5]).all()
    belt = off.FeO.values[(lat > -64) & (lat < -52)]
    assert np.isfinite(belt).all()
    # The errors of single pixels (0.5 wt%) average out over 4.5 × 4.5 of them; patches, and edges, are left.
    assert np.median(np.abs(belt)) < 0.2
    second = la.oxides.difference(truth.FeO, moon.second_south)
    assert float(second.mean()) == pytest.approx(-0.03 * float(truth.FeO.mean()), abs=0.12)


def test_difference_errors(made, moon):
    with pytest.raises(InputError, match="no variable"):
        la.oxides.difference(made["north"], made["south"][["novelty"]].rename(novelty="other"))
    with pytest.raises(InputError, match="not in both"):
        la.oxides.difference(made["north"], moon.second_north.to_dataset(), variables=["MgO"])
    with pytest.raises(InputError, match="Dataset"):
        la.oxides.difference(made["north"], moon.second_north.rename("iron"))


def test_region_maps(moon):
    truth = {pole: la.simulate.truth_maps(getattr(moon, pole)) for pole in ("north", "south")}
    for region, pole in ((REGIONS["A"], "north"), (REGIONS["B"], "south")):
        panels = la.oxides.region_maps(truth[pole], moon.reference, region)
        assert panels.FeO.dims == ("panel", "lat", "lon")
        box = geo.geobox_of(panels.isel(panel=0)).boundingbox
        assert (box.left, box.bottom, box.right, box.top) == (
            region.west,
            region.south,
            region.east,
            region.north,
        )
        reference, result, off = (
            panels.FeO.sel(panel=p).values for p in ("reference", "result", "difference")
        )
        np.testing.assert_array_equal(off, result - reference)
        assert np.isfinite(off).mean() > 0.95
        assert np.nanmedian(np.abs(off)) < 0.15 * np.nanmax(reference)  # pixels of 40 km: coarse
    with pytest.raises(InputError, match="both"):
        la.oxides.region_maps(truth["north"][["FeO"]], moon.reference[["MgO"]], REGIONS["A"])


# -------------------------------------------------------------------------------------- command line
@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments, code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result.output

    return call


@pytest.fixture(scope="module")
def stores(moon, tmp_path_factory):
    folder = tmp_path_factory.mktemp("moon")
    for pole in ("north", "south"):
        getattr(moon, pole).lunar.to_zarr(folder / f"{pole}.zarr", progress=False)
        getattr(moon, f"second_{pole}").lunar.to_cog(folder / f"second_{pole}.tif")
    moon.reference.lunar.to_cog(folder / "reference")
    return folder


def test_open_maps(stores, moon):
    reference = la.store.open_maps(stores / "reference")
    assert reference.FeO.chunks is not None
    here, there = geo.geobox_of(reference), geo.geobox_of(moon.reference)
    assert here.shape == there.shape
    np.testing.assert_allclose(here.transform[:6], there.transform[:6], atol=1e-9)
    np.testing.assert_array_equal(reference.SiO2, moon.reference.SiO2)
    assert la.store.open_maps(stores / "second_north.tif").second_north.dims == ("y", "x")
    with pytest.raises(InputError, match="no maps"):
        la.store.open_maps(stores / "none")


@pytest.mark.needs("torch")
def test_train_map_and_compare(run, stores, tmp_path):
    text = run(
        "train-oxides", stores / "north.zarr", stores / "south.zarr", "--reference", stores / "reference",
        "--screen", stores / "second_north.tif", "--screen", stores / "second_south.tif", "--reference-window", 9,
        "--folds", 2, "-n", 2, "--epochs", 2, "--learning-rate", 0.01, "-o", tmp_path / "m.safetensors",
        "--samples", tmp_path / "samples.zarr", "--figures", tmp_path / "figures", "--device", "cpu",
    )  # fmt: skip
    assert "of 1,932 points" in text
    samples = la.open_zarr(tmp_path / "samples.zarr")
    assert 500 < samples.sizes["sample"] < 1932
    assert (tmp_path / "figures/scatter.png").exists()
    assert (tmp_path / "figures/correlation.png").exists()

    text = run(
        "atlas", stores / "north.zarr", stores / "south.zarr", "-o", tmp_path / "atlas",
        "--model", tmp_path / "m.safetensors", "--uncertainty", "--radius", 40_000,
        "--quicklook", tmp_path / "atlas.png",
    )  # fmt: skip
    assert "Haworth" in text
    south = la.open_zarr(tmp_path / "atlas/atlas_south.zarr")
    assert bool((south.FeO_lower < south.FeO_upper).where(south.FeO.notnull(), True).all())
    with rasterio.open(tmp_path / "atlas/geotiff_south/FeO.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), south.FeO.values)
    assert (tmp_path / "atlas/geotiff_south/FeO.qml").exists()
    assert not (tmp_path / "atlas/regions_north.csv").exists()
    assert len(la.geo.as_regions(tmp_path / "atlas/regions_south.gpkg")) == 9
    assert (tmp_path / "atlas.png").stat().st_size > 50_000

    text = run(
        "compare",
        tmp_path / "atlas/atlas_south.zarr",
        tmp_path / "atlas/geotiff_south",
        "-o",
        tmp_path / "off.zarr",
    )
    assert "FeO" in text
    assert np.nanmax(np.abs(la.open_zarr(tmp_path / "off.zarr").FeO)) == 0
    # A store of samples in place of cubes.
    again = tmp_path / "m2.safetensors"
    run(
        "train-oxides", tmp_path / "samples.zarr", "-o", again, "--folds", 2, "-n", 2, "--epochs", 1
    )
    assert again.exists()


def test_command_errors_are_one_line(run, stores, tmp_path):
    text = run("train-oxides", stores / "north.zarr", "-o", tmp_path / "m.safetensors", code=1)
    assert "no reference maps" in text
    text = run("atlas", stores / "north.zarr", stores / "north.zarr", "-o", tmp_path / "a", code=1)
    assert "second cube" in text
    text = run("compare", stores / "north.zarr", stores / "reference", "--method", "cubic", code=2)
    assert "Error" in text
    assert not (tmp_path / "a").exists()
