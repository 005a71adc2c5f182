"""Clusters: threads, placement by labels, batch systems, and that the client leaves CUDA alone."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from fresh import forked_workers, stop

import lunarray
from lunarray import engine, errors
from lunarray.engine import accounts, clusters, last_report
from lunarray.engine.execution import labels
from lunarray.store import regions, to_zarr
from lunarray.store.layout import choose_layout


@pytest.fixture(autouse=True)
def _many_regions(monkeypatch):
    small = partial(choose_layout, chunk_bytes=16 * 16 * 4)
    monkeypatch.setattr(regions, "choose_layout", small)


def values() -> np.ndarray:
    return np.random.default_rng(20261121).random((4, 64, 64), dtype=np.float32)


def cube() -> da.Array:
    return da.from_array(values(), chunks=(-1, 16, 16))


def load_slow_gain(path, device):
    """A model that says where it ran, and takes its time."""
    gain = np.float32(path.read_text())
    folder = path.parent

    def predict(pixels):
        (folder / f"ran-{os.getpid()}").touch()
        time.sleep(0.05)
        return gain * pixels[:, :2]

    return predict


numbers = itertools.count()


def spec_of(folder: Path, device="auto") -> engine.ModelSpec:
    weights = folder / "gain.txt"
    weights.write_text(
        "2.5" + "0" * next(numbers)
    )  # another model: processes keep those that they know
    return engine.ModelSpec.from_file(
        f"{__name__}:load_slow_gain", weights, outputs=2, device=device
    )


def maps_of(spec: engine.ModelSpec) -> xr.Dataset:
    out = engine.map_pixels(spec, cube() + np.float32(0))
    return xr.Dataset({"a": (("y", "x"), out[0]), "b": (("y", "x"), out[1])})


def ran_in(folder: Path) -> set[int]:
    return {int(file.name.removeprefix("ran-")) for file in folder.glob("ran-*")}


def settings() -> dict:
    """How a worker is set up."""
    import multiprocessing

    import threadpoolctl

    np.ones((64, 64)) @ np.ones((64, 64))
    return {
        "pid": os.getpid(),
        "parent": multiprocessing.parent_process() is not None,
        "openmp": os.environ.get("OMP_NUM_THREADS"),
        "numba": os.environ.get("NUMBA_NUM_THREADS"),
        "pools": [pool["num_threads"] for pool in threadpoolctl.threadpool_info()],
        "torch": "torch" in sys.modules,
    }


@pytest.fixture(scope="module", autouse=True)
def _end_of_processes():
    yield
    stop()


@pytest.fixture(scope="module")
def mixed():
    """A worker with a GPU's label and one with a CPU's, both on the CPU."""
    with (
        forked_workers(),
        clusters.labelled_cluster(
            {
                "gpu": ({"GPU": 1}, {"CUDA_VISIBLE_DEVICES": ""}),
                "cpu": ({"CPU": 1}, {"CUDA_VISIBLE_DEVICES": ""}),
            },
            dashboard_address=":0",
            host="127.0.0.1",
            protocol="tcp://",
        ) as made,
        lunarray.cluster(made) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        yield client


def pid_of(client, name: str) -> int:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    (address,) = [address for address, worker in workers.items() if worker["name"] == name]
    return client.run(os.getpid, workers=[address])[address]


def test_workers_take_one_thread_each_and_are_spawned():
    with lunarray.cluster("local", workers=1, threads=2, memory_limit="2GiB") as client:
        (worker,) = client.scheduler_info(n_workers=-1)["workers"].values()
        assert worker["nthreads"] == 2
        assert worker["memory_limit"] == 2 * 2**30
        found = client.submit(settings).result()
        assert dask.base.get_scheduler() == client.get
    assert found["pid"] != os.getpid()
    assert found["parent"]
    assert not found["torch"]  # its threads: test_client_never_touches_cuda
    assert found["openmp"] == found["numba"] == "1"
    assert set(found["pools"]) == {1}
    assert client.status == "closed"
    with pytest.raises(ValueError, match="No global client"):
        __import__("distributed").get_client()


def threads_of_torch() -> int:
    import torch

    return torch.get_num_threads()


def test_own_client_is_used_set_up_and_left_open(client):
    with client(processes=False, workers=1) as own:
        with lunarray.cluster(own, errors="nan", retries=7) as given:
            assert given is own
            assert dask.config.get("lunarray.errors") == "nan"
            assert dask.config.get("lunarray.retries") == 7
            assert own.submit(threads_of_torch).result() == 1
        assert dask.config.get("lunarray.errors", None) is None
        assert own.submit(lambda: 2).result() == 2
        with lunarray.cluster(own.scheduler.address) as by_address:
            assert by_address.submit(lambda: 3).result() == 3
        assert own.submit(lambda: 4).result() == 4


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_model_blocks_run_on_the_workers_with_gpus(tmp_path, mixed, device):
    gpu, cpu = pid_of(mixed, "gpu"), pid_of(mixed, "cpu")
    assert labels(mixed) == {"GPU": 1, "CPU": 1}
    maps = maps_of(spec_of(tmp_path, device))
    out = to_zarr(maps, tmp_path / "a.zarr")
    np.testing.assert_array_equal(out.b, values()[1] * np.float32(2.5))
    report = last_report()
    wrote = {name for name, p in report.memory["processes"].items() if p["regions"]}
    assert wrote == {
        f"{accounts.process().split(':')[0]}:{cpu}"
    }  # I/O leaves the GPU's worker alone
    assert ran_in(tmp_path) == ({gpu} if device == "auto" else {cpu})
    if device == "auto":
        # 16 blocks of 50 ms, one after another.
        assert report.stages["model"]["count"] == 16
        assert 16 * 0.05 <= report.stages["model"]["seconds"] <= report.seconds


def test_placement_without_storing(tmp_path, mixed):
    maps = maps_of(spec_of(tmp_path))
    np.testing.assert_array_equal(maps.a.compute(), values()[0] * np.float32(2.5))
    assert ran_in(tmp_path) == {pid_of(mixed, "gpu")}


def test_graph_of_one_cluster_runs_on_another(tmp_path, mixed, client):
    maps = maps_of(spec_of(tmp_path))
    layers = maps.a.data.dask.layers
    assert any("GPU" in ((la.annotations or {}).get("resources") or {}) for la in layers.values())
    with client(processes=False) as plain, plain.as_current():
        out = to_zarr(maps, tmp_path / "a.zarr")  # would wait for ever for a worker with a GPU
    np.testing.assert_array_equal(out.a, values()[0] * np.float32(2.5))
    with dask.config.set(scheduler="threads"):
        again = to_zarr(maps, tmp_path / "b.zarr")
    xr.testing.assert_equal(again, out)


def test_identity_does_not_depend_on_placement(tmp_path, mixed):
    from lunarray.store.content import identity

    spec = spec_of(tmp_path)
    placed = maps_of(spec)
    with dask.config.set(scheduler="threads"):
        unplaced = maps_of(spec)
    assert identity(placed) == identity(unplaced)


def test_only_what_is_near_is_read_ahead(tmp_path, mixed):
    """Sources bound to CPU workers are not held back by Dask; the number of regions under way is bounded here."""
    from lunarray.engine import execution

    at_once = []

    class Counting:
        def __init__(self, client):
            self._client = client

        def __getattr__(self, name):
            return getattr(self._client, name)

        def get(self, graph, keys, **kwargs):
            at_once.append(len(keys))
            return self._client.get(graph, keys, **kwargs)

    wide = da.zeros((4, 16, 16 * 60), chunks=(-1, 16, 16), dtype=np.float32)
    out = engine.map_pixels(spec_of(tmp_path), wide)
    ds = xr.Dataset({"a": (("y", "x"), out[0])})
    group = regions.plan(ds)
    store = tmp_path / "a.zarr"
    with dask.config.set(scheduler="synchronous"):
        to_zarr(ds * 0, store)
    work = regions.writes(ds, group, store, labels=labels(mixed)).work
    assert set(map(tuple, (need for need in work.resources.values()))) == {("GPU",), ("CPU",)}
    outcome = execution.Outcome()
    execution._run_distributed(Counting(mixed), work, 0, "raise", lambda key: None, outcome)
    assert sum(at_once) == 60
    assert max(at_once) <= 8


def test_gpus_are_counted_without_cuda(monkeypatch):
    for text, names in (
        ("0,1", ["0", "1"]),
        ("", []),
        ("-1", []),
        ("GPU-abc, 3", ["GPU-abc", "3"]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert clusters.gpu_names() == names
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert len(clusters.gpu_names()) == len(list(Path("/dev").glob("nvidia[0-9]")))


def test_one_worker_for_each_gpu(monkeypatch):
    """Without GPUs, but as if: no worker touches its device before a model is loaded."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with forked_workers(), lunarray.cluster(cpu_workers=1, threads=2) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        found = {w["name"]: (w["nthreads"], w["resources"]) for w in workers}
        assert found == {
            "gpu-3": (2, {"GPU": 1}),
            "gpu-5": (2, {"GPU": 1}),
            "cpu-0": (1, {"CPU": 1}),
        }
        seen = client.run(
            lambda dask_worker: (dask_worker.name, os.environ["CUDA_VISIBLE_DEVICES"])
        )
        assert dict(seen.values()) == {"gpu-3": "3", "gpu-5": "5", "cpu-0": ""}
        (cpu,) = [a for a, (name, _) in seen.items() if name == "cpu-0"]
        where = client.run(
            lambda: (engine.resolve_device("auto"), "torch" in sys.modules), workers=[cpu]
        )
        assert where[cpu] == ("cpu", False)


