"""A whole Moon with known oxides: what both polar cubes and the maps of others show is one and the same surface.

The data are those of Bian et al. (2025): Spectral Profiler cubes of both poles, oxide maps of lower latitudes made by
others from another instrument, and a second, independent map of FeO. Training sees the belt where they overlap; the
truth is known everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import InputError
from lunarray.oxides.constants import OXIDES
from lunarray.simulate import instrument, kernels, priors
from lunarray.simulate.scene import _hash_normal, _hash_uniform
from lunarray.simulate.spectra import smoothed
from lunarray.sp.bands import WAVELENGTHS_150

if TYPE_CHECKING:
    import xarray as xr
    from odc.geo.geobox import GeoBox

_RADIUS_KM = 1737.4

#: Materials that the surface is mixed of: mineral modes, Mg#, An and Wo. Those of the priors, and the norite that
#: the South Pole-Aitken basin exposes (10-13 wt% FeO: Lawrence et al. 2002; orthopyroxene: Moriarty & Pieters 2018,
#: J. Geophys. Res. Planets 123, 729).
MATERIALS: dict[str, tuple[tuple[float, ...], float, float, float]] = {
    **{
        name: (terrain.modes, terrain.mg_number[0], terrain.anorthite[0], terrain.wollastonite[0])
        for name, terrain in priors.TERRAINS.items()
        if name != "olivine-rich"
    },
    "SPA norite": ((0.46, 0.31, 0.12, 0.07, 0.025), 63.0, 91.0, 22.0),
}
_NAMES = tuple(MATERIALS)

#: Maria and mafic ponds at about their places: longitude, latitude, radius (km), share of mare, share of high-Ti in
#: it. Chains of circles make the long ones.
MARIA = (
    (-44, 57.5, 90, 0.85, 0.05), (-32, 58.5, 110, 0.9, 0.05), (-18, 59, 115, 0.9, 0.05),
    (-4, 58, 125, 0.95, 0.08), (9, 57, 120, 0.95, 0.08), (22, 55.5, 115, 0.9, 0.05),
    (35, 54, 105, 0.85, 0.05), (45, 52, 70, 0.7, 0.05),  # Frigoris
    (-9.4, 51.6, 45, 0.9, 0.05),  # Plato
    (-16, 35, 520, 1.0, 0.25), (-57, 20, 650, 1.0, 0.45), (-60, 45, 300, 0.95, 0.30),
    (18, 27, 330, 1.0, 0.20), (31, 8, 430, 1.0, 0.85), (59, 17, 250, 1.0, 0.20), (51, -8, 400, 0.9, 0.25),
    (-17, -21, 350, 0.9, 0.15), (-39, -24, 200, 1.0, 0.30), (35, -15, 170, 1.0, 0.20),
    (81, 57, 120, 0.75, 0.10), (93, -46, 380, 0.55, 0.10), (100, -56, 120, 0.45, 0.10),
    (-95, -19, 150, 0.8, 0.15), (148, 27, 130, 0.9, 0.20),
    (-152, -36, 110, 0.8, 0.20), (163, -34, 110, 0.8, 0.25), (163, -57, 95, 0.65, 0.20), (176, -45, 90, 0.75, 0.20),
    (-173, -69, 55, 0.8, 0.15), (-135, -67, 30, 0.6, 0.10), (-115, -56, 35, 0.5, 0.10), (-162.7, -77, 30, 0.4, 0.10),
)  # fmt: skip
#: Centre and radius (km) of the South Pole-Aitken basin, width of its edge (km), share of norite well inside.
SPA = (-169.0, -53.0, 1020.0, 130.0, 0.85)
#: Craters that dug up norite outside of it: Schrödinger.
_SCHROEDINGER = (133.0, -75.0, 158.0)

#: Length of the shortest and longest waves of the random fields, km, their number, and how many fields: four whose
#: long waves are the strongest, one of short waves for shores and texture.
_WAVE_LENGTHS, _WAVES, _FIELDS = (70.0, 3500.0), 24, 4
_SHORT_LENGTHS = (50.0, 350.0)
_CRATERS = 700
#: Ejecta end at this many radii.
_REACH = 4.0
#: Relative noise of spectra far from the pole, and its growth as the Sun gets low; gain of a track (relative).
_NOISE, _NOISE_AT_POLE, _TRACK_GAIN = 0.003, 0.02, 0.004

#: Errors of the reference maps (wt%): from pixel to pixel, and in patches of 100-500 km that no averaging removes.
#: The patches are about half of the errors that Bian et al. (2025, table 2) are left with.
REFERENCE_NOISE = {"FeO": 0.5, "TiO2": 0.3, "Al2O3": 0.9, "CaO": 0.5, "MgO": 0.5, "SiO2": 0.3}
REFERENCE_PATCHES = {"FeO": 0.10, "TiO2": 0.07, "Al2O3": 0.20, "CaO": 0.12, "MgO": 0.12, "SiO2": 0.07}  # fmt: skip
#: Errors of the second FeO map: from pixel to pixel, in patches (wt%), and in scale.
SECOND_NOISE, SECOND_PATCHES, SECOND_SCALE = 0.4, 0.35, 1.03


@dataclass(frozen=True)
class Surface:
    """Composition as a function of the place on the sphere; small, and the same for every chunk and grid.

    Attributes
    ----------
    waves : ndarray, shape (field, wave, 5)
        Wave vector on the unit sphere, phase and amplitude of the random fields.
    craters : ndarray, shape (crater, 8)
        Unit vector of the centre, radius (radians), maturity, and the weights of mafic, anorthositic and noritic
        material in the ejecta.
    """

    waves: np.ndarray
    craters: np.ndarray

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.base import normalize_token

        return (type(self).__qualname__, *(normalize_token(v) for v in self.__dict__.values()))

    @classmethod
    def random(cls, seed: int) -> Surface:
        """Draw a surface; the named maria and the South Pole-Aitken basin are on each.

        Parameters
        ----------
        seed : int
            Another number, another surface.

        Returns
        -------
        Surface
        """
        rng = np.random.default_rng(seed)
        shortest, longest = _WAVE_LENGTHS
        long_waves = _draw_waves(rng, _FIELDS, _WAVES, shortest, longest, slope=0.8)
        waves = np.concatenate(
            [long_waves, _draw_waves(rng, 1, _WAVES, *_SHORT_LENGTHS, slope=0.6)]
        )
        centres = _unit_vectors(rng, _CRATERS)
        # Twice the size, a quarter as many; up to 90 km.
        radius = np.clip(9.0 * (1 + rng.pareto(2.0, _CRATERS)), None, 90.0)
        mafic = np.where(rng.random(_CRATERS) < 0.5, rng.uniform(0, 0.9, _CRATERS), 0.0)
        anorthositic = rng.uniform(0, 0.7, _CRATERS) * (1 - mafic)
        maturity = rng.uniform(0.35, 1.0, _CRATERS)
        craters = np.column_stack(
            [centres, radius / _RADIUS_KM, maturity, mafic, anorthositic, np.zeros(_CRATERS)]
        )
        lon, lat, size = _SCHROEDINGER
        named = [*unit_vector(lon, lat), size / _RADIUS_KM, 0.95, 0.2, 0.0, 0.8]
        return cls(waves, np.vstack([craters, named]))

    def soil(self, lon: np.ndarray, lat: np.ndarray) -> dict[str, np.ndarray]:
        """Soils at points.

        Parameters
        ----------
        lon, lat : ndarray, shape (point,)
            Degrees.

        Returns
        -------
        dict of ndarray
            ``modes`` (point, 5) and ``anorthite``, ``mg_number``, ``wollastonite`` and ``maturity`` (point,): what
            :func:`lunarray.simulate.mix_reflectance` needs; ``shadow`` (point,): the floor of a crater, as deep as
            it is dark where the Sun is low.
        """
        p = unit_vector(lon, lat)
        f = random_fields(self.waves, p)
        texture = f[4]
        mafic = 1 / (1 + np.exp(-(f[0] + 0.35 * texture - 1.2) * 1.5))
        anorthositic = 0.35 / (1 + np.exp((f[0] + 0.35 * texture + 0.9) * 3.0))
        clon, clat, radius, width, share = SPA
        distance = _arc(p, unit_vector(clon, clat)) * _RADIUS_KM
        norite = share / (1 + np.exp(-(radius - distance + 90 * f[1] + 70 * texture) / width))
        # The shores wander with the second field and are mixed over some tens of km.
        mare = np.zeros(p[0].size)
        titanium = np.zeros(p[0].size)
        for number in _within(p, _MARE_CENTRES, _MARE_REACH):
            _, _, size, strength, high = MARIA[number]
            centre, reach = _MARE_CENTRES[number], _MARE_REACH[number] * _RADIUS_KM
            near = np.flatnonzero(_dot(p, centre) > math.cos(_MARE_REACH[number]))
            if not near.size:
                continue
            d = _arc(tuple(v[near] for v in p), centre) * _RADIUS_KM
            rim = size * (1 + 0.12 * f[1][near]) + np.minimum(45.0, 0.4 * size) * texture[near]
            fade = np.clip((reach - d) / (0.3 * reach), 0, 1)
            amount = strength * fade / (1 + np.exp(-(rim - d) / (0.10 * size + 6)))
            titanium[near] = np.where(amount > mare[near], high, titanium[near])
            mare[near] = np.maximum(mare[near], amount)
        titanium = np.clip(titanium * (1 + 0.3 * f[2]), 0, 1)
        maturity = 1.0 + 0.06 * f[2]
        shadow = np.zeros(p[0].size)
        for number in _within(p, self.craters[:, :3], _REACH * self.craters[:, 3]):
            crater = self.craters[number]
            cosine = _dot(p, crater[:3])
            near = np.flatnonzero(cosine > math.cos(_REACH * crater[3]))
            if not near.size:
                continue
            distance = _arc(tuple(v[near] for v in p), crater[:3]) / crater[3]
            # Ejecta thin out as the cube of the distance (McGetchin et al. 1973, Earth Planet. Sci. Lett. 20, 226);
            # here to nothing at four radii.
            thickness = 1 / np.maximum(distance, 1.0) ** 3
            cover = 0.85 * np.maximum((thickness - _REACH**-3) / (1 - _REACH**-3), 0)
            mafic[near] += (crater[5] - mafic[near]) * cover
            anorthositic[near] += (crater[6] - anorthositic[near]) * cover
            norite[near] += (np.maximum(crater[7], 0.8 * norite[near]) - norite[near]) * cover
            mare[near] *= 1 - 0.6 * cover
            maturity[near] += (crater[4] - maturity[near]) * cover
            shadow[near] = np.maximum(shadow[near], np.clip(1 - distance, 0, 1))

        highland = (1 - mare) * (1 - norite)
        weights = {
            "anorthosite": highland * anorthositic,
            "feldspathic highland": highland * (1 - anorthositic) * (1 - mafic),
            "mafic highland": highland * (1 - anorthositic) * mafic,
            "SPA norite": (1 - mare) * norite,
            "low-Ti mare": mare * (1 - titanium),
            "high-Ti mare": mare * titanium,
        }
        # Sums in a fixed order: a matrix product could round differently in another chunk.
        modes = np.zeros((p[0].size, 5))
        constants = np.zeros((3, p[0].size))
        for name in _NAMES:
            mix, *values = MATERIALS[name]
            share_of = weights[name]
            for k in range(5):
                modes[:, k] += share_of * (mix[k] / sum(mix))
            for k in range(3):
                constants[k] += share_of * values[k]
        # What no end member explains: olivine against pyroxene, and Mg#.
        modes[:, 3] *= np.exp(0.20 * f[3])
        modes[:, 1] *= np.exp(-0.10 * f[3])
        return {
            "modes": modes / modes.sum(axis=1, keepdims=True),
            "mg_number": constants[0] + 1.0 * f[1] * (1 - mare),
            "anorthite": constants[1],
            "wollastonite": constants[2],
            "maturity": np.clip(maturity, 0.15, 1.3),
            "shadow": shadow,
        }

    def oxides(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Oxides at points.

        Parameters
        ----------
        lon, lat : ndarray, shape (point,)
            Degrees.

        Returns
        -------
        ndarray, shape (point, 6), float32
            wt%, in the order of :data:`lunarray.oxides.OXIDES`.
        """
        return _oxides_of(self.soil(np.asarray(lon, np.float64), np.asarray(lat, np.float64)))


