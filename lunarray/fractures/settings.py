"""How fracture models are trained: one value with everything that may be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lunarray.engine import training

Loss = Literal["bce", "focal", "bce_dice"]
Lines = Literal["cldice", "recall"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings(training.TrainSettings):
    """How a fracture model is trained. The defaults are the paper's, section 3.2.

    Attributes
    ----------
    epochs : int
        Passes over the training tiles.
    learning_rate : float
        Adam's; the peak where `schedule` is "cosine".
    weight_decay : float
        Decoupled (AdamW), 0 for plain Adam.
    seed : int
        Of the weights, the order of tiles, the augmentation and dropout.
    batch_size : int
        Tiles in a step. The paper has 32 for ResNet50 and 16 for ResNet101.
    loss : {"bce", "focal", "bce_dice"}
        Binary cross-entropy; the same with well-classified pixels weighted down; or with the Dice loss added, which
        does not see how few pixels are fractures. All are taken over valid pixels only.
    lines : {"cldice", "recall"} or None
        Loss that sees lines, added to the other: soft clDice, which a break in a line and a line where there is none
        raise by their length, or the recall of the labels' skeleton alone, which sees breaks and costs less. The paper
        has none.
    lines_weight : float
        Weight of that loss beside the other.
    class_weight : float, "balanced" or None
        Weight of fracture pixels in the cross-entropy, that of others being 1; "balanced" gives fractures as much
        weight together as all else, 50 at most. The paper has none.
    schedule : {"constant", "cosine"}
        Course of the learning rate: constant as in the paper, or warmed up and then lowered to nothing.

    Raises
    ------
    InputError
        If a value makes no sense.

    Examples
    --------
    >>> import lunarray as la
    >>> la.fractures.TrainSettings(epochs=5, class_weight="balanced").epochs
    5
    """

    learning_rate: float = 1e-4
    batch_size: int = 32
    loss: Loss = "bce"
    lines: Lines | None = None
    lines_weight: float = 0.5
    class_weight: float | Literal["balanced"] | None = None
    schedule: Schedule = "constant"

    def faults(self) -> list[str]:
        """Names of fields whose value makes no sense.

        Returns
        -------
        list of str
        """
        weight = self.class_weight
        good = {
            "loss": self.loss in get_args(Loss),
            "lines": self.lines in (None, *get_args(Lines)),
            "lines_weight": isinstance(self.lines_weight, int | float)
            and 0 <= self.lines_weight < float("inf"),
            "schedule": self.schedule in get_args(Schedule),
            "class_weight": weight in (None, "balanced")
            or (isinstance(weight, int | float) and weight > 0),
        }
        return super().faults() + [name for name, fine in good.items() if not fine]
