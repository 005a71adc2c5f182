"""Pictures of fractures: what is drawn where, on which pixels, for placed and unplaced images, lazily."""

from __future__ import annotations

import dask.array as da
import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr
from matplotlib.colors import to_rgba

from lunarray import geo, plot
from lunarray.errors import GridError, InputError
from lunarray.fractures import compare, density, orientation_rose, vectorize
from lunarray.geo import assign_grid, covering_box
from lunarray.plot.fractures import AGREEMENT, DETECTION

SOUTH = geo.moon_crs("south")


def _image(data, corner=(0.0, 3_000.0)):
    rows, columns = data.shape
    box = covering_box((*corner, corner[0] + columns, corner[1] + rows), 1.0, SOUTH)
    return assign_grid(xr.DataArray(data, dims=("y", "x"), name="image"), box)


@pytest.fixture
def scene(rng):
    mask = np.zeros((200, 300), np.uint8)
    mask[150:154, 40:120] = 1
    mask[30:34, 200:220] = 1
    image = rng.random(mask.shape).astype(np.float32)
    image[:20, :20] = np.nan
    mask[:20, :20] = 255
    return _image(image), _image(mask)


def _pictures(axis):
    return list(axis.get_images())


def test_three_scales(scene, tmp_path):
    image, mask = scene
    figure = plot.detections(image, vectorize(mask, min_area=0), path=tmp_path / "a.png", title="A")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    axes = figure.get_axes()
    assert [a.get_title() for a in axes] == ["mosaic", "complex", "pixels"]
    # About the longest fracture: 40–120 by rows 150–154 counted from the top.
    for axis, width in zip(axes[1:], (50.0, 48.0), strict=True):
        left, right = axis.get_xlim()
        bottom, top = axis.get_ylim()
        assert right - left == pytest.approx(width)
        assert left < 80 < right
        assert bottom < 3_048 < top
    # The panels show the image's own pixels.
    shown = _pictures(axes[2])[0].get_array()
    rows = slice(round(3_200 - axes[2].get_ylim()[1]), round(3_200 - axes[2].get_ylim()[0]))
    columns = slice(*(round(v) for v in axes[2].get_xlim()))
    np.testing.assert_allclose(shown, image.values[rows, columns])


def test_masks_are_laid_on_their_pixels(scene):
    image, mask = scene
    figure = plot.detections(image, mask, windows=[(210.0, 3_168.0, 60.0)])
    axis = figure.get_axes()[1]
    under, over = _pictures(axis)
    assert under.get_extent() == over.get_extent() == [180.0, 240.0, 3_138.0, 3_198.0]
    shade = over.get_array()
    expected = mask.values[2:62, 180:240] == 1
    np.testing.assert_array_equal(shade[..., 3] > 0, expected)
    np.testing.assert_allclose(shade[expected][0], to_rgba(DETECTION, 0.6))


def test_thin_fractures_stay_when_a_view_is_decimated(scene):
    image, mask = scene
    figure = plot.detections(image.chunk(64), mask.chunk(50), max_pixels=900)
    under, over = _pictures(figure.get_axes()[0])
    step = round(200 / under.get_array().shape[0])
    assert step >= 8
    rows, columns = 200 // step, 300 // step
    blocks = mask.values[: rows * step, : columns * step].reshape(rows, step, columns, step)
    np.testing.assert_array_equal(over.get_array()[..., 3] > 0, (blocks == 1).any(axis=(1, 3)))


def test_an_image_without_a_place(scene):
    image, mask = (xr.DataArray(a.values, dims=("y", "x")) for a in scene)
    figure = plot.detections(image, mask)
    assert figure.get_axes()[0].get_ylim() == (200, 0)
    under, over = _pictures(figure.get_axes()[1])
    left, right, bottom, top = (round(v) for v in under.get_extent())
    np.testing.assert_allclose(under.get_array(), image.values[top:bottom, left:right])
    np.testing.assert_array_equal(
        over.get_array()[..., 3] > 0, mask.values[top:bottom, left:right] == 1
    )
    with pytest.raises(GridError, match="without coordinates"):
        plot.detections(image, vectorize(scene[1], min_area=0))


