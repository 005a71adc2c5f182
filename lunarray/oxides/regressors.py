"""Regressions other than the network, on few pairs: partial least squares and Gaussian processes (NumPy and SciPy).

They are written out here, and not taken from scikit-learn, for two things that it has not: an error of its own for each
pair, and a state of plain arrays that any process can predict with.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from lunarray.errors import InputError

Method = Literal["cnn", "gp", "pls"]
METHODS: tuple[Method, ...] = get_args(Method)

State = dict[str, np.ndarray]
#: Simulated soils as spectra and targets, or what a Gaussian process has learnt of them.
Prior = tuple[np.ndarray, np.ndarray] | State

#: Components of partial least squares that are tried, and of the spectra that a Gaussian process looks at.
PLS_COMPONENTS, GP_COMPONENTS = 12, 6
#: Parts in which partial least squares is tried to choose the number of components.
_PARTS = 5
#: Pairs of which the parameters of a Gaussian process are taken, and most pairs that it takes at all.
_LIKELIHOOD_PAIRS, MOST_PAIRS = 200, 4000
#: Simulated soils that a Gaussian process learns from at most.
_PRIOR_SOILS = 1000
#: Error that pairs have beside the one told, as a share of the spread of the oxide among them.
OWN_ERROR = 0.2


def fit(
    method: Method,
    spectra: np.ndarray,
    targets: np.ndarray,
    errors: np.ndarray | None = None,
    prior: Prior | None = None,
    seed: int = 0,
) -> State:
    """Fit a regression of oxides on spectra.

    `spectra` (pair, band), `targets` (pair, oxide) wt%, `errors` (pair, oxide) wt%; `prior`: spectra and targets of
    simulated soils, which partial least squares takes as more pairs that together count as much as the real ones, and
    a Gaussian process as what is expected before the real ones are seen (:func:`expectation` fits that once for many
    fits); `seed` of parts and choices.
    """
    x, y = np.asarray(spectra, np.float64), np.asarray(targets, np.float64)
    e = np.zeros_like(y) if errors is None else np.asarray(errors, np.float64)
    if len(x) < 3:
        raise InputError(
            f"{len(x)} pairs", where=f"method={method!r}", remedy="Give three at least"
        )
    if method == "pls":
        return _fit_pls(x, y, e, prior, seed)
    if len(x) > MOST_PAIRS:
        raise InputError(
            f"{len(x)} pairs are too many for a Gaussian process",
            where="method='gp'",
            remedy=f"Give {MOST_PAIRS} at most, or use method='pls' or 'cnn'",
        )
    return _fit_gp(x, y, e, prior, seed)


def predict(state: State, spectra: np.ndarray) -> np.ndarray:
    """Abundances (pair, oxide) in wt%, float32, by what :func:`fit` gave."""
    x = np.asarray(spectra, np.float64)
    if "pls.coefficients" in state:
        values = x @ state["pls.coefficients"] + state["pls.offset"]
        return values.astype(np.float32)
    result = np.zeros((len(x), state["gp.mean"].size))
    for prefix in ("prior.", ""):
        part = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(f"{prefix}gp.")}
        if part:
            result += _predict_gp(part, x)
    return result.astype(np.float32)


def is_regressor(state: State) -> bool:
    """Tell the state of one of these from that of a network."""
    return "pls.coefficients" in state or "gp.mean" in state


def weights_of(targets: np.ndarray, errors: np.ndarray, real: np.ndarray) -> np.ndarray:
    """What each pair counts for each oxide, shape (pair, oxide), 1 on the mean of those that are real.

    One over the variance of its error, the told and :data:`OWN_ERROR` of the spread together; those that are not real
    share among them as much as the real ones have.
    """
    own = OWN_ERROR * targets[real].std(axis=0)
    variance = errors**2 + own**2
    weights = 1 / np.where(variance > 0, variance, 1.0)
    weights[real] /= weights[real].mean(axis=0)
    if not real.all():
        weights[~real] *= real.sum() / weights[~real].sum(axis=0)
    return weights


# --- partial least squares -------------------------------------------------------------------------


def _fit_pls(x: np.ndarray, y: np.ndarray, e: np.ndarray, prior: Prior | None, seed: int) -> State:
    real = np.ones(len(x), bool)
    if isinstance(prior, tuple):
        x, y = np.concatenate([x, prior[0]]), np.concatenate([y, prior[1]])
        e = np.concatenate([e, np.zeros_like(prior[1], np.float64)])
        real = np.arange(len(x)) < len(real)
    weights = weights_of(y, e, real)
    most = min(PLS_COMPONENTS, x.shape[1], int(real.sum()) - 2)
    coefficients, offset = np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1])
    for o in range(y.shape[1]):
        count = _pls_components(x, y[:, o], weights[:, o], real, most, seed)
        coefficients[:, o], offset[o] = _pls(x, y[:, o], weights[:, o], count)[count - 1]
    return {"pls.coefficients": coefficients, "pls.offset": offset}


def _pls_components(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, real: np.ndarray, most: int, seed: int
) -> int:
    """How many components foretell real pairs best that they were not fitted to; of like ones the fewest."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(real))
    parts = np.array_split(order, min(_PARTS, len(order)))
    loss = np.zeros(most)
    for part in parts:
        kept = np.setdiff1d(np.arange(len(x)), part)
        tried = _pls(x[kept], y[kept], w[kept], most)
        for k in range(most):
            b, offset = tried[min(k, len(tried) - 1)]
            loss[k] += float(w[part] @ (x[part] @ b + offset - y[part]) ** 2)
    # Within two per cent of the least: more components would be fitted to noise.
    return int(np.flatnonzero(loss <= 1.02 * loss.min())[0]) + 1


