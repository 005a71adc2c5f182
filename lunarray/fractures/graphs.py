"""Fractures as a graph: pieces of centre lines between ends and junctions, and bridges over gaps in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import require_number
from lunarray.fractures.statistics import ground_scale, lines_of

if TYPE_CHECKING:
    import geopandas

__all__ = ["LineGraph", "line_graph"]

#: Share of the length scale of a graph within which two ends are one.
_SAME = 1e-9


@dataclass(frozen=True)
class LineGraph:
    """Centre lines of fractures as a graph.

    Attributes
    ----------
    edges : GeoDataFrame
        Lines without a junction in them: ``kind`` "line" or "bridge"; ``feature``, the row of the fracture (-1 for
        bridges); ``start`` and ``end``, rows of `nodes`; ``length`` on the ground, m; ``line``, the number of the
        connected line that each is part of.
    nodes : GeoDataFrame
        Points: ``degree``, the edges that meet there; ``kind`` "I" for free ends, "V" for where two meet, "Y" for
        three, "X" for four and more, as structural geology counts them (Sanderson and Nixon 2015).
    """

    edges: geopandas.GeoDataFrame
    nodes: geopandas.GeoDataFrame

    def summary(self) -> dict[str, float]:
        """Numbers of the graph.

        Returns
        -------
        dict of str to float
            ``lines`` (connected), ``edges``, ``bridges``, ``nodes_I``, ``nodes_V``, ``nodes_Y``, ``nodes_X``;
            ``length`` of the lines and of the bridges, ``bridged`` (m); ``connections``, the mean number of junctions
            to a line between two free ends (4 (Y + X) / (I + Y)), NaN where there is none.
        """
        kinds = self.nodes["kind"].value_counts()
        i, v, y, x = (float(kinds.get(k, 0)) for k in "IVYX")
        bridge = (self.edges["kind"] == "bridge").to_numpy()
        length = self.edges["length"].to_numpy(np.float64)
        return {
            "lines": float(self.edges["line"].nunique()),
            "edges": float((~bridge).sum()),
            "bridges": float(bridge.sum()),
            "nodes_I": i, "nodes_V": v, "nodes_Y": y, "nodes_X": x,
            "length": float(length[~bridge].sum()),
            "bridged": float(length[bridge].sum()),
            "connections": 4 * (y + x) / (i + y) if i + y else math.nan,
        }  # fmt: skip


def line_graph(
    fractures: geopandas.GeoDataFrame, *, gap: float = 0.0, angle: float = 35.0
) -> LineGraph:
    """Make a graph of centre lines, and bridge the gaps where a line plainly goes on.

    A free end is joined to another free end, or else to the line that it points at, where the bridge is no longer than
    `gap` and departs by no more than `angle` from the direction of the line at each free end. Shorter and straighter
    bridges come first, an end gets one, and none crosses another line. Nothing else is changed.

    Parameters
    ----------
    fractures : GeoDataFrame
        Polygons with centre lines, as :func:`lunarray.fractures.vectorize` returns them, or lines, in a projected CRS.
    gap : float
        Longest bridge, m on the ground; 0 for none.
    angle : float
        Largest departure, degrees.

    Returns
    -------
    LineGraph
        In the CRS of the fractures.

    Raises
    ------
    InputError
        If the fractures are polygons without centre lines, or a limit is out of range.
    GridError
        If they have no CRS.

    References
    ----------
    Sanderson and Nixon (2015), J. Struct. Geol. 72, 55.

    Examples
    --------
    >>> import geopandas, shapely
    >>> from lunarray.fractures import line_graph
    >>> from lunarray.geo import moon_crs
    >>> halves = [shapely.LineString([(0, 0), (50, 0)]), shapely.LineString([(60, 0), (100, 0)])]
    >>> drawn = geopandas.GeoDataFrame(geometry=halves, crs=moon_crs("equirectangular").to_wkt())
    >>> line_graph(drawn).summary()["lines"], line_graph(drawn, gap=15.0).summary()["lines"]
    (2.0, 1.0)
    """
    require_number("gap", gap, 0)
    require_number("angle", angle, 0, 90)
    lines, owner = lines_of(fractures)
    lines, owner = _noded(lines, owner)
    scale = ground_scale(lines, fractures.crs)
    kinds = np.zeros(len(lines), bool)
    if gap > 0 and len(lines):
        reach = gap * float(np.median(scale))
        lines, owner, kinds = _bridged(lines, owner, reach, math.cos(math.radians(angle)))
        scale = ground_scale(lines, fractures.crs)
    return _assembled(lines, owner, kinds, scale, fractures.crs)


def _noded(lines: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lines cut where they cross or touch, and whose each piece is."""
    import shapely

    long = shapely.length(lines) > 0
    lines, owner = lines[long], owner[long]
    if not len(lines):
        return lines, owner
    pieces = shapely.get_parts(shapely.node(shapely.multilinestrings(lines)))
    middle = shapely.line_interpolate_point(pieces, 0.5, normalized=True)
    return pieces, owner[shapely.STRtree(lines).nearest(middle)]


