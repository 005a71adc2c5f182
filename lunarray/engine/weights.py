"""Arrays of networks as safetensors files: written whole or not at all, and told apart by a digest."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

#: Key of the header. There is one: safetensors keeps metadata in a hash map, and several keys would come out in another
#: order each time.
METADATA_KEY = "lunarray"


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], header: Mapping[str, Any] | None = None
) -> None:
    """Write a safetensors file that is there only when it is complete.

    Parameters
    ----------
    path : Path
        File to write; one that is there is replaced.
    tensors : mapping of str to ndarray
        C-contiguous.
    header : mapping, optional
        What the file says of itself, as JSON.
    """
    from safetensors.numpy import save

    metadata = None if header is None else {METADATA_KEY: json.dumps(header, sort_keys=True)}
    content = save(dict(tensors), metadata)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def tensors_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in order of name; a scalar counts as a vector of one.

    Parameters
    ----------
    tensors : mapping of str to ndarray

    Returns
    -------
    str
        Hexadecimal.
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        sha.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        sha.update(array.data)
    return sha.hexdigest()
