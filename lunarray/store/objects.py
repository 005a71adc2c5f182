"""The objects that a store consists of: where they lie, and digests that tell their content.

An object is a file that holds a chunk, or a shard of chunks. Each chunk, and the index of each shard, ends with its
crc32c, which the codec of that name writes. So the digest of an object is read off its end (of a shard: off its
index, and off the end of each of its chunks) and costs a few reads of four bytes, not one of everything. Digests of
objects, and of the arrays' metadata, make the id of the content: it is that of the bytes, wherever they lie and
whenever they were written.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from lunarray.store import buckets
from lunarray.store.places import Place, Remote

#: Length and offset of a chunk that a shard does not hold.
_NONE = 2**64 - 1

#: Objects that one thread looks at: below that, more threads cost more than they save.
_PER_THREAD = 512


@dataclass(frozen=True)
class Cut:
    """How an array lies in objects.

    `name`: path of the array in the store; `shape`: of the array; `region`: of what an object holds; `inner`: shape of
    the chunks of a shard, None where an object is a chunk; `checked`: whether chunks end with their crc32c;
    `separator`: between the numbers in an object's name.
    """

    name: str
    shape: tuple[int, ...]
    region: tuple[int, ...]
    inner: tuple[int, ...] | None
    checked: bool
    separator: str = "/"

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of objects along each axis."""
        return tuple(math.ceil(n / r) for n, r in zip(self.shape, self.region, strict=True))

    @property
    def parts(self) -> int:
        """Number of chunks in a shard."""
        return math.prod(
            r // i for r, i in zip(self.region, self.inner or self.region, strict=True)
        )

    def key(self, index: tuple[int, ...]) -> str:
        """Path of an object in the store."""
        return f"{self.name}/" + self.separator.join(("c", *map(str, index)))

    def keys(self) -> Iterator[str]:
        """Paths of all objects, the last axis fastest."""
        return map(self.key, np.ndindex(*self.counts))

    def number(self, key: str) -> int | None:
        """Place of an object among :meth:`keys`; None for what is none of them."""
        start, _, rest = key.partition(f"{self.name}/c")
        if start:
            return None
        numbers = [part for part in rest.split(self.separator) if part]
        if len(numbers) != len(self.shape) or not all(map(str.isdecimal, numbers)):
            return None
        index = tuple(map(int, numbers))
        if any(i >= n for i, n in zip(index, self.counts, strict=True)):
            return None
        return int(np.ravel_multi_index(index, self.counts)) if index else 0


def cut_of(name: str, metadata: Mapping[str, Any]) -> Cut:
    """Read off how an array lies in objects.

    `name`: of the array; `metadata`: content of its ``zarr.json``. KeyError, TypeError, ValueError if it says nothing
    of the kind.
    """
    codecs = metadata["codecs"]
    inner = None
    for codec in codecs:
        if codec["name"] == "sharding_indexed":
            inner = tuple(map(int, codec["configuration"]["chunk_shape"]))
            codecs = codec["configuration"]["codecs"]
            break
    encoding = metadata["chunk_key_encoding"]
    return Cut(
        name,
        tuple(map(int, metadata["shape"])),
        tuple(map(int, metadata["chunk_grid"]["configuration"]["chunk_shape"])),
        inner,
        codecs[-1]["name"] == "crc32c",
        encoding.get("configuration", {}).get("separator", "/"),
    )


def arrays(path: Place) -> dict[str, bytes]:
    """Find the arrays of a store, also in groups below it.

    Returns the content of each one's ``zarr.json`` by the array's path in the store, in order.
    """
    found: dict[str, bytes] = {}
    if isinstance(path, Remote):
        names = [n for n in path.sizes() if n.endswith("/zarr.json")]
        texts = buckets.each(lambda name: (path / name).read_bytes(), names)
        for name, text in sorted(zip(names, texts, strict=True)):
            if b'"array"' in text:
                found[name.removesuffix("/zarr.json")] = text
        return found
    for folder, folders, files in os.walk(path):
        # A pipe, say, would be waited for.
        if "zarr.json" in files and Path(folder) != path and Path(folder, "zarr.json").is_file():
            text = Path(folder, "zarr.json").read_bytes()
            if b'"array"' in text:
                found[Path(folder).relative_to(path).as_posix()] = text
                folders.clear()
                continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return dict(sorted(found.items()))


def cuts(metadata: Mapping[str, bytes]) -> dict[str, Cut]:
    """Give the :class:`Cut` of each of :func:`arrays`."""
    return {name: cut_of(name, json.loads(text)) for name, text in metadata.items()}


