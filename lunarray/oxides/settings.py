"""How oxide models are trained: the settings, which need neither torch nor Numba."""

from __future__ import annotations

from dataclasses import dataclass

from lunarray.engine.training import TrainSettings as _Base


@dataclass(frozen=True, kw_only=True)
class TrainSettings(_Base):
    """How :func:`lunarray.oxides.train` trains; the defaults are those of Bian et al. (2025), section 2.4 and table 2.

    Training is full batch, with Adam at a constant rate, on the mean square error of standardised oxides.

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
    seed : int
        Of the weights to begin with, and of the samples' dealing to folds.
    """

    weight_decay: float = 1e-4
    n: int = 32
    joint: bool = True

    def faults(self) -> list[str]:
        """Names of fields whose value makes no sense."""
        return [*super().faults(), *([] if self.n >= 1 else ["n"])]


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
    seed : int
        Of the weights, the order of the spectra, and the augmentation.
    """

    weight_decay: float = 1e-4
    n: int = 32
    batch_size: int | None = None
    schedule: str = "constant"

    def faults(self) -> list[str]:
        """Names of fields whose value makes no sense."""
        good = {"n": self.n >= 1, "schedule": self.schedule in ("constant", "one-cycle")}
        return [*super().faults(), *(name for name, fine in good.items() if not fine)]
