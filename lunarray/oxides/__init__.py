"""Oxide abundances from reflectance spectra."""

from __future__ import annotations

from lunarray._lazy import attach
from lunarray.oxides.constants import MOLAR_MASS, OXIDES

_PUBLIC = {
    "DEFAULT_WEIGHTS": "weights",
    "FusedCNN": "fused",
    "OxideCNN": "model",
    "feo_lucey2000": "api",
    "invert_oxides": "api",
    "load_oxide_cnn": "weights",
    "mg_number": "api",
    "oxide_model": "api",
    "read_header": "weights",
    "save_oxide_cnn": "weights",
    "OxideFit": "fit",
    "band_correlation": "correlation",
    "Screen": "samples",
    "build_samples": "samples",
    "metrics": "accuracy",
    "search": "training",
    "select_samples": "samples",
    "train": "training",
    "TrainSettings": "settings",
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

__all__ = ["MOLAR_MASS", "OXIDES", *_PUBLIC]

# Lazy: the import of a room stays cheap.
__getattr__, __dir__ = attach(__name__, _PUBLIC)
