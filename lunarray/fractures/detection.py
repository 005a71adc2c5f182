"""Detection of fractures in images of any size."""

from __future__ import annotations

import bisect
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from lunarray.engine import ModelSpec, in_batches, placed, resolve_device
from lunarray.engine.models import Device
from lunarray.errors import InputError, MissingDependencyError, ModelError
from lunarray.fractures.lattice import ALIGN, Axis, check_lattice
from lunarray.fractures.metrics import NO_DATA, check_same_grid
from lunarray.fractures.normalise import Normalisation
from lunarray.fractures.weights import DEFAULT_MODEL, load_model, read_model_header
from lunarray.store.provenance import stamp

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
#: Threads of torch in a Dask task: Dask runs one task on each core.
TASK_THREADS = 1

_LOADER = "lunarray.fractures.predictor:load_predictor"


def fracture_model(
    model: str | os.PathLike[str] | ModelSpec | None = None, *, device: Device = "auto"
) -> ModelSpec:
    """Choose a fracture model.

    Parameters
    ----------
    model : path or ModelSpec, optional
        A file that :func:`lunarray.fractures.load_model` reads; by default the light model that comes with
        lunarray. That one was trained on simulated scenes alone: read its card, ``lunarray/fractures/data/light.md``.
    device : {"auto", "cpu", "cuda"}
        Where to run it.

    Returns
    -------
    ModelSpec

    Raises
    ------
    ModelError
        If the weights cannot be read, are of another network, or have a last layer of other than one output.
    """
    if isinstance(model, ModelSpec):
        if model.loader != _LOADER:
            raise ModelError(
                f"a model of {model.loader.split(':')[0]}",
                where="model",
                remedy="Choose one with lunarray.fractures.fracture_model",
            )
        return model
    path: Any = DEFAULT_MODEL if model is None else model
    if not isinstance(path, (str, os.PathLike)):
        raise ModelError(
            f"a {type(path).__name__} where a file is needed",
            where="model",
            remedy="Save it with lunarray.fractures.save_model and give the path: models travel to workers as files",
        )
    if read_model_header(path) is None:
        # Another's file: that it fits is better known now than on a worker.
        load_model(path, replace_head=False)
    return ModelSpec.from_file(_LOADER, path, outputs=1, device=device)


