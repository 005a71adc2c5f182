"""open_sp: both versions of the product, laziness, and every way in which a file can be bad."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

from lunarray.errors import (
    InputError,
    LunarrayWarning,
    ProductFormatError,
    StoreConflictError,
)
from lunarray.readers.labels import (
    number_value,
    numpy_dtype,
    parse_label,
    pointer_value,
    text_value,
)
from lunarray.sp import WAVELENGTHS_160, condition, is_native, open_sp, sp_to_zarr
from lunarray.store import append, open_zarr, reading

COLUMNS = [
    ("SPACECRAFT_CLOCK_COUNT", 8),
    ("SPACECRAFT_ALTITUDE", 4),
    ("CENTER_LATITUDE", 8),
    ("CENTER_LONGITUDE", 8),
    ("EMISSION_ANGLE", 4),
    ("INCIDENCE_ANGLE", 4),
    ("SOLAR_AZIMUTH_ANGLE", 4),
    ("PHASE_ANGLE", 4),
]
WAVELENGTH = np.concatenate(
    [
        WAVELENGTHS_160[:73],
        [950.6 + 6.0 * i for i in range(11)],
        [883.5 + 8.0 * i for i in range(9)],
        WAVELENGTHS_160[73:],
        [1652.1, 1660.1, 1668.3, 1676.0],
        [1702.1 + 7.8 * i for i in range(112)],
    ]
)


def write_product(
    folder: Path,
    name: str,
    *,
    rows: int = 5,
    attached: bool = True,
    seed: int = 0,
    replace: dict[str, str] | None = None,
    lon0: float = 359.9,
    wavelength: np.ndarray = WAVELENGTH,
) -> Path:
    """A small but complete product, laid out unlike the real ones (order of arrays, extra bytes), so that only the
    label can tell."""
    rng = np.random.default_rng(seed)
    spectra = {
        n: rng.integers(0 if n == "REF1" else 1, 9000, (rows, 296)).astype(">u2")
        for n in ("REF1", "REF2", "RAD", "RAW", "QA")
    }
    table = np.zeros(rows, [(n, f">f{b}") for n, b in COLUMNS])
    table["SPACECRAFT_CLOCK_COUNT"] = 9e8 + 0.5 * np.arange(rows)
    table["CENTER_LATITUDE"] = -89.95 + 0.01 * np.arange(rows)
    table["CENTER_LONGITUDE"] = (lon0 + 0.1 * np.arange(rows)) % 360
    table["INCIDENCE_ANGLE"] = 80.0
    table["PHASE_ANGLE"] = 80.5
    table["SPACECRAFT_ALTITUDE"] = 101.5
    objects = {
        "SP_SPECTRUM_QA": spectra["QA"].tobytes(),
        "SP_SPECTRUM_WAV": np.round(wavelength * 10).astype(">u2").tobytes(),
        "SP_SPECTRUM_REF1": spectra["REF1"].tobytes(),
        "SP_SPECTRUM_REF2": spectra["REF2"].tobytes(),
        "ANCILLARY_AND_SUPPLEMENT_DATA": table.tobytes(),
        "SP_SPECTRUM_RAW": spectra["RAW"].tobytes(),
        "SP_SPECTRUM_RAD": spectra["RAD"].tobytes(),
    }

    def label(start: int) -> str:
        lines = ['PDS_VERSION_ID = "PDS3"', "/*** POINTERS ***/"]
        offset = start
        for key, data in objects.items():
            place = f"{offset + 1} <BYTES>"
            lines.append(f"^{key} = {place}" if attached else f'^{key} = ("{name}.spc", {place})')
            offset += len(data)
        lines += [
            'MISSION_NAME = "SELENE"',
            'INSTRUMENT_ID = "SP"',
            'TARGET_NAME = "MOON"',
            'PROCESS_VERSION_ID = "L2C"',
            f'PRODUCT_ID = "{name}"',
            f"PRODUCT_VERSION_ID = {'02' if attached else '03'}",
            "REVOLUTION_NUMBER = 1234",
            "START_TIME = 2008-04-19T09:39:37.436807" + ("Z" if attached else ""),
            "VIS_BAND_NUMBER = 84",
            "N1_BAND_NUMBER = 100",
            "N2_BAND_NUMBER = 112",
            "OBJECT = ANCILLARY_AND_SUPPLEMENT_DATA",
            f"  ROWS = {rows}",
            f"  ROW_BYTES = {table.dtype.itemsize}",
        ]
        position = 1
        for column, size in COLUMNS:
            kind = '"IEEE_REAL"' if attached else "IEEE_REAL"
            lines += ["  OBJECT = COLUMN", f'    NAME = "{column}"', f"    DATA_TYPE = {kind}"]
            lines += [f"    START_BYTE = {position}", f"    BYTES = {size}"]
            lines += ["  END_OBJECT = COLUMN"]
            position += size
        lines += ["END_OBJECT = ANCILLARY_AND_SUPPLEMENT_DATA"]
        na = '"N/A"'
        scales = {"WAV": "0.1", "REF1": "0.0001", "REF2": "0.0001", "RAD": "0.01"}
        for kind in ("WAV", "RAW", "REF1", "REF2", "RAD", "QA"):
            lines += [
                f"OBJECT = SP_SPECTRUM_{kind}",
                f"  LINES = {1 if kind == 'WAV' else rows}",
                "  LINE_SAMPLES = 296",
                "  SAMPLE_TYPE = MSB_UNSIGNED_INTEGER",
                "  SAMPLE_BITS = 16",
                f"  SCALING_FACTOR = {scales.get(kind, na if kind == 'RAW' else '1.0')}",
                f"  OFFSET = {na if kind == 'RAW' else '0.0'}",
                f"END_OBJECT = SP_SPECTRUM_{kind}",
            ]
        text = "\r\n".join([*lines, "END", ""])
        for old, new in (replace or {}).items():
            assert old in text
            text = text.replace(old, new)
        return text

    path = folder / f"{name}.spc"
    body = b"".join(objects.values())
    if attached:
        size = 16384
        path.write_bytes(label(size).encode().ljust(size) + body)
    else:
        (folder / f"{name}.lbl").write_text(label(0), newline="")
        path.write_bytes(body)
    return path


def stored(path: Path, seed: int, rows: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        n: rng.integers(0 if n == "REF1" else 1, 9000, (rows, 296))
        for n in ("REF1", "REF2", "RAD", "RAW", "QA")
    }


@pytest.mark.parametrize("attached", [True, False])
def test_values_follow_the_label(tmp_path, attached):
    path = write_product(tmp_path, "SP_2C_09_X", attached=attached, seed=3)
    truth = stored(path, 3)
    ds = open_sp(path, raw=True)
    with np.errstate(invalid="ignore"):
        expected = np.where(truth["REF1"] == 0, np.nan, truth["REF1"] * 1e-4).astype("f4")
    np.testing.assert_array_equal(ds.reflectance.values, expected)
    assert ds.reflectance.dtype == np.float32
    np.testing.assert_allclose(ds.radiance.values, truth["RAD"] * 0.01, rtol=1e-6)
    np.testing.assert_array_equal(ds.qa.values, truth["QA"])
    np.testing.assert_array_equal(ds.raw.values, truth["RAW"])
    assert ds.qa.dtype == np.uint16
    second = open_sp(path, reflectance="REF2")
    np.testing.assert_allclose(second.reflectance.values, truth["REF2"] * 1e-4, rtol=1e-6)
    assert "raw" not in second
    assert ds.attrs["product_version"] == ("02" if attached else "03")
    assert is_native(ds)


def test_coordinates(tmp_path):
    ds = open_sp(write_product(tmp_path, "A"))
    assert ds.sizes == {"observation": 5, "wavelength": 296}
    np.testing.assert_allclose(ds.lon, [-0.1, 0.0, 0.1, 0.2, 0.3], atol=1e-9)
    assert np.all((ds.lon >= -180) & (ds.lon < 180))
    np.testing.assert_array_equal(ds.wavelength[:73], WAVELENGTHS_160[:73])
    assert ds.wavelength.dtype == np.float32
    start = np.datetime64("2008-04-19T09:39:37.436807", "ns")
    np.testing.assert_array_equal(ds.time, start + np.arange(5) * np.timedelta64(500, "ms"))
    assert ds.time.dtype == np.dtype("M8[ns]")
    assert set(ds.orbit.values.tolist()) == {1234}
    assert ds.orbit.dtype == np.int32
    assert set(ds.file.values.tolist()) == {"A.spc"}
    assert [int((ds.detector == d).sum()) for d in ("VIS", "NIR1", "NIR2")] == [84, 100, 112]
    assert ds.reflectance.attrs["units"] == "1"
    assert ds.radiance.attrs["units"] == "W m-2 um-1 sr-1"


def words(said: str) -> dict[str, str]:
    """What puts keywords into the label of a product."""
    return {'TARGET_NAME = "MOON"': f'TARGET_NAME = "MOON"\r\n{said}'}


GROUND = [
    'OBSERVATION_MODE_ID = "OBS-NORMAL"\r\nCALIBRATION_MODE_ID = "NONE"\r\nCAL_LAMP_INFO = "N/A"',
    "OBSERVATION_MODE_ID = NORMAL",
    'OBSERVATION_MODE_ID = "N/A"\r\nCAL_LAMP_INFO = "OFF"',
]
NO_GROUND = [
    'OBSERVATION_MODE_ID = "CAL-LAMP"',
    'OBSERVATION_MODE_ID = "OBS-CAL"',
    "OBSERVATION_MODE_ID = LAMP",
    "OBSERVATION_MODE_ID = STANDBY",
    'OBSERVATION_MODE_ID = "OBS-NORMAL"\r\nCALIBRATION_MODE_ID = "LAMP-A"',
    'OBSERVATION_MODE_ID = "OBS-NORMAL"\r\nCAL_LAMP_INFO = "LAMP1 ON"',
]


@pytest.mark.parametrize("said", GROUND)
def test_observations_of_the_ground(tmp_path, said):
    assert open_sp(write_product(tmp_path, "A", replace=words(said))).sizes["observation"] == 5


@pytest.mark.parametrize("said", NO_GROUND)
def test_lamps_and_calibrations_are_no_ground(tmp_path, said):
    lamp = write_product(tmp_path, "L", replace=words(said))
    write_product(tmp_path, "A")
    with pytest.raises(ProductFormatError, match=r"L\.spc.*no observation of the ground"):
        open_sp(tmp_path)
    with pytest.warns(UserWarning, match="1 of 2"):
        kept = open_sp(tmp_path, errors="skip")
    assert set(kept.file.values) == {"A.spc"}
    assert open_sp(lamp, calibration=True).sizes["observation"] == 5


def test_the_words_of_quality_say_what_they_mean(tmp_path):
    attrs = open_sp(write_product(tmp_path, "A")).qa.attrs
    masks, values = attrs["flag_masks"], attrs["flag_values"]
    meanings = attrs["flag_meanings"].split()
    assert len(masks) == len(values) == len(meanings) == 5 + 6 + 4 + 4 + 4

    def said(word: int) -> set[str]:
        return {
            m
            for mask, value, m in zip(masks, values, meanings, strict=True)
            if word & mask == value
        } - {"vis_dark_at_both_ends", "nir1_nir2_factor_below_0.9"}

    assert said(0x120) == {"vis_shift_0.3_0.6_channels", "vis_nir1_factor_1.1_1.2"}
    assert said(0x140) == {"vis_shift_0.6_0.9_channels", "vis_nir1_factor_1.1_1.2"}
    assert said(0xC0) == {"vis_shift_0.6_0.9_channels", "vis_nir1_factor_1.0_1.1"}
    assert said(0xC120) >= {"overlap", "bad_channel"}


class TestArchive:
    """sp_to_zarr: a store that grows."""

    @pytest.fixture
    def products(self, tmp_path: Path) -> Path:
        folder = tmp_path / "products"
        folder.mkdir()
        for i in range(6):
            write_product(folder, f"SP_{i}", attached=i != 3, seed=i)
        return folder

    def test_appends_what_is_new(self, products: Path, tmp_path: Path) -> None:
        store = tmp_path / "sp.zarr"
        paths = sorted(products.glob("*.spc"))
        sp_to_zarr(paths[:2], store)
        sp_to_zarr(products, store)
        whole = sp_to_zarr(products / "SP_3.lbl", store)
        xr.testing.assert_equal(whole.load(), open_sp(products).load())
        assert whole.qa.attrs["flag_meanings"] == open_sp(products).qa.attrs["flag_meanings"]

    def test_one_store_holds_one_reflectance(self, products: Path, tmp_path: Path) -> None:
        store = tmp_path / "sp.zarr"
        sp_to_zarr(products / "SP_0.spc", store)
        for paths in (products, products / "SP_0.spc"):
            with pytest.raises(StoreConflictError, match="it holds REF1, and REF2"):
                sp_to_zarr(paths, store, reflectance="REF2")
        assert sp_to_zarr(products, store).sizes["observation"] == 30

    def test_a_label_of_another_name_than_its_data(self, products: Path, tmp_path: Path) -> None:
        (products / "SP_3.lbl").rename(products / "other.lbl")
        store = tmp_path / "sp.zarr"
        for _ in range(2):
            assert sp_to_zarr(products / "other.lbl", store).sizes["observation"] == 5

    def test_variables(self, products: Path, tmp_path: Path) -> None:
        found = sp_to_zarr(products, tmp_path / "r.zarr", variables=["reflectance"])
        assert list(found.data_vars) == ["reflectance"]
        for wrong in (["radiance"], ["reflectance", "colour"], []):
            with pytest.raises(InputError, match="variables"):
                sp_to_zarr(products, tmp_path / "x.zarr", variables=wrong)
        write_product(products, "SP_9", seed=9)
        with pytest.raises(StoreConflictError, match="variables differ"):
            sp_to_zarr(products, tmp_path / "r.zarr")

    def test_appending_costs_what_it_appends(
        self, products: Path, tmp_path: Path, monkeypatch
    ) -> None:
        store = tmp_path / "sp.zarr"
        sp_to_zarr(products / "SP_0.spc", store)
        opened = []
        real = append.open_zarr
        monkeypatch.setattr(append, "open_zarr", lambda *a, **k: opened.append(a) or real(*a, **k))
        monkeypatch.setattr(append, "CHUNK_BYTES", 1200)
        monkeypatch.setattr(append, "_BATCH_CHUNKS", 1)
        whole = sp_to_zarr(products, store)
        assert whole.attrs["history"].count("append_zarr, 1 rows") == 25
        assert len(opened) <= 1  # to compare variables, once a call and not once a batch

    def test_what_is_beside_many_rows_stays_on_the_disk(
        self, products: Path, tmp_path: Path, monkeypatch
    ) -> None:
        short = sp_to_zarr(products, tmp_path / "sp.zarr")
        assert short.chunks
        assert short.lat.chunks is None
        monkeypatch.setattr(reading, "_LONG", 29)
        long = open_zarr(tmp_path / "sp.zarr")
        beside = {name for name, c in long.coords.items() if c.chunks is not None}
        assert beside == {name for name, c in long.coords.items() if "observation" in c.dims}
        assert {"lat", "file", "time", "incidence"} <= beside
        xr.testing.assert_identical(long.load(), short.load())
        # What follows is the same, and lazy too.
        long = open_zarr(tmp_path / "sp.zarr")
        maps = [
            condition(ds).lunar.grid("geographic", resolution=1.0, chunks=(90, 90))
            for ds in (short, long)
        ]
        xr.testing.assert_identical(maps[0].drop_attrs().compute(), maps[1].drop_attrs().compute())
        assert "light_uncertainty" in maps[1]
        write_product(products, "SP_8", seed=8)
        assert sp_to_zarr(products, tmp_path / "sp.zarr").sizes["observation"] == 35

    def test_lamps_are_left_out(self, products: Path, tmp_path: Path) -> None:
        write_product(products, "SP_7", replace=words('CALIBRATION_MODE_ID = "LAMP"'))
        with pytest.raises(ProductFormatError, match="no observation"):
            sp_to_zarr(products, tmp_path / "sp.zarr")
        with pytest.warns(UserWarning, match="1 of 7"):
            found = sp_to_zarr(products, tmp_path / "sp.zarr", errors="skip")
        assert found.sizes["observation"] == 30


def test_seam_longitude_is_minus_180(tmp_path):
    ds = open_sp(write_product(tmp_path, "A", lon0=179.9, rows=3))
    np.testing.assert_allclose(ds.lon, [179.9, -180.0, -179.9], atol=1e-9)


def test_impossible_angles_are_missing(tmp_path):
    path = write_product(tmp_path, "A")
    data = bytearray(path.read_bytes())
    # CENTER_LATITUDE of the first row: after QA, WAV, REF1, REF2, behind clock and altitude.
    at = 16384 + 5 * 592 + 592 + 2 * 5 * 592 + 12
    data[at : at + 8] = np.array([-9999.0], ">f8").tobytes()
    path.write_bytes(data)
    ds = open_sp(path)
    assert np.isnan(ds.lat[0])
    assert np.isfinite(ds.lat[1:]).all()


def test_label_or_data_file_and_each_once(tmp_path):
    write_product(tmp_path, "B", attached=False, seed=1)
    by_label = open_sp(tmp_path / "B.lbl")
    by_data = open_sp(tmp_path / "B.spc")
    assert by_label.identical(by_data)
    assert open_sp([tmp_path / "B.lbl", tmp_path / "B.spc"]).sizes["observation"] == 5
    assert open_sp(str(tmp_path / "B.*")).sizes["observation"] == 5
    # Upper-case names, as some mirrors have them.
    (tmp_path / "B.lbl").rename(tmp_path / "B.LBL")
    assert open_sp(tmp_path / "B.spc").identical(by_data)


def test_folder_glob_list_and_order(tmp_path):
    for i, name in enumerate(["C", "A", "B"]):
        write_product(tmp_path, name, attached=name != "B", seed=i)
    (tmp_path / "notes.txt").write_text("not a product")
    folder = open_sp(tmp_path)
    assert list(dict.fromkeys(folder.file.values)) == ["A.spc", "B.spc", "C.spc"]
    assert folder.identical(open_sp(str(tmp_path / "*")))
    given = open_sp([tmp_path / "C.spc", tmp_path / "A.spc"])
    assert list(dict.fromkeys(given.file.values)) == ["C.spc", "A.spc"]
    assert given.attrs["product_version"] == "02"


def test_home_is_expanded(tmp_path, monkeypatch):
    write_product(tmp_path, "A")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_sp("~/A.spc").sizes["observation"] == 5


def test_nothing_is_computed_and_chunks(tmp_path, no_compute):
    for i in range(6):
        write_product(tmp_path, f"P{i}", seed=i)
    ds = open_sp(tmp_path)
    assert ds.reflectance.chunks == ((30,), (296,))
    assert open_sp(tmp_path, chunks="file").reflectance.chunks[0] == (5,) * 6
    assert open_sp(tmp_path, chunks=12).reflectance.chunks[0] == (10, 10, 10)
    # One task per chunk and the table of files once, per variable.
    assert len(open_sp(tmp_path, chunks="file").reflectance.__dask_graph__()) == 7


def test_whole_equals_parts(tmp_path):
    for i in range(4):
        write_product(tmp_path, f"P{i}", seed=i)
    whole = open_sp(tmp_path, chunks=None)
    assert isinstance(whole.reflectance.data, np.ndarray)
    lazy = open_sp(tmp_path, chunks="file")
    assert whole.identical(lazy.compute())
    for key in (slice(3, 13), slice(None, None, -3), [0, 19, 7], 11):
        part = lazy.isel(observation=key, wavelength=slice(2, 290, 7)).compute()
        assert part.identical(whole.isel(observation=key, wavelength=slice(2, 290, 7)))


def test_tokens(tmp_path):
    path = write_product(tmp_path, "A")
    name = open_sp(path).reflectance.data.name
    assert open_sp(path).reflectance.data.name == name
    assert dask.base.tokenize(open_sp(path)) == dask.base.tokenize(open_sp(path))
    assert open_sp(path, reflectance="REF2").reflectance.data.name != name
    os.utime(path, (1, 1))
    assert open_sp(path).reflectance.data.name == name
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(path, tmp_path / "elsewhere")
    assert open_sp(moved).reflectance.data.name == name
    lazy = open_sp(path)
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)
    os.utime(path, (1, 1))
    assert open_sp(path).reflectance.data.name != name
    with pytest.raises(ProductFormatError, match="changed since it was opened"):
        lazy.reflectance.compute()


def test_reads_in_another_process(tmp_path):
    import pickle

    ds = open_sp(write_product(tmp_path, "A"))
    again = pickle.loads(pickle.dumps(ds))
    assert again.compute().identical(ds.compute())


BAD_LABELS = {
    "level": ({'"L2C"': '"L2B2"'}, "L2B2"),
    "instrument": ({'INSTRUMENT_ID = "SP"': 'INSTRUMENT_ID = "MI-VIS"'}, "MI-VIS"),
    "target": ({'"MOON"': '"MARS"'}, "MARS"),
    "mission": ({'"SELENE"': '"LRO"'}, "LRO"),
    "pointer": ({"^SP_SPECTRUM_REF1 = ": "^SP_SPECTRUM_REF1 = -"}, "REF1"),
    "records": ({"<BYTES>": ""}, "BYTES"),
    "no array": ({"OBJECT = SP_SPECTRUM_RAD": "OBJECT = OTHER"}, "SP_SPECTRUM_RAD"),
    "type": ({"MSB_UNSIGNED_INTEGER": "VAX_REAL"}, "VAX_REAL"),
    "rows": ({"ROWS = 5": "ROWS = 7"}, "7 x 296"),
    "column": ({"PHASE_ANGLE": "OTHER_ANGLE"}, "PHASE_ANGLE"),
    "scale": ({"SCALING_FACTOR = 0.0001": "SCALING_FACTOR = NULL"}, "SCALING_FACTOR"),
    "time": ({"2008-04-19T": "yesterday "}, "START_TIME"),
    "bands": ({"N2_BAND_NUMBER = 112": "N2_BAND_NUMBER = 100"}, "296 wavelengths"),
    "end": ({"\r\nEND\r\n": "\r\n"}, "cut short"),
    "no label": ({"PDS_VERSION_ID": "XDS_VERSION_ID"}, "no label"),
}


@pytest.mark.parametrize("fault", BAD_LABELS)
def test_bad_label_is_named(tmp_path, fault):
    replace, said = BAD_LABELS[fault]
    path = write_product(tmp_path, "BAD", replace=replace)
    with pytest.raises(ProductFormatError, match=r"BAD\.spc") as caught:
        open_sp(path)
    assert said in str(caught.value)
    assert caught.value.remedy


def test_truncated_is_named_now_and_later(tmp_path):
    path = write_product(tmp_path, "CUT")
    ds = open_sp(path)
    size = path.stat().st_size
    with open(path, "r+b") as stream:
        stream.truncate(size - 100)
    with pytest.raises(ProductFormatError, match=rf"CUT\.spc: truncated: {size - 100} bytes"):
        open_sp(path)
    with pytest.raises(ProductFormatError, match=r"CUT\.spc: truncated since it was opened"):
        ds.radiance.compute()
    path.unlink()
    with pytest.raises(ProductFormatError, match=r"CUT\.spc: cannot be read any more"):
        ds.reflectance.compute()


def test_missing_partner(tmp_path):
    write_product(tmp_path, "D", attached=False)
    shutil.copy(tmp_path / "D.spc", tmp_path / "E.spc")
    with pytest.raises(ProductFormatError, match=r"E\.spc: no label.*E\.lbl"):
        open_sp(tmp_path / "E.spc")
    (tmp_path / "D.spc").unlink()
    with pytest.raises(ProductFormatError, match=r"D\.lbl: its data file D\.spc is missing"):
        open_sp(tmp_path / "D.lbl")


def test_skip_keeps_a_record(tmp_path):
    for i in range(5):
        write_product(tmp_path, f"P{i}", seed=i)
    write_product(tmp_path, "P5", replace={'"L2C"': '"L2B1"'})
    (tmp_path / "P1.spc").write_bytes((tmp_path / "P1.spc").read_bytes()[:20000])
    (tmp_path / "P6.spc").write_bytes(b"")
    with pytest.raises(ProductFormatError, match=r"P1\.spc: truncated"):
        open_sp(tmp_path)
    with pytest.warns(LunarrayWarning, match="3 of 7 SP products skipped: P1.spc, P5.spc, P6.spc"):
        ds = open_sp(tmp_path, errors="skip")
    assert list(dict.fromkeys(ds.file.values)) == ["P0.spc", "P2.spc", "P3.spc", "P4.spc"]
    skipped = ds.attrs["skipped_files"]
    assert [Path(s["file"]).name for s in skipped] == ["P1.spc", "P5.spc", "P6.spc"]
    assert "L2B1" in skipped[1]["reason"]
    np.testing.assert_array_equal(ds.qa[5:10], stored(tmp_path, 2)["QA"])
    with pytest.raises(ProductFormatError, match="none of the 1 files"):
        open_sp(tmp_path / "P6.spc", errors="skip")


def test_other_wavelengths_are_not_mixed(tmp_path):
    write_product(tmp_path, "A")
    write_product(tmp_path, "B", wavelength=WAVELENGTH + 1.0)
    with pytest.raises(ProductFormatError, match=r"B\.spc: its wavelengths are not those of"):
        open_sp(tmp_path)


def test_bad_arguments(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_sp(tmp_path / "none.spc")
    with pytest.raises(InputError, match="no SP products found"):
        open_sp(str(tmp_path / "*.spc"))
    with pytest.raises(InputError, match="no SP products found"):
        open_sp([])
    path = write_product(tmp_path, "A")
    with pytest.raises(InputError, match="REF3"):
        open_sp(path, reflectance="REF3")
    with pytest.raises(InputError, match="errors='ignore'"):
        open_sp(path, errors="ignore")
    for chunks in (0, -1, "big", 2.5, True):
        with pytest.raises(InputError, match="chunks="):
            open_sp(path, chunks=chunks)
    other = tmp_path / "a.img"
    other.write_text("x")
    with pytest.raises(ProductFormatError, match=r"neither a \.spc nor a \.lbl"):
        open_sp(other)


def test_product_without_observations(tmp_path):
    ds = open_sp(write_product(tmp_path, "A", rows=0))
    assert ds.sizes["observation"] == 0
    assert ds.reflectance.compute().shape == (0, 296)


def test_label_values():
    assert text_value('"N/A"') is None
    assert text_value(None) is None
    assert text_value('" SP "') == "SP"
    assert number_value('"905575060.5417 <s>"') == 905575060.5417
    assert number_value("-1.5e-3 <km>") == -1.5e-3
    assert number_value("NULL") is None
    assert pointer_value('("A.spc", 17 <BYTES>)', "X", "f").file == "A.spc"
    assert pointer_value("17 <BYTES>", "X", "f").offset == 16
    assert numpy_dtype("LSB_INTEGER", 2, "X", "f") == np.dtype("<i2")
    with pytest.raises(ProductFormatError):
        numpy_dtype("IEEE_REAL", 2, "X", "f")
    label = parse_label('PDS_VERSION_ID = PDS3\nA = ("x",\n "y")\nEND\n\x00\xff = junk', "f")
    assert label.keywords["A"] == '("x", "y")'
    with pytest.raises(ProductFormatError, match="closed"):
        parse_label("PDS_VERSION_ID = PDS3\nOBJECT = X\nEND\n", "f")
    with pytest.raises(ProductFormatError, match="cannot read"):
        parse_label("PDS_VERSION_ID = PDS3\nnonsense\nEND\n", "f")


@pytest.mark.realdata
def test_real_products(real_data):
    pvl = pytest.importorskip("pvl")
    ds = open_sp(str(real_data / "sp" / "*.spc"))
    assert ds.sizes == {"observation": 76, "wavelength": 296}
    assert ds.attrs["product_version"] == "02, 03"
    assert sorted(set(ds.orbit.values.tolist())) == [2358, 4184]
    path = real_data / "sp" / "SP_2C_02_02358_S138_E3586.spc"
    # Against another reader of labels, and offsets taken by hand.
    label = pvl.load(str(path))
    data = path.read_bytes()
    offset = label["^SP_SPECTRUM_REF1"].value - 1
    reference = np.frombuffer(data, ">u2", 38 * 296, offset).reshape(38, 296) * 1e-4
    values = ds.reflectance.values[:38]
    np.testing.assert_allclose(
        values[reference > 0], reference[reference > 0].astype("f4"), rtol=1e-6
    )
    np.testing.assert_array_equal(np.isnan(values), reference == 0)
    np.testing.assert_array_equal(np.isnan(ds.reflectance.values), ds.qa.values == 296)
    assert abs(float(ds.lat[0]) - label["UPPER_LEFT_LATITUDE"].value) < 1e-5
    assert abs(float(ds.lat[37]) - label["LOWER_LEFT_LATITUDE"].value) < 1e-5
    assert abs(float(ds.lon[0]) + 360 - label["UPPER_LEFT_LONGITUDE"].value) < 1e-5
    stop = np.datetime64(label["STOP_TIME"].replace(tzinfo=None), "ns")
    assert abs(ds.time.values[37] - stop) < np.timedelta64(1, "us")
    np.testing.assert_array_equal(
        ds.wavelength.values[np.r_[0:73, 93:180]], np.asarray(WAVELENGTHS_160)
    )
