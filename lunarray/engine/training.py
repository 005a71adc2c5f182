"""The trainer's frame: what trainings of all rooms share, each of which keeps its loss and its loop."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from lunarray.engine.weights import WeightsFormat, write_tensors
from lunarray.errors import InputError, ModelError, StoreConflictError, StoreFormatError, needs

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a network is trained: the fields that all trainings have. A room derives its own.

    `epochs`: passes over what is trained on; `learning_rate`: of the optimiser, at its highest; `weight_decay`: of the
    optimiser; `seed`: of everything that is drawn, another seed changes this field alone. InputError if a value makes
    no sense.
    """

    epochs: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    seed: int = 0

    #: Former names of fields in files.
    former: ClassVar[Mapping[str, str]] = {}
    #: Fields that no number depends on, and so no part of :meth:`to_json`.
    without_effect: ClassVar[Collection[str]] = ()

    def __post_init__(self) -> None:
        self.validate()

    def faults(self) -> list[str]:
        """Names of fields whose value makes no sense; a room adds its own."""
        batch_size = getattr(self, "batch_size", None)
        good = {
            "epochs": self.epochs >= 1,
            "batch_size": batch_size is None or batch_size >= 1,
            "learning_rate": math.isfinite(self.learning_rate) and self.learning_rate > 0,
            "weight_decay": math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            "seed": self.seed >= 0,
        }
        return [name for name, fine in good.items() if not fine]

    def validate(self) -> None:
        """Raise InputError if a value makes no sense."""
        faults = [f"{name}={getattr(self, name)!r}" for name in self.faults()]
        if faults:
            raise InputError(
                f"settings that make no sense: {', '.join(faults)}",
                where=type(self).__name__,
                remedy="See its documentation for what each may be",
            )

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """Settings of the paper that the room follows, which are the defaults, with fields to set otherwise."""
        return cls(**changes)

    def to_dict(self) -> dict[str, Any]:
        """Fields by name, as JSON types."""
        return json.loads(json.dumps(asdict(self), default=lambda number: number.item()))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Undo :meth:`to_dict`, also of files with former names; fields that are not there have their default."""
        named = {cls.former.get(name, name): value for name, value in values.items()}
        unknown = named.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(
                f"unknown settings {', '.join(sorted(unknown))}",
                where=cls.__name__,
                remedy=f"Choose from {', '.join(field.name for field in fields(cls))}",
            )
        known: dict[str, Any] = {
            n: tuple(v) if isinstance(v, list) else v for n, v in named.items()
        }
        return cls(**known)

    def to_json(self) -> str:
        """Settings as text, equal for those that give equal numbers."""
        values = self.to_dict()
        return json.dumps(
            {n: v for n, v in values.items() if n not in self.without_effect}, sort_keys=True
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Undo :meth:`to_json`."""
        return cls.from_dict(json.loads(text))


_CHECKPOINT = WeightsFormat(
    "lunarray.checkpoint", "delete it to start again", required=("stamp", "state")
)


@dataclass(frozen=True)
class Checkpoint:
    """The file from which a stopped training goes on, written whole or not at all.

    `stamp`: what the training is of, as JSON: a state with another stamp is not gone on from. Mappings within, such as
    settings, are compared by their own keys; `free`: keys of the stamp, such as "settings.epochs", that may differ.
    """

    path: str | os.PathLike[str]
    stamp: Mapping[str, Any]
    free: Collection[str] = ()

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state: mappings, lists, arrays, tensors and JSON's types, as deep as you like."""
        tensors: dict[str, np.ndarray] = {}
        tree = _take_out(state, tensors, "")
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        # No digest: it would cost more than writing, and the state is not kept.
        header = {"format": _CHECKPOINT.name, "format_version": _CHECKPOINT.versions[0]}
        write_tensors(self.path, tensors, {**header, "stamp": self.stamp, "state": tree})

    def load(self) -> dict[str, Any] | None:
        """Read the state, tensors on the CPU; None where there is no file.

        StoreConflictError if it is the state of another training, StoreFormatError if the file is broken.
        """
        if not Path(self.path).exists():
            return None
        try:
            header, tensors = _CHECKPOINT.read(self.path)
        except ModelError as error:
            raise StoreFormatError(
                f"a broken checkpoint ({error.problem})",
                where=self.path,
                remedy="Delete it to start again",
            ) from error
        before, now = (
            _flat(stamp) for stamp in (header["stamp"], json.loads(json.dumps(self.stamp)))
        )
        differ = sorted(
            key for key in {*before, *now} - {*self.free} if before.get(key) != now.get(key)
        )
        if differ:
            raise StoreConflictError(
                f"the checkpoint is of another training: other {', '.join(differ)}",
                where=self.path,
                remedy="Give the arguments and data that it was begun with, delete it, or give another path",
            )
        return _put_back(header["state"], tensors)

    def remove(self) -> None:
        """Delete the file, if there is one."""
        Path(self.path).unlink(missing_ok=True)


def _flat(stamp: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in stamp.items():
        result |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return result


def _take_out(value: Any, tensors: dict[str, np.ndarray], place: str) -> Any:
    """Put the arrays of a tree into `tensors`; what is left is JSON."""
    if isinstance(value, Mapping):
        # Pairs, for keys may be numbers.
        items = [[k, _take_out(v, tensors, f"{place}/{k}")] for k, v in value.items()]
        return {"mapping": items}
    if isinstance(value, list | tuple):
        return [_take_out(v, tensors, f"{place}/{i}") for i, v in enumerate(value)]
    if isinstance(value, np.ndarray):
        tensors[place] = value
        return {"array": place}
    if hasattr(value, "detach"):
        tensors[place] = value.detach().cpu().numpy()
        return {"tensor": place}
    return value.item() if isinstance(value, np.generic) else value


def _put_back(tree: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """Undo :func:`_take_out`."""
    if isinstance(tree, list):
        return [_put_back(v, tensors) for v in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "mapping":
        return {k: _put_back(v, tensors) for k, v in content}
    # safetensors' arrays are views of the file's bytes, which cannot be written to.
    array = tensors[content].copy()
    if kind == "array":
        return array
    with needs("torch", "a checkpoint of torch"):
        import torch

    return torch.from_numpy(array)


def mixed_seed(*numbers: int) -> int:
    """One seed, of 63 bits, of several numbers, such as a training's seed and the epoch."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def seeded(seed: int, device: str | torch.device = "cpu") -> Iterator[None]:
    """Let torch draw from a seed, on a device too; after the context it is as if nothing had been drawn in it."""
    with needs("torch", "training"):
        import torch

    # Layers draw their weights from the global generator: one of our own would not reach them.
    place = torch.device(device)
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
