"""What a GPU must be told so that its numbers are a CPU's but for rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Let products and convolutions of float32 on a GPU be of float32, whatever the process chose for its models."""
    import torch

    if torch.device(device).type == "cpu":
        yield
        return
    former = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(former)
