"""The ``.lunar`` accessor on xarray objects.

It holds no logic. Each verb binds the public function of a room and shows that function's signature and docstring; the
room is imported when the verb is first touched. Type checkers and editors read the stub beside this file, which
``python tests/stubs.py`` writes.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any

import xarray as xr

from lunarray.errors import WrongKindError


class _Verb:
    """A public function ``module:name`` that takes the xarray object of the accessor first.

    What a look-up gives is a method of the accessor. Its name leads back to it, so that it is pickled as the object
    and that name; and it has the function's documentation, and its signature without the first parameter.
    """

    def __init__(self, target: str) -> None:
        self.target = target

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        module, name = self.target.split(":")
        return getattr(importlib.import_module(module), name)

    @functools.cached_property
    def method(self) -> Callable[..., Any]:
        function = self.function

        @functools.wraps(function)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return function(self._obj, *args, **kwargs)

        signature = inspect.signature(function)
        _, *others = signature.parameters.values()
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        method.__signature__ = signature.replace(parameters=[own, *others])  # type: ignore[attr-defined]
        method.__name__ = self.name
        method.__qualname__ = f"lunar.{self.name}"
        return method

    def __get__(self, accessor: Any, owner: type | None = None) -> Callable[..., Any]:
        return self.function if accessor is None else types.MethodType(self.method, accessor)


class _Accessor:
    """Verbs that Datasets and DataArrays share."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    def __repr__(self) -> str:
        verbs = ", ".join(name for name in dir(self) if not name.startswith("_"))
        text = f"Verbs of lunarray for this {type(self._obj).__name__}: {verbs}."
        return textwrap.fill(text, 100)

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        # An accessor is its object: copies and pickles begin anew with that.
        return type(self), (self._obj,)

    def __dask_tokenize__(self) -> Any:
        from dask.base import normalize_token

        return normalize_token((type(self).__name__, self._obj))

    # sp: conditioning and gridding of spectra
    mask_quality = _Verb("lunarray.sp:mask_quality")
    join_detectors = _Verb("lunarray.sp:join_detectors")
    despike = _Verb("lunarray.sp:despike")
    smooth = _Verb("lunarray.sp:smooth")
    resample_bands = _Verb("lunarray.sp:resample_bands")
    normalize_photometry = _Verb("lunarray.sp:normalize_photometry")
    light_uncertainty = _Verb("lunarray.sp:light_uncertainty")
    correct_topography = _Verb("lunarray.sp:correct_topography")
    scale_to_albedo = _Verb("lunarray.sp:scale_to_albedo")
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
    to_netcdf = _Verb("lunarray.export:to_netcdf")
    to_pds4 = _Verb("lunarray.export:to_pds4")

    # plot
    plot_spectra = _Verb("lunarray.plot:spectra")
    plot_maps = _Verb("lunarray.plot:maps")
    plot_polar = _Verb("lunarray.plot:polar_map")
    plot_heat_map = _Verb("lunarray.plot:heat_map")
    plot_surface = _Verb("lunarray.plot:surface_3d")

    # view
    explore = _Verb("lunarray.view:explore")


@xr.register_dataset_accessor("lunar")
class LunarDatasetAccessor(_Accessor):
    """Verbs of lunar science on a Dataset, as ``ds.lunar.<verb>(...)``."""

    # maps
    compare_elements = _Verb("lunarray.maps:compare_elements")
    plot_element_comparison = _Verb("lunarray.plot:element_comparison")

    # sp
    radiance_factor = _Verb("lunarray.sp:radiance_factor")

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
