"""Maps from trained networks: whole regions from overlapping sub-regions, and whole Moons from overlapping regions.

Each network predicts its region and a margin around it, in overlapping sub-regions whose predictions are averaged with
weights that fall to the edges; where regions meet, the networks of both sides are averaged likewise. A map therefore
has no step at the border of a sub-region or region, nor at ±180°.

A task is a band of a region, so that one region keeps several workers busy: for networks the sub-regions of the same
rows, for an areal Gaussian process rows that it may predict by themselves.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from lunarray.engine.models import ModelSpec
from lunarray.engine.pixels import map_pixels
from lunarray.errors import ModelError, needs
from lunarray.geo import RADIUS, unit_vectors
from lunarray.superres.areal_bank import LOADER as AREAL
from lunarray.superres.areal_bank import predict_ground, read_areal_header
from lunarray.superres.grid import GIBGrid, joined, starts, turns
from lunarray.superres.regions import RegionData
from lunarray.superres.settings import TrainSettings
from lunarray.superres.trained import LOADER, TrainedRegion, read_region_header

if TYPE_CHECKING:
    from lunarray.superres.subgraphs import GraphCache

#: Arrays of a prediction before it is cut to its place: means and variances (element, row, column).
Field = tuple[np.ndarray, np.ndarray]
#: Rows of a band of an areal model that takes all footprints exactly, and of one that does not: these overlap.
_ROWS, _NEAR_ROWS = (64, 64), (128, 96)


def _hat(count: int) -> np.ndarray:
    """Weights over a sub-region's side, which fall to its ends and never vanish."""
    place = np.arange(count)
    return np.minimum(place + 1, count - place).astype(np.float64)


def predict_region(
    trained: TrainedRegion,
    lat: np.ndarray,
    lon: np.ndarray,
    features: np.ndarray,
    mare: np.ndarray,
    *,
    cache: GraphCache | None = None,
) -> Field:
    """Predict all pixels of a region, or of a region and its margin, where its networks are.

    `lat` (row,) and `lon` (column,) are in degrees, longitudes without a jump and in the same turn as the region's
    centre; `features` (feature, row, column) float32 are NaN where there are none, `mare` (row, column) is 0 for
    unknown, 1 for mare, 2 for highland. Graphs of the same region and settings may come from the `cache` of its
    training.

    Gives the mean over members and overlapping sub-regions (wt%, NaN where there are no features), and the variance:
    how far they disagree, (wt%)². Both are (element, row, column) float32.
    """
    mean, variance = _averages(trained, lat, lon, features, mare, cache)
    # Abundances are not negative; a network does not know.
    return np.maximum(mean, 0).astype(np.float32), variance.astype(np.float32)


def _averages(
    trained: TrainedRegion,
    lat: np.ndarray,
    lon: np.ndarray,
    features: np.ndarray,
    mare: np.ndarray,
    cache: GraphCache | None = None,
) -> Field:
    """What networks say, float64, negative where they say so."""
    with needs("torch", "predicting element maps"):
        import torch

    from lunarray.superres.subgraphs import GraphCache, RegionGraphs

    count = trained.scaling.feature_mean.size
    if features.shape[0] != count:
        raise ModelError(
            f"{features.shape[0]} surface features for a network of {count}",
            where=f"region {trained.region}",
            remedy="Predict with the features that the network was trained on",
        )
    settings, scaling = trained.settings, trained.scaling
    outputs = len(trained.elements)
    abundance = np.broadcast_to(np.float32(np.nan), (outputs, len(lat), len(lon)))
    data = RegionData(lat, lon, features, mare, abundance, trained.elements, region=trained.region)
    own = replace(settings, feature_similarity=0.0, spatial_similarity=0.0)
    on_gpu = next(trained.models[0].parameters()).is_cuda
    device: Literal["cpu", "cuda"] = "cuda" if on_gpu else "cpu"
    graphs = RegionGraphs(data, scaling, own, GraphCache(0) if cache is None else cache, device)
    shape = graphs.valid.shape
    total = np.zeros(shape)
    first, second = np.zeros((outputs, *shape)), np.zeros((outputs, *shape))
    for number, (rows, columns) in enumerate(graphs.windows):
        graph = graphs[number]
        if graph is None:
            continue
        at = (graph.rows, graph.columns)
        nodes = graphs.inputs(graph)
        height, width = graph.shape
        weight = np.outer(_hat(height), _hat(width))[
            graph.rows - rows.start, graph.columns - columns.start
        ]
        for model in trained.models:
            with torch.no_grad():
                values = graphs.predict(model, graph, nodes).cpu().numpy().T.astype(np.float64)
            first[(slice(None), *at)] += weight * values
            # Around the mean of all: squares of small differences of large numbers would lose their digits.
            second[(slice(None), *at)] += weight * (values - scaling.mean[:, None]) ** 2
        total[at] += weight * len(trained.models)
    with np.errstate(invalid="ignore", divide="ignore"):
        average = first / total
        variance = second / total - (average - scaling.mean[:, None, None]) ** 2
    return average, np.maximum(variance, 0)


