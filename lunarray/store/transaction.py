"""What is written is written beside its place, and takes the place in one step when it is complete.

**Folders.** A store (:mod:`lunarray.store.state`), a Global Information Bank and the tables in it are begun in a hidden
folder beside their place and renamed into it (:func:`appearing`). A store that is overwritten is written whole to
``.<name>.next`` (:func:`beside`), where a stopped run goes on, and then the two change places (:func:`take_place`): in
one step where the system can do that (Linux, macOS), else by two renames, between which there is no store at the place
and :func:`settle` completes the change. What was there is then deleted under a name that nobody takes for a store, so
that a stop in the middle of it leaves debris and no half of a store.

**Readers.** They read by path, object by object, so one that had opened the old store would go on with objects of the
new one. A generation folder within the store would keep the old objects where they are, but then a store is no Zarr
group that other programs can open; a link in place of the store would, but a copy of it copies a link. So a reader
holds every object that it gets to what the store was when it was opened, and an object of another store is an error.

**Power.** Objects are synced when they are written, metadata and folders before a store says that it is complete.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lunarray.errors import InputError, store_errors
from lunarray.store import promotion
from lunarray.store.places import Place, Remote, remote

#: What folders that cannot be synced say; on such file systems there is nothing to be done.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.ENOSYS)

_REMEDY = "Check the free space and the permissions of the folder"


def located(path: Any, options: Mapping[str, Any] | None = None) -> Place:
    """The place that is meant, by whichever links and relative to whichever folder it was named.

    `path`: a path, a URL, a store object of Zarr or an icechunk session; `options`: of a URL's backend.
    """
    elsewhere = remote(path, options)
    if isinstance(elsewhere, Remote):
        return elsewhere
    return Path(os.path.realpath(os.path.expanduser(elsewhere or os.fspath(path))))


def real(path: str | os.PathLike[str]) -> Path:
    """The same of what lies in a folder; InputError for what is elsewhere."""
    found = located(path)
    if isinstance(found, Remote):
        raise InputError(
            "a Global Information Bank lies in a folder, whose files are changed where they are",
            where=str(found),
            remedy="Give a path; what is predicted from the bank can be stored at any URL",
        )
    return found


@contextmanager
def appearing(path: Any, what: str = "store") -> Iterator[Any]:
    """Begin a folder beside its place, or in memory; it is put there when the context ends well.

    `path`: the place; `what`: what it is called where it cannot be written. Yields where to write. StoreError if it
    cannot be written; nothing is left of it then.
    """
    if isinstance(path, Remote):
        with (
            store_errors(f"the {what} cannot be written", path, _REMEDY),
            promotion.laid_out(path) as staged,
        ):
            yield staged
        return
    begun = _hidden(path, "begun")
    try:
        with store_errors(f"the {what} cannot be written", path, _REMEDY):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield begun
            sync_tree(begun)
            os.rename(begun, path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def vacant(path: Place) -> bool:
    """Tell whether nothing is at `path` that a store must not take the place of; the caller holds its lock."""
    return promotion.vacant(path) if isinstance(path, Remote) else not path.exists()


def beside(path: Any) -> Any:
    """Where the successor of the store at `path` is written; in an icechunk session, in its place."""
    if isinstance(path, Remote):
        return path if path.bucket.transactional else path / promotion.NEXT
    return path.with_name(f".{path.name}.next")


def unsettled(path: Place) -> bool:
    """Tell whether a store is all there, and a writer has to come (:func:`settle`) to bring it to its place."""
    return isinstance(path, Remote) and promotion.current(path) != path


def take_place(path: Place) -> None:
    """Put the successor of a store in its place, and delete what was there.

    `path`: the place; the caller holds its lock. OSError if the successor cannot be put there: then what was there is
    there still.
    """
    if isinstance(path, Remote):
        if not path.bucket.transactional:
            promotion.promote(path)
        return
    new = beside(path)
    if not os.path.lexists(path):
        os.rename(new, path)
        sync_folder(path.parent)
        return
    if not exchange(new, path):
        os.rename(path, _old(path))
        os.rename(new, path)
    sync_folder(path.parent)
    discard(new, path)
    discard(_old(path), path)


def settle(path: Place) -> None:
    """Complete a change of places that was stopped in the middle, and delete what dead writers left beside a store.

    `path`: the place; the caller holds its lock.
    """
    if isinstance(path, Remote):
        promotion.settle(path)
        return
    old = _old(path)
    if old.exists():
        if not path.exists():
            os.rename(beside(path) if beside(path).exists() else old, path)
            sync_folder(path.parent)
        discard(old, path)
    # Begun, or to be gone, in place of the store or of its successor.
    names = "|".join(re.escape(place.name) for place in (path, beside(path)))
    debris = re.compile(rf"\.({names})\.[0-9a-f]{{32}}\.(begun|gone)")
    for name in os.listdir(path.parent):
        if debris.fullmatch(name):
            shutil.rmtree(path.parent / name, ignore_errors=True)


def discard(folder: Any, path: Any) -> None:
    """Delete a folder beside the store at `path`, if there is one; a stop leaves nothing that looks whole."""
    if isinstance(folder, Remote):
        promotion.clear(folder)
        return
    gone = _hidden(path, "gone")
    with suppress(FileNotFoundError):
        os.rename(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def scratch(path: Place) -> Iterator[Any]:
    """A place where nothing is, for as long as the context lasts; beside the store at `path`, or in memory."""
    fresh = promotion.memory() if isinstance(path, Remote) else _hidden(path, "begun")
    try:
        yield fresh
    finally:
        if not isinstance(fresh, Remote):
            shutil.rmtree(fresh, ignore_errors=True)


def moved(file: Place, place: Place) -> None:
    """Put a file of a scratch place where it belongs, all at once."""
    if isinstance(place, Remote):
        place.write_bytes(file.read_bytes())
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _hidden(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.{kind}")


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; False, and nothing done, where the system cannot do that."""
    if _exchange is None or _exchange(os.fsencode(one), os.fsencode(other)) == 0:
        return _exchange is not None
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), os.fspath(other))


