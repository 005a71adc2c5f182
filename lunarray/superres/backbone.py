"""ResNet50 without its classifier: weights from a file, from torchvision, or drawn from a seed, and the network.

Batch normalisation is folded into the convolutions. What travels to workers is a :class:`Backbone`, a value that names
the weights and carries the digest of their numbers; each process loads them once.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.engine.models import Device, resolve_device
from lunarray.engine.weights import tensors_digest
from lunarray.errors import MissingDependencyError, ModelError, needs
from lunarray.superres.devices import full_precision

if TYPE_CHECKING:
    import torch

#: Outputs of the network before its classifier.
FEATURES = 2048
#: Input pixels from one output cell to the next.
STRIDE = 32
#: Mean and standard deviation of the inputs that torchvision's weights were trained on, in [0, 1].
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Channels inside the bottlenecks of the first stage.
WIDTH = 64
_BLOCKS = (3, 4, 6, 3)
_REMEDY = "Give a state dict of torchvision's resnet50 (.pth or .safetensors), 'torchvision' to fetch it, or 'random'"

#: Images (image, 3, height, width) float32 to cells (image, height/32, width/32, 2048) float32.
Network = Callable[[np.ndarray], np.ndarray]

_loaded: dict[tuple[str, str], Network] = {}
_loading = threading.Lock()


@dataclass(frozen=True)
class Backbone:
    """A ResNet50 by name: where its weights come from and the digest that they must have.

    The `source` is a "file" at `path`, the same on every worker, or "random", drawn from `seed`. `sha256` is over the
    names, shapes and numbers of the tensors: the same weights in files of another format have the same digest. `width`
    are the channels inside the bottlenecks of the first stage, 64 in ResNet50; `device` is where to run.
    """

    source: str
    sha256: str
    path: str = ""
    seed: int = 0
    width: int = WIDTH
    device: Device = "auto"

    @property
    def description(self) -> dict[str, Any]:
        """What to record with features: JSON types only."""
        name = f"random, seed {self.seed}" if self.source == "random" else Path(self.path).name
        return {"network": "ResNet50", "weights": name, "weights_sha256": self.sha256}

    def load(self) -> Network:
        """Load the network, or give the one that this process has loaded.

        It takes images (image, 3, height, width) float32, normalised, to cells (image, ⌈height/32⌉, ⌈width/32⌉, 2048)
        float32; the centre of cell (i, j) is the pixel (32 i, 32 j). Raises ModelError if the weights cannot be read,
        or are not those that the value was made of.
        """
        key = (self.sha256, resolve_device(self.device))
        network = _loaded.get(key)
        if network is None:
            with _loading:
                network = _loaded.get(key)
                if network is None:
                    network = _loaded[key] = self._load(key[1])
        return network

    def _load(self, device: str) -> Network:
        tensors = (
            random_state(self.seed, self.width)
            if self.source == "random"
            else read_state(self.path)
        )
        if tensors_digest(tensors) != self.sha256:
            raise ModelError(
                "the weights have changed since they were chosen",
                where=self.path or f"seed {self.seed}",
                remedy="Make the backbone anew, or put the former file back",
            )
        return _network(tensors, device, self.path or "random weights")

    def __dask_tokenize__(self) -> tuple[str, ...]:
        # Not the path: the same weights elsewhere are the same network.
        return (type(self).__qualname__, self.sha256, self.device)


def resnet50_backbone(
    weights: str | os.PathLike[str] | Backbone | None = None,
    *,
    seed: int = 0,
    device: Device = "auto",
) -> Backbone:
    """Choose the weights of the ResNet50 that makes surface features.

    Parameters
    ----------
    weights : path, "torchvision", "random" or Backbone
        A state dict of torchvision's ``resnet50``, as ``.pth`` (read without executing code) or ``.safetensors``;
        "torchvision" for its ImageNet weights (version 1), from its cache or the network; "random" for random weights,
        whose features tell less than smoothed maps do.
    seed : int
        Seed of random weights: He initialisation, with the last normalisation of each of a stage's B blocks scaled by
        1/√B so that activations do not grow. The same numbers on every machine.
    device : {"auto", "cpu", "cuda"}
        Where to run.

    Returns
    -------
    Backbone
        The choice; its ``description`` is what to record with features.

    Raises
    ------
    ModelError
        No weights are named; the file cannot be read or holds weights of another network; torchvision's are not in its
        cache and cannot be fetched.

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> backbone = la.superres.resnet50_backbone("random")
    """
    if isinstance(weights, Backbone):
        return weights
    if weights is None:
        raise ModelError("no weights are named", where="weights", remedy=_REMEDY)
    if weights == "random":
        return Backbone("random", random_digest(seed), seed=seed, device=device)
    path = _torchvision_file() if weights == "torchvision" else Path(weights).resolve()
    tensors = read_state(path)
    return Backbone(
        "file",
        tensors_digest(tensors),
        os.fspath(path),
        width=int(tensors["layer1.0.conv1.weight"].shape[0]),
        device=device,
    )


def shapes(width: int = WIDTH) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors that the network needs, as torchvision calls them."""

    def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{part}", (channels,)

    yield "conv1.weight", (64, 3, 7, 7)
    yield from norm("bn1", 64)
    entering = 64
    for stage, blocks in enumerate(_BLOCKS, 1):
        inner, leaving = width << (stage - 1), 256 << (stage - 1)
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            first = entering if block == 0 else leaving
            for number, shape in enumerate(
                ((inner, first, 1, 1), (inner, inner, 3, 3), (leaving, inner, 1, 1)), 1
            ):
                yield f"{name}.conv{number}.weight", shape
                yield from norm(f"{name}.bn{number}", shape[0])
            if block == 0:
                yield f"{name}.downsample.0.weight", (leaving, first, 1, 1)
                yield from norm(f"{name}.downsample.1", leaving)
        entering = leaving


