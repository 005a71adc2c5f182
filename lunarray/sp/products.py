"""One SP Level 2C product: its label, its table of positions and geometry, and where its spectra are."""

from __future__ import annotations

import datetime as dt
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lunarray.engine.files import FileId, file_id
from lunarray.errors import ProductFormatError
from lunarray.geo import wrap_longitude
from lunarray.readers.labels import (
    MAX_LABEL_BYTES,
    LabelObject,
    Pointer,
    beside,
    damaged,
    not_read,
    number_value,
    numpy_dtype,
    parse_label,
    pointer_value,
    text_value,
)

#: What messages call these files.
PRODUCT = "SP products"

#: Rows of the ancillary table: our name -> (label's name, dtype, attributes).
ANCILLARY: dict[str, tuple[str, str, dict[str, str]]] = {
    ours: (
        theirs,
        dtype,
        {"units": units, "long_name": text} | ({"standard_name": cf} if cf else {}),
    )
    for ours, theirs, dtype, units, text, cf in (
        ("lat", "CENTER_LATITUDE", "f8", "degrees_north", "footprint latitude", "latitude"),
        ("lon", "CENTER_LONGITUDE", "f8", "degrees_east", "footprint longitude", "longitude"),
        ("incidence", "INCIDENCE_ANGLE", "f4", "degree", "incidence angle", "solar_zenith_angle"),
        ("emission", "EMISSION_ANGLE", "f4", "degree", "emission angle", "sensor_zenith_angle"),
        ("phase", "PHASE_ANGLE", "f4", "degree", "phase angle", None),
        (
            "solar_azimuth",
            "SOLAR_AZIMUTH_ANGLE",
            "f4",
            "degree",
            "solar azimuth",
            "solar_azimuth_angle",
        ),
        ("altitude", "SPACECRAFT_ALTITUDE", "f4", "km", "spacecraft altitude", None),
    )
}
_CLOCK = "SPACECRAFT_CLOCK_COUNT"


@dataclass(frozen=True, slots=True)
class SpectralArray:
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
class Product:
    """What is read from one product when it is opened: all that is small."""

    path: str
    file: FileId
    product_id: str
    version: str
    orbit: int
    wavelength: np.ndarray
    detector_sizes: tuple[int, ...]
    arrays: dict[str, SpectralArray]
    ancillary: dict[str, np.ndarray]
    time: np.ndarray

    @property
    def rows(self) -> int:
        return int(self.time.size)


def read_rows(
    path: str, array: SpectralArray, first: int, last: int, dtype: np.dtype
) -> np.ndarray:
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
    # No lunar signal is 0: stored zeros are where the signal was less than the dark (bit 4 of the QA word).
    scaled[values == 0] = np.nan
    return scaled


