"""Weak labels: lines with a class of width, buffered and rasterised on the grid of an image."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from lunarray.engine.graph import Block, assemble
from lunarray.errors import InputError, LunarrayWarning
from lunarray.fractures.ground import box_of
from lunarray.geo import (
    BODIES,
    radius_of,
    read_vectors,
    require_body,
    spatial_dims,
    transform_geometry,
)
from lunarray.store.provenance import stamp
from lunarray.typing import typed

__all__ = ["CLASS_LIMITS", "CLASS_WIDTHS", "weak_labels", "width_class"]

#: Limits of the classes of width, in pixels: from, below.
CLASS_LIMITS = {
    "tiny": (0.0, 5.0),
    "small": (5.0, 10.0),
    "medium": (10.0, 20.0),
    "large": (20.0, 30.0),
    "huge": (30.0, math.inf),
}
#: Width that a line of each class is given, in pixels: the middle of the class; of the open one, a class further.
CLASS_WIDTHS = {"tiny": 2.5, "small": 7.5, "medium": 15.0, "large": 25.0, "huge": 35.0}
#: Side of the chunks of labels where the image has none.
CHUNK = 2048
# Corners are kept to this part of a pixel, exactly representable whatever block they are counted from.
_QUANTUM = 2.0**-10


def width_class(width: Any) -> np.ndarray:
    """Class of fractures by their width.

    Parameters
    ----------
    width : array_like
        Pixels, 0 or more.

    Returns
    -------
    ndarray of str
        "tiny" (0–5 pixels), "small" (5–10), "medium" (10–20), "large" (20–30) or "huge" (30 and more).

    Raises
    ------
    InputError
        If a width is negative or no number.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, section 3.1.
    """
    values = np.asarray(width, np.float64)
    if not (values >= 0).all():
        raise InputError("widths that are negative or no numbers", where="width", remedy="Give pixels")  # fmt: skip
    names = np.array(list(CLASS_LIMITS), dtype=object)
    return names[np.digitize(values, [low for low, _ in CLASS_LIMITS.values()][1:])]


@typed
def weak_labels(
    lines: Any,
    like: xr.DataArray,
    *,
    width: str | float = "width",
    widths: Mapping[str, float] | None = None,
    polygons: Any = None,
    crs: Any = None,
    polygons_crs: Any = None,
    all_touched: bool = False,
) -> xr.DataArray:
    """Label the pixels of an image from lines drawn along fractures.

    Each line becomes a band about as wide as its class says, in pixels of the image's own resolution; polygons, such
    as pits and outlines drawn by hand, are added as they are.

    Parameters
    ----------
    lines : GeoDataFrame or path
        Lines (points and polygons may be among them: points become discs, polygons are taken as they are), from any
        file that OGR reads, in any CRS of the same body.
    like : DataArray
        The image: (y, x), georeferenced.
    width : str or float
        Column with the class of each line ("tiny", "small", "medium", "large", "huge", in any case) or with its width
        in pixels; or one class or one width for all.
    widths : mapping of str to float, optional
        Full widths (pixels) of the classes; by default ``CLASS_WIDTHS``. It may name other classes.
    polygons : GeoDataFrame or path, optional
        Merged with the lines.
    crs, polygons_crs : optional
        CRS of `lines` and `polygons` where their files have none (a shapefile without .prj).
    all_touched : bool
        Label every pixel that a band touches, not only those with their middle in it.

    Returns
    -------
    DataArray
        ``label`` uint8 (y, x): 1 on fractures, 0 elsewhere, 255 where the image has no data. Lazy, in the chunks of the
        image, where the image is lazy. ``attrs["features"]`` is the number of features that touch the grid; with none
        there is a warning, and the labels are 0.

    Raises
    ------
    InputError
        If vectors cannot be read, or a class or width is unknown.
    GridError
        If the image is not georeferenced or vectors have no CRS.
    BodyMismatchError
        If they are of different bodies.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, section 3.1. The paper gives the classes and not the width
    that each was buffered to.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.nac_scene((256, 256))
    >>> labels = la.fractures.weak_labels(scene.lines, scene.dataset["image"])
    >>> labels.shape
    (256, 256)
    """
    dims = spatial_dims(like)
    geobox = box_of(like, "placing labels")
    shapes = [_in_pixels(read_vectors(lines, crs, where="lines"), geobox, width, widths)]
    if polygons is not None:
        frame = read_vectors(polygons, polygons_crs, where="polygons")
        wrong = sorted(set(frame.geom_type) - {"Polygon", "MultiPolygon"})
        if wrong:
            raise InputError(
                f"features of type {', '.join(wrong)}", where="polygons", remedy="Give polygons; lines go to `lines`"
            )  # fmt: skip
        shapes.append(_in_pixels(frame, geobox, 0.0, None))
    found = _on_the_image(np.concatenate(shapes), *geobox.shape)
    image = like.transpose(*(dims or ()))
    if hasattr(image.data, "dask"):
        data = _lazy(image.data, found, bool(all_touched))
    else:
        data = _burn(np.asarray(image.data), found, 0, 0, bool(all_touched))
    labels = xr.DataArray(
        data,
        dims=image.dims,
        coords={k: c for k, c in image.coords.items() if set(c.dims) <= set(image.dims)},
        name="label",
        attrs={
            "long_name": "fracture",
            "flag_values": [0, 1, 255],
            "flag_meanings": "background fracture no_data",
            "features": len(found),
            **{k: image.attrs[k] for k in ("grid_mapping",) if k in image.attrs},
        },
    )
    return stamp(labels, f"weak_labels, {len(found)} features")


def _on_the_image(found: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Features, in pixels, that touch an image; a warning where none does."""
    import shapely

    inside = np.sort(
        shapely.STRtree(found).query(shapely.box(0, 0, columns, rows), predicate="intersects")
    )
    if not found.size:
        warnings.warn("there are no features; all labels are 0", LunarrayWarning, stacklevel=3)
    elif not inside.size:
        left, top, right, bottom = (float(v) for v in shapely.total_bounds(found))
        warnings.warn(
            f"none of the {found.size} features is on the image: they span columns {left:.0f} to {right:.0f} and rows "
            f"{top:.0f} to {bottom:.0f} of its {columns} × {rows} pixels; all labels are 0",
            LunarrayWarning,
            stacklevel=3,
        )
    return found[inside]


