"""What inversion does to the outputs of a model: bands checked, flags raised, errors scaled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from lunarray.engine import ModelSpec
from lunarray.engine.models import Spectra
from lunarray.errors import BandMismatchError, ModelError
from lunarray.oxides import uncertainty as intervals
from lunarray.oxides.constants import OXIDES
from lunarray.oxides.light_input import LIGHT_FLAGS
from lunarray.oxides.predictor import OUTPUTS
from lunarray.oxides.weights import load_calibration, read_header
from lunarray.units import WEIGHT

#: Sums of the six oxides outside of this (wt%) are flagged: soils hold one or two per cent of others.
SUM_RANGE = (95.0, 105.0)

#: Bits of the variable `quality`.
QUALITY_FLAGS = {
    "not_inverted": 1,
    "novel_spectrum": 2,
    "sum_out_of_range": 4,
    "negative_abundance": 8,
    "light_unknown": 16,
    **LIGHT_FLAGS,
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

#: How a model runs that was written by lunarray, without and with its ensemble, or with the errors that it knows.
LOADER = "lunarray.oxides.predictor:load_predictor"
ERRORS_LOADER = "lunarray.oxides.predictor:load_with_errors"
ENSEMBLE_LOADER = "lunarray.oxides.predictor:load_ensemble"

#: What a model of one's own must be.
PROTOCOL = (
    "An oxide model is ModelSpec.from_file('module:loader', weights, outputs=('FeO', 'TiO2', …)), where "
    "loader(path, device) returns a function from spectra (pixel, band) to (pixel, output), float32; bands=(...) says "
    f"the wavelengths that it needs, nm. outputs={len(OUTPUTS)} stands for {', '.join(OUTPUTS)}; the last is optional"
)
#: Names that the result has for other things.
_RESERVED = ("quality", "Mg_number", "novelty_std")
#: The light's uncertainty, as a model of ours gives it again beside its errors.
_LIGHT = "light_uncertainty"


@dataclass(frozen=True)
class Layout:
    """What a model gives, and where it lies along the axis of its outputs.

    `names` are at `places`, the standard deviations of their errors, where the model gives them all, at `std`, and
    those of them that are abundances in wt% at `percent`; `novelty` is where that is, and `light` where the light's
    uncertainty.
    """

    names: tuple[str, ...]
    places: tuple[int, ...]
    std: tuple[int, ...]
    percent: tuple[int, ...]
    novelty: int | None
    light: int | None = None


def layout_of(spec: ModelSpec) -> Layout:
    """The layout of what a model gives; ModelError if it gives no abundances, or under names that are taken."""
    if spec.outputs in (len(OXIDES), len(OUTPUTS)):
        outputs: tuple[str, ...] = OUTPUTS[: spec.width]
    elif isinstance(spec.outputs, int):
        raise ModelError(
            f"the model gives {spec.outputs} values a pixel", where=spec.loader, remedy=PROTOCOL
        )
    else:
        outputs = spec.outputs
    at = {name: index for index, name in enumerate(outputs)}
    others = ("novelty", _LIGHT)
    names = tuple(n for n in outputs if not n.endswith(("_std", "_spread")) and n not in others)
    taken = [name for name in names if name in _RESERVED]
    stray = [n for n in outputs if n.endswith("_std") and n.removesuffix("_std") not in names]
    if taken or stray or not names:
        raise ModelError(
            f"the model gives {', '.join(taken or stray or outputs)}",
            where=spec.loader,
            remedy="Name its outputs by what they are, such as FeO and TiO2, and the standard deviation of the error "
            f"of FeO FeO_std; {', '.join(_RESERVED[:2])} are made of them",
        )
    std = tuple(at[f"{name}_std"] for name in names if f"{name}_std" in at)
    percent = tuple(at[name] for name in names if units_of(spec, name) == WEIGHT)
    return Layout(
        names=names,
        places=tuple(at[name] for name in names),
        std=std if len(std) == len(names) else (),
        percent=percent,
        novelty=at.get("novelty"),
        light=at.get(_LIGHT),
    )


def units_of(spec: ModelSpec, name: str) -> str:
    """Units of what a model gives; of abundances, unless it says otherwise, percent by weight, however it says so."""
    units = dict(spec.units).get(name, WEIGHT)
    return WEIGHT if units == "wt%" else units


def _is_ours(spec: ModelSpec) -> bool:
    return spec.loader in (LOADER, ENSEMBLE_LOADER, ERRORS_LOADER)


def takes_light(spec: ModelSpec) -> bool:
    """Whether the model takes the light's uncertainty after the bands."""
    return isinstance(spec.inputs, Spectra) and spec.inputs.light


def pick_bands(reflectance: xr.DataArray, spec: ModelSpec) -> Any:
    """The bands that the model takes, in its order, of spectra that have these and more; others as they are."""
    wanted, have = spec.bands, reflectance["wavelength"].values
    if wanted is None or have.size <= 1 or not np.issubdtype(have.dtype, np.number):
        return reflectance
    nearest = np.abs(have[None, :] - np.asarray(wanted)[:, None])
    index = nearest.argmin(axis=1)
    off = np.take_along_axis(nearest, index[:, None], axis=1)
    same = np.array_equal(index, np.arange(have.size))
    # Not where the nearest band is another's: two of the model's on one of the spectra.
    if same or not off.max() <= BAND_TOLERANCE or np.unique(index).size < index.size:
        return reflectance
    return reflectance.isel(wavelength=index)


