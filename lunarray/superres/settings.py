"""How the networks of regions are trained: one value with everything that may be chosen."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np

from lunarray.engine import training
from lunarray.superres.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class TrainSettings(training.TrainSettings):
    """How a region is trained; by default with the paper's losses, from points alone.

    The paper does not state learning rates, widths, steps or λ_reg; its program does (:meth:`published`).

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
    carried : float
        Share of the newest prediction in what is carried, the rest is what was carried before.
    held_out : float
        Share of the footprints, in whole tracks, that are not trained on: after each half of a pass they are predicted,
        and the networks are those that did so best. 0 for none, as where a region has fewer than five tracks.
    patience : int
        Checks in a row that may be no better than the best before a training stops.
    positive : bool
        Cut predictions off at zero in training too.
    edges : {"squared", "published"}
        Weight of edges: of :func:`lunarray.superres.neighbours`, or that of the published program, which knows of mare
        and highland and is the edges' only feature.
    clipping : {"each", "all"}
        Whether `clip` holds for the gradient of each parameter or for all together.
    element_weights : {"alike", "published"}
        Weights of the elements' errors: one, or those of the published program.
    order : {"phases", "visits"}
        All passes in one phase and then in the other, or both phases at each visit.
    later_learning_rate : float or None
        Highest learning rate of all passes but the first, each of which then has a cosine of its own.
    later_steps : tuple of 2 int or None
        Gradient steps at each visit in all passes but the first.
    activation : {"elu", "relu"}
        Of the layers of attention.
    members : int
        Networks, each of another seed, whose spread tells the uncertainty.
    seed : int
        Another number, other weights at the start.
    cache : int
        Bytes of graphs to keep; what does not fit is built again at each visit.

    Examples
    --------
    >>> import lunarray as la
    >>> la.superres.TrainSettings(epochs=2, k=20).k
    20
    """

    size: int = 100
    stride: int = 50
    k: int = 100
    alpha: float | None = None
    beta: float | None = None
    hidden: int | tuple[int, int] = 32
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
    diffusion: float = 1.0
    carried: float = 0.75
    held_out: float = 0.2
    patience: int = 4
    positive: bool = False
    edges: Literal["squared", "published"] = "squared"
    clipping: Literal["each", "all"] = "each"
    element_weights: Literal["alike", "published"] = "alike"
    order: Literal["phases", "visits"] = "phases"
    later_learning_rate: float | None = None
    later_steps: tuple[int, int] | None = None
    activation: Literal["elu", "relu"] = "elu"
    members: int = 1
    cache: int = 2 << 30

    former: ClassVar = {
        "rate": "learning_rate", "lowest_rate": "lowest_learning_rate", "passes": "epochs",
    }  # fmt: skip
    without_effect: ClassVar = ("cache",)

    def faults(self) -> list[str]:
        """Names of fields whose value makes no sense."""
        positive = ("size", "stride", "k", "hidden", "heads", "fusion", "members", "patience")
        low = [name for name in positive if min(np.atleast_1d(getattr(self, name))) < 1]
        low += [name for name in ("carried", "held_out") if not 0 <= getattr(self, name) <= 1]
        known = {
            "trend": ("mean", "linear"), "yogi": ("zaheer", "text"), "pool_stride": (1, 2),
            "edges": ("squared", "published"), "clipping": ("each", "all"), "order": ("phases", "visits"),
            "element_weights": ("alike", "published"), "activation": ("elu", "relu"),
        }  # fmt: skip
        odd = [name for name, choices in known.items() if getattr(self, name) not in choices]
        return [*super().faults(), *low, *odd]

    @classmethod
    def published(cls, **changes: Any) -> TrainSettings:
        """Settings of the program that was published with the paper, where it is not what the paper says.

        One head of 128 and then 36 channels, one feature an edge, pooling by two, 1050 steps at each visit of a
        sub-region in the first pass and 450 in the other two, no loss of the deviation from 100. A region of 342 × 682
        pixels takes 152 100 steps. It is trained to the end on all footprints, as there. Fields are set otherwise by
        `changes`.
        """
        own: dict[str, Any] = {
            "hidden": (128, 36),
            "heads": 1,
            "activation": "relu",
            "channels": (16, 32, 36),
            "pool_stride": 2,
            "fusion": 64,
            "positive": True,
            "edges": "published",
            "element_weights": "published",
            "learning_rate": 1e-3,
            "later_learning_rate": 5e-4,
            "lowest_learning_rate": 1e-4,
            "weight_decay": 1e-3,
            "clipping": "all",
            "epochs": 3,
            "order": "visits",
            "steps": (525, 525),
            "later_steps": (225, 225),
            "deviation": 0.0,
            "held_out": 0.0,
        }
        return cls(**(own | changes))

    def step_count(self, windows: int) -> int:
        """Gradient steps of one network on so many sub-regions, where nothing stops it early."""
        later = self.steps if self.later_steps is None else self.later_steps
        return windows * (sum(self.steps) + (self.epochs - 1) * sum(later))

    @classmethod
    def footprint_aware(cls, **changes: Any) -> TrainSettings:
        """Settings for training on the means over footprints, and on a linear trend.

        Fields are set otherwise by `changes`. They have the edge over the paper's on real tracks
        (``examples/superres_map.py``); on both simulated scenes that were tried the paper's, which are the default,
        gave better maps.
        """
        own: dict[str, Any] = {
            "scaled": True,
            "diffusion": 0.0,
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
