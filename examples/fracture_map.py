"""Map fractures end to end on a simulated mosaic, and compare the map with the truth.

    python examples/fracture_map.py                       # 10 000 × 10 000 pixels (15 km); see --size for less
    python examples/fracture_map.py --size 2048 --output /tmp/fractures

Simulates a mosaic of NAC strips block by block into a Zarr store, finds fractures in it, outlines and measures them
over all blocks, writes them as GeoPackage with a QGIS style, makes statistics and pictures. Nothing is ever in memory
as a whole but the polygons.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import lunarray as la
from lunarray import fractures, plot, simulate


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("fracture-map"), help="folder")
    parser.add_argument("--size", type=int, default=10_000, help="rows and columns, pixels")
    parser.add_argument("--incidence", type=float, default=65.0, help="of the sun, degrees")
    parser.add_argument("--azimuth", type=float, default=100.0, help="of the sun, degrees")
    parser.add_argument("--seed", type=int, default=40_000, help="of the ground")
    parser.add_argument("--chunks", type=int, default=2048, help="side of the blocks, pixels")
    parser.add_argument("--model", type=Path, help="weights; by default those of lunarray")
    parser.add_argument("--workers", type=int, help="Dask threads; by default one for each core")
    options = parser.parse_args(argv)

    import dask

    start = time.perf_counter()
    steps: dict[str, float] = {}

    def done(step: str, text: str) -> None:
        seconds = time.perf_counter() - start
        steps[step] = round(seconds - sum(steps.values()), 1)
        print(f"{seconds:7.0f} s  {step}: {text}", flush=True)

    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    if options.workers is not None:
        dask.config.set(num_workers=options.workers)

    scene = simulate.nac_scene(
        (options.size, options.size),
        incidence=options.incidence,
        azimuth=options.azimuth,
        seed=options.seed,
        chunks=min(options.chunks, options.size),
    )
    stored = scene.dataset.lunar.to_zarr(
        folder / "mosaic.zarr", overwrite=True, description="Simulating"
    )
    done("simulate", f"{stored['image'].size / 1e6:.0f} megapixels, {len(scene.lines)} fractures")

    found = fractures.map_fractures(stored["image"], options.model)
    found["source"] = stored["source"]
    found = found.lunar.to_zarr(folder / "found.zarr", overwrite=True, description="Finding")
    done("detect", f"{100 * float((found['mask'] == 1).mean()):.2f} % of the pixels")

    polygons = fractures.vectorize(found)
    package = folder / "fractures.gpkg"
    package.unlink(missing_ok=True)
    fractures.write_fractures(polygons, package)
    done("vectorize", f"{len(polygons)} fractures in {package}")

    scores = fractures.segmentation_metrics(found["mask"], stored["mask"])
    truth = scene.polygons
    truth_file = folder / "truth.gpkg"
    truth_file.unlink(missing_ok=True)
    truth.to_file(truth_file, layer="polygons")
    scene.lines.to_file(truth_file, layer="lines")
    agreement = fractures.compare(polygons, truth)
    done(
        "compare",
        f"pixels: precision {scores['precision_pooled']:.3f}, recall {scores['recall_pooled']:.3f}, "
        f"F1 {scores['F1_pooled']:.3f}, IoU {scores['IoU_pooled']:.3f}; polygons: {agreement.matched:.2f} of ours "
        f"touch a true one, {agreement.found:.2f} of the true ones are touched",
    )

    area = fractures.mapped_area(found)
    network = fractures.network(polygons, area)
    density = fractures.density(polygons, cell=max(250.0, options.size * 1.5 / 60))
    plot.detections(stored["image"], polygons, path=folder / "detections.png")
    # The truth as a mask: the polygons of a network overlap by the hundreds.
    plot.agreement(stored["image"], found["mask"], stored["mask"], path=folder / "agreement.png")
    plot.fracture_density(density, polygons, path=folder / "density.png")
    plot.rose(polygons, path=folder / "rose.png")
    done("statistics", f"{network['length'] / 1e3:.1f} km on {area / 1e6:.1f} km², four pictures")

    report = {
        "size": options.size,
        "seconds": steps,
        "peak_memory_GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "scores": {name: float(value) for name, value in scores.items()},
        "network": {name: float(value) for name, value in network.items()},
        "true_fractures": len(scene.lines),
        "lunarray": la.__version__,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    print(f"peak memory {report['peak_memory_GB']} GB; everything in {folder}")
    return report


if __name__ == "__main__":
    main()
