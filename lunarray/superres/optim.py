"""YOGI, and the cosine schedule with which the paper trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

from lunarray.errors import needs, require_choice

with needs("torch", "training on element maps"):
    import torch


class Yogi(torch.optim.Optimizer):
    """YOGI: Adam whose second moment moves towards g² by a bounded step (Zaheer et al. 2018, NeurIPS 31).

    The step size is `lr`; `betas` are β1 of the gradient's mean and β2 of its square, `eps` is added to the root of the
    second moment, and parameters shrink by lr × `weight_decay` in a step. The `form` "zaheer" is the algorithm as
    published (algorithm 2), v ← v − (1−β2) sign(v − g²) g² and θ ← θ − α m / (√v + ε). "text" is what the
    super-resolution paper prints, v ← v − η sign(v − g²) and θ ← θ − α g / (√v + ε), without g² in the step of v and
    without a mean of gradients; v is held at zero where that would make it negative. Both start with v = g² of the
    first step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        form: Literal["zaheer", "text"] = "zaheer",
    ) -> None:
        require_choice("form of YOGI", form, ("zaheer", "text"))
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )
        self.form = form

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step, and give what `closure` gave, which evaluates the model anew."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad
                square = g * g
                state = self.state[p]
                if not state:
                    state["mean"], state["square"] = torch.zeros_like(p), square.clone()
                m, v = state["mean"], state["square"]
                p.mul_(1 - lr * group["weight_decay"])
                if self.form == "zaheer":
                    m.mul_(beta1).add_(g, alpha=1 - beta1)
                    v.addcmul_(torch.sign(v - square), square, value=-(1 - beta2))
                    p.addcdiv_(m, v.sqrt().add_(eps), value=-lr)
                else:
                    v.sub_(torch.sign(v - square), alpha=lr).clamp_min_(0)
                    p.addcdiv_(g, v.sqrt().add_(eps), value=-lr)
        return loss


def cosine_rate(step: int, steps: int, highest: float, lowest: float) -> float:
    """Cosine annealing (the paper, section IV.B.3): from `highest` at step 0 to `lowest` at `steps`."""
    return lowest + 0.5 * (highest - lowest) * (1 + math.cos(math.pi * step / max(steps, 1)))


def clip_all(parameters: Iterable[torch.nn.Parameter], limit: float) -> None:
    """Rescale all gradients together where their common norm exceeds a limit, as the published program does."""
    torch.nn.utils.clip_grad_norm_(list(parameters), limit)


def clip_each(parameters: Iterable[torch.nn.Parameter], limit: float) -> None:
    """Rescale the gradient of every parameter whose norm exceeds a limit: each by itself, as the paper has it (τ)."""
    for p in parameters:
        if p.grad is not None:
            p.grad.mul_(torch.clamp(limit / (p.grad.norm() + 1e-12), max=1.0))
