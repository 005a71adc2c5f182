"""Graph attention on a fixed number of neighbours, without a tensor of edges times channels.

A layer for graphs of any kind, such as GATv2Conv of torch-geometric, gathers both ends of every edge: 10⁴ nodes with
100 edges and 64 channels are 256 MB for each of its half dozen intermediate tensors, all kept for the way back. Here
every node has the same number of neighbours, so one compiled pass over a node's edges does the whole of it, and the way
back makes the edges' terms again from what the nodes hold: the memory is one coefficient an edge and head.

The arithmetic is that of the layer (Brody et al. 2022, eq. 7, with edge features), as are the names of its weights and
what they begin with; a test holds all against each other, values and gradients. Where the compiled pass cannot run (a
GPU, another float type) torch's own operations do the same, block of nodes by block of nodes, each made again on the
way back.

References
----------
Brody, S., Alon, U., & Yahav, E. (2022). How attentive are graph attention networks? ICLR.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from lunarray.engine.compiling import njit
from lunarray.errors import needs

with needs("torch", "the network of element maps"):
    import torch
    import torch.nn.functional as F
    import torch.utils.checkpoint
    from torch import nn

#: Slope of the activation below zero.
SLOPE = 0.2

# Sums may be taken in vector order; NaN must stay NaN.
_MATH = {"reassoc", "contract", "nsz", "arcp"}


class _Layer(NamedTuple):
    """What one pass over the edges works on, float32 but for the neighbours."""

    slope: np.float32
    #: (head, node, channel) each: what a node sends, and what it asks.
    source: np.ndarray
    target: np.ndarray
    #: (node, k, 2) and (head, 2, channel).
    edge: np.ndarray
    edge_weight: np.ndarray
    #: (head, channel).
    att: np.ndarray
    #: (node, k), int32.
    near: np.ndarray


@njit(nogil=True, cache=True, fastmath=_MATH)
def _forward(layer, out, alpha):
    slope, source, target, edge, edge_weight, att, index = layer
    nodes, k = index.shape
    heads, channels = att.shape
    # Rows of their own: what the compiler knows not to overlap, it turns into vector operations.
    t, total = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for h in range(heads):
        a, w0, w1 = att[h], edge_weight[h, 0], edge_weight[h, 1]
        for i in range(nodes):
            t[:] = target[h, i]
            largest = np.float32(-np.inf)
            for e in range(k):
                x = source[h, index[i, e]]
                e0, e1 = edge[i, e, 0], edge[i, e, 1]
                z = np.float32(0)
                for c in range(channels):
                    s = x[c] + t[c] + e0 * w0[c] + e1 * w1[c]
                    z += a[c] * max(s, slope * s)
                alpha[h, i, e] = z
                largest = max(largest, z)
            norm = np.float32(0)
            for e in range(k):
                z = np.exp(alpha[h, i, e] - largest)
                alpha[h, i, e] = z
                norm += z
            norm = np.float32(1) / norm
            total[:] = 0
            for e in range(k):
                x = source[h, index[i, e]]
                z = alpha[h, i, e] * norm
                alpha[h, i, e] = z
                for c in range(channels):
                    total[c] += z * x[c]
            out[h, i] = total


@njit(nogil=True, cache=True, fastmath=_MATH)
def _backward(layer, alpha, grad, g_source, g_target, g_edge_weight, g_att):
    slope, source, target, edge, edge_weight, att, index = layer
    nodes, k = index.shape
    heads, channels = att.shape
    g_alpha = np.empty(k, np.float32)
    t, g = np.empty(channels, np.float32), np.empty(channels, np.float32)
    ga, gt = np.empty(channels, np.float32), np.empty(channels, np.float32)
    gw0, gw1 = np.empty(channels, np.float32), np.empty(channels, np.float32)
    gs, leaky = np.empty(channels, np.float32), np.empty(channels, np.float32)
    one = np.float32(1)
    for h in range(heads):
        a, w0, w1 = att[h], edge_weight[h, 0], edge_weight[h, 1]
        ga[:], gw0[:], gw1[:] = 0, 0, 0
        for i in range(nodes):
            t[:], g[:], gt[:] = target[h, i], grad[h, i], 0
            mean = np.float32(0)
            for e in range(k):
                x = source[h, index[i, e]]
                dot = np.float32(0)
                for c in range(channels):
                    dot += g[c] * x[c]
                g_alpha[e] = dot
                mean += dot * alpha[h, i, e]
            for e in range(k):
                j = index[i, e]
                x, gx = source[h, j], g_source[h, j]
                share = alpha[h, i, e]
                gz = share * (g_alpha[e] - mean)
                e0, e1 = edge[i, e, 0], edge[i, e, 1]
                for c in range(channels):
                    s = x[c] + t[c] + e0 * w0[c] + e1 * w1[c]
                    leaky[c] = gz * max(s, slope * s)
                    gs[c] = gz * a[c] * (one if s > 0 else slope)
                for c in range(channels):
                    gx[c] += gs[c] + share * g[c]
                for c in range(channels):
                    ga[c] += leaky[c]
                    gt[c] += gs[c]
                    gw0[c] += gs[c] * e0
                    gw1[c] += gs[c] * e1
            g_target[h, i] = gt
        g_att[h], g_edge_weight[h, 0], g_edge_weight[h, 1] = ga, gw0, gw1


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        source: torch.Tensor,
        target: torch.Tensor,
        edge: torch.Tensor,
        edge_weight: torch.Tensor,
        att: torch.Tensor,
        index: torch.Tensor,
    ) -> torch.Tensor:
        arrays = [
            t.detach().contiguous().numpy() for t in (source, target, edge, edge_weight, att, index)
        ]
        out = np.empty(arrays[1].shape, np.float32)
        alpha = np.empty((att.shape[0], *index.shape), np.float32)
        run: Any = _forward
        run(_Layer(np.float32(SLOPE), *arrays), out, alpha)
        ctx.save_for_backward(source, target, edge, edge_weight, att, index)
        ctx.alpha = alpha
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = [t.detach().contiguous().numpy() for t in ctx.saved_tensors]
        source, target, _, edge_weight, att, _ = saved
        gradients = [np.zeros(a.shape, np.float32) for a in (source, target, edge_weight, att)]
        run: Any = _backward
        grad = grads[0].detach().contiguous().numpy()
        run(_Layer(np.float32(SLOPE), *saved), ctx.alpha, grad, *gradients)
        g_source, g_target, g_edge_weight, g_att = map(torch.from_numpy, gradients)
        return g_source, g_target, None, g_edge_weight, g_att, None


class GATv2(nn.Module):
    """A layer of graph attention.

    Parameters
    ----------
    inputs, channels, heads, edges : int
        Inputs of a node, outputs of each head, heads, and features of an edge.
    """

    def __init__(self, inputs: int, channels: int, heads: int, edges: int) -> None:
        super().__init__()
        self.heads, self.channels = heads, channels
        outputs = heads * channels
        self.lin_l, self.lin_r = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)
        self.lin_edge = nn.Linear(edges, outputs, bias=False)
        self.att = nn.Parameter(torch.empty(1, heads, channels))
        self.bias = nn.Parameter(torch.zeros(outputs))
        with torch.no_grad():
            # Glorot's, drawn in the order of torch-geometric: a seed gives the same networks as it always has.
            for linear in (self.lin_l, self.lin_r, self.lin_edge):
                bound = math.sqrt(6 / (linear.in_features + outputs))
                linear.weight.uniform_(-bound, bound)
                if linear.bias is not None:
                    bound = 1 / math.sqrt(inputs)
                    linear.bias.uniform_(-bound, bound)
            bound = math.sqrt(6 / (heads + channels))
            self.att.uniform_(-bound, bound)

    def forward(self, x: torch.Tensor, index: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
        """Apply the layer, as :func:`attend` does."""
        return attend(self, x, index, edge)


def attend(
    layer: GATv2,
    x: torch.Tensor,
    index: torch.Tensor,
    edge: torch.Tensor,
    *,
    fused: bool | None = None,
    block: int = 2048,
) -> torch.Tensor:
    """Apply a layer to a graph in which each node has the same number of neighbours, (node, heads × channels).

    Nodes `x` (node, channel) take messages from their neighbours `index` (node, k) int32: a node is its own where they
    say so. No gradient flows into the edge features `edge` (node, k, 2). The compiled kernel, for float32 on the CPU
    and two edge features, is taken wherever it can run unless `fused` says; else torch's operations run over `block`
    nodes at a time.
    """
    able = x.device.type == "cpu" and x.dtype == torch.float32 and edge.shape[-1] == 2
    heads, channels = layer.heads, layer.channels
    source = layer.lin_l(x).view(-1, heads, channels)
    target = layer.lin_r(x).view(-1, heads, channels)
    weight, att = layer.lin_edge.weight, layer.att[0]
    if able if fused is None else fused:
        by_head = weight.view(heads, channels, -1).transpose(1, 2)
        out = _Attention.apply(
            source.transpose(0, 1), target.transpose(0, 1), edge, by_head, att, index
        ).transpose(0, 1)
    else:
        parts = [slice(start, start + block) for start in range(0, len(x), block)]
        out = torch.cat(
            [
                torch.utils.checkpoint.checkpoint(
                    _block, source, target[p], edge[p], weight, att, index[p], use_reentrant=False
                )
                for p in parts
            ]
        )  # fmt: skip
    return out.reshape(len(x), -1) + layer.bias


def _block(
    source: torch.Tensor,
    target: torch.Tensor,
    edge: torch.Tensor,
    weight: torch.Tensor,
    att: torch.Tensor,
    index: torch.Tensor,
) -> torch.Tensor:
    """Some nodes of a layer, (node, head, channel): source is of all nodes, target, edge and index are theirs."""
    near = source[index.long()]
    along = (edge @ weight.T).view(*index.shape, *source.shape[1:])
    z = (F.leaky_relu(near + target[:, None] + along, SLOPE) * att).sum(dim=-1)
    return (torch.softmax(z, dim=1)[..., None] * near).sum(dim=1)


@njit(nogil=True, cache=True, fastmath=_MATH)
def _edge_lengths(values, index, out):
    for i in range(index.shape[0]):
        for e in range(index.shape[1]):
            j = index[i, e]
            total = np.float32(0)
            for c in range(values.shape[1]):
                d = values[j, c] - values[i, c]
                total += d * d
            out[i, e] = np.sqrt(total)


def edge_lengths(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Euclidean distance between the ends of each edge, (node, k) float32, of `values` (node, dimension)."""
    out = np.empty(index.shape, np.float32)
    _edge_lengths(np.ascontiguousarray(values, np.float32), index, out)
    return out
