"""Training of the regions' networks: footprints and populated pixels in, weights out.

A region is trained on its overlapping sub-regions in sliding order, three times over, first with the errors at known
pixels alone, then with all losses. What is trained is a function of the region's content, the settings and the seed and
of nothing else: an interrupted training resumes to the same bits, and one region's result does not depend on which
others are trained, nor where.

References
----------
The paper, sections IV.B.3 and IV.C.2.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from lunarray.engine.weights import write_tensors
from lunarray.errors import InputError, ModelError, StoreConflictError
from lunarray.superres import losses
from lunarray.superres.attention import edge_lengths
from lunarray.superres.grid import starts
from lunarray.superres.model import (
    EXTRA_INPUTS,
    Architecture,
    HybridModel,
    Scaling,
    grid_index,
    unscale,
)
from lunarray.superres.optim import Yogi, clip_each, cosine_rate
from lunarray.superres.support import Support, support_of

if TYPE_CHECKING:
    import xarray as xr

#: Elements that together make a soil: with all of them there, predictions should sum to 100 wt%.
_WHOLE = frozenset({"Fe", "Ti", "Ca", "Si", "Al", "Mg", "Na", "O"})
_FORMAT_VERSION = 1
_ARCHITECTURE = "lunarray.superres.HybridModel"

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainSettings:
    """How a region is trained.

    Attributes
    ----------
    size, stride : int
        Side of a sub-region and step to the next, pixels.
    k : int
        Neighbours of a node.
    alpha, beta : float or None
        Of the edge weight, as in :func:`lunarray.superres.neighbours`; None for its defaults.
    hidden, heads, channels, kernel, pool_stride, fusion, dropout, skip
        Shape of the network: :class:`lunarray.superres.Architecture`.
    passes : int
        Times that all sub-regions are gone through in each phase.
    steps : tuple of 2 int
        Gradient steps at each visit of a sub-region, in each phase.
    rate, lowest_rate : float
        Highest and lowest learning rate of the cosine over both phases.
    weight_decay : float
        Decoupled weight decay.
    clip : float
        Largest norm of the gradient of a parameter.
    yogi : {"zaheer", "text"}
        Form of the optimiser: :class:`lunarray.superres.Yogi`.
    scaled : bool
        Losses in units of each element's spread (w_j = 1/σ_j²); else in wt%, with w_j = 1.
    point, footprint : float
        Weights of the errors at populated pixels (the paper's masked_mse), and of the footprints' means
        (:func:`lunarray.superres.losses.footprint_mse`, not in the paper).
    regularisation : float
        λ_reg, of the logarithmic loss and in the second phase of the deviation from 100.
    feature_similarity, spatial_similarity, deviation : float
        Weights of these losses (1 in the paper). The deviation counts only where all eight elements are there.
    feature_scale : float or None
        Scale of feature distances in the feature similarity; 1 in the paper, None for their median in each sub-region.
    trend : {"mean", "linear"}
        What the network adds to: the region's mean, or a ridge regression of the footprints on the mean inputs over
        them, fitted in closed form.
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
    dropout: float = 0.1
    skip: bool = False
    passes: int = 3
    steps: tuple[int, int] = (4, 4)
    rate: float = 3e-3
    lowest_rate: float = 1e-5
    weight_decay: float = 1e-2
    clip: float = 1.0
    yogi: Literal["zaheer", "text"] = "zaheer"
    scaled: bool = True
    point: float = 0.0
    footprint: float = 1.0
    regularisation: float = 0.01
    feature_similarity: float = 0.1
    spatial_similarity: float = 0.1
    deviation: float = 0.01
    feature_scale: float | None = None
    trend: Literal["mean", "linear"] = "linear"
    diffusion: float = 0.0
    members: int = 1
    seed: int = 0
    cache: int = 2 << 30

    @classmethod
    def paper(cls, **changes: Any) -> TrainSettings:
        """Settings as the paper states them: points only, all losses in wt% with weight 1, no trend.

        The default of all functions that train: on both simulated scenes that were tried they gave better maps than
        training on the means over footprints, which has the edge on real tracks (``examples/superres_map.py``).

        Parameters
        ----------
        **changes
            Fields to set otherwise; the paper does not state learning rates, widths or λ_reg.

        Returns
        -------
        TrainSettings
        """
        own: dict[str, Any] = {
            "scaled": False,
            "point": 1.0,
            "footprint": 0.0,
            "regularisation": 0.1,
            "feature_similarity": 1.0,
            "spatial_similarity": 1.0,
            "deviation": 1.0,
            "feature_scale": 1.0,
            "trend": "mean",
            "dropout": 0.0,
            "weight_decay": 0.0,
        }
        return cls(**(own | changes))

    def architecture(self, features: int, outputs: int) -> Architecture:
        """Shape of the network for some features and elements.

        Parameters
        ----------
        features, outputs : int
            Surface features, and elements.

        Returns
        -------
        Architecture
        """
        names = (
            "hidden",
            "heads",
            "channels",
            "kernel",
            "pool_stride",
            "fusion",
            "dropout",
            "skip",
        )
        return Architecture(features, outputs, **{n: getattr(self, n) for n in names})

    def to_json(self) -> str:
        """Settings as text, equal for equal settings; the cache's size is no part of it.

        Returns
        -------
        str
        """
        return json.dumps({k: v for k, v in asdict(self).items() if k != "cache"}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TrainSettings:
        """Undo :meth:`to_json`.

        Parameters
        ----------
        text : str
            What it gave.

        Returns
        -------
        TrainSettings
        """
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()
        }
        return cls(**values)


@dataclass
class RegionData:
    """What is known of a region, as plain arrays.

    Attributes
    ----------
    lat, lon : ndarray, (row,) and (column,)
        Degrees; latitudes descending, longitudes ascending without a jump at ±180°.
    features : ndarray, (feature, row, column), float32
        Surface features; NaN where the base map has none.
    mare : ndarray, (row, column), uint8
        0 unknown, 1 mare, 2 highland.
    abundance : ndarray, (element, row, column), float32
        Populated pixels, wt%; NaN elsewhere.
    elements : tuple of str
        Their names.
    support : Support
        Footprints: the pixels that each covers, and what was measured.
    region : tuple of 2 int
        Which one it is in the grid.
    """

    lat: np.ndarray
    lon: np.ndarray
    features: np.ndarray
    mare: np.ndarray
    abundance: np.ndarray
    elements: tuple[str, ...]
    support: Support = field(default_factory=Support.empty)
    region: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        rows, columns = len(self.lat), len(self.lon)
        for name in ("features", "mare", "abundance"):
            shape = getattr(self, name).shape
            if shape[-2:] != (rows, columns):
                raise InputError(
                    f"{name} has shape {shape} on a grid of {rows} × {columns}",
                    where=f"region {self.region}",
                    remedy="Give arrays whose last axes are the latitudes and longitudes",
                )
        if len(self.abundance) != len(self.elements):
            raise InputError(
                f"{len(self.abundance)} layers of abundance for {len(self.elements)} elements",
                where=f"region {self.region}",
                remedy="Give one layer an element",
            )

    def digest(self) -> str:
        """SHA-256 over everything that training depends on.

        Returns
        -------
        str
        """
        sha = hashlib.sha256(json.dumps([self.elements, self.region]).encode())
        arrays = [self.lat, self.lon, self.features, self.mare, self.abundance]
        for array in (*arrays, *self.support.arrays()):
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


@dataclass
class SubGraph:
    """Nodes of a sub-region, their neighbours and their places in the image.

    Attributes
    ----------
    rows, columns : ndarray of int, (node,)
        Pixels of the nodes, in the arrays that the sub-region was cut from.
    index : tensor, (node, k + 1), int32
        Neighbours, and last the node itself.
    edge : tensor, (node, k + 1, 2)
        Weight, and distance as a share of the sub-region's diagonal.
    row, column : tensor, (node,)
        Cells of the image.
    shape : tuple of 2 int
        Of the image.
    feature_weight, spatial_weight : tensor, (node, k), or None
        Of the similarity losses.
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
) -> SubGraph | None:
    """Build the graph of a sub-region.

    Parameters
    ----------
    x : ndarray, (row, column, input), float32
        Inputs of all pixels; anything where `valid` is False.
    lat, lon : ndarray, (row,) and (column,)
        Degrees, longitudes without a jump.
    valid : ndarray, (row, column), bool
        Pixels that have features: the nodes.
    settings : TrainSettings
        Neighbours and scales.
    similarities : bool
        Make the weights of the similarity losses too.

    Returns
    -------
    SubGraph or None
        None with fewer than two nodes.
    """
    from lunarray.superres.graph import neighbours

    rows, columns = np.nonzero(valid)
    if len(rows) < 2:
        return None
    node_lat, node_lon = lat[rows], lon[columns]
    features = np.ascontiguousarray(x[rows, columns, :-EXTRA_INPUTS])
    scales = {
        n: getattr(settings, n) for n in ("alpha", "beta") if getattr(settings, n) is not None
    }
    near, weight = neighbours(
        node_lat, node_lon, features, min(settings.k, len(rows) - 1), include_self=False, **scales
    )
    near = np.ascontiguousarray(near, np.int32)
    # Places on the sphere in units of its radius: chords are distances at this scale.
    phi, lam = np.deg2rad(node_lat), np.deg2rad(node_lon)
    places = np.column_stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])
    places -= places.mean(axis=0)
    diagonal = 2 * np.linalg.norm(places, axis=1).max()
    distance = edge_lengths(places, near) / np.float32(diagonal)
    itself = np.arange(len(near), dtype=np.int32)[:, None]
    edge = np.zeros((*near.shape, 2), np.float32)
    edge[..., 0], edge[..., 1] = np.asarray(weight, np.float32), distance
    # A node is its own nearest neighbour: weight 1 at distance 0.
    own = np.broadcast_to(np.array([1.0, 0.0], np.float32), (len(near), 1, 2))
    # The index equations see the pixels of the whole sub-region, so that a missing corner shifts nothing.
    row_of, _ = grid_index(lat, np.zeros(len(lat)), (len(lat), 1))
    _, column_of = grid_index(np.zeros(len(lon)), lon, (1, len(lon)))
    graph = SubGraph(
        rows,
        columns,
        torch.from_numpy(np.concatenate([near, itself], axis=1)),
        torch.from_numpy(np.concatenate([edge, own], axis=1)),
        torch.from_numpy(row_of[rows]),
        torch.from_numpy(column_of[columns]),
        (len(lat), len(lon)),
    )
    if similarities:
        lengths = edge_lengths(features, near)
        scale = settings.feature_scale
        scale = max(float(np.median(lengths)), 1e-6) if scale is None else scale
        graph.feature_weight = torch.from_numpy(np.exp(-lengths / np.float32(scale)))
        graph.spatial_weight = losses.spatial_weights(
            torch.from_numpy(np.column_stack([node_lat, node_lon]).astype(np.float32)),
            torch.from_numpy(near),
        )
    return graph


def ridge(
    design: np.ndarray, values: np.ndarray, variance: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Ridge regression with the penalty of the largest marginal likelihood.

    Slopes are taken as drawn from one normal distribution, and values as off by normal errors. How wide both are is
    what makes the values likeliest, with a free intercept. Where the values hardly say more than their errors, slopes
    become zero: leaving one out cannot tell so with some tens of footprints.

    Parameters
    ----------
    design : ndarray, (sample, input)
        Inputs.
    values : ndarray, (sample,)
        Outputs.
    variance : ndarray, (sample,), optional
        Of the outputs' errors. They may turn out larger, by one factor for all, but not smaller. Without them all
        are of one unknown variance.

    Returns
    -------
    slopes : ndarray, (input,)
    intercept : float

    References
    ----------
    MacKay, D. (1992). Bayesian interpolation. Neural Comput. 4, 415-447. Patterson, H., & Thompson, R. (1971).
    Biometrika 58, 545-554 (the likelihood without the intercept).
    """
    count = len(values)
    weight = np.ones(count) if variance is None else 1 / np.sqrt(variance)
    one = weight / np.linalg.norm(weight)
    x, y = design * weight[:, None], values * weight
    left, right = x - np.outer(one, one @ x), y - one * (one @ y)
    u, s, vt = np.linalg.svd(left, full_matrices=False)
    u, s, vt = u[:, : count - 1], s[: count - 1], vt[: count - 1]
    z = u.T @ right
    total = float(right @ right)
    rest, beyond = max(total - float(z @ z), 0.0), count - 1 - len(z)
    top = max(float(s.max(initial=0.0)) ** 2, 1e-300)
    if variance is None:
        errors = max(total / max(count - 1, 1), 1e-12) * np.logspace(-4, 0.5, 28)
    else:
        errors = np.logspace(0, 3, 25)
    # Width of slopes over that of errors, in units of the largest direction; the likelihood is cheap in this frame.
    ratios = np.concatenate([[0.0], np.logspace(-2, 5, 57)]) / top
    spread = errors[:, None, None] * (1 + ratios[:, None] * s**2)
    likelihood = -(np.log(spread) + z**2 / spread).sum(axis=2)
    likelihood -= (beyond * np.log(errors) + rest / errors)[:, None]
    ratio = ratios[np.unravel_index(np.argmax(likelihood), likelihood.shape)[1]]
    slopes = vt.T @ (ratio * s / (1 + ratio * s**2) * z)
    return slopes, float((one @ y - one @ x @ slopes) / (one @ weight))


def _input_planes(data: RegionData, scaling: Scaling) -> tuple[np.ndarray, np.ndarray]:
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


def fit_scaling(data: RegionData, settings: TrainSettings) -> tuple[Scaling, np.ndarray]:
    """Means, spreads and trend of a region.

    Parameters
    ----------
    data : RegionData
        The region; at least three footprints or populated pixels must be known.
    settings : TrainSettings
        Which trend, and whether footprints or pixels are trained on.

    Returns
    -------
    scaling : Scaling
    spread : ndarray, (element,), float32
        Standard deviation of what is known of each element, wt%: the unit of the losses.

    Raises
    ------
    InputError
        If too little is known of an element.
    """
    flat = data.features.reshape(len(data.features), -1)
    valid = np.isfinite(flat).all(axis=0)
    if not valid.any():
        raise InputError(
            "no pixel has surface features",
            where=f"region {data.region}",
            remedy="Write the region's features first",
        )
    mean = flat[:, valid].mean(axis=1, dtype=np.float64).astype(np.float32)
    std = flat[:, valid].std(axis=1, dtype=np.float64).astype(np.float32)
    half = (abs(data.lat[0] - data.lat[-1]) / 2 or 1.0, abs(data.lon[-1] - data.lon[0]) / 2 or 1.0)
    count = len(data.elements)
    zero = np.zeros((len(flat) + EXTRA_INPUTS, count), np.float32)
    scaling = Scaling(
        mean,
        np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1.0).astype(np.float32),
        (float(data.lat[0] + data.lat[-1]) / 2, half[0]),
        (float(data.lon[0] + data.lon[-1]) / 2, half[1]),
        np.zeros(count, np.float32),
        np.ones(count, np.float32),
        zero,
    )
    x, there = _input_planes(data, scaling)
    inputs = x.reshape(-1, x.shape[-1])
    if settings.footprint > 0 and data.support.count:
        support = data.support.restricted(there.ravel())
        design = support.mean(inputs)
        values, weights = support.measured, support.relative_weights()
        errors = support.error.astype(np.float64) ** 2
    else:
        known = there.ravel() & np.isfinite(data.abundance.reshape(count, -1)).all(axis=0)
        design = inputs[known]
        values = data.abundance.reshape(count, -1).T[known]
        weights = np.ones_like(values)
        errors = np.full_like(values, np.nan)
    means, residuals = np.zeros(count, np.float32), np.ones(count, np.float32)
    spread = np.ones(count, np.float32)
    trend = zero.copy()
    for e, name in enumerate(data.elements):
        known = np.isfinite(values[:, e])
        if known.sum() < 3:
            raise InputError(
                f"{int(known.sum())} known values of {name}",
                where=f"region {data.region}",
                remedy="Populate the region with more footprints, or leave the element out",
            )
        y, w = values[known, e].astype(np.float64), weights[known, e].astype(np.float64)
        level = w @ y / w.sum()
        width = math.sqrt(w @ (y - level) ** 2 / w.sum())
        # All alike (one footprint's cells): the size of the value stands for its spread.
        spread[e] = width if width > 1e-6 * abs(level) else max(0.1 * abs(level), 1e-3)
        means[e] = level
        residuals[e] = spread[e]
        if settings.trend == "linear":
            own = errors[known, e]
            stated = np.isfinite(own) & (own > 0)
            own = np.where(stated, own, np.median(own[stated])) if stated.any() else None
            slopes, intercept = ridge(design[known].astype(np.float64), y, own)
            trend[:, e], means[e] = slopes, intercept
            rest = y - intercept - design[known] @ slopes
            residuals[e] = max(math.sqrt(w @ rest**2 / w.sum()), 0.05 * spread[e])
        elif settings.trend != "mean":
            raise InputError(
                f"unknown trend {settings.trend!r}", where="trend", remedy='Take "mean" or "linear"'
            )
    return replace(scaling, mean=means, std=residuals, trend=trend), spread


