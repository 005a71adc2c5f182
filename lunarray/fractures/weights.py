"""Weights of fracture models on disk: ours in safetensors, and those of others, read without running code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lunarray.engine.weights import WeightsFormat, peek_header
from lunarray.errors import ModelError, needs
from lunarray.fractures.normalise import Normalisation, imagenet

if TYPE_CHECKING:
    import torch
    from torch import nn

#: The model that comes with lunarray.
DEFAULT_MODEL = Path(__file__).parent / "data" / "light.safetensors"
REMEDY = (
    "Give a file that lunarray.fractures.save_model wrote, a state dict of torchvision's DeepLabV3, or the published"
    " IMFMapper checkpoint; or leave model out for the one that comes with lunarray"
)
#: Our files.
FORMAT = WeightsFormat(
    "lunarray.fractures",
    REMEDY,
    required=("architecture", "sizes", "normalisation", "digest"),
)
#: What data-parallel and compiled modules put before their names.
_PREFIXES = ("module.", "_orig_mod.", "model.")
#: Where training programs keep the weights within a checkpoint.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
#: The last layer of DeepLabV3: what must have one output, and has 21 in torchvision's own weights.
_HEAD = "classifier.4."


@dataclass(frozen=True)
class LoadedModel:
    """A network with its weights, and what must be known to use it.

    Attributes
    ----------
    network : Module
        On the CPU, in evaluation mode, without gradients.
    architecture : str
        See :func:`lunarray.fractures.model.build`.
    normalisation : Normalisation
        What brightness was brought to in its training.
    kind : {"lunarray", "state dict", "wrapped state dict"}
        What the file was.
    head_replaced : bool
        The file's last layer had other outputs and was replaced by one with random weights: to begin training with, not
        to detect with.
    header : dict
        Of our own files: what they say about themselves.
    """

    network: nn.Module
    architecture: str
    normalisation: Normalisation
    kind: str
    head_replaced: bool = False
    header: dict[str, Any] = field(default_factory=dict)


def save_model(
    path: str | os.PathLike[str],
    network: nn.Module,
    *,
    normalisation: Normalisation | None = None,
    overlap: int | None = None,
    training: dict[str, Any] | None = None,
) -> Path:
    """Write a network with all that is needed to use it, as safetensors.

    Parameters
    ----------
    path : path
        File to write, replaced only once the new one is complete.
    network : Module
        One that :func:`lunarray.fractures.deeplabv3` or :func:`lunarray.fractures.light` built.
    normalisation : Normalisation, optional
        What it was trained with; the default of its architecture otherwise.
    overlap : int, optional
        Pixels by which tiles must overlap (:func:`lunarray.fractures.detection.measure_overlap`).
    training : dict, optional
        What it was trained on and how; JSON types only.

    Returns
    -------
    Path

    Raises
    ------
    ModelError
        If the network is none of ours, or takes another number of channels than the normalisation gives.
    """
    from lunarray.fractures.model import architecture_of, default_normalisation

    architecture, sizes = architecture_of(network)
    rule = default_normalisation(architecture) if normalisation is None else normalisation
    _check_channels(sizes["channels"], rule, path)
    tensors = {n: v.detach().cpu().contiguous().numpy() for n, v in network.state_dict().items()}
    header = {
        "architecture": architecture,
        "sizes": sizes,
        "normalisation": rule.to_json(),
        "overlap": overlap,
        "training": training or {},
    }
    return FORMAT.write(path, tensors, header)


def read_model_header(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a weights file of ours says about itself; reads its first kilobytes only and needs no torch.

    Parameters
    ----------
    path : path
        Weights file.

    Returns
    -------
    dict or None
        ``architecture``, ``sizes``, ``normalisation``, ``overlap``, ``training`` and ``digest``; None where the file is
        not of ours.

    Raises
    ------
    ModelError
        If there is no such file, or it is of a version that this one does not read.
    """
    header = peek_header(path)
    if header is None or header.get(FORMAT.key) != FORMAT.name:
        return None
    return FORMAT.read_header(path)