def test_dask_cuda_is_given_what_it_needs(monkeypatch, client):
    asked = {}

    class LocalCUDACluster:
        def __init__(self, **options):
            asked.update(options)
            raise KeyboardInterrupt  # far enough

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setitem(
        sys.modules, "dask_cuda", SimpleNamespace(LocalCUDACluster=LocalCUDACluster)
    )
    with pytest.raises(KeyboardInterrupt), lunarray.cluster("gpus", gpus=2, local_directory="/tmp"):
        pass
    assert asked["CUDA_VISIBLE_DEVICES"] == ["0", "1"]
    assert asked["resources"] == {"GPU": 1}
    assert asked["threads_per_worker"] == clusters.GPU_WORKER_THREADS
    assert asked["local_directory"] == "/tmp"


@pytest.mark.needs("torch")
def test_client_never_touches_cuda(tmp_path):
    """The process of the client may not even import torch, while its workers run a model of torch."""
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            import numpy as np, xarray as xr, dask.array as da
            import lunarray as la

            def load(path, device):
                import torch
                assert device == "cpu" and torch.get_num_threads() == 1
                assert not torch.cuda.is_initialized()
                return lambda pixels: (torch.from_numpy(pixels) * 2).numpy()[:, :1]

            if __name__ == "__main__":
                sys.modules["torch"] = None  # importing it raises
                open("weights", "w").write("x")
                with la.cluster("local", workers=1):
                    spec = la.engine.ModelSpec.from_file("job:load", "weights", outputs=1)
                    data = da.ones((3, 8, 8), chunks=(3, 4, 4), dtype="f4")
                    out = la.engine.map_pixels(spec, data)
                    ds = xr.Dataset({"m": (("y", "x"), out[0])})
                    assert float(ds.lunar.to_zarr("m.zarr").m.sum()) == 128
            """
        )
    )
    env = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}",
    }
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=env, check=True, timeout=120)


SBATCH = """#!/bin/sh
# A batch system of one machine: takes a copy of the script and runs that, in the background.
cp "$1" {folder}/script-$$.sh
setsid bash {folder}/script-$$.sh > {folder}/job-$$.log 2>&1 &
echo $! >> {folder}/jobs
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job in "$@"; do kill -TERM -- -$job 2>/dev/null; done
exit 0
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    import dask_jobqueue  # noqa: F401

    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        file = folder / name
        file.write_text(text.format(folder=folder))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    root = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{root}")
    yield folder
    for job in (folder / "jobs").read_text().split() if (folder / "jobs").exists() else ():
        subprocess.run(["kill", "-KILL", "--", f"-{job}"], check=False, capture_output=True)


