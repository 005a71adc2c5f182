"""The polar atlas: maps of both poles by one model, and what they differ by from the maps of others."""
# Not "atlas.py": the submodule would hide the function lunarray.oxides.atlas.

from __future__ import annotations

import os
from typing import Any

import numpy as np
import xarray as xr

from lunarray.engine import ModelSpec
from lunarray.errors import GridError, InputError
from lunarray.geo import (
    Box,
    Circle,
    Method,
    Polygon,
    as_regions,
    assign_crs,
    geobox_of,
    lonlat,
    region_grid,
    reproject,
    spatial_dims,
)
from lunarray.oxides.regions import table_variables
from lunarray.store.provenance import stamp

POLES = ("north", "south")


def atlas(
    north: xr.Dataset | xr.DataArray | None = None,
    south: xr.Dataset | xr.DataArray | None = None,
    model: str | os.PathLike[str] | ModelSpec | None = None,
    *,
    latitude: float = 65.0,
    **options: Any,
) -> dict[str, xr.Dataset]:
    """Map the oxides of both polar regions.

    Parameters
    ----------
    north, south : Dataset or DataArray, optional
        Reflectance cubes in polar stereographic projection, IAU_2015:30130 and 30135; one of them may be left out.
    model : path or ModelSpec, optional
        Weights that ``lunarray.oxides.train(...).save`` wrote; by default those that come with lunarray.
    latitude : float
        Poleward of this (degrees, without sign) is mapped; what is further out is NaN and is not inverted.
    **options
        For :func:`lunarray.oxides.invert_oxides`, such as ``uncertainty=True`` or ``device="cpu"``.

    Returns
    -------
    dict of Dataset
        "north" and "south", as far as given: what :func:`lunarray.oxides.invert_oxides` gives, with Mg#, on the
        smallest square of the cube's own pixels that holds the cap. Lazy where the cube is.

    Raises
    ------
    InputError
        No cube, or a latitude that is none.
    GridError
        A cube that is not on a polar grid, of the pole that it was given for, or nowhere as near to it as `latitude`.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, sections 3.2 to 3.4, figures 5, 8, 9 and 14.
    """
    from lunarray.oxides.api import invert_oxides

    given = {"north": north, "south": south}
    cubes = {pole: cube for pole, cube in given.items() if cube is not None}
    if not cubes:
        raise InputError("there is no cube", where="atlas", remedy="give the north, the south, or both")  # fmt: skip
    if not 0 <= abs(latitude) < 90:
        raise InputError(
            f"{latitude} degrees", where="latitude", remedy="give 0 or more and less than 90"
        )
    result = {}
    for pole, cube in cubes.items():
        cap = polar_cap(cube, latitude, pole=pole)
        maps = invert_oxides(cap, model, **options)
        maps.attrs["title"] = (
            f"Oxides of the Moon's {pole} polar region, {abs(latitude):g}°-90°{pole[0].upper()}"
        )
        result[pole] = stamp(maps, f"atlas(latitude={latitude:g})")
    return result


