"""Scores of lines: how much of their middles is found, how close, and in how many pieces.

A line that is found but for two pixels has an area that is all but right, and is two lines to whoever counts them.
"""

from __future__ import annotations

import math

import numpy as np

from lunarray.fractures.metrics import NO_DATA, harmonic

#: Columns of :func:`line_counts`.
COUNTS = (
    "found", "found_in", "found_near", "labelled", "labelled_in", "labelled_near",
    "lines", "lines_found", "lines_broken", "breaks",
)  # fmt: skip
#: Shorter lines, in pixels of their skeleton, are not counted as lines.
_SHORTEST = 8


def line_counts(
    predicted: np.ndarray,
    labels: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    tolerance: float = 3.0,
) -> np.ndarray:
    """Count pixels of skeletons, and lines, of one tile or image.

    `predicted` (h, w): detected (non-zero) or not; where it is 255, there are no data; `labels` (h, w): 1 for fracture,
    0 for none, 255 where there are no data; `valid` (h, w) bool: where there are data besides; `tolerance`: pixels.
    Returns (10,) int64, as :data:`COUNTS` says: pixels of the skeleton of what was found, of these those in a label,
    and those within the tolerance of a label's skeleton; the same of the labels; labelled lines (connected, of 8 pixels
    and more), of these those that were found in part, and those found in several pieces, and how many breaks these
    have.
    """
    from scipy.ndimage import distance_transform_edt, label
    from skimage.morphology import skeletonize

    known = labels != NO_DATA
    if predicted.dtype != bool:
        known &= predicted != NO_DATA
    if valid is not None:
        known &= valid
    found, there = (np.asarray(a).astype(bool) & known for a in (predicted, labels))
    own, drawn = skeletonize(found), skeletonize(there)
    # Nothing is near what is not there.
    far = [
        distance_transform_edt(~a) if a.any() else np.full(a.shape, np.inf) for a in (own, drawn)
    ]
    every = np.ones((3, 3), int)
    lines, _ = label(drawn, every)
    long = np.bincount(lines.ravel()) >= _SHORTEST
    long[0] = False
    covered = drawn & long[lines]
    if found.any():
        covered &= distance_transform_edt(~found) <= tolerance
    else:
        covered[:] = False
    parts, count = label(covered, every)
    # The labelled line of each piece that was found.
    whose = np.zeros(count + 1, np.int64)
    whose[parts[covered]] = lines[covered]
    pieces = np.bincount(whose[1:], minlength=long.size)[long]
    return np.array(
        [
            own.sum(), (own & there).sum(), (own & (far[1] <= tolerance)).sum(),
            drawn.sum(), (drawn & found).sum(), (drawn & (far[0] <= tolerance)).sum(),
            long.sum(), (pieces > 0).sum(), (pieces > 1).sum(), np.maximum(pieces - 1, 0).sum(),
        ],
        np.int64,
    )  # fmt: skip


def line_metrics(counts: np.ndarray) -> dict[str, float]:
    """Scores of lines over all tiles together.

    `counts` (..., 10): as of :func:`line_counts`; summed. Returns ``clDice``: harmonic mean of the shares of each
    skeleton that lie in the other's mask (Shit et al. 2021, arXiv:2003.07311); ``F1_tolerance``: of the shares that
    lie within the tolerance of the other's skeleton; ``lines``, ``lines_found``, ``lines_broken``, ``breaks``: numbers.
    Shares of nothing are NaN.
    """
    total = dict(zip(COUNTS, np.asarray(counts).reshape(-1, len(COUNTS)).sum(axis=0), strict=True))

    def share(part: str, whole: str) -> float:
        return float(total[part] / total[whole]) if total[whole] else math.nan

    return {
        "clDice": harmonic(share("found_in", "found"), share("labelled_in", "labelled")),
        "F1_tolerance": harmonic(share("found_near", "found"), share("labelled_near", "labelled")),
        **{name: float(total[name]) for name in COUNTS[6:]},
    }
