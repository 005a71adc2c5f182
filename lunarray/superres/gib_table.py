"""The table of footprints in a Global Information Bank."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import xarray as xr

from lunarray.store.folder import Folder
from lunarray.store.transaction import appearing, real, settle
from lunarray.superres.gib_layout import meta_of, open_root, require_settled
from lunarray.typing import typed
from lunarray.units import WEIGHT

_BATCH = re.compile(r"\d{4,}")
_COLUMNS = ("corner_lat", "corner_lon", "abundance", "abundance_std", "time")


def footprint_batches(path: Path) -> list[Path]:
    """Groups that hold the table of footprints of a store, in their order."""
    folder = path / "footprints"
    return (
        sorted(p for p in folder.iterdir() if _BATCH.fullmatch(p.name)) if folder.is_dir() else []
    )


@typed
def gib_footprints(path: str | os.PathLike[str], *, incomplete: bool = False) -> xr.Dataset:
    """Table of the footprints that a Global Information Bank was populated with, in their order.

    Parameters
    ----------
    path : path
        The store.
    incomplete : bool, default False
        Read it though pixels do not take account of all of it, because populating was interrupted.

    Returns
    -------
    Dataset
        In memory, dims (footprint, corner, element): ``corner_lat``, ``corner_lon`` (degrees), ``abundance``,
        ``abundance_std`` (wt%), ``time`` (NaT where it is not known). `provenance` counts these rows.

    Raises
    ------
    StoreFormatError
        If it is no Global Information Bank.
    StoreIncompleteError
        If it is being populated, or that was interrupted.
    """
    path = real(path)
    meta = meta_of(path)
    if not incomplete:
        require_settled(path, meta)
    elements = meta["elements"]
    batches = [open_root(batch, "r") for batch in footprint_batches(path)]
    empty = {
        "corner_lat": np.empty((0, 4)),
        "corner_lon": np.empty((0, 4)),
        "abundance": np.empty((0, len(elements))),
        "abundance_std": np.empty((0, len(elements))),
        "time": np.empty(0, "i8"),
    }
    columns = {
        name: np.concatenate([empty[name], *(np.asarray(b[name][:]) for b in batches)])
        for name in _COLUMNS
    }
    time = columns.pop("time").astype("i8").view("M8[ns]")
    units = ("degrees_north", "degrees_east", WEIGHT, WEIGHT)
    variables = {
        name: (("footprint", "corner" if "corner" in name else "element"), values, {"units": unit})
        for (name, values), unit in zip(columns.items(), units, strict=True)
    }
    return xr.Dataset({**variables, "time": ("footprint", time)}, {"element": elements})


def append_footprints(path: Path, table: xr.Dataset) -> None:
    """Put footprints behind those of the table, all at once.

    `path`: the store; `table`: as :func:`gib_footprints` gives it. StoreError if it cannot be written; then the table
    is as before.
    """
    import zarr

    number = len(footprint_batches(path))
    folder = path / "footprints"
    settle(folder / f"{number:04d}")
    with appearing(folder / f"{number:04d}", "table of footprints") as begun:
        root = zarr.create_group(Folder(begun), zarr_format=3, overwrite=True)
        for name in _COLUMNS:
            values = np.ascontiguousarray(table[name].values)
            if name == "time":
                values = values.astype("M8[ns]").view("i8")
            dims = tuple(str(d) for d in table[name].dims)
            root.create_array(name, data=values, dimension_names=dims)
