"""What a spectrum and its residuals say of particles and of the response."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import median_filter

from lunarray.xrf.model import SpectralModel
from lunarray.xrf.settings import (
    ELEMENT_FLAGS,
    ERROR_SOURCES,
    FitResult,
    FitSettings,
    Geometry,
    Observation,
)

#: Energies (keV) beyond the Sun's and below the noisy end, where only particles are counted, in how many parts their
#: spectrum is told there, and how sure their excess must be.
_PARTICLE_BAND, _PARTS, _SURE = (9.0, 17.5), 6, 3.0
#: By how much (1/keV) a storm's counts fall off with energy where few of them tell: mean and spread.
_STEEPNESS = (0.03, 0.03)
#: Channels that count so many standard deviations more than those around them are noisy.
_NOISY, _AROUND = 6.0, 31


def particle_excess(data: Observation, model: SpectralModel) -> np.ndarray:
    """Counts/s in the fitted channels that particles give beyond the background spectrum, (channel,).

    Told by the channels of 9-17.5 keV, to which the Sun does not reach: in a storm of protons their counts fall off
    slowly with energy, exponentially as far as they are seen, and are taken to go on so below. Where there are fewer
    particles than in the background, all of it is taken to be as much lower.
    """
    response = model.full_response
    energy = response.channel_energy()
    above = (energy >= _PARTICLE_BAND[0]) & (energy < _PARTICLE_BAND[1])
    out = np.zeros(model.channels)
    if above.sum() < 50:
        return out
    counts = np.asarray(data.counts, np.float64)[above]
    if not np.all(np.isfinite(counts)):
        return out
    quiet = _not_noisy(counts)
    counts, at = counts[quiet], energy[above][quiet]
    back = np.zeros(counts.size)
    if data.background is not None:
        back = np.asarray(data.background, np.float64)[above][quiet]
    rate, expected = counts.sum() / data.exposure, back.sum() / data.background_exposure
    error = np.sqrt(
        max(counts.sum(), 1.0) / data.exposure**2 + back.sum() / data.background_exposure**2
    )
    if abs(rate - expected) < _SURE * error:
        return out
    width = response.channel_hi - response.channel_lo
    if rate > expected:
        steepness = _steepness(at, counts, back * (data.exposure / data.background_exposure))
        seen = np.exp(-steepness * at) @ width[above][quiet]
        own = slice(model.first, model.stop)
        return (rate - expected) / seen * np.exp(-steepness * energy[own]) * width[own]
    whole = np.asarray(data.background, np.float64)[model.first : model.stop]
    return (rate / expected - 1) * whole / data.background_exposure


def _not_noisy(counts: np.ndarray) -> np.ndarray:
    """Channels that count as those around them do."""
    usual = np.maximum(median_filter(counts, _AROUND, mode="nearest"), 1.0)
    return counts < usual + _NOISY * np.sqrt(usual)


def _steepness(energy: np.ndarray, counts: np.ndarray, back: np.ndarray) -> float:
    """By how much the logarithm of what is counted above the background falls off with energy, 1/keV."""
    parts = np.array_split(np.arange(energy.size), _PARTS)
    middle = np.array([energy[own].mean() for own in parts])
    size = np.array([own.size for own in parts])
    total = np.array([counts[own].sum() for own in parts]) / size
    net = total - np.array([back[own].sum() for own in parts]) / size
    # Of a logarithm, to first order about the mean: parts without a signal have no logarithm of their own.
    level = max(float(np.average(net, weights=size)), 1e-9)
    weight = size * level**2 / np.maximum(total, 0.5 / size)
    mean, spread = _STEEPNESS
    x = middle - np.average(middle, weights=weight)
    y = net / level
    slope = -np.sum(weight * x * (y - np.average(y, weights=weight)))
    return float((slope + mean / spread**2) / (np.sum(weight * x * x) + 1 / spread**2))


#: From where what a fit finds cannot be: norm and unknowns in standard deviations of what was known of them, angles
#: (degrees) that no triangle has, and the slope of a Sun (keV) that no flare has.
_FAR_NORM, _FAR, _ANGLE, _HOTTEST = 2.9, 3.9, 2.0, 3.0


def is_implausible(
    result: FitResult, settings: FitSettings, geometry: Geometry, temperature: float
) -> bool:
    """Whether a spectrum, its angles and its Sun cannot all be true.

    The norm is far from what surfaces have (a Sun in another unit), an unknown is at its limit, the phase angle does
    not go with incidence and emission (radians for degrees), or the Sun's slope, `temperature` in keV, is that of no
    plasma.
    """
    known = settings.norm_sigma > 0 and settings.fit_xrf_norm
    far = abs(result.xrf_norm - settings.xrf_norm) >= _FAR_NORM * settings.norm_sigma
    if known and far:
        return True
    if np.abs(result.unknowns).max(initial=0.0) >= _FAR or temperature > _HOTTEST:
        return True
    if geometry.phase is None:
        return False
    low = abs(geometry.incidence - geometry.emission)
    return not low - _ANGLE <= geometry.phase <= geometry.incidence + geometry.emission + _ANGLE


def distrusted(result: FitResult, settings: FitSettings) -> FitResult:
    """What is left of a fit that is implausible: errors that also hold how wide the prior is, and how far it was left.

    Where a Sun is not the one of the spectrum, curvature and priors tell nothing of how wrong abundances are: the
    weights stay, but are not known better than before the spectrum was seen. The added part is that of "misfit".
    """
    added = np.zeros(len(result.elements))
    free = [e for e in result.elements if e in result.parameters]
    for name in free:
        i = result.elements.index(name)
        low, high = settings.bounds.get(name, (0.0, 100.0))
        about = settings.prior_sigma.get(name, (high - low) / np.sqrt(12))
        width = np.hypot(about, settings.prior_line.get(name, 0.0))
        added[i] = width**2 + (result.weights[i] - settings.start[name]) ** 2
    covariance = result.covariance.copy()
    of = [result.parameters.index(name) for name in free]
    covariance[of, of] += added[[result.elements.index(name) for name in free]]
    closing = (np.asarray(result.element_flags) & ELEMENT_FLAGS["from_closure"]) > 0
    added[closing] = added.sum()
    parts = result.parts
    if parts is not None:
        parts = parts.copy()
        misfit = ERROR_SOURCES.index("misfit")
        parts[misfit] = np.sqrt(parts[misfit] ** 2 + added)
    return replace(
        result,
        weight_errors=np.sqrt(result.weight_errors**2 + added),
        errors=np.sqrt(np.diag(covariance)),
        covariance=covariance,
        parts=parts,
    )


def line_misfit(data: Observation, model: SpectralModel, rate: np.ndarray) -> float:
    """Whether what is left is shaped as a line of another width or place would leave it.

    Around each line that stands above its surroundings the residuals are projected onto the model's first and second
    differences. Returns the root mean square of these in standard deviations: about 1 for a response that is right.
    """
    counts, back = data.arrays(model.first, model.stop)
    t = data.exposure
    known = (
        back / data.background_exposure if data.background is not None else np.zeros_like(counts)
    )
    expected = np.maximum((rate + known) * t, 0.5)
    residual = (counts - expected) / np.sqrt(expected)
    energy = model.full_response.channel_energy()[model.first : model.stop]
    step = float(np.median(np.diff(energy)))
    half = max(round(0.12 / step), 2)
    found = []
    for line in (1.2536, 1.4867, 1.7400, 3.6906):
        at = int(np.searchsorted(energy, line))
        own = slice(max(at - half, 1), min(at + half, energy.size - 1))
        if own.stop - own.start < 5 or expected[own].sum() < 500:
            continue
        first = np.gradient(expected)
        for pattern in (first, np.gradient(first)):
            unit = (pattern / np.sqrt(expected))[own]
            length = float(np.sqrt(unit @ unit))
            if length > 0:
                found.append(float(residual[own] @ unit / length))
    return float(np.sqrt(np.mean(np.square(found)))) if found else float("nan")
