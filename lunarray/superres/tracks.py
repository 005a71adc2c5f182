"""Tracks of footprints, which are held out whole: what overlaps tells of what it overlaps with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lunarray.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


def track_numbers(footprints: xr.Dataset, *, gap: float = 1.0) -> np.ndarray:
    """Track to which each footprint belongs, counted from 0.

    A coordinate ``track`` is taken as it is. Without one, footprints that follow each other in the table belong to one
    track where they touch or overlap, or nearly so: that is how an orbit's footprints lie. `gap` (degrees) may lie
    between them along the track, and between their centres across it.
    """
    if "track" in footprints.coords:
        return np.unique(footprints["track"].values, return_inverse=True)[1]
    lat, lon = (footprints[n].values.astype(np.float64) for n in ("corner_lat", "corner_lon"))
    if not len(lat):
        return np.zeros(0, np.int64)
    low, high = lat.min(axis=1), lat.max(axis=1)
    lam = np.deg2rad(lon)
    middle = np.arctan2(np.sin(lam).mean(axis=1), np.cos(lam).mean(axis=1))
    across = np.rad2deg(np.abs(np.angle(np.exp(1j * np.diff(middle)))))
    across *= np.cos(np.deg2rad((lat.mean(axis=1)[1:] + lat.mean(axis=1)[:-1]) / 2))
    apart = np.maximum(low[1:] - high[:-1], low[:-1] - high[1:])
    return np.concatenate([[0], np.cumsum((across > gap) | (apart > gap))]).astype(np.int64)


def track_folds(tracks: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """Share tracks out to folds, whole, of about as many footprints each; gives the fold of each footprint.

    `seed` orders the tracks of one length. Raises InputError if there are fewer tracks than folds.
    """
    numbers, counts = np.unique(tracks, return_counts=True)
    if folds < 2 or len(numbers) < folds:
        raise InputError(
            f"{folds} folds of {len(numbers)} tracks",
            where="track_folds",
            remedy="Ask for two folds or more, and no more than there are tracks",
        )
    order = np.random.default_rng(seed).permutation(len(numbers))
    order = order[np.argsort(-counts[order], kind="stable")]
    load = np.zeros(folds, np.int64)
    fold_of = np.empty(len(numbers), np.int64)
    for track in order:
        fold_of[track] = int(np.argmin(load))
        load[fold_of[track]] += counts[track]
    return fold_of[np.searchsorted(numbers, tracks)]
