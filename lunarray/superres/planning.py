"""What training and predicting regions will take: unit costs measured on this machine, and how often each is paid."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lunarray.engine.models import Device, resolve_device
from lunarray.errors import ModelError
from lunarray.superres.areal_bank import FILE, areal_spec, predict_ground
from lunarray.superres.choice import AREAL_MARGIN
from lunarray.superres.gib import gib_grid, require_parts
from lunarray.superres.grid import GIBGrid, starts
from lunarray.superres.prediction import Plan
from lunarray.superres.settings import TrainSettings

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Costs:
    """Seconds that a graph of a sub-region, a gradient step on it and a prediction of it take, and bytes of a graph."""

    graph: float
    step: float
    prediction: float
    nbytes: int


@dataclass(frozen=True)
class RegionPlan:
    """What one region takes: its sub-regions, gradient steps of all members, and seconds of each part."""

    windows: int
    steps: int
    graphs: float
    training: float
    prediction: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.graphs + self.training + self.prediction

    def hours(self, regions: int, workers: int = 1) -> float:
        """Of so many regions, each on one of so many workers."""
        return self.seconds * -(-regions // max(workers, 1)) / 3600


def measure_costs(
    features: int, elements: int, settings: TrainSettings, *, device: Device = "auto", seed: int = 0
) -> Costs:
    """Time one sub-region of made-up features, as large as the settings say, with all of its nodes there."""
    import torch

    from lunarray.superres.architecture import EXTRA_INPUTS
    from lunarray.superres.model import HybridModel
    from lunarray.superres.subgraphs import subgraph

    on = resolve_device(device)
    size = settings.size
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((size, size, features + EXTRA_INPUTS)).astype(np.float32)
    lat, lon = 10 - 0.066 * np.arange(size), 0.066 * np.arange(size)
    valid = np.ones((size, size), bool)

    def build() -> Any:
        return subgraph(x, lat, lon, valid, settings, similarities=True, device=on)

    # The first is compiled: not for the clock.
    small = subgraph(x[:9, :9], lat[:9], lon[:9], valid[:9, :9], settings, device=on)
    graph_time, graph = _timed(build, on)
    model = HybridModel(settings.architecture(features, elements)).to(on)

    def run(graph: Any, learn: bool) -> None:
        nodes = torch.from_numpy(x[graph.rows, graph.columns]).to(on)
        with torch.set_grad_enabled(learn):
            out = model(nodes, graph.index, graph.edge, graph.row, graph.column, graph.shape)
            if learn:
                (out**2).mean().backward()

    run(small, True)
    step, _ = _timed(lambda: run(graph, True), on)
    prediction, _ = _timed(lambda: run(graph, False), on)
    return Costs(graph_time, step, prediction, graph.nbytes)


@dataclass(frozen=True)
class ArealPlan:
    """What the map of one region takes by a Gaussian process of so many `footprints`.

    Its `bands` are tasks, which workers share, and `band` the seconds of one on one core.
    """

    footprints: int
    bands: int
    band: float

    def hours(self, regions: int, workers: int = 1) -> float:
        """Of so many regions, their bands on so many workers."""
        return self.band * -(-regions * self.bands // max(workers, 1)) / 3600


def measure_areal(ds: xr.Dataset, models: str | os.PathLike[str]) -> ArealPlan:
    """Predict one band of the first region of a bank that has features, in the middle of it, and time that.

    ModelError if the folder of `models` holds no areal Gaussian process; StoreIncompleteError without features.
    """
    grid = gib_grid(ds)
    if not os.path.isfile(os.path.join(models, FILE)):
        raise ModelError(
            "no areal model", where=models, remedy="Train one: lunarray gib train --method areal"
        )
    spec = areal_spec(models)
    state = ds["state"].values
    region = next((r for r in grid.all_regions() if state[r] & 3 == 3), (0, 0))
    require_parts(ds, [region], "features")
    plan = Plan(grid, {region: spec}, min(AREAL_MARGIN, min(grid.shape) // 2), None, 0)
    bands = plan.bands(region)
    band = bands[len(bands) // 2]
    lat, lon = plan.places(region)
    feature, mare = (
        np.asarray(plan.cut(ds[n].transpose(..., "lat", "lon").data, region)[..., band, :])
        for n in ("feature", "mare")
    )
    model = cast(Any, spec.load())
    own = np.nan_to_num(mare).astype(np.uint8)
    # The first rows compile what is compiled: not for the clock.
    predict_ground(model, (lat[band][:1], lon[:9], feature[:, :1, :9], own[:1, :9]))
    # Of the processor: a worker is a core, and other processes do not count.
    begin = time.process_time()
    predict_ground(model, (lat[band], lon, feature, own))
    return ArealPlan(len(model.footprints), len(bands), time.process_time() - begin)


def plan_region(grid: GIBGrid, settings: TrainSettings, costs: Costs) -> RegionPlan:
    """What a region takes, trained to the end: graphs that do not fit into the cache are built at each visit."""
    rows, columns = grid.shape
    size, stride = settings.size, settings.stride
    windows = len(starts(rows, size, stride)) * len(starts(columns, size, stride))
    steps = settings.members * settings.step_count(windows)
    kept = min(windows, settings.cache // max(costs.nbytes, 1))
    visits = settings.members * 2 * settings.epochs
    # For training, and once more where it is predicted.
    graphs = kept + (windows - kept) * visits + windows
    return RegionPlan(
        windows,
        steps,
        graphs * costs.graph,
        steps * costs.step,
        windows * settings.members * costs.prediction,
    )


def _timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter() - begin, result
