"""Statistics of fracture networks: numbers, directions, and density on the ground."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import GridError, InputError, require_number
from lunarray.fractures.ground import Metric, metric_of
from lunarray.geo import BODIES, radius_of, require_body, to_lonlat
from lunarray.store.provenance import stamp
from lunarray.typing import typed

if TYPE_CHECKING:
    import geopandas
    from odc.geo.geobox import GeoBox

__all__ = [
    "area_of", "ground_scale", "lines_of", "network", "orientation_rose", "per_area", "segments",
]  # fmt: skip


def segments(fractures: geopandas.GeoDataFrame) -> dict[str, np.ndarray]:
    """Straight pieces of the centre lines of fractures, on the ground.

    `fractures`: polygons with centre lines, as :func:`lunarray.fractures.vectorize` returns them; or lines, as people
    draw them. Returns (segment): ``x0``, ``y0``, ``x1``, ``y1`` in the CRS of the fractures, ``length`` (m),
    ``azimuth`` (degrees clockwise from north, 0 to 180), and ``feature``, the row that each belongs to. InputError if
    the fractures are polygons without centre lines. GridError if they have no CRS.
    """
    import shapely

    parts, owner = lines_of(fractures)
    crs = require_body(fractures.crs, BODIES)
    points, index = shapely.get_coordinates(parts, return_index=True)
    same = index[1:] == index[:-1]
    a, b = points[:-1][same], points[1:][same]
    feature = owner[index[:-1][same]]
    radius = radius_of(crs)
    places = []
    for x, y in (a.T, b.T, ((a + b) / 2).T) if len(a) else [np.empty((2, 0))] * 3:
        lon, lat = to_lonlat(crs, x, y)
        lam, phi = np.deg2rad(lon), np.deg2rad(lat)
        places.append((lam, phi, _unit(lam, phi)))
    chord = places[1][2] - places[0][2]
    lam, phi, _ = places[2]
    east = np.stack([-np.sin(lam), np.cos(lam), np.zeros_like(lam)], -1)
    north = np.stack([-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)], -1)
    distance = np.sqrt((chord**2).sum(-1))
    return {
        "x0": a[:, 0],
        "y0": a[:, 1],
        "x1": b[:, 0],
        "y1": b[:, 1],
        "length": 2 * radius * np.arcsin(np.minimum(distance / 2, 1.0)),
        "azimuth": np.mod(
            np.rad2deg(np.arctan2((chord * east).sum(-1), (chord * north).sum(-1))), 180.0
        ),
        "feature": feature,
    }


def lines_of(fractures: geopandas.GeoDataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Single lines of fractures, their own or their centre lines, and the row that each belongs to."""
    import shapely

    if fractures.crs is None:
        raise GridError(
            "fractures without a CRS", where="fractures", remedy="Assign one, frame.set_crs(...)"
        )
    require_body(fractures.crs, BODIES)
    if "centreline" in fractures.columns:
        lines = fractures["centreline"].to_numpy()
    elif fractures.geom_type.isin(["LineString", "MultiLineString"]).all():
        lines = fractures.geometry.to_numpy()
    else:
        raise InputError(
            "polygons without centre lines",
            where="fractures",
            remedy="Vectorise with centrelines=True, or give lines",
        )
    return shapely.get_parts(np.asarray(lines, dtype=object), return_index=True)


def ground_scale(shapes: np.ndarray, crs: Any) -> np.ndarray:
    """Length on the map by length on the ground, in the middle of each geometry."""
    import pyproj
    import shapely

    if not len(shapes):
        return np.empty(0)
    middle = shapely.get_coordinates(shapely.centroid(shapes))
    lon, lat = to_lonlat(crs, middle[:, 0], middle[:, 1])
    factors = pyproj.Proj(crs).get_factors(lon, np.clip(lat, -89.999999, 89.999999))
    return np.sqrt(np.asarray(factors.areal_scale))


def _unit(lam: np.ndarray, phi: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], -1)


