"""The ``.lunar`` accessor on xarray objects.

It holds no logic. Each verb binds the public function of a room and shows that function's signature and docstring; the
room is imported when the verb is first touched.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import xarray as xr

from lunarray.errors import WrongKindError


class _Verb:
    """A public function ``module:name`` bound, when looked up, to the xarray object as its first argument."""

    def __init__(self, target: str) -> None:
        self.target = target

    @property
    def function(self) -> Callable[..., Any]:
        module, name = self.target.split(":")
        return getattr(importlib.import_module(module), name)

    def __get__(self, accessor: Any, owner: type | None = None) -> Callable[..., Any]:
        function = self.function
        if accessor is None:
            return function
        obj = accessor._obj

        @functools.wraps(function)
        def bound(*args: Any, **kwargs: Any) -> Any:
            return function(obj, *args, **kwargs)

        signature = inspect.signature(function)
        _, *others = signature.parameters.values()
        bound.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return bound


class _Accessor:
    """Verbs that Datasets and DataArrays share."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    # sp: conditioning and gridding of spectra
    mask_quality = _Verb("lunarray.sp:mask_quality")
    join_detectors = _Verb("lunarray.sp:join_detectors")
    despike = _Verb("lunarray.sp:despike")
    smooth = _Verb("lunarray.sp:smooth")
    resample_bands = _Verb("lunarray.sp:resample_bands")
    normalize_photometry = _Verb("lunarray.sp:normalize_photometry")
    condition = _Verb("lunarray.sp:condition")
    grid = _Verb("lunarray.sp:grid")

    # oxides
    invert_oxides = _Verb("lunarray.oxides:invert_oxides")
    feo_lucey2000 = _Verb("lunarray.oxides:feo_lucey2000")

    # xrf
    elements_to_oxides = _Verb("lunarray.xrf:elements_to_oxides")

    # fractures
    map_fractures = _Verb("lunarray.fractures:map_fractures")
    vectorize = _Verb("lunarray.fractures:vectorize")

    # superres
    write_element_maps = _Verb("lunarray.superres:write_element_maps")

    # store
    to_zarr = _Verb("lunarray.store:to_zarr")
    to_cog = _Verb("lunarray.export:to_cog")

    # plot
    plot_spectra = _Verb("lunarray.plot:spectra")
    plot_maps = _Verb("lunarray.plot:maps")
    plot_polar = _Verb("lunarray.plot:polar_map")
    plot_heat_map = _Verb("lunarray.plot:heat_map")
    plot_surface = _Verb("lunarray.plot:surface_3d")


@xr.register_dataset_accessor("lunar")
class LunarDatasetAccessor(_Accessor):
    """Verbs of lunar science on a Dataset, as ``ds.lunar.<verb>(...)``."""

    # xrf
    flag_frames = _Verb("lunarray.xrf:flag_frames")
    night_background = _Verb("lunarray.xrf:night_background")
    coadd = _Verb("lunarray.xrf:coadd")
    fit_elements = _Verb("lunarray.xrf:fit_elements")
    grid_footprints = _Verb("lunarray.xrf:grid_footprints")
    write_footprints = _Verb("lunarray.xrf:write_footprints")
    oxides_to_elements = _Verb("lunarray.xrf:oxides_to_elements")

    # superres
    superresolve = _Verb("lunarray.superres:superresolve")
    write_element_vectors = _Verb("lunarray.superres:write_element_vectors")

    # maps
    cells_at = _Verb("lunarray.maps:cells_at")
    rasterize_cells = _Verb("lunarray.maps:rasterize_cells")

    # plot
    plot_graduated_map = _Verb("lunarray.plot:graduated_map")


@xr.register_dataarray_accessor("lunar")
class LunarDataArrayAccessor(_Accessor):
    """Verbs of lunar science on a DataArray, as ``da.lunar.<verb>(...)``."""

    def __getattr__(self, name: str) -> Any:
        if isinstance(vars(LunarDatasetAccessor).get(name), _Verb):
            raise WrongKindError(
                "this verb works on a Dataset, not on a DataArray",
                where=f".lunar.{name}",
                remedy="Give the Dataset that holds the array, with all that belongs to it",
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