def load_model(
    path: str | os.PathLike[str],
    *,
    normalisation: Normalisation | None = None,
    replace_head: bool = True,
    seed: int = 0,
) -> LoadedModel:
    """Read a fracture model: ours, torchvision's DeepLabV3, or the published IMFMapper.

    Nothing in the file is executed: pickles are read by torch's restricted reader, which knows tensors and plain
    containers only.

    Parameters
    ----------
    path : path
        One of

        - a safetensors file that :func:`save_model` wrote, or one with a bare state dict;
        - a state dict of DeepLabV3-ResNet50 or -ResNet101 with one output, with or without the auxiliary classifier,
          plain or in a dict (under ``state_dict``, ``model_state_dict``, ``model`` …), its names with or without
          ``module.`` before them: IMFMapper's checkpoint;
        - torchvision's own weights, of 21 COCO classes.
    normalisation : Normalisation, optional
        How brightness must be brought to what the network sees. Our files say it; of others it is assumed that they
        were trained on 8-bit images with ImageNet's means and deviations
        (:func:`lunarray.fractures.normalise.imagenet`).
    replace_head : bool
        Take a file whose last layer has other than one output, with a new last layer of random weights.
    seed : int
        Of these.

    Returns
    -------
    LoadedModel

    Raises
    ------
    ModelError
        If the file cannot be read, holds code, or its names or shapes are not those of a network here; the message
        names what differs.

    References
    ----------
    .. [1] Le Corre et al. (2025), doi:10.1029/2025JE009145; checkpoint doi:10.5281/zenodo.15101175.
    """
    with needs("torch", "a network of fractures as a torch module"):
        import torch

    path = Path(path)
    if read_model_header(path) is not None:
        header, tensors = FORMAT.read(path)
        state = {n: torch.tensor(a) for n, a in tensors.items()}
        rule = Normalisation.from_json(header["normalisation"])
        if normalisation is not None:
            rule = normalisation
        network = _built(header["architecture"], header["sizes"], path)
        _fill(network, state, path, header["architecture"])
        _check_channels(header["sizes"].get("channels", 3), rule, path)
        return LoadedModel(network, header["architecture"], rule, "lunarray", False, header)
    state, kind = _read_foreign(path)
    architecture, sizes = _recognise(state)
    network = _built(architecture, sizes, path)
    replaced = False
    if architecture != "light":
        state = {n: v for n, v in state.items() if not n.startswith("aux_classifier.")}
        replaced = _replace_head(network, state, path, replace_head, seed)
    _fill(network, state, path, architecture)
    if normalisation is None:
        normalisation = Normalisation() if architecture == "light" else imagenet()
    _check_channels(sizes["channels"], normalisation, path)
    return LoadedModel(network, architecture, normalisation, kind, replaced)


def _replace_head(
    network: nn.Module, state: dict[str, torch.Tensor], path: Path, allowed: bool, seed: int
) -> bool:
    """Put a new last layer in the place of one with other than one output."""
    import torch

    weight = state.get(_HEAD + "weight")
    if weight is None or weight.ndim != 4 or len(weight) == 1:
        return False
    if not allowed:
        raise ModelError(
            f"the last layer has {len(weight)} outputs, not 1",
            where=path,
            remedy="Train it first: lunarray.fractures.train(..., model=path) begins with it and replaces the layer",
        )
    own = network.state_dict()
    generator = torch.Generator().manual_seed(seed)
    new = torch.empty(own[_HEAD + "weight"].shape)
    state[_HEAD + "weight"] = new.normal_(0, 0.01, generator=generator)
    state[_HEAD + "bias"] = torch.zeros(own[_HEAD + "bias"].shape)
    return True


