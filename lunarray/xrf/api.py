"""Elemental abundances of CLASS spectra: the fit, window by window, on xarray objects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from lunarray.errors import InputError, require_choice
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.units import WEIGHT
from lunarray.xrf.atomic import AtomicTables, atomic_tables
from lunarray.xrf.class_files import CLASS_DETECTORS
from lunarray.xrf.frames import described, flag_attrs, is_lazy, require_frames, require_variables
from lunarray.xrf.ground import footprint_mare
from lunarray.xrf.response import Response
from lunarray.xrf.settings import (
    ELEMENT_FLAGS,
    ERROR_SOURCES,
    FIT_FLAGS,
    Conventions,
    FitSettings,
)
from lunarray.xrf.solar import match_solar
from lunarray.xrf.unknowns import DEFAULT_MODES, shape_priors
from lunarray.xrf.windows import (
    COLUMNS,
    LEFT_OUT,
    SCALARS,
    FitSpec,
    fit_block,
    packed_width,
    whole_batches,
)
from lunarray.xrf.xspec import require_pyxspec

__all__ = ["fit_elements"]

Engine = Literal["numba", "pyxspec"]

#: Energies that are fitted (keV): lines of Na to Ti. The paper stops below titanium's; bright spectra show it, and
#: without it titanium, which takes up what is amiss elsewhere, ends at a bound.
FIT_BAND = (0.9, 5.0)


@typed
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
    mare_fraction: Literal["map"] | npt.ArrayLike | xr.DataArray | None = "map",
    calibration: xr.Dataset | Literal["auto", "none"] = "auto",
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
        Atomic data; by default those of :func:`lunarray.xrf.atomic.atomic_tables`.
    mare_fraction : {"map"}, array_like or DataArray (time,), or None
        Share of mare in each footprint: the prior is then that of :func:`lunarray.xrf.ground_prior`, means of highlands
        and maria mixed, and their spread. ``"map"`` takes the map that comes with lunarray; where `settings` have a
        start, frozen elements or a prior of their own, those stay. None: the prior of `settings` everywhere.
    calibration : Dataset or {"auto", "none"}
        What is known of the lines' width and gain, which each spectrum then says better as far as it is bright: of
        :func:`lunarray.xrf.calibrate_response`; ``"auto"``: of a table of 2020 to 2024 that comes with lunarray (of
        simulated spectra: of `response`). ``"none"``: `response` is right as it is.
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
          ``correlation``; the errors are total ones, of one standard deviation;
        - ``abundance_parts`` (time, element, error_source), wt%: what they come from; the squares sum to that of
          ``abundance_std``. "prior" is what the ground's prior adds, "misfit" what the model does not describe;
        - ``detected`` (time, element), and where it is not, ``upper_limit``, wt%, at 95 % (one-sided);
        - ``nuisance`` (time, nuisance): Sun, width and gain of the lines and so on as the fit has them, in standard
          deviations of what was known of them; ``line_width`` (time), keV, full at half maximum at 1.5 keV;
        - ``element_flags`` (time, element): at a bound, not constrained, frozen, from closure;
        - ``xrf_norm``, ``scatter_norm`` with ``_std``, ``gain_slope``, ``gain_offset``;
        - ``statistic``, ``dof``, ``goodness`` (chance of a worse fit), ``net_counts`` (above background, in the band);
        - ``line_flux`` (time, line), photons/s/cm² at the detector;
        - ``quality``: bits of `xrf.settings.FIT_FLAGS`. Spectra that cannot be fitted are NaN, and say why here;
          "implausible" are a norm, an unknown, angles or a Sun that cannot be true: there errors also hold the
          prior's width, and how far the fit is from it (in the part "misfit").

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

    Examples
    --------
    >>> import lunarray as la
    >>> windows = la.sample("class_flare").lunar.flag_frames().lunar.coadd("sliding", window=12)
    >>> sun, response = la.simulate.thermal_spectrum(1.1, 3e-5), la.simulate.class_response(2048)
    >>> fit = windows.lunar.fit_elements(sun, response)
    >>> fit["abundance"].sel(element="Si").values.round()
    array([20.], dtype=float32)
    """
    spec = specification(
        ds, solar, response, background, band=band, settings=settings, conventions=conventions, tables=tables,
        mare_fraction=mare_fraction, min_significance=min_significance, engine=engine,
    )  # fmt: skip
    shapes, own_shape, words = shape_priors(ds, response, calibration)
    spec = replace(spec, shapes=shapes)
    packed = _packed_fits(ds, columns_of(ds, solar, mare_fraction, own_shape), spec)
    result = _result(ds, packed, spec, background, band)
    result.attrs["response_calibration"] = words if spec.nuisances else "the response as it is"
    return result


