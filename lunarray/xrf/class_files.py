"""One CLASS Level 1 file: its header, mended where it breaks the FITS standard, and its counts."""

from __future__ import annotations

import functools
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lunarray.engine.files import FileId
from lunarray.errors import InputError, ProductFormatError
from lunarray.readers import read_whole
from lunarray.xrf.fits import MOST_AXES, damaged

#: Swept charge devices of CLASS. The effective area is that of all of them; SCD_USED says which a spectrum is of.
CLASS_DETECTORS = 16

#: Full scale of the CLASS spectrum (keV): 2048 channels of 13.5 eV or 1024 of 27 eV. Added files have no GAIN card.
_FULL_SCALE = 27.648

#: What is read here, in messages.
PRODUCT = "CLASS Level 1 files"
_BLOCK = 2880

#: Our name -> (card, dtype, largest possible magnitude, attributes).
GEOMETRY: dict[str, tuple[str, str, float, dict[str, str]]] = {
    ours: (
        card,
        dtype,
        most,
        {"units": units, "long_name": text} | ({"standard_name": cf} if cf else {}),
    )
    for ours, card, dtype, most, units, text, cf in (
        ("lat", "BORE_LAT", "f8", 90.0, "degrees_north", "boresight latitude", "latitude"),
        ("lon", "BORE_LON", "f8", 360.0, "degrees_east", "boresight longitude", "longitude"),
        (
            "incidence",
            "SOLARANG",
            "f4",
            180.0,
            "degree",
            "solar angle from the surface normal",
            "solar_zenith_angle",
        ),
        ("emission", "EMISNANG", "f4", 180.0, "degree", "emission angle", "sensor_zenith_angle"),
        ("phase", "PHASEANG", "f4", 180.0, "degree", "phase angle", None),
        ("altitude", "SAT_ALT", "f4", 1e6, "km", "spacecraft altitude", None),
        ("temperature", "TEMP", "f4", 1e3, "degree_Celsius", "detector temperature", None),
    )
}


