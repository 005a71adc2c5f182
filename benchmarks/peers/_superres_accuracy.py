"""Row of ``python -m benchmarks.peers superres``: accuracy and time of methods for whole maps, in one run.

A simulated scene whose truth is known at every pixel, the same covariates for all: the areal Gaussian process, the
network with the paper's losses, the footprint ridge, the mean of mare and highland, and ordinary kriging by PyKrige,
of what footprints measured and of what the ridge leaves of it. Errors are at pixels that no footprint covers, the mean
over elements in units of the truth's spread; seconds are for training and the map.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers import Options

#: West, south, east, north of the scene, and its pixels.
EXTENT, SHAPE = (-85.0, 12.0, -65.3, 25.2), (200, 300)
SEED = 2


def accuracy(options: Options) -> dict[str, Any]:
    """Relative error and seconds of each method on one scene."""
    from lunarray import superres
    from lunarray.simulate import track_scene
    from lunarray.superres.areal_bank import model_of_ground, predict_ground
    from lunarray.superres.covariates import map_features
    from lunarray.superres.evaluation import score_table
    from lunarray.superres.prediction import predict_region
    from lunarray.superres.regions import assemble_region
    from lunarray.superres.training import train_region

    shape = (60, 90) if options.quick else SHAPE
    grid = superres.GIBGrid((1, 1), shape, EXTENT)
    scene = track_scene(grid, SEED, coverage=0.2)
    elements = [str(e) for e in scene.truth["element"].values]
    features = map_features({"albedo": np.log(scene.basemap)}, grid, (0, 0)).values
    mare = superres.mare_class(grid.geobox, albedo=scene.basemap).values
    data = assemble_region(grid, features, mare, scene.footprints)
    ground = grid.lat(0), grid.lon(0), features, mare
    seen = scene.footprints.isel(footprint=data.support.number)
    truth = scene.truth["abundance"].transpose("element", "lat", "lon").values
    free = ~scene.covered.values

    def areal() -> np.ndarray:
        model = model_of_ground([ground], scene.footprints, superres.ArealSettings())
        return predict_ground(model, ground)[0]

    def network() -> np.ndarray:
        small = {"size": 40, "stride": 20, "k": 20} if options.quick else {}
        settings = superres.TrainSettings(members=1, **small)
        trained = train_region(data, settings, device="cpu", progress=False)
        if trained is None:
            raise RuntimeError("the training was stopped")
        return predict_region(trained, *ground)[0]

    def baseline(name: str) -> Callable[[], np.ndarray]:
        return lambda: superres.baseline_maps(data, [name])[name]

    def residuals() -> np.ndarray:
        ridge = superres.baseline_maps(data, ["footprint ridge"])["footprint ridge"]
        flat = ridge.reshape(len(elements), -1).T.astype(np.float64)
        left = data.support.measured - data.support.mean(flat)
        return ridge + kriged(seen, left, grid)

    methods: dict[str, Callable[[], np.ndarray]] = {
        "areal Gaussian process": areal,
        "network, the paper's losses": network,
        "footprint ridge": baseline("footprint ridge"),
        "mare/highland mean": baseline("mare/highland mean"),
        "ordinary kriging (PyKrige)": lambda: kriged(seen, data.support.measured, grid),
        "ridge and kriging of the rest (PyKrige)": residuals,
    }
    rows = {}
    for name, run in methods.items():
        begin = time.perf_counter(), time.process_time()
        try:
            found = run()
        except ModuleNotFoundError as error:
            rows[name] = {"absent": str(error)}
            continue
        spent = time.perf_counter() - begin[0], time.process_time() - begin[1]
        table = score_table({name: found[:, free].T}, truth[:, free].T, elements)
        rows[name] = {
            "relative": round(float(table["relative"][0]), 3),
            "rmse": {e: round(float(v), 3) for e, v in zip(elements, table["rmse"].values[0], strict=True)},
            "seconds": round(spent[0], 2), "processor_seconds": round(spent[1], 2),
        }  # fmt: skip
        print(f"{name}: {rows[name]}", flush=True)
    return {
        "accuracy": {
            "pixels": list(shape), "footprints": data.support.count, "seed": SEED, "methods": rows
        }
    }  # fmt: skip


def kriged(footprints: Any, values: np.ndarray, grid: Any) -> np.ndarray:
    """Ordinary kriging of each element by PyKrige, from the middles of footprints, on the sphere."""
    from pykrige.ok import OrdinaryKriging

    from lunarray.superres.footprints import footprint_cells

    middle = footprint_cells(footprints, 1)
    at = middle["lon"].values[:, 0] % 360, middle["lat"].values[:, 0]
    lon, lat = np.meshgrid(grid.lon(0), grid.lat(0))
    parts = []
    for own in np.asarray(values, np.float64).T:
        model = OrdinaryKriging(
            *at, own, variogram_model="exponential", coordinates_type="geographic", exact_values=False
        )  # fmt: skip
        found, _ = model.execute("points", lon.ravel() % 360, lat.ravel())
        parts.append(np.asarray(found).reshape(lon.shape))
    return np.stack(parts)
