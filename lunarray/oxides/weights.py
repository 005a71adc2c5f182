"""Weights of oxide models on disk: one safetensors file, which holds numbers and a JSON text and no code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.engine.weights import WeightsFormat
from lunarray.errors import ModelError, needs

if TYPE_CHECKING:
    from lunarray.oxides.model import LightCNN, OxideCNN
    from lunarray.oxides.novelty import NoveltyModel
    from lunarray.oxides.uncertainty import Calibration, LightCalibration

#: Weights of the model that comes with lunarray.
DEFAULT_WEIGHTS = Path(__file__).parent / "data" / "default.safetensors"
ARCHITECTURE = "lunarray.oxides.OxideCNN"
#: 1 is one network, and novelty statistics; 2 may have several networks, an ensemble and a calibration; 3 is one that
#: takes the light's uncertainty as well.
FORMAT_VERSIONS = (1, 2, 3)
_NOVELTY = "novelty."
_CALIBRATION = "calibration."
_NETWORK = "network."
_MEMBER = "member."
_REMEDY = (
    "Give a file written by lunarray.oxides.save_oxide_cnn, "
    "or leave model out for the one that comes with lunarray"
)
FORMAT = WeightsFormat(
    ARCHITECTURE,
    _REMEDY,
    key="architecture",
    versions=FORMAT_VERSIONS,
    required=("n", "bands", "wavelengths", "oxides", "digest"),
)


def save_oxide_cnn(
    path: str | os.PathLike[str],
    model: OxideCNN | LightCNN | Sequence[OxideCNN],
    *,
    wavelengths: np.ndarray,
    oxides: tuple[str, ...],
    novelty: NoveltyModel | None = None,
    training: dict[str, Any] | None = None,
    members: Sequence[OxideCNN | Sequence[OxideCNN]] = (),
    calibration: Calibration | LightCalibration | None = None,
) -> None:
    """Write an oxide model to a file that holds all it takes to use it.

    Parameters
    ----------
    path : path-like
        File to write, replaced only once the new one is complete.
    model : OxideCNN, sequence of OxideCNN, or LightCNN
        The trained model; of several networks, each gives the oxides that follow those of the one before.
    wavelengths : array-like, shape (bands,)
        Wavelengths in nm that the model expects.
    oxides : tuple of str
        Names of the outputs.
    novelty : NoveltyModel, optional
        Statistics of the training spectra. Without them spectra unlike the training set cannot be told.
    training : dict, optional
        What the model was trained on and how; JSON types only.
    members : sequence of OxideCNN or of sequences of OxideCNN, optional
        Ensemble whose spread tells how uncertain the model is; each of networks like `model`.
    calibration : Calibration or LightCalibration, optional
        Errors on samples not seen in training (:func:`lunarray.oxides.uncertainty.calibrate`; of a LightCNN
        ``calibrate_light``): what ``invert_oxides(uncertainty=True)`` needs.

    Raises
    ------
    ModelError
        Wavelengths or oxides do not fit the model, or members are unlike it.

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> network = la.oxides.OxideCNN(n=8)
    >>> bands, oxides = la.sp.WAVELENGTHS_150, la.oxides.OXIDES
    >>> la.oxides.save_oxide_cnn("mine.safetensors", network, wavelengths=bands, oxides=oxides)
    """

    centres = [round(float(w), 4) for w in wavelengths]
    networks = _sequence(model)
    outputs = [network.outputs for network in networks]
    bands = {network.bands for network in networks}
    if not networks or bands != {len(centres)} or sum(outputs) != len(oxides):
        raise ModelError(
            f"{len(centres)} wavelengths and {len(oxides)} oxides "
            f"for a model of {'/'.join(map(str, sorted(bands)))} bands and {sum(outputs)} outputs",
            where=path,
            remedy="Give one wavelength per band and one name per output",
        )
    tensors = _tensors(networks)
    for index, member in enumerate(members):
        own = _sequence(member)
        if [(m.bands, m.outputs) for m in own] != [(m.bands, m.outputs) for m in networks]:
            raise ModelError(
                f"member {index} has other bands or outputs than the model",
                where=path,
                remedy="Give networks like the model's",
            )
        tensors |= {f"{_MEMBER}{index}.{name}": a for name, a in _tensors(own).items()}
    if novelty is not None:
        tensors |= {_NOVELTY + name: array for name, array in novelty.tensors().items()}
    if calibration is not None:
        tensors |= {_CALIBRATION + name: array for name, array in calibration.tensors().items()}
    header = {
        "format_version": 1,
        "n": networks[0].n,
        "bands": len(centres),
        "wavelengths": centres,
        "oxides": list(oxides),
        "novelty": novelty is not None,
        "training": training or {},
    }
    if len(networks) > 1 or members or calibration is not None:
        header |= {
            "format_version": 2,
            "networks": outputs,
            "members": len(members),
            "calibration": calibration is not None,
        }
    if light := _light_header(networks, path):
        header |= {"format_version": 3, "light": light}
    FORMAT.write(path, tensors, header)


def _sequence(model: Any) -> list[Any]:
    return list(model) if isinstance(model, Sequence) else [model]


def _light_header(networks: list[Any], path: str | os.PathLike[str]) -> dict[str, int]:
    """Sizes of a network that takes the light's uncertainty; nothing for others."""
    lit = [network for network in networks if hasattr(network, "trunk")]
    if lit and len(networks) > 1:
        raise ModelError(
            "several networks, of which some take the light's uncertainty",
            where=path,
            remedy="Save one LightCNN, or OxideCNNs",
        )
    return {"hidden": lit[0].hidden, "units": lit[0].units} if lit else {}


