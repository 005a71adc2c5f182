"""Maps brought onto another grid: against rasterio, SciPy and closed forms; over the poles and ±180°; in chunks."""

from __future__ import annotations

import math

import dask
import dask.array as da
import numpy as np
import pyproj
import pytest
import xarray as xr

from lunarray import geo
from lunarray.errors import BodyMismatchError, GridError, InputError

R = 1_737_400.0
METHODS = ("nearest", "bilinear", "average")


def _map(geobox, data, name="FeO", **attrs):
    coords = geo.grid_coords(geobox)
    lead = ("oxide",) if np.ndim(data) == 3 else ()
    array = xr.DataArray(data, dims=(*lead, *coords), coords=coords, name=name, attrs=attrs)
    return geo.assign_crs(array, geobox)


def _vector(geobox):
    """Unit vectors of the pixels' centres, by pyproj alone: a field without seam or pole."""
    rows, columns = geobox.shape
    a = geobox.transform
    x, y = np.meshgrid(a.c + (np.arange(columns) + 0.5) * a.a, a.f + (np.arange(rows) + 0.5) * a.e)
    crs = pyproj.CRS.from_wkt(geobox.crs.to_wkt())
    if not crs.is_geographic:
        x, y = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(x, y)
    lam, phi = np.deg2rad(x), np.deg2rad(y)
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])


def _global(resolution=1.0, west=-180.0):
    return geo.lunar_grid("geographic", resolution, (west, -90.0, west + 360.0, 90.0))


GRIDS = {
    "geographic": lambda: _global(3.0),
    "east": lambda: _global(3.0, 0.0),
    "equirectangular": lambda: geo.lunar_grid("equirectangular", 2 * math.pi * R / 120),
    "north": lambda: geo.polar_grid("north", 60_000, 60),
    "south": lambda: geo.polar_grid("south", 60_000, 60),
    "seam": lambda: geo.lunar_grid("geographic", 1.5, (165.0, 54.0, 195.0, 90.0)),
    "corner": lambda: geo.lunar_grid("south", 50_000, (-300_000, -100_000, 700_000, 300_000)),
}


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["north", "seam", "geographic"])
def test_same_grid_same_values(rng, method, name):
    box = GRIDS[name]()
    data = rng.random(box.shape).astype(np.float32)
    data[3, 4] = np.nan
    np.testing.assert_allclose(
        geo.reproject(_map(box, data), box, method=method), data, rtol=1e-6, equal_nan=True
    )


def test_average_of_nested_grids_is_the_mean_of_the_blocks(rng):
    fine, coarse = geo.polar_grid("south", 5000, 85), geo.polar_grid("south", 15000, 85)
    # 15 km does not divide the extent: both are centred on the pole, so cut the coarse one to what is covered.
    n = fine.shape[0] // 2 // 3
    data = rng.random(fine.shape).astype(np.float64)
    start = fine.shape[0] // 2 - 3 * n
    blocks = data[start : start + 6 * n, start : start + 6 * n].reshape(2 * n, 3, 2 * n, 3)
    expected = blocks.mean(axis=(1, 3))
    coarse = geo.lunar_grid("south", 15000, (-15000 * n, -15000 * n, 15000 * n, 15000 * n))
    result = geo.reproject(_map(fine, data), coarse)  # "auto" is "average" here
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_average_leaves_out_nan_up_to_min_valid():
    fine = geo.lunar_grid("south", 1000, (0, 0, 4000, 2000))
    coarse = geo.lunar_grid("south", 2000, (0, 0, 4000, 2000))
    data = np.array([[1, np.nan, 5, np.nan], [3, 8, np.nan, np.nan]])
    source = _map(fine, data)
    np.testing.assert_allclose(geo.reproject(source, coarse), [[4.0, np.nan]])
    np.testing.assert_allclose(geo.reproject(source, coarse, min_valid=0.25), [[4.0, 5.0]])
    np.testing.assert_allclose(geo.reproject(source, coarse, min_valid=0.75), [[4.0, np.nan]])
    assert np.isnan(geo.reproject(source, coarse, min_valid=0.76)).all()


