"""open_cube and open_sp_cube: rasters of several kinds, their wavelengths, missing values and bodies."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from lunarray import sp
from lunarray.errors import (
    BandMismatchError,
    BodyMismatchError,
    InputError,
    LunarrayWarning,
    ProductFormatError,
)
from lunarray.sp import open_cube, open_sp_cube

rasterio = pytest.importorskip("rasterio")

MOON = "IAU_2015:30110"
WAVES = [750.0, 900.0, 950.0, 1000.0, 1550.0]


def write(path, data, *, crs=MOON, driver="GTiff", **options):
    from rasterio.transform import from_origin

    with rasterio.open(
        path,
        "w",
        driver=driver,
        count=data.shape[0],
        height=data.shape[1],
        width=data.shape[2],
        dtype=data.dtype,
        crs=crs,
        transform=from_origin(-1000.0, 2000.0, 100.0, 100.0),
        **options,
    ) as raster:
        raster.write(data)
    return path


def tag(path, waves=WAVES, key="wavelength", **more):
    with rasterio.open(path, "r+") as raster:
        for band, w in enumerate(waves, 1):
            raster.update_tags(band, **{key: w}, **more)
    return path


@pytest.fixture
def data(rng):
    return rng.uniform(0.05, 0.3, (5, 12, 17)).astype("f4")


def test_geotiff(tmp_path, data, no_compute):
    path = tag(write(tmp_path / "a.tif", data))
    cube = open_cube(path)
    assert isinstance(cube.reflectance.data, da.Array)
    assert cube.reflectance.dims == ("wavelength", "y", "x")
    np.testing.assert_array_equal(cube.wavelength, WAVES)
    assert cube.wavelength.attrs["units"] == "nm"
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(cube.reflectance.values, data)
        assert cube.compute().identical(open_cube(path, chunks=None))
    np.testing.assert_allclose(cube.x[:2], [-950, -850])
    np.testing.assert_allclose(cube.y[:2], [1950, 1850])
    assert "30110" in cube.spatial_ref.attrs["crs_wkt"]
    assert cube.reflectance.attrs["units"] == "1"
    assert open_cube(path).reflectance.data.name == cube.reflectance.data.name


def test_chunks_keep_the_spectrum_whole(tmp_path, data):
    path = tag(write(tmp_path / "a.tif", data))
    for chunks, expected in ((5, (5, 5, 2)), ((4, 17), (4, 4, 4))):
        got = open_cube(path, chunks=chunks).reflectance
        assert got.chunks[0] == (5,)
        assert got.chunks[1] == expected
        np.testing.assert_array_equal(got.values, data)
    for chunks in (0, "big", (1, 2, 3)):
        with pytest.raises(InputError, match="chunks="):
            open_cube(path, chunks=chunks)


def test_automatic_chunks_have_the_size_wanted(tmp_path):
    path = tmp_path / "big.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=150, height=6000, width=9000, dtype="float32",
        tiled=True, blockxsize=256, blockysize=256, sparse_ok=True, crs=MOON, bigtiff="yes",
    ):  # fmt: skip
        pass
    got = open_cube(path, wavelengths=np.linspace(500, 1600, 150)).reflectance
    sizes = [4 * 150 * y * x / 2**20 for y in got.chunks[1][:-1] for x in got.chunks[2][:-1]]
    assert min(sizes) >= 16
    assert max(sizes) <= 64


def test_scale_offset_nodata(tmp_path, rng):
    stored = rng.integers(1, 3000, (5, 6, 7)).astype("i2")
    stored[:, 2, 3] = -999
    stored[1, 0, 0] = -999
    path = tag(write(tmp_path / "a.tif", stored, nodata=-999))
    with rasterio.open(path, "r+") as raster:
        raster.scales = (1e-4,) * 5
        raster.offsets = (0.01,) * 5
    got = open_cube(path).reflectance
    expected = np.where(stored == -999, np.nan, stored * 1e-4 + 0.01)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.dtype == np.float32
    assert not {"scale_factor", "add_offset", "_FillValue"} & set(got.attrs)


def test_bands_and_order(tmp_path, data):
    path = write(tmp_path / "a.tif", data)
    got = open_cube(path, wavelengths=WAVES[::-1])
    np.testing.assert_array_equal(got.wavelength, WAVES)
    np.testing.assert_array_equal(got.reflectance, data[::-1])
    tag(path)
    some = open_cube(path, bands=[4, 2])
    np.testing.assert_array_equal(some.wavelength, [900.0, 1000.0])
    np.testing.assert_array_equal(some.reflectance, data[[1, 3]])
    np.testing.assert_array_equal(
        open_cube(path, bands=[4, 2], wavelengths=[1.0, 2.0]).reflectance, data[[3, 1]]
    )
    for bands in ([0, 1], [1, 9], [2, 2]):
        with pytest.raises(InputError, match="counted from 1"):
            open_cube(path, bands=bands)


def test_wavelengths_in_other_places(tmp_path, data):
    micrometres = [w / 1000 for w in WAVES]
    one = tag(write(tmp_path / "um.tif", data), micrometres)
    np.testing.assert_allclose(open_cube(one).wavelength, WAVES)
    two = write(tmp_path / "names.tif", data)
    with rasterio.open(two, "r+") as raster:
        raster.descriptions = [f"Reflectance ({w:.2f} nm)" for w in WAVES]
    np.testing.assert_allclose(open_cube(two).wavelength, WAVES)
    three = write(tmp_path / "plain.tif", data)
    with rasterio.open(three, "r+") as raster:
        raster.descriptions = [f"Band {i}" for i in range(1, 6)]
    with pytest.raises(BandMismatchError, match=r"plain\.tif: its bands have no wavelengths"):
        open_cube(three)


def test_envi(tmp_path, data):
    path = write(tmp_path / "a.img", data, driver="ENVI", interleave="bil")
    header = tmp_path / "a.hdr"
    text = header.read_text()
    waves = ", ".join(f"{w / 1000:.4f}" for w in WAVES)
    header.write_text(text + f"wavelength units = Micrometers\nwavelength = {{\n {waves}}}\n")
    got = open_cube(path)
    np.testing.assert_allclose(got.wavelength, WAVES)
    np.testing.assert_array_equal(got.reflectance, data)


def isis_cube(path, data, center, unit):
    """An ISIS3 cube, band sequential, label attached; float32."""
    bands, lines, samples = data.shape
    unit = f" <{unit}>" if unit else ""
    label = f"""Object = IsisCube
  Object = Core
    StartByte = 4097
    Format = BandSequential
    Group = Dimensions
      Samples = {samples}
      Lines = {lines}
      Bands = {bands}
    End_Group
    Group = Pixels
      Type = Real
      ByteOrder = Lsb
      Base = 0.0
      Multiplier = 1.0
    End_Group
  End_Object
  Group = BandBin
    Center = ({", ".join(str(c) for c in center)}){unit}
  End_Group
