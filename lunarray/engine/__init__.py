"""Running kernels and models over the blocks of chunked arrays, here and on clusters."""

from __future__ import annotations

from lunarray.engine.batches import in_batches
from lunarray.engine.clusters import cluster
from lunarray.engine.logs import log_to
from lunarray.engine.models import ModelSpec, Predictor, resolve_device
from lunarray.engine.pixels import map_pixels
from lunarray.engine.placement import placed
from lunarray.store.accounts import stage

__all__ = [
    "ModelSpec",
    "Predictor",
    "cluster",
    "in_batches",
    "log_to",
    "map_pixels",
    "placed",
    "resolve_device",
    "stage",
]