@dataclass(frozen=True, slots=True)
class CountsTable:
    """Where the COUNTS column of a spectrum is, and how its rows are stored."""

    offset: int
    rows: int
    stride: int
    column: int
    dtype: str
    scale: float = 1.0
    zero: float = 0.0
    quality: int = -1  # where the QUALITY column is; -1 for none
    quality_dtype: str = ""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What is read from one file when it is opened: all but the counts."""

    path: str
    file: FileId
    table: CountsTable
    first_channel: int
    start: np.datetime64
    end: np.datetime64
    exposure: float  # s, times AREASCAL
    background_scale: float  # BACKSCAL
    bad: tuple[int, ...]  # rows that QUALITY says are bad
    gain: float
    detectors: int
    geometry: tuple[float, ...]
    corner_lat: tuple[float, ...]
    corner_lon: tuple[float, ...]


# ---------- headers
#: Cards that are read. Others, and there are many, are not even looked at.
_WANTED = {
    f"{name:<8}".encode(): name
    for name in (
        "BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "TFIELDS", "EXTNAME", "INSTRUME", "EXPOSURE",
        "AREASCAL", "BACKSCAL", "STARTIME", "ENDTIME", "GAIN", "SCD_USED", "TLMIN1", "QUALITY",
        *(f"{key}{n}" for key in ("NAXIS", "TFORM", "TTYPE", "TSCAL", "TZERO") for n in range(1, 10)),
        *(card for card, *_ in GEOMETRY.values()),
        *(f"V{n}_{axis}" for n in range(4) for axis in ("LAT", "LON")),
    )
}  # fmt: skip
_NAMES = frozenset(_WANTED.values())
#: A card as the standard has it, and as CLASS files write EMISNANG, with a small e: text, number or truth.
_CARD = re.compile(
    rb"= +(?:'((?:[^']|'')*)'|([-+]?[0-9]+)|([-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[EeDd]))(?:[EeDd][-+]?[0-9]+)?)"
    rb"|([TF])) *(?:/.*)?$"
)
_LAST = b"END" + b" " * 77


def _plain_header(data: bytes, at: int) -> tuple[dict[str, Any], int] | None:
    """Wanted cards of a header that keeps to the standard, and where its data begin; None where it does not.

    astropy takes 3 ms for a header, and there are ten thousand a day.
    """
    if data[at : at + 10] not in (b"SIMPLE  = ", b"XTENSION= "):
        return None
    end = data.find(_LAST, at)
    while end >= 0 and (end - at) % 80:
        end = data.find(_LAST, end + 1)
    if end < 0 or not data[at:end].isascii() or b"CONTINUE" in data[at:end]:
        return None
    header: dict[str, Any] = {}
    for i in range(at, end, 80):
        name = _WANTED.get(data[i : i + 8])
        if name is None or name in header:
            continue
        value = header[name] = _card_value(data[i + 8 : i + 80])
        if value is None:
            return None
    if header.get("NAXIS", 0) > 9 or header.get("TFIELDS", 0) > 9:
        return None
    return header, at + -(-(end + 80 - at) // _BLOCK) * _BLOCK


@functools.lru_cache(maxsize=4096)
def _card_value(card: bytes) -> Any:
    """Value of a card, from its "=" on; None where it does not keep to the standard. Most are alike in all files."""
    match = _CARD.match(card)
    if match is None:
        return None
    text, integer, number, truth = match.groups()
    if text is not None:
        return text.replace(b"''", b"'").rstrip().decode("ascii")
    if integer is not None:
        return int(integer)
    if number is not None:
        return float(number.upper().replace(b"D", b"E"))
    return truth == b"T"


def _mended(header: Any, key: str) -> Any:
    """Value of a card of an astropy header, mended where it is not FITS standard."""
    from astropy.io.fits.verify import VerifyError

    try:
        return header[key]
    except VerifyError:
        card = header.cards[key]
    try:
        card.verify("silentfix")
        return card.value
    except (VerifyError, ValueError):
        # What astropy cannot mend is the number before the comment, if there is one.
        match = re.match(r"\s*([-+0-9.eEdD]+)", card.image[10:])
        return _float(match.group(1).replace("D", "E").replace("d", "e")) if match else None


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _spectrum_header(data: bytes, where: Path) -> tuple[Any, int]:
    """Header of the SPECTRUM extension and the offset of its table."""
    at = 0
    while True:
        plain = _plain_header(data, at)
        header, here = _astropy_header(data, at, where) if plain is None else plain
        if str(header.get("EXTNAME")).strip().upper() == "SPECTRUM":
            return header, here
        at = here + -(-_data_bytes(header) // _BLOCK) * _BLOCK


def _astropy_header(data: bytes, at: int, where: Path) -> tuple[Any, int]:
    """A header that is out of the ordinary, and where its data begin."""
    from astropy.io import fits

    stream = io.BytesIO(data)
    stream.seek(at)
    try:
        header = fits.Header.fromfile(stream, endcard=True, padding=False)
    except EOFError:
        raise ProductFormatError(
            "it has no SPECTRUM extension", where=where, remedy=f"Give {PRODUCT}"
        ) from None
    except (OSError, ValueError, fits.VerifyError) as error:
        raise damaged(f"not a FITS file, or a damaged one ({error})", where) from error
    if not ({"SIMPLE", "XTENSION"} & set(header[:1].keys())):
        raise damaged("not a FITS file, or a damaged one", where)
    # Header.fromfile leaves the stream at the end of the last block that it read.
    kept = [
        k for k in header if k in _NAMES or re.fullmatch(r"(NAXIS|TFORM|TTYPE|TSCAL|TZERO)\d+", k)
    ]
    return {key: _mended(header, key) for key in kept}, stream.tell()


def _data_bytes(header: dict[str, Any]) -> int:
    number = int(header.get("NAXIS") or 0)
    if not 0 <= number <= MOST_AXES:
        raise ValueError(f"{number} axes")
    axes = [int(header.get(f"NAXIS{i + 1}") or 0) for i in range(number)]
    if not axes:
        return 0
    groups, heap = int(header.get("GCOUNT") or 1), int(header.get("PCOUNT") or 0)
    # A size below 0 would lead back to this same header, for ever.
    if min(*axes, groups, heap) < 0:
        raise ValueError(f"axes of {axes}, {groups} groups, {heap} bytes of heap")
    return abs(int(header.get("BITPIX") or 8)) // 8 * groups * (heap + math.prod(axes))


_TFORM = re.compile(r"^\s*(\d*)([LXBIJKAEDCMPQ])")
_TYPES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_WIDTHS = dict(zip("LBIJKAEDCMPQ", (1, 1, 2, 4, 8, 1, 4, 8, 8, 16, 8, 16), strict=True))


Columns = dict[str, tuple[int, str, float, float]]


def _columns(header: dict[str, Any]) -> Columns:
    """Byte offset, type, scale and zero of the columns of single numbers of a table, by name."""
    at, found = 0, {}
    for number in range(1, int(header.get("TFIELDS") or 0) + 1):
        form = _TFORM.match(str(header.get(f"TFORM{number}")))
        if form is None:
            break
        repeat, kind = int(form.group(1) or 1), form.group(2)
        name = str(header.get(f"TTYPE{number}")).strip().upper()
        inside = at + _WIDTHS.get(kind, 1) <= int(header.get("NAXIS1") or 0)
        if kind in _TYPES and repeat == 1 and inside and name not in found:
            scale, zero = (header.get(f"{key}{number}") for key in ("TSCAL", "TZERO"))
            scaled = (1.0 if scale is None else float(scale), float(zero or 0.0))
            found[name] = (at, _TYPES[kind], *scaled)
        at += -(-repeat // 8) if kind == "X" else repeat * _WIDTHS[kind]
    return found


def _counts_table(
    header: dict[str, Any], columns: Columns, offset: int, where: Path, exposure: float
) -> CountsTable:
    """Find the COUNTS column, or that of rates, which are counts by the exposure."""
    if "COUNTS" in columns:
        at, kind, scale, zero = columns["COUNTS"]
    elif "RATE" in columns:
        at, kind, scale, zero = columns["RATE"]
        scale, zero = scale * exposure, zero * exposure
    else:
        raise ProductFormatError(
            "its SPECTRUM extension has no column COUNTS, nor RATE, of numbers",
            where=where,
            remedy="Give spectra with one row a channel, one spectrum in each file",
        )
    rows, stride = (int(header.get(f"NAXIS{k}") or 0) for k in (2, 1))
    quality = columns.get("QUALITY", (-1, ""))[:2]
    return CountsTable(offset, rows, stride, at, kind, scale, zero, *quality)


def _scale(
    name: str,
    header: dict[str, Any],
    columns: Columns,
    data: bytes,
    table: CountsTable,
    where: Path,
) -> float:
    """OGIP's AREASCAL or BACKSCAL, shares of the area and of the background: a card, or a column of one number."""
    if name in columns:
        at, kind, scale, zero = columns[name]
        values = np.unique(_column(data, table, at, kind) * scale + zero)
        if values.size != 1:
            raise ProductFormatError(
                f"another {name} in each channel ({values.min():g} to {values.max():g})",
                where=where,
                remedy=f"Scale the counts yourself, or give a spectrum with one {name}",
            )
        number = float(values[0])
    else:
        card = header.get(name)
        number = 1.0 if card is None else _float(card)
    if not 0 < number < np.inf:
        raise damaged(f"{name} is {number}", where)
    return number


