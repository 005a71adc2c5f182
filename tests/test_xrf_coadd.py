"""Selection of frames, the three ways of adding them up, footprints."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sphere_shapes import hull_corners, merge_footprints

import lunarray.xrf as xrf
from lunarray import geo
from lunarray.errors import InputError, LunarrayWarning
from lunarray.simulate.xrf import class_orbit
from lunarray.xrf.footprints import footprint_mean
from lunarray.xrf.goes import flare_flux
from lunarray.xrf.selection import FRAME_FLAGS, particle_flags, particle_rate
from lunarray.xrf.threelines import fit_three_lines

shapely = pytest.importorskip("shapely")


def make_frames(n: int = 30, *, channels: int = 256, seed: int = 0, **orbit) -> xr.Dataset:
    """Frames along an orbit with three lines on a continuum."""
    rng = np.random.default_rng(seed)
    ds = class_orbit(frames=n, **orbit)
    gain = 0.027
    energy = (np.arange(channels) + 0.5) * gain
    rate = 0.4 * np.exp(-energy / 3)
    for line, strength in ((1.2536, 6.0), (1.4867, 12.0), (1.74, 14.0)):
        rate = rate + strength * np.exp(-0.5 * ((energy - line) / 0.055) ** 2) * gain / 0.138
    counts = rng.poisson(rate * 8.0, (n, channels)).astype("f4")
    return ds.assign(counts=(("time", "channel"), counts)).assign_coords(
        channel=np.arange(channels, dtype="i4"),
        gain=("time", np.full(n, gain)),
        n_detectors=("time", np.full(n, 16, "f4")),
        temperature=("time", np.full(n, -40.0, "f4")),
    )


class TestFlags:
    def test_night(self) -> None:
        ds = make_frames(20)
        incidence = ds["incidence"].values.copy()
        incidence[3:6] = 95.0
        incidence[7] = np.nan
        flagged = xrf.flag_frames(ds.assign_coords(incidence=("time", incidence)), particles=False)
        night = (flagged["flags"].values & FRAME_FLAGS["night"]) > 0
        np.testing.assert_array_equal(np.flatnonzero(night), [3, 4, 5, 7])
        assert flagged["flags"].values[7] & FRAME_FLAGS["no_geometry"]
        assert flagged["flags"].dtype == np.uint16

    def test_gti(self) -> None:
        ds = make_frames(20)
        start = ds["start"].values
        gti = [(start[2], start[5]), (start[5], start[8]), (start[12] + 1, start[15])]
        flagged = xrf.flag_frames(ds, gti=gti, particles=False)
        good = (flagged["flags"].values & FRAME_FLAGS["outside_gti"]) == 0
        # Frame 12 begins a moment too early; adjoining intervals are one.
        np.testing.assert_array_equal(np.flatnonzero(good), [2, 3, 4, 5, 6, 7, 13, 14])

    def flares(self, ds: xr.Dataset, rows: list[tuple[int, int, str]]) -> pd.DataFrame:
        start = ds["start"].values
        return pd.DataFrame(
            {
                "start": [start[a] for a, _, _ in rows],
                "end": [start[b] for _, b, _ in rows],
                "flare_class": [name[0] for _, _, name in rows],
                "peak_flux": [flare_flux(name) for _, _, name in rows],
            }
        )

    def test_classes_a_and_x_are_rejected(self) -> None:
        ds = make_frames(30)
        rows = [
            (0, 4, "A5.0"),
            (5, 9, "B1.0"),
            (10, 14, "C1.0"),
            (15, 19, "M9.9"),
            (20, 24, "X1.0"),
            (21, 29, "C3.0"),
        ]
        flagged = xrf.flag_frames(ds, flares=self.flares(ds, rows), particles=False)
        flags = flagged["flags"].values
        assert set(np.flatnonzero(flags == 0)) == {
            5,
            6,
            7,
            8,
            10,
            11,
            12,
            13,
            15,
            16,
            17,
            18,
            24,
            25,
            26,
            27,
            28,
        }
        rejected = (flags & FRAME_FLAGS["flare_class_rejected"]) > 0
        assert set(np.flatnonzero(rejected)) == {0, 1, 2, 3, 20, 21, 22, 23}
        assert flags[4] == FRAME_FLAGS["no_flare"]
        assert float(flagged["flare_flux"][11]) == pytest.approx(1e-6)
        all_classes = xrf.flag_frames(
            ds, flares=self.flares(ds, rows), flare_classes="ABCMX", particles=False
        )
        assert int((all_classes["flags"] == 0).sum()) == 25

    def test_unknown_class(self) -> None:
        with pytest.raises(InputError, match="flare classes"):
            xrf.flag_frames(make_frames(3), flare_classes=("Q",))
        with pytest.raises(InputError, match="flare list"):
            xrf.flag_frames(make_frames(3), flares=pd.DataFrame({"a": [1]}))

    def test_bursts_and_geotail(self) -> None:
        rng = np.random.default_rng(5)
        n = 2000
        level = np.full(n, 50.0)
        level[1200:1600] = 120.0  # hours of the geotail
        rate = rng.poisson(level * 8.0) / 8.0
        burst = [100, 700, 701, 702]
        rate[burst] = 260.0
        rate[1300] = np.nan
        time = np.datetime64("2021-01-01", "ns") + (np.arange(n) * 8_000_000_000).astype("m8[ns]")
        flags = particle_flags(rate, time, np.full(n, 8.0))
        np.testing.assert_array_equal(np.flatnonzero(flags & FRAME_FLAGS["particle_burst"]), burst)
        tail = (flags & FRAME_FLAGS["geotail"]) > 0
        assert tail[1240:1560].sum() == 319  # all but the one without a rate
        assert not tail[:1150].any()
        assert not tail[1650:].any()

    def test_detectors_do_not_make_bursts(self) -> None:
        ds = make_frames(60, channels=1024)
        counts = ds["counts"].values.copy()
        counts[:, 260:590] = np.random.default_rng(0).poisson(2.0, (60, 330))
        half = np.where(np.arange(60) < 30, 16, 8).astype("f4")
        counts[30:] = np.random.default_rng(1).binomial(counts[30:].astype(int), 0.5)
        ds = ds.assign(counts=(("time", "channel"), counts)).assign_coords(
            n_detectors=("time", half)
        )
        rate = particle_rate(ds).values
        assert rate[30:].mean() == pytest.approx(rate[:30].mean(), rel=0.05)

    def test_what_is_not_class(self) -> None:
        with pytest.raises(InputError, match="counts"):
            xrf.flag_frames(xr.Dataset({"a": 1}))


class TestBackground:
    def test_sums_dark_and_quiet_frames_only(self) -> None:
        ds = make_frames(10)
        incidence = np.array([40, 95, 110, 120, 130, 140, 40, 40, 110, 110.0])
        ds = ds.assign_coords(
            incidence=("time", incidence),
            n_detectors=("time", np.array([16] * 5 + [8] * 5, "f4")),
            flags=("time", np.array([0, 1, 1, 1 | 32, 1, 1, 0, 0, 1, 1], "u2")),
        )
        back = xrf.night_background(ds)
        used = [2, 4, 5, 8, 9]
        np.testing.assert_array_equal(back["counts"], ds["counts"].values[used].sum(axis=0))
        assert float(back["exposure"]) == 40.0
        assert float(back["n_detectors"]) == pytest.approx((16 + 16 + 8 + 8 + 8) / 5)
        lazy = xrf.night_background(ds.chunk(time=3)).compute()
        np.testing.assert_array_equal(lazy["counts"], back["counts"])

    def test_no_night(self) -> None:
        assert float(xrf.night_background(make_frames(4))["exposure"]) == 0.0


class TestSliding:
    def test_is_a_moving_sum(self) -> None:
        ds = make_frames(30)
        added = xrf.coadd(ds, window=12)
        assert added.sizes["time"] == 19
        for k in (0, 7, 18):
            np.testing.assert_array_equal(
                added["counts"][k], ds["counts"].values[k : k + 12].sum(axis=0)
            )
        assert set(added["exposure"].values) == {96.0}
        assert set(added["n_frames"].values) == {12}
        np.testing.assert_array_equal(added["start"], ds["start"].values[:19])
        np.testing.assert_array_equal(added["end"], ds["end"].values[11:])
        np.testing.assert_allclose(added["lat"][0], ds["lat"].values[:12].mean(), atol=1e-6)

    def test_stops_at_gaps(self) -> None:
        ds = make_frames(30).isel(time=[*range(10), *range(15, 30)])
        assert xrf.coadd(ds, window=12).sizes["time"] == 4
        short = xrf.coadd(ds, window=12, min_frames=5)
        assert list(short["n_frames"].values) == [10, 12, 12, 12, 12]

    def test_rejected_frames_are_left_out(self) -> None:
        ds = make_frames(20)
        flags = np.zeros(20, "u2")
        flags[4], flags[5] = FRAME_FLAGS["night"], FRAME_FLAGS["particle_burst"]
        added = xrf.coadd(ds.assign_coords(flags=("time", flags)), window=6)
        keep = [0, 1, 2, 3]
        np.testing.assert_array_equal(added["counts"][0], ds["counts"].values[keep].sum(axis=0))
        assert float(added["exposure"][0]) == 32.0
        assert int(added["flags"][0]) == FRAME_FLAGS["night"] | FRAME_FLAGS["particle_burst"]
        assert int(added["flags"][6]) == 0
        only = xrf.coadd(ds.assign_coords(flags=("time", np.full(20, 1, "u2"))), window=6)
        assert set(only["exposure"].values) == {0.0}
        assert np.isnan(only["lat"]).all()

    def test_frames_with_missing_counts_do_not_spoil_their_neighbours(self) -> None:
        ds = make_frames(20)
        counts = ds["counts"].values.copy()
        counts[9, 3] = np.nan
        added = xrf.coadd(ds.assign(counts=(("time", "channel"), counts)), window=4)
        assert np.isfinite(added["counts"]).all()
        np.testing.assert_array_equal(added["n_frames"], [4] * 6 + [3] * 4 + [4] * 7)
        assert int(added["flags"][8]) == FRAME_FLAGS["bad_counts"]

    def test_deterministic(self) -> None:
        ds = make_frames(20).chunk(time=6)
        assert xrf.coadd(ds)["counts"].data.name == xrf.coadd(ds)["counts"].data.name

    def test_bad_input(self) -> None:
        ds = make_frames(20)
        with pytest.raises(InputError, match="order of time"):
            xrf.coadd(ds.isel(time=slice(None, None, -1)))
        with pytest.raises(InputError, match="overlap"):
            xrf.coadd(ds.isel(time=[0, 1, 1, 2]))
        with pytest.raises(InputError, match="strategy"):
            xrf.coadd(ds, "all")
        with pytest.raises(InputError):
            xrf.coadd(ds, window=3, min_frames=5)


class TestRunning:
    def test_fit_finds_the_lines(self) -> None:
        ds = make_frames(6, seed=3)
        fit = fit_three_lines(ds["counts"].values.sum(axis=0), 0.027)
        # 48 s of 6, 12 and 14 counts/s; the Gaussians above have unit area but for the width of the bins.
        expected = np.array([6.0, 12.0, 14.0]) * 48.0
        assert np.all(np.abs(fit["amplitudes"] - expected) < 4 * fit["errors"])
        assert fit["width"] == pytest.approx(0.055, abs=0.003)
        assert abs(fit["shift"]) < 0.003
        assert 0.5 < fit["reduced_chi2"] < 1.8

    def test_chi2_is_one_for_right_models(self) -> None:
        values = [
            fit_three_lines(make_frames(4, seed=s)["counts"].values.sum(axis=0), 0.027)[
                "reduced_chi2"
            ]
            for s in range(40)
        ]
        assert np.mean(values) == pytest.approx(1.0, abs=0.08)

    def test_running_sets_do_not_overlap_and_combined_ones_do(self) -> None:
        ds = make_frames(24, seed=1)
        running = xrf.coadd(ds, "running", min_significance=30.0)
        assert running.sizes["time"] > 1
        assert np.all(running["start"].values[1:] >= running["end"].values[:-1])
        assert np.all((running["reduced_chi2"] >= 0.8) & (running["reduced_chi2"] <= 2.0))
        combined = xrf.coadd(ds, "combined", min_significance=30.0)
        assert combined.sizes["time"] > running.sizes["time"]
        first = running.isel(time=0)
        n = int(first["n_frames"])
        np.testing.assert_array_equal(first["counts"], ds["counts"].values[:n].sum(axis=0))

    def test_significance_asks_for_more_frames(self) -> None:
        ds = make_frames(24, seed=1)
        loose = xrf.coadd(ds, "running", min_significance=3.0)["n_frames"].values.mean()
        strict = xrf.coadd(ds, "running", min_significance=40.0)["n_frames"].values.mean()
        assert strict > loose

    def test_nothing_to_fit(self) -> None:
        ds = make_frames(20)
        dark = ds.assign(counts=ds["counts"] * 0)
        with pytest.warns(LunarrayWarning, match="no window of 20 frames"):
            assert xrf.coadd(dark, "running", max_frames=5).sizes["time"] == 0
        with pytest.warns(LunarrayWarning, match="no window of 20 frames"):
            found = xrf.coadd(dark.chunk(time=5), "combined", max_frames=5)
        assert found.compute().sizes["time"] == 0

    @pytest.mark.realdata
    @pytest.mark.parametrize("strategy", ["running", "combined"])
    def test_bright_frames_are_enough_though_no_three_gaussians(self, real_data, strategy) -> None:
        """Ten frames of some 26 000 counts in the lines, chi-square 3 to 6 each: by the paper's rule none."""
        frames = xrf.open_class(sorted((real_data / "class" / "bright").glob("*.fits")))
        found = xrf.coadd(frames, strategy, max_gap=1e4)
        assert found.sizes["time"] == 10
        assert np.all(found["reduced_chi2"] > 2.0)
        with pytest.warns(LunarrayWarning, match=r"lines of \d+\.\d times their error"):
            assert xrf.coadd(frames, strategy, max_gap=1e4, enough=np.inf).sizes["time"] == 0


