"""The Global Information Bank: a Zarr store of surface features, mare class and abundances (gib_layout says how)."""

from __future__ import annotations

import json
import os
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
from lunarray.readers import reads
from lunarray.store.locks import WriteLock
from lunarray.store.transaction import beside, discard, real, settle, sync_folders, take_place
from lunarray.superres.gib_layout import (
    ATTRS,
    FORMAT_VERSION,
    KEY,
    POPULATION,
    SPATIAL,
    STATE_FLAGS,
    coordinates,
    grid_of,
    lay_out,
    meta_of,
    open_root,
    read_states,
    require_settled,
    set_feature_count,
    state_of,
    sweep,
    update_meta,
)
from lunarray.superres.gib_reading import IDS, Part, Watched, content_id
from lunarray.superres.grid import GIBGrid, turns
from lunarray.typing import typed
from lunarray.xrf import ELEMENTS


@typed
def create_gib(
    path: str | os.PathLike[str],
    grid: GIBGrid | None = None,
    elements: Sequence[str] = ELEMENTS,
    features: int | None = None,
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
    features : int, optional
        Length of the vector of surface features of a pixel; by default that of the first that are written.
    overwrite : bool
        Begin anew, if a Global Information Bank is there; it is deleted when the new one has taken its place.

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
        If `elements` are no chemical symbols, or `features` make no sense.

    References
    ----------
    Lunar elemental analysis and mapping of CLASS data, section IV.B, step 1 (GIB initialization).

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid, ["Fe", "Al"])
    >>> dict(bank.sizes)["element"]
    2
    """
    path, grid = real(path), grid or GIBGrid()
    elements = [str(e) for e in elements]
    if not elements or len(set(elements)) != len(elements):
        raise InputError(f"elements {elements}", where="create_gib", remedy="Name each once")
    odd = [e for e in elements if not _is_element(e)]
    if odd:
        raise InputError(
            f"{', '.join(map(repr, odd))} {'is' if len(odd) == 1 else 'are'} no chemical element",
            where="create_gib: elements",
            remedy="Give symbols such as Fe and Mg",
        )
    if features is not None and (int(features) != features or features < 1):
        raise InputError(f"{features} features", where="create_gib", remedy="Give one at least")
    layout = {
        "version": FORMAT_VERSION,
        "grid": json.loads(grid.to_json()),
        "elements": elements,
        "features": int(features or 0),
    }
    if _laid_out(path, layout, overwrite):
        return open_gib(path, incomplete=True)
    with WriteLock(path):
        settle(path)
        # Another one may have come and gone before the lock was ours.
        if not _laid_out(path, layout, overwrite):
            discard(beside(path), path)
            lay_out(beside(path), grid, layout)
            take_place(path)
    return open_gib(path, incomplete=True)


def _is_element(symbol: str) -> bool:
    import xraylib

    try:
        return xraylib.SymbolToAtomicNumber(symbol) > 0
    except ValueError:
        return False


def _laid_out(path: Path, layout: Mapping[str, Any], overwrite: bool) -> bool:
    """Tell whether a bank is there that can be gone on with; raise where something else is."""
    if not path.exists():
        return False
    try:
        there = meta_of(path)
    except StoreFormatError as error:
        raise StoreConflictError(
            "something else than a Global Information Bank is there",
            where=path,
            remedy="Choose another path",
        ) from error
    odd = [n for n, value in layout.items() if there[n] != value and (n, value) != ("features", 0)]
    if odd and not overwrite:
        raise StoreConflictError(
            f"the Global Information Bank that is there has another {' and another '.join(odd)}",
            where=path,
            remedy="Choose another path, or give overwrite=True to begin anew",
        )
    return not overwrite


@typed
@reads
def open_gib(path: str | os.PathLike[str], *, incomplete: bool = False) -> xr.Dataset:
    """Open a Global Information Bank, lazily; it may still be growing.

    What is read is what was there when it was opened, or an error, and is named by its content: what is derived of the
    same has the same identity.

    Parameters
    ----------
    path : path
        The store.
    incomplete : bool, default False
        Open it though it is being populated, or that was interrupted: pixels of some regions take account of footprints
        of which those of others do not.

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
    StoreIncompleteError
        If it is being populated, or that was interrupted.
    StoreChangedError, StoreDamagedError
        When it is read, if what is read was written anew since, or is damaged.

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid)
    >>> sorted(sr.open_gib("bank.zarr").data_vars)[:2]
    ['abundance', 'abundance_std']
    """
    import dask
    import dask.array as da
    import zarr

    path = real(path)
    meta = meta_of(path)
    if not incomplete:
        require_settled(path, meta)
    grid = grid_of(meta)
    root = open_root(path, "r")
    ids = {name: read_states(root, name) for name in set(IDS.values())}
    watched = zarr.open_group(Watched(path, ids=ids), mode="r", use_consolidated=False)
    variables: dict[str, Any] = {}
    for name, (_, dims, _fill) in SPATIAL.items():
        array = Part(watched[name], path / name)
        blocks = tuple(
            {"lat": grid.shape[0], "lon": grid.shape[1]}.get(d, n)
            for d, n in zip(dims, array.shape, strict=True)
        )
        empty = np.empty((0,) * len(dims), array.dtype)
        # By content, also of what is not there yet: a growing store is read anew each time that it is opened.
        own = dask.base.tokenize(meta["grid"], meta["elements"], array.shape, ids[IDS[name]])
        lazy = da.from_array(array, chunks=blocks, name=f"gib-{name}-{own}", meta=empty)
        variables[name] = (dims, lazy, dict(ATTRS[name]))
    variables["state"] = (
        ("region_y", "region_x"),
        state_of(root),
        {
            "long_name": "what the region holds",
            "flag_masks": list(STATE_FLAGS.values()),
            "flag_meanings": " ".join(STATE_FLAGS),
        },
    )
    attrs = {k: v for k, v in root.attrs.asdict().items() if k != KEY}
    attrs["grid"] = grid.to_json()
    for name in ("feature_model", "population"):
        if meta[name]:
            attrs[name] = json.dumps(meta[name], sort_keys=True)
    ds = coordinates(grid, meta["elements"]).assign(variables).assign_attrs(attrs)
    names = (meta["feature_model"] or {}).get("names")
    if names:
        ds = ds.assign_coords(feature_name=("feature", names))
    ds.encoding = {"source": os.fspath(path)}
    return ds


def gib_grid(ds: xr.Dataset) -> GIBGrid:
    """Grid of an open Global Information Bank; GridError if the Dataset does not say."""
    if "grid" not in ds.attrs:
        raise GridError(
            "no attribute `grid`", where="gib_grid", remedy="Give what lunarray.superres.open_gib gives"
        )  # fmt: skip
    return GIBGrid.from_json(ds.attrs["grid"])


@typed
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

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid)
    >>> done = sr.fill_features("bank.zarr", maps={"albedo": la.sample("albedo")})
    >>> done = sr.classify_mare("bank.zarr", albedo=la.sample("albedo"))
    >>> done = sr.populate("bank.zarr", la.sample("tracks"), outside="skip")
    >>> dict(sr.read_region(sr.open_gib("bank.zarr"), (0, 0)).sizes)["lat"]
    20
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
    for own, turn in turns(left, right, n):
        part = spatial.isel(lon=own)
        lon = part["lon"].copy(data=part["lon"].values + 360.0 * turn)
        parts.append(part.assign_coords(lon=lon))
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


_CARD = "Give {'sha256': of the weights, 'mode': ..., 'selection': ...}"


def set_feature_model(path: str | os.PathLike[str], model: Mapping[str, Any]) -> None:
    """Say where the features of a Global Information Bank come from; all of them come from there.

    `model`: at least ``sha256`` of the network's weights; also ``mode``, ``selection`` (indices of the features that
    mRMR chose) and whatever else describes them, as JSON can hold it. ModelError if the features that the store holds,
    or is meant to hold, come from elsewhere; InputError without ``sha256``.
    """
    path = real(path)
    wanted = _plain_model(model)
    known = meta_of(path)["feature_model"]
    if known is None:
        update_meta(path, feature_model=wanted)
        return
    require_feature_model(path, {**dict.fromkeys(known), **wanted})


def require_feature_model(path: str | os.PathLike[str], model: Mapping[str, Any]) -> None:
    """ModelError where the features of a store come from elsewhere than `model` says, in what it tells."""
    known, wanted = meta_of(real(path))["feature_model"], _plain_model(model)
    odd = sorted(k for k in wanted if known is not None and known.get(k) != wanted[k])
    if odd:
        raise ModelError(
            f"the features of this Global Information Bank differ in {', '.join(odd)}"
            + (
                f" (its weights have sha256 {known['sha256'][:12]}…, these {wanted['sha256'][:12]}…)"
                if "sha256" in odd and "maps" not in wanted
                else ""
            ),
            where=path,
            remedy="Use the same maps, or the same weights, mode and selection, or make another store",
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

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid)
    >>> mare = sr.mare_class(grid.geobox, albedo=la.sample("albedo"))
    >>> sr.write_region("bank.zarr", (0, 0), mare=mare.values)
    """
    path = real(path)
    meta = meta_of(path)
    grid = grid_of(meta)
    i, j = region
    rows, columns = grid.slices(i, j)
    checked = _checked(meta, grid, arrays)
    parts = [
        part
        for part, names in (
            ("features", ("feature",)),
            ("mare", ("mare",)),
            ("abundance", POPULATION),
        )
        if set(names) & set(checked)
    ]
    root = open_root(path, "r+")
    state = int(state_of(root)[i, j])
    there = [part for part in parts if state & STATE_FLAGS[part]]
    if there and not overwrite:
        raise StoreConflictError(
            f"region {(i, j)} has {' and '.join(there)} already",
            where=path,
            remedy="Give overwrite=True to write it again, or leave out the regions that `state` says are done",
        )
    if "feature" in checked:
        if feature_model is None:
            raise ModelError(
                "features without a word on where they come from",
                where="feature_model",
                remedy=_CARD,
            )
        set_feature_model(path, feature_model)
        set_feature_count(path, len(checked["feature"]))
        root = open_root(path, "r+")
    stale = "mare" in checked and not np.array_equal(
        np.asarray(root["mare"][rows, columns]), checked["mare"]
    )
    try:
        if stale and state & STATE_FLAGS["mare"]:
            # Footprints split by the class of their cells, also those that end in other regions. Before the class is
            # written: stopped in between, the same call finds it to be another one again.
            with WriteLock(path):
                _unpopulate(root)
        for name in ("feature", "mare"):
            if name in checked:
                sweep(path, (name, IDS[name]), region)
                root[IDS[name]][i, j] = 0
                root[name][..., rows, columns] = checked[name]
                sync_folders(path / name)
                root[IDS[name]][i, j] = content_id(checked[name])
        if "abundance" in checked:
            write_population(root, path, grid, region, checked, rows_of_table=0)
    except OSError as error:
        raise StoreError(
            f"writing of region {(i, j)} stopped ({error.strerror or error})",
            where=path,
            remedy="Mend the cause and write the region again: until then it counts as missing",
        ) from error


