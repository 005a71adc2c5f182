"""The PyXspec engine: its model function called as PyXspec calls it, and the engine against a stand-in for the package.

The stand-in has the names and calls of PyXspec's manual that the engine uses, reads the files that the engine writes,
and minimises by itself. It shows that model function, files, links and results fit together; not that real XSPEC
agrees.
"""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from lunarray.errors import LunarrayError, MissingDependencyError
from lunarray.xrf import xspec as engine
from lunarray.xrf.constants import ELEMENTS
from lunarray.xrf.fit import fit_spectrum
from lunarray.xrf.model import PhotonModel, SpectralModel
from lunarray.xrf.response import Response
from lunarray.xrf.response_files import read_response, write_response
from lunarray.xrf.settings import Conventions, FitSettings, Geometry, Observation

WEIGHTS = (5.0, 1.0, 9.0, 21.0, 13.5, 5.0, 0.5, 45.0)


def solar_spectrum():
    low = 0.4 + 0.02 * np.arange(900)
    return low, low + 0.02, 3e6 * np.exp(-low / 1.1) / low**1.5


def small_response(channels=160, energies=300):
    edges, bounds = np.linspace(0.05, 8.7, energies + 1), np.linspace(0.0, 8.64, channels + 1)
    middle, centre = (edges[1:] + edges[:-1]) / 2, (bounds[1:] + bounds[:-1]) / 2
    dense = np.exp(-0.5 * ((centre - middle[:, None]) / 0.055) ** 2)
    dense /= np.maximum(dense.sum(axis=1, keepdims=True), 1e-9)
    dense[dense < 1e-6] = 0
    area = 45 * np.exp(-((0.9 / middle) ** 3))
    where = dense != 0
    return Response(
        edges[:-1], edges[1:], area, np.concatenate([[0], np.cumsum(where.sum(1))]), np.nonzero(where)[1],
        dense[where], bounds[:-1], bounds[1:], area_energy=middle, area_curve=area,
    )  # fmt: skip


def test_model_function_as_pyxspec_calls_it():
    model = PhotonModel(
        solar_spectrum(),
        Geometry(40.0, 0.0, 40.0, 110.0),
        exposure=16.0,
        conventions=Conventions.published(),
    )
    function = engine.model_function(model)
    # Tuples of floats, and a list of zeros that the function fills.
    engs = tuple(float(e) for e in 0.1 + 0.0135 * np.arange(701))
    flux = [0.0] * 700
    assert function(engs, WEIGHTS, flux) is None
    assert all(type(value) is float for value in flux)
    lines = model.fluorescence.line_energy
    inside = (lines > engs[0]) & (lines < engs[-1])
    expected = model.line_intensities(WEIGHTS)[inside].sum() * model.scale
    assert sum(flux) == pytest.approx(expected, rel=1e-12)
    silicon = np.searchsorted(engs, lines[model.tables.line_names.index("Si Ka")]) - 1
    assert (
        flux[silicon]
        > 0.9
        * model.scale
        * model.line_intensities(WEIGHTS)[model.tables.line_names.index("Si Ka")]
    )
    assert function.__name__ == "lunarxrf"


def test_parameter_strings():
    info = engine.parameter_info(ELEMENTS, FitSettings.published())
    assert info[0] == 'Wt_Fe "wt%" 5 1 1 20 20 0.01'
    assert info[1] == 'Wt_Ti "wt%" 1 1e-06 1e-06 20 20 0.01'
    assert len(info) == 8


