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
    "OxideFit": "learning",
    "band_correlation": "samples",
    "build_samples": "samples",
    "metrics": "accuracy",
    "search": "learning",
    "select_samples": "samples",
    "train": "learning",
    "train_kfold": "learning",
    "train_loocv": "learning",
    "ARTEMIS3": "regions",
    "REGION_A": "regions",
    "REGION_B": "regions",
    "artemis3_regions": "regions",
    "atlas": "polar_atlas",
    "difference": "polar_atlas",
    "polar_cap": "polar_atlas",
    "region_maps": "polar_atlas",
    "region_statistics": "regions",
    "region_table": "regions",
}

__all__ = ["MOLAR_MASS", "OXIDES", *_HOMES]


def __getattr__(name: str) -> Any:
    # The model needs torch, the kernel Numba: each loads with the name that needs it.
    if name in _HOMES:
        return getattr(importlib.import_module(f"lunarray.oxides.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lunarray.oxides' has no attribute {name!r}")
