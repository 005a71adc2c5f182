"""netCDF files that other programs read without us, by the CF conventions."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, WrongKindError

#: What CF 1.8 has no type for, and what it is written as: the next that holds all its values.
_WIDER = {"b1": "i1", "u1": "i2", "u2": "i4", "u4": "f8", "u8": "f8", "i8": "f8", "f2": "f4"}
_CONVENTIONS = "CF-1.8"
_FLAGS = ("flag_masks", "flag_values")
#: Attributes that say how times are counted, which is ours to say.
_TIMES = ("units", "calendar", "dtype")
#: Whole numbers beyond this are not all numbers of float64.
_EXACT = 2**53


def to_netcdf(
    obj: xr.Dataset | xr.DataArray,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    institution: str | None = None,
    compress: int = 4,
) -> Path:
    """Write a netCDF-4 file that follows the CF conventions, 1.8.

    Lazy variables are computed block by block, so what is written need not fit in memory. The file is there whole, or
    not at all.

    Parameters
    ----------
    obj : Dataset or DataArray
        Anything that lunarray gives.
    path : path
        The file; ending in .nc, .nc4 or .cdf.
    title : str, optional
        What the file holds, in a line; by default from the names of its variables.
    institution : str, optional
        Where it was made.
    compress : int
        Level of zlib, 0 (none) to 9.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        For an ending that is none of netCDF's; for names and kinds of variables that netCDF does not have (a "/" in a
        name, complex numbers, objects, an index of several levels); for whole numbers beyond 2**53.
    WrongKindError
        If `obj` is no object of xarray.

    Notes
    -----
    Numbers stay as they are. Types that CF 1.8 does not know become the next wider one (uint8 becomes int16, times
    become float64 seconds since 1970, which tell a quarter of a microsecond apart), and flags keep their masks in the
    type of their variable. Attributes of a kind that netCDF does not have become text: those with parts, JSON. CF has
    no name for the equirectangular projection; maps in it carry its WKT alone.

    Examples
    --------
    >>> import lunarray as la
    >>> maps = la.sample("sp_orbit").lunar.condition().lunar.invert_oxides()
    >>> la.export.to_netcdf(maps, "oxides.nc").name
    'oxides.nc'
    """
    if not isinstance(obj, xr.Dataset | xr.DataArray):
        raise WrongKindError(
            f"a {type(obj).__name__} is no object of xarray",
            where="to_netcdf",
            remedy="Give a Dataset or a DataArray",
        )
    path = Path(path)
    if path.suffix.lower() not in (".nc", ".nc4", ".cdf"):
        raise InputError(
            f"netCDF is not written as {path.suffix or 'files without suffix'}",
            where=path,
            remedy="End the name in .nc",
        )
    ds = _named(obj) if isinstance(obj, xr.DataArray) else obj
    ds, encoding = _plain(ds, compress)
    named = ", ".join(str(name) for name in ds.data_vars if name != "spatial_ref")
    ds.attrs["Conventions"] = _CONVENTIONS
    ds.attrs["title"] = title or obj.attrs.get("title") or f"{named} of the Moon"
    if institution:
        ds.attrs["institution"] = institution
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        made = Path(folder) / path.name
        ds.to_netcdf(made, engine="h5netcdf", encoding=encoding)
        os.replace(made, path)
    return path


def _plain(ds: xr.Dataset, compress: int) -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    """The dataset in types of CF, and how each variable is written."""
    for name in (*ds.variables, *ds.dims):
        _require_writable(ds, name)
    ds = ds.drop_encoding().copy()
    ds.attrs = _attributes(ds.attrs)
    encoding: dict[str, dict[str, Any]] = {}
    for name in list(ds.variables):
        variable = ds[name]
        how: dict[str, Any] = {}
        variable.attrs = _attributes(variable.attrs)
        kind = variable.dtype.str[1:]
        if variable.dtype.kind in "mM":
            for key in _TIMES:
                variable.attrs.pop(key, None)
        if variable.dtype.kind == "M":
            how |= {"dtype": "f8", "units": "seconds since 1970-01-01", "_FillValue": None}
            if name not in ds.indexes:
                how["_FillValue"] = np.nan
        elif kind in _WIDER:
            ds[name] = variable = _widened(variable, _WIDER[kind])
        if name in ds.coords and variable.dtype.kind == "f":
            how.setdefault("_FillValue", None)  # CF: a coordinate has no missing values
        for flags in _FLAGS:
            if flags in variable.attrs:
                ds[name].attrs[flags] = _flags_of(variable, flags)
        if variable.dtype.kind in "fiu" and variable.ndim and compress:
            how |= {"zlib": True, "complevel": int(compress), "shuffle": True}
        encoding[str(name)] = how
    if "spatial_ref" in ds.variables and "crs_wkt" in ds["spatial_ref"].attrs:
        ds["spatial_ref"] = ds["spatial_ref"].astype("i4", keep_attrs=True)
        ds["spatial_ref"].attrs.setdefault("long_name", "coordinate reference system")
    for corner, axis in (("corner_lat", "latitude"), ("corner_lon", "longitude")):
        if corner in ds.variables:
            ds[corner].attrs.setdefault("standard_name", axis)
    return ds, encoding


def _named(array: xr.DataArray) -> xr.Dataset:
    """The dataset of an array, under a name that none of its coordinates has."""
    name = array.name or "values"
    while name in array.coords:
        name = f"{name}_values"
    return array.to_dataset(name=name)


def _require_writable(ds: xr.Dataset, name: Any) -> None:
    """InputError for a name, or a kind of variable, that netCDF does not have."""
    if not isinstance(name, str) or not name.strip() or "/" in name or not name.isprintable():
        raise InputError(
            f"netCDF has no name {name!r}",
            where="to_netcdf",
            remedy="Rename it: a text without '/'",
        )
    if name not in ds.variables:
        return
    variable, problem = ds.variables[name], ""
    kind = getattr(variable.dtype, "kind", "O") if isinstance(variable.dtype, np.dtype) else "?"
    if ds.indexes.get(name) is not None and ds.indexes[name].nlevels > 1:
        problem, remedy = "an index of several levels", "Take it apart with .reset_index"
    elif kind == "c":
        problem, remedy = "complex numbers", "Give their real and imaginary parts, each"
    elif kind == "O" and not _is_text(variable):
        problem, remedy = "objects of Python", "Give numbers, texts or times"
    elif kind not in "fiubmMSUTO" or (kind == "f" and variable.dtype.itemsize > 8):
        problem, remedy = f"the type {variable.dtype}", "Give numbers, texts or times"
    if problem:
        raise InputError(f"netCDF has no variables for {problem}", where=name, remedy=remedy)


def _is_text(variable: xr.Variable) -> bool:
    """Whether objects are all texts, or none at all."""
    values = variable.values.ravel().tolist()
    return all(isinstance(one, str) or one is None or one != one for one in values)


def _widened(array: xr.DataArray, kind: str) -> xr.DataArray:
    """Numbers in a wider type; InputError, when they are computed, where it does not hold one of them."""
    if array.dtype.itemsize < 8 or array.dtype.kind not in "iu":
        return array.astype(kind, keep_attrs=True)
    name = str(array.name)

    def exact(block: np.ndarray) -> np.ndarray:
        if block.size and (block.max() > _EXACT or block.min() < -_EXACT):
            raise InputError(
                "whole numbers beyond 2**53, for which CF 1.8 has no type",
                where=name,
                remedy="Give them as text, or in two variables",
            )
        return block.astype(kind)

    data = array.variable.data
    made = data.map_blocks(exact, dtype=kind) if array.chunks is not None else exact(array.values)
    return array.copy(data=made)


def _flags_of(variable: xr.DataArray, flags: str) -> np.ndarray:
    """Masks or values of flags, as CF wants them: of the type of their variable."""
    try:
        return np.asarray(variable.attrs[flags]).astype(variable.dtype)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{flags} {variable.attrs[flags]!r} are no numbers",
            where=str(variable.name),
            remedy="Give one number for each word of flag_meanings",
        ) from None


def _attributes(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as netCDF has them: numbers and texts as they are, others as text, none where there is nothing."""
    named = {str(name).replace("/", "_"): value for name, value in attrs.items()}
    return {name: _attribute(value) for name, value in named.items() if name and value is not None}


def _attribute(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return [_attribute(one) for one in value]
    try:
        array = np.asarray(value)
    except ValueError:  # lists of lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind == "b":
        return array.astype("i1")[()]
    if array.dtype.kind in "fiu":
        return value
    if array.dtype.kind in "UT" and array.ndim == 1 and isinstance(value, np.ndarray):
        return [_attribute(one) for one in array.tolist()]
    if isinstance(value, dict | list | tuple | np.ndarray):
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        return _attribute(json.dumps(plain, default=str, ensure_ascii=False))
    return _attribute(str(value))