def check_bands(reflectance: xr.DataArray, spec: ModelSpec) -> None:
    """See that the wavelengths are those of the model."""
    wanted, where = spec.bands, spec.weights
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


def _flags(outputs: np.ndarray, axis: int, layout: Layout) -> np.ndarray:
    """Raise the flags of pixels from what the model gave for them along `axis`."""
    values = np.moveaxis(outputs, axis, 0)
    found = _rows(values, layout.places)
    total = found.sum(axis=0)
    raised = {"not_inverted": np.isnan(total)}
    if layout.percent:
        raised["negative_abundance"] = _rows(values, layout.percent).min(axis=0) < NEGATIVE
    if layout.novelty is not None:
        raised["novel_spectrum"] = values[layout.novelty] > 1
    if set(OXIDES) <= set(layout.names):
        # Other outputs than the six are no part of the sum, and fewer have none.
        low, high = SUM_RANGE
        if layout.names != OXIDES:
            total = found[[layout.names.index(oxide) for oxide in OXIDES]].sum(axis=0)
        raised["sum_out_of_range"] = (total < low) | (total > high)
    flags = np.zeros(total.shape, np.uint8)
    for flag, mask in raised.items():
        flags[mask] |= QUALITY_FLAGS[flag]
    return flags


def _rows(values: np.ndarray, places: tuple[int, ...]) -> np.ndarray:
    """Some of the values along the first axis; a view where they come first."""
    count = len(places)
    return values[:count] if places == tuple(range(count)) else values[list(places)]


def quality(outputs: Any, axis: int, layout: Layout) -> Any:
    """Flags of pixels, without `axis`; lazy where the outputs are."""
    return _along(_flags, outputs, axis, None, np.uint8, layout=layout)


#: What is known of a model's errors: by samples, by samples in classes of light, or by the model alone.
Calibrated = intervals.Calibration | intervals.LightCalibration | None


def with_uncertainty(spec: ModelSpec) -> tuple[ModelSpec, Calibrated]:
    """The spec that runs the ensemble too, if there is one, and the calibration; none where the model knows its errors.

    ModelError if it does not know them and has no calibration.
    """
    if layout_of(spec).std:
        return spec, None
    if not _is_ours(spec):
        raise ModelError(
            "a model of one's own brings no calibration of its errors, and gives no standard deviation for each output",
            where=spec.loader,
            remedy="Leave uncertainty=False, or let it give FeO_std besides FeO",
        )
    calibration = load_calibration(spec.weights)
    if calibration is None:
        raise ModelError(
            "the model has no calibration of its errors",
            where=spec.weights,
            remedy="Train with folds, or leave uncertainty=False",
        )
    header = read_header(spec.weights)
    if isinstance(calibration, intervals.LightCalibration):
        std = (f"{oxide}_std" for oxide in header["oxides"])
        outputs = (*header["oxides"], "novelty", *std, _LIGHT)
        return replace(spec, loader=ERRORS_LOADER, outputs=outputs), calibration
    if header.get("members", 0) < 2:
        return spec, calibration
    outputs = (*header["oxides"], "novelty", *(f"{oxide}_spread" for oxide in header["oxides"]))
    return replace(spec, loader=ENSEMBLE_LOADER, outputs=outputs), calibration


def errors_of(outputs: Any, axis: int, layout: Layout, calibration: Calibrated) -> Any:
    """Standard deviation of each abundance's error, along `axis`: the model's own, or by calibration."""
    if not isinstance(calibration, intervals.Calibration):
        return _along(_own_std, outputs, axis, len(layout.names), layout=layout)
    # The scores are not needed here, and would travel with every task.
    tensors = {**calibration.tensors(), "scores": np.empty((0, 0), np.float32)}
    return _along(_scale_block, outputs, axis, len(calibration.centres), **tensors)


def halves_of(
    outputs: Any, error: Any, axis: int, layout: Layout, calibration: Calibrated, level: float
) -> Any:
    """Half-widths of the intervals of all abundances, along `axis`."""
    if not isinstance(calibration, intervals.LightCalibration):
        widths = intervals.widths(calibration, level, len(layout.names))
        shape = [1] * error.ndim
        shape[axis] = -1
        return error * widths.astype(np.float32).reshape(shape)
    return _along(
        _light_halves,
        outputs,
        axis,
        len(layout.names),
        layout=layout,
        classes=calibration.light,
        widths=intervals.light_widths(calibration, level),
    )


def _light_halves(
    outputs: np.ndarray, axis: int, layout: Layout, classes: np.ndarray, widths: np.ndarray
) -> np.ndarray:
    values = np.moveaxis(outputs, axis, 0)
    light = values[layout.light]
    result = np.stack(
        [
            values[place] * intervals.by_light(light, classes, widths[:, oxide])
            for oxide, place in enumerate(layout.std)
        ]
    )
    return np.moveaxis(result, 0, axis)


def _own_std(outputs: np.ndarray, axis: int, layout: Layout) -> np.ndarray:
    return np.take(outputs, layout.std, axis)


def _scale_block(outputs: np.ndarray, axis: int, **tensors: np.ndarray) -> np.ndarray:
    values = np.moveaxis(outputs, axis, 0)
    oxides = len(tensors["centres"])
    # Lunarray's own: the oxides, novelty, and where there is an ensemble its spread.
    spread = values[oxides + 1 :]
    result = intervals.scale(
        values[:oxides], spread if len(spread) else None, intervals.Calibration(**tensors)
    )
    return np.moveaxis(result, 0, axis)
