"""Pictures: maps of the poles, spectra, all oxides at a glance, and comparisons with a truth.

Every function returns a `matplotlib.figure.Figure` that belongs to nobody else (no pyplot state, no display needed) and
saves it if a path is given.
"""

from __future__ import annotations

from lunarray.plot.drawing import Output
from lunarray.plot.elements import heat_map, surface_3d
from lunarray.plot.footprints import footprints, graduated_map
from lunarray.plot.fractures import agreement, detections, fracture_density, rose, training_curves
from lunarray.plot.panels import comparison, maps
from lunarray.plot.polar import difference_map, polar_atlas, polar_map
from lunarray.plot.regions import region_bars, region_map, region_triptychs
from lunarray.plot.scores import correlation_curves, prediction_scatter
from lunarray.plot.spectra import spectra
from lunarray.plot.xrf import light_curve, xrf_spectrum

__all__ = [
    "Output",
    "agreement",
    "comparison",
    "correlation_curves",
    "detections",
    "difference_map",
    "footprints",
    "fracture_density",
    "graduated_map",
    "heat_map",
    "light_curve",
    "maps",
    "polar_atlas",
    "polar_map",
    "prediction_scatter",
    "region_bars",
    "region_map",
    "region_triptychs",
    "rose",
    "spectra",
    "surface_3d",
    "training_curves",
    "xrf_spectrum",
]