def random_state(seed: int, width: int = WIDTH) -> dict[str, np.ndarray]:
    """Weights drawn from a seed, by NumPy: the same bits wherever they are drawn."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes(width):
        if len(shape) == 4:
            scale = np.float32((2.0 / (shape[0] * shape[2] * shape[3])) ** 0.5)
            tensors[name] = rng.standard_normal(shape, np.float32) * scale
        else:
            ones = name.endswith((".weight", ".running_var"))
            tensors[name] = np.full(shape, 1.0 if ones else 0.0, np.float32)
        last = re.fullmatch(r"layer(\d)\.\d+\.bn3\.weight", name)
        if last:
            tensors[name] *= np.float32(_BLOCKS[int(last[1]) - 1] ** -0.5)
    return tensors


@functools.lru_cache(maxsize=32)
def random_digest(seed: int, width: int = WIDTH) -> str:
    """Digest of :func:`random_state`."""
    return tensors_digest(random_state(seed, width))


def read_state(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a state dict of a ResNet50, checked: float32 by torchvision's names, without the classifier.

    The file is ``.safetensors``, or what ``torch.save`` wrote of a state dict (also one level down, under
    ``state_dict`` or ``model``, and with the prefix that data parallel training leaves), for which torch is needed.
    Raises ModelError if it cannot be read, lacks tensors, or they have other shapes.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load

            raw: Any = load(path.read_bytes())
        else:
            with needs("torch", "a file of weights that is not .safetensors"):
                import torch

            raw = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(
            f"the weights cannot be read ({error.strerror or error})", where=path, remedy=_REMEDY
        ) from error
    except MissingDependencyError:
        raise
    except Exception as error:  # each format has errors of its own, down to the unpickler's
        raise ModelError(
            f"not a file of weights ({type(error).__name__})", where=path, remedy=_REMEDY
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(raw, dict) and isinstance(raw.get(key), dict):
            raw = raw[key]
    if not isinstance(raw, dict):
        raise ModelError("no state dict", where=path, remedy=_REMEDY)
    raw = {str(name).removeprefix("module."): value for name, value in raw.items()}
    first = raw.get("layer1.0.conv1.weight")
    width = int(first.shape[0]) if first is not None and len(first.shape) == 4 else WIDTH
    wanted = dict(shapes(width))
    missing = [name for name in wanted if name not in raw]
    wrong = [n for n, s in wanted.items() if n in raw and tuple(raw[n].shape) != s]
    if missing or wrong:
        kind = "lacks" if missing else "has other shapes of"
        names = missing or wrong
        raise ModelError(
            f"the state dict {kind} {len(names)} of {len(wanted)} tensors of a ResNet50, first {names[0]}",
            where=path,
            remedy=_REMEDY,
        )
    return {name: np.ascontiguousarray(raw[name], np.float32) for name in wanted}


def _torchvision_file() -> Path:
    with needs("torchvision", "a ResNet50 that no file is given for"):
        import torch
        from torchvision.models import ResNet50_Weights

    choice = ResNet50_Weights.IMAGENET1K_V1
    path = Path(torch.hub.get_dir()) / "checkpoints" / choice.url.rsplit("/", 1)[-1]
    if not path.exists():
        try:
            choice.get_state_dict(progress=False, check_hash=True)
        except Exception as error:  # urllib, ssl, socket and hash errors alike
            raise ModelError(
                f"torchvision's weights cannot be fetched ({type(error).__name__})",
                where=choice.url,
                remedy=f"Fetch the file elsewhere and put it at {path}, or give its path as weights",
            ) from error
    return path


def _network(tensors: dict[str, np.ndarray], device: str, where: str) -> Network:
    with needs("torch", "features of images by a network"):
        import torch

    parts = {name: torch.from_numpy(a) for name, a in tensors.items()}
    layers = {}
    for name in tensors:
        if len(tensors[name].shape) == 4:
            weight, bias = _folded(parts, name.removesuffix(".weight"))
            if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
                raise ModelError(f"{name} is not finite", where=where, remedy=_REMEDY)
            weight = weight.to(device).contiguous(memory_format=torch.channels_last)
            layers[name.removesuffix(".weight")] = (weight, bias.to(device))

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), full_precision(device):
            x = torch.from_numpy(np.ascontiguousarray(images, np.float32)).to(device)
            x = _forward(x.contiguous(memory_format=torch.channels_last), layers)
            return x.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    return run


def _folded(parts: dict[str, torch.Tensor], conv: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A convolution together with the normalisation after it."""
    norm = conv.replace("conv", "bn") if "downsample" not in conv else conv[:-1] + "1"
    # torchvision's epsilon.
    scale = parts[f"{norm}.weight"] / (parts[f"{norm}.running_var"] + 1e-5).sqrt()
    weight = parts[f"{conv}.weight"] * scale[:, None, None, None]
    return weight, parts[f"{norm}.bias"] - parts[f"{norm}.running_mean"] * scale


def _forward(x: torch.Tensor, layers: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Image (image, 3, y, x) to the last stage's map, in torchvision's arrangement (stride in the 3 × 3)."""
    import torch.nn.functional as nn

    def conv(x: torch.Tensor, name: str, stride: int = 1, padding: int = 0) -> torch.Tensor:
        weight, bias = layers[name]
        return nn.conv2d(x, weight, bias, stride, padding)

    x = nn.max_pool2d(conv(x, "conv1", 2, 3).relu_(), 3, 2, 1)
    for stage, blocks in enumerate(_BLOCKS, 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if block == 0 and stage > 1 else 1
            y = conv(x, f"{name}.conv1").relu_()
            y = conv(y, f"{name}.conv2", stride, 1).relu_()
            y = conv(y, f"{name}.conv3")
            if block == 0:
                x = conv(x, f"{name}.downsample.0", stride)
            x = y.add_(x).relu_()
    return x
