"""Global maps by others: labels as their archives write them, positions and values computed by hand."""

from __future__ import annotations

import gzip
import warnings

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine

from lunarray import geo, maps
from lunarray.errors import (
    BodyMismatchError,
    GridError,
    InputError,
    LunarrayWarning,
    ProductFormatError,
)

R = 1_737_400.0
LOLA = """PDS_VERSION_ID            = "PDS3"
DATA_SET_ID               = "LRO-L-LOLA-4-GDR-V1.0"
PRODUCT_ID                = "{name}"
MISSION_PHASE_NAME        = {{"COMMISSIONING","NOMINAL MISSION","SCIENCE
                            MISSION"}}
TARGET_NAME               = MOON

OBJECT                    = UNCOMPRESSED_FILE
FILE_NAME                 = "{name}.IMG"
RECORD_TYPE               = FIXED_LENGTH
FILE_RECORDS              = {rows}
RECORD_BYTES              = {bytes}
^IMAGE                    = "{name}.IMG"

  OBJECT                  = IMAGE
    NAME                  = HEIGHT
    LINES                 = {rows}
    LINE_SAMPLES          = {columns}
    SAMPLE_TYPE           = {kind}
    SAMPLE_BITS           = {bits}
    UNIT                  = {unit}
    SCALING_FACTOR        = {scale}
    OFFSET                = {offset}
/* HEIGHT = (DN * SCALING_FACTOR).                                         */
  END_OBJECT              = IMAGE
END_OBJECT                = UNCOMPRESSED_FILE
OBJECT                    = IMAGE_MAP_PROJECTION
 ^DATA_SET_MAP_PROJECTION     = "DSMAP.CAT"
 MAP_PROJECTION_TYPE          = "{projection}"
 MAP_RESOLUTION               = {resolution} <pix/deg>
 A_AXIS_RADIUS                = 1737.4 <km>
 B_AXIS_RADIUS                = 1737.4 <km>
 C_AXIS_RADIUS                = 1737.4 <km>
 FIRST_STANDARD_PARALLEL      = 'N/A'
 POSITIVE_LONGITUDE_DIRECTION = "EAST"
 CENTER_LATITUDE              = {lat} <deg>
 CENTER_LONGITUDE             = {lon} <deg>
 MAP_SCALE                    = {size} <m/pix>
 MAXIMUM_LATITUDE             = {north} <deg>
 MINIMUM_LATITUDE             = {south} <deg>
 WESTERNMOST_LONGITUDE        = {west} <deg>
 EASTERNMOST_LONGITUDE        = {east} <deg>
 LINE_PROJECTION_OFFSET       = {line} <pix>
 SAMPLE_PROJECTION_OFFSET     = {sample} <pix>
END_OBJECT                    = IMAGE_MAP_PROJECTION

END
"""


def write_lola(folder, values, *, name="LDEM_X", **changes):
    """A LOLA product, label and pixels, by default all of the Moon from 0° to 360°."""
    rows, columns = values.shape
    resolution = rows / 180
    keys = {
        "name": name, "rows": rows, "columns": columns, "bytes": values.dtype.itemsize * columns,
        "kind": "LSB_INTEGER", "bits": 8 * values.dtype.itemsize, "unit": "METER", "scale": 0.5,
        "offset": "1737400.", "projection": "SIMPLE CYLINDRICAL", "resolution": resolution, "lat": 0,
        "lon": 180, "size": round(np.deg2rad(1 / resolution) * R, 2), "north": 90, "south": -90,
        "west": 0, "east": 360, "line": rows / 2 - 0.5, "sample": columns / 2 - 0.5,
    } | changes  # fmt: skip
    (folder / f"{name}.IMG").write_bytes(values.astype(values.dtype.newbyteorder("<")).tobytes())
    label = folder / f"{name}.LBL"
    label.write_text(LOLA.format(**keys).replace("\n", "\r\n"), newline="")
    return label


@pytest.fixture
def numbers(rng):
    return rng.integers(-17758, 21008, (36, 72)).astype(np.int16)


