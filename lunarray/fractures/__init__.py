"""Thin linear features in images: labels, training, detection, vectors."""

from __future__ import annotations

from lunarray._lazy import attach

_PUBLIC: dict[str, str] = {
    # augmentation and classical filters
    "Canny": "classical",
    "Frangi": "classical",
    "augment": "augmentation",
    "classical_fractures": "classical",
    "tune_classical": "classical",
    # images, labels, tiles
    "CLASS_WIDTHS": "labels",
    "TileSet": "tiling",
    "open_nac": "io",
    "split": "tiling",
    "tiles": "tiling",
    "weak_labels": "labels",
    "width_class": "labels",
    # models, training, detection
    "DEFAULT_MODEL": "weights",
    "FractureFit": "training",
    "Normalisation": "normalise",
    "TrainSettings": "training",
    "deeplabv3": "model",
    "fracture_model": "detection",
    "light": "model",
    "load_model": "weights",
    "map_fractures": "detection",
    "measure_overlap": "detection",
    "read_model_header": "weights",
    "save_model": "weights",
    "segmentation_metrics": "metrics",
    "train": "training",
    "validate": "training",
    # mosaics and raw products
    "isis_available": "isis",
    "mosaic": "mosaics",
    "process_edr": "isis",
    # vectors
    "Comparison": "comparison",
    "compare": "comparison",
    "density": "statistics",
    "mapped_area": "statistics",
    "network": "statistics",
    "orientation_rose": "statistics",
    "vectorize": "vectors",
    "write_fractures": "export",
}

__all__ = sorted(_PUBLIC)

# Lazy: the import of a room stays cheap.
__getattr__, __dir__ = attach(__name__, _PUBLIC)
