"""Reading KAGUYA (SELENE) Spectral Profiler Level 2C products."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lunarray.errors import InputError, ProductFormatError
from lunarray.geo import wrap_longitude
from lunarray.sp.labels import (
    MAX_LABEL_BYTES,
    LabelObject,
    Pointer,
    number_value,
    numpy_dtype,
    parse_label,
    pointer_value,
    text_value,
)
from lunarray.store.products import find_files, lazy_array, read_all, warn_skipped
from lunarray.store.provenance import stamp

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["QA_FLAGS", "open_sp"]

#: Bits of the QA word as they were **observed** in two real products (orbits 2358, v02, and 4184, v03). The
#: official table (LISM product format description) was not at hand, so these names say where the bits stand, not
#: what the producer calls them: an ordinary value is 288 = bits 8 and 5; bit 15 stands on two channels of every
#: spectrum (1003.6 and 1942.0 nm); bit 14 on the channels of the VIS/NIR1 overlap that the joined spectrum of
#: Yokota et al. (2011) does not use (VIS from 956.6 nm, NIR1 up to 947.4 nm); bit 13 on the ends of NIR1 and NIR2
#: that face each other (1652.1-1709.8 nm); 296 = 288 plus bit 3 exactly where the stored value is 0. Bit 3 has that
#: meaning only with bit 8: on 1003.6 and 1676.0 nm bit 8 is clear and the low byte counts something else.
QA_FLAGS: dict[str, int] = {
    "no_value": 0x0008,
    "regular": 0x0100,
    "detector_end": 0x2000,
    "overlap": 0x4000,
    "bad_channel": 0x8000,
}

#: Rows of the ancillary table: our name -> (label's name, dtype, attributes).
_ANCILLARY: dict[str, tuple[str, str, dict[str, str]]] = {
    "lat": (
        "CENTER_LATITUDE",
        "f8",
        {"units": "degrees_north", "standard_name": "latitude", "long_name": "footprint latitude"},
    ),
    "lon": (
        "CENTER_LONGITUDE",
        "f8",
        {"units": "degrees_east", "standard_name": "longitude", "long_name": "footprint longitude"},
    ),
    "incidence": (
        "INCIDENCE_ANGLE",
        "f4",
        {"units": "degree", "standard_name": "solar_zenith_angle", "long_name": "incidence angle"},
    ),
    "emission": (
        "EMISSION_ANGLE",
        "f4",
        {"units": "degree", "standard_name": "sensor_zenith_angle", "long_name": "emission angle"},
    ),
    "phase": ("PHASE_ANGLE", "f4", {"units": "degree", "long_name": "phase angle"}),
    "solar_azimuth": (
        "SOLAR_AZIMUTH_ANGLE",
        "f4",
        {"units": "degree", "standard_name": "solar_azimuth_angle", "long_name": "solar azimuth"},
    ),
    "altitude": (
        "SPACECRAFT_ALTITUDE",
        "f4",
        {"units": "km", "long_name": "spacecraft altitude"},
    ),
}
_CLOCK = "SPACECRAFT_CLOCK_COUNT"
_VARIABLES = {"radiance": "RAD", "qa": "QA", "raw": "RAW"}
_ATTRS: dict[str, dict[str, Any]] = {
    "reflectance": {"units": "1", "long_name": "reflectance"},
    "radiance": {"units": "W m-2 um-1 sr-1", "long_name": "spectral radiance"},
    "qa": {
        "units": "1",
        "long_name": "quality assessment word",
        "comment": "flags are named after where they were observed, see lunarray.sp.QA_FLAGS",
    },
    "raw": {"units": "1", "long_name": "raw digital number"},
}
#: What messages call these files.
_PRODUCT = "SP products"
_TARGET_CHUNK_BYTES = 16 * 2**20
_CHUNK_BYTES_PER_VALUE = 4


@dataclass(frozen=True, slots=True)
class _Array:
    """One spectral array of one file: where it is, and how its samples become values."""

    offset: int
    lines: int
    samples: int
    dtype: str
    scale: float
    add: float

    @property
    def end(self) -> int:
        return self.offset + self.lines * self.samples * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class _Product:
    """What is read from one product when it is opened: all that is small."""

    path: str
    size: int
    mtime_ns: int
    product_id: str
    version: str
    orbit: int
    wavelength: np.ndarray
    detector_sizes: tuple[int, ...]
    arrays: dict[str, _Array]
    ancillary: dict[str, np.ndarray]
    time: np.ndarray

    @property
    def rows(self) -> int:
        return int(self.time.size)


class _Reader:
    """One variable of many files as one array-like of shape (observation, wavelength) that reads what it is asked
    for."""

    ndim = 2

    def __init__(self, products: list[_Product], field: str, dtype: str, token: str) -> None:
        self.paths = [p.path for p in products]
        self.arrays = [p.arrays[field] for p in products]
        self.starts = np.concatenate([[0], np.cumsum([p.rows for p in products])])
        self.dtype = np.dtype(dtype)
        self.shape = (int(self.starts[-1]), self.arrays[0].samples)
        self._token = (field, dtype, token)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("lunarray.sp._Reader", *self._token)

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        # A reversed slice comes when Dask merges an indexing into the reading.
        index = np.atleast_1d(np.arange(self.shape[0])[rows])
        block = np.empty((index.size, self.shape[1]), self.dtype)
        which = np.searchsorted(self.starts, index, side="right") - 1
        for i in np.unique(which):
            here = np.flatnonzero(which == i)
            local = index[here] - self.starts[i]
            first, last = int(local.min()), int(local.max()) + 1
            values = _read_rows(self.paths[i], self.arrays[i], first, last, self.dtype)
            block[here] = values[local - first]
        block = block[:, columns]
        return block[0] if np.ndim(np.arange(self.shape[0])[rows]) == 0 else block


def _read_rows(path: str, array: _Array, first: int, last: int, dtype: np.dtype) -> np.ndarray:
    """Rows first:last of a spectral array, scaled; stored zeros become NaN in floating-point output."""
    stored = np.dtype(array.dtype)
    count = (last - first) * array.samples
    try:
        with open(path, "rb") as stream:
            stream.seek(array.offset + first * array.samples * stored.itemsize)
            values = np.fromfile(stream, stored, count)
    except OSError as error:
        raise ProductFormatError(
            f"cannot be read any more ({error.strerror or error})",
            where=path,
            remedy="Open the products again with open_sp",
        ) from error
    if values.size != count:
        raise ProductFormatError(
            f"truncated since it was opened: {os.path.getsize(path)} bytes, {array.end} are needed",
            where=path,
            remedy="Fetch the product again, then open it again with open_sp",
        )
    values = values.reshape(-1, array.samples)
    if dtype.kind != "f":
        return values.astype(dtype)
    scaled = (values * array.scale + array.add).astype(dtype)
    # No lunar signal is 0: stored zeros are the "no value" of the product (they carry QA 296).
    scaled[values == 0] = np.nan
    return scaled


# ---- finding files ----
def find_products(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files meant by a path, a folder, a glob pattern, or an iterable of these, in the order given; a pattern or
    folder sorted by name.

    A pattern or folder contributes its ``.spc`` files, and those ``.lbl`` whose ``.spc`` is not there (to be
    reported, not passed over). The ``.lbl`` and ``.spc`` of one product count once.
    """
    files = find_files(paths, (".spc", ".lbl"), _PRODUCT)
    stems = [os.path.abspath(path.with_suffix("")) for path in files]
    data = {stem for path, stem in zip(files, stems, strict=True) if path.suffix.lower() == ".spc"}
    found: dict[str, Path] = {}
    for path, stem in zip(files, stems, strict=True):
        if path.suffix.lower() != ".lbl" or stem not in data:
            found.setdefault(stem, path)
    return list(found.values())


