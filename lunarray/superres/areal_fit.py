"""How an areal Gaussian process is fitted: errors, components, strengths, and what standard deviations lack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lunarray.errors import InputError
from lunarray.superres.areal import ArealModel, ArealSettings, Basis, Footprints, halves
from lunarray.superres.areal_evidence import FACTORS, Evidence
from lunarray.superres.areal_kernels import gram, root_of
from lunarray.superres.areal_mixing import Mixing, known_sums

#: Degrees of freedom of the errors' distribution that are tried.
_TAILS = (3.0, 5.0, 8.0, 15.0)


def fit_areal(
    footprints: Footprints, elements: tuple[str, ...], basis: Basis, settings: ArealSettings
) -> ArealModel:
    """Fit a model to footprints; InputError if an element has fewer than three of them."""
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
    same = (part.track[:, None] == part.track).astype(np.float64)
    stated = bool(np.isfinite(footprints.error).any())
    unit, scale = _errors(footprints)
    filled = _filled(table, unit)
    mixing = Mixing.found(filled, scale, unit, *_no_sums(len(elements)))
    mixing = replace(mixing, loading=np.eye(len(elements)))
    # First each element by itself: how large its errors are, and whether some footprints are wild.
    values = mixing.components(filled)
    alone = Evidence(
        values[some],
        scale[some],
        grams,
        same,
        _flat(values),
        stated,
        0.2 if stated else 1.0,
    )
    logs = alone.fit()
    unit = unit * np.sqrt(np.exp(logs[:, -1]) + np.exp(logs[:, -2]))
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
    mixing = Mixing.found(filled, scale, unit, sums, totals)
    values = mixing.components(filled)
    evidence = Evidence(values[some], scale[some], grams, same, _flat(values), True)
    logs = evidence.fit()
    sets, weights, facts = _posterior(evidence, logs)
    mixing = _seen(mixing, facts, settings.shrink)
    card = {"footprints": len(footprints), "tracks": len(np.unique(footprints.track)), "tail": tail}
    card |= {"sums": len(sums), "unit": unit.tolist(), "logs": logs.tolist()}
    return ArealModel(
        elements, settings, basis, footprints, mixing, values, scale, sets, weights, mixing.centre,
        evidence.flat, np.ones(len(elements)), card,
    )  # fmt: skip


def _no_sums(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((0, count)), np.zeros(0)


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


def _errors(footprints: Footprints) -> tuple[np.ndarray, np.ndarray]:
    """Unit of the errors of each element (wt%), and how many of them a footprint's are."""
    error, table = footprints.error, footprints.measured
    guess = np.maximum(0.5 * np.nanstd(table, axis=0), 1e-3)
    good = np.isfinite(error) & (error > 0)
    unit = np.where(
        good.any(axis=0),
        [np.median(error[g, e]) if g.any() else 1.0 for e, g in enumerate(good.T)],
        guess,
    )
    ratio = np.where(good, error / unit, np.nan)
    rows = np.isfinite(ratio).any(axis=1)
    scale = np.ones(len(table))
    scale[rows] = np.nanmedian(ratio[rows], axis=1)
    # A footprint that lacks elements says less.
    there = np.isfinite(table).mean(axis=1)
    return unit, np.clip(scale, 0.1, 10) / np.sqrt(np.maximum(there, 1e-3))


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


