"""The areal Gaussian process against what it must beat: simulated Moons, tracks held out, the whole Moon, and its cost.

    python -m benchmarks.areal seeds 1 2 3 101 102        # against the truth, with coverage by element
    python -m benchmarks.areal tracks --data FOLDER       # real footprints of a region, whole tracks held out
    python -m benchmarks.areal moon --data FOLDER         # all usable footprints of the real table, the same
    python -m benchmarks.areal cost 1000 10000 100000     # seconds and memory by the number of footprints

``--sketch FOLDER`` takes ``gp.py`` and ``oilmm.py`` of another Gaussian process into the table of seeds (they need
torch). Covariates are six smoothed maps of the logarithm of albedo and the mare class; ``--maps all`` takes those of
Lunar Prospector's iron and titanium besides, ``--folds 0 1`` some folds only.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

#: Procellarum's western shore for simulated Moons; 22.5° × 45° of the near side's equator for real tracks.
SHORE, NEAR_SIDE = (-85.0, 12.0, -65.3, 25.2), (-45.0, -11.25, 0.0, 11.25)
#: Gaussian widths of means, and of spreads, pixels.
MEANS, SPREADS = (0.7, 2, 5, 12), (2, 5)
REAL = {"albedo": "Albedo_Map", "iron": "LPFe_Map", "titanium": "LPTi_Map"}


def smoothed(image: np.ndarray, logarithm: bool = True, wrap: bool = False) -> np.ndarray:
    """Means and spreads of an image (row, column) at some scales, (feature, row, column) float32."""
    from scipy.ndimage import gaussian_filter

    x = np.log(image) if logarithm else image.astype(float)
    mode = ("nearest", "wrap" if wrap else "nearest")
    out = [gaussian_filter(x, width, mode=mode) for width in MEANS]
    for width in SPREADS:
        square = gaussian_filter(x * x, width, mode=mode)
        out.append(np.sqrt(np.maximum(square - gaussian_filter(x, width, mode=mode) ** 2, 0)))
    return np.stack(out).astype(np.float32)


# --- simulated Moons ------------------------------------------------------------------------------


def scene(seed: int) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Grid, simulated study, features and mare class."""
    import lunarray.superres as sr
    from lunarray.geo import reproject
    from lunarray.simulate import track_scene

    grid = sr.GIBGrid((1, 1), (200, 300), SHORE)
    made = track_scene(grid, seed, coverage=0.2)
    image = reproject(made.basemap, grid.geobox).values.astype(float)
    return grid, made, smoothed(image), sr.mare_class(grid.geobox, albedo=made.basemap).values


def sketch(
    folder: Path, grid: Any, features: np.ndarray, mare: np.ndarray, data: Any
) -> np.ndarray:
    """Map (element, row, column) of the Gaussian process of another's files."""
    sys.path.insert(0, str(folder))
    import gp
    import oilmm
    from scipy import sparse

    flat = features.reshape(len(features), -1).T.astype(float)
    kind = np.choose(mare.ravel(), (0.0, 1.0, -1.0))
    x = np.clip(np.column_stack([(flat - flat.mean(0)) / flat.std(0), kind]), -8, 8)
    lon, lat = np.meshgrid(grid.lon(), grid.lat())
    places = gp.xyz(lat.ravel(), lon.ravel())
    kernels = [gp.Linear(x), gp.Linear(gp.rff(x, 400, 2.0))]
    kernels += [gp.Matern(places, length, 40) for length in (150, 25)]
    model = oilmm.OILMM(kernels, closure=100.0)
    support = data.support
    model.fit(
        gp.support_matrix(support, len(places)), support.measured.astype(float),
        support.error.astype(float), data.tracks,
    )  # fmt: skip
    mean, _ = model.predict(sparse.identity(len(places), format="csr"))
    return mean.T.reshape(-1, *mare.shape)