@pytest.mark.parametrize("ending", [".LBL", ".IMG"])
def test_heights_of_lola_come_in_degrees_from_the_west(tmp_path, numbers, ending):
    label = write_lola(tmp_path, numbers)
    found = maps.open_map(label.with_suffix(ending))
    assert found.name == "height"
    assert found.chunks is not None
    assert found.attrs["units"] == "m"
    assert found.attrs["reference_radius"] == R
    np.testing.assert_allclose(found.lat, 87.5 - 5 * np.arange(36))
    np.testing.assert_allclose(found.lon, -177.5 + 5 * np.arange(72))
    # The first sample is the one east of the meridian of 0°.
    np.testing.assert_array_equal(found, np.roll(numbers, 36, axis=1) * np.float32(0.5))
    xr.testing.assert_equal(found.compute(), maps.open_map(label, chunks=None))
    assert geo.crs_code(geo.crs_of(found)) == "IAU_2015:30100"


def test_what_a_label_rounds_is_taken_from_what_it_does_not(tmp_path, numbers):
    """Metres per pixel to one figure: three pixels over half the Moon by GDAL, none by the latitudes."""
    label = write_lola(tmp_path, numbers, size=150_000)
    with rasterio.open(label) as raster:
        assert abs(raster.bounds.left / (np.pi * R) + 1) > 0.005
    found = maps.open_map(label)
    box = geo.geobox_of(found)
    assert box.transform.almost_equals(Affine(5, 0, -180, 0, -5, 90), 1e-9)


def test_latitudes_of_pixels_centres_and_of_parts(tmp_path, numbers):
    label = write_lola(
        tmp_path, numbers[:10, :20], resolution=0.2, north=62.5, south=17.5, west=182.5, east=277.5,
        line=16.5, sample=-0.5, lon=182.5, size=151_616.7,
    )  # fmt: skip
    found = maps.open_map(label)
    np.testing.assert_allclose(found.lat, 62.5 - 5 * np.arange(10))
    np.testing.assert_allclose(found.lon, -177.5 + 5 * np.arange(20))
    np.testing.assert_array_equal(found, numbers[:10, :20] * np.float32(0.5))


def test_floating_heights_in_kilometres(tmp_path, rng):
    values = rng.normal(0, 2, (18, 36)).astype(np.float32)
    label = write_lola(tmp_path, values, kind="PC_REAL", unit="KILOMETER", scale=1, offset=1737.4)
    found = maps.open_map(label)
    np.testing.assert_array_equal(found, np.roll(values, 18, axis=1))
    assert found.attrs["units"] == "km"
    assert found.attrs["reference_radius"] == R


@pytest.mark.parametrize("shift", [-0.5, 0.5])
@pytest.mark.parametrize("pole", ["north", "south"])
def test_polar_maps_have_the_pole_in_their_middle(tmp_path, numbers, pole, shift):
    """Longitude 0 straight down in the north and straight up in the south, by the archive's formulas; offsets are
    counted to the middle's pixel edge from either side."""
    n, size = 8, 20_000.0
    sign = 1 if pole == "north" else -1
    label = write_lola(
        tmp_path, numbers[:n, :n], projection="POLAR STEREOGRAPHIC", lat=90 * sign, lon=0, size=int(size),
        resolution=1.516, north=90 if sign > 0 else -87.4, south=87.4 if sign > 0 else -90,
        line=n / 2 + shift, sample=n / 2 + shift,
    )  # fmt: skip
    found = maps.open_map(label)
    assert found.dims == ("y", "x")
    assert geo.crs_name(geo.crs_of(found)) == pole
    lon, lat = geo.lonlat(geo.geobox_of(found))
    line, sample = np.meshgrid(np.arange(1, n + 1), np.arange(1, n + 1), indexing="ij")
    x, y = (sample - n / 2 - 0.5) * size, (line - n / 2 - 0.5) * size
    radius = np.hypot(x, y)
    np.testing.assert_allclose(lat, sign * (90 - np.rad2deg(2 * np.arctan(0.5 * radius / R))))
    np.testing.assert_allclose(lon, np.rad2deg(np.arctan2(x, y if sign > 0 else -y)), atol=1e-9)
    np.testing.assert_array_equal(found, numbers[:n, :n] * np.float32(0.5))


def test_a_camera_s_label_that_counts_lines_southwards(tmp_path, numbers):
    keys = {
        "projection": "EQUIRECTANGULAR", "resolution": 303.23, "lon": 0, "size": 100, "north": 0.0181,
        "south": 0, "west": 0, "east": 0.03, "sample": 0,
    }  # fmt: skip
    straight = write_lola(tmp_path, numbers[:5, :9], name="A", line=5, **keys)
    turned = write_lola(tmp_path, numbers[:5, :9], name="B", line=-5, **keys)
    xr.testing.assert_allclose(
        maps.open_map(straight).drop_attrs(), maps.open_map(turned).drop_attrs()
    )
    assert maps.open_map(turned).dims == ("y", "x")
    keys["north"] = 45
    with pytest.warns(LunarrayWarning, match=r"at 45° N by its latitude"):
        maps.open_map(write_lola(tmp_path, numbers[:5, :9], name="C", line=5, **keys))


