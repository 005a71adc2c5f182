"""Months of CLASS frames to maps: day by day, stopped and gone on with, with an account and honest errors."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import lunarray as la
import lunarray.xrf as xrf
from lunarray.cli import app
from lunarray.errors import InputError, LunarrayWarning, StoreConflictError
from lunarray.simulate import (
    class_counts,
    class_orbit,
    class_response,
    write_class_frames,
)
from lunarray.xrf import archive
from lunarray.xrf.io import frame_channels
from lunarray.xrf.response_files import write_response

FRAMES = 13
TAKEN = archive._taken
#: Sets of three frames.
LINES = {"enough": 50.0, "min_significance": 50.0, "max_frames": 6}


@pytest.fixture(scope="module")
def response():
    return class_response(1024)


@pytest.fixture(scope="module")
def tree(tmp_path_factory, response) -> Path:
    """Three days: two of a flare with a night each, one of a night alone."""
    root = tmp_path_factory.mktemp("pradan")
    rate = xr.Dataset(
        {"counts": ("channel", 8.0 * np.exp(-np.arange(1024) / 400)), "exposure": 80.0, "n_detectors": 16.0}
    )  # fmt: skip
    # A flare with lines, as the Sun has them.
    solar = xrf.window_suns(class_orbit(frames=1)).isel(time=0)
    for day in range(3):
        for half, sun in enumerate((0.0, 180.0)):
            if day == 2 and half == 0:
                continue
            orbit = class_orbit(
                f"2021-08-{27 + day}T2{half}:00:00", FRAMES, subsolar_longitude=sun, node_longitude=-5.0 * day
            )  # fmt: skip
            made = class_counts(
                xrf.HIGHLAND,
                orbit,
                solar,
                response,
                background=rate,
                seed=2 * day + half,
                samples=2,
            )
            write_class_frames(made, root)
    return root


@pytest.fixture(scope="module")
def days(tree, response) -> dict[str, archive._Fitted]:
    """What is found on each day, which is fitted once for all tests."""
    return {}


@pytest.fixture(scope="module")
def whole(tree, tmp_path_factory, response, days) -> tuple[xr.Dataset, Path]:
    store, real = tmp_path_factory.mktemp("whole") / "e.zarr", archive._fit_day

    def kept(day, way):
        days[day.name] = real(day, way)
        return days[day.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "_fit_day", kept)
        return xrf.elements_to_zarr(tree, store, response).load(), store


@pytest.fixture
def known(whole, days, monkeypatch) -> list[str]:
    """Days that are asked for, and get what was fitted before."""
    asked: list[str] = []

    def again(day, way):
        asked.append(day.name)
        return days[day.name]

    monkeypatch.setattr(archive, "_fit_day", again)
    return asked


def test_what_is_written_is_what_is_read(tree, response) -> None:
    assert (tree / "cla/data/calibrated/2021/08/27").is_dir()
    read = xrf.open_class(tree)
    assert read.sizes == {"time": 5 * FRAMES, "channel": 1024, "corner": 4}
    first = class_orbit("2021-08-27T20:00:00", FRAMES, subsolar_longitude=0.0, node_longitude=0.0)
    own = read.isel(time=slice(0, FRAMES))
    for name in ("start", "end", "exposure"):
        np.testing.assert_array_equal(own[name], first[name])
    for name in ("lat", "lon", "incidence", "altitude", "corner_lat", "corner_lon"):
        np.testing.assert_allclose(own[name], first[name], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(own["gain"], 0.027, rtol=1e-9)
    assert set(own["n_detectors"].values) == {16.0}


class TestDays:
    def test_account(self, whole) -> None:
        ds, _ = whole
        assert ds["day"].values.tolist() == ["2021-08-27", "2021-08-28", "2021-08-29"]
        assert ds["files"].values.tolist() == [2 * FRAMES, 2 * FRAMES, FRAMES]
        night = ds["frames_left_out"].sel(frame_flag="night").values.tolist()
        assert night == [FRAMES, FRAMES, FRAMES]
        assert ds["windows_lit"].values.tolist() == [FRAMES - 11, FRAMES - 11, 0]
        assert ds["windows_fitted"].values.tolist() == [FRAMES - 11, FRAMES - 11, 0]
        assert ds["suns"].sel(sun_origin="own_counts").values.tolist() == [2, 2, 0]
        assert ds["background_exposure"].values.tolist()[:2] == [8.0 * FRAMES] * 2
        assert set(ds["problem"].values) == {""}

    def test_rows_are_those_of_the_verbs(self, whole, tree, response) -> None:
        frames = xrf.open_class(tree).sel(time="2021-08-27").compute()
        frames = xrf.flag_frames(frames)
        windows = xrf.coadd(frames, min_frames=1)
        windows = windows.isel(
            time=(windows["n_frames"].values > 0) & (windows["incidence"] < 90).values
        )
        suns = xrf.window_suns(windows)
        fit = xrf.fit_elements(windows, suns, response, xrf.night_background(frames))
        own = whole[0].isel(time=whole[0]["date"].values == "2021-08-27")
        for name in ("abundance", "abundance_std", "covariance", "statistic"):
            np.testing.assert_allclose(own[name], fit[name], rtol=1e-5)
        np.testing.assert_array_equal(own["sun_source"], suns["sun_source"])
        seen = own["nuisance"].notnull().all("time").values
        assert own["nuisance_name"].values[seen].tolist() == fit["nuisance_name"].values.tolist()

    def test_stopped_and_gone_on_with(
        self, whole, known, tree, tmp_path, response, monkeypatch
    ) -> None:
        real = archive._fit_day

        def stopping(day, way):
            found = real(day, way)
            if len(known) == 2:
                raise KeyboardInterrupt
            return found

        monkeypatch.setattr(archive, "_fit_day", stopping)
        with pytest.raises(KeyboardInterrupt):
            xrf.elements_to_zarr(tree, tmp_path / "e.zarr", response)
        assert not (tmp_path / "e.zarr").exists()
        result = xrf.elements_to_zarr(tree, tmp_path / "e.zarr", response).load()
        assert known == ["2021-08-27", "2021-08-28", "2021-08-28", "2021-08-29"]
        xr.testing.assert_equal(result, whole[0])

    def test_stopped_between_the_two_stores(
        self, whole, known, tree, tmp_path, response, monkeypatch
    ) -> None:
        real, times = archive._Fitted.account, []

        def stopping(self, day):
            times.append(day)
            if len(times) == 2:
                raise KeyboardInterrupt
            return real(self, day)

        monkeypatch.setattr(archive._Fitted, "account", stopping)
        with pytest.raises(KeyboardInterrupt):
            xrf.elements_to_zarr(tree, tmp_path / "e.zarr", response)
        result = xrf.elements_to_zarr(tree, tmp_path / "e.zarr", response).load()
        xr.testing.assert_equal(result, whole[0])

    def test_more_days_later(self, whole, known, tree, tmp_path, response) -> None:
        first = tree / "cla/data/calibrated/2021/08/27"
        xrf.elements_to_zarr(first, tmp_path / "e.zarr", response)
        result = xrf.elements_to_zarr(tree, tmp_path / "e.zarr", response).load()
        assert known == ["2021-08-27", "2021-08-28", "2021-08-29"]
        xr.testing.assert_equal(result, whole[0])

    def test_again_fits_nothing(self, whole, tree, response, monkeypatch) -> None:
        monkeypatch.setattr(archive, "_fit_day", None)
        again = xrf.elements_to_zarr(tree, whole[1], response)
        xr.testing.assert_equal(again.load(), whole[0])

    def test_another_way_is_refused(self, whole, tree, response) -> None:
        with pytest.raises(StoreConflictError, match="another way"):
            xrf.elements_to_zarr(tree, whole[1], response, windows={"window": 4})

    def test_a_day_with_other_files_stays_and_is_told(self, whole, tree, response) -> None:
        some = sorted((tree / "cla/data/calibrated/2021/08/27").iterdir())[:-1]
        with pytest.warns(LunarrayWarning, match="2021-08-27: other files"):
            xrf.elements_to_zarr(some, whole[1], response)

    def test_a_day_without_night(self, tree, tmp_path, response) -> None:
        lit = sorted((tree / "cla/data/calibrated/2021/08/27").iterdir())[:FRAMES]
        result = xrf.elements_to_zarr(lit, tmp_path / "e.zarr", response)
        assert "abundance" not in result
        assert "no frame of the night" in result["problem"].values[0]

    def test_damaged_files(self, tree, tmp_path, response) -> None:
        paths = sorted((tree / "cla/data/calibrated/2021/08/28").iterdir())
        bad = tmp_path / paths[3].name
        bad.write_bytes(paths[3].read_bytes()[:-2880])
        paths[3] = bad
        with pytest.raises(InputError, match="truncated"):
            xrf.elements_to_zarr(paths, tmp_path / "e.zarr", response)
        with pytest.warns(LunarrayWarning, match="1 of 26"):
            result = xrf.elements_to_zarr(paths, tmp_path / "f.zarr", response, errors="skip")
        assert result["files_skipped"].values.tolist() == [1]
        assert int(result["windows_fitted"].sum()) > 0


def test_channels_are_those_of_the_first_that_can_be_read(tree, tmp_path) -> None:
    assert frame_channels(tree) == 1024
    files = sorted((tree / "cla/data/calibrated/2021/08/28").iterdir())[:2]
    bad = tmp_path / "a.fits"
    bad.write_bytes(b"SIMPLE")
    assert frame_channels([bad, *files]) == 1024
    with pytest.raises(InputError, match=r"a\.fits"):
        frame_channels(bad)


class TestMidnight:
    """A flare over midnight: 20 frames of the one day, 15 of the next, and a day later 4 and 5."""

    @pytest.fixture(scope="module")
    @staticmethod
    def root(tmp_path_factory, response) -> Path:
        root = tmp_path_factory.mktemp("midnight")
        solar = xrf.window_suns(class_orbit(frames=1)).isel(time=0)
        for k, (start, number) in enumerate(
            (("2021-08-27T23:57:20", 35), ("2021-08-28T23:59:28", 9), ("2021-08-27T20:00:00", 6))
        ):
            sun = 180.0 if number == 6 else 0.0
            orbit = class_orbit(start, number, subsolar_longitude=sun)
            write_class_frames(
                class_counts(xrf.HIGHLAND, orbit, solar, response, seed=k, samples=2), root
            )
        return root

    def split(self, root: Path, response, options) -> tuple[list[xr.Dataset], xr.Dataset]:
        """Windows by day, and those of everything at once."""
        way = archive._Way(
            response, None, None, archive.SunFiles({}), "none", options, "raise", None
        )
        days, parts = archive._by_day(archive.class_files(root), "raise"), []
        for name in days:
            day = archive._Day.among(days, name, way, None)
            if parts and way.strategy == "running" and parts[-1].sizes["time"]:
                # What _taken reads from the store.
                day = replace(day, taken=parts[-1]["end"].values.max())
            frames = archive.flag_frames(xrf.open_class(day.files)).compute()
            parts.append(archive._windows(day, frames, way))
        whole = archive.flag_frames(xrf.open_class(root)).compute()
        return parts, xrf.coadd(whole, **options)

    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch) -> None:
        """No store to look into; bursts of particles are told by all frames of a day, and are not in question here."""
        monkeypatch.setattr(archive, "_taken", lambda rows, day: archive._NEVER)
        monkeypatch.setattr(archive, "flag_frames", partial(xrf.flag_frames, particles=False))

    @pytest.mark.parametrize(
        "options",
        [
            {"min_frames": 1},
            {"min_frames": 1, "window": 1},
            {"strategy": "combined", **LINES},
            {"strategy": "running", **LINES},
        ],
        ids=["sliding", "single", "combined", "running"],
    )
    def test_days_give_what_the_whole_gives(self, root, response, options) -> None:
        parts, whole = self.split(root, response, options)
        whole = whole.isel(time=whole["n_frames"].values > 0)
        joined = xr.concat(
            [p.isel(time=p["n_frames"].values > 0) for p in parts if p.sizes["time"]], "time"
        )
        assert whole.sizes["time"] > 3
        for name in ("start", "end", "n_frames"):
            np.testing.assert_array_equal(joined[name], whole[name])
        np.testing.assert_allclose(joined["counts"], whole["counts"])
        if options.get("window") != 1:
            midnight = joined["start"].values.astype("M8[D]") + np.timedelta64(1, "D")
            assert np.unique(midnight[joined["end"].values > midnight]).size == 2

    def test_in_a_store_that_was_stopped(self, root, response, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(archive, "_taken", TAKEN)
        # What is in question is which windows there are, not what is fitted to them.
        monkeypatch.setattr(
            archive, "_fit_windows",
            lambda windows, known, background, way: windows.assign(
                quality=("time", np.zeros(windows.sizes["time"], "u2"))
            ),
        )  # fmt: skip
        given = {"windows": {"strategy": "running", **LINES}, "errors": "skip",
                 "background": xr.Dataset({"exposure": 1.0})}  # fmt: skip
        whole = xrf.elements_to_zarr(root, tmp_path / "a.zarr", response, **given)
        real, times = archive._fit_day, []

        def stopping(day, way):
            times.append(day)
            if len(times) == 3:
                raise KeyboardInterrupt
            return real(day, way)

        monkeypatch.setattr(archive, "_fit_day", stopping)
        with pytest.raises(KeyboardInterrupt):
            xrf.elements_to_zarr(root, tmp_path / "b.zarr", response, **given)
        again = xrf.elements_to_zarr(root, tmp_path / "b.zarr", response, **given)
        xr.testing.assert_equal(again.load(), whole.load())
        assert times[2].taken == times[3].taken > np.datetime64("2021-08-29")
        assert (whole["start"].values[1:] >= whole["end"].values[:-1]).all()


class TestMaps:
    def rows(self, n: int = 6, **changes) -> xr.Dataset:
        """Windows over one and the same ground."""
        orbit = class_orbit(frames=1).isel(time=np.zeros(n, int))
        start = np.datetime64("2021-08-27", "ns") + np.arange(n) * np.timedelta64(60, "s")
        ds = self.timed(orbit, start)
        value = np.tile([4.0, 10.0, 20.0], (n, 1))
        error = np.tile([0.4, 1.0, 1.0], (n, 1))
        return ds.assign(
            abundance=(("time", "element"), value), abundance_std=(("time", "element"), error)
        ).assign_coords(element=["Mg", "Al", "Si"]).assign(**changes)  # fmt: skip

    def timed(self, ds: xr.Dataset, start: np.ndarray) -> xr.Dataset:
        end = start + np.timedelta64(60, "s")
        return ds.assign_coords(time=start, start=("time", start), end=("time", end))

    def at(self, ds: xr.Dataset, name: str, **options) -> np.ndarray:
        maps = xrf.grid_footprints(ds, "geographic", 0.2, **options)
        seen = maps["n_footprints"].values == ds.sizes["time"]
        assert seen.sum() > 3
        found = maps[name].values[:, seen]
        assert np.ptp(found, axis=1).max() < 1e-6
        return found[:, 0]

    def test_windows_that_share_frames_count_as_fewer(self) -> None:
        ds = self.rows()
        apart = self.at(ds, "abundance_std")
        np.testing.assert_allclose(apart, np.array([0.4, 1.0, 1.0]) / np.sqrt(6), rtol=1e-6)
        # Windows of 60 s each 20 s: neighbours share two thirds, the next ones a third.
        start = ds["time"].values[0] + np.arange(6) * np.timedelta64(20, "s")
        shared = self.timed(ds, start)
        n = 6 + 2 * (5 * 2 / 3 + 4 / 3)
        np.testing.assert_allclose(
            self.at(shared, "abundance_std"), apart * np.sqrt(n / 6), rtol=1e-6
        )
        same = ds.assign_coords(
            {k: ("time", np.repeat(ds[k].values[:1], 6)) for k in ("start", "end")}
        )
        np.testing.assert_allclose(self.at(same, "abundance_std"), [0.4, 1.0, 1.0], rtol=1e-6)

    def test_what_all_have_in_common_does_not_average_out(self) -> None:
        sources = ["statistics", "sun", "response"]
        parts = np.zeros((6, 3, 3))
        parts[:, :, 0], parts[:, :, 1], parts[:, :, 2] = 0.6, 0.48, 0.64
        ds = self.rows(abundance_parts=(("time", "element", "error_source"), parts))
        ds = ds.assign_coords(error_source=sources)
        error = np.array([0.4, 1.0, 1.0])
        expected = error * np.sqrt(0.36 / 6 + 0.48**2 + 0.64**2)
        np.testing.assert_allclose(self.at(ds, "abundance_std"), expected, rtol=1e-5)
        # Suns of three days are wrong each in its way.
        day = np.repeat(np.arange(3), 2) * np.timedelta64(1, "D")
        days = ds.assign_coords({k: ("time", ds[k].values + day) for k in ("time", "start", "end")})
        expected = error * np.sqrt(0.36 / 6 + 0.48**2 / 3 + 0.64**2)
        np.testing.assert_allclose(self.at(days, "abundance_std"), expected, rtol=1e-5)

    def test_ratios(self) -> None:
        covariance = np.zeros((6, 3, 3))
        covariance[:, [0, 1, 2], [0, 1, 2]] = 0.16, 1.0, 1.0
        covariance[:, 1, 2] = covariance[:, 2, 1] = 0.5
        ds = self.rows(covariance=(("time", "element", "element_b"), covariance))
        own = {"ratios": ("Mg/Si", "Al/Si")}
        np.testing.assert_allclose(self.at(ds, "abundance_ratio", **own), [0.2, 0.5], rtol=1e-6)
        relative = np.sqrt([0.1**2 + 0.05**2, 0.1**2 + 0.05**2 - 2 * 0.5 / 200])
        expected = np.array([0.2, 0.5]) * relative / np.sqrt(6)
        np.testing.assert_allclose(self.at(ds, "abundance_ratio_std", **own), expected, rtol=1e-5)
        for wrong in ("Mg", "Mg/K", "Mg/Si/Al"):
            with pytest.raises(InputError, match="'Mg/Si'"):
                xrf.grid_footprints(ds, "geographic", 1.0, ratios=(wrong,))

    def test_ratios_of_faint_windows_are_not_too_low(self) -> None:
        rng = np.random.default_rng(1)
        n = 400
        ds = self.rows(n)
        true, error = np.array([4.0, 10.0, 20.0]), np.array([0.8, 2.0, 2.0])
        value = true + error * rng.standard_normal((n, 3))
        # As of counts: what came out too low has the smaller error.
        given = error * np.sqrt(np.maximum(value, 0.1) / true)
        ds = ds.assign(
            abundance=(("time", "element"), value), abundance_std=(("time", "element"), given)
        )
        ratio = self.at(ds, "abundance_ratio", ratios=("Mg/Si",))[0]
        sigma = self.at(ds, "abundance_ratio_std", ratios=("Mg/Si",))[0]
        # Silicon's own scatter of 10 % makes the mean of ratios 1 % too high; that is what is left.
        assert abs(ratio - 0.2 * 1.01) < 3 * sigma
        assert 0.8 < sigma / (0.2 * np.hypot(0.2, 0.1) / np.sqrt(n)) < 1.2


def test_command(tree, tmp_path, response) -> None:
    write_response(response, tmp_path / "c.rmf", tmp_path / "c.arf")
    given = [tree / "cla/data/calibrated/2021/08/27", "-o", tmp_path / "out", "--rmf", tmp_path / "c.rmf",
             "--arf", tmp_path / "c.arf", "--resolution", 0.5]  # fmt: skip
    runner = CliRunner(env={"COLUMNS": "200"})
    done = runner.invoke(app, ["map-elements", *map(str, given)])
    assert done.exit_code == 0, done.output
    assert "1 days, 26 files, 26 frames, 2 windows by day, 2 fitted" in done.output
    assert "frames: night 13" in done.output
    maps = la.open_zarr(tmp_path / "out/maps.zarr")
    assert maps["ratio"].values.tolist() == ["Mg/Si", "Al/Si", "Ca/Si", "Fe/Si", "Mg/Al"]
    ratio, error = (maps[f"abundance_ratio{s}"].sel(ratio="Al/Si") for s in ("", "_std"))
    true = xrf.HIGHLAND["Al"] / xrf.HIGHLAND["Si"]
    assert abs(float(ratio.mean()) - true) < 2 * float(error.mean())
    for name in ("ratios.png", "elements.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000
    again = json.loads(runner.invoke(app, ["map-elements", *map(str, given), "--json"]).stdout)
    assert again["command"] == "map-elements"
    assert str(tmp_path / "out/maps.zarr") in {one["path"] for one in again["written"]}
