"""What readers of instrument products share: finding files, reading many headers, and reporting those that fail."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from lunarray.errors import InputError, LunarrayError, LunarrayWarning, ProductFormatError
from lunarray.readers.archives import is_member, walk
from lunarray.readers.guard import guarded

T = TypeVar("T")
Errors = Literal["raise", "skip"]
#: Files that a thread reads one after the other.
_GROUP = 16
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def find_files(paths: Paths, suffixes: tuple[str, ...], product: str) -> list[Path]:
    """Files meant by a path, a folder, a glob pattern, or an iterable of these.

    `paths`: ``~`` is expanded. A folder or a pattern gives its files with one of `suffixes`, sorted by name; a folder
    without any, those of the folders below (years, months, days). A file named outright is taken whatever its suffix;
    `suffixes`: in lower case, with the dot; `product`: what they should be, in the plural, for messages ("CLASS
    files"). Returns in the order given, each file once. InputError if something named does not exist, or nothing is
    found.
    """
    items = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: dict[str, Path] = {}
    for item in items:
        text = os.path.expanduser(os.fspath(item))
        if os.path.isdir(text):
            names = walk(text, suffixes)
        elif os.path.exists(text) or is_member(text):
            names = [text]
        elif glob.has_magic(text):
            names = glob.glob(text, recursive=True)
        else:
            raise InputError(
                "no such file, folder or pattern",
                where=text,
                remedy=f"Give {product}, a folder of them, or a pattern such as '*{suffixes[0]}'",
            )
        if names != [text]:
            names = sorted(name for name in names if name.lower().endswith(suffixes))
        for name in names:
            found.setdefault(os.path.abspath(name), Path(name))
    if not found:
        raise InputError(
            f"no {product} found",
            where=", ".join(os.fspath(item) for item in items[:3]) or "paths",
            remedy=f"Give {product}, a folder of them, or a pattern such as '*{suffixes[0]}'",
        )
    return list(found.values())


def read_all(
    paths: list[Path],
    read: Callable[[Path], T],
    product: str,
    *,
    errors: Errors,
    check: Callable[[T, T], str | None] | None = None,
    workers: int | None = None,
) -> tuple[list[T], list[dict[str, str]]]:
    """Read something small from each of many files, in threads.

    `read`: reads one; raises a LunarrayError, or an OSError, where it cannot; `product`: what they should be, in the
    plural, for messages ("CLASS files"); `check`: given the first one and another, says what makes them incompatible,
    or None; `workers`: threads. Returns `results`: of those that were read, in the order of `paths`; `skipped`:
    ``file`` and ``reason`` of the others. InputError if `errors` is neither of the two. ProductFormatError with
    ``errors="raise"`` for the first that fails, otherwise if all do.
    """
    if errors not in ("raise", "skip"):
        raise InputError(f"errors={errors!r}", remedy="Give 'raise' or 'skip'")

    def attempt(path: Path) -> T | LunarrayError:
        try:
            with guarded(path):
                return read(path)
        except LunarrayError as error:
            return error

    if len(paths) < 4:
        outcomes = [attempt(path) for path in paths]
    else:
        # Some at a time: a task of a pool of threads costs as much as a header.
        groups = [paths[at : at + _GROUP] for at in range(0, len(paths), _GROUP)]
        with ThreadPoolExecutor(workers or min(8, (os.cpu_count() or 1) + 4)) as pool:
            outcomes = [
                found
                for group in pool.map(lambda group: [attempt(path) for path in group], groups)
                for found in group
            ]
    results: list[T] = []
    skipped: list[dict[str, str]] = []
    for path, outcome in zip(paths, outcomes, strict=True):
        error = outcome if isinstance(outcome, LunarrayError) else None
        if error is None and results and check is not None:
            problem = check(results[0], outcome)  # type: ignore[arg-type]
            if problem:
                error = ProductFormatError(problem, where=path, remedy="Open such products apart")
        if error is None:
            results.append(outcome)  # type: ignore[arg-type]
        elif errors == "raise":
            raise error
        else:
            skipped.append({"file": str(path), "reason": str(error)})
    if not results:
        raise ProductFormatError(
            f"none of the {len(paths)} files can be read; the first: {skipped[0]['reason']}",
            where=str(paths[0]),
            remedy=f"Give {product}",
        )
    return results, skipped


def warn_skipped(
    skipped: list[dict[str, str]], total: int, product: str, *, stacklevel: int = 4
) -> None:
    """Warn, once, that files were left out.

    `skipped`: from :func:`read_all`; `total`: number of files that there were; `product`: what they should be, in the
    plural; `stacklevel`: as in :func:`warnings.warn`.
    """
    if skipped:
        names = ", ".join(os.path.basename(entry["file"]) for entry in skipped[:5])
        warnings.warn(
            f"{len(skipped)} of {total} {product} skipped: {names}"
            f"{' ...' if len(skipped) > 5 else ''}; reasons are in attrs['skipped_files']",
            LunarrayWarning,
            stacklevel=stacklevel,
        )


def lazy_array(reader: Any, chunks: tuple[int, ...] | None, name: str) -> Any:
    """An array-like that reads what it is asked for, as a Dask array cut along its first axis.

    `reader`: with ``shape``, ``dtype`` and ``__getitem__``; `chunks`: along the first axis; None reads everything now;
    `name`: of the Dask array; it must tell what is read, so that the same call gives the same token.
    """
    if chunks is None:
        return reader[tuple(slice(None) for _ in reader.shape)]
    import dask.array as da

    # inline_array=False: the table of files is in the graph once, not in each task.
    return da.from_array(
        reader,
        chunks=(chunks, *((size,) for size in reader.shape[1:])),
        name=name,
        lock=False,
        asarray=False,
        inline_array=False,
        meta=np.empty((0,) * len(reader.shape), reader.dtype),
    )
