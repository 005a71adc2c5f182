"""Reading the tables of abundances that Lunar Prospector's gamma-ray spectrometer gave."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, ProductFormatError
from lunarray.geo import wrap_longitude
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.units import WEIGHT

__all__ = ["open_lunar_prospector"]

#: What a row holds after the cell's number and bounds, in its order: unit and factor from what is stored.
SPECIES = {
    **dict.fromkeys(("MgO", "Al2O3", "SiO2", "CaO", "TiO2", "FeO"), (WEIGHT, 100.0)),
    **dict.fromkeys(("K", "Th", "U"), ("ug g-1", 1.0)),
}
_FIRST = 7
#: Of the error matrix, by rows, what is on and above its diagonal.
_UPPER = np.triu_indices(len(SPECIES))
_COLUMNS = _FIRST + len(SPECIES) + len(_UPPER[0])
_REMEDY = "Give lpgrs_high1_elem_abundance_5deg.tab, _2deg.tab or _20deg.tab as the PDS has them"


@typed
def open_lunar_prospector(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a table of Lunar Prospector's element abundances, such as ``lpgrs_high1_elem_abundance_5deg.tab``.

    Parameters
    ----------
    path : path
        The table (of cells of 2°, 5° or 20°, all of about one area), or the ``.lbl`` beside it.

    Returns
    -------
    xarray.Dataset
        In memory, float64, along ``cell``: oxides ``MgO``, ``Al2O3``, ``SiO2``, ``CaO``, ``TiO2``, ``FeO`` (wt% of the
        oxide) and elements ``K``, ``Th``, ``U`` (µg/g), each with its standard deviation, ``MgO_std``;
        ``covariance`` (cell, species, species_2), the error matrix, in products of these units; ``atomic_mass``, the
        mean (g/mol), and ``neutron_density``, as tabled. Coordinates: ``lat``, ``lon``, the middle (degrees, lon in
        [-180, 180)); ``lat_bounds``, ``lon_bounds`` (cell, bound); ``corner_lat``, ``corner_lon`` (cell, corner), in
        order around the cell, as footprints have them.

    Raises
    ------
    InputError
        If there is no such file.
    ProductFormatError
        If it is not such a table.

    Notes
    -----
    The instrument saw some 150 km at once, so that cells of 2° are not independent; the authors checked Fe, Ti, K and
    Th at 2°, the others at 5° only. The errors are statistical. Edges of a cell are parallels and meridians, those of
    footprints great circles; the two polar cells are whole caps, of which the corners span the largest square. What
    is exact are the bounds: :func:`lunarray.maps.rasterize_cells` and :func:`lunarray.maps.cells_at` go by them.

    References
    ----------
    Prettyman, T. H., et al., 2006. Elemental composition of the lunar surface: Analysis of gamma ray spectroscopy data
    from Lunar Prospector. Journal of Geophysical Research 111, E12007.

    Examples
    --------
    >>> cells = open_lunar_prospector("lpgrs_high1_elem_abundance_5deg.tab")  # doctest: +SKIP
    >>> cells.lunar.rasterize_cells(resolution=0.5).FeO  # doctest: +SKIP
    """
    path = _table_path(path)
    table = _rows(path)
    lat_bounds, lon_bounds = table[:, 1:3], table[:, 3:5]
    scale = np.array([factor for _, factor in SPECIES.values()])
    covariance = np.empty((len(table), scale.size, scale.size))
    covariance[:, _UPPER[0], _UPPER[1]] = table[:, _FIRST + scale.size :]
    covariance[:, _UPPER[1], _UPPER[0]] = table[:, _FIRST + scale.size :]
    covariance *= scale[:, None] * scale
    variables: dict[str, Any] = {}
    for k, (name, (units, factor)) in enumerate(SPECIES.items()):
        what = f"abundance of {name}"
        std = np.sqrt(covariance[:, k, k])
        attrs = {"units": units, "long_name": what}
        variables[name] = ("cell", table[:, _FIRST + k] * factor, attrs)
        variables[f"{name}_std"] = (
            "cell",
            std,
            attrs | {"long_name": f"standard deviation of the {what}"},
        )
    variables["covariance"] = (
        ("cell", "species", "species_2"),
        covariance,
        {"units": "1", "long_name": "error matrix", "comment": "in products of the species' units"},
    )
    variables["atomic_mass"] = (
        "cell",
        table[:, 5],
        {"units": "g mol-1", "long_name": "mean atomic mass"},
    )
    variables["neutron_density"] = (
        "cell",
        table[:, 6],
        {"long_name": "neutron number density", "comment": "in the unit of the table"},
    )
    ds = xr.Dataset(variables, _coordinates(lat_bounds, lon_bounds))
    number = ("cell", table[:, 0].astype("i8"), {"long_name": "number of the cell in the table"})
    ds = ds.assign_coords(species=list(SPECIES), species_2=list(SPECIES), number=number)
    ds.attrs = {
        "mission": "Lunar Prospector",
        "instrument": "Gamma-Ray Spectrometer",
        "processing_level": "elemental abundances",
        "title": f"Lunar Prospector elemental abundances, {len(table)} cells",
    }
    return stamp(
        ds, f"open_lunar_prospector, {len(table)} cells", source=f"Lunar Prospector, {path.name}"
    )


