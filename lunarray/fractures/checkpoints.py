"""Checkpoints of others: what a file is, the state dict in it, and the same weights in our layout."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import ModelError

if TYPE_CHECKING:
    import torch

REMEDY = (
    "Give a file that lunarray.fractures.save_model wrote, a state dict of torchvision's DeepLabV3, or the published"
    " IMFMapper checkpoint; or leave model out for the one that comes with lunarray"
)
#: For networks whose first layer takes one channel.
ONE_CHANNEL = (
    "Its first layer takes one channel, and the file does not say of which scale. Say how it was trained: "
    "load_model(file, normalisation=Normalisation('fixed', 1, mean=(0.5,), std=(0.25,))), say, of images from 0 to 1; "
    "it then takes three equal channels, which comes to the same. Write that with save_model, and use what is written"
)
#: What data-parallel, compiled and Lightning modules put before their names.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "_forward_module.")
#: Beginnings of names of what is kept in a checkpoint and is no part of a network: weights of classes in a loss.
_OF_LOSSES = ("criterion.", "loss.", "loss_fn.", "loss_function.", "metric.", "metrics.")
#: Where training programs keep the weights within a checkpoint.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
#: The last layers of DeepLabV3 and its auxiliary branch; and the first.
HEAD, _STEM = "classifier.4.", "backbone.conv1.weight"
#: How files begin that are taken for weights, what they are, and what to do.
_OTHERS = (
    (
        (b"<!doctype", b"<html", b"<?xml", b"<head"),
        "a web page, not weights: what was fetched is a page about the file, or an error",
        "Fetch the file itself: on Zenodo the link ends in /files/NAME?download=1",
    ),
    (
        (b"version https://git-lfs",),
        "a pointer of Git LFS, not the weights",
        "Run git lfs pull where it came from",
    ),
    (
        (b"\x89hdf",),
        "an HDF5 file, as Keras writes it",
        "Export the network as ONNX, and give lunarray.engine.from_onnx(file, inputs=Tiles(...))",
    ),
    ((b"\x1f\x8b", b"7z\xbc\xaf", b"rar!", b"bzh"), "a compressed archive", "Unpack it first"),
)


def read_foreign(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The state dict of a file, whatever is round it, and "state dict" or "wrapped state dict"."""
    _require_weights(path)
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    found = _state_within(content)
    if found is None:
        what = (
            f"a dict of {listed([str(k) for k in content])}"
            if isinstance(content, Mapping)
            else f"a {type(content).__name__}"
        )
        raise ModelError(f"no state dict in the file, but {what}", where=path, remedy=REMEDY)
    state, wrapped = found
    return _without_prefixes(state), "wrapped state dict" if wrapped else "state dict"


def _require_weights(path: Path) -> None:
    """Call what is often taken for weights what it is."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except OSError as error:
        raise ModelError(
            f"cannot be read ({error.strerror or error})", where=path, remedy=REMEDY
        ) from error
    for starts, what, remedy in _OTHERS:
        if begin.startswith(starts):
            raise ModelError(what, where=path, remedy=remedy)
    if not begin.startswith(b"pk\x03\x04"):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"cut off, or damaged ({error})", where=path, remedy="Fetch it again"
        ) from error
    if any(
        name.split("/", 1)[-1] in ("constants.pkl", "code/") or "/code/" in name for name in names
    ):
        raise ModelError(
            "TorchScript: a program with its weights, which could do anything when loaded",
            where=path,
            remedy="Where you trust it: torch.save(torch.jit.load(file).state_dict(), 'weights.pt'), and give that",
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise ModelError(
            f"a zip archive of {listed(names)}", where=path, remedy="Unpack it, and give the file of weights in it"
        )  # fmt: skip


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # torch's reader, for NumPy has no bfloat16.
        return load(path.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise ModelError(
            f"broken safetensors file ({error})", where=path, remedy="Fetch or write it again"
        ) from error


def _pickled(path: Path) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals(list(_numpy_names())):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            "the file holds more than weights, and such files can run code when read",
            where=path,
            remedy="Where you trust it, load it where it came from and save model.state_dict() alone",
        ) from error
    except Exception as error:  # torch raises whatever its reader and unpickler raise
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"not a file of weights ({told})", where=path, remedy=REMEDY) from error


# --- NumPy's numbers beside weights ---------------------------------------------------------------


def _scalar(dtype: np.dtype, data: Any = b"") -> Any:
    """A number of NumPy, as a pickle says it; nothing but a number."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise pickle.UnpicklingError("no number")
    return np.frombuffer(data, dtype, 1)[0]


class _Array:
    """An array of NumPy beside the weights, such as the losses of the epochs: read over, not read."""

    def __init__(self, *about: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _encoded(text: str, encoding: str) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "ascii", "utf-8"):
        raise pickle.UnpicklingError("no bytes")
    return text.encode(encoding)


def _numpy_names() -> Iterator[Any]:
    """What torch's restricted reader may call besides: by their names in pickles, functions of ours that only read."""
    for place in ("numpy._core.multiarray", "numpy.core.multiarray"):
        yield _scalar, f"{place}.scalar"
        yield _Array, f"{place}._reconstruct"
    yield _encoded, "_codecs.encode"
    yield _Array, "numpy.ndarray"
    yield np.dtype
    yield from {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdSU"}


# --- Finding the state dict -----------------------------------------------------------------------


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
    # Weights and numbers side by side in one dict.
    tensors = {
        k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)
    }
    return (tensors, True) if any(k.endswith("weight") for k in tensors) else None


def _without_prefixes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names as the network itself has them, without those of a loss beside it."""
    found = True
    while found:
        own = {n: v for n, v in state.items() if not n.startswith(_OF_LOSSES)}
        state, found = own or state, False
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): value for name, value in state.items()}
                found = True
    return state


# --- Heads and first layers of others -------------------------------------------------------------


def merge_two_outputs(state: dict[str, torch.Tensor]) -> bool:
    """Put one logit, second less first, in the place of a last layer of two outputs; whether it had two.

    The second class has the larger output, and the larger sigmoid, exactly where that logit is above 0.
    """
    weight, bias = state.get(HEAD + "weight"), state.get(HEAD + "bias")
    if weight is None or weight.ndim != 4 or len(weight) != 2:
        return False
    state[HEAD + "weight"] = weight[1:] - weight[:1]
    if bias is not None:
        state[HEAD + "bias"] = bias[1:] - bias[:1]
    return True


def takes_one_channel(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the first layer of a DeepLab takes one channel, where ours takes three."""
    weight = state.get(_STEM)
    return weight is not None and weight.ndim == 4 and weight.shape[1] == 1


def spread_one_channel(state: dict[str, torch.Tensor]) -> None:
    """Let a first layer of one channel take three equal ones, which comes to the same."""
    state[_STEM] = state[_STEM].expand(-1, 3, -1, -1) / 3


def listed(names: list[str], most: int = 8) -> str:
    """Some names, and how many more."""
    some = ", ".join(names[:most])
    return some if len(names) <= most else f"{some} and {len(names) - most} more"
