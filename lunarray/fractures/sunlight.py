"""Where the light of an image comes from, and images turned so that it comes from the left.

A ridge is a fracture with the sun on the other side. A network that is to tell them apart has to know where the sun is;
one that was trained on images lit from the left gets all images so.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from lunarray.engine.models import ModelSpec, Tiles
from lunarray.errors import InputError, LunarrayWarning, require_number

#: The attribute of an image that says where its sun is: degrees clockwise from the image's top.
AZIMUTH = "sun_azimuth"
#: Smallest and largest side of a window that the light is looked for in, and windows along each axis at most.
_SIDES, _ALONG = (64, 256), 5
#: Pixels between two that are compared, and directions.
_SHIFTS, _DIRECTIONS = (3, 5, 8, 12), 16
#: Pixels of smoothing, of the surroundings that brightness is held against, and where it is cut, standard deviations.
_SMOOTH, _AROUND, _CLIP = 1.0, 16.0, 3.0
#: Length of the mean of the windows' directions below which they do not agree; and how many windows times its square
#: are no accident (Rayleigh's test of uniformity: 2 %).
_AGREED, _NO_ACCIDENT = 0.5, 4.0


def light_direction(azimuth: float) -> tuple[float, float]:
    """Which way the light of a sun at an azimuth (degrees) goes: along the columns, and down the rows."""
    return -math.sin(math.radians(azimuth)), math.cos(math.radians(azimuth))


def _azimuth(along: float, down: float) -> float:
    """Azimuth (degrees) of the sun whose light goes so."""
    return math.degrees(math.atan2(-along, down)) % 360


@dataclass(frozen=True)
class Turn:
    """Flips and an exchange of the axes, in this order, that bring the light from the left."""

    rows: bool = False
    columns: bool = False
    axes: bool = False

    @classmethod
    def of(cls, azimuth: float) -> Turn:
        """The turn for a sun at an azimuth: afterwards it stands at the left, or up to 45° above that."""
        # A sun along an axis is neither of its sides': rounding must not decide.
        along, down = (0.0 if abs(v) < 1e-9 else v for v in light_direction(azimuth))
        return cls(down < 0, along < 0, abs(down) > abs(along))

    def azimuth(self, azimuth: float) -> float:
        """Where a sun at an azimuth stands after the turn."""
        along, down = light_direction(azimuth)
        along, down = (-along if self.columns else along), (-down if self.rows else down)
        return _azimuth(down, along) if self.axes else _azimuth(along, down)

    def apply(self, values: Any) -> Any:
        """Turn (y, x), an array or a lazy one."""
        values = values[:: -1 if self.rows else 1, :: -1 if self.columns else 1]
        return values.T if self.axes else values

    def undo(self, values: Any) -> Any:
        """Turn back what was found in a turned image."""
        values = values.T if self.axes else values
        return values[:: -1 if self.rows else 1, :: -1 if self.columns else 1]


def azimuth_of(
    image: xr.DataArray, given: float | None = None, values: Any = None
) -> tuple[float, bool]:
    """Where the sun of an image is, degrees clockwise from its top, and whether that is sure.

    As it is given, as the attribute ``sun_azimuth`` says, or as :func:`light_azimuth` finds it, with a warning where
    the image does not tell it clearly; `values` (y, x) are its numbers where ``image.data`` has other than NaN where
    there are no data. InputError for an azimuth that is none.
    """
    for where, told in ((AZIMUTH, given), (f"attribute {AZIMUTH}", image.attrs.get(AZIMUTH))):
        if told is not None:
            require_number(where, told, -360.0, 720.0)
            return float(told) % 360, True
    found, certainty = light_azimuth(image.data if values is None else values)
    if certainty < _AGREED:
        warnings.warn(
            f"the image does not show clearly where its light comes from: {found:.0f}° clockwise from its top, or the "
            "other side, so that ridges may be taken for fractures (give sun_azimuth, or set "
            "image.attrs['sun_azimuth'])",
            LunarrayWarning,
            stacklevel=4,
        )
    return found, certainty >= _AGREED


def light_azimuth(values: Any) -> tuple[float, float]:
    """Azimuth of the sun as the pits of an image show it, degrees clockwise from the top, and how sure that is.

    `values` (y, x): brightness, NaN without data; of a lazy image 25 windows of 256 pixels are read. Nearly all that
    small craters show is a dark wall towards the sun and a bright one behind it, so that the product a²b - ab² of
    brightness at two places, less its surroundings, is positive on average where the second lies in the direction of
    the light. Returns (0, 0) where there is nothing to see; the certainty is the length of the mean of the windows'
    directions, 1 where all agree, less where these are few.
    """
    side = int(np.clip(min(values.shape) // 2, *_SIDES))
    rows, columns = (_starts(n, side) for n in values.shape)
    parts = [values[r : r + side, c : c + side] for r in rows for c in columns]
    if isinstance(values, da.Array):
        parts = dask.compute(*parts)
    total, weight = np.zeros(2), 0.0
    for part in parts:
        own = _moment(np.asarray(part, np.float64))
        size = float(np.hypot(*own))
        if size > 0:
            total += own / size
            weight += 1.0
    if weight == 0:
        return 0.0, 0.0
    length = float(np.hypot(*total)) / weight
    certainty = length * min(1.0, weight * length**2 / _NO_ACCIDENT)
    return _azimuth(*total), certainty


def _starts(length: int, side: int) -> list[int]:
    """Where windows begin along an axis: spread evenly."""
    count = int(np.clip(length // side, 1, _ALONG))
    return [int(s) for s in np.linspace(0, max(length - side, 0), count)]


def _moment(values: np.ndarray) -> np.ndarray:
    """Third moment of brightness by direction: along the columns, down the rows; 0 where too little is known."""
    from scipy.ndimage import gaussian_filter

    good = np.isfinite(values)
    if good.mean() < 0.5 or min(values.shape) < 4 * max(_SHIFTS):
        return np.zeros(2)
    filled = np.where(good, values, values[good].mean())
    x = gaussian_filter(filled, _SMOOTH) - gaussian_filter(filled, _AROUND / 2)
    spread = np.sqrt(gaussian_filter(x * x, _AROUND)) + 1e-3 * abs(float(filled.mean())) + 1e-300
    x = np.where(good, np.clip(x / spread, -_CLIP, _CLIP), 0.0)
    height, width = x.shape
    total = np.zeros(2)
    for shift in _SHIFTS:
        for k in range(_DIRECTIONS):
            angle = 2 * math.pi * k / _DIRECTIONS
            dx, dy = round(shift * math.cos(angle)), round(shift * math.sin(angle))
            a = x[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
            b = x[max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)]
            total += float((a * a * b - a * b * b).mean()) * np.array(
                [math.cos(angle), math.sin(angle)]
            )
    return total


def turns_of(
    image: xr.DataArray, values: Any, spec: ModelSpec, given: float | None = None
) -> tuple[Turn, ...]:
    """How an image is to be turned for a model: one way, or both where nobody knows where the light comes from.

    `values` (y, x) are its numbers, NaN without data. InputError where an azimuth is given that a model does not take.
    """
    if not isinstance(spec.inputs, Tiles) or spec.inputs.sun == "any":
        if given is not None:
            raise InputError(
                "an azimuth for a model that takes light from anywhere",
                where=AZIMUTH,
                remedy="Leave it out",
            )
        return (Turn(),)
    azimuth, sure = azimuth_of(image, given, values)
    return (Turn.of(azimuth),) if sure else (Turn.of(azimuth), Turn.of(azimuth + 180))
