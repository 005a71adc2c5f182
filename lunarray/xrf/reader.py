"""How X-ray spectra of Chandrayaan-2, and fluxes of the Sun, are known."""

from __future__ import annotations

import os
import re

from lunarray.readers import Reader, backend, beginning, has_numbers, head, is_zip

_CARD = re.compile(rb"INSTRUME= '([A-Z0-9_ ]+?) *'")
_TIMED = re.compile(rb"STARTIME= '\d{4}-\d\d-\d\d[T ]")
_MEMBER = re.compile(rb"ch2_cla_l1_\d{8}T[^/]*\.(?:fits|fit|pha)")
#: Science and operational files of GOES-R, those of GOES 8 to 15 among the former; other products have no fluxes.
_FLUXES = re.compile(r"(sci|dn)_(xrsf-l2-(flx1s|avg1m)|gxrs-l2-irrad)_")
_EXTENSION = re.compile(rb"EXTNAME = '([A-Z0-9_ ]+?) *'")


def _head(path: str) -> bytes:
    """First bytes of a file, unpacked where gzip packed them."""
    return beginning(head(path))


def _fits(path: str) -> tuple[set[bytes], set[bytes]]:
    """Instruments and extensions that a FITS file names at its beginning."""
    data = _head(path)
    if not data.startswith(b"SIMPLE  ="):
        return set(), set()
    return set(_CARD.findall(data)), set(_EXTENSION.findall(data))


def _is(path: str, instrument: bytes, extension: bytes) -> bool:
    instruments, extensions = _fits(path)
    return instrument in instruments and extension in extensions


def _is_class(path: str, *, timed: bool) -> bool:
    """Whether a file is a spectrum of CLASS, and says when it was taken, as frames do and backgrounds do not."""
    if is_zip(path):
        # Names of members stand before each of them.
        return timed and bool(_MEMBER.search(head(path)))
    return _is(path, b"CLASS", b"SPECTRUM") and bool(_TIMED.search(_head(path))) == timed


def _is_table_model(path: str) -> bool:
    data = head(path)
    return data.startswith(b"SIMPLE  =") and b"HDUCLAS1= 'XSPEC TABLE MODEL'" in data


def _is_solar_model(path: str) -> bool:
    return path.lower().endswith(SOLAR.extensions) and has_numbers(path, 3, size=512)


CLASS = Reader(
    name="ch2-class",
    description="Chandrayaan-2 CLASS, Level 1 X-ray spectra",
    opens="lunarray.xrf:open_class",
    guess=lambda path: _is_class(path, timed=True),
    extensions=(".fits", ".fit", ".pha", ".fits.gz", ".zip"),
    many=True,
)
BACKGROUND = Reader(
    name="ch2-class-background",
    description="Chandrayaan-2 CLASS, a background spectrum of no time in particular",
    opens="lunarray.xrf:read_background",
    guess=lambda path: _is_class(path, timed=False),
    extensions=(".fits", ".pha"),
    could=lambda path: False,
)
XSM = Reader(
    name="ch2-xsm",
    description="Chandrayaan-2 XSM, a spectrum of the Sun",
    opens="lunarray.xrf.xsm:read_xsm_spectrum",
    guess=lambda path: _is(path, b"CH2_XSM", b"SPECTRUM"),
    extensions=(".pha",),
    could=lambda path: False,
)
XSM_LIGHT_CURVE = Reader(
    name="ch2-xsm-lc",
    description="Chandrayaan-2 XSM, light curve of Level 2",
    opens="lunarray.xrf.xsm:read_light_curve",
    guess=lambda path: _is(path, b"CH2_XSM", b"RATE"),
    extensions=(".lc",),
)
GOES = Reader(
    name="goes-xrs",
    description="GOES-R XRS, X-ray flux of the Sun",
    opens="lunarray.xrf.goes:open_goes_xrs",
    guess=lambda path: bool(_FLUXES.match(os.path.basename(path))) and head(path, 4) == b"\x89HDF",
    extensions=(".nc",),
    many=True,
    could=lambda path: False,
)
SOLAR = Reader(
    name="solar-model",
    description="Solar spectra as text: energy, half width, photon flux",
    opens="lunarray.xrf:open_solar_models",
    guess=lambda path: False,
    extensions=(".txt", ".dat"),
    many=True,
    could=_is_solar_model,
)
TABLE_MODEL = Reader(
    name="xspec-table-model",
    description="Additive XSPEC table models, such as scattered sunlight",
    opens="lunarray.xrf.table_models:read_table_model",
    guess=_is_table_model,
    extensions=(".fits", ".mod"),
    could=lambda path: False,
)

ClassBackend = backend(CLASS)
BackgroundBackend = backend(BACKGROUND)
XsmBackend = backend(XSM)
XsmLightCurveBackend = backend(XSM_LIGHT_CURVE)
GoesBackend = backend(GOES)
SolarBackend = backend(SOLAR)
TableModelBackend = backend(TABLE_MODEL)
