"""Super-resolved maps: population, surface features, the choice among them, graphs, and one step of training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import SEED, dask_threads, needs_lunarray

#: Height of a pixel of the paper's grid (degrees).
STEP = 22.5 / 342


def texture(rows: int, columns: int) -> np.ndarray:
    """A surface with structure at all scales, float32."""
    rng = np.random.default_rng(SEED)
    scale = np.hypot(np.fft.fftfreq(rows)[:, None] * rows, np.fft.rfftfreq(columns) * columns)
    scale[0, 0] = 1
    z = np.fft.rfft2(rng.standard_normal((rows, columns))) / scale**1.2
    z = np.fft.irfft2(z, s=(rows, columns))
    return ((z - z.mean()) / z.std()).astype(np.float32)


def basemap(degrees: float = 6.0, step: float = 1 / 303) -> Any:
    """A base map of 100 m around the equator."""
    import xarray as xr

    from lunarray.geo import assign_crs, moon_crs

    n = int(degrees / step)
    axis = step * (np.arange(n) + 0.5)
    coords = {"lat": degrees / 2 - axis, "lon": axis - 1}
    return assign_crs(
        xr.DataArray(texture(n, n), coords, ("lat", "lon"), "albedo"), moon_crs("geographic")
    )


def subregion(side: int = 100, features: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places (degrees) and smooth, standardised features of the nodes of a sub-region."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(SEED)
    lat, lon = np.meshgrid(10 - STEP * np.arange(side), 20 + STEP * np.arange(side), indexing="ij")
    w = np.empty((side * side, features), np.float32)
    for f in range(features):
        z = gaussian_filter(rng.standard_normal((side, side)), 3).ravel()
        w[:, f] = (z - z.mean()) / z.std()
    return lat.ravel(), lon.ravel(), w


def feature_rows(rows: int, features: int = 2048) -> np.ndarray:
    """Features that go together in groups and differ in size, as those of a network do."""
    rng = np.random.default_rng(SEED)
    mixing = rng.standard_normal((64, features), np.float32)
    scale = rng.gamma(2, 1, features).astype(np.float32)
    x = np.empty((rows, features), np.float32)
    for start in range(0, rows, 8192):
        part = x[start : start + 8192]
        np.matmul(rng.standard_normal((len(part), 64), np.float32), mixing, out=part)
        part += rng.standard_normal(part.shape, np.float32)
        part *= scale
    return x


class Neighbours:
    """The graph of a sub-region: 100 neighbours of each of `side`² nodes, 300 features."""

    timeout = 300
    params = (50, 100)
    param_names = ("side",)

    def setup(self, side: int) -> None:
        with needs_lunarray():
            from lunarray.superres import neighbours
        self.lat, self.lon, self.w = subregion(side)
        self.neighbours = neighbours
        neighbours(self.lat[:300], self.lon[:300], self.w[:300])

    def time_neighbours(self, side: int) -> None:
        self.neighbours(self.lat, self.lon, self.w)

    def peakmem_neighbours(self, side: int) -> None:
        self.neighbours(self.lat, self.lon, self.w)


class SelectFeatures:
    """300 of 2048 features, in memory and from Dask blocks on two threads."""

    timeout = 600
    params = ([20_000], ["numpy", "dask"])
    param_names = ("rows", "kind")

    def setup(self, rows: int, kind: str) -> None:
        with needs_lunarray():
            from lunarray.superres import select_features
        self.select = select_features
        self.x = feature_rows(rows)
        if kind == "dask":
            import dask.array as da

            self.x = da.from_array(self.x, chunks=(8192, -1), name=False)
        select_features(np.asarray(self.x[:100, :50]), 5)

    def time_select(self, rows: int, kind: str) -> None:
        with dask_threads():
            self.select(self.x, 300)

    def peakmem_select(self, rows: int, kind: str) -> None:
        with dask_threads():
            self.select(self.x, 300)


class SurfaceFeatures:
    """All 2048 features of 24 × 24 pixels by the dense pass, and of 8 pixels by their own patches."""

    timeout = 600

    def setup(self) -> None:
        with needs_lunarray():
            from lunarray.superres import GIBGrid, surface_features
            from lunarray.superres.features import patch_features
        self.surface, self.patches = surface_features, patch_features
        self.map = basemap(4.0)
        self.grid = GIBGrid((1, 1), (24, 24), (0.0, 0.0, 24 * STEP, 24 * STEP))
        self.lat, self.lon = self.grid.lat(0)[:8], self.grid.lon(0)[:8]
        self.patches(self.map, self.lat[:1], self.lon[:1], device="cpu")
        tiny = GIBGrid((1, 1), (1, 1), (0.0, 0.0, STEP, STEP))
        surface_features(self.map, tiny, (0, 0), "random", context=0, device="cpu")

    def time_dense(self) -> None:
        self.surface(self.map, self.grid, (0, 0), device="cpu")

    def time_patch(self) -> None:
        self.patches(self.map, self.lat, self.lon, device="cpu")

    def peakmem_dense(self) -> None:
        self.surface(self.map, self.grid, (0, 0), device="cpu")


class SurfaceFeaturesGraph:
    """Building the graph of a region of the paper only, over a lazy global map."""

    timeout = 120

    def setup(self) -> None:
        with needs_lunarray():
            import dask.array as da
            import xarray as xr

            from lunarray.geo import assign_crs, moon_crs
            from lunarray.superres import GIBGrid, surface_features
        self.surface, self.grid = surface_features, GIBGrid()
        coords = {
            "lat": 90 - 0.025 - 0.05 * np.arange(3600),
            "lon": -179.975 + 0.05 * np.arange(7200),
        }
        data = da.zeros((3600, 7200), chunks=900, dtype="f4")
        self.map = assign_crs(xr.DataArray(data, coords, ("lat", "lon")), moon_crs("geographic"))
        self.time_graph()

    def time_graph(self) -> None:
        self.surface(self.map, self.grid, (3, 0), device="cpu").__dask_graph__()


class Populate:
    """Footprints into their eight cells, and the cells into pixels."""

    timeout = 300
    params = (20_000, 200_000)
    param_names = ("footprints",)

    def setup(self, footprints: int) -> None:
        with needs_lunarray():
            from lunarray.superres.population import split_abundances
        rng = np.random.default_rng(SEED)
        self.abundance = rng.uniform(1, 40, (footprints, 8))
        self.classes = rng.integers(1, 3, (footprints, 8)).astype(np.uint8)
        self.split = split_abundances
        split_abundances(self.abundance[:10], self.classes[:10])

    def time_split(self, footprints: int) -> None:
        self.split(self.abundance, self.classes)

    def peakmem_split(self, footprints: int) -> None:
        self.split(self.abundance, self.classes)


class Study:
    """A region of 120 x 150 pixels with 40 features: a populated bank, one pass of training, and the map from it."""

    timeout = 600
    folder = "study"

    def setup_cache(self) -> str:
        with needs_lunarray():
            import lunarray.superres as sr
            from lunarray.simulate import track_scene
        grid = sr.GIBGrid((1, 1), (120, 150), (-85.0, 12.0, -75.1, 19.9))
        scene = track_scene(grid, SEED, coverage=0.2)
        path = Path(self.folder).resolve()
        elements = [str(e) for e in scene.truth["element"].values]
        sr.create_gib(path / "gib.zarr", grid, elements, 40)
        feature = np.stack([np.roll(texture(120, 150), 7 * i, 1) for i in range(40)])
        mare = sr.mare_class(grid.geobox, albedo=scene.basemap).values
        origin = {"sha256": "0" * 64, "mode": "dense", "selection": list(range(40))}
        sr.write_region(path / "gib.zarr", (0, 0), feature=feature, mare=mare, feature_model=origin)
        sr.populate(path / "gib.zarr", scene.footprints, outside="skip", progress=False)
        self._train(path, "models")
        return str(path)

    def _train(self, path: Path, models: str) -> None:
        import torch

        import lunarray.superres as sr

        torch.set_num_threads(1)
        settings = sr.TrainSettings(k=40, epochs=1, steps=(1, 1), seed=SEED)
        sr.train_gib(path / "gib.zarr", path / models, settings, overwrite=True)

    def setup(self, path: str) -> None:
        with needs_lunarray():
            import lunarray.superres as sr
        self.path = Path(path)
        self.bank = sr.open_gib(self.path / "gib.zarr")
        self.time_superresolve(path)

    def time_train(self, path: str) -> None:
        self._train(self.path, tempfile.mkdtemp(dir=path))  # what is trained already is left alone

    def peakmem_train(self, path: str) -> None:
        self._train(self.path, tempfile.mkdtemp(dir=path))  # what is trained already is left alone

    def time_superresolve(self, path: str) -> None:
        with dask_threads():
            self.bank.lunar.superresolve(self.path / "models").compute()

    def peakmem_superresolve(self, path: str) -> None:
        self.time_superresolve(path)