def _in_pixels(
    frame: Any, geobox: Any, width: str | float, widths: Mapping[str, float] | None
) -> np.ndarray:
    """Bands and polygons in pixels of the grid: column, row."""
    import shapely

    crs, affine = require_body(geobox.crs, BODIES), geobox.transform
    source = require_body(frame.crs, BODIES)
    box = geobox.boundingbox
    full = _widths(frame, width, widths)
    geometry = frame.geometry.to_numpy()
    # Long sides are drawn straight in their own CRS: corners every 64 pixels of the image or so follow them in its.
    size = math.sqrt(abs(affine.a * affine.e))
    metre = math.radians(1.0) * radius_of(crs)
    step = 64 * size * (metre if crs.is_geographic else 1.0)
    step = step / metre if source.is_geographic else step
    bounds = shapely.bounds(geometry)
    extent = np.nanmax(bounds[:, 2:] - bounds[:, :2]) if len(bounds) else 0.0
    # A file of the whole Moon and an image of a metre a pixel: no more corners than needed for its curves.
    step = max(step, extent / 20_000) if np.isfinite(extent) else step
    moved = transform_geometry(
        geometry, source, crs, centre=(box.left + box.right) / 2, step=step if step > 0 else None
    )
    inverse = ~affine

    def to_pixels(points: np.ndarray) -> np.ndarray:
        x, y = points.T
        return np.column_stack([inverse.a * x + inverse.c, inverse.e * y + inverse.f])

    finite = np.array([np.isfinite(b).all() for b in shapely.bounds(moved)], bool)
    moved = shapely.transform(moved[finite], to_pixels)
    full = full[finite]
    kind = shapely.get_dimensions(moved)
    # What is far from the image needs no buffer: circles cost more than bounds.
    rows, columns = geobox.shape
    low, high = shapely.bounds(moved)[:, :2], shapely.bounds(moved)[:, 2:]
    margin = full[:, None]
    near = ((high >= -margin) & (low <= np.array([columns, rows]) + margin)).all(axis=1)
    if not near.any():
        # Kept, to say in the message where they are.
        return np.asarray(shapely.box(*shapely.bounds(moved).T)) if len(moved) else moved
    moved, full, kind = moved[near], full[near], kind[near]
    banded = kind < 2
    if (full[banded] <= 0).any():
        raise InputError(
            "lines of no width", where="width", remedy="Give each line a class, or a width of more than 0 pixels"
        )  # fmt: skip
    moved[banded] = shapely.buffer(moved[banded], full[banded] / 2, quad_segs=8)
    moved[~banded] = shapely.make_valid(moved[~banded])
    return shapely.transform(moved, lambda p: np.round(p / _QUANTUM) * _QUANTUM)


