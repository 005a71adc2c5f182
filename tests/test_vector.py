"""Vector files: read back by pyogrio, geopandas and SQLite, with CRS, attributes and style; whole or not at all."""

from __future__ import annotations

import sqlite3
import xml.etree.ElementTree as ET
from contextlib import closing
from itertools import pairwise

import geopandas
import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
import xarray as xr

import lunarray as la
from lunarray import geo
from lunarray.errors import BodyMismatchError, InputError
from lunarray.export import raster_style, to_vector
from lunarray.export.styles import vector_style

SUFFIXES = (".gpkg", ".shp", ".geojson")
REGIONS = [
    geo.Circle(30.0, -85.0, 60_000, "Shackleton & co", "SH"),
    geo.Box(170.0, -88.0, -170.0, -80.0, "behind"),
]


def _map(geobox, data, name="FeO"):
    coords = geo.grid_coords(geobox)
    array = xr.DataArray(data, dims=tuple(coords), coords=coords, name=name)
    return geo.assign_crs(array, geobox)


@pytest.fixture
def map_(rng):
    box = geo.polar_grid("south", 20_000, 78)
    return _map(box, rng.random(box.shape).astype(np.float32) * 20)


@pytest.fixture(scope="module")
def fine():
    """A map of pixels that are small beside the regions; not to be changed."""
    box = geo.polar_grid("south", 10_000, 78)
    return _map(box, np.random.default_rng(5).random(box.shape).astype(np.float32) * 20)


@pytest.fixture(scope="module")
def stats(fine):
    """Not to be changed."""
    ds = xr.Dataset({"FeO": fine, "Mg_number": fine + 50})
    return geo.region_statistics(ds, REGIONS)


@pytest.fixture
def points():
    lon = np.array([10.0, 179.5, -120.0, 0.0])
    lat = np.array([-61.0, -70.0, -89.9, -85.0])
    return xr.Dataset(
        {
            "FeO": ("observation", np.array([1.5, 2.5, np.nan, 4.0], np.float32)),
            "orbit": ("observation", np.arange(4, dtype=np.int32)),
            "time": ("observation", np.array(["2008-01-02T03:04:05"] * 4, "M8[ns]")),
            "spectrum": (("observation", "wavelength"), np.ones((4, 3))),
        },
        coords={"lon": ("observation", lon), "lat": ("observation", lat)},
    )


def _qml(path):
    root = ET.parse(path).getroot()
    assert root.tag == "qgis"
    return root.find("renderer-v2")


def _same_crs(frame, name):
    return geo.crs_code(geo.moon_crs(frame.crs)) == geo.crs_code(geo.moon_crs(name))


def _left(folder):
    return sorted(f.name for f in folder.iterdir())


# --- regions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_statistics_of_regions(tmp_path, stats, suffix):
    files = to_vector(stats, tmp_path / f"atlas{suffix}", regions=REGIONS, crs="south")
    assert files[0] == tmp_path / f"atlas{suffix}"
    assert all(f.is_file() for f in files)
    assert {f.name for f in files} == set(_left(tmp_path))
    frame = geopandas.read_file(files[0])
    assert list(frame["name"]) == ["Shackleton & co", "behind"]
    column = {".shp": "Mg_mean"}.get(suffix, "Mg_number_mean")
    np.testing.assert_allclose(frame[column], stats["Mg_number"].sel(statistic="mean"), rtol=1e-9)
    assert _same_crs(frame, "south")
    # The outline is a circle on the ground: its corners have that distance.
    lon, lat = np.array(frame.to_crs(geo.moon_crs().to_wkt()).geometry[0].exterior.coords).T
    np.testing.assert_allclose(geo.great_circle_distance(30.0, -85.0, lon, lat), 60_000, rtol=1e-6)
    qml = _qml(tmp_path / "atlas.qml")
    assert qml.get("attr") in frame.columns
    assert qml.get("attr").endswith("_mean")
    assert len(qml.find("ranges")) == len(qml.find("symbols")) == 2
    assert {r.get("symbol") for r in qml.iter("range")} == {
        s.get("name") for s in qml.iter("symbol")
    }


