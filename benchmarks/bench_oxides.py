"""Oxide inversion: the CPU kernels alone, and maps from Zarr to Zarr."""

from __future__ import annotations

import shutil
from itertools import count, pairwise
from pathlib import Path

import numpy as np

from benchmarks import SEED, cube, dask_threads, needs_lunarray, spectra


class Kernel:
    """`FusedCNN` in one thread, for the paper's widths."""

    timeout = 120
    params = ([16, 32, 64], [1, 4096])
    param_names = ("n", "pixels")

    def setup(self, n: int, pixels: int) -> None:
        with needs_lunarray():
            from lunarray.oxides.fused import ConvBlock, FusedCNN
        rng = np.random.default_rng(SEED)
        channels = [1, n, n, 2 * n, 2 * n, 4 * n]
        blocks = [
            ConvBlock(
                rng.normal(0, (3 * a) ** -0.5, (b, a, 3)),
                None,
                *rng.normal(size=(3, b)),
                rng.uniform(0.5, 2, b),
            )
            for a, b in pairwise(channels)
        ]
        head = rng.normal(0, 0.01, (6, 4 * n * 150))
        self.model = FusedCNN(
            blocks,
            head,
            np.zeros(6),
            np.full(150, 0.15),
            np.full(150, 0.03),
            np.full(6, 10.0),
            np.ones(6),
        )
        self.x = spectra(pixels)
        self.model(self.x[:1])

    def time_predict(self, n: int, pixels: int) -> None:
        self.model(self.x)

    def peakmem_predict(self, n: int, pixels: int) -> None:
        self.model(self.x)


class Novelty:
    """`novelty` in one thread."""

    timeout = 120

    def setup(self) -> None:
        with needs_lunarray():
            from lunarray.oxides.novelty import fit_novelty, novelty
        self.x = spectra(8192)
        self.novelty, self.statistics = novelty, fit_novelty(self.x[:2000])
        novelty(self.x[:1], self.statistics)

    def time_novelty(self) -> None:
        self.novelty(self.x, self.statistics)

    def peakmem_novelty(self) -> None:
        self.novelty(self.x, self.statistics)


class InvertMap:
    """`open_zarr` -> `invert_oxides` -> `to_zarr` with the default model, on two Dask threads."""

    timeout = 300
    params = ((256, 768),)
    param_names = ("rows",)
    columns = 512

    def setup_cache(self) -> dict[int, str]:
        with needs_lunarray():
            import lunarray  # noqa: F401  # registers the accessor

            stores = {}
            for rows in self.params[0]:
                stores[rows] = str(Path(f"map-{rows}.zarr").resolve())
                cube(rows, self.columns, chunk=256).lunar.to_zarr(stores[rows], progress=False)
            return stores

    def setup(self, stores: dict[int, str], rows: int) -> None:
        with needs_lunarray():
            import lunarray
            from lunarray.oxides import DEFAULT_WEIGHTS
        if not DEFAULT_WEIGHTS.exists():
            raise NotImplementedError("no default model")
        self.lunarray, self.store, self.number = lunarray, stores[rows], count()
        self.lunarray.open_zarr(self.store).isel(y=slice(4), x=slice(4)).lunar.invert_oxides(
            device="cpu"
        ).compute()

    def _run(self) -> None:
        # A new store each time: a complete one is left as it is.
        target = Path(f"oxides-{next(self.number)}.zarr")
        with dask_threads():
            maps = self.lunarray.open_zarr(self.store).lunar.invert_oxides(device="cpu")
            maps.lunar.to_zarr(target, progress=False)
        shutil.rmtree(target)

    def time_invert(self, stores: dict[int, str], rows: int) -> None:
        self._run()

    def peakmem_invert(self, stores: dict[int, str], rows: int) -> None:
        self._run()


class InvertGraph:
    """Building the graph only, which must not grow into the time of computing it."""

    timeout = 120

    def setup(self) -> None:
        with needs_lunarray():
            import lunarray  # noqa: F401
            from lunarray.oxides import DEFAULT_WEIGHTS
        if not DEFAULT_WEIGHTS.exists():
            raise NotImplementedError("no default model")
        self.map = cube(256, 256, chunk=8)
        self.map.lunar.invert_oxides(device="cpu")

    def time_graph(self) -> None:
        self.map.lunar.invert_oxides(device="cpu").__dask_graph__()

    def peakmem_graph(self) -> None:
        self.map.lunar.invert_oxides(device="cpu").__dask_graph__()
