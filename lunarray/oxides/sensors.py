"""Bands of sensors: tables of centres and widths, and the models of sensors that come with lunarray."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lunarray.errors import InputError

if TYPE_CHECKING:
    from lunarray.engine import ModelSpec

_DATA = Path(__file__).parent / "data"
#: Sensors whose bands come along.
SENSORS = ("m3", "mi", "clementine", "clementine-nir")
_REMEDY = (
    "Give a text file with a line for each band: its centre in nm, and its full width at half maximum where that is "
    f"known; or the name of one that comes along: {', '.join(SENSORS)}"
)
_CENTRE, _WIDTH = re.compile(r"wave|cent|lambda", re.I), re.compile(r"width|fwhm", re.I)


def read_bands(source: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Centres and full widths at half maximum (band,), nm, rising, of a table, or of a sensor that comes along.

    `source`: a file, or one of :data:`SENSORS`. Columns are known by their names (centre, wavelength; fwhm, width), or
    are centres and widths in this order. Without widths, each band is as wide as its neighbours are apart. InputError
    if it is no such table, its wavelengths are not nm, or one comes twice.
    """
    path = _DATA / "bands" / f"{source}.csv" if str(source) in SENSORS else Path(source)
    where = str(source)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"no table of bands ({error})", where=where, remedy=_REMEDY) from error
    lines = [line.strip(" ,;\t") for line in lines if not line.startswith("#")]
    rows = [re.split(r"[,;\t ]+", line) for line in lines if line]
    header = [] if not rows or _numbers(rows[0]) is not None else rows.pop(0)
    numbers = [_numbers(row) for row in rows]
    if not rows:
        raise InputError("no table of bands: no bands", where=where, remedy=_REMEDY)
    for row, found in zip(rows, numbers, strict=True):
        if found is None or len(found) != len(rows[0]):
            fault = f"no table of bands: a line is {' '.join(row)!r}"
            raise InputError(fault, where=where, remedy=_REMEDY)
    table = np.array(numbers, np.float64)
    centre = next((i for i, name in enumerate(header) if _CENTRE.search(name)), 0)
    width = next((i for i, name in enumerate(header) if _WIDTH.search(name) and i != centre), None)
    if not header and table.shape[1] > 1:
        width = 1
    nm = table[:, centre]
    order = np.argsort(nm, kind="stable")
    nm = nm[order]
    fault = ""
    if nm.size < 2:
        fault = "one band is no spectrum"
    elif nm.max() < 100 or nm.min() <= 0:
        fault = f"wavelengths of {nm.min():g}-{nm.max():g}, which are no nm"
    elif not (np.diff(nm) > 0).all():
        fault = f"the band at {nm[int(np.argmin(np.diff(nm)))]:g} nm comes twice"
    elif width is not None and not (table[:, width] > 0).all():
        fault = "a width that is not positive"
    if fault:
        raise InputError(f"no table of bands: {fault}", where=where, remedy=_REMEDY)
    return nm, np.gradient(nm) if width is None else table[order, width]


def _numbers(row: list[str]) -> list[float] | None:
    try:
        return [float(word) for word in row]
    except ValueError:
        return None


def m3_model() -> ModelSpec:
    """The model for the Moon Mineralogy Mapper that comes along."""
    return _model("m3")


def mi_model() -> ModelSpec:
    """The model for Kaguya's Multiband Imager that comes along."""
    return _model("mi")


def _model(name: str) -> ModelSpec:
    from lunarray.oxides.api import oxide_model

    return oxide_model(_DATA / f"{name}.safetensors")