@dataclass(frozen=True)
class Plan:
    """Where each region's prediction lies and how much it counts there.

    `specs` are networks by region; each predicts `margin` pixels beyond its own. Farther than `max_distance` metres
    (None: any) from populated pixels nothing is said of the `outputs` elements.
    """

    grid: GIBGrid
    specs: Mapping[tuple[int, int], ModelSpec]
    margin: int
    max_distance: float | None
    outputs: int

    def predict(self, arrays: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Map the whole grid from ``feature``, ``mare`` and ``abundance`` (…, row, column), NumPy or Dask arrays.

        Gives mean and standard deviation (element, row, column; wt%), and the distance to the nearest populated pixel
        (km).
        """
        whole = (_lazy if hasattr(arrays["feature"], "dask") else _eager)(self, arrays)
        n = self.outputs
        return whole[:n], whole[n : 2 * n], whole[2 * n]

    def span(self, region: tuple[int, int]) -> tuple[int, int, int, int]:
        """First and last rows and columns with margin; columns go on past the grid where it wraps."""
        rows, columns = self.grid.slices(*region)
        m, (height, width) = self.margin, self.grid.size
        left, right = columns.start - m, columns.stop + m
        if not self.grid.periodic:
            left, right = max(left, 0), min(right, width)
        return max(rows.start - m, 0), min(rows.stop + m, height), left, right

    def cut(self, array: Any, region: tuple[int, int]) -> Any:
        """What lies in a region and its margin, of an array on the whole grid."""
        top, bottom, left, right = self.span(region)
        columns = turns(left, right, self.grid.size[1])
        return joined([array[..., top:bottom, own] for own, _ in columns], -1)

    def bands(self, region: tuple[int, int]) -> list[slice]:
        """Rows of a region and its margin that are predicted by themselves; where they overlap they are averaged."""
        top, bottom, _, _ = self.span(region)
        height, spec = bottom - top, self.specs[region]
        if spec.loader == AREAL:
            header = read_areal_header(spec.weights)
            near = json.loads(header["settings"])["near"]
            size, stride = _ROWS if header["card"]["footprints"] <= near else _NEAR_ROWS
        elif spec.loader == LOADER:
            settings = TrainSettings.from_json(read_region_header(spec.weights)["settings"])
            size, stride = settings.size, settings.stride
        else:
            size, stride = _ROWS
        if stride == size:
            return [slice(k, min(k + size, height)) for k in range(0, height, size)]
        return [slice(k, min(k + size, height)) for k in starts(height, size, stride)]

    def places(self, region: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Latitudes and longitudes of a region and its margin."""
        top, bottom, left, right = self.span(region)
        height, width = self.grid.step
        west, _, _, north = self.grid.extent
        lat = north - (np.arange(top, bottom) + 0.5) * height
        return lat, west + (np.arange(left, right) + 0.5) * width

    def sources(self, region: tuple[int, int]) -> list[tuple[int, int]]:
        """Regions whose networks reach into a region."""
        if region not in self.specs:
            return []
        near = [region, *self.grid.neighbours(*region)] if self.margin else [region]
        return [r for r in near if r in self.specs]

    def taper(self, region: tuple[int, int]) -> np.ndarray:
        """Weight of a region's network: 1 inside, half at its border, 0 where its margin ends."""
        top, bottom, left, right = self.span(region)
        rows, columns = self.grid.slices(*region)
        if not self.margin:
            return np.ones((bottom - top, right - left))

        def ramp(first: int, last: int, start: int, stop: int) -> np.ndarray:
            place = np.arange(first, last) + 0.5
            inside = np.minimum(place - start, stop - place)
            return np.clip((inside + self.margin) / (2 * self.margin), 0, 1)

        return np.outer(
            ramp(top, bottom, rows.start, rows.stop), ramp(left, right, columns.start, columns.stop)
        )


def _predict(
    plan: Plan, region: tuple[int, int], band: slice, feature: np.ndarray, mare: np.ndarray
) -> Field:
    """Mean and variance of a band of a region and its margin by its own network, or by a model of pixels."""
    spec = plan.specs[region]
    if spec.loader not in (AREAL, LOADER):
        return _predict_pixels(spec, np.asarray(feature))
    lat, lon = plan.places(region)
    # NaN where xarray's `where` put it: unknown.
    classes = np.nan_to_num(np.asarray(mare)).astype(np.uint8)
    ground = lat[band], lon, np.asarray(feature), classes
    if spec.loader == AREAL:
        return predict_ground(cast(Any, spec.load()), ground)
    trained = cast(Any, spec.load())
    mean, variance = _averages(trained, *ground)
    return mean, variance + (trained.error() ** 2)[:, None, None]


def _merged(bands: list[slice], fields: list[Field], positive: bool) -> Field:
    """Bands of a region, averaged where they overlap; without negative abundances, if `positive`."""
    if all(a.stop <= b.start for a, b in itertools.pairwise(bands)):
        mean, variance = (np.concatenate(f, axis=1) for f in zip(*fields, strict=True))
    else:
        shape = (len(fields[0][0]), max(b.stop for b in bands), fields[0][0].shape[2])
        total, first, second = np.zeros(shape[1:]), np.zeros(shape), np.zeros(shape)
        middle = np.nan_to_num(np.stack([np.nanmean(f[0], axis=(1, 2)) for f in fields])).mean(0)
        for band, (own, spread) in zip(bands, fields, strict=True):
            good = np.isfinite(own).all(axis=0)
            weight = np.where(good, _hat(band.stop - band.start)[:, None], 0.0)
            # Around a middle value: squares of small differences of large numbers would lose their digits.
            apart = np.where(good, own - middle[:, None, None], 0.0)
            total[band] += weight
            first[:, band] += weight * apart
            second[:, band] += weight * (np.where(good, spread, 0.0) + apart**2)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = first / total
            variance = np.maximum(second / total - mean**2, 0)
        mean = mean + middle[:, None, None]
    if positive:
        mean = np.maximum(mean, 0)
    return mean.astype(np.float32), variance.astype(np.float32)


def _predict_pixels(spec: ModelSpec, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and variance where the model knows it, of each pixel by itself."""
    found = map_pixels(spec, feature)
    names = cast(tuple[str, ...], spec.outputs)
    at = {name: index for index, name in enumerate(names)}
    elements = [name for name in names if not name.endswith("_std")]
    mean = found[[at[name] for name in elements]]
    if f"{elements[0]}_std" not in at:
        return mean, np.full_like(mean, np.nan)
    return mean, found[[at[f"{name}_std"] for name in elements]] ** 2


def _known(abundance: np.ndarray, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Directions of populated pixels, (pixel, 3)."""
    row, column = np.nonzero(np.isfinite(abundance).any(axis=0))
    return unit_vectors(lon[column], lat[row])


def _combine(
    plan: Plan,
    region: tuple[int, int],
    fields: Mapping[tuple[int, int], Field],
    known: list[np.ndarray],
) -> np.ndarray:
    """One block of the map: means, standard deviations and distance, (2 × element + 1, row, column)."""
    rows, columns = plan.grid.slices(*region)
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    n, width = plan.outputs, plan.grid.size[1]
    weight = np.zeros(shape)
    first, second = np.zeros((n, *shape)), np.zeros((n, *shape))
    for source, (mean, variance) in fields.items():
        top, bottom, left, right = plan.span(source)
        taper = plan.taper(source)
        a, b = max(rows.start, top), min(rows.stop, bottom)
        for turn in (-width, 0, width):
            c, d = max(columns.start + turn, left), min(columns.stop + turn, right)
            if a >= b or c >= d:
                continue
            west, east = c - turn - columns.start, d - turn - columns.start
            here = (slice(a - rows.start, b - rows.start), slice(west, east))
            there = (slice(a - top, b - top), slice(c - left, d - left))
            value, own = mean[(slice(None), *there)], taper[there]
            good = np.isfinite(value).all(axis=0)
            share = np.where(good, own, 0)
            value = np.where(good, value, 0).astype(np.float64)
            weight[here] += share
            first[(slice(None), *here)] += share * value
            spread = np.where(good, variance[(slice(None), *there)], 0)
            second[(slice(None), *here)] += share * (spread + value**2)
    out = np.full((2 * n + 1, *shape), np.nan, np.float32)
    points = np.concatenate(known) if known else np.zeros((0, 3))
    lat, lon = plan.grid.lat(region[0]), plan.grid.lon(region[1])
    if len(points):
        from scipy.spatial import cKDTree

        pixels = _known(np.zeros((1, *shape)), lat, lon)
        chord = cKDTree(points).query(pixels)[0].reshape(shape)
        out[2 * n] = 2 * np.arcsin(np.minimum(chord / 2, 1)) * RADIUS / 1e3
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = first / weight
        std = np.sqrt(np.maximum(second / weight - mean**2, 0))
    out[:n], out[n : 2 * n] = mean, std
    if plan.max_distance is not None:
        # Written so that where nothing at all is known, nothing stays.
        near = out[2 * n] <= plan.max_distance / 1e3
        out[: 2 * n, ~near] = np.nan
    return out


def _eager(plan: Plan, arrays: Mapping[str, Any]) -> np.ndarray:
    n, size = plan.outputs, plan.grid.size
    whole = np.empty((2 * n + 1, *size), np.float32)
    fields = {}
    for r in plan.specs:
        bands = plan.bands(r)
        cuts = [plan.cut(arrays[n], r) for n in ("feature", "mare")]
        parts = [_predict(plan, r, b, cuts[0][:, b], cuts[1][b]) for b in bands]
        fields[r] = _merged(bands, parts, plan.specs[r].loader == LOADER)
    known = [_known(arrays["abundance"], plan.grid.lat(), plan.grid.lon())]
    for region in plan.grid.all_regions():
        own = {r: fields[r] for r in plan.sources(region)}
        whole[(slice(None), *plan.grid.slices(*region))] = _combine(plan, region, own, known)
    return whole


def _lazy(plan: Plan, arrays: Mapping[str, Any]) -> Any:
    import dask
    import dask.array as da

    n, grid = plan.outputs, plan.grid
    work = (_predict, _merged, _combine, _known)
    predict, merged, combine, find = (dask.delayed(f, pure=True) for f in work)
    fields = {}
    for r in plan.specs:
        bands = plan.bands(r)
        cuts = [plan.cut(arrays[n], r) for n in ("feature", "mare")]
        parts = [predict(plan, r, b, cuts[0][:, b], cuts[1][b]) for b in bands]
        fields[r] = merged(bands, parts, plan.specs[r].loader == LOADER)
    # In the order of an array in memory, so that the nearest of equals is the same.
    known = [
        find(arrays["abundance"][(slice(None), *grid.slices(*r))], grid.lat(r[0]), grid.lon(r[1]))
        for r in grid.all_regions()
    ]
    blocks = [
        [
            da.from_delayed(
                combine(plan, (i, j), {r: fields[r] for r in plan.sources((i, j))}, known),
                (2 * n + 1, *grid.shape),
                np.float32,
                meta=np.empty((0, 0, 0), np.float32),
            )
            for j in range(grid.regions[1])
        ]
        for i in range(grid.regions[0])
    ]
    return da.block(blocks)
