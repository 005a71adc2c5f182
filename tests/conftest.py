"""Fixtures shared by all tests, and options: another order, a clock that jumps, the CPU time of each file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import sys
import time
import tomllib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from lunarray.errors import EXTRAS

# Nothing hangs on how fast this machine is now, nor on what another run found.
settings.register_profile(
    "lunarray",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("lunarray")


def pytest_addoption(parser):
    group = parser.getgroup("lunarray")
    group.addoption(
        "--order", metavar="reversed|SEED", help="tests of a file, and files, in another order"
    )
    group.addoption(
        "--jumping-clock",
        action="store_true",
        help="every look that lunarray takes at a clock finds it a second later than the last",
    )
    group.addoption("--file-times", metavar="PATH", help="write the CPU seconds of each file")


def pytest_configure(config):
    # What is made is stamped with the second in which it was made; two things made alike must be equal.
    os.environ.setdefault("SOURCE_DATE_EPOCH", "1750000000")
    if config.getoption("jumping_clock"):
        for name in ("time", "monotonic", "perf_counter"):
            setattr(time, name, _jumping(getattr(time, name)))
    if path := config.getoption("file_times"):
        config.pluginmanager.register(_FileTimes(Path(path)))


def _jumping(clock):
    leaps = 0

    def read():
        nonlocal leaps
        leaps += sys._getframe(1).f_globals.get("__name__", "").startswith("lunarray.")
        return clock() + leaps

    return read


def _absent(error: BaseException | None) -> str | None:
    """The extra that would have brought what an import in a test, or in what it calls, did not find."""
    while error is not None:
        name = (getattr(error, "name", None) or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and _is_absent(name):
            return f"needs {name}, which pip install 'lunarray[{EXTRAS[name]}]' brings"
        error = error.__cause__ or error.__context__
    return None


def _is_absent(package: str) -> bool:
    return package in EXTRAS and importlib.util.find_spec(package) is None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A file whose imports need an extra that is not installed is skipped, and says which."""
    report = yield
    call = getattr(report, "call", None)
    if report.failed and call and (reason := _absent(call.excinfo.value)):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 1, reason)
    return report


@pytest.hookimpl(wrapper=True)
def _skip_what_needs_an_extra(item):
    """So is a test, unless it is marked as one that runs on the core alone. One whose import is in another process, or
    behind the command line, is marked with what it needs."""
    try:
        for mark in item.iter_markers("needs"):
            if _is_absent(mark.args[0]):
                raise ModuleNotFoundError(name=mark.args[0])
        return (yield)
    except Exception as error:
        reason = None if item.get_closest_marker("core") else _absent(error)
        if reason is None:
            raise
        pytest.skip(reason)


pytest_runtest_setup = pytest_runtest_call = _skip_what_needs_an_extra


def pytest_collection_modifyitems(config, items):
    order = config.getoption("order")
    if order == "reversed":
        items.reverse()
    elif order is not None:
        # Files stay whole, for what they share is made once a file.
        files = sorted({item.path for item in items})
        generator = random.Random(int(order))
        generator.shuffle(files)
        generator.shuffle(items)
        items.sort(key=lambda item: files.index(item.path))


class _FileTimes:
    """CPU seconds of each file, of the processes that it started and waited for too."""

    def __init__(self, path: Path) -> None:
        self.path, self.seconds, self.last = path, Counter(), 0.0

    @staticmethod
    def spent() -> float:
        return sum(os.times()[:4])

    def pytest_sessionstart(self):
        self.last = self.spent()

    def pytest_collection_finish(self):
        self.account("(collection)")

    def pytest_runtest_logfinish(self, nodeid):
        self.account(nodeid.split("::")[0])

    def account(self, name: str) -> None:
        now = self.spent()
        self.seconds[name] += now - self.last
        self.last = now

    def pytest_terminal_summary(self, terminalreporter):
        self.account("(end)")
        rows = [*self.seconds.most_common(), ("(all)", self.seconds.total())]
        lines = [f"{seconds:8.1f} {name}" for name, seconds in rows]
        self.path.write_text("\n".join(lines) + "\n")
        terminalreporter.section("CPU seconds by file")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real instrument files: LUNARRAY_TEST_DATA, or ../shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LUNARRAY_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real instrument files: {folder} is absent (set LUNARRAY_TEST_DATA)")
    return folder


def metadata(project: Path, site: Path) -> Path:
    """Write what an installer would write of a project's names and entry points, as its pyproject says them now.

    The metadata that this interpreter was installed with may be those of another checkout.
    """
    told = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    folder = site / f"{told['name'].replace('-', '_')}-{told.get('version', '0')}.dist-info"
    folder.mkdir(parents=True)
    folder.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told.get('version', '0')}\n"
    )
    lines = []
    for group, points in told["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    folder.joinpath("entry_points.txt").write_text("\n".join(lines))
    return project


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> list[str]:
    """Folders for ``sys.path`` in which lunarray is installed, and a package of somebody else that has a reader."""
    site = tmp_path_factory.mktemp("site")
    here = Path(__file__).parent
    projects = [metadata(here.parent, site), metadata(here / "outside" / "iirs", site)]
    return [str(path) for path in (site, *projects)]


@pytest.fixture
def engines(installed, monkeypatch):
    """xarray and lunarray find what is installed in those folders."""
    import xarray as xr

    from lunarray.readers import registry

    def look_anew():
        importlib.invalidate_caches()
        xr.backends.refresh_engines()
        registry.announced.cache_clear()

    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [*installed, *sys.path])
        look_anew()
        yield xr.backends.list_engines()
    look_anew()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261121)


@pytest.fixture
def no_compute():
    """A Dask scheduler that raises: what runs under it must not compute anything."""
    import dask

    def raising(dsk, keys, **kwargs):
        raise AssertionError("computed while the graph was being built")

    with dask.config.set(scheduler=raising):
        yield


@pytest.fixture(scope="session")
def client():
    """A Dask client of a local cluster, in threads or in processes: ``with client(processes=True): ...``."""
    import dask
    import distributed

    @contextmanager
    def make(*, processes: bool = False, workers: int = 2):
        # A given host: otherwise distributed asks the network for this machine's address. Nothing looks at what the
        # workers are doing a hundred times a second.
        with (
            dask.config.set({"distributed.worker.profile.enabled": False}),
            distributed.LocalCluster(
                workers,
                protocol="tcp://",
                processes=processes,
                threads_per_worker=1,
                dashboard_address=None,
                host="127.0.0.1",
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client

    return make
