"""The five losses of super-resolution, and one that knows what a footprint sees.

Each takes plain tensors and gives a scalar; they are written so that a reader can lay them beside the paper. Edges are
given as the neighbours of each node, `index` (node, k): edge (s, t) runs from node s to ``index[s, ·]``, and |E| is
node × k.

References
----------
The paper, section IV.B.3: the losses named masked_mse, log, feature_sim, spatial_sim and deviation.
"""

from __future__ import annotations

import torch

#: Of the logarithmic and the spatial loss, for numerical stability.
EPSILON = 1e-6


def masked_mse(
    predicted: torch.Tensor, known: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Weighted masked mean squared error: over the nodes whose abundances are all known.

    Parameters
    ----------
    predicted, known : tensor, (node, element)
        wt%; `known` may be anything where `mask` is False, NaN too.
    mask : tensor, (node,), bool
        Nodes of which every element is known.
    weights : tensor, (element,)
        Weight of each element; 1/σ² of the elements makes the loss one in units of their spread.

    Returns
    -------
    tensor
        Scalar; 0 where nothing is known.

    References
    ----------
    The paper, section IV.B.3, L_masked_mse.
    """
    error = predicted[mask] - known[mask]
    return (weights * error**2).sum() / max(int(mask.sum()), 1)


def masked_log(
    predicted: torch.Tensor,
    known: torch.Tensor,
    mask: torch.Tensor,
    weights: torch.Tensor,
    epsilon: float = EPSILON,
) -> torch.Tensor:
    """Weighted masked squared error of logarithms, for elements of which there is little.

    Parameters
    ----------
    predicted, known, mask, weights
        As in :func:`masked_mse`. Predictions below zero count as zero: they have no logarithm.
    epsilon : float
        Added to abundances (wt%).

    Returns
    -------
    tensor
        Scalar.

    References
    ----------
    The paper, section IV.B.3, L_log.
    """
    ratio = torch.log(predicted[mask].clamp_min(0) + epsilon) - torch.log(
        known[mask].clamp_min(0) + epsilon
    )
    return (weights * ratio**2).sum() / max(int(mask.sum()), 1)


def spatial_weights(
    location: torch.Tensor, index: torch.Tensor, epsilon: float = EPSILON
) -> torch.Tensor:
    """Weights exp(-(d − d_min) / (d_max − d_min + ε)) of edges, d the distance of their ends.

    Parameters
    ----------
    location : tensor, (node, 2)
        Coordinates, in any unit (the weights have none).
    index : tensor, (node, k)
        Neighbours; an edge of a node to itself is left out of d_min and d_max.
    epsilon : float
        Keeps the quotient finite where all distances are equal.

    Returns
    -------
    tensor, (node, k)

    Notes
    -----
    The paper calls d_min and d_max the extremes of the pairwise distances; taken here over the pairs that edges join,
    those that the sum runs over.
    """
    difference = location[index.long()] - location[:, None]
    distance = torch.linalg.vector_norm(difference, dim=-1)
    others = distance[index != torch.arange(len(index), device=index.device)[:, None]]
    if not len(others):
        return torch.ones_like(distance)
    low, high = others.min(), others.max()
    return torch.exp(-(distance - low) / (high - low + epsilon))


def similarity(predicted: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Feature or spatial similarity: predictions at both ends of an edge should agree, as its weight says.

    Parameters
    ----------
    predicted : tensor, (node, element)
        wt%, or in units of each element's spread.
    index : tensor, (node, k)
        Neighbours.
    weight : tensor, (node, k)
        Of :func:`spatial_weights`, or exp(−‖W_s − W_t‖) of the surface features.

    Returns
    -------
    tensor
        Scalar.

    References
    ----------
    The paper, section IV.B.3, L_feature_sim and L_spatial_sim.
    """
    difference = predicted[index.long()] - predicted[:, None]
    return (weight * difference.square().sum(-1)).mean()


def deviation(predicted: torch.Tensor, total: float = 100.0) -> torch.Tensor:
    """Mean absolute deviation of the sum of all elements from 100 wt%.

    Parameters
    ----------
    predicted : tensor, (node, element)
        wt%.
    total : float
        What they should sum to.

    Returns
    -------
    tensor
        Scalar.

    References
    ----------
    The paper, section IV.B.3, L_deviation.
    """
    return (predicted.sum(-1) - total).abs().mean()


def footprint_means(
    predicted: torch.Tensor,
    pixel: torch.Tensor,
    footprint: torch.Tensor,
    share: torch.Tensor,
    count: int,
) -> torch.Tensor:
    """Means over footprints, as an instrument sees them.

    Parameters
    ----------
    predicted, pixel, footprint, share
        As in :func:`footprint_mse`.
    count : int
        Footprints.

    Returns
    -------
    tensor, (footprint, element)
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

    Not in the paper, which takes the cells' centres for points.

    Parameters
    ----------
    predicted : tensor, (node, element)
        wt%.
    pixel, footprint : tensor, (entry,), int64
        Node, and footprint that covers it.
    share : tensor, (entry,)
        Share of the footprint; those of one footprint sum to 1.
    measured : tensor, (footprint, element)
        wt%; NaN where an element was not measured, which then does not count.
    weights : tensor, (footprint, element)
        Weight of each measurement, such as 1/σ² of its error.

    Returns
    -------
    tensor
        Mean over the measurements; 0 without any.
    """
    seen = footprint_means(predicted, pixel, footprint, share, len(measured))
    there = torch.isfinite(measured)
    error = torch.where(there, seen - torch.nan_to_num(measured), 0)
    return (torch.where(there, weights, 0) * error**2).sum() / max(int(there.sum()), 1)