def map_fractures(
    obj: xr.DataArray | xr.Dataset,
    model: str | os.PathLike[str] | ModelSpec | None = None,
    threshold: float = 0.5,
    *,
    tile: int = TILE,
    overlap: int | None = None,
    batch_size: int | None = None,
    value_range: tuple[float, float] | None = None,
    within: xr.DataArray | None = None,
    device: Device = "auto",
    threads: int | None = None,
) -> xr.Dataset:
    """Detect fractures, or whatever lines the model was trained on, in an image or mosaic.

    Parameters
    ----------
    obj : DataArray or Dataset
        Brightness on (y, x), of a Dataset the variable ``image``; NaN, infinity or the value that an attribute
        ``_FillValue`` names where there are no data. With or without georeference.
    model : path or ModelSpec, optional
        See :func:`fracture_model`; by default the light model that comes with lunarray.
    threshold : float
        Probability from which a pixel is a detection.
    tile : int
        Side of the tiles in pixels, a multiple of 32.
    overlap : int, optional
        Pixels that neighbouring tiles share, a multiple of 32, half a tile at most; by default what the model's file
        says, or else 192 for the light network, as measured, and 128 for DeepLab. See the notes.
    batch_size : int, optional
        Tiles that the network gets at once; by default 1 on a CPU and 16 on a GPU.
    value_range : (float, float), optional
        Brightness that stands for the black and white that the model was trained with. For models with a fixed scale,
        such as IMFMapper's 8-bit one, where the image has another: I/F from 0.01 to 0.12, say.
    within : DataArray of bool, optional
        On the same grid: where to report; elsewhere the result has no data.
    device : {"auto", "cpu", "cuda"}
        Where to run; "auto" takes a GPU in each process that sees one.
    threads : int, optional
        Torch's threads for a tile on the CPU; by default one in a Dask task, and for an array in memory as many as
        torch is set to.

    Returns
    -------
    Dataset
        On the image's grid and in its chunks, lazy where it is:

        - ``probability`` (float32): of a fracture, NaN where there are no data;
        - ``mask`` (uint8): 1 where the probability is `threshold` or more, 0 where it is less, 255 where there are no
          data;
        - ``source``, of a mosaic that has it: which image a pixel came from.

    Raises
    ------
    InputError
        If there is no image, or tile, overlap, threshold or value_range make no sense.
    GridError
        If `within` is on another grid.
    ModelError
        If the model cannot be read.

    Notes
    -----
    Tiles lie on a lattice that begins at the image's first pixel and does not depend on its chunks, so neither does the
    result; every tile is run once. In the overlap a tile gives way to the next over the middle 32 pixels, and the
    pixels beyond that, up to its border, are not used: the overlap must be 32 pixels more than twice the distance at
    which the network still notices a border. DeepLabV3 has a branch that pools over the whole tile, so what it finds
    depends, weakly, on the tile; :func:`measure_overlap` tells for a model and an image how the difference falls off. A
    tile without data is not run.

    References
    ----------
    .. [1] Le Corre et al. (2025), doi:10.1029/2025JE009145, sections 3.1 and 4.4: tiles of 512 pixels, threshold 0.5.
    """
    image = _image_of(obj)
    spec = fracture_model(model, device=device)
    if not 0 < threshold < 1:
        raise InputError(
            f"a threshold of {threshold}", where="threshold", remedy="Give a number between 0 and 1"
        )
    if overlap is None:
        overlap = _overlap(spec, tile)
    check_lattice(tile, overlap)
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"{name} of {value}", where=name, remedy="Give 1 or more")
    values = image.data
    fill, stretch = _fill_value(image), _stretch(value_range, spec)
    if fill is not None or stretch is not None or values.dtype != np.float32:
        values = _prepared(values, fill, stretch)
    options = _Options(tile, overlap, _group(spec), batch_size, threads)
    probability: Any
    mask: Any
    if isinstance(values, da.Array):
        probability = _restrict(_lazy(values, spec, options), image, within)
        mask = da.map_blocks(
            _classify, probability, threshold, dtype=np.uint8, meta=np.empty((0, 0), np.uint8)
        )
    else:
        probability = _restrict(_eager(np.asarray(values), spec, options), image, within)
        mask = _classify(probability, threshold)
    dims = image.dims
    result = xr.Dataset(
        {
            "probability": (
                dims,
                probability,
                {"long_name": "probability of a fracture", "units": "1"},
            ),
            "mask": (
                dims,
                mask,
                {
                    "long_name": "detected fractures",
                    "units": "1",
                    "flag_values": np.array([0, 1, NO_DATA], np.uint8),
                    "flag_meanings": "none fracture no_data",
                    "threshold": float(threshold),
                },
            ),
        },
        coords=image.coords,
    )
    if isinstance(obj, xr.Dataset) and "source" in obj and set(obj["source"].dims) == set(dims):
        # Of a mosaic: what is found along its seams can be told later.
        result["source"] = obj["source"].transpose(*dims)
    mapping = image.encoding.get("grid_mapping") or image.attrs.get("grid_mapping")
    if mapping is not None:
        for name in ("probability", "mask"):
            result[name].attrs["grid_mapping"] = mapping
    result.attrs = {
        key: value for key, value in obj.attrs.items() if key in ("source", "history", "title")
    }
    return stamp(
        result,
        f"map_fractures (tiles of {tile}, overlap {overlap}, threshold {threshold:g})",
        variables=("probability", "mask"),
        model=os.path.basename(spec.weights),
        model_sha256=spec.sha256,
    )