def _table_path(path: str | os.PathLike[str]) -> Path:
    path = Path(os.path.expanduser(os.fspath(path)))
    if path.suffix.lower() in (".lbl", ".xml"):
        beside = [path.with_suffix(s) for s in (".tab", ".TAB")]
        path = next((p for p in beside if p.exists()), beside[0])
    if not path.is_file():
        raise InputError("no such file", where=path, remedy="Check the path")
    return path


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as such a table does, by its first line."""
    try:
        with open(path, "rb") as stream:
            first = stream.readline(2048).split()
        return len(first) == _COLUMNS and all(np.isfinite([float(v) for v in first]))
    except (OSError, ValueError):
        return False


def _rows(path: Path) -> np.ndarray:
    """The rows of the table (cell, column), checked."""
    try:
        with open(path, encoding="ascii") as stream:
            lines = [line for line in stream if line.strip()]
        table = np.loadtxt(lines, dtype=np.float64, ndmin=2) if lines else np.empty((0, 0))
    except (OSError, ValueError) as error:
        # loadtxt says in its own words which row is at fault.
        raise ProductFormatError(
            f"no table of numbers ({error})", where=path, remedy=_REMEDY
        ) from error
    if not table.size or table.shape[1] != _COLUMNS:
        raise ProductFormatError(
            f"{table.shape[1] if table.size else 0} columns, not {_COLUMNS}",
            where=path,
            remedy=_REMEDY,
        )
    low, high = table[:, 1:3].T
    west, east = table[:, 3:5].T
    wrong = ~(
        (low >= -90) & (low < high) & (high <= 90) & (west >= -180) & (west < east) & (east <= 540)
    )
    wrong |= ~np.isfinite(table).all(axis=1)
    if wrong.any():
        raise ProductFormatError(
            f"row {int(np.argmax(wrong)) + 1} is no cell with abundances",
            where=path,
            remedy=_REMEDY,
        )
    area = np.deg2rad(east - west) * (np.sin(np.deg2rad(high)) - np.sin(np.deg2rad(low)))
    share = area.sum() / (4 * np.pi)
    if abs(share - 1) > 1e-3:
        raise ProductFormatError(
            f"its {len(table)} cells cover {100 * share:.3g} % of the Moon",
            where=path,
            remedy="Fetch the table again",
        )
    if (table[:, _FIRST + len(SPECIES) :][:, _UPPER[0] == _UPPER[1]] < 0).any():
        raise ProductFormatError("an error squared is negative", where=path, remedy=_REMEDY)
    return table


def _coordinates(lat_bounds: np.ndarray, lon_bounds: np.ndarray) -> dict[str, Any]:
    cap = lon_bounds[:, 1] - lon_bounds[:, 0] >= 360.0
    low, high = lat_bounds.T
    west, east = lon_bounds.T
    corner_lat = np.stack([low, low, high, high], axis=1)
    corner_lon = np.stack([west, east, east, west], axis=1)
    edge = np.where(np.abs(low) < np.abs(high), low, high)
    corner_lat[cap] = edge[cap, None]
    corner_lon[cap] = west[cap, None] + np.array([0.0, 90.0, 180.0, 270.0])
    middle = np.where(cap, np.sign(edge) * 90.0, (low + high) / 2)
    degrees = {"lat": "degrees_north", "lon": "degrees_east"}

    def described(name: str, text: str, **more: str) -> dict[str, str]:
        return {"units": degrees[name], "long_name": text, **more}

    return {
        "lat": (
            "cell",
            middle,
            described("lat", "latitude of the middle", standard_name="latitude"),
        ),
        "lon": (
            "cell",
            wrap_longitude((west + east) / 2),
            described("lon", "longitude of the middle", standard_name="longitude"),
        ),
        "lat_bounds": (
            ("cell", "bound"),
            lat_bounds,
            described("lat", "southern and northern edge"),
        ),
        "lon_bounds": (("cell", "bound"), lon_bounds, described("lon", "western and eastern edge")),
        "corner_lat": (("cell", "corner"), corner_lat, described("lat", "latitude of the corners")),
        "corner_lon": (
            ("cell", "corner"),
            wrap_longitude(corner_lon),
            described("lon", "longitude of the corners"),
        ),
    }
