"""Training of the regions' networks: footprints and populated pixels in, weights out.

A region is trained on its overlapping sub-regions in sliding order, several times over, first with the errors at known
pixels alone, then with all losses. What is trained is a function of the region's content, the settings and the seed and
of nothing else: on a CPU, an interrupted training resumes to the same bits, and one region's result does not depend on
which others are trained, nor where. On a GPU sums may be taken in another order each time, so that the same holds but
for rounding.

References
----------
The paper, sections IV.B.3 and IV.C.2.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from lunarray.engine.models import Device, resolve_device
from lunarray.engine.progress import step_bar
from lunarray.engine.training import Checkpoint, seeded
from lunarray.errors import InputError, needs
from lunarray.superres import losses
from lunarray.superres.devices import full_precision
from lunarray.superres.holdout import hold_out
from lunarray.superres.model import HybridModel
from lunarray.superres.optim import Yogi, clip_all, clip_each, cosine_rate
from lunarray.superres.regions import RegionData
from lunarray.superres.settings import TrainSettings
from lunarray.superres.subgraphs import GraphCache, RegionGraphs, SubGraph
from lunarray.superres.trained import TrainedRegion
from lunarray.superres.trend import fit_scaling

with needs("torch", "training on element maps"):
    import torch

#: Elements that together make a soil: with all of them there, predictions should sum to 100 wt%.
_WHOLE = frozenset({"Fe", "Ti", "Ca", "Si", "Al", "Mg", "Na", "O"})
#: Weights of the elements' errors in the published program.
_PUBLISHED = {"Fe": 2.0, "Si": 3.0, "Al": 3.0, "Mg": 3.0}
#: Visits of sub-regions between two checkpoints.
_KEEP = 50

Report = Callable[[dict[str, Any]], None]


def train_region(
    data: RegionData,
    settings: TrainSettings | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    stop_after: int | None = None,
    device: Device = "auto",
    cache: GraphCache | None = None,
    progress: bool | None = None,
    report: Report | None = None,
) -> TrainedRegion | None:
    """Train the networks of one region, on the device; None if stopped before the end.

    A training that finds a `checkpoint` (a file) of the same data and settings goes on from it; whoever keeps the
    result removes it. With `stop_after`, it stops after that many visits of sub-regions, with a checkpoint: for time
    limits. Graphs of the same features and graph settings, from another training, may come from a `cache`. After each
    visit `report` is called with ``region``, ``member``, ``visit``, ``visits``, ``phase``, ``loss`` and each loss by
    name. Raises InputError if too little is known of the region, StoreConflictError if the checkpoint is of other data
    or settings.
    """
    settings = settings or TrainSettings()
    task = _Task(data, settings, cache, resolve_device(device))
    visits = task.visits()
    file = None if checkpoint is None else Checkpoint(checkpoint, stamp(data.digest(), settings))
    state = task.begin(0, [], [])
    kept = None if file is None else file.load()
    if kept is not None:
        state = task.resumed(kept)
    taken = 0
    total = settings.members * len(visits)
    with step_bar(f"Training {data.region}", total, show=progress) as advance:
        if advance is not None:
            advance(state.member * len(visits) + state.visit, "–")
        while state.member < settings.members:
            while state.visit < len(visits) and not task.enough(state):
                if stop_after is not None and taken >= stop_after:
                    if file is not None:
                        file.save(state.to_dict())
                    return None
                parts = task.visit(state, visits)
                parts |= task.check(state)
                taken += 1
                if advance is not None:
                    advance(1, f"loss {parts['loss']:.4g}")
                if report is not None:
                    report(
                        {
                            "region": data.region,
                            "member": state.member,
                            "visit": state.visit,
                            "visits": len(visits),
                            "phase": visits[state.visit - 1].phase + 1,
                            **parts,
                        }
                    )
                if file is not None and state.visit % _KEEP == 0:
                    file.save(state.to_dict())
            done = state.best or _weights(state.model)
            scores = [*state.scores, {"step": state.best_step, "steps": state.steps}]
            state = task.begin(state.member + 1, [*state.done, done], state.history, scores)
    return task.finish(state)


def stamp(data_digest: str, settings: TrainSettings) -> dict[str, Any]:
    """What a checkpoint of a region's training is of: the data's digest and the settings."""
    return {"data": data_digest, "settings": json.loads(settings.to_json())}


def _seed(settings: TrainSettings, region: tuple[int, int], member: int, step: int) -> int:
    words = np.random.SeedSequence([settings.seed, *region, member, step]).generate_state(2)
    return int(words[0]) << 31 | int(words[1]) >> 1


def _weights(model: HybridModel) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


class _Visit(NamedTuple):
    """A visit of a sub-region: the phase, the sub-region's number, and its gradient steps, which are those from `first`
    on of the `span` of a cosine that begins at the rate `highest`."""

    phase: int
    window: int
    steps: int
    first: int
    span: int
    highest: float


@dataclass
class _State:
    """Where a training stands: all that it takes to go on."""

    member: int
    visit: int
    done: list[dict[str, torch.Tensor]]
    history: list[float]
    model: HybridModel
    optimiser: Yogi
    #: What was predicted last at each pixel, (element, row, column), where it is carried on.
    field: np.ndarray | None
    #: Of the members before: the step of their best weights, and all of their steps.
    scores: list[dict[str, int]]
    #: Gradient steps of this member, the best weights on what is held out, when, how well, and checks since.
    steps: int = 0
    best: dict[str, torch.Tensor] | None = None
    best_step: int = 0
    best_score: float = math.inf
    since: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            **{
                name: getattr(self, name) for name in ("member", "visit", "done", "field", *_CHECKS)
            },
            "history": np.array(self.history, np.float64),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }


_CHECKS = ("scores", "steps", "best", "best_step", "best_score", "since")


@dataclass
class _Targets:
    """What is known of a sub-graph's nodes, on the device."""

    #: (node, element), wt%, and at which nodes all elements are there.
    known: torch.Tensor
    mask: torch.Tensor
    #: Footprints in the sub-region: node, footprint and share of each entry.
    pixel: torch.Tensor
    footprint: torch.Tensor
    share: torch.Tensor
    #: (footprint, element): wt%, and relative weight.
    measured: torch.Tensor
    relative: torch.Tensor
    #: Whether there is anything to train on.
    any: bool
    #: (node, element), carried over from other sub-regions, and where that stands for what is not known.
    carried: torch.Tensor | None = None
    unknown: torch.Tensor | None = None


