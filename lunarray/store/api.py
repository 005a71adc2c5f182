"""Write a Dataset to Zarr so that it can be interrupted, and open what was written."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import dask
import numpy as np
import xarray as xr

from lunarray.engine import accounts, execution, progress_bar
from lunarray.engine.report import RunReport, failure_rows, remember, report_files
from lunarray.errors import (
    InputError,
    LunarrayWarning,
    StoreConflictError,
    StoreError,
    StoreFormatError,
    StoreIncompleteError,
)
from lunarray.store import manifest, regions
from lunarray.store.locks import WriteLock
from lunarray.store.provenance import stamp
from lunarray.versions import __version__

#: Version of the convention below. A store of another major version is refused.
FORMAT_VERSION = 1

#: Attribute of the root group that makes a Zarr group a lunarray store.
KEY = "lunarray_store"

#: A plain DataArray without a name is stored under this one.
UNNAMED = "data"


def to_zarr(
    obj: xr.Dataset | xr.DataArray,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    token: str | None = None,
    progress: bool | None = None,
    description: str | None = None,
    errors: execution.Errors | None = None,
    retries: int | None = None,
    report: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Write to a Zarr store, region by region; go on where an interrupted write stopped.

    The store is Zarr v3. A chunk holds about a sixty-fourth of its variable, between 256 KiB and 16 MiB (up to four
    times that, to keep to Dask's blocks), so that a job of some seconds has tens of regions and a stop loses one or
    two. Chunks never split the spectral, element or feature axis; where there would be more than 10 000 of them they
    are gathered in shards. Missing floats are NaN. Nothing that is written is
    readable as complete before all of it is there: :func:`open_zarr` refuses a store whose writing was interrupted,
    and calling `to_zarr` again with the same data completes it, to the same bytes. A complete store of the same data
    is left as it is. One writer at a time: another one is refused while the first lives.

    Parameters
    ----------
    obj : Dataset or DataArray
        What to write; lazy variables are computed region by region on the Dask scheduler in force (threads, processes,
        or the cluster of the current client), with bounded memory.
    path : path
        A folder on a local or shared file system.
    overwrite : bool, default False
        Delete what is there first, if that is a lunarray store.
    token : str, optional
        The identity of the data, by which an interrupted write is recognised. By default it is that of the Dask graph
        and the arrays in memory, which is the same again for the same calls on the same input.
    progress : bool, optional
        Show a progress bar; by default where standard error is a terminal.
    description : str, optional
        Text beside the bar.
    errors : {"raise", "nan"}, optional
        What follows when a block fails for good. "raise" (the default) stops with its exception; what was written
        stays, and the next call goes on. "nan" records it, goes on with the others, and leaves what depends on it
        missing: NaN, or 0 in variables of integers. Calling `to_zarr` again tries them again. The default
        can be set as ``lunarray.errors`` in Dask's configuration.
    retries : int, optional
        How often a block that fails is tried again before that (2; ``lunarray.retries`` in Dask's configuration). A
        cluster may try elsewhere, and does so anyway with the work of workers that it has lost.
    report : path, optional
        Where to write the report of the run: a .json or .html file, or a folder for both (``lunarray.report``). It is
        written also when the run stops. :func:`lunarray.engine.last_report` has it too.

    Returns
    -------
    Dataset
        The store, opened by :func:`open_zarr`.

    Raises
    ------
    StoreConflictError
        If `path` holds something else, or the beginning of something else; it says whether input, model or parameters
        differ.
    StoreLockedError
        If another process is writing to it.
    StoreFormatError
        If `path` holds a store of another version of this convention.
    StoreWriteError
        If the disk is full, or the store is deleted under way: what was written stays.
    StoreError
        If `path` cannot be written.
    InputError
        If `obj` is no xarray object, or has axes or data that Zarr cannot hold.
    """
    ds = _as_dataset(obj)
    path = Path(path)
    policy = _policy(errors, retries, report)
    identity = token or _identity(ds)
    contents = {"token": token} if token else manifest.contents(ds)
    if not overwrite and _finished(path, identity, contents):
        return open_zarr(path)
    ds = _storable(ds)
    groups = regions.plan(ds)
    with WriteLock(path) as lock:
        if overwrite:
            _remove(path)
        # Another writer may have come and gone before the lock was ours.
        elif _finished(path, identity, contents):
            return open_zarr(path)
        if _state(path) is None:
            _create(ds, groups, path, identity, contents)
        _fill(ds, groups, path, policy, lock, description or f"Writing {path.name}", progress)
    return open_zarr(path)


