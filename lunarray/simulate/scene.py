"""A polar scene as the Spectral Profiler would see it, with the oxides of every pixel known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lunarray.errors import require_number
from lunarray.geo import RADIUS
from lunarray.simulate import priors
from lunarray.simulate.cubes import (
    Tokenized,
    cube,
    one_calibration,
    require_wavelengths,
    seen,
)
from lunarray.simulate.noise import hash_normal, hash_uniform
from lunarray.simulate.relief import Relief, light_variables, relief_of
from lunarray.typing import typed

if TYPE_CHECKING:
    import xarray as xr

#: Mineral modes of what the ground is mixed of.
_ENDMEMBERS = np.array(
    [
        np.asarray(priors.TERRAINS[name].modes) / sum(priors.TERRAINS[name].modes)
        for name in ("feldspathic highland", "mafic highland", "anorthosite", "low-Ti mare")
    ]
)
#: Number of waves in each random field.
_WAVES = 24


@dataclass(frozen=True)
class Scene(Tokenized):
    """All that a pixel's spectrum depends on besides its place; small, and the same for every chunk.

    The pixels are numbered by the whole scene's width in `columns`; `origin` is the centre of the first one and
    `extent` half the scene's width (m). `waves` (field, wave, 4) are wave numbers along x and y (1/m), phase and
    amplitude of the random fields; `craters` (crater, 6) x, y, radius (m), maturity and the weights of mafic and
    anorthositic material in the ejecta; `mare` x, y, semi-axes (m) and orientation; `gaps` (gap, 2) azimuth on the map
    and half-width (degrees) of the tracks that are missing; `calibration` (bands,) a factor common to all spectra.
    """

    seed: int
    columns: int
    origin: tuple[float, float]
    resolution: float
    extent: float
    waves: np.ndarray
    craters: np.ndarray
    mare: np.ndarray
    gaps: np.ndarray
    calibration: np.ndarray
    wavelengths: np.ndarray
    relief: Relief

    def values(self, what: str, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Reflectance (pixel, band) or oxides (pixel, oxide) of pixels."""
        x = self.origin[0] + column * self.resolution
        y = self.origin[1] - row * self.resolution
        if what == "light":
            return self.relief.light(row, column).T.astype(np.float32)
        pixel = row.astype(np.uint64) * np.uint64(self.columns) + column.astype(np.uint64)
        soil = _soils(self, x, y)
        if what == "truth":
            return priors.oxides_of(soil)
        noise = hash_normal(self.seed, pixel, self.wavelengths.size)
        # The Sun is at most 1.5° plus the colatitude above the horizon.
        colatitude = 2 * np.arctan(np.hypot(x, y) / (2 * RADIUS))
        sine = np.sin(colatitude + math.radians(1.5))
        rough = self.relief.slope_rms > 0
        light = self.relief.light(row, column)[2] if rough else None
        spectra = seen(soil, self.wavelengths, self.calibration, sine, noise, light=light)
        missed = np.zeros(x.size, bool)
        azimuth = np.degrees(np.arctan2(x, y))
        for centre, half_width in self.gaps:
            missed |= np.abs((azimuth - centre + 180) % 360 - 180) < half_width
        # Slopes throw ever more of the ground into shadow; without relief by chance.
        speckle = hash_uniform(self.seed + 1, pixel, np.zeros(1, np.uint64))[:, 0]
        lost = speckle < 0.35 * np.exp(-((np.degrees(colatitude) / 1.2) ** 2))
        lost &= not rough
        spectra[soil["shadowed"] | missed | lost] = np.nan
        return spectra


