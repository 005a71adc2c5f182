"""Spectral conditioning of tracks and cubes: separate steps that compose, and the default composition.

Every step takes a Dataset (and works on its ``reflectance``) or a DataArray of spectra, with a ``wavelength``
dimension anywhere among its dimensions, returns a new object of the same kind, and is lazy on Dask input. Each
pixel is treated by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from lunarray.errors import BandMismatchError, InputError, require_choice, require_number
from lunarray.sp.bands import WAVELENGTHS_150, WAVELENGTHS_160
from lunarray.sp.io import QA_FLAGS
from lunarray.sp.light import with_light
from lunarray.sp.spectra import T, map_spectra, rebuild, rising_wavelengths, spectra_of

__all__ = [
    "SPIKE_CHANNELS",
    "condition",
    "despike",
    "is_native",
    "join_detectors",
    "mask_quality",
    "resample_bands",
    "smooth",
]

#: Channels (nm) of the joined spectrum that stand off their neighbours alike in every spectrum of both real
#: products (orbits 2358 and 4184): 512.6 (-17 %, the end of the VIS detector), and by 1.5-4 % channels at strong
#: lines of the solar spectrum, which the division by a solar spectrum of another resolution leaves behind (Na D
#: 589, H-alpha 656, Ca II 850, 854 and 866 nm with the channel between) and five others. Listed, so that they are
#: removed from all spectra and not from those alone where noise lifts them over a threshold.
SPIKE_CHANNELS = (
    *(512.6, 590.6, 614.6, 656.6, 848.8, 854.6, 860.7, 866.7),
    *(1284.2, 1475.8, 1587.7, 1628.1),
)

_SAME_CHANNEL = 0.05  # nm; SP states wavelengths to 0.1 nm
_VIS_LAST, _NIR1_FIRST, _NIR1_LAST, _NIR2_FIRST = 944.6, 955.4, 1644.2, 1717.6
_DEFAULT_FLAGS = ("no_value", "saturated", "bad_channel", "detector_end")


# ---- the steps ----
def is_native(obj: xr.Dataset | xr.DataArray) -> bool:
    """Whether these are SP spectra as the product has them: VIS, NIR1 and NIR2 one after the other, not joined.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray

    Returns
    -------
    bool
        True if there is a coordinate ``detector`` along ``wavelength`` with both VIS and NIR1 in it, and
        wavelengths go back where NIR1 begins.

    Examples
    --------
    >>> import lunarray as la
    >>> sp = la.sample("sp_orbit")
    >>> la.sp.is_native(sp)
    True
    """
    if "detector" not in obj.coords or "wavelength" not in obj.dims:
        return False
    if obj["detector"].dims != ("wavelength",) or not {"VIS", "NIR1"} <= set(_detectors(obj)):
        return False
    return bool(np.any(np.diff(obj["wavelength"].values) <= 0))


def _detectors(obj: Any) -> list[str]:
    """Names of the channels' detectors; a list of labels that `Dataset.chunk` may have turned into a Dask array is
    looked at here and now."""
    data = obj["detector"].data
    return list(data.compute(scheduler="synchronous") if hasattr(data, "dask") else data)


def mask_quality(
    ds: T,
    flags: Iterable[str] | int = _DEFAULT_FLAGS,
    *,
    valid_range: tuple[float, float] = (0.0, 1.0),
    max_incidence: float | None = None,
    max_emission: float | None = None,
) -> T:
    """Mask what the quality words, the range of values or the geometry reject.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Spectra; the quality words are the variable ``qa`` of a Dataset (without it only the other criteria count).
    flags : iterable of str, or int
        Names from `lunarray.sp.QA_FLAGS`, or a mask of bits, that reject a value. The flag ``overlap`` is not among
        the defaults: it marks sound channels that the joined spectrum leaves out, and `join_detectors` compares the
        detectors on them.
    valid_range : (float, float)
        Values are kept in (low, high].
    max_incidence, max_emission : float, optional
        Largest angles (degrees) of ``incidence`` and ``emission`` beside the spectra; whole spectra are masked beyond.

    Returns
    -------
    same as `ds`

    Raises
    ------
    InputError
        If a flag is unknown, or an angle is asked for that is not there.

    Examples
    --------
    >>> import lunarray as la
    >>> sp = la.sample("sp_orbit")
    >>> masked = sp.lunar.mask_quality(max_incidence=42.0)
    >>> float(masked["reflectance"].isnull().all("wavelength").mean().round(1))
    0.6
    """
    step = "mask_quality"
    spectra = spectra_of(ds, step)
    if isinstance(flags, int | np.integer):
        bits = int(flags)
    else:
        flags = (flags,) if isinstance(flags, str) else tuple(flags)
        unknown = [f for f in flags if f not in QA_FLAGS]
        if unknown:
            raise InputError(
                f"unknown quality flags {unknown}",
                where=step,
                remedy=f"Flags are {', '.join(QA_FLAGS)}",
            )
        bits = sum(QA_FLAGS[f] for f in set(flags))
    low, high = map(float, valid_range)
    arrays = [spectra.variable]
    if not hasattr(ds, "to_dataset") and "qa" in ds.data_vars:
        qa = ds["qa"].variable.transpose(*spectra.dims)
        arrays.append(qa.chunk(spectra.chunksizes) if spectra.chunks else qa)
    masked = xr.apply_ufunc(
        _mask_block,
        *arrays,
        kwargs={"flags": bits, "low": low, "high": high},
        dask="parallelized",
        output_dtypes=[np.float32],
    )
    names = flags if isinstance(flags, tuple) else (hex(bits),)
    note = f"mask_quality(flags={'+'.join(names)}, valid_range=({low:g}, {high:g}]"
    result = spectra.copy(data=masked.data)
    for name, limit in (("incidence", max_incidence), ("emission", max_emission)):
        if limit is None:
            continue
        angle = ds[name] if name in getattr(ds, "variables", ds.coords) else None
        if angle is None:
            raise InputError(
                f"max_{name} is given but there is no '{name}' beside the spectra",
                where=step,
                remedy=f"Leave max_{name} out",
            )
        result = result.where(angle <= limit).transpose(*spectra.dims)
        note += f", max_{name}={limit:g}"
    return rebuild(ds, spectra, result.data, None, note + ")")


def _mask_block(block: np.ndarray, qa: np.ndarray | None = None, **options: Any) -> np.ndarray:
    from lunarray.sp.kernels import mask_kernel

    block = np.asarray(block, np.float32)
    if qa is not None and qa.dtype.kind == "f":
        # xarray's `where` makes floats of whole numbers; where it put NaN the quality is unknown.
        known = np.isfinite(qa)
        block = np.where(known, block, np.float32(np.nan))
        qa = np.where(known, qa, 0).astype(np.uint16)
    return mask_kernel(block, qa, **options)


def join_detectors(
    ds: T,
    *,
    method: Literal["ratio", "difference"] | None = "ratio",
    anchor: Literal["VIS", "NIR1"] = "VIS",
    window: tuple[float, float] = (930.0, 965.0),
    nir2: bool = False,
    keep_step: bool = False,
) -> T:
    """Join VIS and NIR1 on one rising axis of wavelengths, and remove the step between them.

    The result has the 160 channels on which the SP photometric parameters are published: VIS up to 944.6 nm, NIR1
    from 955.4 to 1644.2 nm. The step is the median, over the NIR1 channels in `window`, of the ratio (or
    difference) of NIR1 to VIS interpolated there. In both real products that ratio is 1.004 whereas the difference
    follows the albedo, hence the ratio by default; outside the window the comparison says nothing, because VIS
    rises spuriously beyond 970 nm and NIR1 falls short below 910 nm.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Native SP spectra (`is_native`).
    method : {"ratio", "difference"} or None
        How the step is removed; None only puts the channels together.
    anchor : {"VIS", "NIR1"}
        The detector that stays as it is.
    window : (float, float)
        Wavelengths (nm) of the comparison.
    nir2 : bool
        Append NIR2 from 1717.6 nm, with the gain of NIR1.
    keep_step : bool
        Add the step that was found as variable ``join_step`` (of a Dataset). It is NaN, and the spectrum is left
        unscaled, where fewer than two comparisons are possible.

    Returns
    -------
    same as `ds`
        Other spectral variables are reduced to the same channels but not scaled.

    Raises
    ------
    BandMismatchError
        If these are not native SP spectra.

    Examples
    --------
    >>> import lunarray as la
    >>> sp = la.sample("sp_orbit")
    >>> joined = sp.lunar.mask_quality().lunar.join_detectors()
    >>> joined.sizes["wavelength"]
    160
    """
    step = "join_detectors"
    spectra = spectra_of(ds, step)
    if not is_native(spectra):
        raise BandMismatchError(
            "not native SP spectra: no coordinate 'detector' with VIS and NIR1, or already joined",
            where=step,
            remedy="Give a dataset as open_sp returns it",
        )
    require_choice("method", method, ("ratio", "difference", None))
    require_choice("anchor", anchor, ("VIS", "NIR1"))
    parts: tuple[Any, Any] = _joined_channels(spectra, window, method, nir2)
    static = (*parts[0], *parts[1], method == "difference", anchor == "NIR1", 2)
    channels = np.concatenate(parts[0])
    data = map_spectra(spectra, "join_kernel", static, channels.size, part=0)
    note = (
        f"join_detectors(method={method}, anchor={anchor}, window={window[0]:g}-{window[1]:g} nm)"
    )
    result = rebuild(ds, spectra, data, channels, note)
    if keep_step and isinstance(result, xr.Dataset):
        ratio = map_spectra(spectra, "join_kernel", static, channels.size, part=1)
        dims = [d for d in spectra.dims if d != "wavelength"]
        attrs = {"units": "1", "long_name": f"{method} NIR1 to VIS in their overlap"}
        result = result.assign(join_step=(dims, ratio, attrs))
    return result


def _joined_channels(
    spectra: xr.DataArray, window: tuple[float, float], method: str | None, nir2: bool
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Channels of VIS, NIR1 and NIR2 that are kept; NIR1 channels to compare, those of VIS on either side, weights."""
    from lunarray.sp.kernels import resampling_weights

    wavelength = spectra["wavelength"].values.astype(np.float64)
    detector = np.array(_detectors(spectra))
    index = {d: np.flatnonzero(detector == d) for d in ("VIS", "NIR1", "NIR2")}
    w = {d: wavelength[i] for d, i in index.items()}
    eps = _SAME_CHANNEL
    vis = index["VIS"][w["VIS"] <= _VIS_LAST + eps]
    nir1 = index["NIR1"][(w["NIR1"] >= _NIR1_FIRST - eps) & (w["NIR1"] <= _NIR1_LAST + eps)]
    rest = index["NIR2"][w["NIR2"] >= _NIR2_FIRST - eps] if nir2 else np.empty(0, np.int64)
    inside = (w["NIR1"] >= window[0]) & (w["NIR1"] <= window[1])
    inside &= (w["NIR1"] >= w["VIS"][0]) & (w["NIR1"] <= w["VIS"][-1])
    compared = index["NIR1"][inside]
    if method is None:
        compared = np.empty(0, np.int64)
    elif compared.size < 2:
        raise InputError(
            f"window={window} holds {compared.size} channels that VIS and NIR1 share",
            where="join_detectors",
            remedy="Give a window inside 884-1010 nm with two channels at least",
        )
    left, weight = resampling_weights(w["VIS"], wavelength[compared], 0.0)
    right = np.minimum(left + 1, w["VIS"].size - 1)
    return (vis, nir1, rest), (compared, index["VIS"][left], index["VIS"][right], weight)


