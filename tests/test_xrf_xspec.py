"""The PyXspec engine: its model function called as PyXspec calls it, and the engine against a stand-in for the package.

The stand-in keeps to PyXspec's manual (heasarc.gsfc.nasa.gov/xanadu/xspec/python/html): names that are not in it
cannot be set, values go by its rules and outside of limits nowhere, priors are types or tuples of a type and floats,
the gain has no parameters before it is turned on, the covariance is a lower triangle, and fits stop after as many
iterations as were allowed without a word. It reads the files that the engine writes, and minimises by itself. What it
cannot show is that real XSPEC agrees; its library of models, where xspectrampoline brings it, is asked about models.
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

class _Strict:
    # As PyXspec's own classes: only what the manual lists can be set.
    _settable = ()
    def __setattr__(self, name, value):
        if not name.startswith("_") and name not in self._settable:
            raise Exception("Error: Attempting to set non-existing attribute " + name)
        object.__setattr__(self, name, value)

class _Xset(_Strict):
    _settable = ("chatter", "logChatter", "allowPrompting", "abund", "xsect", "parallel")
Xset = _Xset()
_state = {}

class _Data(_Strict):
    def clear(self):
        _state.pop("spectrum", None)
AllData = _Data()

class _Models(_Strict):
    def __init__(self):
        self._functions = {}
    def clear(self):
        _state.pop("model", None)
    def addPyMod(self, func, parInfo, modType, calcsErrors=False, spectrumDependent=False):
        assert modType in ("add", "mul", "con") and isinstance(parInfo, tuple)
        for line in parInfo:
            word = line.split()
            assert word[1] == '"wt%"' and len(word) == 8, line
            val, bottom, softlow, softhigh, top, delta = (float(x) for x in word[2:])
            assert bottom <= softlow <= val <= softhigh <= top and delta > 0, line
        self._functions[func.__name__] = (func, parInfo)
AllModels = _Models()

class _Fit(_Strict):
    _settable = ("bayes", "criticalDelta", "delta", "method", "nIterations", "query", "statMethod", "statTest",
                 "weight")
    _allowed = {"bayes": ("on", "off", "cons"), "query": ("yes", "no", "on"), "weight": ("standard", "gehrels",
                "churazov", "model"), "statMethod": ("chi", "cstat", "lstat", "pgstat", "pstat", "whittle")}
    def __init__(self):
        self.bayes, self.statMethod, self.weight, self.nIterations, self.query = "off", "chi", "standard", 10, "yes"
        self.criticalDelta = 0.01
        self._statistic, self._covariance = None, ()
    def __setattr__(self, name, value):
        if name in self._allowed:
            assert value in self._allowed[name], (name, value)
        if name == "nIterations":
            assert type(value) is int and value > 0
        _Strict.__setattr__(self, name, value)
    @property
    def statistic(self):
        return self._statistic
    @property
    def covariance(self):
        return self._covariance
    @property
    def nVarPars(self):
        return len(_state["model"]._free(_state["spectrum"]))
    def perform(self):
        if self.query == "yes":
            pass  # goes on without asking
        _state["model"]._fit(_state["spectrum"])
Fit = _Fit()

class Parameter(_Strict):
    _settable = ("frozen", "link", "prior", "values")
    def __init__(self, name, index, value, low, high):
        self._name, self._index, self._values = name, index, [value, 0.01, low, low, high, high]
        self._frozen, self._link, self._prior = False, "", ("cons",)
    def __setattr__(self, name, value):
        if name in ("values", "link", "prior", "frozen"):
            getattr(self, "_set_" + name)(value)
        else:
            _Strict.__setattr__(self, name, value)
    name = property(lambda self: self._name)
    index = property(lambda self: self._index)
    sigma = property(lambda self: -1.0)
    error = property(lambda self: (0.0, 0.0, "FFFFFFFFF"))
    frozen = property(lambda self: self._frozen)
    link = property(lambda self: self._link)
    prior = property(lambda self: self._prior)
    values = property(lambda self: list(self._values))
    def _set_frozen(self, value):
        assert type(value) is bool
        self._frozen = value
    def _set_link(self, text):
        assert isinstance(text, str)
        self._link = text
    def _set_prior(self, given):
        given = (given,) if isinstance(given, str) else given
        assert isinstance(given, tuple) and given[0] in ("cons", "exp", "jeffreys", "gauss"), given
        assert all(type(x) is float for x in given[1:])
        assert len(given) == {"cons": 1, "exp": 2, "jeffreys": 1, "gauss": 3}[given[0]]
        self._prior = given
    def _set_values(self, new):
        if self._link:
            raise Exception("Error: Cannot set a linked parameter.")
        if isinstance(new, str):
            new = [float(x) if x.strip() else old for x, old in zip(new.split(","), self._values)]
        elif isinstance(new, (list, tuple)):
            assert all(type(x) in (float, int) for x in new), new
            new = [float(x) for x in new]
        else:
            assert type(new) in (float, int), type(new)
            new = [float(new)]
        new = new + self._values[len(new):]
        value, delta, minimum, bottom, top, maximum = new
        if not minimum <= bottom <= top <= maximum or not minimum <= value <= maximum:
            raise Exception("Error: Parameter value is outside its limits: %s %r" % (self._name, new))
        self._values = new

class _RModel(_Strict):
    _settable = ("slope", "offset")
    parameterNames = ["slope", "offset"]
    def __init__(self):
        self._on, self._own = False, {}
    isOn = property(lambda self: self._on)
    def _turn_on(self):
        if not self._on:
            self._on = True
            self._own["slope"] = Parameter("slope", 1, 1.0, 0.0, 1e22)
            self._own["offset"] = Parameter("offset", 2, 0.0, -1e22, 1e22)
    def __setattr__(self, name, value):
        if name in ("slope", "offset"):
            self._turn_on()
            self._own[name].values = value
        else:
            _Strict.__setattr__(self, name, value)
    def __getattr__(self, name):
        if name in ("slope", "offset") and self.__dict__.get("_on"):
            return self._own[name]
        raise AttributeError(name)
    def off(self):
        self._on, self._own = False, {}

class _Response(_Strict):
    _settable = ("arf",)
    def __init__(self, response):
        self._data, self._gain = response, _RModel()
    gain = property(lambda self: self._gain)

class Spectrum(_Strict):
    _settable = ("background", "response")
    def __init__(self, dataFile, backFile=None, respFile=None, arfFile=None):
        from astropy.io import fits
        from lunarray.xrf.response_files import read_response
        def read(name):
            with fits.open(name, memmap=False) as hdus:
                return np.array(hdus[1].data["COUNTS"], float), hdus[1].header["EXPOSURE"]
        (n, t), (b, tb) = read(dataFile), read(backFile) if backFile else (0.0, 1.0)
        self._rate, self._variance = n / t - b / tb, n / t**2 + b / tb**2
        self._response = _Response(read_response(respFile, arfFile))
        self._noticed = np.ones(n.size, bool)
        _state["spectrum"] = self
    response = property(lambda self: self._response)
    def ignore(self, text):
        for part in text.split(","):
            low, high = (int(x) for x in part.split("-"))
            self._noticed[low - 1 : high] = False

class _Component(_Strict):
    def __init__(self, parameters):
        object.__setattr__(self, "parameterNames", [p.name for p in parameters])
        for p in parameters:
            object.__setattr__(self, p.name, p)

class Model(_Strict):
    def __init__(self, expression):
        self._names, self._parameters, self._parts, index = [], [], [], 1
        for text in expression.split("+"):
            if text.startswith("atable{"):
                from lunarray.xrf.table_models import read_table_model
                table = read_table_model(text[7:-1])
                name, own = "scatter", [Parameter("none", index, 0.0, 0.0, 1.0)]
                self._parts.append(("table", table))
            else:
                function, info = AllModels._functions[text]
                name, own = text, []
                for k, line in enumerate(info):
                    word = line.split()
                    own.append(Parameter(word[0], index + k, float(word[2]), float(word[3]), float(word[6])))
                self._parts.append(("python", function))
            own.append(Parameter("norm", index + len(own), 1.0, 0.0, 1e20))
            index += len(own)
            self._names.append(name)
            self._parameters.append(own)
            object.__setattr__(self, name, _Component(own))
        _state["model"] = self

    componentNames = property(lambda self: list(self._names))

    def _free(self, spectrum):
        own = self._all()
        if spectrum.response.gain.isOn:
            own = own + [spectrum.response.gain.slope, spectrum.response.gain.offset]
        return [p for p in own if not p.frozen and not p.link]

    def _all(self):
        return [p for own in self._parameters for p in own]

    def _resolve(self):
        values = {"p%d" % p.index: p.values[0] for p in self._all()}
        for p in self._all():
            if p.link:
                p._values[0] = float(eval(p.link, {}, values))

    def _folded(self, spectrum):
        self._resolve()
        r = spectrum.response._data
        gain = spectrum.response.gain
        if gain.isOn:  # E' = E / slope - offset moves the matrix' energies
            r = r.with_gain(gain.slope.values[0], gain.offset.values[0])
        total = np.zeros(r.energies)
        for (kind, thing), own in zip(self._parts, self._parameters):
            norm = own[-1].values[0]
            if kind == "table":
                from lunarray.xrf.response import rebin
                lo, hi = thing["energy_lo"].values, thing["energy_hi"].values
                total += norm * rebin(thing["flux"].values[0], lo, hi, r.energy_lo, r.energy_hi)
            else:
                flux = [0.0] * r.energies
                thing(tuple(np.append(r.energy_lo, r.energy_hi[-1])), tuple(p.values[0] for p in own[:-1]), flux)
                total += norm * np.array(flux)
        return r.fold(total)[spectrum._noticed]

    def folded(self, number):
        return tuple(self._folded(_state["spectrum"]))

    def _fit(self, spectrum):
        free = self._free(spectrum)
        ok = spectrum._variance[spectrum._noticed] > 0
        def residuals(x):
            for p, value in zip(free, x):
                p.values = float(value)
            out = (spectrum._rate[spectrum._noticed] - self._folded(spectrum))[ok]
            out = list(out / np.sqrt(spectrum._variance[spectrum._noticed][ok]))
            if Fit.bayes == "on":
                for p in free:
                    if p.prior[0] == "gauss":
                        _, mean, sigma = p.prior
                        out.append((p.values[0] - mean) / sigma)
            return np.array(out)
        low, high = np.array([[p.values[2], p.values[5]] for p in free]).T
        x0 = np.clip([p.values[0] for p in free], low + 1e-9, high - 1e-9)
        scale = np.array([p.values[0] or 1.0 for p in free])
        found = least_squares(residuals, x0, bounds=(low, high), x_scale=np.abs(scale) + 0.01, xtol=1e-10, ftol=1e-10,
                              max_nfev=Fit.nIterations)
        residuals(found.x)
        Fit._statistic = 2 * found.cost
        curvature = found.jac.T @ found.jac
        if np.linalg.matrix_rank(curvature) < len(free):
            Fit._covariance = ()
            return
        covariance = np.linalg.inv(curvature)
        Fit._covariance = tuple(covariance[np.tril_indices(len(free))])
"""


