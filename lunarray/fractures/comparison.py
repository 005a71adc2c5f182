"""Two maps of fractures beside each other: what both have, what only one has."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError, require_number
from lunarray.fractures.ground import Metric, box_of, metric_of
from lunarray.fractures.layers import each_block, same_grid
from lunarray.fractures.statistics import area_of, ground_scale
from lunarray.fractures.vectors import features_of, runs_of
from lunarray.geo import (
    BODIES,
    radius_of,
    read_vectors,
    require_body,
    spatial_dims,
    to_lonlat,
    transform_geometry,
)

if TYPE_CHECKING:
    import geopandas

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """How a map of fractures agrees with a reference.

    Attributes
    ----------
    true_positive, false_positive, false_negative : float
        Area on the ground (m²) in both, in the map alone, in the reference alone; NaN for lines.
    correctness : float
        Share of the map's length that lies within the tolerance of the reference.
    completeness : float
        Share of the reference's length that lies within the tolerance of the map.
    cldice : float
        Harmonic mean of the shares of each one's centre lines that lie in the other's outlines (Shit et al. 2021); NaN
        where one has no outlines.
    lines, lines_found, lines_broken, breaks : int
        Features of the reference with a centre line; those of which the map has a part within the tolerance; those
        that it has in several pieces; and the breaks in these.
    matched, found : float
        Share of the map's features that touch the reference, and of the reference's that touch the map; NaN for masks.
    tolerance : float
        m.
    pieces : GeoDataFrame or None
        Polygons in a column ``kind``, "both", "map" or "reference"; none for masks and lines.
    """

    true_positive: float
    false_positive: float
    false_negative: float
    correctness: float
    completeness: float
    matched: float
    found: float
    tolerance: float
    pieces: geopandas.GeoDataFrame | None
    cldice: float = math.nan
    lines: int = 0
    lines_found: int = 0
    lines_broken: int = 0
    breaks: int = 0

    @property
    def precision(self) -> float:
        """Share of the map's area that is in the reference."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """Share of the reference's area that is in the map."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _ratio(
            2 * self.true_positive,
            2 * self.true_positive + self.false_positive + self.false_negative,
        )

    @property
    def iou(self) -> float:
        """Area in both by area in either."""
        return _ratio(
            self.true_positive, self.true_positive + self.false_positive + self.false_negative
        )

    @property
    def quality(self) -> float:
        """Harmonic mean of correctness and completeness: F1 within the tolerance."""
        return _ratio(
            2 * self.correctness * self.completeness, self.correctness + self.completeness
        )

    def summary(self) -> dict[str, float]:
        """All numbers by name.

        Returns
        -------
        dict of str to float
            Areas in m², shares from 0 to 1, numbers of lines; NaN where there is none.
        """
        names = (
            "true_positive", "false_positive", "false_negative", "precision", "recall", "f1", "iou",
            "correctness", "completeness", "quality", "matched", "found", "tolerance", "cldice", "lines",
            "lines_found", "lines_broken", "breaks",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def compare(a: Any, b: Any, *, tolerance: float = 10.0) -> Comparison:
    """Compare a map of fractures with a reference, for instance ours with one drawn by hand.

    Parameters
    ----------
    a, b : GeoDataFrame, path, or DataArray
        The map and the reference: polygons or lines in any CRS of the same body; or two masks on one grid (1 fracture,
        0 none, 255 no data, which in either takes a pixel out).
    tolerance : float
        m; for lengths: how far centre lines may lie apart.

    Returns
    -------
    Comparison
        Areas where both are polygons or masks; lengths where both have lines or centre lines, as masks have (polygons
        without are compared by their outlines' area alone).

    Raises
    ------
    GridError
        If masks are on different grids, or something has no place on the ground.
    InputError
        If a mask is compared with vectors.
    BodyMismatchError
        If they are of different bodies.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, equations 1 to 4, by area. Correctness and completeness of
    lines: Wiedemann et al. (1998), Empirical evaluation of automatically extracted road axes.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.nac_scene((256, 256))
    >>> found = scene.dataset["image"].lunar.map_fractures().lunar.vectorize()
    >>> agreement = la.fractures.compare(found, scene.polygons)
    >>> 0 <= agreement.found <= 1
    True
    """
    require_number("tolerance", tolerance, 0)
    masks = [isinstance(obj, (xr.DataArray, xr.Dataset)) for obj in (a, b)]
    if all(masks):
        return _of_masks(a, b, tolerance)
    if any(masks):
        raise InputError(
            "a mask and vectors",
            where="compare",
            remedy="Vectorise the mask, or rasterise the vectors with weak_labels",
        )
    return _of_vectors(a, b, float(tolerance))


def _of_masks(a: Any, b: Any, tolerance: float) -> Comparison:
    a, b = (obj["mask"] if isinstance(obj, xr.Dataset) else obj for obj in (a, b))
    geobox = box_of(a, "an area")
    box_of(b, "an area")
    b = same_grid(b, a, "b")
    dims = spatial_dims(a) or ()
    first, second = a.transpose(*dims).data, b.transpose(*dims).data
    metric = metric_of(geobox)
    tp, fp, fn = np.sum(each_block(_areas, first, second, metric=metric), axis=0).tolist()
    known = np.isin(first, (0, 1)) & np.isin(second, (0, 1))
    frames = []
    for layer in (first, second):
        # What one of them does not know is in neither.
        spans, sums = runs_of((layer == 1) & known, None, None)
        frames.append(
            features_of(
                spans, sums, geobox, min_area=0.0, seam_share=1.0, units=None, within_share=0.0, reach=1,
                with_probability=False, centrelines=True,
            )
        )  # fmt: skip
    lengths = _of_vectors(frames[0], frames[1], float(tolerance))
    return replace(lengths, true_positive=tp, false_positive=fp, false_negative=fn, pieces=None)


def _areas(row: int, column: int, a: np.ndarray, b: np.ndarray, *, metric: Metric) -> list[float]:
    """Areas of what is in both, in `a` alone, in `b` alone."""
    known = (a != 255) & (b != 255)
    return [
        area_of(known & ((a == 1) == in_a) & ((b == 1) == in_b), row, column, metric)
        for in_a, in_b in ((True, True), (True, False), (False, True))
    ]


def _of_vectors(a: Any, b: Any, tolerance: float) -> Comparison:
    import geopandas
    import shapely

    for name, given in (("a", a), ("b", b)):
        if not hasattr(given, "geometry") and not isinstance(given, (str, os.PathLike)):
            raise InputError(
                f"a {type(given).__name__}",
                where=name,
                remedy="Give a GeoDataFrame or a path, or two masks as DataArrays with a place on the ground",
            )
    first = a if hasattr(a, "geometry") else read_vectors(a, where=os.fspath(a))
    second = b if hasattr(b, "geometry") else read_vectors(b, where=os.fspath(b))
    first, second = read_vectors(first, where="a"), read_vectors(second, where="b")
    crs = require_body(first.crs, BODIES)
    if crs.is_geographic:
        # Distances and areas are taken on a map that is true around the fractures.
        crs = _local_crs(first, second)
    shapes: list[Any] = []
    lines: list[Any] = []
    # Where x repeats with longitude, both on the turn that the first is on.
    centre = 0.0
    if len(first) and require_body(first.crs, BODIES) == crs:
        box = shapely.total_bounds(first.geometry.to_numpy())
        centre = float(box[0] + box[2]) / 2
    for frame in (first, second):
        moved = transform_geometry(frame.geometry.to_numpy(), frame.crs, crs, centre=centre)
        areal = bool(frame.geom_type.isin(["Polygon", "MultiPolygon"]).all())
        shapes.append(shapely.make_valid(moved) if areal else None)
        if not areal:
            if not frame.geom_type.isin(["LineString", "MultiLineString"]).all():
                raise InputError(
                    "neither polygons nor lines", where="compare", remedy="Give one of them"
                )
            lines.append(moved)
        elif "centreline" in frame.columns:
            lines.append(
                transform_geometry(frame["centreline"].to_numpy(), frame.crs, crs, centre=centre)
            )
        else:
            lines.append(None)
    tp = fp = fn = math.nan
    pieces = None
    if shapes[0] is not None and shapes[1] is not None:
        wholes = [shapely.union_all(s) for s in shapes]
        parts = {
            "both": shapely.intersection(*wholes),
            "map": shapely.difference(*wholes),
            "reference": shapely.difference(*wholes[::-1]),
        }
        rows = [
            (kind, piece)
            for kind, shape in parts.items()
            for piece in shapely.get_parts(shape)
            if piece.area > 0
        ]
        kinds = np.array([kind for kind, _ in rows], dtype=object)
        outlines = np.array([piece for _, piece in rows], dtype=object)
        area = _ground_area(outlines, crs)
        tp, fp, fn = (float(area[kinds == kind].sum()) for kind in ("both", "map", "reference"))
        pieces = geopandas.GeoDataFrame(
            {"kind": kinds, "area": area}, geometry=outlines, crs=crs.to_wkt()
        )
    correctness = completeness = cldice = math.nan
    numbers: tuple[int, ...] = ()
    if lines[0] is not None and lines[1] is not None:
        correctness = _covered(lines[0], lines[1], crs, tolerance)
        completeness = _covered(lines[1], lines[0], crs, tolerance)
        if pieces is not None:
            shares = [_within(lines[0], shapes[1]), _within(lines[1], shapes[0])]
            cldice = _ratio(2 * shares[0] * shares[1], shares[0] + shares[1])
        of_map = lines[0] if shapes[0] is None else shapes[0]
        numbers = _pieces_found(lines[1], of_map, crs, tolerance)
    bodies = [s if s is not None else line for s, line in zip(shapes, lines, strict=True)]
    return Comparison(
        tp, fp, fn, correctness, completeness, _touching(bodies[0], bodies[1]),
        _touching(bodies[1], bodies[0]), tolerance, pieces, cldice, *numbers,
    )  # fmt: skip


def _local_crs(*frames: Any) -> Any:
    """Equal-area projection about the middle of some geometries."""
    import pyproj

    points: list[tuple[float, float]] = []
    for frame in frames:
        if len(frame):
            crs = require_body(frame.crs, BODIES)
            x0, y0, x1, y1 = frame.total_bounds
            place = to_lonlat(crs, np.array([(x0 + x1) / 2]), np.array([(y0 + y1) / 2]))
            points.append((float(place[0][0]), float(place[1][0])))
    lon, lat = points[0] if points else (0.0, 0.0)
    radius = radius_of(require_body(frames[0].crs, BODIES))
    return pyproj.CRS.from_proj4(f"+proj=laea +lat_0={lat} +lon_0={lon} +R={radius} +units=m +no_defs")  # fmt: skip


def _ground_area(shapes: np.ndarray, crs: Any) -> np.ndarray:
    """Area on the ground: on the map, by the areal scale in the middle of each."""
    import shapely

    if not len(shapes):
        return np.empty(0)
    return shapely.area(shapes) / ground_scale(shapes, crs) ** 2


def _covered(lines: np.ndarray, others: np.ndarray, crs: Any, tolerance: float) -> float:
    """Share of the length of lines that lies within the tolerance (on the ground) of others."""
    import shapely

    parts = shapely.get_parts(lines)
    whole = shapely.length(parts)
    if not whole.sum():
        return math.nan
    # One scale for a line: maps stretch little over the length of a fracture.
    scale = ground_scale(parts, crs)
    near = shapely.get_parts(others)
    tree = shapely.STRtree(near)
    reach = tolerance * scale
    first, second = tree.query(parts, predicate="dwithin", distance=reach)
    kept = np.zeros(len(parts))
    order = np.argsort(first, kind="stable")
    first, second = first[order], second[order]
    for k in np.unique(first):
        mine = near[second[np.searchsorted(first, k) : np.searchsorted(first, k, side="right")]]
        band = shapely.union_all(shapely.buffer(mine, max(reach[k], 1e-9)))
        kept[k] = shapely.length(shapely.intersection(parts[k], band))
    return float((kept / scale).sum() / (whole / scale).sum())


def _within(lines: np.ndarray, shapes: np.ndarray) -> float:
    """Share of the length of lines that lies in polygons."""
    import shapely

    parts = shapely.get_parts(lines)
    first, second = shapely.STRtree(shapes).query(parts, predicate="intersects")
    # Polygons of one map do not overlap but where people drew them so: a line is all inside at most.
    inside = np.zeros(len(parts))
    np.add.at(inside, first, shapely.length(shapely.intersection(parts[first], shapes[second])))
    whole = shapely.length(parts)
    return _ratio(float(np.minimum(inside, whole).sum()), float(whole.sum()))


def _pieces_found(
    lines: np.ndarray, others: np.ndarray, crs: Any, tolerance: float
) -> tuple[int, int, int, int]:
    """How many lines there are, are found within the tolerance, in several pieces, and how many breaks these have."""
    import shapely

    good = shapely.length(lines) > 0
    lines = lines[good]
    if not len(lines):
        return 0, 0, 0, 0
    reach = np.maximum(tolerance * ground_scale(lines, crs), 1e-9)
    first, second = shapely.STRtree(others).query(lines, predicate="dwithin", distance=reach)
    pieces = np.zeros(len(lines), np.int64)
    order = np.argsort(first, kind="stable")
    first, second = first[order], second[order]
    for k in np.unique(first):
        mine = others[second[np.searchsorted(first, k) : np.searchsorted(first, k, side="right")]]
        band = shapely.union_all(shapely.buffer(mine, reach[k]))
        kept = shapely.intersection(lines[k], band)
        # Parts that touch are one piece: a line with branches is several geometries.
        pieces[k] = shapely.get_num_geometries(shapely.buffer(kept, 1e-3 * reach[k]))
    found = pieces > 0
    return len(lines), int(found.sum()), int((pieces > 1).sum()), int((pieces[found] - 1).sum())


def _touching(shapes: np.ndarray, others: np.ndarray) -> float:
    """Share of geometries that touch one of others."""
    import shapely

    if not len(shapes):
        return math.nan
    tree = shapely.STRtree(np.asarray(others, dtype=object))
    return float(np.unique(tree.query(shapes, predicate="intersects")[0]).size / len(shapes))
