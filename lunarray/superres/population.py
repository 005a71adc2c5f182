"""Population: what is known from footprints goes to the pixels of the Global Information Bank."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from lunarray.errors import (
    InputError,
    StoreConflictError,
    StoreError,
    require_choice,
    require_number,
)
from lunarray.store.locks import WriteLock
from lunarray.store.transaction import real, sync_folders
from lunarray.superres.footprints import (
    CELLS,
    as_footprints,
    cell_pixels,
    pixel_regions,
)
from lunarray.superres.gib import open_gib, require_parts, write_population
from lunarray.superres.gib_layout import (
    POPULATION,
    SPATIAL,
    grid_of,
    meta_lock,
    meta_of,
    open_root,
    read_states,
    update_meta,
)
from lunarray.superres.gib_table import append_footprints, footprint_batches, gib_footprints
from lunarray.superres.grid import GIBGrid
from lunarray.xrf import HIGHLAND, MARE

__all__ = ["Populated", "populate", "population_loss", "split_abundances"]

#: The paper's descent: epochs, λ and μ. It gives no learning rate; this one converges for any |A| below 100 wt%.
EPOCHS, LAMBDA, MU, RATE = 80, 1.0, 2.0, 1e-4

#: Mean abundances of mare and of highland, wt%.
EXPECTED = [list(MARE.values()), list(HIGHLAND.values())]

#: How much of the expected contrast of mare and highland is taken to be between cells of one footprint. Means of Lunar
#: Prospector and of CLASS differ by 0.8 of it; within a hundred kilometres of a shore, by where albedo draws it, about
#: half of that is left. A smaller share than the true one is always better than none.
CONTRAST = 0.3

Method = Literal["contrast", "exact", "lagrangian"]
#: Those of the paper.
Paper = Literal["exact", "lagrangian"]


@dataclass(frozen=True)
class Populated:
    """What a population did.

    `footprints` are the rows of the table afterwards. Of those that were given, `added` are new, `known` were in the
    table already, and `outside` were left out, because no cell lies on the grid. `regions` (int, int) were populated
    anew: an update has to train their models again.
    """

    footprints: int
    added: int
    known: int
    outside: int
    regions: tuple[tuple[int, int], ...]


def split_abundances(
    abundance: Any,
    classes: Any,
    *,
    expected: Any = None,
    method: Paper = "exact",
    epochs: int = EPOCHS,
    lam: float = LAMBDA,
    mu: float = MU,
    rate: float = RATE,
) -> np.ndarray:
    """Weights B (footprint, cell) float64 of the paper's division over the cells of footprints: C_i = A b_i.

    A, `abundance` (footprint, element), is in wt%, not negative; NaN where an element is not known, and sums run over
    the known ones. `classes` (footprint, cell) are what lies at the centre of each cell: 1 mare, 2 highland, 0 not
    known, of which no deviation from A is expected. Ã, `expected` (2, element), are the means of mare and of highland,
    wt%; by default those of all eight elements in the order of ``lunarray.xrf.ELEMENTS``.

    "exact" minimises Loss(B) = Σ ‖A b_i − Ã_i‖² under mean(C) = A and C ≥ 0, in closed form: the projection of
    t_i = A·Ã_i / A·A on the simplex Σ b = number of cells, b ≥ 0. "lagrangian" is the paper's descent (section IV.B,
    step 2), which meets the constraints only about: `epochs` steps from `lam` for all λ and `mu` for all μ, at a
    learning `rate` that the paper does not give. InputError if shapes do not fit, or an abundance is negative.
    """
    from lunarray.superres.population_kernels import exact_weights, lagrangian_weights

    require_choice("method", method, get_args(Paper))
    abundance = np.ascontiguousarray(abundance, np.float64)
    classes = np.ascontiguousarray(classes)
    expected = np.ascontiguousarray(EXPECTED if expected is None else expected, np.float64)
    fits = abundance.ndim == classes.ndim == expected.ndim == 2
    if not fits or len(abundance) != len(classes) or expected.shape != (2, abundance.shape[1]):
        raise InputError(
            f"abundances {abundance.shape}, classes {classes.shape}, expected {expected.shape}",
            where="split_abundances",
            remedy="Give (footprint, element), (footprint, cell) and (2, element)",
        )
    if not np.isin(classes, (0, 1, 2)).all():
        raise InputError(
            "classes other than 0, 1 and 2", where="split_abundances", remedy="Give those of mare"
        )
    if (abundance < 0).any() or np.isinf(abundance).any():
        raise InputError(
            "negative or infinite abundances", where="split_abundances", remedy="Mask them with NaN"
        )
    classes = classes.astype(np.uint8)
    if method == "exact":
        return exact_weights(abundance, classes, expected)
    return lagrangian_weights(
        abundance, classes, expected, int(epochs), float(lam), float(mu), float(rate)
    )


@dataclass(frozen=True)
class Division:
    """What the cells of footprints hold: A + (b − 1) D, wt%.

    `abundance` and `std` (footprint, element) are A and its error, `weights` (footprint, cell) b, `direction`
    (footprint, element) D. `closed`: where all elements are known they sum to 100 wt%.
    """

    abundance: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    direction: np.ndarray
    closed: bool


def divide_footprints(
    abundance: np.ndarray,
    std: np.ndarray,
    classes: np.ndarray,
    elements: Sequence[str],
    *,
    expected: Any = None,
    method: Method = "contrast",
) -> Division:
    """Divide abundances and errors (footprint, element; wt%) over cells (footprint, cell) of known classes.

    "contrast" closes footprints of all eight `elements` at 100 wt%, lets mare and highland within a footprint differ by
    :data:`CONTRAST` of what is `expected` (2, element), by less where a cell would become negative, and leaves the mean
    of the cells what it is. The others are those of :func:`split_abundances`, as they are.
    """
    from lunarray.superres.population_kernels import close, contrasts

    if method != "contrast":
        weights = split_abundances(abundance, classes, expected=expected, method=method)
        return Division(abundance, std, weights, abundance, False)
    mare, highland = np.asarray(EXPECTED if expected is None else expected, np.float64)
    abundance, std = (np.array(v, np.float64) for v in (abundance, std))
    whole = set(elements) == set(MARE)
    if whole:
        close(abundance, std, 100.0)
    contrast = CONTRAST * (mare - highland)
    place, direction = contrasts(abundance, classes.astype(np.uint8), contrast, whole)
    return Division(abundance, std, 1 + place, direction, whole)


def population_loss(
    abundance: Any, classes: Any, weights: Any, *, expected: Any = None
) -> np.ndarray:
    """Loss(B) = ‖A·B − D‖²_F of each footprint, (footprint,) in (wt%)²: how far its cells are from what is expected.

    Of the arguments of :func:`split_abundances`, and the `weights` B (footprint, cell).
    """
    a = np.asarray(abundance, np.float64)
    table = np.asarray(EXPECTED if expected is None else expected, np.float64)
    classes = np.asarray(classes)
    wanted = np.where((classes > 0)[..., None], table[np.maximum(classes, 1) - 1], a[:, None, :])
    gap = a[:, None, :] * np.asarray(weights, np.float64)[..., None] - wanted
    return np.nansum(gap**2, axis=(1, 2))


def populate(
    path: str | os.PathLike[str],
    footprints: xr.Dataset | None = None,
    *,
    expected: Mapping[str, Mapping[str, float]] | None = None,
    method: Method | None = None,
    cells: int = CELLS,
    errors: Literal["raise", "skip"] = "raise",
    outside: Literal["raise", "skip"] = "raise",
    progress: bool | None = None,
) -> Populated:
    """Put the abundances of footprints on the pixels of a Global Information Bank; add further footprints later.

    Each footprint divides into cells along its track, and the abundance of each cell goes to the pixel at its centre.
    What several say of a pixel is averaged with inverse variances as weights, and errors as if they were independent.
    The store keeps the table of footprints: new ones go behind it, and only the regions that they touch are populated
    anew, from all footprints in their order, to the bit as if it were started over. Footprints that the table has
    already, to the last digit, are left out, so that an interrupted call is completed by the same call.

    Parameters
    ----------
    path : path
        Of :func:`lunarray.superres.create_gib`. The mare class must be there in all regions that footprints touch.
    footprints : Dataset, optional
        As :func:`lunarray.superres.as_footprints` takes them. Elements of the store that they lack stay unknown. None
        completes an interrupted population, and does again what later mare classes made out of date.
    expected : mapping, optional
        ``{"mare": {"Fe": ...}, "highland": {...}}``: Ã in wt%, for every element of the store. By default
        ``lunarray.xrf.MARE`` and ``HIGHLAND``. The first population fixes it, with `method` and `cells`.
    method : {"contrast", "exact", "lagrangian"}, optional
        How a footprint divides; by default as before in this store, or by "contrast": all eight elements are closed at
        100 wt%, and mare and highland differ by a part of what is expected. The others are the paper's: multiples of
        the footprint's composition, which come nearest to what is expected, but no nearer to the truth.
    cells : int
        Cells of a footprint.
    errors : {"raise", "skip"}
        What is done about bad footprints.
    outside : {"raise", "skip"}
        What is done about footprints of which no cell lies on the grid. Of those that lie on it partly, the cells that
        do are used; nothing is expected of the others.
    progress : bool, optional
        Show a progress bar; by default where standard error is a terminal.

    Returns
    -------
    Populated
        With the regions that were done anew.

    Raises
    ------
    InputError
        If footprints are bad or outside of the grid, or have elements that the store has not. Nothing is written then.
    StoreIncompleteError
        If a region that they touch has no mare class. Nothing is written then.
    StoreConflictError
        If the store was populated in another way before.
    StoreLockedError
        If another process is populating it.
    StoreError
        If it cannot be written; the same call completes it.

    References
    ----------
    Lunar elemental analysis and mapping of CLASS data, section IV.B, step 2 (abundance population).

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid)
    >>> done = sr.fill_features("bank.zarr", maps={"albedo": la.sample("albedo")})
    >>> done = sr.classify_mare("bank.zarr", albedo=la.sample("albedo"))
    >>> done = sr.populate("bank.zarr", la.sample("tracks"), outside="skip")
    >>> done.footprints
    133
    """
    path = real(path)
    meta_of(path)
    # What is in the table decides what is done: nobody may add to it meanwhile.
    with WriteLock(path):
        meta = meta_of(path)
        grid = grid_of(meta)
        recipe = _recipe(meta, expected, method, cells, default=footprints is None, where=path)
        table: xr.Dataset = gib_footprints(path, incomplete=True)
        whole = table
        added = known = beyond = 0
        if footprints is not None:
            new = _on_elements(as_footprints(footprints, errors=errors), meta["elements"])
            inside = _on_grid(new, grid, recipe["cells"], outside)
            beyond = int((~inside).sum())
            new = new.isel(footprint=inside)
            fresh = _unknown_rows(table, new)
            known = int((~fresh).sum())
            new = new.isel(footprint=fresh)
            added = new.sizes["footprint"]
            if added:
                whole = xr.concat([table, new], "footprint", data_vars="minimal")
        pixel = cell_pixels(whole, grid, recipe["cells"])
        regions = _pending(path, grid, pixel)
        ds = open_gib(path, incomplete=True)
        # A footprint divides by the class of all of its cells, so that regions beside those pending count too.
        needed = pixel_regions(pixel[_rows_in(pixel, grid, regions)], grid)
        require_parts(ds, needed, "mare")
        # All that can be wrong is known by now: nothing has been written yet.
        with _populating(path, meta, recipe if added else None, bool(added or regions)):
            if added:
                append_footprints(path, new)
            work = (regions, needed, ds, progress)
            done = _populate_regions(path, grid, whole, pixel, recipe, *work)
        return Populated(whole.sizes["footprint"], added, known, beyond, tuple(done))


@contextmanager
def _populating(path: Path, meta: Any, recipe: Any, needed: bool) -> Iterator[None]:
    """Let a bank say, until all is there, that it is neither what it was nor what it will be."""
    with meta_lock(path):
        pass  # that of a dead writer goes, also where there is nothing to say
    if needed:
        update_meta(path, populating=True, population=recipe or meta["population"])
    yield
    if needed or meta["populating"]:
        sync_folders(path)
        update_meta(path, populating=None)


def _recipe(
    meta: dict[str, Any],
    expected: Mapping[str, Mapping[str, float]] | None,
    method: Method | None,
    cells: int,
    *,
    default: bool,
    where: Path,
) -> dict[str, Any]:
    require_choice("method", method or "contrast", get_args(Method))
    require_number("cells", cells, 1, whole=True)
    # A recipe without footprints binds nobody: their writing failed.
    there = meta["population"] if footprint_batches(where) else None
    if default and there is not None:
        return there
    given = expected or {"mare": MARE, "highland": HIGHLAND}
    table = {}
    for kind in ("mare", "highland"):
        own = given.get(kind, {})
        lacking = [e for e in meta["elements"] if not np.isfinite(own.get(e, np.nan))]
        if lacking:
            raise InputError(
                f"nothing is expected of {', '.join(lacking)} in {kind}",
                where="expected",
                remedy="Give every element of the store, in wt%",
            )
        table[kind] = {e: float(own[e]) for e in meta["elements"]}
    method = method or (there or {}).get("method", "contrast")
    recipe = {"method": method, "cells": int(cells), "expected": table}
    if there is not None and there != recipe:
        odd = [k for k in recipe if recipe[k] != there.get(k)]
        raise StoreConflictError(
            f"the store was populated with another {' and another '.join(odd)}",
            where=where,
            remedy="Populate it in the same way, or make another store",
        )
    return recipe


def _on_grid(footprints: xr.Dataset, grid: GIBGrid, cells: int, outside: str) -> np.ndarray:
    """Which footprints have a cell on the grid."""
    inside = np.asarray((cell_pixels(footprints, grid, cells) >= 0).any(axis=1))
    if outside == "raise" and not inside.all():
        raise InputError(
            f"{int((~inside).sum())} of {inside.size} footprints lie outside of the grid {grid.extent}; the first is "
            f"number {np.flatnonzero(~inside)[0]}",
            where="footprints",
            remedy="Select those that lie on it, or give outside='skip'",
        )
    return inside


def _on_elements(footprints: xr.Dataset, elements: list[str]) -> xr.Dataset:
    odd = [str(e) for e in footprints["element"].values if e not in elements]
    if odd:
        raise InputError(
            f"elements {', '.join(odd)} are not in the store",
            where="footprints",
            remedy=f"Select from {', '.join(elements)} first: footprints.sel(element=[...])",
        )
    out = footprints.reindex(element=elements)
    time = np.full(out.sizes["footprint"], np.datetime64("NaT", "ns"))
    if "time" in out.coords:
        time = out["time"].values.astype("M8[ns]")
    names = ["corner_lat", "corner_lon", "abundance", "abundance_std"]
    return out[names].reset_coords(drop=True).assign(time=("footprint", time))


def _keys(table: xr.Dataset) -> np.ndarray:
    parts = [table[n].values for n in ("corner_lat", "corner_lon", "abundance", "abundance_std")]
    # Adding zero makes -0 the same as 0.
    numbers = np.concatenate([np.asarray(p, np.float64) + 0.0 for p in parts], axis=1)
    numbers[np.isnan(numbers)] = -1e300
    time = table["time"].values.astype("M8[ns]").view("i8").astype(np.float64)
    both = np.ascontiguousarray(np.column_stack([numbers, time]))
    return both.view(np.dtype((np.void, both.dtype.itemsize * both.shape[1]))).ravel()


def _unknown_rows(table: xr.Dataset, new: xr.Dataset) -> np.ndarray:
    """Which of the new footprints the table has not, each once."""
    keys = _keys(new)
    first = np.zeros(keys.size, bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first & ~np.isin(keys, _keys(table))


def _rows_in(pixel: np.ndarray, grid: GIBGrid, regions: list[tuple[int, int]]) -> np.ndarray:
    wanted = np.zeros(grid.regions, bool)
    for region in regions:
        wanted[region] = True
    return (wanted.ravel()[grid.region_index(np.maximum(pixel, 0))] & (pixel >= 0)).any(axis=1)


def _pending(path: Path, grid: GIBGrid, pixel: np.ndarray) -> list[tuple[int, int]]:
    """Regions that footprints touch which they do not take account of yet."""
    populated = read_states(open_root(path, "r"), "populated")
    touched = np.maximum(populated, 0).ravel()
    latest = np.zeros(touched.size, np.int64)
    rows = np.broadcast_to(np.arange(len(pixel))[:, None] + 1, pixel.shape)
    on = pixel >= 0
    np.maximum.at(latest, grid.region_index(pixel[on]), rows[on])
    # Begun and not completed (-1) with footprints in it counts as done with none of them.
    return grid.regions_at(np.flatnonzero(latest > touched))


def _populate_regions(
    path: Path,
    grid: GIBGrid,
    table: xr.Dataset,
    pixel: np.ndarray,
    recipe: dict[str, Any],
    regions: list[tuple[int, int]],
    needed: list[tuple[int, int]],
    ds: xr.Dataset,
    progress: bool | None,
) -> list[tuple[int, int]]:
    from lunarray.engine import progress_bar

    total = table.sizes["footprint"]
    involved = np.flatnonzero(_rows_in(pixel, grid, regions))
    own_pixel = pixel[involved]
    classes = _classes(ds, grid, own_pixel, needed)
    elements = [str(e) for e in table["element"].values]
    expected = [[recipe["expected"][kind][e] for e in elements] for kind in ("mare", "highland")]
    abundance, std = (
        np.ascontiguousarray(table[name].values[involved], np.float64)
        for name in ("abundance", "abundance_std")
    )
    how = {"expected": expected, "method": recipe["method"]}
    division = divide_footprints(abundance, std, classes, elements, **how)
    root = open_root(path, "r+")
    hits = populate_pixels(own_pixel, division)
    at = grid.region_index(hits["pixel"])
    try:
        with progress_bar(f"Populating {path.name}", len(regions), show=progress) as step:
            for region in regions:
                own = at == region[0] * grid.regions[1] + region[1]
                arrays = _dense(grid, region, {k: v[own] for k, v in hits.items()}, involved)
                write_population(root, path, grid, region, arrays, rows_of_table=total)
                step()
    except OSError as error:
        raise StoreError(
            f"populating stopped ({error.strerror or error})",
            where=path,
            remedy="Mend the cause and populate again: it goes on where it stopped",
        ) from error
    return regions


def _classes(
    ds: xr.Dataset, grid: GIBGrid, pixel: np.ndarray, needed: list[tuple[int, int]]
) -> np.ndarray:
    """Mare class at the cells, read region by region."""
    out = np.zeros(pixel.shape, np.uint8)
    index = np.where(pixel >= 0, grid.region_index(np.maximum(pixel, 0)), -1)
    for i, j in needed:
        rows, columns = grid.slices(i, j)
        mare = ds["mare"].isel(lat=rows, lon=columns).values
        own = index == i * grid.regions[1] + j
        row, column = pixel[own] // grid.size[1], pixel[own] % grid.size[1]
        out[own] = mare[row - rows.start, column - columns.start]
    return out


def populate_pixels(pixel: np.ndarray, division: Division) -> dict[str, np.ndarray]:
    """Combine the cells of footprints on the pixels that they fall on.

    `pixel` (footprint, cell) int64: of each cell; -1 for none; `division`: what they hold. Returns ``pixel`` (m,),
    ``abundance`` and ``abundance_std`` (m, element) float32, ``count`` (m,) uint16, ``provenance`` (m,) int32, the row
    of the footprint that weighs most.
    """
    from lunarray.superres.population_kernels import close, combine_cells, sort_cells

    flat = np.ascontiguousarray(pixel).ravel()
    parts = (division.weights, division.abundance, division.std, division.direction)
    # In the footprints' order on each pixel: sums do not depend on what else is populated.
    found = combine_cells(
        flat, sort_cells(flat), *(np.ascontiguousarray(p, np.float64) for p in parts)
    )
    names = ("pixel", "abundance", "abundance_std", "count", "provenance")
    hits = dict(zip(names, found, strict=True))
    several = hits["count"] > 1
    if division.closed and several.any():
        # Elements of unlike errors weigh footprints unlike: their means do not sum as the footprints do.
        mean, error = (hits[n][several].astype(np.float64) for n in names[1:3])
        close(mean, error, 100.0)
        hits["abundance"][several], hits["abundance_std"][several] = mean, error
    return hits


def _dense(
    grid: GIBGrid, region: tuple[int, int], hits: dict[str, np.ndarray], rows_of: np.ndarray
) -> dict[str, np.ndarray]:
    rows, columns = grid.slices(*region)
    row, column = hits["pixel"] // grid.size[1] - rows.start, hits["pixel"] % grid.size[1] - columns.start  # fmt: skip
    own = hits | {"provenance": rows_of[hits["provenance"]]}
    out = {}
    for name in POPULATION:
        dtype, _, fill = SPATIAL[name]
        out[name] = np.full((*own[name].shape[:0:-1], *grid.shape), fill, dtype)
        out[name][..., row, column] = own[name].T
    return out