def _pls(x: np.ndarray, y: np.ndarray, w: np.ndarray, most: int) -> list[tuple[np.ndarray, float]]:
    """Coefficients and offset of weighted partial least squares with 1, 2, … components (NIPALS, one oxide)."""
    w = w / w.sum()
    centre, level = w @ x, float(w @ y)
    left, rest = x - centre, y - level
    ways, loads, slopes = [], [], []
    result = []
    for _ in range(most):
        way = left.T @ (w * rest)
        length = np.linalg.norm(way)
        if length < 1e-12:
            break
        way /= length
        score = left @ way
        size = float(w @ score**2)
        if size < 1e-20:
            break
        load, slope = left.T @ (w * score) / size, float((w * score) @ rest) / size
        left = left - np.outer(score, load)
        rest = rest - slope * score
        ways.append(way)
        loads.append(load)
        slopes.append(slope)
        p, q = np.array(ways), np.array(loads)
        b = p.T @ np.linalg.solve(q @ p.T, np.array(slopes))
        result.append((b, level - float(centre @ b)))
    return result or [(np.zeros(x.shape[1]), level)]


# --- Gaussian processes ----------------------------------------------------------------------------


def _fit_gp(x: np.ndarray, y: np.ndarray, e: np.ndarray, prior: Prior | None, seed: int) -> State:
    state: State = {}
    if prior is not None:
        before = prior if isinstance(prior, dict) else expectation("gp", prior, seed)
        assert isinstance(before, dict)
        state = {f"prior.{name}": value for name, value in before.items()}
        y = y - _predict_gp(before, x)
    return state | _gp(x, y, e, seed)


def expectation(method: Method, prior: Prior | None, seed: int) -> Prior | None:
    """What is learnt of simulated soils before real pairs are seen, where a method can tell these two apart."""
    if method != "gp" or prior is None or isinstance(prior, dict):
        return prior
    rng = np.random.default_rng(seed)
    some = rng.permutation(len(prior[0]))[:_PRIOR_SOILS]
    x, y = (np.asarray(array, np.float64)[some] for array in prior)
    return _gp(x, y, np.zeros_like(y), seed)


