"""Spectral Profiler: reading products, conditioning spectra, gridding tracks."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks import dask_threads, needs_lunarray, real_data, tracks

#: How often each real product is copied, to have a folder of many.
COPIES = 20


class Read:
    """`open_sp` on a folder of real products."""

    timeout = 300

    def setup_cache(self) -> str:
        folder = Path("sp").resolve()
        folder.mkdir(exist_ok=True)
        for product in sorted((real_data() / "sp").iterdir()):
            # A detached label names its data file; only products in one file can be copied under another name.
            if product.suffix.lower() == ".spc" and not product.with_suffix(".lbl").exists():
                for number in range(COPIES):
                    shutil.copy(product, folder / f"{product.stem}_{number:03d}{product.suffix}")
        if not any(folder.iterdir()):
            raise NotImplementedError("no SP product with an attached label")
        return str(folder)

    def setup(self, folder: str) -> None:
        with needs_lunarray():
            import lunarray

            self.open_sp = lunarray.open_sp
        self.pattern = f"{folder}/*.spc"
        self.open_sp(self.pattern)

    def time_open(self, folder: str) -> None:
        self.open_sp(self.pattern)

    def time_read(self, folder: str) -> None:
        with dask_threads():
            self.open_sp(self.pattern).compute()

    def peakmem_read(self, folder: str) -> None:
        with dask_threads():
            self.open_sp(self.pattern).compute()


class Condition:
    """`condition`: quality mask, joint, spikes, smoothing, resampling."""

    timeout = 300
    params = (("memory", "dask"),)
    param_names = ("input",)

    def setup(self, kind: str) -> None:
        with needs_lunarray():
            from lunarray.sp import condition

            self.condition = condition
            self.tracks = tracks(20_000, chunk=5_000 if kind == "dask" else None)
        condition(self.tracks.isel(observation=slice(10))).compute()

    def _run(self) -> None:
        with dask_threads():
            self.condition(self.tracks)["reflectance"].compute()

    def time_condition(self, kind: str) -> None:
        self._run()

    def peakmem_condition(self, kind: str) -> None:
        self._run()


class Grid:
    """`grid`: tracks on a polar map; the spectra are on the model's bands already."""

    timeout = 300
    params = (("memory", "dask"), (None, 10_000.0))
    param_names = ("input", "fill_radius")

    def setup(self, kind: str, fill_radius: float | None) -> None:
        with needs_lunarray():
            from lunarray.sp import condition, grid

            self.grid = grid
            self.tracks = condition(tracks(20_000)).compute()
        if kind == "dask":
            self.tracks = self.tracks.chunk(observation=5_000)
        self._run(fill_radius, 100_000.0)

    def _run(self, fill_radius: float | None, resolution: float) -> None:
        with dask_threads():
            self.grid(
                self.tracks, "north", resolution=resolution, latitude=80, fill_radius=fill_radius
            ).compute()

    def time_grid(self, kind: str, fill_radius: float | None) -> None:
        self._run(fill_radius, 4_000.0)

    def peakmem_grid(self, kind: str, fill_radius: float | None) -> None:
        self._run(fill_radius, 4_000.0)
