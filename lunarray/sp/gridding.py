"""Tracks to maps: mean, count and standard deviation of the observations in each cell of a lunar grid.

Where an observation falls is known from the coordinates alone (`grid_plan`), so the graph says exactly which input
chunks each output block needs (`grid_sums`). The result is the same to the last bit however input and output are cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.engine.graph import known_values
from lunarray.errors import GridError, InputError
from lunarray.sp.api import condition, is_native
from lunarray.sp.grid_fill import fill_plan
from lunarray.sp.grid_light import FLAGS, LIGHT, light_arrays, light_maps
from lunarray.sp.grid_plan import GridPlan, block_chunks, observation_chunks, plan_grid
from lunarray.sp.grid_sums import float_of, grid_at_once, grid_lazily
from lunarray.typing import typed

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

STATS = ("mean", "count", "std")


@typed
def grid(
    ds: xr.Dataset | xr.DataArray,
    grid: Any = "north",
    *,
    resolution: float | None = None,
    latitude: float = 65.0,
    bounds: Sequence[float] | None = None,
    variables: Sequence[str] | str | None = None,
    stats: Sequence[str] = STATS,
    fill_radius: float | None = None,
    chunks: int | tuple[int, int] | Mapping[str, int] | None = None,
) -> xr.Dataset:
    """Grid tracks onto a lunar map.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Tracks with dimension ``observation`` and coordinates ``lon`` and ``lat`` (degrees) on it, or an image whose
        pixels have ``lon`` and ``lat`` each, such as :func:`lunarray.maps.open_m3` gives: every pixel counts as an
        observation. Spectra of the Spectral Profiler as they were read (296 channels) pass through
        `lunarray.sp.condition` first.
    grid : str, GeoBox or xarray object, optional
        "north", "south", "equirectangular", "geographic"; a GeoBox; or a map whose grid is taken. See
        `lunarray.geo.lunar_grid`.
    resolution : float, optional
        Pixel size in m (default 500), in degrees on the geographic grid (default 0.5).
    latitude : float, optional
        Polar grids cover everything poleward of it (degrees).
    bounds : sequence of 4 floats, optional
        left, bottom, right, top in the units of the grid, instead of `latitude`.
    variables : sequence of str, optional
        What to grid: any numeric variables along ``observation``, with or without further dimensions. Default:
        ``reflectance``, or where there is none every floating variable along ``observation``.
    stats : sequence of {"mean", "count", "std"}, optional
        Which statistics to return.
    fill_radius : float, optional
        Fill empty cells from cells with data within this distance on the ground (m), by inverse squared distance. On
        cylindrical grids poleward of 83° the search along a parallel is narrower; use a polar grid there.
    chunks : int, tuple or mapping, optional
        Spatial chunks of the result, (y, x). Default: blocks of up to 64 MiB. If given, the result is lazy also for
        NumPy input.

    Returns
    -------
    xarray.Dataset
        Each variable under its own name with dimensions (..., y, x) or (..., lat, lon), NaN where nothing was
        observed: the mean of the finite values of the cell, for each band; ``<name>_std``, their standard deviation
        (of the population: 0 for one value); ``count`` (int32), the observations in the cell with a finite value in
        any band of any gridded variable; with `fill_radius`, ``filled`` (bool), true where the mean comes from
        neighbours (count is 0 there). Beside ``reflectance``, where the tracks have angles: ``incidence``,
        ``emission``, ``phase``, means over the observations that count; ``light_uncertainty``, the root mean square of
        theirs (:func:`lunarray.sp.light_uncertainty`; slopes of one cell are much alike, so their number makes it no
        smaller); ``light_quality``, flags that at least half of the observations have. Lazy if a variable is chunked,
        else in memory. Variables of float64 stay float64, all others become float32.

    Raises
    ------
    InputError
        If positions, variables or statistics are not there.
    GridError
        If the grid cannot be made, or no observation falls on it.
    BodyMismatchError
        If the grid is of another body.

    Notes
    -----
    A cell is half-open towards east and south on the map; a pole and the ±180° meridian each belong to one cell,
    whatever longitude the observation was given. Observations outside the grid are left out and counted in the
    attribute ``observations_outside`` of ``count``.

    Building the graph computes nothing where the positions are in memory, as `lunarray.open_sp` has them. Positions
    that are themselves lazy, as in a store opened with chunks, are read then, since they decide which input each
    block needs.

    Examples
    --------
    >>> import lunarray as la
    >>> spectra = la.sample("sp_orbit").lunar.condition()
    >>> cube = spectra.lunar.grid("geographic", resolution=0.5, bounds=(-25, 5, -15, 20))
    >>> dict(cube["reflectance"].sizes)
    {'wavelength': 150, 'lat': 30, 'lon': 20}
    """
    from lunarray.geo import grid_dims, lunar_grid

    if isinstance(ds, xr.DataArray):
        ds = ds.to_dataset(name=ds.name if ds.name is not None else "data")
        variables = [str(name) for name in ds.data_vars] if variables is None else variables
    ds = unrolled(ds)
    stats = _check_stats(stats, fill_radius)
    names = _check_variables(ds, variables)
    if "reflectance" in names and is_native(ds):
        ds = _conditioned(ds, names)
    lon, lat = _positions(ds)
    geobox = lunar_grid(grid, resolution, bounds, latitude=latitude)
    arrays = {name: ds[name].transpose("observation", ...) for name in names}
    light = light_arrays(ds, names) if "mean" in stats and "reflectance" in names else {}
    lazy = chunks is not None or any(array.chunks is not None for array in arrays.values())
    pixel_bytes = max(
        math.prod(array.shape[1:]) * float_of(array.dtype).itemsize for array in arrays.values()
    )
    blocks = block_chunks(geobox, chunks, pixel_bytes if lazy else 0)
    plan = plan_grid(geobox, lon, lat, observation_chunks(arrays), blocks)
    fill = None if fill_radius is None else fill_plan(geobox, fill_radius)
    run = grid_lazily if lazy else grid_at_once
    everything = {**arrays, **light}
    computed = run(everything, plan, stats, fill, tuple(name not in FLAGS for name in light))
    maps = light_maps(light, computed, grid_dims(geobox))
    return _assemble(ds, arrays, computed, plan, geobox, fill_radius, maps)


# --- images ---------------------------------------------------------------------------------------


def unrolled(ds: xr.Dataset) -> xr.Dataset:
    """An image whose pixels have each its own place, as tracks; anything else as it is."""
    if not isinstance(ds, xr.Dataset):
        raise InputError(
            f"a {type(ds).__name__} is neither a Dataset nor a DataArray",
            where="grid",
            remedy="Give tracks, as lunarray.open_sp gives them",
        )
    if "observation" in ds.dims or not {"lon", "lat"} <= set(ds.variables):
        return ds
    image = ds["lat"].dims
    if len(image) != 2 or set(ds["lon"].dims) != set(image):
        return ds

    def along(array: xr.DataArray) -> xr.Variable:
        array = array.transpose(*image, ...)
        data = array.data
        if array.chunks is not None:
            # Whole lines: then every chunk of the image is one of the tracks.
            data = data.rechunk({1: -1})
        data = data.reshape(-1, *array.shape[2:])
        return xr.Variable(("observation", *array.dims[2:]), data, array.attrs)

    def taken(arrays: Mapping[Any, xr.DataArray]) -> dict[Any, Any]:
        return {
            name: along(array) if set(image) <= set(array.dims) else array.variable
            for name, array in arrays.items()
            if set(image) <= set(array.dims) or not set(image) & set(array.dims)
        }

    return xr.Dataset(taken(ds.data_vars), taken(ds.coords), ds.attrs)


# --- checks ---------------------------------------------------------------------------------------


def _check_stats(stats: Sequence[str], fill_radius: float | None) -> tuple[str, ...]:
    stats = (stats,) if isinstance(stats, str) else tuple(stats)
    unknown = [name for name in stats if name not in STATS]
    if unknown or not stats:
        raise InputError(
            f"unknown statistics {unknown or stats}",
            where="stats",
            remedy=f"Choose among {', '.join(STATS)}",
        )
    if fill_radius is not None:
        if not (fill_radius > 0 and math.isfinite(fill_radius)):
            raise GridError(
                f"a fill radius of {fill_radius} m fills nothing",
                where="fill_radius",
                remedy="Give metres, or None",
            )
        if "mean" not in stats:
            raise InputError(
                "gaps are filled in the mean, which is not asked for",
                where="stats",
                remedy='Add "mean"',
            )
    return tuple(name for name in STATS if name in stats)


def _check_variables(ds: xr.Dataset, variables: Sequence[str] | str | None) -> list[str]:
    if "observation" not in ds.dims:
        raise InputError(
            f"there are no tracks: the dimensions are {tuple(map(str, ds.dims))}",
            remedy="Give data with a dimension 'observation'; a map is reprojected, not gridded",
        )
    along = [str(name) for name, variable in ds.data_vars.items() if "observation" in variable.dims]
    if variables is None:
        names = (
            ["reflectance"]
            if "reflectance" in along
            else [n for n in along if ds[n].dtype.kind == "f"]
        )
    else:
        names = [variables] if isinstance(variables, str) else list(dict.fromkeys(variables))
    missing = [name for name in names if name not in ds or "observation" not in ds[name].dims]
    if missing or not names:
        raise InputError(
            f"no variable {', '.join(map(repr, missing))} along observation"
            if missing
            else "there is no variable to grid",
            where="variables",
            remedy=f"Choose among {', '.join(along) or 'none: the dataset has no variable along observation'}",
        )
    for name in names:
        if ds[name].dtype.kind not in "fiub":
            raise InputError(
                f"values of type {ds[name].dtype} have no mean",
                where=name,
                remedy="Grid numeric variables",
            )
        if ds[name].size == 0 and ds.sizes["observation"]:
            raise InputError("the variable is empty", where=name, remedy="Select at least one band")
    clashes = {"count", "filled"} & set(names) | {f"{name}_std" for name in names} & set(names)
    if clashes:
        raise InputError(
            f"the names of the results would clash: {', '.join(sorted(clashes))}",
            where="variables",
            remedy="Rename the variable, or grid it by itself",
        )
    return names


def _conditioned(ds: xr.Dataset, names: list[str]) -> xr.Dataset:
    """Native spectra conditioned: on another wavelength axis, so that only what has no such axis stays beside them."""
    beside = [name for name in names if name != "reflectance"]
    spectral = [name for name in beside if "wavelength" in ds[name].dims]
    if spectral:
        raise InputError(
            f"{', '.join(spectral)} have the native channels, reflectance after conditioning has others",
            where="variables",
            remedy="Grid them in another call",
        )
    kept = [name for name in ("reflectance", "qa", *LIGHT) if name in ds.data_vars]
    return condition(ds[kept]).assign({name: ds[name] for name in beside})


def _positions(ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    positions = []
    for name in ("lon", "lat"):
        if name not in ds.variables or ds[name].dims != ("observation",):
            raise InputError(
                f"the tracks have no {name!r} along observation",
                where=name,
                remedy="Assign coordinates lon and lat (degrees) for each observation",
            )
        positions.append(ds[name].variable)
    known = [known_values(position.data) for position in positions]
    if any(values is None for values in known):
        import dask

        known = list(dask.compute(*positions))
    return np.asarray(known[0], dtype=np.float64), np.asarray(known[1], dtype=np.float64)


# --- metadata -------------------------------------------------------------------------------------


def _assemble(
    ds: xr.Dataset,
    arrays: Mapping[str, xr.DataArray],
    computed: Mapping[str, Any],
    plan: GridPlan,
    geobox: GeoBox,
    fill_radius: float | None,
    light: Mapping[str, Any],
) -> xr.Dataset:
    from lunarray.geo import assign_crs, grid_coords, grid_dims
    from lunarray.store.provenance import stamp

    dims = grid_dims(geobox)
    variables: dict[str, tuple] = {}
    for name, array in arrays.items():
        mean = {k: v for k, v in array.attrs.items() if k not in ("grid_mapping", "coordinates")}
        no_more = ("standard_name", "valid_range", "valid_min")
        std = {k: v for k, v in mean.items() if k not in no_more}
        std["long_name"] = f"standard deviation of {mean.get('long_name', name)} in the cell"
        std["cell_methods"] = "area: standard_deviation"
        mean["cell_methods"] = "area: mean"
        for own, attrs in ((name, mean), (f"{name}_std", std)):
            if own in computed:
                variables[own] = ((*array.dims[1:], *dims), computed[own], attrs)
    if "count" in computed:
        attrs = {
            "long_name": "observations in the cell with a finite value", "units": "1",
            "observations_on_grid": plan.gridded, "observations_outside": plan.outside,
        }  # fmt: skip
        variables["count"] = (dims, computed["count"], attrs)
    if "filled" in computed:
        what = f"mean filled from cells within {fill_radius:g} m"
        variables["filled"] = (dims, computed["filled"], {"long_name": what, "units": "1"})
    variables.update(light)
    kept = {
        str(name): coordinate.variable
        for array in arrays.values()
        for name, coordinate in array.coords.items()
        if "observation" not in coordinate.dims and str(name) not in ("spatial_ref", *dims)
    }
    out = xr.Dataset(variables, coords={**kept, **grid_coords(geobox)}, attrs=dict(ds.attrs))
    rows, columns = plan.shape
    unit = "deg" if dims[0] == "lat" else "m"
    step = abs(geobox.transform.a)
    event = f"grid: {plan.gridded} observations onto {rows} x {columns} cells of {step:g} {unit}, {geobox.crs}"
    if fill_radius is not None:
        event += f", gaps filled within {fill_radius:g} m"
    return assign_crs(stamp(out, event), geobox)