@dataclass
class TrainedRegion:
    """A region's networks with all that is needed to use them.

    Attributes
    ----------
    models : list of HybridModel
        One a member, in evaluation mode.
    scaling : Scaling
        Of inputs and outputs.
    elements : tuple of str
        Names of the outputs.
    settings : TrainSettings
        What they were trained with.
    region : tuple of 2 int
        Of the grid.
    residual : ndarray, (element,), float32
        Root mean square misfit at what they were trained on, wt%.
    history : list of float
        Loss of each step, member after member.
    digest : str
        SHA-256 of the data that they were trained on.
    grid, feature_model : str
        The grid and the origin of the features as JSON, where they are known.
    """

    models: list[HybridModel]
    scaling: Scaling
    elements: tuple[str, ...]
    settings: TrainSettings
    region: tuple[int, int]
    residual: np.ndarray
    history: list[float]
    digest: str
    grid: str = ""
    feature_model: str = ""


class GraphCache:
    """Graphs of sub-regions, kept as far as memory allows, for trainings and predictions of the same features.

    Parameters
    ----------
    limit : int
        Bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._graphs: dict[tuple[int, int], SubGraph | None] = {}

    def get(
        self,
        at: tuple[int, int],
        build: Callable[[], SubGraph | None],
        *,
        similarities: bool = False,
    ) -> SubGraph | None:
        """Give the graph of the sub-region that begins at a pixel, building it where it is not held.

        Parameters
        ----------
        at : tuple of 2 int
            First row and column.
        build : callable
            Makes it.
        similarities : bool
            The weights of the similarity losses are needed: a graph without them will not do.

        Returns
        -------
        SubGraph or None
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


