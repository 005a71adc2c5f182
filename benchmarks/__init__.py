"""How fast lunarray is: asv suites (`bench_*.py`) and comparisons with its peers (`python -m benchmarks.peers`).

The suites follow one pattern: inputs are seeded; `setup` runs the work once on a small piece, so that Numba compiles
outside of the timing; lazy results are computed; every class states its timeout and has both a time and a memory peak.
What is not there in a commit, or not on a machine, is skipped by `NotImplementedError`, asv's own way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20261121
#: Dask threads in all suites, so that machines with more cores stay comparable.
THREADS = 2


@contextmanager
def needs_lunarray() -> Iterator[None]:
    """Skip the benchmark where this commit lacks what it needs."""
    try:
        yield
    except (ImportError, AttributeError) as error:
        raise NotImplementedError(str(error)) from error


def dask_threads() -> Any:
    """Dask's threaded scheduler with the suites' number of threads."""
    import dask

    return dask.config.set(scheduler="threads", num_workers=THREADS)


def real_data() -> Path:
    """Folder of real instrument files, as the tests look for it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LUNARRAY_TEST_DATA", beside))
    if not folder.is_dir():
        raise NotImplementedError(
            f"no real instrument files: {folder} is absent (set LUNARRAY_TEST_DATA)"
        )
    return folder


def spectra(pixels: int, bands: int = 150) -> np.ndarray:
    """Bright, slightly red spectra with noise, (pixel, band) float32."""
    rng = np.random.default_rng(SEED)
    continuum = np.linspace(0.10, 0.22, bands, dtype=np.float32)
    return continuum * (1 + 0.02 * rng.standard_normal((pixels, bands), dtype=np.float32))


def tracks(observations: int, *, chunk: int | None = None) -> Any:
    """SP observations on the detectors' own 296 channels, around the north pole, as `open_sp` gives them."""
    import xarray as xr

    from lunarray.sp import WAVELENGTHS_160

    rng = np.random.default_rng(SEED)
    # VIS reads on beyond the joint, NIR1 begins before it: the overlap in which the two are joined.
    vis = np.concatenate([WAVELENGTHS_160[:73], np.linspace(950.4, 1010.6, 11, dtype=np.float32)])
    nir1 = np.concatenate([np.linspace(883.5, 946.9, 13, dtype=np.float32), WAVELENGTHS_160[73:]])
    nir2 = np.linspace(1717.6, 2588.0, 112, dtype=np.float32)
    wavelength = np.concatenate([vis, nir1, nir2])
    reflectance = (0.05 + 8e-5 * wavelength) * (
        1 + 0.02 * rng.standard_normal((observations, wavelength.size), dtype=np.float32)
    )
    dims = ("observation", "wavelength")
    ds = xr.Dataset(
        {
            "reflectance": (dims, reflectance.astype(np.float32), {"units": "1"}),
            "qa": (dims, np.zeros(reflectance.shape, np.uint16)),
        },
        coords={
            "wavelength": ("wavelength", wavelength, {"units": "nm"}),
            "detector": ("wavelength", np.repeat(["VIS", "NIR1", "NIR2"], [84, 100, 112])),
            "lat": (
                "observation",
                90 - 10 * np.sqrt(rng.random(observations)),
                {"units": "degrees_north"},
            ),
            "lon": ("observation", rng.uniform(-180, 180, observations), {"units": "degrees_east"}),
            "incidence": ("observation", rng.uniform(50, 85, observations).astype(np.float32)),
            "emission": ("observation", np.zeros(observations, np.float32)),
        },
    )
    return ds if chunk is None else ds.chunk(observation=chunk)


def cube(rows: int, columns: int, *, chunk: int | None = None) -> Any:
    """A map of spectra on the bands of the default model, (wavelength, y, x)."""
    import xarray as xr

    from lunarray.sp import WAVELENGTHS_150

    data = np.ascontiguousarray(spectra(rows * columns).T).reshape(150, rows, columns)
    ds = xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), data, {"units": "1"})},
        coords={
            "wavelength": ("wavelength", np.asarray(WAVELENGTHS_150), {"units": "nm"}),
            "y": ("y", 500.0 * np.arange(rows)[::-1], {"units": "m"}),
            "x": ("x", 500.0 * np.arange(columns), {"units": "m"}),
        },
    )
    return ds if chunk is None else ds.chunk(y=chunk, x=chunk)
