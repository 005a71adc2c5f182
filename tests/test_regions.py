"""Regions, what share of pixels they cover, statistics in them, and vectors of them."""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ElementTree

import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr

import lunarray as la
from lunarray import geo
from lunarray.errors import BodyMismatchError, InputError
from lunarray.geo import Box, Circle, Polygon, coverage, region_window

R = geo.RADIUS
GRIDS = {
    "geographic": geo.lunar_grid("geographic", 1.0),
    "north": geo.polar_grid("north", 20_000, 50),
    "south": geo.polar_grid("south", 20_000, 50),
    "equirectangular": geo.lunar_grid("equirectangular", 30_000.0),
}
#: Of the same kinds, with fewer pixels.
COARSE = {
    "geographic": geo.lunar_grid("geographic", 2.0),
    "north": geo.polar_grid("north", 40_000, 50),
    "south": geo.polar_grid("south", 40_000, 50),
    "equirectangular": geo.lunar_grid("equirectangular", 60_000.0),
}
REGIONS = {
    "circle": Circle(-65.0, -88.2, 120e3, "circle"),
    "seam": Box(170.0, -80.0, -170.0, -60.0, "seam"),
    "cap": Box(-180.0, -90.0, 180.0, -65.0, "cap"),
    "around": Polygon.from_points([(lon, -80.0) for lon in range(-180, 180, 10)], name="around"),
    "polar": Polygon.from_points([(-2e5, -2e5), (3e5, -1e5), (0, 4e5)], "south", "polar"),
    "across": Polygon.from_points([(165, -60), (-165, -60), (-165, -70), (165, -70)], name="across"),
}  # fmt: skip


def true_area(name):
    """Areas on the sphere by closed formulas, m²."""

    def cap(colatitude):
        return 2 * np.pi * R**2 * (1 - np.cos(np.deg2rad(colatitude)))

    def zone(width, low, high):
        return R**2 * np.deg2rad(width) * np.diff(np.sin(np.deg2rad([low, high])))[0]

    return {
        "circle": 2 * np.pi * R**2 * (1 - np.cos(120e3 / R)),
        "seam": zone(20, -80, -60),
        "cap": cap(25),
        "around": cap(10),
        "across": zone(30, -70, -60),
    }[name]


@functools.cache
def maps(grid="south", seed=1):
    box = GRIDS[grid]
    rng = np.random.default_rng(seed)
    data = rng.normal(10, 2, tuple(box.shape)).astype(np.float32)
    data[rng.random(data.shape) < 0.1] = np.nan
    ds = xr.Dataset(
        {
            "FeO": (geo.grid_dims(box), data, {"units": "wt%"}),
            "MgO": (geo.grid_dims(box), data * 2, {"units": "wt%"}),
            "flag": (geo.grid_dims(box), np.zeros(data.shape, np.uint8)),
        },
        coords=geo.grid_coords(box),
    )
    return geo.assign_crs(ds, box)


# ------------------------------------------------------------------------------------------- coverage
@pytest.mark.parametrize("grid", ["geographic", "south"])
@pytest.mark.parametrize("name", ["circle", "seam", "cap", "around", "across"])
def test_area_of_the_mask_is_that_of_the_region(grid, name):
    box = GRIDS[grid]
    mask = geo.region_mask(box, REGIONS[name])
    area = geo.pixel_area(box, (0, box.shape[0]), (0, box.shape[1]))
    assert float((mask.values * area).sum()) == pytest.approx(true_area(name), rel=4e-3)


def test_pixels_of_the_whole_moon_have_its_area():
    box = GRIDS["geographic"]
    area = geo.pixel_area(box, (0, box.shape[0]), (0, box.shape[1]))
    assert area.sum() == pytest.approx(4 * np.pi * R**2, rel=1e-9)
    # Polar stereographic, by hand: a pixel at the pole is true, at 60° it shows 1/k² of its size.
    south = GRIDS["south"]
    flat = geo.pixel_area(south, (0, south.shape[0]), (0, south.shape[1]))
    lat = geo.lonlat(south)[1]
    k = 2 / (1 + np.sin(np.deg2rad(np.abs(lat))))
    np.testing.assert_allclose(flat, 20_000.0**2 / k**2, rtol=1e-6)


