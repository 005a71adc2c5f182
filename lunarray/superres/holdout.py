"""Footprints that a training does not see: whole tracks, by which it is stopped and judged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lunarray.superres.regions import RegionData
from lunarray.superres.support import Support
from lunarray.superres.tracks import track_folds

#: Fewer tracks than these, or fewer footprints of a part, are all trained on.
_TRACKS, _FOOTPRINTS = 5, 4


@dataclass(frozen=True)
class HeldOut:
    """Footprints held out, how many `tracks` they are of, and what the mean of mare and highland makes of them.

    `unit` (element,) is the spread of what all footprints measured, wt%.
    """

    support: Support
    tracks: int
    unit: np.ndarray
    #: (footprint, element).
    mare_mean: np.ndarray

    def errors(self, predicted: np.ndarray) -> np.ndarray:
        """Root mean square error of each element, wt%, of predictions (footprint, element)."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.nanmean((predicted - self.support.measured) ** 2, axis=0))

    def relative(self, predicted: np.ndarray) -> float:
        """Mean over elements of the error in units of the spread."""
        return float(np.nanmean(self.errors(predicted) / self.unit))

    def better(self, predicted: np.ndarray) -> bool:
        """Whether predictions beat the mean of mare and of highland by twice what chance may do."""
        unit = self.unit.astype(np.float64)
        own, mean = (
            np.nanmean(((p - self.support.measured) / unit) ** 2, axis=1)
            for p in (predicted, self.mare_mean)
        )
        gain = (mean - own)[np.isfinite(mean - own)]
        return bool(len(gain) > 1 and gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain)))


def hold_out(data: RegionData, share: float, seed: int) -> tuple[RegionData, HeldOut | None]:
    """Part a region into what is trained on and what is held out, which is None where there are too few tracks."""
    tracks, support = data.tracks, data.support
    if share <= 0 or tracks is None or len(np.unique(tracks)) < _TRACKS:
        return data, None
    folds = min(max(round(1 / share), 2), len(np.unique(tracks)))
    held = track_folds(tracks, folds, seed) == 0
    if min(held.sum(), (~held).sum()) < _FOOTPRINTS:
        return data, None
    seen, own = _subset(support, ~held), _subset(support, held)
    # What tracks that are held out lie on is unknown, also where others overlap them.
    abundance = data.abundance.copy()
    abundance.reshape(len(abundance), -1)[:, own.pixel] = np.nan
    known = np.isfinite(abundance).all(axis=0)
    measured = np.isfinite(seen.measured).sum(axis=0)
    if known.sum() < _FOOTPRINTS or measured.min() < _FOOTPRINTS:
        return data, None
    unit = np.nanstd(support.measured.astype(np.float64), axis=0)
    unit = np.where(unit > 0, unit, 1.0)
    mean = _by_ground(seen, own, data.mare.ravel())
    part = replace(data, abundance=abundance, support=seen, tracks=tracks[~held])
    return part, HeldOut(own, len(np.unique(tracks[held])), unit, mean)


def _by_ground(seen: Support, wanted: Support, mare: np.ndarray) -> np.ndarray:
    """What mean mare and mean highland, fitted to footprints, give for others: (footprint, element)."""
    classes = np.stack([mare == 1, mare != 1], axis=1).astype(np.float64)
    design, out = seen.mean(classes), wanted.mean(classes)
    columns = []
    for values in seen.measured.T.astype(np.float64):
        known = np.isfinite(values)
        level = values[known].mean()
        # A pull to the common mean that counts like one footprint: a class that nothing has seen has it.
        rows = np.concatenate([design[known], np.eye(2)])
        fit = np.linalg.lstsq(
            rows, np.concatenate([values[known] - level, np.zeros(2)]), rcond=None
        )[0]
        columns.append(level + out @ fit)
    return np.stack(columns, axis=1)


def _subset(support: Support, chosen: np.ndarray) -> Support:
    """Some footprints of a support."""
    numbers = np.cumsum(chosen) - 1
    entry = chosen[support.footprint]
    return Support(
        support.pixel[entry],
        numbers[support.footprint[entry]].astype(np.int64),
        support.share[entry],
        support.measured[chosen],
        support.error[chosen],
        support.number[chosen],
    )