def test_bilinear_leaves_out_nan_up_to_min_valid():
    source, box = _global(3.0), GRIDS["north"]()
    field = _map(source, _vector(source).astype(np.float32))
    field = field.where(field.lon < 33)
    strict = geo.reproject(field, box, method="bilinear", min_valid=1.0).values
    loose = geo.reproject(field, box, method="bilinear", min_valid=0.01).values
    assert np.isnan(strict).sum() > np.isnan(loose).sum() > 0
    known = np.isfinite(strict)
    np.testing.assert_allclose(strict[known], _vector(box)[known], atol=2e-3)


def test_bilinear_is_that_of_scipy(rng):
    from scipy.ndimage import map_coordinates

    source = geo.polar_grid("north", 30_000, 70)
    target = geo.lunar_grid("geographic", 0.7, (-21.0, 75.0, 28.0, 85.0))
    data = rng.random(source.shape)
    lon, lat = np.meshgrid(*(c.values for c in reversed(geo.grid_coords(target).values())))
    crs = geo.moon_crs("north")
    x, y = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True).transform(lon, lat)
    a = source.transform
    expected = map_coordinates(data, [(y - a.f) / a.e - 0.5, (x - a.c) / a.a - 0.5], order=1)
    result = geo.reproject(_map(source, data), target, method="bilinear")
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_values_are_those_of_gdal(rng, method):
    from rasterio.crs import CRS
    from rasterio.warp import Resampling, reproject

    source = geo.lunar_grid("equirectangular", 20_000, (-400_000, 200_000, 600_000, 1_500_000))
    target = geo.lunar_grid("geographic", 0.45, (-8.1, 12.6, 14.4, 41.4))
    data = rng.random(source.shape).astype(np.float32)
    expected = np.full(target.shape, np.nan, np.float32)
    reproject(
        data,
        expected,
        src_transform=source.transform,
        src_crs=CRS.from_wkt(source.crs.to_wkt()),
        dst_transform=target.transform,
        dst_crs=CRS.from_wkt(target.crs.to_wkt()),
        resampling=Resampling[method],
        tolerance=0,
    )
    result = geo.reproject(_map(source, data), target, method=method).values
    assert np.isfinite(expected).all()
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, expected, atol=2e-3 if method == "bilinear" else 0)


@pytest.mark.parametrize("chunks", [None, 37])
@pytest.mark.parametrize(
    ("west", "method"), [*((-180.0, m) for m in METHODS), (0.0, "nearest"), (0.0, "bilinear")]
)
@pytest.mark.parametrize("target", ["north", "south", "seam", "east"])
def test_no_pixel_is_lost_at_poles_and_seam(west, target, method, chunks):
    # FIELD_NOTES, trap 1.
    source, box = _global(1.0, west), GRIDS[target]()
    field = _map(source, _vector(source).astype(np.float32))
    if chunks:
        field = field.chunk(dict.fromkeys(field.dims[1:], chunks))
    result = geo.reproject(field, box, method=method, chunks=chunks).values
    assert np.isfinite(result).all()
    error = np.abs(result - _vector(box)).max()
    # Half a pixel of 1° is 0.0087 and its diagonal 0.0124; bilinear is of the second order.
    assert error < {"nearest": 0.0125, "bilinear": 2e-4, "average": 0.012}[method]


@pytest.mark.parametrize("pole", ["north", "south"])
def test_polar_map_onto_longitudes_around(pole):
    source = geo.polar_grid(pole, 20_000, 60)
    sign = 1 if pole == "north" else -1
    low, high = sorted((sign * 65.0, sign * 90.0))
    target = geo.lunar_grid("geographic", 1.0, (-180, low, 180, high))
    field = _map(source, _vector(source).astype(np.float32)).chunk({"y": 19, "x": 23})
    result = geo.reproject(field, target, method="bilinear", chunks=(7, 50)).values
    assert np.isfinite(result).all()
    assert np.abs(result - _vector(target)).max() < 1e-4


