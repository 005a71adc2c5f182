"""How strong the kernels are and how large the errors: what makes the components of footprints likeliest, together.

Components share the proportions of the kernels and the kind of errors, from which each may differ somewhat; how strong
a component is, is its own. Some tens of footprints then suffice, and one that only holds errors has no strength.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lunarray.superres.areal_kernels import root_of

#: Means and widths of the logarithms of: the variance common to a track, as a share; the factor of the rest, where
#: errors are stated and where they are not; proportions of kernels; and how far a component's own differ from those of
#: all: proportions, track, rest.
_TRACK = (math.log(0.25), 1.0)
_REST = {True: (math.log(0.85), 0.25), False: (math.log(0.5), 2.0)}
_SHARES, _OWN_SHARES, _OWN_TRACK, _OWN_REST = 1.2, 0.5, 0.4, 0.2
#: Share of the fields in a component's variance, before any footprint is seen: of the elements of simulated Moons the
#: covariates explain most.
_FIELDS = 0.3
#: Shares of a component's variance that kernels may make up: its posterior is summed over these.
_GRID = np.geomspace(0.003, 3.0, 12)
_ITERATIONS = 60


@dataclass(frozen=True)
class Evidence:
    """Components of footprints, and the covariances that may explain them.

    `values` (footprint, component) have errors of `scale` (footprint,) times the same unit. `grams` (kernel, footprint,
    footprint) are covariances of unit strength, the last ones of fields of `lengths`, km; `track` (footprint,) tells
    the tracks; `flat` (component,) is the variance of the constant, so large that it is free. `stated`: whether the
    errors were stated, not guessed. `own_rest` is how far the factor of errors may differ between components
    (logarithm).
    """

    values: np.ndarray
    scale: np.ndarray
    grams: np.ndarray
    track: np.ndarray
    flat: np.ndarray
    lengths: tuple[float, ...]
    stated: bool = True
    own_rest: float = _OWN_REST

    @functools.cached_property
    def expected(self) -> np.ndarray:
        """Logarithms of the proportions of kernels that are expected: linear, smooth, and fields by :attr:`lengths`.

        Short fields are weaker than long ones, as the root of their length.
        """
        root = np.sqrt(self.lengths)
        known = np.full(len(self.grams) - len(root), (1 - _FIELDS) / (len(self.grams) - len(root)))
        return np.log(np.concatenate([known, _FIELDS * root / root.sum()]))

    @functools.cached_property
    def same(self) -> np.ndarray:
        """Whether both of two footprints belong to one track (footprint, footprint), 0 or 1."""
        return (self.track[:, None] == self.track).astype(np.float64)

    def covariance(self, logs: np.ndarray, component: int) -> np.ndarray:
        """Of a component's values, for logarithms of the strengths (kernel,), the tracks' variance and the rest's."""
        strength = np.exp(logs)
        total = np.tensordot(strength[:-2], self.grams, axes=1)
        total += self.flat[component] + strength[-2] * self.same
        total[np.diag_indices_from(total)] += strength[-1] * self.scale**2 + 1e-8
        return total

    def _one(self, logs: np.ndarray, component: int) -> tuple[float, np.ndarray]:
        """Negative logarithm of the likelihood of a component, and its gradient."""
        from scipy.linalg import cho_solve, lapack

        factor = root_of(self.covariance(logs, component)), True
        own = self.values[:, component]
        alpha = cho_solve(factor, own)
        value = 0.5 * own @ alpha + np.log(np.diag(factor[0])).sum()
        slope = lapack.dpotri(factor[0], lower=1)[0]
        slope = np.tril(slope) + np.tril(slope, -1).T
        slope -= np.outer(alpha, alpha)
        gradient = [0.5 * np.vdot(slope, g) for g in (*self.grams, self.same)]
        gradient.append(0.5 * np.diag(slope) @ self.scale**2)
        return float(value), np.array(gradient) * np.exp(logs)

    def _parts(self, x: np.ndarray) -> list[np.ndarray]:
        """Views of a vector of parameters: shares, strengths, own shares, errors, own tracks, own rests."""
        q, c = len(self.grams), self.values.shape[1]
        ends = np.cumsum([q, c, c * q, 2, c])
        shares, strength, own, errors, tracks, rests = np.split(x, ends)
        return [shares, strength, own.reshape(c, q), errors, tracks, rests]

    def logs(self, x: np.ndarray) -> np.ndarray:
        """Logarithms of strengths, tracks' variance and the rest's, (component, kernel + 2)."""
        shares, strength, own, errors, tracks, rests = self._parts(x)
        kernels = shares + strength[:, None] + own
        return np.column_stack([kernels, errors[0] + tracks, errors[1] + rests])

    def loss(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative logarithm of the posterior density of all parameters, and its gradient."""
        away: Any
        gradient = np.zeros_like(x)
        parts, slopes = self._parts(x), self._parts(gradient)
        logs = self.logs(x)
        value, q = 0.0, len(self.grams)
        for k in range(self.values.shape[1]):
            one, slope = self._one(logs[k], k)
            value += one
            slopes[0] += slope[:q]
            slopes[1][k] = slope[:q].sum()
            slopes[2][k] = slope[:q]
            slopes[3] += slope[q:]
            slopes[4][k], slopes[5][k] = slope[q:]
        rest = _REST[self.stated]
        priors: list[tuple[int, Any, float]] = [
            (0, self.expected, _SHARES),
            (2, 0.0, _OWN_SHARES),
            (4, 0.0, _OWN_TRACK),
        ]
        for k, mean, width in priors:
            away = (parts[k] - mean) / width
            value += 0.5 * float((away**2).sum())
            slopes[k] += away / width
        away = (parts[3][0] - _TRACK[0]) / _TRACK[1]
        value += 0.5 * away**2
        slopes[3][0] += away / _TRACK[1]
        # Stated errors are either about right or quite wrong: a Cauchy distribution.
        for own, slope, mean, width in (
            (parts[3][1:], slopes[3][1:], rest[0], rest[1]),
            (parts[5], slopes[5], 0.0, self.own_rest),
        ):
            away = (own - mean) / width
            value += float(np.log1p(away**2).sum())
            slope += 2 * away / (1 + away**2) / width
        return value, gradient

    def fit(self, iterations: int = _ITERATIONS) -> np.ndarray:
        """Likeliest :meth:`logs`."""
        from scipy.optimize import minimize

        q, c = len(self.grams), self.values.shape[1]
        spread = np.log(np.maximum(0.5 * self.values.var(axis=0), 0.3))
        errors = [_TRACK[0], _REST[self.stated][0]]
        start = np.concatenate([self.expected, spread, np.zeros(c * q), errors, np.zeros(2 * c)])
        bounds = (
            [(-8, 6)] * q
            + [(-7, 12)] * c
            + [(-4, 4)] * (c * q)
            + [(-7, 7)] * 2
            + [(-3, 3)] * (2 * c)
        )
        found = minimize(
            self.loss, start, jac=True, method="L-BFGS-B", bounds=bounds,
            options={"maxiter": iterations, "ftol": 1e-7},
        )  # fmt: skip
        return self.logs(found.x)

    def posterior(self, logs: np.ndarray) -> Posterior:
        """Sum over the strength of each component; proportions and errors are the likeliest, `logs`."""
        parts = [self._summed(k, own) for k, own in enumerate(logs)]
        return Posterior(
            *(np.stack(p, axis=-1 if n > 1 else 0) for n, p in enumerate(zip(*parts, strict=True)))
        )

    def _summed(self, component: int, likeliest: np.ndarray) -> tuple[Any, ...]:
        """What :class:`Posterior` holds, of one component."""
        from scipy.linalg import cho_solve, solve_triangular

        values = self.values[:, component]
        kernels = np.tensordot(np.exp(likeliest[:-2]), self.grams, axes=1)
        size = float(np.trace(kernels) / len(kernels) - kernels.mean())
        grid = np.log(_GRID * max(float(values.var()), 1e-12) / max(size, 1e-300))
        grid = np.sort(np.append(grid, 0.0))
        errors = math.exp(likeliest[-2]) * self.same
        errors[np.diag_indices_from(errors)] += math.exp(likeliest[-1]) * self.scale**2 + 1e-8
        one = np.ones(len(values))
        roots, chance = [], np.log(np.gradient(grid))
        for number, factor in enumerate(grid):
            roots.append(root_of(math.exp(factor) * kernels + errors))
            a, b = solve_triangular(roots[-1], np.column_stack([one, values]), lower=True).T
            middle = (a @ b) / (a @ a)
            rest = b - a * middle
            chance[number] -= 0.5 * rest @ rest + np.log(np.diag(roots[-1])).sum()
            chance[number] -= 0.5 * math.log(a @ a)
        weights = np.exp(chance - chance.max())
        weights /= weights.sum()
        # The level at the footprints, not that of the process far away: there, an error in how much an element has
        # of a component does not matter.
        known = root_of(errors), True
        weight = cho_solve(known, one)
        level = 1 / weight.sum()
        centre = level * (weight @ values)
        told, first, second = 0.0, np.zeros(len(values)), np.zeros(len(values))
        least = math.exp(likeliest[-2]) + math.exp(likeliest[-1]) * self.scale**2
        kept = weights / weights[weights >= 0.02].sum()
        for factor, root, own in zip(grid, roots, kept, strict=True):
            if own < 0.02:
                continue
            inverse = cho_solve((root, True), np.eye(len(values)))
            # With a constant of its own, which is as good as free.
            column = inverse @ one
            inverse -= np.outer(column, column) / (one @ column + 1 / self.flat[component])
            alpha = inverse @ values
            mean, variance = self._left_out(values, inverse, alpha)
            first += own * mean
            second += own * (np.maximum(variance - least, 1e-9) + mean**2)
            field = math.exp(factor) * kernels @ alpha
            field -= level * (weight @ field)
            told += own * (field @ cho_solve(known, field))
        order = np.argsort(-weights, kind="stable")
        sets = np.repeat(likeliest[None], len(grid), axis=0)
        sets[:, :-2] += grid[:, None]
        return sets[order], weights[order], centre, level, told, first, second - first**2, least

    def _left_out(
        self, values: np.ndarray, inverse: np.ndarray, alpha: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What each footprint would measure by those of other tracks, in closed form: mean and variance."""
        mean, variance = np.empty(len(values)), np.empty(len(values))
        for track in np.unique(self.track):
            own = np.flatnonzero(self.track == track)
            block = np.linalg.inv(inverse[np.ix_(own, own)])
            mean[own] = values[own] - block @ alpha[own]
            variance[own] = np.diag(block)
        return mean, variance


@dataclass(frozen=True)
class Posterior:
    """What is known of components once their strengths are summed over.

    `sets` (component, set, kernel + 2) are logarithms of strengths, likeliest first, with `weights` (component, set).
    `centre` and `level` (component,) are the level at the footprints and its variance, `told` (component,) how much
    footprints tell of the component. `left_out` (footprint, component) is what a footprint would measure by those of
    other tracks, `left_out_variance` the variance of that and `errors` that of the measurement.
    """

    sets: np.ndarray
    weights: np.ndarray
    centre: np.ndarray
    level: np.ndarray
    told: np.ndarray
    left_out: np.ndarray
    left_out_variance: np.ndarray
    errors: np.ndarray