@pytest.fixture
def xspec_here(tmp_path, monkeypatch):
    """PyXspec, or what stands for it."""
    if importlib.util.find_spec("xspec") is None:
        (tmp_path / "xspec.py").write_text(STAND_IN)
        monkeypatch.syspath_prepend(str(tmp_path))
    yield
    engine.close()
    sys.modules.pop("xspec", None)


def observed(slope=1.0, offset=0.0):
    """A model, and what is counted of it with another gain."""
    channels = slice(18, 150)
    model = SpectralModel(small_response(), solar_spectrum(), Geometry(40.0), channels=channels)
    xrf, scatter = model.counts(WEIGHTS, 0.7, 0.8, slope, offset)
    rng = np.random.default_rng(2)
    rate = xrf + scatter
    exposure = 3e5 / rate.sum()
    counts, back = np.zeros((2, 160))
    counts[channels] = rng.poisson((rate + 0.05 * rate.mean()) * exposure)
    back[channels] = rng.poisson(np.full(rate.size, 0.05 * rate.mean() * exposure * 9))
    return model, Observation(counts, exposure, back, 9 * exposure)


def settings(**changes):
    start = dict(zip(ELEMENTS, WEIGHTS, strict=True))
    return FitSettings(start=start, scatter_slopes=False, **({"scatter_iterations": 2} | changes))


