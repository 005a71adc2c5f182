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
from lunarray.xrf.goes import read_goes_flares
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


# ------------------------------------------------------------------ seeded damage of every kind of file


def write_pha(folder: Path) -> Path:
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("CHANNEL", "1J", array=np.arange(32)),
            fits.Column("COUNTS", "1E", array=np.arange(32.0)),
        ],
        name="SPECTRUM",
    )
    cards = {"INSTRUME": "CH2_XSM", "EXPOSURE": 8.0, "TSTART": 1.0, "TSTOP": 9.0, "MJDREFI": 57754}
    table.header.update(cards)
    table.writeto(folder / "a.pha")
    return folder / "a.pha"


def write_lc(folder: Path) -> Path:
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("TIME", "1D", array=np.arange(20.0)),
            fits.Column("RATE", "1E", array=np.arange(20.0)),
        ],
        name="RATE",
    )
    table.header.update({"INSTRUME": "CH2_XSM", "MJDREFI": 57754, "TIMEDEL": 1.0})
    table.writeto(folder / "a.lc")
    return folder / "a.lc"


def write_tiff(folder: Path) -> Path:
    with rasterio.open(
        folder / "M143947267LE.tif", "w", driver="GTiff", width=20, height=16, count=1, dtype="uint16",
        crs="IAU_2015:30110", transform=rasterio.Affine(2.0, 0, 0, 0, -2.0, 0), compress="deflate", nodata=0,
    ) as raster:  # fmt: skip
        raster.update_tags(PRODUCT_TYPE="CDR")
        raster.write(np.arange(320, dtype="u2").reshape(1, 16, 20))
    return folder / "M143947267LE.tif"


def write_solar(folder: Path) -> Path:
    path = folder / "sun_20210827.txt"
    path.write_text("".join(f"{0.5 + 0.01 * i:.4f} 0.005 {1e3 / (i + 1):.6e}\n" for i in range(60)))
    return path


def write_tracks(folder: Path) -> Path:
    corners = [f"V{i}_{axis}" for i in range(4) for axis in ("LATITUDE", "LONGITUDE")]
    names = [
        f"{e}_{u}"
        for e in ("MG", "AL", "SI", "FE")
        for u in ("WT", "FIT_UNC", "SYS_UNC", "TOT_UNC")
    ]
    row = "0,0,0,1,1,1,1,0," + ",".join(["5.0"] * 16)
    (folder / "t.csv").write_text("\n".join([",".join([*corners, *names]), *[row] * 8]))
    return folder / "t.csv"


KINDS = {
    "kaguya-sp": lambda folder: write_product(folder, "SP_2C_02_1", rows=3),
    "ch2-class": write_class,
    "ch2-xsm": write_pha,
    "ch2-xsm-lc": write_lc,
    "lroc-nac": write_tiff,
    "solar-model": write_solar,
    "ch2-class-tracks": write_tracks,
}


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, overwrite digits, cut out, cut off, put in: in the head, where sizes stand, more often."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        reach = len(out) if rng.random() < 0.4 else min(len(out), 12000)
        at = int(rng.integers(0, max(reach, 1)))
        match rng.integers(0, 6):
            case 0:
                out[at : at + 1] = bytes([out[at] ^ (1 << int(rng.integers(8)))]) if out else b""
            case 1:
                out[at : at + 8] = rng.bytes(8)
            case 2:
                del out[at:]
            case 3:
                del out[at : at + int(rng.integers(1, 200))]
            case 4:
                out[at:at] = rng.bytes(int(rng.integers(1, 200)))
            case 5:
                digits = [i for i in range(at, min(at + 4000, len(out))) if 48 <= out[i] < 58]
                if digits:
                    i = int(rng.choice(digits))
                    out[i : i + 1] = [b"-", b"9999999999", b"18446744073709551615", b"x", b""][
                        int(rng.integers(5))
                    ]
    return bytes(out)


@pytest.mark.parametrize("kind", KINDS)
def test_random_damage(kind, tmp_path):
    """A result, which computes, or an error of ours; the reader named, and not."""
    source = KINDS[kind](tmp_path)
    assert la.readers.reader_of(source).name == kind
    data = source.read_bytes()
    seen = set()
    for seed in range(60):
        source.write_bytes(damage(data, np.random.default_rng([7, seed])))
        for reader in (None, kind):
            begin = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    opened = la.open(source, reader=reader, errors="skip" if seed % 2 else "raise")
                    assert isinstance(opened, xr.Dataset | xr.DataArray)
                    opened.compute(scheduler="synchronous")
                    seen.add("opened")
                except LunarrayError:
                    seen.add("refused")
            assert time.perf_counter() - begin < 10, seed
    assert seen == {"opened", "refused"}


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
        bad.write_bytes(damage(data, np.random.default_rng([8, seed])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = la.open(tmp_path, reader=kind, errors="skip").load()
    kept = set(np.unique(ds["file"].values))
    told = {Path(entry["file"]).name for entry in ds.attrs["skipped_files"]}
    assert {path.name for path in good} <= kept
    assert told
    assert not kept & told
    assert len(kept | told) == 42
