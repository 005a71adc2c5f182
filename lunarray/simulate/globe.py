"""A whole Moon with known oxides: what both polar cubes and the maps of others show is one and the same surface.

The data are those of Bian et al. (2025): Spectral Profiler cubes of both poles, oxide maps of lower latitudes made by
others from another instrument, and a second, independent map of FeO. Training sees the belt where they overlap; the
truth is known everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lunarray.errors import InputError, require_number
from lunarray.geo import POLES, RADIUS, to_lonlat
from lunarray.oxides.constants import OXIDES
from lunarray.simulate.cubes import (
    Tokenized,
    cube,
    layers_of,
    one_calibration,
    require_wavelengths,
    seen,
)
from lunarray.simulate.noise import hash_normal, hash_uniform
from lunarray.simulate.relief import Relief, light_variables, relief_of
from lunarray.simulate.surface import Surface, draw_waves, random_fields, unit_vector
from lunarray.typing import typed
from lunarray.units import WEIGHT

if TYPE_CHECKING:
    import xarray as xr
    from odc.geo.geobox import GeoBox

#: Gain of a track (relative).
_TRACK_GAIN = 0.004

#: Errors of the reference maps (wt%): from pixel to pixel, and in patches of 100-500 km that no averaging removes.
#: The patches are about half of the errors that Bian et al. (2025, table 2) are left with.
REFERENCE_NOISE = {"FeO": 0.5, "TiO2": 0.3, "Al2O3": 0.9, "CaO": 0.5, "MgO": 0.5, "SiO2": 0.3}
REFERENCE_PATCHES = {"FeO": 0.10, "TiO2": 0.07, "Al2O3": 0.20, "CaO": 0.12, "MgO": 0.12, "SiO2": 0.07}  # fmt: skip
#: Errors of the second FeO map: from pixel to pixel, in patches (wt%), and in scale.
SECOND_NOISE, SECOND_PATCHES, SECOND_SCALE = 0.4, 0.35, 1.03


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
    slope_rms: float = 0.0,
    chunks: int | None = 128,
    wavelengths: np.ndarray | None = None,
) -> Moon:
    """Simulate the data of the whole Moon that the study of Bian et al. (2025) works on.

    After Bian et al. (2025), doi:10.20944/preprints202511.1488.v1, sections 2.1 and 2.2: the data.

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
    slope_rms : float, optional
        Slopes of the ground on the cubes' pixels, degrees, as of :func:`lunarray.simulate.polar_scene`: with them the
        cubes' light is that of tilted and shadowed ground. By default it was taken out, as the study had it.
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

    Examples
    --------
    >>> import lunarray as la
    >>> globe = la.simulate.moon(resolution=30_000)
    >>> sorted(globe.north.sizes)
    ['wavelength', 'x', 'y']
    """
    from lunarray.geo import lunar_grid, polar_grid

    nm = require_wavelengths(wavelengths)
    if chunks is not None:
        require_number("chunks", chunks, 1, whole=True)
    require_number("slope_rms", slope_rms, 0, 45)
    for name, value in (("latitude", latitude), ("reference_latitude", reference_latitude)):
        require_number(name, value, 0, 90, strictly=True)
    surface = Surface.random(seed)
    source = f"lunarray.simulate.moon(resolution={resolution}, seed={seed})"
    rng = np.random.default_rng([seed, 1])
    calibration = one_calibration(nm, rng)  # one instrument saw both poles
    gaps = np.column_stack([rng.uniform(-180, 180, 50), rng.uniform(0.05, 0.35, 50)])
    patches = draw_waves(rng, len(OXIDES) + 1, 20, 100.0, 500.0, slope=0.0)
    cubes, second = [], []
    for number, pole in enumerate(POLES):
        grid = polar_grid(pole, resolution, latitude)
        relief = relief_of(grid, pole, seed * 4 + number, float(slope_rms))
        sight = _Sight(surface, grid, seed * 4 + number, nm, calibration, gaps, relief)
        about = {"source": f"{source}: {pole}"}
        light = light_variables(sight, grid, chunks, float(slope_rms))
        cubes.append(cube(sight, grid, nm, chunks, about, light))
        grid = polar_grid(pole, second_resolution or 1.5 * resolution, latitude)
        errors = _Errors(
            surface,
            grid,
            seed * 4 + 3 + 1000 * number,
            {"FeO": SECOND_NOISE},
            {"FeO": SECOND_PATCHES},
            patches[-1:],
            SECOND_SCALE,
        )
        second.append(errors.maps(chunks, f"{source}: second FeO, {pole}")["FeO"])
    if reference_resolution is None:
        reference_resolution = math.degrees(resolution / RADIUS) * 2 / 9
    bounds = (-180.0, -reference_latitude, 180.0, reference_latitude)
    # Whole pixels around the Moon, so that the seam is no place unlike others.
    columns = max(8, round(360.0 / reference_resolution))
    grid = lunar_grid("geographic", 360.0 / columns, bounds)
    errors = _Errors(surface, grid, seed * 4 + 2, REFERENCE_NOISE, REFERENCE_PATCHES, patches[:-1])
    reference = errors.maps(None if chunks is None else 4 * chunks, f"{source}: reference")
    return Moon(cubes[0], cubes[1], reference, second[0], second[1], surface)


@typed
def truth_maps(scene: xr.Dataset) -> xr.Dataset:
    """Give the true oxides of a simulated scene under their own names, with Mg#.

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

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> list(la.simulate.truth_maps(scene).data_vars)[:2]
    ['FeO', 'TiO2']
    """
    from lunarray.oxides.api import mg_number

    names = {f"{oxide}_true": oxide for oxide in OXIDES}
    lacking = [name for name in names if name not in scene]
    if lacking:
        raise InputError(
            f"no variable {', '.join(lacking)}", where="truth", remedy="Give a simulated scene"
        )
    truth = scene[list(names)].rename(names)
    truth["Mg_number"] = mg_number(truth)
    return truth


# --- what has values at pixels --------------------------------------------------------------------


@dataclass(frozen=True)
class _Place(Tokenized):
    """A surface and the grid on which it is seen; methods take longitudes, latitudes and numbers of pixels."""

    surface: Surface
    geobox: GeoBox
    seed: int

    def values(self, what: str, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        affine = self.geobox.transform
        x, y = affine.c + (column + 0.5) * affine.a, affine.f + (row + 0.5) * affine.e
        lon, lat = to_lonlat(self.geobox.crs, x, y)
        # Pixels, by which noise is drawn, are numbered over the whole grid, whatever the chunks.
        pixel = row.astype(np.uint64) * np.uint64(self.geobox.shape[1]) + column.astype(np.uint64)
        return getattr(self, what)(lon, lat, pixel)


@dataclass(frozen=True)
class _Sight(_Place):
    """A cube: spectra of the soils, as SP sees them where it looked, and their oxides."""

    wavelengths: np.ndarray
    calibration: np.ndarray
    gaps: np.ndarray
    relief: Relief

    def values(self, what: str, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        if what == "light":
            return self.relief.light(row, column).T.astype(np.float32)
        return super().values(what, row, column)

    def reflectance(self, lon: np.ndarray, lat: np.ndarray, pixel: np.ndarray) -> np.ndarray:
        soil = self.surface.soil(lon, lat)
        # Tracks follow the meridians: each has a gain of its own, which maps show as stripes.
        track = np.floor((lon + 180.0) / 0.5).astype(np.uint64)
        gain = 1 + _TRACK_GAIN * hash_normal(self.seed + 77, track, 2)[:, 0]
        # The Sun stands at most 1.5° plus the colatitude above the horizon.
        colatitude = 90.0 - np.abs(lat)
        sine = np.sin(np.deg2rad(colatitude + 1.5))
        noise = hash_normal(self.seed, pixel, self.wavelengths.size)
        rough = self.relief.slope_rms > 0
        light = None
        if rough:
            columns = np.uint64(self.geobox.shape[1])
            light = self.relief.light(pixel // columns, pixel % columns)[2]
        spectra = seen(soil, self.wavelengths, self.calibration, sine, noise, gain[:, None], light)
        missed = np.zeros(lon.size, bool)
        for centre, half_width in self.gaps:
            missed |= np.abs((lon - centre + 180.0) % 360.0 - 180.0) < half_width
        # Floors near the pole never see the Sun, and slopes throw ever more of the ground into shadow.
        dark = (soil["shadow"] > 0.25) & (colatitude < 9.0)
        speckle = hash_uniform(self.seed + 1, pixel, np.zeros(1, np.uint64))[:, 0]
        lost = speckle < 0.30 * np.exp(-((colatitude / 1.2) ** 2))
        lost &= not rough
        spectra[missed | dark | lost] = np.nan
        return spectra

    def truth(self, lon: np.ndarray, lat: np.ndarray, pixel: np.ndarray) -> np.ndarray:
        return self.surface.oxides(lon, lat)


@dataclass(frozen=True)
class _Errors(_Place):
    """Maps that others made: the truth times a scale, with errors (wt%) of pixels and of patches by oxide."""

    noise: dict[str, float]
    patches: dict[str, float]
    waves: np.ndarray
    scale: float = 1.0

    def mapped(self, lon: np.ndarray, lat: np.ndarray, pixel: np.ndarray) -> np.ndarray:
        count = len(self.noise)
        values = self.surface.oxides(lon, lat)[:, :count] * np.float32(self.scale)
        smooth = random_fields(self.waves, unit_vector(lon, lat))
        fine = hash_normal(self.seed, pixel, count)
        for k, oxide in enumerate(self.noise):
            off = self.patches[oxide] * smooth[k] + self.noise[oxide] * fine[:, k]
            values[:, k] += off.astype(np.float32)
        return np.maximum(values, np.float32(0))

    def maps(self, chunks: int | None, source: str) -> xr.Dataset:
        import xarray as xr

        from lunarray.geo import assign_crs, grid_coords, grid_dims

        layers = layers_of(self, self.geobox.shape, "mapped", len(self.noise), chunks)
        maps = {
            oxide: (
                grid_dims(self.geobox),
                values,
                {"long_name": f"{oxide} abundance", "units": WEIGHT},
            )
            for oxide, values in zip(self.noise, layers, strict=True)
        }
        ds = xr.Dataset(maps, grid_coords(self.geobox), {"source": source})
        return assign_crs(ds, self.geobox)
