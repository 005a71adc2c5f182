"""Ground as LROC NAC would see it, with impact melt fractures whose lines, widths and outlines are known.

Everything is drawn once from the seed as a few tables (craters, boulders, segments of lines); pixels follow from their
place and the tables, so that a mosaic of any size is made in blocks that fit to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import InputError
from lunarray.simulate import terrain
from lunarray.simulate.nac_ground import (
    CLASS_NAMES,
    PATTERNS,
    PIT,
    POND_OCTAVES,
    WIDTH_SHARES,
    Fracture,
    draw_boulders,
    draw_craters,
    draw_edges,
    draw_fractures,
    draw_ridges,
    draw_strips,
    field_seed,
    pond_level,
)

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr
    from odc.geo.geobox import GeoBox

#: Waves of the relief: longest and shortest (pixels), mean slope of an octave on rough ground at the longest wave, and
#: how slope grows towards short waves (Hurst exponent 0.9: Rosenburg et al. 2011, J. Geophys. Res. 116, E02001).
_LONGEST, _SHORTEST, _SLOPE, _HURST = 512.0, 3.0, 0.035, 0.9
#: How much smoother melt ponds are than other ground.
_POND_ROUGHNESS = 0.3
_ALBEDO = 0.09
#: Skylight of lit slopes around in shadows, of level ground's light.
_AMBIENT = 0.02
#: Noise of the dark and of the signal, radiance factor: about 1 % of level ground at 45°.
_READ, _SHOT = 3e-4, 2e-3
#: Longest shadow, pixels; ground that stands further away does not count.
_LONGEST_SHADOW = 400


@dataclass(frozen=True)
class NacTerrain:
    """All that a pixel depends on besides its place; the same for every chunk.

    Attributes
    ----------
    seed : int
        Of relief and noise.
    incidence, azimuth : float
        Of the sun, degrees.
    pond_level : float
        Value of the pond field above which ground is melt.
    roughness : float
        Factor of the relief's slopes.
    noise, psf : float
        Factor of the sensor's noise; standard deviation of its point spread, pixels.
    craters, boulders, ridges, fractures : ndarray
        Tables for :mod:`lunarray.simulate.terrain`.
    strips : ndarray, shape (strip, 5)
        Images of the mosaic: column of the left edge in row 0, columns it moves a row, gain, offset, and the width of
        the gap without data at the edge (pixels). The first begins left of everything.
    nodata : tuple of 3 floats
        Left and right edge of valid ground in row 0 (columns), and columns they move a row.
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
    strips: np.ndarray
    nodata: tuple[float, float, float]

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.base import normalize_token

        return (type(self).__qualname__, *(normalize_token(v) for v in self.__dict__.values()))


@dataclass(frozen=True)
class NacScene:
    """A simulated NAC mosaic and the truth about it.

    Attributes
    ----------
    dataset : xarray.Dataset
        ``image`` (y, x) float32, radiance factor (I/F), NaN without data; ``mask`` (y, x) uint8, 1 inside fractures and
        pits, 255 without data; ``width_class`` (y, x) uint8, 0 outside, 1-5 for tiny to huge, 6 for pits, of the widest
        fracture in a pixel; ``ridge`` (y, x) uint8, 1 on ridges outside fractures; ``source`` (y, x) int16, number of
        the image in the mosaic, -1 without data. Lazy if chunked.
    table : geopandas.GeoDataFrame
        Fractures as lines through their middle; see :attr:`lines`.
    segments : dict
        Tapered segments of each fracture and pit, by ``id``, in pixels.
    """

    dataset: xr.Dataset
    table: gpd.GeoDataFrame
    segments: dict[int, np.ndarray]

    @property
    def lines(self) -> gpd.GeoDataFrame:
        """Fractures as a mapper would draw them.

        Returns
        -------
        geopandas.GeoDataFrame
            Lines with ``id``, ``width`` (name of the class), ``width_m`` (nominal), ``pattern``, ``profile`` ("V" or
            "U") and ``complex`` (number): what :func:`lunarray.fractures.weak_labels` takes.
        """
        return self.table[self.table["pattern"] != "pit"].reset_index(drop=True)

    @property
    def pits(self) -> gpd.GeoDataFrame:
        """Outlines of pits, which are labelled as polygons.

        Returns
        -------
        geopandas.GeoDataFrame
            The rows of :attr:`polygons` that are pits.
        """
        polygons = self.polygons
        return polygons[polygons["pattern"] == "pit"].reset_index(drop=True)

    @cached_property
    def polygons(self) -> gpd.GeoDataFrame:
        """True outlines of fractures and pits: the ground that the mask marks.

        Returns
        -------
        geopandas.GeoDataFrame
            As :attr:`table`, with polygons; those of crossing fractures overlap.
        """
        from lunarray.geo import geobox_of

        outlines = _outlines(self.segments, self.table["id"].to_numpy())
        placed = _to_ground(outlines, geobox_of(self.dataset["image"]))
        return self.table.set_geometry(placed, crs=self.table.crs)


