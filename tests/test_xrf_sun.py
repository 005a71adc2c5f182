"""The Sun of each window: spectra of XSM, its response, the plasma that comes with lunarray, and fits."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import lunarray.xrf as xrf
from lunarray import simulate
from lunarray.errors import InputError, LunarrayWarning, ProductFormatError
from lunarray.xrf.plasma import plasma_table
from lunarray.xrf.response import rebin
from lunarray.xrf.solar import fold_matrix
from lunarray.xrf.sun_files import SunFiles, xsm_by_day
from lunarray.xrf.window_suns import SUN_SOURCES
from lunarray.xrf.xsm import read_xsm_spectrum
from lunarray.xrf.xsm_response import XSM_CHANNELS, xsm_response


def write_type_ii(
    path: Path, counts: np.ndarray, *, begin, exposure, cards=None, **columns
) -> Path:
    rows, n = counts.shape
    own = [
        fits.Column("SPEC_NUM", "J", array=np.arange(rows)),
        fits.Column("TSTART", "D", array=begin),
        fits.Column("EXPOSURE", "E", array=exposure),
        fits.Column("CHANNEL", f"{n}J", array=np.tile(np.arange(n), (rows, 1))),
        fits.Column("COUNTS", f"{n}E", array=counts),
    ]
    for name, values in columns.items():
        kind = "D" if np.ndim(values) == 1 else f"{n}E"
        own.append(fits.Column(name, kind, array=values))
    table = fits.BinTableHDU.from_columns(own, name="SPECTRUM")
    table.header.update(
        {"INSTRUME": "CH2_XSM", "MJDREF": 57754.0, "TSTART": 0.0, "TSTOP": 1e6, "HDUCLAS4": "TYPE:II"}
        | (cards or {})
    )  # fmt: skip
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


class TestZips:
    """XSM as PRADAN hands it out: a zip a day, with a tree in it, of raw and of calibrated files."""

    def zipped(self, folder: Path, day: str, copies: bool = False) -> Path:
        name = f"ch2_xsm_{day}_v1_level2"
        pha = write_type_ii(
            folder / f"{name}.pha",
            TestTypeII.counts,
            begin=TestTypeII.begin,
            exposure=[8.0, 16.0, 4.0],
        )
        rate = fits.BinTableHDU.from_columns(
            [
                fits.Column("TIME", "D", array=[0.0, 1.0]),
                fits.Column("RATE", "E", array=[5.0, 6.0]),
            ],
            name="RATE",
        )
        rate.header["MJDREF"] = 57754.0
        rate.writeto(folder / f"{name}.lc")
        archive = folder / f"ch2_xsm_{day}_v1.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            tree = f"xsm/data/{day[:4]}/{day[4:6]}/{day[6:]}"
            out.writestr(f"{tree}/raw/ch2_xsm_{day}_v1_level1.fits", b"SIMPLE")
            for path in (pha, folder / f"{name}.lc"):
                out.write(path, f"{tree}/calibrated/{path.name}")
                if not copies:
                    path.unlink()
        return archive

    @pytest.mark.parametrize("copies", [False, True])
    def test_days_of_zips(self, tmp_path: Path, copies: bool) -> None:
        for day in ("20210827", "20210828"):
            self.zipped(tmp_path, day, copies)
        days = xsm_by_day(tmp_path)
        assert list(days) == ["2021-08-27", "2021-08-28"]
        assert all(
            {k: len(v) for k, v in own.items()} == {".pha": 1, ".lc": 1} for own in days.values()
        )
        known = SunFiles(days).of_days(["2021-08-27"])
        np.testing.assert_array_equal(known["spectra"]["counts"], TestTypeII.counts)
        np.testing.assert_array_equal(known["light_curve"]["rate"], [5.0, 6.0])

    def test_a_member_is_read_by_its_path(self, tmp_path: Path) -> None:
        archive = self.zipped(tmp_path, "20210827")
        (path,) = xsm_by_day(archive)["2021-08-27"][".pha"]
        assert read_xsm_spectrum(path)["counts"].shape == (3, 8)

    def test_damage_is_told(self, tmp_path: Path) -> None:
        whole = self.zipped(tmp_path, "20210827").read_bytes()
        bad = tmp_path / "ch2_xsm_20210828_v1.zip"
        bad.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ProductFormatError, match="zip"):
            xsm_by_day(bad)
        with zipfile.ZipFile(tmp_path / "ch2_xsm_20210829_v1.zip", "w") as out:
            out.writestr("ch2_xsm_20210829_v1_level2.pha", b"SIMPLE  = T")
        days = xsm_by_day(tmp_path / "ch2_xsm_20210829_v1.zip")
        with pytest.raises(ProductFormatError, match=r"20210829_v1_level2\.pha"):
            SunFiles(days).of_days(days)
        with pytest.warns(LunarrayWarning, match="left out"):
            assert SunFiles(days, errors="skip").of_days(days) == {}


class TestTypeII:
    counts = np.arange(3 * 8, dtype="f8").reshape(3, 8)
    begin = np.array([100.0, 116.0, 200.0])

    def test_each_row_is_a_spectrum(self, tmp_path: Path) -> None:
        path = write_type_ii(
            tmp_path / "a.pha", self.counts, begin=self.begin, exposure=[8.0, 16.0, 4.0],
            TELAPSE=np.array([16.0, 16.0, 10.0]),
        )  # fmt: skip
        ds = read_xsm_spectrum(path)
        assert ds["counts"].dims == ("time", "channel")
        np.testing.assert_array_equal(ds["counts"], self.counts)
        np.testing.assert_array_equal(ds["exposure"], [8.0, 16.0, 4.0])
        np.testing.assert_allclose(ds["stat_error"], np.sqrt(self.counts), rtol=1e-6)
        origin = np.datetime64("2017-01-01")
        seconds = ((ds["end"] - origin) / np.timedelta64(1, "s")).values
        np.testing.assert_allclose(seconds, [116.0, 132.0, 210.0])
        assert np.all(ds["time"] > ds["start"])
        assert np.all(ds["time"] < ds["end"])

    def test_ends_without_telapse_are_those_of_exposures(self, tmp_path: Path) -> None:
        path = write_type_ii(tmp_path / "a.pha", self.counts, begin=self.begin, exposure=[8.0] * 3)
        ds = read_xsm_spectrum(path)
        np.testing.assert_array_equal(
            (ds["end"] - ds["start"]) / np.timedelta64(1, "s"), [8.0, 8.0, 8.0]
        )

    def test_bad_channels_are_missing(self, tmp_path: Path) -> None:
        quality = np.zeros((3, 8))
        quality[1, 2] = 5
        path = write_type_ii(
            tmp_path / "a.pha", self.counts, begin=self.begin, exposure=[8.0] * 3, QUALITY=quality
        )
        missing = np.isnan(read_xsm_spectrum(path)["counts"].values)
        np.testing.assert_array_equal(missing, quality != 0)

    def test_no_exposure_is_an_error(self, tmp_path: Path) -> None:
        path = write_type_ii(
            tmp_path / "a.pha", self.counts, begin=self.begin, exposure=[8.0, 0, 8]
        )
        with pytest.raises(ProductFormatError, match="EXPOSURE"):
            read_xsm_spectrum(path)


class TestXsmResponse:
    def test_every_photon_is_counted_once(self) -> None:
        response = xsm_response()
        assert response.channels == XSM_CHANNELS
        counted = response.fold(np.eye(response.energies)) / response.area[:, None]
        energy = (response.energy_lo + response.energy_hi) / 2
        inside = (energy > 1.5) & (energy < 15.0)
        np.testing.assert_allclose(counted.sum(1)[inside], 1.0, rtol=1e-6)
        mean = counted @ response.channel_energy()
        np.testing.assert_allclose(mean[inside], energy[inside], atol=1e-3)
        i = int(np.argmin(np.abs(energy - 5.9)))
        spread = np.sqrt(counted[i] @ (response.channel_energy() - 5.9) ** 2)
        assert spread * 2.3548 == pytest.approx(0.178, rel=0.02)

    def test_the_scale_moves(self) -> None:
        moved = xsm_response(slope=1.01, offset=0.02)
        np.testing.assert_allclose(
            moved.channel_energy(), 1.01 * (xsm_response().channel_energy() + 0.02)
        )
        with pytest.raises(InputError, match="fwhm"):
            xsm_response(fwhm=0.0)

    @pytest.mark.realdata
    def test_area_is_that_of_the_files(self, real_data: Path) -> None:
        own = xsm_response()
        energy = (own.energy_lo + own.energy_hi) / 2
        inside = (energy > 1.2) & (energy < 15.0)
        files = sorted((real_data / "xsm/spectrum").glob("*.arf"))
        assert len(files) == 7
        for path in files:
            area = xsm_response(path).area
            k = int(np.argmin(np.abs(energy - 7.0)))
            # What the aperture shows of itself tells the angle; the windows' depth then follows.
            angle = np.rad2deg(np.arccos(np.cos(np.deg2rad(37.5)) * area[k] / own.area[k]))
            ratio = (area / xsm_response(sun_angle=float(angle)).area)[inside]
            assert 30 < angle < 50
            np.testing.assert_allclose(ratio, 1.0, atol=0.08)
            assert ratio.std() < 0.025


class TestPlasma:
    """The table that comes with lunarray, held to what is known of such plasmas without it."""

    def test_continuum_is_bremsstrahlung(self) -> None:
        plasma = plasma_table(engine="chianti")
        energy = (plasma.edges[1:] + plasma.edges[:-1]) / 2
        kt = 2.0
        flux = plasma.at(kt)[0] / np.diff(plasma.edges)
        # Hydrogen and helium: 6.8e-38 erg cm³/s/Hz (sum of Z² n) g exp(-E/kT) / sqrt(T); Rybicki and Lightman (5.14b).
        charge = 1.0 + 4 * 7.94e-2
        power = 6.8e-38 * charge * np.exp(-energy / kt) / np.sqrt(kt / 8.617333e-8)
        photons = power / (energy * 1.602177e-9) / 4.135667e-18 * 1e14
        gaunt = (flux / photons)[(energy > 1.0) & (energy < 10.0)]
        assert np.all((gaunt > 0.4) & (gaunt < 1.4))
        assert np.all(np.diff(gaunt) < 0)

    @pytest.mark.parametrize(
        ("element", "energy", "hottest"), [("Si", 2.006, 1.6), ("S", 2.622, 2.3), ("Fe", 6.70, 5.0)]
    )
    def test_lines_are_where_they_are(self, element: str, energy: float, hottest: float) -> None:
        plasma = plasma_table(engine="chianti")
        k = plasma.elements.index(element)
        own = (plasma.edges[:-1] <= energy) & (plasma.edges[1:] > energy)
        strength = plasma.spectra[:, k, own][:, 0]
        beside = plasma.spectra[:, k, np.roll(own, 12)][:, 0]
        assert np.all((strength > 5 * beside)[plasma.temperature > 1.0])
        assert plasma.temperature[np.argmax(strength)] == pytest.approx(hottest, rel=0.25)

    def test_other_bins_hold_the_same_photons(self) -> None:
        fine = plasma_table(engine="chianti")
        wide = plasma_table(np.linspace(1.0, 9.0, 81), engine="chianti")
        low, high = fine.edges[:-1], fine.edges[1:]
        for k in (0, wide.elements.index("Si"), wide.elements.index("Fe")):
            joined = rebin(fine.spectra[20, k], low, high, wide.edges[:-1], wide.edges[1:])
            np.testing.assert_allclose(
                wide.spectra[20, k], joined, rtol=5e-3, atol=joined.max() * 2e-3
            )

    def test_temperatures_that_it_lacks(self) -> None:
        some = plasma_table(temperature=[0.5, 1.0], engine="chianti")
        assert some.spectra.shape[0] == 2
        np.testing.assert_allclose(some.spectra[1], plasma_table(engine="chianti").at(1.0))
        with pytest.raises(InputError, match="temperatures"):
            plasma_table(temperature=[0.01, 1.0], engine="chianti")


def counted(response, flux, exposure: float, seed: int, dark: float = 0.0) -> xr.Dataset:
    """A spectrum of XSM of a Sun, photons/s/cm² in each bin of the plasma's default edges."""
    edges = plasma_table(engine="chianti").edges
    rate = flux @ fold_matrix(response, edges) + dark
    counts = np.random.default_rng(seed).poisson(rate * exposure).astype("f8")
    return xr.Dataset(
        {
            "counts": ("channel", counts), "stat_error": ("channel", np.sqrt(counts)),
            "sys_error": ("channel", np.zeros(counts.size)), "exposure": exposure,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def response():
    return xsm_response()


class TestManyTemperatures:
    abundance = 0.45

    def sun(self) -> np.ndarray:
        """A flare of 1.2 keV on a corona of 0.4 keV, photons/s/cm² in each bin."""
        plasma = plasma_table(engine="chianti")
        own = np.full(len(plasma.elements), self.abundance)
        own[0] = 1.0
        return 6e6 * (own @ plasma.at(1.2)) + 2e7 * (own @ plasma.at(0.4))

    def test_flux_is_found_within_its_modes(self, response) -> None:
        plasma, truth = plasma_table(engine="chianti"), self.sun()
        energy = (plasma.edges[1:] + plasma.edges[:-1]) / 2
        # As wide as XSM resolves: of the lines within it tells nothing.
        bands = np.array([np.abs(energy - e) < 0.1 for e in (1.5, 2.3, 3.5, 5.0)]) * 0.01
        pulls, excess = [], []
        for seed in range(12):
            ds = counted(response, truth, 16.0, seed)
            fit = xrf.fit_solar(ds, response, plasma=plasma, systematic=0.0)
            wrong = bands @ (fit["photon_flux"] - truth / np.diff(plasma.edges)).values
            # The tilt of the area is in no simulated spectrum.
            modes = fit["flux_mode"].sel(mode=fit["mode"] != "calibration").values @ bands.T
            # Modes leave out what changes a flux by less than a per cent, as temperatures between those fitted do.
            least = 0.01 * bands @ (truth / np.diff(plasma.edges))
            pulls.append(wrong / np.sqrt(np.sum(modes**2, axis=0) + least**2))
            excess.append(float(fit["chi2"] / fit["dof"]))
        pulls = np.array(pulls)
        assert 0.9 < np.mean(excess) < 1.15
        assert np.all(np.abs(pulls.mean(0)) < 1.0)
        assert 0.5 < np.sqrt(np.mean(pulls**2)) < 1.6

    def test_parameters_are_told(self, response) -> None:
        fit = xrf.fit_solar(
            counted(response, self.sun(), 2000.0, 3), response, engine="chianti", systematic=0.01
        )
        value = dict(zip(fit["parameter"].values, fit["parameter_value"].values, strict=True))
        assert 0.8 < value["temperature"] < 1.2
        for element in ("Mg", "Si", "S", "Ca", "Fe"):
            assert value[element] == pytest.approx(self.abundance, rel=0.25)
        assert list(fit["mode"].values)[-1] == "calibration"
        assert np.all(fit["emission_measure"] >= 0)

    def test_a_level_of_particles_makes_no_sun_hotter(self, response) -> None:
        plasma = plasma_table(engine="chianti")
        own = np.full(len(plasma.elements), self.abundance)
        quiet = 1e6 * (own @ plasma.at(0.25))
        fit = xrf.fit_solar(
            counted(response, quiet, 40_000.0, 1, dark=2e-3),
            response,
            plasma=plasma,
            systematic=0.01,
        )
        assert fit["parameter_value"].values[0] == pytest.approx(0.25, abs=0.03)

    def test_spectra_of_many_times_are_refused(self, response) -> None:
        ds = counted(response, self.sun(), 16.0, 0).expand_dims(time=2)
        with pytest.raises(InputError, match="window_suns"):
            xrf.fit_solar(ds, response)

    def test_bands_and_errors_that_are_none(self, response) -> None:
        ds = counted(response, self.sun(), 16.0, 0)
        with pytest.raises(InputError, match="lower energy first"):
            xrf.fit_solar(ds, response, band=(7.2, 1.2))
        for value in (-0.03, np.nan):
            with pytest.raises(InputError, match="systematic"):
                xrf.fit_solar(ds, response, systematic=value)
            with pytest.raises(InputError, match="systematic"):
                xrf.window_suns(simulate.class_orbit(frames=2), systematic=value)

    @pytest.mark.realdata
    def test_days_that_nothing_was_tuned_on(self, real_data: Path) -> None:
        days = np.load(real_data / "xsm/days.npz")
        response = xsm_response()
        energy = (response.energy_lo + response.energy_hi) / 2
        excess = []
        for date in ("20200328", "20211003", "20220615", "20221018", "20230214", "20231026"):
            i = int(np.flatnonzero(days["date"] == date)[0])
            counts = days["counts"][i].astype("f8")
            ds = xr.Dataset(
                {
                    "counts": ("channel", counts), "stat_error": ("channel", np.sqrt(counts)),
                    "sys_error": ("channel", 0 * counts), "exposure": float(days["exposure"][i]),
                }
            )  # fmt: skip
            area = np.interp(energy, days["energy"] + 0.005, days["arf_area"][i])
            fit = xrf.fit_solar(ds, replace(response, area=area), engine="chianti")
            excess.append(float(fit["chi2"] / fit["dof"]))
        # Errors are 3 % of the counts of 1e7 and more: plasma and response are good for 4 %.
        assert np.median(excess) < 2.5

    @pytest.mark.realdata
    def test_the_recorded_flare(self, real_data: Path) -> None:
        folder = real_data / "xsm/spectrum"
        fit = xrf.fit_solar(
            read_xsm_spectrum(folder / "ch2_xsm_20210827_l1.pha"),
            xsm_response(folder / "ch2_xsm_20210827_l1.arf"),
            engine="chianti",
        )
        assert float(fit["chi2"] / fit["dof"]) < 1.7
        assert 4e-6 < fit.attrs["goes_flux"] < 5.5e-6  # C4.5
        published = xrf.read_solar_model(
            next((real_data / "class/issdc_fit").glob("modelop_*.txt"))
        )
        for low, high, least, most in (
            (2.6, 2.9, 1.05, 1.3),
            (3.3, 3.7, 1.15, 1.4),
            (4.2, 4.8, 1.25, 1.7),
        ):
            band = {"energy": slice(low, high)}
            ratio = float(
                fit["photon_flux"].sel(band).mean() / published["photon_flux"].sel(band).mean()
            )
            assert least < ratio < most


def moments(*seconds: float) -> np.ndarray:
    origin = np.datetime64("2023-05-01T00:00:00", "ns")
    return origin + (np.array(seconds) * 1e9).astype("m8[ns]")


def windows(begin: list[float], length: float = 16.0) -> xr.Dataset:
    start, end = moments(*begin), moments(*(b + length for b in begin))
    return xr.Dataset(
        coords={"time": ("time", start + (end - start) // 2), "start": ("time", start), "end": ("time", end)}
    )  # fmt: skip


class TestWindowSuns:
    """Each window has the best Sun that there is; each is told."""

    def flare(self, kt: float, norm: float) -> np.ndarray:
        plasma = plasma_table(engine="chianti")
        own = np.full(len(plasma.elements), 0.45)
        own[0] = 1.0
        return norm * (own @ plasma.at(kt))

    def spectra(self, response, rows) -> xr.Dataset:
        """(begin, end, temperature, norm) of each."""
        each = [
            counted(response, self.flare(kt, norm), end - begin, k).expand_dims("time")
            for k, (begin, end, kt, norm) in enumerate(rows)
        ]
        ds = xr.concat(each, "time")
        start, end = moments(*(r[0] for r in rows)), moments(*(r[1] for r in rows))
        return ds.assign_coords(start=("time", start), end=("time", end))

    def test_own_seconds_come_first(self, response) -> None:
        spectra = self.spectra(
            response,
            [(0, 8, 1.3, 1e7), (8, 16, 1.3, 1e7), (16, 32, 0.7, 3e7), (0, 86400, 0.5, 1e6)],
        )
        suns = xrf.window_suns(windows([0, 16, 500]), spectra, response)
        assert list(suns["sun_source"].values) == [
            SUN_SOURCES["own_spectrum"], SUN_SOURCES["own_spectrum"], SUN_SOURCES["longer_spectrum"]
        ]  # fmt: skip
        np.testing.assert_allclose(suns["sun_temperature"], [1.3, 0.7, 0.5], rtol=0.12)
        truth = self.flare(1.3, 1e7) / np.diff(plasma_table(engine="chianti").edges)
        flux = suns["photon_flux"].isel(time=0)
        for band in (slice(1.4, 1.9), slice(2.2, 2.8), slice(3.0, 4.0)):
            true = xr.DataArray(truth, {"energy": flux["energy"]}, ["energy"]).sel(energy=band)
            assert float(flux.sel(energy=band).sum()) == pytest.approx(float(true.sum()), rel=0.05)
        assert suns["flux_mode"].dims == ("mode", "time", "energy")
        # A day's Sun is a bad one for a minute of it, and says so.
        relative = (suns["flux_mode"] / suns["photon_flux"]).sel(energy=3.0, method="nearest")
        error = np.sqrt((relative**2).sum("mode"))
        assert float(error[2]) > 5 * float(error[0])

    def test_a_light_curve_scales_the_day(self, response) -> None:
        spectra = self.spectra(response, [(0, 86400, 0.5, 1e6)])
        time = moments(*np.arange(0, 86400, 10.0))
        rate = np.full(time.size, 100.0)
        rate[100:110] = 3200.0
        curve = xr.Dataset({"rate": ("time", rate)}, {"time": time})
        suns = xrf.window_suns(windows([5000, 1040]), spectra, response, light_curve=curve)
        assert set(suns["sun_source"].values) == {SUN_SOURCES["light_curve"]}
        edges = plasma_table(engine="chianti").edges
        counts = (suns["photon_flux"].values * np.diff(edges)) @ fold_matrix(response, edges)
        assert counts[1].sum() / counts[0].sum() == pytest.approx(32.0, rel=0.01)
        hotter = suns["sun_temperature"].values
        assert hotter[1] / hotter[0] == pytest.approx(2.0, rel=0.01)

    def test_goes_tells_the_class(self, response) -> None:
        flux = xr.Dataset({"xrsb_flux": ("time", [1e-6, 1e-5])}, {"time": moments(60, 120)})
        suns = xrf.window_suns(windows([50, 110, 9999]), goes=flux)
        np.testing.assert_allclose(suns["sun_goes_flux"].values[:2], [1e-6, 1e-5])
        assert suns["sun_temperature"][0] < suns["sun_temperature"][1]
        assert list(suns["sun_source"].values) == [8, 8, 32]

    @pytest.mark.realdata
    def test_class_itself_tells_the_class(self, real_data: Path) -> None:
        # The flare of 2024-01-23T03:31 was one of M5.1; no XSM spectrum of it is public.
        suns = xrf.window_suns(xrf.open_class(real_data / "class/bright"))
        assert set(suns["sun_source"].values) == {SUN_SOURCES["own_counts"]}
        np.testing.assert_allclose(suns["sun_goes_flux"], 5.1e-5, rtol=0.15)

    def test_fits_take_them(self) -> None:
        from lunarray.simulate import class_counts, class_orbit, class_response

        seen, orbit = class_response(512), class_orbit(frames=2)
        suns = xrf.window_suns(orbit)
        frames = class_counts(xrf.HIGHLAND, orbit, suns.isel(time=0), seen, noise=False)
        fit = xrf.fit_elements(frames, suns, seen)
        assert np.isfinite(fit["abundance"].sel(element=["Mg", "Al", "Si"])).all()

    def test_what_has_no_times(self) -> None:
        with pytest.raises(InputError, match="time"):
            xrf.window_suns(xr.Dataset())
        with pytest.raises(InputError, match=r"no dimension.*isel"):
            xrf.window_suns(windows([50, 110]).isel(time=0))