@dataclass(frozen=True)
class _Policy:
    errors: execution.Errors
    retries: int
    report: Any


def _policy(errors: Any, retries: Any, report: Any) -> _Policy:
    errors = dask.config.get("lunarray.errors", "raise") if errors is None else errors
    retries = dask.config.get("lunarray.retries", 2) if retries is None else retries
    report = dask.config.get("lunarray.report", None) if report is None else report
    if errors not in get_args(execution.Errors):
        raise InputError(
            f"unknown policy {errors!r}", where="errors", remedy="Choose 'raise' or 'nan'"
        )
    if not isinstance(retries, int) or retries < 0:
        raise InputError(
            f"{retries!r} retries", where="retries", remedy="Give a whole number, 0 or more"
        )
    if report is not None:
        report_files(report)
    return _Policy(errors, retries, report)


def _finished(path: Path, identity: str, contents: dict[str, Any]) -> bool:
    """Tell whether nothing is left to do; raise where the store is one of something else."""
    state = _state(path)
    if state is None:
        return False
    if state["token"] != identity:
        held = "holds" if state["complete"] else "was begun with"
        difference = manifest.explain(state.get("manifest"), contents)
        raise StoreConflictError(
            f"the store {held} other data or parameters than those to be written now: {difference}",
            where=path,
            remedy="Choose another path, or pass overwrite=True to write it anew",
        )
    return bool(state["complete"]) and not state.get("failed")


def _fill(
    ds: xr.Dataset,
    groups: list[regions.Group],
    path: Path,
    policy: _Policy,
    lock: WriteLock,
    description: str,
    progress: bool | None,
) -> None:
    """Write the regions that are missing, and report."""
    begin = time.time()
    there = [regions.done_regions(path, group.axes, group.dims) for group in groups]
    for gap in (_state(path) or {}).get("failed", ()):
        there[gap["group"]].discard(tuple(gap["index"]))
    client = execution.current_client()
    todo = regions.writes(
        ds,
        groups,
        os.fspath(path),
        there,
        labels=execution.labels(client),
        threads=execution.threads(),
    )
    state = _state(path) or {}
    outcome = execution.Outcome()
    places: dict[Any, Mapping[str, Any]] = dict(todo.places)
    stopped: BaseException | None = None
    accounts.log(
        "store",
        "begin",
        f"writing {len(todo.places)} of {state['regions']} regions of {path}",
        store=os.fspath(path),
        regions=len(todo.places),
    )
    try:
        with progress_bar(description, len(todo.places), show=progress) as advance:

            def done(key: Any) -> None:
                lock.check()
                advance()

            execution.run(
                todo.work, retries=policy.retries, errors=policy.errors, done=done, outcome=outcome
            )
        if outcome.failures:
            _salvage(ds, groups, path, policy, lock, outcome, places)
        regions.sweep(path, state["groups"])
        gaps = {
            (places[f["key"]]["group"], *places[f["key"]]["index"]): f["error"]
            for f in outcome.failures
        }
        failed = [
            {"group": group, "index": index, "error": error}
            for (group, *index), error in sorted(gaps.items())
        ]
        lock.check()
        _set_state(path, complete=True, failed=failed or None)
    except StoreError as error:
        stopped = error
        raise
    except OSError as error:
        # Of the store's own files, or of a block's input: only the former is the store's fault.
        stopped = error
        if not path.exists() or error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
            errno.EFBIG,
        ):
            stopped = regions.write_error(os.fspath(path), error)
            raise stopped from error
        raise StoreError(
            f"writing stopped ({error.strerror or error})",
            where=path,
            remedy="Mend the cause and call to_zarr again with the same data: it goes on where it stopped",
        ) from error
    except BaseException as error:
        stopped = error
        raise
    finally:
        _clear_debris(path, state.get("groups", []))
        _report(path, policy, places, len(todo.places), outcome, state, stopped, begin)
    if outcome.failures:
        first = outcome.failures[0]
        warnings.warn(
            f"{path}: {len(failed)} of {state['regions']} regions failed and are left missing, in whole or in part "
            f"(first: {first['error']}: {first['message']}); the same call tries them again",
            LunarrayWarning,
            stacklevel=3,
        )


