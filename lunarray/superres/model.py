"""The network of super-resolution: graph attention and convolutions over the same nodes, fused.

Pure torch: arrays in, arrays out. Two layers of graph attention (GATv2) with edge features see nodes that are alike
wherever they lie; three convolutions with max pooling see the same nodes as an image, where the paper's index equations
put them. Both embeddings are concatenated, fused and mapped to elements.

References
----------
The paper, section IV.B.3 and fig. 9. Brody et al. (2022), How attentive are graph attention networks?, ICLR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lunarray.errors import InputError, needs
from lunarray.superres.attention import GATv2

with needs("torch", "the network of element maps"):
    import torch
    import torch.nn.functional as F
    from torch import nn

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
    elements beside the network (not in the paper; it begins at zero).
    """

    features: int = 300
    outputs: int = 8
    hidden: int = 32
    heads: int = 2
    channels: tuple[int, int, int] = (32, 32, 32)
    kernel: int = 3
    pool_stride: Literal[1, 2] = 1
    fusion: int = 64
    dropout: float = 0.1
    skip: bool = False


def grid_index(
    lat: np.ndarray, lon: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Cell of an image in which each node lies, by the paper's index equations (section IV.B.3, lat_index and
    lon_index).

    `lat` and `lon` (node,) are in degrees, and longitudes must not jump within the sub-region; `shape` are n_grid of
    the paper along each dimension. Row 0 is at the highest latitude, column 0 at the lowest longitude. On a grid the
    quotient is a whole number but for rounding, which the floor of the equations would turn into an index one too low:
    it is taken after adding 10⁻⁶.
    """
    lat, lon = np.asarray(lat, np.float64), np.asarray(lon, np.float64)

    def place(value: np.ndarray, first: float, last: float, count: int) -> np.ndarray:
        if first == last:
            return np.zeros(value.shape, np.int64)
        return np.floor((value - first) / (last - first) * (count - 1) + 1e-6).astype(np.int64)

    if not lat.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows = place(lat, lat.max(), lat.min(), shape[0])
    return rows, place(lon, lon.min(), lon.max(), shape[1])


class HybridModel(nn.Module):
    """Two graph attention layers and three convolutions over the same nodes, fused.

    Parameters
    ----------
    architecture : Architecture
        Shape of the network.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        if a.kernel % 2 != 1:
            raise InputError(
                f"kernel {a.kernel} is even", where="Architecture", remedy="Take an odd one"
            )
        inputs, width = a.features + EXTRA_INPUTS, a.hidden * a.heads
        self.attention = nn.ModuleList(
            GATv2(n, a.hidden, a.heads, EDGE_FEATURES) for n in (inputs, width)
        )
        self.convolutions = nn.ModuleList(
            nn.Conv2d(n, m, a.kernel, padding=a.kernel // 2, padding_mode="replicate")
            for n, m in zip((inputs, *a.channels[:2]), a.channels, strict=True)
        )
        self.fusion = nn.Linear(width + a.channels[2], a.fusion)
        self.output = nn.Linear(a.fusion, a.outputs)
        self.skip = nn.Linear(inputs, a.outputs) if a.skip else None
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)
            nn.init.zeros_(self.skip.bias)

    def forward(
        self,
        x: torch.Tensor,
        index: torch.Tensor,
        edge: torch.Tensor,
        row: torch.Tensor,
        column: torch.Tensor,
        shape: tuple[int, int],
    ) -> torch.Tensor:
        """Give the standardised abundances of all nodes of a sub-region, (node, outputs).

        `x` (node, features + 3) are surface features, mare class, latitude and longitude, each of the order of one;
        `index` (node, k) int32 the neighbours, the node itself among them; `edge` (node, k, 2) their features; `row`
        and `column` the nodes' cells by :func:`grid_index` in an image of that `shape`. Cells without a node hold
        zeros.
        """
        h = F.elu(self.attention[0](x, index, edge))
        h = F.elu(self.attention[1](h, index, edge))
        image = x.new_zeros((shape[0] * shape[1], x.shape[1]))
        image = image.index_put((row * shape[1] + column,), x)
        grid = image.T.reshape(1, -1, *shape)
        stride = self.architecture.pool_stride
        for number, convolution in enumerate(self.convolutions):
            grid = F.relu(convolution(grid))
            if number < 2:
                if stride == 1:  # one cell a node: the pooling window reaches one cell on
                    grid = F.max_pool2d(F.pad(grid, (0, 1, 0, 1), mode="replicate"), 2, 1)
                else:
                    grid = F.max_pool2d(grid, 2, 2, ceil_mode=True)
        step = stride**2
        cells = grid[0][:, row // step, column // step].T
        fused = torch.cat([h, cells], dim=1)
        fused = F.dropout(fused, self.architecture.dropout, self.training)
        result = self.output(F.relu(self.fusion(fused)))
        return result if self.skip is None else result + self.skip(x)


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
