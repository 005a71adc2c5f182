"""Moon Mineralogy Mapper: products with the labels, headers and quirks of their archive."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import xarray as xr

from lunarray import maps, oxides
from lunarray.errors import BandMismatchError, InputError, LunarrayWarning, ProductFormatError

LINES = 6
LABEL = """PDS_VERSION_ID = PDS3
LABEL_REVISION_NOTE = "2009-01-26, S. Lundeen, 2011-01-07, S. Lundeen"
DATA_SET_ID = {dataset}
PRODUCT_ID = {name}_{version}_{kind}
RECORD_TYPE = UNDEFINED
MISSION_ID = CH1
INSTRUMENT_HOST_NAME = "CHANDRAYAAN-1 ORBITER"
INSTRUMENT_NAME = "MOON MINERALOGY MAPPER"
INSTRUMENT_ID = M3
TARGET_NAME = MOON
START_TIME = 2009-02-07T09:02:54
ORBIT_NUMBER = 1102
PRODUCT_VERSION_ID = "3.0"
SOLAR_DISTANCE = 0.986748796177 <AU>
CH1:ORBIT_LIMB_DIRECTION = DESCENDING
CH1:SPACECRAFT_YAW_DIRECTION = FORWARD
SPACECRAFT_ORIENTATION = (0.2723441, 0.27166598,
   1.1200135)
^DESCRIPTION = "L1B_NAV_DESC.ASC"
{objects}END
"""
OBJECT = """OBJECT = {kind}_FILE
  ^{kind}_IMAGE = "{file}"
  RECORD_TYPE = FIXED_LENGTH
  RECORD_BYTES = {bytes}
  FILE_RECORDS = {lines}
  OBJECT = {kind}_IMAGE
    LINES = {lines}
    LINE_SAMPLES = {samples}
    SAMPLE_TYPE = PC_REAL
    SAMPLE_BITS = {bits}
    UNIT = "W/(m^2 um sr)"
    BANDS = {bands}
    BAND_STORAGE_TYPE = LINE_INTERLEAVED
    LINE_DISPLAY_DIRECTION = DOWN
  END_OBJECT = {kind}_IMAGE
END_OBJECT = {kind}_FILE
"""
TIMES = """OBJECT = UTC_FILE
  ^UTC_TIME_TABLE = "{file}"
  RECORD_TYPE = FIXED_LENGTH
  OBJECT = UTC_TIME_TABLE
    NAME = "UTC OBSERVATION TIMING DATA"
    ROWS = {lines}
    OBJECT = COLUMN
      NAME = "LINE NUMBER"
      DESCRIPTION = "Record number for each RDN image line"
    END_OBJECT = COLUMN
  END_OBJECT = UTC_TIME_TABLE
END_OBJECT = UTC_FILE
"""
GLOBAL, TARGET = "M3G20090207T090254", "M3T20090418T190900"


def write_image(folder, name, kind, values, *, header=None):
    """An image (band, line, sample) as the archive has it, and its object in the label."""
    path = folder / f"{name}_{kind}.IMG"
    values = np.asarray(values)
    values.transpose(1, 0, 2).astype(values.dtype.newbyteorder("<")).tofile(path)
    bands, lines, samples = values.shape
    if header is not None:
        text = (
            f"ENVI\r\ndescription = {{\r\n  M3 product [made = here]}}\r\nsamples = {samples}\r\n"
            f"lines   = {lines}\r\nbands   = {bands}\r\nheader offset = 0\r\nfile type = ENVI Standard\r\n"
            f"data type = {4 if values.dtype == np.float32 else 5}\r\ninterleave = bil\r\n"
            "sensor type = Unknown\r\nbyte order = 0\r\nwavelength units = Nanometers\r\n" + header
        )
        path.with_suffix(".HDR").write_text(text, newline="")
    return OBJECT.format(
        kind=kind, file=path.name, bytes=bands * samples * values.dtype.itemsize, lines=lines, samples=samples,
        bits=8 * values.dtype.itemsize, bands=bands,
    )  # fmt: skip


def in_braces(key, values):
    """A list as ENVI's headers break it over lines."""
    rows = [", ".join(f"{v:8.2f}" for v in values[k : k + 7]) for k in range(0, len(values), 7)]
    return f"{key} = {{\r\n " + ",\r\n ".join(rows) + "}\r\n"


