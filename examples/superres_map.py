"""From footprints of an X-ray spectrometer to a map at two kilometres, and how good it is.

    python examples/superres_map.py results                       # a simulated Moon, with its truth
    python examples/superres_map.py results --data ../shared/data # real footprints over the real albedo map

The simulated study is held against its truth at pixels that no footprint covers; the real one against footprints of
whole tracks that training has not seen. Both tables hold the baselines too. Everything is kept in the folder: a second
call goes on where the first was stopped. The surface features are those of a network with random weights unless
``--weights`` names a file of torchvision's ResNet50 (``--weights torchvision`` fetches it where there is a network).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import lunarray as la
import lunarray.superres as sr
from lunarray.maps import open_map
from lunarray.superres.evaluation import format_table, score_table
from lunarray.superres.gib_layout import STATE_FLAGS
from lunarray.superres.regions import region_data

#: Procellarum's western shore for the simulation; for the real data 22.5° × 45° of the near side's equator.
SIMULATED_EXTENT = (-85.0, 12.0, -65.3, 25.2)
REAL_EXTENT = (-45.0, -11.25, 0.0, 11.25)


def say(text: str) -> None:
    """Print with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def bank(
    folder: Path,
    grid: sr.GIBGrid,
    elements: list[str],
    basemap: xr.DataArray,
    footprints: xr.Dataset,
    arguments: argparse.Namespace,
) -> xr.Dataset:
    """The Global Information Bank of a study: features, mare class and populated pixels."""
    path = folder / "gib.zarr"
    sr.create_gib(path, grid, elements, arguments.features)
    mare = sr.mare_class(grid.geobox, albedo=basemap)
    state = sr.open_gib(path)["state"].values
    for region in grid.all_regions():
        if not state[region] & STATE_FLAGS["mare"]:
            rows, columns = grid.slices(*region)
            sr.write_region(path, region, mare=mare.values[rows, columns])
    say("surface features")
    sr.fill_features(path, basemap, arguments.weights or "random")
    done = sr.populate(path, footprints, outside="skip")
    say(f"{done.footprints} footprints populate {len(done.regions)} regions anew")
    return sr.open_gib(path)


def variants(arguments: argparse.Namespace) -> dict[str, sr.TrainSettings]:
    """The networks of the tables."""
    common: dict[str, Any] = {
        "epochs": arguments.epochs,
        "steps": tuple(arguments.steps),
        "k": arguments.k,
        "seed": arguments.seed,
    }
    own = sr.TrainSettings.footprint_aware(**common)
    return {
        "network": sr.TrainSettings(members=arguments.members, **common),
        "network, footprint losses": own,
        "network, footprint losses, no trend": replace(own, trend="mean"),
    }


def watch(state: dict[str, Any]) -> None:
    """Report the loss now and then."""
    if state["visit"] % 20 == 0 or state["visit"] == state["visits"]:
        say(
            f"region {state['region']} member {state['member']} phase {state['phase']} "
            f"{state['visit']}/{state['visits']} loss {state['loss']:.4f}"
        )


def simulated(folder: Path, arguments: argparse.Namespace) -> None:
    """A simulated Moon, held against its truth."""
    from lunarray.simulate import track_scene

    grid = sr.GIBGrid((1, 1), tuple(arguments.shape or (200, 300)), SIMULATED_EXTENT)
    scene = track_scene(grid, arguments.seed, coverage=arguments.coverage)
    elements = [str(e) for e in scene.truth["element"].values]
    say(f"{scene.footprints.sizes['footprint']} footprints cover {float(scene.covered.mean()):.1%}")
    ds = bank(folder, grid, elements, scene.basemap, scene.footprints, arguments)

    free = ~scene.covered.values.ravel()
    truth = scene.truth["abundance"].values.reshape(len(elements), -1).T[free]
    rows: dict[str, np.ndarray] = {}
    chosen: xr.Dataset | None = None
    for name, settings in variants(arguments).items():
        if name not in arguments.networks:
            continue
        models = folder / ("models_" + "".join(c for c in name if c.isalnum()))
        sr.train_gib(folder / "gib.zarr", models, settings, overwrite=True, report=watch)
        maps = ds.lunar.superresolve(models, max_distance=None).compute()
        rows[name] = maps["abundance"].values.reshape(len(elements), -1).T[free]
        if chosen is None:
            chosen = maps
    say("baselines")
    for name, values in sr.baseline_maps(region_data(ds, (0, 0)), seed=arguments.seed).items():
        rows[name] = values.reshape(len(elements), -1).T[free]
    table = score_table(rows, truth, elements)
    report(
        folder, table, "Simulated Moon: error against the truth at pixels that no footprint covers"
    )
    if chosen is not None:
        inside = np.abs(chosen["abundance"].values - scene.truth["abundance"].values)
        share = (inside <= chosen["abundance_std"].values).reshape(len(elements), -1)[:, free]
        text = ", ".join(f"{e} {s:.0%}" for e, s in zip(elements, share.mean(axis=1), strict=True))
        say(f"within one stated sigma (68 % if it were Gaussian and right): {text}")
        chosen.to_netcdf(folder / "maps.nc")
        pictures(folder, chosen, scene.basemap, ("Fe", "Al"), scene.truth["abundance"])


