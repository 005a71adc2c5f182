"""The engine: mapping a model over blocks, building large graphs, what a task costs, starting a cluster."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cube, dask_threads, needs_lunarray


def double(pixels: np.ndarray) -> np.ndarray:
    """A kernel that costs nothing: what is measured is the engine around it."""
    return pixels[:, :2]


class MapPixels:
    """`map_pixels` with an empty kernel, 150 bands x 512 x 512 pixels (157 MB)."""

    timeout = 120

    def setup(self) -> None:
        with needs_lunarray():
            from lunarray.engine import map_pixels
        self.map_pixels = map_pixels
        self.data = cube(512, 512, chunk=128).reflectance.data
        self._run()

    def _run(self) -> Any:
        with dask_threads():
            return self.map_pixels(double, self.data, outputs=2).compute()

    def time_map_pixels(self) -> None:
        self._run()

    def peakmem_map_pixels(self) -> None:
        self._run()


class Graph:
    """Building the graph of a write without computing: blocks of 150 bands x 128 x 128."""

    timeout = 300
    params = ((1024, 10_000), ("write", "invert_oxides"))
    param_names = ("blocks", "verb")

    def setup(self, blocks: int, verb: str) -> None:
        with needs_lunarray():
            from lunarray.engine import execution
            from lunarray.store import manifest, regions
        import dask.array as da
        import xarray as xr

        from lunarray.sp import WAVELENGTHS_150

        self.execution, self.manifest, self.regions = execution, manifest, regions
        side = round(blocks**0.5) * 128
        data = da.zeros((150, side, side), chunks=(150, 128, 128), dtype=np.float32)
        self.ds = xr.Dataset(
            {"reflectance": (("wavelength", "y", "x"), data)},
            coords={"wavelength": np.asarray(WAVELENGTHS_150)},
        )
        if verb == "invert_oxides":
            import lunarray  # noqa: F401  # registers the accessor

            self.ds.isel(y=slice(0, 128), x=slice(0, 128)).lunar.invert_oxides()

    def _build(self, verb: str) -> None:
        ds = self.ds.lunar.invert_oxides() if verb == "invert_oxides" else self.ds
        groups = self.regions.plan(ds)
        self.manifest.contents(ds)
        self.regions.writes(ds, groups, "nowhere.zarr")

    def time_graph(self, blocks: int, verb: str) -> None:
        self._build(verb)

    def peakmem_graph(self, blocks: int, verb: str) -> None:
        self._build(verb)


class Overhead:
    """1024 regions with nothing in them: what a region costs beside its work, and Dask's own map_blocks beside it."""

    timeout = 300
    params = (("map_blocks", "to_zarr"), ("threads", "distributed"))
    param_names = ("what", "scheduler")

    def setup(self, what: str, scheduler: str) -> None:
        with needs_lunarray():
            from lunarray.store import layout, regions, to_zarr
        import dask
        import dask.array as da
        import xarray as xr

        self.to_zarr, self.regions, self.number = to_zarr, regions, count()
        self.before = regions.choose_layout
        regions.choose_layout = lambda dims, shape, size, blocks: layout.Layout(blocks, None)
        array = da.zeros((256, 256), chunks=8, dtype=np.float32).map_blocks(
            np.positive, dtype=np.float32, meta=np.empty((0, 0), np.float32)
        )
        self.ds = xr.Dataset({"a": (("y", "x"), array)})
        self.closing: list[Any] = []
        if scheduler == "distributed":
            import distributed

            cluster = distributed.LocalCluster(
                1,
                threads_per_worker=2,
                processes=False,
                dashboard_address=":0",
                host="127.0.0.1",
                protocol="tcp://",
            )
            self.closing = [distributed.Client(cluster), cluster]
        else:
            context = dask.config.set(scheduler="threads", num_workers=2)
            context.__enter__()
            self.closing = [context]

    def teardown(self, what: str, scheduler: str) -> None:
        if not hasattr(self, "closing"):
            return  # setup skipped this commit
        self.regions.choose_layout = self.before
        for each in self.closing:
            each.__exit__(None, None, None)

    def time_overhead(self, what: str, scheduler: str) -> None:
        if what == "map_blocks":
            self.ds.a.data.compute()
        else:
            path = Path(f"overhead-{next(self.number)}.zarr")
            self.to_zarr(self.ds, path, progress=False)
            shutil.rmtree(path)


class Cluster:
    """Starting and closing two spawned workers."""

    timeout = 120

    def time_cluster(self) -> None:
        with needs_lunarray():
            from lunarray.engine import cluster
        with cluster("local", workers=2):
            pass
