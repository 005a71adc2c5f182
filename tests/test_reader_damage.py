"""Damaged files: a result, or an error of ours that names the file, and soon."""

from __future__ import annotations

import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from fuzzing import mutate
from test_sp_io import write_product
from test_xrf_io import write_class

import lunarray as la
from lunarray.errors import (
    InputError,
    LunarrayError,
    LunarrayWarning,
    MissingDependencyError,
    ProductFormatError,
)
from lunarray.readers import guarded, reads
from lunarray.xrf.goes import open_goes_xrs, read_goes_flares
from lunarray.xrf.xsm import read_gti, read_light_curve, read_xsm_spectrum

fits = pytest.importorskip("astropy.io.fits")


def card(key: str, value: object) -> bytes:
    text = f"{value!r:<8}" if isinstance(value, str) else f"{value!s:>20}"
    return f"{key:<8}= {text}".ljust(80).encode()


def header(*cards: bytes) -> bytes:
    data = b"".join([*cards, b"END".ljust(80)])
    return data + b" " * (-len(data) % 2880)


# ------------------------------------------------------------------ the guard


def test_the_guard_lets_through_what_is_ours_and_names_the_rest():
    for raised, kind, words in (
        (ValueError("a\n  b" + "c" * 500), ProductFormatError, "f: damaged, or another kind of file (ValueError: a bc"),
        (KeyError("x"), ProductFormatError, "KeyError: 'x'"),
        (OSError(5, "Input/output error"), ProductFormatError, "f: cannot be read (Input/output error)"),
        (FileNotFoundError(2, "no", "g"), InputError, "g: no such file"),
        (MemoryError(), ProductFormatError, "takes more memory than there is"),
        (ImportError("no h5py"), MissingDependencyError, "no h5py"),
        (RecursionError("deep"), ProductFormatError, "RecursionError"),
    ):  # fmt: skip
        with pytest.raises(kind) as caught, guarded("f"):
            raise raised
        assert words in str(caught.value)
        assert len(str(caught.value)) < 400
        assert caught.value.__cause__ is raised
    for ours in (InputError("x"), LunarrayWarning("x"), KeyboardInterrupt()):
        with pytest.raises(type(ours)) as caught, guarded("f"):
            raise ours
        assert caught.value is ours


def test_a_wrong_call_is_no_damage(tmp_path):
    @reads
    def read(path, *, scale=1):
        """Read."""
        return scale / 0

    with pytest.raises(TypeError, match="scala"):
        read("a", scala=2)
    with pytest.raises(TypeError, match="path"):
        read()
    with pytest.raises(ProductFormatError, match=r"b: damaged.*ZeroDivisionError"):
        read(["b", "c"])
    assert read.__doc__ == "Read."
    with pytest.raises(TypeError, match="chunk"):
        la.open_sp(tmp_path, chunk=1)


# ------------------------------------------------------------------ sizes that no file has