def seeds(arguments: argparse.Namespace) -> None:
    """Relative errors of each seed, element by element, and coverage, at pixels that no footprint covers."""
    from lunarray.superres import ArealSettings, baseline_maps
    from lunarray.superres.areal_bank import model_of_ground, predict_ground
    from lunarray.superres.regions import assemble_region

    errors: dict[str, list[np.ndarray]] = {}
    inside = []
    for seed in arguments.numbers or range(1, 11):
        grid, made, features, mare = scene(int(seed))
        data = assemble_region(grid, features, mare, made.footprints)
        begin = time.perf_counter()
        ground = grid.lat(), grid.lon(), features, mare
        model = model_of_ground([ground], made.footprints, ArealSettings())
        mean, variance = predict_ground(model, ground)
        passed = time.perf_counter() - begin
        maps = {"areal": mean} | baseline_maps(data, ("footprint ridge", "mare/highland mean"))
        if arguments.sketch:
            maps["sketch"] = sketch(arguments.sketch, grid, features, mare, data)
        free = ~made.covered.values
        truth = made.truth["abundance"].values[:, free]
        away = np.abs(mean[:, free] - truth) / np.sqrt(variance[:, free])
        inside.append([(away < k).mean(axis=1) for k in (1, 2)])
        for name, values in maps.items():
            off = np.sqrt(((values[:, free] - truth) ** 2).mean(axis=1)) / truth.std(axis=1)
            errors.setdefault(name, []).append(off)
            row(f"{seed} {name}", off, f"{off.mean():.3f}")
        print(f"  {passed:.1f} s", flush=True)
    print(f"| mean of {len(inside)} | {' | '.join(model.elements)} | relative |")
    for name, rows in errors.items():
        row(name, np.mean(rows, axis=0), f"{np.mean(rows):.3f}")
    others = [np.array(v) for n, v in errors.items() if n in ("footprint ridge", "sketch")]
    best = np.minimum.reduce([o.mean(axis=0) for o in others])
    row("areal over the better", np.mean(errors["areal"], axis=0) / best, "")
    each = np.array(errors["areal"]) / np.minimum.reduce(others)
    row("seeds above it by 5 %", (each > 1.05).sum(axis=0), "")
    of_seed = np.array(errors["areal"]).mean(axis=1)
    of_best = np.minimum.reduce([o.mean(axis=1) for o in others])
    print(f"seeds whose mean is above the better of the others: {(of_seed > of_best).sum()}")
    for k, own in zip((1, 2), np.mean(inside, axis=0), strict=True):
        row(f"within {k} σ", own, f"{own.mean():.2f}")


def row(name: str, values: np.ndarray, last: str) -> None:
    """Print a row of a table."""
    cells = " | ".join(f"{v:.3f}" if v % 1 else f"{v:.0f}" for v in values)
    print(f"| {name} | {cells} | {last} |", flush=True)


# --- real tracks ----------------------------------------------------------------------------------


def real(
    data: Path, shape: tuple[int, int], extent: tuple[float, float, float, float], names: str
) -> tuple[Any, np.ndarray, np.ndarray, xr.Dataset]:
    """Grid, features, mare class and the real table of footprints."""
    import lunarray.superres as sr
    from lunarray.geo import reproject
    from lunarray.maps import open_map

    grid = sr.GIBGrid((1, 1), shape, extent)
    whole = extent[2] - extent[0] == 360
    features = []
    for name in REAL if names == "all" else ("albedo",):
        raster = open_map(data / "maps" / f"{REAL[name]}.csv.gz", name=name, chunks=None)
        image = reproject(raster, grid.geobox).values.astype(float)
        features.append(smoothed(image, name == "albedo", whole))
        if name == "albedo":
            mare = sr.mare_class(grid.geobox, albedo=raster).values
    table = data / "class" / "abundance" / "class_l2_tracks.csv"
    tracks = sr.read_class_tracks(table, uncertainty="fit", errors="skip")
    return grid, np.concatenate(features), mare, tracks


def tracks(arguments: argparse.Namespace) -> None:
    """A region's footprints, five folds of whole tracks."""
    from lunarray.superres import cross_validate
    from lunarray.superres.evaluation import format_table

    grid, features, mare, table = real(arguments.data, (86, 171), NEAR_SIDE, arguments.maps)
    ways = ("areal", "ridge", "mare/highland mean", "ordinary kriging")
    for seed in range(int(arguments.numbers[0]) if arguments.numbers else 1):
        found = cross_validate(
            grid, features, mare, table, methods=ways, seed=seed, only=arguments.folds
        )
        print(format_table(found))
        told = found.sel(method="areal")
        coverage(told["predicted"].values, told["predicted_std"].values, told["measured"].values)


def coverage(predicted: np.ndarray, std: np.ndarray, measured: np.ndarray) -> None:
    """Print which share of measurements lies within one and two standard deviations, by element."""
    for k in (1, 2):
        away = np.abs(predicted - measured) / std
        own = np.array([np.mean(a[np.isfinite(a)] < k) for a in away.T])
        row(f"within {k} σ", own, f"{own.mean():.2f}")


def moon(arguments: argparse.Namespace) -> None:
    """All usable footprints, five folds of whole tracks, on a grid of a quarter of a degree."""
    from lunarray.superres import ArealSettings
    from lunarray.superres.areal_bank import held_out_areal
    from lunarray.superres.evaluation import score
    from lunarray.superres.tracks import track_folds, track_numbers

    extent = (-180.0, -90.0, 180.0, 90.0)
    grid, features, mare, table = real(arguments.data, (720, 1440), extent, arguments.maps)
    lat, lon = grid.lat(), grid.lon()
    ground = [
        (lat[y : y + 180], lon[x : x + 180], features[:, y : y + 180, x : x + 180], mare[y : y + 180, x : x + 180])
        for y in range(0, 720, 180)
        for x in range(0, 1440, 180)
    ]  # fmt: skip
    fold = track_folds(track_numbers(table), 5, 0)
    measured = table["abundance"].transpose("footprint", "element").values
    predicted, std = np.full((2, *measured.shape), np.nan)
    centre = np.stack([table[n].values.mean(axis=1) for n in ("corner_lon", "corner_lat")], axis=1)
    within = ((centre > NEAR_SIDE[:2]) & (centre < NEAR_SIDE[2:])).all(axis=1)
    for number in arguments.folds or range(5):
        begin = time.perf_counter()
        held = np.flatnonzero(fold == number)
        known = table.isel(footprint=np.flatnonzero(fold != number))
        predicted[held], std[held] = held_out_areal(
            ground, known, table.isel(footprint=held), ArealSettings()
        )
        print(
            f"fold {number}: {len(held)} footprints, {time.perf_counter() - begin:.0f} s",
            flush=True,
        )
        for name, rows in (("the Moon", fold >= 0), ("the region of tracks", within)):
            rows = rows & np.isfinite(predicted).all(axis=1)
            found = score(predicted[rows], measured[rows])
            off = found["rmse"] / np.nanstd(measured[rows], axis=0)
            row(f"{name}, {rows.sum()} so far", off, f"{off.mean():.3f}")
            row("  r", found["r"], "")
            coverage(predicted[rows], std[rows], measured[rows])


