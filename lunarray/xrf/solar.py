"""The Sun's X-ray spectrum for each window: ready models, or a fit to XSM."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import InputError, require_choice, require_number
from lunarray.readers import find_files, reads
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.xrf.emission import fit_emission, principal_modes
from lunarray.xrf.plasma import PlasmaTable, plasma_table
from lunarray.xrf.suns import attach_modes
from lunarray.xrf.xsm import read_solar_model, solar_dataset

if TYPE_CHECKING:
    from lunarray.xrf.response import Response

__all__ = ["fit_solar", "match_solar", "open_solar_models"]

#: Energies over which XSM is fitted (section III-B of the paper), keV.
FIT_BAND = (1.2, 7.2)

#: How XSM's area may tilt: share for each factor of e in energy.
CALIBRATION = 0.05

_STAMP = re.compile(r"(\d{8})(?:T(\d{6})(\d{3})?)?")


# ---------- ready
# model files
@typed
@reads
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

    Examples
    --------
    >>> import lunarray as la
    >>> solar = la.xrf.open_solar_models("xsm/model", per="bin")  # doctest: +SKIP
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


# ---------- fit
@typed
def fit_solar(
    spectrum: xr.Dataset,
    response: Response,
    *,
    background: xr.Dataset | None = None,
    plasma: PlasmaTable | None = None,
    engine: Literal["auto", "chianti", "atomdb", "pyxspec"] = "auto",
    model: Literal["many", "one"] = "many",
    band: tuple[float, float] = FIT_BAND,
    free: Sequence[str] | None = None,
    start_temperature: float = 0.8,
    systematic: float = 0.03,
) -> xr.Dataset:
    """Fit the Sun's plasma to a spectrum of XSM.

    Parameters
    ----------
    spectrum : Dataset
        Of :func:`lunarray.xrf.xsm.read_xsm_spectrum`, one spectrum.
    response : Response
        RMF and ARF of XSM, or :func:`lunarray.xrf.xsm_response.xsm_response`.
    background : Dataset, optional
        Another such spectrum, subtracted scaled by exposure.
    plasma : PlasmaTable, optional
        By default :func:`plasma_table` makes it with `engine`; pass it where many spectra are fitted.
    engine : {"auto", "chianti", "atomdb", "pyxspec"}
        Of :func:`plasma_table`.
    model : {"many", "one"}
        "many": emission measures, none negative, at 12 temperatures of 0.15-3 keV. "one": one temperature and a power
        law (section III-B of the paper).
    band : tuple of float
        Energies to fit (keV).
    free : sequence of str, optional
        Elements whose abundance is fitted too. By default Mg, Si, S, Ar, Ca and Fe with many temperatures, each within
        a spread of 50 % of what is usual in flares, and none with one, where the others stay at Feldman's.
    start_temperature : float
        keV; of the fit of one temperature.
    systematic : float
        Fraction of the counts that is added to their errors in quadrature, beside the spectrum's own: what response
        and plasma are good for.

    Returns
    -------
    Dataset
        Like that of :func:`lunarray.xrf.read_solar_model`, ``photon_flux`` (energy,) in photons/s/cm²/keV on the
        plasma's energies, with ``flux_mode`` (mode, energy), its change for one standard deviation of each of up to
        three independent combinations of what was fitted, and "calibration", a tilt of XSM's area; ``parameter_value``
        and ``parameter_std`` (parameter,), ``chi2``, ``dof``, and ``fitted`` (channel,), the counts of the model. With
        many temperatures also ``emission_measure`` (temperature,), in XSPEC's norm; their mean temperature (weighted by
        what each gives in the band) and sum are among the parameters.

    Raises
    ------
    InputError
        If spectrum and response do not fit together, or the band holds too few counts.
    MissingDependencyError
        If AtomDB or PyXspec are asked for and not there.

    References
    ----------
    Feldman, U., et al., 1992. ApJS 81, 387. Foster, A. R., et al., 2012. ApJ 756, 128. Dere, K. P., et al., 2023. ApJS
    268, 52.

    Examples
    --------
    >>> import lunarray as la
    >>> xsm = la.open("ch2_xsm_20210827_l1.pha")  # doctest: +SKIP
    >>> solar = la.xrf.fit_solar(xsm, response)  # doctest: +SKIP
    """
    require_choice("model", model, ("many", "one"))
    require_number("systematic", systematic, 0)
    if not 0 <= band[0] < band[1]:
        raise InputError(f"{band}", where="band", remedy="Give the lower energy first, in keV")
    _require_spectrum(spectrum, response)
    plasma = plasma_table(engine=engine) if plasma is None else plasma
    if free is None:
        free = [name for name in _FREE if name in plasma.elements] if model == "many" else ()
    if unknown := [name for name in free if name not in plasma.elements[1:]]:
        what = f"no abundance of {', '.join(unknown)} in the plasma"
        raise InputError(what, where="fit_solar", remedy="Leave them out")
    counts, variance = net_counts(spectrum, background, systematic)
    energy = response.channel_energy()
    inside = (energy >= band[0]) & (energy < band[1]) & np.isfinite(counts)
    if inside.sum() < 10 or counts[inside].sum() < 100:
        raise InputError(
            f"{inside.sum()} channels and {counts[inside].sum():.0f} counts in {band[0]}-{band[1]} keV",
            where="fit_solar",
            remedy="Take a longer interval, or one with a flare",
        )
    matrix = fold_matrix(response, plasma.edges)[:, inside] * float(spectrum["exposure"])
    observed = counts[inside], variance[inside], matrix, plasma, tuple(free)
    if model == "many":
        ds, fitted = _many_temperatures(*observed, systematic)
    else:
        ds, fitted = _one_temperature(*observed, start_temperature)
    whole = np.full(response.channels, np.nan)
    whole[inside] = fitted
    ds = ds.assign(fitted=("channel", whole, {"units": "1", "long_name": "counts of the model"}))
    ds = ds.assign_coords({k: spectrum[k] for k in ("start", "end") if k in spectrum.variables})
    return stamp(
        ds,
        f"fit_solar({model}, {band[0]:g}-{band[1]:g} keV)",
        source=spectrum.attrs.get("source"),
        plasma=plasma.source,
        plasma_abundances=plasma.abundances,
    )


def _require_spectrum(spectrum: xr.Dataset, response: Response) -> None:
    """Raise where this is not one spectrum, with the channels of the response."""
    if spectrum["counts"].dims != ("channel",):
        raise InputError(
            f"spectra of dimensions {spectrum['counts'].dims}",
            where="fit_solar",
            remedy="Give one with isel(time=...), or window_suns all of them",
        )
    if spectrum["counts"].size != response.channels:
        raise InputError(
            f"a spectrum of {spectrum['counts'].size} channels, where the response has {response.channels}",
            where="fit_solar",
            remedy="Give the RMF that goes with the spectrum",
        )


#: Elements whose lines XSM sees.
_FREE = ("Mg", "Si", "S", "Ar", "Ca", "Fe")


def _solar_result(
    edges: np.ndarray, flux: np.ndarray, modes: np.ndarray, parameters: dict[str, tuple[float, float]],
    chi2: float, dof: int,
) -> xr.Dataset:  # fmt: skip
    """A fit as a Dataset; `flux` and `modes` in photons/s/cm² in each bin."""
    width, middle = np.diff(edges), (edges[:-1] + edges[1:]) / 2
    tilt = np.clip(CALIBRATION * np.log(middle / 2.5), -3 * CALIBRATION, 3 * CALIBRATION) * flux
    ds = solar_dataset(edges, flux / width)
    names = [*(f"fit_{k + 1}" for k in range(len(modes))), "calibration"]
    ds = attach_modes(ds, names, np.concatenate([modes, tilt[None]]) / width)
    values = np.array(list(parameters.values())).reshape(-1, 2)
    return ds.assign(
        parameter_value=("parameter", values[:, 0]),
        parameter_std=("parameter", values[:, 1]),
        chi2=((), chi2),
        dof=((), dof),
    ).assign_coords(parameter=np.array(list(parameters), object))


def _many_temperatures(
    counts: np.ndarray, variance: np.ndarray, matrix: np.ndarray, plasma: PlasmaTable, free: tuple[str, ...],
    systematic: float,
) -> tuple[xr.Dataset, np.ndarray]:  # fmt: skip
    found = fit_emission(counts, np.sqrt(variance), matrix, plasma, free)
    # Few counts tell their own variance badly: that of the model replaces it.
    for _ in range(2):
        better = np.maximum(variance, 1.0) - np.maximum(counts, 1.0) + np.maximum(found.counts, 0.5)
        better += systematic**2 * (found.counts**2 - np.maximum(counts, 0.0) ** 2)
        found = fit_emission(counts, np.sqrt(np.maximum(better, 0.5)), matrix, plasma, free)
    used = found.measure > 0
    share = found.measure[used] * np.array(
        [(found.abundance @ plasma.at(float(t)) @ matrix).sum() for t in found.temperature[used]]
    )
    share /= share.sum()
    kt = float(share @ found.temperature[used])
    own = np.sqrt(np.diag(found.covariance))
    n = int(used.sum())
    # Of a weighted mean, to first order: its change by the logarithm of each measure.
    slope = share * (found.temperature[used] - kt)
    total = found.measure[used] / found.measure.sum()
    spread = found.covariance[:n, :n]
    parameters = {
        "temperature": (kt, float(np.sqrt(slope @ spread @ slope))),
        "norm": (float(found.measure.sum()), float(found.measure.sum() * np.sqrt(total @ spread @ total))),
    } | {
        name: (float(found.abundance[place]), float(found.abundance[place] * own[n + k]))
        for k, (name, place) in enumerate(zip(free, found.free, strict=True))
    }  # fmt: skip
    dof = counts.size - n - len(free)
    ds = _solar_result(plasma.edges, found.flux, found.modes, parameters, found.chi2, dof)
    measure = {"units": "1", "long_name": "emission measure, as XSPEC's norm"}
    return ds.assign(emission_measure=("temperature", found.measure, measure)).assign_coords(
        temperature=("temperature", found.temperature, {"units": "keV", "long_name": "temperature"})
    ), found.counts


def _one_temperature(
    counts: np.ndarray, variance: np.ndarray, matrix: np.ndarray, plasma: PlasmaTable, free: tuple[str, ...],
    start_temperature: float,
) -> tuple[xr.Dataset, np.ndarray]:  # fmt: skip
    flux, best = _fit_plasma(counts, np.sqrt(variance), matrix, plasma, free, start_temperature)
    covariance = np.linalg.pinv(best.jac.T @ best.jac)
    std = np.sqrt(np.diag(covariance))
    # Back from logarithms, errors to first order.
    values = np.array([np.exp(x) if k in (0, 1, 3) else x for k, x in enumerate(best.x)])
    std[[0, 1, 3]] *= values[[0, 1, 3]]
    names = ["temperature", "norm", "power_law_index", "power_law_norm", *free]
    dof = counts.size - best.x.size
    slopes = np.empty((best.x.size, matrix.shape[0]))
    for k, x in enumerate(best.x):
        step = 1e-4 * max(abs(x), 1.0)
        moved = best.x.copy()
        moved[k] += step
        slopes[k] = (flux(moved) - flux(best.x)) / step
    spread = covariance * max(2 * best.cost / max(dof, 1), 1.0)
    modes = principal_modes(slopes, spread, flux(best.x), plasma.edges)
    parameters = dict(zip(names, zip(values.tolist(), std.tolist(), strict=True), strict=True))
    ds = _solar_result(plasma.edges, flux(best.x), modes, parameters, 2 * best.cost, dof)
    return ds, flux(best.x) @ matrix


def net_counts(
    spectrum: xr.Dataset, background: xr.Dataset | None, systematic: float
) -> tuple[np.ndarray, np.ndarray]:
    """Counts above the background and their variance."""
    counts = np.asarray(spectrum["counts"].values, "f8")
    variance = np.maximum(spectrum["stat_error"].values.astype("f8") ** 2, 1.0)
    variance = variance + (counts**2) * (
        spectrum["sys_error"].values.astype("f8") ** 2 + systematic**2
    )
    if background is None:
        return counts, variance
    scale = float(spectrum["exposure"]) / float(background["exposure"])
    spread = np.maximum(background["stat_error"].values.astype("f8") ** 2, 0.0)
    return counts - scale * background["counts"].values, variance + scale**2 * spread


def _fit_plasma(
    counts: np.ndarray, sigma: np.ndarray, matrix: np.ndarray, plasma: PlasmaTable, free: tuple[str, ...],
    start_temperature: float,
) -> tuple[Any, Any]:  # fmt: skip
    """Least squares in (log temperature, log norm, index and log norm of the power law, abundances of `free`).

    Returns the function that gives photons/s/cm² in each bin from these, and the best fit.
    """
    from scipy.optimize import least_squares

    width, middle = np.diff(plasma.edges), (plasma.edges[:-1] + plasma.edges[1:]) / 2
    index = [plasma.elements.index(name) for name in free]
    every = np.ones(len(plasma.elements))

    def flux(p: np.ndarray) -> np.ndarray:
        abundance = every.copy()
        abundance[index] = p[4:]
        thermal = np.exp(p[1]) * (abundance @ plasma.at(float(np.exp(p[0]))))
        return thermal + np.exp(p[3]) * middle ** -p[2] * width

    def residuals(p: np.ndarray) -> np.ndarray:
        return (counts - flux(p) @ matrix) / sigma

    coldest, hottest = np.log(plasma.temperature[[0, -1]])
    power = (middle**-4.0 * width) @ matrix
    total = max(counts.sum(), 1.0)
    one, none, most = np.ones(len(free)), np.zeros(len(free)), np.full(len(free), 20.0)
    fits = []
    # The temperature's chi-square has more than one valley: start from a few.
    for factor in (1.0, 0.5, 2.0):
        log_t = float(np.clip(np.log(start_temperature * factor), coldest + 1e-3, hottest - 1e-3))
        unit = (every @ plasma.at(float(np.exp(log_t)))) @ matrix
        norm = np.log(0.9 * total / max(unit.sum(), 1e-300))
        tail = np.log(0.1 * total / power.sum())
        start = np.array([log_t, norm, 4.0, tail, *one])
        low = np.array([coldest, norm - 30, 0.0, tail - 30, *none])
        high = np.array([hottest, norm + 30, 12.0, tail + 15, *most])
        scale = np.maximum(np.abs(start), 0.1)
        fits.append(
            least_squares(residuals, start, bounds=(low, high), x_scale=scale, max_nfev=200)
        )
    return flux, min(fits, key=lambda fit: fit.cost)


def fold_matrix(response: Response, edges: np.ndarray) -> np.ndarray:
    """Counts/s in each channel for photons/s/cm² in each bin between `edges`, (bin, channel)."""
    return _fold_matrix(_Known(response), np.asarray(edges, "f8").tobytes())


class _Known:
    """A response that a cache knows by its numbers."""

    def __init__(self, response: Response) -> None:
        self.response = response

    def __hash__(self) -> int:
        return hash(self.response.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and other.response.digest == self.response.digest


@functools.lru_cache(maxsize=4)
def _fold_matrix(known: _Known, edges_bytes: bytes) -> np.ndarray:
    from lunarray.xrf.response import rebin

    response, edges = known.response, np.frombuffer(edges_bytes)
    low, high = response.energy_lo, response.energy_hi
    shares = [rebin(row, edges[:-1], edges[1:], low, high) for row in np.eye(edges.size - 1)]
    folded = response.fold(np.stack(shares))
    folded.setflags(write=False)
    return folded
