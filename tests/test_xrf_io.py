"""CLASS, XSM, GOES: reading, appending to a store, bad files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import lunarray as la
import lunarray.xrf as xrf
from lunarray import geo
from lunarray.errors import (
    InputError,
    LunarrayWarning,
    MissingDependencyError,
    ProductFormatError,
    StoreConflictError,
)
from lunarray.store.append import append_zarr
from lunarray.xrf.goes import flare_flux, open_goes_xrs
from lunarray.xrf.plasma import PlasmaTable, plasma_table
from lunarray.xrf.solar import match_solar
from lunarray.xrf.table_models import read_table_model, write_table_model
from lunarray.xrf.xsm import goes_flux, read_gti, read_light_curve, read_xsm_spectrum

fits = pytest.importorskip("astropy.io.fits")


def write_class(
    folder: Path,
    number: int = 0,
    *,
    channels: int = 64,
    counts: np.ndarray | None = None,
    cards: dict | None = None,
    drop: tuple[str, ...] = (),
) -> Path:
    """A CLASS L1 frame like the real ones, its EMISNANG written as they write it: not FITS standard."""
    start = np.datetime64("2021-08-27T21:00:00", "ms") + 8000 * number
    if counts is None:
        counts = np.random.default_rng(number).poisson(5.0, channels)
    columns = [
        fits.Column("CHANNEL", "1I", array=np.arange(counts.size)),
        fits.Column("COUNTS", "1E", array=counts),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="SPECTRUM")
    values = {
        "INSTRUME": "CLASS", "EXPOSURE": 8.0, "DETCHANS": counts.size, "TLMIN1": 0,
        "STARTIME": str(start), "ENDTIME": str(start + 8000), "GAIN": 27648.0 / counts.size,
        "SCD_USED": "0,1,2,3,4,5,6,7,8,9,10,11,", "SAT_ALT": 100.0, "BORE_LAT": 10.0 + 0.4 * number,
        "BORE_LON": 181.0, "SOLARANG": 40.0, "PHASEANG": 40.0, "EMISNANG": 1.5, "TEMP": -40.0,
    }  # fmt: skip
    for k, (dlat, dlon) in enumerate(((0.6, -0.4), (-0.6, -0.4), (-0.6, 0.4), (0.6, 0.4))):
        values[f"V{k}_LAT"] = 10.0 + 0.4 * number + dlat
        values[f"V{k}_LON"] = 180.0 + dlon
    for key, value in {**values, **(cards or {})}.items():
        if key not in drop:
            table.header[key] = value
    path = folder / f"ch2_cla_l1_{number:06d}.fits"
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)
    data = path.read_bytes()
    at = data.find(b"EMISNANG=")
    if at >= 0:
        card = b"EMISNANG= 4.53672e-09 / Angle btwn boresight vector,emitted X-rays(deg)".ljust(80)
        path.write_bytes(data[:at] + card + data[at + 80 :])
    return path


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "l1"
    folder.mkdir()
    for number in range(10):
        write_class(folder, number)
    return folder


class TestOpenClass:
    def test_reads_what_is_in_the_files(self, frames: Path) -> None:
        ds = xrf.open_class(frames)
        assert dict(ds.sizes) == {"time": 10, "channel": 64, "corner": 4}
        for number in (0, 7):
            stored = fits.getdata(frames / f"ch2_cla_l1_{number:06d}.fits", 1)["COUNTS"]
            np.testing.assert_array_equal(ds["counts"].values[number], stored)
        assert ds["time"].values[1] == np.datetime64("2021-08-27T21:00:12")
        np.testing.assert_allclose(ds["gain"], 27.648 / 64)
        assert set(ds["n_detectors"].values) == {12}
        assert int(ds["detectors"][0]) == 0x0FFF
        np.testing.assert_allclose(ds["emission"], 4.53672e-09, rtol=1e-6)  # the broken card
        assert ds["counts"].dtype == np.float32

    def test_longitudes_are_wrapped(self, frames: Path) -> None:
        ds = xrf.open_class(frames)
        np.testing.assert_allclose(ds["lon"], -179.0)
        np.testing.assert_allclose(ds["corner_lon"][0], [179.6, 179.6, -179.6, -179.6])

    def test_lazy_and_deterministic(self, frames: Path, no_compute) -> None:
        a, b = xrf.open_class(frames, chunks=3), xrf.open_class(frames, chunks=3)
        assert a["counts"].chunks[0] == (3, 3, 3, 1)
        assert a["counts"].data.name == b["counts"].data.name

    def test_a_changed_file_changes_the_token(self, frames: Path) -> None:
        before = xrf.open_class(frames)["counts"].data.name
        path = write_class(frames, 3, counts=np.ones(64))
        os.utime(path, (1, 1))
        assert xrf.open_class(frames)["counts"].data.name != before

    @pytest.mark.parametrize("chunks", [1, 4, "auto"])
    def test_chunks_change_nothing(self, frames: Path, chunks) -> None:
        xr.testing.assert_identical(
            xrf.open_class(frames, chunks=chunks).compute().drop_attrs(),
            xrf.open_class(frames, chunks=None).drop_attrs(),
        )

    def test_sorted_by_time_whatever_the_order_given(self, frames: Path) -> None:
        paths = sorted(frames.iterdir(), reverse=True)
        assert np.all(np.diff(xrf.open_class(paths)["time"].values) > np.timedelta64(0))

    def test_added_files_lack_gain_detectors_and_boresight(self, tmp_path: Path) -> None:
        drop = ("GAIN", "SCD_USED", "BORE_LAT", "BORE_LON", "TEMP")
        write_class(tmp_path, channels=1024, cards={"EXPOSURE": 96}, drop=drop)
        ds = xrf.open_class(tmp_path)
        assert float(ds["gain"][0]) == pytest.approx(0.027)
        assert np.isnan(ds["n_detectors"][0])
        assert float(ds["lat"][0]) == pytest.approx(10.0, abs=0.01)
        assert abs(float(ds["lon"][0])) == pytest.approx(180.0)

    @pytest.mark.parametrize("dtype", ["1I", "1J", "1D", "1E"])
    def test_types_of_the_counts_column(self, tmp_path: Path, dtype: str) -> None:
        counts = np.arange(32)
        columns = [
            fits.Column("COUNTS", dtype, array=counts),
            fits.Column("QUALITY", "1I", array=counts),
        ]
        table = fits.BinTableHDU.from_columns(columns, name="SPECTRUM")
        table.header.update(
            {
                "INSTRUME": "CLASS",
                "EXPOSURE": 8.0,
                "STARTIME": "2021-01-01T00:00:00",
                "ENDTIME": "2021-01-01T00:00:08",
            }
        )
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "a.fits")
        np.testing.assert_array_equal(xrf.open_class(tmp_path)["counts"].values[0], counts)

    def test_geometry_out_of_range_is_missing(self, tmp_path: Path) -> None:
        write_class(tmp_path, cards={"SOLARANG": 400.0, "V0_LAT": -91.0})
        ds = xrf.open_class(tmp_path)
        assert np.isnan(ds["incidence"][0])
        assert np.isnan(ds["corner_lat"][0, 0])


class TestBadFiles:
    def damage(self, frames: Path) -> dict[str, str]:
        (frames / "a_empty.fits").write_bytes(b"")
        (frames / "b_text.fits").write_text("not a FITS file\n" * 500)
        whole = (frames / "ch2_cla_l1_000000.fits").read_bytes()
        (frames / "c_cut.fits").write_bytes(whole[: 2880 * 2 + 2500])
        (frames / "d_header.fits").write_bytes(whole[:4000])
        (frames / "e_primary.fits").write_bytes(whole[:2880])
        write_class(frames, 90, cards={"INSTRUME": "CH2_XSM"}).rename(frames / "f_xsm.fits")
        write_class(frames, 91, cards={"STARTIME": "15-Sep-2019"}).rename(frames / "g_time.fits")
        write_class(frames, 92, channels=128).rename(frames / "h_binning.fits")
        write_class(frames, 93, cards={"EXPOSURE": 0.0}).rename(frames / "i_exposure.fits")
        return {
            "b_text": "not a FITS file", "f_xsm": "not of CLASS", "g_time": "when it was taken",
            "h_binning": "128 channels", "i_exposure": "EXPOSURE",
        }  # fmt: skip

    def test_skip_keeps_the_good_ones_and_says_why(self, frames: Path) -> None:
        reasons = self.damage(frames)
        with pytest.warns(LunarrayWarning, match="9 of 19"):
            ds = xrf.open_class(
                sorted(frames.iterdir(), key=lambda p: p.name[0] != "c" or len(p.name) < 10),
                errors="skip",
            )
        assert ds.sizes["time"] == 10
        skipped = {Path(s["file"]).stem: s["reason"] for s in ds.attrs["skipped_files"]}
        assert len(skipped) == 9
        for name, reason in reasons.items():
            assert reason in skipped[name]

    def test_raise_names_the_file(self, frames: Path) -> None:
        self.damage(frames)
        with pytest.raises(ProductFormatError, match="a_empty"):
            xrf.open_class(frames)

    def test_all_bad(self, tmp_path: Path) -> None:
        (tmp_path / "x.fits").write_bytes(b"x")
        with pytest.raises(ProductFormatError, match="none of the 1"):
            xrf.open_class(tmp_path, errors="skip")

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError):
            xrf.open_class(tmp_path)
        with pytest.raises(InputError, match="no such file"):
            xrf.open_class(tmp_path / "absent.fits")

    def test_wrong_arguments(self, frames: Path) -> None:
        with pytest.raises(InputError):
            xrf.open_class(frames, chunks=0)
        with pytest.raises(InputError):
            xrf.open_class(frames, errors="ignore")

    def test_truncated_after_opening(self, frames: Path) -> None:
        ds = xrf.open_class(frames)
        path = frames / "ch2_cla_l1_000004.fits"
        path.write_bytes(path.read_bytes()[:6000])
        with pytest.raises(ProductFormatError, match="000004"):
            ds.compute()

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_random_damage_never_raises_anything_else(
        self, data: st.DataObject, tmp_path_factory
    ) -> None:
        folder = tmp_path_factory.mktemp("fuzz")
        path = write_class(folder)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 20))):
            content[data.draw(st.integers(0, 2880 * 3))] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
        try:
            xrf.open_class(path).compute()
        except InputError:
            pass
        finally:
            shutil.rmtree(folder)


class TestStore:
    def test_appends_what_is_new(self, frames: Path, tmp_path: Path) -> None:
        store = tmp_path / "class.zarr"
        paths = sorted(frames.iterdir())
        xrf.class_to_zarr(paths[:4], store)
        xrf.class_to_zarr(frames, store)
        whole = xrf.class_to_zarr(frames, store)
        xr.testing.assert_equal(whole.load(), xrf.open_class(frames).load())
        assert whole["corner_lon"].dims == ("time", "corner")

    def test_an_interrupted_append_goes_on(self, frames: Path, tmp_path: Path, monkeypatch) -> None:
        store = tmp_path / "class.zarr"
        paths = sorted(frames.iterdir())
        xrf.class_to_zarr(paths[:4], store)
        import lunarray.store.append as module

        keep = module.set_state

        def stop(path, told=None, **state):
            if state.get("committed", 0) > 4:
                raise OSError(28, "No space left on device")
            keep(path, told, **state)

        monkeypatch.setattr(module, "set_state", stop)
        with pytest.raises(la.errors.StoreError, match="No space left"):
            xrf.class_to_zarr(frames, store)
        monkeypatch.undo()
        # What was written but not committed is not read as if it were there: the store is as it was.
        assert list(la.open_zarr(store)["file"].values) == [p.name for p in paths[:4]]
        assert module.held(store, "file") == {p.name for p in paths[:4]}
        xr.testing.assert_equal(
            xrf.class_to_zarr(frames, store).load(), xrf.open_class(frames).load()
        )

    def test_batches(self, frames: Path, tmp_path: Path, monkeypatch) -> None:
        import lunarray.store.append as module

        monkeypatch.setattr(module, "CHUNK_BYTES", 64 * 4)
        monkeypatch.setattr(module, "_BATCH_CHUNKS", 3)
        store = tmp_path / "class.zarr"
        xr.testing.assert_equal(
            xrf.class_to_zarr(frames, store).load(), xrf.open_class(frames).load()
        )

    def test_another_binning_does_not_fit(self, frames: Path, tmp_path: Path) -> None:
        store = tmp_path / "class.zarr"
        xrf.class_to_zarr(frames, store)
        other = tmp_path / "other"
        other.mkdir()
        write_class(other, 50, channels=128)
        with pytest.raises(StoreConflictError, match="do not fit"):
            xrf.class_to_zarr(other, store)
        assert xrf.class_to_zarr(frames, store).sizes["time"] == 10

    def test_a_store_of_another_kind_is_left_alone(self, frames: Path, tmp_path: Path) -> None:
        store = tmp_path / "map.zarr"
        xr.Dataset({"a": ("x", np.arange(4.0))}).lunar.to_zarr(store)
        with pytest.raises(StoreConflictError):
            xrf.class_to_zarr(frames, store)
        with pytest.raises(InputError, match="no rows"):
            append_zarr(
                xrf.open_class(frames).isel(time=slice(0, 0)), tmp_path / "x.zarr", dim="time"
            )


def test_background(tmp_path: Path) -> None:
    counts = np.arange(64)
    path = write_class(
        tmp_path, counts=counts, cards={"EXPOSURE": 441000.0, "STARTIME": "15-Sep-2019"}
    )
    background = xrf.read_background(path)
    np.testing.assert_array_equal(background["counts"], counts)
    assert float(background["exposure"]) == 441000.0
    assert float(background["n_detectors"]) == 12
    with pytest.raises(InputError):
        xrf.read_background(tmp_path / "absent.fits")


class TestSolarModel:
    def write(self, path: Path, energy, flux) -> Path:
        np.savetxt(path, np.column_stack([energy, np.zeros(len(energy)), flux]))
        return path

    def test_per_bin_is_a_hundredth(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "m.txt", 0.1 + 0.01 * np.arange(100), np.ones(100))
        per_kev, per_bin = xrf.read_solar_model(path), xrf.read_solar_model(path, per="bin")
        np.testing.assert_allclose(per_kev["photon_flux"], 1.0)
        np.testing.assert_allclose(per_bin["photon_flux"], 100.0)
        assert float(per_kev["energy_lo"][0]) == pytest.approx(0.1)
        np.testing.assert_allclose(per_kev["energy_hi"][:-1], per_kev["energy_lo"][1:])

    def test_goes_flux_of_a_flat_spectrum(self) -> None:
        edges = np.linspace(0.1, 20.1, 2001)
        # One photon/s/cm²/keV from 1.5498 to 12.3984 keV: half the difference of the squares, in keV/s/cm².
        expected = (12.3984**2 - 1.5498**2) / 2 * 1.602176634e-16 * 1e4
        assert goes_flux(edges, np.ones(2000)) == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(
        ("energy", "flux"),
        [
            ([0.1, 0.1, 0.2], [1, 1, 1]),
            ([0.1, 0.2, 0.4], [1, 1, 1]),
            ([0.1, 0.2, 0.3], [1, -1, 1]),
            ([0.1, 0.2, 0.3], [1, np.nan, 1]),
        ],
    )
    def test_bad_models(self, tmp_path: Path, energy, flux) -> None:
        with pytest.raises(ProductFormatError):
            xrf.read_solar_model(self.write(tmp_path / "m.txt", energy, flux))

    def test_not_a_model(self, tmp_path: Path) -> None:
        (tmp_path / "m.txt").write_text("energy flux\n1 2\n")
        with pytest.raises(ProductFormatError):
            xrf.read_solar_model(tmp_path / "m.txt")
        with pytest.raises(InputError):
            xrf.read_solar_model(tmp_path / "absent.txt")
        with pytest.raises(InputError):
            xrf.read_solar_model(tmp_path / "m.txt", per="eV")

    def test_many_models_matched_by_time(self, tmp_path: Path) -> None:
        energy = 0.1 + 0.01 * np.arange(10)
        self.write(tmp_path / "xsm_20210827_l1.txt", energy, np.full(10, 1.0))
        self.write(
            tmp_path / "model_20210827T210000000_20210827T210100000.txt", energy, np.full(10, 2.0)
        )
        self.write(tmp_path / "xsm_20210830_l1.txt", energy, np.full(10, 3.0))
        models = xrf.open_solar_models(tmp_path)
        times = np.array(
            ["2021-08-27T03", "2021-08-27T21:00:30", "2021-08-29T23:59", "2021-08-31"], "M8[ns]"
        )
        which = match_solar(xr.Dataset(coords={"time": times}), models)
        flux = models["photon_flux"].values[:, 0]
        assert flux[which[0]] == 1.0
        assert flux[which[1]] == 2.0  # the shorter one: of the window itself
        assert list(which.values[2:]) == [-1, -1]
        near = match_solar(xr.Dataset(coords={"time": times}), models, max_distance=120.0)
        assert flux[near[2]] == 3.0
        assert near.values[3] == flux.tolist().index(3.0)  # the day's end is a moment away

    def test_a_name_without_time(self, tmp_path: Path) -> None:
        self.write(tmp_path / "sun.txt", [0.1, 0.2, 0.3], [1, 1, 1])
        with pytest.raises(InputError, match="tells no time"):
            xrf.open_solar_models(tmp_path)


class TestTableModel:
    def model(self, parameters: int) -> xr.Dataset:
        lo = 0.1 + 0.1 * np.arange(20)
        axes = [np.array([0.0, 1.0, 3.0]), np.array([10.0, 20.0])][:parameters]
        names = ["kT", "abund"][:parameters]
        shape = (*(a.size for a in axes), 20)
        flux = np.random.default_rng(1).random(shape).astype("f4").astype("f8")
        coords = dict(zip(names, axes, strict=True))
        coords |= {
            "energy": ("energy", lo + 0.05),
            "energy_lo": ("energy", lo),
            "energy_hi": ("energy", lo + 0.1),
        }
        return xr.Dataset(
            {"flux": ((*names, "energy"), flux)}, coords, {"model_name": "test", "initial": {}}
        )

    @pytest.mark.parametrize("parameters", [1, 2])
    def test_round_trip(self, tmp_path: Path, parameters: int) -> None:
        ds = self.model(parameters)
        again = read_table_model(write_table_model(ds, tmp_path / "t.fits"))
        assert again["flux"].dims == ds["flux"].dims
        np.testing.assert_array_equal(again["flux"], ds["flux"])
        np.testing.assert_allclose(again["energy_lo"], ds["energy_lo"], rtol=1e-6)

    def test_it_is_what_the_memo_wants(self, tmp_path: Path) -> None:
        path = write_table_model(self.model(2), tmp_path / "t.fits")
        with fits.open(path) as hdus:
            hdus.verify("exception")
            assert [h.name for h in hdus[1:]] == ["PARAMETERS", "ENERGIES", "SPECTRA"]
            assert hdus[0].header["HDUCLAS1"] == "XSPEC TABLE MODEL"
            assert hdus[0].header["ADDMODEL"] is True
            assert hdus["PARAMETERS"].header["NINTPARM"] == 2
            assert hdus["SPECTRA"].header["HDUCLAS2"] == "MODEL SPECTRA"
            assert hdus["SPECTRA"].columns["INTPSPEC"].format == "20E"
            # The last parameter runs fastest.
            np.testing.assert_array_equal(
                hdus["SPECTRA"].data["PARAMVAL"][:3], [[0, 10], [0, 20], [1, 10]]
            )

    def test_without_parameters_xspec_gets_one(self, tmp_path: Path) -> None:
        again = read_table_model(write_table_model(self.model(0), tmp_path / "t.fits"))
        np.testing.assert_array_equal(again["flux"][0], again["flux"][1])

    def test_bad_input(self, tmp_path: Path) -> None:
        ds = self.model(1)
        with pytest.raises(InputError, match="two or more"):
            write_table_model(ds.isel(kT=[0]), tmp_path / "t.fits")
        with pytest.raises(InputError):
            write_table_model(ds.drop_vars("energy_lo"), tmp_path / "t.fits")
        write_table_model(ds, tmp_path / "t.fits")
        with pytest.raises(InputError, match="is there"):
            write_table_model(ds, tmp_path / "t.fits")
        with pytest.raises(ProductFormatError):
            read_table_model(write_class(tmp_path))


class TestIntervals:
    def write(self, path: Path, start, stop, **cards) -> Path:
        columns = [fits.Column("START", "D", array=start), fits.Column("STOP", "D", array=stop)]
        table = fits.BinTableHDU.from_columns(columns, name="GTI")
        table.header.update({"MJDREF": 57754.0, **cards})
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
        return path

    def test_gti_is_sorted_and_merged(self, tmp_path: Path) -> None:
        gti = read_gti(self.write(tmp_path / "a.gti", [100.0, 0.0, 50.0], [120.5, 50.0, 60.0]))
        expected = np.datetime64("2017-01-01") + np.array([0, 100_000], "m8[ms]")
        np.testing.assert_array_equal(gti["start"], expected)
        assert gti["end"].values[1] == np.datetime64("2017-01-01T00:02:00.500")

    def test_bad_gti(self, tmp_path: Path) -> None:
        with pytest.raises(ProductFormatError, match="before it starts"):
            read_gti(self.write(tmp_path / "a.gti", [10.0], [5.0]))
        with pytest.raises(ProductFormatError):
            read_gti(self.write(tmp_path / "b.gti", [10.0], [50.0], TIMEUNIT="d"))

    @given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=12))
    def test_merged_intervals_cover_the_same_time(self, spans: list[tuple[int, int]]) -> None:
        from lunarray.xrf.xsm import merge_intervals

        start = np.array([a for a, _ in spans], "i8")
        end = np.array([a + b for a, b in spans], "i8")
        a, b = merge_intervals(start, end)
        seconds = np.arange(80)
        before = ((seconds[:, None] >= start) & (seconds[:, None] < end)).any(axis=1)
        after = ((seconds[:, None] >= a) & (seconds[:, None] < b)).any(axis=1)
        np.testing.assert_array_equal(before, after)
        assert np.all(a[1:] > b[:-1])


class TestFlares:
    HEAD = "date,event_no,start_time,max_time,end_time,goes_sat,goes_channel,goes_class_ind,goes_class\n"

    def test_reads_across_midnight_and_leaves_out_broken_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "f.csv"
        rows = (
            "20210101,1,2350,0005,0020,G16,1-8A,C,C2.6\n"
            "20210102,2,0100,0110,0120,G16,1-8A,M,M1.0\n"
            "20210102,3,,,,G16,1-8A,C,\n"
        )
        path.write_text(self.HEAD + rows)
        flares = xrf.read_goes_flares(path)
        assert len(flares) == 2
        assert flares.attrs["rows_left_out"] == 1
        assert flares["end"][0] == np.datetime64("2021-01-02T00:20")
        np.testing.assert_allclose(flares["peak_flux"], [2.6e-6, 1e-5])

    def test_no_flare_list(self, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_text("a,b\n1,2\n")
        with pytest.raises(ProductFormatError, match="no column"):
            xrf.read_goes_flares(tmp_path / "f.csv")
        (tmp_path / "g.csv").write_text(self.HEAD)
        with pytest.raises(ProductFormatError, match="no row"):
            xrf.read_goes_flares(tmp_path / "g.csv")

    def test_classes(self) -> None:
        assert flare_flux("X1.1") == pytest.approx(1.1e-4)
        assert np.isnan(flare_flux("Z9"))


class TestSolarFit:
    """The fit of plasma and power law, on a plasma made here: AtomDB's files and PyXspec are not at hand."""

    def plasma(self) -> PlasmaTable:
        edges = 0.5 + 0.02 * np.arange(551)
        energy = (edges[1:] + edges[:-1]) / 2
        grid = np.geomspace(0.2, 4.0, 20)
        spectra = np.zeros((20, 3, 550))
        for i, kt in enumerate(grid):
            spectra[i, 0] = 1e8 * energy**-1.4 * np.exp(-energy / kt) * 0.02
            for k, line in ((1, 1.86), (2, 6.7)):
                spectra[i, k] = (
                    1e6 * np.exp(-line / kt) * np.exp(-0.5 * ((energy - line) / 0.03) ** 2)
                )
        return PlasmaTable(grid, ("continuum", "Si", "Fe"), edges, spectra, "test", "test")

    def spectrum(self, plasma, response, kt=1.1, norm=0.5, si=1.6, exposure=100.0):
        share = plasma.at(kt)
        from lunarray.xrf.solar import fold_matrix

        middle = (plasma.edges[1:] + plasma.edges[:-1]) / 2
        flux = norm * (np.array([1, si, 1]) @ share) + 2e4 * middle**-3.5 * np.diff(plasma.edges)
        expected = flux @ fold_matrix(response, plasma.edges) * exposure
        counts = np.random.default_rng(3).poisson(expected).astype("f8")
        ds = xr.Dataset(
            {
                "counts": ("channel", counts), "stat_error": ("channel", np.sqrt(counts)),
                "sys_error": ("channel", np.zeros(counts.size)), "exposure": exposure,
            }
        )  # fmt: skip
        return ds, flux / np.diff(plasma.edges), middle

    def test_recovers_what_was_put_in(self) -> None:
        from lunarray.simulate.xrf import class_response

        plasma, response = self.plasma(), class_response(1024, energies=1200, max_area=0.01)
        ds, truth, energy = self.spectrum(plasma, response)
        fit = xrf.fit_solar(ds, response, plasma=plasma, model="one", free=("Si",), systematic=0.0)
        value = dict(
            zip(fit["parameter"].values.tolist(), fit["parameter_value"].values, strict=True)
        )
        error = dict(
            zip(fit["parameter"].values.tolist(), fit["parameter_std"].values, strict=True)
        )
        assert abs(value["temperature"] - 1.1) < 4 * error["temperature"]
        assert abs(value["Si"] - 1.6) < 4 * error["Si"]
        assert 0.5 < float(fit["chi2"] / fit["dof"]) < 1.5
        inside = (energy > 1.3) & (energy < 5)
        np.testing.assert_allclose(fit["photon_flux"].values[inside], truth[inside], rtol=0.1)

    def test_too_little_to_fit(self) -> None:
        from lunarray.simulate.xrf import class_response

        plasma, response = self.plasma(), class_response(1024, energies=1200, max_area=0.01)
        ds, *_ = self.spectrum(plasma, response)
        with pytest.raises(InputError, match="counts in"):
            xrf.fit_solar(ds * 0.0, response, plasma=plasma)
        with pytest.raises(InputError, match="no abundance"):
            xrf.fit_solar(ds, response, plasma=plasma, free=("Xe",))
        with pytest.raises(InputError, match="channels"):
            xrf.fit_solar(ds, response.group(2), plasma=plasma)

    def test_missing_engines_are_explained(self, monkeypatch, tmp_path: Path) -> None:
        monkeypatch.delenv("ATOMDB", raising=False)
        with pytest.raises(MissingDependencyError, match=r"ATOMDB|pyatomdb"):
            plasma_table(engine="atomdb")
        monkeypatch.setenv("ATOMDB", str(tmp_path))
        with pytest.raises(MissingDependencyError, match=r"apec_line|pyatomdb"):
            plasma_table(engine="atomdb")
        with pytest.raises(InputError):
            plasma_table(engine="mekal")


