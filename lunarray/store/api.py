"""Write a Dataset to Zarr so that it can be interrupted and go on."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

import dask
import xarray as xr

from lunarray.engine import accounts, execution, planning, progress_bar
from lunarray.engine.report import RunReport, failure_rows, remember, report_files
from lunarray.errors import (
    LunarrayWarning,
    StoreConflictError,
    StoreError,
    require_choice,
    require_number,
    store_errors,
)
from lunarray.store import manifest, promotion, regions
from lunarray.store.content import as_dataset, create, identity, mend, storable
from lunarray.store.object_lock import write_lock
from lunarray.store.places import Place, Remote
from lunarray.store.reading import open_zarr
from lunarray.store.state import begun_with, require_ours, set_state, state_of
from lunarray.store.transaction import (
    beside,
    discard,
    located,
    settle,
    sync_folders,
    take_place,
    unsettled,
)
from lunarray.store.verification import Fault, faults
from lunarray.typing import typed
from lunarray.versions import __version__


@typed
def to_zarr(
    obj: xr.Dataset | xr.DataArray,
    path: Any,
    *,
    overwrite: bool = False,
    token: str | None = None,
    progress: bool | None = None,
    description: str | None = None,
    errors: execution.Errors | None = None,
    retries: int | None = None,
    report: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
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
    path : path, URL, zarr Store or icechunk Session
        A folder on a local or shared file system; ``s3://``, ``gs://``, ``az://`` (extra ``cloud``), ``file://`` or
        ``memory://``; a store object of Zarr (but for its ObjectStore, for writers of one process only); or a writable
        session of icechunk, committed when all is there: what was there before stays in its repository's history.
    overwrite : bool, default False
        Write it anew, whatever store is there. That one stays, for whoever reads it and for `obj` itself, until the
        new one is complete and takes its place in one step; then it is deleted. Who has it open and goes on reading
        gets StoreChangedError. A stopped call is gone on with by the same call.
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
        missing: NaN, or in variables of integers the value that the attribute ``nodata`` names, 255 in a mask of bytes
        (of booleans: False). The same call tries them again. Default: ``lunarray.errors`` in Dask's configuration.
    retries : int, optional
        How often a block that fails is tried again before that (2; ``lunarray.retries`` in Dask's configuration). A
        cluster may try elsewhere, and does so anyway with the work of workers that it has lost.
    report : path, optional
        Where to write the report of the run: a .json or .html file, or a folder for both (``lunarray.report``). It is
        written also when the run stops. :func:`lunarray.engine.last_report` has it too.
    storage_options : mapping, optional
        Of the object store that a URL names, such as ``endpoint``, ``region``, ``access_key_id`` (of obstore; the names
        that fsspec has for them are taken too). They are written nowhere. By default all is by the environment
        (``AWS_…``, ``GOOGLE_…``, ``AZURE_…``) and the machine's own role.

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
        If `obj` is no xarray object, or has axes or data that Zarr cannot hold; if no store can be at `path`, or the
        processes that compute cannot reach it.
    MissingDependencyError
        If `path` needs a backend that is not installed.

    Examples
    --------
    >>> import lunarray as la
    >>> store = la.sample("sp_orbit").lunar.condition().lunar.to_zarr("spectra.zarr")
    >>> store["reflectance"].shape
    (240, 150)
    """
    ds = as_dataset(obj)
    path = located(path, storage_options)
    policy = _policy(errors, retries, report)
    name = token or identity(ds)
    contents = {"token": token} if token else manifest.contents(ds)
    if not overwrite and _finished(path, name, contents) and not faults(path, progress):
        return open_zarr(path)
    ds = storable(ds)
    groups = regions.plan(ds)
    with write_lock(path) as lock:
        settle(path)
        place = _prepared(ds, groups, path, name, contents, overwrite, progress)
        if place is not None:
            text = description or f"Writing {path.name}"
            _fill(ds, groups, place, path, policy, lock, text, progress)
            _end(ds, path, overwrite, lock)
    return open_zarr(path)


