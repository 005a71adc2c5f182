"""The losses against transcriptions of the paper's formulas written out as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lunarray.superres import losses
from lunarray.superres.optim import Yogi, clip_each, cosine_rate

torch.set_num_threads(1)


@pytest.fixture
def case(rng):
    nodes, k, elements, features = 14, 5, 8, 6
    y = rng.uniform(0.5, 40, (nodes, elements))
    a = rng.uniform(0.5, 40, (nodes, elements))
    mask = rng.random(nodes) < 0.6
    a[~mask, 2] = np.nan
    index = np.stack([rng.choice(np.delete(np.arange(nodes), i), k, False) for i in range(nodes)])
    return {
        "y": y,
        "a": a,
        "mask": mask,
        "w": rng.uniform(0.1, 2, elements),
        "index": index,
        "W": rng.standard_normal((nodes, features)),
        "loc": rng.uniform(-10, 10, (nodes, 2)),
    }


def tensor(value):
    return torch.from_numpy(np.asarray(value))


def test_masked_mse(case):
    total = count = 0.0
    for i in range(len(case["y"])):
        if case["mask"][i]:
            count += 1
            for j in range(8):
                total += case["w"][j] * (case["y"][i, j] - case["a"][i, j]) ** 2
    got = losses.masked_mse(*(tensor(case[n]) for n in ("y", "a", "mask", "w")))
    assert got.item() == pytest.approx(total / count, rel=1e-12)


def test_masked_log(case):
    epsilon = 1e-3
    total = count = 0.0
    for i in range(len(case["y"])):
        if case["mask"][i]:
            count += 1
            for j in range(8):
                ratio = math.log(case["y"][i, j] + epsilon) - math.log(case["a"][i, j] + epsilon)
                total += case["w"][j] * ratio**2
    got = losses.masked_log(*(tensor(case[n]) for n in ("y", "a", "mask", "w")), epsilon=epsilon)
    assert got.item() == pytest.approx(total / count, rel=1e-12)


def test_masked_log_of_negative_predictions_is_finite():
    y = torch.tensor([[-1.0, 2.0]], requires_grad=True)
    known = torch.tensor([[1.0, 2.0]])
    loss = losses.masked_log(y, known, torch.tensor([True]), torch.ones(2))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(y.grad).all()


def test_nothing_known_is_no_loss(case):
    none = torch.zeros(len(case["y"]), dtype=torch.bool)
    y, a, w = (tensor(case[n]) for n in ("y", "a", "w"))
    assert losses.masked_mse(y, a, none, w).item() == 0
    assert losses.masked_log(y, a, none, w).item() == 0


def test_feature_similarity(case):
    y, index, features = case["y"], case["index"], case["W"]
    total = edges = 0.0
    for s in range(len(y)):
        for t in index[s]:
            distance = math.sqrt(sum((features[s, f] - features[t, f]) ** 2 for f in range(6)))
            norm = sum((y[s, j] - y[t, j]) ** 2 for j in range(8))
            total += math.exp(-distance) * norm
            edges += 1
    weight = torch.exp(-tensor(np.linalg.norm(features[index] - features[:, None], axis=-1)))
    got = losses.similarity(tensor(y), tensor(index), weight)
    assert got.item() == pytest.approx(total / edges, rel=1e-12)


def test_spatial_similarity(case):
    y, index, loc = case["y"], case["index"], case["loc"]
    distances = [math.dist(loc[s], loc[t]) for s in range(len(y)) for t in index[s]]
    low, high, epsilon = min(distances), max(distances), 1e-6
    total = edges = 0.0
    for s in range(len(y)):
        for t in index[s]:
            w = math.exp(-(math.dist(loc[s], loc[t]) - low) / (high - low + epsilon))
            total += w * sum((y[s, j] - y[t, j]) ** 2 for j in range(8))
            edges += 1
    weight = losses.spatial_weights(tensor(loc), tensor(index), epsilon)
    got = losses.similarity(tensor(y), tensor(index), weight)
    assert got.item() == pytest.approx(total / edges, rel=1e-12)


def test_edges_to_oneself_do_not_count_in_the_extremes(case):
    index, loc = tensor(case["index"]), tensor(case["loc"])
    own = torch.cat([index, torch.arange(len(index))[:, None]], dim=1)
    assert torch.equal(losses.spatial_weights(loc, own)[:, :-1], losses.spatial_weights(loc, index))


def test_deviation(case):
    total = sum(abs(sum(row) - 100) for row in case["y"].tolist())
    assert losses.deviation(tensor(case["y"])).item() == pytest.approx(total / len(case["y"]))


def test_footprint_mse(rng):
    y = rng.uniform(1, 20, (10, 2))
    cover = {0: [0, 1, 2], 1: [2, 5], 2: [9]}
    share = {0: [0.5, 0.25, 0.25], 1: [0.4, 0.6], 2: [1.0]}
    measured = rng.uniform(1, 20, (3, 2))
    measured[1, 0] = np.nan
    weights = rng.uniform(0.5, 2, (3, 2))
    total = count = 0
    for f, pixels in cover.items():
        for j in range(2):
            if math.isnan(measured[f, j]):
                continue
            mean = sum(s * y[p, j] for s, p in zip(share[f], pixels, strict=True))
            total += weights[f, j] * (mean - measured[f, j]) ** 2
            count += 1
    pixel = np.concatenate([cover[f] for f in cover])
    footprint = np.repeat(list(cover), [len(v) for v in cover.values()])
    got = losses.footprint_mse(
        tensor(y).requires_grad_(),
        tensor(pixel),
        tensor(footprint),
        tensor(np.concatenate([share[f] for f in share])),
        tensor(measured),
        tensor(weights),
    )
    assert got.item() == pytest.approx(total / count, rel=1e-12)
    got.backward()  # a missing measurement must not make the gradient NaN


# ------------------------------------------------------------------------------------------ optimiser
@pytest.mark.parametrize("form", ["zaheer", "text"])
def test_yogi_is_its_algorithm(rng, form):
    start, lr, eps = rng.standard_normal(5), 0.05, 1e-3
    p = torch.nn.Parameter(tensor(start.copy()))
    optimiser = Yogi([p], lr=lr, eps=eps, form=form)
    theta, m, v = start.copy(), np.zeros(5), None
    for _ in range(6):
        g = rng.standard_normal(5)
        p.grad = tensor(g.copy())
        optimiser.step()
        v = g**2 if v is None else v
        for i in range(5):
            sign = float(np.sign(v[i] - g[i] ** 2))
            if form == "zaheer":
                m[i] = 0.9 * m[i] + 0.1 * g[i]
                v[i] = v[i] - 0.001 * sign * g[i] ** 2
                theta[i] -= lr * m[i] / (math.sqrt(v[i]) + eps)
            else:
                v[i] = max(v[i] - sign * lr, 0.0)
                theta[i] -= lr * g[i] / (math.sqrt(v[i]) + eps)
    np.testing.assert_allclose(p.detach().numpy(), theta, rtol=1e-12)


def test_yogi_finds_a_minimum():
    p = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimiser = Yogi([p], lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        ((p - torch.tensor([1.0, 0.5])) ** 2).sum().backward()
        optimiser.step()
    assert torch.allclose(p.detach(), torch.tensor([1.0, 0.5]), atol=1e-2)


def test_yogi_of_unknown_form():
    from lunarray.errors import InputError

    with pytest.raises(InputError, match="YOGI"):
        Yogi([torch.nn.Parameter(torch.zeros(1))], form="adam")


def test_cosine_rate_is_torchs():
    p = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([p], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20, eta_min=0.001)
    for step in range(20):
        assert cosine_rate(step, 20, 0.1, 0.001) == pytest.approx(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()


def test_each_gradient_is_clipped_by_itself():
    small, large = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    small.grad, large.grad = torch.tensor([0.3, 0.4]), torch.tensor([30.0, 40.0])
    clip_each([small, large], 1.0)
    assert torch.equal(small.grad, torch.tensor([0.3, 0.4]))
    assert torch.allclose(large.grad, torch.tensor([0.6, 0.8]))