def test_only_what_is_shown_is_computed():
    seen = []

    def block(block_info=None):
        seen.append(block_info[None]["chunk-location"])
        return np.ones((100, 100), np.float32)

    chunks = ((100,) * 8, (100,) * 8)
    lazy = da.map_blocks(block, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    image = _image(lazy)
    nothing = geopandas.GeoDataFrame(geometry=[], crs=SOUTH.to_wkt())
    figure = plot.agreement(image, nothing, nothing, window=(150.0, 3_750.0, 80.0))
    assert set(seen) == {(0, 1)}
    assert len(figure.get_axes()[0].get_images()) == 1


def test_agreement_of_masks_and_of_polygons(scene):
    image, mask = scene
    other = mask.copy(data=np.roll(mask.values, 2, axis=0))
    other[:24, :20] = 255
    axis = plot.agreement(image, mask, other).get_axes()[0]
    shade = _pictures(axis)[1].get_array()
    a, b = mask.values == 1, other.values == 1
    for (colour, _), where in zip(AGREEMENT.values(), (a & b, a & ~b, ~a & b), strict=True):
        assert where.any()
        np.testing.assert_allclose(shade[where], np.broadcast_to(to_rgba(colour, 0.6), (where.sum(), 4)))  # fmt: skip
    assert (shade[..., 3] > 0).sum() == (a | b).sum()
    texts = [t.get_text() for t in axis.get_legend().get_texts()]
    assert texts == [text for _, text in AGREEMENT.values()]

    ours, theirs = vectorize(mask, min_area=0), vectorize(other, min_area=0)
    found = compare(ours, theirs)
    for arguments in ((ours, theirs), (found,)):
        axis = plot.agreement(image, *arguments).get_axes()[0]
        areas = []
        for collection, (colour, _) in zip(axis.collections, AGREEMENT.values(), strict=True):
            np.testing.assert_allclose(collection.get_facecolor()[0], to_rgba(colour, 0.6))
            areas.append(sum(shapely.Polygon(p.vertices).area for p in collection.get_paths()))
        assert areas == [(a & b).sum(), (a & ~b).sum(), (~a & b).sum()]


def test_rose_and_density(scene, tmp_path):
    found = vectorize(scene[1], min_area=0)
    axis = plot.rose(found, bins=12, path=tmp_path / "rose.svg").get_axes()[0]
    bars = axis.patches
    assert len(bars) == 24
    share = orientation_rose(found, 12)["share"].values
    # Area of a bar goes with the length in it.
    np.testing.assert_allclose([b.get_height() ** 2 for b in bars[:12]], share * 100, atol=1e-9)
    plot.rose(found[:0])
    made = density(found, 20.0, like=scene[0])
    figure = plot.fracture_density(made, found)
    assert figure.get_axes()[1].get_ylabel().endswith("(km/km²)")
    np.testing.assert_allclose(_pictures(figure.get_axes()[0])[0].get_array(), made)


def test_training_curves():
    epochs = np.arange(1, 13)
    loss = np.stack([1.0 / epochs, 2.0 / epochs], 1)
    history = xr.Dataset(
        {"loss": (("epoch", "split"), loss), "F1": (("epoch", "split"), 1 - loss / 2)},
        {"epoch": epochs, "split": ["training", "validation"]},
        {"best_epoch": 7},
    )
    axes = plot.training_curves(history, rolling=3).get_axes()
    assert [a.get_title() for a in axes] == ["BCE loss", "F1"]
    faint, smooth = axes[0].get_lines()[:2]
    np.testing.assert_allclose(faint.get_ydata(), loss[:, 0])
    np.testing.assert_allclose(smooth.get_ydata()[4], loss[2:5, 0].mean())
    assert axes[0].get_lines()[-1].get_xdata()[0] == 7
    with pytest.raises(InputError, match="no training history"):
        plot.training_curves(history.drop_vars(["loss", "F1"]))


def test_what_is_refused(scene):
    image, mask = scene
    found = vectorize(mask, min_area=0)
    with pytest.raises(InputError, match="a mask and polygons"):
        plot.agreement(image, mask, found)
    with pytest.raises(GridError, match="one grid"):
        plot.detections(image, mask[:-1])
    with pytest.raises(InputError, match="without polygons"):
        plot.agreement(image, compare(mask, mask))
    lines = geopandas.GeoDataFrame(geometry=[shapely.LineString([(0, 0), (1, 1)])], crs=SOUTH.to_wkt())  # fmt: skip
    with pytest.raises(InputError, match="lines have no area"):
        plot.agreement(image, lines, lines)
