"""How good maps are: against a known truth, and against footprints of tracks that training has not seen."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lunarray.engine.models import Device
from lunarray.engine.progress import step_bar
from lunarray.errors import InputError, require_number
from lunarray.superres.areal import ArealSettings
from lunarray.superres.areal_bank import held_out_areal
from lunarray.superres.baselines import BASELINES, baseline_maps
from lunarray.superres.prediction import predict_region
from lunarray.superres.regions import assemble_region
from lunarray.superres.repeats import repeats_of
from lunarray.superres.settings import TrainSettings
from lunarray.superres.support import support_of
from lunarray.superres.tracks import track_folds, track_numbers
from lunarray.typing import typed
from lunarray.units import WEIGHT

if TYPE_CHECKING:
    from lunarray.superres.grid import GIBGrid
    from lunarray.superres.regions import RegionData

#: Names of methods in tables.
AREAL, NETWORK, RIDGE = "areal", "network", "footprint ridge"
Settings = ArealSettings | TrainSettings


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
    """Print a table of :func:`score_table` as Markdown, best method first, and the floor below where it is known."""
    elements = [str(e) for e in table["element"].values]
    lines = [
        f"| {variable} | {' | '.join(elements)} | relative |",
        f"|{' --- |' * (len(elements) + 2)}",
    ]
    for number in np.argsort(table["relative"].values, kind="stable"):
        row = table.isel(method=number)
        cells = " | ".join(f"{v:.3f}" for v in row[variable].values)
        lines.append(f"| {row['method'].item()} | {cells} | {row['relative'].item():.3f} |")
    if variable == "rmse" and "floor" in table:
        cells = " | ".join(f"{v:.3f}" for v in table["floor"].values)
        pairs = int(table["floor"].attrs["footprint_pairs"])
        lines.append(f"| floor: {pairs} repeats | {cells} | {table['floor_relative'].item():.3f} |")
    return "\n".join(lines)


@typed
def cross_validate(
    grid: GIBGrid,
    features: np.ndarray,
    mare: np.ndarray,
    footprints: xr.Dataset,
    settings: Settings | Mapping[str, Settings] | None = None,
    *,
    folds: int = 5,
    only: Sequence[int] | None = None,
    methods: Sequence[str] = ("areal", *BASELINES),
    region: tuple[int, int] = (0, 0),
    seed: int = 0,
    device: Device = "auto",
    progress: bool | None = None,
) -> xr.Dataset:
    """Cross-validate the areal Gaussian process, networks and baselines on footprints of tracks that were held out.

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
    settings : ArealSettings, TrainSettings or mapping of str to these, optional
        How areal models and networks are made; several by name.
    folds : int
        Into which whole tracks are dealt.
    only : sequence of int, optional
        Folds to do, where all would take too long.
    methods : sequence of str
        "areal", "network", "ridge" (the footprint ridge) and baselines. What `settings` names comes besides.
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
        it measured. With ``predicted`` (method, footprint, element), its standard deviation ``predicted_std`` with that
        of the measurement, where a method tells it, ``measured`` (footprint, element) and the footprint's number in the
        table, ``row``. Where tracks overlap in ten pairs or more of the region, ``floor`` (element; wt%) is the rmse
        that a map without any error would have, as :func:`lunarray.superres.repeatability` finds it from these pairs
        (of n pairs, it is known to about one part in √(2n)), and ``floor_relative`` the mean over elements of that over
        the standard deviation of what was measured, as ``relative`` is.

    Raises
    ------
    InputError
        Features or mare classes of another shape than a region, a fold or a method that there is not.

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid)
    >>> done = sr.fill_features("bank.zarr", maps={"albedo": la.sample("albedo")})
    >>> done = sr.classify_mare("bank.zarr", albedo=la.sample("albedo"))
    >>> done = sr.populate("bank.zarr", la.sample("tracks"), outside="skip")
    >>> bank, tracks = sr.open_gib("bank.zarr"), la.sample("tracks")
    >>> features, mare = bank["feature"].values, bank["mare"].values
    >>> scores = sr.cross_validate(grid, features, mare, tracks, folds=2)  # doctest: +SKIP
    """
    chosen = _folds(grid, features, mare, region, folds, only)
    networks, areal, ways = _sorted_out(methods, settings)
    lat, lon = grid.lat(region[0]), grid.lon(region[1])
    whole = support_of(footprints, lat, lon)
    inside = footprints.isel(footprint=whole.number)
    track = track_numbers(footprints)[whole.number]
    fold_of = track_folds(track, folds, seed)
    run = _Networks(networks, (lat, lon, features, mare), device)
    elements = [str(e) for e in footprints["element"].values]
    names = (*areal, *networks, *ways)
    predicted: dict[str, list[np.ndarray]] = {n: [] for n in names}
    spread: dict[str, list[np.ndarray]] = {n: [] for n in areal}
    measured, rows = [], []
    steps = len(chosen) * (len(areal) + len(networks) + 1)
    with step_bar("Held out", steps, show=progress) as advance:
        for fold in chosen:
            step = functools.partial(_advance, advance, fold)
            held = np.flatnonzero(fold_of == fold)
            rest = inside.isel(footprint=fold_of != fold)
            support = support_of(inside.isel(footprint=held), lat, lon)
            out = inside.isel(footprint=held[support.number])
            for name, own in areal.items():
                mean, std = held_out_areal([(lat, lon, features, mare)], rest, out, own)
                predicted[name].append(mean)
                spread[name].append(std)
                step(name)
            maps: dict[str, np.ndarray] = {}
            if networks or ways:
                data = assemble_region(grid, features, mare, rest, region=region)
                maps = run(data, step) | baseline_maps(data, ways, seed=seed)
            step("baselines")
            for name, values in maps.items():
                # Where a pixel has no features, the rest of the footprint stands for it.
                flat = values.reshape(len(values), -1).T
                there = support.restricted(np.isfinite(flat).all(axis=1), least=0.0)
                predicted[name].append(there.mean(np.nan_to_num(flat)))
            measured.append(support.measured)
            rows.append(whole.number[held[support.number]])
    table = _table(predicted, spread, np.concatenate(measured), np.concatenate(rows), elements)
    return table.assign(_floor(inside.assign_coords(track=("footprint", track)), table))


def _folds(
    grid: GIBGrid,
    features: np.ndarray,
    mare: np.ndarray,
    region: tuple[int, int],
    folds: int,
    only: Sequence[int] | None,
) -> list[int]:
    """Folds to do; InputError, or GridError, where arrays, region or folds do not fit."""
    grid.existing([region])
    for name, array, dims in (("features", features, 3), ("mare", mare, 2)):
        shape = np.shape(array)
        if len(shape) != dims or shape[-2:] != tuple(grid.shape):
            wanted = "".join(f"{n}, " for n in ("feature",)[: dims - 2]) + "{}, {}".format(
                *grid.shape
            )
            raise InputError(
                f"an array {shape}", where=name, remedy=f"Give one of shape ({wanted})"
            )
    require_number("folds", folds, 2, whole=True)
    chosen = list(dict.fromkeys(range(folds) if only is None else only))
    if not chosen or not set(chosen) <= set(range(folds)):
        raise InputError(f"folds {chosen}", where="only", remedy=f"Give some of 0 to {folds - 1}")
    return chosen


def _floor(inside: xr.Dataset, table: xr.Dataset) -> dict[str, Any]:
    """The error of one footprint, where tracks overlap, and that over the spread of what was held out.

    Of the region's own pairs: elsewhere footprints may scatter more, as by the Sun, and where abundances are higher.
    """
    found = repeats_of(inside)
    if not np.isfinite(found["scatter"].values).any():
        return {}
    spread = np.nanstd(table["measured"].values, axis=0)
    relative = np.nanmean(found["scatter"].values / np.where(spread > 0, spread, np.nan))
    told = {
        "units": WEIGHT,
        "long_name": "error of one footprint, by footprints that overlap",
        "footprint_pairs": found.attrs["footprint_pairs"],
    }
    name = "mean over elements of floor / standard deviation"
    return {
        "floor": ("element", found["scatter"].values, told),
        "floor_relative": ((), float(relative), {"units": "1", "long_name": name}),
    }


def _table(
    predicted: Mapping[str, list[np.ndarray]],
    spread: Mapping[str, list[np.ndarray]],
    known: np.ndarray,
    rows: np.ndarray,
    elements: Sequence[str],
) -> xr.Dataset:
    """Scores with what they are made of, of the parts of each fold."""
    joined = {n: np.concatenate(v) for n, v in predicted.items()}
    blank = np.full(known.shape, np.nan)
    stds = [np.concatenate(spread[n]) if n in spread else blank for n in joined]
    by_method = ("method", "footprint", "element")
    return score_table(joined, known, elements).assign(
        predicted=(by_method, np.stack(list(joined.values()))),
        predicted_std=(by_method, np.stack(stds)),
        measured=(("footprint", "element"), known),
        row=("footprint", rows),
    )


def _advance(advance: Any, fold: int, text: str) -> None:
    if advance is not None:
        advance(1, f"fold {fold}: {text}")


def _sorted_out(
    methods: Sequence[str], settings: Any
) -> tuple[dict[str, TrainSettings], dict[str, ArealSettings], list[str]]:
    """Networks and areal models by name, and names of baselines."""
    if not isinstance(settings, Mapping):
        name = AREAL if isinstance(settings, ArealSettings) else NETWORK
        settings = {} if settings is None else {name: settings}
    given = dict(settings)
    for name, kind in ((AREAL, ArealSettings), (NETWORK, TrainSettings)):
        if name in methods:
            given.setdefault(name, kind())
    networks = {n: s for n, s in given.items() if isinstance(s, TrainSettings)}
    areal = {n: s for n, s in given.items() if isinstance(s, ArealSettings)}
    ways = [RIDGE if n == "ridge" else n for n in methods if n not in (AREAL, NETWORK)]
    if unknown := sorted(set(ways) - set(BASELINES)):
        raise InputError(
            f"no method {', '.join(unknown)}",
            where="cross_validate",
            remedy=f"Choose from {', '.join((AREAL, NETWORK, 'ridge', *BASELINES))}",
        )
    return networks, areal, list(dict.fromkeys(ways))


class _Networks:
    """Networks of a region, trained and asked; the graphs are the same in all folds."""

    def __init__(self, settings: Mapping[str, TrainSettings], ground: Any, device: Device) -> None:
        self.settings, self.ground, self.device = settings, ground, device
        self.caches: dict[str, Any] = {}

    def __call__(self, data: RegionData, step: Any) -> dict[str, np.ndarray]:
        maps: dict[str, np.ndarray] = {}
        for name, own in self.settings.items():
            from lunarray.superres.subgraphs import GraphCache
            from lunarray.superres.training import train_region

            cache = self.caches.setdefault(name, GraphCache(own.cache))
            trained = train_region(data, own, cache=cache, device=self.device, progress=False)
            if trained is not None:
                maps[name], _ = predict_region(trained, *self.ground, cache=cache)
            step(name)
        return maps
