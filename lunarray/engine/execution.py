"""Running the writes of regions to the end: on threads, processes or a cluster, through failures.

Dask runs the tasks and, on a cluster, moves the work of a lost worker elsewhere. What is added here is that a block
that fails takes only its own regions along: after the retries it is recorded, and the others go on.
"""

from __future__ import annotations

import logging
import sys
import uuid
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import dask
from dask.utils import key_split

from lunarray.engine import accounts, graph
from lunarray.engine.failures import FINAL, Failure, attempt
from lunarray.engine.planning import Region, Work
from lunarray.errors import StoreConflictError, StoreError, StoreWriteError

#: Tasks that a scheduler gets at once. More would cost it memory long before their turn comes.
MAX_TASKS = 50_000

#: Regions on their way at once for each thread of a cluster whose tasks are bound to labelled workers: Dask holds the
#: sources of such tasks back no longer, so that without a bound all of the input would be read ahead of the models.
REGIONS_PER_THREAD = 3

Errors = Literal["raise", "nan"]

#: Runs of this process that were stopped while threads were still at work for them.
_stopped: set[str] = set()


@dataclass
class Outcome:
    """What a run came to, beside what it wrote.

    `records`: :func:`lunarray.engine.accounts.take` of each region that was written, and what else processes told;
    `failures`: fields of :class:`Failure` and the key; `tasks`: for each kind, count and seconds of computing and of
    moving data; `scheduler`: what ran it.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    retries: int = 0
    lost_workers: int = 0
    tasks: dict[str, dict[str, float]] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)


def run(
    work: Work,
    *,
    retries: int = 2,
    errors: Errors = "raise",
    done: Callable[[Hashable], None] = lambda key: None,
    outcome: Outcome | None = None,
) -> Outcome:
    """Run tasks on the Dask scheduler in force.

    `retries`: how often a task that fails is tried again; `errors` {"raise", "nan"}: what follows when it fails for
    good: raise its exception, or record it and go on without what depends on it; `done`: takes the key of each task
    that came to its end, well or not. What it raises stops the run; `outcome`: to be filled; so that it is there too if
    the run is stopped by an exception. StoreWriteError if the store cannot be written any more, whatever `errors` says:
    no block is to blame for that. With ``errors="raise"``, what a task raised.
    """
    outcome = Outcome() if outcome is None else outcome
    client = current_client()
    if client is None:
        _run_local(work, retries, errors, done, outcome)
    else:
        _run_distributed(client, work, retries, errors, done, outcome)
    return outcome


def current_client() -> Any:
    """Give the Dask client in force, if `distributed` is in use at all.

    Returns
    -------
    distributed.Client or None

    Examples
    --------
    >>> import lunarray as la
    >>> la.engine.current_client() is None
    True
    """
    if "distributed" not in sys.modules or dask.config.get("scheduler", None) not in (
        None,
        "distributed",
        "dask.distributed",
    ):
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def in_one_process(client: Any) -> bool:
    """Whether tasks run in this process; `client`: the one in force, if there is one."""
    if client is None:
        return "process" not in _scheduler_name(dask.base.get_scheduler() or dask.threaded.get)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return all(address.startswith("inproc://") for address in workers)


def labels(client: Any) -> dict[str, int]:
    """Count the workers of a cluster that carry each resource label."""
    found: dict[str, int] = {}
    if client is not None and not client.asynchronous:
        for worker in client.scheduler_info(n_workers=-1)["workers"].values():
            for label in worker.get("resources") or {}:
                found[label] = found.get(label, 0) + 1
    return found


@dataclass(slots=True, eq=False, repr=False)
class _Guarded:
    """A task that is tried again when it fails, and then gives a Failure, or passes on the one that it got."""

    node: Any
    names: tuple[Hashable, ...]
    retries: int
    keep: bool
    run: str

    def __call__(self, *values: Any) -> Any:
        for value in values:
            if isinstance(value, Failure):
                return value
        stage = key_split(self.node.key)
        how: dict[str, Any] = {
            "retries": self.retries,
            "keep": self.keep,
            "stopped": lambda: self.run in _stopped,
        }
        if isinstance(self.node.func, Region):
            return self.node.func.run(values, stage, **how)
        arguments = dict(zip(self.names, values, strict=True))
        return attempt(partial(self.node, arguments), stage, **how)


def _run_local(
    work: Work, retries: int, errors: Errors, done: Callable[[Hashable], None], outcome: Outcome
) -> None:
    run = uuid.uuid4().hex
    tasks: dict[Any, Any] = {}
    for key, node in work.graph.items():
        if graph.plain(node):
            tasks[key] = node
        else:
            region = isinstance(node.func, Region)
            names = node.func.needs if region else tuple(node.dependencies)
            guarded = _Guarded(node, names, retries, errors == "nan", run)
            tasks[key] = graph.task(key, guarded, names)
    wanted = set(work.keys)

    def settle(key: Hashable, result: Any) -> None:
        if key not in wanted:
            return
        wanted.discard(key)
        if isinstance(result, Failure):
            outcome.failures.append({"key": key, **asdict(result)})
            _log_failure(key, result)
        elif isinstance(result, dict):
            outcome.records.append({**result, "key": key})
        done(key)

    get = dask.base.get_scheduler() or dask.threaded.get
    outcome.scheduler = {"kind": _scheduler_name(get), "threads": _threads(get)}
    accounts.take()
    try:
        with dask.callbacks.Callback(posttask=lambda key, result, *_: settle(key, result)):
            results = get(tasks, list(work.keys))
        for key, result in zip(work.keys, results, strict=True):
            settle(key, result)  # a scheduler of the user's own need not call back
    except BaseException:
        _stopped.add(run)  # threads are at work still: they are to write nothing more
        raise
    finally:
        outcome.records.append(accounts.take())
        outcome.retries += sum(
            event["event"] == "retry" for record in outcome.records for event in record["events"]
        )
        _take_tasks(outcome)


def _take_tasks(outcome: Outcome) -> float:
    """Move what the accounts hold of single tasks to their table; give the seconds."""
    total = 0.0
    for record in outcome.records:
        for name, (count, seconds) in list(record["stages"].items()):
            if name.startswith("task:"):
                del record["stages"][name]
                _add_task(outcome, name[5:], "compute", seconds, count)
                total += seconds
    return total


_SCHEDULERS = {"threaded": "threads", "multiprocessing": "processes", "local": "synchronous"}


def _scheduler_name(get: Any) -> str:
    module = getattr(get, "__module__", "")
    own = f"{module}.{getattr(get, '__name__', get)}"
    return _SCHEDULERS.get(module.removeprefix("dask."), own)


def threads() -> int | None:
    """Count the threads that run tasks: of the cluster in force, or here; None where a scheduler does not say."""
    client = current_client()
    if client is None:
        return _threads(dask.base.get_scheduler() or dask.threaded.get)
    return sum(w["nthreads"] for w in client.scheduler_info(n_workers=-1)["workers"].values())


def _threads(get: Any) -> int | None:
    from dask.system import CPU_COUNT

    kind = _scheduler_name(get)
    if kind == "synchronous":
        return 1
    if kind not in ("threads", "processes"):
        return None
    return dask.config.get("num_workers", None) or CPU_COUNT


def _run_distributed(
    client: Any,
    work: Work,
    retries: int,
    errors: Errors,
    done: Callable[[Hashable], None],
    outcome: Outcome,
) -> None:
    from distributed import as_completed

    watch = _watch(client)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    threads = sum(worker["nthreads"] for worker in workers.values())
    outcome.scheduler = {
        "kind": "distributed",
        "address": client.scheduler.address if client.scheduler else None,
        "workers": len(workers),
        "threads": threads,
        "labels": labels(client),
    }
    _accounts_of(client)
    waiting = deque(work.keys)
    flying: dict[Any, Hashable] = {}
    completed = as_completed()
    limit = max(8, REGIONS_PER_THREAD * threads) if work.resources else len(waiting)

    def launch() -> None:
        tasks: dict[Hashable, Any] = {}
        batch: list[Any] = []
        while waiting and len(flying) + len(batch) < limit and len(tasks) < MAX_TASKS:
            batch.append(waiting.popleft())
            _cull(work.graph, batch[-1], tasks)
        if batch:
            futures = client.get(graph.layered(tasks, work.resources), batch, sync=False, retries=retries)  # fmt: skip
            flying.update(zip(futures, batch, strict=True))
            completed.update(futures)

    try:
        launch()
        while flying:
            future = next(completed)
            key = flying.pop(future)
            try:
                # Waits again where the worker that had the result is gone meanwhile.
                outcome.records.append({**future.result(), "key": key})
            except Exception as error:
                _settle_failed(future, key, error, retries, errors, outcome)
            finally:
                # At once: what holds an exception holds its frames too, and a scheduler that keeps a failed task
                # gives that failure again to the next run.
                future.release()
            done(key)
            if len(flying) <= limit // 2 or len(flying) < MAX_TASKS // 100:
                launch()
    except BaseException:
        client.cancel(list(flying), force=True)
        raise
    finally:
        _collect(client, watch, outcome, key_split(work.keys[0]) if work.keys else "")


def _cull(tasks: Mapping[Hashable, Any], key: Hashable, into: dict[Hashable, Any]) -> None:
    """Add a task and all that it needs."""
    stack = [key]
    while stack:
        key = stack.pop()
        if key not in into:
            into[key] = node = tasks[key]
            stack.extend(node.dependencies)


def _settle_failed(
    future: Any, key: Any, error: Exception, retries: int, errors: Errors, outcome: Outcome
) -> None:
    from distributed.scheduler import KilledWorker

    if future.status != "error":
        raise StoreError(
            f"the cluster dropped the work ({type(error).__name__}: {error})",
            remedy="See whether its scheduler runs, and do the same again: it goes on where it stopped",
        ) from error
    if isinstance(error, StoreWriteError | StoreConflictError) or errors == "raise":
        raise error
    if isinstance(error, KilledWorker):
        attempts = int(dask.config.get("distributed.scheduler.allowed-failures", 3)) + 1
        failure = Failure(key_split(error.task), "KilledWorker", str(error), attempts)
    else:
        failure = Failure.of(key_split(key), error, 1 if isinstance(error, FINAL) else retries + 1)
    outcome.failures.append({"key": key, **asdict(failure)})
    _log_failure(key, failure)


def _log_failure(key: Hashable, failure: Failure) -> None:
    accounts.log(
        "store",
        "region_failed",
        f"region {key[1:] if isinstance(key, tuple) else key} failed: {failure.error}: {failure.message}",
        level=logging.ERROR,
        stage=failure.stage,
        error=failure.error,
        attempts=failure.attempts,
    )


def _add_task(outcome: Outcome, kind: str, action: str, seconds: float, count: float) -> None:
    entry = outcome.tasks.setdefault(kind, {"count": 0, "compute": 0.0, "transfer": 0.0})
    if action == "compute":
        entry["count"] += count
    entry["transfer" if action == "transfer" else "compute"] += seconds


def _watch(client: Any) -> str | None:
    """Install a plugin that counts at the scheduler; None where that is not possible."""
    from lunarray.engine.watching import Watch

    try:
        plugin = Watch()
        client.register_plugin(plugin)
        return plugin.name
    except Exception as error:
        # A scheduler without lunarray: the report has less to say, the work goes on.
        accounts.log("store", "no_watch", f"the scheduler cannot be watched: {error}")
        return None


def _accounts_of(client: Any) -> list[dict[str, Any]]:
    """Take the accounts of all workers, as far as they answer."""
    try:
        answers = client.run(accounts.take, on_error="return")
    except Exception as error:
        accounts.log("store", "no_accounts", f"the workers' accounts cannot be had: {error}")
        return []
    return [answer for answer in answers.values() if isinstance(answer, dict)]


def _collect(client: Any, watch: str | None, outcome: Outcome, kind: str) -> None:
    """Add what workers and scheduler tell; `kind` is that of the regions, of whose time the rest is a part."""
    from lunarray.engine.watching import read_watch

    if client.status != "running":
        return
    outcome.records += _accounts_of(client)
    inner = _take_tasks(outcome)
    if watch is not None:
        try:
            seen = client.run_on_scheduler(read_watch, name=watch)
            client.unregister_scheduler_plugin(watch)
        except Exception as error:
            accounts.log("store", "no_watch", f"the scheduler does not answer: {error}")
            return
        outcome.retries += seen["retries"]
        outcome.lost_workers += seen["lost_workers"]
        for each, action, seconds, count in seen["spent"]:
            _add_task(outcome, each, action, seconds, count)
        if kind in outcome.tasks:
            outcome.tasks[kind]["compute"] -= min(inner, outcome.tasks[kind]["compute"])