def nac_scene(
    shape: tuple[int, int] = (2048, 2048),
    resolution: float = 1.5,
    *,
    incidence: float = 60.0,
    azimuth: float = 120.0,
    seed: int = 0,
    chunks: int | None = None,
    fractures: float = 6.0,
    widths: Mapping[str, float] | None = None,
    patterns: Mapping[str, float] | None = None,
    melt: float = 0.6,
    pits: float = 0.3,
    craters: float = 400.0,
    boulders: float = 400.0,
    ridges: float = 6.0,
    roughness: float = 1.0,
    noise: float = 1.0,
    psf: float = 0.6,
    strip_width: float | None = 1700.0,
    nodata: bool = True,
    crs: Any = "equirectangular",
    origin: tuple[float, float] = (0.0, 0.0),
) -> NacScene:
    """Simulate a NAC mosaic of ground with impact melt fractures, and tell where they are.

    Fractal relief, smoother in melt ponds, with craters, boulders and ridges; fractures with V- or U-shaped troughs in
    the ponds: curvilinear, often several beside each other, polygonal networks, or en echelon. Lit by the sun, with
    cast shadows and Lunar-Lambert photometry, blurred, put together of strips with gain and offset of their own, with
    noise. Widths and lengths are in pixels, as the classes of width are; a pixel depends on its place and the seed
    only, so that chunks do not matter, and the ground does not depend on the sun.

    Parameters
    ----------
    shape : tuple of 2 ints, optional
        Rows and columns.
    resolution : float, optional
        Pixel size, m.
    incidence, azimuth : float, optional
        Of the sun, degrees: 0 is overhead; azimuth towards the sun, clockwise from the top of the image. What stands
        more than 400 pixels away casts no shadow.
    seed : int, optional
        Another seed, another ground.
    chunks : int, optional
        Side of the chunks of a lazy result; by default all is computed at once.
    fractures : float, optional
        Complexes of fractures a megapixel.
    widths : mapping of str to float, optional
        Shares of the classes of width; by default those of Le Corre et al. (2025).
    patterns : mapping of str to float, optional
        Shares of "curvilinear", "polygonal" and "en echelon" complexes.
    melt : float, optional
        Share of the ground that is melt ponds, where fractures are.
    pits, craters, boulders, ridges : float, optional
        How many a megapixel: pits on fractures, craters of 3 and more pixels radius, boulders, ridges.
    roughness : float, optional
        Factor of the slopes of the relief.
    noise : float, optional
        Factor of the sensor's noise, which is about 1 % of level ground at 45° incidence.
    psf : float, optional
        Standard deviation of the point spread, pixels.
    strip_width : float, optional
        Width of the images that make up the mosaic, pixels; None for one image.
    nodata : bool, optional
        Whether the mosaic has slanted edges and gaps between some strips, without data.
    crs : CRS or name, optional
        Of the grid, see :func:`lunarray.geo.moon_crs`; projected.
    origin : tuple of 2 floats, optional
        x and y of the top left corner, m.

    Returns
    -------
    NacScene
        Image, masks, lines and polygons.

    Raises
    ------
    InputError
        A shape, number or share that makes no sense.
    GridError, BodyMismatchError
        A CRS that is none, geographic, or not of the Moon.

    References
    ----------
    Le Corre et al. (2025), J. Geophys. Res. Planets 130, e2025JE009145, section 3.1.
    """
    import xarray as xr

    from lunarray.geo import assign_crs, grid_coords
    from lunarray.store.provenance import stamp

    rows, columns = _check_shape(shape)
    _check_numbers(
        resolution=(resolution, 1e-6, math.inf), incidence=(incidence, 0.0, 89.0), azimuth=(azimuth, -360.0, 720.0),
        fractures=(fractures, 0.0, 1e3), melt=(melt, 0.0, 1.0), pits=(pits, 0.0, 1e3), craters=(craters, 0.0, 1e5),
        boulders=(boulders, 0.0, 1e5), ridges=(ridges, 0.0, 1e3), roughness=(roughness, 0.0, 100.0),
        noise=(noise, 0.0, 1e3), psf=(psf, 0.0, 10.0),
    )  # fmt: skip
    if chunks is not None and chunks < 1:
        raise InputError(
            f"chunks of {chunks} pixels", where="chunks", remedy="give 1 or more, or None"
        )
    if strip_width is not None and not strip_width >= 16:
        raise InputError(
            f"strips of {strip_width} pixels", where="strip_width", remedy="give 16 or more"
        )
    class_shares = _shares(WIDTH_SHARES if widths is None else widths, CLASS_NAMES, "widths")
    pattern_shares = _shares(
        PATTERNS if patterns is None else patterns, tuple(PATTERNS), "patterns"
    )
    geobox = _grid(rows, columns, float(resolution), crs, origin)

    seed = int(seed)
    level = pond_level(seed, melt)
    lines = draw_fractures(
        seed, rows, columns, level, fractures, pits, class_shares, pattern_shares
    )
    drawn = NacTerrain(
        seed=seed,
        incidence=float(incidence),
        azimuth=float(azimuth),
        pond_level=level,
        roughness=float(roughness),
        noise=float(noise),
        psf=float(psf),
        craters=draw_craters(seed, rows, columns, craters),
        boulders=draw_boulders(seed, rows, columns, boulders),
        ridges=draw_ridges(seed, rows, columns, ridges),
        fractures=np.concatenate(
            [np.empty((0, terrain.SEGMENT_COLUMNS)), *(f.segments for f in lines)]
        ),
        strips=draw_strips(seed, rows, columns, strip_width, nodata),
        nodata=draw_edges(seed, rows, columns, nodata),
    )
    pieces = _lazy(drawn, rows, columns, chunks)
    dataset = xr.Dataset(
        {
            "image": (("y", "x"), pieces["image"], {"long_name": "radiance factor (I/F)", "units": "1"}),
            "mask": (
                ("y", "x"), pieces["mask"],
                {"long_name": "fracture", "flag_values": [0, 1, 255], "flag_meanings": "ground fracture no_data"},
            ),
            "width_class": (
                ("y", "x"), pieces["width_class"],
                {
                    "long_name": "class of width of the widest fracture",
                    "flag_values": list(range(PIT + 1)),
                    "flag_meanings": " ".join(("none", *CLASS_NAMES, "pit")),
                },
            ),
            "ridge": (("y", "x"), pieces["ridge"], {"long_name": "ridge"}),
            "source": (("y", "x"), pieces["source"], {"long_name": "number of the image in the mosaic"}),
        },
        coords=grid_coords(geobox),
    )  # fmt: skip
    dataset.attrs |= {
        "instrument": "LROC NAC, simulated",
        "incidence_angle": float(incidence),
        "sun_azimuth": float(azimuth),
        "source": f"lunarray.simulate.nac_scene(shape={(rows, columns)}, resolution={resolution}, "
        f"incidence={incidence}, azimuth={azimuth}, seed={seed})",
    }
    dataset = assign_crs(stamp(dataset, "simulated a NAC mosaic"), geobox)
    return NacScene(dataset, _table(lines, geobox), {f.id: f.segments for f in lines})


