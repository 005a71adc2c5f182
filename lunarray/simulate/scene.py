"""A polar scene as the Spectral Profiler would see it, with the oxides of every pixel known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import InputError
from lunarray.oxides.constants import OXIDES
from lunarray.simulate import instrument, kernels, priors
from lunarray.sp.bands import WAVELENGTHS_150

if TYPE_CHECKING:
    import xarray as xr

_RADIUS = 1_737_400.0
_HIGHLAND, _MAFIC, _MARE = (
    tuple(np.asarray(priors.TERRAINS[name].modes) / sum(priors.TERRAINS[name].modes))
    for name in ("feldspathic highland", "mafic highland", "low-Ti mare")
)
_ANORTHOSITE = tuple(
    np.asarray(priors.TERRAINS["anorthosite"].modes) / sum(priors.TERRAINS["anorthosite"].modes)
)
#: Number of waves in each random field.
_WAVES = 24
#: Relative noise of a spectrum at a latitude well away from the pole, and how it grows as the Sun gets low.
_NOISE, _NOISE_AT_POLE = 0.003, 0.02


@dataclass(frozen=True)
class Scene:
    """All that a pixel's spectrum depends on besides its place; small, and the same for every chunk.

    Attributes
    ----------
    seed : int
        Of the per-pixel noise.
    columns : int
        Width of the whole scene in pixels, which numbers its pixels.
    origin : tuple of 2 floats
        x and y of the centre of the first pixel, m.
    resolution : float
        m.
    extent : float
        Half-width of the scene, m.
    waves : ndarray, shape (field, wave, 4)
        Wave numbers along x and y (1/m), phase and amplitude of the random fields.
    craters : ndarray, shape (crater, 6)
        x, y, radius (m), maturity, and the weights of mafic and anorthositic material in the ejecta.
    mare : ndarray, shape (5,)
        x, y, semi-axes (m), orientation.
    gaps : ndarray, shape (gap, 2)
        Azimuth on the map and half-width (degrees) of the tracks that are missing.
    calibration : ndarray, shape (bands,), float32
        Factor common to all spectra: radiometric scale and calibration errors.
    wavelengths : ndarray, shape (bands,), float32
        nm.
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

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.base import normalize_token

        return (type(self).__qualname__, *(normalize_token(v) for v in self.__dict__.values()))


