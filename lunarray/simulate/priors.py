"""What lunar soils are made of: random mineral modes, compositions and maturity of the Moon's terrains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lunarray.simulate.kernels import mix_reflectance, oxide_abundances
from lunarray.simulate.minerals import MINERALS


@dataclass(frozen=True)
class Terrain:
    """Mineral modes and compositions of one kind of terrain, which has a share of the draws.

    `modes` are the median weights of the minerals (normalised after the draw), `spread` the standard deviations of
    their logarithms; Mg#, An and Wo have a mean and a standard deviation.
    """

    share: float
    modes: tuple[float, float, float, float, float]
    spread: tuple[float, float, float, float, float]
    mg_number: tuple[float, float]
    anorthite: tuple[float, float]
    wollastonite: tuple[float, float]


#: Terrains. Of feldspathic and mafic highland and both kinds of mare, medians and means are those of the norms of soils
#: of the Apollo and Luna sites (RELAB's table of chemical analyses; ``examples/fit_soil_priors.py`` computes them of a
#: table that one names): so many soils lie at 12 places, that the spreads are wider than theirs and surround
#: Chang'E-5 soil (Li et al. 2022, Natl. Sci. Rev. 9, nwab188) and feldspathic lunar meteorites (Korotev et al. 2003,
#: Geochim. Cosmochim. Acta 67, 4895). An is that of a norm in which all alumina is plagioclase's: lower than the
#: mineral's, by as much as pyroxene and glass hold of it. Anorthosite and olivine-rich soils: Lunar Sourcebook sections
#: 5.1 and 6. Shares are a choice, flat rather than by area.
TERRAINS = {
    "anorthosite": Terrain(
        0.12, (0.93, 0.025, 0.015, 0.015, 0.002), (0.04, 0.7, 0.7, 0.8, 0.9),
        mg_number=(64, 8), anorthite=(96.0, 1.2), wollastonite=(28, 8),
    ),
    "feldspathic highland": Terrain(
        0.28, (0.76, 0.075, 0.09, 0.07, 0.010), (0.06, 0.42, 0.40, 0.45, 0.55),
        mg_number=(69, 5.0), anorthite=(94.3, 2.0), wollastonite=(26.5, 7),
    ),
    "mafic highland": Terrain(
        0.20, (0.56, 0.13, 0.17, 0.10, 0.030), (0.11, 0.45, 0.35, 0.55, 0.50),
        mg_number=(66.5, 5.5), anorthite=(85, 4.0), wollastonite=(27, 7),
    ),
    "low-Ti mare": Terrain(
        0.18, (0.38, 0.165, 0.29, 0.10, 0.034), (0.15, 0.45, 0.22, 0.60, 0.55),
        mg_number=(54.5, 8.5), anorthite=(84.5, 4.0), wollastonite=(27, 6),
    ),
    "high-Ti mare": Terrain(
        0.14, (0.375, 0.075, 0.29, 0.10, 0.140), (0.14, 0.45, 0.18, 0.50, 0.35),
        mg_number=(59.5, 8.5), anorthite=(82.5, 4.0), wollastonite=(33, 6),
    ),
    "olivine-rich": Terrain(
        0.08, (0.42, 0.12, 0.10, 0.30, 0.010), (0.35, 0.50, 0.60, 0.45, 0.80),
        mg_number=(72, 9.0), anorthite=(91, 3.5), wollastonite=(28, 8),
    ),
}  # fmt: skip

#: Mature soil: submicroscopic iron (wt%) and the opaque share of the cross section, each as a value at zero FeO and
#: a slope per wt% FeO. Set so that the model gives Apollo 16 soil 62231 (Pieters 1999; iron 0.116 wt%, opaque share
#: 0.20, glass 0.48 at 5.5 wt% FeO; residual 0.5 % rms from 515 to 1600 nm) and the ratios of the mean SP
#: reflectances of the middle and low albedo groups (Kouyama et al. 2016) to the high one, with the groups taken as
#: soils of 10.3, 17.0 and 4.8 wt% FeO (iron 0.19 and 0.31 wt%, opaque share 0.32 and 0.46; residuals 0.3 and 0.8 %
#: rms).
SMFE = (0.020, 0.0168)
OPAQUE = (0.077, 0.0226)
#: Glass and agglutinates: weight fraction of fresh soil, and what full maturity adds; 0.48 is what 62231 wants.
GLASS = (0.08, 0.40)
#: Effective grain size in µm: the 10-20 µm fraction governs a soil's spectrum (Pieters et al. 1993, J. Geophys.
#: Res. 98, 20817). Only its product with the iron content is well determined by 62231, so that it stays near the
#: value of that fit.
GRAIN_SIZE = 22.0


def weathering(feo: np.ndarray, maturity: np.ndarray) -> dict[str, np.ndarray]:
    """What space weathering makes of soils with an FeO (wt%) and a maturity, 0 fresh to 1 mature, (sample,).

    Back come ``glass``, ``smfe`` and ``opaque_iron`` of :func:`lunarray.simulate.mix_reflectance`.
    """
    return {
        "glass": GLASS[0] + GLASS[1] * maturity,
        "smfe": (SMFE[0] + SMFE[1] * feo) * maturity,
        "opaque_iron": (OPAQUE[0] + OPAQUE[1] * feo) * np.sqrt(maturity),
    }


_COMPOSITION = ("anorthite", "mg_number", "wollastonite")


def oxides_of(soil: Mapping[str, np.ndarray]) -> np.ndarray:
    """Oxides (sample, 6) of soils that have ``modes``, ``anorthite``, ``mg_number`` and ``wollastonite``."""
    return oxide_abundances(soil["modes"], **{name: soil[name] for name in _COMPOSITION})


def reflectance_of(soil: Mapping[str, np.ndarray], wavelengths: np.ndarray) -> np.ndarray:
    """Reflectance (sample, wavelength) of such soils, as weathered as their ``maturity`` says."""
    return mix_reflectance(
        soil["modes"],
        wavelengths,
        **{name: soil[name] for name in _COMPOSITION},
        **weathering(oxides_of(soil)[:, 0], soil["maturity"]),
        grain_size=GRAIN_SIZE,
    )


def draw_soils(samples: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random soils of all terrains, float32.

    Half of them are one terrain's, half a mixture of two as impacts make them. Maturity governs glass,
    submicroscopic iron and opaque share together, each with a scatter of its own. Back come ``modes`` (sample, 5) and
    the keyword arguments of :func:`lunarray.simulate.mix_reflectance`, ``maturity`` (0 fresh, 1 mature) and ``terrain``
    (index of the main one, int8).
    """
    kinds = list(TERRAINS.values())
    shares = np.array([t.share for t in kinds])
    table = {
        name: np.array([getattr(t, name) for t in kinds])
        for name in ("modes", "spread", "mg_number", "anorthite", "wollastonite")
    }

    def one(kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        noise = rng.standard_normal((samples, len(MINERALS)))
        modes = table["modes"][kind] * np.exp(noise * table["spread"][kind])
        # No lunar soil is known beyond these: 13 wt% TiO2, dunite.
        modes = np.minimum(modes, (np.inf, np.inf, np.inf, 0.6, 0.26))
        modes /= modes.sum(axis=1, keepdims=True)
        rest = np.stack(
            [
                table[name][kind, 0] + table[name][kind, 1] * rng.standard_normal(samples)
                for name in ("mg_number", "anorthite", "wollastonite")
            ]
        )
        return modes, rest

    main = rng.choice(len(kinds), samples, p=shares / shares.sum())
    other = rng.choice(len(kinds), samples, p=shares / shares.sum())
    modes, rest = one(main)
    modes_b, rest_b = one(other)
    blend = rng.beta(1.0, 2.0, samples) * (rng.random(samples) < 0.5)
    # Mg# and Wo belong to the mafic minerals, An to plagioclase: they mix by the mass that carries them.
    mafic, mafic_b = (1 - v[:, 0] - v[:, 4] + 1e-6 for v in (modes, modes_b))
    weight = blend * mafic_b / (blend * mafic_b + (1 - blend) * mafic)
    feldspar = blend * modes_b[:, 0] / (blend * modes_b[:, 0] + (1 - blend) * modes[:, 0])
    mg_number = np.clip((1 - weight) * rest[0] + weight * rest_b[0], 30, 92)
    anorthite = np.clip((1 - feldspar) * rest[1] + feldspar * rest_b[1], 75, 99)
    wollastonite = np.clip((1 - weight) * rest[2] + weight * rest_b[2], 6, 44)
    modes = (1 - blend)[:, None] * modes + blend[:, None] * modes_b
    plagioclase_feo = np.exp(rng.normal(np.log(0.2), 0.4, samples))

    feo = oxide_abundances(
        modes,
        anorthite=anorthite,
        mg_number=mg_number,
        wollastonite=wollastonite,
        plagioclase_feo=plagioclase_feo,
    )[:, 0]
    # Most of the Moon is mature; craters and slopes are not.
    maturity = np.where(
        rng.random(samples) < 0.75, rng.normal(1.0, 0.12, samples), rng.uniform(0.2, 1.0, samples)
    ).clip(0.2, 1.4)
    weathered = weathering(feo, maturity)
    glass = (weathered["glass"] + rng.normal(0, 0.06, samples)).clip(0.02, 0.9)
    smfe = weathered["smfe"] * np.exp(rng.normal(0, 0.18, samples))
    opaque = (weathered["opaque_iron"] + rng.normal(0, 0.03, samples)).clip(0, 0.85)
    grain_size = GRAIN_SIZE * np.exp(rng.normal(0, 0.12, samples))
    drawn = {
        "modes": modes,
        "mg_number": mg_number,
        "anorthite": anorthite,
        "wollastonite": wollastonite,
        "plagioclase_feo": plagioclase_feo,
        "glass": glass,
        "smfe": smfe,
        "opaque_iron": opaque,
        "grain_size": grain_size,
        "maturity": maturity,
    }
    return {name: values.astype(np.float32) for name, values in drawn.items()} | {
        "terrain": main.astype(np.int8)
    }
