"""Elemental abundances of CLASS spectra: the fit, window by window, on xarray objects."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import InputError, LunarrayError
from lunarray.store.provenance import stamp
from lunarray.xrf.frames import is_lazy, require_frames
from lunarray.xrf.io import CLASS_DETECTORS
from lunarray.xrf.selection import FRAME_FLAGS
from lunarray.xrf.solar import match_solar

if TYPE_CHECKING:
    from lunarray.xrf.atomic import AtomicTables
    from lunarray.xrf.response import Response
    from lunarray.xrf.settings import Conventions, FitSettings

__all__ = ["FIT_FLAGS", "fit_elements", "spectrum_components"]

Engine = Literal["numba", "pyxspec"]

#: Bits of the variable `quality`. Without one of the first nine there are abundances.
FIT_FLAGS = {
    "night": 1,
    "no_geometry": 2,
    "no_frames": 4,
    "no_counts": 8,
    "no_signal": 16,
    "bad_data": 32,
    "no_solar_model": 64,
    "too_few_channels": 128,
    "fit_failed": 256,
    "not_converged": 512,
    "at_bound": 1024,
    "not_constrained": 2048,
    "poor_fit": 4096,
}
#: Bits that mean that there is no result.
FATAL = 511

#: Energies that are fitted (keV): the paper keeps to the lines of Na to Ca, for the instrument's ends are noisy.
FIT_BAND = (0.9, 4.2)

#: A fit with a smaller chance than this is flagged as poor.
_POOR = 1e-4

#: Windows that are fitted one after the other, each from where the last ended. Fixed, so that results do not depend
#: on chunks.
_BATCH = 128

_STATUS = {
    "not_converged": "not_converged",
    "night": "night",
    "bad_geometry": "no_geometry",
    "no_counts": "no_counts",
    "bad_data": "bad_data",
    "no_solar_flux": "no_solar_model",
    "too_few_channels": "too_few_channels",
}
_COLUMNS = (
    "exposure", "n_detectors", "incidence", "emission", "phase", "altitude", "solar", "mare", "flags", "n_frames",
)  # fmt: skip
_SCALARS = (
    "quality", "statistic", "dof", "goodness", "xrf_norm", "xrf_norm_std", "scatter_norm", "scatter_norm_std",
    "gain_slope", "gain_offset", "net_counts",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FitSpec:
    """All that a block of windows needs to be fitted, beside their counts: it is in the graph once.

    Parameters
    ----------
    response : Response
    solar : tuple of ndarray
        Lower and upper edges of the solar bins (energy,), keV, and fluxes (model, energy), photons/s/cm²/keV.
    background : ndarray or None
        Counts, (channel,).
    background_exposure : float
        Seconds with all detectors.
    channels : tuple of int
        First and last + 1 of those that are fitted.
    settings, conventions, tables
        Of the fit.
    min_significance : float
        Of the counts above the background.
    engine : str
    """

    response: Response
    solar: tuple[np.ndarray, np.ndarray, np.ndarray]
    background: Any
    background_exposure: float
    channels: tuple[int, int]
    settings: FitSettings
    conventions: Conventions
    tables: AtomicTables
    min_significance: float
    engine: str
    mare: Any = None
    highland: Any = None

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.base import normalize_token

        own: list[Any] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("settings", "conventions"):
                value = sorted((f.name, repr(getattr(value, f.name))) for f in fields(value))
            elif field.name == "tables":
                value = [
                    getattr(value, f.name)
                    for f in fields(value)
                    if not callable(getattr(value, f.name))
                ]
            own.append((field.name, normalize_token(value)))
        return ("lunarray.xrf.FitSpec", *own)


def fit_elements(
    ds: xr.Dataset,
    solar: xr.Dataset,
    response: Response,
    background: xr.Dataset | None = None,
    *,
    band: tuple[float, float] = FIT_BAND,
    settings: FitSettings | None = None,
    conventions: Conventions | None = None,
    tables: AtomicTables | None = None,
    mare_fraction: Any = None,
    min_significance: float = 5.0,
    engine: Engine = "numba",
) -> xr.Dataset:
    """Fit the abundances of eight elements to CLASS spectra.

    Each spectrum is fitted with fluorescence lines, primary and secondary, and a scattered continuum, both computed
    from the composition, the Sun's spectrum and the geometry, folded with the response; section III of the paper,
    eqs. 1-9.

    Parameters
    ----------
    ds : Dataset
        Spectra, as :func:`lunarray.open_class` and :func:`lunarray.xrf.coadd` give them.
    solar : Dataset
        One solar spectrum for all (:func:`lunarray.xrf.read_solar_model`, :func:`lunarray.xrf.fit_solar`), or many
        with their times (:func:`lunarray.xrf.open_solar_models`), of which each spectrum gets its own; one with
        ``photon_flux`` (time, energy) must have the times of `ds`.
    response : Response
        RMF and ARF of all sixteen detectors (:func:`lunarray.xrf.read_response`); the detectors used are accounted for.
    background : Dataset, optional
        Of :func:`lunarray.xrf.read_background` or :func:`lunarray.xrf.night_background`; scaled by exposure and
        detectors.
    band : tuple of float
        Energies to fit (keV).
    settings : FitSettings, optional
        What is fitted, and how. By default the Poisson likelihood with the background's own errors (W-stat), or
        without a background the likelihood of Cash.
    conventions : Conventions, optional
        Of the model; the defaults are the right physics, ``Conventions.published()`` those of the published PyXspec
        model.
    tables : AtomicTables, optional
        Atomic data; by default those of :func:`lunarray.xrf.atomic_tables`.
    mare_fraction : array_like or DataArray, (time,), optional
        Area fraction of mare in each footprint (:func:`lunarray.xrf.footprint_mean` of a map): fits then start from
        the mean compositions of highlands and maria mixed accordingly.
    min_significance : float
        Spectra with fewer counts above the background than so many times their error are not fitted: there is no flare.
    engine : {"numba", "pyxspec"}
        ``"pyxspec"`` needs HEASoft (see :mod:`lunarray.xrf.xspec`).

    Returns
    -------
    Dataset
        A row for each spectrum, lazy where `ds` is, with all coordinates of `ds` along ``time`` (footprints among
        them):

        - ``abundance``, ``abundance_std`` (time, element), wt%, and ``covariance`` (time, element, element_b), wt%²,
          ``correlation``; the errors are statistical, of one standard deviation;
        - ``element_flags`` (time, element): at a bound, not constrained, frozen, from closure;
        - ``xrf_norm``, ``scatter_norm`` with ``_std``, ``gain_slope``, ``gain_offset``;
        - ``statistic``, ``dof``, ``goodness`` (chance of a worse fit), ``net_counts`` (above background, in the band);
        - ``line_flux`` (time, line), photons/s/cm² at the detector;
        - ``quality``: bits of `lunarray.xrf.FIT_FLAGS`. Spectra that cannot be fitted are NaN, and say why here.

    Raises
    ------
    InputError
        If spectra, response, background, solar spectrum and band do not fit together: what is wrong with all spectra
        is said before any is computed. What is wrong with one of them ends in its `quality`.
    MissingDependencyError
        If PyXspec is asked for and not there.

    References
    ----------
    Shiraiwa, T., & Fujino, N., 1966. Jpn. J. Appl. Phys. 5, 886. Cash, W., 1979. ApJ 228, 939.
    """
    spec = _specification(
        ds, solar, response, background, band=band, settings=settings, conventions=conventions, tables=tables,
        mare_fraction=mare_fraction, min_significance=min_significance, engine=engine,
    )  # fmt: skip
    counts = ds["counts"].transpose("time", "channel")
    columns = _columns(ds, solar, mare_fraction)
    width = _width(spec)
    lazy = is_lazy(counts) or any(hasattr(c, "dask") for c in columns)
    if lazy:
        import dask
        import dask.array as da

        n = ds.sizes["time"]
        data = da.asarray(counts.data)
        # Whole batches, whatever the chunks were; those that are so already stay, as co-added ones do.
        if any(size % _BATCH for size in data.chunks[0][:-1]) or data.numblocks[1] > 1:
            data = data.rechunk((_whole_batches(n, max(data.chunks[0])), -1))
        sizes = data.chunks[0]
        table = da.stack([da.asarray(c).astype("f8") for c in columns], axis=1).rechunk((sizes, -1))
        packed = da.map_blocks(
            _fit_block,
            data,
            table,
            spec=dask.delayed(spec, pure=True),
            chunks=(sizes, (width,)),
            dtype="f8",
            meta=np.empty((0, 0)),
        )
    else:
        table = np.stack([np.asarray(c, "f8") for c in columns], axis=1)
        packed = _fit_block(counts.values, table, spec=spec)
    return _result(ds, packed, spec, background, band)


def _whole_batches(n: int, size: int) -> tuple[int, ...]:
    """Chunks of whole batches, about `size` long, of n rows."""
    step = max(size // _BATCH, 1) * _BATCH
    return tuple(min(step, n - at) for at in range(0, n, step)) or (0,)


# ---------- preparation
def _specification(
    ds: xr.Dataset, solar: xr.Dataset, response: Response, background: xr.Dataset | None, *, band: tuple[float, float],
    settings: FitSettings | None, conventions: Conventions | None, tables: AtomicTables | None, mare_fraction: Any,
    min_significance: float, engine: str,
) -> FitSpec:  # fmt: skip
    from lunarray.xrf.atomic import atomic_tables
    from lunarray.xrf.constants import HIGHLAND, MARE
    from lunarray.xrf.response import Response
    from lunarray.xrf.settings import Conventions, FitSettings

    require_frames(ds, "fit_elements")
    if engine not in ("numba", "pyxspec"):
        raise InputError(
            f"engine={engine!r}", where="fit_elements", remedy="Give 'numba' or 'pyxspec'"
        )
    if engine == "pyxspec":
        from lunarray.xrf.xspec import require_pyxspec

        require_pyxspec()
    if not isinstance(response, Response):
        raise InputError(
            f"a response of type {type(response).__name__}",
            where="response",
            remedy="Pass what lunarray.xrf.read_response gives",
        )
    n = ds.sizes["channel"]
    if response.channels != n:
        raise InputError(
            f"the response has {response.channels} channels, the spectra have {n}",
            where="response",
            remedy="Pass the RMF made for this binning, or join channels with Response.group",
        )
    back, back_exposure = None, 1.0
    if background is not None:
        back = np.asarray(background["counts"].values, "f8")
        if back.shape != (n,):
            raise InputError(
                f"the background has {back.size} channels, the spectra have {n}",
                where="background",
                remedy="Pass a background of the same binning",
            )
        detectors = float(background["n_detectors"]) if "n_detectors" in background else np.nan
        share = detectors / CLASS_DETECTORS if detectors > 0 else 1.0
        back_exposure = float(background["exposure"]) * share
        if not back_exposure > 0 or not np.all(np.isfinite(back)):
            raise InputError(
                "the background has no exposure, or missing counts",
                where="background",
                remedy="Pass another; night_background finds none where there is no night",
            )
    middle = response.channel_energy()
    inside = np.flatnonzero((middle >= band[0]) & (middle < band[1]))
    if inside.size < 10:
        raise InputError(
            f"{inside.size} channels in {band[0]:g}-{band[1]:g} keV",
            where="band",
            remedy="Give a wider band in keV",
        )
    tables = atomic_tables() if tables is None else tables
    low, high, flux = _solar_arrays(solar, ds)
    _check_solar_range(low, high, tables, band)
    if settings is None:
        settings = FitSettings(statistic="cstat" if back is None else "wstat")
    return FitSpec(
        response=response,
        solar=(low, high, flux),
        background=back,
        background_exposure=back_exposure,
        channels=(int(inside[0]), int(inside[-1]) + 1),
        settings=settings,
        conventions=Conventions() if conventions is None else conventions,
        tables=tables,
        min_significance=float(min_significance),
        engine=engine,
        mare=None if mare_fraction is None else dict(MARE),
        highland=None if mare_fraction is None else dict(HIGHLAND),
    )


def _solar_arrays(solar: Any, ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    needed = {"photon_flux", "energy_lo", "energy_hi"}
    if not isinstance(solar, xr.Dataset) or not needed <= set(solar.variables):
        raise InputError(
            "no photon_flux on energy_lo and energy_hi",
            where="solar",
            remedy="Pass what read_solar_model, open_solar_models or fit_solar give",
        )
    low, high = (np.asarray(solar[key].values, "f8") for key in ("energy_lo", "energy_hi"))
    flux = solar["photon_flux"]
    others = [d for d in flux.dims if d != "energy"]
    if others not in ([], ["model"], ["time"]):
        raise InputError(
            f"photon_flux has the dimensions {flux.dims}",
            where="solar",
            remedy="(energy), (model, energy) or (time, energy)",
        )
    if others == ["time"] and not np.array_equal(solar["time"].values, ds["time"].values):
        raise InputError(
            "its times are not those of the spectra",
            where="solar",
            remedy="One solar spectrum for each of them, in order",
        )
    values = np.atleast_2d(np.asarray(flux.transpose(*others, "energy").values, "f8"))
    if not np.all(np.isfinite(values)) or np.any(values < 0) or np.any(high <= low):
        raise InputError(
            "fluxes that are negative or missing", where="solar", remedy="Pass another model"
        )
    return low, high, values


def _check_solar_range(
    low: np.ndarray, high: np.ndarray, tables: AtomicTables, band: tuple[float, float]
) -> None:
    shell = np.where(tables.line_group < 2, 0, tables.line_group - 1)
    edges = np.array([tables.edge[e, s] for e, s in zip(tables.line_element, shell, strict=True)])
    seen = (tables.line_energy >= band[0]) & (tables.line_energy < band[1])
    top = max(band[1], float(edges[seen].max(initial=0.0)))
    if low[0] > band[0] or high[-1] < top:
        raise InputError(
            f"the solar spectrum covers {low[0]:g}-{high[-1]:g} keV; to excite the lines in "
            f"{band[0]:g}-{band[1]:g} keV it must cover {band[0]:g}-{top:.3g} keV",
            where="solar",
            remedy="Pass a model on a wider range of energies, or fit a narrower band",
        )


def _columns(ds: xr.Dataset, solar: xr.Dataset, mare_fraction: Any) -> list[Any]:
    n = ds.sizes["time"]
    missing = np.full(n, np.nan)
    dims = solar["photon_flux"].dims
    if "model" in dims:
        own: Any = match_solar(ds, solar).values
    elif "time" in dims:
        own = np.arange(n)
    else:
        own = np.zeros(n)
    mare = missing
    if mare_fraction is not None:
        mare = (
            mare_fraction.data
            if isinstance(mare_fraction, xr.DataArray)
            else np.asarray(mare_fraction, "f8")
        )
        if mare.shape != (n,):
            raise InputError(
                f"mare fractions of shape {mare.shape} for {n} spectra",
                where="mare_fraction",
                remedy="One for each",
            )
    special = {"solar": own, "mare": mare}
    columns = []
    for name in _COLUMNS:
        if name in special:
            columns.append(special[name])
        elif name in ds.variables:
            columns.append(ds[name].data)
        elif name == "n_frames":
            columns.append(np.ones(n))
        elif name in ("emission", "flags"):
            columns.append(np.zeros(n))
        else:
            columns.append(missing)
    return columns


# ---------- blocks
def _width(spec: FitSpec) -> int:
    e = len(spec.tables.elements)
    return len(_SCALARS) + 3 * e + e * e + spec.tables.line_energy.size


def _fit_block(counts: Any, table: Any, *, spec: FitSpec) -> np.ndarray:
    """Fit windows, (window, channel) and (window, column), batch by batch, into packed rows of results."""
    out = np.full((len(table), _width(spec)), np.nan)
    for at in range(0, len(table), _BATCH):
        own = slice(at, at + _BATCH)
        _fit_batch(np.asarray(counts[own], "f8"), np.asarray(table[own], "f8"), spec, out[own])
    return out


def _fit_batch(counts: np.ndarray, table: np.ndarray, spec: FitSpec, out: np.ndarray) -> None:
    """Fit windows one after the other, each from where the last ended."""
    from lunarray.xrf.fit import fit_spectrum
    from lunarray.xrf.settings import Observation

    models = _ModelCache(spec)
    last = None
    jobs = []
    for i, row in enumerate(table):
        column = dict(zip(_COLUMNS, row, strict=True))
        quality, net = _refusal(counts[i], column, spec)
        out[i, _SCALARS.index("net_counts")] = net
        out[i, 0] = quality
        if quality:
            continue
        used = column["n_detectors"]
        exposure = column["exposure"] * (used / CLASS_DETECTORS if used > 0 else 1.0)
        jobs.append(
            (i, column, Observation(counts[i], exposure, spec.background, spec.background_exposure))
        )
    if spec.engine == "pyxspec":
        _fit_jobs_pyxspec(jobs, models, spec, out)
        return
    for i, column, observation in jobs:
        try:
            result = fit_spectrum(
                observation, models(column), _own_settings(spec, column), warm_start=last
            )
        except (LunarrayError, ValueError, ArithmeticError, np.linalg.LinAlgError):
            # One spectrum that cannot be fitted does not stop the others; what is wrong with all was found before.
            out[i, 0] = FIT_FLAGS["fit_failed"]
            continue
        if result.status == "fitted" and spec.mare is None:
            last = result
        _pack(out[i], result)


def _refusal(counts: np.ndarray, column: dict[str, float], spec: FitSpec) -> tuple[int, float]:
    """Why a window is not fitted (0: it is), and its counts above the background."""
    first, stop = spec.channels
    own = counts[first:stop]
    if not column["exposure"] > 0 or column["n_frames"] == 0:
        quality = FIT_FLAGS["no_frames"]
        # Of a window without a single frame to be used, the frames' own reasons are the window's.
        flags = int(column["flags"]) if np.isfinite(column["flags"]) else 0
        for name in ("night", "no_geometry"):
            quality |= FIT_FLAGS[name] if flags & FRAME_FLAGS[name] else 0
        return quality, np.nan
    if not np.all(np.isfinite(own)) or np.any(own < 0):
        return FIT_FLAGS["bad_data"], np.nan
    angles = [column[name] for name in ("incidence", "emission")]
    quality = 0
    if not np.all(np.isfinite(angles)):
        quality |= FIT_FLAGS["no_geometry"]
    elif column["incidence"] >= 90.0:
        quality |= FIT_FLAGS["night"]
    if column["solar"] < 0:
        quality |= FIT_FLAGS["no_solar_model"]
    used = column["n_detectors"]
    exposure = column["exposure"] * (used / CLASS_DETECTORS if used > 0 else 1.0)
    total = own.sum()
    net, variance = total, max(total, 1.0)
    if spec.background is not None:
        scale = exposure / spec.background_exposure
        back = spec.background[first:stop].sum()
        net, variance = total - scale * back, variance + scale**2 * back
    if total == 0:
        quality |= FIT_FLAGS["no_counts"]
    elif net < spec.min_significance * np.sqrt(variance):
        quality |= FIT_FLAGS["no_signal"]
    return quality, net


class _ModelCache:
    """Spectral models by what they depend on: windows of the same Sun and angles share one."""

    def __init__(self, spec: FitSpec) -> None:
        self.spec = spec
        self.held: dict[tuple[float, ...], Any] = {}

    def __call__(self, column: dict[str, float]) -> Any:
        from lunarray.xrf.model import SpectralModel
        from lunarray.xrf.settings import Geometry

        spec = self.spec
        names = ("solar", "incidence", "emission", "phase", "altitude", "exposure")
        key = tuple(np.float64(column[name]).item() for name in names)
        if key not in self.held:
            if len(self.held) > 4:
                self.held.clear()
            low, high, flux = spec.solar
            phase = column["phase"] if np.isfinite(column["phase"]) else None
            altitude = column["altitude"] if column["altitude"] > 0 else 100.0
            self.held[key] = SpectralModel(
                spec.response,
                (low, high, flux[int(column["solar"])]),
                Geometry(column["incidence"], column["emission"], phase, altitude),
                exposure=column["exposure"],
                tables=spec.tables,
                conventions=spec.conventions,
                channels=slice(*spec.channels),
            )
        return self.held[key]


def _own_settings(spec: FitSpec, column: dict[str, float]) -> FitSettings:
    if spec.mare is None or not np.isfinite(column["mare"]):
        return spec.settings
    from lunarray.xrf.settings import prior_composition

    share = float(np.clip(column["mare"], 0.0, 1.0))
    return replace(
        spec.settings, start=prior_composition(share, highland=spec.highland, mare=spec.mare)
    )


def _pack(row: np.ndarray, result: Any) -> None:
    from lunarray.xrf.settings import ELEMENT_FLAGS

    quality = FIT_FLAGS[_STATUS[result.status]] if result.status != "fitted" else 0
    row[0] = quality
    if quality & FATAL:
        return
    flags = np.asarray(result.element_flags)
    bounded = ELEMENT_FLAGS["at_lower_bound"] | ELEMENT_FLAGS["at_upper_bound"]
    quality |= FIT_FLAGS["at_bound"] if np.any(flags & bounded) else 0
    quality |= (
        FIT_FLAGS["not_constrained"] if np.any(flags & ELEMENT_FLAGS["not_constrained"]) else 0
    )
    quality |= FIT_FLAGS["poor_fit"] if result.goodness < _POOR else 0
    values = {
        "quality": quality,
        "statistic": result.statistic,
        "dof": result.dof,
        "goodness": result.goodness,
        "xrf_norm": result.xrf_norm,
        "xrf_norm_std": result.xrf_norm_error,
        "scatter_norm": result.scatter_norm,
        "scatter_norm_std": result.scatter_norm_error,
        "gain_slope": result.slope,
        "gain_offset": result.offset,
        "net_counts": row[_SCALARS.index("net_counts")],
    }
    at = len(_SCALARS)
    row[:at] = [values[name] for name in _SCALARS]
    for part in (
        result.weights,
        result.weight_errors,
        flags,
        element_covariance(result).ravel(),
        result.line_fluxes,
    ):
        part = np.asarray(part, "f8")
        row[at : at + part.size] = part
        at += part.size


def element_covariance(result: Any) -> np.ndarray:
    """Covariance of the weights of all elements, the closing one among them, from that of the fitted parameters.

    Parameters
    ----------
    result : FitResult

    Returns
    -------
    ndarray, (element, element)
        wt%²; frozen elements have 0.
    """
    from lunarray.xrf.settings import ELEMENT_FLAGS

    e = len(result.elements)
    spread = np.zeros((e, len(result.parameters)))
    for k, name in enumerate(result.parameters):
        if name in result.elements:
            spread[result.elements.index(name), k] = 1.0
    balance = (np.asarray(result.element_flags) & ELEMENT_FLAGS["from_closure"]) > 0
    spread[balance] = -spread.sum(axis=0)
    return spread @ result.covariance @ spread.T


def _fit_jobs_pyxspec(jobs: list[Any], models: _ModelCache, spec: FitSpec, out: np.ndarray) -> None:
    from lunarray.xrf import xspec

    for i, column, observation in jobs:
        try:
            result = xspec.fit_spectrum(observation, models(column), _own_settings(spec, column))
        except (LunarrayError, ValueError, ArithmeticError, np.linalg.LinAlgError):
            out[i, 0] = FIT_FLAGS["fit_failed"]
            continue
        _pack(out[i], result)


# ---------- result
def _result(
    ds: xr.Dataset, packed: Any, spec: FitSpec, background: Any, band: tuple[float, float]
) -> xr.Dataset:
    from lunarray.xrf.settings import ELEMENT_FLAGS

    e, lines = len(spec.tables.elements), spec.tables.line_energy.size

    def scalar(name: str, dtype: str = "f4") -> Any:
        return packed[:, _SCALARS.index(name)].astype(dtype)

    at = len(_SCALARS)
    abundance, std, flags = (packed[:, at + k * e : at + (k + 1) * e] for k in range(3))
    at += 3 * e
    covariance = packed[:, at : at + e * e].reshape(-1, e, e)
    flux = packed[:, at + e * e : at + e * e + lines]
    per_element, per_pair = ("time", "element"), ("time", "element", "element_b")
    blank = _map(flags, lambda block: np.nan_to_num(block, nan=0.0).astype("u1"), "u1")
    meaning = {
        "long_name": "what is to be known of the abundance",
        "flag_masks": np.array(list(ELEMENT_FLAGS.values()), "u1"),
        "flag_meanings": " ".join(ELEMENT_FLAGS),
    }
    quality = {
        "long_name": "quality of the fit",
        "flag_masks": np.array(list(FIT_FLAGS.values()), "u2"),
        "flag_meanings": " ".join(FIT_FLAGS),
    }
    one = {"units": "1"}
    variables = {
        "abundance": (
            per_element,
            abundance.astype("f4"),
            {"units": "wt%", "long_name": "abundance of the element"},
        ),
        "abundance_std": (
            per_element,
            std.astype("f4"),
            {"units": "wt%", "long_name": "statistical error of the abundance"},
        ),
        "element_flags": (per_element, blank, meaning),
        "covariance": (
            per_pair,
            covariance.astype("f4"),
            {"units": "wt%2", "long_name": "covariance of the abundances"},
        ),
        "correlation": (
            per_pair,
            _map(covariance, _correlation, "f4"),
            {**one, "long_name": "correlation of the abundances"},
        ),
        "xrf_norm": (
            "time",
            scalar("xrf_norm"),
            {**one, "long_name": "factor on the fluorescence"},
        ),
        "xrf_norm_std": (
            "time",
            scalar("xrf_norm_std"),
            {**one, "long_name": "error of the factor on the fluorescence"},
        ),
        "scatter_norm": (
            "time",
            scalar("scatter_norm"),
            {**one, "long_name": "factor on the scattered continuum"},
        ),
        "scatter_norm_std": (
            "time",
            scalar("scatter_norm_std"),
            {**one, "long_name": "error of the factor on the scattered continuum"},
        ),
        "gain_slope": ("time", scalar("gain_slope"), {**one, "long_name": "relative gain"}),
        "gain_offset": (
            "time",
            scalar("gain_offset"),
            {"units": "keV", "long_name": "gain offset"},
        ),
        "statistic": (
            "time",
            scalar("statistic"),
            {**one, "long_name": f"fit statistic ({spec.settings.statistic})"},
        ),
        "dof": ("time", scalar("dof"), {**one, "long_name": "degrees of freedom"}),
        "goodness": (
            "time",
            scalar("goodness"),
            {**one, "long_name": "probability of a worse fit by chance"},
        ),
        "net_counts": (
            "time",
            scalar("net_counts"),
            {**one, "long_name": "counts above the background in the fitted band"},
        ),
        "line_flux": (
            ("time", "line"),
            flux.astype("f4"),
            {"units": "s-1 cm-2", "long_name": "photon flux of the line at the detector"},
        ),
        "quality": ("time", scalar("quality", "u2"), quality),
    }
    coords = {
        name: variable
        for name, variable in ds.coords.items()
        if "channel" not in variable.dims and set(variable.dims) <= {"time", "corner"}
    }
    # Objects: text of fixed width has no specification in Zarr 3.
    elements = np.array(spec.tables.elements, object)
    coords |= {
        "element": ("element", elements, {"long_name": "element"}),
        "element_b": ("element_b", elements, {"long_name": "element"}),
        "line": ("line", np.array(spec.tables.line_names, object), {"long_name": "line group"}),
        "line_energy": (
            "line",
            np.asarray(spec.tables.line_energy),
            {"units": "keV", "long_name": "energy of the line"},
        ),
    }
    keep = ("mission", "instrument", "source", "history", "skipped_files")
    result = xr.Dataset(variables, coords, {k: ds.attrs[k] for k in keep if k in ds.attrs})
    return stamp(
        result,
        f"fit_elements({spec.engine}, {spec.settings.statistic}, {band[0]:g}-{band[1]:g} keV)",
        source=ds.attrs.get("source"),
        atomic_data=spec.tables.source,
        background_source=None if background is None else background.attrs.get("source"),
        response_digest=spec.response.digest,
    )


def _map(array: Any, function: Any, dtype: str) -> Any:
    if hasattr(array, "dask"):
        return array.map_blocks(function, dtype=dtype, meta=np.empty((0,) * array.ndim, dtype))
    return function(array)


def _correlation(covariance: np.ndarray) -> np.ndarray:
    std = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        out = covariance / (std[:, :, None] * std[:, None, :])
    return np.where(np.isfinite(out), out, np.nan).astype("f4")


def spectrum_components(
    ds: xr.Dataset,
    result: xr.Dataset,
    solar: xr.Dataset,
    response: Response,
    background: xr.Dataset | None = None,
    *,
    index: int = 0,
    band: tuple[float, float] = FIT_BAND,
    conventions: Conventions | None = None,
    tables: AtomicTables | None = None,
) -> xr.Dataset:
    """Compute the model of one fitted spectrum, part by part, for pictures and checks.

    Parameters
    ----------
    ds : Dataset
        Spectra, as they were given to :func:`fit_elements`.
    result : Dataset
        What it gave.
    solar : Dataset
    response : Response
    background : Dataset, optional
        As they were given to it.
    index : int
        Which spectrum, along ``time``.
    band : tuple of float
        Energies that were fitted (keV).
    conventions : Conventions, optional
    tables : AtomicTables, optional
        As they were given to it.

    Returns
    -------
    Dataset
        (channel,), of the fitted channels, in counts/s/keV with the detectors used: ``data``, ``data_std``, ``model``,
        ``fluorescence``, ``scatter``, ``background``; ``residual`` (in standard deviations); ``energy`` (keV).

    Raises
    ------
    InputError
        If that spectrum was not fitted.
    """
    spec = _specification(
        ds, solar, response, background, band=band, settings=None, conventions=conventions, tables=tables,
        mare_fraction=None, min_significance=0.0, engine="numba",
    )  # fmt: skip
    row = result.isel(time=index).compute()
    if int(row["quality"]) & FATAL:
        names = [name for name, bit in FIT_FLAGS.items() if int(row["quality"]) & bit]
        raise InputError(
            f"spectrum {index} was not fitted: {', '.join(names)}",
            where="spectrum_components",
            remedy="Choose another",
        )
    own = ds.isel(time=[index])
    column = {
        name: float(np.asarray(v)[0])
        for name, v in zip(_COLUMNS, _columns_of_one(own, ds, solar, index), strict=True)
    }
    model = _ModelCache(spec)(column)
    weights = row["abundance"].sel(element=list(spec.tables.elements)).values.astype("f8")
    xrf, scatter = model.counts(
        weights,
        float(row["xrf_norm"]),
        float(row["scatter_norm"]),
        float(row["gain_slope"]),
        float(row["gain_offset"]),
    )
    first, stop = spec.channels
    share = column["n_detectors"] / CLASS_DETECTORS if column["n_detectors"] > 0 else 1.0
    counts = own["counts"].values[0, first:stop].astype("f8")
    width = (response.channel_hi - response.channel_lo)[first:stop]
    unit = 1.0 / (column["exposure"] * width)
    back = np.zeros(stop - first)
    if spec.background is not None:
        back = spec.background[first:stop] / spec.background_exposure * share / width
    parts = {
        "fluorescence": xrf * share / width,
        "scatter": scatter * share / width,
        "background": back,
    }
    total = sum(parts.values())
    std = np.sqrt(np.maximum(total / unit, 1.0)) * unit
    variables = {
        "data": counts * unit,
        "data_std": np.sqrt(np.maximum(counts, 1.0)) * unit,
        "model": total,
        **parts,
        "residual": (counts * unit - total) / std,
    }
    rate = {"units": "s-1 keV-1"}
    return xr.Dataset(
        {
            name: ("channel", v, {"units": "1"} if name == "residual" else rate)
            for name, v in variables.items()
        },
        {
            "channel": ds["channel"].values[first:stop],
            "energy": (
                "channel",
                response.channel_energy()[first:stop],
                {"units": "keV", "long_name": "energy"},
            ),
            "time": ds["time"].values[index],
        },
        {
            "lines": dict(
                zip(
                    spec.tables.line_names,
                    np.asarray(spec.tables.line_energy).tolist(),
                    strict=True,
                )
            )
        },
    )


def _columns_of_one(own: xr.Dataset, ds: xr.Dataset, solar: xr.Dataset, index: int) -> list[Any]:
    if "time" in solar["photon_flux"].dims:
        columns = _columns(own, solar.isel(time=[index]), None)
        columns[_COLUMNS.index("solar")] = np.array([index])
        return columns
    return _columns(own, solar, None)
