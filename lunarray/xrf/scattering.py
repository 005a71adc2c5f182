"""Sunlight that a thick, flat, homogeneous surface scatters, Rayleigh and Compton (eqs. 7–9): pure kernels.

Notation and units as in `lunarray.xrf.kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lunarray.engine.compiling import njit
from lunarray.xrf.atomic import AtomicTables
from lunarray.xrf.constants import ELECTRON_REST_ENERGY


@dataclass(frozen=True, eq=False)
class ScatterTables:
    """What the scattered continuum needs on one grid of incident energies and for one angle; cm²/g."""

    mu: np.ndarray  # (element, energy): total mass attenuation before scattering
    mu_shifted: np.ndarray  # (element, energy): at the energies after Compton scattering
    rayleigh: np.ndarray  # (element, energy): 4π dσ/dΩ, or that over a range of angles (eq. 8)
    compton: np.ndarray
    shift: np.ndarray  # (energy,): energy after Compton scattering / energy before


def scatter_tables(
    tables: AtomicTables,
    energy: Any,
    angle: float,
    *,
    compton: bool = True,
    theta_range: tuple[float, float] | None = None,
) -> ScatterTables:
    """Tabulate scattering cross sections on a grid of incident energies.

    `energy` (energy,) float64: incident energies, keV, rising; `angle`: scattering angle in degrees: 180 − phase angle;
    `compton` bool: whether to include Compton scattering; `theta_range` (float, float): integrate over these scattering
    angles, in degrees, as eq. 8 has it, and take the result as if it were isotropic; the energies then do not shift. By
    default the differential cross section at `angle` is used.
    """
    energy = np.ascontiguousarray(energy, np.float64)
    _, mu = tables.cross_sections(energy)
    kinds = ("rayleigh", "compton") if compton else ("rayleigh",)
    parts = {"compton": np.zeros_like(mu)}
    if theta_range is None:
        for kind in kinds:
            parts[kind] = 4 * np.pi * tables.scattering(energy, angle, kinds=(kind,))
        cos = np.cos(np.deg2rad(angle))
        shift = (
            1 / (1 + energy / ELECTRON_REST_ENERGY * (1 - cos)) if compton else np.ones_like(energy)
        )
        _, mu_shifted = tables.cross_sections(energy * shift)
    else:
        low, high = np.deg2rad(theta_range)
        nodes, node_weights = np.polynomial.legendre.leggauss(24)
        theta = (high + low) / 2 + (high - low) / 2 * nodes
        for kind in kinds:
            parts[kind] = sum(
                w * (high - low) / 2 * 2 * np.pi * np.sin(t)
                * tables.scattering(energy, float(np.rad2deg(t)), kinds=(kind,))
                for t, w in zip(theta, node_weights, strict=True)
            )  # fmt: skip
        shift, mu_shifted = np.ones_like(energy), mu
    return ScatterTables(
        mu=mu,
        mu_shifted=mu_shifted,
        rayleigh=parts["rayleigh"],
        compton=parts["compton"],
        shift=shift,
    )


@njit(nogil=True, cache=True, error_model="numpy")
def scatter_kernel(
    weights,
    photons,
    mu,
    mu_shifted,
    cross_section,
    sin_in,
    sin_out,
    derivative,
    out,
    out_derivative,
):
    """Scattered photons of each bin of incident energy (eq. 9), into `out` (energy,).

    ``photons × σ / ((μ(E)/sin Φ + μ(E')/sin Ψ) sin Ψ)`` with σ = Σ W σ_j, E' the energy after scattering; with
    `derivative`, d out / d weight goes into `out_derivative`, (element, energy).
    """
    elements = weights.size
    for k in range(photons.size):
        absorption, sigma = 0.0, 0.0
        for j in range(elements):
            absorption += weights[j] * (mu[j, k] / sin_in + mu_shifted[j, k] / sin_out)
            sigma += weights[j] * cross_section[j, k]
        factor = photons[k] / (absorption * sin_out)
        out[k] = factor * sigma
        if derivative:
            for j in range(elements):
                change = mu[j, k] / sin_in + mu_shifted[j, k] / sin_out
                out_derivative[j, k] = factor * (cross_section[j, k] - sigma * change / absorption)


def scattered_continuum(
    weights: Any,
    photons: Any,
    sin_in: float,
    sin_out: float,
    tables: ScatterTables,
    *,
    jacobian: bool = False,
) -> tuple[np.ndarray, ...]:
    """Incident photons that are scattered towards the detector (eqs. 7–9).

    `weights` (element,) float64: weight fractions; `photons` (energy,) float64: incident photons/s/cm² in each bin;
    `sin_in`, `sin_out`: sines of the angles of the incident (Φ) and the emergent (Ψ) beam with the surface; `jacobian`
    bool: whether to return the derivatives, too. Returns `rayleigh`, `compton` (energy,) float64: by bin of incident
    energy; Compton photons leave at `tables.shift` times it; `rayleigh_derivative`, `compton_derivative` (element,
    energy) float64: with respect to the weights, these being independent; only with `jacobian`.

    References: Eqs. 7–9 of the paper. Eq. 9 lacks the 1/sin Ψ that eq. 1 has; here both are radiances, so both have it.
    """
    weights = np.ascontiguousarray(weights, np.float64)
    photons = np.ascontiguousarray(photons, np.float64)
    out, slopes = np.empty((2, photons.size)), np.empty((2, weights.size, photons.size))
    for i, (mu_after, sigma) in enumerate(
        ((tables.mu, tables.rayleigh), (tables.mu_shifted, tables.compton))
    ):
        scatter_kernel(
            weights, photons, tables.mu, mu_after, sigma, float(sin_in), float(sin_out), jacobian,
            out[i], slopes[i],
        )  # fmt: skip
    if jacobian:
        return out[0], out[1], slopes[0], slopes[1]
    return out[0], out[1]