def polar_cap(
    obj: xr.Dataset | xr.DataArray, latitude: float = 65.0, *, pole: str | None = None
) -> Any:
    """Cut what is poleward of a latitude out of a polar map.

    Parameters
    ----------
    obj : Dataset or DataArray
        In polar stereographic projection, (..., y, x).
    latitude : float
        Degrees, without sign.
    pole : {"north", "south"}, optional
        The pole that it must be of.

    Returns
    -------
    same type as `obj`
        The smallest rectangle of its pixels that holds the cap; in it, floating variables are NaN elsewhere.

    Raises
    ------
    GridError
        If it is not on a polar grid, of another pole, or does not reach `latitude`.
    """
    from lunarray.geo import crs_name

    geobox = geobox_of(obj)
    name = crs_name(geobox.crs)
    if name not in POLES or (pole is not None and name != pole):
        raise GridError(
            f"the grid is {f'of the {name} pole' if name in POLES else 'not polar'}",
            where=pole or "cube",
            remedy=f"give a cube in IAU_2015:{30130 if pole != 'south' else 30135}, "
            f"for instance by .lunar.grid({pole or 'north'!r})",
        )
    sign = 1 if name == "north" else -1
    chunks = next((v.chunks[-2:] for v in _variables(obj) if v.chunks), None)
    lat = lonlat(geobox)[1]
    inside = sign * lat >= abs(latitude)
    if not inside.any():
        raise GridError(
            f"it does not reach {abs(latitude):g}°",
            where=pole or name,
            remedy="give a cube nearer to the pole, or a lower latitude",
        )
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    window = {"y": slice(rows[0], rows[-1] + 1), "x": slice(columns[0], columns[-1] + 1)}
    part = obj.isel(window)
    mask = xr.DataArray(inside[window["y"], window["x"]], dims=("y", "x"))
    if chunks is not None:
        mask = mask.chunk(
            dict(
                zip(("y", "x"), next(v.chunks[-2:] for v in _variables(part) if v.chunks), strict=True)
            )
        )  # fmt: skip

    def cut(array: xr.DataArray) -> xr.DataArray:
        if not {"y", "x"} <= set(array.dims) or array.dtype.kind != "f":
            return array
        kept = array.where(mask).astype(array.dtype)
        kept.attrs = dict(array.attrs)
        return kept.transpose(*array.dims)

    out: Any = part.map(cut, keep_attrs=True) if isinstance(part, xr.Dataset) else cut(part)
    return assign_crs(out, geobox.crs)


def _variables(obj: xr.Dataset | xr.DataArray) -> list[xr.DataArray]:
    arrays = [obj] if isinstance(obj, xr.DataArray) else list(obj.data_vars.values())
    return [a for a in arrays if {"y", "x"} <= set(a.dims)]


def difference(
    result: xr.Dataset | xr.DataArray,
    reference: xr.Dataset | xr.DataArray,
    *,
    method: Method = "auto",
    variables: list[str] | None = None,
) -> Any:
    """Subtract maps of others, on whatever grid, from a result.

    Parameters
    ----------
    result : Dataset or DataArray
        Maps; the difference is on their grid.
    reference : Dataset or DataArray
        Maps of the same quantities, by the same names, on any lunar grid. Two DataArrays need no names.
    method : {"auto", "nearest", "bilinear", "average"}
        How the reference is brought onto the result's grid, see :func:`lunarray.geo.reproject`: averaged over the
        pixel where it is finer, interpolated where it is coarser.
    variables : list of str, optional
        By default the oxides and Mg# that both have, else all that both have.

    Returns
    -------
    same type as `result`
        Result less reference, lazy where either is, NaN where either is missing.

    Raises
    ------
    InputError
        No common variable.
    GridError
        A grid that is none.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figure 7.
    """
    found, there = matched(result, reference, method=method, variables=variables)
    out: Any
    if isinstance(result, xr.DataArray):
        out = _minus(found, there)
    else:
        out = xr.Dataset({n: _minus(found[n], there[n]) for n in found.data_vars})
    out.attrs.update({k: v for k, v in result.attrs.items() if k in ("source", "model", "history")})
    return stamp(assign_crs(out, geobox_of(result)), f"difference(method={method!r})")