def write_observation(folder, *, name=GLOBAL, samples=8, header=True, seed=3, apart=False):
    """Both levels of an observation; of Level 2 the files lie as the archive puts them, if `apart`."""
    generator = np.random.default_rng(seed)
    bands = 85 if name[2] == "G" else 256
    nm = maps.GLOBAL_WAVELENGTHS if bands == 85 else maps.TARGET_WAVELENGTHS
    shape = (bands, LINES, samples)
    radiance = generator.uniform(-5, 90, shape).astype(np.float32)
    radiance[:, 2, 3] = -999.0
    y, x = np.mgrid[:LINES, :samples]
    location = np.stack([179.9915 + 0.004 * x, 9.9985 - 0.003 * y, 1_737_400.0 + 10 * x])
    light = generator.uniform(0, 60, (10, LINES, samples)).astype(np.float32)
    light[5] = generator.uniform(-1e-7, 1e-7, (LINES, samples))
    one, two = (folder / "L1B", folder / "L2") if apart else (folder, folder)
    one.mkdir(exist_ok=True)
    two.mkdir(exist_ok=True)
    stem = f"{name}_V03"
    own = in_braces("wavelength", nm)
    objects = write_image(one, stem, "RDN", radiance, header=own if header else None)
    objects += write_image(one, stem, "LOC", location)
    objects += write_image(one, stem, "OBS", light)
    objects += TIMES.format(file=f"{stem}_TIM.TAB", lines=LINES)
    rows = [
        f"{k + 1:6d} 2009-02-07T09:02:{54 + 0.1017 * k:09.6f} 2009  38.377016{k:06d}\r\n"
        for k in range(LINES)
    ]
    (one / f"{stem}_TIM.TAB").write_text("".join(rows), newline="")
    keys = {"name": name, "version": "V03", "kind": "RDN", "objects": objects}
    keys["dataset"] = "CH1-ORB-L-M3-4-L1B-RADIANCE-V3.0"
    (one / f"{stem}_L1B.LBL").write_text(LABEL.format(**keys).replace("\n", "\r\n"), newline="")

    reflectance = generator.uniform(0.02, 0.3, shape).astype(np.float32)
    reflectance[:2], reflectance[:, 2, 3] = -999.0, -999.0
    more = np.stack([reflectance[40], generator.uniform(250, 400, shape[1:]), radiance[83]])
    bad = in_braces("bbl", np.where(np.arange(bands) < 2, 0.0, 1.0))
    stem = f"{name}_V01"
    own += bad
    objects = write_image(two, stem, "RFL", reflectance, header=own if header else None)
    objects += write_image(two, stem, "SUP", more.astype(np.float32))
    keys |= {"version": "V01", "kind": "RFL", "objects": objects}
    keys["dataset"] = "CH1-ORB-L-M3-4-L2-REFLECTANCE-V1.0"
    text = LABEL.format(**keys).replace("ORBIT_N", "INVALID_CONSTANT = -999.0\nORBIT_N")
    (two / f"{stem}_L2.LBL").write_text(text.replace("\n", "\r\n"), newline="")
    return radiance, reflectance, location, light, more


def missing(values):
    return np.where(values == -999.0, np.nan, values)


@pytest.mark.parametrize(
    "ending", ["V03_L1B.LBL", "V03_RDN.IMG", "V03_RDN.HDR", "V03_LOC.IMG", "V03_TIM.TAB"]
)
def test_radiance_is_read_as_written_from_any_of_its_files(tmp_path, ending):
    radiance, _, location, light, _ = write_observation(tmp_path)
    ds = maps.open_m3(tmp_path / f"{GLOBAL}_{ending}")
    assert set(ds.data_vars) == {"radiance"}
    assert ds.radiance.dims == ("wavelength", "y", "x")
    np.testing.assert_array_equal(ds.radiance, missing(radiance))
    assert ds.radiance.attrs["units"] == "W m-2 um-1 sr-1"
    np.testing.assert_allclose(ds.wavelength, maps.GLOBAL_WAVELENGTHS, atol=0.006)
    lon = location[0].copy()
    lon[lon >= 180] -= 360
    np.testing.assert_allclose(ds.lon, lon, rtol=1e-14)
    np.testing.assert_array_equal(ds.lat, location[1])
    np.testing.assert_array_equal(ds.radius, location[2])
    for band, name in ((1, "incidence"), (3, "emission"), (4, "phase"), (6, "sensor_distance")):
        np.testing.assert_array_equal(ds[name], light[band])
    np.testing.assert_allclose(ds.solar_distance, 0.986748796177 + light[5], rtol=1e-7)
    assert str(ds.time.values[1]) == "2009-02-07T09:02:54.101700000"
    assert (ds.attrs["observing_mode"], ds.attrs["orbit"]) == ("global", "1102")


