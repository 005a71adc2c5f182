"""Opening maps of spectra: multi-band rasters and the public global SP cube."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.engine.files import file_id
from lunarray.errors import BandMismatchError, InputError, LunarrayWarning, ProductFormatError
from lunarray.geo import MOON, RasterInfo, assign_crs, open_raster, raster_info, require_body
from lunarray.readers import reads
from lunarray.sp.bands import WAVELENGTH_ATTRS, WAVELENGTHS_160
from lunarray.store.provenance import stamp
from lunarray.typing import typed

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["open_cube", "open_sp_cube"]

_TO_NM = {
    **dict.fromkeys(("nm", "nanometers", "nanometer", "nanometres"), 1.0),
    **dict.fromkeys(("um", "µm", "micrometers", "micrometer", "microns", "micron"), 1000.0),
    "m": 1e9,
}
_IN_TEXT = re.compile(
    r"\(?\s*(\d+\.?\d*)\s*(nm|nanometers?|um|µm|micro(?:meter)?s?)?\s*\)?\s*$", re.I
)


@typed
@reads
def open_cube(
    path: str | os.PathLike[str],
    *,
    wavelengths: Sequence[float] | np.ndarray | None = None,
    bands: Sequence[int] | None = None,
    chunks: str | tuple[int, int] | int | None = "auto",
    crs: Any = None,
) -> xr.Dataset:
    """Open a mosaic of spectra (multi-band GeoTIFF, ISIS3 cube, ENVI and whatever else GDAL reads) as a lazy dataset.

    Parameters
    ----------
    path : path
        The raster (of an ENVI pair the data file).
    wavelengths : sequence of float, optional
        Wavelengths (nm) of the bands. By default from the file: ENVI's ``wavelength``, BandBin/Center of ISIS, GDAL's
        ``CENTRAL_WAVELENGTH_UM``, band tags called ``wavelength``, or a number at the end of every band's description.
    bands : sequence of int, optional
        Bands to read, counted from 1; `wavelengths` may then be those of these bands.
    chunks : "auto", int, (int, int) or None
        Spatial chunk (y, x); "auto" makes chunks of about 32 MB. All wavelengths are in one chunk. None loads
        everything now.
    crs : optional
        Lunar CRS (what `lunarray.geo.moon_crs` takes) for a file that has none.

    Returns
    -------
    xarray.Dataset
        ``reflectance`` (wavelength, y, x) float32, scale and offset applied, NaN where the file has no data or an
        ISIS special pixel; bands in order of wavelength. The CRS is in ``spatial_ref``; without one there is a
        warning and ``attrs["crs"]`` is ``"unknown"``.

    Raises
    ------
    InputError
        If there is no such file, it is no raster, or has less than two bands.
    BandMismatchError
        If the wavelengths are unknown or their number is not that of the bands.
    BodyMismatchError
        If its CRS is of another body.

    Examples
    --------
    >>> import lunarray as la
    >>> scene = la.simulate.polar_scene(resolution=20_000, latitude=85)
    >>> cube = scene.chunk()["reflectance"].isel(wavelength=[0, 50, 100])
    >>> paths = cube.lunar.to_cog("cube")
    >>> la.open_cube(paths[0], wavelengths=cube["wavelength"].values).sizes["wavelength"]
    3
    """

    info = raster_info(path)
    numbers = [b + 1 for b in info.select(bands)]
    if len(numbers) < 2:
        raise InputError(
            f"{len(numbers)} band is not a spectrum",
            where=info.path,
            remedy="Give a raster with one band per wavelength",
        )
    values = _wavelengths(info, numbers, wavelengths)
    order = np.argsort(values, kind="stable")
    cube = open_raster(
        info,
        bands=[numbers[k] for k in order],
        chunks=chunks,
        crs=None if info.transform is None else crs,
        body=MOON,
        dtype="float32",
    )
    cube = cube.drop_vars("band").rename(band="wavelength")
    ordered = values[order].astype(np.float32)
    cube = cube.assign_coords(wavelength=("wavelength", ordered, WAVELENGTH_ATTRS))
    place = cube.attrs.get("grid_mapping")
    cube.attrs = {"units": "1", "long_name": "reflectance"}
    if place is not None:
        cube.attrs["grid_mapping"] = place
    ds = cube.to_dataset(name="reflectance")
    ds = stamp(ds, f"open_cube, {len(numbers)} bands", source=os.path.basename(info.path))
    if place is not None:
        return ds
    if crs is not None or info.crs is not None:
        return assign_crs(ds, require_body(info.crs if crs is None else crs, where=info.path))
    warnings.warn(
        f"{info.path}: no coordinate reference system; taken as lunar without a position on the Moon",
        LunarrayWarning,
        stacklevel=3,  # beyond the guard of readers
    )
    ds.attrs["crs"] = "unknown"
    return ds


def has_wavelengths(path: str | os.PathLike[str]) -> bool:
    """Whether a raster has several bands that say their wavelengths."""
    info = raster_info(path)
    return info.count > 1 and len(_found_wavelengths(info) or ()) == info.count


def _wavelengths(info: RasterInfo, numbers: list[int], given: Any) -> np.ndarray:
    """Wavelengths (nm) of the bands `numbers`, given or found, one each."""
    remedy = "Give wavelengths=[...] in nm, one for each band"
    if given is not None:
        values = np.asarray(given, np.float64)
        if values.ndim == 1 and values.size == info.count != len(numbers):
            values = values[np.asarray(numbers) - 1]
        if values.ndim != 1 or values.size != len(numbers):
            raise BandMismatchError(
                f"{values.size} wavelengths for {len(numbers)} bands",
                where=info.path,
                remedy=remedy,
            )
    else:
        found = _found_wavelengths(info)
        if found is None:
            raise BandMismatchError("its bands have no wavelengths", where=info.path, remedy=remedy)
        if len(found) != info.count:
            raise BandMismatchError(
                f"{len(found)} wavelengths in its metadata for {info.count} bands",
                where=info.path,
                remedy=remedy,
            )
        values = np.asarray(found, np.float64)[np.asarray(numbers) - 1]
    ordered = np.sort(values)
    if not np.all(np.isfinite(values)) or ordered[0] <= 0 or np.any(np.diff(ordered) <= 0):
        raise BandMismatchError(
            "wavelengths are not positive numbers that differ", where=info.path, remedy=remedy
        )
    return values


def _found_wavelengths(info: RasterInfo) -> list[float] | None:
    """All bands' wavelengths in nm from the metadata, or None."""
    envi = {k.lower(): v for k, v in info.envi.items()}
    if "wavelength" in envi:
        numbers = _numbers(envi["wavelength"])
        return _to_nm(numbers, envi.get("wavelength_units", envi.get("wavelength units")))
    center: Any = info.isis.get("BandBin", {}).get("Center")
    if center is not None:
        unit = center.get("unit") if isinstance(center, dict) else None
        center = center.get("value") if isinstance(center, dict) else center
        parts = center if isinstance(center, list) else [center]
        if parts and isinstance(parts[0], dict):
            unit = unit or parts[0].get("unit")
            parts = [p.get("value") for p in parts]
        return _to_nm([float(p) for p in parts], unit)
    micrometres = [t["CENTRAL_WAVELENGTH_UM"] for t in info.imagery if "CENTRAL_WAVELENGTH_UM" in t]
    if len(micrometres) == info.count:
        return [1000.0 * float(v) for v in micrometres]
    tags = [{k.lower(): v for k, v in t.items()} for t in info.band_tags]
    if all("wavelength" in t for t in tags):
        unit = tags[0].get("wavelength_units", tags[0].get("wavelength_unit"))
        return _to_nm([_numbers(t["wavelength"])[0] for t in tags], unit)
    lowered = {k.lower(): v for k, v in info.tags.items()}
    for key in ("wavelength", "wavelengths"):
        if key in lowered:
            return _to_nm(_numbers(lowered[key]), lowered.get("wavelength_units"))
    matches = [m for d in info.descriptions if (m := _IN_TEXT.search(d or ""))]
    # "Band 1", "Band 2" ... end with numbers too; wavelengths of spectra in nm or um are told by their range.
    if len(matches) == info.count:
        return _to_nm([float(m.group(1)) for m in matches], matches[0].group(2), strict=True)
    return None


