"""Tiles: windows, what is counted in them, rotated copies, and splits that keep ground apart."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from lunarray import geo
from lunarray.errors import GridError, InputError
from lunarray.fractures import split, tiles
from lunarray.geo import assign_grid, covering_box

SOUTH = geo.moon_crs("south")


def _image(data, corner=(90_000.0, -180_000.0), resolution=1.5, crs=SOUTH):
    rows, columns = data.shape
    bounds = (*corner, corner[0] + columns * resolution, corner[1] + rows * resolution)
    box = covering_box(bounds, resolution, crs)
    return assign_grid(xr.DataArray(data, dims=("y", "x"), name="image"), box)


@pytest.fixture
def pair(rng):
    image = rng.random((300, 410)).astype(np.float32)
    image[:140, :90] = np.nan
    label = (rng.random(image.shape) < 2e-4).astype(np.uint8)
    label[np.isnan(image)] = 255
    label[200:220, 300:320] = 255
    return _image(image), _image(label)


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5])
def test_windows_cover_the_image(pair, overlap):
    image, label = pair
    found = tiles(image, label, size=64, overlap=overlap)
    seen = np.zeros(image.shape, int)
    for which, row, column in found.windows:
        assert which == 0
        assert 0 <= row <= 300 - 64
        assert 0 <= column <= 410 - 64
        seen[row : row + 64, column : column + 64] += 1
    assert (seen[image.notnull()] > 0).all()
    step = round(64 * (1 - overlap))
    columns = np.unique(found.windows[:, 2])
    assert (np.diff(columns)[:-1] == step).all()
    # Tiles without any data are left out.
    assert not ((found.windows[:, 1] + 64 <= 140) & (found.windows[:, 2] + 64 <= 90)).any()


def test_contents(pair):
    image, label = pair
    found = tiles(image, label, size=64)
    assert len(found) == sum(1 for _ in found)
    for k in range(0, len(found), 3):
        _, row, column = found.windows[k]
        part = image.values[row : row + 64, column : column + 64]
        mark = label.values[row : row + 64, column : column + 64]
        picture, mask, valid = found[k]
        assert (picture.dtype, mask.dtype, valid.dtype) == (np.float32, np.uint8, bool)
        np.testing.assert_array_equal(picture, part)
        np.testing.assert_array_equal(mask, mark == 1)
        np.testing.assert_array_equal(valid, np.isfinite(part) & (mark != 255))
        assert found.has_fracture[k] == (mark == 1).any()
        assert found.valid_share[k] == pytest.approx(valid.mean())
    stacked = found.stack([0, 5])
    assert [a.shape for a in stacked] == [(2, 64, 64)] * 3
    np.testing.assert_array_equal(stacked[0][1], found[5][0])
    np.testing.assert_array_equal(found[-1][0], found[len(found) - 1][0])
    with pytest.raises(IndexError):
        found[len(found)]


def test_chunks_do_not_matter(pair):
    image, label = pair
    whole = tiles(image, label, size=50, overlap=0.2, min_valid=0.3)
    for a, b in ((37, 37), (100, 64), (300, 11)):
        parts = tiles(image.chunk(a), label.chunk(b), size=50, overlap=0.2, min_valid=0.3)
        np.testing.assert_array_equal(whole.windows, parts.windows)
        np.testing.assert_array_equal(whole.has_fracture, parts.has_fracture)
        np.testing.assert_array_equal(whole.valid_share, parts.valid_share)
        for one, other in zip(whole[7], parts[7], strict=True):
            np.testing.assert_array_equal(one, other)


def test_only_tiles_with_fractures_are_turned(pair):
    found = tiles(*pair, size=64)
    turned = found.with_rotations()
    marked = np.flatnonzero(found.has_fracture)
    assert 0 < marked.size < len(found)
    assert len(turned) == len(found) + 3 * marked.size
    first = len(found)
    for quarter in (1, 2, 3):
        for a, b in zip(found[marked[0]], turned[first + quarter - 1], strict=True):
            # Clockwise.
            np.testing.assert_array_equal(np.rot90(a, quarter, axes=(1, 0)), b)
    assert len(turned.with_rotations()) == len(turned) + 3 * marked.size


def test_small_images_and_no_labels(rng):
    small = _image(rng.random((20, 30)).astype(np.float32))
    found = tiles([small, small], size=64)
    assert len(found) == 2
    picture, mask, valid = found[1]
    assert valid.sum() == 600
    assert np.isnan(picture[20:]).all()
    assert not mask.any()
    assert not found.has_fracture.any()
    bare = xr.DataArray(rng.random((70, 70)).astype(np.float32), dims=("y", "x"))
    assert len(tiles(bare, size=64, overlap=0)) == 4


def test_min_valid(pair):
    image, label = pair
    some, most = (tiles(image, label, size=64, min_valid=v) for v in (0.0, 0.95))
    assert len(most) < len(some)
    assert most.valid_share.min() > 0.95


# --- splits ---------------------------------------------------------------------------------------


def _several(rng):
    """Five images; the second overlaps the first, the fourth (another projection) overlaps the third."""
    import pyproj

    equi = geo.moon_crs("equirectangular")
    data = rng.random((128, 192)).astype(np.float32)
    x, y = pyproj.Transformer.from_crs(SOUTH, equi, always_xy=True).transform(96_150, -179_900)
    x, y = x - x % 1.5, y - y % 1.5
    return [
        _image(data),
        _image(data, (90_270, -180_000)),
        _image(data, (96_000, -180_000)),
        _image(data, (x, y), crs=equi),
        _image(data, (99_000, -180_000)),
    ]


def test_by_image_the_same_ground_is_on_one_side(rng):
    found = tiles(_several(rng), size=64, overlap=0)
    for seed in range(8):
        training, validation = split(found, seed=seed)
        left, right = (set(np.unique(s.windows[:, 0]).tolist()) for s in (training, validation))
        assert not left & right
        assert left | right == set(range(5))
        for together in ({0, 1}, {2, 3}):
            assert together <= left or together <= right
    again = split(found, seed=3)
    np.testing.assert_array_equal(again[0].windows, split(found, seed=3)[0].windows)


def test_by_image_is_near_the_fraction(rng):
    data = rng.random((64, 64 * 3)).astype(np.float32)
    images = [_image(data, (90_000 + 3_000 * k, -180_000)) for k in range(20)]
    training, validation = split(tiles(images, size=64, overlap=0), fraction=0.2, seed=1)
    assert len(validation) == 12
    assert len(training) == 48


def test_by_area_tiles_share_no_pixel(pair):
    found = tiles(*pair, size=64, overlap=0.5)
    for seed in range(4):
        training, validation = split(found, by="area", fraction=0.25, seed=seed)
        for _, row, column in validation.windows:
            apart = (np.abs(training.windows[:, 1] - row) >= 64) | (
                np.abs(training.windows[:, 2] - column) >= 64
            )
            assert apart.all()
        assert 0.1 < len(validation) / (len(validation) + len(training)) < 0.4


def test_by_tile(pair):
    found = tiles(*pair, size=64)
    training, validation = split(found, by="tile", seed=2)
    assert len(validation) == round(0.2 * len(found))
    both = np.concatenate([training.windows, validation.windows])
    np.testing.assert_array_equal(
        both[np.lexsort(both.T[::-1])], found.windows[np.lexsort(found.windows.T[::-1])]
    )


def test_what_is_refused(pair):
    image, label = pair
    empty = image.where(False)
    for arguments, options, error, words in (
        ((image, label[:-1]), {}, GridError, "labels of image 0.*one grid"),
        ((image, [label, label]), {}, InputError, "1 images and 2 labels"),
        (([],), {}, InputError, "0 images"),
        ((image,), {"size": 0}, InputError, "size"),
        ((image,), {"overlap": 1.0}, InputError, "overlap"),
        ((image[0],), {}, GridError, "no image"),
        (([empty, empty],), {}, InputError, "no tile of 2 images holds data"),
    ):
        with pytest.raises(error, match=words):
            tiles(*arguments, **options)
    found = tiles(image, label, size=64)
    for options, words in (
        ({}, "1 images do not split by image.*area"),
        ({"by": "crater"}, "by: "),
        ({"fraction": 1.5}, "fraction"),
    ):
        with pytest.raises(InputError, match=words):
            split(found, **options)
