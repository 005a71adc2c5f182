"""One surface under all maps of a simulated Moon: its composition as a function of the place on the sphere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lunarray.geo import RADIUS
from lunarray.simulate import priors
from lunarray.simulate.cubes import Tokenized

RADIUS_KM = RADIUS / 1e3

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


@dataclass(frozen=True)
class Surface(Tokenized):
    """Composition as a function of the place on the sphere; small, and the same for every chunk and grid.

    `waves` (field, wave, 5) are wave vectors on the unit sphere, phase and amplitude of the random fields; `craters`
    (crater, 8) unit vector of the centre, radius (radians), maturity, and the weights of mafic, anorthositic and
    noritic material in the ejecta.
    """

    waves: np.ndarray
    craters: np.ndarray

    @classmethod
    def random(cls, seed: int) -> Surface:
        """Draw a surface; the named maria and the South Pole-Aitken basin are on each."""
        rng = np.random.default_rng(seed)
        shortest, longest = _WAVE_LENGTHS
        long_waves = draw_waves(rng, _FIELDS, _WAVES, shortest, longest, slope=0.8)
        waves = np.concatenate([long_waves, draw_waves(rng, 1, _WAVES, *_SHORT_LENGTHS, slope=0.6)])
        centres = _unit_vectors(rng, _CRATERS)
        # Twice the size, a quarter as many; up to 90 km.
        radius = np.clip(9.0 * (1 + rng.pareto(2.0, _CRATERS)), None, 90.0)
        mafic = np.where(rng.random(_CRATERS) < 0.5, rng.uniform(0, 0.9, _CRATERS), 0.0)
        anorthositic = rng.uniform(0, 0.7, _CRATERS) * (1 - mafic)
        maturity = rng.uniform(0.35, 1.0, _CRATERS)
        craters = np.column_stack(
            [centres, radius / RADIUS_KM, maturity, mafic, anorthositic, np.zeros(_CRATERS)]
        )
        lon, lat, size = _SCHROEDINGER
        named = [*unit_vector(lon, lat), size / RADIUS_KM, 0.95, 0.2, 0.0, 0.8]
        return cls(waves, np.vstack([craters, named]))

    def soil(self, lon: np.ndarray, lat: np.ndarray) -> dict[str, np.ndarray]:
        """Soils at points (point,) in degrees.

        Back come ``modes`` (point, 5) and ``anorthite``, ``mg_number``, ``wollastonite`` and ``maturity`` (point,):
        what :func:`lunarray.simulate.mix_reflectance` needs; and ``shadow`` (point,): the floor of a crater, as deep as
        it is dark where the Sun is low.
        """
        p = unit_vector(lon, lat)
        f = random_fields(self.waves, p)
        texture = f[4]
        mafic = 1 / (1 + np.exp(-(f[0] + 0.35 * texture - 1.2) * 1.5))
        anorthositic = 0.35 / (1 + np.exp((f[0] + 0.35 * texture + 0.9) * 3.0))
        clon, clat, radius, width, share = SPA
        distance = _arc(p, unit_vector(clon, clat)) * RADIUS_KM
        norite = share / (1 + np.exp(-(radius - distance + 90 * f[1] + 70 * texture) / width))
        mare, titanium = _maria(p, f[1], texture)
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
        """Oxides (point, 6), wt%, float32, at points (point,) in degrees."""
        return priors.oxides_of(self.soil(np.asarray(lon, np.float64), np.asarray(lat, np.float64)))


def _maria(
    p: tuple[Any, Any, Any], shore: np.ndarray, texture: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share of mare, and of high-Ti basalt in it, at points."""
    # The shores wander with the second field and are mixed over some tens of km.
    mare = np.zeros(p[0].size)
    titanium = np.zeros(p[0].size)
    for number in _within(p, _MARE_CENTRES, _MARE_REACH):
        _, _, size, strength, high = MARIA[number]
        centre, reach = _MARE_CENTRES[number], _MARE_REACH[number] * RADIUS_KM
        near = np.flatnonzero(_dot(p, centre) > math.cos(_MARE_REACH[number]))
        if not near.size:
            continue
        d = _arc(tuple(v[near] for v in p), centre) * RADIUS_KM
        rim = size * (1 + 0.12 * shore[near]) + np.minimum(45.0, 0.4 * size) * texture[near]
        fade = np.clip((reach - d) / (0.3 * reach), 0, 1)
        amount = strength * fade / (1 + np.exp(-(rim - d) / (0.10 * size + 6)))
        titanium[near] = np.where(amount > mare[near], high, titanium[near])
        mare[near] = np.maximum(mare[near], amount)
    return mare, titanium


# --- on the sphere --------------------------------------------------------------------------------


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


def draw_waves(
    rng: np.random.Generator,
    fields: int,
    count: int,
    shortest: float,
    longest: float,
    slope: float,
) -> np.ndarray:
    """Waves of :func:`random_fields` between two lengths (km); `slope` says how much stronger the longer are."""
    length = np.exp(rng.uniform(math.log(shortest), math.log(longest), (fields, count)))
    direction = _unit_vectors(rng, fields * count).reshape(fields, count, 3)
    amplitude = length**slope
    amplitude *= math.sqrt(2) / np.sqrt((amplitude**2).sum(axis=1, keepdims=True))
    return np.concatenate(
        [
            direction * (2 * math.pi * RADIUS_KM / length)[..., None],
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


_MARE_CENTRES = np.array([unit_vector(mare[0], mare[1]) for mare in MARIA])
#: Beyond three radii or 150 km (in radians) a mare adds exactly nothing.
_MARE_REACH = np.array([(mare[2] + max(2 * mare[2], 150.0)) / RADIUS_KM for mare in MARIA])
