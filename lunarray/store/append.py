"""Growing a store along one axis, batch by batch, so that an interruption loses one batch at most.

Rows are put behind those of a copy of the store, which lies beside it and takes its place when all of them are there
(:mod:`lunarray.store.transaction`). The copy is one of names: its files are those of the store (hard links) until they
are written anew. Whoever reads the store has its old rows, whole, until it has the new ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import xarray as xr

from lunarray.engine import progress_bar
from lunarray.errors import (
    InputError,
    StoreConflictError,
    StoreDamagedError,
    StoreFormatError,
    store_errors,
)
from lunarray.store import promotion
from lunarray.store.content import codecs, missing
from lunarray.store.folder import target
from lunarray.store.layout import CHUNK_BYTES, every_chunk
from lunarray.store.object_lock import write_lock
from lunarray.store.places import Place, Remote
from lunarray.store.provenance import stamp
from lunarray.store.reading import open_zarr
from lunarray.store.regions import sweep
from lunarray.store.state import FORMAT_VERSION, set_state, state_of, with_state
from lunarray.store.transaction import (
    appearing,
    beside,
    discard,
    located,
    settle,
    sync_folders,
    take_place,
)

#: Chunks of the small arrays (coordinates) are this many times as long as those of the data.
_SMALL_CHUNKS = 8

#: Chunks of the data in one batch: what is held in memory, and what an interruption can lose.
_BATCH_CHUNKS = 4

#: Times are whole nanoseconds from here, so that rows appended later are encoded alike and lose nothing.
_EPOCH = "nanoseconds since 2000-01-01"


def append_zarr(
    ds: xr.Dataset,
    path: Any,
    *,
    dim: str,
    progress: bool | None = None,
) -> xr.Dataset:
    """Write a Dataset to a new store, or behind the rows that a store holds.

    Rows are committed in batches of 64 MB, beside the store, which is as it was until all of them are there. If writing
    is interrupted, what was committed stays, and the next call drops the rest before it goes on. Which rows are there
    already is the caller's to know (:class:`Appending`).

    `ds`: rows to be written. All of its variables must be in the store, and the other way round; `path`: the store:
    new, or written by this function; `dim`: axis to grow; `progress` bool: show a progress bar; by default where
    standard error is a terminal. Returns the store, opened by :func:`lunarray.store.open_zarr`. InputError if `ds` has
    no rows along `dim`. StoreConflictError if the store is not one to append to, or its variables or other axes are not
    those of `ds`. StoreLockedError if another process is writing to it. StoreError if it cannot be written.
    """
    with appending(path, dim) as end:
        end.append(ds, progress=progress)
    return open_zarr(path)


@contextmanager
def appending(path: Any, dim: str) -> Iterator[Appending]:
    """Append to a store for as long as the context lasts; at its end the rows are there for all to read.

    `path`, `dim`: as of :func:`append_zarr`, and so are the errors. What a stopped writer did not commit is dropped
    first, under the lock.
    """
    path = located(path)
    remedy = "Mend the cause and do the same again: it goes on behind what was committed"
    with store_errors("writing stopped", path, remedy), write_lock(path) as lock:
        settle(path)
        end = Appending(path, dim)
        yield end
        end.finish(lock)
        promotion.commit(path, f"rows appended along {dim!r}")


class Appending:
    """The end of a store, to which rows are appended; made by :func:`appending`.

    `path`: the store; `dim`: axis to grow.
    """

    def __init__(self, path: Place, dim: str) -> None:
        self.path, self.dim, self.place = path, dim, beside(path)
        there = state_of(path)
        if there is not None:
            _require_appendable(path, there, dim)
        if self.place != path and not _goes_on(self.place, path):
            discard(self.place, path)
        begun = state_of(self.place)
        if begun is not None:
            sweep(self.place)
            _resize(self.place, dim, begun["committed"])
        elif there is not None and not there["complete"]:
            _copy(path, self.place)
            _resize(self.place, dim, there["committed"])

    def held(self, name: str) -> set[str]:
        """Values of a text variable, along the axis that grows, in the rows that are committed."""
        place = self.place if self.place.exists() else self.path
        return held(place, name)

    def append(self, ds: xr.Dataset, *, progress: bool | None = None) -> None:
        """Put rows behind those that are there."""
        path, dim = self.place, self.dim
        if not ds.sizes.get(dim):
            raise InputError(
                f"no rows along {dim!r} to append", where=self.path, remedy="Give some rows"
            )
        ds = ds.drop_encoding()
        length = max(1, CHUNK_BYTES // max(_row_bytes(ds, dim), 1))
        batch = _BATCH_CHUNKS * length
        begins = list(range(0, ds.sizes[dim], batch))
        if not path.exists() and self.path.exists():
            _check_same(ds, self.path, dim)
            _copy(self.path, path)
        elif path.exists():
            _check_same(ds, path, dim)
        else:
            _begin(ds.isel({dim: slice(0, batch)}), path, dim, length)
            begins = begins[1:]
        with progress_bar(f"Appending to {self.path.name}", len(begins), show=progress) as step:
            for begin in begins:
                _append(ds.isel({dim: slice(begin, begin + batch)}), path, dim)
                step()

    def finish(self, lock: Any) -> None:
        """Let the rows that were committed be seen."""
        if self.place.exists():
            sweep(self.place)
            sync_folders(self.place)
            lock.check()
            set_state(self.place, complete=True, base=None)
            take_place(self.path)


def held(path: Any, name: str, *, complete: bool = False) -> set[str]:
    """Values of a text variable in the committed rows of a store.

    `path`: a store that :func:`append_zarr` wrote, complete or not; `name`: of the variable, along the axis that grows;
    `complete`: an incomplete store holds nothing, nor one that is on its way to its place. Returns empty where there is
    no store.
    """
    import zarr

    named = located(path)
    state = state_of(named)
    place = promotion.current(named) if isinstance(named, Remote) else named
    if state is None or (complete and (not state["complete"] or place != named)):
        return set()
    if "committed" not in state:
        _require_appendable(named, state, None)
    # The one array, for others may be longer by now, of rows that were not committed.
    array: Any = zarr.open_array(target(place, read_only=True), path=name, mode="r")
    # By chunks, and of each run of rows that say the same the first: millions of rows say a few thousand words.
    rows, step = state["committed"], array.chunks[0]
    words: set[str] = set()
    for begin in range(0, rows, step):
        part = np.asarray(array[begin : min(begin + step, rows)])
        first = np.concatenate([[True], part[1:] != part[:-1]])
        words.update(map(str, part[first]))
    return words


def _goes_on(place: Place, path: Place) -> bool:
    """Tell whether rows are being appended at `place` to what is at `path` now, and not to what was there once."""
    try:
        state = state_of(place)
    except (StoreFormatError, StoreDamagedError):
        return False
    return state is not None and not state["complete"] and state.get("base") == _base(path)


def _base(path: Place) -> str:
    """Name what rows are appended to."""
    if not path.exists():
        return "nothing"
    return hashlib.sha256((path / "zarr.json").read_bytes()).hexdigest()


def _copy(path: Place, place: Place) -> None:
    """Begin the successor of a store with all that is in it; its files have two names then, or are copied."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    if isinstance(path, Remote) and isinstance(place, Remote):
        with promotion.begun(place) as finish:
            promotion.copy(path, place)
            root = (path / "zarr.json").read_bytes()
            finish(with_state(place, root, complete=False, base=_base(path)))
        return
    with appearing(place) as begun:
        shutil.copytree(path, begun, copy_function=link)
        set_state(begun, complete=False, base=_base(path))


