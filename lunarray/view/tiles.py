"""Pictures of maps on the pixels of any grid: values by the one resampler, colours by matplotlib's colormaps."""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import InputError, require_choice
from lunarray.geo import Sampler, period_of

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    from lunarray.view.pyramid import Pyramid

#: Colormaps of the page, the first of each kind first.
COLORMAPS = (
    "viridis", "cividis", "magma", "inferno", "gray", "RdBu_r", "coolwarm", "PuOr_r", "terrain", "tab20",
)  # fmt: skip
#: Of differences.
DIVERGING = "RdBu_r"
# What is read for one picture at most, in pixels; from further away the map is coarser.
_LARGEST = 2**23
# Share of the weight of what lies around a place that must be there.
_MIN_VALID = 0.25


@dataclass(frozen=True)
class Scale:
    """Colours of values.

    Attributes
    ----------
    low, high : float
        Ends of the scale.
    cmap : str
        One of ``COLORMAPS``.
    """

    low: float
    high: float
    cmap: str = COLORMAPS[0]

    def __post_init__(self) -> None:
        require_choice("cmap", self.cmap, COLORMAPS)
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(
                f"a colour scale from {self.low} to {self.high}",
                where="low",
                remedy="Give two numbers, the lower one first",
            )


def scale_of(pyramid: Pyramid, target: GeoBox) -> float:
    """Pixels of a map along a pixel of a grid, in the middle of where the one has the other; NaN where nowhere."""
    rows, columns = target.shape
    row, column = np.meshgrid(
        np.linspace(0, rows, 9)[:-1] + rows / 18,
        np.linspace(0, columns, 9)[:-1] + columns / 18,
        indexing="ij",
    )
    sampler = Sampler(pyramid.box, target, "nearest", 1.0)
    r, c = sampler.positions(
        np.stack([row, row + 0.01, row]), np.stack([column, column, column + 0.01])
    )
    d = np.abs(
        (r[1] - r[0]) * (c[2] - c[0]) - (r[2] - r[0]) * (c[1] - c[0])
    )  # of the parallelogram
    height, width = pyramid.shape
    with np.errstate(invalid="ignore"):
        inside = np.isfinite(d) & (r[0] > -0.1 * height) & (r[0] < 1.1 * height)
        if period_of(pyramid.box.crs) is None:
            inside &= (c[0] > -0.1 * width) & (c[0] < 1.1 * width)
    inside = inside if inside.any() else np.isfinite(d)
    if not inside.any():
        return math.nan
    return float(np.sqrt(np.median(d[inside]))) / 0.01


def values_on(pyramid: Pyramid, target: GeoBox) -> np.ndarray:
    """Values of a map on the pixels of a grid, float32; NaN where there are none.

    From near they are those of the pixel that holds the place, from afar of means of pixels.
    """
    ratio = scale_of(pyramid, target)
    empty = np.full(tuple(target.shape), np.nan, np.float32)
    if not math.isfinite(ratio):
        return empty
    level = min(max(0, math.floor(math.log2(max(ratio, 1e-9)) + 0.1)), pyramid.levels)
    rows, columns = target.shape
    while True:
        near = pyramid.flags or (level == 0 and ratio < 4 / 3)
        method = "nearest" if near else "bilinear"
        sampler = Sampler(pyramid.level_box(level), target, method, _MIN_VALID)
        window = next((w for _, w in sampler.windows([0, rows], [0, columns])), None)
        if window is None:
            return empty
        size = (window.bottom - window.top) * (window.right - window.left)
        if size <= _LARGEST or level == pyramid.levels:
            break
        level += 1
    part = pyramid.read(level, *window)
    return sampler.sample(part, window, (0, rows), (0, columns))


@functools.cache
def _palette(cmap: str) -> bytes:
    import matplotlib

    colours = matplotlib.colormaps[cmap](np.linspace(0, 1, 255))[:, :3]
    return bytes(3) + (colours * 255 + 0.5).astype(np.uint8).tobytes()


def ramp(cmap: str, count: int = 17) -> list[str]:
    """Colours of a colormap from end to end, as a page writes them."""
    palette = np.frombuffer(_palette(cmap), np.uint8).reshape(-1, 3)[1:]
    return [
        "#" + bytes(palette[k]).hex() for k in np.linspace(0, len(palette) - 1, count).round().astype(int)
    ]  # fmt: skip


def picture(values: np.ndarray, scale: Scale) -> bytes:
    """A PNG of values, transparent where these are NaN."""
    from PIL import Image

    with np.errstate(invalid="ignore", over="ignore"):
        share = (values - scale.low) / (scale.high - scale.low)
    there = np.isfinite(values)
    numbers = 1 + np.clip(np.where(there, share, 0.0) * 255, 0, 254).astype(np.uint8)
    numbers[~there] = 0
    image = Image.fromarray(numbers, "P")
    image.putpalette(_palette(scale.cmap))
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=0, compress_level=1)
    return stream.getvalue()


def limits_of(values: np.ndarray) -> tuple[float, float]:
    """Ends of a scale for values: their 1st and 99th percentiles, made apart where these are one."""
    finite = np.asarray(values)[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(finite.astype(np.float64), (1.0, 99.0)))
    if not low < high:
        pad = max(abs(low) * 1e-3, 1e-6)
        low, high = low - pad, high + pad
    return low, high


def described(cmaps: tuple[str, ...] = COLORMAPS) -> list[dict[str, Any]]:
    """Colormaps as the page needs them."""
    return [{"name": cmap, "colours": ramp(cmap)} for cmap in cmaps]
