"""KAGUYA Spectral Profiler: readers, spectral conditioning and gridding of tracks."""

from __future__ import annotations

from lunarray._lazy import attach

_PUBLIC = {
    "WAVELENGTHS_150": "bands",
    "WAVELENGTHS_160": "bands",
    "QA_FLAGS": "io",
    "open_sp": "io",
    "open_cube": "cubes",
    "open_sp_cube": "cubes",
    "condition": "api",
    "mask_quality": "api",
    "join_detectors": "api",
    "despike": "api",
    "smooth": "api",
    "resample_bands": "api",
    "is_native": "api",
    "spectra_of": "api",
    "SPIKE_CHANNELS": "api",
    "normalize_photometry": "photometry",
    "read_photometric_parameters": "photometry",
    "sp_scale": "scale",
    "grid": "gridding",
}
__all__ = sorted(_PUBLIC)

# Lazy: the import of a room stays cheap.
__getattr__, __dir__ = attach(__name__, _PUBLIC)
