"""The shape of a super-resolution network, and what goes in and comes out: plain values, which need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

#: Mare or highland, latitude and longitude: inputs besides the surface features.
EXTRA_INPUTS = 3
#: Edge features: weight of the edge, and distance of its ends as a share of the sub-region's width.
EDGE_FEATURES = 2


@dataclass(frozen=True)
class Architecture:
    """Shape of a network.

    With mare class, latitude and longitude the inputs are three more than the surface `features` of a node (303 in the
    paper); the `outputs` are elements. Attention layers have so many `heads` of `hidden` channels each, convolutions
    `channels` (3,) and an odd side, the `kernel`. Between them is a max pooling of 2 × 2 with the `pool_stride` 1,
    which keeps one cell a node, or 2, which halves the image twice, so that several nodes share a cell. The `fusion`
    layer is so wide, with `dropout` on its inputs in training. A `skip` is a linear path from the inputs to the
    elements beside the network (not in the paper; it begins at zero). Two numbers of `hidden` channels are those of the
    first and the second layer of attention, whose `activation` follows each.
    """

    features: int = 300
    outputs: int = 8
    hidden: int | tuple[int, int] = 32
    heads: int = 2
    channels: tuple[int, int, int] = (32, 32, 32)
    kernel: int = 3
    pool_stride: Literal[1, 2] = 1
    fusion: int = 64
    dropout: float = 0.1
    skip: bool = False
    activation: Literal["elu", "relu"] = "elu"

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of a head in each layer of attention."""
        return self.hidden if isinstance(self.hidden, tuple) else (self.hidden, self.hidden)


@dataclass(frozen=True)
class Scaling:
    """What turns stored values into a network's inputs, and its outputs into wt%; float32 arrays.

    `feature_mean` and `feature_std` (feature,) are of the region's surface features, `lat` and `lon` its centre and
    half its extent, degrees; `mean` and `std` (element,) are of the abundances, wt%. `trend` (features + 3, element)
    are the slopes, wt% per unit of input, of the linear part that the network adds to; zero without one.
    """

    feature_mean: np.ndarray
    feature_std: np.ndarray
    lat: tuple[float, float]
    lon: tuple[float, float]
    mean: np.ndarray
    std: np.ndarray
    trend: np.ndarray

    def inputs(
        self, features: np.ndarray, mare: np.ndarray, lat: np.ndarray, lon: np.ndarray
    ) -> np.ndarray:
        """Inputs of nodes, (node, feature + 3) float32, from features as stored (node, feature), classes and places.

        The class `mare` (0 unknown, 1 mare, 2 highland) is 0, 1 and -1 among the inputs. Longitudes are a run around
        the region's centre.
        """
        x = np.empty((len(features), features.shape[1] + EXTRA_INPUTS), np.float32)
        np.subtract(features, self.feature_mean, out=x[:, :-3])
        x[:, :-3] /= self.feature_std
        # A wild feature (a seam in the base map, a saturated pixel) must not throw a whole neighbourhood off.
        np.clip(x[:, :-3], -8, 8, out=x[:, :-3])
        x[:, -3] = np.choose(np.clip(mare, 0, 2).astype(np.intp), (0.0, 1.0, -1.0))
        x[:, -2] = (lat - self.lat[0]) / self.lat[1]
        x[:, -1] = (lon - self.lon[0]) / self.lon[1]
        return x

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays under names, as they are stored."""
        return {
            "feature_mean": self.feature_mean,
            "feature_std": self.feature_std,
            "place": np.array([*self.lat, *self.lon], np.float64),
            "mean": self.mean,
            "std": self.std,
            "trend": self.trend,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> Scaling:
        """Undo :meth:`tensors`."""
        a, b, c, d = (float(v) for v in tensors["place"])
        names = ("feature_mean", "feature_std", "mean", "std", "trend")
        return cls(lat=(a, b), lon=(c, d), **{n: tensors[n] for n in names})
