"""What xarray opens, so that damage that is met only when values are read is an error of ours too."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core.indexing import (
    IndexingSupport,
    LazilyIndexedArray,
    explicit_indexing_adapter,
)

from lunarray.errors import ProductFormatError
from lunarray.readers.guard import guarded

#: Bytes of a file that are looked through as a whole; of a larger one as many, half of them at its end.
_LOOKED_AT = 2**28
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HEAP = b"GCOL\x01\0\0\0"


def open_guarded(path: str | os.PathLike[str], *, chunks: Any, **options: Any) -> xr.Dataset:
    """Open a file or store lazily, as :func:`xarray.open_dataset` with `chunks` and `options`; whatever fails, be it at
    compute time, is an error of ours that names it."""
    with guarded(path):
        check_heaps(path)
        if chunks is None:
            ds = xr.open_dataset(path, chunks=None, **options)
            for name, variable in ds.variables.items():
                if name not in ds.indexes:
                    read = _GuardedBackend(variable.copy(deep=False), path)
                    variable.data = LazilyIndexedArray(read)
            return ds
        ds, plain = [xr.open_dataset(path, chunks=each, **options) for each in (chunks, None)]
    for name, variable in ds.variables.items():
        if variable.chunks is not None:
            variable.data = _lazily(_Guarded(plain.variables[name], path), variable.data)
    # What was opened second is closed with the first.
    ds.set_close(_both(ds, plain))
    return ds


def _both(ds: xr.Dataset, plain: xr.Dataset) -> Any:
    first = ds._close

    def close() -> None:
        plain.close()
        if first is not None:
            first()

    return close


class _Guarded:
    """A variable as an array that reads what it is asked for."""

    def __init__(self, variable: xr.Variable, path: str | os.PathLike[str]) -> None:
        self.variable = variable
        self.path = path
        self.shape, self.dtype, self.ndim = variable.shape, variable.dtype, variable.ndim

    def __getitem__(self, key: Any) -> np.ndarray:
        with guarded(self.path):
            return np.asarray(self.variable[key].values)


class _GuardedBackend(BackendArray):
    """The same, for xarray's own lazy arrays."""

    def __init__(self, variable: xr.Variable, path: str | os.PathLike[str]) -> None:
        self.read = _Guarded(variable, path)
        self.shape, self.dtype = variable.shape, variable.dtype

    def __getitem__(self, key: Any) -> Any:
        basic = IndexingSupport.BASIC
        return explicit_indexing_adapter(key, self.shape, basic, self.read.__getitem__)


def check_heaps(path: str | os.PathLike[str]) -> None:
    """Raise ProductFormatError where reading an HDF5 file would never end.

    libhdf5 goes through a global heap, in which references between variables are kept, from object to object; where
    damage makes one take no room, it stays there for ever, and no thread can stop it. Everything else that was found
    damaged, it refuses by itself. Looking through the bytes for heaps costs less than opening the file in a process of
    its own, and does not depend on how fast this machine is.
    """
    if not os.path.isfile(path):
        return
    with open(path, "rb") as stream:
        first = stream.read(16)
        size = stream.seek(0, os.SEEK_END)
        if not first.startswith(_HDF5):
            return
        width = first[14] if first[8] < 2 else first[10]
        if width not in (2, 4, 8):
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            half = _LOOKED_AT // 2
            for begin, end in ((0, min(size, half)), (max(half, size - half), size)):
                at = data.find(_HEAP, begin, end)
                while at >= 0:
                    if _never_ends(data, at, width):
                        raise ProductFormatError(
                            f"damaged: its heap at byte {at} has no end",
                            where=path,
                            remedy="Fetch it again",
                        )
                    at = data.find(_HEAP, at + 8, end)


def _never_ends(data: mmap.mmap, begin: int, width: int) -> bool:
    """Whether an object of a heap takes no room: free space (object 0) says its room, others that without a header."""
    head = 8 + width
    end = min(begin + int.from_bytes(data[begin + 8 : begin + head], "little"), len(data))
    at = begin + head
    while at + head <= end:
        number = int.from_bytes(data[at : at + 2], "little")
        room = int.from_bytes(data[at + 8 : at + head], "little")
        if number:
            room = head + -(-room // 8) * 8
        room %= 2**64  # as in C
        if room == 0:
            return True
        at += room
    return False


def _lazily(array: _Guarded, like: Any) -> Any:
    import dask.array as da

    return da.from_array(
        array,
        chunks=like.chunks,
        name=like.name,
        lock=False,
        asarray=False,
        inline_array=False,
        meta=np.empty((0,) * array.ndim, array.dtype),
    )
