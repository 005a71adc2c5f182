"""The Sun's X-ray spectrum for each window: ready models, or a fit to XSM."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import InputError, MissingDependencyError
from lunarray.store.products import find_files
from lunarray.store.provenance import stamp
from lunarray.xrf.xsm import read_solar_model, solar_dataset

if TYPE_CHECKING:
    from lunarray.xrf.response import Response

__all__ = ["PlasmaTable", "fit_solar", "match_solar", "open_solar_models", "plasma_table"]

#: Elements of XSPEC's vapec whose abundance is a parameter. Hydrogen, helium and what is not listed go along with the
#: continuum.
PLASMA_ELEMENTS = ("C", "N", "O", "Ne", "Mg", "Al", "Si", "S", "Ar", "Ca", "Fe", "Ni")
_NUMBERS = {
    "C": 6, "N": 7, "O": 8, "Ne": 10, "Mg": 12, "Al": 13, "Si": 14, "S": 16, "Ar": 18, "Ca": 20, "Fe": 26, "Ni": 28,
}  # fmt: skip

#: Energies over which XSM is fitted (section III-B of the paper), keV.
FIT_BAND = (1.2, 7.2)

_STAMP = re.compile(r"(\d{8})(?:T(\d{6})(\d{3})?)?")


# ---------- ready
# model files
def open_solar_models(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    per: Literal["keV", "bin"] = "keV",
) -> xr.Dataset:
    """Read solar models of many days or intervals.

    Parameters
    ----------
    paths : path, folder, glob pattern, or iterable of these
        Three-column texts (:func:`lunarray.xrf.read_solar_model`). The time they are for comes from their names: a
        day (``20211028``), or an interval (``20210827T210316000_20210827T210332000``).
    per : {"keV", "bin"}
        As in :func:`lunarray.xrf.read_solar_model`.

    Returns
    -------
    Dataset
        ``photon_flux`` (model, energy), photons/s/cm²/keV, with ``start``, ``end`` (UTC) and ``file`` (model,), in
        order of start.

    Raises
    ------
    InputError
        If a name tells no time, or the models are on different energies.
    ProductFormatError
        If a file is no such text.
    """
    files = find_files(paths, (".txt", ".dat"), "solar model files")
    models = [read_solar_model(path, per=per) for path in files]
    spans = [_span_of_name(path) for path in files]
    for path, model in zip(files, models, strict=True):
        if not model["energy_lo"].equals(models[0]["energy_lo"]):
            raise InputError(
                f"its energies are not those of {files[0].name}",
                where=path,
                remedy="Open such models apart",
            )
    order = sorted(range(len(files)), key=lambda i: spans[i])
    flux = np.stack([models[i]["photon_flux"].values for i in order])
    ds = (
        models[0]
        .drop_attrs(deep=False)
        .assign(photon_flux=(("model", "energy"), flux, models[0]["photon_flux"].attrs))
    )
    ds = ds.assign_coords(
        start=("model", np.array([spans[i][0] for i in order], "M8[ns]")),
        end=("model", np.array([spans[i][1] for i in order], "M8[ns]")),
        file=("model", np.array([files[i].name for i in order], object)),
        goes_flux=(
            "model",
            np.array([models[i].attrs["goes_flux"] for i in order]),
            {"units": "W m-2", "long_name": "flux of the model, 1-8 Angstrom"},
        ),
    )
    return stamp(ds, f"open_solar_models, {len(files)} files, per {per}", source="solar models")


def _span_of_name(path: Path) -> tuple[np.datetime64, np.datetime64]:
    moments = []
    for match in _STAMP.finditer(path.stem):
        day, clock, milli = match.groups()
        text = f"{day[:4]}-{day[4:6]}-{day[6:]}"
        if clock:
            text += f"T{clock[:2]}:{clock[2:4]}:{clock[4:]}.{milli or '000'}"
        try:
            moments.append((np.datetime64(text, "ns"), clock is not None))
        except ValueError:
            continue
    if not moments:
        raise InputError(
            "its name tells no time",
            where=path,
            remedy="Name it after its day (..._20211028_...) or interval, or read it alone with read_solar_model",
        )
    start = moments[0][0]
    if len(moments) > 1 and moments[1][1]:
        return start, moments[1][0]
    return start, start + np.timedelta64(1, "D").astype("m8[ns]")


def match_solar(ds: xr.Dataset, models: xr.Dataset, *, max_distance: float = 0.0) -> xr.DataArray:
    """Which solar model is for which spectrum.

    Parameters
    ----------
    ds : Dataset
        CLASS spectra or windows.
    models : Dataset
        Of :func:`open_solar_models`.
    max_distance : float
        Seconds by which a spectrum may lie outside of every model's time and still get the nearest one.

    Returns
    -------
    DataArray
        (time,), int32: index along ``model``; -1 where there is none. Of several the shortest counts: a model of the
        window itself rather than of the day.
    """
    start, end = models["start"].values, models["end"].values
    length = end - start
    time = ds["time"].values.astype("M8[ns]")
    best = np.full(time.size, -1, "i4")
    for k in np.argsort(-length, kind="stable"):  # the shortest comes last and stays
        best[(time >= start[k]) & (time < end[k])] = k
    if max_distance > 0:
        far = np.timedelta64(round(max_distance * 1e9), "ns")
        for i in np.flatnonzero(best < 0):
            apart = np.maximum(np.maximum(start - time[i], time[i] - end), np.timedelta64(0, "ns"))
            k = int(np.argmin(apart))
            if apart[k] <= far:
                best[i] = k
    return xr.DataArray(
        best, {"time": ds["time"]}, "time", "solar_model", {"long_name": "index of the solar model"}
    )


# ---------- plasma
@dataclass(frozen=True, eq=False)
class PlasmaTable:
    """Spectra of a thin plasma, by temperature and element, at XSPEC's norm of 1 and the reference abundances.

    Parameters
    ----------
    temperature : ndarray, (temperature,)
        keV, increasing.
    elements : tuple of str
        Names along the second axis of `spectra`; the first, "continuum", holds H, He and what is not listed.
    edges : ndarray, (energy + 1,)
        keV.
    spectra : ndarray, (temperature, element, energy)
        photons/s/cm² in each bin.
    abundances : str
        The reference abundances.
    source : str
        What computed it.
    """

    temperature: np.ndarray
    elements: tuple[str, ...]
    edges: np.ndarray
    spectra: np.ndarray
    abundances: str
    source: str

    def __post_init__(self) -> None:
        shape = (self.temperature.size, len(self.elements), self.edges.size - 1)
        if self.spectra.shape != shape or np.any(np.diff(self.temperature) <= 0):
            raise InputError(
                f"a plasma table of shape {self.spectra.shape}, not {shape}, or temperatures that do not increase",
                remedy="Make it with plasma_table",
            )

    def at(self, temperature: float) -> np.ndarray:
        """Spectra (element, energy) at a temperature (keV), interpolated in its logarithm, which must lie in the table.

        Parameters
        ----------
        temperature : float
        """
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
    engine: Literal["auto", "atomdb", "pyxspec"] = "auto",
) -> PlasmaTable:
    """Tabulate a plasma at Feldman's coronal abundances, by AtomDB's or XSPEC's APEC.

    Parameters
    ----------
    edges : array_like, (energy + 1,), optional
        keV; by default 3000 bins of 10 eV from 0.1 keV, those of CLASS' solar models.
    temperature : array_like, optional
        keV; by default 28 from 0.2 to 4.5.
    engine : {"auto", "atomdb", "pyxspec"}
        - ``"atomdb"``: pyatomdb (``pip install lunarray[solar]``) with AtomDB files on this machine, in the folder
          that the environment variable ATOMDB names. Those files are fetched once by pyatomdb itself
          (``pyatomdb.util.initialize()``); lunarray downloads nothing.
        - ``"pyxspec"``: the PyXspec of a HEASoft installation, in a process of its own.
        - ``"auto"``: the first that works.

    Returns
    -------
    PlasmaTable

    Raises
    ------
    MissingDependencyError
        If the engine, or each of them, or its data are missing; it says which, and what would be right.
    """
    edges = 0.1 + 0.01 * np.arange(3001) if edges is None else np.asarray(edges, "f8")
    grid = np.geomspace(0.2, 4.5, 28) if temperature is None else np.asarray(temperature, "f8")
    if engine not in ("auto", "atomdb", "pyxspec"):
        raise InputError(
            f"engine={engine!r}", where="plasma_table", remedy="Give 'auto', 'atomdb' or 'pyxspec'"
        )
    problems = []
    for name, missing, compute in (
        ("atomdb", _atomdb_missing, _from_atomdb),
        ("pyxspec", _pyxspec_missing, _from_pyxspec),
    ):
        if engine not in ("auto", name):
            continue
        problem = missing()
        if problem is None:
            return compute(edges, grid)
        problems.append(problem)
    raise MissingDependencyError(
        "; ".join(problems),
        where="fit_solar",
        remedy="Or take a ready solar model, which needs neither (lunarray.xrf.read_solar_model)",
    )


def _atomdb_missing() -> str | None:
    if importlib.util.find_spec("pyatomdb") is None:
        return "pyatomdb is not installed (pip install lunarray[solar])"
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
    if importlib.util.find_spec("xspec") is None:
        return (
            "PyXspec is not here: it comes with HEASoft (built from source with Python), "
            "whose setup script must have been sourced"
        )
    return None


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


# ---------- fit
def fit_solar(
    spectrum: xr.Dataset,
    response: Response,
    *,
    background: xr.Dataset | None = None,
    plasma: PlasmaTable | None = None,
    engine: Literal["auto", "atomdb", "pyxspec"] = "auto",
    band: tuple[float, float] = FIT_BAND,
    free: Sequence[str] = (),
    start_temperature: float = 0.8,
    systematic: float = 0.0,
) -> xr.Dataset:
    """Fit a plasma of one temperature and a power law to a spectrum of XSM (section III-B of the paper).

    Parameters
    ----------
    spectrum : Dataset
        Of :func:`lunarray.xrf.xsm.read_xsm_spectrum`.
    response : Response
        RMF and ARF of XSM.
    background : Dataset, optional
        Another such spectrum, subtracted scaled by exposure.
    plasma : PlasmaTable, optional
        By default :func:`plasma_table` makes it with `engine`; pass it where many spectra are fitted.
    engine : {"auto", "atomdb", "pyxspec"}
        Of :func:`plasma_table`.
    band : tuple of float
        Energies to fit (keV).
    free : sequence of str
        Elements whose abundance is fitted too; the others stay at Feldman's.
    start_temperature : float
        keV.
    systematic : float
        Fraction of the counts that is added to their errors in quadrature, beside the spectrum's own.

    Returns
    -------
    Dataset
        Like that of :func:`lunarray.xrf.read_solar_model`, ``photon_flux`` (energy,) in photons/s/cm²/keV on the
        plasma's energies, with ``parameter_value`` and ``parameter_std`` (parameter,), ``chi2``, ``dof``, and
        ``fitted`` (channel,), the counts of the model.

    Raises
    ------
    InputError
        If spectrum and response do not fit together, or the band holds too few counts.
    MissingDependencyError
        If there is neither AtomDB nor PyXspec.

    References
    ----------
    Feldman, U., et al., 1992. ApJS 81, 387. Foster, A. R., et al., 2012. ApJ 756, 128.
    """
    from scipy.optimize import least_squares

    if spectrum["counts"].size != response.channels:
        raise InputError(
            f"a spectrum of {spectrum['counts'].size} channels, where the response has {response.channels}",
            where="fit_solar",
            remedy="Pass the RMF that goes with the spectrum",
        )
    plasma = plasma_table(engine=engine) if plasma is None else plasma
    unknown = [name for name in free if name not in plasma.elements[1:]]
    if unknown:
        raise InputError(
            f"no abundance of {', '.join(unknown)} in the plasma",
            where="fit_solar",
            remedy="Leave them out",
        )
    exposure = float(spectrum["exposure"])
    counts = spectrum["counts"].values.astype("f8")
    variance = np.maximum(spectrum["stat_error"].values.astype("f8") ** 2, 1.0)
    variance = variance + (counts**2) * (
        spectrum["sys_error"].values.astype("f8") ** 2 + systematic**2
    )
    if background is not None:
        scale = exposure / float(background["exposure"])
        counts = counts - scale * background["counts"].values
        variance = variance + scale**2 * np.maximum(
            background["stat_error"].values.astype("f8") ** 2, 0.0
        )
    energy = response.channel_energy()
    inside = (energy >= band[0]) & (energy < band[1])
    if inside.sum() < 10 or counts[inside].sum() < 100:
        raise InputError(
            f"{inside.sum()} channels and {counts[inside].sum():.0f} counts in {band[0]}-{band[1]} keV",
            where="fit_solar",
            remedy="Take a longer interval, or one with a flare",
        )
    matrix = _fold_matrix(response, plasma.edges)[:, inside] * exposure
    middle = (plasma.edges[:-1] + plasma.edges[1:]) / 2
    width = np.diff(plasma.edges)
    index = [plasma.elements.index(name) for name in free]
    sigma = np.sqrt(variance[inside])

    def flux(p: np.ndarray) -> np.ndarray:
        abundance = np.ones(len(plasma.elements))
        abundance[index] = p[4:]
        thermal = np.exp(p[1]) * (abundance @ plasma.at(float(np.exp(p[0]))))
        return thermal + np.exp(p[3]) * middle ** -p[2] * width

    def residuals(p: np.ndarray) -> np.ndarray:
        return (counts[inside] - flux(p) @ matrix) / sigma

    bounds_t = np.log(plasma.temperature[[0, -1]])
    fits = []
    # The temperature's chi-square has more than one valley: start from a few.
    for factor in (1.0, 0.5, 2.0):
        log_t = float(
            np.clip(np.log(start_temperature * factor), bounds_t[0] + 1e-3, bounds_t[1] - 1e-3)
        )
        unit = (np.ones(len(plasma.elements)) @ plasma.at(float(np.exp(log_t)))) @ matrix
        power = (middle**-4.0 * width) @ matrix
        total = max(counts[inside].sum(), 1.0)
        p0 = np.array(
            [
                log_t,
                np.log(0.9 * total / max(unit.sum(), 1e-300)),
                4.0,
                np.log(0.1 * total / power.sum()),
                *np.ones(len(free)),
            ]
        )
        low = np.array([bounds_t[0], p0[1] - 30, 0.0, p0[3] - 30, *np.zeros(len(free))])
        high = np.array([bounds_t[1], p0[1] + 30, 12.0, p0[3] + 15, *np.full(len(free), 20.0)])
        fit = least_squares(
            residuals, p0, bounds=(low, high), x_scale=np.maximum(np.abs(p0), 0.1), max_nfev=200
        )
        fits.append(fit)
    best = min(fits, key=lambda fit: fit.cost)
    covariance = np.linalg.pinv(best.jac.T @ best.jac)
    std = np.sqrt(np.diag(covariance))
    values = best.x.copy()
    # Back from logarithms, errors to first order.
    for k in (0, 1, 3):
        values[k] = np.exp(best.x[k])
        std[k] *= values[k]
    names = ["temperature", "norm", "power_law_index", "power_law_norm", *free]
    ds = solar_dataset(plasma.edges, flux(best.x) / width)
    fitted = np.full(response.channels, np.nan)
    fitted[inside] = flux(best.x) @ matrix
    ds = ds.assign(
        parameter_value=("parameter", values),
        parameter_std=("parameter", std),
        chi2=((), 2 * best.cost),
        dof=((), int(inside.sum()) - best.x.size),
        fitted=("channel", fitted, {"units": "1", "long_name": "counts of the model"}),
    ).assign_coords(parameter=names)
    for key in ("start", "end"):
        if key in spectrum.variables:
            ds = ds.assign_coords({key: spectrum[key]})
    return stamp(
        ds,
        f"fit_solar({band[0]:g}-{band[1]:g} keV)",
        source=spectrum.attrs.get("source"),
        plasma=plasma.source,
        plasma_abundances=plasma.abundances,
    )


def _fold_matrix(response: Response, edges: np.ndarray) -> np.ndarray:
    """Counts/s in each channel for photons/s/cm² in each bin between `edges`, (bin, channel)."""
    from lunarray.xrf.response import rebin

    low, high = response.energy_lo, response.energy_hi
    shares = [rebin(row, edges[:-1], edges[1:], low, high) for row in np.eye(edges.size - 1)]
    return response.fold(np.stack(shares))