def _posterior(
    evidence: Evidence, logs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Sets of strengths with their weights, likeliest first, and what is known of the components at the footprints.

    The strength of each component is summed over; proportions and errors are the likeliest. The facts are: centre and
    its variance, and the information on how much an element has of a component.
    """
    count = evidence.values.shape[1]
    sets = np.empty((count, len(FACTORS), logs.shape[1]))
    weights = np.empty((count, len(FACTORS)))
    facts = {name: np.empty(count) for name in ("centre", "level", "told")}
    one = np.ones(len(evidence.values))
    for k in range(count):
        found = []
        for number, factor in enumerate(FACTORS):
            own = logs[k].copy()
            own[:-2] += np.log(factor)
            sets[k, number] = own
            total = evidence.covariance(own, k) - evidence.flat[k]
            lower = root_of(total)
            a, b = np.linalg.solve(lower, np.column_stack([one, evidence.values[:, k]])).T
            middle = (a @ b) / (a @ a)
            rest = b - a * middle
            chance = -0.5 * rest @ rest - np.log(np.diag(lower)).sum() - 0.5 * np.log(a @ a)
            alpha = np.linalg.solve(lower.T, rest)
            field = np.tensordot(np.exp(own[:-2]), evidence.grams, axes=1) @ alpha + middle
            errors = np.exp(own[-2]) * evidence.same + np.diag(np.exp(own[-1]) * evidence.scale**2)
            # The level at the footprints, not that of the process far away: there, an error in how much an element has
            # of a component does not matter.
            weight = np.linalg.solve(errors, one)
            level = 1 / weight.sum()
            centre = level * (weight @ evidence.values[:, k])
            field -= level * (weight @ field)
            found.append((chance, centre, level, field @ np.linalg.solve(errors, field)))
        chance, *rows = np.array(found).T
        share = np.exp(chance - chance.max())
        share /= share.sum()
        for name, values in zip(facts, rows, strict=True):
            facts[name][k] = share @ values
        order = np.argsort(-share, kind="stable")
        sets[k], weights[k] = sets[k, order], share[order]
    return sets, weights, facts


def _seen(mixing: Mixing, facts: dict[str, np.ndarray], shrink: bool) -> Mixing:
    """The mixing, knowing how far each element's share in a component is seen: by the size of its error."""
    noise = (mixing.loading**2).sum(axis=1)
    told = np.maximum(facts["told"], 1e-9)
    ratio = mixing.loading**2 * told / np.maximum(noise, 1e-12)[:, None]
    seen = np.clip(1 - 1 / np.maximum(ratio, 1e-9), 0, 1) if shrink else np.ones_like(ratio)
    # A component that no footprint tells anything of has no share in any element.
    unsure = noise[:, None] * (told / (told + 3) ** 2)
    spread = ((seen * mixing.loading) ** 2 @ (told / max(float(told.max()), 1e-9))) * mixing.unit**2
    return replace(
        mixing, seen=seen, unsure=unsure, centre=facts["centre"], level=facts["level"],
        carry=spread + 1e-6 * mixing.unit**2,
    )  # fmt: skip


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
    unit = np.array(model.card["stated_unit"]) if "stated_unit" in model.card else model.mixing.unit
    error = others.error
    ratio = np.where(np.isfinite(error) & (error > 0), error / unit, np.nan)
    rows = np.isfinite(ratio).any(axis=1)
    scale = np.ones(len(error))
    scale[rows] = np.nanmedian(ratio[rows], axis=1)
    logs = model.logs[:, 0]
    own = np.exp(logs[:, -2]) + np.exp(logs[:, -1]) * np.clip(scale, 0.1, 10)[:, None] ** 2
    share = model.mixing.loading**2
    # What is known of sums makes the map better, not the measurement.
    rest = np.maximum(1 - share.sum(axis=1), 0)
    return (own @ share.T + own.mean(axis=1)[:, None] * rest) * model.mixing.unit**2


def calibrated(model: ArealModel, folds: int = 5) -> ArealModel:
    """The model with standard deviations that hold on whole tracks: each is predicted from the others.

    Strengths stay as they are. With few tracks the factor stays near one: it is as if twenty more had been predicted as
    stated.
    """
    from lunarray.superres.tracks import track_folds

    footprints = model.footprints
    tracks = np.unique(footprints.track)
    if len(tracks) < 2:
        return model
    fold = track_folds(footprints.track, min(folds, len(tracks)), model.settings.seed)
    ratio = np.full(footprints.measured.shape, np.nan)
    for number in range(fold.max() + 1):
        rest, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        part = _subset(model, rest)
        own = footprints.take(held)
        mean, std = footprint_predictions(part, own)
        ratio[held] = np.abs(own.measured - mean) / std
    found = np.array([np.nanquantile(r, 0.683) for r in ratio.T])
    weight = len(tracks) / (len(tracks) + 20)
    factor = np.exp(weight * np.log(np.maximum(found, 0.1)))
    card = {**model.card, "within_one_sigma": [float(np.nanmean(r < 1)) for r in ratio.T]}
    return replace(model, factor=factor, card=card, _blocks=None)


def _subset(model: ArealModel, rows: np.ndarray) -> ArealModel:
    """The same model, of some footprints only."""
    parts: dict[str, Any] = {n: getattr(model, n)[rows] for n in ("values", "scale")}
    return replace(model, footprints=model.footprints.take(rows), _blocks=None, **parts)
