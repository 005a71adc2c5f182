"""Statistics of maps over regions, true to area."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.geo.coverage import coverage, pixel_area, region_window
from lunarray.geo.georeference import geobox_of, spatial_dims
from lunarray.geo.regions import Circle, Region, as_regions, region_name
from lunarray.typing import typed

#: Statistics besides the percentiles, in order.
_MOMENTS = ("count", "mean", "std", "min", "max")


@typed
def region_statistics(
    obj: xr.Dataset | xr.DataArray,
    regions: Any,
    *,
    percentiles: Sequence[float] = (5.0, 50.0, 95.0),
    variables: Sequence[str] | None = None,
) -> xr.Dataset:
    """Compute statistics of maps in regions.

    Every pixel weighs as much as the area on the ground that it shares with the region: on the sphere, not on the map,
    and with the part of it that a border leaves inside.

    Parameters
    ----------
    obj : Dataset or DataArray
        Maps with dimensions (y, x) or (lat, lon) and a lunar CRS.
    regions : region, sequence of regions, GeoDataFrame or path
        What :func:`lunarray.geo.as_regions` takes.
    percentiles : sequence of float
        0 to 100; none may be given.
    variables : sequence of str, optional
        Of a Dataset; by default every two-dimensional floating one.

    Returns
    -------
    Dataset
        For each variable (region, statistic), float64, lazy where the map is: ``count`` (pixels, in parts), ``mean``,
        ``std`` (of the population), ``min``, ``max`` and ``p5``, ``p50``, … Coordinates along `region`: its name,
        ``abbreviation``, ``lon`` and ``lat`` of its middle. Where a region holds no finite value, count is 0 and the
        rest NaN.

    Raises
    ------
    InputError
        No maps, no regions, or percentiles that are none.

    Notes
    -----
    Of a lazy map only the blocks around the regions are computed. Percentiles are of the weighted values, by linear
    interpolation between the middles of their weights; for them all values of one region are in memory at once.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> maps = scene.lunar.invert_oxides()
    >>> pole = la.geo.Circle(0.0, 90.0, 60_000, name="pole")
    >>> statistics = la.geo.region_statistics(maps, pole, variables=["FeO"])
    >>> statistics["FeO_mean"].shape if "FeO_mean" in statistics else list(statistics.data_vars)
    ['FeO']
    """
    found = as_regions(regions)
    ds = obj.to_dataset(name=obj.name or "value") if isinstance(obj, xr.DataArray) else obj
    dims = spatial_dims(ds)
    if dims is None:
        raise InputError(
            f"no map: the dimensions are {tuple(map(str, ds.dims))}",
            where="region_statistics",
            remedy="Give dimensions (y, x) or (lat, lon)",
        )
    names = _maps(ds, dims, variables)
    levels = [float(p) for p in percentiles]
    if any(not 0 <= p <= 100 for p in levels):
        raise InputError(
            f"percentiles {levels}", where="percentiles", remedy="Give numbers from 0 to 100"
        )
    geobox = geobox_of(ds)
    lazy = any(ds[n].chunks is not None for n in names)
    results = [_of_region(ds[names], dims, region, geobox, levels, lazy) for region in found]
    if lazy:
        import dask.array as da

        values = da.stack(results)
    else:
        values = np.stack(results)

    out = xr.Dataset(
        {
            name: (
                ("region", "statistic"),
                values[:, index],
                {
                    k: v
                    for k, v in ds[name].attrs.items()
                    if k in ("long_name", "units", "standard_name")
                },
            )
            for index, name in enumerate(names)
        },
        coords=_coords(found, levels),
        attrs={k: ds.attrs[k] for k in ("source", "model", "model_sha256") if k in ds.attrs},
    )
    out["statistic"].attrs["comment"] = "weighted by area on the ground; count in pixels"
    return out


def _maps(ds: xr.Dataset, dims: tuple[str, str], variables: Sequence[str] | None) -> list[Any]:
    """Names of the maps to look at."""
    if variables is None:
        names = [
            n for n, v in ds.data_vars.items() if set(v.dims) == set(dims) and v.dtype.kind == "f"
        ]
    else:
        names = list(variables)
    lacking = [n for n in names if n not in ds or set(ds[n].dims) != set(dims)]
    if lacking or not names:
        raise InputError(
            f"no map {', '.join(map(str, lacking))}" if lacking else "there is no map",
            where="variables",
            remedy=f"Choose among {', '.join(map(str, ds.data_vars)) or 'none'}",
        )
    return names


def _coords(found: list[Region], levels: list[float]) -> dict[str, Any]:
    caps = [r.cap() for r in found]
    coords = {
        "region": ("region", [region_name(r, i) for i, r in enumerate(found)]),
        "statistic": ("statistic", [*_MOMENTS, *(f"p{p:g}" for p in levels)]),
        "abbreviation": ("region", [r.abbreviation or region_name(r, i) for i, r in enumerate(found)]),
        "lon": ("region", [c[0] for c in caps], {"long_name": "longitude of the middle", "units": "degrees_east"}),
        "lat": ("region", [c[1] for c in caps], {"long_name": "latitude of the middle", "units": "degrees_north"}),
    }  # fmt: skip
    if all(isinstance(r, Circle) for r in found):
        radii = [r.radius for r in found if isinstance(r, Circle)]
        coords["radius"] = ("region", radii, {"long_name": "radius", "units": "m"})
    return coords


def _of_region(
    ds: xr.Dataset,
    dims: tuple[str, str],
    region: Region,
    geobox: Any,
    levels: list[float],
    lazy: bool,
) -> Any:
    rows, columns = region_window(region, geobox)
    shape = (len(ds.data_vars), len(_MOMENTS) + len(levels))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return _summarise([], shape[0], levels)
    part = ds.isel({dims[0]: rows, dims[1]: columns})
    maps = [part[name].transpose(*dims).data for name in part.data_vars]
    if not lazy:
        stack = np.stack([np.asarray(m) for m in maps])
        piece = _collect(stack, region, geobox, rows.start, columns.start, bool(levels))
        return _summarise([piece], shape[0], levels)
    import dask.array as da
    from dask import delayed

    chunked = next(m for m in maps if hasattr(m, "dask"))
    maps = [m if hasattr(m, "dask") else da.from_array(np.asarray(m), chunked.chunks) for m in maps]
    blocks = da.stack(maps).rechunk({0: -1, 1: chunked.chunks[0], 2: chunked.chunks[1]})
    starts = [np.concatenate([[0], np.cumsum(s)]) for s in blocks.chunks[1:]]
    collect, summarise = delayed(_collect, pure=True), delayed(_summarise, pure=True)
    tasks = blocks.to_delayed(optimize_graph=False)[0]
    pieces = [
        collect(
            tasks[i, j], region, geobox, rows.start + int(starts[0][i]), columns.start + int(starts[1][j]), bool(levels)
        )
        for i in range(tasks.shape[0])
        for j in range(tasks.shape[1])
    ]  # fmt: skip
    return da.from_delayed(
        summarise(pieces, shape[0], levels), shape, dtype=np.float64, meta=np.empty((0, 0))
    )


def _collect(
    block: np.ndarray, region: Region, geobox: Any, row: int, column: int, keep: bool
) -> list[tuple[float, ...] | Any]:
    """For each variable of a block: what its moments need, and its values and weights if they are to be kept."""
    rows, columns = (row, row + block.shape[1]), (column, column + block.shape[2])
    share = coverage(region, geobox, rows, columns)
    at = np.flatnonzero(share > 0)
    if not at.size:
        return []
    weight = (share * pixel_area(geobox, rows, columns)).ravel()[at]
    share = share.ravel()[at]
    out: list[Any] = []
    for layer in block:
        values = layer.ravel()[at].astype(np.float64)
        good = np.isfinite(values) & np.isfinite(weight)
        v, w = values[good], weight[good]
        total = float(w.sum())
        mean = float((w * v).sum() / total) if total else 0.0
        out.append(
            (
                float(share[good].astype(np.float64).sum()),
                total,
                mean,
                float((w * (v - mean) ** 2).sum()),
                float(v.min()) if v.size else np.inf,
                float(v.max()) if v.size else -np.inf,
                (v, w) if keep else None,
            )
        )
    return out


def _summarise(pieces: list[Any], variables: int, levels: list[float]) -> np.ndarray:
    out = np.full((variables, len(_MOMENTS) + len(levels)), np.nan)
    out[:, 0] = 0.0
    for index in range(variables):
        parts = [piece[index] for piece in pieces if piece and piece[index][1] > 0]
        if not parts:
            continue
        count, total, mean, spread = 0.0, 0.0, 0.0, 0.0
        # Means and squares of parts are merged, not summed: no digits are lost (Chan et al. 1983).
        for n, w, m, s, *_ in parts:
            step = m - mean
            spread += s + step**2 * total * w / (total + w)
            mean += step * w / (total + w)
            total += w
            count += n
        low, high = min(p[4] for p in parts), max(p[5] for p in parts)
        out[index, :5] = count, mean, np.sqrt(spread / total), low, high
        if levels:
            values = np.concatenate([p[6][0] for p in parts])
            weights = np.concatenate([p[6][1] for p in parts])
            order = np.argsort(values, kind="stable")
            values, weights = values[order], weights[order]
            middle = (np.cumsum(weights) - weights / 2) / weights.sum()
            out[index, 5:] = np.interp(np.asarray(levels) / 100, middle, values)
    return out
