"""Element maps at two kilometres from the footprints of an X-ray spectrometer."""

from __future__ import annotations

from lunarray._lazy import attach

_PUBLIC: dict[str, str] = {}

__all__ = sorted(_PUBLIC)

# Lazy: the import of a room stays cheap.
__getattr__, __dir__ = attach(__name__, _PUBLIC)
