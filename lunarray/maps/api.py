"""What is done with tables of cells: maps of them, and their values at places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from lunarray.engine.graph import known_values
from lunarray.errors import InputError
from lunarray.geo import assign_crs, grid_coords, grid_dims, lonlat, lunar_grid
from lunarray.maps.kernels import find_cells, take_cells
from lunarray.store.provenance import stamp
from lunarray.typing import typed

__all__ = ["cells_at", "rasterize_cells"]

_BOUNDS = ("lon_bounds", "lat_bounds")
_REMEDY = "Give cells as lunarray.maps.open_lunar_prospector gives them"


@typed
def rasterize_cells(
    ds: xr.Dataset,
    grid: Any = "geographic",
    *,
    resolution: float | None = None,
    variables: Sequence[str] | str | None = None,
    chunks: int | tuple[int, int] | None = None,
) -> xr.Dataset:
    """Turn a table of cells into maps: each pixel takes the values of the cell that its centre lies in.

    Parameters
    ----------
    ds : xarray.Dataset
        Cells, as :func:`lunarray.maps.open_lunar_prospector` gives them: variables along ``cell``, and the edges of
        the cells ``lat_bounds`` and ``lon_bounds`` (cell, bound; degrees).
    grid : str, GeoBox or xarray object
        As in :func:`lunarray.geo.lunar_grid`: pass a map of oxides to get the cells on its pixels.
    resolution : float, optional
        Pixel size, metres or degrees (default 0.5°).
    variables : sequence of str, optional
        Which to map; by default every floating variable that has no dimension but ``cell``.
    chunks : int or (int, int), optional
        Spatial chunks (y, x) of the result, which is lazy then, and where a variable is.

    Returns
    -------
    xarray.Dataset
        The variables under their names, (..., y, x) or (..., lat, lon); NaN where no cell is.

    Raises
    ------
    InputError
        If `ds` is no Dataset of cells with their edges, or has no such variable.
    GridError
        If the grid cannot be made.

    Examples
    --------
    >>> cells = open_lunar_prospector("lpgrs_high1_elem_abundance_5deg.tab")  # doctest: +SKIP
    >>> rasterize_cells(cells, "north", resolution=5000, variables=["FeO", "FeO_std"])  # doctest: +SKIP
    """
    bounds = _bounds_of(ds, "rasterize_cells")
    names = _variables(ds, variables)
    geobox = lunar_grid(grid, resolution)
    lazy = chunks is not None or any(ds[name].chunks is not None for name in names)
    if lazy:
        import dask.array as da

        lon, lat = lonlat(geobox, 1024 if chunks is None else chunks)
        index = da.map_blocks(
            find_cells,
            lon,
            lat,
            # By keyword: an array among the arguments would be cut into blocks as well.
            lon_bounds=bounds[0],
            lat_bounds=bounds[1],
            dtype=np.int64,
            meta=np.empty((0, 0), np.int64),
        )
    else:
        index = find_cells(*lonlat(geobox), *bounds)
    dims = grid_dims(geobox)
    taken = {name: _taken(ds[name], index, dims) for name in names}
    kept = _kept(ds, names)
    out = xr.Dataset(taken, {**kept, **grid_coords(geobox)}, dict(ds.attrs))
    rows, columns = geobox.shape
    return assign_crs(
        stamp(out, f"rasterize_cells: {ds.sizes['cell']} cells on {rows} x {columns} pixels"),
        geobox,
    )


@typed
def cells_at(
    ds: xr.Dataset, lon: Any, lat: Any, *, variables: Sequence[str] | str | None = None
) -> xr.Dataset:
    """Look places up in a table of cells: each takes the values of the cell that it lies in.

    Parameters
    ----------
    ds : xarray.Dataset
        Cells, as for :func:`lunarray.maps.rasterize_cells`.
    lon, lat : float, array_like or DataArray
        Degrees, any range of longitudes, of one shape; read now. Those of tracks give values along ``observation``.
    variables : sequence of str, optional
        Which; by default every floating variable that has no dimension but ``cell``.

    Returns
    -------
    xarray.Dataset
        The variables under their names, with the dimensions of `lon` (``place`` where it is a plain list) in the
        stead of ``cell``; NaN where no cell is. Coordinates ``lon``, ``lat`` are those given. Lazy where
        `ds` is.

    Raises
    ------
    InputError
        If `ds` is no Dataset of cells with their edges, or `lon` and `lat` differ in shape.

    Examples
    --------
    >>> cells = open_lunar_prospector("lpgrs_high1_elem_abundance_5deg.tab")  # doctest: +SKIP
    >>> float(cells_at(cells, lon=358.6, lat=-13.9).FeO)  # doctest: +SKIP
    10.08
    """
    bounds = _bounds_of(ds, "cells_at")
    places = [xr.DataArray(v) if not isinstance(v, xr.DataArray) else v for v in (lon, lat)]
    plain = [
        p.rename(dict.fromkeys(p.dims, "place")) if not isinstance(v, xr.DataArray) and p.ndim == 1 else p
        for v, p in zip((lon, lat), places, strict=True)
    ]  # fmt: skip
    if plain[0].dims != plain[1].dims or plain[0].shape != plain[1].shape:
        raise InputError(
            f"lon has the shape {plain[0].shape} and lat {plain[1].shape}",
            where="cells_at",
            remedy="Give longitudes and latitudes of the same places",
        )
    index = find_cells(plain[0].values, plain[1].values, *bounds)
    dims = tuple(map(str, plain[0].dims))
    names = _variables(ds, variables)
    taken = {name: _taken(ds[name], index, dims) for name in names}
    units = {"lon": "degrees_east", "lat": "degrees_north"}
    own = {
        n: (dims, p.values, {"units": u}) for (n, u), p in zip(units.items(), plain, strict=True)
    }
    return stamp(xr.Dataset(taken, {**_kept(ds, names), **own}, dict(ds.attrs)), "cells_at")


def _bounds_of(ds: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(ds, xr.Dataset):
        raise InputError(f"a {type(ds).__name__} is no Dataset", where=where, remedy=_REMEDY)
    missing = [
        name
        for name in _BOUNDS
        if name not in ds.variables or set(ds[name].dims) != {"cell", "bound"}
    ]
    if missing:
        raise InputError(
            f"no {' and '.join(missing)} along cell and bound", where=where, remedy=_REMEDY
        )
    arrays = [ds[name] for name in _BOUNDS]
    known = [known_values(a.data) for a in arrays]
    if any(v is None for v in known):
        import dask

        known = list(dask.compute(*(a.data for a in arrays)))
    lon, lat = (
        np.asarray(v, np.float64) if a.dims[0] == "cell" else np.asarray(v, np.float64).T
        for a, v in zip(arrays, known, strict=True)
    )
    return lon, lat


def _variables(ds: xr.Dataset, wanted: Sequence[str] | str | None) -> list[str]:
    along = [str(n) for n, v in ds.data_vars.items() if "cell" in v.dims and v.dtype.kind == "f"]
    if wanted is None:
        names = [n for n in along if ds[n].dims == ("cell",)]
    else:
        names = [wanted] if isinstance(wanted, str) else list(dict.fromkeys(wanted))
    if not names or not set(names) <= set(along):
        odd = ", ".join(repr(n) for n in names if n not in along)
        raise InputError(
            f"no floating variable {odd} along cell".replace("  ", " "),
            where="variables",
            remedy=f"Choose among {', '.join(along)}" if along else _REMEDY,
        )
    return names


def _kept(ds: xr.Dataset, names: list[str]) -> dict[Any, Any]:
    """Coordinates of what is not along cells."""
    own = ds[names].coords
    return {n: c.variable for n, c in own.items() if "cell" not in c.dims and c.ndim}


def _taken(
    array: xr.DataArray, index: Any, dims: tuple[str, ...]
) -> tuple[tuple[Any, ...], Any, dict]:
    """A variable along cells at those of an index."""
    array = array.transpose(..., "cell")
    lead = array.dims[:-1]
    if array.chunks is None and isinstance(index, np.ndarray):
        return (*lead, *dims), take_cells(index, array.data), dict(array.attrs)
    import dask.array as da

    values = da.asarray(array.data).rechunk({array.ndim - 1: -1})
    places = da.asarray(index)
    n = len(lead)
    here = tuple(range(n, n + places.ndim))
    cells = n + places.ndim
    data = da.blockwise(
        take_cells, (*range(n), *here),
        places, here,
        values, (*range(n), cells),
        concatenate=True, dtype=array.dtype, meta=np.empty((0,) * (n + places.ndim), array.dtype),
    )  # fmt: skip
    return (*lead, *dims), data, dict(array.attrs)
