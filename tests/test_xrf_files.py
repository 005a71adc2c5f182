"""CLASS files as people have them: trees, zips, gzip, bad channels, other areas, rates, and headers read quickly."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from test_xrf_io import write_class

import lunarray as la
import lunarray.xrf as xrf
from lunarray.errors import InputError, ProductFormatError
from lunarray.xrf import class_files
from lunarray.xrf.selection import FRAME_FLAGS

fits = pytest.importorskip("astropy.io.fits")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of two days, labels beside the frames."""
    for day, numbers in (("23", (0, 1)), ("24", (2,))):
        folder = tmp_path / "cla" / "data" / "calibrated" / "2024" / "01" / day
        folder.mkdir(parents=True)
        for number in numbers:
            path = write_class(folder, number)
            path = path.rename(folder / f"ch2_cla_l1_202401{day}T{number:09d}_x.fits")
            path.with_suffix(".xml").write_text("<Product_Observational/>")
    return tmp_path


def packed(tree: Path) -> Path:
    path = tree / "month.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(tree.rglob("*.fits")):
            archive.write(file, file.relative_to(tree))
    return path


def test_tree_and_zip_are_the_same_frames(tree: Path) -> None:
    expected = xrf.open_class(sorted(tree.rglob("*.fits")))
    assert expected.sizes["time"] == 3
    archive = packed(tree)
    for paths in (tree / "cla", tree / "cla" / "data" / "calibrated" / "2024", archive):
        for opened in (la.open(paths), xrf.open_class(paths)):
            xr.testing.assert_identical(
                opened.drop_attrs().compute(), expected.drop_attrs().compute()
            )


def test_gzip(tmp_path: Path) -> None:
    path = write_class(tmp_path)
    expected = xrf.open_class(path).compute()
    (tmp_path / "gz").mkdir()
    small = tmp_path / "gz" / f"{path.name}.gz"
    small.write_bytes(gzip.compress(path.read_bytes()))
    for opened in (la.open(small), xrf.open_class(small.parent)):
        xr.testing.assert_identical(opened.drop_attrs().compute(), expected.drop_attrs())
    small.write_bytes(small.read_bytes()[:200])
    with pytest.raises(ProductFormatError):
        xrf.open_class(small)


def test_a_zip_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ProductFormatError):
        xrf.open_class(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("readme.txt", "no spectra")
    with pytest.raises(InputError, match="no spectra in the zip"):
        xrf.open_class(tmp_path / "b.zip")


def test_a_store_knows_frames_packed_or_not(tree: Path, tmp_path: Path) -> None:
    archive = packed(tree)
    xrf.class_to_zarr(archive, tmp_path / "s.zarr")
    again = xrf.class_to_zarr(tree / "cla", tmp_path / "s.zarr")
    assert again.sizes["time"] == 3


def rewritten(path: Path, columns: dict[str, np.ndarray], cards: dict | None = None) -> Path:
    """A frame with other columns."""
    with fits.open(path) as hdus:
        header = hdus[1].header
        keep = {
            k: header[k]
            for k in ("INSTRUME", "EXPOSURE", "STARTIME", "ENDTIME", "GAIN", "SOLARANG", "TLMIN1")
        }
    made = [fits.Column(name, "1E", array=values) for name, values in columns.items()]
    table = fits.BinTableHDU.from_columns(made, name="SPECTRUM")
    table.header.update({**keep, **(cards or {})})
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)
    return path


def test_rates_are_counts_by_the_exposure(tmp_path: Path) -> None:
    counts = np.arange(64.0)
    path = rewritten(write_class(tmp_path), {"RATE": counts / 8.0})
    np.testing.assert_allclose(xrf.open_class(path)["counts"].values[0], counts)


def test_area(tmp_path: Path) -> None:
    counts = {"COUNTS": np.arange(64.0)}
    half = rewritten(write_class(tmp_path, 0), counts, {"AREASCAL": 0.5})
    assert float(xrf.open_class(half)["exposure"][0]) == 4.0
    column = rewritten(write_class(tmp_path, 1), {**counts, "AREASCAL": np.full(64, 0.5)})
    assert float(xrf.open_class(column)["exposure"][0]) == 4.0
    for bad in ({"AREASCAL": np.linspace(0.4, 0.5, 64)}, {"AREASCAL": np.zeros(64)}):
        with pytest.raises(ProductFormatError, match="AREASCAL"):
            xrf.open_class(rewritten(write_class(tmp_path, 2), {**counts, **bad}))