def matched(
    result: Any,
    reference: Any,
    *,
    method: Method = "auto",
    variables: list[str] | None = None,
) -> tuple[Any, Any]:
    """Bring a result and a reference onto the result's grid, with the variables that both have.

    Parameters
    ----------
    result, reference : Dataset or DataArray
        Maps on any lunar grids; both Datasets or both DataArrays.
    method : {"auto", "nearest", "bilinear", "average"}
        See :func:`lunarray.geo.reproject`.
    variables : list of str, optional
        Which; by default all that both have, oxides first.

    Returns
    -------
    result, reference : same types
        On one grid.

    Raises
    ------
    InputError
        No common variable, or a Dataset with a DataArray.
    """
    if isinstance(result, xr.DataArray) != isinstance(reference, xr.DataArray):
        if isinstance(reference, xr.DataArray) and str(reference.name) in result:
            reference = reference.to_dataset()
        elif isinstance(result, xr.DataArray) and str(result.name) in reference:
            reference = reference[str(result.name)]
        else:
            raise InputError(
                "a Dataset and a DataArray of another name",
                where="difference",
                remedy="give both as Datasets, or both as DataArrays",
            )
    if isinstance(result, xr.Dataset):
        common = [n for n in table_variables(result) if n in reference] or [
            str(n) for n in result.data_vars if n in reference
        ]
        names = common if variables is None else list(variables)
        lacking = [n for n in names if n not in result or n not in reference]
        if lacking or not names:
            raise InputError(
                f"not in both: {', '.join(lacking)}" if lacking else "no variable is in both",
                where="variables",
                remedy=f"the result has {', '.join(map(str, result.data_vars))}; the reference has "
                f"{', '.join(map(str, reference.data_vars))}",
            )
        result, reference = result[names], reference[names]
    here, there = geobox_of(result), geobox_of(reference)
    if here != there:
        chunks = _chunks_of(result)
        reference = reproject(reference, here, method=method, chunks=chunks)
    dims = spatial_dims(result)
    # The same pixels; coordinates may differ in their last bit.
    reference = reference.assign_coords({d: result[d] for d in dims or ()})
    return result, reference


def _chunks_of(obj: Any) -> Any:
    dims = spatial_dims(obj)
    for array in [obj] if isinstance(obj, xr.DataArray) else obj.data_vars.values():
        if array.chunks is not None:
            return tuple(array.chunks[array.get_axis_num(d)] for d in dims or ())
    return None


def _minus(result: xr.DataArray, reference: xr.DataArray) -> xr.DataArray:
    reference = reference.transpose(*result.dims)
    data = result.data - reference.data
    name = str(result.attrs.get("long_name", result.name))
    out = result.drop_vars([c for c in result.coords if c not in result.dims]).copy(data=data)
    out.attrs = {"long_name": f"{name}, result less reference", "units": result.attrs.get("units", "1")}  # fmt: skip
    return out


def region_maps(
    result: xr.Dataset,
    reference: xr.Dataset,
    region: Box | Circle | Polygon,
    *,
    resolution: float | None = None,
    crs: Any = "geographic",
) -> xr.Dataset:
    """Reference, result and their difference in a region, on one small grid.

    Parameters
    ----------
    result, reference : Dataset
        Maps on any lunar grids.
    region : Box, Circle or Polygon
        Where, for instance :data:`lunarray.oxides.REGION_A`.
    resolution : float, optional
        Pixel in the units of `crs`; by default about that of the result.
    crs : str or CRS
        "geographic" draws a box as a rectangle.

    Returns
    -------
    Dataset
        For each oxide and Mg# that both have: (panel, lat, lon) or (panel, y, x) with `panel` "reference", "result",
        "difference"; lazy where the maps are.

    Raises
    ------
    InputError
        No common variable, or no region.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, figures 10 to 13.
    """
    from lunarray.geo import RADIUS, moon_crs, pixel_size

    region = as_regions(region)[0]
    names = [n for n in table_variables(result) if n in reference]
    if not names:
        raise InputError(
            "no variable is in both", where="region_maps", remedy="give maps of the same oxides"
        )
    if resolution is None:
        metres = pixel_size(geobox_of(result))
        resolution = metres
        if moon_crs(crs).is_geographic:
            # A degree holds whole pixels, so that none overhangs a border.
            resolution = 1 / max(1, round(1 / float(np.rad2deg(metres / RADIUS))))
    grid = region_grid(region, resolution, crs)
    found = reproject(result[names], grid, method="auto")
    there = reproject(reference[names], grid, method="auto")
    out = {}
    for name in names:
        panels = [there[name], found[name], _minus(found[name], there[name])]
        out[name] = xr.concat(
            panels, dim="panel", coords="minimal", compat="override", join="override", combine_attrs="override"
        )  # fmt: skip
        out[name].attrs = dict(found[name].attrs)
    ds = xr.Dataset(out).assign_coords(panel=["reference", "result", "difference"])
    ds.attrs["region"] = region.name
    return assign_crs(ds, grid)