def _tensors(networks: Sequence[Any]) -> dict[str, np.ndarray]:
    """Arrays of one network by their own names, of several by number as well."""
    result = {}
    for index, network in enumerate(networks):
        prefix = f"{_NETWORK}{index}." if len(networks) > 1 else ""
        for name, value in network.state_dict().items():
            array = value.detach().cpu().contiguous().numpy()
            # Most of a LightCNN's weights, and the least sensitive to rounding: sums of thousands of terms.
            half = name == "trunk.head.weight"
            result[prefix + name] = array.astype(np.float16) if half else array
    return result


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a weights file says about itself; reads the first kilobytes only and needs no torch.

    ``architecture``, ``format_version``, ``n`` (int), ``bands`` (int), ``wavelengths`` (list of float, nm), ``oxides``
    (list of str), ``novelty`` (bool: statistics are there), ``training`` (dict) and ``digest`` (SHA-256 of the
    tensors). Version 2 also ``networks`` (list of int, outputs of each), ``members`` (int) and ``calibration`` (bool);
    version 3 ``light`` (dict, the sizes of the layers behind the convolutions).
    """
    header = FORMAT.read_header(path)
    if len(header["wavelengths"]) != header["bands"]:
        raise ModelError(
            f"{len(header['wavelengths'])} wavelengths for {header['bands']} bands",
            where=path,
            remedy=_REMEDY,
        )
    return header


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read header and tensors, verified; needs no torch."""
    header = read_header(path)
    tensors = FORMAT.read(path)[1]
    half = {n: a.astype(np.float32) for n, a in tensors.items() if a.dtype == np.float16}
    return header, tensors | half


def load_oxide_cnn(path: str | os.PathLike[str] = DEFAULT_WEIGHTS) -> OxideCNN | LightCNN:
    """Read an oxide model from its weights file.

    Parameters
    ----------
    path : path-like
        Weights file; the one that comes with lunarray by default.

    Returns
    -------
    OxideCNN or LightCNN
        On the CPU, in evaluation mode, without gradients.

    Raises
    ------
    ModelError
        The file is missing, altered, made for another architecture, or holds several networks.

    Examples
    --------
    >>> import lunarray as la
    >>> network = la.oxides.load_oxide_cnn()
    >>> type(network).__name__
    'LightCNN'
    """
    networks = load_networks(path)
    if len(networks) > 1:
        raise ModelError(
            f"the file holds {len(networks)} networks",
            where=path,
            remedy="Use it with invert_oxides(model=...), or read them all with lunarray.oxides.weights.load_networks",
        )
    return networks[0]


def load_networks(
    path: str | os.PathLike[str] = DEFAULT_WEIGHTS,
) -> list[OxideCNN] | list[LightCNN]:
    """Read all networks of a model, each of which gives the oxides that follow those of the one before."""
    return networks_of(*read_weights(path), path)


def networks_of(
    header: dict[str, Any],
    tensors: dict[str, np.ndarray],
    path: str | os.PathLike[str],
    member: int | None = None,
) -> list[Any]:
    """Make the networks of a model, or of a member of its ensemble, of what :func:`read_weights` gave."""
    with needs("torch", "the network of oxides as a torch module"):
        import torch

    from lunarray.oxides.model import LightCNN, OxideCNN

    networks = []
    for state, outputs in zip(
        states_of(header, tensors, member),
        header.get("networks", [len(header["oxides"])]),
        strict=True,
    ):
        sizes = (header["n"], header["bands"], outputs)
        model = LightCNN(*sizes, **header["light"]) if "light" in header else OxideCNN(*sizes)
        try:
            model.load_state_dict({n: torch.from_numpy(a.copy()) for n, a in state.items()})
        except RuntimeError as error:
            raise ModelError(
                f"tensors do not fit {ARCHITECTURE} with n = {header['n']} and {header['bands']} bands",
                where=path,
                remedy=_REMEDY,
            ) from error
        networks.append(model.eval().requires_grad_(False))
    return networks


def states_of(
    header: dict[str, Any], tensors: dict[str, np.ndarray], member: int | None = None
) -> list[dict[str, np.ndarray]]:
    """Arrays of each network of a model, or of a member of its ensemble, by their own names; needs no torch."""
    others = (_NOVELTY, _CALIBRATION, _MEMBER)
    if member is None:
        own = {name: a for name, a in tensors.items() if not name.startswith(others)}
    else:
        own = _part(tensors, f"{_MEMBER}{member}.")
    count = len(header.get("networks", [0]))
    return [own] if count == 1 else [_part(own, f"{_NETWORK}{i}.") for i in range(count)]


def _part(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): a for n, a in tensors.items() if n.startswith(prefix)}


def load_novelty(path: str | os.PathLike[str] = DEFAULT_WEIGHTS) -> NoveltyModel | None:
    """Read the novelty statistics stored with a model; None where the file has none. Needs no torch."""
    header, tensors = read_weights(path)
    if not header.get("novelty"):
        return None
    # Numba comes with it: not for those who want the header only.
    from lunarray.oxides.novelty import NoveltyModel

    return NoveltyModel(**_part(tensors, _NOVELTY))


def load_calibration(
    path: str | os.PathLike[str] = DEFAULT_WEIGHTS,
) -> Calibration | LightCalibration | None:
    """Read the calibration of its errors stored with a model; None where the file has none. Needs no torch."""
    header = read_header(path)
    if not header.get("calibration"):
        return None
    from lunarray.oxides.uncertainty import Calibration, LightCalibration

    kind = LightCalibration if "light" in header else Calibration
    return kind(**_part(read_weights(path)[1], _CALIBRATION))
