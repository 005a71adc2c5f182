"""Pixels of a simulated NAC scene: any window of it, from what was drawn and the place alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lunarray.simulate import terrain
from lunarray.simulate.cubes import Tokenized
from lunarray.simulate.nac_ground import POND_OCTAVES, field_seed

#: Waves of the relief: longest and shortest (pixels), mean slope of an octave on rough ground at the longest wave, and
#: how slope grows towards short waves (Hurst exponent 0.9: Rosenburg et al. 2011, J. Geophys. Res. 116, E02001).
_LONGEST, _SHORTEST, _SLOPE, _HURST = 512.0, 3.0, 0.035, 0.9
#: How much smoother melt ponds are than other ground.
_POND_ROUGHNESS = 0.3
_ALBEDO = 0.09
#: Skylight of lit slopes around in shadows, of level ground's light.
_AMBIENT = 0.02
#: Single-scattering albedo of lunar soil in red light, between mare and highland.
_SINGLE = 0.3
#: Noise of the dark and of the signal, radiance factor: about 1 % of level ground at 45°.
_READ, _SHOT = 3e-4, 2e-3
#: Longest shadow, pixels; ground that stands further away does not count.
_LONGEST_SHADOW = 400


@dataclass(frozen=True)
class NacTerrain(Tokenized):
    """All that a pixel depends on besides its place; the same for every chunk.

    `seed` of relief and noise; `incidence` and `azimuth` of the sun, degrees; `pond_level`, the value of the pond field
    above which ground is melt; factors of the relief's slopes (`roughness`) and of the sensor's `noise`; `psf`, the
    standard deviation of the point spread, pixels; tables of craters, boulders, ridges, fractures, scarps and dents for
    :mod:`lunarray.simulate.terrain`; `patches`, the contrast of patches of another albedo; `hapke`, the law of light.
    `strips` (strip, 5) are the images of the mosaic: column of the left edge in row 0, columns it moves a row, gain,
    offset, and width of the gap without data at the edge (pixels); the first begins left of everything. `nodata` is the
    left and right edge of valid ground in row 0, and columns they move a row.
    """

    seed: int
    incidence: float
    azimuth: float
    pond_level: float
    roughness: float
    noise: float
    psf: float
    craters: np.ndarray
    boulders: np.ndarray
    ridges: np.ndarray
    fractures: np.ndarray
    scarps: np.ndarray
    dents: np.ndarray
    patches: float
    hapke: bool
    strips: np.ndarray
    nodata: tuple[float, float, float]


_DTYPES: dict[str, np.dtype[Any]] = {
    "image": np.dtype(np.float32),
    "mask": np.dtype(np.uint8),
    "width_class": np.dtype(np.uint8),
    "ridge": np.dtype(np.uint8),
    "source": np.dtype(np.int16),
}
# All layers come of one computation of a block; Dask arrays want one dtype, so that the block travels packed.
_PACKED: np.dtype[Any] = np.dtype(list(_DTYPES.items()))


def layers_of(drawn: NacTerrain, rows: int, columns: int, chunks: int | None) -> dict[str, Any]:
    """All layers of a scene, lazy where `chunks` is given; see :func:`render`."""
    if chunks is None:
        return render(drawn, 0, 0, rows, columns)
    import dask
    import dask.array as da

    # One key holds the tables, however many blocks there are.
    packed = da.map_blocks(
        _packed_block,
        chunks=da.core.normalize_chunks(chunks, (rows, columns)),
        drawn=dask.delayed(drawn, pure=True),
        dtype=_PACKED,
        meta=np.empty((0, 0), _PACKED),
    )
    return {
        name: packed.map_blocks(_unpack, name, dtype=dtype, meta=np.empty((0, 0), dtype))
        for name, dtype in _DTYPES.items()
    }


def _packed_block(drawn: NacTerrain, block_info: Any = None) -> np.ndarray:
    (top, low), (left, right) = block_info[None]["array-location"]
    layers = render(drawn, top, left, low - top, right - left)
    packed = np.empty((low - top, right - left), _PACKED)
    for name, values in layers.items():
        packed[name] = values
    return packed


def _unpack(packed: np.ndarray, name: str) -> np.ndarray:
    return np.ascontiguousarray(packed[name])


def render(
    drawn: NacTerrain, row0: int, column0: int, rows: int, columns: int
) -> dict[str, np.ndarray]:
    """Layers of a window of a scene, (rows, columns).

    ``image`` float32, ``mask``, ``width_class`` and ``ridge`` uint8, ``source`` int16; see :class:`NacScene`.
    """
    blur = math.ceil(4 * drawn.psf)
    pad = blur + 1
    up, down, left, right = _shadow_pads(drawn)
    top, low = row0 - pad - up, row0 + rows + pad + down
    west, east = column0 - pad - left, column0 + columns + pad + right
    height, albedo, label, ridge = _ground(drawn, top, west, low - top, east - west)
    window = max(up, down, left, right)
    lit = terrain.lit_share(height, top, west, drawn.incidence, drawn.azimuth, window)
    view = (
        slice(up, up + rows + 2 * pad),
        slice(left, left + columns + 2 * pad),
    )
    incidence, azimuth = math.radians(drawn.incidence), math.radians(drawn.azimuth)
    sun = np.array(
        [
            math.sin(azimuth) * math.sin(incidence),
            -math.cos(azimuth) * math.sin(incidence),
            math.cos(incidence),
        ]
    )
    image = terrain.shade(
        np.ascontiguousarray(height[view]),
        np.ascontiguousarray(albedo[view]),
        np.ascontiguousarray(lit[view]),
        sun,
        lommel_seeliger_share(drawn.incidence),
        _AMBIENT,
        _SINGLE if drawn.hapke else 0.0,
        phase_factor(drawn.incidence),
    )
    if drawn.psf > 0:
        from scipy.ndimage import gaussian_filter

        image = gaussian_filter(image, drawn.psf, radius=blur, mode="nearest")
    inner = (slice(pad, pad + rows), slice(pad, pad + columns))
    image = np.ascontiguousarray(image[inner])
    own = np.ascontiguousarray(label[view][inner])
    source, gain, offset = _strip_of(drawn, row0, column0, rows, columns)
    image *= gain
    image += offset
    if drawn.noise > 0:
        terrain.add_sensor_noise(
            image, row0, column0, drawn.seed * 8 + 6, _READ * drawn.noise, _SHOT * drawn.noise
        )
    missing = source < 0
    image[missing] = np.nan
    mask = (own > 0).astype(np.uint8)
    mask[missing] = 255
    beside = np.ascontiguousarray(ridge[view][inner])
    beside[own > 0] = 0
    return {"image": image, "mask": mask, "width_class": own, "ridge": beside, "source": source}


def lommel_seeliger_share(phase: float) -> float:
    """Share of Lommel-Seeliger in the Lunar-Lambert law at a phase angle in degrees, by the Moon's polynomial.

    McEwen (1996), Lunar Planet. Sci. 27, 841. Seen from straight above, the phase angle is the incidence angle.
    """
    return max(1.0 - 0.019 * phase + 2.42e-4 * phase**2 - 1.46e-6 * phase**3, 0.0)


def phase_factor(phase: float) -> float:
    """Phase function times opposition surge of lunar soil at a phase angle in degrees.

    Double Henyey-Greenstein with b = 0.24, c = 0.3, surge of 1.8 and width 0.07: about those of Sato et al. (2014),
    J. Geophys. Res. Planets 119, 1775.
    """
    b, c, g = 0.24, 0.3, math.radians(phase)
    back = (1 - b * b) / (1 - 2 * b * math.cos(g) + b * b) ** 1.5
    forth = (1 - b * b) / (1 + 2 * b * math.cos(g) + b * b) ** 1.5
    surge = 1 + 1.8 / (1 + math.tan(g / 2) / 0.07)
    return ((1 + c) / 2 * back + (1 - c) / 2 * forth) * surge


def _shadow_pads(drawn: NacTerrain) -> tuple[int, int, int, int]:
    """Pixels above, below, left and right of a window whose ground can cast a shadow into it."""
    # Relief within the reach of a shadow, pixels: what craters, fractures and the long waves have between them.
    relief = 60.0 * max(drawn.roughness, 0.5)
    length = min(relief * math.tan(math.radians(drawn.incidence)), float(_LONGEST_SHADOW))
    azimuth = math.radians(drawn.azimuth)
    east, south = math.sin(azimuth), -math.cos(azimuth)
    x, y = math.ceil(length * abs(east)) + 1, math.ceil(length * abs(south)) + 1
    return (
        y if south < 0 else 1,
        y if south > 0 else 1,
        x if east < 0 else 1,
        x if east > 0 else 1,
    )


def _ground(
    drawn: NacTerrain, row0: int, column0: int, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Heights (pixels), albedo, class of fractures, and ridges of a window."""
    height = np.zeros((rows, columns), np.float32)
    albedo = np.zeros((rows, columns), np.float32)
    everywhere = np.empty((0, 0), np.float32)

    def add(to: np.ndarray, seed: int, wavelength: float, amplitude: float, weight: Any) -> None:
        terrain.add_noise(to, row0, column0, seed, wavelength, amplitude, weight)

    pond = np.zeros((rows, columns), np.float32)
    for octave, (wavelength, amplitude) in enumerate(POND_OCTAVES):
        add(pond, field_seed(drawn.seed, 0, octave), wavelength, amplitude, everywhere)
    # Smooth melt, rough ground, and a margin between them.
    rough = np.clip((drawn.pond_level + 0.06 - pond) / 0.12, 0, 1).astype(np.float32)
    albedo += np.float32(1.0) + np.float32(0.12) * rough
    rough = np.float32(_POND_ROUGHNESS) + np.float32(1 - _POND_ROUGHNESS) * rough
    wavelength, octave = _LONGEST, 0
    while wavelength >= _SHORTEST:
        slope = _SLOPE * drawn.roughness * (wavelength / _LONGEST) ** (_HURST - 1)
        # Gradient noise of amplitude 1 has slopes of about 1.1 over its wavelength.
        add(height, field_seed(drawn.seed, 1, octave), wavelength, slope * wavelength / 1.1, rough)
        wavelength, octave = wavelength / 1.9, octave + 1
    for octave, (wavelength, amplitude) in enumerate(((300.0, 0.12), (40.0, 0.06), (6.0, 0.05))):
        add(albedo, field_seed(drawn.seed, 2, octave), wavelength, amplitude, everywhere)
    if drawn.patches > 0:
        patch = np.zeros((rows, columns), np.float32)
        for octave, (wavelength, amplitude) in enumerate(((260.0, 1.0), (60.0, 0.3))):
            add(patch, field_seed(drawn.seed, 3, octave), wavelength, amplitude, everywhere)
        edge = np.clip((patch - np.float32(0.2)) / np.float32(0.02), 0, 1)
        albedo *= 1 - np.float32(drawn.patches) * edge
    albedo *= np.float32(_ALBEDO)

    box = (column0, row0, column0 + columns - 1, row0 + rows - 1)
    terrain.add_craters(
        height, albedo, row0, column0, _near(drawn.craters, box, terrain.CRATER_REACH)
    )
    raised, ridge = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.uint8)
    terrain.trace_segments(raised, ridge, row0, column0, _near_segments(drawn.ridges, box))
    trough, label = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.uint8)
    terrain.trace_segments(trough, label, row0, column0, _near_segments(drawn.fractures, box))
    if drawn.dents.size:
        dent, unused = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.uint8)
        terrain.trace_segments(dent, unused, row0, column0, _near_segments(drawn.dents, box))
        height -= dent
    if drawn.scarps.size:
        terrain.add_scarps(height, row0, column0, drawn.scarps)
    height += raised
    height -= trough
    terrain.add_boulders(height, albedo, row0, column0, _near(drawn.boulders, box, 1.0))
    return height, albedo, label, ridge


