"""Which workers of a cluster run models."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import dask

from lunarray.engine.execution import current_client, labels
from lunarray.engine.models import ModelSpec

#: Resource label of the workers that have a GPU, one unit for each GPU; and of those that leave it to them.
GPU, CPU = "GPU", "CPU"


def placed(kernel: Any) -> AbstractContextManager[Any]:
    """Bind the Dask layers built in this context to GPU workers, if they run a model and there are such workers.

    `to_zarr` looks again when it writes, at the cluster that is there then, and recognises layers that carry a
    ModelSpec among their arguments. So this matters for results that are computed without being stored.

    Parameters
    ----------
    kernel : ModelSpec or anything
        What the layers run. Only a ModelSpec that may use a GPU is bound.

    Returns
    -------
    context manager
    """
    if (
        not isinstance(kernel, ModelSpec)
        or kernel.device == "cpu"
        or "distributed" not in sys.modules
    ):
        return nullcontext()
    if GPU not in labels(current_client()):
        return nullcontext()
    return dask.annotate(resources={GPU: 1})