def _widths(frame: Any, width: Any, widths: Mapping[str, float] | None) -> np.ndarray:
    """Full width (pixels) of each feature."""
    known = {k.lower(): float(v) for k, v in (CLASS_WIDTHS if widths is None else widths).items()}
    areal = frame.geom_type.isin(["Polygon", "MultiPolygon"]).to_numpy()
    classes = ", ".join(known)
    columns = ", ".join(str(c) for c in frame.columns if c != frame.geometry.name)
    if isinstance(width, str) and width not in frame.columns:
        if width.lower() not in known:
            if areal.all():
                return np.zeros(len(frame))
            raise InputError(
                f"neither a column {width!r} nor a class of width",
                where="width",
                remedy=f"The columns are {columns or 'none'}; the classes are {classes}",
            )
        return np.full(len(frame), known[width.lower()])
    if not isinstance(width, str):
        value = float(width)
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f"width={width!r}", where="width", remedy="Give pixels")
        return np.full(len(frame), value)
    out = np.zeros(len(frame))
    for k, value in enumerate(frame[width]):
        if areal[k]:
            continue
        try:
            out[k] = known[value.strip().lower()] if isinstance(value, str) else float(value)
        except (KeyError, TypeError, ValueError):
            try:
                out[k] = float(value)
            except (TypeError, ValueError):
                out[k] = np.nan
        if not (np.isfinite(out[k]) and out[k] > 0):
            raise InputError(
                f"feature {k}: {value!r} is neither a class of width nor a number of pixels",
                where=width,
                remedy=f"The classes are {classes}",
            )
    return out


def _lazy(data: Any, shapes: np.ndarray, all_touched: bool) -> Any:
    import shapely

    tree = shapely.STRtree(shapes)
    wkb = shapely.to_wkb(shapes)
    edges = [np.concatenate([[0], np.cumsum(sizes)]).tolist() for sizes in data.chunks]

    def needs(index: tuple[int, ...]) -> list[Any]:
        (top, bottom), (left, right) = (
            (edges[axis][k], edges[axis][k + 1]) for axis, k in enumerate(index)
        )
        # A pixel around: a block's own pixels are decided by all that can touch them.
        area = shapely.box(left - 1, top - 1, right + 1, bottom + 1)
        here = np.sort(tree.query(area, predicate="intersects"))
        return [Block(data, index), [bytes(wkb[k]) for k in here], top, left]

    return assemble(
        _burn_block,
        data.chunks,
        needs=needs,
        dtype=np.uint8,
        name="weak-labels",
        token=(data.name, list(wkb), all_touched),
        kwargs={"all_touched": all_touched},
    )


def _burn_block(
    image: np.ndarray, wkb: list[bytes], row: int, column: int, all_touched: bool
) -> np.ndarray:
    import shapely

    shapes = np.array(shapely.from_wkb(wkb), dtype=object)
    return _burn(image, shapes, row, column, all_touched)


def _burn(
    image: np.ndarray, shapes: np.ndarray, row: int, column: int, all_touched: bool
) -> np.ndarray:
    from affine import Affine
    from rasterio.features import rasterize

    out = np.zeros(image.shape, np.uint8)
    if len(shapes) and out.size:
        rasterize(
            [(shape, 1) for shape in shapes],
            out=out,
            transform=Affine.translation(column, row),
            all_touched=all_touched,
        )
    if image.dtype.kind == "f":
        out[np.isnan(image)] = 255
    return out
