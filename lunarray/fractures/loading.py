"""Batches of a training made ahead of need, in processes of their own: tiles read, changed at random, stacked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lunarray.errors import needs
from lunarray.fractures.batches import Augment, Batch, Tiles, collated, prepared

with needs("torch", "training on fractures"):
    import torch
    from torch.utils.data import DataLoader, Dataset

#: Batches that each process makes ahead.
_AHEAD = 4
#: What a tile is asked for by: whether for training, epoch, number.
Wanted = tuple[bool, int, int]


def default_workers(device: torch.device) -> int:
    """Processes that load for a network on a device: none on a CPU, whose cores the network has itself."""
    if device.type == "cpu":
        return 0
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(8, (count or 2) - 1))


def batches_of(
    tiles: Tiles,
    validation: Tiles,
    order: Sequence[Sequence[Wanted]],
    *,
    augment: Augment | None,
    seed: int,
    workers: int,
    pinned: bool = False,
) -> Iterator[Batch]:
    """Batches one after the other.

    `order`: what each consists of; `augment`: changes tiles for training, by `seed`, epoch and number alone, so that
    what comes does not depend on `workers`, the number of processes; `pinned`: in memory that a GPU reads by itself.
    """
    # As torch has it on Linux: nothing need be pickled, tiles in memory are not copied, and scripts need no guard.
    forked = sys.platform.startswith("linux")
    several: dict[str, Any] = {}
    if workers:
        several = {
            "multiprocessing_context": "fork" if forked else None,
            "worker_init_fn": _begin,
            "prefetch_factor": _AHEAD,
        }
    loader = DataLoader(
        _Prepared(tiles, validation, augment, seed),
        batch_sampler=order,  # type: ignore[arg-type]
        collate_fn=collated,
        num_workers=workers,
        pin_memory=pinned,
        generator=torch.Generator(),  # not the global one, which seeds dropout
        **several,
    )
    return iter(loader)


class _Prepared(Dataset):
    """Tiles by what is wanted."""

    def __init__(self, tiles: Tiles, validation: Tiles, augment: Augment | None, seed: int) -> None:
        self.tiles, self.validation, self.augment, self.seed = tiles, validation, augment, seed

    def __getitem__(self, wanted: Wanted) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        training, epoch, number = wanted
        if training:
            return prepared(self.tiles, number, self.augment, (self.seed, 3, epoch))
        return prepared(self.validation, number)


def _begin(_: int) -> None:
    """In a new process: the threads of Dask and of its clients are not there."""
    import dask

    dask.config.set(scheduler="synchronous")