class _Graphs:
    """Inputs and graphs of a region's sub-regions."""

    def __init__(
        self,
        data: RegionData,
        scaling: Scaling,
        settings: TrainSettings,
        cache: GraphCache | None = None,
    ) -> None:
        self.data, self.settings = data, settings
        self.similarities = settings.feature_similarity > 0 or settings.spatial_similarity > 0
        self.cache = GraphCache(settings.cache) if cache is None else cache
        self.x, self.valid = _input_planes(data, scaling)
        size, stride = settings.size, settings.stride
        self.windows = [
            (slice(r, r + size), slice(c, c + size))
            for r in starts(len(data.lat), size, stride)
            for c in starts(len(data.lon), size, stride)
        ]

    def __getitem__(self, number: int) -> SubGraph | None:
        return self.at(*self.windows[number])

    def at(self, rows: slice, columns: slice) -> SubGraph | None:
        """Graph of some rows and columns."""
        return self.cache.get(
            (rows.start, columns.start),
            lambda: self._build(rows, columns),
            similarities=self.similarities,
        )

    def _build(self, rows: slice, columns: slice) -> SubGraph | None:
        s = self.settings
        graph = subgraph(
            self.x[rows, columns],
            self.data.lat[rows],
            self.data.lon[columns],
            self.valid[rows, columns],
            s,
            similarities=self.similarities,
        )
        if graph is not None:
            graph.rows = graph.rows + rows.start
            graph.columns = graph.columns + columns.start
        return graph

    def inputs(self, graph: SubGraph) -> torch.Tensor:
        return torch.from_numpy(self.x[graph.rows, graph.columns])


