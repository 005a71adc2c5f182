"""Pairs of spectra and chemistry as laboratories and missions tabulate them: a table of text, or a store."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.oxides.constants import OXIDES
from lunarray.oxides.samples import sampled_spectra
from lunarray.readers import reads
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.units import WEIGHT

#: Ends of a column's name that make it the error of an oxide.
_ERRORS = re.compile(r"[_ ](error|err|std|sd|sigma|uncertainty)$", re.IGNORECASE)
_UNITS = re.compile(r"\s*[\[(].*[\])]\s*$")
#: What a table writes where it has no number.
_MISSING = ("", "nan", "na", "n/a", "none", "null", "-", "--")
#: Brighter than this is no reflectance of soil but percent.
_BRIGHTEST = 1.5
_PLACES = {
    "lon": {"units": "degrees_east", "standard_name": "longitude"},
    "lat": {"units": "degrees_north", "standard_name": "latitude"},
}
_ALIASES = {"longitude": "lon", "latitude": "lat"}


@typed
@reads
def open_pairs(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open pairs of spectra and oxides for :func:`lunarray.oxides.train`.

    Parameters
    ----------
    path : path
        A table of text, a row for each pair, separated by commas, semicolons or tabs. Its first line names the columns:
        a wavelength in nm is reflectance (0 to 1) there; ``FeO``, ``TiO2``, ``Al2O3``, ``CaO``, ``MgO``, ``SiO2`` are
        abundances in wt%, and ``FeO_error`` and so on the standard deviations of their errors, wt%; every other column,
        such as ``sample``, ``lon`` or ``mission``, tells about the pair, and by it pairs can be left out together.
        Empty cells are missing. Or a Zarr store with ``reflectance`` (sample, wavelength) and the same names.

    Returns
    -------
    Dataset
        In memory: ``reflectance`` (sample, wavelength), the oxides (sample) and, where errors are told, ``FeO_std``
        and so on (sample), float32; everything else as coordinates along `sample`, numbers as float64.

    Raises
    ------
    InputError
        If there is no such file, or it is no table of pairs: no wavelengths or oxides among the columns, cells that
        are no numbers, wavelengths in µm, reflectance in percent, abundances that cannot be.

    Examples
    --------
    >>> pairs = open_pairs("pairs.csv")  # doctest: +SKIP
    >>> fit = train(pairs, method="gp", folds="leave-one-out", by="sample")  # doctest: +SKIP
    """
    path = Path(path)
    if path.is_dir():
        from lunarray.store import open_zarr

        ds = _of_store(open_zarr(path), str(path))
    else:
        ds = _of_table(*_rows(path), str(path))
    return stamp(
        ds, f"open_pairs, {ds.sizes['sample']} pairs", source=ds.attrs.get("source", path.name)
    )


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the cells of each row, of a table of text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise _no_table("it is not text in UTF-8", str(path)) from None
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror or error})", where=path, remedy="Check the path"
        ) from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) < 2:
        raise _no_table(f"{len(lines)} lines", str(path))
    delimiter = max(",;\t", key=lines[0].count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    names, cells = rows[0], rows[1:]
    for number, row in enumerate(cells, start=1):
        if len(row) != len(names):
            raise _no_table(
                f"row {number} has {len(row)} cells and the first line {len(names)}", str(path)
            )
    return names, cells


def _no_table(problem: str, where: str) -> InputError:
    return InputError(
        f"no table of pairs: {problem}",
        where=where,
        remedy="Give a line of names, then a row for each pair: wavelengths in nm (such as 750), "
        "FeO, TiO2, …, FeO_error, …, and what else tells about the pair (sample, lon, mission)",
    )


def _number(text: str) -> float | None:
    """The number that a cell holds, NaN where it is missing; None where it is something else."""
    if text.lower() in _MISSING:
        return np.nan
    try:
        return float(text)
    except ValueError:
        return None


def _column(name: str, cells: Sequence[str], where: str) -> np.ndarray:
    """A column of numbers."""
    values = [_number(cell) for cell in cells]
    if None in values:
        row = values.index(None)
        raise _no_table(f"{name} of row {row + 1} is {cells[row]!r}", where)
    return np.array(values, np.float64)


def _of_table(names: Sequence[str], rows: Sequence[Sequence[str]], where: str) -> xr.Dataset:
    """Sort the columns of a table by what they are."""
    bands: list[tuple[float, np.ndarray]] = []
    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for index, name in enumerate(names):
        cells = [row[index] for row in rows]
        wavelength = _number(re.sub(r"\s*nm$", "", name)) if name else None
        known = _oxide(name)
        if wavelength is not None and np.isfinite(wavelength):
            bands.append((wavelength, _column(name, cells, where)))
        elif known is not None:
            if known in variables:
                raise _no_table(f"two columns of {known}", where)
            variables[known] = _column(name, cells, where)
        elif name:
            numbers = [_number(cell) for cell in cells]
            text = None in numbers
            coords[_ALIASES.get(name.lower(), name)] = np.array(
                cells if text else numbers, object if text else np.float64
            )
    bands.sort(key=lambda pair: pair[0])
    spectra = np.array([values for _, values in bands]).T if bands else np.empty((len(rows), 0))
    return _dataset(np.array([w for w, _ in bands]), spectra, variables, coords, where)


def _oxide(name: str) -> str | None:
    """The variable that a column is: an oxide, or the error of one; None where it is something else."""
    bare = _UNITS.sub("", name)
    error = _ERRORS.search(bare)
    bare = _ERRORS.sub("", bare)
    for oxide in OXIDES:
        if bare.lower() == oxide.lower():
            return f"{oxide}_std" if error else oxide
    return None


def _of_store(ds: xr.Dataset, where: str) -> xr.Dataset:
    """The same of a store."""
    spectra = sampled_spectra(ds, where)
    variables: dict[str, Any] = {}
    for name, array in ds.data_vars.items():
        known = _oxide(str(name))
        if known is not None and array.dims == ("sample",):
            variables[known] = np.asarray(array.values, np.float64)
    rest = {str(n): c.values for n, c in ds.variables.items() if c.dims == ("sample",)}
    coords = {
        _ALIASES.get(n.lower(), n): values
        for n, values in rest.items()
        if _oxide(n) is None and n != "status"
    }
    made = _dataset(
        np.asarray(spectra["wavelength"].values, np.float64),
        np.asarray(spectra.values, np.float64),
        variables,
        coords,
        where,
    )
    if "status" in ds:
        made["status"] = ds["status"].load()
    return made.assign_attrs(ds.attrs)


def _dataset(
    wavelength: np.ndarray,
    spectra: np.ndarray,
    variables: dict[str, np.ndarray],
    coords: dict[str, np.ndarray],
    where: str,
) -> xr.Dataset:
    """Pairs as a Dataset, if they are such."""
    oxides = [oxide for oxide in OXIDES if oxide in variables]
    problem = _problem(wavelength, spectra, variables, oxides)
    if problem:
        raise _no_table(problem, where)
    told = {"wavelength": ("wavelength", wavelength, {"units": "nm", "long_name": "wavelength"})}
    for name, values in coords.items():
        told[name] = ("sample", values, _PLACES.get(name, {}))
    if "sample" in told:
        # The dimension has that name; its labels are numbers of specimens, which come more than once.
        told["specimen"] = told.pop("sample")
    ds = xr.Dataset(coords=told)
    ds["reflectance"] = (
        ("sample", "wavelength"),
        spectra.astype(np.float32),
        {"units": "1", "long_name": "reflectance"},
    )
    for oxide in oxides:
        attrs = {"units": WEIGHT, "long_name": f"{oxide} abundance"}
        ds[oxide] = ("sample", variables[oxide].astype(np.float32), attrs)
        error = variables.get(f"{oxide}_std")
        if error is not None:
            # Where no error is told, that of those for which one is.
            filled = np.where(np.isfinite(error), error, np.nanmean(error))
            text = f"standard deviation of the error of {oxide}"
            attrs = {"units": WEIGHT, "long_name": text}
            ds[f"{oxide}_std"] = ("sample", filled.astype(np.float32), attrs)
    return ds


def _problem(
    wavelength: np.ndarray,
    spectra: np.ndarray,
    variables: dict[str, np.ndarray],
    oxides: Sequence[str],
) -> str | None:
    """What cannot be of pairs, in words."""
    if wavelength.size < 2:
        return f"{wavelength.size or 'no'} wavelength{'' if wavelength.size == 1 else 's'} among the columns"
    if not oxides:
        return "no oxide among the columns"
    if wavelength.max() < 100:
        return f"wavelengths of {wavelength.min():g}-{wavelength.max():g}, which are no nm"
    if not np.all(np.diff(wavelength) > 0):
        return "a wavelength comes twice, or they do not rise"
    if np.nanmax(spectra, initial=0) > _BRIGHTEST:
        return f"reflectance of {np.nanmax(spectra):g}, which is no share of the light"
    for name, values in variables.items():
        top = 100.0
        wrong = (values < 0) | (values > top) | np.isinf(values)
        if wrong.any():
            return f"{name} of row {int(np.argmax(wrong)) + 1} is {values[np.argmax(wrong)]:g} wt%"
        if name.endswith("_std") and not np.isfinite(values).any():
            return f"no number in the errors of {name.removesuffix('_std')}"
    return None