def _make_scene(
    seed: int,
    columns: int,
    origin: tuple[float, float],
    resolution: float,
    extent: float,
    nm: np.ndarray,
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
    flat = np.ones((1, nm.size), np.float32)
    calibration = instrument.measure(
        flat, nm, rng, scale=1.0, gain=0.02, slope=0.01, curvature=0.005, broad=0.003, step=0.004,
        pattern=0.002, noise=0.0, common_pattern=True,
    )[0]  # fmt: skip
    return Scene(
        seed, columns, origin, resolution, extent, waves, craters, mare, gaps, calibration, nm
    )


def _hash_uniform(seed: int, pixel: np.ndarray, stream: np.ndarray) -> np.ndarray:
    """Uniform numbers in (0, 1) that depend on seed, pixel number and stream only (splitmix64)."""
    with np.errstate(over="ignore"):
        z: np.ndarray = (
            pixel[:, None] * np.uint64(0x9E3779B97F4A7C15)
            + stream[None, :] * np.uint64(0xD1B54A32D192ED03)
            + np.uint64(seed % 2**63) * np.uint64(0x8CB92BA72F3D8DD7)
        )
        for _ in range(2):
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _hash_normal(seed: int, pixel: np.ndarray, count: int) -> np.ndarray:
    """Normal numbers, shape (pixel, count), float32 (Box-Muller)."""
    half = (count + 1) // 2
    u = _hash_uniform(seed, pixel, np.arange(2 * half, dtype=np.uint64)).astype(np.float32)
    radius = np.sqrt(-2 * np.log(np.maximum(u[:, :half], np.float32(1e-12))))
    angle = np.float32(2 * math.pi) * u[:, half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]


def _fields(scene: Scene, x: np.ndarray, y: np.ndarray, pixel: np.ndarray) -> dict[str, np.ndarray]:
    """Soil parameters and the mask of observed pixels, at points (pixel,)."""
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
    rho = np.hypot(x, y)
    colatitude = 2 * np.arctan(rho / (2 * _RADIUS))
    azimuth = np.degrees(np.arctan2(x, y))
    missed = np.zeros(x.size, bool)
    for centre, half_width in scene.gaps:
        missed |= np.abs((azimuth - centre + 180) % 360 - 180) < half_width
    speckle = _hash_uniform(scene.seed + 1, pixel, np.zeros(1, np.uint64))[:, 0]
    # The Sun is at most 1.5° plus the colatitude above the horizon: slopes throw ever more of the ground into shadow.
    lost = speckle < 0.35 * np.exp(-((np.degrees(colatitude) / 1.2) ** 2))

    highland = (1 - mare) * (1 - anorthositic)
    weights = np.stack(
        [highland * (1 - mafic), highland * mafic, (1 - mare) * anorthositic, mare], axis=1
    )
    endmembers = np.array([_HIGHLAND, _MAFIC, _ANORTHOSITE, _MARE])
    # Sums in a fixed order: a matrix product could round differently in another chunk.
    modes = sum(weights[:, [i]] * endmembers[i] for i in range(4))
    constants = {
        "mg_number": (67.0, 66.0, 62.0, 50.0),
        "anorthite": (96.0, 93.0, 96.5, 89.0),
        "wollastonite": (28.0, 24.0, 28.0, 29.0),
    }
    return {
        "modes": modes,
        **{k: sum(weights[:, i] * v[i] for i in range(4)) for k, v in constants.items()},
        "maturity": np.clip(maturity, 0.15, 1.3),
        "observed": ~(shadowed | missed | lost),
        "sine_of_sun": np.sin(colatitude + math.radians(1.5)),
    }


def _truth(fields: dict[str, np.ndarray]) -> np.ndarray:
    return kernels.oxide_abundances(
        fields["modes"],
        anorthite=fields["anorthite"],
        mg_number=fields["mg_number"],
        wollastonite=fields["wollastonite"],
    )


def _spectra(scene: Scene, fields: dict[str, np.ndarray], pixel: np.ndarray) -> np.ndarray:
    feo = _truth(fields)[:, 0]
    maturity = fields["maturity"]
    clean = kernels.mix_reflectance(
        fields["modes"],
        scene.wavelengths,
        anorthite=fields["anorthite"],
        mg_number=fields["mg_number"],
        wollastonite=fields["wollastonite"],
        **priors.weathering(feo, maturity),
        grain_size=priors.GRAIN_SIZE,
    )
    spectra = clean * scene.calibration
    noise = _hash_normal(scene.seed, pixel, scene.wavelengths.size)
    level = _NOISE + (_NOISE_AT_POLE - _NOISE) * np.exp(-fields["sine_of_sun"] / 0.03)
    # The mean over bands as a running sum in band order, for the same rounding in every chunk.
    mean = np.add.accumulate(spectra, axis=1)[:, -1] / np.float32(spectra.shape[1])
    spectra = spectra + (level * mean).astype(np.float32)[:, None] * noise
    first, weights = instrument.smoothing_weights(scene.wavelengths, *_smoothing())
    spectra = instrument.weighted_windows(spectra, first, weights)
    spectra[~fields["observed"]] = np.nan
    return spectra


def _smoothing() -> tuple[float, int]:
    from lunarray.simulate.spectra import SMOOTHING

    return SMOOTHING


def _block(rows: np.ndarray, columns: np.ndarray, scene: Scene, what: str) -> np.ndarray:
    """Reflectance (wavelength, y, x) or oxides (oxide, y, x) of the pixels of some rows and columns."""
    row, column = np.meshgrid(rows, columns, indexing="ij")
    # A row of pixels at a time would waste the processor, all at once memory.
    row, column = row.ravel(), column.ravel()
    bands = scene.wavelengths.size if what == "reflectance" else len(OXIDES)
    out = np.empty((bands, row.size), np.float32)
    for start in range(0, row.size, 2048):
        part = slice(start, start + 2048)
        x = scene.origin[0] + column[part] * scene.resolution
        y = scene.origin[1] - row[part] * scene.resolution
        pixel = row[part].astype(np.uint64) * np.uint64(scene.columns) + column[part].astype(
            np.uint64
        )
        fields = _fields(scene, x, y, pixel)
        values = _truth(fields) if what == "truth" else _spectra(scene, fields, pixel)
        out[:, part] = values.T
    return out.reshape(bands, rows.size, columns.size)


def polar_scene(
    pole: str = "north",
    resolution: float = 2000.0,
    latitude: float = 80.0,
    seed: int = 0,
    *,
    chunks: int | None = 128,
    wavelengths: np.ndarray | None = None,
) -> xr.Dataset:
    """A synthetic polar reflectance cube with known oxides.

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
    chunks : int or None, optional
        Side of the spatial chunks; None for NumPy arrays in memory.
    wavelengths : array-like, shape (wavelength,), optional
        nm, within 450-1800; :data:`lunarray.sp.WAVELENGTHS_150` by default. Spectra are taken at the channels'
        centres.

    Returns
    -------
    xarray.Dataset
        ``reflectance`` (wavelength, y, x) float32 and the truth ``FeO_true``, ``TiO2_true``, … (y, x) in wt%,
        float32, on a polar stereographic grid with its CRS; lazy if chunked.

    Raises
    ------
    InputError
        Wavelengths or chunks that make no sense; errors of the grid as of :func:`lunarray.geo.polar_grid`.
    """
    import xarray as xr

    from lunarray.geo import assign_crs, grid_coords, polar_grid

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
    geobox = polar_grid(pole, resolution, latitude)
    coords = grid_coords(geobox)
    rows, columns = geobox.shape
    extent = columns * resolution / 2
    scene = _make_scene(
        int(seed),
        columns,
        (float(coords["x"][0]), float(coords["y"][0])),
        float(resolution),
        extent,
        nm,
    )

    def lazy(what: str, bands: int) -> Any:
        if chunks is None:
            return _block(np.arange(rows), np.arange(columns), scene, what)
        import dask.array as da

        return da.blockwise(
            _block,
            "byx",
            da.arange(rows, chunks=chunks),
            "y",
            da.arange(columns, chunks=chunks),
            "x",
            scene=scene,
            what=what,
            new_axes={"b": bands},
            dtype=np.float32,
            meta=np.empty((0, 0, 0), np.float32),
        )

    truth = lazy("truth", len(OXIDES))
    result = xr.Dataset(
        {
            "reflectance": (
                ("wavelength", "y", "x"),
                lazy("reflectance", nm.size),
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
            **coords,
        },
    )
    result.attrs["instrument"] = "Spectral Profiler (SP), simulated"
    result.attrs["source"] = (
        f"lunarray.simulate.polar_scene(pole={pole!r}, resolution={resolution}, latitude={latitude}, seed={seed})"
    )
    return assign_crs(result, geobox)