def test_bad_channels_are_missing_and_their_frames_are_added(tmp_path: Path) -> None:
    quality = np.zeros(64)
    quality[[3, 9]] = 1
    counts = np.full(64, 2.0)
    rewritten(write_class(tmp_path, 0), {"COUNTS": counts, "QUALITY": quality})
    rewritten(write_class(tmp_path, 1), {"COUNTS": counts})
    for chunks in (None, 1):
        frames = xrf.open_class(tmp_path, chunks=chunks)
        assert np.flatnonzero(np.isnan(frames["counts"].values[0])).tolist() == [3, 9]
        flagged = xrf.flag_frames(frames).compute()
        assert not (flagged["flags"] & FRAME_FLAGS["bad_counts"]).any()
        summed = xrf.coadd(frames, window=2).compute()
        assert int(summed["n_frames"][0]) == 2
        assert np.flatnonzero(np.isnan(summed["counts"].values[0])).tolist() == [3, 9]
        np.testing.assert_array_equal(summed["counts"].values[0, 10:], 4.0)


@pytest.mark.realdata
def test_plain_headers_say_what_astropy_says(real_data, monkeypatch) -> None:
    files = sorted((real_data / "class").glob("*/*.fits"))
    files = [f for f in files if f.parent.name in ("l1", "bright", "coadd_96s", "background")]
    assert len(files) > 100
    plain = {f: repr(class_files.read_spectrum(f, timed=False)) for f in files[::3]}
    monkeypatch.setattr(class_files, "_plain_header", lambda data, at: None)
    for file, said in plain.items():
        assert repr(class_files.read_spectrum(file, timed=False)) == said


def test_a_header_out_of_the_ordinary_is_read_all_the_same(tmp_path: Path) -> None:
    path = write_class(tmp_path, cards={"BORE_LAT": 12.5})
    data = path.read_bytes()
    at = data.find(b"BORE_LAT=")
    shutil.copy(path, tmp_path / "plain.fits")
    path.write_bytes(data[:at] + b"BORE_LAT= 1.25d1 / small d".ljust(80) + data[at + 80 :])
    assert float(xrf.open_class(path)["lat"][0]) == 12.5


def test_a_list_of_flares_of_hek(tmp_path: Path) -> None:
    path = tmp_path / "hek.csv"
    path.write_text(
        "event_starttime,event_peaktime,event_endtime,fl_goescls\n"
        "2024-01-23T03:20:00,2024-01-23T03:31:00,2024-01-23T03:38:00,M5.1\n"
    )
    flares = xrf.read_goes_flares(path)
    assert flares["start"][0] == np.datetime64("2024-01-23T03:20:00")
    assert flares["end"][0] == np.datetime64("2024-01-23T03:38:00")
    np.testing.assert_allclose(flares["peak_flux"][0], 5.1e-5)


class TestBackgroundScale:
    """BACKSCAL: how much of the background a spectrum has."""

    def written(self, folder: Path, **cards: float) -> Path:
        folder.mkdir()
        return write_class(folder, cards=cards)

    def test_of_a_background_and_of_frames(self, tmp_path: Path) -> None:
        plain = self.written(tmp_path / "a", BACKSCAL=1.0)
        path = self.written(tmp_path / "b", BACKSCAL=2.0)
        expected = 2.0 * float(xrf.read_background(plain)["exposure"])
        assert float(xrf.read_background(path)["exposure"]) == expected
        assert "background_scale" not in xrf.open_class(plain).coords
        assert xrf.open_class(path)["background_scale"].values.tolist() == [2.0]
        with pytest.raises(ProductFormatError, match="BACKSCAL is 0"):
            xrf.open_class(self.written(tmp_path / "c", BACKSCAL=0.0))

    def test_fits_heed_it_through_sums(self) -> None:
        from lunarray.simulate import class_counts, class_orbit, class_response, thermal_spectrum

        sun, response = thermal_spectrum(1.2, 3e-5), class_response(1024)
        background = xr.Dataset(
            {"counts": ("channel", np.full(1024, 40.0)), "exposure": 80.0, "n_detectors": 16.0}
        )
        frames = class_counts(xrf.HIGHLAND, class_orbit(frames=3), sun, response, samples=1)
        scaled = frames.assign_coords(background_scale=("time", np.full(3, 3.0)))
        net = [
            float(
                xrf.fit_elements(xrf.coadd(ds, window=3), sun, response, background)["net_counts"][
                    0
                ]
            )
            for ds in (frames, scaled)
        ]
        middle = response.channel_energy()
        band = int(((middle >= 0.9) & (middle < 5.0)).sum())
        assert net[0] - net[1] == pytest.approx(2.0 * band * 40.0 * 24.0 / 80.0, rel=1e-4)
