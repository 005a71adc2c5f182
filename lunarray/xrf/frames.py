"""What all verbs ask of CLASS frames before they work on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from lunarray.engine.graph import apart, known_values
from lunarray.errors import InputError


def require_variables(ds: Any, names: Iterable[str], where: str, remedy: str) -> None:
    """Refuse what is no Dataset with these variables.

    `ds`: what a verb was given; `names`: variables or coordinates that it needs; `where`, `remedy`: the verb, and what
    it takes.
    """
    if not isinstance(ds, xr.Dataset):
        raise InputError(f"a {type(ds).__name__} is no Dataset", where=where, remedy=remedy)
    missing = [name for name in names if name not in ds.variables]
    if missing:
        raise InputError(f"no {', '.join(missing)}", where=where, remedy=remedy)


def require_frames(ds: Any, where: str) -> None:
    """Refuse what are no CLASS spectra, (time, channel), with exposure, gain and incidence.

    `where`: the verb.
    """
    remedy = "Give what lunarray.open_class gives"
    if isinstance(ds, xr.Dataset) and set(ds.get("counts", xr.DataArray()).dims) != {
        "time",
        "channel",
    }:
        raise InputError("no counts(time, channel)", where=where, remedy=remedy)
    require_variables(ds, ("counts", "exposure", "gain", "incidence"), where, remedy)


def described(dims: Any, values: Any, units: str, name: str) -> tuple[Any, Any, dict[str, str]]:
    """A variable with its unit and long name, as xarray takes it."""
    return dims, values, {"units": units, "long_name": name}


def flag_attrs(name: str, bits: Mapping[str, int], dtype: str) -> dict[str, Any]:
    """CF attributes of a variable of flags."""
    masks = np.array(list(bits.values()), dtype)
    return {"long_name": name, "flag_masks": masks, "flag_meanings": " ".join(bits)}


def is_lazy(array: xr.DataArray) -> bool:
    """Whether it is a Dask array."""
    return hasattr(array.data, "dask")


def frame_bounds(ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of frames; where these would have to be computed, from the times between which they lie."""
    if "start" in ds.variables and "end" in ds.variables:
        start, end = known_values(ds["start"].data), known_values(ds["end"].data)
        if start is not None and end is not None:
            return start.astype("M8[ns]"), end.astype("M8[ns]")
    time = ds["time"].values.astype("M8[ns]")
    step = np.median(np.diff(time)) if time.size > 1 else np.timedelta64(8, "s")
    half = min(step, np.timedelta64(8_000_000_000, "ns")) // 2
    return time - half, time + half


def read_apart(ds: xr.Dataset) -> xr.Dataset:
    """The same spectra from tasks of their own.

    What is wanted of all frames at once, their particle rates above all, must not come from the tasks that sums of
    frames come from, or else all counts would be kept in memory in between. They are read twice instead.
    """
    counts = ds["counts"]
    return ds.assign(counts=counts.copy(data=apart(counts.data))) if is_lazy(counts) else ds


def without_bad_channels(ds: xr.Dataset) -> xr.Dataset:
    """The same spectra with nothing counted in channels that are marked as bad: no reason to reject the rest."""
    if "bad_channel" not in ds.variables:
        return ds
    counts = ds["counts"]
    filled = counts.where(~ds["bad_channel"].variable, 0.0).transpose(*counts.dims)
    return ds.assign(counts=filled.assign_attrs(counts.attrs))
