"""Standard deviations and intervals of inverted oxides: what they are made of, and whether they hold the truth."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import torch
import xarray as xr

import lunarray as la
from lunarray import errors, oxides
from lunarray.oxides import OXIDES, TrainSettings, train
from lunarray.oxides.uncertainty import (
    LightCalibration,
    calibrate,
    coverage,
    quantile,
    scale,
)
from lunarray.oxides.weights import load_calibration, load_networks, read_header

NM = np.linspace(520.0, 1560.0, 24)
SUFFIXES = ("std", "lower", "upper")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- Calibration -------------------------------------------------------------------------------------


def test_normal_errors_of_one_size(rng):
    truth = rng.uniform(5, 15, (4000, 2))
    sigma = np.array([0.5, 2.0])
    found = calibrate(truth + sigma * rng.normal(size=truth.shape), truth)
    s = scale(truth.T[:, :50], None, found)
    np.testing.assert_allclose(s, np.broadcast_to(sigma[:, None], s.shape), rtol=0.2)
    np.testing.assert_allclose(quantile(found, 0.9), 1.645, rtol=0.05)
    np.testing.assert_allclose(quantile(found, 0.6827), 1.0, rtol=0.06)
    np.testing.assert_array_equal(found.share, 0)


def test_quantile_is_the_split_conformal_one(rng):
    """The ceil((N + 1) level)-th score, by counting."""
    truth = rng.uniform(5, 15, (19, 1))
    predicted = truth + rng.normal(size=truth.shape)
    found = calibrate(predicted, truth)
    scores = np.sort(np.abs(predicted - truth)[:, 0] / scale(predicted.T, None, found)[0])
    for level, rank in ((0.5, 10), (0.9, 18), (0.95, 19), (0.01, 1)):
        np.testing.assert_allclose(quantile(found, level), scores[rank - 1], rtol=1e-5)
    with pytest.raises(errors.InputError, match="24 calibration samples and the model has 19"):
        quantile(found, 0.96)


def test_coverage_holds_on_average_over_small_calibrations(rng):
    held = []
    for _ in range(300):
        truth = rng.uniform(0, 1, (60, 1))
        predicted = truth + rng.standard_t(3, truth.shape)
        found = calibrate(predicted[:30], truth[:30])
        half = quantile(found, 0.8) * scale(predicted[30:].T, None, found)
        held.append(np.mean(np.abs(predicted - truth)[30:, 0] <= half[0]))
    assert np.mean(held) == pytest.approx(0.8, abs=0.03)  # at least; and no more than 1 / 31 above


def test_scale_follows_the_predicted_abundance(rng):
    truth = rng.uniform(0, 20, (2000, 1))
    found = calibrate(truth + (0.2 + 0.1 * truth) * rng.normal(size=truth.shape), truth)
    s = scale(np.array([[2.0, 18.0, -5.0, 40.0, np.nan]]), None, found)[0]
    assert s[0] == pytest.approx(0.4, rel=0.3)
    assert s[1] == pytest.approx(2.0, rel=0.2)
    assert s[2] <= s[0]  # constant beyond the calibration's range
    assert s[3] == pytest.approx(s[1], rel=0.2)
    assert np.isnan(s[4])


def test_scale_follows_the_spread_where_that_tells_something(rng):
    truth = rng.uniform(5, 15, (3000, 2))
    spread = rng.uniform(0.1, 2.0, truth.shape)
    error = rng.normal(size=truth.shape) * np.stack([spread[:, 0], np.ones(3000)], axis=1)
    found = calibrate(truth + error, truth, spread)
    assert found.share[0] >= 10
    assert found.share[1] <= 0.1
    s = scale(np.full((2, 2), 10.0), np.array([[0.2, 1.8], [0.2, 1.8]]), found)
    assert s[0, 1] > 4 * s[0, 0]
    assert s[1, 1] < 1.2 * s[1, 0]


def test_thinned_scores_do_not_narrow_intervals(rng):
    truth = rng.uniform(5, 15, (20_001, 1))
    predicted = truth + rng.normal(size=truth.shape)
    found = calibrate(predicted, truth)
    assert found.scores.shape == (1, 2000)
    scores = np.sort(np.abs(predicted - truth)[:, 0] / scale(predicted.T, None, found)[0])
    for level in (0.1, 0.5, 0.9, 0.99, 0.9999):
        exact = scores[int(np.ceil(20_002 * level)) - 1]
        assert quantile(found, level)[0] >= exact * (1 - 1e-5)
        assert np.mean(scores <= quantile(found, level)[0] * (1 + 1e-6)) < level + 2e-3


def test_what_the_reference_is_off_by_is_taken_off(rng):
    """Differences of 1.3 wt% are errors of 1.2 where the reference's are 0.5; half of the variance at least stays."""
    truth = rng.uniform(5, 15, (8000, 2))
    predicted = truth + 1.2 * rng.normal(size=truth.shape)
    measured = truth + 0.5 * rng.normal(size=truth.shape)
    plain = calibrate(predicted, measured)
    own = calibrate(predicted, measured, measured_std=np.full(truth.shape, 0.5))
    new = rng.uniform(5, 15, (8000, 2))
    off = np.abs(1.2 * rng.normal(size=new.shape))
    for found, sigma, held in ((plain, 1.3, 0.925), (own, 1.2, 0.9)):
        s = scale(new.T, None, found).T
        np.testing.assert_allclose(s.mean(), sigma, rtol=0.03)
        assert np.mean(off <= quantile(found, 0.9) * s) == pytest.approx(held, abs=0.015)
    too_much = calibrate(predicted, measured, measured_std=np.full(truth.shape, 9.0))
    np.testing.assert_allclose(too_much.scales, plain.scales / np.sqrt(2), rtol=1e-6)
    nothing = calibrate(predicted, measured, measured_std=np.zeros(truth.shape))
    np.testing.assert_array_equal(nothing.scales, plain.scales)
    for wrong in (np.full(truth.shape, -1.0), np.full(truth.shape, np.nan), np.ones((3, 2))):
        with pytest.raises(errors.InputError):
            calibrate(predicted, measured, measured_std=wrong)