def _prepared(
    ds: xr.Dataset,
    groups: list[regions.Group],
    path: Place,
    token: str,
    contents: dict[str, Any],
    overwrite: bool,
    progress: bool | None,
) -> Place | None:
    """Lay out what is to be written, or mend what was begun; give where, or None where nothing is left to do."""
    place = path
    if overwrite:
        require_ours(path)
        place = beside(path)
        if not begun_with(place, token):
            discard(place, path)
    # Another writer may have come and gone before the lock was ours.
    finished = _finished(place, token, contents)
    if state_of(place) is None:
        create(ds, groups, place, token, contents)
    elif found := faults(place, progress):
        _say_faults(path, found)
        mend(ds, groups, place, found, contents)
    elif finished and not overwrite:
        return None
    return place


def _say_faults(path: Place, found: list[Fault]) -> None:
    first = found[0]
    warnings.warn(
        f"{path}: {len(found)} objects or files are not as they were written and are written anew (first: "
        f"{first.name}, {first.problem})",
        LunarrayWarning,
        stacklevel=3,
    )


@dataclass(frozen=True)
class _Policy:
    errors: execution.Errors
    retries: int
    report: Any


def _policy(errors: Any, retries: Any, report: Any) -> _Policy:
    errors = dask.config.get("lunarray.errors", "raise") if errors is None else errors
    retries = dask.config.get("lunarray.retries", 2) if retries is None else retries
    report = dask.config.get("lunarray.report", None) if report is None else report
    require_choice("errors", errors, get_args(execution.Errors))
    require_number("retries", retries, 0, whole=True)
    if report is not None:
        report_files(report)
    return _Policy(errors, int(retries), report)


def _finished(path: Place, token: str, contents: dict[str, Any]) -> bool:
    """Tell whether nothing is left to do; raise where the store is one of something else."""
    state = state_of(path)
    if state is None:
        return False
    if state["token"] != token:
        held = "holds" if state["complete"] else "was begun with"
        difference = manifest.explain(state.get("manifest"), contents)
        raise StoreConflictError(
            f"the store {held} other data or parameters than those to be written now: {difference}",
            where=path,
            remedy="Choose another path, or give overwrite=True to write it anew",
        )
    return bool(state["complete"]) and not state.get("failed") and not unsettled(path)


