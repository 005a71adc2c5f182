"""Spectra of a thin plasma: a table that comes with lunarray, or one by AtomDB or XSPEC."""

from __future__ import annotations

import functools
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lunarray.errors import InputError, MissingDependencyError, require_choice

__all__ = ["PlasmaTable", "plasma_table"]

#: Elements of XSPEC's vapec whose abundance is a parameter. Hydrogen, helium and what is not listed go along with the
#: continuum.
_NUMBERS = {
    "C": 6, "N": 7, "O": 8, "Ne": 10, "Mg": 12, "Al": 13, "Si": 14, "S": 16, "Ar": 18, "Ca": 20, "Fe": 26, "Ni": 28,
}  # fmt: skip
PLASMA_ELEMENTS = tuple(_NUMBERS)
#: From CHIANTI, by ``examples/make_solar_plasma.py``; what is in it is told in ``plasma.md`` beside it.
_SHIPPED = Path(__file__).parent / "data" / "plasma.npz"


@dataclass(frozen=True, eq=False)
class PlasmaTable:
    """Spectra of a thin plasma, by temperature and element, at XSPEC's norm of 1 and the reference abundances.

    The first of `elements`, "continuum", holds H, He and what is not listed.
    """

    temperature: np.ndarray  # (temperature,): keV, increasing
    elements: tuple[str, ...]
    edges: np.ndarray  # (energy + 1,): keV
    spectra: np.ndarray  # (temperature, element, energy): photons/s/cm² in each bin
    abundances: str  # the reference abundances
    source: str  # what computed it

    def __post_init__(self) -> None:
        shape = (self.temperature.size, len(self.elements), self.edges.size - 1)
        if self.spectra.shape != shape or np.any(np.diff(self.temperature) <= 0):
            raise InputError(
                f"a plasma table of shape {self.spectra.shape}, not {shape}, or temperatures that do not increase",
                remedy="Make it with plasma_table",
            )

    def at(self, temperature: float) -> np.ndarray:
        """Spectra (element, energy) at a temperature (keV) in the table, interpolated in its logarithm."""
        grid = np.log(self.temperature)
        x = np.clip(np.log(temperature), grid[0], grid[-1])
        i = int(np.clip(np.searchsorted(grid, x) - 1, 0, grid.size - 2))
        f = (x - grid[i]) / (grid[i + 1] - grid[i])
        low, high = self.spectra[i], self.spectra[i + 1]
        # In the logarithm of the flux where both are positive: exponentials of E/kT interpolate well that way.
        with np.errstate(divide="ignore", invalid="ignore"):
            mixed = np.exp((1 - f) * np.log(low) + f * np.log(high))
        return np.where((low > 0) & (high > 0), mixed, (1 - f) * low + f * high)


def plasma_table(
    edges: Any | None = None,
    temperature: Any | None = None,
    *,
    engine: Literal["auto", "chianti", "atomdb", "pyxspec"] = "auto",
) -> PlasmaTable:
    """Tabulate a plasma at Feldman's coronal abundances.

    `edges` (energy + 1,): keV, by default 3000 bins of 10 eV from 0.1 keV, those of CLASS' solar models; `temperature`:
    keV, by default that of the engine. The engine is ``"atomdb"``: pyatomdb (``pip install lunarray[solar]``) with
    AtomDB files in the folder that the environment variable ATOMDB names, which pyatomdb itself fetches once
    (``pyatomdb.util.initialize()``; lunarray downloads nothing); ``"pyxspec"``: the PyXspec of a HEASoft installation,
    in a process of its own; ``"chianti"``: a table from CHIANTI that comes with lunarray, 0.1-5 keV, which needs
    neither; or ``"auto"``, the first of these that works. MissingDependencyError says what is missing.
    """
    edges = 0.1 + 0.01 * np.arange(3001) if edges is None else np.asarray(edges, "f8")
    grid = None if temperature is None else np.asarray(temperature, "f8")
    require_choice("engine", engine, ("auto", "chianti", "atomdb", "pyxspec"))
    problems = []
    for name, missing, compute in (
        ("atomdb", _atomdb_missing, _from_atomdb),
        ("pyxspec", _pyxspec_missing, _from_pyxspec),
    ):
        if engine not in ("auto", name):
            continue
        problem = missing()
        if problem is None:
            return compute(edges, np.geomspace(0.2, 4.5, 28) if grid is None else grid)
        problems.append(problem)
    if engine in ("auto", "chianti"):
        return _shipped(edges, grid)
    raise MissingDependencyError(
        "; ".join(problems),
        where="plasma_table",
        remedy="Take engine='chianti', the table that comes with lunarray",
    )


def _shipped(edges: np.ndarray, grid: np.ndarray | None) -> PlasmaTable:
    """The table that comes with lunarray, on other bins and, if need be, temperatures."""
    table = _shipped_table(edges.astype("f8").tobytes())
    if grid is None:
        return table
    if grid.min() < table.temperature[0] or grid.max() > table.temperature[-1]:
        raise InputError(
            f"temperatures of {grid.min():g}-{grid.max():g} keV",
            where="plasma_table",
            remedy=f"The table that comes with lunarray has {table.temperature[0]:g}-{table.temperature[-1]:g} keV",
        )
    return PlasmaTable(
        grid,
        table.elements,
        edges,
        np.stack([table.at(float(t)) for t in grid]),
        table.abundances,
        table.source,
    )


