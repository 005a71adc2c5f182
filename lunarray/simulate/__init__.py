"""Forward models that make spectra and scenes with known truth."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "MINERALS": "minerals",
    "TERRAINS": "priors",
    "add_sp_errors": "spectra",
    "class_counts": "xrf",
    "class_orbit": "xrf",
    "class_response": "xrf",
    "flare_profile": "xrf",
    "mix_reflectance": "kernels",
    "moon": "globe",
    "oxide_abundances": "kernels",
    "polar_scene": "scene",
    "soils": "spectra",
    "thermal_spectrum": "xrf",
    "truth_maps": "globe",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
