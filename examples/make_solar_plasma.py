"""Make ``lunarray/xrf/data/plasma.npz``: spectra of a thin plasma by temperature and element, from CHIANTI.

``pip install ChiantiPy``, set XUVTOP to a copy of the CHIANTI database (https://www.chiantidatabase.org, freely
distributed) and run ``python examples/make_solar_plasma.py``; a quarter of an hour. Ions whose files are lacking or
cannot be read are named in the card beside the file. Needed only to make the file anew: lunarray needs no ChiantiPy.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).resolve().parents[1] / "lunarray" / "xrf" / "data" / "plasma.npz"
#: keV; temperatures of the quiet corona to the hottest flare.
TEMPERATURE = np.geomspace(0.1, 5.0, 40)
#: Bins of lines, and points of continua between which they are interpolated in logarithms (keV).
LINE_EDGES = np.round(0.3 + 0.01 * np.arange(1171), 6)
CONTINUUM = np.geomspace(0.1, 30.2, 600)
BOLTZMANN = 8.617333262e-8  # keV/K
KEV_ANGSTROM, ERG = 12.39841984, 1.602176634e-9
ELEMENTS = {
    "h": 1, "he": 2, "c": 6, "n": 7, "o": 8, "ne": 10, "na": 11, "mg": 12, "al": 13, "si": 14, "s": 16, "ar": 18,
    "ca": 20, "fe": 26, "ni": 28,
}  # fmt: skip
#: Coronal abundances by number (Feldman et al., 1992, ApJS 81, 387).
FELDMAN = {
    "h": 1.0, "he": 7.94e-2, "c": 3.89e-4, "n": 1.00e-4, "o": 7.76e-4, "ne": 1.20e-4, "na": 8.51e-6, "mg": 1.41e-4,
    "al": 1.10e-5, "si": 1.26e-4, "s": 1.86e-5, "ar": 3.80e-6, "ca": 8.51e-6, "fe": 1.26e-4, "ni": 6.92e-6,
}  # fmt: skip
#: Of a decade: what rounding to whole numbers costs is a twentieth of a per cent.
STEP = 0.0005
FLOOR = 12.0
#: Photons/s/cm² at XSPEC's norm of 1, 1e-14/(4π D²) × emission measure, for photons cm³/s/sr.
PER_NORM = 4 * np.pi * 1e14


def lines(kelvin: np.ndarray, lacking: list[str]) -> dict[str, np.ndarray]:
    """Photons of lines at unit abundance, (temperature, bin)."""
    import ChiantiPy.core as chianti

    found = {}
    for element, number in ELEMENTS.items():
        if number < 8:
            continue
        out = np.zeros((kelvin.size, LINE_EDGES.size - 1))
        for charge in range(max(number - (10 if number > 20 else 2), 1), number + 1):
            name = f"{element}_{charge}"
            try:
                ion = chianti.ion(name, temperature=kelvin, eDensity=1e10, abundance="unity")
                ion.intensity()
                energy = KEV_ANGSTROM / ion.Intensity["wvl"]
                photons = np.asarray(ion.Intensity["intensity"]) / (energy * ERG)
            except (KeyError, IndexError, AttributeError, OSError) as error:
                lacking.append(name)
                print(name, repr(error)[:100], flush=True)
                continue
            out += collect(energy, photons)
        found[element] = out
        print(element, "lines", flush=True)
    return found


def collect(energy: np.ndarray, photons: np.ndarray) -> np.ndarray:
    """Lines in their bins, (temperature, bin)."""
    which = np.searchsorted(LINE_EDGES, energy, side="right") - 1
    inside = (which >= 0) & (which < LINE_EDGES.size - 1)
    out = np.zeros((photons.shape[0], LINE_EDGES.size - 1))
    for own, row in zip(out, photons, strict=True):
        own += np.bincount(which[inside], row[inside], minlength=own.size)
    return out


def continua(kelvin: np.ndarray) -> dict[str, np.ndarray]:
    """Photons/keV of free-free, free-bound and two-photon continua at unit abundance, (temperature, energy)."""
    import ChiantiPy.core as chianti

    wave = KEV_ANGSTROM / CONTINUUM[::-1]
    found = {}
    for element, number in ELEMENTS.items():
        total = np.zeros((kelvin.size, CONTINUUM.size))
        for charge in range(2, number + 2):
            each = chianti.continuum(f"{element}_{charge}", kelvin, abundance="unity", em=1.0)
            each.freeFree(wave)
            total += np.asarray(each.FreeFree["intensity"])
            each.freeBound(wave)
            # Ions of which CHIANTI has no levels for recombination give none.
            if "intensity" in each.FreeBound:
                total += np.asarray(each.FreeBound["intensity"])
        for charge in (number - 1, number):
            if charge < 1:
                continue
            ion = chianti.ion(
                f"{element}_{charge}", temperature=kelvin, eDensity=1e10, abundance="unity"
            )
            ion.twoPhoton(wave)
            total += np.asarray(ion.TwoPhoton["intensity"])
        found[element] = per_kev(total, wave)
        print(element, "continuum", flush=True)
    return found


def per_kev(total: np.ndarray, wave: np.ndarray) -> np.ndarray:
    """From erg/Å on rising wavelengths to photons/keV on rising energies."""
    energy = KEV_ANGSTROM / wave
    return (total / (energy * ERG) * wave**2 / KEV_ANGSTROM)[:, ::-1]


def packed(values: np.ndarray) -> dict[str, np.ndarray]:
    """Logarithms in whole steps below the largest of each row; zero stands for nothing."""
    top = values.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.log10(values / top)
    steps = np.where(below > -FLOOR, np.round((below + FLOOR) / STEP) + 1, 0)
    return {"top": top[..., 0], "steps": np.nan_to_num(steps).astype("u2")}


def save(
    line: dict[str, np.ndarray], continuum: dict[str, np.ndarray], lacking: list[str], version: str
) -> None:
    """Write the file and its card."""
    names = [e for e in ELEMENTS if e not in ("h", "he")]
    scale = {e: FELDMAN[e] * PER_NORM for e in ELEMENTS}
    rest = scale["h"] * continuum["h"] + scale["he"] * continuum["he"]
    smooth = np.stack([rest, *(scale[e] * continuum[e] for e in names)], axis=1)
    none = np.zeros((TEMPERATURE.size, LINE_EDGES.size - 1))
    sharp = np.stack([none, *(scale[e] * line.get(e, none) for e in names)], axis=1)
    parts = {f"continuum_{k}": v for k, v in packed(smooth).items()}
    parts |= {f"line_{k}": v for k, v in packed(sharp).items()}
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        TARGET, temperature=TEMPERATURE, elements=np.array(["continuum", *(e.capitalize() for e in names)]),
        line_edges=LINE_EDGES, continuum_energy=CONTINUUM, step=STEP, floor=FLOOR, version=version, **parts,
    )  # fmt: skip
    card = CARD.format(version=version, lacking=", ".join(lacking) or "none")
    TARGET.with_suffix(".md").write_text(card)
    print(TARGET, TARGET.stat().st_size)


CARD = """# Spectra of a thin plasma

