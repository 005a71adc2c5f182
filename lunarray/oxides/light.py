"""Light that is not quite known: spectra as shape and level, and what of the level is used (NumPy and Numba).

A spectrum is its level, the mean of its bands, times its shape. An unknown gain of the light changes the level and
leaves the shape. A network reads the shape; one of its values foretells the logarithm of the level that soil of this
shape has. How far the measured level is off that says more about the soil the better the light is known: for normal
errors as much as the Kalman gain ``v / (v + s²)`` lets through, with v the variance of what the shape leaves open of
the level and s the standard deviation of the logarithm of the light's gain. This share is fixed and goes to exactly
nothing at :data:`UNKNOWN`; what is made of it is learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lunarray.engine.compiling import njit
from lunarray.errors import ModelError

#: ln-sd of the light's gain from which on the level is not used at all.
UNKNOWN = 1.0
#: What is taken where nothing is known of the light of spectra: an unknown gain.
DEFAULT_LIGHT = 0.5
#: Standard deviation of ln(level) that the shape of a soil's spectrum leaves open.
LEVEL_SPREAD = 0.1
_LEAST = LEVEL_SPREAD**2 / (LEVEL_SPREAD**2 + UNKNOWN**2)
#: Logarithms of standard deviations (of standardised oxides) are kept between these.
LOG_STD = (-4.0, 1.5)
_LOW, _HIGH = (np.float32(value) for value in LOG_STD)

#: Names of the arrays of :class:`LightHead` in a state.
_LAYERS = ("first", "second", "last", "skip")


def share_of_level(light: ArrayLike) -> NDArray[np.float32]:
    """How much of the level is used, 1 for known light to 0 at :data:`UNKNOWN` and beyond."""
    s = np.asarray(light, np.float32)
    share = np.float32(LEVEL_SPREAD**2) / (np.float32(LEVEL_SPREAD**2) + s * s)
    return np.maximum((share - np.float32(_LEAST)) / np.float32(1 - _LEAST), np.float32(0))


class LightHead(NamedTuple):
    """The layers after the convolutions of a :class:`lunarray.oxides.model.LightCNN`, as arrays (float32).

    `first_weight` (hidden + 1, unit), `second_weight` (unit, unit, from first), `last_weight` (2 oxides, unit), their
    biases, and `skip_weight` (2 oxides, hidden + 1), past the units; `level` is mean and standard deviation of
    ln(level), and `target_mean`, `target_std` (oxide,) those of the oxides, wt%.
    """

    first_weight: NDArray[np.float32]
    first_bias: NDArray[np.float32]
    second_weight: NDArray[np.float32]
    second_bias: NDArray[np.float32]
    last_weight: NDArray[np.float32]
    last_bias: NDArray[np.float32]
    skip_weight: NDArray[np.float32]
    level: NDArray[np.float32]
    target_mean: NDArray[np.float32]
    target_std: NDArray[np.float32]

    @classmethod
    def from_state(cls, state: Mapping[str, ArrayLike]) -> LightHead:
        """The arrays out of the state of a LightCNN; ModelError when one is missing."""
        names = {
            name: f"{name.replace('_', '.')}"
            for name in (f"{layer}_{part}" for layer in _LAYERS for part in ("weight", "bias"))
            if name != "skip_bias"
        } | {"level": "level", "target_mean": "target_mean", "target_std": "target_std"}
        try:
            arrays = {name: np.array(state[key], np.float32) for name, key in names.items()}
        except KeyError as error:
            raise ModelError(
                f"no tensor {error}", where="state", remedy="Give the state of a LightCNN"
            ) from error
        for name in ("first_weight", "second_weight"):
            arrays[name] = arrays[name].T.copy()
        return cls(**arrays)

    def __call__(
        self, hidden: NDArray, level: NDArray, share: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Oxides and the standard deviations of their errors, wt%, (pixel, oxide) each, of `hidden` (pixel, hidden)."""
        pixels, oxides = len(hidden), len(self.target_mean)
        found, std = np.empty((2, pixels, oxides), np.float32)
        _head(hidden, level, share, self, found, std)
        return found, std


@njit(nogil=True, cache=True)
def _split(pixels, bands, shapes, level):
    for p in range(pixels.shape[0]):
        total = np.float32(0)
        for b in range(bands):
            total += pixels[p, b]
        mean = total / np.float32(bands)
        if mean > 0:
            for b in range(bands):
                shapes[p, b] = pixels[p, b] / mean
            level[p] = np.log(mean)
        else:
            shapes[p, :] = np.nan
            level[p] = np.nan


def split(pixels: NDArray, bands: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shapes (pixel, band) and ln(level) (pixel,) of spectra, NaN where the level is 0 or less."""
    # A copy, since Numba compiles anew for read-only arrays.
    pixels = np.array(pixels, np.float32, order="C")
    shapes = np.empty((len(pixels), bands), np.float32)
    level = np.empty(len(pixels), np.float32)
    _split(pixels, bands, shapes, level)
    return shapes, level


@njit(nogil=True, cache=True)
def _head(hidden, level, share, net, found, std):
    """Pixel by pixel, sums in a fixed order: the same numbers in whatever batch a pixel comes."""
    width = hidden.shape[1] + 1
    units = net.first_bias.size
    oxides = found.shape[1]
    x = np.empty(width, np.float32)
    one = np.empty(units, np.float32)
    two = np.empty(units, np.float32)
    for p in range(hidden.shape[0]):
        for i in range(width - 1):
            x[i] = hidden[p, i]
        # The first value foretells the level: what counts is how far the measured one is off, as far as it is known.
        x[0] = share[p] * ((level[p] - net.level[0]) / net.level[1] - hidden[p, 0])
        x[width - 1] = share[p]
        one[:] = net.first_bias
        for i in range(width):
            for u in range(units):
                one[u] += x[i] * net.first_weight[i, u]
        two[:] = net.second_bias
        for i in range(units):
            if one[i] > 0:
                for u in range(units):
                    two[u] += one[i] * net.second_weight[i, u]
            elif not one[i] <= 0:
                two[:] = np.nan
        for o in range(2 * oxides):
            total = net.last_bias[o]
            for u in range(units):
                if not two[u] <= 0:
                    total += two[u] * net.last_weight[o, u]
            for i in range(width):
                total += x[i] * net.skip_weight[o, i]
            if o < oxides:
                found[p, o] = total * net.target_std[o] + net.target_mean[o]
                continue
            k = o - oxides
            std[p, k] = np.exp(min(max(total, _LOW), _HIGH)) * net.target_std[k]
            if np.isnan(found[p, k]):
                std[p, k] = np.nan
