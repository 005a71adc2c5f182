"""How products of the Spectral Profiler, and maps of spectra, are known."""

from __future__ import annotations

import os
import re

from lunarray.readers import Reader, backend, has_numbers, label_head

_IS_SP = re.compile(rb'\bINSTRUMENT_ID\s*=\s*"?SP"?\s')
_CUBE_BYTES = 8 * 160 * 360 * 720


def _is_sp(path: str) -> bool:
    if not path.lower().endswith((".spc", ".lbl")):
        return False
    label = label_head(path)
    return b"SELENE" in label and bool(_IS_SP.search(label))


def _is_sp_cube(path: str) -> bool:
    return path.lower().endswith(".img") and os.path.getsize(path) == _CUBE_BYTES


def _has_wavelengths(path: str) -> bool:
    """Whether a raster has several bands that say their wavelengths."""
    from lunarray.sp.cubes import has_wavelengths

    return path.lower().endswith(CUBE.extensions) and has_wavelengths(path)


def _is_photometry(path: str) -> bool:
    return path.lower().endswith(".txt") and has_numbers(path, 11, size=1024, begin=1)


SP = Reader(
    name="kaguya-sp",
    description="KAGUYA (SELENE) Spectral Profiler, Level 2C",
    opens="lunarray.sp:open_sp",
    guess=_is_sp,
    extensions=(".spc", ".lbl"),
    many=True,
    could=lambda path: path.lower().endswith(".spc"),
)
SP_CUBE = Reader(
    name="kaguya-sp-cube",
    description="Global 0.5 degree cube of the Spectral Profiler",
    opens="lunarray.sp:open_sp_cube",
    guess=_is_sp_cube,
    extensions=(".img",),
    could=lambda path: False,
)
CUBE = Reader(
    name="cube",
    description="Mosaics of spectra: rasters of many bands that say their wavelengths",
    opens="lunarray.sp:open_cube",
    guess=lambda path: False,
    extensions=(".tif", ".tiff", ".cub", ".img", ".dat", ".bsq", ".bil", ".bip"),
    could=_has_wavelengths,
)
PHOTOMETRY = Reader(
    name="kaguya-sp-photometry",
    description="Photometric parameters of the Spectral Profiler",
    opens="lunarray.sp:read_photometric_parameters",
    guess=lambda path: False,
    extensions=(".txt",),
    could=_is_photometry,
)

SpBackend = backend(SP)
SpCubeBackend = backend(SP_CUBE)
CubeBackend = backend(CUBE)
PhotometryBackend = backend(PHOTOMETRY)
