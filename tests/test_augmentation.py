"""Training tiles changed at random: the mask moves with the image, and chance comes from the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lunarray.errors import InputError
from lunarray.fractures.augmentation import augment, draw_corners, equalise, homography, look

OFF = {"clahe": 0.0, "noise": 0.0, "perspective": 0.0}


@pytest.fixture
def tile(rng):
    """A bright bar on a grey ground with a gradient, and its mask."""
    y, x = np.mgrid[0:96, 0:128]
    mask = (np.abs(y - 0.5 * x - 10) < 6).astype(np.uint8)
    image = (0.04 + 1e-4 * x + 0.03 * mask + rng.normal(0, 1e-4, mask.shape)).astype(np.float32)
    return image, mask


def test_same_seed_same_tile(tile):
    for seed in range(4):
        one, two = augment(*tile, rng=seed), augment(*tile, None, np.random.default_rng(seed))
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(augment(*tile, rng=1)[0], augment(*tile, rng=2)[0], equal_nan=True)


def test_nothing_at_probability_zero(tile):
    image, mask, valid = augment(*tile, rng=3, **OFF)
    np.testing.assert_array_equal(image, tile[0])
    np.testing.assert_array_equal(mask, tile[1])
    assert valid.all()


def test_input_is_left_alone(tile):
    before = [a.copy() for a in tile]
    augment(*tile, rng=0, clahe=1, noise=1, perspective=1)
    for a, b in zip(before, tile, strict=True):
        np.testing.assert_array_equal(a, b)


def test_half_of_the_tiles_each_and_independently(tile):
    """Which of the three was used shows in what changed."""
    used = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        used.append(rng.random(3) < 0.5)
    used = np.array(used)
    # What the function does is what these draws say.
    for seed in range(12):
        image, mask, valid = augment(*tile, rng=seed)
        assert (not valid.all()) == used[seed, 2]
        if not used[seed, 2]:
            assert (not np.array_equal(image, tile[0])) == used[seed, :2].any()
            np.testing.assert_array_equal(mask, tile[1])
    assert np.abs(used.mean(axis=0) - 0.5).max() < 0.09
    assert np.abs(np.corrcoef(used.T.astype(float)) - np.eye(3)).max() < 0.16


def test_noise_has_the_stated_deviation(rng):
    """Sigma ~ U(0.0075, 0.0125) of the tile's range, whatever the unit."""
    flat = np.linspace(0, 1, 128 * 128, dtype=np.float32).reshape(128, 128)
    none = np.zeros(flat.shape, np.uint8)
    sigmas = []
    for seed in range(60):
        image, *_ = augment(1000 * flat + 50, none, rng=seed, **{**OFF, "noise": 1.0})
        sigmas.append(float((image - 1000 * flat - 50).std()) / 990)  # 0.5th to 99.5th percentile
    assert 0.0073 < min(sigmas) < 0.0082
    assert 0.0118 < max(sigmas) < 0.0127
    assert np.mean(sigmas) == pytest.approx(0.01, abs=5e-4)


def test_one_probability_does_not_change_the_other_draws(tile):
    with_clahe = augment(*tile, rng=9, clahe=1, noise=0, perspective=1)
    without = augment(*tile, rng=9, clahe=0, noise=0, perspective=1)
    np.testing.assert_array_equal(with_clahe[1], without[1])
    np.testing.assert_array_equal(with_clahe[2], without[2])


def test_mask_moves_with_the_image(tile):
    """After a change of perspective the bar is still where its mask is."""
    for seed in range(10):
        image, mask, valid = augment(*tile, rng=seed, **{**OFF, "perspective": 1.0})
        assert 0.1 < valid.mean() < 1
        np.testing.assert_array_equal(valid, np.isfinite(image))
        np.testing.assert_array_equal(mask == 255, ~valid)
        inside, outside = mask == 1, mask == 0
        if inside.sum() < 30:
            continue
        # The bar is 0.03 brighter: halfway is an edge, blurred over one pixel.
        level = 0.04 + 0.02
        wrong = (image[inside] < level).sum() + (image[outside] > level).sum()
        assert wrong < 0.1 * inside.sum()


@pytest.mark.parametrize("clahe", [0.0, 1.0])
def test_gaps_stay_gaps(tile, clahe):
    image, mask = tile[0].copy(), tile[1].copy()
    image[10:20, 30:50] = np.nan
    valid = np.ones(mask.shape, bool)
    valid[80:, :] = False
    mask[0:5, 0:5] = 255
    out, labels, good = augment(image, mask, valid, 4, clahe=clahe, noise=1, perspective=0)
    expected = np.isfinite(image) & valid & (mask != 255)
    np.testing.assert_array_equal(good, expected)
    np.testing.assert_array_equal(np.isnan(out), ~expected)
    np.testing.assert_array_equal(labels == 255, ~expected)


