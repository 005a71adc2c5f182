"""Which model predicts which region of a bank, and whether it fits: the regions' own networks, or one of a user's."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import xarray as xr

from lunarray.engine.models import Device, Maps, Model, ModelSpec
from lunarray.engine.registry import find_model
from lunarray.errors import InputError, LunarrayWarning, ModelError, require_choice
from lunarray.superres.areal import ArealSettings
from lunarray.superres.areal_bank import FILE, areal_spec, digest_of, read_areal_header
from lunarray.superres.areal_bank import LOADER as AREAL
from lunarray.superres.gib import open_gib
from lunarray.superres.gib_layout import content_ids
from lunarray.superres.gib_table import gib_footprints
from lunarray.superres.settings import TrainSettings
from lunarray.superres.trained import LOADER, read_region_header, region_models

if TYPE_CHECKING:
    from lunarray.superres.grid import GIBGrid

#: Pixels that an areal model predicts beyond a region. Neighbours differ only in which footprints they take exactly.
AREAL_MARGIN = 8

Method = Literal["areal", "network"]
Specs = Mapping[tuple[int, int], ModelSpec]


def method_of(
    method: Method | None, settings: ArealSettings | TrainSettings | None
) -> tuple[Method, ArealSettings | TrainSettings]:
    """Which method, and how; InputError if they do not go together."""
    if method is None:
        method = "network" if isinstance(settings, TrainSettings) else "areal"
    require_choice("method", method, ("areal", "network"))
    kind = ArealSettings if method == "areal" else TrainSettings
    if settings is not None and not isinstance(settings, kind):
        raise InputError(
            f"{type(settings).__name__} for the method {method!r}",
            where="settings",
            remedy=f"Give {kind.__name__}, or another method",
        )
    return method, kind() if settings is None else settings


def specs_of(
    models: str | os.PathLike[str] | ModelSpec | Model | Specs, grid: GIBGrid, device: Device
) -> Specs:
    """Models by region: those of a mapping or a folder, or one for all of the grid."""
    regions = list(grid.all_regions())
    if isinstance(models, Mapping):
        return {r: s for r, s in models.items() if r in regions}
    if isinstance(models, (str, os.PathLike)):
        folder = Path(models)
        if not folder.exists() and folder.name != os.fspath(models):
            raise ModelError(
                "no models: there is no such folder",
                where=models,
                remedy="Train some: lunarray gib train",
            )
    if not (isinstance(models, (str, os.PathLike)) and Path(models).is_dir()):
        save = "lunarray.superres.train_gib"
        models = find_model(models, Maps, "superresolve", save=save, device=device)
        if isinstance(models, ModelSpec):
            return dict.fromkeys(regions, models)
    if (Path(cast(str, models)) / FILE).is_file():
        own = areal_spec(cast(str, models), device)
        trained = read_areal_header(own.weights).get("regions")
        chosen = regions if trained is None else [tuple(r) for r in trained]
        return {r: own for r in regions if r in chosen}
    return {
        r: s
        for r, s in region_models(cast(str | os.PathLike[str], models), device).items()
        if r in regions
    }


def elements_of(ds: xr.Dataset, grid: GIBGrid, specs: Specs) -> tuple[str, ...]:
    """Elements of models that fit a bank and each other; ModelError if they do not."""
    elements: tuple[str, ...] = ()
    kinds = {LOADER: _of_region, AREAL: _of_region}
    for region, spec in specs.items():
        own, faults = kinds.get(spec.loader, _of_pixels)(ds, grid, region, spec)
        elements = elements or own
        faults = {f"elements {', '.join(own)} and {', '.join(elements)}": own != elements, **faults}
        for fault, wrong in faults.items():
            if wrong:
                remedy = "Train on this store" if spec.loader in kinds else _PIXELS
                raise ModelError(fault, where=spec.weights, remedy=remedy)
    if not elements:
        raise ModelError(
            "no model of any region of this grid", where="superresolve", remedy="Train some"
        )
    return elements


def warn_of_older(ds: xr.Dataset, specs: Specs) -> None:
    """LunarrayWarning where models were trained on something else than the bank holds now, as before an update."""
    source = ds.encoding.get("source")
    if source is None or not Path(source).is_dir():
        return
    older: list[tuple[int, int]] = []
    areal = {s.weights: s for s in specs.values() if s.loader == AREAL}
    for spec in areal.values():
        header = read_areal_header(spec.weights)
        regions = [(int(i), int(j)) for i, j in header.get("regions") or specs]
        now = open_gib(source, incomplete=True)
        table = gib_footprints(source, incomplete=True)
        if header.get("data_digest", now) != digest_of(table, now, regions):
            older += [r for r in specs if specs[r] == spec]
    networks = [r for r, s in specs.items() if s.loader == LOADER]
    ids = content_ids(Path(source), networks)
    for region in networks:
        trained = read_region_header(specs[region].weights).get("bank")
        if trained and tuple(trained) != ids[region]:
            older.append(region)
    if older:
        number = f"region {older[0]}" + (f" and {len(older) - 1} more" if len(older) > 1 else "")
        warnings.warn(
            LunarrayWarning(
                f"{number}: the model was trained on other footprints, features or mare classes than the bank holds "
                "now. Train it again: lunarray gib train --overwrite"
            ),
            stacklevel=3,
        )


_PIXELS = (
    "A model of pixels takes the features of the store, inputs=Maps(), and names the elements that it gives, "
    "outputs=('Fe', 'Ti'), and where it knows them their standard deviations, all of them: ('Fe_std', 'Ti_std')"
)


def _of_pixels(
    ds: xr.Dataset, grid: GIBGrid, region: tuple[int, int], spec: ModelSpec
) -> tuple[tuple[str, ...], dict[str, bool]]:
    names = () if isinstance(spec.outputs, int) else spec.outputs
    own = tuple(name for name in names if not name.endswith("_std"))
    wanted = spec.inputs.names if isinstance(spec.inputs, Maps) else ()
    there = ds.sizes["feature"]
    return own, {
        "it does not name what it gives": not own,
        f"it gives {', '.join(names)}": set(names) - set(own)
        not in (set(), {f"{n}_std" for n in own}),
        f"{len(wanted)} features, the store has {there}": bool(wanted) and len(wanted) != there,
    }


def _of_region(
    ds: xr.Dataset, grid: GIBGrid, region: tuple[int, int], spec: ModelSpec
) -> tuple[tuple[str, ...], dict[str, bool]]:
    areal = spec.loader == AREAL
    header = (read_areal_header if areal else read_region_header)(spec.weights)
    return tuple(header["elements"]), {
        f"{header['features']} surface features, the store has {ds.sizes['feature']}": (
            header["features"] != ds.sizes["feature"]
        ),
        "another grid than the store's": header["grid"] not in ("", grid.to_json()),
        "surface features of another feature model than the store's": (
            header["feature_model"] != ds.attrs.get("feature_model", "")
        ),
        f"made for region {header.get('region')}, not {region}": (
            not areal and tuple(header["region"]) != region
        ),
    }


def margin_of(grid: GIBGrid, specs: Specs, margin: int | None) -> int:
    """Pixels that models predict beyond their region: none for a model of pixels, unless it is asked for."""
    most = min(grid.shape) // 2
    if margin is None:
        first = next(iter(specs.values()))
        if first.loader == AREAL:
            return min(AREAL_MARGIN, most)
        if first.loader != LOADER:
            return 0
        margin = TrainSettings.from_json(read_region_header(first.weights)["settings"]).stride
    elif margin < 0:
        raise InputError(f"a margin of {margin}", where="margin", remedy="Give 0 or more")
    return min(margin, most)
