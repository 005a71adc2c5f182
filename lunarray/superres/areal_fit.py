"""How an areal Gaussian process is fitted: errors, components, strengths, and what standard deviations lack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lunarray.errors import InputError
from lunarray.superres.areal import (
    ArealModel,
    ArealSettings,
    Basis,
    Footprints,
    Member,
    halves,
    joined,
)
from lunarray.superres.areal_evidence import Evidence, Posterior
from lunarray.superres.areal_kernels import gram
from lunarray.superres.areal_mixing import Closure, Mixing, known_sums

#: Degrees of freedom of the errors' distribution that are tried.
_TAILS = (3.0, 5.0, 8.0, 15.0)
#: Shares of the members before any track is held out, and how many footprints they weigh like.
_SHARES, _WEIGHT = np.array([0.6, 0.4]), 16.0
#: Robust standard deviations from the median beyond which nothing on the Moon lies.
_FAR = 10.0
#: Tracks that standard deviations that are right as stated count like.
_TRACKS = 20


def fit_areal(
    footprints: Footprints,
    elements: tuple[str, ...],
    basis: Basis,
    settings: ArealSettings,
    *,
    calibrate: bool = True,
) -> ArealModel:
    """Fit a model to footprints; InputError if an element has fewer than three of them.

    Components that all elements share see more than each element by itself does, where they are right; where the signal
    of an element is below its error, its own model shrinks it better. Both are members, weighed for each element by
    what they make of tracks that are left out. These tell as well what standard deviations lack (`calibrate`).
    """
    table = footprints.measured
    known = np.isfinite(table).sum(axis=0)
    for name, count in zip(elements, known, strict=True):
        if count < 3:
            raise InputError(
                f"{count} known values of {name}",
                where="areal model",
                remedy="Give more footprints, or leave the element out",
            )
    some = _some_tracks(footprints.track, settings)
    part = footprints.take(some)
    grams = _grams(part, basis, settings)
    stated = bool(np.isfinite(footprints.error).any())
    unit, scale = _errors(footprints)
    card: dict[str, Any] = {
        "stated": [None if np.isnan(s) else s for s in _stated(footprints.error).tolist()]
    }
    filled = _filled(table, unit)

    def evidence(values: np.ndarray, scale: np.ndarray, **more: Any) -> Evidence:
        own = values[some], scale[some]
        return Evidence(*own, grams, part.track, _flat(values), settings.lengths, **more)

    # First each element by itself: how large its errors are, and whether some footprints are wild.
    mixing = _alone(filled, scale, unit)
    own = {"stated": stated, "own_rest": 0.2 if stated else 1.0}
    alone = evidence(mixing.components(filled), scale, **own)
    logs = alone.fit()
    ratio = np.exp(logs[:, -1]) + np.exp(logs[:, -2])
    unit = unit * np.sqrt(ratio)
    factor, tail = _tails(alone, logs)
    scale = scale.copy()
    scale[some] *= factor
    sums, totals = known_sums(
        elements,
        table,
        unit * scale[:, None],
        closure=settings.closure,
        stoichiometry=settings.stoichiometry,
    )
    ways = (Mixing.found(filled, scale, unit, sums, totals), _alone(filled, scale, unit))
    members, left_out = [], []
    for mixing, start in zip(ways, (None, logs - np.log(ratio)[:, None]), strict=True):
        values = mixing.components(filled)
        about = evidence(values, scale)
        posterior = about.posterior(about.fit() if start is None else start)
        mixing = _seen(mixing, posterior, settings.shrink and start is None)
        members.append(Member(mixing, values, posterior.sets, posterior.weights, about.flat))
        mean, variance, errors = _left_out(mixing, posterior)
        left_out.append((*mixing.closed(mean, variance, sums, totals), errors))
    share = _shares(left_out, part.measured)
    mean, variance = joined([m[:2] for m in left_out], share)
    closure = Closure(sums, totals, variance.mean(axis=0))
    mean = closure.held(mean)
    card |= {"footprints": len(footprints), "tracks": len(np.unique(footprints.track))}
    card |= {"tail": tail, "sums": len(sums), "unit": unit.tolist(), "share": share.tolist()}
    model = ArealModel(
        elements, settings, basis, footprints, scale, tuple(members), share, closure,
        np.ones(len(elements)), card,
    )  # fmt: skip
    return _calibrated(model, part, mean, variance, calibrate)


def _alone(filled: np.ndarray, scale: np.ndarray, unit: np.ndarray) -> Mixing:
    """The mixing where each element is a component."""
    return Mixing.of(np.average(filled, axis=0, weights=1 / scale**2), unit, np.eye(len(unit)))


def _left_out(mixing: Mixing, posterior: Posterior) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What tracks would measure by all others: mean, its variance, and that of the errors (footprint, element)."""
    own = posterior.left_out - mixing.centre, posterior.left_out_variance
    return *mixing.restore(*own), mixing.errors(posterior.errors)