def test_batch_system(tmp_path, slurm):
    """dask-jobqueue's own scripts, submitted to a batch system that runs them here."""
    options = {"queue": "gpu", "walltime": "00:05:00", "local_directory": str(tmp_path)}
    options["nanny"] = False  # one process less
    with lunarray.cluster(
        "slurm", workers=1, threads=2, memory_limit="1GiB", gpus=1, host="127.0.0.1", **options
    ) as client:
        client.wait_for_workers(1, timeout=120)
        (worker,) = client.scheduler_info(n_workers=-1)["workers"].values()
        assert worker["nthreads"] == 2
        assert worker["resources"] == {"GPU": 1}
        out = to_zarr(maps_of(spec_of(tmp_path)), tmp_path / "a.zarr")
        np.testing.assert_array_equal(out.a, values()[0] * np.float32(2.5))
        assert os.getpid() not in ran_in(tmp_path)
    (script,) = [file.read_text() for file in slurm.glob("script-*.sh")]
    for line in ("#SBATCH -p gpu", "#SBATCH --gres=gpu:1", "export OMP_NUM_THREADS=1"):
        assert line in script


def test_pbs_script(monkeypatch):
    import dask_jobqueue as jobqueue

    scripts = []

    class PBSCluster(jobqueue.PBSCluster):
        def scale(self, count, *args, **kwargs):
            if count:
                scripts.append((count, self.job_script()))  # nothing is submitted
            return super().scale(0)

    monkeypatch.setattr(jobqueue, "PBSCluster", PBSCluster)
    options = {"memory_limit": "8GB", "queue": "long", "host": "127.0.0.1"}
    with lunarray.cluster("pbs", workers=4, threads=3, **options):
        ((count, script),) = scripts
    assert count == 4
    assert "#PBS -q long" in script
    assert "export NUMBA_NUM_THREADS=1" in script
    assert "--nthreads 3" in script


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("moon",), "unknown cluster 'moon'"),
        ((3,), "no cluster can be made of a int"),
    ],
)
def test_unknown_places_are_refused(arguments, match):
    with pytest.raises(errors.InputError, match=match), lunarray.cluster(*arguments):
        pass