def _detector_mask(used: Any) -> int:
    """Bits of the detectors in a SCD_USED card; 0 where it does not say."""
    mask = 0
    for word in str(used or "").split(","):
        if word.strip().isdigit() and int(word) < CLASS_DETECTORS:
            mask |= 1 << int(word)
    return mask


def _moment(value: Any) -> np.datetime64:
    try:
        return np.datetime64(str(value).strip().rstrip("Z").replace(" ", "T"), "ns")
    except ValueError:
        return np.datetime64("NaT", "ns")


def read_spectrum(path: Path, *, timed: bool = True) -> Spectrum:
    """Read all but the counts of a file; `timed`: whether it must say when it was taken."""
    from astropy.io.fits.verify import VerifyError

    try:
        return _parse_spectrum(path, timed)
    except (ValueError, TypeError, ArithmeticError, LookupError, VerifyError) as error:
        if isinstance(error, InputError):
            raise
        # Bytes that make no sense as numbers or sizes.
        raise damaged(f"a damaged header ({error})", path) from error


def _parse_spectrum(path: Path, timed: bool) -> Spectrum:
    data, file = read_whole(path)
    header, offset = _spectrum_header(data, path)
    instrument = str(header.get("INSTRUME") or "").strip().upper()
    if instrument != "CLASS":
        raise ProductFormatError(
            f"a spectrum of {instrument or 'an unknown instrument'}, not of CLASS",
            where=path,
            remedy=f"Give {PRODUCT}; XSM spectra are read by lunarray.xrf.xsm.read_xsm_spectrum",
        )
    exposure = _float(header.get("EXPOSURE"))
    columns = _columns(header)
    table = _counts_table(header, columns, offset, path, exposure)
    needed = offset + table.rows * table.stride
    if len(data) < needed or table.rows < 1:
        raise damaged(f"truncated: {len(data)} bytes, its header needs {needed}", path)
    start, end = (_moment(header.get(key)) for key in ("STARTIME", "ENDTIME"))
    if timed and (np.isnat(start) or np.isnat(end) or end < start):
        raise ProductFormatError(
            f"it does not say when it was taken: STARTIME {header.get('STARTIME')}, "
            f"ENDTIME {header.get('ENDTIME')}",
            where=path,
            remedy="Give frames with ISO times; a background is read by lunarray.xrf.read_background",
        )
    if not 0 < exposure < np.inf:
        raise damaged(f"EXPOSURE is {header.get('EXPOSURE')}", path)
    gain = _float(header.get("GAIN")) / 1e3
    geometry = []
    for card, _, limit, _ in GEOMETRY.values():
        number = _float(header.get(card))
        geometry.append(number if abs(number) <= limit else float("nan"))
    corners = []
    for card, limit in (("LAT", 90.0), ("LON", 360.0)):
        numbers = [_float(header.get(f"V{i}_{card}")) for i in range(4)]
        corners.append(tuple(n if abs(n) <= limit else float("nan") for n in numbers))
    return Spectrum(
        path=str(path),
        file=file,
        table=table,
        first_channel=int(_float(header.get("TLMIN1")) if header.get("TLMIN1") is not None else 0),
        start=start,
        end=end,
        exposure=exposure * _scale("AREASCAL", header, columns, data, table, path),
        background_scale=_scale("BACKSCAL", header, columns, data, table, path),
        bad=_bad_channels(header, data, table),
        gain=gain if gain > 0 else _FULL_SCALE / table.rows,
        detectors=_detector_mask(header.get("SCD_USED")),
        geometry=tuple(geometry),
        corner_lat=corners[0],
        corner_lon=corners[1],
    )


