"""What is known of the light of spectra, as inversion takes it: found beside them, handed to models, flagged."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.oxides.light import DEFAULT_LIGHT, UNKNOWN
from lunarray.sp import light_uncertainty

#: ln-sd of the light's gain from which on a model that does not take it is flagged: it reads brightness as composition.
LIGHT_MATTERS = 0.15
#: Names of the flags of ``light_quality``, and the bit of ``quality`` that each becomes.
LIGHT_FLAGS = {"shadow": 32, "grazing_light": 64, "no_albedo": 128}


def find_light(
    obj: xr.Dataset | xr.DataArray,
    spectra: xr.DataArray,
    given: float | xr.DataArray | None,
) -> xr.DataArray | float | None:
    """The light's uncertainty of `spectra`, on their dimensions without wavelength, or one number; None if unknown.

    What is `given`; else ``light_uncertainty`` beside the spectra; else what :func:`lunarray.sp.light_uncertainty` says
    of their angles. InputError if it is negative or does not fit the spectra.
    """
    if given is None:
        given = _beside(obj, "light_uncertainty")
    if given is None and _beside(obj, "incidence") is not None:
        given = light_uncertainty(obj)
    if given is None:
        return None
    if not isinstance(given, xr.DataArray):
        value = float(given)
        if not value >= 0:
            raise InputError(
                f"light_uncertainty={given!r}",
                where="invert_oxides",
                remedy="Give the ln-sd of the light's gain, 0 or more, or an array of it",
            )
        return value
    return fitted(given, spectra, "light_uncertainty")


def fitted(array: xr.DataArray, spectra: xr.DataArray, name: str) -> xr.DataArray:
    """What stands beside spectra, on all their dimensions but wavelength, in their order."""
    sizes = {dim: size for dim, size in spectra.sizes.items() if dim != "wavelength"}
    if any(sizes.get(dim) != size for dim, size in array.sizes.items()):
        raise InputError(
            f"{name} on {dict(array.sizes)} for spectra on {sizes}",
            where="invert_oxides",
            remedy="Give it on the dimensions of the spectra without wavelength",
        )
    variable = array.variable.set_dims(sizes).transpose(*sizes)
    return xr.DataArray(variable, name=name)


def _beside(obj: xr.Dataset | xr.DataArray, name: str) -> xr.DataArray | None:
    holder = obj.variables if isinstance(obj, xr.Dataset) else obj.coords
    return obj[name] if name in holder else None


def append_light(data: Any, light: xr.DataArray | float | None, axis: int) -> Any:
    """Spectra with the light's uncertainty as one more band; lazy where they are.

    Where it is missing or infinite the light counts as unknown; where nothing is known of any of it, as
    :data:`lunarray.oxides.light.DEFAULT_LIGHT`.
    """
    value: Any = DEFAULT_LIGHT if light is None else light
    if isinstance(value, xr.DataArray):
        value = value.data
        # A single spectrum: nothing to lay beside it block by block.
        value = value[(slice(None),) * axis + (None,)] if data.ndim > 1 else value.reshape(1)
    if not isinstance(data, da.Array) and not isinstance(value, da.Array):
        return _append(np.asarray(data), value, axis)
    data = da.asarray(data)
    data = data.rechunk({axis: -1})
    chunks = (*data.chunks[:axis], (data.shape[axis] + 1,), *data.chunks[axis + 1 :])
    arrays = [data]
    options = {"axis": axis}
    if np.ndim(value):
        own = da.asarray(value)
        arrays.append(own.rechunk((*data.chunks[:axis], (1,), *data.chunks[axis + 1 :])))
    else:
        options["light"] = value
    meta = np.empty((0,) * data.ndim, np.float32)
    return da.map_blocks(_append, *arrays, **options, chunks=chunks, dtype=np.float32, meta=meta)


def _append(block: np.ndarray, light: Any, axis: int) -> np.ndarray:
    shape = (*block.shape[:axis], block.shape[axis] + 1, *block.shape[axis + 1 :])
    out = np.empty(shape, np.float32)
    bands, last = (
        (slice(None),) * axis + (part,) for part in (slice(0, block.shape[axis]), slice(-1, None))
    )
    out[bands] = block
    out[last] = np.nan_to_num(light, nan=UNKNOWN, posinf=UNKNOWN)
    return out


def raise_light_flags(
    maps: xr.Dataset,
    obj: xr.Dataset | xr.DataArray,
    spectra: xr.DataArray,
    light: xr.DataArray | float | None,
    unknown: int,
) -> xr.Dataset:
    """Maps with the flags of the light in ``quality``.

    Those of ``light_quality`` beside the spectra `obj`; and the bit `unknown`, 0 for a model that takes the light's
    uncertainty, where that is above :data:`LIGHT_MATTERS`.
    """
    flags: Any = maps["quality"].data
    beside = _beside(obj, "light_quality")
    if beside is not None:
        quality = fitted(beside, spectra, "light_quality").data
        masks = np.atleast_1d(beside.attrs.get("flag_masks", (1, 2, 4)))
        names = str(beside.attrs.get("flag_meanings", " ".join(LIGHT_FLAGS))).split()
        for name, mask in zip(names, masks, strict=False):
            if name in LIGHT_FLAGS:
                flags = flags | ((quality & mask) > 0) * np.uint8(LIGHT_FLAGS[name])
    if unknown and light is not None:
        value = light.data if isinstance(light, xr.DataArray) else light
        flags = flags | (value > LIGHT_MATTERS) * np.uint8(unknown)
    return maps.assign(quality=maps["quality"].copy(data=flags))
