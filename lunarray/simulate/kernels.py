"""The forward model on plain arrays: reflectance and oxides of mineral mixtures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lunarray.errors import InputError
from lunarray.oxides.constants import MOLAR_MASS, OXIDES
from lunarray.simulate import minerals as m

#: What says of which oxides a mixture of minerals is made.
COMPOSITION = ("anorthite", "mg_number", "wollastonite", "plagioclase_feo")
#: Samples computed at once: keeps the temporaries of one step in the processor's cache.
_BATCH = 512


def _column(value: float | np.ndarray, samples: int, name: str) -> np.ndarray:
    array = np.asarray(value, dtype=np.float32)
    if array.ndim > 1 or (array.ndim == 1 and array.shape[0] not in (1, samples)):
        raise InputError(
            f"shape {array.shape} for {samples} samples",
            where=name,
            remedy="Give one number or one per sample",
        )
    return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (samples,)))


def _normalised(modes: np.ndarray) -> np.ndarray:
    modes = np.atleast_2d(np.asarray(modes, dtype=np.float32))
    if modes.ndim != 2 or modes.shape[1] != len(m.MINERALS):
        raise InputError(
            f"shape {modes.shape}",
            where="modes",
            remedy=f"Give (sample, {len(m.MINERALS)}): weight fractions of {', '.join(m.MINERALS)}",
        )
    total = modes.sum(axis=1, keepdims=True)
    if not (modes >= 0).all() or not (total > 0).all():
        raise InputError(
            "negative or all-zero weight fractions", where="modes", remedy="Give fractions ≥ 0"
        )
    return modes / total


def mafic_feo(
    mg_number: np.ndarray, wollastonite: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FeO in wt% of orthopyroxene, clinopyroxene and olivine with a Mg# (0-100) and a wollastonite content (mol%)."""
    mg = np.asarray(mg_number, np.float64) / 100
    wo = np.asarray(wollastonite, np.float64) / 100
    fe = 1 - mg
    mm = MOLAR_MASS

    def pyroxene(calcium: np.ndarray | float) -> np.ndarray:
        mass = calcium * mm["CaO"] + (1 - calcium) * (mg * mm["MgO"] + fe * mm["FeO"]) + mm["SiO2"]
        return 100 * (1 - calcium) * fe * mm["FeO"] / mass

    olivine = 200 * fe * mm["FeO"] / (2 * (mg * mm["MgO"] + fe * mm["FeO"]) + mm["SiO2"])
    return pyroxene(ORTHOPYROXENE_WO), pyroxene(wo), olivine


#: Wollastonite fraction of lunar orthopyroxene (Lunar Sourcebook, section 5.1.1: 2-5 mol%).
ORTHOPYROXENE_WO = 0.03
_SODA = 61.979


