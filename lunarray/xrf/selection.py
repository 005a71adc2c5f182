"""Which CLASS frames are fit to be used, and the background that goes with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.errors import InputError
from lunarray.store.provenance import stamp
from lunarray.typing import typed
from lunarray.xrf.class_files import CLASS_DETECTORS
from lunarray.xrf.frames import (
    described,
    flag_attrs,
    frame_bounds,
    is_lazy,
    read_apart,
    require_frames,
    without_bad_channels,
)
from lunarray.xrf.goes import FLARE_CLASSES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FRAME_FLAGS", "flag_frames", "night_background", "particle_flags", "particle_rate"]

#: Bits of the variable `flags`: why a frame is rejected. 0 is a frame to use.
FRAME_FLAGS = {
    "night": 1,
    "outside_gti": 2,
    "no_flare": 4,
    "flare_class_rejected": 8,
    "geotail": 16,
    "particle_burst": 32,
    "no_geometry": 64,
    "bad_counts": 128,
}

#: Where there are hardly any X-rays of the Moon or of flares: the counts are particles (keV).
PARTICLE_BAND = (7.0, 16.0)

#: Frames further apart than this (s) do not tell about one another's particles.
_GAP = 600.0


def particle_rate(ds: xr.Dataset, band: tuple[float, float] = PARTICLE_BAND) -> xr.DataArray:
    """Count rate in an energy band, as if all detectors had been used.

    Parameters
    ----------
    ds : Dataset
        CLASS spectra, as :func:`lunarray.open_class` gives them.
    band : tuple of float
        keV.

    Returns
    -------
    DataArray
        (time,), counts/s, float64; lazy where `ds` is.
    """
    require_frames(ds, "particle_rate")
    names = ("gain", "exposure", "n_detectors")
    missing = xr.full_like(ds["exposure"], np.nan)
    counts = ds["counts"].transpose("time", "channel").variable
    rate = xr.apply_ufunc(
        _rate_kernel,
        counts.chunk(channel=-1) if is_lazy(ds["counts"]) else counts,
        *(ds.get(name, missing).variable for name in names),
        input_core_dims=[["channel"], [], [], []],
        kwargs={"channel": np.asarray(ds["channel"].values, "f8"), "band": band},
        dask="parallelized",
        output_dtypes=["f8"],
    )
    text = f"count rate at {band[0]:g}-{band[1]:g} keV, all detectors"
    return xr.DataArray(
        rate, {"time": ds["time"]}, name="particle_rate", attrs={"units": "s-1", "long_name": text}
    )


def _rate_kernel(
    counts: Any, gain: Any, exposure: Any, detectors: Any, *, channel: Any, band: Any
) -> Any:
    gain, exposure, detectors = (
        np.asarray(v, "f8").reshape(-1) for v in (gain, exposure, detectors)
    )
    energy = (channel[None, :] + 0.5) * gain[:, None]
    inside = (energy >= band[0]) & (energy < band[1])
    total = np.where(inside, counts, 0.0).sum(axis=1, dtype="f8")
    used = np.where(np.isfinite(detectors) & (detectors > 0), detectors, CLASS_DETECTORS)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / exposure * (CLASS_DETECTORS / used)


def particle_flags(
    rate: Any,
    time: Any,
    exposure: Any,
    *,
    window: int = 75,
    burst_sigma: float = 5.0,
    burst_factor: float = 1.5,
    geotail_factor: float = 1.5,
    quiet_rate: float | None = None,
) -> np.ndarray:
    """Flag frames in the Earth's geotail and in bursts of particles by their 7-16 keV rate.

    Parameters
    ----------
    rate : array_like, (time,)
        counts/s of all detectors.
    time : array_like of datetime64, (time,)
        In order.
    exposure : array_like, (time,)
        s.
    window : int
        Frames of the running median that is the baseline (75 frames of 8 s are ten minutes). Frames with fewer than
        five neighbours in time have the quiet level as their baseline.
    burst_sigma, burst_factor : float
        A frame is in a burst if it is above the baseline by so many Poisson errors, and so many times the baseline.
    geotail_factor : float
        A frame is in the geotail if the baseline is so many times the quiet level.
    quiet_rate : float, optional
        Quiet level (counts/s); by default the 20th percentile of the baselines: of each 30 days that have 100 frames
        or more, otherwise of each 180 days that have 10, otherwise of all frames. The level follows the solar cycle.

    Returns
    -------
    ndarray of uint16, (time,)
        Bits of `FRAME_FLAGS`. A hard flare raises this rate too, and is then taken for a burst.
    """
    from scipy.ndimage import median_filter

    rate = np.asarray(rate, "f8")
    exposure = np.asarray(exposure, "f8")
    flags = np.zeros(rate.size, "u2")
    good = np.isfinite(rate) & (exposure > 0)
    if not good.any():
        return flags
    seconds = np.asarray(time).astype("M8[ns]").astype("i8")[good] / 1e9
    r, e = rate[good], exposure[good]
    baseline = np.full(r.size, np.nan)
    cuts = np.flatnonzero(np.abs(np.diff(seconds)) > _GAP) + 1
    for part in np.split(np.arange(r.size), cuts):
        if part.size >= 5:
            baseline[part] = median_filter(r[part], size=min(window, part.size), mode="nearest")
    level = np.where(np.isfinite(baseline), baseline, r)
    if quiet_rate is None:
        quiet = np.full(r.size, np.percentile(level, 20))
        for days, least in ((180.0, 10), (30.0, 100)):
            part_of_time = np.floor((seconds - seconds.min()) / (days * 86400.0)).astype("i8")
            for number in np.unique(part_of_time):
                own = part_of_time == number
                if own.sum() >= least:
                    quiet[own] = np.percentile(level[own], 20)
    else:
        quiet = np.full(r.size, float(quiet_rate))
    baseline = np.where(np.isfinite(baseline), baseline, quiet)
    error = np.sqrt(np.maximum(baseline, 1.0 / e) / e)
    burst = (r - baseline > burst_sigma * error) & (r > burst_factor * baseline)
    tail = baseline > geotail_factor * quiet
    own = np.where(burst, FRAME_FLAGS["particle_burst"], 0) | np.where(
        tail, FRAME_FLAGS["geotail"], 0
    )
    flags[good] = own.astype("u2")
    return flags


def _intervals(gti: Any) -> tuple[np.ndarray, np.ndarray]:
    from lunarray.xrf.xsm import merge_intervals

    if isinstance(gti, xr.Dataset):
        start, end = gti["start"].values, gti["end"].values
    else:
        pairs = np.asarray(list(gti), "M8[ns]").reshape(-1, 2)
        start, end = pairs[:, 0], pairs[:, 1]
    return merge_intervals(np.asarray(start, "M8[ns]"), np.asarray(end, "M8[ns]"))


def _inside_gti(begin: np.ndarray, finish: np.ndarray, gti: Any) -> np.ndarray:
    """Whether frames lie in good time whole."""
    start, end = _intervals(gti)
    if not start.size:
        return np.zeros(begin.size, bool)
    i = np.searchsorted(start, begin, side="right") - 1
    return (i >= 0) & (finish <= end[np.maximum(i, 0)])


def _flare_flags(
    begin: np.ndarray, finish: np.ndarray, flares: pd.DataFrame, keep: Sequence[str], margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Flags, and the peak flux of the strongest flare that a frame is in (NaN where there is none)."""
    missing = {"start", "end", "flare_class", "peak_flux"} - set(flares.columns)
    if missing:
        raise InputError(
            f"the flare list has no {', '.join(sorted(missing))}",
            where="flares",
            remedy="Give what lunarray.xrf.read_goes_flares gives",
        )
    pad = np.timedelta64(round(margin * 1e9), "ns")
    start = flares["start"].to_numpy("M8[ns]") - pad
    end = flares["end"].to_numpy("M8[ns]") + pad
    flux = flares["peak_flux"].to_numpy("f8")
    peak = np.full(begin.size, np.nan)
    # Stronger flares overwrite weaker ones: an X flare spoils what a C flare during it would have given.
    order = np.argsort(begin, kind="stable")
    sorted_begin = begin[order]
    for k in np.argsort(flux, kind="stable"):
        first = np.searchsorted(sorted_begin, start[k], side="left")
        last = np.searchsorted(sorted_begin, end[k], side="right")
        rows = order[first:last]
        peak[rows[finish[rows] <= end[k]]] = flux[k]
    letters = np.array(list(FLARE_CLASSES))
    edges = np.array(list(FLARE_CLASSES.values()))
    # Classes begin at exact decades: nothing is lost by the tolerance, and 1e-6 * 1.0 stays a C.
    index = np.searchsorted(edges * (1 - 1e-9), np.nan_to_num(peak), side="right") - 1
    kept = np.isin(letters[np.maximum(index, 0)], list(keep)) & (index >= 0)
    flags = np.where(
        np.isnan(peak),
        FRAME_FLAGS["no_flare"],
        np.where(kept, 0, FRAME_FLAGS["flare_class_rejected"]),
    )
    return flags.astype("u2"), peak


