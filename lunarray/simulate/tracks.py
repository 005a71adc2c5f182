"""A simulated Moon for super-resolution: what is there at two kilometres, its image, and footprints that see its mean.

The composition is that of :mod:`lunarray.simulate.globe`, with shores, texture and craters down to a few kilometres.
The image is what a camera would have of it: reflectance at 750 nm through the physics of
:func:`lunarray.simulate.mix_reflectance`, with space weathering that differs from place to place, shading of crater
walls and errors, so that it goes with the composition and does not tell it. Footprints are means of the truth with the
errors of measurements; nothing else that a study has comes from the truth.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import InputError, require_number
from lunarray.geo import assign_crs, moon_crs, wrap_longitude
from lunarray.simulate import priors
from lunarray.simulate.noise import hash_normal
from lunarray.simulate.surface import RADIUS_KM, Surface, draw_waves, random_fields, unit_vector
from lunarray.store.provenance import stamp
from lunarray.units import WEIGHT

if TYPE_CHECKING:
    import xarray as xr

    from lunarray.superres.grid import GIBGrid

#: Length and width of a footprint, km.
FOOTPRINT_KM = (100.0, 12.5)
#: Random error of a footprint under a middling flare, and error common to a whole track (wt%). The first are near the
#: median fit uncertainties of the CLASS level-2 table (Mg 0.5, Al 0.8, Si 0.8 wt%); that table's systematic
#: uncertainties (Mg 1.3, Al 3.6, Si 4.4, Fe 4.1 wt%) are bounds for all of its tracks together, and a track's own share
#: is taken as about a tenth of them.
RANDOM_ERROR = {
    "Fe": 0.8, "Ti": 0.3, "Ca": 0.8, "Si": 0.8, "Al": 0.8, "Mg": 0.5, "Na": 0.1, "O": 1.0,
}  # fmt: skip
TRACK_ERROR = {
    "Fe": 0.4, "Ti": 0.15, "Ca": 0.4, "Si": 0.4, "Al": 0.4, "Mg": 0.2, "Na": 0.05, "O": 0.5,
}  # fmt: skip
#: Of the image: relative error from pixel to pixel and in patches (mosaics of many images), and of shading.
_IMAGE_NOISE, _IMAGE_PATCHES, _SHADE = 0.01, 0.02, 0.06
_WAVELENGTH = np.array([750.0])
_FRACTION = {"FeO": 0.7773, "TiO2": 0.5995, "CaO": 0.7147, "SiO2": 0.4674, "Al2O3": 0.5293, "MgO": 0.6030}  # fmt: skip
_OF = {"Fe": "FeO", "Ti": "TiO2", "Ca": "CaO", "Si": "SiO2", "Al": "Al2O3", "Mg": "MgO"}
#: Smallest craters, km.
_SMALLEST_CRATER = 3.0


@dataclass(frozen=True)
class TrackScene:
    """A simulated study of element maps.

    Attributes
    ----------
    truth : xarray.Dataset
        ``abundance`` (element, lat, lon), wt%, at the pixels of the grid: what a study would not have.
    basemap : xarray.DataArray
        Reflectance at 750 nm (lat, lon), finer than the grid and reaching beyond it.
    footprints : xarray.Dataset
        ``corner_lat``, ``corner_lon`` (footprint, corner; degrees), ``abundance`` and ``abundance_std`` (footprint,
        element; wt%); coordinate ``track`` (footprint).
    covered : xarray.DataArray
        Whether any footprint covers a pixel (lat, lon).

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.track_scene(la.superres.GIBGrid((1, 1), (30, 45), (-70, 5, -40, 25)))
    >>> scene.truth["abundance"].dims
    ('element', 'lat', 'lon')
    """

    truth: xr.Dataset
    basemap: xr.DataArray
    footprints: xr.Dataset
    covered: xr.DataArray


def _surface(seed: int, extent: tuple[float, float, float, float]) -> Surface:
    """The Moon of :class:`Surface`, with what it lacks below 50 km: fine texture everywhere, craters in the extent."""
    coarse = Surface.random(seed)
    rng = np.random.default_rng([seed, 31])
    long_waves = draw_waves(rng, 4, 32, 25.0, 3000.0, slope=0.8)
    waves = np.concatenate([long_waves, draw_waves(rng, 1, 32, 6.0, 300.0, slope=0.5)])
    west, south, east, north = extent
    area = (
        math.radians(east - west) * (math.sin(math.radians(north)) - math.sin(math.radians(south)))
    ) * RADIUS_KM**2
    count = int(area / 4000.0) + 1
    lon = rng.uniform(west, east, count)
    lat = np.degrees(
        np.arcsin(rng.uniform(math.sin(math.radians(south)), math.sin(math.radians(north)), count))
    )
    radius = np.clip(_SMALLEST_CRATER * (1 + rng.pareto(2.0, count)), None, 30.0)
    mafic = np.where(rng.random(count) < 0.5, rng.uniform(0, 0.9, count), 0.0)
    anorthositic = rng.uniform(0, 0.7, count) * (1 - mafic)
    maturity = rng.uniform(0.3, 1.0, count)
    fine = np.column_stack(
        [
            *unit_vector(lon, lat),
            radius / RADIUS_KM,
            maturity,
            mafic,
            anorthositic,
            np.zeros(count),
        ]
    )
    return Surface(waves, np.vstack([coarse.craters, fine]))


def _soils(surface: Surface, lat: np.ndarray, lon: np.ndarray) -> dict[str, np.ndarray]:
    """Soils on a grid, a few rows at a time: craters are then searched for near them only."""
    parts = []
    step = max(1, 8192 // max(len(lon), 1))
    for start in range(0, len(lat), step):
        rows = lat[start : start + step]
        parts.append(surface.soil(np.tile(lon, len(rows)), np.repeat(rows, len(lon))))
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def elements_of(soil: Mapping[str, np.ndarray]) -> np.ndarray:
    """Elements (element, point) of soils, wt%, float32, in the order of :data:`lunarray.xrf.ELEMENTS`.

    They sum to 100: oxygen is the rest. `soil` is as :meth:`lunarray.simulate.surface.Surface.soil` gives it.
    """
    from lunarray.oxides.constants import OXIDES
    from lunarray.xrf.constants import ELEMENTS

    oxides = priors.oxides_of(soil)
    values: dict[str, Any] = {
        element: oxides[:, OXIDES.index(oxide)] * _FRACTION[oxide] for element, oxide in _OF.items()
    }
    # What the oxides lack to 100 is the plagioclase's Na2O.
    values["Na"] = np.maximum(100.0 - oxides.sum(axis=1), 0.0) * 0.7419
    values["O"] = 100.0 - sum(values.values())
    return np.stack([values[e] for e in ELEMENTS]).astype(np.float32)


def _image(surface: Surface, lat: np.ndarray, lon: np.ndarray, seed: int) -> np.ndarray:
    """Reflectance of a grid as a mosaic has it."""
    soil = _soils(surface, lat, lon)
    clean = priors.reflectance_of(soil, _WAVELENGTH)[:, 0].reshape(len(lat), len(lon))
    # Walls that face the Sun, in the east, are bright: the slope of the craters' bowls and of a fine relief.
    rng = np.random.default_rng([seed, 32])
    p = unit_vector(np.tile(lon, len(lat)), np.repeat(lat, len(lon)))
    waves = [draw_waves(rng, 1, 32, 5.0, 60.0, 0.7), draw_waves(rng, 1, 32, 80.0, 600.0, 0.0)]
    relief, patches = random_fields(np.concatenate(waves), p).reshape(2, *clean.shape)
    bowl = soil["shadow"].reshape(clean.shape)
    slope = np.gradient(relief + 3.0 * bowl, axis=1) if len(lon) > 1 else np.zeros_like(relief)
    slope /= max(float(slope.std()), 1e-9)
    pixel = np.arange(clean.size, dtype=np.uint64)
    noise = hash_normal(seed + 33, pixel, 1)[:, 0].reshape(clean.shape)
    gain = 1 + _SHADE * np.clip(slope, -3, 3) + _IMAGE_PATCHES * patches + _IMAGE_NOISE * noise
    return np.maximum(clean * gain, 1e-3).astype(np.float32)


def track_scene(
    grid: GIBGrid,
    seed: int = 0,
    *,
    coverage: float = 0.2,
    finer: int = 2,
    footprint_km: tuple[float, float] = FOOTPRINT_KM,
    footprints_per_track: tuple[int, int] = (3, 12),
    random_error: Mapping[str, float] | None = None,
    track_error: Mapping[str, float] | None = None,
    margin: float = 1.0,
) -> TrackScene:
    """Simulate the data of a study of element maps, a base map and footprints, and the truth to compare with.

    Parameters
    ----------
    grid : GIBGrid
        Pixels of the truth; the whole grid or a part of the Moon.
    seed : int
        Another seed, another Moon, other tracks and errors.
    coverage : float
        Share of the grid's area that footprints cover, 0 to 1.
    finer : int
        Pixels of the base map along one of the grid.
    footprint_km : tuple of 2 float
        Length along the track and width of a footprint, km.
    footprints_per_track : tuple of 2 int
        Fewest and most footprints that follow each other: how long a flare lasts.
    random_error, track_error : mapping, optional
        Standard deviations (wt%) by element, :data:`RANDOM_ERROR` and :data:`TRACK_ERROR` by default. The first is
        that of a middling flare; each footprint's own is 0.5 to 2 times that, and is stated in its ``abundance_std``.
    margin : float
        Degrees that the base map reaches beyond the grid.

    Returns
    -------
    TrackScene

    Raises
    ------
    InputError
        If `coverage` is not between 0 and 1.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.track_scene(la.superres.GIBGrid((1, 1), (30, 45), (-70, 5, -40, 25)), coverage=0.3)
    >>> sorted(scene.footprints.sizes)
    ['corner', 'element', 'footprint']
    """
    import xarray as xr

    from lunarray.xrf.constants import ELEMENTS

    require_number("coverage", coverage, 0, 1, strictly=True)
    west, south, east, north = grid.extent
    wide = (west - margin, max(south - margin, -90.0), east + margin, min(north + margin, 90.0))
    surface = _surface(seed, wide)
    lat, lon = grid.lat(), grid.lon()
    coords = {
        "lat": ("lat", lat, {"units": "degrees_north"}),
        "lon": ("lon", lon, {"units": "degrees_east"}),
    }
    element = list(ELEMENTS)
    truth = elements_of(_soils(surface, lat, lon)).reshape(len(element), len(lat), len(lon))
    true = (("element", "lat", "lon"), truth, {"units": WEIGHT, "long_name": "true abundance"})
    maps = xr.Dataset({"abundance": true}, {"element": element, **coords})
    errors = [
        np.array([{**default, **(given or {})}[e] for e in element])
        for default, given in ((RANDOM_ERROR, random_error), (TRACK_ERROR, track_error))
    ]
    rng = np.random.default_rng([seed, 34])
    draw = functools.partial(_track_corners, rng, grid.extent, footprint_km, footprints_per_track)
    footprints, covered = _measure(rng, draw, maps, coverage, *errors)
    what = f"track_scene(seed={seed}, coverage={coverage:g})"
    crs = moon_crs("geographic")
    basemap = _basemap(surface, grid, wide, finer, seed)
    return TrackScene(
        stamp(assign_crs(maps, crs), what, source="simulated"),
        stamp(assign_crs(basemap, crs), what, source="simulated"),
        stamp(footprints, what, source="simulated"),
        xr.DataArray(
            covered.reshape(len(lat), len(lon)),
            coords,
            ("lat", "lon"),
            "covered",
            {"long_name": "covered by a footprint"},
        ),
    )


def _basemap(
    surface: Surface, grid: GIBGrid, wide: tuple[float, ...], finer: int, seed: int
) -> xr.DataArray:
    """Image of the grid and of what is around it, `finer` pixels along one of the grid."""
    import xarray as xr

    height, width = (s / finer for s in grid.step)
    rows = round((wide[3] - wide[1]) / height)
    columns = round((360.0 if grid.periodic else wide[2] - wide[0]) / width)
    lat = wide[3] - (np.arange(rows) + 0.5) * height
    lon = (grid.extent[0] if grid.periodic else wide[0]) + (np.arange(columns) + 0.5) * width
    order = np.argsort(wrap_longitude(lon), kind="stable")
    return xr.DataArray(
        _image(surface, lat, lon, seed)[:, order],
        {"lat": lat, "lon": wrap_longitude(lon)[order]},
        ("lat", "lon"),
        "reflectance",
        {"units": "1", "long_name": "reflectance at 750 nm"},
    )


def _measure(
    rng: np.random.Generator,
    draw: Callable[[], np.ndarray],
    maps: xr.Dataset,
    coverage: float,
    sigma: np.ndarray,
    common: np.ndarray,
) -> tuple[xr.Dataset, np.ndarray]:
    """Footprints of tracks, with errors of each (`sigma`) and of a track (`common`), and the pixels they cover."""
    import xarray as xr

    from lunarray.superres.support import footprint_support

    elements, lat, lon = (maps[name].values for name in ("element", "lat", "lon"))
    flat = maps["abundance"].values.reshape(len(elements), -1).T.astype(np.float64)
    area = np.repeat(np.cos(np.deg2rad(lat)), len(lon))
    covered = np.zeros(flat.shape[0], bool)
    tables: dict[str, list[Any]] = {n: [] for n in ("lat", "lon", "abundance", "std", "track")}
    track = 0
    while area[covered].sum() < coverage * area.sum():
        if track > 100_000:
            raise InputError(
                f"coverage {coverage:g} cannot be reached by footprints on so small a grid",
                where="track_scene",
                remedy="Ask for less, or take a larger grid",
            )
        corners = draw()
        blank = np.zeros((len(corners), len(elements)))
        support = footprint_support(
            corners[..., 1], corners[..., 0], blank, blank, lat, lon, least=0.95
        )
        if count := support.count:
            strength = np.exp(rng.uniform(math.log(0.5), math.log(2.0), (count, 1)))
            random = sigma * strength
            seen = support.mean(flat) + random * rng.standard_normal((count, len(elements)))
            seen += common * rng.standard_normal(len(elements))
            tables["lat"].append(corners[support.number, :, 1])
            tables["lon"].append(wrap_longitude(corners[support.number, :, 0]))
            # Abundances below what a fit would report are reported as that.
            tables["abundance"].append(np.clip(seen, 0.01, 100.0))
            tables["std"].append(np.hypot(random, common))
            tables["track"].append(np.full(count, track))
            covered[support.pixel] = True
        track += 1
    joined = {k: np.concatenate(v) for k, v in tables.items()}
    corner, by_element = ("footprint", "corner"), ("footprint", "element")
    about = {"abundance": "abundance", "abundance_std": "error of the abundance"}
    wt = {name: {"units": WEIGHT, "long_name": text} for name, text in about.items()}
    footprints = xr.Dataset(
        {
            "corner_lat": (corner, joined["lat"], {"units": "degrees_north"}),
            "corner_lon": (corner, joined["lon"], {"units": "degrees_east"}),
            "abundance": (by_element, joined["abundance"], wt["abundance"]),
            "abundance_std": (by_element, joined["std"], wt["abundance_std"]),
        },
        {"element": list(elements), "track": ("footprint", joined["track"])},
    )
    return footprints, covered


def _track_corners(
    rng: np.random.Generator,
    extent: tuple[float, float, float, float],
    size: tuple[float, float],
    number: tuple[int, int],
) -> np.ndarray:
    """Corners (footprint, corner, lon and lat) of a track near a meridian, clockwise from the south-west."""
    west, south, east, north = extent
    length, width = math.degrees(size[0] / RADIUS_KM), math.degrees(size[1] / RADIUS_KM)
    count = int(rng.integers(number[0], number[1] + 1))
    lon0 = rng.uniform(west, east)
    lat0 = rng.uniform(south - length, north)
    tilt = rng.uniform(-0.02, 0.02)  # orbits are polar to within about a degree
    along = lat0 + length * np.arange(count + 1)
    along = along[(along > -89.0) & (along < 89.0)]
    if len(along) < 2:
        return np.zeros((0, 4, 2))
    middle = lon0 + tilt * (along - lat0)
    half = width / 2 / np.cos(np.deg2rad(along))
    left, right = middle - half, middle + half
    corners = np.stack(
        [
            np.column_stack([left[:-1], along[:-1]]),
            np.column_stack([left[1:], along[1:]]),
            np.column_stack([right[1:], along[1:]]),
            np.column_stack([right[:-1], along[:-1]]),
        ],
        axis=1,
    )
    return corners if rng.random() < 0.5 else corners[::-1]  # southwards or northwards
