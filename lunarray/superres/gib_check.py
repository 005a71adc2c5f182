"""Checking every byte of a Global Information Bank, and taking away what is not as it was written."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lunarray.engine import progress_bar
from lunarray.errors import InputError, LunarrayError, StoreDamagedError
from lunarray.store import objects
from lunarray.store.locks import WriteLock
from lunarray.store.state import damaged_metadata, sealed
from lunarray.store.transaction import beside, discard, real, settle, write_file
from lunarray.store.verification import Fault, StoreCheck, take_away
from lunarray.superres.gib_layout import (
    POPULATION,
    STATES,
    altered,
    coordinates,
    grid_of,
    lay_out,
    open_root,
    read_meta,
    update_meta,
)
from lunarray.superres.gib_reading import IDS, content_id
from lunarray.superres.gib_table import gib_footprints

_THREADS = 8

#: What the ids of the content of regions go with.
_PARTS = {
    "id_feature": ("feature",),
    "id_mare": ("mare",),
    "id_population": (*POPULATION, "populated"),
}


def check_gib(
    path: Any, *, repair: bool = False, accept: bool = False, progress: bool | None = None
) -> StoreCheck:
    """Check every byte of a Global Information Bank: what :func:`lunarray.store.verify` does with one.

    Objects are held to their checksums, the content of regions and of the table of footprints to the ids that were
    written with them, and metadata to their digests. `repair` takes away what is at fault: features are then to be
    filled in again, mare classes to be written again, and the bank to be populated again, which does those regions
    alone. The table of footprints and the root's metadata cannot be made again from the rest: StoreDamagedError.
    """
    path = real(path)
    if accept:
        raise InputError(
            "a Global Information Bank that another program changed is not accepted",
            where=path,
            remedy="Repair it with repair=True ('--repair'), and write again what that takes away",
        )
    if not repair:
        return _checked(path, progress)
    with WriteLock(path):
        settle(path)
        check = _checked(path, progress)
        if check.ok:
            return check
        _repair(path, check)
        return replace(check, repaired=True)


def _checked(path: Path, progress: bool | None) -> StoreCheck:
    begin = time.perf_counter()
    meta, text = read_meta(path)
    if not sealed(meta, text):
        # What it says of grid and elements is not to be believed, and nothing can be held to it.
        fault = Fault("zarr.json", "metadata")
        return StoreCheck(path, (fault,), 0, 0, time.perf_counter() - begin)
    lost = altered(path, meta)
    faults = [Fault(f"{name}/zarr.json", "metadata") for name in lost]
    # The table of footprints is held to its own ids.
    good = {
        n: t for n, t in objects.arrays(path).items() if n in meta["metadata"] and n not in lost
    }
    cuts = objects.cuts(good)
    jobs = [(name, key) for name in cuts for key in _objects(path, cuts[name])]

    def look(job: tuple[str, str]) -> tuple[bool, int]:
        data = _bytes(path / job[1])
        step()
        return bool(data) and objects.sound(data, cuts[job[0]]), len(data)

    with (
        progress_bar(f"Verifying {path.name}", len(jobs), show=progress) as step,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        found = list(pool.map(look, jobs))
    there = {key for _, key in jobs}
    faults += [
        Fault(key, "missing")
        for name in STATES
        for key in (cuts[name].keys() if name in cuts else ())
        if key not in there
    ]
    faults += [
        Fault(job[1], "damaged") for job, (good, _) in zip(jobs, found, strict=True) if not good
    ]
    bad = {fault.name for fault in faults}
    if not lost:
        # What cannot be read because an object of it is damaged is named by that object.
        faults += [
            f
            for f in _contents(path, meta)
            if f.name not in bad and not any(name.startswith(f.name + "/") for name in bad)
        ]
    table = [f.stat().st_size for f in path.glob("footprints/*/*/c/**/*") if f.is_file()]
    count, nbytes = len(jobs) + len(table), sum(n for _, n in found) + sum(table)
    return StoreCheck(path, tuple(faults), count, nbytes, time.perf_counter() - begin)


def _objects(path: Path, cut: objects.Cut) -> Iterator[str]:
    """Name the objects of an array that are there."""
    folder = path / cut.name / "c"
    for file in [folder] if folder.is_file() else sorted(folder.glob("**/*")):
        key = file.relative_to(path).as_posix()
        # What else lies there, of a writer that was stopped, is none.
        if cut.number(key) is not None and not file.is_dir():
            yield key


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _contents(path: Path, meta: dict[str, Any]) -> Iterator[Fault]:
    """Hold what is decoded to the ids that were written with it."""
    grid = grid_of(meta)
    root = open_root(path, "r")
    for id_name, parts in _PARTS.items():
        names = [name for name in parts if name not in STATES]
        odd = [
            Fault(_key(root[name], name, region), "damaged")
            for name in (id_name, *parts)
            if name in STATES and _reads(root, name, ...) is None
            for region in grid.all_regions()
            if _reads(root, name, region) is None
        ]
        yield from odd
        ids = _reads(root, id_name, ...)
        if ids is None:
            continue
        for i, j in zip(*np.nonzero(ids), strict=True):
            region = (int(i), int(j))
            rows, columns = grid.slices(*region)
            lacking = [n for n in names if not (path / _key(root[n], n, region)).is_file()]
            for name in lacking:
                yield Fault(_key(root[name], name, region), "missing")
            if lacking:
                continue
            found = [_reads(root, name, (..., rows, columns)) for name in names]
            arrays = [array for array in found if array is not None]
            if len(arrays) < len(found) or content_id(*arrays) != int(ids[region]):
                yield from (Fault(_key(root[name], name, region), "changed") for name in names)
    known = coordinates(grid, meta["elements"])
    for coordinate, values in known.coords.items():
        there = _reads(root, str(coordinate), ...)
        if there is None or not np.array_equal(there, values):
            yield Fault(f"{coordinate}/c", "changed")
    try:
        gib_footprints(path, incomplete=True)
    except StoreDamagedError as error:
        yield Fault(Path(str(error.where)).relative_to(path).as_posix(), "damaged")
    except LunarrayError:
        pass  # that of metadata and states, which are named


def _reads(root: Any, name: str, key: Any) -> np.ndarray | None:
    try:
        return np.asarray(root[name][key])
    except Exception:
        return None


def _key(array: Any, name: str, region: tuple[int, ...]) -> str:
    return "/".join([name, "c", *["0"] * (array.ndim - 2), *map(str, region)])


def _repair(path: Path, check: StoreCheck) -> None:
    for fault in check.faults:
        if fault.name == "zarr.json":
            raise damaged_metadata(path / "zarr.json")
        if fault.name.startswith("footprints"):
            raise StoreDamagedError(
                "the table of footprints cannot be made again from the rest",
                where=path / fault.name,
                remedy="Put a copy of it back, or make the bank anew",
            )
    names = [fault.name for fault in check.faults]
    meta, _ = read_meta(path)
    anew = {name.split("/")[0] for name in names} - {*IDS, *STATES}
    if anew or any(fault.problem == "metadata" for fault in check.faults):
        _lay_out_again(path, meta, names, anew)
    root = open_root(path, "r+")
    for id_name, arrays in _PARTS.items():
        hit = {
            tuple(map(int, name.split("/")[-2:]))
            for name in names
            if name.split("/")[0] in (*arrays, id_name) and not name.endswith("zarr.json")
        }
        if hit and "populated" in arrays:
            update_meta(path, populating=True)
        for region in sorted(hit):
            for name in (id_name, *arrays):
                take_away(path / _key(root[name], name, region))
                if name in STATES:
                    root[name][region] = STATES[name][1]


def _lay_out_again(path: Path, meta: dict[str, Any], names: list[str], anew: set[str]) -> None:
    """Put metadata of arrays, and coordinates, back as they are when a bank is made."""
    made = beside(path)
    discard(made, path)
    lay_out(made, grid_of(meta), {k: meta[k] for k in ("version", "grid", "elements", "features")})
    for name in names:
        if name.endswith("/zarr.json"):
            (path / name).parent.mkdir(exist_ok=True)
            write_file(path / name, (made / name).read_bytes())
    for name in anew:
        take_away(path / name / "c")
        if (made / name / "c").exists():
            copy = shutil.copytree if (made / name / "c").is_dir() else shutil.copy
            copy(made / name / "c", path / name / "c")
    discard(made, path)
