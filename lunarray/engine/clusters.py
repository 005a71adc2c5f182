"""A Dask client for the machine or machines at hand, set up for what lunarray runs."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dask
from dask.system import CPU_COUNT

from lunarray.engine.accounts import log
from lunarray.engine.execution import labels
from lunarray.engine.pixels import CPU, GPU
from lunarray.errors import InputError, MainGuardError, needs

if TYPE_CHECKING:
    import distributed

#: Libraries that would each start a thread for every core, in every thread of a worker (dask/distributed#9075).
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ONE_THREAD |= dict.fromkeys(("NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")

#: Threads of a GPU worker, of which one at a time has the GPU and the others read, rearrange and write.
GPU_WORKER_THREADS = 4

#: A Dask graph must keep model blocks apart from reading and writing where these run on other workers.
_UNFUSED = {"optimization.annotations.fuse": False, "optimization.fuse.active": False}


@contextmanager
def cluster(
    where: str | distributed.Client | Any = "auto",
    *,
    workers: int | tuple[int, int] | None = None,
    threads: int | None = None,
    memory_limit: str | int | None = "auto",
    gpus: int | None = None,
    cpu_workers: int = 0,
    dashboard: bool = False,
    errors: str | None = None,
    retries: int | None = None,
    report: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Iterator[distributed.Client]:
    """Give a Dask client for as long as the context lasts; what is computed and stored meanwhile runs there.

    Workers are processes, started afresh (spawned, so that nothing of the client's state comes along), in which torch,
    OpenMP, BLAS and Numba take one thread for each thread of the worker. Models run on the workers that have a GPU,
    where there are any, and reading, writing and CPU kernels on the others, where there are others. Neither importing
    lunarray nor the client touches CUDA: ``device="auto"`` is decided in each worker.

    Parameters
    ----------
    where : str, distributed.Client or Dask cluster
        - "auto": "gpus" where this machine has NVIDIA GPUs, otherwise "local";
        - "local": processes on this machine;
        - "gpus": one worker for each GPU of this machine, through dask-cuda where that is installed (extra ``gpu``);
        - "slurm", "pbs": jobs of a batch system, through dask-jobqueue (extra ``hpc``);
        - an address such as "tcp://10.0.0.1:8786", a client or a cluster: one's own. It is not closed at the end.
    workers : int or (int, int), optional
        How many; by default one for each core or GPU. For a batch system required; a pair lets their number follow the
        work.
    threads : int, optional
        Of each worker; by default 1, on GPU workers 4.
    memory_limit : str, int or None
        Memory of a worker, such as "8GB". Dask spills, pauses and restarts a worker that reaches it.
    gpus : int, optional
        With "gpus": how many of those there are to use. With a batch system: GPUs that each job asks for (Slurm's
        ``--gres``; PBS says it in ``resource_spec``, which is to be given).
    cpu_workers : int
        With "gpus": further workers that leave the GPUs alone and do the reading and writing. It pays where kernels of
        the CPU take longer than moving the blocks between processes.
    dashboard : bool
        Serve Dask's dashboard at port 8787.
    errors, retries, report : str, int, path, optional
        Defaults of these arguments of :func:`lunarray.store.to_zarr` in the context.
    **options
        To the class of the cluster: ``queue=``, ``walltime=``, ``account=``, ``interface=``, ``local_directory=``...

    Yields
    ------
    distributed.Client

    Raises
    ------
    InputError
        If there is no such place, or something that it needs is not given.
    MainGuardError
        If a script calls it outside of ``if __name__ == "__main__":``; uncaught, it ends the script with one line.
    MissingDependencyError
        If dask-jobqueue is needed and not installed.

    Notes
    -----
    Spawned workers import the main module: in a script, use it below ``if __name__ == "__main__":``.

    Examples
    --------
    >>> with la.cluster():  # doctest: +SKIP
    ...     la.open_zarr("cube.zarr").lunar.invert_oxides().lunar.to_zarr("maps.zarr")
    """
    settings = {
        f"lunarray.{name}": value
        for name, value in (("errors", errors), ("retries", retries), ("report", report))
        if value is not None
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        own = _brought(where, stack)
        if own is None:
            where = ("gpus" if gpu_names() else "local") if where == "auto" else where
            # Without a port Dask takes 8787 all the same, and complains where another cluster has it.
            address = ":8787" if dashboard else ":0"
            wanted = _Wanted(workers, threads, memory_limit, gpus, cpu_workers, address, options)
            own = _begun(str(where), wanted, stack)
        carried = labels(own)
        if GPU in carried or (where in ("slurm", "pbs") and gpus):
            stack.enter_context(dask.config.set(_UNFUSED))
        log("engine", "cluster", f"cluster {where}: {own}", where=str(where), labels=carried)
        yield own


def _begun(where: str, wanted: _Wanted, stack: ExitStack) -> distributed.Client:
    """Begin a cluster of ours, and a client of it."""
    maker = _MAKERS.get(where)
    if maker is None:
        raise InputError(
            f"unknown cluster {where!r}",
            where="la.cluster",
            remedy=f"Choose from auto, {', '.join(_MAKERS)}, or give an address, a client or a cluster",
        )
    import distributed

    environment = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    settings = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.nanny.pre-spawn-environ": {**environment, **ONE_THREAD},
    }
    if where in ("local", "gpus"):
        _require_guard()
    with dask.config.set(settings):
        made = stack.enter_context(maker(where, wanted))
    return stack.enter_context(distributed.Client(made))


def _require_guard() -> None:
    """MainGuardError if a script calls from outside of ``if __name__ == "__main__":``, for its workers import it."""
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    if main is None or script is None:
        return
    frame = sys._getframe()
    while frame is not None and frame.f_globals is not vars(main):
        frame = cast(Any, frame.f_back)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = cast(Any, frame.f_back)
    if frame is None or os.path.abspath(frame.f_code.co_filename) != os.path.abspath(script):
        return
    try:
        tree = ast.parse(Path(script).read_text("utf-8"))
    except (OSError, ValueError, SyntaxError):
        return
    line = frame.f_lineno
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and node.lineno <= line <= (node.end_lineno or 0):
            names = {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
            if "__name__" in names:
                return
    raise MainGuardError(
        "la.cluster() starts processes that import this script, and would start it again in each of them",
        where=f"{script}:{line}",
        remedy='Put what the script does below a line if __name__ == "__main__":',
    )


@dataclass
class _Wanted:
    """What the caller asked of a cluster."""

    workers: Any
    threads: int | None
    memory_limit: Any
    gpus: int | None
    cpu_workers: int
    address: str
    options: dict[str, Any]

    def __post_init__(self) -> None:
        for name in ("threads", "gpus", "workers"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(n is not None and (not isinstance(n, int) or n < 1) for n in numbers):
                raise InputError(f"{name}={value!r}", where="la.cluster", remedy="Give 1 or more")

    def local(self) -> dict[str, Any]:
        """Options of a cluster on this machine."""
        return {
            "dashboard_address": self.address,
            # A given host: otherwise the network is asked for this machine's address.
            "host": "127.0.0.1",
            "protocol": "tcp://",
            "memory_limit": self.memory_limit,
            **self.options,
        }


def _local(where: str, wanted: _Wanted) -> Any:
    import distributed

    threads = wanted.threads or 1
    count = wanted.workers or max(1, CPU_COUNT // threads)
    if isinstance(count, tuple):
        raise InputError(
            "a range of workers",
            where="workers",
            remedy="Give one number; ranges are for batch systems",
        )
    return distributed.LocalCluster(
        n_workers=count, threads_per_worker=threads, processes=True, **wanted.local()
    )


@contextmanager
def _gpus(where: str, wanted: _Wanted) -> Iterator[Any]:
    names = gpu_names()[: wanted.gpus]
    if not names:
        raise InputError(
            "this machine has no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it",
            where="la.cluster('gpus')",
            remedy="Use la.cluster('local'), or 'auto' for whichever there is",
        )
    threads = wanted.threads or GPU_WORKER_THREADS
    try:
        import dask_cuda
    except ImportError:
        log(
            "engine",
            "no_dask_cuda",
            "dask-cuda is not installed: GPU workers without its memory management",
        )
        made = labelled_cluster(
            {f"gpu-{name}": ({GPU: 1}, {"CUDA_VISIBLE_DEVICES": name}) for name in names},
            threads=threads,
            **wanted.local(),
        )
    else:
        made = dask_cuda.LocalCUDACluster(
            CUDA_VISIBLE_DEVICES=names,
            threads_per_worker=threads,
            resources={GPU: 1},
            **wanted.local(),
        )
    with made:
        without = ({CPU: 1}, {"CUDA_VISIBLE_DEVICES": ""})
        add_workers(made, {f"cpu-{i}": without for i in range(wanted.cpu_workers)})
        yield made


def labelled_cluster(
    workers: Mapping[str, tuple[Mapping[str, float], Mapping[str, str]]],
    *,
    threads: int = 1,
    **options: Any,
) -> Any:
    """Start processes on this machine with resource labels and environments of their own.

    `workers`: from name to (resources, environment); `threads`: of each; `**options`: to
    :class:`distributed.LocalCluster`.
    """
    import distributed

    made = distributed.LocalCluster(
        n_workers=0, threads_per_worker=threads, processes=True, **options
    )
    add_workers(made, workers, threads=threads)
    return made


def add_workers(
    made: Any,
    workers: Mapping[str, tuple[Mapping[str, float], Mapping[str, str]]],
    *,
    threads: int = 1,
) -> None:
    """Add workers as of :func:`labelled_cluster` to a cluster on this machine."""
    import distributed

    if not workers:
        return
    plain = {
        name: value
        for name, value in made.new_spec["options"].items()
        # What dask-cuda adds is for the workers of its GPUs.
        if name not in ("preload", "preload_argv", "plugins", "data", "env", "resources")
    }
    for name, (resources, environment) in workers.items():
        made.worker_spec[name] = {
            "cls": distributed.Nanny,
            "options": {
                **plain,
                "nthreads": threads,
                "resources": dict(resources),
                "env": dict(environment),
            },
        }
    made.sync(made._correct_state)


@contextmanager
def _batch(where: str, wanted: _Wanted) -> Iterator[Any]:
    with needs("dask_jobqueue", f"la.cluster({where!r})"):
        import dask_jobqueue
    missing = [n for n in ("workers", "memory_limit") if getattr(wanted, n) in (None, "auto")]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} must be given for a batch system",
            where=f"la.cluster({where!r})",
            remedy='Give options such as workers=8, threads=4, memory_limit="16GB", queue="gpu"',
        )
    options = wanted.options
    prologue = [f"export {name}={value}" for name, value in ONE_THREAD.items()]
    options["job_script_prologue"] = [*prologue, *options.get("job_script_prologue", ())]
    if wanted.gpus:
        extra = ["--resources", f"{GPU}={wanted.gpus}"]
        options["worker_extra_args"] = [*extra, *options.get("worker_extra_args", ())]
        if where == "slurm":
            directives = options.get("job_extra_directives", ())
            options["job_extra_directives"] = [f"--gres=gpu:{wanted.gpus}", *directives]
    kind = dask_jobqueue.SLURMCluster if where == "slurm" else dask_jobqueue.PBSCluster
    threads = wanted.threads or (GPU_WORKER_THREADS if wanted.gpus else 1)
    processes = options.pop("processes", 1)
    scheduler = {"dashboard_address": wanted.address} | options.get("scheduler_options", {})
    if "host" in options:
        scheduler["host"] = options.pop("host")
    options["scheduler_options"] = scheduler
    with kind(
        cores=threads * processes, processes=processes, memory=wanted.memory_limit, **options
    ) as made:
        if isinstance(wanted.workers, tuple):
            made.adapt(minimum=wanted.workers[0], maximum=wanted.workers[1])
        else:
            made.scale(wanted.workers)
        yield made


_MAKERS = {"local": _local, "gpus": _gpus, "slurm": _batch, "pbs": _batch}


def _brought(where: Any, stack: ExitStack) -> distributed.Client | None:
    """Take the user's own client, cluster or address."""
    if isinstance(where, str) and "://" not in where:
        return None
    import distributed

    from lunarray.engine.watching import OneThread

    if isinstance(where, distributed.Client):
        client = where
    elif isinstance(where, str) or hasattr(where, "scheduler_address"):
        try:
            client = stack.enter_context(distributed.Client(where))
        except (OSError, ValueError) as error:  # a ValueError where the address is none
            raise InputError(
                f"no scheduler answers ({error})",
                where=str(where),
                remedy="See whether it runs there, and check the address",
            ) from error
    else:
        raise InputError(
            f"no cluster can be made of a {type(where).__name__}",
            where="la.cluster",
            remedy="Give a name, an address, a distributed.Client or a Dask cluster",
        )
    stack.enter_context(client.as_current())
    client.register_plugin(OneThread(ONE_THREAD), name="lunarray-one-thread")
    return client


def gpu_names() -> list[str]:
    """Name the GPUs of this machine, as CUDA_VISIBLE_DEVICES does and if it shows them, without touching CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    count = sum(file.name[6:].isdigit() for file in Path("/dev").glob("nvidia[0-9]*"))
    return [str(index) for index in range(count)]