def _beside(path: Path, name: str) -> Path | None:
    """The file called `name` in the folder of `path`, whatever the case of its letters."""
    exact = path.with_name(name)
    if exact.exists():
        return exact
    lowered = name.lower()
    return next((p for p in path.parent.iterdir() if p.name.lower() == lowered), None)


# ---- reading labels ----
def read_label(path: str | os.PathLike[str]) -> tuple[LabelObject, Path, Path]:
    """The label that describes a product, with the file it is in and the file of the data.

    Parameters
    ----------
    path : path
        A ``.spc`` (label attached, or detached beside it) or a ``.lbl``.

    Returns
    -------
    label : LabelObject
    label_path, data_path : Path
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".spc", ".lbl"):
        raise ProductFormatError(
            "neither a .spc nor a .lbl file",
            where=path,
            remedy="Give KAGUYA SP Level 2C products",
        )
    try:
        with open(path, "rb") as stream:
            head = stream.read(MAX_LABEL_BYTES)
    except OSError as error:
        raise ProductFormatError(
            f"cannot be read ({error.strerror or error})", where=path, remedy="Check the path"
        ) from error
    label_path, data_path = path, path
    if suffix == ".spc" and not head.startswith(b"PDS_VERSION_ID"):
        beside = _beside(path, path.stem + ".lbl")
        if beside is None:
            raise ProductFormatError(
                "no label: none at its beginning and no .lbl beside it",
                where=path,
                remedy=f"Put {path.stem}.lbl into the same folder (version 03 comes as two files)",
            )
        label_path = beside
        head = label_path.read_bytes()[:MAX_LABEL_BYTES]
    label = parse_label(head.decode("latin-1"), str(label_path))
    if suffix == ".lbl":
        pointers = (v for k, v in label.keywords.items() if k.startswith("^SP_SPECTRUM"))
        named = next((pointer_value(v, "SP_SPECTRUM", str(path)).file for v in pointers), None)
        # Renamed pairs are accepted: the data file called as the label is, where the one it names is missing.
        found = (named and _beside(path, named)) or _beside(path, path.stem + ".spc")
        if found is None:
            raise ProductFormatError(
                f"its data file {named or path.stem + '.spc'} is missing",
                where=path,
                remedy="Put the .spc into the same folder as the label",
            )
        data_path = found
    return label, label_path, data_path


def _check_is_sp_l2c(label: LabelObject, where: str) -> None:
    words = {k: (text_value(v) or "").upper() for k, v in label.keywords.items()}
    wrong = None
    if "SELENE" not in words.get("MISSION_NAME", "SELENE"):
        wrong = f"mission {words['MISSION_NAME']}"
    elif words.get("INSTRUMENT_ID", "") != "SP":
        wrong = f"instrument {words.get('INSTRUMENT_ID') or 'unknown'}"
    elif words.get("TARGET_NAME", "") != "MOON":
        wrong = f"target {words.get('TARGET_NAME') or 'unknown'}"
    elif words.get("PROCESS_VERSION_ID", "") != "L2C":
        wrong = f"processing level {words.get('PROCESS_VERSION_ID') or 'unknown'}"
    if wrong:
        raise ProductFormatError(
            f"not a KAGUYA SP Level 2C product of the Moon: its label says {wrong}",
            where=where,
            remedy="Give Level 2C products of the Spectral Profiler (SP_2C_*.spc)",
        )


def _object(label: LabelObject, name: str, where: str) -> tuple[LabelObject, Pointer]:
    child, pointer = label.child(name), label.keywords.get(f"^{name}")
    if child is None or pointer is None:
        raise ProductFormatError(
            f"the label has no {name} (OBJECT or pointer)",
            where=where,
            remedy="Only Level 2C products of versions 02 and 03 are read",
        )
    return child, pointer_value(pointer, name, where)


def _count(obj: LabelObject, key: str, where: str) -> int:
    value = number_value(obj.keywords.get(key))
    if value is None or value < 0 or value != int(value):
        raise ProductFormatError(
            f"{key} of {obj.name} is {obj.keywords.get(key)}",
            where=where,
            remedy="Fetch the product again",
        )
    return int(value)


def _spectral_array(label: LabelObject, name: str, where: str, *, scaled: bool) -> _Array:
    obj, pointer = _object(label, f"SP_SPECTRUM_{name}", where)
    bits = number_value(obj.keywords.get("SAMPLE_BITS"))
    dtype = numpy_dtype(
        obj.keywords.get("SAMPLE_TYPE"), None if bits is None else bits / 8, obj.name, where
    )
    scale, add = (number_value(obj.keywords.get(k)) for k in ("SCALING_FACTOR", "OFFSET"))
    if scaled and (scale is None or not scale > 0):
        raise ProductFormatError(
            f"SCALING_FACTOR of {obj.name} is {obj.keywords.get('SCALING_FACTOR')}",
            where=where,
            remedy="Fetch the product again",
        )
    return _Array(
        pointer.offset,
        _count(obj, "LINES", where),
        _count(obj, "LINE_SAMPLES", where),
        dtype.str,
        1.0 if scale is None else scale,
        add or 0.0,
    )


def _ancillary_table(
    obj: LabelObject, data: bytes, where: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The ancillary columns that are kept (by our names), and the spacecraft clock (s)."""
    rows, row_bytes = _count(obj, "ROWS", where), _count(obj, "ROW_BYTES", where)
    wanted = {column for column, _, _ in _ANCILLARY.values()} | {_CLOCK}
    names, formats, offsets = [], [], []
    for column in obj.objects:
        name = text_value(column.keywords.get("NAME"))
        if column.name != "COLUMN" or name not in wanted:
            continue
        size = _count(column, "BYTES", where)
        start = _count(column, "START_BYTE", where) - 1
        if start < 0 or start + size > row_bytes:
            raise ProductFormatError(
                f"column {name} lies outside its row of {row_bytes} bytes",
                where=where,
                remedy="Fetch the product again",
            )
        names.append(name)
        formats.append(numpy_dtype(column.keywords.get("DATA_TYPE"), size, name, where))
        offsets.append(start)
    missing = sorted(wanted - set(names))
    if missing:
        raise ProductFormatError(
            f"the ancillary table has no column {', '.join(missing)}",
            where=where,
            remedy="Only Level 2C products of versions 02 and 03 are read",
        )
    dtype = np.dtype(
        {"names": names, "formats": formats, "offsets": offsets, "itemsize": row_bytes}
    )
    table = np.frombuffer(data, dtype, rows)
    kept = {ours: table[column].astype(kind) for ours, (column, kind, _) in _ANCILLARY.items()}
    return kept, table[_CLOCK].astype("f8")


