"""Checking every byte of a store, and taking away what is not as it was written, so that it is written anew."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lunarray.engine import progress_bar
from lunarray.engine.tables import html_table
from lunarray.errors import InputError, StoreDamagedError, StoreError, store_errors
from lunarray.store import objects
from lunarray.store.object_lock import write_lock
from lunarray.store.places import Place, Remote
from lunarray.store.promotion import current
from lunarray.store.reading import absolute
from lunarray.store.state import (
    consolidated,
    damaged_metadata,
    digest_of,
    read_state,
    recorded,
    sealed,
    set_state,
    state_of,
)
from lunarray.store.transaction import located, settle, write_file

#: Threads that read objects; their checksums are made while others wait for the disk.
_THREADS = 8

#: Checks of stores of other conventions, by the attribute of the root that tells them; found by name when one is met,
#: for the rooms that they live in stand on this one.
_OTHERS = {"lunarray_gib": "lunarray.superres.gib_check:check_gib"}

Problem = Literal["missing", "damaged", "changed", "metadata"]


@dataclass(frozen=True)
class Fault:
    """What is not as it was written.

    Parameters
    ----------
    name : str
        Path of the object or file in the store.
    problem : {"missing", "damaged", "changed", "metadata"}
        It is not there, or empty; its checksum is not that of its bytes; another program wrote it anew; the text of a
        ``zarr.json`` is not the one that was written.

    Examples
    --------
    >>> import lunarray as la
    >>> la.store.Fault("FeO/c/0", "damaged").problem
    'damaged'
    """

    name: str
    problem: Problem


@dataclass(frozen=True)
class StoreCheck:
    """What :func:`verify` found.

    Parameters
    ----------
    path : Path or Remote
        The store.
    faults : tuple of Fault
        Empty where all is as it was written.
    objects : int
        Objects that were read.
    nbytes : int
        Bytes that were read.
    seconds : float
        What it took.
    repaired : bool
        Whether what is at fault was taken away: then what wrote the store completes it when it is run again.

    Examples
    --------
    >>> import lunarray as la
    >>> store = la.sample("tracks").lunar.to_zarr("tracks.zarr")
    >>> la.store.verify("tracks.zarr").faults
    ()
    """

    path: Place
    faults: tuple[Fault, ...]
    objects: int
    nbytes: int
    seconds: float
    repaired: bool = False

    @property
    def ok(self) -> bool:
        """Whether all is as it was written."""
        return not self.faults

    def _repr_html_(self) -> str:
        what = "all as it was written" if self.ok else f"{len(self.faults)} faults"
        what += ", taken away" if self.repaired else ""
        read = f"{self.objects:,} objects, {self.nbytes / 1e6:,.1f} MB in {self.seconds:.1f} s"
        rows = [("Store", str(self.path)), ("Found", what), ("Read", read)]
        found = html_table((), rows, caption="Verification of a store")
        faults = [(fault.problem, fault.name) for fault in self.faults]
        return found + (html_table(("fault", "object"), faults, most=20) if faults else "")


def verify(
    path: Any,
    *,
    repair: bool = False,
    accept: bool = False,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> StoreCheck:
    """Check every byte of a store against its checksums.

    Chunks and the indices of shards end with their crc32c; the store holds digests of all objects and of the metadata.
    What is missing, damaged, or not what was written is named. A store whose writing was interrupted is checked as far
    as it got.

    Parameters
    ----------
    path : path, URL, zarr Store or icechunk Session
        The store; also a Global Information Bank.
    repair : bool, default False
        Take away what is at fault, and mark the store as incomplete: what wrote it computes that part anew when it is
        run again, and nothing else. Metadata of arrays are put back from the copy in the root's. Of a store that rows
        are appended to, the rows from the first that is lost on are dropped, and the same call appends them again.
    accept : bool, default False
        Take the store as it is now for what it is to be, after another program changed it; refused where objects are
        missing or damaged.
    progress : bool, optional
        Show a progress bar; by default where standard error is a terminal.
    storage_options : mapping, optional
        Of the object store that a URL names, as in :func:`to_zarr`.

    Returns
    -------
    StoreCheck
        With the faults that were found before anything was repaired or accepted.

    Raises
    ------
    InputError
        If both `repair` and `accept` are asked for.
    StoreError
        If nothing is there, or it cannot be read.
    StoreFormatError
        If it is not a lunarray store, or the metadata of its root cannot be read.
    StoreDamagedError
        If it cannot be repaired or accepted.
    StoreLockedError
        If another process is writing to it, with `repair` or `accept`.

    Examples
    --------
    >>> import lunarray as la
    >>> store = la.sample("tracks").lunar.to_zarr("tracks.zarr")
    >>> check = la.store.verify("tracks.zarr")
    >>> check.ok
    True
    """
    if repair and accept:
        raise InputError(
            "repair and accept are both asked for",
            where="verify",
            remedy="Take away what is not as it was written, or take it as it is",
        )
    path = absolute(path, storage_options)
    if (other := _other_convention(path)) is not None:
        return other(path, repair=repair, accept=accept, progress=progress)
    if not (repair or accept):
        return _checked(path, progress)
    with write_lock(located(path)):
        settle(located(path))
        check = _checked(path, progress)
        if check.ok:
            return check
        if accept:
            _accept(path, check)
            return check
        _repair(path, check)
        return replace(check, repaired=True)


def _other_convention(path: Place) -> Callable[..., StoreCheck] | None:
    """What checks a store that is laid out by another convention of lunarray than this room's."""
    try:
        attributes = json.loads((path / "zarr.json").read_text("utf-8"))["attributes"]
        found = next(name for name in _OTHERS if name in attributes)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, StopIteration):
        return None
    module, name = _OTHERS[found].split(":")
    return getattr(importlib.import_module(module), name)