@typed
def flag_frames(
    ds: xr.Dataset,
    *,
    max_incidence: float = 90.0,
    gti: xr.Dataset | Iterable[Any] | None = None,
    flares: pd.DataFrame | None = None,
    flare_classes: Sequence[str] = ("B", "C", "M"),
    flare_margin: float = 0.0,
    particles: bool = True,
    **particle_options: Any,
) -> xr.Dataset:
    """Flag the frames that are not to be used, and say why.

    Parameters
    ----------
    ds : Dataset
        CLASS spectra, as :func:`lunarray.open_class` gives them.
    max_incidence : float
        Frames with the Sun at this angle from the surface normal, or further, are night (degrees).
    gti : Dataset or iterable of pairs, optional
        Good time intervals, as :func:`lunarray.xrf.xsm.read_gti` gives them. Frames must lie in one whole.
    flares : DataFrame, optional
        As :func:`lunarray.xrf.read_goes_flares` gives it. Frames must lie in a flare whole.
    flare_classes : sequence of str
        Classes to keep: A flares are too weak, and in X flares the instrument is not reliable. Of flares that overlap
        the strongest counts.
    flare_margin : float
        Seconds that flares are taken to last longer on either side.
    particles : bool
        Flag the geotail and bursts of particles; this reads the counts (when computed).
    **particle_options
        Of :func:`particle_flags`.

    Returns
    -------
    Dataset
        `ds` with the coordinates ``flags`` (time,), uint16, bits of `xrf.selection.FRAME_FLAGS` (0: to be used);
        ``particle_rate`` where `particles`; ``flare_flux`` (peak flux of the flare, W/m²) where `flares`. Lazy where
        `ds` is.

    Raises
    ------
    InputError
        If `ds` has no CLASS counts, or `flares` or `flare_classes` are something else.

    Examples
    --------
    >>> import lunarray as la
    >>> frames = la.sample("class_flare").lunar.flag_frames()
    >>> int((frames["flags"] == 0).sum())
    12
    """
    require_frames(ds, "flag_frames")
    unknown = [c for c in flare_classes if c not in FLARE_CLASSES]
    if unknown:
        raise InputError(
            f"flare classes {', '.join(map(str, unknown))}",
            where="flag_frames",
            remedy="Give some of A B C M X",
        )
    incidence = ds["incidence"]
    flags: Any = _flag(~(incidence < max_incidence), "night")
    flags = flags | _flag(~np.isfinite(incidence), "no_geometry")
    for name in ("corner_lat", "corner_lon"):
        if name in ds.variables:
            flags = flags | _flag(~(abs(ds[name]) < np.inf).all("corner"), "no_geometry")
    new: dict[str, Any] = {}
    begin, finish = frame_bounds(ds)
    if gti is not None:
        flags = flags | _flag(_along_time(ds, ~_inside_gti(begin, finish, gti)), "outside_gti")
    if flares is not None:
        own, peak = _flare_flags(begin, finish, flares, flare_classes, flare_margin)
        flags = flags | _along_time(ds, own)
        name = "peak flux of the flare, 1-8 Angstrom"
        new["flare_flux"] = described("time", peak, "W m-2", name)
    if particles:
        rate = particle_rate(read_apart(without_bad_channels(ds)))
        new["particle_rate"] = rate
        flags = flags | _along_time(ds, _particle_flags_of(ds, rate, particle_options))
        flags = flags | _flag(~np.isfinite(rate), "bad_counts")
    elif particle_options:
        raise InputError(
            f"options {', '.join(particle_options)}",
            where="flag_frames",
            remedy="Leave them out with particles=False",
        )
    attrs = flag_attrs("why the frame is not to be used", FRAME_FLAGS, "u2")
    new["flags"] = ("time", flags.data, attrs)
    rules = [f"incidence < {max_incidence:g}"]
    rules += ["GTI"] if gti is not None else []
    rules += [f"flares {''.join(flare_classes)}"] if flares is not None else []
    rules += ["particles"] if particles else []
    return stamp(ds.assign_coords(new), f"flag_frames({', '.join(rules)})")