def _make_scene(
    seed: int,
    columns: int,
    origin: tuple[float, float],
    resolution: float,
    extent: float,
    nm: np.ndarray,
    relief: Relief,
) -> Scene:
    rng = np.random.default_rng(seed)
    # Waves between a tenth of the scene and the whole of it, the longer the stronger.
    length = extent * 10 ** rng.uniform(-0.7, 0.3, (3, _WAVES))
    angle = rng.uniform(0, 2 * math.pi, (3, _WAVES))
    waves = np.stack(
        [
            2 * math.pi * np.cos(angle) / length,
            2 * math.pi * np.sin(angle) / length,
            rng.uniform(0, 2 * math.pi, (3, _WAVES)),
            length / np.sqrt((length**2).sum(axis=1, keepdims=True)) * math.sqrt(2),
        ],
        axis=-1,
    )
    count = 60
    radius = extent * 0.012 * rng.pareto(1.6, count).clip(0, 9) + extent * 0.012
    craters = np.column_stack(
        [
            rng.uniform(-extent, extent, (count, 2)),
            radius,
            rng.uniform(0.25, 1.0, count),
            # Some craters bring up mafic, some anorthositic material, from as much as dominates the ejecta to none.
            np.where(rng.random(count) < 0.5, rng.uniform(0, 0.9, count), 0.0),
            rng.uniform(0, 0.6, count),
        ]
    )
    turn = rng.uniform(0, 2 * math.pi)
    mare = np.array(
        [
            0.5 * extent * math.cos(turn),
            0.5 * extent * math.sin(turn),
            rng.uniform(0.22, 0.30) * extent,
            rng.uniform(0.14, 0.20) * extent,
            rng.uniform(0, math.pi),
        ]
    )
    gaps = np.column_stack([rng.uniform(-180, 180, 14), rng.uniform(0.3, 1.6, 14)])
    calibration = one_calibration(nm, rng)
    return Scene(
        seed,
        columns,
        origin,
        resolution,
        extent,
        waves,
        craters,
        mare,
        gaps,
        calibration,
        nm,
        relief,
    )