@dataclass(frozen=True)
class Moon:
    """The data of a simulated study of the poles; everything lazy.

    Attributes
    ----------
    north, south : xarray.Dataset
        Cubes: ``reflectance`` (wavelength, y, x) with gaps as NaN, and the truth ``FeO_true``, ``TiO2_true``, …
        (y, x) in wt%, which a study would not have.
    reference : xarray.Dataset
        Maps of the six oxides (lat, lon) for |lat| < 65°, wt%, finer than the cubes and with errors of their own.
    second_north, second_south : xarray.DataArray
        Another map of FeO (y, x) on polar grids of another resolution, wt%, with other errors.
    surface : Surface
        The composition as a function of the place, without any error.
    """

    north: xr.Dataset
    south: xr.Dataset
    reference: xr.Dataset
    second_north: xr.DataArray
    second_south: xr.DataArray
    surface: Surface


def moon(
    resolution: float = 4000.0,
    seed: int = 0,
    *,
    latitude: float = 50.0,
    reference_resolution: float | None = None,
    reference_latitude: float = 65.0,
    second_resolution: float | None = None,
    chunks: int | None = 128,
    wavelengths: np.ndarray | None = None,
) -> Moon:
    """Simulate a Moon as the study of Bian et al. (2025) would find it.

    Highlands, a Frigoris-like mare belt in the north, a South Pole-Aitken-like mafic basin in the south, other maria
    at about their places, craters with fresher ejecta of other composition: one surface, whose spectra follow from
    its composition through :func:`lunarray.simulate.mix_reflectance`. The cubes see it with SP's radiometric scale,
    one calibration's errors, stripes of tracks, noise that grows towards the pole, missing tracks and shadows.

    Parameters
    ----------
    resolution : float, optional
        Pixel of the cubes, m. The paper's is 500.
    seed : int, optional
        Another seed, another Moon.
    latitude : float, optional
        The cubes reach from the poles to this latitude (degrees, without sign).
    reference_resolution : float, optional
        Pixel of the reference maps, degrees; by default two ninths of the cubes' (a window of 9 × 9 is then as large
        as 2 × 2 pixels of the cube; the paper's maps would need 17 × 17).
    reference_latitude : float, optional
        The reference maps end at this latitude north and south.
    second_resolution : float, optional
        Pixel of the second FeO map, m; by default 1.5 times that of the cubes.
    chunks : int or None, optional
        Side of the spatial chunks; None for NumPy arrays in memory.
    wavelengths : array-like, shape (wavelength,), optional
        nm, rising within 450-1800; :data:`lunarray.sp.WAVELENGTHS_150` by default.

    Returns
    -------
    Moon
        Cubes, reference maps, second map and truth. Every pixel depends on its place and the seed only: the chunks
        do not matter.

    Raises
    ------
    InputError
        Wavelengths, chunks or latitudes that make no sense.
    GridError
        A resolution that makes no grid.

    References
    ----------
    Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, sections 2.1 and 2.2: the data.
    """
    from lunarray.geo import lunar_grid, polar_grid

    nm = np.asarray(WAVELENGTHS_150 if wavelengths is None else wavelengths, np.float32).reshape(-1)
    if nm.size < 2 or nm.min() < 450 or nm.max() > 1800 or not (np.diff(nm) > 0).all():
        raise InputError(
            "wavelengths that do not rise within 450-1800 nm",
            where="wavelengths",
            remedy="give nm, sorted",
        )
    if chunks is not None and chunks < 1:
        raise InputError(
            f"chunks of {chunks} pixels", where="chunks", remedy="give 1 or more, or None"
        )
    for name, value in (("latitude", latitude), ("reference_latitude", reference_latitude)):
        if not 0 < value < 90:
            raise InputError(
                f"{value} degrees", where=name, remedy="give a latitude between 0 and 90"
            )
    surface = Surface.random(seed)
    source = f"lunarray.simulate.moon(resolution={resolution}, seed={seed})"
    rng = np.random.default_rng([seed, 1])
    # One instrument saw both poles: one calibration.
    calibration = instrument.measure(
        np.ones((1, nm.size), np.float32), nm, rng, scale=1.0, gain=0.02, slope=0.01, curvature=0.005,
        broad=0.003, step=0.004, pattern=0.002, noise=0.0, common_pattern=True,
    )[0]  # fmt: skip
    gaps = np.column_stack([rng.uniform(-180, 180, 50), rng.uniform(0.05, 0.35, 50)])
    patches = _draw_waves(rng, len(OXIDES) + 1, 20, 100.0, 500.0, slope=0.0)

    cubes = {}
    for number, pole in enumerate(("north", "south")):
        grid = polar_grid(pole, resolution, latitude)
        cubes[pole] = _cube(
            grid,
            _Sight(surface, seed * 4 + number, nm, calibration, gaps),
            chunks,
            f"{source}: {pole}",
        )
    if reference_resolution is None:
        reference_resolution = math.degrees(resolution / (_RADIUS_KM * 1e3)) * 2 / 9
    bounds = (-180.0, -reference_latitude, 180.0, reference_latitude)
    # Whole pixels around the Moon, so that the seam is no place unlike others.
    columns = max(8, round(360.0 / reference_resolution))
    reference = _maps(
        lunar_grid("geographic", 360.0 / columns, bounds),
        _Errors(
            surface,
            seed * 4 + 2,
            tuple(REFERENCE_NOISE.values()),
            tuple(REFERENCE_PATCHES.values()),
            patches[:-1],
        ),
        None if chunks is None else 4 * chunks,
        f"{source}: reference",
    )
    second = {}
    for number, pole in enumerate(("north", "south")):
        grid = polar_grid(pole, second_resolution or 1.5 * resolution, latitude)
        errors = _Errors(
            surface,
            seed * 4 + 3 + 1000 * number,
            (SECOND_NOISE,),
            (SECOND_PATCHES,),
            patches[-1:],
            SECOND_SCALE,
        )
        second[pole] = _maps(grid, errors, chunks, f"{source}: second FeO, {pole}")["FeO"]
    return Moon(
        cubes["north"], cubes["south"], reference, second["north"], second["south"], surface
    )