def _nodes(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places where lines end, and of each line the numbers of both."""
    import shapely
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    ends = np.concatenate(
        [shapely.get_coordinates(shapely.get_point(lines, k)) for k in (0, -1)]
    ).reshape(-1, 2)
    if not len(ends):
        return ends, np.empty((0, 2), np.int64)
    size = max(float(np.abs(ends).max()), 1.0) * _SAME
    pairs = cKDTree(ends).query_pairs(size, output_type="ndarray")
    near = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(ends),) * 2)
    count, number = connected_components(near, directed=False)
    place = np.zeros((count, 2))
    place[number] = ends
    return place, number.reshape(2, -1).T


def _bridged(
    lines: np.ndarray, owner: np.ndarray, reach: float, straight: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lines with bridges behind them, whose each is (-1 of bridges), and which are bridges."""
    import shapely

    tree = shapely.STRtree(lines)
    place, towards, mine = _free_ends(lines, reach)
    chosen: list[Any] = []
    used = np.zeros(len(place), bool)

    def clear(bridge: Any, own: set[int]) -> bool:
        # It may touch the lines that it joins, at their ends, and no other.
        crossed = {int(k) for k in tree.query(bridge, predicate="intersects")} - own
        return not crossed and not any(bridge.crosses(other) for other in chosen)

    for _, a, b in _pairs(place, towards, mine, reach, straight):
        bridge = shapely.linestrings([place[a], place[b]])
        if used[a] or used[b] or not clear(bridge, {int(mine[a]), int(mine[b])}):
            continue
        used[[a, b]] = True
        chosen.append(bridge)
    landings: dict[int, list[Any]] = {}
    for a in map(int, np.flatnonzero(~used)):
        # Straight on to the first line that is met.
        probe = shapely.linestrings([place[a], place[a] + reach * towards[a]])
        best = (math.inf, -1, place[a])
        for k in map(
            int, tree.query(shapely.points(place[a]), predicate="dwithin", distance=reach)
        ):
            if k == mine[a]:
                continue
            there = shapely.intersection(probe, lines[k])
            if there.is_empty:
                there = shapely.line_interpolate_point(
                    lines[k], shapely.line_locate_point(lines[k], shapely.points(place[a]))
                )
            point = shapely.get_coordinates(shapely.shortest_line(shapely.points(place[a]), there))[
                1
            ]
            away = float(np.hypot(*(point - place[a])))
            if away > 0 and (point - place[a]) @ towards[a] >= straight * away:
                best = min(best, (away, k, point), key=lambda item: item[0])
        away, k, point = best
        if k < 0 or away > reach:
            continue
        bridge = shapely.linestrings([place[a], point])
        if clear(bridge, {int(mine[a]), k}):
            used[a] = True
            chosen.append(bridge)
            landings.setdefault(k, []).append(point)
    parts = [_cut(line, landings.get(k, [])) for k, line in enumerate(lines)]
    counts = [len(p) for p in parts]
    every = np.array([piece for p in parts for piece in p] + chosen, dtype=object)
    whose = np.concatenate([np.repeat(owner, counts), np.full(len(chosen), -1, owner.dtype)])
    return every, whose, np.arange(len(every)) >= sum(counts)


def _free_ends(lines: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of free ends, unit vectors in which their lines would go on, and the lines."""
    import shapely

    place, number = _nodes(lines)
    degree = np.bincount(number.ravel(), minlength=len(place))
    # The direction over as much of the line as the bridge may be long: pixels make stairs of less.
    back = np.minimum(reach, shapely.length(lines))
    inner = np.stack(
        [
            shapely.get_coordinates(shapely.line_interpolate_point(lines, back)),
            shapely.get_coordinates(shapely.line_interpolate_point(lines, -back)),
        ],
        axis=1,
    )
    free = degree[number] == 1
    index, side = np.nonzero(free)
    at = place[number[index, side]]
    vector = at - inner[index, side]
    size = np.hypot(*vector.T)[:, None]
    return at, vector / np.where(size > 0, size, 1.0), index


def _pairs(
    place: np.ndarray, towards: np.ndarray, mine: np.ndarray, reach: float, straight: float
) -> list[tuple[float, int, int]]:
    """Pairs of free ends that may be joined, the best first."""
    from scipy.spatial import cKDTree

    if not len(place):
        return []
    pairs = cKDTree(place).query_pairs(reach, output_type="ndarray")
    pairs = pairs[mine[pairs[:, 0]] != mine[pairs[:, 1]]]
    vector = place[pairs[:, 1]] - place[pairs[:, 0]]
    away = np.hypot(*vector.T)
    unit = vector / np.where(away > 0, away, 1.0)[:, None]
    here = (unit * towards[pairs[:, 0]]).sum(axis=1)
    there = -(unit * towards[pairs[:, 1]]).sum(axis=1)
    good = (away > 0) & (here >= straight) & (there >= straight)
    cost = away * (3.0 - here - there)
    return sorted(
        (float(c), int(a), int(b)) for c, (a, b) in zip(cost[good], pairs[good], strict=True)
    )


def _cut(line: Any, points: list[Any]) -> list[Any]:
    """A line in pieces, cut at points on it, which become vertices."""
    import shapely

    if not points:
        return [line]
    corners = shapely.get_coordinates(line)
    places = shapely.line_locate_point(line, shapely.points(np.array(points)))
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    pieces, first, begin = [], 0.0, corners[0]
    for at, point in sorted(zip(places.tolist(), points, strict=True), key=lambda item: item[0]):
        if not first < at < along[-1]:
            continue
        inner = corners[(along > first) & (along < at)]
        pieces.append(shapely.linestrings(np.vstack([begin, inner, point])))
        first, begin = at, np.asarray(point)
    inner = corners[(along > first)]
    return [*pieces, shapely.linestrings(np.vstack([begin, inner]))]


def _assembled(
    lines: np.ndarray, owner: np.ndarray, bridge: np.ndarray, scale: np.ndarray, crs: Any
) -> LineGraph:
    """Both tables of the graph."""
    import geopandas
    import shapely
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    place, number = _nodes(lines)
    degree = np.bincount(number.ravel(), minlength=len(place))
    joined = coo_array(
        (np.ones(len(number)), (number[:, 0], number[:, 1])), shape=(len(place),) * 2
    )
    _, group = connected_components(joined, directed=False) if len(place) else (0, np.empty(0, int))
    line = np.unique(group[number[:, 0]], return_inverse=True)[1] + 1
    edges = geopandas.GeoDataFrame(
        {
            "kind": np.where(bridge, "bridge", "line").astype(object),
            "feature": np.asarray(owner, np.int64),
            "start": number[:, 0],
            "end": number[:, 1],
            "length": shapely.length(lines) / scale,
            "line": line.astype(np.int64),
        },
        geometry=lines,
        crs=crs,
    )
    kinds = np.array(["I", "I", "V", "Y", "X"], dtype=object)[np.minimum(degree, 4)]
    nodes = geopandas.GeoDataFrame(
        {"degree": degree, "kind": kinds}, geometry=shapely.points(place), crs=crs
    )
    return LineGraph(edges, nodes)
