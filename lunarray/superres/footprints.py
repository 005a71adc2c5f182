"""Footprints of an X-ray spectrometer: reading them, checking them, and dividing them into cells."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import (
    InputError,
    LunarrayWarning,
    ProductFormatError,
    require_choice,
    require_number,
)
from lunarray.readers import reads
from lunarray.typing import typed
from lunarray.units import WEIGHT

if TYPE_CHECKING:
    from lunarray.superres.grid import GIBGrid

__all__ = ["as_footprints", "footprint_cells", "read_class_tracks", "touched_regions"]

#: Cells of 12.5 km in a footprint of 100 km.
CELLS = 8

_UNCERTAINTIES = {"total": "TOT", "fit": "FIT", "systematic": "SYS"}
_COLUMNS = ("Mg", "Al", "Si", "Fe")


@typed
@reads
def read_class_tracks(
    path: str | os.PathLike[str],
    *,
    uncertainty: Literal["total", "fit", "systematic"] = "total",
    errors: Literal["raise", "skip"] = "raise",
) -> xr.Dataset:
    """Read a CLASS level-2 table of tracks.

    Parameters
    ----------
    path : path
        Text with commas: ``V0_LATITUDE`` … ``V3_LONGITUDE`` (degrees), and for Mg, Al, Si and Fe ``…_WT`` (wt%),
        ``…_FIT_UNC``, ``…_SYS_UNC``, ``…_TOT_UNC``.
    uncertainty : {"total", "fit", "systematic"}
        Which becomes ``abundance_std``. Overlapping tracks are averaged as if it were independent, which the
        systematic part is not; the total one weighs tracks rather than claims their mean's accuracy.
    errors : {"raise", "skip"}
        What is done about rows that are no footprint (corners that coincide, missing or negative numbers). "skip"
        warns, and records how many in ``attrs["skipped_rows"]``.

    Returns
    -------
    Dataset
        In memory, dims (footprint, corner, element): ``corner_lat``, ``corner_lon`` (degrees), ``abundance``,
        ``abundance_std`` (wt%), float64; coordinate ``row`` (footprint), the row of the file, from 0.

    Raises
    ------
    ProductFormatError
        If the file is not such a table.
    InputError
        If a row is no footprint.
    """
    import pandas as pd

    path = Path(path)
    require_choice("uncertainty", uncertainty, _UNCERTAINTIES)
    kind = _UNCERTAINTIES[uncertainty]
    try:
        frame = pd.read_csv(path, skipinitialspace=True)
    except OSError as error:
        raise ProductFormatError(
            f"the table cannot be read ({error.strerror or error})", where=path, remedy="Check the path"
        ) from error  # fmt: skip
    except ValueError as error:
        raise ProductFormatError(
            "no table with commas", where=path, remedy="Give a CLASS level-2 table as .csv"
        ) from error
    frame.columns = [str(c).strip() for c in frame.columns]
    corners = {axis: [f"V{k}_{axis}" for k in range(4)] for axis in ("LATITUDE", "LONGITUDE")}
    values = [f"{e.upper()}_WT" for e in _COLUMNS]
    sigmas = [f"{e.upper()}_{kind}_UNC" for e in _COLUMNS]
    needed = [*corners["LATITUDE"], *corners["LONGITUDE"], *values, *sigmas]
    missing = [c for c in needed if c not in frame]
    if missing:
        raise ProductFormatError(
            f"no columns {', '.join(missing)}", where=path, remedy="Give a CLASS level-2 table"
        )

    def numbers(columns: list[str]) -> np.ndarray:
        return frame[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)

    ds = xr.Dataset(
        {
            "corner_lat": (("footprint", "corner"), numbers(corners["LATITUDE"])),
            "corner_lon": (("footprint", "corner"), numbers(corners["LONGITUDE"])),
            "abundance": (("footprint", "element"), numbers(values)),
            "abundance_std": (("footprint", "element"), numbers(sigmas)),
        },
        {"element": list(_COLUMNS), "row": ("footprint", np.arange(len(frame)))},
        {"source": path.name},
    )
    return as_footprints(ds, errors=errors)


@typed
def as_footprints(ds: xr.Dataset, *, errors: Literal["raise", "skip"] = "raise") -> xr.Dataset:
    """Bring footprints with abundances into one shape, and check them.

    Parameters
    ----------
    ds : Dataset
        ``corner_lat``, ``corner_lon`` (footprint or time, corner), four corners in order around each; ``abundance``
        and, if known, ``abundance_std`` (footprint or time, element), such as :func:`read_class_tracks` and
        :func:`lunarray.xrf.fit_elements` give. It is computed.
    errors : {"raise", "skip"}
        What is done about a footprint without all of its corners, beyond ±90° of latitude, of no area, longer than 40°
        (1200 km) or with corners out of order; without any abundance (as fits that failed), or with one that is
        negative or above 100 wt%, or an error that is not positive. "skip" leaves it out, warns, and records how many
        in ``attrs["skipped_rows"]``.

    Returns
    -------
    Dataset
        In memory, float64: ``corner_lat``, ``corner_lon`` (footprint, corner; degrees), ``abundance``,
        ``abundance_std`` (footprint, element; wt%, NaN where not known), and ``time`` (footprint) where it was there.

    Raises
    ------
    InputError
        If a variable is missing or has other dimensions, or, with ``errors="raise"``, a footprint is bad.
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
    ordered = (turns > -1e-12).all(axis=1) | (turns < 1e-12).all(axis=1)
    note(good & ~ordered, "corners out of order, or a re-entrant one")
    note(~known.any(axis=1), "no abundance")
    note(np.isinf(value).any(axis=1), "an infinite abundance")
    note((value < 0).any(axis=1), "a negative abundance")
    note((value > 100).any(axis=1), "an abundance above 100 wt%")
    wrong = known & ~np.isnan(std) & ~((std > 0) & np.isfinite(std))
    note(wrong.any(axis=1), "an error that is not positive")
    return out


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
