"""The command `lunarray fit-elements`: CLASS files in, abundances and footprints out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import lunarray as la
import lunarray.xrf as xrf
from lunarray.cli import app
from lunarray.simulate.xrf import class_counts, class_orbit, class_response, thermal_spectrum
from lunarray.xrf.response_files import write_response
from lunarray.xrf.settings import FIT_FLAGS

fits = pytest.importorskip("astropy.io.fits")

DAYLIT, NIGHT = 16, 60
FATAL = 511


def write_frame(folder: Path, ds: xr.Dataset, number: int) -> Path:
    """One simulated frame as a CLASS L1 file."""
    row = ds.isel(time=number)
    counts = row["counts"].values
    columns = [
        fits.Column("CHANNEL", "1I", array=np.arange(counts.size)),
        fits.Column("COUNTS", "1E", array=counts),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="SPECTRUM")
    table.header.update(
        {
            "INSTRUME": "CLASS", "EXPOSURE": float(row["exposure"]), "DETCHANS": counts.size, "TLMIN1": 0,
            "STARTIME": str(row["start"].values)[:23], "ENDTIME": str(row["end"].values)[:23],
            "GAIN": 1e3 * float(row["gain"]), "SCD_USED": ",".join(map(str, range(16))),
            "SAT_ALT": float(row["altitude"]), "BORE_LAT": float(row["lat"]), "BORE_LON": float(row["lon"]),
            "SOLARANG": float(row["incidence"]), "EMISNANG": 0.0, "PHASEANG": float(row["phase"]), "TEMP": -40.0,
        }
    )  # fmt: skip
    for corner in range(4):
        table.header[f"V{corner}_LAT"] = float(row["corner_lat"][corner])
        table.header[f"V{corner}_LON"] = float(row["corner_lon"][corner])
    path = folder / f"ch2_cla_l1_{number:04d}.fits"
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


@pytest.fixture(scope="module")
def simulated() -> xr.Dataset:
    """Frames of an M flare by day, then frames of the night."""
    response, solar = class_response(1024), thermal_spectrum(1.2, 1e-5)
    rate = xr.Dataset(
        {"counts": ("channel", 8.0 * np.exp(-np.arange(1024) / 400)), "exposure": 80.0, "n_detectors": 16.0}
    )  # fmt: skip
    day = class_orbit("2021-08-27T21:00:00", DAYLIT)
    night = class_orbit("2021-08-27T22:00:00", NIGHT, subsolar_longitude=180.0)
    parts = [
        class_counts(xrf.HIGHLAND, orbit, solar, response, background=rate, seed=seed)
        for seed, orbit in enumerate((day, night))
    ]
    return xr.concat(parts, "time", data_vars="minimal", coords="minimal", compat="override")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, simulated) -> Path:
    """Files as the command wants them: frames in l1/, solar model of the day, RMF and ARF."""
    folder = tmp_path_factory.mktemp("class")
    (folder / "l1").mkdir()
    for number in range(simulated.sizes["time"]):
        write_frame(folder / "l1", simulated, number)
    write_response(class_response(1024), folder / "class.rmf", folder / "class.arf")
    solar = thermal_spectrum(1.2, 1e-5)
    flux = solar["photon_flux"].values
    table = np.column_stack([solar["energy_lo"].values, np.zeros(flux.size), flux])
    np.savetxt(folder / "solar_20210827.txt", table, fmt="%.10g")
    return folder


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments, code=0):
        result = CliRunner().invoke(app, ["fit-elements", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result.output

    return call


def arguments(folder: Path, output: Path, **changes) -> list:
    """The command's arguments; an option that is None is left out."""
    options = {
        "solar": folder / "solar_20210827.txt",
        "rmf": folder / "class.rmf",
        "arf": folder / "class.arf",
    }
    given = [folder / "l1", "-o", output]
    for name, value in (options | changes).items():
        given += [] if value is None else [f"--{name.replace('_', '-')}", value]
    return given


def fitted(ds: xr.Dataset) -> np.ndarray:
    return (ds["quality"].values & FATAL) == 0


@pytest.fixture(scope="module")
def result(folder, tmp_path_factory):
    """What one run with everything printed, its store, and the folder of its files."""
    out = tmp_path_factory.mktemp("out")
    given = arguments(folder, out / "e.zarr", footprints=out / "f.gpkg", quicklook=out / "q.png")
    done = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["fit-elements", *map(str, given)])
    assert done.exit_code == 0, done.output
    return done.output, la.open_zarr(out / "e.zarr"), out


