"""Weights of oxide models on disk: one safetensors file, which holds numbers and a JSON text and no code."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import ModelError

if TYPE_CHECKING:
    from lunarray.oxides.model import OxideCNN
    from lunarray.oxides.novelty import NoveltyModel

#: Weights of the model that comes with lunarray.
DEFAULT_WEIGHTS = Path(__file__).parent / "data" / "default.safetensors"
ARCHITECTURE = "lunarray.oxides.OxideCNN"
FORMAT_VERSION = 1
_NOVELTY = "novelty."
_METADATA_KEY = "lunarray"
_REQUIRED = ("architecture", "format_version", "n", "bands", "wavelengths", "oxides", "digest")
_REMEDY = (
    "give a file written by lunarray.oxides.save_oxide_cnn, "
    "or leave model out for the one that comes with lunarray"
)
#: A header larger than this is not one of ours; the format's own limit is 100 MB.
_MAX_HEADER = 1_000_000


def _digest(tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in order of name."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        sha.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def save_oxide_cnn(
    path: str | os.PathLike[str],
    model: OxideCNN,
    *,
    wavelengths: np.ndarray,
    oxides: tuple[str, ...],
    novelty: NoveltyModel | None = None,
    training: dict[str, Any] | None = None,
) -> None:
    """Write a model with all that is needed to use it.

    Parameters
    ----------
    path : path-like
        File to write, replaced only once the new one is complete.
    model : OxideCNN
        The trained model.
    wavelengths : array-like, shape (bands,)
        Wavelengths in nm that the model expects.
    oxides : tuple of str
        Names of the outputs.
    novelty : NoveltyModel, optional
        Statistics of the training spectra. Without them spectra unlike the training set cannot be told.
    training : dict, optional
        What the model was trained on and how; JSON types only.

    Raises
    ------
    ModelError
        Wavelengths or oxides do not fit the model.
    """
    from safetensors.numpy import save

    centres = [round(float(w), 4) for w in wavelengths]
    if len(centres) != model.bands or len(oxides) != model.outputs:
        raise ModelError(
            f"{len(centres)} wavelengths and {len(oxides)} oxides "
            f"for a model of {model.bands} bands and {model.outputs} outputs",
            where=path,
            remedy="give one wavelength per band and one name per output",
        )
    tensors = {
        name: value.detach().cpu().contiguous().numpy()
        for name, value in model.state_dict().items()
    }
    if novelty is not None:
        tensors |= {_NOVELTY + name: array for name, array in novelty.tensors().items()}
    header = {
        "architecture": ARCHITECTURE,
        "format_version": FORMAT_VERSION,
        "n": model.n,
        "bands": model.bands,
        "wavelengths": centres,
        "oxides": list(oxides),
        "novelty": novelty is not None,
        "training": training or {},
        "digest": _digest(tensors),
    }
    # One key: safetensors keeps metadata in a hash map, and several keys would come out in another order each time.
    content = save(tensors, {_METADATA_KEY: json.dumps(header, sort_keys=True)})
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(content)
    partial.replace(target)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a weights file says about itself; reads the first kilobytes only and needs no torch.

    Parameters
    ----------
    path : path-like
        Weights file.

    Returns
    -------
    dict
        ``architecture``, ``format_version``, ``n`` (int), ``bands`` (int), ``wavelengths`` (list of float, nm),
        ``oxides`` (list of str), ``novelty`` (bool: statistics are there), ``training`` (dict) and ``digest``
        (SHA-256 of the tensors).

    Raises
    ------
    ModelError
        No such file, not a safetensors file, or not one of an oxide model.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER:
                raise ModelError("not a safetensors file of lunarray", where=path, remedy=_REMEDY)
            raw = json.loads(file.read(length))
        header = json.loads(raw["__metadata__"][_METADATA_KEY])
        missing = [key for key in _REQUIRED if key not in header]
    except OSError as error:
        raise ModelError(
            f"cannot read model weights ({error.strerror})", where=path, remedy=_REMEDY
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            "no description of an oxide model in the file's header", where=path, remedy=_REMEDY
        ) from error
    if missing:
        raise ModelError(f"header lacks {', '.join(missing)}", where=path, remedy=_REMEDY)
    if header["architecture"] != ARCHITECTURE or header["format_version"] != FORMAT_VERSION:
        raise ModelError(
            f"weights of {header['architecture']} version {header['format_version']}, "
            f"not of {ARCHITECTURE} version {FORMAT_VERSION}",
            where=path,
            remedy=_REMEDY,
        )
    if len(header["wavelengths"]) != header["bands"]:
        raise ModelError(
            f"{len(header['wavelengths'])} wavelengths for {header['bands']} bands",
            where=path,
            remedy=_REMEDY,
        )
    return header


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read header and tensors, verified; needs no torch."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    header = read_header(path)
    try:
        tensors = load(Path(path).read_bytes())
    except (SafetensorError, ValueError) as error:
        raise ModelError(
            f"broken safetensors file ({error})", where=path, remedy="fetch or write it again"
        ) from error
    if _digest(tensors) != header["digest"]:
        raise ModelError(
            "the weights are not those that were written: their SHA-256 differs from the one in the header",
            where=path,
            remedy="fetch or write the file again",
        )
    return header, tensors


def load_oxide_cnn(path: str | os.PathLike[str] = DEFAULT_WEIGHTS) -> OxideCNN:
    """Read a model.

    Parameters
    ----------
    path : path-like
        Weights file; the one that comes with lunarray by default.

    Returns
    -------
    OxideCNN
        On the CPU, in evaluation mode, without gradients.

    Raises
    ------
    ModelError
        The file is missing, altered, or made for another architecture.
    """
    import torch

    from lunarray.oxides.model import OxideCNN

    header, tensors = read_weights(path)
    model = OxideCNN(header["n"], header["bands"], len(header["oxides"]))
    state = {
        name: torch.from_numpy(array.copy())
        for name, array in tensors.items()
        if not name.startswith(_NOVELTY)
    }
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"tensors do not fit {ARCHITECTURE} with n = {header['n']} and {header['bands']} bands",
            where=path,
            remedy=_REMEDY,
        ) from error
    return model.eval().requires_grad_(False)


def load_novelty(path: str | os.PathLike[str] = DEFAULT_WEIGHTS) -> NoveltyModel | None:
    """Read the novelty statistics stored with a model; None where the file has none. Needs no torch.

    Parameters
    ----------
    path : path-like
        Weights file.

    Returns
    -------
    NoveltyModel or None
        Statistics for :func:`lunarray.oxides.novelty.novelty`.

    Raises
    ------
    ModelError
        The file is missing, altered, or made for another architecture.
    """
    header, tensors = read_weights(path)
    if not header.get("novelty"):
        return None
    # Numba comes with it: not for those who want the header only.
    from lunarray.oxides.novelty import NoveltyModel

    return NoveltyModel(
        **{
            name.removeprefix(_NOVELTY): a
            for name, a in tensors.items()
            if name.startswith(_NOVELTY)
        }
    )
