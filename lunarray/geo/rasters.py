"""Raster files as lazy arrays: GeoTIFF, ISIS and PDS products, ENVI, pictures, through GDAL."""

from __future__ import annotations

import itertools
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.engine.files import FileId, file_id
from lunarray.errors import GridError, InputError, LunarrayError, ProductFormatError
from lunarray.geo.crs import BODIES, Bodies, require_body
from lunarray.geo.georeference import assign_grid
from lunarray.typing import typed

if TYPE_CHECKING:
    import xarray as xr

#: What is read, as GDAL calls it: files that hold their own pixels, or a label and the pixels beside it. A VRT, a tile
#: index or a web service, under whatever name, could read any other file, or the network.
DRIVERS = (
    "GTiff", "ISIS3", "ISIS2", "PDS4", "PDS", "VICAR", "ENVI", "EHdr", "HFA", "AAIGrid",
    "PNG", "JPEG", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "BMP", "FITS",
)  # fmt: skip
#: Of these, those that hold pixels as they are.
_RAW = ("ISIS3", "ENVI", "EHdr")
# Bytes of a chunk, as float32: of one band, and of a spectrum.
_CHUNK_BYTES = (16 * 2**20, 32 * 2**20)
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
#: ISIS NULL of whole numbers: a file with this nodata value came out of ISIS, its other special pixels with it.
_ISIS_NULL = {"int16": -32768.0}
_OPENING = threading.Lock()
#: Blocks along each axis of a TIFF that are looked for in the file when it is opened.
_LOOKED_AT = 16
_REMEDY = (
    "Give a GeoTIFF, an ISIS3 cube, a PDS product, an ENVI file with its .hdr beside it, or a PNG"
)


