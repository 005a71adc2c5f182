"""Light beside gridded spectra: the mean angles of a cell, how uncertain its light is, and flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from lunarray.sp.light import LIGHT_FLAGS, described, has_geometry, with_light

#: What is gridded beside reflectance where the tracks have it.
LIGHT = ("incidence", "emission", "phase", "light_uncertainty", "light_quality")
#: Of it, what is asked of all observations, also of those that the flags have cost their spectra.
FLAGS = ("light_quality",)


def light_arrays(ds: xr.Dataset, names: list[str]) -> dict[str, xr.DataArray]:
    """What has a mean among the light of tracks: angles, the variance of the light, each flag as 0 or 1."""
    if not has_geometry(ds):
        return {}
    ds = with_light(ds)
    found = {}
    for name in LIGHT:
        if name in names or name not in ds.variables or ds[name].dims != ("observation",):
            continue
        array = ds[name].reset_coords(drop=True)
        if name == "light_uncertainty":
            array = array.astype(np.float32) ** 2
        elif name in FLAGS:
            bits = xr.DataArray(np.array(list(LIGHT_FLAGS.values()), np.uint8), dims="flag")
            array = ((array & bits) > 0).astype(np.float32)
        found[name] = array if name in FLAGS else array.astype(np.float32)
    return found


def light_maps(
    light: Mapping[str, xr.DataArray], computed: Mapping[str, Any], dims: tuple[str, str]
) -> dict[str, tuple]:
    """Variables of the maps of the light, from the means of what `light_arrays` gave."""
    maps: dict[str, tuple] = {}
    for name, array in light.items():
        values = computed[name]
        if name in FLAGS:
            masks = np.array(list(LIGHT_FLAGS.values()), np.uint8)[:, None, None]
            values = ((values >= 0.5) * masks).sum(axis=0, dtype=np.uint8)
            maps[name] = (dims, values, described(name))
        elif name == "light_uncertainty":
            maps[name] = (dims, np.sqrt(values), described(name))
        else:
            maps[name] = (dims, values, {**array.attrs, "cell_methods": "area: mean"})
    return maps
