"""Models as values: what a task carries to a worker, and the cache that loads it there once."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from lunarray.errors import InputError, MissingDependencyError, ModelError, needs

#: What a loaded model is: pixels in, outputs out; (pixel, band) float32 to (pixel, output) float32.
Predictor = Callable[[np.ndarray], np.ndarray]

Device = Literal["auto", "cpu", "cuda"]

_loaded: dict[tuple[str, str, str], Predictor] = {}
_loading = threading.Lock()


@dataclass(frozen=True)
class ModelSpec:
    """A model by name: how to build it, where its weights are, and the digest that they must have.

    It is what a Dask graph carries. The weights themselves stay in their file and are loaded once by each process, so
    graphs stay small, tokens equal for equal weights wherever these lie, and nothing that lives on a GPU is ever
    pickled.

    Parameters
    ----------
    loader : str
        ``"module:function"``; the function takes the path of the weights and ``"cpu"`` or ``"cuda"``, and returns a
        :data:`Predictor`.
    weights : str
        Path of the weights, the same on every worker.
    sha256 : str
        Digest of that file, in hexadecimal.
    outputs : int
        Values that the predictor gives for a pixel.
    device : {"auto", "cpu", "cuda"}
        Where to run; "auto" takes a GPU in each process that sees one.
    bands : tuple of float, optional
        Wavelengths (nm) of the bands that the predictor takes; None where it takes any, or its weights say which.
    """

    loader: str
    weights: str
    sha256: str
    outputs: int
    device: Device = "auto"
    bands: tuple[float, ...] | None = None

    @classmethod
    def from_file(
        cls,
        loader: str,
        weights: str | os.PathLike[str],
        *,
        outputs: int,
        device: Device = "auto",
        bands: Sequence[float] | None = None,
    ) -> ModelSpec:
        """Make the spec of the weights file `weights`, whose digest is computed; the rest is as in the class.

        Raises ModelError if the file cannot be read, InputError if `device` is none of those known.
        """
        _known(device)
        path = Path(weights).resolve()
        wavelengths = None if bands is None else tuple(map(float, bands))
        return cls(loader, os.fspath(path), _sha256(path), outputs, device, wavelengths)

    def on(self, device: Device) -> ModelSpec:
        """Give the same model on another device."""
        return replace(self, device=device)

    def load(self) -> Predictor:
        """Load the model, or give the one that this process has loaded.

        Raises ModelError if the weights cannot be read or are not those that the spec was made of.
        """
        device = resolve_device(self.device)
        key = (self.loader, self.sha256, device)
        if key not in _loaded:
            with _loading:
                if key not in _loaded:
                    _loaded[key] = self._load(device)
        return _loaded[key]

    def _load(self, device: str) -> Predictor:
        path = Path(self.weights)
        if _sha256(path) != self.sha256:
            raise ModelError(
                "the weights have changed since the model was chosen",
                where=path,
                remedy="Make the model anew from this file, or put the former file back",
            )
        module, _, function = self.loader.partition(":")
        try:
            loader = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise ModelError(
                f"the model's loader cannot be imported ({error})",
                where=self.loader,
                remedy="Name a function as 'module:function' that every worker can import; it takes the path of the "
                "weights and 'cpu' or 'cuda', and returns a function from pixels to outputs",
            ) from error
        return loader(path, device)

    def __dask_tokenize__(self) -> tuple[str, ...]:
        # Not the path: the same weights elsewhere are the same model.
        return (type(self).__qualname__, self.loader, self.sha256, str(self.outputs), self.device)


def resolve_device(device: Device) -> Literal["cpu", "cuda"]:
    """Decide where this process runs a model.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
        "auto" takes the GPU where this process sees one.

    Returns
    -------
    {"cpu", "cuda"}

    Raises
    ------
    InputError
        If there is no such device.
    MissingDependencyError
        If a GPU is demanded, and torch is absent or finds none.
    """
    _known(device)
    if device == "cpu" or (device == "auto" and not _gpu_driver()):
        return "cpu"
    if device == "auto" and importlib.util.find_spec("torch") is None:
        return "cpu"
    with needs("torch", "device='cuda'"):
        import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise MissingDependencyError(
            "no CUDA device is usable by torch here",
            where="device='cuda'",
            remedy="Install a CUDA build of torch and the NVIDIA driver, or pass device='auto' or 'cpu'",
        )
    return "cpu"


def _known(device: str) -> None:
    if device not in get_args(Device):
        raise InputError(
            f"unknown device {device!r}",
            where="device",
            remedy=f"Choose from {', '.join(get_args(Device))}",
        )


def _gpu_driver() -> bool:
    """Tell, without importing torch (seconds), that there cannot be a GPU."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False  # the CPU workers of a machine with GPUs
    return (
        "torch" in sys.modules
        or not sys.platform.startswith("linux")
        or Path("/dev/nvidiactl").exists()
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(
            f"the weights cannot be read ({error.strerror})",
            where=path,
            remedy="Check the path; a cluster needs it on every worker",
        ) from error
