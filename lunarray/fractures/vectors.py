"""Masks to polygons: connected over a whole mosaic of any size, measured on the ground."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError
from lunarray.fractures.ground import Metric, box_of, metric_of, north_of
from lunarray.geo import BODIES, read_vectors, require_body, spatial_dims, transform_geometry

if TYPE_CHECKING:
    import geopandas
    from odc.geo.geobox import GeoBox

__all__ = ["COLUMNS", "read_vectors", "vectorize"]

#: Columns of the result of `vectorize`, with their units.
COLUMNS = {
    "id": "",
    "area": "m²",
    "length": "m",
    "width_mean": "m",
    "width_max": "m",
    "orientation": "degrees clockwise from north, 0 to 180",
    "elongation": "1",
    "probability": "1",
    "intersections": "",
    "branches": "",
    "pixels": "",
    "seam": "share of pixels",
    "lon": "degrees",
    "lat": "degrees",
}
# Pixels of features that are worked on at once: their tables take some 60 bytes each.
_BATCH = 2_000_000
# A branch shorter than this times the radius of what it grows from is a roughness of its border.
_SPUR = 1.0
# Outlines of the skeleton are simplified to this (pixels).
_SIMPLIFY = 0.25


def vectorize(
    mask: xr.DataArray | xr.Dataset,
    *,
    probability: xr.DataArray | None = None,
    source: xr.DataArray | None = None,
    min_area: float = 150.0,
    seam_distance: int = 3,
    seam_share: float = 0.5,
    within: Any = None,
    within_share: float = 0.5,
    connectivity: int = 8,
    centrelines: bool = True,
) -> geopandas.GeoDataFrame:
    """Outline and measure every connected feature of a mask.

    Components are connected over the whole mosaic, whatever its chunks, and the result is the same for any chunks. The
    mask is computed block by block; of each block only its runs of covered pixels are kept, so that memory grows with
    the features and not with the pixels.

    Parameters
    ----------
    mask : DataArray or Dataset
        (y, x), 1 or True where there is a feature; 0, 255 and whatever else is none. Of a Dataset, as
        :func:`lunarray.fractures.map_fractures` returns it, variable ``mask``, with ``probability`` and ``source``
        where it has them.
    probability : DataArray, optional
        For the mean probability of each feature; on the same grid.
    source : DataArray, optional
        Which image each pixel of a mosaic came from, as :func:`lunarray.fractures.mosaic` returns it; -1 is none.
        Features along its seams are dropped.
    min_area : float
        Smaller features are dropped; m² on the ground.
    seam_distance : int
        Pixels from a seam at which a pixel is near it.
    seam_share : float
        A feature is dropped if more than this share of its pixels is near a seam. 1 keeps all.
    within : GeoDataFrame, region or path, optional
        Units, such as a crater's floor and its melt ponds, in any CRS. Features outside are dropped.
    within_share : float
        Share of a feature's outline that must lie in the units.
    connectivity : {8, 4}
        Whether pixels that touch at a corner are connected.
    centrelines : bool
        Keep the skeletons as second geometry ``centreline``, which orientation and density are made from.

    Returns
    -------
    geopandas.GeoDataFrame
        In the CRS of the mask, in order of the first pixel of each feature. Its polygons run along the borders of
        pixels: in the units of the map, their area is exactly that of the pixels. On the ground: ``area`` (m²),
        ``length`` along the skeleton (m), ``width_mean`` (m, area by length) and ``width_max`` (m, of the largest
        circle about the skeleton that fits, apart from crossings), ``orientation`` of the longest axis (degrees
        clockwise from north, 0 to 180), ``elongation`` (longest by shortest axis of the ellipse with the same second
        moments), mean ``probability`` (NaN where none is given), ``intersections`` and ``branches`` of the skeleton,
        ``pixels``, the share near a ``seam``, and ``lon``, ``lat`` of the centroid (degrees). With `within`, ``unit``
        says which. Empty where there is none.

    Raises
    ------
    GridError
        If the mask is not georeferenced: areas are then unknown. Or if layers are on different grids.
    InputError
        If the mask does not consist of whole numbers or booleans, or a parameter is out of range.

    Notes
    -----
    ``frame["area"]`` and ``frame["length"]`` are these columns; the attributes ``frame.area`` and ``frame.length`` are
    geopandas' own, the area and the perimeter of the outlines on the map.

    Memory: some 60 to 110 bytes for each pixel of the largest feature (features are worked on in batches of two million
    pixels), and some 150 bytes for each run of covered pixels in a row; none for the rest of the mosaic.

    Circles are fitted between the stairs of the raster: across a line that is oblique to its rows, ``width_max`` is up
    to a pixel less than the line is wide, where ``width_mean`` is true.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, section 4.4: components smaller than 150 m² and those along
    the seams of the mosaic are dropped.
    """
    mask, probability, source = _layers(mask, probability, source)
    if connectivity not in (4, 8):
        raise InputError(f"connectivity={connectivity!r}", remedy="give 4 or 8")
    for name, value in (("min_area", min_area), ("seam_distance", seam_distance)):
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f"{name}={value!r}", where=name, remedy="give 0 or more")
    for name, value in (("seam_share", seam_share), ("within_share", within_share)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}={value!r}", where=name, remedy="give a share, 0 to 1")
    geobox = box_of(mask, "vectorising")
    metric = metric_of(geobox)
    units = None if within is None else _units(within, geobox)
    spans, sums = _all_runs(mask, probability, source, int(seam_distance))
    return _features(
        spans,
        sums,
        geobox,
        metric,
        min_area=float(min_area),
        seam_share=float(seam_share),
        units=units,
        within_share=float(within_share),
        reach=1 if connectivity == 8 else 0,
        with_probability=probability is not None,
        centrelines=centrelines,
    )


def _layers(mask: Any, probability: Any, source: Any) -> tuple[Any, Any, Any]:
    if isinstance(mask, xr.Dataset):
        if "mask" not in mask:
            raise InputError(
                f"no variable 'mask' among {', '.join(map(str, mask.data_vars)) or 'none'}",
                where="vectorize",
                remedy="give the result of map_fractures, or a DataArray",
            )
        probability = mask.get("probability") if probability is None else probability
        source = mask.get("source") if source is None else source
        mask = mask["mask"]
    if mask.dtype.kind not in "biu":
        raise InputError(
            f"a mask of type {mask.dtype}",
            where=str(mask.name or "mask"),
            remedy="give whole numbers or booleans, for instance probability > 0.5",
        )
    dims = spatial_dims(mask)
    if dims is None or mask.ndim != 2:
        raise GridError(
            f"no mask: the dimensions are {tuple(map(str, mask.dims))}", remedy="give (y, x)"
        )
    mask = mask.transpose(*dims)
    return mask, *(
        None if layer is None else same_grid(layer, mask, name)
        for layer, name in ((probability, "probability"), (source, "source"))
    )


def same_grid(layer: xr.DataArray, like: xr.DataArray, name: str) -> xr.DataArray:
    """Insist that a layer lies on the grid of another; it comes back with its dimensions in the same order."""
    if set(layer.dims) != set(like.dims) or any(layer.sizes[d] != like.sizes[d] for d in like.dims):
        raise GridError(
            f"{dict(layer.sizes)} pixels, where the mask or image has {dict(like.sizes)}",
            where=name,
            remedy="give layers on one grid; lunarray.geo.reproject(layer, like) brings one onto another",
        )
    for dim in like.dims:
        if dim in layer.coords and dim in like.coords:
            a, b = layer[dim].values, like[dim].values
            step = abs(b[-1] - b[0]) / max(b.size - 1, 1) or 1.0
            if np.abs(a - b).max() > 1e-3 * step:
                raise GridError(
                    f"its {dim} coordinates begin at {a[0]:g}, those of the mask or image at {b[0]:g}",
                    where=name,
                    remedy="give layers on one grid",
                )
    return layer.transpose(*like.dims)


# --- runs -----------------------------------------------------------------------------------------


def _all_runs(mask: Any, probability: Any, source: Any, distance: int) -> tuple[Any, Any]:
    """Runs of the whole mosaic in order of row and start, with their sums; joined where blocks meet."""
    from lunarray.fractures.run_kernels import join_runs

    layers: list[Any] = [mask.data]
    lazy = hasattr(mask.data, "dask")
    near = None if source is None else _near_seams(source.data, distance)
    extra: list[Any] = [None if probability is None else probability.data, near]
    if lazy or any(hasattr(layer, "dask") for layer in extra):
        import dask.array as da

        if not lazy:
            chunks = next(layer.chunks for layer in extra if hasattr(layer, "dask"))
            layers = [da.from_array(np.asarray(mask.data), chunks=chunks)]
        chunks = layers[0].chunks
        present = []
        for layer in extra:
            if layer is not None:
                layer = (
                    layer if hasattr(layer, "dask") else da.from_array(np.asarray(layer), chunks)
                )
                layers.append(layer.rechunk(chunks))
            present.append(layer is not None)
        # One object for each block: what is shared between the layers is computed once.
        blocks = da.map_blocks(
            _block_runs,
            *layers,
            present=tuple(present),
            dtype=object,
            meta=np.empty((0, 0), dtype=object),
            chunks=tuple((1,) * len(sizes) for sizes in chunks),
        ).compute()
        parts = [blocks[index] for index in np.ndindex(blocks.shape)]
    else:
        present = [layer is not None for layer in extra]
        layers += [np.asarray(layer) for layer in extra if layer is not None]
        parts = [_runs_of([np.asarray(layer) for layer in layers], tuple(present), 0, 0)]
    spans = np.concatenate([p[0] for p in parts])
    sums = np.concatenate([p[1] for p in parts])
    del parts
    if len(spans) > 1:
        order = np.lexsort((spans[:, 1], spans[:, 0]))
        spans, sums = spans[order], sums[order]
        kept = join_runs(spans, sums)
        spans, sums = spans[:kept], sums[:kept]
    return spans, sums


def _block_runs(*layers: np.ndarray, present: tuple[bool, ...], block_info: Any = None) -> Any:
    (row, _), (column, _) = block_info[0]["array-location"]
    out = np.empty((1, 1), dtype=object)
    out[0, 0] = _runs_of(list(layers), present, row, column)
    return out


def _runs_of(
    layers: list[np.ndarray], present: tuple[bool, ...], row: int, column: int
) -> tuple[np.ndarray, np.ndarray]:
    from lunarray.fractures.run_kernels import extract_runs

    mask, *rest = layers
    if mask.dtype == bool:
        mask = mask.view(np.uint8)
    elif mask.dtype != np.uint8:
        mask = (mask == 1).view(np.uint8)
    probability = (
        rest.pop(0).astype(np.float32, copy=False) if present[0] else np.empty((0, 0), np.float32)
    )
    near = rest.pop(0) if present[1] else np.empty((0, 0), np.uint8)
    return extract_runs(
        np.ascontiguousarray(mask),
        np.ascontiguousarray(probability),
        np.ascontiguousarray(near),
        row,
        column,
    )


def _near_seams(source: Any, distance: int) -> Any:
    """1 where another image begins within `distance` pixels."""
    if not hasattr(source, "dask"):
        return _seams(np.asarray(source), distance=distance)
    import dask.array as da

    return da.map_overlap(
        _seams,
        source,
        distance=distance,
        depth=distance + 1,
        boundary=-1,
        dtype=np.uint8,
        meta=np.empty((0, 0), np.uint8),
    )


def _seams(source: np.ndarray, *, distance: int) -> np.ndarray:
    from scipy.ndimage import maximum_filter

    seam = np.zeros(source.shape, np.uint8)
    for axis in (0, 1):
        a = source[1:] if axis == 0 else source[:, 1:]
        b = source[:-1] if axis == 0 else source[:, :-1]
        border = (a != b) & (a >= 0) & (b >= 0)
        if axis == 0:
            seam[1:] |= border
            seam[:-1] |= border
        else:
            seam[:, 1:] |= border
            seam[:, :-1] |= border
    if distance > 1 and seam.any():
        seam = maximum_filter(seam, size=2 * (distance - 1) + 1, mode="constant")
    return seam if distance else np.zeros_like(seam)


# --- features -------------------------------------------------------------------------------------


def _features(
    spans: np.ndarray,
    sums: np.ndarray,
    geobox: GeoBox,
    metric: Metric,
    *,
    min_area: float,
    seam_share: float,
    units: Any,
    within_share: float,
    reach: int,
    with_probability: bool,
    centrelines: bool,
) -> geopandas.GeoDataFrame:
    import geopandas
    import pandas as pd

    from lunarray.fractures.run_kernels import PROBABILITY_UNIT, label_runs, run_areas

    labels, count = label_runs(spans, np.array([0, len(spans)], np.int64), reach)
    lengths = (spans[:, 2] - spans[:, 1]).astype(np.int64)
    # Whole numbers, or sums in the order of the runs: no chunk changes a bit.
    pixels = _sum_by(labels, lengths, count)
    area = np.bincount(labels, weights=run_areas(spans, metric.tensor, metric.step), minlength=count)  # fmt: skip
    near = _sum_by(labels, sums[:, 2], count) / np.maximum(pixels, 1)
    total, finite = (_sum_by(labels, sums[:, k], count) for k in (0, 1))
    with np.errstate(invalid="ignore"):
        mean = total * PROBABILITY_UNIT / np.where(finite > 0, finite, np.nan)
    keep = (area >= min_area) & (near <= seam_share)
    # By component, each in order of row and start.
    order = np.argsort(labels, kind="stable")
    order = order[keep[labels[order]]]
    spans, labels = spans[order], labels[order]
    number = np.flatnonzero(keep)
    offsets = np.append(np.flatnonzero(np.diff(labels, prepend=-1)), len(labels)).astype(np.int64)

    frames = []
    first = 0
    ends = np.cumsum(pixels[number])
    while first < number.size:
        done = 0 if first == 0 else ends[first - 1]
        last = max(first + 1, int(np.searchsorted(ends, done + _BATCH, side="right")))
        part = slice(offsets[first], offsets[last])
        chosen = number[first:last]
        frame = _describe(
            spans[part], offsets[first : last + 1] - offsets[first], geobox, metric, centrelines
        )
        frame["area"] = area[chosen]
        frame["width_mean"] = area[chosen] / frame["length"]
        frame["pixels"] = pixels[chosen]
        frame["seam"] = near[chosen]
        frame["probability"] = mean[chosen] if with_probability else np.full(chosen.size, np.nan)
        if units is not None:
            frame = _inside(frame, units, within_share)
        frames.append(frame)
        first = last
    names = [*COLUMNS, *(["unit"] if units is not None else [])]
    if not frames:
        frames = [_empty()]
    table = pd.concat([pd.DataFrame(f) for f in frames], ignore_index=True)
    table["id"] = np.arange(1, len(table) + 1)
    if units is not None and "unit" not in table:
        table["unit"] = pd.Series(dtype=object)
    crs = require_body(geobox.crs, BODIES)
    table = table[[*names, "geometry", *(["centreline"] if centrelines else [])]]
    frame = geopandas.GeoDataFrame(table, geometry="geometry", crs=crs.to_wkt())
    if centrelines:
        frame["centreline"] = geopandas.GeoSeries(
            frame["centreline"], index=frame.index, crs=crs.to_wkt()
        )
    frame.attrs["units"] = {name: unit for name, unit in COLUMNS.items() if unit}
    return frame


def _sum_by(labels: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    out = np.zeros(count, np.int64)
    np.add.at(out, labels, values)
    return out


def _empty() -> dict[str, Any]:
    frame: dict[str, Any] = {name: np.empty(0) for name in COLUMNS}
    for name in ("id", "intersections", "branches", "pixels"):
        frame[name] = np.empty(0, np.int64)
    return {**frame, "geometry": np.empty(0, object), "centreline": np.empty(0, object)}


def _describe(
    spans: np.ndarray, offsets: np.ndarray, geobox: GeoBox, metric: Metric, centrelines: bool
) -> dict[str, Any]:
    """Shape, size and place of components whose runs are given."""
    import shapely

    from lunarray.fractures.outline_kernels import outline
    from lunarray.fractures.run_kernels import label_runs, run_moments
    from lunarray.fractures.skeleton_kernels import skeletonise

    moments = run_moments(spans, offsets)
    lon, lat, ex, nx, ey, ny = north_of(geobox, moments[:, 1], moments[:, 2])
    # Second moments on the ground, east and north.
    vyy, vxx, vxy = moments[:, 3], moments[:, 4], moments[:, 5]
    see = ex * ex * vxx + 2 * ex * ey * vxy + ey * ey * vyy
    snn = nx * nx * vxx + 2 * nx * ny * vxy + ny * ny * vyy
    sen = ex * nx * vxx + (ex * ny + ey * nx) * vxy + ey * ny * vyy
    root = np.sqrt(((see - snn) / 2) ** 2 + sen**2)
    major, minor = (see + snn) / 2 + root, (see + snn) / 2 - root
    angle = 0.5 * np.arctan2(2 * sen, snn - see)  # from north towards east
    orientation = np.mod(np.rad2deg(angle), 180.0)
    # The same axis in pixels, for features whose skeleton is a point.
    tilt = 0.5 * np.arctan2(2 * vxy, vxx - vyy)
    along = np.column_stack([np.cos(tilt), np.sin(tilt)])

    parts, _ = label_runs(spans, offsets, 0)
    corners, rings, ring_part, ring_outer = outline(spans, offsets, parts)
    polygons = _polygons(corners, rings, ring_part, ring_outer, geobox)
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    part_owner = np.empty(len(polygons), np.int64)
    part_owner[parts] = owner
    geometry = _collect(polygons, part_owner, len(offsets) - 1, shapely.multipolygons)

    numbers, lines, begins, line_owner = skeletonise(
        spans, offsets, metric.tensor, metric.step, along, _SPUR
    )
    frame = {
        "id": np.zeros(len(geometry), np.int64),
        "length": numbers[:, 0],
        "width_mean": np.zeros(len(geometry)),
        # A feature that is all crossing has no width apart from it.
        "width_max": np.where(numbers[:, 1] > 0, numbers[:, 1], numbers[:, 2]),
        "orientation": orientation,
        "elongation": np.sqrt(major / np.maximum(minor, 1e-300)),
        "intersections": numbers[:, 3].astype(np.int64),
        "branches": numbers[:, 4].astype(np.int64),
        "lon": lon,
        "lat": lat,
        "geometry": geometry,
    }
    if centrelines:
        order = np.argsort(line_owner, kind="stable")
        paths = shapely.linestrings(
            _on_map(lines, geobox), indices=np.repeat(np.arange(len(begins) - 1), np.diff(begins))
        )
        size = math.sqrt(abs(geobox.transform.a * geobox.transform.e))
        paths = shapely.simplify(paths, _SIMPLIFY * size)[order]
        frame["centreline"] = _collect(
            paths, line_owner[order], len(geometry), shapely.multilinestrings
        )
    return frame


def _on_map(points: np.ndarray, geobox: GeoBox) -> np.ndarray:
    affine = geobox.transform
    return np.column_stack([affine.c + points[:, 0] * affine.a, affine.f + points[:, 1] * affine.e])


def _polygons(
    corners: np.ndarray,
    rings: np.ndarray,
    ring_part: np.ndarray,
    ring_outer: np.ndarray,
    geobox: GeoBox,
) -> np.ndarray:
    """One polygon for each 4-connected part, from its outer ring and its holes."""
    import shapely

    order = np.lexsort((1 - ring_outer.astype(np.int64), ring_part))
    sizes = np.diff(rings)[order]
    # Corners of the rings in their new order, each ring closed by its first corner.
    starts = rings[:-1][order]
    new = np.concatenate([[0], np.cumsum(sizes + 1)])
    index = np.arange(new[-1]) - np.repeat(new[:-1], sizes + 1)
    index = np.where(index == np.repeat(sizes, sizes + 1), 0, index) + np.repeat(starts, sizes + 1)
    polygon_starts = np.flatnonzero(ring_outer[order])
    return shapely.from_ragged_array(
        shapely.GeometryType.POLYGON,
        _on_map(corners[index].astype(np.float64), geobox),
        (new, np.append(polygon_starts, len(order))),
    )


def _collect(parts: np.ndarray, owner: np.ndarray, count: int, join: Any) -> np.ndarray:
    """Geometries of each owner (in order) as one: simple where there is one, else a collection."""
    single = np.bincount(owner, minlength=count) == 1
    out = np.empty(count, dtype=object)
    alone = single[owner]
    out[owner[alone]] = parts[alone]
    several = np.flatnonzero(~single)
    if several.size:
        where = np.full(count, -1)
        where[several] = np.arange(several.size)
        out[several] = join(parts[~alone], indices=where[owner[~alone]])
    return out


# --- units ----------------------------------------------------------------------------------------


def _units(within: Any, geobox: GeoBox) -> Any:
    """Units as (geometries, names) in the CRS of the grid."""
    import shapely

    from lunarray.geo import Box, Circle, Polygon, as_regions, region_name, region_shape

    crs = require_body(geobox.crs, BODIES)
    box = geobox.boundingbox
    if isinstance(within, (Box, Circle, Polygon)) or (
        isinstance(within, (list, tuple))
        and within
        and all(isinstance(r, (Box, Circle, Polygon)) for r in within)
    ):
        regions = as_regions(within)
        shapes = np.array([region_shape(r, crs) for r in regions], dtype=object)
        names = [region_name(r, i) for i, r in enumerate(regions)]
    else:
        frame = read_vectors(within, where="within")
        kinds = set(frame.geom_type)
        if frame.empty or not kinds <= {"Polygon", "MultiPolygon"}:
            raise InputError(
                f"units of type {', '.join(sorted(kinds)) or 'none'}",
                where="within",
                remedy="give polygons",
            )
        column = next(
            (c for c in ("name", "Name", "unit", "Unit", "region") if c in frame.columns), None
        )
        names = [
            str(v) if column else f"unit {i + 1}"
            for i, v in enumerate(frame[column] if column else frame.index)
        ]
        span = max(box.right - box.left, box.top - box.bottom)
        shapes = transform_geometry(
            frame.geometry.to_numpy(),
            frame.crs,
            crs,
            centre=(box.left + box.right) / 2,
            step=None
            if require_body(frame.crs, BODIES).is_geographic != crs.is_geographic
            else span / 100,
        )
    shapes = shapely.make_valid(shapes)
    return shapes, np.array(names, dtype=object)


def _inside(frame: dict[str, Any], units: Any, share: float) -> dict[str, Any]:
    """Only what lies within units to a share of its area at least; `unit` names the one that holds most of it."""
    import shapely

    shapes, names = units
    geometry = frame["geometry"]
    tree = shapely.STRtree(shapes)
    feature, unit = tree.query(geometry, predicate="intersects")
    whole = shapely.area(geometry)
    common = shapely.area(shapely.intersection(geometry[feature], shapes[unit]))
    order = np.lexsort((unit, -common, feature))
    feature, unit, common = feature[order], unit[order], common[order]
    first = np.diff(feature, prepend=-1) != 0
    best = np.full(len(geometry), -1)
    best[feature[first]] = unit[first]
    # Units may overlap one another: what lies in several counts once.
    covered = np.bincount(feature, weights=common, minlength=len(geometry))
    many = np.flatnonzero((np.bincount(feature, minlength=len(geometry)) > 1) & (covered > 0))
    for k in many:
        here = unit[feature == k]
        covered[k] = shapely.area(
            shapely.intersection(geometry[k], shapely.union_all(shapes[here]))
        )
    keep = (best >= 0) & (covered >= share * whole * (1 - 1e-12)) & (covered > 0)
    out = {name: values[keep] for name, values in frame.items()}
    out["unit"] = names[best[keep]]
    return out
