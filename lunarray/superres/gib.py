"""The Global Information Bank: a Zarr store of surface features, mare class and abundances, one object per region.

Layout, at the root of the group:

* ``feature`` (feature, lat, lon) f4, one shard a region; ``mare`` (lat, lon) u1; ``abundance``, ``abundance_std``
  (element, lat, lon) f4; ``count`` (lat, lon) u2; ``provenance`` (lat, lon) i4: one chunk a region each;
* ``has_features``, ``has_mare`` (region_y, region_x) u1 and ``populated`` i4: one chunk a region, so that regions are
  written by many processes at a time. ``populated`` is the number of footprints whose population a region holds, and -1
  while there is none or one is being written;
* ``footprints/0000``, ``footprints/0001``, …: the table of footprints, a group each time some were added;
* attribute ``lunarray_gib``: grid, elements, feature model, and how it was populated.

Nothing is written before a region is: arrays are metadata until then, and missing regions read as missing values.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import (
    GridError,
    InputError,
    ModelError,
    StoreConflictError,
    StoreError,
    StoreFormatError,
    StoreIncompleteError,
)
from lunarray.superres.grid import GIBGrid
from lunarray.xrf.constants import ELEMENTS

__all__ = [
    "STATE_FLAGS",
    "create_gib",
    "gib_footprints",
    "gib_grid",
    "open_gib",
    "read_region",
    "set_feature_model",
    "write_region",
]

#: Attribute of the root group that makes a Zarr group a Global Information Bank.
KEY = "lunarray_gib"
FORMAT_VERSION = 1

#: Bits of ``state``: what a region holds.
STATE_FLAGS = {"features": 1, "mare": 2, "abundance": 4}

#: Mare class on disk.
UNKNOWN, MARE_CLASS, HIGHLAND_CLASS = 0, 1, 2

#: Largest inner chunk of a shard of features.
_CHUNK_BYTES = 64 << 20

_SPATIAL = {
    "feature": ("f4", ("feature", "lat", "lon"), np.nan),
    "mare": ("u1", ("lat", "lon"), 0),
    "abundance": ("f4", ("element", "lat", "lon"), np.nan),
    "abundance_std": ("f4", ("element", "lat", "lon"), np.nan),
    "count": ("u2", ("lat", "lon"), 0),
    "provenance": ("i4", ("lat", "lon"), -1),
}
_STATES = {"has_features": ("u1", 0), "has_mare": ("u1", 0), "populated": ("i4", -1)}
_ATTRS: dict[str, dict[str, Any]] = {
    "feature": {"long_name": "surface feature", "units": "1"},
    "mare": {
        "long_name": "mare or highland",
        "units": "1",
        "flag_values": [0, 1, 2],
        "flag_meanings": "unknown mare highland",
    },
    "abundance": {"long_name": "abundance", "units": "wt%"},
    "abundance_std": {"long_name": "error of the abundance", "units": "wt%"},
    "count": {"long_name": "number of footprints", "units": "1"},
    "provenance": {"long_name": "footprint that weighs most, as row of the table", "units": "1"},
}
_POPULATION = ("abundance", "abundance_std", "count", "provenance")


def create_gib(
    path: str | os.PathLike[str],
    grid: GIBGrid | None = None,
    elements: Sequence[str] = ELEMENTS,
    features: int = 300,
    *,
    overwrite: bool = False,
) -> xr.Dataset:
    """Lay out a Global Information Bank, without any data; go on with one that is laid out alike.

    Parameters
    ----------
    path : path
        A folder on a local or shared file system.
    grid : GIBGrid, optional
        By default that of the paper, the whole Moon at two kilometres.
    elements : sequence of str
        Elements whose abundances it holds.
    features : int
        Length of the vector of surface features of a pixel.
    overwrite : bool
        Delete what is there first, if that is a Global Information Bank.

    Returns
    -------
    Dataset
        As :func:`open_gib` gives it.

    Raises
    ------
    StoreConflictError
        If something else is there.
    StoreError
        If `path` cannot be written.
    InputError
        If `elements` or `features` make no sense.

    References
    ----------
    Lunar elemental analysis and mapping of CLASS data, section IV.B, step 1 (GIB initialization).
    """
    import zarr
    from zarr.codecs import BloscCodec

    path, grid = Path(path), grid or GIBGrid()
    elements = [str(e) for e in elements]
    if not elements or len(set(elements)) != len(elements):
        raise InputError(f"elements {elements}", where="create_gib", remedy="Name each once")
    if int(features) != features or features < 1:
        raise InputError(f"{features} features", where="create_gib", remedy="Give one at least")
    layout = {
        "version": FORMAT_VERSION,
        "grid": json.loads(grid.to_json()),
        "elements": elements,
        "features": int(features),
    }
    if path.exists():
        try:
            there = _meta(path)
        except StoreFormatError as error:
            raise StoreConflictError(
                "something else than a Global Information Bank is there",
                where=path,
                remedy="Choose another path",
            ) from error
        if overwrite:
            shutil.rmtree(path)
        elif any(there[name] != value for name, value in layout.items()):
            odd = [name for name, value in layout.items() if there[name] != value]
            raise StoreConflictError(
                f"the Global Information Bank that is there has another {' and another '.join(odd)}",
                where=path,
                remedy="Choose another path, or pass overwrite=True to begin anew",
            )
        else:
            return open_gib(path)

    begun = path.with_name(f".{path.name}.{os.getpid()}.begun")
    shutil.rmtree(begun, ignore_errors=True)
    sizes = {
        "lat": grid.size[0],
        "lon": grid.size[1],
        "feature": int(features),
        "element": len(elements),
    }
    regions = {"lat": grid.shape[0], "lon": grid.shape[1]}
    # Level 1 takes half of the time of level 3 on sparse abundances, for 5 % more bytes.
    codec = BloscCodec(cname="zstd", clevel=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        root = zarr.create_group(os.fspath(begun), zarr_format=3)
        for name, (dtype, dims, fill) in _SPATIAL.items():
            region = tuple(regions.get(d, sizes[d]) for d in dims)
            inner = _inner_chunk(region, np.dtype(dtype).itemsize)
            attributes = dict(_ATTRS[name])
            if dtype == "f4":
                attributes["_FillValue"] = _json_nan()
            root.create_array(
                name,
                shape=tuple(sizes[d] for d in dims),
                dtype=dtype,
                chunks=inner,
                shards=region if inner != region else None,
                compressors=codec,
                fill_value=fill,
                dimension_names=dims,
                attributes={**attributes, "grid_mapping": "spatial_ref"},
            )
        for name, (dtype, fill) in _STATES.items():
            root.create_array(
                name,
                shape=grid.regions,
                dtype=dtype,
                chunks=(1, 1),
                fill_value=fill,
                compressors=None,
                dimension_names=("region_y", "region_x"),
            )
        root.create_group("footprints")
        # Texts of any length are in the Zarr specification, those of a fixed length are not.
        coords = _coordinates(grid, elements)
        coords = coords.assign_coords(element=np.array(elements, dtype=object))
        coords.to_zarr(begun, mode="a", zarr_format=3, consolidated=False)
        root.attrs.update(_root_attributes(layout))
        os.rename(begun, path)
    except OSError as error:
        raise StoreError(
            f"the store cannot be written ({error.strerror or error})",
            where=path,
            remedy="Check the free space and the permissions of the folder",
        ) from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return open_gib(path)


def _coordinates(grid: GIBGrid, elements: Sequence[str]) -> xr.Dataset:
    from lunarray.geo import assign_crs, grid_coords

    coords = {**grid_coords(grid.geobox), "element": list(elements)}
    # To the last bit as the grid gives them.
    out = xr.Dataset(coords=coords)
    for name, values in (("lat", grid.lat()), ("lon", grid.lon())):
        out = out.assign_coords({name: out[name].copy(data=values)})
    return assign_crs(out, grid.geobox.crs)


def _json_nan() -> str:
    from xarray.backends.zarr import FillValueCoder

    return FillValueCoder.encode(float("nan"), np.dtype("f4"))


def _root_attributes(layout: dict[str, Any]) -> dict[str, Any]:
    from lunarray.store.provenance import stamp

    stamped = stamp(xr.Dataset(), "create_gib").attrs
    return {
        **stamped,
        "title": "Global Information Bank",
        KEY: {**layout, "feature_model": None, "population": None},
    }


def _inner_chunk(region: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
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


def _meta(path: Path) -> dict[str, Any]:
    """What a Global Information Bank says of itself."""
    try:
        meta = json.loads((path / "zarr.json").read_text())["attributes"][KEY]
        version = meta["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreFormatError(
            "not a Global Information Bank" if path.exists() else "no such store",
            where=path,
            remedy="Give a store that lunarray.superres.create_gib made",
        ) from error
    if version != FORMAT_VERSION:
        raise StoreFormatError(
            f"version {version} of the convention, and this lunarray reads {FORMAT_VERSION}",
            where=path,
            remedy="Open it with the lunarray that wrote it, or make it anew",
        )
    return meta


def update_meta(path: Path, **changes: Any) -> None:
    """Change what a Global Information Bank says of itself, in one step.

    Parameters
    ----------
    path : Path
        The store.
    **changes
        Entries of the attribute ``lunarray_gib``.
    """
    _meta(path)
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"][KEY] |= changes
    # A name of its own: threads of one process may say the same at the same time.
    new = file.with_name(f".zarr.json.{uuid.uuid4().hex}")
    new.write_text(json.dumps(metadata, indent=2))
    os.replace(new, file)


def meta_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a Global Information Bank says of itself: grid, elements, feature model, population.

    Parameters
    ----------
    path : path
        The store.

    Returns
    -------
    dict
        The attribute ``lunarray_gib``.

    Raises
    ------
    StoreFormatError
        If it is none.
    """
    return _meta(Path(path))