def test_missing_things_are_named(monkeypatch):
    with pytest.raises(errors.InputError, match="threads=0"), lunarray.cluster("local", threads=0):
        pass
    wrong = pytest.raises(errors.InputError, match="a range of workers")
    with wrong, lunarray.cluster("local", workers=(1, 2)):
        pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(errors.InputError, match="no NVIDIA GPU"), lunarray.cluster("gpus"):
        pass
    wrong = pytest.raises(errors.InputError, match="workers and memory_limit must be given")
    with wrong, lunarray.cluster("slurm"):
        pass
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    wrong = pytest.raises(errors.MissingDependencyError, match=r"lunarray\[hpc\]")
    with wrong, lunarray.cluster("slurm", workers=1, memory_limit="1GB"):
        pass


def test_a_script_without_a_main_guard_is_told_so_in_one_line(tmp_path):
    script = tmp_path / "script.py"
    body = "import lunarray as la\nwith la.cluster(workers=1):\n    pass\n"
    script.write_text(body)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"{script}:2" in line
    assert 'if __name__ == "__main__":' in line


def test_where_a_guard_is_looked_for(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)

    def run(text):
        script.write_text(text)
        own = vars(sys.modules["__main__"])
        monkeypatch.setitem(own, "_look", clusters._require_guard)
        exec(compile(text, str(script), "exec"), own)

    run('def main():\n    _look()\n\nif __name__ == "__main__":\n    main()\n')
    for text in ("_look()\n", "def main():\n    _look()\n\nif True:\n    main()\n"):
        with pytest.raises(errors.MainGuardError, match="below a line"):
            run(text)