def _salvage(
    ds: xr.Dataset,
    groups: list[regions.Group],
    path: Path,
    policy: _Policy,
    lock: WriteLock,
    outcome: execution.Outcome,
    places: dict[Any, Mapping[str, Any]],
) -> None:
    """Compute regions that failed block by block, so that only what cannot be computed is missing."""
    failures, outcome.failures = outcome.failures, []
    for failure in failures:
        place = places[failure["key"]]
        group = groups[place["group"]]
        extents = regions.pieces(ds, group, place["extent"])
        if len(extents) == 1:
            outcome.failures.append(failure)
            continue
        work = regions.piece_tasks(ds, group, extents)
        keys = dict(zip(work.keys, extents, strict=True))
        parts = execution.Outcome()
        execution.run(
            work,
            retries=policy.retries,
            errors="nan",
            done=lambda key: lock.check(),
            outcome=parts,
        )
        found = [
            (keys[record.pop("key")], record.pop("blocks"))
            for record in parts.records
            if "blocks" in record
        ]
        if found:
            outcome.records.append(
                regions.write_pieces(ds, group, place["extent"], found, os.fspath(path))
            )
        outcome.records += parts.records
        outcome.failures += parts.failures
        outcome.retries += parts.retries
        outcome.lost_workers += parts.lost_workers
        places.update({key: {**place, "extent": extent} for key, extent in keys.items()})


def _report(
    path: Path,
    policy: _Policy,
    places: Mapping[Any, Mapping[str, Any]],
    todo: int,
    outcome: execution.Outcome,
    state: dict[str, Any],
    stopped: BaseException | None,
    begin: float,
) -> None:
    end = time.time()
    written = [record for record in outcome.records if "region" in record]
    seconds = max(end - begin, 1e-9)
    status = "complete with gaps" if outcome.failures else "complete"
    report = RunReport(
        store=os.fspath(path),
        status=status if stopped is None else "stopped",
        error=None if stopped is None else f"{type(stopped).__name__}: {stopped}",
        started=f"{datetime.fromtimestamp(begin, UTC):%Y-%m-%dT%H:%M:%SZ}",
        ended=f"{datetime.fromtimestamp(end, UTC):%Y-%m-%dT%H:%M:%SZ}",
        seconds=seconds,
        lunarray_version=__version__,
        regions={
            "total": state.get("regions", 0),
            "there_before": state.get("regions", 0) - todo,
            "written": len(written),
            "failed": len(
                {(p["group"], *p["index"]) for p in (places[f["key"]] for f in outcome.failures)}
            ),
        },
        pixels=sum(record["pixels"] for record in written),
        pixels_per_s=sum(record["pixels"] for record in written) / seconds,
        bytes_written=sum(record["nbytes"] for record in written),
        failures=failure_rows(outcome.failures, places),
        manifest=state.get("manifest") or {},
    )
    report.account(outcome)
    remember(report)
    accounts.log(
        "store",
        "end",
        f"{path}: {report.status}, {len(written)} regions in {seconds:.1f} s",
        store=os.fspath(path),
        status=report.status,
        seconds=seconds,
        regions=report.regions,
        retries=report.retries,
        peak=report.memory["peak"],
    )
    if policy.report is not None:
        try:
            report.save(policy.report)
        except StoreError as error:
            if stopped is None:
                raise
            accounts.log("store", "no_report", str(error), level=logging.WARNING)


def _clear_debris(path: Path, groups: list[dict[str, Any]]) -> None:
    """Delete the objects that blocks under way still wrote after the store's folder had been deleted."""
    if path.is_dir() and not (path / "zarr.json").exists():
        for group in groups:
            for name in group["dims"]:
                shutil.rmtree(path / name / "c", ignore_errors=True)
                with contextlib.suppress(OSError):
                    (path / name).rmdir()
        with contextlib.suppress(OSError):
            path.rmdir()  # only where nothing else is in it


