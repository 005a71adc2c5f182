"""What simulated cubes share: how the Spectral Profiler sees soils, and pixels in chunks that do not matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lunarray.errors import InputError
from lunarray.oxides.constants import OXIDES
from lunarray.simulate import instrument, priors
from lunarray.simulate.spectra import smoothed
from lunarray.sp.bands import WAVELENGTHS_150
from lunarray.units import WEIGHT

if TYPE_CHECKING:
    import xarray as xr
    from odc.geo.geobox import GeoBox

#: Relative noise of a spectrum at a latitude well away from the pole, and how it grows as the Sun gets low.
_NOISE, _NOISE_AT_POLE = 0.003, 0.02


class Tokenized:
    """A frozen dataclass whose fields say all that it is, for Dask's names."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.base import normalize_token

        return (type(self).__qualname__, *(normalize_token(v) for v in self.__dict__.values()))


class Source(Protocol):
    """What has values at the pixels of a grid."""

    def values(self, what: str, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Of pixels (pixel,): (pixel, layer)."""


def require_wavelengths(wavelengths: np.ndarray | None) -> np.ndarray:
    """Wavelengths that rise within 450-1800 nm, float32; those of the default grid for None."""
    nm = np.asarray(WAVELENGTHS_150 if wavelengths is None else wavelengths, np.float32).reshape(-1)
    if nm.size < 2 or nm.min() < 450 or nm.max() > 1800 or not (np.diff(nm) > 0).all():
        raise InputError(
            "wavelengths that do not rise within 450-1800 nm",
            where="wavelengths",
            remedy="Give nm, sorted",
        )
    return nm


def one_calibration(nm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Factor (bands,) common to all spectra: radiometric scale and errors of one calibration."""
    flat = np.ones((1, nm.size), np.float32)
    errors = {"gain": 0.02, "slope": 0.01, "curvature": 0.005, "broad": 0.003, "step": 0.004}
    return instrument.measure(
        flat, nm, rng, scale=1.0, **errors, pattern=0.002, noise=0.0, common_pattern=True
    )[0]


def seen(
    soil: Mapping[str, np.ndarray],
    nm: np.ndarray,
    calibration: np.ndarray,
    sine_of_sun: np.ndarray,
    noise: np.ndarray,
    gain: np.ndarray | float = 1.0,
    light: np.ndarray | None = None,
) -> np.ndarray:
    """Spectra (pixel, bands) of soils as conditioned SP data have them: calibrated, noisy at low Suns, smoothed.

    `light` (pixel,) is a gain that the light has: where there is less of it, there is more noise for it.
    """
    spectra = priors.reflectance_of(soil, nm) * calibration * np.float32(gain)
    if light is not None:
        spectra = spectra * light.astype(np.float32)[:, None]
        noise = noise / np.sqrt(light).astype(np.float32)[:, None]
    level = _NOISE + (_NOISE_AT_POLE - _NOISE) * np.exp(-sine_of_sun / 0.03)
    # The mean over bands as a running sum in band order, for the same rounding in every chunk.
    mean = np.add.accumulate(spectra, axis=1)[:, -1] / np.float32(spectra.shape[1])
    spectra = spectra + (level * mean).astype(np.float32)[:, None] * noise
    return smoothed(spectra, nm)


def _block(
    rows: np.ndarray, columns: np.ndarray, source: Source, what: str, layers: int
) -> np.ndarray:
    """Values (layer, row, column) of the pixels of some rows and columns of a grid."""
    row, column = (v.ravel() for v in np.meshgrid(rows, columns, indexing="ij"))
    out = np.empty((layers, row.size), np.float32)
    # A row at a time would waste the processor, all at once memory.
    for start in range(0, row.size, 4096):
        part = slice(start, start + 4096)
        out[:, part] = source.values(what, row[part], column[part]).T
    return out.reshape(layers, rows.size, columns.size)


def layers_of(source: Source, shape: Any, what: str, layers: int, chunks: int | None) -> Any:
    """Array (layer, row, column), float32, of a source; lazy if chunked."""
    rows, columns = shape
    if chunks is None:
        return _block(np.arange(rows), np.arange(columns), source, what, layers)
    import dask.array as da

    return da.blockwise(
        _block,
        "byx",
        da.arange(rows, chunks=chunks),
        "y",
        da.arange(columns, chunks=chunks),
        "x",
        source=source,
        what=what,
        layers=layers,
        new_axes={"b": layers},
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )


def cube(
    source: Source,
    geobox: GeoBox,
    nm: np.ndarray,
    chunks: int | None,
    attrs: dict[str, str],
    light: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """``reflectance`` (wavelength, y, x) and the truth ``FeO_true``, … (y, x) of a source on a polar grid.

    `light` are variables more.
    """
    import xarray as xr

    from lunarray.geo import assign_crs, grid_coords

    truth = layers_of(source, geobox.shape, "truth", len(OXIDES), chunks)
    reflectance = layers_of(source, geobox.shape, "reflectance", nm.size, chunks)
    variables: dict[str, Any] = {
        "reflectance": (
            ("wavelength", "y", "x"),
            reflectance,
            {
                "long_name": "bidirectional reflectance at 30°/0°/30°",
                "units": "1",
                "photometric_geometry": "30 0 30",
                "light": "flat",
            },
        )
    }
    variables.update(light or {})
    for values, oxide in zip(truth, OXIDES, strict=True):
        about = {"long_name": f"true {oxide} abundance", "units": WEIGHT}
        variables[f"{oxide}_true"] = (("y", "x"), values, about)
    wavelength = ("wavelength", nm, {"long_name": "wavelength", "units": "nm"})
    coords = {"wavelength": wavelength, **grid_coords(geobox)}
    return assign_crs(xr.Dataset(variables, coords, attrs), geobox)
