"""Regressions with some samples left out in turn, as :mod:`lunarray.oxides.folds` does it with networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lunarray.oxides.folds import FoldData, Folds
from lunarray.oxides.regressors import Method, Prior, expectation, fit, predict


def fit_folds(
    method: Method,
    data: FoldData,
    left_out: Sequence[np.ndarray],
    prior: Prior | None,
    errors: np.ndarray | None,
    seed: int,
) -> Folds:
    """Fit a regression to all samples, and one to each fold's; `prior`, `errors` and `seed` as of :func:`fit`.

    There are no members, and no epochs of the loss.
    """
    x, y = data.spectra, data.targets
    prior = expectation(method, prior, seed)
    whole = fit(method, x, y, errors, prior, seed)
    predicted = np.full(y.shape, np.nan, np.float32)
    others = predicted.copy()
    for index in left_out:
        if not index.size:
            continue
        rest = np.setdiff1d(np.arange(len(x)), index)
        state = fit(method, x[rest], y[rest], None if errors is None else errors[rest], prior, seed)
        predicted[index] = predict(state, x[index])
        if data.others is not None:
            seen = np.isfinite(data.others[index]).all(axis=1)
            others[index[seen]] = predict(state, data.others[index[seen]])
    return Folds(whole, (), np.empty((len(left_out), 0)), predicted, others)
