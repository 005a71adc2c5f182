"""What is to be stored: as a Dataset that Zarr can hold, its identity, and the empty store for it."""

from __future__ import annotations

import math
from typing import Any

import dask
import xarray as xr

from lunarray.engine.graph import rooms_of
from lunarray.errors import InputError, StoreConflictError
from lunarray.store import regions
from lunarray.store.conventions import conventions, without_conventions
from lunarray.store.folder import target
from lunarray.store.layout import every_chunk
from lunarray.store.places import Place
from lunarray.store.provenance import stamp
from lunarray.store.state import FORMAT_VERSION, set_state
from lunarray.store.transaction import appearing, moved, scratch, sync_folders, vacant
from lunarray.store.verification import Fault, take_away
from lunarray.versions import numeric_versions

#: A plain DataArray without a name is stored under this one.
UNNAMED = "data"


def as_dataset(obj: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Give a Dataset with what is to be stored; InputError if it is no xarray object."""
    if isinstance(obj, xr.DataArray):
        return obj.to_dataset(name=obj.name or UNNAMED)
    if isinstance(obj, xr.Dataset):
        return obj
    raise InputError(
        f"cannot store a {type(obj).__name__}", remedy="Give an xarray Dataset or DataArray"
    )


def missing(variable: xr.Variable) -> dict[str, Any]:
    """Encoding of a variable in which what is missing is NaN, or of integers :func:`lunarray.store.regions.no_data`.

    `_FillValue` says so to readers, who would make floats of integers by it; `fill_value` is what Zarr gives for a
    chunk that is not there, and is 0 with xarray before 2025.8 unless it is told.
    """
    kind = variable.dtype.kind
    if kind not in "fiu":
        return {}
    value = regions.no_data(variable.dtype)
    return {"fill_value": value} | ({"_FillValue": value} if kind == "f" else {})


def identity(ds: xr.Dataset) -> str:
    """Name the content by what it is computed from; times of day in `history` do not count.

    Names of lazy arrays contain the ids of what they are read from, the parameters, and the digests of models; the
    versions of the numbers of the rooms that compute them are added here.
    """
    content = [
        (str(name), v.dims, str(v.dtype), v.data)
        for name, v in sorted(ds.variables.items(), key=str)
    ]
    lazy = [v.data for v in ds.variables.values() if dask.is_dask_collection(v.data)]
    numbers = numeric_versions(rooms_of(lazy))
    return dask.base.tokenize(FORMAT_VERSION, content, sorted(numbers.items()))


def storable(ds: xr.Dataset) -> xr.Dataset:
    """Drop the encodings of other stores, load what cannot be written by region, and put large arrays in blocks."""
    ds = ds.drop_encoding()
    changed = {}
    for name, variable in ds.variables.items():
        lazy, plain = dask.is_dask_collection(variable.data), variable.dtype.kind in "fiub"
        if lazy and not plain:
            changed[name] = variable.compute()
        elif not lazy and plain and name not in ds.coords and variable.ndim:
            # Blocks make data in memory resumable and parallel too; its identity is already taken from the values.
            data = dask.array.from_array(variable.data, name=False)
            changed[name] = xr.Variable(variable.dims, data, variable.attrs)
    ds = _with_variables(ds, changed)
    return stamp(ds, "to_zarr", variables=[])


def _with_variables(ds: xr.Dataset, variables: dict[Any, xr.Variable]) -> xr.Dataset:
    """Exchange variables, each for itself: DataArrays would bring their coordinates along."""
    coords = {name: variable for name, variable in variables.items() if name in ds.coords}
    data = {name: variable for name, variable in variables.items() if name not in ds.coords}
    return ds.assign(data).assign_coords(coords)


def codecs() -> tuple[Any, ...]:
    """What the bytes of each chunk go through: compressed, and behind that their checksum."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    return BloscCodec(cname="zstd", clevel=3), Crc32cCodec()


def create(
    ds: xr.Dataset,
    groups: list[regions.Group],
    path: Place,
    token: str,
    contents: dict[str, Any],
) -> None:
    """Lay out a store, without the lazy data, such that it appears all at once.

    `ds`: of :func:`storable`; `groups`: of :func:`lunarray.store.regions.plan`; `token`: the identity; `contents`: of
    :func:`lunarray.store.manifest.contents`. StoreConflictError if something else is there. StoreError if it cannot be
    written.
    """

    if not vacant(path):
        raise StoreConflictError(
            "something else than a lunarray store is there",
            where=path,
            remedy="Choose another path",
        )
    encoding: dict[Any, dict[str, Any]] = {
        name: {"compressors": codecs(), **missing(variable)}
        for name, variable in ds.variables.items()
    }
    chunked = {}
    for group in groups:
        for name, layout in group.layouts.items():
            variable = ds.variables[name]
            encoding[name]["chunks"] = layout.chunks
            if layout.shards:
                encoding[name]["shards"] = layout.shards
            chunked[name] = variable.chunk(dict(zip(variable.dims, layout.region, strict=True)))
    template = _with_variables(ds, chunked)
    template.attrs = {**without_conventions(ds.attrs), **conventions(ds)}
    # An object that is missing is known to be so only where those that hold fill values alone are there.
    with appearing(path) as begun, every_chunk():
        template.to_zarr(
            target(begun),
            mode="w-",
            compute=False,
            zarr_format=3,
            consolidated=False,
            encoding=encoding,
        )
        set_state(
            begun,
            version=FORMAT_VERSION,
            token=token,
            manifest=contents,
            complete=False,
            regions=sum(
                math.prod(
                    math.ceil(ds.sizes[axis] / size)
                    for axis, size in zip(group.axes, group.sizes, strict=True)
                )
                for group in groups
            ),
            variables=[str(name) for name in ds.data_vars],
            groups=[
                {"axes": group.axes, "sizes": group.sizes, "dims": dict(group.dims)}
                for group in groups
            ],
        )


def mend(
    ds: xr.Dataset,
    groups: list[regions.Group],
    path: Place,
    found: list[Fault],
    contents: dict[str, Any],
) -> None:
    """Take away what is at fault in a store, and put back what is not written region by region.

    `ds`, `groups`, `contents`: as of :func:`create`, of what the store holds; `path`: the store, whose lock the caller
    has; `found`: its faults.
    """
    lazy = {f"{name}/c" for group in groups for name in group.dims}
    with scratch(path) as fresh:
        for fault in found:
            file = path / fault.name
            if fault.problem != "metadata" and fault.name.startswith(tuple(lazy)):
                take_away(file)
                continue
            if not fresh.exists():
                create(ds, groups, fresh, "", contents)
            take_away(file)
            moved(fresh / fault.name, file)
    set_state(path, complete=False)
    sync_folders(path)
