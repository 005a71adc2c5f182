"""Pictures: maps of the poles, spectra, all oxides at a glance, and comparisons with a truth.

Every function returns a `matplotlib.figure.Figure` that belongs to nobody else (no pyplot state, no display needed) and
saves it if a path is given.
"""

from __future__ import annotations

from lunarray.plot.panels import comparison, maps
from lunarray.plot.polar import polar_map
from lunarray.plot.spectra import spectra

__all__ = ["comparison", "maps", "polar_map", "spectra"]
