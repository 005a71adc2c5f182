"""Networks, roses, densities, comparisons and files of fractures: against closed forms and pyogrio."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
import xarray as xr

from lunarray import geo
from lunarray.errors import BodyMismatchError, GridError, InputError
from lunarray.fractures import (
    compare,
    density,
    mapped_area,
    network,
    orientation_rose,
    vectorize,
    write_fractures,
)
from lunarray.geo import assign_grid, covering_box, transform_geometry

SOUTH = geo.moon_crs("south")
R = 1_737_400.0


def _image(data, corner=(0.0, 3_000.0), resolution=1.0, crs=SOUTH):
    rows, columns = data.shape
    bounds = (*corner, corner[0] + columns * resolution, corner[1] + rows * resolution)
    return assign_grid(
        xr.DataArray(data, dims=("y", "x"), name="mask"), covering_box(bounds, resolution, crs)
    )


def _lines(shapes, crs=SOUTH):
    return geopandas.GeoDataFrame(geometry=list(shapes), crs=crs.to_wkt())


@pytest.fixture
def fractures():
    data = np.zeros((300, 400), np.uint8)
    data[50:55, 20:380] = 1
    data[20:200, 100:104] = 1
    data[250:256, 150:300] = 1
    return vectorize(_image(data))


def test_network(fractures):
    numbers = network(fractures, area=0.3 * 0.4 * 1e6)
    assert numbers["count"] == 2
    assert numbers["length"] == pytest.approx(360 + 180 + 150, rel=0.02)
    assert numbers["area"] == pytest.approx(360 * 5 + 180 * 4 - 20 + 900, rel=1e-3)
    assert numbers["length_max"] == pytest.approx(540, rel=0.02)
    assert numbers["width_mean"] == pytest.approx(numbers["area"] / numbers["length"])
    assert (numbers["intersections"], numbers["branches"]) == (1, 5)
    assert numbers["length_density"] == pytest.approx(0.69 / 0.12, rel=0.02)
    assert numbers["intersection_density"] == pytest.approx(1 / 0.12)
    assert numbers["count_density"] == pytest.approx(2 / 0.12)
    assert numbers["area_share"] == pytest.approx(numbers["area"] / 120_000)
    none = network(fractures[:0])
    assert none["count"] == none["length"] == 0
    assert np.isnan(none["length_mean"])
    with pytest.raises(InputError, match="area"):
        network(fractures, area=0)
    with pytest.raises(InputError, match="no columns"):
        network(fractures.drop(columns="length"))


def test_rose_of_known_lines():
    # On the south polar map along the 0° meridian up is north, right is east.
    y = 3_000.0
    shapes = [
        shapely.LineString([(0, y), (0, y + 300)]),
        shapely.LineString([(-50, y), (50, y)]),
        shapely.LineString([(-5, y), (-5 + 100, y + 100)]),
    ]
    rose = orientation_rose(_lines(shapes), bins=4)
    assert rose["azimuth"].values.tolist() == [22.5, 67.5, 112.5, 157.5]
    assert float(rose["length"].sum()) == pytest.approx(300 + 100 + 100 * np.sqrt(2), rel=1e-4)
    one = orientation_rose(_lines(shapes[2:]), bins=36)
    assert one.attrs["mean_direction"] == pytest.approx(45, abs=1.5)
    assert one.attrs["concentration"] == pytest.approx(1, abs=1e-3)
    # Across each other, as long as each other: no direction.
    cross = _lines(
        [
            shapely.LineString([(0, y), (0, y + 100)]),
            shapely.LineString([(-50, y + 50), (50, y + 50)]),
        ]
    )
    assert orientation_rose(cross).attrs["concentration"] < 1e-3
    none = orientation_rose(cross[:0])
    assert np.isnan(none.attrs["mean_direction"])
    assert none["share"].isnull().all()


def test_rose_does_not_depend_on_the_projection():
    lon = np.array([30.0, 30.02])
    degrees = shapely.LineString(np.column_stack([lon, [-60.0, -60.0]]))
    for target in ("geographic", "south", "equirectangular"):
        crs = geo.moon_crs(target)
        line = transform_geometry(np.array([degrees]), geo.moon_crs("geographic"), crs)[0]
        rose = orientation_rose(_lines([line], crs), bins=180)
        assert rose.attrs["mean_direction"] == pytest.approx(90, abs=0.05)
        assert float(rose["length"].sum()) == pytest.approx(
            R * np.deg2rad(0.02) * np.cos(np.deg2rad(60)), rel=1e-6
        )


def test_density_adds_up(fractures):
    made = density(fractures, 50.0)
    assert made.dims == ("y", "x")
    assert made.attrs["units"] == "km/km2"
    area = 50 * 50 * 1e-6
    total = float(made.sum()) * area
    assert total == pytest.approx(fractures["length"].sum() * 1e-3, rel=0.01)
    count = density(fractures, 50.0, quantity="count")
    assert float(count.sum()) * area == pytest.approx(2, rel=1e-4)
    # A line through the middle of a cell of 100 m: 0.1 km in 0.01 km².
    line = _lines([shapely.LineString([(0, 3_050), (1_000, 3_050)])])
    made = density(line, 100.0, like=covering_box((0, 3_000, 1_000, 3_300), 100.0, SOUTH))
    np.testing.assert_allclose(made[-1], 10, rtol=1e-4)
    np.testing.assert_array_equal(made[:-1], 0)
    # Over discs of 100 m: one row of three in the plus of five.
    smooth = density(
        line, 100.0, like=covering_box((0, 2_500, 1_000, 3_600), 100.0, SOUTH), radius=100.0
    )
    middle = smooth.sel(x=550, y=3_050, method="nearest")
    assert float(middle) == pytest.approx(10 * 3 / 5, rel=1e-4)


def test_mapped_area():
    data = np.ones((100, 140), np.uint8)
    data[20:50, 30:100] = 255
    expected = (14_000 - 2_100) * 100.0**2
    # At 60° N the equirectangular map is twice as wide as the ground.
    y = R * np.pi / 3
    mask = _image(data, (0, y - y % 100), 100.0, geo.moon_crs("equirectangular"))
    lat = mask.y.values / R
    cosine = np.broadcast_to(np.cos(lat)[:, None], data.shape)
    expected = (cosine * (data == 1)).sum() * 100.0**2
    assert mapped_area(mask) == pytest.approx(expected, rel=1e-5)
    assert mapped_area(mask.chunk(33)) == pytest.approx(expected, rel=1e-5)
    assert mapped_area(xr.Dataset({"valid": mask == 1})) == pytest.approx(expected, rel=1e-5)
    image = mask.where(mask == 1).astype(np.float32)
    assert mapped_area(image) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(GridError, match="not georeferenced"):
        mapped_area(xr.DataArray(data, dims=("y", "x")))


# --- comparison -----------------------------------------------------------------------------------


def _boxes(*bounds):
    return _lines([shapely.box(*b) for b in bounds])


def test_polygons_against_polygons():
    a = _boxes((0, 3_000, 100, 3_010), (0, 3_100, 50, 3_110))
    b = _boxes((20, 3_000, 120, 3_010), (0, 3_200, 30, 3_210))
    found = compare(a, b)
    assert found.true_positive == pytest.approx(800, rel=1e-5)
    assert found.false_positive == pytest.approx(200 + 500, rel=1e-5)
    assert found.false_negative == pytest.approx(200 + 300, rel=1e-5)
    assert found.precision == pytest.approx(8 / 15)
    assert found.recall == pytest.approx(8 / 13)
    assert found.f1 == pytest.approx(16 / 28)
    assert found.iou == pytest.approx(8 / 20)
    assert (found.matched, found.found) == (0.5, 0.5)
    assert np.isnan(found.quality)
    area = found.pieces.dissolve("kind", aggfunc="sum")["area"]
    assert area["both"] == pytest.approx(found.true_positive)
    same = compare(a, a)
    assert (same.precision, same.recall, same.iou) == (1, 1, 1)
    assert set(same.summary()) >= {"f1", "completeness"}


def test_polygons_in_different_projections(fractures):
    degrees = fractures.drop(columns="centreline").copy()
    degrees["geometry"] = transform_geometry(fractures.geometry.to_numpy(), SOUTH, "geographic")
    degrees = degrees.set_crs(geo.moon_crs("geographic").to_wkt(), allow_override=True)
    for pair in ((fractures, degrees), (degrees, fractures)):
        found = compare(*pair)
        assert found.iou > 0.999
        assert found.true_positive == pytest.approx(fractures["area"].sum(), rel=2e-3)


def test_lines_against_lines_and_centre_lines(fractures):
    y = 3_300.0
    drawn = _lines(
        [
            shapely.LineString([(20, y - 52.5 - 6), (380, y - 52.5 - 6)]),  # 6 m off
            shapely.LineString([(102, y - 20), (102, y - 200)]),
            shapely.LineString(
                [(0, y - 10), (50, y - 10)]
            ),  # missed, but for its end near the second
        ]
    )
    found = compare(fractures, drawn, tolerance=10.0)
    assert np.isnan(found.iou)
    assert found.pieces is None
    assert found.completeness == pytest.approx((360 + 180) / (360 + 180 + 50), rel=0.01)
    assert found.correctness == pytest.approx(540 / 690, rel=0.02)
    assert compare(fractures, drawn, tolerance=3.0).completeness < 0.4
    assert compare(drawn, fractures, tolerance=10.0).correctness == pytest.approx(
        found.completeness
    )


def test_masks_against_masks(rng):
    a, b = ((rng.random((60, 80)) < 0.3).astype(np.uint8) for _ in range(2))
    a[:5], b[:, :7] = 255, 255
    known = (a != 255) & (b != 255)
    whole = compare(_image(a), _image(b))
    for kinds, value in (
        ((1, 1), whole.true_positive),
        ((1, 0), whole.false_positive),
        ((0, 1), whole.false_negative),
    ):
        assert value == pytest.approx((known & (a == kinds[0]) & (b == kinds[1])).sum(), rel=1e-5)
    lazy = compare(_image(a).chunk(17), xr.Dataset({"mask": _image(b).chunk(40)}))
    assert lazy.f1 == pytest.approx(whole.f1, rel=1e-12)
    with pytest.raises(GridError, match="one grid"):
        compare(_image(a), _image(b[:-1]))
    with pytest.raises(InputError, match="a mask and vectors"):
        compare(_image(a), _boxes((0, 0, 1, 1)))


def test_comparisons_with_nothing_and_of_other_bodies(fractures):
    none = compare(fractures[:0], fractures)
    assert none.recall == 0
    assert np.isnan(none.precision)
    assert np.isnan(none.matched)
    mercury = "+proj=stere +lat_0=-90 +R=2439700 +units=m"
    with pytest.raises(BodyMismatchError, match="different bodies"):
        compare(fractures, _boxes((0, 0, 9, 9)).set_crs(mercury, allow_override=True))
    with pytest.raises(InputError, match="tolerance"):
        compare(fractures, fractures, tolerance=-1)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".geojson"])
def test_files(tmp_path, fractures, suffix):
    files = write_fractures(fractures, tmp_path / f"found{suffix}")
    assert tmp_path / f"found{suffix}" in files
    assert all(f.exists() for f in files)
    assert (tmp_path / "found.qml").read_text().startswith("<!DOCTYPE qgis")
    back = geopandas.read_file(
        tmp_path / f"found{suffix}", **({"layer": "found"} if suffix == ".gpkg" else {})
    )
    assert len(back) == len(fractures)
    name = {"width_mean": "width", "intersections": "crossings"} if suffix == ".shp" else {}
    for column in ("area", "length", "width_mean", "intersections"):
        np.testing.assert_allclose(back[name.get(column, column)], fractures[column], rtol=1e-9)
    if suffix != ".geojson":
        np.testing.assert_allclose(back.geometry.area, fractures.geometry.area)
        assert geo.MOON.holds(back.crs)
    if suffix == ".gpkg":
        assert pyogrio.list_layers(tmp_path / "found.gpkg")[:, 0].tolist()[:2] == [
            "found",
            "found_centrelines",
        ]
        lines = geopandas.read_file(tmp_path / "found.gpkg", layer="found_centrelines")
        np.testing.assert_allclose(lines["length"], fractures["length"])
        with closing(sqlite3.connect(tmp_path / "found.gpkg")) as base:
            names = base.execute("SELECT f_table_name FROM layer_styles").fetchall()
        assert ("found",) in names
    else:
        assert (tmp_path / f"found_centrelines{suffix}").exists()
    assert compare(tmp_path / f"found{suffix}", fractures).iou > 0.999


def test_a_map_of_nothing_is_a_file_too(tmp_path, fractures):
    write_fractures(fractures[:0], tmp_path / "none.gpkg")
    back = geopandas.read_file(tmp_path / "none.gpkg", layer="none")
    assert len(back) == 0
    assert "width_max" in back.columns


def test_files_that_are_refused(tmp_path, fractures):
    for frame, name, options, error, words in (
        (fractures, "a.kml", {}, InputError, "not written as .kml"),
        (fractures, "a.gpkg", {"style": "beauty"}, InputError, "no column 'beauty'"),
        (fractures.set_crs(None, allow_override=True), "a.gpkg", {}, GridError, "without a CRS"),
    ):
        with pytest.raises(error, match=words):
            write_fractures(frame, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_compared():
    for given in (np.zeros((4, 4), np.uint8), None, 3):
        with pytest.raises(InputError, match="a: a "):
            compare(given, given)
