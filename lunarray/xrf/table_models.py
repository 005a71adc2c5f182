"""OGIP 92-009 table models: how XSPEC takes spectra that were computed elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, ProductFormatError
from lunarray.readers import reads
from lunarray.store.provenance import stamp
from lunarray.xrf.fits import find_table, open_fits

__all__ = ["read_table_model", "write_table_model"]


@reads
def read_table_model(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read an additive XSPEC table model (OGIP 92-009).

    Returns ``flux`` (one dimension for each interpolated parameter, then energy), float64, in the units of the file
    (photons/s/cm² in each bin, by the standard), on the parameters' tabulated values and ``energy`` (keV, centre of the
    bin) with ``energy_lo``, ``energy_hi``. Additional parameters give ``flux_<name>``. Attributes: ``model_name``, and
    ``initial`` by parameter. Files that list more spectra than the parameters' values (as CLASS scatter models do) have
    the values taken from the spectra. ProductFormatError if it is no additive table model, or its spectra do not fill
    the grid of the parameters.
    """
    file = _read_file(path)
    names, n_energies = list(file.initial), file.lo.size
    if file.points.shape[1] != len(names) or file.spectra[""].ndim != 2:
        raise ProductFormatError(
            f"{len(names)} parameters, and spectra at {file.points.shape[1]}",
            where=path,
            remedy="Write the model again",
        )
    if file.spectra[""].shape[1] != n_energies:
        raise ProductFormatError(
            f"spectra of {file.spectra[''].shape[1]} bins on {n_energies} energies",
            where=path,
            remedy="Write the model again",
        )
    axes, index = [], []
    for column in file.points.T:
        axes.append(np.unique(column))
        index.append(np.searchsorted(axes[-1], column))
    shape = tuple(axis.size for axis in axes)
    rows = len(file.points)
    where = np.ravel_multi_index(tuple(index), shape) if shape else np.zeros(rows, int)
    if np.unique(where).size != int(np.prod(shape)):
        raise ProductFormatError(
            "its spectra do not fill the grid of its parameters",
            where=path,
            remedy="Write it again",
        )
    attrs = {"units": file.units, "long_name": "model spectrum, integrated over each bin"}
    variables = {}
    for name, table in file.spectra.items():
        filled = np.empty((int(np.prod(shape)), n_energies))
        filled[where] = table
        values = filled.reshape(*shape, n_energies)
        variables[f"flux_{name}" if name else "flux"] = ((*names, "energy"), values, dict(attrs))
    coords: dict[str, Any] = {name: (name, axis) for name, axis in zip(names, axes, strict=True)}
    middle = (file.lo + file.hi) / 2
    coords["energy"] = ("energy", middle, {"units": "keV", "long_name": "photon energy"})
    coords["energy_lo"] = ("energy", file.lo, {"units": "keV"})
    coords["energy_hi"] = ("energy", file.hi, {"units": "keV"})
    ds = xr.Dataset(
        variables,
        coords,
        {"model_name": file.name, "redshift": file.redshift, "initial": file.initial},
    )
    return stamp(ds, "read_table_model", source=os.path.basename(os.fspath(path)))


@dataclass(frozen=True)
class _File:
    """What stands in a table model's file."""

    name: str
    units: str
    redshift: bool
    initial: dict[str, float]  # by interpolated parameter
    lo: np.ndarray
    hi: np.ndarray
    points: np.ndarray  # (spectrum, parameter)
    spectra: dict[str, np.ndarray]  # (spectrum, energy), by additional parameter; "" the main ones


def _read_file(path: str | os.PathLike[str]) -> _File:
    with open_fits(path) as hdus:
        primary = hdus[0].header
        if not primary.get("ADDMODEL", True):
            raise ProductFormatError(
                "a multiplicative table model", where=path, remedy="Only additive ones are read"
            )
        parameters = find_table(hdus, path, ("PARAMETERS",), ("NAME", "NUMBVALS", "VALUE"))
        energies = find_table(hdus, path, ("ENERGIES",), ("ENERG_LO", "ENERG_HI"))
        spectra = find_table(hdus, path, ("SPECTRA",), ("PARAMVAL", "INTPSPEC"))
        interpolated = int(parameters.header.get("NINTPARM", len(parameters.data)))
        added = int(parameters.header.get("NADDPARM", 0))
        names = [str(name).strip() for name in parameters.data["NAME"]]
        known = "INITIAL" in parameters.columns.names
        initial = parameters.data["INITIAL"] if known else np.full(len(names), np.nan)
        tables = {"": np.asarray(spectra.data["INTPSPEC"], "f8")}
        columns = {c.upper() for c in spectra.columns.names}
        for i, name in enumerate(names[interpolated : interpolated + added]):
            if f"ADDSP{i + 1:03d}" in columns:
                tables[name] = np.asarray(spectra.data[f"ADDSP{i + 1:03d}"], "f8")
        return _File(
            name=str(primary.get("MODLNAME", "")).strip(),
            units=str(primary.get("MODLUNIT", "photons/cm^2/s")).strip(),
            redshift=bool(primary.get("REDSHIFT", False)),
            initial={n: float(v) for n, v in zip(names[:interpolated], initial, strict=False)},
            lo=np.asarray(energies.data["ENERG_LO"], "f8"),
            hi=np.asarray(energies.data["ENERG_HI"], "f8"),
            points=np.asarray(spectra.data["PARAMVAL"], "f8").reshape(len(spectra.data), -1),
            spectra=tables,
        )


