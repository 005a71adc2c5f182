"""Pictures: maps of the poles, spectra, all oxides at a glance, and comparisons with a truth.

Every function returns a `matplotlib.figure.Figure` that belongs to nobody else (no pyplot state, no display needed).
All take, as :class:`Output`, a title and where to save it. `cmap` names a matplotlib colormap, `vmin` and `vmax` end
its scale (by default the 1st and 99th percentiles), `columns` is how many panels may stand in a row, and maps of more
than `max_pixels` are decimated before they are read. What cannot be drawn is an InputError, and a map that is not on
the grid that is needed a GridError.
"""

from __future__ import annotations

from lunarray.plot.drawing import Output
from lunarray.plot.elements import heat_map, surface_3d
from lunarray.plot.footprints import footprints, graduated_map
from lunarray.plot.fractures import agreement, detections, fracture_density, rose, training_curves
from lunarray.plot.method import network_diagram, sample_map
from lunarray.plot.panels import comparison, element_comparison, maps
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
    "element_comparison",
    "footprints",
    "fracture_density",
    "graduated_map",
    "heat_map",
    "light_curve",
    "maps",
    "network_diagram",
    "polar_atlas",
    "polar_map",
    "prediction_scatter",
    "region_bars",
    "region_map",
    "region_triptychs",
    "rose",
    "sample_map",
    "spectra",
    "surface_3d",
    "training_curves",
    "xrf_spectrum",
]
