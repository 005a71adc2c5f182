"""Opening observations of the Moon Mineralogy Mapper."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lunarray.errors import BandMismatchError, InputError, LunarrayWarning
from lunarray.geo import wrap_longitude
from lunarray.maps.m3_files import NAME, Lines, Product, find_product, read_times
from lunarray.readers.files import lazy_array
from lunarray.readers.labels import number_value, text_value
from lunarray.store.provenance import stamp
from lunarray.typing import typed

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["GLOBAL_WAVELENGTHS", "TARGET_WAVELENGTHS", "open_m3"]

#: Of the 256 bands of the target mode (nm): one channel of the detector each.
TARGET_WAVELENGTHS = np.round(446.0225 + 9.980959 * np.arange(256), 2)
# The global mode adds up channels: four at a time at either end of the spectrum, two between.
_OF_BAND = np.repeat(np.arange(85), [4] * 7 + [2] * 42 + [4] * 36)
#: Of the 85 bands of the global mode (nm).
GLOBAL_WAVELENGTHS = np.round(
    np.bincount(_OF_BAND, 446.0225 + 9.980959 * np.arange(256)) / np.bincount(_OF_BAND), 2
)
for _fixed in (TARGET_WAVELENGTHS, GLOBAL_WAVELENGTHS):
    _fixed.setflags(write=False)
_BY_COUNT = {85: GLOBAL_WAVELENGTHS, 83: GLOBAL_WAVELENGTHS[2:], 256: TARGET_WAVELENGTHS}

_CHUNK_BYTES = 32 * 2**20
_SPECTRAL = {
    "L1B": ("radiance", {"units": "W m-2 um-1 sr-1", "long_name": "spectral radiance"}),
    "L2": ("reflectance", {"units": "1", "long_name": "reflectance"}),
}
#: Bands of the files beside the spectra, from 0: name here, unit, what it is, CF's name.
_BESIDE: dict[str, list[tuple[int, str, str, str, str | None]]] = {
    "LOC": [
        (0, "lon", "degrees_east", "longitude", "longitude"),
        (1, "lat", "degrees_north", "latitude", "latitude"),
        (2, "radius", "m", "distance from the middle of the Moon", None),
    ],
    "OBS": [
        (0, "solar_azimuth", "degree", "azimuth to the Sun", "solar_azimuth_angle"),
        (1, "incidence", "degree", "incidence angle, on the sphere", "solar_zenith_angle"),
        (2, "sensor_azimuth", "degree", "azimuth to the instrument", "sensor_azimuth_angle"),
        (3, "emission", "degree", "emission angle, on the sphere", "sensor_zenith_angle"),
        (4, "phase", "degree", "phase angle", None),
        (5, "solar_distance", "AU", "distance to the Sun", None),
        (6, "sensor_distance", "m", "distance to the instrument", None),
        (7, "facet_slope", "degree", "slope of the ground", None),
        (8, "facet_aspect", "degree", "aspect of the ground", None),
        (9, "facet_cos_incidence", "1", "cosine of the incidence angle on the ground", None),
    ],
    "SUP": [
        (0, "albedo", "1", "reflectance at 1489 nm that keeps topography", None),
        (1, "temperature", "K", "temperature that the thermal correction took", None),
        (2, "longwave_radiance", "W m-2 um-1 sr-1", "radiance of the last band but one", None),
    ],
}  # fmt: skip


@typed
def open_m3(
    path: str | os.PathLike[str],
    *,
    wavelengths: Sequence[float] | np.ndarray | None = None,
    bad_bands: Literal["drop", "keep"] = "drop",
    chunks: Literal["auto"] | int | None = "auto",
) -> xr.Dataset:
    """Open an observation of the Moon Mineralogy Mapper (M3) of Chandrayaan-1: radiance (L1B) or reflectance (L2).

    Parameters
    ----------
    path : path
        The label, ``M3G20090207T090254_V03_L1B.LBL`` or ``…_V01_L2.LBL``, or the ``_RDN.IMG`` or ``_RFL.IMG``, with its
        label or its header of ENVI in the same folder. Positions (``_LOC.IMG``), light (``_OBS.IMG``) and times
        (``_TIM.TAB``) are looked for there and in the folder ``L1B`` beside it. Also a GeoTIFF or cube made of such a
        product that says its wavelengths.
    wavelengths : sequence of float, optional
        Of the bands (nm). By default those of the header; without one, those of the mode.
    bad_bands : {"drop", "keep"}
        What to do with bands that the header marks as bad, which the first two of a Level 2 product of the global mode
        are.
    chunks : "auto", int or None
        Lines in a chunk of Dask; "auto" makes chunks of 32 MB. Bands and samples are never cut. None loads everything
        now.

    Returns
    -------
    xarray.Dataset
        ``radiance`` (W m-2 um-1 sr-1) or ``reflectance``, (wavelength, y, x), float32, NaN where the product has -999;
        of Level 2 also ``albedo``, ``temperature`` and ``longwave_radiance`` (y, x). Lines go along ``y``, samples
        along ``x``. Coordinates: ``wavelength`` (nm), ``time`` (y); and for each pixel ``lat``, ``lon`` (degrees,
        float64, lon in [-180, 180)), ``radius`` (m), ``incidence``, ``emission``, ``phase`` and the other angles and
        distances. Where positions are missing there is a warning.

    Raises
    ------
    InputError
        If there is no such file, or an argument is not one of those above.
    ProductFormatError
        If it is no product of M3, or truncated; also at compute time.
    BandMismatchError
        If the wavelengths are unknown, or their number is not that of the bands.

    Notes
    -----
    ``ds.lunar.grid(...)`` makes a map of it. The products' lines are those of the orbit, northernmost first. The
    distance to the Sun is stored as what it differs by from the label's; here it is whole.

    References
    ----------
    Green, R. O., et al., 2011. The Moon Mineralogy Mapper (M3) imaging spectrometer for lunar science. Journal of
    Geophysical Research 116, E00G19.

    Examples
    --------
    >>> ds = open_m3("M3G20090207T090254_V03_L1B.LBL")  # doctest: +SKIP
    >>> ds.lunar.grid("equirectangular", resolution=200, bounds=(...))  # doctest: +SKIP
    """
    import xarray as xr

    if bad_bands not in ("drop", "keep"):
        raise InputError(f"{bad_bands!r}", where="bad_bands", remedy="Give 'drop' or 'keep'")
    if Path(path).suffix.lower() in (".tif", ".tiff", ".cub"):
        return _of_raster(path, wavelengths, chunks)
    product = find_product(path)
    spectra = product.spectra
    bands, nm = _bands(product, wavelengths, bad_bands)
    lines = _line_chunks(chunks, spectra.lines, spectra.samples * bands.size * 4)
    name, attrs = _SPECTRAL[product.level]
    data = _lazy(Lines(spectra, bands, "f4"), lines)
    variables: dict[str, Any] = {
        name: (("wavelength", "y", "x"), data.transpose(1, 0, 2), dict(attrs))
    }
    coords: dict[str, Any] = {
        "wavelength": (
            "wavelength",
            nm.astype("f4"),
            {"units": "nm", "long_name": "wavelength", "standard_name": "radiation_wavelength"},
        )
    }
    for kind in product.others:
        (variables if kind == "SUP" else coords).update(_beside(product, kind, lines))
    if product.times is not None:
        utc = {"standard_name": "time", "long_name": "middle of the line's exposure (UTC)"}
        coords["time"] = ("y", read_times(product.times, spectra.lines), utc)
    if "LOC" not in product.others:
        warnings.warn(
            f"{product.name}: no {product.name}_V03_LOC.IMG beside it, so that its pixels have no positions",
            LunarrayWarning,
            stacklevel=2,
        )
    ds = xr.Dataset(variables, coords, _attributes(product))
    event = f"open_m3, {product.level}, {bands.size} of {spectra.bands} bands"
    return stamp(ds, event, source=f"Chandrayaan-1 M3 {product.level}: {product.name}")


def _beside(product: Product, kind: str, lines: tuple[int, ...] | None) -> dict[str, Any]:
    """Variables (y, x) of a file beside the spectra."""
    image, found = product.others[kind], {}
    for band, name, units, text, cf in _BESIDE[kind]:
        add = _solar_distance(product) if name == "solar_distance" else 0.0
        values = _lazy(Lines(image, np.array([band]), image.dtype, add), lines)[:, 0]
        if name == "lon":
            values = wrap_longitude(values)
        described = {"units": units, "long_name": text} | ({"standard_name": cf} if cf else {})
        found[name] = (("y", "x"), values, described)
    return found


def _of_raster(path: Any, wavelengths: Any, chunks: Any) -> xr.Dataset:
    from lunarray.sp import open_cube

    ds = open_cube(path, wavelengths=wavelengths, chunks=chunks)
    return ds.assign_attrs(_INSTRUMENT)


_INSTRUMENT = {"mission": "Chandrayaan-1", "instrument": "Moon Mineralogy Mapper (M3)"}


def _lazy(reader: Lines, lines: tuple[int, ...] | None) -> Any:
    from dask.base import tokenize

    return lazy_array(reader, lines, f"m3-{tokenize(reader, lines)}")


def _line_chunks(chunks: Any, lines: int, line_bytes: int) -> tuple[int, ...] | None:
    if chunks is None:
        return None
    if chunks == "auto":
        size = max(1, _CHUNK_BYTES // line_bytes)
    elif isinstance(chunks, int) and not isinstance(chunks, bool) and chunks > 0:
        size = chunks
    else:
        raise InputError(
            f"chunks={chunks!r}",
            where="open_m3",
            remedy="Give 'auto', a positive number of lines, or None to load",
        )
    return tuple(min(size, lines - at) for at in range(0, lines, size))


def _numbers(text: str) -> np.ndarray:
    return np.array(re.findall(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", text), np.float64)


def _bands(product: Product, given: Any, bad_bands: str) -> tuple[np.ndarray, np.ndarray]:
    """Bands that are read, from 0, in order of wavelength, and their wavelengths (nm)."""
    image, header = product.spectra, product.header
    if given is not None:
        nm = np.asarray(given, np.float64).ravel()
    elif "wavelength" in header:
        nm = _numbers(header["wavelength"])
        if nm.size and nm.max() < 100:
            nm = nm * 1000.0
    elif image.bands in _BY_COUNT:
        nm = np.array(_BY_COUNT[image.bands])
    else:
        nm = np.empty(0)
    if nm.size != image.bands:
        raise BandMismatchError(
            f"{nm.size or 'no'} wavelengths for {image.bands} bands",
            where=image.path,
            remedy="Put the product's .HDR beside it, or give wavelengths=[...] in nm",
        )
    good = np.ones(image.bands, bool)
    if bad_bands == "drop" and "bbl" in header:
        marks = _numbers(header["bbl"])
        if marks.size == image.bands and marks.any():
            good = marks > 0
    if not np.all(np.isfinite(nm)) or np.unique(nm).size != nm.size or nm.min() <= 0:
        raise BandMismatchError(
            "wavelengths are not positive numbers that differ",
            where=image.path,
            remedy="Give wavelengths=[...] in nm",
        )
    order = np.argsort(nm, kind="stable")
    order = order[good[order]]
    return order, nm[order]


def _solar_distance(product: Product) -> float:
    """Of the label (AU), which the file's is counted from."""
    text = None if product.label is None else product.label.keywords.get("SOLAR_DISTANCE")
    return number_value(text) or 0.0


def _attributes(product: Product) -> dict[str, Any]:
    mode = "global" if product.name[2:3].upper() == "G" else "target"
    attrs: dict[str, Any] = _INSTRUMENT | {
        "processing_level": product.level,
        "observing_mode": mode,
        "product_id": product.name,
    }
    keys = {
        "product_id": "PRODUCT_ID", "product_version": "PRODUCT_VERSION_ID", "orbit": "ORBIT_NUMBER",
        "start_time": "START_TIME", "stop_time": "STOP_TIME",
        "orbit_limb": "CH1:ORBIT_LIMB_DIRECTION", "yaw": "CH1:SPACECRAFT_YAW_DIRECTION",
    }  # fmt: skip
    if product.label is not None:
        words = product.label.keywords
        attrs |= {k: v for k, key in keys.items() if (v := text_value(words.get(key)))}
        if _solar_distance(product):
            attrs["solar_distance"] = _solar_distance(product)
    return attrs


def is_m3(path: str) -> bool:
    """Whether a file is called as one of an observation is."""
    return bool(NAME.match(os.path.basename(path)))
