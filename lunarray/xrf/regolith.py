"""What a bed of grains takes from the lines: a correction for phase and grain size, off unless it is asked for.

A smooth surface is brightest where a powder is not: grains shade what the Sun excites in one another, the more the
farther the detector is from the Sun's direction, and the coarser the grains are beside what the X-rays pass through. So
lines of low energy lose other shares than those of high energy, and ratios of elements change with the phase angle
(Maruyama et al. 2008, Earth Planets Space 60, 293; Weider et al. 2011, Planet. Space Sci. 59, 1393). By how much is
tabulated in ``data/regolith.npz``, which ``examples/make_regolith_table.py`` makes by tracing rays; its card says what
is not in it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lunarray.errors import InputError, require_number
from lunarray.xrf.constants import HIGHLAND, MARE
from lunarray.xrf.kernels import FluorescenceTables

__all__ = ["TABLE", "Regolith"]

TABLE = Path(__file__).parent / "data" / "regolith.npz"
#: Farther from the zenith (degrees) than this the table, made for a detector overhead, is not for.
_MOST_EMISSION = 15.0
#: Attenuation over a radius that is none.
_NONE = 1e-4


@dataclass(frozen=True)
class Regolith:
    """The grains of the ground, for ``Conventions(regolith=Regolith(...))``.

    Attributes
    ----------
    grain_radius : float
        µm. Half of the mass of lunar soils is in grains below 20 to 50 µm of radius (Carrier, 2003).
    packing : float
        Share of the volume in grains, 0.1 to 0.35.
    density : float
        Of a grain, g/cm³.
    composition : mapping of str to float
        wt% of elements by which attenuation within the grains is reckoned; by default midway between highlands and
        maria. It is the same for all spectra: the correction does not follow the fit.

    Raises
    ------
    InputError
        For values that no ground has, or that the table does not cover.

    Examples
    --------
    >>> from lunarray.xrf.regolith import Regolith
    >>> from lunarray.xrf.settings import Conventions
    >>> Conventions(regolith=Regolith(grain_radius=20)).regolith.packing
    0.2
    """

    grain_radius: float = 35.0
    packing: float = 0.2
    density: float = 3.0
    composition: Mapping[str, float] = field(
        default_factory=lambda: {e: (HIGHLAND[e] + MARE[e]) / 2 for e in HIGHLAND}
    )

    def __post_init__(self) -> None:
        require_number("grain_radius", self.grain_radius, 1e-3, 1e4)
        require_number("packing", self.packing, 0.1, 0.35)
        require_number("density", self.density, 0.5, 10.0)

    def __hash__(self) -> int:
        return hash((self.grain_radius, self.packing, self.density, tuple(self.composition.items())))  # fmt: skip

    def require_overhead(self, emission: Any) -> None:
        """Refuse detectors that are farther from the zenith (degrees) than what the table is for."""
        most = float(np.nanmax(emission, initial=0.0))
        if most > _MOST_EMISSION:
            raise InputError(
                f"the correction for grains is for a detector overhead, and one is {most:.0f}° off the zenith",
                where="conventions.regolith",
                remedy=f"Fit without it, or spectra seen within {_MOST_EMISSION:g}° of the zenith",
            )

    def share(
        self,
        tables: FluorescenceTables,
        elements: tuple[str, ...],
        incidence: float,
        emission: float,
    ) -> np.ndarray:
        """What leaves the grains of each line, as excited at each energy, beside a smooth surface.

        Parameters
        ----------
        tables : FluorescenceTables
            Of the lines and the incident energies.
        elements : tuple of str
            Their elements.
        incidence, emission : float
            Degrees.

        Returns
        -------
        ndarray (line, energy) float64

        Raises
        ------
        InputError
            For a detector too far from the zenith, or a composition without these elements.
        """
        self.require_overhead(emission)
        weights = np.array([self.composition.get(element, 0.0) for element in elements])
        if not weights.sum() > 0:
            raise InputError(
                "a composition of none of the elements that are fitted",
                where="conventions.regolith",
                remedy=f"Give wt% of some of {', '.join(elements)}",
            )
        radius = self.grain_radius * 1e-4 * self.density / weights.sum()
        found = _share(
            weights @ tables.mu * radius, weights @ tables.mu_line * radius, incidence, self.packing
        )
        # The kernels take a Kβ line for a multiple of its Kα line.
        return found[tables.base]


def _share(inward: np.ndarray, outward: np.ndarray, incidence: float, packing: float) -> np.ndarray:
    """The table between its values, (outward, inward): linear in the logarithms."""
    from scipy.interpolate import RegularGridInterpolator

    packings, incidences, attenuation, logs = _table()
    at = RegularGridInterpolator((packings, incidences), logs)((packing, min(incidence, incidences[-1])))  # fmt: skip
    low, high = np.log(attenuation[0]), np.log(attenuation[-1])
    a, b = (np.log(np.clip(v, _NONE, None)).clip(low, high) for v in (inward, outward))
    grid = np.stack(np.meshgrid(b, a, indexing="ij"), axis=-1)
    return np.exp(RegularGridInterpolator((np.log(attenuation),) * 2, at.T)(grid))


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Packing, incidence, attenuation, and the logarithm of the share (packing, incidence, inward, outward)."""
    with np.load(TABLE) as held:
        names = ("packing", "incidence", "attenuation")
        packing, incidence, attenuation = (held[name].astype(np.float64) for name in names)
        logs = np.log(held["share"].astype(np.float64))
    # Grains that a radiation does not notice shade nothing.
    logs = np.concatenate([logs[:, :, :1] * _NONE / attenuation[0], logs], axis=2)
    logs = np.concatenate([logs[:, :, :, :1] * _NONE / attenuation[0], logs], axis=3)
    return packing, incidence, np.concatenate([[_NONE], attenuation]), logs
