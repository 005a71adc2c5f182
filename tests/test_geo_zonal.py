"""Statistics over regions: against closed forms on the sphere (Archimedes), shapely and pyproj; in chunks."""

from __future__ import annotations

import functools
import math

import dask.array as da
import numpy as np
import pyproj
import pytest
import shapely
import xarray as xr

from lunarray import geo
from lunarray.errors import BodyMismatchError, GridError, InputError, LunarrayError

R = 1_737_400.0


def _map(geobox, data, name="FeO", **attrs):
    coords = geo.grid_coords(geobox)
    array = xr.DataArray(data, dims=tuple(coords), coords=coords, name=name, attrs=attrs)
    return geo.assign_crs(array, geobox)


@functools.cache
def _lonlat(geobox):
    rows, columns = geobox.shape
    a = geobox.transform
    x, y = np.meshgrid(a.c + (np.arange(columns) + 0.5) * a.a, a.f + (np.arange(rows) + 0.5) * a.e)
    crs = pyproj.CRS.from_wkt(geobox.crs.to_wkt())
    if not crs.is_geographic:
        x, y = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(x, y)
    return x, y


def _height(geobox, lon, lat):
    """Cosine of the angle to a place: over a cap around it, uniform between the cosine of its radius and 1."""
    x, y = (np.deg2rad(v) for v in _lonlat(geobox))
    phi, lam = math.radians(lat), math.radians(lon)
    return np.sin(phi) * np.sin(y) + np.cos(phi) * np.cos(y) * np.cos(x - lam)


def _area(geobox, region):
    share = geo.region_mask(geobox, region).values.astype(np.float64)
    return float(np.nansum(share * _pixels(geobox)))


@functools.cache
def _pixels(geobox):
    return geo.pixel_area(geobox, (0, geobox.shape[0]), (0, geobox.shape[1]))


GRIDS = {
    "geographic": lambda: geo.lunar_grid("geographic", 1.0),
    "east": lambda: geo.lunar_grid("geographic", 1.0, (0, -90, 360, 90)),
    "equirectangular": lambda: geo.lunar_grid("equirectangular", 2 * math.pi * R / 360),
    "north": lambda: geo.polar_grid("north", 20_000, 50),
    "south": lambda: geo.polar_grid("south", 20_000, 50),
}


@functools.cache
def _grid(name):
    return GRIDS[name]()


CAPS = [
    ("geographic", 0.0, 0.0),
    ("geographic", 180.0, 10.0),
    ("geographic", 40.0, 90.0),
    ("geographic", -170.0, -80.0),
    ("east", 0.0, 20.0),
    ("equirectangular", -179.0, 45.0),
    ("north", 0.0, 90.0),
    ("north", 180.0, 75.0),
    ("south", -60.0, -70.0),
    ("south", 123.0, -88.0),
]


