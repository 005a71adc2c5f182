"""The files of one M3 observation: which there are, what is in them, and reading their lines."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lunarray.engine.files import file_id
from lunarray.errors import InputError, ProductFormatError
from lunarray.readers.labels import (
    LabelObject,
    beside,
    damaged,
    number_value,
    numpy_dtype,
    read_label,
    text_value,
)

#: M3G20090207T090254_V03_RDN.IMG: observation, version, what it is, and whatever a user has put behind it.
NAME = re.compile(r"(M3[GT]\d{8}T\d{6})_(V\d\d)_([A-Z0-9]+)(.*)\.(IMG|LBL|HDR|TAB)$", re.I)
#: Bands and type of the files beside the spectra.
SHAPES = {"LOC": (3, "<f8"), "OBS": (10, "<f4"), "SUP": (3, "<f4")}
_LEVELS = {
    "RDN": "L1B", "LOC": "L1B", "OBS": "L1B", "TIM": "L1B", "L1B": "L1B", "RFL": "L2", "SUP": "L2", "L2": "L2",
}  # fmt: skip
_SPECTRA = {"L1B": "RDN", "L2": "RFL"}
#: ENVI's numbers of the types that M3 is written in.
_ENVI_TYPES = {"4": "f4", "5": "f8"}
_REMEDY = "Give an L1B or L2 product of M3: its label, or its _RDN.IMG or _RFL.IMG"


@dataclass(frozen=True)
class Image:
    """Lines of one file: band by band in each line."""

    path: str
    lines: int
    bands: int
    samples: int
    dtype: str
    offset: int = 0
    invalid: float = -999.0

    @property
    def end(self) -> int:
        size = self.lines * self.bands * self.samples * np.dtype(self.dtype).itemsize
        return self.offset + size

    def check(self) -> Image:
        """Itself, if the file is as large as it must be."""
        size = os.path.getsize(self.path)
        if size < self.end:
            raise damaged(f"truncated: {size} bytes, {self.end} are needed", self.path)
        return self


class Lines:
    """Some bands of an image as one array-like (line, band, sample) that reads what it is asked for."""

    ndim = 3

    def __init__(self, image: Image, bands: np.ndarray, dtype: str, add: float = 0.0) -> None:
        self.image, self.bands, self.add = image, np.asarray(bands), add
        self.dtype = np.dtype(dtype)
        self.shape = (image.lines, self.bands.size, image.samples)
        self.path, self.file = os.path.abspath(image.path), file_id(image.path)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # Not where it lies: the same bytes elsewhere are the same lines.
        own = (
            repr(replace(self.image, path="")),
            tuple(self.bands.tolist()),
            self.dtype.str,
            self.add,
        )
        return ("lunarray.maps.Lines", *own, self.file.size, self.file.digest)

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        image = self.image
        shape = (image.lines, image.bands, image.samples)
        try:
            stored = np.memmap(self.path, image.dtype, "r", image.offset, shape)
        except (OSError, ValueError) as error:
            raise ProductFormatError(
                f"truncated or removed since it was opened ({error})",
                where=image.path,
                remedy="Fetch the product again, then open it again",
            ) from error
        self.file.require(self.path)
        lines, bands, samples = key
        block = np.asarray(stored[lines][:, self.bands[bands]][..., samples])
        # -999 is written in one precision; beyond it nothing is near.
        bad = (block == image.invalid) | ~np.isfinite(block)
        return np.where(bad, np.nan, block + self.add if self.add else block).astype(self.dtype)


@dataclass(frozen=True)
class Product:
    """What belongs to one observation at one level: the spectra, and what was found beside them."""

    name: str
    level: str
    spectra: Image
    label: LabelObject | None
    header: dict[str, str]
    others: dict[str, Image]
    times: Path | None


def find_product(path: str | os.PathLike[str]) -> Product:
    """Everything that belongs to a file of an observation."""
    path = Path(os.path.expanduser(os.fspath(path)))
    if not path.is_file():
        raise InputError("no such file", where=path, remedy="Check the path")
    match = NAME.match(path.name)
    level = None if match is None else _LEVELS.get(match.group(3).upper())
    if match is None or level is None:
        raise ProductFormatError("no file of M3, by its name", where=path, remedy=_REMEDY)
    name, version, _, tail, _ = match.groups()
    label_path = beside(path, f"{name}_{version}_{level}{tail}.LBL")
    label = None if label_path is None else _checked_label(label_path)
    kind = _SPECTRA[level]
    pointed = None if label is None else _pointed(label, kind)
    data = (pointed and beside(path, pointed)) or beside(path, f"{name}_{version}_{kind}{tail}.IMG")
    if data is None:
        missing = pointed or f"{name}_{version}_{kind}.IMG"
        raise ProductFormatError(
            f"its spectra, {missing}, are missing",
            where=path,
            remedy="Put them into the same folder",
        )
    header_path = beside(path, f"{name}_{version}_{kind}.HDR") or beside(path, f"{data.stem}.HDR")
    header = {} if header_path is None else read_header(header_path)
    if label is not None:
        spectra = _of_label(label, kind, data)
    elif header:
        spectra = _of_header(header, data)
    else:
        raise ProductFormatError(
            f"neither {name}_{version}_{level}.LBL nor {data.stem}.HDR is beside it",
            where=data,
            remedy="Put one of them into the same folder",
        )
    others = {}
    for other in ("LOC", "OBS", *(("SUP",) if level == "L2" else ())):
        found = _other(path, label, other, name, tail)
        if found is not None:
            bands, dtype = SHAPES[other]
            others[other] = replace(
                spectra, path=os.fspath(found), bands=bands, dtype=dtype, offset=0
            ).check()
    times = _other(path, label, "TIM", name, tail)
    return Product(name, level, spectra.check(), label, header, others, times)


def _checked_label(path: Path) -> LabelObject:
    label = read_label(path)
    for what, key, right in (("instrument", "INSTRUMENT_ID", "M3"), ("target", "TARGET_NAME", "MOON")):  # fmt: skip
        value = (text_value(label.keywords.get(key)) or "unknown").upper()
        if value != right:
            raise ProductFormatError(
                f"no product of M3: its label says {what} {value}", where=path, remedy=_REMEDY
            )
    return label


def _pointed(label: LabelObject, kind: str) -> str | None:
    """Name of the file that holds an object of a label."""
    pointer = "UTC_TIME_TABLE" if kind == "TIM" else f"{kind}_IMAGE"
    for holder in (label, *label.objects):
        value = holder.keywords.get(f"^{pointer}")
        match = re.search(r"[\w.\-]+\.\w+", value or "")
        if match:
            return match.group(0)
    return None


def _other(path: Path, label: LabelObject | None, kind: str, name: str, tail: str) -> Path | None:
    """A file that goes with the spectra: here, or where the archive puts those of the other level."""
    pointed = None if label is None else _pointed(label, kind)
    folders = [path.parent, *(path.parent.parent / f for f in ("L1B", "l1b", "L2", "l2"))]
    for folder in folders:
        if pointed and (found := beside(folder / path.name, pointed)):
            return found
        wanted = re.compile(
            rf"{name}_V\d\d_{kind}{re.escape(tail)}\.{'TAB' if kind == 'TIM' else 'IMG'}$", re.I
        )
        try:
            names = sorted(p.name for p in folder.iterdir() if wanted.match(p.name))
        except OSError:
            continue
        if names:
            return folder / names[-1]
    return None


def _of_label(label: LabelObject, kind: str, data: Path) -> Image:
    obj = label.find(f"{kind}_IMAGE")
    if obj is None:
        raise damaged(f"its label has no object {kind}_IMAGE", data)

    def count(key: str) -> int:
        value = number_value(obj.keywords.get(key))
        if value is None or value < 1 or value != int(value):
            raise damaged(f"{key} of {obj.name} is {obj.keywords.get(key)}", data)
        return int(value)

    order = (text_value(obj.keywords.get("BAND_STORAGE_TYPE")) or "LINE_INTERLEAVED").upper()
    if order != "LINE_INTERLEAVED":
        raise damaged(f"its bands are stored {order}, not LINE_INTERLEAVED", data)
    dtype = numpy_dtype(
        obj.keywords.get("SAMPLE_TYPE"), count("SAMPLE_BITS") / 8, obj.name, os.fspath(data)
    )
    if dtype.kind != "f":
        raise damaged(f"its samples are {dtype}, not floating-point", data)
    invalid = number_value(label.keywords.get("INVALID_CONSTANT"))
    return Image(
        os.fspath(data), count("LINES"), count("BANDS"), count("LINE_SAMPLES"), dtype.str,
        invalid=-999.0 if invalid is None else invalid,
    )  # fmt: skip


def _of_header(header: dict[str, str], data: Path) -> Image:
    try:
        kind = _ENVI_TYPES[header["data type"]]
        order = ">" if header.get("byte order", "0") == "1" else "<"
        lines, bands, samples = (int(header[k]) for k in ("lines", "bands", "samples"))
        offset = int(header.get("header offset", "0"))
    except (KeyError, ValueError) as error:
        raise damaged(f"its header says no shape or type ({error})", data) from error
    if header.get("interleave", "bil").lower() != "bil" or min(lines, bands, samples) < 1:
        raise damaged("its header says another order of bands than bil", data)
    return Image(os.fspath(data), lines, bands, samples, f"{order}{kind}", offset)


def read_header(path: Path) -> dict[str, str]:
    """Keys, in lower case, and values of a header of ENVI; of a value in braces what is between them."""
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        raise damaged(f"cannot be read ({error.strerror or error})", path) from error
    if not text.lstrip().upper().startswith("ENVI"):
        raise damaged("no header of ENVI (it does not begin with ENVI)", path)
    pairs = re.findall(r"^[ \t]*([^=\n{}]+?)[ \t]*=[ \t]*(\{[^}]*\}|[^\n]*)", text, re.M)
    return {key.lower(): value.strip().strip("{}").strip() for key, value in pairs}


def read_times(path: Path, lines: int) -> np.ndarray:
    """UTC of the middle of each line (datetime64[ns])."""
    try:
        rows = path.read_text(encoding="ascii").split("\n")
        times = [row[7:33].strip() for row in rows if row.strip()]
        minutes = np.array([text[:16] for text in times], "M8[m]")
        # Apart, for the sixtieth second that a minute of 2008 has.
        seconds = np.array([text[17:] for text in times], np.float64)
        found = minutes.astype("M8[ns]") + np.round(seconds * 1e9).astype("m8[ns]")
    except (OSError, ValueError) as error:
        raise damaged(f"no table of times ({error})", path) from error
    if found.size != lines:
        raise damaged(f"{found.size} times for {lines} lines", path)
    return found
