"""Brightness of an image brought to the scale that a model was trained with.

What an image's numbers are stands in its attribute ``brightness_unit``, which :func:`lunarray.fractures.open_nac`
writes; what a model takes, in its normalisation or its :class:`lunarray.engine.Tiles`. Numbers of which neither a type
nor an attribute tells what they are, are refused rather than guessed at.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from lunarray.engine.models import Tiles
from lunarray.errors import InputError, LunarrayWarning, require_choice
from lunarray.fractures.normalise import UNITS, Normalisation, unit_of_range

#: The attribute of an image that says what its numbers are.
UNIT = "brightness_unit"
#: Attributes of an image that its scale is told by, to be kept where it is laid on another grid.
ATTRIBUTES = (UNIT, "stored")
#: Share of the model's range from black to white below which an image is warned of: what lies between its 1st and 99th
#: percentile. Plain mare in an 8-bit image spans more.
_LEAST_SPAN = 0.05
#: Pixels of a block that its span is taken of.
_SAMPLE = 4096
_BY_TYPE = {"uint8": "8-bit", "uint16": "16-bit"}
_WAYS = (
    "Give its black and white as value_range, or say what its numbers are in image.attrs['brightness_unit']: '0-1', "
    "'8-bit', '16-bit' or 'I/F' (map-fractures --unit; open_nac writes it)"
)


def unit_of(image: xr.DataArray) -> str | None:
    """What an image's numbers are, one of ``UNITS``; None where nothing tells. InputError where it says another."""
    told = image.attrs.get(UNIT)
    if told is not None:
        require_choice(UNIT, told, UNITS)
        return str(told)
    if "I/F" in str(image.attrs.get("long_name", "")):
        return "I/F"
    return _BY_TYPE.get(str(image.dtype))


def has_8_bits(image: xr.DataArray) -> bool:
    """Whether an image was stored in 8 bits, so that somebody has stretched it already."""
    return unit_of(image) == "8-bit" or str(image.attrs.get("stored", "")).startswith("uint8")


def rule_of(rule: Normalisation) -> Tiles:
    """What a model with this normalisation takes."""
    if rule.kind == "local":
        return Tiles(sun=rule.sun)
    return Tiles(
        value_range=(rule.offset, rule.offset + rule.scale),
        unit=rule.unit,
        stretch=rule.stretch,
        sun=rule.sun,
    )


@dataclass(frozen=True)
class Scaling:
    """A step from stored numbers to a model's.

    Attributes
    ----------
    factor, summand : float
        What they are multiplied by, and what is added then.
    bits : (float, float), optional
        Black and white of the model where the result is cut there and rounded to 8 bits.
    span : (float, float), optional
        Black and white of the model where it is to be checked how much of it an image uses.
    fill : float, optional
        The stored number that means no data.
    """

    factor: float = 1.0
    summand: float = 0.0
    bits: tuple[float, float] | None = None
    span: tuple[float, float] | None = None
    fill: float | None = None

    def __call__(self, block: np.ndarray, limits: np.ndarray | None = None) -> np.ndarray:
        """The numbers (y, x), float32; with `limits`, least and largest stored number, stretched between these."""
        image = np.array(block, np.float32)
        if self.fill is not None:
            image[block == self.fill] = np.nan
        factor, summand = self.factor, self.summand
        if limits is not None:
            assert self.bits is not None
            (low, high), (black, white) = map(float, limits), self.bits
            factor = (white - black) / (high - low) if high > low else 0.0
            summand = black - low * factor
        if (factor, summand) != (1.0, 0.0):
            image *= np.float32(factor)
            image += np.float32(summand)
        if self.bits is not None:
            black, white = self.bits
            # As GDAL rounds: half a step up.
            steps = np.floor((image - np.float32(black)) * np.float32(255 / (white - black)) + 0.5)
            image = np.clip(steps, 0, 255) * np.float32((white - black) / 255) + np.float32(black)
        if self.span is not None:
            _tell_narrow(image, *self.span)
        return image

    @property
    def idle(self) -> bool:
        """Whether it changes nothing."""
        return replace(self, span=None) == Scaling()


