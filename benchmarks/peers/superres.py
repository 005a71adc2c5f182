"""Population of the Global Information Bank: footprints/s on one core, from corners to the means on 2 km pixels.

Each contender finds the eight cells of a footprint on the sphere and the pixels at their centres, divides the
abundances of eight elements over them, and averages what falls on one pixel by inverse variance. The peer divides by
the paper's Lagrangian descent (80 epochs, λ = 1, μ = 2), one footprint after the other with matrices in NumPy, as the
paper has it; what comes before and after is ours for both. Beside it the same descent compiled, and the division alone.

The limit is the memory traffic of input and output, as a copy of this machine moves it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers import Comparison, Contender, Options
from benchmarks.peers._superres_accuracy import accuracy
from benchmarks.peers._superres_rows import ROWS

SEED = 20261121
CELLS = 8
EPOCHS, RATE = 80, 1e-4
#: Of the NumPy descent, which takes milliseconds each.
FEW = 200
TOLERANCE = 1e-4

#: Measurements in other units: each takes the options and gives further keys of the report.
FURTHER: list[Callable[[Options], dict[str, Any]]] = [*ROWS, accuracy]


def prepare(options: Options) -> Comparison:
    import xarray as xr

    from lunarray.superres import GIBGrid
    from lunarray.superres.footprints import cell_pixels
    from lunarray.superres.population import (
        Division,
        divide_footprints,
        populate_pixels,
        split_abundances,
    )
    from lunarray.xrf import HIGHLAND, MARE

    n = 20_000 if options.quick else 200_000
    rng = np.random.default_rng(SEED)
    grid = GIBGrid()
    corner_lat, corner_lon = footprints(n, rng)
    expected = np.array([list(MARE.values()), list(HIGHLAND.values())])
    abundance = expected[rng.integers(0, 2, n)] * rng.uniform(0.8, 1.2, (n, 8))
    std = rng.uniform(0.3, 3.0, (n, 8))
    classes = rng.integers(1, 3, (n, CELLS)).astype(np.uint8)
    ds = xr.Dataset(
        {
            "corner_lat": (("footprint", "corner"), corner_lat),
            "corner_lon": (("footprint", "corner"), corner_lon),
        }
    )
    few = ds.isel(footprint=slice(FEW))

    def ours(method: Any = "exact") -> dict[str, np.ndarray]:
        pixel = cell_pixels(ds, grid, CELLS)
        division = divide_footprints(abundance, std, classes, list(MARE), method=method)
        return populate_pixels(pixel, division)

    def one_by_one() -> dict[str, np.ndarray]:
        pixel = cell_pixels(few, grid, CELLS)
        weights = np.stack([descent(abundance[f], expected[classes[f] - 1].T) for f in range(FEW)])
        a, s = abundance[:FEW], std[:FEW]
        return populate_pixels(pixel, Division(a, s, weights, a, False))

    # The transcription is the method that the package has.
    compiled = split_abundances(abundance[:FEW], classes[:FEW], method="lagrangian")
    plain = np.stack([descent(abundance[f], expected[classes[f] - 1].T) for f in range(FEW)])
    if not np.allclose(plain, compiled, rtol=1e-9):
        raise RuntimeError("the compiled descent is not the one in NumPy")
    wanted = reference(corner_lat, corner_lon, abundance, std, classes, expected, grid)

    def check(found: dict[str, np.ndarray]) -> float:
        assert np.array_equal(found["pixel"], wanted[0]), "other pixels than the reference"
        deviation = float(np.max(np.abs(found["abundance"] / wanted[1] - 1)))
        assert deviation < TOLERANCE, f"differs from the reference by {deviation:.1e}"
        return deviation

    moved = np.zeros(n * (8 + 16) * 8 + n * CELLS * (2 * 8 * 4 + 8 + 2 + 4), np.uint8)
    target = np.empty_like(moved)
    return Comparison(
        unit="footprints/s",
        ours=Contender(n, {"exact, Numba, one thread": ours}),
        peers={
            "lagrangian": Contender(FEW, {"NumPy, one by one": one_by_one}, check=False),
            "lagrangian_compiled": Contender(
                n, {"Numba, one thread": lambda: ours("lagrangian")}, check=False
            ),
        },
        limit=(
            "memory traffic of input and output",
            Contender(2 * n, {"copy": lambda: np.copyto(target, moved)}, check=False),
        ),
        check=check,
        extras={
            "division_alone": Contender(
                n, {"exact": lambda: split_abundances(abundance, classes)}, check=False
            ),
            "mapping_alone": Contender(
                n, {"cells and pixels": lambda: cell_pixels(ds, grid, CELLS)}, check=False
            ),
        },
        finish=lambda report: {k: v for further in FURTHER for k, v in further(options).items()},
        notes=(
            f"{n:,} footprints of 12.5 × 100 km in {CELLS} cells, 8 elements; the peer on {FEW} of them.",
            "The paper: 0.167 s for the 80 epochs of one footprint, 6 footprints/s.",
        ),
    )


def footprints(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Corners of footprints of 12.5 km × 100 km along meridians, all over the Moon but the last 2° to the poles."""
    lat = np.rad2deg(np.arcsin(rng.uniform(-0.999, 0.994, n)))
    lon = rng.uniform(-180, 180, n)
    length, width = np.rad2deg(100 / 1737.4), np.rad2deg(12.5 / 1737.4)
    wide = width / np.cos(np.deg2rad(lat + length / 2))
    corner_lat = np.stack([lat + length, lat, lat, lat + length], axis=1)
    corner_lon = np.stack([lon, lon, lon + wide, lon + wide], axis=1)
    return corner_lat, corner_lon


