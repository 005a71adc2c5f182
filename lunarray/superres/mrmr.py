"""Choosing features: most relevant, least redundant with those chosen already (mRMR), in one pass over the data.

All that the greedy choice asks of the data are variances and correlations. They come from sums over blocks of rows,
which can be added up in any order and on any worker; the choice itself then costs no more pass over the data.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal, get_args

import numpy as np

from lunarray.errors import InputError, require_choice

Method = Literal["variance", "target"]
Scheme = Literal["difference", "quotient"]

#: Rows whose products are summed in float32 before they go into the float64 sums.
_ROWS = 4096
#: Partial sums of a Dask array that are added in one task.
_FAN = 8


def select_features(
    x: Any,
    n: int = 300,
    method: Method = "variance",
    target: Any = None,
    *,
    scheme: Scheme = "difference",
) -> np.ndarray:
    """Choose features greedily by maximal relevance and minimal redundancy.

    Each step takes the feature of the greatest relevance, less (or over) its mean absolute correlation with those
    chosen before. Correlations are computed once, in one pass over the rows, and summed up step by step.

    Parameters
    ----------
    x : array_like, dask Array, DataArray or FeatureMoments
        (row, feature), float32; a DataArray may have its dimension ``feature`` anywhere, the others are rows. Rows
        with a value that is not finite are left out. A dask array is read in blocks of rows, on whatever scheduler
        is set. :class:`FeatureMoments` are the sums already made, say region by region.
    n : int
        Features to choose.
    method : {"variance", "target"}
        Relevance: the variance of a feature (the paper's), or its absolute correlation with what is to be
        predicted, averaged over the targets.
    target : array_like, shape (row,) or (row, target), optional
        For ``method="target"``; NaN where it is not known, each target by itself. A DataArray has the dimensions of
        `x`, and any other (such as ``element``) for the targets.
    scheme : {"difference", "quotient"}
        How redundancy counts: subtracted from relevance that has been divided by its maximum, or dividing it.

    Returns
    -------
    ndarray of int64, shape (n,)
        Indices of the features in the order in which they were chosen; of equals the first. Constant features are
        never among them.

    Raises
    ------
    InputError
        Fewer than `n` features vary, no row is complete, the target is missing or of another length, or an option is
        unknown.

    References
    ----------
    Lunar elemental analysis and mapping of Chandrayaan-2 CLASS data (paper 002), section IV.B.1. Ding and Peng (2005),
    doi:10.1142/S0219720005001004, for the two schemes.

    Examples
    --------
    >>> import lunarray as la
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 6))
    >>> la.superres.select_features(x, 2).shape
    (2,)
    """
    require_choice("method", method, get_args(Method))
    require_choice("scheme", scheme, get_args(Scheme))
    if isinstance(x, FeatureMoments):
        moments = x
    else:
        if method == "target" and target is None:
            raise InputError(
                "relevance to a target without a target", where="target", remedy="Give target"
            )
        moments = feature_moments(x, target if method == "target" else None)
    return moments.select(n, method, scheme)


def feature_moments(x: Any, target: Any = None) -> FeatureMoments:
    """Sum up what :func:`lunarray.superres.select_features` asks of its arguments; a dask array is computed.

    Moments of other rows are added with ``+``. Raises InputError for arrays that do not fit together.
    """
    rows, goals = _rows_of(x, target)
    if hasattr(rows, "dask") or hasattr(goals, "dask"):
        return _lazily(rows, goals)
    return _moments(np.asarray(rows), None if goals is None else np.asarray(goals))


def _rows_of(x: Any, target: Any) -> tuple[Any, Any]:
    """(row, feature) and (row, target), as views where that can be."""
    if hasattr(x, "dims"):
        if "feature" not in x.dims:
            raise InputError(
                f"no dimension 'feature' among {x.dims}", where="x", remedy="Rename the dimension"
            )
        others = [d for d in x.dims if d != "feature"]
        if hasattr(target, "dims"):
            extra = [d for d in target.dims if d not in others]
            if set(others) - set(target.dims) or len(extra) > 1:
                raise InputError(
                    f"dimensions {target.dims} for features on {x.dims}",
                    where="target",
                    remedy="Give the dimensions of x without 'feature', and one of targets",
                )
            target = target.transpose(*others, *extra).data
            target = target.reshape(-1, target.shape[-1] if extra else 1)
        x = x.transpose(*others, "feature").data
        x = x.reshape(-1, x.shape[-1])
    if not hasattr(x, "dask"):
        x = np.asarray(x)
    if x.ndim != 2:
        raise InputError(
            f"{x.ndim} dimensions", where="x", remedy="Give (row, feature), or a DataArray"
        )
    if target is not None:
        target = target if hasattr(target, "dask") else np.asarray(target)
        target = target.reshape(-1, 1) if target.ndim == 1 else target
        if target.ndim != 2 or target.shape[0] != x.shape[0]:
            raise InputError(
                f"targets of shape {target.shape} for {x.shape[0]} rows",
                where="target",
                remedy="Give one row of targets for each row of x",
            )
    return x, target


def _lazily(rows: Any, goals: Any) -> FeatureMoments:
    import dask
    import dask.array as da

    rows = da.asarray(rows).rechunk({1: -1})
    parts = rows.to_delayed().ravel()
    if goals is None:
        targets: list[Any] = [None] * len(parts)
    else:
        targets = list(da.asarray(goals).rechunk({0: rows.chunks[0], 1: -1}).to_delayed().ravel())
    one, add = dask.delayed(_moments, pure=True), dask.delayed(_sum, pure=True)
    # In a Dask task: one BLAS thread.
    sums = [one(part, target, threads=1) for part, target in zip(parts, targets, strict=True)]
    # A tree, in the order of the rows: the same sums on any number of workers.
    while len(sums) > 1:
        sums = [add(sums[i : i + _FAN]) for i in range(0, len(sums), _FAN)]
    return sums[0].compute()


def _sum(parts: list[FeatureMoments]) -> FeatureMoments:
    return reduce(lambda one, other: one + other, parts)


@dataclass
class FeatureMoments:
    """Numbers of rows, means and central products of features, and of features with targets, all float64.

    Made by :func:`feature_moments`; those of different rows add up with ``+``. `count` are the complete rows; `mean`
    (feature,); `product` (feature, feature) is the covariance times `count`. `targets` are for each target its number
    of rows (target,), means of the features in these rows (target, feature) and of the target (target,), sums of
    squared deviations of both, and of their products (target, feature).
    """

    count: int
    mean: np.ndarray
    product: np.ndarray
    targets: tuple[np.ndarray, ...] = field(default=())

    def __add__(self, other: FeatureMoments) -> FeatureMoments:
        """Give the moments of the rows of both."""
        some = self.count and other.count
        if self.mean.shape != other.mean.shape or (some and bool(self.targets) != bool(other.targets)):  # fmt: skip
            raise InputError(
                f"moments of {self.mean.size} and of {other.mean.size} features, "
                f"{'with' if self.targets else 'without'} and {'with' if other.targets else 'without'} targets",
                remedy="Add moments of the same features and targets",
            )
        if not some:
            return other if other.count else self
        return _accumulate(replace(self, product=self.product.copy()), other)

    @property
    def variance(self) -> np.ndarray:
        """Variance of each feature (float64, over `count`)."""
        return np.diagonal(self.product) / max(self.count, 1)

    def target_relevance(self) -> np.ndarray:
        """Absolute correlation of each feature with the targets, averaged over them (float64).

        Targets that do not vary, or are known in fewer than two rows, do not count.
        """
        if not self.targets:
            raise InputError(
                "the moments hold no target", where="target", remedy="Make them with a target"
            )
        rows, _, _, square_x, square_y, cross = self.targets
        scale = np.sqrt(square_x * square_y[:, None])
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.where(scale > 0, np.abs(cross) / scale, 0.0)
        known = (rows > 1) & (square_y > 0)
        if not known.any():
            raise InputError(
                "no target is known and varies", where="target", remedy="Give targets with values"
            )
        return correlation[known].mean(axis=0)

    def select(
        self, n: int = 300, method: Method = "variance", scheme: Scheme = "difference"
    ) -> np.ndarray:
        """Choose features, as :func:`select_features` does."""
        if not self.count:
            raise InputError("no row is complete", where="x", remedy="Give rows without NaN")
        variance = self.variance
        # float32 values that are all equal still leave rounding behind.
        varies = variance > (1e-6 * np.abs(self.mean)) ** 2
        if not 1 <= n <= int(varies.sum()):
            raise InputError(
                f"{n} features of {varies.size}, of which {int(varies.sum())} vary",
                where="n",
                remedy="Ask for no more than vary",
            )
        relevance = variance if method == "variance" else self.target_relevance()
        return greedy(relevance, self.product, varies, n, scheme)


def greedy(
    relevance: np.ndarray, product: np.ndarray, varies: np.ndarray, n: int, scheme: str
) -> np.ndarray:
    """The greedy choice from relevance and covariances (of any scale)."""
    relevance = np.where(varies, relevance, 0.0)
    if scheme == "difference":
        relevance = relevance / max(float(relevance.max()), np.finfo(float).tiny)
    deviation = np.sqrt(np.where(varies, np.diagonal(product), 1.0))
    redundancy = np.zeros(relevance.size)
    left = varies.copy()
    chosen = np.empty(n, np.int64)
    for step in range(n):
        if step == 0:
            score = relevance
        elif scheme == "difference":
            score = relevance - redundancy / step
        else:
            score = relevance / np.maximum(redundancy / step, 1e-12)
        best = int(np.argmax(np.where(left, score, -np.inf)))
        chosen[step], left[best] = best, False
        # The one row of correlations that this step has made necessary.
        redundancy += np.abs(product[best]) / (deviation[best] * deviation)
    return chosen


def _moments(
    x: np.ndarray, target: np.ndarray | None, *, threads: int | None = None
) -> FeatureMoments:
    """Of some rows, block by block."""
    from threadpoolctl import threadpool_limits

    features = x.shape[1]
    total = FeatureMoments(0, np.zeros(features), np.zeros((features, features)))
    with nullcontext() if threads is None else threadpool_limits(threads, "blas"):
        for start in range(0, x.shape[0], _ROWS):
            block = np.ascontiguousarray(x[start : start + _ROWS], np.float32)
            complete = np.isfinite(block).all(axis=1)
            if not complete.all():
                block = block[complete]
            if not block.shape[0]:
                continue
            mean = block.mean(axis=0, dtype=np.float64)
            centred = block - mean.astype(np.float32)
            # NumPy sees a matrix by its own transpose, and computes one half of the product only.
            part = FeatureMoments(block.shape[0], mean, np.matmul(centred.T, centred))
            if target is not None:
                goals = np.asarray(target[start : start + _ROWS], np.float64)[complete]
                part.targets = _target_moments(centred, mean, goals)
            total = _accumulate(total, part) if total.count else part
    return total


def _accumulate(total: FeatureMoments, part: FeatureMoments) -> FeatureMoments:
    """`total + part` in place of `total`, whose square of features is large."""
    count = total.count + part.count
    step = part.mean - total.mean
    total.product += part.product
    total.product += np.outer(step * (total.count * part.count / count), step)
    if total.targets:
        total.targets = _add_targets(total.targets, part.targets)
    total.mean = total.mean + step * (part.count / count)
    total.count = count
    return total


def _target_moments(
    centred: np.ndarray, mean: np.ndarray, goals: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Moments of features and targets, each over the rows where the target is known."""
    known = np.isfinite(goals)
    rows = known.sum(axis=0).astype(np.float64)
    divisor = np.maximum(rows, 1)
    mean_y = np.where(known, goals, 0).sum(axis=0) / divisor
    y = np.where(known, goals - mean_y, 0)
    wide = centred.astype(np.float64)
    mask = known.T.astype(np.float64)
    offset = mask @ wide / divisor[:, None]
    square_x = mask @ np.square(wide) - divisor[:, None] * np.square(offset)
    return (
        rows,
        mean + offset,
        mean_y,
        np.maximum(square_x, 0),
        np.square(y).sum(axis=0),
        y.T @ wide,
    )


def _add_targets(
    one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, ...]:
    n1, x1, y1, xx1, yy1, xy1 = one
    n2, x2, y2, xx2, yy2, xy2 = other
    n = n1 + n2
    divisor = np.maximum(n, 1)
    share, weight = n2 / divisor, n1 * n2 / divisor
    dx, dy = x2 - x1, y2 - y1
    return (
        n,
        x1 + dx * share[:, None],
        y1 + dy * share,
        xx1 + xx2 + np.square(dx) * weight[:, None],
        yy1 + yy2 + np.square(dy) * weight,
        xy1 + xy2 + dx * (dy * weight)[:, None],
    )
