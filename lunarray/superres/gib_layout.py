"""How a Global Information Bank lies on disk: a Zarr store with one object per region and variable.

At the root of the group:

* ``feature`` (feature, lat, lon) f4, one shard a region; ``mare`` (lat, lon) u1; ``abundance``, ``abundance_std``
  (element, lat, lon) f4; ``count`` (lat, lon) u2; ``provenance`` (lat, lon) i4: one chunk a region each;
* ``populated`` (region_y, region_x) i4: the number of footprints whose population a region holds, and -1 while there is
  none or one is being written;
* ``id_feature``, ``id_mare``, ``id_population`` (region_y, region_x) u8: ids of the content of these, 0 while there is
  none or it is being written. They name what is read, and what is derived from it. One object a region, so that
  regions are written by many processes at a time; all are there from the beginning;
* ``footprints/0000``, ``footprints/0001``, …: the table of footprints, a group each time some were added;
* attribute ``lunarray_gib``: grid, elements, feature model, how it was populated, and whether it is being so now; and
  digests of the metadata of all arrays and of the text that it stands in.

Nothing is written before a region is: arrays are metadata until then, and missing regions read as missing values.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import (
    InputError,
    StoreDamagedError,
    StoreFormatError,
    StoreIncompleteError,
    StoreLockedError,
)
from lunarray.store import objects
from lunarray.store.folder import Folder
from lunarray.store.locks import WriteLock
from lunarray.store.provenance import stamp
from lunarray.store.state import damaged_metadata, digest_of, seal, sealed
from lunarray.store.transaction import appearing, real, sync_folder, write_file
from lunarray.superres.gib_reading import IDS
from lunarray.superres.grid import GIBGrid
from lunarray.units import WEIGHT

#: Attribute of the root group that makes a Zarr group a Global Information Bank.
KEY = "lunarray_gib"
FORMAT_VERSION = 3

#: Bits of ``state``: what a region holds.
STATE_FLAGS = {"features": 1, "mare": 2, "abundance": 4}

#: Mare class on disk.
UNKNOWN, MARE_CLASS, HIGHLAND_CLASS = 0, 1, 2

#: Largest inner chunk of a shard of features.
_CHUNK_BYTES = 64 << 20

SPATIAL = {
    "feature": ("f4", ("feature", "lat", "lon"), np.nan),
    "mare": ("u1", ("lat", "lon"), 0),
    "abundance": ("f4", ("element", "lat", "lon"), np.nan),
    "abundance_std": ("f4", ("element", "lat", "lon"), np.nan),
    "count": ("u2", ("lat", "lon"), 0),
    "provenance": ("i4", ("lat", "lon"), -1),
}
#: What each region holds: type, what stands there at first, and what is read where an object is lost.
STATES = {"populated": ("i4", -1, -2)}
STATES |= dict.fromkeys(sorted(set(IDS.values())), ("u8", 0, 2**64 - 1))
ATTRS: dict[str, dict[str, Any]] = {
    "feature": {"long_name": "surface feature", "units": "1"},
    "mare": {
        "long_name": "mare or highland",
        "units": "1",
        "flag_values": [0, 1, 2],
        "flag_meanings": "unknown mare highland",
    },
    "abundance": {"long_name": "abundance", "units": WEIGHT},
    "abundance_std": {"long_name": "error of the abundance", "units": WEIGHT},
    "count": {"long_name": "number of footprints", "units": "1"},
    "provenance": {"long_name": "footprint that weighs most, as row of the table", "units": "1"},
}
POPULATION = ("abundance", "abundance_std", "count", "provenance")


def lay_out(path: Path, grid: GIBGrid, layout: dict[str, Any]) -> None:
    """Make a Global Information Bank without any data, such that it appears all at once.

    It says of itself what `layout` holds: ``version``, ``grid``, ``elements``, ``features``.
    """
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    elements = layout["elements"]
    sizes = {
        "lat": grid.size[0],
        "lon": grid.size[1],
        "feature": layout["features"],
        "element": len(elements),
    }
    regions = {"lat": grid.shape[0], "lon": grid.shape[1]}
    with appearing(path) as begun:
        root = zarr.create_group(os.fspath(begun), zarr_format=3)
        for name in SPATIAL:
            _lay_out_array(root, name, sizes, regions)
        for name, (dtype, first, lost) in STATES.items():
            state = root.create_array(
                name,
                shape=grid.regions,
                dtype=dtype,
                chunks=(1, 1),
                fill_value=lost,
                compressors=(Crc32cCodec(),),
                dimension_names=("region_y", "region_x"),
            )
            state[:] = first
        root.create_group("footprints")
        # Texts of any length are in the Zarr specification, those of a fixed length are not.
        coords = coordinates(grid, elements)
        coords = coords.assign_coords(element=np.array(elements, dtype=object))
        codecs = (BloscCodec(cname="zstd", clevel=1), Crc32cCodec())
        encoding = {name: {"compressors": codecs} for name in coords.variables}
        coords.to_zarr(begun, mode="a", zarr_format=3, consolidated=False, encoding=encoding)
        root.attrs.update(_root_attributes(layout))
        own = digests(begun, "footprints")
        if not layout["features"]:
            del own["feature"]  # it is laid out anew, and counts as it is from then on
        write_sealed(begun, KEY, metadata=own)


def _lay_out_array(
    root: Any, name: str, sizes: dict[str, int], regions: dict[str, int], *, overwrite: bool = False
) -> None:
    """Make one of :data:`SPATIAL`, without data: with a region a chunk, or a shard."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    dtype, dims, fill = SPATIAL[name]
    region = tuple(max(regions.get(d, sizes[d]), 1) for d in dims)
    inner = inner_chunk(region, np.dtype(dtype).itemsize)
    attributes = dict(ATTRS[name])
    if dtype == "f4":
        attributes["_FillValue"] = _json_nan()
    # Level 1 takes half of the time of level 3 on sparse abundances, for 5 % more bytes.
    codec = BloscCodec(cname="zstd", clevel=1)
    root.create_array(
        name,
        shape=tuple(sizes[d] for d in dims),
        dtype=dtype,
        chunks=inner,
        shards=region if inner != region else None,
        compressors=(codec, Crc32cCodec()),
        fill_value=fill,
        dimension_names=dims,
        attributes={**attributes, "grid_mapping": "spatial_ref"},
        overwrite=overwrite,
    )


