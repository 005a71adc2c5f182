"""STAC items: valid, on the Moon, and the same for the same result."""

from __future__ import annotations

import json

import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr
from typer.testing import CliRunner

import lunarray as la
from lunarray.cli import app
from lunarray.errors import GridError, InputError, WrongKindError
from lunarray.export import stac_item
from lunarray.geo import assign_grid, lunar_grid, polar_grid

MOMENT = "2009-06-10T18:25:00Z"


def a_map(grid, **attrs):
    dims = ("lat", "lon") if grid.crs.geographic else ("y", "x")
    data = np.zeros(grid.shape, np.float32)
    ds = xr.Dataset({"FeO": (dims, data, {"units": "wt%", "long_name": "iron(II) oxide"})})
    return assign_grid(ds, grid).assign_attrs(attrs)


def checked(item):
    """The item, held to the schemas that pystac brings; those of the extensions are on the network."""
    pystac = pytest.importorskip("pystac")
    plain = {**json.loads(json.dumps(item, allow_nan=False)), "stac_extensions": []}
    pystac.Item.from_dict(plain).validate()
    return item


@pytest.mark.parametrize(
    ("grid", "bbox", "code"),
    [
        (polar_grid("north", 10_000, 85), (-180, 82.6, 180, 90), "IAU_2015:30130"),
        (polar_grid("south", 10_000, 85), (-180, -90, 180, -82.6), "IAU_2015:30135"),
        (lunar_grid("geographic", 1.0), (-180, -90, 180, 90), "IAU_2015:30100"),
        (lunar_grid("geographic", 1.0, (170, -10, 190, 5)), (170, -10, -170, 5), "IAU_2015:30100"),
        (lunar_grid("geographic", 1.0, (200, 10, 220, 15)), (-160, 10, -140, 15), "IAU_2015:30100"),
        (lunar_grid("equirectangular", 10_000, (0, 0, 300_000, 300_000)), (0, 0, 9.893, 9.893), "IAU_2015:30110"),
    ],
)  # fmt: skip
def test_a_map_is_where_it_is(grid, bbox, code):
    item = checked(stac_item(a_map(grid), "FeO.tif", time=MOMENT[:-1]))
    assert item["bbox"] == pytest.approx(bbox, abs=0.2)
    properties = item["properties"]
    assert properties["proj:code"] == code
    assert properties["proj:shape"] == list(grid.shape)
    assert properties["proj:transform"] == pytest.approx(list(grid.transform)[:6])
    assert properties["ssys:targets"] == ["Moon"]
    assert properties["datetime"] == "2009-06-10T18:25:00.000Z"
    # A rectangle over ±180° is two.
    crossing = item["bbox"][0] > item["bbox"][2]
    assert item["geometry"]["type"] == ("MultiPolygon" if crossing else "Polygon")
    shape = shapely.geometry.shape(item["geometry"])
    assert shape.is_valid
    assert -180 <= shape.bounds[0] < shape.bounds[2] <= 180
    (band,) = item["assets"]["data"]["bands"]
    assert band == {
        "name": "FeO", "description": "iron(II) oxide", "data_type": "float32", "unit": "wt%", "nodata": "nan"
    }  # fmt: skip
    assert item["assets"]["data"]["type"].endswith("profile=cloud-optimized")


def test_a_polar_map_beside_the_pole_does_not_claim_it():
    grid = lunar_grid("north", 10_000, (100_000, 100_000, 300_000, 300_000))
    item = checked(stac_item(a_map(grid), "m.zarr", time=MOMENT[:-1]))
    west, south, east, north = item["bbox"]
    assert (west, east) == pytest.approx((108.4, 161.6), abs=0.5)
    colatitude = np.degrees(2 * np.arctan(np.hypot(1e5, 1e5) / 2 / 1737.4e3))
    assert north == pytest.approx(90 - colatitude, abs=0.01)
    assert south < north < 90


