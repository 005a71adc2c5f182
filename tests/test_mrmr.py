"""mRMR: the greedy choice from sums over blocks, against recomputing every correlation at every step."""

from __future__ import annotations

import itertools

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from lunarray.errors import InputError
from lunarray.superres import select_features
from lunarray.superres.mrmr import FeatureMoments, feature_moments


def straightforward(x, n, target=None, scheme="difference"):
    """As the definition reads: at each step, each candidate's correlation with each chosen feature, from the data."""
    x = np.asarray(x, np.float64)
    x = x[np.isfinite(x).all(axis=1)]
    left = [f for f in range(x.shape[1]) if x[:, f].std() > 0]
    if target is None:
        relevance = {f: x[:, f].var() for f in left}
    else:
        relevance = {
            f: np.mean(
                [abs(np.corrcoef(x[np.isfinite(t), f], t[np.isfinite(t)])[0, 1]) for t in target.T]
            )
            for f in left
        }
    largest = max(relevance.values())
    chosen = []
    while len(chosen) < n:
        scores = {}
        for f in left:
            redundancy = np.mean([abs(np.corrcoef(x[:, f], x[:, c])[0, 1]) for c in chosen] or [0])
            if scheme == "difference":
                scores[f] = relevance[f] / largest - redundancy
            else:
                scores[f] = relevance[f] / redundancy if chosen else relevance[f]
        best = max(scores, key=scores.__getitem__)
        chosen.append(best)
        left.remove(best)
    return chosen


def mixed(rng, rows=600, features=40):
    """Features that go together in groups, of different sizes, away from zero."""
    groups = rng.standard_normal((rows, 6)) @ rng.standard_normal((6, features))
    x = (groups + rng.standard_normal((rows, features))) * rng.gamma(2, 1, features) + rng.normal(
        0, 5, features
    )
    return x.astype(np.float32)


@pytest.mark.parametrize("scheme", ["difference", "quotient"])
def test_equals_the_straightforward_choice(rng, scheme):
    x = mixed(rng)
    chosen = select_features(x, 15, scheme=scheme)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == straightforward(x, 15, scheme=scheme)
    assert chosen[0] == x.var(axis=0).argmax()


@pytest.mark.parametrize("scheme", ["difference", "quotient"])
def test_relevance_to_targets_with_gaps(rng, scheme):
    x = mixed(rng, 400, 25)
    target = x[:, [3, 7]] @ rng.standard_normal((2, 3)) + 10 * rng.standard_normal((400, 3))
    target[rng.random((400, 3)) < 0.4] = np.nan
    chosen = select_features(x, 8, "target", target, scheme=scheme)
    assert chosen.tolist() == straightforward(x, 8, target, scheme)
    one = select_features(x, 8, "target", target[:, 0], scheme=scheme)
    assert one.tolist() == straightforward(x, 8, target[:, :1], scheme)


def test_a_copy_has_to_wait(rng):
    x = rng.standard_normal((500, 6)).astype(np.float32) * np.float32([3, 2.9, 2, 1.5, 1.2, 1])
    x[:, 1] = 0.99 * x[:, 0]
    assert np.argsort(x.var(axis=0))[::-1][:3].tolist() == [0, 1, 2]
    assert select_features(x, 2).tolist() == [0, 2]
    assert select_features(x, 2, scheme="quotient")[1] != 1


def test_rows_with_gaps_and_constant_features(rng):
    x = mixed(rng, 300, 20)
    holes = x.copy()
    holes[::7, 3], holes[5, 0] = np.nan, np.inf
    whole = np.isfinite(holes).all(axis=1)
    assert select_features(holes, 10).tolist() == select_features(x[whole], 10).tolist()
    x[:, [2, 11]] = np.float32(0.1), np.float32(12345.678)
    chosen = select_features(x, 18)
    assert sorted(chosen) == [f for f in range(20) if f not in (2, 11)]
    assert chosen.tolist() == straightforward(x, 18)
    with pytest.raises(InputError, match="19 features of 20, of which 18 vary"):
        select_features(x, 19)
    with pytest.raises(InputError, match="no row is complete"):
        select_features(np.full((5, 3), np.nan), 1)


