"""How oxide models are trained: the settings, which need neither torch nor Numba."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from lunarray.engine.training import TrainSettings as _Base

#: Folds whose networks make the ensemble.
MEMBERS = 8


@dataclass(frozen=True, kw_only=True)
class TrainSettings(_Base):
    """How :func:`lunarray.oxides.train` trains.

    Training is full batch, with Adam at a constant rate, on the mean square error of standardised oxides. Width,
    epochs, rate and decay are those of Bian et al. (2025), section 2.4 and table 2; :meth:`paper` has all of their
    procedure. By default one network gives all oxides, which takes a sixth of the time, and it is polished, because the
    plain average of networks that full-batch Adam has led apart is worse than any of them.

    Attributes
    ----------
    n : int
        Channels of the first convolutional block.
    epochs : int
        Passes over the samples, each of which is one step.
    learning_rate : float
        Adam's.
    weight_decay : float
        Adam's L2 penalty.
    joint : bool
        One network for all oxides; otherwise one for each.
    folds : int, "leave-one-out" or None
        Folds that are left out in turn where the call says nothing of them.
    polish_epochs : int or None
        Epochs at a tenth of the rate that follow: of each fold, before it predicts what it left out, and of the average
        on all samples. Half of the epochs by default; 0 is the paper's procedure.
    members : int
        Folds whose networks make the ensemble behind ``invert_oxides(uncertainty=True)``; 0 or 1 for none.
    seed : int
        Of the weights to begin with, and of the samples' dealing to folds.

    Examples
    --------
    >>> import lunarray as la
    >>> la.oxides.TrainSettings(epochs=50, learning_rate=2e-3).epochs
    50
    """

    weight_decay: float = 1e-4
    n: int = 32
    joint: bool = True
    folds: int | Literal["leave-one-out"] | None = None
    polish_epochs: int | None = None
    members: int = MEMBERS

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """Settings of Bian et al. (2025), to the letter, with fields to set otherwise.

        A network for each oxide (figure 3 and section 4.2: "the 1D-CNN models established for each of the six major
        oxides"), each sample left out in turn, and the plain average of the weights of all of these networks as the
        final model: no polish.
        """
        return cls(**{"joint": False, "folds": "leave-one-out", "polish_epochs": 0, **changes})

    def faults(self) -> list[str]:
        """Names of fields whose value makes no sense."""
        good = {
            "n": self.n >= 1,
            "folds": self.folds in (None, "leave-one-out")
            or (isinstance(self.folds, int) and self.folds >= 2),
            "polish_epochs": self.polish_epochs is None or self.polish_epochs >= 0,
            "members": self.members >= 0,
        }
        return [*super().faults(), *(name for name, fine in good.items() if not fine)]


@dataclass(frozen=True, kw_only=True)
class MinibatchSettings(_Base):
    """How :func:`lunarray.oxides.minibatch.train_network` trains: in batches, with inputs drawn anew each epoch.

    Attributes
    ----------
    n : int
        Channels of the first convolutional block.
    epochs : int
        Passes over the training set.
    learning_rate : float
        Adam's; the peak where `schedule` is "one-cycle".
    weight_decay : float
        Adam's L2 penalty.
    batch_size : int or None
        Spectra per step; None for all at once.
    schedule : {"constant", "one-cycle"}
        Course of the learning rate.
    precision : {"float32", "bfloat16"}
        Of the products in the network; weights and sums are float32 always. Half the time where the processor has
        instructions for it, and longer where it has not.
    seed : int
        Of the weights, the order of the spectra, and the augmentation.
    """

    weight_decay: float = 1e-4
    n: int = 32
    batch_size: int | None = None
    schedule: str = "constant"
    precision: str = "float32"

    def faults(self) -> list[str]:
        """Names of fields whose value makes no sense."""
        good = {
            "n": self.n >= 1,
            "schedule": self.schedule in ("constant", "one-cycle"),
            "precision": self.precision in ("float32", "bfloat16"),
        }
        return [*super().faults(), *(name for name, fine in good.items() if not fine)]
