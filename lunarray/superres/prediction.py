"""Maps from trained networks: whole regions from overlapping sub-regions, and whole Moons from overlapping regions.

Each network predicts its region and a margin around it, in overlapping sub-regions whose predictions are averaged with
weights that fall to the edges; where regions meet, the networks of both sides are averaged likewise. A map therefore
has no step at the border of a sub-region or region, nor at ±180°.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lunarray.engine.models import ModelSpec
from lunarray.errors import InputError, ModelError
from lunarray.geo import RADIUS
from lunarray.store.provenance import stamp
from lunarray.superres.gib import gib_grid
from lunarray.superres.grid import GIBGrid

if TYPE_CHECKING:
    import xarray as xr

    from lunarray.superres.training import GraphCache, TrainedRegion

_FILE = re.compile(r"region_(\d+)_(\d+)\.safetensors")
_LOADER = "lunarray.superres.prediction:load_predictor"
#: Arrays of a prediction before it is cut to its place: means and variances (element, row, column).
_Field = tuple[np.ndarray, np.ndarray]


def model_path(folder: str | os.PathLike[str], region: tuple[int, int]) -> Path:
    """File of a region's networks.

    Parameters
    ----------
    folder : path-like
        Where models lie.
    region : tuple of 2 int
        Which.

    Returns
    -------
    Path
    """
    return Path(folder) / f"region_{region[0]:02d}_{region[1]:02d}.safetensors"


def region_models(folder: str | os.PathLike[str]) -> dict[tuple[int, int], ModelSpec]:
    """Models of regions in a folder, as values that travel to workers.

    Parameters
    ----------
    folder : path-like
        As :func:`lunarray.superres.train_gib` filled it.

    Returns
    -------
    dict
        A :class:`lunarray.engine.ModelSpec` by region.

    Raises
    ------
    ModelError
        If there is none.
    """
    found = {}
    for path in sorted(Path(folder).glob("region_*.safetensors")):
        match = _FILE.fullmatch(path.name)
        if match:
            region = int(match[1]), int(match[2])
            found[region] = ModelSpec.from_file(_LOADER, path, outputs=0, device="cpu")
    if not found:
        raise ModelError(
            "no models of regions", where=folder, remedy="Train some: lunarray gib train"
        )
    return found


def load_predictor(path: Path, device: str) -> TrainedRegion:
    """Load a region's networks once for a process; what :class:`lunarray.engine.ModelSpec` calls.

    Parameters
    ----------
    path : Path
        Weights.
    device : str
        Unused: prediction runs where its arrays are.

    Returns
    -------
    TrainedRegion
    """
    from lunarray.superres.training import load_region_model

    return load_region_model(path)


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
    stride: int | None = None,
    cache: GraphCache | None = None,
) -> _Field:
    """Predict all pixels of a region, or of a region and its margin.

    Parameters
    ----------
    trained : TrainedRegion
        Networks and scales.
    lat, lon : ndarray, (row,) and (column,)
        Degrees; longitudes without a jump, in the same turn as the region's centre.
    features : ndarray, (feature, row, column), float32
        Surface features; NaN where there are none.
    mare : ndarray, (row, column)
        0 unknown, 1 mare, 2 highland.
    stride : int, optional
        Step between sub-regions; by default that of the training.
    cache : GraphCache, optional
        Graphs of the same region and settings, from its training.

    Returns
    -------
    mean : ndarray, (element, row, column), float32
        wt%, averaged over members and overlapping sub-regions; NaN where there are no features.
    variance : ndarray, (element, row, column), float32
        How far members and sub-regions disagree, (wt%)².
    """
    import torch

    from lunarray.superres.grid import starts
    from lunarray.superres.model import unscale
    from lunarray.superres.training import GraphCache, RegionData, _Graphs

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
    graphs = _Graphs(
        data,
        scaling,
        replace(settings, feature_similarity=0.0, spatial_similarity=0.0),
        GraphCache(0) if cache is None else cache,
    )
    x, shape = graphs.x, graphs.valid.shape
    total = np.zeros(shape)
    first, second = np.zeros((outputs, *shape)), np.zeros((outputs, *shape))
    mean, std, trend = (torch.from_numpy(a) for a in (scaling.mean, scaling.std, scaling.trend))
    step = settings.stride if stride is None else stride
    for top in starts(shape[0], settings.size, step):
        for left in starts(shape[1], settings.size, step):
            rows, columns = (
                slice(top, top + settings.size),
                slice(left, left + settings.size),
            )
            graph = graphs.at(rows, columns)
            if graph is None:
                continue
            at = (graph.rows, graph.columns)
            nodes = torch.from_numpy(x[at])
            height, width = graph.shape
            weight = np.outer(_hat(height), _hat(width))[graph.rows - top, graph.columns - left]
            for model in trained.models:
                with torch.no_grad():
                    scaled = model(
                        nodes, graph.index, graph.edge, graph.row, graph.column, graph.shape
                    )
                    values = unscale(scaled, nodes, mean, std, trend).numpy().T.astype(np.float64)
                first[(slice(None), *at)] += weight * values
                # Around the mean of all: squares of small differences of large numbers would lose their digits.
                second[(slice(None), *at)] += weight * (values - scaling.mean[:, None]) ** 2
            total[at] += weight * len(trained.models)
    with np.errstate(invalid="ignore", divide="ignore"):
        average = first / total
        variance = second / total - (average - scaling.mean[:, None, None]) ** 2
    # Abundances are not negative; a network does not know.
    return np.maximum(average, 0).astype(np.float32), np.maximum(variance, 0).astype(np.float32)


def superresolve(
    ds: xr.Dataset,
    models: str | os.PathLike[str] | Mapping[tuple[int, int], ModelSpec],
    *,
    margin: int | None = None,
    max_distance: float | None = 150_000.0,
) -> xr.Dataset:
    """Predict the elements of every pixel of a Global Information Bank.

    Parameters
    ----------
    ds : Dataset
        Of :func:`lunarray.superres.open_gib`: surface features, mare class, and populated pixels for the mask.
    models : path-like or mapping
        Folder of the regions' networks, or what :func:`region_models` gives.
    margin : int, optional
        Pixels that a network predicts beyond its region, over which it is blended with its neighbours'; by default the
        stride of its training, and half a region at most.
    max_distance : float or None
        Metres; pixels farther from any populated one are masked. None masks nothing.

    Returns
    -------
    Dataset
        ``abundance`` and ``abundance_std`` (element, lat, lon), wt%, float32, NaN where a region has no network, a
        pixel no features, or nothing is known nearby; ``distance`` (lat, lon), km, to the nearest populated pixel.
        Lazy where `ds` is, in blocks of a region; the numbers do not depend on chunks.

    Raises
    ------
    ModelError
        If there are no models, or they are of other elements, features or another grid.
    InputError
        If `ds` lacks surface features.

    Notes
    -----
    The uncertainty is the root of the sum of two squares: how far the members of the ensemble and the overlapping
    sub-regions disagree, and the misfit of the network at what it was trained on. It knows nothing of errors that all
    members share, such as a bias of the instrument.

    References
    ----------
    The paper, section IV.B.3 (overlapping subgraphs) and IV.C.3.
    """
    import xarray as xr

    for name in ("feature", "mare", "abundance"):
        if name not in ds:
            raise InputError(
                f"no variable {name}",
                where="superresolve",
                remedy="Give what lunarray.superres.open_gib gives",
            )
    grid = gib_grid(ds)
    if (ds.sizes["lat"], ds.sizes["lon"]) != grid.size:
        raise InputError(
            f"{ds.sizes['lat']} × {ds.sizes['lon']} pixels on a grid of {grid.size[0]} × {grid.size[1]}",
            where="superresolve",
            remedy="Give the whole of the Global Information Bank, and cut the result",
        )
    specs = dict(models) if isinstance(models, Mapping) else region_models(models)
    specs = {r: s for r, s in specs.items() if r in set(grid.all_regions())}
    elements = _check_models(ds, grid, specs)
    lazy = ds["feature"].chunks is not None
    plan = _Plan(grid, specs, _margin(grid, specs, margin), max_distance, len(elements))
    arrays = {n: ds[n].transpose(..., "lat", "lon").data for n in ("feature", "mare", "abundance")}
    build = _lazy if lazy else _eager
    mean, std, distance = build(plan, arrays)
    coords = {k: v for k, v in ds.coords.items() if set(v.dims) <= {"lat", "lon"}}
    result = xr.Dataset(
        {
            "abundance": (
                ("element", "lat", "lon"),
                mean,
                {"units": "wt%", "long_name": "abundance of the element"},
            ),
            "abundance_std": (
                ("element", "lat", "lon"),
                std,
                {"units": "wt%", "long_name": "uncertainty of the abundance (1 sigma)"},
            ),
            "distance": (
                ("lat", "lon"),
                distance,
                {"units": "km", "long_name": "distance to the nearest populated pixel"},
            ),
        },
        {**coords, "element": list(elements)},
        {"grid": grid.to_json(), **{k: v for k, v in ds.attrs.items() if k == "source"}},
    )
    digest = ",".join(s.sha256[:12] for s in specs.values())
    return stamp(result, f"superresolve(regions={len(specs)})", model_sha256=digest)


def _check_models(
    ds: xr.Dataset, grid: GIBGrid, specs: Mapping[tuple[int, int], ModelSpec]
) -> tuple[str, ...]:
    """Elements of models that fit a store and each other."""
    from lunarray.superres.training import read_region_header

    elements: tuple[str, ...] = ()
    for region, spec in specs.items():
        header = read_region_header(spec.weights)
        own = tuple(header["elements"])
        elements = elements or own
        faults = {
            f"elements {', '.join(own)} and {', '.join(elements)}": own != elements,
            f"{header['features']} surface features, the store has {ds.sizes['feature']}": (
                header["features"] != ds.sizes["feature"]
            ),
            "another grid than the store's": header["grid"] not in ("", grid.to_json()),
            "surface features of another feature model than the store's": (
                header["feature_model"] != ds.attrs.get("feature_model", "")
            ),
            f"made for region {tuple(header['region'])}, not {region}": (
                tuple(header["region"]) != region
            ),
        }
        for fault, wrong in faults.items():
            if wrong:
                raise ModelError(fault, where=spec.weights, remedy="Train on this store")
    if not elements:
        raise ModelError(
            "no model of any region of this grid", where="superresolve", remedy="Train some"
        )
    return elements


def _margin(grid: GIBGrid, specs: Mapping[tuple[int, int], ModelSpec], margin: int | None) -> int:
    from lunarray.superres.training import TrainSettings, read_region_header

    most = min(grid.shape) // 2
    if margin is None:
        first = next(iter(specs.values()))
        margin = TrainSettings.from_json(read_region_header(first.weights)["settings"]).stride
    elif margin < 0:
        raise InputError(f"a margin of {margin}", where="margin", remedy="Give 0 or more")
    return min(margin, most)


class _Plan:
    """Where each region's prediction lies and how much it counts there."""

    def __init__(
        self,
        grid: GIBGrid,
        specs: Mapping[tuple[int, int], ModelSpec],
        margin: int,
        max_distance: float | None,
        outputs: int,
    ) -> None:
        self.grid, self.specs, self.margin, self.outputs = grid, specs, margin, outputs
        self.max_distance = max_distance

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
        width = self.grid.size[1]
        pieces = [
            array[..., top:bottom, max(left, t * width) - t * width : min(right, (t + 1) * width) - t * width]
            for t in (-1, 0, 1)
            if max(left, t * width) < min(right, (t + 1) * width)
        ]  # fmt: skip
        if len(pieces) == 1:
            return pieces[0]
        if hasattr(array, "dask"):
            import dask.array as da

            return da.concatenate(pieces, axis=-1)
        return np.concatenate(pieces, axis=-1)

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
    plan: _Plan, region: tuple[int, int], feature: np.ndarray, mare: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a region and its margin by its own network."""
    trained = cast(Any, plan.specs[region].load())
    lat, lon = plan.places(region)
    mean, variance = predict_region(trained, lat, lon, np.asarray(feature), np.asarray(mare))
    return mean, variance + (trained.residual**2)[:, None, None]


def _known(abundance: np.ndarray, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Directions of populated pixels, (pixel, 3)."""
    row, column = np.nonzero(np.isfinite(abundance).any(axis=0))
    phi, lam = np.deg2rad(lat[row]), np.deg2rad(lon[column])
    return np.column_stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])


