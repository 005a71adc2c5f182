"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real instrument files: LUNARRAY_TEST_DATA, or ../shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LUNARRAY_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real instrument files: {folder} is absent (set LUNARRAY_TEST_DATA)")
    return folder


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


@pytest.fixture
def client():
    """A Dask client of a local cluster, in threads or in processes: ``with client(processes=True): ...``."""
    import distributed

    @contextmanager
    def make(*, processes: bool = False, workers: int = 2):
        # A given host: otherwise distributed asks the network for this machine's address.
        with (
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