def _packed_fits(ds: xr.Dataset, columns: list[Any], spec: FitSpec) -> Any:
    """Rows of results, (window, column), in memory or lazily."""
    counts = ds["counts"].transpose("time", "channel")
    if "bad_channel" in ds.variables:
        counts = counts.where(~ds["bad_channel"].variable, LEFT_OUT).transpose("time", "channel")
    width = packed_width(spec)
    if not (is_lazy(counts) or any(hasattr(c, "dask") for c in columns)):
        table = np.stack([np.asarray(c, "f8") for c in columns], axis=1)
        return fit_block(counts.values, table, spec=spec)
    import dask
    import dask.array as da

    data = da.asarray(counts.data)
    data = data.rechunk((whole_batches(data.chunks[0]), -1))
    sizes = data.chunks[0]
    table = da.stack([da.asarray(c).astype("f8") for c in columns], axis=1).rechunk((sizes, -1))
    return da.map_blocks(
        fit_block,
        data,
        table,
        spec=dask.delayed(spec, pure=True),
        chunks=(sizes, (width,)),
        dtype="f8",
        meta=np.empty((0, 0)),
    )


# ---------- preparation
def specification(
    ds: xr.Dataset, solar: xr.Dataset, response: Response, background: xr.Dataset | None, *, band: tuple[float, float],
    settings: FitSettings | None, conventions: Conventions | None, tables: AtomicTables | None, mare_fraction: Any,
    min_significance: float, engine: str,
) -> FitSpec:  # fmt: skip
    require_frames(ds, "fit_elements")
    require_choice("engine", engine, ("numba", "pyxspec"))
    if engine == "pyxspec":
        require_pyxspec()
    if not isinstance(response, Response):
        raise InputError(
            f"a response of type {type(response).__name__}",
            where="response",
            remedy="Give what lunarray.xrf.read_response gives",
        )
    n = ds.sizes["channel"]
    if response.channels != n:
        raise InputError(
            f"the response has {response.channels} channels, the spectra have {n}",
            where="response",
            remedy="Give the RMF made for this binning, or join channels with Response.group",
        )
    back, back_exposure = (None, 1.0) if background is None else _background_arrays(background, n)
    middle = response.channel_energy()
    inside = np.flatnonzero((middle >= band[0]) & (middle < band[1]))
    if inside.size < 10:
        raise InputError(
            f"{inside.size} channels in {band[0]:g}-{band[1]:g} keV",
            where="band",
            remedy="Give a wider band in keV",
        )
    tables = atomic_tables() if tables is None else tables
    if conventions is not None and conventions.regolith is not None:
        conventions.regolith.require_overhead(ds["emission"].values)
    low, high, flux = _solar_arrays(solar, ds)
    _check_solar_range(low, high, tables, band)
    modes, mode_names = _solar_modes(solar)
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
        by_ground=_by_ground(mare_fraction, settings),
        modes=modes,
        mode_names=mode_names,
    )


def _by_ground(mare_fraction: Any, settings: FitSettings) -> tuple[bool, bool]:
    """Whether the prior's means, and its spreads, are those of the ground."""
    if mare_fraction is None:
        return False, False
    plain = FitSettings()
    # Frozen elements have the value of the start: who freezes some means that.
    own_start = dict(settings.start) != dict(plain.start) or settings.frozen != plain.frozen
    own_spread = dict(settings.prior_sigma) != dict(plain.prior_sigma)
    if isinstance(mare_fraction, str):
        require_choice("mare_fraction", mare_fraction, ("map",))
        return not own_start, not (own_start or own_spread)
    return True, not own_spread


