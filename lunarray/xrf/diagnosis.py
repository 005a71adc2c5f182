"""What a spectrum and its residuals say of particles and of the response."""

from __future__ import annotations

import numpy as np

from lunarray.xrf.model import SpectralModel
from lunarray.xrf.settings import Observation

#: Energies (keV) beyond the Sun's, where only particles are counted, and how sure their excess must be.
_PARTICLE_BAND, _SURE = (12.0, 20.0), 3.0


def particle_excess(data: Observation, model: SpectralModel) -> np.ndarray:
    """Counts/s in the fitted channels that particles give beyond the background spectrum, (channel,).

    Told by the channels above 12 keV, to which the Sun does not reach. Storms of protons are flat over the detector's
    band; where there are fewer particles than in the background, all of it is taken to be as much lower.
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
    back = np.zeros(counts.size)
    if data.background is not None:
        back = np.asarray(data.background, np.float64)[above]
    rate, expected = counts.sum() / data.exposure, back.sum() / data.background_exposure
    error = np.sqrt(
        max(counts.sum(), 1.0) / data.exposure**2 + back.sum() / data.background_exposure**2
    )
    if abs(rate - expected) < _SURE * error:
        return out
    width = response.channel_hi - response.channel_lo
    if rate > expected:
        return (rate - expected) * width[model.first : model.stop] / width[above].sum()
    whole = np.asarray(data.background, np.float64)[model.first : model.stop]
    return (rate / expected - 1) * whole / data.background_exposure


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