def test_response_files_read_back(tmp_path):
    response = small_response()
    write_response(response, tmp_path / "a.rmf", tmp_path / "a.arf")
    back = read_response(tmp_path / "a.rmf", tmp_path / "a.arf")
    assert back.first_channel == 1
    np.testing.assert_allclose(back.matrix(), response.matrix(), rtol=1e-5, atol=1e-6)
    write_response(response, tmp_path / "b.rmf")
    np.testing.assert_allclose(
        read_response(tmp_path / "b.rmf").matrix(), response.matrix(), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(LunarrayError, match="overwrite=True"):
        write_response(response, tmp_path / "b.rmf")


@pytest.mark.skipif(importlib.util.find_spec("xspec") is not None, reason="PyXspec is here")
def test_absence_is_explained():
    model = SpectralModel(small_response(), solar_spectrum(), Geometry(40.0))
    with pytest.raises(MissingDependencyError, match=r"HEASoft.*engine='numba'"):
        engine.fit_spectrum(Observation(np.ones(160), 8.0), model)


STAND_IN = """
import numpy as np
from scipy.optimize import least_squares

class _Bag:
    pass

Xset = _Bag()
_state = {}

class _Data:
    def clear(self):
        _state.pop("spectrum", None)
AllData = _Data()

class _Models:
    def __init__(self):
        self.functions = {}
    def clear(self):
        pass
    def addPyMod(self, function, info, kind):
        assert kind == "add"
        self.functions[function.__name__] = (function, info)
AllModels = _Models()

class _Fit(_Bag):
    bayes, statMethod, weight, nIterations, query = "off", "chi", "standard", 10, "yes"
    def perform(self):
        _state["model"]._fit(_state["spectrum"])
Fit = _Fit()

class Spectrum:
    def __init__(self, path, backFile=None, respFile=None, arfFile=None):
        from astropy.io import fits
        from lunarray.xrf.response_files import read_response
        def read(name):
            with fits.open(name, memmap=False) as hdus:
                return np.array(hdus[1].data["COUNTS"], float), hdus[1].header["EXPOSURE"]
        (n, t), (b, tb) = read(path), read(backFile) if backFile else (0.0, 1.0)
        self.rate, self.variance = n / t - b / tb, n / t**2 + b / tb**2
        self.response_ = read_response(respFile, arfFile)
        self.noticed = np.ones(n.size, bool)
        _state["spectrum"] = self
    def ignore(self, text):
        for part in text.split(","):
            low, high = (int(x) for x in part.split("-"))
            self.noticed[low - 1 : high] = False

class Parameter:
    def __init__(self, name, index, value, low, high):
        self.name, self.index, self._values = name, index, [value, 0.01, low, low, high, high]
        self.frozen, self.link, self.prior, self.sigma = False, "", "cons", 0.0
    @property
    def values(self):
        return self._values
    @values.setter
    def values(self, new):
        if isinstance(new, list):
            self._values = [float(x) for x in new]
        else:
            self._values[0] = float(new)

class _Component:
    def __init__(self, parameters):
        self.parameterNames = [p.name for p in parameters]
        for p in parameters:
            setattr(self, p.name, p)

class Model:
    def __init__(self, expression):
        self.componentNames, self.parameters, self.parts, index = [], [], [], 1
        for text in expression.split("+"):
            if text.startswith("atable{"):
                from lunarray.xrf.table_models import read_table_model
                table = read_table_model(text[7:-1])
                name, own = "scatter", [Parameter("none", index, 0.0, 0.0, 1.0)]
                self.parts.append(("table", table))
            else:
                function, info = AllModels.functions[text]
                name, own = text, []
                for k, line in enumerate(info):
                    word = line.split()
                    assert word[1] == '"wt%"' and len(word) == 8
                    own.append(Parameter(word[0], index + k, float(word[2]), float(word[3]), float(word[6])))
                self.parts.append(("python", function))
            own.append(Parameter("norm", index + len(own), 1.0, 0.0, 1e20))
            index += len(own)
            self.componentNames.append(name)
            self.parameters.append(own)
            setattr(self, name, _Component(own))
        _state["model"] = self

    def _all(self):
        return [p for own in self.parameters for p in own]

    def _resolve(self):
        values = {"p%d" % p.index: p.values[0] for p in self._all()}
        for p in self._all():
            if p.link:
                p.values = eval(p.link, {}, values)

    def _folded(self, spectrum):
        self._resolve()
        r = spectrum.response_
        total = np.zeros(r.energies)
        for (kind, thing), own in zip(self.parts, self.parameters):
            norm = own[-1].values[0]
            if kind == "table":
                from lunarray.xrf.response import rebin
                lo, hi = thing["energy_lo"].values, thing["energy_hi"].values
                total += norm * rebin(thing["flux"].values[0], lo, hi, r.energy_lo, r.energy_hi)
            else:
                flux = [0.0] * r.energies
                thing(tuple(np.append(r.energy_lo, r.energy_hi[-1])), tuple(p.values[0] for p in own[:-1]), flux)
                total += norm * np.array(flux)
        return r.fold(total)[spectrum.noticed]

    def folded(self, number):
        return tuple(self._folded(_state["spectrum"]))

    def _fit(self, spectrum):
        free = [p for p in self._all() if not p.frozen and not p.link]
        ok = spectrum.variance[spectrum.noticed] > 0
        def residuals(x):
            for p, value in zip(free, x):
                p.values = value
            out = (spectrum.rate[spectrum.noticed] - self._folded(spectrum))[ok]
            out = list(out / np.sqrt(spectrum.variance[spectrum.noticed][ok]))
            if Fit.bayes == "on":
                for p in free:
                    if p.prior != "cons":
                        kind, mean, sigma = p.prior  # the manual: a type and its hyperparameters
                        assert kind == "gauss"
                        out.append((p.values[0] - mean) / sigma)
            return np.array(out)
        low, high = np.array([[p.values[2], p.values[5]] for p in free]).T
        x0 = np.clip([p.values[0] for p in free], low + 1e-9, high - 1e-9)
        scale = np.array([p.values[0] or 1.0 for p in free])
        found = least_squares(residuals, x0, bounds=(low, high), x_scale=np.abs(scale) + 0.01, xtol=1e-10, ftol=1e-10)
        residuals(found.x)
        Fit.statistic = 2 * found.cost
        covariance = np.linalg.inv(found.jac.T @ found.jac)
        Fit.covariance = tuple(covariance[np.tril_indices(len(free))])
"""


def test_engine_gives_what_ours_gives(tmp_path, monkeypatch):
    if importlib.util.find_spec("xspec") is None:
        (tmp_path / "xspec.py").write_text(STAND_IN)
        monkeypatch.syspath_prepend(str(tmp_path))
    channels = slice(18, 150)
    model = SpectralModel(small_response(), solar_spectrum(), Geometry(40.0), channels=channels)
    xrf, scatter = model.counts(WEIGHTS, 0.7, 0.8)
    rng = np.random.default_rng(2)
    rate = xrf + scatter
    exposure = 3e5 / rate.sum()
    counts, back = np.zeros((2, 160))
    counts[channels] = rng.poisson((rate + 0.05 * rate.mean()) * exposure)
    back[channels] = rng.poisson(np.full(rate.size, 0.05 * rate.mean() * exposure * 9))
    data = Observation(counts, exposure, back, 9 * exposure)
    settings = FitSettings(
        start=dict(zip(ELEMENTS, WEIGHTS, strict=True)), scatter_slopes=False, scatter_iterations=2
    )
    try:
        theirs = engine.fit_spectrum(data, model, settings)
    finally:
        engine.close()
        sys.modules.pop("xspec", None)
    ours = fit_spectrum(data, model, settings)
    assert theirs.status == "fitted"
    assert theirs.parameters == ours.parameters
    assert theirs.statistic == pytest.approx(ours.statistic, abs=0.3)
    np.testing.assert_allclose(theirs.weights, ours.weights, atol=0.25)
    free = ours.weight_errors > 0
    np.testing.assert_allclose(theirs.weight_errors[free], ours.weight_errors[free], rtol=0.1)
    assert theirs.xrf_norm == pytest.approx(ours.xrf_norm, rel=0.02)
    np.testing.assert_allclose(theirs.model, ours.model, rtol=0.05, atol=0.02 * ours.model.max())
    assert theirs.weights.sum() == pytest.approx(100)
    np.testing.assert_allclose(theirs.model, theirs.xrf + theirs.scatter)


def test_unfittable_spectra_do_not_reach_xspec(monkeypatch):
    monkeypatch.setattr(engine, "pyxspec_available", lambda: True)
    model = SpectralModel(small_response(), solar_spectrum(), Geometry(100.0))
    assert engine.fit_spectrum(Observation(np.ones(160), 8.0), model).status == "night"
    model = SpectralModel(small_response(), solar_spectrum(), Geometry(10.0))
    assert engine.fit_spectrum(Observation(np.zeros(160), 8.0), model).status == "no_counts"