def test_samples_tell_what_the_reference_is_off_by():
    samples = soils(60, 3)
    options = {"settings": TrainSettings(n=2, epochs=10, members=0), "folds": 4}
    usual = train(samples, **options)
    told = train(samples.assign(FeO_std=("sample", np.full(60, 0.5, np.float32))), **options)
    narrower = told.calibration.scales**2 - usual.calibration.scales**2
    np.testing.assert_allclose(
        narrower[0], -np.minimum(0.25, usual.calibration.scales[0] ** 2 / 2), rtol=1e-4
    )
    np.testing.assert_array_equal(narrower[1:], 0)


def test_calibration_of_missing_constant_or_perfect(rng):
    truth = rng.uniform(5, 15, (20, 1))
    predicted = truth + rng.normal(size=truth.shape)
    gaps = np.concatenate([predicted, [[np.nan], [3.0]]])
    found = calibrate(gaps, np.concatenate([truth, [[3.0], [np.nan]]]))
    for name, value in calibrate(predicted, truth).tensors().items():
        np.testing.assert_array_equal(found.tensors()[name], value)
    perfect = calibrate(truth, truth)
    np.testing.assert_array_equal(quantile(perfect, 0.9), 0)
    assert (scale(truth.T, None, perfect) < 1e-5).all()
    for f, y in ((truth[:1], truth[:1]), (truth, truth[:5]), (truth[:, 0], truth[:, 0])):
        with pytest.raises(errors.InputError, match="calibrate"):
            calibrate(f, y)
    for level in (0, 1, -0.1, 90, np.nan):
        with pytest.raises(errors.InputError, match="between 0 and 1"):
            quantile(found, level)


def test_coverage_counts_finite_triples():
    lower, upper = np.zeros(5), np.array([1, 1, 1, np.nan, 1])
    assert coverage(lower, upper, np.array([0.5, 1.0, 2.0, 0.5, np.nan])) == pytest.approx(2 / 3)
    assert np.isnan(coverage(lower, upper, np.full(5, np.nan)))


# --- In invert_oxides --------------------------------------------------------------------------------


def soils(count, seed, noise=0.01) -> xr.Dataset:
    drawn = la.simulate.soils(count, seed, wavelengths=NM)
    rng = np.random.default_rng(seed + 1)
    spectra = drawn.reflectance * rng.normal(1, noise, drawn.reflectance.shape).astype(np.float32)
    ds = xr.Dataset({"reflectance": spectra, **{o: drawn[o] for o in OXIDES}})
    return ds.assign_coords(
        lon=("sample", rng.uniform(-180, 180, count)), lat=("sample", rng.uniform(51, 64, count))
    )


@pytest.fixture(scope="module")
def fit():
    return train(
        soils(160, 2), TrainSettings(n=4, epochs=80, learning_rate=3e-3, members=4), folds=8
    )


