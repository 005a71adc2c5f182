"""Maps of the same quantities beside each other: on one grid, and the difference."""

from __future__ import annotations

from typing import Any

import xarray as xr

from lunarray.errors import InputError
from lunarray.geo import Method, geobox_of, reproject, spatial_dims
from lunarray.oxides.regions import table_variables


def matched(
    result: Any,
    reference: Any,
    *,
    method: Method = "auto",
    variables: list[str] | None = None,
) -> tuple[Any, Any]:
    """Bring a result and a reference onto the result's grid, with the variables that both have, oxides first.

    Both are Datasets or both DataArrays, on any lunar grids; see :func:`lunarray.oxides.difference`.
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
                remedy="Give both as Datasets, or both as DataArrays",
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
                remedy=f"The result has {', '.join(map(str, result.data_vars))}; the reference has "
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


def less(result: xr.DataArray, reference: xr.DataArray) -> xr.DataArray:
    """Result less reference, with a name that says so."""
    reference = reference.transpose(*result.dims)
    data = result.data - reference.data
    name = str(result.attrs.get("long_name", result.name))
    out = result.drop_vars([c for c in result.coords if c not in result.dims]).copy(data=data)
    out.attrs = {"long_name": f"{name}, result less reference", "units": result.attrs.get("units", "1")}  # fmt: skip
    return out