def descent(a: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The paper's updates of B, λ and μ, with its matrices."""
    a = a[:, None]
    b, lam, mu = np.ones((1, CELLS)), np.ones(a.shape), np.full((1, CELLS), 2.0)
    one = np.ones((CELLS, 1))
    for _ in range(EPOCHS):
        to_b = 2 * a.T @ (a @ b - d) + lam.T @ a + mu * np.sign(-b)
        to_lam = a @ (b @ one) - CELLS * a
        to_mu = np.maximum(0, -b)
        b, lam, mu = b - RATE * to_b, lam - RATE * to_lam, mu - RATE * to_mu
    return b[0]


def reference(
    corner_lat: np.ndarray,
    corner_lon: np.ndarray,
    abundance: np.ndarray,
    std: np.ndarray,
    classes: np.ndarray,
    expected: np.ndarray,
    grid: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and means in NumPy: points along the middle line, the projection by sorting, sums by index."""
    phi, lam = np.deg2rad(corner_lat), np.deg2rad(corner_lon)
    v = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)
    ends = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in (v[:, 3] + v[:, 0], v[:, 1] + v[:, 2])]  # fmt: skip
    angle = np.arccos(np.sum(ends[0] * ends[1], axis=1))[:, None, None]
    t = ((np.arange(CELLS) + 0.5) / CELLS)[None, :, None]
    point = np.sin((1 - t) * angle) * ends[0][:, None] + np.sin(t * angle) * ends[1][:, None]
    x, y, z = np.moveaxis(point, -1, 0)
    row, column = grid.pixel_of(np.rad2deg(np.arctan2(z, np.hypot(x, y))), np.rad2deg(np.arctan2(y, x)))  # fmt: skip
    pixel = row * grid.size[1] + column

    target = np.einsum("fe,fce->fc", abundance, expected[classes - 1])
    target /= np.sum(abundance**2, axis=1)[:, None]
    falling = -np.sort(-target, axis=1)
    shift = (np.cumsum(falling, axis=1) - CELLS) / np.arange(1, CELLS + 1)
    last = np.sum(falling > shift, axis=1) - 1
    b = np.maximum(target - shift[np.arange(len(shift)), last][:, None], 0)

    pixels, inverse = np.unique(pixel, return_inverse=True)
    inverse = inverse.reshape(pixel.shape)
    # Cells of a footprint on one pixel are one measurement: their mean.
    key, first, size = np.unique(
        np.arange(len(pixel))[:, None] * len(pixels) + inverse, return_inverse=True, return_counts=True
    )  # fmt: skip
    share = np.bincount(first.ravel(), b.ravel()) / size
    f, p = key // len(pixels), key % len(pixels)
    top, bottom = np.zeros((len(pixels), 8)), np.zeros((len(pixels), 8))
    for e in range(8):
        w = std[f, e] ** -2.0
        top[:, e] = np.bincount(p, w * share * abundance[f, e], len(pixels))
        bottom[:, e] = np.bincount(p, w, len(pixels))
    return pixels, top / bottom


def whole_store(options: Options) -> dict[str, Any]:
    """Population of a store on disk: mapping, division, mean, and the writing of every region, once."""
    import shutil
    import time
    from pathlib import Path

    import xarray as xr

    from lunarray import superres
    from lunarray.xrf import ELEMENTS, MARE

    n = 5_000 if options.quick else 200_000
    grid = superres.GIBGrid((2, 2), (90, 180)) if options.quick else superres.GIBGrid()
    rng = np.random.default_rng(SEED)
    corner_lat, corner_lon = footprints(n, rng)
    ds = xr.Dataset(
        {
            "corner_lat": (("footprint", "corner"), corner_lat),
            "corner_lon": (("footprint", "corner"), corner_lon),
            "abundance": (
                ("footprint", "element"),
                np.array(list(MARE.values())) * rng.uniform(0.8, 1.2, (n, 8)),
            ),
            "abundance_std": (("footprint", "element"), rng.uniform(0.3, 3.0, (n, 8))),
        },
        {"element": list(ELEMENTS)},
    )
    path = Path(options.folder) / "gib.zarr"
    superres.create_gib(path, grid)
    for region in grid.all_regions():
        superres.write_region(path, region, mare=rng.integers(1, 3, grid.shape))
    begin, own = time.perf_counter(), time.process_time()
    done = superres.populate(path, ds, progress=False)
    passed, own = time.perf_counter() - begin, time.process_time() - own
    shutil.rmtree(path)
    row = {
        "footprints": n,
        "regions": len(done.regions),
        "seconds": round(passed, 2),
        "processor_seconds": round(own, 2),
        "footprints_per_second": round(n / passed),
    }
    print(f"whole store: {row}")
    return {"whole_store": row}


FURTHER.append(whole_store)