def _exchanger() -> Callable[[bytes, bytes], int] | None:
    """The system's own call for it: renameat2 of Linux, renamex_np of macOS."""
    libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        return lambda one, other: libc.renameat2(here, one, here, other, swap)  # type: ignore[union-attr]
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        return lambda one, other: libc.renamex_np(one, other, 2)  # type: ignore[union-attr]
    return None


_exchange = _exchanger()


def sync_folder(folder: Place) -> None:
    """Put the names in a folder on the disk, where its file system can say so; an object store has them."""
    if isinstance(folder, Remote):
        return
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_SYNC:
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(number)


def sync_folders(path: Place) -> None:
    """Put the names in a folder and in all folders in it on the disk; its files are synced by who writes them."""
    if isinstance(path, Remote):
        return
    for folder, _, _ in os.walk(path, topdown=False):
        sync_folder(Path(folder))


def sync_tree(path: Path) -> None:
    """Put a folder and all that is in it on the disk."""
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            sync_folder(Path(folder, name))  # the same call for both
        sync_folder(Path(folder))


def read_tagged(file: Place) -> tuple[bytes, Any]:
    """Read a file, and what :func:`write_root` takes to make sure that it is still the same."""
    return file.bucket.tagged(file.key) if isinstance(file, Remote) else (file.read_bytes(), None)


def write_root(path: Place, content: bytes, tag: Any) -> None:
    """Write the ``zarr.json`` of the root of a store, all at once; in an object store, if it is still that of `tag`.

    StoreLockedError if another writer has changed it there, which would have to have taken the lock over.
    """
    if isinstance(path, Remote):
        promotion.exchange_root(path, content, tag)
    else:
        write_file(path / "zarr.json", content)
        sync_folder(path)


def write_file(file: Place, content: bytes | memoryview) -> None:
    """Write a file such that it appears, or changes, all at once and is on the disk by then.

    The name of the folder's entry is on the disk once that folder is synced.
    """
    if isinstance(file, Remote):
        file.write_bytes(bytes(content))
        return
    # A name of its own: threads of one process may write the same at the same time.
    new = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        with new.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(new, file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
