"""Running kernels and models over the blocks of chunked arrays, here and on clusters, and telling how it went."""

from __future__ import annotations

from lunarray.engine.accounts import log_to, stage
from lunarray.engine.adapters import from_onnx, from_sklearn, from_torch
from lunarray.engine.batches import in_batches
from lunarray.engine.clusters import cluster
from lunarray.engine.execution import current_client
from lunarray.engine.graph import Block, Call, assemble
from lunarray.engine.models import Maps, Model, ModelSpec, Spectra, Tiles, resolve_device
from lunarray.engine.pixels import map_pixels, placed, take
from lunarray.engine.progress import progress_bar, step_bar
from lunarray.engine.registry import available_models
from lunarray.engine.report import RunReport, last_report

__all__ = [
    "Block",
    "Call",
    "Maps",
    "Model",
    "ModelSpec",
    "RunReport",
    "Spectra",
    "Tiles",
    "assemble",
    "available_models",
    "cluster",
    "current_client",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "in_batches",
    "last_report",
    "log_to",
    "map_pixels",
    "placed",
    "progress_bar",
    "resolve_device",
    "stage",
    "step_bar",
    "take",
]
