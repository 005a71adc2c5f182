"""Object stores: names and bytes, and puts that happen only if nobody else was there first.

All that lunarray asks of an object store stands here, once for what obstore opens (S3, Google, Azure) and once for any
store object of Zarr. obstore and not fsspec, because its puts take a condition ("if there is none", "if it is still
this one"), which locks and commits are made of.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import StorePath, WrapperStore

from lunarray.errors import InputError, needs

#: Requests that are under way at a time.
THREADS = 16

#: Variables of the environment that say which store is meant and who one is.
_ENVIRONMENT = ("AWS_", "AZURE_", "GOOGLE_")

#: Options as fsspec calls them, by obstore's names for the same.
_OPTIONS = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "anon": "skip_signature",
    "endpoint_url": "endpoint",
    "region_name": "region",
}


class Bucket:
    """What objects lie in, by obstore.

    `url`: of the bucket, without a path; `options`: of obstore, or of fsspec under its names. They go to workers with
    the bucket, and nowhere else; who one is by the environment is asked on each machine anew.
    """

    #: Whether other processes see the same objects.
    shared = True

    #: Whether what is written there is seen by others when it is committed, and not before.
    transactional = False

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self.options = dict(options or {})
        self._store = _obstore(url, pickle.dumps(sorted(self.options.items())), _environment())

    def __reduce__(self) -> Any:
        return type(self), (self.url, self.options)

    def zarr(self, *, read_only: bool) -> Any:
        """The same as Zarr sees it."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._store, read_only=read_only)

    def get(self, key: str) -> bytes:
        """The bytes of an object; FileNotFoundError if there is none."""
        return self.tagged(key)[0]

    def tagged(self, key: str) -> tuple[bytes, Any]:
        """The same, and what :meth:`replace` takes to make sure that it is still this one."""
        import obstore

        with failures():
            found = obstore.get(self._store, key)
            return bytes(found.bytes()), _version(found.meta)

    def part(self, key: str, begin: int, n: int) -> bytes:
        """A part of an object."""
        import obstore

        if n <= 0:
            return b""
        with failures():
            return bytes(obstore.get_range(self._store, key, start=begin, length=n))

    def sizes(self, prefix: str) -> dict[str, int]:
        """Names and sizes of the objects whose names begin so, up to a slash or the end."""
        import obstore

        with failures():
            return {
                meta["path"]: meta["size"]
                for batch in obstore.list(self._store, prefix or None)
                for meta in batch
            }

    def size(self, key: str) -> int:
        """Size of an object; FileNotFoundError if there is none."""
        import obstore

        with failures():
            return int(obstore.head(self._store, key)["size"])

    def age(self, key: str, probe: str) -> float:
        """Seconds since an object was written, by the store's clock; `probe`: name for an object of one's own."""
        import obstore

        with failures():
            try:
                obstore.put(self._store, probe, b"")
                now = obstore.head(self._store, probe)["last_modified"]
                return (now - obstore.head(self._store, key)["last_modified"]).total_seconds()
            finally:
                obstore.delete(self._store, probe)

    def put(self, key: str, data: bytes) -> None:
        """Write an object, whether there is one or not."""
        import obstore

        with failures():
            obstore.put(self._store, key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none; whether it was written. `data` must be nobody else's."""
        return self._put_if(key, data, "create")

    def replace(self, key: str, data: bytes, tag: Any) -> bool:
        """Write an object if it is still the one of that tag; whether it was written. `data` must be nobody else's."""
        return self._put_if(key, data, tag)

    def _put_if(self, key: str, data: bytes, mode: Any) -> bool:
        import obstore

        refused = (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError)
        with failures():
            try:
                obstore.put(self._store, key, data, mode=mode)
            except (*refused, FileExistsError):
                # An answer that was lost is asked for again, and finds what we wrote ourselves.
                return self.holds(key, data)
        return True

    def holds(self, key: str, data: bytes) -> bool:
        """Tell whether an object has these bytes."""
        try:
            return self.get(key) == data
        except FileNotFoundError:
            return False

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        import obstore

        with failures(), suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the store."""
        import obstore

        with failures():
            obstore.copy(self._store, source, target)


class GivenBucket(Bucket):
    """What objects lie in, by a store object of obstore that the user made; `store`: that object."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.url = f"{type(store).__name__}:{id(store):x}"
        if hasattr(store, "config"):
            place = (store.config.get("bucket"), store.config.get("container_name"), store.prefix)
            self.url = f"{type(store).__name__}:" + "/".join(str(p) for p in place if p)
        self.shared = type(store).__name__ != "MemoryStore"

    def __reduce__(self) -> Any:
        return type(self), (self._store,)


class ZarrBucket(Bucket):
    """The objects of a store object of Zarr.

    Zarr knows no conditions, so two writers are kept apart where they are threads of one process, and where `session`,
    an icechunk session, does it. `store`: of Zarr; `url`: what it is called.
    """

    def __init__(self, store: Any, url: str, session: Any = None) -> None:
        self.store, self.url, self.session = store, url, session
        self.shared = not _in_memory(store)
        self.transactional = type(store).__name__ == "IcechunkStore"
        self._process = os.getpid()

    def __reduce__(self) -> Any:
        return _zarr_bucket, (self.store, self.url, self.session, self.shared or self._process)

    def zarr(self, *, read_only: bool) -> Any:
        return (
            self.store.with_read_only(True)
            if read_only and not self.store.read_only
            else self.store
        )

    def tagged(self, key: str) -> tuple[bytes, Any]:
        data = _wait(self.store.get(key, default_buffer_prototype()))
        if data is None:
            raise FileNotFoundError(2, "No such object", key)
        return data.to_bytes(), data.to_bytes()

    def part(self, key: str, begin: int, n: int) -> bytes:
        wanted = RangeByteRequest(begin, begin + n)
        data = _wait(self.store.get(key, default_buffer_prototype(), wanted)) if n > 0 else None
        return b"" if data is None else data.to_bytes()

    def sizes(self, prefix: str) -> dict[str, int]:
        async def names() -> list[str]:
            return [name async for name in self.store.list_prefix(prefix)]

        try:
            return {name: self.size(name) for name in _wait(names())}
        except FileNotFoundError:
            return {}

    def size(self, key: str) -> int:
        size = int(_wait(self.store.getsize(key)))
        if not size and not _wait(self.store.exists(key)):
            raise FileNotFoundError(2, "No such object", key)  # which icechunk says is of no size
        return size

    def age(self, key: str, probe: str) -> float:
        return 0.0

    def put(self, key: str, data: bytes) -> None:
        _wait(self.store.set(key, default_buffer_prototype().buffer.from_bytes(data)))

    def _put_if(self, key: str, data: bytes, mode: Any) -> bool:
        with _ONE_AT_A_TIME:
            try:
                there = self.tagged(key)[1]
            except FileNotFoundError:
                there = "create"
            same = there == mode
            if same:
                self.put(key, data)
            return same

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError):
            _wait(self.store.delete(key))

    def copy(self, source: str, target: str) -> None:
        self.put(target, self.get(source))

    def clear(self, key: str) -> None:
        """Delete all that is below a name."""
        _wait(self.store.delete_dir(key) if key else self.store.clear())

    def as_it_is(self) -> ZarrBucket:
        """The same for reading, whatever is written from now on: of an icechunk session, a fork.

        A repository in memory has no forks; what is read of it after it was written anew is StoreChangedError.
        """
        session = self.session
        if session is None or session.read_only or session.has_uncommitted_changes:
            return self
        fork = ZarrBucket(session.fork().store, self.url)
        try:
            fork.sizes("")
        except Exception:
            return self
        return fork


