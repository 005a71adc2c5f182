"""Models as values: what a task carries to a worker, and the cache that loads it there once.

A model says what it eats (:class:`Spectra`, :class:`Tiles` or :class:`Maps`) and what it gives (names and units), and
loads on a device as a function of plain NumPy arrays: that is all that a verb asks of it (:class:`Model`). What travels
is a :class:`ModelSpec`. :mod:`lunarray.engine.adapters` makes one of a network or regressor of other libraries.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from lunarray.engine.tables import html_table
from lunarray.errors import InputError, MissingDependencyError, ModelError, needs

#: What a loaded model is: pixels in, outputs out; (pixel, band) float32 to (pixel, output) float32.
Predictor = Callable[[np.ndarray], np.ndarray]

Device = Literal["auto", "cpu", "cuda"]

_loaded: dict[tuple[object, ...], Predictor] = {}
_loading = threading.Lock()


# --- What a model says of itself ------------------------------------------------------------------


@dataclass(frozen=True)
class Spectra:
    """The model takes one spectrum a pixel: (pixel, band) float32, without NaN.

    Parameters
    ----------
    wavelengths : tuple of float, optional
        Of the bands, nm; None where it takes any.
    light : bool
        Whether it takes one number more after the bands: the standard deviation of the logarithm of the light's gain.

    Examples
    --------
    >>> import lunarray as la
    >>> la.engine.Spectra((750.0, 950.0)).wavelengths
    (750.0, 950.0)
    """

    wavelengths: tuple[float, ...] | None = None
    light: bool = False

    def __post_init__(self) -> None:
        if self.wavelengths is not None:
            object.__setattr__(self, "wavelengths", tuple(float(w) for w in self.wavelengths))


@dataclass(frozen=True)
class Tiles:
    """The model takes tiles of an image: (tile, y, x) float32, NaN where there are no data.

    It gives (tile, y, x) float32 of the same sides, a probability; what it gives where there are no data does not
    matter.

    Parameters
    ----------
    tile : int, optional
        Side of the tiles that it was made for, pixels, a multiple of 32; None where it takes any.
    overlap : int, optional
        Pixels that neighbouring tiles must share: 32 more than twice the distance at which the model still notices a
        tile's border. None where it is not known.
    resolution : (float, float), optional
        Finest and coarsest size of a pixel that it was trained on, metres.
    value_range : (float, float), optional
        Brightness of the black and the white that it was trained with, (0, 255) for 8-bit images; None where it takes
        any scale.
    mean, std : tuple of float, length channels
        What a network of another library expects besides, of brightness from black, 0, to white, 1: less `mean`, over
        `std`, in as many channels as they have numbers. ImageNet's are in :mod:`lunarray.fractures.normalise`.
    gives : {"probability", "logit"}
        What such a network gives. Of two channels the second is meant, against the first.
    unit : {"0-1", "8-bit", "16-bit", "I/F"}, optional
        What `value_range` is in. Images in another unit are brought to it, and those of which nothing tells what their
        numbers are, are refused. Without it such are taken as they are, and others by the range where that is (0, 1),
        (0, 255) or (0, 65535).
    stretch : {"none", "image"}
        "image" where each image is stretched from its own minimum to its maximum to 8 bits first.
    sun : {"any", "left"}
        "left" where it was trained on images lit from the left, or from up to 45° above that: others are turned so.

    Examples
    --------
    >>> import lunarray as la
    >>> la.engine.Tiles(tile=256, overlap=32).tile
    256
    """

    tile: int | None = None
    overlap: int | None = None
    resolution: tuple[float, float] | None = None
    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    gives: Literal["probability", "logit"] = "probability"
    unit: Literal["0-1", "8-bit", "16-bit", "I/F"] | None = None
    stretch: Literal["none", "image"] = "none"
    sun: Literal["any", "left"] = "any"

    def __post_init__(self) -> None:
        low, high = self.value_range or (0.0, 1.0)
        if len(self.mean) != len(self.std) or not all(self.std) or low == high:
            raise ModelError(
                f"value_range {self.value_range}, mean {self.mean}, std {self.std}",
                where="Tiles",
                remedy="Give (black, white), which differ, and a mean and a std other than 0 for each channel",
            )

    def prepared(self, tiles: np.ndarray) -> np.ndarray:
        """Tiles (tile, y, x) as a network wants them: (tile, channel, y, x) float32, 0 where there are no data."""
        low, high = self.value_range or (0.0, 1.0)
        mean, std = (np.array(a, np.float32)[:, None, None] for a in (self.mean, self.std))
        scaled = (tiles[:, None] - np.float32(low)) / np.float32(high - low)
        return np.where(np.isfinite(tiles)[:, None], (scaled - mean) / std, np.float32(0))

    def probability(self, found: np.ndarray) -> np.ndarray:
        """Probabilities (tile, y, x) of what a network gave: the same, or (tile, 1 or 2, y, x)."""
        if found.ndim == 4 and found.shape[1] == 2:
            found = found[:, 1] - found[:, 0] if self.gives == "logit" else found[:, 1]
        elif found.ndim == 4 and found.shape[1] == 1:
            found = found[:, 0]
        return 0.5 + 0.5 * np.tanh(found / 2) if self.gives == "logit" else found


@dataclass(frozen=True)
class Maps:
    """The model takes the values of named maps at each pixel: (pixel, map) float32, without NaN.

    Parameters
    ----------
    names : tuple of str
        Names of the maps, in the model's order; none where it takes whatever features there are.

    Examples
    --------
    >>> import lunarray as la
    >>> la.engine.Maps(("slope", "albedo")).names
    ('slope', 'albedo')
    """

    names: tuple[str, ...] = ()


Inputs = Spectra | Tiles | Maps


@runtime_checkable
class Model(Protocol):
    """What a class of your own must have to be a model.

    An object of it is pickled when it is chosen, so its weights must be in it. Where they are in a file of their own,
    :meth:`ModelSpec.from_file` is the way.

    Attributes
    ----------
    inputs : Spectra, Tiles or Maps
        What it eats.
    outputs : sequence of str
        Names of what it gives, in order, such as ``("FeO", "TiO2")``. ``FeO_std`` is the standard deviation of the
        error of ``FeO``. A mapping of names to units says both.

    Examples
    --------
    >>> from lunarray.engine import Model, Spectra
    >>> class Brightness:
    ...     inputs = Spectra((750.0, 950.0))
    ...     outputs = ("FeO",)
    ...
    ...     def load(self, device):
    ...         return lambda pixels: pixels.mean(axis=1, keepdims=True) * 50
    >>> isinstance(Brightness(), Model)
    True
    """

    inputs: Inputs
    outputs: Sequence[str] | Mapping[str, str]

    def load(self, device: Literal["cpu", "cuda"]) -> Predictor:
        """Give the function of arrays, ready to run on a device."""
        ...


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
    outputs : int or tuple of str
        Values that the predictor gives for a pixel, by name, or how many of them where the verb knows their names.
        ``FeO_std`` is the standard deviation of the error of ``FeO``.
    device : {"auto", "cpu", "cuda"}
        Where to run; "auto" takes a GPU in each process that sees one.
    inputs : Spectra, Tiles or Maps, optional
        What the predictor takes; None where it takes what the verb has.
    units : tuple of (str, str)
        Units of outputs, by name.
    options : tuple of (str, object)
        Further arguments for `loader`, by name; plain values.

    Examples
    --------
    >>> import lunarray as la
    >>> spec = la.oxides.oxide_model()
    >>> spec.outputs
    ('FeO', 'TiO2', 'Al2O3', 'CaO', 'MgO', 'SiO2', 'novelty')
    """

    loader: str
    weights: str
    sha256: str
    outputs: int | tuple[str, ...]
    device: Device = "auto"
    inputs: Inputs | None = None
    units: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def _repr_html_(self) -> str:
        units = dict(self.units)
        names = self.outputs if isinstance(self.outputs, tuple) else ()
        gives = ", ".join(f"{n} ({units[n]})" if n in units else n for n in names)
        takes = str(self.inputs) if self.inputs is not None else "what its verb has"
        rows = [
            ("Weights", self.weights),
            ("SHA-256", self.sha256),
            ("Takes", takes if len(takes) < 300 else takes[:297] + "…"),
            ("Gives", gives or f"{self.outputs} values"),
            ("Runs on", self.device),
            ("Loaded by", self.loader),
            *((str(name), str(value)[:300]) for name, value in self.options),
        ]
        return html_table((), rows, caption=f"Model {Path(self.weights).stem}")

    @classmethod
    def from_file(
        cls,
        loader: str,
        weights: str | os.PathLike[str],
        *,
        outputs: int | Sequence[str] | Mapping[str, str],
        device: Device = "auto",
        bands: Sequence[float] | None = None,
        inputs: Inputs | None = None,
        **options: Any,
    ) -> ModelSpec:
        """Make the spec of the weights file `weights`, whose digest is computed; the rest is as in the class.

        `outputs` may be a mapping of names to units; `bands` is short for ``inputs=Spectra(bands)``; `options` are
        arguments for the loader. Raises ModelError if the file cannot be read or names of outputs come twice,
        InputError if `device` is none of those known.
        """
        _known(device)
        path = Path(weights).resolve()
        if bands is not None:
            inputs = Spectra(tuple(map(float, bands)))
        names, units = named(outputs)
        pairs = tuple(sorted(options.items()))
        return cls(loader, os.fspath(path), _sha256(path), names, device, inputs, units, pairs)

    @property
    def width(self) -> int:
        """How many values the predictor gives for a pixel."""
        return self.outputs if isinstance(self.outputs, int) else len(self.outputs)

    @property
    def bands(self) -> tuple[float, ...] | None:
        """Wavelengths (nm) of the bands that the predictor takes; None where it takes any, or no spectra."""
        return self.inputs.wavelengths if isinstance(self.inputs, Spectra) else None

    @property
    def uncertain(self) -> tuple[str, ...]:
        """Outputs whose standard deviation the model gives too."""
        names = () if isinstance(self.outputs, int) else self.outputs
        return tuple(name for name in names if f"{name}_std" in names)

    def on(self, device: Device) -> ModelSpec:
        """Give the same model on another device."""
        return replace(self, device=device)

    def load(self) -> Predictor:
        """Load the model, or give the one that this process has loaded.

        Raises ModelError if the weights cannot be read or are not those that the spec was made of.
        """
        device = resolve_device(self.device)
        key = (self.loader, self.sha256, self.options, device)
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
        except MissingDependencyError:
            raise
        except (ImportError, AttributeError, ValueError) as error:
            raise ModelError(
                f"the model's loader cannot be imported ({error})",
                where=self.loader,
                remedy="Name a function as 'module:function' that every worker can import; it takes the path of the "
                "weights and 'cpu' or 'cuda', and returns a function from pixels to outputs",
            ) from error
        return loader(path, device, **dict(self.options))

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # Not the path: the same weights elsewhere are the same model. Nor names and units: they change no number.
        own = (type(self).__qualname__, self.loader, self.sha256, str(self.width), self.device)
        return (*own, self.options) if self.options else own


def named(
    outputs: int | Sequence[str] | Mapping[str, str],
) -> tuple[int | tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Names, or the number, of a model's outputs, and the units of those that have one.

    Raises ModelError if there are none, or a name comes twice.
    """
    if isinstance(outputs, int):
        return outputs, ()
    names = (outputs,) if isinstance(outputs, str) else tuple(str(name) for name in outputs)
    if not names or len(set(names)) < len(names):
        raise ModelError(
            f"outputs {', '.join(names) or 'of no name'}",
            where="outputs",
            remedy="Name each value that the model gives for a pixel, once",
        )
    units = outputs.items() if isinstance(outputs, Mapping) else ()
    return names, tuple((str(name), str(unit)) for name, unit in units)


# --- Devices ---------------------------------------------------------------------------------------


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

    Examples
    --------
    >>> import lunarray as la
    >>> la.engine.resolve_device("cpu")
    'cpu'
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
            remedy="Install a CUDA build of torch and the NVIDIA driver, or give device='auto' or 'cpu'",
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
