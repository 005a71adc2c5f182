"""Areal Gaussian processes of a Global Information Bank: made of all of its regions, as files, and region by region."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.engine.models import Device, ModelSpec
from lunarray.engine.weights import WeightsFormat
from lunarray.errors import InputError, ModelError, StoreConflictError
from lunarray.superres.areal import ArealModel, ArealSettings, Basis, Footprints, Member
from lunarray.superres.areal_fit import fit_areal, footprint_predictions
from lunarray.superres.areal_kernels import places
from lunarray.superres.areal_mixing import Closure, Mixing
from lunarray.superres.support import support_of
from lunarray.superres.tracks import track_numbers

if TYPE_CHECKING:
    import xarray as xr

    from lunarray.superres.grid import GIBGrid

LOADER = "lunarray.superres.areal_bank:load_areal"
#: Name of the file in the folder of models.
FILE = "areal.safetensors"
_FORMAT = WeightsFormat(
    "lunarray.superres.ArealModel", "Train with this lunarray", required=("settings", "elements")
)
_TABLES = ("scale", "share", "factor")
_OF_MEMBER = ("values", "logs", "weights", "flat")
#: Side of a window of pixels and step to the next, where not all footprints are taken exactly.
_WINDOW, _STRIDE = 128, 96
#: Pixels whose design is held at a time.
_PIXELS = 32_768
#: Of the pixels of a region, one in so many along each side tells the means and spreads of features.
_SAMPLE = 4

#: A region: latitudes, longitudes, features (feature, row, column) and mare class (row, column).
Ground = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def model_of_ground(
    ground: Iterable[Ground] | Any,
    footprints: xr.Dataset,
    settings: ArealSettings,
    *,
    calibrate: bool = True,
) -> ArealModel:
    """Fit an areal Gaussian process to footprints over regions.

    Parameters
    ----------
    ground : callable or list of tuple
        The regions, or a function that gives them: they are gone through twice.
    footprints : Dataset
        As :func:`lunarray.superres.as_footprints` gives them.
    settings : ArealSettings
        How.
    calibrate : bool
        Whether standard deviations are held against tracks that are held out.

    Returns
    -------
    ArealModel
        Its card says how many footprints were of use. Elements that no footprint knows are left out.
    """
    again = ground if callable(ground) else lambda: ground
    known = np.isfinite(footprints["abundance"].transpose("footprint", "element").values).any(
        axis=0
    )
    footprints = footprints.isel(element=known)
    elements = tuple(str(e) for e in footprints["element"].values)
    basis = _basis(again(), settings)
    table, rows = footprint_table(again(), footprints, basis)
    if not len(rows):
        raise InputError(
            "no footprint lies where there are features",
            where="areal model",
            remedy="Write features where footprints are",
        )
    return fit_areal(table, elements, basis, settings, calibrate=calibrate)


def _basis(ground: Iterable[Ground], settings: ArealSettings) -> Basis:
    """Means and spreads of features over all regions, by area."""
    total, first, second = 0.0, 0.0, 0.0
    for lat, _, features, _ in ground:
        part = features[:, ::_SAMPLE, ::_SAMPLE].astype(np.float64)
        area = np.repeat(np.cos(np.deg2rad(lat[::_SAMPLE])), part.shape[2])
        part = part.reshape(len(part), -1)
        good = np.isfinite(part).all(axis=0)
        total += area[good].sum()
        first = first + part[:, good] @ area[good]
        second = second + part[:, good] ** 2 @ area[good]
    if not total:
        raise InputError(
            "no pixel has surface features", where="areal model", remedy="Write features first"
        )
    mean = np.asarray(first / total)
    return Basis.drawn(mean, np.sqrt(np.maximum(second / total - mean**2, 0)), settings)


def footprint_table(
    ground: Iterable[Ground], footprints: xr.Dataset, basis: Basis
) -> tuple[Footprints, np.ndarray]:
    """Means over footprints of what `basis` gives, summed over regions; and which footprints of the table these are.

    Footprints of which less than half lies where features are, are left out.
    """
    import scipy.sparse

    count = footprints.sizes["footprint"]
    width = basis.linear + len(basis.phases)
    design, area, valid = np.zeros((count, width)), np.zeros(count), np.zeros(count)
    corner_lat = footprints["corner_lat"].values
    low, high = corner_lat.min(axis=1), corner_lat.max(axis=1)
    for lat, lon, features, mare in ground:
        step = abs(lat[0] - lat[-1]) / max(len(lat) - 1, 1)
        # Over a pole, edges reach farther than corners.
        near = (low <= lat.max() + step) & (high >= lat.min() - step) | (
            np.abs(corner_lat).max(axis=1) > 80
        )
        index = np.flatnonzero(near)
        support = support_of(footprints.isel(footprint=index), lat, lon, least=0.0)
        if not support.count:
            continue
        pixels, entry = np.unique(support.pixel, return_inverse=True)
        flat = features.reshape(len(features), -1)[:, pixels].T.astype(np.float64)
        good = np.asarray(np.isfinite(flat).all(axis=1))
        own = index[support.number[support.footprint]]
        weight = np.cos(np.deg2rad(lat))[support.pixel // len(lon)]
        area += np.bincount(own, weight, count)
        seen = good[entry]
        valid += np.bincount(own[seen], weight[seen], count)
        shares = scipy.sparse.csc_matrix(
            (weight[seen], (own[seen], entry[seen])), (count, len(pixels))
        )
        for start in range(0, len(pixels), _PIXELS):
            part = slice(start, start + _PIXELS)
            phi = basis.of(flat[part], mare.reshape(-1)[pixels[part]])
            design += shares[:, part] @ np.where(good[part, None], phi, 0)
    whole = _areas(footprints)
    step_area = area / np.maximum(whole, 1e-12)
    full = np.median(step_area[step_area > 0]) if (step_area > 0).any() else 1.0
    measured = footprints["abundance"].transpose("footprint", "element").values.astype(np.float64)
    error = footprints["abundance_std"].transpose("footprint", "element").values.astype(np.float64)
    usable = (valid > 0.5 * full * whole) & np.isfinite(measured).any(axis=1)
    rows = np.flatnonzero(usable)
    return (
        Footprints(
            design[rows] / valid[rows, None],
            corner_lat[rows],
            footprints["corner_lon"].values[rows],
            track_numbers(footprints)[rows].astype(np.int64),
            measured[rows],
            np.where(error > 0, error, np.nan)[rows],
        ),
        rows,
    )


def _areas(footprints: xr.Dataset) -> np.ndarray:
    """Areas of footprints, of one unit."""
    from lunarray.geo import unit_vectors

    v = unit_vectors(footprints["corner_lon"].values, footprints["corner_lat"].values)
    return 0.5 * np.linalg.norm(np.cross(v[:, 2] - v[:, 0], v[:, 3] - v[:, 1]), axis=1)


def ground_of(ds: xr.Dataset, regions: Iterable[tuple[int, int]]) -> Iterator[Ground]:
    """Regions of a bank that is open, one after another."""
    from lunarray.superres.gib import gib_grid

    grid: GIBGrid = gib_grid(ds)
    for region in regions:
        rows, columns = grid.slices(*region)
        part = ds[["feature", "mare"]].isel(lat=rows, lon=columns).compute()
        yield (
            grid.lat(region[0]),
            grid.lon(region[1]),
            part["feature"].transpose("feature", "lat", "lon").values,
            np.nan_to_num(part["mare"].transpose("lat", "lon").values).astype(np.uint8),
        )


def predict_ground(model: ArealModel, ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (element, row, column) float32 of a region; NaN where there are no features."""
    lat, lon, features, mare = ground
    if len(features) != len(model.basis.mean):
        raise ModelError(
            f"{len(features)} surface features for a model of {len(model.basis.mean)}",
            where="areal model",
            remedy="Predict with the features that the model was trained on",
        )
    shape = len(lat), len(lon)
    exact = len(model.footprints) <= model.settings.near
    windows = [(slice(0, shape[0]), slice(0, shape[1]))] if exact else list(_windows(*shape))
    total = np.zeros(shape)
    sums = np.zeros((2, len(model.elements), *shape))
    for rows, columns in windows:
        flat = features[:, rows, columns].reshape(len(features), -1).T
        good = np.isfinite(flat).all(axis=1)
        if not good.any():
            continue
        design = _Lazy(model.basis, flat[good], mare[rows, columns].reshape(-1)[good])
        y, x = (v.ravel()[good] for v in np.meshgrid(lat[rows], lon[columns], indexing="ij"))
        mean, variance = model.predict(design, places(y, x))
        inside: np.ndarray = good.reshape(rows.stop - rows.start, -1)
        hat = np.outer(_hat(inside.shape[0]), _hat(inside.shape[1]))[inside]
        total[rows, columns][inside] += hat
        for number, values in enumerate((mean, variance)):
            sums[number][:, rows, columns][:, inside] += hat * values.T
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (sums / total).astype(np.float32)
    return found[0], found[1]