def _seed(settings: TrainSettings, region: tuple[int, int], member: int, step: int) -> int:
    words = np.random.SeedSequence([settings.seed, *region, member, step]).generate_state(2)
    return int(words[0]) << 31 | int(words[1]) >> 1


@dataclass
class _State:
    """Where a training stands: all that it takes to go on."""

    member: int
    visit: int
    done: list[dict[str, torch.Tensor]]
    history: list[float]
    model: HybridModel
    optimiser: Yogi
    field: np.ndarray | None


def _visits(settings: TrainSettings, windows: int) -> list[tuple[int, int]]:
    """Phase and sub-region of each visit."""
    return [(p, n) for p in (0, 1) for _ in range(settings.passes) for n in range(windows)]


def train_region(
    data: RegionData,
    settings: TrainSettings | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 50,
    progress: Progress | None = None,
    stop_after: int | None = None,
    device: str = "cpu",
    cache: GraphCache | None = None,
) -> TrainedRegion | None:
    """Train the networks of one region.

    Parameters
    ----------
    data : RegionData
        What is known of it.
    settings : TrainSettings, optional
        How; :meth:`TrainSettings.paper` if None.
    checkpoint : path-like, optional
        File in which the state is kept; a training that finds one of the same data and settings goes on from it, to
        the same bits as without interruption. Removed by whoever keeps the result.
    checkpoint_every : int
        Visits of sub-regions between two checkpoints.
    progress : callable, optional
        Called after each visit with ``member``, ``visit``, ``visits``, ``phase``, ``loss`` and each loss by name.
    stop_after : int, optional
        Stop after that many visits, with a checkpoint: for time limits.
    device : str
        "cpu", or "cuda" where there is one.
    cache : GraphCache, optional
        Graphs of the same features and graph settings, from another training.

    Returns
    -------
    TrainedRegion or None
        None if stopped before the end.

    Raises
    ------
    InputError
        If too little is known of the region.
    StoreConflictError
        If the checkpoint is of other data or settings.
    """
    settings = settings or TrainSettings.paper()
    if settings.point <= 0 and (settings.footprint <= 0 or not data.support.count):
        if settings.footprint <= 0 or not np.isfinite(data.abundance).any():
            raise InputError(
                "nothing to train on",
                where=f"region {data.region}",
                remedy="Populate the region, and give point or footprint errors a weight",
            )
        settings = replace(settings, point=1.0)  # populated, but the footprints are not at hand
    scaling, spread = fit_scaling(data, settings)
    graphs = _Graphs(data, scaling, settings, cache)
    visits = _visits(settings, len(graphs.windows))
    digest = data.digest()
    task = _Task(data, settings, scaling, spread, graphs, device)
    state = task.begin(0)
    if checkpoint is not None and Path(checkpoint).exists():
        state = _load_state(Path(checkpoint), task, digest)
    taken = 0
    while state.member < settings.members:
        while state.visit < len(visits):
            if stop_after is not None and taken >= stop_after:
                if checkpoint is not None:
                    _save_state(Path(checkpoint), state, settings, digest)
                return None
            parts = task.visit(state, visits)
            taken += 1
            if progress is not None:
                progress(
                    {
                        "region": data.region,
                        "member": state.member,
                        "visit": state.visit,
                        "visits": len(visits),
                        "phase": visits[state.visit - 1][0] + 1,
                        **parts,
                    }
                )
            if checkpoint is not None and state.visit % checkpoint_every == 0:
                _save_state(Path(checkpoint), state, settings, digest)
        done = {k: v.detach().cpu().clone() for k, v in state.model.state_dict().items()}
        finished, history = [*state.done, done], state.history
        state = task.begin(state.member + 1)
        state.done, state.history = finished, history
    models = []
    for weights in state.done:
        model = HybridModel(settings.architecture(len(data.features), len(data.elements)))
        model.load_state_dict(weights)
        models.append(model.eval().requires_grad_(False))
    residual = task.residual(models)
    return TrainedRegion(
        models, scaling, data.elements, settings, data.region, residual, state.history, digest
    )


