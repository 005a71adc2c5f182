"""Pictures: maps of the poles, spectra, all oxides at a glance, and comparisons with a truth.

Every function returns a `matplotlib.figure.Figure` that belongs to nobody else (no pyplot state, no display needed) and
saves it if a path is given.
"""

from __future__ import annotations

from lunarray.plot.panels import comparison, maps
from lunarray.plot.polar import polar_map
from lunarray.plot.spectra import spectra
from lunarray.plot.xrf import footprints, light_curve, xrf_spectrum

__all__ = [
    "comparison",
    "footprints",
    "light_curve",
    "maps",
    "polar_map",
    "spectra",
    "xrf_spectrum",
]