def _built(architecture: str, sizes: Mapping[str, int], path: Path) -> nn.Module:
    import torch

    from lunarray.fractures.model import build

    try:
        with torch.device("meta"):  # no random weights are drawn where a file's follow
            return build(architecture, **sizes)
    except (ModelError, TypeError) as error:
        raise ModelError(
            f"a network that is unknown here: {architecture} {dict(sizes)}",
            where=path,
            remedy=REMEDY,
        ) from error


def _recognise(state: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, int]]:
    """Guess the architecture; what does not fit it is named by :func:`_fill`."""
    if "stem.0.weight" in state and state["stem.0.weight"].ndim == 4:
        width, channels = state["stem.0.weight"].shape[:2]
        return "light", {"width": int(width), "channels": int(channels)}
    deep = any(name.startswith("backbone.layer3.22.") for name in state)
    return f"deeplabv3_resnet{101 if deep else 50}", {"channels": 3}


def _fill(
    network: nn.Module, state: Mapping[str, torch.Tensor], path: Path, architecture: str
) -> None:
    """Put weights into a network, or say which do not fit."""
    import torch

    own = network.state_dict()
    # The count of batches seen: torch below 0.4 did not write it, and detection does not read it.
    missing = [n for n in own if n not in state and not n.endswith(".num_batches_tracked")]
    unexpected = [n for n in state if n not in own]
    shapes = [
        f"{n} {tuple(state[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    faults = [
        f"{len(names)} {what}: {_listed(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    if faults:
        raise ModelError(
            f"the weights do not fit {architecture}; {'; '.join(faults)}",
            where=path,
            remedy=REMEDY,
        )
    counts = {n: torch.zeros(own[n].shape, dtype=own[n].dtype) for n in own if n not in state}
    network.to_empty(device="cpu").load_state_dict({**counts, **state})
    network.eval().requires_grad_(False)


def _listed(names: list[str], most: int = 8) -> str:
    some = ", ".join(names[:most])
    return some if len(names) <= most else f"{some} and {len(names) - most} more"


def _read_foreign(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Read a state dict, whatever is round it."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    content: Any
    if path.suffix == ".safetensors":
        try:
            # torch's reader, for NumPy has no bfloat16.
            content = load(path.read_bytes())
        except (SafetensorError, ValueError) as error:
            raise ModelError(
                f"broken safetensors file ({error})", where=path, remedy="Fetch or write it again"
            ) from error
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ModelError(
                "the file holds more than weights, and such files can run code when read",
                where=path,
                remedy="Where you trust it, load it where it came from and save model.state_dict() alone",
            ) from error
        except Exception as error:  # torch raises whatever its reader and unpickler raise
            raise ModelError(
                f"not a file of weights ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
                where=path,
                remedy=REMEDY,
            ) from error
    found = _state_within(content)
    if found is None:
        what = (
            f"a dict of {_listed([str(k) for k in content])}"
            if isinstance(content, Mapping)
            else f"a {type(content).__name__}"
        )
        raise ModelError(f"no state dict in the file, but {what}", where=path, remedy=REMEDY)
    state, wrapped = found
    return _without_prefixes(state), "wrapped state dict" if wrapped else "state dict"


def _state_within(content: Any) -> tuple[dict[str, torch.Tensor], bool] | None:
    import torch

    def is_state(value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and len(value) > 0
            and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
        )

    if is_state(content):
        return dict(content), False
    if not isinstance(content, Mapping):
        return None
    ordered = [content[k] for k in _WRAPPERS if k in content] + list(content.values())
    for value in ordered:
        if is_state(value):
            return dict(value), True
    for value in ordered:
        if isinstance(value, Mapping) and (inner := _state_within(value)) is not None:
            return inner[0], True
    return None


def _without_prefixes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = True
    while found:
        found = False
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): value for name, value in state.items()}
                found = True
    return state


def _check_channels(
    channels: int, rule: Normalisation, path: str | os.PathLike[str] | None
) -> None:
    if channels != rule.channels:
        raise ModelError(
            f"the network takes {channels} channels, its normalisation gives {rule.channels}",
            where=path,
            remedy="Give a normalisation with as many channels",
        )
