"""Maps of footprints: abundances and their ratios on a grid, with errors that know what footprints share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.geo import densify, lonlat_of, unit_vectors
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.units import WEIGHT
from lunarray.xrf.frames import described, require_variables

__all__ = ["RATIOS", "grid_footprints"]

#: Ratios of weights that tell the Moon's terranes apart (Kumar et al., 2025, arXiv:2508.15563, of line intensities).
RATIOS = ("Mg/Si", "Al/Si", "Ca/Si", "Fe/Si", "Mg/Al")

#: Errors that each footprint has for itself, and those that footprints of one day share. All others, of prior,
#: response, norm, atomic data and geometry, are those of every footprint alike: no number of footprints lessens them.
_OWN, _OF_DAY = ("statistics", "misfit"), ("sun", "background")
#: A ratio is taken where its denominator is so many times its error.
_SEEN = 3.0
#: Windows before one that may hold some of its frames.
_LAGS = 256


@typed
def grid_footprints(
    ds: xr.Dataset,
    grid: Any = "geographic",
    resolution: float | None = None,
    *,
    ratios: Sequence[str] = (),
) -> xr.Dataset:
    """Map abundances: each pixel has the mean of the footprints that cover its centre, weighted by their errors.

    Parameters
    ----------
    ds : Dataset
        Of :func:`lunarray.xrf.fit_elements`: ``abundance``, ``abundance_std`` (time, element) with corners.
    grid : str, GeoBox or xarray object
        As in :func:`lunarray.geo.lunar_grid`; pass an oxide map to get the elements on its pixels.
    resolution : float, optional
        Pixel size, metres or degrees.
    ratios : sequence of str
        Ratios of abundances to map too, such as ``"Mg/Si"``; `xrf.footprint_maps.RATIOS` are those of the terranes.

    Returns
    -------
    Dataset
        ``abundance`` and ``abundance_std`` (element, y, x), float32, wt%, and ``n_footprints`` (y, x). Where an
        abundance has no error (frozen elements) footprints count alike and the error is NaN. With `ratios` also
        ``abundance_ratio`` and ``abundance_ratio_std`` (ratio, y, x), 1: the mean of the footprints' own ratios, of
        those whose denominator is three times its error, weighted by errors at the mean composition, for weights by
        own errors would favour low ratios. Lazy where `ds` is, in one piece.

        Errors of a mean are smaller than those of its footprints as far as these are independent: their statistics,
        less what frames they share (``start`` and ``end``); what the Sun and the background are not known by from day
        to day; where `ds` has ``abundance_parts``, prior, response, norm, atomic data and geometry not at all. For a
        ratio the parts are those of numerator and denominator, scaled to its error by their covariance.

    Raises
    ------
    InputError
        If `ds` has no abundances or no corners, or a ratio is not of two of its elements.

    References
    ----------
    Kumar, R., et al., 2025. arXiv:2508.15563.

    Examples
    --------
    >>> fit = la.simulate.class_orbit(frames=3).assign_coords(element=["Al", "Si"])
    >>> fit["abundance"] = ("time", "element"), np.tile([12.0, 20.0], (3, 1))
    >>> fit["abundance_std"] = ("time", "element"), np.tile([1.0, 1.0], (3, 1))
    >>> maps = la.xrf.grid_footprints(fit, "geographic", 0.175, ratios=["Al/Si"])
    >>> round(float(maps["abundance_ratio"].max()), 2), int(maps["n_footprints"].max())
    (0.6, 3)
    """
    from lunarray.geo import assign_crs, grid_coords, grid_dims, lunar_grid

    require_variables(
        ds, ("abundance", "abundance_std", *_CORNERS), "grid_footprints", "Give what lunarray.xrf.fit_elements gives"
    )  # fmt: skip
    geobox = lunar_grid(grid, resolution)
    elements = [str(name) for name in ds["element"].values]
    pairs = _pairs(ratios, elements)
    arrays: list[Any] = [
        ds[name].transpose("time", *others).data if name in ds.variables else None
        for name, *others in _ARRAYS
    ]
    time = ds["time"].values if "time" in ds.variables else np.arange(ds.sizes["time"])
    sources = [str(name) for name in ds["error_source"].values] if "error_source" in ds else []
    options: dict[str, Any] = {"geobox": geobox, "pairs": pairs, "sources": tuple(sources)}
    n, r = len(elements), len(pairs)
    shape = (2 * (n + r) + 1, *geobox.shape)
    if any(hasattr(a, "dask") for a in arrays):
        import dask
        import dask.array as da

        task = dask.delayed(_grid_kernel, pure=True)(*arrays, time=time, **options)
        out: Any = da.from_delayed(task, shape, "f4", meta=np.empty((0, 0, 0), "f4"))
    else:
        out = _grid_kernel(*arrays, time=time, **options)
    dims = grid_dims(geobox)
    bands, number = ("element", *dims), out[-1].astype("i4")
    variables: dict[str, Any] = {
        "abundance": described(bands, out[:n], WEIGHT, "abundance of the element"),
        "abundance_std": described(bands, out[n + r : 2 * n + r], WEIGHT, "error of the abundance"),
        "n_footprints": described(dims, number, "1", "number of footprints"),
    }
    coords: dict[str, Any] = {**grid_coords(geobox), "element": ds["element"]}
    if pairs:
        bands = ("ratio", *dims)
        mean, error = out[n : n + r], out[2 * n + r : 2 * (n + r)]
        variables["abundance_ratio"] = described(bands, mean, "1", "ratio of two abundances")
        variables["abundance_ratio_std"] = described(bands, error, "1", "error of the ratio")
        coords["ratio"] = ("ratio", np.array(list(ratios), object), {"long_name": "ratio"})
    return stamp(
        assign_crs(xr.Dataset(variables, coords), geobox.crs), "grid_footprints", source=ds.attrs.get("source")
    )  # fmt: skip


_CORNERS = ("corner_lon", "corner_lat")
_ARRAYS = (
    ("corner_lon", "corner"), ("corner_lat", "corner"), ("abundance", "element"), ("abundance_std", "element"),
    ("abundance_parts", "error_source", "element"), ("covariance", "element", "element_b"), ("start",), ("end",),
)  # fmt: skip


def _pairs(ratios: Sequence[str], elements: list[str]) -> tuple[tuple[int, int], ...]:
    """Places of numerator and denominator of each ratio."""
    found = []
    for ratio in (ratios,) if isinstance(ratios, str) else ratios:
        names = [name.strip() for name in str(ratio).split("/")]
        if len(names) != 2 or any(name not in elements for name in names):
            raise InputError(
                f"no ratio {ratio!r}",
                where="ratios",
                remedy=f"Give two of {', '.join(elements)}, such as 'Mg/Si'",
            )
        found.append((elements.index(names[0]), elements.index(names[1])))
    return tuple(found)


_ORIGIN = np.datetime64("2000-01-01", "ns")


def _spans(time: Any, start: Any, end: Any) -> np.ndarray:
    """Start, end and day of each footprint, (time, 3), in s and days; without times all are of one day, and apart."""
    time = np.asarray(time)
    out = np.zeros((time.size, 3))
    if np.issubdtype(time.dtype, np.datetime64) and not np.isnat(time).any():
        out[:, 2] = (time.astype("M8[D]") - _ORIGIN.astype("M8[D]")).astype("f8")
        for k, own in enumerate((start, end)):
            moments = time if own is None else np.asarray(own)
            out[:, k] = (moments.astype("M8[ns]") - _ORIGIN) / np.timedelta64(1, "s")
    return out


@dataclass(frozen=True)
class _Bands:
    """What is averaged, (time, band): values, weights and the three kinds of errors; NaN where there is no value."""

    value: np.ndarray
    weight: np.ndarray
    own: np.ndarray
    of_day: np.ndarray
    common: np.ndarray

    def __getitem__(self, rows: Any) -> _Bands:
        return _Bands(*(getattr(self, f)[rows] for f in ("value", "weight", "own", "of_day", "common")))  # fmt: skip


def _grid_kernel(
    lon: Any, lat: Any, values: Any, errors: Any, parts: Any, covariance: Any, start: Any, end: Any, *, time: Any,
    geobox: Any, pairs: tuple[tuple[int, int], ...], sources: tuple[str, ...],
) -> np.ndarray:  # fmt: skip
    """Means, errors and number of footprints, (2 · band + 1, y, x)."""
    lon, lat, values, errors = (np.asarray(a, "f8") for a in (lon, lat, values, errors))
    spans = _spans(time, start, end)
    shares = _shares(errors, None if parts is None else np.asarray(parts, "f8"), sources)
    bands = _abundances(values, errors, shares)
    if pairs:
        pairwise = None if covariance is None else np.asarray(covariance, "f8")
        more = _ratios(values, errors, pairwise, shares, pairs)
        both = zip(_fields(bands), _fields(more), strict=True)
        bands = _Bands(*(np.concatenate(pair, axis=1) for pair in both))
    seen = np.isfinite(values).any(axis=1)
    seen &= np.isfinite(lon).all(axis=1) & np.isfinite(lat).all(axis=1)
    rows = np.flatnonzero(seen)
    rows = rows[np.lexsort((spans[rows, 0], spans[rows, 2]))]
    size = int(np.prod(geobox.shape))
    top, weight, variance, common = np.zeros((4, bands.value.shape[1], size))
    count = np.zeros(size)
    for part in _parts_of(rows, spans[:, 2]):
        pixels = [_covered(lon[k], lat[k], geobox) for k in part]
        where, hit = _incidence(pixels)
        if not where.size:
            continue
        own = bands[part]
        known = np.isfinite(own.value)
        w = np.where(known, own.weight, 0.0)
        count[where] += np.asarray(hit.sum(axis=0)).ravel()
        top[:, where] += (hit.T @ (w * np.where(known, own.value, 0.0))).T
        weight[:, where] += (hit.T @ w).T
        common[:, where] += (hit.T @ (w * np.nan_to_num(own.common))).T
        variance[:, where] += _variance(hit, w * np.nan_to_num(own.own), spans[part]).T
        variance[:, where] += (hit.T @ (w * np.nan_to_num(own.of_day))).T ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(weight > 0, top / weight, np.nan)
        std = np.where(weight > 0, np.sqrt(variance + common**2) / weight, np.nan)
    measured = np.isfinite(bands.own).any(axis=0)
    std[~measured] = np.nan
    return np.concatenate([mean, std, count[None]]).reshape(-1, *geobox.shape).astype("f4")


def _fields(bands: _Bands) -> tuple[np.ndarray, ...]:
    return bands.value, bands.weight, bands.own, bands.of_day, bands.common


def _shares(errors: np.ndarray, parts: np.ndarray | None, sources: tuple[str, ...]) -> np.ndarray:
    """Variances of each kind, own, of the day, common, as shares of the whole, (3, time, element)."""
    out = np.zeros((3, *errors.shape))
    out[0] = 1.0
    if parts is None:
        return out
    kind = np.array([0 if s in _OWN else 1 if s in _OF_DAY else 2 for s in sources])
    square = np.nan_to_num(parts) ** 2
    total = square.sum(axis=1)
    for k in range(3):
        own = square[:, kind == k].sum(axis=1)
        out[k] = np.divide(own, total, out=out[k], where=total > 0)
    return out


def _abundances(values: np.ndarray, errors: np.ndarray, shares: np.ndarray) -> _Bands:
    known = np.isfinite(errors) & (errors > 0)
    # Frozen elements have no error: there every footprint weighs the same.
    weight = np.where(known, 1.0 / np.where(known, errors, 1.0) ** 2, 1.0)
    errors = np.where(known, errors, np.nan)
    return _Bands(values, weight, *(errors * np.sqrt(shares)))


def _ratios(
    values: np.ndarray, errors: np.ndarray, covariance: np.ndarray | None, shares: np.ndarray,
    pairs: tuple[tuple[int, int], ...],
) -> _Bands:  # fmt: skip
    """The same of ratios, whose errors are those at the mean composition: own values do not weigh themselves."""
    known = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    w = np.where(known, 1.0 / np.where(known, errors, 1.0) ** 2, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (w * np.where(known, values, 0.0)).sum(axis=0) / w.sum(axis=0)
    columns = []
    for i, j in pairs:
        both = known[:, i] & known[:, j] & (values[:, j] > _SEEN * np.where(known, errors, np.inf)[:, j])  # fmt: skip
        with np.errstate(invalid="ignore", divide="ignore"):
            value = np.where(both, values[:, i] / values[:, j], np.nan)
            terms = (errors[:, [i, j]] / mean[[i, j]]) ** 2
            mixed = 0.0 if covariance is None else 2 * covariance[:, i, j] / (mean[i] * mean[j])
            # Errors of two elements that go together may all but cancel, yet never quite.
            relative = np.maximum(terms.sum(axis=1) - np.nan_to_num(mixed), 0.01 * terms.max(axis=1))  # fmt: skip
            square = (mean[i] / mean[j]) ** 2 * relative
            split = np.einsum("stk,tk->st", shares[:, :, [i, j]], terms) / terms.sum(axis=1)
            own = np.sqrt(np.where(both, square * split, np.nan))
            columns.append((value, np.where(both, 1.0 / square, 0.0), *own))
    return _Bands(*(np.stack(column, axis=1) for column in zip(*columns, strict=True)))


def _parts_of(rows: np.ndarray, day: np.ndarray) -> Iterator[np.ndarray]:
    """Rows by day; no day is divided, for its footprints have errors in common."""
    cuts = np.flatnonzero(np.diff(day[rows])) + 1
    return (part for part in np.split(rows, cuts) if part.size)


def _covered(lon: np.ndarray, lat: np.ndarray, geobox: Any) -> np.ndarray:
    """Numbers of the pixels whose centres lie in a footprint."""
    from lunarray.geo import lonlat, project

    rows, columns = geobox.shape
    nothing = np.empty(0, "i8")
    corners = unit_vectors(lon, lat)
    normals = np.cross(corners, np.roll(corners, -1, axis=0))
    # Whichever way around the corners go, the inside is where their mean is; the antipodes are not.
    normals *= np.sign(normals @ corners.sum(axis=0))[:, None]
    ring_lon, ring_lat = lonlat_of(densify(corners))
    poles = [p for p in (90.0, -90.0) if _inside(unit_vectors(0.0, p)[None], normals)[0]]
    ring_lon = np.append(ring_lon, [0.0] * len(poles))
    ring_lat = np.append(ring_lat, poles)
    i, j = project(geobox, ring_lon, ring_lat)
    if not np.isfinite(i).any():
        return nothing
    r0, r1 = max(int(np.nanmin(i)) - 1, 0), min(int(np.nanmax(i)) + 2, rows)
    c0, c1 = int(np.nanmin(j)) - 1, int(np.nanmax(j)) + 2
    if poles or c1 - c0 > columns // 2:
        # Around a pole or across the seam of the grid: any column may be in it.
        c0, c1 = 0, columns
    c0, c1 = max(c0, 0), min(c1, columns)
    if r1 <= r0 or c1 <= c0:
        return nothing
    x, y = lonlat(geobox[r0:r1, c0:c1])
    row, column = np.nonzero(_inside(unit_vectors(np.asarray(x), np.asarray(y)), normals))
    return (row + r0) * columns + column + c0


def _inside(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Whether points lie in a convex polygon on the sphere, given by the normals of its edges that point inwards."""
    return (points @ normals.T >= 0).all(axis=-1)