# ---------- real
# files
@pytest.mark.realdata
class TestRealFiles:
    def test_native_frames(self, real_data: Path) -> None:
        ds = xrf.open_class(real_data / "class" / "l1")
        assert dict(ds.sizes) == {"time": 139, "channel": 2048, "corner": 4}
        assert set(ds["n_detectors"].values.astype(int)) >= {7, 12, 16}
        for i in (0, 60, 138):
            stored = fits.getdata(real_data / "class" / "l1" / str(ds["file"].values[i]), 1)
            np.testing.assert_array_equal(ds["counts"].values[i], stored["COUNTS"])
        area = geo.footprint_area(ds["corner_lon"], ds["corner_lat"])
        assert np.all((area > 250) & (area < 2000))

    def test_added_frames(self, real_data: Path) -> None:
        ds = xrf.open_class(real_data / "class" / "coadd_96s")
        assert set(ds["exposure"].values) == {96.0}
        assert float(ds["gain"][0]) == pytest.approx(0.0135)

    def test_1024_channels_with_a_broken_card(self, real_data: Path) -> None:
        ds = xrf.open_class(real_data / "class" / "issdc_fit" / "ch2_cla_*_1024.fits")
        np.testing.assert_allclose(ds["emission"], [4.53672e-09, 3.83034e-09], rtol=1e-5)
        np.testing.assert_array_equal(ds["counts"].sum("channel"), [361301, 6611])

    def test_backgrounds(self, real_data: Path) -> None:
        folder = real_data / "class" / "background"
        long = xrf.read_background(folder / "background_allevents.fits")
        assert (float(long["exposure"]), float(long["n_detectors"])) == (441000.0, 12.0)
        short = xrf.read_background(next(folder.glob("*_BKG.pha")))
        assert float(short["exposure"]) == 80.0
        assert float(short["counts"].sum()) == 110430

    def test_xsm(self, real_data: Path) -> None:
        pha = read_xsm_spectrum(real_data / "xsm/spectrum/ch2_xsm_20210827_l1.pha")
        assert pha["start"].values == np.datetime64("2021-08-27T21:03:16")
        assert float(pha["counts"].sum()) == 100776
        curve = read_light_curve(real_data / "xsm/lightcurve/ch2_xsm_20210703_v1_level2.lc")
        assert curve.sizes["time"] == 9762
        assert curve["time"].values[0].astype("M8[s]") == np.datetime64("2021-07-03T01:17:26")
        with pytest.raises(ProductFormatError, match="not of XSM"):
            read_xsm_spectrum(next((real_data / "class" / "l1").iterdir()))

    def test_solar_models_of_both_units(self, real_data: Path) -> None:
        published = xrf.read_solar_model(
            next((real_data / "class/issdc_fit").glob("modelop_*.txt"))
        )
        days = xrf.open_solar_models(real_data / "xsm/model", per="bin")
        np.testing.assert_array_equal(published["energy_lo"], days["energy_lo"])
        assert 4e-6 < published.attrs["goes_flux"] < 5e-6  # a C4 flare
        assert np.all(
            (days["goes_flux"] > 1e-7) & (days["goes_flux"] < 1e-4)
        )  # B to M; per keV they would be below A3

    def test_table_model(self, real_data: Path, tmp_path: Path) -> None:
        path = next((real_data / "class/issdc_fit").glob("tbmodel_*.fits"))
        table = read_table_model(path)
        assert table["flux"].shape == (15, 3000)
        again = read_table_model(write_table_model(table, tmp_path / "t.fits"))
        np.testing.assert_allclose(again["flux"], table["flux"], rtol=1e-6)

    def test_goes(self, real_data: Path) -> None:
        flares = xrf.read_goes_flares(real_data / "goes/swpc_flarelist_20100101-20210810.csv")
        assert len(flares) == 8833
        assert set(flares["flare_class"]) == {"C", "M", "X"}
        assert np.all(flares["end"] >= flares["start"])
        pytest.importorskip("h5netcdf")
        for path in (real_data / "goes").glob("*.nc"):
            flux = open_goes_xrs(path)["xrsb_flux"].values
            assert np.nanmax(flux) < 1e-7
            assert np.isfinite(flux).any()

    def test_zarr_of_real_frames(self, real_data: Path, tmp_path: Path) -> None:
        folder = real_data / "class" / "l1"
        paths = sorted(folder.iterdir())
        xrf.class_to_zarr(paths[:50], tmp_path / "c.zarr")
        store = xrf.class_to_zarr(folder, tmp_path / "c.zarr")
        with dask.config.set(scheduler="synchronous"):
            xr.testing.assert_equal(store.load(), xrf.open_class(folder).load())
