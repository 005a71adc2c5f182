"""Forward model: minerals, iron, glass, errors, scenes."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from lunarray import simulate
from lunarray.errors import InputError
from lunarray.geo import crs_code, crs_of
from lunarray.oxides.constants import MOLAR_MASS, OXIDES
from lunarray.simulate import instrument, kernels, minerals, priors, spectra
from lunarray.simulate.noise import hash_normal
from lunarray.sp.bands import WAVELENGTHS_150

NM = np.arange(520.0, 1571.0, 10.0)


def only(mineral: str) -> np.ndarray:
    return np.eye(5)[[minerals.MINERALS.index(mineral)]]


@pytest.fixture(scope="module")
def soils() -> xr.Dataset:
    return simulate.soils(3000, 7)


def test_oxides_of_pure_minerals_are_their_formulas():
    m = MOLAR_MASS
    anorthite = m["CaO"] + m["Al2O3"] + 2 * m["SiO2"]
    expected = {
        "plagioclase": {
            k: w / anorthite for k, w in {"CaO": m["CaO"], "Al2O3": m["Al2O3"], "SiO2": 2 * m["SiO2"]}.items()
        },
        "ilmenite": {"FeO": m["FeO"] / (m["FeO"] + m["TiO2"]), "TiO2": m["TiO2"] / (m["FeO"] + m["TiO2"])},
        "olivine": {"MgO": 2 * m["MgO"] / (2 * m["MgO"] + m["SiO2"]), "SiO2": m["SiO2"] / (2 * m["MgO"] + m["SiO2"])},
        # Diopside CaMgSi2O6 at Wo 50.
        "clinopyroxene": {
            k: w / (m["CaO"] + m["MgO"] + 2 * m["SiO2"])
            for k, w in {"CaO": m["CaO"], "MgO": m["MgO"], "SiO2": 2 * m["SiO2"]}.items()
        },
    }  # fmt: skip
    for mineral, shares in expected.items():
        got = kernels.oxide_abundances(
            only(mineral), anorthite=100, mg_number=100, wollastonite=50, plagioclase_feo=0
        )[0]
        np.testing.assert_allclose(got, [100 * shares.get(o, 0) for o in OXIDES], atol=1e-4)


def test_oxides_sum_to_hundred_less_soda():
    # Albite is 11.82 wt% Na2O.
    got = kernels.oxide_abundances(only("plagioclase"), anorthite=0, plagioclase_feo=0)
    assert got.sum() == pytest.approx(100 - 11.82, abs=0.01)
    mixed = kernels.oxide_abundances([[0, 0.3, 0.3, 0.2, 0.2]], mg_number=43)
    assert mixed.sum() == pytest.approx(100, abs=1e-3)


def test_mixing_oxides_is_linear_in_mass():
    a, b = only("olivine"), only("ilmenite")
    mixed = kernels.oxide_abundances(0.25 * a + 0.75 * b)
    np.testing.assert_allclose(
        mixed, 0.25 * kernels.oxide_abundances(a) + 0.75 * kernels.oxide_abundances(b), rtol=1e-5
    )


def test_mafic_feo_agrees_with_the_oxides():
    opx, cpx, olivine = kernels.mafic_feo(np.array([60.0]), np.array([35.0]))
    for mineral, feo in (("orthopyroxene", opx), ("clinopyroxene", cpx), ("olivine", olivine)):
        got = kernels.oxide_abundances(only(mineral), mg_number=60, wollastonite=35)[0, 0]
        assert got == pytest.approx(feo[0], rel=1e-5)


def test_slab_limits():
    size = np.array([20.0])
    clear = kernels.slab_albedo(np.zeros((1, 3)), 1.6, size)
    np.testing.assert_allclose(clear, 1.0, atol=1e-6)
    black = kernels.slab_albedo(np.full((1, 3), 1e6), 1.6, size)
    np.testing.assert_allclose(black, (0.6 / 2.6) ** 2 + 0.05, rtol=1e-6)
    half = kernels.slab_albedo(np.full((1, 3), 20.0), 1.6, size)
    assert (half > black).all()
    assert (half < clear).all()


def test_slab_equals_its_closed_form():
    n, alpha, size = 1.7, 13.0, 30.0
    path = 2 / 3 * (n**2 - (n**2 - 1) ** 1.5 / n) * size / 1000
    external, internal = ((n - 1) / (n + 1)) ** 2 + 0.05, 1 - 4 / (n * (n + 1) ** 2)
    theta = np.exp(-alpha * path)
    expected = external + (1 - external) * (1 - internal) * theta / (1 - internal * theta)
    got = kernels.slab_albedo(np.array([[alpha]]), n, np.array([size]))
    assert got[0, 0] == pytest.approx(expected, rel=1e-6)


def test_reflectance_limits():
    # A surface that absorbs nothing: near a Lambertian one of albedo 1, a little above it this close to opposition.
    bright = kernels.albedo_to_reflectance(np.array([1.0]))
    assert 0.97 < bright[0] < 1.06
    dark = kernels.albedo_to_reflectance(np.array([1e-4]))
    # Single scattering only: w/4 (1 + B) p / (mu0 + mu), the H functions being 1.
    mu0, g = np.cos(np.pi / 6), np.pi / 6
    phase = 1 - 0.4 * np.cos(g) + 0.25 * (1.5 * np.cos(g) ** 2 - 0.5)
    opposition = 1 / (1 + np.tan(g / 2) / (-3 / 8 * np.log(0.59)))
    assert dark[0] == pytest.approx(1e-4 / 4 / (mu0 + 1) * (1 + opposition) * phase, rel=2e-3)
    w = np.linspace(0.01, 1, 200)
    assert (np.diff(kernels.albedo_to_reflectance(w)) > 0).all()


@pytest.mark.parametrize("w", [0.3, 0.6, 0.9, 1.0])
def test_h_functions_are_chandrasekhars(w):
    # The reflectance holds H(cos 30°) H(1). Chandrasekhar's integral equation, solved by iteration, is the other way.
    mu0 = np.cos(np.pi / 6)
    single = (1 + 1 / (1 + np.tan(np.pi / 12) / minerals.OPPOSITION_H)) * (
        1 - 0.4 * mu0 + 0.25 * (1.5 * mu0**2 - 0.5)
    ) - 1
    product = kernels.albedo_to_reflectance(np.array([w]))[0] * 4 * (mu0 + 1) / w - single
    mu, weight = np.polynomial.legendre.leggauss(64)
    mu, weight = (mu + 1) / 2, weight / 2

    def step(h: np.ndarray, at: np.ndarray) -> np.ndarray:
        # 1/H = sqrt(1 - w) + w/2 int H(x) x / (x + mu) dx (Chandrasekhar 1960, chapter V).
        return 1 / (np.sqrt(1 - w) + w / 2 * (weight * h * mu / (mu + at[:, None])).sum(axis=1))

    h = np.ones(64)
    for _ in range(3000):
        h = (h + step(h, mu)) / 2
    exact = step(h, np.array([mu0, 1.0]))
    if w == 1:
        assert exact[1] == pytest.approx(2.9078, abs=2e-3)
    assert product == pytest.approx(exact.prod(), rel=0.02)


def test_pure_endmember_is_its_own_albedo():
    kwargs = {"glass": 0.0, "smfe": 0.0, "grain_size": 40.0}
    got = kernels.mix_reflectance(only("olivine"), NM, mg_number=80, **kwargs)[0]
    feo = kernels.mafic_feo(np.array([80.0]), np.array([30.0]))[2][0]
    alpha = minerals.OLIVINE.background + minerals.OLIVINE.edge * feo * np.exp(
        -(NM - 500) / minerals.EDGE_LENGTH
    )
    for band in minerals.OLIVINE.bands:
        alpha = alpha + band.strength * feo * np.exp(
            -0.5 * ((NM - band.centre - 0.2 * band.shift_fe) / band.sigma) ** 2
        )
    albedo = kernels.slab_albedo(alpha[None], minerals.OLIVINE.refractive_index, np.array([40.0]))
    np.testing.assert_allclose(got, kernels.albedo_to_reflectance(albedo)[0], rtol=1e-5)


def test_iron_absorption_closed_form():
    # At 821 nm in glass of n = 1.64, with Johnson & Christy's n = 2.94, k = 3.39.
    n, k, h = 2.94, 3.39, 1.64
    z = h**3 * n * k / ((n**2 - k**2 + 2 * h**2) ** 2 + (2 * n * k) ** 2)
    assert kernels.iron_absorption(np.array([821.0]), h)[0] == pytest.approx(
        36 * np.pi * z / 0.821e-3
    )


@pytest.mark.parametrize("feldspar", [0.9, 0.4])
def test_iron_darkens_and_reddens(feldspar):
    iron = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8])
    modes = np.tile([feldspar, 1 - feldspar, 0, 0, 0], (6, 1))
    got = kernels.mix_reflectance(modes, NM, smfe=iron)
    assert (np.diff(got, axis=0) < 0).all()
    reddening = got[:, -1] / got[:, 20]
    assert (np.diff(reddening) > 0).all()


def test_opaque_iron_darkens_without_reddening():
    modes = np.tile([0.8, 0.2, 0, 0, 0], (2, 1))
    plain, covered = kernels.mix_reflectance(modes, NM, smfe=0.1, opaque_iron=np.array([0.0, 0.4]))
    assert (covered < plain).all()
    assert covered[-1] / covered[20] < plain[-1] / plain[20] * 1.25


def band_centre(spectrum: np.ndarray, low: float, high: float) -> float:
    inside = (low <= NM) & (high >= NM)
    x, y = NM[inside], spectrum[inside]
    continuum = np.interp(x, x[[0, -1]], y[[0, -1]])
    return float(x[(y / continuum).argmin()])


def test_band_centres_are_the_published_ones():
    # Klima et al. 2007: enstatite-rich orthopyroxene 0.90-0.92 µm; Klima et al. 2011: augite 0.98-1.03 µm;
    # Sunshine & Pieters 1998: olivine near 1.05 µm; Cheek & Pieters 2014: plagioclase near 1.25 µm.
    fresh = {"glass": 0.0, "smfe": 0.0}
    opx = kernels.mix_reflectance(only("orthopyroxene"), NM, mg_number=80, **fresh)[0]
    assert 895 <= band_centre(opx, 700, 1150) <= 925
    augite = kernels.mix_reflectance(
        only("clinopyroxene"), NM, mg_number=60, wollastonite=38, **fresh
    )[0]
    assert 980 <= band_centre(augite, 740, 1300) <= 1030
    olivine = kernels.mix_reflectance(only("olivine"), NM, mg_number=85, **fresh)[0]
    assert 1030 <= band_centre(olivine, 650, 1550) <= 1090
    plagioclase = kernels.mix_reflectance(only("plagioclase"), NM, **fresh)[0]
    assert 1220 <= band_centre(plagioclase, 900, 1560) <= 1280


def test_orthopyroxene_band_moves_with_iron():
    centres = [
        band_centre(
            kernels.mix_reflectance(only("orthopyroxene"), NM, mg_number=mg, glass=0, smfe=0)[0],
            700,
            1150,
        )
        for mg in (95, 65, 35)
    ]
    assert centres[0] < centres[2]


def test_ilmenite_is_dark_and_flat():
    got = kernels.mix_reflectance(only("ilmenite"), NM, glass=0.0, smfe=0.0)[0]
    assert got.max() < 0.1
    assert got.max() / got.min() < 1.3


def test_batches_do_not_matter(soils):
    names = (
        "anorthite",
        "mg_number",
        "wollastonite",
        "plagioclase_feo",
        "glass",
        "smfe",
        "opaque_iron",
        "grain_size",
    )
    many = kernels.mix_reflectance(soils.modes.values, NM, **{n: soils[n].values for n in names})
    for i in (0, 511, 512, 2999):
        one = kernels.mix_reflectance(
            soils.modes.values[[i]], NM, **{n: soils[n].values[[i]] for n in names}
        )
        np.testing.assert_array_equal(one[0], many[i])


@pytest.mark.parametrize(
    ("kwargs", "where"),
    [
        ({"modes": np.ones((3, 4))}, "modes"),
        ({"modes": -np.ones((1, 5))}, "modes"),
        ({"glass": 1.2}, "glass"),
        ({"opaque_iron": -0.1}, "opaque_iron"),
        ({"smfe": np.ones(3)}, "smfe"),
    ],
)
def test_bad_parameters_are_named(kwargs, where):
    arguments = {"modes": np.ones((2, 5)), **kwargs}
    with pytest.raises(InputError) as caught:
        kernels.mix_reflectance(arguments.pop("modes"), NM, **arguments)
    assert caught.value.where == where


# ------------------------------------------------------------------------------------------- soils
def test_soils_are_deterministic_and_physical(soils):
    again = simulate.soils(3000, 7)
    xr.testing.assert_identical(soils, again)
    assert not np.array_equal(soils.FeO.values, simulate.soils(3000, 8).FeO.values)
    values = soils.reflectance.values
    assert values.dtype == np.float32
    assert values.shape == (3000, 150)
    assert (values > 0).all()
    assert (values < 1).all()
    np.testing.assert_allclose(soils.modes.sum("mineral"), 1, rtol=1e-5)
    total = sum(soils[o] for o in OXIDES)
    assert float(total.min()) > 98
    assert float(total.max()) <= 100.001


def test_soils_cover_the_moon(soils):
    # Mean soils of Lunar Sourcebook table 7.15 and Chang'E-5 (Li et al. 2022): FeO TiO2 Al2O3 CaO MgO SiO2.
    sites = np.array(
        [
            (15.3, 7.8, 13.6, 11.9, 7.8, 42.2),  # Apollo 11
            (15.1, 3.0, 12.9, 10.7, 9.3, 46.3),  # 12
            (10.4, 1.7, 17.4, 10.7, 9.4, 48.1),  # 14
            (14.3, 1.4, 14.6, 10.8, 11.5, 46.8),  # 15
            (5.1, 0.54, 27.3, 15.7, 5.7, 45.0),  # 16
            (12.2, 4.2, 17.1, 11.1, 10.4, 43.2),  # 17
            (16.7, 3.4, 15.3, 12.5, 8.8, 41.7),  # Luna 16
            (7.0, 0.55, 22.3, 15.1, 9.8, 45.1),  # 20
            (19.8, 1.3, 12.5, 12.3, 9.4, 43.9),  # 24
            (22.5, 5.0, 10.8, 11.0, 6.5, 42.2),  # Chang'E-5
        ]
    )
    drawn = np.stack([soils[o].values for o in OXIDES], axis=1)
    sites = sites / sites.sum(axis=1, keepdims=True) * drawn.sum(axis=1).mean()
    nearest = [np.abs((drawn - s) / drawn.std(axis=0)).max(axis=1).min() for s in sites]
    assert max(nearest) < 0.6
    assert np.corrcoef(drawn[:, 0], drawn[:, 2])[0, 1] < -0.85
    assert np.quantile(drawn[:, 0], 0.01) < 2
    assert np.quantile(drawn[:, 0], 0.99) > 19


def test_mature_soil_is_darker_and_redder():
    drawn = priors.draw_soils(1, np.random.default_rng(0))
    names = ("anorthite", "mg_number", "wollastonite", "plagioclase_feo")
    kwargs = {k: np.repeat(drawn[k], 2) for k in names}
    modes = np.tile([0.76, 0.12, 0.05, 0.06, 0.01], (2, 1))
    fresh, mature = kernels.mix_reflectance(
        modes,
        NM,
        glass=np.array([0.2, 0.55]),
        smfe=np.array([0.02, 0.12]),
        opaque_iron=np.array([0.05, 0.2]),
        **kwargs,
    )
    assert (mature < fresh).all()
    assert mature[-1] / mature[20] > fresh[-1] / fresh[20]


def test_channel_sampling_keeps_smooth_spectra(soils):
    names = (
        "anorthite",
        "mg_number",
        "wollastonite",
        "plagioclase_feo",
        "glass",
        "smfe",
        "opaque_iron",
        "grain_size",
    )
    centres = kernels.mix_reflectance(
        soils.modes.values, WAVELENGTHS_150, **{n: soils[n].values for n in names}
    )
    # 6-8 nm channels on bands of more than 150 nm.
    np.testing.assert_allclose(soils.reflectance.values, centres, atol=1e-3)


def test_channel_weights():
    fine = np.arange(500.0, 1600.0, 2.5)
    first, weights = instrument.band_weights(WAVELENGTHS_150, fine)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    points = fine[first[:, None] + np.arange(weights.shape[1])]
    mean = (points * weights).sum(axis=1)
    np.testing.assert_allclose(mean, WAVELENGTHS_150, atol=0.25)
    fwhm = 2.3548 * np.sqrt((weights * (points - mean[:, None]) ** 2).sum(axis=1))
    vis = WAVELENGTHS_150 < 950
    assert fwhm[vis] == pytest.approx(6.0, rel=0.05)
    assert fwhm[~vis] == pytest.approx(8.0, rel=0.05)


def test_soils_input_errors():
    with pytest.raises(InputError, match="n"):
        simulate.soils(0, 1)
    with pytest.raises(InputError, match="410-1800"):
        simulate.soils(2, 1, wavelengths=[300.0, 700.0])


# ------------------------------------------------------------------------------------------ errors
def test_no_errors_is_the_scale_alone(soils):
    nothing = dict.fromkeys(spectra.SP_ERRORS, 0.0)
    laboratory = simulate.add_sp_errors(soils.reflectance, 1, scale=0.0, smooth=False, **nothing)
    np.testing.assert_allclose(laboratory, soils.reflectance, rtol=1e-6)
    sp = simulate.add_sp_errors(soils.reflectance, 1, smooth=False, **nothing)
    np.testing.assert_allclose(
        sp / soils.reflectance,
        np.broadcast_to(instrument.sp_scale(WAVELENGTHS_150), sp.shape),
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", ["gain", "pattern"])
def test_size_of_single_errors(soils, name):
    others = dict.fromkeys(spectra.SP_ERRORS, 0.0)
    got = simulate.add_sp_errors(
        soils.reflectance, 1, scale=0.0, smooth=False, **{**others, name: 0.05}
    )
    error = np.log(got.values / soils.reflectance.values)
    assert error.std() == pytest.approx(0.05, rel=0.05)
    if name == "gain":
        assert np.ptp(error, axis=1).max() < 1e-4
    else:
        assert abs(np.corrcoef(error[:, 40], error[:, 41])[0, 1]) < 0.1


def test_step_is_at_the_join_only(soils):
    others = dict.fromkeys(spectra.SP_ERRORS, 0.0)
    got = simulate.add_sp_errors(
        soils.reflectance, 1, scale=0.0, smooth=False, **{**others, "step": 0.02}
    )
    error = np.log(got.values / soils.reflectance.values)
    jumps = np.abs(np.diff(error, axis=1)).mean(axis=0)
    join = np.flatnonzero(WAVELENGTHS_150 > 950)[0] - 1
    assert jumps.argmax() == join
    assert jumps[join] == pytest.approx(0.02 * np.sqrt(2 / np.pi), rel=0.1)


def test_errors_are_deterministic(soils):
    part = soils.reflectance[:20]
    xr.testing.assert_identical(simulate.add_sp_errors(part, 3), simulate.add_sp_errors(part, 3))
    assert not simulate.add_sp_errors(part, 3).equals(simulate.add_sp_errors(part, 4))
    common = (
        simulate.add_sp_errors(part, 3, common_pattern=True, smooth=False, gain=0.0, noise=0.0)
        / part
    )
    np.testing.assert_allclose(common, np.broadcast_to(common[:1], common.shape), rtol=1e-5)


def test_smoothing_is_that_of_conditioned_data(soils):
    import inspect

    from lunarray.sp import smooth

    defaults = inspect.signature(smooth).parameters
    assert (defaults["window"].default, defaults["order"].default) == spectra.SMOOTHING
    raw = simulate.add_sp_errors(soils.reflectance[:5], 2, smooth=False)
    expected = smooth(raw.rename(sample="observation"))
    got = simulate.add_sp_errors(soils.reflectance[:5], 2)
    np.testing.assert_allclose(got.values, expected.values, atol=1e-6)


def test_error_input_errors(soils):
    with pytest.raises(InputError, match="unknown"):
        simulate.add_sp_errors(soils.reflectance, 1, gian=0.1)
    with pytest.raises(InputError, match="dims"):
        simulate.add_sp_errors(soils.reflectance.T, 1)


# ------------------------------------------------------------------------------------------- scene
@pytest.fixture(scope="module")
def scene() -> xr.Dataset:
    return simulate.polar_scene("south", resolution=6000, latitude=80, seed=3, chunks=None)


def test_scene_is_lazy_and_chunks_do_not_matter(scene, no_compute):
    import dask

    lazy = simulate.polar_scene("south", resolution=6000, latitude=80, seed=3, chunks=23)
    assert lazy.reflectance.chunks is not None
    again = simulate.polar_scene("south", resolution=6000, latitude=80, seed=3, chunks=23)
    assert lazy.reflectance.data.name == again.reflectance.data.name
    other = simulate.polar_scene("south", resolution=6000, latitude=80, seed=4, chunks=23)
    assert lazy.reflectance.data.name != other.reflectance.data.name
    with dask.config.set(scheduler="sync"):
        computed = lazy.compute()
    for name in scene.data_vars:
        np.testing.assert_array_equal(computed[name].values, scene[name].values)


def test_scene_has_what_a_polar_scene_has(scene):
    reflectance = scene.reflectance.values
    seen = np.isfinite(reflectance).all(axis=0)
    # A pixel is observed in all bands or in none.
    np.testing.assert_array_equal(seen, np.isfinite(reflectance).any(axis=0))
    assert 0.02 < 1 - seen.mean() < 0.4
    assert (reflectance[:, seen] > 0).all()
    assert (reflectance[:, seen] < 0.6).all()
    truth = np.stack([scene[f"{o}_true"].values for o in OXIDES])
    assert np.isfinite(truth).all()
    assert truth.sum(axis=0) == pytest.approx(99.6, abs=0.5)
    # A mare among highlands.
    assert scene.FeO_true.max() > 14
    assert np.median(scene.FeO_true) < 9
    assert crs_code(crs_of(scene)) == "IAU_2015:30135"


def test_scene_noise_is_normal_and_apart():
    noise = hash_normal(5, np.arange(4000, dtype=np.uint64), 150)
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.06
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.06
    assert (np.abs(noise) > 3).mean() == pytest.approx(0.0027, abs=0.0006)


def test_scene_input_errors():
    with pytest.raises(InputError, match="chunks"):
        simulate.polar_scene(chunks=0)
    with pytest.raises(InputError, match="wavelengths"):
        simulate.polar_scene(wavelengths=[900.0, 800.0])


@pytest.mark.realdata
def test_forward_model_gives_soil_62231(real_data):
    measured = np.loadtxt(real_data / "spectra" / "62231_avg_scaled_std_text.txt", skiprows=1)
    target = np.interp(NM, measured[:, 0], measured[:, 1])
    # Modes whose oxides are 62231's within 0.9 wt%; iron and glass as in lunarray.simulate.priors.
    modes = [[0.765, 0.115, 0.05, 0.06, 0.011]]
    oxides = kernels.oxide_abundances(modes, mg_number=66, anorthite=96)[0]
    np.testing.assert_allclose(oxides, [5.4, 0.6, 26.8, 15.6, 5.7, 45.1], atol=0.9)
    got = kernels.mix_reflectance(
        modes,
        NM,
        mg_number=66,
        anorthite=96,
        glass=0.48,
        smfe=0.116,
        opaque_iron=0.20,
        grain_size=priors.GRAIN_SIZE,
    )[0]
    assert np.sqrt(np.mean(np.log(got / target) ** 2)) < 0.01


def test_simulated_soils_hold_as_much_calcium_and_magnesium_as_real_ones():
    """Mean soils of landing sites (Lunar Sourcebook, table 7.15: 11, 12, 16 and 17) at equal FeO, TiO2 and Al2O3."""
    from scipy.spatial import cKDTree

    drawn = simulate.soils(6000, 5)
    known = np.stack([drawn[oxide].values for oxide in OXIDES], axis=1)
    sites = np.array(
        [
            (15.8, 7.5, 13.8, 12.1, 7.9, 42.2),
            (15.4, 2.7, 13.7, 10.5, 9.7, 46.3),
            (5.1, 0.54, 27.3, 15.7, 5.7, 45.0),
            (16.6, 8.0, 12.1, 11.1, 9.8, 40.9),
        ]
    )
    near = cKDTree(known[:, :3]).query(sites[:, :3], k=20)[1]
    off = (known[near].mean(axis=1) - sites)[:, 3:]
    assert (np.abs(off[:, :2]) < (1.2, 1.8)).all(), off
    assert (np.abs(off[:, :2].mean(axis=0)) < (0.6, 0.9)).all(), off
