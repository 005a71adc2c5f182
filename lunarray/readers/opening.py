"""Opening files by the reader that knows them."""

from __future__ import annotations

import glob
import inspect
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import xarray as xr

from lunarray.errors import InputError, LunarrayError, ProductFormatError, require_choice
from lunarray.readers.archives import walk
from lunarray.readers.files import Errors, Paths, warn_skipped
from lunarray.readers.guard import guarded
from lunarray.readers.protocol import Reader, heads_kept
from lunarray.readers.registry import available
from lunarray.store import open_zarr
from lunarray.store.places import is_elsewhere
from lunarray.typing import typed_either

_NAME_ONE = "Name the reader, reader={!r}; lunarray.readers.available() lists all"


@dataclass(frozen=True)
class _Item:
    """A file, or a folder that is a product as a whole; `named` where the user named it itself."""

    path: str
    named: bool


@typed_either
def open(
    paths: Paths,
    *,
    reader: str | Reader | None = None,
    product: str | None = None,
    errors: Errors = "raise",
    **options: Any,
) -> xr.Dataset | xr.DataArray:
    """Open files with the reader that knows them, lazily.

    Parameters
    ----------
    paths : path, folder, URL, glob pattern, iterable of these, zarr Store or icechunk Session
        Files of one kind, or a store.
    reader : str or Reader, optional
        Which reader opens them; by default the one that knows them by what is in them or, where nobody is certain, by
        their ending. :func:`lunarray.readers.available` lists all.
    product : str, optional
        What to make of them, where the reader makes several things (``products`` in that list).
    errors : {"raise", "skip"}
        What to do with a file among several that cannot be read: raise an error that names it, or leave it out with a
        warning and a record in ``attrs["skipped_files"]``.
    **options
        Of the reader's function, such as ``chunks``.

    Returns
    -------
    Dataset or DataArray
        What the reader's own function gives: :func:`lunarray.open_sp` for files of the Spectral Profiler, and so on.

    Raises
    ------
    InputError
        If nothing is there, files are of several kinds, several readers may be meant, or an option is unknown.
    ProductFormatError
        If no reader knows the files, or a file is damaged.
    StoreError
        If a store cannot be read.

    Examples
    --------
    >>> import lunarray as la
    >>> sp = la.open("SP_2C_*.spc")  # doctest: +SKIP
    >>> image = la.open("image.tif", reader="lroc-nac")  # doctest: +SKIP
    """
    require_choice("errors", errors, ("raise", "skip"))
    if not isinstance(paths, str | bytes | os.PathLike) and is_elsewhere(paths):
        return open_zarr(paths, **options)
    items = _items(paths)
    with heads_kept():
        chosen = _known(items) if reader is None else _named(reader)
        meant = _meant(items, chosen)
    chosen.check_options(options, product)
    with guarded(items[0].path):
        function = chosen.function(product)
    if "errors" in inspect.signature(function).parameters:
        options["errors"] = errors
    result = _opened(chosen, function, meant, options, errors)
    if not isinstance(result, xr.Dataset | xr.DataArray):
        raise ProductFormatError(
            f"the reader {chosen.name!r} made a {type(result).__name__} of it",
            where=items[0].path,
            remedy="A reader gives a Dataset or a DataArray",
        )
    return result


def _meant(items: list[_Item], reader: Reader) -> list[str]:
    """The files that a reader is given: what is named, and of a folder or a pattern what is of its kind."""
    files = [
        item.path
        for item in items
        if item.named or item.path.lower().endswith(reader.extensions) or reader.certain(item.path)
    ]
    if not files:
        raise InputError(
            f"no files of {reader.name} there",
            where=os.path.dirname(items[0].path) or ".",
            remedy=f"Their endings are {', '.join(reader.extensions) or 'not told'}",
        )
    return files


def _opened(
    reader: Reader, function: Any, files: list[str], options: dict[str, Any], errors: Errors
) -> Any:
    """What the function of a reader makes of files; whatever it fails with comes out as an error of ours."""
    if function is not reader.function() or not reader.many:
        if len(files) > 1:
            raise InputError(
                f"{len(files)} files, and {reader.name!r} opens one at a time",
                where=files[0],
                remedy="Open them one by one",
            )
        with guarded(files[0]):
            return function(files[0], **options)
    try:
        with guarded(files[0]):
            return function(files, **options)
    except LunarrayError:
        if errors == "raise" or (options.get("errors") == "skip" and len(files) == 1):
            raise
    return _open_sound(reader.name, function, files, options)


def _open_sound(name: str, function: Any, files: list[str], options: dict[str, Any]) -> Any:
    """Open those of many files that can be opened each for itself."""
    sound, skipped = [], []
    for file in files:
        try:
            with guarded(file):
                function([file], **options)
            sound.append(file)
        except LunarrayError as error:
            skipped.append({"file": file, "reason": str(error)})
    if not sound:
        raise ProductFormatError(
            f"none of the {len(files)} files can be read; the first: {skipped[0]['reason']}",
            where=files[0],
            remedy=f"Give files that the reader {name!r} knows",
        )
    with guarded(sound[0]):
        result = function(sound, **options)
    if skipped:
        warn_skipped(skipped, len(files), "files", stacklevel=5)
        result.attrs["skipped_files"] = [*result.attrs.get("skipped_files", ()), *skipped]
    return result


