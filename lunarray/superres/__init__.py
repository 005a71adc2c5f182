"""Element maps at two kilometres from the footprints of an X-ray spectrometer."""

from __future__ import annotations

from lunarray._lazy import attach

_PUBLIC: dict[str, str] = {
    "GIBGrid": "grid",
    "TrainSettings": "settings",
    "as_footprints": "footprints",
    "baseline_maps": "baselines",
    "classify_mare": "mare",
    "create_gib": "gib",
    "cross_validate": "evaluation",
    "fill_features": "api",
    "gib_footprints": "gib",
    "mare_class": "mare",
    "neighbours": "graph",
    "open_gib": "gib",
    "populate": "population",
    "read_class_tracks": "footprints",
    "read_global_grid": "mare",
    "read_region": "gib",
    "resnet50_backbone": "backbone",
    "select_features": "mrmr",
    "superresolve": "api",
    "surface_features": "features",
    "train_gib": "api",
    "update_gib": "api",
    "write_element_maps": "maps",
    "write_element_vectors": "maps",
    "write_region": "gib",
}

__all__ = sorted(_PUBLIC)

# Lazy: the import of a room stays cheap.
__getattr__, __dir__ = attach(__name__, _PUBLIC)