def test_default_crs_is_polar_where_all_is(tmp_path, stats, points):
    assert _same_crs(
        geopandas.read_file(to_vector(stats, tmp_path / "a.gpkg", regions=REGIONS)[0]), "south"
    )
    assert _same_crs(geopandas.read_file(to_vector(points, tmp_path / "b.gpkg")[0]), "south")
    points["lat"] = points["lat"] + 30
    assert _same_crs(geopandas.read_file(to_vector(points, tmp_path / "c.gpkg")[0]), "geographic")


def test_regions_written_are_regions_read(tmp_path, fine, stats):
    path = to_vector(stats, tmp_path / "atlas.gpkg", regions=REGIONS)[0]
    again = geo.region_statistics(fine, path)
    assert list(again["region"].values) == list(stats["region"].values)
    assert list(again["abbreviation"].values) == list(stats["abbreviation"].values)
    np.testing.assert_allclose(
        again["FeO"].sel(statistic="count"), stats["FeO"].sel(statistic="count"), rtol=0.01
    )
    np.testing.assert_allclose(
        again["FeO"].sel(statistic="mean"), stats["FeO"].sel(statistic="mean"), rtol=0.01
    )


# --- points ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("crs", ["south", "geographic"])
def test_points(tmp_path, points, suffix, crs):
    files = to_vector(points.chunk({"observation": 2}), tmp_path / f"p{suffix}", crs=crs)
    frame = geopandas.read_file(files[0])
    assert _same_crs(frame, crs)
    assert "spectrum" not in frame.columns
    lon, lat = points["lon"].values, points["lat"].values
    x, y = lon, lat
    if crs == "south":
        target = geo.moon_crs("south")
        x, y = pyproj.Transformer.from_crs(target.geodetic_crs, target, always_xy=True).transform(
            lon, lat
        )
    tolerance = 1e-6 if suffix == ".geojson" else 1e-9
    np.testing.assert_allclose(frame.geometry.x, x, rtol=1e-12, atol=tolerance)
    np.testing.assert_allclose(frame.geometry.y, y, rtol=1e-12, atol=tolerance)
    np.testing.assert_allclose(frame["FeO"].astype(float), points["FeO"])
    np.testing.assert_allclose(frame["lon"], lon)
    assert list(frame["orbit"]) == [0, 1, 2, 3]
    # Shapefiles have no times: text.
    assert str(frame["time"].iloc[0]).replace("/", "-").startswith("2008-01-02 03:04:05")
    assert _qml(tmp_path / "p.qml").get("attr") == "FeO"


def test_style_chosen(tmp_path, points):
    to_vector(points, tmp_path / "p.gpkg", style="orbit", cmap="magma")
    qml = _qml(tmp_path / "p.qml")
    assert qml.get("attr") == "orbit"
    ranges = [(float(r.get("lower")), float(r.get("upper"))) for r in qml.find("ranges")]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 3
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    bare = tmp_path / "bare"
    to_vector(points, bare / "p.gpkg", style="")
    assert _left(bare) == ["p.gpkg"]


# --- classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("lazy", [False, True])
def test_classes_have_the_areas_of_their_pixels(tmp_path, map_, suffix, lazy):
    map_[3:9, 4:40] = np.nan
    levels = [2.0, 5.0, 11.0, 18.0]
    given = map_.chunk({"y": 17, "x": 29}) if lazy else map_
    files = to_vector(given, tmp_path / f"classes{suffix}", levels=levels)
    frame = geopandas.read_file(files[0])
    assert _same_crs(frame, "south")
    assert frame.geometry.is_valid.all()
    assert list(frame["lower"]) == levels[:-1]
    assert list(frame["upper"]) == levels[1:]
    for (low, high), shape in zip(pairwise(levels), frame.geometry, strict=True):
        pixels = int(((map_ >= low) & (map_ < high)).sum())
        np.testing.assert_allclose(shape.area, pixels * 20_000**2, rtol=1e-9)
    assert _qml(tmp_path / "classes.qml").get("attr") in frame.columns


def test_classes_lie_where_their_pixels_do(tmp_path):
    box = geo.lunar_grid("geographic", 1.0, (10, 20, 14, 23))
    data = np.zeros(box.shape)
    data[0, 1] = 5
    frame = geopandas.read_file(to_vector(_map(box, data), tmp_path / "c.gpkg", levels=[1, 9])[0])
    assert frame.geometry.iloc[0].equals(shapely.MultiPolygon([shapely.box(11, 22, 12, 23)]))