def test_source_that_is_not_around_has_edges():
    source = geo.lunar_grid("geographic", 1.0, (-180, -10, 170, 10))
    target = geo.lunar_grid("geographic", 1.0, (165, -5, 185, 5))
    result = geo.reproject(_map(source, np.ones(source.shape)), target, method="nearest")
    expected = np.zeros(target.shape, bool)
    expected[:, :5] = expected[:, 15:] = True  # 165..170, and 180..185 that is -180..-175
    np.testing.assert_array_equal(np.isfinite(result), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "target", [("south", 20_000.0), ("equirectangular", 30_000.0), ("equirectangular", 150_000.0)]
)
def test_a_global_map_leaves_no_pixel_without_value(target, method):
    # 1° onto a polar and onto a global grid whose last column overhangs ±180°.
    source = _global(1.0)
    box = geo.lunar_grid(*target)
    given = _map(source, _vector(source)[0].astype(np.float32))
    expected = geo.reproject(given, box, method=method)
    a = box.transform
    rows, columns = box.shape
    y = np.abs(a.f + (np.arange(rows) + 0.5) * a.e)
    x = np.abs(a.c + (np.arange(columns) + 0.5) * a.a)
    on_the_moon = slice(None)
    if target[0] == "equirectangular":
        on_the_moon = np.ix_(y < math.pi * R / 2, x < math.pi * R)
    assert np.isfinite(expected.values[on_the_moon]).all()
    for chunks in (25, (90, 360), (180, 7)):
        lazy = given.chunk(dict(zip(given.dims, np.broadcast_to(chunks, 2).tolist(), strict=True)))
        xr.testing.assert_identical(
            geo.reproject(lazy, box, method=method, chunks=71).compute(scheduler="sync"), expected
        )


@pytest.mark.parametrize("method", METHODS)
def test_positions_between_those_of_proj(method):
    """Large blocks are placed by polynomials, the pole and what surrounds it by PROJ: none is off, none cut."""
    source, box = _global(0.1), geo.polar_grid("south", 1_000, 82)
    given = _map(source, _vector(source).astype(np.float32))
    whole = geo.reproject(given, box, method=method)
    # Half a pixel of 0.1° is 0.00087, its diagonal 0.00124.
    bound = {"nearest": 1.25e-3, "bilinear": 2e-6, "average": 1.25e-3}[method]
    assert np.abs(whole.values - _vector(box)).max() < bound
    lazy = geo.reproject(given.chunk({"lat": 250, "lon": 700}), box, method=method, chunks=150)
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), whole)


@pytest.mark.parametrize("columns", [8, 32, 64, 128])
@pytest.mark.parametrize("name", ["geographic", "equirectangular"])
def test_turns_of_a_power_of_two(rng, columns, name):
    # Places a whole turn apart look alike: a cell must not reach from one to the next.
    turn = 360.0 if name == "geographic" else 2 * math.pi * R
    box = geo.lunar_grid(name, turn / columns)
    data = rng.random(box.shape)
    fine = geo.lunar_grid("geographic", 180.0 / columns)
    for method in ("nearest", "average"):
        got = geo.reproject(_map(box, data), fine, method=method)
        np.testing.assert_allclose(got, data.repeat(2, 0).repeat(2, 1), rtol=1e-12)


def test_a_pole_on_the_seam_of_a_map_that_ends_there():
    # A map from 0° to 200° that reaches the pole: what it holds is there, the rest is not.
    source = geo.lunar_grid("geographic", 0.5, (0, -90, 200, -60))
    box = geo.polar_grid("south", 5_000, 75)
    given = _map(source, np.ones(source.shape, np.float32))
    whole = geo.reproject(given, box, method="nearest")
    lon, _ = geo.lonlat(box)
    np.testing.assert_array_equal(np.isfinite(whole), np.mod(lon, 360) < 200)
    lazy = geo.reproject(given.chunk(33), box, method="nearest", chunks=40)
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), whole)


@pytest.mark.parametrize("case", ["most of a turn", "beyond the projection"])
def test_chunks_of_grids_that_wrap_unevenly(case):
    if case == "most of a turn":
        source = geo.lunar_grid("geographic", 2.0, (230, 0, 560, 64))
        box = geo.lunar_grid("equirectangular", 52_000.0)
    else:
        # PROJ gives places a second time where a sinusoidal grid is wider than the Moon.
        crs = pyproj.CRS.from_proj4(f"+proj=sinu +lon_0=97 +R={R} +units=m")
        source = geo.polar_grid("north", 40_000, 70)
        box = geo.covering_box((1_400_000, 400_000, 5_800_000, 2_600_000), 14_000.0, crs)
    given = _map(source, _vector(source)[0].astype(np.float32))
    for method in METHODS:
        whole = geo.reproject(given, box, method=method)
        lazy = geo.reproject(given.chunk(17), box, method=method, chunks=45)
        np.testing.assert_array_equal(lazy.compute(scheduler="sync"), whole)


