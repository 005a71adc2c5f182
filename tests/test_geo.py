"""Lunar coordinate systems, longitudes and grids."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pyproj
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from lunarray import geo
from lunarray.errors import BodyMismatchError, GridError

R = 1_737_400.0
CODES = ("IAU_2015:30100", "IAU_2015:30110", "IAU_2015:30130", "IAU_2015:30135")


def _map(geobox, fill=1.0, name="FeO"):
    coords = geo.grid_coords(geobox)
    data = np.full(geobox.shape, fill, np.float32)
    return xr.DataArray(data, dims=tuple(coords), coords=coords, name=name)


# --- CRS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_as", "code"),
    [
        ("geographic", "IAU_2015:30100"),
        ("equirectangular", "IAU_2015:30110"),
        ("north", "IAU_2015:30130"),
        ("South", "IAU_2015:30135"),
        (30135, "IAU_2015:30135"),
        (np.int64(30130), "IAU_2015:30130"),
        ("30130", "IAU_2015:30130"),
        ("IAU_2015:30110", "IAU_2015:30110"),
        ("+proj=stere +lat_0=-90 +R=1737400", "IAU_2015:30135"),
        ("ESRI:104903", "ESRI:104903"),
    ],
)
def test_moon_crs_by_name_and_code(given_as, code):
    crs = geo.moon_crs(given_as)
    assert isinstance(crs, pyproj.CRS)
    assert geo.crs_code(crs) == code
    assert geo.MOON.holds(crs)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("version", ["WKT2_2019", "WKT1_GDAL"])
def test_code_survives_rasterio(code, version):
    import rasterio

    from_rasterio = rasterio.crs.CRS.from_user_input(pyproj.CRS(code).to_wkt())
    assert geo.crs_code(from_rasterio.to_wkt(version=version)) == code
    assert geo.moon_crs(from_rasterio) == pyproj.CRS(code)


def test_unnamed_spheres_and_iau2000_are_the_moon():
    unnamed = (
        'PROJCS["unnamed",GEOGCS["Unknown datum based upon the custom spheroid",'
        'DATUM["Not_specified_based_on_custom_spheroid",SPHEROID["Custom spheroid",1737400,0]],'
        'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],'
        'PROJECTION["Polar_Stereographic"],PARAMETER["latitude_of_origin",90],'
        'PARAMETER["central_meridian",0],'
        'PARAMETER["scale_factor",1],PARAMETER["false_easting",0],PARAMETER["false_northing",0],UNIT["metre",1]]'
    )
    iau2000 = (
        'GEOGCS["Moon 2000",DATUM["D_Moon_2000",SPHEROID["Moon_2000_IAU_IAG",1737400.0,0.0]],'
        'PRIMEM["Greenwich",0],UNIT["Decimal_Degree",0.0174532925199433]]'
    )
    assert geo.crs_code(geo.require_body(unnamed)) == "IAU_2015:30130"
    assert geo.MOON.holds(iau2000)


@pytest.mark.parametrize(
    ("crs", "body"),
    [
        ("IAU_2015:49900", "Mars"),
        ("IAU_2015:19900", "Mercury"),
        ("EPSG:4326", "Earth"),
        ("EPSG:32633", "Earth"),
        ("+proj=longlat +R=3396190", "Mars"),
        ("+proj=longlat +R=12345678", "unknown body"),
    ],
)
def test_other_bodies_are_refused_by_name(crs, body):
    with pytest.raises(BodyMismatchError) as caught:
        geo.require_body(crs, where="mosaic.tif")
    message = str(caught.value)
    assert body in message
    assert message.startswith("mosaic.tif: ")
    assert "IAU_2015" in message


@pytest.mark.parametrize("crs", [None, "nonsense", 3.5, 'LOCAL_CS["image",UNIT["m",1]]'])
def test_what_is_no_crs(crs):
    with pytest.raises((GridError, BodyMismatchError)):
        geo.require_body(crs)


@pytest.mark.parametrize("name", ["north", "south", "equirectangular", "geographic"])
def test_assign_crs_is_understood_by_rio_odc_and_zarr(name, tmp_path):
    import odc.geo.xr  # noqa: F401
    import rioxarray  # noqa: F401

    geobox = geo.lunar_grid(name, 50_000.0 if name != "geographic" else 10.0)
    array = geo.assign_crs(_map(geobox), name)
    ds = geo.assign_crs(xr.Dataset({"FeO": _map(geobox), "orbits": ("orbit", np.arange(3))}), name)
    ds.to_zarr(tmp_path / "map.zarr", zarr_format=3, consolidated=False)
    stored = xr.open_zarr(tmp_path / "map.zarr", consolidated=False)
    again = stored.drop_vars("orbits")
    # Writing a second time fails where grid_mapping stands in both attrs and encoding.
    again.load().to_zarr(tmp_path / "again.zarr", zarr_format=3, consolidated=False)
    netcdf = tmp_path / "map.nc"
    ds.to_netcdf(netcdf, engine="scipy", format="NETCDF3_64BIT")
    with xr.open_dataset(netcdf, engine="scipy") as back:
        stored_nc = back.load()

    assert "grid_mapping" not in ds["orbits"].attrs
    for obj in (array, ds, ds["FeO"], ds["FeO"] + 0, stored, stored["FeO"], stored_nc):
        assert "spatial_ref" in obj.coords
        assert geo.crs_code(geo.crs_of(obj)) == geo.crs_code(name)
        assert geo.geobox_of(obj) == geobox
        assert geo.crs_code(obj.rio.crs) == geo.crs_code(
            name
        )  # by parameters: rasterio writes WKT 1
        odc_box = obj.odc.geobox
        assert odc_box.shape == geobox.shape
        assert np.allclose(tuple(odc_box.transform), tuple(geobox.transform))
        assert odc_box.crs.proj == geo.moon_crs(name)
    xr.testing.assert_identical(stored.load()["FeO"], ds["FeO"])
    y, x = geo.grid_dims(geobox)
    expected = ("degrees_north", "degrees_east") if name == "geographic" else ("m", "m")
    assert (ds[y].attrs["units"], ds[x].attrs["units"]) == expected


def test_assign_crs_reads_back_from_a_geotiff(tmp_path):
    import rioxarray

    geobox = geo.polar_grid("south", 50_000.0)
    geo.assign_crs(_map(geobox, 3.0), "south").rio.to_raster(tmp_path / "map.tif")
    back = rioxarray.open_rasterio(tmp_path / "map.tif")
    assert geo.geobox_of(back) == geobox
    assert float(back.mean()) == 3.0


def test_assign_crs_replaces_and_keeps_data_lazy(no_compute):
    import dask.array as da

    geobox = geo.polar_grid("north", 100_000.0)
    coords = geo.grid_coords(geobox)
    lazy = xr.DataArray(da.ones(tuple(geobox.shape), chunks=4), dims=("y", "x"), coords=coords)
    out = geo.assign_crs(geo.assign_crs(lazy, "south"), "north")
    assert out.chunks is not None
    assert geo.crs_code(geo.crs_of(out)) == "IAU_2015:30130"
    assert "grid_mapping" not in lazy.attrs  # the input is not changed
    assert "standard_name" in out.x.attrs


def test_assign_crs_refuses_another_body():
    with pytest.raises(BodyMismatchError, match="Mars"):
        geo.assign_crs(_map(geo.polar_grid("north", 100_000.0)), "IAU_2015:49930")


def test_crs_of_without_and_with_conflict():
    plain = _map(geo.polar_grid("north", 100_000.0))
    assert geo.crs_of(plain) is None
    assert geo.crs_of(
        xr.DataArray(np.zeros(2), attrs={"crs": "IAU_2015:30110"})
    ).to_authority() == ("IAU_2015", "30110")
    a, b = geo.moon_crs("north"), geo.moon_crs("south")
    ds = xr.Dataset(
        {"p": ((), 0.0, {"grid_mapping": "pm"}), "q": ((), 0.0, {"grid_mapping": "qm"})}
    )
    ds = ds.assign_coords(pm=((), 0, {"crs_wkt": a.to_wkt()}), qm=((), 0, {"crs_wkt": b.to_wkt()}))
    with pytest.raises(GridError, match="different"):
        geo.crs_of(ds)


# --- longitudes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lon", "expected"),
    [
        (180.0, -180.0),
        (540.0, -180.0),
        (-180.0, -180.0),
        (360.0, 0.0),
        (359.5, -0.5),
        (0.0, 0.0),
        (-1e-17, -1e-17),
        (-540.0, -180.0),
    ],
)
def test_wrap_longitude_values(lon, expected):
    assert geo.wrap_longitude(lon) == expected
    assert geo.wrap_longitude(np.array([lon]))[0] == expected


@given(
    st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6),
    st.sampled_from([-180.0, 0.0, -90.0]),
)
@settings(max_examples=300, deadline=None)
def test_wrap_longitude_stays_in_range(lon, origin):
    for dtype in (np.float32, np.float64):
        out = geo.wrap_longitude(np.array([lon], dtype), origin=origin)
        assert out.dtype == dtype
        assert origin <= float(out[0]) < origin + 360.0
        turns = (float(out[0]) - float(dtype(lon))) / 360.0
        assert abs(turns - round(turns)) < 1e-6


def test_wrap_longitude_edges_in_float32():
    tiny = np.array([-1e-17, -1e-30, np.nextafter(np.float32(0), np.float32(-1))], np.float32)
    out = geo.wrap_longitude(tiny, origin=0.0)
    assert out.dtype == np.float32
    assert (out == 0.0).all()
    assert np.isnan(geo.wrap_longitude(np.array([np.nan, np.inf]))).all()
    assert geo.wrap_longitude(np.array([190])).dtype == np.float64


def test_wrap_longitude_of_xarray_and_dask(no_compute):
    import dask.array as da

    lon = xr.DataArray(
        da.from_array(np.array([10.0, 190.0], np.float32), chunks=1),
        dims="observation",
        attrs={"units": "degrees_east"},
    )
    out = geo.wrap_longitude(lon)
    assert out.chunks == ((1, 1),)
    assert out.attrs == lon.attrs
    assert out.dtype == np.float32
    np.testing.assert_array_equal(
        out.data.compute(scheduler="synchronous"), np.array([10.0, -170.0], np.float32)
    )


# --- sphere ---------------------------------------------------------------------------------------


def test_great_circle_distance():
    assert geo.great_circle_distance(0, 0, 90, 0) == pytest.approx(np.pi / 2 * R, rel=1e-15)
    assert geo.great_circle_distance(10, 90, 200, -90) == pytest.approx(np.pi * R)
    assert geo.great_circle_distance(179.999, 0, -179.999, 0) == pytest.approx(
        np.deg2rad(0.002) * R, rel=1e-9
    )
    geod = pyproj.Geod(a=R, b=R)
    lon, lat = np.array([3.0, -120.0]), np.array([75.0, -12.0])
    expected = geod.inv(lon[:1], lat[:1], lon[1:], lat[1:])[2]
    assert geo.great_circle_distance(lon[:1], lat[:1], lon[1:], lat[1:]) == pytest.approx(
        expected, rel=1e-9
    )


# --- grids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pole", ["north", "south"])
def test_polar_grid_covers_and_nests(pole):
    fine, coarse = geo.polar_grid(pole, 500.0, 65.0), geo.polar_grid(pole, 1000.0, -65.0)
    sign = 1.0 if pole == "north" else -1.0
    for box in (fine, coarse):
        assert box.shape[0] == box.shape[1]
        assert box.shape[0] % 2 == 0
        lon = np.linspace(-180, 180, 721)
        rows, columns = geo.pixel_of(box, lon, np.full(lon.shape, sign * 65.0))
        assert (rows >= 0).all()
        assert (columns >= 0).all()
    # Every corner of the coarse grid is a corner of the fine one's lattice, the pole among them.
    for value in (coarse.transform.c, coarse.transform.f, coarse.boundingbox.right):
        assert value % 500.0 == 0.0
        assert value % 1000.0 == 0.0
    half = 2 * R * np.tan(np.deg2rad(12.5))
    assert half <= fine.boundingbox.right < half + 500.0


def test_pole_has_one_pixel_and_the_antimeridian_one_column():
    box = geo.polar_grid("north", 500.0)
    rows, columns = geo.pixel_of(box, np.linspace(-180, 360, 1000), np.full(1000, 90.0))
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 1
    assert abs(rows[0] - box.shape[0] / 2) <= 1
    for name, lats in (
        ("north", (89.9, 70.0)),
        ("south", (-89.9, -70.0)),
        ("geographic", (10.0, -90.0)),
        ("equirectangular", (0.0, 80.0)),
    ):
        grid = geo.lunar_grid(name, 0.5 if name == "geographic" else 1000.0)
        for lat in lats:
            cells = {
                tuple(int(i[0]) for i in geo.pixel_of(grid, lon, lat))
                for lon in (180.0, -180.0, 540.0)
            }
            assert len(cells) == 1
            assert min(cells.pop()) >= 0


def test_pixel_of_agrees_with_pixel_centres(rng):
    for name, res in (
        ("north", 20_000.0),
        ("south", 20_000.0),
        ("geographic", 5.0),
        ("equirectangular", 100_000.0),
    ):
        box = geo.lunar_grid(name, res)
        lon, lat = geo.lonlat(box)
        ok = np.isfinite(lon) & (np.abs(lat) <= 90)
        if name == "equirectangular":  # its outermost column overhangs the ±180° meridian
            x = geo.grid_coords(box)["x"].values
            y = geo.grid_coords(box)["y"].values
            ok &= (np.abs(x) < np.pi * R)[None, :] & (np.abs(y) < np.pi * R / 2)[:, None]
        rows, columns = np.indices(box.shape)
        found = geo.pixel_of(box, lon[ok] + 360.0 * rng.integers(-1, 2, ok.sum()), lat[ok])
        np.testing.assert_array_equal(found[0], rows[ok])
        np.testing.assert_array_equal(found[1], columns[ok])


def test_pixel_of_polar_against_the_formula(rng):
    box = geo.polar_grid("south", 700.0, 60.0)
    lon, lat = rng.uniform(-180, 180, 2000), rng.uniform(-90, -62, 2000)
    rho = (
        2 * R * np.tan(np.deg2rad(90 + lat) / 2)
    )  # Snyder 1987, eq. 21-8 ff., south aspect: x = rho sin, y = rho cos
    x, y = rho * np.sin(np.deg2rad(lon)), rho * np.cos(np.deg2rad(lon))
    row, column = geo.pixel_of(box, lon, lat)
    np.testing.assert_array_equal(column, np.floor((x - box.boundingbox.left) / 700.0))
    np.testing.assert_array_equal(row, np.floor((box.boundingbox.top - y) / 700.0))


def test_pixel_of_outside_and_nan():
    box = geo.polar_grid("north", 1000.0, 80.0)
    row, column = geo.pixel_of(box, [0.0, np.nan, 0.0, 0.0, 0.0], [60.0, 85.0, np.nan, -90.0, 91.0])
    assert (row == -1).all()
    assert (column == -1).all()


def test_grids_in_0_360_and_across_the_seam():
    for bounds, lon, column in (
        ((0, -90, 360, 90), [-0.25, 180.0, 359.9, 0.0], [359, 180, 359, 0]),
        ((170, -10, 190, 10), [-179.5, 180.0, 170.0, 189.5], [10, 10, 0, 19]),
    ):
        box = geo.lunar_grid("geographic", 1.0, bounds)
        np.testing.assert_array_equal(geo.pixel_of(box, lon, 0.0)[1], column)


def test_lunar_grid_from_objects_and_bounds():
    box = geo.lunar_grid("north", 1000.0, bounds=(-2500, 100, 2500, 4999))
    assert box.shape == (5, 6)
    assert tuple(box.boundingbox) == (-3000, 0, 3000, 5000)
    array = geo.assign_crs(_map(box), "north")
    assert geo.lunar_grid(array) == box
    assert geo.lunar_grid(box) is box
    assert geo.lunar_grid(array, 500.0).shape == (10, 12)
    assert geo.lunar_grid("geographic").shape == (360, 720)
    assert pickle.loads(pickle.dumps(box)) == box


@pytest.mark.parametrize(
    "call",
    [
        lambda: geo.polar_grid("north", 0.0),
        lambda: geo.polar_grid("north", -5.0),
        lambda: geo.polar_grid("east", 5.0),
        lambda: geo.polar_grid("north", 500.0, 90.0),
        lambda: geo.lunar_grid("north", np.nan),
        lambda: geo.lunar_grid("north", 500.0, bounds=(1, 2, 1, 3)),
        lambda: geo.lunar_grid("north", 500.0, bounds=(1, 2)),
        lambda: geo.lunar_grid("north", "fine"),
        lambda: geo.lunar_grid("atlantis"),
        lambda: geo.geobox_of(xr.DataArray(np.zeros((2, 2)), dims=("observation", "wavelength"))),
        lambda: geo.geobox_of(_map(geo.polar_grid("north", 100_000.0))),  # no CRS
        lambda: geo.geobox_of(
            geo.assign_crs(xr.DataArray(np.zeros((2, 2)), dims=("y", "x")), "north")
        ),
    ],
)
def test_grid_errors(call):
    with pytest.raises(GridError):
        call()


def test_geobox_of_parts_and_irregular():
    box = geo.polar_grid("north", 100_000.0 / 3)
    array = geo.assign_crs(_map(box), box)
    with pytest.raises(GridError, match="not those of the grid"):
        geo.assign_crs(array.isel(x=slice(1, None)), box)
    part = array.isel(y=slice(3, 9), x=slice(5, 6))
    assert geo.geobox_of(part) == box[3:9, 5:6]
    coarse = array.coarsen(y=2, x=2, boundary="trim").mean()
    assert abs(geo.geobox_of(coarse).transform.a - 2 * box.transform.a) < 1e-6
    flipped = array.isel(y=slice(None, None, -1))
    assert geo.geobox_of(flipped).transform.e > 0
    with pytest.raises(GridError, match="not regular"):
        geo.geobox_of(array.isel(x=[0, 1, 3, 4]))
    with pytest.raises(GridError, match="resolution"):
        geo.geobox_of(geo.assign_crs(_map(box).isel(x=[3]), "north"))


def test_lonlat_chunked_equals_whole(no_compute):
    box = geo.polar_grid("south", 50_000.0)
    lon, lat = geo.lonlat(box)
    lazy = geo.lonlat(box, chunks=13)
    again = geo.lonlat(box, chunks=13)
    assert lazy[0].name == again[0].name
    np.testing.assert_array_equal(lazy[0].compute(scheduler="synchronous"), lon)
    np.testing.assert_array_equal(lazy[1].compute(scheduler="synchronous"), lat)
    assert lat.max() < -50
    assert lon.min() >= -180.0
    assert lon.max() < 180.0


def test_importing_geo_is_light():
    code = (
        "import sys, lunarray.geo; "
        "heavy = ('torch', 'numba', 'geopandas', 'matplotlib', 'odc.geo', 'rasterio', 'pyproj'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