def measure_overlap(
    model: str | os.PathLike[str] | ModelSpec | None,
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
    model : path or ModelSpec, optional
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
    values = np.asarray(_image_of(image).data if isinstance(image, xr.DataArray) else image)
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
class _Options:
    """How an image is cut and run; small, for it goes into each task."""

    tile: int
    overlap: int
    group: int
    batch_size: int | None
    threads: int | None

    def axes(self, shape: tuple[int, ...]) -> tuple[Axis, Axis]:
        """Tiles along both axes of an image."""
        return (
            _axis(shape[0], self.tile, self.overlap, self.group),
            _axis(shape[1], self.tile, self.overlap, self.group),
        )


@functools.lru_cache(maxsize=64)
def _axis(length: int, tile: int, overlap: int, group: int) -> Axis:
    return Axis(length, tile, overlap, group)


def _prepared(values: Any, fill: float | None, stretch: tuple[float, float] | None) -> Any:
    if isinstance(values, da.Array):
        return da.map_blocks(
            _clean, values, fill, stretch, dtype=np.float32, meta=np.empty((0, 0), np.float32)
        )
    return _clean(np.asarray(values), fill, stretch)


def _clean(
    block: np.ndarray, fill: float | None, stretch: tuple[float, float] | None
) -> np.ndarray:
    """Brightness as float32 on the model's scale, NaN where there are no data."""
    image = np.array(block, np.float32)
    if stretch is not None:
        factor, summand = stretch
        image *= np.float32(factor)
        image += np.float32(summand)
    if fill is not None:
        image[block == fill] = np.nan
    return image


def _run_group(
    image: np.ndarray,
    spec: ModelSpec,
    shape: tuple[int, int],
    options: _Options,
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
    from lunarray.fractures.predictor import torch_threads

    predict = spec.load()
    size = options.batch_size or BATCH[resolve_device(spec.device)]
    result = np.zeros(image.shape, np.float32)

    def call(begin: int, end: int) -> None:
        some = places[begin:end]
        batch = np.full((len(some), rows.size, columns.size), np.nan, np.float32)
        for tile, (_, _, y, x) in zip(batch, some, strict=True):
            part = image[y : y + rows.size, x : x + columns.size]
            tile[: part.shape[0], : part.shape[1]] = part
        for probability, (a, b, y, x) in zip(predict(batch), some, strict=True):
            target = result[y : y + rows.size, x : x + columns.size]
            h, w = target.shape
            target += probability[:h, :w] * (
                rows.weights[a][:h, None] * columns.weights[b][None, :w]
            )

    with torch_threads(options.threads):
        in_batches(call, len(places), size, least=1, name="fractures", remember=(spec.sha256, size))
    return result


def _assemble(
    image: np.ndarray,
    axes: tuple[Axis, Axis],
    origin: tuple[int, int],
    groups: Sequence[tuple[int, int]],
    parts: Sequence[np.ndarray],
) -> np.ndarray:
    """Add up what groups say of a block of the image."""
    rows, columns = axes
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


def _assemble_block(
    image: np.ndarray,
    shape: tuple[int, int],
    options: _Options,
    origin: tuple[int, int],
    groups: Sequence[tuple[int, int]],
    parts: Sequence[np.ndarray],
) -> np.ndarray:
    return _assemble(image, options.axes(shape), origin, groups, parts)


def _eager(image: np.ndarray, spec: ModelSpec, options: _Options) -> np.ndarray:
    shape = (image.shape[0], image.shape[1])
    axes = rows, columns = options.axes(shape)
    groups, parts = [], []
    for i in range(len(rows.groups)):
        for j in range(len(columns.groups)):
            (y0, y1), (x0, x1) = rows.extent(i), columns.extent(j)
            groups.append((i, j))
            parts.append(_run_group(image[y0:y1, x0:x1], spec, shape, options, (i, j)))
    return _assemble(image, axes, (0, 0), groups, parts)


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


def _lazy(image: da.Array, spec: ModelSpec, options: _Options) -> da.Array:
    """Build the graph: gather what a group of tiles lies on, run the group, add up what groups say of each block.

    Running the model is a layer of `map_blocks`, so that whoever reads the graph (a cluster's placement, a store's
    manifest) finds the model there.
    """
    if options.threads is None:
        options = replace(options, threads=TASK_THREADS)
    shape = (image.shape[0], image.shape[1])
    rows, columns = options.axes(shape)
    token = tokenize("map_fractures", image.name, spec, options)
    bounds = [np.concatenate([[0], np.cumsum(c)]).astype(int).tolist() for c in image.chunks]
    down = [_blocks_over(bounds[0], *rows.extent(i)) for i in range(len(rows.groups))]
    across = [_blocks_over(bounds[1], *columns.extent(j)) for j in range(len(columns.groups))]
    name = f"fracture-gather-{token}"
    graph: dict[Any, Any] = {}
    for i, vertical in enumerate(down):
        for j, horizontal in enumerate(across):
            blocks = [(p, q) for p in vertical for q in horizontal]
            origins = [(bounds[0][p], bounds[1][q]) for p, q in blocks]
            keys = [(image.name, p, q) for p, q in blocks]
            extent = (rows.extent(i), columns.extent(j))
            graph[(name, i, j)] = (_gather, extent, origins, keys)
    sizes = tuple(
        tuple(stop - start for start, stop in map(axis.extent, range(len(axis.groups))))
        for axis in (rows, columns)
    )
    gathered = _array(name, graph, sizes, [image])
    with placed(spec):
        run = da.map_blocks(
            _run_group,
            gathered,
            spec,
            shape,
            options,
            name=f"fracture-tiles-{token}",
            dtype=np.float32,
            meta=np.empty((0, 0), np.float32),
        )
    name = f"fracture-probability-{token}"
    graph = {}
    sideways = [list(columns.groups_over(*pair)) for pair in pairwise(bounds[1])]
    for p in range(image.numblocks[0]):
        vertical_groups = list(rows.groups_over(bounds[0][p], bounds[0][p + 1]))
        for q, horizontal_groups in enumerate(sideways):
            groups = [(i, j) for i in vertical_groups for j in horizontal_groups]
            origin = (bounds[0][p], bounds[1][q])
            keys = [(run.name, i, j) for i, j in groups]
            block = (image.name, p, q)
            graph[(name, p, q)] = (_assemble_block, block, shape, options, origin, groups, keys)
    return _array(name, graph, image.chunks, [image, run])


def _array(
    name: str, graph: dict[Any, Any], chunks: tuple[tuple[int, ...], ...], sources: list[Any]
) -> da.Array:
    whole = HighLevelGraph.from_collections(name, graph, dependencies=sources)
    return da.Array(whole, name, chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))


def _blocks_over(bounds: list[int], start: int, stop: int) -> range:
    """Blocks that hold some of the pixels from `start` to before `stop`."""
    return range(bisect.bisect_right(bounds, start) - 1, bisect.bisect_left(bounds, stop))


def _classify(probability: np.ndarray, threshold: float) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        found = (probability >= threshold).astype(np.uint8)
    found[np.isnan(probability)] = NO_DATA
    return found


# --- Arguments ------------------------------------------------------------------------------------


def _image_of(obj: xr.DataArray | xr.Dataset) -> xr.DataArray:
    if isinstance(obj, xr.Dataset):
        if "image" not in obj:
            raise InputError(
                f"no variable 'image' among {', '.join(map(str, obj.data_vars)) or 'none'}",
                where="map_fractures",
                remedy="Give a mosaic of lunarray.fractures.mosaic, or the DataArray of an image",
            )
        obj = obj["image"]
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
    """What the model's file says, or what its architecture needs; half a tile at most."""
    header = read_model_header(spec.weights) or {}
    wanted = header.get("overlap") or OVERLAPS.get(header.get("architecture", ""), OVERLAP)
    return min(-(-wanted // ALIGN), tile // (2 * ALIGN)) * ALIGN


def _group(spec: ModelSpec) -> int:
    try:
        return GROUP[resolve_device(spec.device)]
    except MissingDependencyError:
        # A GPU that workers have and this process has not.
        return GROUP["cuda"]


def _fill_value(image: xr.DataArray) -> float | None:
    """The value that stands for no data in an image that was read as it is."""
    value = image.attrs.get("_FillValue", image.attrs.get("nodata"))
    return None if value is None or not np.isfinite(value) else float(value)


def _stretch(
    value_range: tuple[float, float] | None, spec: ModelSpec
) -> tuple[float, float] | None:
    """Factor and summand that bring brightness to the scale that the model was trained with."""
    if value_range is None:
        return None
    low, high = map(float, value_range)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(
            f"from {low} to {high}", where="value_range", remedy="Give (black, white), black first"
        )
    header = read_model_header(spec.weights)
    rule = (
        load_model(spec.weights).normalisation
        if header is None
        else Normalisation.from_json(header["normalisation"])
    )
    if rule.kind != "fixed":
        raise InputError(
            "the model looks at local contrast, whatever the scale",
            where="value_range",
            remedy="Leave it out",
        )
    factor = rule.scale / (high - low)
    return factor, rule.offset - low * factor


def _restrict(probability: Any, image: xr.DataArray, within: xr.DataArray | None) -> Any:
    if within is None:
        return probability
    if not isinstance(within, xr.DataArray):
        raise InputError(
            f"a {type(within).__name__}",
            where="within",
            remedy="Give a DataArray on the image's grid",
        )
    check_same_grid(image, within, ("image", "within"))
    here = within.transpose(*image.dims).data
    if isinstance(probability, da.Array):
        here = da.asarray(here).rechunk(probability.chunks)
        return da.where(here.astype(bool), probability, np.float32(np.nan))
    return np.where(np.asarray(here).astype(bool), probability, np.float32(np.nan))
