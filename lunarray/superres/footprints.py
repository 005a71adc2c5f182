"""Footprints of an X-ray spectrometer: reading them, checking them, and dividing them into cells."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import (
    InputError,
    LunarrayWarning,
    require_choice,
    require_number,
)
from lunarray.typing import typed
from lunarray.units import WEIGHT

if TYPE_CHECKING:
    from lunarray.superres.grid import GIBGrid

__all__ = ["as_footprints", "footprint_cells", "touched_regions"]

#: Cells of 12.5 km in a footprint of 100 km.
CELLS = 8


@typed
def as_footprints(ds: xr.Dataset, *, errors: Literal["raise", "skip"] = "raise") -> xr.Dataset:
    """Bring footprints with abundances into one form, and check them.

    Parameters
    ----------
    ds : Dataset
        ``corner_lat``, ``corner_lon`` (footprint or time, corner), four corners in order around each; ``abundance``
        and, if known, ``abundance_std`` (footprint or time, element), such as :func:`read_class_tracks` and
        :func:`lunarray.xrf.fit_elements` give. It is computed. Corners that cross, as over a pole, are put in order.
    errors : {"raise", "skip"}
        What is done about a footprint without all of its corners, beyond ±90° of latitude, of no area, longer than 40°
        (1200 km) or with a re-entrant corner; without any abundance (as fits that failed), or with one that is
        negative or above 100 wt%, or a negative or infinite error. "skip" leaves it out, warns, and records how many in
        ``attrs["skipped_rows"]``.

    Returns
    -------
    Dataset
        In memory, float64: ``corner_lat``, ``corner_lon`` (footprint, corner; degrees), ``abundance``,
        ``abundance_std`` (footprint, element; wt%, NaN where not known, as where it is given as 0), and ``time``
        (footprint) where it was there.

    Raises
    ------
    InputError
        If a variable is missing or has other dimensions, or, with ``errors="raise"``, a footprint is bad.

    Examples
    --------
    >>> import lunarray as la
    >>> la.superres.as_footprints(la.sample("tracks")).sizes["footprint"]
    133
    """

    require_choice("errors", errors, ("raise", "skip"))
    if not isinstance(ds, xr.Dataset):
        raise InputError(
            f"a {type(ds).__name__}", where="as_footprints", remedy="Give a Dataset of footprints"
        )
    needed = ("corner_lat", "corner_lon", "abundance")
    absent = [name for name in needed if name not in ds.variables]
    if absent:
        raise InputError(
            f"no {', '.join(absent)}",
            where="as_footprints",
            remedy="Give footprints with corners and abundances, as fit_elements and read_class_tracks do",
        )
    row = next((d for d in ds["abundance"].dims if d != "element"), None)
    names = [name for name in (*needed, "abundance_std") if name in ds.variables]
    for name in names:
        dims = {row, "corner" if "corner" in name else "element"}
        if set(ds[name].dims) != dims or "element" not in ds.coords:
            raise InputError(
                f"dimensions {tuple(map(str, ds[name].dims))}",
                where=f"as_footprints: {name}",
                remedy="Give (footprint, corner) and (footprint, element), with the coordinate element",
            )
    if ds.sizes["corner"] != 4:
        raise InputError(
            f"{ds.sizes['corner']} corners", where="as_footprints", remedy="Give four of each"
        )
    extra = [name for name in ("time", "row") if name in ds.variables and ds[name].dims == (row,)]
    loaded = ds[[*names, *extra]].compute()
    arrays = {name: loaded[name].transpose(row, ...).values.astype(np.float64) for name in names}
    arrays.setdefault("abundance_std", np.full(arrays["abundance"].shape, np.nan))
    crossed = _put_in_order(arrays)
    if crossed:
        message = f"corners that cross are put in order, of {crossed} of {len(arrays['corner_lat'])} footprints"
        warnings.warn(LunarrayWarning(message), stacklevel=2)
    # A fit that gives no error gives 0: nothing is measured without one.
    arrays["abundance_std"][arrays["abundance_std"] == 0] = np.nan
    problems = _problems(arrays)
    good = problems == ""
    if not good.all():
        bad = np.flatnonzero(~good)
        reasons = {str(r): int((problems == r).sum()) for r in dict.fromkeys(problems[bad])}
        text = ", ".join(f"{count} × {reason}" for reason, count in reasons.items())
        if errors == "raise":
            raise InputError(
                f"{bad.size} of {good.size} footprints are bad: {text}; the first is number {bad[0]}",
                where=ds.attrs.get("source") or "footprints",
                remedy="Correct them, or leave them out with errors='skip'",
            )
        message = f"{bad.size} of {good.size} footprints left out: {text}"
        warnings.warn(LunarrayWarning(message), stacklevel=2)
    coords: dict[str, Any] = {"element": [str(e) for e in ds["element"].values]}
    for name in extra:
        coords[name] = ("footprint", loaded[name].values[good])
    attrs = {"source": ds.attrs["source"]} if "source" in ds.attrs else {}
    skipped = int(ds.attrs.get("skipped_rows", 0)) + int((~good).sum())
    if skipped:
        attrs["skipped_rows"] = skipped
    attributes = {
        "corner_lat": {"units": "degrees_north"},
        "corner_lon": {"units": "degrees_east"},
        "abundance": {"units": WEIGHT, "long_name": "abundance"},
        "abundance_std": {"units": WEIGHT, "long_name": "error of the abundance"},
    }
    variables = {
        name: (("footprint", "corner" if "corner" in name else "element"), arrays[name][good], own)
        for name, own in attributes.items()
    }
    return xr.Dataset(variables, coords, attrs)


def _problems(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """What is wrong with each footprint; an empty text where nothing is."""
    lat, lon = arrays["corner_lat"], arrays["corner_lon"]
    value, std = arrays["abundance"], arrays["abundance_std"]
    known = np.isfinite(value)
    finite = np.isfinite(lat).all(axis=1) & np.isfinite(lon).all(axis=1)
    out = np.full(len(lat), "", dtype="U60")

    def note(where: Any, text: str) -> None:
        out[where & (out == "")] = text

    note(~finite, "a corner is missing")
    note((np.abs(lat) > 90).any(axis=1), "a latitude beyond ±90°")
    note((np.abs(lon) > 720).any(axis=1), "no longitude in degrees")
    good = out == ""
    from lunarray.geo import unit_vectors

    v = unit_vectors(np.where(good[:, None], lon, 0.0), np.where(good[:, None], lat, 0.0))
    sides = np.linalg.norm(v - np.roll(v, -1, axis=1), axis=2)
    turns = _turns(v)
    note(good & ((sides.max(axis=1) == 0) | (np.abs(turns).max(axis=1) < 1e-12)), "no area")
    note(good & (sides.max(axis=1) > 2 * np.sin(np.deg2rad(20))), "longer than 40°")
    note(good & ~_ordered(v), "a re-entrant corner")
    note(~known.any(axis=1), "no abundance")
    note(np.isinf(value).any(axis=1), "an infinite abundance")
    note((value < 0).any(axis=1), "a negative abundance")
    note((value > 100).any(axis=1), "an abundance above 100 wt%")
    wrong = known & ~np.isnan(std) & ~((std > 0) & np.isfinite(std))
    note(wrong.any(axis=1), "an error that is not positive")
    return out


def _ordered(v: np.ndarray) -> np.ndarray:
    """Whether quadrilaterals bend the same way at each corner, but for a hundredth of what their sides could."""
    sides = np.linalg.norm(v - np.roll(v, -1, axis=1), axis=2)
    slack = 1e-12 + 0.01 * (sides * np.roll(sides, 1, axis=1)).max(axis=1, keepdims=True)
    turns = _turns(v)
    return (turns > -slack).all(axis=1) | (turns < slack).all(axis=1)


def _put_in_order(arrays: dict[str, np.ndarray]) -> int:
    """Order corners that cross around their footprint, as those of tracks over a pole do; how many there were."""
    from lunarray.geo import unit_vectors

    lat, lon = arrays["corner_lat"], arrays["corner_lon"]
    known = np.isfinite(lat).all(axis=1) & np.isfinite(lon).all(axis=1)
    known &= (np.abs(lat) <= 90).all(axis=1)
    v = unit_vectors(np.where(known[:, None], lon, 0.0), np.where(known[:, None], lat, 0.0))
    crossed = np.flatnonzero(known & ~_ordered(v))
    number = 0
    for k in crossed:
        middle = v[k].mean(axis=0)
        off = v[k] - middle
        east = off[0] - (off[0] @ middle) * middle / max(middle @ middle, 1e-30)
        north = np.cross(middle, east)
        order = np.argsort(np.arctan2(off @ north, off @ east) % (2 * np.pi), kind="stable")
        if _ordered(v[k][order][None])[0]:
            lat[k], lon[k] = lat[k][order], lon[k][order]
            number += 1
    return number


def _turns(v: np.ndarray) -> np.ndarray:
    """Which way, and how far, a quadrilateral on the sphere bends at each corner."""
    before, after = np.roll(v, 1, axis=1), np.roll(v, -1, axis=1)
    return np.sum(np.cross(v - before, after - v) * v, axis=2)


def footprint_cells(footprints: xr.Dataset, cells: int = CELLS) -> xr.Dataset:
    """Divide footprints into cells along their longer axis, and give their centres ``lat``, ``lon`` (footprint, cell).

    In degrees, lon in [-180, 180). Footprints across ±180° or over a pole need nothing special. The paper, section
    IV.B, step 2: 12.5 km × 100 km are 8 adjacent regions, the abundance of each concentrated at its centre.
    """
    from lunarray.superres.population_kernels import cell_centres

    require_number("cells", cells, 1)
    centre_lat, centre_lon = cell_centres(*_corners(footprints), int(cells))
    return xr.Dataset(
        {
            "lat": (("footprint", "cell"), centre_lat, {"units": "degrees_north"}),
            "lon": (("footprint", "cell"), centre_lon, {"units": "degrees_east"}),
        }
    )


def touched_regions(
    footprints: xr.Dataset, grid: GIBGrid, cells: int = CELLS
) -> list[tuple[int, int]]:
    """Regions that the cells of footprints fall in, row by row: those that an update changes."""
    return pixel_regions(cell_pixels(footprints, grid, cells), grid)


def pixel_regions(pixel: np.ndarray, grid: GIBGrid) -> list[tuple[int, int]]:
    """Regions that hold pixels, by their flat index in the grid (-1: none), row by row."""
    return grid.regions_at(np.unique(grid.region_index(pixel[pixel >= 0])))


def cell_pixels(footprints: xr.Dataset, grid: GIBGrid, cells: int = CELLS) -> np.ndarray:
    """Pixels (footprint, cell) of the centres of the footprints' cells: row times the grid's columns plus column, -1
    outside.
    """
    from lunarray.superres.population_kernels import cell_centres, pixels_of

    return pixels_of(*cell_centres(*_corners(footprints), int(cells)), *grid.extent, *grid.size)


def _corners(footprints: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    lat, lon = footprints["corner_lat"].values, footprints["corner_lon"].values
    return np.ascontiguousarray(lat, np.float64), np.ascontiguousarray(lon, np.float64)