@pytest.mark.parametrize("inner", [True, False])
def test_a_qube_of_clementine_is_where_its_data_set_says(tmp_path, rng, inner):
    """The sinusoidal formulas of the data set, with the latitude that the label begins at; five filters, scaled, with
    the special pixels of ISIS. Whether the projection stands in the QUBE or behind it is all one."""
    bands, lines, samples, offset = 5, 10, 20, 1066.5
    values = rng.integers(0, 3000, (bands, lines, samples)).astype(">i2")
    values[0, 0, :3] = -32768, -32764, -32752
    projection = f"""OBJECT = IMAGE_MAP_PROJECTION
 MAP_PROJECTION_TYPE = "SINUSOIDAL"
 A_AXIS_RADIUS = 1737.4 <KM>
 B_AXIS_RADIUS = 1737.4 <KM>
 C_AXIS_RADIUS = 1737.4 <KM>
 POSITIVE_LONGITUDE_DIRECTION = EAST
 CENTER_LATITUDE = 0.0
 CENTER_LONGITUDE = 45.0
 MAXIMUM_LATITUDE = {np.rad2deg((offset + 0.5) * 100 / R):.4f}
 MAP_SCALE = 0.1 <KM/PIXEL>
 LINE_PROJECTION_OFFSET = {offset}
 SAMPLE_PROJECTION_OFFSET = 9.5
END_OBJECT = IMAGE_MAP_PROJECTION
"""
    label = f"""PDS_VERSION_ID = PDS3
RECORD_TYPE = FIXED_LENGTH
RECORD_BYTES = {2 * samples}
FILE_RECORDS = {60 + bands * lines}
LABEL_RECORDS = 60
^QUBE = 61
DATA_SET_ID = "CLEM1-L-U-5-DIM-UVVIS-V1.0"
TARGET_NAME = "MOON"
OBJECT = QUBE
 AXES = 3
 AXIS_NAME = (SAMPLE,LINE,BAND)
 CORE_ITEMS = ({samples},{lines},{bands})
 CORE_ITEM_BYTES = 2
 CORE_ITEM_TYPE = MSB_INTEGER
 CORE_BASE = 0.0
 CORE_MULTIPLIER = 1.35E-04
 CORE_NULL = -32768
 SUFFIX_BYTES = 4
 SUFFIX_ITEMS = (0,0,0)
{projection if inner else ""}END_OBJECT = QUBE
{"" if inner else projection}END
""".replace("\n", "\r\n").encode()
    path = tmp_path / "ui03n045.img"
    path.write_bytes(label.ljust(60 * 2 * samples) + values.tobytes())
    found = maps.open_map(path)
    assert found.dims == ("band", "y", "x")
    assert np.isnan(found.values[0, 0, :2]).all()
    np.testing.assert_allclose(found.values[1:], values[1:] * 1.35e-4, rtol=1e-6)
    lon, lat = geo.lonlat(geo.geobox_of(found))
    line, sample = np.meshgrid(np.arange(lines), np.arange(samples), indexing="ij")
    resolution = np.deg2rad(1) * R / 100
    expected = (offset - line) / resolution
    np.testing.assert_allclose(lat, expected)
    np.testing.assert_allclose(lon, 45 + (sample - 9.5) / resolution / np.cos(np.deg2rad(expected)))


def test_missing_numbers_of_a_label(tmp_path, numbers):
    numbers[3, 4], numbers[5, 6] = 7, -32768
    found = maps.open_map(write_lola(tmp_path, numbers, offset="0\r\n MISSING_CONSTANT = 7"))
    assert np.isnan(found.values[3, 40])
    assert "reference_radius" not in found.attrs
    found = maps.open_map(write_lola(tmp_path, numbers))
    assert np.isnan(found.values[5, 42])
    assert found.values[3, 40] == 3.5