class _Lazy:
    """Design of pixels that is made a part at a time: the whole of it would not fit."""

    def __init__(self, basis: Basis, features: np.ndarray, mare: np.ndarray) -> None:
        self.basis, self.features, self.mare = basis, features, mare

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.basis.of(self.features[part].astype(np.float64), self.mare[part])


def _hat(count: int) -> np.ndarray:
    place = np.arange(count)
    return np.minimum(place + 1, count - place).astype(np.float64)


def _windows(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Overlapping windows over an array."""
    for top in range(0, max(height - _WINDOW + _STRIDE, 1), _STRIDE):
        for left in range(0, max(width - _WINDOW + _STRIDE, 1), _STRIDE):
            yield slice(top, min(top + _WINDOW, height)), slice(left, min(left + _WINDOW, width))


def held_out_areal(
    ground: Iterable[Ground] | Any, known: xr.Dataset, held: xr.Dataset, settings: ArealSettings
) -> tuple[np.ndarray, np.ndarray]:
    """What a model of some footprints says that others measure: mean and standard deviation (footprint, element).

    `ground` is as :func:`model_of_ground` takes it.
    The standard deviation is that of the measurement too. NaN where a footprint has no features, or an element is not
    known.
    """
    again = ground if callable(ground) else lambda: ground
    model = model_of_ground(again, known, settings)
    elements = [str(e) for e in held["element"].values]
    columns = np.array([elements.index(e) for e in model.elements])
    found = np.full((2, held.sizes["footprint"], len(elements)), np.nan)
    table, rows = footprint_table(again(), held.isel(element=columns), model.basis)
    if len(rows):
        for own, values in zip(found, footprint_predictions(model, table), strict=True):
            own[rows[:, None], columns] = values
    return found[0], found[1]


# --- files -----------------------------------------------------------------------------------------


def digest_of(footprints: xr.Dataset, ds: xr.Dataset, regions: Iterable[tuple[int, int]]) -> str:
    """SHA-256 of what a model of a bank depends on: its footprints, and its regions by their content."""
    import dask

    sha = hashlib.sha256()
    for name in ("corner_lat", "corner_lon", "abundance", "abundance_std"):
        sha.update(np.ascontiguousarray(footprints[name].values).data)
    names = [
        ds[n].data.name if hasattr(ds[n].data, "name") else ds[n].values
        for n in ("feature", "mare")
    ]
    sha.update(dask.base.tokenize(names, sorted(regions)).encode())
    return sha.hexdigest()


def save_areal(path: str | os.PathLike[str], model: ArealModel, **header: Any) -> Path:
    """Write a model with all that is needed to use it (safetensors), whole or not at all."""
    tensors = {n: np.asarray(getattr(model, n)) for n in _TABLES}
    parts: list[tuple[str, Any]] = [
        ("basis", model.basis),
        ("footprints", model.footprints),
        ("closure", model.closure),
        *((f"mixing{n}", m.mixing) for n, m in enumerate(model.members)),
    ]
    for prefix, part in parts:
        tensors |= {f"{prefix}.{f.name}": np.asarray(getattr(part, f.name)) for f in fields(part)}
    for number, member in enumerate(model.members):
        tensors |= {f"member{number}.{n}": np.asarray(getattr(member, n)) for n in _OF_MEMBER}
    own = {
        "elements": list(model.elements),
        "settings": model.settings.to_json(),
        "card": model.card,
        "features": len(model.basis.mean),
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return _FORMAT.write(path, tensors, {**own, **header})


def read_areal_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the file of a model says of itself."""
    return _FORMAT.read_header(path)


def load_areal(path: str | os.PathLike[str], device: str = "cpu") -> ArealModel:
    """Read a model, which runs on the CPU whatever the `device`; ModelError if the file is missing, or another's."""
    header, tensors = _FORMAT.read(path)

    def part(kind: Any, prefix: str) -> Any:
        return kind(**{f.name: tensors[f"{prefix}.{f.name}"] for f in fields(kind)})

    return ArealModel(
        tuple(header["elements"]),
        ArealSettings.from_json(header["settings"]),
        part(Basis, "basis"),
        part(Footprints, "footprints"),
        members=tuple(
            Member(
                part(Mixing, f"mixing{number}"),
                **{n: tensors[f"member{number}.{n}"] for n in _OF_MEMBER},
            )
            for number in range(len(tensors["share"]))
        ),
        closure=part(Closure, "closure"),
        **{n: tensors[n] for n in _TABLES},
        card=header["card"],
    )


def areal_spec(folder: str | os.PathLike[str], device: Device = "auto") -> ModelSpec:
    """The model in a folder, as a value that travels to workers."""
    return ModelSpec.from_file(LOADER, Path(folder) / FILE, outputs=0, device=device)


def train_bank(
    path: str,
    folder: str,
    settings: ArealSettings,
    regions: tuple[tuple[int, int], ...],
    overwrite: bool,
) -> Path:
    """Fit a model to the regions of a bank, and keep it in a folder; the one that is there, if it is the same."""
    from lunarray.superres.gib import open_gib
    from lunarray.superres.gib_table import gib_footprints

    ds, footprints = open_gib(path), gib_footprints(path)
    target = Path(folder) / FILE
    digest = digest_of(footprints, ds, regions)
    if target.exists():
        header = read_areal_header(target)
        if header["data_digest"] == digest and header["settings"] == settings.to_json():
            return target
        if not overwrite:
            raise StoreConflictError(
                "a model of other data or settings is there",
                where=target,
                remedy="Train into another folder, or give overwrite=True",
            )
    model = model_of_ground(lambda: ground_of(ds, regions), footprints, settings)
    about = {"grid": ds.attrs["grid"], "feature_model": ds.attrs.get("feature_model", "")}
    return save_areal(
        target, model, data_digest=digest, regions=[list(r) for r in regions], **about
    )
