"""Images: GeoTIFF, cubes and PNG, special pixels and scales, lazy; the real crops."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import rasterio
from affine import Affine

import lunarray as la
from lunarray import geo
from lunarray.errors import (
    BodyMismatchError,
    GridError,
    InputError,
    LunarrayWarning,
    ProductFormatError,
)
from lunarray.fractures import map_fractures, vectorize
from lunarray.fractures.ground import box_of
from lunarray.fractures.weights import DEFAULT_MODEL

pytestmark = pytest.mark.filterwarnings("ignore:.*no geotransform.*")
SOUTH = geo.moon_crs("south").to_wkt()
TRANSFORM = Affine(1.5, 0, 90_000, 0, -1.5, -180_000)
MERCURY = "+proj=eqc +R=2439700 +units=m +no_defs"


def _tiff(path, data, *, crs=SOUTH, transform=TRANSFORM, **profile):
    data = np.atleast_3d(data.T).T if data.ndim == 2 else data
    with rasterio.open(
        path, "w", driver="GTiff", count=len(data), height=data.shape[1], width=data.shape[2], dtype=data.dtype,
        crs=crs, transform=transform, **profile,
    ) as raster:  # fmt: skip
        raster.write(data)
    return path


@pytest.mark.parametrize(
    ("dtype", "full"), [("uint8", 255), ("uint16", 65535), ("int16", 32767), ("float32", 1)]
)
def test_types_share_one_range(tmp_path, rng, dtype, full):
    data = (rng.integers(1, 120, (40, 50)) if full > 1 else rng.random((40, 50))).astype(dtype)
    image = la.open_nac(_tiff(tmp_path / "a.tif", data))
    assert image.dtype == np.float32
    assert image.dims == ("y", "x")
    np.testing.assert_allclose(image, data / full, rtol=1e-6)
    np.testing.assert_array_equal(
        la.open_nac(tmp_path / "a.tif", scale=None), data.astype("float32")
    )
    np.testing.assert_allclose(
        la.open_nac(tmp_path / "a.tif", scale=(2e-3, 0.5)), data * 2e-3 + 0.5, rtol=1e-6
    )
    assert box_of(image).transform == TRANSFORM
    assert geo.crs_code(geo.crs_of(image)) == "IAU_2015:30135"


def test_scale_and_offset_of_the_file(tmp_path):
    path = _tiff(tmp_path / "a.tif", np.array([[10, 20], [30, 40]], np.uint8))
    with rasterio.open(path, "r+") as raster:
        raster.scales, raster.offsets = (0.001,), (0.02,)
    np.testing.assert_allclose(la.open_nac(path), [[0.03, 0.04], [0.05, 0.06]], rtol=1e-6)


def test_special_pixels_of_sixteen_bits(tmp_path):
    # ISIS: -32768 NULL, -32767 and -32766 low, -32765 and -32764 high saturation; valid from -32752.
    data = np.array([[-32768, -32767, -32766, -32765], [-32764, -32752, 0, 32767]], np.int16)
    null = _tiff(tmp_path / "null.tif", data, nodata=-32768)
    expected = np.array([[1, 1, 1, 1], [1, 0, 0, 0]], bool)
    np.testing.assert_array_equal(np.isnan(la.open_nac(null)), expected)
    # Another nodata value says nothing of ISIS: only that value is missing, unless one asks.
    other = _tiff(tmp_path / "other.tif", data, nodata=0)
    np.testing.assert_array_equal(np.isnan(la.open_nac(other)), data == 0)
    np.testing.assert_array_equal(
        np.isnan(la.open_nac(other, special=True)), expected | (data == 0)
    )
    np.testing.assert_array_equal(np.isnan(la.open_nac(null, special=False)), data == -32768)


def _cube(path, data, kind, *, base=0.0, multiplier=1.0):
    """A smallest ISIS3 cube, band-sequential, label attached."""
    label = f"""Object = IsisCube
  Object = Core
    StartByte = 4097
    Format = BandSequential
    Group = Dimensions
      Samples = {data.shape[1]}
      Lines = {data.shape[0]}
      Bands = 1
    End_Group
    Group = Pixels
      Type = {kind}
      ByteOrder = Lsb
      Base = {base}
      Multiplier = {multiplier}
    End_Group
  End_Object
  Group = Radiometry
    RadiometricType = IOF
  End_Group
  Group = Mapping
    ProjectionName = PolarStereographic
    CenterLongitude = 0.0
    TargetName = Moon
    EquatorialRadius = 1737400.0 <meters>
    PolarRadius = 1737400.0 <meters>
    LatitudeType = Planetocentric
    LongitudeDirection = PositiveEast
    LongitudeDomain = 180
    CenterLatitude = -90.0
    UpperLeftCornerX = 90000.0 <meters>
    UpperLeftCornerY = -180000.0 <meters>
    PixelResolution = 1.5 <meters/pixel>
    Scale = 20215.7 <pixels/degree>
  End_Group
