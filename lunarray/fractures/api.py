"""Fractures as verbs on arrays: detection, vectors, areas, scores, density."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr

from lunarray.engine import ModelSpec
from lunarray.engine.models import Device, Model
from lunarray.errors import GridError, InputError, require_choice, require_number
from lunarray.fractures.brightness import scaled
from lunarray.fractures.classical import Frangi, Method, check_method, detect, wide_chunks
from lunarray.fractures.detection import (
    check_resolution,
    classify,
    fracture_model,
    image_of,
    options_for,
    own_scales,
    probability_of,
    restricted,
)
from lunarray.fractures.ground import box_of, metric_of
from lunarray.fractures.layers import each_block, same_grid
from lunarray.fractures.metrics import NO_DATA, confusion, pixel_metrics, tile_metrics
from lunarray.fractures.scales import at_scales, check_scales, largest
from lunarray.fractures.statistics import area_of_data, per_area
from lunarray.fractures.sunlight import turns_of
from lunarray.fractures.vectors import features_of, near_seams, runs_of, units_of
from lunarray.geo import BODIES, assign_grid, covering_box, require_body, spatial_dims
from lunarray.store.provenance import stamp
from lunarray.typing import typed

if TYPE_CHECKING:
    import geopandas

__all__ = [
    "classical_fractures",
    "density",
    "map_fractures",
    "mapped_area",
    "segmentation_metrics",
    "vectorize",
]


@typed
def map_fractures(
    obj: xr.DataArray | xr.Dataset,
    model: str | os.PathLike[str] | ModelSpec | Model | None = None,
    threshold: float = 0.5,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    batch_size: int | None = None,
    value_range: tuple[float, float] | None = None,
    scales: Sequence[float] | None = None,
    within: xr.DataArray | None = None,
    sun_azimuth: float | None = None,
    device: Device = "auto",
    threads: int | None = None,
) -> xr.Dataset:
    """Detect fractures, or whatever lines the model was trained on, in an image or mosaic.

    Parameters
    ----------
    obj : DataArray or Dataset
        Brightness on (y, x), of a Dataset its ``image``; NaN, infinity or ``attrs["_FillValue"]`` without data.
    model : path, str, ModelSpec or Model, optional
        See :func:`fracture_model`; by default the light model that comes with lunarray.
    threshold : float
        Probability from which a pixel is a detection.
    tile : int, optional
        Side of the tiles in pixels, a multiple of 32; by default what the model says, or 512.
    overlap : int, optional
        Pixels that neighbouring tiles share, a multiple of 32, half a tile at most, see the notes; by default what the
        model says, or 192 for the light network, as measured, and 128 for DeepLab.
    batch_size : int, optional
        Tiles that the network gets at once; by default 1 on a CPU and 16 on a GPU.
    value_range : (float, float), optional
        Brightness that stands for the black and white that the model was trained with. For models with a fixed scale,
        such as IMFMapper's 8-bit one, where the image has another: I/F from 0.01 to 0.12, say.
    scales : sequence of float, optional
        Scales at which to look: 1 is the image's own, 0.5 half of it, and so on down to 1/16; by default what the
        model's file says, or 1. The largest probability counts: (1, 0.5) sees wider fractures, and errs at each.
    within : DataArray of bool, optional
        On the same grid: where to report; elsewhere there are no data.
    sun_azimuth : float, optional
        Of a model that has to know it, as the default does, where the sun is, degrees clockwise from the image's top.
        By default what the image's attribute ``sun_azimuth`` says, or its craters (25 windows are read at once).
    device : {"auto", "cpu", "cuda"}
        Where to run; "auto" takes a GPU in each process that sees one.
    threads : int, optional
        Threads for a tile on the CPU; by default one in a Dask task, else as many as there are cores.

    Returns
    -------
    Dataset
        On the image's grid and in its chunks, lazy where it is:

        - ``probability`` (float32): of a fracture, NaN where there are no data;
        - ``mask`` (uint8): 1 where the probability is `threshold` or more, 0 where less, 255 without data;
        - ``source``, of a mosaic that has it: which image a pixel came from.

    Raises
    ------
    InputError
        If there is no image, or tile, overlap, threshold, value_range or scales make no sense.
    GridError
        If `within` is on another grid.
    ModelError
        If the model cannot be read.

    Notes
    -----
    Tiles lie on a lattice that begins at a corner of the image and does not depend on its chunks, so neither does the
    result; every tile is run once. In the overlap a tile gives way to the next over the middle 32 pixels, and the
    pixels beyond that, up to its border, are not used: the overlap must be 32 pixels more than twice the distance at
    which the network still notices a border. DeepLabV3 has a branch that pools over the whole tile, so what it finds
    depends, weakly, on the tile; :func:`measure_overlap` tells for a model and an image how the difference falls off. A
    tile without data is not run.

    References
    ----------
    .. [1] Le Corre et al. (2025), doi:10.1029/2025JE009145, sections 3.1 and 4.4: tiles of 512 pixels, threshold 0.5.

    Examples
    --------
    >>> import lunarray as la
    >>> found = la.sample("nac_crop").lunar.map_fractures()
    >>> sorted(found.data_vars)
    ['mask', 'probability']
    """
    image = image_of(obj)
    spec = fracture_model(model, device=device)
    require_number("threshold", threshold, 0, 1, strictly=True)
    options = options_for(spec, tile, overlap, batch_size, threads)
    check_resolution(image, spec)
    values = scaled(image, value_range, spec.inputs)
    own, margin = own_scales(spec)
    factors = check_scales(own if scales is None else scales)
    detect = functools.partial(probability_of, spec=spec, options=options)
    turns = turns_of(image, values, spec, sun_azimuth)
    found = (t.undo(at_scales(t.apply(values), factors, detect, margin)) for t in turns)
    probability = restricted(largest(found), image, within)
    mask = _classified(probability, float(threshold))
    return stamp(
        _detections(obj, image, probability, mask, float(threshold)),
        f"map_fractures (tiles of {options.tile}, overlap {options.overlap}, threshold {threshold:g}"
        + (")" if factors == (1,) else f", scales 1/{', 1/'.join(map(str, factors))})"),
        variables=("probability", "mask"),
        model=os.path.basename(spec.weights),
        model_sha256=spec.sha256,
    )


def _classified(probability: Any, threshold: float) -> Any:
    if not isinstance(probability, da.Array):
        return classify(probability, threshold)
    return da.map_blocks(
        classify, probability, threshold, dtype=np.uint8, meta=np.empty((0, 0), np.uint8)
    )


def _detections(
    obj: xr.DataArray | xr.Dataset,
    image: xr.DataArray,
    probability: Any,
    mask: Any,
    threshold: float,
) -> xr.Dataset:
    """Both layers with what they and their image say of themselves."""
    attrs = {"units": "1"}
    mapping = image.encoding.get("grid_mapping") or image.attrs.get("grid_mapping")
    if mapping is not None:
        attrs["grid_mapping"] = mapping
    of_mask = {
        "long_name": "detected fractures",
        "flag_values": np.array([0, 1, NO_DATA], np.uint8),
        "flag_meanings": "none fracture no_data",
        "threshold": threshold,
        **attrs,
    }
    layers = {
        "probability": (
            image.dims,
            probability,
            {"long_name": "probability of a fracture", **attrs},
        ),
        "mask": (image.dims, mask, of_mask),
    }
    kept = {key: obj.attrs[key] for key in ("source", "history", "title") if key in obj.attrs}
    result = xr.Dataset(layers, coords=image.coords, attrs=kept)
    if (
        isinstance(obj, xr.Dataset)
        and "source" in obj
        and set(obj["source"].dims) == set(image.dims)
    ):
        # Of a mosaic: what is found along its seams can be told later.
        result["source"] = obj["source"].transpose(*image.dims)
    return result


@typed
def classical_fractures(image: xr.DataArray, method: Method | None = None) -> xr.DataArray:
    """Detect fractures by a ridge or an edge filter.

    Brightness is first taken relative to the mean and the standard deviation of its surroundings, so that one
    threshold holds for images of any unit and sun.

    Parameters
    ----------
    image : DataArray, dims (y, x)
        Image, NaN without data.
    method : Frangi or Canny, optional
        The filter and its parameters (:mod:`lunarray.fractures.classical`, where ``tune_classical`` finds parameters);
        ``Frangi()`` by default.

    Returns
    -------
    DataArray
        ``mask`` (y, x), uint8: 1 where detected, 0 elsewhere, 255 without data. Lazy for chunked input, and the same
        numbers; if small detections are dropped (``least``), the image becomes one chunk: they may cross any border.

    Raises
    ------
    InputError
        If the image does not have the dimensions (y, x), or a parameter makes no sense.

    Examples
    --------
    >>> import lunarray as la
    >>> la.fractures.classical_fractures(la.sample("nac_crop")).shape
    (640, 640)
    """
    method = Frangi() if method is None else method
    check_method(method)
    if image.dims != ("y", "x"):
        raise InputError(
            f"dimensions {tuple(map(str, image.dims))}",
            where="image",
            remedy="Give an image (y, x)",
        )
    data: Any = image.data
    if image.chunks is None:
        result = detect(np.asarray(data), method)
    else:
        if method.least > 0:
            data = data.rechunk(-1)
        data = data.rechunk(tuple(wide_chunks(c, method.reach) for c in data.chunks))
        result = da.map_overlap(
            detect,
            data,
            method=method,
            depth={axis: method.reach if n > 1 else 0 for axis, n in enumerate(data.numblocks)},
            boundary="none",
            allow_rechunk=False,
            dtype=np.uint8,
            meta=np.empty((0, 0), np.uint8),
        )
    name = type(method).__name__
    return xr.DataArray(
        result,
        dims=image.dims,
        coords=image.coords,
        name="mask",
        attrs={"long_name": f"fractures by {name}'s filter", "method": repr(method)},
    )


def segmentation_metrics(
    predicted: xr.DataArray | np.ndarray,
    labels: xr.DataArray | np.ndarray,
    *,
    tile: int = 512,
) -> dict[str, float]:
    """Score a map of detections against labels.

    Parameters
    ----------
    predicted : DataArray or ndarray, shape (y, x)
        1 where a fracture was detected, 0 where not, 255 where there are no data, as ``mask`` of
        :func:`lunarray.fractures.map_fractures`.
    labels : DataArray or ndarray, shape (y, x)
        The same of the truth, on the same grid.
    tile : int
        Side of the tiles, without overlap, that the paper's averages are taken over; the outermost may be smaller.

    Returns
    -------
    dict of float
        Those of :func:`lunarray.fractures.metrics.tile_metrics`, averaged over tiles as the paper does, and those of
        ``pixel_metrics`` there, named ``…_pooled``. Chunked input is read tile row by tile row.

    Raises
    ------
    GridError
        If shapes or coordinates differ.
    InputError
        If `tile` is not positive.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.nac_scene((256, 256))
    >>> found = scene.dataset["image"].lunar.map_fractures()
    >>> scores = la.fractures.segmentation_metrics(found["mask"], scene.dataset["mask"])
    >>> "F1_pooled" in scores
    True
    """
    require_number("tile", tile, 1)
    labels = same_grid(labels, predicted, "labels", "predicted")
    a, b = (x.data if isinstance(x, xr.DataArray) else np.asarray(x) for x in (predicted, labels))
    counts = []
    for top in range(0, a.shape[0], tile):
        rows = [np.asarray(x[top : top + tile]) for x in (a, b)]
        counts += [
            confusion(rows[0][:, left : left + tile], rows[1][:, left : left + tile])
            for left in range(0, a.shape[1], tile)
        ]
    table = np.array(counts, np.int64).reshape(-1, 4)
    return {**tile_metrics(table), **pixel_metrics(table)}


def vectorize(
    mask: xr.DataArray | xr.Dataset,
    *,
    probability: xr.DataArray | None = None,
    source: xr.DataArray | None = None,
    min_area: float = 150.0,
    seam_distance: int = 3,
    seam_share: float = 0.5,
    within: Any = None,
    within_share: float = 0.5,
    connectivity: Literal[4, 8] = 8,
    centrelines: bool = True,
) -> geopandas.GeoDataFrame:
    """Outline and measure every connected feature of a mask.

    Components are connected over the whole mosaic, whatever its chunks, and the result is the same for any chunks. The
    mask is computed block by block; of each block only its runs of covered pixels are kept, so that memory grows with
    the features and not with the pixels.

    Parameters
    ----------
    mask : DataArray or Dataset
        (y, x), 1 or True where there is a feature; 0, 255 and whatever else is none. Of a Dataset, as
        :func:`lunarray.fractures.map_fractures` returns it, variable ``mask``, with ``probability`` and ``source``
        where it has them.
    probability : DataArray, optional
        For the mean probability of each feature; on the same grid.
    source : DataArray, optional
        Which image each pixel of a mosaic came from, as :func:`lunarray.fractures.mosaic` returns it; -1 is none.
        Features along its seams are dropped.
    min_area : float
        Smaller features are dropped; m² on the ground.
    seam_distance : int
        Pixels from a seam at which a pixel is near it.
    seam_share : float
        A feature is dropped if more than this share of its pixels is near a seam. 1 keeps all.
    within : GeoDataFrame, region or path, optional
        Units, such as a crater's floor and its melt ponds, in any CRS. Features outside are dropped.
    within_share : float
        Share of a feature's outline that must lie in the units.
    connectivity : {8, 4}
        Whether pixels that touch at a corner are connected.
    centrelines : bool
        Keep the skeletons as second geometry ``centreline``, which orientation and density are made from.

    Returns
    -------
    geopandas.GeoDataFrame
        In the CRS of the mask, in order of the first pixel of each feature. Its polygons run along the borders of
        pixels: in the units of the map, their area is exactly that of the pixels. On the ground: ``area`` (m²),
        ``length`` along the skeleton (m), ``width_mean`` (m, area by length) and ``width_max`` (m, of the largest
        circle about the skeleton that fits, apart from crossings), ``orientation`` of the longest axis (degrees
        clockwise from north, 0 to 180), ``elongation`` (longest by shortest axis of the ellipse with the same second
        moments), mean ``probability`` (NaN where none is given), ``intersections`` and ``branches`` of the skeleton,
        ``pixels``, the share near a ``seam``, and ``lon``, ``lat`` of the centroid (degrees). With `within`, ``unit``
        says which. Empty where there is none.

    Raises
    ------
    GridError
        If the mask is not georeferenced: areas are then unknown. Or if layers are on different grids.
    InputError
        If the mask does not consist of whole numbers or booleans, or a parameter is out of range.

    Notes
    -----
    ``frame["area"]`` and ``frame["length"]`` are these columns; the attributes ``frame.area`` and ``frame.length`` are
    geopandas' own, the area and the perimeter of the outlines on the map.

    Memory: some 60 to 110 bytes for each pixel of the largest feature (features are worked on in batches of two million
    pixels), and some 150 bytes for each run of covered pixels in a row; none for the rest of the mosaic.

    Circles are fitted between the stairs of the raster: across a line that is oblique to its rows, ``width_max`` is up
    to a pixel less than the line is wide, where ``width_mean`` is true.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, section 4.4: components smaller than 150 m² and those along
    the seams of the mosaic are dropped.

    Examples
    --------
    >>> import lunarray as la
    >>> fractures = la.sample("nac_crop").lunar.map_fractures().lunar.vectorize()
    >>> "length" in fractures.columns
    True
    """
    mask, probability, source = _layers(mask, probability, source)
    require_choice("connectivity", connectivity, (4, 8))
    require_number("min_area", min_area, 0)
    require_number("seam_distance", seam_distance, 0, whole=True)
    for name, share in (("seam_share", seam_share), ("within_share", within_share)):
        require_number(name, share, 0, 1)
    geobox = box_of(mask, "vectorising")
    near = None if source is None else near_seams(source.data, int(seam_distance))
    runs = runs_of(mask.data, None if probability is None else probability.data, near)
    return features_of(
        *runs,
        geobox,
        min_area=float(min_area),
        seam_share=float(seam_share),
        units=None if within is None else units_of(within, geobox),
        within_share=float(within_share),
        reach=1 if connectivity == 8 else 0,
        with_probability=probability is not None,
        centrelines=centrelines,
    )


def _layers(mask: Any, probability: Any, source: Any) -> tuple[Any, Any, Any]:
    if isinstance(mask, xr.Dataset):
        if "mask" not in mask:
            raise InputError(
                f"no variable 'mask' among {', '.join(map(str, mask.data_vars)) or 'none'}",
                where="vectorize",
                remedy="Give the result of map_fractures, or a DataArray",
            )
        probability = mask.get("probability") if probability is None else probability
        source = mask.get("source") if source is None else source
        mask = mask["mask"]
    if mask.dtype.kind not in "biu":
        raise InputError(
            f"a mask of type {mask.dtype}",
            where=str(mask.name or "mask"),
            remedy="Give whole numbers or booleans, for instance probability > 0.5",
        )
    dims = spatial_dims(mask)
    if dims is None or mask.ndim != 2:
        raise GridError(
            f"no mask: the dimensions are {tuple(map(str, mask.dims))}", remedy="Give (y, x)"
        )
    mask = mask.transpose(*dims)
    return mask, *(
        None if layer is None else same_grid(layer, mask, name)
        for layer, name in ((probability, "probability"), (source, "source"))
    )


def mapped_area(mask: xr.DataArray | xr.Dataset) -> float:
    """Measure the area on the ground that has been mapped.

    Parameters
    ----------
    mask : DataArray or Dataset
        Of whole numbers with 255 where there are no data, booleans (True has data), or an image with NaN; of a Dataset
        its ``mask``, ``valid`` or ``image``.

    Returns
    -------
    float
        m², on the sphere. Computed chunk by chunk.

    Raises
    ------
    GridError
        If it is not georeferenced.

    Examples
    --------
    >>> import lunarray as la
    >>> found = la.sample("nac_crop").lunar.map_fractures()
    >>> la.fractures.mapped_area(found) / 1e6 < 1.0
    True
    """
    if isinstance(mask, xr.Dataset):
        name = next((n for n in ("mask", "valid", "image") if n in mask), None)
        if name is None:
            raise InputError(
                "neither mask nor valid nor image", where="mapped_area", remedy="Give a DataArray"
            )
        mask = mask[name]
    geobox = box_of(mask, "an area")
    metric = metric_of(geobox)
    data = mask.transpose(*(spatial_dims(mask) or ())).data
    return float(np.sum(each_block(area_of_data, data, metric=metric)))


@typed
def density(
    fractures: geopandas.GeoDataFrame,
    cell: float = 500.0,
    *,
    like: Any = None,
    radius: float | None = None,
    quantity: Literal["length", "count"] = "length",
) -> xr.DataArray:
    """Map the density of fractures.

    Parameters
    ----------
    fractures : GeoDataFrame
        Polygons with centre lines, or lines.
    cell : float
        Pixel of the map, in the units of the fractures' CRS (m).
    like : Dataset, DataArray or GeoBox, optional
        What the map is to cover; by default the fractures.
    radius : float, optional
        Average over discs of this radius, in the same units; by default over the cell alone.
    quantity : {"length", "count"}
        Length of centre lines by area (km/km²), or number of fractures, by their middles (1/km²).

    Returns
    -------
    DataArray
        ``density`` (y, x) float32, per area on the ground, in memory.

    Raises
    ------
    InputError
        If there are no fractures and no `like`, or a parameter is out of range.

    Notes
    -----
    Pieces of line longer than an eighth of a cell are divided; each counts where its middle lies.

    Examples
    --------
    >>> import lunarray as la
    >>> fractures = la.sample("nac_crop").lunar.map_fractures().lunar.vectorize()
    >>> la.fractures.density(fractures, cell=200.0).dims
    ('y', 'x')
    """
    require_choice("quantity", quantity, ("length", "count"))
    require_number("cell", cell, 0, strictly=True)
    if radius is not None:
        require_number("radius", radius, 0, strictly=True)
    if fractures.crs is None:
        raise GridError(
            "fractures without a CRS", where="fractures", remedy="Assign one, frame.set_crs(...)"
        )
    crs = require_body(fractures.crs, BODIES)
    if like is None:
        if not len(fractures):
            raise InputError(
                "no fractures", where="fractures", remedy="Give like=, what the map is to cover"
            )
        bounds = tuple(fractures.total_bounds)
        pad = cell / 2
        bounds = (bounds[0] - pad, bounds[1] - pad, bounds[2] + pad, bounds[3] + pad)
    else:
        box = box_of(like) if isinstance(like, (xr.Dataset, xr.DataArray)) else like
        if require_body(box.crs, BODIES) != crs:
            raise GridError(
                "the map is not in the CRS of the fractures",
                where="like",
                remedy="Bring the fractures into its CRS, frame.to_crs(...)",
            )
        bounds = tuple(box.boundingbox)
    grid = covering_box(bounds, float(cell), crs)
    values = per_area(fractures, grid, radius, quantity)
    names = ("lat", "lon") if crs.is_geographic else ("y", "x")
    unit = "km/km2" if quantity == "length" else "1/km2"
    out = xr.DataArray(
        values.astype(np.float32),
        dims=names,
        name="density",
        attrs={
            "units": unit,
            "long_name": "length of fractures by area"
            if quantity == "length"
            else "fractures by area",
        },
    )
    return assign_grid(stamp(out, f"density, cell {cell:g}, radius {radius}"), grid)
