"""Conditioning of SP spectra: kernels against slow references, steps on tracks and cubes, and the real orbits."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

from lunarray import sp
from lunarray.errors import BandMismatchError, InputError, ProductFormatError
from lunarray.sp import WAVELENGTHS_150, WAVELENGTHS_160, kernels

NATIVE = np.concatenate(
    [
        WAVELENGTHS_160[:73],
        [950.6 + 6.0 * i for i in range(11)],
        [883.5 + 8.0 * i for i in range(9)],
        WAVELENGTHS_160[73:],
        [1652.1, 1660.1, 1668.3, 1676.0],
        [1702.1 + 7.8 * i for i in range(112)],
    ]
).astype("f4")
DETECTOR = np.repeat(["VIS", "NIR1", "NIR2"], [84, 100, 112])


def truth(wavelength):
    """A lunar-like spectrum: red slope and a band at 950 nm."""
    w = np.asarray(wavelength, float)
    return (0.05 + 9e-5 * (w - 500)) * (1 - 0.08 * np.exp(-(((w - 950) / 110) ** 2)))


def native(rng, n=12, noise=0.0, step=1.01):
    spectra = truth(NATIVE) * rng.uniform(0.5, 1.5, (n, 1))
    spectra[:, 84:] *= step
    spectra *= 1 + noise * rng.standard_normal(spectra.shape)
    qa = np.full(spectra.shape, 288, "u2")
    qa[:, 74:93] = 16672
    return xr.Dataset(
        {
            "reflectance": (("observation", "wavelength"), spectra.astype("f4"), {"units": "1"}),
            "qa": (("observation", "wavelength"), qa),
        },
        {
            "wavelength": NATIVE,
            "detector": ("wavelength", DETECTOR),
            "incidence": ("observation", np.linspace(10, 85, n)),
            "emission": ("observation", np.zeros(n)),
            "phase": ("observation", np.linspace(10, 85, n)),
            "lat": ("observation", np.linspace(-90, 90, n)),
        },
        {"history": "made"},
    )


def joined(rng, shape=(7,), noise=0.003):
    data = truth(WAVELENGTHS_160) * rng.uniform(0.5, 1.5, (*shape, 1))
    return (data * (1 + noise * rng.standard_normal(data.shape))).astype("f4")


def with_gaps(rng, data, share=0.1):
    data = data.copy()
    data[rng.random(data.shape) < share] = np.nan
    data[0] = np.nan
    return data


# ---- slow references ----
def slow_despike(spectrum, wavelength, listed, half, width, threshold, floor):
    good = np.isfinite(spectrum) & ~listed
    if not good.any():
        return good
    y = np.interp(wavelength, wavelength[good], spectrum[good].astype(float))
    first, last = np.flatnonzero(good)[[0, -1]]
    median = np.full(y.size, np.nan)
    for i in range(first, last + 1):
        h = min(half, i - first, last - i)
        median[i] = np.median(y[i - h : i + h + 1])
    median[:first], median[last + 1 :] = np.nan, np.nan
    residual = np.full(y.size, np.nan)
    start, stop, weights = kernels.smoothing_weights(wavelength, width, 1)
    for i in np.flatnonzero(good):
        j = np.arange(max(start[i], first), min(stop[i], last + 1))
        w = weights[i, j - start[i]]
        residual[i] = spectrum[i] - (w * median[j]).sum() / w.sum()
    sigma = max(1.4826 * np.median(np.abs(residual[good])), floor * abs(np.median(spectrum[good])))
    spike = np.abs(residual) > threshold * sigma
    spike[[first, last]] = False
    return good & ~spike


def slow_smooth(spectrum, wavelength, window, order):
    out = np.full(spectrum.size, np.nan)
    for i in np.flatnonzero(np.isfinite(spectrum)):
        low = np.clip(wavelength[i] - window / 2, wavelength[0], wavelength[-1] - window)
        inside = (wavelength >= low - 1e-6) & (wavelength <= low + window + 1e-6)
        inside &= np.isfinite(spectrum)
        x = (wavelength[inside] - wavelength[i]) / window
        degree = min(order, x.size - 1)
        out[i] = np.polynomial.polynomial.polyfit(x, spectrum[inside].astype(float), degree)[0]
    return out


# ---- kernels ----
@pytest.mark.parametrize("compiled", [True, False])
def test_despike_kernel_equals_slow_reference(rng, compiled):
    data = joined(rng, (12,))
    data[:, 40] *= 1.1
    data[2, 100:102] *= 0.8
    data[1:] = with_gaps(rng, data[1:])
    data[3, :5] = np.nan
    wavelength = WAVELENGTHS_160.astype(float)
    listed = np.zeros(160, bool)
    listed[[0, 57]] = True
    kernel = kernels.despike_kernel if compiled else kernels.despike_kernel.py_func
    baseline = kernels.smoothing_weights(wavelength, 48.0, 1)
    got = kernel(data, wavelength, listed, 3, *baseline, 4.0, 0.002, False, 40.0)
    for spectrum, result in zip(data, got, strict=True):
        good = slow_despike(spectrum, wavelength, listed, 3, 48.0, 4.0, 0.002)
        np.testing.assert_array_equal(np.isfinite(result), good)
        np.testing.assert_array_equal(result[good], spectrum[good])
    assert np.isnan(got[0, 40])
    assert np.isnan(got[:, 57]).all()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("order", [0, 2, 3])
def test_smooth_kernel_equals_slow_reference(rng, compiled, order):
    data = joined(rng, (6,))
    data[1:] = with_gaps(rng, data[1:], 0.3)
    wavelength = WAVELENGTHS_160.astype(float)
    kernel = kernels.smooth_kernel if compiled else kernels.smooth_kernel.py_func
    weights = kernels.smoothing_weights(wavelength, 50.0, order)
    got = kernel(data, wavelength, *weights, 50.0, order)
    for spectrum, result in zip(data, got, strict=True):
        np.testing.assert_allclose(
            result, slow_smooth(spectrum, wavelength, 50.0, order), rtol=2e-5
        )


def test_smooth_is_savitzky_golay_on_an_even_axis(rng):
    signal = pytest.importorskip("scipy.signal")
    y = rng.random((3, 50)).astype("f4")
    da_ = xr.DataArray(
        y, dims=("p", "wavelength"), coords={"wavelength": 500.0 + 6 * np.arange(50)}
    )
    expected = signal.savgol_filter(y.astype(float), 9, 2, axis=1)
    np.testing.assert_allclose(sp.smooth(da_, 48.0, 2), expected, atol=1e-6)


def test_smooth_keeps_parabolas_with_gaps():
    wavelength = WAVELENGTHS_160.astype(float)
    parabola = 0.1 + 1e-4 * (wavelength - 800) - 1e-7 * (wavelength - 800) ** 2
    data = np.tile(parabola, (2, 1)).astype("f4")
    data[1, ::5] = np.nan
    array = xr.DataArray(data, dims=("p", "wavelength"), coords={"wavelength": wavelength})
    np.testing.assert_allclose(sp.smooth(array), data, rtol=3e-6)


@pytest.mark.parametrize("compiled", [True, False])
def test_resample_kernel_equals_numpy(rng, compiled):
    data = joined(rng, (5,))
    source = WAVELENGTHS_160.astype(float)
    target = np.sort(rng.uniform(513, 1640, 90))
    kernel = kernels.resample_kernel if compiled else kernels.resample_kernel.py_func
    weights = kernels.resampling_weights(source, target, 0.05)
    got = kernel(data, source, target, *weights, 50.0)
    for spectrum, result in zip(data, got, strict=True):
        np.testing.assert_allclose(result, np.interp(target, source, spectrum), rtol=1e-4)
    # With gaps: interpolation between what is there, unless it is too far away.
    data[:, 20:22] = np.nan
    data[:, 60:90] = np.nan
    data[0] = np.nan
    got = kernel(data, source, target, *weights, 50.0)
    assert np.isnan(got[0]).all()
    there = np.isfinite(data[1])
    expected = np.interp(target, source[there], data[1][there])
    inside = (target > source[59] + 0.05) & (target < source[90] - 0.05)
    assert np.isnan(got[1][inside]).all()
    np.testing.assert_allclose(got[1][~inside], expected[~inside], rtol=1e-4)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("move_vis", [False, True])
def test_join_kernel_equals_numpy(rng, compiled, additive, move_vis):
    data = native(rng, 9, noise=0.01).reflectance.values
    data[1, 90:93] = np.nan
    data[2, 60:80] = np.nan
    w = NATIVE.astype(float)
    vis, nir1 = np.arange(73), np.arange(93, 180)
    nir = 84 + np.flatnonzero((w[84:184] >= 930) & (w[84:184] <= 965))
    left, weight = kernels.resampling_weights(w[:84], w[nir], 0.0)
    kernel = kernels.join_kernel if compiled else kernels.join_kernel.py_func
    rest = np.arange(190, 296)
    got, step = kernel(data, vis, nir1, rest, nir, left, left + 1, weight, additive, move_vis, 2)
    for p, x in enumerate(data.astype(float)):
        v = np.interp(w[nir], w[:84], x[:84])
        value = np.nanmedian(x[nir] - v if additive else x[nir] / v) if p != 2 else np.nan
        gain = 1.0 if p == 2 else value
        np.testing.assert_allclose(step[p], value, rtol=1e-5)
        if p == 2:
            expected = x[np.r_[vis, nir1, rest]]
        elif additive:
            shift = np.r_[np.full(73, value * move_vis), np.full(193, -value * (not move_vis))]
            expected = x[np.r_[vis, nir1, rest]] + shift
        else:
            gains = np.r_[
                np.full(73, gain if move_vis else 1), np.full(193, 1 if move_vis else 1 / gain)
            ]
            expected = x[np.r_[vis, nir1, rest]] * gains
        np.testing.assert_allclose(got[p], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(0, 160), (1, 160)])
def test_kernels_on_nothing_and_on_nan(shape):
    data = np.full(shape, np.nan, "f4")
    w = WAVELENGTHS_160.astype(float)
    baseline = kernels.smoothing_weights(w, 48.0, 1)
    listed = np.zeros(160, bool)
    for result in (
        kernels.despike_kernel(data, w, listed, 3, *baseline, 4.0, 0.002, True, 40.0),
        kernels.smooth_kernel(data, w, *kernels.smoothing_weights(w, 50.0, 2), 50.0, 2),
        kernels.resample_kernel(data, w, w, *kernels.resampling_weights(w, w, 0.05), 50.0),
    ):
        assert result.shape == shape
        assert np.isnan(result).all()


# ---- single steps ----
def test_mask_quality(rng):
    ds = native(rng, 4)
    ds["qa"][0, 10] = 296
    ds["qa"][1, 11] = 32881  # bits 0, 4, 5, 6 and 15
    ds["qa"][2, 180] = 8480
    ds["qa"][3, 12] = (
        0xC0 | 0x10
    )  # saturated; 0xc0 is a VIS shift and a factor between the detectors
    ds["qa"][3, 13:60] = 0x140
    ds["qa"][3, 60:74] = 0xC0
    ds["reflectance"][0, 50] = 0.0
    ds["reflectance"][1, 51] = 1.5
    ds["reflectance"][2, 52] = np.nan
    got = np.isnan(sp.mask_quality(ds).reflectance.values)
    assert sorted(zip(*np.nonzero(got), strict=True)) == [
        (0, 10), (0, 50), (1, 11), (1, 51), (2, 52), (2, 180), (3, 12),
    ]  # fmt: skip
    overlap = np.isnan(sp.mask_quality(ds, ["overlap"]).reflectance.values)
    assert overlap[:, 74:93].all()
    by_bits = sp.mask_quality(ds, 0x4000)
    np.testing.assert_array_equal(np.isnan(by_bits.reflectance), overlap)
    without = sp.mask_quality(ds.drop_vars("qa"))
    assert int(np.isnan(without.reflectance).sum()) == 3
    assert int(np.isnan(sp.mask_quality(ds.reflectance)).sum()) == 3
    dark = sp.mask_quality(ds, max_incidence=60)
    np.testing.assert_array_equal(
        np.isnan(dark.reflectance).all("wavelength"), ds.incidence.values > 60
    )
    assert dark.qa.identical(ds.qa)
    with pytest.raises(InputError, match="unknown quality flags"):
        sp.mask_quality(ds, ["cloud"])
    with pytest.raises(InputError, match="max_emission"):
        sp.mask_quality(ds.drop_vars("emission"), max_emission=10)


def test_join_removes_the_step(rng):
    ds = native(rng, 6, step=1.03)
    got = sp.join_detectors(ds, keep_step=True)
    np.testing.assert_array_equal(got.wavelength, WAVELENGTHS_160)
    np.testing.assert_allclose(got.join_step, 1.03, rtol=2e-4)
    np.testing.assert_array_equal(got.reflectance[:, :73], ds.reflectance[:, :73])
    level = ds.reflectance.values[:, :1] / truth(NATIVE[:1])
    np.testing.assert_allclose(got.reflectance, level * truth(WAVELENGTHS_160), rtol=1e-3)
    other = sp.join_detectors(ds, anchor="NIR1").reflectance
    np.testing.assert_array_equal(other[:, 73:], ds.reflectance[:, 93:180])
    np.testing.assert_allclose(other, got.reflectance * 1.03, rtol=1e-3)
    plain = sp.join_detectors(ds, method=None).reflectance
    np.testing.assert_array_equal(plain, ds.reflectance.values[:, np.r_[0:73, 93:180]])
    assert sp.join_detectors(ds, nir2=True).wavelength.to_index().is_monotonic_increasing
    assert got.qa.shape == (6, 160)
    assert not sp.is_native(got)
    with pytest.raises(BandMismatchError, match="not native"):
        sp.join_detectors(got)
    with pytest.raises(InputError, match="window"):
        sp.join_detectors(ds, window=(600, 700))
    with pytest.raises(InputError, match="anchor"):
        sp.join_detectors(ds, anchor="NIR2")


def test_despike_mends_spikes_and_keeps_bands(rng):
    clean = joined(rng, (40,), noise=0.0)
    noisy = clean * (1 + 0.003 * rng.standard_normal(clean.shape)).astype("f4")
    spiked = noisy.copy()
    where = rng.integers(5, 155, 40)
    spiked[np.arange(40), where] *= np.where(rng.random(40) < 0.5, 1.08, 0.92)
    array = xr.DataArray(
        spiked, dims=("p", "wavelength"), coords={"wavelength": np.asarray(WAVELENGTHS_160)}
    )
    got = sp.despike(array, channels=None).values
    error = np.abs(got / clean - 1)[np.arange(40), where]
    assert error.max() < 0.015
    touched = (got != spiked).sum()
    assert 40 <= touched < 40 + 0.01 * spiked.size
    # Listed channels are replaced in every spectrum, 512.6 nm has no neighbour and is left out.
    listed = sp.despike(array)
    assert np.isnan(listed.sel(wavelength=512.6, method="nearest")).all()
    assert np.isfinite(listed[:, 1:]).all()
    left_out = sp.despike(array, fill=False)
    for channel in sp.SPIKE_CHANNELS:
        assert np.isnan(left_out.sel(wavelength=channel, method="nearest")).all()
    with pytest.raises(BandMismatchError, match="601"):
        sp.despike(array, channels=[601.0])
    with pytest.raises(InputError, match="window=4"):
        sp.despike(array, window=4)


def test_axis_must_rise(rng):
    ds = native(rng)
    for step in (sp.despike, sp.smooth, sp.resample_bands):
        with pytest.raises(BandMismatchError, match="do not rise"):
            step(ds)


def test_resample_does_not_extrapolate(rng):
    array = xr.DataArray(
        joined(rng), dims=("p", "wavelength"), coords={"wavelength": np.asarray(WAVELENGTHS_160)}
    )
    got = sp.resample_bands(array)
    np.testing.assert_array_equal(got, array[:, 1:151])
    np.testing.assert_array_equal(got.wavelength, WAVELENGTHS_150)
    with pytest.raises(BandMismatchError, match=r"500\.0-1000\.0 nm .* 512\.6-1644\.2 nm"):
        sp.resample_bands(array, [500.0, 1000.0])
    with pytest.raises(BandMismatchError, match=r"1700\.0"):
        sp.resample_bands(array, [600.0, 1700.0])
    for bad in ([900.0, 800.0], [], [600.0, np.nan], [[600.0, 700.0]]):
        with pytest.raises(InputError, match="rising sequence"):
            sp.resample_bands(array, bad)


# ---- the composition ----
def test_condition_recovers_the_spectrum(rng):
    ds = native(rng, 30, noise=0.005, step=1.02)
    got = sp.condition(ds)
    assert got.reflectance.dims == ("observation", "wavelength")
    np.testing.assert_array_equal(got.wavelength, WAVELENGTHS_150)
    clean = native(np.random.default_rng(20261121), 30, step=1.0).reflectance
    expected = clean.values[:, np.r_[1:73, 93:171]]
    raw = ds.reflectance.values[:, np.r_[1:73, 93:171]]
    raw[:, 72:] /= 1.02
    error = np.abs(got.reflectance.values / expected - 1)
    assert np.isfinite(error).all()
    assert np.sqrt((error**2).mean()) < 0.8 * np.sqrt(((raw / expected - 1) ** 2).mean())
    assert "lat" in got.coords
    assert "detector" not in got.coords
    assert set(got.data_vars) == {"reflectance"}


def test_condition_says_what_it_did_and_refuses_a_second_time(rng):
    ds = native(rng)
    got = sp.condition(ds)
    for name in ("mask_quality", "join_detectors", "despike", "smooth", "resample_bands"):
        assert name in got.attrs["conditioned"]
        assert name in got.attrs["history"]
    assert got.attrs["history"].startswith("made\n")
    assert ds.attrs == {"history": "made"}
    with pytest.raises(InputError, match="conditioned already"):
        sp.condition(got)
    with pytest.raises(InputError, match="conditioned already"):
        sp.condition(got.reflectance)
    assert sp.condition(ds.reflectance).identical(got.reflectance.assign_attrs()) or np.array_equal(
        sp.condition(ds.reflectance), got.reflectance, equal_nan=True
    )


def test_condition_on_a_joined_cube(rng):
    data = np.moveaxis(joined(rng, (6, 5)), -1, 0)
    data[:, 2, 3] = np.nan
    cube = xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), data)},
        {"wavelength": np.asarray(WAVELENGTHS_160), "y": np.arange(6.0), "x": np.arange(5.0)},
    )
    got = sp.condition(cube).reflectance
    assert got.dims == ("wavelength", "y", "x")
    assert got.shape == (150, 6, 5)
    assert np.isnan(got.values[:, 2, 3]).all()
    assert int(np.isnan(got).sum()) == 150
    track = sp.condition(cube.stack(p=("y", "x")).transpose("p", "wavelength")).reflectance
    np.testing.assert_array_equal(got.values.reshape(150, -1).T, track.values)


#: What users do to a Dataset between two steps.
BETWEEN = {
    "isel": lambda ds: ds.isel(observation=slice(1, None)),
    "mask": lambda ds: ds.isel(observation=np.arange(ds.sizes["observation"]) % 4 != 2),
    "where": lambda ds: ds.where(ds.incidence < 62),
    "drop": lambda ds: ds.where((ds.incidence < 62).compute(), drop=True),
    "concat": lambda ds: xr.concat(
        [ds.isel(observation=slice(0, 2)), ds.isel(observation=slice(3, None))], "observation"
    ),
    "sel": lambda ds: ds.set_xindex("time").sel(time=slice(ds.time[1], ds.time[-2])).reset_index("time"),
}  # fmt: skip
LAZILY = {"chunk": lambda ds: ds.chunk(observation=2), "persist": lambda ds: ds.persist()}


@pytest.mark.parametrize("name", [*BETWEEN, *LAZILY])
def test_steps_after_one_another_and_after_xarrays_own(rng, name):
    ds = native(rng, 24, noise=0.01)
    time = np.datetime64("2008-01-01", "ns") + np.arange(24) * np.timedelta64(1, "s")
    lon = np.linspace(-170, 170, 24)
    ds = ds.assign_coords(time=("observation", time), lon=("observation", lon))
    steps = (
        sp.mask_quality,
        sp.join_detectors,
        sp.despike,
        sp.smooth,
        sp.resample_bands,
        lambda x: sp.normalize_photometry(x, parameters(), observed=(40, 10, 45)),
        lambda x: sp.grid(x, "geographic", resolution=30.0),
    )
    lazy, eager = ds.chunk(observation=5), ds
    for step in steps:
        lazy = (BETWEEN | LAZILY)[name](lazy)
        eager = BETWEEN[name](eager) if name in BETWEEN else eager
        lazy, eager = step(lazy), step(eager)
        assert lazy.compute().equals(eager)


@pytest.mark.parametrize(
    "verb", ["mask_quality", "join_detectors", "despike", "smooth", "resample_bands", "condition", "grid"]
)  # fmt: skip
@pytest.mark.parametrize("given", [3, xr.DataArray(np.zeros(3), dims="time", name="counts")])
def test_the_wrong_kind_of_object(given, verb):
    with pytest.raises(InputError):
        getattr(sp, verb)(given)


def test_graph_grows_by_one_task_per_chunk(rng):
    ds = native(rng, 40)

    def tasks(n):
        return len(dask.optimize(sp.condition(ds.chunk(observation=n)).reflectance.data)[0].dask)

    assert tasks(1) - tasks(2) == 20 * (tasks(20) - tasks(40))


def test_edges(rng):
    ds = native(rng)
    assert sp.condition(ds.isel(observation=slice(0, 0))).reflectance.shape == (0, 150)
    one = sp.condition(ds.isel(observation=3)).reflectance
    assert one.shape == (150,)
    np.testing.assert_array_equal(one, sp.condition(ds).reflectance[3])
    nothing = ds.assign(reflectance=ds.reflectance * np.nan)
    assert np.isnan(sp.condition(nothing).reflectance).all()


def test_what_is_not_spectra(rng):
    with pytest.raises(InputError, match="no variable 'reflectance'"):
        sp.condition(native(rng).rename(reflectance="r"))
    with pytest.raises(InputError, match="ndarray"):
        sp.smooth(np.ones((3, 160)))
    with pytest.raises(InputError, match="no dimension"):
        sp.smooth(xr.DataArray(np.ones(4), dims="band"))
    assert not sp.is_native(native(rng).drop_vars("detector"))
    assert not sp.is_native(native(rng).isel(wavelength=slice(0, 84)))


def test_import_is_light():
    import subprocess
    import sys

    code = (
        "import sys, lunarray.sp; bad = {'numba', 'xarray', 'torch', 'rasterio'} & set(sys.modules); "
        "before = set(sys.modules); import lunarray.sp as s; assert callable(s.condition); "
        "print(sorted({'numba', 'torch', 'rasterio'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# ---- photometry ----
def parameters():
    w = np.array([500.0, 1000.0, 1700.0])
    one = np.ones(3)
    return xr.Dataset(
        {
            n: ("wavelength", v * one)
            for n, v in {"b0": 1.2, "h": 0.07, "c": -0.1, "g": 0.23}.items()
        },
        {"wavelength": w},
    )


def test_photometry_by_hand(rng):
    ds = sp.join_detectors(native(rng, 5))
    got = sp.normalize_photometry(ds, parameters())

    def model(i, e, a):
        i, e, rad = np.deg2rad(i), np.deg2rad(e), np.deg2rad(a)
        limb = 1 - 0.019 * a + 0.242e-3 * a**2 - 1.46e-6 * a**3
        disk = 2 * limb * np.cos(i) / (np.cos(i) + np.cos(e)) + (1 - limb) * np.cos(i)
        lobes = [(1 - 0.23**2) / (1 + 0.23**2 - 2 * g * np.cos(rad)) ** 1.5 for g in (0.23, -0.23)]
        phase = 1.1 / 2 * lobes[0] + 0.9 / 2 * lobes[1]
        return disk * (1 + 1.2 / (1 + np.tan(rad / 2) / 0.07)) * phase

    for p in range(5):
        angles = [float(ds[n][p]) for n in ("incidence", "emission", "phase")]
        factor = model(30, 0, 30) / model(*angles)
        np.testing.assert_allclose(got.reflectance[p], ds.reflectance[p] * factor, rtol=1e-5)
    assert got.reflectance.attrs["photometric_geometry"] == "30 0 30"
    with pytest.raises(InputError, match="already"):
        sp.normalize_photometry(got, parameters())
    there = sp.normalize_photometry(got, parameters(), (60, 0, 60))
    back = sp.normalize_photometry(there, parameters())
    np.testing.assert_allclose(back.reflectance, got.reflectance, rtol=1e-5)


def test_photometry_lazy_cube_and_errors(rng, no_compute):
    data = np.moveaxis(joined(rng, (4, 6)), -1, 0)
    angles = {n: (("y", "x"), rng.uniform(5, 80, (4, 6))) for n in ("incidence", "phase")}
    angles["phase"] = angles["incidence"]
    angles["emission"] = (("y", "x"), np.zeros((4, 6)))
    cube = xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), data)},
        {"wavelength": np.asarray(WAVELENGTHS_160), **angles},
    )
    cube["incidence"][0, 0] = 95.0
    got = sp.normalize_photometry(cube.chunk(y=3, x=2), parameters())
    expected = sp.normalize_photometry(cube, parameters())
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(got.reflectance.values, expected.reflectance.values)
    assert np.isnan(expected.reflectance[:, 0, 0]).all()
    assert int(np.isnan(expected.reflectance).sum()) == 160
    with pytest.raises(BandMismatchError, match=r"512\.6-1644\.2"):
        sp.normalize_photometry(cube, parameters().isel(wavelength=slice(0, 2)))
    with pytest.raises(InputError, match="no coordinates"):
        sp.normalize_photometry(cube.drop_vars("phase"), parameters())
    with pytest.raises(InputError, match="no geometry"):
        sp.normalize_photometry(cube, parameters(), (30, 0, 50))
    with pytest.raises(InputError, match="have no b0"):
        sp.normalize_photometry(cube, parameters().drop_vars("b0"))


def test_parameter_file_faults(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        sp.read_photometric_parameters(tmp_path / "none.txt")
    path = tmp_path / "p.txt"
    path.write_text("## a\n1 2 3\n4 5 6\n")
    with pytest.raises(ProductFormatError, match="eleven columns"):
        sp.read_photometric_parameters(path)
    path.write_text("one two\n")
    with pytest.raises(ProductFormatError, match="not a table"):
        sp.read_photometric_parameters(path)


# ---- real orbits ----
@pytest.mark.realdata
def test_real_orbits_come_out_smooth(real_data):
    ds = sp.open_sp(str(real_data / "sp" / "*.spc"))
    got = sp.condition(ds).reflectance.compute()
    assert got.shape == (76, 150)
    assert np.isfinite(got).all()
    assert float(got.min()) > 0.02
    assert float(got.max()) < 0.35
    # Rougher than a tenth of the raw spectrum nowhere: second differences relative to the level.
    raw = sp.join_detectors(ds).reflectance.compute()[:, 1:151]
    rough = np.abs(np.diff(got.values, 2, axis=1)) / got.values[:, 1:-1]
    before = np.abs(np.diff(raw.values, 2, axis=1)) / raw.values[:, 1:-1]
    assert np.median(rough) < 0.25 * np.median(before)
    assert rough.max() < 0.03
    step = sp.join_detectors(ds, keep_step=True).join_step.values
    assert np.all(np.abs(step - 1) < 0.03)
    # Mafic absorption near 950 nm: below the continuum from 750 to 1550 nm.
    at = got.interp(wavelength=[750.0, 900.0, 1550.0]).mean("observation").values
    continuum = at[0] + (at[2] - at[0]) * 150 / 800
    assert at[1] < 0.98 * continuum


@pytest.mark.realdata
def test_real_reflectance_has_the_sp_photometry_in_it(real_data):
    """REF1 is I/F of the radiance brought to 30/0/30 by this very model with the high-albedo parameters."""
    folder = real_data / "spectra" / "sp_photometry"
    high = sp.read_photometric_parameters(folder / "High_albedo_sel.txt")
    assert high.sizes["wavelength"] == 160
    np.testing.assert_allclose(high.wavelength, WAVELENGTHS_160, atol=1e-3)
    assert np.isnan(high["mean"].sel(wavelength=1003.6))
    ds = sp.open_sp(str(real_data / "sp" / "*.spc"), chunks=None)
    vis = ds.isel(wavelength=slice(0, 73))
    radiance = vis.drop_vars("reflectance").rename(radiance="reflectance")
    mine = sp.normalize_photometry(radiance, high).reflectance
    ratio = (mine / vis.reflectance).groupby("orbit")
    spread = (ratio.std("observation") / ratio.mean("observation")).values
    # The same factor (the Sun's irradiance) for all footprints of an orbit, at every wavelength.
    assert np.median(spread) < 1e-3
    uncorrected = (radiance.reflectance / vis.reflectance).groupby("orbit")
    before = (uncorrected.std("observation") / uncorrected.mean("observation")).values
    assert np.median(spread) < np.median(before)
