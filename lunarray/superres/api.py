"""What is done with a whole Global Information Bank: features filled, networks trained and updated, maps predicted."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from lunarray.engine.execution import current_client
from lunarray.engine.files import local_path
from lunarray.engine.models import Device, Model, ModelSpec
from lunarray.engine.progress import progress_bar
from lunarray.engine.training import Checkpoint
from lunarray.errors import InputError, LunarrayWarning, StoreConflictError, WrongKindError
from lunarray.store.provenance import stamp as stamped
from lunarray.superres.areal import ArealSettings
from lunarray.superres.areal_bank import FILE, read_areal_header, train_bank
from lunarray.superres.backbone import Backbone
from lunarray.superres.choice import elements_of, margin_of, method_of, specs_of, warn_of_older
from lunarray.superres.feature_makers import feature_maker
from lunarray.superres.feature_tiles import WINDOW
from lunarray.superres.features import Mode
from lunarray.superres.footprints import as_footprints, touched_regions
from lunarray.superres.gib import (
    gib_grid,
    open_gib,
    require_feature_model,
    require_parts,
    write_region,
)
from lunarray.superres.gib_layout import STATE_FLAGS, content_ids, meta_of
from lunarray.superres.gib_table import gib_footprints
from lunarray.superres.population import populate
from lunarray.superres.prediction import Plan
from lunarray.superres.regions import region_data
from lunarray.superres.settings import TrainSettings
from lunarray.superres.trained import (
    model_path,
    read_region_header,
    save_region_model,
)
from lunarray.typing import typed
from lunarray.units import WEIGHT

if TYPE_CHECKING:
    from lunarray.superres.training import Report


def fill_features(
    path: str | os.PathLike[str],
    basemap: xr.DataArray | None = None,
    weights: str | os.PathLike[str] | Backbone | None = None,
    *,
    maps: Mapping[str, xr.DataArray] | None = None,
    regions: Iterable[tuple[int, int]] | None = None,
    select: Sequence[int] | np.ndarray | None = None,
    mode: Mode = "dense",
    window_km: float = WINDOW,
    value_range: tuple[float, float] | None = None,
    device: Device = "auto",
    progress: bool | None = None,
    **options: Any,
) -> list[tuple[int, int]]:
    """Fill the surface features of a Global Information Bank, region by region; go on where it was interrupted.

    Features are means, slopes and spreads of maps at several scales (`maps`, or `basemap` without weights), or what a
    ResNet50 sees in a base map (`basemap` and `weights`).

    Parameters
    ----------
    path : path
        The store that :func:`lunarray.superres.create_gib` made.
    basemap : DataArray, optional
        Image of the surface: for a network as in :func:`surface_features`, else the same as
        ``maps={"basemap": basemap}``.
    weights : path, "torchvision", "random" or Backbone, optional
        Of the network, as there. Random ones tell less than the maps of the same image.
    maps : mapping of str to DataArray, optional
        Rasters of any kind and any grid, by name: albedo, colour, heights, oxide maps. One with bands or oxides is a
        map each. The logarithm of an albedo follows composition more closely than albedo does.
    regions : iterable of (int, int), optional
        Regions to fill; all by default. Those that have features (of the same maps or weights) are passed over.
    select : sequence of int, optional
        The features to keep of a network's, as many as the store has. By default those that :func:`select_features`
        chooses by variance on the first region to be filled; a store begun earlier keeps its own.
    mode : {"dense", "patch"}
        As there.
    window_km : float
        Side of the square around a pixel (km), for a network.
    value_range : (float, float), optional
        Values of the base map that are black and white for a network; by default those of a store begun earlier, else
        as there, of the whole map.
    device : {"auto", "cpu", "cuda"}
        Where the network runs.
    progress : bool, optional
        Show a progress bar; by default where standard error is a terminal.
    **options : Any
        With maps ``scales`` and ``textures``, the standard deviations (km) of the Gaussians that weigh means, and
        slopes and spreads; with a network further options of :func:`surface_features`.

    Returns
    -------
    list of (int, int)
        Regions that were filled now.

    Raises
    ------
    ModelError
        The store's features come from other weights, another mode or selection, other maps or scales.
    CoverageError
        A map does not cover a region; nothing has been written then.
    InputError
        Neither a base map nor maps, or both; `select` is not as long as the store's features.

    Notes
    -----
    A network's values are scaled by `value_range` of the whole base map, so that all regions see the same grey. The
    store says what its features are: the attribute ``feature_model`` of the open bank is a card with network, weights,
    mode, window and selection, or with maps and scales; they must be the same when more regions are filled.

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid)
    >>> done = sr.fill_features("bank.zarr", maps={"albedo": la.sample("albedo")})
    >>> sr.open_gib("bank.zarr").sizes["feature"] > 1
    True
    """
    ds = open_gib(path, incomplete=True)
    grid, meta = gib_grid(ds), meta_of(path)
    wanted = grid.existing(grid.all_regions() if regions is None else regions)
    there = ds["state"].values & STATE_FLAGS["features"]
    todo = [region for region in dict.fromkeys(wanted) if not there[region]]
    network = {
        "select": select,
        "mode": mode,
        "window_km": window_km,
        "value_range": value_range,
        "device": device,
    }
    maker = feature_maker(grid, meta, basemap, weights, maps, network, **options)
    # Also where nothing is left to fill: who gives other maps would take the old features for those of the new ones.
    require_feature_model(path, maker.card)
    for region in todo:
        maker.require(region)
    with progress_bar("Surface features", len(todo), show=progress) as advance:
        for region in todo:
            values = maker(region)
            write_region(path, region, feature=values, feature_model=maker.card)
            advance()
    return todo


def train_gib(
    path: str | os.PathLike[str],
    models: str | os.PathLike[str],
    settings: ArealSettings | TrainSettings | None = None,
    *,
    method: Literal["areal", "network"] | None = None,
    regions: Iterable[tuple[int, int]] | None = None,
    overwrite: bool = False,
    compute: bool = True,
    device: Device = "auto",
    progress: bool | None = None,
    report: Report | None = None,
) -> list[Any]:
    """Train the predictor of element maps of a Global Information Bank: an areal Gaussian process, or networks.

    Parameters
    ----------
    path : path-like
        The store; every worker must see it.
    models : path-like
        Folder for the model, or for the networks, a file a region; every worker must see it. Checkpoints lie there too:
        the same call completes an interrupted one.
    settings : ArealSettings or TrainSettings, optional
        How; those of `method` by default.
    method : {"areal", "network"}, optional
        One areal Gaussian process from the footprints of all regions together, by default, or, by default where there
        are TrainSettings, the paper's networks, each from its own region alone.
    regions : iterable of tuple of 2 int, optional
        Which; by default all that hold features, mare class and abundances.
    overwrite : bool
        Train regions anew whose networks are there and of other data or settings. Those of the same are kept always.
    compute : bool
        Train now: on the workers of the Dask client that is active, or else one region after another. False gives Dask
        Delayed objects, for a scheduler of your choice.
    device : {"auto", "cpu", "cuda"}
        Where to train; "auto" takes a GPU in each process that sees one.
    progress : bool, optional
        Show a bar for each region; by default where standard error is a terminal. Workers show none.
    report : callable, optional
        As in :func:`lunarray.superres.training.train_region`; not with workers in other processes.

    Returns
    -------
    list
        Path of the model, or of each region's networks; or Delayed objects that give them.

    Raises
    ------
    StoreConflictError
        If a region's networks are there, of other data or settings, and `overwrite` is not set.
    InputError
        If no region can be trained, or one that was asked for.

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid)
    >>> done = sr.fill_features("bank.zarr", maps={"albedo": la.sample("albedo")})
    >>> done = sr.classify_mare("bank.zarr", albedo=la.sample("albedo"))
    >>> done = sr.populate("bank.zarr", la.sample("tracks"), outside="skip")
    >>> trained = sr.train_gib("bank.zarr", "models")
    """
    import dask

    method, settings = method_of(method, settings)
    ds = open_gib(path)
    if regions is None:
        state = ds["state"].values
        reached = set(touched_regions(gib_footprints(path), gib_grid(ds)))
        wanted = [r for r in gib_grid(ds).all_regions() if state[r] == 7 and r in reached]
    else:
        wanted = gib_grid(ds).existing(regions)
        for part in STATE_FLAGS:
            require_parts(ds, wanted, part)
    if not wanted:
        raise InputError(
            "no region holds features, mare class and abundances",
            where=path,
            remedy="Write features and populate the store first",
        )
    local_path(models).mkdir(parents=True, exist_ok=True)
    if isinstance(settings, ArealSettings):
        areal = os.fspath(path), os.fspath(models), settings, tuple(wanted), overwrite
        lazy = dask.delayed(train_bank, pure=False)(*areal)
        return [train_bank(*areal)] if compute else [lazy]
    common = os.fspath(path), os.fspath(models), settings, overwrite, device
    workers = current_client() is not None
    if compute and not workers:
        return [_train_one(region, *common, progress, report) for region in wanted]
    task = dask.delayed(_train_one, pure=False)
    tasks = [task(region, *common, False, report) for region in wanted]
    return list(dask.compute(*tasks)) if compute else tasks


def _train_one(
    region: tuple[int, int],
    path: str,
    models: str,
    settings: TrainSettings,
    overwrite: bool,
    device: Device,
    progress: bool | None,
    report: Report | None,
) -> Path:
    from lunarray.superres.training import stamp, train_region

    target = model_path(models, region)
    ds = open_gib(path)
    data = region_data(ds, region)
    digest = data.digest()
    if target.exists():
        header = read_region_header(target)
        if header["data_digest"] == digest and header["settings"] == settings.to_json():
            return target
        if not overwrite:
            raise StoreConflictError(
                "networks of other data or settings are there",
                where=target,
                remedy="Train into another folder, or give overwrite=True",
            )
    checkpoint = Checkpoint(target.with_suffix(".checkpoint"), stamp(digest, settings))
    if overwrite:
        try:
            checkpoint.load()
        except StoreConflictError:
            checkpoint.remove()
    trained = train_region(
        data, settings, checkpoint=checkpoint.path, device=device, progress=progress, report=report
    )
    if trained is None:  # only with stop_after
        raise InputError("training was stopped", where=target, remedy="Call it again")
    trained.grid = ds.attrs["grid"]
    trained.feature_model = ds.attrs.get("feature_model", "")
    trained.bank = content_ids(local_path(path), [region])[region]
    save_region_model(target, trained)
    checkpoint.remove()
    if trained.held_out and not trained.held_out["learnt"]:
        told = "{relative:.3f} against {mare_mean:.3f}".format(**trained.held_out)
        warnings.warn(
            LunarrayWarning(
                f"region {region}: nothing was learnt. Footprints of tracks that were held out are predicted no better "
                f"than by the mean of mare and of highland ({told} of their spread)"
            ),
            stacklevel=2,
        )
    return target


@dataclass(frozen=True)
class Updated:
    """What an update did: how many footprints it `added`, and which `regions` it populated and trained anew.

    `models` are the files of their networks.
    """

    added: int
    regions: tuple[tuple[int, int], ...]
    models: tuple[Path, ...]


def update_gib(
    path: str | os.PathLike[str],
    models: str | os.PathLike[str],
    footprints: xr.Dataset,
    settings: ArealSettings | TrainSettings | None = None,
    *,
    device: Device = "auto",
    progress: bool | None = None,
    **options: Any,
) -> Updated:
    """Add footprints to a Global Information Bank, and retrain the regions that they touch.

    Parameters
    ----------
    path : path-like
        The store.
    models : path-like
        Folder of the regions' networks.
    footprints : Dataset
        As :func:`lunarray.superres.as_footprints` takes them.
    settings : ArealSettings or TrainSettings, optional
        Those of the first training, for the same result as starting over; by default those in the files of models.
    device : {"auto", "cpu", "cuda"}
        Where to train.
    progress : bool, optional
        Show progress bars; by default where standard error is a terminal.
    **options
        Passed to :func:`lunarray.superres.populate`.

    Returns
    -------
    Updated

    Notes
    -----
    Training is a function of a region's content, settings and seed. Population by region is that of all footprints in
    their order. The result therefore equals, to the bit, starting over with all footprints in the order in which they
    were added. An interrupted update is completed by the same call.

    References
    ----------
    The paper, section IV.C.2: the dynamic nature of the algorithm.

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid)
    >>> done = sr.fill_features("bank.zarr", maps={"albedo": la.sample("albedo")})
    >>> done = sr.classify_mare("bank.zarr", albedo=la.sample("albedo"))
    >>> done = sr.populate("bank.zarr", la.sample("tracks"), outside="skip")
    >>> trained = sr.train_gib("bank.zarr", "models")
    >>> more = la.sample("tracks").isel(footprint=slice(0, 5))
    >>> updated = sr.update_gib("bank.zarr", "models", more)
    """
    checked = as_footprints(footprints, errors=options.get("errors", "raise"))
    ds = open_gib(path, incomplete=True)
    touched = touched_regions(checked, gib_grid(ds))
    # Before anything is written: a region that cannot be trained must not be left populated and untrained.
    require_parts(ds, touched, "features")
    areal = Path(models) / FILE
    if settings is None and areal.is_file():
        settings = ArealSettings.from_json(read_areal_header(areal)["settings"])
    if settings is None:
        known = sorted(Path(models).glob("region_*.safetensors"))
        settings = (
            TrainSettings.from_json(read_region_header(known[0])["settings"])
            if known
            else ArealSettings()
        )
    done = populate(path, footprints, progress=progress, **options)
    if not touched:
        return Updated(done.added, (), ())
    files = train_gib(
        path,
        models,
        settings,
        regions=None if isinstance(settings, ArealSettings) else touched,
        overwrite=True,
        device=device,
        progress=progress,
    )
    return Updated(done.added, tuple(touched), tuple(files))


@typed
def superresolve(
    ds: xr.Dataset,
    models: str | os.PathLike[str] | ModelSpec | Model | Mapping[tuple[int, int], ModelSpec],
    *,
    margin: int | None = None,
    max_distance: float | None = 150_000.0,
    device: Device = "auto",
) -> xr.Dataset:
    """Predict the elements of every pixel of a Global Information Bank.

    Parameters
    ----------
    ds : Dataset
        Of :func:`lunarray.superres.open_gib`: surface features, mare class, and populated pixels for the mask.
    models : path-like, str, ModelSpec, Model or mapping
        Folder that :func:`train_gib` filled: an areal Gaussian process or the regions' networks. Or what
        :func:`lunarray.superres.trained.region_models` gives. Or one model of another library for all pixels, from the
        features of a pixel to its elements: a regressor by
        ``lunarray.engine.from_sklearn(..., inputs=Maps(), outputs=("Fe", "Ti"))``, a network by
        :func:`lunarray.engine.from_torch` or :func:`lunarray.engine.from_onnx`, or the name of a model of an installed
        package. It is asked pixel by pixel, and what it gives is taken as it is.
    margin : int, optional
        Pixels that a network predicts beyond its region, over which it is blended with its neighbours'; by default the
        stride of its training, and half a region at most.
    max_distance : float or None
        Metres; pixels farther from any populated one are masked. None masks nothing.
    device : {"auto", "cpu", "cuda"}
        Where the networks run; "auto" takes a GPU in each process that sees one. Specs of models say it themselves.

    Returns
    -------
    Dataset
        ``abundance`` and ``abundance_std`` (element, lat, lon), wt%, float32, NaN where a region has no network, a
        pixel no features, or nothing is known nearby; ``distance`` (lat, lon), km, to the nearest populated pixel.
        Lazy where `ds` is, in blocks of a region; the numbers do not depend on chunks.

    Raises
    ------
    ModelError
        If there are no models, they are of other elements, features or another grid, or take no maps.
    InputError
        If `ds` lacks surface features.
    WrongKindError
        If `ds` is no Dataset, such as the path of a bank.

    Notes
    -----
    The uncertainty of an areal Gaussian process is the posterior standard deviation of a pixel, widened where tracks
    that were held out say so. Of networks it is the root of the sum of two squares: how far the members of the ensemble
    and the overlapping sub-regions disagree, and the misfit of the network at what it was trained on. It knows nothing
    of errors that all
    members share, such as a bias of the instrument. Of another model it is what that says (outputs ``Fe_std``), or NaN.

    References
    ----------
    The paper, section IV.B.3 (overlapping subgraphs) and IV.C.3.

    Examples
    --------
    >>> import lunarray as la
    >>> import lunarray.superres as sr
    >>> grid = sr.GIBGrid((1, 1), (20, 30), (-70.0, 5.0, -40.0, 25.0))
    >>> bank = sr.create_gib("bank.zarr", grid)
    >>> done = sr.fill_features("bank.zarr", maps={"albedo": la.sample("albedo")})
    >>> done = sr.classify_mare("bank.zarr", albedo=la.sample("albedo"))
    >>> done = sr.populate("bank.zarr", la.sample("tracks"), outside="skip")
    >>> trained = sr.train_gib("bank.zarr", "models")
    >>> maps = sr.open_gib("bank.zarr").lunar.superresolve("models")
    >>> maps["abundance"].dims
    ('element', 'lat', 'lon')
    """
    _require_bank(ds)
    grid = gib_grid(ds)
    if (ds.sizes["lat"], ds.sizes["lon"]) != grid.size:
        raise InputError(
            f"{ds.sizes['lat']} × {ds.sizes['lon']} pixels on a grid of {grid.size[0]} × {grid.size[1]}",
            where="superresolve",
            remedy="Give the whole of the Global Information Bank, and cut the result",
        )
    specs = specs_of(models, grid, device)
    elements = elements_of(ds, grid, specs)
    warn_of_older(ds, specs)
    plan = Plan(grid, specs, margin_of(grid, specs, margin), max_distance, len(elements))
    arrays = {n: ds[n].transpose(..., "lat", "lon").data for n in ("feature", "mare", "abundance")}
    mean, std, distance = plan.predict(arrays)
    coords = {k: v for k, v in ds.coords.items() if set(v.dims) <= {"lat", "lon"}}
    variables = {
        name: (
            ("element", "lat", "lon")[-values.ndim :],
            values,
            {"units": units, "long_name": text},
        )
        for name, values, units, text in (
            ("abundance", mean, WEIGHT, "abundance of the element"),
            ("abundance_std", std, WEIGHT, "uncertainty of the abundance (1 sigma)"),
            ("distance", distance, "km", "distance to the nearest populated pixel"),
        )
    }
    result = xr.Dataset(
        variables,
        {**coords, "element": list(elements)},
        {"grid": grid.to_json(), **{k: v for k, v in ds.attrs.items() if k == "source"}},
    )
    digest = ",".join(dict.fromkeys(s.sha256[:12] for s in specs.values()))
    return stamped(result, f"superresolve(regions={len(specs)})", model_sha256=digest)


def _require_bank(ds: Any) -> None:
    """Refuse what is no open bank."""
    if not isinstance(ds, xr.Dataset):
        path = f"({os.fspath(ds)!r})" if isinstance(ds, str | os.PathLike) else ""
        raise WrongKindError(
            f"a {type(ds).__name__} is no open bank",
            where="superresolve",
            remedy=f"Open it first: lunarray.superres.open_gib{path}",
        )
    for name in ("feature", "mare", "abundance"):
        if name not in ds:
            raise InputError(
                f"no variable {name}",
                where="superresolve",
                remedy="Give what lunarray.superres.open_gib gives",
            )
