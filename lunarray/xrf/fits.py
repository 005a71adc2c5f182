"""FITS files of instruments, which break the standard: opened leniently, with errors that name them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lunarray.errors import InputError, ProductFormatError


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


@contextmanager
def open_fits(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a FITS file leniently; what astropy raises comes out as ProductFormatError."""
    from astropy.io import fits

    try:
        with quiet_astropy(), fits.open(path, memmap=False, ignore_missing_end=True) as hdus:
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
