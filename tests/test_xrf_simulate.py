"""Simulated CLASS spectra, the fit of elements on xarray objects, conversions and pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import lunarray.xrf as xrf
from lunarray import geo
from lunarray.errors import InputError, MissingDependencyError
from lunarray.simulate.xrf import (
    class_counts,
    class_orbit,
    class_response,
    flare_profile,
    mistaken_sun,
    thermal_spectrum,
)
from lunarray.xrf import ELEMENTS, HIGHLAND, MARE
from lunarray.xrf.convert import element_fraction
from lunarray.xrf.selection import FRAME_FLAGS
from lunarray.xrf.settings import FIT_FLAGS
from lunarray.xrf.suns import sun_modes
from lunarray.xrf.xsm import goes_flux

FATAL = 511


@pytest.fixture(scope="module")
def response():
    return class_response(1024)


@pytest.fixture(scope="module")
def solar() -> xr.Dataset:
    return thermal_spectrum(1.2, 1e-5)


@pytest.fixture(scope="module")
def background() -> xr.Dataset:
    counts = np.round(4000 * np.exp(-np.arange(1024) / 400))
    return xr.Dataset({"counts": ("channel", counts), "exposure": 40_000.0, "n_detectors": 16.0})


@pytest.fixture(scope="module")
def frames(response, solar, background) -> xr.Dataset:
    return class_counts(
        HIGHLAND, class_orbit(frames=12), solar, response, background=background, seed=4
    )


@pytest.fixture(scope="module")
def result(frames, response, solar, background) -> xr.Dataset:
    return xrf.fit_elements(frames, solar, response, background)


class TestOrbit:
    def test_frames_follow_one_another(self) -> None:
        orbit = class_orbit(frames=50)
        np.testing.assert_array_equal(orbit["start"].values[1:], orbit["end"].values[:-1])
        step = np.diff(orbit["lat"].values) * np.deg2rad(1) * 1737.4 / 8
        np.testing.assert_allclose(step, 1.545, atol=0.01)  # km/s over ground at 100 km

    def test_size_is_that_of_real_frames(self) -> None:
        # 108 km: 39 km along and 27 km across in the frame of 2020-05-29T10:45:08.
        area = geo.footprint_area(
            *(class_orbit(frames=1, altitude=108.3)[k] for k in ("corner_lon", "corner_lat"))
        )
        assert area[0] == pytest.approx(39.2 * 27.4, rel=0.07)

    def test_over_the_pole_and_into_the_night(self) -> None:
        orbit = class_orbit(frames=900, first_latitude=0.0)
        assert orbit["lat"].max() > 89.5
        assert orbit["lat"].min() < -89.5
        assert orbit["incidence"].max() > 170
        assert np.all(np.abs(orbit["lon"]) <= 180)
        assert np.isfinite(geo.footprint_area(orbit["corner_lon"], orbit["corner_lat"])).all()

    def test_bad_orbits(self) -> None:
        with pytest.raises(InputError):
            class_orbit(frames=0)
        with pytest.raises(InputError):
            class_orbit(first_latitude=40, inclination=30)


class TestSimulator:
    def test_noise_has_the_expected_mean(self, frames: xr.Dataset) -> None:
        counts, expected = frames["counts"].values.sum(), frames["expected"].values.sum()
        assert abs(counts - expected) < 5 * np.sqrt(expected)
        chi2 = ((frames["counts"] - frames["expected"]) ** 2 / frames["expected"]).where(
            frames["expected"] > 5
        )
        assert float(chi2.mean()) == pytest.approx(1.0, abs=5 * np.sqrt(2 / int(chi2.count())))

    def test_same_seed_same_counts(self, frames, solar, response, background) -> None:
        orbit = class_orbit(frames=12)
        again = class_counts(HIGHLAND, orbit, solar, response, background=background, seed=4)
        np.testing.assert_array_equal(again["counts"], frames["counts"])
        other = class_counts(HIGHLAND, orbit, solar, response, background=background, seed=5)
        assert not np.array_equal(other["counts"], frames["counts"])

    def test_detectors_and_flare_scale_the_signal(self, solar, response) -> None:
        orbit = class_orbit(frames=3)
        options = {"noise": False}
        one = class_counts(HIGHLAND, orbit, solar, response, **options)["counts"]
        half = class_counts(HIGHLAND, orbit, solar, response, n_detectors=8, **options)["counts"]
        np.testing.assert_allclose(half, one / 2, rtol=1e-5)
        flare = class_counts(HIGHLAND, orbit, solar, response, flare=[1.0, 0.0, 2.0], **options)[
            "counts"
        ]
        np.testing.assert_allclose(flare.values[2], one.values[2] * 2, rtol=1e-5)
        assert flare.values[1].sum() == 0

    def test_night_gives_background_only(self, solar, response, background) -> None:
        orbit = class_orbit(frames=4, subsolar_longitude=180.0)
        ds = class_counts(HIGHLAND, orbit, solar, response, background=background, noise=False)
        np.testing.assert_allclose(ds["counts"][0], background["counts"] / 40_000 * 8, rtol=1e-5)

    def test_composition_map_is_averaged_over_the_field(self, solar, response) -> None:
        lat, lon = np.arange(-20, 21, 0.1), np.arange(-5, 5, 0.1)
        north = (lat > 0)[None, :, None]
        values = np.where(
            north,
            np.array([HIGHLAND[e] for e in ELEMENTS])[:, None, None],
            np.array([MARE[e] for e in ELEMENTS])[:, None, None],
        )
        values = np.broadcast_to(values, (8, lat.size, lon.size))
        composition = xr.DataArray(
            values, {"element": list(ELEMENTS), "lat": lat, "lon": lon}, ("element", "lat", "lon")
        )
        ds = class_counts(composition, class_orbit(frames=40), solar, response, samples=9)
        iron = ds["abundance_true"].sel(element="Fe").values
        assert iron[0] == pytest.approx(MARE["Fe"])
        assert iron[-1] == pytest.approx(HIGHLAND["Fe"])
        assert np.all(np.diff(iron) <= 1e-12)
        crossing = int(np.argmin(np.abs(ds["lat"].values)))
        assert iron[crossing] == pytest.approx((MARE["Fe"] + HIGHLAND["Fe"]) / 2, abs=2.0)

    def test_bad_compositions(self, solar, response) -> None:
        orbit = class_orbit(frames=1)
        for bad in (3.0, {"Fe": -1.0}, xr.DataArray([1.0], dims="x"), lambda lon, lat: np.zeros(3)):
            with pytest.raises(InputError):
                class_counts(bad, orbit, solar, response)

    def test_flare_profile(self) -> None:
        time = np.datetime64("2021-01-01", "ns") + (np.arange(3) * 600_000_000_000).astype("m8[ns]")
        profile = flare_profile(time, time[1], rise=300.0, decay=600.0)
        np.testing.assert_allclose(profile, [np.exp(-2.0), 1.0, np.exp(-1.0)])

    def test_thermal_spectrum_has_its_class(self) -> None:
        assert thermal_spectrum(0.7, 3e-6).attrs["goes_flux"] == pytest.approx(3e-6)


class TestFitElements:
    def test_finds_what_was_put_in(self, frames, result) -> None:
        assert not np.any(result["quality"].values & FATAL)
        for element in ("Mg", "Al", "Si", "Ca"):
            own = result.sel(element=element)
            pull = (own["abundance"] - HIGHLAND[element]) / own["abundance_std"]
            assert abs(float(pull.mean())) < 4 / np.sqrt(12)
        np.testing.assert_allclose(result["xrf_norm"], 0.37, atol=0.15)
        np.testing.assert_allclose(result["abundance"].sum("element"), 100.0, rtol=1e-5)

    @pytest.mark.parametrize("total", [1e4, 1e6])
    def test_pulls(self, total, solar, response) -> None:
        """Statistics alone: no bias, honest errors; elements that the band hardly sees keep their values."""
        n = 400
        one = class_counts(HIGHLAND, class_orbit(frames=1), solar, response, noise=False)
        scale = total / float(one["counts"].sum())
        rng = np.random.default_rng(17)
        counts = rng.poisson(one["counts"].values[0].astype("f8") * scale, (n, response.channels))
        many = one.isel(time=np.zeros(n, int)).drop_vars(["expected", "abundance_true"])
        many = many.assign(counts=(("time", "channel"), counts.astype("f4")))
        many = many.assign_coords(exposure=("time", many["exposure"].values * scale))
        settings = replace(_settings(), statistic="cstat", frozen=("O", "Fe", "Ti", "Na"))
        settings = replace(settings, systematics=False)
        fit = xrf.fit_elements(many, solar, response, settings=settings)
        for element in ("Mg", "Al", "Si", "Ca"):
            own = fit.sel(element=element)
            pull = ((own["abundance"] - HIGHLAND[element]) / own["abundance_std"]).values
            assert abs(pull.mean()) < 0.18, element
            assert 0.9 < pull.std() < 1.1, element

    def test_shapes_metadata_and_footprints(self, frames, result) -> None:
        assert result["abundance"].dims == ("time", "element")
        assert list(result["element"].values) == list(ELEMENTS)
        assert result["abundance"].attrs["units"] == "percent"
        assert result["covariance"].shape == (12, 8, 8)
        for name in ("corner_lat", "corner_lon", "lat", "incidence", "start"):
            xr.testing.assert_equal(
                result[name].drop_vars(result[name].coords),
                frames[name].drop_vars(frames[name].coords),
            )
        assert "fit_elements" in result.attrs["history"]
        assert len(result.attrs["response_digest"]) == 64

    def test_covariance_and_correlation(self, result) -> None:
        variance = np.diagonal(result["covariance"].values[0])
        std = result["abundance_std"].values[0]
        known = np.isfinite(std)
        np.testing.assert_allclose(np.sqrt(variance[known]), std[known], rtol=1e-4)
        # Weights sum to 100: what they share cancels.
        assert abs(result["covariance"].values[0].sum()) < 1e-3 * variance.sum()
        correlation = result["correlation"].values[0]
        assert np.nanmax(np.abs(correlation)) <= 1 + 1e-5

    def test_parameters_are_part_of_the_token(self, frames, response, solar, background) -> None:
        lazy = frames.chunk(time=12)
        name = xrf.fit_elements(lazy, solar, response, background)["abundance"].data.name
        for other in (
            xrf.fit_elements(lazy, solar, response),
            xrf.fit_elements(lazy, solar, response, background, band=(1.0, 4.0)),
            xrf.fit_elements(lazy, solar * 1.1, response, background),
        ):
            assert other["abundance"].data.name != name

    def test_more_than_one_batch(self, frames, response, solar, background, monkeypatch) -> None:
        from lunarray.xrf import windows

        monkeypatch.setattr(windows, "BATCH", 5)
        lazy = xrf.fit_elements(frames.chunk(time=4), solar, response, background).compute()
        xr.testing.assert_equal(lazy, xrf.fit_elements(frames, solar, response, background))

    def test_detectors_are_accounted_for(self, solar, response, background) -> None:
        ds = class_counts(
            HIGHLAND,
            class_orbit(frames=2),
            solar,
            response,
            background=background,
            n_detectors=8,
            noise=False,
        )
        fit = xrf.fit_elements(ds, solar, response, background)
        np.testing.assert_allclose(fit["xrf_norm"], 0.37, atol=0.03)

    def test_each_spectrum_gets_its_sun(self, response, tmp_path: Path) -> None:
        orbit = class_orbit(frames=2)
        hot, cool = thermal_spectrum(2.0, 1e-5), thermal_spectrum(0.8, 1e-5)
        parts = [
            class_counts(HIGHLAND, orbit.isel(time=[i]), s, response, noise=False)
            for i, s in enumerate((hot, cool))
        ]
        ds = xr.concat(parts, "time")
        both = xr.concat([hot, cool], "time").assign_coords(time=ds["time"])
        fit = xrf.fit_elements(ds, both, response)
        for i, sun in enumerate((hot, cool)):
            alone = xrf.fit_elements(ds.isel(time=[i]), sun, response)
            np.testing.assert_allclose(
                fit["abundance"][i], alone["abundance"][0], rtol=0.02, atol=0.1
            )
            assert float(alone["abundance"].sel(element="Mg")[0]) == pytest.approx(
                HIGHLAND["Mg"], abs=0.1
            )

    def test_mare_prior_is_the_start(self, frames, response, solar, background) -> None:
        frozen = replace(_settings(), frozen=("O", "Ti"))
        share = np.linspace(0, 1, 12)
        fit = xrf.fit_elements(
            frames, solar, response, background, settings=frozen, mare_fraction=share
        )
        titanium = fit["abundance"].sel(element="Ti").values
        np.testing.assert_allclose(
            titanium, HIGHLAND["Ti"] + share * (MARE["Ti"] - HIGHLAND["Ti"]), rtol=1e-4
        )


def _settings():
    from lunarray.xrf.settings import FitSettings

    return FitSettings(statistic="wstat")


class TestWhatCannotBeFitted:
    """Flagged rows, never a crash of the batch."""

    def test_every_reason(self, frames, response, solar, background) -> None:
        n = frames.sizes["time"]
        counts = frames["counts"].values.copy()
        incidence = frames["incidence"].values.copy()
        exposure = frames["exposure"].values.copy()
        frames_added = np.ones(n, "i4")
        counts[0] = 0  # no counts
        counts[1, 40] = np.nan  # bad data
        counts[2] = background["counts"].values / 40_000 * 8  # no flare
        incidence[3] = 95.0  # night
        incidence[4] = np.nan  # no geometry
        exposure[5] = 0.0
        frames_added[6] = 0  # all frames rejected...
        flags = np.zeros(n, "u2")
        flags[6] = FRAME_FLAGS["night"]  # ...because it was night
        counts[7, 50] = -3.0
        ds = frames.assign(counts=(("time", "channel"), counts)).assign_coords(
            incidence=("time", incidence),
            exposure=("time", exposure),
            n_frames=("time", frames_added),
            flags=("time", flags),
        )
        expected = {
            0: "no_counts", 1: "bad_data", 2: "no_signal", 3: "night", 4: "no_geometry", 5: "no_frames",
            6: "no_frames", 7: "bad_data",
        }  # fmt: skip
        for data in (ds, ds.chunk(time=5)):
            fit = xrf.fit_elements(data, solar, response, background).compute()
            quality = fit["quality"].values
            for row, name in expected.items():
                assert quality[row] & FIT_FLAGS[name], name
                assert np.isnan(fit["abundance"].values[row]).all()
            assert quality[6] & FIT_FLAGS["night"]
            assert not np.any(quality[8:] & FATAL)
            assert np.isfinite(fit["abundance"].values[8:]).all()

    def test_a_fit_that_raises_is_a_flagged_row(
        self, frames, result, response, solar, background, monkeypatch
    ) -> None:
        from lunarray.xrf import windows as engine

        real = engine.fit_spectrum

        def sometimes(data, model, settings, **options):
            if data.counts.sum() == frames["counts"].values[3].sum():
                raise np.linalg.LinAlgError("singular")
            return real(data, model, settings, **options)

        monkeypatch.setattr(engine, "fit_spectrum", sometimes)
        fit = xrf.fit_elements(frames, solar, response, background)
        assert int(fit["quality"][3]) == FIT_FLAGS["fit_failed"]
        assert not np.any(np.delete(fit["quality"].values, 3) & FATAL)

    def test_no_model_for_the_day(self, frames, response, solar) -> None:
        models = solar.expand_dims("model").assign_coords(
            start=("model", np.array(["2021-08-27T21:00:30"], "M8[ns]")),
            end=("model", np.array(["2021-08-28"], "M8[ns]")),
        )
        fit = xrf.fit_elements(frames, models, response)
        lacking = (fit["quality"].values & FIT_FLAGS["no_solar_model"]) > 0
        np.testing.assert_array_equal(
            lacking, frames["time"].values < np.datetime64("2021-08-27T21:00:30")
        )

    def test_the_wrong_response(self, frames, response, solar, background) -> None:
        with pytest.raises(InputError, match="512 channels"):
            xrf.fit_elements(frames, solar, response.group(2), background)
        with pytest.raises(InputError, match="type str"):
            xrf.fit_elements(frames, solar, "class.rmf", background)

    def test_the_wrong_background(self, frames, response, solar, background) -> None:
        with pytest.raises(InputError, match="background has 512"):
            xrf.fit_elements(frames, solar, response, background.isel(channel=slice(0, 512)))
        with pytest.raises(InputError, match="no exposure"):
            xrf.fit_elements(frames, solar, response, background.assign(exposure=0.0))

    def test_a_sun_that_does_not_reach_the_edges(self, frames, response, solar) -> None:
        with pytest.raises(InputError, match="must cover"):
            xrf.fit_elements(frames, solar.sel(energy=slice(0.1, 3.0)), response)
        with pytest.raises(InputError, match="must cover"):
            xrf.fit_elements(frames, solar.sel(energy=slice(1.2, 30)), response)
        with pytest.raises(InputError, match="negative or missing"):
            xrf.fit_elements(frames, -solar, response)
        with pytest.raises(InputError, match="photon_flux"):
            xrf.fit_elements(frames, solar.rename(photon_flux="flux"), response)

    def test_other_arguments(self, frames, response, solar) -> None:
        with pytest.raises(InputError, match="engine"):
            xrf.fit_elements(frames, solar, response, engine="isis")
        with pytest.raises(InputError, match="channels in"):
            xrf.fit_elements(frames, solar, response, band=(1.0, 1.05))
        with pytest.raises(InputError, match="counts"):
            xrf.fit_elements(solar, solar, response)

    def test_pyxspec_is_explained_where_it_is_missing(self, frames, response, solar) -> None:
        pytest.importorskip("lunarray.xrf.xspec")
        import importlib.util

        if importlib.util.find_spec("xspec"):
            pytest.skip("PyXspec is here")
        with pytest.raises(MissingDependencyError, match="HEASoft"):
            xrf.fit_elements(frames, solar, response, engine="pyxspec")


class TestConvert:
    def test_factors(self) -> None:
        # Molar masses: 55.845 / 71.844 and 2 · 26.982 / 101.961.
        assert element_fraction("FeO") == pytest.approx(0.77731, abs=1e-5)
        assert element_fraction("Al2O3") == pytest.approx(0.52926, abs=1e-5)
        with pytest.raises(InputError):
            element_fraction("K2O")

    @given(st.lists(st.floats(0.0, 60.0), min_size=6, max_size=6))
    def test_round_trip(self, values: list[float]) -> None:
        names = ("FeO", "TiO2", "Al2O3", "CaO", "MgO", "SiO2")
        oxides = xr.Dataset(
            {n: ("time", np.array([v])) for n, v in zip(names, values, strict=True)}
        )
        elements = xrf.oxides_to_elements(oxides)
        # Mass is conserved: oxygen is what is left.
        assert float(elements["abundance"].sum()) == pytest.approx(sum(values), abs=1e-9)
        again = xrf.elements_to_oxides(elements)
        for name in names:
            np.testing.assert_allclose(again[name], oxides[name], rtol=1e-12, atol=1e-12)

    def test_of_a_fit(self, result) -> None:
        oxides = xrf.elements_to_oxides(result)
        np.testing.assert_allclose(
            oxides["MgO"] * element_fraction("MgO"),
            result["abundance"].sel(element="Mg"),
            rtol=1e-5,
        )
        assert "MgO_std" in oxides

    def test_bad_input(self) -> None:
        with pytest.raises(InputError):
            xrf.oxides_to_elements(xr.Dataset({"a": 1}))
        with pytest.raises(InputError, match="TiO2"):
            xrf.oxides_to_elements(xr.Dataset({"FeO": ("x", [1.0])}), elements=("Fe", "Ti"))
        with pytest.raises(InputError):
            xrf.elements_to_oxides(xr.Dataset({"a": 1}))


class TestOutput:
    @pytest.mark.parametrize("suffix", ["gpkg", "parquet"])
    def test_vectors(self, result, tmp_path: Path, suffix: str) -> None:
        geopandas = pytest.importorskip("geopandas")
        if suffix == "parquet":
            pytest.importorskip("pyarrow")
        path = xrf.write_footprints(result, tmp_path / f"a.{suffix}")
        table = (geopandas.read_file if suffix == "gpkg" else geopandas.read_parquet)(path)
        assert len(table) == 12
        np.testing.assert_allclose(table["Mg"], result["abundance"].sel(element="Mg"))
        np.testing.assert_allclose(table["Mg_std"], result["abundance_std"].sel(element="Mg"))
        assert "Moon" in table.crs.name
        assert table.geometry.is_valid.all()
        with pytest.raises(InputError, match="is there"):
            xrf.write_footprints(result, path)
        with pytest.raises(InputError, match=r"\.parquet or \.gpkg"):
            xrf.write_footprints(result, tmp_path / "a.shp")

    def test_zarr(self, result, tmp_path: Path) -> None:
        again = result.lunar.to_zarr(tmp_path / "r.zarr")
        for name in ("abundance", "covariance", "quality"):
            np.testing.assert_array_equal(again[name], result[name])

    def test_components_add_up(self, frames, result, response, solar, background) -> None:
        parts = xrf.spectrum_components(frames, result, solar, response, background, index=2)
        total = parts["fluorescence"] + parts["scatter"] + parts["background"]
        np.testing.assert_allclose(parts["model"], total)
        assert 0.7 < float((parts["residual"] ** 2).mean()) < 1.4
        width = 27.648 / 1024
        first = int(parts["channel"][0])
        np.testing.assert_allclose(parts["data"][0] * width * 8, frames["counts"].values[2, first])

    def test_components_of_what_was_not_fitted(
        self, frames, result, response, solar, background
    ) -> None:
        bad = result.assign(quality=("time", np.full(12, FIT_FLAGS["night"], "u2")))
        with pytest.raises(InputError, match="night"):
            xrf.spectrum_components(frames, bad, solar, response, background)


class TestPictures:
    def test_spectrum(self, frames, result, response, solar, background, tmp_path: Path) -> None:
        from lunarray.plot.xrf import xrf_spectrum

        parts = xrf.spectrum_components(frames, result, solar, response, background)
        figure = xrf_spectrum(parts, rebin=2, path=tmp_path / "s.png")
        assert (tmp_path / "s.png").stat().st_size > 5000
        labels = figure.axes[0].get_legend_handles_labels()[1]
        assert {"CLASS", "model", "fluorescence", "scattered sunlight", "background"} <= set(labels)
        with pytest.raises(InputError):
            xrf_spectrum(parts.drop_vars("model"))

    def test_light_curve(self, frames, tmp_path: Path) -> None:
        from lunarray.plot.xrf import light_curve

        figure = light_curve(xrf.flag_frames(frames.chunk(time=4)), path=tmp_path / "l.png")
        assert len(figure.axes) == 2
        # Between passes the axis is broken: what is drawn is most of it.
        later = frames.assign_coords(time=frames["time"] + np.timedelta64(3, "D"))
        figure = light_curve(xrf.flag_frames(xr.concat([frames, later], "time")))
        assert len(figure.axes) == 4
        for axes, part in zip(figure.axes[:2], (frames, later), strict=True):
            drawn = np.concatenate([np.asarray(line.get_xdata()) for line in axes.lines[:-1]])
            assert drawn.size == part.sizes["time"]
            left, right = axes.get_xlim()
            length = np.ptp(part["time"].values) / np.timedelta64(1, "s")
            assert (right - left) * 86400 < 1.5 * length
        with pytest.raises(InputError, match="flags"):
            light_curve(frames)

    @pytest.mark.parametrize("projection", ["orthographic", "equirectangular"])
    def test_footprints(self, result, projection, tmp_path: Path) -> None:
        from lunarray.plot import footprints

        moon = xr.DataArray(
            np.random.default_rng(0).random((18, 36)),
            {"lat": 85.0 - 10 * np.arange(18), "lon": -175.0 + 10 * np.arange(36)},
            ("lat", "lon"),
        )
        figure = footprints(result, "Al", projection=projection, base=moon, path=tmp_path / "f.png")
        drawn = figure.axes[0].collections[0]
        assert len(drawn.get_paths()) == 12
        np.testing.assert_allclose(
            np.sort(drawn.get_array()), np.sort(result["abundance"].sel(element="Al").values)
        )
        # A base map comes with lunarray; lines, names and degrees tell where one is, and none hides another.
        for zoom in (False, True):
            figure = footprints(result, "Al", projection=projection, zoom=zoom)
            figure.draw_without_rendering()
            axes = figure.axes[0]
            assert np.isfinite(axes.get_images()[0].get_array()).any()
            words = [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]
            assert sum("°" in t.get_text() for t in words) >= 4
            boxes = [t.get_window_extent() for t in axes.texts]
            assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
        with pytest.raises(InputError):
            footprints(result, "Au")
        with pytest.raises(InputError):
            footprints(result, "Al", projection="mercator")


@pytest.mark.realdata
def test_the_real_chain(real_data: Path) -> None:
    """Frames of days with a solar model: some are fitted, the others say why."""
    frames = xrf.open_class(real_data / "class" / "l1" / "*2022*")
    folder = real_data / "class" / "response"
    response = xrf.read_response(folder / "class_rmf_v1.rmf", folder / "class_arf_v1.arf")
    background = xrf.read_background(
        real_data / "class" / "background" / "background_allevents.fits"
    )
    solar = xrf.open_solar_models(real_data / "xsm" / "model", per="bin")
    windows = xrf.coadd(xrf.flag_frames(frames), window=3, min_frames=1)
    fit = xrf.fit_elements(windows, solar, response, background).compute()
    fitted = (fit["quality"].values & FATAL) == 0
    assert fitted.sum() >= 5
    assert np.isfinite(fit["abundance"].values[fitted]).all()
    assert np.isnan(fit["abundance"].values[~fitted]).all()
    night = windows["incidence"].values >= 90
    assert not np.any(fitted & night)
    # Three frames of 2022-10-30 at 44° N, 161° E, highlands: Al and Si are those of highlands within their errors.
    row = fit.sel(time="2022-10-30T22:13:06", method="nearest")
    assert int(row["n_frames"]) == 3
    for element, expected in (("Al", 13.5), ("Si", 21.4)):
        own = row.sel(element=element)
        assert abs(float(own["abundance"]) - expected) < 2.5 * float(own["abundance_std"])


class TestSuns:
    def test_modes_are_what_another_temperature_gives(self) -> None:
        sun, hotter = thermal_spectrum(1.0), thermal_spectrum(1.001)
        modes = sun_modes(sun, temperature_error=0.001)["flux_mode"]
        change = hotter["photon_flux"] / sun["photon_flux"] - 1.0
        own = modes.sel(mode="temperature") / sun["photon_flux"]
        inside = {"energy": slice(1.0, 9.0)}
        np.testing.assert_allclose(own.sel(inside), change.sel(inside), rtol=0.01, atol=2e-5)
        modes = sun_modes(sun)["flux_mode"]
        np.testing.assert_allclose(
            modes.sel(mode="emission_measure"), 0.1 * sun["photon_flux"], rtol=1e-12
        )

    def test_modes_of_many_suns_are_those_of_each(self) -> None:
        suns = xr.concat([thermal_spectrum(t) for t in (0.5, 2.0)], "model")
        both = sun_modes(suns)
        assert both["flux_mode"].dims == ("mode", "model", "energy")
        one = sun_modes(thermal_spectrum(2.0))
        np.testing.assert_allclose(both["flux_mode"].isel(model=1), one["flux_mode"])
        np.testing.assert_allclose(both["slope_temperature"], [0.5, 2.0], rtol=1e-6)

    @pytest.mark.parametrize("share", [-0.2, 0.2])
    def test_a_mistaken_sun_keeps_the_class_of_the_flare(self, share: float) -> None:
        sun = thermal_spectrum(1.0, 1e-6)
        wrong = mistaken_sun(sun, share)
        edges = np.append(sun["energy_lo"], sun["energy_hi"][-1])
        assert goes_flux(edges, wrong["photon_flux"]) == pytest.approx(1e-6)
        assert float(sun_modes(wrong)["slope_temperature"]) == pytest.approx(1 + share)
        np.testing.assert_array_equal(wrong["photon_flux_true"], sun["photon_flux"])
        with pytest.raises(InputError, match="temperature"):
            mistaken_sun(sun, -1.0)

    def test_what_is_no_sun(self) -> None:
        with pytest.raises(InputError, match="photon_flux"):
            sun_modes(xr.Dataset())
        with pytest.raises(InputError, match="2-6 keV"):
            sun_modes(thermal_spectrum().sel(energy=slice(0, 1.5)))