def area_of_data(row: int, column: int, block: np.ndarray, metric: Metric) -> float:
    """Area on the ground of the pixels of a block that have data, m²."""
    kind = block.dtype.kind
    good = np.isfinite(block) if kind == "f" else block if kind == "b" else block != 255
    return area_of(good, row, column, metric)


def area_of(good: np.ndarray, row: int, column: int, metric: Metric) -> float:
    """Area on the ground of some pixels.

    `good` (y, x) bool: which, of a block; `row`, `column`: place of its first pixel on the grid; `metric`: of the grid.
    Returns m².
    """
    # Areas change little within 64 pixels of a row: one value for each such piece, the same pieces for any chunks.
    edges = [0, *range(64 - column % 64, good.shape[1], 64), good.shape[1]]
    pieces = [slice(a, b) for a, b in pairwise(edges)]
    counts = np.stack([good[:, p].sum(axis=1) for p in pieces], axis=1)
    middle = (np.array([p.start for p in pieces]) + column) // 64 * 64 + 32.0
    r, c = np.meshgrid(np.arange(good.shape[0]) + 0.5 + row, middle, indexing="ij")
    return float((counts * metric.area(r, c)).sum())


def network(fractures: geopandas.GeoDataFrame, area: float | None = None) -> dict[str, float]:
    """Describe a fracture network in numbers.

    Parameters
    ----------
    fractures : GeoDataFrame
        As :func:`lunarray.fractures.vectorize` returns it.
    area : float, optional
        Ground that was mapped, m² (:func:`lunarray.fractures.mapped_area`): adds densities.

    Returns
    -------
    dict of str to float
        ``count``; ``length``, ``area`` (totals, m and m²); ``length_mean``, ``length_median``, ``length_max`` (m);
        ``width_mean`` (m, total area by total length); ``intersections``, ``branches`` (totals),
        ``intersections_per_km``; with `area` also ``count_density`` (1/km²), ``length_density`` (km/km²),
        ``area_share`` and ``intersection_density`` (1/km²). Means of nothing are NaN.

    Raises
    ------
    InputError
        If columns are missing, or the area is not positive.

    Examples
    --------
    >>> import lunarray as la
    >>> fractures = la.sample("nac_crop").lunar.map_fractures().lunar.vectorize()
    >>> la.fractures.network(fractures, area=0.9e6)["length"] > 0
    True
    """
    lacking = [c for c in ("area", "length", "intersections", "branches") if c not in fractures]
    if lacking:
        raise InputError(
            f"no columns {', '.join(lacking)}", where="fractures", remedy="Give the result of vectorize"
        )  # fmt: skip
    lengths = fractures["length"].to_numpy(np.float64)
    some = lengths.size > 0
    length, covered = float(lengths.sum()), float(fractures["area"].sum())
    crossings = float(fractures["intersections"].sum())
    out = {
        "count": float(lengths.size),
        "length": length,
        "area": covered,
        "length_mean": float(lengths.mean()) if some else math.nan,
        "length_median": float(np.median(lengths)) if some else math.nan,
        "length_max": float(lengths.max()) if some else math.nan,
        "width_mean": covered / length if length else math.nan,
        "intersections": crossings,
        "branches": float(fractures["branches"].sum()),
        "intersections_per_km": crossings / (length * 1e-3) if length else math.nan,
    }
    if area is not None:
        require_number("area", area, 0, strictly=True)
        out |= {
            "count_density": lengths.size / (area * 1e-6),
            "length_density": length * 1e-3 / (area * 1e-6),
            "area_share": covered / area,
            "intersection_density": crossings / (area * 1e-6),
        }
    return out


