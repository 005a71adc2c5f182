"""Opening images: map-projected NAC as GeoTIFF or ISIS3 cube, unprojected cubes, PNG crops."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lunarray.errors import InputError, ProductFormatError
from lunarray.fractures.brightness import UNIT
from lunarray.fractures.sunlight import AZIMUTH
from lunarray.geo import RasterInfo, open_raster, raster_info
from lunarray.readers import reads
from lunarray.store.provenance import stamp
from lunarray.typing import typed

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["open_nac"]

_FULL_RANGE = {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0}


@typed
@reads
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
        for fractures, but have no lengths and areas. ``attrs["brightness_unit"]`` says what the numbers are, where that
        is known: "0-1" (of what the type can hold), "8-bit" or "16-bit" (stored numbers), "I/F". Models with a scale of
        their own are given images by it; set it where you know better.

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

    Examples
    --------
    >>> import lunarray as la
    >>> files = la.readers.SAMPLES["nac_crop"].files
    >>> la.open_nac(files[0]).dims
    ('y', 'x')
    """
    info = raster_info(path)
    if info.tags.get("PRODUCT_TYPE", "").strip('"').upper() == "EDR":
        raise ProductFormatError(
            "a raw EDR product: neither calibrated nor map-projected",
            where=info.path,
            remedy="Process it with lunarray.fractures.process_edr (needs ISIS), then open what that writes",
        )
    scale, note = _scaling(scale, info, band - 1)
    image = open_raster(
        info,
        bands=band,
        chunks=chunks,
        crs=crs,
        scale=scale,
        nodata=nodata,
        special=special,
        dtype="float32",
    ).rename("image")
    unit = _unit(info.dtypes[band - 1], scale, _is_iof(info.isis))
    image.attrs = {
        "long_name": "I/F" if _is_iof(info.isis) else "brightness",
        "units": "1",
        "stored": f"{info.dtypes[band - 1]}, {note}",
        **({} if unit is None else {UNIT: unit}),
        **_sun(info.tags),
        **{k: image.attrs[k] for k in ("georeference", "grid_mapping") if k in image.attrs},
    }
    return stamp(image, f"open_nac, band {band}", source=os.path.basename(info.path))


def _sun(tags: Mapping[str, str]) -> dict[str, float]:
    """Where the sun is, as a tag of the file says it, clockwise from the image's top: one of lunarray's own."""
    try:
        return {AZIMUTH: float(tags[AZIMUTH])}
    except (KeyError, ValueError):
        return {}


def _unit(dtype: str, scale: Any, reflectance: bool) -> str | None:
    """What the numbers of an image are; None where that is not known."""
    full = _FULL_RANGE.get(dtype)
    if reflectance and (full is None or scale is not None):
        return "I/F"
    if scale is None:
        return {"uint8": "8-bit", "uint16": "16-bit"}.get(dtype)
    return "0-1" if full is not None and scale == (1.0 / full, 0.0) else None


def _is_iof(label: dict[str, Any]) -> bool:
    radiometry = label.get("Radiometry")
    return isinstance(radiometry, dict) and "IOF" in str(radiometry.get("RadiometricType", ""))


def _scaling(scale: Any, info: RasterInfo, band: int) -> tuple[Any, str]:
    """Scale for :func:`lunarray.geo.open_raster`, and how it is told."""
    if isinstance(scale, str) and scale != "auto":
        raise InputError(
            f"scale={scale!r}", where=info.path, remedy='Give "auto", None or (scale, offset)'
        )
    if isinstance(scale, str) and 0 <= band < info.count:
        scale = float(info.scales[band]), float(info.offsets[band])
        if scale == (1.0, 0.0):
            full = _FULL_RANGE.get(info.dtypes[band])
            return (None, "as stored") if full is None else ((1.0 / full, 0.0), f"/ {full:g}")
    if scale is None or isinstance(scale, str):
        return scale, "as stored"
    return scale, "× {} + {}".format(*(f"{v:g}" for v in scale))