def _checked(path: Place, progress: bool | None) -> StoreCheck:
    begin = time.perf_counter()
    found = read_state(path)
    path = current(path) if isinstance(path, Remote) else path
    if found is None:
        raise StoreError("no such store", where=path, remedy="Check the path")
    state, text = found
    faults: list[Fault] = []
    if sealed(state, text):
        state_of(path)  # which refuses other versions
    else:
        faults.append(Fault("zarr.json", "metadata"))
    metadata, lost = _metadata(path, state, text)
    faults += [Fault(f"{name}/zarr.json", "metadata") for name in lost]
    try:
        cuts = objects.cuts(metadata)
        written = recorded(state) if state.get("complete") else {}
        lazy = {name for group in state.get("groups", ()) for name in group["dims"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if faults:
            return StoreCheck(path, tuple(faults), 0, 0, time.perf_counter() - begin)
        raise damaged_metadata(path / "zarr.json") from error
    jobs = []
    for name, cut in cuts.items():
        # What an incomplete store lacks of these is still to be written.
        optional = not state.get("complete") and (name in lazy or "append_dim" in state)
        known = written.get(name)
        for number, key in enumerate(cut.keys()):
            want = None if known is None or number >= len(known) else int(known[number])
            jobs.append((key, cut, want, optional))

    def look(job: tuple[str, objects.Cut, int | None, bool]) -> tuple[Problem | None, int]:
        outcome = _look(path, *job)
        step()
        return outcome

    with (
        progress_bar(f"Verifying {path.name}", len(jobs), show=progress) as step,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        outcomes = list(pool.map(look, jobs))
    faults += [
        Fault(job[0], problem)
        for job, (problem, _) in zip(jobs, outcomes, strict=True)
        if problem is not None
    ]
    sizes = [size for _, size in outcomes]
    seconds = time.perf_counter() - begin
    return StoreCheck(path, tuple(faults), sum(map(bool, sizes)), sum(sizes), seconds)


def _look(
    path: Place, key: str, cut: objects.Cut, want: int | None, optional: bool
) -> tuple[Problem | None, int]:
    """Tell what is wrong with an object, and how large it is."""
    try:
        if not (path / key).is_file():
            return (None if optional or want == 0 else "missing"), 0
        data = (path / key).read_bytes()
    except OSError:
        return "damaged", 0
    if not data:
        return "missing", 0
    if not objects.sound(data, cut):
        return "damaged", len(data)
    found = objects.digest(lambda begin, n: data[begin : begin + n], len(data), cut)
    return ("changed" if want not in (None, 0, found) else None), len(data)


def _metadata(
    path: Place, state: Mapping[str, Any], text: str
) -> tuple[dict[str, bytes], list[str]]:
    """The metadata of the arrays as they were written, as far as they are known; and those whose files are not so."""
    there = objects.arrays(path)
    known = state.get("metadata")
    if not isinstance(known, dict) or (state.get("append_dim") and not state.get("complete")):
        return there, []
    lost = [n for n, own in known.items() if n not in there or digest_of(there[n]) != own]
    # What a root that is not as it was written says of shapes is not to be believed.
    copies = consolidated(text) if sealed(state, text) else {}
    good = {name: there[name] for name in known if name in there and name not in lost}
    good.update({name: copies[name] for name in lost if name in copies})
    return dict(sorted(good.items())), lost


def faults(path: Place, progress: bool | None = None) -> list[Fault]:
    """What is not as it was written in a store, complete or not."""
    return list(_checked(path, progress).faults)


def _accept(path: Place, check: StoreCheck) -> None:
    for fault in check.faults:
        if fault.problem in ("missing", "damaged"):
            raise StoreDamagedError(
                f"this object is {fault.problem}, so the store cannot be taken as it is",
                where=path / fault.name,
                remedy="Repair it first, with 'lunarray verify STORE --repair', and run again what wrote it",
            )
    set_state(path)


def _repair(path: Place, check: StoreCheck) -> None:
    """Take away what is at fault, and mark the store as incomplete."""
    state = (
        state_of(path) or {}
    )  # StoreDamagedError where it is the root's metadata that are damaged
    restore_metadata(path, check.faults)
    keys = [fault.name for fault in check.faults if fault.problem != "metadata"]
    if state.get("append_dim"):
        _drop_rows(path, state, keys)
        return
    for key in keys:
        take_away(path / key)
    set_state(path, complete=False)


def take_away(file: Place) -> None:
    """Delete what stands in an object's place, whatever that is; StoreError if that is refused."""
    with store_errors("what is damaged cannot be taken away", str(file), "Check the permissions"):
        if isinstance(file, Path) and file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)


def restore_metadata(path: Place, found: tuple[Fault, ...] | list[Fault]) -> None:
    """Put the metadata of arrays back from the copy in those of the root.

    StoreDamagedError if there is none, as in a store whose writing was interrupted.
    """
    copies = consolidated((path / "zarr.json").read_text("utf-8"))
    for fault in found:
        if fault.problem == "metadata":
            text = copies.get(fault.name.removesuffix("/zarr.json"))
            if text is None:
                raise damaged_metadata(path / fault.name)
            if not isinstance(path, Remote):
                (path / fault.name).parent.mkdir(exist_ok=True)
            write_file(path / fault.name, text)


def _drop_rows(path: Place, state: Mapping[str, Any], keys: list[str]) -> None:
    """Commit only the rows before the first that is lost."""
    dim = state["append_dim"]
    metadata = objects.arrays(path)
    committed = state["committed"]
    for name, cut in objects.cuts(metadata).items():
        names = json.loads(metadata[name]).get("dimension_names") or ()
        for key in keys:
            number = cut.number(key)
            if number is None:
                continue
            if dim not in names:
                committed = 0
                break
            axis = list(names).index(dim)
            index = np.unravel_index(number, cut.counts)
            committed = min(committed, int(index[axis]) * cut.region[axis])
    if not committed:
        raise StoreDamagedError(
            "what is lost belongs to all rows of this store, so none can be kept",
            where=path,
            remedy="Delete the store, and write it anew from its sources",
        )
    length = state["groups"][0]["sizes"][0]
    set_state(path, complete=False, committed=committed, regions=math.ceil(committed / length))
