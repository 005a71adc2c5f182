"""Maps on another grid, chunk by chunk: the one resampler of rasters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lunarray.errors import InputError, require_choice
from lunarray.geo.crs import BODIES, NAMED_CRS, body_of, require_body
from lunarray.geo.georeference import (
    assign_grid,
    geobox_of,
    grid_dims,
    require_aligned,
    spatial_dims,
)
from lunarray.geo.grid import covering_box, lunar_grid
from lunarray.geo.sampling import Sampler, Window, fill_of, sampler_of
from lunarray.typing import T, typed

if TYPE_CHECKING:
    import xarray as xr
    from odc.geo.geobox import GeoBox

Method = Literal["auto", "nearest", "bilinear", "average"]

METHODS = ("auto", "nearest", "bilinear", "average")
#: Side of the target's chunks where the source is chunked and none is given.
CHUNK = 512


def reproject(
    obj: T,
    like: Any,
    *,
    method: Method = "auto",
    min_valid: float = 0.5,
    chunks: int | tuple[int, int] | None = None,
) -> T:
    """Bring maps onto another grid, or to another resolution.

    Parameters
    ----------
    obj : Dataset or DataArray
        Maps with dimensions (y, x) or (lat, lon) and any others before them, of the Moon or of Mercury; of a Dataset,
        the variables that have them.
    like : GeoBox, Dataset, DataArray, str or float
        Where to: a grid of the same body, what lies on one, or of the Moon what :func:`lunarray.geo.lunar_grid` takes;
        a number is another pixel in the units of the map's own CRS.
    method : {"auto", "nearest", "bilinear", "average"}
        "nearest" takes the pixel that holds the place; "bilinear" weighs the four around it; "average" is the mean of
        the source over the target pixel, by points no further apart than half a source pixel (at most 32 × 32 of
        them). "auto" averages where the source is finer than the target by a third or more, else is bilinear;
        booleans, and numbers that are flags (``flag_values`` or ``flag_masks`` of CF), it takes from the nearest.
    min_valid : float
        A bilinear or averaged value is NaN where less than this share of its weight was finite; the rest is weighed
        up.
    chunks : int or tuple of int, optional
        Chunks of the result where the source is lazy; 512 by default.

    Returns
    -------
    same type as `obj`
        On the new grid with its CRS, NaN outside of the source; lazy where the source is. Whole numbers and booleans
        keep their type where the nearest is taken (outside they are -1, unsigned ones the largest, booleans False),
        else become float32. The same for any chunks, across the poles and the ±180° meridian.

    Raises
    ------
    InputError
        An unknown method or no map.
    GridError
        A grid that does not describe a place.
    BodyMismatchError
        A grid of another body.

    Notes
    -----
    Longitudes repeat: a source around the whole body has no edge at ±180°, nor, where it reaches ±90° in longitude
    and latitude, at the pole. Positions are those of PROJ, as closely as a thousandth of a source pixel.

    Examples
    --------
    >>> import lunarray as la
    >>> albedo = la.sample("albedo")
    >>> coarse = la.geo.reproject(albedo, la.geo.lunar_grid("geographic", resolution=1.0))
    >>> coarse.shape
    (180, 360)
    """
    import xarray as xr

    check_method(method, min_valid)
    spatial = spatial_dims(obj) or ("y", "x")
    source = geobox_of(obj, BODIES)
    target: GeoBox = _target(like, source)
    for box in (source, target):
        require_aligned(box)

    def one(array: xr.DataArray) -> xr.DataArray:
        lead: list[Any] = [dim for dim in array.dims if dim not in spatial]
        array = array.transpose(*lead, *spatial)
        own = _own_method(array, method)
        sampler = sampler_of(source, target, own, min_valid)
        data = array.data
        if data.dtype.kind not in "f" and own != "nearest":
            data = data.astype(np.float32)
        if array.chunks is not None:
            values = _lazy(sampler, data, chunks)
        else:
            rows, columns = target.shape
            values = sampler.sample(np.asarray(data), None, (0, rows), (0, columns))
        kept = {
            name: c
            for name, c in array.coords.items()
            if not set(c.dims) & set(spatial) and name != "spatial_ref"
        }
        attrs = {k: v for k, v in array.attrs.items() if k not in ("grid_mapping", "crs")}
        return xr.DataArray(
            values, dims=(*lead, *grid_dims(target)), coords=kept, name=array.name, attrs=attrs
        )

    if isinstance(obj, xr.DataArray):
        return assign_grid(typed(one(obj)), target)
    maps = {
        name: one(variable)
        for name, variable in obj.data_vars.items()
        if set(spatial) <= set(variable.dims)
    }
    if not maps:
        raise InputError("no map to reproject", remedy="Give variables on (y, x) or (lat, lon)")
    return assign_grid(typed(xr.Dataset(maps, attrs=dict(obj.attrs))), target)


def check_method(method: str, min_valid: float) -> None:
    """Raise where a method of resampling, or a share of what must be valid, is none."""
    require_choice("method", method, METHODS)
    if not 0 < min_valid <= 1:
        raise InputError(
            f"{min_valid} is no share", where="min_valid", remedy="Give more than 0, at most 1"
        )


def _target(like: Any, source: GeoBox) -> GeoBox:
    from odc.geo.geobox import GeoBox

    if isinstance(like, (float, int, np.number)) and f"IAU_2015:{like}" not in NAMED_CRS.values():
        return covering_box(tuple(source.boundingbox), float(like), source.crs)
    target: GeoBox = like
    if not isinstance(like, GeoBox):
        target = geobox_of(like, BODIES) if hasattr(like, "dims") else lunar_grid(like)
    require_body(target.crs, body_of(source.crs) or BODIES, "like")
    return target


def _own_method(array: xr.DataArray, method: str) -> str:
    kind = array.dtype.kind
    if kind not in "fiub":
        raise InputError(
            f"values of type {array.dtype}", where=str(array.name), remedy="Give numbers"
        )
    flags = kind != "f" and {"flag_values", "flag_masks"} & set(array.attrs)
    return "nearest" if method == "auto" and (kind == "b" or flags) else method


def _lazy(sampler: Sampler, data: Any, chunks: Any) -> Any:
    import dask.array as da

    from lunarray.engine.graph import assemble

    sizes = da.core.normalize_chunks(
        (CHUNK, CHUNK) if chunks is None else chunks,
        shape=tuple(sampler.target.shape),
        dtype=data.dtype,
    )
    edges = [np.concatenate([[0], np.cumsum(s)]).tolist() for s in sizes]
    needed = dict(sampler.windows(*edges))

    def needs(index: tuple[int, ...]) -> list[Any]:
        *lead, i, j = index
        rows, columns = (edges[0][i], edges[0][i + 1]), (edges[1][j], edges[1][j + 1])
        window = needed.get((i, j))
        extra = tuple(data.chunks[axis][k] for axis, k in enumerate(lead))
        blocks = [] if window is None else blocks_of(data, window, tuple(lead))
        return [extra, window, rows, columns, [c for c, _ in blocks], [b for _, b in blocks]]

    return assemble(
        _run_block,
        (*data.chunks[:-2], *sizes),
        needs=needs,
        dtype=data.dtype,
        meta=np.empty((0,) * data.ndim, data.dtype),
        name="reproject",
        token=(sampler, data.name),
        kwargs={"sampler": sampler, "dtype": data.dtype},
    )


def blocks_of(
    data: Any, window: Window, lead: tuple[int, ...] = ()
) -> list[tuple[tuple[int, int], Any]]:
    """Blocks of a Dask array that a part of it needs, each with its first row and column."""
    from lunarray.engine.graph import Block

    starts = [np.concatenate([[0], np.cumsum(s)]) for s in data.chunks[-2:]]
    spans = [(window.top, window.bottom)], [(window.left, window.right)]
    width = int(starts[1][-1])
    if window.right > width:
        # Over the seam, the first columns follow the last.
        spans[1][0] = (window.left, width)
        spans[1].append((0, window.right - width))
    numbers: tuple[list[int], list[int]] = ([], [])
    for axis in (0, 1):
        for low, high in spans[axis]:
            first = int(np.searchsorted(starts[axis], low, side="right")) - 1
            last = int(np.searchsorted(starts[axis], high, side="left"))
            numbers[axis].extend(k for k in range(first, last) if k not in numbers[axis])
    return [
        ((int(starts[0][a]), int(starts[1][b])), Block(data, (*lead, a, b)))
        for a in numbers[0]
        for b in numbers[1]
    ]


def _run_block(
    extra: tuple[int, ...],
    window: Window | None,
    rows: tuple[int, int],
    columns: tuple[int, int],
    corners: list[tuple[int, int]],
    blocks: list[np.ndarray],
    *,
    sampler: Sampler,
    dtype: Any,
) -> np.ndarray:
    if window is None or not blocks:
        shape = (*extra, rows[1] - rows[0], columns[1] - columns[0])
        return np.full(shape, fill_of(dtype), dtype)
    part = sampler.part(window, [(*at, block) for at, block in zip(corners, blocks, strict=True)])
    return sampler.sample(part, window, rows, columns)
