"""Input files told apart by what they hold, not by where they lie or when they were written."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c

from lunarray.errors import InputError, ProductFormatError

#: Bytes that have one checksum; that many are held in memory.
_BLOCK = 2**20

#: A scheme; a path that was made of a URL has lost a slash, and one letter is a drive.
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")

#: Digests that this process has made, by what the system says of the file: a file that is written to has another time
#: of change, which nobody can set.
_known: dict[tuple[int, ...], str] = {}


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path of this machine; InputError for a URL, of which a path would make a folder ``s3:``."""
    if _URL.match(os.fspath(path)):
        raise InputError(
            "files of this kind are written to folders only, and this is a URL",
            where=os.fspath(path),
            remedy="Write it here and copy it there; stores (.zarr) are written to s3://, gs:// and az:// themselves",
        )
    return Path(path)


@dataclass(frozen=True)
class FileId:
    """What a file holds, in short, and how to see that it holds that still.

    Files with the same bytes have equal ids.

    Parameters
    ----------
    size : int
        Bytes.
    digest : str
        Of the bytes: SHA-256 of the crc32c of each megabyte, in hexadecimal. A crc32c is made at the speed of memory,
        so this takes as long as reading the file.
    status : tuple of int
        What the system says of it: inode, size, times of modification and of change.
    """

    size: int
    digest: str
    status: tuple[int, ...] = field(compare=False, repr=False, default=())

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("lunarray.FileId", self.size, self.digest)

    def require(self, path: str | os.PathLike[str]) -> None:
        """Raise ProductFormatError if the file at `path` holds something else by now."""
        try:
            status = os.stat(path)
            same = status_of(status) == self.status or file_id(path) == self
        except OSError as error:
            raise ProductFormatError(
                f"cannot be read any more ({error.strerror or error})",
                where=path,
                remedy="Open the files again",
            ) from error
        if not same:
            how = "truncated" if status.st_size < self.size else "changed"
            raise ProductFormatError(
                f"{how} since it was opened ({self.size} bytes then, {status.st_size} now)",
                where=path,
                remedy="Open it again, and compute again from what it holds now",
            )


def file_id(path: str | os.PathLike[str]) -> FileId:
    """Say what a file holds, in short; OSError if it cannot be read."""
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        key = (status.st_dev, *status_of(status))
        if key not in _known:
            buffer = bytearray(_BLOCK)
            whole = hashlib.sha256()
            while count := file.readinto(buffer):
                crc = google_crc32c.value(bytes(memoryview(buffer)[:count]))
                whole.update(crc.to_bytes(4, "little"))
            _known[key] = whole.hexdigest()
        return FileId(status.st_size, _known[key], status_of(status))


def bytes_id(data: bytes, status: tuple[int, ...], device: int | None = None) -> FileId:
    """As :func:`file_id`, of a file that has been read whole.

    `status`: of :func:`status_of`, taken before it was read; `device`: that it lies on, or None for a part of a file.
    """
    whole = hashlib.sha256()
    for at in range(0, len(data), _BLOCK):
        crc = google_crc32c.value(data[at : at + _BLOCK])
        whole.update(crc.to_bytes(4, "little"))
    digest = whole.hexdigest()
    if device is not None and len(data) == status[1]:
        _known[(device, *status)] = digest
    return FileId(len(data), digest, status)


def status_of(status: os.stat_result) -> tuple[int, ...]:
    """What the system says of a file that changes with it: inode, size, times of modification and of change."""
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