def _numbers(text: str) -> list[float]:
    return [float(v) for v in re.findall(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", text)]


def _to_nm(values: list[float], unit: str | None, *, strict: bool = False) -> list[float] | None:
    """In nm; without a unit, numbers below 100 are micrometres (no sensor here works below 100 nm or beyond 100 um)."""
    if not values:
        return None
    factor = _TO_NM.get((unit or "").strip().lower())
    if factor is None:
        if strict and not (min(values) > 150 or (max(values) < 30 and min(values) % 1)):
            return None
        factor = 1000.0 if max(values) < 100 else 1.0
    return [v * factor for v in values]


# ---- the global SP cube ----
_CUBE_SHAPE = (160, 360, 720)


@typed
@reads
def open_sp_cube(
    path: str | os.PathLike[str], *, chunks: tuple[int, int] | int | None = (60, 720)
) -> xr.Dataset:
    """Open the public global 0.5 degree SP cube (``avg_cube_1000s-7000s_selected_ip110225.img``).

    Parameters
    ----------
    path : path
        The file: raw little-endian float64, 160 wavelengths x 360 latitudes (89.75 N first) x 720 longitudes (0.25
        E first), 331 776 000 bytes.
    chunks : int, (int, int) or None
        Chunk (lat, lon); all wavelengths are in one chunk. The default makes chunks of 28 MB. None loads everything
        now.

    Returns
    -------
    xarray.Dataset
        ``reflectance`` (wavelength, lat, lon) float32 at 30/0/30 degrees, NaN where the file has values that are no
        reflectance (0 or less, or not finite); ``lon`` from -179.75 to 179.75. CRS IAU_2015:30100.

    Raises
    ------
    InputError
        If there is no such file.
    ProductFormatError
        If its size is not that of the cube.

    References
    ----------
    Yokota, Y., et al., 2011. Icarus 215, 639-660. Kouyama, T., et al., 2016. Planetary and Space Science 124, 76-83.

    Examples
    --------
    >>> import lunarray as la
    >>> cube = la.open_sp_cube("SP_cube.img")  # doctest: +SKIP
    """
    import xarray as xr
    from dask.base import tokenize

    path = os.path.expanduser(os.fspath(path))
    _check_cube_size(path)
    reader = _CubeReader(path)
    if chunks is None:
        data = reader[:, :, :]
    else:
        import dask.array as da

        y, x = (chunks, chunks) if isinstance(chunks, int) else chunks
        data = da.from_array(
            reader,
            chunks=(_CUBE_SHAPE[0], y, x),
            name=f"sp-cube-{tokenize(reader)}",
            lock=False,
            asarray=False,
            meta=np.empty((0, 0, 0), np.float32),
        )
    coords = {
        "wavelength": ("wavelength", np.array(WAVELENGTHS_160), WAVELENGTH_ATTRS),
        "lat": ("lat", 89.75 - 0.5 * np.arange(_CUBE_SHAPE[1]), {"units": "degrees_north"}),
        "lon": ("lon", -179.75 + 0.5 * np.arange(_CUBE_SHAPE[2]), {"units": "degrees_east"}),
    }
    attrs = {"units": "1", "long_name": "reflectance", "photometric_geometry": "30 0 30"}
    attrs["light"] = "flat"
    cube = xr.Dataset({"reflectance": (("wavelength", "lat", "lon"), data, attrs)}, coords)
    source = f"SELENE Spectral Profiler global cube, {os.path.basename(path)}"
    cube = stamp(cube, "open_sp_cube", source=source)
    return assign_crs(cube, "geographic")


def _check_cube_size(path: str) -> None:
    need = 8 * int(np.prod(_CUBE_SHAPE))
    if not Path(path).is_file():
        raise InputError("no such file", where=path, remedy="Check the path")
    size = os.path.getsize(path)
    if size != need:
        raise ProductFormatError(
            f"{size} bytes, the global SP cube has {need}",
            where=path,
            remedy="Fetch avg_cube_1000s-7000s_selected_ip110225.img again (JAXA DARTS, sp_cube_ver2011)",
        )


class _CubeReader:
    """The cube as (wavelength, lat, lon) with longitudes from -180, read where it is asked for."""

    ndim = 3
    shape = _CUBE_SHAPE
    dtype = np.dtype(np.float32)

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._file = file_id(path)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("lunarray.sp._CubeReader", self._file.size, self._file.digest)

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        _check_cube_size(self.path)
        self._file.require(self.path)
        stored = np.memmap(self.path, "<f8", "r", shape=_CUBE_SHAPE)
        bands, lat, lon = key
        columns = ((np.arange(_CUBE_SHAPE[2]) + 360) % 720)[lon]
        if np.ndim(columns) and columns.size and np.all(np.diff(columns) == 1):
            block = stored[bands, lat, columns[0] : columns[-1] + 1]
        else:
            block = stored[bands, lat][..., columns]
        values = np.asarray(block)
        return np.where(np.isfinite(values) & (values > 0), values, np.nan).astype(np.float32)
