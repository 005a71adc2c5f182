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