def open_zarr(path: str | os.PathLike[str], *, incomplete: bool = False) -> xr.Dataset:
    """Open a store written by :func:`to_zarr`, lazily.

    Parameters
    ----------
    path : path
        The store.
    incomplete : bool, default False
        Open it though its writing was interrupted; what is missing reads as fill values.

    Returns
    -------
    Dataset
        Dask blocks are the store's objects (shards where there are shards), so that it can be processed and saved again
        without rearranging; encodings left from the store are cleared for the same reason. Coordinates that were in
        memory when they were written are so again.

    Raises
    ------
    StoreError
        If nothing is there.
    StoreFormatError
        If it is not a lunarray store, or one of another version.
    StoreIncompleteError
        If its writing was interrupted.
    """
    path = Path(path)
    state = _state(path)
    if state is None:
        raise StoreError("no such store", where=path, remedy="Check the path")
    if not (state["complete"] or incomplete):
        raise StoreIncompleteError(
            "the writing of this store was interrupted",
            where=path,
            remedy="Run again what wrote it and it is completed, or read what is there with incomplete=True",
        )
    blocks: dict[str, int] = {}
    for group in state["groups"]:
        for axis, size in zip(group["axes"], group["sizes"], strict=True):
            blocks[axis] = max(size, blocks.get(axis, 0))
    lazy = {name for group in state["groups"] for name in group["dims"]}
    with warnings.catch_warnings():
        # Coordinates to be loaded lie in other chunks than the data; that is of no matter to them.
        warnings.filterwarnings("ignore", "The specified chunks separate", UserWarning)
        stored = xr.open_dataset(
            path,
            engine="zarr",
            chunks=blocks,
            consolidated=False,
            decode_coords="all",
            decode_timedelta=False,
        )
    # A folder has no order, and selecting variables leaves out the coordinates of none of them.
    ds = stored[state.get("variables", list(stored.data_vars))].assign_coords(
        {
            name: c.variable if name in lazy else c.variable.compute()
            for name, c in stored.coords.items()
        }
    )
    for variable in ds.variables.values():
        for key in ("chunks", "preferred_chunks", "shards", "compressors", "filters", "serializer"):
            variable.encoding.pop(key, None)
    ds.attrs.pop(KEY, None)
    if state.get("failed"):
        ds.attrs["missing_regions"] = len(state["failed"])
    ds.encoding = {"source": os.fspath(path)}
    return ds


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds and how far its writing got.

    Parameters
    ----------
    path : Path
        Where it is.
    version : int
        Of the store convention.
    complete : bool
        Whether its writing came to the end.
    regions_done, regions : int
        How many regions are there, of how many.
    nbytes_stored : int
        Bytes on disk.
    dataset : Dataset
        The content, lazy.
    failed : tuple of dict
        Regions that failed and were left missing: ``group``, ``index``, ``error``.
    manifest : dict
        What it is made from: digests of ``input``, ``models`` and ``parameters``.
    """

    path: Path
    version: int
    complete: bool
    regions_done: int
    regions: int
    nbytes_stored: int
    dataset: xr.Dataset
    failed: tuple[dict[str, Any], ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)


def describe(path: str | os.PathLike[str]) -> StoreInfo:
    """Look at a store, complete or not, without reading its data.

    Parameters
    ----------
    path : path
        The store.

    Returns
    -------
    StoreInfo

    Raises
    ------
    StoreError
        As :func:`open_zarr` does, except that an interrupted store is described too.
    """
    ds = open_zarr(path, incomplete=True)
    path = Path(path)
    state = _state(path) or {}
    done = sum(
        len(regions.done_regions(path, group["axes"], group["dims"])) for group in state["groups"]
    )
    return StoreInfo(
        path=path,
        version=state["version"],
        complete=state["complete"],
        regions_done=done,
        regions=state["regions"],
        nbytes_stored=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        dataset=ds,
        failed=tuple(state.get("failed", ())),
        manifest=state.get("manifest", {}),
    )


def _as_dataset(obj: xr.Dataset | xr.DataArray) -> xr.Dataset:
    if isinstance(obj, xr.DataArray):
        return obj.to_dataset(name=obj.name or UNNAMED)
    if isinstance(obj, xr.Dataset):
        return obj
    raise InputError(
        f"cannot store a {type(obj).__name__}", remedy="Pass an xarray Dataset or DataArray"
    )


def _identity(ds: xr.Dataset) -> str:
    """Name the content by what it is computed from; times of day in `history` do not count."""
    content = [
        (str(name), v.dims, str(v.dtype), v.data)
        for name, v in sorted(ds.variables.items(), key=str)
    ]
    return dask.base.tokenize(FORMAT_VERSION, content)


def _storable(ds: xr.Dataset) -> xr.Dataset:
    """Drop the encodings of other stores, load what cannot be written by region, and put large arrays in blocks."""
    ds = ds.drop_encoding()
    changed = {}
    for name, variable in ds.variables.items():
        lazy, plain = dask.is_dask_collection(variable.data), variable.dtype.kind in "fiub"
        if lazy and not plain:
            changed[name] = variable.compute()
        elif not lazy and plain and name not in ds.coords and variable.ndim:
            # Blocks make data in memory resumable and parallel too; its identity is already taken from the values.
            data = dask.array.from_array(variable.data, name=False)
            changed[name] = xr.Variable(variable.dims, data, variable.attrs)
    ds = _with_variables(ds, changed)
    return stamp(ds, "to_zarr", variables=[])


def _with_variables(ds: xr.Dataset, variables: dict[Any, xr.Variable]) -> xr.Dataset:
    """Exchange variables, each for itself: DataArrays would bring their coordinates along."""
    coords = {name: variable for name, variable in variables.items() if name in ds.coords}
    data = {name: variable for name, variable in variables.items() if name not in ds.coords}
    return ds.assign(data).assign_coords(coords)


def _create(
    ds: xr.Dataset,
    groups: list[regions.Group],
    path: Path,
    identity: str,
    contents: dict[str, Any],
) -> None:
    """Lay out the store, without the lazy data, such that it appears all at once."""
    from zarr.codecs import BloscCodec

    if path.exists():
        raise StoreConflictError(
            "something else than a lunarray store is there",
            where=path,
            remedy="Choose another path",
        )
    encoding: dict[Any, dict[str, Any]] = {}
    chunked = {}
    for group in groups:
        for name, layout in group.layouts.items():
            variable = ds.variables[name]
            encoding[name] = {
                "chunks": layout.chunks,
                "compressors": BloscCodec(cname="zstd", clevel=3),
            }
            if layout.shards:
                encoding[name]["shards"] = layout.shards
            if variable.dtype.kind == "f":
                encoding[name]["_FillValue"] = variable.dtype.type(np.nan)
            chunked[name] = variable.chunk(dict(zip(variable.dims, layout.region, strict=True)))
    template = _with_variables(ds, chunked)
    begun = path.with_name(f".{path.name}.{os.getpid()}.begun")
    shutil.rmtree(begun, ignore_errors=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        template.to_zarr(
            begun, mode="w-", compute=False, zarr_format=3, consolidated=False, encoding=encoding
        )
        _set_state(
            begun,
            version=FORMAT_VERSION,
            token=identity,
            manifest=contents,
            complete=False,
            regions=sum(
                math.prod(
                    math.ceil(ds.sizes[axis] / size)
                    for axis, size in zip(group.axes, group.sizes, strict=True)
                )
                for group in groups
            ),
            variables=[str(name) for name in ds.data_vars],
            groups=[
                {"axes": group.axes, "sizes": group.sizes, "dims": dict(group.dims)}
                for group in groups
            ],
        )
        os.rename(begun, path)
    except OSError as error:
        raise StoreError(
            f"the store cannot be written ({error.strerror or error})",
            where=path,
            remedy="Check the free space and the permissions of the folder",
        ) from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _state(path: Path) -> dict[str, Any] | None:
    """Read the state of the store at `path`; None where nothing is there."""
    state = _any_state(path)
    if state is not None and state["version"] != FORMAT_VERSION:
        raise StoreFormatError(
            f"the store has version {state['version']} of the convention, and this lunarray reads {FORMAT_VERSION}",
            where=path,
            remedy="Open it with the lunarray that wrote it (attribute lunarray_version), or write it anew",
        )
    return state


def _any_state(path: Path) -> dict[str, Any] | None:
    """Read the state of a store of whatever version."""
    try:
        if not path.exists():
            return None
    except OSError as error:
        raise StoreError(
            f"the place cannot be looked at ({error.strerror or error})",
            where=path,
            remedy="Check the permissions of the folders on the way",
        ) from error
    try:
        state = json.loads((path / "zarr.json").read_text())["attributes"][KEY]
        return {**state, "version": state["version"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreFormatError(
            "not a lunarray store",
            where=path,
            remedy="Pass a store that lunarray wrote; other Zarr stores open with xarray.open_zarr",
        ) from error


def _set_state(path: Path, **state: Any) -> None:
    """Change the state of the store in one step."""
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    attributes = metadata.setdefault("attributes", {})
    state = {**attributes.get(KEY, {}), **state}
    attributes[KEY] = {key: value for key, value in state.items() if value is not None}
    new = file.with_name(f".zarr.json.{os.getpid()}")
    try:
        new.write_text(json.dumps(metadata, indent=2))
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Delete the lunarray store at `path`, of whatever version, if there is one."""
    try:
        state = _any_state(path)
    except StoreFormatError as error:
        raise StoreConflictError(
            "it is no lunarray store, so it is not overwritten",
            where=path,
            remedy="Delete it yourself or choose another path",
        ) from error
    if state is not None:
        shutil.rmtree(path)