def _wait(work: Any) -> Any:
    with failures():
        return sync(work)


_ONE_AT_A_TIME = threading.Lock()


def _in_memory(store: Any) -> bool:
    protocol = getattr(getattr(store, "fs", None), "protocol", ())
    return type(store).__name__ in ("MemoryStore", "GpuMemoryStore") or "memory" in protocol


def _zarr_bucket(store: Any, url: str, session: Any, process: Any) -> ZarrBucket:
    if process is not True and process != os.getpid():
        raise InputError(
            "what is in the memory of one process is not there in another",
            where=url,
            remedy="Compute with threads, or write to a store that all processes reach",
        )
    return ZarrBucket(store, url, session)


@lru_cache(maxsize=32)
def _obstore(url: str, options: bytes, environment: str) -> Any:
    """Connect to a bucket; as long as options and environment are the same, by the same connections."""
    with needs("obstore", f"{urlsplit(url).scheme}://"):
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    given: dict[str, Any] = dict(pickle.loads(options))
    given.update(given.pop("client_kwargs", {}))
    config: dict[str, Any] = {_OPTIONS.get(name, name): value for name, value in given.items()}
    plain = str(config.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL") or "")
    if plain.startswith("http://"):
        config.setdefault("client_options", {"allow_http": True})
    try:
        return from_url(url, **config)
    except (BaseError, TypeError, ValueError) as error:
        raise InputError(
            f"it cannot be connected to ({_reason(error)})",
            where=url,
            remedy="Check the URL, the storage_options, and the environment (AWS_…, GOOGLE_…, AZURE_…)",
        ) from None


def _environment() -> str:
    told = sorted(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT))
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _version(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}