def test_a_cube_of_isis_with_its_special_pixels(tmp_path, numbers):
    path = tmp_path / "GLD.cub"
    half = np.pi * R
    with rasterio.open(
        path, "w", driver="ISIS3", width=72, height=36, count=1, dtype="int16", nodata=-32768,
        crs=f"+proj=eqc +lon_0=0 +R={R} +units=m", transform=Affine(half / 36, 0, 0, 0, -half / 36, half / 2),
    ) as raster:  # fmt: skip
        numbers[0, :5] = -32768, -32767, -32766, -32765, -32764
        raster.write(numbers, 1)
    found = maps.open_map(path)
    assert found.dims == ("lat", "lon")
    assert np.isnan(found.values[0, 36:41]).all()
    good = np.isfinite(found.values)
    assert good.sum() == numbers.size - 5
    np.testing.assert_array_equal(found.values[good], np.roll(numbers, 36, 1)[good])


@pytest.mark.parametrize(
    ("crs", "left", "columns", "first"),
    [
        ("IAU_2015:30100", 0.0, 72, 36),
        ("+proj=longlat +R=1737400 +no_defs", -180.0, 72, 0),
        ("+proj=eqc +lon_0=180 +R=1737400 +units=m", -np.pi * R, 72, 36),
        ("+proj=eqc +lon_0=0 +R=1737400 +units=m", -np.pi * R, 72, 0),
        ("+proj=eqc +lon_0=0 +lat_ts=60 +R=1738100 +units=m", -np.pi * 1738100 / 2, 72, 0),
        # Centres on the meridians: the first column holds 180°.
        ("+proj=longlat +R=1737400 +no_defs", -2.5, 72, 36),
    ],
)
def test_whole_turns_in_any_dialect(tmp_path, numbers, crs, left, columns, first):
    path = tmp_path / "map.tif"
    degrees = "longlat" in crs or "30100" in crs
    step = 5.0 if degrees else 2 * abs(left) / 72
    tall, top = (5.0, 90.0) if degrees else (np.pi * (1738100 if "1738" in crs else R) / 36, None)
    with rasterio.open(
        path, "w", driver="GTiff", width=72, height=36, count=1, dtype="int16", crs=crs,
        transform=Affine(step, 0, left, 0, -tall, top or tall * 18),
    ) as raster:  # fmt: skip
        raster.write(numbers, 1)
    found = maps.open_map(path)
    assert found.dims == ("lat", "lon")
    assert found.lon.min() >= -180
    assert found.lon.max() < 180
    np.testing.assert_allclose(found.lat, 87.5 - 5 * np.arange(36))
    offset = -180.0 if left == -2.5 else -177.5
    np.testing.assert_allclose(found.lon, offset + 5 * np.arange(72))
    np.testing.assert_array_equal(found, np.roll(numbers, -first, axis=1))


def test_parts_and_other_projections_stay_as_they_are(tmp_path, numbers):
    def write(name, crs, affine):
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", width=72, height=36, count=2, dtype="int16", crs=crs, transform=affine
        ) as raster:  # fmt: skip
            raster.write(np.stack([numbers, numbers]))
        return tmp_path / name

    part = maps.open_map(write("a.tif", "IAU_2015:30100", Affine(0.1, 0, 200, 0, -0.1, 5)))
    assert part.dims == ("band", "lat", "lon")
    np.testing.assert_allclose(part.lon, -160 + 0.05 + 0.1 * np.arange(72))
    path = write("b.tif", f"+proj=sinu +lon_0=45 +R={R}", Affine(200, 0, -2000, 0, -200, 5000))
    sinusoidal = maps.open_map(path, bands=2)
    assert sinusoidal.dims == ("y", "x")
    around = Affine(np.pi * R / 36, 0, -np.pi * R, 0, -1e5, 1.8e6)
    mercator = maps.open_map(write("c.tif", f"+proj=merc +R={R}", around))
    assert mercator.dims == ("band", "y", "x")
    with pytest.raises(BodyMismatchError, match="Mars"):
        maps.open_map(write("d.tif", "IAU_2015:49900", Affine(1, 0, 0, 0, -1, 18)))