def set_feature_count(path: Path, count: int) -> None:
    """Say how long the vectors of features are, once, where a bank was made without a word on it.

    InputError if another writer has said otherwise.
    """
    with meta_lock(path):
        meta = meta_of(path)
        if meta["features"] == count:
            return
        if meta["features"]:
            raise InputError(
                f"{count} features for a store of {meta['features']}",
                where=path,
                remedy="Give as many as the store holds",
            )
        grid = grid_of(meta)
        sizes = {"lat": grid.size[0], "lon": grid.size[1], "feature": count}
        regions = {"lat": grid.shape[0], "lon": grid.shape[1]}
        _lay_out_array(open_root(path, "r+"), "feature", sizes, regions, overwrite=True)
        write_sealed(path, KEY, features=count, metadata=digests(path, "footprints"))


def coordinates(grid: GIBGrid, elements: Sequence[str]) -> xr.Dataset:
    """Coordinates of a bank's variables, to the last bit as its grid gives them."""
    from lunarray.geo import assign_crs, grid_coords

    coords = {**grid_coords(grid.geobox), "element": list(elements)}
    out = xr.Dataset(coords=coords)
    for name, values in (("lat", grid.lat()), ("lon", grid.lon())):
        out = out.assign_coords({name: out[name].copy(data=values)})
    return assign_crs(out, grid.geobox.crs)


def _json_nan() -> str:
    from xarray.backends.zarr import FillValueCoder

    return FillValueCoder.encode(float("nan"), np.dtype("f4"))


def _root_attributes(layout: dict[str, Any]) -> dict[str, Any]:
    stamped = stamp(xr.Dataset(), "create_gib").attrs
    return {
        **stamped,
        "title": "Global Information Bank",
        KEY: {**layout, "feature_model": None, "population": None, "populating": None},
    }


