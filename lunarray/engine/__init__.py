"""Running kernels and models over the blocks of chunked arrays."""

from __future__ import annotations

from lunarray.engine.models import ModelSpec, Predictor, resolve_device
from lunarray.engine.pixels import map_pixels

__all__ = ["ModelSpec", "Predictor", "map_pixels", "resolve_device"]
