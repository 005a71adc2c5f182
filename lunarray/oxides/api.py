"""Oxide abundances of spectra, tracks and maps."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Literal, TypeVar

import dask.array as da
import numpy as np
import xarray as xr

from lunarray.engine import ModelSpec, map_pixels, take
from lunarray.engine.models import Device
from lunarray.engine.pixels import BATCH_SIZE
from lunarray.errors import BandMismatchError, InputError, ModelError
from lunarray.geo import assign_crs, crs_of
from lunarray.oxides import uncertainty as intervals
from lunarray.oxides.constants import MOLAR_MASS, OXIDES
from lunarray.oxides.predictor import OUTPUTS, SPREAD
from lunarray.oxides.weights import DEFAULT_WEIGHTS, load_calibration, read_header
from lunarray.sp.api import condition, is_native, resample_bands, spectra_of
from lunarray.sp.scale import sp_scale
from lunarray.store.provenance import stamp

T = TypeVar("T", xr.Dataset, xr.DataArray)

#: Sums of the six oxides outside of this (wt%) are flagged: soils hold one or two per cent of others.
SUM_RANGE = (95.0, 105.0)

#: Bits of the variable `quality`.
QUALITY_FLAGS = {
    "not_inverted": 1,
    "novel_spectrum": 2,
    "sum_out_of_range": 4,
    "negative_abundance": 8,
}

#: Wavelengths may differ from the model's by this much (nm), a sixth of a band's width.
BAND_TOLERANCE = 1.0

#: Abundances further below zero than this (wt%) are flagged; nearer, they are noise about zero.
NEGATIVE = -0.5

_QUALITY_ATTRS = {
    "long_name": "quality of the inversion, 0 where nothing speaks against it",
    "units": "1",
    "flag_masks": np.array(list(QUALITY_FLAGS.values()), np.uint8),
    "flag_meanings": " ".join(QUALITY_FLAGS),
}

_LONG_NAMES = {
    "FeO": "iron(II) oxide",
    "TiO2": "titanium dioxide",
    "Al2O3": "aluminium oxide",
    "CaO": "calcium oxide",
    "MgO": "magnesium oxide",
    "SiO2": "silicon dioxide",
}


def oxide_model(
    model: str | os.PathLike[str] | ModelSpec | None = None, *, device: Device = "auto"
) -> ModelSpec:
    """Choose an oxide model.

    Parameters
    ----------
    model : path or ModelSpec, optional
        Weights written by :func:`lunarray.oxides.save_oxide_cnn`; by default those that come with lunarray.
    device : {"auto", "cpu", "cuda"}
        Where to run it.

    Returns
    -------
    ModelSpec

    Raises
    ------
    ModelError
        If the weights cannot be read or give other oxides.
    """
    if isinstance(model, ModelSpec):
        return model
    path = DEFAULT_WEIGHTS if model is None else model
    oxides = read_header(path)["oxides"]
    if tuple(oxides) != OXIDES:
        raise ModelError(
            f"the model gives {', '.join(oxides)}",
            where=path,
            remedy=f"It must give {', '.join(OXIDES)}, in this order",
        )
    return ModelSpec.from_file(
        "lunarray.oxides.predictor:load_predictor", path, outputs=len(OUTPUTS), device=device
    )


def invert_oxides(
    obj: xr.Dataset | xr.DataArray,
    model: str | os.PathLike[str] | ModelSpec | None = None,
    *,
    device: Device = "auto",
    batch_size: int = BATCH_SIZE,
    uncertainty: bool = False,
    level: float = 0.9,
) -> xr.Dataset:
    """Invert reflectance spectra to the abundances of six oxides and Mg#.

    Parameters
    ----------
    obj : Dataset or DataArray
        Reflectance at 30°/0°/30° with a dimension `wavelength` (nm) and any others, such as `observation` or `y` and
        `x`; of a Dataset, the variable ``reflectance``. SP spectra as :func:`lunarray.open_sp` gives them, on the
        detectors' own channels, are conditioned first (:func:`lunarray.sp.condition`).
    model : path or ModelSpec, optional
        The user's own weights (:func:`lunarray.oxides.save_oxide_cnn`); by default the model that comes with
        lunarray. That one was trained on simulated soils alone: read its card, ``lunarray/oxides/data/default.md``.
    device : {"auto", "cpu", "cuda"}
        Where to run the model; "auto" takes a GPU in each process that sees one.
    batch_size : int
        Spectra that the model gets at once. It bounds memory and changes no result.
    uncertainty : bool
        Say how far off each abundance may be, as far as the model's calibration goes. A model with an ensemble runs
        all its members then.
    level : float
        Share of true values that the intervals are to hold.

    Returns
    -------
    Dataset
        On the dimensions of `obj` without `wavelength`; lazy where `obj` is. float32 unless said otherwise:

        - ``FeO``, ``TiO2``, ``Al2O3``, ``CaO``, ``MgO``, ``SiO2`` in wt%, as the model gives them: neither clipped nor
          normalised;
        - ``Mg_number``: Mg#, 100 · MgO / (MgO + FeO) in moles, %;
        - ``novelty``: how unlike its training the model finds the spectrum; above 1 it is further out than all but a
          thousandth of that;
        - ``quality``: flags (uint8, CF flag_masks): not_inverted (NaN in a band), novel_spectrum (novelty above 1),
          sum_out_of_range (oxides sum to less than 95 or more than 105 wt%), negative_abundance (below -0.5 wt%);
        - with `uncertainty`, for each oxide ``FeO_std``, the standard deviation of its error, and ``FeO_lower`` and
          ``FeO_upper``, a conformal interval, in wt%.

    Raises
    ------
    InputError
        If there is no reflectance.
    BandMismatchError
        If the wavelengths are not those of the model.
    ModelError
        If the model cannot be read, or has no calibration and `uncertainty` is asked for.

    Notes
    -----
    The standard deviation is the root mean square error of left-out predictions of about that abundance, widened where
    the ensemble of folds is at odds (:class:`lunarray.oxides.uncertainty.Calibration`). Its members are the networks of
    some of the folds, evenly spaced, not all. Intervals are split conformal ones with that standard
    deviation as the scale [2]_: over spectra like those of the calibration they hold the *reference's* abundance with
    probability `level`, on average over spectra. They do not know how far the reference is from the Moon, nor do they
    promise anything for spectra unlike the calibration's: look at `novelty`. For the default model the calibration is
    of simulated soils.

    References
    ----------
    .. [1] Bian et al. (2025), Oxide abundance inversion in the lunar polar regions using a 1D-CNN algorithm,
       doi:10.20944/preprints202511.1488.v1: the network (section 2.4, figure 3) and Mg# (section 3.4).
    .. [2] Lei et al. (2018), Distribution-free predictive inference for regression, JASA 113, 1094, section 5.2.
    """
    spec = oxide_model(model, device=device)
    calibration = None
    if uncertainty:
        spec, calibration = _with_uncertainty(spec)
        widths = intervals.quantile(calibration, level)
    reflectance = _conditioned(obj, "invert_oxides")
    _check_bands(reflectance, read_header(spec.weights)["wavelengths"], spec.weights)

    axis = reflectance.get_axis_num("wavelength")
    data = map_pixels(spec, reflectance.data, axis=axis, batch_size=batch_size)
    dims = tuple(dim for dim in reflectance.dims if dim != "wavelength")
    coords = {name: c for name, c in reflectance.coords.items() if "wavelength" not in c.dims}
    result = xr.Dataset(
        {name: (dims, take(data, index, axis)) for index, name in enumerate(OUTPUTS)},
        coords=coords,
    )
    result["Mg_number"] = mg_number(result)
    oxides_and_novelty = take(data, slice(len(OUTPUTS)), axis)
    result["quality"] = (dims, _quality(oxides_and_novelty, axis), _QUALITY_ATTRS)
    if calibration is not None:
        error = _scale(data, axis, calibration)
        for index, oxide in enumerate(OXIDES):
            sigma = take(error, index, axis)
            half = widths[index] * sigma
            values = result[oxide].data
            for name, array, text in (
                ("std", sigma, "standard deviation of the error of {}"),
                ("lower", values - half, f"lower end of the {100 * level:g} % interval of {{}}"),
                ("upper", values + half, f"upper end of the {100 * level:g} % interval of {{}}"),
            ):
                attrs = {"long_name": text.format(oxide), "units": "wt%"}
                result[f"{oxide}_{name}"] = (dims, array, attrs)
    for oxide in OXIDES:
        result[oxide].attrs = {"long_name": _LONG_NAMES[oxide], "units": "wt%"}
    result["novelty"].attrs = {
        "long_name": "distance of the spectrum from those of the training, 1 at their edge",
        "units": "1",
    }
    result = _keep_crs(result, reflectance)
    result.attrs = dict(obj.attrs)
    return stamp(
        result,
        "invert_oxides",
        source=obj.attrs.get("source"),
        model=os.path.basename(spec.weights),
        model_sha256=spec.sha256,
    )


def mg_number(ds: xr.Dataset) -> xr.DataArray:
    """Compute Mg#, the magnesium in the magnesium and iron.

    Parameters
    ----------
    ds : Dataset
        With `MgO` and `FeO` in wt%.

    Returns
    -------
    DataArray
        100 · MgO / (MgO + FeO) in moles, %, float32; NaN where there is not more than none of both together.

    Raises
    ------
    InputError
        If an oxide is missing.

    References
    ----------
    .. [1] Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, section 3.4.
    """
    missing = [oxide for oxide in ("MgO", "FeO") if oxide not in ds]
    if missing:
        raise InputError(
            f"no variable {' and '.join(missing)}",
            where="mg_number",
            remedy="Pass the result of invert_oxides",
        )
    magnesium = ds["MgO"] / np.float32(MOLAR_MASS["MgO"])
    both = magnesium + ds["FeO"] / np.float32(MOLAR_MASS["FeO"])
    result = (100 * magnesium / both.where(both > 0)).rename("Mg_number")
    result.attrs = {"long_name": "Mg#", "units": "%", "comment": "100 MgO / (MgO + FeO), molar"}
    return result


def feo_lucey2000(
    obj: xr.Dataset | xr.DataArray, *, scale: Literal["auto", "sp", "laboratory"] = "auto"
) -> xr.DataArray:
    """Estimate FeO from the ratio of two bands: a check that needs no training.

    Parameters
    ----------
    obj : Dataset or DataArray
        Reflectance at 30°/0°/30° with a dimension `wavelength` (nm) that spans 750 and 950 nm; of a Dataset, the
        variable ``reflectance``. SP spectra on the detectors' own channels are conditioned first.
    scale : {"auto", "sp", "laboratory"}
        The radiometric scale of the reflectance. SP's is brought to the laboratory's first
        (:func:`lunarray.sp.sp_scale`); "auto" takes for SP's what says so in its attributes `instrument` or `source`.

    Returns
    -------
    DataArray
        FeO in wt%, float32, on the other dimensions; lazy where `obj` is.

    Raises
    ------
    InputError
        If there is no reflectance.
    BandMismatchError
        If 750 or 950 nm lies outside the wavelengths.

    Notes
    -----
    17.427 · θ - 7.565 with θ = -arctan[(R950/R750 - 1.19) / (R750 - 0.08)], calibrated on Clementine reflectance, which
    is scaled to the laboratory's. SP reads soils 40 % darker and redder; without rescaling it the result is no FeO at
    all. The angle is taken in the full circle, so that it stays continuous where R750 falls below the origin of the
    trends, 0.08.

    References
    ----------
    .. [1] Lucey, Blewett and Jolliff (2000), Lunar iron and titanium abundance algorithms based on final processing of
       Clementine ultraviolet-visible images, JGR 105 (E8), 20297, eqs. 1 and 2.
    """
    reflectance = _conditioned(obj, "feo_lucey2000")
    if scale not in ("auto", "sp", "laboratory"):
        raise InputError(f"unknown scale {scale!r}", remedy="Choose auto, sp or laboratory")
    spectra = reflectance
    if scale == "sp" or (scale == "auto" and (_is_sp(obj) or _is_sp(reflectance))):
        spectra = spectra / xr.DataArray(sp_scale(spectra["wavelength"].values), dims="wavelength")
    pair = resample_bands(spectra, [750.0, 950.0])
    r750, r950 = (pair.isel(wavelength=i, drop=True) for i in (0, 1))
    theta = -xr.ufuncs.arctan2(r950 / r750 - 1.19, r750 - 0.08)
    result = (17.427 * theta - 7.565).astype(np.float32).rename("FeO_Lucey2000")
    result.attrs = {"long_name": "FeO by the band ratio of Lucey et al. (2000)", "units": "wt%"}
    return _keep_crs(result, reflectance)


def _conditioned(obj: xr.Dataset | xr.DataArray, step: str) -> xr.DataArray:
    """Take the reflectance, after conditioning where it is on the detectors' own channels."""
    if isinstance(obj, xr.Dataset | xr.DataArray) and is_native(obj):
        obj = condition(obj)  # type: ignore[type-var]
    return spectra_of(obj, step)


