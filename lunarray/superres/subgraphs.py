"""Graphs of the overlapping sub-regions of a region, as the networks take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lunarray.errors import needs
from lunarray.geo import unit_vectors
from lunarray.superres import losses
from lunarray.superres.architecture import EXTRA_INPUTS, Scaling
from lunarray.superres.attention import edge_lengths
from lunarray.superres.devices import full_precision
from lunarray.superres.graph import neighbours
from lunarray.superres.grid import starts
from lunarray.superres.model import HybridModel, grid_index
from lunarray.superres.regions import RegionData
from lunarray.superres.settings import TrainSettings

with needs("torch", "the network of element maps"):
    import torch


def input_planes(data: RegionData, scaling: Scaling) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of all pixels (row, column, input), and which pixels have features."""
    count, rows, columns = data.features.shape
    flat = data.features.reshape(count, -1).T
    valid = np.isfinite(flat).all(axis=1)
    lat = np.repeat(data.lat, columns)
    lon = np.tile(data.lon, rows)
    x = scaling.inputs(
        np.where(valid[:, None], flat, scaling.feature_mean), data.mare.ravel(), lat, lon
    )
    return x.reshape(rows, columns, -1), valid.reshape(rows, columns)


@dataclass
class SubGraph:
    """Nodes of a sub-region, their neighbours and their places in the image.

    `rows` and `columns` (node,) are the nodes' pixels in the arrays that the sub-region was cut from, `row` and
    `column` their cells in the image, which has that `shape`. `index` (node, k + 1) int32 are the neighbours, and last
    the node itself; `edge` (node, k + 1, 2) their weight, and distance as a share of the sub-region's diagonal. The
    weights of the similarity losses are (node, k), or None.
    """

    rows: np.ndarray
    columns: np.ndarray
    index: torch.Tensor
    edge: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    shape: tuple[int, int]
    feature_weight: torch.Tensor | None = None
    spatial_weight: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        tensors = (self.index, self.edge, self.feature_weight, self.spatial_weight)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def subgraph(
    x: np.ndarray,
    lat: np.ndarray,
    lon: np.ndarray,
    valid: np.ndarray,
    settings: TrainSettings,
    *,
    similarities: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
) -> SubGraph | None:
    """Build the graph of a sub-region; None with fewer than two nodes.

    `x` (row, column, input) float32 are the inputs of all pixels, which lie at `lat` (row,) and `lon` (column,),
    degrees without a jump; those that are `valid` (row, column) are the nodes. The weights of the similarity losses are
    made where `similarities` are asked for. Neighbours are sought on the `device`, and the graph lies there.
    """
    rows, columns = np.nonzero(valid)
    if len(rows) < 2:
        return None
    node_lat, node_lon = lat[rows], lon[columns]
    features = np.ascontiguousarray(x[rows, columns, :-EXTRA_INPUTS])
    scales = {
        n: getattr(settings, n) for n in ("alpha", "beta") if getattr(settings, n) is not None
    }
    k = min(settings.k, len(rows) - 1)
    if settings.edges == "published":
        near, weight = published_neighbours(node_lat, node_lon, features, x[rows, columns, -3], k)
    else:
        near, weight = neighbours(node_lat, node_lon, features, k, device=device, **scales)
    near = np.ascontiguousarray(near, np.int32)
    # Places on the sphere in units of its radius: chords are distances at this scale.
    places = unit_vectors(node_lon, node_lat)
    places -= places.mean(axis=0)
    diagonal = 2 * np.linalg.norm(places, axis=1).max()
    distance = edge_lengths(places, near) / np.float32(diagonal)
    itself = np.arange(len(near), dtype=np.int32)[:, None]
    edge = np.zeros((*near.shape, 2), np.float32)
    edge[..., 0] = np.asarray(weight, np.float32)
    if settings.edges != "published":
        edge[..., 1] = distance
    # A node is its own nearest neighbour: weight 1 at distance 0.
    own = np.broadcast_to(np.array([1.0, 0.0], np.float32), (len(near), 1, 2))
    # The index equations see the pixels of the whole sub-region, so that a missing corner shifts nothing.
    row_of, _ = grid_index(lat, np.zeros(len(lat)), (len(lat), 1))
    _, column_of = grid_index(np.zeros(len(lon)), lon, (1, len(lon)))

    def there(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    graph = SubGraph(
        rows,
        columns,
        there(np.concatenate([near, itself], axis=1)),
        there(np.concatenate([edge, own], axis=1)),
        there(row_of[rows]),
        there(column_of[columns]),
        (len(lat), len(lon)),
    )
    if similarities:
        lengths = edge_lengths(features, near)
        scale = settings.feature_scale
        scale = max(float(np.median(lengths)), 1e-6) if scale is None else scale
        graph.feature_weight = there(np.exp(-lengths / np.float32(scale)))
        location = np.column_stack([node_lat, node_lon]).astype(np.float32)
        graph.spatial_weight = losses.spatial_weights(there(location), there(near))
    return graph


def published_neighbours(
    lat: np.ndarray, lon: np.ndarray, features: np.ndarray, mare: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` neighbours of each node with the largest exp(−d − 1.2 f − [mare differs]), and these weights.

    d is the distance of places and f that of features, each over the largest of the sub-region, and not squared. Both
    results are (node, k).
    """
    places = unit_vectors(lon, lat)
    places = (places - places.mean(axis=0)).astype(np.float32)
    count = len(lat)
    blocks = [slice(start, start + 512) for start in range(0, count, 512)]

    def apart(values: np.ndarray, block: slice) -> np.ndarray:
        square = np.sum(values**2, axis=1)
        gap = square[block, None] + square - 2 * values[block] @ values.T
        return np.sqrt(np.maximum(gap, 0))

    far = max(max(float(apart(places, b).max()) for b in blocks), 1e-12)
    unlike = max(max(float(apart(features, b).max()) for b in blocks), 1e-12)
    near, weight = np.empty((count, k), np.int32), np.empty((count, k), np.float32)
    for block in blocks:
        cost = apart(places, block) / far + 1.2 * apart(features, block) / unlike
        cost += mare[block, None] != mare
        rows = np.arange(len(cost))
        cost[rows, rows + block.start] = np.inf
        order = np.argpartition(cost, k - 1, axis=1)[:, :k]
        own = np.take_along_axis(cost, order, axis=1)
        order = np.take_along_axis(order, np.argsort(own, axis=1, kind="stable"), axis=1)
        near[block] = order
        weight[block] = np.exp(-np.take_along_axis(cost, order, axis=1))
    return near, weight


class GraphCache:
    """Graphs of sub-regions, kept as far as memory allows, for trainings and predictions of the same features.

    `limit` is in bytes of the memory of the device that the graphs are on.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._graphs: dict[tuple[str, int, int], SubGraph | None] = {}

    def get(
        self,
        at: tuple[str, int, int],
        build: Callable[[], SubGraph | None],
        *,
        similarities: bool = False,
    ) -> SubGraph | None:
        """Give a graph by its device and the sub-region's first row and column, building it where it is not held.

        Where the weights of the `similarities` are needed, a graph without them will not do.
        """
        if at in self._graphs:
            held = self._graphs[at]
            if held is None or not similarities or held.feature_weight is not None:
                return held
            self.held -= held.nbytes
            del self._graphs[at]
        graph = build()
        size = 0 if graph is None else graph.nbytes
        if self.held + size <= self.limit:
            self._graphs[at] = graph
            self.held += size
        return graph


class RegionGraphs:
    """Inputs and graphs of a region's sub-regions on a device, and what networks make of them.

    Graphs of the same features and graph settings may come from a `cache`.
    """

    def __init__(
        self,
        data: RegionData,
        scaling: Scaling,
        settings: TrainSettings,
        cache: GraphCache | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        self.data, self.settings, self.device = data, settings, device
        self.similarities = settings.feature_similarity > 0 or settings.spatial_similarity > 0
        self.cache = GraphCache(settings.cache) if cache is None else cache
        self.x, self.valid = input_planes(data, scaling)
        self.scales = [torch.from_numpy(getattr(scaling, n)).to(device) for n in ("mean", "std", "trend")]  # fmt: skip
        size, stride = settings.size, settings.stride
        self.windows = [
            (slice(r, r + size), slice(c, c + size))
            for r in starts(len(data.lat), size, stride)
            for c in starts(len(data.lon), size, stride)
        ]

    def __getitem__(self, number: int) -> SubGraph | None:
        rows, columns = self.windows[number]
        return self.cache.get(
            (self.device, rows.start, columns.start),
            lambda: self._build(rows, columns),
            similarities=self.similarities,
        )

    def _build(self, rows: slice, columns: slice) -> SubGraph | None:
        graph = subgraph(
            self.x[rows, columns],
            self.data.lat[rows],
            self.data.lon[columns],
            self.valid[rows, columns],
            self.settings,
            similarities=self.similarities,
            device=self.device,
        )
        if graph is not None:
            graph.rows = graph.rows + rows.start
            graph.columns = graph.columns + columns.start
        return graph

    def inputs(self, graph: SubGraph) -> torch.Tensor:
        """Inputs of a graph's nodes, (node, input)."""
        return torch.from_numpy(self.x[graph.rows, graph.columns]).to(self.device)

    def predict(self, model: HybridModel, graph: SubGraph, x: torch.Tensor) -> torch.Tensor:
        """Abundances of a graph's nodes by a network, (node, element), wt%."""
        mean, std, trend = self.scales
        with full_precision(self.device):
            scaled = model(x, graph.index, graph.edge, graph.row, graph.column, graph.shape)
        values = mean + x @ trend + std * scaled
        return torch.relu(values) if self.settings.positive else values
