"""Masks to polygons: connected over a whole mosaic of any size, measured on the ground."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import InputError
from lunarray.fractures.ground import Metric, metric_of, north_of
from lunarray.fractures.layers import each_block
from lunarray.geo import BODIES, read_vectors, require_body, transform_geometry

if TYPE_CHECKING:
    import geopandas
    from odc.geo.geobox import GeoBox

#: Columns of the result of :func:`lunarray.fractures.vectorize`, with their units.
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


# --- runs -----------------------------------------------------------------------------------------


def runs_of(mask: Any, probability: Any, near: Any) -> tuple[np.ndarray, np.ndarray]:
    """Runs of a whole mosaic in order of row and start, with their sums; joined where blocks meet.

    `mask`, `probability`, `near`: layers (y, x), lazy or not; the latter two may be lacking. See
    :func:`lunarray.fractures.run_kernels.extract_runs`. Returns `spans`, `sums` (run, 3).
    """
    from lunarray.fractures.run_kernels import join_runs

    parts = each_block(_runs_of_block, mask, probability, near)
    spans = np.concatenate([p[0] for p in parts])
    sums = np.concatenate([p[1] for p in parts])
    del parts
    if len(spans) > 1:
        order = np.lexsort((spans[:, 1], spans[:, 0]))
        spans, sums = spans[order], sums[order]
        kept = join_runs(spans, sums)
        spans, sums = spans[:kept], sums[:kept]
    return spans, sums


def _runs_of_block(
    row: int,
    column: int,
    mask: np.ndarray,
    probability: np.ndarray | None,
    near: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    from lunarray.fractures.run_kernels import extract_runs

    if mask.dtype == bool:
        mask = mask.view(np.uint8)
    elif mask.dtype != np.uint8:
        mask = (mask == 1).view(np.uint8)
    none = (0, 0)
    return extract_runs(
        np.ascontiguousarray(mask),
        np.empty(none, np.float32)
        if probability is None
        else np.ascontiguousarray(probability, np.float32),
        np.empty(none, np.uint8) if near is None else np.ascontiguousarray(near),
        row,
        column,
    )


def near_seams(source: Any, distance: int) -> Any:
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


def features_of(
    spans: np.ndarray,
    sums: np.ndarray,
    geobox: GeoBox,
    *,
    min_area: float,
    seam_share: float,
    units: Any,
    within_share: float,
    reach: int,
    with_probability: bool,
    centrelines: bool,
) -> geopandas.GeoDataFrame:
    """Outline and measure the components of runs; arguments as of :func:`lunarray.fractures.vectorize`."""
    import geopandas
    import pandas as pd

    from lunarray.fractures.run_kernels import PROBABILITY_UNIT, label_runs, run_areas

    metric = metric_of(geobox)
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


def units_of(within: Any, geobox: GeoBox) -> Any:
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
                remedy="Give polygons",
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
