"""The resampler and the opener of rasters: across the seam, around a pole, averages, chunks, a file with a mask."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import SEED, dask_threads, needs_lunarray

#: Source and target, each a name, a resolution and bounds, as `lunar_grid` takes them.
CASES = {
    "seam": (("geographic", 0.25, None), ("geographic", 0.1, (150, -40, 210, 40))),
    "pole": (("geographic", 0.25, None), ("south", 3_000.0, None)),
    "fine": (
        ("equirectangular", 100.0, (0, 0, 150_000, 150_000)),
        ("geographic", 0.0033, (0.0, 0.0, 4.9, 4.9)),
    ),
    "lattice": (
        ("south", 1.0, (90_000, -180_000, 92_000, -178_000)),
        ("south", 1.5, (90_000, -180_000, 92_000, -178_000)),
    ),
}


class Reproject:
    """One map onto another grid, whole and in chunks."""

    timeout = 300
    params = (tuple(CASES), ("nearest", "bilinear", "average"), ("numpy", "dask"))
    param_names = ("case", "method", "array")

    def setup(self, case: str, method: str, array: str) -> None:
        with needs_lunarray():
            from lunarray import geo
        import xarray as xr

        source, target = (geo.lunar_grid(*spec) for spec in CASES[case])
        values = np.random.default_rng(SEED).random(tuple(source.shape)).astype(np.float32)
        given = xr.DataArray(values, dims=geo.grid_dims(source), name="map")
        self.given = geo.assign_grid(given, source)
        if array == "dask":
            self.given = self.given.chunk(dict.fromkeys(self.given.dims, 400))
        self.run = lambda: geo.reproject(self.given, target, method=method).compute()
        self.time_reproject()

    def time_reproject(self, *_: Any) -> None:
        with dask_threads():
            self.run()

    def peakmem_reproject(self, *_: Any) -> None:
        with dask_threads():
            self.run()


class Opening:
    """A tiled GeoTIFF of 4096 × 4096 pixels of 8 bits with a mask inside."""

    timeout = 300

    def setup(self) -> None:
        with needs_lunarray():
            from lunarray import geo
        import rasterio

        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "image.tif"
        values = np.random.default_rng(SEED).integers(1, 255, (4096, 4096)).astype(np.uint8)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path, "w", driver="GTiff", count=1, height=4096, width=4096, dtype="uint8", tiled=True,
                crs=geo.moon_crs("south").to_wkt(), transform=rasterio.transform.from_origin(0, 0, 1.5, 1.5),
            ) as raster,
        ):  # fmt: skip
            raster.write(values, 1)
            raster.write_mask(values > 20)
        self.run = lambda: geo.open_raster(path, bands=1).compute()
        self.time_open_raster()

    def teardown(self) -> None:
        self.folder.cleanup()

    def time_open_raster(self) -> None:
        with dask_threads():
            self.run()
