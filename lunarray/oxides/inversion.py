"""What inversion does to the outputs of a model: bands checked, flags raised, errors scaled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from lunarray.engine import ModelSpec
from lunarray.errors import BandMismatchError, ModelError
from lunarray.oxides import uncertainty as intervals
from lunarray.oxides.constants import OXIDES
from lunarray.oxides.predictor import OUTPUTS, SPREAD
from lunarray.oxides.weights import load_calibration, read_header

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

QUALITY_ATTRS = {
    "long_name": "quality of the inversion, 0 where nothing speaks against it",
    "units": "1",
    "flag_masks": np.array(list(QUALITY_FLAGS.values()), np.uint8),
    "flag_meanings": " ".join(QUALITY_FLAGS),
}

#: Names of the oxides.
LONG_NAMES = {
    "FeO": "iron(II) oxide",
    "TiO2": "titanium dioxide",
    "Al2O3": "aluminium oxide",
    "CaO": "calcium oxide",
    "MgO": "magnesium oxide",
    "SiO2": "silicon dioxide",
}

#: How a model runs that was written by lunarray, without and with its ensemble.
LOADER = "lunarray.oxides.predictor:load_predictor"
ENSEMBLE_LOADER = "lunarray.oxides.predictor:load_ensemble"

#: What a model of one's own must be.
PROTOCOL = (
    f"An oxide model is ModelSpec.from_file('module:loader', weights, outputs={len(OUTPUTS)}), where "
    "loader(path, device) returns a function from spectra (pixel, band) to (pixel, output), float32: "
    f"{', '.join(OUTPUTS)}; the last may be left out. bands=(...) says the wavelengths that it needs, nm"
)


def check_spec(spec: ModelSpec) -> ModelSpec:
    """The spec itself, if what it gives can be oxides."""
    if spec.outputs not in (len(OXIDES), len(OUTPUTS)):
        raise ModelError(
            f"the model gives {spec.outputs} values a pixel", where=spec.loader, remedy=PROTOCOL
        )
    return spec


def _is_ours(spec: ModelSpec) -> bool:
    return spec.loader in (LOADER, ENSEMBLE_LOADER)


def bands_of(spec: ModelSpec) -> tuple[float, ...] | None:
    """Wavelengths (nm) that a model needs, None where it takes whatever there is."""
    if spec.bands is not None:
        return spec.bands
    return tuple(read_header(spec.weights)["wavelengths"]) if _is_ours(spec) else None


def check_bands(reflectance: xr.DataArray, spec: ModelSpec) -> None:
    """See that the wavelengths are those of the model."""
    wanted, where = bands_of(spec), spec.weights
    if wanted is None:
        return
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


def _padded(outputs: np.ndarray, axis: int, more: int) -> np.ndarray:
    widths = [(0, more if a == axis else 0) for a in range(outputs.ndim)]
    return np.pad(outputs, widths, constant_values=np.nan)


def with_novelty(outputs: Any, axis: int) -> Any:
    """Outputs along `axis` with a novelty of NaN, where a model gives none."""
    more = len(OUTPUTS) - outputs.shape[axis]
    if more <= 0:
        return outputs
    return _along(_padded, outputs, axis, len(OUTPUTS), more=more)


def _along(
    function: Any,
    outputs: Any,
    axis: int,
    size: int | None,
    dtype: Any = np.float32,
    **options: Any,
) -> Any:
    """A function of outputs along `axis`, which has `size` afterwards, or is dropped; lazy where the outputs are."""
    if isinstance(outputs, np.ndarray):
        return function(outputs, axis, **options)
    left = () if size is None else ((size,),)
    chunks = (*outputs.chunks[:axis], *left, *outputs.chunks[axis + 1 :])
    return da.map_blocks(
        function,
        outputs,
        axis,
        **options,
        chunks=chunks,
        drop_axis=[axis] if size is None else None,
        dtype=dtype,
        meta=np.empty((0,) * len(chunks), dtype),
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


def quality(outputs: Any, axis: int) -> Any:
    """Flags of pixels, without `axis`; lazy where the outputs are."""
    return _along(_flags, outputs, axis, None, np.uint8)


def with_uncertainty(spec: ModelSpec) -> tuple[ModelSpec, intervals.Calibration]:
    """The spec that runs the ensemble too, if there is one, and the calibration."""
    if not _is_ours(spec):
        raise ModelError(
            "a model of one's own brings no calibration of its errors",
            where=spec.loader,
            remedy="Leave uncertainty=False",
        )
    calibration = load_calibration(spec.weights)
    if calibration is None:
        raise ModelError(
            "the model has no calibration of its errors",
            where=spec.weights,
            remedy="Train with folds, or leave uncertainty=False",
        )
    if read_header(spec.weights).get("members", 0) < 2:
        return spec, calibration
    return replace(spec, loader=ENSEMBLE_LOADER, outputs=len(OUTPUTS) + len(SPREAD)), calibration


def _scale_block(outputs: np.ndarray, axis: int, **tensors: np.ndarray) -> np.ndarray:
    values = np.moveaxis(outputs, axis, 0)
    spread = values[len(OUTPUTS) :]
    result = intervals.scale(
        values[: len(OXIDES)], spread if len(spread) else None, intervals.Calibration(**tensors)
    )
    return np.moveaxis(result, 0, axis)


def error_scale(outputs: Any, axis: int, calibration: intervals.Calibration) -> Any:
    """Standard deviation of each oxide's error, along `axis`."""
    # The scores are not needed here, and would travel with every task.
    tensors = {**calibration.tensors(), "scores": np.empty((0, 0), np.float32)}
    return _along(_scale_block, outputs, axis, len(OXIDES), **tensors)