def _soils(scene: Scene, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Soils at points (pixel,), and which of them lie in permanent shadow."""
    field = np.zeros((3, x.size))
    for i in range(3):
        for kx, ky, phase, amplitude in scene.waves[i]:
            field[i] += amplitude * np.cos(kx * x + ky * y + phase)
    # Highlands: between feldspathic and mafic as the first field wants.
    mafic = 1 / (1 + np.exp(-(field[0] - 1.0) * 1.6))
    anorthositic = np.zeros(x.size)
    mx, my, a, b, angle = scene.mare
    along = (x - mx) * math.cos(angle) + (y - my) * math.sin(angle)
    across = (y - my) * math.cos(angle) - (x - mx) * math.sin(angle)
    # The shore wanders with the second field and is mixed over some pixels.
    shore = 1 - np.hypot(along / a, across / b) + 0.15 * field[1]
    mare = 1 / (1 + np.exp(-shore / 0.06))
    maturity = 1.0 + 0.06 * field[2]
    shadowed = np.zeros(x.size, bool)
    for cx, cy, radius, age, crater_mafic, crater_anorthositic in scene.craters:
        distance = np.hypot(x - cx, y - cy) / radius
        # Ejecta thin out as the cube of the distance (McGetchin et al. 1973, Earth Planet. Sci. Lett. 20, 226).
        cover = np.where(distance < 1, 0.9, 0.9 / np.maximum(distance, 1) ** 3)
        mafic = mafic * (1 - cover) + crater_mafic * cover
        anorthositic = anorthositic * (1 - cover) + crater_anorthositic * (1 - crater_mafic) * cover
        mare = mare * (1 - np.where(distance < 1, 0.6, 0.6 / np.maximum(distance, 1) ** 3))
        maturity = maturity * (1 - cover) + age * cover
        # Floors near the pole never see the Sun: the side towards the pole's opposite, that is the equatorward wall
        # and floor.
        range_ = math.hypot(cx, cy)
        if range_ < 0.35 * scene.extent:
            outward = ((x - cx) * cx + (y - cy) * cy) / (max(range_, 1.0) * radius)
            shadowed |= (distance < 0.85) & (outward > -0.35)
    highland = (1 - mare) * (1 - anorthositic)
    weights = np.stack(
        [highland * (1 - mafic), highland * mafic, (1 - mare) * anorthositic, mare], axis=1
    )
    # Sums in a fixed order: a matrix product could round differently in another chunk.
    modes = sum(weights[:, [i]] * _ENDMEMBERS[i] for i in range(4))
    constants = {
        "mg_number": (67.0, 66.0, 62.0, 50.0),
        "anorthite": (96.0, 93.0, 96.5, 89.0),
        "wollastonite": (28.0, 24.0, 28.0, 29.0),
    }
    return {
        "modes": modes,
        **{k: sum(weights[:, i] * v[i] for i in range(4)) for k, v in constants.items()},
        "maturity": np.clip(maturity, 0.15, 1.3),
        "shadowed": shadowed,
    }


@typed
def polar_scene(
    pole: Literal["north", "south"] = "north",
    resolution: float = 2000.0,
    latitude: float = 80.0,
    seed: int = 0,
    *,
    slope_rms: float = 0.0,
    chunks: int | None = 128,
    wavelengths: np.ndarray | None = None,
) -> xr.Dataset:
    """Simulate a polar reflectance cube with known oxides.

    Highlands that vary smoothly between feldspathic and mafic, craters with fresher ejecta of other composition,
    one mare; seen with SP's radiometric scale, one calibration's errors, noise that grows towards the pole, and the
    smoothing of conditioned spectra. Pixels of missing tracks and of permanently shadowed crater floors are NaN.
    Every pixel depends on its place and the seed only: the chunks do not matter.

    Parameters
    ----------
    pole : {"north", "south"}
        Which pole.
    resolution : float, optional
        Pixel size, m.
    latitude : float, optional
        Latitude (degrees, without sign) down to which the square scene reaches in the middle of its edges.
    seed : int, optional
        Another seed, another scene.
    slope_rms : float, optional
        Rough ground: standard deviation of slopes along a direction on the scale of pixels, degrees; 5-7 is a highland.
        The reflectance then is what a pipeline gives that takes the ground for flat, at each place's noon: sunward
        slopes are bright, others dark, and ground behind ground lies in shadow.
    chunks : int or None, optional
        Side of the spatial chunks; None for NumPy arrays in memory.
    wavelengths : array-like, shape (wavelength,), optional
        nm, within 450-1800; :data:`lunarray.sp.WAVELENGTHS_150` by default. Spectra are taken at the channels'
        centres.

    Returns
    -------
    xarray.Dataset
        ``reflectance`` (wavelength, y, x) float32 and the truth ``FeO_true``, ``TiO2_true``, … (y, x) in wt%,
        float32, on a polar stereographic grid with its CRS; lazy if chunked. With slopes also ``incidence``,
        ``emission``, ``phase``, ``solar_azimuth`` (degrees), ``height`` (m), ``light_uncertainty``, and the truth of
        the light ``light_gain_true``.

    Raises
    ------
    InputError
        Wavelengths or chunks that make no sense; errors of the grid as of :func:`lunarray.geo.polar_grid`.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> scene["reflectance"].dims
    ('wavelength', 'y', 'x')
    """
    from lunarray.geo import grid_coords, polar_grid

    nm = require_wavelengths(wavelengths)
    if chunks is not None:
        require_number("chunks", chunks, 1, whole=True)
    geobox = polar_grid(pole, resolution, latitude)
    coords = grid_coords(geobox)
    columns = geobox.shape[1]
    origin = float(coords["x"][0]), float(coords["y"][0])
    extent = columns * resolution / 2
    require_number("slope_rms", slope_rms, 0, 45)
    relief = relief_of(geobox, pole, int(seed), float(slope_rms))
    scene = _make_scene(int(seed), columns, origin, float(resolution), extent, nm, relief)
    asked = f"pole={pole!r}, resolution={resolution}, latitude={latitude}, seed={seed}"
    if slope_rms:
        asked += f", slope_rms={slope_rms}"
    attrs = {
        "instrument": "Spectral Profiler (SP), simulated",
        "source": f"lunarray.simulate.polar_scene({asked})",
    }
    light = light_variables(scene, geobox, chunks, float(slope_rms))
    return cube(scene, geobox, nm, chunks, attrs, light)
