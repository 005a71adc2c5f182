"""Constants of the minerals, glass and iron of lunar soil, each with its source.

Absorption coefficients are sums of bands that are Gaussian in wavelength (the modified Gaussian of Sunshine et al.
1990 is Gaussian in wavelength for its exponent of -1). Their strengths scale with the mineral's FeO, as in Lucey
(1998).

References
----------
.. [1] Adams (1974), J. Geophys. Res. 79, 4829: pyroxene band positions against Ca and Fe.
.. [2] Klima et al. (2007), Meteorit. Planet. Sci. 42, 235: orthopyroxene bands.
.. [3] Klima et al. (2011), Meteorit. Planet. Sci. 46, 379: clinopyroxene bands.
.. [4] Sunshine & Pieters (1998), J. Geophys. Res. 103, 13675: olivine bands.
.. [5] Cheek & Pieters (2014), Am. Mineral. 99, 1871: plagioclase band near 1.25 µm.
.. [6] Lucey (1998), J. Geophys. Res. 103, 1703: optical constants of olivine and pyroxene from Mg#, slab model.
.. [7] Wells & Hapke (1977), Science 195, 977; Bell et al. (1976), Proc. Lunar Sci. Conf. 7, 2543: lunar glasses.
.. [8] Johnson & Christy (1974), Phys. Rev. B 9, 5056: n and k of iron.
.. [9] Hapke (2001), J. Geophys. Res. 106, 10039: absorption by submicroscopic iron.
.. [10] Sunshine, Pieters & Pratt (1990), J. Geophys. Res. 95, 6955: modified Gaussian model.
.. [11] Heiken et al. (1991), Lunar Sourcebook, tables 5.1, 7.15: mineral and mean soil compositions.
.. [12] Mustard & Pieters (1989), J. Geophys. Res. 94, 13619: phase function of particulate mafic mixtures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Crystalline components, in the order of every ``modes`` array.
MINERALS = ("plagioclase", "orthopyroxene", "clinopyroxene", "olivine", "ilmenite")


@dataclass(frozen=True)
class Band:
    """One absorption band of a mineral, nm: centre of the Mg end member and standard deviation (FWHM / 2.355).

    `strength` is the absorption coefficient at the centre, 1/mm per wt% FeO in the mineral; the centre shifts by
    `shift_fe` from Mg# 100 to Mg# 0, and by `shift_wo` per mol% wollastonite.
    """

    centre: float
    sigma: float
    strength: float
    shift_fe: float = 0.0
    shift_wo: float = 0.0


@dataclass(frozen=True)
class Phase:
    """Optical and physical constants of one component.

    Refractive index near 1 µm, density (g/cm³), absorption coefficient far from all bands (1/mm), that at 500 nm of the
    wing of the ultraviolet charge-transfer bands (1/mm per wt% FeO), and the crystal-field bands.
    """

    refractive_index: float
    density: float
    background: float
    edge: float
    bands: tuple[Band, ...]


#: e-folding length (nm) of the ultraviolet wing. Lunar minerals and glasses: of this order (Wells & Hapke 1977).
EDGE_LENGTH = 90.0

# Refractive indices and densities: Lunar Sourcebook, Lucey (1998). Band positions and their shifts with composition
# follow the trends of the sources named. Widths and strengths are typical values of the spectra shown there, not
# transcribed tables: k = alpha lambda / 4 pi is near 7e-4 at the 0.9 µm band of En80 and 1e-4 at 1.05 µm of Fo80.
PLAGIOCLASE = Phase(1.57, 2.73, 0.10, 0.6, (Band(1250.0, 190.0, 1.2),))
ORTHOPYROXENE = Phase(
    1.69,
    3.4,
    0.3,
    0.10,
    (
        Band(899.0, 80.0, 0.70, shift_fe=40.0),
        Band(1170.0, 80.0, 0.06, shift_fe=20.0),
        Band(1800.0, 200.0, 0.40, shift_fe=280.0),
    ),
)
CLINOPYROXENE = Phase(
    1.70,
    3.4,
    0.3,
    0.12,
    (
        # Band I moves from 0.92 µm in pigeonite (Wo 8) to 1.00-1.02 µm in augite (Wo 40), band II from 1.95 to 2.3 µm.
        Band(895.0, 92.0, 0.45, shift_fe=35.0, shift_wo=2.5),
        Band(1170.0, 90.0, 0.07, shift_fe=30.0),
        Band(1840.0, 220.0, 0.28, shift_fe=120.0, shift_wo=9.0),
    ),
)
OLIVINE = Phase(
    1.68,
    3.5,
    0.2,
    0.04,
    (
        Band(852.0, 85.0, 0.035, shift_fe=25.0),
        Band(1035.0, 75.0, 0.060, shift_fe=40.0),
        Band(1220.0, 160.0, 0.070, shift_fe=50.0),
    ),
)
# Impact glass and agglutinates: background, edge and band strengths set so that the model gives Apollo 16 soil
# 62231 (Pieters 1999); band centres of Fe2+ in glass near 1.0-1.1 and 1.9 µm (Bell et al. 1976).
GLASS = Phase(
    1.64,
    2.8,
    0.1,
    1.0,
    (Band(1060.0, 200.0, 0.25), Band(1900.0, 350.0, 0.16)),
)
#: Extra ultraviolet wing of glass with titanium, 1/mm at 500 nm per (wt% FeO × wt% TiO2): Fe-Ti charge transfer
#: (Bell et al. 1976).
GLASS_EDGE_FE_TI = 0.06

#: Ilmenite is opaque: n and k of this size (Lunar Sourcebook) give a single-scattering albedo near 0.19, flat to
#: 1.6 µm.
ILMENITE_INDEX = 2.2
ILMENITE_DENSITY = 4.72
ILMENITE_K = 0.3

#: Iron: density (g/cm³) and Johnson & Christy's n and k (wavelength in µm).
IRON_DENSITY = 7.87
IRON_NK = np.array(
    [
        (0.413, 2.35, 2.65), (0.451, 2.59, 2.77), (0.496, 2.74, 2.88), (0.549, 2.95, 2.93),
        (0.617, 2.88, 3.05), (0.704, 2.86, 3.19), (0.821, 2.94, 3.39), (0.984, 2.92, 3.79),
        (1.216, 3.03, 4.39), (1.610, 3.11, 5.39), (1.937, 3.17, 6.12),
    ]
)  # fmt: skip

# Geometry of the standard: incidence 30°, emission 0°, phase 30°.
INCIDENCE_COSINE = float(np.cos(np.deg2rad(30.0)))
EMISSION_COSINE = 1.0
PHASE_ANGLE = float(np.deg2rad(30.0))
#: Legendre coefficients of the phase function (Mustard & Pieters 1989) and Hapke's opposition parameter at filling
#: factor 0.41 (Lucey 1998).
PHASE_B, PHASE_C = -0.4, 0.25
OPPOSITION_H = -3.0 / 8.0 * float(np.log(1 - 0.41))

#: Single-scattering albedo of iron blebs larger than the wavelength, and of other micrometre-sized opaques on
#: grains. They darken and hardly redden (Britt & Pieters 1994, Geochim. Cosmochim. Acta 58, 3905; Lucey & Riner
#: 2011, Icarus 212, 451). The value is a choice; only its product with the opaque share matters.
OPAQUE_IRON_ALBEDO = 0.35