def _fill(
    ds: xr.Dataset,
    groups: list[regions.Group],
    path: Place,
    named: Place,
    policy: _Policy,
    lock: Any,
    description: str,
    progress: bool | None,
) -> None:
    """Write the regions that are missing at `path`, and report; the user knows the store as `named`."""
    begin = time.time()
    there = [regions.done_regions(path, group.axes, group.dims) for group in groups]
    for gap in (state_of(path) or {}).get("failed", ()):
        there[gap["group"]].discard(tuple(gap["index"]))
    client = execution.current_client()
    if isinstance(path, Remote):
        promotion.require_reach(path.bucket, execution.in_one_process(client))
    todo = regions.writes(
        ds,
        groups,
        path,
        there,
        labels=execution.labels(client),
        threads=execution.threads(),
    )
    state = state_of(path) or {}
    outcome = execution.Outcome()
    places: dict[Any, Mapping[str, Any]] = dict(todo.places)
    stopped: BaseException | None = None
    accounts.log(
        "store",
        "begin",
        f"writing {len(todo.places)} of {state['regions']} regions of {named}",
        store=os.fspath(named),
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
            _record_gaps(path, outcome, places)
            _salvage(ds, groups, path, policy, lock, outcome, places)
        regions.sweep(path)
        sync_folders(path)
        failed = _gaps(outcome, places)
        lock.check()
        set_state(path, complete=True, failed=failed or None)
    except BaseException as error:
        stopped = error
        if not isinstance(error, OSError) or isinstance(error, StoreError):
            raise
        # Of the store's own files, or of a block's input: only the former is the store's fault.
        full = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
        if not path.exists() or error.errno in full:
            stopped = regions.write_error(path, error)
            raise stopped from error
        raise StoreError(
            f"writing stopped ({error.strerror or error})",
            where=named,
            remedy="Mend the cause and call to_zarr again with the same data: it goes on where it stopped",
        ) from error
    finally:
        _clear_debris(path, state.get("groups", []))
        _report(named, policy, places, len(todo.places), outcome, state, stopped, begin)
    if outcome.failures:
        first = outcome.failures[0]
        warnings.warn(
            f"{named}: {len(failed)} of {state['regions']} regions failed and are left missing, in whole or in part "
            f"(first: {first['error']}: {first['message']}); the same call tries them again",
            LunarrayWarning,
            stacklevel=3,
        )


def _gaps(
    outcome: execution.Outcome, places: Mapping[Any, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The regions that failed, as the state of a store lists them."""
    gaps = {
        (places[f["key"]]["group"], *places[f["key"]]["index"]): f["error"]
        for f in outcome.failures
    }
    return [
        {"group": group, "index": index, "error": error}
        for (group, *index), error in sorted(gaps.items())
    ]


def _record_gaps(
    path: Place, outcome: execution.Outcome, places: Mapping[Any, Mapping[str, Any]]
) -> None:
    """Say which regions failed before anything of them is written: an object that is there counts as done otherwise."""
    gaps = _gaps(outcome, places)
    known = [(gap["group"], gap["index"]) for gap in gaps]
    before = (state_of(path) or {}).get("failed", ())
    gaps += [gap for gap in before if (gap["group"], gap["index"]) not in known]
    set_state(path, failed=gaps)


def _end(ds: xr.Dataset, path: Place, overwrite: bool, lock: Any) -> None:
    """Commit what was written to an icechunk session, or put what was written beside a store in its place."""
    promotion.commit(path, f"to_zarr: {', '.join(map(str, ds.data_vars))}")
    if not overwrite:
        return
    lock.check()
    require_ours(path)
    with store_errors(
        "the new store is complete and cannot take its place",
        path,
        f"Mend the cause and do the same again; until then it is {beside(path)}",
    ):
        take_place(path)


def _salvage(
    ds: xr.Dataset,
    groups: list[regions.Group],
    path: Place,
    policy: _Policy,
    lock: Any,
    outcome: execution.Outcome,
    places: dict[Any, Mapping[str, Any]],
) -> None:
    """Compute regions that failed block by block, so that only what cannot be computed is missing."""
    failures, outcome.failures = outcome.failures, []
    for failure in failures:
        place = places[failure["key"]]
        group = groups[place["group"]]
        pieces = regions.pieces(ds, group, place["extent"])
        keys = regions.extents(pieces, group)
        if len(keys) == 1:
            outcome.failures.append(failure)
            continue
        parts = execution.Outcome()
        execution.run(
            planning.plan([pieces]),
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
            outcome.records.append(regions.write_pieces(ds, group, place["extent"], found, path))
        outcome.records += parts.records
        outcome.failures += parts.failures
        outcome.retries += parts.retries
        outcome.lost_workers += parts.lost_workers
        places.update({key: {**place, "extent": extent} for key, extent in keys.items()})


def _report(
    path: Place,
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


def _clear_debris(path: Place, groups: list[dict[str, Any]]) -> None:
    """Delete the objects that blocks under way still wrote after the store's folder had been deleted."""
    if isinstance(path, Remote):
        if not path.is_file() and not (path / "zarr.json").is_file():
            path.clear()
        return
    if path.is_dir() and not (path / "zarr.json").exists():
        for group in groups:
            for name in group["dims"]:
                shutil.rmtree(path / name / "c", ignore_errors=True)
                with contextlib.suppress(OSError):
                    (path / name).rmdir()
        with contextlib.suppress(OSError):
            path.rmdir()  # only where nothing else is in it
