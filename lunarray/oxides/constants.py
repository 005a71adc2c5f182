"""Names and molar masses of the oxides, in the one order used everywhere."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from lunarray.errors import InputError

#: The six major oxides inverted from spectra, in the order of every model's outputs.
OXIDES = ("FeO", "TiO2", "Al2O3", "CaO", "MgO", "SiO2")

#: Molar mass of each oxide in g/mol (IUPAC 2021 abridged standard atomic weights).
MOLAR_MASS = {
    "FeO": 71.844,
    "TiO2": 79.865,
    "Al2O3": 101.961,
    "CaO": 56.077,
    "MgO": 40.304,
    "SiO2": 60.083,
}


def choose_oxides(
    oxides: Sequence[str] | None, where: str, **datasets: Container[Any]
) -> tuple[str, ...]:
    """Oxides to work on: those asked for, which all datasets must have, or those of the six that they have."""
    if oxides is None:
        oxides = [name for name in OXIDES if all(name in ds for ds in datasets.values())]
    missing = [f"{o} of the {what}" for o in oxides for what, ds in datasets.items() if o not in ds]
    if missing or not oxides:
        none = "no oxide in common" if len(datasets) > 1 else "no oxide"
        raise InputError(
            f"no variable {', '.join(missing)}" if missing else none,
            where=where,
            remedy=f"Name the variables by oxide: {', '.join(OXIDES)}",
        )
    return tuple(oxides)
