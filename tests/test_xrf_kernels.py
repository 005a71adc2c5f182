"""Fluorescence and scattering kernels: closed forms, a plain transcription of the equations, finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from lunarray.errors import InputError
from lunarray.xrf import kernels
from lunarray.xrf.atomic import atomic_tables
from lunarray.xrf.kernels import fluorescence_tables, line_intensities
from lunarray.xrf.scattering import scatter_tables, scattered_continuum

WEIGHTS = np.array([5, 1, 9, 20.5, 14, 5, 0.5, 45]) / 100
SIN_IN, SIN_OUT = 0.43, 0.97


def flare(energy):
    return 1e8 * np.exp(-energy / 0.9) / energy


def plain_intensities(weights, photons, energy, sin_phi, sin_psi, tables):
    """Eqs. 1–6, letter by letter; returns primary and secondary intensities."""
    _, mu_each = tables.cross_sections(energy)
    mu = weights @ mu_each  # eq. 5
    _, mu_line_each = tables.cross_sections(tables.line_energy)
    mu_line = weights @ mu_line_each
    q_incident = weights[tables.line_element][:, None] * tables.excitation(energy)  # eq. 3
    q_line = weights[tables.line_element][:, None] * tables.excitation(tables.line_energy)  # eq. 4
    lines = tables.line_energy.size
    primary, secondary = np.zeros(lines), np.zeros(lines)
    for ip in range(lines):
        denominator = mu / sin_phi + mu_line[ip] / sin_psi
        primary[ip] = np.sum(q_incident[ip] * photons / denominator) / sin_psi  # eq. 1
        for jq in range(lines):
            if q_line[ip, jq] == 0:
                continue
            inner = sin_psi / mu_line[ip] * np.log(1 + mu_line[ip] / sin_psi / mu_line[jq])
            inner = inner + sin_phi / mu * np.log(1 + mu / sin_phi / mu_line[jq])
            integrand = q_incident[jq] * q_line[ip, jq] * photons / denominator * inner
            secondary[ip] += np.sum(integrand) / (2 * sin_psi)  # eq. 2
    return primary, secondary


@pytest.fixture(scope="module")
def energy():
    return 0.105 + 0.01 * np.arange(3000)


@pytest.fixture(scope="module")
def tables(energy):
    return fluorescence_tables(atomic_tables(), energy)


def test_log_is_exact():
    x = np.concatenate([np.geomspace(1e-6, 1e9, 5001), 1 + np.geomspace(1e-12, 0.5, 500)])
    error = np.abs(np.array([kernels.log(v) for v in x]) - np.log(x))
    assert np.max(error / np.maximum(1, np.abs(np.log(x)))) < 5e-16


def test_against_the_plain_equations(energy, tables):
    photons = flare(energy)
    primary, secondary = plain_intensities(
        WEIGHTS, photons, energy, SIN_IN, SIN_OUT, atomic_tables()
    )
    assert (secondary / primary).max() > 0.005  # it matters
    np.testing.assert_allclose(
        line_intensities(WEIGHTS, photons, SIN_IN, SIN_OUT, tables), primary + secondary, rtol=1e-11
    )
    alone = fluorescence_tables(atomic_tables(), energy, secondary=False)
    np.testing.assert_allclose(
        line_intensities(WEIGHTS, photons, SIN_IN, SIN_OUT, alone), primary, rtol=1e-11
    )


def test_one_element_and_one_energy_in_closed_form():
    atomic = atomic_tables(("Fe",))
    one = fluorescence_tables(atomic, [8.0])
    line = atomic.line_names.index("Fe Ka")
    photo, total = atomic.cross_sections([8.0])
    _, at_line = atomic.cross_sections([atomic.line_energy[line]])
    q = (
        photo[0, 0]
        * (1 - 1 / atomic.jump[0, 0])
        * atomic.fluorescence_yield[0, 0]
        * atomic.line_rate[line]
    )
    expected = 7.0 * q / SIN_OUT / (total[0, 0] / SIN_IN + at_line[0, 0] / SIN_OUT)
    # Nothing excites the K line of iron but the beam.
    assert line_intensities([1.0], [7.0], SIN_IN, SIN_OUT, one)[line] == pytest.approx(
        expected, rel=1e-12
    )
    # What leaves in 4π at most is what came in, times yield and rate.
    assert expected < 7.0


def test_two_elements_by_quadrature_over_depth():
    """Secondary fluorescence from first principles: Fe K excites Ca at every pair of depths and directions."""
    atomic = atomic_tables(("Fe", "Ca"))
    weights, e0 = np.array([0.6, 0.4]), 9.0
    one = fluorescence_tables(atomic, [e0])
    none = fluorescence_tables(atomic, [e0], secondary=False)
    got = line_intensities(weights, [1.0], SIN_IN, SIN_OUT, one)
    got = got - line_intensities(weights, [1.0], SIN_IN, SIN_OUT, none)
    ca = atomic.line_names.index("Ca Ka")
    mu = lambda e: weights @ atomic.cross_sections([e])[1][:, 0]  # noqa: E731
    a, b = mu(e0) / SIN_IN, mu(atomic.line_energy[ca]) / SIN_OUT
    expected = 0.0
    x, w = np.polynomial.legendre.leggauss(60)
    direction, dw = (x + 1) / 2, w / 2  # cosines of the angle with the normal, one hemisphere
    for name in ("Fe Ka", "Fe Kb"):
        fe = atomic.line_names.index(name)
        m = mu(atomic.line_energy[fe])
        emitted = weights[0] * atomic.excitation([e0])[fe, 0]
        caught = weights[1] * atomic.excitation([atomic.line_energy[fe]])[ca, 0]
        # ∫dz e^{−az} ∫dz' e^{−bz'} ½∫du/u e^{−m|z−z'|/u}: in depth analytically, in direction by quadrature.
        up = 1 / (a + b) / (a + m / direction)  # the Ca atom lies above the Fe atom
        down = 1 / (a + b) / (b + m / direction)
        expected += emitted * caught * 0.5 * np.sum(dw / direction * (up + down)) / SIN_OUT
    assert got[ca] == pytest.approx(expected, rel=1e-9)


def test_derivatives_against_finite_differences(energy, tables):
    photons = flare(energy)
    intensity, derivative = line_intensities(
        WEIGHTS, photons, SIN_IN, SIN_OUT, tables, jacobian=True
    )
    np.testing.assert_allclose(
        intensity, line_intensities(WEIGHTS, photons, SIN_IN, SIN_OUT, tables), rtol=1e-12
    )
    h = 1e-5
    for j in range(8):
        step = h * (np.arange(8) == j)
        numeric = (
            line_intensities(WEIGHTS + step, photons, SIN_IN, SIN_OUT, tables)
            - line_intensities(WEIGHTS - step, photons, SIN_IN, SIN_OUT, tables)
        ) / (2 * h)
        scale = np.abs(derivative).max(axis=1)
        np.testing.assert_allclose(derivative[:, j] / scale, numeric / scale, atol=3e-8)


def test_absent_elements_shine_not_but_have_a_slope(energy, tables):
    weights = WEIGHTS.copy()
    weights[0] = 0.0
    intensity, derivative = line_intensities(
        weights, flare(energy), SIN_IN, SIN_OUT, tables, jacobian=True
    )
    iron = tables.line_element == 0
    assert np.all(intensity[iron] == 0)
    assert np.all(derivative[iron, 0] > 0)


def test_kernels_as_plain_python(tables):
    # A few energies: the Python form is slow.
    energy = np.array([0.4, 0.9, 1.4, 1.9, 2.6, 4.2, 5.5, 7.5])
    few = fluorescence_tables(atomic_tables(), energy)
    photons = flare(energy)
    excited = few.excitation * photons
    lines = excited.shape[0]
    out, slopes = np.zeros(lines), np.zeros((lines, 8))
    wanted = np.ones(lines, bool)
    surface = kernels.Surface(excited, few, SIN_IN, SIN_OUT)
    kernels.intensity_kernel.py_func(WEIGHTS, surface, wanted, out)
    expected, derivative = line_intensities(WEIGHTS, photons, SIN_IN, SIN_OUT, few, jacobian=True)
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    kernels.jacobian_kernel.py_func(WEIGHTS, surface, wanted, out, slopes)
    np.testing.assert_allclose(slopes, derivative, rtol=1e-10)
    wanted[:] = np.arange(lines) % 2 == 0
    part = np.zeros(lines)
    kernels.intensity_kernel(WEIGHTS, surface, wanted, part)
    np.testing.assert_allclose(part[wanted], expected[wanted], rtol=1e-12)
    assert not part[~wanted].any()


def test_scatter_against_the_equation():
    atomic = atomic_tables()
    energy = np.linspace(0.8, 12, 300)
    photons, angle = flare(energy), 115.0
    scatter = scatter_tables(atomic, energy, angle)
    rayleigh, compton = scattered_continuum(WEIGHTS, photons, SIN_IN, SIN_OUT, scatter)
    mu = WEIGHTS @ atomic.cross_sections(energy)[1]
    sigma = 4 * np.pi * WEIGHTS @ atomic.scattering(energy, angle, kinds=("rayleigh",))
    expected = photons * sigma / (mu * (1 / SIN_IN + 1 / SIN_OUT)) / SIN_OUT  # eq. 9
    np.testing.assert_allclose(rayleigh, expected, rtol=1e-12)
    # Compton photons leave with less energy and see a thicker surface.
    after = energy / (1 + energy / 510.99895 * (1 - np.cos(np.deg2rad(angle))))
    np.testing.assert_allclose(scatter.shift, after / energy, rtol=1e-9)
    sigma = 4 * np.pi * WEIGHTS @ atomic.scattering(energy, angle, kinds=("compton",))
    mu_after = WEIGHTS @ atomic.cross_sections(after)[1]
    np.testing.assert_allclose(
        compton, photons * sigma / (mu / SIN_IN + mu_after / SIN_OUT) / SIN_OUT, rtol=1e-9
    )


def test_total_cross_section_of_equation_8():
    import xraylib

    atomic = atomic_tables()
    energy = np.linspace(1, 10, 20)
    whole = scatter_tables(atomic, energy, 90.0, theta_range=(0.0, 180.0))
    for i, z in enumerate(atomic.numbers):
        expected = [xraylib.CS_Rayl(int(z), e) for e in energy]
        np.testing.assert_allclose(whole.rayleigh[i], expected, rtol=5e-3)
    assert np.all(whole.shift == 1)


def test_scatter_derivatives():
    energy = np.linspace(0.8, 12, 200)
    photons = flare(energy)
    tables = scatter_tables(atomic_tables(), energy, 100.0)
    *_, first, second = scattered_continuum(
        WEIGHTS, photons, SIN_IN, SIN_OUT, tables, jacobian=True
    )
    h = 1e-6
    for j in range(8):
        step = h * (np.arange(8) == j)
        above = scattered_continuum(WEIGHTS + step, photons, SIN_IN, SIN_OUT, tables)
        below = scattered_continuum(WEIGHTS - step, photons, SIN_IN, SIN_OUT, tables)
        for i, analytic in enumerate((first[j], second[j])):
            numeric = (above[i] - below[i]) / (2 * h)
            np.testing.assert_allclose(analytic, numeric, rtol=1e-5, atol=1e-9 * above[i].max())


def test_energies_must_rise():
    with pytest.raises(InputError, match="rise"):
        fluorescence_tables(atomic_tables(), [2.0, 1.0])
