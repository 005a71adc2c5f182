"""How well oxides agree with a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.oxides.constants import choose_oxides
from lunarray.typing import typed
from lunarray.units import WEIGHT

# The module is not called "metrics": it would hide the function of that name in lunarray.oxides.

_ATTRS = {
    "R": ("Pearson correlation", "1"),
    "r2_correlation": ("squared correlation, R² of Bian et al. (2025), eq. 2", "1"),
    "r2_determination": ("coefficient of determination, 1 - SSE / SST", "1"),
    "RMSE": ("root mean square error", WEIGHT),
    "MAE": ("mean absolute error", WEIGHT),
    "bias": ("mean of predicted less reference", WEIGHT),
    "count": ("pairs compared", "1"),
}


@typed
def metrics(
    predicted: xr.Dataset | xr.DataArray,
    reference: xr.Dataset | xr.DataArray,
    *,
    oxides: Sequence[str] | None = None,
) -> xr.Dataset:
    """Measure how well predicted oxides agree with a reference.

    Parameters
    ----------
    predicted, reference : Dataset or DataArray
        Oxides by name in wt% on the same dimensions, such as maps or samples; or two DataArrays, compared as one. Pairs
        in which either is not finite are left out.
    oxides : sequence of str, optional
        By default those of the six that both have.

    Returns
    -------
    Dataset
        On `oxide` (without it, for two DataArrays), float64, lazy where the data are:

        - ``R``: Pearson correlation;
        - ``r2_correlation``: its square, which [1]_ calls R² (eq. 2). It is 1 for any straight line, whatever its slope
          and offset;
        - ``r2_determination``: the coefficient of determination in the usual sense, 1 - Σ(y - f)² / Σ(y - ȳ)², which
          is also the Nash-Sutcliffe efficiency. It is 1 only on the 1:1 line, and negative where the mean of the
          reference would predict better;
        - ``RMSE`` (eq. 3), ``MAE`` (eq. 4) and ``bias`` (predicted less reference) in wt%;
        - ``count``: pairs compared.

        Correlations are NaN where either is constant (so of one pair), the coefficient of determination where the
        reference is. Where there is no pair, everything is NaN but the count.

    Raises
    ------
    InputError
        If an oxide is missing, or the shapes or coordinates differ.

    Notes
    -----
    Moments are computed in one pass over blocks and combined pairwise in float64, so that maps larger than memory
    are read once.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, equations 2-4.
    .. [2] Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance, Am. Stat. 37 (3), 242.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> truth = la.simulate.truth_maps(scene)
    >>> scores = la.oxides.metrics(scene.lunar.invert_oxides(), truth)
    >>> list(scores.data_vars)[:3]
    ['R', 'r2_correlation', 'r2_determination']
    """
    if isinstance(predicted, xr.DataArray) and isinstance(reference, xr.DataArray):
        table = _finish(_moments_of(predicted, reference, "metrics"))
        return xr.Dataset({name: ((), value, _attrs(name)) for name, value in table.items()})
    if not (isinstance(predicted, xr.Dataset) and isinstance(reference, xr.Dataset)):
        raise InputError(
            f"a {type(predicted).__name__} against a {type(reference).__name__}",
            where="metrics",
            remedy="Give two Datasets or two DataArrays",
        )
    names = choose_oxides(oxides, "metrics", predicted=predicted, reference=reference)
    tables = [_finish(_moments_of(predicted[o], reference[o], o)) for o in names]
    stack = da.stack if any(dask.is_dask_collection(t["R"]) for t in tables) else np.stack
    return xr.Dataset(
        {name: ("oxide", stack([t[name] for t in tables]), _attrs(name)) for name in _ATTRS},
        coords={"oxide": list(names)},
    )


def _attrs(name: str) -> dict[str, str]:
    long_name, units = _ATTRS[name]
    return {"long_name": long_name, "units": units}


def _moments_of(predicted: xr.DataArray, reference: xr.DataArray, where: str) -> Any:
    if dict(predicted.sizes) != dict(reference.sizes):
        fault = f"predicted {dict(predicted.sizes)} against reference {dict(reference.sizes)}"
    else:
        other = [d for d in predicted.dims if not _same_coordinate(predicted, reference, d)]
        fault = f"predicted and reference differ in the coordinate {other[0]!r}" if other else ""
    if fault:
        raise InputError(fault, where=where, remedy="Bring both to the same grid or samples first")
    f, y = predicted.data, reference.transpose(*predicted.dims).data
    if not any(map(dask.is_dask_collection, (f, y))):
        return _moments(f, y)
    if not dask.is_dask_collection(f):
        f = da.from_array(f, chunks=y.chunks)
    y = y.rechunk(f.chunks) if dask.is_dask_collection(y) else da.from_array(y, chunks=f.chunks)
    if f.ndim == 0:
        f, y = f[None], y[None]
    # One row of moments a block, in an array with one element a block along each axis.
    each = da.map_blocks(
        _moments_block,
        f,
        y,
        new_axis=f.ndim,
        chunks=(*((1,) * n for n in f.numblocks), (_MOMENTS,)),
        dtype=np.float64,
        meta=np.empty((0,) * (f.ndim + 1)),
    )
    return da.reduction(
        each,
        chunk=_combine,
        combine=_combine,
        aggregate=_combine,
        axis=tuple(range(f.ndim)),
        concatenate=True,
        dtype=np.float64,
        meta=np.empty((0,), np.float64),
    )


def _same_coordinate(a: xr.DataArray, b: xr.DataArray, dim: Any) -> bool:
    if dim not in a.indexes or dim not in b.indexes:
        return True
    one, other = a.indexes[dim], b.indexes[dim]
    if one.equals(other) or not one.size:
        return True
    if one.dtype.kind not in "iuf" or other.dtype.kind not in "iuf":
        return False
    # One of them may have been float32.
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return bool(np.allclose(x, y, rtol=0, atol=2e-7 * float(np.abs(x).max())))


#: count, means of f and y, sums of squares and products about them, sums of |f - y| and (f - y)².
_MOMENTS = 8


def _moments(f: Any, y: Any) -> np.ndarray:
    """Moments of the pairs that are finite, shape (8,), float64."""
    f, y = np.asarray(f, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    pairs = np.isfinite(f) & np.isfinite(y)
    f, y = f[pairs], y[pairs]
    if f.size == 0:
        return np.zeros(_MOMENTS)
    # A constant has to have a spread of exactly zero, which rounding in the mean would spoil.
    mean_f = f[0] if np.ptp(f) == 0 else f.mean()
    mean_y = y[0] if np.ptp(y) == 0 else y.mean()
    df, dy, off = f - mean_f, y - mean_y, f - y
    return np.array(
        [f.size, mean_f, mean_y, df @ df, dy @ dy, df @ dy, np.abs(off).sum(), off @ off]
    )


def _moments_block(f: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _moments(f, y).reshape((1,) * f.ndim + (-1,))


def _combine(parts: np.ndarray, axis: Any = None, keepdims: bool = False) -> np.ndarray:
    """Put the moments of disjoint sets together (last axis), in float64 about the mean of the first."""
    rows = parts.reshape(-1, _MOMENTS)
    n = rows[:, 0]
    total = rows.sum(axis=0)
    if total[0] > 0:
        first = rows[np.argmax(n > 0), 1:3]
        # A constant is off by exactly zero, and stays one.
        off = np.where(n[:, None] > 0, rows[:, 1:3] - first, 0.0)
        mean = n @ off / total[0]
        df, dy = (off - mean).T
        total[1:3] = first + mean
        total[3:6] += n @ np.stack([df * df, dy * dy, df * dy], axis=1)
    return total.reshape((1,) * (parts.ndim - 1) + (-1,)) if keepdims else total


def _scores(moments: np.ndarray) -> np.ndarray:
    """The scores, in the order of :data:`_ATTRS`, of one set of moments."""
    n, mean_f, mean_y, ff, yy, fy, absolute, square = moments
    if n == 0:
        return np.array([np.nan] * 6 + [0.0])
    varies = ff > 0 and yy > 0
    r = float(np.clip(fy / np.sqrt(ff) / np.sqrt(yy), -1, 1)) if varies else np.nan
    determination = 1 - square / yy if yy > 0 else np.nan
    bias = mean_f - mean_y
    return np.array([r, r * r, determination, np.sqrt(square / n), absolute / n, bias, n])


def _finish(moments: Any) -> dict[str, Any]:
    """Scores by name."""
    if dask.is_dask_collection(moments):
        values: Any = moments.map_blocks(
            _scores, chunks=((len(_ATTRS),),), dtype=np.float64, meta=np.empty((0,))
        )
    else:
        values = _scores(moments)
    return {name: values[i] for i, name in enumerate(_ATTRS)}