def test_engine_gives_what_ours_gives(xspec_here):
    model, data = observed()
    theirs, ours = (
        engine.fit_spectrum(data, model, settings()),
        fit_spectrum(data, model, settings()),
    )
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


def test_gain_is_fitted_within_its_bounds(xspec_here):
    model, data = observed(slope=1.012, offset=0.004)
    own = settings(fit_gain=True, tie_norms=False, norm_sigma=0.0)
    theirs, ours = engine.fit_spectrum(data, model, own), fit_spectrum(data, model, own)
    assert theirs.status == "fitted"
    assert theirs.slope == pytest.approx(ours.slope, abs=5e-4)
    assert theirs.slope == pytest.approx(1.012, abs=2e-3)
    assert theirs.offset == pytest.approx(ours.offset, abs=2e-3)
    near = settings(fit_gain=True, slope_bounds=(0.995, 1.003), offset_bounds=(-0.001, 0.001))
    bound = engine.fit_spectrum(data, model, near)
    assert 1.0029 < bound.slope <= 1.003
    assert -0.001 <= bound.offset <= 0.001


def test_a_fit_that_is_not_at_its_end_is_told(xspec_here):
    model, data = observed()
    far = FitSettings(
        start=dict(zip(ELEMENTS, (25.0, 1.0, 3.0, 10.0, 3.0, 12.0, 0.5, 45.0), strict=True)),
        scatter_slopes=False, scatter_iterations=1, prior_sigma={}, norm_sigma=0.0, max_iterations=2,
    )  # fmt: skip
    assert engine.fit_spectrum(data, model, far).status == "not_converged"