def inner_chunk(region: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Part of a region, an even division of its rows and columns, that is small enough to be read for itself."""
    *lead, rows, columns = region

    def parts(n: int) -> list[int]:
        return [k for k in range(1, n + 1) if n % k == 0]

    best = min(
        (
            (a * b, abs(rows / a - columns / b), a, b)
            for a in parts(rows)
            for b in parts(columns)
            if np.prod(region) * itemsize <= _CHUNK_BYTES * a * b
        ),
        default=(1, 0.0, 1, 1),
    )
    return (*lead, rows // best[2], columns // best[3])


def update_meta(path: Path, **changes: Any) -> None:
    """Change what a Global Information Bank says of itself, in one step.

    `path`: the store; `**changes`: entries of the attribute ``lunarray_gib``.
    """
    meta_of(path)
    with meta_lock(path):
        write_sealed(path, KEY, **changes)


def write_sealed(path: Path, key: str, **changes: Any) -> None:
    """Change what a group says of itself, in one step, and seal its text.

    `path`: the group; `key`: the attribute; `**changes`: entries of it.
    """
    root = json.loads((path / "zarr.json").read_text("utf-8"))
    attributes = root.setdefault("attributes", {})
    attributes[key] = {**attributes.get(key, {}), **changes}
    write_file(path / "zarr.json", seal(root, key))
    sync_folder(path)


def digests(path: Path, *groups: str) -> dict[str, str]:
    """Digests of the metadata of the arrays of a group, and of groups in it."""
    own = {name: digest_of(text) for name, text in objects.arrays(path).items()}
    own = {name: text for name, text in own.items() if not name.startswith("footprints/")}
    return own | {name: digest_of((path / name / "zarr.json").read_bytes()) for name in groups}


@contextmanager
def meta_lock(path: Path) -> Iterator[None]:
    """Hold the lock of what a bank says of itself: one of its own, for others write regions meanwhile.

    It is held for a moment, and waited for; StoreLockedError if it is held longer. The lock of a dead writer goes.
    """
    path = real(path)
    lock = path.with_name(f"{path.name}.meta")
    with ExitStack() as stack:
        for left in reversed(range(1000)):
            try:
                stack.enter_context(WriteLock(lock))
                break
            except StoreLockedError:
                if not left:
                    raise
                time.sleep(0.01)
        for file in path.glob("zarr.json.*.partial"):
            file.unlink(missing_ok=True)
        yield


def sweep(path: Path, names: Sequence[str], region: tuple[int, int]) -> None:
    """Delete what a stopped writer left beside the objects of a region, in some arrays; others write other regions."""
    i, j = region
    for name in names:
        for file in (path / name / "c").glob(f"**/{i}/{j}.*.partial"):
            file.unlink(missing_ok=True)


def meta_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a Global Information Bank says of itself: grid, elements, feature model, population.

    `path`: the store. Returns the attribute ``lunarray_gib``. StoreFormatError if it is none. StoreDamagedError if this
    or the metadata of an array are not those that were written.
    """
    path = real(path)
    meta, text = read_meta(path)
    if not sealed(meta, text):
        raise damaged_metadata(path / "zarr.json")
    for name in altered(path, meta):
        raise damaged_metadata(path / name / "zarr.json")
    return meta


def altered(path: Path, meta: dict[str, Any]) -> list[str]:
    """Names of the arrays of a group whose metadata are not those that were written, by what it says of itself."""

    def own(name: str) -> str:
        try:
            return digest_of((path / name / "zarr.json").read_bytes())
        except OSError:
            return ""

    return [name for name, known in meta["metadata"].items() if own(name) != known]


def read_meta(path: Path) -> tuple[dict[str, Any], str]:
    """What a bank says of itself, and the text that this stands in; StoreFormatError if it is none."""
    try:
        text = (path / "zarr.json").read_text("utf-8")
        meta = json.loads(text)["attributes"][KEY]
        meta = {**meta, "version": meta["version"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreFormatError(
            "not a Global Information Bank" if path.exists() else "no such store",
            where=path,
            remedy="Give a store that lunarray.superres.create_gib made",
        ) from error
    if meta["version"] != FORMAT_VERSION:
        raise StoreFormatError(
            f"version {meta['version']} of the convention, and this lunarray reads {FORMAT_VERSION}",
            where=path,
            remedy="Open it with the lunarray that wrote it, or make it anew",
        )
    return meta, text


def grid_of(meta: dict[str, Any]) -> GIBGrid:
    """Grid of a store, by what :func:`meta_of` gives."""
    return GIBGrid.from_json(json.dumps(meta["grid"]))


def open_root(path: Path, mode: Any) -> Any:
    """The root of a Global Information Bank as a Zarr group.

    `path`: the store; `mode` {"r", "r+"}: to read, or to write too.
    """
    import zarr

    return zarr.open_group(Folder(path), mode=mode, use_consolidated=False)


def require_settled(path: Path, meta: dict[str, Any]) -> None:
    """StoreIncompleteError if a bank is being populated, or was when that was interrupted."""
    if meta.get("populating"):
        raise StoreIncompleteError(
            "footprints are being put on the pixels of this bank, or that was interrupted",
            where=path,
            remedy="Populate it again, with the same footprints or without any, and it is completed",
        )


def read_states(root: Any, name: str) -> np.ndarray:
    """One of :data:`STATES` of all regions, (region_y, region_x); StoreDamagedError if an object of it is lost."""
    states = np.asarray(root[name][:])
    lost = np.argwhere(states == np.array(STATES[name][2], states.dtype))
    if lost.size:
        i, j = map(int, lost[0])
        raise StoreDamagedError(
            f"{name} of region {(i, j)} is missing",
            where=Path(root.store.root) / name,
            remedy="Repair it with 'lunarray verify STORE --repair', and write again what that takes away",
        )
    return states


def content_ids(
    path: Path, regions: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], tuple[str, ...]]:
    """What the content of regions is known by: ids of features, mare class and population, as text."""
    root = open_root(path, "r")
    ids = [read_states(root, name) for name in sorted(set(IDS.values()))]
    return {r: tuple(str(own[r]) for own in ids) for r in regions}


def state_of(root: Any) -> np.ndarray:
    """What each region holds: the sum of :data:`STATE_FLAGS`, (region_y, region_x) uint8."""
    there = {
        "features": read_states(root, "id_feature") > 0,
        "mare": read_states(root, "id_mare") > 0,
        "abundance": (read_states(root, "populated") >= 0)
        & (read_states(root, "id_population") > 0),
    }
    flags = (STATE_FLAGS[name] * known for name, known in there.items())
    return np.sum([*flags], axis=0).astype(np.uint8)
