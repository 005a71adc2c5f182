"""How the networks of regions are trained: one value with everything that may be chosen."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from lunarray.engine import training
from lunarray.superres.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class TrainSettings(training.TrainSettings):
    """How a region is trained; by default as the paper states it, from points alone.

    The paper does not state learning rates, widths, steps or λ_reg.

    Attributes
    ----------
    size, stride : int
        Side of a sub-region and step to the next, pixels.
    k : int
        Neighbours of a node.
    alpha, beta : float or None
        Of the edge weight, as in :func:`lunarray.superres.neighbours`; None for its defaults.
    hidden, heads, channels, kernel, pool_stride, fusion, dropout, skip
        Shape of the network: :class:`lunarray.superres.architecture.Architecture`.
    epochs : int
        Times that all sub-regions are gone through in each phase.
    steps : tuple of 2 int
        Gradient steps at each visit of a sub-region, in each phase.
    learning_rate, lowest_learning_rate : float
        Ends of the cosine over both phases.
    weight_decay : float
        Decoupled weight decay.
    clip : float
        Largest norm of the gradient of a parameter.
    yogi : {"zaheer", "text"}
        Form of the optimiser: :class:`lunarray.superres.optim.Yogi`.
    scaled : bool
        Losses in units of each element's spread (w_j = 1/σ_j²); else in wt%, with w_j = 1.
    point, footprint : float
        Weights of the errors at populated pixels (the paper's masked_mse), and of the footprints' means
        (:func:`lunarray.superres.losses.footprint_mse`, not in the paper).
    regularisation : float
        λ_reg, of the logarithmic loss and in the second phase of the deviation from 100.
    feature_similarity, spatial_similarity, deviation : float
        Weights of these losses. The deviation counts only where all eight elements are there.
    feature_scale : float or None
        Scale of feature distances in the feature similarity; None for their median in each sub-region.
    trend : {"mean", "linear"}
        What the network adds to: the region's mean, or a ridge regression of what is known on the mean inputs there,
        fitted in closed form.
    diffusion : float
        Weight with which predictions at unknown pixels are carried to the sub-regions that overlap, as if known.
    members : int
        Networks, each of another seed, whose spread tells the uncertainty.
    seed : int
        Another number, other weights at the start.
    cache : int
        Bytes of graphs to keep; what does not fit is built again at each visit.
    """

    size: int = 100
    stride: int = 50
    k: int = 100
    alpha: float | None = None
    beta: float | None = None
    hidden: int = 32
    heads: int = 2
    channels: tuple[int, int, int] = (32, 32, 32)
    kernel: int = 3
    pool_stride: Literal[1, 2] = 1
    fusion: int = 64
    dropout: float = 0.0
    skip: bool = False
    epochs: int = 3
    steps: tuple[int, int] = (4, 4)
    learning_rate: float = 3e-3
    lowest_learning_rate: float = 1e-5
    clip: float = 1.0
    yogi: Literal["zaheer", "text"] = "zaheer"
    scaled: bool = False
    point: float = 1.0
    footprint: float = 0.0
    regularisation: float = 0.1
    feature_similarity: float = 1.0
    spatial_similarity: float = 1.0
    deviation: float = 1.0
    feature_scale: float | None = 1.0
    trend: Literal["mean", "linear"] = "mean"
    diffusion: float = 0.0
    members: int = 1
    cache: int = 2 << 30

    former: ClassVar = {
        "rate": "learning_rate", "lowest_rate": "lowest_learning_rate", "passes": "epochs",
    }  # fmt: skip
    without_effect: ClassVar = ("cache",)

    def faults(self) -> list[str]:
        """Names of fields whose value makes no sense."""
        positive = ("size", "stride", "k", "hidden", "heads", "fusion", "members")
        low = [name for name in positive if getattr(self, name) < 1]
        known = {"trend": ("mean", "linear"), "yogi": ("zaheer", "text"), "pool_stride": (1, 2)}
        odd = [name for name, choices in known.items() if getattr(self, name) not in choices]
        return [*super().faults(), *low, *odd]

    @classmethod
    def footprint_aware(cls, **changes: Any) -> TrainSettings:
        """Settings for training on the means over footprints, and on a linear trend.

        Fields are set otherwise by `changes`. They have the edge over the paper's on real tracks
        (``examples/superres_map.py``); on both simulated scenes that were tried the paper's, which are the default,
        gave better maps.
        """
        own: dict[str, Any] = {
            "scaled": True,
            "point": 0.0,
            "footprint": 1.0,
            "regularisation": 0.01,
            "feature_similarity": 0.1,
            "spatial_similarity": 0.1,
            "deviation": 0.01,
            "feature_scale": None,
            "trend": "linear",
            "dropout": 0.1,
            "weight_decay": 1e-2,
        }
        return cls(**(own | changes))

    def architecture(self, features: int, outputs: int) -> Architecture:
        """Shape of the network for so many surface features and elements."""
        own = {f.name: getattr(self, f.name) for f in fields(Architecture) if hasattr(self, f.name)}
        return Architecture(features, outputs, **own)
