"""Atomic data as one frozen value, tabulated once into plain arrays."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import sqlite3
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lunarray.errors import InputError, MissingDependencyError, ProductFormatError, require_choice
from lunarray.xrf.constants import (
    ATOMIC_NUMBERS,
    ELECTRON_REST_ENERGY,
    ELEMENTS,
    HC,
    LINE_GROUPS,
    RE2_NA,
    Digested,
)

Interpolation = Literal["loglog", "linear"]

_SHELLS = ("K", "L1", "L2", "L3")
_M_N = tuple(f"M{i}" for i in range(1, 6)) + tuple(f"N{i}" for i in range(1, 8))
_TRANSITIONS = {
    "Ka": tuple(f"K{s}" for s in ("L1", "L2", "L3")),
    "Kb": tuple(f"K{s}" for s in _M_N[:5]),
    "L1": tuple(f"L1{s}" for s in ("L2", "L3", *_M_N)),
    "L2": tuple(f"L2{s}" for s in ("L3", *_M_N)),
    "L3": tuple(f"L3{s}" for s in _M_N),
}
#: Momentum transfer sin(θ/2)/λ, 1/Å, of the form-factor tables: to that of 50 keV backscattered.
_Q_MAX, _Q_COUNT = 4.2, 2101
#: Lines below, keV (the L lines of Al and Si), are left out: no detector sees them, and cross sections end there.
_MIN_LINE = 0.1


@dataclass(frozen=True, eq=False)
class AtomicTables(Digested):
    """Cross sections, lines and scattering factors of a set of elements.

    Build it with `atomic_tables`. All energies are in keV, cross sections in cm²/g.
    """

    elements: tuple[str, ...]  # chemical symbols; the order of every `element` axis
    numbers: np.ndarray  # (element,): atomic numbers
    weights: np.ndarray  # (element,): atomic weights, g/mol
    source: str  # where the cross sections come from
    interpolation: str  # of the cross sections between nodes: "loglog" or "linear"
    node_offset: np.ndarray  # (element + 1,) int64: where each element's nodes begin
    node_energy: np.ndarray  # (node,)
    node_photo: np.ndarray  # (node,): photoabsorption
    node_total: np.ndarray  # (node,): photoabsorption, coherent and incoherent scattering
    edge: np.ndarray  # (element, 4): edges of the shells K, L1, L2, L3; 0 where there is none
    jump: np.ndarray  # (element, 4): jump ratios
    fluorescence_yield: np.ndarray  # (element, 4)
    line_element: np.ndarray  # (line,) int64: index of the element; only lines with an intensity
    line_group: np.ndarray  # (line,) int64: index of the group (`LINE_GROUPS`)
    line_energy: np.ndarray  # (line,): rate-weighted mean of the transitions of a group
    line_rate: np.ndarray  # (line,): sum of their rates
    q: np.ndarray  # (q,): momentum transfer sin(θ/2)/λ, 1/Å
    form_factor: np.ndarray  # (element, q): F
    scattering_function: np.ndarray  # (element, q): incoherent, S

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value = np.ascontiguousarray(value)
                value.setflags(write=False)
                object.__setattr__(self, field.name, value)

    @functools.cached_property
    def digest(self) -> str:
        """Hash of everything in the tables; what Dask and the stores know them by."""
        state = hashlib.sha256()
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "source":
                continue  # the same numbers from another folder are the same tables
            state.update(field.name.encode())
            state.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
        return state.hexdigest()

    @property
    def line_names(self) -> tuple[str, ...]:
        """Names of the lines, "Fe Ka" and so on."""
        return tuple(
            f"{self.elements[e]} {LINE_GROUPS[g]}"
            for e, g in zip(self.line_element, self.line_group, strict=True)
        )

    @property
    def line_shell(self) -> np.ndarray:
        """Shell of the vacancy of each line: 0 to 3 for K, L1, L2, L3."""
        return np.maximum(self.line_group - 1, 0)

    @property
    def line_edge(self) -> np.ndarray:
        """Edge energy of the shell of each line, keV."""
        return self.edge[self.line_element, self.line_shell]

    def cross_sections(self, energy: Any) -> tuple[np.ndarray, np.ndarray]:
        """Photoabsorption and total cross sections.

        `energy` (n,) float64: photon energy, keV. Returns `photo`, `total` (element, n) float64: mass absorption
        coefficients, cm²/g. Beyond its nodes a table is continued by its last two.
        """
        energy = np.atleast_1d(np.asarray(energy, np.float64))
        photo = np.empty((len(self.elements), energy.size))
        total = np.empty_like(photo)
        for i, (begin, end) in enumerate(
            zip(self.node_offset[:-1], self.node_offset[1:], strict=True)
        ):
            x = self.node_energy[begin:end]
            for y, out in ((self.node_photo, photo), (self.node_total, total)):
                out[i] = _interpolate(energy, x, y[begin:end], self.interpolation)
        return photo, total

    def ionised_fraction(self, energy: Any) -> np.ndarray:
        """Share of an element's photoabsorption that leaves a vacancy in the shell of each line: the K_i of the paper.

        `energy` (n,) float64: photon energy, keV. Returns (line, n) float64: 1 − 1/J above the edge of the shell,
        divided by the jumps of the deeper shells above theirs; 0 below the edge.
        """
        energy = np.atleast_1d(np.asarray(energy, np.float64))
        out = np.empty((self.line_energy.size, energy.size))
        for line, (i, shell) in enumerate(zip(self.line_element, self.line_shell, strict=True)):
            part = np.full(energy.size, 1.0 - 1.0 / self.jump[i, shell])
            for deeper in range(shell):
                part[energy >= self.edge[i, deeper]] /= self.jump[i, deeper]
            part[energy < self.edge[i, shell]] = 0.0
            out[line] = part
        return out

    def excitation(self, energy: Any) -> np.ndarray:
        """Emission of each line for unit weight fraction: Q_ip/W_i of eqs. 3 and 4.

        `energy` (n,) float64: energy of the exciting photons, keV. Returns (line, n) float64: μ_i(E)/ρ_i × K_i × ω_i ×
        R_ip, cm²/g; 0 below the edge.
        """
        photo, _ = self.cross_sections(energy)
        yields = self.fluorescence_yield[self.line_element, self.line_shell]
        return (
            photo[self.line_element]
            * self.ionised_fraction(energy)
            * (yields * self.line_rate)[:, None]
        )

    def scattering(
        self, energy: Any, angle: float, *, kinds: tuple[str, ...] = ("rayleigh", "compton")
    ) -> np.ndarray:
        """Differential cross section for scattering by an angle.

        `energy` (n,) float64: energy before scattering, keV; `angle`: angle between incident and scattered photon,
        degrees; `kinds`: "rayleigh" (Thomson × F²), "compton" (Klein and Nishina × S), or both, which are added.
        Returns (element, n) float64: dσ/dΩ, cm²/g/sr.
        """
        energy = np.atleast_1d(np.asarray(energy, np.float64))
        theta = np.deg2rad(angle)
        cos = np.cos(theta)
        q = energy / HC * np.sin(theta / 2)
        if q.size and q.max() > self.q[-1]:
            raise InputError(
                f"energies to {energy.max():g} keV are beyond the form factors",
                remedy=f"Stay below {self.q[-1] * HC:g} keV",
            )
        out = np.zeros((len(self.elements), energy.size))
        per_gram = RE2_NA / self.weights[:, None]
        if "rayleigh" in kinds:
            out += per_gram * (1 + cos**2) / 2 * _rows(q, self.q, self.form_factor) ** 2
        if "compton" in kinds:
            ratio = 1 / (1 + energy / ELECTRON_REST_ENERGY * (1 - cos))
            klein_nishina = ratio**2 / 2 * (ratio + 1 / ratio - (1 - cos**2))
            out += per_gram * klein_nishina * _rows(q, self.q, self.scattering_function)
        return out


def _rows(x: np.ndarray, nodes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(x, nodes, row) for row in rows])


def _interpolate(x: np.ndarray, nodes: np.ndarray, values: np.ndarray, how: str) -> np.ndarray:
    if how == "loglog":
        x, nodes, values = np.log(x), np.log(nodes), np.log(values)
    index = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, nodes.size - 2)
    slope = (values[index + 1] - values[index]) / (nodes[index + 1] - nodes[index])
    out = values[index] + slope * (x - nodes[index])
    return np.exp(out) if how == "loglog" else out


def atomic_tables(
    elements: tuple[str, ...] = ELEMENTS,
    *,
    source: str | Path = "ffast",
    interpolation: Interpolation = "loglog",
) -> AtomicTables:
    """Tabulate atomic data; the same request in the same process returns the same value.

    `elements`: chemical symbols; `source`: cross sections: "ffast" (NIST FFAST, as xraydb's Chantler tables have it on
    a fine grid), "xraylib", or a folder of NIST FFAST text files named ``ffast_<Z>_<symbol>.txt`` (a coarse grid);
    `interpolation` {"loglog", "linear"}: between nodes. Linear on the coarse text files is what the published software
    does; it is wrong by a few per cent. Returns yields, jump ratios, rates, line energies, form factors and scattering
    functions are xraylib's whatever the source. InputError for an unknown element, source or interpolation.
    ProductFormatError for a text file that is no FFAST table.
    """
    require_choice("interpolation", interpolation, ("loglog", "linear"))
    if unknown := [name for name in elements if name not in ATOMIC_NUMBERS]:
        raise InputError(
            f"no atomic data for {unknown}", remedy=f"Choose from {', '.join(ATOMIC_NUMBERS)}"
        )
    if isinstance(source, Path) or source not in ("ffast", "xraylib"):
        folder = Path(source)
        if not folder.is_dir():
            raise InputError(
                "no such source of cross sections",
                where=folder,
                remedy="Give 'ffast', 'xraylib', or a folder of ffast_<Z>_<symbol>.txt",
            )
        source = str(folder.resolve())
    return _build(tuple(elements), str(source), interpolation)


@functools.lru_cache(maxsize=16)
def _build(elements: tuple[str, ...], source: str, interpolation: str) -> AtomicTables:
    import xraylib
    import xraylib_np

    numbers = np.array([ATOMIC_NUMBERS[name] for name in elements], np.int64)
    nodes = [_NODES.get(source, _text_nodes)(name, source) for name in elements]
    offset = np.concatenate([[0], np.cumsum([energy.size for energy, _, _ in nodes])])

    def value(function: Any, *args: int) -> float:
        try:
            return function(*args)
        except ValueError:  # xraylib's way of saying that this atom has none
            return 0.0

    shells = [getattr(xraylib, f"{name}_SHELL") for name in _SHELLS]
    edge, jump, fluorescence = (
        np.array([[value(function, int(z), shell) for shell in shells] for z in numbers])
        for function in (xraylib.EdgeEnergy, xraylib.JumpFactor, xraylib.FluorYield)
    )
    lines = []
    for i, z in enumerate(numbers):
        for group, name in enumerate(LINE_GROUPS):
            shell = max(group - 1, 0)
            codes = [getattr(xraylib, f"{t}_LINE") for t in _TRANSITIONS[name]]
            rates = np.array([value(xraylib.RadRate, int(z), code) for code in codes])
            energies = np.array([value(xraylib.LineEnergy, int(z), code) for code in codes])
            rates[energies <= 0] = 0
            if rates.sum() > 0 and fluorescence[i, shell] > 0 and jump[i, shell] > 1:
                mean = rates @ energies / rates.sum()
                if mean >= _MIN_LINE:
                    lines.append((i, group, mean, rates.sum()))
    line_element, line_group, line_energy, line_rate = zip(*lines, strict=True)

    q = np.linspace(0, _Q_MAX, _Q_COUNT)
    z = numbers.astype(np.int64)
    return AtomicTables(
        elements=elements,
        numbers=numbers,
        weights=np.array([xraylib.AtomicWeight(int(i)) for i in numbers]),
        source=source,
        interpolation=interpolation,
        node_offset=offset.astype(np.int64),
        node_energy=np.concatenate([energy for energy, _, _ in nodes]),
        node_photo=np.concatenate([photo for _, photo, _ in nodes]),
        node_total=np.concatenate([total for _, _, total in nodes]),
        edge=edge,
        jump=jump,
        fluorescence_yield=fluorescence,
        line_element=np.array(line_element, np.int64),
        line_group=np.array(line_group, np.int64),
        line_energy=np.array(line_energy),
        line_rate=np.array(line_rate),
        q=q,
        form_factor=xraylib_np.FF_Rayl(z, q),
        # S(0) = 0, which xraylib refuses to say.
        scattering_function=np.hstack([np.zeros((len(z), 1)), xraylib_np.SF_Compt(z, q[1:])]),
    )


# --- Nodes of the cross sections: energy (keV), photoabsorption and total (cm²/g) -------------------

_Nodes = tuple[np.ndarray, np.ndarray, np.ndarray]


def _chantler_nodes(name: str, source: str) -> _Nodes:
    spec = importlib.util.find_spec("xraydb")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "xraydb, which carries the NIST FFAST tables, is not installed",
            remedy="Install xraydb (pip install xraydb), or give source= a folder of FFAST text files or 'xraylib'",
        )
    # Importing xraydb takes two seconds (SQLAlchemy); its table is read here in some milliseconds.
    path = Path(spec.origin).with_name("xraydb.sqlite")
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            row = connection.execute(
                "SELECT energy, mu_photo, mu_total FROM Chantler WHERE element = ?", (name,)
            ).fetchone()
        finally:
            connection.close()
        energy, photo, total = (np.array(json.loads(column)) for column in row)
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise ProductFormatError(
            f"no Chantler table of {name} in it", where=path, remedy="Install xraydb 4.5 or newer"
        ) from error
    return _within(energy / 1000, photo, total)


def _xraylib_nodes(name: str, source: str) -> _Nodes:
    import xraylib
    import xraylib_np

    z = ATOMIC_NUMBERS[name]
    edges = []
    for shell in range(10):
        try:
            edges.append(xraylib.EdgeEnergy(z, shell))
        except ValueError:
            continue
    near = [e * f for e in edges for f in (1 - 1e-6, 1 + 1e-6)]
    energy = np.unique(np.concatenate([np.geomspace(0.1, 55, 3000), near]))
    energy = energy[(energy >= 0.1) & (energy <= 55)]
    number = np.array([z], np.int64)
    return (
        energy,
        xraylib_np.CS_Photo(number, energy)[0],
        xraylib_np.CS_Total(number, energy)[0],
    )


def _text_nodes(name: str, source: str) -> _Nodes:
    path = Path(source) / f"ffast_{ATOMIC_NUMBERS[name]}_{name.lower()}.txt"
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise ProductFormatError(
            "cannot be read",
            where=path,
            remedy="Give a folder with an FFAST text file for each element",
        ) from error
    rows = []
    for line in text.splitlines():
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            continue
        if len(row) == 8:
            rows.append(row)
    if len(rows) < 2:
        raise ProductFormatError(
            "holds no table of eight columns",
            where=path,
            remedy="Give the table as NIST FFAST prints it",
        )
    table = np.array(rows)
    return _within(table[:, 0], table[:, 3], table[:, 5])


def _within(energy: np.ndarray, photo: np.ndarray, total: np.ndarray) -> _Nodes:
    if np.any(np.diff(energy) < 0):
        raise ProductFormatError("the energies of a cross-section table do not increase")
    # A node given twice has one value too many for interpolation: the later one, above the edge.
    keep = np.append(np.diff(energy) > 0, True) & (energy < 60) & (photo > 0) & (total > 0)
    return energy[keep], photo[keep], total[keep]


_NODES = {"ffast": _chantler_nodes, "xraylib": _xraylib_nodes}
