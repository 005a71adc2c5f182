"""Opening images: map-projected NAC as GeoTIFF or ISIS3 cube, unprojected cubes, PNG crops."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.errors import InputError, ProductFormatError
from lunarray.geo import BODIES, assign_grid, require_body
from lunarray.geo.rasters import isis_label
from lunarray.store.provenance import stamp

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["open_nac"]

_TARGET_CHUNK_BYTES = 16 * 2**20
# Valid range of each stored type in ISIS (isis/src/base/objs/SpecialPixel): what lies outside is NULL, or saturated in
# the instrument or in the representation.
_ISIS_VALID = {
    "uint8": (1, 254),
    "uint16": (3, 65522),
    "int16": (-32752, 32767),
    "uint32": (3, 4294967282),
    "int32": (-2147483632, 2147483647),
    "float32": (-3.4028225e38, np.inf),
    "float64": (-1.797693134862313e308, np.inf),
}
#: ISIS NULL of the types: a file with this nodata value came out of ISIS, its other special pixels with it.
_ISIS_NULL = {"int16": -32768.0, "float32": -3.40282265508890445e38}
_FULL_RANGE = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0}


def open_nac(
    path: str | os.PathLike[str],
    *,
    band: int = 1,
    chunks: str | int | tuple[int, int] | None = "auto",
    crs: Any = None,
    scale: str | tuple[float, float] | None = "auto",
    nodata: float | None = None,
    special: str | bool = "auto",
) -> xr.DataArray:
    """Open an image of the LROC Narrow Angle Camera, or one like it, as a lazy array.

    Parameters
    ----------
    path : path
        Map-projected GeoTIFF or ISIS3 cube; an unprojected cube; a PNG or TIFF crop; whatever else GDAL reads.
    band : int
        Counted from 1.
    chunks : "auto", int, (int, int) or None
        Chunk (y, x); "auto" makes chunks of about 16 MB along the blocks of the file. None loads everything now.
    crs : optional
        CRS (what :func:`lunarray.geo.moon_crs` takes) for a file that has a geotransform and no CRS.
    scale : "auto", (scale, offset) or None
        What stored numbers mean. "auto" takes scale and offset of the file (ISIS: multiplier and base); integers
        without one are divided by the largest number of their type, so that 8 and 16 bit have the same range. None
        leaves stored numbers.
    nodata : float, optional
        Stored number that means no data, where the file does not say.
    special : "auto", True or False
        Whether the special pixels of ISIS (NULL, saturated low and high) are missing. "auto": in cubes, and in other
        files whose nodata value is ISIS' NULL.

    Returns
    -------
    xarray.DataArray
        ``image`` (y, x) float32, NaN where there are no data; in longitude and latitude (lat, lon). With a CRS in
        ``spatial_ref``, or without coordinates and with ``attrs["georeference"] = "none"``: such images can be searched
        for fractures, but have no lengths and areas. I/F where the file holds that.

    Raises
    ------
    InputError
        If there is no such file or band, or it is no raster.
    ProductFormatError
        If it is a raw EDR product.
    GridError
        If its grid is rotated.
    BodyMismatchError
        If it is of a body other than the Moon and Mercury.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, section 2.
    """
    import rioxarray
    import xarray as xr

    path = os.path.expanduser(os.fspath(path))
    if not os.path.exists(path):
        raise InputError("no such file", where=path, remedy="check the path")
    info = _raster_info(path)
    if info["edr"]:
        raise ProductFormatError(
            "a raw EDR product: neither calibrated nor map-projected",
            where=path,
            remedy="process it with lunarray.fractures.process_edr (needs ISIS), then open what that writes",
        )
    if not 1 <= band <= info["count"]:
        raise InputError(
            f"band {band} of {info['count']}", where=path, remedy="bands are counted from 1"
        )
    # PROJ may know more than the file: a CRS that is given wins.
    found = None
    if info["georeferenced"] and (crs is not None or info["crs"] is not None):
        found = require_body(info["crs"] if crs is None else crs, BODIES, where=path)
    elif crs is not None:
        raise InputError(
            "a CRS is given, but the file has no geotransform to go with it",
            where=path,
            remedy="leave crs away; map-project the image with ISIS' cam2map to give it a place",
        )

    spatial = None if chunks is None else _spatial_chunks(chunks, info, path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no geotransform.*")
        opened: Any = rioxarray.open_rasterio(
            path,
            chunks=None if spatial is None else {"band": 1, "y": spatial[0], "x": spatial[1]},
            cache=False,
            lock=None if spatial is None else False,
        )
    if not hasattr(opened, "dims"):
        raise InputError("several rasters in one file", where=path, remedy="export one of them")
    stored = opened.isel(band=band - 1, drop=True)
    dtype = np.dtype(info["dtypes"][band - 1])
    if dtype.kind not in "fiu":
        raise InputError(f"pixels of type {dtype}", where=path, remedy="give a grey image")
    factor, offset, note = _scaling(scale, info, band - 1, dtype, path)
    missing = [v for v in (nodata, info["nodata"][band - 1]) if v is not None]
    is_isis = info["driver"] == "ISIS3" or _ISIS_NULL.get(dtype.name) in missing
    valid = _ISIS_VALID.get(dtype.name) if (is_isis if special == "auto" else special) else None
    options: dict[str, Any] = {
        "factor": factor,
        "offset": offset,
        "missing": tuple(float(v) for v in missing),
        "valid": valid,
    }
    arrays = [stored.data]
    if info["alpha"] is not None and info["alpha"] != band - 1:
        arrays.append(opened.isel(band=info["alpha"], drop=True).data)
    if spatial is None:
        data: Any = _decode(*(np.asarray(a) for a in arrays), **options)
    else:
        import dask.array as da

        data = da.map_blocks(
            _decode, *arrays, **options, dtype=np.float32, meta=np.empty((0, 0), np.float32)
        )
    attrs = {
        "long_name": "I/F" if info["iof"] else "brightness",
        "units": "1",
        "stored": f"{dtype.name}, {note}",
    }
    geographic = found is not None and found.is_geographic
    dims = ("lat", "lon") if geographic else ("y", "x")
    image = xr.DataArray(data, dims=dims, name="image", attrs=attrs)
    image = stamp(image, f"open_nac, band {band}", source=os.path.basename(path))
    if found is None:
        image.attrs["georeference"] = "none"
        return image
    from odc.geo.geobox import GeoBox

    return assign_grid(image, GeoBox(info["shape"], info["transform"], found))


def _raster_info(path: str) -> dict[str, Any]:
    import rasterio
    from rasterio.enums import ColorInterp
    from rasterio.errors import RasterioError

    from lunarray.errors import GridError

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*no geotransform.*")
            with rasterio.open(path) as raster:
                if raster.count == 0:
                    raise InputError(
                        "no bands of its own", where=path, remedy="give one of its subdatasets"
                    )
                tags = raster.tags()
                affine = raster.transform
                placed = not affine.is_identity
                if placed and (affine.b or affine.d):
                    raise GridError(
                        "its grid is rotated against the axes of its projection",
                        where=path,
                        remedy="warp it to an axis-aligned grid, for instance with gdalwarp",
                    )
                kinds = raster.colorinterp
                alpha = next((i for i, kind in enumerate(kinds) if kind == ColorInterp.alpha), None)
                label = isis_label(raster)
                return {
                    "driver": raster.driver,
                    "count": raster.count,
                    "shape": raster.shape,
                    "dtypes": raster.dtypes,
                    "block": raster.block_shapes[0],
                    "crs": raster.crs,
                    "transform": affine,
                    "georeferenced": placed,
                    "scales": raster.scales,
                    "offsets": raster.offsets,
                    "nodata": raster.nodatavals,
                    "alpha": alpha,
                    "edr": tags.get("PRODUCT_TYPE", "").strip('"').upper() == "EDR",
                    "iof": _is_iof(label),
                }
    except RasterioError as error:
        raise InputError(
            f"not a raster that GDAL reads ({error})",
            where=path,
            remedy="give a GeoTIFF, an ISIS3 cube or a PNG",
        ) from error


def _is_iof(label: dict[str, Any]) -> bool:
    radiometry = label.get("Radiometry")
    return isinstance(radiometry, dict) and "IOF" in str(radiometry.get("RadiometricType", ""))


def _scaling(
    scale: Any, info: dict[str, Any], band: int, dtype: np.dtype, path: str
) -> tuple[float, float, str]:
    if scale is None:
        return 1.0, 0.0, "as stored"
    if not isinstance(scale, str):
        try:
            factor, offset = (float(v) for v in scale)
        except (TypeError, ValueError):
            factor = offset = np.nan
        if not (np.isfinite(factor) and np.isfinite(offset) and factor):
            raise InputError(
                f"scale={scale!r}", where=path, remedy='give "auto", None or (scale, offset)'
            )
        return factor, offset, f"× {factor:g} + {offset:g}"
    if scale != "auto":
        raise InputError(
            f"scale={scale!r}", where=path, remedy='give "auto", None or (scale, offset)'
        )
    factor, offset = float(info["scales"][band]), float(info["offsets"][band])
    if (factor, offset) != (1.0, 0.0):
        return factor, offset, f"× {factor:g} + {offset:g}"
    full = _FULL_RANGE.get(dtype.name)
    return (1.0, 0.0, "as stored") if full is None else (1.0 / full, 0.0, f"/ {full:g}")


def _spatial_chunks(chunks: Any, info: dict[str, Any], path: str) -> tuple[int, int]:
    height, width = info["shape"]
    if chunks == "auto":
        # Whole blocks of the file, as many as fill the target; square where the file is tiled.
        by, bx = info["block"]
        pixels = _TARGET_CHUNK_BYTES // 4
        if bx >= width:
            y = max(1, min(height, pixels // width))
            return (max(by, y // by * by) if by < y else y, width)
        side = int(pixels**0.5)
        return max(by, side // by * by), max(bx, side // bx * bx)
    pair = (chunks, chunks) if isinstance(chunks, int) else chunks
    try:
        y, x = (int(v) for v in pair)
    except (TypeError, ValueError):
        y = x = 0
    if y < 1 or x < 1:
        raise InputError(
            f"chunks={chunks!r}", where=path, remedy="give 'auto', a number, (y, x), or None"
        )
    return y, x


def _decode(
    block: np.ndarray,
    alpha: np.ndarray | None = None,
    *,
    factor: float,
    offset: float,
    missing: tuple[float, ...],
    valid: tuple[float, float] | None,
) -> np.ndarray:
    """Stored numbers to float32 with NaN where there are none."""
    bad = np.zeros(block.shape, bool) if alpha is None else alpha == 0
    for value in missing:
        bad |= block == value
        if block.dtype.kind == "f" and np.isfinite(value):
            # A nodata value written in decimals need not be the very float that is stored.
            bad |= np.isclose(block, value, rtol=1e-6, atol=0.0)
    if block.dtype.kind == "f":
        bad |= ~np.isfinite(block)
    if valid is not None:
        bad |= (block < valid[0]) | (block > valid[1])
    with np.errstate(over="ignore", invalid="ignore"):
        values = block if (factor, offset) == (1.0, 0.0) else block * factor + offset
        return np.where(bad, np.float32(np.nan), values.astype(np.float32))