@pytest.mark.parametrize("apart", [False, True])
def test_reflectance_without_its_bad_bands_and_with_the_places_of_level_1(tmp_path, apart):
    _, reflectance, location, _, more = write_observation(tmp_path, apart=apart)
    folder = tmp_path / "L2" if apart else tmp_path
    ds = maps.open_m3(folder / f"{GLOBAL}_V01_L2.LBL")
    assert ds.sizes["wavelength"] == 83
    np.testing.assert_array_equal(ds.reflectance, missing(reflectance)[2:])
    np.testing.assert_array_equal(ds.lat, location[1])
    np.testing.assert_array_equal(ds.temperature, more[1].astype("f4"))
    np.testing.assert_array_equal(ds.longwave_radiance, missing(more[2].astype("f4")))
    assert "time" in ds.coords
    whole = maps.open_m3(folder / f"{GLOBAL}_V01_RFL.IMG", bad_bands="keep")
    assert whole.sizes["wavelength"] == 85
    assert whole.reflectance[:2].isnull().all()


def test_target_mode_and_products_without_their_headers(tmp_path):
    radiance, *_ = write_observation(tmp_path, name=TARGET, header=False)
    ds = maps.open_m3(tmp_path / f"{TARGET}_V03_L1B.LBL")
    np.testing.assert_array_equal(ds.radiance, missing(radiance))
    np.testing.assert_allclose(ds.wavelength[[0, 1, -1]], [446.02, 456.0, 2991.17], atol=0.01)
    assert ds.attrs["observing_mode"] == "target"
    with pytest.raises(BandMismatchError, match="3 wavelengths for 256 bands"):
        maps.open_m3(tmp_path / f"{TARGET}_V03_L1B.LBL", wavelengths=[1, 2, 3])


def test_global_bands_are_sums_of_the_target_s(tmp_path):
    t = maps.TARGET_WAVELENGTHS
    np.testing.assert_allclose(maps.GLOBAL_WAVELENGTHS[0], t[:4].mean(), atol=0.01)
    # As headers of products have them.
    known = {1: 500.92, 6: 700.54, 7: 730.48, 8: 750.44, 48: 1548.92, 49: 1578.86, 84: 2976.20}
    np.testing.assert_allclose(maps.GLOBAL_WAVELENGTHS[list(known)], list(known.values()), atol=0.011)  # fmt: skip
    np.testing.assert_allclose(t[[3, 106, 197, 255]], [475.96, 1504.0, 2412.27, 2991.17], atol=0.011)  # fmt: skip


@pytest.mark.parametrize("chunks", [1, 4, "auto", None])
def test_lines_in_chunks_are_the_same(tmp_path, chunks, no_compute):
    import dask

    write_observation(tmp_path)
    path = tmp_path / f"{GLOBAL}_V03_L1B.LBL"
    ds = maps.open_m3(path, chunks=chunks)
    assert (ds.radiance.chunks is None) == (chunks is None)
    if isinstance(chunks, int):
        assert ds.radiance.chunks == ((85,), ((1,) * 6 if chunks == 1 else (4, 2)), (8,))
        assert ds.lat.chunks[0] == ds.radiance.chunks[1]
    with dask.config.set(scheduler="threads"):
        xr.testing.assert_identical(
            ds.compute().drop_attrs(), maps.open_m3(path, chunks=None).drop_attrs()
        )
        part = {"y": slice(4, 1, -1), "x": 3}
        np.testing.assert_array_equal(ds.radiance.isel(part), ds.radiance.compute().isel(part))


def test_without_positions_there_is_a_warning_and_without_a_label_the_header_serves(tmp_path):
    radiance, *_ = write_observation(tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    for ending in ("IMG", "HDR"):
        shutil.copy(tmp_path / f"{GLOBAL}_V03_RDN.{ending}", alone)
    with pytest.warns(LunarrayWarning, match="no positions"):
        ds = maps.open_m3(alone / f"{GLOBAL}_V03_RDN.IMG")
    assert "lat" not in ds.coords
    np.testing.assert_array_equal(ds.radiance, missing(radiance))
    (alone / f"{GLOBAL}_V03_RDN.HDR").unlink()
    with pytest.raises(ProductFormatError, match="neither"):
        maps.open_m3(alone / f"{GLOBAL}_V03_RDN.IMG")


def _edit(old, new):
    def change(folder):
        path = folder / f"{GLOBAL}_V03_L1B.LBL"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def _cut(name):
    def change(folder):
        path = folder / f"{GLOBAL}_V03_{name}"
        path.write_bytes(path.read_bytes()[:-100])

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_cut("RDN.IMG"), "truncated"),
        (_cut("LOC.IMG"), "truncated"),
        (_cut("TIM.TAB"), "times for 6 lines|no table of times"),
        (_cut("L1B.LBL"), "cut short"),
        (_edit("LINE_INTERLEAVED", "BAND_SEQUENTIAL"), "BAND_SEQUENTIAL"),
        (_edit("TARGET_NAME = MOON", "TARGET_NAME = MARS"), "target MARS"),
        (_edit("INSTRUMENT_ID = M3", "INSTRUMENT_ID = HYSI"), "instrument HYSI"),
        (_edit("LINES = 6", "LINES = 0"), "LINES of RDN_IMAGE is 0"),
        (_edit("PC_REAL", "LSB_INTEGER"), "not floating-point|not read"),
        (_edit("RDN_IMAGE\n    LINES", "XYZ_IMAGE\n    LINES"), "not closed|no object"),
        (_edit(f"{GLOBAL}_V03_RDN.IMG", "other.IMG"), None),
    ],
)
def test_what_is_damaged_is_named(tmp_path, change, told):
    write_observation(tmp_path)
    change(tmp_path)
    path = tmp_path / f"{GLOBAL}_V03_L1B.LBL"
    if told is None:  # a renamed pair
        assert maps.open_m3(path).sizes["y"] == LINES
        return
    with pytest.raises(ProductFormatError, match=told):
        maps.open_m3(path)


