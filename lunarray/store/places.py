"""Where a store lies: in a folder, or in an object store.

A folder is a :class:`pathlib.Path`. What is elsewhere is a :class:`Remote`, which knows as much of the manners of a
path as stores are handled by, so that the modules of this room say ``path / "zarr.json"`` of either. What is done
differently is done by a function that looks which it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from lunarray.errors import InputError, MissingDependencyError
from lunarray.store.buckets import Bucket, GivenBucket, ZarrBucket, each, unwrapped

#: Schemes of what obstore opens, and their names for it.
_CLOUD = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "azure": "az",
    "abfs": "abfs",
    "abfss": "abfss",
}
_SCHEMES = ("s3", "gs", "az", "abfs", "file", "memory")

#: A path of the file system may have lost a slash of the URL that it was made from.
_URL = re.compile(
    rf"((?:{'|'.join([*_CLOUD, 'file', 'memory', 'https?', 'ftp'])})(?=:/)|[a-z][a-z0-9+.-]+(?=://)):/{{1,3}}"
    r"(?=[^/])(.*)",
    re.DOTALL | re.IGNORECASE,
)

#: Below a store, what is on its way and who is writing; nothing else has a name that begins so.
ASIDE = ".lunarray"


class Remote:
    """A place in an object store.

    `bucket`: what it lies in; `key`: its name there, without slashes around it.
    """

    def __init__(self, bucket: Bucket, key: str = "") -> None:
        self.bucket = bucket
        self.key = key

    def __truediv__(self, name: str) -> Remote:
        return Remote(self.bucket, f"{self.key}/{name}".strip("/"))

    def __str__(self) -> str:
        return f"{self.bucket.url}/{self.key}".rstrip("/")

    def __fspath__(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"Remote({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __dask_tokenize__(self) -> Any:
        return ("lunarray.Remote", str(self))

    @property
    def name(self) -> str:
        return str(self).rstrip("/").rpartition("/")[2]

    @property
    def prefix(self) -> str:
        """What the names of the objects in it begin with."""
        return f"{self.key}/" if self.key else ""

    def sizes(self, below: str = "") -> dict[str, int]:
        """Names, from here, and sizes of the objects in it, or below a name; what is aside is left out."""
        within = f"{self.prefix}{below}/" if below else self.prefix
        return {
            name.removeprefix(self.prefix): size
            for name, size in self.bucket.sizes(within).items()
            if name.startswith(within) and not name.removeprefix(self.prefix).startswith(ASIDE)
        }

    def as_it_is(self) -> Remote:
        """The same for reading what is there now, whatever an icechunk session writes from now on."""
        bucket = self.bucket
        return Remote(bucket.as_it_is(), self.key) if isinstance(bucket, ZarrBucket) else self

    def exists(self) -> bool:
        """Whether anything is there."""
        return self.is_file() or bool(self.sizes())

    def is_file(self) -> bool:
        """Whether it is an object."""
        try:
            return bool(self.key) and self.bucket.size(self.key) >= 0
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether objects are in it."""
        return bool(self.sizes())

    def read_bytes(self) -> bytes:
        return self.bucket.get(self.key)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        self.bucket.put(self.key, data)

    def unlink(self, missing_ok: bool = False) -> None:
        self.bucket.delete(self.key)

    def clear(self, keep: str | None = None) -> None:
        """Delete all that is in it, what says that it is a store first; `keep`: the name of what stays."""
        names = sorted(self.sizes(), key=lambda name: name != "zarr.json")
        if names[:1] == ["zarr.json"] and keep != "zarr.json":
            (self / names.pop(0)).unlink()
        each(lambda name: (self / name).unlink(), [name for name in names if name != keep])


Place: TypeAlias = Path | Remote


def remote(path: Any, options: Mapping[str, Any] | None = None) -> Remote | str | None:
    """What is elsewhere than in a folder; a path where that is named as a URL or a store object; None for any path.

    `path`: as users give it; `options`: of the backend. InputError if it is nothing that a store can be in.
    MissingDependencyError if a backend is not installed.
    """
    if isinstance(path, Remote):
        return path
    if isinstance(path, str | os.PathLike):
        found = _URL.fullmatch(os.fspath(path))
        return None if found is None else _of_url(found[1].lower(), found[2], path, options or {})
    return _of_object(path)


def _of_url(scheme: str, rest: str, path: Any, options: Mapping[str, Any]) -> Remote | str:
    if scheme == "file":
        # file:///home/x and file:/home/x are absolute, file://x is relative, as it is to fsspec.
        relative = re.match(r"file://[^/]", os.fspath(path), re.IGNORECASE)
        return rest if relative else f"/{rest}"
    if scheme == "memory":
        from zarr.storage import FsspecStore

        url = f"memory://{rest.rstrip('/')}"
        return Remote(ZarrBucket(FsspecStore.from_url(url), url))
    if scheme not in _CLOUD:
        raise InputError(
            f"no store can be at a URL of {scheme}://",
            where=_shown(f"{scheme}://{rest}"),
            remedy=f"Give a path, or a URL of {', '.join(f'{s}://' for s in _SCHEMES)}",
        )
    parts = urlsplit(f"{_CLOUD[scheme]}://{rest}")
    if parts.query or parts.password:
        raise InputError(
            "a URL with credentials or a query",
            where=_shown(f"{scheme}://{rest}"),
            remedy="Give credentials by the environment or by storage_options",
        )
    return Remote(Bucket(f"{parts.scheme}://{parts.netloc}", options), parts.path.strip("/"))


def _shown(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _of_object(given: Any) -> Remote | str | None:
    """The place that a store object of Zarr is, or an icechunk session."""
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer
    from zarr.storage import LocalStore, MemoryStore, ObjectStore, ZipStore

    session = None
    if type(given).__module__.partition(".")[0] == "icechunk" and hasattr(given, "snapshot_id"):
        session, given = given, given.store
    store, key = unwrapped(given)
    if isinstance(store, MutableMapping) and all(isinstance(v, Buffer) for v in store.values()):
        store = MemoryStore(store)
    if not isinstance(store, Store):
        raise InputError(
            f"a {type(given).__name__}, where a store was to be",
            where="path",
            remedy="Give a path, a URL, a store object of Zarr or an icechunk session",
        )
    if isinstance(store, LocalStore):
        return os.path.join(store.root, key)
    if isinstance(store, ObjectStore) and not store.read_only:
        return Remote(GivenBucket(store.store), key)
    if isinstance(store, ZipStore) or not store.supports_deletes or not store.supports_listing:
        raise InputError(
            f"a {type(store).__name__} cannot hold a store: nothing in it can be changed",
            where="path",
            remedy="Write to a folder, and pack that",
        )
    return Remote(ZarrBucket(store, _name_of(store, session), session), key)


def _name_of(store: Any, session: Any) -> str:
    if session is not None or type(store).__name__ == "IcechunkStore":
        return "icechunk:"
    kind = type(store).__name__
    return f"{kind}:{id(getattr(store, '_store_dict', store)):x}"


def is_elsewhere(path: Any) -> bool:
    """Tell whether something that is given for a path means a store that is in no folder, or is no path at all."""
    if isinstance(path, str | os.PathLike):
        found = _URL.fullmatch(os.fspath(path))
        return found is not None and found[1].lower() in {*_CLOUD, "file", "memory"}
    try:
        return _of_object(path) is not None
    except (InputError, MissingDependencyError):
        return False