def _incidence(pixels: list[np.ndarray]) -> tuple[np.ndarray, Any]:
    """Pixels that footprints cover, and which of them each covers: a sparse matrix (footprint, pixel) of ones."""
    from scipy.sparse import csr_array

    sizes = np.cumsum([0, *(own.size for own in pixels)])
    where, place = np.unique(np.concatenate(pixels), return_inverse=True)
    ones = np.ones(place.size)
    return where, csr_array((ones, place, sizes), shape=(len(pixels), where.size))


def _variance(hit: Any, error: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Variance of sums over footprints that share some of their time, (pixel, band).

    `error` (footprint, band): of each term; `spans` (footprint, 3), in order of start.
    """
    out = hit.T @ error**2
    length = np.maximum(spans[:, 1] - spans[:, 0], 0.0)
    for lag in range(1, min(len(error), _LAGS)):
        shared = np.maximum(spans[:-lag, 1] - spans[lag:, 0], 0.0)
        shared = np.minimum(shared, np.minimum(length[lag:], length[:-lag]))
        if not shared.any():
            break
        both = np.sqrt(length[lag:] * length[:-lag])
        share = np.divide(shared, both, out=np.zeros_like(shared), where=both > 0)[:, None]
        common = hit[lag:].multiply(hit[:-lag])
        out += 2.0 * (common.T @ (share * error[lag:] * error[:-lag]))
    return np.asarray(out)