class TestFootprints:
    def test_area_of_an_octant(self) -> None:
        assert geo.footprint_area([0, 90, 0], [0, 0, 90]) == pytest.approx(
            4 * np.pi * 1737.4**2 / 8
        )

    @settings(max_examples=50, deadline=None)
    @given(st.floats(-180, 180), st.floats(-89.9, 89.9), st.floats(0.05, 3.0))
    def test_area_and_polygon_anywhere(self, lon: float, lat: float, size: float) -> None:
        """Footprints of a given size have the same area at the poles and across ±180°, and valid polygons of that
        area."""
        frame = class_orbit(
            frames=1,
            altitude=100 * size,
            first_latitude=min(max(lat, -89.9), 89.9),
            node_longitude=lon,
        )
        lons, lats = frame["corner_lon"].values, frame["corner_lat"].values
        area = geo.footprint_area(lons, lats)[0]
        reference = geo.footprint_area(
            *(class_orbit(frames=1, altitude=100 * size)[k] for k in ("corner_lon", "corner_lat"))
        )
        assert area == pytest.approx(reference[0], rel=1e-3)
        shape = geo.footprint_polygons(lons, lats)[0]
        assert shape.is_valid
        assert shape.bounds[0] >= -180
        assert shape.bounds[2] <= 180
        # In degrees, weighted by the cosine of latitude, on strips.
        low, high = shape.bounds[1], shape.bounds[3]
        edges = np.linspace(low, high, 200)
        strips = [
            shapely.intersection(shape, shapely.box(-181, a, 181, b)).area
            for a, b in pairwise(edges)
        ]
        weights = np.cos(np.deg2rad((edges[1:] + edges[:-1]) / 2))
        degrees = np.deg2rad(1) * 1737.4
        assert float(np.dot(strips, weights)) * degrees**2 == pytest.approx(area, rel=0.02)

    def test_windows_cover_what_their_frames_cover(self) -> None:
        for start in (-10.0, 84.0):
            ds = make_frames(12, first_latitude=start, node_longitude=179.5)
            added = xrf.coadd(ds, window=12)
            union = merge_footprints(ds["corner_lon"], ds["corner_lat"])
            whole = merge_footprints(added["corner_lon"], added["corner_lat"])
            hull = geo.footprint_area(*hull_corners(ds["corner_lon"], ds["corner_lat"]))
            assert geo.footprint_area(added["corner_lon"], added["corner_lat"])[0] == pytest.approx(
                float(hull), rel=0.02
            )
            assert shapely.intersection(union, whole).area == pytest.approx(union.area, rel=0.03)

    def test_the_date_line(self) -> None:
        union = merge_footprints(
            [[179, -179, -179, 179], [-179.5, -178, -178, -179.5]], [[0, 0, 1, 1]] * 2
        )
        assert union.geom_type == "MultiPolygon"
        assert union.area == pytest.approx(3.0, rel=1e-3)
        assert union.bounds[0] == -180
        assert union.bounds[2] == 180

    def test_a_footprint_around_the_pole(self) -> None:
        shape = geo.footprint_polygons([0, 90, 180, -90], [88, 88, 88, 88])[0]
        assert shape.bounds[3] == 90
        assert shape.contains(shapely.Point(45, 89.5))
        assert shape.contains(shapely.Point(-135, 89.5))

    def test_missing_corners(self) -> None:
        assert geo.footprint_polygons([[0, 1, np.nan, 0]], [[0, 0, 1, 1]])[0].is_empty
        assert merge_footprints([[0, 1, np.nan, 0]], [[0, 0, 1, 1]]).is_empty

    @pytest.mark.parametrize(
        ("grid", "resolution", "start"),
        [("geographic", 0.1, -10), ("geographic", 0.1, 80), ("north", 1000.0, 80)],
    )
    def test_gridded_area(self, grid, resolution, start) -> None:
        orbit = class_orbit(frames=40, first_latitude=start, node_longitude=179.9)
        one = np.ones((40, 1))
        ds = xr.Dataset(
            {"abundance": (("time", "element"), one), "abundance_std": (("time", "element"), one)},
            {"element": ["Mg"], **orbit.coords},
        )
        grid_ds = xrf.grid_footprints(ds, grid, resolution)
        hit = grid_ds["n_footprints"] > 0
        if grid == "geographic":
            area = (
                float((hit * np.cos(np.deg2rad(grid_ds["lat"]))).sum())
                * (resolution * np.deg2rad(1) * 1737.4) ** 2
            )
        else:
            area = float(hit.sum()) * (resolution / 1e3) ** 2
        hull = float(geo.footprint_area(*hull_corners(ds["corner_lon"], ds["corner_lat"])))
        assert area == pytest.approx(hull, rel=0.03)
        np.testing.assert_allclose(grid_ds["abundance"].values[:, hit.values], 1.0)
        count = grid_ds["n_footprints"].values[hit.values]
        np.testing.assert_allclose(
            grid_ds["abundance_std"].values[0][hit.values], 1 / np.sqrt(count), rtol=1e-5
        )

    def test_mean_of_a_map_under_a_footprint(self) -> None:
        lat, lon = 89.5 - np.arange(180), -179.5 + np.arange(360)
        west = xr.DataArray(
            (lon < 0)[None].repeat(180, 0).astype(float), {"lat": lat, "lon": lon}, ("lat", "lon")
        )
        orbit = class_orbit(frames=3, node_longitude=0.0)
        np.testing.assert_allclose(footprint_mean(orbit, west, samples=9), 0.5, atol=0.12)
        shifted = class_orbit(frames=3, node_longitude=-20.0)
        np.testing.assert_array_equal(footprint_mean(shifted, west), 1.0)
        turned = west.assign_coords(lon=np.mod(lon, 360.0))  # 0 to 360
        np.testing.assert_array_equal(footprint_mean(shifted, turned.sortby("lon")), 1.0)
        with pytest.raises(InputError):
            footprint_mean(orbit, west.rename(lat="y"))


