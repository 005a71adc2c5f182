"""Agreement of oxides with a reference: closed forms, NumPy, missing values, laziness and edge cases."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from lunarray.errors import InputError
from lunarray.oxides import OXIDES, metrics

NAMES = ["R", "r2_correlation", "r2_determination", "RMSE", "MAE", "bias", "count"]


def by_formula(f, y):
    """Equations 1 to 4 of Bian et al. (2025), term by term in Python, and 1 - SSE / SST."""
    pairs = [
        (float(a), float(b))
        for a, b in zip(np.ravel(f), np.ravel(y), strict=True)
        if np.isfinite(a) and np.isfinite(b)
    ]
    k = len(pairs)
    mean_f, mean_y = sum(a for a, _ in pairs) / k, sum(b for _, b in pairs) / k
    fy = sum((b - mean_y) * (a - mean_f) for a, b in pairs)
    ff = sum((a - mean_f) ** 2 for a, _ in pairs)
    yy = sum((b - mean_y) ** 2 for _, b in pairs)
    square = sum((b - a) ** 2 for a, b in pairs)
    return {
        "R": fy / (ff * yy) ** 0.5,
        "r2_correlation": fy**2 / (yy * ff),
        "r2_determination": 1 - square / yy,
        "RMSE": (square / k) ** 0.5,
        "MAE": sum(abs(b - a) for a, b in pairs) / k,
        "bias": sum(a - b for a, b in pairs) / k,
        "count": k,
    }


def two_maps(rng, shape=(30, 40), gaps=0.1):
    """All oxides twice, with gaps at different places."""
    result = []
    truth = rng.uniform(1, 20, (len(OXIDES), *shape))
    for noise in (1.0, 0.3):
        values = (truth + rng.normal(0, noise, truth.shape)).astype(np.float32)
        values[rng.random(values.shape) < gaps] = np.nan
        result.append(
            xr.Dataset(
                {o: (("y", "x"), v) for o, v in zip(OXIDES, values, strict=True)},
                {"y": np.arange(shape[0]) * -500.0, "x": np.arange(shape[1]) * 500.0},
            )
        )
    return result


def line(values):
    return xr.DataArray(np.asarray(values, float), dims="sample")


def test_metrics_are_the_equations(rng):
    predicted, reference = two_maps(rng)
    found = metrics(predicted, reference)
    assert list(found) == NAMES
    assert found["oxide"].values.tolist() == list(OXIDES)
    assert {v.dtype for v in found.data_vars.values()} == {np.dtype("f8")}
    for oxide in OXIDES:
        wanted = by_formula(predicted[oxide], reference[oxide])
        for name in NAMES:
            assert np.isclose(found[name].sel(oxide=oxide), wanted[name], rtol=1e-9), name
    assert 0.9 < found["R"][0] < 1
    assert found["RMSE"].attrs["units"] == "percent"
    assert found["r2_determination"].attrs["units"] == "1"


def test_metrics_agree_with_numpy_and_scipy(rng):
    f, y = rng.normal(10, 3, 500), rng.normal(10, 3, 500)
    y = 0.5 * f + 0.5 * y
    found = metrics(line(f), line(y))
    assert found.sizes == {}
    assert np.isclose(found["R"], np.corrcoef(f, y)[0, 1], rtol=1e-12)
    assert np.isclose(found["r2_correlation"], scipy.stats.linregress(f, y).rvalue ** 2, rtol=1e-12)
    assert np.isclose(found["r2_determination"], 1 - ((y - f) ** 2).mean() / y.var(), rtol=1e-12)
    assert np.isclose(found["RMSE"], np.sqrt(np.mean((f - y) ** 2)), rtol=1e-12)
    assert np.isclose(found["MAE"], np.mean(np.abs(f - y)), rtol=1e-12)
    assert np.isclose(found["bias"], f.mean() - y.mean(), rtol=1e-9)
    assert found["count"] == 500


@pytest.mark.parametrize(
    ("f", "r", "determination", "rmse", "mae", "bias"),
    [
        ([1, 2, 3, 4, 5], 1, 1, 0, 0, 0),  # the 1:1 line
        ([3, 4, 5, 6, 7], 1, -1, 2, 2, 2),  # off by 2: SSE 20, SST 10
        ([2, 4, 6, 8, 10], 1, -4.5, 11**0.5, 3, 3),  # twice: SSE 1 + 4 + 9 + 16 + 25 = 55
        ([5, 4, 3, 2, 1], -1, -3, 8**0.5, 2.4, 0),  # reversed: SSE 16 + 4 + 0 + 4 + 16 = 40
    ],
)
def test_the_two_r2_differ_off_the_line(f, r, determination, rmse, mae, bias):
    """Eq. 2 is 1 for every straight line; the coefficient of determination only on the 1:1 line."""
    found = metrics(line(f), line([1, 2, 3, 4, 5]))
    assert np.isclose(found["R"], r, atol=1e-15)
    assert np.isclose(found["r2_correlation"], 1, atol=1e-15)
    assert np.isclose(found["r2_determination"], determination, atol=1e-15)
    assert np.isclose(found["RMSE"], rmse, atol=1e-15)
    assert np.isclose(found["MAE"], mae, atol=1e-15)
    assert np.isclose(found["bias"], bias, atol=1e-15)


def test_the_mean_as_prediction_has_determination_zero(rng):
    y = rng.uniform(1, 20, 100)
    found = metrics(line(np.full(100, y.mean())), line(y))
    assert np.isclose(found["r2_determination"], 0, atol=1e-12)
    assert np.isnan(found["R"])
    assert np.isclose(found["RMSE"], y.std())


def test_missing_values_count_only_in_pairs(rng):
    f, y = rng.random(50), rng.random(50)
    f[[1, 7]] = np.nan, np.inf
    y[[7, 20]] = np.nan, -np.inf
    keep = np.setdiff1d(np.arange(50), [1, 7, 20])
    found, wanted = metrics(line(f), line(y)), metrics(line(f[keep]), line(y[keep]))
    assert found["count"] == 47
    xr.testing.assert_equal(found, wanted)


# --- Edges ----------------------------------------------------------------------------------------


def scores(f, y, chunks):
    f, y = line(f), line(y)
    if chunks:
        f, y = f.chunk(sample=chunks), y.chunk(sample=chunks)
    return {name: float(value) for name, value in metrics(f, y).compute().items()}


@pytest.mark.parametrize("chunks", [None, 1])
def test_one_sample(chunks):
    found = scores([5.0], [3.0], chunks)
    assert np.isnan([found["R"], found["r2_correlation"], found["r2_determination"]]).all()
    assert (found["RMSE"], found["MAE"], found["bias"], found["count"]) == (2, 2, 2, 1)


@pytest.mark.parametrize("chunks", [None, 3, 7])
@pytest.mark.parametrize("value", [0.1, 7.7, 1e6 / 3])
def test_constants(rng, chunks, value):
    """0.1 is no binary fraction: a mean with rounding would leave it some variance and any R at all."""
    varied, constant = rng.random(20), np.full(20, value)
    found = scores(varied, constant, chunks)  # the reference is constant
    assert np.isnan([found["R"], found["r2_correlation"], found["r2_determination"]]).all()
    assert np.isclose(found["MAE"], np.abs(varied - value).mean())
    found = scores(constant, varied, chunks)  # the prediction is
    assert np.isnan([found["R"], found["r2_correlation"]]).all()
    assert found["r2_determination"] <= 0
    found = scores(constant, constant, chunks)
    assert np.isnan(found["r2_determination"])
    assert found["RMSE"] == 0


@pytest.mark.parametrize("chunks", [None, 2])
@pytest.mark.parametrize("f", [[np.nan] * 5, [1.0, np.nan, 2.0, np.nan, np.nan]])
def test_no_pair(chunks, f):
    found = scores(f, [np.nan, 1.0, np.nan, 2.0, np.nan], chunks)
    assert found.pop("count") == 0
    assert np.isnan(list(found.values())).all()


def test_nothing_at_all():
    found = metrics(line([]), line([]))
    assert found["count"] == 0
    assert np.isnan(found["RMSE"])


def test_large_offset_does_not_cancel(rng):
    """Sums of squares of values near 1e6 would lose all digits of a spread of 1e-3."""
    f, y = rng.normal(0, 1e-3, 10_000), rng.normal(0, 1e-3, 10_000)
    small = scores(f, y, None)
    for chunks in (None, 97):
        large = scores(1e6 + f, 1e6 + y, chunks)
        assert np.isclose(large["R"], small["R"], atol=1e-6)
        assert np.isclose(large["r2_determination"], small["r2_determination"], rtol=1e-5)


# --- Lazy -----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(
        st.tuples(
            st.one_of(st.just(np.nan), st.floats(0, 50, width=32)),
            st.one_of(st.just(np.nan), st.floats(0, 50, width=32)),
        ),
        min_size=1,
        max_size=25,
    ),
    chunk=st.integers(1, 6),
)
def test_any_values_in_any_chunks(values, chunk):
    f, y = (np.array(v) for v in zip(*values, strict=True))
    whole, parts = scores(f, y, None), scores(f, y, chunk)
    for name in NAMES:
        assert np.isclose(whole[name], parts[name], rtol=1e-6, atol=1e-6, equal_nan=True), name
    assert not abs(whole["R"]) > 1
    assert not whole["r2_determination"] > 1
    # Jensen: no mean error is greater than the root of the mean square.
    assert not whole["MAE"] > whole["RMSE"] * (1 + 1e-12)


def test_each_block_is_read_once_for_all_scores(rng):
    predicted, reference = two_maps(rng)
    reads = []

    def read(block, block_info=None):
        reads.append(block_info[0]["chunk-location"])
        return block

    lazy = da.from_array(predicted["FeO"].values, chunks=10).map_blocks(
        read, dtype=np.float32, meta=np.empty((0, 0), np.float32)
    )
    metrics(predicted["FeO"].copy(data=lazy), reference["FeO"]).compute(scheduler="sync")
    assert sorted(reads) == [(i, j) for i in range(3) for j in range(4)]


@pytest.mark.parametrize("which", [0, 1])
def test_lazy_against_in_memory_keeps_the_blocks(rng, which):
    """What is in memory takes on the blocks of the other, which may not fit in memory whole."""
    maps = two_maps(rng)
    wanted = metrics(*maps)
    maps[which] = maps[which].chunk(y=10, x=10)
    made = metrics(*maps)
    assert not [layer for layer in made.__dask_graph__().layers if "rechunk" in layer]
    xr.testing.assert_allclose(made.compute(), wanted, rtol=1e-11)


def test_order_of_dimensions_does_not_matter(rng):
    predicted, reference = two_maps(rng)
    wanted = metrics(predicted, reference)
    xr.testing.assert_allclose(metrics(predicted, reference.transpose("x", "y")), wanted)


# --- Choice and bad input -------------------------------------------------------------------------


def test_oxides_in_common_or_those_asked_for(rng):
    predicted, reference = two_maps(rng, shape=(5, 6))
    part = predicted[["MgO", "FeO"]].assign(novelty=predicted["FeO"])
    assert metrics(part, reference)["oxide"].values.tolist() == ["FeO", "MgO"]
    found = metrics(predicted, reference, oxides=["SiO2", "FeO"])
    assert found["oxide"].values.tolist() == ["SiO2", "FeO"]
    wanted = metrics(predicted["SiO2"], reference["SiO2"])
    assert found["RMSE"][0] == wanted["RMSE"]
    with pytest.raises(InputError, match="TiO2 of the predicted"):
        metrics(part, reference, oxides=["FeO", "TiO2"])
    with pytest.raises(InputError, match="no oxide in common"):
        metrics(part[["novelty"]], reference)


def test_maps_that_do_not_belong_together(rng):
    predicted, reference = two_maps(rng)
    with pytest.raises(InputError, match="against reference"):
        metrics(predicted.isel(y=slice(5)), reference)
    with pytest.raises(InputError, match="against reference"):
        metrics(predicted.rename(y="lat"), reference)
    # As many pixels, but not the same.
    moved = reference.assign_coords(x=reference["x"] + 500.0)
    with pytest.raises(InputError, match="coordinate 'x'"):
        metrics(predicted, moved)
    upside = reference.isel(y=slice(None, None, -1))
    with pytest.raises(InputError, match="coordinate 'y'"):
        metrics(predicted, upside)
    with pytest.raises(InputError, match="coordinate 'y'"):
        metrics(predicted, reference.assign_coords(y=[f"row {i}" for i in range(30)]))
    # Rounding of coordinates is no difference; nor is a reference without any.
    rounded = reference.assign_coords(x=(reference["x"] * 1e-3 / 7).astype("f4"))
    exact = predicted.assign_coords(x=predicted["x"] * 1e-3 / 7)
    assert not np.array_equal(rounded["x"], exact["x"])
    wanted = metrics(predicted, reference)
    xr.testing.assert_equal(metrics(exact, rounded), wanted)
    xr.testing.assert_equal(metrics(predicted, reference.drop_vars(["x", "y"])), wanted)


def test_wrong_kinds(rng):
    predicted, reference = two_maps(rng, shape=(5, 6))
    with pytest.raises(InputError, match="a Dataset against a DataArray"):
        metrics(predicted, reference["FeO"])
    with pytest.raises(InputError, match="a ndarray against a ndarray"):
        metrics(predicted["FeO"].values, reference["FeO"].values)
