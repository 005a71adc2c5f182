"""Names and molar masses of the oxides, in the one order used everywhere."""

from __future__ import annotations

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
