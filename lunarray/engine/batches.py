"""Batches that shrink where memory does not suffice for them, and the threads that work on one."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext

from lunarray.engine.accounts import event, stage
from lunarray.errors import needs

#: Items below which a batch is not cut further: then it is not the batch that is too large.
LEAST = 16


#: How many threads the models that this thread runs may use, where that was said.
_own = threading.local()

#: Sizes that memory sufficed for, so that the next block need not find out again.
_fitting: dict[Hashable, int] = {}


def in_batches(
    call: Callable[[int, int], None],
    count: int,
    batch_size: int,
    *,
    least: int = LEAST,
    name: str = "model",
    remember: Hashable = None,
) -> int:
    """Call a function for consecutive parts of some items; halve the part where memory runs out, and try again.

    Parameters
    ----------
    call : callable
        Takes begin and end of a part. It must give the same for an item whatever part it is in, and may be called again
        for one that failed.
    count : int
        Items.
    batch_size : int
        Of a part, at most.
    least : int
        Size at which the error is raised and nothing more cut.
    name : str
        The stage of the run report that the time counts for.
    remember : hashable, optional
        What the parts are of, such as a model's digest: a size that had to be cut is cut from the start in the next
        call of this process with the same.

    Returns
    -------
    int
        Size of a part at the end.

    Raises
    ------
    Exception
        What `call` raised, if it was not for want of memory or the parts are as small as `least`.

    Examples
    --------
    >>> import lunarray as la
    >>> la.engine.in_batches(lambda start, stop: print(start, stop), 10, 4, name="squares")
    0 4
    4 8
    8 10
    4
    """
    begin = 0
    batch_size = min(batch_size, _fitting.get(remember, batch_size))
    while begin < count:
        try:
            with stage(name):
                call(begin, min(begin + batch_size, count))
        except Exception as error:
            if not out_of_memory(error) or batch_size <= least:
                raise
            smaller = max(least, batch_size // 2)
            event(
                "engine",
                "smaller_batch",
                f"{type(error).__name__} in {name}: batches of {smaller} instead of {batch_size}",
                stage=name,
                batch_size=smaller,
            )
            batch_size = smaller
            if remember is not None:
                _fitting[remember] = smaller
            # Its frames hold the tensors that did not fit.
            error.__traceback__ = None
        else:
            begin += batch_size
            continue
        _release()
    return batch_size


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that a GPU or this process has no memory left for a batch."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _release() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Set torch's threads of the calling thread for a while, its BLAS included; None leaves them as they are."""
    with needs("torch", "a network"):
        import torch

    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def model_threads(threads: int | None) -> Iterator[None]:
    """Say for a while how many threads the models that the calling thread runs may use, whatever runs them."""
    before = getattr(_own, "threads", None)
    _own.threads = before if threads is None else threads
    try:
        # Models are loaded by now: one of torch has imported it.
        with torch_threads(threads) if "torch" in sys.modules else nullcontext():
            yield
    finally:
        _own.threads = before


def threads_here() -> int | None:
    """Threads that a model may use in the calling thread; None, as many as there are, for the main thread.

    Others are Dask's, one for each core, unless :func:`model_threads` says otherwise.
    """
    said = getattr(_own, "threads", None)
    if said is None and threading.current_thread() is not threading.main_thread():
        return 1
    return said