def _is_sp(obj: xr.Dataset | xr.DataArray) -> bool:
    return any("Spectral Profiler" in str(obj.attrs.get(key)) for key in ("instrument", "source"))


def _check_bands(reflectance: xr.DataArray, wanted: list[float], where: str) -> None:
    remedy = (
        "Bring the spectra to the model's wavelengths: obj.lunar.resample_bands(wavelengths); "
        "those of the default model are lunarray.sp.WAVELENGTHS_150"
    )
    have = reflectance["wavelength"].values
    if have.size != len(wanted):
        raise BandMismatchError(
            f"the model needs {len(wanted)} bands ({wanted[0]:g}–{wanted[-1]:g} nm) and the data have {have.size}"
            + (f" ({have[0]:g}–{have[-1]:g} nm)" if have.size else ""),
            where=where,
            remedy=remedy,
        )
    off = np.abs(have - np.asarray(wanted))
    if not off.max() <= BAND_TOLERANCE:
        worst = int(off.argmax())
        raise BandMismatchError(
            f"band {worst + 1} is at {have[worst]:g} nm and the model was trained at {wanted[worst]:g} nm",
            where=where,
            remedy=remedy,
        )


def _flags(outputs: np.ndarray, axis: int) -> np.ndarray:
    """Raise the flags of pixels from what the model gave for them: :data:`OUTPUTS` along `axis`."""
    oxides, novelty = np.split(np.moveaxis(outputs, axis, 0), [len(OXIDES)])
    total, lowest = oxides.sum(axis=0), oxides.min(axis=0)
    low, high = SUM_RANGE
    raised = {
        "not_inverted": np.isnan(total),
        "novel_spectrum": novelty[0] > 1,
        "sum_out_of_range": (total < low) | (total > high),
        "negative_abundance": lowest < NEGATIVE,
    }
    flags = np.zeros(total.shape, np.uint8)
    for flag, bit in QUALITY_FLAGS.items():
        flags[raised[flag]] |= bit
    return flags


