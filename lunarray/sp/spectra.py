"""What all steps of conditioning share: the spectra of an object, kernels over blocks, the object with new spectra."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import BandMismatchError, InputError
from lunarray.store.provenance import stamp
from lunarray.typing import T, typed


@typed
def spectra_of(obj: Any, step: str) -> xr.DataArray:
    """The reflectance to work on.

    Parameters
    ----------
    obj : Dataset or DataArray
        With a dimension `wavelength`; of a Dataset, the variable ``reflectance``.
    step : str
        What asks for it: the place that an error names.

    Returns
    -------
    DataArray

    Raises
    ------
    InputError
        If there are no spectra.

    Examples
    --------
    >>> import lunarray as la
    >>> sp = la.sample("sp_orbit")
    >>> la.sp.spectra_of(sp, "smooth").dims
    ('observation', 'wavelength')
    """
    if isinstance(obj, xr.Dataset):
        if "reflectance" not in obj.data_vars:
            raise InputError(
                f"the dataset has no variable 'reflectance' (it has {', '.join(map(str, obj.data_vars)) or 'none'})",
                where=step,
                remedy="Rename the spectra to 'reflectance' or give the DataArray itself",
            )
        obj = obj["reflectance"]
    elif not isinstance(obj, xr.DataArray):
        raise InputError(
            f"a {type(obj).__name__} is neither a Dataset nor a DataArray",
            where=step,
            remedy="Open the data with open_sp or open_cube",
        )
    if "wavelength" not in obj.dims or "wavelength" not in obj.coords:
        raise InputError(
            f"no dimension with coordinate 'wavelength' (dimensions: {', '.join(map(str, obj.dims))})",
            where=step,
            remedy="Give spectra with their wavelengths in nm",
        )
    return obj


def rising_wavelengths(spectra: xr.DataArray, step: str) -> np.ndarray:
    """Wavelengths (nm), which must rise."""
    wavelength = np.asarray(spectra["wavelength"].values, np.float64)
    if not np.all(np.diff(wavelength) > 0):
        raise BandMismatchError(
            "the wavelengths do not rise from channel to channel",
            where=step,
            remedy="Join the detectors first (lunarray.sp.join_detectors) or sort by wavelength",
        )
    return wavelength


def _run_kernel(
    block: np.ndarray, *, kernel: str, axis: int, static: tuple[Any, ...], part: int
) -> np.ndarray:
    """One block through one kernel: wavelength last and flat for it, and back where it was."""
    from lunarray.sp import kernels

    moved = np.moveaxis(block, axis, -1)
    shape = moved.shape[:-1]
    flat = np.ascontiguousarray(moved, np.float32).reshape(-1, moved.shape[-1])
    result = getattr(kernels, kernel)(flat, *static)
    if part == 1:
        return result[1].reshape(shape)
    result = result[0] if part == 0 else result
    result = result.reshape(*shape, result.shape[-1])
    return np.ascontiguousarray(np.moveaxis(result, -1, axis))


def map_spectra(
    spectra: xr.DataArray, kernel: str, static: tuple[Any, ...], n_out: int, part: int = -1
) -> Any:
    """Data of `spectra` through `kernel`; `part` picks one of several results (1: one without wavelength)."""
    axis = spectra.get_axis_num("wavelength")
    data = spectra.data
    options: dict[str, Any] = {"kernel": kernel, "axis": axis, "static": static, "part": part}
    if not hasattr(data, "dask"):
        return _run_kernel(np.asarray(data), **options)
    import dask.array as da

    if data.numblocks[axis] > 1:
        data = data.rechunk({axis: -1})
    ndim = data.ndim - (part == 1)
    if part == 1:
        options["drop_axis"] = axis
    else:
        options["chunks"] = (*data.chunks[:axis], (n_out,), *data.chunks[axis + 1 :])
    meta = np.empty((0,) * ndim, np.float32)
    return da.map_blocks(_run_kernel, data, **options, dtype=np.float32, meta=meta)


def rebuild(obj: T, spectra: xr.DataArray, data: Any, channels: Any, note: str) -> T:
    """`obj` with new spectra. `channels`: None if they are the same, indices of those left, or new wavelengths
    (float)."""
    attrs = {**spectra.attrs, "units": spectra.attrs.get("units", "1")}
    attrs["conditioning"] = "; ".join(filter(None, [attrs.get("conditioning"), note]))
    if channels is None:
        new = spectra.copy(data=data)
    elif np.asarray(channels).dtype.kind == "i":
        new = spectra.isel(wavelength=channels).copy(data=data)
    else:
        coords = {k: v for k, v in spectra.coords.items() if "wavelength" not in v.dims}
        coords["wavelength"] = xr.Variable("wavelength", channels, spectra["wavelength"].attrs)
        new = xr.DataArray(data, coords, spectra.dims, spectra.name)
    new.attrs = attrs
    new.encoding = {}
    if isinstance(obj, xr.DataArray):
        return typed(new)
    if channels is None:
        rest = obj
    elif np.asarray(channels).dtype.kind == "i":
        rest = obj.isel(wavelength=channels)
    else:
        rest = obj.drop_dims("wavelength")
    result: Any = rest.assign(reflectance=new)
    result = result[["reflectance", *(n for n in result.data_vars if n != "reflectance")]]
    result.attrs = dict(obj.attrs)
    return stamp(result, note, variables=["reflectance"])
