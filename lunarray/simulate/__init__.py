"""Forward models that make spectra and scenes with known truth."""

from __future__ import annotations

from lunarray._lazy import attach

_PUBLIC = {
    "MINERALS": "minerals",
    "NacScene": "nac",
    "TERRAINS": "priors",
    "add_sp_errors": "spectra",
    "class_counts": "xrf",
    "class_orbit": "xrf",
    "class_response": "xrf",
    "flare_profile": "xrf",
    "mix_reflectance": "kernels",
    "moon": "globe",
    "nac_scene": "nac",
    "oxide_abundances": "kernels",
    "polar_scene": "scene",
    "soils": "spectra",
    "thermal_spectrum": "xrf",
    "TrackScene": "tracks",
    "track_scene": "tracks",
    "truth_maps": "globe",
}
__all__ = sorted(_PUBLIC)

# Lazy: the import of a room stays cheap.
__getattr__, __dir__ = attach(__name__, _PUBLIC)