@pytest.mark.parametrize("grid", COARSE)
@pytest.mark.parametrize("name", REGIONS)
def test_window_leaves_nothing_out_and_parts_fit_together(grid, name):
    box, region = COARSE[grid], REGIONS[name]
    rows, columns = region_window(region, box)
    everything = coverage(region, box, (0, box.shape[0]), (0, box.shape[1]))
    outside = everything.copy()
    outside[rows, columns] = 0
    assert not outside.any()
    half = box.shape[0] // 2 + 3
    parts = [coverage(region, box, r, (0, box.shape[1])) for r in ((0, half), (half, box.shape[0]))]
    np.testing.assert_array_equal(np.concatenate(parts), everything)


def test_polygon_in_two_systems_covers_the_same():
    """A circle's outline as a polygon of the polar map holds what the circle holds."""
    circle = Circle(30.0, -84.0, 150e3)
    polygon = Polygon(geo.region_shape(circle, "south"), "south")
    box = geo.polar_grid("south", 5000, 75)
    a, b = (geo.region_mask(box, r).values for r in (circle, polygon))
    assert np.abs(a - b).max() < 0.3
    assert np.abs(a - b).mean() < 1e-3


def test_holes_and_several_parts():
    donut = shapely.Point(0, 0).buffer(3e5).difference(shapely.Point(0, 0).buffer(1e5))
    far = shapely.box(6e5, 6e5, 7e5, 7e5)
    region = Polygon(shapely.MultiPolygon([donut, far]), "south")
    mask = geo.region_mask(GRIDS["south"], region)
    assert float(mask.sel(x=0, y=0, method="nearest")) == 0
    assert float(mask.sel(x=2e5, y=0, method="nearest")) == 1
    assert float(mask.sel(x=6.5e5, y=6.5e5, method="nearest")) == 1
    assert float(mask.sel(x=4.5e5, y=4.5e5, method="nearest")) == 0


def test_region_smaller_than_a_pixel_has_its_pixel():
    tiny = Circle(10.0, -70.0, 500.0)
    mask = geo.region_mask(GRIDS["south"], tiny).values
    row, column = geo.pixel_of(GRIDS["south"], 10.0, -70.0)
    assert mask[row[0], column[0]] > 0
    assert (mask > 0).sum() == 1


def test_region_errors():
    with pytest.raises(InputError, match="radius"):
        Circle(0.0, 0.0, -1.0)
    with pytest.raises(InputError, match="south below north"):
        Box(0, 10, 20, 5)
    with pytest.raises(InputError, match="latitude 91"):
        Circle(0.0, 91.0, 10.0)
    with pytest.raises(InputError, match="3 or more"):
        Polygon.from_points([(0, 0), (1, 1)])
    with pytest.raises(InputError, match="crosses itself"):
        Polygon.from_points([(0, 0), (10, 10), (10, 0), (0, 10)])
    with pytest.raises(InputError, match="no region"):
        geo.as_regions([])
    with pytest.raises(InputError, match="int is no region"):
        geo.as_regions([3])
    earth = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326")
    with pytest.raises(BodyMismatchError):
        geo.as_regions(earth)


# ----------------------------------------------------------------------------------------- statistics
def test_statistics_against_a_slow_reference():
    ds = maps()
    regions = list(REGIONS.values())
    stats = geo.region_statistics(ds, regions)
    area = geo.pixel_area(GRIDS["south"], (0, ds.sizes["y"]), (0, ds.sizes["x"]))
    for index, region in enumerate(regions):
        share = geo.region_mask(ds, region).values.astype(np.float64)
        value = ds.FeO.values.astype(np.float64)
        good = np.isfinite(value) & (share > 0)
        w, v = (share * area)[good], value[good]
        got = stats.FeO.isel(region=index)
        mean = np.average(v, weights=w)
        assert float(got.sel(statistic="count")) == pytest.approx(share[good].sum())
        assert float(got.sel(statistic="mean")) == pytest.approx(mean)
        assert float(got.sel(statistic="std")) == pytest.approx(
            np.sqrt(np.average((v - mean) ** 2, weights=w))
        )
        assert float(got.sel(statistic="min")) == v.min()
        assert float(got.sel(statistic="max")) == v.max()
        # Half of the weight lies below the median.
        median = float(got.sel(statistic="p50"))
        assert w[v < median].sum() / w.sum() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(stats.MgO.sel(statistic="mean"), 2 * stats.FeO.sel(statistic="mean"))
    assert set(stats.data_vars) == {"FeO", "MgO"}  # flags have no mean