@contextmanager
def failures() -> Iterator[None]:
    """Raise what a backend raises in this context as an OSError, without what may be secret in its text."""
    try:
        yield
    except OSError as error:
        if type(error) is FileNotFoundError and error.strerror is None:
            raise FileNotFoundError(2, f"No such object or bucket ({_reason(error)})") from None
        raise
    except Exception as error:
        if not type(error).__module__.startswith(("obstore", "icechunk")):
            raise
        kind = PermissionError if _DENIED & {type(error).__name__} else OSError
        raise kind(13 if kind is PermissionError else 5, _reason(error)) from None


_DENIED = {"PermissionDeniedError", "UnauthenticatedError"}


def _reason(error: BaseException) -> str:
    """The first line of what a backend says, without queries, which may be signed, and bodies of answers."""
    line = (str(error).splitlines() or [type(error).__name__])[0].partition("<")[0]
    return " ".join(word.partition("?")[0] for word in line.split()).rstrip(" :")


def each(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Call a function that waits for an object store with each of many items, some at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, items))


class Within(WrapperStore[Any]):
    """The part of a Zarr store below a prefix; what its backend refuses is an OSError.

    `store`: of Zarr; `prefix`: ends with a slash, or is empty; `root`: what it is called.
    """

    def __init__(self, store: Any, prefix: str, root: str = "") -> None:
        super().__init__(store)
        self.prefix = prefix
        self.root = root

    def _with_store(self, store: Any) -> Within:
        return type(self)(store, self.prefix, self.root)

    def with_read_only(self, read_only: bool = False) -> Within:
        return self._with_store(self._store.with_read_only(read_only))

    def __reduce__(self) -> Any:
        return type(self), (self._store, self.prefix, self.root)

    def __str__(self) -> str:
        return self.root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Within) and (self._store, self.prefix) == (
            other._store,
            other.prefix,
        )

    def __hash__(self) -> int:
        return hash(self.prefix)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        with failures():
            return await self._store.get(self.prefix + key, prototype, byte_range)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        ranges = [(self.prefix + key, byte_range) for key, byte_range in key_ranges]
        with failures():
            return await self._store.get_partial_values(prototype, ranges)

    async def exists(self, key: str) -> bool:
        with failures():
            return await self._store.exists(self.prefix + key)

    async def set(self, key: str, value: Any) -> None:
        with failures():
            await self._store.set(self.prefix + key, value)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        with failures():
            await self._store.set_if_not_exists(self.prefix + key, value)

    async def _set_many(self, values: Any) -> None:
        for key, value in values:
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        with failures():
            await self._store.delete(self.prefix + key)

    async def delete_dir(self, prefix: str) -> None:
        with failures():
            await self._store.delete_dir(self.prefix + prefix)

    async def clear(self) -> None:
        await self.delete_dir("")

    async def is_empty(self, prefix: str) -> bool:
        with failures():
            return await self._store.is_empty(self.prefix + prefix)

    async def getsize(self, key: str) -> int:
        with failures():
            return await self._store.getsize(self.prefix + key)

    async def getsize_prefix(self, prefix: str) -> int:
        with failures():
            return await self._store.getsize_prefix(self.prefix + prefix)

    async def list(self) -> Any:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> Any:
        with failures():
            async for key in self._store.list_prefix(self.prefix + prefix):
                yield key.removeprefix(self.prefix)

    async def list_dir(self, prefix: str) -> Any:
        with failures():
            async for name in self._store.list_dir((self.prefix + prefix).rstrip("/")):
                yield name


def unwrapped(store: Any) -> tuple[Any, str]:
    """A store object of Zarr, and the path in it that is meant."""
    return (store.store, store.path) if isinstance(store, StorePath) else (store, "")
