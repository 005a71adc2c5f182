"""Which samples are left out together: at random, by place, or whole groups such as specimens and missions."""

from __future__ import annotations

import numpy as np
import xarray as xr

from lunarray.errors import InputError


def deal(
    samples: xr.Dataset, folds: int | str | None, by: str | None, seed: int
) -> tuple[np.ndarray, ...]:
    """Samples that each fold leaves out; one fold that leaves out none where there are to be no folds.

    Samples of one value of the coordinate `by` are never in two folds. Of numbers, such as longitudes, a fold has those
    next to each other; of names, such as missions, whole groups, the largest dealt first. "leave-one-out" leaves out
    each value of `by` in turn, or each sample where there is no `by`.
    """
    count = samples.sizes["sample"]
    counted = f"{count} usable sample{'' if count == 1 else 's'}"
    each = folds == "leave-one-out"
    if (folds is None and count < 2) or (each and count < 3):
        note = "Leave-one-out needs three: batch" if each else "Batch"
        raise InputError(
            counted, where="samples", remedy=f"{note} normalisation needs at least two"
        )
    if folds is None:
        return (np.empty(0, np.int64),)
    if each and by is None:
        return tuple(np.array([i]) for i in range(count))
    if not each and (isinstance(folds, str) or not 2 <= folds <= count):
        raise InputError(
            f"{folds} folds of {counted}",
            where="folds",
            remedy="Give at least 2 and at most the number of samples, or 'leave-one-out'",
        )
    if by is None:
        order = np.random.default_rng(seed).permutation(count)
        return tuple(np.sort(part) for part in np.array_split(order, int(folds)))
    return _by_groups(samples, None if each else int(folds), by)


def _by_groups(samples: xr.Dataset, folds: int | None, by: str) -> tuple[np.ndarray, ...]:
    """Folds of whole groups; `folds` None: one for each group."""
    if by not in samples.coords or samples[by].dims != ("sample",):
        raise InputError(
            f"no coordinate {by!r} of the samples",
            where="by",
            remedy=f"Choose from {', '.join(map(str, samples.coords))}",
        )
    values = samples[by].values
    numbers = values.dtype.kind in "iufM"
    names, group = np.unique(values if numbers else values.astype(str), return_inverse=True)
    wanted = len(names) if folds is None else folds
    if len(names) < max(wanted, 2):
        raise InputError(
            f"{len(names)} value{'' if len(names) == 1 else 's'} of {by!r} for {max(wanted, 2)} folds",
            where="folds",
            remedy="Ask for fewer folds, or leave `by` out",
        )
    if folds is None:
        return tuple(np.flatnonzero(group == i) for i in range(len(names)))
    if numbers and len(names) == len(values):
        order = np.argsort(values, kind="stable")
        return tuple(np.sort(part) for part in np.array_split(order, folds))
    sizes = np.bincount(group)
    if numbers:
        # Cut the row of values where the counts are nearest to equal, each fold with one value at least.
        middle = np.cumsum(sizes) - sizes / 2
        place = np.minimum((middle * folds / sizes.sum()).astype(int), folds - 1)
        low = np.arange(len(names)) - (len(names) - folds)
        place = np.maximum(np.minimum(place, np.arange(len(names))), low)
        for i in range(1, len(names)):
            place[i] = min(max(place[i], place[i - 1], low[i]), place[i - 1] + 1)
    else:
        place, filled = np.empty(len(names), int), np.zeros(folds)
        for name in np.argsort(-sizes, kind="stable"):
            place[name] = int(np.argmin(filled))
            filled[place[name]] += sizes[name]
    return tuple(np.flatnonzero(place[group] == fold) for fold in range(folds))