def oxide_abundances(
    modes: np.ndarray,
    *,
    anorthite: float | np.ndarray = 95.0,
    mg_number: float | np.ndarray = 65.0,
    wollastonite: float | np.ndarray = 30.0,
    plagioclase_feo: float | np.ndarray = 0.2,
) -> np.ndarray:
    """Compute the oxides of a mineral mixture by stoichiometry.

    Pyroxenes are (Ca, Mg, Fe)SiO3, olivine (Mg, Fe)2SiO4, plagioclase CaAl2Si2O8-NaAlSi3O8 with some FeO, ilmenite
    FeTiO3. The six oxides sum to 100 less the Na2O of the plagioclase. Cr2O3, MnO, K2O, P2O5, the Al2O3 of pyroxene
    and the MgO of ilmenite are left out: together about 1 wt% of a soil.

    Parameters
    ----------
    modes : array, shape (sample, 5)
        Weight fractions of :data:`lunarray.simulate.minerals.MINERALS`; normalised to a sum of 1.
    anorthite : float or array, shape (sample,)
        An of the plagioclase, mol%.
    mg_number : float or array, shape (sample,)
        Molar 100 Mg/(Mg+Fe) of the mafic minerals.
    wollastonite : float or array, shape (sample,)
        Wo of the clinopyroxene, mol%.
    plagioclase_feo : float or array, shape (sample,)
        FeO in the plagioclase, wt%.

    Returns
    -------
    ndarray, shape (sample, 6), float32
        wt% in the order of :data:`lunarray.oxides.OXIDES`.

    Examples
    --------
    >>> import lunarray as la
    >>> import numpy as np
    >>> modes = np.zeros((1, len(la.simulate.MINERALS)))
    >>> modes[0, 0] = 1.0
    >>> la.simulate.oxide_abundances(modes).shape
    (1, 6)
    """
    modes = _normalised(modes).astype(np.float64)
    samples = len(modes)
    an = _column(anorthite, samples, "anorthite").astype(np.float64) / 100
    mg = _column(mg_number, samples, "mg_number").astype(np.float64) / 100
    wo = _column(wollastonite, samples, "wollastonite").astype(np.float64) / 100
    feldspar_feo = _column(plagioclase_feo, samples, "plagioclase_feo").astype(np.float64) / 100
    mm = MOLAR_MASS
    zero = np.zeros(samples)

    def share(**moles: np.ndarray) -> np.ndarray:
        """Weight fractions of the six oxides; Na2O counts in the total only."""
        mass = {name: amount * mm.get(name, _SODA) for name, amount in moles.items()}
        total = sum(mass.values())
        return np.stack([mass.get(name, zero) / total for name in OXIDES], axis=1)

    plagioclase = share(CaO=an, Na2O=(1 - an) / 2, Al2O3=(1 + an) / 2, SiO2=3 - an)
    plagioclase *= (1 - feldspar_feo)[:, None]
    plagioclase[:, OXIDES.index("FeO")] += feldspar_feo

    def pyroxene(calcium: np.ndarray) -> np.ndarray:
        return share(
            CaO=calcium, MgO=(1 - calcium) * mg, FeO=(1 - calcium) * (1 - mg), SiO2=zero + 1
        )

    phases = (
        plagioclase,
        pyroxene(zero + ORTHOPYROXENE_WO),
        pyroxene(wo),
        share(MgO=2 * mg, FeO=2 * (1 - mg), SiO2=zero + 1),
        share(FeO=zero + 1, TiO2=zero + 1),
    )
    return sum(100 * modes[:, [i]] * phase for i, phase in enumerate(phases)).astype(np.float32)


def iron_absorption(wavelengths: np.ndarray, host_index: float) -> np.ndarray:
    """Absorption by submicroscopic iron per volume fraction, 1/mm (Hapke 2001)."""
    micrometres = np.asarray(wavelengths, np.float64) / 1000
    n = np.interp(micrometres, m.IRON_NK[:, 0], m.IRON_NK[:, 1])
    k = np.interp(micrometres, m.IRON_NK[:, 0], m.IRON_NK[:, 2])
    z = host_index**3 * n * k / ((n**2 - k**2 + 2 * host_index**2) ** 2 + (2 * n * k) ** 2)
    return 1000 * 36 * np.pi * z / micrometres


def _surface_reflections(n: float) -> tuple[float, float]:
    """External and internal diffuse surface reflection (Hapke 1981; Lucey 1998)."""
    return ((n - 1) / (n + 1)) ** 2 + 0.05, 1 - 4 / (n * (n + 1) ** 2)


def _path_factor(n: float) -> float:
    """Mean path through a grain in units of its diameter (Hapke & Wells 1981)."""
    return 2 / 3 * (n**2 - (n**2 - 1) ** 1.5 / n)


def slab_albedo(absorption: np.ndarray, n: float, grain_size: np.ndarray) -> np.ndarray:
    """Single-scattering albedo (sample, wavelength), at most 1, by Hapke's equivalent slab without internal scatterers.

    `absorption` (sample, wavelength) in 1/mm, refractive index `n`, `grain_size` (sample,) as diameters in µm.
    """
    external, internal = _surface_reflections(n)
    path = np.float32(-_path_factor(n) / 1000) * grain_size[:, None]
    transmitted = np.exp(absorption * path)
    return np.float32(external) + np.float32((1 - external) * (1 - internal)) * transmitted / (
        1 - np.float32(internal) * transmitted
    )


