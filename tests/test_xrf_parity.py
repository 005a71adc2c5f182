"""Parity with real PyXspec on a published fit, and the same spectrum with the right physics."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lunarray.xrf.atomic import atomic_tables
from lunarray.xrf.constants import ELEMENTS, PYXSPEC_START
from lunarray.xrf.fit import fit_spectrum, spectrum_statistic
from lunarray.xrf.model import SpectralModel
from lunarray.xrf.response_files import read_response
from lunarray.xrf.settings import Conventions, FitSettings, Geometry, Observation

pytestmark = pytest.mark.realdata
fits = pytest.importorskip("astropy.io.fits")

#: What PyXspec wrote into pyxspec_run.log and pyxspec_run.xcm.
STATISTIC_AT_START, STATISTIC_AT_BEST = 341.13, 165.13
BEST = (3.88864, 1.09157e-06, 16.5994, 15.1719, 17.0742, 2.26579, 6.77069e-06, 45.0)
BEST_NORMS = (1.03754, 1.63901)
GAIN = (1.0043, 0.0316)
#: Channels 35–155, counted from 1.
CHANNELS = slice(34, 155)
NAME = "20210827T210316000_20210827T210332000"


class Published:
    def __init__(self, folder):
        def table(name, extension, *columns):
            with fits.open(folder / name, memmap=False) as hdus:
                data = hdus[extension].data
                return hdus[extension].header, [np.array(data[c], np.float64) for c in columns]

        header, (counts,) = table(f"ch2_cla_l1_{NAME}_1024.fits", 1, "COUNTS")
        back_header, (back,) = table(
            "ch2_cla_l1_20210826T220355000_20210826T223335000_1024.fits", 1, "COUNTS"
        )
        self.data = Observation(counts, header["EXPOSURE"], back, back_header["EXPOSURE"])
        self.geometry = Geometry(
            header["SOLARANG"], header["EMISNANG"], header["PHASEANG"], header["SAT_ALT"]
        )
        low, _, flux = np.loadtxt(folder / f"modelop_{NAME}.txt", unpack=True)
        self.solar = (low, low + 0.01, flux)
        _, (lo, hi) = table(f"tbmodel_{NAME}.fits", 2, "ENERG_LO", "ENERG_HI")
        _, (spectra,) = table(f"tbmodel_{NAME}.fits", 3, "INTPSPEC")
        self.scatter = (lo, hi, spectra[0])
        self.folder = folder
        self.tables = atomic_tables(
            source=folder.parents[1] / "atomic" / "ffast", interpolation="linear"
        )

    def response(self, **options):
        return read_response(
            self.folder / "class_rmf_v1.rmf", self.folder / "class_arf_v1.arf", **options
        )

    def published_model(self, response=None, **changes):
        if response is None:
            response = self.response(first_channel=1, area_at="rows")
        return SpectralModel(
            response, self.solar, self.geometry, exposure=16.0, tables=self.tables,
            conventions=Conventions.published(**changes), channels=CHANNELS, scatter=self.scatter,
        )  # fmt: skip

    def statistic(self, model, weights, xrf_norm, scatter_norm):
        xrf, scatter = model.counts(weights, xrf_norm, scatter_norm, *GAIN)
        return spectrum_statistic(self.data, xrf + scatter, CHANNELS)


@pytest.fixture(scope="module")
def published(real_data):
    return Published(real_data / "class" / "issdc_fit")


def test_statistic_at_pyxspecs_start_and_best_fit(published):
    model = published.published_model()
    start = published.statistic(model, list(PYXSPEC_START.values()), 1.0, 1.0)
    best = published.statistic(model, BEST, *BEST_NORMS)
    print(f"at the start {start:.3f} (PyXspec 341.13), at its best fit {best:.4f} (PyXspec 165.13)")
    assert start == pytest.approx(STATISTIC_AT_START, abs=0.02)
    # Without the published software's mistake in eq. 4 it would be 341.147.
    right = published.statistic(
        published.published_model(secondary_jump="own"), list(PYXSPEC_START.values()), 1.0, 1.0
    )
    assert start < right - 0.005
    assert best == pytest.approx(STATISTIC_AT_BEST, abs=0.01)


def test_fit_from_pyxspecs_start_within_its_bounds(published):
    model, settings = published.published_model(), FitSettings.published()
    result = fit_spectrum(published.data, model, settings)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        fit_spectrum(published.data, model, settings)
        times.append(time.perf_counter() - begin)
    print(f"{result.statistic:.3f} after {result.iterations} steps, {1e3 * min(times):.1f} ms")
    assert result.status == "fitted"
    assert result.statistic <= 165.14
    assert result.dof == 113
    assert result.channels == 121
    for name, (low, high) in settings.bounds.items():
        if name not in ("Si", "O"):
            assert low <= result.weights[ELEMENTS.index(name)] <= high
    assert result.weights.sum() == pytest.approx(100)


def test_the_curvature_is_pyxspecs(published):
    # PyXspec's errors at its best fit, norms aside, are those of a degenerate problem: 417 wt% of iron.
    result = fit_spectrum(published.data, published.published_model(), FitSettings.published())
    assert "not_constrained" in result.flags("Fe")
    assert result.weight_errors[0] == pytest.approx(417, rel=0.1)
    assert result.weight_errors[ELEMENTS.index("Na")] == pytest.approx(0.519, rel=0.1)


@pytest.mark.parametrize(
    ("conventions", "response"),
    [
        ({"secondary": False}, {}),
        ({"beam": "emergent"}, {}),
        ({"gain": "matrix"}, {}),
        ({}, {"area_at": "energies"}),
        ({}, {"first_channel": 0}),
        ({"line_shape": "gaussian", "line_sigma": 0.03}, {}),
    ],
)
def test_each_convention_matters(published, conventions, response):
    options = {"first_channel": 1, "area_at": "rows"} | response
    model = published.published_model(published.response(**options), **conventions)
    best = published.statistic(model, BEST, *BEST_NORMS)
    assert abs(best - STATISTIC_AT_BEST) > 0.1


def test_interpolation_as_the_data_notes_say(published):
    for options, at_start, at_best in (
        ({"source": "ffast"}, 369.4, 165.01),
        ({"source": "xraylib"}, 362.8, 167.07),
    ):
        model = SpectralModel(
            published.response(first_channel=1, area_at="rows"), published.solar, published.geometry,
            exposure=16.0, tables=atomic_tables(**options), conventions=Conventions.published(),
            channels=CHANNELS, scatter=published.scatter,
        )  # fmt: skip
        start = published.statistic(model, list(PYXSPEC_START.values()), 1.0, 1.0)
        assert start == pytest.approx(at_start, abs=1.5)
        best = published.statistic(model, BEST, *BEST_NORMS)
        assert best == pytest.approx(at_best, abs=0.3)


def test_right_physics(published):
    model = SpectralModel(
        published.response(), published.solar, published.geometry, channels=CHANNELS
    )
    result = fit_spectrum(
        published.data, model, FitSettings(fit_gain=True, tie_norms=False, norm_sigma=0.0)
    )
    assert result.status == "fitted"
    # With channels numbered from 0 and areas at their own energies there is no offset left to fit.
    assert abs(result.offset) < 0.006
    assert result.statistic / result.dof < 1.5
    # The scattered continuum, from the same Sun and surface, has the same norm as the lines within a factor of two.
    assert 0.5 < result.scatter_norm / result.xrf_norm < 2
    for name in ("Al", "Mg", "Si", "Ca"):
        assert "not_constrained" not in result.flags(name)
