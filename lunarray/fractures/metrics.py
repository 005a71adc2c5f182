"""Precision, recall, F1 and intersection over union, as the paper averages them over tiles, and over all pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError

#: Label of pixels without valid data.
NO_DATA = 255


def confusion(
    predicted: np.ndarray, labels: np.ndarray, valid: np.ndarray | None = None
) -> np.ndarray:
    """Count true and false positives and negatives, tile by tile.

    Parameters
    ----------
    predicted : ndarray, shape (..., h, w)
        Detected (non-zero) or not; where it is 255, there are no data.
    labels : ndarray, shape (..., h, w)
        1 for fracture, 0 for none, 255 where there are no data.
    valid : ndarray of bool, shape (..., h, w), optional
        Where there are data besides.

    Returns
    -------
    ndarray of int64, shape (..., 4)
        True positives, false positives, false negatives, true negatives of each tile.

    Raises
    ------
    InputError
        If the shapes differ.
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

    Parameters
    ----------
    counts : ndarray, shape (tile, 4)
        As of :func:`confusion`.

    Returns
    -------
    dict of float
        ``precision``: mean over the tiles with a detection; ``recall``: mean over the tiles with a fracture; ``F1``: of
        these two means; ``IoU``: mean over the tiles with either. NaN where there is no such tile. ``tiles_precision``,
        ``tiles_recall``, ``tiles_IoU``: how many tiles each is a mean of.

    References
    ----------
    .. [1] Le Corre et al. (2025), doi:10.1029/2025JE009145, section 3.2, equations 1 to 4. The paper does not say over
       what IoU is averaged: here as precision and recall are.
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

    Parameters
    ----------
    counts : ndarray, shape (..., 4)
        As of :func:`confusion`; summed.

    Returns
    -------
    dict of float
        ``precision_pooled``, ``recall_pooled``, ``F1_pooled``, ``IoU_pooled``; NaN where nothing defines them.
    """
    tp, fp, fn, _ = np.asarray(counts).reshape(-1, 4).sum(axis=0)
    return {
        "precision_pooled": float(_ratio(tp, tp + fp)),
        "recall_pooled": float(_ratio(tp, tp + fn)),
        "F1_pooled": float(_ratio(2 * tp, 2 * tp + fp + fn)),
        "IoU_pooled": float(_ratio(tp, tp + fp + fn)),
    }


def segmentation_metrics(
    predicted: xr.DataArray | np.ndarray,
    labels: xr.DataArray | np.ndarray,
    *,
    tile: int = 512,
) -> dict[str, float]:
    """Score a map of detections against labels.

    Parameters
    ----------
    predicted : DataArray or ndarray, shape (y, x)
        1 where a fracture was detected, 0 where not, 255 where there are no data, as ``mask`` of
        :func:`lunarray.fractures.map_fractures`.
    labels : DataArray or ndarray, shape (y, x)
        The same of the truth, on the same grid.
    tile : int
        Side of the tiles, without overlap, that the paper's averages are taken over; the outermost may be smaller.

    Returns
    -------
    dict of float
        Those of :func:`tile_metrics`, averaged over tiles as the paper does, and those of :func:`pixel_metrics`, named
        ``…_pooled``. Chunked input is read tile row by tile row.

    Raises
    ------
    GridError
        If shapes or coordinates differ.
    InputError
        If `tile` is not positive.
    """
    if tile < 1:
        raise InputError(f"tiles of {tile} pixels", where="tile", remedy="Give 1 or more")
    check_same_grid(predicted, labels, ("predicted", "labels"))
    a, b = (x.data if isinstance(x, xr.DataArray) else np.asarray(x) for x in (predicted, labels))
    counts = []
    for top in range(0, a.shape[0], tile):
        rows = [np.asarray(x[top : top + tile]) for x in (a, b)]
        counts += [
            confusion(rows[0][:, left : left + tile], rows[1][:, left : left + tile])
            for left in range(0, a.shape[1], tile)
        ]
    table = np.array(counts, np.int64).reshape(-1, 4)
    return {**tile_metrics(table), **pixel_metrics(table)}


def check_same_grid(a: Any, b: Any, names: tuple[str, str]) -> None:
    """Raise where two arrays are not on the same grid.

    Parameters
    ----------
    a, b : DataArray or ndarray
        What to compare: shapes, and coordinates where both have them.
    names : tuple of str
        What to call them.

    Raises
    ------
    GridError
        If they differ.
    """
    if a.shape != b.shape:
        raise GridError(
            f"shape {tuple(b.shape)}, while {names[0]} has {tuple(a.shape)}",
            where=names[1],
            remedy="Give both on the same grid",
        )
    if not (isinstance(a, xr.DataArray) and isinstance(b, xr.DataArray)):
        return
    for dim in a.dims:
        if dim not in b.dims:
            raise GridError(
                f"no dimension {dim}, but {', '.join(map(str, b.dims))}",
                where=names[1],
                remedy="Give both on the same grid",
            )
        if dim not in a.coords or dim not in b.coords:
            continue
        one, other = a[dim].values, b[dim].values
        step = np.abs(np.diff(one)).max() if one.size > 1 else 1.0
        if one.size and np.abs(one - other).max() > 1e-3 * step:
            raise GridError(
                f"{dim} from {other[0]:g} to {other[-1]:g}, while {names[0]} has {one[0]:g} to {one[-1]:g}",
                where=names[1],
                remedy="Give both on the same grid (rasterise with like=image)",
            )