def albedo_to_reflectance(albedo: np.ndarray) -> np.ndarray:
    """Reflectance factor at 30°/0°/30° of a single-scattering albedo (Hapke 1981, 2002).

    Relative to a Lambertian surface lit and seen alike.
    """
    mu0, mu = m.INCIDENCE_COSINE, m.EMISSION_COSINE
    opposition = 1 / (1 + np.tan(m.PHASE_ANGLE / 2) / m.OPPOSITION_H)
    cosine = np.cos(m.PHASE_ANGLE)
    phase = 1 + m.PHASE_B * cosine + m.PHASE_C * (1.5 * cosine**2 - 0.5)
    w = np.minimum(albedo, np.float32(1))
    gamma = np.sqrt(1 - w)
    r0 = (1 - gamma) / (1 + gamma)

    def h(x: float) -> np.ndarray:
        # Hapke (2002), Icarus 157, 523, equation 13: within 1 % of Chandrasekhar's H.
        log_term = np.float32(np.log((1 + x) / x))
        return 1 / (
            1 - w * np.float32(x) * (r0 + (np.float32(0.5) - np.float32(x) * r0) * log_term)
        )

    single = np.float32((1 + opposition) * phase - 1)
    return w * np.float32(0.25 / (mu0 + mu)) * (single + h(mu0) * h(mu))


def mix_reflectance(
    modes: np.ndarray,
    wavelengths: np.ndarray,
    *,
    anorthite: float | np.ndarray = 95.0,
    mg_number: float | np.ndarray = 65.0,
    wollastonite: float | np.ndarray = 30.0,
    plagioclase_feo: float | np.ndarray = 0.2,
    glass: float | np.ndarray = 0.4,
    smfe: float | np.ndarray = 0.2,
    opaque_iron: float | np.ndarray = 0.0,
    grain_size: float | np.ndarray = 25.0,
) -> np.ndarray:
    """Reflectance of a soil of minerals, glass of the soil's own composition, and space-weathering iron.

    Single-scattering albedos come from absorption coefficients by the equivalent slab, add up by cross section
    (Hapke 1981), and give the reflectance by Hapke's model. Submicroscopic iron adds its Maxwell-Garnett absorption
    to all grains (Hapke 2001).

    Parameters
    ----------
    modes : array, shape (sample, 5)
        Weight fractions of :data:`lunarray.simulate.minerals.MINERALS` that the soil would have if it were all
        crystalline.
    wavelengths : array, shape (wavelength,)
        nm.
    anorthite, mg_number, wollastonite, plagioclase_feo : float or array, shape (sample,)
        Mineral compositions, see :func:`oxide_abundances`.
    glass : float or array, shape (sample,)
        Weight fraction of the soil that is impact glass and agglutinates, 0 to 1.
    smfe : float or array, shape (sample,)
        Submicroscopic metallic iron, wt%.
    opaque_iron : float or array, shape (sample,)
        Share of the cross section covered by iron larger than the wavelength and other fine opaques, 0 to 1.
    grain_size : float or array, shape (sample,)
        Effective diameter of grains, µm.

    Returns
    -------
    ndarray, shape (sample, wavelength), float32
        Reflectance at 30°/0°/30°, between 0 and 1.

    Raises
    ------
    InputError
        A parameter of wrong shape, or fractions that are not fractions.

    References
    ----------
    Hapke (1981), J. Geophys. Res. 86, 3039; Lucey (1998), J. Geophys. Res. 103, 1703;
    Hapke (2001), J. Geophys. Res. 106, 10039. Constants:
    :mod:`lunarray.simulate.minerals`.

    Examples
    --------
    >>> import lunarray as la
    >>> import numpy as np
    >>> modes = np.zeros((1, len(la.simulate.MINERALS)))
    >>> modes[0, 0] = 1.0
    >>> la.simulate.mix_reflectance(modes, np.array([750.0, 950.0])).shape
    (1, 2)
    """
    fractions = _normalised(modes)
    samples = len(fractions)
    columns = {
        name: _column(value, samples, name)
        for name, value in {
            "anorthite": anorthite,
            "mg_number": mg_number,
            "wollastonite": wollastonite,
            "plagioclase_feo": plagioclase_feo,
            "glass": glass,
            "smfe": smfe,
            "opaque_iron": opaque_iron,
            "grain_size": grain_size,
        }.items()
    }
    for name in ("glass", "opaque_iron"):
        if not ((columns[name] >= 0) & (columns[name] <= 1)).all():
            raise InputError("not within 0 and 1", where=name, remedy="Give a fraction")
    nm = np.asarray(wavelengths, np.float32).reshape(-1)
    out = np.empty((samples, nm.size), np.float32)
    for start in range(0, samples, _BATCH):
        part = slice(start, start + _BATCH)
        out[part] = _mix(fractions[part], nm, {k: v[part] for k, v in columns.items()})
    return out