def despike(
    ds: T,
    *,
    window: int = 7,
    threshold: float = 4.0,
    channels: Sequence[float] | Literal["auto"] | None = "auto",
    fill: bool = True,
    max_gap: float = 40.0,
    floor: float = 0.002,
) -> T:
    """Remove channels that stick out of their spectrum, and those on a list of bad ones.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Spectra on a rising axis.
    window : int
        Channels of the running median (odd), which is then smoothed linearly over the same width to make the
        baseline. The outermost channels of a spectrum are not tested.
    threshold : float
        A spike is farther from the baseline than `threshold` robust standard deviations (1.4826 MAD of that
        spectrum's residuals).
    channels : sequence of float, "auto" or None
        Wavelengths (nm) taken out of every spectrum. "auto": `SPIKE_CHANNELS` if this is SP's joined axis, else none.
    fill : bool
        Put a linear interpolation where something was removed (not where a value was missing before); otherwise NaN.
    max_gap : float
        The two channels of an interpolation are at most this far apart (nm).
    floor : float
        The standard deviation is taken as at least this fraction of the spectrum's median.

    Returns
    -------
    same as `ds`

    Examples
    --------
    >>> import lunarray as la
    >>> sp = la.sample("sp_orbit")
    >>> sp.lunar.mask_quality().lunar.join_detectors().lunar.despike().sizes["observation"]
    240
    """
    step = "despike"
    spectra = spectra_of(ds, step)
    wavelength = rising_wavelengths(spectra, step)
    if window < 3 or window % 2 == 0:
        raise InputError(f"window={window}", where=step, remedy="Give an odd number of at least 3")
    require_number("threshold", threshold, 0, strictly=True)
    require_number("max_gap", max_gap, 0, strictly=True)
    auto = isinstance(channels, str)
    wanted = np.asarray(SPIKE_CHANNELS if auto else channels if channels is not None else (), float)
    distance = np.abs(wavelength[None, :] - wanted[:, None])
    hit = distance <= _SAME_CHANNEL
    if auto and not _is_joined_sp(wavelength):
        hit[:] = False
    elif not auto and not hit.any(axis=1).all():
        missing = wanted[~hit.any(axis=1)]
        raise BandMismatchError(
            f"no channels at {missing.tolist()} nm",
            where=step,
            remedy="Give wavelengths of channels, to 0.05 nm",
        )
    listed = hit.any(axis=0)
    from lunarray.sp.kernels import smoothing_weights

    # Linear, over as much as the running median covers: what is left of a spike after the median is spread out.
    width = (window - 1) * float(np.median(np.diff(wavelength))) if wavelength.size > 1 else 1.0
    baseline: Any = smoothing_weights(wavelength, width, 1)
    limits: Any = (float(threshold), float(floor), bool(fill), float(max_gap))
    static: tuple[Any, ...] = (wavelength, listed, window // 2, *baseline, *limits)
    data = map_spectra(spectra, "despike_kernel", static, wavelength.size)
    note = f"despike(window={window}, threshold={threshold:g}, listed={int(listed.sum())}, fill={fill})"
    return rebuild(ds, spectra, data, None, note)


def _is_joined_sp(wavelength: np.ndarray) -> bool:
    """Whether the axis begins like SP's joined one: its channels, all of them up to NIR2."""
    n = WAVELENGTHS_160.size
    return wavelength.size >= n and bool(
        np.all(np.abs(wavelength[:n] - WAVELENGTHS_160) <= _SAME_CHANNEL)
    )


def smooth(ds: T, window: float = 50.0, order: int = 2) -> T:
    """Smooth spectra by local least-squares polynomials (Savitzky and Golay 1964) in a window of fixed width in nm.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Spectra on a rising axis, which need not be even.
    window : float
        Full width (nm). Near the ends the window keeps its width and stays inside the axis.
    order : int
        Degree of the polynomial, 0 to 5; lowered where a window holds too few channels.

    Returns
    -------
    same as `ds`
        Missing channels stay missing and do not spoil their neighbours.

    References
    ----------
    Savitzky, A., Golay, M. J. E., 1964. Smoothing and differentiation of data by simplified least squares
    procedures. Analytical Chemistry 36, 1627-1639.

    Examples
    --------
    >>> import lunarray as la
    >>> spectra = la.sample("sp_orbit").lunar.condition()
    >>> spectra.lunar.smooth(window=80.0)["reflectance"].shape
    (240, 150)
    """
    step = "smooth"
    spectra = spectra_of(ds, step)
    wavelength = rising_wavelengths(spectra, step)
    require_number("window", window, 0, strictly=True)
    window = float(window)
    if order not in range(6):
        raise InputError(f"order={order!r}", where=step, remedy="Give 0 to 5")
    from lunarray.sp.kernels import smoothing_weights

    weights: Any = smoothing_weights(wavelength, window, order)
    static: tuple[Any, ...] = (wavelength, *weights, window, int(order))
    data = map_spectra(spectra, "smooth_kernel", static, wavelength.size)
    return rebuild(ds, spectra, data, None, f"smooth(window={window:g} nm, order={order})")


def resample_bands(
    ds: T, wavelengths: Sequence[float] | np.ndarray = WAVELENGTHS_150, *, max_gap: float = 50.0
) -> T:
    """Bring spectra to given wavelengths by linear interpolation.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Spectra on a rising axis.
    wavelengths : sequence of float
        Rising wavelengths (nm) within those of `ds`. A wavelength that is a channel of `ds` (to 0.05 nm) takes its
        value.
    max_gap : float
        Missing channels are interpolated over if their neighbours are at most this far apart (nm); NaN otherwise.

    Returns
    -------
    same as `ds`
        Other spectral variables are dropped.

    Raises
    ------
    BandMismatchError
        If `wavelengths` go beyond those of `ds`.

    Examples
    --------
    >>> import lunarray as la
    >>> spectra = la.sample("sp_orbit").lunar.condition()
    >>> spectra.lunar.resample_bands([750.0, 950.0, 1000.0]).sizes["wavelength"]
    3
    """
    step = "resample_bands"
    spectra = spectra_of(ds, step)
    source = rising_wavelengths(spectra, step)
    require_number("max_gap", max_gap, 0, strictly=True)
    target = np.asarray(wavelengths, np.float32)
    wide = target.astype(np.float64)
    rising = wide.ndim == 1 and wide.size and np.all(np.diff(wide) > 0)
    if not rising or not np.all(np.isfinite(wide)):
        raise InputError(
            "wavelengths are not a rising sequence of numbers",
            where=step,
            remedy="Give wavelengths in nm from short to long",
        )
    eps = _SAME_CHANNEL
    if not source.size or wide[0] < source[0] - eps or wide[-1] > source[-1] + eps:
        has = f"{source[0]:.1f}-{source[-1]:.1f} nm" if source.size else "none"
        raise BandMismatchError(
            f"wavelengths {wide[0]:.1f}-{wide[-1]:.1f} nm are asked for, the spectra have {has}",
            where=step,
            remedy="Give wavelengths inside that range; nothing is extrapolated",
        )
    from lunarray.sp.kernels import resampling_weights

    left, position = resampling_weights(source, wide, _SAME_CHANNEL)
    static = (source, wide, left, position, float(max_gap))
    data = map_spectra(spectra, "resample_kernel", static, target.size)
    note = f"resample_bands({target.size} wavelengths, {wide[0]:.1f}-{wide[-1]:.1f} nm)"
    return rebuild(ds, spectra, data, target, note)


def condition(ds: T, wavelengths: Sequence[float] | np.ndarray = WAVELENGTHS_150) -> T:
    """Condition spectra by the default steps.

    They are `mask_quality`, `join_detectors`, `despike`, `smooth` and `resample_bands`, each with its defaults.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        Native SP spectra, or spectra on a rising axis (a cube, say), for which joining is left out.
    wavelengths : sequence of float
        Wavelengths (nm) of the result.

    Returns
    -------
    same as `ds`
        ``attrs["conditioned"]`` says what was done. Where there are angles, ``light_uncertainty`` and
        ``light_quality`` (`lunarray.sp.LIGHT_FLAGS`) stand beside the spectra, see
        :func:`lunarray.sp.light_uncertainty`.

    Raises
    ------
    InputError
        If `ds` has been through here already: smoothing twice is not smoothing once.

    Examples
    --------
    >>> import lunarray as la
    >>> sp = la.sample("sp_orbit")
    >>> sp.lunar.condition().sizes["wavelength"]
    150
    """
    spectra = spectra_of(ds, "condition")
    if "conditioned" in ds.attrs or "conditioned" in spectra.attrs:
        raise InputError(
            "these spectra are conditioned already",
            where="condition",
            remedy="Use lunarray.sp.resample_bands to change their wavelengths",
        )
    native = is_native(spectra)
    result = mask_quality(ds)
    if native:
        result = join_detectors(result)
    result = resample_bands(smooth(despike(result)), wavelengths)
    done = spectra_of(result, "condition")
    chain = done.attrs["conditioning"]
    result = result.assign_attrs(conditioned=chain)
    if not hasattr(result, "to_dataset"):
        result["reflectance"].attrs["conditioned"] = chain
    return with_light(result)