def truth_maps(scene: xr.Dataset) -> xr.Dataset:
    """Take the truth out of a simulated scene, under the oxides' own names, with Mg#.

    Parameters
    ----------
    scene : Dataset
        With ``FeO_true`` and the others.

    Returns
    -------
    Dataset
        ``FeO``, …, ``Mg_number``.

    Raises
    ------
    InputError
        If it holds no truth.
    """
    from lunarray.oxides.api import mg_number

    names = {f"{oxide}_true": oxide for oxide in OXIDES}
    lacking = [name for name in names if name not in scene]
    if lacking:
        raise InputError(
            f"no variable {', '.join(lacking)}", where="truth", remedy="give a simulated scene"
        )
    truth = scene[list(names)].rename(names)
    truth["Mg_number"] = mg_number(truth)
    return truth


# ------------------------------------------------------------------------------------- on the sphere
def unit_vector(lon: Any, lat: Any) -> tuple[Any, Any, Any]:
    """Unit vectors of places in degrees."""
    lon, lat = np.deg2rad(lon), np.deg2rad(lat)
    return np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)


def random_fields(waves: np.ndarray, p: tuple[Any, Any, Any]) -> np.ndarray:
    """Sums of plane waves through space where the sphere cuts them: no seam, no pole; of about unit variance."""
    out = np.zeros((len(waves), np.size(p[0])))
    for field, rows in zip(out, waves, strict=True):
        for kx, ky, kz, phase, amplitude in rows:
            field += amplitude * np.cos(kx * p[0] + ky * p[1] + kz * p[2] + phase)
    return out