def _background_arrays(background: xr.Dataset, n: int) -> tuple[np.ndarray, float]:
    """Counts of a background, and its exposure in seconds with all detectors."""
    require_variables(
        background, ("counts", "exposure"), "background", "Give what read_background or night_background give"
    )  # fmt: skip
    back = np.asarray(background["counts"].values, "f8")
    if back.shape != (n,):
        raise InputError(
            f"the background has {back.size} channels, the spectra have {n}",
            where="background",
            remedy="Give a background of the same binning",
        )
    detectors = float(background["n_detectors"]) if "n_detectors" in background else np.nan
    exposure = float(background["exposure"]) * (
        detectors / CLASS_DETECTORS if detectors > 0 else 1.0
    )
    if not exposure > 0 or not np.all(np.isfinite(back)):
        raise InputError(
            "the background has no exposure, or missing counts",
            where="background",
            remedy="Give another; night_background finds none where there is no night",
        )
    return back, exposure


def _solar_arrays(solar: Any, ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    require_variables(
        solar, ("photon_flux", "energy_lo", "energy_hi"), "solar",
        "Give what read_solar_model, open_solar_models or fit_solar give",
    )  # fmt: skip
    low, high = (np.asarray(solar[key].values, "f8") for key in ("energy_lo", "energy_hi"))
    flux = solar["photon_flux"]
    others = [d for d in flux.dims if d != "energy"]
    if others not in ([], ["model"], ["time"]):
        raise InputError(
            f"photon_flux has the dimensions {flux.dims}",
            where="solar",
            remedy="Give (energy), (model, energy) or (time, energy)",
        )
    if others == ["time"] and not np.array_equal(solar["time"].values, ds["time"].values):
        raise InputError(
            "its times are not those of the spectra",
            where="solar",
            remedy="Give one solar spectrum for each of them, in order",
        )
    values = np.atleast_2d(np.asarray(flux.transpose(*others, "energy").values, "f8"))
    if not np.all(np.isfinite(values)) or np.any(values < 0) or np.any(high <= low):
        raise InputError(
            "fluxes that are negative or missing", where="solar", remedy="Give another model"
        )
    return low, high, values


def _solar_modes(solar: xr.Dataset) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """How wrong the Sun may be, (mode, model, energy) in the unit of its flux, where it says so."""
    if "flux_mode" not in solar:
        return None, DEFAULT_MODES
    others = [d for d in solar["photon_flux"].dims if d != "energy"]
    modes = solar["flux_mode"]
    if set(modes.dims) != {"mode", *others, "energy"}:
        raise InputError(
            f"flux_mode has the dimensions {modes.dims}",
            where="solar",
            remedy="Give (mode, energy), with the other dimensions of photon_flux between",
        )
    values = np.asarray(modes.transpose("mode", *others, "energy").values, "f8")
    names = (
        tuple(str(name) for name in solar["mode"].values)
        if "mode" in solar.coords
        else tuple(f"{k + 1}" for k in range(len(values)))
    )
    return np.nan_to_num(values.reshape(len(values), -1, values.shape[-1])), names


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
            remedy="Give a model on a wider range of energies, or fit a narrower band",
        )


def columns_of(
    ds: xr.Dataset, solar: xr.Dataset, mare_fraction: Any, shape: np.ndarray | None = None
) -> list[Any]:
    n = ds.sizes["time"]
    dims = solar["photon_flux"].dims
    if "model" in dims:
        own: Any = match_solar(ds, solar).values
    elif "time" in dims:
        own = np.arange(n)
    else:
        own = np.zeros(n)
    mare = np.full(n, np.nan)
    if isinstance(mare_fraction, str):
        mapped = footprint_mare(ds)
        mare = mare if mapped is None else mapped
    elif mare_fraction is not None:
        given = isinstance(mare_fraction, xr.DataArray)
        mare = mare_fraction.data if given else np.asarray(mare_fraction, "f8")
        if mare.shape != (n,):
            raise InputError(
                f"mare fractions of shape {mare.shape} for {n} spectra",
                where="mare_fraction",
                remedy="Give one for each",
            )
    special = {"solar": own, "mare": mare, "shape": np.zeros(n) if shape is None else shape}
    return [
        special[name]
        if name in special
        else ds[name].data
        if name in ds.variables
        else np.full(n, _ABSENT.get(name, np.nan))
        for name in COLUMNS
    ]


#: What stands for columns that are not there; NaN for others.
_ABSENT = {"n_frames": 1.0, "emission": 0.0, "flags": 0.0, "background_scale": 1.0}


