"""Canny's and Frangi's filters as baselines: against scikit-image, chunked as whole, tuned on labelled images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from lunarray.errors import InputError
from lunarray.fractures import classical_fractures
from lunarray.fractures.classical import Canny, Frangi, edges, flatten, ridges, tune_classical
from lunarray.simulate import NacSettings, nac_scene


@pytest.fixture(scope="module")
def scene():
    settings = NacSettings(fractures=25, melt=0.9, craters=200, strip_width=200)
    return nac_scene((300, 320), settings=settings, seed=5, incidence=60).dataset


@pytest.mark.parametrize("polarity", ["dark", "bright"])
@pytest.mark.parametrize("sigma", [1.5, 3.0])
def test_ridges_are_scikit_images(scene, polarity, sigma):
    """At one scale: scikit-image leaves out the factor sigma² that makes scales comparable."""
    from skimage.filters import frangi

    flat, _ = flatten(scene["image"].values[:200, :200])
    ours = ridges(flat, (sigma,), polarity, gamma=2.0)
    theirs = frangi(
        flat,
        [sigma],
        beta=0.5,
        gamma=2.0 / sigma**2,
        black_ridges=polarity == "dark",
        mode="nearest",
    )
    # They differentiate twice with the first derivative of a narrower Gaussian, ours is the second derivative.
    assert np.abs(ours - theirs).max() < 0.05
    assert np.abs(ours - theirs).mean() < 2e-3
    assert theirs.max() > 0.3


def test_both_polarities_are_the_greater(scene):
    flat, _ = flatten(scene["image"].values[:128, :128])
    dark, bright, both = (ridges(flat, (1.5, 3.0), p) for p in ("dark", "bright", "both"))
    np.testing.assert_array_equal(both, np.maximum(dark, bright))


def test_a_line_is_a_ridge_and_a_blob_is_none():
    y, x = np.mgrid[0:64, 0:64]
    line = -np.exp(-((x - 20.0) ** 2) / 8).astype(np.float32) * 4
    blob = -np.exp(-((x - 45.0) ** 2 + (y - 32.0) ** 2) / 8).astype(np.float32) * 4
    response = ridges(line + blob, (2.0,), "dark")
    assert response[32, 20] > 0.5 > 5 * response[32, 45]
    assert ridges(line, (2.0,), "bright")[32, 20] == 0


def test_edges_are_scikit_images(scene):
    """One threshold, so that Canny's hysteresis has nothing to do: nearly the same edges."""
    from skimage.feature import canny

    flat, _ = flatten(scene["image"].values[:160, :160])
    ours = edges(flat, 1.5)
    threshold = np.quantile(ours[ours > 0], 0.8)
    # scikit-image takes the gradient of the smoothed image with Sobel's operator, 8 times the derivative.
    theirs = canny(flat, 1.5, 8 * threshold, 8 * threshold, mode="nearest")
    found = ours >= threshold
    from scipy.ndimage import binary_dilation

    near = np.ones((3, 3))
    assert found.sum() > 100
    assert (found & binary_dilation(theirs, near)).sum() > 0.85 * found.sum()
    assert (theirs & binary_dilation(found, near)).sum() > 0.85 * theirs.sum()


def test_an_edge_is_one_pixel_wide():
    image = np.zeros((40, 40), np.float32)
    image[:, 20:] = 2
    steep = edges(image, 1.5) > 0.05
    np.testing.assert_array_equal(steep[5:35].sum(axis=1), 1)


@pytest.mark.parametrize(
    "method",
    [Frangi(least=0), Frangi(0.2, (1.5, 6.0), "both", grow=3), Canny(least=0), Canny(0.4, 2.0)],
)
def test_chunked_is_whole(scene, method):
    image = scene["image"]
    whole = classical_fractures(image, method)
    for y, x in ((100, 130), (300, 90)):
        parts = classical_fractures(image.chunk({"y": y, "x": x}), method)
        assert parts.chunks is not None
        assert (parts.data.npartitions > 1) == (method.least == 0)
        xr.testing.assert_identical(parts.compute(scheduler="synchronous"), whole)
    np.testing.assert_array_equal(whole.values == 255, np.isnan(image.values))
    assert (whole == 1).any()