# --- what it costs --------------------------------------------------------------------------------


def cost(arguments: argparse.Namespace) -> None:
    """Seconds of the fit and of a region of 86 × 171 pixels, by the number of footprints over the Moon."""
    import lunarray.superres as sr
    from lunarray.geo import unit_vectors
    from lunarray.superres.areal_bank import model_of_ground, predict_ground

    grid = sr.GIBGrid((1, 1), (360, 720), (-180.0, -90.0, 180.0, 90.0))
    lon, lat = np.meshgrid(grid.lon(), grid.lat())
    at = unit_vectors(lon, lat)
    rng = np.random.default_rng(1)
    for count in (int(n) for n in arguments.numbers or (1000, 10_000, 100_000)):
        waves = rng.standard_normal((6, 3)) * np.array([2, 4, 8, 16, 32, 64])[:, None]
        features = np.cos(at @ waves.T + rng.uniform(0, 6, 6)).transpose(2, 0, 1).astype(np.float32)
        mare = np.where(features[0] > 0, 1, 2).astype(np.uint8)
        truth = np.stack([10 + 4 * features[0], 8 - 2 * features[1] + features[0]])
        made = many(rng, count, truth)
        area = grid.lat(), grid.lon(), features, mare
        begin = time.perf_counter()
        model = model_of_ground([area], made, sr.ArealSettings())
        fitted = time.perf_counter()
        part = slice(137, 223), slice(274, 445)
        mean, _ = predict_ground(
            model, (area[0][part[0]], area[1][part[1]], features[:, *part], mare[part])
        )
        passed = time.perf_counter() - fitted
        off = np.sqrt(((mean - truth[:, *part]) ** 2).mean(axis=(1, 2))) / truth.std(axis=(1, 2))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{count} footprints: fit {fitted - begin:.0f} s, {mean[0].size} pixels {passed:.0f} s, "
            f"{peak:.1f} GB at most, relative error {off.mean():.3f}",
            flush=True,
        )


def many(rng: np.random.Generator, count: int, truth: np.ndarray) -> xr.Dataset:
    """Footprints in tracks of twenty along meridians, which measure a map (element, row, column) of the Moon."""
    start = np.repeat(rng.uniform(-80, 50, count // 20 + 1), 20)[:count]
    lon = np.repeat(rng.uniform(-180, 180, count // 20 + 1), 20)[:count]
    lat = start + 1.5 * (np.arange(count) % 20)
    half_lat, half_lon = 0.75, 0.4
    rows = ((90 - lat) * 2).astype(int)
    columns = ((lon + 180) * 2).astype(int) % 720
    measured = truth[:, rows, columns].T + 0.5 * rng.standard_normal((count, len(truth)))
    corner, element = ("footprint", "corner"), ("footprint", "element")
    return xr.Dataset(
        {
            "corner_lat": (corner, lat[:, None] + half_lat * np.array([-1, 1, 1, -1])),
            "corner_lon": (corner, lon[:, None] + half_lon * np.array([-1, -1, 1, 1])),
            "abundance": (element, measured),
            "abundance_std": (element, np.full(measured.shape, 0.5)),
        },
        {"element": ["Fe", "Al"], "track": ("footprint", np.arange(count) // 20)},
    )


def main(given: list[str] | None = None) -> None:
    """Run one of the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.areal", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    ways = {"seeds": seeds, "tracks": tracks, "moon": moon, "cost": cost}
    parser.add_argument("what", choices=list(ways))
    parser.add_argument(
        "numbers", nargs="*", help="seeds, deals of tracks, or numbers of footprints"
    )
    parser.add_argument("--data", type=Path, help="folder with class/ and maps/")
    parser.add_argument("--maps", choices=("albedo", "all"), default="albedo")
    parser.add_argument("--folds", type=int, nargs="*", help="of five; all by default")
    parser.add_argument("--sketch", type=Path, help="folder of gp.py and oilmm.py")
    arguments = parser.parse_args(given)
    if arguments.what in ("tracks", "moon") and arguments.data is None:
        parser.error("--data FOLDER is needed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ways[arguments.what](arguments)


if __name__ == "__main__":
    main()