@functools.lru_cache(maxsize=4)
def _shipped_table(edges_bytes: bytes) -> PlasmaTable:
    from lunarray.xrf.response import rebin

    edges = np.frombuffer(edges_bytes)
    with np.load(_SHIPPED) as file:
        data = {name: file[name] for name in file.files}

    def unpacked(kind: str) -> np.ndarray:
        """Photons from logarithms in whole steps below the largest of each row; zero stands for nothing."""
        steps = data[f"{kind}_steps"].astype("f8")
        power = 10.0 ** ((steps - 1) * data["step"] - data["floor"])
        return np.where(steps > 0, power * data[f"{kind}_top"][..., None], 0.0)

    smooth, sharp = unpacked("continuum"), unpacked("line")
    energy, own = data["continuum_energy"], data["line_edges"]
    middle, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    shape = (*smooth.shape[:2], middle.size)
    spectra = np.empty(shape)
    for k in np.ndindex(*shape[:2]):
        row = np.log(np.maximum(smooth[k], 1e-300))
        spectra[k] = np.exp(np.interp(np.log(middle), np.log(energy), row)) * width
        if np.any(sharp[k] > 0):
            spectra[k] += rebin(sharp[k], own[:-1], own[1:], edges[:-1], edges[1:])
    spectra[..., (middle < energy[0]) | (middle > energy[-1])] = 0.0
    spectra.setflags(write=False)
    return PlasmaTable(
        data["temperature"],
        tuple(str(e) for e in data["elements"]),
        edges,
        spectra,
        "Feldman (1992)",
        f"CHIANTI {data['version']}, the table that comes with lunarray",
    )


def _atomdb_missing() -> str | None:
    if importlib.util.find_spec("pyatomdb") is None:
        return "pyatomdb is not installed (pip install 'lunarray[solar]')"
    folder = os.environ.get("ATOMDB")
    if not folder:
        # Without it pyatomdb asks questions on standard input as soon as it is imported.
        return (
            "the environment variable ATOMDB does not name a folder of AtomDB files "
            "(pyatomdb.util.initialize() fetches them)"
        )
    lacking = [
        n
        for n in ("apec_line.fits", "apec_coco.fits", "userdata")
        if not os.path.exists(os.path.join(folder, n))
    ]
    if lacking:
        return f"the AtomDB folder {folder} lacks {', '.join(lacking)} (pyatomdb.util.initialize() fetches them)"
    return None


def _pyxspec_missing() -> str | None:
    if importlib.util.find_spec("xspec") is not None:
        return None
    return (
        "PyXspec is not here: it comes with HEASoft (built from source with Python), "
        "whose setup script must have been sourced"
    )


def _from_atomdb(edges: np.ndarray, grid: np.ndarray) -> PlasmaTable:
    from pyatomdb import spectrum

    session = spectrum.CIESession(abundset="Feldman")
    session.set_response(edges, raw=True)
    everything = [int(z) for z in np.asarray(session.elements)]
    listed = [_NUMBERS[name] for name in PLASMA_ELEMENTS]
    groups = [[z for z in everything if z not in listed], *([z] for z in listed)]
    spectra = np.empty((grid.size, len(groups), edges.size - 1))
    for k, group in enumerate(groups):
        session.set_abund(everything, 0.0)
        session.set_abund([z for z in group if z in everything], 1.0)
        for i, kt in enumerate(grid):
            # photons cm³/s per bin; XSPEC's norm is 1e-14 / (4π D²) times the emission measure.
            spectra[i, k] = np.asarray(session.return_spectrum(float(kt), teunit="keV")) * 1e14
    return PlasmaTable(
        grid,
        ("continuum", *PLASMA_ELEMENTS),
        edges,
        spectra,
        "Feldman (1992)",
        "AtomDB through pyatomdb",
    )


def _from_pyxspec(edges: np.ndarray, grid: np.ndarray) -> PlasmaTable:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # XSPEC has global state and is neither thread- nor fork-safe.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        spectra = pool.submit(_pyxspec_spectra, edges, grid).result()
    return PlasmaTable(
        grid,
        ("continuum", *PLASMA_ELEMENTS),
        edges,
        spectra,
        "Feldman (1992), XSPEC felc",
        "XSPEC vapec",
    )


def _pyxspec_spectra(edges: np.ndarray, grid: np.ndarray) -> np.ndarray:
    import xspec

    xspec.Xset.chatter = 0
    xspec.Xset.abund = "felc"
    xspec.AllData.dummyrsp(float(edges[0]), float(edges[-1]), edges.size - 1, "lin")
    model = xspec.Model("vapec")
    plasma = model.vapec
    groups = ("He", *PLASMA_ELEMENTS)
    spectra = np.empty((grid.size, len(groups), edges.size - 1))
    for i, kt in enumerate(grid):
        plasma.kT = float(kt)
        for name in PLASMA_ELEMENTS:
            setattr(plasma, name, 0.0)
        plasma.He = 1.0
        base = np.asarray(model.values(0))
        spectra[i, 0] = base
        for k, name in enumerate(PLASMA_ELEMENTS):
            setattr(plasma, name, 1.0)
            spectra[i, k + 1] = np.asarray(model.values(0)) - base
            setattr(plasma, name, 0.0)
    return spectra