def real(folder: Path, arguments: argparse.Namespace) -> None:
    """Real footprints over the real albedo map, with whole tracks held out."""
    grid = sr.GIBGrid((1, 1), tuple(arguments.shape or (171, 341)), tuple(arguments.extent))
    basemap = open_map(arguments.data / "maps" / "Albedo_Map.csv.gz", name="albedo", chunks=None)
    tracks = sr.read_class_tracks(
        arguments.data / "class" / "abundance" / "class_l2_tracks.csv",
        uncertainty="fit",
        errors="skip",
    )
    # Iron comes without a fit uncertainty: all of its footprints then weigh the same.
    tracks["abundance_std"] = tracks["abundance_std"].where(tracks["abundance_std"] > 0)
    elements = [str(e) for e in tracks["element"].values]
    ds = bank(folder, grid, elements, basemap, tracks, arguments)
    footprints = sr.gib_footprints(folder / "gib.zarr")
    data = region_data(ds, (0, 0))
    say(f"{data.support.count} footprints lie in the region with half of their area or more")
    networks = {n: s for n, s in variants(arguments).items() if n in arguments.networks}
    if arguments.folds:
        table = sr.cross_validate(
            grid, data.features, data.mare, footprints, networks,
            folds=arguments.folds, only=range(arguments.only or arguments.folds), seed=arguments.seed,
        )  # fmt: skip
        report(folder, table, "Real footprints: error at footprints of tracks that were held out")
    name, settings = next(iter(networks.items()))
    models = folder / "models"
    sr.train_gib(folder / "gib.zarr", models, settings, overwrite=True, report=watch)
    maps = ds.lunar.superresolve(models).compute()
    say(f"map of {name}: {float(maps['abundance'][0].notnull().mean()):.0%} of the pixels")
    maps.to_netcdf(folder / "maps.nc")
    pictures(folder, maps, basemap, ("Mg", "Al", "Si", "Fe"))


def report(folder: Path, table: xr.Dataset, title: str) -> None:
    """Print a table and keep it."""
    text = f"{title} (wt%)\n\n{format_table(table)}\n\n{format_table(table, 'r')}\n"
    print(text, flush=True)
    (folder / "table.md").write_text(text)
    table.to_netcdf(folder / "table.nc")


def pictures(
    folder: Path,
    maps: xr.Dataset,
    basemap: xr.DataArray,
    shown: tuple[str, ...],
    truth: xr.DataArray | None = None,
) -> None:
    """Maps of some elements, each beside the truth where it is known, and the base map."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lat, lon = maps["lat"].values, maps["lon"].values
    extent = (lon[0], lon[-1], lat[-1], lat[0])
    columns = 3 if truth is not None else 2
    figure = Figure(figsize=(5 * columns, 3.2 * (len(shown) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown) + 1, columns, squeeze=False)
    under = basemap.interp(lat=lat, lon=lon)
    axes[0, 0].imshow(under.values, cmap="gray", extent=extent)
    axes[0, 0].set_title("base map")
    image = axes[0, 1].imshow(maps["distance"].values, cmap="viridis", extent=extent)
    axes[0, 1].set_title("distance to a populated pixel (km)")
    figure.colorbar(image, ax=axes[0, 1], shrink=0.8)
    for blank in axes[0, 2:]:
        blank.set_axis_off()
    for row, element in zip(axes[1:], shown, strict=True):
        layers = {
            f"{element} (wt%)": maps["abundance"].sel(element=element).values,
            f"{element}: uncertainty (wt%)": maps["abundance_std"].sel(element=element).values,
        }
        scale = layers[f"{element} (wt%)"]
        if truth is not None:
            layers[f"{element}: truth (wt%)"] = scale = truth.sel(element=element).values
        low, high = np.nanpercentile(scale, [1, 99])
        for axis, (title, values) in zip(row, layers.items(), strict=True):
            limits = {} if "uncertainty" in title else {"vmin": low, "vmax": high}
            image = axis.imshow(values, cmap="inferno", extent=extent, **limits)
            axis.set_title(title)
            figure.colorbar(image, ax=axis, shrink=0.8)
    figure.savefig(folder / "maps.png", dpi=110)
    say(f"pictures in {folder / 'maps.png'}")


def main() -> None:
    """Parse the arguments and run one study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="folder of real data; simulate if not given")
    parser.add_argument(
        "--extent", type=float, nargs=4, default=REAL_EXTENT, help="west south east north"
    )
    parser.add_argument("--shape", type=int, nargs=2, help="rows and columns of pixels")
    parser.add_argument("--weights", help="ResNet50 weights; random if not given")
    parser.add_argument("--features", type=int, default=300)
    parser.add_argument("--coverage", type=float, default=0.2, help="share covered by footprints")
    parser.add_argument("--k", type=int, default=100, help="neighbours of a node")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs=2, default=(2, 2), help="a visit, in each phase")
    parser.add_argument("--members", type=int, default=2, help="networks in the ensemble")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation; 0 for none")
    parser.add_argument("--only", type=int, help="do that many of the folds")
    parser.add_argument("--seed", type=int, default=0)
    names = ["network", "network, footprint losses", "network, footprint losses, no trend"]
    parser.add_argument("--networks", nargs="+", choices=names, default=names)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    say(f"lunarray {la.__version__}")
    (simulated if arguments.data is None else real)(arguments.out, arguments)


if __name__ == "__main__":
    main()
