"""Scores of maps: averaged over tiles as in the paper, and over all pixels."""

from __future__ import annotations

import math

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lunarray.errors import GridError, InputError
from lunarray.fractures import segmentation_metrics
from lunarray.fractures.metrics import (
    confusion,
    harmonic,
    pixel_metrics,
    tile_metrics,
)

_MASKS = hnp.arrays(np.uint8, (3, 4, 5), elements=st.sampled_from([0, 1, 255]))


def brute(predicted, labels):
    """Pixel by pixel."""
    tp = fp = fn = tn = 0
    for p, t in zip(predicted.ravel().tolist(), labels.ravel().tolist(), strict=True):
        if 255 in (p, t):
            continue
        tp += p == 1 and t == 1
        fp += p == 1 and t == 0
        fn += p == 0 and t == 1
        tn += p == 0 and t == 0
    return tp, fp, fn, tn


@given(_MASKS, _MASKS)
def test_counts_and_scores_against_brute_force(predicted, labels):
    counts = confusion(predicted, labels)
    assert [tuple(row) for row in counts.tolist()] == [
        brute(p, t) for p, t in zip(predicted, labels, strict=True)
    ]
    precisions, recalls, overlaps = [], [], []
    for tp, fp, fn, _ in counts.tolist():
        precisions += [tp / (tp + fp)] if tp + fp else []
        recalls += [tp / (tp + fn)] if tp + fn else []
        overlaps += [tp / (tp + fp + fn)] if tp + fp + fn else []
    scores = tile_metrics(counts)
    for name, values in (("precision", precisions), ("recall", recalls), ("IoU", overlaps)):
        assert scores[f"tiles_{name}"] == len(values)
        if values:
            assert scores[name] == pytest.approx(sum(values) / len(values))
        else:
            assert math.isnan(scores[name])
    if precisions and recalls:
        p, r = scores["precision"], scores["recall"]
        assert scores["F1"] == pytest.approx(2 * p * r / (p + r) if p + r else 0)
    else:
        assert math.isnan(scores["F1"])
    tp, fp, fn, _ = counts.sum(axis=0).tolist()
    pooled = pixel_metrics(counts)
    if tp + fp + fn:
        assert pooled["IoU_pooled"] == pytest.approx(tp / (tp + fp + fn))
        assert pooled["F1_pooled"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    else:
        assert math.isnan(pooled["F1_pooled"])


def test_tiles_count_alike_in_the_papers_averages_and_pixels_in_the_pooled():
    """A tile with one fracture pixel, missed, weighs as much as one with fifty, found."""
    labels = np.zeros((2, 10, 10), np.uint8)
    labels[0, :5] = 1
    labels[1, 0, 0] = 1
    predicted = labels.copy()
    predicted[1, 0, 0] = 0
    counts = confusion(predicted, labels)
    assert tile_metrics(counts)["recall"] == pytest.approx(0.5)
    assert tile_metrics(counts)["precision"] == 1
    assert tile_metrics(counts)["tiles_precision"] == 1
    assert pixel_metrics(counts)["recall_pooled"] == pytest.approx(50 / 51)


def test_f1_of_the_paper_is_of_the_averages():
    # Table 3, ResNet50, batch of 32: P 77.4, R 62.8, F1 69.4 %, each rounded.
    assert harmonic(0.774, 0.628) == pytest.approx(0.694, abs=1e-3)
    assert harmonic(0.0, 0.0) == 0
    assert math.isnan(harmonic(float("nan"), 0.5))


def test_valid_pixels_only_count():
    labels = np.ones((1, 2, 2), np.uint8)
    found = np.zeros((1, 2, 2), bool)
    valid = np.array([[[True, False], [False, False]]])
    assert confusion(found, labels, valid).tolist() == [[0, 0, 1, 0]]
    with pytest.raises(InputError, match=r"\(1, 2, 2\), \(1, 2, 3\)"):
        confusion(found, np.ones((1, 2, 3), np.uint8))


def maps(shape=(70, 90), seed=0):
    rng = np.random.default_rng(seed)
    coords = {"y": -1.5 * np.arange(shape[0]), "x": 1.5 * np.arange(shape[1])}
    predicted, labels = (
        xr.DataArray(
            rng.choice([0, 1, 255], shape, p=[0.8, 0.15, 0.05]).astype(np.uint8),
            dims=("y", "x"),
            coords=coords,
        )
        for _ in range(2)
    )
    return predicted, labels


def test_maps_are_scored_tile_by_tile():
    predicted, labels = maps()
    scores = segmentation_metrics(predicted, labels, tile=32)
    tiles = [
        brute(predicted.values[y : y + 32, x : x + 32], labels.values[y : y + 32, x : x + 32])
        for y in range(0, 70, 32)
        for x in range(0, 90, 32)
    ]
    expected = {**tile_metrics(np.array(tiles)), **pixel_metrics(np.array(tiles))}
    assert scores == expected
    assert scores["tiles_recall"] == 9
    chunked = segmentation_metrics(predicted.chunk({"y": 17, "x": 40}), labels, tile=32)
    assert chunked == scores


def test_maps_on_other_grids_are_refused():
    predicted, labels = maps()
    with pytest.raises(GridError, match=r"labels: shape \(69, 90\)"):
        segmentation_metrics(predicted, labels[1:])
    with pytest.raises(GridError, match=r"labels: x from 1\.5 to"):
        segmentation_metrics(predicted, labels.assign_coords(x=labels["x"] + 1.5))
    with pytest.raises(GridError, match="no dimension y"):
        segmentation_metrics(predicted, labels.rename(y="lat"))
    with pytest.raises(InputError, match="tile"):
        segmentation_metrics(predicted, labels, tile=0)
    # Rounding of coordinates is no other grid.
    moved = labels.assign_coords(x=labels["x"] + 1e-6)
    assert segmentation_metrics(predicted, moved) == segmentation_metrics(predicted, labels)


def test_large_maps_are_read_by_rows():
    empty = da.zeros((2000, 300), np.uint8, chunks=(100, 300))
    scores = segmentation_metrics(xr.DataArray(empty), xr.DataArray(empty))
    assert math.isnan(scores["F1_pooled"])
    assert scores["tiles_IoU"] == 0