def _gp(x: np.ndarray, y: np.ndarray, e: np.ndarray, seed: int) -> State:
    """A Gaussian process for each oxide, on the principal components of the spectra."""
    centre = x.mean(axis=0)
    _, _, axes = np.linalg.svd(x - centre, full_matrices=False)
    axes = axes[: min(GP_COMPONENTS, len(x) - 1, x.shape[1])]
    scores = (x - centre) @ axes.T
    size = scores.std(axis=0)
    axes, size = axes[size > 1e-9 * size.max()], size[size > 1e-9 * size.max()]
    z = (x - centre) @ axes.T / size
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(z))[:_LIKELIHOOD_PAIRS])
    spread = np.where(y.std(axis=0) > 0, y.std(axis=0), 1.0)
    mean = y.mean(axis=0)
    parameters, weights = [], []
    for o in range(y.shape[1]):
        t, noise = (y[:, o] - mean[o]) / spread[o], (e[:, o] / spread[o]) ** 2
        theta = _likeliest(z[some], t[some], noise[some])
        k = _kernel(z, z, theta) + np.diag(noise + np.exp(2 * theta[-1]))
        weights.append(cho_solve(cho_factor(k, lower=True), t) * spread[o])
        parameters.append(theta)
    return {
        "gp.centre": centre, "gp.axes": axes / size[:, None], "gp.scores": z, "gp.mean": mean,
        "gp.theta": np.array(parameters), "gp.weights": np.array(weights),
    }  # fmt: skip


def _predict_gp(state: State, x: np.ndarray) -> np.ndarray:
    z = (x - state["gp.centre"]) @ state["gp.axes"].T
    return np.stack(
        [
            mean + _kernel(z, state["gp.scores"], theta) @ weights
            for mean, theta, weights in zip(
                state["gp.mean"], state["gp.theta"], state["gp.weights"], strict=True
            )
        ],
        axis=1,
    )


def _kernel(a: np.ndarray, b: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Linear and Gaussian covariance of components, each with a scale of its own, and a constant.

    `theta`: logarithms of the components' scales, of the amplitudes of the linear and the Gaussian part, and of the
    noise, which is not in it.
    """
    scale = np.exp(theta[:-3])
    linear, gaussian = np.exp(2 * theta[-3]), np.exp(2 * theta[-2])
    square = cdist(a * scale, b * scale, "sqeuclidean")
    return 1.0 + linear * (a * scale) @ (b * scale).T + gaussian * np.exp(-0.5 * square)


def _likeliest(z: np.ndarray, t: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Parameters of the greatest likelihood, with a broad prior that keeps them near where they begin."""
    begin = np.concatenate([np.zeros(z.shape[1]), np.log([0.5, 0.5, 0.3])])

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        scale = np.exp(theta[:-3])
        linear, gaussian = np.exp(2 * theta[-3]), np.exp(2 * theta[-2])
        s = z * scale
        products = s @ s.T
        bell = gaussian * np.exp(-0.5 * cdist(s, s, "sqeuclidean"))
        own = np.exp(2 * theta[-1])
        try:
            factor = cho_factor(
                1.0 + linear * products + bell + np.diag(noise + own + 1e-8), lower=True
            )
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(theta)
        alpha = cho_solve(factor, t)
        inverse = cho_solve(factor, np.eye(len(t)))
        # d loss / d K, and by the chain rule to the parameters.
        slope = 0.5 * (inverse - np.outer(alpha, alpha))
        gradient = np.empty_like(theta)
        for d in range(z.shape[1]):
            off = s[:, d][:, None] - s[:, d][None, :]
            gradient[d] = np.sum(
                slope * (2 * linear * np.outer(s[:, d], s[:, d]) - bell * off * off)
            )
        gradient[-3] = 2 * linear * np.sum(slope * products)
        gradient[-2] = 2 * np.sum(slope * bell)
        gradient[-1] = 2 * own * np.trace(slope)
        value = 0.5 * t @ alpha + np.log(np.diag(factor[0])).sum()
        off = theta - begin
        return float(value + 0.5 * off @ off / 4), gradient + off / 4

    found = minimize(
        loss, begin, jac=True, method="L-BFGS-B", bounds=[(-6.0, 4.0)] * begin.size,
        options={"maxiter": 40},
    )  # fmt: skip
    return found.x