End_Object
End
"""
    path.write_bytes(label.encode().ljust(4096, b"\0") + data.tobytes())
    return path


def test_projected_cubes(tmp_path):
    bits = np.array([[0, 1, 100], [254, 255, 7]], np.uint8)  # 0 NULL, 255 saturated
    image = la.open_nac(
        _cube(tmp_path / "byte.cub", bits, "UnsignedByte", base=-0.01, multiplier=0.002)
    )
    np.testing.assert_array_equal(np.isnan(image), (bits == 0) | (bits == 255))
    np.testing.assert_allclose(image.values[0, 2], 100 * 0.002 - 0.01, rtol=1e-6)
    assert image.attrs["long_name"] == "I/F"
    np.testing.assert_allclose(image.x, 90_000.75 + 1.5 * np.arange(3))
    np.testing.assert_allclose(image.y, -180_000.75 - 1.5 * np.arange(2))
    assert geo.MOON.holds(geo.crs_of(image))
    # ISIS' five special reals, as bits.
    codes = np.array([0xFF7FFFFB, 0xFF7FFFFC, 0xFF7FFFFD, 0xFF7FFFFE, 0xFF7FFFFF], np.uint32)
    reals = np.append(codes.view(np.float32), np.float32(0.1)).reshape(2, 3)
    image = la.open_nac(_cube(tmp_path / "real.cub", reals, "Real"))
    np.testing.assert_array_equal(np.isnan(image), np.arange(6).reshape(2, 3) < 5)


def test_lazy_and_the_same_in_any_chunks(tmp_path, rng, no_compute):
    data = rng.integers(0, 255, (130, 170)).astype(np.uint8)
    path = _tiff(tmp_path / "a.tif", data, nodata=7, tiled=True, blockxsize=64, blockysize=64)
    for chunks in ("auto", 50, (33, 170)):
        image = la.open_nac(path, chunks=chunks)
        assert image.chunks is not None
        import dask

        with dask.config.set(scheduler="synchronous"):
            np.testing.assert_array_equal(image, la.open_nac(path, chunks=None))


def test_png_with_alpha(tmp_path):
    with rasterio.open(
        tmp_path / "a.png", "w", driver="PNG", count=2, height=2, width=3, dtype="uint8"
    ) as raster:
        raster.write(np.array([[[51, 102, 153]] * 2, [[255, 0, 255]] * 2], np.uint8))
        raster.colorinterp = [
            rasterio.enums.ColorInterp.gray,
            rasterio.enums.ColorInterp.alpha,
        ]
    image = la.open_nac(tmp_path / "a.png")
    np.testing.assert_allclose(image, [[0.2, np.nan, 0.6]] * 2, rtol=1e-6)
    assert image.attrs["georeference"] == "none"
    assert not set(image.coords)


def test_crs_of_the_caller_and_of_mercury(tmp_path):
    data = np.ones((4, 5), np.uint8)
    image = la.open_nac(_tiff(tmp_path / "bare.tif", data, crs=None), crs="north")
    assert geo.crs_code(geo.crs_of(image)) == "IAU_2015:30130"
    mercury = la.open_nac(_tiff(tmp_path / "mercury.tif", data, crs=MERCURY))
    assert box_of(mercury).transform == TRANSFORM
    assert box_of(mercury).crs.proj.ellipsoid.semi_major_metre == 2_439_700.0


@pytest.mark.parametrize(
    ("make", "options", "error", "words"),
    [
        (lambda p: p / "absent.tif", {}, InputError, "no such file"),
        (lambda p: (p / "a.tif").write_text("no") and p / "a.tif", {}, InputError, "GDAL"),
        (lambda p: _tiff(p / "a.tif", np.ones((2, 2), np.uint8)), {"band": 2}, InputError, "band 2 of 1"),
        (lambda p: _tiff(p / "a.tif", np.ones((2, 2), np.uint8)), {"chunks": 0}, InputError, "chunks"),
        (lambda p: _tiff(p / "a.tif", np.ones((2, 2), np.uint8)), {"scale": "x"}, InputError, "scale"),
        (lambda p: _tiff(p / "a.tif", np.ones((2, 2), np.uint8)), {"scale": (0, 1)}, InputError, "scale"),
        (
            lambda p: _tiff(p / "a.tif", np.ones((2, 2), np.uint8), crs="EPSG:32633"),
            {}, BodyMismatchError, "neither of the Moon nor of Mercury",
        ),
        (
            lambda p: _tiff(p / "a.tif", np.ones((2, 2), np.uint8), transform=TRANSFORM * Affine.rotation(10)),
            {}, GridError, "rotated",
        ),
        (
            lambda p: _tiff(p / "a.tif", np.ones((2, 2), np.uint8), crs=None, transform=Affine.identity()),
            {"crs": "south"}, InputError, "no geotransform",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, make, options, error, words):
    with pytest.raises(error, match=words):
        la.open_nac(make(tmp_path), **options)


# --- real files -----------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_cube_is_unprojected(real_data):
    image = la.open_nac(real_data / "nac" / "M143947267L.cal.echo.crop.cub")
    assert image.shape == (400, 400)
    assert image.attrs["georeference"] == "none"
    assert image.attrs["long_name"] == "I/F"
    values = image.values
    assert np.isfinite(values).all()
    # Sunlit ground in I/F.
    assert 0.01 < values.min() < values.max() < 0.5
    with pytest.raises(GridError, match=r"not georeferenced.*cam2map"):
        vectorize((image > 0.2).astype(np.uint8))


@pytest.mark.realdata
def test_real_raw_product_is_refused(real_data):
    with pytest.raises(ProductFormatError, match=r"raw EDR.*process_edr"):
        la.open_nac(real_data / "nac" / "nacl.img")


@pytest.mark.realdata
def test_real_georeferenced_raster(real_data):
    image = la.open_nac(real_data / "nac" / "marius_hills_pit_dem_2m.tif")
    with rasterio.open(real_data / "nac" / "marius_hills_pit_dem_2m.tif") as raster:
        np.testing.assert_array_equal(image, raster.read(1))
        assert box_of(image).transform == raster.transform
    lon, lat = geo.lonlat(box_of(image))
    # The Marius Hills pit: 303.23° E, 14.09° N (LROC pit list).
    assert abs(lon.mean() - -56.77) < 0.01
    assert abs(lat.mean() - 14.09) < 0.01


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name",
    [
        "M115143943RE_cal_echo_2_2.png",
        "M1229577647LE_cal_echo_14_4.png",
        "M143947267L.cal.echo.crop.cub",
    ],
)
def test_real_crops_are_searched(real_data, name):
    if not DEFAULT_MODEL.exists():
        pytest.skip(f"the default weights are absent: {DEFAULT_MODEL}")
    image = la.open_nac(real_data / "nac" / name)[:300, :300]
    # Where the light comes from is not clear in every corner of an image; azimuths are tried then.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LunarrayWarning)
        found = map_fractures(image.load())
    assert found["probability"].shape == image.shape
    # What it finds is shown, not judged: but these are probabilities, and a mask of them.
    p = found["probability"].values
    assert np.isfinite(p).all()
    assert p.min() >= 0
    assert p.max() <= 1
    np.testing.assert_array_equal(found["mask"].values == 1, p >= 0.5)