# --- GeoPackage, shapefile ------------------------------------------------------------------------


def test_geopackage_keeps_layers_and_their_styles(tmp_path, stats, points, map_):
    path = tmp_path / "atlas.gpkg"
    to_vector(stats, path, regions=REGIONS)
    to_vector(points, path, layer="tracks")
    to_vector(points, path, layer="tracks", style="orbit")
    assert {"atlas", "tracks"} <= {name for name, _ in pyogrio.list_layers(path)}
    assert len(geopandas.read_file(path, layer="atlas")) == 2
    assert len(geopandas.read_file(path, layer="tracks")) == 4
    with closing(sqlite3.connect(path)) as base:
        rows = base.execute(
            "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML FROM layer_styles ORDER BY 1"
        ).fetchall()
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert [r[:3] for r in rows] == [("atlas", "geom", 1), ("tracks", "geom", 1)]
    assert ET.fromstring(rows[1][3]).find("renderer-v2").get("attr") == "orbit"
    assert _qml(tmp_path / "atlas_tracks.qml").get("attr") == "orbit"
    assert _left(tmp_path) == ["atlas.gpkg", "atlas.qml", "atlas_tracks.qml"]


def test_names_of_shapefiles_are_short_and_different(tmp_path):
    n = {f"concentration_{k}": ("observation", np.full(2, float(k))) for k in range(12)}
    ds = xr.Dataset(
        n, coords={"lon": ("observation", [0.0, 1.0]), "lat": ("observation", [2.0, 3.0])}
    )
    files = to_vector(ds, tmp_path / "p.shp", style="concentration_7")
    frame = geopandas.read_file(files[0])
    columns = [c for c in frame.columns if c not in ("lon", "lat", "geometry")]
    assert len(set(columns)) == 12
    assert max(map(len, columns)) <= 10
    assert [frame[c].iloc[0] for c in columns] == list(range(12))
    # The style is of the seventh, not of the first that is called alike.
    assert _qml(tmp_path / "p.qml").get("attr") == columns[7]
    assert {"p.shp", "p.shx", "p.dbf", "p.prj", "p.qml"} <= set(_left(tmp_path))


# --- styles ---------------------------------------------------------------------------------------


def test_vector_style_escapes_and_divides():
    column = 'Fe<O> & "x"'
    root = ET.fromstring(vector_style(column, np.array([0.0, 1, 2, np.nan, 10]), "Point"))
    renderer = root.find("renderer-v2")
    assert renderer.get("attr") == column
    assert {s.get("type") for s in renderer.find("symbols")} == {"marker"}
    assert len(renderer.find("ranges")) == 4
    assert ET.fromstring(vector_style("a", np.full(3, np.nan), "Polygon")).tag == "qgis"
    with pytest.raises(InputError, match="colormap"):
        vector_style("a", np.ones(3), "Point", cmap="no such")


def test_raster_style(tmp_path):
    import matplotlib

    path = raster_style(tmp_path / "FeO.tif", 0.0, 20.0, cmap="viridis", label="wt% <&>")
    assert path == tmp_path / "FeO.qml"
    items = ET.parse(path).getroot().findall(".//item")
    assert [float(i.get("value")) for i in items] == list(np.linspace(0, 20, 11))
    assert items[0].get("color") == matplotlib.colors.to_hex(matplotlib.colormaps["viridis"](0.0))
    assert items[0].get("label") == "0 wt% <&>"
    for ends in ((1.0, 1.0), (2.0, 1.0), (np.nan, 1.0)):
        with pytest.raises(InputError, match="colour scale"):
            raster_style(tmp_path / "other.tif", *ends)
    assert _left(tmp_path) == ["FeO.qml"]


