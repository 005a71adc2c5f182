"""XRF line intensities with secondary fluorescence, 8 elements, 3000 energies: ms of an evaluation on one core.

The peer is the plain NumPy transcription of eqs. 1–6, one line and one pair of lines after the other; both get the same
tables of cross sections, and must agree within 1e-10. Beside them: the same with derivatives with respect to the
weights, and a whole fit of a simulated 121-channel spectrum (eight parameters, scattered continuum computed twice).

The limit is the nominal number of operations (a logarithm counted as 25) at the rate of this machine's fp64 matrix
product on one core.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.peers import Comparison, Contender, Options

SEED = 20261121
ENERGIES = 3000
WEIGHTS = np.array([5.0, 1.0, 9.0, 20.5, 14.0, 5.0, 0.5, 45.0])
SIN_IN, SIN_OUT = 0.43, 0.999
TOLERANCE = 1e-10


def prepare(options: Options) -> Comparison:
    from lunarray.xrf.atomic import atomic_tables
    from lunarray.xrf.kernels import Surface, fluorescence_tables, intensity_kernel, jacobian_kernel

    atomic = atomic_tables()
    energy = 0.105 + 0.01 * np.arange(ENERGIES)
    photons = flare(energy) * 0.01
    tables = fluorescence_tables(atomic, energy)
    fractions = WEIGHTS / 100
    excited = tables.excitation * photons
    lines = excited.shape[0]
    wanted = np.ones(lines, np.bool_)
    out, slopes = np.zeros(lines), np.zeros((lines, fractions.size))
    surface = Surface(excited, tables, SIN_IN, SIN_OUT)

    def ours() -> np.ndarray:
        intensity_kernel(fractions, surface, wanted, out)
        return out

    def with_derivatives() -> np.ndarray:
        jacobian_kernel(fractions, surface, wanted, out, slopes)
        return out

    reference = transcription(fractions, photons, tables)

    def check(intensity: np.ndarray) -> float:
        deviation = float(np.max(np.abs(intensity / reference - 1)))
        assert deviation <= TOLERANCE, f"differs from the plain equations by {deviation:.1e}"
        return deviation

    operations = nominal_operations(tables)
    return Comparison(
        unit="ms",
        better="lower",
        scale=1e3,
        ours=Contender(1, {"Numba, one thread": ours}),
        peers={
            "numpy": Contender(
                1, {"plain equations": lambda: transcription(fractions, photons, tables)}
            )
        },
        limit=("fp64 GEMM of one core at the nominal operations", _gemm(operations)),
        check=check,
        extras={
            "with_derivatives": Contender(1, {"Numba, one thread": with_derivatives}),
            "whole_fit": _whole_fit(),
        },
        notes=(
            f"{lines} lines, {np.count_nonzero(tables.secondary)} pairs of lines, {operations / 1e6:.1f} MFLOP.",
        ),
    )


def flare(energy: np.ndarray) -> np.ndarray:
    """Something like the photon spectrum of an M flare, photons/s/cm²/keV."""
    return 1e8 * np.exp(-energy / 0.9) / energy


def transcription(fractions: np.ndarray, photons: np.ndarray, tables: Any) -> np.ndarray:
    """Eqs. 1–6 in NumPy; cross sections from the same tables as ours."""
    mu, mu_line = fractions @ tables.mu, fractions @ tables.mu_line
    weight = fractions[tables.line_element]
    incident = weight[:, None] * tables.excitation
    through = weight[:, None] * tables.secondary
    out = np.zeros(mu_line.size)
    for p in range(mu_line.size):
        denominator = mu / SIN_IN + mu_line[p] / SIN_OUT
        out[p] = np.sum(incident[p] * photons / denominator) / SIN_OUT
        for q in np.flatnonzero(through[p]):
            inner = SIN_OUT / mu_line[p] * np.log(1 + mu_line[p] / SIN_OUT / mu_line[q])
            inner = inner + SIN_IN / mu * np.log(1 + mu / SIN_IN / mu_line[q])
            total = np.sum(incident[q] * through[p, q] * photons / denominator * inner)
            out[p] += total / (2 * SIN_OUT)
    return out


def nominal_operations(tables: Any) -> int:
    """Multiplications, additions, divisions and logarithms (25 each) that the factored sums need."""
    lit = ENERGIES - tables.begin
    exciting = (tables.secondary != 0).any(axis=0)
    absorption = 2 * tables.mu.shape[0] * ENERGIES
    logarithms = int(np.sum(lit[exciting])) * (25 + 4)
    pairs = 4 * int(np.sum((tables.secondary != 0) * lit[None, :]))
    return absorption + logarithms + pairs + 4 * int(lit.sum())


def _whole_fit() -> Contender:
    from lunarray.xrf.constants import ELEMENTS
    from lunarray.xrf.fit import fit_spectrum
    from lunarray.xrf.model import SpectralModel
    from lunarray.xrf.response import Response
    from lunarray.xrf.settings import FitSettings, Geometry, Observation

    edges, bounds = np.linspace(0.0, 27.648, 2049), np.linspace(0.0, 27.648, 1025)
    middle, centre = (edges[1:] + edges[:-1]) / 2, (bounds[1:] + bounds[:-1]) / 2
    dense = np.exp(-0.5 * ((centre - middle[:, None]) / 0.06) ** 2)
    dense = np.where(dense > 1e-7, dense, 0) / dense.sum(axis=1, keepdims=True)
    where = dense != 0
    area = 45 * np.exp(-((0.9 / middle) ** 3))
    row = np.concatenate([[0], np.cumsum(where.sum(axis=1))])
    response = Response(
        edges[:-1],
        edges[1:],
        area,
        row,
        np.nonzero(where)[1],
        dense[where],
        bounds[:-1],
        bounds[1:],
    )
    low = 0.1 + 0.01 * np.arange(ENERGIES)
    channels = slice(34, 155)
    model = SpectralModel(
        response,
        (low, low + 0.01, flare(low + 0.005)),
        Geometry(64.5, 0.0, 64.5),
        channels=channels,
    )
    xrf, scatter = model.counts(WEIGHTS, 0.3, 0.3)
    rng = np.random.default_rng(SEED)
    counts = np.zeros(1024)
    exposure = 6600 / (xrf + scatter).sum()  # as many as the published spectrum has
    counts[channels] = rng.poisson((xrf + scatter) * exposure)
    background = rng.poisson(20.0, 1024).astype(float)
    data = Observation(counts, exposure, background, 20 * exposure)
    start = dict(zip(ELEMENTS, (4.0, 0.5, 11.0, 21.0, 14.0, 4.0, 0.3, 45.0), strict=True))
    settings = FitSettings(start=start, statistic="wstat")

    def run() -> np.ndarray:
        return fit_spectrum(data, model, settings).weights

    return Contender(1, {"one thread": run}, check=False)


def _gemm(operations: int) -> Contender:
    from threadpoolctl import threadpool_limits

    size = 1024
    a, b = np.random.default_rng(SEED).standard_normal((2, size, size))
    c = np.empty_like(a)

    def run() -> None:
        with threadpool_limits(1):
            np.matmul(a, b, out=c)

    return Contender(2 * size**3 / operations, {"NumPy": run}, check=False)
