"""The commands of the Global Information Bank."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import lunarray as la
from lunarray import superres as sr
from lunarray.cli import app

GRID = ["--regions", "2x2", "--shape", "30x40", "--extent", "-20,-10,60,50"]


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    text = result.output + (result.stderr if result.stderr_bytes is not None else "")
    assert result.exit_code == code, text
    return text


@pytest.fixture
def table(tmp_path):
    """As the CLASS table is written, with its blanks."""
    rng = np.random.default_rng(1)
    names = [f"V{k}_{axis}" for k in range(4) for axis in ("LATITUDE", "LONGITUDE")]
    names += [
        f"{e}_{k}"
        for e in ("MG", "AL", "SI", "FE")
        for k in ("WT", "FIT_UNC", "SYS_UNC", "TOT_UNC")
    ]
    rows = []
    for _ in range(20):
        lat, lon = rng.uniform(-8, 40), rng.uniform(-18, 50)
        corners = [lat + 6, lon, lat, lon, lat, lon + 2, lat + 6, lon + 2]
        values = [(m * rng.uniform(0.8, 1.2), 0.3, 1.0, 1.1) for m in (5, 13, 18, 8)]
        rows.append(corners + [v for four in values for v in four])
    path = tmp_path / "tracks.csv"
    lines = [", ".join(f"{n:>12}" for n in names)]
    lines += [", ".join(f"{v:12.2f}" for v in row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def albedo(tmp_path):
    lon = -180 + (np.arange(72) + 0.5) * 5
    values = np.tile(np.where(np.abs(lon) < 20, 0.15, 0.35), (36, 1))
    path = tmp_path / "albedo.csv.gz"
    np.savetxt(path, values, delimiter=",")
    return path


def test_create_and_populate(tmp_path, table, albedo):
    store = tmp_path / "gib.zarr"
    text = run("gib", "create", store, *GRID, "--elements", "Mg,Al,Si,Fe", "--features", 3)
    assert "60 × 80 pixels" in text
    assert "0 of 4" in text
    text = run(
        "gib", "populate", store, table, "--albedo", albedo, "--quicklook", tmp_path / "q.png",
        "--geotiff", tmp_path / "tif", "--vectors", tmp_path / "tracks.gpkg",
    )  # fmt: skip
    assert "20 added, 0 known, 0 outside; 20 in all" in text
    assert "4 populated anew" in text
    assert (tmp_path / "q.png").stat().st_size > 5000
    assert (tmp_path / "tif" / "Fe.qml").exists()
    assert (tmp_path / "tracks.gpkg").exists()
    ds = sr.open_gib(store)
    assert (ds.state.values == 6).all()
    fe = sr.read_class_tracks(table).abundance.sel(element="Fe")
    assert float(ds.abundance.sel(element="Fe").mean()) == pytest.approx(float(fe.mean()), rel=0.05)
    text = run("gib", "populate", store, table)
    assert "0 added, 20 known" in text
    assert "0 populated anew" in text
    run("gib", "populate", store)


def test_results_of_fits(tmp_path, table, albedo):
    fits = sr.read_class_tracks(table).drop_vars("row").rename(footprint="time")
    fits = fits.assign_coords(time=np.arange(20).astype("M8[D]").astype("M8[ns]"))
    fits.lunar.to_zarr(tmp_path / "fits.zarr", progress=False)
    store = tmp_path / "gib.zarr"
    run("gib", "create", store, *GRID)
    # The same polygons as the albedo has.
    la.export.to_vector(_maria(), tmp_path / "maria.gpkg", style="")
    run(
        "gib", "populate", store, tmp_path / "fits.zarr", "--mare-polygons", tmp_path / "maria.gpkg"
    )
    table_of = sr.gib_footprints(store)
    np.testing.assert_array_equal(table_of.time.values, fits.time.values)
    mare = sr.open_gib(store).mare.values
    assert (mare[:, :40] == 1).all()
    assert (mare[:, 40:] == 2).all()


def _maria():
    import geopandas
    import shapely

    crs = la.geo.moon_crs("geographic").to_wkt()
    return geopandas.GeoDataFrame({"n": [1]}, geometry=[shapely.box(-20, -90, 20, 90)], crs=crs)


def test_failures_say_what_to_do(tmp_path, table, albedo):
    store = tmp_path / "gib.zarr"
    text = run("gib", "create", store, "--regions", "8", code=1)
    assert "--regions" in text
    assert not store.exists()
    text = run("gib", "populate", store, table, code=1)
    assert "no such store" in text
    run("gib", "create", store, "--regions", "1x1", "--shape", "20x20", "--extent", "100,0,120,20")
    text = run("gib", "populate", store, table, "--albedo", albedo, code=1)
    assert "lie outside of the grid" in text
    text = run("gib", "populate", store, table, "--skip-outside")
    assert "0 added, 0 known, 20 outside" in text
    picture = ("--quicklook", tmp_path / "q.png")
    text = run("gib", "populate", store, table, "--skip-outside", *picture, code=1)
    assert "nothing is populated" in text
    assert "populate" in run("gib", "--help")
    text = run("gib", "create", tmp_path / "odd.zarr", "--elements", "Fe,Xx", code=1)
    assert "'Xx' is no chemical element" in text
    text = run("gib", "features", store, "--map", "albedo", code=1)
    assert "name=file" in text


def test_features_of_maps(tmp_path, albedo):
    store = tmp_path / "gib.zarr"
    run("gib", "create", store, *GRID)
    text = run("gib", "features", store, "--map", f"albedo={albedo}")
    assert "8 of albedo, at 1.5, 4, 10, 24 km" in text
    assert (sr.open_gib(store)["state"].values & 1).all()