def _particle_flags_of(ds: xr.Dataset, rate: xr.DataArray, options: dict[str, Any]) -> Any:
    time, exposure = ds["time"].values, ds["exposure"]
    if not is_lazy(rate):
        return particle_flags(rate.values, time, exposure.values, **options)
    import dask.array as da

    return da.map_blocks(
        particle_flags,
        rate.data.rechunk(-1),
        da.from_array(time, chunks=-1),
        da.asarray(exposure.data).rechunk(-1),
        dtype="u2",
        meta=np.empty((0,), "u2"),
        **options,
    ).rechunk(rate.data.chunks)


def _along_time(ds: xr.Dataset, values: Any) -> xr.DataArray:
    return xr.DataArray(values, dims="time", coords={"time": ds["time"]})


def _flag(condition: Any, name: str) -> Any:
    return xr.where(condition, FRAME_FLAGS[name], 0).astype("u2")


@typed
def night_background(ds: xr.Dataset, *, min_incidence: float = 105.0) -> xr.Dataset:
    """Compute a background from frames of the night side.

    Parameters
    ----------
    ds : Dataset
        CLASS spectra, best after :func:`flag_frames`: frames in the geotail, in bursts or with bad counts are left
        out. Other flags do not matter here.
    min_incidence : float
        Frames with the Sun this far from the surface normal, or further, are taken (degrees). Between the terminator
        and this the field of view may hold lit ground.

    Returns
    -------
    Dataset
        ``counts`` (channel,), float64, with the scalars ``exposure`` (s, summed), ``n_detectors`` (the mean by
        exposure), ``gain`` (keV per channel) and ``n_frames``: what `background` of :func:`lunarray.xrf.fit_elements`
        takes. Lazy where `ds` is; without any such frame all are 0.

    Examples
    --------
    >>> import lunarray as la
    >>> orbit = la.simulate.class_orbit(frames=50, subsolar_longitude=180.0)
    >>> sun, response = la.simulate.thermal_spectrum(1.2, 1e-5), la.simulate.class_response()
    >>> frames = la.simulate.class_counts(la.xrf.HIGHLAND, orbit, sun, response)
    >>> frames.lunar.night_background()["counts"].dims
    ('channel',)
    """
    require_frames(ds, "night_background")
    dark = ds["incidence"] >= min_incidence
    if "flags" in ds.variables:
        spoilt = FRAME_FLAGS["geotail"] | FRAME_FLAGS["particle_burst"] | FRAME_FLAGS["bad_counts"]
        dark = dark & ((ds["flags"] & np.uint16(spoilt)) == 0)
    if "bad_channel" in ds.variables:
        dark = dark & ~ds["bad_channel"].any("channel")
    counts = ds["counts"].where(dark, 0.0)
    dark = dark & (abs(counts) < np.inf).all("channel")
    counts = counts.where(dark, 0.0)
    exposure = ds["exposure"].where(dark, 0.0)
    detectors: Any = CLASS_DETECTORS
    if "n_detectors" in ds.variables:
        detectors = ds["n_detectors"].fillna(CLASS_DETECTORS)
    total = exposure.sum()
    mean = (exposure * detectors).sum() / xr.where(total > 0, total, 1.0)
    parts = {
        "counts": (counts.astype("f8").sum("time"), "1", "background counts"),
        "exposure": (total, "s", "exposure"),
        "n_detectors": (mean, "1", "mean number of detectors used"),
        "gain": (ds["gain"].mean(), "keV", "energy per channel"),
        "n_frames": (dark.sum(), "1", "number of frames"),
    }
    result = xr.Dataset(
        {k: v.assign_attrs(units=units, long_name=text) for k, (v, units, text) in parts.items()}
    ).reset_coords(drop=True)
    keep = ("mission", "instrument", "source", "history")
    result.attrs = {key: ds.attrs[key] for key in keep if key in ds.attrs}
    return stamp(result, f"night_background(incidence >= {min_incidence:g})")