@pytest.mark.parametrize(
    "sizes",
    [
        {"NAXIS": 1, "NAXIS1": 0, "PCOUNT": -2880, "GCOUNT": 1},
        {"NAXIS": 18446744073709551615},
        {"NAXIS": 4294967296},
        {"NAXIS": 1, "NAXIS1": -2880},
        {"NAXIS": 3, "NAXIS1": 2**40, "NAXIS2": 2**40, "NAXIS3": 2**40},
        {"NAXIS": 0, "TFIELDS": 4294967296},
        {"NAXIS": 1, "NAXIS1": 1, "GCOUNT": -1},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "read", [la.open_class, la.open, read_gti, read_xsm_spectrum, read_light_curve, la.xrf.read_background],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_fits_headers_with_impossible_sizes(tmp_path, sizes, read):
    path = tmp_path / "a.fits"
    first = header(card("SIMPLE", "T"), card("BITPIX", 8), *(card(k, v) for k, v in sizes.items()))
    begin = time.perf_counter()
    path.write_bytes(first + header(card("XTENSION", "IMAGE"), card("BITPIX", 8), card("NAXIS", 0)))
    with pytest.raises(ProductFormatError, match=r"a\.fits"):
        read(path)
    assert time.perf_counter() - begin < 5


def test_sizes_are_looked_at_where_the_header_is_damaged_otherwise(tmp_path):
    end = b"END".ljust(80)
    for old, new in (
        (end, b"END".ljust(75) + b"junk!"),
        (end, b"END / the end".ljust(80)),
        (b"NAXIS   =", b"BITPIX  ="),
    ):
        table = header(
            card("XTENSION", "BINTABLE"), card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", 8),
            card("NAXIS2", 2**31 - 1), card("PCOUNT", 0), card("GCOUNT", 1), card("TFIELDS", 0),
        )  # fmt: skip
        primary = header(card("SIMPLE", "T"), card("BITPIX", 8), card("NAXIS", 0))
        (tmp_path / "a.pha").write_bytes(primary + table.replace(old, new))
        with pytest.raises(ProductFormatError, match=r"a\.pha: truncated"):
            read_xsm_spectrum(tmp_path / "a.pha")


def test_names_that_lead_out_of_the_folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    path = write_product(folder, "SP_2C_03_1", attached=False)
    label = path.with_suffix(".lbl")
    shutil.move(path, tmp_path / path.name)
    label.write_text(label.read_text().replace(f'"{path.name}"', f'"../{path.name}"'))
    for name in (label, str(label)):
        with pytest.raises(ProductFormatError, match="elsewhere than beside it"):
            la.open_sp(name)


def test_a_raster_that_reads_other_files_is_none(tmp_path):
    secret = tmp_path / "secret.tif"
    with rasterio.open(secret, "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8") as r:
        r.write(np.ones((1, 4, 4), "u1"))
    (tmp_path / "M143947267LE.tif").write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    for open_it in (la.open, la.open_nac):
        with pytest.raises(ProductFormatError, match=r"M143947267LE\.tif"):
            open_it(tmp_path / "M143947267LE.tif")


def test_flares_beyond_the_calendar(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text(
        "date,start_time,max_time,end_time,goes_class\n60101231,0410,0415,0418,C1.0\n20210101,0410,0415,0418,C1.0\n"
    )
    flares = read_goes_flares(path)
    assert list(flares["start"].dt.year) == [2021]
    assert flares.attrs["rows_left_out"] == 1
    path.write_text(path.read_text().replace("2021", "9021"))
    with pytest.raises(ProductFormatError, match=r"f\.csv"):
        read_goes_flares(path)


# ------------------------------------------------------------------ what libraries do not see


@pytest.mark.parametrize("room", [0, 2**64 - 16])
@pytest.mark.parametrize("read", [la.open, open_goes_xrs], ids=lambda f: f.__name__)
def test_heaps_in_which_libhdf5_would_stay_for_ever(tmp_path, read, room):
    path = tmp_path / "sci_xrsf-l2-flx1s.nc"
    time = np.datetime64("2021-08-27", "ns") + np.arange(4) * np.timedelta64(1, "s")
    fluxes = {f"xrs{band}_flux": ("time", np.full(4, 1e-6, "f4")) for band in "ab"}
    xr.Dataset(fluxes, {"time": time}).to_netcdf(path, engine="h5netcdf")
    read(path).close()
    data = bytearray(path.read_bytes())
    at = data.index(b"GCOL\x01\0\0\0") + 16
    data[at : at + 2] = bytes([0, 0] if room == 0 else [1, 0])
    data[at + 8 : at + 16] = room.to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(ProductFormatError, match=r"flx1s\.nc: damaged: its heap at byte"):
        read(path)


def test_damage_of_a_foreign_store_that_is_met_while_computing(tmp_path):
    path = tmp_path / "other.zarr"
    ds = xr.Dataset({"a": (("y", "x"), np.arange(30.0).reshape(6, 5))}, {"x": np.arange(5.0)})
    ds.to_zarr(path, consolidated=False)
    xr.testing.assert_identical(la.open(path).compute(), ds)
    (path / "a/c/0/0").write_bytes(b"no frame of zstd")
    for opened in (la.open(path), la.open(path, chunks={"y": 2})):
        with pytest.raises(ProductFormatError, match=r"other\.zarr: damaged"):
            opened.compute()


@pytest.mark.parametrize(("driver", "name"), [("ISIS3", "a.cub"), ("ENVI", "a.img")])
def test_pixels_that_a_file_cut_short_does_not_hold(tmp_path, driver, name):
    path, pixels = tmp_path / name, np.arange(1, 321, dtype="f4").reshape(1, 16, 20)
    with rasterio.open(
        path, "w", driver=driver, width=20, height=16, count=1, dtype="float32", crs="IAU_2015:30110",
        transform=rasterio.Affine(2.0, 0, 0, 0, -2.0, 0),
    ) as raster:  # fmt: skip
        raster.write(pixels)
    np.testing.assert_array_equal(la.geo.open_raster(path, bands=1), pixels[0])
    path.write_bytes(path.read_bytes()[:-640])
    with pytest.raises(ProductFormatError, match="truncated"):
        la.geo.open_raster(path)


# ------------------------------------------------------------------ many files


@pytest.mark.parametrize("kind", ["kaguya-sp", "ch2-class"])
def test_what_fails_is_skipped(kind, tmp_path):
    """Among many files, those that cannot be read, for whatever reason, are left out and told."""
    good = [
        write_product(tmp_path, f"SP_2C_02_{n}", rows=3)
        if kind == "kaguya-sp"
        else write_class(tmp_path, n)
        for n in range(2)
    ]
    data = good[0].read_bytes()
    for seed in range(40):
        bad = good[0].with_stem(f"{good[0].stem}_bad{seed}")
        bad.write_bytes(mutate(data, np.random.default_rng([8, seed])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = la.open(tmp_path, reader=kind, errors="skip").load()
    kept = set(np.unique(ds["file"].values))
    told = {Path(entry["file"]).name for entry in ds.attrs["skipped_files"]}
    assert {path.name for path in good} <= kept
    assert told
    assert not kept & told
    assert len(kept | told) == 42


def test_what_is_read_without_dask_is_guarded_too(tmp_path):
    """Damage of a chunk is met when values are read, long after the file was opened."""
    path = tmp_path / "a.zarr"
    values = np.arange(30.0).reshape(6, 5)
    xr.Dataset({"a": (("y", "x"), values)}, {"y": np.arange(6)}).to_zarr(path)
    whole = la.open(path, chunks=None)
    assert whole["a"].chunks is None
    np.testing.assert_array_equal(whole["a"][2:4, ::2], values[2:4, ::2])
    np.testing.assert_array_equal(whole.sel(y=5)["a"], values[5])
    chunk = path / "a/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(LunarrayError, match=r"a\.zarr"):
        la.open(path, chunks=None).load()
