"""Detection of fractures in images of any size."""

from __future__ import annotations

import bisect
import functools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from lunarray.engine import ModelSpec, in_batches, placed, resolve_device
from lunarray.engine.batches import model_threads
from lunarray.engine.graph import Block, assemble
from lunarray.engine.models import Device, Model, Tiles
from lunarray.engine.registry import find_model
from lunarray.errors import (
    InputError,
    LunarrayWarning,
    MissingDependencyError,
    ModelError,
    require_number,
)
from lunarray.fractures.brightness import rule_of
from lunarray.fractures.ground import box_of
from lunarray.fractures.lattice import ALIGN, Axis, check_lattice
from lunarray.fractures.layers import same_grid
from lunarray.fractures.metrics import NO_DATA
from lunarray.fractures.normalise import Normalisation
from lunarray.fractures.weights import DEFAULT_MODEL, load_model, read_model_header
from lunarray.geo import crs_of, pixel_size

#: Pixels of a tile's side, as in the paper.
TILE = 512
#: Overlap of tiles where the model's file does not say what it needs. 192 was measured (`measure_overlap`) for the
#: light model on simulated scenes with the sun at 30°, 45° and 70°: 80 pixels from a border 99.9 % of its probabilities
#: are within 0.01 of those without the border. DeepLab's is not measured.
OVERLAPS = {"light": 192}
OVERLAP = 128
#: Tiles that the network gets at once: on a CPU one fills the cores' caches, a GPU wants more.
BATCH = {"cpu": 1, "cuda": 16}
#: Tiles to a side of what a Dask task runs: few, that all cores have work on a small image too; a GPU's batch.
GROUP = {"cpu": 2, "cuda": 4}
#: Threads of a model in a Dask task: Dask runs one task on each core.
TASK_THREADS = 1

_LOADER = "lunarray.fractures.runtime:load_predictor"
_OWN = (
    "A loader of your own takes (path, device) and returns a function of tiles (tile, h, w) float32, NaN without data, "
    "that gives probabilities (tile, h, w)"
)


def fracture_model(
    model: str | os.PathLike[str] | ModelSpec | Model | None = None,
    *,
    device: Device = "auto",
    normalisation: Normalisation | None = None,
) -> ModelSpec:
    """Choose a fracture model.

    Parameters
    ----------
    model : path, str, ModelSpec or Model, optional
        A file that :func:`lunarray.fractures.load_model` reads; by default the light model that comes with
        lunarray. That one was trained on simulated scenes alone: read its card, ``lunarray/fractures/data/light.md``.
        Or a network of another library, by :func:`lunarray.engine.from_torch` or :func:`lunarray.engine.from_onnx`
        with ``inputs=Tiles(...)`` (:class:`lunarray.engine.Tiles`); the name of a model of an installed package;
        a class of one's own (:class:`lunarray.engine.Model`). Its one output is the probability.
    device : {"auto", "cpu", "cuda"}
        Where to run it.
    normalisation : Normalisation, optional
        Of a file: what brightness it was trained on, where the file does not say it or something else is known
        (:func:`lunarray.fractures.load_model`). The spec says it in ``inputs``.

    Returns
    -------
    ModelSpec

    Raises
    ------
    ModelError
        If the weights cannot be read, are of another network, have a last layer of other than one or two outputs, or
        the model takes no tiles.
    InputError
        If a normalisation is given for a model that says itself what it takes.

    Examples
    --------
    >>> import lunarray as la
    >>> la.fractures.fracture_model().outputs
    1
    """
    spec = find_model(
        model, Tiles, "map_fractures", save="lunarray.fractures.save_model", device=device
    )
    if not isinstance(spec, ModelSpec):
        path = DEFAULT_MODEL if spec is None else spec
        rule = _rule_of(path, normalisation)
        options: dict[str, Any] = {} if normalisation is None else {"normalisation": normalisation}
        return ModelSpec.from_file(_LOADER, path, outputs=1, device=device, inputs=rule, **options)
    if normalisation is not None:
        raise InputError(
            "a normalisation for a model that says what it takes",
            where="normalisation",
            remedy="Leave it out, or make the model anew with inputs=Tiles(value_range=..., mean=..., std=...)",
        )
    if spec.width != 1:
        raise ModelError(
            f"a model of {spec.loader.split(':')[0]} with {spec.width} outputs",
            where="model",
            remedy=f"Choose one with lunarray.fractures.fracture_model, or give a ModelSpec with outputs=1. {_OWN}",
        )
    return spec