@dataclass(frozen=True)
class RasterInfo:
    """What a raster file says of itself.

    Attributes
    ----------
    path, driver : str
        Which, and how GDAL calls its kind.
    count, shape, block : int, (int, int), (int, int)
        Bands; rows and columns; of the blocks that it is stored in.
    dtypes, scales, offsets, nodata, descriptions, units : tuple
        Of each band.
    masked : tuple of bool
        Whether a band has a mask of its own: inside the file, in a ``.msk`` beside it, or an alpha band.
    crs, transform : CRS or None, Affine or None
        The transform is None where the file has none.
    tags, band_tags, imagery, envi, isis : dict, or list of dict
        Metadata: of the file, of each band, of each band's wavelengths, of ENVI's header, of ISIS' label.
    files : tuple of (str, FileId)
        The files that it consists of, and what they hold; empty where they are not on disk.
    overviews : int
        Smaller copies of all bands that it has, each about half of the one before.
    overview : int or None
        Which of them this is, from 0; None is the raster itself.
    """

    path: str
    driver: str
    count: int
    shape: tuple[int, int]
    block: tuple[int, int]
    dtypes: tuple[str, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    nodata: tuple[float | None, ...]
    descriptions: tuple[str | None, ...]
    units: tuple[str | None, ...]
    masked: tuple[bool, ...]
    crs: Any
    transform: Any
    tags: dict[str, str]
    band_tags: list[dict[str, str]]
    imagery: list[dict[str, str]]
    envi: dict[str, str]
    isis: dict[str, Any]
    files: tuple[tuple[str, FileId], ...]
    overviews: int = 0
    overview: int | None = None

    def select(self, bands: int | Sequence[int] | None = None) -> tuple[int, ...]:
        """Bands counted from 0, of those counted from 1 (by default all). InputError for one not there, or twice."""
        if bands is None:
            return tuple(range(self.count))
        single = isinstance(bands, (int, np.integer))
        numbers = [int(b) for b in np.atleast_1d(np.asarray(bands))]
        wrong = [b for b in numbers if not 1 <= b <= self.count]
        if wrong or not numbers or len(set(numbers)) != len(numbers):
            told = f"band {bands}" if single else f"bands {wrong or numbers}"
            raise InputError(
                f"{told} of {self.count}, counted from 1 and each once",
                where=self.path,
                remedy="Give numbers of bands that the file has",
            )
        return tuple(b - 1 for b in numbers)

    def valid_range(self, band: int, special: str | bool = "auto", *given: float) -> Any:
        """Range of stored numbers of a band (from 0) outside of which are special pixels of ISIS, or None.

        "auto": in cubes of ISIS, in files whose nodata value is its NULL, and of floating-point numbers, which are
        never as large as its special ones. `given` are more values that mean no data.
        """
        dtype = self.dtypes[band]
        if special == "auto":
            special = (
                self.driver == "ISIS3"
                or dtype.startswith("float")
                or _ISIS_NULL.get(dtype, np.nan) in (self.nodata[band], *given)
            )
        return _ISIS_VALID.get(dtype) if special else None


def raster_info(path: str | os.PathLike[str], *, overview: int | None = None) -> RasterInfo:
    """Read what a raster file, URL or ``/vsi…`` name says of itself, and no pixel; errors as of :func:`open_raster`.

    Pixels with a PDS3 label beside them are read as the label says. `overview` is one of its smaller copies, from 0.
    """
    name = _local(path)
    if not _is_remote(name):
        if not os.path.exists(name):
            raise InputError("no such file", where=name, remedy="Check the path")
        name = _described_by(os.path.abspath(name))
    with _opened(name, overview=overview) as raster:
        if raster.count == 0:
            raise InputError(
                "no bands of its own", where=name, remedy="Give one of its subdatasets"
            )
        affine = raster.transform
        placed = not affine.is_identity
        if placed and (affine.b or affine.d):
            raise GridError(
                "its grid is rotated against the axes of its projection",
                where=name,
                remedy="Warp it to an axis-aligned grid, for instance with gdalwarp",
            )
        numbers = range(1, raster.count + 1)
        _require_pixels(raster)
        down, across = (
            _some(-(-n // of)) for n, of in zip(raster.shape, raster.block_shapes[0], strict=True)
        )
        _require_blocks(raster, sorted({1, raster.count}), down, across)
        return RasterInfo(
            path=name,
            driver=raster.driver,
            count=raster.count,
            shape=tuple(raster.shape),
            block=tuple(raster.block_shapes[0]),
            dtypes=tuple(raster.dtypes),
            scales=tuple(raster.scales),
            offsets=tuple(raster.offsets),
            nodata=tuple(raster.nodatavals),
            descriptions=tuple(raster.descriptions),
            units=tuple(raster.units),
            masked=_masked(raster),
            crs=raster.crs,
            transform=affine if placed else None,
            tags=raster.tags(),
            band_tags=[raster.tags(b) for b in numbers],
            imagery=[raster.tags(b, ns="IMAGERY") for b in numbers],
            envi=raster.tags(ns="ENVI"),
            isis=_isis_label(raster),
            files=_files(raster),
            overviews=min(len(raster.overviews(b)) for b in numbers),
            overview=overview,
        )


def _require_pixels(raster: Any) -> None:
    """Raise ProductFormatError where a file is too short for its pixels, which GDAL would give as zeros."""
    if raster.driver not in _RAW or raster.tags(ns="ENVI").get("file_compression", "0") != "0":
        return
    if raster.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION"):
        return
    sizes = [os.path.getsize(path) for path in raster.files if os.path.isfile(path)]
    core = _isis_label(raster).get("Core")
    try:
        needed = max(int(core["StartByte"]) - 1, 0) if isinstance(core, dict) else 0
    except (KeyError, TypeError, ValueError):
        needed = 0
    for dtype, (rows, columns) in zip(raster.dtypes, raster.block_shapes, strict=True):
        down, across = -(-raster.height // rows), -(-raster.width // columns)
        needed += down * rows * across * columns * np.dtype(dtype).itemsize
    if sizes and max(sizes) < needed:
        raise ProductFormatError(
            f"truncated: {max(sizes)} bytes, its pixels take {needed}",
            where=raster.name,
            remedy="Fetch it again",
        )


def _require_blocks(raster: Any, bands: Sequence[int], rows: Any, columns: Any) -> None:
    """Raise ProductFormatError where a TIFF ends before some of its blocks do: these rows and columns of blocks."""
    if raster.driver != "GTiff" or not os.path.isfile(raster.name):
        return
    size = os.path.getsize(raster.name)
    for band, row, column in itertools.product(bands, rows, columns):
        begin, length = (
            raster.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=band)
            for what in ("OFFSET", "SIZE")
        )
        if begin is not None and length is not None and int(begin) + int(length) > size:
            raise ProductFormatError(
                f"truncated: {size} bytes, its pixels reach to byte {int(begin) + int(length)} at least",
                where=raster.name,
                remedy="Fetch it again",
            )


def _some(count: int) -> list[int]:
    """Numbers of a few blocks along an axis, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(int).tolist()))


def _files(raster: Any) -> tuple[tuple[str, FileId], ...]:
    """The files on disk that a raster consists of, and what they hold."""
    try:
        return tuple((path, file_id(path)) for path in raster.files if os.path.isfile(path))
    except OSError as error:
        raise ProductFormatError(
            f"cannot be read ({error.strerror or error})",
            where=raster.name,
            remedy="Check the file",
        ) from error


@typed
def open_raster(
    path: str | os.PathLike[str] | RasterInfo,
    *,
    bands: int | Sequence[int] | None = None,
    chunks: str | int | tuple[int, int] | None = "auto",
    crs: Any = None,
    body: Bodies = BODIES,
    scale: tuple[float, float] | str | None = "auto",
    nodata: float | None = None,
    special: str | bool = "auto",
    masked: bool = True,
    dtype: Any = None,
) -> xr.DataArray:
    """Open a raster file as a lazy array with its coordinates on the ground.

    Parameters
    ----------
    path : path or RasterInfo
        GeoTIFF or COG, ISIS2 and ISIS3 cube, PDS3, PDS4 or VICAR product, ENVI, PNG, JPEG, JPEG 2000 and the other
        ``DRIVERS``; for reading also a URL or a ``/vsi…`` name of GDAL's.
    bands : int or sequence of int, optional
        Counted from 1; by default all. A single number leaves out the dimension.
    chunks : "auto", int, (int, int) or None
        Chunk (y, x); "auto" makes chunks of about 16 MB (several bands: 32) along the blocks of the file; bands are
        never split. None loads everything now.
    crs : optional
        What :func:`lunarray.geo.moon_crs` takes, for a file that has a geotransform and no CRS; it wins over the
        file's.
    body : Body or sequence of Body
        Which the raster may be of.
    scale : "auto", (scale, offset) or None
        What stored numbers mean: by default as the file says (ISIS: multiplier and base). None leaves them.
    nodata : float, optional
        Stored number that means no data, beside those that the file names.
    special : "auto", True or False
        Whether the special pixels of ISIS (NULL, saturated low and high) are missing. "auto": in cubes, in other files
        whose nodata value is ISIS' NULL, and always of floating-point numbers; and of 16 bit numbers with sign -32768,
        where the file names no nodata value.
    masked : bool
        Whether missing pixels become NaN: those of nodata values, special pixels, and masks, be they inside the file,
        in a ``.msk`` beside it, or in an alpha band. If not, stored numbers are returned in the type of the file.
    dtype : dtype, optional
        Of masked values; by default float32, float64 where the file holds 32 bit integers or float64.

    Returns
    -------
    xarray.DataArray
        (band, y, x), (band, lat, lon), or without the band; NaN where there are no data; named by the file. With a CRS
        in ``spatial_ref``, or without coordinates and with ``attrs["georeference"] = "none"``.

    Raises
    ------
    InputError
        If there is no such file or band.
    ProductFormatError
        If it is no raster of a kind that is read; while computing, if it is damaged or has changed.
    GridError
        If its grid is rotated.
    BodyMismatchError
        If it is of another body.

    Examples
    --------
    >>> import lunarray as la
    >>> la.geo.open_raster(la.readers.SAMPLES["albedo"].files[0]).dims
    ('band', 'lat', 'lon')
    """
    import xarray as xr

    info = path if isinstance(path, RasterInfo) else raster_info(path)
    numbers = info.select(bands)
    found = None
    if info.transform is not None and (crs is not None or info.crs is not None):
        found = require_body(info.crs if crs is None else crs, body, where=info.path)
    elif crs is not None:
        raise InputError(
            "a CRS is given, but the file has no geotransform to go with it",
            where=info.path,
            remedy="Leave crs away; map-project the image with ISIS' cam2map to give it a place",
        )
    stored = np.result_type(*(info.dtypes[b] for b in numbers))
    if stored.kind not in "fiu":
        raise InputError(f"pixels of type {stored}", where=info.path, remedy="Give a grey image")
    wide = (stored.itemsize >= 4 and stored.kind in "iu") or stored == np.float64
    kept = (dtype or (np.float64 if wide else np.float32)) if masked else stored
    values = _values(info, numbers, scale, nodata, special) if masked else None
    reading = _Reading(info.path, info.files, numbers, np.dtype(kept).name, values, info.overview)
    data = _data(reading, info, chunks)
    dims = ("lat", "lon") if found is not None and found.is_geographic else ("y", "x")
    array = xr.DataArray(
        data,
        dims=("band", *dims),
        coords={"band": [b + 1 for b in numbers]},
        name=os.path.basename(info.path).split(".")[0],
    )
    if isinstance(bands, (int, np.integer)):
        array = array.isel(band=0, drop=True)
        label = info.descriptions[numbers[0]]
        array.attrs = {"long_name": label} if label else {}
    if found is None:
        array.attrs["georeference"] = "none"
        return array
    from odc.geo.geobox import GeoBox

    return assign_grid(array, GeoBox(info.shape, info.transform, found))


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Values:
    """What stored numbers mean, band by band."""

    scale: tuple[tuple[float, float], ...] | None
    missing: tuple[tuple[float, ...], ...]
    valid: tuple[tuple[float, float] | None, ...]
    masks: tuple[int, ...]


def _values(
    info: RasterInfo,
    numbers: tuple[int, ...],
    scale: Any,
    nodata: float | None,
    special: str | bool,
) -> _Values:
    given = () if nodata is None else (float(nodata),)
    # Where no tag names a value, the least of all 16 bit numbers is ISIS' NULL.
    null = {b: (_ISIS_NULL[info.dtypes[b]],) for b in numbers
            if special == "auto" and info.nodata[b] is None and info.dtypes[b] in _ISIS_NULL}  # fmt: skip
    return _Values(
        scale=None if scale is None else tuple(_scale(scale, info, b) for b in numbers),
        missing=tuple(
            (*given, *null.get(b, ()))
            if info.nodata[b] is None
            else (float(info.nodata[b]), *given)  # type: ignore[arg-type]
            for b in numbers
        ),
        valid=tuple(info.valid_range(b, special, *given) for b in numbers),
        masks=tuple(b for b in numbers if info.masked[b]),
    )


@dataclass(frozen=True)
class _Reading:
    """Bands of a file, and how they are read."""

    path: str
    files: tuple[tuple[str, FileId], ...]
    bands: tuple[int, ...]
    dtype: str
    values: _Values | None
    overview: int | None = None

    def __dask_tokenize__(self) -> Any:
        # Not the paths: the same bytes elsewhere are the same pixels. What is not on disk has only its name.
        where = [(known.size, known.digest) for _, known in self.files] or self.path
        what = ("lunarray.geo._Reading", where, self.bands, self.dtype, self.values)
        return what if self.overview is None else (*what, self.overview)

    def __call__(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """Bands (band, y, x) of a window."""
        from rasterio.windows import Window

        window = Window.from_slices(slice(*rows), slice(*columns))
        numbers = [b + 1 for b in self.bands]
        fault = "damaged, or no longer what was opened"
        with _opened(self.path, fault, overview=self.overview) as raster:
            try:
                stored = raster.read(numbers, window=window)
            except Exception as error:
                self._tell_truncated(raster, rows, columns, error)
                raise
            for path, known in self.files:
                known.require(path)
            if self.values is None:
                return stored.astype(self.dtype, copy=False)
            masks = {b: raster.read_masks(b + 1, window=window) for b in self.values.masks}
        out = np.empty(stored.shape, self.dtype)
        for k, band in enumerate(self.bands):
            out[k] = self._decoded(stored[k], k, masks.get(band))
        return out

    def _tell_truncated(self, raster: Any, rows: Any, columns: Any, cause: Exception) -> None:
        """Raise in place of an error of reading where the file is cut off."""
        spans = (
            range(first // of, -(-last // of))
            for (first, last), of in zip((rows, columns), raster.block_shapes[0], strict=True)
        )
        try:
            _require_blocks(raster, [b + 1 for b in self.bands], *spans)
        except ProductFormatError as error:
            raise ValueError(error.problem) from cause

    def _decoded(self, block: np.ndarray, k: int, mask: np.ndarray | None) -> np.ndarray:
        values = self.values
        assert values is not None
        bad = np.zeros(block.shape, bool) if mask is None else mask == 0
        for value in values.missing[k]:
            bad |= block == value
            if block.dtype.kind == "f" and np.isfinite(value):
                # A nodata value written in decimals need not be the very float that is stored.
                bad |= np.isclose(block, value, rtol=1e-6, atol=0.0)
        if block.dtype.kind == "f":
            bad |= ~np.isfinite(block)
        valid = values.valid[k]
        if valid is not None:
            bad |= (block < valid[0]) | (block > valid[1])
        factor, offset = (1.0, 0.0) if values.scale is None else values.scale[k]
        with np.errstate(over="ignore", invalid="ignore"):
            plain = (factor, offset) == (1.0, 0.0)
            numbers = block if plain else block * np.float64(factor) + offset
            return np.where(bad, np.nan, numbers.astype(self.dtype))


def _data(reading: _Reading, info: RasterInfo, chunks: Any) -> Any:
    height, width = info.shape
    if chunks is None:
        return reading((0, height), (0, width))
    import dask.array as da
    from dask.base import tokenize

    sizes = da.core.normalize_chunks(
        _chunks(chunks, info, len(reading.bands)), shape=info.shape, dtype=reading.dtype
    )
    return da.map_blocks(
        _read_block,
        reading=reading,
        chunks=((len(reading.bands),), *sizes),
        dtype=reading.dtype,
        meta=np.empty((0, 0, 0), reading.dtype),
        name=f"open-raster-{tokenize(reading, sizes)}",
    )


def _read_block(reading: _Reading, block_info: Any = None) -> np.ndarray:
    _, rows, columns = block_info[None]["array-location"]
    return reading(rows, columns)


@contextmanager
def _opened(
    path: str, fault: str = "not a raster that GDAL reads here", *, overview: int | None = None
) -> Iterator[Any]:
    """A raster opened by the drivers that are allowed; what GDAL raises becomes an error of ours."""
    from rasterio.env import ensure_env_with_credentials
    from rasterio.io import DatasetReader

    options = {} if overview is None else {"overview_level": overview}
    read: Callable[..., Any] = ensure_env_with_credentials(
        lambda name: DatasetReader(name, driver=list(DRIVERS), sharing=False, **options)
    )
    try:
        # Without a place: readers say so in their own words. Filters are the process's, so one thread at a time.
        with nullcontext() if _is_remote(path) else _OPENING, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*no geotransform.*")
            raster = read(path)
        with raster:
            yield raster
    except LunarrayError:
        raise
    except Exception as error:  # GDAL's own errors are no RasterioError, and tags need not be text
        raise ProductFormatError(f"{fault} ({error})", where=path, remedy=_REMEDY) from error


# --- what files say -------------------------------------------------------------------------------


def _local(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    return name if _is_remote(name) else os.path.expanduser(name)


def _described_by(name: str) -> str:
    """The PDS3 label beside pixels that have none of their own, else the file itself."""
    stem, ending = os.path.splitext(name)
    if ending.lower() not in (".img", ".jp2"):
        return name
    labels = [stem + own for own in (".lbl", ".LBL", ".lab", ".LAB")]
    headers = [stem + own for own in (".hdr", ".HDR")] + [name + ".hdr"]
    found = next((label for label in labels if os.path.exists(label)), None)
    if found is None or any(map(os.path.exists, headers)):
        return name
    with open(name, "rb") as stream:
        return name if stream.read(14) in (b"PDS_VERSION_ID", b"CCSD3ZF0000100") else found


def _is_remote(name: str) -> bool:
    return name.startswith("/vsi") or "://" in name


def _masked(raster: Any) -> tuple[bool, ...]:
    from rasterio.enums import ColorInterp, MaskFlags

    plain = {MaskFlags.all_valid, MaskFlags.nodata}
    return tuple(
        not plain & set(flags) and kind != ColorInterp.alpha
        for flags, kind in zip(raster.mask_flag_enums, raster.colorinterp, strict=True)
    )


def _isis_label(raster: Any) -> dict[str, Any]:
    """The object ``IsisCube`` of a label; empty where the raster is no ISIS3 cube."""
    if "json:ISIS3" not in raster.tag_namespaces():
        return {}
    # rasterio takes the JSON document for "key:value" or "key=value"; put together again it is whole.
    for key, value in raster.tags(ns="json:ISIS3").items():
        for separator in (":", "="):
            try:
                return dict(json.loads(f"{key}{separator}{value}").get("IsisCube", {}))
            except (ValueError, AttributeError):
                continue
    return {}


def _scale(scale: Any, info: RasterInfo, band: int) -> tuple[float, float]:
    if isinstance(scale, str) and scale == "auto":
        return float(info.scales[band]), float(info.offsets[band])
    try:
        factor, offset = (float(v) for v in scale)
    except (TypeError, ValueError):
        factor = offset = np.nan
    if not (np.isfinite(factor) and np.isfinite(offset) and factor):
        raise InputError(
            f"scale={scale!r}", where=info.path, remedy='Give "auto", None or (scale, offset)'
        )
    return factor, offset


def _chunks(chunks: Any, info: RasterInfo, bands: int) -> tuple[int, int]:
    height, width = info.shape
    if isinstance(chunks, str) and chunks == "auto":
        # Whole blocks of the file, as many as fill the target; square where the file is tiled.
        by, bx = info.block
        pixels = max(1, _CHUNK_BYTES[bands > 1] // (4 * bands))
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
            f"chunks={chunks!r}",
            where=info.path,
            remedy="Give 'auto', a number, (y, x), or None; bands are never split",
        )
    return y, x
