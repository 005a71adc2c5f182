"""Element maps of several sources on one grid, and how well they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.geo import assign_grid, geobox_of, lunar_grid, pixel_size, reproject, spatial_dims
from lunarray.maps.api import rasterize_cells
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.units import WEIGHT
from lunarray.xrf import ELEMENTS, oxides_to_elements

__all__ = ["compare_elements"]


@typed
def compare_elements(
    maps: xr.Dataset,
    others: Mapping[str, xr.Dataset | xr.DataArray],
    *,
    grid: Any = None,
    elements: Sequence[str] | None = None,
    name: str = "maps",
) -> xr.Dataset:
    """Bring element maps of several sources onto one grid, and compare each with the first.

    Parameters
    ----------
    maps : Dataset
        Element maps: ``abundance`` with dimension ``element``, such as :func:`lunarray.superres.superresolve` gives;
        or elements (``Fe``) or oxides (``FeO``) as variables, in wt%.
    others : mapping of str to Dataset or DataArray
        By the name of the source: the same, or a map named after its element, or cells of
        :func:`lunarray.maps.open_lunar_prospector`. Oxides are turned into elements.
    grid : GeoBox, Dataset, DataArray, str or float, optional
        Where to, as for :func:`lunarray.geo.reproject`. By default the extent of `maps` with the pixels of the coarsest
        raster, so that a fine map is held against a coarse one by its means.
    elements : sequence of str, optional
        By default those that `maps` and one other at least have.
    name : str
        What to call `maps` among the sources.

    Returns
    -------
    Dataset
        float32, lazy where `maps` or one of `others` is: ``abundance`` (source, element, y, x), wt%, NaN where a source
        has none; and of each source against the first, with pixels weighed by their area, ``bias``, ``rmse`` (wt%),
        ``r`` and ``pixels`` (source, element).

    Raises
    ------
    InputError
        If a source has no elements, or none in common with `maps`.
    GridError
        If a map has no grid.

    Examples
    --------
    >>> fe = open_map("LPFe_Map.csv.gz", name="Fe")  # doctest: +SKIP
    >>> compare_elements(maps, {"Lunar Prospector": fe}).r.sel(element="Fe")  # doctest: +SKIP
    """
    first = _elements(maps, name)
    cells = {n: o for n, o in others.items() if "cell" in getattr(o, "dims", ())}
    rasters = {n: _elements(o, n) for n, o in others.items() if n not in cells}
    if not others:
        raise InputError("no other source", where="others", remedy="Give {'Lunar Prospector': ...}")
    box = _box(first, list(rasters.values()), grid)
    sources = {name: first, **{n: rasters.get(n) for n in others}}
    for n, table in cells.items():
        table = table.to_dataset() if isinstance(table, xr.DataArray) else table
        wanted = [str(v) for v in table.data_vars if table[v].dims == ("cell",)]
        sources[n] = _elements(rasterize_cells(table, box, variables=wanted), n)
    there = {n: [str(e) for e in s["element"].values] for n, s in sources.items() if s is not None}
    common = [e for e in there[name] if any(e in own for n, own in there.items() if n != name)]
    chosen = common if elements is None else list(elements)
    odd = [e for e in chosen if e not in common]
    if not chosen or odd:
        raise InputError(
            f"no {', '.join(odd) or 'element'} in both {name} and another source",
            where="compare_elements",
            remedy=f"Choose from {', '.join(common)}"
            if common
            else "Give maps of the same elements",
        )
    layers = [
        reproject(own, box)
        .reindex(element=chosen)
        .astype("f4")
        .drop_vars("spatial_ref", errors="ignore")
        for own in sources.values()
        if own is not None
    ]
    joined = xr.concat(
        layers,
        xr.Variable("source", list(sources)),
        join="override",
        coords="minimal",
        compat="override",
    )
    joined = assign_grid(joined.rename("abundance"), box)
    joined.attrs = {"units": WEIGHT, "long_name": "abundance"}
    return stamp(_statistics(joined, box), "compare_elements")


def _elements(obj: Any, source: str) -> xr.DataArray:
    """Abundances (element, y, x) of a source, whichever way it has them."""
    remedy = "Give abundance (element, y, x), elements or oxides as variables, or a map named after its element"
    if isinstance(obj, xr.DataArray) and "element" not in obj.dims and str(obj.name) in ELEMENTS:
        obj = obj.to_dataset(name=str(obj.name))
    elif isinstance(obj, xr.DataArray) and "element" in obj.dims:
        obj = obj.to_dataset(name="abundance")
    if not isinstance(obj, xr.Dataset):
        raise InputError(f"a {type(obj).__name__} without element", where=source, remedy=remedy)
    if "abundance" not in obj.data_vars:
        own = [e for e in ELEMENTS if e in obj.data_vars]
        if own:
            arrays = [obj[e] for e in own]
            values = xr.concat(arrays, xr.Variable("element", own), coords="minimal", compat="override")  # fmt: skip
            obj = values.to_dataset(name="abundance")
        else:
            obj = oxides_to_elements(obj)
    array = obj["abundance"]
    dims = spatial_dims(array)
    if dims is None or "element" not in array.dims or array.ndim != 3:
        raise InputError(f"dimensions {tuple(map(str, array.dims))}", where=source, remedy=remedy)
    return array.transpose("element", *dims)


def _box(first: xr.DataArray, rasters: list[xr.DataArray], grid: Any) -> Any:
    """The grid to compare on."""
    if grid is not None and not isinstance(grid, (int, float)):
        return lunar_grid(grid)
    own = geobox_of(first)
    if grid is None:
        coarsest = max(pixel_size(geobox_of(r)) for r in [first, *rasters])
        if coarsest <= pixel_size(own) * 1.001:
            return own
        grid = abs(own.resolution.x) * coarsest / pixel_size(own)
    blank = xr.zeros_like(first.isel(element=0, drop=True)).compute()
    return geobox_of(reproject(blank, float(grid)))


def _statistics(joined: xr.DataArray, box: Any) -> xr.Dataset:
    """Bias, error and correlation of each source against the first."""
    dims = spatial_dims(joined) or ("lat", "lon")
    area = xr.ones_like(joined[dims[0]], dtype="f8")
    if dims[0] == "lat":
        area = area.copy(data=np.cos(np.deg2rad(joined["lat"].values)))
    first = joined.isel(source=0, drop=True).astype("f8")
    each = joined.astype("f8")
    both = first.notnull() & each.notnull()
    weight = (area * both).where(both, 0.0)
    total = weight.sum(dims)

    def mean(values: xr.DataArray) -> xr.DataArray:
        return (values.where(both, 0.0) * weight).sum(dims) / total.where(total > 0)

    a, b = mean(first * xr.ones_like(each)), mean(each)
    da, db = first - a, each - b
    spread = (mean(da**2) * mean(db**2)) ** 0.5
    out = xr.Dataset({"abundance": joined})
    out["bias"] = (b - a).assign_attrs(units=WEIGHT, long_name="mean difference from the first")
    out["rmse"] = (mean((each - first) ** 2) ** 0.5).assign_attrs(units=WEIGHT)
    out["r"] = mean(da * db) / spread.where(spread > 1e-8)
    out["r"].attrs = {"units": "1", "long_name": "correlation with the first"}
    out["pixels"] = both.sum(dims).assign_attrs(units="1")
    return out.transpose("source", "element", *dims)