# --- errors: nothing half-written -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_written_on_errors(tmp_path, points, stats, map_, suffix):
    path = tmp_path / f"x{suffix}"
    cases = [
        (points, {"style": "nothing"}, InputError),
        (points, {"style": "time"}, InputError),
        (points, {"cmap": "no such map"}, InputError),
        (points, {"crs": "EPSG:4326"}, BodyMismatchError),
        (points.isel(observation=[]), {}, InputError),
        (points.drop_vars("lon"), {}, InputError),
        (stats, {}, InputError),
        (stats, {"regions": REGIONS[::-1]}, InputError),
        (stats, {"regions": REGIONS[:1]}, InputError),
        (stats, {"regions": REGIONS, "crs": "EPSG:3031"}, BodyMismatchError),
        (map_, {}, InputError),
        (map_, {"levels": [1.0]}, InputError),
        (map_, {"levels": [3.0, 2.0]}, InputError),
        (map_, {"levels": [100.0, 200.0]}, InputError),
        (map_, {"levels": [1.0, 2.0], "crs": "north"}, InputError),
        (map_.to_dataset(), {"levels": [1.0, 2.0]}, InputError),
    ]
    for obj, options, error in cases:
        with pytest.raises(error):
            to_vector(obj, path, **options)
        assert _left(tmp_path) == []


def test_maps_of_other_bodies_are_refused(tmp_path, map_):
    map_["spatial_ref"].attrs = {"crs_wkt": pyproj.CRS("EPSG:3031").to_wkt()}
    with pytest.raises(BodyMismatchError):
        to_vector(map_, tmp_path / "x.gpkg", levels=[1.0, 2.0])
    assert _left(tmp_path) == []


def test_unknown_ending(tmp_path, points):
    with pytest.raises(InputError, match=r"\.kml"):
        to_vector(points, tmp_path / "x.kml")
    with pytest.raises(InputError, match="without suffix"):
        to_vector(points, tmp_path / "x")
    assert _left(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_failure_while_writing_keeps_what_was_there(tmp_path, points, suffix, monkeypatch):
    path = tmp_path / f"x{suffix}"
    to_vector(points, path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}

    def full(self, file, **options):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(geopandas.GeoDataFrame, "to_file", full)
    with pytest.raises(OSError, match="disk full"):
        to_vector(points + 0, path)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_failure_of_the_style_keeps_the_geopackage(tmp_path, points, monkeypatch):
    from lunarray.export import layers

    path = tmp_path / "x.gpkg"
    to_vector(points, path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}

    def fail(*args):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(layers, "_style_in_geopackage", fail)
    with pytest.raises(sqlite3.OperationalError):
        to_vector(points.isel(observation=slice(2)), path)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_geoparquet_with_its_style_comes_back(tmp_path):
    pytest.importorskip("pyarrow")
    samples = xr.Dataset(
        {"FeO": ("sample", [5.0, 9.0])},
        {"lon": ("sample", [10.0, 20.0]), "lat": ("sample", [70.0, 71.0])},
    )
    paths = la.export.to_vector(samples, tmp_path / "feo.parquet")
    assert [path.name for path in paths] == ["feo.parquet", "feo.qml"]
    found = geopandas.read_parquet(paths[0])
    assert found["FeO"].tolist() == [5.0, 9.0]
    assert geo.moon_crs(found.crs) == geo.moon_crs("north")
    assert 'attr="FeO"' in paths[1].read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["feo.parquet", "feo.qml"]


def test_a_geotiff_has_its_unit_and_a_style_of_its_own(tmp_path):
    box = geo.lunar_grid("north", 5000.0, (-60_000, -40_000, 60_000, 40_000))
    values = np.arange(box.shape[0] * box.shape[1], dtype="f4").reshape(box.shape)
    heights = xr.DataArray(values, geo.grid_coords(box), ("y", "x"), "height", {"units": "m"})
    heights = geo.assign_crs(heights, box)
    (path,) = la.export.to_cog(heights, tmp_path / "height.tif")
    assert la.maps.open_map(path).attrs["units"] == "m"
    style = path.with_suffix(".qml").read_text()
    low, high = np.percentile(values, [2, 98])
    assert f'minimumValue="{low:.10g}" maximumValue="{high:.10g}"' in style
    assert " m" in style
    la.export.to_cog(heights * 0, path)
    assert not path.with_suffix(".qml").exists()  # one colour is no scale
    la.export.to_cog(heights, tmp_path / "bare.tif", cmap=None)
    assert not (tmp_path / "bare.qml").exists()
    with pytest.raises(InputError, match="colormap"):
        la.export.to_cog(heights, tmp_path / "odd.tif", cmap="no such")
    assert not (tmp_path / "odd.tif").exists()
