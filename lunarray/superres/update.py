"""New footprints: population and training again of the regions that they touch, and of no others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from lunarray.superres.training import Progress, TrainSettings


@dataclass(frozen=True)
class Updated:
    """What an update did.

    Attributes
    ----------
    added : int
        Footprints that the store had not yet.
    regions : tuple of tuple of 2 int
        Regions that were populated and trained anew.
    models : tuple of Path
        Their networks.
    """

    added: int
    regions: tuple[tuple[int, int], ...]
    models: tuple[Path, ...]


def update_gib(
    path: str | os.PathLike[str],
    models: str | os.PathLike[str],
    footprints: xr.Dataset,
    settings: TrainSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Updated:
    """Add footprints to a Global Information Bank, and train the regions that they touch anew.

    Parameters
    ----------
    path : path-like
        The store.
    models : path-like
        Folder of the regions' networks.
    footprints : Dataset
        As :func:`lunarray.superres.as_footprints` takes them.
    settings : TrainSettings, optional
        Those of the first training, for the same result as starting over; by default those in the networks' files.
    progress : callable, optional
        As in :func:`lunarray.superres.train_gib`.
    **options
        Passed to :func:`lunarray.superres.populate`.

    Returns
    -------
    Updated

    Notes
    -----
    Training is a function of a region's content, settings and seed. Population by region is that of all footprints in
    their order. The result therefore equals, to the bit, starting over with all footprints in the order in which they
    were added. An interrupted update is completed by the same call.

    References
    ----------
    The paper, section IV.C.2: the dynamic nature of the algorithm.
    """
    from lunarray.superres.footprints import as_footprints, touched_regions
    from lunarray.superres.gib import gib_grid, open_gib, require_parts
    from lunarray.superres.population import populate
    from lunarray.superres.prediction import model_path
    from lunarray.superres.training import TrainSettings, read_region_header, train_gib

    checked = as_footprints(footprints, errors=options.get("errors", "raise"))
    ds = open_gib(path)
    touched = touched_regions(checked, gib_grid(ds))
    # Before anything is written: a region that cannot be trained must not be left populated and untrained.
    require_parts(ds, touched, "features")
    if settings is None:
        known = sorted(Path(models).glob("region_*.safetensors"))
        settings = (
            TrainSettings.from_json(read_region_header(known[0])["settings"])
            if known
            else TrainSettings.paper()
        )
    done = populate(path, footprints, **options)
    if not touched:
        return Updated(done.added, (), ())
    train_gib(path, models, settings, regions=touched, overwrite=True, progress=progress)
    return Updated(done.added, tuple(touched), tuple(model_path(models, r) for r in touched))