def test_whole_numbers_keep_their_type_where_the_nearest_is_taken():
    box = geo.lunar_grid("south", 1000, (0, 0, 4000, 4000))
    wide = geo.lunar_grid("south", 1000, (-2000, 0, 4000, 4000))
    classes = _map(box, np.arange(16).reshape(4, 4).astype(np.int32), name="classes")
    for given in (classes, classes.chunk(3)):
        out = geo.reproject(given, wide, method="nearest")
        assert out.dtype == np.int32
        np.testing.assert_array_equal(out[:, 2:], classes)
        assert (out[:, :2] == -1).all()
        assert geo.reproject(given, wide).dtype == np.float32
        flags = given.assign_attrs(flag_values=list(range(16)))
        assert geo.reproject(flags, 2000.0).dtype == np.int32


def test_another_pixel_and_another_body():
    mercury = geo.MERCURY.crs("north")
    box = geo.covering_box((0, 0, 6_000, 6_000), 1_500.0, mercury)
    image = geo.assign_grid(xr.DataArray(np.ones((4, 4), np.float32), dims=("y", "x")), box)
    coarse = geo.reproject(image, 6_000.0)
    assert geo.body_of(geo.crs_of(coarse)) == geo.MERCURY
    assert coarse.shape == (1, 1)
    assert float(coarse[0, 0]) == 1.0
    with pytest.raises(BodyMismatchError, match="Mercury"):
        geo.reproject(image, "south")
    with pytest.raises(GridError, match="resolution"):
        geo.reproject(image, -3.0)


# --- chunks, laziness -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "method"),
    [
        (s, t, m)
        for s in GRIDS
        for t in GRIDS
        for m in METHODS
        # Bilinear reads the furthest: it goes through all pairs.
        if m == "bilinear" or t in ("seam", "north")
    ],
)
def test_chunked_is_whole_to_the_bit(source, target, method):
    rng = np.random.default_rng(5)
    box = GRIDS[source]()
    data = rng.random((2, *box.shape)).astype(np.float32)
    data[rng.random(data.shape) < 0.05] = np.nan
    whole = _map(box, data)
    expected = geo.reproject(whole, GRIDS[target](), method=method)
    chunked = whole.chunk({"oxide": 1, whole.dims[1]: 13, whole.dims[2]: 23})
    result = geo.reproject(chunked, GRIDS[target](), method=method, chunks=(29, 43))
    assert isinstance(result.data, da.Array)
    assert result.dtype == expected.dtype == np.float32
    xr.testing.assert_identical(result.compute(scheduler="sync"), expected)


def test_only_blocks_near_the_target_are_read():
    box = _global(1.0)
    seen = set()

    def block(block_info=None):
        seen.add(tuple(block_info[None]["chunk-location"]))
        return np.ones(block_info[None]["chunk-shape"], np.float32)

    data = da.map_blocks(
        block, chunks=((30,) * 6, (30,) * 12), dtype=np.float32, meta=np.empty((0, 0), np.float32)
    )
    target = geo.lunar_grid("geographic", 1.0, (5, 5, 25, 25))
    result = geo.reproject(_map(box, data), target, method="nearest")
    assert np.all(result.values == 1)
    assert (2, 6) in seen
    assert len(seen) <= 9


def test_peaks_of_memory_follow_chunks():
    # 512 by default, whatever the source's chunks.
    box = _global(2.0)
    result = geo.reproject(
        _map(box, da.ones(tuple(box.shape), chunks=45)), geo.polar_grid("south", 1500, 75)
    )
    assert max(max(c) for c in result.chunks) == 512


# --- what is kept ---------------------------------------------------------------------------------