@pytest.fixture(scope="module")
def xspec_models():
    """Models of XSPEC itself, as xspectrampoline hands them out: those that need no data files."""
    trampoline = pytest.importorskip("xspectrampoline")
    return trampoline.get_libraries()


def by_xspec(library, name, edges, parameters):
    """Photons/s/cm² in each bin."""
    flux, error = np.zeros((2, edges.size - 1))
    energies, own = np.ascontiguousarray(edges, "f8"), np.array(parameters, "f8")
    library.get_model(name)(energies, own, flux, error)
    return flux


def test_lines_are_those_of_xspec(xspec_models):
    conventions = Conventions(line_shape="gaussian", line_sigma=0.06)
    photons = PhotonModel(solar_spectrum(), Geometry(40.0), conventions=conventions)
    edges = np.linspace(0.1, 8.0, 791)
    ours = photons.line_spectrum(np.array(WEIGHTS), edges[:-1], edges[1:])
    flux = photons.line_intensities(np.array(WEIGHTS)) * photons.scale
    theirs = sum(
        f * by_xspec(xspec_models, "C_gaussian", edges, (energy, 0.06))
        for energy, f in zip(photons.fluorescence.line_energy, flux, strict=True)
        if energy < 9.0
    )
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-5 * theirs.max())


def test_continuum_of_the_sun_is_that_of_xspec(xspec_models):
    from lunarray.xrf.plasma import plasma_table

    table = plasma_table(engine="chianti")
    middle = (table.edges[1:] + table.edges[:-1]) / 2
    band = (middle > 1.5) & (middle < 8.0)
    for kt in (0.6, 1.0, 1.8):
        theirs = by_xspec(xspec_models, "C_bremss", table.edges, (kt,))
        ratio = table.at(kt)[0][band] / theirs[band]
        # XSPEC's norms: 3.02e-15 EM of electrons and ions for bremss, 1e-14 EM of electrons and protons for plasmas.
        assert np.ptp(ratio) / ratio.mean() < 0.25, (kt, ratio.min(), ratio.max())


def test_unfittable_spectra_do_not_reach_xspec(monkeypatch):
    monkeypatch.setattr(engine, "pyxspec_available", lambda: True)
    model = SpectralModel(small_response(), solar_spectrum(), Geometry(100.0))
    assert engine.fit_spectrum(Observation(np.ones(160), 8.0), model).status == "night"
    model = SpectralModel(small_response(), solar_spectrum(), Geometry(10.0))
    assert engine.fit_spectrum(Observation(np.zeros(160), 8.0), model).status == "no_counts"