def _quality(outputs: Any, axis: int) -> Any:
    if isinstance(outputs, np.ndarray):
        return _flags(outputs, axis)
    return da.map_blocks(
        _flags,
        outputs,
        axis,
        drop_axis=axis,
        dtype=np.uint8,
        meta=np.empty((0,) * (outputs.ndim - 1), np.uint8),
    )


def _with_uncertainty(spec: ModelSpec) -> tuple[ModelSpec, intervals.Calibration]:
    """The spec that runs the ensemble too, if there is one, and the calibration."""
    calibration = load_calibration(spec.weights)
    if calibration is None:
        raise ModelError(
            "the model has no calibration of its errors",
            where=spec.weights,
            remedy="train with folds, or leave uncertainty=False",
        )
    if read_header(spec.weights).get("members", 0) < 2:
        return spec, calibration
    loader = "lunarray.oxides.predictor:load_ensemble"
    return replace(spec, loader=loader, outputs=len(OUTPUTS) + len(SPREAD)), calibration


def _scale_block(outputs: np.ndarray, axis: int, **tensors: np.ndarray) -> np.ndarray:
    values = np.moveaxis(outputs, axis, 0)
    spread = values[len(OUTPUTS) :]
    result = intervals.scale(
        values[: len(OXIDES)], spread if len(spread) else None, intervals.from_tensors(tensors)
    )
    return np.moveaxis(result, 0, axis)


def _scale(outputs: Any, axis: int, calibration: intervals.Calibration) -> Any:
    """Standard deviation of each oxide's error, along `axis`."""
    # The scores are not needed here, and would travel with every task.
    tensors = {**calibration.tensors(), "scores": np.empty((0, 0), np.float32)}
    if isinstance(outputs, np.ndarray):
        return _scale_block(outputs, axis, **tensors)
    chunks = (*outputs.chunks[:axis], (len(OXIDES),), *outputs.chunks[axis + 1 :])
    return da.map_blocks(
        _scale_block,
        outputs,
        axis,
        **tensors,
        chunks=chunks,
        dtype=np.float32,
        meta=np.empty((0,) * outputs.ndim, np.float32),
    )


def _keep_crs(result: T, source: xr.DataArray) -> T:
    crs = crs_of(source)
    return result if crs is None else assign_crs(result, crs)