# ---------- result
#: Variables along ``time``: unit and meaning.
_ALONG_TIME = {
    "xrf_norm": ("1", "factor on the fluorescence"),
    "xrf_norm_std": ("1", "error of the factor on the fluorescence"),
    "scatter_norm": ("1", "factor on the scattered continuum"),
    "scatter_norm_std": ("1", "error of the factor on the scattered continuum"),
    "gain_slope": ("1", "relative gain"),
    "gain_offset": ("keV", "gain offset"),
    "line_width": ("keV", "full width at half maximum of a line at 1.5 keV"),
    "statistic": ("1", "fit statistic ({statistic})"),
    "dof": ("1", "degrees of freedom"),
    "goodness": ("1", "probability of a worse fit by chance"),
    "net_counts": ("1", "counts above the background in the fitted band"),
}


def _result(
    ds: xr.Dataset, packed: Any, spec: FitSpec, background: Any, band: tuple[float, float]
) -> xr.Dataset:
    e, lines = len(spec.tables.elements), spec.tables.line_energy.size
    at = len(SCALARS)
    single = packed.astype("f4")
    sources = len(ERROR_SOURCES)
    abundance, std = single[:, at : at + e], single[:, at + e : at + 2 * e]
    flags, seen = packed[:, at + 2 * e : at + 3 * e], packed[:, at + 3 * e : at + 4 * e]
    limit = single[:, at + 4 * e : at + 5 * e]
    at += 5 * e
    parts = single[:, at : at + sources * e].reshape(-1, sources, e).transpose(0, 2, 1)
    at += sources * e
    pairs = packed[:, at : at + e * e].reshape(-1, e, e)
    at += e * e
    flux, unknown = single[:, at : at + lines], single[:, at + lines :]
    per_element, per_pair = ("time", "element"), ("time", "element", "element_b")

    bits = _map(flags, lambda block: np.nan_to_num(block, nan=0.0).astype("u1"), "u1")
    correlation = _map(pairs, _correlation, "f4")
    what = "what is to be known of the abundance"
    quality = packed[:, SCALARS.index("quality")].astype("u2")
    variables = {
        "abundance": described(per_element, abundance, WEIGHT, "abundance of the element"),
        "abundance_std": described(per_element, std, WEIGHT, "total error of the abundance"),
        "abundance_parts": described(
            ("time", "element", "error_source"), parts, WEIGHT, "error of the abundance by what it comes from"
        ),
        "detected": (per_element, _map(seen, lambda block: block == 1, "?"), {"long_name": "element is detected"}),
        "upper_limit": described(per_element, limit, WEIGHT, "upper limit (95 %) of what is not detected"),
        "element_flags": (per_element, bits, flag_attrs(what, ELEMENT_FLAGS, "u1")),
        "covariance": described(per_pair, pairs.astype("f4"), f"{WEIGHT}^2", "covariance of the abundances"),
        "correlation": described(per_pair, correlation, "1", "correlation of the abundances"),
        **{
            name: described(
                "time", single[:, SCALARS.index(name)], units, text.format(statistic=spec.settings.statistic)
            )
            for name, (units, text) in _ALONG_TIME.items()
        },
        "nuisance": described(
            ("time", "nuisance"), unknown, "1", "unknowns in standard deviations of what was known of them"
        ),
        "line_flux": described(
            ("time", "line"), flux, "s-1 cm-2", "photon flux of the line at the detector"
        ),
        "quality": ("time", quality, flag_attrs("quality of the fit", FIT_FLAGS, "u2")),
    }  # fmt: skip
    coords = {
        name: variable
        for name, variable in ds.coords.items()
        if "channel" not in variable.dims and set(variable.dims) <= {"time", "corner"}
    }
    # Objects: text of fixed width has no specification in Zarr 3.
    elements = np.array(spec.tables.elements, object)
    energy = np.asarray(spec.tables.line_energy)
    coords |= {
        "element": ("element", elements, {"long_name": "element"}),
        "error_source": (
            "error_source",
            np.array(ERROR_SOURCES, object),
            {"long_name": "source of errors"},
        ),
        "nuisance_name": ("nuisance", np.array(spec.nuisances, object), {"long_name": "unknown"}),
        "element_b": ("element_b", elements, {"long_name": "element"}),
        "line": ("line", np.array(spec.tables.line_names, object), {"long_name": "line group"}),
        "line_energy": ("line", energy, {"units": "keV", "long_name": "energy of the line"}),
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