@pytest.fixture(scope="module")
def path(fit, tmp_path_factory):
    return fit.save(tmp_path_factory.mktemp("fit") / "fit.safetensors")


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_hold_truth_that_training_never_saw(path, level):
    unseen = soils(1500, 7)
    maps = oxides.invert_oxides(unseen.reflectance, path, uncertainty=True, level=level)
    held = [coverage(maps[f"{o}_lower"], maps[f"{o}_upper"], unseen[o]) for o in OXIDES]
    # The final model is not that of any fold: exact validity is that of the folds.
    assert np.mean(held) == pytest.approx(level, abs=0.08)
    assert min(held) > level - 0.12
    for oxide in OXIDES:
        rms = float(np.sqrt(((maps[oxide] - unseen[oxide]) ** 2).mean()))
        assert float(np.sqrt((maps[f"{oxide}_std"] ** 2).mean())) == pytest.approx(rms, rel=0.5)
    # Where the model is less sure it is further off.
    off = np.abs(maps.FeO - unseen.FeO).values
    unsure = maps.FeO_std.values > np.median(maps.FeO_std.values)
    assert off[unsure].mean() > 1.2 * off[~unsure].mean()


def test_intervals_are_their_definition(path):
    unseen = soils(30, 9)
    unseen.reflectance[4, 3] = np.nan
    maps = oxides.invert_oxides(unseen.reflectance, path, uncertainty=True, level=0.8)
    plain = oxides.invert_oxides(unseen.reflectance, path)
    for name in plain.data_vars:
        np.testing.assert_array_equal(maps[name], plain[name])
    assert set(maps) - set(plain) == {f"{o}_{s}" for o in OXIDES for s in SUFFIXES}
    from lunarray.oxides.predictor import load_ensemble
    from lunarray.oxides.weights import networks_of, read_weights

    header, tensors = read_weights(path)
    x = torch.from_numpy(np.delete(unseen.reflectance.values, 4, axis=0))
    each = [networks_of(header, tensors, path, m)[0](x).numpy() for m in range(header["members"])]
    spread = np.std(each, axis=0, ddof=1)
    np.testing.assert_allclose(load_ensemble(path, "cpu")(x.numpy())[:, 7:], spread, atol=1e-3)
    calibration = load_calibration(path)
    values = np.stack([np.delete(plain[o].values, 4) for o in OXIDES])
    sigma = scale(values, spread.T, calibration)
    half = quantile(calibration, 0.8)[:, None] * sigma
    for i, oxide in enumerate(OXIDES):
        assert np.isnan(maps[f"{oxide}_std"][4])
        for suffix, expected in zip(SUFFIXES, (sigma, values - half, values + half), strict=True):
            got = maps[f"{oxide}_{suffix}"]
            assert got.dtype == np.float32
            assert got.attrs["units"] == "percent"
            np.testing.assert_allclose(np.delete(got.values, 4), expected[i], rtol=1e-3, atol=1e-3)
    assert "80 %" in maps.FeO_lower.attrs["long_name"]


def test_chunked_is_whole_and_lazy(path, no_compute):
    spectra = soils(60, 11).reflectance.values.T.reshape(24, 6, 10)
    cube = xr.DataArray(spectra, {"wavelength": NM}, ("wavelength", "y", "x"), "reflectance")
    lazy = cube.chunk(y=4, x=3, wavelength=7).lunar.invert_oxides(path, uncertainty=True)
    assert all(dask.is_dask_collection(v.data) for v in lazy.data_vars.values())
    whole = cube.lunar.invert_oxides(path, uncertainty=True)
    with dask.config.set(scheduler="threads"):
        xr.testing.assert_equal(lazy.compute(), whole)
    assert whole.FeO_std.dims == ("y", "x")


def test_the_calibration_is_stored(fit, path):
    stored = load_calibration(path)
    for name, value in fit.calibration.tensors().items():
        np.testing.assert_array_equal(stored.tensors()[name], value)
    assert int(stored.count[0]) == 160
    assert len(load_networks(path)) == 1


def test_single_pixels_are_what_is_calibrated_on():
    means, singles = (
        soils(40, 1, noise=0.0),
        soils(40, 1, noise=0.03).isel(sample=slice(None, None, -1)),
    )
    singles.reflectance[3, 2] = np.nan
    options = {"settings": TrainSettings(n=2, epochs=10, members=2), "folds": 4}
    usual = train(means, **options)
    noisy = train(means, pixels=singles.chunk(sample=9), **options)
    np.testing.assert_array_equal(usual.states[0]["head.weight"], noisy.states[0]["head.weight"])
    xr.testing.assert_equal(usual.left_out, noisy.left_out)
    assert int(noisy.calibration.count[0]) == 39
    # Matched by place, and predicted by the fold that had not seen the sample.
    np.testing.assert_array_equal(
        noisy.pixels.reflectance.values[::-1][:3], singles.reflectance.values[:3]
    )
    assert not np.allclose(noisy.pixels.FeO, noisy.left_out.FeO, equal_nan=True)
    same = train(means, pixels=means, **options)
    np.testing.assert_array_equal(same.pixels.FeO, same.left_out.FeO)
    for wrong, match in (
        (singles.drop_vars("lon"), "lon and lat"),
        (singles.isel(wavelength=slice(9)), "wavelengths"),
        (singles.assign_coords(lon=singles.lon + 1), "no pixel at the place"),
    ):
        with pytest.raises(errors.InputError, match=match):
            train(means, pixels=wrong, **options)