@pytest.mark.realdata
class TestRealFrames:
    def test_six_frames_of_a_flare(self, real_data: Path) -> None:
        ds = xrf.open_class(real_data / "class" / "l1" / "*20200529*", chunks=2)
        added = xrf.coadd(xrf.flag_frames(ds), window=6)
        assert added.sizes["time"] == 1
        np.testing.assert_array_equal(added["counts"].values[0], ds["counts"].values.sum(axis=0))
        fit = fit_three_lines(added["counts"].values[0], 0.0135)
        assert fit["significance"] > 40
        assert 0.8 < fit["reduced_chi2"] < 2
        assert fit["shift"] == pytest.approx(-0.012, abs=0.004)  # the gain had drifted by a channel

    def test_night_frames_of_the_archive(self, real_data: Path) -> None:
        ds = xrf.flag_frames(xrf.open_class(real_data / "class" / "l1"))
        night = (ds["flags"].values & FRAME_FLAGS["night"]) > 0
        np.testing.assert_array_equal(night, ds["incidence"].values >= 90)
        assert 0 < night.sum() < 139

    def test_added_files_are_not_added_again(self, real_data: Path) -> None:
        with pytest.raises(InputError, match="overlap"):
            xrf.coadd(xrf.open_class(real_data / "class" / "coadd_96s"))
