"""netCDF files that other programs read without us, by the CF conventions."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, WrongKindError

#: What CF 1.8 has no type for, and what it is written as: the next that holds all its values.
_WIDER = {"b1": "i1", "u1": "i2", "u2": "i4", "u4": "f8", "u8": "f8", "i8": "f8", "f2": "f4"}
_CONVENTIONS = "CF-1.8"
_FLAGS = ("flag_masks", "flag_values")


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
        For an ending that is none of netCDF's, or a name that is no file's.
    WrongKindError
        If `obj` is no object of xarray.

    Notes
    -----
    Numbers stay as they are. Types that CF 1.8 does not know become the next wider one (uint8 becomes int16, times
    become float64 seconds since 1970), and flags keep their masks in the type of their variable. CF has no name for the
    equirectangular projection; maps in it carry its WKT alone.

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
    ds = obj.to_dataset(name=obj.name or "values") if isinstance(obj, xr.DataArray) else obj
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
    ds = ds.drop_encoding().copy()
    ds.attrs = {name: value for name, value in ds.attrs.items() if _is_plain(value)}
    encoding: dict[str, dict[str, Any]] = {}
    for name in list(ds.variables):
        variable = ds[name]
        how: dict[str, Any] = {}
        variable.attrs = {key: value for key, value in variable.attrs.items() if _is_plain(value)}
        kind = variable.dtype.str[1:]
        if variable.dtype.kind == "M":
            how |= {"dtype": "f8", "units": "seconds since 1970-01-01", "_FillValue": None}
            if name not in ds.indexes:
                how["_FillValue"] = np.nan
        elif kind in _WIDER:
            ds[name] = variable = variable.astype(_WIDER[kind], keep_attrs=True)
        if name in ds.coords and variable.dtype.kind == "f":
            how.setdefault("_FillValue", None)  # CF: a coordinate has no missing values
        for flags in _FLAGS:
            if flags in variable.attrs:
                # CF: of the type of their variable.
                ds[name].attrs[flags] = np.asarray(variable.attrs[flags]).astype(variable.dtype)
        if variable.dtype.kind in "fiu" and variable.ndim and compress:
            how |= {"zlib": True, "complevel": int(compress), "shuffle": True}
        encoding[str(name)] = how
    if "spatial_ref" in ds.variables:
        ds["spatial_ref"] = ds["spatial_ref"].astype("i4", keep_attrs=True)
        ds["spatial_ref"].attrs.setdefault("long_name", "coordinate reference system")
    for corner, axis in (("corner_lat", "latitude"), ("corner_lon", "longitude")):
        if corner in ds.variables:
            ds[corner].attrs.setdefault("standard_name", axis)
    return ds, encoding


def _is_plain(value: Any) -> bool:
    """Whether netCDF has attributes of that kind."""
    return isinstance(value, str | int | float | np.ndarray | np.number | list | tuple) and not (
        isinstance(value, list | tuple) and any(isinstance(one, dict | list) for one in value)
    )
