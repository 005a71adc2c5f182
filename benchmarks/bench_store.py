"""The Zarr store: writing, reading back, opening."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path

from benchmarks import cube, dask_threads, needs_lunarray


class Store:
    """150 bands x 512 x 512 pixels (157 MB)."""

    timeout = 300

    def setup_cache(self) -> str:
        with needs_lunarray():
            import lunarray  # noqa: F401  # registers the accessor

            path = str(Path("cube.zarr").resolve())
            cube(512, 512, chunk=256).lunar.to_zarr(path, progress=False)
            return path

    def setup(self, path: str) -> None:
        with needs_lunarray():
            import lunarray
        self.lunarray, self.number = lunarray, count()
        self.cube = cube(512, 512, chunk=256)

    def _write(self) -> None:
        target = Path(f"written-{next(self.number)}.zarr")
        with dask_threads():
            self.cube.lunar.to_zarr(target, progress=False)
        shutil.rmtree(target)

    def _read(self, path: str) -> None:
        with dask_threads():
            self.lunarray.open_zarr(path).compute()

    def time_write(self, path: str) -> None:
        self._write()

    def peakmem_write(self, path: str) -> None:
        self._write()

    def time_read(self, path: str) -> None:
        self._read(path)

    def peakmem_read(self, path: str) -> None:
        self._read(path)

    def time_open(self, path: str) -> None:
        self.lunarray.open_zarr(path)

    def time_describe(self, path: str) -> None:
        self.lunarray.store.describe(path)

    def time_complete_already(self, path: str) -> None:
        self.cube.lunar.to_zarr(path, progress=False)

    def peakmem_open(self, path: str) -> None:
        self.lunarray.open_zarr(path)


class Resume:
    """Going on with a store of 400 regions of which half are there."""

    timeout = 300

    def setup(self) -> None:
        with needs_lunarray():
            from lunarray.store import layout, regions, to_zarr
        import dask.array as da
        import numpy as np
        import xarray as xr

        self.regions, self.before = regions, regions.choose_layout
        regions.choose_layout = lambda dims, shape, size, blocks: layout.Layout(blocks, None)
        self.to_zarr, self.number = to_zarr, count()
        data = da.random.default_rng(1).random((640, 640), chunks=32, dtype=np.float32)
        self.ds = xr.Dataset({"a": (("y", "x"), data)})
        self.whole = Path("whole.zarr")
        with dask_threads():
            to_zarr(self.ds, self.whole, progress=False)
        state = (self.whole / "zarr.json").read_text()
        (self.whole / "zarr.json").write_text(
            state.replace('"complete": true', '"complete": false')
        )
        for folder in list((self.whole / "a/c").iterdir())[::2]:
            shutil.rmtree(folder)

    def teardown(self) -> None:
        if hasattr(self, "before"):  # otherwise setup skipped this commit
            self.regions.choose_layout = self.before

    def _resume(self) -> None:
        target = Path(f"resumed-{next(self.number)}.zarr")
        shutil.copytree(self.whole, target)
        with dask_threads():
            self.to_zarr(self.ds, target, progress=False)
        shutil.rmtree(target)

    def time_resume(self) -> None:
        self._resume()

    def peakmem_resume(self) -> None:
        self._resume()


class Lock:
    """Taking and giving back the right to write."""

    timeout = 60

    def setup(self) -> None:
        with needs_lunarray():
            from lunarray.store.locks import WriteLock
        self.lock, self.path = WriteLock, Path("locked.zarr").resolve()

    def time_lock(self) -> None:
        with self.lock(self.path):
            pass
