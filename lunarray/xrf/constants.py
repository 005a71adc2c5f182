"""Names, numbers and compositions that the whole room shares (no heavy imports here)."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

#: The order of elements everywhere: that of the paper and of the published PyXspec model.
ELEMENTS = ("Fe", "Ti", "Ca", "Si", "Al", "Mg", "Na", "O")
ATOMIC_NUMBERS = MappingProxyType(
    {"Fe": 26, "Ti": 22, "Ca": 20, "Si": 14, "Al": 13, "Mg": 12, "Na": 11, "O": 8}
)
#: Line groups of an element; each is one line at its rate-weighted mean energy.
LINE_GROUPS = ("Ka", "Kb", "L1", "L2", "L3")

#: Photon energy times wavelength, keV Å.
HC = 12.398419843320026
#: Electron rest energy, keV.
ELECTRON_REST_ENERGY = 510.99895069
#: Thomson: square of the classical electron radius times Avogadro's number, cm²/mol.
RE2_NA = 2.8179403205e-13**2 * 6.02214076e23

#: Typical element weight percentages, closed to 100 %. Highlands: the feldspathic upper crust of Korotev et al. (2003;
#: Al2O3 28.2, CaO 16.3, FeO 4.4, MgO 5.4, SiO2 44.7 wt%). Mare: round numbers of mare soils (FeO 17, TiO2 4, Al2O3 13,
#: MgO 10 wt%).
HIGHLAND = MappingProxyType(
    {
        "Fe": 3.4, "Ti": 0.13, "Ca": 11.7, "Si": 20.9, "Al": 14.9, "Mg": 3.3, "Na": 0.26, "O": 45.41,
    }
)  # fmt: skip
MARE = MappingProxyType(
    {
        "Fe": 12.9, "Ti": 2.2, "Ca": 7.7, "Si": 21.0, "Al": 6.8, "Mg": 5.8, "Na": 0.3, "O": 43.3,
    }
)  # fmt: skip

#: What the published PyXspec model starts from, and its hard limits (wt%).
PYXSPEC_START = MappingProxyType(
    {"Fe": 5.0, "Ti": 1.0, "Ca": 9.0, "Si": 21.0, "Al": 14.0, "Mg": 5.0, "Na": 0.5, "O": 45.0}
)
PYXSPEC_BOUNDS = MappingProxyType(
    {
        "Fe": (1.0, 20.0), "Ti": (1e-6, 20.0), "Ca": (5.0, 20.0), "Si": (15.0, 35.0), "Al": (5.0, 20.0),
        "Mg": (1e-6, 20.0), "Na": (1e-6, 5.0), "O": (30.0, 60.0),
    }
)  # fmt: skip

#: Field of view of CLASS: the collimators' full width at half maximum, degrees, along and across.
CLASS_FIELD_DEG = (7.0, 7.0)


class Digested:
    """A value that is known by its `digest`: to Dask, and where two of them are compared."""

    digest: Any

    def __dask_tokenize__(self) -> tuple[str, str]:
        return (type(self).__qualname__, self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)