def _row_bytes(ds: xr.Dataset, dim: str) -> int:
    rows = ds.sizes[dim]
    return max(v.nbytes // rows for v in ds.variables.values() if dim in v.dims)


def _require_appendable(path: Place, state: dict[str, Any], dim: str | None) -> None:
    if state.get("append_dim") != dim or dim is None:
        raise StoreConflictError(
            "this store was not laid out to be appended to"
            + ("" if dim is None else f" along {dim!r}"),
            where=path,
            remedy="Choose another path",
        )


def _begin(first: xr.Dataset, path: Place, dim: str, length: int) -> None:
    """Write the first batch, such that the store appears all at once."""

    row_bytes = _row_bytes(first, dim)
    encoding: dict[Any, dict[str, Any]] = {}
    data: dict[str, list[str]] = {}
    for name, variable in first.variables.items():
        kind = variable.dtype.kind
        if kind == "M":
            encoding[name] = {"units": _EPOCH, "dtype": "int64", "calendar": "proleptic_gregorian"}
        else:
            encoding[name] = missing(variable)
        encoding[name]["compressors"] = codecs()
        if dim in variable.dims:
            heavy = variable.nbytes // first.sizes[dim] * 4 >= row_bytes
            rows = length if heavy else _SMALL_CHUNKS * length
            chunks = [rows if d == dim else size for d, size in variable.sizes.items()]
            encoding[name]["chunks"] = tuple(chunks)
            if name not in first.coords and heavy:
                data[str(name)] = [str(d) for d in variable.dims]
    rows = first.sizes[dim]
    loaded = first.compute()
    stamped = stamp(loaded, f"append_zarr, {rows} rows")
    with appearing(path) as begun, every_chunk():
        stamped.to_zarr(
            target(begun), mode="w-", zarr_format=3, consolidated=False, encoding=encoding
        )
        set_state(
            begun,
            version=FORMAT_VERSION,
            token="appended",
            complete=False,
            regions=math.ceil(rows / length),
            groups=[{"axes": [dim], "sizes": [length], "dims": data}],
            append_dim=dim,
            committed=rows,
            base="nothing",
        )


def _resize(path: Place, dim: str, rows: int) -> None:
    """Make the arrays of a store as long as so many rows; more rows than these are dropped."""
    import zarr

    root = zarr.open_group(target(path), mode="r+", use_consolidated=False)
    for _, array in root.arrays():
        names = getattr(array.metadata, "dimension_names", None) or ()
        if dim in names:
            shape = tuple(
                rows if name == dim else size for name, size in zip(names, array.shape, strict=True)
            )
            if shape != array.shape:
                array.resize(shape)


def _check_same(ds: xr.Dataset, path: Place, dim: str) -> None:
    there = open_zarr(path, incomplete=True)
    problem = None
    if set(map(str, ds.variables)) != set(map(str, there.variables)):
        odd = sorted(set(map(str, ds.variables)) ^ set(map(str, there.variables)))
        problem = f"variables differ: {', '.join(odd)}"
    for name, variable in ds.variables.items():
        if problem:
            break
        other = there[name].variable
        sizes = {d: n for d, n in variable.sizes.items() if d != dim}
        if variable.dims != other.dims or sizes != {d: other.sizes[d] for d in sizes}:
            problem = f"{name} is {dict(other.sizes)} in the store and {dict(variable.sizes)} here"
        elif dim not in variable.dims and not variable.equals(other.load()):
            problem = f"{name} has other values in the store"
    if problem:
        raise StoreConflictError(
            f"the rows do not fit to those of the store: {problem}",
            where=path,
            remedy="Write them to a store of their own",
        )


def _append(rows: xr.Dataset, path: Place, dim: str) -> None:
    """Write rows behind those that are committed, and commit them."""

    state = state_of(path) or {}
    loaded = rows.compute().drop_encoding()
    begin, count = state["committed"], rows.sizes[dim]
    _resize(path, dim, begin + count)
    own = loaded.drop_vars([name for name, v in loaded.variables.items() if dim not in v.dims])
    own = own.drop_indexes(list(own.indexes))  # xarray writes no index into a region
    own.attrs = {}
    for variable in own.variables.values():
        variable.attrs = {}  # and drop_attrs would copy the values
    place = {dim: slice(begin, begin + count)}
    # Nothing of the store's own words is changed by this: they tell what is committed, in one step, when it is there.
    with every_chunk():
        own.to_zarr(target(path), mode="r+", region=place, zarr_format=3, consolidated=False)
    # Of the root alone: opening the store would cost what is there, and not what is appended.
    said = json.loads((path / "zarr.json").read_bytes())["attributes"]
    said = {name: value for name, value in said.items() if name != promotion.KEY}
    told = stamp(xr.Dataset(attrs=said), f"append_zarr, {count} rows").attrs
    length = state["groups"][0]["sizes"][0]
    regions = math.ceil((begin + count) / length)
    set_state(path, told, committed=begin + count, regions=regions)
