"""Atomic tables: against xraylib, xraydb, the FFAST text, and themselves."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import xraylib

from lunarray.errors import InputError, ProductFormatError
from lunarray.xrf.atomic import atomic_tables
from lunarray.xrf.constants import ATOMIC_NUMBERS, ELEMENTS, HIGHLAND, MARE


def test_default_cross_sections_are_xraydbs():
    xraydb = pytest.importorskip("xraydb")
    energy = np.geomspace(0.3, 25, 300)
    photo, total = atomic_tables().cross_sections(energy)
    for i, name in enumerate(ELEMENTS):
        np.testing.assert_allclose(
            photo[i], xraydb.mu_chantler(name, energy * 1e3, photo=True), rtol=1e-9
        )
        np.testing.assert_allclose(total[i], xraydb.mu_chantler(name, energy * 1e3), rtol=1e-9)


def test_xraylib_source_reproduces_xraylib():
    tables = atomic_tables(source="xraylib")
    energy = np.random.default_rng(1).uniform(0.8, 20, 400)
    photo, total = tables.cross_sections(energy)
    for i, z in enumerate(tables.numbers):
        np.testing.assert_allclose(
            photo[i], [xraylib.CS_Photo(int(z), e) for e in energy], rtol=2e-4
        )
        np.testing.assert_allclose(
            total[i], [xraylib.CS_Total(int(z), e) for e in energy], rtol=2e-4
        )


def test_excitation_is_xraylibs_fluorescence_cross_section():
    # CS_FluorLine = photo × (1 − 1/J) × yield × rate for K lines, an independent implementation of eq. 3.
    tables = atomic_tables(source="xraylib")
    energy = np.array([1.5, 2.0, 3.0, 5.0, 8.0, 15.0])
    excitation = tables.excitation(energy)
    for name in ("Fe Ka", "Ca Kb", "Si Ka", "O Ka"):
        line = tables.line_names.index(name)
        z = ATOMIC_NUMBERS[name.split()[0]]
        macro = xraylib.KA_LINE if name.endswith("Ka") else xraylib.KB_LINE
        for k, e in enumerate(energy):
            expected = xraylib.CS_FluorLine(z, macro, e) if e > tables.line_edge[line] else 0.0
            assert excitation[line, k] == pytest.approx(expected, rel=1e-3, abs=1e-12)


def test_l_shell_vacancies_share_the_jumps():
    tables = atomic_tables()
    i = ELEMENTS.index("Fe")
    jumps, edges = tables.jump[i], tables.edge[i]
    lines = [tables.line_names.index(f"Fe {g}") for g in ("Ka", "L1", "L2", "L3")]
    above = tables.ionised_fraction([edges[0] * 1.01])[lines, 0]
    # Each shell takes its part of what the deeper ones leave.
    left = 1.0
    for part, jump in zip(above, jumps, strict=True):
        assert part == pytest.approx(left * (1 - 1 / jump))
        left /= jump
    assert above.sum() == pytest.approx(1 - left)
    between = tables.ionised_fraction([(edges[2] + edges[3]) / 2])[lines, 0]
    np.testing.assert_allclose(between, [0, 0, 0, 1 - 1 / jumps[3]])


def test_scattering_is_xraylibs():
    tables = atomic_tables()
    energy = np.linspace(1.0, 25, 60)
    for angle in (20.0, 90.0, 115.0, 170.0):
        rayleigh = tables.scattering(energy, angle, kinds=("rayleigh",))
        compton = tables.scattering(energy, angle, kinds=("compton",))
        theta = np.deg2rad(angle)
        for i, z in enumerate(tables.numbers):
            np.testing.assert_allclose(
                rayleigh[i], [xraylib.DCS_Rayl(int(z), e, theta) for e in energy], rtol=2e-4
            )
            np.testing.assert_allclose(
                compton[i], [xraylib.DCS_Compt(int(z), e, theta) for e in energy], rtol=2e-3
            )
        np.testing.assert_allclose(tables.scattering(energy, angle), rayleigh + compton)


def test_one_value_in_a_process_and_a_token():
    import dask

    tables = atomic_tables()
    assert atomic_tables() is tables
    copy = pickle.loads(pickle.dumps(tables))
    assert copy == tables
    assert dask.base.tokenize(copy) == dask.base.tokenize(tables)
    assert dask.base.tokenize(atomic_tables(source="xraylib")) != dask.base.tokenize(tables)
    with pytest.raises(ValueError, match="read-only"):
        tables.node_photo[0] = 0


def test_interpolation(tmp_path):
    (tmp_path / "ffast_14_si.txt").write_text(
        "NIST\n E f1 f2 photo\n" + "1.0 0 0 100 1 101 0 0\n2.0 0 0 25 1 26 0 0\n4.0 0 0 5 1 6 0 0\n"
    )
    linear = atomic_tables(("Si",), source=tmp_path, interpolation="linear")
    loglog = atomic_tables(("Si",), source=tmp_path)
    assert linear.cross_sections([1.5])[0][0, 0] == pytest.approx(62.5)
    assert linear.cross_sections([3.0])[1][0, 0] == pytest.approx(16)
    # E^-2 between the first two nodes, and beyond them.
    assert loglog.cross_sections([1.5, 0.5])[0][0] == pytest.approx([100 / 2.25, 400])


def test_bad_requests(tmp_path):
    with pytest.raises(InputError, match="Xx"):
        atomic_tables(("Si", "Xx"))
    with pytest.raises(InputError, match="no such source"):
        atomic_tables(source=tmp_path / "nothing")
    with pytest.raises(InputError, match="cubic"):
        atomic_tables(interpolation="cubic")
    with pytest.raises(ProductFormatError, match="ffast_14_si"):
        atomic_tables(("Si",), source=tmp_path)
    with pytest.raises(InputError, match="form factors"):
        atomic_tables().scattering([500.0], 170.0)


def test_typical_compositions_are_closed():
    for composition in (HIGHLAND, MARE):
        assert tuple(composition) == ELEMENTS
        assert sum(composition.values()) == pytest.approx(100, abs=0.01)


@pytest.mark.realdata
def test_text_tables_agree_with_the_fine_ones(real_data):
    coarse = atomic_tables(source=real_data / "atomic" / "ffast")
    fine = atomic_tables()
    energy = np.array([0.8, 1.2, 2.2, 3.0, 4.5, 6.0, 10.0])
    np.testing.assert_allclose(
        coarse.cross_sections(energy)[1], fine.cross_sections(energy)[1], rtol=0.02
    )