def _shares(
    left_out: list[tuple[np.ndarray, np.ndarray, np.ndarray]], measured: np.ndarray
) -> np.ndarray:
    """Shares of members (member, element): the likeliest for tracks that are left out, with a prior.

    Footprints of a track share what they tell, so they count half.
    """
    chance = np.stack(
        [-0.5 * (measured - m) ** 2 / (v + e) - 0.5 * np.log(v + e) for m, v, e in left_out]
    )
    chance = np.exp(chance - chance.max(axis=0))
    share = np.repeat(_SHARES[:, None], measured.shape[1], axis=1)
    for e in range(measured.shape[1]):
        own = chance[:, np.isfinite(measured[:, e]), e]
        # Expectation and maximisation, which rises with each step.
        for _ in range(100):
            of = share[:, e, None] * own
            count = 0.5 * (of / of.sum(axis=0)).sum(axis=1) + _WEIGHT * _SHARES
            share[:, e] = count / count.sum()
    return share


def _calibrated(
    model: ArealModel, part: Footprints, mean: np.ndarray, variance: np.ndarray, calibrate: bool
) -> ArealModel:
    """The model with standard deviations that hold on whole tracks: each is predicted from the others.

    `mean` and `variance` (footprint, element) are what a map without them says. With few tracks the factor stays near
    one.
    """
    tracks = len(np.unique(part.track))
    if not calibrate or tracks < 2:
        return model
    # Errors as they are stated: a footprint that turned out wild was not known for that before.
    std = np.sqrt(variance + model_noise(model, part))
    ratio = np.abs(part.measured - mean) / std
    found = np.array([np.nanquantile(r, 0.683) for r in ratio.T])
    weight = tracks / (tracks + _TRACKS)
    model.factor = np.exp(weight * np.log(np.maximum(found, 0.1)))
    model.card["within_one_sigma"] = [float(np.mean(r[np.isfinite(r)] < 1)) for r in ratio.T]
    return model


def _flat(values: np.ndarray) -> np.ndarray:
    """Variance of the constants."""
    return 100 * (values.var(axis=0) + 1)


def _some_tracks(track: np.ndarray, settings: ArealSettings) -> np.ndarray:
    """Footprints for the strengths: all, or whole tracks drawn from them."""
    if len(track) <= settings.evidence:
        return np.arange(len(track))
    rng = np.random.default_rng([settings.seed, 78])
    order = rng.permutation(np.unique(track))
    count = np.cumsum([np.sum(track == t) for t in order])
    chosen = order[: max(1, int(np.searchsorted(count, settings.evidence, side="right")))]
    return np.flatnonzero(np.isin(track, chosen))


def _grams(footprints: Footprints, basis: Basis, settings: ArealSettings) -> np.ndarray:
    """Covariances of unit strength (kernel, footprint, footprint): linear, smooth, fields."""
    linear, waves = np.split(footprints.design, [basis.linear], axis=1)
    fields = gram(*footprints.lattices(), np.array(settings.lengths))
    return np.concatenate([(linear @ linear.T)[None], (waves @ waves.T)[None], fields])


def _stated(error: np.ndarray) -> np.ndarray:
    """Median of the errors that are stated of each element (element,), NaN where none is."""
    return np.array([np.median(e[e > 0]) if (e > 0).any() else np.nan for e in error.T])