def test_brightness_may_be_in_any_unit(scene):
    image = scene["image"]
    dn = (image * 4e4).astype(np.float32)
    for method in (Frangi(), Canny()):
        a, b = classical_fractures(image, method), classical_fractures(dn, method)
        assert (a != b).mean() < 1e-4


def test_small_detections_are_dropped(scene):
    from scipy.ndimage import label

    all_of_them = classical_fractures(scene["image"], Frangi(least=0)).values == 1
    kept = classical_fractures(scene["image"], Frangi(least=60)).values == 1
    labels, count = label(all_of_them, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    np.testing.assert_array_equal(kept, all_of_them & (sizes[labels] >= 60))
    assert kept.sum() < all_of_them.sum()


@pytest.mark.parametrize("kind", ["frangi", "canny"])
def test_tuning_finds_lines(kind):
    """Dark bars on noise: the tuned filter finds them in an image that it was not tuned on."""
    rng = np.random.default_rng(1)

    def image() -> tuple[np.ndarray, np.ndarray]:
        y, x = np.mgrid[0:140, 0:140]
        mask = np.zeros(x.shape, np.uint8)
        for _ in range(3):
            angle, offset = rng.uniform(0, np.pi), rng.uniform(40, 100)
            mask |= np.abs((x - offset) * np.cos(angle) + (y - offset) * np.sin(angle)) < 2.5
        return (1 - 0.3 * mask + rng.normal(0, 0.02, x.shape)).astype(np.float32), mask

    (a, mask_a), (b, mask_b) = image(), image()
    method, scores = tune_classical(kind, [a], [mask_a])
    assert isinstance(method, Frangi if kind == "frangi" else Canny)
    found = classical_fractures(xr.DataArray(b, dims=("y", "x")), method).values == 1
    f1 = 2 * (found & (mask_b == 1)).sum() / (found.sum() + mask_b.sum())
    assert scores["F1_pooled"] > 0.75
    assert f1 > 0.7
    # What tuning says of its own image is what the filter does there.
    again = classical_fractures(xr.DataArray(a, dims=("y", "x")), method).values == 1
    own = 2 * (again & (mask_a == 1)).sum() / (again.sum() + mask_a.sum())
    assert own == pytest.approx(scores["F1_pooled"], abs=1e-9)


def test_no_data_at_all():
    image = xr.DataArray(np.full((40, 40), np.nan, np.float32), dims=("y", "x"))
    for method in (Frangi(), Canny()):
        assert (classical_fractures(image, method) == 255).all()


def test_flat_ground():
    image = xr.DataArray(np.full((40, 40), 0.05, np.float32), dims=("y", "x"))
    for method in (Frangi(), Canny()):
        assert (classical_fractures(image, method) == 0).all()


def test_the_edge_of_the_data_is_no_fracture(scene):
    image = scene["image"].copy()
    image.values[:, 150:200] = np.nan
    smooth = xr.full_like(image, 0.05).where(np.isfinite(image))
    for method in (Frangi(0.1, least=0), Canny(0.1, least=0)):
        assert not (classical_fractures(smooth, method) == 1).any()


@pytest.mark.parametrize(
    "method",
    [
        Frangi(threshold=0),
        Frangi(sigmas=()),
        Frangi(polarity="grey"),  # type: ignore[arg-type]
        Frangi(gamma=-1),
        Canny(sigma=0),
        replace(Canny(), close=-1),
        "frangi",
    ],
)
def test_parameters_that_make_no_sense(scene, method):
    with pytest.raises(InputError):
        classical_fractures(scene["image"], method)


def test_faults(scene):
    with pytest.raises(InputError, match="dimensions"):
        classical_fractures(scene["image"].rename(y="lat"))
    with pytest.raises(InputError, match="kind: "):
        tune_classical("sobel", [scene["image"].values], [scene["mask"].values])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no labelled fracture"):
        tune_classical("canny", [scene["image"].values], [0 * scene["mask"].values])
