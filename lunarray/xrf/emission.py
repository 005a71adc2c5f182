"""The Sun as a plasma of many temperatures: emission measures and abundances from one spectrum, and their modes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lunarray.xrf.plasma import PlasmaTable

#: Temperatures at which there may be plasma (keV).
TEMPERATURES = np.geomspace(0.15, 3.0, 12)
#: Abundances of the Sun's flares lie between the photosphere's and the corona's: about half of Feldman's (1992), and
#: any of them may be half or twice as much (Katsuda et al., 2020; Mondal et al., 2021).
_ABUNDANCE, _ABUNDANCE_SPREAD = 0.45, 0.5
#: How well an emission measure is known before a spectrum is seen, as a logarithm.
_EMISSION_SPREAD = 2.0
#: Energies (keV) over which modes of the flux are told apart, and how small one may be to be left out.
_MODE_BAND, _MODE_FLOOR, _MODES = (1.0, 8.0), 0.005, 3


@dataclass(frozen=True, eq=False)
class Emission:
    """A fit of emission measures and abundances."""

    temperature: np.ndarray  # (temperature,): keV
    measure: np.ndarray  # (temperature,): XSPEC's norm
    abundance: np.ndarray  # (element,): of the reference abundances; continuum first
    counts: np.ndarray  # (channel,): of the model
    flux: np.ndarray  # (energy,): photons/s/cm² in each bin
    chi2: float
    modes: np.ndarray  # (mode, energy): change of the flux for one standard deviation
    covariance: (
        np.ndarray
    )  # of the logarithms of the measures above zero, then of the free abundances
    free: tuple[int, ...]  # places of the free elements


def fit_emission(
    counts: np.ndarray,
    sigma: np.ndarray,
    matrix: np.ndarray,
    plasma: PlasmaTable,
    free: tuple[str, ...],
) -> Emission:
    """Fit emission measures, none of them negative, and abundances within what the Sun has.

    `counts`, `sigma` (channel,): net counts and their errors; `matrix` (energy, channel): counts for one photon/cm²/s
    in each bin of the plasma; `free`: elements whose abundance is fitted. Measures for given abundances, and abundances
    for given measures, are linear problems; they are solved in turn. A level of counts that is the same in all channels
    is fitted along: what particles leave on quiet days.
    """
    temperature = TEMPERATURES[
        (plasma.temperature[0] <= TEMPERATURES) & (plasma.temperature[-1] >= TEMPERATURES)
    ]
    spectra = np.stack([plasma.at(float(t)) for t in temperature])  # (temperature, element, energy)
    folded = spectra @ matrix
    places = [plasma.elements.index(name) for name in free]
    bound = np.delete(np.arange(len(plasma.elements)), places)
    abundance = np.ones(len(plasma.elements))
    abundance[1:] = _ABUNDANCE
    level = 1.0 / sigma
    scale = np.sqrt(np.append(np.sum((folded.sum(1) / sigma) ** 2, axis=1), level @ level))
    measure, dark = np.zeros(temperature.size), 0.0
    last = np.inf
    for _ in range(40):
        design = np.vstack([(abundance @ folded) / sigma, level])
        found = _positive((design / scale[:, None]).T, counts / sigma) / scale
        measure, dark = found[:-1], float(found[-1])
        parts = measure @ folded.swapaxes(0, 1)
        if places:
            rest = abundance[bound] @ parts[bound] + dark
            abundance[places] = _abundances(parts[places] / sigma, (counts - rest) / sigma)
        chi2 = float(np.sum(((counts - dark - abundance @ parts) / sigma) ** 2))
        if abs(last - chi2) < 1e-3:
            break
        last = chi2
    used = np.flatnonzero(measure > 0)
    # Derivatives by the logarithms of what was fitted, of counts and of the flux.
    by_measure = measure[used, None] * (abundance @ spectra[used])
    by_abundance = abundance[places, None] * (measure @ spectra.swapaxes(0, 1))[places]
    slopes = np.concatenate([by_measure, by_abundance])
    prior = np.concatenate(
        [np.full(used.size, _EMISSION_SPREAD), np.full(len(places), _ABUNDANCE_SPREAD)]
    )
    # The level, last, is not known before, and changes no flux.
    observed = np.vstack(
        [slopes @ matrix, np.sqrt(np.maximum(counts, 1.0)).mean() * np.ones_like(sigma)]
    )
    covariance = _covariance(observed / sigma, np.append(prior, 1e3), chi2 / max(counts.size, 1))
    covariance = covariance[:-1, :-1]
    flux = by_measure.sum(0)
    return Emission(
        temperature, measure, abundance, flux @ matrix + dark, flux, chi2,
        principal_modes(slopes, covariance, flux, plasma.edges), covariance, tuple(places),
    )  # fmt: skip


def _positive(design: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Least squares without negative coefficients."""
    from scipy.optimize import lsq_linear

    return np.maximum(lsq_linear(design, data, (0.0, np.inf), method="bvls").x, 0.0)


def _abundances(design: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Abundances within their spread, and above a tenth of what is usual."""
    from scipy.optimize import lsq_linear

    weight = 1.0 / (_ABUNDANCE * _ABUNDANCE_SPREAD)
    rows = np.vstack([design.T, weight * np.eye(design.shape[0])])
    wanted = np.concatenate([data, np.full(design.shape[0], weight * _ABUNDANCE)])
    return np.asarray(lsq_linear(rows, wanted, (0.1 * _ABUNDANCE, np.inf), method="bvls").x)


def _covariance(slopes: np.ndarray, prior: np.ndarray, excess: float) -> np.ndarray:
    """Of logarithms, from weighted derivatives (parameter, channel); errors grow where the fit is worse than chance."""
    information = slopes @ slopes.T / max(excess, 1.0) + np.diag(1.0 / prior**2)
    return np.linalg.inv(information)


def principal_modes(
    slopes: np.ndarray, covariance: np.ndarray, flux: np.ndarray, edges: np.ndarray
) -> np.ndarray:
    """The few independent changes of a flux that its parameters' covariance amounts to, (mode, energy).

    `slopes` (parameter, energy): derivatives of the flux by the parameters.
    """
    values, vectors = np.linalg.eigh(covariance)
    changes = (vectors * np.sqrt(np.maximum(values, 0.0))).T @ slopes
    middle = (edges[:-1] + edges[1:]) / 2
    seen = (middle > _MODE_BAND[0]) & (middle < _MODE_BAND[1]) & (flux > 0)
    relative = changes[:, seen] / flux[seen]
    rotation, size, _ = np.linalg.svd(relative, full_matrices=False)
    keep = size / np.sqrt(max(int(seen.sum()), 1)) > _MODE_FLOOR
    return (rotation.T @ changes)[keep][:_MODES]