# Pixels ---------------------------------------------------------------------------------------------------------------

_DTYPES: dict[str, np.dtype[Any]] = {
    "image": np.dtype(np.float32),
    "mask": np.dtype(np.uint8),
    "width_class": np.dtype(np.uint8),
    "ridge": np.dtype(np.uint8),
    "source": np.dtype(np.int16),
}
# All layers come of one computation of a block; Dask arrays want one dtype, so that the block travels packed.
_PACKED: np.dtype[Any] = np.dtype(list(_DTYPES.items()))


def _lazy(drawn: NacTerrain, rows: int, columns: int, chunks: int | None) -> dict[str, Any]:
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
    """Make a window of a scene.

    Parameters
    ----------
    drawn : NacTerrain
        The scene.
    row0, column0, rows, columns : int
        The window.

    Returns
    -------
    dict of str to ndarray, shape (rows, columns)
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
    )
    if drawn.psf > 0:
        from scipy.ndimage import gaussian_filter

        image = gaussian_filter(image, drawn.psf, radius=blur, mode="nearest")
    image = np.ascontiguousarray(image[pad : pad + rows, pad : pad + columns])
    own = np.ascontiguousarray(label[view][pad : pad + rows, pad : pad + columns])
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
    beside = np.ascontiguousarray(ridge[view][pad : pad + rows, pad : pad + columns])
    beside[own > 0] = 0
    return {"image": image, "mask": mask, "width_class": own, "ridge": beside, "source": source}


def lommel_seeliger_share(phase: float) -> float:
    """Share of Lommel-Seeliger in the Lunar-Lambert law at a phase angle.

    Parameters
    ----------
    phase : float
        Degrees; the incidence angle where the camera looks straight down.

    Returns
    -------
    float

    References
    ----------
    McEwen (1996), Lunar Planet. Sci. 27, 841: the Moon's polynomial.
    """
    return max(1.0 - 0.019 * phase + 2.42e-4 * phase**2 - 1.46e-6 * phase**3, 0.0)


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
    pond = np.zeros((rows, columns), np.float32)
    for octave, (wavelength, amplitude) in enumerate(POND_OCTAVES):
        terrain.add_noise(
            pond,
            row0,
            column0,
            field_seed(drawn.seed, 0, octave),
            wavelength,
            amplitude,
            everywhere,
        )
    # Smooth melt, rough ground, and a margin between them.
    rough = np.clip((drawn.pond_level + 0.06 - pond) / 0.12, 0, 1).astype(np.float32)
    albedo += np.float32(1.0) + np.float32(0.12) * rough
    rough = np.float32(_POND_ROUGHNESS) + np.float32(1 - _POND_ROUGHNESS) * rough
    wavelength, octave = _LONGEST, 0
    while wavelength >= _SHORTEST:
        slope = _SLOPE * drawn.roughness * (wavelength / _LONGEST) ** (_HURST - 1)
        terrain.add_noise(
            height,
            row0,
            column0,
            field_seed(drawn.seed, 1, octave),
            wavelength,
            # Gradient noise of amplitude 1 has slopes of about 1.1 over its wavelength.
            slope * wavelength / 1.1,
            rough,
        )
        wavelength, octave = wavelength / 1.9, octave + 1
    for octave, (wavelength, amplitude) in enumerate(((300.0, 0.12), (40.0, 0.06), (6.0, 0.05))):
        terrain.add_noise(
            albedo,
            row0,
            column0,
            field_seed(drawn.seed, 2, octave),
            wavelength,
            amplitude,
            everywhere,
        )
    albedo *= np.float32(_ALBEDO)

    box = (column0, row0, column0 + columns - 1, row0 + rows - 1)
    terrain.add_craters(
        height, albedo, row0, column0, _near(drawn.craters, box, terrain.CRATER_REACH)
    )
    raised, ridge = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.uint8)
    terrain.trace_segments(raised, ridge, row0, column0, _near_segments(drawn.ridges, box))
    trough, label = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.uint8)
    terrain.trace_segments(trough, label, row0, column0, _near_segments(drawn.fractures, box))
    height += raised
    height -= trough
    terrain.add_boulders(height, albedo, row0, column0, _near(drawn.boulders, box, 1.0))
    return height, albedo, label, ridge


def _near(table: np.ndarray, box: tuple[int, int, int, int], reach: float) -> np.ndarray:
    """Craters or boulders that reach into a window, in their order."""
    far = table[:, 2] * reach
    inside = (table[:, 0] + far >= box[0]) & (table[:, 0] - far <= box[2])
    inside &= (table[:, 1] + far >= box[1]) & (table[:, 1] - far <= box[3])
    return np.ascontiguousarray(table[inside])


def _near_segments(table: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    far = np.maximum(table[:, 2], table[:, 5])
    x, y = table[:, [0, 3]], table[:, [1, 4]]
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


# Vectors --------------------------------------------------------------------------------------------------------------


def _grid(
    rows: int, columns: int, resolution: float, crs: Any, origin: tuple[float, float]
) -> GeoBox:
    from affine import Affine
    from odc.geo.geobox import GeoBox

    from lunarray.errors import GridError
    from lunarray.geo import moon_crs

    system = moon_crs(crs)
    if system.is_geographic:
        raise GridError(
            "a NAC scene needs a projected grid",
            where="crs",
            remedy='use "equirectangular", "north" or "south"',
        )
    left, top = (float(value) for value in origin)
    return GeoBox((rows, columns), Affine(resolution, 0.0, left, 0.0, -resolution, top), system)


def _table(lines: list[Fracture], geobox: GeoBox) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import shapely

    resolution = geobox.transform.a
    geometry = [shapely.LineString(f.points) for f in lines]
    names = (*CLASS_NAMES, "pit")
    return gpd.GeoDataFrame(
        {
            "id": np.array([f.id for f in lines], np.int64),
            "width": np.array([names[f.width_class] for f in lines], object),
            "width_m": np.array([f.width * resolution for f in lines], np.float64),
            "pattern": np.array([f.pattern for f in lines], object),
            "profile": np.array(["VU"[f.profile] for f in lines], object),
            "complex": np.array([f.complex for f in lines], np.int64),
        },
        geometry=_to_ground(np.array(geometry, object), geobox),
        crs=None if geobox.crs is None else geobox.crs.to_wkt(),
    )


def _to_ground(geometry: np.ndarray, geobox: GeoBox) -> np.ndarray:
    """Places in pixels (0 is a pixel's centre) to those of the grid."""
    import shapely

    t = geobox.transform
    return shapely.transform(
        geometry,
        lambda p: np.column_stack([t.c + (p[:, 0] + 0.5) * t.a, t.f + (p[:, 1] + 0.5) * t.e]),
    )


def _outlines(segments: dict[int, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Polygon of each fracture, in pixels: trapezoids of the segments and circles at their ends."""
    import shapely

    out = np.empty(len(ids), object)
    for n, number in enumerate(ids):
        s = segments[int(number)]
        a, b, aw, bw = s[:, 0:2], s[:, 3:5], s[:, 2:3], s[:, 5:6]
        unit = (b - a) / np.hypot(*(b - a).T)[:, None]
        normal = np.column_stack([-unit[:, 1], unit[:, 0]])
        ring = np.stack(
            [a + aw * normal, b + bw * normal, b - bw * normal, a - aw * normal], axis=1
        )
        circles = shapely.buffer(
            shapely.points(np.vstack([a, b[-1:]])), np.append(s[:, 2], s[-1, 5]), quad_segs=12
        )
        out[n] = shapely.union_all(np.concatenate([shapely.polygons(ring), circles]))
    return out


# Checks ---------------------------------------------------------------------------------------------------------------


def _check_shape(shape: Any) -> tuple[int, int]:
    try:
        rows, columns = (int(n) for n in shape)
    except (TypeError, ValueError):
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise InputError(
            f"{shape!r} is not a shape",
            where="shape",
            remedy="give (rows, columns), each 1 or more",
        )
    return rows, columns


def _check_numbers(**limits: tuple[float, float, float]) -> None:
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise InputError(
                f"{value!r} is out of range", where=name, remedy=f"give {low:g} to {high:g}"
            )


def _shares(given: Mapping[str, float], names: tuple[str, ...], where: str) -> np.ndarray:
    unknown = sorted(set(given) - set(names))
    values = np.array([float(given.get(name, 0.0)) for name in names])
    if unknown or not (values >= 0).all() or not 0 < values.sum() < math.inf:
        raise InputError(
            f"{dict(given)!r} are not shares",
            where=where,
            remedy=f"give numbers of 0 or more for some of {', '.join(names)}",
        )
    return values / values.sum()