# --- areas ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(GRIDS))
def test_areas_of_pixels_are_true(name):
    box = _grid(name)
    rows, columns = box.shape
    area = geo.pixel_area(box, (0, rows), (0, columns))
    assert area.shape == box.shape
    geod = pyproj.Geod(a=R, b=R)
    a = box.transform
    crs = geo.moon_crs(box.crs)
    for i, j in ((rows // 5, columns // 3), (rows // 2 + 3, columns // 2 + 4), (rows - 8, 9)):
        ring = shapely.segmentize(shapely.box(j, i, j + 1, i + 1), 0.02)
        c, r = np.array(ring.exterior.coords).T
        x, y = a.c + a.a * c, a.f + a.e * r
        if not crs.is_geographic:
            x, y = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(
                x, y
            )
        expected = abs(geod.polygon_area_perimeter(x, y)[0])
        np.testing.assert_allclose(area[i, j], expected, rtol=1e-3)


def test_areas_of_all_pixels_are_the_moon():
    for name in ("geographic", "east", "equirectangular"):
        box = _grid(name)
        total = np.nansum(geo.pixel_area(box, (0, box.shape[0]), (0, box.shape[1])))
        np.testing.assert_allclose(total, 4 * math.pi * R**2, rtol=1e-4)


@pytest.mark.parametrize(("name", "lon", "lat"), CAPS)
def test_area_of_circles(name, lon, lat):
    region = geo.Circle(lon, lat, math.radians(12) * R)
    expected = 2 * math.pi * R**2 * (1 - math.cos(math.radians(12)))
    np.testing.assert_allclose(_area(_grid(name), region), expected, rtol=2e-3)


@pytest.mark.parametrize(
    ("name", "edges"),
    [
        ("geographic", (170.3, -12.2, -168.6, 20.7)),
        ("geographic", (-180.0, 70.4, 180.0, 90.0)),
        ("east", (-20.4, 5.3, 33.1, 25.9)),
        ("equirectangular", (150.2, -60.7, -150.9, -20.2)),
        ("north", (160.0, 65.0, -130.0, 80.0)),
        ("south", (-180.0, -90.0, 180.0, -72.0)),
    ],
)
def test_area_of_boxes(name, edges):
    west, south, east, north = edges
    width = (east - west) % 360 or 360
    expected = (
        R**2 * math.radians(width) * (math.sin(math.radians(north)) - math.sin(math.radians(south)))
    )
    # Sub-pixels are 0.125°: an edge is off by half of one at most.
    np.testing.assert_allclose(_area(_grid(name), geo.Box(*edges)), expected, rtol=8e-3)


def test_area_of_polygons_in_the_plane(rng):
    # In the grid's own CRS the covered pixels must have the area that shapely gives.
    box = _grid("south")
    turn = np.sort(rng.random(40)) * 2 * np.pi
    radius = 300_000 + 500_000 * rng.random(40)
    star = shapely.Polygon(
        np.column_stack([100_000 + radius * np.cos(turn), radius * np.sin(turn)]),
        [shapely.Point(100_000, 0).buffer(90_000).exterior.coords],
    )
    share = geo.region_mask(box, geo.Polygon(star, "south")).values.astype(np.float64)
    np.testing.assert_allclose(share.sum() * 20_000**2, star.area, rtol=2e-3)
    pixels = (
        shapely.box(*(-400_000, 200_000, -380_000, 220_000)),
        shapely.box(300_000, 300_000, 320_000, 320_000),
    )
    for pixel in pixels:
        x, y = pixel.centroid.coords[0]
        i, j = int((y - box.transform.f) / box.transform.e), int((x - box.transform.c) / 20_000)
        assert abs(share[i, j] - star.intersection(pixel).area / pixel.area) < 0.05


@pytest.mark.parametrize("name", ["geographic", "south"])
def test_thin_regions_are_covered(name):
    # Thinner than a pixel and through no pixel's centre.
    region = geo.Box(20.0, -75.9, 70.0, -75.62)
    expected = (
        R**2 * math.radians(50) * (math.sin(math.radians(-75.62)) - math.sin(math.radians(-75.9)))
    )
    np.testing.assert_allclose(_area(_grid(name), region), expected, rtol=0.15)
    ring = geo.Circle(30.0, -89.7, math.radians(0.15) * R)
    np.testing.assert_allclose(
        _area(_grid(name), ring),
        2 * math.pi * R**2 * (1 - math.cos(math.radians(0.15))),
        rtol=0.4,
    )


def test_tiny_region_is_the_pixel_it_lies_in():
    box = _grid("south")
    data = np.arange(box.shape[0] * box.shape[1], dtype=np.float64).reshape(box.shape)
    lon, lat = _lonlat(box)
    region = geo.Circle(float(lon[40, 50]), float(lat[40, 50]), 5.0, "landing site")
    got = geo.region_statistics(_map(box, data), region)["FeO"]
    assert float(got.sel(statistic="mean", region="landing site")) == data[40, 50]
    assert 0 < float(got.sel(statistic="count", region="landing site")) < 1


# --- moments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "lon", "lat"), CAPS)
def test_statistics_over_a_cap_are_those_of_archimedes(name, lon, lat):
    box = _grid(name)
    low = math.cos(math.radians(20))
    stats = geo.region_statistics(
        _map(box, _height(box, lon, lat)),
        geo.Circle(lon, lat, math.radians(20) * R),
        percentiles=(5, 25, 50, 95),
    )
    got = dict(zip(stats["statistic"].values, stats["FeO"].values[0], strict=True))
    span = 1 - low
    np.testing.assert_allclose(got["mean"], low + span / 2, atol=0.003 * span)
    np.testing.assert_allclose(got["std"], span / math.sqrt(12), rtol=0.01)
    for p in (5, 25, 50, 95):
        np.testing.assert_allclose(got[f"p{p}"], low + span * p / 100, atol=0.05 * span)
    assert low - 0.1 * span < got["min"] < low + 0.06 * span
    assert 1 - 0.02 * span < got["max"] <= 1 + 1e-12


def test_weights_matter():
    # On a polar map pixels are worth less the further from the pole: the unweighted mean is another.
    box = _grid("north")
    z = _height(box, 0, 90)
    region = geo.Circle(0, 90, math.radians(38) * R)
    mean = float(geo.region_statistics(_map(box, z), region)["FeO"].sel(statistic="mean")[0])
    flat = z[geo.region_mask(box, region).values > 0.5].mean()
    exact = (1 + math.cos(math.radians(38))) / 2
    assert abs(mean - exact) < 2e-4
    assert abs(flat - exact) > 3e-3


def test_nan_is_left_out_and_counted_out(rng):
    box = _grid("south")
    data = rng.random(box.shape)
    region = geo.Circle(50, -80, 150_000)
    share = geo.region_mask(box, region).values.astype(np.float64)
    data[rng.random(box.shape) < 0.3] = np.nan
    data[0, 0] = np.inf
    stats = geo.region_statistics(_map(box, data), region)["FeO"].values[0]
    good = np.isfinite(data) & (share > 0)
    weight = (share * geo.pixel_area(box, (0, box.shape[0]), (0, box.shape[1])))[good]
    mean = np.average(data[good], weights=weight)
    np.testing.assert_allclose(stats[0], share[good].sum(), rtol=1e-12)
    np.testing.assert_allclose(stats[1], mean, rtol=1e-12)
    np.testing.assert_allclose(
        stats[2], np.sqrt(np.average((data[good] - mean) ** 2, weights=weight)), rtol=1e-10
    )
    assert stats[3] == data[good].min()
    assert stats[4] == data[good].max()


def test_large_offsets_lose_no_digits():
    box = _grid("south")
    noise = np.random.default_rng(1).standard_normal(box.shape)
    region = geo.Circle(0, -85, 300_000)
    near = geo.region_statistics(_map(box, noise).chunk({"y": 11, "x": 17}), region)["FeO"].values[
        0
    ]
    far = geo.region_statistics(_map(box, noise + 1e7).chunk({"y": 11, "x": 17}), region)[
        "FeO"
    ].values[0]
    np.testing.assert_allclose(far[2], near[2], rtol=1e-7)


# --- regions off the map, in several variables -----------------------------------------------------


REGIONS = [
    geo.Circle(180.0, -80.0, 200_000, "seam", "S"),
    geo.Box(100.0, -90.0, 140.0, -70.0, "wedge"),
    geo.Circle(0.0, 40.0, 100_000, "elsewhere"),
    geo.Polygon(shapely.box(-300_000, -200_000, 100_000, 150_000), "south", "square"),
]


@pytest.mark.parametrize("lazy", [False, True])
def test_region_off_the_map_has_count_0(lazy):
    box = _grid("south")
    data = _map(box, np.ones(box.shape, np.float32), units="wt%", long_name="FeO")
    stats = geo.region_statistics(data.chunk({"y": 40, "x": 40}) if lazy else data, REGIONS)
    assert stats["FeO"].dims == ("region", "statistic")
    assert stats["FeO"].dtype == np.float64
    assert stats["FeO"].attrs["units"] == "wt%"
    assert list(stats["region"].values) == ["seam", "wedge", "elsewhere", "square"]
    assert str(stats["abbreviation"].values[0]) == "S"
    values = stats["FeO"].compute()
    off = values.sel(region="elsewhere")
    assert float(off.sel(statistic="count")) == 0
    assert np.isnan(off.values[1:]).all()
    np.testing.assert_allclose(values.sel(statistic="mean", region=["seam", "wedge", "square"]), 1)


def test_all_nan_is_count_0():
    box = _grid("south")
    stats = geo.region_statistics(_map(box, np.full(box.shape, np.nan)), REGIONS[0])["FeO"].values
    assert stats[0, 0] == 0
    assert np.isnan(stats[0, 1:]).all()


def test_only_blocks_around_the_region_are_read():
    box = _grid("south")
    seen = set()

    def block(block_info=None):
        seen.add(tuple(block_info[None]["chunk-location"]))
        return np.ones(block_info[None]["chunk-shape"], np.float32)

    chunks = da.core.normalize_chunks(20, tuple(box.shape))
    data = da.map_blocks(block, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    geo.region_statistics(_map(box, data), geo.Circle(0, -75, 30_000)).compute(scheduler="sync")
    assert 1 <= len(seen) <= 6


# --- other inputs, errors -------------------------------------------------------------------------


def test_regions_from_a_frame_and_a_file(tmp_path):
    import geopandas

    box = _grid("south")
    data = _map(box, _height(box, 0, -90))
    square = REGIONS[3]
    frame = geopandas.GeoDataFrame({"name": ["square"]}, geometry=[square.geometry]).set_crs(
        geo.moon_crs("south").to_wkt()
    )
    frame.to_file(tmp_path / "square.gpkg")
    expected = geo.region_statistics(data, square)
    for regions in (frame, tmp_path / "square.gpkg"):
        got = geo.region_statistics(data, regions)
        assert list(got["region"].values) == ["square"]
        np.testing.assert_allclose(got["FeO"], expected["FeO"], rtol=1e-12)
    with pytest.raises(BodyMismatchError):
        geo.region_statistics(data, frame.set_crs("EPSG:3031", allow_override=True))
    with pytest.raises(LunarrayError):
        geo.region_statistics(data, frame.iloc[:0])
    with pytest.raises(InputError, match="read"):
        geo.region_statistics(data, tmp_path / "absent.gpkg")


def test_errors():
    box = _grid("south")
    data = _map(box, np.ones(box.shape))
    region = REGIONS[0]
    for bad in ((-1,), (50, 101), (math.nan,)):
        with pytest.raises(InputError, match="percentiles"):
            geo.region_statistics(data, region, percentiles=bad)
    with pytest.raises(InputError):
        geo.region_statistics(data, [])
    with pytest.raises(InputError, match="int is no region"):
        geo.region_statistics(data, [region, 3])
    with pytest.raises(InputError, match="no map nothing"):
        geo.region_statistics(data.to_dataset(), region, variables=["nothing"])
    with pytest.raises(InputError, match="no map"):
        geo.region_statistics(data.to_dataset().astype(int), region)
    with pytest.raises(InputError, match="no map"):
        geo.region_statistics(xr.DataArray(np.ones(3), dims="observation"), region)
    foreign = data.copy()
    foreign["spatial_ref"].attrs = {"crs_wkt": pyproj.CRS("EPSG:3031").to_wkt()}
    with pytest.raises(BodyMismatchError):
        geo.region_statistics(foreign, region)
    with pytest.raises(GridError):
        geo.region_statistics(data.drop_vars(["x", "y"]), region)
