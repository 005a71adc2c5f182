"""Graphs: the exact nearest by place and features, against sorting all pairs in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lunarray.errors import InputError
from lunarray.geo import RADIUS, great_circle_distance
from lunarray.superres import neighbours
from lunarray.superres.graph import ALPHA, BETA, LENGTH, Search


def brute_force(lat, lon, w, k, *, alpha=ALPHA, beta=BETA, length=LENGTH, square=None, own=False):
    """All pairs in float64; exponents equal in float32 are ties, the lower index first."""
    w = np.asarray(w, np.float64)
    square = 2 * w.shape[1] if square is None else square
    n = len(lat)
    index, weight = np.full((n, k), -1), np.zeros((n, k))
    good = np.flatnonzero(np.isfinite(w).all(axis=1))
    for i in good:
        distance = great_circle_distance(lon[i], lat[i], lon[good], lat[good])
        score = alpha * distance / length + beta * ((w[good] - w[i]) ** 2).sum(axis=1) / square
        order = np.lexsort((good, score.astype(np.float32)))
        if not own:
            order = order[good[order] != i]
        index[i], weight[i] = good[order[:k]], np.exp(-score[order[:k]])
    return index, weight


def patch(rows, columns, north=10.0, west=20.0, step=0.066):
    lat, lon = np.meshgrid(
        north - step * np.arange(rows), west + step * np.arange(columns), indexing="ij"
    )
    return lat.ravel(), lon.ravel()


def agree(lat, lon, w, k, threads=1, block=64, **options):
    index, weight = neighbours(lat, lon, w, k, threads=threads, block=block, **options)
    own = options.pop("include_self", False)
    wanted, heavy = brute_force(lat, lon, w, k, own=own, **options)
    assert index.dtype == np.int32
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight, heavy, rtol=2e-6, atol=1e-30)
    # Places equally far by symmetry may differ in the last digit of float64, and so, rarely, in that of float32.
    differ = index != wanted
    assert differ.mean() < 1e-3
    assert np.allclose(weight[differ], heavy[differ], rtol=1e-6)
    return index, weight


def smooth(rng, rows, columns, features):
    from scipy.ndimage import gaussian_filter

    z = gaussian_filter(rng.standard_normal((rows, columns, features)), (2, 2, 0)).reshape(
        -1, features
    )
    return ((z - z.mean(0)) / z.std(0)).astype(np.float32)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_equals_brute_force(rng, own, threads):
    lat, lon = patch(20, 25)
    w = smooth(rng, 20, 25, 30)
    index, weight = agree(lat, lon, w, 40, threads, include_self=own)
    assert (np.diff(weight, axis=1) <= 0).all()
    if own:
        assert (index[:, 0] == np.arange(500)).all()
        assert (weight[:, 0] == 1).all()
    else:
        assert not (index == np.arange(500)[:, None]).any()


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
def test_the_block_does_not_matter(rng, block):
    lat, lon = patch(12, 15)
    w = smooth(rng, 12, 15, 10)
    for one, other in zip(
        neighbours(lat, lon, w, 20, block=block), neighbours(lat, lon, w, 20), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_features_that_are_far_from_zero_lose_no_neighbours(rng):
    # The product of such features loses most of its digits: the margin must grow with them.
    lat, lon = patch(16, 16)
    w = smooth(rng, 16, 16, 20) + np.float32(1000)
    w[::50] *= np.float32(1.5)
    agree(lat, lon, w, 25)


def test_ties_go_to_the_lower_index(rng):
    lat, lon = np.full(60, 5.0), np.full(60, 7.0)
    w = np.repeat(rng.standard_normal((6, 4)).astype(np.float32), 10, axis=0)
    index, weight = agree(lat, lon, w, 12)
    assert (weight[:, :9] == 1).all()
    assert index[0, :9].tolist() == list(range(1, 10))
    assert index[5, :9].tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_more_ties_than_candidates_have_room_for():
    # All nodes are the same: whatever is kept for later fills up, and the first ones count.
    n, k = 2000, 5
    index, weight = neighbours(np.zeros(n), np.zeros(n), np.zeros((n, 3), np.float32), k)
    assert (weight == 1).all()
    assert index[0].tolist() == [1, 2, 3, 4, 5]
    assert index[3].tolist() == [0, 1, 2, 4, 5]
    assert (index[100:] == np.arange(5)).all()


def test_across_the_seam(rng):
    lat, lon = patch(14, 20, west=179.5)
    assert lon.max() > 180
    w = smooth(rng, 14, 20, 6)
    wrapped = np.where(lon >= 180, lon - 360, lon)
    one, other = neighbours(lat, lon, w, 30), agree(lat, wrapped, w, 30)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-6)
    away = neighbours(lat, lon - 100, w, 30)
    np.testing.assert_allclose(one[1], away[1], rtol=1e-6)


@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_around_a_pole(rng, pole):
    # Rings of pixels around the pole, the pole itself several times: distances go straight across.
    lat = np.concatenate(
        [np.full(4, pole), np.repeat(pole - np.sign(pole) * 0.07 * np.arange(1, 6), 24)]
    )
    lon = np.concatenate([[-180.0, -90.0, 0.0, 90.0], np.tile(-180 + 15.0 * np.arange(24), 5)])
    w = rng.standard_normal((lat.size, 5)).astype(np.float32)
    agree(lat, lon, w, 20, beta=0.01)
    index, _ = neighbours(lat, lon, np.zeros((lat.size, 1), np.float32), 3)
    assert set(index[0]) == {1, 2, 3}


def test_places_anywhere_on_the_globe(rng):
    n = 400
    lat, lon = np.rad2deg(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)
    w = rng.standard_normal((n, 3)).astype(np.float32)
    assert not Search(lat, lon, w, 9, 1, 2, 1e6, None, False, 64, 1).scaled()[-1]
    agree(lat, lon, w, 300, alpha=3.0, length=1e6)


def test_one_side_alone(rng):
    lat, lon = patch(9, 11)
    w = rng.standard_normal((99, 7)).astype(np.float32)
    agree(lat, lon, w, 10, alpha=0.0)
    _, near = agree(lat, lon, w, 10, beta=0.0)
    step = np.deg2rad(0.066) * RADIUS
    assert near[50, 0] == pytest.approx(
        np.exp(-ALPHA * step * np.cos(np.deg2rad(lat[50])) / LENGTH), rel=1e-5
    )


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 60),
    features=st.integers(1, 9),
    k=st.integers(1, 59),
    spread=st.sampled_from([1e-6, 0.1, 20.0, 300.0]),
    levels=st.sampled_from([1, 2, 1000]),
    alpha=st.sampled_from([0.0, 0.5, 30.0]),
    seed=st.integers(0, 1000),
)
def test_any_nodes(n, features, k, spread, levels, alpha, seed):
    rng = np.random.default_rng(seed)
    k = min(k, n - 1)
    lat = np.clip(rng.normal(80, spread / 10, n), -90, 90)
    lon = rng.normal(179, spread, n)
    w = rng.integers(0, levels, (n, features)).astype(np.float32)
    index, weight = neighbours(lat, lon, w, k, alpha=alpha, block=16)
    _, heavy = brute_force(lat, lon, w, k, alpha=alpha)
    np.testing.assert_allclose(weight, heavy, rtol=3e-6, atol=1e-37)
    assert all(len(set(row)) == k for row in index.tolist())


def test_nodes_without_features_have_no_edges(rng):
    lat, lon = patch(10, 10)
    w = rng.standard_normal((100, 4)).astype(np.float32)
    w[[0, 17, 99], [0, 1, 3]] = np.nan
    lat[50] = np.nan
    index, weight = neighbours(lat, lon, w, 12)
    lost = [0, 17, 50, 99]
    assert (index[lost] == -1).all()
    assert (weight[lost] == 0).all()
    assert not np.isin(index, lost).any()
    keep = np.setdiff1d(np.arange(100), lost)
    part, _ = neighbours(lat[keep], lon[keep], w[keep], 12)
    np.testing.assert_array_equal(index[keep], keep[part])
    nothing = neighbours(lat, lon, np.full_like(w, np.nan), 3)
    assert (nothing[0] == -1).all()


@pytest.mark.parametrize("ties", [False, True])
def test_the_way_of_accelerators_is_the_same(rng, ties):
    # torch's own operations, here on the CPU.
    lat, lon = patch(15, 18)
    w = np.ones((270, 12), np.float32) if ties else smooth(rng, 15, 18, 12)
    problem = Search(lat, lon, w, 30, 1.0, 2.0, LENGTH, None, False, 50, 1)
    index, weight = problem.on_torch("cpu")
    wanted, heavy = problem.on_cpu()
    np.testing.assert_allclose(weight, heavy, rtol=1e-6)
    assert (index != wanted).mean() < 1e-3
    if ties:
        problem = Search(lat * 0, lon * 0, w, 30, 1.0, 2.0, LENGTH, None, False, 50, 1)
        np.testing.assert_array_equal(problem.on_torch("cpu")[0], problem.on_cpu()[0])


def test_defaults_put_features_first(rng):
    # "β > α" with both counted in typical sizes: of a sub-region, and of standardised features.
    lat, lon = patch(100, 100)
    w = rng.standard_normal((10_000, 8)).astype(np.float32)
    one, other = rng.integers(0, 10_000, (2, 4000))
    place = ALPHA * great_circle_distance(lon[one], lat[one], lon[other], lat[other]) / LENGTH
    look = BETA * ((w[one] - w[other]) ** 2).sum(axis=1) / (2 * 8)
    assert BETA > ALPHA
    assert look.mean() > place.mean()


def test_bad_input(rng):
    lat, lon, w = np.zeros(5), np.zeros(5), rng.standard_normal((5, 2))
    for change, match in (
        ({"k": 5}, "5 neighbours of each of 5 nodes"),
        ({"k": 0}, "0 neighbours"),
        ({"alpha": -1.0}, "alpha"),
        ({"beta": np.nan}, "beta"),
        ({"length": 0.0}, "length"),
        ({"square": -2.0}, "square"),
        ({"block": 0}, "block"),
    ):
        with pytest.raises(InputError, match=match):
            neighbours(lat, lon, w, **{"k": 2, **change})
    with pytest.raises(InputError, match="do not fit together"):
        neighbours(lat, lon[:4], w, 2)
    assert neighbours(lat, lon, w, 5, include_self=True)[0].shape == (5, 5)


def test_kernels_without_compilation(rng):
    # The same code as Python, line by line.
    from lunarray.superres import graph_kernels as kernels

    values = rng.permutation(50).astype(np.float32)
    assert kernels._smallest.py_func(values, np.empty(50, np.float32), 50, 10) == 9
    columns = np.arange(50, dtype=np.int32)
    limit, kept = kernels._reduce.py_func(
        values.copy(), columns, np.empty(50, np.float32), 50, 10, np.float32(0.5)
    )
    assert (limit, kept) == (9.5, 10)
    h = np.sin(np.deg2rad([0.5, 20.0, 100.0, 179.0]) / 2) ** 2
    places = np.zeros((3, 4), np.float32)
    places[0] = 2 * np.sqrt(h)
    out = np.empty(4, np.float32)
    zero = np.zeros(4, np.float32)
    kernels._strip_far.py_func(out, 0, 4, zero, zero, places, 0, 0, 0, np.float32(2))
    np.testing.assert_allclose(np.rad2deg(out), [0.5, 20, 100, 179], rtol=1e-5)
    kernels._strip_near.py_func(out, 0, 2, zero, zero, places, 0, 0, 0, np.float32(2))
    np.testing.assert_allclose(np.rad2deg(out[:2]), [0.5, 20], rtol=1e-6)
