"""Weights of fracture models on disk: ours in safetensors, and those of others, read without running code."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lunarray.engine.weights import WeightsFormat, peek_header
from lunarray.errors import ModelError, needs, require_number
from lunarray.fractures.checkpoints import (
    HEAD,
    ONE_CHANNEL,
    REMEDY,
    listed,
    merge_two_outputs,
    read_foreign,
    spread_one_channel,
    takes_one_channel,
)
from lunarray.fractures.normalise import Normalisation, imagenet, imfmapper

if TYPE_CHECKING:
    import torch
    from torch import nn

#: The model that comes with lunarray.
DEFAULT_MODEL = Path(__file__).parent / "data" / "light.safetensors"
#: Our files.
FORMAT = WeightsFormat(
    "lunarray.fractures",
    REMEDY,
    required=("architecture", "sizes", "normalisation", "digest"),
)


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
    temperature : float
        What logits are divided by before they become probabilities; 1 where nothing was calibrated.
    """

    network: nn.Module
    architecture: str
    normalisation: Normalisation
    kind: str
    head_replaced: bool = False
    header: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0


def save_model(
    path: str | os.PathLike[str],
    network: nn.Module,
    *,
    normalisation: Normalisation | None = None,
    overlap: int | None = None,
    scales: Sequence[float] | None = None,
    scale_margin: float = 0.0,
    training: dict[str, Any] | None = None,
    temperature: float = 1.0,
) -> Path:
    """Write a network and all it takes to use it to a safetensors file.

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
    scales : sequence of float, optional
        Scales at which :func:`lunarray.fractures.map_fractures` looks unless told otherwise; its own alone if left out.
    scale_margin : float, optional
        What logits at coarser scales than 1 are lowered by there.
    training : dict, optional
        What it was trained on and how; JSON types only.
    temperature : float
        What its logits are to be divided by, that its probabilities are calibrated
        (``FractureFit.temperature``).

    Returns
    -------
    Path

    Raises
    ------
    ModelError
        If the network is none of ours, or takes another number of channels than the normalisation gives.
    InputError
        If the temperature is not above 0.

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> network = la.fractures.light(width=4)
    >>> la.fractures.save_model("light.safetensors", network).name
    'light.safetensors'
    """
    from lunarray.fractures.model import architecture_of, default_normalisation

    architecture, sizes = architecture_of(network)
    rule = default_normalisation(architecture) if normalisation is None else normalisation
    require_number("temperature", temperature, 0, strictly=True)
    _check_channels(sizes["channels"], rule, path)
    tensors = {n: v.detach().cpu().contiguous().numpy() for n, v in network.state_dict().items()}
    header = {
        "architecture": architecture,
        "sizes": sizes,
        "normalisation": rule.to_json(),
        "overlap": overlap,
        "scales": None if scales is None else [float(s) for s in scales],
        "scale_margin": float(scale_margin),
        "training": training or {},
        **({} if temperature == 1 else {"temperature": float(temperature)}),
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
        - a state dict of DeepLabV3-ResNet50 or -ResNet101 with one output or two, with or without the auxiliary
          classifier, plain or in a dict (under ``state_dict``, ``model_state_dict``, ``model`` …), its names with or
          without ``module.``, ``net.`` and the like before them: IMFMapper's checkpoint has two outputs, which become
          the one logit of the second class against the first, equal to them at every threshold of their softmax, and
          at 0.5 to the larger of the two;
        - torchvision's own weights, of 21 COCO classes.
    normalisation : Normalisation, optional
        How brightness must be brought to what the network sees. Our files say it. Of others it is assumed that those
        with two outputs were trained as IMFMapper was (:func:`lunarray.fractures.normalise.imfmapper`), and those with
        one or 21 on 8-bit images with ImageNet's means and deviations (:func:`lunarray.fractures.normalise.imagenet`).
    replace_head : bool
        Take a file whose last layer has other than one or two outputs, with a new last layer of random weights.
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

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> path = la.fractures.save_model("light.safetensors", la.fractures.light(width=4))
    >>> loaded = la.fractures.load_model(path)
    >>> type(loaded.network).__name__
    'Light'
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
        return LoadedModel(
            network,
            header["architecture"],
            rule,
            "lunarray",
            header=header,
            temperature=header.get("temperature", 1.0),
        )
    state, kind = read_foreign(path)
    architecture, sizes = _recognise(state)
    network = _built(architecture, sizes, path)
    replaced, rule = False, normalisation or _assumed(architecture, state)
    if architecture != "light":
        state = {n: v for n, v in state.items() if not n.startswith("aux_classifier.")}
        if not merge_two_outputs(state):
            replaced = _replace_head(network, state, path, replace_head, seed)
        if takes_one_channel(state) and rule.channels == 1:
            spread_one_channel(state)
            rule = replace(rule, channels=3, mean=rule.mean * 3, std=rule.std * 3)
    _fill(network, state, path, architecture)
    _check_channels(sizes["channels"], rule, path)
    return LoadedModel(network, architecture, rule, kind, replaced)


def _assumed(architecture: str, state: Mapping[str, torch.Tensor]) -> Normalisation:
    """What networks of others were trained on, as far as their weights tell."""
    if architecture == "light":
        return Normalisation()
    head = state.get(HEAD + "weight")
    return imfmapper() if head is not None and len(head) == 2 else imagenet()


def _replace_head(
    network: nn.Module, state: dict[str, torch.Tensor], path: Path, allowed: bool, seed: int
) -> bool:
    """Put a new last layer in the place of one with other than one output."""
    import torch

    weight = state.get(HEAD + "weight")
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
    new = torch.empty(own[HEAD + "weight"].shape)
    state[HEAD + "weight"] = new.normal_(0, 0.01, generator=generator)
    state[HEAD + "bias"] = torch.zeros(own[HEAD + "bias"].shape)
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
        f"{len(names)} {what}: {listed(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    if faults:
        one_channel = len(faults) == 1 and takes_one_channel(state) and len(shapes) == 1
        raise ModelError(
            f"the weights do not fit {architecture}; {'; '.join(faults)}",
            where=path,
            remedy=ONE_CHANNEL if one_channel else REMEDY,
        )
    counts = {n: torch.zeros(own[n].shape, dtype=own[n].dtype) for n in own if n not in state}
    network.to_empty(device="cpu").load_state_dict({**counts, **state})
    network.eval().requires_grad_(False)


def _check_channels(
    channels: int, rule: Normalisation, path: str | os.PathLike[str] | None
) -> None:
    if channels != rule.channels:
        raise ModelError(
            f"the network takes {channels} channels, its normalisation gives {rule.channels}",
            where=path,
            remedy="Give a normalisation with as many channels",
        )