def test_tracks_are_placed_and_timed_by_their_observations():
    sp = la.sample("sp_orbit")
    item = checked(stac_item(sp, "sp.zarr"))
    times = sp["time"].values
    assert item["properties"]["datetime"] is None
    assert item["properties"]["start_datetime"][:19] == str(times.min())[:19]
    assert item["properties"]["end_datetime"][:19] == str(times.max())[:19]
    lon = (sp.lon.values + 180) % 360 - 180
    assert item["bbox"] == pytest.approx([lon.min(), sp.lat.values.min(), lon.max(), sp.lat.values.max()])  # fmt: skip
    turned = sp.assign_coords(lon=sp.lon + 360 * (np.arange(sp.sizes["observation"]) % 2))
    assert stac_item(turned, "sp.zarr")["bbox"] == pytest.approx(item["bbox"])


def test_vectors_in_a_projection_are_placed_in_degrees():
    shapes = [shapely.box(-50_000, -50_000, 0, 0), shapely.box(10_000, 10_000, 40_000, 40_000)]
    frame = geopandas.GeoDataFrame(geometry=shapes, crs="IAU_2015:30130")
    item = checked(
        stac_item(frame, "https://example.org/f.gpkg", time=("2010-01-01", "2011-01-01"))
    )
    assert item["bbox"][1] > 87
    assert item["assets"]["data"]["href"] == "https://example.org/f.gpkg"
    assert item["id"] == "f"


def test_the_same_result_has_the_same_item_and_history_dates_it(tmp_path):
    stored = a_map(polar_grid("north", 20_000, 85)).lunar.to_zarr(tmp_path / "m.zarr")
    first, second = (stac_item(stored, tmp_path / "m.zarr") for _ in range(2))
    assert first == second
    assert first["properties"]["created"] in stored.attrs["history"]


def test_what_has_no_place_or_time_is_refused():
    with pytest.raises(InputError, match="nothing says when"):
        stac_item(a_map(polar_grid("north", 20_000, 85)), "m.zarr")
    with pytest.raises(InputError, match="no time"):
        stac_item(a_map(polar_grid("north", 20_000, 85)), "m.zarr", time="yesterday")
    with pytest.raises(GridError):
        stac_item(xr.Dataset({"a": ("x", [1.0])}), "m.zarr", time=MOMENT[:-1])
    with pytest.raises(GridError):
        stac_item(geopandas.GeoDataFrame(geometry=[]), "m.gpkg", time=MOMENT[:-1])
    with pytest.raises(WrongKindError):
        stac_item([1, 2], "m.zarr")


def test_the_command_writes_items_beside_results_or_a_catalogue(tmp_path):
    grid = polar_grid("north", 20_000, 85)
    maps = a_map(grid).lunar.to_zarr(tmp_path / "oxides.zarr")
    maps.lunar.to_cog(tmp_path / "cog")
    run = CliRunner().invoke(app, ["stac", str(tmp_path / "oxides.zarr"), "--json"])
    assert run.exit_code == 0, run.output
    beside = json.loads((tmp_path / "oxides.stac.json").read_text())
    assert checked(beside)["assets"]["data"]["href"] == "oxides.zarr"
    files = [str(tmp_path / "oxides.zarr"), str(tmp_path / "cog" / "FeO.tif")]
    place = ["-o", str(tmp_path / "cat"), "--time", "2008-01-01/2009-01-01"]
    run = CliRunner().invoke(app, ["stac", *files, *place])
    assert run.exit_code == 0, run.output
    pystac = pytest.importorskip("pystac")
    catalogue = pystac.Catalog.from_file(str(tmp_path / "cat" / "catalog.json"))
    items = {item.id: item for item in catalogue.get_items()}
    assert set(items) == {"oxides", "FeO"}
    assert items["FeO"].assets["data"].href == "../cog/FeO.tif"
    run = CliRunner().invoke(app, ["stac", str(tmp_path / "cog" / "FeO.tif")])
    assert run.exit_code == 1
    assert "--time" in run.output
    assert not (tmp_path / "cog" / "FeO.stac.json").exists()