`plasma.npz`: photons/s/cm² at XSPEC's norm of 1 by temperature (40 from 0.1 to 5 keV), element and energy, at Feldman's
(1992) coronal abundances and 1e10 electrons/cm³: lines in bins of 10 eV (0.3-12 keV); free-free, free-bound and
two-photon continua at 600 energies (0.1-30.2 keV). Ionization equilibrium. `lunarray.xrf.plasma.plasma_table` puts them
on any bins.

Made by `examples/make_solar_plasma.py` from CHIANTI {version}, an atomic database for spectroscopic diagnostics of
astrophysical plasmas, distributed freely (https://www.chiantidatabase.org), with ChiantiPy 0.15. No instrument's data
went in. Values are rounded to 0.05 %.

Ions without lines here, because files were lacking in the copy used: {lacking}; Fe XVII, Fe XXIII, Ni XIX, Ni XXIV and
Ni XXV had no electron collisions there. They are ions of L lines at 0.7-1.4 keV, where the table is too faint for them.

Dere, K. P., et al., 1997. A&AS 125, 149. Dere, K. P., Del Zanna, G., Young, P. R., Landi, E., 2023. ApJS 268, 52.
"""


def main() -> int:
    if not os.environ.get("XUVTOP"):
        print("XUVTOP names no CHIANTI database", file=sys.stderr)
        return 2
    kelvin = TEMPERATURE / BOLTZMANN
    version = (Path(os.environ["XUVTOP"]) / "VERSION").read_text().strip()
    lacking: list[str] = []
    save(lines(kelvin, lacking), continua(kelvin), lacking, version)
    return 0


if __name__ == "__main__":
    sys.exit(main())
