"""FITS files of instruments, which break the standard: opened leniently, with errors that name them."""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lunarray.errors import InputError, ProductFormatError
from lunarray.readers import is_member, read_whole

#: Axes of an array and columns of a table, by the standard.
MOST_AXES = 999
_BLOCK = 2880
#: What astropy takes for the end of a header, be it followed by what should not be there.
_END = re.compile(rb"END(?![A-Z0-9_-])")
_SIZE = re.compile(rb"(BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS) *= *([-+]?\d{1,20}) *(?:/|$)")


def damaged(problem: str, where: str | os.PathLike[str]) -> ProductFormatError:
    """The error of a file whose faults another copy of it may not have."""
    return ProductFormatError(problem, where=where, remedy="Fetch it again")


@contextmanager
def quiet_astropy() -> Iterator[None]:
    """No warnings of astropy about cards that are mended; entered outside of threads, for filters are global."""
    from astropy.utils.exceptions import AstropyWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        yield


def check_structure(path: str | os.PathLike[str]) -> None:
    """Raise ProductFormatError where headers state sizes that no file has, on which astropy would work for ever.

    Sizes alone are looked at: what is wrong otherwise, or no FITS file, is for astropy to say.
    """
    if is_member(os.fspath(path)):
        _check_stream(io.BytesIO(read_whole(path)[0]), path)
        return
    with open(path, "rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else open(path, "rb") as stream:
        _check_stream(stream, path)


def _check_stream(stream: Any, path: str | os.PathLike[str]) -> None:
    size = stream.seek(0, os.SEEK_END)
    at = 0
    while at < size:
        stream.seek(at)
        sizes, length = _sizes(stream)
        if not length:
            return
        number, fields = sizes.get("NAXIS", 0), sizes.get("TFIELDS", 0)
        least = min(value for name, value in sizes.items() if name != "BITPIX")
        if least < 0 or max(number, fields) > MOST_AXES:
            raise damaged(f"a header states impossible sizes ({sizes})", path)
        axes = [sizes.get(f"NAXIS{i + 1}", 0) for i in range(number)]
        values = sizes.get("PCOUNT", 0) + math.prod(axes) if axes else 0
        data = abs(sizes.get("BITPIX", 8)) // 8 * sizes.get("GCOUNT", 1) * values
        # Rows are counted by NAXIS2 even where NAXIS itself is gone.
        longest = max(n for name, n in sizes.items() if name.startswith("NAXIS"))
        needed = at + length + max(data, longest)
        if needed > size + _BLOCK:
            raise damaged(f"truncated: {size} bytes, its headers need {needed}", path)
        at += length - (-data // _BLOCK) * _BLOCK


def _sizes(stream: Any) -> tuple[dict[str, int], int]:
    """Sizes that a header states, and its length; 0 where it has no end."""
    sizes: dict[str, int] = {"NAXIS": 0}
    length = 0
    while len(block := stream.read(_BLOCK)) == _BLOCK:
        length += _BLOCK
        for card in (block[i : i + 80] for i in range(0, _BLOCK, 80)):
            if match := _SIZE.match(card):
                sizes[match[1].decode()] = int(match[2])
            elif _END.match(card):
                return sizes, length
    return sizes, 0


@contextmanager
def open_fits(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a FITS file, or a member of a zip, leniently; what astropy raises comes out as ProductFormatError."""
    from astropy.io import fits

    try:
        check_structure(path)
        file = io.BytesIO(read_whole(path)[0]) if is_member(os.fspath(path)) else path
        with quiet_astropy(), fits.open(file, memmap=False, ignore_missing_end=True) as hdus:
            len(hdus)  # reads all headers now, with their faults
            yield hdus
    except FileNotFoundError as error:
        raise InputError("no such file", where=path, remedy="Check the path") from error
    except (OSError, ValueError, TypeError, KeyError, IndexError, fits.VerifyError) as error:
        if isinstance(error, InputError):
            raise
        raise damaged(
            f"not a FITS file of the kind expected, or a damaged one ({error})", path
        ) from error


def find_table(
    hdus: Any,
    path: str | os.PathLike[str],
    names: tuple[str, ...],
    columns: tuple[str, ...],
    remedy: str = "Give a file of that kind",
) -> Any:
    """The first table that has `columns`, one called by the first of `names` if there is any, then by the second."""
    wanted = {name.upper() for name in columns}
    tables = [
        hdu
        for hdu in hdus
        if wanted <= {c.upper() for c in getattr(getattr(hdu, "columns", None), "names", ())}
        and hdu.data is not None
    ]
    for name in names:
        for hdu in tables:
            if hdu.name.upper().strip() == name:
                return hdu
    if tables:
        return tables[0]
    raise ProductFormatError(
        f"it has no table {' or '.join(names)} with the columns {', '.join(columns)}",
        where=path,
        remedy=remedy,
    )
