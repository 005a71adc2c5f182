"""Responses: OGIP files in all their spellings, folding, gain, rebinning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lunarray.errors import InputError, ProductFormatError
from lunarray.xrf.class_response import class_response
from lunarray.xrf.line_shape import FWHM, LineShape
from lunarray.xrf.response import Response, fold_kernel, rebin, rebin_kernel
from lunarray.xrf.response_files import read_arf, read_response

fits = pytest.importorskip("astropy.io.fits")


def gaussian_response(energies=120, channels=90, width=0.1, sigma=0.25):
    edges = 0.5 + width * np.arange(energies + 1)
    channel = np.linspace(0.2, 12.9, channels + 1)
    middle, centre = (edges[1:] + edges[:-1]) / 2, (channel[1:] + channel[:-1]) / 2
    dense = np.exp(-0.5 * ((centre - middle[:, None]) / sigma) ** 2)
    dense /= dense.sum(axis=1, keepdims=True)
    dense[dense < 1e-6] = 0
    area = 5 + middle
    where = dense != 0
    response = Response(
        edges[:-1], edges[1:], area, np.concatenate([[0], np.cumsum(where.sum(1))]), np.nonzero(where)[1],
        dense[where], channel[:-1], channel[1:], area_energy=middle, area_curve=area,
    )  # fmt: skip
    return response, dense


def write_rmf(
    path, response, dense, *, first=0, tlmin=True, names=("ENERG_LO", "ENERG_HI"), vector=False
):
    low, high = response.energy_lo, response.energy_hi
    n_grp, f_chan, n_chan, matrix = [], [], [], []
    for row in dense:
        inside = np.flatnonzero(row)
        groups = [inside]
        if vector:  # two groups: the peak, and a tail after a gap
            groups = [inside[:3], inside[3:]]
        n_grp.append(len(groups))
        f_chan.append([g[0] + first for g in groups])
        n_chan.append([g.size for g in groups])
        matrix.append(np.concatenate([row[g] for g in groups]).astype("f4"))
    if vector:
        kind, f_chan, n_chan = "2I", np.array(f_chan), np.array(n_chan)
    else:
        kind, f_chan, n_chan = "I", np.array(f_chan)[:, 0], np.array(n_chan)[:, 0]
    longest = max(m.size for m in matrix)
    variable = np.empty(len(matrix), dtype=object)
    variable[:] = matrix
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(names[0], "E", array=low),
            fits.Column(names[1], "E", array=high),
            fits.Column("N_GRP", "I", array=n_grp),
            fits.Column("F_CHAN", kind, array=f_chan),
            fits.Column("N_CHAN", kind, array=n_chan),
            fits.Column("MATRIX", f"PE({longest})", array=variable),
        ],
        name="MATRIX",
    )
    if tlmin:
        table.header["TLMIN4"] = first
    else:
        table.header["TLMIN"] = 7  # not a keyword of a column: means nothing
    bounds = fits.BinTableHDU.from_columns(
        [
            fits.Column("CHANNEL", "I", array=np.arange(dense.shape[1]) + first),
            fits.Column("E_MIN", "E", array=response.channel_lo),
            fits.Column("E_MAX", "E", array=response.channel_hi),
        ],
        name="EBOUNDS",
    )
    fits.HDUList([fits.PrimaryHDU(), bounds, table]).writeto(path, overwrite=True)
    return path


def write_arf(path, low, high, area, names=("ENERG_LO", "ENERG_HI")):
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(names[0], "E", array=low),
            fits.Column(names[1], "E", array=high),
            fits.Column("SPECRESP", "E", array=area),
        ],
        name="SPECRESP",
    )
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)
    return path


@pytest.mark.parametrize("names", [("ENERG_LO", "ENERG_HI"), ("E_LOW", "E_HIGH")])
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_files_in_every_spelling(tmp_path, names, vector, first):
    response, dense = gaussian_response()
    rmf = write_rmf(tmp_path / "a.rmf", response, dense, first=first, names=names, vector=vector)
    arf = write_arf(
        tmp_path / "a.arf", response.energy_lo, response.energy_hi, response.area, names=names
    )
    read = read_response(rmf, arf)
    assert read.first_channel == first
    np.testing.assert_allclose(read.matrix(), dense * response.area[:, None], rtol=1e-6, atol=1e-9)
    bare = read_response(rmf)
    np.testing.assert_allclose(bare.matrix(), dense, rtol=1e-6, atol=1e-9)


def test_first_channel_rules(tmp_path):
    response, dense = gaussian_response()
    rmf = write_rmf(tmp_path / "a.rmf", response, dense, first=0, tlmin=False)
    assert read_response(rmf).first_channel == 0  # from EBOUNDS; the bare TLMIN is not believed
    shifted = read_response(rmf, first_channel=1)
    # What XSPEC assumes without the keyword: all moves one channel down, and what was in the first is lost.
    expected = np.zeros_like(dense)
    expected[:, :-1] = dense[:, 1:]
    np.testing.assert_allclose(shifted.matrix(), expected, rtol=1e-6, atol=1e-9)


def test_broken_cards_and_an_arf_that_begins_with_nothing(tmp_path):
    response, dense = gaussian_response()
    rmf = write_rmf(tmp_path / "a.rmf", response, dense)
    low = np.concatenate([[response.energy_lo[0]], response.energy_lo])
    high = np.concatenate([[response.energy_lo[0]], response.energy_hi])
    area = np.concatenate([[0.0], response.area])
    arf = write_arf(tmp_path / "a.arf", low, high, area)
    raw = arf.read_bytes()
    card = b"GAIN USE=              13.5000 / Gain used in this file".ljust(80)
    assert raw.count(b"EXTNAME = 'SPECRESP'") == 1
    at = raw.index(b"EXTNAME = 'SPECRESP'")
    end = raw.index(b"END".ljust(80), at)
    arf.write_bytes(raw[:end] + card + b"END".ljust(80) + raw[end + 160 :])
    read = read_response(rmf, arf)
    np.testing.assert_allclose(read.area, response.area, rtol=1e-5)
    energy, curve = read_arf(arf)
    assert energy.size == response.area.size == curve.size
    with pytest.raises(ProductFormatError, match="121 areas for a matrix of 120 rows"):
        read_response(rmf, arf, area_at="rows")


def test_area_at_rows(tmp_path):
    response, dense = gaussian_response()
    rmf = write_rmf(tmp_path / "a.rmf", response, dense)
    # Energies a bin too low, as CLASS's ARF has them.
    arf = write_arf(
        tmp_path / "a.arf", response.energy_lo - 0.1, response.energy_hi - 0.1, response.area
    )
    np.testing.assert_allclose(
        read_response(rmf, arf, area_at="rows").area, response.area, rtol=1e-6
    )
    assert read_response(rmf, arf).area[5] == pytest.approx(response.area[6], rel=1e-5)


def test_fold_is_the_matrix_product(rng):
    response, dense = gaussian_response()
    spectra = rng.random((3, 2, response.energies))
    expected = (spectra * response.area) @ dense
    np.testing.assert_allclose(response.fold(spectra), expected, rtol=1e-12)
    np.testing.assert_allclose(response.fold(spectra[0, 0]), expected[0, 0], rtol=1e-12)
    slow = fold_kernel.py_func(
        spectra[0], response.area, response.row, response.channel, response.value, response.channels
    )
    np.testing.assert_allclose(slow, expected[0], rtol=1e-12)
    part = response.select(10, 40)
    np.testing.assert_allclose(part.fold(spectra), expected[..., 10:40], rtol=1e-12)
    with pytest.raises(InputError, match="7 bins cannot be folded"):
        response.fold(np.ones(7))


def test_group_conserves_counts(rng):
    response, _ = gaussian_response()
    spectrum = rng.random(response.energies)
    fine, coarse = response.fold(spectrum), response.group(3).fold(spectrum)
    np.testing.assert_allclose(coarse, fine.reshape(-1, 3).sum(1), rtol=1e-9)
    with pytest.raises(InputError, match="7 at a time"):
        response.group(7)


def test_gain_moves_energies_as_xspec_does():
    response, _ = gaussian_response()
    shifted = response.with_gain(1.02, 0.05)
    np.testing.assert_allclose(shifted.energy_lo, response.energy_lo / 1.02 - 0.05)
    middle = (shifted.energy_lo + shifted.energy_hi) / 2
    inside = (middle > 1) & (middle < 11)
    np.testing.assert_allclose(
        shifted.area[inside], 5 + middle[inside]
    )  # the curve it was made from
    assert np.array_equal(response.with_gain(1.02, 0.05, convention="matrix").area, response.area)
    assert response.with_gain() is response
    with pytest.raises(InputError, match="slope"):
        response.with_gain(-1.0)


def test_channel_gain_moves_the_peak_and_keeps_the_counts():
    response, _ = gaussian_response()
    spectrum = np.zeros(response.energies)
    spectrum[50] = 1.0
    plain, moved = response.fold(spectrum), response.with_channel_gain(1.03, 0.04).fold(spectrum)
    centre = response.channel_energy()
    before, after = plain @ centre / plain.sum(), moved @ centre / moved.sum()
    assert after == pytest.approx(1.03 * (before + 0.04), abs=1e-3)
    assert moved.sum() == pytest.approx(plain.sum(), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.01, 2), min_size=1, max_size=12),
    st.lists(st.floats(0.01, 2), min_size=1, max_size=12),
    st.floats(-3, 3),
)
def test_rebin_conserves_what_is_covered(widths, new_widths, shift):
    edges = np.concatenate([[0], np.cumsum(widths)])
    new = shift + np.concatenate([[0], np.cumsum(new_widths)])
    values = np.arange(1.0, edges.size)
    out = rebin(values, edges[:-1], edges[1:], new[:-1], new[1:])
    cumulative = np.concatenate([[0], np.cumsum(values)])
    expected = np.diff(np.interp(new, edges, cumulative))
    np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-9)
    slow = np.zeros_like(out)
    rebin_kernel.py_func(values, edges[:-1], edges[1:], new[:-1], new[1:], slow)
    np.testing.assert_allclose(slow, out)


def test_value_semantics():
    import dask

    response, _ = gaussian_response()
    again, _ = gaussian_response()
    assert response == again
    assert hash(response) == hash(again)
    assert dask.base.tokenize(response) == dask.base.tokenize(again)
    assert response != response.with_gain(1.01)


def test_files_that_are_something_else(tmp_path):
    text = tmp_path / "a.rmf"
    text.write_text("not FITS")
    with pytest.raises(ProductFormatError, match=r"a\.rmf"):
        read_response(text)
    response, _ = gaussian_response()
    arf = write_arf(tmp_path / "a.arf", response.energy_lo, response.energy_hi, response.area)
    with pytest.raises(ProductFormatError, match="has no table MATRIX"):
        read_response(arf)


@pytest.mark.realdata
@pytest.mark.parametrize(("folder", "channels"), [("issdc_fit", 1024), ("response", 2048)])
def test_class_files(real_data, folder, channels):
    folder = real_data / "class" / folder
    response = read_response(folder / "class_rmf_v1.rmf", folder / "class_arf_v1.arf")
    assert (response.channels, response.energies, response.first_channel) == (channels, 2048, 0)
    sums = np.add.reduceat(response.value, response.row[:-1])
    np.testing.assert_allclose(sums[20:1900], 1, atol=1e-4)
    # Numbering from 0 puts photons where EBOUNDS says, to half a channel and the matrix' own offset.
    for energy in (1.25, 1.74, 3.69, 6.4):
        spectrum = np.zeros(2048)
        spectrum[np.searchsorted(response.energy_hi, energy)] = 1
        counts = response.fold(spectrum)
        peak = response.channel_energy()[counts.argmax()]
        assert abs(peak - energy) < 0.03


class TestBuiltIn:
    """The description of CLASS that serves where there is no RMF."""

    @pytest.mark.parametrize("channels", [1024, 2048])
    def test_rows_are_whole_and_lines_as_wide_as_asked_for(self, channels) -> None:
        response = class_response(channels, fwhm=0.15)
        total = np.add.reduceat(response.value, response.row[:-1])
        np.testing.assert_allclose(total, 1.0, rtol=1e-9)
        assert (response.value > 0).all()
        for energy in (1.25, 1.74, 3.7):
            assert abs(response.line_width(energy) - FWHM * LineShape(0.15).sigma(energy)) < 0.004
        assert 40 < response.area.max() < 64
        # What stops photons below its edges lets them pass: aluminium, and silicon that does not count.
        for edge in (1.56, 1.84):
            below, above = np.interp(
                [edge - 0.02, edge + 0.02], response.area_energy, response.area_curve
            )
            assert above < 0.9 * below

    def test_joined_channels(self) -> None:
        fine, coarse = class_response(2048).group(2), class_response(1024)
        np.testing.assert_allclose(fine.matrix(), coarse.matrix(), atol=1e-6)

    def test_what_class_has_not_is_refused(self) -> None:
        with pytest.raises(InputError, match="512 channels"):
            class_response(512)
        with pytest.raises(InputError, match="fwhm"):
            class_response(fwhm=0.01)

    @pytest.mark.realdata
    def test_beside_the_makers_files(self, real_data) -> None:
        here = real_data / "class" / "response"
        real = read_response(here / "class_rmf_v1.rmf", here / "class_arf_v1.arf")
        own = class_response(2048, fwhm=0.1838)
        energy, area = real.area_energy, real.area_curve
        # Between them lie the steps of the makers' edges, which are 27 eV broad.
        inside = (energy > 0.8) & (energy < 11)
        for low, high in ((1.53, 1.60), (1.81, 1.90)):
            inside &= (energy < low) | (energy > high)
        ratio = np.interp(energy, own.area_energy, own.area_curve)[inside] / area[inside]
        assert np.sqrt(np.mean((ratio - 1) ** 2)) < 0.006
        assert np.abs(ratio - 1).max() < 0.025
        for line, most in ((1.25, 0.035), (1.49, 0.035), (1.74, 0.035), (3.7, 0.03), (6.4, 0.08)):
            rows = []
            for one in (real, own):
                i = int(np.argmin(np.abs((one.energy_lo + one.energy_hi) / 2 - line)))
                rows.append(np.zeros(2048))
                rows[-1][one.channel[one.row[i] : one.row[i + 1]]] = one.value[
                    one.row[i] : one.row[i + 1]
                ]
                shift = line - (one.energy_lo[i] + one.energy_hi[i]) / 2
                rows[-1] = np.interp(one.channel_energy() - shift, one.channel_energy(), rows[-1])
            assert np.abs(rows[0] - rows[1]).sum() / 2 < most, line