def _tell_narrow(image: np.ndarray, black: float, white: float) -> None:
    flat = image.reshape(-1)
    some = flat[:: max(1, flat.size // _SAMPLE)]
    some = some[np.isfinite(some)]
    if some.size < _SAMPLE // 4:
        return
    low, high = np.percentile(some, (1, 99))
    if abs(high - low) < _LEAST_SPAN * abs(white - black):
        warnings.warn(
            f"the image lies between {low:.3g} and {high:.3g}, the model was trained on {black:g} to {white:g}: it "
            "sees a nearly even grey. Give the image's black and white as value_range",
            LunarrayWarning,
            stacklevel=2,
        )


def scaled(
    image: xr.DataArray, value_range: tuple[float, float] | None, rule: Any, *, now: bool = False
) -> Any:
    """Pixels (y, x) as a model takes them: float32, NaN without data; lazy where the image is.

    `value_range`: black and white of the image as the user says; `rule`: the model's Tiles, or None; `now`: find the
    least and largest number of a lazy image at once, because parts of it will be read again and again. InputError
    where nothing tells what the image's numbers are, or they are of another kind than the model's.
    """
    values: Any = image.data
    step, limits = step_to(image, value_range, rule), None
    if _stretches(image, value_range, rule):
        limits = _limits(values, step.fill)
        if now:
            limits = np.asarray(limits)
        elif isinstance(limits, da.Array):
            from dask.graph_manipulation import bind

            # The image is read once more after its limits are known, rather than kept until then.
            values = bind(values, limits, seed=tokenize(values.name, "limits"))
    elif step.idle and step.span is None and values.dtype == np.float32:
        return values
    if not isinstance(values, da.Array):
        return step(np.asarray(values), limits)
    lazily: dict[str, Any] = {"dtype": np.float32, "meta": np.empty((0, 0), np.float32)}
    if isinstance(limits, da.Array):
        return da.map_blocks(_between, values, limits[0], limits[1], step=step, **lazily)
    return da.map_blocks(
        step, values, limits, name=f"scaled-{tokenize(values.name, step, limits)}", **lazily
    )


def step_to(image: xr.DataArray, value_range: tuple[float, float] | None, rule: Any) -> Scaling:
    """The step from an image's numbers to those of a model; see :func:`scaled`."""
    fill = _fill_value(image)
    if value_range is not None:
        (low, high), (black, white) = value_range, _checked(value_range, rule)
        black_white: tuple[float, float] | None = (black, white)
        factor = (white - black) / (high - low)
        bits = black_white if rule.stretch == "image" else None
        return Scaling(factor, black - low * factor, bits, black_white, fill)
    black_white = rule.value_range if isinstance(rule, Tiles) else None
    if black_white is None:
        return Scaling(fill=fill)
    if _stretches(image, value_range, rule):
        return Scaling(bits=black_white, fill=fill)
    unit, wanted = unit_of(image), rule.unit
    if wanted is None and unit is not None:
        # A model of one's own whose range alone was said is given what is known to be in its unit, and else numbers as
        # they are.
        wanted = unit_of_range(*black_white)
    return Scaling(_factor(unit, wanted, image.name), 0.0, None, black_white, fill)


def _between(block: np.ndarray, low: Any, high: Any, *, step: Scaling) -> np.ndarray:
    return step(block, np.array([low, high], np.float64))


def _stretches(image: xr.DataArray, value_range: Any, rule: Any) -> bool:
    """Whether the model wants the image stretched from its own least to its largest number."""
    wanted = isinstance(rule, Tiles) and rule.value_range is not None and rule.stretch == "image"
    return wanted and value_range is None and not has_8_bits(image)


def _limits(values: Any, fill: float | None) -> Any:
    """Least and largest finite number of an image: (2,) float64, lazy where it is; NaN where there is none."""
    array = da if isinstance(values, da.Array) else np
    good = array.isfinite(values) if fill is None else array.isfinite(values) & (values != fill)
    low, high = (
        pick(array.where(good, values, edge).astype(np.float64))
        for pick, edge in ((array.min, np.inf), (array.max, -np.inf))
    )
    return array.stack([low, high])


def _factor(unit: str | None, wanted: str | None, name: Any) -> float:
    """What numbers of one unit are multiplied by to be in another."""
    if wanted is None or unit == wanted:
        return 1.0
    where = str(name or "image")
    if unit is None:
        raise InputError(
            f"nothing tells what the image's numbers are, and the model was trained on {wanted}",
            where=where,
            remedy=_WAYS,
        )
    own, its = UNITS[unit], UNITS[wanted]
    if own is None or its is None:
        raise InputError(
            f"an image of {unit} for a model that was trained on {wanted}",
            where=where,
            remedy="Give the image's black and white as value_range, such as 0.01 and 0.12",
        )
    return its / own


def _checked(value_range: tuple[float, float], rule: Any) -> tuple[float, float]:
    """Black and white of the model, once those of the image make sense."""
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        raise InputError(
            repr(value_range), where="value_range", remedy="Give two numbers: (black, white)"
        ) from None
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(
            f"from {low} to {high}", where="value_range", remedy="Give (black, white), black first"
        )
    if not isinstance(rule, Tiles):
        raise InputError(
            "the scale of a model of your own is not known here",
            where="value_range",
            remedy="Leave it out, and bring the image to the model's scale",
        )
    if rule.value_range is None:
        raise InputError(
            "the model looks at local contrast, whatever the scale",
            where="value_range",
            remedy="Leave it out",
        )
    return rule.value_range


def _fill_value(image: xr.DataArray) -> float | None:
    """The value that stands for no data in an image that was read as it is."""
    value = image.attrs.get("_FillValue", image.attrs.get("nodata"))
    if value is None:
        return None
    try:
        # Some writers have it as a text, or as an array of one.
        number = float(np.asarray(value).item())
    except (TypeError, ValueError):
        raise InputError(
            f"no data are said to be {value!r}",
            where=str(image.name or "image"),
            remedy="Give a number as the attribute _FillValue, or leave it out",
        ) from None
    return number if np.isfinite(number) else None