def write_table_model(
    ds: xr.Dataset | xr.DataArray,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an additive XSPEC table model (OGIP 92-009).

    `ds`: ``flux`` (parameters..., energy), photons/s/cm² in each bin, with ``energy_lo`` and ``energy_hi`` (keV), as
    :func:`read_table_model` gives it. Parameters must have two values at least, in increasing order; without any, a
    parameter that changes nothing is written, for XSPEC wants one; `name`: of the model, twelve characters at most; by
    default the attribute ``model_name``; `overwrite` bool: replace a file that is there. Returns what was written.
    InputError if `ds` is not such a model, or the file is there.
    """
    from astropy.io import fits

    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError("the file is there", where=path, remedy="Give overwrite=True")
    array = ds.get("flux") if isinstance(ds, xr.Dataset) else ds
    if (
        array is None
        or array.dims[-1:] != ("energy",)
        or not {"energy_lo", "energy_hi"} <= set(array.coords)
    ):
        raise InputError(
            "no flux(..., energy) with energy_lo and energy_hi",
            where="write_table_model",
            remedy="Give a Dataset like that of read_table_model",
        )
    flux = np.asarray(array.values, "f8")
    lo, hi = (np.asarray(array[key].values, "f8") for key in ("energy_lo", "energy_hi"))
    adjoin = np.all(np.abs(lo[1:] - hi[:-1]) <= 1e-6 * hi[:-1])
    if not np.all(np.isfinite(flux)) or np.any(hi <= lo) or not adjoin:
        raise InputError(
            "a flux is missing, or energy bins do not adjoin",
            where="write_table_model",
            remedy="Give finite fluxes on adjoining bins",
        )
    names = [str(dim) for dim in array.dims[:-1]]
    axes = [np.asarray(array[dim].values, "f8") for dim in names]
    if not names:
        names, axes, flux = ["none"], [np.array([0.0, 1.0])], np.stack([flux, flux])
    for dim, axis in zip(names, axes, strict=True):
        if axis.size < 2 or np.any(np.diff(axis) <= 0):
            raise InputError(
                f"parameter {dim} has {axis.size} values, not increasing or fewer than two",
                where="write_table_model",
                remedy="Give two or more increasing values",
            )
    model = (name or str(ds.attrs.get("model_name") or "lunarray"))[:12]
    primary = fits.PrimaryHDU()
    primary.header.update(
        {
            "MODLNAME": model, "MODLUNIT": "photons/cm^2/s", "REDSHIFT": bool(ds.attrs.get("redshift", False)),
            "ADDMODEL": True, **_STANDARD,
        }
    )  # fmt: skip
    initial = dict(ds.attrs.get("initial", {}))
    first = [float(initial.get(dim, axis[0])) for dim, axis in zip(names, axes, strict=True)]
    column = fits.Column
    mesh = np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")], axis=1)
    tables = [
        _parameters_table(names, axes, first),
        _table(
            "ENERGIES",
            [column("ENERG_LO", "E", "keV", array=lo), column("ENERG_HI", "E", "keV", array=hi)],
        ),
        _table(
            "SPECTRA",
            [
                column("PARAMVAL", f"{len(axes)}E", array=mesh if len(axes) > 1 else mesh[:, 0]),
                column(
                    "INTPSPEC", f"{lo.size}E", "photons/cm^2/s", array=flux.reshape(-1, lo.size)
                ),
            ],
            HDUCLAS2="MODEL SPECTRA",
        ),
    ]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fits.HDUList([primary, *tables]).writeto(temporary, overwrite=True)
    os.replace(temporary, path)
    return path


_STANDARD = {"HDUCLASS": "OGIP", "HDUCLAS1": "XSPEC TABLE MODEL", "HDUVERS": "1.0.0"}


def _table(name: str, columns: list[Any], **cards: Any) -> Any:
    from astropy.io import fits

    table = fits.BinTableHDU.from_columns(columns, name=name)
    table.header.update({**_STANDARD, "HDUCLAS2": name, **cards})
    return table


def _parameters_table(names: list[str], axes: list[np.ndarray], first: list[float]) -> Any:
    from astropy.io.fits import Column

    most = max(axis.size for axis in axes)
    padded = np.zeros((len(axes), most))
    for row, axis in zip(padded, axes, strict=True):
        row[: axis.size] = axis
    lows, highs = [axis[0] for axis in axes], [axis[-1] for axis in axes]
    return _table(
        "PARAMETERS",
        [
            Column("NAME", "12A", array=[name[:12] for name in names]),
            Column("METHOD", "J", array=np.zeros(len(axes), "i4")),
            Column("INITIAL", "E", array=np.clip(np.nan_to_num(first), lows, highs)),
            Column("DELTA", "E", array=[(b - a) / 100 for a, b in zip(lows, highs, strict=True)]),
            Column("MINIMUM", "E", array=lows),
            Column("BOTTOM", "E", array=lows),
            Column("TOP", "E", array=highs),
            Column("MAXIMUM", "E", array=highs),
            Column("NUMBVALS", "J", array=[axis.size for axis in axes]),
            Column("VALUE", f"{most}E", array=padded),
        ],
        NINTPARM=len(axes),
        NADDPARM=0,
    )
