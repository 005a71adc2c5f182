"""One CLASS Level 1 file: its header, mended where it breaks the FITS standard, and its counts."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lunarray.engine.files import FileId, file_id
from lunarray.errors import InputError, ProductFormatError
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


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What is read from one file when it is opened: all but the counts."""

    path: str
    file: FileId
    table: CountsTable
    first_channel: int
    start: np.datetime64
    end: np.datetime64
    exposure: float
    gain: float
    detectors: int
    geometry: tuple[float, ...]
    corner_lat: tuple[float, ...]
    corner_lon: tuple[float, ...]


# ---------- headers
def _value(header: Any, key: str) -> Any:
    """Value of a card, mended where it is not FITS standard (CLASS files write EMISNANG with a small e); None if
    absent."""
    if key not in header:
        return None
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


def _spectrum_header(stream: Any, where: Path) -> tuple[Any, int]:
    """Header of the SPECTRUM extension and the offset of its table."""
    from astropy.io import fits

    while True:
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
        here = stream.tell()
        if str(_value(header, "EXTNAME")).strip().upper() == "SPECTRUM":
            return header, here
        stream.seek(here + -(-_data_bytes(header) // _BLOCK) * _BLOCK)


def _data_bytes(header: Any) -> int:
    number = int(_value(header, "NAXIS") or 0)
    if not 0 <= number <= MOST_AXES:
        raise ValueError(f"{number} axes")
    axes = [int(_value(header, f"NAXIS{i + 1}") or 0) for i in range(number)]
    if not axes:
        return 0
    groups, heap = int(_value(header, "GCOUNT") or 1), int(_value(header, "PCOUNT") or 0)
    # A size below 0 would lead back to this same header, for ever.
    if min(*axes, groups, heap) < 0:
        raise ValueError(f"axes of {axes}, {groups} groups, {heap} bytes of heap")
    return abs(int(_value(header, "BITPIX") or 8)) // 8 * groups * (heap + math.prod(axes))


_TFORM = re.compile(r"^\s*(\d*)([LXBIJKAEDCMPQ])")
_TYPES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_WIDTHS = dict(zip("LBIJKAEDCMPQ", (1, 1, 2, 4, 8, 1, 4, 8, 8, 16, 8, 16), strict=True))


def _counts_table(header: Any, offset: int, where: Path) -> CountsTable:
    """Find the COUNTS column."""
    at = 0
    for number in range(1, int(_value(header, "TFIELDS") or 0) + 1):
        form = _TFORM.match(str(_value(header, f"TFORM{number}")))
        if form is None:
            break
        repeat, kind = int(form.group(1) or 1), form.group(2)
        if str(_value(header, f"TTYPE{number}")).strip().upper() == "COUNTS":
            if kind not in _TYPES or repeat != 1:
                break
            if at + _WIDTHS[kind] > int(_value(header, "NAXIS1") or 0):
                break
            scale, zero = (_value(header, f"{key}{number}") for key in ("TSCAL", "TZERO"))
            return CountsTable(
                offset,
                int(_value(header, "NAXIS2") or 0),
                int(_value(header, "NAXIS1") or 0),
                at,
                _TYPES[kind],
                1.0 if scale is None else float(scale),
                float(zero or 0.0),
            )
        at += -(-repeat // 8) if kind == "X" else repeat * _WIDTHS[kind]
    raise ProductFormatError(
        "its SPECTRUM extension has no COUNTS column of numbers",
        where=where,
        remedy="Give spectra in counts (HDUCLAS3 COUNT), one in each file",
    )


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
    if path.name.lower().endswith(".gz"):
        raise ProductFormatError(
            "compressed files cannot be read in part", where=path, remedy="Decompress it (gunzip)"
        )
    with open(path, "rb") as stream:
        status = os.fstat(stream.fileno())
        header, offset = _spectrum_header(stream, path)
    instrument = str(_value(header, "INSTRUME") or "").strip().upper()
    if instrument != "CLASS":
        raise ProductFormatError(
            f"a spectrum of {instrument or 'an unknown instrument'}, not of CLASS",
            where=path,
            remedy=f"Give {PRODUCT}; XSM spectra are read by lunarray.xrf.xsm.read_xsm_spectrum",
        )
    table = _counts_table(header, offset, path)
    needed = offset + table.rows * table.stride
    if status.st_size < needed or table.rows < 1:
        raise damaged(f"truncated: {status.st_size} bytes, its header needs {needed}", path)
    start, end = (_moment(_value(header, key)) for key in ("STARTIME", "ENDTIME"))
    exposure = _float(_value(header, "EXPOSURE"))
    if timed and (np.isnat(start) or np.isnat(end) or end < start):
        raise ProductFormatError(
            f"it does not say when it was taken: STARTIME {_value(header, 'STARTIME')}, "
            f"ENDTIME {_value(header, 'ENDTIME')}",
            where=path,
            remedy="Give frames with ISO times; a background is read by lunarray.xrf.read_background",
        )
    if not 0 < exposure < np.inf:
        raise damaged(f"EXPOSURE is {_value(header, 'EXPOSURE')}", path)
    gain = _float(_value(header, "GAIN")) / 1e3
    geometry = []
    for card, _, limit, _ in GEOMETRY.values():
        number = _float(_value(header, card))
        geometry.append(number if abs(number) <= limit else float("nan"))
    corners = []
    for card, limit in (("LAT", 90.0), ("LON", 360.0)):
        numbers = [_float(_value(header, f"V{i}_{card}")) for i in range(4)]
        corners.append(tuple(n if abs(n) <= limit else float("nan") for n in numbers))
    return Spectrum(
        path=str(path),
        file=file_id(path),
        table=table,
        first_channel=int(
            _float(_value(header, "TLMIN1")) if _value(header, "TLMIN1") is not None else 0
        ),
        start=start,
        end=end,
        exposure=exposure,
        gain=gain if gain > 0 else _FULL_SCALE / table.rows,
        detectors=_detector_mask(_value(header, "SCD_USED")),
        geometry=tuple(geometry),
        corner_lat=corners[0],
        corner_lon=corners[1],
    )


# ---------- counts
def read_counts(path: str, table: CountsTable) -> np.ndarray:
    """Counts of one file, as float32."""
    try:
        with open(path, "rb") as stream:
            stream.seek(table.offset)
            data = stream.read(table.rows * table.stride)
    except OSError as error:
        raise ProductFormatError(
            f"cannot be read any more ({error.strerror or error})",
            where=path,
            remedy="Open the files again with open_class",
        ) from error
    if len(data) < table.rows * table.stride:
        raise ProductFormatError(
            "truncated since it was opened", where=path, remedy="Fetch it again, then open it again"
        )
    column: Any = {"names": ["c"], "formats": [table.dtype], "offsets": [table.column]}
    row = np.dtype(column | {"itemsize": table.stride})
    counts = np.frombuffer(data, row)["c"].astype("f8")
    return (counts * table.scale + table.zero).astype("f4")
