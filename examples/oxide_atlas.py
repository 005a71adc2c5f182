"""The study of Bian et al. (2025) on a simulated Moon: from cubes to Tables 1-3 and 5 and Figures 1-15.

    python examples/oxide_atlas.py --output atlas            # minutes on two cores
    python examples/oxide_atlas.py --output atlas --full     # leave-one-out, all of Tables 1 and 2: for a GPU

With your own data put them in place of `moon`: two Spectral Profiler cubes (`lunarray.open_sp_cube`), reference maps of
the six oxides, and a second FeO map. A run that is stopped goes on where it was: cubes, trainings and maps are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import dask
import numpy as np
import xarray as xr

import lunarray as la
from lunarray.oxides import OXIDES
from lunarray.oxides.regions import REGIONS


def main() -> None:
    """Simulate, sample, train, map, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("oxide-atlas"), help="folder for everything"
    )
    parser.add_argument(
        "--resolution", type=float, default=8000.0, help="pixel of the cubes in m (the paper: 500)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another number, another Moon")
    parser.add_argument(
        "--folds", type=int, default=10, help="folds of the training, each a range of longitudes"
    )
    parser.add_argument(
        "--width", type=int, default=32, help="channels of the first block of the network"
    )
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="learning rate")
    parser.add_argument(
        "--epochs", type=int, default=500, help="steps; the paper's 100 are too few for this Moon"
    )
    parser.add_argument(
        "--search", action="store_true", help="Tables 1 and 2: networks and learning rates"
    )
    parser.add_argument(
        "--full", action="store_true", help="as the paper: leave-one-out and the search"
    )
    parser.add_argument(
        "--paper",
        action="store_true",
        help="the paper's procedure: a network for each oxide, leave-one-out, no polish",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()
    out: Path = args.output

    # 1. The data. Cubes are stored first: they are read many times.
    moon = la.simulate.moon(args.resolution, args.seed)
    cubes = {
        pole: cube.lunar.to_zarr(out / f"cube_{pole}.zarr", description=f"Simulating the {pole}")
        for pole, cube in (("north", moon.north), ("south", moon.south))
    }

    # 2. Samples, as section 2.2: 2 × 2 pixels of the cube, as much ground of the reference, FeO maps that agree.
    given = {
        "reference": moon.reference,
        "screen": [moon.second_north, moon.second_south],
        "reference_window": 9,
    }
    samples = la.oxides.build_samples(list(cubes.values()), **given)
    # The same places seen by single pixels, as the maps are made of: these tell how far off a pixel may be.
    single = la.oxides.build_samples(list(cubes.values()), spectra_window=1, **given)
    samples, single = (made.compute() for made in dask.persist(samples, single))
    la.plot.sample_map(
        samples, [moon.reference.FeO, *(c.reflectance for c in cubes.values())],
        path=out / "figure01_samples.png",
    )  # fmt: skip
    samples = la.oxides.select_samples(samples)
    lost = {k: v for k, v in samples.attrs.items() if k.startswith("lost_") and v}
    print(
        f"\nSamples: {samples.attrs['samples']} of {samples.attrs['lattice_points']} points; {lost}"
    )
    samples.lunar.to_zarr(out / "samples.zarr", overwrite=True, progress=False)
    correlation = la.oxides.band_correlation(samples)
    la.plot.correlation_curves(correlation, path=out / "figure02_correlation.png")

    # 3. Training. Tables 1 and 2 are a search; then the final model, whose left-out predictions are Table 3.
    folds = "leave-one-out" if args.full or args.paper else args.folds
    options = {
        "folds": folds,
        "by": None if args.full or args.paper else "lon",
        "device": args.device,
    }
    given = {"n": args.width, "learning_rate": args.learning_rate, "epochs": args.epochs}
    settings = la.oxides.TrainSettings(**given)
    if args.paper:
        settings = la.oxides.TrainSettings.paper(**given)
    la.plot.network_diagram(args.width, samples.sizes["wavelength"], path=out / "figure03_cnn.png")
    if args.search or args.full:
        tried = {"folds": folds, "device": args.device, "checkpoint": out / "search"}
        rates = (1e-2, 1e-3, 1e-4)
        table1 = la.oxides.search(samples, settings, learning_rate=(1e-3,), **tried)
        table2 = la.oxides.search(samples, settings, n=(32,), learning_rate=rates, **tried)
        show("Table 1. Channels", table1.squeeze("learning_rate"), "n", out / "table1.csv")
        show("Table 2. Learning rates", table2.squeeze("n"), "learning_rate", out / "table2.csv")
    fit = la.oxides.train(samples, settings, pixels=single, checkpoint=out / "training", **options)
    show(
        f"Table 3. Left-out predictions, {len(fit.folds)} folds",
        fit.metrics(),
        None,
        out / "table3.csv",
    )
    la.plot.prediction_scatter(fit.reference, fit.left_out, path=out / "figure04_scatter.png")
    model = fit.save(out / "model.safetensors")

    # 4. The atlas, 65°-90°, with 90 % intervals; stored, exported, drawn.
    atlas = la.oxides.atlas(cubes["north"], cubes["south"], model, uncertainty=True)
    for pole, maps in atlas.items():
        atlas[pole] = maps.lunar.to_zarr(
            out / f"atlas_{pole}.zarr", overwrite=True, description=f"Mapping the {pole}"
        )
        for oxide, file in zip(
            OXIDES, atlas[pole][list(OXIDES)].lunar.to_cog(out / f"geotiff_{pole}"), strict=True
        ):
            low, high = np.nanpercentile(atlas[pole][oxide], (1, 99))
            la.export.raster_style(file, low, high, label="wt%")
    la.plot.polar_atlas(atlas, path=out / "figure05_08_09_14_atlas.png")

    # 5. Against the second FeO map (Figure 7), and in regions A and B against the reference (Figures 10-13).
    second = {"north": moon.second_north, "south": moon.second_south}
    off = {pole: la.oxides.difference(atlas[pole].FeO, second[pole]) for pole in atlas}
    title = "FeO: this atlas − second map"
    la.plot.difference_map(
        off["north"], off["south"], title=title, path=out / "figure07_difference.png"
    )
    near = {
        pole: la.oxides.atlas(**{pole: cube}, model=model, latitude=50)[pole]
        for pole, cube in cubes.items()
    }
    rois = [
        la.oxides.region_maps(near[pole], moon.reference, region).compute()
        for pole, region in (("north", REGIONS["A"]), ("south", REGIONS["B"]))
    ]
    for oxide in OXIDES:
        la.plot.region_triptychs(rois, variable=oxide, path=out / f"figure10_13_{oxide}.png")

    # 6. The candidate landing regions of Artemis III: Table 5, Figure 15, and a GeoPackage for QGIS.
    regions = la.oxides.artemis3_regions()
    statistics = la.geo.region_statistics(atlas["south"], regions).compute()
    table5 = la.oxides.region_table(statistics, pixels=True)
    table5.to_csv(out / "table5.csv")
    print(f"\nTable 5. Candidate landing regions, wt%\n{table5.round(2).to_string()}")
    la.export.to_vector(statistics, out / "artemis3.gpkg", regions=regions)
    la.plot.region_map(atlas["south"].FeO, regions, path=out / "figure15_regions.png")

    # 7. What no study can do: compare with the truth where training never saw it.
    truth = {
        pole: la.oxides.polar_cap(la.simulate.truth_maps(cube)).compute()
        for pole, cube in cubes.items()
    }
    true = la.geo.region_statistics(truth["south"], regions).compute()
    la.plot.region_bars(statistics, truth=true, path=out / "table5_bars.png")
    mapped, true = pixels(atlas), pixels(truth)
    show(
        "The atlas against the truth, 65°-90°",
        la.oxides.metrics(mapped, true),
        None,
        out / "truth.csv",
    )
    la.plot.prediction_scatter(
        true, mapped, reference_label="truth", path=out / "truth_scatter.png"
    )
    print("\nShare of true values within the 90 % interval, and mean width")
    held = {oxide: [] for oxide in OXIDES}
    for pole, maps in atlas.items():
        text = []
        for oxide in OXIDES:
            lower, upper, real = (
                maps[f"{oxide}_lower"].values,
                maps[f"{oxide}_upper"].values,
                truth[pole][oxide].values,
            )
            seen = np.isfinite(lower) & np.isfinite(real)
            within = (lower <= real)[seen] & (real <= upper)[seen]
            held[oxide].append(within)
            share = within.mean()
            text.append(f"{oxide} {share:.1%} ({np.nanmean(upper - lower):.2f} wt%)")
        print(f"  {pole}: {', '.join(text)}")
    both = {oxide: np.concatenate(parts).mean() for oxide, parts in held.items()}
    text = ", ".join(f"{oxide} {share:.1%}" for oxide, share in both.items())
    print(f"  both poles: {text}; mean {np.mean(list(both.values())):.1%}")


def pixels(maps: dict[str, xr.Dataset]) -> xr.Dataset:
    """All pixels of both poles in a row."""
    values = {o: np.concatenate([ds[o].values.ravel() for ds in maps.values()]) for o in OXIDES}
    return xr.Dataset({o: ("pixel", v, {"units": "wt%"}) for o, v in values.items()})


def show(title: str, scores: xr.Dataset, by: str | None, path: Path) -> None:
    """Print and keep a table of scores: rows for each setting, columns for each oxide."""
    names = ["r2_correlation", "r2_determination", "RMSE", "MAE"]
    table = (
        scores[names].to_dataarray("metric").to_series().unstack("oxide")[list(scores.oxide.values)]
    )
    order = ([by] if by else []) + ["metric"]
    table = table.reorder_levels(order).sort_index() if by else table
    table.to_csv(path)
    print(f"\n{title}\n{table.round(3).to_string()}")


if __name__ == "__main__":
    main()