def _strength(error: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """How many times the median the errors of footprints are, (footprint,); 1 where they are not stated."""
    ratio = np.where(error > 0, error, np.nan) / stated
    rows = np.isfinite(ratio).any(axis=1)
    scale = np.ones(len(error))
    scale[rows] = np.nanmedian(ratio[rows], axis=1)
    return np.clip(scale, 0.1, 10)


def _errors(footprints: Footprints) -> tuple[np.ndarray, np.ndarray]:
    """Unit of the errors of each element (wt%), and how many of them a footprint's are."""
    table, stated = footprints.measured, _stated(footprints.error)
    spread = np.nanstd(table, axis=0)
    unit = np.where(np.isfinite(stated), stated, np.maximum(0.5 * spread, 1e-3))
    # Errors far beyond the scatter, or nothing beside it, are stated wrongly.
    unit = np.where(spread > 0, np.clip(unit, 0.01 * spread, 2 * spread), unit)
    # A footprint that lacks elements says less; one beyond all others by far is as wrong as that.
    there = np.isfinite(table).mean(axis=1)
    away = np.abs(table - np.nanmedian(table, axis=0))
    far = away > _FAR * 1.4826 * np.nanmedian(away, axis=0)
    wild = np.nanmax(np.where(far, away / unit, 0), axis=1)
    scale = _strength(footprints.error, stated) / np.sqrt(np.maximum(there, 1e-3))
    return unit, np.maximum(scale, wild)


def _filled(table: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Footprints with missing elements as the others make them likely."""
    gap = ~np.isfinite(table)
    if not gap.any():
        return table.astype(np.float64)
    values = np.where(gap, np.nanmean(table, axis=0), table)
    for _ in range(20):
        mean = values.mean(axis=0)
        spread = np.cov(values.T).reshape(len(unit), len(unit)) + np.diag(0.1 * unit**2)
        for row in np.flatnonzero(gap.any(axis=1)):
            out, there = gap[row], ~gap[row]
            if there.any():
                weights = np.linalg.solve(spread[np.ix_(there, there)], spread[np.ix_(there, out)])
                values[row, out] = mean[out] + (values[row, there] - mean[there]) @ weights
    return values


def _tails(evidence: Evidence, logs: np.ndarray) -> tuple[np.ndarray, float]:
    """Factor (footprint,) by which errors are larger where a footprint is wild, and degrees of freedom (0: normal).

    From how far each footprint is from what the others predict. A multivariate t is compared with a normal
    distribution; errors stay as they are where it is not likelier by two nats.
    """
    from scipy.special import gammaln

    count = evidence.values.shape[1]
    square = np.zeros(len(evidence.values))
    for k in range(count):
        inverse = np.linalg.inv(evidence.covariance(logs[k], k))
        square += (inverse @ evidence.values[:, k]) ** 2 / np.diag(inverse)
    square /= max(float(np.median(square)) / (count * (1 - 2 / (9 * count)) ** 3), 1e-6)
    normal = -0.5 * square.sum() - 0.5 * len(square) * count * np.log(2 * np.pi)
    best, found = normal + 2, 0.0
    for nu in _TAILS:
        own = gammaln((nu + count) / 2) - gammaln(nu / 2) - 0.5 * count * np.log(nu * np.pi)
        value = float(np.sum(own - 0.5 * (nu + count) * np.log1p(square / nu)))
        if value > best:
            best, found = value, nu
    if not found:
        return np.ones(len(square)), 0.0
    return np.sqrt((found + square) / (found + count)), found


def _seen(mixing: Mixing, posterior: Posterior, shrink: bool) -> Mixing:
    """The mixing, knowing how far each element's share in a component is seen: by the size of its error."""
    noise = (mixing.loading**2).sum(axis=1)
    told = np.maximum(posterior.told, 1e-9)
    ratio = mixing.loading**2 * told / np.maximum(noise, 1e-12)[:, None]
    seen = np.clip(1 - 1 / np.maximum(ratio, 1e-9), 0, 1) if shrink else np.ones_like(ratio)
    # A component that no footprint tells anything of has no share in any element.
    unsure = noise[:, None] * (told / (told + 3) ** 2) if shrink else 0 * ratio
    return replace(mixing, seen=seen, unsure=unsure, centre=posterior.centre, level=posterior.level)


def footprint_predictions(
    model: ArealModel, others: Footprints, size: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """What footprints would measure by a model, and its standard deviation with their errors (footprint, element)."""
    fine, coarse = others.lattices()
    middle = coarse.mean(axis=1)
    mean = np.empty((len(others), len(model.elements)))
    variance = np.empty_like(mean)
    for block in halves(np.arange(len(others)), middle, size):
        mean[block], variance[block] = model.predict(
            others.design[block], (fine[block], coarse[block])
        )
    # What standard deviations lack, the errors lack as well.
    return mean, np.sqrt(variance + model_noise(model, others) * model.factor**2)


def model_noise(model: ArealModel, others: Footprints) -> np.ndarray:
    """Variance of the errors of footprints (footprint, element), wt%², as the model takes them."""
    scale = _strength(others.error, np.array(model.card["stated"], np.float64))
    out = np.zeros(others.measured.shape)
    for share, member in zip(model.share, model.members, strict=True):
        logs = member.logs[:, 0]
        own = np.exp(logs[:, -2]) + np.exp(logs[:, -1]) * scale[:, None] ** 2
        out += share * member.mixing.errors(own)
    return out