def read_label(path: str | os.PathLike[str]) -> tuple[LabelObject, Path, Path]:
    """The label that describes a product, with the file it is in and the file of the data.

    `path`: a ``.spc`` (label attached, or detached beside it) or a ``.lbl``.
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
        found = beside(path, path.stem + ".lbl")
        if found is None:
            raise ProductFormatError(
                "no label: none at its beginning and no .lbl beside it",
                where=path,
                remedy=f"Put {path.stem}.lbl into the same folder (version 03 comes as two files)",
            )
        label_path = found
        head = label_path.read_bytes()[:MAX_LABEL_BYTES]
    label = parse_label(head.decode("latin-1"), str(label_path))
    if suffix == ".lbl":
        pointers = (v for k, v in label.keywords.items() if k.startswith("^SP_SPECTRUM"))
        named = next((pointer_value(v, "SP_SPECTRUM", str(path)).file for v in pointers), None)
        # Renamed pairs are accepted: the data file called as the label is, where the one it names is missing.
        found = (named and beside(path, named)) or beside(path, path.stem + ".spc")
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
    for what, key, right in (
        ("instrument", "INSTRUMENT_ID", "SP"),
        ("target", "TARGET_NAME", "MOON"),
        ("processing level", "PROCESS_VERSION_ID", "L2C"),
    ):
        if wrong is None and words.get(key, "") != right:
            wrong = f"{what} {words.get(key) or 'unknown'}"
    if wrong:
        raise ProductFormatError(
            f"not a KAGUYA SP Level 2C product of the Moon: its label says {wrong}",
            where=where,
            remedy="Give Level 2C products of the Spectral Profiler (SP_2C_*.spc)",
        )


#: Words of a label that say "nothing of the kind"; NONE and N/A are read as nothing at all.
_NONE = ("", "OFF", "NO")
_CALIBRATING = re.compile(r"CAL|LAMP|DARK|TEST|CHECK|NIGHT|DEEP|SPACE")


def _check_sees_ground(label: LabelObject, where: str) -> None:
    """Refuse runs with a lamp and other calibrations, which have the form of an observation and show no ground.

    Both products that were at hand say OBSERVATION_MODE_ID "OBS-NORMAL", CALIBRATION_MODE_ID "NONE" and CAL_LAMP_INFO
    "N/A"; what else these may say was found nowhere. So a mode that does not begin as theirs is refused too.
    """
    words = {
        key: (text_value(label.keywords.get(key)) or "").strip().upper()
        for key in ("OBSERVATION_MODE_ID", "CALIBRATION_MODE_ID", "CAL_LAMP_INFO")
    }
    mode = words.pop("OBSERVATION_MODE_ID")
    ground = mode in _NONE or mode.startswith(("OBS", "NORMAL"))
    said = [] if ground and not _CALIBRATING.search(mode) else [f"OBSERVATION_MODE_ID {mode}"]
    said += [f"{key} {word}" for key, word in words.items() if word not in _NONE]
    if said:
        raise ProductFormatError(
            f"no observation of the ground: its label says {' and '.join(said)}",
            where=where,
            remedy='Leave it out (errors="skip" does), or open it with calibration=True',
        )


def _object(label: LabelObject, name: str, where: str) -> tuple[LabelObject, Pointer]:
    child, pointer = label.child(name), label.keywords.get(f"^{name}")
    if child is None or pointer is None:
        raise not_read(f"the label has no {name} (OBJECT or pointer)", where)
    return child, pointer_value(pointer, name, where)


def _count(obj: LabelObject, key: str, where: str) -> int:
    value = number_value(obj.keywords.get(key))
    if value is None or value < 0 or value != int(value):
        raise damaged(f"{key} of {obj.name} is {obj.keywords.get(key)}", where)
    return int(value)


def _spectral_array(label: LabelObject, name: str, where: str, *, scaled: bool) -> SpectralArray:
    obj, pointer = _object(label, f"SP_SPECTRUM_{name}", where)
    bits = number_value(obj.keywords.get("SAMPLE_BITS"))
    dtype = numpy_dtype(
        obj.keywords.get("SAMPLE_TYPE"), None if bits is None else bits / 8, obj.name, where
    )
    scale, add = (number_value(obj.keywords.get(k)) for k in ("SCALING_FACTOR", "OFFSET"))
    if scaled and (scale is None or not scale > 0):
        raise damaged(
            f"SCALING_FACTOR of {obj.name} is {obj.keywords.get('SCALING_FACTOR')}", where
        )
    return SpectralArray(
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
    wanted = {column for column, _, _ in ANCILLARY.values()} | {_CLOCK}
    names, formats, offsets = [], [], []
    for column in obj.objects:
        name = text_value(column.keywords.get("NAME"))
        if column.name != "COLUMN" or name not in wanted:
            continue
        size = _count(column, "BYTES", where)
        start = _count(column, "START_BYTE", where) - 1
        if start < 0 or start + size > row_bytes:
            raise damaged(f"column {name} lies outside its row of {row_bytes} bytes", where)
        names.append(name)
        formats.append(numpy_dtype(column.keywords.get("DATA_TYPE"), size, name, where))
        offsets.append(start)
    missing = sorted(wanted - set(names))
    if missing:
        raise not_read(f"the ancillary table has no column {', '.join(missing)}", where)
    dtype = np.dtype(
        {"names": names, "formats": formats, "offsets": offsets, "itemsize": row_bytes}
    )
    table = np.frombuffer(data, dtype, rows)
    kept = {ours: table[column].astype(kind) for ours, (column, kind, _) in ANCILLARY.items()}
    return kept, table[_CLOCK].astype("f8")


def _times(start: str | None, clock: np.ndarray, where: str) -> np.ndarray:
    """UTC of each observation: START_TIME of the label plus the clock counted from the first observation."""
    try:
        begin = dt.datetime.fromisoformat((start or "").rstrip("Z"))
    except ValueError:
        raise damaged(f"START_TIME is {start}", where) from None
    if not clock.size:
        return np.empty(0, "M8[ns]")
    nanoseconds = np.round((clock - clock[0]) * 1e9)
    times = np.datetime64(begin, "ns") + np.nan_to_num(nanoseconds).astype("m8[ns]")
    times[~np.isfinite(nanoseconds)] = np.datetime64("NaT")
    return times


def read_product(path: Path, fields: dict[str, str], *, calibration: bool = False) -> Product:
    """Open one product: label, ancillary table and wavelengths. `fields` maps our variables to SP_SPECTRUM_<name>;
    `calibration` lets those through that show no ground."""
    label, label_path, data_path = read_label(path)
    where = str(label_path)
    _check_is_sp_l2c(label, where)
    if not calibration:
        _check_sees_ground(label, where)
    wave = _spectral_array(label, "WAV", where, scaled=True)
    arrays = {
        ours: _spectral_array(label, theirs, where, scaled=ours != "raw")
        for ours, theirs in fields.items()
    }
    table, table_pointer = _object(label, "ANCILLARY_AND_SUPPLEMENT_DATA", where)
    rows = _count(table, "ROWS", where)
    for ours, array in arrays.items():
        if (array.lines, array.samples) != (rows, wave.samples):
            raise damaged(
                f"SP_SPECTRUM_{fields[ours]} has {array.lines} x {array.samples} samples, "
                f"the tables have {rows} x {wave.samples}",
                where,
            )
    table_bytes = rows * _count(table, "ROW_BYTES", where)
    needed = max(a.end for a in (wave, *arrays.values()))
    needed = max(needed, table_pointer.offset + table_bytes)
    with open(data_path, "rb") as stream:
        status = os.fstat(stream.fileno())
        if status.st_size < needed:
            raise damaged(f"truncated: {status.st_size} bytes, the label needs {needed}", data_path)
        stream.seek(table_pointer.offset)
        ancillary, clock = _ancillary_table(table, stream.read(table_bytes), where)
    wavelength = read_rows(str(data_path), wave, 0, 1, np.dtype("f8"))[0]
    sizes = tuple(_count(label, f"{d}_BAND_NUMBER", where) for d in ("VIS", "N1", "N2"))
    if sum(sizes) != wavelength.size:
        raise damaged(
            f"{wavelength.size} wavelengths, but {sizes} channels of VIS, NIR1 and NIR2", where
        )
    for name in ("lat", "lon", "incidence", "emission", "phase"):
        limit = {"lat": 90.0, "lon": 360.0}.get(name, 180.0)
        bad = ~(np.abs(ancillary[name]) <= limit)
        ancillary[name][bad] = np.nan
    ancillary["lon"] = wrap_longitude(ancillary["lon"])
    return Product(
        path=str(data_path),
        file=file_id(data_path),
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
