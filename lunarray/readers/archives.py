"""Files as archives hand them out: in trees of years, months and days, packed by gzip, or many in one zip.

A member of a zip is named by a path through it, ``month.zip/cla/data/2024/01/23/name.fits``, which works wherever the
functions here are used to read it.
"""

from __future__ import annotations

import functools
import os
import threading
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from lunarray.engine.files import FileId, bytes_id, status_of
from lunarray.errors import ProductFormatError

#: Bytes that a packed file of those read whole may hold; more is no spectrum but a bomb or another product.
_MOST = 64 * 2**20
_GZIP = b"\x1f\x8b"


def walk(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files of a folder with one of these endings (any, where there are none); where it has none itself, those of the
    folders below. By name, hidden ones left out."""
    own: list[str] = []
    below: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below.append(entry.path)
            # A pipe would wait for somebody to write.
            elif entry.is_file() and (not suffixes or entry.name.lower().endswith(suffixes)):
                own.append(entry.path)
    if own:
        return sorted(own)
    # Links to folders above would lead round for ever; nothing that is handed out is so deep.
    return [
        path
        for inner in sorted(below)
        if len(Path(inner).parts) < 64 and not os.path.islink(inner)
        for path in walk(inner, suffixes)
    ]


class _Archive(NamedTuple):
    file: zipfile.ZipFile
    status: tuple[int, ...]
    lock: threading.Lock


@functools.lru_cache(maxsize=8)
def _archive(path: str, status: tuple[int, ...]) -> _Archive:
    """A zip whose table of contents has been read: that of a month has 300 000 rows."""
    try:
        return _Archive(zipfile.ZipFile(path), status, threading.Lock())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ProductFormatError(
            f"a damaged zip ({error})", where=path, remedy="Fetch it again"
        ) from error


def _opened(path: str) -> _Archive:
    return _archive(path, status_of(os.stat(path)))


def is_zip(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a zip."""
    return os.fspath(path).lower().endswith(".zip")


def members(path: str | os.PathLike[str], suffixes: tuple[str, ...]) -> list[Path]:
    """Paths through a zip to its files with one of these endings, by name."""
    text = os.fspath(path)
    names = sorted(n for n in _opened(text).file.namelist() if n.lower().endswith(suffixes))
    return [Path(text, name) for name in names]


def _inside(path: str) -> tuple[str, str] | None:
    """The zip and the name of its member, of a path through one."""
    at = path.lower().find(".zip/")
    if at < 0 or os.path.isdir(path[: at + 4]):
        return None
    return path[: at + 4], path[at + 5 :]


def is_member(path: str) -> bool:
    """Whether a path leads through a zip that is there."""
    through = _inside(path)
    return through is not None and os.path.isfile(through[0])


def read_whole(path: str | os.PathLike[str]) -> tuple[bytes, FileId]:
    """What a file holds, unpacked, and how to see that it holds that still.

    `path`: of a file, one packed by gzip, or a member of a zip. OSError or ProductFormatError if it cannot be read.
    """
    text = os.fspath(path)
    if through := _inside(text):
        archive = _opened(through[0])
        try:
            with archive.lock:
                size = archive.file.getinfo(through[1]).file_size
                data = archive.file.read(through[1]) if size <= _MOST else b""
        except (KeyError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
            raise ProductFormatError(
                f"a damaged member of a zip ({error})", where=text, remedy="Fetch it again"
            ) from error
        if size > _MOST:
            raise _too_large(text)
        return unpacked(data, text), bytes_id(data, archive.status)
    with open(text, "rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        if status.st_size > _MOST:
            raise _too_large(text)
        data = stream.read(status.st_size)
    return unpacked(data, text), bytes_id(data, status_of(status), status.st_dev)


def _too_large(path: str) -> ProductFormatError:
    return ProductFormatError(
        f"more than {_MOST // 2**20} MB", where=path, remedy="Give files of single spectra"
    )


def unpacked(data: bytes, where: str | os.PathLike[str], most: int = _MOST) -> bytes:
    """Bytes as they were before gzip packed them, or as they are."""
    if not data.startswith(_GZIP):
        return data
    try:
        whole = zlib.decompressobj(zlib.MAX_WBITS | 16)
        out = whole.decompress(data, most)
    except zlib.error as error:
        raise ProductFormatError(
            f"a damaged gzip file ({error})", where=where, remedy="Fetch it again"
        ) from error
    if not whole.eof:
        raise ProductFormatError(
            "a truncated gzip file, or one of far too much", where=where, remedy="Fetch it again"
        )
    return out


def beginning(data: bytes) -> bytes:
    """As many bytes of a file as its packed first bytes tell."""
    if not data.startswith(_GZIP):
        return data
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, 2**16)
    except zlib.error:
        return b""