class _Task:
    """One region's training: what stays the same through all its steps."""

    def __init__(
        self,
        data: RegionData,
        settings: TrainSettings,
        scaling: Scaling,
        spread: np.ndarray,
        graphs: _Graphs,
        device: str,
    ) -> None:
        self.data, self.settings, self.graphs, self.device = data, settings, graphs, device
        self.scaling = scaling
        self.mean, self.std, self.trend = (
            torch.from_numpy(a).to(device) for a in (scaling.mean, scaling.std, scaling.trend)
        )
        self.spread = torch.from_numpy(spread).to(device)
        ones = torch.ones_like(self.spread)
        self.weights = 1 / self.spread**2 if settings.scaled else ones
        self.unit = self.spread if settings.scaled else ones
        self.complete = set(data.elements) >= _WHOLE
        self.support = data.support.restricted(graphs.valid.ravel())
        self.relative = self.support.relative_weights()

    def begin(self, member: int) -> _State:
        """A network at its start."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(self.settings, self.data.region, member, 0))
            model = HybridModel(
                self.settings.architecture(len(self.data.features), len(self.data.elements))
            )
        with torch.no_grad():  # begins at the trend
            model.output.weight.mul_(0.1)
            model.output.bias.zero_()
        model.to(self.device)
        optimiser = Yogi(
            model.parameters(),
            lr=self.settings.rate,
            weight_decay=self.settings.weight_decay,
            form=self.settings.yogi,
        )
        predicted = None
        if self.settings.diffusion > 0:
            predicted = np.full_like(self.data.abundance, np.nan)
        return _State(member, 0, [], [], model, optimiser, predicted)

    def predict(self, model: HybridModel, graph: SubGraph, x: torch.Tensor) -> torch.Tensor:
        scaled = model(
            x,
            graph.index.to(self.device),
            graph.edge.to(self.device),
            graph.row.to(self.device),
            graph.column.to(self.device),
            graph.shape,
        )
        return unscale(scaled, x, self.mean, self.std, self.trend)

    def visit(self, state: _State, visits: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Train on one sub-region, and say how large the losses were."""
        settings = self.settings
        phase, number = visits[state.visit]
        total_steps = sum(settings.steps[p] for p, _ in visits)
        before = sum(settings.steps[p] for p, _ in visits[: state.visit])
        graph = self.graphs[number]
        state.visit += 1
        if graph is None:
            return {"loss": math.nan}
        x = self.graphs.inputs(graph).to(self.device)
        targets = self._targets(graph, state)
        if phase == 0 and not targets["any"]:
            return {"loss": math.nan}
        parts: dict[str, float] = {}
        for step in range(settings.steps[phase]):
            for group in state.optimiser.param_groups:
                group["lr"] = cosine_rate(
                    before + step, total_steps, settings.rate, settings.lowest_rate
                )
            # A step's random numbers depend on its number alone: nothing to restore when training is resumed.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(
                    _seed(settings, self.data.region, state.member, 1 + before + step)
                )
                state.model.train()
                predicted = self.predict(state.model, graph, x)
            terms = self._terms(predicted, graph, targets, phase)
            loss = sum(terms.values(), torch.zeros((), device=self.device))
            state.optimiser.zero_grad()
            loss.backward()
            clip_each(state.model.parameters(), settings.clip)
            state.optimiser.step()
            parts = {"loss": float(loss.detach())} | {
                n: float(t.detach()) for n, t in terms.items()
            }
            if not math.isfinite(parts["loss"]):
                raise InputError(
                    f"the loss is {parts['loss']} at step {before + step}",
                    where=f"region {self.data.region}",
                    remedy="Lower the rate, or look for wild values among features and abundances",
                )
            state.history.append(parts["loss"])
        if state.field is not None:
            state.model.eval()
            with torch.no_grad():
                now = self.predict(state.model, graph, x).cpu().numpy()
            state.field[:, graph.rows, graph.columns] = now.T
        return parts

    def _targets(self, graph: SubGraph, state: _State) -> dict[str, Any]:
        known = torch.from_numpy(self.data.abundance[:, graph.rows, graph.columns].T.copy())
        mask = torch.isfinite(known).all(dim=1)
        columns = len(self.data.lon)
        node = np.full(len(self.data.lat) * columns, -1, np.int64)
        node[graph.rows * columns + graph.columns] = np.arange(len(graph.rows))
        pixel, footprint, share, chosen = self.support.within(node)
        targets: dict[str, Any] = {
            "known": known.to(self.device),
            "mask": mask.to(self.device),
            "pixel": torch.from_numpy(pixel).to(self.device),
            "footprint": torch.from_numpy(footprint).to(self.device),
            "share": torch.from_numpy(share).to(self.device),
            "measured": torch.from_numpy(self.support.measured[chosen]).to(self.device),
            "relative": torch.from_numpy(self.relative[chosen]).to(self.device),
            "seen": len(chosen),
        }
        targets["any"] = bool(mask.any()) if self.settings.point > 0 else False
        targets["any"] |= self.settings.footprint > 0 and len(chosen) > 0
        if state.field is not None:
            carried = torch.from_numpy(state.field[:, graph.rows, graph.columns].T.copy())
            targets["carried"] = carried.to(self.device)
            targets["unknown"] = (torch.isfinite(carried).all(dim=1) & ~mask).to(self.device)
        return targets

    def _terms(
        self, predicted: torch.Tensor, graph: SubGraph, targets: dict[str, Any], phase: int
    ) -> dict[str, torch.Tensor]:
        """Losses of a phase by name, each times its weight."""
        s = self.settings
        terms: dict[str, torch.Tensor] = {}
        known, mask = targets["known"], targets["mask"]
        if s.point > 0:
            terms["masked_mse"] = s.point * losses.masked_mse(predicted, known, mask, self.weights)
        if s.footprint > 0 and targets["seen"]:
            terms["footprint_mse"] = s.footprint * losses.footprint_mse(
                predicted,
                targets["pixel"],
                targets["footprint"],
                targets["share"],
                targets["measured"],
                self.weights * targets["relative"],
            )
        if self.complete and s.deviation > 0:
            reduced = s.regularisation if phase == 1 else 1.0
            terms["deviation"] = s.deviation * reduced * losses.deviation(predicted)
        if "carried" in targets:
            terms["carried"] = s.diffusion * losses.masked_mse(
                predicted, targets["carried"], targets["unknown"], self.weights
            )
        if phase == 0:
            return terms
        if s.point > 0 and s.regularisation > 0:
            ones = torch.ones_like(self.weights)
            terms["log"] = (
                s.point * s.regularisation * losses.masked_log(predicted, known, mask, ones)
            )
        near = graph.index[:, :-1].to(self.device)
        for name, weight in (("feature", graph.feature_weight), ("spatial", graph.spatial_weight)):
            factor = getattr(s, f"{name}_similarity")
            if factor > 0 and weight is not None:
                terms[f"{name}_sim"] = factor * losses.similarity(
                    predicted / self.unit, near, weight.to(self.device)
                )
        return terms

    @torch.no_grad()
    def residual(self, models: Sequence[HybridModel]) -> np.ndarray:
        """Root mean square misfit of the members' mean, over sub-regions."""
        count = len(self.data.elements)
        total, number = np.zeros(count), np.zeros(count)
        for window in range(len(self.graphs.windows)):
            graph = self.graphs[window]
            if graph is None:
                continue
            state = _State(0, 0, [], [], models[0], None, None)  # type: ignore[arg-type]
            targets = self._targets(graph, state)
            if not targets["any"]:
                continue
            x = self.graphs.inputs(graph)
            mean = torch.stack([self._on_cpu(model, graph, x) for model in models]).mean(dim=0)
            if self.settings.footprint > 0 and targets["seen"]:
                there = mean.new_zeros(targets["measured"].shape).index_add(
                    0,
                    targets["footprint"].cpu(),
                    targets["share"].cpu()[:, None] * mean[targets["pixel"].cpu()],
                )
                error = (there - targets["measured"].cpu()).numpy()
            else:
                error = (mean - targets["known"].cpu())[targets["mask"].cpu()].numpy()
            total += np.nansum(error.astype(np.float64) ** 2, axis=0)
            number += np.isfinite(error).sum(axis=0)
        return np.sqrt(total / np.maximum(number, 1)).astype(np.float32)

    def _on_cpu(self, model: HybridModel, graph: SubGraph, x: torch.Tensor) -> torch.Tensor:
        scaled = model(x, graph.index, graph.edge, graph.row, graph.column, graph.shape)
        s = self.scaling
        return unscale(scaled, x, *(torch.from_numpy(a) for a in (s.mean, s.std, s.trend)))


