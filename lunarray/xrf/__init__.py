"""Chandrayaan-2 CLASS and XSM: from X-ray spectra to elemental abundances."""

from __future__ import annotations

from lunarray._lazy import attach

# What else there is, import from its module.
_PUBLIC = {
    "open_class": "io",
    "class_to_zarr": "io",
    "read_background": "io",
    "flag_frames": "selection",
    "night_background": "selection",
    "coadd": "coadd",
    "fit_elements": "api",
    "spectrum_components": "api",
    "read_response": "response",
    "open_solar_models": "solar",
    "read_solar_model": "xsm",
    "fit_solar": "solar",
    "read_goes_flares": "goes",
    "footprint_mean": "footprints",
    "grid_footprints": "footprints",
    "write_footprints": "footprints",
    "oxides_to_elements": "convert",
    "elements_to_oxides": "convert",
    "FitSettings": "settings",
    "Conventions": "settings",
    "ELEMENTS": "constants",
    "HIGHLAND": "constants",
    "MARE": "constants",
    "FIT_FLAGS": "settings",
    "FRAME_FLAGS": "selection",
}
__all__ = sorted(_PUBLIC)

# Lazy: the import of a room stays cheap.
__getattr__, __dir__ = attach(__name__, _PUBLIC)