# ---- which reader
def reader_of(paths: Paths) -> Reader:
    """Tell which reader knows some files.

    Parameters
    ----------
    paths : path, folder, glob pattern, or iterable of these
        As in :func:`open`.

    Returns
    -------
    Reader
        The one that is certain of them or, where nobody is, the only one that may be meant.

    Raises
    ------
    InputError
        If nothing is there, files are of several kinds, or several readers may be meant.
    ProductFormatError
        If no reader knows them.

    Examples
    --------
    >>> from lunarray.readers import reader_of
    >>> reader_of("SP_2C_03_04184_N187_E0053.spc").name  # doctest: +SKIP
    'kaguya-sp'
    """
    with heads_kept():
        return _known(_items(paths))


def _known(items: list[_Item]) -> Reader:
    readers = list(available().values())
    claims: dict[str, str] = {}
    unknown: list[_Item] = []
    last: list[Reader] = []
    for item in items:
        if last and last[0].certain(item.path):
            continue
        sure = [r for r in readers if r.certain(item.path)] if not _is_remote(item.path) else []
        if len(sure) > 1:
            raise _several(item.path, sure, "know it")
        if not sure:
            unknown.append(item)
            continue
        claims.setdefault(sure[0].name, item.path)
        last = sure
    if len(claims) > 1:
        told = "; ".join(f"{name}: {path}" for name, path in claims.items())
        raise InputError(
            f"files of {len(claims)} kinds ({told})",
            where=os.path.dirname(items[0].path) or ".",
            remedy="Open files of one kind at a time, or name the reader with reader=",
        )
    if claims:
        return available()[next(iter(claims))]
    return _possible(readers, unknown)


def _possible(readers: list[Reader], items: list[_Item]) -> Reader:
    """The reader that may be meant by files of which nobody is certain."""
    maybe: dict[str, list[Reader]] = {}
    for item in items:
        found = [r for r in readers if r.possible(item.path)]
        # A folder may hold much that is not meant; what is named must be known.
        if found or item.named:
            maybe[item.path] = found
    common = [r for r in readers if maybe and all(r in found for found in maybe.values())]
    where = next((path for path, found in maybe.items() if not found), items[0].path)
    if not common:
        raise ProductFormatError(
            f"no reader knows it; tried {', '.join(r.name for r in readers) or 'none'}",
            where=where,
            remedy=_NAME_ONE.format(readers[0].name if readers else "..."),
        )
    if len(common) > 1:
        raise _several(items[0].path, common, "may be meant")
    return common[0]


def _several(path: str, readers: list[Reader], what: str) -> InputError:
    return InputError(
        f"{len(readers)} readers {what}: {', '.join(r.name for r in readers)}",
        where=path,
        remedy=_NAME_ONE.format(readers[0].name),
    )


def _named(reader: str | Reader) -> Reader:
    if isinstance(reader, Reader):
        return reader
    known = available()
    require_choice("reader", reader, known)
    return known[reader]


# ---- what is there
def _listed(paths: Paths) -> list[str]:
    items: Iterable[Any] = [paths] if isinstance(paths, str | bytes | os.PathLike) else paths
    try:
        return [os.path.expanduser(os.fsdecode(item)) for item in items]
    except TypeError as error:
        raise InputError(
            f"{type(paths).__name__} is no path ({error})",
            where="paths",
            remedy="Give a path, a folder, a pattern, or a list of these",
        ) from error


def _is_remote(name: str) -> bool:
    return "://" in name or name.startswith("/vsi")


def _items(paths: Paths) -> list[_Item]:
    """Files, and folders that are products as a whole, in the order given; each once."""
    found: dict[str, _Item] = {}
    for text in _listed(paths):
        if _is_remote(text) or os.path.isfile(text):
            named = [_Item(text, True)]
        elif os.path.isdir(text):
            named = _of_folder(text)
        elif os.path.exists(text):
            raise ProductFormatError("neither a file nor a folder", where=text, remedy="Give files")
        elif glob.has_magic(text):
            named = [_Item(path, False) for path in sorted(glob.glob(text, recursive=True))]
            named = [i for i in named if os.path.isfile(i.path) or _is_product(i.path)]
        else:
            raise InputError("no such file, folder or pattern", where=text, remedy="Check the path")
        for item in named:
            found.setdefault(os.path.abspath(item.path), item)
    if not found:
        raise InputError(
            "no files there",
            where=", ".join(_listed(paths)[:3]) or "paths",
            remedy="Check the folder or the pattern",
        )
    return list(found.values())


def _of_folder(folder: str) -> list[_Item]:
    if _is_product(folder):
        return [_Item(folder, True)]
    try:
        paths = walk(folder, ())
    except OSError as error:
        raise InputError(
            f"the folder cannot be read ({error.strerror or error})",
            where=folder,
            remedy="Check its permissions",
        ) from error
    return [_Item(path, False) for path in paths]


def _is_product(folder: str) -> bool:
    return any(r.certain(folder) or r.possible(folder) for r in available().values())