@typed
def orientation_rose(fractures: geopandas.GeoDataFrame, bins: int = 18) -> xr.Dataset:
    """Sum up the length of fractures by direction.

    Parameters
    ----------
    fractures : GeoDataFrame
        Polygons with centre lines, or lines.
    bins : int
        Sectors in half a turn.

    Returns
    -------
    Dataset
        Along ``azimuth`` (degrees clockwise from north, middles of the sectors, 0 to 180): ``length`` (m) and ``share``
        of all, float64. Attributes ``mean_direction`` (degrees, NaN where there is none) and ``concentration``, the
        resultant of the doubled angles: 0 all directions alike, 1 all the same.

    Raises
    ------
    InputError
        If there are no centre lines, or less than two sectors.

    References
    ----------
    Mardia and Jupp (2000), Directional Statistics, section 9.1: axial data.

    Examples
    --------
    >>> import lunarray as la
    >>> fractures = la.sample("nac_crop").lunar.map_fractures().lunar.vectorize()
    >>> la.fractures.orientation_rose(fractures, bins=12).sizes
    Frozen({'azimuth': 12})
    """
    require_number("bins", bins, 2, whole=True)
    pieces = segments(fractures)
    edges = np.linspace(0.0, 180.0, int(bins) + 1)
    length, _ = np.histogram(pieces["azimuth"], edges, weights=pieces["length"])
    total = float(pieces["length"].sum())
    doubled = np.deg2rad(2 * pieces["azimuth"])
    c, s = (float((f(doubled) * pieces["length"]).sum()) for f in (np.cos, np.sin))
    mean = math.nan if total == 0 else math.degrees(math.atan2(s, c)) / 2 % 180.0
    rose = xr.Dataset(
        {
            "length": ("azimuth", length, {"units": "m", "long_name": "length of fractures"}),
            "share": (
                "azimuth",
                length / total if total else np.full(int(bins), np.nan),
                {"units": "1", "long_name": "share of the length"},
            ),
        },
        {
            "azimuth": (
                "azimuth",
                (edges[:-1] + edges[1:]) / 2,
                {"units": "degrees", "long_name": "direction, clockwise from north"},
            )
        },
    )
    return stamp(
        rose,
        f"orientation_rose, {bins} sectors",
        mean_direction=mean,
        concentration=math.hypot(c, s) / total if total else math.nan,
    )


def per_area(
    fractures: geopandas.GeoDataFrame, grid: GeoBox, radius: float | None, quantity: str
) -> np.ndarray:
    """Length (km) or number of fractures by area (km²) in each pixel of a grid.

    `fractures`: in the CRS of the grid; `grid`: of square pixels; `radius`, `quantity`: as of
    :func:`lunarray.fractures.density`. Returns (y, x) float64.
    """
    from scipy.ndimage import convolve

    cell = grid.transform.a
    if quantity == "count":
        middle = fractures.geometry.centroid
        x, y, weight = middle.x.to_numpy(), middle.y.to_numpy(), np.ones(len(fractures))
    else:
        pieces = segments(fractures)
        span = np.hypot(pieces["x1"] - pieces["x0"], pieces["y1"] - pieces["y0"])
        parts = np.maximum(1, np.ceil(span / (cell / 8)).astype(np.int64))
        which = np.repeat(np.arange(span.size), parts)
        first = np.repeat(np.cumsum(parts) - parts, parts)
        along = (np.arange(which.size) - first + 0.5) / parts[which]
        x = pieces["x0"][which] + along * (pieces["x1"] - pieces["x0"])[which]
        y = pieces["y0"][which] + along * (pieces["y1"] - pieces["y0"])[which]
        weight = (pieces["length"] / parts)[which] * 1e-3
    rows, columns = grid.shape
    inverse = ~grid.transform
    c, r = np.floor(inverse.a * x + inverse.c), np.floor(inverse.e * y + inverse.f)
    good = (r >= 0) & (r < rows) & (c >= 0) & (c < columns)
    at = r[good].astype(np.int64) * columns + c[good].astype(np.int64)
    total = np.bincount(at, weights=weight[good], minlength=rows * columns).reshape(rows, columns)
    rr, cc = np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing="ij")
    ground = metric_of(grid).area(rr, cc) * 1e-6
    if radius is not None:
        reach = math.ceil(radius / cell)
        u = np.arange(-reach, reach + 1)
        disc = (u[:, None] ** 2 + u**2 <= (radius / cell) ** 2).astype(np.float64)
        total, ground = (convolve(layer, disc, mode="constant") for layer in (total, ground))
    return total / ground
