"""How good maps are: against a known truth, and against footprints of tracks that training has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.engine.models import Device
from lunarray.engine.progress import step_bar
from lunarray.superres.baselines import BASELINES, baseline_maps
from lunarray.superres.prediction import predict_region
from lunarray.superres.regions import assemble_region
from lunarray.superres.settings import TrainSettings
from lunarray.superres.support import support_of
from lunarray.superres.tracks import track_folds, track_numbers
from lunarray.typing import typed
from lunarray.units import WEIGHT

if TYPE_CHECKING:
    from lunarray.superres.grid import GIBGrid

#: Names under which networks stand in tables.
NETWORK = "network"


def score(predicted: np.ndarray, known: np.ndarray) -> dict[str, np.ndarray]:
    """Errors of each element from pairs (sample, element) in wt%; pairs with a NaN do not count.

    Gives ``rmse``, ``mae``, ``bias`` (wt%), ``r`` (correlation) and ``skill``, 1 − MSE/variance of `known`, (element,)
    each.
    """
    good = np.isfinite(predicted) & np.isfinite(known)
    columns = []
    for e in range(known.shape[1]):
        p, k = predicted[good[:, e], e].astype(np.float64), known[good[:, e], e].astype(np.float64)
        if len(k) < 2:
            columns.append([np.nan] * 5)
            continue
        error = p - k
        spread = p.std() * k.std()
        mse = float(np.mean(error**2))
        columns.append(
            [
                np.sqrt(mse),
                np.abs(error).mean(),
                error.mean(),
                np.mean((p - p.mean()) * (k - k.mean())) / spread if spread > 0 else np.nan,
                1 - mse / k.var() if k.var() > 0 else np.nan,
            ]
        )
    names = ("rmse", "mae", "bias", "r", "skill")
    return dict(zip(names, np.array(columns).T, strict=True))


def score_table(
    predictions: Mapping[str, np.ndarray], known: np.ndarray, elements: Sequence[str]
) -> xr.Dataset:
    """One table of several methods, whose predictions are held against what is known, all (sample, element) in wt%.

    Gives ``rmse``, ``mae``, ``bias``, ``r``, ``skill`` (method, element), and ``relative`` (method): the mean over
    elements of rmse over the standard deviation of `known`, by which methods may be ranked.
    """
    scores = {name: score(values, known) for name, values in predictions.items()}
    units = {"rmse": WEIGHT, "mae": WEIGHT, "bias": WEIGHT, "r": "1", "skill": "1"}
    arrays: dict[str, Any] = {
        n: (("method", "element"), np.stack([s[n] for s in scores.values()]), {"units": u})
        for n, u in units.items()
    }
    spread = np.nanstd(known, axis=0)
    relative = np.nanmean(arrays["rmse"][1] / np.where(spread > 0, spread, np.nan), axis=1)
    arrays["relative"] = (
        "method",
        relative,
        {"units": "1", "long_name": "mean over elements of rmse / standard deviation"},
    )
    return xr.Dataset(arrays, {"method": list(scores), "element": list(elements)})


def format_table(table: xr.Dataset, variable: str = "rmse") -> str:
    """Print a table of :func:`score_table` as Markdown, best method first."""
    elements = [str(e) for e in table["element"].values]
    lines = [
        f"| {variable} | {' | '.join(elements)} | relative |",
        f"|{' --- |' * (len(elements) + 2)}",
    ]
    for number in np.argsort(table["relative"].values, kind="stable"):
        row = table.isel(method=number)
        cells = " | ".join(f"{v:.3f}" for v in row[variable].values)
        lines.append(f"| {row['method'].item()} | {cells} | {row['relative'].item():.3f} |")
    return "\n".join(lines)


@typed
def cross_validate(
    grid: GIBGrid,
    features: np.ndarray,
    mare: np.ndarray,
    footprints: xr.Dataset,
    settings: TrainSettings | Mapping[str, TrainSettings] | None = None,
    *,
    folds: int = 5,
    only: Sequence[int] | None = None,
    methods: Sequence[str] = BASELINES,
    region: tuple[int, int] = (0, 0),
    seed: int = 0,
    device: Device = "auto",
    progress: bool | None = None,
) -> xr.Dataset:
    """Predict footprints of tracks that were held out, with a network and with the baselines.

    Parameters
    ----------
    grid : GIBGrid
        The grid.
    features : ndarray, (feature, row, column)
        Of the region.
    mare : ndarray, (row, column)
        0 unknown, 1 mare, 2 highland.
    footprints : Dataset
        As :func:`lunarray.superres.as_footprints` gives them.
    settings : TrainSettings or mapping of str to TrainSettings, optional
        How networks are trained, ``TrainSettings()`` if None; several by name.
    folds : int
        Into which whole tracks are dealt.
    only : sequence of int, optional
        Folds to do, where all would take too long.
    methods : sequence of str
        Baselines.
    region : tuple of 2 int
        Which region of the grid.
    seed : int
        Of the deal.
    device : {"auto", "cpu", "cuda"}
        Where networks are trained and predict.
    progress : bool, optional
        Show a progress bar; by default where standard error is a terminal.

    Returns
    -------
    Dataset
        As :func:`score_table`, over all footprints held out; the mean of the map over a footprint is held against what
        it measured. With ``predicted`` (method, footprint, element), ``measured`` (footprint, element) and the
        footprint's number in the table, ``row``.
    """
    from lunarray.superres.subgraphs import GraphCache
    from lunarray.superres.training import train_region

    if settings is None or isinstance(settings, TrainSettings):
        settings = {NETWORK: settings or TrainSettings()}
    lat, lon = grid.lat(region[0]), grid.lon(region[1])
    whole = support_of(footprints, lat, lon)
    inside = footprints.isel(footprint=whole.number)
    fold_of = track_folds(track_numbers(footprints)[whole.number], folds, seed)
    # The features are the same in all folds, and so are the graphs.
    caches = {name: GraphCache(own.cache) for name, own in settings.items()}
    predicted: dict[str, list[np.ndarray]] = {n: [] for n in (*settings, *methods)}
    measured, rows = [], []
    chosen = range(folds) if only is None else only
    with step_bar("Held out", len(chosen) * (len(settings) + 1), show=progress) as advance:
        for fold in chosen:
            held = np.flatnonzero(fold_of == fold)
            data = assemble_region(
                grid, features, mare, inside.isel(footprint=fold_of != fold), region=region
            )
            support = support_of(inside.isel(footprint=held), lat, lon)
            maps: dict[str, np.ndarray] = {}
            for name, own in settings.items():
                trained = train_region(data, own, cache=caches[name], device=device, progress=False)
                if trained is not None:
                    maps[name], _ = predict_region(
                        trained, lat, lon, features, mare, cache=caches[name]
                    )
                if advance is not None:
                    advance(1, f"fold {fold}: {name}")
            maps |= baseline_maps(data, methods, seed=seed)
            if advance is not None:
                advance(1, f"fold {fold}: baselines")
            for name, values in maps.items():
                # Where a pixel has no features, the rest of the footprint stands for it.
                flat = values.reshape(len(values), -1).T
                there = support.restricted(np.isfinite(flat).all(axis=1), least=0.0)
                predicted[name].append(there.mean(np.nan_to_num(flat)))
            measured.append(support.measured)
            rows.append(whole.number[held[support.number]])
    known = np.concatenate(measured)
    joined = {n: np.concatenate(v) for n, v in predicted.items()}
    table = score_table(joined, known, [str(e) for e in footprints["element"].values])
    return table.assign(
        predicted=(("method", "footprint", "element"), np.stack(list(joined.values()))),
        measured=(("footprint", "element"), known),
        row=("footprint", np.concatenate(rows)),
    )