def test_moments_are_those_of_numpy(rng):
    x = mixed(rng, 9000, 12) + np.float32(200)
    target = np.where(
        rng.random((9000, 2)) < 0.5, np.nan, x[:, :2] + rng.standard_normal((9000, 2))
    )
    moments = feature_moments(x, target)
    exact = np.asarray(x, np.float64)
    assert moments.count == 9000
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-12)
    covariance = np.cov(exact.T, bias=True)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    np.testing.assert_allclose(moments.product / 9000 / scale, covariance / scale, atol=2e-6)
    known = [np.isfinite(t) for t in target.T]
    wanted = [
        [abs(np.corrcoef(exact[k, f], t[k])[0, 1]) for f in range(12)]
        for k, t in zip(known, target.T, strict=True)
    ]
    np.testing.assert_allclose(moments.target_relevance(), np.mean(wanted, axis=0), atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(
    cut=st.lists(st.integers(0, 200), max_size=4), seed=st.integers(0, 99), targets=st.booleans()
)
def test_parts_add_up(cut, seed, targets):
    rng = np.random.default_rng(seed)
    x = mixed(rng, 200, 10)
    x[rng.random(200) < 0.1, 4] = np.nan
    y = (
        np.where(rng.random((200, 2)) < 0.3, np.nan, rng.standard_normal((200, 2)))
        if targets
        else None
    )
    bounds = [0, *sorted(cut), 200]
    parts = [
        feature_moments(x[a:b], None if y is None else y[a:b])
        for a, b in itertools.pairwise(bounds)
    ]
    total, whole = parts[0], feature_moments(x, y)
    for part in parts[1:]:
        total = total + part
    assert total.count == whole.count
    np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-9, atol=1e-9)
    scale = np.sqrt(np.outer(np.diag(whole.product), np.diag(whole.product)))
    np.testing.assert_allclose(total.product / scale, whole.product / scale, atol=3e-6)
    if targets:
        np.testing.assert_allclose(total.target_relevance(), whole.target_relevance(), atol=1e-5)


@pytest.mark.parametrize("chunks", [(250, 40), (77, 13), (600, 40)])
def test_chunked_is_whole(rng, chunks):
    x = mixed(rng)
    target = rng.standard_normal((600, 2)) + x[:, :2]
    lazy = da.from_array(x, chunks=chunks)
    with_threads = select_features(lazy, 12)
    assert with_threads.tolist() == select_features(x, 12).tolist()
    for goal in (target, da.from_array(target, chunks=(100, 1))):
        assert (
            select_features(lazy, 9, "target", goal).tolist()
            == select_features(x, 9, "target", target).tolist()
        )


def test_on_processes(rng, client):
    x = mixed(rng, 300, 10)
    with client():
        assert (
            select_features(da.from_array(x, chunks=(50, 10)), 5).tolist()
            == select_features(x, 5).tolist()
        )


def test_maps(rng):
    # As surface features come: the dimension of features first, two of rows.
    cube = xr.DataArray(
        mixed(rng, 30 * 20, 16).T.reshape(16, 30, 20), dims=("feature", "lat", "lon")
    )
    cube[:, 3, 4] = np.nan
    rows = cube.values.reshape(16, -1).T
    chosen = select_features(cube, 6)
    assert chosen.tolist() == straightforward(rows, 6)
    assert select_features(cube.chunk(lat=7, lon=9), 6).tolist() == chosen.tolist()
    target = xr.DataArray(
        rng.standard_normal((2, 30, 20)) + cube.values[2], dims=("element", "lat", "lon")
    )
    wanted = select_features(rows, 6, "target", target.values.reshape(2, -1).T)
    assert select_features(cube, 6, "target", target).tolist() == wanted.tolist()
    assert (
        select_features(cube, 6, "target", target.transpose("lon", "element", "lat")).tolist()
        == wanted.tolist()
    )


def test_region_by_region(rng):
    parts = [mixed(rng, 100 + 50 * i, 12) for i in range(3)]
    total = sum((feature_moments(p) for p in parts[1:]), feature_moments(parts[0]))
    assert isinstance(total, FeatureMoments)
    assert select_features(total, 7).tolist() == select_features(np.concatenate(parts), 7).tolist()


def test_bad_input(rng):
    x = mixed(rng, 50, 5)
    for arguments, options, match in (
        ((x, 3, "entropy"), {}, "'entropy'"),
        ((x, 3), {"scheme": "product"}, "'product'"),
        ((x, 6), {}, "6 features of 5"),
        ((x, 0), {}, "0 features"),
        ((x, 3, "target"), {}, "without a target"),
        ((x, 3, "target", np.zeros(49)), {}, "for 50 rows"),
        ((x, 3, "target", np.full(50, np.nan)), {}, "no target is known"),
        ((x[0], 3), {}, "1 dimensions"),
        ((xr.DataArray(x, dims=("row", "band")), 3), {}, "no dimension 'feature'"),
        ((feature_moments(x), 3, "target"), {}, "hold no target"),
    ):
        with pytest.raises(InputError, match=match):
            select_features(*arguments, **options)
    with pytest.raises(InputError, match="same features"):
        feature_moments(x) + feature_moments(x[:, :4])
    cube = xr.DataArray(x, dims=("row", "feature"))
    with pytest.raises(InputError, match="dimensions"):
        select_features(cube, 2, "target", xr.DataArray(np.zeros(50), dims="pixel"))
