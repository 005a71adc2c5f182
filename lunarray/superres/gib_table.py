"""The table of footprints in a Global Information Bank."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import xarray as xr

from lunarray.errors import StoreDamagedError
from lunarray.readers import reads
from lunarray.store.folder import Folder
from lunarray.store.state import sealed
from lunarray.store.transaction import appearing, real, settle
from lunarray.superres.gib_layout import (
    altered,
    digests,
    meta_of,
    open_root,
    read_states,
    require_settled,
    write_sealed,
)
from lunarray.superres.gib_reading import content_id
from lunarray.typing import typed
from lunarray.units import WEIGHT

_BATCH = re.compile(r"\d{4,}")
_REMEDY = "Put a copy of it back, or make the bank anew: what pixels hold cannot be told from damage without the table"
_KEY = "lunarray_footprints"
_COLUMNS = ("corner_lat", "corner_lon", "abundance", "abundance_std", "time")


def footprint_batches(path: Path) -> list[Path]:
    """Groups that hold the table of footprints of a store, in their order."""
    folder = path / "footprints"
    return (
        sorted(p for p in folder.iterdir() if _BATCH.fullmatch(p.name)) if folder.is_dir() else []
    )


@typed
@reads
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
    StoreDamagedError
        If the table is not the one that was written.

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid)
    >>> done = sr.fill_features("bank.zarr", maps={"albedo": la.sample("albedo")})
    >>> done = sr.classify_mare("bank.zarr", albedo=la.sample("albedo"))
    >>> done = sr.populate("bank.zarr", la.sample("tracks"), outside="skip")
    >>> sr.gib_footprints("bank.zarr").sizes["footprint"]
    133
    """
    path = real(path)
    meta = meta_of(path)
    if not incomplete:
        require_settled(path, meta)
    elements = meta["elements"]
    batches = [read_batch(batch) for batch in footprint_batches(path)]
    empty = {
        "corner_lat": np.empty((0, 4)),
        "corner_lon": np.empty((0, 4)),
        "abundance": np.empty((0, len(elements))),
        "abundance_std": np.empty((0, len(elements))),
        "time": np.empty(0, "i8"),
    }
    columns = {
        name: np.concatenate([empty[name], *(b[name] for b in batches)]) for name in _COLUMNS
    }
    counted = int(np.max(read_states(open_root(path, "r"), "populated"), initial=0))
    if len(columns["time"]) < counted:
        raise StoreDamagedError(
            f"the table holds {len(columns['time'])} footprints, and regions were populated with {counted}",
            where=path / "footprints",
            remedy=_REMEDY,
        )
    time = columns.pop("time").astype("i8").view("M8[ns]")
    units = ("degrees_north", "degrees_east", WEIGHT, WEIGHT)
    variables = {
        name: (("footprint", "corner" if "corner" in name else "element"), values, {"units": unit})
        for (name, values), unit in zip(columns.items(), units, strict=True)
    }
    return xr.Dataset({**variables, "time": ("footprint", time)}, {"element": elements})


def read_batch(batch: Path) -> dict[str, np.ndarray]:
    """The columns of a group of the table; StoreDamagedError if they are not those that were written."""
    try:
        text = (batch / "zarr.json").read_text("utf-8")
        meta = json.loads(text)["attributes"][_KEY]
        whole = sealed(meta, text) and not altered(batch, meta)
        root = open_root(batch, "r")
        columns = {name: np.asarray(root[name][:]) for name in _COLUMNS}
    except MemoryError:
        raise
    except Exception as error:
        raise StoreDamagedError(
            f"a part of the table of footprints cannot be read ({type(error).__name__}: {error})",
            where=batch,
            remedy=_REMEDY,
        ) from error
    if not whole or meta["id"] != str(content_id(*columns.values())):
        raise StoreDamagedError(
            "a part of the table of footprints is not the one that was written",
            where=batch,
            remedy=_REMEDY,
        )
    return columns


def append_footprints(path: Path, table: xr.Dataset) -> None:
    """Put footprints behind those of the table, all at once.

    `path`: the store; `table`: as :func:`gib_footprints` gives it. StoreError if it cannot be written; then the table
    is as before.
    """
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    number = len(footprint_batches(path))
    folder = path / "footprints"
    settle(folder / f"{number:04d}")
    with appearing(folder / f"{number:04d}", "table of footprints") as begun:
        root = zarr.create_group(Folder(begun), zarr_format=3, overwrite=True)
        columns = {name: np.ascontiguousarray(table[name].values) for name in _COLUMNS}
        columns["time"] = columns["time"].astype("M8[ns]").view("i8")
        codecs = (BloscCodec(cname="zstd", clevel=1), Crc32cCodec())
        for name, values in columns.items():
            dims = tuple(str(d) for d in table[name].dims)
            root.create_array(name, data=values, dimension_names=dims, compressors=codecs)
        own = {"id": str(content_id(*columns.values())), "metadata": digests(begun)}
        write_sealed(begun, _KEY, **own)