def test_region_without_values():
    stats = geo.region_statistics(maps("north"), [REGIONS["circle"], Circle(0, 80, 1e5)])
    assert float(stats.FeO.isel(region=0).sel(statistic="count")) == 0
    assert np.isnan(stats.FeO.isel(region=0).sel(statistic=["mean", "std", "p50"])).all()
    assert np.isfinite(stats.FeO.isel(region=1)).all()


def test_statistics_errors():
    with pytest.raises(InputError, match="percentiles"):
        geo.region_statistics(maps(), REGIONS["cap"], percentiles=[120])
    with pytest.raises(InputError, match="no map"):
        geo.region_statistics(maps(), REGIONS["cap"], variables=["TiO2"])
    with pytest.raises(InputError, match="no map"):
        geo.region_statistics(xr.Dataset({"a": ("t", [1.0])}), REGIONS["cap"])


# -------------------------------------------------------------------------------------- the paper's
def test_artemis_regions_are_those_of_table_4():
    regions = la.oxides.artemis3_regions(20e3)
    assert [r.abbreviation for r in regions] == [
        "PNCB",
        "Haworth",
        "Malapert",
        "MMP",
        "MM",
        "NR1",
        "NR2",
        "DGR2",
        "SP",
    ]
    assert {r.radius for r in regions} == {20e3}
    slater = regions[-1]
    assert (slater.name, slater.lon, slater.lat) == ("Slater Plain", 126.134, -87.149)
    assert all(-90 < r.lat < -83 for r in regions)


def test_table_5():
    stats = geo.region_statistics(maps(), la.oxides.artemis3_regions(30e3))
    table = la.oxides.region_table(stats)
    assert list(table.index)[:2] == ["PNCB", "Haworth"]
    assert list(table.columns) == [("FeO", "mean"), ("FeO", "std"), ("MgO", "mean"), ("MgO", "std")]
    assert table.loc["SP", ("FeO", "std")] == float(stats.FeO.sel(statistic="std").isel(region=8))
    with pytest.raises(InputError, match="median"):
        la.oxides.region_table(stats, columns=["median"])
    with pytest.raises(InputError, match="no statistics"):
        la.oxides.region_table(maps())


def test_regions_a_and_b():
    assert la.oxides.regions.REGIONS["A"].contains(0.0, 57.5)
    assert not la.oxides.regions.REGIONS["A"].contains(0.0, -57.5)
    assert la.oxides.regions.REGIONS["B"].contains(-114.3, -55.5)


# -------------------------------------------------------------------------------------------- vectors
def test_vector_errors(tmp_path):
    stats = geo.region_statistics(maps(), REGIONS["cap"])
    with pytest.raises(InputError, match="outlines"):
        la.export.to_vector(stats, tmp_path / "a.gpkg")
    with pytest.raises(InputError, match="same order"):
        la.export.to_vector(stats, tmp_path / "a.gpkg", regions=REGIONS["seam"])
    with pytest.raises(InputError, match=r"\.xyz"):
        la.export.to_vector(stats, tmp_path / "a.xyz", regions=REGIONS["cap"])
    with pytest.raises(InputError, match="levels"):
        la.export.to_vector(maps().FeO, tmp_path / "a.gpkg", levels=[3, 2])
    with pytest.raises(InputError, match="no value"):
        la.export.to_vector(maps().FeO, tmp_path / "a.gpkg", levels=[300, 400])
    with pytest.raises(InputError, match="points"):
        la.export.to_vector(maps(), tmp_path / "a.gpkg")
    assert list(tmp_path.iterdir()) == []


def test_raster_style(tmp_path):
    path = la.export.raster_style(tmp_path / "FeO.tif", 4.0, 12.0, label="wt%", steps=5)
    assert path.name == "FeO.qml"
    items = list(ElementTree.parse(path).getroot().iter("item"))
    assert [float(i.get("value")) for i in items] == [4, 6, 8, 10, 12]
    assert items[0].get("color") == "#440154"  # viridis begins there
    assert items[-1].get("label") == "12 wt%"
    with pytest.raises(InputError, match="vmin"):
        la.export.raster_style(tmp_path / "FeO.tif", 4.0, 4.0)
    with pytest.raises(InputError, match="colormap"):
        la.export.raster_style(tmp_path / "FeO.tif", 4.0, 5.0, cmap="rainbows")
