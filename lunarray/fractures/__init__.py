"""Thin linear features in images: labels, training, detection, vectors."""

from __future__ import annotations

from lunarray._lazy import attach

_PUBLIC: dict[str, str] = {}

__all__ = sorted(_PUBLIC)

# Lazy: the import of a room stays cheap.
__getattr__, __dir__ = attach(__name__, _PUBLIC)
