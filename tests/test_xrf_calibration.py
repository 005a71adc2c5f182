"""The shape of lines: matrices built from parameters, and parameters measured in spectra."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from lunarray import simulate, xrf
from lunarray.errors import InputError
from lunarray.xrf.line_shape import LineShape
from lunarray.xrf.response import Response
from lunarray.xrf.response_files import read_response
from lunarray.xrf.unknowns import shape_priors


@pytest.fixture(scope="module")
def response() -> Response:
    return simulate.class_response(1024, fwhm=0.183)


def test_a_matrix_takes_another_width(response):
    assert response.line_width() == pytest.approx(0.183, abs=0.001)
    narrow = response.with_shape(LineShape(0.14))
    assert narrow.line_width() == pytest.approx(0.14, abs=0.001)
    direct = simulate.class_response(1024, fwhm=0.14)
    row = np.searchsorted(response.energy_hi, 1.74)
    got, expected = narrow.matrix()[row], direct.matrix()[row]
    assert np.abs(got - expected).sum() < 5e-3 * expected.sum()
    # Efficiency is no matter of the line's shape.
    sums = [np.add.reduceat(r.value, r.row[:-1]) for r in (response, narrow)]
    np.testing.assert_allclose(sums[1][20:1200], sums[0][20:1200], atol=1e-3)


def test_gain_of_a_shape_is_that_of_channels(response):
    shape = LineShape(response.line_width(), slope=0.988, offset=0.01)
    got = response.with_shape(shape).matrix()
    expected = response.with_channel_gain(0.988, 0.01).matrix()
    energy = response.channel_energy()
    for line in (1.25, 1.74, 3.69):
        row = np.searchsorted(response.energy_hi, line)
        means = [m[row] @ energy / m[row].sum() for m in (got, expected)]
        assert means[0] == pytest.approx(means[1], abs=2e-4)


def test_tail_and_shelf_are_factors_on_those_of_the_matrix(response):
    middle = (response.energy_lo + response.energy_hi) / 2
    dense = response.matrix() / response.area[:, None]
    below = response.channel_energy()[None, :] < middle[:, None] - 0.8
    dense = 0.97 * dense + 0.03 * below / np.maximum(below.sum(axis=1, keepdims=True), 1)
    where = dense > 0
    row = np.concatenate([[0], np.cumsum(where.sum(axis=1))])
    shelved = Response(
        response.energy_lo, response.energy_hi, response.area, row, np.nonzero(where)[1], dense[where],
        response.channel_lo, response.channel_hi,
    )  # fmt: skip
    line = np.searchsorted(response.energy_hi, 3.69)
    for factor in (0.0, 1.0, 2.0):
        got = shelved.with_shape(LineShape(0.15, shelf=factor)).matrix()[line] / response.area[line]
        assert got[below[line]].sum() == pytest.approx(0.03 * factor, abs=2e-3)
        assert got.sum() == pytest.approx(1.0, abs=2e-3)


def test_a_matrix_without_peaks_is_refused():
    n = 50
    flat = Response(
        np.arange(n) * 0.1, np.arange(n) * 0.1 + 0.1, np.ones(n), np.arange(n + 1) * n, np.tile(np.arange(n), n),
        np.full(n * n, 1 / n), np.arange(n) * 0.1, np.arange(n) * 0.1 + 0.1,
    )  # fmt: skip
    with pytest.raises(InputError, match="photopeak"):
        flat.with_shape(LineShape(0.14))
    with pytest.raises(InputError, match="width"):
        LineShape(0.0)


def test_the_shape_is_found_in_spectra_of_any_ground(response):
    """Width and gain come back within their errors, whatever the Sun and the soil are."""
    true = LineShape(0.142, slope=0.99, offset=0.008)
    seen = response.with_shape(true)
    orbit = simulate.class_orbit(frames=6)
    for soil, sun in ((xrf.HIGHLAND, 1.2), (xrf.MARE, 0.8)):
        spectra = simulate.class_counts(
            soil, orbit, simulate.thermal_spectrum(sun, 4e-5), seen, samples=1, seed=3
        )
        found = xrf.calibrate_response(spectra, response)
        error = np.sqrt(np.diag(found["covariance"].values[0]))
        pull = (found["value"].values[0] - [true.width, true.slope, true.offset]) / error
        assert np.all(np.abs(pull) < 4), pull
        assert error[0] < 0.003
        assert float(found["reduced_chi2"][0]) < 1.4
    for epoch in ("a day", "1ME", None):
        with pytest.raises(InputError, match="length of time"):
            xrf.calibrate_response(spectra, response, epoch=epoch)


@pytest.mark.parametrize("by", ["detectors", "n_detectors"])
def test_each_set_of_detectors_has_a_row(response, by):
    """One day, two sets with lines of two widths; fits take the row of their own set, or of any if there is none."""
    parts = []
    for k, (number, width) in enumerate(((16, 0.135), (12, 0.155))):
        orbit = simulate.class_orbit(f"2023-05-01T0{k}:00:00", frames=3)
        made = simulate.class_counts(
            xrf.HIGHLAND, orbit, simulate.thermal_spectrum(1.2, 4e-5), response.with_shape(LineShape(width)),
            n_detectors=number, samples=1, seed=k,
        )  # fmt: skip
        parts.append(made.assign_coords(detectors=("time", np.full(3, (1 << number) - 1, "u2"))))
    frames = xr.concat(parts, "time").isel(time=[0, 3, 1, 4, 2, 5]).sortby("time")
    if by == "n_detectors":
        frames = frames.drop_vars("detectors")
    found = xrf.calibrate_response(frames, response)
    assert found["n_detectors"].values.tolist() == [12.0, 16.0]
    assert found["frames"].values.tolist() == [3.0, 3.0]
    np.testing.assert_allclose(found["value"].values[:, 0], [0.155, 0.135], atol=0.006)
    masks = [4095, 65535] if by == "detectors" else [0, 0]
    assert found["detectors"].values.tolist() == masks
    priors, own, _ = shape_priors(frames, response, found)
    width = [priors[int(k)].mean[0] for k in own]
    np.testing.assert_allclose(width, [0.135] * 3 + [0.155] * 3, atol=0.006)
    _, only, _ = shape_priors(frames, response, found.isel(epoch=[1]))
    assert only.tolist() == [0.0] * 6


@pytest.mark.realdata
def test_bright_frames_are_narrower_than_the_matrix(real_data):
    folder = real_data / "class"
    response = read_response(
        folder / "response" / "class_rmf_v1.rmf", folder / "response" / "class_arf_v1.arf"
    )
    frames = xrf.open_class(sorted((folder / "bright").glob("*.fits")))
    found = xrf.calibrate_response(frames, response)
    width, slope, offset = found["value"].values[0]
    print(f"{1e3 * width:.1f} eV, slope {slope:.4f}, offset {1e3 * offset:.1f} eV")
    assert response.line_width() > 0.18
    assert 0.140 < width < 0.148
    assert 0.985 < slope < 0.992
    # Lines of free strength and a continuum describe 290 000 counts: the response is right.
    assert float(found["reduced_chi2"][0]) < 2.5