def _rule_of(path: str | os.PathLike[str], rule: Normalisation | None) -> Tiles:
    """What a network of a file takes."""
    header = read_model_header(path)
    if header is None:
        # Another's file: that it fits is better known now than on a worker.
        loaded = load_model(path, normalisation=rule, replace_head=False)
        own, architecture, overlap = loaded.normalisation, loaded.architecture, None
    else:
        own = Normalisation.from_json(header["normalisation"]) if rule is None else rule
        architecture, overlap = header["architecture"], header.get("overlap")
    return replace(rule_of(own), overlap=overlap or OVERLAPS.get(architecture))


def own_scales(spec: ModelSpec) -> tuple[tuple[float, ...], float]:
    """Scales at which a model's file says that it is to look, and by what logits of coarser ones are lowered.

    1 alone, and by nothing, where it says nothing.
    """
    header = (read_model_header(spec.weights) if spec.loader == _LOADER else None) or {}
    return tuple(header.get("scales") or (1.0,)), float(header.get("scale_margin") or 0.0)


def measure_overlap(
    model: str | os.PathLike[str] | ModelSpec | Model | None,
    image: xr.DataArray | np.ndarray,
    *,
    tile: int = TILE,
    tolerance: float = 0.02,
    quantile: float = 0.999,
    device: Device = "auto",
) -> tuple[int, np.ndarray]:
    """Measure how far from a tile's border a model still notices it, and so how much tiles must overlap.

    The tile in the middle of `image` is run alone and as part of the whole image.

    Parameters
    ----------
    model : path, str, ModelSpec or Model, optional
        See :func:`fracture_model`.
    image : DataArray or ndarray, shape (y, x)
        Brightness, larger than a tile to each side; such ground as is to be mapped.
    tile : int
        Side of the tiles in pixels, a multiple of 32.
    tolerance : float
        Difference of probability that does no harm.
    quantile : float
        Share of the pixels at one distance from the border that must be within the tolerance.
    device : {"auto", "cpu", "cuda"}
        Where to run.

    Returns
    -------
    overlap : int
        Multiple of 32 to give to :func:`map_fractures`; half a tile where even that is not within the tolerance.
    difference : ndarray, shape (tile / 2,), float64
        By distance from the border in pixels: that quantile of the absolute difference.

    Raises
    ------
    InputError
        If the image is smaller than a tile and 64 pixels more, or `tile` is no multiple of 32.
    """
    check_lattice(tile, 0)
    values = np.asarray(image_of(image).data if isinstance(image, xr.DataArray) else image)
    values = values.astype(np.float32)
    starts = [(n - tile) // 64 * 32 for n in values.shape]
    if min(starts) < 32:
        raise InputError(
            f"an image of {values.shape[0]} × {values.shape[1]} pixels",
            where="image",
            remedy=f"Give {tile + 64} pixels or more to each side",
        )
    predict = fracture_model(model, device=device).load()
    cut = tuple(slice(s, s + tile) for s in starts)
    sizes = [n // 32 * 32 for n in values.shape]
    whole = predict(values[None, : sizes[0], : sizes[1]])[0][cut]
    alone = predict(values[None][(slice(None), *cut)])[0]
    off = np.abs(whole - alone)
    index = np.arange(tile)
    inward = np.minimum(index, tile - 1 - index)
    distance = np.minimum(inward[:, None], inward[None, :])
    difference = np.array([np.quantile(off[distance == d], quantile) for d in range(tile // 2)])
    beyond = np.maximum.accumulate(difference[::-1])[::-1]
    (good,) = np.nonzero(beyond <= tolerance)
    needed = tile if good.size == 0 else 2 * int(good[0]) + 32
    return min(-(-needed // 32) * 32, tile // 2 // 32 * 32), difference


# --- Tiles, groups and blocks ---------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """How an image is cut and run; small, for it goes into each task."""

    tile: int
    overlap: int
    group: int
    batch_size: int | None = None
    threads: int | None = None

    def axes(self, shape: tuple[int, ...]) -> tuple[Axis, Axis]:
        """Tiles along both axes of an image."""
        return (
            _axis(shape[0], self.tile, self.overlap, self.group),
            _axis(shape[1], self.tile, self.overlap, self.group),
        )


def options_for(
    spec: ModelSpec,
    tile: int | None,
    overlap: int | None,
    batch_size: int | None,
    threads: int | None,
) -> Options:
    """Options as they are asked for, and as the model needs them."""
    own = spec.inputs.tile if isinstance(spec.inputs, Tiles) else None
    for name, value, least in (
        ("tile", tile, -np.inf), ("overlap", overlap, -np.inf), ("batch_size", batch_size, 1), ("threads", threads, 1),
    ):  # fmt: skip
        if value is not None:
            require_number(name, value, least, whole=True)
    if tile is None:
        tile = own or TILE
    elif own not in (None, tile):
        raise InputError(
            f"tiles of {tile} pixels for a model of tiles of {own}", where="tile", remedy="Leave it out"
        )  # fmt: skip
    if overlap is None:
        overlap = _overlap(spec, tile)
    check_lattice(tile, overlap)
    return Options(tile, overlap, _group(spec), batch_size, threads)


@functools.lru_cache(maxsize=64)
def _axis(length: int, tile: int, overlap: int, group: int) -> Axis:
    return Axis(length, tile, overlap, group)


def probability_of(values: Any, spec: ModelSpec, options: Options) -> Any:
    """Probabilities of an image of :func:`lunarray.fractures.brightness.scaled`, lazy where it is."""
    if isinstance(values, da.Array):
        return _lazy(values, spec, options)
    return _eager(np.asarray(values), spec, options)


def _run_group(
    image: np.ndarray,
    spec: ModelSpec,
    shape: tuple[int, int],
    options: Options,
    block_id: tuple[int, int],
) -> np.ndarray:
    """Weighted probabilities of a group of tiles; of no pixels where there are no data.

    `image` begins at the group's first pixel; what the tiles reach beyond its end is filled with NaN.
    """
    rows, columns = options.axes(shape)
    i, j = block_id
    top, left = rows.extent(i)[0], columns.extent(j)[0]
    places = []
    for a in rows.groups[i]:
        for b in columns.groups[j]:
            y, x = rows.starts[a] - top, columns.starts[b] - left
            part = image[y : y + rows.size, x : x + columns.size]
            if np.isfinite(part).any():
                places.append((a, b, y, x))
    if not places:
        return np.empty((0, 0), np.float32)

    predict = spec.load()
    size = options.batch_size or BATCH[resolve_device(spec.device)]
    result = np.zeros(image.shape, np.float32)

    def call(begin: int, end: int) -> None:
        some = places[begin:end]
        batch = np.full((len(some), rows.size, columns.size), np.nan, np.float32)
        for tile, (_, _, y, x) in zip(batch, some, strict=True):
            part = image[y : y + rows.size, x : x + columns.size]
            tile[: part.shape[0], : part.shape[1]] = part
        found = np.asarray(predict(batch))
        if found.shape != batch.shape:
            raise ModelError(
                f"for tiles {batch.shape} it gives an array {found.shape}",
                where=f"model {spec.loader}",
                remedy=_OWN,
            )
        for probability, (a, b, y, x) in zip(found, some, strict=True):
            target = result[y : y + rows.size, x : x + columns.size]
            h, w = target.shape
            target += probability[:h, :w] * (
                rows.weights[a][:h, None] * columns.weights[b][None, :w]
            )

    with model_threads(options.threads):
        in_batches(call, len(places), size, least=1, name="fractures", remember=(spec.sha256, size))
    return result


def _assemble(
    image: np.ndarray,
    shape: tuple[int, int],
    options: Options,
    origin: tuple[int, int],
    groups: Sequence[tuple[int, int]],
    parts: Sequence[np.ndarray],
) -> np.ndarray:
    """Add up what groups say of a block of the image."""
    rows, columns = options.axes(shape)
    result = np.zeros(image.shape, np.float32)
    top, left = origin
    for (i, j), part in zip(groups, parts, strict=True):
        if part.size == 0:
            continue
        (first, last), (begin, end) = rows.extent(i), columns.extent(j)
        y0, y1 = max(top, first), min(top + image.shape[0], last)
        x0, x1 = max(left, begin), min(left + image.shape[1], end)
        result[y0 - top : y1 - top, x0 - left : x1 - left] += part[
            y0 - first : y1 - first, x0 - begin : x1 - begin
        ]
    # Weights of a pixel sum to 1 but for rounding.
    np.clip(result, 0, 1, out=result)
    result[~np.isfinite(image)] = np.nan
    return result


def _eager(image: np.ndarray, spec: ModelSpec, options: Options) -> np.ndarray:
    shape = (image.shape[0], image.shape[1])
    rows, columns = options.axes(shape)
    groups, parts = [], []
    for i in range(len(rows.groups)):
        for j in range(len(columns.groups)):
            (y0, y1), (x0, x1) = rows.extent(i), columns.extent(j)
            groups.append((i, j))
            parts.append(_run_group(image[y0:y1, x0:x1], spec, shape, options, (i, j)))
    return _assemble(image, shape, options, (0, 0), groups, parts)


def _gather(
    extent: tuple[tuple[int, int], tuple[int, int]],
    origins: Sequence[tuple[int, int]],
    blocks: Sequence[np.ndarray],
) -> np.ndarray:
    """Put a part of the image together from the blocks that it lies on."""
    (y0, y1), (x0, x1) = extent
    image = np.empty((y1 - y0, x1 - x0), np.float32)
    for (top, left), block in zip(origins, blocks, strict=True):
        a0, a1 = max(top, y0), min(top + block.shape[0], y1)
        b0, b1 = max(left, x0), min(left + block.shape[1], x1)
        image[a0 - y0 : a1 - y0, b0 - x0 : b1 - x0] = block[
            a0 - top : a1 - top, b0 - left : b1 - left
        ]
    return image


def _lazy(image: da.Array, spec: ModelSpec, options: Options) -> da.Array:
    """Build the graph: gather what a group of tiles lies on, run the group, add up what groups say of each block.

    Running the model is a layer of `map_blocks`, so that whoever reads the graph (a cluster's placement, a store's
    manifest) finds the model there.
    """
    if options.threads is None:
        options = replace(options, threads=TASK_THREADS)
    shape = (image.shape[0], image.shape[1])
    rows, columns = axes = options.axes(shape)
    top, left = (np.concatenate([[0], np.cumsum(c)]).astype(int).tolist() for c in image.chunks)

    def under_group(index: tuple[int, ...]) -> list[Any]:
        down, across = rows.extent(index[0]), columns.extent(index[1])
        blocks = [(p, q) for p in _blocks_over(top, *down) for q in _blocks_over(left, *across)]
        origins = [(top[p], left[q]) for p, q in blocks]
        return [(down, across), origins, [Block(image, block) for block in blocks]]

    gathered = assemble(
        _gather,
        tuple(
            tuple(stop - start for start, stop in map(axis.extent, range(len(axis.groups))))
            for axis in axes
        ),
        needs=under_group,
        dtype=np.float32,
        name="fracture-gather",
        token=(image.name, options),
    )
    with placed(spec):
        run = da.map_blocks(
            _run_group,
            gathered,
            spec,
            shape,
            options,
            name=f"fracture-tiles-{tokenize(gathered.name, spec, options)}",
            dtype=np.float32,
            meta=np.empty((0, 0), np.float32),
        )
    sideways = [list(columns.groups_over(*pair)) for pair in pairwise(left)]

    def over_block(index: tuple[int, ...]) -> list[Any]:
        p, q = index
        groups = [(i, j) for i in rows.groups_over(top[p], top[p + 1]) for j in sideways[q]]
        parts = [Block(run, group) for group in groups]
        return [Block(image, index), shape, options, (top[p], left[q]), groups, parts]

    return assemble(
        _assemble,
        image.chunks,
        needs=over_block,
        dtype=np.float32,
        name="fracture-probability",
        token=(image.name, run.name),
    )


def _blocks_over(bounds: list[int], start: int, stop: int) -> range:
    """Blocks that hold some of the pixels from `start` to before `stop`."""
    return range(bisect.bisect_right(bounds, start) - 1, bisect.bisect_left(bounds, stop))


def classify(probability: np.ndarray, threshold: float) -> np.ndarray:
    """1 from the threshold on, 0 below it, 255 without data."""
    with np.errstate(invalid="ignore"):
        found = (probability >= threshold).astype(np.uint8)
    found[np.isnan(probability)] = NO_DATA
    return found


# --- Arguments ------------------------------------------------------------------------------------


def image_of(obj: xr.DataArray | xr.Dataset) -> xr.DataArray:
    """The image (y, x) of what was given."""
    if isinstance(obj, xr.Dataset):
        if "image" not in obj:
            raise InputError(
                f"no variable 'image' among {', '.join(map(str, obj.data_vars)) or 'none'}",
                where="map_fractures",
                remedy="Give a mosaic of lunarray.fractures.mosaic, or the DataArray of an image",
            )
        obj = obj["image"]
    if not isinstance(obj, xr.DataArray):
        raise InputError(
            f"a {type(obj).__name__}",
            where="map_fractures",
            remedy="Give a DataArray: xr.DataArray(values, dims=('y', 'x')) of an array, open_nac of a file",
        )
    if "band" in obj.dims and obj.sizes["band"] == 1:
        obj = obj.squeeze("band", drop=True)
    if obj.ndim != 2 or obj.size == 0:
        raise InputError(
            f"an image of dimensions {', '.join(f'{d}: {n}' for d, n in obj.sizes.items())}",
            where=str(obj.name or "image"),
            remedy="Give one band on (y, x), with a pixel at least",
        )
    if obj.dtype.kind not in "iuf":
        raise InputError(
            f"an image of type {obj.dtype}",
            where=str(obj.name or "image"),
            remedy="Give numbers: brightness",
        )
    if {"y", "x"} == set(obj.dims):
        obj = obj.transpose("y", "x")
    return obj


def _overlap(spec: ModelSpec, tile: int) -> int:
    """What the model says that it needs; half a tile at most."""
    wanted = spec.inputs.overlap if isinstance(spec.inputs, Tiles) else None
    return min(-(-(OVERLAP if wanted is None else wanted) // ALIGN), tile // (2 * ALIGN)) * ALIGN


def check_resolution(image: xr.DataArray, spec: ModelSpec) -> None:
    """Warn where an image's pixels are of another size than the model was trained on."""
    known = spec.inputs.resolution if isinstance(spec.inputs, Tiles) else None
    if known is None or crs_of(image) is None:
        return
    size, (finest, coarsest) = pixel_size(box_of(image)), known
    if not finest <= size <= coarsest:
        warnings.warn(
            f"pixels of {size:.3g} m for a model that was trained on {finest:g} to {coarsest:g} m",
            LunarrayWarning,
            stacklevel=3,
        )


def _group(spec: ModelSpec) -> int:
    try:
        return GROUP[resolve_device(spec.device)]
    except MissingDependencyError:
        # A GPU that workers have and this process has not.
        return GROUP["cuda"]


def restricted(probability: Any, image: xr.DataArray, within: xr.DataArray | None) -> Any:
    """Probabilities without what lies outside."""
    if within is None:
        return probability
    if not isinstance(within, xr.DataArray):
        raise InputError(
            f"a {type(within).__name__}",
            where="within",
            remedy="Give a DataArray on the image's grid",
        )
    here = same_grid(within, image, "within", "image").data
    if isinstance(probability, da.Array):
        here = da.asarray(here).rechunk(probability.chunks)
        return da.where(here.astype(bool), probability, np.float32(np.nan))
    return np.where(np.asarray(here).astype(bool), probability, np.float32(np.nan))