# ------------------------------------------------------------------------------------------ files
def _write(path: Path, tensors: dict[str, np.ndarray], header: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {k: np.ascontiguousarray(v) for k, v in tensors.items()}, header)


def read_region_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the file of a region's networks says of itself, without reading the weights.

    Parameters
    ----------
    path : path-like
        File that :func:`save_region_model` wrote.

    Returns
    -------
    dict
        ``elements``, ``features``, ``region``, ``grid``, ``feature_model``, ``settings``, ``members``, ``digest``.

    Raises
    ------
    ModelError
        If the file is missing, or none of lunarray's.
    """
    return _header(Path(path), _ARCHITECTURE)


def _header(path: Path, kind: str) -> dict[str, Any]:
    remedy = "Give a file that lunarray.superres wrote"
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > 10_000_000:
                raise ValueError("no safetensors header")
            header = json.loads(json.loads(file.read(length))["__metadata__"]["lunarray"])
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", where=path, remedy=remedy) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"not a {kind} file", where=path, remedy=remedy) from error
    if header.get("kind") != kind or header.get("format_version") != _FORMAT_VERSION:
        raise ModelError(
            f"holds {header.get('kind')!r} version {header.get('format_version')}, not {kind!r} "
            f"version {_FORMAT_VERSION}",
            where=path,
            remedy=remedy,
        )
    return header


def _read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    header = _header(path, kind)
    try:
        return header, load(path.read_bytes())
    except (ValueError, SafetensorError) as error:
        raise ModelError("is broken", where=path, remedy="Write it again") from error


def _save_state(path: Path, state: _State, settings: TrainSettings, digest: str) -> None:
    tensors: dict[str, np.ndarray] = {}
    for number, weights in enumerate(state.done):
        tensors |= {f"done.{number}.{k}": v.numpy() for k, v in weights.items()}
    tensors |= {f"model.{k}": v.detach().cpu().numpy() for k, v in state.model.state_dict().items()}
    for number, moments in state.optimiser.state_dict()["state"].items():
        tensors |= {f"yogi.{number}.{k}": v.cpu().numpy() for k, v in moments.items()}
    if state.field is not None:
        tensors["field"] = state.field
    tensors["history"] = np.array(state.history, np.float64)
    header = {
        "kind": "checkpoint",
        "format_version": _FORMAT_VERSION,
        "member": state.member,
        "visit": state.visit,
        "settings": settings.to_json(),
        "digest": digest,
    }
    _write(path, tensors, header)


def _load_state(path: Path, task: _Task, digest: str) -> _State:
    header, tensors = _read(path, "checkpoint")
    if header["settings"] != task.settings.to_json() or header["digest"] != digest:
        raise StoreConflictError(
            "the checkpoint is of other data or settings",
            where=path,
            remedy="Remove it to start over, or train with what it was begun with",
        )
    state = task.begin(header["member"])
    state.visit = header["visit"]

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {
            k.removeprefix(prefix): torch.from_numpy(v.copy())
            for k, v in tensors.items()
            if k.startswith(prefix)
        }

    state.model.load_state_dict(part("model."))
    saved = state.optimiser.state_dict()
    for number in range(len(list(state.model.parameters()))):
        moments = part(f"yogi.{number}.")
        if moments:
            saved["state"][number] = moments
    state.optimiser.load_state_dict(saved)
    while f"done.{len(state.done)}.output.bias" in tensors:
        state.done.append(part(f"done.{len(state.done)}."))
    state.history = tensors["history"].tolist()
    if "field" in tensors:
        state.field = tensors["field"].copy()
    return state


def save_region_model(path: str | os.PathLike[str], trained: TrainedRegion) -> None:
    """Write a region's networks with all that is needed to use them.

    Parameters
    ----------
    path : path-like
        File to write (safetensors), replaced only once the new one is complete.
    trained : TrainedRegion
        What :func:`train_region` gave.
    """
    tensors = {f"scaling.{k}": v for k, v in trained.scaling.tensors().items()}
    for number, model in enumerate(trained.models):
        tensors |= {
            f"member.{number}.{k}": v.detach().cpu().numpy() for k, v in model.state_dict().items()
        }
    tensors["residual"] = trained.residual
    tensors["history"] = np.array(trained.history, np.float64)
    header = {
        "kind": _ARCHITECTURE,
        "format_version": _FORMAT_VERSION,
        "elements": list(trained.elements),
        "settings": trained.settings.to_json(),
        "members": len(trained.models),
        "region": list(trained.region),
        "digest": trained.digest,
        "grid": trained.grid,
        "feature_model": trained.feature_model,
        "features": int(trained.scaling.feature_mean.size),
    }
    _write(Path(path), tensors, header)


def load_region_model(path: str | os.PathLike[str]) -> TrainedRegion:
    """Read a region's networks.

    Parameters
    ----------
    path : path-like
        File that :func:`save_region_model` wrote.

    Returns
    -------
    TrainedRegion
        On the CPU, in evaluation mode.

    Raises
    ------
    ModelError
        If the file is missing, or none of lunarray's.
    """
    header, tensors = _read(Path(path), _ARCHITECTURE)
    settings = TrainSettings.from_json(header["settings"])
    elements = tuple(header["elements"])
    models = []
    for number in range(header["members"]):
        model = HybridModel(settings.architecture(header["features"], len(elements)))
        prefix = f"member.{number}."
        weights = {
            k.removeprefix(prefix): torch.from_numpy(v.copy())
            for k, v in tensors.items()
            if k.startswith(prefix)
        }
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelError(
                "tensors do not fit the architecture in the header",
                where=path,
                remedy="Train the region anew",
            ) from error
        models.append(model.eval().requires_grad_(False))
    scaling = {
        k.removeprefix("scaling."): v for k, v in tensors.items() if k.startswith("scaling.")
    }
    return TrainedRegion(
        models,
        Scaling.from_tensors(scaling),
        elements,
        settings,
        (header["region"][0], header["region"][1]),
        tensors["residual"],
        tensors["history"].tolist(),
        header["digest"],
        header["grid"],
        header["feature_model"],
    )


# ------------------------------------------------------------------------------------------ stores
def region_data(
    ds: xr.Dataset, region: tuple[int, int], footprints: xr.Dataset | None = None
) -> RegionData:
    """Read what a Global Information Bank knows of a region.

    Parameters
    ----------
    ds : Dataset
        Of :func:`lunarray.superres.open_gib`; the region must hold features, mare class and abundances.
    region : tuple of 2 int
        Which.
    footprints : Dataset, optional
        The table of footprints; by default that of the store that `ds` was opened from.

    Returns
    -------
    RegionData
        In memory. Elements that no pixel of the region knows are left out.

    Raises
    ------
    InputError
        If nothing is known there.
    """
    from lunarray.superres.gib import gib_footprints, gib_grid

    grid = gib_grid(ds)
    rows, columns = grid.slices(*region)
    part = ds[["feature", "mare", "abundance"]].isel(lat=rows, lon=columns).compute()
    abundance = part["abundance"].transpose("element", "lat", "lon").values
    there = np.isfinite(abundance).any(axis=(1, 2))
    if not there.any():
        raise InputError(
            "no populated pixel", where=f"region {region}", remedy="Populate the store first"
        )
    if footprints is None and "source" in ds.encoding:
        footprints = gib_footprints(ds.encoding["source"])
    lat, lon = grid.lat(region[0]), grid.lon(region[1])
    names = tuple(str(e) for e in part["element"].values[there])
    support = Support.empty(len(names))
    if footprints is not None and footprints.sizes["footprint"]:
        table = footprints.sel(element=list(names))
        support = support_of(table, lat, lon)
    return RegionData(
        lat,
        lon,
        np.ascontiguousarray(part["feature"].transpose("feature", "lat", "lon").values),
        part["mare"].transpose("lat", "lon").values,
        np.ascontiguousarray(abundance[there]),
        names,
        support,
        region,
    )


def train_gib(
    path: str | os.PathLike[str],
    models: str | os.PathLike[str],
    settings: TrainSettings | None = None,
    *,
    regions: Iterable[tuple[int, int]] | None = None,
    overwrite: bool = False,
    compute: bool = True,
    progress: Progress | None = None,
) -> list[Any]:
    """Train the networks of regions of a Global Information Bank, each from its own content alone.

    Parameters
    ----------
    path : path-like
        The store; every worker must see it.
    models : path-like
        Folder for the networks, a file a region; every worker must see it. Checkpoints lie there too: the same call
        completes an interrupted one.
    settings : TrainSettings, optional
        How; :meth:`TrainSettings.paper` if None.
    regions : iterable of tuple of 2 int, optional
        Which; by default all that hold features, mare class and abundances.
    overwrite : bool
        Train regions anew whose networks are there and of other data or settings. Those of the same are kept always.
    compute : bool
        Train now: on the workers of the Dask client that is active, or else one region after another. False gives Dask
        Delayed objects, for a scheduler of your choice.
    progress : callable, optional
        As in :func:`train_region`; not with workers in other processes.

    Returns
    -------
    list
        Path of each region's networks, or Delayed objects that give them.

    Raises
    ------
    StoreConflictError
        If a region's networks are there, of other data or settings, and `overwrite` is not set.
    InputError
        If no region can be trained, or one that was asked for.
    """
    import dask

    from lunarray.superres.gib import gib_grid, open_gib, require_parts

    settings = settings or TrainSettings.paper()
    ds = open_gib(path)
    if regions is None:
        state = ds["state"].values
        wanted = [r for r in gib_grid(ds).all_regions() if state[r] == 7]
        footprints = _reached(ds)
        wanted = [r for r in wanted if r in footprints]
    else:
        wanted = [(int(i), int(j)) for i, j in regions]
        for part in ("features", "mare", "abundance"):
            require_parts(ds, wanted, part)
    if not wanted:
        raise InputError(
            "no region holds features, mare class and abundances",
            where=path,
            remedy="Write features and populate the store first",
        )
    Path(models).mkdir(parents=True, exist_ok=True)
    task = dask.delayed(_train_one, pure=False)
    tasks = [
        task(os.fspath(path), os.fspath(models), r, settings, overwrite, progress) for r in wanted
    ]
    if not compute:
        return tasks
    return list(dask.compute(*tasks, **({} if _has_client() else {"scheduler": "sync"})))


def _has_client() -> bool:
    try:
        from distributed import default_client

        default_client()
    except (ImportError, ValueError):
        return False
    return True


def _reached(ds: xr.Dataset) -> set[tuple[int, int]]:
    """Regions in which footprints have cells."""
    from lunarray.superres.footprints import touched_regions
    from lunarray.superres.gib import gib_footprints, gib_grid

    table = gib_footprints(ds.encoding["source"])
    if not table.sizes["footprint"]:
        return set()
    return {(int(i), int(j)) for i, j in touched_regions(table, gib_grid(ds))}


def _train_one(
    path: str,
    models: str,
    region: tuple[int, int],
    settings: TrainSettings,
    overwrite: bool,
    progress: Progress | None,
) -> Path:
    from lunarray.superres.gib import open_gib
    from lunarray.superres.prediction import model_path

    target = model_path(models, region)
    ds = open_gib(path)
    data = region_data(ds, region)
    if target.exists():
        header = read_region_header(target)
        if header["digest"] == data.digest() and header["settings"] == settings.to_json():
            return target
        if not overwrite:
            raise StoreConflictError(
                "networks of other data or settings are there",
                where=target,
                remedy="Train into another folder, or pass overwrite=True",
            )
    checkpoint = target.with_suffix(".checkpoint")
    if overwrite and checkpoint.exists():
        header = _header(checkpoint, "checkpoint")
        if header["digest"] != data.digest() or header["settings"] != settings.to_json():
            checkpoint.unlink()
    trained = train_region(data, settings, checkpoint=checkpoint, progress=progress)
    if trained is None:  # only with stop_after
        raise InputError("training was stopped", where=target, remedy="Call it again")
    trained.grid = ds.attrs["grid"]
    trained.feature_model = ds.attrs.get("feature_model", "")
    save_region_model(target, trained)
    checkpoint.unlink(missing_ok=True)
    return target