def _unpopulate(root: Any) -> None:
    """Make every population out of date, until the next one does all regions again."""
    for k, m in zip(*np.nonzero(read_states(root, "populated") > 0), strict=True):
        root["id_population"][k, m] = 0
        root["populated"][k, m] = -1


def write_population(
    root: Any,
    path: Path,
    grid: GIBGrid,
    region: tuple[int, int],
    arrays: Mapping[str, np.ndarray],
    *,
    rows_of_table: int,
) -> None:
    """Write the abundances of a region; it counts as unpopulated until all of them are there.

    `root`: the store, open for writing; `path`: where it is; `grid`: its grid; `region` (int, int): which region;
    `arrays`: ``abundance``, ``abundance_std``, ``count``, ``provenance``; `rows_of_table`: footprints that they take
    account of.
    """
    rows, columns = grid.slices(*region)
    sweep(path, (*POPULATION, "id_population", "populated"), region)
    root["id_population"][region] = 0
    root["populated"][region] = -1
    for name in POPULATION:
        root[name][..., rows, columns] = arrays[name]
    own = content_id(*(np.asarray(arrays[name], SPATIAL[name][0]) for name in POPULATION))
    root["id_population"][region] = own
    root["populated"][region] = rows_of_table


def _checked(
    meta: dict[str, Any], grid: GIBGrid, arrays: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    unknown = sorted(set(arrays) - set(SPATIAL))
    if unknown or not arrays:
        raise InputError(
            f"no variable {', '.join(unknown)}" if unknown else "nothing to write",
            where="write_region",
            remedy=f"Give any of {', '.join(SPATIAL)}",
        )
    # Whose number of features nobody has said takes those that come first.
    count = meta["features"] or np.shape(arrays.get("feature", ()))[:1]
    sizes = {"feature": int(np.max(count, initial=0)), "element": len(meta["elements"])}
    sizes |= {"lat": grid.shape[0], "lon": grid.shape[1]}
    out = {}
    for name, values in arrays.items():
        dtype, dims, _ = SPATIAL[name]
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
    if set(out) & set(POPULATION):
        if "abundance" not in out:
            raise InputError(
                f"{', '.join(sorted(set(out) & set(POPULATION)))} without abundances",
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

    `ds`: of :func:`open_gib`; `regions` (int, int): regions that are needed; `part`: of :data:`STATE_FLAGS`.
    StoreIncompleteError for naming the regions.
    """
    state = ds["state"].values
    missing = [(i, j) for i, j in regions if not state[i, j] & STATE_FLAGS[part]]
    if missing:
        raise StoreIncompleteError(
            f"no {part} in {len(missing)} regions, the first {missing[0]}",
            where=ds.encoding.get("source"),
            remedy="Write that part of them first",
        )
