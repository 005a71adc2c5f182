"""Oxide abundances from reflectance spectra."""

from __future__ import annotations

import importlib
from typing import Any

from lunarray.oxides.constants import MOLAR_MASS, OXIDES

_HOMES = {
    "DEFAULT_WEIGHTS": "weights",
    "FusedCNN": "kernels",
    "OxideCNN": "model",
    "feo_lucey2000": "api",
    "invert_oxides": "api",
    "load_oxide_cnn": "weights",
    "mg_number": "api",
    "oxide_model": "api",
    "read_header": "weights",
    "save_oxide_cnn": "weights",
}

__all__ = ["MOLAR_MASS", "OXIDES", *_HOMES]


def __getattr__(name: str) -> Any:
    # The model needs torch, the kernel Numba: each loads with the name that needs it.
    if name in _HOMES:
        return getattr(importlib.import_module(f"lunarray.oxides.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lunarray.oxides' has no attribute {name!r}")
