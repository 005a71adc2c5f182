"""Leave-one-out training of the 1D-CNN, n = 32, 64 samples of 150 bands, six oxides: fold-epochs/s.

All contenders train the same folds from the same weights, full batch, with Adam in float32. After 5 epochs the weights
of the first fold must agree with those of the plain loop in float64 to 1e-4, root mean square. (Adam's first steps have
the length of the learning rate whatever the gradient: where this is nearly zero, rounding decides the sign, so that one
weight in a hundred, of PyTorch's own float32 loop too, is off by up to two steps. The convolutions' biases are left
out: they have no effect before batch normalisation, and the gradient that autograd gives them is rounding error.)

The limit is what this machine's best fp32 matrix product would reach at the network's nominal operations, three times
those of a forward pass. Ours may exceed it: it needs 2.25 times fewer multiplications for a convolution. On a GPU the
paper's whole leave-one-out, 940 folds x 100 epochs, is timed as well.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers import Absent, Comparison, Contender, Options
from benchmarks.peers.oxides import BANDS, SEED, N, _gemm, network_operations
from lunarray.engine.batches import torch_threads

SAMPLES, OUTPUTS, EPOCHS = 64, 6, 5
TOLERANCE = 1e-4
#: Samples, epochs of the paper.
PAPER = (940, 100)


def prepare(options: Options) -> Comparison:
    """Set up the contenders."""
    from lunarray.oxides.settings import TrainSettings

    samples = 16 if options.quick else SAMPLES
    x, y = _data(samples)
    settings = TrainSettings(n=N, epochs=EPOCHS, seed=SEED)
    kept = [np.delete(np.arange(samples), fold) for fold in range(4 * options.threads)]
    reference = _double(x[kept[0]], y[kept[0]], settings)

    def check(state: dict[str, np.ndarray]) -> float:
        off = np.concatenate([(state[name] - value).ravel() for name, value in reference.items()])
        deviation = float(np.sqrt(np.mean(off**2)))
        assert deviation <= TOLERANCE, f"weights differ from the plain loop's by {deviation:.1e}"
        return deviation

    operations = 3 * (samples - 1) * network_operations(N, BANDS)
    peers = {"torch_sequential": _sequential(x, y, kept[:1], settings, options)}
    extras: dict[str, Contender | Absent] = {
        "stacked": _stacked(x, y, kept[:2], settings, options, "cpu"),
        "stacked_gpu": _stacked(x, y, kept * 16, settings, options, "cuda"),
    }
    return Comparison(
        unit="fold-epochs/s",
        ours=_ours(x, y, kept, settings, options),
        peers=peers,
        limit=("fp32 GEMM of BLAS at the network's nominal operations", _gemm(operations, options)),
        check=check,
        extras=extras,
        finish=partial(_finish, operations=operations),
        notes=(
            f"{operations / 1e9:.2f} GFLOP a fold-epoch ({samples - 1} training samples). Ours needs 2.25 times fewer"
            " multiplications for a convolution (F(6, 3)), so it may exceed the limit.",
        ),
    )


def _data(samples: int) -> tuple[np.ndarray, np.ndarray]:
    from lunarray import simulate
    from lunarray.oxides.constants import OXIDES

    soils = simulate.soils(samples, SEED)
    spectra = simulate.add_sp_errors(soils.reflectance, SEED).values
    return spectra, np.stack([soils[oxide].values for oxide in OXIDES], axis=1)


def _double(x: np.ndarray, y: np.ndarray, settings: Any) -> dict[str, np.ndarray]:
    """The plain loop in float64: the weights that all must reach."""
    import torch

    from lunarray.oxides.networks import initial_state, network_of, standardisation

    state = {**initial_state(settings, x.shape[1], y.shape[1]), **standardisation(x, y)}
    model = network_of(state).double().requires_grad_(True).train()
    spectra, targets = (torch.from_numpy(a).double() for a in (x, y))
    standard = (targets - model.target_mean) / model.target_std
    optimiser = torch.optim.Adam(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    for _ in range(settings.epochs):
        loss = torch.nn.functional.mse_loss(model.forward_standardised(spectra), standard)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    names = (name for name, _ in model.named_parameters() if not name.endswith("0.bias"))
    return {name: model.state_dict()[name].numpy() for name in names}


def _ours(
    x: np.ndarray, y: np.ndarray, kept: list[np.ndarray], settings: Any, options: Options
) -> Contender:
    from lunarray.oxides.fold_batches import FusedBatch

    def run() -> dict[str, np.ndarray]:
        batch = FusedBatch(x, y, kept, settings, workers=options.threads)
        batch.run(settings.epochs)
        return batch.states()[0]

    return Contender(len(kept) * EPOCHS, {f"{len(kept)} folds, {options.threads} threads": run})


def _sequential(
    x: np.ndarray, y: np.ndarray, kept: list[np.ndarray], settings: Any, options: Options
) -> Contender:
    from lunarray.oxides.minibatch import train_network
    from lunarray.oxides.settings import MinibatchSettings

    plain = MinibatchSettings(n=settings.n, epochs=settings.epochs, seed=settings.seed)

    def run(threads: int) -> dict[str, np.ndarray]:
        with torch_threads(threads):
            models = [train_network(x[index], y[index], plain, device="cpu") for index in kept]
        return {name: value.numpy() for name, value in models[0].state_dict().items()}

    threads = sorted({1, options.threads})
    return Contender(
        len(kept) * EPOCHS, {f"one after another, {t} threads": partial(run, t) for t in threads}
    )


def _stacked(
    x: np.ndarray,
    y: np.ndarray,
    kept: list[np.ndarray],
    settings: Any,
    options: Options,
    device: str,
) -> Contender | Absent:
    import torch

    from lunarray.oxides.fold_batches import StackedBatch

    if device == "cuda" and not torch.cuda.is_available():
        return Absent("torch finds no GPU")

    def run() -> dict[str, np.ndarray]:
        with torch_threads(options.threads):
            batch = StackedBatch(x, y, kept, settings, device=device)
            batch.run(settings.epochs)
            return batch.states()[0]

    return Contender(
        len(kept) * EPOCHS, {f"{len(kept)} folds, batched matrix products, {device}": run}
    )


def _finish(report: dict[str, Any], *, operations: int) -> dict[str, Any]:
    """Rates in nominal operations; on a GPU, what the paper's leave-one-out takes."""
    import torch

    rate = report["ours"]["value"] * operations / 1e9
    print(f"ours: {rate:,.0f} GFLOP/s of nominal operations")
    result: dict[str, Any] = {"gflops": round(rate)}
    if not torch.cuda.is_available():
        return result
    from lunarray.oxides.fold_batches import StackedBatch, folds_that_fit
    from lunarray.oxides.settings import TrainSettings

    samples, epochs = PAPER
    x, y = _data(samples)
    folds = min(samples, folds_that_fit(x.shape, N))
    kept = [np.delete(np.arange(samples), fold) for fold in range(folds)]
    batch = StackedBatch(x, y, kept, TrainSettings(n=N), device="cuda")
    batch.run(2)
    torch.cuda.synchronize()
    begin, some = time.perf_counter(), 10
    batch.run(some)
    a_fold_epoch = (time.perf_counter() - begin) / (some * folds)
    work = 3 * (samples - 1) * network_operations(N, BANDS)
    a = torch.randn(8192, 8192, device="cuda")
    torch.mm(a, a)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(10):
        torch.mm(a, a)
    torch.cuda.synchronize()
    limit = 10 * 2 * 8192**3 / (time.perf_counter() - begin)
    minutes = a_fold_epoch * samples * epochs / 60
    print(
        f"{torch.cuda.get_device_name()}: the paper's {samples} folds x {epochs} epochs, six oxides in one network, in"
        f" {minutes:.1f} min ({folds} folds at a time; {some} epochs of one batch were timed);"
        f" {work / a_fold_epoch / 1e12:.1f} of {limit / 1e12:.1f} TFLOP/s that its fp32 matrix product reaches"
    )
    return result | {
        "paper_minutes": float(f"{minutes:.3g}"),
        "gpu_tflops": float(f"{work / a_fold_epoch / 1e12:.3g}"),
        "gpu_limit_tflops": float(f"{limit / 1e12:.3g}"),
    }