@pytest.mark.parametrize("joint", [True, False])
def test_without_an_ensemble_the_error_is_that_of_the_abundance(tmp_path, joint):
    fit = train(
        soils(12, 3), TrainSettings(n=2, epochs=4, joint=joint, members=0), folds="leave-one-out"
    )
    path = fit.save(tmp_path / "fit.safetensors")
    assert read_header(path)["members"] == 0
    maps = oxides.invert_oxides(soils(5, 4).reflectance, path, uncertainty=True)
    assert (maps.FeO_std > 0).all()
    np.testing.assert_array_equal(fit.calibration.share, 0)


def test_per_oxide_networks_have_an_ensemble_each(tmp_path):
    fit = train(soils(20, 3), TrainSettings(n=2, epochs=4, joint=False, members=3), folds=4)
    path = fit.save(tmp_path / "fit.safetensors")
    assert (read_header(path)["networks"], read_header(path)["members"]) == ([1] * 6, 3)
    maps = oxides.invert_oxides(soils(5, 4).reflectance, path, uncertainty=True)
    for oxide in OXIDES:
        assert (maps[f"{oxide}_lower"] < maps[oxide]).all()
        assert (maps[f"{oxide}_upper"] > maps[oxide]).all()


def test_training_on_two_oxides_comes_back(tmp_path):
    two = soils(24, 5).drop_vars([oxide for oxide in OXIDES if oxide not in ("TiO2", "CaO")])
    fit = train(two, TrainSettings(n=2, epochs=2, members=3), folds=4, progress=False)
    path = fit.save(tmp_path / "two.safetensors")
    maps = la.oxides.invert_oxides(two.reflectance.chunk(sample=9), path, uncertainty=True)
    assert [str(n) for n in maps.data_vars][:4] == ["TiO2", "CaO", "novelty", "quality"]
    assert not {"FeO", "Mg_number"} & set(maps.data_vars)
    assert load_calibration(path).centres.shape[0] == 2
    half = (maps.CaO_upper - maps.CaO_lower).compute() / 2
    width = quantile(load_calibration(path), 0.9)
    np.testing.assert_allclose(half, width[1] * maps.CaO_std.compute(), rtol=2e-3)
    whole = la.oxides.invert_oxides(two.reflectance, path, uncertainty=True)
    xr.testing.assert_equal(maps.compute(), whole)


def test_what_cannot_be_said_is_refused(path, tmp_path):
    spectra = soils(5, 4).reflectance
    plain = train(soils(10, 3), TrainSettings(n=2, epochs=1)).save(tmp_path / "plain.safetensors")
    assert read_header(plain)["format_version"] == 1
    assert load_calibration(plain) is None
    with pytest.raises(errors.ModelError, match=r"no calibration.*folds"):
        oxides.invert_oxides(spectra, plain, uncertainty=True)
    with pytest.raises(errors.InputError, match="level"):
        oxides.invert_oxides(spectra, path, uncertainty=True, level=1.5)
    with pytest.raises(errors.InputError, match="999 calibration samples"):
        oxides.invert_oxides(spectra, path, uncertainty=True, level=0.999)
    from lunarray.oxides.predictor import load_ensemble

    with pytest.raises(errors.ModelError, match="ensemble of 0"):
        load_ensemble(plain, "cpu")
    network = load_networks(path)[0]
    with pytest.raises(errors.ModelError, match="member 0"):
        oxides.save_oxide_cnn(
            tmp_path / "x",
            network,
            wavelengths=NM,
            oxides=OXIDES,
            members=[oxides.OxideCNN(2, 24, 3)],
        )


def test_the_default_model_knows_its_errors():
    """On simulated soils: its 90 % intervals hold 85 to 95 % of the truth."""
    drawn = la.simulate.soils(800, 77)
    spectra = la.simulate.add_sp_errors(drawn.reflectance, 78)
    maps = oxides.invert_oxides(spectra, uncertainty=True, light_uncertainty=0.0)
    for oxide in OXIDES:
        held = coverage(maps[f"{oxide}_lower"], maps[f"{oxide}_upper"], drawn[oxide])
        assert 0.85 < held < 0.95, (oxide, held)
    assert isinstance(load_calibration(), LightCalibration)
    assert LightCalibration(**load_calibration().tensors()).count[0] == 10_000