class _Task:
    """One region's training: what stays the same through all its steps."""

    def __init__(
        self,
        data: RegionData,
        settings: TrainSettings,
        cache: GraphCache | None,
        device: Literal["cpu", "cuda"],
    ) -> None:
        #: As it was asked for, which is what the networks' file says.
        self.asked = settings
        if settings.point <= 0 and (settings.footprint <= 0 or not data.support.count):
            if settings.footprint <= 0 or not np.isfinite(data.abundance).any():
                raise InputError(
                    "nothing to train on",
                    where=f"region {data.region}",
                    remedy="Populate the region, and give point or footprint errors a weight",
                )
            settings = replace(settings, point=1.0)  # populated, but the footprints are not at hand
        #: Of all footprints, by which a training is known again.
        self.digest = data.digest()
        data, self.held = hold_out(data, settings.held_out, settings.seed)
        self.data, self.settings, self.device = data, settings, device
        self.scaling, spread = fit_scaling(data, settings)
        self.graphs = RegionGraphs(data, self.scaling, settings, cache, device)
        self.spread = torch.from_numpy(spread).to(device)
        ones = torch.ones_like(self.spread)
        self.weights = 1 / self.spread**2 if settings.scaled else ones
        if settings.element_weights == "published":
            self.weights = self.weights * ones.new_tensor(
                [_PUBLISHED.get(e, 1.0) for e in data.elements]
            )
        self.unit = self.spread if settings.scaled else ones
        self.complete = set(data.elements) >= _WHOLE
        self.support = data.support.restricted(self.graphs.valid.ravel())
        self.relative = self.support.relative_weights()

    def visits(self) -> list[_Visit]:
        """All visits of sub-regions, in their order."""
        s, windows = self.settings, range(len(self.graphs.windows))
        epochs = range(s.epochs)
        if s.order == "phases":
            order = [(e, n, p) for p in (0, 1) for e in epochs for n in windows]
        else:
            order = [(e, n, p) for e in epochs for n in windows for p in (0, 1)]

        def steps(epoch: int, phase: int) -> int:
            return (s.later_steps if epoch and s.later_steps else s.steps)[phase]

        # One cosine over all passes, or one a pass.
        apart = s.later_learning_rate is not None
        spans = [sum(steps(e, p) for e, _, p in order if e == k or not apart) for k in epochs]
        taken = [0] * len(spans)
        visits = []
        for epoch, window, phase in order:
            of = epoch if apart else 0
            later = s.later_learning_rate if epoch and apart else None
            highest = s.learning_rate if later is None else later
            number = steps(epoch, phase)
            visits.append(_Visit(phase, window, number, taken[of], spans[epoch], highest))
            taken[of] += number
        return visits

    def network(self) -> HybridModel:
        count = len(self.data.features), len(self.data.elements)
        return HybridModel(self.settings.architecture(*count))

    def begin(
        self,
        member: int,
        done: list[dict[str, torch.Tensor]],
        history: list[float],
        scores: list[dict[str, int]] | None = None,
    ) -> _State:
        """A network at its start."""
        settings = self.settings
        with seeded(_seed(settings, self.data.region, member, 0)):
            model = self.network()
        with torch.no_grad():  # begins at the trend
            model.output.weight.mul_(0.1)
            model.output.bias.zero_()
        model.to(self.device)
        optimiser = Yogi(
            model.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            form=settings.yogi,
        )
        field = np.full_like(self.data.abundance, np.nan) if settings.diffusion > 0 else None
        return _State(member, 0, done, history, model, optimiser, field, scores or [])

    def resumed(self, kept: dict[str, Any]) -> _State:
        """The state that was kept."""
        state = self.begin(kept["member"], kept["done"], kept["history"].tolist())
        state.visit, state.field = kept["visit"], kept["field"]
        for name in _CHECKS:
            setattr(state, name, kept[name])
        state.model.load_state_dict(kept["model"])
        state.optimiser.load_state_dict(kept["optimiser"])
        return state

    def finish(self, state: _State) -> TrainedRegion:
        """The networks of all members."""
        models = []
        for weights in state.done:
            model = self.network()
            model.load_state_dict(weights)
            models.append(model.eval().requires_grad_(False).to(self.device))
        return TrainedRegion(
            models,
            self.scaling,
            self.data.elements,
            self.asked,
            self.data.region,
            self.residual(models),
            state.history,
            self.digest,
            held_out=self.verdict(models, state.scores),
        )

    def enough(self, state: _State) -> bool:
        """Whether a training is no better on what is held out than it was, for longer than patience goes."""
        return self.held is not None and state.since >= self.settings.patience

    def check(self, state: _State) -> dict[str, float]:
        """After each half of a pass, hold the network against the tracks that it does not see."""
        if self.held is None:
            return {}
        half = math.ceil(
            len(self.graphs.windows) * (2 if self.settings.order == "visits" else 1) / 2
        )
        if state.visit % half:
            return {}
        state.model.eval()
        score = self.held.relative(self.predicted([state.model]))
        if score < state.best_score:
            state.best, state.best_score = _weights(state.model), score
            state.best_step, state.since = state.steps, 0
        else:
            state.since += 1
        return {"held_out": score}

    @torch.no_grad()
    def predicted(self, models: Sequence[HybridModel]) -> np.ndarray:
        """What networks say of the footprints held out, (footprint, element)."""
        held = self.held
        if held is None:
            return np.zeros((0, len(self.data.elements)))
        columns = len(self.data.lon)
        count = len(self.data.lat) * columns
        wanted = np.zeros(count, bool)
        wanted[held.support.pixel] = True
        total, weight = np.zeros((count, len(self.data.elements))), np.zeros(count)
        for number, (rows, cols) in enumerate(self.graphs.windows):
            if not wanted.reshape(-1, columns)[rows, cols].any():
                continue
            graph = self.graphs[number]
            if graph is None:
                continue
            x = self.graphs.inputs(graph)
            at = graph.rows * columns + graph.columns
            for model in models:
                total[at] += self.graphs.predict(model, graph, x).cpu().numpy()
                weight[at] += 1
        with np.errstate(invalid="ignore"):
            values = total / weight[:, None]
        # Where a pixel has no features, the rest of the footprint stands for it.
        there = held.support.restricted(weight > 0, least=0.0)
        result = np.full(held.support.measured.shape, np.nan)
        result[np.isin(held.support.number, there.number)] = there.mean(np.nan_to_num(values))
        return result

    def verdict(
        self, models: Sequence[HybridModel], scores: Sequence[dict[str, int]]
    ) -> dict[str, Any]:
        """How the networks did on what was held out, as a file says it; empty where nothing was."""
        held = self.held
        if held is None:
            return {}
        predicted = self.predicted(models)
        network, mean = held.relative(predicted), held.relative(held.mare_mean)
        return {
            "tracks": held.tracks,
            "footprints": held.support.count,
            "relative": network,
            "mare_mean": mean,
            "rmse": [float(v) for v in held.errors(predicted)],
            "rmse_mare_mean": [float(v) for v in held.errors(held.mare_mean)],
            "learnt": held.better(predicted),
            "members": [dict(s) for s in scores],
        }

    def visit(self, state: _State, visits: Sequence[_Visit]) -> dict[str, float]:
        """Train on one sub-region, and say how large the losses were."""
        settings = self.settings
        own = visits[state.visit]
        before = sum(v.steps for v in visits[: state.visit])
        graph, phase = self.graphs[own.window], own.phase
        state.visit += 1
        if graph is None:
            return {"loss": math.nan}
        x = self.graphs.inputs(graph)
        targets = self.targets(graph, state.field)
        if phase == 0 and not targets.any:
            return {"loss": math.nan}
        terms: dict[str, torch.Tensor] = {}
        for step in range(own.steps):
            rate = cosine_rate(
                own.first + step, own.span, own.highest, settings.lowest_learning_rate
            )
            terms = self.step(state, before + step, rate, graph, x, targets, phase)
        state.steps += own.steps
        if state.field is not None:
            state.model.eval()
            with torch.no_grad():
                now = self.graphs.predict(state.model, graph, x).cpu().numpy()
            old = state.field[:, graph.rows, graph.columns]
            mixed = settings.carried * now.T + (1 - settings.carried) * old
            state.field[:, graph.rows, graph.columns] = np.where(np.isfinite(old), mixed, now.T)
        if not terms:
            return {"loss": math.nan}
        return {"loss": state.history[-1]} | {n: float(t.detach()) for n, t in terms.items()}

    def step(
        self,
        state: _State,
        step: int,
        rate: float,
        graph: SubGraph,
        x: torch.Tensor,
        targets: _Targets,
        phase: int,
    ) -> dict[str, torch.Tensor]:
        """Take one gradient step, and give the losses before it."""
        settings = self.settings
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        # A step's random numbers depend on its number alone: nothing to restore when training is resumed.
        with seeded(_seed(settings, self.data.region, state.member, 1 + step), self.device):
            state.model.train()
            predicted = self.graphs.predict(state.model, graph, x)
        terms = self.terms(predicted, graph, targets, phase)
        loss = sum(terms.values(), torch.zeros((), device=self.device))
        state.optimiser.zero_grad()
        with full_precision(self.device):
            loss.backward()
        clip = clip_each if settings.clipping == "each" else clip_all
        clip(state.model.parameters(), settings.clip)
        state.optimiser.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                f"the loss is {value} at step {step}",
                where=f"region {self.data.region}",
                remedy="Lower the learning rate, or look for wild values among features and abundances",
            )
        state.history.append(value)
        return terms

    def targets(self, graph: SubGraph, field: np.ndarray | None) -> _Targets:
        """What is known of a sub-graph's nodes."""

        def there(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(self.device)

        known = self.data.abundance[:, graph.rows, graph.columns].T.copy()
        mask = np.isfinite(known).all(axis=1)
        columns = len(self.data.lon)
        node = np.full(len(self.data.lat) * columns, -1, np.int64)
        node[graph.rows * columns + graph.columns] = np.arange(len(graph.rows))
        pixel, footprint, share, chosen = self.support.within(node)
        some = bool(mask.any()) if self.settings.point > 0 else False
        targets = _Targets(
            there(known),
            there(mask),
            there(pixel),
            there(footprint),
            there(share),
            there(self.support.measured[chosen]),
            there(self.relative[chosen]),
            some or (self.settings.footprint > 0 and len(chosen) > 0),
        )
        if field is not None:
            carried = field[:, graph.rows, graph.columns].T.copy()
            targets.carried = there(carried)
            targets.unknown = there(np.isfinite(carried).all(axis=1) & ~mask)
        return targets

    def terms(
        self, predicted: torch.Tensor, graph: SubGraph, targets: _Targets, phase: int
    ) -> dict[str, torch.Tensor]:
        """Losses of a phase by name, each times its weight."""
        s, t = self.settings, targets
        terms: dict[str, torch.Tensor] = {}
        if s.point > 0:
            terms["masked_mse"] = s.point * losses.masked_mse(
                predicted, t.known, t.mask, self.weights
            )
        if s.footprint > 0 and len(t.measured):
            terms["footprint_mse"] = s.footprint * losses.footprint_mse(
                predicted, t.pixel, t.footprint, t.share, t.measured, self.weights * t.relative
            )
        if self.complete and s.deviation > 0:
            reduced = s.regularisation if phase == 1 else 1.0
            terms["deviation"] = s.deviation * reduced * losses.deviation(predicted)
        if t.carried is not None and t.unknown is not None:
            terms["carried"] = s.diffusion * losses.masked_mse(
                predicted, t.carried, t.unknown, self.weights
            )
        if phase == 0:
            return terms
        if s.point > 0 and s.regularisation > 0:
            ones = torch.ones_like(self.weights)
            terms["log"] = (
                s.point * s.regularisation * losses.masked_log(predicted, t.known, t.mask, ones)
            )
        near = graph.index[:, :-1]
        for name, weight in (("feature", graph.feature_weight), ("spatial", graph.spatial_weight)):
            factor = getattr(s, f"{name}_similarity")
            if factor > 0 and weight is not None:
                terms[f"{name}_sim"] = factor * losses.similarity(
                    predicted / self.unit, near, weight
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
            targets = self.targets(graph, None)
            if not targets.any:
                continue
            x = self.graphs.inputs(graph)
            mean = torch.stack([self.graphs.predict(m, graph, x) for m in models]).mean(dim=0)
            if self.settings.footprint > 0 and len(targets.measured):
                seen = losses.footprint_means(
                    mean, targets.pixel, targets.footprint, targets.share, len(targets.measured)
                )
                error = (seen - targets.measured).cpu().numpy()
            else:
                error = (mean - targets.known)[targets.mask].cpu().numpy()
            total += np.nansum(error.astype(np.float64) ** 2, axis=0)
            number += np.isfinite(error).sum(axis=0)
        return np.sqrt(total / np.maximum(number, 1)).astype(np.float32)
