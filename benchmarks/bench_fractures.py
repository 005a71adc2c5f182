"""Fractures: what the networks see, the networks alone, training, and maps from Zarr to Zarr and to vectors."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import SEED, dask_threads, needs_lunarray


def brightness(rows: int, columns: int) -> np.ndarray:
    """Smoothed noise about I/F 0.05, float32, with a corner of no data."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(SEED)
    rough = gaussian_filter(rng.standard_normal((rows, columns), dtype=np.float32), 3)
    image = (0.05 + 0.01 * rough / rough.std()).astype(np.float32)
    image[: rows // 8, : columns // 8] = np.nan
    return image


def mosaic(rows: int, columns: int, chunk: int) -> Any:
    """The same as a chunked image at 1.5 m/px near the south pole."""
    import xarray as xr

    from lunarray.geo import assign_crs, moon_crs

    coords = {"y": -1.5 * np.arange(rows), "x": 1.5 * np.arange(columns)}
    image = xr.DataArray(brightness(rows, columns), dims=("y", "x"), coords=coords, name="image")
    return assign_crs(image, moon_crs("south")).chunk({"y": chunk, "x": chunk})


def random_model(architecture: str, path: Path) -> Path:
    """Weights as they are initialised: time does not depend on them."""
    import torch

    from lunarray.fractures import save_model
    from lunarray.fractures.model import build

    torch.manual_seed(SEED)
    return save_model(path, build(architecture).eval())


class Network:
    """One tile of 512² through a network, in one thread."""

    timeout = 300
    params = ("light", "deeplabv3_resnet50")
    param_names = ("architecture",)

    def setup(self, architecture: str) -> None:
        with needs_lunarray():
            import torch

            from lunarray.fractures.model import build, default_normalisation
            from lunarray.fractures.predictor import predictor_of
        torch.set_num_threads(1)
        self.predict = predictor_of(build(architecture).eval(), default_normalisation(architecture))
        self.tile = brightness(512, 512)[None]
        self.predict(self.tile)

    def time_tile(self, architecture: str) -> None:
        self.predict(self.tile)

    def peakmem_tile(self, architecture: str) -> None:
        self.predict(self.tile)


class LocalContrast:
    """What a network sees of a tile of 512², in one thread."""

    timeout = 60

    def setup(self) -> None:
        with needs_lunarray():
            import torch

            from lunarray.fractures.normalise import Normalisation, normalise
        torch.set_num_threads(1)
        self.normalise, self.rule = normalise, Normalisation()
        self.tile = torch.from_numpy(brightness(512, 512)[None])
        self.normalise(self.tile, self.rule)

    def time_normalise(self) -> None:
        self.normalise(self.tile, self.rule)

    def peakmem_normalise(self) -> None:
        self.normalise(self.tile, self.rule)


class Train:
    """An epoch of the light network over 16 tiles of 256², without augmentation, in one thread."""

    timeout = 300

    def setup(self) -> None:
        with needs_lunarray():
            import torch

            from lunarray.fractures import TrainSettings, train
        torch.set_num_threads(1)
        images = brightness(1024, 1024).reshape(4, 256, 4, 256).swapaxes(1, 2).reshape(-1, 256, 256)
        masks = (np.nan_to_num(images) < 0.035).astype(np.uint8)
        self.train, self.settings = train, TrainSettings(epochs=1, batch_size=8)
        self.tiles = (images, masks)
        self.few = (images[:1], masks[:1])
        self._run(self.few)

    def _run(self, tiles: tuple[np.ndarray, ...]) -> None:
        self.train(
            tiles,
            self.few,
            settings=self.settings,
            augment=None,
            device="cpu",
            progress=False,
        )

    def time_epoch(self) -> None:
        self._run(self.tiles)

    def peakmem_epoch(self) -> None:
        self._run(self.tiles)


class MapMosaic:
    """`open_zarr` -> `map_fractures` (light network) -> `to_zarr`, on two Dask threads."""

    timeout = 300
    params = (512, 2048)
    param_names = ("side",)

    def setup_cache(self) -> dict[int, str]:
        with needs_lunarray():
            import lunarray  # noqa: F401  # registers the accessor
            from lunarray.fractures import map_fractures  # noqa: F401

            stores = {}
            for side in self.params:
                stores[side] = str(Path(f"mosaic-{side}.zarr").resolve())
                mosaic(side, side, 512).to_dataset().lunar.to_zarr(stores[side], progress=False)
            stores[0] = str(random_model("light", Path("light.safetensors").resolve()))
            return stores

    def setup(self, stores: dict[int, str], side: int) -> None:
        with needs_lunarray():
            import lunarray
            from lunarray.fractures import map_fractures
        self.open, self.map, self.number = lunarray.open_zarr, map_fractures, count()
        self.model, self.store = stores[0], stores[side]
        self._found().isel(y=slice(8), x=slice(8)).compute()

    def _found(self) -> Any:
        return self.map(self.open(self.store), self.model, device="cpu")

    def _run(self) -> None:
        # A new store each time: a complete one is left as it is.
        target = Path(f"fractures-{next(self.number)}.zarr")
        with dask_threads():
            self._found().lunar.to_zarr(target, progress=False)
        shutil.rmtree(target)

    def time_map(self, stores: dict[int, str], side: int) -> None:
        self._run()

    def peakmem_map(self, stores: dict[int, str], side: int) -> None:
        self._run()


class MapGraph:
    """Building the graph of 10⁹ pixels only."""

    timeout = 120

    def setup(self) -> None:
        with needs_lunarray():
            import dask.array as da
            import xarray as xr

            from lunarray.fractures import map_fractures
        self.model = random_model("light", Path("light-graph.safetensors").resolve())
        self.map = map_fractures
        self.image = xr.DataArray(
            da.zeros((32_000, 32_000), np.float32, chunks=2048), dims=("y", "x")
        )
        self.map(self.image, self.model, device="cpu")

    def time_graph(self) -> None:
        self.map(self.image, self.model, device="cpu").__dask_graph__()

    def peakmem_graph(self) -> None:
        self.map(self.image, self.model, device="cpu").__dask_graph__()


class Vectorize:
    """Masks to vectors, on two Dask threads: 2 % of 16 million pixels in blobs."""

    timeout = 300

    def setup(self) -> None:
        with needs_lunarray():
            import xarray as xr

            from lunarray.fractures import vectorize
            from lunarray.geo import assign_crs, moon_crs
        side = 4096
        image = np.nan_to_num(brightness(side, side), nan=0.05)
        found = (image < np.quantile(image, 0.02)).astype(np.uint8)
        coords = {"y": -1.5 * np.arange(side), "x": 1.5 * np.arange(side)}
        mask = xr.DataArray(found, dims=("y", "x"), coords=coords, name="mask")
        self.mask = assign_crs(mask, moon_crs("south")).chunk({"y": 1024, "x": 1024})
        self.vectorize = vectorize
        with dask_threads():
            self.vectorize(self.mask[:256, :256])

    def time_vectorize(self) -> None:
        with dask_threads():
            self.vectorize(self.mask)

    def peakmem_vectorize(self) -> None:
        with dask_threads():
            self.vectorize(self.mask)
