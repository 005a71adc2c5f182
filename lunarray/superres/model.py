"""The network of super-resolution: graph attention and convolutions over the same nodes, fused.

Pure torch: arrays in, arrays out. Two layers of graph attention (GATv2) with edge features see nodes that are alike
wherever they lie; three convolutions with max pooling see the same nodes as an image, where the paper's index equations
put them. Both embeddings are concatenated, fused and mapped to elements.

References
----------
The paper, section IV.B.3 and fig. 9. Brody et al. (2022), How attentive are graph attention networks?, ICLR.
"""

from __future__ import annotations

import numpy as np

from lunarray.errors import InputError, needs
from lunarray.superres.architecture import EDGE_FEATURES, EXTRA_INPUTS, Architecture
from lunarray.superres.attention import GATv2

with needs("torch", "the network of element maps"):
    import torch
    import torch.nn.functional as F
    from torch import nn


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
        inputs, (first, second) = a.features + EXTRA_INPUTS, a.widths
        width = second * a.heads
        self.attention = nn.ModuleList(
            GATv2(n, m, a.heads, EDGE_FEATURES)
            for n, m in ((inputs, first), (first * a.heads, second))
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
        activate = F.elu if self.architecture.activation == "elu" else F.relu
        h = activate(self.attention[0](x, index, edge))
        h = activate(self.attention[1](h, index, edge))
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
