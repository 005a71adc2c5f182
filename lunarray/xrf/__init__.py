"""Chandrayaan-2 CLASS and XSM: from X-ray spectra to elemental abundances."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "ATOMIC_NUMBERS": "constants",
    "AtomicTables": "atomic",
    "ELEMENTS": "constants",
    "HIGHLAND": "constants",
    "MARE": "constants",
    "Response": "response",
    "atomic_tables": "atomic",
    "Conventions": "fit",
    "ELEMENT_FLAGS": "fit",
    "FitResult": "fit",
    "FitSettings": "fit",
    "Geometry": "fit",
    "Observation": "fit",
    "PhotonModel": "fit",
    "SpectralModel": "fit",
    "fit_line_fluxes": "lineflux",
    "fit_many": "fit",
    "fit_spectrum": "fit",
    "prior_composition": "fit",
    "search_composition": "lineflux",
    "spectrum_statistic": "fit",
    "write_response": "response",
    "read_arf": "response",
    "read_response": "response",
    "rebin": "response",
    "CLASS_DETECTORS": "io",
    "class_to_zarr": "io",
    "open_class": "io",
    "read_background": "io",
    "FRAME_FLAGS": "selection",
    "flag_frames": "selection",
    "night_background": "selection",
    "particle_flags": "selection",
    "particle_rate": "selection",
    "coadd": "coadd",
    "fit_three_lines": "coadd",
    "footprint_area": "footprints",
    "footprint_mean": "footprints",
    "footprint_polygons": "footprints",
    "grid_footprints": "footprints",
    "hull_corners": "footprints",
    "merge_footprints": "footprints",
    "to_geodataframe": "footprints",
    "write_footprints": "footprints",
    "read_xsm_spectrum": "xsm",
    "read_light_curve": "xsm",
    "read_gti": "xsm",
    "read_solar_model": "xsm",
    "read_table_model": "xsm",
    "write_table_model": "xsm",
    "goes_flux": "xsm",
    "read_goes_flares": "goes",
    "open_goes_xrs": "goes",
    "flare_flux": "goes",
    "open_solar_models": "solar",
    "match_solar": "solar",
    "fit_solar": "solar",
    "plasma_table": "solar",
    "PlasmaTable": "solar",
    "fit_elements": "api",
    "spectrum_components": "api",
    "FIT_FLAGS": "api",
    "oxides_to_elements": "convert",
    "elements_to_oxides": "convert",
    "element_fraction": "convert",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    # Lazy, so that `import lunarray.xrf` stays cheap.
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
