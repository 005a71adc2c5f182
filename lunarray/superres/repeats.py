"""Whether measurements repeat: pairs of footprints of different tracks that overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import require_number
from lunarray.geo import unit_vectors
from lunarray.superres.footprints import as_footprints
from lunarray.superres.tracks import track_numbers
from lunarray.typing import typed
from lunarray.units import WEIGHT

#: Pairs below which an element's numbers would say nothing.
FEWEST = 10


@typed
def repeatability(tracks: xr.Dataset, *, overlap: float = 0.5) -> xr.Dataset:
    """Measure how well abundances repeat where footprints of different tracks overlap.

    Parameters
    ----------
    tracks : Dataset
        Footprints, as :func:`read_class_tracks` gives them and :func:`as_footprints` checks them. A coordinate
        ``track`` (footprint) says which belong together; without one, those do that follow each other in the table and
        touch, or nearly so. It is computed.
    overlap : float
        From 0 to 1: the least area of what both footprints of a pair cover over that of what either of them covers. The
        smaller, the more pairs, and the more of their difference is one of the ground.

    Returns
    -------
    Dataset
        By ``element``: ``pairs``, how many pairs know it (int64); ``r``, the correlation within pairs; ``scatter``, the
        rms difference over √2, which is the error of one footprint (wt%); ``relative``, that over the standard
        deviation of the footprints in pairs, √(1 − r); ``stated``, the median error that the table states for them
        (wt%), and ``error_ratio``, the rms of differences over the errors stated for them, 1 where these are true.
        float64. NaN where there are fewer than ten pairs. ``attrs["footprint_pairs"]`` says how many pairs overlap.

    Raises
    ------
    InputError
        If `tracks` are no good footprints, or `overlap` is not within its range.

    Notes
    -----
    No map can predict these footprints better than they repeat: ``scatter`` is the floor of an rmse over them when they
    are held out, ``relative`` that of an rmse over their spread. Other footprints may scatter otherwise: give those of
    a region to know its own. A difference of the ground under two footprints that overlap in part counts as scatter; an
    error that both have in common does not.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from lunarray.superres import repeatability
    >>> rng = np.random.default_rng(1)
    >>> lat = np.tile(np.arange(50.0), 2)[:, None] + [0, 0, 1, 1]
    >>> lon = np.full((100, 1), 30.0) + [0, 2, 2, 0]
    >>> true = np.tile(rng.normal(10, 2, 50), 2)
    >>> tracks = xr.Dataset(
    ...     {
    ...         "corner_lat": (("footprint", "corner"), lat),
    ...         "corner_lon": (("footprint", "corner"), lon),
    ...         "abundance": (("footprint", "element"), (true + rng.normal(0, 1, 100))[:, None]),
    ...         "abundance_std": (("footprint", "element"), np.full((100, 1), 0.5)),
    ...     },
    ...     {"element": ["Fe"], "track": ("footprint", np.repeat([0, 1], 50))},
    ... )
    >>> found = repeatability(tracks)
    >>> int(found.pairs[0]), float(found.scatter[0].round(2)), float(found.error_ratio[0].round(1))
    (50, 0.87, 1.7)
    """
    require_number("overlap", overlap, 0, 1)
    found = as_footprints(tracks)
    if "track" in tracks.coords:
        found = found.assign_coords(track=("footprint", tracks["track"].values))
    return repeats_of(found, overlap)


def repeats_of(footprints: xr.Dataset, overlap: float = 0.5) -> xr.Dataset:
    """As :func:`repeatability`, of footprints that are checked."""
    value, error = (
        footprints[n].transpose("footprint", "element").values.astype(np.float64)
        for n in ("abundance", "abundance_std")
    )
    lat, lon = (
        footprints[n].transpose("footprint", "corner").values.astype(np.float64)
        for n in ("corner_lat", "corner_lon")
    )
    pairs, _ = overlapping_pairs(lat, lon, track_numbers(footprints), overlap)
    count = np.zeros(value.shape[1], np.int64)
    numbers = np.full((5, len(count)), np.nan)
    for e in range(len(count)):
        both, stated = value[pairs, e], error[pairs, e]
        known = np.isfinite(both).all(axis=1)
        both, stated = both[known], stated[known]
        count[e] = len(both)
        if len(both) >= FEWEST:
            numbers[:, e] = _numbers(both, stated)
    units = {"r": "1", "scatter": WEIGHT, "relative": "1", "stated": WEIGHT, "error_ratio": "1"}
    names = {
        "r": "correlation within pairs",
        "scatter": "rms difference of pairs over the root of two",
        "relative": "scatter over the standard deviation of footprints in pairs",
        "stated": "median of the stated errors",
        "error_ratio": "rms of differences over their stated errors",
    }
    arrays: dict[str, Any] = {
        n: ("element", own, {"units": units[n], "long_name": names[n]})
        for n, own in zip(names, numbers, strict=True)
    }
    arrays["pairs"] = ("element", count, {"units": "1", "long_name": "pairs that know it"})
    elements = [str(e) for e in footprints["element"].values]
    attrs = {"overlap": float(overlap), "footprint_pairs": len(pairs)}
    return xr.Dataset(arrays, {"element": elements}, attrs)


def _numbers(both: np.ndarray, stated: np.ndarray) -> tuple[float, ...]:
    """Correlation, scatter, relative scatter, stated error and ratio, of values and stated errors (pair, 2)."""
    difference = both[:, 0] - both[:, 1]
    scatter = float(np.sqrt(np.mean(difference**2) / 2))
    # No member of a pair comes first: the correlation is that over both orders.
    variance = float(both.var())
    relative = scatter / np.sqrt(variance) if variance > 0 else np.nan
    sure = np.isfinite(stated).all(axis=1)
    if sure.sum() < FEWEST:
        return 1 - relative**2, scatter, relative, np.nan, np.nan
    ratio = difference[sure] / np.sqrt((stated[sure] ** 2).sum(axis=1))
    error = float(np.median(stated[sure]))
    return 1 - relative**2, scatter, relative, error, float(np.sqrt(np.mean(ratio**2)))


def overlapping_pairs(
    corner_lat: np.ndarray, corner_lon: np.ndarray, track: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (pair, 2) of footprints of different tracks, and the share (pair,) that they have in common.

    That is the area of what both cover over the area of what one of them covers or both, `least` or more of it.

    Corners (footprint, corner) are in degrees. Edges are great circles: areas are taken in the gnomonic projection
    around the middle of each pair, where they are straight, so that neither ±180° nor a pole is special.
    """
    import shapely
    from scipy.spatial import cKDTree

    points = unit_vectors(corner_lon, corner_lat)
    centre = points.mean(axis=1)
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    reach = np.linalg.norm(points - centre[:, None], axis=2).max(axis=1)
    # The larger of two that touch has both centres within twice its reach: each looks for those that are not larger.
    near = cKDTree(centre).query_ball_point(centre, 2 * reach)
    one = np.repeat(np.arange(len(near)), [len(n) for n in near])
    two = np.concatenate([np.asarray(n, np.int64) for n in near]) if len(near) else one
    larger = (reach[one] > reach[two]) | ((reach[one] == reach[two]) & (one < two))
    apart = np.linalg.norm(centre[one] - centre[two], axis=1)
    kept = larger & (track[one] != track[two]) & (apart < reach[one] + reach[two])
    pairs = np.sort(np.stack([one[kept], two[kept]], axis=1), axis=1)
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    middle = centre[pairs].mean(axis=1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    pole = np.where(np.abs(middle[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    east = np.cross(pole, middle)
    east /= np.linalg.norm(east, axis=1, keepdims=True)
    frame = np.stack([east, np.cross(middle, east), middle], axis=2)
    seen = np.einsum("pfcx,pxk->pfck", points[pairs], frame)
    shapes = shapely.polygons(seen[..., :2] / seen[..., 2:])
    shared = shapely.area(shapely.intersection(shapes[:, 0], shapes[:, 1]))
    share = shared / (shapely.area(shapes).sum(axis=1) - shared)
    chosen = (share >= least) & (share > 0)
    return pairs[chosen], share[chosen]
