"""Oxide abundances from reflectance spectra.

The verbs raise InputError for data or arguments that make no sense, BandMismatchError for other wavelengths than those
of the model, GridError for maps that lie on no grid or a wrong one, and ModelError for weights that do not fit.
"""

from __future__ import annotations

import lazy_loader

# Names and their modules are in the stub beside this file; a module loads when a name of it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