def _within(p: tuple[Any, ...], centres: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Features that may reach any of the points; those left out reach none of them."""
    middle = np.array([v.mean() for v in p])
    length = np.linalg.norm(middle)
    if length < 0.1:  # the points are all around the Moon
        return np.arange(len(centres))
    middle /= length
    spread = 2 * math.asin(min(1.0, math.sqrt(max(0.0, (2 - 2 * _dot(p, middle)).max())) / 2))
    angle = np.arccos(np.clip(centres @ middle, -1, 1))
    return np.flatnonzero(angle < reach + spread + 1e-6)


def _draw_waves(
    rng: np.random.Generator,
    fields: int,
    count: int,
    shortest: float,
    longest: float,
    slope: float,
) -> np.ndarray:
    length = np.exp(rng.uniform(math.log(shortest), math.log(longest), (fields, count)))
    direction = _unit_vectors(rng, fields * count).reshape(fields, count, 3)
    amplitude = length**slope
    amplitude *= math.sqrt(2) / np.sqrt((amplitude**2).sum(axis=1, keepdims=True))
    return np.concatenate(
        [
            direction * (2 * math.pi * _RADIUS_KM / length)[..., None],
            rng.uniform(0, 2 * math.pi, (fields, count, 1)),
            amplitude[..., None],
        ],
        axis=-1,
    )


def _unit_vectors(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _dot(p: tuple[Any, ...], q: Any) -> Any:
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]


def _arc(p: tuple[Any, ...], q: Any) -> Any:
    """Angle between unit vectors; from the chord, which is exact where the cosine is not."""
    chord = np.sqrt((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 + (p[2] - q[2]) ** 2)
    return 2 * np.arcsin(np.minimum(chord / 2, 1.0))


def _oxides_of(soil: dict[str, np.ndarray]) -> np.ndarray:
    return kernels.oxide_abundances(
        soil["modes"],
        anorthite=soil["anorthite"],
        mg_number=soil["mg_number"],
        wollastonite=soil["wollastonite"],
    )


_MARE_CENTRES = np.array([unit_vector(mare[0], mare[1]) for mare in MARIA])
#: Beyond three radii or 150 km (in radians) a mare adds exactly nothing.
_MARE_REACH = np.array([(mare[2] + max(2 * mare[2], 150.0)) / _RADIUS_KM for mare in MARIA])


# ------------------------------------------------------------------------------------------ products
@dataclass(frozen=True)
class _Sight:
    """What a pixel of a cube depends on besides its place."""

    surface: Surface
    seed: int
    wavelengths: np.ndarray
    calibration: np.ndarray
    gaps: np.ndarray

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.base import normalize_token

        return (type(self).__qualname__, *(normalize_token(v) for v in self.__dict__.values()))

    def reflectance(self, lon: np.ndarray, lat: np.ndarray, pixel: np.ndarray) -> np.ndarray:
        soil = self.surface.soil(lon, lat)
        clean = kernels.mix_reflectance(
            soil["modes"],
            self.wavelengths,
            anorthite=soil["anorthite"],
            mg_number=soil["mg_number"],
            wollastonite=soil["wollastonite"],
            **priors.weathering(_oxides_of(soil)[:, 0], soil["maturity"]),
            grain_size=priors.GRAIN_SIZE,
        )
        # Tracks follow the meridians: each has a gain of its own, which maps show as stripes.
        track = np.floor((lon + 180.0) / 0.5).astype(np.uint64)
        gain = 1 + _TRACK_GAIN * _hash_normal(self.seed + 77, track, 2)[:, 0]
        spectra = clean * self.calibration * gain[:, None].astype(np.float32)
        noise = _hash_normal(self.seed, pixel, self.wavelengths.size)
        # The Sun stands at most 1.5° plus the colatitude above the horizon.
        colatitude = 90.0 - np.abs(lat)
        sine = np.sin(np.deg2rad(colatitude + 1.5))
        level = _NOISE + (_NOISE_AT_POLE - _NOISE) * np.exp(-sine / 0.03)
        # The mean over bands as a running sum in band order, for the same rounding in every chunk.
        mean = np.add.accumulate(spectra, axis=1)[:, -1] / np.float32(spectra.shape[1])
        spectra = spectra + (level * mean).astype(np.float32)[:, None] * noise
        spectra = smoothed(spectra, self.wavelengths)
        missed = np.zeros(lon.size, bool)
        for centre, half_width in self.gaps:
            missed |= np.abs((lon - centre + 180.0) % 360.0 - 180.0) < half_width
        # Floors near the pole never see the Sun, and slopes throw ever more of the ground into shadow.
        dark = (soil["shadow"] > 0.25) & (colatitude < 9.0)
        speckle = _hash_uniform(self.seed + 1, pixel, np.zeros(1, np.uint64))[:, 0]
        lost = speckle < 0.30 * np.exp(-((colatitude / 1.2) ** 2))
        spectra[missed | dark | lost] = np.nan
        return spectra

    def truth(self, lon: np.ndarray, lat: np.ndarray, pixel: np.ndarray) -> np.ndarray:
        return self.surface.oxides(lon, lat)


@dataclass(frozen=True)
class _Errors:
    """Maps that others made: the truth times a scale, with errors of pixels and of patches."""

    surface: Surface
    seed: int
    noise: tuple[float, ...]
    patches: tuple[float, ...]
    waves: np.ndarray
    scale: float = 1.0

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.base import normalize_token

        return (type(self).__qualname__, *(normalize_token(v) for v in self.__dict__.values()))

    def mapped(self, lon: np.ndarray, lat: np.ndarray, pixel: np.ndarray) -> np.ndarray:
        count = len(self.noise)
        values = self.surface.oxides(lon, lat)[:, :count] * np.float32(self.scale)
        smooth = random_fields(self.waves, unit_vector(lon, lat))
        fine = _hash_normal(self.seed, pixel, count)
        for k in range(count):
            values[:, k] += (self.patches[k] * smooth[k] + self.noise[k] * fine[:, k]).astype(
                np.float32
            )
        return np.maximum(values, np.float32(0))


def _block(
    rows: np.ndarray, columns: np.ndarray, geobox: GeoBox, source: Any, what: str, layers: int
) -> np.ndarray:
    """Values (layer, row, column) of the pixels of some rows and columns of a grid."""
    from lunarray.geo import moon_crs

    crs = moon_crs(geobox.crs)
    # Rows of the source of randomness are numbered over the whole grid, whatever the chunks.
    row, column = (v.ravel() for v in np.meshgrid(rows, columns, indexing="ij"))
    out = np.empty((layers, row.size), np.float32)
    affine = geobox.transform
    to_lonlat = None
    if not crs.is_geographic:
        import pyproj

        to_lonlat = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    # A row at a time would waste the processor, all at once memory.
    for start in range(0, row.size, 4096):
        part = slice(start, start + 4096)
        x = affine.c + (column[part] + 0.5) * affine.a
        y = affine.f + (row[part] + 0.5) * affine.e
        lon, lat = (x, y) if to_lonlat is None else to_lonlat.transform(x, y)
        pixel = row[part].astype(np.uint64) * np.uint64(geobox.shape[1])
        pixel = pixel + column[part].astype(np.uint64)
        out[:, part] = getattr(source, what)(lon, lat, pixel).T
    return out.reshape(layers, rows.size, columns.size)


def _lazy(geobox: GeoBox, source: Any, what: str, layers: int, chunks: int | None) -> Any:
    rows, columns = geobox.shape
    if chunks is None:
        return _block(np.arange(rows), np.arange(columns), geobox, source, what, layers)
    import dask.array as da

    return da.blockwise(
        _block,
        "byx",
        da.arange(rows, chunks=chunks),
        "y",
        da.arange(columns, chunks=chunks),
        "x",
        geobox=geobox,
        source=source,
        what=what,
        layers=layers,
        new_axes={"b": layers},
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )


def _cube(geobox: GeoBox, sight: _Sight, chunks: int | None, source: str) -> xr.Dataset:
    import xarray as xr

    from lunarray.geo import assign_crs, grid_coords

    nm = sight.wavelengths
    truth = _lazy(geobox, sight, "truth", len(OXIDES), chunks)
    result = xr.Dataset(
        {
            "reflectance": (
                ("wavelength", "y", "x"),
                _lazy(geobox, sight, "reflectance", nm.size, chunks),
                {"long_name": "bidirectional reflectance at 30°/0°/30°", "units": "1"},
            ),
            **{
                f"{oxide}_true": (
                    ("y", "x"),
                    truth[i],
                    {"long_name": f"true {oxide} abundance", "units": "wt%"},
                )
                for i, oxide in enumerate(OXIDES)
            },
        },
        coords={
            "wavelength": ("wavelength", nm, {"long_name": "wavelength", "units": "nm"}),
            **grid_coords(geobox),
        },
        attrs={"source": source},
    )
    return assign_crs(result, geobox)


def _maps(geobox: GeoBox, errors: _Errors, chunks: int | None, source: str) -> xr.Dataset:
    import xarray as xr

    from lunarray.geo import assign_crs, grid_coords, grid_dims

    names = OXIDES[: len(errors.noise)]
    values = _lazy(geobox, errors, "mapped", len(names), chunks)
    result = xr.Dataset(
        {
            oxide: (
                grid_dims(geobox),
                values[i],
                {"long_name": f"{oxide} abundance", "units": "wt%"},
            )
            for i, oxide in enumerate(names)
        },
        coords=grid_coords(geobox),
        attrs={"source": source},
    )
    return assign_crs(result, geobox)
