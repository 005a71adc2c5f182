"""Pictures: maps of the poles, spectra, all oxides at a glance, and comparisons with a truth.

Every function returns a `matplotlib.figure.Figure` that belongs to nobody else (no pyplot state, no display needed) and
saves it if a path is given.
"""

from __future__ import annotations

from lunarray.plot.atlas import (
    correlation_curves,
    difference_map,
    polar_atlas,
    prediction_scatter,
    region_bars,
    region_map,
    region_triptychs,
)
from lunarray.plot.panels import comparison, maps
from lunarray.plot.polar import polar_map
from lunarray.plot.spectra import spectra
from lunarray.plot.xrf import footprints, light_curve, xrf_spectrum

__all__ = [
    "comparison",
    "correlation_curves",
    "difference_map",
    "footprints",
    "light_curve",
    "maps",
    "polar_atlas",
    "polar_map",
    "prediction_scatter",
    "region_bars",
    "region_map",
    "region_triptychs",
    "spectra",
    "xrf_spectrum",
]