def test_pictures_and_tables(tmp_path, numbers):
    picture = tmp_path / "p.png"
    shape = {"width": 72, "height": 36, "count": 3, "dtype": "uint8"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(picture, "w", driver="PNG", **shape) as raster:
            raster.write(np.stack([(numbers % 250).astype(np.uint8)] * 3))
    with pytest.raises(GridError, match="without a place"):
        maps.open_map(picture)
    found = maps.open_map(picture, bounds=(-180, -90, 180, 90))
    assert found.dims == ("band", "lat", "lon")
    np.testing.assert_allclose(found.lon, -177.5 + 5 * np.arange(72))
    assert found.attrs["valid_range"] == [0, 255]
    polar = maps.open_map(picture, bounds=(-2000, -1000, 2000, 1000), crs="south", bands=1)
    assert geo.crs_name(geo.crs_of(polar)) == "south"
    with pytest.raises(InputError, match="bounds"):
        maps.open_map(picture, bounds=(180, -90, -180, 90))

    table = tmp_path / "t.csv.gz"
    with gzip.open(table, "wt") as stream:
        np.savetxt(stream, numbers, delimiter=",", fmt="%d")
    found = maps.open_map(table)
    assert found.name == "t"
    assert found.chunks is not None
    np.testing.assert_array_equal(found, numbers)
    np.testing.assert_allclose(found.lat, 87.5 - 5 * np.arange(36))
    assert float(found.sel(lat=87.5, lon=-177.5)) == numbers[0, 0]
    np.savetxt(tmp_path / "square.csv", np.arange(9.0).reshape(3, 3), delimiter=",")
    with pytest.raises(ProductFormatError, match="3 rows"):
        maps.open_map(tmp_path / "square.csv")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    packed = table.read_bytes()
    (tmp_path / "short.csv.gz").write_bytes(packed[:60])
    (tmp_path / "changed.csv.gz").write_bytes(packed[:40] + b"\xff" * 40 + packed[80:])
    for name in ("bad.csv", "short.csv.gz", "changed.csv.gz"):
        with pytest.raises(ProductFormatError):
            maps.open_map(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        maps.open_map(tmp_path / "none.csv")


@pytest.mark.realdata
def test_real_heights_at_places_that_are_known(real_data):
    """The highest ground of the Moon, at 5.4° N 201.4° E, and the lowest, in Antoniadi; a quarter of a degree smooths
    both."""
    heights = maps.open_map(real_data / "context" / "LDEM_4.LBL").load()
    assert heights.shape == (720, 1440)
    for value, expected, lat, lon in (
        (heights.max(), 10_504.0, 5.4, -158.6),
        (heights.min(), -8_878.5, -70.4, -172.4),
    ):
        (row, column) = np.argwhere(heights.values == float(value))[0]
        assert float(value) == expected
        assert abs(float(heights.lat[row]) - lat) < 0.25
        assert abs(float(heights.lon[column]) - lon) < 0.25
    # The label's own least and greatest number.
    assert float(heights.max()) == 0.5 * 21008
    assert float(heights.min()) == 0.5 * -17757
    stored = np.fromfile(real_data / "context" / "LDEM_4.IMG", "<i2").reshape(720, 1440)
    np.testing.assert_array_equal(heights, np.roll(stored, 720, axis=1) * np.float32(0.5))


@pytest.mark.realdata
def test_real_camera_and_altimeter_agree_to_a_tenth_of_a_pixel(real_data):
    from scipy.ndimage import map_coordinates

    laser = maps.open_map(real_data / "context" / "LDEM_4.LBL").load()
    (cube,) = (real_data / "context").glob("WAC_GLD100*.cub")
    camera = maps.open_map(cube).load()
    assert camera.attrs["reference_radius"] == R
    box = geo.geobox_of(camera)
    lon, lat = geo.lonlat(box)
    flat = np.abs(lat) < 70
    size = np.rad2deg(12_800 / R)

    def agreement(right, up):
        row, column = geo.project(geo.geobox_of(laser), lon + right * size, lat + up * size)
        there = map_coordinates(laser.values, [row - 0.5, column - 0.5], order=1, mode="grid-wrap")
        return np.corrcoef(there[flat], camera.values[flat])[0, 1]

    straight = agreement(0, 0)
    assert straight > 0.999
    for step in (0.1, 0.5):
        assert straight > max(agreement(s, 0) for s in (-step, step))
        assert straight > max(agreement(0, s) for s in (-step, step))


@pytest.mark.realdata
def test_real_colours_and_albedo_lie_on_one_another(real_data):
    (picture,) = (real_data / "context").glob("*lroc_color*.jpg")
    colour = maps.open_map(picture, bounds=(-180, -90, 180, 90)).load()
    albedo = maps.open_map(real_data / "maps" / "Albedo_Map.csv.gz").load()
    there = geo.reproject(colour.isel(band=0), geo.geobox_of(albedo), method="average")
    flat = np.abs(albedo.lat) < 60
    a, b = albedo.where(flat, drop=True).values, there.where(flat, drop=True).values
    straight = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert straight > 0.85
    assert np.corrcoef(a.ravel(), np.roll(b, 4, 1).ravel())[0, 1] < straight
    assert np.corrcoef(a.ravel(), np.roll(b, -4, 1).ravel())[0, 1] < straight