def test_metadata_and_types():
    box = GRIDS["geographic"]()
    data = _map(box, np.ones((2, *box.shape)), units="wt%", long_name="FeO")
    ds = xr.Dataset(
        {
            "FeO": data.assign_coords(oxide=["a", "b"]),
            "quality": _map(box, np.ones(box.shape, np.uint8), name="quality"),
            "turned": _map(box, np.ones(box.shape, np.float32), name="turned").T,
            "names": ("oxide", ["x", "y"]),
        },
        attrs={"source": "here"},
    )
    result = geo.reproject(ds, geo.polar_grid("south", 20_000))
    assert set(result.data_vars) == {"FeO", "quality", "turned"}
    assert result.attrs["source"] == "here"
    assert result["FeO"].dims == ("oxide", "y", "x")
    assert list(result["oxide"].values) == ["a", "b"]
    assert result["FeO"].attrs["units"] == "wt%"
    assert [result[n].dtype for n in ("FeO", "quality", "turned")] == ["f8", "f4", "f4"]
    assert geo.geobox_of(result) == geo.polar_grid("south", 20_000)
    assert geo.crs_code(geo.crs_of(result)) == "IAU_2015:30135"
    onto = geo.reproject(ds["FeO"], result)
    assert isinstance(onto, xr.DataArray)
    assert geo.geobox_of(onto) == geo.polar_grid("south", 20_000)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_no_overlap_is_all_nan(method, lazy):
    box = geo.lunar_grid("geographic", 1.0, (0, 0, 20, 20))
    data = _map(box, np.ones((2, *box.shape), np.float32))
    result = geo.reproject(
        data.chunk() if lazy else data, geo.polar_grid("south", 20_000, 80), method=method
    )
    assert (result.chunks is not None) == lazy
    assert result.shape[0] == 2
    assert np.isnan(result.values).all()


# --- errors ---------------------------------------------------------------------------------------


def test_errors():
    box = geo.lunar_grid("geographic", 1.0, (0, 0, 20, 20))
    good = _map(box, np.ones(box.shape, np.float32))
    with pytest.raises(InputError, match="cubic"):
        geo.reproject(good, "south", method="cubic")
    for share in (0, 1.5, math.nan):
        with pytest.raises(InputError, match="share"):
            geo.reproject(good, "south", min_valid=share)
    with pytest.raises(InputError, match="complex"):
        geo.reproject(good.astype(complex), "south")
    with pytest.raises(InputError, match="no map"):
        geo.reproject(xr.Dataset({"a": ("lat", np.ones(20))}, coords=good.coords), "south")
    with pytest.raises(GridError):
        geo.reproject(xr.DataArray(np.ones(3), dims="observation"), "south")


@pytest.mark.parametrize("crs", ["EPSG:4326", "IAU_2015:49900"])
def test_other_bodies_are_refused(crs):
    from odc.geo.geobox import GeoBox

    box = geo.lunar_grid("geographic", 1.0, (0, 0, 20, 20))
    good = _map(box, np.ones(box.shape, np.float32))
    foreign = pyproj.CRS(crs)
    with pytest.raises(BodyMismatchError):
        geo.reproject(good, GeoBox(box.shape, box.transform, foreign))
    bad = good.copy()
    bad["spatial_ref"].attrs = {"crs_wkt": foreign.to_wkt()}
    with pytest.raises(BodyMismatchError):
        geo.reproject(bad, "south")


def test_rotated_grid_is_refused():
    from affine import Affine
    from odc.geo.geobox import GeoBox

    box = geo.lunar_grid("geographic", 1.0, (0, 0, 20, 20))
    turned = GeoBox((5, 5), Affine.rotation(30) * Affine.scale(1000), geo.moon_crs("south"))
    with pytest.raises(GridError, match="rotated"):
        geo.reproject(_map(box, np.ones(box.shape)), turned)


def test_computes_under_every_scheduler():
    box = GRIDS["geographic"]()
    data = _map(box, np.arange(box.shape[0] * box.shape[1], dtype=np.float32).reshape(box.shape))
    lazy = geo.reproject(data.chunk({"lat": 20, "lon": 20}), GRIDS["north"](), chunks=40)
    with dask.config.set(scheduler="threads", num_workers=2):
        xr.testing.assert_identical(lazy.compute(), geo.reproject(data, GRIDS["north"]()))
