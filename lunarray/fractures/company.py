"""Several processes that train one network, each on its share of every batch, as torchrun or a cluster starts them.

The numbers are those of one process: the loss is taken over the whole batch, whose logits all have, batch
normalisation sees the whole batch, and gradients are added up by torch's DistributedDataParallel.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from lunarray.engine.accounts import log
from lunarray.engine.execution import current_client, in_one_process
from lunarray.errors import InputError, needs

with needs("torch", "training on fractures"):
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed import nn as across
    from torch.nn import functional as F


class Company:
    """The processes of a training, and this one among them; alone where nothing has started others."""

    def __init__(self) -> None:
        self.own = False
        if not dist.is_available():
            self.rank, self.size = 0, 1
            return
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
            self.own = True
        there = dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if there else (0, 1)

    def close(self) -> None:
        """End the group, where it was begun here."""
        if self.own:
            dist.destroy_process_group()
            self.own = False

    def check(self, batch_size: int) -> None:
        """Insist on two tiles for each process: one has no variance."""
        if batch_size < 2 * self.size:
            raise InputError(
                f"batches of {batch_size} for {self.size} processes",
                where="batch_size",
                remedy=f"Give {2 * self.size} or more: a batch is shared among all",
            )

    def share(self, batch: Sequence[Any]) -> Sequence[Any]:
        """The part of a batch that is this process's; of few tiles, one that others have too."""
        if len(batch) < self.size:
            return batch[:1] if self.rank else batch
        first, last = (len(batch) * k // self.size for k in (self.rank, self.rank + 1))
        return batch[first:last]

    def joined(self, network: nn.Module) -> nn.Module:
        """The network as all train it; `network` itself keeps the weights."""
        if self.size == 1:
            return network
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                above, _, last = name.rpartition(".")
                setattr(network.get_submodule(above), last, _of_all(module))
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)

    def whole(self, *parts: torch.Tensor) -> list[torch.Tensor]:
        """Of each (tile, ...), those of all processes; gradients go back to where each came from."""
        if self.size == 1:
            return list(parts)
        counts: list[Any] = [None] * self.size
        dist.all_gather_object(counts, len(parts[0]))
        most = max(counts)
        found = []
        for part in parts:
            filled = F.pad(part, (0, 0) * (part.ndim - 1) + (0, most - len(part)))
            if part.requires_grad:
                pieces = across.functional.all_gather(filled)
            else:
                sent = filled.contiguous().to(torch.uint8) if part.dtype == torch.bool else filled
                pieces = [torch.empty_like(sent) for _ in range(self.size)]
                dist.all_gather(pieces, sent.contiguous())
                pieces = [p.to(part.dtype) for p in pieces]
            kept = [p[:n] for p, n in zip(pieces, counts, strict=True)]
            found.append(torch.cat(kept))
        return found

    def wait(self) -> None:
        """Go on when all are here."""
        if self.size > 1:
            dist.barrier()


def _of_all(norm: nn.BatchNorm2d) -> nn.Module:
    """The same batch normalisation, over the tiles of all processes."""
    if next(norm.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    shared = _SharedNorm(norm.num_features, norm.eps, norm.momentum)
    shared.load_state_dict(norm.state_dict())
    return shared.train(norm.training)


class _SharedNorm(nn.BatchNorm2d):
    """torch's SyncBatchNorm on a CPU, where that does not run."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        axes, count = (0, 2, 3), torch.tensor(float(input[:, 0].numel()))
        dist.all_reduce(count)
        mean = across.functional.all_reduce(input.sum(axes)) / count
        off = input - mean[:, None, None]
        variance = across.functional.all_reduce(off.square().sum(axes)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            share = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * count / (count - 1), share)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return off * scale[:, None, None] + self.bias[:, None, None]


# --- On a cluster ---------------------------------------------------------------------------------

#: Until all have met, and until those that wait for one that was lost give up.
_PATIENCE = timedelta(minutes=30)

P = ParamSpec("P")
R = TypeVar("R")


def with_a_cluster(function: Callable[P, R]) -> Callable[P, R]:
    """Run a training on the workers of the Dask cluster in force, all at one network; without one, here."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        workers = [] if _within() else _members(current_client())
        if len(workers) < 2:
            return function(*args, **kwargs)
        # By its public name, which is that of this wrapper: a worker finds it there.
        return _together(workers, run, args, kwargs)

    return run


def _within() -> bool:
    """Whether this is a task of a cluster, or one of several processes already."""
    from_torchrun = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if from_torchrun or (dist.is_available() and dist.is_initialized()):
        return True
    try:
        from distributed import get_worker

        get_worker()
    except (ImportError, ValueError):
        return False
    return True


def _members(client: Any) -> list[str]:
    """Workers that a training is shared among: those with a GPU, if there are some; each a process of its own."""
    if client is None or in_one_process(client) or not dist.is_available():
        return []
    there = client.scheduler_info(n_workers=-1)["workers"]
    with_gpu = [name for name, about in there.items() if about["resources"].get("GPU")]
    return sorted(with_gpu or there)


def _together(workers: list[str], function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What the first worker's training gives."""
    from distributed import wait

    client = current_client()
    batch_size = getattr(kwargs.get("settings"), "batch_size", 2 * len(workers))
    # Two tiles for each: of a small batch, some workers have no part.
    workers = workers[: max(1, batch_size // 2)]
    port = client.submit(_free_port, workers=workers[:1], pure=False).result()
    meeting = f"tcp://{urlsplit(workers[0]).hostname}:{port}"
    log("fractures", "company", f"training on {len(workers)} workers", workers=workers)
    [given] = client.scatter([(args, kwargs)], broadcast=True, hash=False)
    work = [
        client.submit(
            _member, rank, len(workers), meeting, function, given,
            workers=[name], allow_other_workers=False, pure=False, retries=0,
        )
        for rank, name in enumerate(workers)
    ]  # fmt: skip
    try:
        # The first that fails says why; the others only miss it.
        wait(work, return_when="FIRST_COMPLETED")
        failed = [future for future in work if future.status == "error"]
        return (failed or work)[0].result()
    finally:
        client.cancel(work)


def _free_port() -> int:
    with socket.socket() as some:
        some.bind(("", 0))
        return int(some.getsockname()[1])


def _member(
    rank: int, size: int, meeting: str, function: Callable[..., Any], given: tuple[Any, Any]
) -> Any:
    """One worker's part; the first gives the result."""
    import dask

    on_gpu = torch.cuda.is_available()
    if size > 1:
        dist.init_process_group(
            "nccl" if on_gpu else "gloo", init_method=meeting, rank=rank, world_size=size, timeout=_PATIENCE
        )  # fmt: skip
    try:
        # Tiles that are lazy are read here: the cluster's threads are all at this.
        with dask.config.set(scheduler="synchronous"):
            args, kwargs = given
            found = function(*args, **kwargs)
    finally:
        if size > 1:
            dist.destroy_process_group()
    return found if rank == 0 else None