def _near(table: np.ndarray, box: tuple[int, int, int, int], reach: float) -> np.ndarray:
    """Craters or boulders that reach into a window, in their order."""
    return _touching(table, table[:, :1], table[:, 1:2], table[:, 2] * reach, box)


def _near_segments(table: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    far = np.maximum(table[:, 2], table[:, 5])
    return _touching(table, table[:, [0, 3]], table[:, [1, 4]], far, box)


def _touching(
    table: np.ndarray, x: np.ndarray, y: np.ndarray, far: np.ndarray, box: tuple[int, int, int, int]
) -> np.ndarray:
    inside = (x.max(axis=1) + far >= box[0]) & (x.min(axis=1) - far <= box[2])
    inside &= (y.max(axis=1) + far >= box[1]) & (y.min(axis=1) - far <= box[3])
    return np.ascontiguousarray(table[inside])


def _strip_of(
    drawn: NacTerrain, row0: int, column0: int, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of the image (-1 without data), its gain and its offset for each pixel of a window."""
    row = np.arange(row0, row0 + rows, dtype=np.float64)[:, None]
    column = np.arange(column0, column0 + columns, dtype=np.float64)[None, :]
    number = np.zeros((rows, columns), np.int16)
    gap = np.zeros((rows, columns), bool)
    for index, (left, slope, _, _, width) in enumerate(drawn.strips):
        if index == 0:
            continue
        past = column - (left + slope * row)
        number[past >= 0] = index
        gap |= (past >= 0) & (past < width)
    first, last, slope = drawn.nodata
    gap |= (column - first - slope * row < 0) | (column - last - slope * row > 0)
    gain = drawn.strips[:, 2].astype(np.float32)[number]
    offset = drawn.strips[:, 3].astype(np.float32)[number]
    number[gap] = -1
    return number, gain, offset
