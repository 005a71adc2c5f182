"""Networks of regions: as values, as files, and as what travels to workers."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.engine.models import Device, ModelSpec
from lunarray.engine.weights import WeightsFormat
from lunarray.errors import ModelError, needs
from lunarray.superres.architecture import Scaling
from lunarray.superres.settings import TrainSettings

if TYPE_CHECKING:
    from lunarray.superres.model import HybridModel

#: Version 1 called the data's digest, which every file has of its weights, by the same name.
_FORMAT = WeightsFormat(
    "lunarray.superres.HybridModel", "Train the region with this lunarray", versions=(2,), required=("settings",)
)  # fmt: skip
_FILE = re.compile(r"region_(\d+)_(\d+)\.safetensors")
LOADER = "lunarray.superres.trained:load_region_model"


@dataclass
class TrainedRegion:
    """A region's networks with all that is needed to use them.

    `models` are one a member, in evaluation mode, on the device where predictions are to run; `scaling` is of their
    inputs and outputs, which are the `elements`. `residual` (element,) float32 is the root mean square misfit at what
    they were trained on (wt%), `history` the loss of each step, member after member, and `digest` the SHA-256 of the
    data. `grid` and `feature_model`, the origin of the features, are JSON, where they are known. `held_out` says how
    they did on tracks that they were not trained on: empty where none was held out. `bank` are the ids of what the bank
    held of the region.
    """

    models: list[HybridModel]
    scaling: Scaling
    elements: tuple[str, ...]
    settings: TrainSettings
    region: tuple[int, int]
    residual: np.ndarray
    history: list[float]
    digest: str
    grid: str = ""
    feature_model: str = ""
    held_out: dict[str, Any] = field(default_factory=dict)
    bank: tuple[str, ...] = ()

    def error(self) -> np.ndarray:
        """How wrong the networks are where they agree (element,), wt%: on what they did not see, if that is more."""
        seen = np.asarray(self.residual, np.float64)
        return np.fmax(seen, np.array(self.held_out.get("rmse", seen), np.float64))


def read_region_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the file of a region's networks says of itself, without reading the weights.

    That is ``elements``, ``features``, ``region``, ``grid``, ``feature_model``, ``settings``, ``members`` and
    ``data_digest``. Raises ModelError if the file is missing, or none of lunarray's.
    """
    return _FORMAT.read_header(path)


def save_region_model(path: str | os.PathLike[str], trained: TrainedRegion) -> None:
    """Write a region's networks with all that is needed to use them (safetensors), whole or not at all."""
    tensors = {f"scaling.{k}": v for k, v in trained.scaling.tensors().items()}
    for number, model in enumerate(trained.models):
        tensors |= {
            f"member.{number}.{k}": v.detach().cpu().numpy() for k, v in model.state_dict().items()
        }
    tensors["residual"] = trained.residual
    tensors["history"] = np.array(trained.history, np.float64)
    header = {
        "elements": list(trained.elements),
        "settings": trained.settings.to_json(),
        "members": len(trained.models),
        "region": list(trained.region),
        "data_digest": trained.digest,
        "grid": trained.grid,
        "feature_model": trained.feature_model,
        "features": int(trained.scaling.feature_mean.size),
        "held_out": trained.held_out,
        "bank": list(trained.bank),
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _FORMAT.write(path, tensors, header)


def load_region_model(path: str | os.PathLike[str], device: str = "cpu") -> TrainedRegion:
    """Read a region's networks, which predict on the device that they are put on.

    Raises ModelError if the file is missing, or none of lunarray's.
    """
    with needs("torch", "the network of element maps"):
        import torch

    from lunarray.superres.model import HybridModel

    header, tensors = _FORMAT.read(path)
    settings = TrainSettings.from_json(header["settings"])
    elements = tuple(header["elements"])

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    models = []
    for number in range(header["members"]):
        model = HybridModel(settings.architecture(header["features"], len(elements)))
        weights = {k: torch.from_numpy(v.copy()) for k, v in part(f"member.{number}.").items()}
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelError(
                "tensors do not fit the architecture in the header",
                where=path,
                remedy="Train the region anew",
            ) from error
        models.append(model.eval().requires_grad_(False).to(device))
    return TrainedRegion(
        models,
        Scaling.from_tensors(part("scaling.")),
        elements,
        settings,
        (header["region"][0], header["region"][1]),
        tensors["residual"],
        tensors["history"].tolist(),
        header["data_digest"],
        header["grid"],
        header["feature_model"],
        header.get("held_out", {}),
        tuple(header.get("bank", ())),
    )


def model_path(folder: str | os.PathLike[str], region: tuple[int, int]) -> Path:
    """File of a region's networks in the folder where models lie."""
    return Path(folder) / f"region_{region[0]:02d}_{region[1]:02d}.safetensors"


def region_models(
    folder: str | os.PathLike[str], device: Device = "auto"
) -> dict[tuple[int, int], ModelSpec]:
    """Models of regions, as values that travel to workers, from a folder that ``train_gib`` filled.

    "auto" predicts on a GPU in each process that sees one. Raises ModelError if there is none.
    """
    found = {}
    for path in sorted(Path(folder).glob("region_*.safetensors")):
        match = _FILE.fullmatch(path.name)
        if match:
            region = int(match[1]), int(match[2])
            found[region] = ModelSpec.from_file(LOADER, path, outputs=0, device=device)
    if not found:
        raise ModelError(
            "no models of regions", where=folder, remedy="Train some: lunarray gib train"
        )
    return found