def _mix(fractions: np.ndarray, nm: np.ndarray, soil: Mapping[str, np.ndarray]) -> np.ndarray:
    mg_number, wollastonite, glass = (soil[k] for k in ("mg_number", "wollastonite", "glass"))
    opaque = soil["opaque_iron"][:, None]
    opx, cpx, olivine = (v.astype(np.float32) for v in mafic_feo(mg_number, wollastonite))
    bulk = oxide_abundances(fractions, **{name: soil[name] for name in COMPOSITION})
    iron_fraction = 1 - mg_number / 100
    edge = np.exp(-(nm - np.float32(500)) / np.float32(m.EDGE_LENGTH))
    silicates = (
        (m.PLAGIOCLASE, soil["plagioclase_feo"], fractions[:, 0] * (1 - glass)),
        (m.ORTHOPYROXENE, opx, fractions[:, 1] * (1 - glass)),
        (m.CLINOPYROXENE, cpx, fractions[:, 2] * (1 - glass)),
        (m.OLIVINE, olivine, fractions[:, 3] * (1 - glass)),
        (m.GLASS, bulk[:, 0], glass),
    )
    scattered = np.zeros((len(fractions), nm.size), np.float32)
    section = np.zeros(len(fractions), np.float32)
    for phase, feo, weight in silicates:
        wing = (phase.edge * feo).astype(np.float32)
        if phase is m.GLASS:
            wing += np.float32(m.GLASS_EDGE_FE_TI) * bulk[:, 0] * bulk[:, 1]
        alpha = np.float32(phase.background) + wing[:, None] * edge
        for band in phase.bands:
            if band.shift_fe or band.shift_wo:
                centre = (
                    np.float32(band.centre)
                    + np.float32(band.shift_fe) * iron_fraction
                    + np.float32(band.shift_wo) * wollastonite
                )
                offset: np.ndarray = (nm - centre[:, None]) / np.float32(band.sigma)
            else:
                offset = ((nm - np.float32(band.centre)) / np.float32(band.sigma))[None]
            alpha += (np.float32(band.strength) * feo)[:, None] * np.exp(
                np.float32(-0.5) * offset**2
            )
        volume = soil["smfe"] * np.float32(0.01 * phase.density / m.IRON_DENSITY)
        alpha += volume[:, None] * iron_absorption(nm, phase.refractive_index).astype(np.float32)
        # Cross section of a mass of grains of one size: mass / density (the common size cancels in the mean).
        area = weight / np.float32(phase.density)
        scattered += area[:, None] * slab_albedo(alpha, phase.refractive_index, soil["grain_size"])
        section += area
    alpha = (4e6 * np.pi * m.ILMENITE_K / nm.astype(np.float64)).astype(np.float32)
    alpha = np.broadcast_to(alpha, scattered.shape)
    ilmenite = slab_albedo(alpha, m.ILMENITE_INDEX, soil["grain_size"])
    area = fractions[:, 4] * (1 - glass) / np.float32(m.ILMENITE_DENSITY)
    # The ilmenite that would be in the glass is dissolved there: its Ti and Fe are in the glass' own composition.
    scattered += area[:, None] * ilmenite
    section += area
    albedo = scattered / section[:, None]
    albedo = albedo * (1 - opaque) + np.float32(m.OPAQUE_IRON_ALBEDO) * opaque
    return albedo_to_reflectance(albedo)