def _times(start: str | None, clock: np.ndarray, where: str) -> np.ndarray:
    """UTC of each observation: START_TIME of the label plus the clock counted from the first observation."""
    try:
        begin = dt.datetime.fromisoformat((start or "").rstrip("Z"))
    except ValueError:
        raise ProductFormatError(
            f"START_TIME is {start}", where=where, remedy="Fetch the product again"
        ) from None
    if not clock.size:
        return np.empty(0, "M8[ns]")
    nanoseconds = np.round((clock - clock[0]) * 1e9)
    times = np.datetime64(begin, "ns") + np.nan_to_num(nanoseconds).astype("m8[ns]")
    times[~np.isfinite(nanoseconds)] = np.datetime64("NaT")
    return times


def _read_product(path: Path, fields: dict[str, str]) -> _Product:
    """Open one product: label, ancillary table and wavelengths. `fields` maps our variables to SP_SPECTRUM_<name>."""
    label, label_path, data_path = read_label(path)
    where = str(label_path)
    _check_is_sp_l2c(label, where)
    wave = _spectral_array(label, "WAV", where, scaled=True)
    arrays = {
        ours: _spectral_array(label, theirs, where, scaled=ours != "raw")
        for ours, theirs in fields.items()
    }
    table, table_pointer = _object(label, "ANCILLARY_AND_SUPPLEMENT_DATA", where)
    rows = _count(table, "ROWS", where)
    for ours, array in arrays.items():
        if (array.lines, array.samples) != (rows, wave.samples):
            raise ProductFormatError(
                f"SP_SPECTRUM_{fields[ours]} has {array.lines} x {array.samples} samples, "
                f"the tables have {rows} x {wave.samples}",
                where=where,
                remedy="Fetch the product again",
            )
    table_bytes = rows * _count(table, "ROW_BYTES", where)
    needed = max(a.end for a in (wave, *arrays.values()))
    needed = max(needed, table_pointer.offset + table_bytes)
    with open(data_path, "rb") as stream:
        status = os.fstat(stream.fileno())
        if status.st_size < needed:
            raise ProductFormatError(
                f"truncated: {status.st_size} bytes, the label needs {needed}",
                where=data_path,
                remedy="Fetch the product again",
            )
        stream.seek(table_pointer.offset)
        ancillary, clock = _ancillary_table(table, stream.read(table_bytes), where)
    wavelength = _read_rows(str(data_path), wave, 0, 1, np.dtype("f8"))[0]
    sizes = tuple(_count(label, f"{d}_BAND_NUMBER", where) for d in ("VIS", "N1", "N2"))
    if sum(sizes) != wavelength.size:
        raise ProductFormatError(
            f"{wavelength.size} wavelengths, but {sizes} channels of VIS, NIR1 and NIR2",
            where=where,
            remedy="Fetch the product again",
        )
    for name in ("lat", "lon", "incidence", "emission", "phase"):
        limit = {"lat": 90.0, "lon": 360.0}.get(name, 180.0)
        bad = ~(np.abs(ancillary[name]) <= limit)
        ancillary[name][bad] = np.nan
    ancillary["lon"] = wrap_longitude(ancillary["lon"])
    return _Product(
        path=str(data_path),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        product_id=text_value(label.keywords.get("PRODUCT_ID")) or data_path.stem,
        version=text_value(label.keywords.get("PRODUCT_VERSION_ID")) or "unknown",
        orbit=_count(label, "REVOLUTION_NUMBER", where),
        # Stored in tenths of a nanometre; as float32 they are then equal to sp.WAVELENGTHS_160.
        wavelength=np.round(wavelength, 1).astype("f4"),
        detector_sizes=sizes,
        arrays=arrays,
        ancillary=ancillary,
        time=_times(text_value(label.keywords.get("START_TIME")), clock, where),
    )