def open_gib(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a Global Information Bank, lazily; it may still be growing.

    Parameters
    ----------
    path : path
        The store.

    Returns
    -------
    Dataset
        ``feature`` (feature, lat, lon), ``mare`` (0 unknown, 1 mare, 2 highland), ``abundance`` and ``abundance_std``
        (element, lat, lon; wt%), ``count`` and ``provenance`` (row of the footprint that weighs most, -1 where none
        is), in Dask blocks of a region; and in memory ``state`` (region_y, region_x), the sum of the flags of what each
        region holds: 1 features, 2 mare class, 4 abundances. What is not there reads as missing.

    Raises
    ------
    StoreFormatError
        If it is none.
    """
    import dask.array as da

    path = Path(path)
    meta = _meta(path)
    grid = GIBGrid.from_json(json.dumps(meta["grid"]))
    root = open_root(path, "r")
    variables: dict[str, Any] = {}
    for name, (_, dims, _fill) in _SPATIAL.items():
        array = root[name]
        blocks = tuple(
            {"lat": grid.shape[0], "lon": grid.shape[1]}.get(d, n)
            for d, n in zip(dims, array.shape, strict=True)
        )
        # Not tokenised by content: a growing store must be read anew each time that it is opened.
        empty = np.empty((0,) * len(dims), array.dtype)
        lazy = da.from_array(array, chunks=blocks, name=False, meta=empty)
        variables[name] = (dims, lazy, dict(_ATTRS[name]))
    variables["state"] = (
        ("region_y", "region_x"),
        _state_of(root),
        {
            "long_name": "what the region holds",
            "flag_masks": list(STATE_FLAGS.values()),
            "flag_meanings": " ".join(STATE_FLAGS),
        },
    )
    attrs = {k: v for k, v in root.attrs.asdict().items() if k != KEY}
    attrs["grid"] = grid.to_json()
    if meta["feature_model"]:
        attrs["feature_model"] = json.dumps(meta["feature_model"], sort_keys=True)
    if meta["population"]:
        attrs["population"] = json.dumps(meta["population"], sort_keys=True)
    ds = _coordinates(grid, meta["elements"]).assign(variables).assign_attrs(attrs)
    ds.encoding = {"source": os.fspath(path)}
    return ds


def open_root(path: Path, mode: Any) -> Any:
    """The root of a Global Information Bank as a Zarr group.

    Parameters
    ----------
    path : Path
        The store.
    mode : {"r", "r+"}
        To read, or to write too.

    Returns
    -------
    zarr.Group
    """
    import zarr

    return zarr.open_group(os.fspath(path), mode=mode, use_consolidated=False)


def _state_of(root: Any) -> np.ndarray:
    features, mare = (np.asarray(root[n][:]) > 0 for n in ("has_features", "has_mare"))
    populated = np.asarray(root["populated"][:]) >= 0
    flags = STATE_FLAGS
    return (
        flags["features"] * features + flags["mare"] * mare + flags["abundance"] * populated
    ).astype(np.uint8)


def gib_grid(ds: xr.Dataset) -> GIBGrid:
    """Grid of an open Global Information Bank.

    Parameters
    ----------
    ds : Dataset
        Of :func:`open_gib`.

    Returns
    -------
    GIBGrid

    Raises
    ------
    GridError
        If `ds` does not say.
    """
    if "grid" not in ds.attrs:
        raise GridError(
            "no attribute `grid`", where="gib_grid", remedy="Give what lunarray.superres.open_gib gives"
        )  # fmt: skip
    return GIBGrid.from_json(ds.attrs["grid"])


def read_region(ds: xr.Dataset, region: tuple[int, int], margin: int = 0) -> xr.Dataset:
    """Cut out a region and some pixels around it.

    Parameters
    ----------
    ds : Dataset
        Of :func:`open_gib`, or other maps on the whole of its grid with its attribute ``grid``.
    region : (int, int)
        Region (i, j), from the north-west.
    margin : int
        Pixels around it. Where the grid goes all around the Moon the margin goes on across ±180°; at the grid's other
        edges it ends there.

    Returns
    -------
    Dataset
        Lazy where `ds` is. ``lon`` rises throughout: beyond ±180° it goes on past the range [-180, 180), so that
        neighbouring columns have neighbouring longitudes.

    Raises
    ------
    GridError
        If there is no such region, or `ds` is not on the grid.
    """
    grid = gib_grid(ds)
    rows, columns = grid.slices(*region)
    if (ds.sizes.get("lat"), ds.sizes.get("lon")) != grid.size:
        raise GridError(
            f"{ds.sizes.get('lat')} × {ds.sizes.get('lon')} pixels on a grid of {grid.size[0]} × {grid.size[1]}",
            where="read_region",
            remedy="Give the whole of the Global Information Bank",
        )
    if margin < 0:
        raise GridError(f"a margin of {margin}", where="read_region", remedy="Give 0 or more")
    top, bottom = max(rows.start - margin, 0), min(rows.stop + margin, grid.size[0])
    left, right = columns.start - margin, columns.stop + margin
    spatial = ds.drop_dims(["region_y", "region_x"], errors="ignore").isel(lat=slice(top, bottom))
    n = grid.size[1]
    if not grid.periodic or (left >= 0 and right <= n):
        return spatial.isel(lon=slice(max(left, 0), min(right, n)))
    # No column twice, however small the grid.
    if right - left > n:
        left, right = columns.start - (n - grid.shape[1]) // 2, 0
        right = left + n
    # By slices, not by a list of indices: the blocks stay what they are.
    parts = []
    start = left
    while start < right:
        turn = start // n
        stop = min(right, (turn + 1) * n)
        part = spatial.isel(lon=slice(start - turn * n, stop - turn * n))
        lon = part["lon"].copy(data=part["lon"].values + 360.0 * turn)
        parts.append(part.assign_coords(lon=lon))
        start = stop
    joined = xr.concat(
        parts,
        "lon",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="override",
        combine_attrs="override",
    )
    return joined.assign_attrs(ds.attrs)


def set_feature_model(path: str | os.PathLike[str], model: Mapping[str, Any]) -> None:
    """Say where the features of a Global Information Bank come from; all of them come from there.

    Parameters
    ----------
    path : path
        The store.
    model : mapping
        At least ``sha256`` of the network's weights; also ``mode``, ``selection`` (indices of the features that mRMR
        chose) and whatever else describes them, as JSON can hold it.

    Raises
    ------
    ModelError
        If the features that it holds, or is meant to hold, come from elsewhere.
    InputError
        If `model` has no ``sha256``.
    """
    path = Path(path)
    known = _meta(path)["feature_model"]
    wanted = _plain_model(model)
    if known is None:
        update_meta(path, feature_model=wanted)
        return
    if known != wanted:
        odd = sorted(k for k in {*known, *wanted} if known.get(k) != wanted.get(k))
        raise ModelError(
            f"the features of this Global Information Bank differ in {', '.join(odd)}"
            + (
                f" (its weights have sha256 {known['sha256'][:12]}…, these {wanted['sha256'][:12]}…)"
                if "sha256" in odd
                else ""
            ),
            where=path,
            remedy="Use the same weights, mode and selection, or make another store",
        )


def _plain_model(model: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(model.get("sha256"), str):
        raise InputError(
            "no sha256 of the weights", where="feature_model", remedy="Give {'sha256': ..., ...}"
        )
    return json.loads(
        json.dumps(
            dict(model),
            default=lambda v: v.tolist() if isinstance(v, (np.ndarray, np.generic)) else str(v),
        )
    )


def write_region(
    path: str | os.PathLike[str],
    region: tuple[int, int],
    *,
    feature_model: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    **arrays: Any,
) -> None:
    """Write what is known of a region; each part of it counts as there once all of it is.

    Different regions can be written from many processes at a time.

    Parameters
    ----------
    path : path
        The store.
    region : (int, int)
        Region (i, j), from the north-west.
    feature_model : mapping, optional
        With ``feature``: where it comes from, as in :func:`set_feature_model`; it must be that of the store.
    overwrite : bool
        Write a part again that is there. Other mare classes than before make every population out of date: the next
        one does all regions again.
    **arrays : array_like
        Any of ``feature`` (feature, lat, lon), ``mare`` (lat, lon; 0, 1 or 2), and ``abundance`` (element, lat, lon)
        with or without ``abundance_std``, ``count``, ``provenance``. Abundances are usually written by
        :func:`lunarray.superres.populate`; footprints that touch the region later replace those written here.

    Raises
    ------
    InputError
        If an array has another shape than the region, or values that it cannot have.
    ModelError
        If features come without `feature_model`, or from other weights than those of the store.
    StoreConflictError
        If the part is there already.
    StoreError
        If it cannot be written. What was not completed counts as missing.
    """
    path = Path(path)
    meta = _meta(path)
    grid = GIBGrid.from_json(json.dumps(meta["grid"]))
    i, j = region
    rows, columns = grid.slices(i, j)
    checked = _checked(meta, grid, arrays)
    parts = [
        part
        for part, names in (
            ("features", ("feature",)),
            ("mare", ("mare",)),
            ("abundance", _POPULATION),
        )
        if set(names) & set(checked)
    ]
    root = open_root(path, "r+")
    state = int(_state_of(root)[i, j])
    there = [part for part in parts if state & STATE_FLAGS[part]]
    if there and not overwrite:
        raise StoreConflictError(
            f"region {(i, j)} has {' and '.join(there)} already",
            where=path,
            remedy="Pass overwrite=True to write it again, or leave out the regions that `state` says are done",
        )
    if "feature" in checked:
        if feature_model is None:
            raise ModelError(
                "features without a word on where they come from",
                where="feature_model",
                remedy="Give {'sha256': of the weights, 'mode': ..., 'selection': ...}",
            )
        set_feature_model(path, feature_model)
    stale = "mare" in checked and not np.array_equal(
        np.asarray(root["mare"][rows, columns]), checked["mare"]
    )
    try:
        if "feature" in checked:
            root["has_features"][i, j] = 0
            root["feature"][:, rows, columns] = checked["feature"]
            root["has_features"][i, j] = 1
        if "mare" in checked:
            root["has_mare"][i, j] = 0
            root["mare"][rows, columns] = checked["mare"]
            if stale and state & STATE_FLAGS["mare"]:
                # Footprints split by the class of their cells, also those that end in other regions.
                old = np.asarray(root["populated"][:])
                for k, m in zip(*np.nonzero(old > 0), strict=True):
                    root["populated"][k, m] = -1
            root["has_mare"][i, j] = 1
        if "abundance" in checked:
            write_population(root, grid, region, checked, rows_of_table=0)
    except OSError as error:
        raise StoreError(
            f"writing of region {(i, j)} stopped ({error.strerror or error})",
            where=path,
            remedy="Mend the cause and write the region again: until then it counts as missing",
        ) from error


def write_population(
    root: Any,
    grid: GIBGrid,
    region: tuple[int, int],
    arrays: Mapping[str, np.ndarray],
    *,
    rows_of_table: int,
) -> None:
    """Write the abundances of a region; it counts as unpopulated until all of them are there.

    Parameters
    ----------
    root : zarr.Group
        The store, open for writing.
    grid : GIBGrid
        Its grid.
    region : (int, int)
        Which region.
    arrays : mapping of str to ndarray
        ``abundance``, ``abundance_std``, ``count``, ``provenance``.
    rows_of_table : int
        Footprints that they take account of.
    """
    rows, columns = grid.slices(*region)
    root["populated"][region] = -1
    for name in _POPULATION:
        root[name][..., rows, columns] = arrays[name]
    root["populated"][region] = rows_of_table


def _checked(
    meta: dict[str, Any], grid: GIBGrid, arrays: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    unknown = sorted(set(arrays) - set(_SPATIAL))
    if unknown or not arrays:
        raise InputError(
            f"no variable {', '.join(unknown)}" if unknown else "nothing to write",
            where="write_region",
            remedy=f"Give any of {', '.join(_SPATIAL)}",
        )
    sizes = {"feature": meta["features"], "element": len(meta["elements"])}
    sizes |= {"lat": grid.shape[0], "lon": grid.shape[1]}
    out = {}
    for name, values in arrays.items():
        dtype, dims, _ = _SPATIAL[name]
        if isinstance(values, xr.DataArray):
            values = values.transpose(*dims)
        values = np.asarray(values)
        shape = tuple(sizes[d] for d in dims)
        if values.shape != shape:
            raise InputError(
                f"{name} is {values.shape}, and a region of this store is {shape}",
                where=f"write_region: {name}",
                remedy=f"Give it as ({', '.join(dims)})",
            )
        if name == "mare" and not np.isin(values, (0, 1, 2)).all():
            raise InputError(
                "classes other than 0, 1 and 2",
                where="write_region: mare",
                remedy="Give 0 for unknown, 1 for mare, 2 for highland",
            )
        out[name] = values.astype(dtype)
    if set(out) & set(_POPULATION):
        if "abundance" not in out:
            raise InputError(
                f"{', '.join(sorted(set(out) & set(_POPULATION)))} without abundances",
                where="write_region",
                remedy="Give abundance too",
            )
        known = np.isfinite(out["abundance"])
        if (out["abundance"][known] < 0).any():
            raise InputError(
                "negative abundances", where="write_region: abundance", remedy="Mask them"
            )
        shape = (grid.shape[0], grid.shape[1])
        out.setdefault("abundance_std", np.full(out["abundance"].shape, np.nan, "f4"))
        out.setdefault("count", known.any(axis=0).astype("u2"))
        out.setdefault("provenance", np.full(shape, -1, "i4"))
    return out


def require_parts(ds: xr.Dataset, regions: Sequence[tuple[int, int]], part: str) -> None:
    """Raise where regions lack a part.

    Parameters
    ----------
    ds : Dataset
        Of :func:`open_gib`.
    regions : sequence of (int, int)
        Regions that are needed.
    part : str
        Of :data:`STATE_FLAGS`.

    Raises
    ------
    StoreIncompleteError
        Naming the regions.
    """
    state = ds["state"].values
    missing = [(i, j) for i, j in regions if not state[i, j] & STATE_FLAGS[part]]
    if missing:
        raise StoreIncompleteError(
            f"no {part} in {len(missing)} regions, the first {missing[0]}",
            where=ds.encoding.get("source"),
            remedy="Write that part of them first",
        )


_BATCH = re.compile(r"\d{4,}")
_COLUMNS = ("corner_lat", "corner_lon", "abundance", "abundance_std", "time")


def footprint_batches(path: Path) -> list[Path]:
    """Groups that hold the table of footprints, in their order.

    Parameters
    ----------
    path : Path
        The store.

    Returns
    -------
    list of Path
    """
    folder = path / "footprints"
    return (
        sorted(p for p in folder.iterdir() if _BATCH.fullmatch(p.name)) if folder.is_dir() else []
    )


def gib_footprints(path: str | os.PathLike[str]) -> xr.Dataset:
    """Table of the footprints that a Global Information Bank was populated with, in their order.

    Parameters
    ----------
    path : path
        The store.

    Returns
    -------
    Dataset
        In memory, dims (footprint, corner, element): ``corner_lat``, ``corner_lon`` (degrees), ``abundance``,
        ``abundance_std`` (wt%), ``time`` (NaT where it is not known). `provenance` counts these rows.

    Raises
    ------
    StoreFormatError
        If it is no Global Information Bank.
    """
    path = Path(path)
    elements = _meta(path)["elements"]
    batches = [open_root(batch, "r") for batch in footprint_batches(path)]
    empty = {
        "corner_lat": np.empty((0, 4)),
        "corner_lon": np.empty((0, 4)),
        "abundance": np.empty((0, len(elements))),
        "abundance_std": np.empty((0, len(elements))),
        "time": np.empty(0, "i8"),
    }
    columns = {
        name: np.concatenate([empty[name], *(np.asarray(b[name][:]) for b in batches)])
        for name in _COLUMNS
    }
    return xr.Dataset(
        {
            "corner_lat": (("footprint", "corner"), columns["corner_lat"], {"units": "degrees_north"}),
            "corner_lon": (("footprint", "corner"), columns["corner_lon"], {"units": "degrees_east"}),
            "abundance": (("footprint", "element"), columns["abundance"], {"units": "wt%"}),
            "abundance_std": (("footprint", "element"), columns["abundance_std"], {"units": "wt%"}),
            "time": (("footprint",), columns["time"].astype("i8").view("M8[ns]")),
        },
        {"element": elements},
    )  # fmt: skip


def append_footprints(path: Path, table: xr.Dataset) -> None:
    """Put footprints behind those of the table, all at once.

    Parameters
    ----------
    path : Path
        The store.
    table : Dataset
        As :func:`gib_footprints` gives it.

    Raises
    ------
    StoreError
        If it cannot be written; then the table is as before.
    """
    import zarr

    number = len(footprint_batches(path))
    folder = path / "footprints"
    begun = folder / f".{number:04d}.{os.getpid()}"
    try:
        root = zarr.create_group(os.fspath(begun), zarr_format=3, overwrite=True)
        for name in _COLUMNS:
            values = np.ascontiguousarray(table[name].values)
            if name == "time":
                values = values.astype("M8[ns]").view("i8")
            dims = tuple(str(d) for d in table[name].dims)
            root.create_array(name, data=values, dimension_names=dims)
        os.rename(begun, folder / f"{number:04d}")
    except OSError as error:
        raise StoreError(
            f"the footprints cannot be written ({error.strerror or error})",
            where=path,
            remedy="Mend the cause and do the same again",
        ) from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)