def test_a_leap_second_is_no_fault(tmp_path):
    write_observation(tmp_path)
    path = tmp_path / f"{GLOBAL}_V03_TIM.TAB"
    text = path.read_text().replace("2009-02-07T09:02:54.101700", "2008-12-31T23:59:60.500000")
    path.write_text(text)
    ds = maps.open_m3(tmp_path / f"{GLOBAL}_V03_L1B.LBL")
    assert str(ds.time.values[1]) == "2009-01-01T00:00:00.500000000"


def test_what_has_changed_since_it_was_opened(tmp_path):
    write_observation(tmp_path)
    ds = maps.open_m3(tmp_path / f"{GLOBAL}_V03_L1B.LBL")
    _cut("RDN.IMG")(tmp_path)
    with pytest.raises(ProductFormatError, match="truncated"):
        ds.radiance.compute()
    (tmp_path / "a.IMG").write_bytes(b"1")
    with pytest.raises(ProductFormatError, match="by its name"):
        maps.open_m3(tmp_path / "a.IMG")
    with pytest.raises(InputError, match="no such file"):
        maps.open_m3(tmp_path / f"{GLOBAL}_V09_L1B.LBL")


def test_a_map_of_an_observation_across_the_meridian(tmp_path):
    """Means of the pixels in each cell, by hand; the observation lies across 180° E."""
    radiance, _, location, _, _ = write_observation(tmp_path)
    found = {}
    for chunks in (None, 1, 4):
        ds = maps.open_m3(tmp_path / f"{GLOBAL}_V03_L1B.LBL", chunks=chunks)
        cells = ds.lunar.grid(
            "geographic", resolution=0.01, bounds=(179.9, 9.9, 180.1, 10.1), stats=["mean", "count"]
        )
        found[chunks] = cells.compute()
        assert (cells.radiance.chunks is None) == (chunks is None)
    xr.testing.assert_identical(found[1].drop_attrs(), found[None].drop_attrs())
    xr.testing.assert_identical(found[4].drop_attrs(), found[None].drop_attrs())
    cells = found[None]
    assert int(cells["count"].sum()) == LINES * 8 - 1  # one pixel has no data
    values = missing(radiance).astype(np.float64)
    lon, lat = location[:2]
    for row, column in np.argwhere(cells["count"].values > 0):
        inside = np.abs(lat - float(cells.lat[row])) < 0.005
        inside &= np.abs(lon - float(cells.lon[column])) < 0.005
        mean = np.nanmean(values[:, inside], axis=1)
        np.testing.assert_allclose(cells.radiance[:, row, column], mean, rtol=1e-5)


def test_the_embedded_model_says_that_it_wants_other_bands(tmp_path):
    write_observation(tmp_path)
    ds = maps.open_m3(tmp_path / f"{GLOBAL}_V01_L2.LBL")
    with pytest.raises(BandMismatchError, match="nm"):
        oxides.invert_oxides(ds)
    with pytest.raises(InputError):
        maps.open_m3(tmp_path / f"{GLOBAL}_V03_L1B.LBL").lunar.invert_oxides()


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore::lunarray.errors.LunarrayWarning")
@pytest.mark.filterwarnings("ignore:.*no geotransform")
def test_real_cut_of_a_product_at_aristarchus(real_data):
    (path,) = (real_data / "m3").glob("*.tif")
    ds = maps.open_m3(path).compute()
    assert ds.reflectance.shape == (83, 50, 50)
    np.testing.assert_allclose(ds.wavelength, maps.GLOBAL_WAVELENGTHS[2:], atol=0.011)
    mean = ds.reflectance.mean(["y", "x"])
    # Red, and bright for the Moon.
    assert 0.02 < float(mean[0]) < float(mean.sel(wavelength=1550, method="nearest")) < 0.5