End_Object
Object = Label
  Bytes = 4096
End_Object
End
"""
    path.write_bytes(label.encode().ljust(4096, b"\0") + data.astype("<f4").tobytes())
    return path


@pytest.mark.parametrize(("factor", "unit"), [(1, "nm"), (1e-3, "micrometers"), (1e-3, "")])
def test_isis_cube_with_special_pixels(tmp_path, data, factor, unit):
    data = data.copy()
    # NULL, LRS, LIS, HIS, HRS of ISIS reals.
    specials = np.array([0xFF7FFFFB, 0xFF7FFFFC, 0xFF7FFFFD, 0xFF7FFFFE, 0xFF7FFFFF], "<u4")
    data[0, 0, :5] = specials.view("<f4")
    path = isis_cube(tmp_path / "a.cub", data, [w * factor for w in WAVES], unit)
    with pytest.warns(LunarrayWarning, match=r"a\.cub: no coordinate reference system"):
        got = open_cube(path)
    np.testing.assert_allclose(got.wavelength, WAVES)
    assert np.isnan(got.reflectance[0, 0, :5]).all()
    assert int(np.isnan(got.reflectance).sum()) == 5
    np.testing.assert_array_equal(got.reflectance[1:], data[1:])
    assert got.attrs["crs"] == "unknown"


def test_crs_is_of_the_moon(tmp_path, data):
    earth = tag(write(tmp_path / "earth.tif", data, crs="EPSG:4326"))
    mars = tag(write(tmp_path / "mars.tif", data, crs="IAU_2015:49910"))
    for path in (earth, mars):
        with pytest.raises(BodyMismatchError, match=path.name):
            open_cube(path)
    none = tag(write(tmp_path / "none.tif", data, crs=None))
    with pytest.warns(LunarrayWarning, match="no coordinate reference system"):
        assert open_cube(none).attrs["crs"] == "unknown"
    assert "30130" in open_cube(none, crs="north").spatial_ref.attrs["crs_wkt"]


def test_what_is_no_cube(tmp_path, data):
    with pytest.raises(InputError, match="no such file"):
        open_cube(tmp_path / "none.tif")
    text = tmp_path / "a.txt"
    text.write_text("no raster")
    with pytest.raises(InputError, match="not a raster"):
        open_cube(text)
    with pytest.raises(InputError, match="1 band is not a spectrum"):
        open_cube(write(tmp_path / "one.tif", data[:1]))
    path = tag(write(tmp_path / "a.tif", data))
    with pytest.raises(BandMismatchError, match="4 wavelengths for 5 bands"):
        open_cube(path, wavelengths=WAVES[:4])
    for bad in ([750.0] * 5, [-1.0, *WAVES[1:]], [np.nan, *WAVES[1:]]):
        with pytest.raises(BandMismatchError, match="positive numbers that differ"):
            open_cube(path, wavelengths=bad)


def test_cube_goes_through_conditioning(tmp_path, rng):
    waves = np.asarray(sp.WAVELENGTHS_160)
    data = (0.1 + 1e-4 * (waves - 500))[:, None, None] * rng.uniform(0.5, 1, (5, 6))
    path = write(tmp_path / "a.tif", data.astype("f4"))
    got = sp.condition(open_cube(path, wavelengths=waves))
    np.testing.assert_allclose(got.reflectance, data[1:151], rtol=2e-3)
    assert "spatial_ref" in got.coords
    assert got.reflectance.attrs["grid_mapping"] == "spatial_ref"


@pytest.mark.realdata
def test_real_m3(real_data):
    path = real_data / "m3" / "M3_4030seg_L2_aristcrater.tif"
    with pytest.warns(LunarrayWarning, match="no coordinate"):
        cube = open_cube(path)
    assert cube.sizes == {"wavelength": 83, "y": 50, "x": 50}
    assert float(cube.wavelength[0]) == pytest.approx(540.84)
    assert float(cube.wavelength[-1]) == pytest.approx(2976.2)
    values = cube.reflectance.values
    assert np.isfinite(values).all()
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(values, raster.read())
    inside = sp.resample_bands(cube, np.arange(600.0, 1500.0, 20.0))
    assert np.isfinite(inside.reflectance.values).all()


@pytest.mark.realdata
def test_real_isis_image_is_not_a_spectrum(real_data):
    with pytest.raises(InputError, match="1 band is not a spectrum"):
        open_cube(real_data / "nac" / "M143947267L.cal.echo.crop.cub")


# ---- the global SP cube ----
@pytest.fixture
def sp_cube_file(tmp_path):
    """A sparse file of the full size with values where the test looks."""
    path = tmp_path / "avg_cube.img"
    with open(path, "wb") as stream:
        stream.truncate(8 * 160 * 360 * 720)
    return path


def put(path, band, row, column, value):
    with open(path, "r+b") as stream:
        stream.seek(8 * ((band * 360 + row) * 720 + column))
        stream.write(np.array([value], "<f8").tobytes())


def test_sp_cube(sp_cube_file, no_compute):
    put(sp_cube_file, 0, 0, 0, 0.11)  # 89.75 N 0.25 E
    put(sp_cube_file, 7, 0, 719, 0.12)  # 89.75 N 0.25 W
    put(sp_cube_file, 159, 359, 359, 0.13)  # 89.75 S 179.75 E
    put(sp_cube_file, 159, 359, 360, 0.14)  # 89.75 S 179.75 W
    put(sp_cube_file, 3, 10, 10, -1.0)
    put(sp_cube_file, 3, 10, 11, np.inf)
    cube = open_sp_cube(sp_cube_file)
    assert cube.reflectance.dims == ("wavelength", "lat", "lon")
    assert cube.reflectance.shape == (160, 360, 720)
    assert cube.reflectance.dtype == np.float32
    np.testing.assert_array_equal(cube.wavelength, sp.WAVELENGTHS_160)
    assert float(cube.lon[0]) == -179.75
    assert float(cube.lon[-1]) == 179.75
    assert "30100" in cube.spatial_ref.attrs["crs_wkt"]
    assert open_sp_cube(sp_cube_file).reflectance.data.name == cube.reflectance.data.name
    with dask.config.set(scheduler="synchronous"):
        at = cube.reflectance.sel
        for wavelength, lat, lon, value in (
            (512.6, 89.75, 0.25, 0.11),
            (554.5, 89.75, -0.25, 0.12),
            (1644.2, -89.75, 179.75, 0.13),
            (1644.2, -89.75, -179.75, 0.14),
        ):
            found = at(wavelength=wavelength, lat=lat, lon=lon, method="nearest")
            assert float(found) == np.float32(value)
        assert np.isnan(cube.reflectance[3, 10, 360:372]).all()
        for chunks in ((100, 100), 360):
            other = open_sp_cube(sp_cube_file, chunks=chunks).reflectance
            xr.testing.assert_identical(
                other[150:, 300:, 100:500].compute(),
                cube.reflectance[150:, 300:, 100:500].compute(),
            )


def test_sp_cube_of_another_size(sp_cube_file, tmp_path):
    cube = open_sp_cube(sp_cube_file)
    with open(sp_cube_file, "r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(ProductFormatError, match=r"avg_cube\.img: 1000 bytes, .* 331776000"):
        open_sp_cube(sp_cube_file)
    with pytest.raises(ProductFormatError, match="1000 bytes"):
        cube.reflectance[0, 0].compute()
    with pytest.raises(InputError, match="no such file"):
        open_sp_cube(tmp_path / "none.img")