# ---------- counts
def _column(data: bytes, table: CountsTable, at: int, dtype: str) -> np.ndarray:
    """A column of the table as float64, as its numbers are stored."""
    column: Any = {"names": ["c"], "formats": [dtype], "offsets": [at]}
    row = np.dtype(column | {"itemsize": table.stride})
    return np.frombuffer(data, row, table.rows, table.offset)["c"].astype("f8")


#: OGIP's words for the quality of a channel: good, bad, dubious, bad by the user's choice.
_MARKS = (0, 1, 2, 5)


def _bad_channels(header: dict[str, Any], data: bytes, table: CountsTable) -> tuple[int, ...]:
    """Rows that are marked as bad, by OGIP's QUALITY: a column, or a card for all channels alike."""
    if table.quality >= 0:
        marks = _column(data, table, table.quality, table.quality_dtype)
        # A column of that name with other words is not OGIP's.
        return tuple(np.flatnonzero(marks).tolist()) if np.isin(marks, _MARKS).all() else ()
    return tuple(range(table.rows)) if header.get("QUALITY") else ()


def read_counts(spectrum: Spectrum) -> np.ndarray:
    """Counts of one file, as float32; NaN in bad channels. It must hold what it held when it was opened."""
    path, table = spectrum.path, spectrum.table
    try:
        data, file = read_whole(path)
    except OSError as error:
        raise ProductFormatError(
            f"cannot be read any more ({error.strerror or error})",
            where=path,
            remedy="Open the files again with open_class",
        ) from error
    if file != spectrum.file:
        how = "truncated" if file.size < spectrum.file.size else "changed"
        raise ProductFormatError(
            f"{how} since it was opened ({spectrum.file.size} bytes then, {file.size} now)",
            where=path,
            remedy="Open it again, and compute again from what it holds now",
        )
    counts = _column(data, table, table.column, table.dtype) * table.scale + table.zero
    if spectrum.bad:
        counts[list(spectrum.bad)] = np.nan
    return counts.astype("f4")
