"""KAGUYA Spectral Profiler: readers, spectral conditioning and gridding of tracks."""

from __future__ import annotations

import importlib
from typing import Any

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
    "resample": "api",
    "is_native": "api",
    "SPIKE_CHANNELS": "api",
    "normalize_photometry": "photometry",
    "read_photometric_parameters": "photometry",
    "sp_scale": "scale",
    "grid": "gridding",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    # Lazy, so that `import lunarray.sp` stays cheap.
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