def _same_wavelengths(first: _Product, other: _Product) -> str | None:
    same = np.array_equal(first.wavelength, other.wavelength)
    return None if same else f"its wavelengths are not those of {first.path}"


# ---- opening ----
def _observation_chunks(rows: list[int], samples: int, chunks: Any) -> tuple[int, ...]:
    """Observations per chunk; a file is never split."""
    if chunks == "file":
        target = 1
    elif chunks == "auto":
        target = max(1, _TARGET_CHUNK_BYTES // (samples * _CHUNK_BYTES_PER_VALUE))
    elif isinstance(chunks, int) and not isinstance(chunks, bool) and chunks > 0:
        target = chunks
    else:
        raise InputError(
            f"chunks={chunks!r}",
            where="open_sp",
            remedy="Give 'auto', 'file', a positive number of observations, or None to load",
        )
    sizes: list[int] = []
    current = 0
    for n in rows:
        if current and current + n > target:
            sizes.append(current)
            current = 0
        current += n
    if current or not sizes:
        sizes.append(current)
    return tuple(sizes)


def open_sp(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    reflectance: Literal["REF1", "REF2"] = "REF1",
    chunks: Literal["auto", "file"] | int | None = "auto",
    errors: Literal["raise", "skip"] = "raise",
    raw: bool = False,
    max_workers: int | None = None,
) -> xr.Dataset:
    """Open KAGUYA Spectral Profiler Level 2C products as one lazy dataset.

    Products of version 02 (PDS3 label attached) and 03 (label beside the data) are read, and told apart by what
    their labels say. Labels and the small tables of position and geometry are read now, the spectra when they are
    computed.

    Parameters
    ----------
    paths : path, folder, glob pattern, or iterable of these
        ``.spc`` files or their ``.lbl``. Observations come in the order of `paths`; those of a folder or pattern
        sorted by file name.
    reflectance : {"REF1", "REF2"}
        Which of the product's two reflectances to take: photometrically corrected to 30/0/30 degrees with the
        function for highlands (``REF1``) or for maria (``REF2``).
    chunks : {"auto", "file"}, int or None
        Dask chunks along ``observation``: ``"auto"`` puts as many whole files into a chunk as make 16 MB,
        ``"file"`` one file, a number about as many observations, never splitting a file. None loads everything now.
    errors : {"raise", "skip"}
        What to do with a file that cannot be read as what it should be: raise an error that names it, or leave it
        out with a warning and a record in ``attrs["skipped_files"]``.
    raw : bool
        Add the raw digital numbers as ``raw``.
    max_workers : int, optional
        Threads that read labels.

    Returns
    -------
    xarray.Dataset
        ``reflectance``, ``radiance`` (W m-2 um-1 sr-1), both (observation, wavelength) float32, NaN where the
        product stores 0, and ``qa`` (uint16; see `lunarray.sp.QA_FLAGS`). Coordinates: ``wavelength`` (nm, float32;
        VIS, NIR1, NIR2 one after the other, hence not monotonic), ``detector``, and per observation ``lat``,
        ``lon`` (degrees, longitude in [-180, 180)), ``incidence``, ``emission``, ``phase``, ``solar_azimuth``
        (degrees), ``altitude`` (km), ``time``, ``orbit``, ``file``.

    Raises
    ------
    InputError
        If nothing matches `paths`, or an argument is not one of those above.
    ProductFormatError
        If a file is truncated, has another or no label, or another level, instrument or target; also at compute
        time if a file has been truncated or removed since. With ``errors="skip"`` only if no file can be read.

    References
    ----------
    Yamamoto, S., et al., 2011. Preflight and in-flight calibration of the Spectral Profiler on board SELENE
    (Kaguya). IEEE Transactions on Geoscience and Remote Sensing 49, 4660-4676.
    """
    import xarray as xr
    from dask.base import tokenize

    if reflectance not in ("REF1", "REF2"):
        raise InputError(
            f"reflectance={reflectance!r}", where="open_sp", remedy="Give 'REF1' or 'REF2'"
        )
    fields = {"reflectance": reflectance, **_VARIABLES}
    if not raw:
        del fields["raw"]
    files = find_products(paths)
    products, skipped = read_all(
        files,
        lambda path: _read_product(path, fields),
        _PRODUCT,
        errors=errors,
        check=_same_wavelengths,
        workers=max_workers,
    )
    warn_skipped(skipped, len(files), _PRODUCT)

    first = products[0]
    rows = [p.rows for p in products]
    token = tokenize([(os.path.abspath(p.path), p.mtime_ns, p.size) for p in products], fields)
    sizes = None if chunks is None else _observation_chunks(rows, first.wavelength.size, chunks)
    variables = {}
    for name in fields:
        dtype = "f4" if name in ("reflectance", "radiance") else "u2"
        data = lazy_array(_Reader(products, name, dtype, token), sizes, f"sp-{name}-{token}")
        variables[name] = (("observation", "wavelength"), data, dict(_ATTRS[name]))
    variables["reflectance"][2].update(
        sp_reflectance=reflectance,
        photometric_geometry="30 0 30",
        comment="incidence, emission, phase (degrees) to which the product's photometric correction refers",
    )
    coords: dict[str, Any] = {
        "wavelength": (
            "wavelength",
            first.wavelength,
            {
                "units": "nm",
                "standard_name": "radiation_wavelength",
                "long_name": "wavelength",
            },
        ),
        "detector": (
            "wavelength",
            np.repeat(["VIS", "NIR1", "NIR2"], first.detector_sizes),
            {"long_name": "detector"},
        ),
        "time": (
            "observation",
            np.concatenate([p.time for p in products]),
            {"standard_name": "time", "long_name": "time of observation (UTC)"},
        ),
        "orbit": (
            "observation",
            np.repeat(np.array([p.orbit for p in products], "i4"), rows),
            {"long_name": "revolution number"},
        ),
        # Objects: every observation of a file refers to one and the same string.
        "file": (
            "observation",
            np.repeat(np.array([os.path.basename(p.path) for p in products], object), rows),
            {"long_name": "product file"},
        ),
    }
    for name, (_, _, described) in _ANCILLARY.items():
        values = np.concatenate([p.ancillary[name] for p in products])
        coords[name] = ("observation", values, described)
    attrs: dict[str, Any] = {
        "mission": "SELENE (KAGUYA)",
        "instrument": "Spectral Profiler (SP)",
        "processing_level": "L2C",
        "product_version": ", ".join(sorted({p.version for p in products})),
    }
    if len(products) == 1:
        attrs["product_id"] = first.product_id
    if skipped:
        attrs["skipped_files"] = skipped
    return stamp(
        xr.Dataset(variables, coords, attrs),
        f"open_sp, {len(products)} products, {reflectance}",
        source=_source(products),
    )


def _source(products: list[_Product]) -> str:
    ids = [p.product_id for p in products]
    listed = ", ".join(ids) if len(ids) <= 5 else f"{len(ids)} products, {ids[0]} ... {ids[-1]}"
    return f"KAGUYA (SELENE) Spectral Profiler Level 2C: {listed}"
