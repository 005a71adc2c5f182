"""The five losses of super-resolution, and one that knows what a footprint sees.

Each takes plain tensors and gives a scalar; they are written so that a reader can lay them beside the paper. What is
`predicted` and `known` is (node, element) in wt%, and `mask` (node,) tells where every element is known: `known` may be
anything elsewhere, NaN too. `weights` (element,) multiply squared errors; 1/σ² of the elements puts a loss in units of
their spread. Edges are given as the neighbours of each node, `index` (node, k): edge (s, t) runs from node s to
``index[s, ·]``, and |E| is node × k.

References
----------
The paper, section IV.B.3: the losses named masked_mse, log, feature_sim, spatial_sim and deviation.
"""

from __future__ import annotations

from lunarray.errors import needs

with needs("torch", "training on element maps"):
    import torch


#: Of the logarithmic and the spatial loss, for numerical stability.
EPSILON = 1e-6


def masked_mse(
    predicted: torch.Tensor, known: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Weighted squared error over the nodes that are known (L_masked_mse); 0 where none is."""
    error = predicted[mask] - known[mask]
    return (weights * error**2).sum() / max(int(mask.sum()), 1)


def masked_log(
    predicted: torch.Tensor,
    known: torch.Tensor,
    mask: torch.Tensor,
    weights: torch.Tensor,
    epsilon: float = EPSILON,
) -> torch.Tensor:
    """The same of logarithms (L_log), for elements of which there is little.

    Predictions below zero count as zero: they have no logarithm. `epsilon` is added to abundances (wt%).
    """
    ratio = torch.log(predicted[mask].clamp_min(0) + epsilon) - torch.log(
        known[mask].clamp_min(0) + epsilon
    )
    return (weights * ratio**2).sum() / max(int(mask.sum()), 1)


def spatial_weights(
    location: torch.Tensor, index: torch.Tensor, epsilon: float = EPSILON
) -> torch.Tensor:
    """Weights exp(-(d − d_min) / (d_max − d_min + ε)) of edges, (node, k), d the distance of their ends.

    The coordinates `location` (node, 2) may be in any unit. The paper calls d_min and d_max the extremes of the
    pairwise distances; they are taken over the pairs that edges join, those that the sum runs over, but not over edges
    of a node to itself.
    """
    difference = location[index.long()] - location[:, None]
    distance = torch.linalg.vector_norm(difference, dim=-1)
    others = distance[index != torch.arange(len(index), device=index.device)[:, None]]
    if not len(others):
        return torch.ones_like(distance)
    low, high = others.min(), others.max()
    return torch.exp(-(distance - low) / (high - low + epsilon))


def similarity(predicted: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Predictions at both ends of an edge should agree, as its weight (node, k) says (L_feature_sim, L_spatial_sim)."""
    difference = predicted[index.long()] - predicted[:, None]
    return (weight * difference.square().sum(-1)).mean()


def deviation(predicted: torch.Tensor, total: float = 100.0) -> torch.Tensor:
    """Mean absolute deviation of the sum of all elements from 100 wt% (L_deviation)."""
    return (predicted.sum(-1) - total).abs().mean()


def footprint_means(
    predicted: torch.Tensor,
    pixel: torch.Tensor,
    footprint: torch.Tensor,
    share: torch.Tensor,
    count: int,
) -> torch.Tensor:
    """Means over footprints, (footprint, element), as an instrument sees them.

    Each entry is a node `pixel`, the `footprint` that covers it and its `share` of that; shares of one sum to 1.
    """
    seen = predicted.new_zeros((count, predicted.shape[1]))
    return seen.index_add(0, footprint, share[:, None] * predicted[pixel])


def footprint_mse(
    predicted: torch.Tensor,
    pixel: torch.Tensor,
    footprint: torch.Tensor,
    share: torch.Tensor,
    measured: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Squared error of the mean over each footprint: what the instrument measured is that mean, not a point.

    Not in the paper, which takes the cells' centres for points. Both `measured` (wt%, NaN where an element was not) and
    `weights` are (footprint, element).
    """
    seen = footprint_means(predicted, pixel, footprint, share, len(measured))
    there = torch.isfinite(measured)
    error = torch.where(there, seen - torch.nan_to_num(measured), 0)
    return (torch.where(there, weights, 0) * error**2).sum() / max(int(there.sum()), 1)
