"""Precision, recall, F1 and intersection over union, as the paper averages them over tiles, and over all pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from lunarray.errors import InputError

#: Label of pixels without valid data.
NO_DATA = 255


def confusion(
    predicted: np.ndarray, labels: np.ndarray, valid: np.ndarray | None = None
) -> np.ndarray:
    """Count true and false positives and negatives, tile by tile.

    `predicted` (..., h, w): detected (non-zero) or not; where it is 255, there are no data; `labels` (..., h, w): 1 for
    fracture, 0 for none, 255 where there are no data; `valid` (..., h, w) bool: where there are data besides. Returns
    (..., 4) int64: true positives, false positives, false negatives, true negatives of each tile. InputError if the
    shapes differ.
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape or (valid is not None and valid.shape != labels.shape):
        shapes = [a.shape for a in (predicted, labels, valid) if a is not None]
        raise InputError(
            f"shapes {', '.join(map(str, shapes))}",
            where="predicted, labels, valid",
            remedy="They must be the same",
        )
    good = labels != NO_DATA
    if predicted.dtype != bool:
        good &= predicted != NO_DATA
    if valid is not None:
        good &= valid
    found, there = predicted.astype(bool), labels.astype(bool)
    counts = [
        np.count_nonzero(good & a & b, axis=(-2, -1))
        for a, b in ((found, there), (found, ~there), (~found, there), (~found, ~there))
    ]
    return np.stack(counts, axis=-1).astype(np.int64)


def _ratio(numerator: Any, denominator: Any) -> Any:
    """Quotient, NaN where there is nothing to divide by."""
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _mean(values: np.ndarray) -> float:
    good = values[np.isfinite(values)]
    return float(good.mean()) if good.size else float("nan")


def harmonic(precision: float, recall: float) -> float:
    """F1 of precision and recall (equation 3); 0 where both are 0, NaN where one is not defined."""
    if not np.isfinite(precision + recall):
        return float("nan")
    total = precision + recall
    return 0.0 if total == 0 else 2 * precision * recall / total


def tile_metrics(counts: np.ndarray) -> dict[str, float]:
    """Scores as the paper averages them: over tiles.

    `counts` (tile, 4): as of :func:`confusion`. Returns ``precision``: mean over the tiles with a detection;
    ``recall``: mean over the tiles with a fracture; ``F1``: of these two means; ``IoU``: mean over the tiles with
    either. NaN where there is no such tile. ``tiles_precision``, ``tiles_recall``, ``tiles_IoU``: how many tiles each
    is a mean of.

    References: Le Corre et al. (2025), doi:10.1029/2025JE009145, section 3.2, equations 1 to 4. The paper does not say
    over what IoU is averaged: here as precision and recall are.
    """
    tp, fp, fn, _ = np.asarray(counts).reshape(-1, 4).T
    precision, recall, overlap = (
        _ratio(tp, tp + fp),
        _ratio(tp, tp + fn),
        _ratio(tp, tp + fp + fn),
    )
    p, r = _mean(precision), _mean(recall)
    return {
        "precision": p,
        "recall": r,
        "F1": harmonic(p, r),
        "IoU": _mean(overlap),
        "tiles_precision": int(np.isfinite(precision).sum()),
        "tiles_recall": int(np.isfinite(recall).sum()),
        "tiles_IoU": int(np.isfinite(overlap).sum()),
    }


def pixel_metrics(counts: np.ndarray) -> dict[str, float]:
    """Scores over all pixels together, whatever tiles they lie in.

    `counts` (..., 4): as of :func:`confusion`; summed. Returns ``precision_pooled``, ``recall_pooled``, ``F1_pooled``,
    ``IoU_pooled``; NaN where nothing defines them.
    """
    tp, fp, fn, _ = np.asarray(counts).reshape(-1, 4).sum(axis=0)
    return {
        "precision_pooled": float(_ratio(tp, tp + fp)),
        "recall_pooled": float(_ratio(tp, tp + fn)),
        "F1_pooled": float(_ratio(2 * tp, 2 * tp + fp + fn)),
        "IoU_pooled": float(_ratio(tp, tp + fp + fn)),
    }