def test_a_tile_without_data():
    image = np.full((32, 32), np.nan, np.float32)
    out, labels, good = augment(
        image, np.zeros((32, 32), np.uint8), rng=0, clahe=1, noise=1, perspective=1
    )
    assert np.isnan(out).all()
    assert (labels == 255).all()
    assert not good.any()


def test_a_flat_tile():
    image = np.full((32, 32), 0.05, np.float32)
    out, *_ = augment(image, np.zeros((32, 32), np.uint8), rng=0, clahe=1, noise=1, perspective=0)
    np.testing.assert_array_equal(out, image)


def test_equalise_is_skimage_on_whole_tiles(rng):
    from skimage.exposure import equalize_adapthist

    image = rng.random((64, 80)).astype(np.float32) ** 2
    np.testing.assert_allclose(
        equalise(image), equalize_adapthist(image, clip_limit=0.01), atol=1e-6
    )


def test_equalise_raises_local_contrast():
    y, x = np.mgrid[0:128, 0:128]
    image = (0.2 + 0.5 * (x > 64) + 0.02 * np.sin(y)).astype(np.float32)
    image[:4, :4] = np.nan
    out = equalise(image, 0.05)
    assert np.isnan(out[:4, :4]).all()
    assert np.nanstd(out[30:90, 20]) > 1.5 * np.nanstd(image[30:90, 20])


# Perspective --------------------------------------------------


@given(seed=st.integers(0, 10_000), distortion=st.floats(0.5, 1.5))
@settings(max_examples=60, deadline=None)
def test_corners_make_a_view(seed, distortion):
    corners = draw_corners((100, 140), distortion, np.random.default_rng(seed))
    span = np.array([139, 99])
    original = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * span
    inward = np.abs(corners - original) / span
    assert (inward <= 0.5 * distortion).all()
    assert ((corners >= 0) & (corners <= span)).all()
    from shapely.geometry import Polygon

    shape = Polygon(corners)
    assert shape.is_valid
    assert shape.area >= 0.149 * span.prod()
    assert shape.convex_hull.area == pytest.approx(shape.area)
    # Seen through the map the corners are the tile's.
    matrix = homography(corners, (100, 140))
    seen = np.column_stack([corners, np.ones(4)]) @ matrix.T
    np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], original, atol=1e-6)


def test_distortion_is_torchvisions():
    """The same corners give the same picture as torchvision's perspective."""
    import torch
    from torchvision.transforms.v2 import functional

    y, x = np.mgrid[0:64, 0:64]
    image = np.sin(x / 9.0) * np.cos(y / 7.0) + 2
    corners = np.array([[6, 3], [60, 9], [52, 58], [2, 50]], float)
    ours, _ = look(
        image.astype(np.float32), np.zeros((64, 64), np.uint8), homography(corners, (64, 64))
    )
    start = [[0, 0], [63, 0], [63, 63], [0, 63]]
    theirs = functional.perspective(
        torch.from_numpy(image)[None].float(), start, corners.astype(int).tolist(), fill=0.0
    )[0].numpy()
    both = np.isfinite(ours) & (theirs > 0.9)
    # Theirs counts places from pixel corners, half a pixel aside at most.
    assert both.mean() > 0.6
    assert np.abs(ours - theirs)[both].mean() < 0.03


def test_identity_view(tile):
    square = np.array([[0, 0], [127, 0], [127, 95], [0, 95]], float)
    image, mask = look(*tile, homography(square, (96, 128)))
    np.testing.assert_allclose(image, tile[0], atol=1e-6)
    np.testing.assert_array_equal(mask, tile[1])


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"clahe": 1.5}, "clahe"),
        ({"noise": -0.1}, "noise"),
        ({"sigma": (0.2, 0.1)}, "sigma"),
        ({"distortion": (-1, 1)}, "distortion"),
    ],
)
def test_numbers_out_of_range(tile, change, where):
    with pytest.raises(InputError) as caught:
        augment(*tile, rng=0, **change)
    assert caught.value.where == where


def test_shapes_that_differ(tile):
    with pytest.raises(InputError, match="shapes"):
        augment(tile[0], tile[1][:-1])
    with pytest.raises(InputError, match="shapes"):
        augment(tile[0][None], tile[1][None])
    with pytest.raises(InputError, match="shapes"):
        augment(*tile, np.ones((3, 3), bool))
