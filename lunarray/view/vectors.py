"""Vectors on the grids of the viewer: as much of them as is in view, and as fine as can be seen."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.geo import MOON, crs_name, transform_geometry
from lunarray.view.grids import GRIDS
from lunarray.view.sources import Source

if TYPE_CHECKING:
    import shapely

#: Features that are sent at a time.
MOST = 4000
# Longest straight side, by the units of what is drawn: degrees, m.
_STEP = {True: 1.0, False: 30_000.0}


@dataclass
class VectorLayer:
    """The vectors of a source."""

    number: int
    source: Source
    _drawn: dict[str, tuple[np.ndarray, np.ndarray, shapely.STRtree]] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def on(self, grid: str) -> tuple[np.ndarray, np.ndarray, shapely.STRtree]:
        """Rows of the vectors that lie on a grid, their shapes there, and a tree of these."""
        import shapely

        with self._lock:
            if grid not in self._drawn:
                frame = self.source.shapes
                assert frame is not None
                own, target = GRIDS[grid], MOON.crs(GRIDS[grid].system)
                shapes = np.asarray(frame.geometry.values, object)
                crs = frame.crs
                lines = shapely.get_dimensions(shapes).max(initial=0) > 0
                if crs_name(crs) != own.system or not lines:
                    step = _STEP[crs.is_geographic] if lines else None
                    with np.errstate(invalid="ignore"):
                        shapes = transform_geometry(shapes, crs, target, step=step)
                bounds = shapely.bounds(shapes)
                left, bottom, right, top = own.bounds
                wide = right - left if grid == "global" else 0.0
                there = np.isfinite(bounds).all(axis=1)
                there &= (bounds[:, 0] <= right + wide) & (bounds[:, 2] >= left - wide)
                there &= (bounds[:, 1] <= top) & (bounds[:, 3] >= bottom)
                if grid != "global":
                    # What surrounds the other pole comes out as all of this side.
                    there &= np.abs(bounds).max(axis=1) <= 1.5 * right
                rows = np.flatnonzero(there)
                self._drawn[grid] = rows, shapes[rows], shapely.STRtree(shapes[rows])
            return self._drawn[grid]

    def features(
        self, grid: str, view: tuple[float, float, float, float], resolution: float
    ) -> dict[str, Any]:
        """GeoJSON of what a view shows, in the metres of the grid, simplified to half a pixel."""
        import shapely

        rows, shapes, tree = self.on(grid)
        views = [view]
        if grid == "global":
            turn = GRIDS[grid].bounds[2] - GRIDS[grid].bounds[0]
            views = [(view[0] + k * turn, view[1], view[2] + k * turn, view[3]) for k in (-1, 0, 1)]
        boxes = [shapely.box(*one) for one in views]
        found = np.unique(tree.query(boxes)[1])
        total = len(found)
        if total > MOST:
            # The largest; of points, some all over.
            size = shapely.length(shapes[found])
            order = np.argsort(-size, kind="stable")
            if size.max() == 0:
                order = np.linspace(0, total - 1, MOST).astype(int)
            found = np.sort(found[order[:MOST]])
        some = shapes[found]
        if resolution > 0:
            some = shapely.simplify(some, resolution / 2, preserve_topology=False)
            lost = shapely.is_empty(some)
            some[lost] = shapely.centroid(shapes[found][lost])
        some = shapely.set_precision(some, 0.01, mode="pointwise")
        frame = self.source.shapes
        assert frame is not None
        table = frame.drop(columns=frame.geometry.name).iloc[rows[found]]
        records = table.to_dict("records")
        features = [
            {
                "type": "Feature",
                "id": int(index),
                "properties": {str(k): _plain(v) for k, v in record.items()},
                "geometry": json.loads(text),
            }
            for index, record, text in zip(
                rows[found], records, shapely.to_geojson(some), strict=True
            )
            if text is not None
        ]
        return {"type": "FeatureCollection", "features": features, "total": total}

    def columns(self) -> dict[str, list[float]]:
        """Columns of numbers by which features can be coloured, with the ends of their colours."""
        frame = self.source.shapes
        assert frame is not None
        found = {}
        for name in frame.columns.drop(frame.geometry.name):
            if frame[name].dtype.kind in "fiu" and name != "place":
                values = frame[name].to_numpy(np.float64)
                values = values[np.isfinite(values)]
                if values.size and values.min() < values.max():
                    found[str(name)] = [float(v) for v in np.percentile(values, (1, 99))]
        return {k: v for k, v in found.items() if v[0] < v[1]}

    def described(self) -> dict[str, Any]:
        """What the page needs to know of it."""
        frame = self.source.shapes
        assert frame is not None
        extents: dict[str, Any] = {}
        for grid in GRIDS:
            rows, shapes, _ = self.on(grid)
            if not len(rows):
                extents[grid] = None
                continue
            import shapely

            low, high = GRIDS[grid].bounds[:2], GRIDS[grid].bounds[2:]
            found = shapely.total_bounds(shapes).reshape(2, 2)
            extents[grid] = [float(v) for v in np.clip(found, low, high).ravel()]
        return {
            "id": self.number,
            "kind": "vector",
            "source": self.source.name,
            "name": self.source.name,
            "title": f"{len(frame):,} features",
            "columns": self.columns(),
            "extents": extents,
            "home": self.home(),
            "note": self.source.note,
        }

    def home(self) -> str:
        """The grid on which they are best looked at."""
        frame = self.source.shapes
        assert frame is not None
        name = crs_name(frame.crs)
        if name in ("north", "south"):
            return name
        if frame.crs.is_geographic and len(frame):
            _, low, _, high = frame.total_bounds
            if low >= 55:
                return "north"
            if high <= -55:
                return "south"
        return "global"


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it."""
    if isinstance(value, (np.generic,)):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return str(value)[:200]