def test_fits_as_json(folder, tmp_path) -> None:
    given = arguments(folder, tmp_path / "e.zarr")
    done = CliRunner().invoke(app, ["fit-elements", *map(str, given), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {"what": "store", "path": str(tmp_path / "e.zarr")} in found["written"]
    ds = la.open_zarr(tmp_path / "e.zarr").load()
    told = json.dumps(found)
    assert found["command"] == "fit-elements"
    assert all(f'"{element}"' in told for element in ("Mg", "Al", "Si"))
    assert fitted(ds).any()


class TestOutput:
    def test_abundances_are_those_put_in(self, result) -> None:
        ds = result[1].load()
        assert ds.sizes["time"] == DAYLIT - 11 + NIGHT - 11
        np.testing.assert_array_equal(fitted(ds), ds["time"] < np.datetime64("2021-08-27T21:30"))
        for element in ("Mg", "Al", "Si", "Ca"):
            own = ds.isel(time=fitted(ds)).sel(element=element)
            # Windows share most of their frames: their mean is hardly more certain than one of them.
            off = float((own["abundance"] - xrf.HIGHLAND[element]).mean())
            assert abs(off) < 3.5 * float(own["abundance_std"].mean()), element
            assert float(own["abundance_std"].mean()) < 3.0

    def test_background_is_that_of_the_night(self, result, folder) -> None:
        frames = la.open_class(folder / "l1")
        response = xrf.read_response(folder / "class.rmf", folder / "class.arf")
        solar = xrf.open_solar_models(folder / "solar_20210827.txt")
        windows = xrf.coadd(xrf.flag_frames(frames), window=12)
        dark = xrf.night_background(frames).compute()
        assert float(dark["exposure"]) == 8.0 * NIGHT
        expected = xrf.fit_elements(windows, solar, response, dark).compute()
        np.testing.assert_array_equal(result[1]["abundance"], expected["abundance"])
        np.testing.assert_array_equal(result[1]["quality"], expected["quality"])

    def test_without_a_matrix(self, run, folder, tmp_path) -> None:
        text = run(*arguments(folder, tmp_path / "e.zarr", rmf=None, arf=None))
        assert "Response   built in, approximate" in text
        assert fitted(la.open_zarr(tmp_path / "e.zarr").load()).any()

    def test_text_says_what_was_found(self, result) -> None:
        text, ds, _ = result
        windows, good = ds.sizes["time"], int(fitted(ds).sum())
        assert f"{DAYLIT + NIGHT} frames, {windows} windows, {good} fitted" in text
        shown = dict(re.findall(r"│ (\w+)\s+│\s*([\d.]+) ±", text))
        assert set(shown) == set(ds["element"].values)
        mean = ds["abundance"].sel(element="Al").values[fitted(ds)].mean()
        assert float(shown["Al"]) == pytest.approx(mean, abs=0.051)
        assert re.search(rf"night {windows - good}\b", text)

    def test_footprints_and_picture(self, result) -> None:
        geopandas = pytest.importorskip("geopandas")
        table = geopandas.read_file(result[2] / "f.gpkg")
        ds = result[1]
        both = table[table["Al"].notna()]
        assert len(both) == fitted(ds).sum()
        np.testing.assert_allclose(both["Al"], ds["abundance"].sel(element="Al")[fitted(ds)])
        assert (result[2] / "q.png").read_bytes()[:4] == b"\x89PNG"
        assert (result[2] / "q.png").stat().st_size > 10_000

    def test_again_changes_nothing(self, result, folder, run) -> None:
        before = (result[2] / "e.zarr/abundance/zarr.json").stat().st_mtime_ns
        run(*arguments(folder, result[2] / "e.zarr"))
        assert (result[2] / "e.zarr/abundance/zarr.json").stat().st_mtime_ns == before


def test_solar_models_of_other_days_are_told_before_windows_are_made(
    folder, tmp_path, run, monkeypatch
) -> None:
    monkeypatch.setattr("lunarray.xrf.selection.particle_flags", None)
    (tmp_path / "solar_20220101.txt").write_text((folder / "solar_20210827.txt").read_text())
    given = arguments(folder, tmp_path / "e.zarr", solar=tmp_path / "solar_20220101.txt")
    text = " ".join(run(*given, code=1).split())
    assert "--solar: no model for 2021-08-27, but for 2022-01-01" in text
    assert "leave --solar out" in text
    assert not (tmp_path / "e.zarr").exists()


def test_without_solar_every_window_gets_a_sun(folder, tmp_path, run) -> None:
    day = sorted((folder / "l1").iterdir())[:DAYLIT]
    given = [*day[:3], *arguments(folder, tmp_path / "e.zarr", solar=None, strategy="none")[1:]]
    background = folder / "l1" / f"ch2_cla_l1_{DAYLIT:04d}.fits"
    text = run(*given, "--background", background, "--calibration", "none")
    assert "own_counts 3" in text
    assert "3 frames, 3 windows, 3 fitted" in text
    ds = la.open_zarr(tmp_path / "e.zarr")
    assert ds.attrs["response_calibration"] == "the response as it is"
    assert "n_frames" not in ds.variables


def test_spectra_of_xsm_and_a_calibration_from_files(folder, tmp_path, run) -> None:
    from astropy.io import fits

    from lunarray.xrf.plasma import plasma_table
    from lunarray.xrf.solar import fold_matrix
    from lunarray.xrf.xsm_response import xsm_response

    day = sorted((folder / "l1").iterdir())[:3]
    frames = la.open_class(day)
    plasma = plasma_table()
    rate = plasma.at(1.0).sum(0) @ fold_matrix(xsm_response(), plasma.edges)
    rate *= 5000 / rate.sum()
    counts = np.random.default_rng(0).poisson(np.tile(rate * 8.0, (3, 1)))
    origin = np.datetime64("2017-01-01")
    begin = (frames["start"].values - origin) / np.timedelta64(1, "s")
    columns = [
        fits.Column("COUNTS", f"{counts.shape[1]}D", array=counts),
        fits.Column("EXPOSURE", "D", array=np.full(3, 8.0)),
        fits.Column("TSTART", "D", array=begin),
        fits.Column("TELAPSE", "D", array=np.full(3, 8.0)),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="SPECTRUM")
    table.header.update({"INSTRUME": "CH2_XSM", "MJDREFI": 57754, "MJDREFF": 0.0, "TIMEUNIT": "s"})
    (tmp_path / "xsm/data/2021/08/27").mkdir(parents=True)
    path = tmp_path / "xsm/data/2021/08/27/ch2_xsm_20210827_v1_level2.pha"
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    shape = xr.Dataset(
        {"value": (("epoch", "parameter"), [[0.14, 1.0, 0.0]]),
         "covariance": (("epoch", "parameter", "parameter_b"), 1e-6 * np.eye(3)[None])},
        {"start": ("epoch", frames["start"].values[:1]), "end": ("epoch", frames["end"].values[-1:])},
    )  # fmt: skip
    shape.lunar.to_zarr(tmp_path / "shape.zarr")
    given = [*day, *arguments(folder, tmp_path / "e.zarr", solar=None, window=1)[1:]]
    background = folder / "l1" / f"ch2_cla_l1_{DAYLIT:04d}.fits"
    text = run(*given, "--background", background, "--xsm", tmp_path / "xsm",
               "--calibration", tmp_path / "shape.zarr")  # fmt: skip
    assert "own_spectrum 3" in text
    told = la.open_zarr(tmp_path / "e.zarr").attrs["response_calibration"]
    assert told.startswith("calibrate_response")


def test_footprints_in_a_process_of_its_own(folder, tmp_path) -> None:
    # What another test imported must not be what lets this one pass.
    given = arguments(folder, tmp_path / "e.zarr", footprints=tmp_path / "f.gpkg", window=8)
    command = [sys.executable, "-m", "lunarray", "fit-elements", *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f.gpkg").exists()


def test_store_of_frames_in_place_of_files(run, folder, tmp_path, result) -> None:
    la.open_class(folder / "l1").lunar.to_zarr(tmp_path / "l1.zarr")
    given = arguments(folder, tmp_path / "a.zarr")
    run(tmp_path / "l1.zarr", *given[1:])
    np.testing.assert_array_equal(
        la.open_zarr(tmp_path / "a.zarr")["abundance"], result[1]["abundance"]
    )


def test_options_reach_the_functions(run, folder, tmp_path) -> None:
    solar = np.loadtxt(folder / "solar_20210827.txt")
    solar[:, 2] *= solar[1, 0] - solar[0, 0]
    (tmp_path / "suns").mkdir()
    np.savetxt(tmp_path / "suns/solar_20210827.txt", solar, fmt="%.10g")
    text = run(
        *arguments(folder, tmp_path / "a.zarr", solar=tmp_path / "suns", solar_per="bin", window=4)
    )
    windows = DAYLIT - 3 + NIGHT - 3
    assert f"{windows} windows" in text
    ds = la.open_zarr(tmp_path / "a.zarr")
    assert set(ds["n_frames"].values[fitted(ds)]) == {4}
    np.testing.assert_allclose(ds["xrf_norm"].values[fitted(ds)].mean(), 0.37, atol=0.15)
    background = folder / "l1" / f"ch2_cla_l1_{DAYLIT:04d}.fits"
    run(*arguments(folder, tmp_path / "b.zarr", background=background, strategy="running"))
    assert "reduced_chi2" in la.open_zarr(tmp_path / "b.zarr").coords


def test_a_bad_file_stops_it_or_is_noted(run, folder, tmp_path) -> None:
    (tmp_path / "l1").mkdir()
    for path in (folder / "l1").iterdir():
        (tmp_path / "l1" / path.name).symlink_to(path)
    (tmp_path / "l1" / "broken.fits").write_bytes(b"SIMPLE  = T" + bytes(100))
    given = [tmp_path / "l1", *arguments(folder, tmp_path / "e.zarr")[1:]]
    assert "broken.fits" in run(*given, code=1)
    assert not (tmp_path / "e.zarr").exists()
    text = run(*given, "--skip-bad-files")
    assert "1 of 77 CLASS Level 1 files skipped: broken.fits" in " ".join(text.split())
    skipped = la.open_zarr(tmp_path / "e.zarr").attrs["skipped_files"]
    assert Path(skipped[0]["file"]).name == "broken.fits"


class TestFaults:
    """One line, exit code 1, nothing half-written."""

    def check(self, run, given, words, tmp_path) -> None:
        text = run(*given, code=1)
        assert words in text
        assert len([line for line in text.splitlines() if line.strip()]) == 1
        assert "Traceback" not in text
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("option", "name"),
        [("rmf", "none.rmf"), ("arf", "none.arf"), ("solar", "none_20210827.txt"), ("background", "none.fits")],
    )  # fmt: skip
    def test_missing_file(self, run, folder, tmp_path, option, name) -> None:
        given = arguments(folder, tmp_path / "e.zarr", **{option: folder / name})
        self.check(run, given, name, tmp_path)

    def test_no_frames(self, run, folder, tmp_path) -> None:
        given = [folder / "absent", *arguments(folder, tmp_path / "e.zarr")[1:]]
        self.check(run, given, "absent", tmp_path)

    def test_no_night_frames(self, run, folder, tmp_path) -> None:
        day = sorted((folder / "l1").iterdir())[:DAYLIT]
        given = [*day, *arguments(folder, tmp_path / "e.zarr")[1:]]
        self.check(run, given, "no exposure", tmp_path)

    def test_rmf_of_other_channels(self, run, folder, tmp_path, tmp_path_factory) -> None:
        other = tmp_path_factory.mktemp("other")
        write_response(class_response(2048), other / "other.rmf")
        given = arguments(folder, tmp_path / "e.zarr", rmf=other / "other.rmf", arf=None)
        self.check(run, given, "2048 channels", tmp_path)

    def test_area_without_its_matrix(self, run, folder, tmp_path) -> None:
        given = arguments(folder, tmp_path / "e.zarr", rmf=None)
        self.check(run, given, "--arf: an effective area without its matrix", tmp_path)

    def test_solar_model_that_ends_too_soon(self, run, folder, tmp_path, tmp_path_factory) -> None:
        short = tmp_path_factory.mktemp("sun") / "solar_20210827.txt"
        np.savetxt(short, np.loadtxt(folder / "solar_20210827.txt")[:200], fmt="%.10g")
        given = arguments(folder, tmp_path / "e.zarr", solar=short)
        self.check(run, given, "must cover", tmp_path)

    def test_no_window_of_frames(self, run, folder, tmp_path) -> None:
        given = arguments(folder, tmp_path / "e.zarr", window=90)
        self.check(run, given, "--min-frames", tmp_path)

    def test_footprints_of_an_unknown_kind(self, run, folder, tmp_path) -> None:
        given = arguments(folder, tmp_path / "e.zarr", footprints=tmp_path / "f.shp")
        self.check(run, given, ".parquet or .gpkg", tmp_path)


@pytest.mark.realdata
def test_real_frames(run, tmp_path, real_data) -> None:
    data = real_data / "class"
    frames = sorted((data / "l1").glob("*_2022*.fits"))
    text = run(
        *frames,
        "-o", tmp_path / "e.zarr",
        "--solar", real_data / "xsm/model", "--solar-per", "bin",
        "--rmf", data / "response/class_rmf_v1.rmf", "--arf", data / "response/class_arf_v1.arf",
        "--background", data / "background/background_allevents.fits",
        "--window", 3, "--min-frames", 1,
    )  # fmt: skip
    ds = la.open_zarr(tmp_path / "e.zarr").load()
    good = fitted(ds)
    assert good.sum() >= 5
    assert f"{good.sum()} fitted" in text
    assert np.isfinite(ds["abundance"].values[good]).all()
    np.testing.assert_allclose(ds["abundance"].values[good].sum(axis=1), 100.0, rtol=1e-4)
    names = [name for name, bit in FIT_FLAGS.items() if (ds["quality"].values[~good] & bit).any()]
    assert names
    assert all(f"{name} " in text for name in names)