def digests(path: Place, cut: Cut, known: np.ndarray | None = None) -> np.ndarray:
    """Digests of the objects of an array, in the order of :meth:`Cut.keys`: uint64, 0 for those that are missing.

    `known`: as they were written. In an object store, where a list tells sizes and each look into an object is a
    request, an object of the right size is taken to be the one that was written until it is read.
    """
    if isinstance(path, Remote):
        return _of_objects(path, cut, known)
    return np.array(each(lambda key: _of_file(path / key, cut), list(cut.keys())), np.uint64)


def each(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Call a function that waits for the disk with each of many items, in threads where they are many."""
    threads = min(16, len(items) // _PER_THREAD)
    if threads < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items, chunksize=64))


def _of_objects(path: Remote, cut: Cut, known: np.ndarray | None) -> np.ndarray:
    sizes = path.sizes(cut.name)
    keys = list(cut.keys())
    found = np.zeros(len(keys), np.uint64)
    wanted = []
    for number, key in enumerate(keys):
        size = sizes.get(key, 0)
        if known is not None and number < len(known) and int(known[number]) >> 32 == size & 0xFFFFFFFF:  # fmt: skip
            found[number] = known[number]
        elif size:
            wanted.append((number, key, size))

    def look(job: tuple[int, str, int]) -> int:
        _, key, size = job
        file = path / key
        return digest(lambda begin, n: file.bucket.part(file.key, begin, n), size, cut)

    if wanted:
        found[[number for number, _, _ in wanted]] = buckets.each(look, wanted)
    return found


def _of_file(file: Path, cut: Cut) -> int:
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        return 0
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return 0
        return digest(lambda begin, n: os.pread(handle, n, begin), status.st_size, cut)
    finally:
        os.close(handle)


def digest(read: Callable[[int, int], bytes], size: int, cut: Cut) -> int:
    """Digest of an object.

    `read`: gives the bytes from an offset on, so many; `size`: of the object. Returns its length and a checksum in one
    number; 0 if it is empty.
    """
    if not cut.checked:
        crc = google_crc32c.value(read(0, size))
    else:
        end = read(max(size - 4, 0), 4)
        if cut.inner is not None:
            ends = [read(start + n - 4, 4) for start, n in _index(read, size, cut.parts) if n > 3]
            end = struct.pack("<I", google_crc32c.value(b"".join([end, *ends])))
        crc = int.from_bytes(end, "little")
    return (size & 0xFFFFFFFF) << 32 | crc


def _index(read: Callable[[int, int], bytes], size: int, parts: int) -> list[tuple[int, int]]:
    """Offset and length of each chunk that a shard holds; those that lie outside of it are left out."""
    begin = size - 16 * parts - 4
    if begin < 0:
        return []
    pairs = struct.iter_unpack("<QQ", read(begin, 16 * parts))
    return [(start, n) for start, n in pairs if start != _NONE and start + n <= begin]


def sound(data: bytes, cut: Cut) -> bool:
    """Check every byte of an object against the checksums in it; True where it has none."""
    if not cut.checked:
        return True
    view = np.frombuffer(data, np.uint8)
    if cut.inner is None:
        return _ends_right(view)
    begin = len(view) - 16 * cut.parts - 4
    if begin < 0 or not _ends_right(view[begin:]):
        return False
    chunks = sorted(_index(lambda start, n: data[start : start + n], len(view), cut.parts))
    place = 0
    for start, n in chunks:
        if start != place or not _ends_right(view[start : start + n]):
            return False
        place = start + n
    return place == begin


def _ends_right(view: np.ndarray) -> bool:
    if len(view) < 4:
        return False
    return google_crc32c.value(view[:-4]) == int.from_bytes(view[-4:].tobytes(), "little")


def array_id(metadata: bytes, own: np.ndarray) -> str:
    """Id of the content of an array: its ``zarr.json`` and the digests of its objects."""
    known = hashlib.sha256(metadata)
    known.update(np.ascontiguousarray(own, "<u8").tobytes())
    return known.hexdigest()[:32]


def joined(ids: Mapping[str, str]) -> str:
    """Id of the content of several arrays, by name."""
    return hashlib.sha256(json.dumps(sorted(ids.items())).encode()).hexdigest()[:32]


def content_id(path: Path) -> str:
    """Id of the content of any Zarr hierarchy on disk, as it is now: that of all its arrays.

    OSError, ValueError, KeyError, TypeError if their metadata cannot be read.
    """
    metadata = arrays(path)
    return joined(
        {name: array_id(metadata[name], digests(path, cut)) for name, cut in cuts(metadata).items()}
    )