def _combine(
    plan: _Plan,
    region: tuple[int, int],
    fields: Mapping[tuple[int, int], _Field],
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


def _eager(plan: _Plan, arrays: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, size = plan.outputs, plan.grid.size
    whole = np.empty((2 * n + 1, *size), np.float32)
    fields = {
        r: _predict(plan, r, plan.cut(arrays["feature"], r), plan.cut(arrays["mare"], r))
        for r in plan.specs
    }
    known = [_known(arrays["abundance"], plan.grid.lat(), plan.grid.lon())]
    for region in plan.grid.all_regions():
        own = {r: fields[r] for r in plan.sources(region)}
        whole[(slice(None), *plan.grid.slices(*region))] = _combine(plan, region, own, known)
    return whole[:n], whole[n : 2 * n], whole[2 * n]


def _lazy(plan: _Plan, arrays: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    import dask
    import dask.array as da

    n, grid = plan.outputs, plan.grid
    predict, combine = dask.delayed(_predict, pure=False), dask.delayed(_combine, pure=False)
    find = dask.delayed(_known, pure=False)
    fields = {
        r: predict(plan, r, plan.cut(arrays["feature"], r), plan.cut(arrays["mare"], r))
        for r in plan.specs
    }
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
    whole = da.block(blocks)
    return whole[:n], whole[n : 2 * n], whole[2 * n]
